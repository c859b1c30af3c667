/* The audit rows of requests (spec 02 §11, §20): one call records what really happened and publishes the live event.
 *
 * For whoever answers requests:
 *   - a request that changes something first calls kernel_audit_intend(), on a thread that may block, and is refused with
 *     that error's text when it fails;
 *   - after the handler, with its real outcome, the request calls kernel_audit() (any thread) or kernel_audit_wait() (a thread
 *     that may block), and answers the caller only then; when that fails, the answer is that error's text;
 *   - a denied request calls kernel_audit() too, with its denial; it has no intent.
 * Unparsable and rate-limited requests make no row. With `[audit] fail_closed = false`, and for requests that change nothing,
 * a failed write is logged and told as success.
 */
#pragma once

#include "kernel/kernel_priv.h"

#define KERNEL_AUDIT_ANCHORS    "var/audit-heads"
#define KERNEL_AUDIT_CHECKPOINT "var/audit-checkpoint"

/* Set when long walks shall end; NULL before the background work began. */
const atomic_bool *kernel_audit_stopping(struct ast_kernel *k);

enum kernel_audit_right {
    KERNEL_AUDIT_ALLOWED, /* "policy allow: <caller> holds <capability>" */
    KERNEL_AUDIT_DENIED,  /* `error` is the denial; the outcome is a failure with the same text */
    KERNEL_AUDIT_OWN, /* one's own things: being the caller is the right, no capability is looked at */
    KERNEL_AUDIT_REDEEM, /* the token is the right; a failure counts as denied with the error's text */
};

/* All views are borrowed for the call they are given to. */
struct kernel_audit_row {
    struct ast_str caller;
    struct ast_str method;     /* "GetStatus", "admin.agent.create" */
    struct ast_str capability; /* the one that was required */
    struct ast_str target;     /* empty: none */
    struct ast_str params;     /* JSON {"method":..,"params":..}, already redacted; empty: none */
    enum kernel_audit_right right;
    struct ast_str error;          /* p == NULL: success; else the failure's text */
    const struct ast_uuid *intent; /* NULL: none */
    bool changes;                  /* a failed write fails the request */
};

/* Called once, when the row is durable and the event published, on the answering thread (or inside kernel_audit() when memory
 * is short). Not OK: answer the request with `err->msg` instead of its result. */
typedef void kernel_audit_done_fn(void *arg, enum ast_rc rc, const struct ast_err *err);
void kernel_audit(struct ast_kernel *k, const struct kernel_audit_row *row,
                  kernel_audit_done_fn *done, void *arg);
/* The same and waits; never on a loop thread, a fiber, the store's writer or the answering thread. */
enum ast_rc kernel_audit_wait(struct ast_kernel *k, const struct kernel_audit_row *row,
                              struct ast_err *err);
/* Stores the marker of a change that is about to begin; row->error is not used. Blocks as above.
 * *ret_intent is for row->intent; *ret_has_intent false: fail_closed is off and there is none. */
enum ast_rc kernel_audit_intend(struct ast_kernel *k, const struct kernel_audit_row *row,
                                struct ast_uuid *ret_intent, bool *ret_has_intent,
                                struct ast_err *err);

/* The same for many, durable together. */
struct kernel_audit_intent {
    struct kernel_audit_row row; /* in; its views are borrowed for the call */
    struct ast_uuid id;          /* out */
    bool has_id;
    enum ast_rc rc;
    struct ast_err err;
};
void kernel_audit_intend_many(struct ast_kernel *k, struct kernel_audit_intent *v, size_t n);

/* Pages and verification for a caller (audit_read.c): write the answer's "data" value. On failure `w` holds half of one.
 * Query params: since, until, method, principal, limit, cursor, oldest_first, tail, entries (whole signed rows). */
enum ast_rc kernel_audit_query(struct ast_kernel *k, struct ast_str caller,
                               const struct ast_json *params, struct ast_jw *w,
                               struct ast_err *err);
enum ast_rc kernel_audit_verify(struct ast_kernel *k, struct ast_jw *w, struct ast_err *err);

/* The row of spec 03 §23.3 from a parsed entry. */
void kernel_audit_row_write(struct ast_jw *w, const struct ast_json *root,
                            const struct ast_audit_entry *e);
