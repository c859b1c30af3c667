#include "base_test.h"

#include "base/vec.h"

#include "base/banned.h"

struct pair {
    int a;
    const char *b;
};

static void pushes_keep_their_order(void **state)
{
    (void)state;
    AST_VEC(struct pair) v = { 0 };
    for (int i = 0; i < 1000; i++)
        assert_true(ast_vec_push(&v, (struct pair){ i, "x" }));
    assert_int_equal(v.n, 1000);
    int want = 0;
    ast_vec_each (&v, it)
        assert_int_equal(it->a, want++);
    assert_int_equal(want, 1000);
    ast_vec_done(&v);
    assert_null(v.v);
    assert_int_equal(v.n, 0);
    ast_vec_each (&v, it)
        fail();
}

static void remove_swap_moves_the_last_one(void **state)
{
    (void)state;
    AST_VEC(int) v = { 0 };
    for (int i = 0; i < 4; i++)
        assert_true(ast_vec_push(&v, i));
    ast_vec_remove_swap(&v, 1);
    assert_int_equal(v.n, 3);
    assert_int_equal(v.v[1], 3);
    ast_vec_remove_swap(&v, 2);
    assert_int_equal(v.n, 2);
    ast_vec_clear(&v);
    assert_true(ast_vec_push(&v, 9));
    assert_int_equal(v.v[0], 9);
    ast_vec_done(&v);
}

static void impossible_growth_changes_nothing(void **state)
{
    (void)state;
    void *v = NULL;
    size_t cap = 7;
    assert_false(ast_vec_grow_(&v, &cap, SIZE_MAX / 2 + 1, 1));
    assert_false(ast_vec_grow_(&v, &cap, SIZE_MAX / 4, 16));
    assert_null(v);
    assert_int_equal(cap, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pushes_keep_their_order),
        cmocka_unit_test(remove_swap_moves_the_last_one),
        cmocka_unit_test(impossible_growth_changes_nothing),
    };
    return cmocka_run_group_tests_name("vec", tests, NULL, NULL);
}
