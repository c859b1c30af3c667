/* What the bus, its index and its sinks (routes and taps) share.
 *
 * Life of a sink: open puts its patterns into the index; a publish that meets it there adds a
 * reference and works on it after leaving the index; close takes it out, marks it closed, waits for
 * callbacks that already run and drops the owner's reference. A publisher that still holds one finds
 * it closed and goes on.
 */
#pragma once

#include <stdatomic.h>

#include "base/list.h"
#include "base/map.h"
#include "base/thread.h"
#include "bus/bus.h"
#include "bus/event.h"

struct bus_node;
struct bus_sink;

/* One pattern of one sink at its place in the index. Guarded by the index's lock. */
struct bus_entry {
    struct ast_list link;        /* in the list of its scope at the node */
    struct ast_list system_link; /* in the node's list for messages without principal */
    struct bus_sink *sink;
    struct bus_node *node;  /* NULL: no topic can match, not in the index */
    struct ast_str pattern; /* owned by the sink */
    bool is_below;          /* trailing ".*": matches deeper topics only */
    bool has_rivals;        /* an earlier pattern of this sink may match the same topic */
};

/* Base of routes and taps. Owner: whoever opened it; the atomics are any thread's. */
struct bus_sink {
    atomic_uint refs;    /* the owner's and one per publisher at work on it */
    atomic_uint running; /* threads inside its callbacks, or about to look at `closed` */
    atomic_bool closed;  /* set once, before close waits for running == 0 */
    bool is_tap;
    bool scope_admits_system;
    struct ast_str scope; /* owned; empty: all principals */
    struct ast_bus *bus;
    struct bus_entry *entries; /* owned, immutable list */
    size_t entry_count;
    void (*release)(struct bus_sink *sink); /* frees it after the last reference */
};

/* Sinks a publish met; each carries a reference. */
struct bus_hits {
    struct bus_sink **v; /* `few`, or owned */
    size_t n, cap;
    size_t lost; /* met, but there was no memory to remember them */
    struct bus_sink *few[64];
};

/* Leaves `few` as it is: half a kilobyte that most publishes never touch. */
static inline void bus_hits_init(struct bus_hits *hits)
{
    hits->v = hits->few;
    hits->n = hits->lost = 0;
    hits->cap = AST_ARRAY_LEN(hits->few);
}

/* --- index.c --- */

/* Patterns to sinks: a trie of segments, each node a hash of exact children with the '*' child beside
 * it. Not thread-safe: readers may share, a writer must be alone. */
struct bus_index {
    struct bus_node *root;
    struct ast_list everything; /* entries with an empty pattern: every event */
};

AST_MUST_CHECK
enum ast_rc bus_index_init(struct bus_index *index, struct ast_err *err);
void bus_index_done(struct bus_index *index); /* every sink is gone */
/* All entries or none. */
AST_MUST_CHECK
enum ast_rc bus_index_add(struct bus_index *index, struct bus_sink *sink, struct ast_err *err);
void bus_index_remove(struct bus_index *index, struct bus_sink *sink);
/* Adds every sink that the message reaches to `hits`, each once. */
void bus_index_collect(const struct bus_index *index, const struct ast_msg *msg,
                       struct bus_hits *hits);

/* --- bus.c --- */

/* Fills the common part; copies patterns (duplicates dropped) and scope. */
AST_MUST_CHECK
enum ast_rc bus_sink_init(struct bus_sink *sink, struct ast_bus *bus,
                          const struct ast_str *patterns, size_t pattern_count,
                          struct ast_str scope, struct ast_err *err);
void bus_sink_done(struct bus_sink *sink); /* frees the common part */
AST_MUST_CHECK
enum ast_rc bus_sink_open(struct bus_sink *sink, struct ast_err *err);
/* Out of the index, no callback runs any more. The caller's reference stays. */
void bus_sink_close(struct bus_sink *sink);
void bus_sink_unref(struct bus_sink *sink);
/* Around callbacks; false: closed, do not call. */
bool bus_sink_enter(struct bus_sink *sink);
void bus_sink_leave(struct bus_sink *sink);

/* --- event.c --- */

enum ast_event_kind bus_event_kind(const struct ast_msg *m);

/* --- route.c --- */

/* Takes the reference to the message, not the one to the sink. */
void bus_route_deliver(struct bus_sink *sink, struct ast_msg *msg);
