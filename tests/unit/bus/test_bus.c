#include "bus_test.h"

#include <pthread.h>

#include "base/json.h"
#include "base/thread.h"
#include "base/vec.h"
#include "bus/event.h"
#include "bus/metrics.h"

#include "base/banned.h"

/* What a tap saw, as "topic" pieces joined by spaces. */
struct record {
    struct ast_bus *bus;
    struct ast_buf text;
    void (*also)(struct record *r, struct ast_msg *msg);
    struct ast_tap *victim;
    struct ast_route *victim_route;
    unsigned calls;
};

static void remember(void *arg, struct ast_msg *msg)
{
    struct record *r = arg;
    r->calls++;
    if (r->text.n)
        ast_buf_add_byte(&r->text, ' ');
    ast_buf_add(&r->text, msg->topic);
    if (r->also)
        r->also(r, msg);
}

#define RECORD(bus_)                                                                               \
    {                                                                                              \
        .bus = (bus_), .text = AST_BUF_INIT(4096)                                                  \
    }

static struct ast_tap *tap_on(struct ast_bus *bus, const char *pattern, struct record *r)
{
    struct ast_tap *tap = NULL;
    assert_int_equal(ast_tap_open(bus, "test", ast_str_c(pattern), remember, r, &tap, NULL),
                     AST_OK);
    return tap;
}

static void c04_13_seq_starts_at_one_and_rises_by_one(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    for (uint64_t i = 1; i <= 100; i++) {
        struct ast_msg *m = msg_with("a.b", "", "{}");
        m->seq = 4711; /* whatever the publisher says */
        ast_msg_ref(m);
        assert_int_equal(ast_bus_publish(bus, m), i);
        assert_int_equal(m->seq, i);
        ast_msg_unref(m);
    }
    ast_bus_free(bus);
}

static void c01_40_lifecycle_events_take_no_number(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    assert_int_equal(publish(bus, "a", "", "1"), 1);
    struct ast_msg *event = NULL;
    assert_int_equal(ast_event_new(AST_EVENT_config_reloaded, "kernel", AST_STR_NONE, &event, NULL),
                     AST_OK);
    assert_int_equal(ast_bus_publish(bus, event), 0);
    assert_int_equal(publish(bus, "a", "", "1"), 2);
    ast_bus_free(bus);
}

static void taps_see_what_their_pattern_covers(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    struct record all = RECORD(bus), some = RECORD(bus);
    struct ast_tap *t1 = tap_on(bus, "", &all), *t2 = tap_on(bus, "astrid.v1.*", &some);
    publish(bus, "astrid.v1.x", "", "1");
    publish(bus, "user.v1.x", "", "1");
    publish(bus, "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18.19.20.21", "", "1");
    struct ast_msg *event = NULL;
    assert_int_equal(ast_event_new(AST_EVENT_kernel_started, "kernel", AST_STR("\"version\":\"1\""),
                                   &event, NULL),
                     AST_OK);
    ast_bus_publish(bus, event);
    assert_view(ast_buf_view(&all.text),
                "astrid.v1.x user.v1.x 1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18.19.20.21 "
                "astrid.v1.lifecycle.kernel_started");
    assert_view(ast_buf_view(&some.text), "astrid.v1.x"); /* lifecycle events have no topic */
    ast_tap_close(t1);
    ast_tap_close(t2);
    publish(bus, "astrid.v1.y", "", "1");
    assert_int_equal(some.calls, 1);
    ast_tap_close(NULL);
    ast_buf_done(&all.text);
    ast_buf_done(&some.text);
    ast_bus_free(bus);
}

static void reply(struct record *r, struct ast_msg *msg)
{
    if (ast_str_is(msg->topic, "ask")) {
        assert_int_equal(publish(r->bus, "answer.1", "", "1"), 2); /* numbered at once */
        assert_int_equal(publish(r->bus, "answer.2", "", "1"), 3);
    } else if (ast_str_is(msg->topic, "answer.1")) {
        publish(r->bus, "late", "", "1");
    }
}

/* A tap that publishes does not let others see the answer before the question. */
static void publishing_from_a_tap_keeps_the_order_for_everybody(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    struct record first = RECORD(bus), second = RECORD(bus);
    first.also = reply;
    struct ast_tap *t1 = tap_on(bus, "", &first), *t2 = tap_on(bus, "", &second);
    struct ast_str patterns[] = { AST_STR("ask"), AST_STR("answer.*"), AST_STR("late") };
    struct ast_route_config cfg = { .patterns = patterns,
                                    .pattern_count = 3,
                                    .label = AST_STR("r") };
    struct ast_route *route = NULL;
    assert_int_equal(ast_route_open(bus, &cfg, &route, NULL), AST_OK);

    publish(bus, "ask", "", "1");
    assert_view(ast_buf_view(&first.text), "ask answer.1 answer.2 late");
    assert_view(ast_buf_view(&second.text), "ask answer.1 answer.2 late");
    for (uint64_t seq = 1; seq <= 4; seq++) {
        AST_AUTO(ast_msg_unref) struct ast_msg *m = ast_route_take(route);
        assert_non_null(m);
        assert_int_equal(m->seq, seq);
    }
    ast_route_close(route);
    ast_tap_close(t1);
    ast_tap_close(t2);
    ast_buf_done(&first.text);
    ast_buf_done(&second.text);
    ast_bus_free(bus);
}

static void look_into_route(struct record *r, struct ast_msg *msg)
{
    assert_false(ast_route_empty(r->victim_route));
}

static void routes_are_filled_before_taps_run(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    struct record r = RECORD(bus);
    struct ast_str pattern = AST_STR("a");
    struct ast_route_config cfg = { .patterns = &pattern,
                                    .pattern_count = 1,
                                    .label = AST_STR("r") };
    assert_int_equal(ast_route_open(bus, &cfg, &r.victim_route, NULL), AST_OK);
    r.also = look_into_route;
    struct ast_tap *tap = tap_on(bus, "a", &r);
    publish(bus, "a", "", "1");
    assert_int_equal(r.calls, 1);
    ast_tap_close(tap);
    ast_route_close(r.victim_route);
    ast_buf_done(&r.text);
    ast_bus_free(bus);
}

static void close_victim(struct record *r, struct ast_msg *msg)
{
    ast_tap_close(r->victim);
    r->victim = NULL;
    ast_route_close(r->victim_route);
    r->victim_route = NULL;
}

/* A tap may close others that the same message is about to reach; they are not called any more. */
static void a_tap_may_close_its_neighbours(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    struct record killer = RECORD(bus), victim = RECORD(bus);
    killer.also = close_victim;
    struct ast_str pattern = AST_STR("a");
    struct ast_route_config cfg = { .patterns = &pattern,
                                    .pattern_count = 1,
                                    .label = AST_STR("r") };
    assert_int_equal(ast_route_open(bus, &cfg, &killer.victim_route, NULL), AST_OK);
    struct ast_tap *t1 = tap_on(bus, "a", &killer);
    killer.victim = tap_on(bus, "a", &victim);
    publish(bus, "a", "", "1");
    assert_int_equal(killer.calls, 1);
    assert_int_equal(victim.calls, 0);
    ast_tap_close(t1);
    ast_buf_done(&killer.text);
    ast_buf_done(&victim.text);
    ast_bus_free(bus);
}

static void open_more(struct record *r, struct ast_msg *msg)
{
    if (!r->victim)
        r->victim = tap_on(r->bus, "a", r);
}

static void a_tap_may_open_another(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    struct record r = RECORD(bus);
    r.also = open_more;
    struct ast_tap *tap = tap_on(bus, "a", &r);
    publish(bus, "a", "", "1");
    assert_int_equal(r.calls, 1); /* not for the message under way */
    publish(bus, "a", "", "1");
    assert_int_equal(r.calls, 3);
    ast_tap_close(tap);
    ast_tap_close(r.victim);
    ast_buf_done(&r.text);
    ast_bus_free(bus);
}

/* --- Closing while another thread is inside ---------------------------------------------------- */

struct gate {
    pthread_mutex_t m;
    pthread_cond_t c;
    bool is_inside, may_leave, has_left;
    struct ast_bus *bus;
};

static void gate_set(struct gate *g, bool *flag)
{
    pthread_mutex_lock(&g->m);
    *flag = true;
    pthread_cond_broadcast(&g->c);
    pthread_mutex_unlock(&g->m);
}

static void gate_wait(struct gate *g, const bool *flag)
{
    pthread_mutex_lock(&g->m);
    while (!*flag)
        pthread_cond_wait(&g->c, &g->m);
    pthread_mutex_unlock(&g->m);
}

static void linger(void *arg)
{
    struct gate *g = arg;
    gate_set(g, &g->is_inside);
    gate_wait(g, &g->may_leave);
    gate_set(g, &g->has_left);
}

static void linger_in_tap(void *arg, struct ast_msg *msg)
{
    linger(arg);
}

static void *publish_one(void *arg)
{
    struct gate *g = arg;
    struct ast_msg_spec spec = { .topic = AST_STR("a") };
    struct ast_msg *m = NULL;
    if (!ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, AST_STR("1"), &m, NULL))
        ast_bus_publish(g->bus, m);
    return NULL;
}

static void *let_go(void *arg)
{
    gate_set(arg, &((struct gate *)arg)->may_leave);
    return NULL;
}

/* Close has begun waiting, or will see the callback running: either way it returns after it. */
static void closing_waits_for_a_callback_on_another_thread(void **state)
{
    (void)state;
    for (int use_route = 0; use_route < 2; use_route++) {
        struct gate g = { .m = PTHREAD_MUTEX_INITIALIZER,
                          .c = PTHREAD_COND_INITIALIZER,
                          .bus = bus_new() };
        struct ast_str pattern = AST_STR("a");
        struct ast_route_config cfg = { .patterns = &pattern,
                                        .pattern_count = 1,
                                        .label = AST_STR("r"),
                                        .notify = linger,
                                        .arg = &g };
        struct ast_route *route = NULL;
        struct ast_tap *tap = NULL;
        if (use_route)
            assert_int_equal(ast_route_open(g.bus, &cfg, &route, NULL), AST_OK);
        else
            assert_int_equal(ast_tap_open(g.bus, "t", pattern, linger_in_tap, &g, &tap, NULL),
                             AST_OK);

        pthread_t publisher, opener;
        assert_int_equal(ast_thread_start(&publisher, "publisher", publish_one, &g, NULL), AST_OK);
        gate_wait(&g, &g.is_inside);
        assert_int_equal(ast_thread_start(&opener, "opener", let_go, &g, NULL), AST_OK);
        ast_route_close(route);
        ast_tap_close(tap);
        assert_true(g.has_left); /* written before close returned, without a lock of ours */
        pthread_join(publisher, NULL);
        pthread_join(opener, NULL);
        ast_bus_free(g.bus);
    }
}

/* --- Counting ---------------------------------------------------------------------------------- */

static uint64_t published(const char *kind)
{
    struct ast_str label = ast_str_c(kind);
    return ast_metric_value(ast_metric_cell(AST_METRIC_BUS_PUBLISHED, &label, 1));
}

static void each_publish_counts_under_its_kind(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    uint64_t ipc = published("ipc"), custom = published("custom");
    uint64_t started = published("astrid.v1.lifecycle.kernel_started");
    publish(bus, "astrid.v1.lifecycle.kernel_started", "", "1"); /* a topic does not make it one */
    struct ast_msg *m = NULL;
    assert_int_equal(ast_event_new(AST_EVENT_kernel_started, "kernel", AST_STR_NONE, &m, NULL),
                     AST_OK);
    ast_bus_publish(bus, m);
    assert_int_equal(
        ast_event_new(AST_EVENT_custom, "kernel", AST_STR("\"name\":\"n\",\"data\":1"), &m, NULL),
        AST_OK);
    ast_bus_publish(bus, m);
    assert_int_equal(published("ipc"), ipc + 1);
    assert_int_equal(published("custom"), custom + 1);
    assert_int_equal(published("astrid.v1.lifecycle.kernel_started"), started + 1);
    ast_bus_free(bus);
}

static void a_message_nobody_wants_is_freed(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    struct ast_msg *m = ast_msg_ref(msg_with("a", "", "1"));
    ast_bus_publish(bus, m);
    assert_int_equal(atomic_load(&m->refs), 1);
    ast_msg_unref(m);
    ast_bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c04_13_seq_starts_at_one_and_rises_by_one),
        cmocka_unit_test(c01_40_lifecycle_events_take_no_number),
        cmocka_unit_test(taps_see_what_their_pattern_covers),
        cmocka_unit_test(publishing_from_a_tap_keeps_the_order_for_everybody),
        cmocka_unit_test(routes_are_filled_before_taps_run),
        cmocka_unit_test(a_tap_may_close_its_neighbours),
        cmocka_unit_test(a_tap_may_open_another),
        cmocka_unit_test(closing_waits_for_a_callback_on_another_thread),
        cmocka_unit_test(each_publish_counts_under_its_kind),
        cmocka_unit_test(a_message_nobody_wants_is_freed),
    };
    return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
