/* From a client to the bus: the allow-list, attribution, the ordinary publish rules. A refused frame is logged and nothing
 * else happens (spec 01 §8.5 N6). */
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "bus/topic.h"
#include "uplink/server_priv.h"

#include "base/banned.h"

#define ORIGIN    "uplink"
#define PUBLISHER AST_STR("astrid-capsule-cli")

/* spec 01 §8.3 */
static const char *const allowed_topics[] = {
    "user.v1.prompt",
    "cli.v1.command.execute",
    "registry.v1.get_providers",
    "registry.v1.get_active_model",
    "registry.v1.set_active_model",
};
static const char *const allowed_prefixes[] = {
    "astrid.v1.request.",           "astrid.v1.admin.",       "astrid.v1.elicit.response.",
    "astrid.v1.approval.response.", "registry.v1.selection.", "session.v1.request.",
    "cli.v1.command.run.",          "sage.v1.hook.",
};

static bool topic_allowed(struct ast_str topic)
{
    if (ast_str_starts(topic, AST_STR("astrid.v1.admin.response.")))
        return false;
    for (size_t i = 0; i < AST_ARRAY_LEN(allowed_topics); i++)
        if (ast_str_eq(topic, ast_str_c(allowed_topics[i])))
            return true;
    for (size_t i = 0; i < AST_ARRAY_LEN(allowed_prefixes); i++)
        if (ast_str_starts(topic, ast_str_c(allowed_prefixes[i])))
            return true;
    return false;
}

static void publish_client_event(struct uplink_conn *c, const char *topic, struct ast_str principal,
                                 struct ast_str body)
{
    struct ast_msg_spec spec = { .topic = ast_str_c(topic),
                                 .principal = principal,
                                 .source_id = c->server->source,
                                 .origin = ORIGIN,
                                 .publisher = PUBLISHER };
    struct ast_msg *msg;
    struct ast_err err = AST_ERR_INIT;

    if (ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, body, &msg, &err))
        ast_log_error(UPLINK_TARGET, "%s is lost: %s", topic, err.msg);
    else
        ast_bus_publish(ast_kernel_host(c->server->k)->bus, msg);
}

/* First use of a principal on this connection: it joins the set and is counted (N5). False: the set is full. */
static bool use_principal(struct uplink_conn *c, const struct ast_principal *p)
{
    bool is_new = true;
    {
        AST_WITH_LOCK(&c->server->lock);
        ast_vec_each (&c->principals, have)
            if (ast_principal_eq(have, p))
                is_new = false;
        if (is_new &&
            (c->principals.n >= UPLINK_MAX_PRINCIPALS || !ast_vec_push(&c->principals, *p)))
            return false;
    }
    c->recent = *p;
    if (is_new) {
        ast_kernel_client_opened(c->server->k, ast_principal_str(p));
        publish_client_event(c, "client.v1.connect", ast_principal_str(p), AST_STR("{}"));
    }
    return true;
}

void uplink_ingress_gone(struct uplink_conn *c)
{
    ast_vec_each (&c->principals, p) {
        ast_kernel_client_closed(c->server->k, ast_principal_str(p));
        publish_client_event(c, "client.v1.disconnect", ast_principal_str(p),
                             AST_STR("{\"reason\":\"socket closed\"}"));
    }
}

/* N1: the frame's own principal, else the connection's most recent one, else default. */
static enum ast_rc attribute(struct uplink_conn *c, const struct ast_json *root,
                             struct ast_principal *ret, struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(root, "principal");
    struct ast_str text;

    if (!v || ast_json_type(v) == AST_JSON_NULL) {
        if (!c->recent.n)
            return ast_principal_parse(AST_PRINCIPAL_DEFAULT, ret, err);
        *ret = c->recent;
        return AST_OK;
    }
    if (!ast_json_string(v, &text))
        return ast_fail(err, AST_E_INVALID, "principal is not a string");
    return ast_principal_parse(text, ret, err);
}

/* The ceiling is the stamped principal's own (spec 01 §8.3, GAP). */
static bool within_rate(struct uplink_conn *c, const struct ast_principal *p, size_t bytes,
                        struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;

    if (ast_policy_profile(ast_kernel_host(c->server->k)->policy, ast_principal_str(p), &profile,
                           err))
        return false;
    if (ast_limiter_admit(c->server->limiter, ast_principal_str(p), bytes,
                          profile->quotas.max_ipc_throughput_bytes, ast_mono_ns()))
        return true;
    (void)ast_fail(err, AST_E_RATE_LIMITED, "rate limited"); /* false says so */
    return false;
}

static void remember_session(struct uplink_conn *c, const struct ast_msg *msg)
{
    if (!ast_str_is(msg->topic, "user.v1.prompt") &&
        !ast_str_is(msg->topic, "cli.v1.command.execute"))
        return;
    char *session = msg->session.n ? ast_str_dup(msg->session) : NULL;
    AST_WITH_LOCK(&c->server->lock);
    free(c->session);
    c->session = session;
}

static enum ast_rc publish_frame(struct uplink_conn *c, const struct ast_json *root,
                                 struct ast_err *err)
{
    AST_AUTO(ast_msg_unref) struct ast_msg *msg = NULL;
    const struct ast_json *payload = ast_json_member(root, "payload");
    struct ast_principal principal;
    struct ast_str topic;

    if (!ast_json_string(ast_json_member(root, "topic"), &topic))
        return ast_fail(err, AST_E_INVALID, "frame lacks a topic");
    if (!payload)
        return ast_fail(err, AST_E_INVALID, "frame lacks a payload");
    if (!topic_allowed(topic))
        return ast_fail(err, AST_E_DENIED, "Dropped ingress message to blocked topic: " AST_STR_FMT,
                        AST_STR_ARG(ast_str_first(topic, AST_TOPIC_MAX_BYTES)));
    if (!ast_topic_publishable(topic))
        return ast_fail(err, AST_E_INVALID, "topic is malformed");
    enum ast_rc rc = attribute(c, root, &principal, err);
    if (rc)
        return rc;
    struct ast_msg_spec spec = { .topic = topic,
                                 .principal = ast_principal_str(&principal),
                                 .source_id = c->server->source,
                                 .origin = ORIGIN,
                                 .publisher = PUBLISHER };
    rc = ast_msg_from_value(&spec, payload, &msg, err);
    if (rc)
        return rc;
    if (msg->body.n > AST_MSG_MAX_PAYLOAD)
        return ast_fail(err, AST_E_TOO_LARGE, "payload of %zu bytes exceeds %u", msg->body.n,
                        AST_MSG_MAX_PAYLOAD);
    if (!within_rate(c, &principal, msg->body.n, err))
        return AST_E_RATE_LIMITED;
    if (!use_principal(c, &principal))
        return ast_fail(err, AST_E_QUOTA, "connection uses more than %u principals",
                        UPLINK_MAX_PRINCIPALS);
    remember_session(c, msg);
    ast_bus_publish(ast_kernel_host(c->server->k)->bus, ast_steal(&msg));
    return AST_OK;
}

void uplink_ingress(struct uplink_conn *c, struct ast_str frame)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_err err = AST_ERR_INIT;
    enum ast_rc rc = ast_json_parse(frame, &doc, &err);

    if (!rc)
        rc = publish_frame(c, ast_json_root(doc), &err);
    if (rc)
        ast_log_warn(UPLINK_TARGET, "client frame dropped: %s", err.msg);
}
