/* Templates, labels, percent-decoding. */
#include "gateway_test.h"

#include "gateway/path_priv.h"

#include "base/banned.h"

static void paths_match_exactly(void **state)
{
    static const struct {
        const char *template, *path;
        bool want;
        const char *params[2];
    } cases[] = {
        { "/healthz", "/healthz", true, { 0 } },
        { "/healthz", "/healthz/", false, { 0 } },
        { "/healthz", "//healthz", false, { 0 } },
        { "/healthz", "/Healthz", false, { 0 } },
        { "/healthz", "/health%7a", false, { 0 } },
        { "/healthz", "healthz", false, { 0 } },
        { "/healthz", "/", false, { 0 } },
        { "/healthz", "", false, { 0 } },
        { "/healthz", "*", false, { 0 } },
        { "/api/capsules/{id}", "/api/capsules/x", true, { "x" } },
        { "/api/capsules/{id}", "/api/capsules/", false, { 0 } },
        { "/api/capsules/{id}", "/api/capsules/x/", false, { 0 } },
        { "/api/capsules/{id}", "/api/capsules/a%2Fb", true, { "a%2Fb" } },
        { "/api/capsules/{id}/env/{field}", "/api/capsules/x/env/y", true, { "x", "y" } },
        { "/api/capsules/{id}/env/{field}", "/api/capsules//env/y", false, { 0 } },
        { "/api/capsules/{id}/env/{field}", "/api/capsules/x/env/y/z", false, { 0 } },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct gw_params p = { .n = 0 };
        if (gw_path_match(ast_str_c(cases[i].template), ast_str_c(cases[i].path), &p) !=
            cases[i].want)
            fail_msg("%s against %s", cases[i].path, cases[i].template);
        for (size_t k = 0; k < 2 && cases[i].params[k]; k++)
            assert_true(ast_str_eq(p.v[k], ast_str_c(cases[i].params[k])));
    }
}

static void c03_54_labels_show_parameters_with_colons(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(100);
    (void)state;
    assert_int_equal(gw_path_label(AST_STR("/api/capsules/{id}/env/{field}"), &out), AST_OK);
    assert_view(ast_buf_view(&out), "/api/capsules/:id/env/:field");
}

static void escapes_are_decoded_or_refused(void **state)
{
    static const struct {
        const char *in, *out; /* NULL: refused */
    } cases[] = {
        { "", "" },       { "abc", "abc" },         { "a%2Fb", "a/b" }, { "%41%5a", "AZ" },
        { "a+b", "a+b" }, { "%C3%A4", "\xc3\xa4" }, { "%", NULL },      { "%4", NULL },
        { "%4g", NULL },  { "%ff", NULL },          { "%C3", NULL },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(100);
        enum ast_rc rc = gw_path_decode(ast_str_c(cases[i].in), &out, NULL);
        if (!rc != !!cases[i].out)
            fail_msg("%s", cases[i].in);
        if (!rc)
            assert_true(ast_str_eq(ast_buf_view(&out), ast_str_c(cases[i].out)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_match_exactly),
        cmocka_unit_test(c03_54_labels_show_parameters_with_colons),
        cmocka_unit_test(escapes_are_decoded_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
