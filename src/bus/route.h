/* A routed subscription: bounded queues, one per publishing principal, drained fairly (spec 04 §7).
 *
 * Enqueue happens on the publisher's thread under the route's own lock. One consumer at a time takes.
 * Budget AST_ROUTE_BUDGET bytes over all sub-queues; at most AST_ROUTE_PER_PRINCIPAL messages per
 * principal. Under pressure the oldest head goes, first from sub-queues with two or more messages, so
 * a sole (terminating) message is evicted last. Idle principals cost nothing.
 */
#pragma once

#include "bus/bus.h"

#define AST_ROUTE_BUDGET        1048576u
#define AST_ROUTE_PER_PRINCIPAL 16384u /* spec README §5 gap 40 */
#define AST_ROUTE_QUANTUM_FLOOR 4096u
/* All principals together. Bounds the bookkeeping of tiny messages, which would otherwise outweigh
 * the byte budget. */
#define AST_ROUTE_MAX_MESSAGES 65536u

struct ast_route;

struct ast_route_config {
    /* Subtree; borrowed during open. Several patterns share one queue set and keep bus order across
     * topics. */
    const struct ast_str *patterns;
    size_t pattern_count;     /* at least 1 */
    struct ast_str label;     /* capsule id or "gateway": the metric label; copied */
    struct ast_str scope;     /* only messages of this principal; empty: all */
    bool scope_admits_system; /* with a scope: messages without principal pass too */
    /* Last word before queueing, under no lock; NULL: all. Must be quick and thread-safe. */
    bool (*filter)(void *arg, const struct ast_msg *msg);
    /* After a message was queued (or refused for size); any thread, no lock held; NULL: none. */
    void (*notify)(void *arg);
    /* A message of that principal (empty: none) was evicted or refused; any thread, under the route's lock: count
     * it, nothing more. NULL: none. */
    void (*lost)(void *arg, struct ast_str principal);
    void *arg;
};

AST_MUST_CHECK
enum ast_rc ast_route_open(struct ast_bus *bus, const struct ast_route_config *cfg,
                           struct ast_route **ret, struct ast_err *err);
/* Removes it from the index, discards what is queued, waits for a running notify. Never from inside
 * its own callbacks. NULL is fine. */
void ast_route_close(struct ast_route *route);
AST_DEFINE_AUTO(struct ast_route, ast_route_close)

bool ast_route_empty(struct ast_route *route);

/* Exactly one message by the procedure of spec 04 §7.7; NULL when empty. The caller owns the reference. */
struct ast_msg *ast_route_take(struct ast_route *route);

/* Appends taken messages to out[0..max); returns how many. */
/* Deficit round robin of spec 04 §7.6 with a byte budget. */
size_t ast_route_drain(struct ast_route *route, size_t budget_bytes, struct ast_msg **out,
                       size_t max);
/* One principal's messages, at least one when any is queued (spec 04 §8.4 steps 1 to 3). */
size_t ast_route_take_envelope(struct ast_route *route, size_t budget_bytes, struct ast_msg **out,
                               size_t max);

struct ast_route_stats {
    uint64_t dropped_total;   /* evicted or refused since open ("lagged") */
    uint64_t dropped_recent;  /* since the previous call ("dropped") */
    size_t bytes, principals; /* queued now */
};
void ast_route_stats(struct ast_route *route, struct ast_route_stats *ret);

/* All open routes of a label: messages that wait. Any thread. */
size_t ast_routes_queued(struct ast_str label);

/* The clock that spaces the log lines about dropped messages, for tests: monotonic nanoseconds. NULL
 * restores the real clock. Head ages follow enqueue order and need no clock. */
void ast_route_set_clock(int64_t (*now)(void));
