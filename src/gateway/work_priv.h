/* A thread for what blocks: files, the audit log. Jobs run in order, one at a time.
 *
 * Loops may not wait for a disk, so they hand such work over and get the result back as a post.
 */
#pragma once

#include "base/thread.h"

struct gw_job {
    struct gw_job *next; /* private */
    void (*run)(struct gw_job *job);
};

/* Owner: any thread, under `lock`. Zeroed is stopped. */
struct gw_worker {
    struct ast_lock lock;
    pthread_cond_t wake;
    pthread_t thread;
    struct gw_job *head, **tail AST_GUARDED_BY(lock);
    bool is_stopping AST_GUARDED_BY(lock);
    bool is_running; /* written by the owner of the worker */
};

AST_MUST_CHECK
enum ast_rc gw_worker_start(struct gw_worker *w, const char *name, struct ast_err *err);
/* Any thread. False once stopping: the job will not run. */
bool gw_worker_post(struct gw_worker *w, struct gw_job *job);
/* Runs what is queued, then joins. A stopped worker is fine. */
void gw_worker_stop(struct gw_worker *w);
