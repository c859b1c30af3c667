/* Capability tokens: signed grants of one resource to one principal (spec 09 §7, 02 §25). They authorise nothing that the
 * static capabilities of this room do, and the other way round.
 *
 * Threads: pure functions; any.
 */
#pragma once

#include "base/buf.h"
#include "base/id.h"
#include "base/uuid.h"
#include "crypto/hash.h"
#include "crypto/keys.h"

#define AST_TOKEN_MAX_RESOURCE    4096u
#define AST_TOKEN_MAX_PERMISSIONS 16u
#define AST_TOKEN_MAX_TEXT        16384u /* of its JSON */
#define AST_TOKEN_SKEW_SECS       30 /* spec 09 §7.4: adding, reading a persistent one, consuming */
#define AST_TOKEN_ALWAYS_SECS     3600 /* spec 09 §7.7 */
#define AST_TOKEN_USER_BYTES      8u

#define AST_TOKEN_PERMISSION_MAP(X)                                                                \
    X(read)                                                                                        \
    X(write)                                                                                       \
    X(execute)                                                                                     \
    X(delete)                                                                                      \
    X(invoke)                                                                                      \
    X(list)                                                                                        \
    X(create)
enum ast_token_permission {
#define X(name) AST_TOKEN_PERMISSION_##name,
    AST_TOKEN_PERMISSION_MAP(X)
#undef X
        AST_TOKEN_PERMISSION_COUNT
};

struct ast_token {
    struct ast_uuid id;
    struct ast_buf resource; /* owned */
    uint8_t
        permissions[AST_TOKEN_MAX_PERMISSIONS]; /* enum ast_token_permission, in the signed order */
    unsigned permission_count;
    int64_t issued_ns, expires_ns; /* wall clock */
    bool has_expiry, is_persistent, is_single_use;
    uint8_t issuer[AST_KEY_PUBLIC_BYTES];
    uint8_t user[AST_TOKEN_USER_BYTES]; /* the runtime key's id */
    struct ast_uuid approval;           /* the audit row of the decision */
    struct ast_principal principal;
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];
};

void ast_token_done(struct ast_token *t);
AST_DEFINE_AUTO_VALUE(struct ast_token, ast_token_done)

/* Reads a token's JSON; `single_use` may be absent, nothing else that is not null. Nothing is verified.
 * Errors: INVALID "serialization error: <member>"; TOO_LARGE; NO_MEMORY. */
AST_MUST_CHECK
enum ast_rc ast_token_parse(struct ast_str text, struct ast_token *ret, struct ast_err *err);
enum ast_rc ast_token_write(const struct ast_token *t, struct ast_buf *out, struct ast_err *err);

/* The bytes of version 2 (spec 09 §7.2), and their hash. */
enum ast_rc ast_token_signed(const struct ast_token *t, struct ast_buf *out, struct ast_err *err);
AST_MUST_CHECK
enum ast_rc ast_token_hash(const struct ast_token *t, uint8_t ret[static AST_BLAKE3_BYTES],
                           struct ast_err *err);

/* A resource or pattern may have no ".." segment; a pattern with '*', '?' or '[' must be a good glob.
 * Errors: INVALID "invalid resource pattern: <p> - <reason>". */
AST_MUST_CHECK
enum ast_rc ast_token_check_pattern(struct ast_str pattern, struct ast_err *err);
/* The pattern that means exactly this text. Errors: INVALID it cannot be written (a brace or backslash beside a metacharacter
 * is escaped, ".." is refused). Appends to `out`. */
enum ast_rc ast_token_exact(struct ast_str resource, struct ast_buf *out, struct ast_err *err);

/* A token that lasts and can be used often, over `pattern` with one permission, as "always allow" leaves it (spec 09 §7.7):
 * whole seconds, signed. seconds: AST_TOKEN_ALWAYS_SECS, or what the settings say. */
AST_MUST_CHECK
enum ast_rc ast_token_issue_always(const struct ast_key *key, const struct ast_principal *principal,
                                   struct ast_str pattern, enum ast_token_permission permission,
                                   const struct ast_uuid *approval, int64_t now_secs,
                                   int64_t seconds, struct ast_token *ret, struct ast_err *err);
/* Sets issuer and signature. */
AST_MUST_CHECK
enum ast_rc ast_token_sign(struct ast_token *t, const struct ast_key *key, struct ast_err *err);

/* Expiry (now > expiry + skew), then signature, then issuer (NULL: any). Errors: DENIED with the texts of spec 02 §25.5. */
AST_MUST_CHECK
enum ast_rc ast_token_validate(const struct ast_token *t, const uint8_t *issuer, int64_t now_ns,
                               int64_t skew_secs, struct ast_err *err);
/* The pattern matches and the permission is listed. */
bool ast_token_grants(const struct ast_token *t, struct ast_str resource,
                      enum ast_token_permission permission);
const char *ast_token_permission_word(enum ast_token_permission p);
