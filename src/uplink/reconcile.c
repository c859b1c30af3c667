/* See the header for the rule. Sessions are few per connection: a linear table of slots. */
#include "uplink/reconcile.h"

#include <stdlib.h>

#include "base/banned.h"

static void entry_clear(struct reconcile_entry *e)
{
    free(e->session);
    ast_buf_done(&e->text);
    e->session = NULL;
}

void ast_reconcile_done(struct ast_reconcile *r)
{
    for (size_t i = 0; i < AST_RECONCILE_SESSIONS; i++)
        entry_clear(&r->v[i]);
}

static struct reconcile_entry *find(struct ast_reconcile *r, struct ast_str session)
{
    for (size_t i = 0; i < AST_RECONCILE_SESSIONS; i++)
        if (r->v[i].session && ast_str_eq(ast_str_c(r->v[i].session), session))
            return &r->v[i];
    return NULL;
}

static struct reconcile_entry *find_or_make(struct ast_reconcile *r, struct ast_str session)
{
    struct reconcile_entry *e = find(r, session);
    for (size_t i = 0; !e && i < AST_RECONCILE_SESSIONS; i++)
        if (!r->v[i].session)
            e = &r->v[i];
    if (!e) {
        e = &r->v[r->next_victim++ % AST_RECONCILE_SESSIONS];
        entry_clear(e);
    }
    if (!e->session) {
        e->session = ast_str_dup(session);
        e->text = (struct ast_buf)AST_BUF_INIT(AST_RECONCILE_TEXT);
    }
    return e->session ? e : NULL;
}

void ast_reconcile_delta(struct ast_reconcile *r, const struct ast_msg *msg)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_str text;

    if (ast_json_parse(msg->body, &doc, NULL) ||
        !ast_json_string(ast_json_member(ast_json_root(doc), "text"), &text))
        return;
    struct reconcile_entry *e = find_or_make(r, msg->session);
    if (e)
        ast_buf_add(
            &e->text,
            text); /* a text beyond the ceiling is told whole at the end: repeated, never lost */
}

/* The part of `full` that `shown` does not cover. */
static void rest_of(struct ast_str full, struct ast_str shown, struct ast_buf *out)
{
    if (ast_str_starts(full, shown)) {
        ast_buf_add(out, ast_str_from(full, shown.n));
    } else if (!ast_str_ends(shown, full)) {
        ast_buf_add_byte(out, '\n');
        ast_buf_add(out, full);
    }
}

static void write_with_text(const struct ast_json *object, struct ast_str text, struct ast_buf *out)
{
    struct ast_jw w = AST_JW_INIT(out);
    struct ast_json_iter it = AST_JSON_ITER(object);
    const struct ast_json *v;
    struct ast_str key;

    ast_jw_object(&w);
    while (ast_json_next(&it, &key, &v)) {
        ast_jw_key(&w, key);
        if (ast_str_is(key, "text"))
            ast_jw_string(&w, text);
        else
            ast_jw_value(&w, v);
    }
    ast_jw_end(&w);
}

bool ast_reconcile_response(struct ast_reconcile *r, const struct ast_msg *msg, struct ast_buf *out)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct reconcile_entry *e = find(r, msg->session);
    struct ast_str full;
    bool is_final;

    if (!e || ast_json_parse(msg->body, &doc, NULL))
        return false;
    const struct ast_json *root = ast_json_root(doc);
    if (!ast_json_string(ast_json_member(root, "text"), &full) ||
        !ast_json_bool(ast_json_member(root, "is_final"), &is_final) || !is_final)
        return false;
    AST_AUTO(ast_buf_done) struct ast_buf rest = AST_BUF_INIT(full.n + 1);
    bool complete = e->text.fail == AST_OK;
    if (complete) {
        rest_of(full, ast_buf_view(&e->text), &rest);
        write_with_text(root, ast_buf_view(&rest), out);
    }
    entry_clear(e);
    return complete && !rest.fail;
}
