/* Sessions: who a bearer is, and a fresh one (spec 03 §11.2, §11.3). */
#include "base/time.h"
#include "gateway/gateway_priv.h"
#include "host/env.h"

#include "base/banned.h"

bool gw_caller_enabled(const struct gw_call *call)
{
    /* Cached by the policy room; a miss reads one small file. */
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
    return !ast_policy_profile(call->g->host->policy, ast_principal_str(&call->bearer.principal),
                               &profile, NULL) &&
           profile->exists && profile->enabled;
}

void gw_get_me(struct gw_call *call)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(1024);
    struct ast_jw w = AST_JW_INIT(&body);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "principal", ast_principal_str(&call->bearer.principal));
    ast_jw_kv_u64(&w, "expires_at_epoch", call->bearer.expires_at);
    ast_jw_end(&w);
    gw_reply_json(call, &body);
}

void gw_post_refresh(struct gw_call *call)
{
    struct ast_gateway *g = call->g;
    struct ast_err err = AST_ERR_INIT;
    struct ast_str principal = ast_principal_str(&call->bearer.principal);
    uint64_t now = ast_wall_secs(), expires;
    AST_AUTO(ast_buf_done) struct ast_buf token = AST_BUF_INIT(AST_BEARER_MAX);
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(1024);
    if (!gw_caller_enabled(call)) {
        ast_metric_add(g->auth_failures, 1);
        gw_reply_unauthorized(call);
        return;
    }
    if (ast_bearer_mint(&g->key, principal, now, g->cfg.session_lifetime_secs, &token, &err)) {
        gw_reply_internal(call, err.msg);
        return;
    }
    if (__builtin_add_overflow(now, g->cfg.session_lifetime_secs, &expires))
        expires = UINT64_MAX;
    struct ast_jw w = AST_JW_INIT(&body);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "principal", principal);
    ast_jw_kv_string(&w, "session_token", ast_buf_view(&token));
    ast_jw_kv_u64(&w, "session_expires_at_epoch", expires);
    ast_jw_end(&w);
    gw_reply_json(call, &body);
}
