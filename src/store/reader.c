/* Snapshots: reads that never wait for the writer.
 *
 * Invariant: a read transaction belongs to the one thread that took it out of `idle` or began it. It goes
 * back reset, which keeps its slot in LMDB's reader table: renewing takes no lock, so a get costs less
 * than a microsecond.
 */
#include "store/store_priv.h"

#include "base/banned.h"

/* Where this thread looks first. A hint only: any value is right after a move to another thread. */
static _Thread_local unsigned hint;

static enum ast_rc begin_read(struct ast_store *s, MDB_txn **ret, struct ast_err *err)
{
    static _Atomic unsigned next_hint;
    if (!hint)
        hint =
            atomic_fetch_add_explicit(&next_hint, 1, memory_order_relaxed) % STORE_IDLE_READERS + 1;
    for (unsigned i = 0; i < STORE_IDLE_READERS; i++) {
        struct store_idle *idle = &s->idle[(hint - 1 + i) % STORE_IDLE_READERS];
        if (!atomic_load_explicit(&idle->txn, memory_order_relaxed))
            continue;
        /* Pairs with the release in end_read(): its last use happened before. */
        MDB_txn *txn = atomic_exchange_explicit(&idle->txn, NULL, memory_order_acquire);
        if (!txn)
            continue;
        int result = mdb_txn_renew(txn);
        if (!result) {
            *ret = txn;
            return AST_OK;
        }
        mdb_txn_abort(txn);
        return store_fail(err, result, "read");
    }
    MDB_txn *txn = NULL;
    int result = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (result)
        return store_fail(err, result, "read");
    *ret = txn;
    return AST_OK;
}

static void end_read(struct ast_store *s, MDB_txn *txn)
{
    mdb_txn_reset(txn);
    for (unsigned i = 0; i < STORE_IDLE_READERS; i++) {
        struct store_idle *idle = &s->idle[(hint - 1 + i) % STORE_IDLE_READERS];
        MDB_txn *none = NULL;
        if (atomic_compare_exchange_strong_explicit(&idle->txn, &none, txn, memory_order_release,
                                                    memory_order_relaxed))
            return;
    }
    mdb_txn_abort(txn);
}

enum ast_rc ast_store_get(struct ast_store *s, struct ast_str ns, struct ast_str key,
                          struct ast_buf *out, bool *ret_found, struct ast_err *err)
{
    struct store_key physical;
    if (!store_key_find(ns, key, &physical)) {
        *ret_found = false;
        return AST_OK;
    }
    MDB_txn *txn = NULL;
    enum ast_rc rc = begin_read(s, &txn, err);
    if (rc)
        return rc;
    MDB_val k = store_key_val(&physical), v;
    int result = mdb_get(txn, s->dbi, &k, &v);
    if (!result) {
        (void)ast_buf_add(out, store_val_str(v)); /* the check below tells */
        rc = ast_buf_check(out, "stored value", err);
    } else if (result != MDB_NOTFOUND) {
        rc = store_fail(err, result, "get");
    }
    end_read(s, txn);
    if (!rc)
        *ret_found = !result;
    return rc;
}

enum ast_rc ast_store_scan(struct ast_store *s, struct ast_str ns, struct ast_str prefix,
                           struct ast_str after,
                           bool (*each)(void *arg, struct ast_str key, struct ast_str value),
                           void *arg, struct ast_err *err)
{
    MDB_txn *txn = NULL;
    enum ast_rc rc = begin_read(s, &txn, err);
    if (rc)
        return rc;
    rc = store_range_scan(txn, s->dbi, ns, prefix, after, each, arg, err);
    end_read(s, txn);
    return rc;
}

enum ast_rc ast_store_scan_at(struct ast_store *s, struct ast_str ns, struct ast_str prefix,
                              struct ast_str at,
                              bool (*each)(void *arg, struct ast_str key, struct ast_str value),
                              void *arg, struct ast_err *err)
{
    MDB_txn *txn = NULL;
    enum ast_rc rc = begin_read(s, &txn, err);
    if (rc)
        return rc;
    rc = store_range_scan_at(txn, s->dbi, ns, prefix, at, each, arg, err);
    end_read(s, txn);
    return rc;
}

enum ast_rc ast_store_scan_back(struct ast_store *s, struct ast_str ns, struct ast_str prefix,
                                struct ast_str before,
                                bool (*each)(void *arg, struct ast_str key, struct ast_str value),
                                void *arg, struct ast_err *err)
{
    MDB_txn *txn = NULL;
    enum ast_rc rc = begin_read(s, &txn, err);
    if (rc)
        return rc;
    rc = store_range_scan_back(txn, s->dbi, ns, prefix, before, each, arg, err);
    end_read(s, txn);
    return rc;
}

enum ast_rc ast_store_each(struct ast_store *s, struct ast_str ns_prefix,
                           bool (*each)(void *arg, struct ast_str ns, struct ast_str key,
                                        struct ast_str value),
                           void *arg, struct ast_err *err)
{
    MDB_txn *txn = NULL;
    enum ast_rc rc = begin_read(s, &txn, err);
    if (rc)
        return rc;
    rc = store_range_each(txn, s->dbi, ns_prefix, each, arg, err);
    end_read(s, txn);
    return rc;
}
