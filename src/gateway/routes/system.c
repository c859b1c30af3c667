/* The daemon's status and its capsules, as the kernel tells them (spec 03 §17, §19). */
#include "gateway/gateway_priv.h"

#include "base/banned.h"

#define BODY_MAX 16777216u

static void reply_status(struct gw_call *call, const struct ast_json *data)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(BODY_MAX);
    if (ast_json_type(data) != AST_JSON_OBJECT) {
        gw_reply_internal(call, "the kernel's status is no object");
        return;
    }
    (void)ast_json_compact(data, &body); /* a failure is sticky */
    gw_reply_json(call, &body);
}

void gw_get_status(struct gw_call *call)
{
    gw_ask(call, AST_STR("GetStatus"), AST_STR("Status"), reply_status);
}

static void reply_capsules(struct gw_call *call, const struct ast_json *data)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(BODY_MAX);
    if (ast_json_type(data) != AST_JSON_ARRAY) {
        gw_reply_internal(call, "the kernel's list of capsules is no array");
        return;
    }
    struct ast_jw w = AST_JW_INIT(&body);
    ast_jw_object(&w);
    ast_jw_key(&w, AST_STR("capsules"));
    ast_jw_value(&w, data);
    ast_jw_end(&w);
    gw_reply_json(call, &body);
}

void gw_list_capsules(struct gw_call *call)
{
    gw_ask(call, AST_STR("ListCapsules"), AST_STR("Success"), reply_capsules);
}
