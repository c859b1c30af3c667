/* The run loop of a capsule: one call of `run` for the capsule's whole life (spec 05 §20).
 *
 *   STARTING --signal-ready--> READY
 *       |                        |
 *       +------- run ends -------+--> CRASHED, `ended` is set: the health probe finds it
 *
 * An owner who is not exempt gets windows: at the end of each the guest must have entered a
 * waiting host call since the last one. Three windows without are the end. Time spent parked is
 * nobody's CPU and ends no window.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "capsule/registry_priv.h"

#include "base/banned.h"

#define GRACE_WINDOWS    3u
#define TICK_NS          (100 * AST_NS_PER_MS) /* the unit of spec 05 §20.3 */
#define MAX_WINDOW_TICKS 50u
#define TICK_FUEL        (AST_ENGINE_TICK_MS * UINT64_C(1000000)) /* see invocation_fuel() */

static struct capsule *capsule_of(void *user)
{
    return AST_CONTAINER_OF(user, struct capsule, loop.host);
}

bool capsule_loop_is_dead(const struct capsule *c)
{
    return c->env.is_run_loop && atomic_load(&c->loop.ended);
}

static void charge(struct capsule *c, struct ast_str principal, uint64_t fuel,
                   uint64_t memory_bytes)
{
    const struct capsule_reservation none = { 0 };

    capsule_ledger_charge(c->owner->ledger, principal, &none, fuel, ast_mono_ns());
    seat_used(c->seat, fuel, memory_bytes);
}

void capsule_loop_on_fuel(void *capsule, struct ast_str principal, uint64_t fuel)
{
    struct capsule *c = capsule;
    charge(c, principal, fuel,
           ast_instance_memory(c->loop.instance)); /* who watches sees it grow */
}

static bool on_tick(void *user, int64_t now_ns)
{
    struct capsule *c = capsule_of(user);
    struct capsule_loop *l = &c->loop;

    l->ticks++;
    /* The engine does not tell its count in the middle of a computation. */
    l->host.fuel_told += TICK_FUEL;
    charge(c, ast_principal_str(&l->host.invoking), TICK_FUEL, /* memory_bytes= */ 0);
    if (!l->bounded || now_ns < l->window_end_ns)
        return true;
    /* differs: every waiting host call counts, not only recv */
    uint64_t progress = atomic_load_explicit(&c->env.progress, memory_order_relaxed);
    l->idle_windows = progress == l->progress_seen ? l->idle_windows + 1 : 0;
    l->progress_seen = progress;
    l->window_end_ns = now_ns + l->window_ns;
    return l->idle_windows < GRACE_WINDOWS;
}

static void on_done(void *user, const struct ast_call_result *res)
{
    AST_AUTO(capsule_unref) struct capsule *c = capsule_of(user); /* the loop's reference */
    struct ast_str owner = ast_principal_str(&c->env.owner);
    bool asked = atomic_load(&c->env.unloading) || atomic_load(&c->env.quiescing);

    if (res->rc && !asked)
        ast_log_fields(AST_LOG_ERROR, CAPSULE_TARGET, "WASM background loop failed",
                       AST_F_STR("capsule", c->env.capsule_id), AST_F_CSTR("error", res->error));
    else
        ast_log_fields(AST_LOG_DEBUG, CAPSULE_TARGET, "WASM background loop ended",
                       AST_F_STR("capsule", c->env.capsule_id));
    if (res->rc && !asked)
        atomic_fetch_add(&c->seat->traps, 1);
    /* differs: a loop's fuel is charged as it burns, to whom it acts for; the memory is its owner's */
    uint64_t fuel = invocation_fuel(res, c->loop.ticks), told = c->loop.host.fuel_told;
    if (fuel > told)
        charge(c, ast_principal_str(&c->loop.host.invoking), fuel - told, /* memory_bytes= */ 0);
    seat_used(c->seat, /* fuel= */ 0, res->memory_bytes);
    if (res->memory_grew)
        capsule_ledger_grew(c->owner->ledger, owner, res->memory_bytes);
    ast_host_call_end(&c->loop.host);
    atomic_store(&c->env.is_over, true); /* its subscriptions go to the heir, if there is one */
    ast_pool_return(c->pool, c->loop.instance, /* clean= */ false);
    struct ast_handover *heir = atomic_load(&c->env.heir);
    if (heir)
        ast_handover_pass(c->env.inherits, heir);
    else
        ast_handover_close(c->env.inherits);
    (void)snprintf(c->loop.error, sizeof c->loop.error, "%s", res->rc ? res->error : "");
    atomic_store(&c->loop.ended, true);
    registry_signal(c->owner, c, CAPSULE_CRASHED);
    capsule_call_end(c, c->loop.ticket);
}

/* The owner's quotas; the defaults when the profile cannot be read. */
static struct ast_quotas owner_quotas(const struct capsule *c)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
    struct ast_quotas quotas = AST_QUOTAS_DEFAULT;
    struct ast_err err = AST_ERR_INIT;

    if (ast_policy_profile(c->env.host->policy, ast_principal_str(&c->env.owner), &p, &err) ==
        AST_OK)
        quotas = p->quotas;
    else
        ast_log_warn(CAPSULE_TARGET, "use default quotas for the run loop of '" AST_STR_FMT "': %s",
                     AST_STR_ARG(c->env.capsule_id), err.msg);
    return quotas;
}

static int64_t window_ns(uint64_t max_timeout_secs)
{
    uint64_t ticks =
        max_timeout_secs >= MAX_WINDOW_TICKS / 10 ? MAX_WINDOW_TICKS : max_timeout_secs * 10;
    return (int64_t)AST_MAX(ticks, UINT64_C(1)) * TICK_NS;
}

enum ast_rc capsule_loop_start(struct capsule *c, struct ast_err *err)
{
    struct capsule_loop *l = &c->loop;
    struct ast_quotas quotas = owner_quotas(c);
    struct ast_str owner = ast_principal_str(&c->env.owner);
    struct ast_pool_waiter never = { 0 }; /* the only lease of a pool of one */
    struct ast_call *call = NULL;

    l->bounded = !ast_policy_exempt(c->env.host->policy, owner);
    l->window_ns = window_ns(quotas.max_timeout_secs);
    l->window_end_ns = ast_mono_ns() + l->window_ns;
    enum ast_rc rc = ast_pool_lease(c->pool, owner, &never, &l->instance, err);
    if (rc)
        return ast_wrap(err, rc, "Failed to instantiate WASM component");
    if (!capsule_call_begin(c, &l->ticket)) {
        ast_pool_return(c->pool, l->instance, /* clean= */ false);
        return ast_fail(err, AST_E_CANCELLED, "unloaded while it started");
    }
    struct capsule_ticket ticket = l->ticket;
    const struct ast_call_config config = {
        .instance = l->instance,
        .entry = AST_CALL_RUN,
        .fuel = AST_FUEL_UNLIMITED,
        .deadline_ns = AST_NO_DEADLINE,
        .memory_limit_bytes = l->bounded ? quotas.max_memory_bytes : AST_ENGINE_MAX_MEMORY,
        .user = &l->host,
        .on_tick = on_tick,
        .on_done = on_done,
    };
    ast_host_call_begin(&l->host, &c->env, /* msg= */ NULL, /* profile= */ NULL);
    ast_log_fields(AST_LOG_INFO, CAPSULE_TARGET, "Starting background WASM run loop",
                   AST_F_STR("capsule", c->env.capsule_id), AST_F_BOOL("bounded", l->bounded));
    capsule_ref(c); /* the loop's */
    rc = ast_call_start(c->env.host->sched, &config, &call, err);
    if (!rc) {
        capsule_call_started(c, ticket, call);
        return AST_OK;
    }
    ast_host_call_end(&l->host);
    ast_pool_return(c->pool, l->instance, /* clean= */ false);
    capsule_call_end(c, ticket);
    capsule_unref(c);
    return rc;
}
