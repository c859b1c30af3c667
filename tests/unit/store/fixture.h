/* A store in a directory of its own, for the tests of this room. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "store/store.h"

struct fixture {
    char dir[64];
    struct ast_store *store;
};

static inline void fixture_open(struct fixture *f, const struct ast_store_config *how)
{
    struct ast_store_config cfg = how ? *how : (struct ast_store_config){ .no_sync = true };
    struct ast_err err = AST_ERR_INIT;
    cfg.path = f->dir;
    if (ast_store_open(&cfg, &f->store, &err))
        fail_msg("open: %s", err.msg);
}

static inline void fixture_close(struct fixture *f)
{
    ast_store_close(f->store);
    f->store = NULL;
}

static inline int fixture_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f)
        return -1;
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/ast-store-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    fixture_open(f, NULL);
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    ast_store_close(f->store);
    int rc = ast_fs_remove_tree(f->dir, NULL) ? -1 : 0;
    free(f);
    return rc;
}

#define STORE_TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

/* The value as a C string in a static buffer, NULL when there is none. */
static inline const char *value_of(struct ast_store *s, struct ast_str ns, struct ast_str key)
{
    static char text[512];
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(sizeof text - 1);
    bool found = false;
    assert_int_equal(ast_store_get(s, ns, key, &out, &found, NULL), AST_OK);
    if (!found)
        return NULL;
    if (out.n)
        memcpy(text, out.p, out.n);
    text[out.n] = 0;
    return text;
}

/* One op made of a plain function. */
struct fn_op {
    struct ast_store_op op;
    enum ast_rc (*fn)(struct ast_store_txn *txn, void *arg, struct ast_err *err);
    void *arg;
};

static inline enum ast_rc fn_op_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                                      struct ast_err *err)
{
    struct fn_op *f = AST_CONTAINER_OF(op, struct fn_op, op);
    return f->fn(txn, f->arg, err);
}

static inline enum ast_rc run_fn(struct ast_store *s,
                                 enum ast_rc (*fn)(struct ast_store_txn *txn, void *arg,
                                                   struct ast_err *err),
                                 void *arg, struct ast_err *err)
{
    struct fn_op op = { .op = { .apply = fn_op_apply }, .fn = fn, .arg = arg };
    return ast_store_run(s, &op.op, err);
}
