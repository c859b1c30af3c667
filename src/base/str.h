/* A borrowed view of bytes: pointer and length, passed by value, may hold NUL bytes.
 *
 * Nothing here allocates except the functions named dup. An empty view may have p == NULL.
 * Threads: pure functions, any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct ast_str {
    const char *p;
    size_t n;
};

#define AST_STR(lit)   ((struct ast_str){ "" lit "", sizeof(lit) - 1 })
#define AST_STR_NONE   ((struct ast_str){ NULL, 0 })
#define AST_STR_FMT    "%.*s"
#define AST_STR_ARG(s) (int)(s).n, ((s).p ? (s).p : "")

static inline struct ast_str ast_str_c(const char *c)
{
    return (struct ast_str){ c, c ? strlen(c) : 0 };
}

static inline struct ast_str ast_str_n(const void *p, size_t n)
{
    return (struct ast_str){ (const char *)p, n };
}

static inline bool ast_str_eq(struct ast_str a, struct ast_str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

#define ast_str_is(s, lit) ast_str_eq((s), AST_STR(lit))

static inline bool ast_str_starts(struct ast_str s, struct ast_str prefix)
{
    return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

static inline bool ast_str_ends(struct ast_str s, struct ast_str suffix)
{
    return s.n >= suffix.n &&
           (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}

/* The part from `at` on; `at` beyond the end gives an empty view. */
static inline struct ast_str ast_str_from(struct ast_str s, size_t at)
{
    return at >= s.n ? (struct ast_str){ s.p ? s.p + s.n : NULL, 0 }
                     : (struct ast_str){ s.p + at, s.n - at };
}

static inline struct ast_str ast_str_first(struct ast_str s, size_t n)
{
    return (struct ast_str){ s.p, n < s.n ? n : s.n };
}

/* Byte order, shorter first on a common prefix: <0, 0, >0. */
int ast_str_cmp(struct ast_str a, struct ast_str b);
bool ast_str_eq_nocase(struct ast_str a, struct ast_str b); /* ASCII letters only */
struct ast_str ast_str_trim(struct ast_str s);              /* ASCII white space at both ends */

#define AST_STR_NPOS SIZE_MAX
size_t ast_str_find_byte(struct ast_str s, char c);           /* AST_STR_NPOS when absent */
size_t ast_str_find(struct ast_str s, struct ast_str needle); /* AST_STR_NPOS when absent */

/* Cuts the next piece before `sep` off *rest; false when *rest is used up.
 * "a..b" gives "a", "", "b"; the empty string gives one empty piece. Start with *rest = s and
 * *more = true. */
bool ast_str_split(struct ast_str *rest, bool *more, char sep, struct ast_str *ret_piece);

/* Strict decimal u64: digits only, no sign, no leading zero unless "0", no overflow. */
bool ast_str_to_u64(struct ast_str s, uint64_t *ret);

/* As a C string into to[size]. False, and nothing written, when it is longer or holds a NUL. */
bool ast_str_to_c(struct ast_str s, char *to, size_t size);

/* Well-formed UTF-8 (no surrogates, no overlongs, at most U+10FFFF). ASCII runs at memory speed. */
bool ast_str_is_utf8(struct ast_str s);

/* Owned, NUL-terminated copy; NULL when out of memory. Release with free(). */
char *ast_str_dup(struct ast_str s);

/* 64-bit hash for tables (not for security against offline attackers; seeded per process). */
uint64_t ast_str_hash(struct ast_str s);
