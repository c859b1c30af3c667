/* What prompt streams and event streams have in common: their bearer, its end, the comment that says we are alive. */
#include "gateway/gateway_priv.h"

#include "base/time.h"
#include "host/env.h"

#include "base/banned.h"

static int64_t expiry_ns(const struct ast_bearer *bearer, int64_t now_ns)
{
    uint64_t now = ast_wall_secs(), left = bearer->expires_at > now ? bearer->expires_at - now : 0;
    int64_t ns;
    if (left > INT64_MAX || __builtin_mul_overflow((int64_t)left, AST_NS_PER_SEC, &ns) ||
        __builtin_add_overflow(ns, now_ns, &ns))
        return INT64_MAX;
    return ns;
}

void gw_stream_init(struct gw_stream *s, const struct gw_call *call)
{
    s->g = call->g;
    s->ex = gw_exchange_ref(call->ex);
    s->bearer = call->bearer;
    s->spoke_ns = ast_mono_ns();
    s->expires_ns = expiry_ns(&s->bearer, s->spoke_ns);
    ast_list_init(&s->link);
}

void gw_stream_list(struct gw_stream *s)
{
    AST_WITH_LOCK(&s->g->streams_lock);
    ast_list_push_back(&s->g->streams, &s->link);
    s->is_listed = true;
}

void gw_stream_done(struct gw_stream *s)
{
    if (s->is_listed) {
        AST_WITH_LOCK(&s->g->streams_lock);
        ast_list_remove(&s->link);
    }
    gw_exchange_unref(s->ex);
}

void gw_streams_revoke(struct ast_gateway *g, struct ast_str principal, uint64_t epoch_secs)
{
    /* Woken under the lock: a stream leaves the list, under it, before it goes. */
    AST_WITH_LOCK(&g->streams_lock);
    ast_list_each (&g->streams, it) {
        struct gw_stream *s = AST_CONTAINER_OF(it, struct gw_stream, link);
        if (!ast_str_eq(ast_principal_str(&s->bearer.principal), principal) ||
            s->bearer.issued_at > epoch_secs)
            continue;
        atomic_store(&s->is_revoked, true);
        gw_exchange_wake(s->ex);
    }
}

void gw_streams_wake(struct ast_gateway *g, struct ast_str principal)
{
    AST_WITH_LOCK(&g->streams_lock);
    ast_list_each (&g->streams, it) {
        struct gw_stream *s = AST_CONTAINER_OF(it, struct gw_stream, link);
        if (ast_str_eq(ast_principal_str(&s->bearer.principal), principal))
            gw_exchange_wake(s->ex);
    }
}

bool gw_is_disabled(const struct ast_gateway *g, struct ast_str principal)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
    return ast_policy_profile(g->host->policy, principal, &profile, NULL) ||
           (profile->exists && !profile->enabled);
}

bool gw_stream_is_over(const struct gw_stream *s, int64_t now_ns)
{
    return atomic_load(&s->is_revoked) || now_ns >= s->expires_ns ||
           gw_is_disabled(s->g, ast_principal_str(&s->bearer.principal));
}

void gw_stream_keep_alive(struct gw_stream *s, int64_t now_ns, struct ast_buf *out,
                          int64_t *ret_next_ns)
{
    int64_t quiet_ns = (int64_t)s->g->cfg.keep_alive_secs * AST_NS_PER_SEC;
    if (!out->n && now_ns - s->spoke_ns >= quiet_ns)
        (void)ast_buf_add_lit(out, ": keep-alive\n\n");
    if (out->n)
        s->spoke_ns = now_ns;
    *ret_next_ns = AST_MIN(s->spoke_ns + quiet_ns, s->expires_ns);
}
