/* How many bytes each principal keeps in its capsules' namespaces.
 *
 * Invariant: the counter of a principal, once it exists, equals the sum over its rows, because it changes in
 * the transaction that changes them. Before it exists (a store written by an import) the first change counts.
 */
#include "store/kv_priv.h"

#include <inttypes.h>

#include "base/id.h"
#include "store/store_priv.h"

#include "base/banned.h"

#define OWNED_PART ":capsule:"

struct ast_str store_usage_owner(struct ast_str ns)
{
    /* The middle part keeps the names of the kernel apart: a principal may well be called "system". */
    size_t colon = ast_str_find_byte(ns, ':');
    if (colon == AST_STR_NPOS || !ast_str_starts(ast_str_from(ns, colon), AST_STR(OWNED_PART)))
        return AST_STR_NONE;
    struct ast_str owner = ast_str_first(ns, colon);
    return ast_principal_valid(owner) ? owner : AST_STR_NONE;
}

static bool add_row(void *arg, struct ast_str ns, struct ast_str key, struct ast_str value)
{
    uint64_t *sum = arg;
    (void)ns;
    *sum += (uint64_t)key.n + value.n;
    return true;
}

struct owned_prefix {
    char b[AST_PRINCIPAL_MAX + sizeof OWNED_PART];
    size_t n;
};

static struct ast_str owned_prefix(struct ast_str owner, struct owned_prefix *p)
{
    AST_ASSERT(owner.n <= AST_PRINCIPAL_MAX);
    memcpy(p->b, owner.p, owner.n);
    memcpy(p->b + owner.n, OWNED_PART, sizeof OWNED_PART);
    p->n = owner.n + sizeof OWNED_PART - 1;
    return ast_str_n(p->b, p->n);
}

static bool decode(struct ast_str value, uint64_t *ret)
{
    if (value.n != 8)
        return false;
    uint64_t v = 0;
    for (size_t i = 8; i-- > 0;)
        v = v << 8 | (uint8_t)value.p[i];
    *ret = v;
    return true;
}

static bool find_counter(struct ast_store_txn *t, struct ast_str owner, uint64_t *ret_bytes)
{
    struct ast_str value;
    return ast_store_txn_get(t, AST_KV_USAGE_NS, owner, &value) && decode(value, ret_bytes);
}

static enum ast_rc count_rows(struct ast_store_txn *t, struct ast_str owner, uint64_t *ret_bytes,
                              struct ast_err *err)
{
    struct owned_prefix prefix;
    uint64_t sum = 0;
    enum ast_rc rc = store_txn_each(t, owned_prefix(owner, &prefix), add_row, &sum, err);
    if (rc)
        return ast_wrap(err, rc, "count the bytes of '" AST_STR_FMT "'", AST_STR_ARG(owner));
    *ret_bytes = sum;
    return AST_OK;
}

static enum ast_rc save(struct ast_store_txn *t, struct ast_str owner, uint64_t bytes,
                        struct ast_err *err)
{
    char value[8];
    for (size_t i = 0; i < 8; i++)
        value[i] = (char)(uint8_t)(bytes >> 8 * i);
    return ast_store_txn_put(t, AST_KV_USAGE_NS, owner, ast_str_n(value, sizeof value), err);
}

enum ast_rc store_usage_put(struct ast_store_txn *t, struct ast_str owner, uint64_t old_bytes,
                            uint64_t new_bytes, uint64_t quota_bytes, struct ast_err *err)
{
    if (!owner.n || old_bytes == new_bytes)
        return AST_OK;
    uint64_t before = 0, after;
    if (!find_counter(t, owner, &before)) {
        enum ast_rc rc = count_rows(t, owner, &before, err);
        if (rc)
            return rc;
    }
    if (__builtin_add_overflow(before > old_bytes ? before - old_bytes : 0, new_bytes, &after))
        after = UINT64_MAX;
    if (quota_bytes && after > quota_bytes && new_bytes > old_bytes)
        return ast_fail(err, AST_E_QUOTA,
                        "quota exceeded: %" PRIu64 " of %" PRIu64 " bytes are in use, %" PRIu64
                        " more are needed",
                        before, quota_bytes, new_bytes - old_bytes);
    return save(t, owner, after, err);
}

enum ast_rc store_usage_removed(struct ast_store_txn *t, struct ast_str owner, uint64_t bytes,
                                struct ast_err *err)
{
    uint64_t before;
    /* Without a counter there is nothing to correct: whoever needs one counts what is left. */
    if (!owner.n || !bytes || !find_counter(t, owner, &before))
        return AST_OK;
    return save(t, owner, before > bytes ? before - bytes : 0, err);
}

enum ast_rc ast_kv_usage(struct ast_store *s, struct ast_str principal, uint64_t *ret_bytes,
                         struct ast_err *err)
{
    if (!ast_principal_valid(principal))
        return ast_fail(err, AST_E_INVALID, "invalid principal id");
    AST_AUTO(ast_buf_done) struct ast_buf value = AST_BUF_INIT(64);
    bool found = false;
    enum ast_rc rc = ast_store_get(s, AST_KV_USAGE_NS, principal, &value, &found, err);
    if (rc)
        return rc;
    if (found && decode(ast_buf_view(&value), ret_bytes))
        return AST_OK;
    struct owned_prefix prefix;
    uint64_t sum = 0;
    rc = ast_store_each(s, owned_prefix(principal, &prefix), add_row, &sum, err);
    if (!rc)
        *ret_bytes = sum;
    return rc;
}
