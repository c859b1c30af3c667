/* A hash table from byte string to pointer. Keys are copied; values are not owned.
 *
 * Iteration order is never visible: sort before printing or hashing. Not thread-safe.
 */
#pragma once

#include "base/auto.h"
#include "base/str.h"

struct ast_map_slot;

struct ast_map {
    struct ast_map_slot *slots; /* open addressing, owned */
    size_t n, cap, tombs;
};

void ast_map_done(struct ast_map *m);
AST_DEFINE_AUTO_VALUE(struct ast_map, ast_map_done)

void *ast_map_get(const struct ast_map *m, struct ast_str key); /* NULL when absent */
/* Replaces or inserts; `value` must not be NULL. *ret_old (may be NULL) gets the value replaced.
 * False when out of memory: nothing changed. */
bool ast_map_set(struct ast_map *m, struct ast_str key, void *value, void **ret_old);
void *ast_map_remove(struct ast_map *m, struct ast_str key); /* the value, NULL when absent */

/* Visits each entry once: start with *pos = 0; false at the end. Removing the visited entry is
 * allowed, inserting is not. *ret_key is borrowed until the entry is removed. */
bool ast_map_next(const struct ast_map *m, size_t *pos, struct ast_str *ret_key, void **ret_value);
