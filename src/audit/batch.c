/* What the store's writer does with a batch: rows, lists and heads in one transaction.
 *
 * Invariant: the writer is the only one that changes `audit:log` and `audit:index`, so what it notes of the last block of each
 * list is what is stored, unless a batch fails; then it forgets its notes. Costs a few puts a batch: rows go into blocks, the
 * numbers of a list into one value.
 */
#include <stdio.h>
#include <stdlib.h>

#include "audit/audit_priv.h"
#include "base/codec.h"

#include "base/banned.h"

#define LISTS_MAX   2048u /* noted before a batch begins */
#define NUMBER_MAX  10u   /* bytes of one varint */
#define KNOWN       8u    /* methods a chain has at hand */
#define METHOD_NAME 48u   /* of those; longer ones are looked up */

/* The last block of one list. */
struct audit_list {
    struct audit_key key;
    uint64_t first; /* 0: none yet */
    struct ast_buf block;
    bool is_dirty;
    struct audit_list *next_dirty;
};

struct audit_lists {
    uint64_t life; /* of ast_audit.lists that the pointers are good for */
    struct audit_list *own;
    struct {
        char name[METHOD_NAME];
        size_t n;
        struct audit_list *method, *both;
    } known[KNOWN];
    unsigned next;
};

/* One batch at work. */
struct work {
    struct ast_audit *a;
    struct ast_store_txn *txn;
    struct audit_list *dirty;
    uint64_t block_first; /* of a->block */
    size_t block_limit;
    size_t left; /* bytes of the batch's rows that are in no block yet */
};

void audit_lists_free(struct audit_lists *l)
{
    free(l);
}

void audit_batch_forget(struct ast_audit *a)
{
    struct ast_str key;
    size_t pos = 0;
    void *value;

    while (ast_map_next(&a->lists, &pos, &key, &value)) {
        struct audit_list *l = value;
        (void)ast_map_remove(&a->lists, key);
        ast_buf_done(&l->block);
        free(l);
    }
    a->lists_life++;
}

/* ---- lists ---- */

static enum ast_rc put_list(struct work *w, struct audit_list *l, struct ast_err *err)
{
    struct audit_key key = l->key;
    audit_key_add_seq(&key, l->first);
    enum ast_rc rc = ast_buf_check(&l->block, "audit list", err);
    if (!rc)
        rc = ast_store_txn_put(w->txn, AUDIT_NS_INDEX, audit_key_str(&key), ast_buf_view(&l->block),
                               err);
    return rc;
}

static void load_list(struct work *w, struct audit_list *l)
{
    struct ast_str key, value;
    uint64_t last = 0;

    if (!ast_store_txn_last(w->txn, AUDIT_NS_INDEX, audit_key_str(&l->key), &key, &value) ||
        !audit_list_last(value, &last) || value.n > AUDIT_LIST_MAX)
        return;
    l->first = audit_key_seq(key);
    (void)ast_buf_add(&l->block, value); /* checked when it is put */
}

static struct audit_list *find_list(struct work *w, const struct audit_key *key)
{
    struct audit_list *l = ast_map_get(&w->a->lists, audit_key_str(key));
    if (l)
        return l;
    l = calloc(1, sizeof *l);
    if (!l || !ast_map_set(&w->a->lists, audit_key_str(key), l, NULL)) {
        free(l);
        return NULL;
    }
    l->key = *key;
    l->block.max = AUDIT_LIST_MAX;
    load_list(w, l);
    return l;
}

static enum ast_rc add_to_list(struct work *w, struct audit_list *l, uint64_t seq,
                               struct ast_err *err)
{
    uint64_t last = 0;
    bool goes_on = l->first && l->block.n + NUMBER_MAX <= AUDIT_LIST_MAX &&
                   audit_list_last(ast_buf_view(&l->block), &last) && last < seq;
    enum ast_rc rc = AST_OK;

    if (!goes_on && l->is_dirty)
        rc = put_list(w, l, err);
    if (goes_on) {
        audit_list_add(&l->block, seq);
    } else {
        audit_list_begin(&l->block, seq);
        l->first = seq;
    }
    if (!l->is_dirty) {
        l->is_dirty = true;
        l->next_dirty = w->dirty;
        w->dirty = l;
    }
    return rc;
}

static bool find_by_method(struct work *w, const struct audit_row *r, struct ast_str method,
                           struct audit_list **ret_method, struct audit_list **ret_both)
{
    struct ast_str principal = ast_principal_str(&r->principal);
    struct audit_key key;

    audit_key_list(&key, &w->a->session, NULL, method);
    *ret_method = find_list(w, &key);
    audit_key_list(&key, &w->a->session, &principal, method.n ? method : AST_STR("?"));
    *ret_both = find_list(w, &key);
    return *ret_method && *ret_both;
}

/* The chain's notes, fresh when the lists they point to are gone. */
static struct audit_lists *notes_of(struct work *w, const struct audit_row *r)
{
    struct ast_str principal = ast_principal_str(&r->principal);
    struct audit_lists *n = r->chain->lists;
    struct audit_key key;

    if (!n)
        n = r->chain->lists = calloc(1, sizeof *n);
    if (n && (n->life != w->a->lists_life || !n->own)) {
        *n = (struct audit_lists){ .life = w->a->lists_life };
        audit_key_list(&key, &w->a->session, &principal, AST_STR_NONE);
        n->own = find_list(w, &key);
    }
    return n && n->own ? n : NULL;
}

static enum ast_rc list_row(struct work *w, const struct audit_row *r, struct ast_err *err)
{
    struct ast_str method = audit_row_method(r);
    struct audit_lists *n = notes_of(w, r);
    struct audit_list *by_method = NULL, *both = NULL;

    if (!n)
        return ast_fail(err, AST_E_NO_MEMORY, "audit list");
    for (unsigned i = 0; i < KNOWN && !both; i++)
        if (n->known[i].method && ast_str_eq(method, ast_str_n(n->known[i].name, n->known[i].n))) {
            by_method = n->known[i].method;
            both = n->known[i].both;
        }
    if (!both) {
        if (!find_by_method(w, r, method, &by_method, &both))
            return ast_fail(err, AST_E_NO_MEMORY, "audit list");
        if (method.n && method.n <= METHOD_NAME) {
            unsigned at = n->next++ % KNOWN;
            memcpy(n->known[at].name, method.p, method.n);
            n->known[at].n = method.n;
            n->known[at].method = by_method;
            n->known[at].both = both;
        }
    }
    enum ast_rc rc = add_to_list(w, n->own, r->seq, err);
    if (!rc)
        rc = add_to_list(w, by_method, r->seq, err);
    return rc ? rc : add_to_list(w, both, r->seq, err);
}

static enum ast_rc put_lists(struct work *w, struct ast_err *err)
{
    enum ast_rc rc = AST_OK;
    for (struct audit_list *l = w->dirty; l && !rc; l = l->next_dirty) {
        rc = put_list(w, l, err);
        l->is_dirty = false;
    }
    return rc;
}

/* ---- blocks ---- */

static enum ast_rc put_block(struct work *w, struct ast_err *err)
{
    struct audit_key key;

    if (!w->block_first)
        return AST_OK;
    audit_key_log(&key, &w->a->session, w->block_first);
    enum ast_rc rc = ast_buf_check(&w->a->block, "audit block", err);
    return rc ? rc
              : ast_store_txn_put(w->txn, AUDIT_NS_LOG, audit_key_str(&key),
                                  ast_buf_view(&w->a->block), err);
}

/* Goes on with the last block while it is small. */
static void load_block(struct work *w)
{
    struct ast_audit *a = w->a;
    struct ast_str key, value;
    struct audit_key prefix;

    audit_key_chain(&prefix, &a->session, AST_STR_NONE);
    audit_key_add(&prefix, AST_STR("/"));
    w->block_first = 0;
    if (!ast_store_txn_last(w->txn, AUDIT_NS_LOG, audit_key_str(&prefix), &key, &value) ||
        !audit_block_is_of(value, a->key->public_key) || value.n >= AUDIT_BLOCK_TAIL)
        return;
    w->block_first = audit_key_seq(key);
    w->block_limit = AUDIT_BLOCK_TAIL;
    ast_buf_reset(&a->block);
    (void)ast_buf_add(&a->block, value); /* checked when it is put */
}

static enum ast_rc add_to_block(struct work *w, const struct audit_row *r, struct ast_err *err)
{
    struct ast_buf *block = &w->a->block;
    size_t head = AUDIT_RECORD_HEAD + r->signed_n - AST_KEY_PUBLIC_BYTES;
    size_t n = head + r->outcome_n;
    enum ast_rc rc = AST_OK;

    if (!w->block_first || block->n + n > w->block_limit) {
        rc = put_block(w, err);
        audit_block_begin(block, w->a->key->public_key);
        w->block_first = r->seq;
        w->block_limit = w->left > AUDIT_BLOCK_TAIL ? AUDIT_BLOCK_MAX : AUDIT_BLOCK_TAIL;
    }
    (void)ast_buf_add(block, ast_str_n(r->bytes.p, head));
    (void)ast_buf_add(block, audit_row_outcome(r));
    w->left -= AST_MIN(w->left, n);
    return rc;
}

/* ---- what else goes with a row ---- */

static enum ast_rc put_aside(struct work *w, const struct audit_row *r, struct ast_err *err)
{
    char id[AST_UUID_TEXT], time[24];
    enum ast_rc rc = AST_OK;
    struct audit_key key;

    if (r->opens_era) {
        audit_key_log(&key, &w->a->session, r->seq);
        int n = snprintf(time, sizeof time, "%lld", (long long)r->time_ns);
        rc = ast_store_txn_put(w->txn, AUDIT_NS_ERAS, audit_key_str(&key),
                               ast_str_n(time, (size_t)n), err);
    }
    if (!rc && r->has_intent)
        rc = ast_store_txn_delete(w->txn, AUDIT_NS_INTENTS, ast_uuid_format(&r->intent, id), NULL,
                                  err);
    return rc;
}

/* ---- ends of chains ---- */

/* The stored end of the chain must be what the row links to: whatever else goes wrong, no chain forks. */
static enum ast_rc check_link(const struct ast_audit *a, struct ast_store_txn *txn,
                              const struct audit_row *r, struct ast_err *err)
{
    struct ast_audit_head stored = { 0 };
    struct audit_key key;
    struct ast_str text;

    audit_key_chain(&key, &a->session, ast_principal_str(&r->principal));
    if (ast_store_txn_get(txn, AUDIT_NS_HEADS, audit_key_str(&key), &text) &&
        !audit_head_read(text, &stored))
        return ast_fail(err, AST_E_CORRUPT, "audit: unreadable head of chain " AST_STR_FMT,
                        AST_STR_ARG(audit_key_str(&key)));
    if (memcmp(stored.hash, r->previous, sizeof stored.hash) != 0)
        return ast_fail(err, AST_E_CONFLICT,
                        "audit: chain " AST_STR_FMT " was changed from outside",
                        AST_STR_ARG(audit_key_str(&key)));
    return AST_OK;
}

static enum ast_rc put_head(const struct ast_audit *a, struct ast_store_txn *txn,
                            const struct audit_row *r, struct ast_err *err)
{
    struct ast_audit_head head = { .seq = r->seq, .count = r->count, .id = r->id };
    char text[AUDIT_HEAD_TEXT];
    struct audit_key key;

    memcpy(head.hash, r->hash, sizeof head.hash);
    audit_key_chain(&key, &a->session, ast_principal_str(&r->principal));
    return ast_store_txn_put(txn, AUDIT_NS_HEADS, audit_key_str(&key),
                             audit_head_write(&head, text), err);
}

static enum ast_rc put_count(struct ast_audit *a, struct ast_store_txn *txn, uint64_t more,
                             struct ast_err *err)
{
    struct audit_key key;
    char text[24];
    struct ast_str stored;
    uint64_t count = 0;

    audit_key_chain(&key, &a->session, AST_STR_NONE);
    if (ast_store_txn_get(txn, AUDIT_NS_SESSIONS, audit_key_str(&key), &stored) &&
        !ast_str_to_u64(stored, &count))
        return ast_fail(err, AST_E_CORRUPT, "audit: unreadable count of session " AST_STR_FMT,
                        AST_STR_ARG(audit_key_str(&key)));
    int n = snprintf(text, sizeof text, "%llu", (unsigned long long)(count + more));
    return ast_store_txn_put(txn, AUDIT_NS_SESSIONS, audit_key_str(&key),
                             ast_str_n(text, (size_t)n), err);
}

static enum ast_rc put_rows(struct work *w, struct ast_err *err)
{
    enum ast_rc rc = AST_OK;

    for (const struct audit_row *r = w->a->batch; r; r = r->next)
        w->left += r->bytes.n;
    load_block(w);
    for (struct audit_row *r = w->a->batch; r && !rc; r = r->next) {
        if (!r->chain->last_applied)
            rc = check_link(w->a, w->txn, r, err);
        if (!rc)
            rc = add_to_block(w, r, err);
        if (!rc)
            rc = list_row(w, r, err);
        if (!rc)
            rc = put_aside(w, r, err);
        r->chain->last_applied = r;
    }
    if (!rc)
        rc = put_block(w, err);
    return rc ? rc : put_lists(w, err);
}

enum ast_rc audit_batch_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                              struct ast_err *err)
{
    struct ast_audit *a = AST_CONTAINER_OF(op, struct ast_audit, op);
    struct work w = { .a = a, .txn = txn };
    uint64_t rows = 0;

    if (a->lists.n > LISTS_MAX)
        audit_batch_forget(a);
    for (struct audit_row *r = a->batch; r; r = r->next, rows++)
        r->chain->last_applied = NULL;
    enum ast_rc rc = put_rows(&w, err);
    for (struct audit_row *r = a->batch; r && !rc; r = r->next)
        if (r->chain->last_applied == r)
            rc = put_head(a, txn, r, err);
    return rc ? rc : put_count(a, txn, rows, err);
}
