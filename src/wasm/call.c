/* One guest call, from the worker's side: how it is polled, parked, woken, cancelled and ended.
 *
 * The state machine is in sched.h. Invariants:
 *  - one thread at a time touches the call's store: the one that moved it to RUNNING;
 *  - who moves it from PARKED to QUEUED queues it; who publishes PARKED looks at the flags afterwards, and who
 *    sets a flag looks at the state afterwards, so no wake-up is lost;
 *  - the future is deleted by the worker that owns the call, before anything else of it goes away. Deleting a
 *    suspended future resumes the fiber to unwind it; from then on (`is_dying`) it never suspends or enters
 *    the guest again, both of which would end the process.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "wasm/call_priv.h"

#include "base/banned.h"

#ifdef WASM_TSAN
#include <sanitizer/tsan_interface.h>
#define NO_TSAN __attribute__((no_sanitize_thread, noinline))
#else
#define NO_TSAN
#endif

#define MAX_SPARE ((size_t)2 * 1024 * 1024) /* the largest result buffer a worker keeps */

_Static_assert(offsetof(struct ast_call, head) == 0, "wasm_call_head() casts");

/* --- Small accessors for the other files --------------------------------------------------------- */

struct wasm_fault *wasm_call_fault(struct ast_call *c)
{
    return &c->fault;
}

void *wasm_call_user(struct ast_call *c)
{
    return c->cfg.user;
}

struct ast_list *sched_call_link(struct ast_call *c)
{
    return &c->link;
}

struct ast_call *sched_call_from_link(struct ast_list *link)
{
    return AST_CONTAINER_OF(link, struct ast_call, link);
}

/* --- The library under the thread sanitizer ------------------------------------------------------ */

/* The sanitizer keeps a shadow stack per thread. Host functions are entered on one worker and left on another,
 * so each call has a shadow stack of its own that is switched to wherever its fiber may run. */
static NO_TSAN bool future_poll(struct ast_call *c)
{
#ifdef WASM_TSAN
    void *here = __tsan_get_current_fiber();
    if (!c->tsan_fiber)
        c->tsan_fiber = __tsan_create_fiber(0);
    __tsan_switch_to_fiber(c->tsan_fiber, 0);
    bool done = wasmtime_call_future_poll(c->future);
    __tsan_switch_to_fiber(here, 0);
    return done;
#else
    return wasmtime_call_future_poll(c->future);
#endif
}

static NO_TSAN void future_delete(struct ast_call *c)
{
#ifdef WASM_TSAN
    void *here = __tsan_get_current_fiber();
    if (c->tsan_fiber)
        __tsan_switch_to_fiber(c->tsan_fiber, 0);
    wasmtime_call_future_delete(c->future);
    __tsan_switch_to_fiber(here, 0);
#else
    wasmtime_call_future_delete(c->future);
#endif
    c->future = NULL;
}

static void fiber_forget(struct ast_call *c)
{
#ifdef WASM_TSAN
    if (c->tsan_fiber)
        __tsan_destroy_fiber(c->tsan_fiber);
#else
    (void)c;
#endif
}

/* --- Waking -------------------------------------------------------------------------------------- */

void call_unpark(struct ast_call *c)
{
    int expected = CALL_PARKED;
    if (!atomic_compare_exchange_strong(&c->state, &expected, CALL_QUEUED))
        return;
    atomic_fetch_sub_explicit(&c->sched->parked, 1, memory_order_relaxed);
    ast_sched_post(c->sched, &c->task);
}

/* --- The worker that runs it ---------------------------------------------------------------------- */

/* Fresh pages for a large result would cost more than the copy, so workers keep one buffer each. */
static void out_release(struct sched_worker *w, struct sched_spare out)
{
    if (out.p && out.cap <= MAX_SPARE && out.cap > w->spare.cap) {
        struct sched_spare old = w->spare;
        w->spare = out;
        out = old;
    }
    free(out.p);
}

static uint64_t fuel_left(const struct ast_call *c)
{
    uint64_t left = 0;
    AST_ASSERT(
        !wasmtime_context_get_fuel(c->instance->ctx, &left)); /* fails only without fuel support */
    return left;
}

uint64_t ast_abi_fuel_used(struct ast_abi *a)
{
    const struct ast_call *c = ast_abi_call(a);
    return c && c->is_prepared ? c->cfg.fuel - fuel_left(c) : 0;
}

/* The store gets this call's ceilings. False: it cannot run. */
static bool prepare(struct ast_call *c)
{
    struct ast_instance *i = c->instance;
    enum wasm_export entry = call_entries[c->cfg.entry][0];
    if (!i->module->has[entry]) {
        wasm_fault_set(&c->fault, AST_E_UNSUPPORTED, "capsule does not export `%s`",
                       wasm_export_names[entry]);
        return false;
    }
    uint64_t initial = i->module->info.initial_memory_bytes;
    if (initial > c->cfg.memory_limit_bytes && i->calls == 0) { /* spec 05 §24 */
        wasm_fault_set(&c->fault, AST_E_NO_CAPACITY,
                       "initial memory of %llu bytes is over the limit of %llu",
                       (unsigned long long)initial, (unsigned long long)c->cfg.memory_limit_bytes);
        return false;
    }
    c->memory_before = i->is_ready ? ast_instance_memory(i) : initial;
    wasm_inst_limit(i, c->cfg.memory_limit_bytes);
    AST_ASSERT(
        !wasmtime_context_set_fuel(i->ctx, c->cfg.fuel)); /* fails only without fuel support */
    c->is_prepared = true;
    return true;
}

static void begin_phase(struct ast_call *c)
{
    struct ast_instance *i = c->instance;
    wasmtime_context_set_epoch_deadline(i->ctx, 1);
    c->has_entered = true;
    if (i->is_ready)
        c->future =
            wasmtime_func_call_async(i->ctx, &i->drive, NULL, 0, NULL, 0, &c->trap, &c->error);
    else
        c->future = wasmtime_instance_pre_instantiate_async(i->module->pre, i->ctx, &i->instance,
                                                            &c->trap, &c->error);
}

/* True: that was the last one. */
static bool end_phase(struct ast_call *c)
{
    struct ast_instance *i = c->instance;
    future_delete(c);
    enum ast_rc otherwise = i->is_ready ? AST_E_INTERNAL : AST_E_NO_CAPACITY;
    wasmtime_error_t *error = c->error;
    wasm_trap_t *trap = c->trap;
    c->error = NULL;
    c->trap = NULL;
    if (wasm_fault_take(&c->fault, error, trap, otherwise) || i->is_ready)
        return true;
    wasm_inst_ready(i);
    return false;
}

static void unwind(struct ast_call *c)
{
    wasm_fault_set(&c->fault, AST_E_CANCELLED, "cancelled");
    c->head.is_dying = true;
    if (c->future)
        future_delete(c);
}

static void finish(struct sched_worker *w, struct ast_call *c)
{
    struct ast_instance *i = c->instance;
    bool clean = !c->fault.rc || !c->has_entered;
    struct ast_call_result res = {
        .rc = c->fault.rc,
        .error = c->fault.rc ? c->fault.text : "",
        .action = c->fault.rc ? AST_STR_NONE : ast_str_n(c->out.p, c->action_n),
        .data = c->fault.rc || !c->has_data ? AST_STR_NONE
                                            : ast_str_n(c->out.p + c->action_n, c->data_n),
        .has_data = !c->fault.rc && c->has_data,
        .fuel_used = c->has_entered ? c->cfg.fuel - fuel_left(c) : 0,
        .memory_bytes = ast_instance_memory(i),
        .clean = clean,
    };
    res.memory_grew = c->is_prepared && res.memory_bytes > c->memory_before;
    if (!clean)
        i->is_spent = true;
    fiber_forget(c);
    i->call = NULL;
    c->instance = NULL;
    c->cfg.on_done(c->cfg.user, &res);
    out_release(w, c->out);
    sched_call_leave(c->sched, &c->link);
    ast_call_unref(c);
}

static bool poll_once(struct sched_worker *w, struct ast_call *c)
{
    c->pause = PAUSE_NONE;
    c->slice_tick = atomic_load_explicit(&c->sched->clock.ticks, memory_order_relaxed);
    sched_poll_begin(w);
    bool done = future_poll(c);
    sched_poll_end(w);
    return done;
}

/* True: parked, the call belongs to whoever wakes it. False: it was woken already and is still ours. */
static bool publish_park(struct sched_worker *w, struct ast_call *c)
{
    atomic_store_explicit(&w->parks, atomic_load_explicit(&w->parks, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    struct ast_sched *s = c->sched;
    (void)ast_call_ref(c); /* it may run and end elsewhere while we look at the flags */
    atomic_fetch_add_explicit(&s->parked, 1, memory_order_relaxed);
    atomic_store(&c->state, CALL_PARKED);
    int expected = CALL_PARKED;
    bool ours =
        call_may_resume(c) && atomic_compare_exchange_strong(&c->state, &expected, CALL_RUNNING);
    if (ours)
        atomic_fetch_sub_explicit(&s->parked, 1, memory_order_relaxed);
    ast_call_unref(c);
    return !ours;
}

static void leave(struct sched_worker *w)
{
    w->current = NULL;
    wasm_running = NULL;
}

/* Runs the call until it ends, parks or has used its tick. */
static void step(struct sched_worker *w, struct ast_call *c)
{
    w->current = c;
    wasm_running = c->instance;
    atomic_store_explicit(&c->state, CALL_RUNNING, memory_order_relaxed);
    bool is_over = !c->is_prepared && !atomic_load(&c->head.is_cancelled) && !prepare(c);
    while (!is_over) {
        if (atomic_load(&c->head.is_cancelled)) {
            unwind(c);
            break;
        }
        if (!c->future)
            begin_phase(c);
        if (poll_once(w, c)) {
            is_over = end_phase(c);
            continue;
        }
        if (c->pause == PAUSE_PARK) {
            if (!publish_park(w, c))
                continue;
        } else {
            atomic_store_explicit(&c->state, CALL_QUEUED,
                                  memory_order_relaxed); /* nobody else looks while not PARKED */
            ast_sched_post(c->sched, &c->task);
        }
        leave(w);
        return;
    }
    leave(w);
    finish(w, c);
}

static void run_task(struct ast_task *t)
{
    step(sched_self(), AST_CONTAINER_OF(t, struct ast_call, task));
}

/* --- For everybody ------------------------------------------------------------------------------- */

enum ast_rc ast_call_start(struct ast_sched *s, const struct ast_call_config *cfg,
                           struct ast_call **ret, struct ast_err *err)
{
    AST_ASSERT(cfg->instance->magic == WASM_INSTANCE_MAGIC && !cfg->instance->call && cfg->on_done);
    struct ast_call *c = malloc(sizeof *c);
    if (!c)
        return ast_fail(err, AST_E_NO_MEMORY, "guest call");
    *c = (struct ast_call){
        .task = { .run = run_task },
        .sched = s,
        .instance = cfg->instance,
        .cfg = *cfg,
    };
    atomic_init(&c->refs, 1);
    atomic_init(&c->state, CALL_QUEUED);
    if (!sched_call_enter(s, &c->link)) {
        free(c);
        return ast_fail(err, AST_E_CLOSED, "the scheduler is stopping");
    }
    cfg->instance->call = c;
    if (ret)
        *ret = ast_call_ref(c);
    struct sched_worker *w = sched_self();
    if (w && w->sched == s && !w->current && w->depth < SCHED_INLINE_DEPTH) {
        w->depth++;
        step(w, c);
        w->depth--;
    } else {
        ast_sched_post(s, &c->task);
    }
    return AST_OK;
}

struct ast_call *ast_call_ref(struct ast_call *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void ast_call_unref(struct ast_call *c)
{
    if (c && atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1)
        free(c);
}

void ast_call_wake(struct ast_call *c)
{
    atomic_store(&c->is_woken, true);
    call_unpark(c);
}

void ast_call_cancel(struct ast_call *c)
{
    atomic_store(&c->head.is_cancelled, true);
    call_unpark(c);
}
