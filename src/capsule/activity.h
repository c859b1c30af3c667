/* What capsules and principals do, for those who watch: `astrid top` and the metrics.
 *
 * A snapshot is made on request from counters that exist anyway: the seats' atomics, the shards
 * of the mailboxes and of the ledger, each under its own lock for as long as a copy takes. It is
 * no single moment; every figure by itself is true. Rates are the reader's: two snapshots and
 * the time between them.
 */
#pragma once

#include "base/id.h"
#include "capsule/registry.h"

#define AST_ACTIVITY_ROWS     200u /* principals, and capsules, when nobody says how many */
#define AST_ACTIVITY_MAX_ROWS 500u /* an answer stays far below 1 MiB */

/* id, name on the wire */
#define AST_ACTIVITY_SORT_MAP(X)                                                                   \
    X(CPU, "cpu") X(CALLS, "calls") X(MEMORY, "memory") X(QUEUE, "queue") X(DROPS, "drops")

enum ast_activity_sort {
#define X(id, name) AST_ACTIVITY_SORT_##id,
    AST_ACTIVITY_SORT_MAP(X)
#undef X
        AST_ACTIVITY_SORT_COUNT
};
extern const struct ast_str ast_activity_sorts[AST_ACTIVITY_SORT_COUNT];

struct ast_activity_ask {
    struct ast_str only; /* the figures of this principal alone; empty: everybody's */
    enum ast_activity_sort sort;
    unsigned limit; /* rows of each kind, at most AST_ACTIVITY_MAX_ROWS */
};

/* Totals since the daemon's start, except the last two: now. */
struct ast_activity_figures {
    uint64_t calls, failures, dropped, cpu_fuel;
    uint64_t memory_peak_bytes; /* of one instance; of several rows: the largest */
    uint64_t queued, running;
};

enum ast_activity_state { AST_ACTIVITY_READY, AST_ACTIVITY_STARTING, AST_ACTIVITY_FAILED };

struct ast_activity_capsule {
    struct ast_str id; /* borrowed for the registry's life */
    enum ast_activity_state state;
    bool is_run_loop;
    unsigned instances;
    uint64_t restarts;
    /* One principal's view has queued and running only. Events without a principal count as the
     * owner's; a subscription's queue counts for the capsule only. */
    struct ast_activity_figures f;
};

struct ast_activity_principal {
    struct ast_principal name;
    uint64_t throttled; /* calls denied by the CPU budget */
    struct ast_activity_figures f;
    uint64_t recent_calls, recent_fuel; /* what `calls` and `cpu` choose by */
};

/* Owned. Rows are in ascending order of their names. */
struct ast_activity {
    int64_t taken_ns; /* monotonic, when the copying began */
    bool everybody;
    struct ast_activity_capsule *capsules;
    size_t capsule_count, capsules_total;
    struct ast_activity_principal *principals; /* the busiest by the asked order */
    size_t principal_count, principals_total;
    struct ast_activity_figures other; /* principals without a row: forgotten ones, too */
    uint64_t other_throttled;
};

/* Any thread; about a millisecond for 10 000 principals, a shard is locked for a fraction of it. */
AST_MUST_CHECK
enum ast_rc ast_capsules_activity(struct ast_capsules *c, const struct ast_activity_ask *ask,
                                  struct ast_activity **ret, struct ast_err *err);
void ast_activity_free(struct ast_activity *a);
AST_DEFINE_AUTO(struct ast_activity, ast_activity_free)
