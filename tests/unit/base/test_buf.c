#include "base_test.h"

#include "base/buf.h"

#include "base/banned.h"

static void appends_terminate(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(1000);
    assert_int_equal(ast_buf_add_lit(&b, "ab"), AST_OK);
    assert_int_equal(ast_buf_add_byte(&b, 'c'), AST_OK);
    assert_int_equal(ast_buf_addf(&b, "-%d-%s", 7, "x"), AST_OK);
    assert_view(ast_buf_view(&b), "abc-7-x");
    assert_int_equal(b.p[b.n], 0);
    assert_int_equal(ast_buf_add(&b, AST_STR_NONE), AST_OK);
    assert_int_equal(b.n, 7);
}

static void the_ceiling_is_exact(void **state)
{
    (void)state;
    for (size_t max = 1; max < 200; max++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(max);
        for (size_t i = 0; i < max; i++)
            assert_int_equal(ast_buf_add_byte(&b, 'x'), AST_OK);
        assert_int_equal(b.n, max);
        assert_int_equal(ast_buf_add_byte(&b, 'x'), AST_E_TOO_LARGE);
        assert_int_equal(b.n, max);

        ast_buf_reset(&b);
        assert_int_equal(ast_buf_addf(&b, "%*s", (int)max, ""), AST_OK);
        assert_int_equal(b.n, max);
        ast_buf_reset(&b);
        assert_int_equal(ast_buf_addf(&b, "%*s", (int)max + 1, ""), AST_E_TOO_LARGE);
        assert_int_equal(b.n, 0);
    }
}

static void a_failure_sticks_and_keeps_the_content(void **state)
{
    (void)state;
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4);
    assert_int_equal(ast_buf_check(&b, "topic", &err), AST_OK);
    ast_buf_add_lit(&b, "abc");
    assert_int_equal(ast_buf_add_lit(&b, "de"), AST_E_TOO_LARGE);
    assert_int_equal(ast_buf_add_byte(&b, 'd'), AST_E_TOO_LARGE);
    assert_int_equal(ast_buf_addf(&b, "d"), AST_E_TOO_LARGE);
    assert_int_equal(ast_buf_reserve(&b, 0), AST_E_TOO_LARGE);
    assert_view(ast_buf_view(&b), "abc");
    assert_int_equal(b.p[3], 0);
    assert_int_equal(ast_buf_check(&b, "topic", &err), AST_E_TOO_LARGE);
    assert_string_equal(err.msg, "topic: larger than 4 bytes");

    ast_buf_reset(&b);
    assert_int_equal(ast_buf_add_lit(&b, "d"), AST_OK);
    assert_view(ast_buf_view(&b), "d");
}

static void sizes_cannot_wrap_around(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(SIZE_MAX);
    ast_buf_add_lit(&b, "x");
    assert_int_not_equal(ast_buf_reserve(&b, SIZE_MAX), AST_OK);
    ast_buf_reset(&b);
    assert_int_not_equal(ast_buf_reserve(&b, SIZE_MAX - 1), AST_OK);
    assert_view(ast_buf_view(&b), "");
}

static void formatting_grows_to_any_length(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(1 << 20);
    size_t want = 0;
    for (int width = 0; width < 300; width++) {
        assert_int_equal(ast_buf_addf(&b, "%0*d", width, 1), AST_OK);
        want += width ? (size_t)width : 1;
        assert_int_equal(b.n, want);
        assert_int_equal(b.p[b.n - 1], '1');
    }
}

static void consume_drops_from_the_front(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
    ast_buf_consume(&b, 0);
    ast_buf_add_lit(&b, "abcdef");
    ast_buf_consume(&b, 2);
    assert_view(ast_buf_view(&b), "cdef");
    ast_buf_consume(&b, 4);
    assert_view(ast_buf_view(&b), "");
    assert_int_equal(b.p[0], 0);
}

static void steal_gives_the_bytes_away(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
    assert_null(ast_buf_steal(&b));
    ast_buf_add_lit(&b, "abc");
    AST_AUTO(ast_cfree) char *p = ast_buf_steal(&b);
    assert_string_equal(p, "abc");
    assert_null(b.p);
    assert_int_equal(b.max, 100);
    assert_int_equal(ast_buf_add_lit(&b, "d"), AST_OK);
}

static void done_keeps_the_ceiling(void **state)
{
    (void)state;
    struct ast_buf b = AST_BUF_INIT(3);
    ast_buf_add_lit(&b, "abcd");
    ast_buf_done(&b);
    assert_int_equal(ast_buf_add_lit(&b, "abc"), AST_OK);
    assert_int_equal(ast_buf_add_byte(&b, 'd'), AST_E_TOO_LARGE);
    ast_buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends_terminate),
        cmocka_unit_test(the_ceiling_is_exact),
        cmocka_unit_test(a_failure_sticks_and_keeps_the_content),
        cmocka_unit_test(sizes_cannot_wrap_around),
        cmocka_unit_test(formatting_grows_to_any_length),
        cmocka_unit_test(consume_drops_from_the_front),
        cmocka_unit_test(steal_gives_the_bytes_away),
        cmocka_unit_test(done_keeps_the_ceiling),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
