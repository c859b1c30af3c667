/* The route table (spec 03 §10) and the way of a request to its row: CORS, path, bearer, method, handler. */
#include "gateway/gateway_priv.h"

#include <stdio.h>

#include "base/time.h"

#include "base/banned.h"

#define GET    GW_METHOD_GET
#define POST   GW_METHOD_POST
#define PUT    GW_METHOD_PUT
#define PATCH  GW_METHOD_PATCH
#define DELETE GW_METHOD_DELETE
#define PUB    GW_PUBLIC
#define BEAR   GW_BEARER

/* In the order of the specification. Rows of one path agree in `auth`. A row without handler is answered 501.
 * method, path, auth, probe, body, handler, summary */
/* clang-format off */
const struct gw_route gw_routes[] = {
    { GET,    "/api/distribution",                PUB,  false, false, gw_get_distribution, "Distribution metadata" },
    { GET,    "/api/distribution/onboarding",     PUB,  false, false, gw_get_onboarding, "Onboarding fields" },
    { POST,   "/api/auth/redeem",                 PUB,  false, true,  NULL,             "Redeem an invite" },
    { POST,   "/api/auth/pair-device/redeem",     PUB,  false, true,  NULL,             "Redeem a pair token" },
    { GET,    "/healthz",                         PUB,  true,  false, gw_get_healthz,   "Liveness probe" },
    { GET,    "/metrics",                         PUB,  true,  false, gw_get_metrics,   "Prometheus metrics" },
    { GET,    "/api/openapi.json",                PUB,  false, false, NULL,             "This API as OpenAPI" },
    { GET,    "/api/auth/me",                     BEAR, false, false, gw_get_me,        "Who the bearer is" },
    { POST,   "/api/auth/refresh",                BEAR, false, false, gw_post_refresh,  "A fresh bearer" },
    { POST,   "/api/auth/pair-device",            BEAR, false, true,  NULL,             "Issue a pair token" },
    { GET,    "/api/sys/principals",              BEAR, false, false, NULL,             "List principals" },
    { POST,   "/api/sys/principals",              BEAR, false, true,  NULL,             "Create a principal" },
    { GET,    "/api/sys/principals/{id}",         BEAR, false, false, NULL,             "One principal" },
    { PATCH,  "/api/sys/principals/{id}",         BEAR, false, true,  NULL,             "Change a principal's groups" },
    { DELETE, "/api/sys/principals/{id}",         BEAR, false, false, NULL,             "Delete a principal" },
    { POST,   "/api/sys/principals/{id}/enable",  BEAR, false, false, NULL,             "Enable a principal" },
    { POST,   "/api/sys/principals/{id}/disable", BEAR, false, false, NULL,             "Disable a principal" },
    { POST,   "/api/sys/principals/{id}/caps",    BEAR, false, true,  NULL,             "Grant capabilities" },
    { DELETE, "/api/sys/principals/{id}/caps",    BEAR, false, true,  NULL,             "Revoke capabilities" },
    { GET,    "/api/sys/principals/{id}/quotas",  BEAR, false, false, NULL,             "Read quotas" },
    { PUT,    "/api/sys/principals/{id}/quotas",  BEAR, false, true,  NULL,             "Set quotas" },
    { GET,    "/api/sys/principals/{id}/usage",   BEAR, false, false, NULL,             "Resource usage" },
    { GET,    "/api/sys/groups",                  BEAR, false, false, NULL,             "List groups" },
    { POST,   "/api/sys/groups",                  BEAR, false, true,  NULL,             "Create a group" },
    { PATCH,  "/api/sys/groups/{name}",           BEAR, false, true,  NULL,             "Change a group" },
    { DELETE, "/api/sys/groups/{name}",           BEAR, false, false, NULL,             "Delete a group" },
    { POST,   "/api/sys/invites",                 BEAR, false, true,  NULL,             "Issue an invite" },
    { GET,    "/api/sys/invites",                 BEAR, false, false, NULL,             "List invites" },
    { DELETE, "/api/sys/invites/{fingerprint}",   BEAR, false, false, NULL,             "Revoke an invite" },
    { GET,    "/api/sys/capabilities",            BEAR, false, false, NULL,             "Capability catalog" },
    { GET,    "/api/capsules",                    BEAR, false, false, gw_list_capsules, "List capsules" },
    { POST,   "/api/capsules",                    BEAR, false, true,  gw_install_capsule, "Install a capsule" },
    { GET,    "/api/capsules/{id}",               BEAR, false, false, gw_get_capsule, "One capsule" },
    { GET,    "/api/capsules/{id}/topics",        BEAR, false, false, gw_get_topics, "Topics of a capsule" },
    { GET,    "/api/capsules/{id}/env",           BEAR, false, false, gw_get_env, "Env schema of a capsule" },
    { POST,   "/api/capsules/{id}/env/{field}",   BEAR, false, true,  gw_post_env, "Set an env value" },
    { GET,    "/api/events",                      BEAR, false, false, gw_get_events,         "Live audit, as SSE" },
    { GET,    "/api/sys/audit",                   BEAR, false, false, gw_get_audit,         "Audit history" },
    { POST,   "/api/agent/prompt",                BEAR, false, true,  gw_post_prompt,   "Prompt an agent, as SSE" },
    { GET,    "/api/sys/status",                  BEAR, false, false, gw_get_status,    "Daemon status" },
    { POST,   "/api/sys/capsules/reload",         BEAR, false, false, gw_reload_capsules, "Reload capsules" },
    /* Ours, beside the 41 of the specification. */
    { POST,   "/api/agent/elicit-response",       BEAR, false, true,  gw_post_elicit_response, "Answer a capsule's question" },
    { GET,    "/api/sys/readiness",               BEAR, false, false, gw_get_readiness, "Whether the daemon serves yet" },
};
/* clang-format on */
const size_t gw_route_count = AST_ARRAY_LEN(gw_routes);
_Static_assert(AST_ARRAY_LEN(gw_routes) <= GW_ROUTES_MAX, "GW_ROUTES_MAX");

static struct ast_str allowed_origin(const struct ast_gateway *g, const struct gw_request *r)
{
    struct ast_str sent;
    if (!g->cfg.origins.n || !gw_request_field(r, AST_STR("origin"), &sent))
        return AST_STR_NONE;
    ast_vec_each (&g->cfg.origins, origin)
        if (ast_str_eq(*origin, sent))
            return *origin;
    return AST_STR_NONE;
}

static bool serves(const struct gw_route *row, enum gw_method method)
{
    return row->method == method || (row->method == GW_METHOD_GET && method == GW_METHOD_HEAD);
}

/* The row that answers; without one for the method, *ret_path is some row of the path and `allow` lists its methods. */
static const struct gw_route *find(const struct gw_request *r, struct gw_params *params,
                                   const struct gw_route **ret_path, char allow[static 64])
{
    size_t n = 0;
    allow[0] = 0;
    *ret_path = NULL;
    for (size_t i = 0; i < gw_route_count; i++) {
        const struct gw_route *row = &gw_routes[i];
        if (!gw_path_match(ast_str_c(row->path), r->path, params))
            continue;
        *ret_path = row;
        if (serves(row, r->method))
            return row;
        int wrote = snprintf(allow + n, 64 - n, "%s%s%s", n ? "," : "", gw_method_name(row->method),
                             row->method == GW_METHOD_GET ? ",HEAD" : "");
        n += wrote > 0 ? (size_t)wrote : 0;
    }
    return NULL;
}

static bool authenticate(struct gw_call *call, const struct gw_request *r)
{
    struct ast_str authorization;
    if (gw_request_field(r, AST_STR("authorization"), &authorization) &&
        gw_bearers_check(call->g->bearers, authorization, ast_wall_secs(), &call->bearer))
        return true;
    ast_metric_add(call->g->auth_failures, 1);
    return false;
}

void gw_dispatch(void *arg, struct gw_exchange *ex)
{
    struct ast_gateway *g = arg;
    const struct gw_request *r = gw_exchange_request(ex);
    struct gw_call call = { .g = g, .ex = ex, .method = r->method, .origin = allowed_origin(g, r) };
    if (g->cfg.origins.n && r->method == GW_METHOD_OPTIONS) {
        gw_reply_preflight(g, ex, call.origin);
        return;
    }
    char allow[64];
    const struct gw_route *row = find(r, &call.params, &call.route, allow);
    if (!call.route) {
        gw_reply(&call, 404, AST_STR_NONE, AST_STR_NONE);
        return;
    }
    bool is_known = call.route->auth == GW_PUBLIC || authenticate(&call, r);
    if (!row) {
        if (is_known)
            gw_reply_allow(&call, 405, ast_str_c(allow), AST_STR_NONE);
        else
            gw_reply_allow(&call, 401, ast_str_c(allow), AST_STR("{\"error\":\"unauthorized\"}"));
        return;
    }
    call.route = row;
    if (!is_known)
        gw_reply_unauthorized(&call);
    else if (!row->handle)
        gw_reply_not_implemented(&call);
    else if (row->reads_body && r->body_too_large)
        gw_reply_bad_request(&call, "body read: length limit exceeded");
    else
        row->handle(&call);
}
