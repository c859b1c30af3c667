/* A change of the store that a guest waits for: queued to the writer, the fiber parked until it is durable.
 *
 * Invariant: the queued operation owns what it needs and outlives the call when that is cancelled: it happens or
 * not, as a whole. A blocking permit is held while waiting.
 */
#include "host/host_priv.h"

#include "base/banned.h"

void host_change_init(struct host_change *c, struct ast_abi *a,
                      void (*release)(struct host_change *))
{
    c->call = ast_call_ref(ast_abi_call(a));
    atomic_init(&c->refs, 1);
    atomic_init(&c->is_done, false);
    c->rc = AST_OK;
    c->err = (struct ast_err)AST_ERR_INIT;
    c->release = release;
}

void host_change_unref(struct host_change *c)
{
    if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    ast_call_unref(c->call);
    c->release(c);
}

void host_change_done(struct host_change *c, enum ast_rc rc, const struct ast_err *err)
{
    c->rc = rc;
    if (rc && err)
        c->err = *err;
    atomic_store_explicit(&c->is_done, true, memory_order_release);
    ast_call_wake(c->call);
    host_change_unref(c);
}

static enum ast_rc wait_done(struct ast_abi *a, struct host_change *c, struct ast_err *err)
{
    while (!atomic_load_explicit(&c->is_done, memory_order_acquire))
        if (ast_call_park(a, AST_NO_DEADLINE) == AST_E_CANCELLED)
            return ast_fail(err, AST_E_CANCELLED, "%s", ast_rc_text(AST_E_CANCELLED));
    if (c->rc)
        *err = c->err;
    return c->rc;
}

enum ast_rc host_change_run(struct host_change *c, struct ast_abi *a, struct ast_store_op *op,
                            struct ast_err *err)
{
    struct ast_host_call *call = host_call(a);
    host_progress(call);
    enum ast_rc rc = host_permit_take(call->env->blocking, a);
    if (rc)
        return ast_fail(err, rc, "%s", ast_rc_text(rc));
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed); /* the writer's */
    ast_store_submit(call->env->host->store, op);
    rc = wait_done(a, c, err);
    host_permit_give(call->env->blocking);
    return rc;
}
