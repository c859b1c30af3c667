#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "crypto/secret.h"

#include "base/banned.h"

static void a_new_secret_is_zeroed_and_a_copy_is_equal(void **state)
{
    (void)state;
    AST_AUTO(ast_secret_done) struct ast_secret fresh = { 0 }, copy = { 0 }, empty = { 0 };
    assert_int_equal(ast_secret_init(&fresh, 100, NULL), AST_OK);
    for (size_t i = 0; i < fresh.n; i++)
        assert_int_equal(fresh.p[i], 0);
    assert_int_equal(ast_secret_copy(&copy, AST_STR("s3cret"), NULL), AST_OK);
    assert_int_equal(copy.n, 6);
    assert_memory_equal(copy.p, "s3cret", 6);
    assert_int_equal(ast_secret_copy(&empty, AST_STR_NONE, NULL), AST_OK);
    assert_null(empty.p);
}

static void done_empties_and_may_be_repeated(void **state)
{
    (void)state;
    struct ast_secret s = { 0 };
    ast_secret_done(&s);
    assert_int_equal(ast_secret_copy(&s, AST_STR("x"), NULL), AST_OK);
    ast_secret_done(&s);
    assert_null(s.p);
    assert_int_equal(s.n, 0);
    ast_secret_done(&s);
}

static void too_much_is_out_of_memory(void **state)
{
    (void)state;
    struct ast_secret s = { 0 };
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_secret_init(&s, SIZE_MAX / 2, &err), AST_E_NO_MEMORY);
    assert_null(s.p);
}

static void wipe_and_constant_time_compare(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        size_t n;
        bool equal;
    } cases[] = {
        { "abcd", "abcd", 4, true }, { "abcd", "abce", 4, false }, { "xbcd", "abcd", 4, false },
        { "abcd", "abce", 3, true }, { "", "", 0, true },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++)
        assert_int_equal(ast_ct_equal(cases[i].a, cases[i].b, cases[i].n), cases[i].equal);
    char bytes[] = "wipe me";
    static const char zero[sizeof bytes];
    ast_wipe(bytes, sizeof bytes);
    assert_memory_equal(bytes, zero, sizeof bytes);
    ast_wipe(NULL, 0);
}

static void random_bytes_differ(void **state)
{
    (void)state;
    uint8_t a[32], b[32];
    ast_random(a, sizeof a);
    ast_random(b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
    ast_random(NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_secret_is_zeroed_and_a_copy_is_equal),
        cmocka_unit_test(done_empties_and_may_be_repeated),
        cmocka_unit_test(too_much_is_out_of_memory),
        cmocka_unit_test(wipe_and_constant_time_compare),
        cmocka_unit_test(random_bytes_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
