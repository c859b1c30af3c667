/* The names of things that act: principal ids and capsule ids.
 *
 * Principal: 1..64 of [A-Za-z0-9-_] (spec 01 §1). Capsule: non-empty [a-z0-9-] (spec 05 §1).
 */
#pragma once

#include "base/error.h"
#include "base/str.h"

#define AST_PRINCIPAL_MAX     64
#define AST_PRINCIPAL_DEFAULT AST_STR("default")

/* A principal id by value; n == 0 means "no principal" (system). */
struct ast_principal {
    uint8_t n;
    char name[AST_PRINCIPAL_MAX + 1]; /* NUL-terminated */
};

bool ast_principal_valid(struct ast_str s);
/* The three error texts of spec 01 §1. */
enum ast_rc ast_principal_parse(struct ast_str s, struct ast_principal *ret, struct ast_err *err);
static inline struct ast_str ast_principal_str(const struct ast_principal *p)
{
    return (struct ast_str){ p->name, p->n };
}
static inline bool ast_principal_eq(const struct ast_principal *a, const struct ast_principal *b)
{
    return a->n == b->n && memcmp(a->name, b->name, a->n) == 0;
}

/* "user", "agent" or "system" (empty): the bounded metric label of spec 04 §12; static text. */
const char *ast_principal_class(struct ast_str principal);

bool ast_capsule_id_valid(struct ast_str s);
/* The two error texts of spec 07 §2.10 (without the "Unsupported entry point: " prefix). */
enum ast_rc ast_capsule_id_check(struct ast_str s, struct ast_err *err);
