/* GET /api/sys/readiness: whether the daemon serves yet, for who waits for it. Ours; a bearer is enough.
 *
 * 200 once the readiness file and the socket are there, else 503, with the same members.
 */
#include "base/fs.h"
#include "gateway/gateway_priv.h"

#include "base/banned.h"

void gw_get_readiness(struct gw_call *call)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(1024);
    struct ast_gateway *g = call->g;
    bool has_socket = ast_fs_exists(g->socket_path), is_ready = ast_fs_exists(g->ready_path);
    uint64_t loaded, failed;
    ast_kernel_capsule_count(g->kernel, &loaded, &failed);
    struct ast_jw w = AST_JW_INIT(&body);
    ast_jw_object(&w);
    ast_jw_kv_bool(&w, "ready", is_ready && has_socket);
    ast_jw_kv_bool(&w, "socket", has_socket);
    ast_jw_kv_u64(&w, "capsules_loaded", loaded);
    ast_jw_kv_u64(&w, "capsules_failed", failed);
    ast_jw_end(&w);
    gw_reply(call, is_ready && has_socket ? 200 : 503, AST_STR("application/json"),
             ast_buf_view(&body));
}
