/* Many threads on one bus: publishers, consumers, taps, routes that come and go. Meant for the thread
 * sanitizer; the counts at the end hold anywhere. */
#include "bus_test.h"

#include <pthread.h>
#include <sched.h>

#include "base/thread.h"
#include "bus/metrics.h"

#include "base/banned.h"

enum { PUBLISHERS = 3, PER_PUBLISHER = 3000, ROUTES = 3, CHURNERS = 2, WINDOW = 500 };

static struct {
    struct ast_bus *bus;
    struct ast_route *routes[ROUTES];
    _Atomic uint64_t taken[ROUTES][PUBLISHERS]; /* by the consumer of each route */
    atomic_uint wakes[ROUTES];
    atomic_uint tap_calls, late_calls, churned, bad;
    atomic_bool stop;
} w;

static struct ast_msg *numbered(unsigned publisher, uint64_t n)
{
    char name[16], body[32];
    snprintf(name, sizeof name, "p%u", publisher);
    snprintf(body, sizeof body, "{\"n\":%llu}", (unsigned long long)n);
    struct ast_msg_spec spec = { .topic = AST_STR("stress.x"), .principal = ast_str_c(name) };
    struct ast_msg *m = NULL;
    /* Every other one takes the long way. */
    enum ast_rc rc = n % 2 ? ast_msg_from_json(&spec, ast_str_c(body), &m, NULL)
                           : ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_str_c(body), &m, NULL);
    if (rc)
        atomic_fetch_add(&w.bad, 1);
    return m;
}

/* Stays under the budget: never more than WINDOW ahead of the slowest consumer. */
static void wait_for_room(unsigned publisher, uint64_t n)
{
    for (unsigned r = 0; r < ROUTES; r++)
        while (n >= atomic_load(&w.taken[r][publisher]) + WINDOW)
            sched_yield();
}

static void *publisher_main(void *arg)
{
    unsigned publisher = (unsigned)(uintptr_t)arg;
    for (uint64_t n = 0; n < PER_PUBLISHER; n++) {
        wait_for_room(publisher, n);
        struct ast_msg *m = numbered(publisher, n);
        if (!m)
            return NULL;
        m->depth = 0;
        ast_bus_publish(w.bus, m);
    }
    return NULL;
}

static void check_one(unsigned r, struct ast_msg *m)
{
    unsigned publisher;
    unsigned long long n;
    char body[32];
    snprintf(body, sizeof body, "%.*s", (int)m->body.n, m->body.p);
    if (sscanf(body, "{\"n\":%llu}", &n) != 1 || m->principal.n != 2 || m->principal.p[0] != 'p') {
        atomic_fetch_add(&w.bad, 1);
        return;
    }
    publisher = (unsigned)(m->principal.p[1] - '0');
    if (n != atomic_load(&w.taken[r][publisher])) /* each one, in publish order */
        atomic_fetch_add(&w.bad, 1);
    atomic_fetch_add(&w.taken[r][publisher], 1);
}

static void *consumer_main(void *arg)
{
    unsigned r = (unsigned)(uintptr_t)arg;
    struct ast_msg *out[64];
    for (uint64_t left = (uint64_t)PUBLISHERS * PER_PUBLISHER; left > 0;) {
        size_t n = 0;
        switch (left % 3) {
        case 0: n = ast_route_drain(w.routes[r], 4096, out, 64); break;
        case 1: n = ast_route_take_envelope(w.routes[r], 4096, out, 64); break;
        default: n = (out[0] = ast_route_take(w.routes[r])) != NULL; break;
        }
        for (size_t i = 0; i < n; i++) {
            check_one(r, out[i]);
            ast_msg_unref(out[i]);
        }
        left -= n;
        if (n == 0)
            sched_yield();
    }
    return NULL;
}

static void on_wake(void *arg)
{
    atomic_fetch_add((atomic_uint *)arg, 1);
}

static void on_tap(void *arg, struct ast_msg *msg)
{
    atomic_fetch_add((atomic_uint *)arg, 1);
}

/* What a callback may still touch; gone right after close. */
struct owner {
    atomic_bool is_alive;
    struct ast_bus *bus;
};

static void use_owner(void *arg)
{
    if (!atomic_load(&((struct owner *)arg)->is_alive))
        atomic_fetch_add(&w.late_calls, 1);
}

static void use_owner_and_reply(void *arg, struct ast_msg *msg)
{
    struct owner *o = arg;
    use_owner(o);
    if (msg->topic.n && msg->topic.p[0] == 's' && msg->seq % 64 == 0) {
        struct ast_msg *reply = NULL;
        struct ast_msg_spec spec = { .topic = AST_STR("reply"), .principal = AST_STR("r") };
        if (!ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, AST_STR("{}"), &reply, NULL))
            ast_bus_publish(o->bus, reply);
    }
}

static bool use_owner_as_filter(void *arg, const struct ast_msg *msg)
{
    use_owner(arg);
    return msg->seq % 2;
}

/* Opens and closes sinks on the same topics until told to stop. */
static void *churner_main(void *arg)
{
    while (!atomic_load(&w.stop)) {
        struct owner *o = malloc(sizeof *o);
        if (!o)
            return NULL;
        atomic_init(&o->is_alive, true);
        o->bus = w.bus;
        struct ast_str patterns[] = { AST_STR("stress.*"), AST_STR("*"), AST_STR("stress.x") };
        struct ast_route_config cfg = {
            .patterns = patterns,
            .pattern_count = 3,
            .label = AST_STR("churn"),
            .scope = AST_STR("p1"),
            .scope_admits_system = true,
            .filter = use_owner_as_filter,
            .notify = use_owner,
            .arg = o,
        };
        struct ast_route *route = NULL;
        struct ast_tap *tap = NULL;
        if (ast_route_open(w.bus, &cfg, &route, NULL) ||
            ast_tap_open(w.bus, "churn", AST_STR("stress.x"), use_owner_and_reply, o, &tap, NULL))
            atomic_fetch_add(&w.bad, 1);
        for (int i = 0; i < 20; i++) {
            ast_msg_unref(ast_route_take(route));
            sched_yield();
        }
        ast_route_close(route);
        ast_tap_close(tap);
        atomic_store(&o->is_alive, false);
        free(o);
        atomic_fetch_add(&w.churned, 1);
    }
    return NULL;
}

static void *scraper_main(void *arg)
{
    while (!atomic_load(&w.stop)) {
        AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(1 << 20);
        if (ast_metrics_render(&text))
            atomic_fetch_add(&w.bad, 1);
        sched_yield();
    }
    return NULL;
}

static pthread_t start(void *(*fn)(void *), unsigned arg)
{
    pthread_t t;
    assert_int_equal(ast_thread_start(&t, "stress", fn, (void *)(uintptr_t)arg, NULL), AST_OK);
    return t;
}

static void nothing_is_lost_under_budget(void **state)
{
    (void)state;
    w.bus = bus_new();
    static const char *const patterns[ROUTES] = { "stress.x", "stress.*", "*.x" };
    for (unsigned r = 0; r < ROUTES; r++) {
        struct ast_str pattern = ast_str_c(patterns[r]);
        struct ast_route_config cfg = { .patterns = &pattern,
                                        .pattern_count = 1,
                                        .label = AST_STR("steady"),
                                        .notify = on_wake,
                                        .arg = &w.wakes[r] };
        assert_int_equal(ast_route_open(w.bus, &cfg, &w.routes[r], NULL), AST_OK);
    }
    struct ast_tap *tap = NULL;
    assert_int_equal(
        ast_tap_open(w.bus, "count", AST_STR("stress.*"), on_tap, &w.tap_calls, &tap, NULL),
        AST_OK);

    pthread_t publishers[PUBLISHERS], consumers[ROUTES], churners[CHURNERS], scraper;
    for (unsigned i = 0; i < ROUTES; i++)
        consumers[i] = start(consumer_main, i);
    for (unsigned i = 0; i < CHURNERS; i++)
        churners[i] = start(churner_main, i);
    scraper = start(scraper_main, 0);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        publishers[i] = start(publisher_main, i);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        pthread_join(publishers[i], NULL);
    for (unsigned i = 0; i < ROUTES; i++)
        pthread_join(consumers[i], NULL);
    atomic_store(&w.stop, true);
    for (unsigned i = 0; i < CHURNERS; i++)
        pthread_join(churners[i], NULL);
    pthread_join(scraper, NULL);

    assert_int_equal(atomic_load(&w.bad), 0);
    assert_int_equal(atomic_load(&w.late_calls), 0);
    assert_int_equal(atomic_load(&w.tap_calls), PUBLISHERS * PER_PUBLISHER);
    assert_true(atomic_load(&w.churned) > 0);
    for (unsigned r = 0; r < ROUTES; r++) {
        struct ast_route_stats stats;
        ast_route_stats(w.routes[r], &stats);
        assert_int_equal(stats.dropped_total, 0);
        assert_int_equal(atomic_load(&w.wakes[r]), PUBLISHERS * PER_PUBLISHER);
        assert_true(ast_route_empty(w.routes[r]));
        ast_route_close(w.routes[r]);
    }
    ast_tap_close(tap);
    ast_bus_free(w.bus);
}

/* --- Numbers under contention ------------------------------------------------------------------ */

static struct {
    struct ast_bus *bus;
    atomic_uchar seen[4 * 2000 + 1];
} numbers;

static void *number_main(void *arg)
{
    for (unsigned i = 0; i < 2000; i++) {
        struct ast_msg_spec spec = { .topic = AST_STR("n") };
        struct ast_msg *m = NULL;
        if (!ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, AST_STR("1"), &m, NULL))
            atomic_fetch_add(&numbers.seen[ast_bus_publish(numbers.bus, m)], 1);
    }
    return NULL;
}

static void c04_13_numbers_are_unique_across_threads(void **state)
{
    (void)state;
    numbers.bus = bus_new();
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++)
        threads[i] = start(number_main, i);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 1; i <= 8000; i++)
        assert_int_equal(atomic_load(&numbers.seen[i]), 1);
    ast_bus_free(numbers.bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lost_under_budget),
        cmocka_unit_test(c04_13_numbers_are_unique_across_threads),
    };
    return cmocka_run_group_tests_name("stress", tests, NULL, NULL);
}
