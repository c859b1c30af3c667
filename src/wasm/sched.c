/* Workers and their one run queue.
 *
 * Invariant: a queued task is run by some worker: whoever queues wakes a sleeper unless one is already on its
 * way, and a woken worker that leaves work behind wakes the next. So at most one wake-up is in flight and
 * none is made while everybody is awake.
 */
#include "wasm/sched.h"

#include <stdlib.h>

#include "base/time.h"
#include "wasm/sched_priv.h"

#include "base/banned.h"

#define KEEP_SPARE     ((size_t)64 * 1024)  /* a sleeping worker keeps that much for ever, */
#define LARGE_SPARE_NS (1 * AST_NS_PER_SEC) /* more than that so long */

static _Thread_local struct sched_worker *self;

/* Not inlined: a compiler may keep the address of a thread-local over a park, which changes threads. */
__attribute__((noinline)) struct sched_worker *sched_self(void)
{
    return self;
}

bool ast_sched_on_worker(const struct ast_sched *s)
{
    struct sched_worker *w = sched_self();
    return w && w->sched == s;
}

/* --- The queue ----------------------------------------------------------------------------------- */

/* True: signal `work` after the lock is released. */
static bool wants_sleeper(struct ast_sched *s) AST_REQUIRES(s->lock)
{
    if (!s->first || !s->sleepers || s->is_waking)
        return false;
    s->is_waking = true;
    return true;
}

void ast_sched_post(struct ast_sched *s, struct ast_task *t)
{
    t->next = NULL;
    ast_lock(&s->lock);
    if (s->last)
        s->last->next = t;
    else
        s->first = t;
    s->last = t;
    atomic_fetch_add_explicit(&s->queued, 1, memory_order_relaxed);
    bool wake = wants_sleeper(s);
    ast_unlock(&s->lock);
    if (wake)
        (void)pthread_cond_signal(&s->work); /* cannot fail */
}

static struct ast_task *queue_pop(struct ast_sched *s) AST_REQUIRES(s->lock)
{
    struct ast_task *t = s->first;
    if (t) {
        s->first = t->next;
        if (!s->first)
            s->last = NULL;
        atomic_fetch_sub_explicit(&s->queued, 1, memory_order_relaxed);
    }
    return t;
}

/* --- Workers ------------------------------------------------------------------------------------- */

static void worker_sleep(struct sched_worker *w) AST_REQUIRES(w->sched->lock)
{
    struct ast_sched *s = w->sched;
    int64_t until = w->spare.cap > KEEP_SPARE ? ast_mono_ns() + LARGE_SPARE_NS : -1;
    s->sleepers++;
    bool woken = ast_cond_wait(&s->work, &s->lock, until);
    s->sleepers--;
    s->is_waking = false; /* also on a timeout: the signal may have found nobody waiting any more */
    if (!woken && !s->first) {
        free(w->spare.p);
        w->spare = (struct sched_spare){ 0 };
    }
}

static void *worker_main(void *arg)
{
    struct sched_worker *w = arg;
    struct ast_sched *s = w->sched;
    self = w;
    ast_lock(&s->lock);
    for (;;) {
        struct ast_task *t = queue_pop(s);
        if (t) {
            bool wake = wants_sleeper(s);
            ast_unlock(&s->lock);
            if (wake)
                (void)pthread_cond_signal(&s->work); /* cannot fail */
            t->run(t);
            ast_lock(&s->lock);
        } else if (s->must_exit) {
            break;
        } else {
            worker_sleep(w);
        }
    }
    ast_unlock(&s->lock);
    free(w->spare.p);
    return NULL;
}

/* --- Calls --------------------------------------------------------------------------------------- */

bool sched_call_enter(struct ast_sched *s, struct ast_list *link)
{
    AST_WITH_LOCK(&s->lock);
    if (s->is_stopping)
        return false;
    ast_list_push_back(&s->calls, link);
    s->live++;
    s->calls_total++;
    return true;
}

void sched_call_leave(struct ast_sched *s, struct ast_list *link)
{
    AST_WITH_LOCK(&s->lock);
    ast_list_remove(link);
    if (--s->live == 0 && s->is_stopping)
        (void)pthread_cond_broadcast(&s->drained); /* cannot fail */
}

/* --- Life ---------------------------------------------------------------------------------------- */

static void stop_workers(struct ast_sched *s, unsigned started)
{
    ast_lock(&s->lock);
    s->must_exit = true;
    (void)pthread_cond_broadcast(&s->work); /* cannot fail */
    ast_unlock(&s->lock);
    for (unsigned k = 0; k < started; k++)
        (void)pthread_join(s->workers[k].thread, NULL); /* started and joined once */
}

static void dispose(struct ast_sched *s)
{
    (void)pthread_cond_destroy(&s->work); /* nobody waits any more */
    (void)pthread_cond_destroy(&s->drained);
    (void)pthread_cond_destroy(&s->clock.wake);
    (void)pthread_cond_destroy(&s->clock.fn_done);
    ast_lock_done(&s->lock);
    ast_lock_done(&s->clock.lock);
    ast_heap_done(&s->clock.heap);
    free(s->workers);
    free(s);
}

static struct ast_sched *allocate(struct ast_engine *e, unsigned workers)
{
    struct ast_sched *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->workers = aligned_alloc(64, workers * sizeof *s->workers);
    if (!s->workers) {
        free(s);
        return NULL;
    }
    for (unsigned k = 0; k < workers; k++)
        s->workers[k] = (struct sched_worker){ .sched = s };
    s->engine = e;
    s->worker_count = workers;
    ast_lock_init(&s->lock, AST_LOCK_sched);
    ast_lock_init(&s->clock.lock, AST_LOCK_sched);
    ast_cond_init(&s->work);
    ast_cond_init(&s->drained);
    ast_cond_init(&s->clock.wake);
    ast_cond_init(&s->clock.fn_done);
    ast_list_init(&s->calls);
    return s;
}

enum ast_rc ast_sched_new(struct ast_engine *e, unsigned workers, struct ast_sched **ret,
                          struct ast_err *err)
{
    if (!workers)
        workers = AST_MAX(ast_cpu_count(), 2u);
    workers = AST_MIN(workers, SCHED_MAX_WORKERS);
    struct ast_sched *s = allocate(e, workers);
    if (!s)
        return ast_fail(err, AST_E_NO_MEMORY, "scheduler");
    enum ast_rc rc = sched_clock_start(s, err);
    if (rc) {
        dispose(s);
        return rc;
    }
    for (unsigned k = 0; k < workers; k++) {
        rc = ast_thread_start(&s->workers[k].thread, "astrid-worker", worker_main, &s->workers[k],
                              err);
        if (rc) {
            stop_workers(s, k);
            sched_clock_stop(s);
            dispose(s);
            return rc;
        }
    }
    *ret = s;
    return AST_OK;
}

void ast_sched_free(struct ast_sched *s)
{
    if (!s)
        return;
    AST_ASSERT(!ast_sched_on_worker(s));
    ast_lock(&s->lock);
    s->is_stopping = true;
    while (s->live) {
        /* One at a time: cancelling queues the call, which takes the lock. A call may finish meanwhile, so the
         * one at hand is kept alive by a reference and the others are reached by rotating the list. */
        for (unsigned left = s->live; left && s->live; left--) {
            struct ast_list *link = s->calls.next;
            ast_list_remove(link);
            ast_list_push_back(&s->calls, link);
            struct ast_call *c = ast_call_ref(sched_call_from_link(link));
            ast_unlock(&s->lock);
            ast_call_cancel(c);
            ast_call_unref(c);
            ast_lock(&s->lock);
        }
        if (s->live)
            (void)ast_cond_wait(&s->drained, &s->lock, -1); /* looked at again */
    }
    ast_unlock(&s->lock);
    stop_workers(s, s->worker_count);
    sched_clock_stop(s);
    dispose(s);
}

void ast_sched_stats(struct ast_sched *s, struct ast_sched_stats *ret)
{
    *ret = (struct ast_sched_stats){ .workers = s->worker_count };
    for (unsigned k = 0; k < s->worker_count; k++) {
        ret->running += atomic_load_explicit(&s->workers[k].is_polling, memory_order_relaxed);
        ret->parks_total += atomic_load_explicit(&s->workers[k].parks, memory_order_relaxed);
    }
    ret->parked = atomic_load_explicit(&s->parked, memory_order_relaxed);
    AST_WITH_LOCK(&s->lock);
    ret->queued = atomic_load_explicit(&s->queued, memory_order_relaxed);
    ret->calls_total = s->calls_total;
}
