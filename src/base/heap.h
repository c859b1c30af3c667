/* A binary min-heap of deadlines, intrusive: the node lives in the waiting object.
 * Cost: push, pop and remove O(log n). Not thread-safe. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ast_heap_node {
    int64_t key;  /* smaller comes first; usually monotonic nanoseconds */
    size_t index; /* place in the heap + 1; 0 = not queued */
};

struct ast_heap {
    struct ast_heap_node **v; /* owned array, borrowed nodes */
    size_t n, cap;
};

void ast_heap_done(struct ast_heap *h);
bool ast_heap_push(struct ast_heap *h, struct ast_heap_node *node);   /* false: out of memory */
struct ast_heap_node *ast_heap_peek(const struct ast_heap *h);        /* NULL when empty */
struct ast_heap_node *ast_heap_pop(struct ast_heap *h);               /* NULL when empty */
void ast_heap_remove(struct ast_heap *h, struct ast_heap_node *node); /* no-op when not queued */
