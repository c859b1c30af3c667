/* A seat: one capsule id as the dispatcher knows it, across reloads and restarts.
 *
 * Queues, metrics and counters belong to the seat; the loaded code is whoever sits on it. A seat
 * is made when an id is first loaded and lives as long as the registry: operators install
 * capsules, so there are few.
 */
#pragma once

#include <stdatomic.h>

#include "base/str.h"
#include "base/thread.h"
#include "bus/metrics.h"

struct capsule;

/* id, label value */
#define SEAT_OUTCOME_MAP(X)                                                                        \
    X(CONTINUE, "continue") X(FINAL, "final") X(DENY, "deny") X(ERROR, "error")
#define SEAT_DROP_MAP(X)                                                                           \
    X(QUEUE_FULL, "queue_full")                                                                    \
    X(CLOSED, "closed") X(UNSUPPORTED, "unsupported") X(NO_MEMORY, "no_memory")

enum seat_outcome {
#define X(id, label) SEAT_OUTCOME_##id,
    SEAT_OUTCOME_MAP(X)
#undef X
        SEAT_OUTCOME_COUNT
};
enum seat_drop {
#define X(id, label) SEAT_DROP_##id,
    SEAT_DROP_MAP(X)
#undef X
        SEAT_DROP_COUNT
};

/* At most `burst` lines per 10 s; the first of the next ten seconds tells how many were kept
 * back. Threads: any. */
struct log_gate {
    atomic_int_least64_t window_end_ns; /* 0: none yet */
    atomic_uint_least64_t used;         /* lines asked for in this window */
};
#define LOG_GATE_NS (10 * INT64_C(1000000000))
/* True: write the line. *ret_held: lines kept back before it. */
bool log_gate_pass(struct log_gate *g, unsigned burst, int64_t now_ns, uint64_t *ret_held);

/* How often a crashed capsule was started again. Owner: the loader thread. */
struct seat_restarts {
    bool tracking; /* a failure was seen and is not forgotten yet */
    bool exhausted;
    unsigned attempts;
    int64_t next_ns;    /* no attempt before */
    int64_t wait_ns;    /* back-off after the next attempt */
    int64_t started_ns; /* of the last successful attempt */
};

struct capsule_seat {
    struct ast_str id; /* owned */
    struct ast_lock lock;
    struct capsule *current AST_GUARDED_BY(lock); /* owned reference; NULL: nobody */
    atomic_uint mailboxes;                        /* with a principal */
    /* fuel: of ended calls, and of running loops by their ticks. memory_peak_bytes: the largest
     * instance a call ended on. */
    atomic_uint_least64_t calls, fuel, memory_peak_bytes, traps, restarts, dropped;
    struct ast_metric_cell *outcomes[SEAT_OUTCOME_COUNT];
    struct ast_metric_cell *drops[SEAT_DROP_COUNT];
    struct ast_metric_cell *restart_cell;
    struct log_gate full_gate, degraded_gate, rate_gate, outcome_gate;
    struct seat_restarts history;
    char *failure; /* owned; why the last load failed; NULL: it did not. Owner: the loader thread */
    char *dir;     /* owned; where it was loaded from last, or tried to. Owner: the loader thread */
};

AST_MUST_CHECK
enum ast_rc seat_new(struct ast_str id, struct capsule_seat **ret, struct ast_err *err);
void seat_free(struct capsule_seat *s);               /* nobody sits on it, no mailbox is left */
struct capsule *seat_current(struct capsule_seat *s); /* a new reference, or NULL */
/* Takes the reference `c` (NULL: nobody); gives back the one that sat there. */
struct capsule *seat_replace(struct capsule_seat *s, struct capsule *c);
void seat_dropped(struct capsule_seat *s, enum seat_drop why);
/* A call, or a part of a run loop, took that much. */
static inline void seat_used(struct capsule_seat *s, uint64_t fuel, uint64_t memory_bytes)
{
    atomic_fetch_add_explicit(&s->fuel, fuel, memory_order_relaxed);
    uint64_t peak = atomic_load_explicit(&s->memory_peak_bytes, memory_order_relaxed);
    while (memory_bytes > peak &&
           !atomic_compare_exchange_weak_explicit(&s->memory_peak_bytes, &peak, memory_bytes,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}
