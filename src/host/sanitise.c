/* Cleaning of texts for people. White space and control characters are those of Unicode, as the other end of the
 * wire means them. */
#include "host/sanitise_priv.h"

#include "base/banned.h"

/* The character at the front of a non-empty view of UTF-8 (the border of the guest has checked it). */
static uint32_t decode(struct ast_str s, size_t *ret_bytes)
{
    const unsigned char *p = (const unsigned char *)s.p;
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7fu >> n);

    n = AST_MIN(n, s.n);
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (p[i] & 0x3fu);
    *ret_bytes = n;
    return c;
}

static bool is_white(uint32_t c)
{
    return c == ' ' || (c >= 0x09 && c <= 0x0d) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

static bool is_control(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c <= 0x9f);
}

size_t host_char_count(struct ast_str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    return n;
}

static struct ast_str trim(struct ast_str s)
{
    size_t bytes;
    while (s.n && is_white(decode(s, &bytes)))
        s = ast_str_from(s, bytes);
    while (s.n) {
        size_t last = s.n - 1;
        while (last && ((unsigned char)s.p[last] & 0xc0) == 0x80)
            last--;
        if (!is_white(decode(ast_str_from(s, last), &bytes)))
            break;
        s = ast_str_first(s, last);
    }
    return s;
}

bool host_sanitise(struct ast_arena *arena, struct ast_str s, size_t max, struct ast_str *ret,
                   bool *ret_whole)
{
    s = trim(s);
    size_t room = AST_MIN(s.n, 4 * max), n = 0;
    char *out = ast_arena_alloc(arena, room);
    if (!out)
        return false;
    size_t bytes, count = 0, at = 0;
    for (; at < s.n && count < max; at += bytes) {
        uint32_t c = decode(ast_str_from(s, at), &bytes);
        if (is_control(c))
            continue;
        memcpy(out + n, s.p + at, bytes);
        n += bytes;
        count++;
    }
    *ret = ast_str_n(out, n);
    *ret_whole = n == s.n;
    return true;
}
