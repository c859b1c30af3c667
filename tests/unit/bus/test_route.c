#include "bus_test.h"

#include <dirent.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "bus/metrics.h"

#include "base/banned.h"

#define KIB 1024u

static struct ast_bus *bus;
static unsigned notified;

static int setup(void **state)
{
    (void)state;
    bus = bus_new();
    notified = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ast_bus_free(bus);
    ast_route_set_clock(NULL);
    return 0;
}

static void count_notify(void *arg)
{
    (void)arg;
    notified++;
}

static struct ast_route *open_with(const char *pattern, struct ast_route_config cfg)
{
    struct ast_str p = ast_str_c(pattern);
    cfg.patterns = &p;
    cfg.pattern_count = 1;
    if (!cfg.label.n)
        cfg.label = AST_STR("shell");
    struct ast_route *route = NULL;
    assert_int_equal(ast_route_open(bus, &cfg, &route, NULL), AST_OK);
    return route;
}

static struct ast_route *open_on(const char *pattern)
{
    return open_with(pattern, (struct ast_route_config){ .notify = count_notify });
}

static void send(const char *topic, const char *principal, size_t cost)
{
    ast_bus_publish(bus, msg_of_cost(topic, principal, cost));
}

/* Takes everything; returns how many. */
static size_t discard(struct ast_route *route)
{
    size_t n = 0;
    for (struct ast_msg *m; (m = ast_route_take(route)); n++)
        ast_msg_unref(m);
    return n;
}

static uint64_t evictions(const char *capsule, const char *principal_class)
{
    struct ast_str labels[] = { ast_str_c(capsule), ast_str_c(principal_class) };
    return ast_metric_value(ast_metric_cell(AST_METRIC_ROUTE_EVICTIONS, labels, 2));
}

static void c04_18_ten_queued_messages_come_one_by_one(void **state)
{
    (void)state;
    struct ast_route *route = open_on("a.*");
    for (int i = 0; i < 10; i++)
        send("a.b", i % 2 ? "alice" : "bob", 100);
    assert_int_equal(notified, 10);
    assert_int_equal(discard(route), 10);
    assert_true(ast_route_empty(route));
    ast_route_close(route);
}

static void c04_19_two_subscriptions_to_one_pattern_are_independent(void **state)
{
    (void)state;
    struct ast_route *one = open_on("a.*"), *two = open_on("a.*");
    for (int i = 0; i < 5; i++)
        send("a.b", "alice", 100);
    assert_int_equal(discard(one), 5);
    assert_int_equal(discard(one), 0);
    assert_int_equal(discard(two), 5);
    ast_route_close(one);
    send("a.b", "alice", 100);
    assert_int_equal(discard(two), 1);
    ast_route_close(two);
}

static void a_subscription_sees_only_what_comes_after_it(void **state)
{
    (void)state;
    send("a.b", "alice", 100);
    struct ast_route *route = open_on("a.b");
    assert_true(ast_route_empty(route));
    ast_route_close(route);
}

static void c04_26_a_scoped_route_is_not_woken_by_others(void **state)
{
    (void)state;
    struct ast_route *route =
        open_with("astrid.v1.*",
                  (struct ast_route_config){ .scope = AST_STR("owner"), .notify = count_notify });
    send("astrid.v1.audit.entry", "other", 100);
    send("astrid.v1.audit.entry", "", 100);
    send("astrid.v1.audit.entry", "owner2", 100);
    send("astrid.v1.audit.entry", "owner", AST_ROUTE_BUDGET / 2);
    for (int i = 0; i < 100; i++)
        send("astrid.v1.audit.entry", "flood", AST_ROUTE_BUDGET / 2);
    assert_int_equal(notified, 1);
    struct ast_route_stats stats;
    ast_route_stats(route, &stats);
    assert_int_equal(stats.principals, 1);
    assert_int_equal(stats.dropped_total, 0);
    assert_int_equal(discard(route), 1);
    ast_route_close(route);
}

static void a_scope_may_admit_system_messages(void **state)
{
    (void)state;
    struct ast_route *route = open_with(
        "a", (struct ast_route_config){ .scope = AST_STR("alice"), .scope_admits_system = true });
    send("a", "bob", 100);
    send("a", "", 100);
    send("a", "alice", 100);
    assert_int_equal(discard(route), 2);
    ast_route_close(route);
}

static bool session_is_mine(void *arg, const struct ast_msg *msg)
{
    return ast_str_eq(msg->session, ast_str_c(arg));
}

static void a_filter_has_the_last_word_before_queueing(void **state)
{
    (void)state;
    char mine[] = "s1";
    struct ast_route *route =
        open_with("a", (struct ast_route_config){
                           .filter = session_is_mine, .notify = count_notify, .arg = mine });
    publish(bus, "a", "alice", "{\"session_id\":\"s2\"}");
    publish(bus, "a", "alice", "{}");
    assert_int_equal(notified, 0);
    publish(bus, "a", "alice", "{\"session_id\":\"s1\"}");
    assert_int_equal(notified, 1);
    assert_int_equal(discard(route), 1);
    ast_route_close(route);
}

static void c04_24_an_oversized_message_wakes_but_is_not_queued(void **state)
{
    (void)state;
    struct ast_route *route = open_on("a");
    uint64_t before = evictions("shell", "user");
    send("a", "alice", AST_ROUTE_BUDGET + 1);
    assert_int_equal(notified, 1);
    assert_true(ast_route_empty(route));
    assert_int_equal(evictions("shell", "user"), before + 1);
    ast_route_close(route);
}

static void c04_23_evictions_count_under_the_class_of_the_victim(void **state)
{
    (void)state;
    struct ast_route *route =
        open_with("a", (struct ast_route_config){ .label = AST_STR("counted") });
    static const char *const victims[] = { "alice", "", "agent:x", "agent.y", "agent-z" };
    for (size_t i = 0; i < AST_ARRAY_LEN(victims); i++)
        send("a", victims[i], 100);
    send("a", "big", AST_ROUTE_BUDGET);
    assert_int_equal(evictions("counted", "user"), 2);
    assert_int_equal(evictions("counted", "system"), 1);
    assert_int_equal(evictions("counted", "agent"), 2);
    ast_route_close(route);
}

/* Spec 04 §8.4: dropped since the previous call, lagged in total. */
static void drops_are_told_once_and_in_total(void **state)
{
    (void)state;
    struct ast_route *route = open_on("a");
    struct ast_route_stats stats;
    ast_route_stats(route, &stats);
    assert_int_equal(stats.dropped_total, 0);
    send("a", "alice", AST_ROUTE_BUDGET);
    send("a", "alice", 100);
    send("a", "alice", AST_ROUTE_BUDGET + 1);
    ast_route_stats(route, &stats);
    assert_int_equal(stats.dropped_recent, 2);
    assert_int_equal(stats.dropped_total, 2);
    assert_int_equal(stats.bytes, 100);
    assert_int_equal(stats.principals, 1);
    send("a", "alice", AST_ROUTE_BUDGET);
    ast_route_stats(route, &stats);
    assert_int_equal(stats.dropped_recent, 1);
    assert_int_equal(stats.dropped_total, 3);
    ast_route_stats(route, &stats);
    assert_int_equal(stats.dropped_recent, 0);
    ast_route_close(route);
}

static void c04_28_a_closed_route_holds_nothing(void **state)
{
    (void)state;
    struct ast_route *route = open_on("a");
    struct ast_msg *queued = ast_msg_ref(msg_of_cost("a", "alice", 100));
    ast_bus_publish(bus, queued);
    assert_int_equal(atomic_load(&queued->refs), 2);
    ast_route_close(route);
    assert_int_equal(atomic_load(&queued->refs), 1);
    ast_msg_unref(queued);

    struct ast_msg *later = ast_msg_ref(msg_of_cost("a", "alice", 100));
    ast_bus_publish(bus, later);
    assert_int_equal(atomic_load(&later->refs), 1);
    ast_msg_unref(later);
    assert_int_equal(notified, 1);
    ast_route_close(NULL);
}

static void c04_22_drain_is_fair_through_the_route(void **state)
{
    (void)state;
    struct ast_route *route =
        open_with("*", (struct ast_route_config){ .label = AST_STR("starved") });
    send("x", "A", 10 * KIB);
    send("x", "A", 10 * KIB);
    send("x", "B", 10 * KIB);
    send("x", "", 100);
    struct ast_msg *out[8];
    assert_int_equal(ast_route_drain(route, 12000, out, 8), 1);
    assert_int_equal(out[0]->principal.n, 0);
    ast_msg_unref(out[0]);
    struct ast_str labels[] = { AST_STR("starved"), AST_STR("user") };
    assert_int_equal(ast_metric_value(ast_metric_cell(AST_METRIC_ROUTE_STARVED, labels, 2)), 4);
    size_t n = ast_route_take_envelope(route, AST_ROUTE_BUDGET, out, 8);
    assert_int_equal(n, 2);
    for (size_t i = 0; i < n; i++) {
        assert_view(out[i]->principal, "A");
        ast_msg_unref(out[i]);
    }
    assert_int_equal(discard(route), 1);
    ast_route_close(route);
}

/* A flood of one principal delays another's message by one turn at most. */
static void c01_42_a_flood_delays_others_by_one_turn(void **state)
{
    (void)state;
    struct ast_route *route = open_on("a");
    for (int i = 0; i < 1000; i++)
        send("a", "flood", 100);
    send("a", "alice", 100);
    ast_msg_unref(ast_route_take(route));
    AST_AUTO(ast_msg_unref) struct ast_msg *m = ast_route_take(route);
    assert_view(m->principal, "alice");
    ast_route_close(route);
}

static void c04_20_five_thousand_principals_through_the_route(void **state)
{
    (void)state;
    enum { MANY = 5000 };
    struct ast_route *route = open_on("a");
    char name[32];
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "p%u", i);
        send("a", name, 100);
    }
    struct ast_msg **out = malloc(MANY * sizeof(struct ast_msg *));
    assert_non_null(out);
    assert_int_equal(ast_route_drain(route, AST_ROUTE_BUDGET, out, MANY), MANY);
    struct ast_route_stats stats;
    ast_route_stats(route, &stats);
    assert_int_equal(stats.principals, 0);
    assert_int_equal(stats.bytes, 0);
    for (size_t i = 0; i < MANY; i++)
        ast_msg_unref(out[i]);
    free(out);
    ast_route_close(route);
}

static void gauges_are_summed_per_label_at_scrape_time(void **state)
{
    (void)state;
    struct ast_route_config cfg = { .label = AST_STR("gauged") };
    struct ast_route *one = open_with("a", cfg), *two = open_with("b", cfg);
    send("a", "alice", 100);
    send("b", "alice", 150);
    send("b", "bob", 250);
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(1 << 20);
    assert_int_equal(ast_metrics_render(&text), AST_OK);
    assert_non_null(
        strstr(text.p, "\nastrid_capsule_route_budget_bytes_in_use{capsule=\"gauged\"} 500\n"));
    assert_non_null(
        strstr(text.p, "\nastrid_capsule_route_active_principals{capsule=\"gauged\"} 3\n"));
    ast_route_close(two);
    ast_buf_reset(&text);
    assert_int_equal(ast_metrics_render(&text), AST_OK);
    assert_non_null(
        strstr(text.p, "\nastrid_capsule_route_budget_bytes_in_use{capsule=\"gauged\"} 100\n"));
    ast_route_close(one);
    ast_buf_reset(&text);
    assert_int_equal(ast_metrics_render(&text), AST_OK);
    assert_non_null(
        strstr(text.p, "\nastrid_capsule_route_active_principals{capsule=\"gauged\"} 0\n"));
}

/* --- The log ----------------------------------------------------------------------------------- */

static int64_t fake_now;

static int64_t fake_clock(void)
{
    return fake_now;
}

/* Runs `fill` with the log in a file; returns the file's text. Owned. */
static char *log_of(void (*fill)(void))
{
    char dir[] = "/tmp/ast-bus-XXXXXX";
    assert_non_null(mkdtemp(dir));
    struct ast_log_config cfg = { .dir = ast_str_c(dir),
                                  .prefix = AST_STR("bus"),
                                  .level = AST_LOG_INFO };
    assert_int_equal(ast_log_open(&cfg, NULL), AST_OK);
    ast_route_set_clock(fake_clock);
    fill();
    ast_log_close();

    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(1 << 20);
    ast_buf_add_lit(&text, "");
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, e->d_name);
        assert_int_equal(ast_fs_read(path, 1 << 20, &text, NULL), AST_OK);
    }
    closedir(d);
    assert_int_equal(ast_fs_remove_tree(dir, NULL), AST_OK);
    return ast_buf_steal(&text);
}

static size_t times(const char *text, const char *part)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++)
        n++;
    return n;
}

#define EVICT  "ipc::route: global byte budget exhausted, dropping head of oldest queue"
#define REJECT "ipc::route: incoming message exceeds global byte budget, rejecting publish"
#define CAP    "ipc::route: per-principal queue cap reached, dropping oldest"

static void fill_each_kind(void)
{
    struct ast_route *route = open_on("*");
    send("a", "alice", AST_ROUTE_BUDGET + 1);
    send("b", "", 100);
    send("c", "bob", AST_ROUTE_BUDGET);
    discard(route);
    for (unsigned i = 0; i <= AST_ROUTE_PER_PRINCIPAL; i++)
        send("d", "carol", 10);
    ast_route_close(route);
}

static void each_kind_of_drop_has_its_line(void **state)
{
    (void)state;
    char *text = log_of(fill_each_kind);
    assert_int_equal(times(text, "astrid.audit.ipc"), 3);
    assert_int_equal(times(text, "ERROR"), 3);
    assert_int_equal(times(text, "security_event=true"), 3);
    assert_int_equal(times(text, "capsule=shell"), 3);
    assert_non_null(strstr(text, REJECT));
    assert_non_null(strstr(text, "principal=alice msg_size=1048577 budget_bytes=1048576"));
    assert_non_null(strstr(text, EVICT));
    assert_non_null(strstr(text, "<none>"));
    assert_non_null(strstr(text, "evicted_topic=b total_bytes=0"));
    assert_non_null(strstr(text, CAP));
    assert_non_null(strstr(text, "principal=carol cap=16384"));
    free(text);
}

static void fill_for_a_while(void)
{
    fake_now = 0;
    struct ast_route *route = open_on("a");
    for (unsigned i = 0; i < 100; i++, fake_now += AST_NS_PER_MS)
        send("a", "alice", AST_ROUTE_BUDGET);
    fake_now = 10 * AST_NS_PER_SEC - 1;
    send("a", "alice", AST_ROUTE_BUDGET);
    fake_now = 11 * AST_NS_PER_SEC;
    send("a", "alice", AST_ROUTE_BUDGET); /* a line, with the 99 before it */
    for (unsigned i = 0; i < 7; i++)
        send("a", "alice", AST_ROUTE_BUDGET);
    ast_route_close(route); /* a line, with the last 7 */
}

static void a_storm_of_drops_is_one_line_per_ten_seconds(void **state)
{
    (void)state;
    char *text = log_of(fill_for_a_while);
    assert_int_equal(times(text, EVICT), 3);
    assert_int_equal(times(text, "suppressed=99"), 1);
    assert_int_equal(times(text, "suppressed=7"), 1);
    assert_int_equal(times(text, "suppressed="), 2);
    free(text);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(c04_18_ten_queued_messages_come_one_by_one),
        T(c04_19_two_subscriptions_to_one_pattern_are_independent),
        T(a_subscription_sees_only_what_comes_after_it),
        T(c04_26_a_scoped_route_is_not_woken_by_others),
        T(a_scope_may_admit_system_messages),
        T(a_filter_has_the_last_word_before_queueing),
        T(c04_24_an_oversized_message_wakes_but_is_not_queued),
        T(c04_23_evictions_count_under_the_class_of_the_victim),
        T(drops_are_told_once_and_in_total),
        T(c04_28_a_closed_route_holds_nothing),
        T(c04_22_drain_is_fair_through_the_route),
        T(c01_42_a_flood_delays_others_by_one_turn),
        T(c04_20_five_thousand_principals_through_the_route),
        T(gauges_are_summed_per_label_at_scrape_time),
        T(each_kind_of_drop_has_its_line),
        T(a_storm_of_drops_is_one_line_per_ten_seconds),
    };
    return cmocka_run_group_tests_name("route", tests, NULL, NULL);
}
