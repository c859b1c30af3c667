/* A scanner over JSON text: no tree, no recursion, depth bounded by ASTRID_JSON_DEPTH. */
#include "astrid_json.h"

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* ---- views and buffers ---- */

struct astrid_str astrid_str_c(const char *text)
{
    uint32_t n = 0;
    while (text[n])
        n++;
    return (struct astrid_str){ text, n };
}

bool astrid_str_eq(struct astrid_str a, struct astrid_str b)
{
    return a.n == b.n && (a.n == 0 || __builtin_memcmp(a.p, b.p, a.n) == 0);
}

bool astrid_str_starts(struct astrid_str s, struct astrid_str prefix)
{
    return s.n >= prefix.n && (prefix.n == 0 || __builtin_memcmp(s.p, prefix.p, prefix.n) == 0);
}

struct astrid_str astrid_str_from(struct astrid_str s, uint32_t at)
{
    return at >= s.n ? (struct astrid_str){ s.p, 0 } : (struct astrid_str){ s.p + at, s.n - at };
}

struct astrid_str astrid_str_trim(struct astrid_str s)
{
    while (s.n && is_space(s.p[0]))
        s = astrid_str_from(s, 1);
    while (s.n && is_space(s.p[s.n - 1]))
        s.n--;
    return s;
}

struct astrid_str astrid_str_lower(struct astrid_str s)
{
    char *out = astrid_alloc(s.n + 1);
    if (!out)
        return (struct astrid_str){ NULL, 0 };
    for (uint32_t i = 0; i < s.n; i++)
        out[i] = s.p[i] >= 'A' && s.p[i] <= 'Z' ? (char)(s.p[i] + 32) : s.p[i];
    return (struct astrid_str){ out, s.n };
}

static bool buf_room(struct astrid_buf *b, uint32_t extra)
{
    if (b->failed)
        return false;
    if (b->cap - b->n >= extra)
        return true;
    uint64_t want = (uint64_t)b->n + extra, cap = b->cap ? 2ull * b->cap : 256;
    if (cap < want)
        cap = want;
    char *grown = cap <= UINT32_MAX / 2 ? astrid_alloc((uint32_t)cap) : NULL;
    if (!grown) {
        b->failed = true;
        return false;
    }
    if (b->n)
        __builtin_memcpy(grown, b->p, b->n);
    b->p = grown;
    b->cap = (uint32_t)cap;
    return true;
}

void astrid_buf_add(struct astrid_buf *b, struct astrid_str s)
{
    if (s.n && buf_room(b, s.n)) {
        __builtin_memcpy(b->p + b->n, s.p, s.n);
        b->n += s.n;
    }
}

void astrid_buf_u64(struct astrid_buf *b, uint64_t value)
{
    char digits[20];
    uint32_t n = sizeof digits;

    do {
        digits[--n] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    astrid_buf_add(b, (struct astrid_str){ digits + n, (uint32_t)sizeof digits - n });
}

void astrid_buf_json(struct astrid_buf *b, struct astrid_str text)
{
    static const char hex[] = "0123456789abcdef";
    uint32_t plain = 0;

    astrid_buf_lit(b, "\"");
    for (uint32_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        astrid_buf_add(b, (struct astrid_str){ text.p + plain, i - plain });
        plain = i + 1;
        if (c == '"' || c == '\\') {
            char two[2] = { '\\', (char)c };
            astrid_buf_add(b, (struct astrid_str){ two, 2 });
        } else if (c == '\n') {
            astrid_buf_lit(b, "\\n");
        } else {
            char six[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };
            astrid_buf_add(b, (struct astrid_str){ six, 6 });
        }
    }
    astrid_buf_add(b, (struct astrid_str){ text.p + plain, text.n - plain });
    astrid_buf_lit(b, "\"");
}

/* ---- scanning ---- */

static void skip_space(struct astrid_str s, uint32_t *at)
{
    while (*at < s.n && is_space(s.p[*at]))
        ++*at;
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The four digits of a \u escape; -1 when they are not. */
static int32_t read_hex4(const char *p, const char *end)
{
    int32_t v = 0;
    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(p[i]);
        if (digit < 0)
            return -1;
        v = v << 4 | digit;
    }
    return v;
}

/* p points at 'u'. Consumes a surrogate pair; a lone half is refused. Bytes used, 0: malformed. */
static uint32_t read_escape_u(const char *p, const char *end, uint32_t *ret)
{
    int32_t c = read_hex4(p + 1, end);

    if (c < 0 || (c >= 0xdc00 && c < 0xe000))
        return 0;
    if (c < 0xd800 || c >= 0xdc00) {
        *ret = (uint32_t)c;
        return 5;
    }
    if (end - p < 11 || p[5] != '\\' || p[6] != 'u')
        return 0;
    int32_t low = read_hex4(p + 7, end);
    if (low < 0xdc00 || low > 0xdfff)
        return 0;
    *ret = 0x10000 + ((uint32_t)(c - 0xd800) << 10) + (uint32_t)(low - 0xdc00);
    return 11;
}

/* Bytes of the UTF-8 sequence at p, 0: malformed (RFC 3629: shortest form, no surrogate, at most U+10FFFF). */
static uint32_t utf8_length(const char *text, const char *end)
{
    const unsigned char *p = (const unsigned char *)text;
    unsigned char low = 0x80, high = 0xbf;
    uint32_t n;

    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (end - text < (long)n)
        return 0;
    if (p[0] == 0xe0)
        low = 0xa0;
    else if (p[0] == 0xed)
        high = 0x9f;
    else if (p[0] == 0xf0)
        low = 0x90;
    else if (p[0] == 0xf4)
        high = 0x8f;
    if (p[1] < low || p[1] > high)
        return 0;
    for (uint32_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

/* From the opening quote to behind the closing one. */
static bool skip_string(struct astrid_str s, uint32_t *at)
{
    const char *p = s.p + *at, *end = s.p + s.n;

    if (*at >= s.n || *p++ != '"')
        return false;
    while (p < end && *p != '"') {
        uint32_t used, c;
        if ((unsigned char)*p < 0x20)
            return false;
        if (*p != '\\') {
            used = utf8_length(p, end);
        } else {
            if (++p == end)
                return false;
            switch (*p) {
            case '"':
            case '\\':
            case '/':
            case 'b':
            case 'f':
            case 'n':
            case 'r':
            case 't': used = 1; break;
            case 'u': used = read_escape_u(p, end, &c); break;
            default: return false;
            }
        }
        if (!used)
            return false;
        p += used;
    }
    if (p == end)
        return false;
    *at = (uint32_t)(p + 1 - s.p);
    return true;
}

static bool skip_digits(struct astrid_str s, uint32_t *at)
{
    uint32_t from = *at;
    while (*at < s.n && is_digit(s.p[*at]))
        ++*at;
    return *at > from;
}

static bool skip_number(struct astrid_str s, uint32_t *at)
{
    if (*at < s.n && s.p[*at] == '-')
        ++*at;
    bool zero = *at < s.n && s.p[*at] == '0';
    uint32_t from = *at;
    if (!skip_digits(s, at) || (zero && *at - from > 1))
        return false;
    if (*at < s.n && s.p[*at] == '.') {
        ++*at;
        if (!skip_digits(s, at))
            return false;
    }
    if (*at < s.n && (s.p[*at] == 'e' || s.p[*at] == 'E')) {
        ++*at;
        if (*at < s.n && (s.p[*at] == '+' || s.p[*at] == '-'))
            ++*at;
        return skip_digits(s, at);
    }
    return true;
}

static bool skip_word(struct astrid_str s, uint32_t *at, struct astrid_str word)
{
    if (!astrid_str_starts(astrid_str_from(s, *at), word))
        return false;
    *at += word.n;
    return true;
}

static bool skip_scalar(struct astrid_str s, uint32_t *at)
{
    if (*at >= s.n)
        return false;
    switch (s.p[*at]) {
    case '"': return skip_string(s, at);
    case 't': return skip_word(s, at, ASTRID_STR("true"));
    case 'f': return skip_word(s, at, ASTRID_STR("false"));
    case 'n': return skip_word(s, at, ASTRID_STR("null"));
    default: return skip_number(s, at);
    }
}

/* "key" and ':' of an object member. */
static bool skip_key(struct astrid_str s, uint32_t *at)
{
    if (!skip_string(s, at))
        return false;
    skip_space(s, at);
    if (*at >= s.n || s.p[*at] != ':')
        return false;
    ++*at;
    skip_space(s, at);
    return true;
}

/* One value of any kind, iteratively: `open` remembers the kinds of the containers around. */
static bool skip_value(struct astrid_str s, uint32_t *at)
{
    char open[ASTRID_JSON_DEPTH];
    int depth = 0;

    for (;;) {
        skip_space(s, at);
        if (*at >= s.n)
            return false;
        char c = s.p[*at];
        if (c == '{' || c == '[') {
            if (depth == ASTRID_JSON_DEPTH)
                return false;
            open[depth++] = c;
            ++*at;
            skip_space(s, at);
            if (*at < s.n && s.p[*at] == (c == '{' ? '}' : ']')) {
                ++*at;
                depth--;
            } else if (c == '[' || skip_key(s, at)) {
                continue;
            } else {
                return false;
            }
        } else if (!skip_scalar(s, at)) {
            return false;
        }
        /* A value ended: close containers or go on to the next member. */
        for (;;) {
            if (depth == 0)
                return true;
            skip_space(s, at);
            if (*at >= s.n)
                return false;
            char end = open[depth - 1] == '{' ? '}' : ']';
            char next = s.p[(*at)++];
            if (next == end) {
                depth--;
                continue;
            }
            if (next != ',')
                return false;
            skip_space(s, at);
            if (end == '}' && !skip_key(s, at))
                return false;
            break;
        }
    }
}

bool astrid_json_valid(struct astrid_str json)
{
    uint32_t at = 0;
    if (!skip_value(json, &at))
        return false;
    skip_space(json, &at);
    return at == json.n;
}

bool astrid_json_get(struct astrid_str json, struct astrid_str key, struct astrid_str *ret_value)
{
    uint32_t at = 0;
    bool found = false;

    skip_space(json, &at);
    if (at >= json.n || json.p[at] != '{')
        return false;
    at++;
    skip_space(json, &at);
    if (at < json.n && json.p[at] == '}')
        return false;
    for (;;) {
        uint32_t from = at;
        struct astrid_str name;
        skip_space(json, &from);
        at = from;
        if (!skip_string(json, &at) ||
            !astrid_json_text((struct astrid_str){ json.p + from, at - from }, &name))
            return false;
        at = from;
        if (!skip_key(json, &at))
            return false;
        from = at;
        if (!skip_value(json, &at))
            return false;
        if (astrid_str_eq(name, key)) {
            *ret_value = (struct astrid_str){ json.p + from, at - from };
            found = true;
        }
        skip_space(json, &at);
        if (at >= json.n)
            return false;
        if (json.p[at] == '}')
            return found;
        if (json.p[at++] != ',')
            return false;
    }
}

bool astrid_json_element(struct astrid_str array, uint32_t *at, struct astrid_str *ret_value)
{
    if (*at == 0) {
        skip_space(array, at);
        if (*at >= array.n || array.p[*at] != '[')
            return false;
        ++*at;
        skip_space(array, at);
        if (*at < array.n && array.p[*at] == ']')
            return false;
    } else {
        skip_space(array, at);
        if (*at >= array.n || array.p[*at] != ',')
            return false;
        ++*at;
        skip_space(array, at);
    }
    uint32_t from = *at;
    if (!skip_value(array, at))
        return false;
    *ret_value = (struct astrid_str){ array.p + from, *at - from };
    return true;
}

/* ---- strings and numbers ---- */

static uint32_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

bool astrid_json_text(struct astrid_str value, struct astrid_str *ret)
{
    uint32_t at = 0, n = 0;
    bool escaped = false;

    if (!skip_string(value, &at) || at != value.n)
        return false;
    struct astrid_str inner = { value.p + 1, value.n - 2 };
    for (uint32_t i = 0; i < inner.n; i++)
        escaped |= inner.p[i] == '\\';
    if (!escaped) {
        *ret = inner;
        return true;
    }
    char *out = astrid_alloc(inner.n + 1);
    if (!out)
        return false;
    const char *end = inner.p + inner.n;
    for (const char *p = inner.p; p < end;) {
        if (*p != '\\') {
            out[n++] = *p++;
            continue;
        }
        uint32_t c, used;
        switch (*++p) {
        case 'b':
            out[n++] = '\b';
            p++;
            break;
        case 'f':
            out[n++] = '\f';
            p++;
            break;
        case 'n':
            out[n++] = '\n';
            p++;
            break;
        case 'r':
            out[n++] = '\r';
            p++;
            break;
        case 't':
            out[n++] = '\t';
            p++;
            break;
        case 'u':
            used = read_escape_u(p, end, &c);
            if (!used)
                return false;
            n += put_utf8(out + n, c);
            p += used;
            break;
        default: out[n++] = *p++; break;
        }
    }
    *ret = (struct astrid_str){ out, n };
    return true;
}

bool astrid_json_member_text(struct astrid_str json, struct astrid_str key, struct astrid_str *ret)
{
    struct astrid_str value;
    return astrid_json_get(json, key, &value) && astrid_json_text(value, ret);
}

bool astrid_json_u64(struct astrid_str value, uint64_t *ret)
{
    uint64_t v = 0;

    if (value.n == 0 || (value.n > 1 && value.p[0] == '0'))
        return false;
    for (uint32_t i = 0; i < value.n; i++) {
        uint64_t digit = (uint64_t)(value.p[i] - '0');
        if (!is_digit(value.p[i]) || v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *ret = v;
    return true;
}
