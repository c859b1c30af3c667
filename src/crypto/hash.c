/* Digests. BLAKE3 is the reference code, SHA-256 is libsodium's; this file only fixes sizes and text forms. */
#include "crypto/hash.h"

#include <blake3.h>
#include <sodium.h>

#include "base/auto.h"
#include "base/codec.h"

#include "base/banned.h"

_Static_assert(sizeof(struct ast_blake3_state) >= sizeof(blake3_hasher), "state too small");
_Static_assert(_Alignof(struct ast_blake3_state) >= _Alignof(blake3_hasher), "state misaligned");
_Static_assert(AST_BLAKE3_BYTES == BLAKE3_OUT_LEN, "digest size");
_Static_assert(AST_SHA256_BYTES == crypto_hash_sha256_BYTES, "digest size");

static blake3_hasher *hasher(struct ast_blake3_state *s)
{
    return (blake3_hasher *)(void *)s->opaque;
}

void ast_blake3_begin(struct ast_blake3_state *s)
{
    blake3_hasher_init(hasher(s));
}

void ast_blake3_feed(struct ast_blake3_state *s, struct ast_str data)
{
    if (data.n)
        blake3_hasher_update(hasher(s), data.p, data.n);
}

void ast_blake3_end(struct ast_blake3_state *s, uint8_t out[static AST_BLAKE3_BYTES])
{
    blake3_hasher_finalize(hasher(s), out, AST_BLAKE3_BYTES);
}

void ast_blake3(struct ast_str data, uint8_t out[static AST_BLAKE3_BYTES])
{
    struct ast_blake3_state s;
    ast_blake3_begin(&s);
    ast_blake3_feed(&s, data);
    ast_blake3_end(&s, out);
}

void ast_blake3_hex(struct ast_str data, char out[static AST_BLAKE3_HEX])
{
    uint8_t digest[AST_BLAKE3_BYTES];
    ast_blake3(data, digest);
    ast_hex_encode(digest, sizeof digest, out);
}

void ast_blake3_mac(const uint8_t key[static 32], struct ast_str data, uint8_t out[static 32])
{
    struct ast_blake3_state s;
    blake3_hasher_init_keyed(hasher(&s), key);
    ast_blake3_feed(&s, data);
    ast_blake3_end(&s, out);
    sodium_memzero(&s, sizeof s); /* holds the key */
}

void ast_sha256(struct ast_str data, uint8_t out[static AST_SHA256_BYTES])
{
    static const unsigned char nothing;
    (void)crypto_hash_sha256(out, data.n ? (const unsigned char *)data.p : &nothing,
                             data.n); /* always 0 */
}

void ast_sha256_hex(struct ast_str data, char out[static AST_SHA256_HEX])
{
    uint8_t digest[AST_SHA256_BYTES];
    ast_sha256(data, digest);
    ast_hex_encode(digest, sizeof digest, out);
}
