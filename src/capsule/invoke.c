/* One handler call, on a worker: may it, who runs it, what came of it.
 *
 * Invariant: a mailbox's call holds a reference to the load it runs on from the moment it asked for
 * an instance until it gave the instance back, so a load outlives its calls. Who touches the mailbox
 * after ast_call_start() succeeded touches freed memory: on_done may have run.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "bus/topic.h"
#include "capsule/registry_priv.h"

#include "base/banned.h"

static struct capsule_dispatch *dispatch_of(const struct mailbox *m)
{
    return m->table->arg;
}

static struct ast_capsules *registry_of(const struct mailbox *m)
{
    return dispatch_of(m)->owner;
}

/* --- After a call: what the result means (worker) --------------------------------------------- */

static void log_outcome(const struct mailbox *m, enum ast_log_level level, const char *single,
                        const char *chained, const char *key, struct ast_str value)
{
    const struct capsule_handler *h = m->current.handler;
    uint64_t held;

    if (log_gate_pass(&h->seat->outcome_gate, DISPATCH_LINES, ast_mono_ns(), &held))
        ast_log_fields(level, DISPATCH_TARGET, m->current.chain ? chained : single,
                       AST_F_STR("capsule_id", h->seat->id), AST_F_STR("action", h->action),
                       AST_F_STR("topic", m->current.msg->topic), AST_F_STR(key, value),
                       AST_F_U64("not_logged", held));
}

static enum seat_outcome failed(const struct mailbox *m, struct ast_str error)
{
    log_outcome(m, AST_LOG_WARN, "Interceptor invocation failed",
                "Interceptor invocation failed \xe2\x80\x94 continuing chain", "error", error);
    return SEAT_OUTCOME_ERROR;
}

static enum seat_outcome denied(const struct mailbox *m, struct ast_str reason)
{
    log_outcome(m, AST_LOG_WARN, "Interceptor: Deny", "Interceptor: Deny \xe2\x80\x94 chain halted",
                "reason", reason);
    return SEAT_OUTCOME_DENY;
}

static enum seat_outcome failedf(const struct mailbox *m, const char *fmt, ...) AST_PRINTF(2, 3);
static enum seat_outcome failedf(const struct mailbox *m, const char *fmt, ...)
{
    char text[AST_ERR_MSG_BYTES + 160];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return failed(m, ast_str_n(text, n < 0 ? 0 : AST_MIN((size_t)n, sizeof text - 1)));
}

/* spec 04 §10.3; the comparison is exact, unknown words continue. */
static enum seat_outcome returned(struct mailbox *m, const struct ast_call_result *res)
{
    if (ast_str_is(res->action, "deny") || ast_str_is(res->action, "abort"))
        return denied(m, res->has_data ? res->data : AST_STR("denied by interceptor"));
    if (ast_str_is(res->action, "final"))
        return SEAT_OUTCOME_FINAL;
    if (res->has_data && res->data.n)
        dispatch_replace_payload(m, res->data);
    return SEAT_OUTCOME_CONTINUE;
}

static enum seat_outcome classify(struct mailbox *m, const struct ast_call_result *res)
{
    switch (res->rc) {
    case AST_OK: return returned(m, res);
    case AST_E_UNSUPPORTED:
        dispatch_dropped(dispatch_of(m), m->seat, ast_principal_str(&m->principal),
                         SEAT_DROP_UNSUPPORTED);
        return failedf(m,
                       "Unsupported entry point: capsule does not export `astrid-hook-trigger`: %s",
                       res->error);
    case AST_E_NO_CAPACITY:
        return failedf(m, "Not supported: no capsule instance available: %s", res->error);
    default:
        atomic_fetch_add_explicit(&m->seat->traps, 1, memory_order_relaxed);
        return failedf(m, "WASM error: astrid_hook_trigger failed: %s", res->error);
    }
}

/* The guest's own fault: what classify() counts as a trap. */
static bool is_fault(enum ast_rc rc)
{
    return rc != AST_OK && rc != AST_E_UNSUPPORTED && rc != AST_E_NO_CAPACITY;
}

/* --- The call (worker) ------------------------------------------------------------------------ */

static void release_lease(struct mailbox *m, bool clean)
{
    struct invocation *call = &m->call;
    if (call->instance)
        ast_pool_return(call->capsule->pool, ast_steal(&call->instance), clean);
    capsule_unref(ast_steal(&call->capsule));
    ast_profile_unref(ast_steal(&call->profile));
}

uint64_t invocation_fuel(const struct ast_call_result *res, uint32_t ticks)
{
    uint64_t computed = (uint64_t)ticks * AST_ENGINE_TICK_MS * UINT64_C(1000000);
    bool cut_short = res->rc == AST_E_TIMEOUT || res->rc == AST_E_CANCELLED;
    return cut_short ? AST_MAX(res->fuel_used, computed) : res->fuel_used;
}

static bool on_tick(void *user, int64_t now_ns)
{
    struct mailbox *m = AST_CONTAINER_OF(user, struct mailbox, call.host);
    m->call.ticks++;
    return true;
}

static void charge(struct mailbox *m, const struct ast_call_result *res, int64_t now_ns)
{
    struct capsule_ledger *l = registry_of(m)->ledger;
    struct ast_str principal = ast_principal_str(&m->call.invoking);
    const struct capsule_cost cost = {
        .fuel = invocation_fuel(res, m->call.ticks),
        .memory_bytes = res->memory_bytes,
        .failed = is_fault(res->rc),
    };

    capsule_ledger_settle(l, principal, &m->call.reservation, &cost, now_ns);
    if (res->memory_grew)
        capsule_ledger_grew(l, principal, res->memory_bytes);
    seat_used(m->seat, cost.fuel, cost.memory_bytes);
}

static void sample(const struct mailbox *m, const struct ast_call_result *res, int64_t now_ns)
{
    const struct invocation *call = &m->call;
    ast_log_fields(
        AST_LOG_DEBUG, "astrid.sample", "interceptor invocation", AST_F_STR("capsule", m->seat->id),
        AST_F_STR("action", m->current.handler->action),
        AST_F_STR("principal", ast_principal_str(&call->invoking)),
        AST_F_U64("pool_wait_ms", (uint64_t)((call->leased_ns - call->begin_ns) / AST_NS_PER_MS)),
        AST_F_U64("invoke_ms", (uint64_t)((now_ns - call->leased_ns) / AST_NS_PER_MS)),
        AST_F_U64("fuel_used", res->fuel_used), AST_F_BOOL("ok", res->rc == AST_OK));
}

static void on_done(void *user, const struct ast_call_result *res)
{
    struct mailbox *m = AST_CONTAINER_OF(user, struct mailbox, call.host);
    int64_t now_ns = ast_mono_ns();

    charge(m, res, now_ns);
    ast_metric_observe_ns(m->current.handler->duration,
                          (uint64_t)AST_MAX(now_ns - m->call.begin_ns, 0));
    atomic_fetch_add_explicit(&m->seat->calls, 1, memory_order_relaxed);
    sample(m, res, now_ns);
    enum seat_outcome outcome = classify(m, res); /* while the result's views are alive */
    ast_host_call_end(&m->call.host);
    capsule_call_end(m->call.capsule, m->call.ticket);
    release_lease(m, res->clean);
    dispatch_advance(m, outcome);
}

/* Everything a call that never ran holds. */
static void hand_back(struct mailbox *m)
{
    capsule_ledger_charge(registry_of(m)->ledger, ast_principal_str(&m->call.invoking),
                          &m->call.reservation, 0, ast_mono_ns());
    release_lease(m, /* clean= */ true);
}

static void give_up(struct mailbox *m, enum seat_outcome outcome)
{
    hand_back(m);
    dispatch_advance(m, outcome);
}

static bool owner_is_exempt(const struct ast_host_env *env)
{
    return ast_policy_exempt(env->host->policy, ast_principal_str(&env->owner));
}

/* differs: a fresh deadline for each call of an uplink capsule; none when its owner is exempt
 * (spec 05 §18). */
static int64_t deadline_of(const struct capsule *c, const struct ast_quotas *quotas, int64_t now_ns)
{
    if (c->is_daemon && owner_is_exempt(&c->env))
        return AST_NO_DEADLINE;
    return now_ns + (int64_t)AST_MIN(quotas->max_timeout_secs, UINT64_C(86400)) * AST_NS_PER_SEC;
}

/* An item that was queued for an older load goes to the handler that the serving one has for it: under the same
 * pattern, else under one that matches. False: it has none any more. */
static bool find_action(struct mailbox *m)
{
    const struct capsule_handler *h = m->current.handler;
    const struct ast_host_env *env = &m->call.capsule->env;
    const struct ast_host_binding *fit = NULL;

    m->call.action = h->action;
    if (h->load == m->call.capsule->serial)
        return true;
    if (ast_topic_is_audit(m->current.msg->topic) && !env->audit_firehose &&
        !ast_str_eq(m->current.msg->principal, ast_principal_str(&env->owner)))
        return false; /* the load before it might see everybody's */
    for (size_t i = 0; i < env->binding_count; i++) {
        const struct ast_host_binding *b = &env->bindings[i];
        bool same = ast_str_eq(b->topic, h->topic);
        if (same || (!fit && ast_topic_match_strict(b->topic, m->current.msg->topic)))
            fit = b;
        if (same)
            break;
    }
    if (fit)
        m->call.action = fit->action;
    return fit != NULL;
}

/* The load behind m->call is on its way out: look again who serves. */
static void again(struct mailbox *m)
{
    hand_back(m);
    dispatch_invoke(m);
}

/* m->call.instance is leased. */
static void start(struct mailbox *m)
{
    struct invocation *call = &m->call;
    struct capsule *c = call->capsule;
    struct ast_call *started = NULL;
    struct ast_msg *caller = m->current.msg->is_ipc ? m->current.msg : NULL;
    struct ast_err err = AST_ERR_INIT;

    call->leased_ns = ast_mono_ns();
    if (!capsule_call_begin(c, &call->ticket)) {
        again(m);
        return;
    }
    const struct ast_call_config config = {
        .instance = call->instance,
        .entry = AST_CALL_HOOK,
        .action = call->action,
        .payload = dispatch_payload(m),
        .fuel = CAPSULE_FUEL_PER_CALL,
        .deadline_ns = deadline_of(c, &call->profile->quotas, call->leased_ns),
        .memory_limit_bytes = call->profile->quotas.max_memory_bytes,
        .user = &call->host,
        .on_tick = on_tick,
        .on_done = on_done,
    };
    call->ticks = 0;
    call->host = (struct ast_host_call){ .interceptor = true };
    ast_host_call_begin(&call->host, &c->env, caller, call->profile);
    ast_profile_unref(ast_steal(&call->profile));

    struct capsule_ticket ticket = call->ticket;
    AST_AUTO(capsule_unref) struct capsule *held = capsule_ref(c);
    enum ast_rc rc = ast_call_start(c->env.host->sched, &config, &started, &err);
    if (!rc) {
        capsule_call_started(held, ticket, started); /* m is on_done's by now */
        return;
    }
    ast_host_call_end(&call->host);
    capsule_call_end(c, call->ticket);
    give_up(m, failedf(m, "Not supported: no capsule instance available: %s", err.msg));
}

static void on_leased(struct mailbox *m)
{
    if (m->call.instance)
        start(m);
    else /* the pool closed */
        again(m);
}

static void on_granted(struct ast_pool_waiter *w, struct ast_instance *instance)
{
    struct mailbox *m = AST_CONTAINER_OF(w, struct mailbox, call.waiter);
    m->call.instance = instance;
    mailbox_resume(m, on_leased);
}

static bool is_exempt(void *arg, struct ast_str principal)
{
    return ast_policy_exempt(arg, principal);
}

/* The profile of the invoking principal, checked. False: *ret_outcome says how the item ends. */
static bool admit(struct mailbox *m, enum seat_outcome *ret_outcome)
{
    struct ast_capsules *r = registry_of(m);
    struct invocation *call = &m->call;
    const struct ast_msg *msg = m->current.msg;
    struct ast_err err = AST_ERR_INIT;

    if (!msg->is_ipc || ast_principal_parse(msg->principal, &call->invoking, NULL) != AST_OK)
        call->invoking = r->owner;
    const char *name = call->invoking.name;
    struct ast_str principal = ast_principal_str(&call->invoking);
    if (ast_policy_profile(r->host->policy, principal, &call->profile, &err)) {
        *ret_outcome = failedf(m, "WASM error: principal '%s' profile invalid: %s", name, err.msg);
        return false;
    }
    if (!call->profile->enabled) {
        ast_log_fields(AST_LOG_WARN, DISPATCH_TARGET,
                       "Disabled principal denied at Layer 3 (capsule invocation)", AST_F_SECURITY,
                       AST_F_STR("principal", principal), AST_F_STR("capsule", m->seat->id),
                       AST_F_STR("action", m->current.handler->action));
        *ret_outcome = failedf(m, "WASM error: principal '%s' is disabled", name);
        return false;
    }
    if (call->profile->is_removed) {
        ast_log_fields(AST_LOG_WARN, DISPATCH_TARGET, "deleted principal denied", AST_F_SECURITY,
                       AST_F_STR("principal", principal), AST_F_STR("capsule", m->seat->id),
                       AST_F_STR("action", m->current.handler->action));
        *ret_outcome = failedf(m, "WASM error: principal '%s' does not exist", name);
        return false;
    }
    uint64_t budget = call->profile->quotas.max_cpu_fuel_per_sec;
    if (capsule_ledger_admit(r->ledger, principal, budget, call->begin_ns, is_exempt,
                             r->host->policy, &call->reservation))
        return true;
    char reason[AST_PRINCIPAL_MAX + 80];
    uint64_t held;
    (void)snprintf(reason, sizeof reason, "principal '%s' exceeded CPU budget of %llu fuel/sec",
                   name, (unsigned long long)budget);
    if (log_gate_pass(&m->seat->rate_gate, DISPATCH_LINES, call->begin_ns, &held))
        ast_log_fields(AST_LOG_WARN, DISPATCH_TARGET,
                       "CPU-rate budget exceeded; denying invocation (per-principal throttle)",
                       AST_F_STR("principal", principal), AST_F_STR("capsule", m->seat->id),
                       AST_F_STR("action", m->current.handler->action),
                       AST_F_U64("not_logged", held));
    *ret_outcome = denied(m, ast_str_c(reason));
    return false;
}

/* A worker deals with m->current. */
void dispatch_invoke(struct mailbox *m)
{
    struct invocation *call = &m->call;
    enum seat_outcome outcome;
    struct ast_err err = AST_ERR_INIT;

    call->capsule = NULL;
    call->instance = NULL;
    call->profile = NULL;
    call->reservation = (struct capsule_reservation){ 0 };
    call->begin_ns = ast_mono_ns();
    if (!admit(m, &outcome)) {
        give_up(m, outcome);
        return;
    }
    for (;;) {
        /* The load that serves now: reload and restart move waiting items to the new one. */
        call->capsule = atomic_load(&dispatch_of(m)->closing) ? NULL : seat_current(m->seat);
        if (!call->capsule || !call->capsule->pool || call->capsule->env.is_run_loop)
            break;
        if (!find_action(m)) {
            seat_dropped(m->seat, SEAT_DROP_UNSUPPORTED);
            give_up(m, failed(m, AST_STR("the version that serves now handles no such topic")));
            return;
        }
        call->waiter = (struct ast_pool_waiter){ .granted = on_granted };
        struct ast_str principal = ast_principal_str(&call->invoking);
        enum ast_rc rc =
            ast_pool_lease(call->capsule->pool, principal, &call->waiter, &call->instance, &err);
        if (!rc) {
            start(m);
            return;
        }
        if (rc == AST_E_BUSY) /* on_granted goes on, perhaps already */
            return;
        if (rc != AST_E_CLOSED) {
            give_up(m, failedf(m, "Not supported: no capsule instance available: %s", err.msg));
            return;
        }
        struct capsule *now = seat_current(m->seat);
        bool replaced = now && now != call->capsule;
        capsule_unref(now);
        if (!replaced)
            break;
        capsule_unref(ast_steal(&call->capsule));
    }
    dispatch_dropped(dispatch_of(m), m->seat, ast_principal_str(&m->principal), SEAT_DROP_CLOSED);
    give_up(m, SEAT_OUTCOME_ERROR);
}
