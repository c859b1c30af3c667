/* Who ends itself when idle, and when (spec 01 §16.6). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include "base/time.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

static void c01_44_a_persistent_daemon_needs_a_valid_number(void **state)
{
    static const char *const no_numbers[] = { NULL, "",    "soon",
                                              "-1", "1.5", " 1",
                                              "1s", "+1",  "99999999999999999999" };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(no_numbers); i++)
        assert_false(kernel_idle_plan(false, no_numbers[i]).enabled);
    struct kernel_idle_plan p = kernel_idle_plan(false, "120");
    assert_true(p.enabled);
    assert_true(p.timeout_ns == 120 * AST_NS_PER_SEC);
    assert_int_equal(p.first_ms, 30000);
    assert_int_equal(p.period_ms, 15000);
}

static void an_ephemeral_daemon_waits_half_a_minute_unless_told(void **state)
{
    static const char *const no_numbers[] = { NULL, "", "soon" };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(no_numbers); i++) {
        struct kernel_idle_plan p = kernel_idle_plan(true, no_numbers[i]);
        assert_true(p.enabled);
        assert_true(p.timeout_ns == 30 * AST_NS_PER_SEC);
        assert_int_equal(p.first_ms, 5000);
        assert_int_equal(p.period_ms, 1000);
    }
    assert_true(kernel_idle_plan(true, "0").timeout_ns == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c01_44_a_persistent_daemon_needs_a_valid_number),
        cmocka_unit_test(an_ephemeral_daemon_waits_half_a_minute_unless_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
