#include "fixture.h"

#include <pthread.h>

#include "base/banned.h"

#define NS AST_STR("system:test")

static enum ast_rc put_value(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    return ast_store_txn_put(txn, NS, AST_STR("k"), *(struct ast_str *)arg, err);
}

static void get_appends_and_respects_the_ceiling(void **state)
{
    struct fixture *f = *state;
    struct ast_str value = AST_STR("0123456789");
    assert_int_equal(run_fn(f->store, put_value, &value, NULL), AST_OK);
    AST_AUTO(ast_buf_done) struct ast_buf exact = AST_BUF_INIT(12), small = AST_BUF_INIT(9);
    bool found = false;
    struct ast_err err = AST_ERR_INIT;
    (void)ast_buf_add_lit(&exact, "> ");
    assert_int_equal(ast_store_get(f->store, NS, AST_STR("k"), &exact, &found, NULL), AST_OK);
    assert_true(found);
    assert_string_equal(exact.p, "> 0123456789");
    found = false;
    assert_int_equal(ast_store_get(f->store, NS, AST_STR("k"), &small, &found, &err),
                     AST_E_TOO_LARGE);
    assert_false(found);
    assert_int_equal(small.n, 0);
}

/* More snapshots than idle slots, fewer than LMDB's table: all work, nested in each other's callbacks. */
enum { DEPTH = 200 };

struct nest {
    struct ast_store *store;
    int depth;
};

static bool go_deeper(void *arg, struct ast_str key, struct ast_str value)
{
    struct nest *n = arg;
    (void)key, (void)value;
    if (n->depth < DEPTH) {
        n->depth++;
        assert_int_equal(
            ast_store_scan(n->store, NS, AST_STR_NONE, AST_STR_NONE, go_deeper, n, NULL), AST_OK);
    }
    return true;
}

static void many_snapshots_at_one_time(void **state)
{
    struct fixture *f = *state;
    struct ast_str value = AST_STR("v");
    assert_int_equal(run_fn(f->store, put_value, &value, NULL), AST_OK);
    for (int i = 0; i < 3; i++) {
        struct nest n = { f->store, 0 };
        assert_int_equal(
            ast_store_scan(f->store, NS, AST_STR_NONE, AST_STR_NONE, go_deeper, &n, NULL), AST_OK);
        assert_int_equal(n.depth, DEPTH);
    }
}

struct too_deep {
    struct ast_store *store;
    int depth;
    enum ast_rc rc;
};

static bool until_busy(void *arg, struct ast_str key, struct ast_str value)
{
    struct too_deep *n = arg;
    (void)key, (void)value;
    n->depth++;
    enum ast_rc rc = ast_store_scan(n->store, NS, AST_STR_NONE, AST_STR_NONE, until_busy, n, NULL);
    if (rc)
        n->rc = rc;
    return true;
}

static void one_snapshot_too_many_is_busy(void **state)
{
    struct fixture *f = *state;
    struct ast_str value = AST_STR("v");
    assert_int_equal(run_fn(f->store, put_value, &value, NULL), AST_OK);
    struct too_deep n = { .store = f->store };
    assert_int_equal(ast_store_scan(f->store, NS, AST_STR_NONE, AST_STR_NONE, until_busy, &n, NULL),
                     AST_OK);
    assert_int_equal(n.rc, AST_E_BUSY);
    assert_int_equal(n.depth, AST_STORE_MAX_READERS);
    /* And afterwards all is well. */
    assert_string_equal(value_of(f->store, NS, AST_STR("k")), "v");
}

/* A walk sees one state, however many commits happen meanwhile. */
static enum ast_rc put_pair(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    char text[16];
    int n = snprintf(text, sizeof text, "%d", *(int *)arg);
    for (char key = 'a'; key <= 'z'; key++) {
        enum ast_rc rc = ast_store_txn_put(txn, AST_STR("pair"), ast_str_n(&key, 1),
                                           ast_str_n(text, (size_t)n), err);
        if (rc)
            return rc;
    }
    return AST_OK;
}

struct walk {
    char first[16];
    int rows;
    bool is_torn;
};

static bool compare(void *arg, struct ast_str key, struct ast_str value)
{
    struct walk *w = arg;
    (void)key;
    if (w->rows++ == 0)
        (void)snprintf(w->first, sizeof w->first, AST_STR_FMT, AST_STR_ARG(value));
    else
        w->is_torn |= !ast_str_eq(value, ast_str_c(w->first));
    return true;
}

static _Atomic bool is_over;

static void *walker(void *arg)
{
    while (!is_over) {
        struct walk w = { 0 };
        if (ast_store_scan(arg, AST_STR("pair"), AST_STR_NONE, AST_STR_NONE, compare, &w, NULL) ||
            w.is_torn || (w.rows != 0 && w.rows != 26))
            return arg;
    }
    return NULL;
}

static void a_snapshot_is_never_torn(void **state)
{
    struct fixture *f = *state;
    pthread_t walkers[4];
    is_over = false;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&walkers[i], NULL, walker, f->store), 0);
    for (int i = 0; i < 500; i++)
        assert_int_equal(run_fn(f->store, put_pair, &i, NULL), AST_OK);
    is_over = true;
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(walkers[i], &failed);
        assert_null(failed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(get_appends_and_respects_the_ceiling),
        STORE_TEST(many_snapshots_at_one_time),
        STORE_TEST(one_snapshot_too_many_is_busy),
        STORE_TEST(a_snapshot_is_never_torn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
