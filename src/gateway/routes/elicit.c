/* POST /api/agent/elicit-response: the answer to a capsule's question (spec 03 §22.4 GAP).
 *
 * Who may answer: the principal that the question was asked for, or, when it was asked for nobody in particular, whoever may
 * install capsules; in both cases the asking side wants capsule:install (spec 05 §11). Others' questions look as if they
 * were not there. The first answer counts.
 */
#include "gateway/body_priv.h"
#include "gateway/elicit_priv.h"
#include "gateway/gateway_priv.h"
#include "host/env.h"

#include "base/banned.h"

struct answer {
    struct ast_str id_text;
    struct ast_uuid id;
    const struct ast_json *value, *values; /* NULL: not given; neither: cancelled */
};

static enum ast_rc check_values(const struct ast_json *values, struct ast_err *err)
{
    struct ast_json_iter it = AST_JSON_ITER(values);
    const struct ast_json *v;
    struct ast_str unused, text;
    if (ast_json_type(values) != AST_JSON_ARRAY)
        return ast_fail(err, AST_E_INVALID, "values: expected an array, found %s",
                        ast_json_type_name(values));
    while (ast_json_next(&it, &unused, &v))
        if (!ast_json_string(v, &text))
            return ast_fail(err, AST_E_INVALID, "values: expected strings, found %s",
                            ast_json_type_name(v));
    return AST_OK;
}

static enum ast_rc read_answer(const struct ast_json *root, struct answer *a, struct ast_err *err)
{
    struct ast_str text;
    enum ast_rc rc = gw_body_string(root, AST_STR("request_id"), &a->id_text, err);
    if (!rc)
        rc = gw_body_member(root, AST_STR("value"), &a->value, err);
    if (!rc)
        rc = gw_body_member(root, AST_STR("values"), &a->values, err);
    if (!rc && a->values)
        rc = check_values(a->values, err);
    if (rc)
        return rc;
    if (!ast_uuid_parse(a->id_text, &a->id))
        return ast_fail(err, AST_E_INVALID, "request_id: expected a UUID");
    if (a->value && !ast_json_string(a->value, &text))
        return ast_fail(err, AST_E_INVALID, "value: expected a string, found %s",
                        ast_json_type_name(a->value));
    if (a->value && a->values)
        return ast_fail(err, AST_E_INVALID, "value and values exclude each other");
    return AST_OK;
}

static enum ast_rc publish(struct gw_call *call, const struct answer *a, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf topic = AST_BUF_INIT(128);
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(8 * AST_GATEWAY_BODY_BYTES);
    char id[AST_UUID_TEXT];
    struct ast_msg *msg = NULL;
    struct ast_jw w = AST_JW_INIT(&body);
    (void)ast_buf_addf(&topic, "astrid.v1.elicit.response." AST_STR_FMT,
                       AST_STR_ARG(ast_uuid_format(&a->id, id)));
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("elicit_response"));
    ast_jw_kv_string(&w, "request_id", ast_uuid_format(&a->id, id));
    if (a->value) {
        ast_jw_key(&w, AST_STR("value"));
        ast_jw_value(&w, a->value);
    } else if (a->values) {
        ast_jw_key(&w, AST_STR("values"));
        ast_jw_value(&w, a->values);
    }
    ast_jw_end(&w);
    enum ast_rc rc = ast_buf_check(&topic, "answer", err);
    if (!rc)
        rc = ast_buf_check(&body, "answer", err);
    if (!rc)
        rc = ast_msg_from_json(
            &(struct ast_msg_spec){ .topic = ast_buf_view(&topic),
                                    .principal = ast_principal_str(&call->bearer.principal),
                                    .origin = "gateway" },
            ast_buf_view(&body), &msg, err);
    if (!rc)
        (void)ast_bus_publish(call->g->host->bus, msg);
    if (body.p)
        explicit_bzero(body.p, body.cap); /* it may hold a secret */
    return rc;
}

void gw_post_elicit_response(struct gw_call *call)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_str principal = ast_principal_str(&call->bearer.principal);
    struct ast_err err = AST_ERR_INIT;
    struct answer a = { 0 };
    if (!gw_caller_enabled(call)) {
        ast_metric_add(call->g->auth_failures, 1);
        gw_reply_unauthorized(call);
        return;
    }
    if (!gw_body_object(call, &doc))
        return;
    if (read_answer(ast_json_root(doc), &a, &err)) {
        gw_reply_bad_request(call, "invalid JSON: %s", err.msg);
        return;
    }
    enum gw_question_state state = gw_questions_look(call->g->questions, &a.id, principal);
    enum ast_rc denied =
        ast_policy_check(call->g->host->policy, principal, AST_STR("capsule:install"), &err);
    if (state == GW_QUESTION_NONE || state == GW_QUESTION_OTHERS ||
        (state == GW_QUESTION_NOBODYS && denied))
        gw_reply_not_found(call);
    else if (denied)
        gw_reply_forbidden(call, ast_str_c(err.msg));
    else if (!gw_questions_take(call->g->questions, &a.id))
        gw_reply_not_found(call); /* somebody was quicker */
    else if (publish(call, &a, &err))
        gw_reply_internal(call, err.msg);
    else
        gw_reply(call, 204, AST_STR_NONE, AST_STR_NONE);
}
