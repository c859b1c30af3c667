#include "base_test.h"

#include "base/arena.h"

#include "base/banned.h"

static void memory_is_zeroed_aligned_and_apart(void **state)
{
    (void)state;
    AST_AUTO(ast_arena_done) struct ast_arena a = AST_ARENA_INIT(1 << 20);
    char *last = NULL;
    for (size_t n = 0; n < 600; n++) {
        char *p = ast_arena_alloc(&a, n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        assert_ptr_not_equal(p, last);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, n);
        last = p;
    }
    assert_int_equal(ast_arena_check(&a, NULL), AST_OK);
}

static void large_pieces_get_a_chunk_of_their_own(void **state)
{
    (void)state;
    AST_AUTO(ast_arena_done) struct ast_arena a = AST_ARENA_INIT(8 << 20);
    char *big = ast_arena_alloc(&a, 3 << 20);
    assert_non_null(big);
    memset(big, 1, 3 << 20);
    char *small = ast_arena_alloc(&a, 10);
    assert_non_null(small);
    assert_int_equal(small[9], 0);
}

static void the_ceiling_is_sticky(void **state)
{
    (void)state;
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_arena_done) struct ast_arena a = AST_ARENA_INIT(64);
    assert_non_null(ast_arena_alloc(&a, 48));
    assert_null(ast_arena_alloc(&a, 17));
    assert_null(ast_arena_alloc(&a, 1));
    assert_null(ast_arena_dup(&a, AST_STR("x")).p);
    assert_null(ast_arena_fmt(&a, "x").p);
    assert_int_equal(ast_arena_check(&a, &err), AST_E_TOO_LARGE);
    assert_string_equal(err.msg, "work area: larger than 64 bytes");
    ast_arena_reset(&a);
    assert_int_equal(ast_arena_check(&a, NULL), AST_OK);
    assert_non_null(ast_arena_alloc(&a, 64));
    assert_null(ast_arena_alloc(&a, 0));
}

static void sizes_cannot_wrap_around(void **state)
{
    (void)state;
    AST_AUTO(ast_arena_done) struct ast_arena a = AST_ARENA_INIT(SIZE_MAX);
    assert_null(ast_arena_array(&a, SIZE_MAX / 2, 3));
    assert_int_equal(ast_arena_check(&a, NULL), AST_E_TOO_LARGE);
    ast_arena_reset(&a);
    assert_null(ast_arena_alloc(&a, SIZE_MAX - 8));
    assert_int_not_equal(ast_arena_check(&a, NULL), AST_OK);
    ast_arena_reset(&a);
    assert_non_null(ast_arena_array(&a, 3, 5));
}

static void text_is_copied_and_terminated(void **state)
{
    (void)state;
    AST_AUTO(ast_arena_done) struct ast_arena a = AST_ARENA_INIT(1 << 16);
    struct ast_str s = ast_arena_dup(&a, ast_str_first(AST_STR("abcdef"), 3));
    assert_view(s, "abc");
    assert_int_equal(s.p[3], 0);
    s = ast_arena_fmt(&a, "%s/%d", "x", 12);
    assert_view(s, "x/12");
    assert_int_equal(s.p[4], 0);
    s = ast_arena_dup(&a, AST_STR_NONE);
    assert_non_null(s.p);
    assert_view(s, "");
}

static void rewind_frees_what_came_after_the_mark(void **state)
{
    (void)state;
    AST_AUTO(ast_arena_done) struct ast_arena a = AST_ARENA_INIT(1 << 20);
    struct ast_str keep = ast_arena_dup(&a, AST_STR("keep"));
    struct ast_arena_mark m = ast_arena_mark(&a);
    char *first = ast_arena_alloc(&a, 100);
    for (int i = 0; i < 100; i++)
        assert_non_null(ast_arena_alloc(&a, 1000));
    ast_arena_rewind(&a, m);
    assert_int_equal(a.used, m.used);
    assert_view(keep, "keep");
    char *again = ast_arena_alloc(&a, 100);
    assert_ptr_equal(again, first);
    for (int i = 0; i < 100; i++)
        assert_int_equal(again[i], 0);
}

static void a_mark_of_the_empty_arena_works(void **state)
{
    (void)state;
    AST_AUTO(ast_arena_done) struct ast_arena a = AST_ARENA_INIT(1 << 20);
    struct ast_arena_mark m = ast_arena_mark(&a);
    ast_arena_rewind(&a, m);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 50; i++)
            assert_non_null(ast_arena_alloc(&a, 500));
        ast_arena_rewind(&a, m);
        assert_int_equal(a.used, 0);
    }
    assert_non_null(ast_arena_alloc(&a, 500));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed_aligned_and_apart),
        cmocka_unit_test(large_pieces_get_a_chunk_of_their_own),
        cmocka_unit_test(the_ceiling_is_sticky),
        cmocka_unit_test(sizes_cannot_wrap_around),
        cmocka_unit_test(text_is_copied_and_terminated),
        cmocka_unit_test(rewind_frees_what_came_after_the_mark),
        cmocka_unit_test(a_mark_of_the_empty_arena_works),
    };
    return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}
