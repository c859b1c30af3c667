/* Blocks: many rows in one value of the log, many numbers in one value of a list.
 *
 * Invariants: a block's key carries the sequence number of its first row, so the block that holds a number is the last one
 * whose key is not greater; numbers only grow inside a block. A row's record holds the bytes that were signed, as they were
 * signed; its JSON text is made of them when somebody asks. Nothing here is trusted: every length is checked.
 *
 * History of the stored form, newest first:
 *   2  blocks. Log: 01, the runtime key, then records {u32 bytes behind it, u64 number, i64 time in ns, signature,
 *      u32 outcome bytes, u32 authorization bytes, signed bytes without the key, outcome}. List: 01, u64 last number, then
 *      the differences as varints (7 bits each, low first), the first to the key's number. All little endian. A row's id
 *      carries its number (audit_id_seal()), so no list of ids is kept.
 *   1  one row a value: in the log its JSON text, in a list nothing. `audit:ids` named each row. Still read.
 */
#include "audit/audit_priv.h"
#include "base/time.h"

#include "base/banned.h"

#define FORM_BLOCK  '\x01'
#define LOG_HEAD    (1u + AST_KEY_PUBLIC_BYTES)
#define LIST_HEAD   (1u + 8u)
#define SIGNED_HEAD (16u + 8u + 16u)                          /* id, seconds, session */
#define SIGNED_TAIL (1u + AST_BLAKE3_BYTES)                   /* success, previous hash */
#define ROWS_MAX    (AUDIT_BLOCK_MAX / AUDIT_RECORD_MIN + 1u) /* of a block that we wrote */

/* ---- ids ---- */

/* The 62 bits that hide a number behind the id's random 60. No secret: an id shall only look like any other. */
static uint64_t id_mask(const struct ast_uuid *session, const struct ast_uuid *id)
{
    uint8_t text[16 + 8], hash[AST_BLAKE3_BYTES];
    memcpy(text, session->b, 16);
    memcpy(text + 16, id->b, 8);
    ast_blake3(ast_str_n(text, sizeof text), hash);
    return audit_get_le64(hash) >> 2;
}

void audit_id_make(const struct ast_uuid *session, struct ast_uuid *ret, uint64_t *ret_mask)
{
    static _Thread_local struct {
        uint8_t b[1024];
        size_t left;
    } pool; /* one call of the system for many ids */

    if (pool.left < 8) {
        ast_random(pool.b, sizeof pool.b);
        pool.left = sizeof pool.b;
    }
    pool.left -= 8;
    *ret = AST_UUID_NIL;
    memcpy(ret->b, pool.b + pool.left, 8);
    ret->b[6] = (uint8_t)(0x40 | (ret->b[6] & 0x0f));
    *ret_mask = id_mask(session, ret);
}

void audit_id_seal(uint64_t mask, uint64_t seq, uint8_t id[static 16])
{
    uint64_t v = (seq ^ mask) & (UINT64_MAX >> 2);
    for (unsigned i = 0; i < 8; i++)
        id[8 + i] = (uint8_t)(v >> (56 - 8 * i));
    id[8] |= 0x80;
}

uint64_t audit_id_seq(const struct ast_uuid *session, const struct ast_uuid *id)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; i++)
        v = v << 8 | id->b[8 + i];
    return (v ^ id_mask(session, id)) & (UINT64_MAX >> 2);
}

/* ---- blocks of rows ---- */

bool audit_block_is(struct ast_str value)
{
    return value.n > 0 && value.p[0] == FORM_BLOCK;
}

void audit_block_begin(struct ast_buf *block, const uint8_t key[static AST_KEY_PUBLIC_BYTES])
{
    ast_buf_reset(block);
    (void)ast_buf_add_byte(block, FORM_BLOCK);
    (void)ast_buf_add(block, ast_str_n(key, AST_KEY_PUBLIC_BYTES));
}

bool audit_block_is_of(struct ast_str value, const uint8_t key[static AST_KEY_PUBLIC_BYTES])
{
    return audit_block_is(value) && value.n >= LOG_HEAD &&
           memcmp(value.p + 1, key, AST_KEY_PUBLIC_BYTES) == 0;
}

/* The record at *pos. 0: the end; 1: a record; -1: damaged from here on. */
static int next_record(struct ast_str block, size_t *pos, struct audit_stored *ret)
{
    const uint8_t *p = (const uint8_t *)block.p;
    size_t at = AST_MAX(*pos, LOG_HEAD);

    if (at == block.n)
        return 0;
    if (at > block.n || block.n - at < AUDIT_RECORD_HEAD)
        return -1;
    size_t n = audit_get_le32(p + at), outcome = audit_get_le32(p + at + AUDIT_AT_OUTCOME);
    if (n > block.n - at - 4 || n < AUDIT_RECORD_HEAD - 4)
        return -1;
    size_t body = n - (AUDIT_RECORD_HEAD - 4);
    if (outcome > body)
        return -1;
    *ret = (struct audit_stored){
        .seq = audit_get_le64(p + at + AUDIT_AT_SEQ),
        .key = p + 1,
        .record = ast_str_n(block.p + at, 4 + n),
        .signed_part = ast_str_n(block.p + at + AUDIT_RECORD_HEAD, body - outcome),
    };
    *pos = at + 4 + n;
    return 1;
}

bool audit_value_each(struct ast_str value, uint64_t first, bool backwards, audit_each_stored *each,
                      void *arg)
{
    struct audit_stored rows[ROWS_MAX], damaged = { .seq = first };
    size_t pos = 0, n = 0;
    int got = 0;

    if (!audit_block_is(value))
        return each(arg, &(struct audit_stored){ .seq = first, .text = value });
    while (n < ROWS_MAX && (got = next_record(value, &pos, &rows[n])) > 0) {
        /* Numbers that do not grow are damage too: nothing could be found behind them. */
        if (n ? rows[n].seq <= rows[n - 1].seq : rows[n].seq != first) {
            got = -1;
            break;
        }
        n++;
    }
    if (got > 0)
        got = next_record(value, &pos, &damaged) ? -1 : 0; /* more rows than we ever write */
    damaged =
        (struct audit_stored){ .seq = n ? rows[n - 1].seq + 1 : first, .text = AST_STR("damaged") };
    bool is_damaged = got < 0 || !n;
    if (is_damaged && backwards && !each(arg, &damaged))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!each(arg, &rows[backwards ? n - 1 - i : i]))
            return false;
    return !is_damaged || backwards || each(arg, &damaged);
}

static enum ast_rc bad(const char *what, struct ast_err *err)
{
    return ast_fail(err, AST_E_CORRUPT, "audit record: invalid %s", what);
}

/* Behind the principal; 0: not one. */
static size_t read_principal(struct ast_str s, struct ast_principal *ret)
{
    const uint8_t *p = (const uint8_t *)s.p + SIGNED_HEAD;
    if (p[0] == 0)
        return SIGNED_HEAD + 1;
    size_t left = s.n - SIGNED_HEAD - SIGNED_TAIL;
    if (p[0] != 0xff || left < 5)
        return 0;
    size_t n = audit_get_le32(p + 1);
    if (n > left - 5 || !n || ast_principal_parse(ast_str_n((const char *)p + 5, n), ret, NULL))
        return 0;
    return SIGNED_HEAD + 5 + n;
}

static enum ast_rc read_record(const struct audit_stored *r, struct ast_audit_entry *ret,
                               struct ast_err *err)
{
    const uint8_t *p = (const uint8_t *)r->record.p;
    struct ast_str s = r->signed_part;
    struct ast_audit_entry e = { .time_ns = (int64_t)audit_get_le64(p + AUDIT_AT_TIME) };
    size_t authorization = audit_get_le32(p + AUDIT_AT_AUTHORIZATION);

    if (s.n < SIGNED_HEAD + 1 + SIGNED_TAIL)
        return bad("length", err);
    memcpy(e.id.b, s.p, 16);
    memcpy(e.session.b, s.p + 24, 16);
    if (e.time_ns < 0 ||
        audit_get_le64((const uint8_t *)s.p + 16) != (uint64_t)(e.time_ns / AST_NS_PER_SEC))
        return bad("time", err);
    size_t at = read_principal(s, &e.principal);
    if (!at)
        return bad("principal", err);
    size_t texts = s.n - SIGNED_TAIL - at;
    if (authorization >= texts)
        return bad("authorization", err);
    e.action = ast_str_n(s.p + at, texts - authorization);
    e.authorization = ast_str_n(s.p + at + e.action.n, authorization);
    e.outcome = ast_str_n(s.p + s.n, (size_t)(r->record.p + r->record.n - (s.p + s.n)));
    const uint8_t *tail = (const uint8_t *)s.p + s.n - SIGNED_TAIL;
    if (tail[0] > 1)
        return bad("outcome", err);
    e.is_success = tail[0];
    memcpy(e.previous, tail + 1, sizeof e.previous);
    memcpy(e.key, r->key, sizeof e.key);
    memcpy(e.signature, p + AUDIT_AT_SIGNATURE, sizeof e.signature);
    if (audit_id_seq(&e.session, &e.id) != r->seq)
        return bad("number", err);
    *ret = e;
    return AST_OK;
}

enum ast_rc audit_stored_read(const struct audit_stored *s, struct ast_audit_entry *ret,
                              struct ast_err *err)
{
    return s->record.n ? read_record(s, ret, err) : ast_audit_entry_read(s->text, ret, err);
}

enum ast_rc audit_stored_text(const struct audit_stored *s, struct ast_buf *out,
                              struct ast_err *err)
{
    struct ast_audit_entry e;
    if (!s->record.n)
        return ast_buf_add(out, s->text) ? ast_buf_check(out, "audit entry", err) : AST_OK;
    enum ast_rc rc = read_record(s, &e, err);
    return rc ? rc : ast_audit_entry_write(&e, out, err);
}

/* ---- blocks of numbers ---- */

void audit_list_begin(struct ast_buf *block, uint64_t first)
{
    char head[LIST_HEAD] = { FORM_BLOCK };
    audit_put_le64((uint8_t *)head + 1, first);
    ast_buf_reset(block);
    (void)ast_buf_add(block, ast_str_n(head, sizeof head));
}

bool audit_list_last(struct ast_str value, uint64_t *ret)
{
    if (!audit_block_is(value) || value.n < LIST_HEAD)
        return false;
    *ret = audit_get_le64((const uint8_t *)value.p + 1);
    return true;
}

void audit_list_add(struct ast_buf *block, uint64_t seq)
{
    uint8_t *head = (uint8_t *)block->p + 1;
    uint64_t step = seq - audit_get_le64(head);

    audit_put_le64(head, seq);
    do {
        (void)ast_buf_add_byte(block, (char)((step & 0x7f) | (step > 0x7f ? 0x80 : 0)));
        step >>= 7;
    } while (step);
}

size_t audit_list_read(struct ast_str value, uint64_t first,
                       uint64_t out[static AUDIT_LIST_NUMBERS])
{
    size_t n = 1, at = LIST_HEAD;

    out[0] = first;
    if (!audit_block_is(value))
        return 1;
    while (at < value.n && n < AUDIT_LIST_NUMBERS) {
        uint64_t step = 0;
        unsigned shift = 0;
        uint8_t c;
        do {
            c = (uint8_t)value.p[at++];
            step |= shift < 64 ? (uint64_t)(c & 0x7f) << shift : 0;
            shift += 7;
        } while ((c & 0x80) && at < value.n);
        if (!step || step > UINT64_MAX - out[n - 1])
            break; /* damaged: what is behind it is lost to the list, not to the log */
        out[n] = out[n - 1] + step;
        n++;
    }
    return n;
}

/* ---- walks ---- */

struct value_walk {
    uint64_t lo, hi;
    bool oldest_first;
    audit_each_value *each;
    void *arg;
};

static bool walk_value(void *arg, struct ast_str key, struct ast_str value)
{
    struct value_walk *w = arg;
    uint64_t first = audit_key_seq(key);

    if (!first)
        return true; /* not ours */
    if (w->oldest_first)
        return first < w->hi && w->each(w->arg, first, value);
    return w->each(w->arg, first, value) && first > w->lo;
}

enum ast_rc audit_walk(struct ast_audit *a, const struct audit_range *r, audit_each_value *each,
                       void *arg, struct ast_err *err)
{
    struct value_walk w = { r->lo, r->hi, r->oldest_first, each, arg };
    struct audit_key bound = *r->prefix;

    if (r->lo >= r->hi)
        return AST_OK;
    audit_key_add_seq(&bound, r->oldest_first ? r->lo : r->hi);
    return r->oldest_first ? ast_store_scan_at(a->store, r->ns, audit_key_str(r->prefix),
                                               audit_key_str(&bound), walk_value, &w, err)
                           : ast_store_scan_back(a->store, r->ns, audit_key_str(r->prefix),
                                                 audit_key_str(&bound), walk_value, &w, err);
}

struct row_walk {
    const struct audit_range *range;
    audit_each_stored *each;
    void *arg;
};

static bool walk_row(void *arg, const struct audit_stored *row)
{
    struct row_walk *w = arg;
    bool is_inside = row->seq >= w->range->lo && row->seq < w->range->hi;
    return !is_inside || w->each(w->arg, row);
}

static bool walk_block(void *arg, uint64_t first, struct ast_str value)
{
    struct row_walk *w = arg;
    return audit_value_each(value, first, !w->range->oldest_first, walk_row, w);
}

enum ast_rc audit_rows(struct ast_audit *a, const struct ast_uuid *session,
                       const struct audit_range *range, audit_each_stored *each, void *arg,
                       struct ast_err *err)
{
    struct audit_range r = *range;
    struct row_walk w = { &r, each, arg };
    struct audit_key prefix;

    audit_key_chain(&prefix, session, AST_STR_NONE);
    audit_key_add(&prefix, AST_STR("/"));
    r.ns = AUDIT_NS_LOG;
    r.prefix = &prefix;
    return audit_walk(a, &r, walk_block, &w, err);
}
