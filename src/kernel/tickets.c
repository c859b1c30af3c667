#include "kernel/tickets.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/json.h"
#include "crypto/hash.h"
#include "crypto/secret.h"
#include "kernel/tickets_priv.h"

#include "base/banned.h"

#define RANDOM_BYTES      24u
#define ROW_MAX           4096u
#define NUMBER_DIGITS     16u
#define PRUNED_ON_THE_WAY 8u
#define PRUNED_AT_ONCE    4096u

static const struct {
    struct ast_str rows, by_hash, by_expiry;
    const char *nothing; /* to spend; one text, no oracle */
} kinds[KERNEL_TICKET_KINDS] = {
    [KERNEL_TICKET_INVITE] = { AST_STR("system:invites"), AST_STR("system:invites:hash"),
                               AST_STR("system:invites:expiry"),
                               "invite token invalid, expired, or already consumed" },
    [KERNEL_TICKET_PAIRING] = { AST_STR("system:pairing"), AST_STR("system:pairing:hash"),
                                AST_STR("system:pairing:expiry"),
                                "pair-device token invalid or expired" },
};

#define COUNTER_NS  AST_STR("system:tickets")
#define COUNTER_KEY AST_STR("issued")

static bool is_live(const struct kernel_ticket *t, uint64_t now)
{
    return t->uses > 0 && (t->expires_at == 0 || t->expires_at > now);
}

/* --- Rows ---------------------------------------------------------------------------------------- */

struct number {
    char text[NUMBER_DIGITS + 1];
};

static struct number number_of(uint64_t n)
{
    struct number ret;
    (void)snprintf(ret.text, sizeof ret.text, "%016" PRIx64, n);
    return ret;
}

static struct ast_str number_str(const struct number *n)
{
    return ast_str_n(n->text, NUMBER_DIGITS);
}

/* "<time it dies><place>": the order in which rows die. */
struct expiry_key {
    char text[2 * NUMBER_DIGITS + 1];
};

static struct ast_str expiry_key(uint64_t expires_at, struct ast_str place, struct expiry_key *ret)
{
    struct number n = number_of(expires_at);
    memcpy(ret->text, n.text, NUMBER_DIGITS);
    memcpy(ret->text + NUMBER_DIGITS, place.p, NUMBER_DIGITS);
    return ast_str_n(ret->text, sizeof ret->text - 1);
}

static enum ast_rc row_write(const struct kernel_ticket *t, struct ast_buf *out)
{
    struct ast_jw w = AST_JW_INIT(out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "hash", ast_str_c(t->hash));
    ast_jw_kv_string(&w, "subject", ast_str_c(t->subject));
    ast_jw_kv_u64(&w, "uses", t->uses);
    ast_jw_kv_u64(&w, "issued_at", t->issued_at);
    ast_jw_kv_u64(&w, "expires_at", t->expires_at);
    if (t->has_note)
        ast_jw_kv_string(&w, "note", ast_str_c(t->note));
    ast_jw_end(&w);
    return out->fail ? AST_E_NO_MEMORY : AST_OK;
}

static bool row_read(struct ast_str text, struct kernel_ticket *ret)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_str note = AST_STR_NONE;
    uint64_t uses = 0;

    *ret = (struct kernel_ticket){ .uses = 0 };
    if (ast_json_parse(text, &doc, NULL))
        return false;
    const struct ast_json *row = ast_json_root(doc);
    ret->has_note = ast_json_string(ast_json_member(row, "note"), &note);
    struct ast_str hash = ast_json_str_or(row, AST_STR("hash"), AST_STR_NONE);
    struct ast_str subject = ast_json_str_or(row, AST_STR("subject"), AST_STR_NONE);
    if (!ast_json_u64(ast_json_member(row, "uses"), &uses) || uses > UINT32_MAX ||
        !ast_json_u64(ast_json_member(row, "issued_at"), &ret->issued_at) ||
        !ast_json_u64(ast_json_member(row, "expires_at"), &ret->expires_at) ||
        hash.n != KERNEL_TICKET_HASH || !ast_str_to_c(hash, ret->hash, sizeof ret->hash) ||
        !ast_str_to_c(subject, ret->subject, sizeof ret->subject) ||
        !ast_str_to_c(note, ret->note, sizeof ret->note))
        return false;
    ret->uses = (uint32_t)uses;
    return true;
}

/* --- Inside the writer ---------------------------------------------------------------------------- */

static enum ast_rc put_row(struct ast_store_txn *t, enum kernel_ticket_kind kind,
                           struct ast_str place, const struct kernel_ticket *ticket,
                           struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf row = AST_BUF_INIT(ROW_MAX);
    if (row_write(ticket, &row))
        return ast_fail(err, AST_E_NO_MEMORY, "token row");
    return ast_store_txn_put(t, kinds[kind].rows, place, ast_buf_view(&row), err);
}

/* With its two index entries. */
static enum ast_rc put_all(struct ast_store_txn *t, enum kernel_ticket_kind kind,
                           struct ast_str place, const struct kernel_ticket *ticket,
                           struct ast_err *err)
{
    struct expiry_key key;
    enum ast_rc rc = put_row(t, kind, place, ticket, err);
    if (!rc)
        rc = ast_store_txn_put(t, kinds[kind].by_hash, ast_str_c(ticket->hash), place, err);
    if (!rc && ticket->expires_at)
        rc = ast_store_txn_put(t, kinds[kind].by_expiry,
                               expiry_key(ticket->expires_at, place, &key), AST_STR("-"), err);
    return rc;
}

static enum ast_rc delete_all(struct ast_store_txn *t, enum kernel_ticket_kind kind,
                              struct ast_str place, const struct kernel_ticket *ticket,
                              struct ast_err *err)
{
    struct expiry_key key;
    enum ast_rc rc = ast_store_txn_delete(t, kinds[kind].rows, place, NULL, err);
    if (!rc)
        rc = ast_store_txn_delete(t, kinds[kind].by_hash, ast_str_c(ticket->hash), NULL, err);
    if (!rc && ticket->expires_at)
        rc = ast_store_txn_delete(t, kinds[kind].by_expiry,
                                  expiry_key(ticket->expires_at, place, &key), NULL, err);
    return rc;
}

/* The place of a hash, copied; false: unknown. */
static bool place_of(struct ast_store_txn *t, enum kernel_ticket_kind kind, struct ast_str hash,
                     struct number *ret)
{
    struct ast_str place;
    return hash.n == KERNEL_TICKET_HASH &&
           ast_store_txn_get(t, kinds[kind].by_hash, hash, &place) && place.n == NUMBER_DIGITS &&
           ast_str_to_c(place, ret->text, sizeof ret->text);
}

static enum ast_rc load(struct ast_store_txn *t, enum kernel_ticket_kind kind, struct ast_str place,
                        struct kernel_ticket *ret, struct ast_err *err)
{
    struct ast_str row;
    if (!ast_store_txn_get(t, kinds[kind].rows, place, &row) || !row_read(row, ret))
        return ast_fail(err, AST_E_CORRUPT, "token row " AST_STR_FMT " is damaged",
                        AST_STR_ARG(place));
    return AST_OK;
}

bool tickets_has(struct ast_store_txn *t, enum kernel_ticket_kind kind, struct ast_str hash)
{
    struct number place;
    return place_of(t, kind, hash, &place);
}

enum ast_rc tickets_put_new(struct ast_store_txn *t, enum kernel_ticket_kind kind,
                            const struct kernel_ticket *ticket, struct ast_err *err)
{
    struct ast_str text;
    uint64_t issued = 0;

    if (tickets_has(t, kind, ast_str_c(ticket->hash)))
        return ast_fail(err, AST_E_CONFLICT, "a token of this hash exists");
    if (ast_store_txn_get(t, COUNTER_NS, COUNTER_KEY, &text) && !ast_str_to_u64(text, &issued))
        return ast_fail(err, AST_E_CORRUPT, "the token counter is damaged");
    char next[24];
    (void)snprintf(next, sizeof next, "%" PRIu64, issued + 1);
    enum ast_rc rc = ast_store_txn_put(t, COUNTER_NS, COUNTER_KEY, ast_str_c(next), err);
    struct number place = number_of(issued + 1);
    return rc ? rc : put_all(t, kind, number_str(&place), ticket, err);
}

/* The first rows to die, at most `cap`. */
struct dead {
    struct number v[PRUNED_ON_THE_WAY];
    size_t n, cap;
    uint64_t now;
};

static bool collect_dead(void *arg, struct ast_str key, struct ast_str value)
{
    struct dead *d = arg;
    struct number limit = number_of(d->now);

    (void)value;
    if (key.n != 2 * NUMBER_DIGITS || memcmp(key.p, limit.text, NUMBER_DIGITS) > 0)
        return false; /* alive while its time is greater than now */
    (void)ast_str_to_c(ast_str_from(key, NUMBER_DIGITS), d->v[d->n].text, sizeof d->v[0].text);
    return ++d->n < d->cap;
}

static enum ast_rc prune(struct ast_store_txn *t, enum kernel_ticket_kind kind, uint64_t now,
                         size_t max, uint64_t *ret_count, struct ast_err *err)
{
    enum ast_rc rc = AST_OK;
    while (!rc && *ret_count < max) {
        struct dead d = { .cap = AST_MIN(max - *ret_count, (size_t)PRUNED_ON_THE_WAY), .now = now };
        rc = ast_store_txn_scan(t, kinds[kind].by_expiry, AST_STR_NONE, AST_STR_NONE, collect_dead,
                                &d, err);
        for (size_t i = 0; i < d.n && !rc; i++) {
            struct kernel_ticket ticket;
            struct ast_str place = number_str(&d.v[i]);
            rc = load(t, kind, place, &ticket, err);
            if (!rc)
                rc = delete_all(t, kind, place, &ticket, err);
        }
        if (d.n == 0)
            break;
        *ret_count += d.n;
    }
    return rc;
}

/* --- Issue ---------------------------------------------------------------------------------------- */

static enum ast_rc apply_issue(struct ast_store_op *base, struct ast_store_txn *t,
                               struct ast_err *err)
{
    struct kernel_ticket_op *op = AST_CONTAINER_OF(base, struct kernel_ticket_op, op);
    op->ret_count = 0;
    enum ast_rc rc = prune(t, op->kind, op->now, PRUNED_ON_THE_WAY, &op->ret_count, err);
    return rc ? rc : tickets_put_new(t, op->kind, &op->ticket, err);
}

enum ast_rc kernel_ticket_issue(struct kernel_ticket_op *op, enum kernel_ticket_kind kind,
                                struct ast_str subject, const struct ast_str *note, uint32_t uses,
                                uint64_t expires_at, uint64_t now,
                                char ret_token[static KERNEL_TICKET_TEXT + 1], struct ast_err *err)
{
    uint8_t secret[RANDOM_BYTES];
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(KERNEL_TICKET_TEXT + 1);

    if (!uses)
        return ast_fail(err, AST_E_INVALID, "max_uses must be greater than 0");
    op->op.apply = apply_issue;
    op->kind = kind;
    op->now = now;
    op->ticket = (struct kernel_ticket){
        .has_note = note != NULL, .uses = uses, .issued_at = now, .expires_at = expires_at
    };
    if (!subject.n || !ast_str_to_c(subject, op->ticket.subject, sizeof op->ticket.subject))
        return ast_fail(err, AST_E_INVALID, "the token's subject has 1 to %u bytes",
                        KERNEL_TICKET_SUBJECT_MAX);
    if (note && !ast_str_to_c(*note, op->ticket.note, sizeof op->ticket.note))
        return ast_fail(err, AST_E_INVALID, "the text kept with a token has at most %u bytes",
                        KERNEL_TICKET_NOTE_MAX);
    ast_random(secret, sizeof secret);
    if (ast_base64url_encode(ast_str_n(secret, sizeof secret), &text))
        return ast_fail(err, AST_E_NO_MEMORY, "token");
    AST_ASSERT(text.n == KERNEL_TICKET_TEXT);
    memcpy(ret_token, text.p, text.n);
    ret_token[text.n] = 0;
    ast_sha256_hex(ast_str_c(ret_token), op->ticket.hash);
    explicit_bzero(secret, sizeof secret);
    explicit_bzero(text.p, text.n);
    return AST_OK;
}

/* --- Spend, give back ----------------------------------------------------------------------------- */

static enum ast_rc apply_spend(struct ast_store_op *base, struct ast_store_txn *t,
                               struct ast_err *err)
{
    struct kernel_ticket_op *op = AST_CONTAINER_OF(base, struct kernel_ticket_op, op);
    struct number place;

    /* By hash, so that the time tells nothing about the token: nobody chooses what it hashes to. */
    if (!place_of(t, op->kind, ast_str_c(op->given), &place))
        return ast_fail(err, AST_E_DENIED, "%s", kinds[op->kind].nothing);
    enum ast_rc rc = load(t, op->kind, number_str(&place), &op->ticket, err);
    if (rc)
        return rc;
    if (!is_live(&op->ticket, op->now))
        return ast_fail(err, AST_E_DENIED, "%s", kinds[op->kind].nothing);
    op->ticket.uses--;
    memcpy(op->given, place.text, sizeof place.text); /* give back puts the row there again */
    return op->ticket.uses ? put_row(t, op->kind, number_str(&place), &op->ticket, err)
                           : delete_all(t, op->kind, number_str(&place), &op->ticket, err);
}

void kernel_ticket_spend(struct kernel_ticket_op *op, enum kernel_ticket_kind kind,
                         struct ast_str token, uint64_t now)
{
    op->op.apply = apply_spend;
    op->kind = kind;
    op->now = now;
    ast_sha256_hex(token, op->given);
}

enum ast_rc kernel_ticket_look(struct ast_store *s, const struct kernel_ticket_op *spend,
                               struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf place = AST_BUF_INIT(NUMBER_DIGITS + 1);
    AST_AUTO(ast_buf_done) struct ast_buf row = AST_BUF_INIT(ROW_MAX);
    struct kernel_ticket ticket;
    bool found;

    enum ast_rc rc =
        ast_store_get(s, kinds[spend->kind].by_hash, ast_str_c(spend->given), &place, &found, err);
    if (!rc && found)
        rc = ast_store_get(s, kinds[spend->kind].rows, ast_buf_view(&place), &row, &found, err);
    if (rc)
        return rc;
    if (found && !row_read(ast_buf_view(&row), &ticket))
        return ast_fail(err, AST_E_CORRUPT, "token row " AST_STR_FMT " is damaged",
                        AST_STR_ARG(ast_buf_view(&place)));
    return found && is_live(&ticket, spend->now)
               ? AST_OK
               : ast_fail(err, AST_E_DENIED, "%s", kinds[spend->kind].nothing);
}

/* A row that others removed meanwhile (revoked, spent to its end) stays away: a use may be lost. Only
 * the spend that emptied the row itself brings it back. */
static enum ast_rc apply_give_back(struct ast_store_op *base, struct ast_store_txn *t,
                                   struct ast_err *err)
{
    struct kernel_ticket_op *op = AST_CONTAINER_OF(base, struct kernel_ticket_op, op);
    struct ast_str place = ast_str_c(op->given), row;
    struct kernel_ticket now = op->ticket;

    if (ast_store_txn_get(t, kinds[op->kind].rows, place, &row)) {
        if (!row_read(row, &now))
            return ast_fail(err, AST_E_CORRUPT, "token row " AST_STR_FMT " is damaged",
                            AST_STR_ARG(place));
    } else if (op->ticket.uses) {
        return AST_OK;
    }
    now.uses++;
    return put_all(t, op->kind, place, &now, err);
}

void kernel_ticket_give_back(struct kernel_ticket_op *op)
{
    AST_ASSERT(op->op.apply == apply_spend);
    op->op.apply = apply_give_back;
}

/* --- Removing ------------------------------------------------------------------------------------- */

static enum ast_rc apply_revoke(struct ast_store_op *base, struct ast_store_txn *t,
                                struct ast_err *err)
{
    struct kernel_ticket_op *op = AST_CONTAINER_OF(base, struct kernel_ticket_op, op);
    const char *const hashes[] = { op->ticket.hash, op->given };
    enum ast_rc rc = AST_OK;

    op->ret_count = 0;
    for (size_t i = 0; i < AST_ARRAY_LEN(hashes) && !rc; i++) {
        struct kernel_ticket row;
        struct number place;
        if (!place_of(t, op->kind, ast_str_c(hashes[i]), &place))
            continue;
        rc = load(t, op->kind, number_str(&place), &row, err);
        if (!rc)
            rc = delete_all(t, op->kind, number_str(&place), &row, err);
        op->ret_count += !rc;
    }
    return rc;
}

void kernel_ticket_revoke(struct kernel_ticket_op *op, enum kernel_ticket_kind kind,
                          struct ast_str token_or_hash)
{
    op->op.apply = apply_revoke;
    op->kind = kind;
    ast_sha256_hex(token_or_hash, op->ticket.hash);
    if (!ast_str_to_c(token_or_hash, op->given, sizeof op->given))
        op->given[0] = 0; /* longer than a hash: none */
}

/* Places of a subject's rows, gathered before they are removed: a scan must not write. */
struct gathering {
    struct ast_str subject;
    struct number *v;
    size_t n, cap;
    bool no_memory;
};

static bool gather(void *arg, struct ast_str key, struct ast_str value)
{
    struct gathering *g = arg;
    struct kernel_ticket t;

    if (key.n != NUMBER_DIGITS || !row_read(value, &t) ||
        !ast_str_eq(ast_str_c(t.subject), g->subject))
        return true;
    if (g->n == g->cap) {
        size_t cap = g->cap ? 2 * g->cap : 16;
        struct number *more = realloc(g->v, cap * sizeof *more);
        if (!more) {
            g->no_memory = true;
            return false;
        }
        g->v = more;
        g->cap = cap;
    }
    (void)ast_str_to_c(key, g->v[g->n++].text, sizeof g->v[0].text);
    return true;
}

static enum ast_rc apply_drop(struct ast_store_op *base, struct ast_store_txn *t,
                              struct ast_err *err)
{
    struct kernel_ticket_op *op = AST_CONTAINER_OF(base, struct kernel_ticket_op, op);
    struct gathering g = { .subject = ast_str_c(op->ticket.subject) };

    enum ast_rc rc =
        ast_store_txn_scan(t, kinds[op->kind].rows, AST_STR_NONE, AST_STR_NONE, gather, &g, err);
    if (!rc && g.no_memory)
        rc = ast_fail(err, AST_E_NO_MEMORY, "tokens of a principal");
    op->ret_count = 0;
    for (size_t i = 0; i < g.n && !rc; i++) {
        struct kernel_ticket row;
        rc = load(t, op->kind, number_str(&g.v[i]), &row, err);
        if (!rc)
            rc = delete_all(t, op->kind, number_str(&g.v[i]), &row, err);
        op->ret_count += !rc;
    }
    free(g.v);
    return rc;
}

enum ast_rc kernel_ticket_drop(struct kernel_ticket_op *op, enum kernel_ticket_kind kind,
                               struct ast_str subject, struct ast_err *err)
{
    op->op.apply = apply_drop;
    op->kind = kind;
    if (!ast_str_to_c(subject, op->ticket.subject, sizeof op->ticket.subject))
        return ast_fail(err, AST_E_INVALID, "the token's subject has 1 to %u bytes",
                        KERNEL_TICKET_SUBJECT_MAX);
    return AST_OK;
}

static enum ast_rc apply_prune(struct ast_store_op *base, struct ast_store_txn *t,
                               struct ast_err *err)
{
    struct kernel_ticket_op *op = AST_CONTAINER_OF(base, struct kernel_ticket_op, op);
    op->ret_count = 0;
    return prune(t, op->kind, op->now, PRUNED_AT_ONCE, &op->ret_count, err);
}

void kernel_ticket_prune(struct kernel_ticket_op *op, enum kernel_ticket_kind kind, uint64_t now)
{
    op->op.apply = apply_prune;
    op->kind = kind;
    op->now = now;
}

/* --- Reading -------------------------------------------------------------------------------------- */

struct reading {
    bool (*each)(void *arg, const struct kernel_ticket *t);
    void *arg;
    uint64_t now;
    bool is_damaged;
};

static bool read_one(void *arg, struct ast_str key, struct ast_str value)
{
    struct reading *r = arg;
    struct kernel_ticket t;

    (void)key;
    if (!row_read(value, &t)) {
        r->is_damaged = true;
        return false;
    }
    return !is_live(&t, r->now) || r->each(r->arg, &t);
}

enum ast_rc kernel_tickets_each(struct ast_store *s, enum kernel_ticket_kind kind, uint64_t now,
                                struct ast_str after,
                                bool (*each)(void *arg, const struct kernel_ticket *t), void *arg,
                                struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf place = AST_BUF_INIT(NUMBER_DIGITS + 1);
    struct reading r = { each, arg, now, false };
    bool found = false;
    enum ast_rc rc = AST_OK;

    if (after.n == KERNEL_TICKET_HASH)
        rc = ast_store_get(s, kinds[kind].by_hash, after, &place, &found, err);
    if (!rc && after.n && !found)
        rc = ast_fail(err, AST_E_NOT_FOUND, "nothing has this fingerprint any more");
    if (!rc)
        rc = ast_store_scan(s, kinds[kind].rows, AST_STR_NONE, ast_buf_view(&place), read_one, &r,
                            err);
    return !rc && r.is_damaged ? ast_fail(err, AST_E_CORRUPT, "a token row is damaged") : rc;
}
