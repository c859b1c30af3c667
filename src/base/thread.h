/* Locks that know their holder and their rank, and named threads.
 *
 * A debug build checks that locks are taken in ascending rank. Hold a lock for a few lines: never
 * across a callback, a log sink, disk I/O or a park.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "base/auto.h"
#include "base/error.h"

/* rank, class, what it guards */
#define AST_LOCK_MAP(X)                                                                            \
    X(5, kernel, "kernel tables")                                                                  \
    X(10, registry, "capsule registry")                                                            \
    X(15, mailbox, "one capsule's mailboxes")                                                      \
    X(18, pool, "one capsule's idle instances")                                                    \
    X(20, bus, "subscription index")                                                               \
    X(30, queue, "one subscriber's queue")                                                         \
    X(35, session, "streams of one gateway loop")                                                  \
    X(40, ledger, "per-principal counters")                                                        \
    X(45, cache, "a cache of files or tokens")                                                     \
    X(50, sched, "run queue and timers")                                                           \
    X(55, fiber, "one fiber's wake state")                                                         \
    X(58, audit, "places of the audit log")                                                        \
    X(60, store, "pending store operations")                                                       \
    X(70, loop, "posted callbacks of a loop")                                                      \
    X(80, metrics, "metric families")                                                              \
    X(85, blocks, "free memory of messages")                                                       \
    X(90, log, "log sink")

enum ast_lock_rank {
#define X(rank, class, what) AST_LOCK_##class = rank,
    AST_LOCK_MAP(X)
#undef X
};

struct ast_lock {
    pthread_mutex_t m;
    enum ast_lock_rank rank;
    _Atomic(pthread_t) holder; /* for ast_lock_assert_held() */
};

#define AST_GUARDED_BY(lock) /* read by people and scripts; checked by ast_lock_assert_held */
#define AST_REQUIRES(lock)

void ast_lock_init(struct ast_lock *l, enum ast_lock_rank rank);
void ast_lock_done(struct ast_lock *l);
void ast_lock(struct ast_lock *l);
void ast_unlock(struct ast_lock *l);
void ast_lock_assert_held(struct ast_lock *l);
/* Waits on `c`; deadline on the monotonic clock (init the condition with ast_cond_init). -1: for ever.
 * False on timeout. */
bool ast_cond_wait(pthread_cond_t *c, struct ast_lock *l, int64_t deadline_ns);
void ast_cond_init(pthread_cond_t *c);

static inline void ast_lock_guard_auto(struct ast_lock **l)
{
    if (*l)
        ast_unlock(*l);
}
/* AST_WITH_LOCK(&bus->lock); holds it until the end of the block. */
#define AST_WITH_LOCK(l)          AST_WITH_LOCK_2_(l, __LINE__)
#define AST_WITH_LOCK_2_(l, line) AST_WITH_LOCK_3_(l, line)
#define AST_WITH_LOCK_3_(l, line)                                                                  \
    AST_AUTO(ast_lock_guard) struct ast_lock *ast_guard_##line = (l);                              \
    ast_lock(ast_guard_##line)

/* Starts a joinable thread with that name (15 characters) and all asynchronous signals blocked;
 * SIGSEGV, SIGILL, SIGFPE, SIGBUS and SIGTRAP stay open (the engine needs them). */
AST_MUST_CHECK
enum ast_rc ast_thread_start(pthread_t *ret, const char *name, void *(*fn)(void *), void *arg,
                             struct ast_err *err);

unsigned ast_cpu_count(void); /* usable by this process: affinity and cgroup quota; at least 1 */
