/* A log in a store of its own with the key of the known answers, for the tests of this room. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "audit/audit_priv.h"
#include "base/codec.h"
#include "base/fs.h"
#include "base/time.h"

struct fixture {
    char dir[64];
    struct ast_key key;
    struct ast_store *store;
    struct ast_audit *audit;
};

static inline void fixture_open(struct fixture *f)
{
    struct ast_err err = AST_ERR_INIT;
    char path[80];
    (void)snprintf(path, sizeof path, "%s/db", f->dir);
    struct ast_store_config cfg = { .path = path, .no_sync = true, .max_bytes = 256u << 20 };
    if (ast_store_open(&cfg, &f->store, &err) ||
        ast_audit_open(&(struct ast_audit_config){ .store = f->store, .key = &f->key }, &f->audit,
                       &err))
        fail_msg("open: %s", err.msg);
}

static inline void fixture_close(struct fixture *f)
{
    ast_audit_close(f->audit);
    f->audit = NULL;
    ast_store_close(f->store);
    f->store = NULL;
}

/* Bytes 0 to 31: the key of spec 09 §28. */
static inline void fixture_key(struct ast_key *ret)
{
    uint8_t seed[AST_KEY_SEED_BYTES];
    for (unsigned i = 0; i < sizeof seed; i++)
        seed[i] = (uint8_t)i;
    assert_int_equal(ast_key_from_seed(ret, seed, NULL), AST_OK);
}

static inline int fixture_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f)
        return -1;
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/ast-audit-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    fixture_key(&f->key);
    fixture_open(f);
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    fixture_close(f);
    ast_key_done(&f->key);
    int rc = ast_fs_remove_tree(f->dir, NULL) ? -1 : 0;
    free(f);
    return rc;
}

#define AUDIT_TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

static inline struct ast_audit_draft admin_draft(struct ast_str principal, struct ast_str method)
{
    return (struct ast_audit_draft){
        .principal = principal,
        .action = AST_AUDIT_ACTION_admin_request,
        .action_values = { { .text = method }, { .text = AST_STR("system:status") } },
        .proof = AST_AUDIT_PROOF_system,
        .proof_values = { { .text = AST_STR("policy allow: alice holds system:status") } },
    };
}

static inline void add_row(struct fixture *f, const char *principal, const char *method)
{
    struct ast_audit_draft d = admin_draft(ast_str_c(principal), ast_str_c(method));
    struct ast_err err = AST_ERR_INIT;
    if (ast_audit_append_wait(f->audit, &d, NULL, &err))
        fail_msg("append: %s", err.msg);
}

/* ---- the store behind the log's back ---- */

struct poke {
    struct ast_store_op op;
    struct ast_str ns, key, value;
    bool removes;
};

static inline enum ast_rc poke_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                                     struct ast_err *err)
{
    struct poke *p = AST_CONTAINER_OF(op, struct poke, op);
    return p->removes ? ast_store_txn_delete(txn, p->ns, p->key, NULL, err)
                      : ast_store_txn_put(txn, p->ns, p->key, p->value, err);
}

static inline void store_put(struct fixture *f, struct ast_str ns, struct ast_str key,
                             struct ast_str value)
{
    struct poke p = { .op = { .apply = poke_apply }, .ns = ns, .key = key, .value = value };
    assert_int_equal(ast_store_run(f->store, &p.op, NULL), AST_OK);
}

static inline void store_remove(struct fixture *f, struct ast_str ns, struct ast_str key)
{
    struct poke p = { .op = { .apply = poke_apply }, .ns = ns, .key = key, .removes = true };
    assert_int_equal(ast_store_run(f->store, &p.op, NULL), AST_OK);
}

static inline bool fixture_take(void *arg, const struct audit_stored *row)
{
    return audit_stored_text(row, arg, NULL) != AST_OK; /* the first is the wanted one */
}

static inline void row_text(struct fixture *f, uint64_t seq, struct ast_buf *out)
{
    struct audit_range one = { .lo = seq, .hi = seq + 1, .oldest_first = true };
    ast_buf_reset(out);
    assert_int_equal(audit_rows(f->audit, &AST_UUID_NIL, &one, fixture_take, out, NULL), AST_OK);
    assert_true(out->n > 0);
}

/* All rows of the log, as form 1 stored them: one text a value. */
struct fixture_rows {
    uint64_t seq[512];
    char *text[512];
    char *key[512];
    unsigned n, keys;
};

static inline bool fixture_copy(void *arg, const struct audit_stored *row)
{
    struct fixture_rows *r = arg;
    struct ast_buf text = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    assert_true(r->n < AST_ARRAY_LEN(r->seq));
    assert_int_equal(audit_stored_text(row, &text, NULL), AST_OK);
    r->seq[r->n] = row->seq;
    r->text[r->n++] = text.p;
    return true;
}

static inline bool fixture_key_of_block(void *arg, struct ast_str key, struct ast_str value)
{
    struct fixture_rows *r = arg;
    if (audit_block_is(value))
        r->key[r->keys++] = ast_str_dup(key);
    return r->keys < AST_ARRAY_LEN(r->key);
}

/* Rewrites the log as form 1 had it. Blocks that come later are form 2 again. */
static inline void explode(struct fixture *f)
{
    struct fixture_rows *r = calloc(1, sizeof *r);
    struct audit_range all = { .lo = 1, .hi = UINT64_MAX, .oldest_first = true };
    assert_non_null(r);
    assert_int_equal(audit_rows(f->audit, &AST_UUID_NIL, &all, fixture_copy, r, NULL), AST_OK);
    assert_int_equal(ast_store_scan(f->store, AUDIT_NS_LOG, AST_STR_NONE, AST_STR_NONE,
                                    fixture_key_of_block, r, NULL),
                     AST_OK);
    for (unsigned i = 0; i < r->keys; i++) {
        store_remove(f, AUDIT_NS_LOG, ast_str_c(r->key[i]));
        free(r->key[i]);
    }
    for (unsigned i = 0; i < r->n; i++) {
        struct audit_key key;
        audit_key_log(&key, &AST_UUID_NIL, r->seq[i]);
        store_put(f, AUDIT_NS_LOG, audit_key_str(&key), ast_str_c(r->text[i]));
        free(r->text[i]);
    }
    free(r);
}

static inline void put_row_text(struct fixture *f, uint64_t seq, struct ast_str text)
{
    struct audit_key key;
    explode(f);
    audit_key_log(&key, &AST_UUID_NIL, seq);
    store_put(f, AUDIT_NS_LOG, audit_key_str(&key), text);
}

/* Verifies all; the report's issues as "Name@seq " in a static buffer. */
static inline const char *issues(struct fixture *f, const char *anchors)
{
    static char text[4096];
    AST_AUTO(ast_audit_report_done) struct ast_audit_report report = { 0 };
    struct ast_audit_scope scope = { .anchors = anchors };
    struct ast_err err = AST_ERR_INIT;
    size_t n = 0;

    if (ast_audit_verify(f->audit, &scope, &report, &err))
        fail_msg("verify: %s", err.msg);
    text[0] = 0;
    ast_vec_each (&report.issues, i) {
        if (n + 64 > sizeof text)
            break;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s@%llu ", ast_audit_issue_name(i->kind),
                              (unsigned long long)i->seq);
    }
    return text;
}
