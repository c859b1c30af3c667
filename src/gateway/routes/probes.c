/* Probes: is the daemon's socket there, and the metrics (spec 03 §24). Public. */
#include "base/fs.h"
#include "gateway/gateway_priv.h"

#include "base/banned.h"

#define METRICS_MAX 16777216u

void gw_get_healthz(struct gw_call *call)
{
    bool is_up = ast_fs_exists(call->g->socket_path);
    gw_reply(call, is_up ? 200 : 503, AST_STR("text/plain; charset=utf-8"),
             is_up ? AST_STR("ok\n") : AST_STR("daemon socket unreachable\n"));
}

void gw_get_metrics(struct gw_call *call)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(METRICS_MAX);
    if (ast_metrics_render(&text))
        gw_reply_internal(call, "the metrics are too large");
    else
        gw_reply(call, 200, AST_STR("text/plain; version=0.0.4; charset=utf-8"),
                 ast_buf_view(&text));
}
