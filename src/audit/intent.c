/* Intent markers (spec 02 §11): what is about to begin, kept beside the chains until its row is there. */
#include <stdlib.h>

#include "audit/audit_priv.h"
#include "base/fs.h"

#include "base/banned.h"

/* The texts of a draft; what they are made of lies in the two buffers. */
static enum ast_rc write_draft(const struct ast_audit_draft *d, struct ast_buf *action,
                               struct ast_buf *proof, struct audit_parts *ret, struct ast_err *err)
{
    enum ast_rc rc =
        ast_audit_object_write(ast_audit_action_shape(d->action), d->action_values, action, err);
    if (!rc)
        rc = ast_audit_object_write(ast_audit_proof_shape(d->proof), d->proof_values, proof, err);
    *ret = (struct audit_parts){ .principal = d->principal,
                                 .action = ast_buf_view(action),
                                 .authorization = ast_buf_view(proof) };
    return rc;
}

struct intent_op {
    struct ast_store_op op;
    struct ast_str id, text; /* an empty text removes */
};

static enum ast_rc apply_intent(struct ast_store_op *op, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    struct intent_op *i = AST_CONTAINER_OF(op, struct intent_op, op);
    return i->text.n ? ast_store_txn_put(txn, AUDIT_NS_INTENTS, i->id, i->text, err)
                     : ast_store_txn_delete(txn, AUDIT_NS_INTENTS, i->id, NULL, err);
}

/* Owner: the thread that stores it. */
struct marker_op {
    struct intent_op i;
    struct ast_buf text;
    char id_text[AST_UUID_TEXT];
};

static enum ast_rc prepare_marker(const struct ast_audit_draft *draft, struct ast_uuid *ret_id,
                                  struct marker_op *ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf action = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf proof = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    struct audit_parts p;

    enum ast_rc rc = write_draft(draft, &action, &proof, &p, err);
    if (rc)
        return rc;
    *ret_id = ast_uuid_v4();
    ret->text = (struct ast_buf)AST_BUF_INIT(3 * AST_AUDIT_MAX_ENTRY);
    struct ast_jw w = AST_JW_INIT(&ret->text);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "principal", p.principal);
    ast_jw_kv_string(&w, "action", p.action); /* as strings: the bytes come back as they are */
    ast_jw_kv_string(&w, "authorization", p.authorization);
    ast_jw_end(&w);
    ret->i = (struct intent_op){ .op = { .apply = apply_intent },
                                 .id = ast_uuid_format(ret_id, ret->id_text),
                                 .text = ast_buf_view(&ret->text) };
    return ast_buf_check(&ret->text, "audit intent", err);
}

void ast_audit_intend_many(struct ast_audit *a, struct ast_audit_marker *markers, size_t n)
{
    AST_AUTO(ast_cfree) struct marker_op *v = calloc(n, sizeof *v);
    AST_AUTO(ast_cfree) struct ast_store_op **ops = calloc(n, sizeof(struct ast_store_op *));
    size_t ready = 0;

    for (size_t i = 0; i < n; i++) {
        struct ast_audit_marker *m = &markers[i];
        m->err = (struct ast_err)AST_ERR_INIT;
        m->rc = v && ops ? prepare_marker(m->draft, &m->id, &v[i], &m->err)
                         : ast_fail(&m->err, AST_E_NO_MEMORY, "audit intent");
        if (!m->rc)
            ops[ready++] = &v[i].i.op;
    }
    if (ready)
        ast_store_run_many(a->store, ops, ready);
    for (size_t i = 0; v && i < n; i++) {
        if (!markers[i].rc && v[i].i.op.rc)
            markers[i].rc = ast_fail(&markers[i].err, v[i].i.op.rc, "%s", v[i].i.op.err.msg);
        ast_buf_done(&v[i].text);
    }
}

enum ast_rc ast_audit_intend(struct ast_audit *a, const struct ast_audit_draft *draft,
                             struct ast_uuid *ret_intent, struct ast_err *err)
{
    struct ast_audit_marker m = { .draft = draft };

    ast_audit_intend_many(a, &m, 1);
    if (m.rc)
        return ast_fail(err, m.rc, "%s", m.err.msg);
    *ret_intent = m.id;
    return AST_OK;
}

struct intent_row {
    struct ast_uuid id;
    struct ast_buf text;
    bool found;
};

static bool copy_intent(void *arg, struct ast_str key, struct ast_str value)
{
    struct intent_row *i = arg;
    if (!ast_uuid_parse(key, &i->id))
        return true; /* not ours */
    i->found = !ast_buf_add(&i->text, value);
    return false;
}

static enum ast_rc settle_one(struct ast_audit *a, const struct intent_row *i, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct audit_parts p = { .is_failure = true, .outcome_text = AST_STR("interrupted") };
    char id[AST_UUID_TEXT];

    if (!ast_json_parse(ast_buf_view(&i->text), &doc, NULL)) {
        const struct ast_json *root = ast_json_root(doc);
        p.principal = ast_json_str_or(root, AST_STR("principal"), AST_STR_NONE);
        p.action = ast_json_str_or(root, AST_STR("action"), AST_STR_NONE);
        p.authorization = ast_json_str_or(root, AST_STR("authorization"), AST_STR_NONE);
    }
    if (ast_str_starts(p.action, AST_STR("{\"type\":")) && ast_str_ends(p.action, AST_STR("}")) &&
        ast_str_starts(p.authorization, AST_STR("{\"type\":")))
        return audit_append_parts_wait(a, &p, &i->id, err);
    /* Damaged: a marker nobody can read says nothing; it must not be met at each boot. */
    struct intent_op op = { .op = { .apply = apply_intent }, .id = ast_uuid_format(&i->id, id) };
    return ast_store_run(a->store, &op.op, err);
}

enum ast_rc ast_audit_settle(struct ast_audit *a, uint64_t *ret_count, struct ast_err *err)
{
    uint64_t count = 0;

    for (;;) {
        struct intent_row i = { .text = AST_BUF_INIT(4 * AST_AUDIT_MAX_ENTRY) };
        enum ast_rc rc = ast_store_scan(a->store, AUDIT_NS_INTENTS, AST_STR_NONE, AST_STR_NONE,
                                        copy_intent, &i, err);
        if (!rc)
            rc = ast_buf_check(&i.text, "audit intent", err);
        bool more = !rc && i.found;
        if (more)
            rc = settle_one(a, &i, err);
        ast_buf_done(&i.text);
        if (rc)
            return rc;
        if (!more)
            break;
        count++;
    }
    *ret_count = count;
    return AST_OK;
}
