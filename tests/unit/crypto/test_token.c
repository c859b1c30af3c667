#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/codec.h"
#include "base/fs.h"
#include "crypto/token.h"

#include "base/banned.h"

#define VECTOR                                                                                               \
    "YWxpY2U.MTcwMDAwMDAwMA.MTcwMDAyODgwMA.caf046609152d423d817fe0e6fb9a9d847beb0fff166a826d10cbc84b0a6b951" \
    "e10d466e03090936098c9ea5fa17432476048ca34a9f67bc388e802176df3c0c"
#define SIG                                                                                        \
    "caf046609152d423d817fe0e6fb9a9d847beb0fff166a826d10cbc84b0a6b951"                             \
    "e10d466e03090936098c9ea5fa17432476048ca34a9f67bc388e802176df3c0c"

static struct ast_key key;

static int make_key(void **state)
{
    (void)state;
    uint8_t seed[32];
    for (int i = 0; i < 32; i++)
        seed[i] = (uint8_t)i;
    return ast_key_from_seed(&key, seed, NULL) ? -1 : 0;
}

static int drop_key(void **state)
{
    (void)state;
    ast_key_done(&key);
    return 0;
}

static void c03_08_the_vector_is_minted_and_verified(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000);
    assert_int_equal(ast_bearer_mint(&key, AST_STR("alice"), 1700000000, 28800, &out, NULL),
                     AST_OK);
    assert_string_equal(out.p, VECTOR);
    struct ast_bearer b;
    assert_int_equal(ast_bearer_verify(key.public_key, ast_buf_view(&out), 1700000001, &b, NULL),
                     AST_OK);
    assert_string_equal(b.principal.name, "alice");
    assert_int_equal(b.issued_at, 1700000000);
    assert_int_equal(b.expires_at, 1700028800);
}

static void c03_09_every_flaw_gives_the_same_refusal(void **state)
{
    (void)state;
    static const struct {
        struct ast_str token;
        uint64_t now;
        bool ok;
    } cases[] = {
        { AST_STR(VECTOR), 1700000000, true },
        { AST_STR(VECTOR), 0, true }, /* no check that iat has come */
        { AST_STR(VECTOR), 1700028799, true },
        { AST_STR(VECTOR), 1700028800, false }, /* the equal second is expired */
        { AST_STR(VECTOR), UINT64_MAX, false },
        { AST_STR(
              "YWxpY2U.MTcwMDAwMDAwMA.MTcwMDAyODgwMA.CAF046609152D423D817FE0E6FB9A9D847BEB0FFF166A826D10C"
              "BC84B0A6B951E10D466E03090936098C9EA5FA17432476048CA34A9F67BC388E802176DF3C0C"),
          1700000000, true }, /* upper-case hex is accepted */
        { AST_STR(""), 1700000000, false },
        { AST_STR("..."), 1700000000, false },
        { AST_STR("YWxpY2U.MTcwMDAwMDAwMA." SIG), 1700000000, false }, /* v1: three */
        { AST_STR("YWxpY2U.MTcwMDAwMDAwMA.MTcwMDAyODgwMA.x." SIG), 1700000000, false }, /* five */
        { AST_STR(VECTOR "."), 1700000000, false },
        { AST_STR("." VECTOR), 1700000000, false },
        { AST_STR(VECTOR " "), 1700000000, false },
        { AST_STR("YWxpY2U=.MTcwMDAwMDAwMA.MTcwMDAyODgwMA." SIG), 1700000000, false }, /* padding */
        { AST_STR("YWxpY2V.MTcwMDAwMDAwMA.MTcwMDAyODgwMA." SIG), 1700000000,
          false }, /* trailing bits */
        { AST_STR("YWxpY2k.MTcwMDAwMDAwMA.MTcwMDAyODgwMA." SIG), 1700000000,
          false }, /* another name */
        { AST_STR("YWxpY2U.MTcwMDAwMDAwMQ.MTcwMDAyODgwMA." SIG), 1700000000,
          false }, /* another iat */
        { AST_STR("YWxpY2U.MTcwMDAwMDAwMA.MTcwMDAyODgwMQ." SIG), 1700000000,
          false }, /* another exp */
        { AST_STR("YWxpY2U.KzE3MDAwMDAwMDA.MTcwMDAyODgwMA." SIG), 1700000000,
          false }, /* "+1700000000" */
        { AST_STR("YWxpY2U.MDE3MDAwMDAwMDA.MTcwMDAyODgwMA." SIG), 1700000000,
          false }, /* "01700000000" */
        { AST_STR("YWxpY2U.MTcwMDAwMDAwMA.MTcwMDAyODgwMA." SIG "00"), 1700000000, false },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_err err = AST_ERR_INIT;
        struct ast_bearer b = { 0 };
        enum ast_rc rc = ast_bearer_verify(key.public_key, cases[i].token, cases[i].now, &b, &err);
        if (cases[i].ok) {
            assert_int_equal(rc, AST_OK);
            continue;
        }
        assert_int_equal(rc, AST_E_DENIED);
        assert_string_equal(err.msg, "invalid or expired bearer token");
        assert_int_equal(b.principal.n, 0);
    }
}

static void c03_09_each_flipped_signature_digit_is_refused(void **state)
{
    (void)state;
    char token[] = VECTOR;
    struct ast_bearer b;
    for (size_t i = sizeof token - 1 - 128; i < sizeof token - 1; i++) {
        char was = token[i];
        token[i] = was == '0' ? '1' : '0';
        assert_int_equal(ast_bearer_verify(key.public_key, ast_str_c(token), 1700000000, &b, NULL),
                         AST_E_DENIED);
        token[i] = was;
    }
}

static void c03_10_ten_thousand_dots_are_refused(void **state)
{
    (void)state;
    static char dots[10000];
    memset(dots, '.', sizeof dots);
    struct ast_bearer b;
    assert_int_equal(ast_bearer_verify(key.public_key, ast_str_n(dots, sizeof dots), 0, &b, NULL),
                     AST_E_DENIED);
}

static void a_validly_signed_bad_principal_is_refused(void **state)
{
    (void)state;
    uint8_t signature[64];
    char hex[129];
    ast_key_sign(&key, AST_STR("a b:1:2"), signature);
    ast_hex_encode(signature, 64, hex);
    AST_AUTO(ast_buf_done) struct ast_buf token = AST_BUF_INIT(1000);
    (void)ast_buf_addf(&token, "YSBi.MQ.Mg.%s", hex);
    struct ast_bearer b;
    assert_int_equal(ast_bearer_verify(key.public_key, ast_buf_view(&token), 0, &b, NULL),
                     AST_E_DENIED);
}

static void mint_bounds(void **state)
{
    (void)state;
    char longest[AST_PRINCIPAL_MAX + 2];
    memset(longest, 'a', sizeof longest);
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000), tiny = AST_BUF_INIT(10);
    struct ast_bearer b;
    /* The longest of everything still verifies: AST_BEARER_MAX is no limit in practice. */
    assert_int_equal(ast_bearer_mint(&key, ast_str_n(longest, AST_PRINCIPAL_MAX), UINT64_MAX - 1,
                                     UINT64_MAX, &out, NULL),
                     AST_OK);
    assert_int_equal(ast_bearer_verify(key.public_key, ast_buf_view(&out), 1, &b, NULL), AST_OK);
    assert_true(b.expires_at == UINT64_MAX);
    static const struct ast_str bad[] = { { "", 0 }, { "a b", 3 }, { "a:b", 3 } };
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++)
        assert_int_equal(ast_bearer_mint(&key, bad[i], 1, 1, &out, NULL), AST_E_INVALID);
    assert_int_equal(
        ast_bearer_mint(&key, ast_str_n(longest, AST_PRINCIPAL_MAX + 1), 1, 1, &out, NULL),
        AST_E_INVALID);
    assert_int_equal(ast_bearer_mint(&key, AST_STR("alice"), 1, 1, &tiny, NULL), AST_E_TOO_LARGE);
}

static void c09_35_session_token_file(void **state)
{
    (void)state;
    char dir[] = "/tmp/ast-token-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/system.token", dir);
    struct ast_session_token a, b, again;
    assert_int_equal(ast_session_token_create(path, &a, NULL), AST_OK);
    assert_int_equal(ast_session_token_load(path, &again, NULL), AST_OK);
    assert_true(ast_session_token_equal(&a, &again));

    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_size, 64);
    assert_int_equal(ast_session_token_create(path, &b, NULL), AST_OK);
    assert_false(ast_session_token_equal(&a, &b));
    assert_int_equal(ast_session_token_load(path, &again, NULL), AST_OK);
    assert_true(ast_session_token_equal(&b, &again));

    static char big[5000];
    memset(big, ' ', sizeof big);
    assert_int_equal(ast_fs_write_atomic(path, ast_str_n(big, sizeof big), 0600, 0, NULL), AST_OK);
    assert_int_equal(ast_session_token_load(path, &again, NULL), AST_E_TOO_LARGE);
    assert_int_equal(ast_fs_remove_tree(dir, NULL), AST_OK);
    assert_int_equal(ast_session_token_load(path, &again, NULL), AST_E_NOT_FOUND);
}

static void session_token_texts(void **state)
{
    (void)state;
#define HEX32 "00112233445566778899aabbccddeeff"
    static const struct {
        struct ast_str text;
        const char *error; /* NULL: accepted */
    } cases[] = {
        { AST_STR(HEX32 HEX32), NULL },
        { AST_STR(" \t\r\n" HEX32 "00112233445566778899AABBCCDDEEFF\n"), NULL },
        { AST_STR(HEX32), "session token hex must be 64 chars, got 32" },
        { AST_STR(""), "session token hex must be 64 chars, got 0" },
        { AST_STR(HEX32 HEX32 "0"), "session token hex must be 64 chars, got 65" },
        { AST_STR(HEX32 "0011223344556677 899aabbccddeeff"), "invalid hex digit: 0x20" },
        { AST_STR("g0112233445566778899aabbccddeeff" HEX32), "invalid hex digit: 0x67" },
        { AST_STR(HEX32 "00112233445566778899aabbccddeef\xff"), "invalid hex digit: 0xff" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_err err = AST_ERR_INIT;
        struct ast_session_token t = { 0 };
        enum ast_rc rc = ast_session_token_parse(cases[i].text, &t, &err);
        assert_int_equal(rc, cases[i].error ? AST_E_INVALID : AST_OK);
        if (cases[i].error)
            assert_string_equal(err.msg, cases[i].error);
        else
            assert_int_equal(t.b[31], 0xff);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c03_08_the_vector_is_minted_and_verified),
        cmocka_unit_test(c03_09_every_flaw_gives_the_same_refusal),
        cmocka_unit_test(c03_09_each_flipped_signature_digit_is_refused),
        cmocka_unit_test(c03_10_ten_thousand_dots_are_refused),
        cmocka_unit_test(a_validly_signed_bad_principal_is_refused),
        cmocka_unit_test(mint_bounds),
        cmocka_unit_test(c09_35_session_token_file),
        cmocka_unit_test(session_token_texts),
    };
    return cmocka_run_group_tests(tests, make_key, drop_key);
}
