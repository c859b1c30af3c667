/* Digests: BLAKE3 for content addresses, SHA-256 for fingerprints. Threads: any. */
#pragma once

#include <stdint.h>

#include "base/str.h"

#define AST_BLAKE3_BYTES 32
#define AST_BLAKE3_HEX   65 /* with NUL */
#define AST_SHA256_BYTES 32
#define AST_SHA256_HEX   65

void ast_blake3(struct ast_str data, uint8_t out[static AST_BLAKE3_BYTES]);
void ast_blake3_hex(struct ast_str data, char out[static AST_BLAKE3_HEX]);
/* Keyed BLAKE3, a MAC. */
void ast_blake3_mac(const uint8_t key[static 32], struct ast_str data, uint8_t out[static 32]);
void ast_sha256(struct ast_str data, uint8_t out[static AST_SHA256_BYTES]);
void ast_sha256_hex(struct ast_str data, char out[static AST_SHA256_HEX]);

/* Incremental BLAKE3. */
struct ast_blake3_state {
    _Alignas(16) uint8_t opaque[2048]; /* at least sizeof(blake3_hasher), checked at compile time */
};
void ast_blake3_begin(struct ast_blake3_state *s);
void ast_blake3_feed(struct ast_blake3_state *s, struct ast_str data);
void ast_blake3_end(struct ast_blake3_state *s, uint8_t out[static AST_BLAKE3_BYTES]);
