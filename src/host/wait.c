/* Who waits for one object: at most one call, woken from any thread.
 *
 * The slot owns a reference, so a waker never meets a freed call; a call that has gone on since just sees a
 * spurious wake.
 */
#include "host/host_priv.h"

#include "base/banned.h"

void host_wait_arm(struct host_wait *w, struct ast_call *call)
{
    struct ast_call *old = atomic_exchange(&w->waiter, ast_call_ref(call));
    if (old)
        ast_call_unref(old);
}

void host_wait_disarm(struct host_wait *w)
{
    struct ast_call *old = atomic_exchange(&w->waiter, NULL);
    if (old)
        ast_call_unref(old);
}

void host_wait_fire(struct host_wait *w)
{
    /* Pairs with the exchange of arm: whoever armed before this sees the change that we report. */
    struct ast_call *c = atomic_exchange(&w->waiter, NULL);
    if (!c)
        return;
    ast_call_wake(c);
    ast_call_unref(c);
}
