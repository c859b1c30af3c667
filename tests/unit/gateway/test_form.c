/* Query strings: what counts, what is passed over, what is refused. */
#include "gateway_test.h"

#include "gateway/form_priv.h"

static void known_parameters_are_decoded(void **state)
{
    static const struct {
        const char *query, *a, *bb; /* NULL: absent */
        const char *error;          /* NULL: fine */
    } cases[] = {
        { "", NULL, NULL, NULL },
        { "a=1", "1", NULL, NULL },
        { "a=1&bb=2", "1", "2", NULL },
        { "bb=2&c=3&a=", "", "2", NULL },
        { "a", "", NULL, NULL },
        { "a&bb", "", "", NULL },
        { "&&a=1&", "1", NULL, NULL },
        { "a=x=y", "x=y", NULL, NULL },
        { "a=x+y%20z%2B", "x y z+", NULL, NULL },
        { "%61=1&b%62=2", "1", "2", NULL },
        { "A=1&aa=2&b=3", NULL, NULL, NULL },
        { "a=%C3%BC", "\xc3\xbc", NULL, NULL },
        { "a=1&a=1", NULL, NULL, "duplicate field `a`" },
        { "a=&%61", NULL, NULL, "duplicate field `a`" },
        { "c=1&c=2", NULL, NULL, NULL },
        { "a=%", NULL, NULL, "broken percent escape" },
        { "a=%4", NULL, NULL, "broken percent escape" },
        { "c=%zz", NULL, NULL, NULL }, /* nobody looks at it */
        { "%zz=1", NULL, NULL, "broken percent escape" },
        { "a=%ff", NULL, NULL, "not UTF-8" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct gw_param p[] = { { .name = AST_STR("a") }, { .name = AST_STR("bb") } };
        AST_AUTO(ast_buf_done) struct ast_buf memory = AST_BUF_INIT(4096);
        struct ast_err err = AST_ERR_INIT;
        enum ast_rc rc = gw_form_parse(ast_str_c(cases[i].query), p, 2, &memory, &err);
        if (!rc != !cases[i].error)
            fail_msg("\"%s\": %s", cases[i].query, rc ? err.msg : "taken");
        if (rc) {
            assert_contains(err.msg, cases[i].error);
            continue;
        }
        const char *want[] = { cases[i].a, cases[i].bb };
        for (size_t k = 0; k < 2; k++)
            if (!p[k].value.p != !want[k] ||
                (want[k] && !ast_str_eq(p[k].value, ast_str_c(want[k]))))
                fail_msg("\"%s\": parameter %zu is \"%.*s\"", cases[i].query, k, (int)p[k].value.n,
                         p[k].value.p ? p[k].value.p : "");
    }
}

static void numbers_are_unsigned_and_optional(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    struct gw_param p = { .name = AST_STR("n") };
    uint64_t n = 7;
    (void)state;
    assert_int_equal(gw_form_u64(&p, &n, &err), AST_OK);
    assert_int_equal(n, 7);
    p.value = AST_STR("18446744073709551615");
    assert_int_equal(gw_form_u64(&p, &n, &err), AST_OK);
    assert_true(n == UINT64_MAX);
    static const char *const bad[] = { "", "-1", "1.0", "18446744073709551616", " 1", "x" };
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++) {
        p.value = ast_str_c(bad[i]);
        assert_int_equal(gw_form_u64(&p, &n, &err), AST_E_INVALID);
        assert_contains(err.msg, "n: invalid digit found in string");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_parameters_are_decoded),
        cmocka_unit_test(numbers_are_unsigned_and_optional),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
