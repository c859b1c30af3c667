/* The one writer: takes what is queued, applies it, commits once, tells everybody.
 *
 *     submit -> queue -> [ apply ... apply ] -> commit -> done ... done
 *                         one group
 *
 * Invariant: done() with AST_OK is called only after the commit that made the change durable. Callers
 * that arrive during a commit form the next group, so the group grows with the load by itself.
 */
#include <semaphore.h>
#include <stdlib.h>

#include "base/fs.h"
#include "store/store_priv.h"

#include "base/banned.h"

/* --- Near the end of the file -------------------------------------------------------------- */

/* Pages on LMDB's free list. Walks its records; done only when the file is nearly full. */
static uint64_t count_free_pages(MDB_txn *txn)
{
    enum {
        FREE_LIST_DBI = 0
    }; /* as LMDB's own mdb_stat reads it: each record begins with its length */
    uint64_t pages = 0;
    MDB_cursor *c = NULL;
    if (mdb_cursor_open(txn, FREE_LIST_DBI, &c))
        return 0;
    MDB_val k, v;
    while (!mdb_cursor_get(c, &k, &v, MDB_NEXT)) {
        size_t n = 0;
        if (v.mv_size >= sizeof n)
            memcpy(&n, v.mv_data, sizeof n);
        pages += n;
    }
    mdb_cursor_close(c);
    return pages;
}

/* Deleting copies tree pages before it frees any, so a file that puts have filled to the last page could
 * never be emptied again. Puts therefore stop short of the reserve. */
static uint64_t budget_of(struct ast_store *s, MDB_txn *txn)
{
    uint64_t used = atomic_load_explicit(&s->pages_used, memory_order_relaxed);
    uint64_t left = s->map_pages > used ? s->map_pages - used : 0;
    if (left > s->reserve_pages + 2 * (STORE_GROUP_BYTES + AST_STORE_MAX_VALUE) / s->page_bytes)
        return UINT64_MAX;
    left += count_free_pages(txn);
    return left > s->reserve_pages ? (left - s->reserve_pages) * s->page_bytes : 0;
}

/* --- One group ----------------------------------------------------------------------------- */

static void run_op(struct store_group *g, struct ast_store_op *op)
{
    struct ast_store_txn t = { .group = g, .txn = g->txn };
    op->err.rc = AST_OK;
    op->err.msg[0] = 0;
    enum ast_rc rc = op->apply(op, &t, &op->err);
    if (!rc && t.fail.rc)
        rc = ast_fail(&op->err, t.fail.rc, "%s", t.fail.msg);
    if (t.txn != g->txn) {
        int result = 0;
        if (rc)
            mdb_txn_abort(t.txn);
        else
            result = mdb_txn_commit(t.txn); /* into the group's; cheap */
        if (result)
            rc = store_fail(&op->err, result, "apply");
    } else if (rc && t.has_written) {
        g->is_spoilt = true;
    }
    op->rc = rc;
}

static int end_group(struct store_group *g)
{
    if (!g->has_written || g->is_spoilt) {
        mdb_txn_abort(g->txn);
        return 0;
    }
    struct ast_store *s = g->s;
    int result = mdb_txn_commit(g->txn);
    MDB_envinfo info;
    if (!result)
        atomic_fetch_add_explicit(&s->commits, 1, memory_order_relaxed);
    if (!mdb_env_info(s->env, &info))
        atomic_store_explicit(&s->pages_used, info.me_last_pgno + 1, memory_order_relaxed);
    return result;
}

/* Applies and commits the head of the list and cuts it off. */
static void run_group(struct ast_store *s, struct ast_store_op **list)
{
    struct store_group g = { .s = s, .is_alone = !(*list)->next };
    struct ast_store_op *first = *list, *op = first;
    int begun = mdb_txn_begin(s->env, NULL, 0, &g.txn);
    if (!begun)
        g.budget_bytes = budget_of(s, g.txn);

    unsigned n = 0;
    for (; op && n < s->group_max && g.written_bytes < STORE_GROUP_BYTES; op = op->next, n++) {
        if (begun)
            op->rc = store_fail(&op->err, begun, "begin");
        else
            run_op(&g, op);
    }
    *list = op;
    int result = begun ? 0 : end_group(&g);

    uint64_t succeeded = 0;
    for (struct ast_store_op *it = first; it != op; it = it->next) {
        if (result && !it->rc)
            it->rc = store_fail(&it->err, result, "commit");
        succeeded += !it->rc;
    }
    atomic_fetch_add_explicit(&s->ops, succeeded, memory_order_relaxed);
    while (first != op) {
        struct ast_store_op *done = first;
        first = done->next; /* done() may release the op */
        done->done(done, done->rc, &done->err);
    }
}

/* --- The thread ---------------------------------------------------------------------------- */

/* All that is queued; NULL when the store is closing and nothing is left. */
static struct ast_store_op *take_queue(struct ast_store *s)
{
    AST_WITH_LOCK(&s->lock);
    while (!s->first && !s->is_closing) {
        s->is_writer_idle = true;
        (void)ast_cond_wait(&s->wake, &s->lock, -1);
        s->is_writer_idle = false;
    }
    struct ast_store_op *list = s->first;
    s->first = NULL;
    s->last = &s->first;
    return list;
}

static void *writer_main(void *arg)
{
    struct ast_store *s = arg;
    struct ast_store_op *list;
    while ((list = take_queue(s)))
        while (list)
            run_group(s, &list);
    return NULL;
}

enum ast_rc store_writer_start(struct ast_store *s, struct ast_err *err)
{
    return ast_thread_start(&s->writer, "store", writer_main, s, err);
}

void store_writer_stop(struct ast_store *s)
{
    ast_lock(&s->lock);
    s->is_closing = true;
    (void)pthread_cond_signal(&s->wake); /* cannot fail on a valid condition */
    ast_unlock(&s->lock);
    (void)pthread_join(s->writer, NULL);
}

/* --- Submitting ---------------------------------------------------------------------------- */

void ast_store_submit(struct ast_store *s, struct ast_store_op *op)
{
    AST_ASSERT(op->apply && op->done);
    op->next = NULL;
    ast_lock(&s->lock);
    bool is_closing = s->is_closing;
    if (!is_closing) {
        *s->last = op;
        s->last = &op->next;
        if (s->is_writer_idle)
            (void)pthread_cond_signal(&s->wake);
    }
    ast_unlock(&s->lock);
    if (is_closing) {
        op->rc = ast_fail(&op->err, AST_E_CLOSED, "the store is closed");
        op->done(op, op->rc, &op->err);
    }
}

/* Stands in for the op of a thread that waits, so that the op's own done() stays untouched. A semaphore and not a condition:
 * waking costs the writer one system call, and the woken thread does not run into a lock that the writer still holds. */
struct waiter {
    struct ast_store_op op;
    struct ast_store_op *target;
    sem_t done;
};

static enum ast_rc apply_target(struct ast_store_op *op, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    struct waiter *w = AST_CONTAINER_OF(op, struct waiter, op);
    return w->target->apply(w->target, txn, err);
}

static void wake_waiter(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    struct waiter *w = AST_CONTAINER_OF(op, struct waiter, op);
    (void)rc, (void)err;      /* the waiter reads them in the op */
    (void)sem_post(&w->done); /* cannot overflow; the waiter may be gone right after */
}

enum ast_rc ast_store_run(struct ast_store *s, struct ast_store_op *op, struct ast_err *err)
{
    AST_ASSERT(!pthread_equal(pthread_self(), s->writer)); /* would wait for itself */
    struct waiter w = { .op = { .apply = apply_target, .done = wake_waiter }, .target = op };
    AST_ASSERT(sem_init(&w.done, 0, 0) == 0);
    ast_store_submit(s, &w.op);
    while (sem_wait(&w.done)) /* a signal handler ran */
        ;
    (void)sem_destroy(&w.done);
    return w.op.rc ? ast_fail(err, w.op.rc, "%s", w.op.err.msg) : AST_OK;
}

/* Counts the ops of one thread that waits for them all. */
struct gathering {
    struct ast_lock lock;
    pthread_cond_t wake;
    size_t left AST_GUARDED_BY(lock);
};

/* Stands in for one of them. */
struct gathered {
    struct ast_store_op op;
    struct ast_store_op *target;
    struct gathering *all;
};

static enum ast_rc apply_gathered(struct ast_store_op *op, struct ast_store_txn *txn,
                                  struct ast_err *err)
{
    struct gathered *g = AST_CONTAINER_OF(op, struct gathered, op);
    return g->target->apply(g->target, txn, err);
}

static void count_gathered(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    struct gathered *g = AST_CONTAINER_OF(op, struct gathered, op);
    struct gathering *all = g->all;

    g->target->rc = rc;
    g->target->err = *err;
    ast_lock(&all->lock);
    if (--all->left == 0)
        (void)pthread_cond_signal(&all->wake);
    ast_unlock(&all->lock); /* the waiting thread may be gone right after */
}

void ast_store_run_many(struct ast_store *s, struct ast_store_op *const *ops, size_t n)
{
    AST_ASSERT(!pthread_equal(pthread_self(), s->writer)); /* would wait for itself */
    AST_AUTO(ast_cfree) struct gathered *v = n > 1 ? calloc(n, sizeof *v) : NULL;
    if (!v) {
        for (size_t i = 0; i < n; i++) {
            struct ast_err err = AST_ERR_INIT;
            ops[i]->rc = ast_store_run(s, ops[i], &err);
            ops[i]->err = err;
        }
        return;
    }
    struct gathering all = { .left = n };
    ast_lock_init(&all.lock, AST_LOCK_store);
    ast_cond_init(&all.wake);
    for (size_t i = 0; i < n; i++) {
        v[i] = (struct gathered){ .op = { .apply = apply_gathered, .done = count_gathered },
                                  .target = ops[i],
                                  .all = &all };
        ast_store_submit(s, &v[i].op);
    }
    ast_lock(&all.lock);
    while (all.left)
        (void)ast_cond_wait(&all.wake, &all.lock, -1);
    ast_unlock(&all.lock);
    (void)pthread_cond_destroy(&all.wake);
    ast_lock_done(&all.lock);
}
