/* The walk over all rows, as they were appended (spec 09 §14.3).
 *
 * Invariant: nothing that is checked is taken from an index: the log is read from its first row to its last, and the ends that
 * head records and anchors claim must be met on the way.
 */
#include <stdio.h>
#include <stdlib.h>

#include "audit/audit_priv.h"
#include "base/log.h"

#include "base/banned.h"

#define CHUNK_VALUES 256u
#define CHUNK_BYTES  (4u * 1024 * 1024)
#define SESSION_LEN  (AST_UUID_TEXT - 1u)

/* ---- words ---- */

static const char *const issue_names[] = {
#define X(name, text) [AST_AUDIT_ISSUE_##name] = #name,
    AST_AUDIT_ISSUE_MAP(X)
#undef X
};
static const char *const issue_texts[] = {
#define X(name, text) [AST_AUDIT_ISSUE_##name] = text,
    AST_AUDIT_ISSUE_MAP(X)
#undef X
};

const char *ast_audit_issue_name(enum ast_audit_issue_kind kind)
{
    return (unsigned)kind < AST_AUDIT_ISSUE_COUNT ? issue_names[kind] : "Unknown";
}

const char *ast_audit_issue_text(const struct ast_audit_issue *issue,
                                 char out[static AST_AUDIT_ISSUE_TEXT])
{
    char id[AST_AUDIT_SHORT_ID];
    (void)snprintf(out, AST_AUDIT_ISSUE_TEXT, "%s%s", issue_texts[issue->kind],
                   ast_audit_short_id(&issue->id, id));
    return out;
}

void ast_audit_report_done(struct ast_audit_report *r)
{
    ast_vec_done(&r->issues);
}

/* ---- chains on the way ---- */

/* An end that was claimed: by the head record, by an anchor or by a checkpoint. count == 0: no claim. */
enum { HEAD, ANCHOR, CHECKPOINT, CLAIMS };

struct chain {
    struct ast_uuid session;
    struct ast_principal principal;
    uint64_t count, last_seq;
    uint8_t hash[AST_BLAKE3_BYTES];     /* of the last row */
    uint8_t previous[AST_BLAKE3_BYTES]; /* what that row links to */
    struct ast_uuid last_id;
    struct ast_audit_head claims[CLAIMS];
    bool is_met[CLAIMS];
};

struct verify {
    struct ast_audit *a;
    const struct ast_audit_scope *scope;
    struct ast_audit_report *report;
    struct ast_map chains;   /* chain key -> struct chain, owned */
    struct ast_map tampered; /* session text -> anything */
    struct ast_buf bytes;    /* scratch: what one row signs */
    unsigned claim;          /* which one is being loaded */
    const char *checkpoint;  /* NULL: check every signature */
    enum ast_rc rc;
    struct ast_err *err;
};

static bool is_in_scope(const struct verify *v, const struct ast_uuid *session,
                        const struct ast_principal *principal)
{
    return (!v->scope->session || ast_uuid_eq(v->scope->session, session)) &&
           (!v->scope->principal || ast_principal_eq(v->scope->principal, principal));
}

static bool out_of_memory(struct verify *v)
{
    v->rc = ast_fail(v->err, AST_E_NO_MEMORY, "audit verification");
    return false;
}

static void note(struct verify *v, const struct ast_audit_issue *issue)
{
    char text[AST_UUID_TEXT];
    if (!ast_map_set(&v->tampered, ast_uuid_format(&issue->session, text), v, NULL) ||
        v->report->issues.n >= AST_AUDIT_MAX_ISSUES || !ast_vec_push(&v->report->issues, *issue))
        v->report->issues_lost++;
}

static struct chain *chain_of(struct verify *v, const struct ast_uuid *session,
                              const struct ast_principal *principal)
{
    struct audit_key key;
    audit_key_chain(&key, session, ast_principal_str(principal));
    struct chain *c = ast_map_get(&v->chains, audit_key_str(&key));
    if (c)
        return c;
    c = calloc(1, sizeof *c);
    if (!c || !ast_map_set(&v->chains, audit_key_str(&key), c, NULL)) {
        free(c);
        (void)out_of_memory(v);
        return NULL;
    }
    c->session = *session;
    c->principal = *principal;
    return c;
}

/* ---- claims ---- */

static bool add_claim(void *arg, struct ast_str chain, const struct ast_audit_head *head)
{
    struct verify *v = arg;
    struct ast_uuid session;
    struct ast_principal principal = { 0 };

    if (!ast_uuid_parse(ast_str_first(chain, SESSION_LEN), &session) ||
        (chain.n > SESSION_LEN &&
         (chain.p[SESSION_LEN] != ':' ||
          ast_principal_parse(ast_str_from(chain, SESSION_LEN + 1), &principal, NULL))))
        return true; /* not ours; a chain without its head record shows below */
    if (!is_in_scope(v, &session, &principal))
        return true;
    struct chain *c = chain_of(v, &session, &principal);
    if (c)
        c->claims[v->claim] = *head;
    return c != NULL;
}

static bool add_head(void *arg, struct ast_str key, struct ast_str value)
{
    struct ast_audit_head head;
    return !audit_head_read(value, &head) || add_claim(arg, key, &head);
}

static void forget_claims(struct verify *v, unsigned kind)
{
    struct ast_str key;
    size_t pos = 0;
    void *value;
    while (ast_map_next(&v->chains, &pos, &key, &value))
        ((struct chain *)value)->claims[kind].count = 0;
}

static enum ast_rc load_claims(struct verify *v)
{
    enum ast_rc rc = AST_OK;

    /* Anchors first: they are older than the heads, so both lie on the way of the walk. */
    v->claim = ANCHOR;
    if (v->scope->anchors)
        rc = audit_ends_each(v->a, v->scope->anchors, AUDIT_ANCHORS, add_claim, v, v->err);
    v->claim = CHECKPOINT;
    if (!rc && v->checkpoint &&
        audit_ends_each(v->a, v->checkpoint, AUDIT_CHECKPOINT, add_claim, v, NULL)) {
        ast_log_warn("astrid.audit", "the audit checkpoint cannot be trusted, checking everything");
        forget_claims(v, CHECKPOINT);
    }
    if (!rc)
        rc = v->rc;
    v->claim = HEAD;
    if (!rc)
        rc = ast_store_scan(v->a->store, AUDIT_NS_HEADS, AST_STR_NONE, AST_STR_NONE, add_head, v,
                            v->err);
    return rc ? rc : v->rc;
}

/* A claimed row is met by its hash; or by its id, when it is there but was altered, which is an issue of its own. */
static void meet_claims(struct chain *c, const struct ast_audit_entry *e, bool is_altered)
{
    for (unsigned i = 0; i < CLAIMS; i++)
        if (memcmp(c->claims[i].hash, c->hash, sizeof c->hash) == 0 ||
            (is_altered && ast_uuid_eq(&c->claims[i].id, &e->id)))
            c->is_met[i] = true;
}

/* ---- one row ---- */

/* False when the row is not what was signed. */
static bool check_signature(struct verify *v, const struct chain *c, uint64_t seq,
                            const struct ast_audit_entry *e, struct ast_audit_issue *issue)
{
    /* The end that the checkpoint names will not be met if this row is another than it was. */
    bool is_vouched =
        c->claims[CHECKPOINT].count && seq <= c->claims[CHECKPOINT].seq && !c->is_met[CHECKPOINT];

    v->report->vouched += is_vouched;
    if (!is_vouched && !ast_key_verify(e->key, ast_buf_view(&v->bytes), e->signature))
        issue->kind = AST_AUDIT_ISSUE_InvalidSignature;
    else if (!audit_key_is_trusted(v->a, e->key))
        issue->kind = AST_AUDIT_ISSUE_UntrustedKey;
    else if (!ast_audit_entry_is_sealed_right(e))
        issue->kind = AST_AUDIT_ISSUE_AlteredOutcome;
    else
        return true;
    note(v, issue);
    return issue->kind != AST_AUDIT_ISSUE_InvalidSignature;
}

static void check_link(struct verify *v, const struct chain *c, const struct ast_audit_entry *e,
                       struct ast_audit_issue *issue)
{
    if (memcmp(e->previous, c->hash, sizeof c->hash) == 0)
        return; /* of an empty chain: all zeros */
    issue->kind = !c->count ? AST_AUDIT_ISSUE_InvalidGenesis
                  : memcmp(e->previous, c->previous, sizeof c->previous) == 0
                      ? AST_AUDIT_ISSUE_Fork
                      : AST_AUDIT_ISSUE_BrokenLink;
    memcpy(issue->expected, c->hash, sizeof c->hash);
    memcpy(issue->actual, e->previous, sizeof e->previous);
    note(v, issue);
}

static bool check_row(struct verify *v, const struct ast_uuid *session,
                      const struct audit_stored *row)
{
    struct ast_audit_issue issue = { .session = *session, .seq = row->seq };
    struct ast_audit_entry e;

    if (audit_stored_read(row, &e, NULL)) {
        issue.kind = AST_AUDIT_ISSUE_Unreadable;
        note(v, &issue);
        v->report->entries++;
        return true;
    }
    if (v->scope->principal && !ast_principal_eq(v->scope->principal, &e.principal))
        return true;
    issue.id = e.id;
    issue.principal = e.principal;
    if (!ast_uuid_eq(&e.session, session)) {
        issue.kind = AST_AUDIT_ISSUE_Misplaced;
        note(v, &issue);
    }
    struct chain *c = chain_of(v, session, &e.principal);
    if (!c)
        return false;
    ast_buf_reset(&v->bytes);
    if (ast_audit_entry_signed(&e, &v->bytes, NULL))
        return out_of_memory(v);
    bool is_altered = !check_signature(v, c, row->seq, &e, &issue);
    check_link(v, c, &e, &issue);
    v->report->entries++;
    c->count++;
    c->last_seq = row->seq;
    c->last_id = e.id;
    memcpy(c->previous, e.previous, sizeof c->previous);
    ast_blake3(ast_buf_view(&v->bytes), c->hash);
    meet_claims(c, &e, is_altered);
    return true;
}

/* ---- the walk ---- */

/* Values of the log are copied out of a short snapshot, then their rows are checked. The last value of a session still grows:
 * where a chunk was cut, its last value is read again with the next one, or rows that came meanwhile would be passed over. */
struct chunk {
    struct ast_buf text;
    unsigned count;
    struct value {
        struct ast_uuid session;
        uint64_t first;
        size_t at, n;
    } values[CHUNK_VALUES];
    struct audit_key last, before_last;
    bool is_cut; /* there may be more */
    struct verify *v;
    const struct ast_uuid *session; /* of the value whose rows are checked */
};

static bool copy_value(void *arg, struct ast_str key, struct ast_str value)
{
    struct chunk *c = arg;
    struct value *r = &c->values[c->count];

    if (!ast_uuid_parse(ast_str_first(key, SESSION_LEN), &r->session) || key.n > AUDIT_KEY_MAX)
        return true; /* no row of ours */
    r->first = audit_key_seq(key);
    r->at = c->text.n;
    r->n = value.n;
    if (ast_buf_add(&c->text, value))
        return false;
    c->before_last = c->last;
    c->last.n = 0;
    audit_key_add(&c->last, key);
    c->is_cut = ++c->count == CHUNK_VALUES || c->text.n >= CHUNK_BYTES;
    return !c->is_cut;
}

static bool check_stored(void *arg, const struct audit_stored *row)
{
    struct chunk *c = arg;
    struct verify *v = c->v;

    if (v->scope->stop && atomic_load_explicit(v->scope->stop, memory_order_relaxed)) {
        v->rc = ast_fail(v->err, AST_E_CANCELLED, "audit verification was stopped");
        return false;
    }
    return check_row(v, c->session, row);
}

static enum ast_rc walk(struct verify *v, struct chunk *c, struct ast_err *err)
{
    struct audit_key prefix = { 0 };

    if (v->scope->session) {
        audit_key_chain(&prefix, v->scope->session, AST_STR_NONE);
        audit_key_add(&prefix, AST_STR("/"));
    }
    do {
        struct audit_key after = c->last;
        c->count = 0;
        c->is_cut = false;
        ast_buf_reset(&c->text);
        enum ast_rc rc = ast_store_scan(v->a->store, AUDIT_NS_LOG, audit_key_str(&prefix),
                                        audit_key_str(&after), copy_value, c, err);
        if (!rc)
            rc = ast_buf_check(&c->text, "audit verification", err);
        if (rc)
            return rc;
        if (c->is_cut && c->count > 1) {
            c->count--;
            c->last = c->before_last;
        }
        for (unsigned i = 0; i < c->count; i++) {
            struct value *r = &c->values[i];
            c->session = &r->session;
            if (!audit_value_each(ast_str_n(c->text.p + r->at, r->n), r->first,
                                  /* backwards= */ false, check_stored, c))
                return v->rc;
        }
    } while (c->is_cut);
    return AST_OK;
}

/* What was claimed and never met. */
static enum ast_rc check_end(struct verify *v, struct chain *c, struct ast_err *err)
{
    struct ast_audit_issue issue = { .session = c->session,
                                     .principal = c->principal,
                                     .kind = AST_AUDIT_ISSUE_Truncated };

    for (unsigned i = 0; i < CLAIMS; i++) {
        if (!c->claims[i].count || c->is_met[i])
            continue;
        issue.id = c->claims[i].id;
        issue.seq = c->claims[i].seq;
        memcpy(issue.expected, c->claims[i].hash, sizeof issue.expected);
        memcpy(issue.actual, c->hash, sizeof issue.actual);
        note(v, &issue);
        return AST_OK;
    }
    if (c->claims[HEAD].count)
        return AST_OK;
    struct ast_audit_head now; /* a chain that began during the walk has one by now */
    enum ast_rc rc = ast_audit_head(v->a, &c->session, ast_principal_str(&c->principal), &now, err);
    if (rc && rc != AST_E_CORRUPT)
        return rc;
    if (rc || !now.count) {
        issue.kind = AST_AUDIT_ISSUE_UnrecordedHead;
        issue.id = c->last_id;
        issue.seq = c->last_seq;
        note(v, &issue);
    }
    return AST_OK;
}

static int cmp_issues(const void *x, const void *y)
{
    const struct ast_audit_issue *a = x, *b = y;
    int d = memcmp(a->session.b, b->session.b, sizeof a->session.b);
    if (!d)
        d = ast_str_cmp(ast_principal_str(&a->principal), ast_principal_str(&b->principal));
    if (!d)
        d = (a->kind > b->kind) - (a->kind < b->kind);
    return d ? d : (a->seq > b->seq) - (a->seq < b->seq);
}

static enum ast_rc check_ends(struct verify *v, struct ast_err *err)
{
    struct ast_map sessions = { 0 };
    char text[AST_UUID_TEXT];
    struct ast_str key;
    enum ast_rc rc = AST_OK;
    size_t pos = 0;
    void *value;

    while (!rc && ast_map_next(&v->chains, &pos, &key, &value)) {
        struct chain *c = value;
        rc = check_end(v, c, err);
        v->report->chains++;
        if (!ast_map_set(&sessions, ast_uuid_format(&c->session, text), v, NULL))
            rc = ast_fail(err, AST_E_NO_MEMORY, "audit verification");
    }
    v->report->sessions = sessions.n;
    v->report->tampered_sessions = v->tampered.n;
    ast_map_done(&sessions);
    return rc;
}

static void verify_done(struct verify *v)
{
    struct ast_str key;
    size_t pos = 0;
    void *value;

    while (ast_map_next(&v->chains, &pos, &key, &value))
        free(value);
    ast_map_done(&v->chains);
    ast_map_done(&v->tampered);
    ast_buf_done(&v->bytes);
}

static enum ast_rc fill_ends(void *arg, struct ast_buf *out, struct ast_err *err)
{
    struct verify *v = arg;
    char text[AUDIT_HEAD_TEXT];
    struct ast_str key;
    size_t pos = 0;
    void *value;

    (void)err; /* the buffer's state is checked by the caller */
    while (ast_map_next(&v->chains, &pos, &key, &value)) {
        const struct chain *c = value;
        struct ast_audit_head end = { .seq = c->last_seq, .count = c->count, .id = c->last_id };
        memcpy(end.hash, c->hash, sizeof end.hash);
        if (c->count)
            (void)ast_buf_addf(out, AST_STR_FMT " " AST_STR_FMT "\n", AST_STR_ARG(key),
                               AST_STR_ARG(audit_head_write(&end, text)));
    }
    return AST_OK;
}

static void renew_checkpoint(struct verify *v)
{
    struct ast_err err = AST_ERR_INIT;
    if (audit_ends_write(v->a, v->scope->checkpoint, AUDIT_CHECKPOINT, fill_ends, v, &err))
        ast_log_warn("astrid.audit", "the audit checkpoint is not written: %s", err.msg);
}

static enum ast_rc verify_once(struct ast_audit *a, const struct ast_audit_scope *scope,
                               const char *checkpoint, struct ast_audit_report *report,
                               struct ast_err *err)
{
    struct verify v = { .a = a,
                        .scope = scope,
                        .report = report,
                        .checkpoint = checkpoint,
                        .bytes = AST_BUF_INIT(2 * AST_AUDIT_MAX_ENTRY),
                        .err = err };
    struct chunk *c = calloc(1, sizeof *c);

    if (!c)
        return ast_fail(err, AST_E_NO_MEMORY, "audit verification");
    c->v = &v;
    c->text.max = CHUNK_BYTES + AST_STORE_MAX_VALUE;
    enum ast_rc rc = load_claims(&v);
    if (!rc)
        rc = walk(&v, c, err);
    if (!rc)
        rc = check_ends(&v, err);
    if (!rc && scope->checkpoint && !scope->session && !scope->principal &&
        ast_audit_report_is_valid(report))
        renew_checkpoint(&v);
    ast_buf_done(&c->text);
    free(c);
    verify_done(&v);
    return rc;
}

enum ast_rc ast_audit_verify(struct ast_audit *a, const struct ast_audit_scope *scope,
                             struct ast_audit_report *ret, struct ast_err *err)
{
    struct ast_audit_report report = { 0 };

    enum ast_rc rc = verify_once(a, scope, scope->checkpoint, &report, err);
    if (!rc && scope->checkpoint && !ast_audit_report_is_valid(&report)) {
        ast_audit_report_done(&report); /* what exactly is wrong, only the signatures tell */
        report = (struct ast_audit_report){ 0 };
        rc = verify_once(a, scope, /* checkpoint= */ NULL, &report, err);
    }
    if (rc) {
        ast_audit_report_done(&report);
        return rc;
    }
    if (report.issues.n)
        qsort(report.issues.v, report.issues.n, sizeof *report.issues.v, cmp_issues);
    *ret = report;
    return AST_OK;
}
