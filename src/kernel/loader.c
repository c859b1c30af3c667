/* The loader thread: installs, reloads and restarts block on disk and compilation, so they have a thread of their own and
 * happen one after another. */
#include "kernel/kernel_priv.h"

#include "base/banned.h"

static void *loader_main(void *arg)
{
    struct kernel_loader *l = arg;

    for (;;) {
        ast_lock(&l->lock);
        while (!l->head && !l->stop)
            (void)ast_cond_wait(&l->wake, &l->lock, -1); /* no deadline: cannot time out */
        struct kernel_job *job = l->head;
        if (job) {
            l->head = job->next;
            if (!l->head)
                l->tail = &l->head;
        }
        ast_unlock(&l->lock);
        if (!job)
            return NULL;
        job->run(job);
    }
}

enum ast_rc kernel_loader_start(struct kernel_loader *l, struct ast_err *err)
{
    ast_lock_init(&l->lock, AST_LOCK_kernel);
    ast_cond_init(&l->wake);
    l->tail = &l->head;
    l->is_made = true;
    enum ast_rc rc = ast_thread_start(&l->thread, "ast-loader", loader_main, l, err);
    l->started = !rc;
    return rc;
}

bool kernel_loader_post(struct kernel_loader *l, struct kernel_job *job)
{
    AST_WITH_LOCK(&l->lock);
    if (l->stop)
        return false;
    job->next = NULL;
    *l->tail = job;
    l->tail = &job->next;
    pthread_cond_signal(&l->wake);
    return true;
}

void kernel_loader_stop(struct kernel_loader *l)
{
    if (!l->started)
        return;
    ast_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->wake);
    ast_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->started = false;
}

void kernel_loader_done(struct kernel_loader *l)
{
    kernel_loader_stop(l);
    if (!l->is_made)
        return;
    pthread_cond_destroy(&l->wake);
    ast_lock_done(&l->lock);
    l->is_made = false;
}
