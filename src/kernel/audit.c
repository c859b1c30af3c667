/* Rows and live events of requests, and the log's life inside the kernel.
 *
 *     handler -> kernel_audit() -> store's writer: durable -> answering thread: event, then the caller's done
 *
 * The answering thread exists because the writer must not run other people's code: publishing wakes whoever listens.
 */
#include "kernel/audit_priv.h"

#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "crypto/hash.h"

#include "base/banned.h"

#define AUDIT_TOPIC  AST_STR("astrid.v1.audit.entry")
#define AUDIT_TARGET "astrid.audit"
#define EVENT_MAX    (256u * 1024)
#define PARAMS_MAX   (64u * 1024)
#define ANCHOR_MS    10000u

/* ---- what a row says ---- */

/* Parameters that would make the log a place to store things are recorded by size and hash. */
static enum ast_rc write_params(struct ast_str params, struct ast_buf *out, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    char hash[AST_BLAKE3_HEX];

    if (!params.n)
        return AST_OK;
    enum ast_rc rc = ast_json_parse(params, &doc, err);
    if (rc)
        return ast_wrap(err, rc, "audit parameters");
    if (params.n <= PARAMS_MAX) {
        (void)ast_json_canonical(ast_json_root(doc), out); /* checked below */
    } else {
        struct ast_jw w = AST_JW_INIT(out);
        ast_blake3_hex(params, hash);
        ast_jw_object(&w);
        ast_jw_kv_string(&w, "method",
                         ast_json_str_or(ast_json_root(doc), AST_STR("method"), AST_STR("?")));
        ast_jw_kv_u64(&w, "params_bytes", params.n);
        ast_jw_kv_string(&w, "params_hash", ast_str_c(hash));
        ast_jw_end(&w);
    }
    return ast_buf_check(out, "audit parameters", err);
}

/* A draft and the memory its texts lie in. */
struct draft {
    struct ast_audit_draft d;
    struct ast_buf params, reason;
};
static void draft_done_auto(struct draft *d)
{
    ast_buf_done(&d->params);
    ast_buf_done(&d->reason);
}

static struct ast_str text_or_nothing(struct ast_str s)
{
    return s.n ? s : AST_STR_NONE;
}

static enum ast_rc make_draft(const struct kernel_audit_row *row, struct draft *ret,
                              struct ast_err *err)
{
    bool is_denied =
        row->right == KERNEL_AUDIT_DENIED || (row->right == KERNEL_AUDIT_REDEEM && row->error.p);
    struct ast_str reason = row->error;

    enum ast_rc rc = write_params(row->params, &ret->params, err);
    if (rc)
        return rc;
    if (!is_denied && row->right == KERNEL_AUDIT_REDEEM) {
        reason = AST_STR("redeem (invite or pair-device): token is the auth");
    } else if (!is_denied && row->right == KERNEL_AUDIT_OWN) {
        reason = AST_STR("the caller's own: being the caller is the right");
    } else if (!is_denied) {
        (void)ast_buf_addf(&ret->reason, "policy allow: " AST_STR_FMT " holds " AST_STR_FMT,
                           AST_STR_ARG(row->caller), AST_STR_ARG(row->capability));
        reason = ast_buf_view(&ret->reason);
    }
    ret->d = (struct ast_audit_draft){
        .principal = row->caller,
        .action = AST_AUDIT_ACTION_admin_request,
        .action_values = { { .text = row->method },
                           { .text = row->capability },
                           { .text = text_or_nothing(row->target) },
                           { .text = text_or_nothing(ast_buf_view(&ret->params)) } },
        .proof = is_denied ? AST_AUDIT_PROOF_denied : AST_AUDIT_PROOF_system,
        .proof_values = { { .text = reason } },
        .is_failure = row->error.p != NULL,
        .outcome = row->error,
    };
    return ast_buf_check(&ret->reason, "audit entry", err);
}

/* ---- the live event (spec 02 §20.4) ---- */

static void string_or_null(struct ast_jw *w, struct ast_str s)
{
    if (s.n)
        ast_jw_string(w, s);
    else
        ast_jw_null(w);
}

static void write_event(const struct kernel_audit_row *row, struct ast_str params,
                        struct ast_buf *out)
{
    struct ast_jw w = AST_JW_INIT(out);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "method", row->method);
    ast_jw_kv_string(&w, "outcome", row->error.p ? AST_STR("failure") : AST_STR("success"));
    ast_jw_key(&w, AST_STR("params"));
    if (params.n)
        ast_jw_raw(&w, params);
    else
        ast_jw_null(&w);
    ast_jw_kv_string(&w, "principal", row->caller);
    ast_jw_kv_string(&w, "required_capability", row->capability);
    ast_jw_key(&w, AST_STR("target_principal"));
    string_or_null(&w, row->target);
    ast_jw_kv_u64(&w, "ts_epoch", ast_wall_secs());
    ast_jw_end(&w);
}

static void publish(struct ast_kernel *k, struct ast_str caller, const struct ast_buf *event)
{
    struct ast_msg_spec spec = { .topic = AUDIT_TOPIC,
                                 .principal = caller,
                                 .origin = "kernel_router::audit" };
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg;

    enum ast_rc rc = ast_buf_check(event, "audit event", &err);
    if (!rc)
        rc = ast_msg_trusted(&spec, AST_PAYLOAD_RAW_JSON, ast_buf_view(event), &msg, &err);
    if (rc)
        ast_log_error(AUDIT_TARGET, "audit event is lost: %s", err.msg);
    else
        ast_bus_publish(k->bus, msg);
}

/* ---- when the log cannot be written (spec 09 §14.4) ---- */

static enum ast_rc judge(struct ast_kernel *k, bool changes, enum ast_rc rc, struct ast_err *err)
{
    if (!rc)
        return AST_OK;
    if (changes && k->audit_fail_closed) {
        ast_log_fields(AST_LOG_ERROR, AUDIT_TARGET, "audit failed (fail-closed)", AST_F_SECURITY,
                       AST_F_CSTR("error", err->msg));
        return ast_wrap(err, rc, "audit failed (fail-closed)");
    }
    ast_log_fields(AST_LOG_WARN, AUDIT_TARGET,
                   "Failed to persist admin-request audit entry \xe2\x80\x94 continuing",
                   AST_F_SECURITY, AST_F_CSTR("error", err->msg));
    return AST_OK;
}

/* ---- recording ---- */

/* A row on its way. Owner: kernel_audit(), the writer, then the answering thread. */
struct record {
    struct kernel_job job;
    struct ast_kernel *k;
    struct ast_principal caller;
    bool changes;
    struct ast_buf event;
    kernel_audit_done_fn *done;
    void *arg;
    enum ast_rc rc;
    struct ast_err err;
};

static void run_record(struct kernel_job *job)
{
    struct record *r = AST_CONTAINER_OF(job, struct record, job);
    enum ast_rc rc = judge(r->k, r->changes, r->rc, &r->err);

    publish(r->k, ast_principal_str(&r->caller), &r->event);
    r->done(r->arg, rc, &r->err);
    ast_buf_done(&r->event);
    free(r);
}

static void on_stored(void *arg, enum ast_rc rc, const struct ast_err *err)
{
    struct record *r = arg;

    r->rc = rc;
    r->err = *err;
    r->job.run = run_record;
    if (!kernel_loader_post(&r->k->answers, &r->job))
        run_record(&r->job); /* stopping: nobody is left to be held up */
}

static enum ast_rc begin(struct ast_kernel *k, const struct kernel_audit_row *row,
                         struct record **ret_record, struct draft *draft, struct ast_err *err)
{
    struct record *r = calloc(1, sizeof *r);
    if (!r)
        return ast_fail(err, AST_E_NO_MEMORY, "audit entry");
    enum ast_rc rc = ast_principal_parse(row->caller, &r->caller, err);
    if (!rc)
        rc = make_draft(row, draft, err);
    if (rc) {
        free(r);
        return rc;
    }
    r->k = k;
    r->changes = row->changes;
    r->event.max = EVENT_MAX;
    write_event(row, ast_buf_view(&draft->params), &r->event);
    *ret_record = r;
    return AST_OK;
}

#define DRAFT_INIT                                                                                 \
    {                                                                                              \
        .params = AST_BUF_INIT(2 * PARAMS_MAX), .reason = AST_BUF_INIT(4096)                       \
    }

void kernel_audit(struct ast_kernel *k, const struct kernel_audit_row *row,
                  kernel_audit_done_fn *done, void *arg)
{
    __attribute__((cleanup(draft_done_auto))) struct draft draft = DRAFT_INIT;
    struct ast_err err = AST_ERR_INIT;
    struct record *r;

    enum ast_rc rc = begin(k, row, &r, &draft, &err);
    if (rc) {
        rc = judge(k, row->changes, rc, &err);
        done(arg, rc, &err);
        return;
    }
    r->done = done;
    r->arg = arg;
    ast_audit_append(k->audit, &draft.d, row->intent, on_stored, r);
}

enum ast_rc kernel_audit_wait(struct ast_kernel *k, const struct kernel_audit_row *row,
                              struct ast_err *err)
{
    __attribute__((cleanup(draft_done_auto))) struct draft draft = DRAFT_INIT;
    struct ast_err why = AST_ERR_INIT;
    struct record *r;

    enum ast_rc rc = begin(k, row, &r, &draft, &why);
    if (!rc) {
        rc = ast_audit_append_wait(k->audit, &draft.d, row->intent, &why);
        publish(k, row->caller, &r->event);
        ast_buf_done(&r->event);
        free(r);
    }
    rc = judge(k, row->changes, rc, &why);
    return rc ? ast_fail(err, rc, "%s", why.msg) : AST_OK;
}

void kernel_audit_intend_many(struct ast_kernel *k, struct kernel_audit_intent *v, size_t n)
{
    AST_AUTO(ast_cfree) struct draft *drafts = calloc(n, sizeof *drafts);
    AST_AUTO(ast_cfree) struct ast_audit_marker *markers = calloc(n, sizeof *markers);
    size_t ready = 0;

    for (size_t i = 0; i < n; i++) {
        v[i].err = (struct ast_err)AST_ERR_INIT;
        v[i].rc = drafts && markers ? AST_OK : ast_fail(&v[i].err, AST_E_NO_MEMORY, "audit intent");
        if (v[i].rc)
            continue;
        drafts[i] = (struct draft)DRAFT_INIT;
        v[i].rc = make_draft(&v[i].row, &drafts[i], &v[i].err);
        if (!v[i].rc)
            markers[ready++].draft = &drafts[i].d;
    }
    if (ready)
        ast_audit_intend_many(k->audit, markers, ready);
    for (size_t i = 0, at = 0; i < n; i++) {
        if (!v[i].rc) {
            const struct ast_audit_marker *m = &markers[at++];
            v[i].id = m->id;
            v[i].rc = m->rc;
            v[i].err = m->err;
        }
        v[i].has_id = !v[i].rc;
        v[i].rc = judge(k, /* changes= */ true, v[i].rc, &v[i].err);
        if (drafts)
            draft_done_auto(&drafts[i]);
    }
}

enum ast_rc kernel_audit_intend(struct ast_kernel *k, const struct kernel_audit_row *row,
                                struct ast_uuid *ret_intent, bool *ret_has_intent,
                                struct ast_err *err)
{
    struct kernel_audit_intent v = { .row = *row };

    kernel_audit_intend_many(k, &v, 1);
    if (v.rc)
        return ast_fail(err, v.rc, "%s", v.err.msg);
    *ret_intent = v.id;
    *ret_has_intent = v.has_id;
    return AST_OK;
}

/* ---- life ---- */

/* The log's own background work. Owner: the boot thread; the walk runs on a thread of its own. */
struct kernel_audit {
    struct ast_kernel *k;
    pthread_t walker;
    bool is_walking;
    atomic_bool stop;
    struct ast_timer *timer;
    char *anchors;     /* owned path */
    char *checkpoint;  /* owned path */
    bool is_anchoring; /* main loop: a job is queued */
};

static void report_issue(const struct ast_audit_issue *i)
{
    char text[AST_AUDIT_ISSUE_TEXT], session[AST_UUID_TEXT];
    ast_log_fields(AST_LOG_ERROR, AUDIT_TARGET, "Audit chain integrity violation detected",
                   AST_F_SECURITY, AST_F_STR("session_id", ast_uuid_format(&i->session, session)),
                   AST_F_CSTR("issue", ast_audit_issue_text(i, text)), AST_F_U64("seq", i->seq));
}

/* In the background: the boot does not wait for the whole of history (spec 09 §14.3). */
static void *verify_all(void *arg)
{
    struct kernel_audit *ka = arg;
    AST_AUTO(ast_audit_report_done) struct ast_audit_report report = { 0 };
    struct ast_audit_scope scope = { .anchors = ka->anchors,
                                     .checkpoint = ka->checkpoint,
                                     .stop = &ka->stop };
    struct ast_err err = AST_ERR_INIT;

    enum ast_rc rc = ast_audit_verify(ka->k->audit, &scope, &report, &err);
    if (rc == AST_E_CANCELLED)
        return NULL;
    if (rc) {
        ast_log_fields(AST_LOG_ERROR, AUDIT_TARGET, "Audit chain verification failed to run",
                       AST_F_SECURITY, AST_F_CSTR("error", err.msg));
        return NULL;
    }
    ast_vec_each (&report.issues, i)
        report_issue(i);
    if (!ast_audit_report_is_valid(&report))
        ast_log_fields(AST_LOG_ERROR, AUDIT_TARGET,
                       "Audit chain verification found tampered sessions", AST_F_SECURITY,
                       AST_F_U64("total_sessions", report.sessions),
                       AST_F_U64("tampered_sessions", report.tampered_sessions));
    else if (report.sessions)
        ast_log_info(AUDIT_TARGET, "Audit chain verification passed for all sessions");
    return NULL;
}

struct anchor_job {
    struct kernel_job job;
    struct ast_post done;
    struct kernel_audit *ka;
};

static void on_anchored(struct ast_post *post)
{
    struct anchor_job *j = AST_CONTAINER_OF(post, struct anchor_job, done);
    j->ka->is_anchoring = false;
    free(j);
}

static void write_anchors(struct kernel_audit *ka)
{
    struct ast_err err = AST_ERR_INIT;
    if (ast_audit_anchor(ka->k->audit, ka->anchors, &err))
        ast_log_error(AUDIT_TARGET, "audit anchors are not written: %s", err.msg);
}

static void run_anchor(struct kernel_job *job)
{
    struct anchor_job *j = AST_CONTAINER_OF(job, struct anchor_job, job);
    write_anchors(j->ka);
    j->done.fn = on_anchored;
    ast_loop_post(j->ka->k->loop, &j->done);
}

static void on_anchor_time(void *arg)
{
    struct kernel_audit *ka = arg;
    struct anchor_job *j = ka->is_anchoring ? NULL : calloc(1, sizeof *j);

    if (!j)
        return; /* the one before still waits, or no memory: the next tick tries again */
    j->ka = ka;
    j->job.run = run_anchor;
    ka->is_anchoring = kernel_loader_post(&ka->k->loader, &j->job);
    if (!ka->is_anchoring)
        free(j);
}

enum ast_rc kernel_audit_open(struct ast_kernel *k, struct ast_err *err)
{
    struct ast_audit_config cfg = { .store = k->store,
                                    .key = &k->runtime_key,
                                    .session = k->session };
    uint64_t interrupted = 0;

    enum ast_rc rc = ast_audit_open(&cfg, &k->audit, err);
    if (rc)
        return rc;
    struct ast_err why = AST_ERR_INIT;
    if (ast_audit_settle(k->audit, &interrupted, &why)) /* a full disk must not keep us down */
        ast_log_error(AUDIT_TARGET, "interrupted requests are not recorded: %s", why.msg);
    else if (interrupted)
        ast_log_warn(AUDIT_TARGET, "%llu requests were interrupted; recorded as failures",
                     (unsigned long long)interrupted);
    rc = kernel_loader_start(&k->answers, err);
    return rc ? rc : kernel_loader_start(&k->verifier, err);
}

const atomic_bool *kernel_audit_stopping(struct ast_kernel *k)
{
    return k->audit_life ? &k->audit_life->stop : NULL;
}

enum ast_rc kernel_audit_start(struct ast_kernel *k, struct ast_err *err)
{
    struct kernel_audit *ka = calloc(1, sizeof *ka);
    if (!ka)
        return ast_fail(err, AST_E_NO_MEMORY, "audit");
    k->audit_life = ka;
    ka->k = k;
    ka->anchors = ast_home_path(k->home, KERNEL_AUDIT_ANCHORS);
    ka->timer = ast_timer_new(k->loop, on_anchor_time, ka);
    ka->checkpoint = ast_home_path(k->home, KERNEL_AUDIT_CHECKPOINT);
    if (!ka->anchors || !ka->checkpoint || !ka->timer)
        return ast_fail(err, AST_E_NO_MEMORY, "audit");
    enum ast_rc rc = ast_thread_start(&ka->walker, "ast-audit", verify_all, ka, err);
    ka->is_walking = !rc;
    if (!rc)
        ast_timer_start(ka->timer, ANCHOR_MS, ANCHOR_MS);
    return rc;
}

/* The loader is stopped, so nobody appends any more. */
void kernel_audit_stop(struct ast_kernel *k)
{
    struct kernel_audit *ka = k->audit_life;

    if (ka) {
        atomic_store_explicit(&ka->stop, true, memory_order_relaxed); /* joined below */
        if (ka->is_walking)
            pthread_join(ka->walker, NULL);
        ast_timer_close(ka->timer);
    }
    kernel_loader_stop(&k->verifier); /* what it still has fails at once, and leaves its row */
    kernel_loader_stop(&k->answers);
    if (ka && k->audit && ka->is_walking)
        write_anchors(ka);
    kernel_approvals_close(k);
    ast_audit_close(k->audit); /* waits for rows in flight, whose writers look at `answers` */
    k->audit = NULL;
    kernel_loader_done(&k->answers);
    kernel_loader_done(&k->verifier);
    if (ka) {
        free(ka->anchors);
        free(ka->checkpoint);
    }
    free(ka);
    k->audit_life = NULL;
}
