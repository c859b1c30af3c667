/* The audit log: signed chains of rows in the kernel's store (spec 09 §12 to §14).
 *
 * A chain is (session, principal or none). Every row names the hash of the row before it in its chain, and is signed with the
 * runtime key. A row gets its place under one short lock (time, sequence number, hash of the predecessor); it is signed
 * outside of it, on the appending thread, so appenders sign in parallel even on one chain, because a row's hash does not cover
 * its signature. Signed rows go to the store's writer in the order of their places, as many as are there, as one change: rows,
 * indexes and heads become durable together or not at all.
 *
 *     place (lock) -> sign (any thread) -> batch -> one transaction -> done
 *
 * When a batch cannot be stored, every row that has a place behind it fails too (they link to what does not exist), and the
 * chains go on from their last durable rows. So a chain never forks and has no hole.
 *
 * Where things lie: `audit:log` "<session>/<sequence>" a block of rows from that number on (block.c); `audit:index` "<list>
 * <sequence>" the numbers of a list's rows: by principal, by method and by both; `audit:heads` "<session>[:<principal>]" the
 * end of each chain; `audit:sessions` rows of each session; `audit:eras` where the clock went back; `audit:intents` what began
 * and has no row yet; `audit:keys` which keys are trusted.
 *
 * Threads: any, for everything here.
 */
#pragma once

#include <stdatomic.h>

#include "audit/entry.h"
#include "base/vec.h"
#include "store/store.h"

struct ast_audit;

struct ast_audit_config {
    struct ast_store *store;   /* borrowed for the log's life */
    const struct ast_key *key; /* the runtime key, borrowed for the log's life */
    struct ast_uuid session;   /* of the rows to append */
};

/* Errors: IO, CORRUPT, NO_MEMORY "cannot open audit log: ...". Blocks on disk. */
AST_MUST_CHECK
enum ast_rc ast_audit_open(const struct ast_audit_config *cfg, struct ast_audit **ret,
                           struct ast_err *err);
/* Waits until all rows were stored or refused. Nobody may append any more. */
void ast_audit_close(struct ast_audit *a);
AST_DEFINE_AUTO(struct ast_audit, ast_audit_close)

/* ---- appending ---- */

/* Tells the fate of one row, once: OK, it is durable; else why it is not. On the store's writer thread, or on the appending
 * thread when the row was refused at once. Must be quick and must not block; `err` is borrowed for the call. */
typedef void ast_audit_done_fn(void *arg, enum ast_rc rc, const struct ast_err *err);

/* Signs and queues a row. `draft` is copied; `intent` (may be NULL) is the marker that goes with it (ast_audit_intend()) and
 * is removed in the same transaction.
 * Errors, told to `done`: INVALID a value of the draft; TOO_LARGE over AST_AUDIT_MAX_ENTRY; NO_CAPACITY the disk is full;
 * BUSY too many rows wait for the disk already; CONFLICT a row in front was not stored; CLOSED, IO, NO_MEMORY. */
void ast_audit_append(struct ast_audit *a, const struct ast_audit_draft *draft,
                      const struct ast_uuid *intent, ast_audit_done_fn *done, void *arg);
/* Blocks the calling thread while so many rows wait that ast_audit_append() may soon be BUSY. Threads as below. */
void ast_audit_flow(struct ast_audit *a);
/* The same, and blocks the calling thread until it is known. Never on a loop thread, a fiber or the store's writer. */
AST_MUST_CHECK
enum ast_rc ast_audit_append_wait(struct ast_audit *a, const struct ast_audit_draft *draft,
                                  const struct ast_uuid *intent, struct ast_err *err);

/* An intent marker (spec 02 §11): says durably, outside the chains, that a change is about to begin. Blocks until it is
 * durable. The row's outcome in `draft` is not used. */
AST_MUST_CHECK
enum ast_rc ast_audit_intend(struct ast_audit *a, const struct ast_audit_draft *draft,
                             struct ast_uuid *ret_intent, struct ast_err *err);
/* The same for many changes, durable together: each has its own fate. */
struct ast_audit_marker {
    const struct ast_audit_draft *draft; /* in; borrowed for the call */
    struct ast_uuid id;                  /* out, when rc is OK */
    enum ast_rc rc;
    struct ast_err err;
};
void ast_audit_intend_many(struct ast_audit *a, struct ast_audit_marker *markers, size_t n);
/* Makes a row with the failure "interrupted" of every marker that an earlier life left. At boot, before the first append. */
AST_MUST_CHECK
enum ast_rc ast_audit_settle(struct ast_audit *a, uint64_t *ret_count, struct ast_err *err);

/* ---- reading ---- */

struct ast_audit_head {
    uint64_t seq;   /* of the last row; 0: the chain is empty */
    uint64_t count; /* rows of the chain */
    uint8_t hash[AST_BLAKE3_BYTES];
    struct ast_uuid id;
};
/* The durable end of a chain; an empty principal means the system chain. */
AST_MUST_CHECK
enum ast_rc ast_audit_head(struct ast_audit *a, const struct ast_uuid *session,
                           struct ast_str principal, struct ast_audit_head *ret,
                           struct ast_err *err);
/* Rows of a session, without reading them. */
AST_MUST_CHECK
enum ast_rc ast_audit_count(struct ast_audit *a, const struct ast_uuid *session, uint64_t *ret,
                            struct ast_err *err);
/* Ascending by text. */
AST_MUST_CHECK
enum ast_rc ast_audit_sessions(struct ast_audit *a,
                               bool (*each)(void *arg, const struct ast_uuid *session), void *arg,
                               struct ast_err *err);
/* Appends the row's text to `out`. */
AST_MUST_CHECK
enum ast_rc ast_audit_get(struct ast_audit *a, const struct ast_uuid *id, struct ast_buf *out,
                          bool *ret_found, struct ast_err *err);

#define AST_AUDIT_MAX_PAGE   1000u
#define AST_AUDIT_MAX_CURSOR 96u /* characters of a cursor's text and NUL */

/* Which rows. The method of a row that is no admin_request is the type of its action. */
struct ast_audit_filter {
    struct ast_uuid session;
    struct ast_str principal; /* with has_principal: exactly this one; empty: the system chain */
    struct ast_str method;    /* empty: any */
    uint64_t since, until;    /* seconds since 1970, inclusive; 0: open */
    bool has_principal;
    bool oldest_first; /* else newest first: the reverse order of appending */
};

struct ast_audit_page {
    unsigned count;                  /* rows given */
    char next[AST_AUDIT_MAX_CURSOR]; /* where to go on; empty: the page was not full */
    char newest
        [AST_AUDIT_MAX_CURSOR]; /* of the newest row given: from there, oldest_first gives what came later */
};

/* One page. Costs what it returns: an index gives the rows, and time bounds are found by bisection.
 *
 * cursor  empty, or the `next` of a page of the same filter: opaque text, checked with a MAC.
 * limit   1 to AST_AUDIT_MAX_PAGE.
 * each    gets the sequence number and the row's text, borrowed for the call; false ends the page with it.
 * tail    with oldest_first: `next` is set even when the page is not full, so that a reader can wait for more.
 *
 * Errors: INVALID limit, cursor, or a cursor of another filter; IO, CORRUPT. */
struct ast_audit_query {
    struct ast_audit_filter filter;
    struct ast_str cursor;
    unsigned limit;
    bool tail;
    bool (*each)(void *arg, uint64_t seq, struct ast_str text);
    void *arg;
};
AST_MUST_CHECK
enum ast_rc ast_audit_query(struct ast_audit *a, const struct ast_audit_query *q,
                            struct ast_audit_page *ret, struct ast_err *err);

/* A cursor in parts; for the query and its tests. The MAC binds it to the filter and to this home's key. */
void ast_audit_cursor_write(struct ast_audit *a, const struct ast_audit_filter *f, uint64_t seq,
                            char out[static AST_AUDIT_MAX_CURSOR]);
AST_MUST_CHECK
enum ast_rc ast_audit_cursor_read(struct ast_audit *a, const struct ast_audit_filter *f,
                                  struct ast_str text, uint64_t *ret_seq, struct ast_err *err);

/* ---- verifying ---- */

/* What can be wrong: name and text in front of the short id. The first three are those of spec 09 §14.3. */
#define AST_AUDIT_ISSUE_MAP(X)                                                                     \
    X(InvalidGenesis, "Invalid genesis at ")                                                       \
    X(InvalidSignature, "Invalid signature at ")                                                   \
    X(BrokenLink, "Broken chain link at ")                                                         \
    X(Fork, "Forked chain at ")              /* same predecessor as the row before it */           \
    X(UntrustedKey, "Untrusted key at ")     /* signed, but by a key we never had */               \
    X(AlteredOutcome, "Altered outcome at ") /* outcome or time are not what was sealed */         \
    X(Misplaced, "Misplaced entry at ")      /* in the list of another session */                  \
    X(Unreadable, "Unreadable entry at ")    /* `seq` says where */                                \
    X(Truncated, "Truncated chain at ")      /* the row named by a head record is gone */          \
    X(UnrecordedHead, "Chain without a head record at ") /* its end cannot be proven */

enum ast_audit_issue_kind {
#define X(name, text) AST_AUDIT_ISSUE_##name,
    AST_AUDIT_ISSUE_MAP(X)
#undef X
        AST_AUDIT_ISSUE_COUNT
};

struct ast_audit_issue {
    enum ast_audit_issue_kind kind;
    struct ast_uuid session, id; /* id: nil when it could not be read */
    struct ast_principal principal;
    uint64_t seq;
    uint8_t expected[AST_BLAKE3_BYTES], actual[AST_BLAKE3_BYTES]; /* BrokenLink, Fork, Truncated */
};

#define AST_AUDIT_MAX_ISSUES 1000u

struct ast_audit_report {
    uint64_t entries, chains, sessions, tampered_sessions;
    uint64_t vouched; /* of the entries: those a checkpoint stands for */
    AST_VEC(struct ast_audit_issue)
    issues;               /* by session, chain (system first, then by name), kind, sequence */
    uint64_t issues_lost; /* beyond AST_AUDIT_MAX_ISSUES */
};
static inline bool ast_audit_report_is_valid(const struct ast_audit_report *r)
{
    return r->issues.n == 0 && r->issues_lost == 0;
}
void ast_audit_report_done(struct ast_audit_report *r);
AST_DEFINE_AUTO_VALUE(struct ast_audit_report, ast_audit_report_done)

/* "InvalidGenesis"; static. */
const char *ast_audit_issue_name(enum ast_audit_issue_kind kind);
#define AST_AUDIT_ISSUE_TEXT 96
/* "Invalid genesis at audit:<8 hex>" and NUL. */
const char *ast_audit_issue_text(const struct ast_audit_issue *issue,
                                 char out[static AST_AUDIT_ISSUE_TEXT]);

struct ast_audit_scope {
    const struct ast_uuid *session;        /* NULL: all */
    const struct ast_principal *principal; /* NULL: all chains; n == 0: the system chain */
    const char *anchors; /* file of ast_audit_anchor(); NULL or absent: not compared */
    /* NULL: every signature is checked. Else a file of ours: rows up to the ends it names are only checked to be those that an
     * earlier walk had checked (their hashes and links lead to those ends); any issue makes the walk begin anew without it. A
     * walk over all that finds none renews it. Absent or damaged: as NULL, and made. */
    const char *checkpoint;
    const atomic_bool *stop; /* set by another thread to give up (CANCELLED); NULL: never */
};
/* Walks the rows in the order they were appended and checks every signature, link, seal and end. Issues do not stop the walk.
 * Rows appended meanwhile are checked too or left out. Works on short snapshots: it never holds back the writer.
 * Errors: CANCELLED; IO, NO_MEMORY the walk itself failed; CORRUPT the anchor file cannot be trusted. */
AST_MUST_CHECK
enum ast_rc ast_audit_verify(struct ast_audit *a, const struct ast_audit_scope *scope,
                             struct ast_audit_report *ret, struct ast_err *err);

/* Writes the end of every chain, signed, to a file outside of the store (0600, replaced atomically), so that rows cut off the
 * end and whole chains that vanish are noticed. Does nothing when no row came since the last time. Blocks on disk. */
AST_MUST_CHECK
enum ast_rc ast_audit_anchor(struct ast_audit *a, const char *path, struct ast_err *err);

/* Trusts one more public key: rows that an earlier runtime key signed then verify without UntrustedKey. Blocks. */
AST_MUST_CHECK
enum ast_rc ast_audit_trust(struct ast_audit *a, const uint8_t key[static AST_KEY_PUBLIC_BYTES],
                            struct ast_err *err);
