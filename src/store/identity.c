/* Users and links: reading and checking of the records, and the changes as store operations.
 *
 * Invariant: a link is written in the transaction that saw its user, so a new link never dangles. Links that
 * dangle all the same (older stores deleted in several steps) count as absent everywhere.
 */
#include "store/identity.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/vec.h"

#include "base/banned.h"

#define RECORD_MAX 8192u /* bytes of JSON: every text in it is bounded by its key or by name */
#define READ_MAX   (1u << 20)

#define USER_PREFIX AST_STR("user/")
#define LINK_PREFIX AST_STR("link/")
#define NAME_PREFIX AST_STR("name/")
#define USER_KEY    (5 + AST_UUID_TEXT)

/* --- Records ------------------------------------------------------------------------------------- */

void ast_identity_user_done(struct ast_identity_user *u)
{
    ast_json_free(u->doc);
    *u = (struct ast_identity_user){ .doc = NULL };
}

static enum ast_rc bad(struct ast_err *err, const char *record, const char *member)
{
    return ast_fail(err, AST_E_CORRUPT, "storage error: %s record: %s", record, member);
}

/* Standard base64 of exactly 32 bytes. */
static bool parse_key(struct ast_str text, uint8_t ret[static 32])
{
    char url[43];
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(32);

    if (text.n != sizeof url + 1 || text.p[sizeof url] != '=')
        return false;
    for (size_t i = 0; i < sizeof url; i++) {
        char c = text.p[i];
        if (c == '-' || c == '_')
            return false;
        url[i] = c;
        if (c == '+')
            url[i] = '-';
        else if (c == '/')
            url[i] = '_';
    }
    if (ast_base64url_decode(ast_str_n(url, sizeof url), &out, /* err= */ NULL) || out.n != 32)
        return false;
    memcpy(ret, out.p, 32);
    return true;
}

static bool is_absent(const struct ast_json *v)
{
    enum ast_json_type t = ast_json_type(v);
    return t == AST_JSON_ABSENT || t == AST_JSON_NULL;
}

static bool parse_uuid(const struct ast_json *v, struct ast_uuid *ret)
{
    struct ast_str text;
    return ast_json_string(v, &text) && ast_uuid_parse(text, ret);
}

static bool parse_time(const struct ast_json *v, int64_t *ret)
{
    struct ast_str text;
    return ast_json_string(v, &text) && ast_time_parse(text, ret);
}

/* NULL, or the member that is wrong. */
static const char *read_user(const struct ast_json *root, struct ast_identity_user *u)
{
    const struct ast_json *principal = ast_json_member(root, "principal");
    const struct ast_json *key = ast_json_member(root, "public_key");
    const struct ast_json *name = ast_json_member(root, "display_name");
    struct ast_str text = AST_PRINCIPAL_DEFAULT;

    if (!parse_uuid(ast_json_member(root, "id"), &u->id))
        return "id";
    if ((ast_json_type(principal) != AST_JSON_ABSENT && !ast_json_string(principal, &text)) ||
        ast_principal_parse(text, &u->principal, /* err= */ NULL))
        return "principal";
    u->has_public_key = !is_absent(key);
    if (u->has_public_key && (!ast_json_string(key, &text) || !parse_key(text, u->public_key)))
        return "public_key";
    u->has_display_name = !is_absent(name);
    if (u->has_display_name && !ast_json_string(name, &u->display_name))
        return "display_name";
    if (!parse_time(ast_json_member(root, "created_at"), &u->created_ns))
        return "created_at";
    return NULL;
}

enum ast_rc ast_identity_user_parse(struct ast_str json, struct ast_identity_user *ret,
                                    struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_identity_user u = { .doc = NULL };

    if (ast_json_parse(json, &doc, /* err= */ NULL))
        return bad(err, "user", "not JSON");
    const char *wrong = read_user(ast_json_root(doc), &u);
    if (wrong)
        return bad(err, "user", wrong);
    u.doc = ast_steal(&doc);
    *ret = u;
    return AST_OK;
}

/* The views of *ret are borrowed from *ret_doc. */
static enum ast_rc link_parse(struct ast_str json, struct ast_identity_link *ret,
                              struct ast_json_doc **ret_doc, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_identity_link l;

    if (ast_json_parse(json, &doc, /* err= */ NULL))
        return bad(err, "link", "not JSON");
    const struct ast_json *root = ast_json_root(doc);
    if (!ast_json_string(ast_json_member(root, "platform"), &l.platform))
        return bad(err, "link", "platform");
    if (!ast_json_string(ast_json_member(root, "platform_user_id"), &l.platform_user_id))
        return bad(err, "link", "platform_user_id");
    if (!ast_json_string(ast_json_member(root, "method"), &l.method))
        return bad(err, "link", "method");
    if (!parse_uuid(ast_json_member(root, "astrid_user_id"), &l.user))
        return bad(err, "link", "astrid_user_id");
    if (!parse_time(ast_json_member(root, "linked_at"), &l.linked_ns))
        return bad(err, "link", "linked_at");
    *ret = l;
    *ret_doc = ast_steal(&doc);
    return AST_OK;
}

/* --- Keys and texts ------------------------------------------------------------------------------ */

static struct ast_str user_key(const struct ast_uuid *id, char out[static USER_KEY])
{
    memcpy(out, "user/", sizeof "user/");
    return ast_str_n(out, 5 + ast_uuid_format(id, out + 5).n);
}

static enum ast_rc invalid(struct ast_err *err, const char *name, const char *why)
{
    return ast_fail(err, AST_E_INVALID, "invalid input: %s must not %s", name, why);
}

static enum ast_rc check_part(struct ast_str s, const char *name, bool may_be_blank,
                              struct ast_err *err)
{
    if (!may_be_blank && ast_str_trim(s).n == 0)
        return invalid(err, name, "be empty");
    if (ast_str_find_byte(s, '/') != AST_STR_NPOS || ast_str_find_byte(s, 0) != AST_STR_NPOS)
        return invalid(err, name, "contain '/' or null bytes");
    if (s.n > AST_IDENTITY_MAX_KEY) /* alone; together they are checked as a key */
        return invalid(err, name, "be that long");
    return AST_OK;
}

static enum ast_rc key_check(const struct ast_buf *key, const char *name, struct ast_err *err)
{
    if (key->fail == AST_E_TOO_LARGE)
        return invalid(err, name, "be that long");
    return ast_buf_check(key, name, err);
}

/* Appends "link/<platform>/<user id>"; *ret_platform is borrowed from `key`. */
static enum ast_rc link_key_make(struct ast_str platform, struct ast_str user, struct ast_buf *key,
                                 struct ast_str *ret_platform, struct ast_err *err)
{
    enum ast_rc rc = check_part(platform, "platform", /* may_be_blank= */ false, err);
    if (!rc)
        rc = check_part(user, "platform_user_id", /* may_be_blank= */ false, err);
    if (rc)
        return rc;
    struct ast_str trimmed = ast_str_trim(platform);
    (void)ast_buf_add(key, LINK_PREFIX);
    for (size_t i = 0; i < trimmed.n; i++) {
        char c = trimmed.p[i];
        (void)ast_buf_add_byte(key, c >= 'A' && c <= 'Z' ? (char)(c + 32) : c);
    }
    (void)ast_buf_add_lit(key, "/");
    (void)ast_buf_add(key, user);
    rc = key_check(key, "platform_user_id", err);
    if (!rc && ret_platform)
        *ret_platform = ast_str_n(key->p + LINK_PREFIX.n, trimmed.n);
    return rc;
}

static enum ast_rc name_key_make(struct ast_str display_name, struct ast_buf *key,
                                 struct ast_err *err)
{
    struct ast_str trimmed = ast_str_trim(display_name);
    if (trimmed.n == 0)
        return AST_OK;
    (void)ast_buf_add(key, NAME_PREFIX);
    (void)ast_buf_add(key, trimmed);
    return key_check(key, "display_name", err);
}

static bool is_kept(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

void ast_identity_principal(struct ast_str display_name, const struct ast_uuid *id,
                            struct ast_principal *ret)
{
    char out[AST_PRINCIPAL_MAX + 1], uuid[AST_UUID_TEXT];
    size_t n = 0;

    for (size_t i = 0; i < display_name.n && n < AST_PRINCIPAL_MAX; i++) {
        char c = display_name.p[i];
        if (c >= 'A' && c <= 'Z')
            c = (char)(c + 32);
        if (is_kept(c))
            out[n++] = c;
        else if (n && out[n - 1] != '-')
            out[n++] = '-';
    }
    while (n && out[n - 1] == '-')
        n--;
    if (n == 0) {
        memcpy(out, "user-", sizeof "user-");
        memcpy(out + 5, ast_uuid_format(id, uuid).p, 8);
        n = 13;
    }
    enum ast_rc rc = ast_principal_parse(ast_str_n(out, n), ret, /* err= */ NULL);
    AST_ASSERT(rc == AST_OK); /* the alphabet and the length are a principal's */
}

/* --- Reading ------------------------------------------------------------------------------------- */

enum ast_rc ast_identity_user_get(struct ast_store *s, const struct ast_uuid *id,
                                  struct ast_identity_user *ret, struct ast_err *err)
{
    char key[USER_KEY];
    bool found = false;
    AST_AUTO(ast_buf_done) struct ast_buf json = AST_BUF_INIT(READ_MAX);

    struct ast_str k = user_key(id, key);
    enum ast_rc rc = ast_store_get(s, AST_IDENTITY_NS, k, &json, &found, err);
    if (rc)
        return ast_wrap(err, rc, "storage error");
    if (!found)
        return ast_fail(err, AST_E_NOT_FOUND, "user not found: " AST_STR_FMT,
                        AST_STR_ARG(ast_str_from(k, USER_PREFIX.n)));
    return ast_identity_user_parse(ast_buf_view(&json), ret, err);
}

enum ast_rc ast_identity_resolve(struct ast_store *s, struct ast_str platform,
                                 struct ast_str platform_user_id, struct ast_identity_user *ret,
                                 struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf key = AST_BUF_INIT(AST_IDENTITY_MAX_KEY);
    AST_AUTO(ast_buf_done) struct ast_buf json = AST_BUF_INIT(READ_MAX);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_identity_link link;
    bool found = false;

    enum ast_rc rc = link_key_make(platform, platform_user_id, &key, /* ret_platform= */ NULL, err);
    if (rc)
        return rc;
    rc = ast_store_get(s, AST_IDENTITY_NS, ast_buf_view(&key), &json, &found, err);
    if (rc)
        return ast_wrap(err, rc, "storage error");
    if (!found)
        return ast_fail(err, AST_E_NOT_FOUND, "link not found");
    rc = link_parse(ast_buf_view(&json), &link, &doc, err);
    return rc ? rc : ast_identity_user_get(s, &link.user, ret, err);
}

bool ast_identity_was_removed(struct ast_store *s, struct ast_str principal)
{
    AST_AUTO(ast_buf_done) struct ast_buf when = AST_BUF_INIT(AST_RFC3339_BYTES);
    bool found = false;
    return !ast_store_get(s, AST_IDENTITY_REMOVED_NS, principal, &when, &found, NULL) && found;
}

struct listing {
    const struct ast_uuid *user;
    bool (*each)(void *arg, const struct ast_identity_link *link);
    void *arg;
    struct ast_err *err;
    enum ast_rc rc;
};

static bool list_row(void *arg, struct ast_str key, struct ast_str value)
{
    struct listing *l = arg;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_identity_link link;

    l->rc = link_parse(value, &link, &doc, l->err);
    if (l->rc)
        return false;
    return !ast_uuid_eq(&link.user, l->user) || l->each(l->arg, &link);
}

enum ast_rc ast_identity_links(struct ast_store *s, const struct ast_uuid *user,
                               bool (*each)(void *arg, const struct ast_identity_link *link),
                               void *arg, struct ast_err *err)
{
    struct listing l = { .user = user, .each = each, .arg = arg, .err = err };
    enum ast_rc rc =
        ast_store_scan(s, AST_IDENTITY_NS, LINK_PREFIX, AST_STR_NONE, list_row, &l, err);
    return rc ? ast_wrap(err, rc, "storage error") : l.rc;
}

/* --- Changes: preparing -------------------------------------------------------------------------- */

static void op_init(struct ast_identity_op *op)
{
    *op = (struct ast_identity_op){
        .link_key = AST_BUF_INIT(AST_IDENTITY_MAX_KEY),
        .link_json = AST_BUF_INIT(RECORD_MAX),
        .user_json = AST_BUF_INIT(RECORD_MAX),
        .name_key = AST_BUF_INIT(AST_IDENTITY_MAX_KEY),
    };
}

void ast_identity_op_done(struct ast_identity_op *op)
{
    ast_buf_done(&op->link_key);
    ast_buf_done(&op->link_json);
    ast_buf_done(&op->user_json);
    ast_buf_done(&op->name_key);
}

static enum ast_rc write_user(struct ast_identity_op *op, struct ast_str principal,
                              struct ast_str display_name, struct ast_err *err)
{
    char uuid[AST_UUID_TEXT], stamp[AST_RFC3339_BYTES];
    struct ast_jw w = AST_JW_INIT(&op->user_json);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "id", ast_uuid_format(&op->user, uuid));
    ast_jw_kv_string(&w, "principal", principal);
    ast_jw_kv_null(&w, "public_key");
    if (display_name.p)
        ast_jw_kv_string(&w, "display_name", display_name);
    else
        ast_jw_kv_null(&w, "display_name");
    ast_jw_kv_string(&w, "created_at", ast_time_format(ast_wall_ns(), AST_TIME_Z, stamp));
    ast_jw_end(&w);
    return ast_buf_check(&op->user_json, "user record", err);
}

static void link_write(struct ast_buf *out, struct ast_str platform,
                       struct ast_str platform_user_id, const struct ast_uuid *user,
                       struct ast_str method)
{
    char uuid[AST_UUID_TEXT], stamp[AST_RFC3339_BYTES];
    struct ast_jw w = AST_JW_INIT(out);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "platform", platform);
    ast_jw_kv_string(&w, "platform_user_id", platform_user_id);
    ast_jw_kv_string(&w, "astrid_user_id", ast_uuid_format(user, uuid));
    ast_jw_kv_string(&w, "linked_at", ast_time_format(ast_wall_ns(), AST_TIME_Z, stamp));
    ast_jw_kv_string(&w, "method", method);
    ast_jw_end(&w);
}

static enum ast_rc write_link(struct ast_identity_op *op, struct ast_str platform,
                              struct ast_str platform_user_id, struct ast_str method,
                              struct ast_err *err)
{
    struct ast_str lowered = AST_STR_NONE;

    enum ast_rc rc = link_key_make(platform, platform_user_id, &op->link_key, &lowered, err);
    if (rc)
        return rc;
    if (ast_str_trim(method).n == 0)
        return invalid(err, "method", "be empty");
    if (method.n > AST_IDENTITY_MAX_METHOD)
        return invalid(err, "method", "be that long");
    link_write(&op->link_json, lowered, platform_user_id, &op->user, method);
    return ast_buf_check(&op->link_json, "link record", err);
}

/* --- Changes: applying (on the writer) ----------------------------------------------------------- */

static bool user_exists(struct ast_store_txn *txn, const struct ast_uuid *id)
{
    char key[USER_KEY];
    struct ast_str value;
    return ast_store_txn_get(txn, AST_IDENTITY_NS, user_key(id, key), &value);
}

/* False: no link. A link that cannot be read has no user: the nil id, which nobody has. */
static bool linked_user(struct ast_store_txn *txn, struct ast_str key, struct ast_uuid *ret)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_identity_link link = { .user = AST_UUID_NIL };
    struct ast_str value;

    if (!ast_store_txn_get(txn, AST_IDENTITY_NS, key, &value))
        return false;
    *ret = link_parse(value, &link, &doc, /* err= */ NULL) ? AST_UUID_NIL : link.user;
    return true;
}

static enum ast_rc apply_link(struct ast_store_op *o, struct ast_store_txn *txn,
                              struct ast_err *err)
{
    struct ast_identity_op *op = AST_CONTAINER_OF(o, struct ast_identity_op, op);
    struct ast_str key = ast_buf_view(&op->link_key);
    char uuid[AST_UUID_TEXT];
    struct ast_uuid now;

    if (!user_exists(txn, &op->user))
        return ast_fail(err, AST_E_NOT_FOUND, "user not found: " AST_STR_FMT,
                        AST_STR_ARG(ast_uuid_format(&op->user, uuid)));
    if (!op->replace && linked_user(txn, key, &now) && !ast_uuid_eq(&now, &op->user) &&
        user_exists(txn, &now))
        return ast_fail(err, AST_E_CONFLICT, "already linked to another user");
    return ast_store_txn_put(txn, AST_IDENTITY_NS, key, ast_buf_view(&op->link_json), err);
}

static enum ast_rc apply_unlink(struct ast_store_op *o, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    struct ast_identity_op *op = AST_CONTAINER_OF(o, struct ast_identity_op, op);
    enum ast_rc rc = ast_store_txn_delete(txn, AST_IDENTITY_NS, ast_buf_view(&op->link_key),
                                          &op->ret_changed, err);
    if (!rc && !op->ret_changed)
        return ast_fail(err, AST_E_NOT_FOUND, "link not found");
    return rc;
}

static enum ast_rc put_user(struct ast_identity_op *op, struct ast_store_txn *txn,
                            struct ast_err *err)
{
    char key[USER_KEY];
    struct ast_str k = user_key(&op->user, key);

    enum ast_rc rc = ast_store_txn_put(txn, AST_IDENTITY_NS, k, ast_buf_view(&op->user_json), err);
    if (!rc && op->name_key.n)
        rc = ast_store_txn_put(txn, AST_IDENTITY_NS, ast_buf_view(&op->name_key),
                               ast_str_from(k, USER_PREFIX.n), err);
    return rc;
}

static enum ast_rc apply_create(struct ast_store_op *o, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    return put_user(AST_CONTAINER_OF(o, struct ast_identity_op, op), txn, err);
}

static enum ast_rc apply_seed(struct ast_store_op *o, struct ast_store_txn *txn,
                              struct ast_err *err)
{
    struct ast_identity_op *op = AST_CONTAINER_OF(o, struct ast_identity_op, op);
    struct ast_str key = ast_buf_view(&op->link_key);
    struct ast_uuid now;

    if (linked_user(txn, key, &now) && user_exists(txn, &now))
        return AST_OK;
    op->ret_changed = true;
    enum ast_rc rc = put_user(op, txn, err);
    return rc ? rc
              : ast_store_txn_put(txn, AST_IDENTITY_NS, key, ast_buf_view(&op->link_json), err);
}

/* The last part of the link's key: of principals, the principal. */
static struct ast_str account_of(const struct ast_identity_op *op)
{
    struct ast_str key = ast_str_from(ast_buf_view(&op->link_key), LINK_PREFIX.n);
    return ast_str_from(key, ast_str_find_byte(key, '/') + 1);
}

static enum ast_rc apply_enrol(struct ast_store_op *o, struct ast_store_txn *txn,
                               struct ast_err *err)
{
    struct ast_identity_op *op = AST_CONTAINER_OF(o, struct ast_identity_op, op);
    enum ast_rc rc = put_user(op, txn, err);
    if (!rc)
        rc = ast_store_txn_delete(txn, AST_IDENTITY_REMOVED_NS, account_of(op), NULL, err);
    if (rc)
        return ast_wrap(err, rc, "identity store create_user failed");
    rc = ast_store_txn_put(txn, AST_IDENTITY_NS, ast_buf_view(&op->link_key),
                           ast_buf_view(&op->link_json), err);
    return rc ? ast_wrap(err, rc, "identity store link failed") : AST_OK;
}

/* The user an entry names: by its id, by its name, or made now. */
static enum ast_rc assigned_user(struct ast_identity_op *op, struct ast_store_txn *txn,
                                 struct ast_err *err)
{
    char uuid[AST_UUID_TEXT];
    struct ast_str value;
    struct ast_uuid named;

    if (op->by_name) {
        if (!ast_store_txn_get(txn, AST_IDENTITY_NS, ast_buf_view(&op->name_key), &value) ||
            !ast_uuid_parse(value, &named) || !user_exists(txn, &named))
            return put_user(op, txn, err);
        op->user = named;
        return AST_OK;
    }
    if (user_exists(txn, &op->user))
        return AST_OK;
    return ast_fail(err, AST_E_NOT_FOUND, "user not found: " AST_STR_FMT,
                    AST_STR_ARG(ast_uuid_format(&op->user, uuid)));
}

static bool link_is(struct ast_store_txn *txn, struct ast_str key, const struct ast_uuid *user,
                    struct ast_str method)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_identity_link link;
    struct ast_str value;
    return ast_store_txn_get(txn, AST_IDENTITY_NS, key, &value) &&
           !link_parse(value, &link, &doc, /* err= */ NULL) && ast_uuid_eq(&link.user, user) &&
           ast_str_eq(link.method, method);
}

static enum ast_rc apply_assign(struct ast_store_op *o, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    struct ast_identity_op *op = AST_CONTAINER_OF(o, struct ast_identity_op, op);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf json = AST_BUF_INIT(RECORD_MAX);
    struct ast_str key = ast_buf_view(&op->link_key);
    struct ast_identity_link want;

    enum ast_rc rc = assigned_user(op, txn, err);
    if (!rc)
        rc = link_parse(ast_buf_view(&op->link_json), &want, &doc, err); /* our own text */
    if (rc || link_is(txn, key, &op->user, want.method))
        return rc;
    op->ret_changed = true;
    link_write(&json, want.platform, want.platform_user_id, &op->user, want.method);
    rc = ast_buf_check(&json, "link record", err);
    return rc ? rc : ast_store_txn_put(txn, AST_IDENTITY_NS, key, ast_buf_view(&json), err);
}

struct doomed {
    const struct ast_uuid *user;
    struct ast_str text;  /* its id as it stands in a record: a row without it need not be parsed */
    AST_VEC(char *) keys; /* owned */
    bool failed;
};

static bool doom_row(void *arg, struct ast_str key, struct ast_str value)
{
    struct doomed *d = arg;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_identity_link link;

    if (ast_str_find(value, d->text) == AST_STR_NPOS ||
        link_parse(value, &link, &doc, /* err= */ NULL) || !ast_uuid_eq(&link.user, d->user))
        return true; /* not a link to this user, whatever else it is */
    char *copy = ast_str_dup(key);
    d->failed = !copy || !ast_vec_push(&d->keys, copy);
    if (d->failed)
        free(copy);
    return !d->failed;
}

static enum ast_rc delete_links(struct ast_identity_op *op, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    char uuid[AST_UUID_TEXT];
    struct doomed d = { .user = &op->user, .text = ast_uuid_format(&op->user, uuid) };
    enum ast_rc rc =
        ast_store_txn_scan(txn, AST_IDENTITY_NS, LINK_PREFIX, AST_STR_NONE, doom_row, &d, err);
    if (!rc && d.failed)
        rc = ast_fail(err, AST_E_NO_MEMORY, "links of a user");
    ast_vec_each (&d.keys, key) {
        if (!rc)
            rc = ast_store_txn_delete(txn, AST_IDENTITY_NS, ast_str_c(*key), NULL, err);
        free(*key);
    }
    ast_vec_done(&d.keys);
    return rc;
}

/* The index entry, when it still means this user. */
static enum ast_rc delete_name(struct ast_identity_op *op, struct ast_store_txn *txn,
                               struct ast_str json, struct ast_err *err)
{
    AST_AUTO(ast_identity_user_done) struct ast_identity_user user = { .doc = NULL };
    char uuid[AST_UUID_TEXT];
    struct ast_str owner;

    if (ast_identity_user_parse(json, &user, /* err= */ NULL) || !user.has_display_name ||
        name_key_make(user.display_name, &op->name_key, /* err= */ NULL) || !op->name_key.n)
        return AST_OK; /* no entry that could be found by it */
    struct ast_str key = ast_buf_view(&op->name_key);
    if (!ast_store_txn_get(txn, AST_IDENTITY_NS, key, &owner) ||
        !ast_str_eq(owner, ast_uuid_format(&op->user, uuid)))
        return AST_OK;
    return ast_store_txn_delete(txn, AST_IDENTITY_NS, key, NULL, err);
}

static enum ast_rc apply_delete(struct ast_store_op *o, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    struct ast_identity_op *op = AST_CONTAINER_OF(o, struct ast_identity_op, op);
    char key[USER_KEY];
    struct ast_str k = user_key(&op->user, key), json;

    op->ret_changed = ast_store_txn_get(txn, AST_IDENTITY_NS, k, &json);
    if (!op->ret_changed)
        return AST_OK;
    enum ast_rc rc = delete_name(op, txn, json, err); /* first: `json` ends with the next write */
    if (!rc)
        rc = delete_links(op, txn, err);
    return rc ? rc : ast_store_txn_delete(txn, AST_IDENTITY_NS, k, NULL, err);
}

/* A link that cannot be read means nobody: it goes all the same. */
static enum ast_rc apply_remove(struct ast_store_op *o, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    struct ast_identity_op *op = AST_CONTAINER_OF(o, struct ast_identity_op, op);
    struct ast_str key = ast_buf_view(&op->link_key);
    char stamp[AST_RFC3339_BYTES];

    enum ast_rc rc = ast_store_txn_put(txn, AST_IDENTITY_REMOVED_NS, account_of(op),
                                       ast_time_format(ast_wall_ns(), AST_TIME_Z, stamp), err);
    if (!rc && !linked_user(txn, key, &op->user))
        return AST_OK;
    if (!rc)
        rc = ast_store_txn_delete(txn, AST_IDENTITY_NS, key, NULL, err);
    if (rc)
        return ast_wrap(err, rc, "identity store unlink failed");
    rc = apply_delete(o, txn, err);
    if (rc)
        return ast_wrap(err, rc, "identity store delete_user failed");
    op->ret_changed = true;
    return AST_OK;
}

/* --- Changes: the doors -------------------------------------------------------------------------- */

enum ast_rc ast_identity_prepare_link(struct ast_identity_op *op, struct ast_str platform,
                                      struct ast_str platform_user_id, struct ast_str method,
                                      const struct ast_uuid *user, bool replace,
                                      struct ast_err *err)
{
    op_init(op);
    op->op.apply = apply_link;
    op->user = *user;
    op->replace = replace;
    return write_link(op, platform, platform_user_id, method, err);
}

enum ast_rc ast_identity_prepare_unlink(struct ast_identity_op *op, struct ast_str platform,
                                        struct ast_str platform_user_id, struct ast_err *err)
{
    op_init(op);
    op->op.apply = apply_unlink;
    return link_key_make(platform, platform_user_id, &op->link_key, /* ret_platform= */ NULL, err);
}

enum ast_rc ast_identity_prepare_create(struct ast_identity_op *op, struct ast_str display_name,
                                        struct ast_err *err)
{
    struct ast_principal principal;

    op_init(op);
    op->op.apply = apply_create;
    op->user = ast_uuid_v4();
    if (!display_name.p)
        return write_user(op, AST_PRINCIPAL_DEFAULT, display_name, err);
    enum ast_rc rc = check_part(display_name, "display_name", /* may_be_blank= */ true, err);
    if (!rc)
        rc = name_key_make(display_name, &op->name_key, err);
    if (rc)
        return rc;
    ast_identity_principal(display_name, &op->user, &principal);
    return write_user(op, ast_principal_str(&principal), display_name, err);
}

enum ast_rc ast_identity_prepare_delete(struct ast_identity_op *op, const struct ast_uuid *user,
                                        struct ast_err *err)
{
    op_init(op);
    op->op.apply = apply_delete;
    op->user = *user;
    return AST_OK;
}

enum ast_rc ast_identity_prepare_seed(struct ast_identity_op *op, struct ast_str display_name,
                                      struct ast_str principal, struct ast_str platform,
                                      struct ast_str platform_user_id, struct ast_str method,
                                      struct ast_err *err)
{
    op_init(op);
    op->op.apply = apply_seed;
    op->user = ast_uuid_v4();
    enum ast_rc rc = name_key_make(display_name, &op->name_key, err);
    if (!rc)
        rc = write_user(op, principal, display_name, err);
    return rc ? rc : write_link(op, platform, platform_user_id, method, err);
}

enum ast_rc ast_identity_prepare_enrol(struct ast_identity_op *op, struct ast_str principal,
                                       struct ast_str platform, struct ast_str method,
                                       struct ast_err *err)
{
    enum ast_rc rc =
        ast_identity_prepare_seed(op, principal, principal, platform, principal, method, err);
    op->op.apply = apply_enrol;
    return rc;
}

enum ast_rc ast_identity_prepare_remove(struct ast_identity_op *op, struct ast_str principal,
                                        struct ast_str platform, struct ast_err *err)
{
    op_init(op);
    op->op.apply = apply_remove;
    return link_key_make(platform, principal, &op->link_key, /* ret_platform= */ NULL, err);
}

enum ast_rc ast_identity_prepare_assign(struct ast_identity_op *op, struct ast_str platform,
                                        struct ast_str platform_user_id, struct ast_str method,
                                        struct ast_str astrid_user, struct ast_err *err)
{
    enum ast_rc rc = AST_OK;
    struct ast_uuid id;

    if (ast_uuid_parse(astrid_user, &id)) {
        op_init(op);
        op->user = id;
    } else {
        rc = ast_identity_prepare_create(op, astrid_user.p ? astrid_user : AST_STR(""), err);
        op->by_name = true;
        if (!rc && !op->name_key.n)
            rc = invalid(err, "astrid_user", "be empty");
    }
    op->op.apply = apply_assign;
    return rc ? rc : write_link(op, platform, platform_user_id, method, err);
}
