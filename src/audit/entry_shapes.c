/* The kinds of actions and proofs, and how their text is written (spec 09 §12.2, §12.3).
 *
 * Invariant: the order of the fields is the order of the signed text, so a row here never changes; a new kind is a
 * new row.
 */
#include "audit/entry.h"
#include "base/codec.h"

#include "base/banned.h"

#define S(lit)                                                                                     \
    {                                                                                              \
        lit, sizeof(lit) - 1                                                                       \
    }
#define STR(name)                                                                                  \
    {                                                                                              \
        S(name), AST_AUDIT_STRING                                                                  \
    }
#define STRN(name)                                                                                 \
    {                                                                                              \
        S(name), AST_AUDIT_STRING_OR_NULL                                                          \
    }
#define HASH(name)                                                                                 \
    {                                                                                              \
        S(name), AST_AUDIT_HASH                                                                    \
    }
#define NUM(name)                                                                                  \
    {                                                                                              \
        S(name), AST_AUDIT_NUMBER                                                                  \
    }
#define UUID(name)                                                                                 \
    {                                                                                              \
        S(name), AST_AUDIT_UUID                                                                    \
    }
#define WHO(name)                                                                                  \
    {                                                                                              \
        S(name), AST_AUDIT_KEY_ID                                                                  \
    }
#define SCOPE                                                                                      \
    {                                                                                              \
        S("scope"), AST_AUDIT_SCOPE                                                                \
    }
#define ROW(name, count, ...) [AST_AUDIT_ACTION_##name] = { S(#name), count, { __VA_ARGS__ } }

/* clang-format off */
static const struct ast_audit_shape actions[AST_AUDIT_ACTION_COUNT] = {
    ROW(mcp_tool_call,        3, STR("server"), STR("tool"), HASH("args_hash")),
    ROW(capsule_tool_call,    3, STR("capsule_id"), STR("tool"), HASH("args_hash")),
    ROW(mcp_resource_read,    2, STR("server"), STR("uri")),
    ROW(mcp_prompt_get,       2, STR("server"), STR("name")),
    ROW(mcp_elicitation,      2, STR("request_id"), STR("schema")),
    ROW(mcp_url_elicitation,  2, STR("url"), STR("interaction_type")),
    ROW(mcp_sampling,         2, STR("model"), NUM("prompt_tokens")),
    ROW(file_read,            1, STR("path")),
    ROW(file_write,           2, STR("path"), HASH("content_hash")),
    ROW(file_delete,          1, STR("path")),
    ROW(capability_created,   4, UUID("token_id"), STR("resource"),
                                 { S("permissions"), AST_AUDIT_WORDS }, SCOPE),
    ROW(capability_revoked,   2, UUID("token_id"), STR("reason")),
    ROW(approval_requested,   2, STR("action_type"), STR("resource")),
    ROW(approval_granted,     3, STR("action"), STRN("resource"), SCOPE),
    ROW(approval_denied,      2, STR("action"), STRN("reason")),
    ROW(session_started,      2, WHO("user_id"), STR("platform")),
    ROW(session_ended,        2, STR("reason"), NUM("duration_secs")),
    ROW(context_summarized,   2, NUM("evicted_count"), NUM("tokens_freed")),
    ROW(llm_request,          3, STR("model"), NUM("input_tokens"), NUM("output_tokens")),
    ROW(server_started,       3, STR("name"), STR("transport"),
                                 { S("binary_hash"), AST_AUDIT_HASH_OR_NULL }),
    ROW(server_stopped,       2, STR("name"), STR("reason")),
    ROW(elicitation_sent,     3, STR("request_id"), STR("server"), STR("elicitation_type")),
    ROW(elicitation_received, 2, STR("request_id"), STR("action")),
    ROW(security_violation,   2, STR("violation_type"), STR("details")),
    ROW(sub_agent_spawned,    3, STR("parent_session_id"), STR("child_session_id"),
                                 STR("description")),
    ROW(config_reloaded,      0, { S(""), AST_AUDIT_STRING }),
    ROW(admin_request,        4, STR("method"), STR("required_capability"),
                                 { S("target_principal"), AST_AUDIT_STRING_OR_NOTHING },
                                 { S("params"), AST_AUDIT_JSON_OR_NOTHING }),
};
#undef ROW
#define ROW(name, count, ...)                                                                      \
    [AST_AUDIT_PROOF_##name] = { S(#name), count, { __VA_ARGS__ } }
static const struct ast_audit_shape proofs[AST_AUDIT_PROOF_COUNT] = {
    ROW(user,          2, WHO("user_id"), STR("message_id")),
    ROW(capability,    2, UUID("token_id"), HASH("token_hash")),
    ROW(user_approval, 2, WHO("user_id"), { S("approval_entry_id"), AST_AUDIT_UUID_OR_NULL }),
    ROW(not_required,  1, STR("reason")),
    ROW(system,        1, STR("reason")),
    ROW(denied,        1, STR("reason")),
};
/* clang-format on */
#undef ROW
#undef SCOPE
#undef WHO
#undef UUID
#undef NUM
#undef HASH
#undef STRN
#undef STR
#undef S

const struct ast_audit_shape *ast_audit_action_shape(enum ast_audit_action action)
{
    AST_ASSERT((unsigned)action < AST_AUDIT_ACTION_COUNT);
    return &actions[action];
}

const struct ast_audit_shape *ast_audit_proof_shape(enum ast_audit_proof proof)
{
    AST_ASSERT((unsigned)proof < AST_AUDIT_PROOF_COUNT);
    return &proofs[proof];
}

/* ---- values ---- */

static bool is_lower_hex(struct ast_str s, size_t n)
{
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
            return false;
    return s.n == n;
}

static bool is_scope(struct ast_str s)
{
    return ast_str_is(s, "once") || ast_str_is(s, "session") || ast_str_is(s, "workspace") ||
           ast_str_is(s, "always");
}

static bool write_uuid(struct ast_jw *w, struct ast_str text)
{
    struct ast_uuid u;
    char out[AST_UUID_TEXT];
    if (!ast_uuid_parse(text, &u))
        return false;
    ast_jw_string(w, ast_uuid_format(&u, out));
    return true;
}

static bool write_key_id(struct ast_jw *w, struct ast_str text)
{
    uint8_t id[8];
    if (!ast_hex_decode(text, id, sizeof id))
        return false;
    ast_jw_array(w);
    for (size_t i = 0; i < sizeof id; i++)
        ast_jw_u64(w, id[i]);
    ast_jw_end(w);
    return true;
}

static bool write_words(struct ast_jw *w, struct ast_str text)
{
    struct ast_str rest = text, piece;
    bool more = text.n > 0;
    ast_jw_array(w);
    while (ast_str_split(&rest, &more, ' ', &piece))
        ast_jw_string(w, piece);
    ast_jw_end(w);
    return true;
}

static bool write_json(struct ast_jw *w, struct ast_str text)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf canonical = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    if (ast_json_parse(text, &doc, NULL) || ast_json_canonical(ast_json_root(doc), &canonical))
        return false;
    ast_jw_raw(w, ast_buf_view(&canonical));
    return true;
}

static bool write_present(struct ast_jw *w, enum ast_audit_field_kind kind, struct ast_str text)
{
    switch (kind) {
    case AST_AUDIT_HASH:
    case AST_AUDIT_HASH_OR_NULL:
        if (!is_lower_hex(text, 64))
            return false;
        break;
    case AST_AUDIT_SCOPE:
        if (!is_scope(text))
            return false;
        break;
    case AST_AUDIT_UUID:
    case AST_AUDIT_UUID_OR_NULL: return write_uuid(w, text);
    case AST_AUDIT_KEY_ID: return write_key_id(w, text);
    case AST_AUDIT_WORDS: return write_words(w, text);
    case AST_AUDIT_JSON_OR_NOTHING: return write_json(w, text);
    default: break;
    }
    ast_jw_string(w, text);
    return true;
}

static bool may_be_omitted(enum ast_audit_field_kind kind)
{
    return kind == AST_AUDIT_STRING_OR_NOTHING || kind == AST_AUDIT_JSON_OR_NOTHING;
}

static bool may_be_null(enum ast_audit_field_kind kind)
{
    return kind == AST_AUDIT_STRING_OR_NULL || kind == AST_AUDIT_HASH_OR_NULL ||
           kind == AST_AUDIT_UUID_OR_NULL;
}

enum ast_rc ast_audit_object_write(const struct ast_audit_shape *shape,
                                   const struct ast_audit_value *values, struct ast_buf *out,
                                   struct ast_err *err)
{
    struct ast_jw w = AST_JW_INIT(out);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", shape->type);
    for (unsigned i = 0; i < shape->count; i++) {
        const struct ast_audit_field *f = &shape->fields[i];
        bool is_absent = f->kind != AST_AUDIT_NUMBER && !values[i].text.p;
        if (is_absent && may_be_omitted(f->kind))
            continue;
        ast_jw_key(&w, f->name);
        bool is_good = true;
        if (f->kind == AST_AUDIT_NUMBER)
            ast_jw_u64(&w, values[i].number);
        else if (!is_absent)
            is_good = write_present(&w, f->kind, values[i].text);
        else if ((is_good = may_be_null(f->kind)))
            ast_jw_null(&w);
        if (!is_good)
            return ast_fail(err, AST_E_INVALID, "audit " AST_STR_FMT ": invalid " AST_STR_FMT,
                            AST_STR_ARG(shape->type), AST_STR_ARG(f->name));
    }
    ast_jw_end(&w);
    return ast_buf_check(out, "audit entry", err);
}

enum ast_rc ast_audit_outcome_write(bool is_failure, struct ast_str text, struct ast_buf *out,
                                    struct ast_err *err)
{
    struct ast_jw w = AST_JW_INIT(out);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "status", is_failure ? AST_STR("failure") : AST_STR("success"));
    ast_jw_key(&w, is_failure ? AST_STR("error") : AST_STR("details"));
    if (text.p || is_failure)
        ast_jw_string(&w, text);
    else
        ast_jw_null(&w);
    ast_jw_end(&w);
    return ast_buf_check(out, "audit outcome", err);
}
