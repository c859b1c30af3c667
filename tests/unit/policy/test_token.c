/* Tokens against the known answers of spec 09 §28, and globs against the table of §6. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/time.h"
#include "policy/glob.h"
#include "policy/token.h"

#include "base/banned.h"

static const char vector[] =
    "{\"id\":\"11111111-2222-4333-8444-555555555555\",\"resource\":\"mcp://fs:read\","
    "\"permissions\":[\"invoke\"],\"issued_at\":\"2026-01-02T03:04:05Z\","
    "\"expires_at\":\"2026-01-02T04:04:05Z\",\"scope\":\"persistent\","
    "\"issuer\":\"A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=\","
    "\"user_id\":[3,161,7,191,243,206,16,190],"
    "\"approval_audit_id\":\"aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee\",\"single_use\":false,"
    "\"principal\":\"alice\",\"signature\":\"BR/3ACpDpswhMNGccAfLYyhfkZcqSFZ4NunvY1xtG4NyLlo37Bfjpxd"
    "UkNggmzu4u+ezdXMHFNzCNo/9vhFKBQ==\"}";
static const char vector_bytes[] =
    "0210000000111111112222433384445555555555550d0000006d63703a2f2f66733a7265616401000000"
    "06000000696e766f6b65a53557690000000001b5435769000000000a00000070657273697374656e74"
    "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b803a107bff3ce10be"
    "10000000aaaaaaaabbbb4ccc8dddeeeeeeeeeeee0005000000616c696365";
#define VECTOR_NOW (INT64_C(1767323045) * AST_NS_PER_SEC)
#define VECTOR_END (INT64_C(1767326645) * AST_NS_PER_SEC)

static void read_token(const char *text, struct ast_token *ret)
{
    struct ast_err err = AST_ERR_INIT;
    if (ast_token_parse(ast_str_c(text), ret, &err))
        fail_msg("%s: %s", err.msg, text);
}

static void c09_01_c02_57_the_known_token_reproduces(void **state)
{
    (void)state;
    AST_AUTO(ast_token_done) struct ast_token t = { .permission_count = 0 };
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(4096), text = AST_BUF_INIT(4096);
    AST_AUTO(ast_key_done) struct ast_key key = { 0 };
    uint8_t seed[AST_KEY_SEED_BYTES], hash[AST_BLAKE3_BYTES], signature[AST_KEY_SIGNATURE_BYTES];
    char hex[512];

    read_token(vector, &t);
    assert_int_equal(ast_token_signed(&t, &bytes, NULL), AST_OK);
    assert_int_equal(bytes.n, 153);
    ast_hex_encode(bytes.p, bytes.n, hex);
    assert_string_equal(hex, vector_bytes);
    assert_int_equal(ast_token_hash(&t, hash, NULL), AST_OK);
    ast_hex_encode(hash, sizeof hash, hex);
    assert_string_equal(hex, "2e92df7048da845cba5214936c1b4e4f9c090cb946b88a0bc6e112135a833cef");
    assert_int_equal(ast_token_validate(&t, NULL, VECTOR_NOW, 0, NULL), AST_OK);
    assert_int_equal(ast_token_write(&t, &text, NULL), AST_OK);
    assert_string_equal(text.p, vector);

    for (unsigned i = 0; i < sizeof seed; i++)
        seed[i] = (uint8_t)i;
    assert_int_equal(ast_key_from_seed(&key, seed, NULL), AST_OK);
    memcpy(signature, t.signature, sizeof signature);
    memset(t.signature, 0, sizeof t.signature);
    assert_int_equal(ast_token_sign(&t, &key, NULL), AST_OK);
    assert_memory_equal(t.signature, signature, sizeof signature);
}

/* Each changes one field of the known token, which stays readable. */
static void c09_02_each_altered_field_is_a_bad_signature(void **state)
{
    (void)state;
    static const char *const changes[][2] = {
        { "11111111-2222", "11111111-2223" },
        { "fs:read", "fs:rea*" },
        { "[\"invoke\"]", "[\"write\"]" },
        { "[\"invoke\"]", "[\"invoke\",\"write\"]" },
        { "[\"invoke\"]", "[]" },
        { "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z" },
        { "2026-01-02T04:04:05Z", "2026-01-02T05:04:05Z" },
        { "\"2026-01-02T04:04:05Z\"", "null" },
        { "persistent", "session" },
        { "A6EHv", "B6EHv" },
        { "[3,161", "[4,161" },
        { "aaaaaaaa-bbbb", "aaaaaaaa-bbbc" },
        { "false", "true" },
        { "alice", "bob" },
        { "BR/3", "CR/3" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(changes); i++) {
        AST_AUTO(ast_token_done) struct ast_token t = { .permission_count = 0 };
        char text[2048];
        struct ast_err err = AST_ERR_INIT;
        const char *at = strstr(vector, changes[i][0]);
        assert_non_null(at);
        (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - vector), vector, changes[i][1],
                       at + strlen(changes[i][0]));
        read_token(text, &t);
        assert_int_equal(ast_token_validate(&t, NULL, VECTOR_NOW, 0, &err), AST_E_DENIED);
        assert_string_equal(err.msg, "invalid token signature");
    }
}

static void c09_03_single_use_may_be_absent_and_the_principal_may_not(void **state)
{
    (void)state;
    static const char *const members[] = {
        "id",     "resource",          "permissions", "issued_at", "scope",
        "issuer", "approval_audit_id", "user_id",     "principal", "signature"
    };
    AST_AUTO(ast_token_done) struct ast_token t = { .permission_count = 0 };
    char text[2048];
    const char *at = strstr(vector, "\"single_use\":false,");

    (void)snprintf(text, sizeof text, "%.*s%s", (int)(at - vector), vector,
                   at + strlen("\"single_use\":false,"));
    read_token(text, &t);
    assert_false(t.is_single_use);
    assert_int_equal(ast_token_validate(&t, NULL, VECTOR_NOW, 0, NULL), AST_OK);
    for (size_t i = 0; i < AST_ARRAY_LEN(members); i++) {
        AST_AUTO(ast_token_done) struct ast_token none = { .permission_count = 0 };
        struct ast_err err = AST_ERR_INIT;
        char name[64];
        (void)snprintf(name, sizeof name, "\"%s\":", members[i]);
        (void)snprintf(text, sizeof text, "%s", vector);
        strstr(text, name)[1] = '_';
        assert_int_equal(ast_token_parse(ast_str_c(text), &none, &err), AST_E_INVALID);
        assert_non_null(strstr(err.msg, members[i]));
    }
}

static void c09_08_a_token_ends_with_its_expiry_and_skew_is_extra(void **state)
{
    (void)state;
    AST_AUTO(ast_token_done) struct ast_token t = { .permission_count = 0 };
    struct ast_err err = AST_ERR_INIT;

    read_token(vector, &t);
    assert_int_equal(ast_token_validate(&t, NULL, VECTOR_END, 0, NULL), AST_OK);
    assert_int_equal(ast_token_validate(&t, NULL, VECTOR_END + AST_NS_PER_SEC, 0, &err),
                     AST_E_DENIED);
    assert_string_equal(err.msg,
                        "capability token expired: token:11111111-2222-4333-8444-555555555555");
    assert_int_equal(ast_token_validate(&t, NULL, VECTOR_END + 30 * AST_NS_PER_SEC, 30, NULL),
                     AST_OK);
    assert_int_equal(ast_token_validate(&t, NULL, VECTOR_END + 31 * AST_NS_PER_SEC, 30, NULL),
                     AST_E_DENIED);
}

static void issue(const char *pattern, struct ast_token *ret)
{
    static const uint8_t seed[AST_KEY_SEED_BYTES] = { 5 };
    AST_AUTO(ast_key_done) struct ast_key key = { 0 };
    struct ast_principal alice = { 0 };
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_key_from_seed(&key, seed, NULL), AST_OK);
    assert_int_equal(ast_principal_parse(AST_STR("alice"), &alice, NULL), AST_OK);
    if (ast_token_issue_always(&key, &alice, ast_str_c(pattern), AST_TOKEN_PERMISSION_read,
                               &AST_UUID_NIL, 1000, AST_TOKEN_ALWAYS_SECS, ret, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(ast_token_validate(ret, key.public_key, 1000 * AST_NS_PER_SEC, 0, NULL),
                     AST_OK);
    assert_true(ret->expires_ns == 4600 * AST_NS_PER_SEC && ret->is_persistent &&
                !ret->is_single_use);
    assert_memory_equal(ret->user, key.public_key, sizeof ret->user);
}

static void c09_09_parent_segments_never_match_and_are_refused_in_patterns(void **state)
{
    (void)state;
    static const char *const refused[] = { "file:///a/../b", "..", "a/..", "mcp://../x" };
    AST_AUTO(ast_token_done) struct ast_token t = { .permission_count = 0 };
    struct ast_err err = AST_ERR_INIT;

    for (size_t i = 0; i < AST_ARRAY_LEN(refused); i++) {
        char want[256];
        (void)snprintf(want, sizeof want,
                       "invalid resource pattern: %s - path traversal detected: pattern contains "
                       "'..' segment",
                       refused[i]);
        assert_int_equal(ast_token_check_pattern(ast_str_c(refused[i]), &err), AST_E_INVALID);
        assert_string_equal(err.msg, want);
    }
    assert_int_equal(ast_token_check_pattern(AST_STR("a/[b"), &err), AST_E_INVALID);
    assert_string_equal(err.msg, "invalid resource pattern: a/[b - unclosed character class");
    assert_int_equal(ast_token_check_pattern(AST_STR("a/{b\\"), NULL), AST_OK); /* no glob */
    issue("file:///**", &t);
    assert_true(ast_token_grants(&t, AST_STR("file:///a/..b"), AST_TOKEN_PERMISSION_read));
    assert_false(ast_token_grants(&t, AST_STR("file:///a/../b"), AST_TOKEN_PERMISSION_read));
    assert_false(ast_token_grants(&t, AST_STR("file:///a"), AST_TOKEN_PERMISSION_write));
}

static void an_exact_pattern_means_its_text_alone(void **state)
{
    (void)state;
    static const char *const texts[] = { "file:///tmp/*", "file:///a[b]{c,d}\\?", "net://h:1{x}" };
    for (size_t i = 0; i < AST_ARRAY_LEN(texts); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf pattern = AST_BUF_INIT(256);
        AST_AUTO(ast_token_done) struct ast_token t = { .permission_count = 0 };
        assert_int_equal(ast_token_exact(ast_str_c(texts[i]), &pattern, NULL), AST_OK);
        issue(pattern.p, &t);
        assert_true(ast_token_grants(&t, ast_str_c(texts[i]), AST_TOKEN_PERMISSION_read));
        assert_false(ast_token_grants(&t, AST_STR("file:///tmp/x"), AST_TOKEN_PERMISSION_read));
    }
    AST_AUTO(ast_buf_done) struct ast_buf none = AST_BUF_INIT(256);
    assert_int_equal(ast_token_exact(AST_STR("file:///a/../*"), &none, NULL), AST_E_INVALID);
}

static void c09_10_globs_match_as_their_table_says(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *text;
        bool matches;
    } cases[] = {
        { "/etc/**", "/etc/passwd", true },
        { "/etc/**", "/etc/", true },
        { "/etc/**", "/etc", false },
        { "mcp://fs:*", "mcp://fs:a/b", true },
        { "mcp://fs:*", "mcp://fs:", true },
        { "*", "a/b\nc", true },
        { "a?c", "a/c", true },
        { "a?c", "ac", false },
        { "?", "\xc3\xa9", false },
        { "??", "\xc3\xa9", true },
        { "**/x", "x", true },
        { "**/x", "/x", true },
        { "**/x", "a/b/x", true },
        { "**/x", "ax", false },
        { "a/**/b", "a/b", true },
        { "a/**/b", "a/x/y/b", true },
        { "a/**/b", "axb", false },
        { "a**b", "a/x/b", true },
        { "[abc]", "b", true },
        { "[a-c]x", "bx", true },
        { "[!a-c]", "b", false },
        { "[^a]", "b", true },
        { "[]]", "]", true },
        { "[-a]", "-", true },
        { "{a,b}c", "bc", true },
        { "{a,b}c", "c", false },
        { "x{a,{b,c}d}", "xcd", true },
        { "{a,}", "a", true },
        { "{a,}", "", false },
        { "{**/x,y}", "a/x", true },
        { "\\*", "*", true },
        { "\\*", "x", false },
        { "{a\\,b,c}", "a,b", true },
        { "[a", "a", false },
        { "a\\", "a", false },
        { "{a", "a", false },
        { "a}", "a}", false },
        { "[b-a]", "a", false },
        { "", "", true },
    };
    char many[300], stars[600];

    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++)
        if (ast_glob_match(ast_str_c(cases[i].pattern), ast_str_c(cases[i].text)) !=
            cases[i].matches)
            fail_msg("'%s' on '%s'", cases[i].pattern, cases[i].text);
    /* One that would take for ever gives up. */
    memset(many, 'a', sizeof many);
    for (size_t i = 0; i < sizeof stars; i += 2)
        memcpy(stars + i, "*a", 2);
    int64_t start = ast_mono_ns();
    assert_false(ast_glob_match(ast_str_n(stars, sizeof stars), ast_str_n(many, sizeof many - 1)));
    assert_true(ast_mono_ns() - start < 5 * AST_NS_PER_SEC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c09_01_c02_57_the_known_token_reproduces),
        cmocka_unit_test(c09_02_each_altered_field_is_a_bad_signature),
        cmocka_unit_test(c09_03_single_use_may_be_absent_and_the_principal_may_not),
        cmocka_unit_test(c09_08_a_token_ends_with_its_expiry_and_skew_is_extra),
        cmocka_unit_test(c09_09_parent_segments_never_match_and_are_refused_in_patterns),
        cmocka_unit_test(an_exact_pattern_means_its_text_alone),
        cmocka_unit_test(c09_10_globs_match_as_their_table_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
