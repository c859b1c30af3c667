#include "crypto/public_key.h"

#include <sodium.h>

#include "base/codec.h"

#include "base/banned.h"

#define PREFIX AST_STR("ed25519:")
#define BYTES  32u

enum ast_rc ast_public_key_parse(struct ast_str given, struct ast_public_key *ret,
                                 struct ast_err *err)
{
    uint8_t point[BYTES];
    struct ast_str digits = ast_str_starts(given, PREFIX) ? ast_str_from(given, PREFIX.n) : given;

    digits = ast_str_trim(digits);
    if (digits.n != 2u * BYTES)
        return ast_fail(err, AST_E_INVALID,
                        "public_key must be 32 bytes hex-encoded (64 hex chars); got %zu chars",
                        digits.n);
    if (!ast_hex_decode(digits, point, sizeof point))
        return ast_fail(err, AST_E_INVALID, "public_key contains non-hex characters");
    if (!crypto_core_ed25519_is_valid_point(point))
        return ast_fail(err, AST_E_INVALID, "public_key is not a valid ed25519 public key");
    memcpy(ret->text, PREFIX.p, PREFIX.n);
    ast_hex_encode(point, sizeof point, ret->text + PREFIX.n);
    ast_sha256_hex(ast_str_n(ret->text, AST_PUBLIC_KEY_TEXT), ret->fingerprint);
    return AST_OK;
}
