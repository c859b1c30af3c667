/* The scheduler: worker threads that run tasks and poll guest calls, timers, the epoch ticker.
 *
 * A guest call is a fiber. It runs on a worker until it ends, parks (a host call that waits) or its tick is
 * over (it goes to the end of the run queue). A parked call costs memory, never a thread. Waking is ours: the
 * engine has no wakers.
 *
 *        start            poll             park
 *   NEW ------> QUEUED ----------> RUNNING ------> PARKED
 *                  ^                 |  ^             |
 *                  |   tick is over  |  | wake        |
 *                  +-----------------+  +-------------+ (through QUEUED)
 *                                    | end, trap, deadline, cancel
 *                                    v
 *                                   DONE -> on_done
 */
#pragma once

#include <stdint.h>

#include "base/heap.h"
#include "wasm/pool.h"

struct ast_sched;
struct ast_call;

AST_MUST_CHECK
enum ast_rc ast_sched_new(struct ast_engine *e, unsigned workers /* 0 = CPUs, at least 2 */,
                          struct ast_sched **ret, struct ast_err *err);
void ast_sched_free(struct ast_sched *s); /* cancels every call, waits for their on_done, joins */
AST_DEFINE_AUTO(struct ast_sched, ast_sched_free)

/* Work for a worker. Embed it; it may be posted again once `run` has started. Any thread. */
struct ast_task {
    struct ast_task *next; /* private */
    void (*run)(struct ast_task *t);
};
void ast_sched_post(struct ast_sched *s, struct ast_task *t);
bool ast_sched_on_worker(const struct ast_sched *s);

/* Timers on the scheduler's clock thread; fn must be quick (post a task). Any thread. */
struct ast_sched_timer {
    struct ast_heap_node node; /* private */
    void (*fn)(struct ast_sched_timer *t);
};
void ast_sched_timer_start(struct ast_sched *s, struct ast_sched_timer *t, int64_t deadline_ns);
/* After it returned fn does not run (waits for a running one). Not from inside fn. */
void ast_sched_timer_stop(struct ast_sched *s, struct ast_sched_timer *t);

enum ast_call_entry { AST_CALL_HOOK, AST_CALL_RUN, AST_CALL_INSTALL, AST_CALL_UPGRADE };

#define AST_FUEL_UNLIMITED UINT64_MAX
#define AST_NO_DEADLINE    INT64_MAX
#define AST_CALL_MAX_RESULT                                                                        \
    (16u * 1024 * 1024) /* action and data of one capsule-result; more is an ABI fault */

struct ast_call_result {
    enum ast_rc
        rc; /* OK; TRAP, TIMEOUT, OUT_OF_FUEL, ABI, CANCELLED, NO_CAPACITY, UNSUPPORTED (no such
                               export), INTERNAL */
    const char *error;     /* one line without backtrace; "" on OK */
    struct ast_str action; /* HOOK: lifted capsule-result, valid during on_done */
    struct ast_str data;
    bool has_data;
    uint64_t fuel_used;
    uint64_t memory_bytes; /* linear memory after the call */
    bool memory_grew;
    bool clean; /* the instance may be reused */
};

struct ast_call_config {
    struct ast_instance *instance; /* leased; stays leased until on_done */
    enum ast_call_entry entry;
    struct ast_str action, payload; /* HOOK; borrowed until on_done */
    uint64_t fuel;                  /* AST_FUEL_UNLIMITED for run loops and install hooks */
    int64_t deadline_ns;         /* monotonic; AST_NO_DEADLINE. Trips when the guest runs again */
    uint64_t memory_limit_bytes; /* ceiling for growth; cut to AST_ENGINE_MAX_MEMORY */
    void *user;                  /* ast_abi_user() */
    /* While the guest computes: called at each tick on the worker; false ends the call with TIMEOUT. NULL: none. */
    bool (*on_tick)(void *user, int64_t now_ns);
    /* Exactly once, on a worker, after the fiber is gone. The call object dies after it. May start other calls and
     * return the instance to its pool. */
    void (*on_done)(void *user, const struct ast_call_result *res);
};

/* On a worker the first poll happens inside this call (on_done may run before it returns); elsewhere, and below a
 * host function or several nested on_done, the call is queued. Fails for lack of memory, and with CLOSED while the
 * scheduler is being freed: then on_done was not called. */
AST_MUST_CHECK
enum ast_rc ast_call_start(struct ast_sched *s, const struct ast_call_config *cfg,
                           struct ast_call **ret /* may be NULL; reference for ast_call_unref */,
                           struct ast_err *err);

/* References keep the object's memory, not the fiber: waking or cancelling a finished call is a no-op. Any thread. */
struct ast_call *ast_call_ref(struct ast_call *c);
void ast_call_unref(struct ast_call *c);
void ast_call_wake(struct ast_call *c);
/* A parked call is ended where it waits (its host function sees CANCELLED and must return without parking or calling
 * the guest again); a running one at its next tick. */
void ast_call_cancel(struct ast_call *c);

/* Host functions only, on the fiber: gives the worker back until ast_call_wake(), the deadline (monotonic,
 * AST_NO_DEADLINE) or a cancel. A wake that came since the last park returns at once; spurious wakes happen: loop on
 * your condition. OK woken; TIMEOUT; CANCELLED. */
enum ast_rc ast_call_park(struct ast_abi *a, int64_t deadline_ns);

struct ast_sched_stats {
    unsigned workers, running, parked, queued;
    uint64_t calls_total, parks_total;
};
void ast_sched_stats(struct ast_sched *s, struct ast_sched_stats *ret);
