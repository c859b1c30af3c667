/* The fiber's side of a guest call: driving the guest, waiting in the middle of a host call, ticks.
 *
 * Everything here runs on a fiber that may continue on another worker after each suspension: no thread-local,
 * errno or lock survives one. Faults go into the call; nothing is reported through the library.
 */
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "wasm/call_priv.h"

#include "base/banned.h"

const enum wasm_export call_entries[][2] = {
    [AST_CALL_HOOK] = { WASM_EXPORT_HOOK, WASM_EXPORT_HOOK_POST },
    [AST_CALL_RUN] = { WASM_EXPORT_RUN, WASM_EXPORT_RUN_POST },
    [AST_CALL_INSTALL] = { WASM_EXPORT_INSTALL, WASM_EXPORT_INSTALL_POST },
    [AST_CALL_UPGRADE] = { WASM_EXPORT_UPGRADE, WASM_EXPORT_UPGRADE_POST },
};

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

/* --- On the fiber: calling the guest ------------------------------------------------------------- */

bool wasm_guest_call(struct ast_instance *i, enum wasm_export which, wasmtime_val_raw_t *v,
                     size_t n)
{
    wasm_trap_t *trap = NULL;
    wasmtime_error_t *error =
        wasmtime_func_call_unchecked(i->ctx, wasm_inst_func(i, which), v, n, &trap);
    return !wasm_fault_take(&i->call->fault, error, trap, AST_E_INTERNAL);
}

static bool post_return(struct ast_instance *i, enum wasm_export which, wasmtime_val_raw_t *v,
                        size_t n)
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
static bool lower_arguments(struct ast_abi *a, const struct ast_call_config *cfg,
                            wasmtime_val_raw_t *v)
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
        wasm_fault_set(&c->fault, AST_E_NO_MEMORY, "no memory for a result of %zu bytes",
                       action.n + data.n);
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
        if (i->module->has[WASM_EXPORT_INITIALIZE] &&
            !wasm_guest_call(i, WASM_EXPORT_INITIALIZE, none, 1))
            return NULL;
        i->is_initialized = true;
    }
    const enum wasm_export *entry = call_entries[c->cfg.entry];
    if (c->cfg.entry == AST_CALL_HOOK)
        drive_hook(c, i);
    else if (wasm_guest_call(i, entry[0], none, 1))
        (void)post_return(i, entry[1], none, 1); /* the fault is in the call */
    return NULL;
}

/* --- On the fiber: waiting ----------------------------------------------------------------------- */

static bool may_resume(void *env)
{
    return call_may_resume(env);
}

void wasm_call_suspend(void *env, wasmtime_caller_t *caller, const wasmtime_val_t *args,
                       size_t nargs, wasmtime_val_t *results, size_t nresults,
                       wasm_trap_t **trap_ret, wasmtime_async_continuation_t *ret)
{
    struct ast_instance *i = wasmtime_context_get_data(wasmtime_caller_context(caller));
    *ret = (wasmtime_async_continuation_t){ .callback = may_resume, .env = i->call };
}

static void on_park_deadline(struct ast_sched_timer *t)
{
    struct ast_call *c = AST_CONTAINER_OF(t, struct ast_call, timer);
    atomic_store(&c->is_late, true);
    call_unpark(c);
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
    c->timer.fn = on_park_deadline;
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
