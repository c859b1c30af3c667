/* The way of every admin request: parse, rights, run, answer. What one of them does is in the file of its story. */
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "crypto/secret.h"
#include "kernel/admin_priv.h"
#include "kernel/audit_priv.h"
#include "policy/capability.h"

#include "base/banned.h"

#define ANSWER_MAX     (15u * 1024 * 1024) /* fits a client's queue */
#define PARAMS_MAX     (8u * 1024 * 1024)
#define REQUEST_ID_MAX 256u
#define LIST_MAX       256u /* entries of one list in a request */
#define NOTE_MAX       4096u
/* Failed redeems that are recorded, per caller: who floods is refused without a row (spec 02 §22). A token that is good is taken
 * all the same, so nobody is locked out by others. */
#define FAILED_REDEEMS 120u

/* ---- the table ---- */

const struct admin_row *admin_row_at(size_t i)
{
    const struct {
        const struct admin_row *rows;
        size_t n;
    } stories[] = {
        { admin_create_rows, admin_create_row_count },
        { admin_agent_rows, admin_agent_row_count },
        { admin_quota_rows, admin_quota_row_count },
        { admin_group_rows, admin_group_row_count },
        { admin_cap_rows, admin_cap_row_count },
        { admin_invite_rows, admin_invite_row_count },
        { admin_pairing_rows, admin_pairing_row_count },
    };

    for (size_t s = 0; s < AST_ARRAY_LEN(stories); s++) {
        if (i < stories[s].n)
            return &stories[s].rows[i];
        i -= stories[s].n;
    }
    return NULL;
}

static const struct admin_row *find_row(struct ast_str method)
{
    const struct admin_row *row;
    for (size_t i = 0; (row = admin_row_at(i)); i++)
        if (ast_str_eq(row->method, method))
            return row;
    return NULL;
}

/* ---- readers ---- */

enum ast_rc admin_read_string(const struct ast_json *params, struct ast_str key,
                              struct ast_str *ret, struct ast_err *err)
{
    const struct ast_json *v = ast_json_get(params, key);
    if (!v)
        return ast_fail(err, AST_E_INVALID, "missing field `" AST_STR_FMT "`", AST_STR_ARG(key));
    if (!ast_json_string(v, ret))
        return ast_fail(err, AST_E_INVALID, "field `" AST_STR_FMT "`: expected a string, found %s",
                        AST_STR_ARG(key), ast_json_type_name(v));
    return AST_OK;
}

enum ast_rc admin_read_target(struct admin_request *r, const struct ast_json *params,
                              struct ast_err *err)
{
    struct ast_str text;
    enum ast_rc rc = admin_read_string(params, AST_STR("principal"), &text, err);
    r->names_target = true;
    return rc ? rc : ast_principal_parse(text, &r->target, err);
}

enum ast_rc admin_read_name(struct admin_request *r, const struct ast_json *params,
                            struct ast_err *err)
{
    struct ast_str text;
    enum ast_rc rc = admin_read_string(params, AST_STR("name"), &text, err);
    if (rc)
        return rc;
    if (ast_str_find_byte(text, 0) != AST_STR_NPOS || text.n > 1024)
        return ast_fail(err, AST_E_INVALID, "field `name`: too long, or holds a NUL byte");
    r->name = ast_str_dup(text);
    return r->name ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "request");
}

enum ast_rc admin_read_optional(const struct ast_json *params, struct ast_str key,
                                struct ast_str *ret, bool *ret_has, struct ast_err *err)
{
    const struct ast_json *v = ast_json_get(params, key);
    *ret_has = v && ast_json_type(v) != AST_JSON_NULL;
    return *ret_has ? admin_read_string(params, key, ret, err) : AST_OK;
}

enum ast_rc admin_read_u64(const struct ast_json *params, struct ast_str key, uint64_t *ret,
                           bool *ret_has, struct ast_err *err)
{
    const struct ast_json *v = ast_json_get(params, key);
    *ret_has = v && ast_json_type(v) != AST_JSON_NULL;
    if (*ret_has && !ast_json_u64(v, ret))
        return ast_fail(err, AST_E_INVALID, "field `" AST_STR_FMT "`: expected an unsigned integer",
                        AST_STR_ARG(key));
    return AST_OK;
}

enum ast_rc admin_read_note(struct admin_request *r, const struct ast_json *params,
                            struct ast_str key, struct ast_err *err)
{
    struct ast_str text;
    bool given;
    enum ast_rc rc = admin_read_optional(params, key, &text, &given, err);

    if (rc || !given)
        return rc;
    if (text.n > NOTE_MAX || ast_str_find_byte(text, 0) != AST_STR_NPOS)
        return ast_fail(err, AST_E_INVALID,
                        "field `" AST_STR_FMT "`: too long, or holds a NUL byte", AST_STR_ARG(key));
    r->description = ast_str_dup(text);
    return r->description ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "request");
}

enum ast_rc admin_read_list(const struct ast_json *params, struct ast_str key,
                            struct ast_strings *ret, bool *ret_has, struct ast_err *err)
{
    const struct ast_json *v = ast_json_get(params, key), *one;
    struct ast_json_iter it = AST_JSON_ITER(v);
    struct ast_str unused, text;

    *ret_has = v && ast_json_type(v) != AST_JSON_NULL;
    if (!*ret_has)
        return AST_OK;
    if (ast_json_type(v) != AST_JSON_ARRAY || ast_json_count(v) > LIST_MAX)
        return ast_fail(err, AST_E_INVALID,
                        "field `" AST_STR_FMT "`: expected an array of at most %u strings",
                        AST_STR_ARG(key), LIST_MAX);
    while (ast_json_next(&it, &unused, &one)) {
        if (!ast_json_string(one, &text) || ast_str_find_byte(text, 0) != AST_STR_NPOS)
            return ast_fail(err, AST_E_INVALID, "field `" AST_STR_FMT "`: expected strings",
                            AST_STR_ARG(key));
        if (!ast_strings_add(ret, text))
            return ast_fail(err, AST_E_NO_MEMORY, "request");
    }
    return AST_OK;
}

enum ast_rc admin_read_bool(const struct ast_json *params, struct ast_str key, bool *ret,
                            bool *ret_has, struct ast_err *err)
{
    const struct ast_json *v = ast_json_get(params, key);
    *ret_has = v && ast_json_type(v) != AST_JSON_NULL;
    if (*ret_has && !ast_json_bool(v, ret))
        return ast_fail(err, AST_E_INVALID, "field `" AST_STR_FMT "`: expected true or false",
                        AST_STR_ARG(key));
    return AST_OK;
}

/* ---- what runners share ---- */

static enum ast_rc target_exists(struct admin_request *r, struct ast_err *err)
{
    AST_AUTO(ast_cfree)
    char *path = ast_policy_profile_path(r->k->policy, ast_principal_str(&r->target));
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "profile");
    return ast_fs_exists(path) ? AST_OK
                               : ast_fail(err, AST_E_NOT_FOUND,
                                          "principal %s does not exist (no profile.toml at %s)",
                                          r->target.name, path);
}

enum ast_rc admin_target_profile(struct admin_request *r, struct ast_profile **ret,
                                 struct ast_err *err)
{
    enum ast_rc rc = target_exists(r, err);
    if (rc)
        return rc;
    rc = ast_policy_profile(r->k->policy, ast_principal_str(&r->target), ret, err);
    return rc ? ast_wrap(err, rc, "profile error for %s", r->target.name) : AST_OK;
}

enum ast_rc admin_draft(struct admin_request *r, struct ast_profile **ret, struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *now = NULL;
    /* An edit by hand is merged: what is changed is the file, not what the cache remembers of it. */
    ast_policy_invalidate(r->k->policy, ast_principal_str(&r->target));
    enum ast_rc rc = admin_target_profile(r, &now, err);
    if (rc)
        return rc;
    *ret = ast_profile_copy(now);
    return *ret ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "profile");
}

enum ast_rc admin_store(struct admin_request *r, const struct ast_profile *draft,
                        struct ast_err *err)
{
    enum ast_rc rc =
        ast_policy_set_profile(r->k->policy, ast_principal_str(&r->target), draft, err);
    return rc ? ast_wrap(err, rc, "profile error for %s", r->target.name) : AST_OK;
}

void admin_write_strings(struct ast_jw *w, struct ast_str key, const struct ast_strings *s)
{
    ast_jw_key(w, key);
    ast_jw_array(w);
    for (size_t i = 0; i < s->n; i++)
        ast_jw_string(w, s->v[i]);
    ast_jw_end(w);
}

/* ---- the answer ---- */

static void request_free(struct admin_request *r)
{
    ast_buf_done(&r->params);
    ast_buf_done(&r->out);
    ast_wipe(r->token, sizeof r->token);
    ast_strings_done(&r->list);
    ast_strings_done(&r->second);
    free(r->request_id);
    free(r->name);
    free(r->description);
    free(r);
}

static void write_error(struct admin_request *r)
{
    struct ast_jw w = AST_JW_INIT(&r->out);

    ast_buf_reset(&r->out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "data", ast_str_c(r->failure.msg));
    if (r->request_id)
        ast_jw_kv_string(&w, "request_id", ast_str_c(r->request_id));
    ast_jw_kv_string(&w, "status", AST_STR("Error"));
    ast_jw_end(&w);
}

/* Every request ends here, once; frees it. */
static void finish(struct admin_request *r)
{
    if (r->failure.rc)
        write_error(r);
    r->done(r->arg, ast_buf_view(&r->out));
    request_free(r);
}

struct ast_jw admin_answer_begin(struct admin_request *r)
{
    struct ast_jw w = AST_JW_INIT(&r->out);
    ast_jw_object(&w);
    ast_jw_key(&w, AST_STR("data"));
    return w;
}

void admin_answer_end(struct admin_request *r, struct ast_jw *w)
{
    if (r->request_id)
        ast_jw_kv_string(w, "request_id", ast_str_c(r->request_id));
    ast_jw_kv_string(w, "status", r->row->status);
    ast_jw_end(w);
    (void)ast_buf_check(&r->out, "the answer", &r->failure); /* told as the request's failure */
}

/* {"data":..,"request_id":..,"status":..} */
static void run_row(struct admin_request *r)
{
    struct ast_jw w = admin_answer_begin(r);
    struct ast_err err = AST_ERR_INIT;

    if (r->row->run(r, &w, &err))
        r->failure = err;
    else
        admin_answer_end(r, &w);
}

/* ---- the audit row ---- */

static struct kernel_audit_row audit_row(const struct admin_request *r)
{
    static const enum kernel_audit_right rights[] = { [ADMIN_ALLOWED] = KERNEL_AUDIT_ALLOWED,
                                                      [ADMIN_DENIED] = KERNEL_AUDIT_DENIED,
                                                      [ADMIN_BY_TOKEN] = KERNEL_AUDIT_REDEEM };
    bool has_changed = r->row->changes && r->right != ADMIN_DENIED &&
                       !(r->right == ADMIN_BY_TOKEN && r->failure.rc);
    return (struct kernel_audit_row){
        .caller = ast_principal_str(&r->caller),
        .method = r->row->label,
        .capability = r->capability,
        .target = r->names_target ? ast_principal_str(&r->target) : AST_STR_NONE,
        .params = ast_buf_view(&r->params),
        .right = rights[r->right],
        .error = r->failure.rc ? ast_str_c(r->failure.msg) : AST_STR_NONE,
        .intent = r->has_intent ? &r->intent : NULL,
        .changes = has_changed,
    };
}

static void on_audited(void *arg, enum ast_rc rc, const struct ast_err *err)
{
    struct admin_request *r = arg;
    if (rc)
        r->failure = *err;
    finish(r);
}

/* Records what happened, then answers. */
static void conclude(struct admin_request *r)
{
    struct kernel_audit_row row = audit_row(r);
    if (r->right == ADMIN_DENIED)
        ast_log_fields(AST_LOG_WARN, KERNEL_TARGET, "admin request denied", AST_F_SECURITY,
                       AST_F_STR("principal", ast_principal_str(&r->caller)),
                       AST_F_STR("method", r->row->label), AST_F_STR("capability", r->capability));
    kernel_audit(r->k, &row, on_audited, r);
}

/* ---- rights ---- */

static enum ast_rc authorise(struct admin_request *r)
{
    const struct admin_row *row = r->row;

    if (row->flags & ADMIN_REDEEMS) {
        r->capability = row->global;
        r->right = ADMIN_BY_TOKEN;
        return AST_OK;
    }
    bool own = row->scope == ADMIN_SELF ||
               (row->scope == ADMIN_BY_TARGET && ast_principal_eq(&r->caller, &r->target));

    r->capability = own ? row->own : row->global;
    enum ast_rc rc =
        ast_policy_check(r->k->policy, ast_principal_str(&r->caller), r->capability, &r->failure);
    r->right = rc ? ADMIN_DENIED : ADMIN_ALLOWED;
    return rc;
}

/* Intents, durable together. Returns those that may go on, in front. */
static size_t intend_many(struct admin_request **v, struct kernel_audit_intent *intents, size_t n)
{
    size_t allowed = 0;

    for (size_t i = 0; i < n; i++)
        intents[i].row = audit_row(v[i]);
    kernel_audit_intend_many(v[0]->k, intents, n);
    for (size_t i = 0; i < n; i++) {
        if (intents[i].rc) {
            v[i]->failure = intents[i].err;
            finish(v[i]);
            continue;
        }
        v[i]->intent = intents[i].id;
        v[i]->has_intent = intents[i].has_id;
        v[allowed++] = v[i];
    }
    return allowed;
}

/* Allowed requests of one row: intents, the change, rows, answers. The rows are waited for on the answering thread, so the
 * next change need not wait for this one's. */
static void run_changes(struct admin_request **v, size_t n)
{
    AST_AUTO(ast_cfree) struct kernel_audit_intent *intents = calloc(n, sizeof *intents);

    if (!intents) {
        for (size_t i = 0; i < n; i++) {
            (void)ast_fail(&v[i]->failure, AST_E_NO_MEMORY, "request");
            finish(v[i]);
        }
        return;
    }
    n = intend_many(v, intents, n);
    if (n && v[0]->row->run_many)
        v[0]->row->run_many(v, n);
    for (size_t i = 0; i < n; i++) {
        if (!v[i]->row->run_many)
            run_row(v[i]);
        conclude(v[i]);
    }
}

static void run_change(struct kernel_job *job)
{
    struct admin_request *r = AST_CONTAINER_OF(job, struct admin_request, job);

    if (authorise(r))
        conclude(r);
    else
        run_changes(&r, 1);
}

/* Brings the requests of the first one's row to the front; how many. */
static size_t same_row(struct admin_request **v, size_t n)
{
    size_t same = 0;

    for (size_t i = 0; i < n; i++) {
        if (v[i]->row != v[0]->row)
            continue;
        struct admin_request *r = v[i];
        v[i] = v[same];
        v[same++] = r;
    }
    return same;
}

/* This one and what waits beside it of the rows that are run many at a time. */
static void run_group(struct kernel_job *job)
{
    struct admin_request *first = AST_CONTAINER_OF(job, struct admin_request, job);
    struct kernel_job *jobs[ADMIN_GROUP_MAX] = { job };
    struct admin_request *v[ADMIN_GROUP_MAX];
    size_t n = 1 + kernel_turns_more(&first->k->admin, run_group, jobs + 1, ADMIN_GROUP_MAX - 1);
    size_t allowed = 0;

    for (size_t i = 0; i < n; i++) {
        struct admin_request *r = AST_CONTAINER_OF(jobs[i], struct admin_request, job);
        if (authorise(r))
            conclude(r);
        else
            v[allowed++] = r;
    }
    for (size_t at = 0, same; at < allowed; at += same) {
        same = same_row(v + at, allowed - at);
        run_changes(v + at, same);
    }
}

static void run_read(struct kernel_job *job)
{
    struct admin_request *r = AST_CONTAINER_OF(job, struct admin_request, job);
    run_row(r);
    conclude(r);
}

/* Hands it over, or answers why not. */
static void post(struct admin_request *r, struct kernel_turns *turns,
                 void (*run)(struct kernel_job *job))
{
    r->job.run = run;
    if (kernel_turns_post(turns, ast_principal_str(&r->caller), &r->job, &r->failure))
        finish(r);
}

/* ---- the door ---- */

static enum ast_rc keep_params(struct admin_request *r, const struct ast_json *params,
                               struct ast_err *err)
{
    struct ast_jw w = AST_JW_INIT(&r->params);

    if (!r->row->read || !params)
        return AST_OK; /* spec 02 §20.2: the row has none either */
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "method", r->row->method);
    if (r->row->tell) {
        ast_jw_key(&w, AST_STR("params"));
        r->row->tell(r, params, &w);
    } else {
        AST_AUTO(ast_buf_done) struct ast_buf canonical = AST_BUF_INIT(PARAMS_MAX);
        enum ast_rc rc = ast_json_canonical(params, &canonical);
        if (rc)
            return ast_buf_check(&canonical, "parameters", err);
        ast_jw_key(&w, AST_STR("params"));
        ast_jw_raw(&w, ast_buf_view(&canonical));
    }
    ast_jw_end(&w);
    return ast_buf_check(&r->params, "parameters", err);
}

/* The envelope of spec 02 §13.1; a request without parameters takes absent, null and {} alike (§10.6). */
static enum ast_rc parse(struct admin_request *r, struct ast_str caller,
                         const struct ast_json *request, struct ast_err *err)
{
    const struct ast_json *id = ast_json_member(request, "request_id");
    const struct ast_json *params = ast_json_member(request, "params");
    struct ast_str text, method;

    if (id && ast_json_type(id) != AST_JSON_NULL) {
        if (!ast_json_string(id, &text) || text.n > REQUEST_ID_MAX ||
            ast_str_find_byte(text, 0) != AST_STR_NPOS)
            return ast_fail(err, AST_E_INVALID, "field `request_id`: expected a short string");
        if (!(r->request_id = ast_str_dup(text)))
            return ast_fail(err, AST_E_NO_MEMORY, "request");
    }
    enum ast_rc rc = ast_principal_parse(caller, &r->caller, err);
    if (rc)
        return rc;
    if (!ast_json_string(ast_json_member(request, "method"), &method))
        return ast_fail(err, AST_E_INVALID, "missing field `method`");
    const struct admin_row *row = find_row(method);
    if (!row)
        return ast_fail(err, AST_E_NOT_FOUND,
                        "unknown method '" AST_STR_FMT "', or not available in this build",
                        AST_STR_ARG(ast_str_first(method, 64)));
    if (params && ast_json_type(params) == AST_JSON_NULL)
        params = NULL;
    if (row->read && ast_json_type(params) != AST_JSON_OBJECT &&
        (params || !(row->flags & ADMIN_PARAMS_OPTIONAL)))
        return ast_fail(err, AST_E_INVALID, "missing field `params`");
    if (!row->read && params &&
        !(ast_json_type(params) == AST_JSON_OBJECT && ast_json_count(params) == 0))
        return ast_fail(err, AST_E_INVALID, "method takes no parameters");
    r->row = row;
    rc = row->read ? row->read(r, params, err) : AST_OK;
    return rc ? rc : keep_params(r, params, err);
}

static bool is_limited(struct admin_request *r)
{
    const struct admin_row *row = r->row;
    if (!row->per_minute ||
        kernel_limits_admit(&r->k->limits, row->method, ast_principal_str(&r->caller),
                            row->per_minute, ast_mono_ns()))
        return false;
    (void)ast_fail(&r->failure, AST_E_RATE_LIMITED,
                   "Rate limited: max %u " AST_STR_FMT " requests per minute", row->per_minute,
                   AST_STR_ARG(row->method));
    return true;
}

/* Every redeem that can be seen to fail ends here, without holding up those who change something. */
static void refuse_redeem(struct admin_request *r)
{
    if (kernel_limits_admit(&r->k->limits, AST_STR("failed redeem"), ast_principal_str(&r->caller),
                            FAILED_REDEEMS, ast_mono_ns())) {
        conclude(r);
        return;
    }
    r->failure.rc = AST_OK;
    (void)ast_fail(&r->failure, AST_E_RATE_LIMITED,
                   "Rate limited: max %u failed redeem requests per minute", FAILED_REDEEMS);
    finish(r);
}

void ast_kernel_admin(struct ast_kernel *k, struct ast_str caller, const struct ast_json *request,
                      void (*done)(void *arg, struct ast_str response_json), void *arg)
{
    struct admin_request *r = calloc(1, sizeof *r);

    if (!r) {
        done(arg, AST_STR("{\"data\":\"out of memory\",\"status\":\"Error\"}"));
        return;
    }
    r->k = k;
    r->done = done;
    r->arg = arg;
    r->params.max = PARAMS_MAX;
    r->out.max = ANSWER_MAX;
    r->quotas = (struct ast_quotas)AST_QUOTAS_DEFAULT;
    enum ast_rc rc = parse(r, caller, request, &r->failure);
    if (rc)
        (void)ast_wrap(&r->failure, rc, "invalid request");
    if (rc || is_limited(r)) {
        finish(r); /* no row for these (spec 02 §20.1) */
        return;
    }
    if (authorise(r)) {
        conclude(r);
    } else if (r->row->check && r->row->check(r, &r->failure)) {
        refuse_redeem(r);
    } else if (r->row->changes) {
        post(r, &k->admin, r->row->run_many ? run_group : run_change);
    } else if (r->row->visits_all) {
        post(r, &k->reads, run_read);
    } else {
        run_row(r);
        conclude(r);
    }
}
