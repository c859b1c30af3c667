/* The heap of deadlines. Invariant: v[i]->index == i + 1, and no child's key is below its parent's. */
#include "base/heap.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/error.h"

#include "base/banned.h"

static void place(struct ast_heap *h, size_t i, struct ast_heap_node *node)
{
    h->v[i] = node;
    node->index = i + 1;
}

static void sift_up(struct ast_heap *h, size_t i, struct ast_heap_node *node)
{
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (h->v[parent]->key <= node->key)
            break;
        place(h, i, h->v[parent]);
        i = parent;
    }
    place(h, i, node);
}

static void sift_down(struct ast_heap *h, size_t i, struct ast_heap_node *node)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= h->n)
            break;
        if (child + 1 < h->n && h->v[child + 1]->key < h->v[child]->key)
            child++;
        if (node->key <= h->v[child]->key)
            break;
        place(h, i, h->v[child]);
        i = child;
    }
    place(h, i, node);
}

void ast_heap_done(struct ast_heap *h)
{
    for (size_t i = 0; i < h->n; i++)
        h->v[i]->index = 0;
    free(h->v);
    *h = (struct ast_heap){ 0 };
}

bool ast_heap_push(struct ast_heap *h, struct ast_heap_node *node)
{
    AST_ASSERT(node->index == 0);
    if (h->n == h->cap) {
        size_t bytes, cap = h->cap ? h->cap * 2 : 16;
        if (h->cap > SIZE_MAX / 2 ||
            __builtin_mul_overflow(cap, sizeof(struct ast_heap_node *), &bytes))
            return false;
        struct ast_heap_node **v = realloc(h->v, bytes);
        if (!v)
            return false;
        h->v = v;
        h->cap = cap;
    }
    sift_up(h, h->n++, node);
    return true;
}

struct ast_heap_node *ast_heap_peek(const struct ast_heap *h)
{
    return h->n ? h->v[0] : NULL;
}

struct ast_heap_node *ast_heap_pop(struct ast_heap *h)
{
    struct ast_heap_node *first = ast_heap_peek(h);
    if (first)
        ast_heap_remove(h, first);
    return first;
}

void ast_heap_remove(struct ast_heap *h, struct ast_heap_node *node)
{
    if (node->index == 0)
        return;
    size_t i = node->index - 1;
    AST_ASSERT(i < h->n && h->v[i] == node);
    node->index = 0;
    struct ast_heap_node *last = h->v[--h->n];
    if (last == node)
        return;
    if (i > 0 && last->key < h->v[(i - 1) / 2]->key)
        sift_up(h, i, last);
    else
        sift_down(h, i, last);
}
