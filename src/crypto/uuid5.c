/* SHA-1 (FIPS 180-4) in the few lines that a name digest needs; libsodium has none, on purpose. */
#include "crypto/uuid5.h"

#include "base/banned.h"

struct sha1 {
    uint32_t h[5];
    uint8_t block[64];
    size_t fill;
    uint64_t total;
};

static uint32_t rotl(uint32_t x, unsigned n)
{
    return x << n | x >> (32 - n);
}

static void sha1_block(struct sha1 *s)
{
    uint32_t w[80];
    uint32_t a = s->h[0], b = s->h[1], c = s->h[2], d = s->h[3], e = s->h[4];

    for (size_t i = 0; i < 16; i++)
        w[i] = (uint32_t)s->block[4 * i] << 24 | (uint32_t)s->block[4 * i + 1] << 16 |
               (uint32_t)s->block[4 * i + 2] << 8 | s->block[4 * i + 3];
    for (size_t i = 16; i < 80; i++)
        w[i] = rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (size_t i = 0; i < 80; i++) {
        uint32_t f = i < 20   ? (b & c) | (~b & d)
                     : i < 40 ? b ^ c ^ d
                     : i < 60 ? (b & c) | (b & d) | (c & d)
                              : b ^ c ^ d;
        static const uint32_t k[] = { 0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6 };
        uint32_t t = rotl(a, 5) + f + e + k[i / 20] + w[i];
        e = d;
        d = c;
        c = rotl(b, 30);
        b = a;
        a = t;
    }
    s->h[0] += a;
    s->h[1] += b;
    s->h[2] += c;
    s->h[3] += d;
    s->h[4] += e;
}

static void sha1_feed(struct sha1 *s, const void *data, size_t n)
{
    const uint8_t *p = data;

    s->total += n;
    while (n--) {
        s->block[s->fill++] = *p++;
        if (s->fill == sizeof s->block) {
            sha1_block(s);
            s->fill = 0;
        }
    }
}

struct ast_uuid ast_uuid_v5_url(struct ast_str name)
{
    static const uint8_t url_namespace[16] = { 0x6b, 0xa7, 0xb8, 0x11, 0x9d, 0xad, 0x11, 0xd1,
                                               0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8 };
    struct sha1 s = { .h = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0 } };
    struct ast_uuid u;
    uint8_t length[8];

    sha1_feed(&s, url_namespace, sizeof url_namespace);
    sha1_feed(&s, name.p, name.n);
    uint64_t bits = s.total * 8;
    sha1_feed(&s, "\x80", 1);
    while (s.fill != 56)
        sha1_feed(&s, "", 1);
    for (size_t i = 0; i < 8; i++)
        length[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha1_feed(&s, length, sizeof length);
    for (size_t i = 0; i < 16; i++)
        u.b[i] = (uint8_t)(s.h[i / 4] >> (24 - 8 * (i % 4)));
    u.b[6] = (uint8_t)((u.b[6] & 0x0f) | 0x50);
    u.b[8] = (uint8_t)((u.b[8] & 0x3f) | 0x80);
    return u;
}
