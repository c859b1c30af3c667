/* What the JSON files share: yyjson's values behind our names, and the primitive writers.
 *
 * Only src/base/json*.c may include this; nobody else sees yyjson.
 */
#pragma once

#include <yyjson.h>

#include "base/buf.h"
#include "base/json.h"

/* struct ast_json is a yyjson value and struct ast_json_doc a yyjson document; both are only ever
 * handled through these casts. yyjson's readers take non-const pointers but do not write. */
static inline yyjson_val *json_val(const struct ast_json *v)
{
    return (yyjson_val *)(uintptr_t)v;
}

static inline const struct ast_json *json_from_val(yyjson_val *v)
{
    return (const struct ast_json *)(const void *)v;
}

static inline struct ast_str json_val_str(const yyjson_val *v)
{
    return (struct ast_str){ v->uni.str, (size_t)(v->tag >> YYJSON_TAG_BIT) };
}

/* Room for exactly n more bytes and a NUL; NULL once the buffer has failed. */
static inline char *json_room(struct ast_buf *out, size_t n)
{
    if (__builtin_expect(out->cap - out->n > n && n <= out->max - out->n && !out->fail, 1))
        return out->p + out->n;
    return ast_buf_reserve(out, n) ? NULL : out->p + out->n;
}

static inline void json_put_byte(struct ast_buf *out, char c)
{
    char *at = json_room(out, 1);
    if (!at)
        return;
    at[0] = c;
    at[1] = 0;
    out->n++;
}

static inline void json_put(struct ast_buf *out, struct ast_str s)
{
    char *at = json_room(out, s.n);
    if (!at)
        return;
    if (s.n)
        memcpy(at, s.p, s.n);
    at[s.n] = 0;
    out->n += s.n;
}

/* A literal with quotes; `s` is well-formed UTF-8. */
void json_put_string(struct ast_buf *out, struct ast_str s);
/* The same for bytes from anywhere: ill-formed parts become U+FFFD. */
void json_put_foreign(struct ast_buf *out, struct ast_str s);
void json_put_u64(struct ast_buf *out, uint64_t v);
void json_put_i64(struct ast_buf *out, int64_t v);
void json_put_f64(struct ast_buf *out, double v); /* null when not finite */
/* A parsed value, compact; `sort` gives the canonical form. */
void json_put_value(struct ast_buf *out, const struct ast_json *v, bool sort);
