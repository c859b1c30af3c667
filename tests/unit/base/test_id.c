#include "base_test.h"

#include "base/id.h"

#include "base/banned.h"

#define N64 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static void principals_follow_their_grammar(void **state)
{
    static const struct {
        const char *text, *why; /* why == NULL: valid */
    } rows[] = {
        { "default", NULL },
        { "A-b_9", NULL },
        { "-", NULL },
        { N64, NULL },
        { "", "principal id must not be empty" },
        { N64 "a", "principal id exceeds 64 characters" },
        { "bad@name",
          "principal id contains invalid character '@' (allowed: a-z, A-Z, 0-9, -, _)" },
        { "a b", "principal id contains invalid character ' ' (allowed: a-z, A-Z, 0-9, -, _)" },
        { "a.b", "principal id contains invalid character '.' (allowed: a-z, A-Z, 0-9, -, _)" },
        { "../x", "principal id contains invalid character '.' (allowed: a-z, A-Z, 0-9, -, _)" },
        { "a/b", "principal id contains invalid character '/' (allowed: a-z, A-Z, 0-9, -, _)" },
        { "j\xc3\xbcrg",
          "principal id contains invalid character '\xc3\xbc' (allowed: a-z, A-Z, 0-9, -, _)" },
        { "\xf0\x9f\x98\x80",
          "principal id contains invalid character '\xf0\x9f\x98\x80' (allowed: a-z, A-Z, 0-9, -, _)" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_str s = ast_str_c(rows[i].text);
        struct ast_principal p = { .n = 1, .name = "?" };
        struct ast_err err = AST_ERR_INIT;
        assert_int_equal(ast_principal_valid(s), !rows[i].why);
        assert_int_equal(ast_principal_parse(s, &p, &err), rows[i].why ? AST_E_INVALID : AST_OK);
        if (rows[i].why) {
            assert_string_equal(err.msg, rows[i].why);
            assert_view(ast_principal_str(&p), "?");
        } else {
            assert_view(ast_principal_str(&p), rows[i].text);
            assert_string_equal(p.name, rows[i].text);
        }
    }
    assert_false(ast_principal_valid(AST_STR("a\0b")));
}

static void principals_compare_by_name(void **state)
{
    (void)state;
    struct ast_principal a = { 0 }, b = { 0 };
    assert_true(ast_principal_eq(&a, &b));
    assert_int_equal(ast_principal_parse(AST_STR("alice"), &a, NULL), AST_OK);
    assert_false(ast_principal_eq(&a, &b));
    assert_int_equal(ast_principal_parse(AST_STR("alicia"), &b, NULL), AST_OK);
    assert_false(ast_principal_eq(&a, &b));
    assert_int_equal(ast_principal_parse(AST_STR("alice"), &b, NULL), AST_OK);
    assert_true(ast_principal_eq(&a, &b));
}

static void principals_have_a_class(void **state)
{
    (void)state;
    assert_string_equal(ast_principal_class(AST_STR_NONE), "system");
    assert_string_equal(ast_principal_class(AST_STR("agent.x")), "agent");
    assert_string_equal(ast_principal_class(AST_STR("agent:x")), "agent");
    assert_string_equal(ast_principal_class(AST_STR("agent-x")), "user");
    assert_string_equal(ast_principal_class(AST_STR("agent")), "user");
    assert_string_equal(ast_principal_class(AST_STR("default")), "user");
}

static void capsule_ids_follow_their_grammar(void **state)
{
    static const char charset[] =
        "capsule id must contain only lowercase alphanumeric characters and hyphens, got: ";
    static const struct {
        const char *text;
        bool ok;
    } rows[] = {
        { "astrid-capsule-cli", true },
        { "-9", true },
        { "a", true },
        { "", false },
        { "Bad", false },
        { "a_b", false },
        { "../up", false },
        { "a b", false },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_err err = AST_ERR_INIT;
        assert_int_equal(ast_capsule_id_valid(ast_str_c(rows[i].text)), rows[i].ok);
        assert_int_equal(ast_capsule_id_check(ast_str_c(rows[i].text), &err),
                         rows[i].ok ? AST_OK : AST_E_INVALID);
        if (rows[i].ok)
            continue;
        if (!*rows[i].text) {
            assert_string_equal(err.msg, "capsule id must not be empty");
        } else {
            assert_true(ast_str_starts(ast_str_c(err.msg), ast_str_c(charset)));
            assert_string_equal(err.msg + sizeof charset - 1, rows[i].text);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(principals_follow_their_grammar),
        cmocka_unit_test(principals_compare_by_name),
        cmocka_unit_test(principals_have_a_class),
        cmocka_unit_test(capsule_ids_follow_their_grammar),
    };
    return cmocka_run_group_tests_name("id", tests, NULL, NULL);
}
