/* astrid:elicit: questions to the operator while a capsule is installed or upgraded (spec 05 §11, 07 §11).
 *
 * A secret goes from the answer into the secret store of the principal; the capsule learns only that it is there.
 * differs: the answer must come from somebody who may install capsules; a choice must be one that was offered; an
 * unload cancels; nobody attached cancels at once; has-secret sees the same store as get-config (spec 05 §10.3).
 */
#include "host/host_priv.h"
#include "store/kv.h"
#include "store/secrets.h"

#include "base/banned.h"

#define BODY_MAX 1048576u /* a question as long as a message of a guest may be */

static int fail(struct ast_elicit_error *reterr, enum ast_elicit_error_tag tag)
{
    reterr->tag = tag;
    return AST_ABI_ERR;
}

static int fail_text(struct ast_abi *a, struct ast_elicit_error *reterr, const char *text)
{
    reterr->u.unknown = host_text(a, "%s", text);
    return fail(reterr, AST_ELICIT_ERROR_UNKNOWN);
}

/* --- The secret store ---------------------------------------------------------------------------- */

static enum ast_rc file_has(const struct ast_host_env *env, struct ast_str scope,
                            struct ast_str key, bool *ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf value = AST_BUF_INIT(AST_SECRET_FILE_MAX);
    bool found = false;
    enum ast_rc rc =
        ast_secrets_get(env->host->home->root, scope, env->capsule_id, key, &value, &found, err);
    if (!rc)
        *ret = found && value.n;
    if (value.p)
        explicit_bzero(value.p, value.cap);
    return rc;
}

/* Values of installs before the secret files: "__secret:<key>" among the capsule's own keys. */
static enum ast_rc kv_has(const struct ast_host_call *call, struct ast_str key, bool *ret,
                          struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf ns = AST_BUF_INIT(AST_STORE_MAX_NS);
    AST_AUTO(ast_buf_done) struct ast_buf name = AST_BUF_INIT(AST_STORE_MAX_PHYSICAL);
    AST_AUTO(ast_buf_done) struct ast_buf value = AST_BUF_INIT(AST_KV_MAX_VALUE);

    ast_buf_add(&name, AST_KV_SECRET_PREFIX);
    ast_buf_add(&name, key);
    enum ast_rc rc =
        ast_kv_capsule_ns(ast_principal_str(&call->invoking), call->env->capsule_id, &ns);
    if (!rc)
        rc = ast_buf_check(&name, "secret key", err);
    if (!rc)
        rc = ast_kv_get(call->env->host->store, ast_buf_view(&ns), ast_buf_view(&name),
                        /* guest= */ false, &value, ret, err);
    if (value.p)
        explicit_bzero(value.p, value.cap);
    return rc;
}

static enum ast_rc has_secret(const struct ast_host_call *call, struct ast_str key, bool *ret,
                              struct ast_err *err)
{
    bool found = false;
    enum ast_rc rc = file_has(call->env, ast_principal_str(&call->invoking), key, &found, err);
    if (!rc && !found)
        rc = file_has(call->env, AST_SECRET_SCOPE_HOST, key, &found, err);
    if (!rc && !found)
        rc = kv_has(call, key, &found, err);
    if (!rc)
        *ret = found;
    return rc;
}

static void warn_store(const struct ast_host_call *call, const struct ast_err *err)
{
    ast_log_fields(AST_LOG_WARN, HOST_LOG, "secret store not available to a capsule",
                   AST_F_STR("capsule", call->env->capsule_id), AST_F_CSTR("error", err->msg));
}

int ast_elicit_has_secret(struct ast_abi *a, struct ast_str key, bool *ret,
                          struct ast_elicit_error *reterr)
{
    const struct ast_host_call *call = host_call(a);
    struct ast_err err = AST_ERR_INIT;
    if (!has_secret(call, key, ret, &err))
        return AST_ABI_OK;
    warn_store(call, &err);
    return fail(reterr, AST_ELICIT_ERROR_STORE_UNAVAILABLE);
}

/* --- The question -------------------------------------------------------------------------------- */

static void write_type(struct ast_jw *w, const struct ast_elicit_elicit_request *r)
{
    static const char *const names[] = { "Text", "Secret", "Enum", "Array" };

    ast_jw_key(w, AST_STR("field_type"));
    if (r->kind != AST_ELICIT_ELICIT_TYPE_SELECT) {
        ast_jw_string(w, ast_str_c(names[r->kind]));
        return;
    }
    ast_jw_object(w);
    ast_jw_key(w, ast_str_c(names[r->kind]));
    ast_jw_array(w);
    for (size_t i = 0; i < r->options.v.n; i++)
        ast_jw_string(w, r->options.v.v[i]);
    ast_jw_end(w);
    ast_jw_end(w);
}

static enum ast_rc write_question(const struct ast_host_call *call, const struct host_question *q,
                                  const struct ast_elicit_elicit_request *r, struct ast_buf *out,
                                  struct ast_err *err)
{
    struct ast_jw w = AST_JW_INIT(out);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("elicit_request"));
    ast_jw_kv_string(&w, "request_id", q->id_str);
    ast_jw_kv_string(&w, "capsule_id", call->env->capsule_id);
    ast_jw_key(&w, AST_STR("field"));
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "key", r->key);
    ast_jw_kv_string(&w, "prompt", r->description.n ? r->description : r->key);
    if (r->description.n)
        ast_jw_kv_string(&w, "description", r->description);
    write_type(&w, r);
    if (r->default_value.has)
        ast_jw_kv_string(&w, "default", r->default_value.v);
    ast_jw_end(&w);
    ast_jw_end(&w);
    return ast_buf_check(out, "question", err);
}

/* What the question was, kept across the wait: guest memory may change meanwhile. In the call's arena. */
struct asked {
    enum ast_elicit_elicit_type kind;
    struct ast_str key;
    struct ast_list_str options;
};

static bool keep(struct ast_abi *a, const struct ast_elicit_elicit_request *r, struct asked *ret)
{
    struct ast_arena *arena = ast_abi_arena(a);
    size_t n = r->kind == AST_ELICIT_ELICIT_TYPE_SELECT ? r->options.v.n : 0;

    *ret = (struct asked){ .kind = r->kind, .key = ast_arena_dup(arena, r->key) };
    ret->options.v = ast_arena_array(arena, n, sizeof *ret->options.v);
    for (size_t i = 0; ret->options.v && i < n; i++)
        ret->options.v[ret->options.n++] = ast_arena_dup(arena, r->options.v.v[i]);
    return !arena->fail;
}

/* --- The answer ---------------------------------------------------------------------------------- */

static bool is_offered(const struct asked *asked, struct ast_str value)
{
    for (size_t i = 0; i < asked->options.n; i++)
        if (ast_str_eq(asked->options.v[i], value))
            return true;
    return false;
}

/* Rare, short and in an install hook, where nobody else waits for this worker. */
static int store_secret(struct ast_abi *a, struct ast_str key, struct ast_str value,
                        struct ast_elicit_elicit_response *ret, struct ast_elicit_error *reterr)
{
    const struct ast_host_call *call = host_call(a);
    struct ast_err err = AST_ERR_INIT;

    if (!value.n)
        return fail(reterr, AST_ELICIT_ERROR_INVALID_INPUT);
    if (ast_secrets_set(call->env->host->home->root, ast_principal_str(&call->invoking),
                        call->env->capsule_id, key, value, &err)) {
        warn_store(call, &err);
        return fail(reterr, AST_ELICIT_ERROR_STORE_UNAVAILABLE);
    }
    ast_log_fields(AST_LOG_INFO, HOST_LOG, "secret stored for a capsule", AST_F_SECURITY,
                   AST_F_STR("capsule", call->env->capsule_id), AST_F_STR("key", key),
                   AST_F_STR("principal", ast_principal_str(&call->invoking)));
    ret->tag = AST_ELICIT_ELICIT_RESPONSE_SECRET_STORED;
    return AST_ABI_OK;
}

static int give_values(struct ast_abi *a, const struct ast_json *values,
                       struct ast_elicit_elicit_response *ret, struct ast_elicit_error *reterr)
{
    struct ast_arena *arena = ast_abi_arena(a);
    struct ast_json_iter it = AST_JSON_ITER(values);
    const struct ast_json *v;
    struct ast_str unused, text;

    ret->tag = AST_ELICIT_ELICIT_RESPONSE_VALUES;
    ret->u.values = (struct ast_list_str){
        .v = ast_arena_array(arena, ast_json_count(values), sizeof *ret->u.values.v),
    };
    while (ret->u.values.v && ast_json_next(&it, &unused, &v))
        if (ast_json_string(v, &text)) /* always, or the message would be of another kind */
            ret->u.values.v[ret->u.values.n++] = ast_arena_dup(arena, text);
    return arena->fail ? fail_text(a, reterr, "out of memory") : AST_ABI_OK;
}

static int give_value(struct ast_abi *a, const struct asked *asked, struct ast_str value,
                      struct ast_elicit_elicit_response *ret, struct ast_elicit_error *reterr)
{
    if (asked->kind == AST_ELICIT_ELICIT_TYPE_SELECT && !is_offered(asked, value))
        return fail(reterr, AST_ELICIT_ERROR_INVALID_INPUT);
    ret->tag = AST_ELICIT_ELICIT_RESPONSE_VALUE;
    ret->u.value = ast_arena_dup(ast_abi_arena(a), value);
    return ret->u.value.p ? AST_ABI_OK : fail_text(a, reterr, "out of memory");
}

static int take_answer(struct ast_abi *a, const struct asked *asked, const struct ast_json *answer,
                       struct ast_elicit_elicit_response *ret, struct ast_elicit_error *reterr)
{
    const struct ast_json *values = ast_json_member(answer, "values");
    struct ast_str value = AST_STR("");
    bool has_value = ast_json_string(ast_json_member(answer, "value"), &value);

    if (!has_value && ast_json_type(values) != AST_JSON_ARRAY)
        return fail(reterr, AST_ELICIT_ERROR_CANCELLED);
    switch (asked->kind) {
    case AST_ELICIT_ELICIT_TYPE_SECRET: return store_secret(a, asked->key, value, ret, reterr);
    case AST_ELICIT_ELICIT_TYPE_ARRAY: return give_values(a, values, ret, reterr);
    default: return give_value(a, asked, value, ret, reterr);
    }
}

/* --- elicit -------------------------------------------------------------------------------------- */

static bool somebody_listens(const struct ast_host *host)
{
    return !host->has_listener || host->has_listener(host->has_listener_arg);
}

/* What is wrong before anybody is asked. */
static bool is_refused(struct ast_abi *a, const struct ast_elicit_elicit_request *r,
                       enum ast_elicit_error_tag *ret_why)
{
    const struct ast_host_call *call = host_call(a);
    struct ast_err err = AST_ERR_INIT;
    bool found;

    if (!call->env->is_lifecycle) {
        *ret_why = AST_ELICIT_ERROR_NOT_IN_LIFECYCLE;
    } else if (r->kind == AST_ELICIT_ELICIT_TYPE_SELECT && (!r->options.has || !r->options.v.n)) {
        *ret_why = AST_ELICIT_ERROR_INVALID_INPUT;
    } else if (r->kind == AST_ELICIT_ELICIT_TYPE_SECRET &&
               file_has(call->env, ast_principal_str(&call->invoking), r->key, &found, &err)) {
        warn_store(call, &err); /* a key that cannot be stored: nobody types a secret for nothing */
        *ret_why = AST_ELICIT_ERROR_STORE_UNAVAILABLE;
    } else if (!somebody_listens(call->env->host)) {
        *ret_why = AST_ELICIT_ERROR_CANCELLED;
    } else {
        return false;
    }
    return true;
}

static void record(struct ast_abi *a, const struct host_question *q,
                   enum ast_host_approval_step step, struct ast_str detail)
{
    const struct ast_host_call *call = host_call(a);
    const struct ast_host *host = call->env->host;
    const struct ast_host_approval what = {
        .step = step,
        .principal = ast_principal_str(&call->invoking),
        .capsule = call->env->capsule_id,
        .request = q->id_str,
        .detail = detail,
    };
    if (host->on_approval)
        host->on_approval(host->on_approval_arg, &what);
}

static struct ast_str outcome_of(enum ast_rc rc, const struct ast_json *answer)
{
    if (rc)
        return rc == AST_E_TIMEOUT ? AST_STR("timeout") : AST_STR("cancel");
    bool has = ast_json_member(answer, "value") || ast_json_member(answer, "values");
    return has ? AST_STR("accept") : AST_STR("cancel");
}

static enum ast_rc ask(struct ast_abi *a, const struct ast_elicit_elicit_request *r,
                       struct host_question *q, struct ast_json_doc **ret_answer,
                       struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(BODY_MAX);

    enum ast_rc rc = host_question_open(a, q, err);
    if (!rc)
        rc = write_question(host_call(a), q, r, &body, err);
    if (rc)
        return rc;
    record(a, q, AST_HOST_ELICIT_SENT, ast_str_c(ast_elicit_elicit_type_name(r->kind)));
    rc = host_question_ask(a, q, ast_buf_view(&body), ret_answer, err);
    record(a, q, AST_HOST_ELICIT_RECEIVED,
           outcome_of(rc, *ret_answer ? ast_json_root(*ret_answer) : NULL));
    return rc;
}

int ast_elicit_elicit(struct ast_abi *a, const struct ast_elicit_elicit_request *request,
                      struct ast_elicit_elicit_response *ret, struct ast_elicit_error *reterr)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *answer = NULL;
    struct ast_err err = AST_ERR_INIT;
    int64_t limit = host_call(a)->env->host->elicit_limit_ns;
    struct asked asked;
    AST_AUTO(host_question_done)
    struct host_question q = { .topic = "astrid.v1.elicit",
                               .noun = "elicit",
                               .ask_kind = AST_PAYLOAD_ELICIT_REQUEST,
                               .answer_kind = AST_PAYLOAD_ELICIT_RESPONSE,
                               .own_cap = AST_STR("capsule:install"),
                               .other_cap = AST_STR("capsule:install"),
                               .limit_ns = limit ? limit : HOST_ELICIT_LIMIT_NS };

    if (is_refused(a, request, &reterr->tag))
        return AST_ABI_ERR;
    if (!keep(a, request, &asked))
        return fail_text(a, reterr, "out of memory");
    switch (ask(a, request, &q, &answer, &err)) {
    case AST_OK: return take_answer(a, &asked, ast_json_root(answer), ret, reterr);
    case AST_E_TIMEOUT: return fail(reterr, AST_ELICIT_ERROR_TIMEOUT);
    case AST_E_CANCELLED: return fail(reterr, AST_ELICIT_ERROR_CANCELLED);
    case AST_E_TOO_LARGE: return fail(reterr, AST_ELICIT_ERROR_INVALID_INPUT);
    default: return fail_text(a, reterr, err.msg);
    }
}
