/* The growing byte string: every append checks the ceiling first, then the memory. */
#include "base/buf.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/banned.h"

#define FIRST_CAP 64

void ast_buf_done(struct ast_buf *b)
{
    free(b->p);
    *b = (struct ast_buf){ .max = b->max };
}

void ast_buf_reset(struct ast_buf *b)
{
    b->n = 0;
    b->fail = AST_OK;
    if (b->p)
        b->p[0] = 0;
}

enum ast_rc ast_buf_reserve(struct ast_buf *b, size_t extra)
{
    if (b->fail)
        return b->fail;
    if (extra < b->cap - b->n && b->cap && extra <= b->max - b->n)
        return AST_OK;
    if (b->n > b->max || extra > b->max - b->n)
        return b->fail = AST_E_TOO_LARGE;

    size_t need;
    if (__builtin_add_overflow(b->n + 1, extra, &need) || need > PTRDIFF_MAX)
        return b->fail = AST_E_NO_MEMORY; /* no allocator gives more than that */
    size_t cap = b->cap * 2;
    if (cap < FIRST_CAP)
        cap = FIRST_CAP;
    if (cap > b->max && b->max < SIZE_MAX)
        cap = b->max + 1;
    if (cap < need)
        cap = need;
    char *p = realloc(b->p, cap);
    if (!p)
        return b->fail = AST_E_NO_MEMORY;
    b->p = p;
    b->cap = cap;
    p[b->n] = 0;
    return AST_OK;
}

enum ast_rc ast_buf_add(struct ast_buf *b, struct ast_str s)
{
    enum ast_rc rc = ast_buf_reserve(b, s.n);
    if (rc)
        return rc;
    if (s.n)
        memcpy(b->p + b->n, s.p, s.n);
    b->n += s.n;
    b->p[b->n] = 0;
    return AST_OK;
}

enum ast_rc ast_buf_add_byte(struct ast_buf *b, char c)
{
    enum ast_rc rc = ast_buf_reserve(b, 1);
    if (rc)
        return rc;
    b->p[b->n++] = c;
    b->p[b->n] = 0;
    return AST_OK;
}

enum ast_rc ast_buf_addf(struct ast_buf *b, const char *fmt, ...)
{
    if (b->fail)
        return b->fail;
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);

    size_t room = b->cap > b->n ? b->cap - b->n : 0;
    int n = vsnprintf(room ? b->p + b->n : NULL, room, fmt, args);
    enum ast_rc rc = n < 0 ? (b->fail = AST_E_INVALID) : AST_OK;
    size_t len = rc ? 0 : (size_t)n;
    if (!rc && len >= room) {
        rc = ast_buf_reserve(b, len);
        if (!rc)
            (void)vsnprintf(b->p + b->n, len + 1, fmt, again); /* the same text as just measured */
    } else if (!rc && len > b->max - b->n) {
        rc = b->fail = AST_E_TOO_LARGE;
    }
    if (!rc)
        b->n += len;
    if (b->p)
        b->p[b->n] = 0;
    va_end(again);
    va_end(args);
    return rc;
}

enum ast_rc ast_buf_check(const struct ast_buf *b, const char *what, struct ast_err *err)
{
    if (!b->fail)
        return AST_OK;
    if (b->fail == AST_E_TOO_LARGE)
        return ast_fail(err, b->fail, "%s: larger than %zu bytes", what, b->max);
    return ast_fail(err, b->fail, "%s: %s", what, ast_rc_text(b->fail));
}

void ast_buf_consume(struct ast_buf *b, size_t n)
{
    AST_ASSERT(n <= b->n);
    if (n == 0)
        return;
    b->n -= n;
    memmove(b->p, b->p + n, b->n);
    b->p[b->n] = 0;
}

char *ast_buf_steal(struct ast_buf *b)
{
    char *p = b->p;
    *b = (struct ast_buf){ .max = b->max };
    return p;
}
