/* A guest call as its two files see it: call.c is the worker's side, fiber.c what runs on its fiber. */
#pragma once

#include "wasm/sched_priv.h"

enum call_state { CALL_QUEUED, CALL_RUNNING, CALL_PARKED };
enum call_pause { PAUSE_NONE, PAUSE_TICK, PAUSE_PARK };

/* Owner: the worker that runs it, but for the atomics. */
struct ast_call {
    struct wasm_call_head head; /* first: see wasm_call_head() */
    struct ast_task task;
    struct ast_list link; /* in the scheduler's list */
    _Atomic unsigned refs;
    _Atomic int state;     /* enum call_state */
    _Atomic bool is_woken; /* since the last park */
    _Atomic bool is_late;  /* the park's deadline has passed */
    struct ast_sched *sched;
    struct ast_instance *instance; /* NULL once done */
    struct ast_call_config cfg;
    wasmtime_call_future_t *future; /* owned; NULL between phases */
    wasm_trap_t *trap;              /* written by the future's end, as is error */
    wasmtime_error_t *error;
    enum call_pause pause;        /* why the last poll ended early */
    bool is_prepared;             /* the store carries this call's limits */
    bool has_entered;             /* a future was made: guest code may have run */
    uint32_t slice_tick;          /* tick at which this slice began */
    struct ast_sched_timer timer; /* of the running park */
    uint64_t memory_before;
    struct sched_spare out; /* action and data of the result, owned */
    size_t action_n, data_n;
    bool has_data;
#ifdef WASM_TSAN
    void *tsan_fiber;
#endif
    struct wasm_fault fault;
};

extern const enum wasm_export
    call_entries[][2]; /* by enum ast_call_entry: the export, its post-return */

/* A parked call may go on: woken, late or cancelled. */
static inline bool call_may_resume(const struct ast_call *c)
{
    return atomic_load(&c->is_woken) || atomic_load(&c->is_late) ||
           atomic_load(&c->head.is_cancelled);
}

void call_unpark(
    struct ast_call *c); /* PARKED to QUEUED, by whoever gets there first; any thread */
