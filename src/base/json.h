/* JSON documents: reading (yyjson behind this door), streaming writing, canonical form.
 *
 * A document is immutable after parsing; values are borrowed from it and valid until it is freed.
 * Any number of threads may read one document. TOML files become the same kind of document
 * (base/toml.h).
 */
#pragma once

#include <stdint.h>

#include "base/buf.h"
#include "base/str.h"

struct ast_json_doc; /* owned */
struct ast_json;     /* one value, borrowed from its document */

#define AST_JSON_MAX_DEPTH 128 /* spec 04 §4.3: deeper input is not valid JSON */

void ast_json_free(struct ast_json_doc *doc);
AST_DEFINE_AUTO(struct ast_json_doc, ast_json_free)

/* RFC 8259, one value, nothing behind it, at most AST_JSON_MAX_DEPTH levels, no unpaired surrogate
 * escapes. Duplicate members are kept (lookup finds the LAST one, as the original does).
 * `text` is copied. Errors: AST_E_INVALID with the byte offset in the message; AST_E_TOO_LARGE depth. */
AST_MUST_CHECK
enum ast_rc ast_json_parse(struct ast_str text, struct ast_json_doc **ret, struct ast_err *err);

const struct ast_json *ast_json_root(const struct ast_json_doc *doc);

enum ast_json_type {
    AST_JSON_NULL,
    AST_JSON_BOOL,
    AST_JSON_INT, /* fits int64_t or uint64_t */
    AST_JSON_REAL,
    AST_JSON_STRING,
    AST_JSON_ARRAY,
    AST_JSON_OBJECT,
    AST_JSON_ABSENT, /* what a NULL value reports */
};

/* Every getter accepts NULL (an absent member), so look-ups chain without checks. */
enum ast_json_type ast_json_type(const struct ast_json *v);
const char *ast_json_type_name(const struct ast_json *v); /* "string", for messages */
bool ast_json_bool(const struct ast_json *v, bool *ret);
bool ast_json_u64(const struct ast_json *v, uint64_t *ret); /* false for negatives and reals */
bool ast_json_i64(const struct ast_json *v, int64_t *ret);
bool ast_json_f64(const struct ast_json *v, double *ret); /* any number */
/* borrowed from the document */
bool ast_json_string(const struct ast_json *v, struct ast_str *ret);

/* last one; NULL */
const struct ast_json *ast_json_get(const struct ast_json *object, struct ast_str key);
#define ast_json_member(object, lit) ast_json_get((object), AST_STR(lit))
/* The string member, or `fallback` when it is absent or not a string. */
struct ast_str ast_json_str_or(const struct ast_json *object, struct ast_str key,
                               struct ast_str fallback);

size_t ast_json_count(const struct ast_json *container); /* elements or members; 0 for others */

struct ast_json_iter {
    const struct ast_json *container; /* starts with it; the rest is private */
    const void *at;
    size_t left;
};
#define AST_JSON_ITER(container_)                                                                  \
    {                                                                                              \
        .container = (container_)                                                                  \
    }
/* *ret_key is empty in arrays. False at the end. */
bool ast_json_next(struct ast_json_iter *it, struct ast_str *ret_key, const struct ast_json **ret);

/* Canonical compact text (spec 04 §4.3): object members in ascending byte order, duplicates
 * collapsed to the last, no white space, only control characters, '"' and '\' escaped; integers
 * kept, other numbers in shortest round-trip form (".0" when integral). Appends to `out`. */
enum ast_rc ast_json_canonical(const struct ast_json *v, struct ast_buf *out);
/* The same without reordering members. */
enum ast_rc ast_json_compact(const struct ast_json *v, struct ast_buf *out);

/* Streaming writer. Commas and colons are its business; misuse is an assert. Errors are sticky in
 * the buffer: check it once at the end. Example:
 *     struct ast_jw w = AST_JW_INIT(&buf);
 *     ast_jw_object(&w);
 *     ast_jw_key(&w, AST_STR("pid")); ast_jw_u64(&w, pid);
 *     ast_jw_end(&w);
 */
#define AST_JW_MAX_DEPTH 32
struct ast_jw {
    struct ast_buf *out; /* borrowed */
    uint8_t depth;
    bool has_key;
    uint8_t indent;               /* 0 compact, else spaces per level */
    bool first[AST_JW_MAX_DEPTH]; /* nothing written yet on that level */
    char close[AST_JW_MAX_DEPTH]; /* ']' or '}' */
};
#define AST_JW_INIT(buf)                                                                           \
    {                                                                                              \
        .out = (buf)                                                                               \
    }
#define AST_JW_PRETTY(buf)                                                                         \
    {                                                                                              \
        .out = (buf), .indent = 2                                                                  \
    }

void ast_jw_object(struct ast_jw *w);
void ast_jw_array(struct ast_jw *w);
void ast_jw_end(struct ast_jw *w); /* closes the innermost container */
void ast_jw_key(struct ast_jw *w, struct ast_str key);
void ast_jw_string(struct ast_jw *w, struct ast_str s); /* invalid UTF-8 becomes U+FFFD */
void ast_jw_u64(struct ast_jw *w, uint64_t v);
void ast_jw_i64(struct ast_jw *w, int64_t v);
void ast_jw_f64(struct ast_jw *w, double v); /* NaN and infinities become null */
void ast_jw_bool(struct ast_jw *w, bool v);
void ast_jw_null(struct ast_jw *w);
void ast_jw_raw(struct ast_jw *w, struct ast_str json);        /* trusted, complete JSON text */
void ast_jw_value(struct ast_jw *w, const struct ast_json *v); /* copies a parsed value, compact */

#define ast_jw_kv_string(w, lit, s) (ast_jw_key((w), AST_STR(lit)), ast_jw_string((w), (s)))
#define ast_jw_kv_u64(w, lit, v)    (ast_jw_key((w), AST_STR(lit)), ast_jw_u64((w), (v)))
#define ast_jw_kv_bool(w, lit, v)   (ast_jw_key((w), AST_STR(lit)), ast_jw_bool((w), (v)))
#define ast_jw_kv_null(w, lit)      (ast_jw_key((w), AST_STR(lit)), ast_jw_null((w)))

/* Writes `s` as a JSON string literal with quotes. */
enum ast_rc ast_json_quote(struct ast_str s, struct ast_buf *out);
