#include "bus_test.h"

#include <time.h>
#include <unistd.h>

#include "bus/metrics.h"

#include "base/banned.h"

static char *render(void)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(16 << 20);
    assert_int_equal(ast_metrics_render(&out), AST_OK);
    char *text = ast_buf_steal(&out);
    assert_non_null(text);
    return text;
}

static void assert_has(const char *text, const char *part)
{
    if (!text || !strstr(text, part))
        fail_msg("<%s> is not in:\n%s", part, text ? text : "");
}

static void assert_lacks(const char *text, const char *part)
{
    if (!text || strstr(text, part))
        fail_msg("<%s> is in:\n%s", part, text ? text : "");
}

static void c03_52_what_is_there_from_the_start(void **state)
{
    (void)state;
    char *text = render();
    assert_has(text, "# HELP astrid_gateway_auth_failures_total Failed bearer verifications.\n"
                     "# TYPE astrid_gateway_auth_failures_total counter\n"
                     "astrid_gateway_auth_failures_total 0\n\n");
    assert_has(text, "\nastrid_gateway_redeem_attempts_total 0\n\n");
    assert_has(text, "\nastrid_gateway_redeem_rate_limited_total 0\n\n");
    assert_has(
        text,
        "# TYPE astrid_daemon_active_connections gauge\nastrid_daemon_active_connections 0\n\n");
    assert_lacks(text, "# HELP astrid_daemon_active_connections");
    assert_lacks(text, "astrid_gateway_requests_total"); /* labelled: after its first observation */
    assert_lacks(text, "astrid_build_info");
    free(text);
}

static void c03_52_a_histogram_has_the_eleven_buckets_and_inf(void **state)
{
    (void)state;
    struct ast_str labels[] = { AST_STR("GET"), AST_STR("/api/capsules/:id"), AST_STR("200") };
    struct ast_metric_cell *c = ast_metric_cell(AST_METRIC_GATEWAY_DURATION, labels, 3);
    ast_metric_observe_ns(c, 5000000); /* on the edge: inside */
    ast_metric_observe_ns(c, 5000001);
    ast_metric_observe_ns(c, 10000000001); /* beyond the last */
    assert_int_equal(ast_metric_value(c), 3);
    char *text = render();
#define L "{method=\"GET\",route=\"/api/capsules/:id\",status=\"200\""
#define B "astrid_gateway_request_duration_seconds_bucket" L ",le="
    assert_has(text,
               "# HELP astrid_gateway_request_duration_seconds Per-request handler latency by "
               "method+route+status.\n# TYPE astrid_gateway_request_duration_seconds histogram\n" B
               "\"0.005\"} 1\n" B "\"0.01\"} 2\n" B "\"0.025\"} 2\n" B "\"0.05\"} 2\n" B
               "\"0.1\"} 2\n" B "\"0.25\"} 2\n" B "\"0.5\"} 2\n" B "\"1\"} 2\n" B "\"2.5\"} 2\n" B
               "\"5\"} 2\n" B "\"10\"} 2\n" B
               "\"+Inf\"} 3\nastrid_gateway_request_duration_seconds_sum" L
               "} 10.010000002\nastrid_gateway_request_duration_seconds_count" L "} 3\n\n");
    free(text);
}

/* The value behind `series`, in nanoseconds. */
static double nanoseconds(const char *text, const char *series)
{
    const char *at = strstr(text, series);
    if (!at)
        fail_msg("no %s", series);
    return strtod(at + strlen(series), NULL) * 1e9;
}

static void invocations_are_a_summary_of_quantiles_since_the_start(void **state)
{
    (void)state;
    struct ast_str labels[] = { AST_STR("shell"), AST_STR("on_call") };
    struct ast_metric_cell *c = ast_metric_cell(AST_METRIC_INVOCATION_DURATION, labels, 2);
#define I    "\nastrid_capsule_invocation_duration_seconds"
#define A    "capsule=\"shell\",action=\"on_call\""
#define Q(q) I "{" A ",quantile=\"" q "\"} "
    ast_metric_observe_ns(c, 300000000000);
    char *text = render();
    assert_has(text, "# TYPE astrid_capsule_invocation_duration_seconds summary" Q(
                         "0") "300.000000000" Q("0.5") "300.000000000");
    free(text);
    for (uint64_t i = 1; i < 1000; i++) /* 4 us, 8 us, ... 3996 us */
        ast_metric_observe_ns(c, i * 4000);
    text = render();
    assert_has(text, Q("0") "0.000004000\n");
    assert_has(text,
               Q("1") "300.000000000" I "_sum{" A "} 301.998000000" I "_count{" A "} 1000\n\n");
    static const struct {
        const char *series;
        double ns;
    } cases[] = { { Q("0.5"), 2e6 },
                  { Q("0.9"), 3.6e6 },
                  { Q("0.95"), 3.8e6 },
                  { Q("0.99"), 3.96e6 },
                  { Q("0.999"), 3.996e6 } };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        double got = nanoseconds(text, cases[i].series);
        if (got < cases[i].ns * 0.875 || got > cases[i].ns * 1.125)
            fail_msg("%s %f", cases[i].series, got);
    }
    free(text);
    ast_metric_observe_ns(c, 0);
    ast_metric_observe_ns(c, UINT64_C(1) << 62);
    text = render();
    assert_has(text, Q("0") "0.000000000\n");
    assert_has(text, Q("1") "4611686018.427387904");
    free(text);
}

static void build_info_is_a_gauge_of_one(void **state)
{
    (void)state;
    struct ast_str labels[] = { AST_STR("0.8.0"), AST_STR("unknown"), AST_STR("gcc \"12\"\\x\n") };
    ast_metric_set(ast_metric_cell(AST_METRIC_BUILD_INFO, labels, 3), 1);
    char *text = render();
    assert_has(
        text,
        "# HELP astrid_build_info Build provenance (always 1).\n# TYPE astrid_build_info gauge\n"
        "astrid_build_info{version=\"0.8.0\",git_sha=\"unknown\",rustc=\"gcc \\\"12\\\"\\\\x\\n\"} 1\n\n");
    free(text);
}

static void cells_are_one_per_combination_and_sorted_in_the_text(void **state)
{
    (void)state;
    struct ast_str b[] = { AST_STR("b"), AST_STR("user") }, a[] = { AST_STR("a"), AST_STR("user") };
    struct ast_metric_cell *cell = ast_metric_cell(AST_METRIC_DISPATCH_DROPPED, b, 2);
    assert_ptr_equal(cell, ast_metric_cell(AST_METRIC_DISPATCH_DROPPED, b, 2));
    assert_ptr_not_equal(cell, ast_metric_cell(AST_METRIC_DISPATCH_DROPPED, a, 2));
    ast_metric_add(cell, 2);
    char *text = render();
    assert_has(text, "\nastrid_dispatch_dropped_total{capsule=\"b\",reason=\"user\"} 2\n\n");
    assert_lacks(text,
                 "astrid_dispatch_dropped_total{capsule=\"a\""); /* looked up, never counted */
    free(text);
    ast_metric_add(ast_metric_cell(AST_METRIC_DISPATCH_DROPPED, a, 2), 1);
    text = render();
    assert_has(text, "\nastrid_dispatch_dropped_total{capsule=\"a\",reason=\"user\"} 1\n"
                     "astrid_dispatch_dropped_total{capsule=\"b\",reason=\"user\"} 2\n\n");
    free(text);
}

static void gauges_go_up_and_down(void **state)
{
    (void)state;
    struct ast_metric_cell *c = ast_metric_cell(AST_METRIC_ACTIVE_CONNECTIONS, NULL, 0);
    ast_metric_gauge_add(c, 2);
    ast_metric_gauge_add(c, -3);
    char *text = render();
    assert_has(text, "\nastrid_daemon_active_connections -1\n");
    ast_metric_set(c, 0);
    free(text);
}

static void label_combinations_end_at_ten_thousand(void **state)
{
    (void)state;
    struct ast_metric_cell *last = NULL;
    for (unsigned i = 0; i <= 10000; i++) {
        char id[32];
        int n = snprintf(id, sizeof id, "c%u", i);
        struct ast_str label = ast_str_n(id, (size_t)n);
        last = ast_metric_cell(AST_METRIC_CAPSULE_RESTARTS, &label, 1);
        ast_metric_add(last, 1);
    }
    struct ast_str again = AST_STR("c7"), more = AST_STR("more");
    assert_int_equal(ast_metric_value(ast_metric_cell(AST_METRIC_CAPSULE_RESTARTS, &again, 1)), 1);
    assert_ptr_equal(last, ast_metric_cell(AST_METRIC_CAPSULE_RESTARTS, &more, 1));
    char *text = render();
    assert_has(text, "\nastrid_capsule_restarts_total{capsule=\"other\"} 1\n");
    assert_has(text, "\nastrid_capsule_restarts_total{capsule=\"c9999\"} 1\n");
    assert_lacks(text, "capsule=\"c10000\"");
    free(text);
}

static void a_label_value_is_cut_between_characters(void **state)
{
    (void)state;
    char id[300];
    memset(id, 'x', sizeof id);
    memcpy(id + 255, "\xc3\xbc", 2);
    struct ast_str label = ast_str_n(id, sizeof id);
    ast_metric_add(ast_metric_cell(AST_METRIC_BACKGROUND_TICKS, &label, 1), 1);
    char *text = render();
    assert_has(text, "xxx\"} 1\n");
    assert_lacks(text, "\xc3");
    free(text);
}

static void process_facts_are_plausible(void **state)
{
    (void)state;
    char *text = render();
    static const char *const names[] = {
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_virtual_memory_bytes",
        "process_virtual_memory_max_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_threads",
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(names); i++) {
        char line[128];
        snprintf(line, sizeof line, "# TYPE %s %s\n%s ", names[i], i == 0 ? "counter" : "gauge",
                 names[i]);
        assert_has(text, line);
        snprintf(line, sizeof line, "# HELP %s ", names[i]);
        assert_has(text, line);
    }
    assert_has(text, "\nprocess_threads 1\n");
    unsigned long long start, resident, fds;
    assert_int_equal(sscanf(strstr(text, "\nprocess_start_time_seconds "), " %*s %llu", &start), 1);
    assert_true(start > 1600000000 && start <= (unsigned long long)time(NULL) + 2);
    assert_int_equal(
        sscanf(strstr(text, "\nprocess_resident_memory_bytes "), " %*s %llu", &resident), 1);
    assert_true(resident > 100000);
    assert_int_equal(sscanf(strstr(text, "\nprocess_open_fds "), " %*s %llu", &fds), 1);
    free(text);

    int fd = dup(1);
    text = render();
    unsigned long long more;
    assert_int_equal(sscanf(strstr(text, "\nprocess_open_fds "), " %*s %llu", &more), 1);
    assert_int_equal(more, fds + 1);
    close(fd);
    free(text);
}

static void counters_come_before_gauges_before_histograms(void **state)
{
    (void)state;
    char *text = render();
    const char *last_counter = NULL;
    for (const char *at = text; (at = strstr(at, " counter\n")); at++)
        last_counter = at;
    const char *first_gauge = strstr(text, " gauge\n"), *last_gauge = NULL;
    for (const char *at = text; (at = strstr(at, " gauge\n")); at++)
        last_gauge = at;
    const char *first_histogram = strstr(text, " histogram\n");
    assert_true(last_counter && first_gauge && last_gauge && first_histogram);
    assert_true(last_counter < first_gauge && last_gauge < first_histogram);
    free(text);
}

static void set_connections(void *arg)
{
    ast_metric_set(ast_metric_cell(AST_METRIC_ACTIVE_CONNECTIONS, NULL, 0), *(int *)arg);
}

static void scrape_hooks_refresh_gauges_first(void **state)
{
    (void)state;
    static int connections = 41;
    ast_metrics_on_scrape(set_connections, &connections);
    connections++;
    char *text = render();
    assert_has(text, "\nastrid_daemon_active_connections 42\n");
    free(text);
}

static void a_hook_that_was_taken_back_is_not_asked(void **state)
{
    (void)state;
    static int connections = 7;
    ast_metrics_on_scrape(set_connections, &connections);
    free(render());
    connections = 8;
    ast_metrics_off_scrape(set_connections, &connections);
    ast_metric_set(ast_metric_cell(AST_METRIC_ACTIVE_CONNECTIONS, NULL, 0), 7);
    static int others = 9;
    ast_metrics_off_scrape(set_connections, &others); /* nobody's: nothing happens */
    char *text = render();
    assert_lacks(text, "\nastrid_daemon_active_connections 8\n");
    free(text);
}

static void a_raised_counter_never_goes_back(void **state)
{
    (void)state;
    struct ast_str label = AST_STR("raised");
    struct ast_metric_cell *c = ast_metric_cell(AST_METRIC_CAPSULE_FUEL, &label, 1);
    ast_metric_raise(c, 41);
    ast_metric_raise(c, 7);
    assert_int_equal(ast_metric_value(c), 41);
    ast_metric_raise(c, 42);
    char *text = render();
    assert_has(text, "\nastrid_capsule_cpu_fuel_total{capsule=\"raised\"} 42\n");
    free(text);
}

/* Each family is listed once, with the names and labels of the table. */
static void c04_52_names_and_labels_are_those_of_the_list(void **state)
{
    (void)state;
    static const struct {
        enum ast_metric metric;
        const char *sample; /* with every label set to its own name */
    } cases[] = {
        { AST_METRIC_BUS_PUBLISHED, "astrid_bus_events_published_total{event_kind=\"l0\"} " },
        { AST_METRIC_BUS_LAGGED, "astrid_bus_receiver_lagged_total{subscriber=\"l0\"} " },
        { AST_METRIC_ROUTE_EVICTIONS,
          "astrid_capsule_route_byte_evictions_total{capsule=\"l0\",principal_class=\"l1\"} " },
        { AST_METRIC_ROUTE_STARVED,
          "astrid_capsule_route_quantum_starved_total{capsule=\"l0\",principal_class=\"l1\"} " },
        { AST_METRIC_BACKGROUND_TICKS, "astrid_daemon_background_ticks_total{loop=\"l0\"} " },
        { AST_METRIC_CONNECTIONS_OPENED, "astrid_daemon_connections_opened_total " },
        { AST_METRIC_CONNECTIONS_CLOSED, "astrid_daemon_connections_closed_total " },
        { AST_METRIC_DISPATCH_DROPPED,
          "astrid_dispatch_dropped_total{capsule=\"l0\",reason=\"l1\"} " },
        { AST_METRIC_DISPATCH_OUTCOMES,
          "astrid_dispatch_outcomes_total{capsule=\"l0\",outcome=\"l1\"} " },
        { AST_METRIC_PUBLISH_REJECTED,
          "astrid_ipc_publish_rejected_total{capsule=\"l0\",reason=\"l1\"} " },
        { AST_METRIC_CAPSULE_FUEL, "astrid_capsule_cpu_fuel_total{capsule=\"l0\"} " },
        { AST_METRIC_CAPSULE_FAILURES, "astrid_capsule_failures_total{capsule=\"l0\"} " },
        { AST_METRIC_GATEWAY_REQUESTS,
          "astrid_gateway_requests_total{method=\"l0\",route=\"l1\",status=\"l2\"} " },
        { AST_METRIC_ROUTE_PRINCIPALS, "astrid_capsule_route_active_principals{capsule=\"l0\"} " },
        { AST_METRIC_ROUTE_BYTES, "astrid_capsule_route_budget_bytes_in_use{capsule=\"l0\"} " },
    };
    struct ast_str labels[] = { AST_STR("l0"), AST_STR("l1"), AST_STR("l2") };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        size_t count = 0;
        for (const char *at = cases[i].sample; (at = strchr(at, '=')); at++)
            count++;
        struct ast_metric_cell *c = ast_metric_cell(cases[i].metric, labels, count);
        if (cases[i].metric == AST_METRIC_ROUTE_PRINCIPALS ||
            cases[i].metric == AST_METRIC_ROUTE_BYTES)
            ast_metric_set(c, 1);
        else
            ast_metric_add(c, 1);
    }
    char *text = render();
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++)
        assert_has(text, cases[i].sample);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c03_52_what_is_there_from_the_start),
        cmocka_unit_test(c03_52_a_histogram_has_the_eleven_buckets_and_inf),
        cmocka_unit_test(invocations_are_a_summary_of_quantiles_since_the_start),
        cmocka_unit_test(build_info_is_a_gauge_of_one),
        cmocka_unit_test(cells_are_one_per_combination_and_sorted_in_the_text),
        cmocka_unit_test(gauges_go_up_and_down),
        cmocka_unit_test(label_combinations_end_at_ten_thousand),
        cmocka_unit_test(a_label_value_is_cut_between_characters),
        cmocka_unit_test(process_facts_are_plausible),
        cmocka_unit_test(counters_come_before_gauges_before_histograms),
        cmocka_unit_test(scrape_hooks_refresh_gauges_first),
        cmocka_unit_test(a_hook_that_was_taken_back_is_not_asked),
        cmocka_unit_test(a_raised_counter_never_goes_back),
        cmocka_unit_test(c04_52_names_and_labels_are_those_of_the_list),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
