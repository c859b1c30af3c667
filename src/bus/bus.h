/* The event bus: one publish reaches synchronous taps and routed subscriptions (spec 04 §5.1).
 *
 * Publishing never fails for the publisher and never waits for a consumer. Matching is an index look-up
 * (hash trie of exact segments, wildcards beside it): its cost does not grow with the number of
 * subscriptions on other topics.
 * Threads: any for publish; taps run on the publisher's thread, without any bus lock held. A message
 * published from inside a tap or a route's callback is delivered after the outer one, on the same
 * thread: every subscriber sees one thread's messages in publish order, and taps never nest.
 */
#pragma once

#include "bus/message.h"

struct ast_bus;

AST_MUST_CHECK
enum ast_rc ast_bus_new(struct ast_bus **ret, struct ast_err *err);
void ast_bus_free(struct ast_bus *bus); /* after every route and tap is gone */
AST_DEFINE_AUTO(struct ast_bus, ast_bus_free)

/* Assigns seq (from 1, +1; IPC only), counts the publish metric, fills routes, calls taps. Takes the
 * reference. Returns the seq; 0 for lifecycle events. */
uint64_t ast_bus_publish(struct ast_bus *bus, struct ast_msg *msg);

/* Internal consumers: the dispatcher, kernel routers, the monitor, reply waiters.
 * fn must be quick, must not block, may publish. `pattern` empty: every event, lifecycle ones too;
 * else subtree match on IPC topics. Close waits until no other thread runs fn; it may be called from
 * another sink's callback, even while the same message is on its way to this one. */
struct ast_tap;
AST_MUST_CHECK
enum ast_rc ast_tap_open(struct ast_bus *bus, const char *label, struct ast_str pattern,
                         void (*fn)(void *arg, struct ast_msg *msg), void *arg,
                         struct ast_tap **ret, struct ast_err *err);
void ast_tap_close(struct ast_tap *tap); /* NULL is fine; never from inside its own fn */
