/* Host-call ceilings: how many calls of one capsule may be inside calls that wait (spec 05 §22.1).
 *
 * First come, first served. A waiting call is parked; its entry lives on its fiber's stack and is always
 * unlinked before that stack goes, because a park returns even when the call is cancelled.
 */
#include <stdlib.h>

#include "host/host_priv.h"

#include "base/banned.h"

/* Owner: any thread, under `lock`. */
struct ast_permits {
    struct ast_lock lock;
    struct ast_list waiters AST_GUARDED_BY(lock); /* struct waiter, oldest first */
    unsigned used AST_GUARDED_BY(lock);
    unsigned limit;
};

struct waiter {
    struct ast_list node;
    struct ast_call *call; /* borrowed: its fiber holds this entry */
    bool granted;
};

enum ast_rc ast_permits_new(unsigned limit, struct ast_permits **ret, struct ast_err *err)
{
    struct ast_permits *p = calloc(1, sizeof *p);
    if (!p)
        return ast_fail(err, AST_E_NO_MEMORY, "permits");
    ast_lock_init(&p->lock, AST_LOCK_ledger);
    ast_list_init(&p->waiters);
    p->limit = AST_MAX(limit, 1u);
    *ret = p;
    return AST_OK;
}

void ast_permits_free(struct ast_permits *p)
{
    if (!p)
        return;
    AST_ASSERT(p->used == 0 && ast_list_empty(&p->waiters));
    ast_lock_done(&p->lock);
    free(p);
}

/* True: granted. False: `w` is in line. */
static bool take_or_queue(struct ast_permits *p, struct waiter *w)
{
    AST_WITH_LOCK(&p->lock);
    if (p->used < p->limit && ast_list_empty(&p->waiters)) {
        p->used++;
        return true;
    }
    ast_list_push_back(&p->waiters, &w->node);
    return false;
}

static bool is_granted(struct ast_permits *p, const struct waiter *w)
{
    AST_WITH_LOCK(&p->lock);
    return w->granted;
}

/* Out of the line; true when it had been granted in the meantime. */
static bool leave_line(struct ast_permits *p, struct waiter *w)
{
    AST_WITH_LOCK(&p->lock);
    if (!w->granted)
        ast_list_remove(&w->node);
    return w->granted;
}

enum ast_rc host_permit_take(struct ast_permits *p, struct ast_abi *a)
{
    if (!p)
        return AST_OK;
    struct waiter w = { .call = ast_abi_call(a) };
    if (take_or_queue(p, &w))
        return AST_OK;

    struct ast_host_call *call = host_call(a);
    enum ast_rc rc = AST_OK;
    while (rc != AST_E_CANCELLED && !host_is_unloading(call) && !is_granted(p, &w))
        rc = ast_call_park(a, AST_NO_DEADLINE);
    bool granted = leave_line(p, &w);
    /* Unload wins over a grant that came at the same time. */
    if (rc != AST_E_CANCELLED && !host_is_unloading(call))
        return AST_OK;
    if (granted)
        host_permit_give(p);
    return AST_E_CANCELLED;
}

void host_permit_give(struct ast_permits *p)
{
    if (!p)
        return;
    struct ast_call *next = NULL;
    {
        AST_WITH_LOCK(&p->lock);
        struct ast_list *node = ast_list_pop_front(&p->waiters);
        if (node) {
            struct waiter *w = AST_CONTAINER_OF(node, struct waiter, node);
            w->granted = true; /* the permit changes hands: `used` stays */
            next = ast_call_ref(w->call);
        } else {
            p->used--;
        }
    }
    if (next) {
        ast_call_wake(next);
        ast_call_unref(next);
    }
}
