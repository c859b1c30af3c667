/* Decoding UTF-8 with a report of what is wrong; ast_str_is_utf8() is the fast yes-or-no. */
#include "base/utf8_priv.h"

#include "base/banned.h"

/* What a first byte promises. */
struct lead {
    uint8_t trail;  /* trailing bytes */
    uint8_t mask;   /* payload bits of the first byte */
    uint8_t lo, hi; /* range of the second byte: keeps out overlongs, surrogates, > U+10FFFF */
};

static struct lead lead_of(unsigned char c)
{
    if (c >= 0xc2 && c <= 0xdf)
        return (struct lead){ 1, 0x1f, 0x80, 0xbf };
    if (c >= 0xe0 && c <= 0xef)
        return (struct lead){ 2, 0x0f, c == 0xe0 ? 0xa0 : 0x80, c == 0xed ? 0x9f : 0xbf };
    if (c >= 0xf0 && c <= 0xf4)
        return (struct lead){ 3, 0x07, c == 0xf0 ? 0x90 : 0x80, c == 0xf4 ? 0x8f : 0xbf };
    return (struct lead){ 0 };
}

uint32_t base_utf8_decode(struct ast_str s, size_t *ret_bytes)
{
    const unsigned char *p = (const unsigned char *)s.p;
    if (p[0] < 0x80) {
        *ret_bytes = 1;
        return p[0];
    }
    struct lead lead = lead_of(p[0]);
    uint32_t c = p[0] & lead.mask;
    for (size_t i = 1; i <= lead.trail; i++) {
        unsigned char lo = i == 1 ? lead.lo : 0x80, hi = i == 1 ? lead.hi : 0xbf;
        if (i >= s.n || p[i] < lo || p[i] > hi) {
            *ret_bytes = i;
            return BASE_UTF8_BAD;
        }
        c = c << 6 | (p[i] & 0x3f);
    }
    *ret_bytes = lead.trail + 1u;
    return lead.trail ? c : BASE_UTF8_BAD;
}
