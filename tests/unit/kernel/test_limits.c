/* Request windows: per caller and method, sliding, bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <stdio.h>

#include "base/time.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

static void c01_30_a_window_slides(void **state)
{
    struct kernel_limits l = { 0 };
    int64_t t = 1000 * AST_NS_PER_SEC;
    (void)state;
    kernel_limits_init(&l);
    for (unsigned i = 0; i < 5; i++)
        assert_true(kernel_limits_admit(&l, AST_STR("ReloadCapsules"), AST_STR("a"), 5,
                                        t + i * AST_NS_PER_SEC));
    assert_false(kernel_limits_admit(&l, AST_STR("ReloadCapsules"), AST_STR("a"), 5,
                                     t + 59 * AST_NS_PER_SEC));
    assert_true(kernel_limits_admit(&l, AST_STR("ReloadCapsules"), AST_STR("a"), 5,
                                    t + 60 * AST_NS_PER_SEC));
    assert_false(kernel_limits_admit(&l, AST_STR("ReloadCapsules"), AST_STR("a"), 5,
                                     t + 60 * AST_NS_PER_SEC));
    kernel_limits_done(&l);
}

static void callers_and_methods_have_their_own(void **state)
{
    struct kernel_limits l = { 0 };
    (void)state;
    kernel_limits_init(&l);
    assert_true(kernel_limits_admit(&l, AST_STR("Shutdown"), AST_STR("a"), 1, 0));
    assert_false(kernel_limits_admit(&l, AST_STR("Shutdown"), AST_STR("a"), 1, 1));
    assert_true(kernel_limits_admit(&l, AST_STR("Shutdown"), AST_STR("b"), 1, 1));
    assert_true(kernel_limits_admit(&l, AST_STR("InstallCapsule"), AST_STR("a"), 1, 1));
    kernel_limits_done(&l);
}

static void a_flood_of_callers_is_refused_not_remembered(void **state)
{
    struct kernel_limits l = { 0 };
    unsigned admitted = 0;
    char name[32];
    (void)state;
    kernel_limits_init(&l);
    for (unsigned i = 0; i < 10000; i++) {
        snprintf(name, sizeof name, "p%u", i);
        admitted += kernel_limits_admit(&l, AST_STR("Shutdown"), ast_str_c(name), 1, 0);
    }
    assert_int_equal(admitted, 4096);
    assert_true(
        kernel_limits_admit(&l, AST_STR("Shutdown"), AST_STR("late"), 1, 61 * AST_NS_PER_SEC));
    kernel_limits_done(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c01_30_a_window_slides),
        cmocka_unit_test(callers_and_methods_have_their_own),
        cmocka_unit_test(a_flood_of_callers_is_refused_not_remembered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
