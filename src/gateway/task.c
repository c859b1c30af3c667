/* One request's blocking work: from its loop to the disk thread and back.
 *
 * Owner of a task: the disk thread until its post, then the loop. A client that left does not shorten that life.
 */
#include "gateway/gateway_priv.h"

#include "base/banned.h"

static void finish(struct gw_task *t)
{
    gw_exchange_unref(t->ex);
    t->free(t);
}

static void on_loop(struct gw_post *post)
{
    struct gw_task *t = AST_CONTAINER_OF(post, struct gw_task, post);
    if (gw_exchange_open(t->ex))
        t->reply(t);
    finish(t);
}

static void on_worker(struct gw_job *job)
{
    struct gw_task *t = AST_CONTAINER_OF(job, struct gw_task, job);
    t->work(t);
    if (!gw_exchange_post(t->ex, &t->post))
        finish(t);
}

void gw_task_start(struct gw_call *call, struct gw_task *t)
{
    t->call = *call;
    t->ex = gw_exchange_ref(call->ex);
    t->job.run = on_worker;
    t->post.fn = on_loop;
    if (gw_worker_post(&call->g->disk, &t->job))
        return;
    gw_reply_internal(call, "the gateway is stopping");
    finish(t);
}
