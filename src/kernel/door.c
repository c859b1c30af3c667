/* What a door does in its own right (spec 03 §1): it shows the audit log to whom it has let in, and leaves rows there of what
 * it decided itself. */
#include "base/time.h"
#include "kernel/audit_priv.h"

#include "base/banned.h"

#define ROW_MAX (2u * AST_AUDIT_MAX_ENTRY)

/* ---- reading ---- */

struct walk {
    const struct ast_kernel_rows *ask;
    struct ast_buf json; /* one row's, used again */
    uint64_t last;       /* looked at */
    bool is_over;
};

static void walk_done_auto(struct walk *w)
{
    ast_buf_done(&w->json);
}

static bool visit(void *arg, uint64_t seq, struct ast_str text)
{
    struct walk *walk = arg;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_audit_entry e;

    walk->last = seq;
    if (ast_audit_entry_read(text, &e, NULL) || ast_json_parse(text, &doc, NULL))
        return true; /* damaged: verifying tells */
    const struct ast_json *root = ast_json_root(doc);
    if (!ast_str_is(ast_json_str_or(ast_json_member(root, "action"), AST_STR("type"), AST_STR_NONE),
                    "admin_request"))
        return true;
    ast_buf_reset(&walk->json);
    struct ast_jw w = AST_JW_INIT(&walk->json);
    kernel_audit_row_write(&w, root, &e);
    const struct ast_kernel_row row = {
        .seq = seq,
        .ts_epoch = (uint64_t)(e.time_ns / AST_NS_PER_SEC),
        .principal = ast_json_str_or(root, AST_STR("principal"), AST_STR_NONE),
        .json = ast_buf_view(&walk->json),
    };
    walk->is_over = walk->json.fail || !walk->ask->each(walk->ask->arg, &row);
    return !walk->is_over;
}

enum ast_rc ast_kernel_rows_walk(struct ast_kernel *k, const struct ast_kernel_rows *ask,
                                 uint64_t *ret_seq, struct ast_err *err)
{
    __attribute__((cleanup(walk_done_auto))) struct walk walk = { .ask = ask,
                                                                  .json = AST_BUF_INIT(ROW_MAX) };
    struct ast_audit_query q = {
        .filter = { .session = k->session,
                    .principal = ask->principal ? *ask->principal : AST_STR_NONE,
                    .has_principal = ask->principal != NULL,
                    .method = ask->method,
                    .since = ask->since,
                    .until = ask->until == UINT64_MAX ? 0 : ask->until,
                    .oldest_first = ask->oldest_first },
        .limit = AST_AUDIT_MAX_PAGE,
        .each = visit,
        .arg = &walk,
    };
    struct ast_audit_page page = { .count = 0 };
    enum ast_rc rc = AST_OK;

    if (!ask->until) /* nothing is that old, and the log takes 0 for "open" */
        return AST_OK;
    if (ask->seq)
        ast_audit_cursor_write(k->audit, &q.filter, ask->seq, page.next);
    do {
        char cursor[AST_AUDIT_MAX_CURSOR];
        memcpy(cursor, page.next, sizeof cursor);
        q.cursor = ast_str_c(cursor);
        rc = ast_audit_query(k->audit, &q, &page, err);
    } while (!rc && !walk.is_over && page.next[0]);
    if (!rc)
        rc = ast_buf_check(&walk.json, "audit row", err);
    if (!rc && walk.last)
        *ret_seq = walk.last;
    return rc;
}

/* ---- recording ---- */

enum ast_rc ast_kernel_do(struct ast_kernel *k, const struct ast_kernel_deed *deed,
                          enum ast_rc (*act)(void *arg, struct ast_err *err), void *arg,
                          struct ast_err *err)
{
    struct ast_err why = AST_ERR_INIT;
    struct ast_uuid intent;
    bool has_intent = false;
    struct kernel_audit_row row = {
        .caller = deed->caller,
        .method = deed->method,
        .capability = deed->capability,
        .params = deed->params,
        .right = deed->is_own ? KERNEL_AUDIT_OWN : KERNEL_AUDIT_ALLOWED,
        .changes = deed->changes,
    };
    enum ast_rc rc = AST_OK;

    if (deed->changes)
        rc = kernel_audit_intend(k, &row, &intent, &has_intent, err);
    if (rc)
        return rc;
    enum ast_rc done = act ? act(arg, &why) : AST_OK;
    row.error = done ? ast_str_c(why.msg) : AST_STR_NONE;
    row.intent = has_intent ? &intent : NULL;
    rc = kernel_audit_wait(k, &row, err);
    return done ? ast_fail(err, done, "%s", why.msg) : rc;
}

/* ---- capsules ---- */

struct topics {
    struct ast_str id;
    struct ast_jw *w;
};

static void write_topics(struct ast_jw *w, const struct ast_manifest_topic *topics, size_t n,
                         struct ast_str direction)
{
    for (size_t i = 0; i < n; i++) {
        ast_jw_object(w);
        ast_jw_kv_string(w, "name", topics[i].pattern);
        ast_jw_kv_string(w, "direction", direction);
        ast_jw_kv_null(w, "description"); /* a manifest describes no topics */
        ast_jw_end(w);
    }
}

static bool find_topics(void *arg, const struct ast_capsule_row *row)
{
    struct topics *t = arg;
    if (!ast_str_eq(row->id, t->id))
        return true;
    write_topics(t->w, row->manifest->publish, row->manifest->publish_count, AST_STR("publish"));
    write_topics(t->w, row->manifest->subscribe, row->manifest->subscribe_count,
                 AST_STR("subscribe"));
    return false;
}

void ast_kernel_capsule_topics(struct ast_kernel *k, struct ast_str id, struct ast_jw *w)
{
    struct topics t = { id, w };
    ast_jw_array(w);
    ast_capsules_each(k->capsules, find_topics, &t);
    ast_jw_end(w);
}

struct capsule_count {
    uint64_t loaded, failed;
};

static bool count_capsule(void *arg, const struct ast_capsule_row *row)
{
    struct capsule_count *c = arg;
    c->loaded++;
    c->failed += row->failed;
    return true;
}

void ast_kernel_capsule_count(struct ast_kernel *k, uint64_t *ret_loaded, uint64_t *ret_failed)
{
    struct capsule_count c = { 0 };
    ast_capsules_each(k->capsules, count_capsule, &c);
    *ret_loaded = c.loaded;
    *ret_failed = c.failed;
}
