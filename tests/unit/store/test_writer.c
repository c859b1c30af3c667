#include "fixture.h"

#include <pthread.h>

#include "base/thread.h"

#include "base/banned.h"

#define NS AST_STR("system:test")

/* An op that holds the writer until the test has queued what shall be one group. */
struct gate {
    struct ast_store_op op;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_entered, is_open;
};

static enum ast_rc gate_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                              struct ast_err *err)
{
    struct gate *g = AST_CONTAINER_OF(op, struct gate, op);
    (void)txn, (void)err;
    pthread_mutex_lock(&g->lock);
    g->is_entered = true;
    pthread_cond_broadcast(&g->changed);
    while (!g->is_open)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
    return AST_OK;
}

static void gate_done(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    (void)op, (void)rc, (void)err;
}

static void gate_close(struct gate *g, struct ast_store *s)
{
    *g = (struct gate){ .op = { .apply = gate_apply, .done = gate_done },
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .changed = PTHREAD_COND_INITIALIZER };
    ast_store_submit(s, &g->op);
    pthread_mutex_lock(&g->lock);
    while (!g->is_entered)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_open(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->is_open = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

/* A put that may be told to fail before or after it has written. */
struct put {
    struct ast_store_op op;
    char key[16];
    enum { PUT, FAIL_BEFORE, FAIL_AFTER } how;
    struct tally *tally;
    enum ast_rc rc;
    char msg[AST_ERR_MSG_BYTES];
    int order;
};

struct tally {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int done;
    struct ast_store *store;
    int visible; /* how many of the group's rows a reader saw inside the first done() */
};

static enum ast_rc put_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                             struct ast_err *err)
{
    struct put *p = AST_CONTAINER_OF(op, struct put, op);
    if (p->how == FAIL_BEFORE)
        return ast_fail(err, AST_E_CONFLICT, "before %s", p->key);
    enum ast_rc rc = ast_store_txn_put(txn, NS, ast_str_c(p->key), AST_STR("v"), err);
    if (!rc)
        rc = ast_store_txn_put(txn, NS, AST_STR("last"), ast_str_c(p->key), err);
    if (rc)
        return rc;
    return p->how == FAIL_AFTER ? ast_fail(err, AST_E_QUOTA, "after %s", p->key) : AST_OK;
}

static bool count_key(void *arg, struct ast_str key, struct ast_str value)
{
    (void)key, (void)value;
    ++*(int *)arg;
    return true;
}

static void put_done(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    struct put *p = AST_CONTAINER_OF(op, struct put, op);
    struct tally *t = p->tally;
    p->rc = rc;
    (void)snprintf(p->msg, sizeof p->msg, "%s", err->msg);
    pthread_mutex_lock(&t->lock);
    if (t->done == 0 && t->store)
        (void)!ast_store_scan(t->store, NS, AST_STR("k"), AST_STR_NONE, count_key, &t->visible,
                              NULL);
    p->order = t->done++;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

static void wait_for(struct tally *t, int n)
{
    pthread_mutex_lock(&t->lock);
    while (t->done < n)
        pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

enum { N = 30 };

/* Submits N puts as one group: number 7 fails before it writes, 9 after, 29 after. */
static void submit_group(struct ast_store *s, struct put puts[static N], struct tally *t)
{
    struct gate gate;
    *t = (struct tally){ .lock = PTHREAD_MUTEX_INITIALIZER,
                         .changed = PTHREAD_COND_INITIALIZER,
                         .store = s };
    gate_close(&gate, s);
    for (int i = 0; i < N; i++) {
        puts[i] = (struct put){ .op = { .apply = put_apply, .done = put_done }, .tally = t };
        puts[i].how = i == 7 ? FAIL_BEFORE : i == 9 || i == 29 ? FAIL_AFTER : PUT;
        (void)snprintf(puts[i].key, sizeof puts[i].key, "k%02d", i);
        ast_store_submit(s, &puts[i].op);
    }
    gate_open(&gate);
    wait_for(t, N);
}

static void an_op_fails_alone_and_the_rest_is_one_commit(void **state)
{
    struct fixture *f = *state;
    static struct put puts[N];
    struct tally t;
    struct ast_store_stats before, after;
    ast_store_stats(f->store, &before);
    submit_group(f->store, puts, &t);
    ast_store_stats(f->store, &after);
    assert_int_equal(after.commits - before.commits, 1);
    assert_int_equal(after.ops - before.ops, N - 3 + 1); /* and the gate */
    assert_int_equal(t.visible, N - 3);                  /* done() comes after the commit */
    for (int i = 0; i < N; i++) {
        bool failed = puts[i].how != PUT;
        assert_int_equal(puts[i].order, i);
        assert_int_equal(puts[i].rc, i == 7 ? AST_E_CONFLICT : failed ? AST_E_QUOTA : AST_OK);
        assert_string_equal(puts[i].msg, i == 7    ? "before k07"
                                         : i == 9  ? "after k09"
                                         : i == 29 ? "after k29"
                                                   : "");
        assert_int_equal(value_of(f->store, NS, ast_str_c(puts[i].key)) != NULL, !failed);
    }
    assert_string_equal(value_of(f->store, NS, AST_STR("last")), "k28");
}

static void many_ops_of_one_thread_share_commits(void **state)
{
    struct fixture *f = *state;
    static struct put puts[N];
    struct ast_store_op *ops[N];
    struct ast_store_stats before, after;
    for (int i = 0; i < N; i++) {
        puts[i] = (struct put){ .op = { .apply = put_apply } };
        puts[i].how = i == 7 ? FAIL_BEFORE : i == 9 ? FAIL_AFTER : PUT;
        (void)snprintf(puts[i].key, sizeof puts[i].key, "m%02d", i);
        ops[i] = &puts[i].op;
    }
    ast_store_stats(f->store, &before);
    ast_store_run_many(f->store, ops, N);
    ast_store_stats(f->store, &after);
    assert_in_range(after.commits - before.commits, 1, N / 2);
    for (int i = 0; i < N; i++) {
        assert_int_equal(ops[i]->rc, i == 7 ? AST_E_CONFLICT : i == 9 ? AST_E_QUOTA : AST_OK);
        assert_string_equal(ops[i]->err.msg, i == 7 ? "before m07" : i == 9 ? "after m09" : "");
        assert_int_equal(value_of(f->store, NS, ast_str_c(puts[i].key)) != NULL, i != 7 && i != 9);
    }
    ast_store_run_many(f->store, ops, 0);
    ast_store_run_many(f->store, ops + 7, 1);
    assert_int_equal(ops[7]->rc, AST_E_CONFLICT);
}

static void a_lone_op_that_fails_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct put p = { .op = { .apply = put_apply }, .key = "k", .how = FAIL_AFTER };
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_store_run(f->store, &p.op, &err), AST_E_QUOTA);
    assert_string_equal(err.msg, "after k");
    assert_null(value_of(f->store, NS, AST_STR("k")));
    assert_null(value_of(f->store, NS, AST_STR("last")));
    p.how = PUT;
    assert_int_equal(ast_store_run(f->store, &p.op, &err), AST_OK);
    assert_string_equal(value_of(f->store, NS, AST_STR("k")), "v");
}

static void groups_end_at_their_maximum(void **state)
{
    struct fixture *f = *state;
    static struct put puts[N];
    struct tally t;
    struct ast_store_stats stats;
    fixture_close(f);
    fixture_open(f, &(struct ast_store_config){ .no_sync = true, .group_max = 10 });
    submit_group(f->store, puts, &t);
    ast_store_stats(f->store, &stats);
    assert_int_equal(stats.commits, 3);
    assert_int_equal(t.visible, 8); /* the first ten less two failures */
}

static void closing_commits_what_is_queued(void **state)
{
    struct fixture *f = *state;
    static struct put puts[N];
    struct tally t;
    submit_group(f->store, puts, &t); /* all done */
    struct tally late = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    for (int i = 0; i < N; i++) {
        puts[i] = (struct put){ .op = { .apply = put_apply, .done = put_done }, .tally = &late };
        (void)snprintf(puts[i].key, sizeof puts[i].key, "late%02d", i);
        ast_store_submit(f->store, &puts[i].op);
    }
    fixture_close(f);
    assert_int_equal(late.done, N);
    fixture_open(f, NULL);
    for (int i = 0; i < N; i++) {
        assert_int_equal(puts[i].rc, AST_OK);
        assert_non_null(value_of(f->store, NS, ast_str_c(puts[i].key)));
    }
}

static void *close_store(void *arg)
{
    ast_store_close(arg);
    return NULL;
}

static void an_op_after_closing_began_is_told(void **state)
{
    struct fixture *f = *state;
    struct gate gate;
    struct tally t = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    pthread_t closer;
    gate_close(&gate, f->store); /* the writer is held, so the close cannot end */
    assert_int_equal(pthread_create(&closer, NULL, close_store, f->store), 0);
    /* Until the close has begun ops are accepted; the first one told otherwise ends the loop. */
    static struct put puts[100000];
    int n = 0;
    do {
        assert_in_range(n, 0, AST_ARRAY_LEN(puts) - 1);
        puts[n] =
            (struct put){ .op = { .apply = put_apply, .done = put_done }, .tally = &t, .key = "k" };
        puts[n].rc = AST_RC_COUNT;
        ast_store_submit(f->store, &puts[n].op);
        sched_yield();
    } while (puts[n++].rc != AST_E_CLOSED);
    assert_string_equal(puts[n - 1].msg, "the store is closed");
    gate_open(&gate);
    pthread_join(closer, NULL);
    f->store = NULL;
    assert_int_equal(t.done, n); /* the others were committed */
    for (int i = 0; i < n - 1; i++)
        assert_int_equal(puts[i].rc, AST_OK);
}

/* done() may submit the same op again: a chain without a thread of its own. */
struct chain {
    struct ast_store_op op;
    struct ast_store *store;
    struct tally *tally;
    int left;
};

static enum ast_rc chain_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                               struct ast_err *err)
{
    struct chain *c = AST_CONTAINER_OF(op, struct chain, op);
    char key[16];
    (void)snprintf(key, sizeof key, "chain%03d", c->left);
    return ast_store_txn_put(txn, NS, ast_str_c(key), AST_STR("v"), err);
}

static void chain_done(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    struct chain *c = AST_CONTAINER_OF(op, struct chain, op);
    (void)err;
    assert_int_equal(rc, AST_OK);
    if (--c->left > 0) {
        ast_store_submit(c->store, op);
        return;
    }
    pthread_mutex_lock(&c->tally->lock);
    c->tally->done = 1;
    pthread_cond_broadcast(&c->tally->changed);
    pthread_mutex_unlock(&c->tally->lock);
}

static void done_may_submit_again(void **state)
{
    struct fixture *f = *state;
    struct tally t = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    struct chain c = { .op = { .apply = chain_apply, .done = chain_done }, f->store, &t, 50 };
    ast_store_submit(f->store, &c.op);
    wait_for(&t, 1);
    int rows = 0;
    assert_int_equal(
        ast_store_scan(f->store, NS, AST_STR("chain"), AST_STR_NONE, count_key, &rows, NULL),
        AST_OK);
    assert_int_equal(rows, 50);
}

/* Threads add one to a shared row; a reader thread checks that snapshots never go back. */
enum { ADDERS = 8, ADDS = 300 };

static enum ast_rc add_one(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    struct ast_str v;
    uint64_t n = 0;
    char text[24];
    (void)arg;
    if (ast_store_txn_get(txn, NS, AST_STR("sum"), &v))
        assert_true(ast_str_to_u64(v, &n));
    int len = snprintf(text, sizeof text, "%ju", (uintmax_t)n + 1);
    return ast_store_txn_put(txn, NS, AST_STR("sum"), ast_str_n(text, (size_t)len), err);
}

static void *adder(void *arg)
{
    for (int i = 0; i < ADDS; i++)
        if (run_fn(arg, add_one, NULL, NULL))
            return arg;
    return NULL;
}

static _Atomic bool is_over;

static void *watcher(void *arg)
{
    uint64_t seen = 0, now;
    while (!is_over) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(30);
        bool found = false;
        if (ast_store_get(arg, NS, AST_STR("sum"), &out, &found, NULL))
            return arg;
        if (!found)
            continue;
        if (!ast_str_to_u64(ast_buf_view(&out), &now) || now < seen)
            return arg;
        seen = now;
    }
    return NULL;
}

static void no_change_is_lost_between_threads(void **state)
{
    struct fixture *f = *state;
    pthread_t adders[ADDERS], watchers[2];
    void *failed;
    is_over = false;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&watchers[i], NULL, watcher, f->store), 0);
    for (int i = 0; i < ADDERS; i++)
        assert_int_equal(pthread_create(&adders[i], NULL, adder, f->store), 0);
    for (int i = 0; i < ADDERS; i++) {
        pthread_join(adders[i], &failed);
        assert_null(failed);
    }
    is_over = true;
    for (int i = 0; i < 2; i++) {
        pthread_join(watchers[i], &failed);
        assert_null(failed);
    }
    assert_string_equal(value_of(f->store, NS, AST_STR("sum")), "2400");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(an_op_fails_alone_and_the_rest_is_one_commit),
        STORE_TEST(many_ops_of_one_thread_share_commits),
        STORE_TEST(a_lone_op_that_fails_leaves_nothing),
        STORE_TEST(groups_end_at_their_maximum),
        STORE_TEST(closing_commits_what_is_queued),
        STORE_TEST(an_op_after_closing_began_is_told),
        STORE_TEST(done_may_submit_again),
        STORE_TEST(no_change_is_lost_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
