/* The clock thread: timers, and the epoch ticker that interrupts guests.
 *
 * Invariant: the epoch advances every AST_ENGINE_TICK_MS while a worker polls a guest. The ticker stops after
 * some quiet ticks, and then the thread sleeps until the next timer, for ever when there is none: an idle
 * daemon does not wake up. Timer functions run here without the lock.
 */
#include "base/time.h"
#include "wasm/sched_priv.h"

#include "base/banned.h"

#define TICK_NS     ((int64_t)AST_ENGINE_TICK_MS * AST_NS_PER_MS)
#define QUIET_TICKS 10u /* keeps a burst of short calls from waking the clock for each */

static bool anybody_polls(const struct ast_sched *s)
{
    for (unsigned k = 0; k < s->worker_count; k++)
        if (atomic_load(&s->workers[k].is_polling))
            return true;
    return false;
}

static void tick(struct ast_sched *s, int64_t now) AST_REQUIRES(s->clock.lock)
{
    struct sched_clock *c = &s->clock;
    c->next_tick_ns += TICK_NS;
    if (c->next_tick_ns <= now)
        c->next_tick_ns = now + TICK_NS; /* we came late: no burst to catch up */
    if (anybody_polls(s)) {
        c->quiet_ticks = 0;
    } else if (++c->quiet_ticks >= QUIET_TICKS) {
        atomic_store(&c->is_ticking, false);
        if (anybody_polls(s)) /* it may have looked just before the store */
            atomic_store(&c->is_ticking, true);
        c->quiet_ticks = 0;
    }
    atomic_fetch_add_explicit(&c->ticks, 1, memory_order_relaxed);
    wasmtime_engine_increment_epoch(s->engine->wasm);
}

static void run_timer(struct sched_clock *c, struct ast_sched_timer *t) AST_REQUIRES(c->lock)
{
    c->running = t;
    ast_unlock(&c->lock);
    t->fn(t);
    ast_lock(&c->lock);
    c->running = NULL;
    if (c->stoppers)
        (void)pthread_cond_broadcast(&c->fn_done); /* cannot fail */
}

static void *clock_main(void *arg)
{
    struct ast_sched *s = arg;
    struct sched_clock *c = &s->clock;
    ast_lock(&c->lock);
    while (!c->is_stopping) {
        int64_t now = ast_mono_ns();
        bool ticking = atomic_load(&c->is_ticking);
        if (ticking && now >= c->next_tick_ns)
            tick(s, now);
        const struct ast_heap_node *due = ast_heap_peek(&c->heap);
        if (due && due->key <= now) {
            struct ast_heap_node *node = ast_heap_pop(&c->heap);
            run_timer(c, AST_CONTAINER_OF(node, struct ast_sched_timer, node));
            continue;
        }
        c->wakes_at_ns = due ? due->key : INT64_MAX;
        if (atomic_load(&c->is_ticking))
            c->wakes_at_ns = AST_MIN(c->wakes_at_ns, c->next_tick_ns);
        int64_t until = c->wakes_at_ns == INT64_MAX ? -1 : c->wakes_at_ns;
        (void)ast_cond_wait(&c->wake, &c->lock, until); /* either way we look again */
    }
    ast_unlock(&c->lock);
    return NULL;
}

static void wake_before(struct sched_clock *c, int64_t at_ns) AST_REQUIRES(c->lock)
{
    if (at_ns >= c->wakes_at_ns)
        return;
    c->wakes_at_ns = at_ns;              /* once is enough */
    (void)pthread_cond_signal(&c->wake); /* cannot fail */
}

void sched_clock_tick(struct ast_sched *s)
{
    struct sched_clock *c = &s->clock;
    AST_WITH_LOCK(&c->lock);
    if (atomic_load(&c->is_ticking))
        return;
    c->next_tick_ns = ast_mono_ns() + TICK_NS;
    c->quiet_ticks = 0;
    atomic_store(&c->is_ticking, true);
    wake_before(c, c->next_tick_ns);
}

void ast_sched_timer_start(struct ast_sched *s, struct ast_sched_timer *t, int64_t deadline_ns)
{
    struct sched_clock *c = &s->clock;
    ast_lock(&c->lock);
    ast_heap_remove(&c->heap, &t->node);
    t->node.key = deadline_ns;
    bool queued = ast_heap_push(&c->heap, &t->node);
    if (queued)
        wake_before(c, deadline_ns);
    ast_unlock(&c->lock);
    if (AST_NEVER(!queued)) /* no memory: early is better than never */
        t->fn(t);
}

void ast_sched_timer_stop(struct ast_sched *s, struct ast_sched_timer *t)
{
    struct sched_clock *c = &s->clock;
    AST_WITH_LOCK(&c->lock);
    ast_heap_remove(&c->heap, &t->node);
    while (c->running == t) {
        c->stoppers++;
        (void)ast_cond_wait(&c->fn_done, &c->lock,
                            -1); /* without deadline: only ends when signalled */
        c->stoppers--;
        ast_heap_remove(&c->heap, &t->node); /* fn may have started it again */
    }
}

enum ast_rc sched_clock_start(struct ast_sched *s, struct ast_err *err)
{
    return ast_thread_start(&s->clock.thread, "astrid-clock", clock_main, s, err);
}

void sched_clock_stop(struct ast_sched *s)
{
    ast_lock(&s->clock.lock);
    s->clock.is_stopping = true;
    (void)pthread_cond_signal(&s->clock.wake); /* cannot fail */
    ast_unlock(&s->clock.lock);
    (void)pthread_join(s->clock.thread, NULL); /* started and joined once */
}
