/* Memory for things that die together: one arena per unit of work (a host call, a request).
 *
 * Overflow of the ceiling and lack of memory are sticky: later allocations return NULL and one
 * ast_arena_check() at the end tells. Nothing that lives longer may point into an arena.
 * Not thread-safe; passed, never global. Debug builds poison memory on reset.
 */
#pragma once

#include "base/auto.h"
#include "base/error.h"
#include "base/str.h"

struct ast_arena_chunk;

struct ast_arena {
    struct ast_arena_chunk *chunks; /* newest first, owned */
    char *at, *end;                 /* free part of the newest chunk */
    size_t used;                    /* bytes handed out since the last full reset */
    size_t max;                     /* ceiling for used */
    enum ast_rc fail;               /* sticky */
};

struct ast_arena_mark {
    struct ast_arena_chunk *chunk;
    char *at;
    size_t used;
};

#define AST_ARENA_INIT(ceiling)                                                                    \
    {                                                                                              \
        .max = (ceiling)                                                                           \
    }

void ast_arena_done(struct ast_arena *a);
AST_DEFINE_AUTO_VALUE(struct ast_arena, ast_arena_done)

/* Zeroed, 16-byte aligned; NULL on overflow. Size 0 gives a valid unique pointer. */
void *ast_arena_alloc(struct ast_arena *a, size_t size);
/* count * size with overflow check. */
void *ast_arena_array(struct ast_arena *a, size_t count, size_t size);
struct ast_str ast_arena_dup(struct ast_arena *a, struct ast_str s); /* NUL-terminated copy */
struct ast_str ast_arena_fmt(struct ast_arena *a, const char *fmt, ...) AST_PRINTF(2, 3);

static inline struct ast_arena_mark ast_arena_mark(const struct ast_arena *a)
{
    return (struct ast_arena_mark){ a->chunks, a->at, a->used };
}

void ast_arena_rewind(struct ast_arena *a, struct ast_arena_mark m); /* frees all since the mark */
void ast_arena_reset(struct ast_arena *a); /* frees all, keeps one chunk, clears fail */
enum ast_rc ast_arena_check(const struct ast_arena *a, struct ast_err *err);
