/* Bearers and session tokens: text on the wire and in one file.
 *
 * Invariant: whatever is wrong with a bearer, the answer is the same and the work is bounded by its length.
 */
#include "crypto/token.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/fs.h"

#include "base/banned.h"

/* principal, two u64 in decimal, two colons */
#define SIGNED_MAX    (AST_PRINCIPAL_MAX + 1 + 20 + 1 + 20)
#define SIGNATURE_HEX (2 * AST_KEY_SIGNATURE_BYTES)

/* --- Bearer v2 (spec 03 §7) ---------------------------------------------------------------- */

/* The signed text; a view of `out`. */
static struct ast_str signed_text(struct ast_str principal, uint64_t iat, uint64_t exp,
                                  char out[static SIGNED_MAX + 1])
{
    int n = snprintf(out, SIGNED_MAX + 1, AST_STR_FMT ":%" PRIu64 ":%" PRIu64,
                     AST_STR_ARG(principal), iat, exp);
    AST_ASSERT(n > 0 && n <= SIGNED_MAX);
    return ast_str_n(out, (size_t)n);
}

static enum ast_rc add_number(struct ast_buf *out, uint64_t v)
{
    char text[21];
    int n = snprintf(text, sizeof text, "%" PRIu64, v);
    return ast_base64url_encode(ast_str_n(text, (size_t)n), out);
}

enum ast_rc ast_bearer_mint(const struct ast_key *key, struct ast_str principal, uint64_t now_secs,
                            uint64_t lifetime_secs, struct ast_buf *out, struct ast_err *err)
{
    if (!ast_principal_valid(principal))
        return ast_fail(err, AST_E_INVALID, "bearer: invalid principal id");
    uint64_t exp;
    if (__builtin_add_overflow(now_secs, lifetime_secs, &exp))
        exp = UINT64_MAX;

    char text[SIGNED_MAX + 1], hex[SIGNATURE_HEX + 1];
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];
    ast_key_sign(key, signed_text(principal, now_secs, exp, text), signature);
    ast_hex_encode(signature, sizeof signature, hex);

    AST_AUTO(ast_buf_done) struct ast_buf token = AST_BUF_INIT(AST_BEARER_MAX);
    (void)ast_base64url_encode(principal, &token); /* failures stick in the buffer */
    (void)ast_buf_add_byte(&token, '.');
    (void)add_number(&token, now_secs);
    (void)ast_buf_add_byte(&token, '.');
    (void)add_number(&token, exp);
    (void)ast_buf_add_byte(&token, '.');
    (void)ast_buf_add(&token, ast_str_n(hex, SIGNATURE_HEX));
    enum ast_rc rc = ast_buf_check(&token, "bearer", err);
    if (rc)
        return rc;
    (void)ast_buf_add(out, ast_buf_view(&token));
    return ast_buf_check(out, "bearer", err);
}

/* Exactly four pieces. */
static bool split_bearer(struct ast_str token, struct ast_str ret[static 4])
{
    struct ast_str rest = token;
    bool more = true;
    for (int i = 0; i < 4; i++)
        if (!ast_str_split(&rest, &more, '.', &ret[i]))
            return false;
    return !more;
}

/* Canonical decimal only: what signs the same text twice would be two tokens for one right. */
static bool decode_number(struct ast_str piece, struct ast_buf *scratch, uint64_t *ret)
{
    ast_buf_reset(scratch);
    return !ast_base64url_decode(piece, scratch, NULL) &&
           ast_str_to_u64(ast_buf_view(scratch), ret);
}

static bool verify(const uint8_t *public_key, struct ast_str token, uint64_t now_secs,
                   struct ast_buf *scratch, struct ast_bearer *ret)
{
    struct ast_str piece[4];
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];
    struct ast_bearer b = { 0 };
    char text[SIGNED_MAX + 1];

    if (token.n > AST_BEARER_MAX || !split_bearer(token, piece))
        return false;
    if (!decode_number(piece[1], scratch, &b.issued_at) ||
        !decode_number(piece[2], scratch, &b.expires_at) ||
        !ast_hex_decode(piece[3], signature, sizeof signature))
        return false;
    ast_buf_reset(scratch);
    if (ast_base64url_decode(piece[0], scratch, NULL) ||
        ast_principal_parse(ast_buf_view(scratch), &b.principal, NULL))
        return false;
    struct ast_str signed_by =
        signed_text(ast_principal_str(&b.principal), b.issued_at, b.expires_at, text);
    if (!ast_key_verify(public_key, signed_by, signature))
        return false;
    if (b.expires_at <= now_secs)
        return false;
    *ret = b;
    return true;
}

enum ast_rc ast_bearer_verify(const uint8_t public_key[static AST_KEY_PUBLIC_BYTES],
                              struct ast_str token, uint64_t now_secs, struct ast_bearer *ret,
                              struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf scratch = AST_BUF_INIT(AST_BEARER_MAX);
    if (!verify(public_key, token, now_secs, &scratch, ret))
        return ast_fail(err, AST_E_DENIED, "invalid or expired bearer token");
    return AST_OK;
}

/* --- Session token (spec 01 §3.3) ---------------------------------------------------------- */

#define SESSION_HEX      (2 * AST_SESSION_TOKEN_BYTES)
#define SESSION_FILE_MAX 4096u /* 64 digits and some white space a person may have added */

enum ast_rc ast_session_token_create(const char *path, struct ast_session_token *ret,
                                     struct ast_err *err)
{
    struct ast_session_token t;
    char hex[SESSION_HEX + 1];
    ast_random(t.b, sizeof t.b);
    ast_hex_encode(t.b, sizeof t.b, hex);
    enum ast_rc rc = ast_fs_write_atomic(path, ast_str_n(hex, SESSION_HEX), 0600, AST_FS_SYNC, err);
    ast_wipe(hex, sizeof hex);
    if (!rc)
        *ret = t;
    ast_wipe(&t, sizeof t);
    return rc ? ast_wrap(err, rc, "session token") : AST_OK;
}

static bool is_hex_digit(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

enum ast_rc ast_session_token_parse(struct ast_str hex, struct ast_session_token *ret,
                                    struct ast_err *err)
{
    hex = ast_str_trim(hex);
    if (hex.n != SESSION_HEX)
        return ast_fail(err, AST_E_INVALID, "session token hex must be %d chars, got %zu",
                        SESSION_HEX, hex.n);
    if (ast_hex_decode(hex, ret->b, sizeof ret->b))
        return AST_OK;
    for (size_t i = 0; i < hex.n; i++)
        if (!is_hex_digit(hex.p[i]))
            return ast_fail(err, AST_E_INVALID, "invalid hex digit: 0x%02x", (uint8_t)hex.p[i]);
    return ast_fail(err, AST_E_INVALID, "invalid hex encoding");
}

enum ast_rc ast_session_token_load(const char *path, struct ast_session_token *ret,
                                   struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(SESSION_FILE_MAX);
    /* Reserved in one piece, so that no copy stays behind in released memory. */
    if (ast_buf_reserve(&text, SESSION_FILE_MAX))
        return ast_buf_check(&text, "session token", err);
    enum ast_rc rc = ast_fs_read(path, SESSION_FILE_MAX, &text, err);
    if (!rc)
        rc = ast_session_token_parse(ast_buf_view(&text), ret, err);
    ast_wipe(text.p, text.cap);
    return rc;
}

bool ast_session_token_equal(const struct ast_session_token *a, const struct ast_session_token *b)
{
    return ast_ct_equal(a->b, b->b, sizeof a->b);
}
