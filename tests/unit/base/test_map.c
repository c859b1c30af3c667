#include "base_test.h"

#include "base/map.h"

#include "base/banned.h"

static int values[20000];

static struct ast_str key_of(int i, char out[static 32])
{
    int n = snprintf(out, 32, "key-%d", i);
    return (struct ast_str){ out, (size_t)n };
}

static void set_get_and_replace(void **state)
{
    (void)state;
    AST_AUTO(ast_map_done) struct ast_map m = { 0 };
    void *old = &m;
    assert_null(ast_map_get(&m, AST_STR("a")));
    assert_null(ast_map_remove(&m, AST_STR("a")));
    assert_true(ast_map_set(&m, AST_STR("a"), &values[1], &old));
    assert_null(old);
    assert_true(ast_map_set(&m, AST_STR("a"), &values[2], &old));
    assert_ptr_equal(old, &values[1]);
    assert_int_equal(m.n, 1);
    assert_ptr_equal(ast_map_get(&m, AST_STR("a")), &values[2]);
    assert_ptr_equal(ast_map_remove(&m, AST_STR("a")), &values[2]);
    assert_null(ast_map_get(&m, AST_STR("a")));
    assert_int_equal(m.n, 0);
}

static void keys_are_bytes_and_copied(void **state)
{
    (void)state;
    AST_AUTO(ast_map_done) struct ast_map m = { 0 };
    char key[] = "abc";
    assert_true(ast_map_set(&m, ast_str_c(key), &values[1], NULL));
    key[0] = 'x';
    assert_ptr_equal(ast_map_get(&m, AST_STR("abc")), &values[1]);
    assert_true(ast_map_set(&m, AST_STR(""), &values[2], NULL));
    assert_ptr_equal(ast_map_get(&m, AST_STR_NONE), &values[2]);
    assert_true(ast_map_set(&m, AST_STR("a\0b"), &values[3], NULL));
    assert_null(ast_map_get(&m, AST_STR("a\0c")));
    assert_null(ast_map_get(&m, AST_STR("a")));
    assert_ptr_equal(ast_map_get(&m, AST_STR("a\0b")), &values[3]);
}

static void many_entries_are_found_through_growth_and_shrinking(void **state)
{
    (void)state;
    AST_AUTO(ast_map_done) struct ast_map m = { 0 };
    char k[32];
    for (int i = 0; i < 20000; i++)
        assert_true(ast_map_set(&m, key_of(i, k), &values[i], NULL));
    for (int i = 0; i < 20000; i++)
        assert_ptr_equal(ast_map_get(&m, key_of(i, k)), &values[i]);
    size_t large = m.cap;
    for (int i = 0; i < 20000; i++) {
        if (i % 100)
            assert_ptr_equal(ast_map_remove(&m, key_of(i, k)), &values[i]);
    }
    assert_int_equal(m.n, 200);
    assert_true(ast_map_set(&m, AST_STR("one more"), &values[0], NULL));
    assert_true(m.cap < large);
    for (int i = 0; i < 20000; i++)
        assert_ptr_equal(ast_map_get(&m, key_of(i, k)), i % 100 ? NULL : &values[i]);
}

static void coming_and_going_does_not_grow_the_table(void **state)
{
    (void)state;
    AST_AUTO(ast_map_done) struct ast_map m = { 0 };
    char k[32];
    for (int i = 0; i < 200000; i++) {
        assert_true(ast_map_set(&m, key_of(i, k), &values[1], NULL));
        if (i >= 10)
            assert_non_null(ast_map_remove(&m, key_of(i - 10, k)));
    }
    assert_int_equal(m.n, 10);
    assert_in_range(m.cap, 16, 64);
}

/* A plain array as the second opinion. */
static void random_operations_agree_with_a_plain_array(void **state)
{
    enum { KEYS = 97 };
    (void)state;
    AST_AUTO(ast_map_done) struct ast_map m = { 0 };
    void *model[KEYS] = { 0 };
    size_t count = 0;
    uint32_t seed = 12345;
    for (int step = 0; step < 100000; step++) {
        seed = seed * 1664525 + 1013904223;
        int i = (int)(seed >> 16) % KEYS;
        void *value = &values[seed >> 8 & 0xfff];
        char k[32];
        struct ast_str key = key_of(i, k);
        assert_ptr_equal(ast_map_get(&m, key), model[i]);
        if (seed & 0x80) {
            void *old = NULL;
            assert_true(ast_map_set(&m, key, value, &old));
            assert_ptr_equal(old, model[i]);
            count += !model[i];
            model[i] = value;
        } else {
            assert_ptr_equal(ast_map_remove(&m, key), model[i]);
            count -= model[i] != NULL;
            model[i] = NULL;
        }
        assert_int_equal(m.n, count);
    }
}

static void a_visit_meets_each_entry_once_and_may_remove_it(void **state)
{
    (void)state;
    AST_AUTO(ast_map_done) struct ast_map m = { 0 };
    char k[32];
    for (int i = 0; i < 1000; i++)
        assert_true(ast_map_set(&m, key_of(i, k), &values[i], NULL));
    bool seen[1000] = { false };
    size_t pos = 0, visits = 0;
    struct ast_str key;
    void *value;
    while (ast_map_next(&m, &pos, &key, &value)) {
        int i = (int)((int *)value - values);
        assert_false(seen[i]);
        seen[i] = true;
        visits++;
        assert_view(key, key_of(i, k).p);
        if (i % 2)
            assert_ptr_equal(ast_map_remove(&m, key), value);
    }
    assert_int_equal(visits, 1000);
    assert_int_equal(m.n, 500);
    for (int i = 0; i < 1000; i++)
        assert_ptr_equal(ast_map_get(&m, key_of(i, k)), i % 2 ? NULL : &values[i]);
    pos = 0;
    struct ast_map none = { 0 };
    assert_false(ast_map_next(&none, &pos, &key, &value));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_get_and_replace),
        cmocka_unit_test(keys_are_bytes_and_copied),
        cmocka_unit_test(many_entries_are_found_through_growth_and_shrinking),
        cmocka_unit_test(coming_and_going_does_not_grow_the_table),
        cmocka_unit_test(random_operations_agree_with_a_plain_array),
        cmocka_unit_test(a_visit_meets_each_entry_once_and_may_remove_it),
    };
    return cmocka_run_group_tests_name("map", tests, NULL, NULL);
}
