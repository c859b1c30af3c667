/* The metrics registry of the process, in Prometheus' terms (spec 03 §24.2, §25; spec 04 §16).
 *
 * AST_METRIC_MAP is the only list of families. Counting is one relaxed atomic add on a cell; look the
 * cell up once and keep it where the path is hot. Label values are bounded sets by contract: never a
 * principal, path or raw topic. A labelled family shows up after its first observation.
 * Threads: any. Counting starts with the process.
 */
#pragma once

#include <stdint.h>

#include "base/buf.h"

/* id, name, type, label names (comma separated), help ("" = no HELP line) */
#define AST_METRIC_MAP(X)                                                                          \
    X(GATEWAY_REQUESTS, "astrid_gateway_requests_total", COUNTER, "method,route,status",           \
      "Total HTTP requests by method+route+status.")                                               \
    X(GATEWAY_AUTH_FAILURES, "astrid_gateway_auth_failures_total", COUNTER, "",                    \
      "Failed bearer verifications.")                                                              \
    X(GATEWAY_REDEEM_ATTEMPTS, "astrid_gateway_redeem_attempts_total", COUNTER, "",                \
      "Invite-redemption attempts.")                                                               \
    X(GATEWAY_REDEEM_LIMITED, "astrid_gateway_redeem_rate_limited_total", COUNTER, "",             \
      "Redeem requests rejected by the rate limiter.")                                             \
    X(BUS_PUBLISHED, "astrid_bus_events_published_total", COUNTER, "event_kind", "")               \
    X(BUS_LAGGED, "astrid_bus_receiver_lagged_total", COUNTER, "subscriber", "")                   \
    X(CONNECTIONS_OPENED, "astrid_daemon_connections_opened_total", COUNTER, "", "")               \
    X(CONNECTIONS_CLOSED, "astrid_daemon_connections_closed_total", COUNTER, "", "")               \
    X(BACKGROUND_TICKS, "astrid_daemon_background_ticks_total", COUNTER, "loop", "")               \
    X(ROUTE_EVICTIONS, "astrid_capsule_route_byte_evictions_total", COUNTER,                       \
      "capsule,principal_class", "")                                                               \
    X(ROUTE_STARVED, "astrid_capsule_route_quantum_starved_total", COUNTER,                        \
      "capsule,principal_class", "")                                                               \
    X(DISPATCH_DROPPED, "astrid_dispatch_dropped_total", COUNTER, "capsule,reason",                \
      "Events not delivered to a handler.")                                                        \
    X(DISPATCH_OUTCOMES, "astrid_dispatch_outcomes_total", COUNTER, "capsule,outcome",             \
      "Handler calls by outcome.")                                                                 \
    X(PUBLISH_REJECTED, "astrid_ipc_publish_rejected_total", COUNTER, "capsule,reason",            \
      "Guest publishes refused.")                                                                  \
    X(CAPSULE_RESTARTS, "astrid_capsule_restarts_total", COUNTER, "capsule",                       \
      "Capsules started again after a crash.")                                                     \
    X(CAPSULE_FUEL, "astrid_capsule_cpu_fuel_total", COUNTER, "capsule",                           \
      "Fuel burned by guest code: about one unit an instruction.")                                 \
    X(CAPSULE_FAILURES, "astrid_capsule_failures_total", COUNTER, "capsule",                       \
      "Calls and run loops that trapped or were cut short.")                                       \
    X(ACTIVE_CONNECTIONS, "astrid_daemon_active_connections", GAUGE, "", "")                       \
    X(ROUTE_PRINCIPALS, "astrid_capsule_route_active_principals", GAUGE, "capsule", "")            \
    X(ROUTE_BYTES, "astrid_capsule_route_budget_bytes_in_use", GAUGE, "capsule", "")               \
    X(CAPSULE_QUEUED, "astrid_capsule_queued_events", GAUGE, "capsule",                            \
      "Events that wait for a handler or in a subscription.")                                      \
    X(CAPSULE_RUNNING, "astrid_capsule_running_calls", GAUGE, "capsule",                           \
      "Handler calls under way.")                                                                  \
    X(CAPSULE_MEMORY_PEAK, "astrid_capsule_memory_peak_bytes", GAUGE, "capsule",                   \
      "Largest guest memory after any call.")                                                      \
    X(PRINCIPALS_KNOWN, "astrid_principals_known", GAUGE, "",                                      \
      "Principals with an account in the ledger.")                                                 \
    X(BUILD_INFO, "astrid_build_info", GAUGE, "version,git_sha,rustc",                             \
      "Build provenance (always 1).")                                                              \
    X(GATEWAY_DURATION, "astrid_gateway_request_duration_seconds", HISTOGRAM,                      \
      "method,route,status", "Per-request handler latency by method+route+status.")                \
    X(INVOCATION_DURATION, "astrid_capsule_invocation_duration_seconds", SUMMARY,                  \
      "capsule,action", "")

enum ast_metric {
#define X(id, name, type, labels, help) AST_METRIC_##id,
    AST_METRIC_MAP(X)
#undef X
        AST_METRIC_COUNT
};

struct ast_metric_cell; /* one label combination; lives as long as the process */

/* Finds or creates the cell. `labels`: one value per label name, in order; copied. At most 10 000 cells a
 * family; beyond that every new combination shares one cell labelled "other". Never NULL. */
struct ast_metric_cell *ast_metric_cell(enum ast_metric m, const struct ast_str *labels,
                                        size_t count);
void ast_metric_add(struct ast_metric_cell *c, uint64_t n); /* counters */
/* Counters whose total is kept elsewhere: never goes back. */
void ast_metric_raise(struct ast_metric_cell *c, uint64_t total);
void ast_metric_set(struct ast_metric_cell *c, int64_t v);       /* gauges */
void ast_metric_gauge_add(struct ast_metric_cell *c, int64_t d); /* gauges */
/* Histograms and summaries; exported in seconds. The quantiles of a summary are those since the start, and off by at most an
 * eighth; the smallest, the largest and the sum are exact. */
void ast_metric_observe_ns(struct ast_metric_cell *c, uint64_t ns);
uint64_t ast_metric_value(const struct ast_metric_cell *c); /* tests and status pages */

/* Called at scrape time before the text is made, to refresh gauges. Registered once each at start. */
void ast_metrics_on_scrape(void (*fn)(void *arg), void *arg);
/* Takes a registration back. The caller sees to it that no scrape runs: its doors are closed. */
void ast_metrics_off_scrape(void (*fn)(void *arg), void *arg);
/* The whole exposition, process metrics included. */
enum ast_rc ast_metrics_render(struct ast_buf *out);
