/* The event loop: libuv with our ownership rules on top.
 *
 * Invariants: only the loop's thread touches libuv's structures; the one thing other threads touch
 * is the list of posts, a stack that the loop takes whole. Memory of a handle belongs to libuv until
 * its close callback, which frees it.
 */
#include "base/loop.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <uv.h>

#include "base/thread.h"

#include "base/banned.h"

/* A handle's `data` points to its block, which is freed when libuv lets go of the handle. */
struct ast_timer {
    uv_timer_t h;
    void (*fn)(void *arg);
    void *arg;
};

struct ast_watch {
    uv_poll_t h;
    unsigned wanted; /* AST_WATCH_* */
    void (*fn)(void *arg, unsigned events);
    void *arg;
};

struct ast_dirwatch {
    uv_fs_event_t h;
    void (*fn)(void *arg, const char *name);
    void *arg;
};

struct signal_watch {
    uv_signal_t h;
    void (*fn)(void *arg, int signum);
    void *arg;
};

/* Owner: the loop's thread, except the atomics. */
struct ast_loop {
    uv_loop_t uv;
    uv_async_t wake;                   /* uv_async_send() is the one call for other threads */
    _Atomic(struct ast_post *) posted; /* newest first; pushed by any thread, taken by the loop */
    atomic_bool stop;
    _Atomic(pthread_t) owner;
};

/* The posts of this file's own making; they are freed by the loop. */
struct call {
    struct ast_post post;
    void (*fn)(void *arg);
    void *arg;
};

struct work {
    struct ast_post post;
    uv_work_t req;
    struct ast_loop *loop;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

static void assert_mine(const struct ast_loop *loop)
{
    AST_ASSERT(ast_loop_is_mine(loop));
}

/* --- Posts --------------------------------------------------------------------------------- */

static void run_call(struct ast_post *post)
{
    struct call c = *AST_CONTAINER_OF(post, struct call, post);
    free(AST_CONTAINER_OF(post, struct call, post));
    c.fn(c.arg);
}

/* Takes every post, oldest first. */
static struct ast_post *take_posts(struct ast_loop *loop)
{
    /* Acquire: pairs with the release in ast_loop_post(), so the post's content is visible. */
    struct ast_post *post = atomic_exchange_explicit(&loop->posted, NULL, memory_order_acquire);
    struct ast_post *oldest = NULL;
    while (post) {
        struct ast_post *next = post->next;
        post->next = oldest;
        oldest = post;
        post = next;
    }
    return oldest;
}

static void run_posts(struct ast_loop *loop)
{
    struct ast_post *post = take_posts(loop);
    while (post) {
        struct ast_post *next = post->next; /* the callback may post the node again or free it */
        post->fn(post);
        post = next;
    }
}

static void on_wake(uv_async_t *wake)
{
    struct ast_loop *loop = wake->data;
    run_posts(loop);
    if (atomic_load(&loop->stop))
        uv_stop(&loop->uv);
}

void ast_loop_post(struct ast_loop *loop, struct ast_post *post)
{
    struct ast_post *head = atomic_load_explicit(&loop->posted, memory_order_relaxed);
    do {
        post->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&loop->posted, &head, post,
                                                    memory_order_release, memory_order_relaxed));
    /* Whoever found the list empty wakes the loop for all who come before the loop takes it. */
    if (!head)
        AST_ASSERT(uv_async_send(&loop->wake) == 0);
}

void ast_loop_flush(struct ast_loop *loop)
{
    run_posts(loop);
}

bool ast_loop_call(struct ast_loop *loop, void (*fn)(void *arg), void *arg)
{
    struct call *c = malloc(sizeof *c);
    if (!c)
        return false;
    *c = (struct call){ { .fn = run_call }, fn, arg };
    ast_loop_post(loop, &c->post);
    return true;
}

/* --- Blocking work ------------------------------------------------------------------------- */

static void work_run(uv_work_t *req)
{
    struct work *w = req->data;
    w->work(w->arg);
}

static void work_done(uv_work_t *req, int status)
{
    struct work *w = req->data;
    (void)status; /* only uv_cancel() makes it non-zero, and nobody calls that */
    if (w->done)
        w->done(w->arg);
    free(w);
}

static void work_queue(struct ast_post *post)
{
    struct work *w = AST_CONTAINER_OF(post, struct work, post);
    AST_ASSERT(uv_queue_work(&w->loop->uv, &w->req, work_run, work_done) ==
               0); /* fails on NULL only */
}

bool ast_loop_work(struct ast_loop *loop, void (*work)(void *arg), void (*done)(void *arg),
                   void *arg)
{
    struct work *w = calloc(1, sizeof *w);
    if (!w)
        return false;
    *w = (struct work){
        .post = { .fn = work_queue }, .loop = loop, .work = work, .done = done, .arg = arg
    };
    w->req.data = w;
    if (ast_loop_is_mine(loop))
        work_queue(&w->post);
    else
        ast_loop_post(loop, &w->post);
    return true;
}

/* --- Life ---------------------------------------------------------------------------------- */

enum ast_rc ast_loop_new(struct ast_loop **ret, struct ast_err *err)
{
    struct ast_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return ast_fail(err, AST_E_NO_MEMORY, "event loop");
    int rc = uv_loop_init(&loop->uv);
    if (rc) {
        free(loop);
        return ast_fail(err, ast_rc_from_errno(-rc), "event loop: %s", uv_strerror(rc));
    }
    rc = uv_async_init(&loop->uv, &loop->wake, on_wake);
    if (rc) {
        AST_ASSERT(uv_loop_close(&loop->uv) == 0); /* it has no handle yet */
        free(loop);
        return ast_fail(err, ast_rc_from_errno(-rc), "event loop: %s", uv_strerror(rc));
    }
    loop->wake.data = loop;
    atomic_store(&loop->owner, pthread_self());
    *ret = loop;
    return AST_OK;
}

bool ast_loop_is_mine(const struct ast_loop *loop)
{
    return pthread_equal(atomic_load_explicit(&loop->owner, memory_order_relaxed), pthread_self());
}

void ast_loop_run(struct ast_loop *loop)
{
    atomic_store(&loop->owner, pthread_self());
    while (!atomic_load(&loop->stop))
        (void)uv_run(&loop->uv,
                     UV_RUN_DEFAULT); /* says whether handles are left: `wake` always is */
    /* What was posted before the stop still runs. */
    run_posts(loop);
    atomic_store(&loop->stop, false);
}

void ast_loop_stop(struct ast_loop *loop)
{
    atomic_store(&loop->stop, true);
    AST_ASSERT(uv_async_send(&loop->wake) == 0);
}

static void free_block(uv_handle_t *h)
{
    free(h->data);
}

static void close_left_over(uv_handle_t *h, void *arg)
{
    struct ast_loop *loop = arg;
    if (!uv_is_closing(h))
        uv_close(h, h == (uv_handle_t *)&loop->wake ? NULL : free_block);
}

void ast_loop_free(struct ast_loop *loop)
{
    if (!loop)
        return;
    atomic_store(&loop->owner, pthread_self());
    /* Again and again, as the done() of work in flight may make new handles. */
    while (uv_loop_close(&loop->uv) == UV_EBUSY) {
        uv_walk(&loop->uv, close_left_over, loop);
        (void)uv_run(&loop->uv, UV_RUN_ONCE); /* whether something is left says uv_loop_close() */
    }
    for (struct ast_post *post = take_posts(loop); post;) {
        struct ast_post *next = post->next;
        if (post->fn == run_call)
            free(AST_CONTAINER_OF(post, struct call, post));
        else if (post->fn == work_queue)
            free(AST_CONTAINER_OF(post, struct work, post));
        post = next;
    }
    free(loop);
}

/* --- Timers -------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *h)
{
    struct ast_timer *t = h->data;
    t->fn(t->arg);
}

struct ast_timer *ast_timer_new(struct ast_loop *loop, void (*fn)(void *arg), void *arg)
{
    assert_mine(loop);
    struct ast_timer *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    AST_ASSERT(uv_timer_init(&loop->uv, &t->h) == 0); /* always succeeds */
    t->h.data = t;
    t->fn = fn;
    t->arg = arg;
    return t;
}

void ast_timer_start(struct ast_timer *t, uint64_t delay_ms, uint64_t repeat_ms)
{
    /* The loop's idea of now is as old as the current callback; a timer must not fire early. */
    uv_update_time(t->h.loop);
    AST_ASSERT(uv_timer_start(&t->h, on_timer, delay_ms, repeat_ms) == 0);
}

void ast_timer_stop(struct ast_timer *t)
{
    AST_ASSERT(uv_timer_stop(&t->h) == 0); /* always succeeds */
}

void ast_timer_close(struct ast_timer *t)
{
    if (!t)
        return;
    ast_timer_stop(t);
    uv_close((uv_handle_t *)&t->h, free_block);
}

/* --- Watches ------------------------------------------------------------------------------- */

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct ast_watch *w = h->data;
    unsigned seen = 0;
    if (events & (UV_READABLE | UV_DISCONNECT))
        seen |= AST_WATCH_READ;
    if (events & UV_WRITABLE)
        seen |= AST_WATCH_WRITE;
    /* An error shows as readiness for all that was asked: the next read or write tells which. libuv
     * has stopped the watch, so that the error is reported once and not for ever. */
    if (status < 0)
        seen = AST_WATCH_READ | w->wanted;
    w->fn(w->arg, seen);
}

struct ast_watch *ast_watch_new(struct ast_loop *loop, int fd,
                                void (*fn)(void *arg, unsigned events), void *arg)
{
    assert_mine(loop);
    struct ast_watch *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    if (uv_poll_init(&loop->uv, &w->h, fd)) {
        free(w);
        return NULL;
    }
    w->h.data = w;
    w->fn = fn;
    w->arg = arg;
    return w;
}

void ast_watch_set(struct ast_watch *w, unsigned events)
{
    int uv_events =
        (events & AST_WATCH_READ ? UV_READABLE : 0) | (events & AST_WATCH_WRITE ? UV_WRITABLE : 0);
    w->wanted = events;
    if (uv_events)
        AST_ASSERT(uv_poll_start(&w->h, uv_events, on_poll) == 0); /* fails only while closing */
    else
        AST_ASSERT(uv_poll_stop(&w->h) == 0);
}

void ast_watch_close(struct ast_watch *w)
{
    if (!w)
        return;
    (void)uv_poll_stop(&w->h); /* always succeeds */
    uv_close((uv_handle_t *)&w->h, free_block);
}

/* --- Directories --------------------------------------------------------------------------- */

static void on_dir(uv_fs_event_t *h, const char *name, int events, int status)
{
    struct ast_dirwatch *w = h->data;
    w->fn(w->arg, status < 0 ? NULL : name); /* an error: something may have happened */
}

enum ast_rc ast_dirwatch_new(struct ast_loop *loop, const char *path,
                             void (*fn)(void *arg, const char *name), void *arg,
                             struct ast_dirwatch **ret, struct ast_err *err)
{
    assert_mine(loop);
    struct ast_dirwatch *w = calloc(1, sizeof *w);
    if (!w)
        return ast_fail(err, AST_E_NO_MEMORY, "watch %s", path);
    int rc = uv_fs_event_init(&loop->uv, &w->h);
    if (rc) {
        free(w);
        return ast_fail(err, ast_rc_from_errno(-rc), "watch %s: %s", path, uv_strerror(rc));
    }
    w->h.data = w;
    w->fn = fn;
    w->arg = arg;
    rc = uv_fs_event_start(&w->h, on_dir, path, 0);
    if (rc) {
        uv_close((uv_handle_t *)&w->h, free_block);
        return ast_fail(err, ast_rc_from_errno(-rc), "watch %s: %s", path, uv_strerror(rc));
    }
    *ret = w;
    return AST_OK;
}

void ast_dirwatch_close(struct ast_dirwatch *w)
{
    if (!w)
        return;
    (void)uv_fs_event_stop(&w->h); /* always succeeds */
    uv_close((uv_handle_t *)&w->h, free_block);
}

/* --- Signals ------------------------------------------------------------------------------- */

static void on_signal(uv_signal_t *h, int signum)
{
    struct signal_watch *s = h->data;
    s->fn(s->arg, signum);
}

enum ast_rc ast_loop_on_signal(struct ast_loop *loop, int signum, void (*fn)(void *arg, int signum),
                               void *arg, struct ast_err *err)
{
    assert_mine(loop);
    struct signal_watch *s = calloc(1, sizeof *s);
    if (!s)
        return ast_fail(err, AST_E_NO_MEMORY, "signal watch");
    int rc = uv_signal_init(&loop->uv, &s->h);
    if (rc) {
        free(s);
        return ast_fail(err, ast_rc_from_errno(-rc), "signal watch: %s", uv_strerror(rc));
    }
    s->h.data = s;
    s->fn = fn;
    s->arg = arg;
    rc = uv_signal_start(&s->h, on_signal, signum);
    if (rc) {
        uv_close((uv_handle_t *)&s->h, free_block);
        return ast_fail(err, ast_rc_from_errno(-rc), "watch signal %d: %s", signum,
                        uv_strerror(rc));
    }
    return AST_OK;
}
