/* The canonical ABI's rules at the border, and the handle table. */
#include "rig.h"

/* --- cabi_realloc -------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    const char *realloc; /* body of (param $old $osz $align $n) (result i32) */
    enum ast_rc rc;
    const char *error; /* a part */
} reallocs[] = {
    { "good", "(i32.const 4096)", AST_OK, "" },
    { "out of range", "(i32.const 0x7fffffff)", AST_E_ABI, "pointer or length out of bounds" },
    { "ends behind the memory", "(i32.const 262140)", AST_E_ABI,
      "pointer or length out of bounds" },
    { "calls an import", "(call $nop) (i32.const 4096)", AST_E_ABI,
      "nop: cannot leave component instance" },
    { "drops a resource", "(call $drop (i32.const 1)) (i32.const 4096)", AST_E_ABI,
      "[resource-drop]thing: cannot leave component instance" },
    { "traps", "(unreachable)", AST_E_TRAP, "unreachable" },
    { "never ends", "(loop $l (br $l)) (i32.const 0)", AST_E_OUT_OF_FUEL, "fuel" },
};

static void realloc_results_are_checked_and_it_may_not_call_out(void **state)
{
    for (size_t k = 0; k < AST_ARRAY_LEN(reallocs); k++) {
        char *wat = NULL;
        assert_true(
            asprintf(
                &wat,
                "(module %s (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) %s) %s)",
                RIG_IMPORTS RIG_FRAME, reallocs[k].realloc, RIG_HOOK(RIG_ECHO)) > 0);
        struct rig r = rig_open(wat, NULL, 2);
        free(wat);
        struct ast_instance *i = rig_lease(&r, "alice");
        struct rig_call rc = { 0 };
        struct ast_call_config cfg = rig_config(i, &rc);
        cfg.fuel = 10000000;
        rig_run(&r, &rc, &cfg);
        if (rc.res.rc != reallocs[k].rc || !strstr(rc.res.error, reallocs[k].error))
            fail_msg("%s: %s: %s", reallocs[k].name, ast_rc_name(rc.res.rc), rc.res.error);
        rig_finish(&rc);
        ast_pool_return(r.pool, i, true);
        rig_close(&r);
    }
}

/* Good for the arguments, bad when a host function lowers a list. */
static void realloc_during_a_host_call_is_checked_too(void **state)
{
    static const struct {
        const char *when_large;
        enum ast_rc rc;
        const char *error;
    } cases[] = {
        { "(i32.const -4)", AST_E_ABI, "blob: pointer or length out of bounds" },
        { "(call $nop) (i32.const 0)", AST_E_ABI, "nop: cannot leave component instance" },
        { "(i32.div_u (i32.const 1) (i32.const 0))", AST_E_TRAP, "integer divide by zero" },
        { "(i32.const 65536)", AST_OK, "" },
    };
    for (size_t k = 0; k < AST_ARRAY_LEN(cases); k++) {
        char *wat = NULL;
        assert_true(
            asprintf(
                &wat,
                "(module %s (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32)"
                "(if (result i32) (i32.gt_u (local.get 3) (i32.const 100)) (then %s)"
                "(else (i32.const 4096)))) %s)",
                RIG_IMPORTS RIG_FRAME, cases[k].when_large,
                RIG_HOOK("(call $blob (i32.const 1000) (i32.const 512))"
                         "(call $ok (i32.load (i32.const 512)) (i32.load (i32.const 516)))")) > 0);
        struct rig r = rig_open(wat, NULL, 2);
        free(wat);
        struct ast_instance *i = rig_lease(&r, "alice");
        struct rig_call rc = { 0 };
        struct ast_call_config cfg = rig_config(i, &rc);
        rig_run(&r, &rc, &cfg);
        assert_int_equal(rc.res.rc, cases[k].rc);
        assert_non_null(strstr(rc.res.error, cases[k].error));
        if (!cases[k].rc) {
            assert_int_equal(rc.res.data.n, 1000);
            assert_int_equal(rc.res.data.p[999], 'b');
        }
        rig_finish(&rc);
        ast_pool_return(r.pool, i, true);
        rig_close(&r);
    }
}

static void post_return_may_not_call_out(void **state)
{
    struct rig r = rig_open(
        "(module " RIG_IMPORTS RIG_FRAME RIG_REALLOC RIG_HOOK(
            RIG_ECHO) "(func (export \"cabi_post_astrid-hook-trigger\") (param i32) (call $nop)))",
        NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_E_ABI);
    assert_non_null(strstr(rc.res.error, "cannot leave component instance"));
    assert_false(rc.res.has_data);
    rig_finish(&rc);
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

/* The view of guest memory is taken anew after the guest grew it. */
static void memory_that_grows_in_realloc_is_seen_by_the_host_call(void **state)
{
    struct rig r = rig_open(
        RIG_GUEST("(call $blob (i32.const 5000000) (i32.const 512))"
                  "(call $num (call $peek (i32.load (i32.const 512)) (i32.load (i32.const 516))))"),
        NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_OK);
    assert_true(ast_str_is(rc.res.data, "196")); /* 'b' + 'b' */
    assert_true(rc.res.memory_grew);
    rig_finish(&rc);
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

static void arena_is_empty_again_after_each_host_call(void **state)
{
    /* 40 times 8 MiB is more than an arena may hold; 200 MiB at once is refused. */
    struct rig r = rig_open(
        RIG_GUEST("(loop $l (drop (call $arena (i32.const 8388608)))"
                  "(br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))"
                  "(i32.const 40)))) (call $num (call $arena (i32.load8_u (local.get $pp))))"),
        NULL, 2);
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_OK);
    assert_true(ast_str_is(rc.res.data, "7"));
    rig_finish(&rc);
    ast_pool_return(r.pool, i, true);
    rig_close(&r);

    r = rig_open(RIG_GUEST("(call $num (call $arena (i32.const 209715200)))"), NULL, 2);
    i = rig_lease(&r, "alice");
    rc = (struct rig_call){ 0 };
    cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_E_ABI);
    rig_finish(&rc);
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

/* --- Handles ------------------------------------------------------------------------------------- */

static const struct {
    const char *name, *body;
    enum ast_rc rc;
    const char *want; /* data, or a part of the error */
} handles[] = {
    { "the first handle is 1", "(call $num (call $make))", AST_OK, "1" },
    { "freed ones come back last in first out",
      "(drop (call $make)) (drop (call $make)) (drop (call $make))"
      "(call $drop (i32.const 1)) (call $drop (i32.const 3)) (call $drop (i32.const 2))"
      "(call $num (i32.add (i32.mul (call $make) (i32.const 100)) (i32.add (i32.mul (call $make) (i32.const 10))"
      "(call $make))))",
      AST_OK, "231" },
    { "one table for all types", "(drop (call $make)) (call $num (call $make_other))", AST_OK,
      "2" },
    { "borrow twice",
      "(drop (call $touch (call $make))) (drop (call $touch (i32.const 1))) (call $num (i32.const 1))",
      AST_OK, "1" },
    { "zero", "(call $num (call $touch (i32.const 0)))", AST_E_ABI, "unknown handle index" },
    { "never given", "(call $num (call $touch (i32.const 7)))", AST_E_ABI, "unknown handle index" },
    { "huge", "(call $num (call $touch (i32.const -1)))", AST_E_ABI, "unknown handle index" },
    { "dropped", "(call $drop (call $make)) (call $num (call $touch (i32.const 1)))", AST_E_ABI,
      "touch: unknown handle index" },
    { "dropped twice", "(call $drop (call $make)) (call $drop (i32.const 1)) (i32.const 0)",
      AST_E_ABI, "[resource-drop]thing: unknown handle index" },
    { "wrong type borrowed", "(call $num (call $touch (call $make_other)))", AST_E_ABI,
      "handle is of another type" },
    { "wrong type dropped", "(call $drop (call $make_other)) (i32.const 0)", AST_E_ABI,
      "handle is of another type" },
    { "taken", "(call $take (call $make)) (call $num (call $touch (i32.const 1)))", AST_E_ABI,
      "touch: unknown handle index" },
    { "lent handles are not taken",
      "(drop (call $make)) (call $borrow_take (i32.const 1) (i32.const 1)) (i32.const 0)",
      AST_E_ABI, "handle is borrowed" },
    { "another one is",
      "(drop (call $make)) (drop (call $make)) (call $borrow_take (i32.const 1) (i32.const 2))"
      "(call $drop (i32.const 1)) (call $num (call $make))",
      AST_OK, "1" },
    { "as many as allowed",
      "(loop $l (local.set $i (call $make)) (br_if $l (i32.lt_u (local.get $i) (i32.const 4096))))"
      "(call $num (local.get $i))",
      AST_OK, "4096" },
    { "one more",
      "(loop $l (local.set $i (call $make)) (br_if $l (i32.le_u (local.get $i) (i32.const 4096))))"
      "(call $num (local.get $i))",
      AST_E_ABI, "make: handle table is full" },
};

static void handle_table_follows_the_canonical_abi(void **state)
{
    for (size_t k = 0; k < AST_ARRAY_LEN(handles); k++) {
        char *wat = NULL;
        assert_true(
            asprintf(&wat,
                     "(module %s (func (export \"astrid-hook-trigger\")"
                     "(param $ap i32) (param $al i32) (param $pp i32) (param $pl i32) (result i32)"
                     "(local $i i32) %s))",
                     RIG_IMPORTS RIG_FRAME RIG_REALLOC RIG_POST, handles[k].body) > 0);
        struct rig r = rig_open(wat, NULL, 2);
        free(wat);
        struct ast_instance *i = rig_lease(&r, "alice");
        rig_drops.n = 0;
        struct rig_call rc = { 0 };
        struct ast_call_config cfg = rig_config(i, &rc);
        rig_run(&r, &rc, &cfg);
        bool as_wanted = handles[k].rc ? strstr(rc.res.error, handles[k].want) != NULL
                                       : ast_str_eq(rc.res.data, ast_str_c(handles[k].want));
        if (rc.res.rc != handles[k].rc || !as_wanted)
            fail_msg("%s: %s: %s '" AST_STR_FMT "'", handles[k].name, ast_rc_name(rc.res.rc),
                     rc.res.error, AST_STR_ARG(rc.res.data));
        rig_finish(&rc);
        ast_pool_return(r.pool, i, true);
        if (strcmp(handles[k].name, "one more") == 0)
            assert_int_equal(rig_drop_count(),
                             4097); /* the one that did not fit, then the others */
        rig_close(&r);
    }
}

static void handles_die_newest_first_when_the_instance_comes_back(void **state)
{
    struct rig r = rig_open(
        RIG_GUEST("(drop (call $make)) (drop (call $make)) (drop (call $make))"
                  "(call $drop (i32.const 1)) (drop (call $make)) (call $num (call $make))"),
        NULL, 2);
    rig_next_thing = 100;
    rig_drops.n = 0;
    struct ast_instance *i = rig_lease(&r, "alice");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_OK);
    assert_true(ast_str_is(rc.res.data, "4"));
    rig_finish(&rc);
    assert_int_equal(rig_drops.n, 1); /* 100, dropped by the guest; its index now holds 103 */
    ast_pool_return(r.pool, i, true);
    static const uintptr_t order[] = { 100, 104, 103, 102, 101 };
    assert_int_equal(rig_drops.n, AST_ARRAY_LEN(order));
    for (size_t k = 0; k < AST_ARRAY_LEN(order); k++)
        assert_int_equal(rig_drops.v[k], order[k]);

    /* The kept instance numbers from one again, and old numbers are unknown. */
    struct ast_instance *again = rig_lease(&r, "alice");
    assert_ptr_equal(again, i);
    struct rig_call rc2 = { 0 };
    cfg = rig_config(again, &rc2);
    rig_run(&r, &rc2, &cfg);
    assert_int_equal(rc2.res.rc, AST_OK);
    assert_true(ast_str_is(rc2.res.data, "4"));
    rig_finish(&rc2);
    ast_pool_return(r.pool, again, true);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(realloc_results_are_checked_and_it_may_not_call_out),
        cmocka_unit_test(realloc_during_a_host_call_is_checked_too),
        cmocka_unit_test(post_return_may_not_call_out),
        cmocka_unit_test(memory_that_grows_in_realloc_is_seen_by_the_host_call),
        cmocka_unit_test(arena_is_empty_again_after_each_host_call),
        cmocka_unit_test(handle_table_follows_the_canonical_abi),
        cmocka_unit_test(handles_die_newest_first_when_the_instance_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
