/* Loading one capsule and the list of its running calls.
 *
 * Order of a load (spec 05 §2.2): read once, hash those bytes, compile those bytes. No guest
 * instruction runs before the hash matched. A load that fails leaves nothing behind.
 */
#include "capsule/runtime_priv.h"

#include <stdlib.h>
#include <sys/resource.h>

#include "base/fs.h"
#include "base/log.h"
#include "bus/topic.h"
#include "capsule/registry_priv.h"
#include "wasm/component.h"

#include "base/banned.h"

#define ENV_MAX_BYTES      (64ull * 1024 * 1024)
#define MANIFEST_MAX_BYTES (4u * 1024 * 1024)
#define IDLE_MAX           64u /* warm instances over all principals */

/* --- References ------------------------------------------------------------------------------- */

static void capsule_free(struct capsule *c)
{
    struct ast_capsules *owner = c->owner;
    AST_ASSERT(c->active_count == 0);
    registry_uuid_remove(owner, c); /* calls of a replaced load were answered until now */
    ast_pool_free(c->pool);
    ast_module_unref(c->module);
    ast_host_env_done(&c->env);
    ast_limiter_free(c->env.limiter);
    ast_permits_free(c->env.blocking);
    ast_permits_free(c->env.io);
    ast_manifest_free(c->own_manifest);
    ast_arena_done(&c->memory);
    free(c->active);
    ast_lock_done(&c->lock);
    pthread_cond_destroy(&c->quiet);
    capsule_unref(c->origin);
    free(c);
    registry_alive(owner, -1);
}

struct capsule *capsule_ref(struct capsule *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void capsule_unref(struct capsule *c)
{
    if (c && atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1)
        capsule_free(c);
}

/* --- Running calls ---------------------------------------------------------------------------- */

static bool active_init(struct capsule *c, unsigned cap)
{
    c->active = calloc(cap, sizeof *c->active);
    if (!c->active)
        return false;
    c->active_cap = cap;
    for (uint32_t i = 0; i < cap; i++)
        c->active[i].next_free = i + 1;
    return true;
}

bool capsule_call_begin(struct capsule *c, struct capsule_ticket *ret)
{
    AST_WITH_LOCK(&c->lock);
    if (c->stopping)
        return false;
    AST_ASSERT(c->first_free < c->active_cap); /* one slot per lease */
    struct capsule_active *a = &c->active[c->first_free];
    *ret = (struct capsule_ticket){ .slot = c->first_free, .serial = ++a->serial };
    c->first_free = a->next_free;
    c->active_count++;
    return true;
}

void capsule_call_started(struct capsule *c, struct capsule_ticket ticket, struct ast_call *call)
{
    ast_lock(&c->lock);
    struct capsule_active *a = &c->active[ticket.slot];
    bool running = a->serial == ticket.serial;
    bool cancel = running && c->stopping;
    if (running)
        a->call = cancel ? ast_call_ref(call) : call;
    ast_unlock(&c->lock);
    if (cancel)
        ast_call_cancel(call);
    if (cancel || !running)
        ast_call_unref(call);
}

void capsule_call_end(struct capsule *c, struct capsule_ticket ticket)
{
    ast_lock(&c->lock);
    struct capsule_active *a = &c->active[ticket.slot];
    struct ast_call *call = ast_steal(&a->call);
    a->serial++;
    a->next_free = c->first_free;
    c->first_free = ticket.slot;
    if (--c->active_count == 0)
        pthread_cond_broadcast(&c->quiet);
    ast_unlock(&c->lock);
    if (call)
        ast_call_unref(call);
}

void capsule_retire(struct capsule *c)
{
    if (c->pool)
        ast_pool_close(c->pool);
}

static void each_call(struct capsule *c, void (*fn)(struct ast_call *call))
{
    for (uint32_t i = 0; i < c->active_cap; i++) {
        ast_lock(&c->lock);
        struct ast_call *call = c->active[i].call ? ast_call_ref(c->active[i].call) : NULL;
        ast_unlock(&c->lock);
        if (!call)
            continue;
        fn(call);
        ast_call_unref(call);
    }
}

enum ast_rc capsule_heir(struct capsule *c, struct ast_handover **ret, struct ast_err *err)
{
    struct ast_handover *h = atomic_load(&c->env.heir);

    if (h) {
        ast_handover_reopen(h);
    } else {
        enum ast_rc rc = ast_handover_new(&h, err);
        if (rc)
            return rc;
        atomic_store(&c->env.heir, h);
    }
    *ret = h;
    return AST_OK;
}

void capsule_quiesce(struct capsule *c)
{
    AST_ASSERT(atomic_load(&c->env.heir));
    atomic_store(&c->env.quiescing, true); /* before the wake-ups: waits must see it */
    each_call(c, ast_call_wake);
}

void capsule_stop(struct capsule *c)
{
    ast_lock(&c->lock);
    c->stopping = true;
    ast_unlock(&c->lock);
    atomic_store(&c->env.unloading, true); /* before the wake-ups: waits must see it */
    capsule_retire(c);
    each_call(c, ast_call_cancel);
}

bool capsule_wait_quiet(struct capsule *c, int64_t deadline_ns)
{
    AST_WITH_LOCK(&c->lock);
    while (c->active_count)
        if (!ast_cond_wait(&c->quiet, &c->lock, deadline_ns))
            return c->active_count == 0;
    return true;
}

/* --- The binary ------------------------------------------------------------------------------- */

/* The path to read, free() it: the manifest's file where it exists, else the content store (spec
 * 05 §2.2 step 2). */
static char *binary_path(const struct ast_home *home, const char *dir, struct ast_str file,
                         struct ast_str hash)
{
    if (file.n && file.p[0] == '/')
        return ast_str_dup(file);
    char *local = ast_fs_join(dir, file.p);
    if (!local || ast_fs_exists(local) || !hash.n || ast_str_find_byte(hash, '/') != AST_STR_NPOS)
        return local;
    char *stored = ast_home_path(home, AST_HOME_BIN "/" AST_STR_FMT ".wasm", AST_STR_ARG(hash));
    if (stored && ast_fs_exists(stored)) {
        free(local);
        return stored;
    }
    free(stored);
    return local;
}

static enum ast_rc check_hash(struct ast_str expected, struct ast_str bytes, struct ast_err *err)
{
    char actual[AST_BLAKE3_HEX];
    ast_blake3_hex(bytes, actual);
    if (ast_str_eq(expected, ast_str_c(actual)))
        return AST_OK;
    return ast_fail(err, AST_E_CORRUPT,
                    "WASM integrity check failed: expected BLAKE3 " AST_STR_FMT
                    ", got %s. The binary may have been tampered with.",
                    AST_STR_ARG(expected), actual);
}

/* meta.json as a document: the hash is all a load needs, whatever else is missing. NULL: absent
 * or unreadable. */
static struct ast_json_doc *recorded(const char *dir)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "meta.json");
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(MANIFEST_MAX_BYTES);
    struct ast_json_doc *doc = NULL;

    if (!path || ast_fs_read(path, MANIFEST_MAX_BYTES, &text, /* err= */ NULL) ||
        ast_json_parse(ast_buf_view(&text), &doc, /* err= */ NULL))
        return NULL;
    return doc;
}

static enum ast_rc read_verified(const struct ast_home *home, const char *dir,
                                 const struct ast_manifest *manifest, struct ast_buf *wasm,
                                 struct ast_err *err)
{
    const struct ast_manifest_component *part = &manifest->components[0];
    AST_AUTO(ast_json_free) struct ast_json_doc *meta = recorded(dir);
    struct ast_str hash =
        ast_json_str_or(meta ? ast_json_root(meta) : NULL, AST_STR("wasm_hash"), AST_STR_NONE);

    AST_AUTO(ast_cfree) char *path = binary_path(home, dir, part->file, hash);
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "component path");
    enum ast_rc rc = ast_fs_read(path, AST_COMPONENT_MAX_BYTES, wasm, err);
    if (rc)
        return ast_wrap(err, rc, "Failed to read WASM");
    if (!hash.n)
        return ast_fail(
            err, AST_E_DENIED,
            "WASM capsule '" AST_STR_FMT
            "' has no BLAKE3 hash in meta.json. Capsules must be installed via "
            "`astrid capsule install` which records the hash. Refusing to load unverified binary.",
            AST_STR_ARG(manifest->name));
    rc = check_hash(hash, ast_buf_view(wasm), err);
    /* differs: the manifest's own hash counts too (spec 05 §2.2) */
    if (!rc && part->hash.n)
        rc = check_hash(part->hash, ast_buf_view(wasm), err);
    return rc;
}

/* --- What host functions see ------------------------------------------------------------------ */

static struct ast_str *topic_keys(struct ast_arena *a, const struct ast_manifest_topic *v, size_t n)
{
    struct ast_str *keys = ast_arena_array(a, n, sizeof *keys);
    for (size_t i = 0; keys && i < n; i++)
        keys[i] = v[i].pattern;
    return keys;
}

static void env_bindings(struct capsule *c)
{
    const struct ast_manifest *m = c->manifest;
    struct ast_host_binding *v = ast_arena_array(&c->memory, m->subscribe_count, sizeof *v);
    size_t n = 0;

    for (size_t i = 0; v && i < m->subscribe_count; i++)
        if (m->subscribe[i].handler.n)
            v[n++] = (struct ast_host_binding){ .topic = m->subscribe[i].pattern,
                                                .action = m->subscribe[i].handler,
                                                .priority = m->subscribe[i].priority };
    c->env.bindings = v;
    c->env.binding_count = v ? n : 0;
}

/* Defaults of spec 05 §17.1 and §22.1. */
static unsigned pool_limit(const struct ast_capsules *r)
{
    unsigned derived = AST_MAX(2 * ast_cpu_count(), 8u);
    return r->pool_max ? r->pool_max : AST_MIN(derived, 64u);
}

static unsigned blocking_limit(const struct ast_capsules *r)
{
    unsigned cores = ast_cpu_count();
    return r->blocking_max ? r->blocking_max : (cores > 4 ? cores - 2 : 2);
}

static unsigned io_limit(const struct ast_capsules *r)
{
    struct rlimit files;
    unsigned limit = AST_MAX(ast_cpu_count() * 64, 64u);

    if (r->io_max)
        return r->io_max;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY &&
        files.rlim_cur / 2 < limit)
        limit = (unsigned)AST_MAX(files.rlim_cur / 2, (rlim_t)1);
    return limit;
}

static void on_ready(void *arg)
{
    struct capsule *c = arg;
    registry_signal(c->owner, c, CAPSULE_READY);
}

static void on_receive(void *arg)
{
    struct capsule *c = arg;
    AST_WITH_LOCK(&c->owner->lock);
    pthread_cond_broadcast(&c->owner->changed);
}

enum ast_rc capsule_env_fill(struct capsule *c, struct ast_err *err)
{
    struct ast_capsules *r = c->owner;
    const struct ast_manifest *m = c->manifest;
    struct ast_host_env *env = &c->env;
    struct ast_str *held = ast_arena_array(&c->memory, 11, sizeof *held);

    env->capsule_id = c->seat->id;
    env->uuid = ast_uuid_v4();
    env->owner = r->owner;
    env->workspace = r->workspace ? ast_str_c(r->workspace) : AST_STR_NONE;
    env->publish_acl = topic_keys(&c->memory, m->publish, m->publish_count);
    env->publish_acl_count = m->publish_count;
    env->subscribe_acl = topic_keys(&c->memory, m->subscribe, m->subscribe_count);
    env->subscribe_acl_count = m->subscribe_count;
    env_bindings(c);
    env->held = held;
    env->held_count = held ? ast_manifest_held(m, held) : 0;
    env->uplink = m->caps.uplink;
    env->has_inbound = m->uplink_count > 0;
    for (size_t i = 0; i < m->caps.identity.n; i++)
        env->identity = AST_MAX(env->identity, ast_identity_level_of(m->caps.identity.v[i]));
    env->audit_firehose = ast_policy_holds(r->host->policy, ast_principal_str(&env->owner),
                                           AST_STR("audit:read_all"));
    env->on_ready = on_ready;
    env->on_ready_arg = c;
    env->on_receive = on_receive;
    env->on_receive_arg = c;
    env->on_fuel = capsule_loop_on_fuel;
    env->on_fuel_arg = c;
    env->capsule = c;
    enum ast_rc rc = ast_arena_check(&c->memory, err);
    if (!rc)
        rc = ast_limiter_new(&env->limiter, err);
    if (!rc)
        rc = ast_permits_new(blocking_limit(r), &env->blocking, err);
    if (!rc)
        rc = ast_permits_new(io_limit(r), &env->io, err);
    return rc;
}

/* --- Loading ---------------------------------------------------------------------------------- */

struct capsule *capsule_new(struct ast_capsules *owner, struct capsule_seat *seat,
                            const struct ast_manifest *manifest)
{
    struct capsule *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    atomic_init(&c->refs, 1);
    c->owner = owner;
    c->seat = seat;
    c->serial = atomic_fetch_add(&owner->loads, 1) + 1;
    c->manifest = manifest;
    c->memory = (struct ast_arena)AST_ARENA_INIT(ENV_MAX_BYTES);
    c->env.host = owner->host;
    c->is_daemon = manifest->caps.uplink || manifest->uplink_count > 0;
    ast_lock_init(&c->lock, AST_LOCK_registry);
    ast_cond_init(&c->quiet);
    registry_alive(owner, +1);
    return c;
}

struct capsule *capsule_failed_new(struct ast_capsules *owner, struct capsule_seat *seat,
                                   struct ast_manifest *manifest)
{
    struct capsule *c = capsule_new(owner, seat, manifest);
    if (!c) {
        ast_manifest_free(manifest);
        return NULL;
    }
    c->own_manifest = manifest;
    c->failed = true;
    atomic_store(&c->ready, CAPSULE_READY);
    return c;
}

/* What a run loop may not declare (spec 04 §13.2), and what it declares in vain (gap 43). */
static enum ast_rc check_run_loop(const struct capsule *c, struct ast_err *err)
{
    const struct ast_host_env *env = &c->env;

    if (env->binding_count > CAPSULE_RUN_LOOP_HANDLERS_MAX)
        return ast_fail(err, AST_E_INVALID,
                        "Capsule '" AST_STR_FMT
                        "' declares %zu interceptors, exceeding the auto-subscribe limit (%u)",
                        AST_STR_ARG(env->capsule_id), env->binding_count,
                        CAPSULE_RUN_LOOP_HANDLERS_MAX);
    for (size_t i = 0; i < env->binding_count; i++)
        if (!ast_topic_segments_valid(env->bindings[i].topic))
            return ast_fail(err, AST_E_INVALID,
                            "Interceptor event '" AST_STR_FMT
                            "' has invalid segment structure (empty segments, "
                            "leading/trailing dots, or empty string)",
                            AST_STR_ARG(env->bindings[i].topic));
    for (size_t i = 0; i < env->binding_count; i++)
        ast_log_fields(
            AST_LOG_WARN, CAPSULE_TARGET, "handler entries are not delivered to run-loop capsules",
            AST_F_STR("capsule", env->capsule_id), AST_F_STR("topic", env->bindings[i].topic));
    return AST_OK;
}

enum ast_rc capsule_pool_make(struct capsule *c, bool single, struct ast_err *err)
{
    unsigned max = single ? 1 : pool_limit(c->owner);
    const struct ast_pool_config config = {
        .max = max,
        .min_idle = single ? 1 : AST_MIN(4u, max),
        .idle_max = single ? 1 : IDLE_MAX,
        .pinned = single,
        .make = ast_host_instance_make,
        .reset = ast_host_instance_reset,
        .free = ast_host_instance_free,
        .arg = &c->env,
    };
    if (!active_init(c, max))
        return ast_fail(err, AST_E_NO_MEMORY, "capsule");
    return ast_pool_new(c->module, &config, &c->pool, err);
}

static enum ast_rc load_code(struct capsule *c, const char *dir, bool is_trial, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(AST_COMPONENT_MAX_BYTES);

    enum ast_rc rc = read_verified(c->env.host->home, dir, c->manifest, &wasm, err);
    if (!rc)
        rc = capsule_env_fill(c, err);
    if (!rc && !is_trial)
        rc = capsule_config_resolve(c, dir, /* extra= */ NULL, err);
    if (!rc)
        rc = ast_module_load(c->owner->engine, ast_buf_view(&wasm), &c->module, err);
    if (rc)
        return rc;
    c->env.is_run_loop = ast_module_info(c->module)->has_run;
    ast_buf_done(&wasm); /* megabytes that the pool does not need */
    if (c->env.is_run_loop)
        rc = check_run_loop(c, err);
    if (!rc)
        rc = capsule_pool_make(
            c, is_trial || c->env.is_run_loop || c->manifest->caps.host_process.n > 0, err);
    return rc;
}

static enum ast_rc prepare(struct ast_capsules *owner, struct capsule_seat *seat, const char *dir,
                           struct ast_manifest *manifest, bool is_trial, struct capsule **ret,
                           struct ast_err *err)
{
    AST_AUTO(capsule_unref) struct capsule *c = capsule_new(owner, seat, manifest);
    if (!c) {
        ast_manifest_free(manifest);
        return ast_fail(err, AST_E_NO_MEMORY, "capsule");
    }
    c->own_manifest = manifest;
    enum ast_rc rc = ast_capsule_id_check(c->manifest->name, err);
    if (rc)
        return rc;
    capsule_fingerprint(owner, dir, seat->id, c->fingerprint);
    if (c->manifest->component_count)
        rc = load_code(c, dir, is_trial, err);
    else /* commands and context only: nothing to run */
        rc = capsule_env_fill(c, err);
    if (rc)
        return rc;
    *ret = ast_steal(&c);
    return AST_OK;
}

static void warn_of_what_is_not_run(const struct capsule *c)
{
    if (c->manifest->component_count > 1)
        ast_log_fields(AST_LOG_WARN, CAPSULE_TARGET,
                       "only the first component of a capsule is loaded",
                       AST_F_STR("capsule", c->seat->id));
    if (c->manifest->mcp_server_count)
        ast_log_fields(AST_LOG_WARN, CAPSULE_TARGET, "MCP servers of a capsule are not started",
                       AST_F_STR("capsule", c->seat->id));
}

enum ast_rc capsule_prepare(struct ast_capsules *owner, struct capsule_seat *seat, const char *dir,
                            struct ast_manifest *manifest, struct capsule **ret,
                            struct ast_err *err)
{
    struct capsule *c = NULL;
    enum ast_rc rc = prepare(owner, seat, dir, manifest, /* is_trial= */ false, &c, err);
    if (rc)
        return rc;
    warn_of_what_is_not_run(c);
    if (!c->env.is_run_loop)
        atomic_store(&c->ready, CAPSULE_READY);
    ast_host_capsule_log_prune(&c->env, ast_principal_str(&c->env.owner));
    *ret = c;
    return AST_OK;
}

enum ast_rc capsule_try(struct ast_capsules *owner, struct capsule_seat *seat, const char *dir,
                        struct ast_manifest *manifest, struct capsule **ret, struct ast_err *err)
{
    return prepare(owner, seat, dir, manifest, /* is_trial= */ true, ret, err);
}

enum ast_rc capsule_again(struct capsule *old, struct capsule **ret, struct ast_err *err)
{
    AST_AUTO(capsule_unref)
    struct capsule *c = capsule_new(old->owner, old->seat, old->manifest);

    AST_ASSERT(old->env.is_run_loop);
    if (!c)
        return ast_fail(err, AST_E_NO_MEMORY, "capsule");
    c->origin = capsule_ref(old->origin ? old->origin : old);
    memcpy(c->fingerprint, old->fingerprint, sizeof c->fingerprint);
    enum ast_rc rc = capsule_env_fill(c, err);
    if (rc)
        return rc;
    c->env.config = old->env.config;
    c->env.config_count = old->env.config_count;
    c->env.declared = old->env.declared;
    c->env.declared_count = old->env.declared_count;
    c->env.secret_keys = old->env.secret_keys;
    c->env.secret_key_count = old->env.secret_key_count;
    c->env.is_run_loop = true;
    c->module = ast_module_ref(old->module);
    rc = capsule_pool_make(c, /* single= */ true, err);
    if (!rc)
        *ret = ast_steal(&c);
    return rc;
}

/* --- Has it changed? -------------------------------------------------------------------------- */

bool capsule_is_settled(struct ast_capsules *owner, const char *dir,
                        const struct ast_manifest *manifest)
{
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(AST_COMPONENT_MAX_BYTES);

    return !manifest->component_count ||
           read_verified(owner->host->home, dir, manifest, &wasm, /* err= */ NULL) == AST_OK;
}
