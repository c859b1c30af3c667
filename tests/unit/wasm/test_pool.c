/* Who gets which instance, in which order, and when instances die. */
#include "rig.h"

/* Returns how often this instance was called before. */
#define COUNT                                                                                      \
    "(global.set $count (i32.add (global.get $count) (i32.const 1))) (call $num (global.get $count))"
/* Returns what address 200000 holds, then leaves the payload's first byte there: what is left in its memory. */
#define LEAVE                                                                                      \
    "(local.set $i (i32.load8_u (i32.const 200000)))"                                              \
    "(i32.store8 (i32.const 200000) (i32.load8_u (local.get $pp))) (call $num (local.get $i))"

static struct ast_pool_stats stats(struct rig *r)
{
    struct ast_pool_stats s;
    ast_pool_stats(r->pool, &s);
    return s;
}

/* One call on a lease of `principal`; the data as a number. */
static unsigned call_as(struct rig *r, const char *principal, const char *payload)
{
    struct ast_instance *i = rig_lease(r, principal);
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    cfg.payload = ast_str_c(payload);
    rig_run(r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_OK);
    uint64_t x = 0;
    assert_true(ast_str_to_u64(rc.res.data, &x));
    ast_pool_return(r->pool, i, rc.res.clean);
    rig_finish(&rc);
    return (unsigned)x;
}

static void a_principal_meets_only_its_own_memory(void **state)
{
    const struct ast_pool_config pool = { .max = 2, .idle_max = 3, .min_idle = 1 };
    struct rig r = rig_open(RIG_GUEST(LEAVE), &pool, 2);
    static const struct {
        const char *who, *leaves;
        unsigned finds;
    } steps[] = {
        { "alice", "A", 0 },   { "alice", "a", 'A' }, { "bob", "B", 0 },
        { "alice", "c", 'a' }, { "bob", "D", 'B' },   { "", "S", 0 },
        { "", "T", 'S' },      { "carol", "C", 0 },   { "bob", "E", 'D' },
        { "dave", "F", 0 },    { "alicea", "G", 0 },  { "alice", "H", 0 }, /* evicted meanwhile */
    };
    for (size_t k = 0; k < AST_ARRAY_LEN(steps); k++) {
        unsigned found = call_as(&r, steps[k].who, steps[k].leaves);
        if (found != steps[k].finds)
            fail_msg("step %zu: '%s' finds %u", k, steps[k].who, found);
        assert_in_range(stats(&r).live, 1, 3);
    }
    rig_close(&r);
}

static void the_most_recently_returned_instance_is_leased_first(void **state)
{
    struct rig r = rig_open(RIG_GUEST(COUNT), NULL, 2);
    struct ast_instance *a = rig_lease(&r, "p"), *b = rig_lease(&r, "p"), *c = rig_lease(&r, "q");
    ast_pool_return(r.pool, a, true);
    ast_pool_return(r.pool, b, true);
    ast_pool_return(r.pool, c, true);
    assert_int_equal(stats(&r).idle, 3);
    assert_ptr_equal(rig_lease(&r, "p"), b);
    assert_ptr_equal(rig_lease(&r, "p"), a);
    ast_pool_return(r.pool, a, true);
    ast_pool_return(r.pool, b, true);
    rig_close(&r);
}

struct line {
    struct ast_pool_waiter w;
    struct ast_instance *got;
    unsigned order;
    bool is_granted;
};
static unsigned line_order;

static void on_granted(struct ast_pool_waiter *w, struct ast_instance *i)
{
    struct line *l = AST_CONTAINER_OF(w, struct line, w);
    l->got = i;
    l->order = ++line_order;
    l->is_granted = true;
}

static void c05_49_max_calls_run_in_parallel_and_the_next_waits_in_line(void **state)
{
    const struct ast_pool_config pool = { .max = 3, .idle_max = 3, .min_idle = 2 };
    struct rig r = rig_open(RIG_GUEST("(drop (call $wait)) " COUNT), &pool, 2);
    assert_int_equal(stats(&r).idle, 2);
    struct rig_call rc[3] = { 0 };
    struct ast_instance *i[3];
    for (int k = 0; k < 3; k++) {
        i[k] = rig_lease(&r, "p");
        struct ast_call_config cfg = rig_config(i[k], &rc[k]);
        rig_start(&r, &rc[k], &cfg);
    }
    for (int k = 0; k < 3; k++)
        rig_until(rc[k].waits == 1); /* all three are inside the guest at once */

    struct line line[4] = { 0 };
    line_order = 0;
    for (int k = 0; k < 4; k++) {
        line[k].w.granted = on_granted;
        struct ast_instance *none = NULL;
        assert_int_equal(ast_pool_lease(r.pool, AST_STR("p"), &line[k].w, &none, NULL), AST_E_BUSY);
    }
    assert_int_equal(stats(&r).waiting, 4);
    for (int k = 0; k < 3; k++) {
        assert_false(line[k].is_granted);
        rc[k].permits++;
        ast_call_wake(rc[k].call);
        rig_wait_done(&rc[k]);
        ast_pool_return(r.pool, i[k], rc[k].res.clean);
        rig_finish(&rc[k]);
        assert_true(line[k].is_granted);
        assert_int_equal(line[k].order, k + 1);
        assert_ptr_equal(line[k].got, i[k]); /* warm, straight from hand to hand */
    }
    assert_int_equal(stats(&r).leased, 3);
    ast_pool_close(r.pool); /* the last one in line learns it */
    assert_true(line[3].is_granted);
    assert_null(line[3].got);
    assert_int_equal(ast_pool_lease(r.pool, AST_STR("p"), &line[3].w, &i[0], NULL), AST_E_CLOSED);
    for (int k = 0; k < 3; k++)
        ast_pool_return(r.pool, line[k].got, true);
    assert_int_equal(stats(&r).live, 0);
    rig_close(&r);
}

static void c05_49_idle_instances_shrink_to_min_idle(void **state)
{
    const struct ast_pool_config pool = { .max = 5, .idle_max = 5, .min_idle = 2 };
    struct rig r = rig_open(RIG_GUEST(COUNT), &pool, 2);
    struct ast_instance *i[5];
    for (int k = 0; k < 5; k++)
        i[k] = rig_lease(&r, "p");
    for (int k = 0; k < 5; k++)
        ast_pool_return(r.pool, i[k], true);
    int64_t now = ast_mono_ns();
    ast_pool_trim(r.pool, now + (AST_POOL_IDLE_SECS - 5) * AST_NS_PER_SEC);
    assert_int_equal(stats(&r).idle, 5);
    ast_pool_trim(r.pool, now + (AST_POOL_IDLE_SECS + 5) * AST_NS_PER_SEC);
    assert_int_equal(stats(&r).idle, 2);
    assert_int_equal(stats(&r).live, 2);
    assert_ptr_equal(rig_lease(&r, "p"), i[4]); /* the oldest went */
    ast_pool_return(r.pool, i[4], true);
    rig_close(&r);
}

static void c05_50_a_pinned_pool_has_one_instance_for_all_and_keeps_its_handles(void **state)
{
    const struct ast_pool_config pool = { .max = 4, .idle_max = 4, .min_idle = 1, .pinned = true };
    struct rig r = rig_open(RIG_GUEST("(call $num (call $make))"), &pool, 2);
    struct ast_instance *first = rig_lease(&r, "alice");
    struct line line = { .w.granted = on_granted };
    struct ast_instance *none = NULL;
    assert_int_equal(ast_pool_lease(r.pool, AST_STR("bob"), &line.w, &none, NULL), AST_E_BUSY);
    ast_pool_return(r.pool, first, true);
    assert_ptr_equal(line.got, first);
    ast_pool_return(r.pool, line.got, true);
    rig_drops.n = 0;
    assert_int_equal(call_as(&r, "alice", "x"), 1);
    assert_int_equal(call_as(&r, "bob", "x"), 2);
    assert_int_equal(rig_drop_count(), 0);
    ast_pool_trim(r.pool, ast_mono_ns() + 1000 * AST_NS_PER_SEC);
    assert_int_equal(call_as(&r, "carol", "x"), 3);
    assert_int_equal(stats(&r).live, 1);
    rig_close(&r);
    assert_int_equal(rig_drop_count(), 3);
}

static void c05_60_after_a_trap_the_next_call_meets_a_fresh_instance(void **state)
{
    struct rig r = rig_open(
        RIG_GUEST("(global.set $count (i32.add (global.get $count) (i32.const 1)))"
                  "(if (i32.eq (i32.load8_u (local.get $pp)) (i32.const 33)) (then (unreachable)))"
                  "(call $num (global.get $count))"),
        NULL, 2);
    assert_int_equal(call_as(&r, "p", "."), 1);
    assert_int_equal(call_as(&r, "p", "."), 2);
    struct ast_instance *i = rig_lease(&r, "p");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    cfg.payload = AST_STR("!");
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_E_TRAP);
    ast_pool_return(r.pool, i, rc.res.clean);
    rig_finish(&rc);
    assert_int_equal(call_as(&r, "p", "."), 1);
    rig_close(&r);
}

static void an_instance_is_replaced_after_its_calls_are_used_up(void **state)
{
    struct rig r = rig_open(RIG_GUEST(COUNT), NULL, 2);
    for (unsigned k = 0; k < AST_POOL_MAX_CALLS - 1; k++) {
        struct ast_instance *i = rig_lease(&r, "p");
        ast_pool_return(r.pool, i, true);
    }
    assert_int_equal(stats(&r).live, 1);
    struct ast_instance *last = rig_lease(&r, "p");
    ast_pool_return(r.pool, last, true);
    assert_int_equal(stats(&r).live, 0);
    rig_close(&r);
}

static void when_the_engine_is_full_idle_instances_make_room_and_then_leases_fail(void **state)
{
    const struct ast_pool_config pool = { .max = 32, .idle_max = 32 };
    struct rig r = rig_open(RIG_GUEST(COUNT), &pool, 2); /* its engine has 16 slots */
    struct ast_instance *i[16];
    for (int k = 0; k < 16; k++)
        i[k] = rig_lease(&r, "p");
    struct ast_pool_waiter w = { 0 };
    struct ast_instance *none = NULL;
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_pool_lease(r.pool, AST_STR("p"), &w, &none, &err), AST_E_NO_CAPACITY);
    assert_int_equal(stats(&r).leased, 16);
    ast_pool_return(r.pool, i[0], true);
    i[0] = rig_lease(&r, "q"); /* the idle one of "p" had to go */
    assert_int_equal(stats(&r).live, 16);
    for (int k = 0; k < 16; k++)
        ast_pool_return(r.pool, i[k], true);
    rig_close(&r);
}

/* --- Host state ---------------------------------------------------------------------------------- */

struct state_counts {
    unsigned made, reset, freed;
};
static struct state_counts counts;

static void *state_make(void *arg)
{
    counts.made++;
    return arg;
}

static void state_reset(void *state)
{
    counts.reset++;
}

static void state_free(void *state)
{
    counts.freed++;
}

static void host_state_lives_with_the_instance(void **state)
{
    counts = (struct state_counts){ 0 };
    int arg;
    const struct ast_pool_config pool = { .max = 2,
                                          .idle_max = 2,
                                          .min_idle = 1,
                                          .make = state_make,
                                          .reset = state_reset,
                                          .free = state_free,
                                          .arg = &arg };
    struct rig r = rig_open(RIG_GUEST(COUNT), &pool, 2);
    assert_int_equal(counts.made, 1);
    struct ast_instance *i = rig_lease(&r, "p");
    assert_ptr_equal(ast_instance_state(i), &arg);
    ast_pool_return(r.pool, i, true);
    assert_int_equal(counts.reset, 1);
    i = rig_lease(&r, "p");
    ast_pool_return(r.pool, i, false);
    assert_int_equal(counts.reset, 2);
    assert_int_equal(counts.freed, 1);
    rig_close(&r);
    assert_int_equal(counts.made, counts.freed);
}

/* --- Many threads -------------------------------------------------------------------------------- */

struct storm {
    struct rig *r;
    struct ast_pool_waiter w;
    unsigned left;
    _Atomic unsigned *done;
    char who[8];
};

static void storm_next(struct storm *s);

struct storm_call {
    struct storm *s;
    struct ast_instance *i;
};

static void storm_call_done(void *user, const struct ast_call_result *res)
{
    struct storm_call *c = user;
    struct storm *s = c->s;
    assert_int_equal(res->rc, AST_OK);
    assert_true(ast_str_is(res->data, "0")); /* nothing of another principal is left */
    ast_pool_return(s->r->pool, c->i, res->clean);
    free(c);
    storm_next(s);
}

static void storm_granted(struct ast_pool_waiter *w, struct ast_instance *i)
{
    struct storm *s = AST_CONTAINER_OF(w, struct storm, w);
    struct storm_call *c = malloc(sizeof *c);
    *c = (struct storm_call){ .s = s, .i = i };
    struct ast_call_config cfg = rig_config(i, NULL);
    cfg.user = c;
    cfg.on_tick = NULL;
    cfg.on_done = storm_call_done;
    cfg.payload = ast_str_c(s->who);
    assert_int_equal(ast_call_start(s->r->sched, &cfg, NULL, NULL), AST_OK);
}

static void storm_next(struct storm *s)
{
    if (s->left-- == 0) {
        ++*s->done;
        return;
    }
    struct ast_instance *i = NULL;
    enum ast_rc rc = ast_pool_lease(s->r->pool, ast_str_c(s->who), &s->w, &i, NULL);
    if (rc == AST_OK)
        storm_granted(&s->w, i);
    else
        assert_int_equal(rc, AST_E_BUSY);
}

static void principals_in_a_storm_never_share_and_nobody_is_forgotten(void **state)
{
    const struct ast_pool_config pool = { .max = 3, .idle_max = 4, .min_idle = 1 };
    /* Answers 0 when address 200000 is empty or holds our own mark, which it then leaves there. */
    struct rig r = rig_open(
        RIG_GUEST(
            "(local.set $i (i32.load8_u (i32.const 200000)))"
            "(if (i32.eq (local.get $i) (i32.load8_u (local.get $pp))) (then (local.set $i (i32.const 0))))"
            "(i32.store8 (i32.const 200000) (i32.load8_u (local.get $pp))) (call $num (local.get $i))"),
        &pool, 2);
    _Atomic unsigned done = 0;
    struct storm storm[12];
    for (int k = 0; k < 12; k++) {
        storm[k] =
            (struct storm){ .r = &r, .w.granted = storm_granted, .left = 100, .done = &done };
        storm[k].who[0] = (char)('a' + k % 6);
        storm_next(&storm[k]);
    }
    rig_until(done == 12);
    rig_until(stats(&r).leased == 0);
    assert_int_equal(stats(&r).waiting, 0);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_principal_meets_only_its_own_memory),
        cmocka_unit_test(the_most_recently_returned_instance_is_leased_first),
        cmocka_unit_test(c05_49_max_calls_run_in_parallel_and_the_next_waits_in_line),
        cmocka_unit_test(c05_49_idle_instances_shrink_to_min_idle),
        cmocka_unit_test(c05_50_a_pinned_pool_has_one_instance_for_all_and_keeps_its_handles),
        cmocka_unit_test(c05_60_after_a_trap_the_next_call_meets_a_fresh_instance),
        cmocka_unit_test(an_instance_is_replaced_after_its_calls_are_used_up),
        cmocka_unit_test(when_the_engine_is_full_idle_instances_make_room_and_then_leases_fail),
        cmocka_unit_test(host_state_lives_with_the_instance),
        cmocka_unit_test(principals_in_a_storm_never_share_and_nobody_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
