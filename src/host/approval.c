/* astrid:approval: may a capsule do this one thing? (spec 05 §12, 09 §11)
 *
 * An earlier approval may cover the request; otherwise people are asked and the fiber parks. A text that had to be
 * cleaned or cut is never covered by an allowance: what the capsule runs is then not what was compared.
 */
#include "bus/event.h"
#include "host/host_priv.h"
#include "host/sanitise_priv.h"

#include "base/banned.h"

#define ACTION_MAX   256u
#define RESOURCE_MAX 1024u
#define BODY_MAX     65536u
#define REASON_MAX   1024u

/* decision on the wire, what the capsule sees, allowance, its length for the event (NULL: once) */
static const struct decision {
    const char *word;
    enum ast_approval_approval_decision decision;
    bool remember, session_only;
    const char *duration;
} decisions[] = {
    { "approve", AST_APPROVAL_APPROVAL_DECISION_APPROVED, false, false, NULL },
    { "approve_session", AST_APPROVAL_APPROVAL_DECISION_APPROVED_SESSION, true, true, "session" },
    { "approve_always", AST_APPROVAL_APPROVAL_DECISION_APPROVED_ALWAYS, true, false, "always" },
};

/* NULL: denied, as every other word means. */
static const struct decision *decision_of(struct ast_str word)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(decisions); i++)
        if (ast_str_eq(ast_str_c(decisions[i].word), word))
            return &decisions[i];
    return NULL;
}

/* One request, its texts cleaned and no longer the guest's. */
struct request {
    struct ast_str action, resource; /* in the call's arena */
    bool is_whole; /* the resource is what the capsule sent, blanks at its ends aside */
    struct ast_allowances *allowances; /* NULL in lifecycle hooks */
    struct host_question question;
    struct host_asking asking;
};

static int fail(struct ast_approval_error *reterr, enum ast_approval_error_tag tag)
{
    reterr->tag = tag;
    return AST_ABI_ERR;
}

static int fail_text(struct ast_abi *a, struct ast_approval_error *reterr, const char *text)
{
    reterr->u.unknown = host_text(a, "%s", text);
    return fail(reterr, AST_APPROVAL_ERROR_UNKNOWN);
}

static void warn_altered(const struct ast_host_call *call, const char *what)
{
    ast_log_fields(AST_LOG_WARN, HOST_LOG, "approval request was stripped or cut",
                   AST_F_STR("capsule", call->env->capsule_id), AST_F_CSTR("field", what));
}

/* Steps 1 and 2 of spec 05 §12.1. False: the action is too long, or no memory (*ret_no_memory). */
static bool read_request(struct ast_abi *a, const struct ast_approval_approval_request *in,
                         struct request *ret, bool *ret_no_memory)
{
    const struct ast_host_call *call = host_call(a);
    bool action_whole;

    *ret_no_memory = false;
    if (host_char_count(in->action) > ACTION_MAX)
        return false;
    *ret_no_memory =
        !host_sanitise(ast_abi_arena(a), in->action, ACTION_MAX, &ret->action, &action_whole) ||
        !host_sanitise(ast_abi_arena(a), in->target_resource, RESOURCE_MAX, &ret->resource,
                       &ret->is_whole);
    if (*ret_no_memory)
        return false;
    if (!action_whole)
        warn_altered(call, "action");
    if (!ret->is_whole)
        warn_altered(call, "resource");
    ret->allowances = call->env->is_lifecycle ? NULL : call->env->host->allowances;
    return true;
}

/* --- What happened, for operators ---------------------------------------------------------------- */

static void note(const struct ast_host_call *call, const struct request *r, const char *what)
{
    ast_log_fields(AST_LOG_INFO, HOST_LOG, what, AST_F_SECURITY,
                   AST_F_STR("principal", ast_principal_str(&call->invoking)),
                   AST_F_STR("capsule", call->env->capsule_id), AST_F_STR("action", r->action),
                   AST_F_STR("resource", r->resource), AST_F_STR("request", r->question.id_str));
}

static void record(const struct ast_host_call *call, const struct request *r,
                   enum ast_host_approval_step step, struct ast_str detail)
{
    const struct ast_host *host = call->env->host;
    const struct ast_host_approval what = {
        .step = step,
        .principal = ast_principal_str(&call->invoking),
        .capsule = call->env->capsule_id,
        .action = r->action,
        .resource = r->resource,
        .detail = detail,
    };
    if (host->on_approval)
        host->on_approval(host->on_approval_arg, &what);
}

/* {"request_id":..} and one or more members of the kind's own (spec 04 §3.2). */
static void publish_event(const struct ast_host_call *call, enum ast_event_kind kind,
                          const struct request *r, struct ast_str members)
{
    AST_AUTO(ast_buf_done) struct ast_buf fields = AST_BUF_INIT(BODY_MAX);
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg = NULL;

    ast_buf_add_lit(&fields, "\"request_id\":");
    ast_json_quote(r->question.id_str, &fields);
    ast_buf_add(&fields, members);
    enum ast_rc rc = ast_buf_check(&fields, "lifecycle event", &err);
    if (!rc)
        rc = ast_event_new(kind, "host", ast_buf_view(&fields), &msg, &err);
    if (rc)
        ast_log_warn(HOST_LOG, "approval event not published: %s", err.msg);
    else
        (void)ast_bus_publish(call->env->host->bus, msg); /* nobody waits for its number */
}

static void say_requested(const struct ast_host_call *call, const struct request *r,
                          struct ast_str reason)
{
    AST_AUTO(ast_buf_done) struct ast_buf more = AST_BUF_INIT(BODY_MAX);
    ast_buf_add_lit(&more, ",\"resource\":");
    ast_json_quote(r->resource, &more);
    ast_buf_add_lit(&more, ",\"action\":");
    ast_json_quote(r->action, &more);
    ast_buf_add_lit(&more, ",\"description\":");
    ast_json_quote(reason, &more);
    publish_event(call, AST_EVENT_approval_requested, r, ast_buf_view(&more));
    record(call, r, AST_HOST_APPROVAL_REQUESTED, AST_STR_NONE);
    note(call, r, "approval requested");
}

static void say_member(const struct ast_host_call *call, enum ast_event_kind kind,
                       const struct request *r, const char *member, struct ast_str text)
{
    AST_AUTO(ast_buf_done) struct ast_buf more = AST_BUF_INIT(BODY_MAX);
    ast_buf_addf(&more, ",\"%s\":", member);
    if (text.n)
        ast_json_quote(text, &more);
    else
        ast_buf_add_lit(&more, "null");
    publish_event(call, kind, r, ast_buf_view(&more));
    note(call, r, kind == AST_EVENT_approval_granted ? "approval granted" : "approval denied");
}

/* --- Asking -------------------------------------------------------------------------------------- */

static enum ast_rc ask(struct ast_abi *a, struct request *r, struct ast_json_doc **ret_answer,
                       struct ast_err *err)
{
    const struct ast_host_call *call = host_call(a);
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(BODY_MAX);
    AST_AUTO(ast_buf_done) struct ast_buf reason = AST_BUF_INIT(REASON_MAX);
    struct ast_jw w = AST_JW_INIT(&body);

    enum ast_rc rc = host_question_open(a, &r->question, err);
    if (rc)
        return rc;
    ast_buf_addf(&reason, "Capsule '" AST_STR_FMT "' requests approval",
                 AST_STR_ARG(call->env->capsule_id));
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("approval_required"));
    ast_jw_kv_string(&w, "request_id", r->question.id_str);
    ast_jw_kv_string(&w, "action", r->action);
    ast_jw_kv_string(&w, "resource", r->resource);
    ast_jw_kv_string(&w, "reason", ast_buf_view(&reason));
    ast_jw_end(&w);
    rc = ast_buf_check(&body, "approval request", err);
    if (rc)
        return rc;
    say_requested(call, r, ast_buf_view(&reason));
    return host_question_ask(a, &r->question, ast_buf_view(&body), ret_answer, err);
}

/* Keeps the allowance the decision asks for. One that cannot be kept leaves a plain approval: the capsule is told
 * what holds. */
static enum ast_approval_approval_decision grant(struct ast_abi *a, struct request *r,
                                                 const struct decision *d)
{
    const struct ast_host_call *call = host_call(a);
    struct ast_err err = AST_ERR_INIT;

    bool may_keep = d->remember && r->allowances && r->action.n;
    if (may_keep && host_allowance_add(a, r->allowances, &r->asking, call->env->workspace,
                                       r->action, d->session_only, &err)) {
        ast_log_fields(AST_LOG_WARN, HOST_LOG, "allowance not kept, approved once instead",
                       AST_F_SECURITY, AST_F_STR("request", r->question.id_str),
                       AST_F_CSTR("error", err.msg));
        return AST_APPROVAL_APPROVAL_DECISION_APPROVED;
    }
    return d->decision;
}

static int decide(struct ast_abi *a, struct request *r, const struct ast_json *answer,
                  struct ast_approval_approval_response *ret)
{
    const struct ast_host_call *call = host_call(a);
    const struct decision *d =
        decision_of(ast_json_str_or(answer, AST_STR("decision"), AST_STR_NONE));

    if (d) {
        ret->decision = grant(a, r, d);
        bool is_once = ret->decision == AST_APPROVAL_APPROVAL_DECISION_APPROVED;
        say_member(call, AST_EVENT_approval_granted, r, "duration",
                   is_once ? AST_STR_NONE : ast_str_c(d->duration));
        record(call, r, AST_HOST_APPROVAL_GRANTED,
               is_once ? AST_STR("once") : ast_str_c(d->duration));
    } else {
        struct ast_str why = ast_json_str_or(answer, AST_STR("reason"), AST_STR_NONE);
        ret->decision = AST_APPROVAL_APPROVAL_DECISION_DENIED;
        why = ast_str_first(why, REASON_MAX);
        while (!ast_str_is_utf8(why)) /* a character was cut */
            why.n--;
        say_member(call, AST_EVENT_approval_denied, r, "reason", why);
        record(call, r, AST_HOST_APPROVAL_DENIED, why);
    }
    return AST_ABI_OK;
}

int ast_approval_request_approval(struct ast_abi *a,
                                  const struct ast_approval_approval_request *request,
                                  struct ast_approval_approval_response *ret,
                                  struct ast_approval_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    AST_AUTO(ast_json_free) struct ast_json_doc *answer = NULL;
    struct ast_err err = AST_ERR_INIT;
    int64_t limit = call->env->host->approval_limit_ns;
    struct request r = {
        .question = { .topic = "astrid.v1.approval",
                      .noun = "approval",
                      .ask_kind = AST_PAYLOAD_APPROVAL_REQUIRED,
                      .answer_kind = AST_PAYLOAD_APPROVAL_RESPONSE,
                      .own_cap = AST_STR("self:approval:respond"),
                      .other_cap = AST_STR("approval:respond"),
                      .limit_ns = limit ? limit : HOST_APPROVAL_LIMIT_NS },
    };
    bool no_memory;

    if (!read_request(a, request, &r, &no_memory))
        return no_memory ? fail_text(a, reterr, "out of memory")
                         : fail(reterr, AST_APPROVAL_ERROR_INVALID_INPUT);
    if (r.is_whole && host_allowance_covers(a, r.allowances, ast_principal_str(&call->invoking),
                                            call->env->workspace, r.resource)) {
        note(call, &r, "approval covered by an allowance");
        record(call, &r, AST_HOST_APPROVAL_COVERED, AST_STR_NONE);
        ret->decision = AST_APPROVAL_APPROVAL_DECISION_ALLOWANCE;
        return AST_ABI_OK;
    }
    host_asking_begin(r.allowances, &call->invoking, &r.asking);
    enum ast_rc rc = ask(a, &r, &answer, &err);
    int result = AST_ABI_OK;
    if (rc == AST_E_TIMEOUT || rc == AST_E_CANCELLED) {
        say_member(call, AST_EVENT_approval_denied, &r, "reason", ast_str_c(ast_rc_text(rc)));
        record(call, &r, AST_HOST_APPROVAL_DENIED, ast_str_c(ast_rc_text(rc)));
        result = fail(reterr, AST_APPROVAL_ERROR_TIMEOUT); /* the contract has no word for unload */
    } else if (rc) {
        result = fail_text(a, reterr, err.msg);
    } else {
        result = decide(a, &r, ast_json_root(answer), ret);
    }
    host_question_done(&r.question);
    host_asking_end(r.allowances, &r.asking);
    return result;
}
