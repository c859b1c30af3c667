/* Chunks of memory that go away together.
 *
 * Invariant: [at, end) is the free tail of the newest chunk; `used` never exceeds `max`.
 */
#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/checked_priv.h"

#include "base/banned.h"

#define ALIGN        16
#define FIRST_CHUNK  2048
#define LARGEST_STEP ((size_t)256 * 1024)

struct ast_arena_chunk {
    struct ast_arena_chunk *older;
    size_t size; /* bytes of data */
    _Alignas(ALIGN) char data[];
};

static void poison(char *from, const char *to)
{
    size_t n = (size_t)(to - from);
    if (AST_CHECKED_BUILD && n)
        memset(from, 0xdb, n);
    AST_POISON(from, n);
}

static void chunk_free(struct ast_arena_chunk *c)
{
    AST_UNPOISON(c->data, c->size);
    free(c);
}

static bool chunk_push(struct ast_arena *a, size_t need)
{
    size_t size = a->chunks ? a->chunks->size * 2 : FIRST_CHUNK;
    if (size > LARGEST_STEP)
        size = LARGEST_STEP;
    if (size < need)
        size = need;
    struct ast_arena_chunk *c = malloc(sizeof *c + size);
    if (!c)
        return false;
    c->older = a->chunks;
    c->size = size;
    AST_POISON(c->data, size);
    a->chunks = c;
    a->at = c->data;
    a->end = c->data + size;
    return true;
}

void ast_arena_done(struct ast_arena *a)
{
    while (a->chunks) {
        struct ast_arena_chunk *older = a->chunks->older;
        chunk_free(a->chunks);
        a->chunks = older;
    }
    *a = (struct ast_arena){ .max = a->max };
}

/* The bytes are not zeroed yet. */
static char *take(struct ast_arena *a, size_t size)
{
    if (a->fail)
        return NULL;
    if (size > a->max || size > SIZE_MAX - 2 * ALIGN - sizeof(struct ast_arena_chunk)) {
        a->fail = AST_E_TOO_LARGE;
        return NULL;
    }
    size_t step = size ? (size + ALIGN - 1) & ~(size_t)(ALIGN - 1) : ALIGN;
    if (step > a->max - a->used) {
        a->fail = AST_E_TOO_LARGE;
        return NULL;
    }
    if (step > (size_t)(a->end - a->at) && !chunk_push(a, step)) {
        a->fail = AST_E_NO_MEMORY;
        return NULL;
    }
    char *p = a->at;
    a->at += step;
    a->used += step;
    AST_UNPOISON(p, size);
    return p;
}

void *ast_arena_alloc(struct ast_arena *a, size_t size)
{
    char *p = take(a, size);
    if (p && size)
        memset(p, 0, size);
    return p;
}

void *ast_arena_array(struct ast_arena *a, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        if (!a->fail)
            a->fail = AST_E_TOO_LARGE;
        return NULL;
    }
    return ast_arena_alloc(a, bytes);
}

struct ast_str ast_arena_dup(struct ast_arena *a, struct ast_str s)
{
    char *p = s.n < SIZE_MAX ? take(a, s.n + 1) : NULL;
    if (!p)
        return AST_STR_NONE;
    if (s.n)
        memcpy(p, s.p, s.n);
    p[s.n] = 0;
    return (struct ast_str){ p, s.n };
}

struct ast_str ast_arena_fmt(struct ast_arena *a, const char *fmt, ...)
{
    if (a->fail)
        return AST_STR_NONE;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) {
        a->fail = AST_E_INVALID;
        return AST_STR_NONE;
    }
    char *p = take(a, (size_t)n + 1);
    if (!p)
        return AST_STR_NONE;
    va_start(args, fmt);
    (void)vsnprintf(p, (size_t)n + 1, fmt, args); /* the same text as just measured */
    va_end(args);
    return (struct ast_str){ p, (size_t)n };
}

void ast_arena_rewind(struct ast_arena *a, struct ast_arena_mark m)
{
    while (a->chunks != m.chunk) {
        /* A mark that was taken in the empty arena still keeps one chunk for the next round. */
        if (!m.chunk && !a->chunks->older) {
            m.at = a->chunks->data;
            break;
        }
        AST_ASSERT(a->chunks);
        struct ast_arena_chunk *older = a->chunks->older;
        chunk_free(a->chunks);
        a->chunks = older;
    }
    a->at = m.at;
    a->end = a->chunks ? a->chunks->data + a->chunks->size : NULL;
    a->used = m.used;
    if (a->chunks) {
        AST_UNPOISON(a->at, (size_t)(a->end - a->at));
        poison(a->at, a->end);
    }
}

void ast_arena_reset(struct ast_arena *a)
{
    ast_arena_rewind(a, (struct ast_arena_mark){ 0 });
    a->fail = AST_OK;
}

enum ast_rc ast_arena_check(const struct ast_arena *a, struct ast_err *err)
{
    if (!a->fail)
        return AST_OK;
    if (a->fail == AST_E_TOO_LARGE)
        return ast_fail(err, a->fail, "work area: larger than %zu bytes", a->max);
    return ast_fail(err, a->fail, "work area: %s", ast_rc_text(a->fail));
}
