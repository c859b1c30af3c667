/* The gateway as a part of the daemon: its state, its start, its end (spec 03 §3, §8.3).
 *
 * Order: configuration, signing key, revocations, watcher, listener. State that cannot be built is an error before
 * the daemon is ready; a listener that cannot be had leaves the daemon without a gateway.
 */
#include "gateway/elicit_priv.h"
#include "gateway/feed_priv.h"
#include "gateway/gateway_priv.h"

#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "crypto/secret.h"
#include "host/env.h"

#include "base/banned.h"

#define SECURITY_FIELDS                                                                            \
    "x-content-type-options: nosniff\r\n"                                                          \
    "x-frame-options: DENY\r\n"                                                                    \
    "referrer-policy: no-referrer\r\n"                                                             \
    "content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"
#define HSTS_FIELD "strict-transport-security: max-age=63072000; includeSubDomains\r\n"

/* --- Revocation (spec 03 §8.3) ------------------------------------------------------------- */

/* Runs on the publisher's thread, so a bearer is dead before the delete is answered. */
static void on_audit_entry(void *arg, struct ast_msg *msg)
{
    struct ast_gateway *g = arg;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    if (ast_str_find(msg->body, AST_STR("gent.delete")) == AST_STR_NPOS &&
        ast_str_find(msg->body, AST_STR("gent.disable")) == AST_STR_NPOS &&
        ast_str_find(msg->body, AST_STR("AgentDelete")) == AST_STR_NPOS)
        return;
    if (ast_json_parse(msg->body, &doc, NULL))
        return;
    const struct ast_json *root = ast_json_root(doc);
    struct ast_str method = ast_json_str_or(root, AST_STR("method"), AST_STR_NONE);
    struct ast_str outcome = ast_json_str_or(root, AST_STR("outcome"), AST_STR_NONE);
    struct ast_str target = ast_json_str_or(root, AST_STR("target_principal"), AST_STR_NONE);
    if (ast_str_is(method, "admin.agent.disable") && !msg->publisher.n)
        gw_streams_wake(g, target); /* they look for themselves whether they may go on */
    bool is_delete = ast_str_is(method, "admin.agent.delete") || ast_str_is(method, "AgentDelete");
    /* The kernel and nobody else may revoke; `default` cannot be deleted. */
    if (!is_delete || !ast_str_is(outcome, "success") || msg->publisher.n ||
        !ast_principal_valid(target) || ast_str_eq(target, AST_PRINCIPAL_DEFAULT))
        return;
    uint64_t epoch_secs;
    if (!ast_json_u64(ast_json_member(root, "ts_epoch"), &epoch_secs))
        epoch_secs = ast_wall_secs();
    if (!gw_revocations_add(g->revocations, target, epoch_secs))
        return;
    ast_log_fields(AST_LOG_INFO, "gateway", "bearer revocation recorded",
                   AST_F_STR("principal", target), AST_F_U64("revoked_at_epoch", epoch_secs));
    gw_streams_revoke(g, target, epoch_secs);
}

/* --- State --------------------------------------------------------------------------------- */

static enum ast_rc make_labels(struct ast_gateway *g, struct ast_err *err)
{
    for (size_t i = 0; i < gw_route_count; i++) {
        AST_AUTO(ast_buf_done) struct ast_buf label = AST_BUF_INIT(256);
        (void)gw_path_label(ast_str_c(gw_routes[i].path), &label);
        g->labels[i] = label.fail ? NULL : ast_buf_steal(&label);
        if (!g->labels[i])
            return ast_fail(err, AST_E_NO_MEMORY, "route labels");
    }
    return AST_OK;
}

/* The commit and the compiler are counted by the daemon. */
static void count_from_the_start(struct ast_gateway *g)
{
    /* Present at 0 from the start (spec 03 §25.1). */
    g->auth_failures = ast_metric_cell(AST_METRIC_GATEWAY_AUTH_FAILURES, NULL, 0);
    (void)ast_metric_cell(AST_METRIC_GATEWAY_REDEEM_ATTEMPTS, NULL, 0);
    (void)ast_metric_cell(AST_METRIC_GATEWAY_REDEEM_LIMITED, NULL, 0);
}

static enum ast_rc build_state(struct ast_gateway *g, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *key_path = ast_home_path(g->home, "%s", AST_HOME_GATEWAY_KEY);
    AST_AUTO(ast_cfree) char *map_path = ast_home_path(g->home, "etc/gateway-revocations.json");
    g->socket_path = ast_home_path(g->home, "%s", AST_HOME_SOCKET);
    g->ready_path = ast_home_path(g->home, "%s", AST_HOME_READY);
    ast_random(g->fingerprint_key, sizeof g->fingerprint_key);
    if (!key_path || !map_path || !g->socket_path || !g->ready_path)
        return ast_fail(err, AST_E_NO_MEMORY, "gateway");
    enum ast_rc rc = make_labels(g, err);
    if (!rc)
        rc = gw_distro_load(g->cfg.distro_path, &g->distro, err);
    if (!rc)
        rc = ast_key_load_or_create(key_path, "gateway signing key", &g->key, err);
    if (!rc && g->key.was_exposed)
        ast_log_warn("gateway", "others could read %s, its mode is 0600 now", key_path);
    if (!rc)
        rc = gw_revocations_open(map_path, &g->revocations, err);
    if (!rc)
        rc = gw_bearers_new(&g->key, g->revocations, &g->bearers, err);
    if (!rc)
        rc = ast_tap_open(g->host->bus, "revocation_watcher", AST_STR("astrid.v1.audit.entry"),
                          on_audit_entry, g, &g->watcher, err);
    if (!rc)
        rc = gw_questions_open(g->host->bus,
                               g->host->elicit_limit_ns ? g->host->elicit_limit_ns
                                                        : AST_GATEWAY_ELICIT_SECS * AST_NS_PER_SEC,
                               &g->questions, err);
    if (!rc)
        rc = gw_feed_open(g->kernel, /* behind= */ 0, /* ring= */ 0, &g->feed, err);
    if (!rc)
        rc = gw_worker_start(&g->disk, "gateway-disk", err);
    return rc;
}

static enum ast_rc listen_and_serve(struct ast_gateway *g, struct ast_err *err)
{
    const struct gw_config *cfg = &g->cfg;
    struct gw_http_config http = {
        .tls_cert_path = cfg->has_tls ? cfg->tls_cert_path.p : NULL,
        .tls_key_path = cfg->has_tls ? cfg->tls_key_path.p : NULL,
        .fixed_fields =
            cfg->has_tls ? AST_STR(SECURITY_FIELDS HSTS_FIELD) : AST_STR(SECURITY_FIELDS),
        .on_request = gw_dispatch,
        .arg = g,
    };
    http.connections = cfg->max_connections;
    enum ast_rc rc = gw_address_parse(cfg->listen, &http.listen, err);
    if (!rc)
        rc = gw_http_start(&http, &g->http, err);
    if (rc)
        return rc;
    if (!cfg->has_tls && !http.listen.is_loopback)
        ast_log_warn("gateway",
                     "plain HTTP on " AST_STR_FMT
                     ": a proxy that terminates TLS must stand in front of it",
                     AST_STR_ARG(cfg->listen));
    ast_log_info("gateway", "astrid-gateway listening%s addr=" AST_STR_FMT " port=%u scheme=%s",
                 cfg->has_tls ? " (TLS)" : "", AST_STR_ARG(cfg->listen), gw_http_port(g->http),
                 cfg->has_tls ? "https" : "http");
    return AST_OK;
}

/* --- Start and stop ------------------------------------------------------------------------ */

void ast_gateway_stop(struct ast_gateway *g)
{
    if (!g)
        return;
    gw_http_stop(g->http);
    gw_worker_stop(&g->disk);
    gw_feed_close(g->feed);
    gw_questions_close(g->questions);
    gw_distro_done(&g->distro);
    ast_tap_close(g->watcher);
    gw_bearers_free(g->bearers);
    gw_revocations_close(g->revocations);
    ast_key_done(&g->key);
    gw_config_done(&g->cfg);
    for (size_t i = 0; i < gw_route_count; i++)
        free(g->labels[i]);
    ast_lock_done(&g->streams_lock);
    free(g->socket_path);
    free(g->ready_path);
    free(g);
}
AST_DEFINE_AUTO(struct ast_gateway, ast_gateway_stop)

/* False: no gateway is wanted, or its file is no good, which was logged. */
static bool wanted(const char *path, struct gw_config *ret)
{
    struct ast_err err = AST_ERR_INIT;
    enum ast_rc rc = gw_config_load(path, ret, &err);
    if (rc == AST_E_NOT_FOUND)
        return false;
    if (rc) {
        /* differs: an error, not a warning; the operator asked for a door that stays shut (spec 03 §3 GAP) */
        ast_log_fields(AST_LOG_ERROR, "gateway",
                       "failed to load gateway config; gateway not started",
                       AST_F_CSTR("error", err.msg));
        return false;
    }
    if (!ret->enabled)
        ast_log_debug("gateway", "astrid-gateway config present but disabled — skipping");
    return ret->enabled;
}

enum ast_rc ast_gateway_start(struct ast_kernel *k, struct ast_gateway **ret, struct ast_err *err)
{
    struct ast_host *host = ast_kernel_host(k);
    AST_AUTO(ast_cfree) char *path = ast_home_path(host->home, "%s", AST_HOME_GATEWAY_CONFIG);
    struct ast_gateway *fresh = calloc(1, sizeof *fresh);
    if (!path || !fresh) {
        free(fresh);
        return ast_fail(err, AST_E_NO_MEMORY, "gateway");
    }
    ast_lock_init(&fresh->streams_lock, AST_LOCK_session);
    ast_list_init(&fresh->streams);
    fresh->kernel = k;
    fresh->host = host;
    fresh->home = host->home;
    AST_AUTO(ast_gateway_stop) struct ast_gateway *g = fresh;
    *ret = NULL;
    if (!wanted(path, &g->cfg))
        return AST_OK;
    count_from_the_start(g);
    enum ast_rc rc = build_state(g, err);
    if (rc)
        return ast_wrap(err, rc, "gateway");
    struct ast_err why = AST_ERR_INIT;
    if (listen_and_serve(g, &why)) {
        ast_log_fields(AST_LOG_ERROR, "gateway", "astrid-gateway exited with error",
                       AST_F_CSTR("error", why.msg), AST_F_STR("listen", g->cfg.listen));
        return AST_OK;
    }
    *ret = ast_steal(&g);
    return AST_OK;
}

struct reload {
    struct gw_job job;
    struct ast_gateway *g;
    struct gw_http *http; /* owned reference: the job may come after the stop */
};

static void reload_free(struct reload *r)
{
    gw_http_unref(r->http);
    free(r);
}

static void run_reload(struct gw_job *job)
{
    struct reload *r = AST_CONTAINER_OF(job, struct reload, job);
    const struct gw_config *cfg = &r->g->cfg;
    struct ast_err err = AST_ERR_INIT;
    if (gw_http_reload_tls(r->http, &err))
        ast_log_fields(AST_LOG_ERROR, "gateway",
                       "TLS certificate not reloaded, the old one stays in use",
                       AST_F_CSTR("error", err.msg));
    else
        ast_log_fields(AST_LOG_INFO, "gateway", "TLS certificate reloaded",
                       AST_F_STR("cert", cfg->tls_cert_path));
    reload_free(r);
}

void ast_gateway_reload(struct ast_gateway *g)
{
    if (!g || !g->cfg.has_tls)
        return;
    struct reload *r = calloc(1, sizeof *r);
    if (!r) {
        ast_log_error("gateway", "TLS certificate not reloaded: out of memory");
        return;
    }
    *r = (struct reload){ .job.run = run_reload, .g = g, .http = gw_http_ref(g->http) };
    if (!gw_worker_post(&g->disk, &r->job))
        reload_free(r);
}

unsigned ast_gateway_port(const struct ast_gateway *g)
{
    return gw_http_port(g->http);
}
