/* UUIDs: random v4, text forms, the nil id. Threads: any. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"

struct ast_uuid {
    uint8_t b[16];
};

#define AST_UUID_NIL  ((struct ast_uuid){ { 0 } })
#define AST_UUID_TEXT 37 /* 36 characters and NUL */

struct ast_uuid ast_uuid_v4(void);
/* Lower case, hyphenated, NUL-terminated; returns a view of it. */
struct ast_str ast_uuid_format(const struct ast_uuid *u, char out[static AST_UUID_TEXT]);
/* Hyphenated or 32-digit, any case, braces, "urn:uuid:" (spec 01 §1). */
bool ast_uuid_parse(struct ast_str s, struct ast_uuid *ret);
static inline bool ast_uuid_eq(const struct ast_uuid *a, const struct ast_uuid *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}
