/* The queue and the thread behind gw_worker_post(). Who posts bounds it: a request has one job at most. */
#include "gateway/work_priv.h"

#include "base/banned.h"

static void *worker_main(void *arg)
{
    struct gw_worker *w = arg;
    for (;;) {
        ast_lock(&w->lock);
        while (!w->head && !w->is_stopping)
            (void)ast_cond_wait(&w->wake, &w->lock, -1); /* no deadline: cannot time out */
        struct gw_job *job = w->head;
        if (job && !(w->head = job->next))
            w->tail = &w->head;
        ast_unlock(&w->lock);
        if (!job)
            return NULL;
        job->run(job);
    }
}

enum ast_rc gw_worker_start(struct gw_worker *w, const char *name, struct ast_err *err)
{
    ast_lock_init(&w->lock, AST_LOCK_sched);
    ast_cond_init(&w->wake);
    w->head = NULL;
    w->tail = &w->head;
    enum ast_rc rc = ast_thread_start(&w->thread, name, worker_main, w, err);
    w->is_running = !rc;
    if (rc) {
        pthread_cond_destroy(&w->wake);
        ast_lock_done(&w->lock);
    }
    return rc;
}

bool gw_worker_post(struct gw_worker *w, struct gw_job *job)
{
    AST_WITH_LOCK(&w->lock);
    if (w->is_stopping)
        return false;
    job->next = NULL;
    *w->tail = job;
    w->tail = &job->next;
    pthread_cond_signal(&w->wake);
    return true;
}

void gw_worker_stop(struct gw_worker *w)
{
    if (!w->is_running)
        return;
    ast_lock(&w->lock);
    w->is_stopping = true;
    pthread_cond_signal(&w->wake);
    ast_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->wake);
    ast_lock_done(&w->lock);
    w->is_running = false;
}
