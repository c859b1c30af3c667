/* What the scheduler's files share: its workers, its clock thread, the calls it runs. */
#pragma once

#include "wasm/wasm_priv.h"

#define SCHED_MAX_WORKERS  256u
#define SCHED_INLINE_DEPTH 4u /* calls started from on_done of calls started from on_done ... */

/* A result buffer that a worker keeps for its next call. */
struct sched_spare {
    char *p; /* owned */
    size_t cap;
};

/* Owner: its thread, but for the atomics. */
struct sched_worker {
    _Alignas(64) struct ast_sched *sched;
    pthread_t thread;
    /* being polled: we are on its fiber or just around it; NULL otherwise */
    struct ast_call *current;
    unsigned depth; /* nested first polls */
    struct sched_spare spare;
    _Atomic bool is_polling; /* read by the clock thread; pairs with sched_clock.is_ticking */
    _Atomic uint64_t parks;  /* written by the worker only */
};

/* Owner: any thread, under `lock`, but for the atomics. */
struct sched_clock {
    struct ast_lock lock;
    pthread_cond_t wake;    /* the clock thread has something earlier to do */
    pthread_cond_t fn_done; /* a timer function has returned */
    pthread_t thread;
    struct ast_heap heap AST_GUARDED_BY(lock);
    struct ast_sched_timer *running AST_GUARDED_BY(lock);
    unsigned stoppers AST_GUARDED_BY(lock); /* threads that wait for `running` to end */
    int64_t wakes_at_ns AST_GUARDED_BY(lock);
    int64_t next_tick_ns AST_GUARDED_BY(lock);
    unsigned quiet_ticks AST_GUARDED_BY(lock);
    bool is_stopping AST_GUARDED_BY(lock);
    /* seq_cst pair with sched_worker.is_polling: one of both sides sees the other */
    _Atomic bool is_ticking;
    _Atomic uint32_t ticks; /* epoch ticks so far */
};

/* Owner: any thread; the queue and the list of calls under `lock`. */
struct ast_sched {
    struct ast_engine *engine;
    struct sched_worker *workers; /* owned array; immutable but for the workers' own fields */
    unsigned worker_count;
    struct ast_lock lock;
    pthread_cond_t work;
    pthread_cond_t drained; /* the last call is gone */
    struct ast_task *first, *last AST_GUARDED_BY(lock);
    _Atomic unsigned queued; /* written under lock, read anywhere */
    unsigned sleepers AST_GUARDED_BY(lock);
    bool is_waking AST_GUARDED_BY(lock); /* a sleeper has been woken and has not come yet */
    bool is_stopping, must_exit AST_GUARDED_BY(lock);
    struct ast_list calls AST_GUARDED_BY(lock);
    unsigned live AST_GUARDED_BY(lock);
    uint64_t calls_total AST_GUARDED_BY(lock);
    _Atomic unsigned parked;
    struct sched_clock clock;
};

/* NULL: not a worker thread. A fiber asks again after each park. */
struct sched_worker *sched_self(void);

/* clock.c */
AST_MUST_CHECK
enum ast_rc sched_clock_start(struct ast_sched *s, struct ast_err *err);
void sched_clock_stop(struct ast_sched *s);
void sched_clock_tick(struct ast_sched *s); /* starts the ticker */

/* The worker polls a guest from here to there; the epoch advances meanwhile. */
static inline void sched_poll_begin(struct sched_worker *w)
{
    atomic_store(&w->is_polling, true);
    if (!atomic_load(&w->sched->clock.is_ticking))
        sched_clock_tick(w->sched);
}

static inline void sched_poll_end(struct sched_worker *w)
{
    atomic_store_explicit(&w->is_polling, false, memory_order_release);
}

/* call.c */
struct ast_list *sched_call_link(struct ast_call *c);
struct ast_call *sched_call_from_link(struct ast_list *link);

/* False: the scheduler is stopping. */
bool sched_call_enter(struct ast_sched *s, struct ast_list *link);
void sched_call_leave(struct ast_sched *s, struct ast_list *link);
