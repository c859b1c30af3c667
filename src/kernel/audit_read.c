/* Reading the audit log for a caller: AuditQuery and AuditVerify, ours beside the original's requests.
 *
 * Invariant: who does not hold audit:read_all sees rows of his own acting only, whatever he asks for (spec 03 §23.2).
 */
#include "kernel/audit_priv.h"

#include "base/fs.h"

#include "base/banned.h"

#define PAGE_BYTES (6u * 1024 * 1024) /* a page ends early; the answer has a ceiling */

struct page {
    struct ast_jw *w;
    bool is_whole; /* signed entries as stored, else the rows of spec 03 §23.3 */
};

static void copy_or_null(struct ast_jw *w, struct ast_str key, const struct ast_json *v)
{
    ast_jw_key(w, key);
    if (v)
        ast_jw_value(w, v);
    else
        ast_jw_null(w);
}

void kernel_audit_row_write(struct ast_jw *w, const struct ast_json *root,
                            const struct ast_audit_entry *e)
{
    const struct ast_json *action = ast_json_member(root, "action");
    const struct ast_json *method = ast_json_member(action, "method");

    ast_jw_object(w);
    ast_jw_kv_u64(w, "ts_epoch", (uint64_t)(e->time_ns / INT64_C(1000000000)));
    copy_or_null(w, AST_STR("method"), method ? method : ast_json_member(action, "type"));
    copy_or_null(w, AST_STR("required_capability"), ast_json_member(action, "required_capability"));
    copy_or_null(w, AST_STR("principal"), ast_json_member(root, "principal"));
    copy_or_null(w, AST_STR("target_principal"), ast_json_member(action, "target_principal"));
    copy_or_null(w, AST_STR("params"), ast_json_member(action, "params"));
    ast_jw_kv_string(w, "outcome", e->is_success ? AST_STR("success") : AST_STR("failure"));
    ast_jw_end(w);
}

static bool add_row(void *arg, uint64_t seq, struct ast_str text)
{
    struct page *p = arg;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_audit_entry e;

    (void)seq;
    if (ast_audit_entry_read(text, &e, NULL) || ast_json_parse(text, &doc, NULL))
        return true; /* damaged: verifying tells */
    if (p->is_whole)
        ast_jw_raw(p->w, text);
    else
        kernel_audit_row_write(p->w, ast_json_root(doc), &e);
    return p->w->out->n < PAGE_BYTES;
}

static void cursor_or_null(struct ast_jw *w, struct ast_str key, const char *cursor)
{
    ast_jw_key(w, key);
    if (cursor[0])
        ast_jw_string(w, ast_str_c(cursor));
    else
        ast_jw_null(w);
}

static bool read_u64(const struct ast_json *params, struct ast_str key, uint64_t *ret)
{
    const struct ast_json *v = ast_json_get(params, key);
    return ast_json_type(v) == AST_JSON_ABSENT || ast_json_type(v) == AST_JSON_NULL ||
           ast_json_u64(v, ret);
}

static bool flag(const struct ast_json *params, struct ast_str key)
{
    bool is_set = false;
    return ast_json_bool(ast_json_get(params, key), &is_set) && is_set;
}

enum ast_rc kernel_audit_query(struct ast_kernel *k, struct ast_str caller,
                               const struct ast_json *params, struct ast_jw *w, struct ast_err *err)
{
    uint64_t limit = 0;
    struct page p = { .w = w, .is_whole = flag(params, AST_STR("entries")) };
    struct ast_str wanted = ast_json_str_or(params, AST_STR("principal"), AST_STR_NONE);
    struct ast_audit_query q = {
        .filter = { .session = k->session,
                    .method = ast_json_str_or(params, AST_STR("method"), AST_STR_NONE),
                    .oldest_first = flag(params, AST_STR("oldest_first")) },
        .cursor = ast_json_str_or(params, AST_STR("cursor"), AST_STR_NONE),
        .tail = flag(params, AST_STR("tail")),
        .each = add_row,
        .arg = &p,
    };
    struct ast_audit_page page = { 0 };

    if (!read_u64(params, AST_STR("since"), &q.filter.since) ||
        !read_u64(params, AST_STR("until"), &q.filter.until) ||
        !read_u64(params, AST_STR("limit"), &limit))
        return ast_fail(err, AST_E_INVALID, "since, until and limit must be unsigned integers");
    if (limit > AST_AUDIT_MAX_PAGE)
        return ast_fail(err, AST_E_INVALID, "limit %llu exceeds the cap of %u",
                        (unsigned long long)limit, AST_AUDIT_MAX_PAGE);
    q.limit = limit ? (unsigned)limit : 100;
    bool sees_all = ast_policy_holds(k->policy, caller, AST_STR("audit:read_all"));
    q.filter.has_principal = !sees_all || wanted.n;
    q.filter.principal = sees_all ? wanted : caller;
    ast_jw_object(w);
    ast_jw_key(w, AST_STR("entries"));
    ast_jw_array(w);
    enum ast_rc rc = ast_audit_query(k->audit, &q, &page, err);
    if (rc)
        return rc;
    ast_jw_end(w);
    cursor_or_null(w, AST_STR("newest_cursor"), page.newest);
    cursor_or_null(w, AST_STR("next_cursor"), page.next);
    ast_jw_end(w);
    return AST_OK;
}

enum ast_rc kernel_audit_verify(struct ast_kernel *k, struct ast_jw *w, struct ast_err *err)
{
    AST_AUTO(ast_audit_report_done) struct ast_audit_report report = { 0 };
    AST_AUTO(ast_cfree) char *anchors = ast_home_path(k->home, KERNEL_AUDIT_ANCHORS);
    struct ast_audit_scope scope = { .anchors = anchors, .stop = kernel_audit_stopping(k) };
    char text[AST_AUDIT_ISSUE_TEXT], id[AST_UUID_TEXT];

    if (!anchors)
        return ast_fail(err, AST_E_NO_MEMORY, "audit verification");
    enum ast_rc rc = ast_audit_verify(k->audit, &scope, &report, err);
    if (rc)
        return rc;
    ast_jw_object(w);
    ast_jw_kv_u64(w, "chains", report.chains);
    ast_jw_kv_u64(w, "entries", report.entries);
    ast_jw_key(w, AST_STR("issues"));
    ast_jw_array(w);
    ast_vec_each (&report.issues, i) {
        ast_jw_object(w);
        ast_jw_kv_string(w, "entry", ast_uuid_format(&i->id, id));
        ast_jw_kv_string(w, "kind", ast_str_c(ast_audit_issue_name(i->kind)));
        ast_jw_kv_string(w, "principal", ast_principal_str(&i->principal));
        ast_jw_kv_u64(w, "seq", i->seq);
        ast_jw_kv_string(w, "session", ast_uuid_format(&i->session, id));
        ast_jw_kv_string(w, "text", ast_str_c(ast_audit_issue_text(i, text)));
        ast_jw_end(w);
    }
    ast_jw_end(w);
    ast_jw_kv_u64(w, "issues_lost", report.issues_lost);
    ast_jw_kv_u64(w, "sessions", report.sessions);
    ast_jw_kv_u64(w, "tampered_sessions", report.tampered_sessions);
    ast_jw_kv_bool(w, "valid", ast_audit_report_is_valid(&report));
    ast_jw_end(w);
    return AST_OK;
}
