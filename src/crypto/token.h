/* Texts that prove who asks: the gateway's bearer and the socket's session token.
 *
 * Bearer v2, spec 03 §7: P "." I "." E "." S. Session token, spec 01 §3.3: 64 hex digits.
 */
#pragma once

#include "base/buf.h"
#include "base/id.h"
#include "crypto/keys.h"

struct ast_bearer {
    struct ast_principal principal;
    uint64_t issued_at;  /* seconds since 1970 */
    uint64_t expires_at; /* saturating issued_at + lifetime */
};

#define AST_BEARER_MAX 320 /* no valid bearer is longer */

enum ast_rc ast_bearer_mint(const struct ast_key *key, struct ast_str principal, uint64_t now_secs,
                            uint64_t lifetime_secs, struct ast_buf *out, struct ast_err *err);

/* Steps 1 to 6 of spec 03 §7.3; revocation is the caller's. One failure code (DENIED) for all: no
 * oracle. Work is bounded by the token's length, which is refused above AST_BEARER_MAX. */
AST_MUST_CHECK
enum ast_rc ast_bearer_verify(const uint8_t public_key[static AST_KEY_PUBLIC_BYTES],
                              struct ast_str token, uint64_t now_secs, struct ast_bearer *ret,
                              struct ast_err *err);

#define AST_SESSION_TOKEN_BYTES 32
struct ast_session_token {
    uint8_t b[AST_SESSION_TOKEN_BYTES];
};

/* A fresh token written atomically to `path` (0600, 64 lower-case hex digits, no newline). */
AST_MUST_CHECK
enum ast_rc ast_session_token_create(const char *path, struct ast_session_token *ret,
                                     struct ast_err *err);
/* Texts of spec 01 §3.3. */
AST_MUST_CHECK
enum ast_rc ast_session_token_load(const char *path, struct ast_session_token *ret,
                                   struct ast_err *err);
AST_MUST_CHECK
enum ast_rc ast_session_token_parse(struct ast_str hex, struct ast_session_token *ret,
                                    struct ast_err *err);
bool ast_session_token_equal(const struct ast_session_token *a, const struct ast_session_token *b);
