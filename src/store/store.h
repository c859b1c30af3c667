/* The kernel's database: one LMDB environment, one writer thread, group commit.
 *
 * Every change is a `struct ast_store_op` queued to the writer. The writer takes all queued ops, runs
 * each in a nested transaction of its own (one op fails alone), commits the group once, durably, and
 * only then calls each op's `done`. So an acknowledged change survives kill -9 and power loss, and an
 * unacknowledged one is all or nothing. Readers never block: they use short snapshots.
 *
 * Physical key (spec 05 §8.2): namespace, 0x00, key; at most AST_STORE_MAX_PHYSICAL bytes together,
 * since LMDB keys end at 511. Everything lies in the unnamed database of <path>/data.mdb.
 *
 * Threads: any for everything here; reads must not span a park (copy out, then go on).
 * Caveats: one process and one open store per directory (a second open is BUSY); not usable in a forked
 * child. The file is sparse and grows by itself up to max_bytes; then puts get NO_CAPACITY while deletes
 * still have room to work.
 */
#pragma once

#include <stdint.h>

#include "base/auto.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/str.h"

#define AST_STORE_MAX_NS        240u /* the longest real one: 64 + ":capsule:" + 128 */
#define AST_STORE_MAX_PHYSICAL  500u /* namespace + 1 + key; LMDB's own end is 511 */
#define AST_STORE_MAX_VALUE     (64u * 1024 * 1024)
#define AST_STORE_DEFAULT_BYTES (64ull << 30)
#define AST_STORE_DEFAULT_GROUP 4096u
#define AST_STORE_MAX_READERS   512u /* snapshots at one time; more are BUSY */

struct ast_store;
struct ast_store_txn; /* valid inside apply() only */

struct ast_store_config {
    const char *path;   /* directory, created 0700 */
    uint64_t max_bytes; /* ceiling of the file; 0 = 64 GiB (sparse) */
    unsigned group_max; /* ops per commit; 0 = 4096 */
    bool no_sync;       /* tests and benches only */
};

/* Errors: BUSY already open here or elsewhere; CORRUPT, DENIED, IO, NO_CAPACITY. */
AST_MUST_CHECK
enum ast_rc ast_store_open(const struct ast_store_config *cfg, struct ast_store **ret,
                           struct ast_err *err);
void ast_store_close(struct ast_store *s); /* commits what is queued, joins the writer */
AST_DEFINE_AUTO(struct ast_store, ast_store_close)

/* A change. Embed it in the waiting object; it must stay in place until done() was called.
 * apply runs once on the writer thread; returning an error undoes just this op. done runs on the writer
 * thread after the commit, with apply's result or the commit's: it must be quick and must not block
 * (wake a fiber, post to a loop, signal a condition). `err` is borrowed for the call; the op may be
 * released or submitted again inside it. Ops of one submitting thread are applied in their order. */
struct ast_store_op {
    enum ast_rc (*apply)(struct ast_store_op *op, struct ast_store_txn *txn, struct ast_err *err);
    void (*done)(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err);
    struct ast_store_op *next; /* private */
    struct ast_err err;        /* private but for ast_store_run_many() */
    enum ast_rc rc;            /* the same */
};
/* Queues; never fails. After ast_store_close() began, done() gets AST_E_CLOSED on the calling thread. */
void ast_store_submit(struct ast_store *s, struct ast_store_op *op);
/* Submits and blocks the calling thread until durable; op->done is not called. Never on a loop thread, a
 * fiber or the writer. */
enum ast_rc ast_store_run(struct ast_store *s, struct ast_store_op *op, struct ast_err *err);
/* The same for many, in their order and in as few commits as there can be. Afterwards op->rc and op->err tell the fate of
 * each; op->done is not called. */
void ast_store_run_many(struct ast_store *s, struct ast_store_op *const *ops, size_t n);

/* Inside apply(): reads see the op's own writes. Values are borrowed until the next write. A read that
 * fails (damaged file) says "absent" and fails the op whatever apply returns.
 * Errors of the writes: INVALID namespace or key empty, too long or with NUL; TOO_LARGE value over
 * AST_STORE_MAX_VALUE; NO_CAPACITY the file or the disk is full; CORRUPT; IO. */
bool ast_store_txn_get(struct ast_store_txn *t, struct ast_str ns, struct ast_str key,
                       struct ast_str *ret);
enum ast_rc ast_store_txn_put(struct ast_store_txn *t, struct ast_str ns, struct ast_str key,
                              struct ast_str value, struct ast_err *err);
/* *ret_existed may be NULL. A missing key is fine. */
enum ast_rc ast_store_txn_delete(struct ast_store_txn *t, struct ast_str ns, struct ast_str key,
                                 bool *ret_existed, struct ast_err *err);
/* Deletes all keys of `ns` that start with `prefix`, except those that start with `spare` when it is
 * not empty. */
enum ast_rc ast_store_txn_clear(struct ast_store_txn *t, struct ast_str ns, struct ast_str prefix,
                                struct ast_str spare, uint64_t *ret_count, struct ast_err *err);
/* Ascending byte order from the first key > `after` (empty: from the start) with `prefix`; stops when
 * `each` returns false. key and value are borrowed for the call; `each` must not write. */
enum ast_rc ast_store_txn_scan(struct ast_store_txn *t, struct ast_str ns, struct ast_str prefix,
                               struct ast_str after,
                               bool (*each)(void *arg, struct ast_str key, struct ast_str value),
                               void *arg, struct ast_err *err);

/* The last key with `prefix`, and its value; false when there is none. Both are borrowed until the next write. */
bool ast_store_txn_last(struct ast_store_txn *t, struct ast_str ns, struct ast_str prefix,
                        struct ast_str *ret_key, struct ast_str *ret_value);

/* Reads in a snapshot of their own. *ret_found false: no such key; a stored empty value is found. */
AST_MUST_CHECK
enum ast_rc ast_store_get(struct ast_store *s, struct ast_str ns, struct ast_str key,
                          struct ast_buf *out, bool *ret_found, struct ast_err *err);
AST_MUST_CHECK
enum ast_rc ast_store_scan(struct ast_store *s, struct ast_str ns, struct ast_str prefix,
                           struct ast_str after,
                           bool (*each)(void *arg, struct ast_str key, struct ast_str value),
                           void *arg, struct ast_err *err);

/* The same, from the last key <= `at` with `prefix`; when all are greater, from the first of them. `at` starts with `prefix`. */
AST_MUST_CHECK
enum ast_rc ast_store_scan_at(struct ast_store *s, struct ast_str ns, struct ast_str prefix,
                              struct ast_str at,
                              bool (*each)(void *arg, struct ast_str key, struct ast_str value),
                              void *arg, struct ast_err *err);

/* The same from the end: descending byte order from the last key < `before` (empty: from the end) with `prefix`. */
AST_MUST_CHECK
enum ast_rc ast_store_scan_back(struct ast_store *s, struct ast_str ns, struct ast_str prefix,
                                struct ast_str before,
                                bool (*each)(void *arg, struct ast_str key, struct ast_str value),
                                void *arg, struct ast_err *err);

/* Every row whose namespace starts with `ns_prefix` (empty: all), ordered by namespace and key, in one
 * snapshot: export, copies, accounting. As in ast_store_scan() the views are borrowed for the call and a
 * false stops; a slow `each` keeps deleted space from being used again. */
AST_MUST_CHECK
enum ast_rc ast_store_each(struct ast_store *s, struct ast_str ns_prefix,
                           bool (*each)(void *arg, struct ast_str ns, struct ast_str key,
                                        struct ast_str value),
                           void *arg, struct ast_err *err);

struct ast_store_stats {
    uint64_t commits;    /* groups made durable since open */
    uint64_t ops;        /* ops applied with success since open */
    uint64_t bytes_used; /* of the file, free pages inside included */
};
void ast_store_stats(struct ast_store *s, struct ast_store_stats *ret);
