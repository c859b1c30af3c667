/* Appending: place, sign, batch, commit (audit.h draws it).
 *
 * Invariants: the list of placed rows is in the order of their sequence numbers, and so is every batch; one batch is with the
 * store at a time; `durable` of a chain is what the last committed batch left. A failed batch voids all places behind it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "audit/audit_priv.h"
#include "base/codec.h"
#include "base/time.h"

#include "base/banned.h"

#define CHAINS_MAX    4096u /* kept in memory; idle ones are forgotten beyond it */
#define BATCH_ROWS    4096u
#define BATCH_BYTES   (16u * 1024 * 1024)
#define WAITING_ROWS  16384u /* refused beyond; half of it makes ast_audit_flow() wait */
#define WAITING_BYTES (64u * 1024 * 1024)
#define SLEW_NS       AST_NS_PER_SEC /* a clock that goes back less than this stands still instead */
#define ENVELOPE_MAX  1024u          /* all of a row's JSON but action, authorization and outcome */
#define USUAL_BYTES   768u           /* most rows fit */
#define FIRST_TIME_AT 16u            /* in what is signed */

void audit_row_free(struct audit_row *r)
{
    if (!r)
        return;
    ast_buf_done(&r->bytes);
    free(r);
}

/* ---- preparing: all that can fail happens before the row has a place ---- */

/* What a row is made of: a draft, or the texts of one that an earlier life had. */
struct source {
    const struct ast_audit_draft *draft; /* NULL: `parts` */
    const struct audit_parts *parts;
};

static struct ast_str principal_of(const struct source *s)
{
    return s->draft ? s->draft->principal : s->parts->principal;
}

static enum ast_rc write_action(const struct source *s, struct ast_buf *out, struct ast_err *err)
{
    if (s->draft)
        return ast_audit_object_write(ast_audit_action_shape(s->draft->action),
                                      s->draft->action_values, out, err);
    (void)ast_buf_add(out, s->parts->action);
    return ast_buf_check(out, "audit entry", err);
}

static enum ast_rc write_proof(const struct source *s, struct ast_buf *out, struct ast_err *err)
{
    if (s->draft)
        return ast_audit_object_write(ast_audit_proof_shape(s->draft->proof),
                                      s->draft->proof_values, out, err);
    (void)ast_buf_add(out, s->parts->authorization);
    return ast_buf_check(out, "audit entry", err);
}

/* Whether the texts must be read again to know that the stored row can be, and what they say. */
static bool is_foreign(const struct source *s)
{
    return !s->draft || (s->draft->action == AST_AUDIT_ACTION_admin_request &&
                         s->draft->action_values[3].text.p);
}

/* Appends the method. Foreign JSON proves here that the row around it is not too deep to be read. */
static enum ast_rc write_method(struct audit_row *r, const struct source *s, struct ast_str action,
                                struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf nested = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY + 2);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    size_t before = r->bytes.n;

    if (is_foreign(s)) {
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
        (void)ast_buf_add(&r->bytes, audit_method_of(root));
    } else if (s->draft->action == AST_AUDIT_ACTION_admin_request) {
        (void)ast_buf_add(&r->bytes, s->draft->action_values[0].text);
    } else {
        (void)ast_buf_add(&r->bytes, ast_audit_action_shape(s->draft->action)->type);
    }
    r->method_n = r->bytes.n - before;
    return ast_buf_check(&r->bytes, "audit entry", err);
}

/* Up to the action; id, time and previous hash are filled in with the place. */
static void write_front(struct audit_row *r, const struct ast_audit *a)
{
    static const char zeros[AUDIT_RECORD_HEAD + 16 + 8];
    uint8_t length[5] = { 0xff, r->principal.n };

    (void)ast_buf_add(&r->bytes, ast_str_n(zeros, sizeof zeros));
    (void)ast_buf_add(&r->bytes, ast_str_n(a->session.b, sizeof a->session.b));
    if (r->principal.n) {
        (void)ast_buf_add(&r->bytes, ast_str_n(length, sizeof length));
        (void)ast_buf_add(&r->bytes, ast_principal_str(&r->principal));
    } else {
        (void)ast_buf_add_byte(&r->bytes, 0);
    }
}

/* Ends the action as form 2 does; its hash is filled in with the place. */
static void write_seal(struct audit_row *r)
{
    char blank[AST_BLAKE3_HEX - 1];
    memset(blank, '0', sizeof blank);
    r->bytes.n--; /* the brace */
    (void)ast_buf_add_lit(&r->bytes, ",\"form\":2,\"outcome_hash\":\"");
    r->seal_at = r->bytes.n;
    (void)ast_buf_add(&r->bytes, ast_str_n(blank, sizeof blank));
    (void)ast_buf_add_lit(&r->bytes, "\"}");
}

static enum ast_rc write_row(struct audit_row *r, const struct ast_audit *a, const struct source *s,
                             struct ast_err *err)
{
    struct ast_buf *b = &r->bytes;
    bool is_failure = s->draft ? s->draft->is_failure : s->parts->is_failure;
    struct ast_str outcome = s->draft ? s->draft->outcome : s->parts->outcome_text;

    write_front(r, a);
    size_t action_at = b->n;
    enum ast_rc rc = write_action(s, b, err);
    if (rc)
        return rc;
    write_seal(r);
    size_t proof_at = b->n;
    rc = write_proof(s, b, err);
    if (rc)
        return rc;
    uint32_t proof_n = (uint32_t)(b->n - proof_at);
    (void)ast_buf_add_byte(b, is_failure ? 0 : 1);
    (void)ast_buf_add(b, ast_str_n(r->previous, sizeof r->previous));
    (void)ast_buf_add(b, ast_str_n(a->key->public_key, AST_KEY_PUBLIC_BYTES));
    r->signed_n = b->n - AUDIT_RECORD_HEAD;
    rc = ast_audit_outcome_write(is_failure, outcome, b, err);
    if (rc)
        return rc;
    r->outcome_n = b->n - AUDIT_RECORD_HEAD - r->signed_n;
    if (b->n > AST_AUDIT_MAX_ENTRY - ENVELOPE_MAX)
        return ast_fail(err, AST_E_TOO_LARGE, "audit entry: longer than %u bytes",
                        AST_AUDIT_MAX_ENTRY - ENVELOPE_MAX);
    rc = write_method(r, s, ast_str_n(b->p + action_at, proof_at - action_at), err);
    if (rc)
        return rc;
    uint8_t *head = (uint8_t *)b->p;
    audit_put_le32(head, (uint32_t)(AUDIT_RECORD_HEAD - 4 + r->signed_n - AST_KEY_PUBLIC_BYTES +
                                    r->outcome_n));
    audit_put_le32(head + AUDIT_AT_OUTCOME, (uint32_t)r->outcome_n);
    audit_put_le32(head + AUDIT_AT_AUTHORIZATION, proof_n);
    return AST_OK;
}

static enum ast_rc prepare(const struct ast_audit *a, const struct source *s,
                           struct audit_row **ret, struct ast_err *err)
{
    AST_AUTO(audit_row_free) struct audit_row *r = calloc(1, sizeof *r);
    if (!r)
        return ast_fail(err, AST_E_NO_MEMORY, "audit entry");
    r->bytes.max = AST_AUDIT_MAX_ENTRY;
    (void)ast_buf_reserve(&r->bytes, USUAL_BYTES);
    audit_id_make(&a->session, &r->id, &r->id_mask);
    struct ast_str principal = principal_of(s);
    enum ast_rc rc = AST_OK;
    if (principal.n)
        rc = ast_principal_parse(principal, &r->principal, err);
    if (!rc)
        rc = write_row(r, a, s, err);
    if (!rc)
        *ret = ast_steal(&r);
    return rc;
}

/* ---- chains in memory ---- */

static void chain_free(struct audit_chain *c)
{
    audit_lists_free(c->lists);
    free(c);
}

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
        chain_free(c);
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
    uint8_t *head = (uint8_t *)r->bytes.p, *text = head + AUDIT_RECORD_HEAD;

    audit_put_le64(head + AUDIT_AT_SEQ, r->seq);
    audit_put_le64(head + AUDIT_AT_TIME, (uint64_t)r->time_ns); /* never before 1970 */
    audit_id_seal(r->id_mask, r->seq, r->id.b);
    memcpy(text, r->id.b, sizeof r->id.b);
    audit_put_le64(text + FIRST_TIME_AT, (uint64_t)(r->time_ns / AST_NS_PER_SEC));
    ast_audit_outcome_hash(r->time_ns, audit_row_outcome(r), seal);
    memcpy(r->bytes.p + r->seal_at, seal, AST_BLAKE3_HEX - 1);
    memcpy(r->previous, previous->hash, sizeof r->previous);
    memcpy(text + r->signed_n - AST_KEY_PUBLIC_BYTES - AST_BLAKE3_BYTES, previous->hash,
           sizeof previous->hash);
    ast_blake3(audit_row_signed(r), r->hash);
}

/* Rows of one era have times that never fall, so that a time is found by bisection. */
static void set_time(struct ast_audit *a, struct audit_row *r) AST_REQUIRES(a->lock)
{
    int64_t now = AST_MAX(ast_wall_ns(), INT64_C(0));

    if (now < a->last_ns && a->last_ns - now < SLEW_NS)
        now = a->last_ns;
    r->opens_era = now < a->last_ns || a->is_era_due;
    a->is_era_due = false;
    a->last_ns = r->time_ns = now;
}

static enum ast_rc place(struct ast_audit *a, struct audit_row *r, struct ast_err *err)
{
    enum ast_rc rc = chain_lock(a, &r->principal, &r->chain, err);
    if (rc)
        return rc;
    struct audit_chain *c = r->chain;
    if (a->waiting_rows >= WAITING_ROWS || a->waiting_bytes >= WAITING_BYTES) {
        ast_unlock(&a->lock);
        return ast_fail(err, AST_E_BUSY, "audit: too many entries wait for the disk");
    }
    set_time(a, r);
    r->seq = a->next_seq++;
    put_place(r, &c->head);
    r->life = a->life;
    r->count = c->head.count + 1;
    c->head = (struct ast_audit_head){ .seq = r->seq, .count = r->count, .id = r->id };
    memcpy(c->head.hash, r->hash, sizeof r->hash);
    c->waiting++;
    a->waiting_rows++;
    a->waiting_bytes += r->bytes.n;
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
        bytes += (*end)->bytes.n;
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

/* ---- the end of a batch ---- */

static void complete(struct audit_row *list, enum ast_rc rc, const struct ast_err *err)
{
    while (list) {
        struct audit_row *r = list;
        list = r->next;
        r->done(r->arg, rc, err);
        audit_row_free(r);
    }
}

/* The row is no longer on its way. */
static void leave(struct ast_audit *a, struct audit_row *r) AST_REQUIRES(a->lock)
{
    r->chain->waiting--;
    a->waiting_rows--;
    a->waiting_bytes -= r->bytes.n;
}

static void settle_batch(struct ast_audit *a, struct audit_row *batch, bool is_stored)
    AST_REQUIRES(a->lock)
{
    for (struct audit_row *r = batch; r; r = r->next) {
        leave(a, r);
        if (!is_stored)
            continue;
        r->chain->durable =
            (struct ast_audit_head){ .seq = r->seq, .count = r->count, .id = r->id };
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
        leave(a, r);
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
    struct ast_err copy, behind = AST_ERR_INIT;

    copy = *err;
    if (rc)
        audit_batch_forget(a);
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
    ast_key_sign(a->key, audit_row_signed(r), (uint8_t *)r->bytes.p + AUDIT_AT_SIGNATURE);

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

static void append(struct ast_audit *a, const struct source *s, const struct ast_uuid *intent,
                   ast_audit_done_fn *done, void *arg)
{
    AST_AUTO(audit_row_free) struct audit_row *r = NULL;
    struct ast_err err;
    err.rc = AST_OK;
    err.msg[0] = 0;
    enum ast_rc rc = prepare(a, s, &r, &err);

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

void ast_audit_append(struct ast_audit *a, const struct ast_audit_draft *draft,
                      const struct ast_uuid *intent, ast_audit_done_fn *done, void *arg)
{
    append(a, &(struct source){ .draft = draft }, intent, done, arg);
}

void audit_append_parts(struct ast_audit *a, const struct audit_parts *p,
                        const struct ast_uuid *intent, ast_audit_done_fn *done, void *arg)
{
    append(a, &(struct source){ .parts = p }, intent, done, arg);
}

void ast_audit_flow(struct ast_audit *a)
{
    AST_WITH_LOCK(&a->lock);
    while (a->waiting_rows >= WAITING_ROWS / 2 || a->waiting_bytes >= WAITING_BYTES / 2)
        (void)ast_cond_wait(&a->idle, &a->lock, -1);
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
    w->is_done = false;
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
    ast_audit_flow(a);
    ast_audit_append(a, draft, intent, wake_waiter, &w);
    return waiter_wait(&w, err);
}

enum ast_rc audit_append_parts_wait(struct ast_audit *a, const struct audit_parts *p,
                                    const struct ast_uuid *intent, struct ast_err *err)
{
    struct waiter w;
    waiter_init(&w);
    audit_append_parts(a, p, intent, wake_waiter, &w);
    return waiter_wait(&w, err);
}

/* ---- life ---- */

static bool look_at_last(void *arg, const struct audit_stored *row)
{
    struct ast_audit *a = arg;
    struct ast_audit_entry e;

    a->next_seq = row->seq;
    a->last_ns = audit_stored_read(row, &e, NULL) ? 0 : AST_MAX(e.time_ns, INT64_C(0));
    return false;
}

/* The time and number of the last row: where this life goes on. */
static enum ast_rc find_end(struct ast_audit *a, struct ast_err *err)
{
    struct audit_range all = { .lo = 1, .hi = UINT64_MAX };

    enum ast_rc rc = audit_rows(a, &a->session, &all, look_at_last, a, err);
    if (rc)
        return rc;
    if (a->next_seq >= UINT64_MAX >> 2) /* an id has no room for more */
        return ast_fail(err, AST_E_CORRUPT, "no sequence numbers are left");
    a->is_era_due = a->next_seq == 0 || a->last_ns == 0;
    a->next_seq++;
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
    a->block.max = AST_STORE_MAX_VALUE;
    a->op = (struct ast_store_op){ .apply = audit_batch_apply, .done = batch_done };
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
        chain_free(value);
    ast_map_done(&a->chains);
    audit_batch_forget(a);
    ast_map_done(&a->lists);
    ast_buf_done(&a->block);
    ast_vec_done(&a->keys);
    ast_wipe(a->mac_key, sizeof a->mac_key);
    (void)pthread_cond_destroy(&a->idle);
    ast_lock_done(&a->keys_lock);
    ast_lock_done(&a->lock);
    free(a);
}
