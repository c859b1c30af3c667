/* Snapshots against a real registry: what was sent is what is told, for all and for one. */
#include "rig.h"

#include <sched.h>

#include "bus/metrics.h"
#include "capsule/activity.h"
#include "capsule/registry_priv.h"

#include "base/banned.h"

static struct ast_activity *look(struct rig *r, const char *only, enum ast_activity_sort sort,
                                 unsigned limit)
{
    const struct ast_activity_ask ask = { .only = ast_str_c(only), .sort = sort, .limit = limit };
    struct ast_activity *a = NULL;
    struct ast_err err = AST_ERR_INIT;
    rig_check(ast_capsules_activity(r->capsules, &ask, &a, &err), &err);
    return a;
}

static struct ast_activity *look_all(struct rig *r)
{
    return look(r, "", AST_ACTIVITY_SORT_CPU, AST_ACTIVITY_MAX_ROWS);
}

static const struct ast_activity_principal *principal(const struct ast_activity *a,
                                                      const char *name)
{
    for (size_t i = 0; i < a->principal_count; i++)
        if (ast_str_eq(ast_principal_str(&a->principals[i].name), ast_str_c(name)))
            return &a->principals[i];
    return NULL;
}

static const struct ast_activity_capsule *capsule_row(const struct ast_activity *a, const char *id)
{
    for (size_t i = 0; i < a->capsule_count; i++)
        if (ast_str_eq(a->capsules[i].id, ast_str_c(id)))
            return &a->capsules[i];
    fail_msg("no row for %s", id);
    return NULL;
}

static uint64_t calls_of(struct rig *r, const char *name)
{
    AST_AUTO(ast_activity_free) struct ast_activity *a = look_all(r);
    const struct ast_activity_principal *p = principal(a, name);
    return p ? p->f.calls : 0;
}

static void send_n(struct rig *r, const char *topic, const char *name, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t before = calls_of(r, name);
        rig_publish(r, topic, name, "{}");
        rig_until(calls_of(r, name) == before + 1);
    }
}

static void calls_fuel_and_memory_add_up_over_capsules_and_principals(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "one", RIG_ON("t.one", "see"), RIG_HANDLER);
    rig_install(&r, "two", RIG_ON("t.two", "see"), RIG_HANDLER);
    rig_load(&r, "one");
    rig_load(&r, "two");
    send_n(&r, "t.one", "alice", 3);
    send_n(&r, "t.two", "alice", 2);
    send_n(&r, "t.one", "bob", 4);
    send_n(&r, "t.two", "carol", 1);
    rig_until(rig_row(&r, "one").calls == 7 && rig_row(&r, "two").calls == 3);

    AST_AUTO(ast_activity_free) struct ast_activity *a = look_all(&r);
    assert_true(a->everybody);
    assert_int_equal(a->capsules_total, 2);
    assert_int_equal(a->principals_total, 3);
    assert_str(ast_principal_str(&a->principals[0].name), "alice");
    assert_str(ast_principal_str(&a->principals[2].name), "carol");
    assert_int_equal(principal(a, "alice")->f.calls, 5);
    assert_int_equal(principal(a, "bob")->f.calls, 4);
    assert_int_equal(principal(a, "carol")->f.calls, 1);
    assert_int_equal(capsule_row(a, "one")->f.calls, 7);
    assert_int_equal(capsule_row(a, "two")->f.calls, 3);
    assert_int_equal(capsule_row(a, "two")->state, AST_ACTIVITY_READY);
    uint64_t by_capsule = 0, by_principal = 0;
    for (size_t i = 0; i < a->capsule_count; i++)
        by_capsule += a->capsules[i].f.cpu_fuel;
    for (size_t i = 0; i < a->principal_count; i++) {
        by_principal += a->principals[i].f.cpu_fuel;
        assert_int_equal(a->principals[i].f.memory_peak_bytes, 4 * 65536);
    }
    assert_true(by_capsule > 0);
    assert_int_equal(by_capsule, by_principal);
    assert_int_equal(capsule_row(a, "one")->f.memory_peak_bytes, 4 * 65536);
    assert_int_equal(a->other.calls, 0);
    assert_true(ast_capsules_fuel_total(r.capsules, AST_STR("alice")) ==
                principal(a, "alice")->f.cpu_fuel);
    rig_close(&r);
}

static void what_waits_runs_and_is_dropped_is_told_while_it_does(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "narrow", RIG_ON("t.in", "wait"), RIG_HANDLER);
    rig_load(&r, "narrow");
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.wait", 0); /* it runs and blocks */
    for (int i = 0; i < 66; i++)
        rig_publish(&r, "t.in", "alice", "{}");

    struct ast_activity *a = look_all(&r);
    /* A newcomer: its first call has not ended, its drops have given it an account. */
    assert_int_equal(principal(a, "alice")->f.queued, 64);
    assert_int_equal(principal(a, "alice")->f.running, 1);
    assert_int_equal(principal(a, "alice")->f.dropped, 2);
    assert_int_equal(principal(a, "alice")->f.calls, 0);
    /* The subscription of the call under way is the capsule's queue, too; nothing is in it. */
    assert_int_equal(capsule_row(a, "narrow")->f.queued, 64);
    assert_int_equal(capsule_row(a, "narrow")->f.running, 1);
    assert_int_equal(capsule_row(a, "narrow")->f.dropped, 2);
    ast_activity_free(a);

    a = look(&r, "bob", AST_ACTIVITY_SORT_CPU, 10);
    assert_int_equal(a->principal_count, 1);
    assert_int_equal(a->principals[0].f.queued, 0);
    ast_activity_free(a);
    for (size_t i = 0; i < 65; i++) {
        (void)rig_await(&r, "t.out.wait", i);
        rig_publish(&r, "t.gate", "alice", "{}");
    }
    rig_until(calls_of(&r, "alice") == 65);
    rig_until((a = look_all(&r), principal(a, "alice")->f.running == 0) ||
              (ast_activity_free(a), false));
    assert_int_equal(principal(a, "alice")->f.queued, 0);
    ast_activity_free(a);
    rig_close(&r);
}

static void a_waiting_principal_without_an_account_has_a_row(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "slow", RIG_ON("t.in", "wait"), RIG_HANDLER);
    rig_load(&r, "slow");
    rig_publish(&r, "t.in", "new", "{}");
    (void)rig_await(&r, "t.out.wait", 0);
    rig_publish(&r, "t.in", "new", "{}");
    AST_AUTO(ast_activity_free) struct ast_activity *a = look_all(&r);
    assert_int_equal(principal(a, "new")->f.running, 1);
    assert_int_equal(principal(a, "new")->f.queued, 1);
    assert_int_equal(a->principals_total, 1);
    rig_close(&r);
}

static void a_trap_is_a_failure_of_the_capsule_and_of_who_called(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "frail",
                "[subscribe]\n\"t.bad\" = { wit = \"opaque\", handler = \"trap\" }\n"
                "\"t.good\" = { wit = \"opaque\", handler = \"see\" }\n",
                RIG_HANDLER);
    rig_load(&r, "frail");
    send_n(&r, "t.bad", "mallory", 2);
    send_n(&r, "t.good", "alice", 1);
    rig_until(rig_row(&r, "frail").calls == 3 && rig_row(&r, "frail").traps == 2);
    AST_AUTO(ast_activity_free) struct ast_activity *a = look_all(&r);
    assert_int_equal(principal(a, "mallory")->f.failures, 2);
    assert_int_equal(principal(a, "mallory")->f.calls, 2);
    assert_int_equal(principal(a, "alice")->f.failures, 0);
    assert_int_equal(capsule_row(a, "frail")->f.failures, 2);
    assert_int_equal(capsule_row(a, "frail")->f.calls, 3);
    rig_close(&r);
}

static void c04_47_a_restarted_loop_is_counted_and_a_dead_one_is_failed(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(
        &r, "brief", "[subscribe]\n\"t.gate\" = \"opaque\"\n",
        RIG_LOOP("(call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200)) (call $ready)"
                 "(call $recv (i32.load (i32.const 5204)) (i64.const 60000) (i32.const 5304))"));
    rig_load(&r, "brief");
    rig_publish(&r, "t.gate", "alice", "{}"); /* it returns */
    rig_until(rig_row(&r, "brief").failed);
    struct ast_activity *a = look_all(&r);
    assert_int_equal(capsule_row(a, "brief")->state, AST_ACTIVITY_FAILED);
    assert_int_equal(capsule_row(a, "brief")->restarts, 0);
    assert_true(capsule_row(a, "brief")->is_run_loop);
    ast_activity_free(a);
    ast_capsules_probe(r.capsules, 10 * AST_NS_PER_SEC);
    ast_capsules_probe(r.capsules, 20 * AST_NS_PER_SEC);
    a = look_all(&r);
    assert_int_equal(capsule_row(a, "brief")->state, AST_ACTIVITY_READY);
    assert_int_equal(capsule_row(a, "brief")->restarts, 1);
    assert_true(capsule_row(a, "brief")->f.cpu_fuel > 0);
    ast_activity_free(a);
    rig_close(&r);
}

static void one_principal_sees_itself_and_no_figures_of_capsules(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "shared", RIG_ON("t.in", "see"), RIG_HANDLER);
    rig_load(&r, "shared");
    send_n(&r, "t.in", "alice", 2);
    send_n(&r, "t.in", "bob", 3);
    AST_AUTO(ast_activity_free)
    struct ast_activity *a = look(&r, "alice", AST_ACTIVITY_SORT_CPU, 10);
    assert_false(a->everybody);
    assert_int_equal(a->principals_total, 1);
    assert_int_equal(a->principal_count, 1);
    assert_str(ast_principal_str(&a->principals[0].name), "alice");
    assert_int_equal(a->principals[0].f.calls, 2);
    assert_int_equal(a->other.calls, 0);
    const struct ast_activity_figures none = { 0 };
    assert_memory_equal(&capsule_row(a, "shared")->f, &none, sizeof none);
    assert_int_equal(capsule_row(a, "shared")->instances, 0);
    rig_close(&r);
}

static void charge_as(struct rig *r, const char *name, uint64_t fuel, uint64_t memory)
{
    const struct capsule_reservation none = { 0 };
    const struct capsule_cost cost = { .fuel = fuel, .memory_bytes = memory };
    capsule_ledger_settle(r->capsules->ledger, ast_str_c(name), &none, &cost, ast_mono_ns());
}

static void of_a_hundred_thousand_principals_the_busiest_have_rows_and_the_sum_is_whole(
    void **state)
{
    enum { MANY = 100000, FEW = 50 };
    struct rig r;
    char name[32];
    uint64_t fuel = 0;
    rig_open(&r, NULL);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "p%u", i);
        charge_as(&r, name, 1000, 65536);
        fuel += 1000;
    }
    for (unsigned i = 0; i < FEW; i++) {
        snprintf(name, sizeof name, "busy%u", i);
        charge_as(&r, name, UINT64_C(1000000) + i, 65536 * (i + 1));
        fuel += UINT64_C(1000000) + i;
    }
    AST_AUTO(ast_activity_free)
    struct ast_activity *a = look(&r, "", AST_ACTIVITY_SORT_CPU, FEW);
    assert_int_equal(a->principal_count, FEW);
    assert_in_range(a->principals_total, CAPSULE_LEDGER_MAX_PRINCIPALS / 2,
                    CAPSULE_LEDGER_MAX_PRINCIPALS);
    uint64_t calls = a->other.calls, sum = a->other.cpu_fuel;
    for (size_t i = 0; i < FEW; i++) {
        calls += a->principals[i].f.calls;
        sum += a->principals[i].f.cpu_fuel;
        assert_true(ast_str_starts(ast_principal_str(&a->principals[i].name), AST_STR("busy")));
    }
    assert_int_equal(calls, MANY + FEW); /* those that gave way are summed, too */
    assert_int_equal(sum, fuel);
    ast_activity_free(ast_steal(&a));

    a = look(&r, "", AST_ACTIVITY_SORT_MEMORY, 1);
    assert_str(ast_principal_str(&a->principals[0].name), "busy49");
    assert_int_equal(a->other.memory_peak_bytes, 65536 * 49);
    rig_close(&r);
}

static void the_busiest_is_who_is_busy_now_not_who_was(void **state)
{
    struct capsule_ledger *l = NULL;
    const struct capsule_reservation none = { 0 };
    const struct capsule_cost big = { .fuel = 1 << 20 }, small = { .fuel = 1 << 10 };
    struct capsule_use use;
    assert_int_equal(capsule_ledger_new(&l, NULL), AST_OK);
    capsule_ledger_settle(l, AST_STR("was"), &none, &big, 0);
    capsule_ledger_settle(l, AST_STR("is"), &none, &small, 12 * AST_NS_PER_SEC);
    capsule_ledger_use(l, AST_STR("was"), 0, &use);
    assert_int_equal(use.recent_fuel, 1 << 20);
    assert_int_equal(use.recent_calls, 1);
    capsule_ledger_use(l, AST_STR("was"), 4 * AST_NS_PER_SEC, &use);
    assert_int_equal(use.recent_fuel, 1 << 16); /* half of it each second */
    capsule_ledger_use(l, AST_STR("was"), 12 * AST_NS_PER_SEC, &use);
    assert_int_equal(use.recent_fuel, 1 << 8);
    assert_int_equal(use.fuel, 1 << 20);
    capsule_ledger_use(l, AST_STR("is"), 12 * AST_NS_PER_SEC, &use);
    assert_int_equal(use.recent_fuel, 1 << 10);
    capsule_ledger_settle(l, AST_STR("was"), &none, &small, 20 * AST_NS_PER_SEC);
    capsule_ledger_use(l, AST_STR("was"), 20 * AST_NS_PER_SEC, &use);
    assert_int_equal(use.recent_fuel, (1 << 10) + 1); /* 2^20 halved 20 times, and the new call */
    assert_int_equal(use.calls, 2);
    capsule_ledger_free(l);
}

static bool says(const char *series, unsigned long long v)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(16 << 20);
    char line[200];
    assert_int_equal(ast_metrics_render(&out), AST_OK);
    snprintf(line, sizeof line, "\n%s %llu\n", series, v);
    return strstr(out.p, line) != NULL;
}

static void c03_55_the_metrics_say_the_same_and_name_no_principal(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "gauged", RIG_ON("t.in", "wait"), RIG_HANDLER);
    rig_load(&r, "gauged");
    rig_publish(&r, "t.in", "very-private", "{}");
    (void)rig_await(&r, "t.out.wait", 0);
    rig_publish(&r, "t.in", "very-private", "{}");
    assert_true(says("astrid_capsule_queued_events{capsule=\"gauged\"}", 1));
    assert_true(says("astrid_capsule_running_calls{capsule=\"gauged\"}", 1));
    rig_publish(&r, "t.gate", "very-private", "{}");
    (void)rig_await(&r, "t.out.wait", 1);
    rig_publish(&r, "t.gate", "very-private", "{}");
    rig_until(rig_row(&r, "gauged").calls == 2);
    rig_until(says("astrid_capsule_running_calls{capsule=\"gauged\"}", 0));
    AST_AUTO(ast_activity_free) struct ast_activity *a = look_all(&r);
    const struct ast_activity_figures *f = &capsule_row(a, "gauged")->f;
    assert_true(says("astrid_capsule_cpu_fuel_total{capsule=\"gauged\"}", f->cpu_fuel));
    assert_true(says("astrid_capsule_memory_peak_bytes{capsule=\"gauged\"}", f->memory_peak_bytes));
    assert_true(says("astrid_principals_known", 1));
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(16 << 20);
    assert_int_equal(ast_metrics_render(&out), AST_OK);
    assert_null(strstr(out.p, "very-private"));
    rig_close(&r);
    /* Whoever scrapes now asks no registry that is gone. */
    ast_buf_reset(&out);
    assert_int_equal(ast_metrics_render(&out), AST_OK);
}

/* Answers each message after a million rounds. */
#define WORKS                                                                                      \
    "(call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200)) (call $ready)"              \
    "(loop $l (global.set $heap (i32.const 131072))"                                               \
    "  (call $recv (i32.load (i32.const 5204)) (i64.const 60000) (i32.const 5304))"                \
    "  (local.set $n (i32.const 1000000))"                                                         \
    "  (if (i32.load (i32.const 5316)) (then"                                                      \
    "    (loop $w (local.set $n (i32.sub (local.get $n) (i32.const 1)))"                           \
    "      (br_if $w (local.get $n)))"                                                             \
    "    (call $publish (i32.const 1024) (i32.const 7) (i32.const 2150) (i32.const 7)"             \
    "      (i32.const 5000))))"                                                                    \
    "  (br $l))"
#define LOOP_OF(body)                                                                              \
    "(module " RIG_IMPORTS RIG_FRAME RIG_HOOK "(data (i32.const 1030) \"a\")"                      \
    "(func (export \"run\") (local $n i32) " body "))"
#define GATE "[subscribe]\n\"t.gate\" = \"opaque\"\n"

static uint64_t fuel_of(struct rig *r, const char *name)
{
    return ast_capsules_fuel_total(r->capsules, ast_str_c(name));
}

static void a_run_loop_burns_for_whom_it_acts_and_it_shows_while_it_runs(void **state)
{
    enum { WORK = 1000000 };
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "loop", GATE, LOOP_OF(WORKS));
    rig_load(&r, "loop");
    rig_publish(&r, "t.gate", "alice", "{}");
    (void)rig_await(&r, "t.out.a", 0);
    rig_until(fuel_of(&r, "alice") >= WORK); /* it has asked for the next one by then */
    uint64_t alice = fuel_of(&r, "alice");
    assert_true(alice < 20 * WORK || alice < UINT64_C(500000000)); /* ticks, on a slow machine */
    for (size_t i = 1; i <= 2; i++) { /* two envelopes */
        rig_publish(&r, "t.gate", "bob", "{}");
        (void)rig_await(&r, "t.out.a", i);
    }
    rig_until(fuel_of(&r, "bob") >= 2 * WORK);
    assert_true(fuel_of(&r, "alice") == alice);
    assert_true(fuel_of(&r, "default") < WORK); /* what it took to get ready */

    AST_AUTO(ast_activity_free) struct ast_activity *a = look_all(&r);
    uint64_t sum = 0;
    for (size_t i = 0; i < a->principal_count; i++)
        sum += a->principals[i].f.cpu_fuel;
    assert_true(capsule_row(a, "loop")->f.cpu_fuel == sum);
    assert_int_equal(capsule_row(a, "loop")->f.memory_peak_bytes, 4 * 65536);
    assert_false(capsule_row(a, "loop")->state == AST_ACTIVITY_FAILED);
    rig_close(&r);
}

static void what_a_subscription_loses_is_counted_for_whose_message_it_was(void **state)
{
    enum { HALF = 600 * 1024 };
    struct rig r;
    char *json = malloc(HALF + 16);
    assert_non_null(json);
    (void)snprintf(json, HALF + 16, "{\"a\":\"%0*d\"}", HALF, 0);
    rig_open(&r, NULL);
    rig_install(
        &r, "deaf", GATE, /* subscribes and does something else */
        LOOP_OF("(call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200))"
                "(call $ready)"
                "(loop $l (call $sleep (i64.const 60000000000) (i32.const 5400)) (br $l))"));
    rig_load(&r, "deaf");
    rig_publish(&r, "t.gate", "alice", json);
    rig_publish(&r, "t.gate", "bob", json);   /* pushes the first of alice out */
    rig_publish(&r, "t.gate", "", json);      /* and this one that of bob */
    rig_publish(&r, "t.gate", "alice", json); /* and this one the system's, which is its owner's */
    AST_AUTO(ast_activity_free) struct ast_activity *a = look_all(&r);
    assert_int_equal(principal(a, "alice")->f.dropped, 1);
    assert_int_equal(principal(a, "bob")->f.dropped, 1);
    assert_int_equal(principal(a, "default")->f.dropped, 1);
    assert_int_equal(capsule_row(a, "deaf")->f.dropped, 3);
    rig_close(&r);
    free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_fuel_and_memory_add_up_over_capsules_and_principals),
        cmocka_unit_test(what_waits_runs_and_is_dropped_is_told_while_it_does),
        cmocka_unit_test(a_waiting_principal_without_an_account_has_a_row),
        cmocka_unit_test(a_trap_is_a_failure_of_the_capsule_and_of_who_called),
        cmocka_unit_test(a_run_loop_burns_for_whom_it_acts_and_it_shows_while_it_runs),
        cmocka_unit_test(what_a_subscription_loses_is_counted_for_whose_message_it_was),
        cmocka_unit_test(c04_47_a_restarted_loop_is_counted_and_a_dead_one_is_failed),
        cmocka_unit_test(one_principal_sees_itself_and_no_figures_of_capsules),
        cmocka_unit_test(
            of_a_hundred_thousand_principals_the_busiest_have_rows_and_the_sum_is_whole),
        cmocka_unit_test(the_busiest_is_who_is_busy_now_not_who_was),
        cmocka_unit_test(c03_55_the_metrics_say_the_same_and_name_no_principal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
