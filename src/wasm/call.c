/* One guest call: its fiber, how it waits, how it ends.
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

#include "base/time.h"
#include "wasm/sched_priv.h"

#include "base/banned.h"

#ifdef WASM_TSAN
#include <sanitizer/tsan_interface.h>
#define NO_TSAN __attribute__((no_sanitize_thread, noinline))
#else
#define NO_TSAN
#endif

#define MAX_SPARE ((size_t)2 * 1024 * 1024) /* the largest result buffer a worker keeps */

enum state { QUEUED, RUNNING, PARKED };
enum pause { PAUSE_NONE, PAUSE_TICK, PAUSE_PARK };

/* Owner: the worker that runs it, but for the atomics. */
struct ast_call {
    struct wasm_call_head head; /* first: see wasm_call_head() */
    struct ast_task task;
    struct ast_list link; /* in the scheduler's list */
    _Atomic unsigned refs;
    _Atomic int state;      /* enum state */
    _Atomic bool is_woken;  /* since the last park */
    _Atomic bool is_late;   /* the park's deadline has passed */
    struct ast_sched *sched;
    struct ast_instance *instance; /* NULL once done */
    struct ast_call_config cfg;
    wasmtime_call_future_t *future; /* owned; NULL between phases */
    wasm_trap_t *trap;              /* written by the future's end, as is error */
    wasmtime_error_t *error;
    enum pause pause;   /* why the last poll ended early */
    bool is_prepared;   /* the store carries this call's limits */
    bool has_entered;   /* a future was made: guest code may have run */
    uint32_t slice_tick; /* tick at which this slice began */
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

_Static_assert(offsetof(struct ast_call, head) == 0, "wasm_call_head() casts");

static const enum wasm_export entries[][2] = {
    [AST_CALL_HOOK] = { WASM_EXPORT_HOOK, WASM_EXPORT_HOOK_POST },
    [AST_CALL_RUN] = { WASM_EXPORT_RUN, WASM_EXPORT_RUN_POST },
    [AST_CALL_INSTALL] = { WASM_EXPORT_INSTALL, WASM_EXPORT_INSTALL_POST },
    [AST_CALL_UPGRADE] = { WASM_EXPORT_UPGRADE, WASM_EXPORT_UPGRADE_POST },
};

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

/* --- The result buffer --------------------------------------------------------------------------- */

/* Fresh pages for a large result would cost more than the copy, so workers keep one buffer each. */
static char *out_reserve(struct ast_call *c, size_t n)
{
    struct sched_worker *w = sched_self();
    if (w->spare.cap >= n) {
        c->out = w->spare;
        w->spare = (struct sched_spare){ 0 };
    } else {
        size_t cap = (n + 4095) & ~(size_t)4095;
        c->out = (struct sched_spare){ .p = malloc(cap), .cap = cap };
    }
    return c->out.p;
}

static void out_release(struct sched_worker *w, struct sched_spare out)
{
    if (out.p && out.cap <= MAX_SPARE && out.cap > w->spare.cap) {
        struct sched_spare old = w->spare;
        w->spare = out;
        out = old;
    }
    free(out.p);
}

/* --- On the fiber: calling the guest ------------------------------------------------------------- */

bool wasm_guest_call(struct ast_instance *i, enum wasm_export which, wasmtime_val_raw_t *v, size_t n)
{
    wasm_trap_t *trap = NULL;
    wasmtime_error_t *error = wasmtime_func_call_unchecked(i->ctx, wasm_inst_func(i, which), v, n, &trap);
    return !wasm_fault_take(&i->call->fault, error, trap, AST_E_INTERNAL);
}

static bool post_return(struct ast_instance *i, enum wasm_export which, wasmtime_val_raw_t *v, size_t n)
{
    if (!i->module->has[which])
        return true;
    i->may_leave = false;
    bool ok = wasm_guest_call(i, which, v, n);
    i->may_leave = true;
    return ok;
}

static uint32_t load_u32(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* The two arguments are allocated before either is written: the second allocation may move memory. */
static bool lower_arguments(struct ast_abi *a, const struct ast_call_config *cfg, wasmtime_val_raw_t *v)
{
    const struct ast_str args[2] = { cfg->action, cfg->payload };
    uint32_t at[2];
    for (int k = 0; k < 2; k++) {
        if (args[k].n > AST_ABI_MAX_BYTES) {
            ast_abi_trap(a, "argument too long");
            return false;
        }
        if (!ast_abi_alloc(a, 1, (uint32_t)args[k].n, &at[k]))
            return false;
    }
    for (int k = 0; k < 2; k++) {
        uint8_t *to = ast_abi_at(a, at[k], (uint32_t)args[k].n, 1);
        if (!to)
            return false;
        if (args[k].n)
            memcpy(to, args[k].p, args[k].n);
        v[2 * k].i32 = (int32_t)at[k];
        v[2 * k + 1].i32 = (int32_t)(uint32_t)args[k].n;
    }
    return true;
}

/* capsule-result is 20/4: action @0, option<string> @8 with its string @12. Copies it out of the guest. */
static bool lift_result(struct ast_call *c, struct ast_abi *a, uint32_t at)
{
    const uint8_t *r;
    struct ast_str action, data = AST_STR_NONE;
    if (!ast_abi_read(a, at, 20, 4, &r))
        return false;
    if (r[8] > 1) {
        ast_abi_trap(a, "discriminant out of range");
        return false;
    }
    c->has_data = r[8] == 1;
    if (!ast_abi_string(a, load_u32(r), load_u32(r + 4), &action))
        return false;
    if (c->has_data && !ast_abi_string(a, load_u32(r + 12), load_u32(r + 16), &data))
        return false;
    if (action.n + data.n > AST_CALL_MAX_RESULT) {
        ast_abi_trap(a, "result too large");
        return false;
    }
    char *to = out_reserve(c, action.n + data.n + 1);
    if (!to) {
        wasm_fault_set(&c->fault, AST_E_NO_MEMORY, "no memory for a result of %zu bytes", action.n + data.n);
        return false;
    }
    memcpy(to, action.p, action.n);
    if (data.n)
        memcpy(to + action.n, data.p, data.n);
    to[action.n + data.n] = 0;
    c->action_n = action.n;
    c->data_n = data.n;
    return true;
}

static void drive_hook(struct ast_call *c, struct ast_instance *i)
{
    struct ast_abi a = { .instance = i };
    wasmtime_val_raw_t v[4];
    if (!lower_arguments(&a, &c->cfg, v) || !wasm_guest_call(i, WASM_EXPORT_HOOK, v, 4))
        return;
    wasmtime_val_raw_t ret = v[0];
    if (lift_result(c, &a, (uint32_t)ret.i32))
        (void)post_return(i, WASM_EXPORT_HOOK_POST, &ret, 1); /* the fault is in the call */
}

/* The bottom of every fiber. It never reports an error upwards: the fault is in the call, and a trap here
 * would only cost a backtrace. */
wasm_trap_t *wasm_call_drive(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *v, size_t n)
{
    struct ast_instance *i = wasmtime_context_get_data(wasmtime_caller_context(caller));
    AST_ASSERT(i->magic == WASM_INSTANCE_MAGIC);
    struct ast_call *c = i->call;
    wasmtime_val_raw_t none[1];
    if (!i->is_initialized) {
        if (i->module->has[WASM_EXPORT_INITIALIZE] && !wasm_guest_call(i, WASM_EXPORT_INITIALIZE, none, 1))
            return NULL;
        i->is_initialized = true;
    }
    const enum wasm_export *entry = entries[c->cfg.entry];
    if (c->cfg.entry == AST_CALL_HOOK)
        drive_hook(c, i);
    else if (wasm_guest_call(i, entry[0], none, 1))
        (void)post_return(i, entry[1], none, 1); /* the fault is in the call */
    return NULL;
}

/* --- On the fiber: waiting ----------------------------------------------------------------------- */

static bool may_resume(void *env)
{
    struct ast_call *c = env;
    return atomic_load(&c->is_woken) || atomic_load(&c->is_late) || atomic_load(&c->head.is_cancelled);
}

void wasm_call_suspend(void *env, wasmtime_caller_t *caller, const wasmtime_val_t *args, size_t nargs,
                       wasmtime_val_t *results, size_t nresults, wasm_trap_t **trap_ret,
                       wasmtime_async_continuation_t *ret)
{
    struct ast_instance *i = wasmtime_context_get_data(wasmtime_caller_context(caller));
    *ret = (wasmtime_async_continuation_t){ .callback = may_resume, .env = i->call };
}

/* PARKED to QUEUED, by whoever gets there first. */
static void unpark(struct ast_call *c)
{
    int expected = PARKED;
    if (!atomic_compare_exchange_strong(&c->state, &expected, QUEUED))
        return;
    atomic_fetch_sub_explicit(&c->sched->parked, 1, memory_order_relaxed);
    ast_sched_post(c->sched, &c->task);
}

static void on_park_deadline(struct ast_sched_timer *t)
{
    struct ast_call *c = AST_CONTAINER_OF(t, struct ast_call, timer);
    atomic_store(&c->is_late, true);
    unpark(c);
}

enum ast_rc ast_call_park(struct ast_abi *a, int64_t deadline_ns)
{
    struct ast_instance *i = a->instance;
    struct ast_call *c = i->call;
    if (wasm_call_is_ending(c))
        return AST_E_CANCELLED;
    if (atomic_exchange(&c->is_woken, false))
        return AST_OK;
    bool timed = deadline_ns != AST_NO_DEADLINE;
    if (timed && ast_mono_ns() >= deadline_ns)
        return AST_E_TIMEOUT;

    atomic_store_explicit(&c->is_late, false, memory_order_relaxed); /* the timer is not running */
    if (timed)
        ast_sched_timer_start(c->sched, &c->timer, deadline_ns);
    c->pause = PAUSE_PARK;
    wasm_trap_t *trap = NULL;
    wasmtime_val_raw_t none[1];
    wasmtime_error_t *error = wasmtime_func_call_unchecked(i->ctx, &i->suspend, none, 1, &trap);
    /* Another thread may run us from here on. */
    if (timed)
        ast_sched_timer_stop(c->sched, &c->timer);
    if (wasm_fault_take(&c->fault, error, trap, AST_E_CANCELLED)) {
        c->head.is_dying = true;
        return AST_E_CANCELLED;
    }
    if (wasm_call_is_ending(c))
        return AST_E_CANCELLED;
    if (atomic_exchange(&c->is_woken, false))
        return AST_OK;
    return atomic_load(&c->is_late) ? AST_E_TIMEOUT : AST_OK;
}

/* --- On the fiber: ticks ------------------------------------------------------------------------- */

static wasmtime_error_t *end_at_tick(struct ast_call *c, enum ast_rc rc, const char *text)
{
    wasm_fault_set(&c->fault, rc, "%s", text);
    return wasmtime_error_new(text);
}

wasmtime_error_t *wasm_call_epoch(const wasmtime_context_t *ctx, void *data, uint64_t *delta,
                                  wasmtime_update_deadline_kind_t *kind)
{
    struct ast_instance *i = data;
    struct ast_call *c = i->call;
    if (AST_NEVER(!c))
        return wasmtime_error_new("guest code outside a call");
    if (wasm_call_is_ending(c))
        return end_at_tick(c, AST_E_CANCELLED, "cancelled");
    int64_t now = ast_mono_ns();
    if (now >= c->cfg.deadline_ns)
        return end_at_tick(c, AST_E_TIMEOUT, "deadline passed");
    if (c->cfg.on_tick && !c->cfg.on_tick(c->cfg.user, now))
        return end_at_tick(c, AST_E_TIMEOUT, "processor time used up");

    *delta = 1;
    *kind = WASMTIME_UPDATE_DEADLINE_CONTINUE;
    /* The worker is given back when somebody waits for it and this slice has had its tick. */
    if (atomic_load_explicit(&c->sched->queued, memory_order_relaxed) &&
        atomic_load_explicit(&c->sched->clock.ticks, memory_order_relaxed) != c->slice_tick) {
        c->pause = PAUSE_TICK;
        *kind = WASMTIME_UPDATE_DEADLINE_YIELD;
    }
    return NULL;
}

/* --- On the worker ------------------------------------------------------------------------------- */

static uint64_t fuel_left(const struct ast_call *c)
{
    uint64_t left = 0;
    AST_ASSERT(!wasmtime_context_get_fuel(c->instance->ctx, &left)); /* fails only without fuel support */
    return left;
}

/* The store gets this call's ceilings. False: it cannot run. */
static bool prepare(struct ast_call *c)
{
    struct ast_instance *i = c->instance;
    enum wasm_export entry = entries[c->cfg.entry][0];
    if (!i->module->has[entry]) {
        wasm_fault_set(&c->fault, AST_E_UNSUPPORTED, "capsule does not export `%s`", wasm_export_names[entry]);
        return false;
    }
    uint64_t initial = i->module->info.initial_memory_bytes;
    if (initial > c->cfg.memory_limit_bytes && i->calls == 0) { /* spec 05 §24 */
        wasm_fault_set(&c->fault, AST_E_NO_CAPACITY, "initial memory of %llu bytes is over the limit of %llu",
                       (unsigned long long)initial, (unsigned long long)c->cfg.memory_limit_bytes);
        return false;
    }
    c->memory_before = i->is_ready ? ast_instance_memory(i) : initial;
    wasm_inst_limit(i, c->cfg.memory_limit_bytes);
    AST_ASSERT(!wasmtime_context_set_fuel(i->ctx, c->cfg.fuel)); /* fails only without fuel support */
    c->is_prepared = true;
    return true;
}

static void begin_phase(struct ast_call *c)
{
    struct ast_instance *i = c->instance;
    wasmtime_context_set_epoch_deadline(i->ctx, 1);
    c->has_entered = true;
    if (i->is_ready)
        c->future = wasmtime_func_call_async(i->ctx, &i->drive, NULL, 0, NULL, 0, &c->trap, &c->error);
    else
        c->future =
            wasmtime_instance_pre_instantiate_async(i->module->pre, i->ctx, &i->instance, &c->trap, &c->error);
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
        .data = c->fault.rc || !c->has_data ? AST_STR_NONE : ast_str_n(c->out.p + c->action_n, c->data_n),
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
    atomic_store(&c->state, PARKED);
    int expected = PARKED;
    bool ours = may_resume(c) && atomic_compare_exchange_strong(&c->state, &expected, RUNNING);
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
    atomic_store_explicit(&c->state, RUNNING, memory_order_relaxed);
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
            atomic_store_explicit(&c->state, QUEUED, memory_order_relaxed); /* nobody else looks while not PARKED */
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

enum ast_rc ast_call_start(struct ast_sched *s, const struct ast_call_config *cfg, struct ast_call **ret,
                           struct ast_err *err)
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
        .timer = { .fn = on_park_deadline },
    };
    atomic_init(&c->refs, 1);
    atomic_init(&c->state, QUEUED);
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
    unpark(c);
}

void ast_call_cancel(struct ast_call *c)
{
    atomic_store(&c->head.is_cancelled, true);
    unpark(c);
}
