/* The one request function of all doors (spec 02 §12). A row says what a method needs and where it runs; the answer goes
 * back through one callback, once. */
#include <stdlib.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "capsule/install.h"
#include "kernel/audit_priv.h"

#include "base/banned.h"

#define REPLY_MAX (8u * 1024 * 1024)

/* The bridge is native, but tools look for the capsule that used to serve the socket (spec 01 §8.5 N9). */
#define BRIDGE_ID AST_STR("astrid-capsule-cli")

struct request_row;

/* A request in progress, on the heap until it was answered. */
struct request {
    struct kernel_job job;
    struct ast_kernel *k;
    const struct request_row *row;
    struct ast_principal caller;
    bool is_continued;      /* a later page of a recorded read */
    bool is_denied;         /* failure holds the denial */
    struct ast_err failure; /* rc: not OK once the answer is an error */
    struct ast_buf params;  /* what the audit row says of the parameters; empty: nothing */
    char *source;           /* InstallCapsule: what to install. Shutdown: the reason. Owned */
    bool workspace, stops;
    struct ast_activity_ask activity; /* GetActivity */
    struct ast_buf out;
    void (*done)(void *arg, struct ast_str response_json);
    void *arg;
};

struct request_row {
    struct ast_str method;
    struct ast_str cap, alternative; /* either form will do; alternative may be empty */
    unsigned per_minute;             /* 0: unlimited */
    bool changes;                    /* runs on the loader thread, with an intent marker before */
    bool records;                    /* the audit row has the parameters */
    enum ast_rc (*read)(struct request *r, const struct ast_json *params,
                        struct ast_err *err); /* NULL: no parameters */
    void (*run)(struct request *r);
    bool blocks;     /* runs on a thread of its own kind, without being a change */
    bool visits_all; /* runs on the reading thread: it looks at every principal */
    bool is_relaxed; /* self:capsule:install will do where the settings say so */
    bool is_private; /* the answer is nobody's but the caller's: see the router */
};

/* ---- answers ---- */

static void answer_error(struct request *r, struct ast_str text)
{
    (void)ast_fail(&r->failure, AST_E_INVALID, AST_STR_FMT, AST_STR_ARG(text));
    struct ast_jw w = AST_JW_INIT(&r->out);
    ast_buf_reset(&r->out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "data", text);
    ast_jw_kv_string(&w, "status", AST_STR("Error"));
    ast_jw_end(&w);
}

/* Opens {"data": — the caller writes the value and then calls answer_end(). */
static struct ast_jw answer_begin(struct request *r)
{
    struct ast_jw w = AST_JW_INIT(&r->out);
    ast_jw_object(&w);
    ast_jw_key(&w, AST_STR("data"));
    return w;
}

static void answer_end(struct ast_jw *w, struct ast_str status)
{
    ast_jw_kv_string(w, "status", status);
    ast_jw_end(w);
}

static void answer_word(struct request *r, struct ast_str word)
{
    struct ast_jw w = answer_begin(r);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "status", word);
    ast_jw_end(&w);
    answer_end(&w, AST_STR("Success"));
}

/* Answers and frees; a shutdown is told to the daemon once its answer left (spec 02 §12.3). */
static void request_finish(struct request *r)
{
    r->done(r->arg, ast_buf_view(&r->out));
    if (r->stops && !r->failure.rc)
        kernel_ask_stop(r->k, r->source);
    ast_buf_done(&r->out);
    ast_buf_done(&r->params);
    free(r->source);
    free(r);
}

/* ---- the audit row ---- */

static struct kernel_audit_row audit_row(const struct request *r)
{
    return (struct kernel_audit_row){
        .caller = ast_principal_str(&r->caller),
        .method = r->row->method,
        .capability = r->row->cap,
        .params = ast_buf_view(&r->params),
        .right = r->is_denied ? KERNEL_AUDIT_DENIED : KERNEL_AUDIT_ALLOWED,
        .error = r->failure.rc ? ast_str_c(r->failure.msg) : AST_STR_NONE,
        .changes = r->row->changes && !r->is_denied,
    };
}

static void on_audited(void *arg, enum ast_rc rc, const struct ast_err *err)
{
    struct request *r = arg;
    if (rc)
        answer_error(r, ast_str_c(err->msg));
    request_finish(r);
}

/* Records the outcome, then answers. */
static void request_conclude(struct request *r)
{
    if (r->out.fail)
        answer_error(r, AST_STR("the answer is too large"));
    if (r->is_continued && !r->failure.rc) {
        request_finish(r);
        return;
    }
    struct kernel_audit_row row = audit_row(r);
    kernel_audit(r->k, &row, on_audited, r);
}

/* The request in wire form, without members nobody asked for. */
static void keep_params(struct request *r, const struct ast_json *params)
{
    struct ast_jw w = AST_JW_INIT(&r->params);

    if (!r->row->records || !params)
        return;
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "method", r->row->method);
    ast_jw_key(&w, AST_STR("params"));
    ast_jw_value(&w, params);
    ast_jw_end(&w);
    if (r->params.fail)
        ast_buf_done(&r->params);
}

/* ---- reads ---- */

static bool write_id(void *arg, const struct ast_capsule_row *row)
{
    if (!ast_str_eq(row->id, BRIDGE_ID))
        ast_jw_string(arg, row->id);
    return true;
}

static void write_ids(struct request *r, struct ast_jw *w)
{
    ast_jw_array(w);
    ast_jw_string(w, BRIDGE_ID);
    ast_capsules_each(r->k->capsules, write_id, w);
    ast_jw_end(w);
}

static void run_list(struct request *r)
{
    struct ast_jw w = answer_begin(r);
    write_ids(r, &w);
    answer_end(&w, AST_STR("Success"));
}

static bool write_commands(void *arg, const struct ast_capsule_row *row)
{
    struct ast_jw *w = arg;

    for (size_t i = 0; i < row->manifest->command_count; i++) {
        const struct ast_manifest_command *c = &row->manifest->commands[i];
        ast_jw_object(w);
        ast_jw_kv_string(w, "description",
                         c->has_description ? c->description : AST_STR("No description"));
        ast_jw_kv_string(w, "name", c->name);
        ast_jw_kv_string(w, "provider_capsule", row->id);
        ast_jw_end(w);
    }
    return true;
}

static void run_commands(struct request *r)
{
    struct ast_jw w = answer_begin(r);
    ast_jw_array(&w);
    ast_capsules_each(r->k->capsules, write_commands, &w);
    ast_jw_end(&w);
    answer_end(&w, AST_STR("Commands"));
}

static bool write_metadata(void *arg, const struct ast_capsule_row *row)
{
    struct ast_jw *w = arg;

    ast_jw_object(w);
    ast_jw_key(w, AST_STR("interceptor_events"));
    ast_jw_array(w);
    for (size_t i = 0; i < row->manifest->subscribe_count; i++)
        if (row->manifest->subscribe[i].handler.n)
            ast_jw_string(w, row->manifest->subscribe[i].pattern);
    ast_jw_end(w);
    ast_jw_kv_string(w, "name", row->manifest->name);
    if (row->env && row->manifest->caps.uplink) { /* ours: what it registered since its load */
        ast_jw_key(w, AST_STR("uplinks"));
        ast_jw_array(w);
        ast_host_uplinks_write(row->env, w);
        ast_jw_end(w);
    }
    ast_jw_end(w);
    return true;
}

static void run_metadata(struct request *r)
{
    struct ast_jw w = answer_begin(r);
    ast_jw_array(&w);
    ast_capsules_each(r->k->capsules, write_metadata, &w);
    ast_jw_end(&w);
    answer_end(&w, AST_STR("CapsuleMetadata"));
}

static void run_status(struct request *r)
{
    struct ast_kernel *k = r->k;
    AST_AUTO(ast_buf_done) struct ast_buf roster = AST_BUF_INIT(REPLY_MAX);
    struct ast_jw roster_writer = AST_JW_INIT(&roster);
    bool anyone = kernel_connections_json(&k->connections, &roster_writer);
    struct ast_jw w = answer_begin(r);

    ast_jw_object(&w);
    ast_jw_kv_u64(&w, "connected_clients", kernel_connections_total(&k->connections));
    if (anyone) {
        ast_jw_key(&w, AST_STR("connections_by_principal"));
        ast_jw_raw(&w, ast_buf_view(&roster));
    }
    ast_jw_kv_bool(&w, "ephemeral", k->ephemeral);
    ast_jw_key(&w, AST_STR("loaded_capsules"));
    write_ids(r, &w);
    ast_jw_kv_u64(&w, "pid", (uint64_t)getpid());
    ast_jw_kv_u64(&w, "uptime_secs", (uint64_t)((ast_mono_ns() - k->booted_ns) / AST_NS_PER_SEC));
    ast_jw_kv_string(&w, "version", ast_str_c(k->version));
    ast_jw_end(&w);
    answer_end(&w, AST_STR("Status"));
}

static enum ast_rc read_activity(struct request *r, const struct ast_json *params,
                                 struct ast_err *err)
{
    const struct ast_json *limit = ast_json_member(params, "limit");
    const struct ast_json *sort = ast_json_member(params, "sort");
    uint64_t n = AST_ACTIVITY_ROWS;
    struct ast_str name = ast_activity_sorts[AST_ACTIVITY_SORT_CPU];
    unsigned i = 0;

    if (limit && (!ast_json_u64(limit, &n) || n < 1 || n > AST_ACTIVITY_MAX_ROWS))
        return ast_fail(err, AST_E_INVALID, "GetActivity: limit is 1 to %u", AST_ACTIVITY_MAX_ROWS);
    if (sort && !ast_json_string(sort, &name))
        return ast_fail(err, AST_E_INVALID, "GetActivity: sort is a string");
    while (i < AST_ACTIVITY_SORT_COUNT && !ast_str_eq(ast_activity_sorts[i], name))
        i++;
    if (i == AST_ACTIVITY_SORT_COUNT)
        return ast_fail(err, AST_E_INVALID,
                        "GetActivity: sort is cpu, calls, memory, queue or drops");
    r->activity =
        (struct ast_activity_ask){ .sort = (enum ast_activity_sort)i, .limit = (unsigned)n };
    return AST_OK;
}

/* Others' figures are the operator's; anybody may see what it uses itself. */
static void run_activity(struct request *r)
{
    AST_AUTO(ast_activity_free) struct ast_activity *a = NULL;
    struct ast_str caller = ast_principal_str(&r->caller);
    struct ast_err err = AST_ERR_INIT;

    if (!ast_policy_holds(r->k->policy, caller, AST_STR("system:status")))
        r->activity.only = caller;
    if (ast_capsules_activity(r->k->capsules, &r->activity, &a, &err)) {
        answer_error(r, ast_str_c(err.msg));
        return;
    }
    struct ast_jw w = answer_begin(r);
    kernel_activity_json(r->k, a, ast_activity_sorts[r->activity.sort], &w);
    answer_end(&w, AST_STR("Activity"));
}

/* ---- changes ---- */

static enum ast_rc read_approve(struct request *r, const struct ast_json *params,
                                struct ast_err *err)
{
    struct ast_str text;
    if (!ast_json_string(ast_json_member(params, "request_id"), &text) ||
        !ast_json_string(ast_json_member(params, "signature"), &text))
        return ast_fail(err, AST_E_INVALID, "ApproveCapability needs request_id and signature");
    return AST_OK;
}

static void run_approve(struct request *r)
{
    answer_error(r, AST_STR("Approval logic not yet implemented in kernel router"));
}

static void run_reload(struct request *r)
{
    struct ast_err err = AST_ERR_INIT;
    if (ast_capsules_load_all(r->k->capsules, &err))
        answer_error(r, ast_str_c(err.msg));
    else
        answer_word(r, AST_STR("reloaded"));
}

static enum ast_rc read_install(struct request *r, const struct ast_json *params,
                                struct ast_err *err)
{
    struct ast_str source;

    if (!ast_json_string(ast_json_member(params, "source"), &source) ||
        !ast_json_bool(ast_json_member(params, "workspace"), &r->workspace))
        return ast_fail(err, AST_E_INVALID, "InstallCapsule needs source and workspace");
    if (ast_str_find_byte(source, 0) != AST_STR_NPOS)
        return ast_fail(err, AST_E_INVALID, "source holds a NUL byte");
    r->source = ast_str_dup(source);
    return r->source ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "install");
}

static bool is_remote(struct ast_str source)
{
    static const char *const prefixes[] = { "https://", "http://", "github.com/", "@", "gh:" };

    for (size_t i = 0; i < AST_ARRAY_LEN(prefixes); i++)
        if (ast_str_starts(source, ast_str_c(prefixes[i])))
            return true;
    return false;
}

/* Checks 1 to 3 of spec 02 §12.5; the path to install from lands in *ret. */
static enum ast_rc check_source(struct request *r, const char **ret, struct ast_err *err)
{
    struct ast_str source = ast_str_c(r->source), file = AST_STR("file://");

    if (r->workspace)
        return ast_fail(
            err, AST_E_UNSUPPORTED,
            "workspace installs are CLI-only \xe2\x80\x94 the daemon has no meaningful CWD; use a system "
            "install (drop the --workspace flag) instead");
    if (is_remote(source))
        return ast_fail(err, AST_E_UNSUPPORTED,
                        "kernel-side install accepts only local paths; resolve '" AST_STR_FMT
                        "' via the gateway registry route first (the daemon never fetches URLs)",
                        AST_STR_ARG(source));
    if (ast_str_starts(source, file))
        source = ast_str_from(source, file.n);
    if (!ast_fs_exists(source.p))
        return ast_fail(err, AST_E_NOT_FOUND, "source path does not exist: %s", source.p);
    if (!ast_fs_is_dir(source.p) &&
        !(source.n >= 8 &&
          ast_str_eq_nocase(ast_str_from(source, source.n - 8), AST_STR(".capsule"))))
        return ast_fail(
            err, AST_E_INVALID,
            "source must be a directory containing Capsule.toml or a *.capsule archive: %s",
            source.p);
    *ret = source.p;
    return AST_OK;
}

static void run_install(struct request *r)
{
    AST_AUTO(ast_install_result_done) struct ast_install_result result = { 0 };
    struct ast_install_options opt = { .source = ast_str_c(r->source),
                                       .run_hook = ast_capsules_run_install_hook,
                                       .run_hook_arg = r->k->capsules,
                                       .try_load = ast_capsules_try_install,
                                       .try_load_arg = r->k->capsules };
    struct ast_err err = AST_ERR_INIT;
    const char *path = NULL;
    enum ast_rc rc = check_source(r, &path, &err);

    if (!rc && (rc = ast_install(r->k->home, path, &opt, &result, &err)))
        ast_wrap(&err, rc, "install failed");
    if (!rc && ast_capsules_load_all(r->k->capsules, &err))
        ast_log_error(KERNEL_TARGET, "capsule installed, but the load pass failed: %s", err.msg);
    const char *why =
        rc ? NULL : ast_capsules_failure(r->k->capsules, ast_str_c(result.capsule_id));
    if (why)
        rc = ast_fail(&err, AST_E_INTERNAL, "installed, but it does not serve: %s", why);
    if (rc) {
        answer_error(r, ast_str_c(err.msg));
        return;
    }
    AST_AUTO(ast_buf_done) struct ast_buf json = AST_BUF_INIT(REPLY_MAX);
    ast_install_result_json(&result, &json);
    struct ast_jw w = answer_begin(r);
    ast_jw_raw(&w, json.fail ? AST_STR("null") : ast_buf_view(&json));
    answer_end(&w, AST_STR("Success"));
}

static enum ast_rc read_shutdown(struct request *r, const struct ast_json *params,
                                 struct ast_err *err)
{
    struct ast_str reason = ast_json_str_or(params, AST_STR("reason"), AST_STR("requested"));
    r->source = ast_str_dup(ast_str_first(reason, 256));
    r->stops = true;
    return r->source ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "shutdown");
}

static void run_shutdown(struct request *r)
{
    answer_word(r, AST_STR("shutting_down"));
}

/* A page that goes on with a read that was recorded makes no row of its own. */
static enum ast_rc read_query(struct request *r, const struct ast_json *params, struct ast_err *err)
{
    r->is_continued = ast_json_str_or(params, AST_STR("cursor"), AST_STR_NONE).n > 0;
    struct ast_jw w = answer_begin(r);
    enum ast_rc rc = kernel_audit_query(r->k, ast_principal_str(&r->caller), params, &w, err);
    if (!rc)
        answer_end(&w, AST_STR("Success"));
    return rc;
}

static void run_query(struct request *r)
{
    (void)r; /* answered while its parameters were there */
}

static void run_verify(struct request *r)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_jw w = answer_begin(r);
    if (kernel_audit_verify(r->k, &w, &err))
        answer_error(r, ast_str_c(err.msg));
    else
        answer_end(&w, AST_STR("Success"));
}

static const struct request_row rows[] = {
#define S(lit)                                                                                     \
    {                                                                                              \
        lit, sizeof(lit) - 1                                                                       \
    }
    /* method                  capability                    either form      /min  changes records read  run */
    { S("GetStatus"), S("system:status"), S(""), 0, false, false, NULL, run_status },
    { S("ListCapsules"), S("self:capsule:list"), S("capsule:list"), 0, false, false, NULL,
      run_list },
    { S("GetCommands"), S("self:capsule:list"), S("capsule:list"), 0, false, false, NULL,
      run_commands },
    { S("GetCapsuleMetadata"), S("self:capsule:list"), S("capsule:list"), 0, false, false, NULL,
      run_metadata },
    /* Ours: what capsules and principals do. */
    { S("GetActivity"), S("self:capsule:list"), S("system:status"), 0, false, false, read_activity,
      run_activity, .is_private = true, .visits_all = true },
    /* Ours: own rows, all rows with audit:read_all. */
    { S("AuditQuery"), S("self:audit:read"), S("audit:read_all"), 0, false, true, read_query,
      run_query, .is_private = true },
    { S("AuditVerify"), S("audit:read_all"), S(""), 10, false, false, NULL, run_verify,
      .is_private = true, .blocks = true },
    { S("ReloadCapsules"), S("self:capsule:reload"), S("capsule:reload"), 5, true, false, NULL,
      run_reload },
    /* A host-wide install needs the global form (spec README §5 gap 15). */
    { S("InstallCapsule"), S("capsule:install"), S(""), 10, true, true, read_install, run_install,
      .is_relaxed = true },
    { S("ApproveCapability"), S("self:approval:respond"), S(""), 10, false, false, read_approve,
      run_approve },
    /* Recorded before it acts, and never refused for want of a record (spec 09 §14.4). */
    { S("Shutdown"), S("system:shutdown"), S(""), 1, false, true, read_shutdown, run_shutdown },
#undef S
};

static const struct request_row *find_row(struct ast_str method)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++)
        if (ast_str_eq(rows[i].method, method))
            return &rows[i];
    return NULL;
}

bool kernel_request_is_private(struct ast_str method)
{
    const struct request_row *row = find_row(method);
    return row && row->is_private;
}

struct ast_str kernel_request_capability(size_t i)
{
    return i < AST_ARRAY_LEN(rows) ? rows[i].cap : AST_STR_NONE;
}

static enum ast_rc authorise(struct ast_kernel *k, struct ast_str caller,
                             const struct request_row *row, struct ast_err *err)
{
    if (row->alternative.n && ast_policy_holds(k->policy, caller, row->alternative))
        return AST_OK;
    if (row->is_relaxed && k->agents_may_install &&
        ast_policy_holds(k->policy, caller, AST_STR("self:capsule:install")))
        return AST_OK;
    return ast_policy_check(k->policy, caller, row->cap, err);
}

/* Changes: intent, handler, row, answer. The thread may block. */
static void run_on_loader(struct kernel_job *job)
{
    struct request *r = AST_CONTAINER_OF(job, struct request, job);
    struct ast_err err = AST_ERR_INIT;
    struct kernel_audit_row row = audit_row(r);
    struct ast_uuid intent;
    bool has_intent = false;

    if (!r->row->changes) {
        r->row->run(r);
        request_conclude(r);
        return;
    }
    if (kernel_audit_intend(r->k, &row, &intent, &has_intent, &err)) {
        answer_error(r, ast_str_c(err.msg));
        request_finish(r);
        return;
    }
    r->row->run(r);
    if (r->out.fail)
        answer_error(r, AST_STR("the answer is too large"));
    row = audit_row(r);
    row.intent = has_intent ? &intent : NULL;
    if (kernel_audit_wait(r->k, &row, &err))
        answer_error(r, ast_str_c(err.msg));
    request_finish(r);
}

/* Rate, rights, parameters, in that order (spec 01 §9.4). */
static enum ast_rc admit(struct request *r, const struct ast_json *params, struct ast_err *err)
{
    const struct request_row *row = r->row;
    struct ast_str caller = ast_principal_str(&r->caller);

    if (row->per_minute &&
        !kernel_limits_admit(&r->k->limits, row->method, caller, row->per_minute, ast_mono_ns())) {
        ast_log_fields(AST_LOG_WARN, KERNEL_TARGET, "kernel request rate limited", AST_F_SECURITY,
                       AST_F_STR("principal", caller), AST_F_STR("method", row->method));
        return ast_fail(err, AST_E_RATE_LIMITED,
                        "Rate limited: max %u " AST_STR_FMT " requests per minute", row->per_minute,
                        AST_STR_ARG(row->method));
    }
    enum ast_rc rc = authorise(r->k, caller, row, err);
    if (rc) {
        r->is_denied = true;
        ast_log_fields(AST_LOG_WARN, KERNEL_TARGET, "kernel request denied", AST_F_SECURITY,
                       AST_F_STR("principal", caller), AST_F_STR("method", row->method),
                       AST_F_STR("required", row->cap));
        return rc;
    }
    return row->read ? row->read(r, params, err) : AST_OK;
}

static void run_elsewhere(struct request *r)
{
    struct ast_err err = AST_ERR_INIT;

    r->job.run = run_on_loader;
    if (r->row->visits_all) {
        if (!kernel_turns_post(&r->k->reads, ast_principal_str(&r->caller), &r->job, &err))
            return;
        answer_error(r, ast_str_c(err.msg));
        request_finish(r);
        return;
    }
    if (kernel_loader_post(r->row->changes ? &r->k->loader : &r->k->verifier, &r->job))
        return;
    answer_error(r, AST_STR("the daemon is shutting down"));
    request_finish(r);
}

/* Out of memory before there was a request to answer for. */
static void answer_nothing(void (*done)(void *arg, struct ast_str response_json), void *arg)
{
    done(arg, AST_STR("{\"data\":\"out of memory\",\"status\":\"Error\"}"));
}

void ast_kernel_request(struct ast_kernel *k, struct ast_str caller, const struct ast_json *request,
                        void (*done)(void *arg, struct ast_str response_json), void *arg)
{
    struct request *r = calloc(1, sizeof *r);
    struct ast_str method = ast_json_str_or(request, AST_STR("method"), AST_STR(""));
    const struct ast_json *params = ast_json_member(request, "params");
    struct ast_err err = AST_ERR_INIT;

    if (!r) {
        answer_nothing(done, arg);
        return;
    }
    r->k = k;
    r->done = done;
    r->arg = arg;
    r->out.max = r->params.max = REPLY_MAX;
    enum ast_rc rc = ast_principal_parse(caller, &r->caller, &err);
    r->row = find_row(method);
    if (!rc && !r->row)
        rc = ast_fail(&err, AST_E_NOT_FOUND, "unknown method '" AST_STR_FMT "'",
                      AST_STR_ARG(ast_str_first(method, 64)));
    if (!rc)
        rc = admit(r, params, &err);
    ast_log_debug(
        "astrid.audit.request", "method=" AST_STR_FMT " caller=" AST_STR_FMT " outcome=%s",
        AST_STR_ARG(ast_str_first(method, 64)), AST_STR_ARG(caller), rc ? err.msg : "admitted");
    if (rc)
        answer_error(r, ast_str_c(err.msg));
    if (rc && !r->is_denied) {
        request_finish(r); /* malformed or limited: no row (spec 02 §20.1) */
        return;
    }
    keep_params(r, params);
    if (!rc && (r->row->changes || r->row->blocks || r->row->visits_all)) {
        run_elsewhere(r);
        return;
    }
    if (!rc)
        r->row->run(r);
    request_conclude(r);
}
