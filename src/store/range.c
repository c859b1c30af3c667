/* Walks over physical keys in byte order. A walk costs one descent and then one step a row. */
#include "store/store_priv.h"

#include "base/banned.h"

static void close_cursor_auto(MDB_cursor **c)
{
    if (*c)
        mdb_cursor_close(*c);
}

/* Where a scan begins. `after` may be longer than any key; its head then finds the same place, because a
 * key of full length that is greater than the head is greater than the whole. */
static struct ast_str start_of(struct ast_str ns, struct ast_str prefix, struct ast_str after,
                               struct store_key *key)
{
    struct ast_str from = ast_str_cmp(after, prefix) > 0 ? after : prefix;
    from = ast_str_first(from, AST_STORE_MAX_PHYSICAL - 1 - ns.n);
    memcpy(key->b, ns.p, ns.n);
    key->b[ns.n] = 0;
    if (from.n)
        memcpy(key->b + ns.n + 1, from.p, from.n);
    key->n = ns.n + 1 + from.n;
    return ast_str_n(key->b, key->n);
}

enum ast_rc store_range_scan(MDB_txn *txn, MDB_dbi dbi, struct ast_str ns, struct ast_str prefix,
                             struct ast_str after, store_each_key *each, void *arg,
                             struct ast_err *err)
{
    enum ast_rc rc = store_ns_check(ns, err);
    if (rc)
        return rc;
    struct store_key key;
    struct ast_str start = start_of(ns, prefix, after, &key);
    struct ast_str head = ast_str_first(start, ns.n + 1); /* "<ns>\0", borrowed from key */

    AST_AUTO(close_cursor) MDB_cursor *c = NULL;
    int result = mdb_cursor_open(txn, dbi, &c);
    if (result)
        return store_fail(err, result, "scan");
    MDB_val k = { .mv_size = key.n, .mv_data = key.b }, v;
    for (result = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE); !result;
         result = mdb_cursor_get(c, &k, &v, MDB_NEXT)) {
        struct ast_str physical = store_val_str(k);
        if (!ast_str_starts(physical, head))
            return AST_OK;
        struct ast_str found = ast_str_from(physical, head.n);
        if (after.n && ast_str_cmp(found, after) <= 0)
            continue;
        if (!ast_str_starts(found, prefix) || !each(arg, found, store_val_str(v)))
            return AST_OK;
    }
    return result == MDB_NOTFOUND ? AST_OK : store_fail(err, result, "scan");
}

/* Moves to the last key <= `at` that is in the range of `first` (physical prefix); else stays on the first key > `at`. */
static int seek_at(MDB_cursor *c, MDB_val at, struct ast_str first, MDB_val *k, MDB_val *v)
{
    *k = at;
    int result = mdb_cursor_get(c, k, v, MDB_SET_RANGE);
    if ((result && result != MDB_NOTFOUND) ||
        (!result && ast_str_eq(store_val_str(*k), store_val_str(at))))
        return result;
    MDB_cursor_op back = result ? MDB_LAST : MDB_PREV;
    int before = mdb_cursor_get(c, k, v, back);
    if (!before && ast_str_starts(store_val_str(*k), first))
        return 0;
    if (before && before != MDB_NOTFOUND)
        return before;
    *k = at;
    return mdb_cursor_get(c, k, v, MDB_SET_RANGE);
}

enum ast_rc store_range_scan_at(MDB_txn *txn, MDB_dbi dbi, struct ast_str ns, struct ast_str prefix,
                                struct ast_str at, store_each_key *each, void *arg,
                                struct ast_err *err)
{
    enum ast_rc rc = store_ns_check(ns, err);
    if (rc)
        return rc;
    struct store_key key, first_key;
    struct ast_str start = start_of(ns, prefix, at, &key);
    struct ast_str first = start_of(ns, prefix, AST_STR_NONE, &first_key);

    AST_AUTO(close_cursor) MDB_cursor *c = NULL;
    int result = mdb_cursor_open(txn, dbi, &c);
    if (result)
        return store_fail(err, result, "scan");
    MDB_val from = { .mv_size = start.n, .mv_data = key.b }, k, v;
    for (result = seek_at(c, from, first, &k, &v); !result;
         result = mdb_cursor_get(c, &k, &v, MDB_NEXT)) {
        struct ast_str physical = store_val_str(k);
        if (!ast_str_starts(physical, first) ||
            !each(arg, ast_str_from(physical, ns.n + 1), store_val_str(v)))
            return AST_OK;
    }
    return result == MDB_NOTFOUND ? AST_OK : store_fail(err, result, "scan");
}

/* The physical key that all of the range lies below: `before`, or what follows the last key with `prefix`. Keys have no
 * byte 0xff in front when they are UTF-8, but nothing here relies on it: 0xff bytes at the end are cut before the last byte
 * is counted up, and "<ns>\1" ends the namespace as a whole. */
static void end_of(struct ast_str ns, struct ast_str prefix, struct ast_str before,
                   struct store_key *key)
{
    while (prefix.n && (unsigned char)prefix.p[prefix.n - 1] == 0xff)
        prefix.n--;
    if (before.n && ast_str_starts(before, prefix)) {
        (void)start_of(ns, before, AST_STR_NONE, key);
        return;
    }
    (void)start_of(ns, prefix, AST_STR_NONE, key);
    key->b[key->n - 1]++;
}

enum ast_rc store_range_scan_back(MDB_txn *txn, MDB_dbi dbi, struct ast_str ns,
                                  struct ast_str prefix, struct ast_str before,
                                  store_each_key *each, void *arg, struct ast_err *err)
{
    enum ast_rc rc = store_ns_check(ns, err);
    if (rc)
        return rc;
    if (before.n && !ast_str_starts(before, prefix)) {
        if (ast_str_cmp(before, prefix) < 0)
            return AST_OK; /* the whole range lies behind it */
        before = AST_STR_NONE;
    }
    struct store_key end, head_key;
    end_of(ns, prefix, before, &end);
    struct ast_str head =
        ast_str_first(start_of(ns, AST_STR_NONE, AST_STR_NONE, &head_key), ns.n + 1);

    AST_AUTO(close_cursor) MDB_cursor *c = NULL;
    int result = mdb_cursor_open(txn, dbi, &c);
    if (result)
        return store_fail(err, result, "scan");
    MDB_val k = { .mv_size = end.n, .mv_data = end.b }, v;
    result = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
    if (result && result != MDB_NOTFOUND)
        return store_fail(err, result, "scan");
    for (result = mdb_cursor_get(c, &k, &v, result ? MDB_LAST : MDB_PREV); !result;
         result = mdb_cursor_get(c, &k, &v, MDB_PREV)) {
        struct ast_str physical = store_val_str(k);
        if (!ast_str_starts(physical, head))
            return AST_OK;
        struct ast_str found = ast_str_from(physical, head.n);
        if (before.n && ast_str_cmp(found, before) >= 0)
            continue; /* `before` was longer than any key */
        if (!ast_str_starts(found, prefix) || !each(arg, found, store_val_str(v)))
            return AST_OK;
    }
    return result == MDB_NOTFOUND ? AST_OK : store_fail(err, result, "scan");
}

enum ast_rc store_range_each(MDB_txn *txn, MDB_dbi dbi, struct ast_str ns_prefix,
                             store_each_row *each, void *arg, struct ast_err *err)
{
    if (ns_prefix.n > AST_STORE_MAX_NS)
        return AST_OK;
    AST_AUTO(close_cursor) MDB_cursor *c = NULL;
    int result = mdb_cursor_open(txn, dbi, &c);
    if (result)
        return store_fail(err, result, "scan");
    MDB_val k = { .mv_size = ns_prefix.n, .mv_data = (void *)(uintptr_t)ns_prefix.p }, v;
    for (result = mdb_cursor_get(c, &k, &v, ns_prefix.n ? MDB_SET_RANGE : MDB_FIRST); !result;
         result = mdb_cursor_get(c, &k, &v, MDB_NEXT)) {
        struct ast_str physical = store_val_str(k);
        if (!ast_str_starts(physical, ns_prefix))
            return AST_OK;
        size_t end = ast_str_find_byte(physical, 0);
        if (end == AST_STR_NPOS)
            return ast_fail(err, AST_E_CORRUPT, "scan: a key without a namespace");
        if (!each(arg, ast_str_first(physical, end), ast_str_from(physical, end + 1),
                  store_val_str(v)))
            return AST_OK;
    }
    return result == MDB_NOTFOUND ? AST_OK : store_fail(err, result, "scan");
}
