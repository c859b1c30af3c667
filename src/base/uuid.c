/* UUIDs: a table says where the hyphens stand, everything else is hex. */
#include "base/uuid.h"

#include "base/codec.h"
#include "base/random_priv.h"

#include "base/banned.h"

/* Bytes before which a hyphen stands. */
static bool hyphen_before(size_t byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

struct ast_uuid ast_uuid_v4(void)
{
    struct ast_uuid u;
    base_random(u.b, sizeof u.b);
    u.b[6] = (uint8_t)((u.b[6] & 0x0f) | 0x40);
    u.b[8] = (uint8_t)((u.b[8] & 0x3f) | 0x80);
    return u;
}

struct ast_str ast_uuid_format(const struct ast_uuid *u, char out[static AST_UUID_TEXT])
{
    static const char digits[] = "0123456789abcdef";
    char *at = out;
    for (size_t i = 0; i < sizeof u->b; i++) {
        if (hyphen_before(i))
            *at++ = '-';
        *at++ = digits[u->b[i] >> 4];
        *at++ = digits[u->b[i] & 15];
    }
    *at = 0;
    return (struct ast_str){ out, AST_UUID_TEXT - 1 };
}

bool ast_uuid_parse(struct ast_str s, struct ast_uuid *ret)
{
    struct ast_uuid u;
    if (s.n == 32) {
        if (!ast_hex_decode(s, u.b, sizeof u.b))
            return false;
        *ret = u;
        return true;
    }
    if (s.n == 38 && s.p[0] == '{' && s.p[37] == '}')
        s = (struct ast_str){ s.p + 1, 36 };
    else if (ast_str_starts(s, AST_STR("urn:uuid:")))
        s = ast_str_from(s, 9);
    if (s.n != AST_UUID_TEXT - 1)
        return false;

    const char *at = s.p;
    for (size_t i = 0; i < sizeof u.b; i++) {
        if (hyphen_before(i) && *at++ != '-')
            return false;
        if (!ast_hex_decode((struct ast_str){ at, 2 }, &u.b[i], 1))
            return false;
        at += 2;
    }
    *ret = u;
    return true;
}
