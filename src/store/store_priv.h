/* What the files of the store share: the environment, keys, ranges and the words for LMDB's errors. */
#pragma once

#include <lmdb.h>
#include <stdatomic.h>

#include "base/thread.h"
#include "store/store.h"

#define STORE_IDLE_READERS 64u
/* A group ends early after this much: it bounds the dirty pages in memory and the time to the commit. */
#define STORE_GROUP_BYTES (64u * 1024 * 1024)

/* An idle read transaction keeps its slot in LMDB's reader table, so renewing it takes no lock. */
struct store_idle {
    _Alignas(64) _Atomic(MDB_txn *) txn; /* NULL: empty. A thread owns what it exchanged out. */
};

/* Owner: any thread. The queue is under `lock`; what is not marked is immutable after open. */
struct ast_store {
    MDB_env *env;
    MDB_dbi dbi;
    unsigned group_max;
    size_t page_bytes;
    uint64_t map_pages;     /* all that may ever be used */
    uint64_t reserve_pages; /* the last of them are left for deletes */
    int lock_fd;            /* holds the exclusive lock of the directory */

    pthread_t writer;
    struct ast_lock lock;
    pthread_cond_t wake; /* the writer waits here */
    struct ast_store_op *first AST_GUARDED_BY(lock);
    struct ast_store_op **last AST_GUARDED_BY(lock); /* where the next op is linked */
    bool is_closing AST_GUARDED_BY(lock);
    bool is_writer_idle AST_GUARDED_BY(lock);

    struct store_idle idle[STORE_IDLE_READERS];

    /* Written by the writer, read by ast_store_stats(); relaxed, they order nothing. */
    _Atomic uint64_t commits, ops, pages_used;
};

/* One commit in the making. Owner: the writer. */
struct store_group {
    struct ast_store *s;
    MDB_txn *txn;
    bool is_alone;  /* one op only: it works in `txn` itself */
    bool is_spoilt; /* that op failed after it had written */
    bool has_written;
    size_t written_bytes;
    uint64_t budget_bytes; /* what puts may still take, UINT64_MAX far from full */
};

/* One op at work. Owner: the writer, during apply(). */
struct ast_store_txn {
    struct store_group *group;
    /* the group's until the first write, then a child of it (or still it, if alone) */
    MDB_txn *txn;
    bool has_written;
    bool is_scanning;    /* inside a callback that must not write */
    struct ast_err fail; /* fail.rc: a read that could not tell */
};

/* --- store.c --- */
/* The code for an LMDB result, with "<formatted>: <LMDB's words>". */
enum ast_rc store_fail(struct ast_err *err, int result, const char *fmt, ...) AST_PRINTF(3, 4);

/* --- writer.c --- */
enum ast_rc store_writer_start(struct ast_store *s, struct ast_err *err);
void store_writer_stop(struct ast_store *s); /* commits what is queued */

/* --- key.c --- */
struct store_key {
    size_t n;
    char b[AST_STORE_MAX_PHYSICAL];
};
enum ast_rc store_ns_check(struct ast_str ns, struct ast_err *err);
/* Checks both parts as a write must. */
enum ast_rc store_key_make(struct ast_str ns, struct ast_str key, struct store_key *ret,
                           struct ast_err *err);
/* "<ns> 00 <prefix>"; the prefix may be empty. */
enum ast_rc store_prefix_make(struct ast_str ns, struct ast_str prefix, struct store_key *ret,
                              struct ast_err *err);
/* For reads: false when no such key can exist. */
bool store_key_find(struct ast_str ns, struct ast_str key, struct store_key *ret);
static inline MDB_val store_key_val(const struct store_key *k)
{
    return (MDB_val){ .mv_size = k->n, .mv_data = (void *)(uintptr_t)k->b };
}
static inline struct ast_str store_val_str(MDB_val v)
{
    return ast_str_n(v.mv_data, v.mv_size);
}

/* --- range.c: walks over physical keys, the same for snapshots and for the writer --- */
typedef bool store_each_key(void *arg, struct ast_str key, struct ast_str value);
typedef bool store_each_row(void *arg, struct ast_str ns, struct ast_str key, struct ast_str value);
enum ast_rc store_range_scan(MDB_txn *txn, MDB_dbi dbi, struct ast_str ns, struct ast_str prefix,
                             struct ast_str after, store_each_key *each, void *arg,
                             struct ast_err *err);
enum ast_rc store_range_scan_at(MDB_txn *txn, MDB_dbi dbi, struct ast_str ns, struct ast_str prefix,
                                struct ast_str at, store_each_key *each, void *arg,
                                struct ast_err *err);
enum ast_rc store_range_scan_back(MDB_txn *txn, MDB_dbi dbi, struct ast_str ns,
                                  struct ast_str prefix, struct ast_str before,
                                  store_each_key *each, void *arg, struct ast_err *err);
enum ast_rc store_range_each(MDB_txn *txn, MDB_dbi dbi, struct ast_str ns_prefix,
                             store_each_row *each, void *arg, struct ast_err *err);

/* --- txn.c: for kv.c --- */
struct store_removed {
    uint64_t keys;
    uint64_t bytes; /* of keys (without the namespace) and values */
};
/* As ast_store_txn_clear(), and says how many bytes went. */
enum ast_rc store_txn_clear(struct ast_store_txn *t, struct ast_str ns, struct ast_str prefix,
                            struct ast_str spare, struct store_removed *ret, struct ast_err *err);
/* Removes every row whose namespace starts with `ns_prefix`, which must not be empty. */
enum ast_rc store_txn_purge(struct ast_store_txn *t, struct ast_str ns_prefix,
                            struct store_removed *ret, struct ast_err *err);
/* ast_store_each() as the op sees it; `each` must not write. */
enum ast_rc store_txn_each(struct ast_store_txn *t, struct ast_str ns_prefix, store_each_row *each,
                           void *arg, struct ast_err *err);
