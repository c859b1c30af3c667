/* One thread, many callers, who are served in turn: a caller with a thousand requests holds up another for one of them.
 *
 * What one caller may let wait depends on how much room is left: as much as is free. So one alone may use half of the room,
 * and however many are greedy, the next one still finds some.
 *
 *     ring of callers:  A -> B -> C        each with its own jobs in order
 */
#include <stdlib.h>

#include "kernel/kernel_priv.h"

#include "base/banned.h"

#define TURNS_ROOM 2048u

/* One caller's jobs. Under the lock of the turns. */
struct turn {
    struct turn *next; /* in the ring */
    struct ast_principal caller;
    struct kernel_job *head, **tail;
    unsigned n;
};

static struct turn *turn_get(struct kernel_turns *t, struct ast_str caller) AST_REQUIRES(t->lock)
{
    struct turn *turn = ast_map_get(&t->callers, caller);
    if (turn)
        return turn;
    turn = calloc(1, sizeof *turn);
    if (!turn || ast_principal_parse(caller, &turn->caller, NULL) ||
        !ast_map_set(&t->callers, caller, turn, NULL)) {
        free(turn);
        return NULL;
    }
    turn->tail = &turn->head;
    *t->last = turn;
    t->last = &turn->next;
    return turn;
}

/* The first job of the first caller, who goes to the end of the ring. */
static struct kernel_job *take(struct kernel_turns *t) AST_REQUIRES(t->lock)
{
    struct turn *turn = t->first;
    if (!turn)
        return NULL;
    struct kernel_job *job = turn->head;
    turn->head = job->next;
    t->waiting--;
    t->first = turn->next;
    if (!t->first)
        t->last = &t->first;
    if (--turn->n) {
        turn->next = NULL;
        *t->last = turn;
        t->last = &turn->next;
    } else {
        ast_map_remove(&t->callers, ast_principal_str(&turn->caller));
        free(turn);
    }
    return job;
}

size_t kernel_turns_more(struct kernel_turns *t, void (*run)(struct kernel_job *job),
                         struct kernel_job **ret, size_t max)
{
    size_t got = 0, passed = 0;

    AST_WITH_LOCK(&t->lock);
    /* Once around without a find: the rest is of another kind. Callers who are passed over keep their order. */
    while (got < max && t->first && passed < t->callers.n) {
        if (t->first->head->run == run) {
            ret[got++] = take(t);
            passed = 0;
            continue;
        }
        struct turn *turn = t->first;
        if (turn->next) {
            t->first = turn->next;
            turn->next = NULL;
            *t->last = turn;
            t->last = &turn->next;
        }
        passed++;
    }
    return got;
}

static void *turns_main(void *arg)
{
    struct kernel_turns *t = arg;

    for (;;) {
        ast_lock(&t->lock);
        while (!t->first && !t->stop)
            (void)ast_cond_wait(&t->wake, &t->lock, -1); /* no deadline: cannot time out */
        struct kernel_job *job = take(t);
        ast_unlock(&t->lock);
        if (!job)
            return NULL;
        job->run(job);
    }
}

enum ast_rc kernel_turns_start(struct kernel_turns *t, const char *name, struct ast_err *err)
{
    ast_lock_init(&t->lock, AST_LOCK_kernel);
    ast_cond_init(&t->wake);
    t->last = &t->first;
    enum ast_rc rc = ast_thread_start(&t->thread, name, turns_main, t, err);
    t->started = !rc;
    return rc;
}

enum ast_rc kernel_turns_post(struct kernel_turns *t, struct ast_str caller, struct kernel_job *job,
                              struct ast_err *err)
{
    AST_WITH_LOCK(&t->lock);
    if (t->stop)
        return ast_fail(err, AST_E_CLOSED, "the daemon is shutting down");
    const struct turn *own = ast_map_get(&t->callers, caller);
    if ((own ? own->n : 0) >= TURNS_ROOM - t->waiting)
        return ast_fail(err, AST_E_BUSY, "too many requests are waiting");
    struct turn *turn = turn_get(t, caller);
    if (!turn)
        return ast_fail(err, AST_E_NO_MEMORY, "request");
    job->next = NULL;
    *turn->tail = job;
    turn->tail = &job->next;
    turn->n++;
    t->waiting++;
    pthread_cond_signal(&t->wake);
    return AST_OK;
}

void kernel_turns_stop(struct kernel_turns *t)
{
    if (!t->started)
        return;
    ast_lock(&t->lock);
    t->stop = true;
    pthread_cond_signal(&t->wake);
    ast_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    ast_map_done(&t->callers);
    pthread_cond_destroy(&t->wake);
    ast_lock_done(&t->lock);
    *t = (struct kernel_turns){ .stop = true };
}
