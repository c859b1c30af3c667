/* Views, buffers and JSON for capsules: small, strict, fit for hostile input. Portable, so the same code is tested and
 * fuzzed on the host.
 *
 * Memory comes from astrid_alloc(): in a capsule that is the call's arena, freed as a whole when the handler returned.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __wasm32__
#include "astrid_host.h"
#else
struct astrid_str {
    const char *p;
    uint32_t n;
};
#endif

#define ASTRID_STR(lit)   ((struct astrid_str){ "" lit "", sizeof(lit) - 1 })
#define ASTRID_JSON_DEPTH 64 /* deeper input is refused */

/* Zeroed, 8-byte aligned; NULL when memory is used up. */
void *astrid_alloc(uint32_t size);

struct astrid_str astrid_str_c(const char *text);
bool astrid_str_eq(struct astrid_str a, struct astrid_str b);
bool astrid_str_starts(struct astrid_str s, struct astrid_str prefix);
struct astrid_str astrid_str_from(struct astrid_str s, uint32_t at);
struct astrid_str astrid_str_trim(struct astrid_str s);
/* ASCII letters in lower case, in fresh memory. */
struct astrid_str astrid_str_lower(struct astrid_str s);

/* A growing text. `failed` is sticky: check once at the end. */
struct astrid_buf {
    char *p;
    uint32_t n, cap;
    bool failed;
};

void astrid_buf_add(struct astrid_buf *b, struct astrid_str s);
void astrid_buf_u64(struct astrid_buf *b, uint64_t value);
#define astrid_buf_lit(b, lit) astrid_buf_add((b), ASTRID_STR(lit))
/* A JSON string literal with its quotes. */
void astrid_buf_json(struct astrid_buf *b, struct astrid_str text);
static inline struct astrid_str astrid_buf_view(const struct astrid_buf *b)
{
    return (struct astrid_str){ b->p, b->n };
}

/* The raw text of a member's value in the object `json` (last one of duplicates); false when it is absent or `json` is not a
 * well-formed object. */
bool astrid_json_get(struct astrid_str json, struct astrid_str key, struct astrid_str *ret_value);
/* The text of a JSON string value, unescaped into fresh memory (borrowed from the input when nothing was escaped). */
bool astrid_json_text(struct astrid_str value, struct astrid_str *ret);
/* A member that must be a string. */
bool astrid_json_member_text(struct astrid_str json, struct astrid_str key, struct astrid_str *ret);
bool astrid_json_u64(struct astrid_str value, uint64_t *ret);
/* Visits the elements of an array; start with *at = 0. False at the end or when malformed. */
bool astrid_json_element(struct astrid_str array, uint32_t *at, struct astrid_str *ret_value);
/* One complete JSON value and nothing else. */
bool astrid_json_valid(struct astrid_str json);
