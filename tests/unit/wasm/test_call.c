/* Guest calls: how they end, wait, are cancelled and what they may do. */
#include "rig.h"

/* --- Endings ------------------------------------------------------------------------------------- */

static void hook_echoes_and_reports(void **state)
{
    struct rig r = rig_open(RIG_GUEST(RIG_ECHO), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    uint64_t first_fuel = 0;
    for (int k = 0; k < 3; k++) {
        struct rig_call rc = { 0 };
        struct ast_call_config cfg = rig_config(i, &rc);
        rig_run(&r, &rc, &cfg);
        assert_int_equal(rc.res.rc, AST_OK);
        assert_true(ast_str_is(rc.res.action, "continue"));
        assert_true(rc.res.has_data);
        assert_true(ast_str_is(rc.res.data, "payload"));
        assert_string_equal(rc.res.error, "");
        assert_true(rc.res.clean);
        assert_false(rc.res.memory_grew);
        assert_int_equal(rc.res.memory_bytes, 4 * 65536);
        assert_in_range(rc.res.fuel_used, 1, 1000);
        if (k == 1)
            first_fuel = rc.res.fuel_used;
        if (k == 2)
            assert_int_equal(rc.res.fuel_used, first_fuel); /* spec 05 §23.1: deterministic */
        rig_finish(&rc);
    }
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

static const struct {
    const char *name, *body;
    uint64_t fuel;       /* 0: plenty */
    int64_t deadline_ms; /* 0: none */
    enum ast_rc rc;
    const char *error;
} endings[] = {
    { "unreachable", "(unreachable)", 0, 0, AST_E_TRAP,
      "wasm trap: unreachable instruction executed" },
    { "division", "(i32.div_u (i32.const 1) (local.get $i))", 0, 0, AST_E_TRAP,
      "wasm trap: integer divide by zero" },
    { "out of bounds", "(i32.load (i32.const -8))", 0, 0, AST_E_TRAP,
      "wasm trap: out of bounds memory access" },
    { "stack", "(call $deep (i32.const 0))", 0, 0, AST_E_TRAP, "wasm trap: call stack exhausted" },
    { "fuel", "(loop $l (br $l)) (i32.const 0)", 1000000, 0, AST_E_OUT_OF_FUEL,
      "wasm trap: all fuel consumed" },
    { "deadline", "(loop $l (br $l)) (i32.const 0)", 0, 30, AST_E_TIMEOUT, "deadline passed" },
    { "host trap", "(call $touch (i32.const 5))", 0, 0, AST_E_ABI,
      RIG_MODULE " touch: unknown handle index" },
    { "result area out of memory", "(i32.const 0x7ffffff0)", 0, 0, AST_E_ABI,
      "astrid-hook-trigger: pointer or length out of bounds" },
    { "result area at the last byte", "(i32.const 262128)", 0, 0, AST_E_ABI,
      "astrid-hook-trigger: pointer or length out of bounds" },
    { "result area odd", "(i32.const 2049)", 0, 0, AST_E_ABI,
      "astrid-hook-trigger: pointer not aligned" },
    { "result string outside", "(call $ok (i32.const 0) (i32.const 0x10000000))", 0, 0, AST_E_ABI,
      "astrid-hook-trigger: pointer or length out of bounds" },
    { "result not UTF-8",
      "(i32.store8 (i32.const 3000) (i32.const 0xc0)) (call $ok (i32.const 3000) (i32.const 1))", 0,
      0, AST_E_ABI, "astrid-hook-trigger: string is not UTF-8" },
    { "result option",
      "(drop (call $ok (i32.const 0) (i32.const 0))) (i32.store8 (i32.const 2056) (i32.const 2))"
      "(i32.const 2048)",
      0, 0, AST_E_ABI, "astrid-hook-trigger: discriminant out of range" },
    { "host string not UTF-8",
      "(i32.store8 (i32.const 3000) (i32.const 0xff))"
      "(call $string (i32.const 3000) (i32.const 1))",
      0, 0, AST_E_ABI, RIG_MODULE " string: string is not UTF-8" },
    { "host pointer outside", "(call $peek (i32.const 262143) (i32.const 2))", 0, 0, AST_E_ABI,
      RIG_MODULE " peek: pointer or length out of bounds" },
    { "host pointer wraps", "(call $peek (i32.const -1) (i32.const 2))", 0, 0, AST_E_ABI,
      RIG_MODULE " peek: pointer or length out of bounds" },
    { "host pointer odd", "(call $read4 (i32.const 2))", 0, 0, AST_E_ABI,
      RIG_MODULE " read4: pointer not aligned" },
    { "empty list outside", "(call $peek (i32.const 262145) (i32.const 0))", 0, 0, AST_E_ABI,
      RIG_MODULE " peek: pointer or length out of bounds" },
};

static void every_bad_ending_is_classified_and_spends_the_instance(void **state)
{
    for (size_t k = 0; k < AST_ARRAY_LEN(endings); k++) {
        char *wat = NULL;
        assert_true(
            asprintf(&wat,
                     "(module %s (func $deep (param i32) (result i32) (local i64 i64 i64)"
                     "(i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))"
                     "(func (export \"astrid-hook-trigger\") (param $ap i32) (param $al i32)"
                     "(param $pp i32) (param $pl i32) (result i32) (local $i i32) %s))",
                     RIG_IMPORTS RIG_FRAME RIG_REALLOC RIG_POST, endings[k].body) > 0);
        struct rig r = rig_open(wat, NULL, 2);
        free(wat);
        struct ast_instance *i = rig_lease(&r, "alice");
        struct rig_call rc = { 0 };
        struct ast_call_config cfg = rig_config(i, &rc);
        if (endings[k].fuel)
            cfg.fuel = endings[k].fuel;
        int64_t start = ast_mono_ns();
        if (endings[k].deadline_ms)
            cfg.deadline_ns = start + endings[k].deadline_ms * AST_NS_PER_MS;
        rig_run(&r, &rc, &cfg);
        if (rc.res.rc != endings[k].rc)
            fail_msg("%s: %s: %s", endings[k].name, ast_rc_name(rc.res.rc), rc.res.error);
        assert_string_equal(rc.res.error, endings[k].error);
        assert_null(strchr(rc.res.error, '\n'));
        assert_false(rc.res.clean);
        assert_int_equal(rc.res.data.n, 0);
        if (endings[k].rc == AST_E_OUT_OF_FUEL)
            assert_int_equal(rc.res.fuel_used, endings[k].fuel);
        if (endings[k].deadline_ms)
            assert_true(ast_mono_ns() - start >= endings[k].deadline_ms * AST_NS_PER_MS);
        rig_finish(&rc);

        /* Even a caller who says "clean" does not get it back into the pool (spec 05 §17.3). */
        ast_pool_return(r.pool, i, true);
        struct ast_pool_stats stats;
        ast_pool_stats(r.pool, &stats);
        assert_int_equal(stats.live, 0);
        rig_close(&r);
    }
}

/* Counts the pages it may grow by, then answers with that number. */
#define GROW                                                                                       \
    "(loop $l (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then"                       \
    "  (local.set $i (i32.add (local.get $i) (i32.const 1))) (br $l)))) (call $num (local.get $i))"

static void c05_55_memory_grow_beyond_the_limit_gives_minus_one_and_the_guest_goes_on(void **state)
{
    struct rig r = rig_open(RIG_GUEST(GROW), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    static const struct {
        uint64_t limit_pages;
        const char *grown;
    } steps[] = {
        { 10, "6" },      { 10, "0" },
        { 12, "2" },      { 5, "0" } /* a lower ceiling only forbids more */,
        { 5000, "1012" },
    };
    for (size_t k = 0; k < AST_ARRAY_LEN(steps); k++) {
        struct rig_call rc = { 0 };
        struct ast_call_config cfg = rig_config(i, &rc);
        cfg.memory_limit_bytes = steps[k].limit_pages * 65536;
        rig_run(&r, &rc, &cfg);
        assert_int_equal(rc.res.rc, AST_OK);
        assert_true(ast_str_eq(rc.res.data, ast_str_c(steps[k].grown)));
        assert_int_equal(rc.res.memory_grew, strcmp(steps[k].grown, "0") != 0);
        rig_finish(&rc);
    }
    assert_int_equal(ast_instance_memory(i), AST_ENGINE_MAX_MEMORY);
    ast_pool_return(r.pool, i, true); /* over AST_POOL_MAX_KEEP_BYTES: not kept */
    struct ast_pool_stats stats;
    ast_pool_stats(r.pool, &stats);
    assert_int_equal(stats.live, 0);
    rig_close(&r);
}

static void initial_memory_over_the_limit_refuses_the_call(void **state)
{
    struct rig r = rig_open(RIG_GUEST(RIG_ECHO), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    cfg.memory_limit_bytes = 3 * 65536;
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_E_NO_CAPACITY);
    assert_true(rc.res.clean); /* nothing ran */
    rig_finish(&rc);
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

static void entries_without_export_are_unsupported(void **state)
{
    struct rig r = rig_open(RIG_GUEST(RIG_ECHO), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    for (int entry = AST_CALL_RUN; entry <= AST_CALL_UPGRADE; entry++) {
        struct rig_call rc = { 0 };
        struct ast_call_config cfg = rig_config(i, &rc);
        cfg.entry = (enum ast_call_entry)entry;
        rig_run(&r, &rc, &cfg);
        assert_int_equal(rc.res.rc, AST_E_UNSUPPORTED);
        assert_non_null(strstr(rc.res.error, entry == AST_CALL_RUN ? "`run`" : "`astrid-"));
        assert_true(rc.res.clean);
        rig_finish(&rc);
    }
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

static void other_entries_run_and_initialize_runs_once_before_them(void **state)
{
    struct rig r = rig_open(
        "(module (memory (export \"memory\") 4) (global $n (mut i32) (i32.const 0))"
        "(func (export \"_initialize\") (global.set $n (i32.add (global.get $n) (i32.const 1))))"
        "(func $check (if (i32.ne (global.get $n) (i32.const 1)) (then (unreachable))))"
        "(func (export \"run\") (call $check))"
        "(func (export \"astrid-install\") (call $check) (call $check))"
        "(func (export \"astrid-upgrade\") (call $check) (call $check) (call $check)))",
        NULL, 2);
    assert_true(ast_module_info(r.module)->has_run);
    assert_false(ast_module_info(r.module)->has_hook);
    struct ast_instance *i = rig_lease(&r, "alice");
    for (int entry = AST_CALL_RUN; entry <= AST_CALL_UPGRADE; entry++) {
        struct rig_call rc = { 0 };
        struct ast_call_config cfg = rig_config(i, &rc);
        cfg.entry = (enum ast_call_entry)entry;
        cfg.fuel = AST_FUEL_UNLIMITED;
        rig_run(&r, &rc, &cfg);
        assert_int_equal(rc.res.rc, AST_OK);
        assert_in_range(rc.res.fuel_used, 1, 100);
        rig_finish(&rc);
    }
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

/* A start function runs in the first call: its loop meets that call's deadline. */
static void start_function_is_bound_by_the_first_call(void **state)
{
    static const char *const starts[] = { "(loop $l (br $l))", "(unreachable)", "(call $nop)" };
    static const enum ast_rc want[] = { AST_E_TIMEOUT, AST_E_TRAP, AST_OK };
    for (size_t k = 0; k < AST_ARRAY_LEN(starts); k++) {
        char *wat = NULL;
        assert_true(asprintf(&wat, "(module %s (func $s %s) (start $s) %s)",
                             RIG_IMPORTS RIG_FRAME RIG_REALLOC RIG_POST, starts[k],
                             RIG_HOOK(RIG_ECHO)) > 0);
        struct rig r = rig_open(wat, NULL, 2);
        free(wat);
        struct ast_instance *i = rig_lease(&r, "alice");
        assert_int_equal(ast_instance_memory(i), 0); /* nothing ran at the lease */
        struct rig_call rc = { 0 };
        struct ast_call_config cfg = rig_config(i, &rc);
        cfg.deadline_ns = ast_mono_ns() + (k == 2 ? 10000 : 30) * AST_NS_PER_MS;
        rig_run(&r, &rc, &cfg);
        assert_int_equal(rc.res.rc, want[k]);
        rig_finish(&rc);
        ast_pool_return(r.pool, i, true);
        rig_close(&r);
    }
}

static void on_tick_ends_a_loop(void **state)
{
    struct rig r = rig_open(RIG_GUEST("(loop $l (br $l)) (i32.const 0)"), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { .ticks_allowed = 3 };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_E_TIMEOUT);
    assert_int_equal(rc.ticks, 4);
    rig_finish(&rc);
    ast_pool_return(r.pool, i, false);
    rig_close(&r);
}

/* --- Waiting ------------------------------------------------------------------------------------- */

#define WAIT_FOUR "(drop (call $wait)) (drop (call $wait)) (drop (call $wait)) (drop (call $wait))"
#define MANY      2000u

struct many {
    struct rig *r;
    struct rig_call rc;
    struct ast_call_config cfg;
};

static void return_instance(struct rig_call *rc)
{
    struct many *m = AST_CONTAINER_OF(rc, struct many, rc);
    ast_pool_return(m->r->pool, m->cfg.instance, rc->res.clean);
}

static void park_and_wake_from_another_thread_loses_nothing(void **state)
{
    const struct ast_pool_config pool = { .max = 8, .idle_max = 8 };
    struct rig r = rig_open(RIG_GUEST(WAIT_FOUR RIG_ECHO), &pool, 2);
    /* Eight at a time, each woken four times from this thread; together 2000 calls with 4 parks. */
    for (unsigned round = 0; round < MANY / 8; round++) {
        struct many m[8];
        for (int k = 0; k < 8; k++) {
            m[k] = (struct many){ .r = &r, .rc = { .on_done = return_instance } };
            m[k].cfg = rig_config(rig_lease(&r, "alice"), &m[k].rc);
            rig_start(&r, &m[k].rc, &m[k].cfg);
        }
        for (unsigned wakes = 0; wakes < 4; wakes++) {
            for (int k = 0; k < 8; k++) {
                m[k].rc.permits++;
                ast_call_wake(m[k].rc.call);
                ast_call_wake(m[k].rc.call); /* spurious ones do no harm */
            }
        }
        for (int k = 0; k < 8; k++) {
            rig_wait_done(&m[k].rc);
            assert_int_equal(m[k].rc.res.rc, AST_OK);
            assert_int_equal(m[k].rc.waits, 4);
            assert_true(ast_str_is(m[k].rc.res.data, "payload"));
            ast_call_wake(m[k].rc.call); /* nobody there any more */
            rig_finish(&m[k].rc);
        }
    }
    struct ast_sched_stats stats;
    ast_sched_stats(r.sched, &stats);
    assert_int_equal(stats.calls_total, MANY);
    assert_int_equal(stats.parked, 0);
    assert_int_equal(stats.queued, 0);
    rig_close(&r);
}

static void park_ends_at_its_deadline(void **state)
{
    struct rig r = rig_open(RIG_GUEST("(call $num (call $wait))"), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    static const int64_t in_ms[] = { -5, 0, 15 };
    for (size_t k = 0; k < AST_ARRAY_LEN(in_ms); k++) {
        int64_t deadline = ast_mono_ns() + in_ms[k] * AST_NS_PER_MS;
        struct rig_call rc = { .park_deadline_ns = deadline };
        struct ast_call_config cfg = rig_config(i, &rc);
        rig_run(&r, &rc, &cfg);
        assert_int_equal(rc.res.rc, AST_OK);
        assert_int_equal(rc.last_park, AST_E_TIMEOUT);
        assert_true(ast_mono_ns() >= deadline);
        rig_finish(&rc);
    }
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

/* Host time counts towards the deadline, but only a guest that runs again meets it (spec 05 §18). */
static void call_deadline_does_not_interrupt_a_wait_but_ends_the_loop_after_it(void **state)
{
    struct rig r =
        rig_open(RIG_GUEST("(drop (call $wait)) (loop $l (br $l)) (i32.const 0)"), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    cfg.deadline_ns = ast_mono_ns() + 1;
    rig_start(&r, &rc, &cfg);
    struct ast_sched_stats stats;
    do
        ast_sched_stats(r.sched, &stats);
    while (stats.parked != 1);
    rc.permits++;
    ast_call_wake(rc.call);
    rig_wait_done(&rc);
    assert_int_equal(rc.res.rc, AST_E_TIMEOUT);
    rig_finish(&rc);
    ast_pool_return(r.pool, i, false);
    rig_close(&r);
}

/* --- Cancelling ---------------------------------------------------------------------------------- */

static void cancel_of_a_parked_call_runs_the_hosts_cleanup(void **state)
{
    struct rig r =
        rig_open(RIG_GUEST("(drop (call $wait)) (drop (call $wait)) " RIG_ECHO), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_start(&r, &rc, &cfg);
    struct ast_sched_stats stats;
    do
        ast_sched_stats(r.sched, &stats);
    while (stats.parked != 1);
    ast_call_cancel(rc.call);
    ast_call_cancel(rc.call);
    rig_wait_done(&rc);
    assert_int_equal(rc.res.rc, AST_E_CANCELLED);
    assert_string_equal(rc.res.error, "cancelled");
    assert_int_equal(rc.cleanups, 1);
    assert_int_equal(rc.waits, 1);
    assert_false(rc.res.clean);
    rig_finish(&rc);
    ast_pool_return(r.pool, i, false);
    rig_close(&r);
}

static void cancel_of_a_running_loop_ends_it_at_a_tick(void **state)
{
    struct rig r = rig_open(RIG_GUEST("(loop $l (br $l)) (i32.const 0)"), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    cfg.fuel = AST_FUEL_UNLIMITED;
    rig_start(&r, &rc, &cfg);
    rig_until(rc.ticks >= 1);
    ast_call_cancel(rc.call);
    rig_wait_done(&rc);
    assert_int_equal(rc.res.rc, AST_E_CANCELLED);
    assert_false(rc.res.clean);
    rig_finish(&rc);
    ast_pool_return(r.pool, i, false);
    rig_close(&r);
}

/* More loops than workers: they take turns, and waiting ones are cancelled without running again. */
static void loops_share_the_workers_by_ticks(void **state)
{
    const struct ast_pool_config pool = { .max = 4, .idle_max = 4 };
    struct rig r = rig_open(RIG_GUEST("(loop $l (br $l)) (i32.const 0)"), &pool, 2);
    struct many m[4];
    for (int k = 0; k < 4; k++) {
        m[k] = (struct many){ .r = &r };
        m[k].cfg = rig_config(rig_lease(&r, "alice"), &m[k].rc);
        m[k].cfg.fuel = AST_FUEL_UNLIMITED;
        rig_start(&r, &m[k].rc, &m[k].cfg);
    }
    for (int k = 0; k < 4; k++)
        rig_until(m[k].rc.ticks >= 2);
    for (int k = 0; k < 4; k++)
        ast_call_cancel(m[k].rc.call);
    for (int k = 0; k < 4; k++) {
        rig_wait_done(&m[k].rc);
        assert_int_equal(m[k].rc.res.rc, AST_E_CANCELLED);
        rig_finish(&m[k].rc);
        ast_pool_return(r.pool, m[k].cfg.instance, true);
    }
    rig_close(&r);
}

static void freeing_the_scheduler_cancels_what_is_left(void **state)
{
    struct rig r =
        rig_open(RIG_GUEST("(drop (call $wait)) (loop $l (br $l)) (i32.const 0)"), NULL, 2);
    struct many m[4];
    for (int k = 0; k < 4; k++) {
        m[k] = (struct many){ .r = &r, .rc = { .permits = k & 1, .on_done = return_instance } };
        m[k].cfg = rig_config(rig_lease(&r, "alice"), &m[k].rc);
        m[k].cfg.fuel = AST_FUEL_UNLIMITED;
        rig_start(&r, &m[k].rc, &m[k].cfg);
    }
    for (int k = 0; k < 4; k++)
        rig_until(m[k].rc.waits == 1);
    ast_sched_free(r.sched);
    r.sched = NULL;
    for (int k = 0; k < 4; k++) {
        assert_true(m[k].rc.is_done);
        assert_int_equal(m[k].rc.res.rc, AST_E_CANCELLED);
        rig_finish(&m[k].rc);
    }
    rig_close(&r);
}

/* --- Starting calls from workers ----------------------------------------------------------------- */

#define CHAIN 1000u

struct chain {
    struct rig *r;
    struct ast_instance *i;
    unsigned left;
    struct rig_call last; /* only its completion is used */
};

static void chain_done(void *user, const struct ast_call_result *res)
{
    struct chain *c = user;
    assert_int_equal(res->rc, AST_OK);
    if (--c->left == 0) {
        rig_on_done(&c->last, res);
        return;
    }
    struct ast_call_config cfg = rig_config(c->i, NULL);
    cfg.user = c;
    cfg.on_tick = NULL;
    cfg.on_done = chain_done;
    assert_int_equal(ast_call_start(c->r->sched, &cfg, NULL, NULL), AST_OK);
}

static void on_done_may_start_the_next_call_for_ever(void **state)
{
    struct rig r = rig_open(RIG_GUEST(RIG_ECHO), NULL, 2);
    struct chain c = { .r = &r, .i = rig_lease(&r, "alice"), .left = CHAIN };
    rig_call_init(&c.last);
    struct ast_call_config cfg = rig_config(c.i, NULL);
    cfg.user = &c;
    cfg.on_tick = NULL;
    cfg.on_done = chain_done;
    assert_int_equal(ast_call_start(r.sched, &cfg, NULL, NULL), AST_OK);
    rig_finish(&c.last);
    ast_pool_return(r.pool, c.i, true);
    rig_close(&r);
}

struct nested {
    struct rig *r;
    struct rig_call inner;
};

/* A host function that publishes may cause all of this on the publisher's fiber: leases, fresh instances, evictions,
 * starts of calls. */
static void start_another_call(struct rig_call *rc)
{
    struct nested *n = rc->arg;
    ast_pool_return(n->r->pool, rig_lease(n->r, "carol"), /* clean= */ false);
    ast_pool_return(n->r->pool, rig_lease(n->r, "dave"), /* clean= */ true);
    struct ast_call_config cfg = rig_config(rig_lease(n->r, "bob"), &n->inner);
    n->inner.arg = cfg.instance;
    rig_start(n->r, &n->inner, &cfg);
    assert_false(n->inner.is_done); /* queued: it never runs on top of this fiber */
}

static void host_functions_may_start_calls(void **state)
{
    struct rig r = rig_open(RIG_GUEST("(call $nop)" RIG_ECHO),
                            &(struct ast_pool_config){ .max = 2, .idle_max = 2 }, 1);
    struct nested n = { .r = &r };
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { .on_nop = start_another_call, .arg = &n };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_OK);
    rig_finish(&rc);
    ast_pool_return(r.pool, i, true);
    rig_wait_done(&n.inner);
    assert_int_equal(n.inner.res.rc, AST_OK);
    ast_pool_return(r.pool, n.inner.arg, true);
    rig_finish(&n.inner);
    rig_close(&r);
}

static void large_payloads_go_in_and_out(void **state)
{
    struct rig r = rig_open(RIG_GUEST(RIG_ECHO), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    static const size_t sizes[] = { 0, 1, 65536, 1 << 20, (3 << 20) + 7, 100 };
    char *text = malloc(4 << 20);
    for (size_t k = 0; k < (4u << 20); k++)
        text[k] = (char)('a' + k % 26);
    for (size_t k = 0; k < AST_ARRAY_LEN(sizes); k++) {
        struct rig_call rc = { 0 };
        struct ast_call_config cfg = rig_config(i, &rc);
        cfg.payload = ast_str_n(text, sizes[k]);
        rig_run(&r, &rc, &cfg);
        assert_int_equal(rc.res.rc, AST_OK);
        assert_true(ast_str_eq(rc.res.data, cfg.payload));
        rig_finish(&rc);
    }
    free(text);
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

static void a_result_over_the_limit_is_refused(void **state)
{
    struct rig r = rig_open(
        RIG_GUEST(
            "(drop (memory.grow (i32.const 300))) (call $ok (i32.const 131072) (i32.const 16777216))"),
        NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_E_ABI);
    assert_non_null(strstr(rc.res.error, "result too large"));
    rig_finish(&rc);
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hook_echoes_and_reports),
        cmocka_unit_test(every_bad_ending_is_classified_and_spends_the_instance),
        cmocka_unit_test(c05_55_memory_grow_beyond_the_limit_gives_minus_one_and_the_guest_goes_on),
        cmocka_unit_test(initial_memory_over_the_limit_refuses_the_call),
        cmocka_unit_test(entries_without_export_are_unsupported),
        cmocka_unit_test(other_entries_run_and_initialize_runs_once_before_them),
        cmocka_unit_test(start_function_is_bound_by_the_first_call),
        cmocka_unit_test(on_tick_ends_a_loop),
        cmocka_unit_test(park_and_wake_from_another_thread_loses_nothing),
        cmocka_unit_test(park_ends_at_its_deadline),
        cmocka_unit_test(call_deadline_does_not_interrupt_a_wait_but_ends_the_loop_after_it),
        cmocka_unit_test(cancel_of_a_parked_call_runs_the_hosts_cleanup),
        cmocka_unit_test(cancel_of_a_running_loop_ends_it_at_a_tick),
        cmocka_unit_test(loops_share_the_workers_by_ticks),
        cmocka_unit_test(freeing_the_scheduler_cancels_what_is_left),
        cmocka_unit_test(on_done_may_start_the_next_call_for_ever),
        cmocka_unit_test(host_functions_may_start_calls),
        cmocka_unit_test(large_payloads_go_in_and_out),
        cmocka_unit_test(a_result_over_the_limit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
