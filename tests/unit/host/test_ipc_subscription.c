/* astrid:ipc subscriptions: who may subscribe, poll and recv, envelopes, audit scope, readiness, unload. */
#include "rig.h"

#include "base/banned.h"

#define SRC "|12345678-0000-0000-0000-000000000000"

static void c05_27_c04_14_star_only_at_the_end(void **state)
{
    struct rig *r = *state;
    static const struct ast_str acl[] = { { "a.*.b", 5 }, { "*.a", 3 }, { "a.*.*", 5 },
                                          { "a.b.*", 5 }, { "a.*", 3 }, { "*", 1 } };
    r->env.subscribe_acl = acl;
    r->env.subscribe_acl_count = AST_ARRAY_LEN(acl);
    assert_string_equal(rig_run(r, "sub a.*.b\nsub *.a\nsub a.*.*\nsub a.b.*\nsub a.*\nsub *"),
                        "err:invalid-input\nerr:invalid-input\nerr:invalid-input\n0\n1\n2");
}

static void subscribe_checks_in_order(void **state)
{
    struct rig *r = *state;
    char line[300] = "sub in.";
    memset(line + 7, 'x', 254);
    assert_string_equal(rig_run(r, line), "err:invalid-input"); /* 257 bytes */
    line[4 + 256] = 0;
    assert_string_equal(rig_run(r, line), "0"); /* 256 */
    assert_string_equal(
        rig_run(
            r, "sub in..x\nsub \nsub in.a.b.c.d.e.f.g.h\nsub in.a.b.c.d.e.f.g\nsub nope.x\nsub in"),
        "err:invalid-input\nerr:invalid-input\nerr:invalid-input\n1\nerr:capability-denied\n2");
    r->env.subscribe_acl_count = 0;
    assert_string_equal(rig_run(r, "sub in.x\nsub in..x"),
                        "err:capability-denied\nerr:invalid-input");
}

static void c05_28_c04_15_at_most_128_at_a_time(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "subn 129 in.*\ndrop 5\nsub in.*\nsub in.*"),
                        "128 err:quota\nok\n128\nerr:quota");
}

static void subscriptions_of_a_recycled_instance_free_their_slots(void **state)
{
    struct rig *r = *state;
    rig_pool(r, 1, /* pinned= */ false);
    assert_string_equal(rig_run(r, "subn 128 in.*"), "128");
    assert_string_equal(rig_run(r, "subn 128 in.*"), "128");
}

static void c05_29_c04_16_idle_recv_is_empty_after_its_timeout(void **state)
{
    struct rig *r = *state;
    int64_t before = ast_mono_ns();
    assert_string_equal(
        rig_run(r, "sub in.*\nrecv 0 0\nrecv 0 30\npoll 0"),
        "0\nn=0 dropped=0 lagged=0\nn=0 dropped=0 lagged=0\nn=0 dropped=0 lagged=0");
    assert_true(ast_mono_ns() - before >= 30 * AST_NS_PER_MS);
}

static void c04_17_a_recv_of_two_minutes_ends_at_the_ceiling(void **state)
{
    struct rig *r = *state;
    assert_int_equal(host_recv_wait_ms(&r->host, 120000), 60000);
    assert_int_equal(host_recv_wait_ms(&r->host, 59999), 59999);
    r->host.recv_max_ms = 30;
    int64_t before = ast_mono_ns();
    assert_string_equal(rig_run(r, "sub in.*\nrecv 0 120000"), "0\nn=0 dropped=0 lagged=0");
    int64_t took = ast_mono_ns() - before;
    assert_true(took >= 30 * AST_NS_PER_MS && took < RIG_PATIENCE_NS);
}

static void c05_30_c04_18_everything_queued_is_delivered_in_order(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "sub in.*");
    for (int i = 0; i < 10; i++) {
        char json[8];
        (void)snprintf(json, sizeof json, "%d", i);
        rig_publish(r, "in.x", json, "alice");
    }
    const char *got = rig_run(r, "recv 0 1000\nrecv 0 0");
    const char *want = "n=10 dropped=0 lagged=0";
    assert_memory_equal(got, want, strlen(want));
    const char *at = got;
    for (int i = 0; i < 10; i++) {
        char piece[64];
        (void)snprintf(piece, sizeof piece, ";in.x|%d|verified:alice" SRC, i);
        at = strstr(at, piece);
        assert_non_null(at);
    }
    assert_non_null(strstr(got, "\nn=0 "));
}

static void a_waiting_recv_gets_the_message(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "sub in.*\nrecv 0 20000");
    rig_until_parked(r, 1);
    rig_publish(r, "other.x", "1", "alice");
    rig_publish(r, "in.x", "1", "alice");
    assert_string_equal(rig_answer(c), "0\nn=1 dropped=0 lagged=0;in.x|1|verified:alice" SRC);
}

static void wakes_without_a_message_do_not_end_a_recv(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "sub in.*\nrecv 0 20000");
    for (int i = 0; i < 20; i++) {
        rig_until_parked(r, 1);
        ast_call_wake(c->call);
    }
    rig_publish(r, "in.x", "2", "alice");
    assert_string_equal(rig_answer(c), "0\nn=1 dropped=0 lagged=0;in.x|2|verified:alice" SRC);
}

static void c05_31_c04_43_attribution(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "sub in.*\nsub out.*");
    rig_publish(r, "in.x", "1", "");
    assert_string_equal(rig_run(r, "poll 0"), "n=1 dropped=0 lagged=0;in.x|1|system" SRC);
    const char *got = rig_run_as(r, "alice", "pub out.a 1\npoll 1");
    char want[128], uuid[AST_UUID_TEXT];
    (void)snprintf(want, sizeof want, "ok\nn=1 dropped=0 lagged=0;out.a|1|verified:alice|%s",
                   ast_uuid_format(&r->env.uuid, uuid).p);
    assert_string_equal(got, want);
    r->env.uplink = true;
    got = rig_run(r, "pubas bob out.a 1\npoll 1");
    assert_non_null(strstr(got, "|verified:bob|")); /* not claimed: spec 04 §5.3 */
    r->host.shows_claims = true;                    /* the operator's wish */
    got = rig_run(r, "pubas bob out.a 1\npoll 1\npub out.a 1\npoll 1");
    assert_non_null(strstr(got, "|claimed:bob|"));
    assert_non_null(strstr(got, "|verified:default|")); /* its own */
}

static void c04_19_subscriptions_do_not_share(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "sub in.*\nsub in.*");
    rig_publish(r, "in.x", "1", "alice");
    const char *one = "n=1 dropped=0 lagged=0;in.x|1|verified:alice" SRC;
    assert_string_equal(rig_run(r, "poll 0"), one);
    assert_string_equal(rig_run(r, "poll 0"), "n=0 dropped=0 lagged=0");
    assert_string_equal(rig_run(r, "poll 1"), one);
}

static void c04_28_a_dropped_subscription_queues_nothing(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "sub in.*");
    AST_AUTO(ast_msg_unref) struct ast_msg *m = rig_msg("in.x", "1", "alice");
    (void)ast_bus_publish(r->bus, ast_msg_ref(m));
    assert_int_equal(atomic_load(&m->refs), 2);
    assert_string_equal(rig_run(r, "drop 0"), "ok");
    assert_int_equal(atomic_load(&m->refs), 1);
    rig_publish(r, "in.x", "1", "alice");
}

static void c04_58_one_principal_per_envelope_in_turn(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "sub in.*");
    for (int i = 0; i < 2; i++) {
        rig_publish(r, "in.x", "1", "alice");
        rig_publish(r, "in.x", "2", "bob");
    }
    rig_publish(r, "in.x", "3", "");
    assert_string_equal(
        rig_run(r, "poll 0\nrecv 0 0\npoll 0\npoll 0"),
        "n=2 dropped=0 lagged=0;in.x|1|verified:alice" SRC ";in.x|1|verified:alice" SRC
        "\nn=2 dropped=0 lagged=0;in.x|2|verified:bob" SRC ";in.x|2|verified:bob" SRC
        "\nn=1 dropped=0 lagged=0;in.x|3|system" SRC "\nn=0 dropped=0 lagged=0");
}

static void c04_58_users_of_publish_as_get_mixed_envelopes(void **state)
{
    struct rig *r = *state;
    r->env.uplink = true;
    (void)rig_run(r, "sub in.*");
    rig_publish(r, "in.x", "1", "alice");
    rig_publish(r, "in.x", "2", "bob");
    assert_memory_equal(rig_run(r, "poll 0"), "n=1", 3); /* the manifest flag alone is not enough */
    assert_string_equal(rig_run(r, "poll 0\npubas carol out.a 1"),
                        "n=1 dropped=0 lagged=0;in.x|2|verified:bob" SRC "\nok");
    rig_publish(r, "in.x", "1", "alice");
    rig_publish(r, "in.x", "2", "bob");
    assert_memory_equal(rig_run(r, "poll 0"), "n=2", 3);
}

static void c05_33_a_flood_does_not_delay_another_principal(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "sub in.*");
    for (int i = 0; i < 2000; i++)
        rig_publish(r, "in.x", "\"flood\"", "alice");
    rig_publish(r, "in.x", "\"calm\"", "bob");
    (void)rig_run(r, "poll 0");
    assert_string_equal(rig_run(r, "poll 0"),
                        "n=1 dropped=0 lagged=0;in.x|\"calm\"|verified:bob" SRC);
}

static void long_backlogs_come_in_several_envelopes(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "sub in.*");
    for (int i = 0; i < 1200; i++)
        rig_publish(r, "in.x", "1", "alice");
    unsigned total = 0;
    for (int i = 0; i < 3; i++)
        total += (unsigned)strtoul(rig_run(r, "recv 0 0") + 2, NULL, 10);
    assert_int_equal(total, 1200);
}

static void recv_reports_what_was_dropped(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "sub in.*");
    AST_AUTO(ast_buf_done) struct ast_buf big = AST_BUF_INIT(500000);
    (void)ast_buf_add_byte(&big, '"');
    for (int i = 0; i < 400000; i++)
        (void)ast_buf_add_byte(&big, 'x');
    (void)ast_buf_add_byte(&big, '"');
    for (int i = 0; i < 5; i++)
        rig_publish(r, "in.x", big.p, "alice"); /* two fit */
    assert_memory_equal(rig_run(r, "recv 0 0"), "n=2 dropped=3 lagged=3", 22);
    assert_string_equal(rig_run(r, "recv 0 0"), "n=0 dropped=0 lagged=3");
    for (int i = 0; i < 3; i++)
        rig_publish(r, "in.x", big.p, "alice");
    assert_memory_equal(rig_run(r, "poll 0"), "n=2 dropped=1 lagged=4", 22);
}

static void c05_32_c04_26_audit_patterns_are_scoped_to_the_owner(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "sub astrid.v1.*\nsub astrid.v1.audit.entry\nsub astrid.v1.other");
    rig_publish(r, "astrid.v1.audit.entry", "1", "alice");
    rig_publish(r, "astrid.v1.audit.entry", "2", "");
    rig_publish(r, "astrid.v1.other", "3", "alice");
    rig_publish(r, "astrid.v1.other", "4", "default");
    assert_string_equal(rig_run(r, "poll 0\npoll 1\npoll 2\npoll 2"),
                        "n=1 dropped=0 lagged=0;astrid.v1.other|4|verified:default" SRC
                        "\nn=0 dropped=0 lagged=0"
                        "\nn=1 dropped=0 lagged=0;astrid.v1.other|3|verified:alice" SRC
                        "\nn=1 dropped=0 lagged=0;astrid.v1.other|4|verified:default" SRC);
    /* Nor does a foreign message wake the receiver. */
    struct rig_call *c = rig_start(r, "recv 1 20000");
    rig_until_parked(r, 1);
    struct ast_sched_stats before, after;
    ast_sched_stats(r->sched, &before);
    rig_publish(r, "astrid.v1.audit.entry", "5", "alice");
    ast_sched_stats(r->sched, &after);
    assert_int_equal(before.parks_total, after.parks_total);
    rig_publish(r, "astrid.v1.audit.entry", "6", "default");
    assert_string_equal(rig_answer(c),
                        "n=1 dropped=0 lagged=0;astrid.v1.audit.entry|6|verified:default" SRC);
}

static void c04_27_the_firehose_sees_everybody(void **state)
{
    struct rig *r = *state;
    r->env.audit_firehose = true;
    (void)rig_run(r, "sub astrid.v1.audit.*");
    rig_publish(r, "astrid.v1.audit.entry", "1", "alice");
    assert_memory_equal(rig_run(r, "poll 0"), "n=1", 3);
}

static void unload_ends_a_waiting_recv_with_an_empty_envelope(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "sub in.*\nrecv 0 60000\nrecv 0 60000");
    rig_until_parked(r, 1);
    rig_unload(r, c);
    assert_string_equal(rig_answer(c), "0\nn=0 dropped=0 lagged=0\nn=0 dropped=0 lagged=0");
}

static void c05_51_a_cancelled_recv_leaves_no_subscription(void **state)
{
    struct rig *r = *state;
    rig_pool(r, 1, /* pinned= */ false);
    struct rig_call *c = rig_start(r, "sub in.*\nrecv 0 60000");
    rig_until_parked(r, 1);
    ast_call_cancel(c->call);
    rig_wait(c);
    assert_int_equal(c->rc, AST_E_CANCELLED);
    rig_end(c);
    AST_AUTO(ast_msg_unref) struct ast_msg *m = rig_msg("in.x", "1", "alice");
    (void)ast_bus_publish(r->bus, ast_msg_ref(m));
    assert_int_equal(atomic_load(&m->refs), 1); /* nobody queued it */
}

static void recv_waits_in_line_for_a_permit(void **state)
{
    struct rig *r = *state;
    ast_permits_free(r->env.io);
    RIG_OK(ast_permits_new(1, &r->env.io, &err));
    rig_pool(r, 2, /* pinned= */ false);
    struct rig_call *first = rig_start(r, "sub in.a\nrecv 0 60000");
    rig_until_parked(r, 1);
    struct rig_call *second = rig_start(r, "sub in.b\nrecv 0 60000\nrecv 0 60000");
    rig_until_parked(r, 2);
    rig_publish(r, "in.a", "1", "alice"); /* the first ends and hands its permit on */
    assert_memory_equal(rig_answer(first), "0\nn=1", 5);
    rig_until_parked(r, 1);
    rig_publish(r, "in.b", "1", "alice");
    rig_publish(r, "in.b", "2", "bob");
    assert_memory_equal(rig_answer(second), "0\nn=1", 5);
}

static void unload_cuts_the_wait_for_a_permit(void **state)
{
    struct rig *r = *state;
    ast_permits_free(r->env.io);
    RIG_OK(ast_permits_new(1, &r->env.io, &err));
    rig_pool(r, 2, /* pinned= */ false);
    struct rig_call *first = rig_start(r, "sub in.a\nrecv 0 60000");
    rig_until_parked(r, 1);
    struct rig_call *second = rig_start(r, "sub in.b\nrecv 0 60000");
    rig_until_parked(r, 2);
    atomic_store(&r->env.unloading, true);
    ast_call_wake(second->call);
    assert_string_equal(rig_answer(second), "0\nn=0 dropped=0 lagged=0");
    ast_call_wake(first->call);
    assert_string_equal(rig_answer(first), "0\nn=0 dropped=0 lagged=0");
}

static void *flood(void *arg)
{
    struct rig *r = arg;
    for (int i = 0; i < 3000; i++)
        rig_publish(r, "in.x", "1", i % 2 ? "alice" : "bob");
    return NULL;
}

static void no_wake_is_lost_under_load(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "sub in.*");
    pthread_t t;
    RIG_OK(ast_thread_start(&t, "flood", flood, r, &err));
    unsigned total = 0;
    while (total < 3000) {
        const char *got = rig_run(r, "recv 0 15000");
        unsigned n = (unsigned)strtoul(got + 2, NULL, 10);
        if (n == 0)
            fail_msg("after %u: %s", total, got);
        total += n;
    }
    assert_int_equal(total, 3000);
    (void)pthread_join(t, NULL);
}

RIG_MAIN(RIG_TEST(c05_27_c04_14_star_only_at_the_end), RIG_TEST(subscribe_checks_in_order),
         RIG_TEST(c05_28_c04_15_at_most_128_at_a_time),
         RIG_TEST(subscriptions_of_a_recycled_instance_free_their_slots),
         RIG_TEST(c05_29_c04_16_idle_recv_is_empty_after_its_timeout),
         RIG_TEST(c04_17_a_recv_of_two_minutes_ends_at_the_ceiling),
         RIG_TEST(c05_30_c04_18_everything_queued_is_delivered_in_order),
         RIG_TEST(a_waiting_recv_gets_the_message),
         RIG_TEST(wakes_without_a_message_do_not_end_a_recv), RIG_TEST(c05_31_c04_43_attribution),
         RIG_TEST(c04_19_subscriptions_do_not_share),
         RIG_TEST(c04_28_a_dropped_subscription_queues_nothing),
         RIG_TEST(c04_58_one_principal_per_envelope_in_turn),
         RIG_TEST(c04_58_users_of_publish_as_get_mixed_envelopes),
         RIG_TEST(c05_33_a_flood_does_not_delay_another_principal),
         RIG_TEST(long_backlogs_come_in_several_envelopes), RIG_TEST(recv_reports_what_was_dropped),
         RIG_TEST(c05_32_c04_26_audit_patterns_are_scoped_to_the_owner),
         RIG_TEST(c04_27_the_firehose_sees_everybody),
         RIG_TEST(unload_ends_a_waiting_recv_with_an_empty_envelope),
         RIG_TEST(c05_51_a_cancelled_recv_leaves_no_subscription),
         RIG_TEST(recv_waits_in_line_for_a_permit), RIG_TEST(unload_cuts_the_wait_for_a_permit),
         RIG_TEST(no_wake_is_lost_under_load))
