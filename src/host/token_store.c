/* Namespaces (spec 02 §25.3): caps:tokens "<principal>/<id>" the JSON; caps:token_index "<id>" the principal; caps:revoked and
 * caps:used "<id>" one byte 01, and behind it the second in which the token ends, when it is known: then the marker can go too.
 */
#include "host/token_store.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/thread.h"
#include "base/time.h"
#include "base/vec.h"

#include "base/banned.h"

#define NS_TOKENS    AST_STR("caps:tokens")
#define NS_INDEX     AST_STR("caps:token_index")
#define NS_REVOKED   AST_STR("caps:revoked")
#define NS_USED      AST_STR("caps:used")
#define SESSION_MAX  4096u
#define CLEANUP_MAX  1024u /* rows of one transaction */
#define KEY_MAX      (AST_PRINCIPAL_MAX + 1u + AST_UUID_TEXT)
#define MARKER_BYTES 24u

/* Owner: any thread; `session` is under `lock`. */
struct ast_tokens {
    struct ast_store *store;
    uint8_t issuer[AST_KEY_PUBLIC_BYTES];
    struct ast_lock lock;
    AST_VEC(struct ast_token) session AST_GUARDED_BY(lock);
};

enum ast_rc ast_tokens_new(struct ast_store *store,
                           const uint8_t issuer[static AST_KEY_PUBLIC_BYTES],
                           struct ast_tokens **ret, struct ast_err *err)
{
    struct ast_tokens *t = calloc(1, sizeof *t);
    if (!t)
        return ast_fail(err, AST_E_NO_MEMORY, "tokens");
    t->store = store;
    memcpy(t->issuer, issuer, sizeof t->issuer);
    ast_lock_init(&t->lock, AST_LOCK_cache);
    *ret = t;
    return AST_OK;
}

void ast_tokens_free(struct ast_tokens *t)
{
    if (!t)
        return;
    ast_tokens_clear_session(t, NULL);
    ast_vec_done(&t->session);
    ast_lock_done(&t->lock);
    free(t);
}

/* ---- words ---- */

static enum ast_rc fail_with(enum ast_rc rc, const char *what, const struct ast_uuid *id,
                             struct ast_err *err)
{
    char text[AST_UUID_TEXT];
    return ast_fail(err, rc, "%s: token:%s", what, ast_uuid_format(id, text).p);
}

static enum ast_rc fail_revoked(const struct ast_uuid *id, struct ast_err *err)
{
    return fail_with(AST_E_DENIED, "capability token revoked", id, err);
}

static enum ast_rc dup_token(const struct ast_token *from, struct ast_token *ret,
                             struct ast_err *err)
{
    struct ast_token copy = *from;
    copy.resource = (struct ast_buf)AST_BUF_INIT(AST_TOKEN_MAX_RESOURCE);
    if (ast_buf_add(&copy.resource, ast_buf_view(&from->resource)))
        return ast_fail(err, AST_E_NO_MEMORY, "token");
    *ret = copy;
    return AST_OK;
}

static struct ast_str token_key(struct ast_str principal, const struct ast_uuid *id,
                                char out[static KEY_MAX])
{
    char text[AST_UUID_TEXT];
    int n = snprintf(out, KEY_MAX, AST_STR_FMT "/%s", AST_STR_ARG(principal),
                     ast_uuid_format(id, text).p);
    return ast_str_n(out, (size_t)n);
}

static struct ast_str marker(const struct ast_token *token, char out[static MARKER_BYTES])
{
    out[0] = 1;
    if (!token || !token->has_expiry)
        return ast_str_n(out, 1);
    int n = snprintf(out + 1, MARKER_BYTES - 1, "%lld",
                     (long long)(token->expires_ns / AST_NS_PER_SEC + 1));
    return ast_str_n(out, 1 + (size_t)n);
}

/* ---- one operation in the store's writer ---- */

struct token_op {
    struct ast_store_op op;
    const struct ast_uuid *id;
    const struct ast_token *token; /* NULL: revoking one that is not known */
    struct ast_str text;           /* add: the JSON */
};

static bool is_marked(struct ast_store_txn *txn, struct ast_str ns, const struct ast_uuid *id)
{
    char text[AST_UUID_TEXT];
    struct ast_str value;
    return ast_store_txn_get(txn, ns, ast_uuid_format(id, text), &value);
}

static enum ast_rc apply_add(struct ast_store_op *op, struct ast_store_txn *txn,
                             struct ast_err *err)
{
    struct token_op *o = AST_CONTAINER_OF(op, struct token_op, op);
    char key[KEY_MAX], id[AST_UUID_TEXT];
    struct ast_str principal = ast_principal_str(&o->token->principal);

    if (is_marked(txn, NS_REVOKED, o->id)) /* differs: the original adds it (spec 09 §7.5) */
        return fail_revoked(o->id, err);
    if (!o->token->is_persistent)
        return AST_OK;
    enum ast_rc rc =
        ast_store_txn_put(txn, NS_TOKENS, token_key(principal, o->id, key), o->text, err);
    return rc ? rc : ast_store_txn_put(txn, NS_INDEX, ast_uuid_format(o->id, id), principal, err);
}

static enum ast_rc apply_use(struct ast_store_op *op, struct ast_store_txn *txn,
                             struct ast_err *err)
{
    struct token_op *o = AST_CONTAINER_OF(op, struct token_op, op);
    char id[AST_UUID_TEXT], text[MARKER_BYTES];

    if (is_marked(txn, NS_REVOKED, o->id))
        return fail_revoked(o->id, err);
    if (is_marked(txn, NS_USED, o->id))
        return fail_with(AST_E_CONFLICT, "single-use token already used", o->id, err);
    return o->token->is_single_use ? ast_store_txn_put(txn, NS_USED, ast_uuid_format(o->id, id),
                                                       marker(o->token, text), err)
                                   : AST_OK;
}

static enum ast_rc remove_token(struct ast_store_txn *txn, const struct ast_uuid *id,
                                struct ast_err *err)
{
    char text[AST_UUID_TEXT], key[KEY_MAX];
    struct ast_str principal, id_text = ast_uuid_format(id, text);
    enum ast_rc rc = AST_OK;

    if (ast_store_txn_get(txn, NS_INDEX, id_text, &principal) && principal.n <= AST_PRINCIPAL_MAX)
        rc = ast_store_txn_delete(txn, NS_TOKENS, token_key(principal, id, key), NULL, err);
    if (!rc)
        rc = ast_store_txn_delete(txn, NS_INDEX, id_text, NULL, err);
    return rc ? rc : ast_store_txn_delete(txn, NS_TOKENS, id_text, NULL, err); /* version 1's row */
}

static enum ast_rc apply_revoke(struct ast_store_op *op, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    struct token_op *o = AST_CONTAINER_OF(op, struct token_op, op);
    char id[AST_UUID_TEXT], text[MARKER_BYTES];

    enum ast_rc rc =
        ast_store_txn_put(txn, NS_REVOKED, ast_uuid_format(o->id, id), marker(o->token, text), err);
    return rc ? rc : remove_token(txn, o->id, err);
}

static enum ast_rc apply_forget(struct ast_store_op *op, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    return remove_token(txn, AST_CONTAINER_OF(op, struct token_op, op)->id, err);
}

/* ---- reading ---- */

/* *ret_found false: no session token of that id. */
static enum ast_rc get_session(struct ast_tokens *t, const struct ast_uuid *id,
                               struct ast_token *ret, bool *ret_found, struct ast_err *err)
{
    AST_WITH_LOCK(&t->lock);
    *ret_found = false;
    for (size_t i = 0; i < t->session.n; i++)
        if (ast_uuid_eq(&t->session.v[i].id, id)) {
            *ret_found = true;
            return dup_token(&t->session.v[i], ret, err);
        }
    return AST_OK;
}

static enum ast_rc has_marker(struct ast_tokens *t, struct ast_str ns, const struct ast_uuid *id,
                              bool *ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf value = AST_BUF_INIT(256);
    char text[AST_UUID_TEXT];
    return ast_store_get(t->store, ns, ast_uuid_format(id, text), &value, ret, err);
}

/* The token's row says whose it is and which; a row moved elsewhere is nobody's. */
static enum ast_rc read_row(struct ast_str text, const struct ast_uuid *id,
                            struct ast_str principal, struct ast_token *ret, struct ast_err *err)
{
    struct ast_token token;
    enum ast_rc rc = ast_token_parse(text, &token, err);
    if (rc)
        return rc;
    if (!ast_uuid_eq(&token.id, id) ||
        !ast_str_eq(ast_principal_str(&token.principal), principal)) {
        ast_token_done(&token);
        return ast_fail(err, AST_E_DENIED, "invalid token signature");
    }
    *ret = token;
    return AST_OK;
}

static enum ast_rc get_persistent(struct ast_tokens *t, const struct ast_uuid *id, int64_t now_ns,
                                  struct ast_token *ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf who = AST_BUF_INIT(AST_PRINCIPAL_MAX);
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_TOKEN_MAX_TEXT);
    char id_text[AST_UUID_TEXT], key[KEY_MAX];
    bool found = false;

    enum ast_rc rc =
        ast_store_get(t->store, NS_INDEX, ast_uuid_format(id, id_text), &who, &found, err);
    if (!rc && found)
        rc = ast_store_get(t->store, NS_TOKENS, token_key(ast_buf_view(&who), id, key), &text,
                           &found, err);
    if (rc)
        return rc;
    if (!found) {
        struct token_op op = { .op = { .apply = apply_forget }, .id = id };
        rc = who.n ? ast_store_run(t->store, &op.op, err) : AST_OK; /* an index without a token */
        return rc ? rc : fail_with(AST_E_NOT_FOUND, "capability token not found", id, err);
    }
    rc = read_row(ast_buf_view(&text), id, ast_buf_view(&who), ret, err);
    if (rc)
        return rc;
    rc = ast_token_validate(ret, NULL, now_ns, AST_TOKEN_SKEW_SECS, err);
    if (rc)
        ast_token_done(ret);
    return rc;
}

enum ast_rc ast_tokens_get(struct ast_tokens *t, const struct ast_uuid *id, int64_t now_ns,
                           struct ast_token *ret, struct ast_err *err)
{
    bool found = false;
    enum ast_rc rc = has_marker(t, NS_REVOKED, id, &found, err);
    if (rc || found)
        return rc ? rc : fail_revoked(id, err);
    rc = get_session(t, id, ret, &found, err);
    return rc || found ? rc : get_persistent(t, id, now_ns, ret, err);
}

/* ---- finding ---- */

struct finding {
    struct ast_tokens *t;
    const struct ast_principal *principal;
    struct ast_str resource;
    enum ast_token_permission permission;
    int64_t now_ns;
    AST_VEC(struct ast_token) found; /* owned; each grants it if nobody has used or revoked it */
    bool is_out_of_memory;
};

static bool is_candidate(const struct finding *f, const struct ast_token *token)
{
    return ast_principal_eq(&token->principal, f->principal) &&
           ast_token_grants(token, f->resource, f->permission) &&
           !ast_token_validate(token, f->t->issuer, f->now_ns, /* skew_secs= */ 0, NULL);
}

static bool add_stored(void *arg, struct ast_str key, struct ast_str value)
{
    struct finding *f = arg;
    size_t slash = ast_str_find_byte(key, '/');
    struct ast_token token;
    struct ast_uuid id;

    if (slash == AST_STR_NPOS || !ast_uuid_parse(ast_str_from(key, slash + 1), &id) ||
        read_row(value, &id, ast_str_first(key, slash), &token, NULL))
        return true;
    if (is_candidate(f, &token) && (f->is_out_of_memory = !ast_vec_push(&f->found, token)) == false)
        return true;
    ast_token_done(&token);
    return !f->is_out_of_memory;
}

static void add_session(struct finding *f)
{
    AST_WITH_LOCK(&f->t->lock);
    for (size_t i = 0; i < f->t->session.n && !f->is_out_of_memory; i++) {
        struct ast_token copy;
        if (!is_candidate(f, &f->t->session.v[i]))
            continue;
        f->is_out_of_memory = dup_token(&f->t->session.v[i], &copy, NULL) != AST_OK;
        if (!f->is_out_of_memory && !ast_vec_push(&f->found, copy)) {
            f->is_out_of_memory = true;
            ast_token_done(&copy);
        }
    }
}

/* The first that is neither revoked nor used up leaves the list for *ret. */
static enum ast_rc choose(struct finding *f, struct ast_token *ret, struct ast_err *err)
{
    ast_vec_each (&f->found, token) {
        bool revoked = false, used = false;
        enum ast_rc rc = has_marker(f->t, NS_REVOKED, &token->id, &revoked, err);
        if (!rc)
            rc = has_marker(f->t, NS_USED, &token->id, &used, err);
        if (rc)
            return rc;
        if (revoked || used)
            continue;
        *ret = *token;
        token->resource = (struct ast_buf)AST_BUF_INIT(0);
        return AST_OK;
    }
    return ast_fail(err, AST_E_NOT_FOUND, "no capability token for %s on " AST_STR_FMT,
                    ast_token_permission_word(f->permission),
                    AST_STR_ARG(ast_str_first(f->resource, 256)));
}

enum ast_rc ast_tokens_find(struct ast_tokens *t, const struct ast_principal *principal,
                            struct ast_str resource, enum ast_token_permission permission,
                            int64_t now_ns, struct ast_token *ret, struct ast_err *err)
{
    struct finding f = { .t = t,
                         .principal = principal,
                         .resource = resource,
                         .permission = permission,
                         .now_ns = now_ns };
    char prefix[AST_PRINCIPAL_MAX + 2];
    int n = snprintf(prefix, sizeof prefix, "%s/", principal->name);

    add_session(&f);
    enum ast_rc rc = ast_store_scan(t->store, NS_TOKENS, ast_str_n(prefix, (size_t)n), AST_STR_NONE,
                                    add_stored, &f, err);
    if (!rc && f.is_out_of_memory)
        rc = ast_fail(err, AST_E_NO_MEMORY, "tokens");
    if (!rc)
        rc = choose(&f, ret, err);
    ast_vec_each (&f.found, token)
        ast_token_done(token);
    ast_vec_done(&f.found);
    return rc;
}

/* ---- changes ---- */

enum ast_rc ast_tokens_add(struct ast_tokens *t, const struct ast_token *token, int64_t now_ns,
                           struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_TOKEN_MAX_TEXT);
    struct ast_token copy;

    enum ast_rc rc = ast_token_check_pattern(ast_buf_view(&token->resource), err);
    if (!rc)
        rc = ast_token_validate(token, NULL, now_ns, AST_TOKEN_SKEW_SECS, err);
    if (!rc)
        rc = ast_token_write(token, &text, err);
    struct token_op op = {
        .op = { .apply = apply_add }, .id = &token->id, .token = token, .text = ast_buf_view(&text)
    };
    if (!rc)
        rc = ast_store_run(t->store, &op.op, err);
    if (rc || token->is_persistent)
        return rc;
    rc = dup_token(token, &copy, err);
    if (rc)
        return rc;
    AST_WITH_LOCK(&t->lock);
    if (t->session.n < SESSION_MAX && ast_vec_push(&t->session, copy))
        return AST_OK;
    ast_token_done(&copy);
    return ast_fail(err, AST_E_NO_CAPACITY, "too many session tokens");
}

enum ast_rc ast_tokens_use(struct ast_tokens *t, const struct ast_principal *principal,
                           const struct ast_uuid *id, int64_t now_ns, struct ast_err *err)
{
    AST_AUTO(ast_token_done) struct ast_token token = { .permission_count = 0 };

    enum ast_rc rc = ast_tokens_get(t, id, now_ns, &token, err);
    if (rc)
        return rc;
    if (!ast_principal_eq(&token.principal, principal))
        return ast_fail(err, AST_E_DENIED, "invalid token signature");
    rc = ast_token_validate(&token, t->issuer, now_ns, /* skew_secs= */ 0, err);
    struct token_op op = { .op = { .apply = apply_use }, .id = id, .token = &token };
    return rc ? rc : ast_store_run(t->store, &op.op, err);
}

static void forget_session(struct ast_tokens *t, const struct ast_principal *principal,
                           const struct ast_uuid *id)
{
    AST_WITH_LOCK(&t->lock);
    for (size_t i = t->session.n; i-- > 0;) {
        struct ast_token *token = &t->session.v[i];
        if ((principal && !ast_principal_eq(&token->principal, principal)) ||
            (id && !ast_uuid_eq(&token->id, id)))
            continue;
        ast_token_done(token);
        ast_vec_remove_swap(&t->session, i);
    }
}

enum ast_rc ast_tokens_revoke(struct ast_tokens *t, const struct ast_uuid *id, struct ast_err *err)
{
    AST_AUTO(ast_token_done) struct ast_token token = { .permission_count = 0 };
    bool is_known = !ast_tokens_get(t, id, /* now_ns= */ 0, &token, NULL);
    struct token_op op = { .op = { .apply = apply_revoke },
                           .id = id,
                           .token = is_known ? &token : NULL };

    enum ast_rc rc = ast_store_run(t->store, &op.op, err);
    if (!rc)
        forget_session(t, NULL, id);
    return rc;
}

void ast_tokens_clear_session(struct ast_tokens *t, const struct ast_principal *principal)
{
    forget_session(t, principal, NULL);
}

/* ---- cleaning up ---- */

struct cleaning {
    struct ast_store_op op;
    int64_t now_ns;
    struct ast_uuid ids[CLEANUP_MAX];
    unsigned n;
    uint64_t removed; /* tokens */
};

static bool find_expired(void *arg, struct ast_str key, struct ast_str value)
{
    struct cleaning *c = arg;
    struct ast_token token;

    (void)key;
    if (ast_token_parse(value, &token, NULL))
        return true;
    if (token.has_expiry && c->now_ns > token.expires_ns &&
        c->now_ns - token.expires_ns > AST_TOKEN_SKEW_SECS * AST_NS_PER_SEC)
        c->ids[c->n++] = token.id;
    ast_token_done(&token);
    return c->n < CLEANUP_MAX;
}

static bool find_old_marker(void *arg, struct ast_str key, struct ast_str value)
{
    struct cleaning *c = arg;
    uint64_t ends;

    if (value.n > 1 && ast_str_to_u64(ast_str_from(value, 1), &ends) &&
        (int64_t)AST_MIN(ends, (uint64_t)INT64_MAX / 2) + AST_TOKEN_SKEW_SECS <
            c->now_ns / AST_NS_PER_SEC &&
        ast_uuid_parse(key, &c->ids[c->n]))
        c->n++;
    return c->n < CLEANUP_MAX;
}

static enum ast_rc remove_markers(struct cleaning *c, struct ast_store_txn *txn, struct ast_str ns,
                                  struct ast_err *err)
{
    char text[AST_UUID_TEXT];

    c->n = 0;
    enum ast_rc rc =
        ast_store_txn_scan(txn, ns, AST_STR_NONE, AST_STR_NONE, find_old_marker, c, err);
    for (unsigned i = 0; i < c->n && !rc; i++)
        rc = ast_store_txn_delete(txn, ns, ast_uuid_format(&c->ids[i], text), NULL, err);
    return rc;
}

static enum ast_rc apply_cleanup(struct ast_store_op *op, struct ast_store_txn *txn,
                                 struct ast_err *err)
{
    struct cleaning *c = AST_CONTAINER_OF(op, struct cleaning, op);

    enum ast_rc rc =
        ast_store_txn_scan(txn, NS_TOKENS, AST_STR_NONE, AST_STR_NONE, find_expired, c, err);
    for (unsigned i = 0; i < c->n && !rc; i++)
        rc = remove_token(txn, &c->ids[i], err);
    c->removed = c->n;
    if (!rc)
        rc = remove_markers(c, txn, NS_USED, err);
    return rc ? rc : remove_markers(c, txn, NS_REVOKED, err);
}

enum ast_rc ast_tokens_cleanup(struct ast_tokens *t, int64_t now_ns, uint64_t *ret_removed,
                               struct ast_err *err)
{
    struct cleaning *c = calloc(1, sizeof *c);
    if (!c)
        return ast_fail(err, AST_E_NO_MEMORY, "tokens");
    c->op.apply = apply_cleanup;
    c->now_ns = now_ns;
    enum ast_rc rc = ast_store_run(t->store, &c->op, err);
    if (!rc)
        *ret_removed = c->removed;
    free(c);
    return rc;
}
