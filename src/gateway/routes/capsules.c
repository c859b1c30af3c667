/* Capsules over HTTP: install, one, its topics, reload (spec 03 §17, §19). */
#include "gateway/body_priv.h"
#include "gateway/gateway_priv.h"
#include "kernel/kernel.h"

#include "base/banned.h"

#define BODY_MAX 16777216u
/* An install may compile and may ask people; it goes on in any case, so its client gets to hear how it ended. */
#define INSTALL_SECS 300u

static void reply_data(struct gw_call *call, const struct ast_json *data)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(BODY_MAX);
    (void)ast_json_compact(data, &body); /* a failure is sticky */
    gw_reply_json(call, &body);
}

static void reply_nothing(struct gw_call *call, const struct ast_json *data)
{
    (void)data;
    gw_reply(call, 204, AST_STR_NONE, AST_STR_NONE);
}

/* --- Install ------------------------------------------------------------------------------- */

static enum ast_rc read_install(const struct ast_json *root, struct ast_buf *params,
                                struct ast_err *err)
{
    struct ast_str source;
    const struct ast_json *flag = NULL;
    bool workspace = false;
    enum ast_rc rc = gw_body_string(root, AST_STR("source"), &source, err);
    if (!rc)
        rc = gw_body_member(root, AST_STR("workspace"), &flag, err);
    if (!rc && flag && !ast_json_bool(flag, &workspace))
        rc = ast_fail(err, AST_E_INVALID, "workspace: expected a boolean, found %s",
                      ast_json_type_name(flag));
    if (rc)
        return rc;
    struct ast_jw w = AST_JW_INIT(params);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "source", source);
    ast_jw_kv_bool(&w, "workspace", workspace);
    ast_jw_end(&w);
    return ast_buf_check(params, "request", err);
}

void gw_install_capsule(struct gw_call *call)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf params = AST_BUF_INIT(8 * AST_GATEWAY_BODY_BYTES);
    struct ast_err err = AST_ERR_INIT;
    if (!gw_body_object(call, &doc))
        return;
    if (read_install(ast_json_root(doc), &params, &err))
        gw_reply_bad_request(call, "invalid JSON: %s", err.msg);
    else
        gw_ask_more(call, &(struct gw_request_to_kernel){ .method = AST_STR("InstallCapsule"),
                                                          .params = ast_buf_view(&params),
                                                          .expected = AST_STR("Success"),
                                                          .limit_secs = INSTALL_SECS,
                                                          .ok = reply_data });
}

void gw_reload_capsules(struct gw_call *call)
{
    gw_ask_more(call, &(struct gw_request_to_kernel){ .method = AST_STR("ReloadCapsules"),
                                                      .expected = AST_STR("Success"),
                                                      .limit_secs = INSTALL_SECS,
                                                      .ok = reply_nothing });
}

/* --- One ----------------------------------------------------------------------------------- */

/* The path's parameter, decoded; false: a 400 was sent. */
static bool read_id(struct gw_call *call, struct ast_buf *out)
{
    struct ast_err err = AST_ERR_INIT;
    if (!gw_path_decode(call->params.v[0], out, &err))
        return true;
    gw_reply_bad_request(call, "%s", err.msg);
    return false;
}

static void reply_one(struct gw_call *call, const struct ast_json *data)
{
    AST_AUTO(ast_buf_done) struct ast_buf id = AST_BUF_INIT(AST_GATEWAY_HEAD_BYTES);
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(BODY_MAX);
    struct ast_json_iter it = AST_JSON_ITER(data);
    const struct ast_json *one, *found = NULL;
    struct ast_str unused;
    if (!read_id(call, &id))
        return;
    while (!found && ast_json_next(&it, &unused, &one))
        if (ast_str_eq(ast_json_str_or(one, AST_STR("name"), AST_STR_NONE), ast_buf_view(&id)))
            found = one;
    if (!found) {
        gw_reply_not_found(call);
        return;
    }
    struct ast_jw w = AST_JW_INIT(&body);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "id", ast_buf_view(&id));
    ast_jw_key(&w, AST_STR("interceptor_events"));
    ast_jw_value(&w, ast_json_member(found, "interceptor_events"));
    ast_jw_end(&w);
    gw_reply_json(call, &body);
}

void gw_get_capsule(struct gw_call *call)
{
    gw_ask_more(call, &(struct gw_request_to_kernel){ .method = AST_STR("GetCapsuleMetadata"),
                                                      .expected = AST_STR("CapsuleMetadata"),
                                                      .ok = reply_one });
}

/* Any bearer, any id: an unknown capsule has no topics (spec 03 §17). */
void gw_get_topics(struct gw_call *call)
{
    AST_AUTO(ast_buf_done) struct ast_buf id = AST_BUF_INIT(AST_GATEWAY_HEAD_BYTES);
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(BODY_MAX);
    if (!read_id(call, &id))
        return;
    struct ast_jw w = AST_JW_INIT(&body);
    ast_jw_object(&w);
    ast_jw_key(&w, AST_STR("topics"));
    ast_kernel_capsule_topics(call->g->kernel, ast_buf_view(&id), &w);
    ast_jw_end(&w);
    gw_reply_json(call, &body);
}
