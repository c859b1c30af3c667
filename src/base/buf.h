/* An owned growing byte string, born with its ceiling.
 *
 * Invariant: once something was appended, p[n] == 0. A failed append leaves the content as it was
 * and sets `failed`; later appends are no-ops, so one ast_buf_check() at the end suffices.
 * The zeroed state with a ceiling is valid and empty. Not thread-safe.
 */
#pragma once

#include "base/auto.h"
#include "base/error.h"
#include "base/str.h"

struct ast_buf {
    char *p;          /* owned */
    size_t n;         /* bytes in use */
    size_t cap;       /* bytes allocated */
    size_t max;       /* ceiling for n */
    enum ast_rc fail; /* AST_OK, AST_E_TOO_LARGE or AST_E_NO_MEMORY; sticky */
};

#define AST_BUF_INIT(ceiling)                                                                      \
    {                                                                                              \
        .max = (ceiling)                                                                           \
    }

void ast_buf_done(struct ast_buf *b); /* frees, keeps the ceiling */
AST_DEFINE_AUTO_VALUE(struct ast_buf, ast_buf_done)

void ast_buf_reset(struct ast_buf *b); /* empties, keeps the memory, clears fail */

/* All return the sticky state: AST_OK or why the buffer failed. */
enum ast_rc ast_buf_reserve(struct ast_buf *b, size_t extra);
enum ast_rc ast_buf_add(struct ast_buf *b, struct ast_str s);
enum ast_rc ast_buf_add_byte(struct ast_buf *b, char c);
enum ast_rc ast_buf_addf(struct ast_buf *b, const char *fmt, ...) AST_PRINTF(2, 3);
#define ast_buf_add_lit(b, lit) ast_buf_add((b), AST_STR(lit))

/* Reports the sticky state as an error that names `what`. */
enum ast_rc ast_buf_check(const struct ast_buf *b, const char *what, struct ast_err *err);

void ast_buf_consume(struct ast_buf *b, size_t n); /* drops the first n bytes, n <= b->n */

static inline struct ast_str ast_buf_view(const struct ast_buf *b)
{
    return (struct ast_str){ b->p, b->n }; /* borrowed until the next change of b */
}

/* Gives the bytes away (NUL-terminated, free()); the buffer is empty afterwards. NULL if empty
 * and nothing was ever allocated. */
char *ast_buf_steal(struct ast_buf *b);
