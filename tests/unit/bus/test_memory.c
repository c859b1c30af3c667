/* Lack of memory at every single allocation: errors are reported, nothing leaks, nothing breaks.
 * Linked with malloc, calloc and realloc wrapped. */
#include "bus_test.h"

#include "base/log.h"
#include "bus/event.h"
#include "bus/limiter.h"
#include "bus/metrics.h"

#include "base/banned.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static long countdown; /* allocations until one fails; 0: none does */

static bool fails(void)
{
    return countdown > 0 && --countdown == 0;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

static void ignore(void *arg, struct ast_msg *msg) {}

/* True when rc is success; the only failure it may be is the one we cause. */
static bool ok(enum ast_rc rc)
{
    if (rc)
        assert_int_equal(rc, AST_E_NO_MEMORY);
    return !rc;
}

static void send(struct ast_bus *bus, struct ast_route **routes, size_t count)
{
    char name[16];
    for (unsigned i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "p%u", i % 20);
        struct ast_msg_spec spec = { .topic = AST_STR("a.b"), .principal = ast_str_c(name) };
        struct ast_msg *m = NULL;
        if (ok(ast_msg_from_json(&spec, AST_STR("{\"type\":\"raw_json\",\"a\":[1]}"), &m, NULL)))
            ast_bus_publish(bus, m);
    }
    struct ast_msg *out[64];
    for (size_t i = 0; i < count; i++) {
        size_t n = ast_route_drain(routes[i], AST_ROUTE_BUDGET, out, 64);
        struct ast_route_stats stats;
        ast_route_stats(routes[i], &stats);
        assert_int_equal(stats.bytes, 0);
        assert_true(n + stats.dropped_total <= 40);
        for (size_t k = 0; k < n; k++)
            ast_msg_unref(out[k]);
    }
}

static void everything_once(void)
{
    enum { ROUTES = 70 }; /* more than a publish can note without memory */
    AST_AUTO(ast_bus_free) struct ast_bus *bus = NULL;
    if (!ok(ast_bus_new(&bus, NULL)))
        return;
    struct ast_route *routes[ROUTES];
    struct ast_tap *tap = NULL;
    size_t count = 0;
    static const struct ast_str patterns[] = { AST_STR("a.*"), AST_STR("a.b"), AST_STR("x.*.y") };
    struct ast_route_config cfg = { .patterns = patterns, .pattern_count = 3 };
    for (; count < ROUTES; count++) {
        cfg.label = AST_STR("memory");
        cfg.scope = count % 7 ? AST_STR_NONE : AST_STR("p1");
        if (!ok(ast_route_open(bus, &cfg, &routes[count], NULL)))
            break;
    }
    if (ok(ast_tap_open(bus, "t", AST_STR("a.*"), ignore, NULL, &tap, NULL)))
        send(bus, routes, count);
    struct ast_msg *event = NULL;
    if (ok(ast_event_new(AST_EVENT_kernel_started, "kernel", AST_STR("\"version\":\"1\""), &event,
                         NULL)))
        ast_bus_publish(bus, event);
    ast_tap_close(tap);
    while (count > 0)
        ast_route_close(routes[--count]);

    AST_AUTO(ast_limiter_free) struct ast_limiter *l = NULL;
    if (ok(ast_limiter_new(&l, NULL)) && ast_limiter_admit(l, AST_STR("p"), 10, 10, 0))
        assert_false(ast_limiter_admit(l, AST_STR("p"), 1, 10, 0));

    struct ast_str labels[] = { AST_STR("memory"), AST_STR("run") };
    ast_metric_observe_ns(ast_metric_cell(AST_METRIC_INVOCATION_DURATION, labels, 2), 1);
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(1 << 20);
    (void)ok(ast_metrics_render(&text));
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    for (long nth = 1;; nth++) {
        countdown = nth;
        everything_once();
        if (countdown > 0) { /* nothing failed any more */
            assert_true(nth > 500);
            break;
        }
    }
    countdown = 0;
    everything_once();
}

int main(void)
{
    struct ast_log_config quiet = { .level = AST_LOG_OFF };
    if (ast_log_open(&quiet, NULL))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
