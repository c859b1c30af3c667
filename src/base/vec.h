/* A growing array of any type: AST_VEC(struct route) routes = { 0 };
 *
 * Holds values, owns only its own storage. Pointers to elements are valid until the next push.
 * Not thread-safe.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#define AST_VEC(T)                                                                                 \
    struct {                                                                                       \
        T *v;                                                                                      \
        size_t n, cap;                                                                             \
    }

/* Grows so that one more element fits; false when out of memory (nothing changed). */
bool ast_vec_grow_(void **v, size_t *cap, size_t n, size_t elem);

#define ast_vec_push(vec, ...)                                                                     \
    ((vec)->n < (vec)->cap ||                                                                      \
             ast_vec_grow_((void **)&(vec)->v, &(vec)->cap, (vec)->n, sizeof *(vec)->v)            \
         ? ((vec)->v[(vec)->n++] = (__VA_ARGS__), true)                                            \
         : false)

#define ast_vec_remove_swap(vec, i) ((vec)->v[i] = (vec)->v[--(vec)->n])
#define ast_vec_clear(vec)          ((vec)->n = 0)
#define ast_vec_done(vec)                                                                          \
    do {                                                                                           \
        free((vec)->v);                                                                            \
        (vec)->v = NULL;                                                                           \
        (vec)->n = (vec)->cap = 0;                                                                 \
    } while (0)
#define ast_vec_each(vec, it)                                                                      \
    for (__typeof__((vec)->v + 0) it = (vec)->v; it && it < (vec)->v + (vec)->n; ++it)
