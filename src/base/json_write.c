/* Writing JSON: the primitive writers and the streaming writer on top of them.
 *
 * Sizes are reserved exactly, never "at worst": a text that just fits its ceiling must fit.
 */
#include <math.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "base/json.h"
#include "base/json_priv.h"
#include "base/utf8_priv.h"

#include "base/banned.h"

/* --- Strings ------------------------------------------------------------------------------- */

/* What stands behind the backslash; 'u' means \u00XX; 0 means the byte goes out as it is. */
static const char escapes[256] = {
    [0x00 ... 0x07] = 'u', ['\b'] = 'b', ['\t'] = 't',          ['\n'] = 'n', [0x0b] = 'u',
    ['\f'] = 'f',          ['\r'] = 'r', [0x0e ... 0x1f] = 'u', ['"'] = '"',  ['\\'] = '\\',
};

/* Bytes from the front that need no escape. */
static size_t clean_run(const char *p, size_t n)
{
    size_t i = 0;
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\');
    const __m128i last_control = _mm_set1_epi8(0x1f);
    for (; n - i >= 16; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
        __m128i hit = _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash));
        hit = _mm_or_si128(hit, _mm_cmpeq_epi8(_mm_max_epu8(v, last_control), last_control));
        unsigned mask = (unsigned)_mm_movemask_epi8(hit);
        if (mask)
            return i + (size_t)__builtin_ctz(mask);
    }
#endif
    while (i < n && !escapes[(unsigned char)p[i]])
        i++;
    return i;
}

static void put_escape(struct ast_buf *out, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    char text[6] = { '\\', escapes[c], '0', '0', hex[c >> 4], hex[c & 15] };
    json_put(out, (struct ast_str){ text, text[1] == 'u' ? 6 : 2 });
}

static void put_body(struct ast_buf *out, struct ast_str s)
{
    while (s.n) {
        size_t n = clean_run(s.p, s.n);
        json_put(out, ast_str_first(s, n));
        if (n == s.n)
            return;
        put_escape(out, (unsigned char)s.p[n]);
        s = ast_str_from(s, n + 1);
    }
}

void json_put_string(struct ast_buf *out, struct ast_str s)
{
    json_put_byte(out, '"');
    put_body(out, s);
    json_put_byte(out, '"');
}

void json_put_foreign(struct ast_buf *out, struct ast_str s)
{
    if (ast_str_is_utf8(s)) {
        json_put_string(out, s);
        return;
    }
    json_put_byte(out, '"');
    size_t good = 0;
    while (good < s.n) {
        size_t step;
        bool is_bad = base_utf8_decode(ast_str_from(s, good), &step) == BASE_UTF8_BAD;
        if (!is_bad) {
            good += step;
            continue;
        }
        put_body(out, ast_str_first(s, good));
        json_put(out, AST_STR("\xef\xbf\xbd"));
        s = ast_str_from(s, good + step);
        good = 0;
    }
    put_body(out, s);
    json_put_byte(out, '"');
}

enum ast_rc ast_json_quote(struct ast_str s, struct ast_buf *out)
{
    json_put_foreign(out, s);
    return out->fail;
}

/* --- Numbers ------------------------------------------------------------------------------- */

void json_put_u64(struct ast_buf *out, uint64_t v)
{
    char text[20];
    char *at = text + sizeof text;
    do {
        *--at = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    json_put(out, (struct ast_str){ at, (size_t)(text + sizeof text - at) });
}

void json_put_i64(struct ast_buf *out, int64_t v)
{
    if (v < 0)
        json_put_byte(out, '-');
    /* Negating in unsigned arithmetic is defined for INT64_MIN too. */
    json_put_u64(out, v < 0 ? -(uint64_t)v : (uint64_t)v);
}

void json_put_f64(struct ast_buf *out, double v)
{
    if (!isfinite(v)) {
        json_put(out, AST_STR("null"));
        return;
    }
    /* yyjson gives the shortest text that reads back as the same double, with ".0" if integral. */
    char pool[512];
    yyjson_alc alc;
    yyjson_val val = { .tag = YYJSON_TYPE_NUM | YYJSON_SUBTYPE_REAL, .uni.f64 = v };
    size_t n = 0;
    const char *text = NULL;
    if (yyjson_alc_pool_init(&alc, pool, sizeof pool))
        text = yyjson_val_write_opts(&val, YYJSON_WRITE_NOFLAG, &alc, &n, NULL);
    if (AST_NEVER(!text)) {
        out->fail = AST_E_NO_MEMORY;
        return;
    }
    json_put(out, (struct ast_str){ text, n });
}

/* --- Streaming writer ---------------------------------------------------------------------- */

static void new_line(struct ast_jw *w)
{
    static const char spaces[] = "                                ";
    size_t left = (size_t)w->depth * w->indent;
    json_put_byte(w->out, '\n');
    while (left) {
        size_t n = AST_MIN(left, sizeof spaces - 1);
        json_put(w->out, (struct ast_str){ spaces, n });
        left -= n;
    }
}

/* A new element or member of the innermost container. */
static void separate(struct ast_jw *w)
{
    if (!w->first[w->depth - 1])
        json_put_byte(w->out, ',');
    w->first[w->depth - 1] = false;
    if (w->indent)
        new_line(w);
}

static void before_value(struct ast_jw *w)
{
    if (w->depth == 0)
        return;
    if (w->close[w->depth - 1] == ']') {
        separate(w);
        return;
    }
    AST_ASSERT(w->has_key);
    w->has_key = false;
}

static void open_container(struct ast_jw *w, char open, char close)
{
    before_value(w);
    AST_ASSERT(w->depth < AST_JW_MAX_DEPTH);
    w->first[w->depth] = true;
    w->close[w->depth++] = close;
    json_put_byte(w->out, open);
}

void ast_jw_object(struct ast_jw *w)
{
    open_container(w, '{', '}');
}

void ast_jw_array(struct ast_jw *w)
{
    open_container(w, '[', ']');
}

void ast_jw_end(struct ast_jw *w)
{
    AST_ASSERT(w->depth > 0 && !w->has_key);
    w->depth--;
    if (w->indent && !w->first[w->depth])
        new_line(w);
    json_put_byte(w->out, w->close[w->depth]);
}

void ast_jw_key(struct ast_jw *w, struct ast_str key)
{
    AST_ASSERT(w->depth > 0 && w->close[w->depth - 1] == '}' && !w->has_key);
    separate(w);
    json_put_foreign(w->out, key);
    json_put_byte(w->out, ':');
    if (w->indent)
        json_put_byte(w->out, ' ');
    w->has_key = true;
}

void ast_jw_string(struct ast_jw *w, struct ast_str s)
{
    before_value(w);
    json_put_foreign(w->out, s);
}

void ast_jw_u64(struct ast_jw *w, uint64_t v)
{
    before_value(w);
    json_put_u64(w->out, v);
}

void ast_jw_i64(struct ast_jw *w, int64_t v)
{
    before_value(w);
    json_put_i64(w->out, v);
}

void ast_jw_f64(struct ast_jw *w, double v)
{
    before_value(w);
    json_put_f64(w->out, v);
}

void ast_jw_bool(struct ast_jw *w, bool v)
{
    before_value(w);
    json_put(w->out, v ? AST_STR("true") : AST_STR("false"));
}

void ast_jw_null(struct ast_jw *w)
{
    before_value(w);
    json_put(w->out, AST_STR("null"));
}

void ast_jw_raw(struct ast_jw *w, struct ast_str json)
{
    before_value(w);
    json_put(w->out, json);
}

void ast_jw_value(struct ast_jw *w, const struct ast_json *v)
{
    before_value(w);
    json_put_value(w->out, v, /* sort= */ false);
}
