/* Reading: heads, counts, single rows, pages.
 *
 * A page never reads a row it does not give: the list for the filter's principal and method holds just their rows, and time
 * bounds are found by bisection inside each era (a stretch of rows whose times never fall).
 */
#include <stdlib.h>

#include "audit/audit_priv.h"
#include "base/time.h"

#include "base/banned.h"

/* ---- single facts ---- */

enum ast_rc ast_audit_head(struct ast_audit *a, const struct ast_uuid *session,
                           struct ast_str principal, struct ast_audit_head *ret,
                           struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AUDIT_HEAD_TEXT);
    struct ast_audit_head head = { 0 };
    struct audit_key key;
    bool found = false;

    if (principal.n && !ast_principal_valid(principal))
        return ast_fail(err, AST_E_INVALID, "audit: invalid principal");
    audit_key_chain(&key, session, principal);
    enum ast_rc rc =
        ast_store_get(a->store, AUDIT_NS_HEADS, audit_key_str(&key), &text, &found, err);
    if (rc)
        return rc;
    if (found && !audit_head_read(ast_buf_view(&text), &head))
        return ast_fail(err, AST_E_CORRUPT, "audit: unreadable head of chain " AST_STR_FMT,
                        AST_STR_ARG(audit_key_str(&key)));
    *ret = head;
    return AST_OK;
}

enum ast_rc ast_audit_count(struct ast_audit *a, const struct ast_uuid *session, uint64_t *ret,
                            struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(64);
    struct audit_key key;
    uint64_t count = 0;
    bool found = false;

    audit_key_chain(&key, session, AST_STR_NONE);
    enum ast_rc rc =
        ast_store_get(a->store, AUDIT_NS_SESSIONS, audit_key_str(&key), &text, &found, err);
    if (!rc && found && !ast_str_to_u64(ast_buf_view(&text), &count))
        rc = ast_fail(err, AST_E_CORRUPT, "audit: unreadable count of session " AST_STR_FMT,
                      AST_STR_ARG(audit_key_str(&key)));
    if (!rc)
        *ret = count;
    return rc;
}

struct sessions {
    bool (*each)(void *arg, const struct ast_uuid *session);
    void *arg;
};

static bool give_session(void *arg, struct ast_str key, struct ast_str value)
{
    struct sessions *s = arg;
    struct ast_uuid session;
    (void)value;
    return !ast_uuid_parse(key, &session) || s->each(s->arg, &session);
}

enum ast_rc ast_audit_sessions(struct ast_audit *a,
                               bool (*each)(void *arg, const struct ast_uuid *session), void *arg,
                               struct ast_err *err)
{
    struct sessions s = { each, arg };
    return ast_store_scan(a->store, AUDIT_NS_SESSIONS, AST_STR_NONE, AST_STR_NONE, give_session, &s,
                          err);
}

struct wanted {
    const struct ast_uuid *id;
    struct ast_buf *out;
    struct ast_audit *a;
    struct ast_err *err;
    enum ast_rc rc;
    bool found;
};

static bool take_wanted(void *arg, const struct audit_stored *row)
{
    struct wanted *w = arg;
    struct ast_audit_entry e;

    if (!audit_stored_read(row, &e, NULL) && ast_uuid_eq(&e.id, w->id)) {
        w->rc = audit_stored_text(row, w->out, w->err);
        w->found = !w->rc;
    }
    return false;
}

static bool look_in_session(void *arg, const struct ast_uuid *session)
{
    struct wanted *w = arg;
    uint64_t seq = audit_id_seq(session, w->id);
    struct audit_range one = { .lo = seq, .hi = seq + 1, .oldest_first = true };
    enum ast_rc rc = seq ? audit_rows(w->a, session, &one, take_wanted, w, w->err) : AST_OK;

    if (!w->rc)
        w->rc = rc;
    return !w->rc && !w->found;
}

/* Rows of form 1 have no number in their id. */
static enum ast_rc get_listed(struct wanted *w)
{
    AST_AUTO(ast_buf_done) struct ast_buf key = AST_BUF_INIT(AUDIT_KEY_MAX);
    char text[AST_UUID_TEXT];
    bool found = false;

    enum ast_rc rc = ast_store_get(w->a->store, AUDIT_NS_IDS, ast_uuid_format(w->id, text), &key,
                                   &found, w->err);
    if (!rc && found)
        rc = ast_store_get(w->a->store, AUDIT_NS_LOG, ast_buf_view(&key), w->out, &found, w->err);
    w->found = !rc && found;
    return rc;
}

enum ast_rc ast_audit_get(struct ast_audit *a, const struct ast_uuid *id, struct ast_buf *out,
                          bool *ret_found, struct ast_err *err)
{
    struct wanted w = { .id = id, .out = out, .a = a, .err = err };

    enum ast_rc rc = ast_audit_sessions(a, look_in_session, &w, err);
    if (!rc)
        rc = w.rc;
    if (!rc && !w.found)
        rc = get_listed(&w);
    if (!rc)
        *ret_found = w.found;
    return rc;
}

/* ---- finding a time ---- */

struct at {
    uint64_t seq;
    int64_t time_ns;
};

static bool take_readable(void *arg, const struct audit_stored *row)
{
    struct at *at = arg;
    struct ast_audit_entry e;
    if (audit_stored_read(row, &e, NULL))
        return true;
    *at = (struct at){ row->seq, e.time_ns };
    return false;
}

/* The first number in [lo, hi) whose row is not older than `time_ns`; hi when all are. Rows that cannot be read are passed
 * over. Costs log2(hi - lo) reads. */
static enum ast_rc bisect(struct ast_audit *a, const struct ast_uuid *session, uint64_t lo,
                          uint64_t hi, int64_t time_ns, uint64_t *ret, struct ast_err *err)
{
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        struct audit_range r = { .lo = mid, .hi = hi, .oldest_first = true };
        struct at at = { 0 };
        enum ast_rc rc = audit_rows(a, session, &r, take_readable, &at, err);
        if (rc)
            return rc;
        if (!at.seq || at.time_ns >= time_ns)
            hi = mid;
        else
            lo = at.seq + 1;
    }
    *ret = lo;
    return AST_OK;
}

struct range {
    uint64_t lo, hi; /* [lo, hi) */
};
struct ranges {
    AST_VEC(struct range) list;
    bool is_out_of_memory;
};

static void ranges_done_auto(struct ranges *r)
{
    ast_vec_done(&r->list);
}

static bool add_era(void *arg, struct ast_str key, struct ast_str value)
{
    struct ranges *r = arg;
    struct range era = { audit_key_seq(key), UINT64_MAX };
    (void)value;
    if (era.lo && !ast_vec_push(&r->list, era))
        r->is_out_of_memory = true;
    return !r->is_out_of_memory;
}

static int64_t ns_of(uint64_t secs)
{
    return secs > (uint64_t)(INT64_MAX / AST_NS_PER_SEC) ? INT64_MAX
                                                         : (int64_t)secs * AST_NS_PER_SEC;
}

/* The stretches of the log that lie in the filter's time, ascending. */
static enum ast_rc find_ranges(struct ast_audit *a, const struct ast_audit_filter *f,
                               struct ranges *r, struct ast_err *err)
{
    struct audit_key prefix;
    struct range all = { 1, UINT64_MAX };
    enum ast_rc rc = AST_OK;

    if (!f->since && !f->until)
        return ast_vec_push(&r->list, all) ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "audit query");
    audit_key_chain(&prefix, &f->session, AST_STR_NONE);
    audit_key_add(&prefix, AST_STR("/"));
    rc = ast_store_scan(a->store, AUDIT_NS_ERAS, audit_key_str(&prefix), AST_STR_NONE, add_era, r,
                        err);
    if (!rc && r->is_out_of_memory)
        rc = ast_fail(err, AST_E_NO_MEMORY, "audit query");
    for (size_t i = 0; i + 1 < r->list.n; i++)
        r->list.v[i].hi = r->list.v[i + 1].lo;
    for (size_t i = 0; i < r->list.n && !rc; i++) {
        struct range *era = &r->list.v[i];
        uint64_t end = era->hi;
        if (f->since)
            rc = bisect(a, &f->session, era->lo, end, ns_of(f->since), &era->lo, err);
        if (!rc && f->until && f->until < UINT64_MAX)
            rc = bisect(a, &f->session, era->lo, end, ns_of(f->until + 1), &era->hi, err);
    }
    return rc;
}

/* ---- pages ---- */

struct walk {
    struct ast_audit *a;
    const struct ast_audit_query *q;
    struct range range;
    bool is_log; /* the list is the log itself: rows come with their text */
    bool is_stopped;
    unsigned count;
    uint64_t last, newest;
    AST_VEC(uint64_t) found;
    struct ast_buf text; /* scratch: one row */
    bool is_out_of_memory;
};

static void walk_done_auto(struct walk *w)
{
    ast_vec_done(&w->found);
    ast_buf_done(&w->text);
}

/* One that cannot be read is given when it is a text, as it is: verifying tells, a page goes on. */
static bool give(void *arg, const struct audit_stored *row)
{
    struct walk *w = arg;

    ast_buf_reset(&w->text);
    enum ast_rc rc = audit_stored_text(row, &w->text, NULL);
    w->is_out_of_memory = rc == AST_E_NO_MEMORY;
    if (rc)
        return !w->is_out_of_memory;
    w->count++;
    w->last = row->seq;
    w->newest = AST_MAX(w->newest, row->seq);
    w->is_stopped =
        !w->q->each(w->q->arg, row->seq, ast_buf_view(&w->text)) || w->count >= w->q->limit;
    return !w->is_stopped;
}

static bool take(void *arg, uint64_t first, struct ast_str value)
{
    struct walk *w = arg;
    uint64_t numbers[AUDIT_LIST_NUMBERS];
    size_t n = audit_list_read(value, first, numbers);

    for (size_t i = 0; i < n; i++) {
        uint64_t seq = numbers[w->q->filter.oldest_first ? i : n - 1 - i];
        if (seq < w->range.lo || seq >= w->range.hi)
            continue;
        w->is_out_of_memory = !ast_vec_push(&w->found, seq);
        if (w->is_out_of_memory || w->found.n >= w->q->limit - w->count)
            return false;
    }
    return true;
}

/* The rows that a list named. One that is not in the log any more was tampered with; verifying tells, a page goes on. */
static enum ast_rc give_found(struct walk *w, struct ast_err *err)
{
    enum ast_rc rc = AST_OK;

    for (size_t i = 0; i < w->found.n && !w->is_stopped && !rc; i++) {
        struct audit_range one = { .lo = w->found.v[i],
                                   .hi = w->found.v[i] + 1,
                                   .oldest_first = true };
        rc = audit_rows(w->a, &w->q->filter.session, &one, give, w, err);
    }
    ast_vec_clear(&w->found);
    return rc;
}

static enum ast_rc walk_range(struct walk *w, struct ast_err *err)
{
    const struct ast_audit_filter *f = &w->q->filter;
    struct audit_key prefix;
    struct audit_range r = { .lo = w->range.lo,
                             .hi = w->range.hi,
                             .oldest_first = f->oldest_first,
                             .ns = AUDIT_NS_INDEX,
                             .prefix = &prefix };
    enum ast_rc rc;

    if (w->is_log) {
        rc = audit_rows(w->a, &f->session, &r, give, w, err);
    } else {
        audit_key_list(&prefix, &f->session, f->has_principal ? &f->principal : NULL, f->method);
        rc = audit_walk(w->a, &r, take, w, err);
        if (!rc)
            rc = give_found(w, err);
    }
    return w->is_out_of_memory && !rc ? ast_fail(err, AST_E_NO_MEMORY, "audit query") : rc;
}

static enum ast_rc check_query(struct ast_audit *a, const struct ast_audit_query *q,
                               uint64_t *ret_at, struct ast_err *err)
{
    if (q->limit == 0 || q->limit > AST_AUDIT_MAX_PAGE)
        return ast_fail(err, AST_E_INVALID, "audit page of %u rows: must be 1 to %u", q->limit,
                        AST_AUDIT_MAX_PAGE);
    if (q->filter.has_principal && q->filter.principal.n &&
        !ast_principal_valid(q->filter.principal))
        return ast_fail(err, AST_E_INVALID, "audit: invalid principal");
    return q->cursor.n ? ast_audit_cursor_read(a, &q->filter, q->cursor, ret_at, err) : AST_OK;
}

enum ast_rc ast_audit_query(struct ast_audit *a, const struct ast_audit_query *q,
                            struct ast_audit_page *ret, struct ast_err *err)
{
    __attribute__((cleanup(ranges_done_auto))) struct ranges r = { 0 };
    __attribute__((cleanup(walk_done_auto))) struct walk w = {
        .a = a, .q = q, .text = AST_BUF_INIT(AST_STORE_MAX_VALUE)
    };
    const struct ast_audit_filter *f = &q->filter;
    uint64_t at = 0; /* the cursor's; 0: none, sequence numbers begin with 1 */

    enum ast_rc rc = check_query(a, q, &at, err);
    if (!rc)
        rc = find_ranges(a, f, &r, err);
    w.is_log = !f->has_principal && !f->method.n;
    for (size_t i = 0; i < r.list.n && !rc && !w.is_stopped; i++) {
        w.range = r.list.v[f->oldest_first ? i : r.list.n - 1 - i];
        if (q->cursor.n && f->oldest_first)
            w.range.lo = AST_MAX(w.range.lo, at < UINT64_MAX ? at + 1 : at);
        else if (q->cursor.n)
            w.range.hi = AST_MIN(w.range.hi, at);
        if (w.range.lo < w.range.hi)
            rc = walk_range(&w, err);
    }
    if (rc)
        return rc;
    *ret = (struct ast_audit_page){ .count = w.count };
    if (w.is_stopped || (q->tail && f->oldest_first))
        ast_audit_cursor_write(a, f, w.count ? w.last : at, ret->next);
    if (w.count)
        ast_audit_cursor_write(a, f, w.newest, ret->newest);
    return AST_OK;
}
