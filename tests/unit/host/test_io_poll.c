/* astrid:io/poll: readiness that is true, waiting on many, unload and cancel. */
#include "rig.h"

#include "base/banned.h"

static void c05_48_list_length_is_checked(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "sub in.*\npollable 0\nwait "), "0\n0\nerr:invalid-input");
    rig_publish(r, "in.x", "1", "alice");
    assert_string_equal(rig_run(r, "waitn 0 256\nwaitn 0 257\nwaitn 0 0"),
                        "256\nerr:too-large\nerr:invalid-input");
}

static void readiness_is_whether_a_message_is_queued(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "sub in.*\npollable 0\nis-ready 0"), "0\n0\nfalse");
    rig_publish(r, "other.x", "1", "alice");
    assert_string_equal(rig_run(r, "is-ready 0"), "false");
    rig_publish(r, "in.x", "1", "alice");
    const char *got = rig_run(r, "is-ready 0\nblock 0\npoll 0\nis-ready 0");
    assert_memory_equal(got, "true\nok\nn=1", 11);
    assert_true(ast_str_ends(ast_str_c(got), AST_STR("\nfalse")));
}

static void block_waits_for_a_message(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "sub in.*\npollable 0\nblock 0\nis-ready 0");
    rig_until_parked(r, 1);
    ast_call_wake(c->call);
    rig_until_parked(r, 1);
    rig_publish(r, "in.x", "1", "alice");
    assert_string_equal(rig_answer(c), "0\n0\nok\ntrue");
}

static void poll_gives_every_ready_index_ascending(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(
        r, "sub in.a\nsub in.b\nsub in.c\npollable 0\npollable 1\npollable 2\nwait 0 1 2");
    rig_until_parked(r, 1);
    rig_publish(r, "in.b", "1", "alice");
    assert_string_equal(rig_answer(c), "0\n1\n2\n0\n1\n2\n1");
    rig_publish(r, "in.a", "1", "alice");
    rig_publish(r, "in.c", "1", "alice");
    assert_string_equal(rig_run(r, "wait 2 1 0 2"), "0,1,2,3");
    assert_string_equal(rig_run(r, "poll 1\nwait 0 1 2"),
                        "n=1 dropped=0 lagged=0;in.b|1|verified:alice"
                        "|12345678-0000-0000-0000-000000000000\n0,2");
}

static void unload_ends_waits_with_cancelled(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "sub in.*\npollable 0\nblock 0\nblock 0\nwait 0\nis-ready 0");
    rig_until_parked(r, 1);
    rig_unload(r, c);
    assert_string_equal(rig_answer(c), "0\n0\nerr:cancelled\nerr:cancelled\nerr:cancelled\nfalse");
}

static void a_cancelled_wait_unwinds(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "sub in.a\nsub in.b\npollable 0\npollable 1\nwait 0 1");
    rig_until_parked(r, 1);
    ast_call_cancel(c->call);
    rig_wait(c);
    assert_int_equal(c->rc, AST_E_CANCELLED);
    rig_end(c);
    rig_publish(r, "in.a", "1", "alice");
}

static void a_pollable_outlives_its_subscription_as_closed(void **state)
{
    struct rig *r = *state;
    assert_string_equal(
        rig_run(
            r,
            "sub in.*\npollable 0\npollable 0\ndrop 0\nis-ready 0\nblock 0\nwait 1\npdrop 0\npdrop 1"),
        "0\n0\n1\nok\nfalse\nerr:closed\nerr:closed\nok\nok");
}

RIG_MAIN(RIG_TEST(c05_48_list_length_is_checked),
         RIG_TEST(readiness_is_whether_a_message_is_queued), RIG_TEST(block_waits_for_a_message),
         RIG_TEST(poll_gives_every_ready_index_ascending),
         RIG_TEST(unload_ends_waits_with_cancelled), RIG_TEST(a_cancelled_wait_unwinds),
         RIG_TEST(a_pollable_outlives_its_subscription_as_closed))
