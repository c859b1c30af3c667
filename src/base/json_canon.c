/* Printing a parsed value, in document order or in the canonical form of spec 04 §4.3.
 *
 * This is on the path of every published message. Recursion is bounded by the parser's depth limit.
 */
#include <stdlib.h>

#include "base/json.h"
#include "base/json_priv.h"

#include "base/banned.h"

/* Up to here members are sorted by insertion in an array on the stack; a frame stays small because
 * AST_JSON_MAX_DEPTH of them may be alive on a fiber's stack. */
#define FEW 16

static void put_any(struct ast_buf *out, yyjson_val *v, bool sort);

/* Most keys differ in their first byte, so that one is looked at before a call is made. */
static inline int key_cmp(const yyjson_val *a, const yyjson_val *b)
{
    struct ast_str x = json_val_str(a), y = json_val_str(b);
    if (x.n && y.n && x.p[0] != y.p[0])
        return (unsigned char)x.p[0] < (unsigned char)y.p[0] ? -1 : 1;
    return ast_str_cmp(x, y);
}

/* A string that the parser marked as free of escapes goes out as it came, with its punctuation in
 * one step: before "text" after. */
static void put_plain_string(struct ast_buf *out, bool comma_before, struct ast_str s,
                             bool colon_after)
{
    size_t n = s.n + 2 + comma_before + colon_after;
    char *at = json_room(out, n);
    if (!at)
        return;
    out->n += n;
    if (comma_before)
        *at++ = ',';
    *at++ = '"';
    memcpy(at, s.p, s.n);
    at += s.n;
    *at++ = '"';
    if (colon_after)
        *at++ = ':';
    *at = 0;
}

static void put_key_and_value(struct ast_buf *out, yyjson_val *key, bool is_first, bool sort)
{
    if (unsafe_yyjson_get_tag(key) == (YYJSON_TYPE_STR | YYJSON_SUBTYPE_NOESC)) {
        put_plain_string(out, !is_first, json_val_str(key), /* colon_after= */ true);
    } else {
        if (!is_first)
            json_put_byte(out, ',');
        json_put_string(out, json_val_str(key));
        json_put_byte(out, ':');
    }
    put_any(out, key + 1, sort);
}

/* For qsort: equal keys stay in document order, which is address order. */
static int by_key(const void *a, const void *b)
{
    yyjson_val *x = *(yyjson_val *const *)a, *y = *(yyjson_val *const *)b;
    int order = key_cmp(x, y);
    return order ? order : (x > y) - (x < y);
}

static void sort_few(yyjson_val **keys, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        yyjson_val *key = keys[i];
        size_t at = i;
        for (; at > 0 && key_cmp(keys[at - 1], key) > 0; at--)
            keys[at] = keys[at - 1];
        keys[at] = key;
    }
}

/* Of equal keys the last one counts. */
static void put_sorted(struct ast_buf *out, yyjson_val **keys, size_t n)
{
    bool is_first = true;
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n && key_cmp(keys[i], keys[i + 1]) == 0)
            continue;
        put_key_and_value(out, keys[i], is_first, /* sort= */ true);
        is_first = false;
    }
}

static void collect_keys(yyjson_val *object, yyjson_val **keys, size_t n)
{
    yyjson_val *key = unsafe_yyjson_get_first(object);
    for (size_t i = 0; i < n; i++, key = unsafe_yyjson_get_next(key + 1))
        keys[i] = key;
}

__attribute__((noinline)) static void put_few(struct ast_buf *out, yyjson_val *object, size_t n)
{
    yyjson_val *keys[FEW];
    collect_keys(object, keys, n);
    sort_few(keys, n);
    put_sorted(out, keys, n);
}

__attribute__((noinline)) static void put_many(struct ast_buf *out, yyjson_val *object, size_t n)
{
    yyjson_val **keys = calloc(n, sizeof(yyjson_val *));
    if (!keys) {
        if (!out->fail)
            out->fail = AST_E_NO_MEMORY;
        return;
    }
    collect_keys(object, keys, n);
    qsort(keys, n, sizeof keys[0], by_key);
    put_sorted(out, keys, n);
    free(keys);
}

/* Strictly: two equal keys do not ascend. */
static bool is_ascending(yyjson_val *object, size_t n)
{
    yyjson_val *key = unsafe_yyjson_get_first(object);
    for (; n > 1; n--) {
        yyjson_val *next = unsafe_yyjson_get_next(key + 1);
        if (key_cmp(key, next) >= 0)
            return false;
        key = next;
    }
    return true;
}

static void put_object(struct ast_buf *out, yyjson_val *object, bool sort)
{
    size_t n = unsafe_yyjson_get_len(object);
    json_put_byte(out, '{');
    if (n && sort && !is_ascending(object, n)) {
        if (n <= FEW)
            put_few(out, object, n);
        else
            put_many(out, object, n);
    } else if (n) {
        yyjson_val *key = unsafe_yyjson_get_first(object);
        for (size_t i = 0; i < n; i++, key = unsafe_yyjson_get_next(key + 1))
            put_key_and_value(out, key, i == 0, sort);
    }
    json_put_byte(out, '}');
}

static void put_array(struct ast_buf *out, yyjson_val *array, bool sort)
{
    size_t n = unsafe_yyjson_get_len(array);
    json_put_byte(out, '[');
    yyjson_val *v = n ? unsafe_yyjson_get_first(array) : NULL;
    for (size_t i = 0; i < n && !out->fail; i++, v = unsafe_yyjson_get_next(v)) {
        if (i)
            json_put_byte(out, ',');
        put_any(out, v, sort);
    }
    json_put_byte(out, ']');
}

static void put_any(struct ast_buf *out, yyjson_val *v, bool sort)
{
    switch (unsafe_yyjson_get_tag(v)) {
    case YYJSON_TYPE_STR | YYJSON_SUBTYPE_NOESC:
        put_plain_string(out, false, json_val_str(v), false);
        break;
    case YYJSON_TYPE_STR: json_put_string(out, json_val_str(v)); break;
    case YYJSON_TYPE_OBJ: put_object(out, v, sort); break;
    case YYJSON_TYPE_ARR: put_array(out, v, sort); break;
    case YYJSON_TYPE_NUM | YYJSON_SUBTYPE_UINT: json_put_u64(out, v->uni.u64); break;
    case YYJSON_TYPE_NUM | YYJSON_SUBTYPE_SINT: json_put_i64(out, v->uni.i64); break;
    case YYJSON_TYPE_NUM | YYJSON_SUBTYPE_REAL: json_put_f64(out, v->uni.f64); break;
    case YYJSON_TYPE_BOOL | YYJSON_SUBTYPE_TRUE: json_put(out, AST_STR("true")); break;
    case YYJSON_TYPE_BOOL | YYJSON_SUBTYPE_FALSE: json_put(out, AST_STR("false")); break;
    default: json_put(out, AST_STR("null")); break;
    }
}

void json_put_value(struct ast_buf *out, const struct ast_json *v, bool sort)
{
    if (v)
        put_any(out, json_val(v), sort);
    else
        json_put(out, AST_STR("null"));
}

enum ast_rc ast_json_canonical(const struct ast_json *v, struct ast_buf *out)
{
    json_put_value(out, v, /* sort= */ true);
    return out->fail;
}

enum ast_rc ast_json_compact(const struct ast_json *v, struct ast_buf *out)
{
    json_put_value(out, v, /* sort= */ false);
    return out->fail;
}
