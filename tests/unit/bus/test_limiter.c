#include "bus_test.h"

#include "base/time.h"
#include "bus/limiter.h"

#include "base/banned.h"

#define CEILING 10485760u
#define SEC     AST_NS_PER_SEC

static struct ast_limiter *limiter_new(void)
{
    struct ast_limiter *l = NULL;
    assert_int_equal(ast_limiter_new(&l, NULL), AST_OK);
    return l;
}

static void c04_08_a_window_holds_exactly_the_ceiling(void **state)
{
    (void)state;
    AST_AUTO(ast_limiter_free) struct ast_limiter *l = limiter_new();
    struct ast_str alice = AST_STR("alice");
    assert_true(ast_limiter_admit(l, alice, 5242880, CEILING, 0));
    assert_true(ast_limiter_admit(l, alice, 5242879, CEILING, SEC / 2));
    assert_false(ast_limiter_admit(l, alice, 2, CEILING, SEC / 2)); /* refused and not charged */
    assert_true(ast_limiter_admit(l, alice, 1, CEILING, SEC - 1));
    assert_false(ast_limiter_admit(l, alice, 1, CEILING, SEC - 1));
    assert_true(ast_limiter_admit(l, alice, 0, CEILING, SEC - 1));
    assert_true(ast_limiter_admit(l, alice, 5242880, CEILING, SEC));
    assert_true(ast_limiter_admit(l, alice, 5242880, CEILING, SEC));
    assert_false(
        ast_limiter_admit(l, alice, 1, CEILING, 2 * SEC - 1)); /* the window began at 1 s */
    assert_true(ast_limiter_admit(l, alice, 1, CEILING, 2 * SEC));
}

static void c04_06_a_payload_over_five_mib_is_refused_whatever_the_ceiling(void **state)
{
    (void)state;
    AST_AUTO(ast_limiter_free) struct ast_limiter *l = limiter_new();
    assert_false(ast_limiter_admit(l, AST_STR("a"), AST_LIMITER_MAX_PAYLOAD + 1, UINT64_MAX, 0));
    assert_true(ast_limiter_admit(l, AST_STR("a"), AST_LIMITER_MAX_PAYLOAD, UINT64_MAX, 0));
    assert_false(ast_limiter_admit(l, AST_STR("a"), SIZE_MAX, UINT64_MAX, 0));
}

static void c04_09_budgets_are_independent(void **state)
{
    (void)state;
    AST_AUTO(ast_limiter_free) struct ast_limiter *one = limiter_new();
    AST_AUTO(ast_limiter_free) struct ast_limiter *two = limiter_new();
    assert_true(ast_limiter_admit(one, AST_STR("alice"), 100, 100, 0));
    assert_false(ast_limiter_admit(one, AST_STR("alice"), 1, 100, 0));
    assert_true(ast_limiter_admit(one, AST_STR("bob"), 100, 100, 0));
    assert_true(ast_limiter_admit(one, AST_STR(""), 100, 100, 0));
    assert_true(ast_limiter_admit(two, AST_STR("alice"), 100, 100, 0));
}

static void a_ceiling_may_shrink_within_a_window(void **state)
{
    (void)state;
    AST_AUTO(ast_limiter_free) struct ast_limiter *l = limiter_new();
    assert_true(ast_limiter_admit(l, AST_STR("a"), 1000, 2000, 0));
    assert_false(ast_limiter_admit(l, AST_STR("a"), 1, 500, 1));
    assert_true(ast_limiter_admit(l, AST_STR("a"), 1000, 2000, 2));
}

static bool admit_numbered(struct ast_limiter *l, unsigned i, int64_t now)
{
    char key[32];
    int n = snprintf(key, sizeof key, "p%u", i);
    return ast_limiter_admit(l, ast_str_n(key, (size_t)n), 1, 1, now);
}

static void pruning_forgets_only_what_is_over(void **state)
{
    (void)state;
    AST_AUTO(ast_limiter_free) struct ast_limiter *l = limiter_new();
    for (unsigned i = 0; i < 2000; i++)
        assert_true(admit_numbered(l, i, 0));
    for (unsigned i = 0; i < 500; i++)
        assert_true(admit_numbered(l, i, 60 * SEC));
    assert_true(admit_numbered(l, 5000, 60 * SEC + 2)); /* more than a minute: prunes */
    for (unsigned i = 0; i < 500; i++)
        assert_false(admit_numbered(l, i, 60 * SEC + 3)); /* their window still runs */
    for (unsigned i = 500; i < 2000; i++)
        assert_true(admit_numbered(l, i, 60 * SEC + 3));
}

static void the_number_of_keys_has_an_end(void **state)
{
    (void)state;
    AST_AUTO(ast_limiter_free) struct ast_limiter *l = limiter_new();
    for (unsigned i = 0; i < 100000; i++)
        assert_true(admit_numbered(l, i, 0));
    assert_false(admit_numbered(l, 100000, 1));
    assert_false(admit_numbered(l, 7, 1));       /* a known key keeps its window: used up */
    assert_true(admit_numbered(l, 100000, SEC)); /* all windows are over */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c04_08_a_window_holds_exactly_the_ceiling),
        cmocka_unit_test(c04_06_a_payload_over_five_mib_is_refused_whatever_the_ceiling),
        cmocka_unit_test(c04_09_budgets_are_independent),
        cmocka_unit_test(a_ceiling_may_shrink_within_a_window),
        cmocka_unit_test(pruning_forgets_only_what_is_over),
        cmocka_unit_test(the_number_of_keys_has_an_end),
    };
    return cmocka_run_group_tests_name("limiter", tests, NULL, NULL);
}
