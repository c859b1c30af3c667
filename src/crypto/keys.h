/* Ed25519 (RFC 8032, pure): key files, signing, verifying.
 *
 * A key file holds exactly the 32-byte seed, mode 0600 (spec 01 §17.1, 03 §7.4).
 */
#pragma once

#include <stdint.h>

#include "crypto/secret.h"

#define AST_KEY_SEED_BYTES      32
#define AST_KEY_PUBLIC_BYTES    32
#define AST_KEY_SIGNATURE_BYTES 64

struct ast_key {
    struct ast_secret secret; /* seed and public half */
    uint8_t public_key[AST_KEY_PUBLIC_BYTES];
    /* load: others could read the file; it was tightened to 0600, the caller should warn */
    bool was_exposed;
};

void ast_key_done(struct ast_key *k);
AST_DEFINE_AUTO_VALUE(struct ast_key, ast_key_done)

enum ast_rc ast_key_from_seed(struct ast_key *ret, const uint8_t seed[static AST_KEY_SEED_BYTES],
                              struct ast_err *err);

/* Loads the seed, or creates parent directory (0700) and file (0600, fsync, rename) when it is absent. Of
 * several creators at once one wins and all get its key.
 * Errors: CORRUPT with path, actual length and the advice to remove it. `what` names the key in the
 * message ("runtime key": "invalid runtime key at <path>: ..."). Blocks on disk. */
AST_MUST_CHECK
enum ast_rc ast_key_load_or_create(const char *path, const char *what, struct ast_key *ret,
                                   struct ast_err *err);

void ast_key_sign(const struct ast_key *k, struct ast_str data,
                  uint8_t ret_signature[static AST_KEY_SIGNATURE_BYTES]);
bool ast_key_verify(const uint8_t public_key[static AST_KEY_PUBLIC_BYTES], struct ast_str data,
                    const uint8_t signature[static AST_KEY_SIGNATURE_BYTES]);
