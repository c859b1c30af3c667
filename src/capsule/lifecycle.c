/* Install and upgrade hooks: one call on a fresh instance, before the install is committed (spec
 * 05 §21).
 *
 * The hook sees the capsule's real key-value namespace, its resolved [env] and, on upgrade,
 * `prev_version`; it has no topics and is not in the registry.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "capsule/registry_priv.h"

#include "base/banned.h"

#define HOOK_DEADLINE_NS (600 * AST_NS_PER_SEC)

/* Owner: the installing thread; on_done fills it under `lock`. */
struct hook {
    struct ast_host_call host;
    struct ast_lock lock;
    pthread_cond_t ended;
    bool done;
    bool clean;
    enum ast_rc rc;
    char error[AST_ERR_MSG_BYTES];
};

static void on_done(void *user, const struct ast_call_result *res)
{
    struct hook *h = AST_CONTAINER_OF(user, struct hook, host);

    ast_host_call_end(&h->host);
    AST_WITH_LOCK(&h->lock);
    h->rc = res->rc;
    h->clean = res->clean;
    (void)snprintf(h->error, sizeof h->error, "%s", res->error);
    h->done = true;
    pthread_cond_broadcast(&h->ended); /* under the lock: the waiter owns the memory */
}

/* Makes the call known to a shutdown; one that came first cancels it here. NULL: it is over. */
static void announce(struct ast_capsules *r, struct ast_call *call)
{
    bool too_late;
    {
        AST_WITH_LOCK(&r->lock);
        r->hook = call;
        too_late = call && r->no_hooks;
    }
    if (too_late)
        ast_call_cancel(call);
}

void ast_capsules_cancel_hooks(struct ast_capsules *r)
{
    struct ast_call *call = NULL;
    {
        AST_WITH_LOCK(&r->lock);
        r->no_hooks = true;
        if (r->hook)
            call = ast_call_ref(r->hook);
    }
    if (!call)
        return;
    ast_call_cancel(call);
    ast_call_unref(call);
}

static enum ast_rc call_hook(struct capsule *c, bool upgrade, struct ast_err *err)
{
    const char *name = upgrade ? "astrid-upgrade" : "astrid-install";
    struct ast_instance *instance = NULL;
    struct ast_pool_waiter never = { 0 }; /* the only lease of this pool */
    struct hook h = { .done = false };

    enum ast_rc rc =
        ast_pool_lease(c->pool, ast_principal_str(&c->env.owner), &never, &instance, err);
    if (rc)
        return ast_wrap(err, rc, "Failed to instantiate WASM component");
    ast_lock_init(&h.lock, AST_LOCK_registry);
    ast_cond_init(&h.ended);
    const struct ast_call_config config = {
        .instance = instance,
        .entry = upgrade ? AST_CALL_UPGRADE : AST_CALL_INSTALL,
        .fuel = AST_FUEL_UNLIMITED,
        .deadline_ns = ast_mono_ns() + HOOK_DEADLINE_NS,
        .memory_limit_bytes = AST_ENGINE_MAX_MEMORY,
        .user = &h.host,
        .on_done = on_done,
    };
    ast_host_call_begin(&h.host, &c->env, /* msg= */ NULL, /* profile= */ NULL);
    struct ast_call *call = NULL;
    rc = ast_call_start(c->env.host->sched, &config, &call, err);
    if (rc) {
        ast_host_call_end(&h.host);
    } else {
        announce(c->owner, call);
        ast_lock(&h.lock);
        while (!h.done)
            (void)ast_cond_wait(&h.ended, &h.lock, /* deadline_ns= */ -1);
        ast_unlock(&h.lock);
        announce(c->owner, NULL);
        ast_call_unref(call);
        if (h.rc == AST_E_UNSUPPORTED)
            rc = ast_fail(err, h.rc, "capsule does not export lifecycle hook `%s`", name);
        else if (h.rc)
            rc = ast_fail(err, h.rc, "Execution failed: lifecycle hook %s failed: %s", name,
                          h.error);
    }
    ast_pool_return(c->pool, instance, /* clean= */ false);
    pthread_cond_destroy(&h.ended);
    ast_lock_done(&h.lock);
    return rc;
}

static enum ast_rc run(struct capsule *c, struct ast_str wasm, const char *dir, bool upgrade,
                       struct ast_str previous_version, struct ast_err *err)
{
    const struct ast_host_pair previous = { AST_STR("prev_version"), previous_version };

    c->env.is_lifecycle = true;
    enum ast_rc rc = capsule_env_fill(c, err);
    if (rc)
        return rc;
    c->env.publish_acl_count = c->env.subscribe_acl_count = c->env.binding_count = 0;
    rc = capsule_config_resolve(c, dir, upgrade && previous_version.n ? &previous : NULL, err);
    if (!rc)
        rc = ast_module_load(c->owner->engine, wasm, &c->module, err);
    if (rc)
        return rc;
    const struct ast_module_info *info = ast_module_info(c->module);
    if (!(upgrade ? info->has_upgrade : info->has_install))
        return AST_OK; /* missing, or the toolchain's stub */
    rc = capsule_pool_make(c, /* single= */ true, err);
    return rc ? rc : call_hook(c, upgrade, err);
}

enum ast_rc ast_capsules_run_install_hook(void *capsules, const struct ast_manifest *m,
                                          struct ast_str wasm, const char *target_dir, bool upgrade,
                                          struct ast_str previous_version, struct ast_err *err)
{
    struct ast_capsules *r = capsules;
    struct capsule_seat *seat = NULL;

    enum ast_rc rc =
        seat_new(m->name, &seat, err); /* of its own: the serving capsule keeps its seat */
    if (rc)
        return rc;
    struct capsule *c = capsule_new(r, seat, m);
    rc = c ? run(c, wasm, target_dir, upgrade, previous_version, err)
           : ast_fail(err, AST_E_NO_MEMORY, "lifecycle hook");
    capsule_unref(c);
    seat_free(seat);
    return rc;
}
