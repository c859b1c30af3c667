/* Prompts as data: the request body, the message it becomes, which answers belong to it, how they look as events. */
#include "gateway/prompt_priv.h"

#include "base/banned.h"

/* --- The request --------------------------------------------------------------------------- */

/* The member of that name; members that come twice are refused, as the original does. */
static enum ast_rc only_member(const struct ast_json *object, struct ast_str name,
                               const struct ast_json **ret, struct ast_err *err)
{
    struct ast_json_iter it = AST_JSON_ITER(object);
    struct ast_str key;
    const struct ast_json *v, *found = NULL;
    while (ast_json_next(&it, &key, &v)) {
        if (!ast_str_eq(key, name))
            continue;
        if (found)
            return ast_fail(err, AST_E_INVALID, "duplicate field `" AST_STR_FMT "`",
                            AST_STR_ARG(name));
        found = v;
    }
    *ret = found;
    return AST_OK;
}

static bool is_set(const struct ast_json *v)
{
    return v && ast_json_type(v) != AST_JSON_NULL;
}

enum ast_rc gw_prompt_parse(struct ast_str body, struct ast_json_doc **ret_doc,
                            struct gw_prompt_request *ret, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct gw_prompt_request p = { 0 };
    const struct ast_json *text = NULL, *session = NULL;
    enum ast_rc rc = ast_json_parse(body, &doc, err);
    if (rc)
        return rc;
    const struct ast_json *root = ast_json_root(doc);
    if (ast_json_type(root) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "expected an object, found %s",
                        ast_json_type_name(root));
    if ((rc = only_member(root, AST_STR("text"), &text, err)) != AST_OK ||
        (rc = only_member(root, AST_STR("session_id"), &session, err)) != AST_OK ||
        (rc = only_member(root, AST_STR("context"), &p.context, err)) != AST_OK)
        return rc;
    if (!text)
        return ast_fail(err, AST_E_INVALID, "missing field `text`");
    if (!ast_json_string(text, &p.text))
        return ast_fail(err, AST_E_INVALID, "text: expected a string, found %s",
                        ast_json_type_name(text));
    if (is_set(session) && !ast_json_string(session, &p.session))
        return ast_fail(err, AST_E_INVALID, "session_id: expected a string, found %s",
                        ast_json_type_name(session));
    if (!ast_str_trim(p.session).n)
        p.session = AST_STR_NONE;
    if (!is_set(p.context))
        p.context = NULL;
    *ret = p;
    *ret_doc = ast_steal(&doc);
    return AST_OK;
}

enum ast_rc gw_prompt_print(const struct gw_prompt_request *p, struct ast_str session,
                            struct ast_buf *out, struct ast_err *err)
{
    (void)ast_buf_add_lit(out, "{\"type\":\"user_input\",\"text\":");
    (void)ast_json_quote(p->text, out);
    (void)ast_buf_add_lit(out, ",\"session_id\":");
    (void)ast_json_quote(session, out);
    if (p->context) {
        (void)ast_buf_add_lit(out, ",\"context\":");
        (void)ast_json_canonical(p->context, out);
    }
    (void)ast_buf_add_byte(out, '}');
    return ast_buf_check(out, "prompt", err);
}

/* --- The answers --------------------------------------------------------------------------- */

/* topic, event */
static const struct {
    struct ast_str topic;
    const char *event;
} events[] = {
    { { "agent.v1.response", 17 }, "response" },
    { { "agent.v1.stream.delta", 21 }, "delta" },
    { { "agent.v1.session_changed", 24 }, "session_changed" },
    { { "astrid.v1.elicit", 16 }, "elicit" },
};

const char *gw_prompt_event(struct ast_str topic)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(events); i++)
        if (ast_str_eq(events[i].topic, topic))
            return events[i].event;
    return NULL;
}

/* Whether the members old_session_id and new_session_id name the session; *ret_has: one of them is there. */
static bool names_session(const struct ast_msg *m, struct ast_str session, bool *ret_has)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    *ret_has = false;
    if (ast_str_find(m->body, AST_STR("_session_id\"")) == AST_STR_NPOS ||
        ast_json_parse(m->body, &doc, NULL))
        return false;
    struct ast_str old, new;
    bool has_old = ast_json_string(ast_json_member(ast_json_root(doc), "old_session_id"), &old);
    bool has_new = ast_json_string(ast_json_member(ast_json_root(doc), "new_session_id"), &new);
    *ret_has = has_old || has_new;
    return (has_old && ast_str_eq(old, session)) || (has_new && ast_str_eq(new, session));
}

bool gw_prompt_shows(const struct gw_prompt_scope *scope, const struct ast_msg *m)
{
    const char *event = m->is_ipc ? gw_prompt_event(m->topic) : NULL;
    if (!event)
        return false;
    if (ast_str_is(m->topic, "astrid.v1.elicit"))
        return m->principal.n || scope->sees_elicits;
    if (m->session.n)
        return ast_str_eq(m->session, scope->session);
    bool has_names = false;
    if (names_session(m, scope->session, &has_names))
        return true;
    /* differs: what belongs to nobody and to no session is nobody's business (spec 03 §22.4 GAP) */
    return !has_names && m->principal.n > 0;
}

/* --- Events -------------------------------------------------------------------------------- */

static void event_head(struct ast_buf *out, const char *name)
{
    (void)ast_buf_add_lit(out, "event: ");
    (void)ast_buf_add(out, ast_str_c(name));
    (void)ast_buf_add_lit(out, "\ndata: ");
}

/* A line break in JSON text is white space; in a stream it would start a new field. */
static void end_event(struct ast_buf *out, size_t data_at)
{
    for (size_t i = data_at; i < out->n; i++)
        if (out->p[i] == '\n' || out->p[i] == '\r')
            out->p[i] = ' ';
    (void)ast_buf_add_lit(out, "\n\n");
}

void gw_sse_event(struct ast_buf *out, const char *name, struct ast_str json)
{
    event_head(out, name);
    size_t at = out->n;
    (void)ast_buf_add(out, json);
    end_event(out, at);
}

void gw_sse_message(struct ast_buf *out, const char *name, const struct ast_msg *m)
{
    event_head(out, name);
    size_t at = out->n;
    (void)ast_payload_tagged(m->kind, m->body, out);
    end_event(out, at);
}
