/* Locks that can answer "do I hold it?", and threads that leave signals to the main loop. */
#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/checked_priv.h"
#include "base/time.h"

#include "base/banned.h"

/* --- Rank checking, in builds for finding mistakes ----------------------------------------- */

#define HELD_MAX 16

static _Thread_local struct {
    unsigned n;
    enum ast_lock_rank rank[HELD_MAX]; /* ascending */
} held;

static void rank_push(const struct ast_lock *l)
{
    AST_ASSERT(held.n < HELD_MAX);
    AST_ASSERT(held.n == 0 || held.rank[held.n - 1] < l->rank);
    held.rank[held.n++] = l->rank;
}

/* Locks may be released in any order. */
static void rank_pop(const struct ast_lock *l)
{
    unsigned i = held.n;
    while (i > 0 && held.rank[i - 1] != l->rank)
        i--;
    AST_ASSERT(i > 0); /* else this thread had not taken it */
    memmove(&held.rank[i - 1], &held.rank[i], (held.n - i) * sizeof held.rank[0]);
    held.n--;
}

/* --- Locks --------------------------------------------------------------------------------- */

void ast_lock_init(struct ast_lock *l, enum ast_lock_rank rank)
{
    /* Nobody holds a lock for long: a few turns of waiting are cheaper than sleep and wake. None of
     * these calls can fail here. */
    pthread_mutexattr_t attr;
    AST_ASSERT(pthread_mutexattr_init(&attr) == 0);
    AST_ASSERT(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP) == 0);
    AST_ASSERT(pthread_mutex_init(&l->m, &attr) == 0);
    AST_ASSERT(pthread_mutexattr_destroy(&attr) == 0);
    l->rank = rank;
    atomic_init(&l->holder, (pthread_t)0);
}

void ast_lock_done(struct ast_lock *l)
{
    AST_ASSERT(pthread_mutex_destroy(&l->m) == 0); /* EBUSY: somebody still holds it */
}

void ast_lock(struct ast_lock *l)
{
    if (AST_CHECKED_BUILD)
        rank_push(l);
    AST_ASSERT(pthread_mutex_lock(&l->m) == 0);
    /* Relaxed: a thread only ever compares the value with itself, and it wrote that itself. */
    atomic_store_explicit(&l->holder, pthread_self(), memory_order_relaxed);
}

void ast_unlock(struct ast_lock *l)
{
    ast_lock_assert_held(l);
    atomic_store_explicit(&l->holder, (pthread_t)0, memory_order_relaxed);
    if (AST_CHECKED_BUILD)
        rank_pop(l);
    /* Last: once released, another thread may destroy the lock. */
    AST_ASSERT(pthread_mutex_unlock(&l->m) == 0);
}

void ast_lock_assert_held(struct ast_lock *l)
{
    AST_ASSERT(
        pthread_equal(atomic_load_explicit(&l->holder, memory_order_relaxed), pthread_self()));
}

void ast_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t attr;
    AST_ASSERT(pthread_condattr_init(&attr) == 0);
    AST_ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    AST_ASSERT(pthread_cond_init(c, &attr) == 0);
    (void)pthread_condattr_destroy(&attr); /* always succeeds in glibc */
}

bool ast_cond_wait(pthread_cond_t *c, struct ast_lock *l, int64_t deadline_ns)
{
    ast_lock_assert_held(l);
    atomic_store_explicit(&l->holder, (pthread_t)0, memory_order_relaxed);
    int rc;
    if (deadline_ns < 0) {
        rc = pthread_cond_wait(c, &l->m);
    } else {
        struct timespec ts = {
            .tv_sec = (time_t)(deadline_ns / AST_NS_PER_SEC),
            .tv_nsec = (long)(deadline_ns % AST_NS_PER_SEC),
        };
        rc = pthread_cond_timedwait(c, &l->m, &ts);
    }
    atomic_store_explicit(&l->holder, pthread_self(), memory_order_relaxed);
    AST_ASSERT(rc == 0 || rc == ETIMEDOUT);
    return rc == 0;
}

/* --- Threads ------------------------------------------------------------------------------- */

struct start {
    void *(*fn)(void *);
    void *arg;
    char name[16];
};

static void *trampoline(void *p)
{
    struct start s = *(struct start *)p;
    free(p);
    (void)pthread_setname_np(pthread_self(),
                             s.name); /* a missing name hurts only the reader of ps */
    return s.fn(s.arg);
}

/* The signals a fault raises on the thread that caused it. */
static const int open_signals[] = { SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP };

enum ast_rc ast_thread_start(pthread_t *ret, const char *name, void *(*fn)(void *), void *arg,
                             struct ast_err *err)
{
    struct start *s = malloc(sizeof *s);
    if (!s)
        return ast_fail(err, AST_E_NO_MEMORY, "thread '%s'", name);
    *s = (struct start){ .fn = fn, .arg = arg };
    memcpy(s->name, name, strnlen(name, sizeof s->name - 1));

    /* The new thread inherits the mask, so there is no moment in which it could catch a signal. */
    sigset_t blocked, old;
    sigfillset(&blocked);
    for (size_t i = 0; i < AST_ARRAY_LEN(open_signals); i++)
        sigdelset(&blocked, open_signals[i]);
    pthread_t thread;
    AST_ASSERT(pthread_sigmask(SIG_SETMASK, &blocked, &old) == 0);
    int rc = pthread_create(&thread, NULL, trampoline, s);
    AST_ASSERT(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    if (rc) {
        free(s);
        return ast_fail_errno(err, rc == EAGAIN ? AST_E_NO_CAPACITY : ast_rc_from_errno(rc), rc,
                              "start thread '%s'", name);
    }
    *ret = thread;
    return AST_OK;
}
