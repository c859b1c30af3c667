/* What a replaced run loop leaves behind: see ast_handover in host/env.h.
 *
 * Invariant: a queue is owned by a subscription or by one handover, never by both, and its route is open all the
 * way, so that no message between two loads finds nobody.
 */
#include <stdlib.h>

#include "bus/route.h"
#include "host/host_priv.h"

#include "base/banned.h"

/* Owner: any thread, under `lock`. */
struct ast_handover {
    atomic_uint refs;
    struct ast_lock lock;
    bool is_closed AST_GUARDED_BY(lock);
    AST_VEC(struct host_queue *) left AST_GUARDED_BY(lock); /* owned, in order of giving */
};

void host_queue_close(struct host_queue *q)
{
    if (!q)
        return;
    ast_route_close(q->route); /* after it no publisher touches `wait` */
    host_wait_disarm(&q->wait);
    free((char *)q->pattern.p);
    free(q);
}

enum ast_rc ast_handover_new(struct ast_handover **ret, struct ast_err *err)
{
    struct ast_handover *h = calloc(1, sizeof *h);
    if (!h)
        return ast_fail(err, AST_E_NO_MEMORY, "handover");
    atomic_init(&h->refs, 1);
    ast_lock_init(&h->lock, AST_LOCK_queue);
    *ret = h;
    return AST_OK;
}

struct ast_handover *ast_handover_ref(struct ast_handover *h)
{
    atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
    return h;
}

void ast_handover_unref(struct ast_handover *h)
{
    if (!h || atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) != 1)
        return;
    ast_handover_close(h);
    ast_lock_done(&h->lock);
    free(h);
}

void ast_handover_close(struct ast_handover *h)
{
    if (!h)
        return;
    ast_lock(&h->lock);
    AST_VEC(struct host_queue *) left = { h->left.v, h->left.n, h->left.cap };
    h->is_closed = true;
    h->left.v = NULL;
    h->left.n = h->left.cap = 0;
    ast_unlock(&h->lock);
    ast_vec_each (&left, q) /* closing waits for publishers: not under the lock */
        host_queue_close(*q);
    ast_vec_done(&left);
}

void ast_handover_reopen(struct ast_handover *h)
{
    AST_WITH_LOCK(&h->lock);
    h->is_closed = false;
}

void ast_handover_pass(struct ast_handover *from, struct ast_handover *to)
{
    if (!from)
        return;
    ast_lock(&from->lock);
    AST_VEC(struct host_queue *) left = { from->left.v, from->left.n, from->left.cap };
    from->is_closed = true;
    from->left.v = NULL;
    from->left.n = from->left.cap = 0;
    ast_unlock(&from->lock);
    ast_vec_each (&left, q)
        if (!host_handover_give(to, *q))
            host_queue_close(*q);
    ast_vec_done(&left);
}

bool host_handover_give(struct ast_handover *h, struct host_queue *q)
{
    AST_WITH_LOCK(&h->lock);
    return !h->is_closed && ast_vec_push(&h->left, q);
}

struct host_queue *host_handover_take(struct ast_handover *h, struct ast_str pattern,
                                      bool is_scoped)
{
    AST_WITH_LOCK(&h->lock);
    for (size_t i = 0; i < h->left.n; i++) {
        struct host_queue *q = h->left.v[i];
        if (q->is_scoped != is_scoped || !ast_str_eq(q->pattern, pattern))
            continue;
        memmove(&h->left.v[i], &h->left.v[i + 1], (--h->left.n - i) * sizeof q);
        return q;
    }
    return NULL;
}
