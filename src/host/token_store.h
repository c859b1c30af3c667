/* Where capability tokens are kept (spec 09 §7.5): session tokens in memory, persistent ones in the kernel's store.
 *
 * Every change is one transaction, and what decides (revoked? used?) is read in the same one. So of two users of a single-use
 * token one wins, also when they meet across a restart. Only tokens of the current runtime key authorise.
 *
 * Threads: any. What changes or asks the store blocks; never on a loop thread or a fiber.
 */
#pragma once

#include "policy/token.h"
#include "store/store.h"

struct ast_tokens;

/* Both borrowed for its life. */
AST_MUST_CHECK
enum ast_rc ast_tokens_new(struct ast_store *store,
                           const uint8_t issuer[static AST_KEY_PUBLIC_BYTES],
                           struct ast_tokens **ret, struct ast_err *err);
void ast_tokens_free(struct ast_tokens *t);
AST_DEFINE_AUTO(struct ast_tokens, ast_tokens_free)

/* Checks expiry (with skew), signature and pattern, not the issuer. Errors: DENIED expired, revoked or badly signed; INVALID
 * pattern; NO_CAPACITY too many session tokens; those of the store. */
AST_MUST_CHECK
enum ast_rc ast_tokens_add(struct ast_tokens *t, const struct ast_token *token, int64_t now_ns,
                           struct ast_err *err);
/* A copy, whoever's it is; persistent ones are verified, with skew. Errors: NOT_FOUND; DENIED revoked, expired, badly signed. */
AST_MUST_CHECK
enum ast_rc ast_tokens_get(struct ast_tokens *t, const struct ast_uuid *id, int64_t now_ns,
                           struct ast_token *ret, struct ast_err *err);
/* The first token of the principal that grants it and could be used now: session tokens first, then by id. Errors: NOT_FOUND. */
AST_MUST_CHECK
enum ast_rc ast_tokens_find(struct ast_tokens *t, const struct ast_principal *principal,
                            struct ast_str resource, enum ast_token_permission permission,
                            int64_t now_ns, struct ast_token *ret, struct ast_err *err);
/* Validates for that principal and marks a single-use token as used. Errors: as get; CONFLICT it was used already; DENIED
 * "invalid token signature" also for a strange issuer and for another principal's token. */
AST_MUST_CHECK
enum ast_rc ast_tokens_use(struct ast_tokens *t, const struct ast_principal *principal,
                           const struct ast_uuid *id, int64_t now_ns, struct ast_err *err);
/* For ever, for everybody; idempotent, also for ids nobody knows. */
AST_MUST_CHECK
enum ast_rc ast_tokens_revoke(struct ast_tokens *t, const struct ast_uuid *id, struct ast_err *err);
/* Forgets session tokens; NULL: of all. */
void ast_tokens_clear_session(struct ast_tokens *t, const struct ast_principal *principal);
/* Deletes persistent tokens that ended longer ago than the skew, and markers of tokens that ended. */
AST_MUST_CHECK
enum ast_rc ast_tokens_cleanup(struct ast_tokens *t, int64_t now_ns, uint64_t *ret_removed,
                               struct ast_err *err);
