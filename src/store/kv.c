/* Key-value operations as ready-made ops: the rules of spec 05 §8.3 on top of the plain store. */
#include "store/kv.h"

#include <inttypes.h>

#include "base/id.h"
#include "store/kv_priv.h"
#include "store/store_priv.h"

#include "base/banned.h"

/* --- Rules --------------------------------------------------------------------------------- */

/* C0, DEL and, as UTF-8 spells them, C1. */
static bool has_control(struct ast_str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c == 0x7f)
            return true;
        if (c == 0xc2 && i + 1 < s.n && (unsigned char)s.p[i + 1] < 0xa0)
            return true;
    }
    return false;
}

/* What even a read refuses. */
static enum ast_rc check_shape(struct ast_str key, struct ast_err *err)
{
    if (key.n == 0)
        return ast_fail(err, AST_E_INVALID, "invalid key: key must not be empty");
    if (memchr(key.p, 0, key.n))
        return ast_fail(err, AST_E_INVALID, "invalid key: key must not contain null bytes");
    return AST_OK;
}

enum ast_rc ast_kv_check_key(struct ast_str key, struct ast_err *err)
{
    enum ast_rc rc = check_shape(key, err);
    if (rc)
        return rc;
    if (key.n > AST_KV_MAX_KEY)
        return ast_fail(err, AST_E_INVALID, "invalid key: key must not be longer than %u bytes",
                        AST_KV_MAX_KEY);
    if (has_control(key))
        return ast_fail(err, AST_E_INVALID, "invalid key: key must not contain control characters");
    return AST_OK;
}

static bool is_hidden(struct ast_str key)
{
    return ast_str_starts(key, AST_KV_SECRET_PREFIX);
}

/* --- Changes ------------------------------------------------------------------------------- */

static struct ast_kv_op *kv_of(struct ast_store_op *op)
{
    return AST_CONTAINER_OF(op, struct ast_kv_op, op);
}

/* Puts key and value and moves the counter; `old` is the present value, NULL when there is none. */
static enum ast_rc put_counted(struct ast_store_txn *txn, const struct ast_kv_op *kv,
                               const struct ast_str *old, struct ast_err *err)
{
    uint64_t old_bytes = old ? (uint64_t)kv->key.n + old->n : 0;
    enum ast_rc rc = store_usage_put(txn, store_usage_owner(kv->ns), old_bytes,
                                     (uint64_t)kv->key.n + kv->value.n, kv->quota_bytes, err);
    return rc ? rc : ast_store_txn_put(txn, kv->ns, kv->key, kv->value, err);
}

static enum ast_rc apply_set(struct ast_store_op *op, struct ast_store_txn *txn,
                             struct ast_err *err)
{
    const struct ast_kv_op *kv = kv_of(op);
    struct ast_str old;
    bool found = ast_store_txn_get(txn, kv->ns, kv->key, &old);
    return put_counted(txn, kv, found ? &old : NULL, err);
}

static enum ast_rc apply_cas(struct ast_store_op *op, struct ast_store_txn *txn,
                             struct ast_err *err)
{
    const struct ast_kv_op *kv = kv_of(op);
    struct ast_str old;
    bool found = ast_store_txn_get(txn, kv->ns, kv->key, &old);
    if (found != kv->has_expected || (found && !ast_str_eq(old, kv->expected)))
        return ast_fail(err, AST_E_CONFLICT, "compare-and-swap mismatch");
    return put_counted(txn, kv, found ? &old : NULL, err);
}

static enum ast_rc apply_delete(struct ast_store_op *op, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    struct ast_kv_op *kv = kv_of(op);
    struct ast_str old;
    kv->ret_count = 0;
    if (!ast_store_txn_get(txn, kv->ns, kv->key, &old))
        return AST_OK;
    uint64_t bytes = (uint64_t)kv->key.n + old.n;
    enum ast_rc rc = ast_store_txn_delete(txn, kv->ns, kv->key, NULL, err);
    if (!rc)
        rc = store_usage_removed(txn, store_usage_owner(kv->ns), bytes, err);
    if (!rc)
        kv->ret_count = 1;
    return rc;
}

static enum ast_rc apply_clear(struct ast_store_op *op, struct ast_store_txn *txn,
                               struct ast_err *err)
{
    struct ast_kv_op *kv = kv_of(op);
    struct ast_str spare = kv->is_guest ? AST_KV_SECRET_PREFIX : AST_STR_NONE;
    struct store_removed removed = { 0 };
    enum ast_rc rc = store_txn_clear(txn, kv->ns, kv->key, spare, &removed, err);
    if (rc)
        return rc;
    rc = store_usage_removed(txn, store_usage_owner(kv->ns), removed.bytes, err);
    if (!rc)
        kv->ret_count = removed.keys;
    return rc;
}

static enum ast_rc apply_purge(struct ast_store_op *op, struct ast_store_txn *txn,
                               struct ast_err *err)
{
    struct ast_kv_op *kv = kv_of(op);
    AST_AUTO(ast_buf_done) struct ast_buf prefix = AST_BUF_INIT(AST_STORE_MAX_NS);
    (void)ast_buf_addf(&prefix, AST_STR_FMT ":capsule:", AST_STR_ARG(kv->ns)); /* checked below */
    enum ast_rc rc = ast_buf_check(&prefix, "namespace", err);
    struct store_removed removed = { 0 };
    if (!rc)
        rc = store_txn_purge(txn, ast_buf_view(&prefix), &removed, err);
    if (!rc)
        rc = ast_store_txn_delete(txn, AST_KV_USAGE_NS, kv->ns, NULL, err);
    if (!rc)
        kv->ret_count = removed.keys;
    return rc;
}

static const struct {
    enum ast_rc (*apply)(struct ast_store_op *op, struct ast_store_txn *txn, struct ast_err *err);
    bool has_key, has_value; /* what ast_kv_prepare() checks */
} kinds[] = {
    [AST_KV_SET] = { apply_set, true, true },       [AST_KV_DELETE] = { apply_delete, true, false },
    [AST_KV_CLEAR] = { apply_clear, false, false }, [AST_KV_CAS] = { apply_cas, true, true },
    [AST_KV_PURGE] = { apply_purge, false, false },
};

/* Checks the rules of the kind; the limits of the physical key are the store's. */
static enum ast_rc check_op(const struct ast_kv_op *op, bool guest, struct ast_err *err)
{
    struct store_key physical;
    if (op->kind == AST_KV_PURGE) {
        AST_ASSERT(!guest);
        return ast_principal_valid(op->ns) ? AST_OK
                                           : ast_fail(err, AST_E_INVALID, "invalid principal id");
    }
    if (!kinds[op->kind].has_key)
        return store_prefix_make(op->ns, op->key, &physical, err);
    enum ast_rc rc = ast_kv_check_key(op->key, err);
    /* A key of an older store may be longer; it must be possible to delete it. */
    if (rc && op->kind == AST_KV_DELETE && !check_shape(op->key, err))
        rc = AST_OK;
    if (!rc)
        rc = store_key_make(op->ns, op->key, &physical, err);
    if (rc)
        return rc;
    if (guest && is_hidden(op->key))
        return ast_fail(err, AST_E_INVALID, "invalid key: the prefix '__secret:' is reserved");
    uint64_t limit = op->value_limit ? op->value_limit : AST_KV_MAX_VALUE;
    if (kinds[op->kind].has_value && op->value.n > limit)
        return ast_fail(err, AST_E_TOO_LARGE,
                        "value of %zu bytes is over the limit of %" PRIu64 " bytes", op->value.n,
                        limit);
    return AST_OK;
}

enum ast_rc ast_kv_prepare(struct ast_kv_op *op, bool guest, struct ast_err *err)
{
    AST_ASSERT((size_t)op->kind < AST_ARRAY_LEN(kinds));
    enum ast_rc rc = check_op(op, guest, err);
    if (rc)
        return rc;
    op->is_guest = guest;
    op->op.apply = kinds[op->kind].apply;
    return AST_OK;
}

static enum ast_rc run(struct ast_store *s, struct ast_kv_op *op, struct ast_err *err)
{
    enum ast_rc rc = ast_kv_prepare(op, /* guest= */ false, err);
    return rc ? rc : ast_store_run(s, &op->op, err);
}

enum ast_rc ast_kv_set(struct ast_store *s, struct ast_str ns, struct ast_str key,
                       struct ast_str value, struct ast_err *err)
{
    struct ast_kv_op op = { .kind = AST_KV_SET, .ns = ns, .key = key, .value = value };
    return run(s, &op, err);
}

enum ast_rc ast_kv_delete(struct ast_store *s, struct ast_str ns, struct ast_str key,
                          struct ast_err *err)
{
    struct ast_kv_op op = { .kind = AST_KV_DELETE, .ns = ns, .key = key };
    return run(s, &op, err);
}

/* --- Reads --------------------------------------------------------------------------------- */

enum ast_rc ast_kv_get(struct ast_store *s, struct ast_str ns, struct ast_str key, bool guest,
                       struct ast_buf *out, bool *ret_found, struct ast_err *err)
{
    enum ast_rc rc = check_shape(key, err);
    if (!rc)
        rc = store_ns_check(ns, err);
    if (rc)
        return rc;
    if (guest && is_hidden(key)) {
        *ret_found = false;
        return AST_OK;
    }
    return ast_store_get(s, ns, key, out, ret_found, err);
}

struct list_walk {
    bool (*each)(void *arg, struct ast_str key);
    void *arg;
    size_t left;
    bool guest, more;
};

static bool list_one(void *arg, struct ast_str key, struct ast_str value)
{
    struct list_walk *w = arg;
    (void)value;
    if ((w->guest && is_hidden(key)) || !ast_str_is_utf8(key))
        return true;
    if (w->left == 0) {
        w->more = true;
        return false;
    }
    w->left--;
    return w->each(w->arg, key);
}

enum ast_rc ast_kv_list(struct ast_store *s, struct ast_str ns, struct ast_str prefix,
                        struct ast_str cursor, size_t limit, bool guest,
                        bool (*each)(void *arg, struct ast_str key), void *arg, bool *ret_more,
                        struct ast_err *err)
{
    if (prefix.n && memchr(prefix.p, 0, prefix.n))
        return ast_fail(err, AST_E_INVALID, "invalid key: prefix must not contain null bytes");
    struct list_walk w = {
        .each = each,
        .arg = arg,
        .left = limit && limit < AST_KV_MAX_LIST ? limit : AST_KV_MAX_LIST,
        .guest = guest,
    };
    enum ast_rc rc = ast_store_scan(s, ns, prefix, cursor, list_one, &w, err);
    if (!rc && ret_more)
        *ret_more = w.more;
    return rc;
}

enum ast_rc ast_kv_capsule_ns(struct ast_str principal, struct ast_str capsule_id,
                              struct ast_buf *out)
{
    return ast_buf_addf(out, AST_STR_FMT ":capsule:" AST_STR_FMT, AST_STR_ARG(principal),
                        AST_STR_ARG(capsule_id));
}
