/* Tokens as JSON and as signed bytes.
 *
 * Invariant: what is signed is made of the parsed token, never of its text: two texts of one token verify alike.
 */
#include "policy/token.h"

#include "base/codec.h"
#include "base/json.h"
#include "base/time.h"
#include "policy/glob.h"

#include "base/banned.h"

#define SIGNED_VERSION 2
#define SIGNED_MAX     (AST_TOKEN_MAX_RESOURCE + 1024u)

static const char *const permission_words[] = {
#define X(name) [AST_TOKEN_PERMISSION_##name] = #name,
    AST_TOKEN_PERMISSION_MAP(X)
#undef X
};

const char *ast_token_permission_word(enum ast_token_permission p)
{
    AST_ASSERT((unsigned)p < AST_TOKEN_PERMISSION_COUNT);
    return permission_words[p];
}

void ast_token_done(struct ast_token *t)
{
    ast_buf_done(&t->resource);
}

/* ---- JSON ---- */

static enum ast_rc bad(const char *member, struct ast_err *err)
{
    return ast_fail(err, AST_E_INVALID, "serialization error: missing or invalid '%s'", member);
}

static bool read_uuid(const struct ast_json *root, struct ast_str key, struct ast_uuid *ret)
{
    return ast_uuid_parse(ast_json_str_or(root, key, AST_STR_NONE), ret);
}

static bool read_time(const struct ast_json *root, struct ast_str key, int64_t *ret)
{
    return ast_time_parse(ast_json_str_or(root, key, AST_STR_NONE), ret);
}

static bool read_base64(const struct ast_json *root, struct ast_str key, uint8_t *ret, size_t n)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(AST_KEY_SIGNATURE_BYTES + 4);
    if (ast_base64_decode(ast_json_str_or(root, key, AST_STR_NONE), &out, NULL) || out.n != n)
        return false;
    memcpy(ret, out.p, n);
    return true;
}

static bool read_user(const struct ast_json *list, uint8_t ret[static AST_TOKEN_USER_BYTES])
{
    struct ast_json_iter it = AST_JSON_ITER(list);
    const struct ast_json *v;
    struct ast_str key;
    uint64_t byte;

    if (ast_json_type(list) != AST_JSON_ARRAY || ast_json_count(list) != AST_TOKEN_USER_BYTES)
        return false;
    for (unsigned i = 0; ast_json_next(&it, &key, &v); i++) {
        if (!ast_json_u64(v, &byte) || byte > 255)
            return false;
        ret[i] = (uint8_t)byte;
    }
    return true;
}

static bool read_permissions(const struct ast_json *list, struct ast_token *t)
{
    struct ast_json_iter it = AST_JSON_ITER(list);
    const struct ast_json *v;
    struct ast_str key, word;

    if (ast_json_type(list) != AST_JSON_ARRAY || ast_json_count(list) > AST_TOKEN_MAX_PERMISSIONS)
        return false;
    while (ast_json_next(&it, &key, &v)) {
        unsigned p = 0;
        if (!ast_json_string(v, &word))
            return false;
        while (p < AST_TOKEN_PERMISSION_COUNT && !ast_str_eq(word, ast_str_c(permission_words[p])))
            p++;
        if (p == AST_TOKEN_PERMISSION_COUNT)
            return false;
        t->permissions[t->permission_count++] = (uint8_t)p;
    }
    return true;
}

static bool read_scope(const struct ast_json *root, struct ast_token *t)
{
    struct ast_str scope = ast_json_str_or(root, AST_STR("scope"), AST_STR_NONE);
    t->is_persistent = ast_str_is(scope, "persistent");
    return t->is_persistent || ast_str_is(scope, "session");
}

static bool is_nothing(const struct ast_json *v)
{
    return ast_json_type(v) == AST_JSON_ABSENT || ast_json_type(v) == AST_JSON_NULL;
}

static enum ast_rc read_token(const struct ast_json *root, struct ast_token *t, struct ast_err *err)
{
    const struct ast_json *single = ast_json_member(root, "single_use");
    struct ast_str resource;

    if (!read_uuid(root, AST_STR("id"), &t->id))
        return bad("id", err);
    if (!ast_json_string(ast_json_member(root, "resource"), &resource) ||
        resource.n > AST_TOKEN_MAX_RESOURCE)
        return bad("resource", err);
    if (ast_buf_add(&t->resource, resource))
        return ast_buf_check(&t->resource, "token", err);
    if (!read_permissions(ast_json_member(root, "permissions"), t))
        return bad("permissions", err);
    if (!read_time(root, AST_STR("issued_at"), &t->issued_ns))
        return bad("issued_at", err);
    t->has_expiry = !is_nothing(ast_json_member(root, "expires_at"));
    if (t->has_expiry && !read_time(root, AST_STR("expires_at"), &t->expires_ns))
        return bad("expires_at", err);
    if (!read_scope(root, t))
        return bad("scope", err);
    if (!read_base64(root, AST_STR("issuer"), t->issuer, sizeof t->issuer))
        return bad("issuer", err);
    if (!read_user(ast_json_member(root, "user_id"), t->user))
        return bad("user_id", err);
    if (!read_uuid(root, AST_STR("approval_audit_id"), &t->approval))
        return bad("approval_audit_id", err);
    if (ast_json_type(single) != AST_JSON_ABSENT && !ast_json_bool(single, &t->is_single_use))
        return bad("single_use", err);
    if (ast_principal_parse(ast_json_str_or(root, AST_STR("principal"), AST_STR_NONE),
                            &t->principal, NULL))
        return bad("principal", err);
    if (!read_base64(root, AST_STR("signature"), t->signature, sizeof t->signature))
        return bad("signature", err);
    return AST_OK;
}

enum ast_rc ast_token_parse(struct ast_str text, struct ast_token *ret, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_token t = { .resource = AST_BUF_INIT(AST_TOKEN_MAX_RESOURCE) };

    if (text.n > AST_TOKEN_MAX_TEXT)
        return ast_fail(err, AST_E_TOO_LARGE, "serialization error: token longer than %u bytes",
                        AST_TOKEN_MAX_TEXT);
    enum ast_rc rc = ast_json_parse(text, &doc, err);
    if (rc)
        return ast_wrap(err, rc == AST_E_NO_MEMORY ? rc : AST_E_INVALID, "serialization error");
    rc = read_token(ast_json_root(doc), &t, err);
    if (rc)
        ast_token_done(&t);
    else
        *ret = t;
    return rc;
}

static void write_base64(struct ast_jw *w, struct ast_str key, const uint8_t *bytes, size_t n)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(128);
    (void)ast_base64_encode(ast_str_n(bytes, n), &text);
    ast_jw_key(w, key);
    ast_jw_string(w, ast_buf_view(&text));
}

enum ast_rc ast_token_write(const struct ast_token *t, struct ast_buf *out, struct ast_err *err)
{
    char text[AST_UUID_TEXT], time[AST_RFC3339_BYTES];
    struct ast_jw w = AST_JW_INIT(out);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "id", ast_uuid_format(&t->id, text));
    ast_jw_kv_string(&w, "resource", ast_buf_view(&t->resource));
    ast_jw_key(&w, AST_STR("permissions"));
    ast_jw_array(&w);
    for (unsigned i = 0; i < t->permission_count; i++)
        ast_jw_string(&w, ast_str_c(permission_words[t->permissions[i]]));
    ast_jw_end(&w);
    ast_jw_kv_string(&w, "issued_at", ast_time_format(t->issued_ns, AST_TIME_Z, time));
    ast_jw_key(&w, AST_STR("expires_at"));
    if (t->has_expiry)
        ast_jw_string(&w, ast_time_format(t->expires_ns, AST_TIME_Z, time));
    else
        ast_jw_null(&w);
    ast_jw_kv_string(&w, "scope", t->is_persistent ? AST_STR("persistent") : AST_STR("session"));
    write_base64(&w, AST_STR("issuer"), t->issuer, sizeof t->issuer);
    ast_jw_key(&w, AST_STR("user_id"));
    ast_jw_array(&w);
    for (unsigned i = 0; i < AST_TOKEN_USER_BYTES; i++)
        ast_jw_u64(&w, t->user[i]);
    ast_jw_end(&w);
    ast_jw_kv_string(&w, "approval_audit_id", ast_uuid_format(&t->approval, text));
    ast_jw_kv_bool(&w, "single_use", t->is_single_use);
    ast_jw_kv_string(&w, "principal", ast_principal_str(&t->principal));
    write_base64(&w, AST_STR("signature"), t->signature, sizeof t->signature);
    ast_jw_end(&w);
    return ast_buf_check(out, "token", err);
}

/* ---- signed bytes ---- */

static void add_le(struct ast_buf *out, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        (void)ast_buf_add_byte(out, (char)(uint8_t)(v >> (8 * i)));
}

static void add_lp(struct ast_buf *out, struct ast_str s)
{
    add_le(out, s.n, 4);
    (void)ast_buf_add(out, s);
}

static uint64_t floor_secs(int64_t ns)
{
    return (uint64_t)(ns >= 0 ? ns / AST_NS_PER_SEC
                              : -((AST_NS_PER_SEC - 1 - ns) / AST_NS_PER_SEC));
}

enum ast_rc ast_token_signed(const struct ast_token *t, struct ast_buf *out, struct ast_err *err)
{
    (void)ast_buf_add_byte(out, SIGNED_VERSION);
    add_lp(out, ast_str_n(t->id.b, sizeof t->id.b));
    add_lp(out, ast_buf_view(&t->resource));
    add_le(out, t->permission_count, 4);
    for (unsigned i = 0; i < t->permission_count; i++)
        add_lp(out, ast_str_c(permission_words[t->permissions[i]]));
    add_le(out, floor_secs(t->issued_ns), 8);
    (void)ast_buf_add_byte(out, t->has_expiry);
    if (t->has_expiry)
        add_le(out, floor_secs(t->expires_ns), 8);
    add_lp(out, t->is_persistent ? AST_STR("persistent") : AST_STR("session"));
    (void)ast_buf_add(out, ast_str_n(t->issuer, sizeof t->issuer));
    (void)ast_buf_add(out, ast_str_n(t->user, sizeof t->user));
    add_lp(out, ast_str_n(t->approval.b, sizeof t->approval.b));
    (void)ast_buf_add_byte(out, t->is_single_use);
    add_lp(out, ast_principal_str(&t->principal));
    return ast_buf_check(out, "token", err);
}

enum ast_rc ast_token_hash(const struct ast_token *t, uint8_t ret[static AST_BLAKE3_BYTES],
                           struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(SIGNED_MAX);
    enum ast_rc rc = ast_token_signed(t, &bytes, err);
    if (!rc)
        ast_blake3(ast_buf_view(&bytes), ret);
    return rc;
}

enum ast_rc ast_token_sign(struct ast_token *t, const struct ast_key *key, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(SIGNED_MAX);
    memcpy(t->issuer, key->public_key, sizeof t->issuer);
    enum ast_rc rc = ast_token_signed(t, &bytes, err);
    if (!rc)
        ast_key_sign(key, ast_buf_view(&bytes), t->signature);
    return rc;
}

/* ---- resources ---- */

static bool has_parent_segment(struct ast_str s)
{
    size_t scheme = ast_str_find(s, AST_STR("://"));
    struct ast_str rest = scheme == AST_STR_NPOS ? s : ast_str_from(s, scheme + 3), piece;
    bool more = true;
    while (ast_str_split(&rest, &more, '/', &piece))
        if (ast_str_is(piece, ".."))
            return true;
    return false;
}

static bool is_glob(struct ast_str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '*' || s.p[i] == '?' || s.p[i] == '[')
            return true;
    return false;
}

enum ast_rc ast_token_check_pattern(struct ast_str pattern, struct ast_err *err)
{
    struct ast_err why = AST_ERR_INIT;

    if (has_parent_segment(pattern))
        return ast_fail(err, AST_E_INVALID,
                        "invalid resource pattern: " AST_STR_FMT
                        " - path traversal detected: pattern contains '..' segment",
                        AST_STR_ARG(pattern));
    if (is_glob(pattern) && ast_glob_check(pattern, &why))
        return ast_fail(err, AST_E_INVALID, "invalid resource pattern: " AST_STR_FMT " - %s",
                        AST_STR_ARG(pattern), why.msg);
    return AST_OK;
}

/* differs: the original takes raw text, so that approving "/tmp/ *" grants all of /tmp (spec 09 §7.3) */
enum ast_rc ast_token_exact(struct ast_str resource, struct ast_buf *out, struct ast_err *err)
{
    bool escapes = is_glob(resource); /* else it is compared as it is, braces and all */

    enum ast_rc rc = ast_token_check_pattern(escapes ? AST_STR("") : resource, err);
    if (rc)
        return rc;
    if (has_parent_segment(resource))
        return ast_fail(err, AST_E_INVALID,
                        "invalid resource pattern: " AST_STR_FMT
                        " - path traversal detected: pattern contains '..' segment",
                        AST_STR_ARG(resource));
    for (size_t i = 0; i < resource.n; i++) {
        if (escapes && memchr("*?[]{}\\", resource.p[i], 7))
            (void)ast_buf_add_byte(out, '\\');
        (void)ast_buf_add_byte(out, resource.p[i]);
    }
    return ast_buf_check(out, "token resource", err);
}

bool ast_token_grants(const struct ast_token *t, struct ast_str resource,
                      enum ast_token_permission permission)
{
    struct ast_str pattern = ast_buf_view(&t->resource);
    bool is_listed = false;

    for (unsigned i = 0; i < t->permission_count; i++)
        is_listed = is_listed || t->permissions[i] == permission;
    if (!is_listed || has_parent_segment(resource) || has_parent_segment(pattern))
        return false;
    return is_glob(pattern) ? ast_glob_match(pattern, resource) : ast_str_eq(pattern, resource);
}

/* ---- life ---- */

enum ast_rc ast_token_issue_always(const struct ast_key *key, const struct ast_principal *principal,
                                   struct ast_str pattern, enum ast_token_permission permission,
                                   const struct ast_uuid *approval, int64_t now_secs,
                                   int64_t seconds, struct ast_token *ret, struct ast_err *err)
{
    struct ast_token t = { .id = ast_uuid_v4(),
                           .resource = AST_BUF_INIT(AST_TOKEN_MAX_RESOURCE),
                           .permissions = { (uint8_t)permission },
                           .permission_count = 1,
                           .issued_ns = now_secs * AST_NS_PER_SEC,
                           .expires_ns = (now_secs + seconds) * AST_NS_PER_SEC,
                           .has_expiry = true,
                           .is_persistent = true,
                           .approval = *approval,
                           .principal = *principal };

    memcpy(t.user, key->public_key, sizeof t.user);
    enum ast_rc rc = ast_token_check_pattern(pattern, err);
    if (!rc && ast_buf_add(&t.resource, pattern))
        rc = ast_buf_check(&t.resource, "token", err);
    if (!rc)
        rc = ast_token_sign(&t, key, err);
    if (rc)
        ast_token_done(&t);
    else
        *ret = t;
    return rc;
}

enum ast_rc ast_token_validate(const struct ast_token *t, const uint8_t *issuer, int64_t now_ns,
                               int64_t skew_secs, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(SIGNED_MAX);
    char id[AST_UUID_TEXT];
    int64_t last;

    if (__builtin_add_overflow(t->expires_ns, skew_secs * AST_NS_PER_SEC, &last))
        last = INT64_MAX;
    if (t->has_expiry && now_ns > last)
        return ast_fail(err, AST_E_DENIED, "capability token expired: token:%s",
                        ast_uuid_format(&t->id, id).p);
    enum ast_rc rc = ast_token_signed(t, &bytes, err);
    if (rc)
        return rc;
    if (!ast_key_verify(t->issuer, ast_buf_view(&bytes), t->signature) ||
        (issuer && memcmp(issuer, t->issuer, sizeof t->issuer) != 0))
        return ast_fail(err, AST_E_DENIED, "invalid token signature");
    return AST_OK;
}
