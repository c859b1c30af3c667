/* An intrusive doubly linked list. The head is a node of its own; a linked node is in one list.
 * Holds, does not own. Not thread-safe. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct ast_list {
    struct ast_list *prev, *next;
};

static inline void ast_list_init(struct ast_list *head)
{
    head->prev = head->next = head;
}

static inline bool ast_list_empty(const struct ast_list *head)
{
    return head->next == head;
}

static inline void ast_list_insert_(struct ast_list *n, struct ast_list *prev,
                                    struct ast_list *next)
{
    n->prev = prev;
    n->next = next;
    prev->next = n;
    next->prev = n;
}

static inline void ast_list_push_back(struct ast_list *head, struct ast_list *n)
{
    ast_list_insert_(n, head->prev, head);
}

static inline void ast_list_push_front(struct ast_list *head, struct ast_list *n)
{
    ast_list_insert_(n, head, head->next);
}

static inline void ast_list_remove(
    struct ast_list *n) /* leaves n self-linked: harmless to repeat */
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    n->prev = n->next = n;
}

static inline struct ast_list *ast_list_pop_front(struct ast_list *head) /* NULL when empty */
{
    struct ast_list *n = head->next;
    if (n == head)
        return NULL;
    ast_list_remove(n);
    return n;
}

/* `it` may be removed inside the loop. */
#define ast_list_each(head, it)                                                                    \
    for (struct ast_list *it = (head)->next, *it##_next = it->next; it != (head);                  \
         it = it##_next, it##_next = it->next)
