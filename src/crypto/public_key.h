/* Public keys as people hand them in and as profiles keep them (spec 02 §5). */
#pragma once

#include "base/error.h"
#include "base/str.h"
#include "crypto/hash.h"

#define AST_PUBLIC_KEY_TEXT 72u /* "ed25519:" and 64 lower-case hex digits */

struct ast_public_key {
    char text[AST_PUBLIC_KEY_TEXT + 1];
    char fingerprint[AST_SHA256_HEX]; /* SHA-256 of the text, lower-case hex */
};

/* Takes 64 hex digits of either case, "ed25519:" before them or not, blanks around the digits.
 * Errors: INVALID with the texts of spec 02 §5; a key that is no point of the curve, or one of small
 * order, is refused too: nobody could sign with it, or everybody. Any thread. */
AST_MUST_CHECK
enum ast_rc ast_public_key_parse(struct ast_str given, struct ast_public_key *ret,
                                 struct ast_err *err);
