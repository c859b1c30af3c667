/* Boot and shutdown. What boot makes, shutdown unmakes in reverse; a boot that fails half way runs the same code and leaves
 * no runtime file behind. */
#include "kernel/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "bus/event.h"
#include "bus/metrics.h"
#include "crypto/hash.h"
#include "kernel/kernel_priv.h"
#include "store/identity.h"

#include "base/banned.h"

#define SHUTDOWN_EVENT_WAIT_MS 500 /* spec 04 §3.3: handlers of kernel_shutdown get this long */

void kernel_publish(struct ast_kernel *k, struct ast_str topic, enum ast_payload_kind kind,
                    struct ast_str body, const struct ast_uuid *source, const char *origin)
{
    struct ast_msg_spec spec = { .topic = topic, .source_id = *source, .origin = origin };
    struct ast_msg *msg;
    struct ast_err err = AST_ERR_INIT;

    if (ast_msg_trusted(&spec, kind, body, &msg, &err))
        ast_log_error(KERNEL_TARGET, "message on " AST_STR_FMT " is lost: %s", AST_STR_ARG(topic),
                      err.msg);
    else
        ast_bus_publish(k->bus, msg);
}

static void publish_event(struct ast_kernel *k, enum ast_event_kind kind, struct ast_str fields)
{
    struct ast_msg *msg;
    struct ast_err err = AST_ERR_INIT;

    if (ast_event_new(kind, "kernel", fields, &msg, &err))
        ast_log_error(KERNEL_TARGET, "lifecycle event is lost: %s", err.msg);
    else
        ast_bus_publish(k->bus, msg);
}

/* ---- boot ---- */

/* flock, so that another implementation on the same home is excluded too (spec 01 §3.2). */
static enum ast_rc take_lock(struct ast_kernel *k, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *dir = ast_home_path(k->home, "run");
    AST_AUTO(ast_cfree) char *path = ast_home_path(k->home, AST_HOME_LOCK);
    if (!dir || !path)
        return ast_fail(err, AST_E_NO_MEMORY, "lock");
    enum ast_rc rc = ast_fs_mkdirs(dir, 0700, err);
    if (rc)
        return rc;
    if (chmod(dir, 0700))
        return ast_fail_errno(err, AST_E_IO, errno, "make %s private", dir);
    k->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (k->lock_fd < 0)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno,
                              "Failed to open singleton lockfile %s", path);
    if (flock(k->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return AST_OK;
    if (errno == EWOULDBLOCK)
        return ast_fail(err, AST_E_BUSY,
                        "Another kernel instance is already running (singleton lock held): %s",
                        path);
    return ast_fail_errno(err, AST_E_IO, errno, "Failed to acquire singleton lock %s", path);
}

static void remove_runtime_file(struct ast_kernel *k, const char *name)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(k->home, "%s", name);
    if (path)
        unlink(path);
}

static enum ast_rc open_keys(struct ast_kernel *k, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *key = ast_home_path(k->home, AST_HOME_RUNTIME_KEY);
    AST_AUTO(ast_cfree) char *token = ast_home_path(k->home, AST_HOME_TOKEN);
    if (!key || !token)
        return ast_fail(err, AST_E_NO_MEMORY, "keys");
    enum ast_rc rc = ast_key_load_or_create(key, "runtime key", &k->runtime_key, err);
    if (rc)
        return rc;
    rc = ast_session_token_create(token, &k->token, err);
    k->has_token = !rc;
    return rc;
}

static enum ast_rc open_store(struct ast_kernel *k, const struct ast_kernel_config *cfg,
                              struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(k->home, AST_HOME_STORE);
    struct ast_store_config how = { .path = path };
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "store");
    enum ast_rc rc = ast_store_open(&how, &k->store, err);
    if (rc)
        return ast_wrap(err, rc, "Failed to open KV store");
    return kernel_identity_bootstrap(k->store, cfg, err);
}

/* A file that cannot be read stops its own requests, not the daemon: tokens in it must neither be lost nor come back. */
static enum ast_rc take_over_tickets(struct ast_kernel *k, struct ast_err *err)
{
    for (unsigned kind = 0; kind < KERNEL_TICKET_KINDS; kind++) {
        struct ast_err why = AST_ERR_INIT;
        if (!kernel_tickets_import(k->store, k->home, (enum kernel_ticket_kind)kind, &why))
            continue;
        ast_log_fields(AST_LOG_ERROR, KERNEL_TARGET, "tokens of the original are not taken over",
                       AST_F_SECURITY, AST_F_CSTR("error", why.msg));
        k->ticket_trouble[kind] = ast_str_dup(ast_str_c(why.msg));
        if (!k->ticket_trouble[kind])
            return ast_fail(err, AST_E_NO_MEMORY, "tokens");
    }
    return AST_OK;
}

/* Cached native code is trusted only with our MAC; the key never leaves this home. */
static void cache_key(const struct ast_kernel *k, uint8_t out[static 32])
{
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];

    ast_key_sign(&k->runtime_key, AST_STR("astrid code cache key v1"), signature);
    ast_blake3(ast_str_n(signature, sizeof signature), out);
    ast_wipe(signature, sizeof signature);
}

static enum ast_rc open_engine(struct ast_kernel *k, unsigned workers, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *cache = ast_home_path(k->home, AST_HOME_CODE_CACHE);
    uint8_t key[32];
    if (!cache)
        return ast_fail(err, AST_E_NO_MEMORY, "engine");
    cache_key(k, key);
    struct ast_engine_config cfg = { .host = ast_host_imports(),
                                     .cache_dir = cache,
                                     .cache_key = key };
    enum ast_rc rc = ast_engine_new(&cfg, &k->engine, err);
    ast_wipe(key, sizeof key);
    return rc ? rc : ast_sched_new(k->engine, workers, &k->sched, err);
}

static bool has_listener(void *arg)
{
    struct ast_kernel *k = arg;
    return kernel_connections_any(&k->connections);
}

static enum ast_rc open_capsules(struct ast_kernel *k, const struct ast_kernel_config *cfg,
                                 struct ast_err *err)
{
    k->host = (struct ast_host){
        .home = k->home,
        .bus = k->bus,
        .store = k->store,
        .policy = k->policy,
        .sched = k->sched,
        .allowances = k->allowances,
        .approval_limit_ns = (int64_t)cfg->approval_secs * AST_NS_PER_SEC,
        .shows_claims = cfg->shows_claims,
        .depth_max = cfg->depth_max,
        .kv_value_max = cfg->kv_value_max,
        .has_listener = has_listener,
        .has_listener_arg = k,
    };
    kernel_approvals_open(k);
    struct ast_capsules_config c = {
        .host = &k->host,
        .engine = k->engine,
        .workspace = k->workspace,
        .session = k->session,
        .pool_max = cfg->pool_max,
        .blocking_max = cfg->blocking_max,
        .io_max = cfg->io_max,
    };
    return ast_capsules_new(&c, &k->capsules, err);
}

static bool was_removed(void *store, struct ast_str principal)
{
    return ast_identity_was_removed(store, principal);
}

static enum ast_rc boot_steps(struct ast_kernel *k, const struct ast_kernel_config *cfg,
                              struct ast_err *err)
{
    enum ast_rc rc = take_lock(k, err);
    if (rc)
        return rc;
    remove_runtime_file(k, AST_HOME_READY);
    kernel_sweep_leftovers(k->home);
    rc = ast_home_ensure(k->home, err);
    if (!rc)
        rc = ast_home_ensure_principal(k->home, AST_PRINCIPAL_DEFAULT, err);
    if (!rc)
        rc = open_keys(k, err);
    if (!rc)
        rc = open_store(k, cfg, err);
    if (!rc)
        rc = kernel_audit_open(k, err);
    if (!rc)
        rc = take_over_tickets(k, err);
    if (!rc)
        rc = ast_policy_open(k->home, &k->policy, err);
    if (rc)
        return rc;
    ast_policy_ask_removed(k->policy, was_removed, k->store);
    ast_policy_bootstrap(k->policy);
    rc = ast_allowances_new(k->store, &k->runtime_key, &k->allowances, err);
    if (!rc)
        rc = ast_bus_new(&k->bus, err);
    if (!rc)
        rc = open_engine(k, cfg->workers, err);
    if (!rc)
        rc = open_capsules(k, cfg, err);
    if (!rc)
        rc = kernel_loader_start(&k->loader, err);
    if (!rc)
        rc = kernel_audit_start(k, err);
    if (!rc)
        rc = kernel_turns_start(&k->admin, "ast-admin", err);
    if (!rc)
        rc = kernel_turns_start(&k->reads, "ast-reads", err);
    if (!rc)
        rc = kernel_router_start(k, &k->router, err);
    if (!rc)
        rc = kernel_monitors_start(k, &k->monitors, err);
    if (!rc && cfg->watch_capsules)
        rc = kernel_watch_start(k, &k->watch, err);
    return rc;
}

enum ast_rc ast_kernel_boot(const struct ast_kernel_config *cfg, struct ast_kernel **ret,
                            struct ast_err *err)
{
    struct ast_kernel *k = calloc(1, sizeof *k);
    if (!k)
        return ast_fail(err, AST_E_NO_MEMORY, "kernel");
    k->home = cfg->home;
    k->loop = cfg->loop;
    k->session = cfg->session;
    k->ephemeral = cfg->ephemeral;
    k->audit_fail_closed = !cfg->audit_fail_open;
    k->invite_secs = cfg->invite_secs;
    k->agents_may_install = cfg->agents_may_install;
    k->version = cfg->version;
    k->lock_fd = -1;
    k->booted_ns = ast_mono_ns();
    kernel_connections_init(&k->connections);
    kernel_limits_init(&k->limits);
    enum ast_rc rc = AST_OK;
    if (cfg->workspace && !(k->workspace = ast_str_dup(ast_str_c(cfg->workspace))))
        rc = ast_fail(err, AST_E_NO_MEMORY, "kernel");
    if (!rc)
        rc = boot_steps(k, cfg, err);
    if (rc) {
        ast_wrap(err, rc, "Failed to boot Kernel");
        ast_kernel_free(k);
        return rc;
    }
    *ret = k;
    return AST_OK;
}

struct load_job {
    struct kernel_job job;
    struct ast_kernel *k;
    struct ast_post post;
    void (*done)(void *arg);
    void *arg;
};

static void on_loaded(struct ast_post *post)
{
    struct load_job *l = AST_CONTAINER_OF(post, struct load_job, post);
    l->done(l->arg);
    free(l);
}

static void run_load(struct kernel_job *job)
{
    struct load_job *l = AST_CONTAINER_OF(job, struct load_job, job);
    struct ast_err err = AST_ERR_INIT;

    if (ast_capsules_load_all(l->k->capsules, &err))
        ast_log_error(KERNEL_TARGET, "capsule load pass failed: %s", err.msg);
    l->post.fn = on_loaded;
    ast_loop_post(l->k->loop, &l->post);
}

void ast_kernel_load_capsules(struct ast_kernel *k, void (*done)(void *arg), void *arg)
{
    struct load_job *l = calloc(1, sizeof *l);
    if (l) {
        l->k = k;
        l->done = done;
        l->arg = arg;
        l->job.run = run_load;
        if (kernel_loader_post(&k->loader, &l->job))
            return;
        free(l);
    }
    ast_log_error(KERNEL_TARGET, "capsules are not loaded: out of memory or shutting down");
    done(arg);
}

enum ast_rc ast_kernel_ready(struct ast_kernel *k, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(k->home, AST_HOME_READY);
    AST_AUTO(ast_buf_done) struct ast_buf fields = AST_BUF_INIT(256);
    AST_AUTO(ast_fs_close)
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    char session[AST_UUID_TEXT];

    if (fd < 0)
        return ast_fail_errno(err, AST_E_IO, errno,
                              "Failed to write readiness file (daemon is useless without it)");
    k->is_ready = true;
    ast_log_fields(AST_LOG_INFO, KERNEL_TARGET, "Kernel booted successfully",
                   AST_F_STR("session", ast_uuid_format(&k->session, session)),
                   AST_F_BOOL("ephemeral", k->ephemeral),
                   AST_F_I64("boot_ms", (ast_mono_ns() - k->booted_ns) / AST_NS_PER_MS));
    ast_buf_add_lit(&fields, "\"version\":");
    ast_json_quote(ast_str_c(k->version), &fields);
    publish_event(k, AST_EVENT_kernel_started, ast_buf_view(&fields));
    return AST_OK;
}

/* ---- stopping ---- */

struct stop_post {
    struct ast_post post;
    struct ast_kernel *k;
    char *reason;
};

static void on_ask_stop(struct ast_post *post)
{
    struct stop_post *s = AST_CONTAINER_OF(post, struct stop_post, post);
    struct ast_kernel *k = s->k;

    if (k->stop_reason)
        free(s->reason);
    else
        k->stop_reason = s->reason;
    free(s);
    if (k->on_stop)
        k->on_stop(k->on_stop_arg, k->stop_reason);
}

void kernel_ask_stop(struct ast_kernel *k, const char *reason)
{
    struct stop_post *s = calloc(1, sizeof *s);
    char *copy = ast_str_dup(ast_str_c(reason));

    if (!s || !copy) {
        free(s);
        free(copy);
        ast_log_error(KERNEL_TARGET, "out of memory: shutdown request is lost");
        return;
    }
    *s = (struct stop_post){ .post = { .fn = on_ask_stop }, .k = k, .reason = copy };
    ast_loop_post(k->loop, &s->post);
}

/* A request that came before anybody listened is remembered (spec 01 §16.5). */
void ast_kernel_on_stop(struct ast_kernel *k, void (*fn)(void *arg, const char *reason), void *arg)
{
    k->on_stop = fn;
    k->on_stop_arg = arg;
    if (k->stop_reason)
        fn(arg, k->stop_reason);
}

void ast_kernel_shutdown(struct ast_kernel *k, const char *reason)
{
    AST_AUTO(ast_buf_done) struct ast_buf fields = AST_BUF_INIT(2048);

    ast_log_info(KERNEL_TARGET, "Kernel shutting down reason=%s", reason);
    ast_buf_add_lit(&fields, "\"reason\":");
    ast_json_quote(ast_str_c(reason), &fields);
    publish_event(k, AST_EVENT_kernel_shutdown, ast_buf_view(&fields));
    ast_capsules_drain(k->capsules, SHUTDOWN_EVENT_WAIT_MS);
}

void ast_kernel_free(struct ast_kernel *k)
{
    if (!k)
        return;
    bool was_ready = k->is_ready;

    kernel_router_stop(k->router);
    if (k->capsules)
        ast_capsules_cancel_hooks(k->capsules); /* one may be waiting for a person */
    kernel_turns_stop(&k->admin);
    kernel_turns_stop(&k->reads);
    kernel_loader_stop(&k->loader);
    ast_loop_flush(k->loop); /* also before the log goes: anchor jobs are done */
    kernel_audit_stop(k);
    ast_loop_flush(k->loop); /* what the loader posted still points to us */
    kernel_watch_stop(k->watch);
    kernel_monitors_stop(k->monitors);
    ast_capsules_free(k->capsules);
    ast_sched_free(k->sched);
    kernel_approvals_done(k);
    ast_engine_free(k->engine);
    ast_bus_free(k->bus);
    ast_policy_close(k->policy);
    ast_store_close(k->store);
    ast_allowances_free(k->allowances);
    if (k->has_token)
        remove_runtime_file(k, AST_HOME_TOKEN);
    if (k->is_ready)
        remove_runtime_file(k, AST_HOME_READY);
    ast_key_done(&k->runtime_key);
    ast_wipe(&k->token, sizeof k->token);
    kernel_loader_done(&k->loader);
    kernel_limits_done(&k->limits);
    kernel_connections_done(&k->connections);
    if (was_ready)
        ast_log_info(KERNEL_TARGET, "Kernel shutdown complete");
    if (k->lock_fd >= 0)
        close(k->lock_fd);
    for (unsigned kind = 0; kind < KERNEL_TICKET_KINDS; kind++)
        free(k->ticket_trouble[kind]);
    free(k->stop_reason);
    free(k->workspace);
    free(k);
}

struct ast_host *ast_kernel_host(struct ast_kernel *k)
{
    return &k->host;
}

struct ast_capsules *ast_kernel_capsules(struct ast_kernel *k)
{
    return k->capsules;
}

const struct ast_session_token *ast_kernel_token(struct ast_kernel *k)
{
    return &k->token;
}

const char *ast_kernel_version(struct ast_kernel *k)
{
    return k->version;
}
