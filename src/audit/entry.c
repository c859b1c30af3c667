/* A row's text and its signed bytes (spec 09 §12.1, §12.5, §13.1).
 *
 * Invariant: action, authorization and outcome travel as the bytes they were stored with, never re-serialised: what was
 * signed is what is checked.
 */
#include "audit/entry.h"
#include "base/codec.h"
#include "base/time.h"

#include "base/banned.h"

/* ---- base64 ---- */

static void add_base64(struct ast_buf *out, const uint8_t *bytes, size_t n)
{
    (void)ast_base64_encode(ast_str_n(bytes, n), out); /* its state is checked by the caller */
}

static bool read_base64(struct ast_str text, uint8_t *ret, size_t n)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(AST_KEY_SIGNATURE_BYTES + 4);

    if (text.n != (n + 2) / 3 * 4 || ast_base64_decode(text, &out, NULL) || out.n != n)
        return false;
    memcpy(ret, out.p, n);
    return true;
}

/* ---- writing ---- */

enum ast_rc ast_audit_entry_write(const struct ast_audit_entry *e, struct ast_buf *out,
                                  struct ast_err *err)
{
    char id[AST_UUID_TEXT], session[AST_UUID_TEXT], hash[AST_BLAKE3_HEX], time[AST_RFC3339_BYTES];

    ast_hex_encode(e->previous, sizeof e->previous, hash);
    (void)ast_buf_addf(out, "{\"id\":\"%s\",\"timestamp\":\"%s\",\"session_id\":\"%s\",",
                       ast_uuid_format(&e->id, id).p,
                       ast_time_format(e->time_ns, AST_TIME_Z, time).p,
                       ast_uuid_format(&e->session, session).p);
    if (e->principal.n)
        (void)ast_buf_addf(out, "\"principal\":\"%s\",", e->principal.name);
    (void)ast_buf_add_lit(out, "\"action\":");
    (void)ast_buf_add(out, e->action);
    (void)ast_buf_add_lit(out, ",\"authorization\":");
    (void)ast_buf_add(out, e->authorization);
    (void)ast_buf_add_lit(out, ",\"outcome\":");
    (void)ast_buf_add(out, e->outcome);
    (void)ast_buf_addf(out, ",\"previous_hash\":\"%s\",\"runtime_key\":\"", hash);
    add_base64(out, e->key, sizeof e->key);
    (void)ast_buf_add_lit(out, "\",\"signature\":\"");
    add_base64(out, e->signature, sizeof e->signature);
    (void)ast_buf_add_lit(out, "\"}");
    return ast_buf_check(out, "audit entry", err);
}

enum ast_rc ast_audit_entry_signed(const struct ast_audit_entry *e, struct ast_buf *out,
                                   struct ast_err *err)
{
    int64_t floor = e->time_ns >= 0 ? e->time_ns / AST_NS_PER_SEC
                                    : -((AST_NS_PER_SEC - 1 - e->time_ns) / AST_NS_PER_SEC);
    uint64_t secs = (uint64_t)floor;
    uint8_t time[8], length[4] = { e->principal.n, 0, 0, 0 };

    for (unsigned i = 0; i < sizeof time; i++)
        time[i] = (uint8_t)(secs >> (8 * i));
    (void)ast_buf_add(out, ast_str_n(e->id.b, sizeof e->id.b));
    (void)ast_buf_add(out, ast_str_n(time, sizeof time));
    (void)ast_buf_add(out, ast_str_n(e->session.b, sizeof e->session.b));
    (void)ast_buf_add_byte(out, e->principal.n ? (char)0xff : 0);
    if (e->principal.n) {
        (void)ast_buf_add(out, ast_str_n(length, sizeof length));
        (void)ast_buf_add(out, ast_principal_str(&e->principal));
    }
    (void)ast_buf_add(out, e->action);
    (void)ast_buf_add(out, e->authorization);
    (void)ast_buf_add_byte(out, e->is_success ? 1 : 0);
    (void)ast_buf_add(out, ast_str_n(e->previous, sizeof e->previous));
    (void)ast_buf_add(out, ast_str_n(e->key, sizeof e->key));
    return ast_buf_check(out, "signed bytes", err);
}

/* ---- reading ---- */

static size_t skip_space(struct ast_str s, size_t at)
{
    while (at < s.n && (s.p[at] == ' ' || s.p[at] == '\t' || s.p[at] == '\n' || s.p[at] == '\r'))
        at++;
    return at;
}

/* Behind the value at `at`, of text that is known to be JSON. */
static size_t skip_value(struct ast_str s, size_t at)
{
    size_t depth = 0;

    for (; at < s.n; at++) {
        char c = s.p[at];
        if (c == '"') {
            for (at++; at < s.n && s.p[at] != '"'; at++)
                at += s.p[at] == '\\';
            if (!depth)
                return at + 1;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (!depth)
                return at; /* the end of the object around a number or a word */
            if (!--depth)
                return at + 1;
        } else if (!depth && (c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r')) {
            return at;
        }
    }
    return at;
}

enum member {
    ID,
    TIMESTAMP,
    SESSION,
    PRINCIPAL,
    ACTION,
    AUTHORIZATION,
    OUTCOME,
    PREVIOUS,
    KEY,
    SIGNATURE,
    MEMBERS
};

static const char *const member_names[MEMBERS] = {
    [ID] = "id",
    [TIMESTAMP] = "timestamp",
    [SESSION] = "session_id",
    [PRINCIPAL] = "principal",
    [ACTION] = "action",
    [AUTHORIZATION] = "authorization",
    [OUTCOME] = "outcome",
    [PREVIOUS] = "previous_hash",
    [KEY] = "runtime_key",
    [SIGNATURE] = "signature",
};

/* The raw text of each member; one that comes twice is refused, since readers could differ on which counts. */
static enum ast_rc cut_members(struct ast_str text, struct ast_str ret[static MEMBERS],
                               struct ast_err *err)
{
    size_t at = skip_space(text, 0) + 1;

    for (;;) {
        at = skip_space(text, at);
        if (at >= text.n || text.p[at] == '}')
            return AST_OK;
        size_t key = at, key_end = skip_value(text, at);
        at = skip_space(text, skip_space(text, key_end) + 1);
        size_t end = skip_value(text, at);
        struct ast_str name = ast_str_n(text.p + key + 1, key_end - key - 2);
        for (unsigned i = 0; i < MEMBERS; i++) {
            if (!ast_str_eq(name, ast_str_c(member_names[i])))
                continue;
            if (ret[i].p)
                return ast_fail(err, AST_E_CORRUPT, "audit entry: %s twice", member_names[i]);
            ret[i] = ast_str_n(text.p + at, end - at);
        }
        at = skip_space(text, end);
        at += at < text.n && text.p[at] == ',';
    }
}

/* The inside of a string without escapes; empty for everything else. */
static struct ast_str plain(struct ast_str raw)
{
    bool is_plain = raw.n >= 2 && raw.p[0] == '"' && ast_str_find_byte(raw, '\\') == AST_STR_NPOS;
    return is_plain ? ast_str_n(raw.p + 1, raw.n - 2) : AST_STR_NONE;
}

static bool read_outcome(const struct ast_json *outcome, bool *ret_success)
{
    struct ast_str status, text;
    if (!ast_json_string(ast_json_member(outcome, "status"), &status))
        return false;
    const struct ast_json *details = ast_json_member(outcome, "details");
    if (ast_str_is(status, "success")) {
        *ret_success = true;
        return !details || ast_json_type(details) == AST_JSON_NULL ||
               ast_json_string(details, &text);
    }
    *ret_success = false;
    return ast_str_is(status, "failure") &&
           ast_json_string(ast_json_member(outcome, "error"), &text);
}

static bool is_tagged(const struct ast_json *v)
{
    struct ast_str type;
    return ast_json_string(ast_json_member(v, "type"), &type);
}

static enum ast_rc bad(enum member m, struct ast_err *err)
{
    return ast_fail(err, AST_E_CORRUPT, "audit entry: invalid %s", member_names[m]);
}

static enum ast_rc read_members(const struct ast_json *root, struct ast_str raw[static MEMBERS],
                                struct ast_audit_entry *e, struct ast_err *err)
{
    if (!ast_uuid_parse(plain(raw[ID]), &e->id))
        return bad(ID, err);
    if (!ast_time_parse(plain(raw[TIMESTAMP]), &e->time_ns))
        return bad(TIMESTAMP, err);
    if (!ast_uuid_parse(plain(raw[SESSION]), &e->session))
        return bad(SESSION, err);
    if (raw[PRINCIPAL].p && ast_principal_parse(plain(raw[PRINCIPAL]), &e->principal, NULL))
        return bad(PRINCIPAL, err);
    if (!is_tagged(ast_json_member(root, "action")))
        return bad(ACTION, err);
    if (!is_tagged(ast_json_member(root, "authorization")))
        return bad(AUTHORIZATION, err);
    if (!read_outcome(ast_json_member(root, "outcome"), &e->is_success))
        return bad(OUTCOME, err);
    if (!ast_hex_decode(plain(raw[PREVIOUS]), e->previous, sizeof e->previous))
        return bad(PREVIOUS, err);
    if (!read_base64(plain(raw[KEY]), e->key, sizeof e->key))
        return bad(KEY, err);
    if (!read_base64(plain(raw[SIGNATURE]), e->signature, sizeof e->signature))
        return bad(SIGNATURE, err);
    e->action = raw[ACTION];
    e->authorization = raw[AUTHORIZATION];
    e->outcome = raw[OUTCOME];
    return AST_OK;
}

enum ast_rc ast_audit_entry_read(struct ast_str text, struct ast_audit_entry *ret,
                                 struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_str raw[MEMBERS] = { { NULL, 0 } };
    struct ast_audit_entry e = { .is_success = false };

    if (text.n > AST_AUDIT_MAX_ENTRY)
        return ast_fail(err, AST_E_CORRUPT, "audit entry: longer than %u bytes",
                        AST_AUDIT_MAX_ENTRY);
    enum ast_rc rc = ast_json_parse(text, &doc, err);
    if (rc == AST_E_NO_MEMORY)
        return rc;
    if (rc)
        return ast_wrap(err, AST_E_CORRUPT, "audit entry");
    if (ast_json_type(ast_json_root(doc)) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_CORRUPT, "audit entry: not an object");
    rc = cut_members(text, raw, err);
    if (!rc)
        rc = read_members(ast_json_root(doc), raw, &e, err);
    if (!rc)
        *ret = e;
    return rc;
}

/* ---- the seal of form 2 ---- */

void ast_audit_outcome_hash(int64_t time_ns, struct ast_str outcome,
                            char ret_hex[static AST_BLAKE3_HEX])
{
    char time[AST_RFC3339_BYTES];
    struct ast_blake3_state state;
    uint8_t hash[AST_BLAKE3_BYTES];

    ast_blake3_begin(&state);
    ast_blake3_feed(&state, ast_time_format(time_ns, AST_TIME_Z, time));
    ast_blake3_feed(&state, AST_STR("\n"));
    ast_blake3_feed(&state, outcome);
    ast_blake3_end(&state, hash);
    ast_hex_encode(hash, sizeof hash, ret_hex);
}

bool ast_audit_entry_is_sealed_right(const struct ast_audit_entry *e)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    char expected[AST_BLAKE3_HEX];
    struct ast_str hash;
    uint64_t form = 0;

    if (ast_json_parse(e->action, &doc, NULL))
        return false;
    const struct ast_json *root = ast_json_root(doc);
    if (!ast_json_u64(ast_json_member(root, "form"), &form))
        return true;
    ast_audit_outcome_hash(e->time_ns, e->outcome, expected);
    return form == 2 && ast_json_string(ast_json_member(root, "outcome_hash"), &hash) &&
           ast_str_eq(hash, ast_str_c(expected));
}

const char *ast_audit_short_id(const struct ast_uuid *id, char out[static AST_AUDIT_SHORT_ID])
{
    memcpy(out, "audit:", sizeof "audit:");
    ast_hex_encode(id->b, 4, out + 6);
    return out;
}
