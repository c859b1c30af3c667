/* A question to people, over the bus: ask, park, take the first answer that counts.
 *
 * The topic of the answer is open to every client and to capsules that declare it, so an answer counts only
 * when its principal holds the right to give it and its request id is ours; others are ignored and the wait goes
 * on (differs: spec 05 §12.2). A capsule never answers itself, whatever it may publish.
 */
#include <stdlib.h>

#include "host/host_priv.h"

#include "base/banned.h"

#define TOPIC_MAX 128u /* "<topic>.response.<uuid>" */

static void on_answer(void *arg)
{
    struct host_question *q = arg;
    host_wait_fire(&q->wait);
}

enum ast_rc host_question_open(struct ast_abi *a, struct host_question *q, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf topic = AST_BUF_INIT(TOPIC_MAX);

    q->id = ast_uuid_v4();
    q->id_str = ast_uuid_format(&q->id, q->id_text);
    ast_buf_addf(&topic, "%s.response.%s", q->topic, q->id_text);
    enum ast_rc rc = ast_buf_check(&topic, "question", err);
    if (rc)
        return rc;
    const struct ast_str pattern = ast_buf_view(&topic);
    const struct ast_route_config cfg = {
        .patterns = &pattern,
        .pattern_count = 1,
        .label = AST_STR("untagged"),
        .notify = on_answer,
        .arg = q,
    };
    return ast_route_open(host_call(a)->env->host->bus, &cfg, &q->route, err);
}

void host_question_done(struct host_question *q)
{
    ast_route_close(ast_steal(&q->route)); /* after it no publisher touches `wait` */
    host_wait_disarm(&q->wait);
}

static enum ast_rc publish(struct ast_abi *a, const struct host_question *q, struct ast_str body,
                           struct ast_err *err)
{
    const struct ast_host_call *call = host_call(a);
    /* differs: stamped with the principal asked for (spec README §5 gap 3) */
    const struct ast_msg_spec spec = {
        .topic = ast_str_c(q->topic),
        .principal = ast_principal_str(&call->invoking),
        .publisher = call->env->capsule_id,
        .source_id = AST_UUID_NIL,
        .origin = "unknown",
    };
    struct ast_msg *msg = NULL;
    enum ast_rc rc = ast_msg_trusted(&spec, q->ask_kind, body, &msg, err);
    if (!rc)
        (void)ast_bus_publish(call->env->host->bus, msg); /* nobody waits for its number */
    return rc;
}

/* NULL: this message's sender may answer. */
static const char *why_refused(const struct ast_host_call *call, const struct host_question *q,
                               const struct ast_msg *m)
{
    struct ast_policy *policy = call->env->host->policy;
    if (ast_str_eq(m->publisher, call->env->capsule_id))
        return "a capsule does not answer itself";
    if (!ast_principal_valid(m->principal))
        return "no principal";
    bool own = ast_str_eq(m->principal, ast_principal_str(&call->invoking));
    if (!policy || !ast_policy_holds(policy, m->principal, own ? q->own_cap : q->other_cap))
        return "the principal may not answer";
    return NULL;
}

/* One line a question: a flood of wrong answers is no flood of lines. */
static void say_refused(const struct ast_host_call *call, struct host_question *q,
                        const struct ast_msg *m, const char *why)
{
    if (q->has_refused)
        return;
    q->has_refused = true;
    ast_log_fields(AST_LOG_WARN, HOST_LOG, "answer to a question does not count, still waiting",
                   AST_F_SECURITY, AST_F_CSTR("question", q->noun), AST_F_CSTR("why", why),
                   AST_F_STR("request", q->id_str),
                   AST_F_STR("answered_by", ast_str_first(m->principal, AST_PRINCIPAL_MAX)),
                   AST_F_STR("asked_for", ast_principal_str(&call->invoking)),
                   AST_F_STR("capsule", call->env->capsule_id));
}

static enum ast_rc read_answer(const struct ast_host_call *call, struct host_question *q,
                               const struct ast_msg *m, struct ast_json_doc **ret,
                               struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_uuid id;

    const char *why = why_refused(call, q, m);
    if (!why && m->kind != q->answer_kind)
        return ast_fail(err, AST_E_PROTOCOL, "unexpected IPC payload type in %s response", q->noun);
    if (!why && ast_json_parse(m->body, &doc, err))
        return AST_E_PROTOCOL;
    if (!why &&
        (!ast_uuid_parse(ast_json_str_or(ast_json_root(doc), AST_STR("request_id"), AST_STR_NONE),
                         &id) ||
         !ast_uuid_eq(&id, &q->id)))
        why = "another request's id";
    if (why) {
        say_refused(call, q, m, why);
        return AST_E_NOT_FOUND;
    }
    *ret = ast_steal(&doc);
    return AST_OK;
}

/* NOT_FOUND: nothing that counts has come so far. */
static enum ast_rc take_answer(const struct ast_host_call *call, struct host_question *q,
                               struct ast_json_doc **ret, struct ast_err *err)
{
    for (;;) {
        AST_AUTO(ast_msg_unref) struct ast_msg *m = ast_route_take(q->route);
        if (!m)
            return AST_E_NOT_FOUND;
        enum ast_rc rc = read_answer(call, q, m, ret, err);
        if (rc != AST_E_NOT_FOUND)
            return rc;
    }
}

enum ast_rc host_question_ask(struct ast_abi *a, struct host_question *q, struct ast_str body,
                              struct ast_json_doc **ret_answer, struct ast_err *err)
{
    struct ast_host_call *call = host_call(a);
    int64_t deadline = ast_mono_ns() + q->limit_ns;

    host_progress(call);
    enum ast_rc rc = publish(a, q, body, err);
    if (rc)
        return rc;
    for (enum ast_rc parked = AST_OK;; parked = ast_call_park(a, deadline)) {
        if (parked == AST_E_CANCELLED || host_is_unloading(call))
            return ast_fail(err, AST_E_CANCELLED, "%s", ast_rc_text(AST_E_CANCELLED));
        host_wait_arm(&q->wait, ast_abi_call(a));
        rc = take_answer(call, q, ret_answer, err); /* also what came at the last moment */
        if (rc != AST_E_NOT_FOUND)
            return rc;
        if (parked == AST_E_TIMEOUT)
            return ast_fail(err, AST_E_TIMEOUT, "nobody answered");
    }
}
