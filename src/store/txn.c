/* What an op may do inside apply().
 *
 * Invariant: the first write of an op in a group of several opens a nested transaction, so undoing the op
 * is aborting that one and leaves its neighbours alone. An op that only reads, or fails before it wrote,
 * costs nothing of the kind.
 */
#include "store/store_priv.h"

#include "base/banned.h"

static void close_cursor_auto(MDB_cursor **c)
{
    if (*c)
        mdb_cursor_close(*c);
}

static enum ast_rc begin_write(struct ast_store_txn *t, struct ast_err *err)
{
    AST_ASSERT(!t->is_scanning);
    if (!t->has_written && !t->group->is_alone) {
        MDB_txn *child = NULL;
        int result = mdb_txn_begin(t->group->s->env, t->group->txn, 0, &child);
        if (result)
            return store_fail(err, result, "begin");
        t->txn = child;
    }
    t->has_written = true;
    t->group->has_written = true;
    return AST_OK;
}

bool ast_store_txn_get(struct ast_store_txn *t, struct ast_str ns, struct ast_str key,
                       struct ast_str *ret)
{
    struct store_key physical;
    if (!store_key_find(ns, key, &physical))
        return false;
    MDB_val k = store_key_val(&physical), v;
    int result = mdb_get(t->txn, t->group->s->dbi, &k, &v);
    if (!result)
        *ret = store_val_str(v);
    else if (result != MDB_NOTFOUND && !t->fail.rc)
        (void)store_fail(&t->fail, result, "get");
    return !result;
}

/* What a put takes from a file that is nearly full. Large values lie on pages of their own; the copies of
 * tree pages come out of the reserve. */
static uint64_t cost_of(const struct ast_store *s, size_t key_n, size_t value_n)
{
    uint64_t n = (uint64_t)key_n + value_n + 16;
    return n > s->page_bytes / 2 ? (n + s->page_bytes) / s->page_bytes * s->page_bytes : n;
}

enum ast_rc ast_store_txn_put(struct ast_store_txn *t, struct ast_str ns, struct ast_str key,
                              struct ast_str value, struct ast_err *err)
{
    struct store_key physical;
    enum ast_rc rc = store_key_make(ns, key, &physical, err);
    if (rc)
        return rc;
    if (value.n > AST_STORE_MAX_VALUE)
        return ast_fail(err, AST_E_TOO_LARGE, "value must not be longer than %u bytes",
                        AST_STORE_MAX_VALUE);
    struct store_group *g = t->group;
    uint64_t cost = cost_of(g->s, physical.n, value.n);
    if (cost > g->budget_bytes)
        return store_fail(err, MDB_MAP_FULL, "put");
    rc = begin_write(t, err);
    if (rc)
        return rc;
    MDB_val k = store_key_val(&physical),
            v = { .mv_size = value.n, .mv_data = (void *)(uintptr_t)value.p };
    int result = mdb_put(t->txn, g->s->dbi, &k, &v, 0);
    if (result)
        return store_fail(err, result, "put");
    g->written_bytes += physical.n + value.n;
    if (g->budget_bytes != UINT64_MAX)
        g->budget_bytes -= cost;
    return AST_OK;
}

enum ast_rc ast_store_txn_delete(struct ast_store_txn *t, struct ast_str ns, struct ast_str key,
                                 bool *ret_existed, struct ast_err *err)
{
    struct store_key physical;
    enum ast_rc rc = store_key_make(ns, key, &physical, err);
    if (rc)
        return rc;
    /* Looking first keeps the delete of a missing key free of any write. */
    MDB_val k = store_key_val(&physical), v;
    int result = mdb_get(t->txn, t->group->s->dbi, &k, &v);
    bool existed = !result;
    if (existed) {
        rc = begin_write(t, err);
        if (rc)
            return rc;
        result = mdb_del(t->txn, t->group->s->dbi, &k, NULL);
    }
    if (result && result != MDB_NOTFOUND)
        return store_fail(err, result, "delete");
    if (ret_existed)
        *ret_existed = existed;
    return AST_OK;
}

/* --- Ranges -------------------------------------------------------------------------------- */

/* What a removal takes: rows that start with `prefix`, except those that start with `spare` when it is
 * not empty. Both are physical. */
struct removal {
    struct ast_str prefix, spare;
};

/* Steps to the next row to take; MDB_NOTFOUND at the end of the range. */
static int next_row(const struct removal *r, MDB_cursor *c, MDB_cursor_op op, MDB_val *k,
                    MDB_val *v)
{
    for (;;) {
        int result = mdb_cursor_get(c, k, v, op);
        if (result)
            return result;
        if (!ast_str_starts(store_val_str(*k), r->prefix))
            return MDB_NOTFOUND;
        if (!r->spare.n || !ast_str_starts(store_val_str(*k), r->spare))
            return 0;
        op = MDB_NEXT;
    }
}

static int first_row(const struct removal *r, MDB_cursor *c, MDB_val *k, MDB_val *v)
{
    *k = (MDB_val){ .mv_size = r->prefix.n, .mv_data = (void *)(uintptr_t)r->prefix.p };
    return next_row(r, c, MDB_SET_RANGE, k, v);
}

static int is_nothing_there(struct ast_store_txn *t, const struct removal *r)
{
    AST_AUTO(close_cursor) MDB_cursor *c = NULL;
    MDB_val k, v;
    int result = mdb_cursor_open(t->txn, t->group->s->dbi, &c);
    return result ? result : first_row(r, c, &k, &v);
}

static int remove_rows(struct ast_store_txn *t, const struct removal *r,
                       struct store_removed *removed)
{
    AST_AUTO(close_cursor) MDB_cursor *c = NULL;
    MDB_val k, v;
    int result = mdb_cursor_open(t->txn, t->group->s->dbi, &c);
    if (!result)
        result = first_row(r, c, &k, &v);
    while (!result) {
        struct ast_str found = store_val_str(k);
        size_t ns_n = ast_str_find_byte(found, 0);
        removed->keys++;
        removed->bytes += (ns_n < found.n ? found.n - ns_n - 1 : 0) + v.mv_size;
        result = mdb_cursor_del(c, 0); /* MDB_NEXT then gives the row behind it */
        if (!result)
            result = next_row(r, c, MDB_NEXT, &k, &v);
    }
    return result;
}

static enum ast_rc remove_range(struct ast_store_txn *t, const struct removal *r,
                                struct store_removed *ret, struct ast_err *err)
{
    /* Looking first keeps the clearing of nothing free of any write. */
    int result = is_nothing_there(t, r);
    struct store_removed removed = { 0 };
    if (!result) {
        enum ast_rc rc = begin_write(t, err);
        if (rc)
            return rc;
        result = remove_rows(t, r, &removed);
    }
    if (result != MDB_NOTFOUND)
        return store_fail(err, result, "clear");
    *ret = removed;
    return AST_OK;
}

enum ast_rc store_txn_clear(struct ast_store_txn *t, struct ast_str ns, struct ast_str prefix,
                            struct ast_str spare, struct store_removed *ret, struct ast_err *err)
{
    struct store_key from, kept;
    enum ast_rc rc = store_prefix_make(ns, prefix, &from, err);
    if (!rc)
        rc = store_prefix_make(ns, spare, &kept, err);
    if (rc)
        return rc;
    struct removal r = { .prefix = ast_str_n(from.b, from.n),
                         .spare = spare.n ? ast_str_n(kept.b, kept.n) : AST_STR_NONE };
    return remove_range(t, &r, ret, err);
}

enum ast_rc ast_store_txn_clear(struct ast_store_txn *t, struct ast_str ns, struct ast_str prefix,
                                struct ast_str spare, uint64_t *ret_count, struct ast_err *err)
{
    struct store_removed removed = { 0 };
    enum ast_rc rc = store_txn_clear(t, ns, prefix, spare, &removed, err);
    if (!rc && ret_count)
        *ret_count = removed.keys;
    return rc;
}

enum ast_rc store_txn_purge(struct ast_store_txn *t, struct ast_str ns_prefix,
                            struct store_removed *ret, struct ast_err *err)
{
    enum ast_rc rc = store_ns_check(ns_prefix, err);
    if (rc)
        return rc;
    return remove_range(t, &(struct removal){ .prefix = ns_prefix }, ret, err);
}

enum ast_rc ast_store_txn_scan(struct ast_store_txn *t, struct ast_str ns, struct ast_str prefix,
                               struct ast_str after,
                               bool (*each)(void *arg, struct ast_str key, struct ast_str value),
                               void *arg, struct ast_err *err)
{
    t->is_scanning = true;
    enum ast_rc rc = store_range_scan(t->txn, t->group->s->dbi, ns, prefix, after, each, arg, err);
    t->is_scanning = false;
    return rc;
}

struct last_row {
    struct ast_str key, value;
    bool found;
};

static bool take_last(void *arg, struct ast_str key, struct ast_str value)
{
    *(struct last_row *)arg = (struct last_row){ key, value, true };
    return false;
}

bool ast_store_txn_last(struct ast_store_txn *t, struct ast_str ns, struct ast_str prefix,
                        struct ast_str *ret_key, struct ast_str *ret_value)
{
    struct ast_err err = AST_ERR_INIT;
    struct last_row last = { .found = false };
    enum ast_rc rc = store_range_scan_back(t->txn, t->group->s->dbi, ns, prefix, AST_STR_NONE,
                                           take_last, &last, &err);
    if (rc && !t->fail.rc)
        t->fail = err;
    if (!last.found)
        return false;
    *ret_key = last.key;
    *ret_value = last.value;
    return true;
}

enum ast_rc store_txn_each(struct ast_store_txn *t, struct ast_str ns_prefix, store_each_row *each,
                           void *arg, struct ast_err *err)
{
    t->is_scanning = true;
    enum ast_rc rc = store_range_each(t->txn, t->group->s->dbi, ns_prefix, each, arg, err);
    t->is_scanning = false;
    return rc;
}
