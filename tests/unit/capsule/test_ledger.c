/* Fuel totals, the rate limiter's worked example, memory peaks; all with a clock of our own. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/time.h"
#include "capsule/ledger_priv.h"

#define ALICE  AST_STR("alice")
#define BUDGET UINT64_C(2000000000)
#define SEC    AST_NS_PER_SEC

static const struct capsule_reservation none;

static bool is_exempt(void *arg, struct ast_str principal)
{
    unsigned *asked = arg;
    ++*asked;
    return ast_str_is(principal, "root");
}

static bool admit(struct capsule_ledger *l, struct ast_str principal, uint64_t budget,
                  int64_t now_ns, struct capsule_reservation *ret)
{
    unsigned asked = 0;
    struct capsule_reservation unused;
    return capsule_ledger_admit(l, principal, budget, now_ns, is_exempt, &asked,
                                ret ? ret : &unused);
}

static struct capsule_ledger *open_ledger(void)
{
    struct capsule_ledger *l = NULL;
    assert_int_equal(capsule_ledger_new(&l, NULL), AST_OK);
    return l;
}

static void c04_46_the_worked_example_of_the_window(void **state)
{
    struct capsule_ledger *l = open_ledger();
    assert_true(admit(l, ALICE, BUDGET, 0, NULL)); /* no account: admitted, none made */
    capsule_ledger_charge(l, ALICE, &none, 5 * SEC, 0);
    assert_false(admit(l, ALICE, BUDGET, 4 * SEC / 10, NULL));
    assert_true(admit(l, ALICE, BUDGET, SEC, NULL));
    capsule_ledger_free(l);
}

static void equality_admits_and_one_more_denies(void **state)
{
    struct capsule_ledger *l = open_ledger();
    capsule_ledger_charge(l, ALICE, &none, BUDGET, 10);
    struct capsule_reservation held;
    assert_true(admit(l, ALICE, BUDGET, 11, &held));
    capsule_ledger_charge(l, ALICE, &held, 1, 12);
    assert_false(admit(l, ALICE, BUDGET, 13, NULL));
    assert_true(admit(l, ALICE, 0, 13, NULL));      /* no budget, no limit */
    assert_false(admit(l, ALICE, BUDGET, 5, NULL)); /* time that goes back is no time */
    assert_true(admit(l, ALICE, BUDGET, 10 + SEC, NULL));
    capsule_ledger_free(l);
}

static void c05_53_an_exempt_principal_is_asked_for_only_when_over_and_is_admitted(void **state)
{
    struct capsule_ledger *l = open_ledger();
    struct capsule_reservation held;
    unsigned asked = 0;
    struct ast_str root = AST_STR("root");
    capsule_ledger_charge(l, root, &none, 1, 0);
    assert_true(capsule_ledger_admit(l, root, BUDGET, 1, is_exempt, &asked, &held));
    assert_int_equal(asked, 0);
    capsule_ledger_charge(l, root, &held, 3 * BUDGET, 2);
    assert_true(capsule_ledger_admit(l, root, BUDGET, 3, is_exempt, &asked, &held));
    assert_int_equal(asked, 1);
    capsule_ledger_free(l);
}

static void calls_side_by_side_cannot_pass_the_budget_together(void **state)
{
    struct capsule_ledger *l = open_ledger();
    struct capsule_reservation a, b;
    capsule_ledger_charge(l, ALICE, &none, BUDGET * 6 / 10, 0); /* what a call usually burns */
    assert_true(admit(l, ALICE, BUDGET, SEC, &a));
    assert_true(admit(l, ALICE, BUDGET, SEC, &b));      /* 0.6 expected: within */
    assert_false(admit(l, ALICE, BUDGET, SEC, NULL));   /* 1.2 expected */
    capsule_ledger_charge(l, ALICE, &a, 1000, SEC + 1); /* it burned nearly nothing */
    assert_true(admit(l, ALICE, BUDGET, SEC + 2, NULL));
    assert_true(
        admit(l, ALICE, BUDGET, 3 * SEC, NULL)); /* a long call does not weigh on later windows */
    capsule_ledger_charge(l, ALICE, &b, 1000, 3 * SEC + 1);
    capsule_ledger_free(l);
}

static void c05_54_totals_add_up_and_saturate(void **state)
{
    struct capsule_ledger *l = open_ledger();
    assert_int_equal(capsule_ledger_fuel(l, ALICE), 0);
    capsule_ledger_charge(l, ALICE, &none, 0, 0);
    capsule_ledger_charge(l, ALICE, &none, 40, 0);
    capsule_ledger_charge(l, ALICE, &none, 2, 5 * SEC);
    capsule_ledger_charge(l, AST_STR("bob"), &none, 7, 5 * SEC);
    assert_int_equal(capsule_ledger_fuel(l, ALICE), 42);
    assert_int_equal(capsule_ledger_fuel(l, AST_STR("bob")), 7);
    capsule_ledger_charge(l, ALICE, &none, UINT64_MAX, 5 * SEC);
    assert_true(capsule_ledger_fuel(l, ALICE) == UINT64_MAX);
    capsule_ledger_forget(l, ALICE);
    assert_int_equal(capsule_ledger_fuel(l, ALICE), 0);
    assert_int_equal(capsule_ledger_fuel(l, AST_STR("bob")), 7);
    capsule_ledger_free(l);
}

static void accounts_are_bounded_and_the_heavy_ones_stay(void **state)
{
    struct capsule_ledger *l = open_ledger();
    char name[32];
    capsule_ledger_charge(l, ALICE, &none, UINT64_C(1) << 40, 0);
    for (unsigned i = 0; i < 2 * CAPSULE_LEDGER_MAX_PRINCIPALS; i++) {
        snprintf(name, sizeof name, "p%u", i);
        capsule_ledger_charge(l, ast_str_c(name), &none, 1 + i, (int64_t)i * SEC);
    }
    unsigned kept = 0;
    for (unsigned i = 0; i < 2 * CAPSULE_LEDGER_MAX_PRINCIPALS; i++) {
        snprintf(name, sizeof name, "p%u", i);
        kept += capsule_ledger_fuel(l, ast_str_c(name)) > 0;
    }
    assert_in_range(kept, CAPSULE_LEDGER_MAX_PRINCIPALS / 2, CAPSULE_LEDGER_MAX_PRINCIPALS);
    assert_true(capsule_ledger_fuel(l, ALICE) == UINT64_C(1) << 40);
    capsule_ledger_free(l);
}

static void peaks_only_grow_and_at_capacity_only_larger_ones_come_in(void **state)
{
    struct capsule_ledger *l = open_ledger();
    char name[32];
    for (unsigned i = 0; i < CAPSULE_LEDGER_MAX_PEAKS; i++) {
        snprintf(name, sizeof name, "p%u", i);
        capsule_ledger_grew(l, ast_str_c(name), 1000 + i);
    }
    capsule_ledger_grew(l, AST_STR("p5"), 1); /* not a peak */
    assert_int_equal(capsule_ledger_peak(l, AST_STR("p5")), 1005);
    capsule_ledger_grew(l, ALICE, 1000); /* equal to the smallest: stays out */
    assert_int_equal(capsule_ledger_peak(l, ALICE), 0);
    assert_int_equal(capsule_ledger_peak(l, AST_STR("p0")), 1000);
    capsule_ledger_grew(l, ALICE, 1001); /* larger: takes the smallest one's place */
    assert_int_equal(capsule_ledger_peak(l, ALICE), 1001);
    assert_int_equal(capsule_ledger_peak(l, AST_STR("p0")), 0);
    capsule_ledger_forget(l, ALICE);
    capsule_ledger_grew(l, AST_STR("bob"), 1);
    assert_int_equal(capsule_ledger_peak(l, AST_STR("bob")), 1);
    capsule_ledger_free(l);
}

static struct capsule_use gone_of(struct capsule_ledger *l)
{
    struct capsule_use *rows = calloc(capsule_ledger_shard_max(), sizeof *rows);
    struct capsule_use gone, sum = { 0 };
    size_t n;
    assert_non_null(rows);
    for (unsigned shard = 0; capsule_ledger_copy(l, shard, 0, rows, &n, &gone); shard++) {
        sum.calls += gone.calls;
        sum.failures += gone.failures;
        sum.throttled += gone.throttled;
        sum.dropped += gone.dropped;
        sum.fuel += gone.fuel;
        sum.memory_peak_bytes = AST_MAX(sum.memory_peak_bytes, gone.memory_peak_bytes);
    }
    free(rows);
    return sum;
}

static void what_an_account_counted_stays_in_the_sums_when_it_is_forgotten(void **state)
{
    struct capsule_ledger *l = open_ledger();
    const struct capsule_cost good = { .fuel = BUDGET, .memory_bytes = 65536 };
    const struct capsule_cost bad = { .fuel = 1, .memory_bytes = 131072, .failed = true };
    struct capsule_use use;

    capsule_ledger_use(l, ALICE, 0, &use);
    assert_int_equal(use.calls, 0);
    capsule_ledger_settle(l, ALICE, &none, &good, 0);
    capsule_ledger_settle(l, ALICE, &none, &bad, 1);
    assert_false(admit(l, ALICE, BUDGET, 2, NULL));
    assert_false(admit(l, ALICE, BUDGET, 3, NULL));
    capsule_ledger_dropped(l, ALICE, 4);
    capsule_ledger_charge(l, ALICE, &none, 5, 5); /* a run loop's: no call */
    assert_int_equal(capsule_ledger_count(l), 1);
    capsule_ledger_use(l, ALICE, 5, &use);
    assert_true(ast_str_eq(ast_principal_str(&use.principal), ALICE));
    assert_int_equal(use.calls, 2);
    assert_int_equal(use.failures, 1);
    assert_int_equal(use.throttled, 2);
    assert_int_equal(use.dropped, 1);
    assert_int_equal(use.fuel, BUDGET + 6);
    assert_int_equal(use.memory_peak_bytes, 131072);
    assert_int_equal(gone_of(l).calls, 0);

    capsule_ledger_forget(l, ALICE);
    assert_int_equal(capsule_ledger_count(l), 0);
    struct capsule_use gone = gone_of(l);
    assert_int_equal(gone.calls, 2);
    assert_int_equal(gone.failures, 1);
    assert_int_equal(gone.throttled, 2);
    assert_int_equal(gone.dropped, 1);
    assert_int_equal(gone.fuel, BUDGET + 6);
    assert_int_equal(gone.memory_peak_bytes, 131072);
    capsule_ledger_free(l);
}

static void *charge_many(void *arg)
{
    struct capsule_ledger *l = arg;
    struct capsule_reservation held;
    char name[32];
    for (unsigned i = 0; i < 20000; i++) {
        snprintf(name, sizeof name, "p%u", i % 50);
        (void)admit(l, ast_str_c(name), UINT64_MAX, i, &held);
        capsule_ledger_charge(l, ast_str_c(name), &held, 1, i);
        capsule_ledger_grew(l, ast_str_c(name), i);
    }
    return NULL;
}

static void no_charge_is_lost_between_threads(void **state)
{
    struct capsule_ledger *l = open_ledger();
    pthread_t threads[4];
    uint64_t sum = 0;
    char name[32];
    for (size_t i = 0; i < AST_ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, charge_many, l), 0);
    for (size_t i = 0; i < AST_ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "p%u", i);
        sum += capsule_ledger_fuel(l, ast_str_c(name));
    }
    assert_int_equal(sum, 4 * 20000);
    capsule_ledger_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c04_46_the_worked_example_of_the_window),
        cmocka_unit_test(equality_admits_and_one_more_denies),
        cmocka_unit_test(c05_53_an_exempt_principal_is_asked_for_only_when_over_and_is_admitted),
        cmocka_unit_test(calls_side_by_side_cannot_pass_the_budget_together),
        cmocka_unit_test(c05_54_totals_add_up_and_saturate),
        cmocka_unit_test(accounts_are_bounded_and_the_heavy_ones_stay),
        cmocka_unit_test(peaks_only_grow_and_at_capacity_only_larger_ones_come_in),
        cmocka_unit_test(what_an_account_counted_stays_in_the_sums_when_it_is_forgotten),
        cmocka_unit_test(no_charge_is_lost_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
