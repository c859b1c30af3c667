/* One-time tokens: invites (spec 02 §18) and device pairing (§19).
 *
 * A token is 24 bytes of the system's CSPRNG as base64url, 32 characters; only the SHA-256 of its
 * text is kept. Every change is an op of the store's writer: durable before `done`, one after the
 * other, so that a token with N uses is spent at most N times whatever happens. A use is spent
 * before its effect and given back when the effect fails: it can be lost, never spent twice.
 *
 * Store: "<kind>" holds rows in issue order (16 hex digits -> JSON), "<kind>:hash" finds a row by
 * its hash, "<kind>:expiry" by the time it dies.
 * Threads: any, as in store/store.h.
 */
#pragma once

#include "base/home.h"
#include "store/store.h"

enum kernel_ticket_kind { KERNEL_TICKET_INVITE, KERNEL_TICKET_PAIRING, KERNEL_TICKET_KINDS };

#define KERNEL_TICKET_TEXT        32u /* characters of a token */
#define KERNEL_TICKET_HASH        64u /* of its hash, lower-case hex */
#define KERNEL_TICKET_SUBJECT_MAX 128u
#define KERNEL_TICKET_NOTE_MAX    256u

struct kernel_ticket {
    char hash[KERNEL_TICKET_HASH + 1];
    char subject[KERNEL_TICKET_SUBJECT_MAX + 1]; /* invite: group; pairing: principal */
    char note[KERNEL_TICKET_NOTE_MAX + 1];       /* invite: metadata; pairing: label */
    bool has_note;
    uint32_t uses;       /* left */
    uint64_t issued_at;  /* seconds since 1970 */
    uint64_t expires_at; /* seconds since 1970; 0: never. Alive while strictly greater than now */
};

/* A change. op.done is the caller's; the functions below fill the rest. */
struct kernel_ticket_op {
    struct ast_store_op op;
    enum kernel_ticket_kind kind;
    uint64_t now;                /* seconds since 1970 */
    struct kernel_ticket ticket; /* issue: in. spend: out. give back: as spend left it */
    char given[KERNEL_TICKET_HASH + 1];
    uint64_t ret_count; /* revoke, drop, prune: rows removed */
};

/* Makes the token into `ret_token` (NUL-terminated; the only time it exists) and the op that stores
 * it. expires_at 0: never. A few dead rows are removed on the way.
 * Errors: INVALID subject or note empty or too long, uses 0. */
AST_MUST_CHECK
enum ast_rc kernel_ticket_issue(struct kernel_ticket_op *op, enum kernel_ticket_kind kind,
                                struct ast_str subject, const struct ast_str *note, uint32_t uses,
                                uint64_t expires_at, uint64_t now,
                                char ret_token[static KERNEL_TICKET_TEXT + 1], struct ast_err *err);

/* Spends one use. done() gets DENIED, one text for all cases, when there is nothing to spend. */
void kernel_ticket_spend(struct kernel_ticket_op *op, enum kernel_ticket_kind kind,
                         struct ast_str token, uint64_t now);

/* Whether that spend would find something now: DENIED with its text when not. Reads only. */
AST_MUST_CHECK
enum ast_rc kernel_ticket_look(struct ast_store *s, const struct kernel_ticket_op *spend,
                               struct ast_err *err);

/* Returns the use that this op has spent; the row keeps its place in the order. */
void kernel_ticket_give_back(struct kernel_ticket_op *op);

/* Removes the row of a token or of a hash, dead ones too. ret_count 0: none matched. */
void kernel_ticket_revoke(struct kernel_ticket_op *op, enum kernel_ticket_kind kind,
                          struct ast_str token_or_hash);

/* Removes every row of a subject: the principal is deleted. Costs a pass over the kind. */
AST_MUST_CHECK
enum ast_rc kernel_ticket_drop(struct kernel_ticket_op *op, enum kernel_ticket_kind kind,
                               struct ast_str subject, struct ast_err *err);

/* Removes what is dead at `now`, at most 4096 rows. */
void kernel_ticket_prune(struct kernel_ticket_op *op, enum kernel_ticket_kind kind, uint64_t now);

/* Live rows in issue order, each read in a snapshot; `each` false stops. `after`: the hash of a row to go on behind; empty:
 * from the start. Errors: NOT_FOUND there is no such row any more; CORRUPT. */
AST_MUST_CHECK
enum ast_rc kernel_tickets_each(struct ast_store *s, enum kernel_ticket_kind kind, uint64_t now,
                                struct ast_str after,
                                bool (*each)(void *arg, const struct kernel_ticket *t), void *arg,
                                struct ast_err *err);

/* Takes over the original's file of that kind (etc/invites.toml, etc/pair-tokens.toml) once: rows become ours, then the file gets the ending ".imported", so that a spent token cannot come back with it. Blocks;
 * before clients are served. Errors: INVALID "invite store parse: ...", IO, and those of the store. */
AST_MUST_CHECK
enum ast_rc kernel_tickets_import(struct ast_store *s, const struct ast_home *home,
                                  enum kernel_ticket_kind kind, struct ast_err *err);
