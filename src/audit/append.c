/* Appending: place, sign, batch, commit (audit.h draws it).
 *
 * Invariants: the list of placed rows is in the order of their sequence numbers, and so is every batch; one batch is with the
 * store at a time; `durable` of a chain is what the last committed batch left. A failed batch voids all places behind it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "audit/audit_priv.h"
#include "base/codec.h"
#include "base/fs.h"
#include "base/time.h"

#include "base/banned.h"

#define CHAINS_MAX   4096u /* kept in memory; idle ones are forgotten beyond it */
#define BATCH_ROWS   4096u
#define BATCH_BYTES  (16u * 1024 * 1024)
#define SLEW_NS      AST_NS_PER_SEC /* a clock that goes back less than this stands still instead */
#define ENVELOPE_MAX 1024u          /* all of a row's text but action, authorization and outcome */

/* Owner: the appender until it is signed, then whoever has it in its list. */
struct audit_row {
    struct audit_row *next;
    struct audit_chain *chain;
    struct ast_audit_entry entry; /* views into `bytes` and `outcome` */
    uint64_t seq, count, life;
    uint8_t hash[AST_BLAKE3_BYTES];
    bool is_signed, opens_era, has_intent;
    size_t time_at, seal_at, previous_at; /* what the place decides, in `bytes` */
    struct ast_buf bytes;                 /* what is signed */
    struct ast_buf outcome, text;
    struct audit_key method_list, both_list, chain_list;
    struct ast_uuid intent;
    ast_audit_done_fn *done;
    void *arg;
};

static void row_free(struct audit_row *r)
{
    if (!r)
        return;
    ast_buf_done(&r->bytes);
    ast_buf_done(&r->outcome);
    ast_buf_done(&r->text);
    free(r);
}
AST_DEFINE_AUTO(struct audit_row, row_free)

/* ---- preparing: all that can fail happens before the row has a place ---- */

/* What a row is made of: compact texts of form 1. */
struct parts {
    struct ast_str principal, action, authorization, outcome_text;
    bool is_failure;
};

/* The lists the row will be in; also proves that the stored row can be read again at its depth. */
static enum ast_rc file_row(struct audit_row *r, const struct ast_audit *a, struct ast_str action,
                            struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf nested = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY + 2);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_str principal = ast_principal_str(&r->entry.principal);
    const struct ast_json *root = NULL;
    struct ast_str key;

    (void)ast_buf_add_byte(&nested, '[');
    (void)ast_buf_add(&nested, action);
    (void)ast_buf_add_byte(&nested, ']');
    enum ast_rc rc = ast_buf_check(&nested, "audit entry", err);
    if (!rc)
        rc = ast_json_parse(ast_buf_view(&nested), &doc, err);
    if (rc)
        return rc;
    struct ast_json_iter it = AST_JSON_ITER(ast_json_root(doc));
    (void)ast_json_next(&it, &key, &root); /* the one element */
    struct ast_str method = audit_method_of(root);
    audit_key_list(&r->chain_list, &a->session, &principal, AST_STR_NONE);
    audit_key_list(&r->method_list, &a->session, NULL, method);
    audit_key_list(&r->both_list, &a->session, &principal, method.n ? method : AST_STR("?"));
    return AST_OK;
}

/* The action of form 2: its hash is filled in with the place. */
static enum ast_rc write_signed(struct audit_row *r, const struct parts *p, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf action = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    static const char seal[] = ",\"form\":2,\"outcome_hash\":\"";
    char blank[AST_BLAKE3_HEX];

    memset(blank, '0', sizeof blank);
    (void)ast_buf_add(&action, ast_str_first(p->action, p->action.n - 1));
    (void)ast_buf_add(&action, ast_str_c(seal));
    size_t seal_in_action = action.n;
    (void)ast_buf_add(&action, ast_str_n(blank, AST_BLAKE3_HEX - 1));
    (void)ast_buf_add_lit(&action, "\"}");
    r->entry.action = ast_buf_view(&action);
    r->entry.authorization = p->authorization;
    enum ast_rc rc = ast_buf_check(&action, "audit entry", err);
    if (!rc)
        rc = ast_audit_entry_signed(&r->entry, &r->bytes, err);
    if (rc)
        return rc;
    size_t head = 16 + 8 + 16 + 1 + (r->entry.principal.n ? 4u + r->entry.principal.n : 0u);
    r->time_at = 16;
    r->seal_at = head + seal_in_action;
    r->previous_at = r->bytes.n - AST_KEY_PUBLIC_BYTES - AST_BLAKE3_BYTES;
    /* From now on the texts are those in `bytes`. */
    r->entry.action = ast_str_n(r->bytes.p + head, action.n);
    r->entry.authorization = ast_str_n(r->bytes.p + head + action.n, p->authorization.n);
    return AST_OK;
}

static enum ast_rc prepare(const struct ast_audit *a, const struct parts *p, struct audit_row **ret,
                           struct ast_err *err)
{
    AST_AUTO(row_free) struct audit_row *r = calloc(1, sizeof *r);
    if (!r)
        return ast_fail(err, AST_E_NO_MEMORY, "audit entry");
    r->bytes.max = r->outcome.max = r->text.max = AST_AUDIT_MAX_ENTRY;
    r->entry.id = ast_uuid_v4();
    r->entry.session = a->session;
    r->entry.is_success = !p->is_failure;
    memcpy(r->entry.key, a->key->public_key, sizeof r->entry.key);
    enum ast_rc rc = AST_OK;
    if (p->principal.n)
        rc = ast_principal_parse(p->principal, &r->entry.principal, err);
    if (!rc)
        rc = ast_audit_outcome_write(p->is_failure, p->outcome_text, &r->outcome, err);
    if (!rc)
        rc = file_row(r, a, p->action, err);
    if (!rc)
        rc = write_signed(r, p, err);
    if (rc)
        return rc;
    r->entry.outcome = ast_buf_view(&r->outcome);
    (void)ast_buf_reserve(&r->text, r->bytes.n + r->outcome.n + ENVELOPE_MAX);
    rc = ast_buf_check(&r->text, "audit entry", err);
    if (!rc)
        *ret = ast_steal(&r);
    return rc;
}

/* ---- chains in memory ---- */

static struct ast_str chain_key(const struct ast_principal *p)
{
    return p->n ? ast_principal_str(p) : AST_STR(":");
}

static void forget_idle(struct ast_audit *a) AST_REQUIRES(a->lock)
{
    size_t pos = 0;
    struct ast_str key;
    void *value;

    while (ast_map_next(&a->chains, &pos, &key, &value)) {
        struct audit_chain *c = value;
        if (c->waiting)
            continue;
        (void)ast_map_remove(&a->chains, key);
        free(c);
    }
    a->evictions++;
}

static struct audit_chain *chain_add(struct ast_audit *a, const struct ast_principal *p,
                                     const struct ast_audit_head *head) AST_REQUIRES(a->lock)
{
    if (a->chains.n >= CHAINS_MAX)
        forget_idle(a);
    struct audit_chain *c = calloc(1, sizeof *c);
    if (!c || !ast_map_set(&a->chains, chain_key(p), c, NULL)) {
        free(c);
        return NULL;
    }
    c->head = c->durable = *head;
    c->principal = *p;
    return c;
}

/* Finds or loads the chain; on OK the lock is held. */
static enum ast_rc chain_lock(struct ast_audit *a, const struct ast_principal *p,
                              struct audit_chain **ret, struct ast_err *err)
{
    for (;;) {
        ast_lock(&a->lock);
        *ret = ast_map_get(&a->chains, chain_key(p));
        uint64_t seen = a->evictions;
        if (*ret)
            return AST_OK;
        ast_unlock(&a->lock);
        struct ast_audit_head head;
        enum ast_rc rc = ast_audit_head(a, &a->session, ast_principal_str(p), &head, err);
        if (rc)
            return rc;
        ast_lock(&a->lock);
        *ret = ast_map_get(&a->chains, chain_key(p));
        if (*ret)
            return AST_OK;
        /* A chain that came and went meanwhile has a newer head than we read. */
        if (seen == a->evictions && (*ret = chain_add(a, p, &head)))
            return AST_OK;
        bool is_full = seen == a->evictions;
        ast_unlock(&a->lock);
        if (is_full)
            return ast_fail(err, AST_E_NO_MEMORY, "audit chain");
    }
}

/* ---- the place ---- */

static void put_place(struct audit_row *r, const struct ast_audit_head *previous)
{
    char seal[AST_BLAKE3_HEX];
    uint64_t secs = (uint64_t)(r->entry.time_ns / AST_NS_PER_SEC); /* never before 1970 */

    for (unsigned i = 0; i < 8; i++)
        r->bytes.p[r->time_at + i] = (char)(uint8_t)(secs >> (8 * i));
    ast_audit_outcome_hash(r->entry.time_ns, r->entry.outcome, seal);
    memcpy(r->bytes.p + r->seal_at, seal, AST_BLAKE3_HEX - 1);
    memcpy(r->entry.previous, previous->hash, sizeof r->entry.previous);
    memcpy(r->bytes.p + r->previous_at, previous->hash, sizeof previous->hash);
    ast_blake3(ast_buf_view(&r->bytes), r->hash);
}

/* Rows of one era have times that never fall, so that a time is found by bisection. */
static void set_time(struct ast_audit *a, struct audit_row *r) AST_REQUIRES(a->lock)
{
    int64_t now = AST_MAX(ast_wall_ns(), INT64_C(0));

    if (now < a->last_ns && a->last_ns - now < SLEW_NS)
        now = a->last_ns;
    r->opens_era = now < a->last_ns || a->is_era_due;
    a->is_era_due = false;
    a->last_ns = r->entry.time_ns = now;
}

static enum ast_rc place(struct ast_audit *a, struct audit_row *r, struct ast_err *err)
{
    enum ast_rc rc = chain_lock(a, &r->entry.principal, &r->chain, err);
    if (rc)
        return rc;
    struct audit_chain *c = r->chain;
    set_time(a, r);
    put_place(r, &c->head);
    r->seq = a->next_seq++;
    r->life = a->life;
    r->count = c->head.count + 1;
    c->head = (struct ast_audit_head){ .seq = r->seq, .count = r->count, .id = r->entry.id };
    memcpy(c->head.hash, r->hash, sizeof r->hash);
    c->waiting++;
    *a->last = r;
    a->last = &r->next;
    ast_unlock(&a->lock);
    return AST_OK;
}

/* ---- batches ---- */

/* The signed rows at the front, in order; NULL when the first is not signed or a batch is on its way. */
static struct audit_row *take_batch(struct ast_audit *a) AST_REQUIRES(a->lock)
{
    struct audit_row **end = &a->first, *batch = a->first;
    size_t rows = 0, bytes = 0;

    if (a->in_flight)
        return NULL;
    while (*end && (*end)->is_signed && rows < BATCH_ROWS && bytes < BATCH_BYTES) {
        rows++;
        bytes += (*end)->text.n;
        end = &(*end)->next;
    }
    if (!rows)
        return NULL;
    a->first = *end;
    if (!a->first)
        a->last = &a->first;
    *end = NULL;
    a->in_flight = true;
    return batch;
}

static void send_batch(struct ast_audit *a, struct audit_row *batch)
{
    if (!batch)
        return;
    a->batch = batch;
    ast_store_submit(a->store, &a->op);
}

static enum ast_rc put_row(struct ast_store_txn *txn, const struct audit_row *r,
                           struct ast_err *err)
{
    const struct audit_key *lists[] = { &r->chain_list, &r->method_list, &r->both_list };
    struct audit_key key;
    char id[AST_UUID_TEXT], time[24];

    audit_key_log(&key, &r->entry.session, r->seq);
    enum ast_rc rc =
        ast_store_txn_put(txn, AUDIT_NS_LOG, audit_key_str(&key), ast_buf_view(&r->text), err);
    if (!rc)
        rc = ast_store_txn_put(txn, AUDIT_NS_IDS, ast_uuid_format(&r->entry.id, id),
                               audit_key_str(&key), err);
    if (!rc && r->opens_era) {
        int n = snprintf(time, sizeof time, "%lld", (long long)r->entry.time_ns);
        rc = ast_store_txn_put(txn, AUDIT_NS_ERAS, audit_key_str(&key), ast_str_n(time, (size_t)n),
                               err);
    }
    for (size_t i = 0; i < AST_ARRAY_LEN(lists) && !rc; i++) {
        key = *lists[i];
        audit_key_add_seq(&key, r->seq);
        rc = ast_store_txn_put(txn, AUDIT_NS_INDEX, audit_key_str(&key), AST_STR_NONE, err);
    }
    if (!rc && r->has_intent)
        rc =
            ast_store_txn_delete(txn, AUDIT_NS_INTENTS, ast_uuid_format(&r->intent, id), NULL, err);
    return rc;
}

/* The stored end of the chain must be what the row links to: whatever else goes wrong, no chain forks. */
static enum ast_rc check_link(struct ast_store_txn *txn, const struct audit_row *r,
                              struct ast_err *err)
{
    struct ast_audit_head stored = { 0 };
    struct audit_key key;
    struct ast_str text;

    audit_key_chain(&key, &r->entry.session, ast_principal_str(&r->entry.principal));
    if (ast_store_txn_get(txn, AUDIT_NS_HEADS, audit_key_str(&key), &text) &&
        !audit_head_read(text, &stored))
        return ast_fail(err, AST_E_CORRUPT, "audit: unreadable head of chain " AST_STR_FMT,
                        AST_STR_ARG(audit_key_str(&key)));
    if (memcmp(stored.hash, r->entry.previous, sizeof stored.hash) != 0)
        return ast_fail(err, AST_E_CONFLICT,
                        "audit: chain " AST_STR_FMT " was changed from outside",
                        AST_STR_ARG(audit_key_str(&key)));
    return AST_OK;
}

static enum ast_rc put_head(struct ast_store_txn *txn, const struct audit_row *r,
                            struct ast_err *err)
{
    struct ast_audit_head head = { .seq = r->seq, .count = r->count, .id = r->entry.id };
    char text[AUDIT_HEAD_TEXT];
    struct audit_key key;

    memcpy(head.hash, r->hash, sizeof head.hash);
    audit_key_chain(&key, &r->entry.session, ast_principal_str(&r->entry.principal));
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

static enum ast_rc apply_batch(struct ast_store_op *op, struct ast_store_txn *txn,
                               struct ast_err *err)
{
    struct ast_audit *a = AST_CONTAINER_OF(op, struct ast_audit, op);
    enum ast_rc rc = AST_OK;
    uint64_t rows = 0;

    for (struct audit_row *r = a->batch; r; r = r->next, rows++)
        r->chain->last_applied = NULL;
    for (struct audit_row *r = a->batch; r && !rc; r = r->next) {
        if (!r->chain->last_applied)
            rc = check_link(txn, r, err);
        if (!rc)
            rc = put_row(txn, r, err);
        r->chain->last_applied = r;
    }
    for (struct audit_row *r = a->batch; r && !rc; r = r->next)
        if (r->chain->last_applied == r)
            rc = put_head(txn, r, err);
    return rc ? rc : put_count(a, txn, rows, err);
}

/* ---- the end of a batch ---- */

static void complete(struct audit_row *list, enum ast_rc rc, const struct ast_err *err)
{
    while (list) {
        struct audit_row *r = list;
        list = r->next;
        r->done(r->arg, rc, err);
        row_free(r);
    }
}

static void settle_batch(struct ast_audit *a, struct audit_row *batch, bool is_stored)
    AST_REQUIRES(a->lock)
{
    for (struct audit_row *r = batch; r; r = r->next) {
        r->chain->waiting--;
        if (!is_stored)
            continue;
        r->chain->durable =
            (struct ast_audit_head){ .seq = r->seq, .count = r->count, .id = r->entry.id };
        memcpy(r->chain->durable.hash, r->hash, sizeof r->hash);
        atomic_fetch_add_explicit(&a->rows, 1, memory_order_relaxed); /* a counter only */
    }
}

/* Voids every place that was given. Returns the signed rows; those still being signed belong to their signers, who see that
 * their life is over. */
static struct audit_row *void_places(struct ast_audit *a) AST_REQUIRES(a->lock)
{
    struct audit_row *lost = NULL, **tail = &lost;
    size_t pos = 0;
    struct ast_str key;
    void *value;

    for (struct audit_row *r = a->first, *next; r; r = next) {
        next = r->next;
        r->next = NULL;
        r->chain->waiting--;
        if (r->is_signed) {
            *tail = r;
            tail = &r->next;
        }
    }
    a->first = NULL;
    a->last = &a->first;
    a->life++;
    a->is_era_due = true;
    while (ast_map_next(&a->chains, &pos, &key, &value)) {
        struct audit_chain *c = value;
        c->head = c->durable;
    }
    return lost;
}

static enum ast_rc fail_behind(struct ast_err *err)
{
    return ast_fail(err, AST_E_CONFLICT, "audit: an entry in front could not be stored");
}

static void batch_done(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    struct ast_audit *a = AST_CONTAINER_OF(op, struct ast_audit, op);
    struct audit_row *batch = a->batch, *lost = NULL;
    struct ast_err copy = *err, behind = AST_ERR_INIT;

    ast_lock(&a->lock);
    settle_batch(a, batch, !rc);
    if (rc)
        lost = void_places(a);
    a->in_flight = false;
    a->busy++;
    struct audit_row *next = take_batch(a);
    ast_unlock(&a->lock);
    send_batch(a, next);

    complete(batch, rc, &copy);
    complete(lost, fail_behind(&behind), &behind);
    AST_WITH_LOCK(&a->lock);
    a->busy--;
    (void)pthread_cond_broadcast(&a->idle); /* cannot fail on a valid condition */
}

/* ---- appending ---- */

static void sign(struct ast_audit *a, struct audit_row *r)
{
    ast_key_sign(a->key, ast_buf_view(&r->bytes), r->entry.signature);
    AST_ASSERT(!ast_audit_entry_write(&r->entry, &r->text, NULL)); /* room was reserved */

    ast_lock(&a->lock);
    bool is_void = r->life != a->life;
    r->is_signed = true;
    struct audit_row *batch = is_void ? NULL : take_batch(a);
    ast_unlock(&a->lock);
    send_batch(a, batch);
    if (is_void) {
        struct ast_err err = AST_ERR_INIT;
        complete(r, fail_behind(&err), &err);
    }
}

static void append(struct ast_audit *a, const struct parts *p, const struct ast_uuid *intent,
                   ast_audit_done_fn *done, void *arg)
{
    AST_AUTO(row_free) struct audit_row *r = NULL;
    struct ast_err err = AST_ERR_INIT;
    enum ast_rc rc = prepare(a, p, &r, &err);

    if (!rc) {
        r->done = done;
        r->arg = arg;
        r->has_intent = intent != NULL;
        if (intent)
            r->intent = *intent;
        rc = place(a, r, &err);
    }
    if (rc)
        done(arg, rc, &err);
    else
        sign(a, ast_steal(&r));
}

/* The texts of a draft; what they are made of lies in the two buffers. */
static enum ast_rc write_draft(const struct ast_audit_draft *d, struct ast_buf *action,
                               struct ast_buf *proof, struct parts *ret, struct ast_err *err)
{
    enum ast_rc rc =
        ast_audit_object_write(ast_audit_action_shape(d->action), d->action_values, action, err);
    if (!rc)
        rc = ast_audit_object_write(ast_audit_proof_shape(d->proof), d->proof_values, proof, err);
    *ret = (struct parts){ .principal = d->principal,
                           .action = ast_buf_view(action),
                           .authorization = ast_buf_view(proof),
                           .outcome_text = d->outcome,
                           .is_failure = d->is_failure };
    return rc;
}

void ast_audit_append(struct ast_audit *a, const struct ast_audit_draft *draft,
                      const struct ast_uuid *intent, ast_audit_done_fn *done, void *arg)
{
    AST_AUTO(ast_buf_done) struct ast_buf action = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf proof = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    struct ast_err err = AST_ERR_INIT;
    struct parts p;

    enum ast_rc rc = write_draft(draft, &action, &proof, &p, &err);
    if (rc)
        done(arg, rc, &err);
    else
        append(a, &p, intent, done, arg);
}

/* Stands between a row and the thread that waits for it. */
struct waiter {
    struct ast_lock lock;
    pthread_cond_t wake;
    bool is_done AST_GUARDED_BY(lock);
    struct ast_err err;
    enum ast_rc rc;
};

static void wake_waiter(void *arg, enum ast_rc rc, const struct ast_err *err)
{
    struct waiter *w = arg;
    AST_WITH_LOCK(&w->lock); /* the waiter may be gone right after */
    w->rc = rc;
    w->err = *err;
    w->is_done = true;
    (void)pthread_cond_signal(&w->wake);
}

static void waiter_init(struct waiter *w)
{
    *w = (struct waiter){ .is_done = false };
    ast_lock_init(&w->lock, AST_LOCK_audit);
    ast_cond_init(&w->wake);
}

static enum ast_rc waiter_wait(struct waiter *w, struct ast_err *err)
{
    ast_lock(&w->lock);
    while (!w->is_done)
        (void)ast_cond_wait(&w->wake, &w->lock, -1);
    ast_unlock(&w->lock);
    (void)pthread_cond_destroy(&w->wake);
    ast_lock_done(&w->lock);
    return w->rc ? ast_fail(err, w->rc, "%s", w->err.msg) : AST_OK;
}

enum ast_rc ast_audit_append_wait(struct ast_audit *a, const struct ast_audit_draft *draft,
                                  const struct ast_uuid *intent, struct ast_err *err)
{
    struct waiter w;
    waiter_init(&w);
    ast_audit_append(a, draft, intent, wake_waiter, &w);
    return waiter_wait(&w, err);
}

/* ---- intent markers ---- */

struct intent_op {
    struct ast_store_op op;
    struct ast_str id, text; /* an empty text removes */
};

static enum ast_rc apply_intent(struct ast_store_op *op, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    struct intent_op *i = AST_CONTAINER_OF(op, struct intent_op, op);
    return i->text.n ? ast_store_txn_put(txn, AUDIT_NS_INTENTS, i->id, i->text, err)
                     : ast_store_txn_delete(txn, AUDIT_NS_INTENTS, i->id, NULL, err);
}

/* Owner: the thread that stores it. */
struct marker_op {
    struct intent_op i;
    struct ast_buf text;
    char id_text[AST_UUID_TEXT];
};

static enum ast_rc prepare_marker(const struct ast_audit_draft *draft, struct ast_uuid *ret_id,
                                  struct marker_op *ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf action = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf proof = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    struct parts p;

    enum ast_rc rc = write_draft(draft, &action, &proof, &p, err);
    if (rc)
        return rc;
    *ret_id = ast_uuid_v4();
    ret->text = (struct ast_buf)AST_BUF_INIT(3 * AST_AUDIT_MAX_ENTRY);
    struct ast_jw w = AST_JW_INIT(&ret->text);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "principal", p.principal);
    ast_jw_kv_string(&w, "action", p.action); /* as strings: the bytes come back as they are */
    ast_jw_kv_string(&w, "authorization", p.authorization);
    ast_jw_end(&w);
    ret->i = (struct intent_op){ .op = { .apply = apply_intent },
                                 .id = ast_uuid_format(ret_id, ret->id_text),
                                 .text = ast_buf_view(&ret->text) };
    return ast_buf_check(&ret->text, "audit intent", err);
}

void ast_audit_intend_many(struct ast_audit *a, struct ast_audit_marker *markers, size_t n)
{
    AST_AUTO(ast_cfree) struct marker_op *v = calloc(n, sizeof *v);
    AST_AUTO(ast_cfree) struct ast_store_op **ops = calloc(n, sizeof(struct ast_store_op *));
    size_t ready = 0;

    for (size_t i = 0; i < n; i++) {
        struct ast_audit_marker *m = &markers[i];
        m->err = (struct ast_err)AST_ERR_INIT;
        m->rc = v && ops ? prepare_marker(m->draft, &m->id, &v[i], &m->err)
                         : ast_fail(&m->err, AST_E_NO_MEMORY, "audit intent");
        if (!m->rc)
            ops[ready++] = &v[i].i.op;
    }
    if (ready)
        ast_store_run_many(a->store, ops, ready);
    for (size_t i = 0; v && i < n; i++) {
        if (!markers[i].rc && v[i].i.op.rc)
            markers[i].rc = ast_fail(&markers[i].err, v[i].i.op.rc, "%s", v[i].i.op.err.msg);
        ast_buf_done(&v[i].text);
    }
}

enum ast_rc ast_audit_intend(struct ast_audit *a, const struct ast_audit_draft *draft,
                             struct ast_uuid *ret_intent, struct ast_err *err)
{
    struct ast_audit_marker m = { .draft = draft };

    ast_audit_intend_many(a, &m, 1);
    if (m.rc)
        return ast_fail(err, m.rc, "%s", m.err.msg);
    *ret_intent = m.id;
    return AST_OK;
}

struct intent_row {
    struct ast_uuid id;
    struct ast_buf text;
    bool found;
};

static bool copy_intent(void *arg, struct ast_str key, struct ast_str value)
{
    struct intent_row *i = arg;
    if (!ast_uuid_parse(key, &i->id))
        return true; /* not ours */
    i->found = !ast_buf_add(&i->text, value);
    return false;
}

static enum ast_rc settle_one(struct ast_audit *a, const struct intent_row *i, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct parts p = { .is_failure = true, .outcome_text = AST_STR("interrupted") };
    char id[AST_UUID_TEXT];
    struct waiter w;

    if (!ast_json_parse(ast_buf_view(&i->text), &doc, NULL)) {
        const struct ast_json *root = ast_json_root(doc);
        p.principal = ast_json_str_or(root, AST_STR("principal"), AST_STR_NONE);
        p.action = ast_json_str_or(root, AST_STR("action"), AST_STR_NONE);
        p.authorization = ast_json_str_or(root, AST_STR("authorization"), AST_STR_NONE);
    }
    if (ast_str_starts(p.action, AST_STR("{\"type\":")) && ast_str_ends(p.action, AST_STR("}")) &&
        ast_str_starts(p.authorization, AST_STR("{\"type\":"))) {
        waiter_init(&w);
        append(a, &p, &i->id, wake_waiter, &w);
        return waiter_wait(&w, err);
    }
    /* Damaged: a marker nobody can read says nothing; it must not be met at each boot. */
    struct intent_op op = { .op = { .apply = apply_intent }, .id = ast_uuid_format(&i->id, id) };
    return ast_store_run(a->store, &op.op, err);
}

enum ast_rc ast_audit_settle(struct ast_audit *a, uint64_t *ret_count, struct ast_err *err)
{
    uint64_t count = 0;

    for (;;) {
        struct intent_row i = { .text = AST_BUF_INIT(4 * AST_AUDIT_MAX_ENTRY) };
        enum ast_rc rc = ast_store_scan(a->store, AUDIT_NS_INTENTS, AST_STR_NONE, AST_STR_NONE,
                                        copy_intent, &i, err);
        if (!rc)
            rc = ast_buf_check(&i.text, "audit intent", err);
        bool more = !rc && i.found;
        if (more)
            rc = settle_one(a, &i, err);
        ast_buf_done(&i.text);
        if (rc)
            return rc;
        if (!more)
            break;
        count++;
    }
    *ret_count = count;
    return AST_OK;
}

/* ---- life ---- */

struct last_row {
    uint64_t seq;
    int64_t time_ns;
};

static bool look_at_last(void *arg, struct ast_str key, struct ast_str value)
{
    struct last_row *last = arg;
    struct ast_audit_entry e;

    last->seq = audit_key_seq(key);
    last->time_ns = ast_audit_entry_read(value, &e, NULL) ? 0 : AST_MAX(e.time_ns, INT64_C(0));
    return false;
}

/* The time and number of the last row: where this life goes on. */
static enum ast_rc find_end(struct ast_audit *a, struct ast_err *err)
{
    struct audit_key prefix;
    struct last_row last = { 0 };

    audit_key_chain(&prefix, &a->session, AST_STR_NONE);
    audit_key_add(&prefix, AST_STR("/"));
    enum ast_rc rc = ast_store_scan_back(a->store, AUDIT_NS_LOG, audit_key_str(&prefix),
                                         AST_STR_NONE, look_at_last, &last, err);
    if (rc)
        return rc;
    if (last.seq == UINT64_MAX)
        return ast_fail(err, AST_E_CORRUPT, "no sequence numbers are left");
    a->next_seq = last.seq + 1;
    a->last_ns = last.time_ns;
    a->is_era_due = last.seq == 0 || last.time_ns == 0;
    return AST_OK;
}

/* Cursors of another home or of another key mean nothing here. */
static void make_mac_key(struct ast_audit *a)
{
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];

    ast_key_sign(a->key, AST_STR("astrid audit cursor key v1"), signature);
    ast_blake3(ast_str_n(signature, sizeof signature), a->mac_key);
    ast_wipe(signature, sizeof signature);
}

enum ast_rc ast_audit_open(const struct ast_audit_config *cfg, struct ast_audit **ret,
                           struct ast_err *err)
{
    struct ast_audit *a = calloc(1, sizeof *a);
    if (!a)
        return ast_fail(err, AST_E_NO_MEMORY, "cannot open audit log: out of memory");
    a->store = cfg->store;
    a->key = cfg->key;
    a->session = cfg->session;
    a->last = &a->first;
    a->op = (struct ast_store_op){ .apply = apply_batch, .done = batch_done };
    a->anchored_rows = UINT64_MAX;
    ast_lock_init(&a->lock, AST_LOCK_audit);
    ast_lock_init(&a->keys_lock, AST_LOCK_audit);
    ast_cond_init(&a->idle);
    make_mac_key(a);
    enum ast_rc rc = find_end(a, err);
    if (!rc)
        rc = audit_keys_load(a, err);
    if (rc) {
        ast_audit_close(a);
        return ast_wrap(err, rc, "cannot open audit log");
    }
    *ret = a;
    return AST_OK;
}

void ast_audit_close(struct ast_audit *a)
{
    size_t pos = 0;
    struct ast_str key;
    void *value;

    if (!a)
        return;
    ast_lock(&a->lock);
    while (a->first || a->in_flight || a->busy)
        (void)ast_cond_wait(&a->idle, &a->lock, -1);
    ast_unlock(&a->lock);
    while (ast_map_next(&a->chains, &pos, &key, &value))
        free(value);
    ast_map_done(&a->chains);
    ast_vec_done(&a->keys);
    ast_wipe(a->mac_key, sizeof a->mac_key);
    (void)pthread_cond_destroy(&a->idle);
    ast_lock_done(&a->keys_lock);
    ast_lock_done(&a->lock);
    free(a);
}
