/* Versions and requirements against the table of the specification. */
#include "capsule_test.h"

#include "capsule/semver.h"

#include "base/banned.h"

static void versions_parse_or_say_why(void **state)
{
    static const struct {
        const char *text;
        bool ok;
    } rows[] = {
        { "1.2.3", true },
        { "0.0.0", true },
        { "1.2.3-rc.1", true },
        { "1.2.3+b.007", true },
        { "1.2.3-a-b.0x+1", true },
        { "18446744073709551615.0.0", true },
        { "", false },
        { "1", false },
        { "1.0", false },
        { "v1.2.3", false },
        { "01.2.3", false },
        { "1.2.3-", false },
        { "1.2.3-01", false },
        { "1.2.3-a..b", false },
        { "1.2.3+", false },
        { "1.2.3 ", false },
        { "1.2.3.4", false },
        { "-1.2.3", false },
        { "18446744073709551616.0.0", false },
        { "1.2.x", false },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_semver v;
        struct ast_err err = AST_ERR_INIT;
        if ((ast_semver_parse(ast_str_c(rows[i].text), &v, &err) == AST_OK) != rows[i].ok)
            fail_msg("<%s>: %s", rows[i].text, err.msg);
        assert_true(rows[i].ok || err.msg[0]);
    }
}

static void c07_09_requirements_match_as_cargo_s_do(void **state)
{
    static const struct {
        const char *req, *version;
        bool match;
    } rows[] = {
        { "^1.2.3", "1.2.3", true },
        { "^1.2.3", "1.9.0", true },
        { "^1.2.3", "2.0.0", false },
        { "^1.2.3", "1.2.2", false },
        { "^0.2.3", "0.2.9", true },
        { "^0.2.3", "0.3.0", false },
        { "^0.0.3", "0.0.3", true },
        { "^0.0.3", "0.0.4", false },
        { "^1", "1.99.0", true },
        { "^1", "2.0.0", false },
        { "^0.0", "0.0.9", true },
        { "^0.0", "0.1.0", false },
        { "^0", "0.9.0", true },
        { "^0", "1.0.0", false },
        { "1.0", "1.5.0", true },
        { "1.0", "2.0.0", false },
        { "~1.2.3", "1.2.9", true },
        { "~1.2.3", "1.3.0", false },
        { "~1.2", "1.2.0", true },
        { "~1.2", "1.3.0", false },
        { "~1", "1.9.0", true },
        { "~1", "2.0.0", false },
        { "=1.2", "1.2.7", true },
        { "=1.2", "1.3.0", false },
        { "=1.2.3", "1.2.3", true },
        { "=1.2.3", "1.2.4", false },
        { ">1.2", "1.3.0", true },
        { ">1.2", "1.2.9", false },
        { ">1", "2.0.0", true },
        { ">1", "1.9.9", false },
        { "<=1.2", "1.2.9", true },
        { "<=1.2", "1.3.0", false },
        { ">=1.0, <2.0", "1.9.9", true },
        { ">=1.0, <2.0", "2.0.0", false },
        { "*", "5.0.0", true },
        { "1.*", "1.7.0", true },
        { "1.*", "2.0.0", false },
        { "1.2.*", "1.2.9", true },
        { "1.2.x", "1.3.0", false },
        { " >= 1.0 , < 3 ", "2.0.0", true },
        /* A pre-release needs a comparator with the same triple and a pre-release of its own. */
        { "^1.2.3", "1.2.4-rc.1", false },
        { "^1.2.4-rc.0", "1.2.4-rc.1", true },
        { ">=1.0.0", "2.0.0-alpha", false },
        { "*", "1.0.0-alpha", false },
        { ">=1.0.0-alpha, <2", "1.0.0-beta", true },
        { "=1.0.0-a", "1.0.0-a", true },
        { "=1.0.0-a", "1.0.0-b", false },
        { ">1.0.0-a", "1.0.0-b", true },
        { "~1.2.3-a", "1.2.3-b", true },
        { "^1.2.3", "1.2.3+build", true },
        { ">=0.8.0", "0.8.0", true },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_semver_req req;
        struct ast_semver v;
        struct ast_err err = AST_ERR_INIT;
        if (ast_semver_req_parse(ast_str_c(rows[i].req), &req, &err) ||
            ast_semver_parse(ast_str_c(rows[i].version), &v, &err))
            fail_msg("<%s> <%s>: %s", rows[i].req, rows[i].version, err.msg);
        if (ast_semver_matches(&req, &v) != rows[i].match)
            fail_msg("<%s> against %s", rows[i].req, rows[i].version);
    }
}

static void bad_requirements_are_refused(void **state)
{
    static const char *const rows[] = { "",        "1.0 2.0", "zzz",  "^",  ">=",    "1.0,", ",1",
                                        "1.2.3.4", "**",      "*, 1", "01", "1.*.2", ">>1" };
    AST_AUTO(ast_buf_done) struct ast_buf many = AST_BUF_INIT(4096);
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_semver_req req;
        if (ast_semver_req_parse(ast_str_c(rows[i]), &req, NULL) == AST_OK)
            fail_msg("<%s> was taken", rows[i]);
    }
    for (unsigned i = 0; i < 33; i++)
        ast_buf_addf(&many, "%s>=1", i ? "," : "");
    struct ast_semver_req req;
    assert_int_equal(ast_semver_req_parse(ast_buf_view(&many), &req, NULL), AST_E_INVALID);
    assert_int_equal(
        ast_semver_req_parse(ast_str_first(ast_buf_view(&many), many.n - 4), &req, NULL), AST_OK);
}

static void the_canonical_text(void **state)
{
    static const char *const rows[][2] = { { "1.0", "^1.0" },
                                           { "^1", "^1" },
                                           { ">=1.0,<2.0", ">=1.0, <2.0" },
                                           { "*", "*" },
                                           { "1.*", "1.*" },
                                           { "1.2.*", "1.2.*" },
                                           { "=1.2.3-rc.1", "=1.2.3-rc.1" },
                                           { "~ 1.2", "~1.2" } };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(256);
        struct ast_semver_req req;
        assert_int_equal(ast_semver_req_parse(ast_str_c(rows[i][0]), &req, NULL), AST_OK);
        ast_semver_req_print(&req, &out);
        assert_string_equal(out.p, rows[i][1]);
    }
}

static void precedence_is_total(void **state)
{
    static const char *const ascending[] = {
        "0.9.0",      "1.0.0-alpha",  "1.0.0-alpha.1", "1.0.0-alpha.beta",
        "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
        "1.0.0",      "1.0.0+1",      "1.0.0+2",       "1.0.0+10",
        "1.0.1",      "1.10.0",       "2.0.0"
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(ascending); i++)
        for (size_t k = 0; k < AST_ARRAY_LEN(ascending); k++) {
            struct ast_semver a, b;
            assert_int_equal(ast_semver_parse(ast_str_c(ascending[i]), &a, NULL), AST_OK);
            assert_int_equal(ast_semver_parse(ast_str_c(ascending[k]), &b, NULL), AST_OK);
            int c = ast_semver_cmp(&a, &b);
            if ((c > 0) - (c < 0) != (i > k) - (i < k))
                fail_msg("%s and %s: %d", ascending[i], ascending[k], c);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_parse_or_say_why),
        cmocka_unit_test(c07_09_requirements_match_as_cargo_s_do),
        cmocka_unit_test(bad_requirements_are_refused),
        cmocka_unit_test(the_canonical_text),
        cmocka_unit_test(precedence_is_total),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
