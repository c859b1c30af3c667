/* The event loop (libuv behind this door): posts, timers, descriptor and directory watches, signals, blocking work.
 *
 * Owner: the thread that runs ast_loop_run(). Everything here must be called on that thread except
 * ast_loop_post(), ast_loop_stop() and ast_loop_work() (from any). Objects are freed with their own
 * close call; the memory goes when libuv has let go of it, so callers just forget the pointer.
 */
#pragma once

#include <stdint.h>

#include "base/auto.h"
#include "base/error.h"

struct ast_loop;
struct ast_timer;
struct ast_watch;

AST_MUST_CHECK
enum ast_rc ast_loop_new(struct ast_loop **ret, struct ast_err *err);
/* After run returned. Runs close callbacks and the done() of work in flight to the end, closes what
 * was left open, and drops posts that have not run (ast_loop_run() runs what came before the stop). */
void ast_loop_free(struct ast_loop *loop);
AST_DEFINE_AUTO(struct ast_loop, ast_loop_free)
void ast_loop_run(struct ast_loop *loop);           /* until ast_loop_stop() */
void ast_loop_stop(struct ast_loop *loop);          /* any thread */
bool ast_loop_is_mine(const struct ast_loop *loop); /* the caller is the loop's thread */

/* Runs fn(arg) on the loop thread, in order of posting per posting thread. Any thread. An embedded
 * node makes it allocation-free; a node may be posted again once its callback has started. */
struct ast_post {
    struct ast_post *next; /* private */
    void (*fn)(struct ast_post *post);
};
void ast_loop_post(struct ast_loop *loop, struct ast_post *post);
/* Runs what is posted now; on the loop's thread, also after ast_loop_run() returned. For teardown: stop the posters, flush, then
 * free what the posts point to. */
void ast_loop_flush(struct ast_loop *loop);
/* Allocating form; false when out of memory (fn is not called). */
bool ast_loop_call(struct ast_loop *loop, void (*fn)(void *arg), void *arg);

/* NULL: memory */
struct ast_timer *ast_timer_new(struct ast_loop *loop, void (*fn)(void *arg), void *arg);
void ast_timer_start(struct ast_timer *t, uint64_t delay_ms, uint64_t repeat_ms /* 0 = once */);
void ast_timer_stop(struct ast_timer *t);
void ast_timer_close(struct ast_timer *t); /* NULL is fine */

enum ast_watch_events { AST_WATCH_READ = 1u << 0, AST_WATCH_WRITE = 1u << 1 };
/* Level-triggered readiness of a non-blocking descriptor (stays owned by the caller; close the
 * watch first). fn gets AST_WATCH_* bits; errors and hang-ups show as READ. */
struct ast_watch *ast_watch_new(struct ast_loop *loop, int fd,
                                void (*fn)(void *arg, unsigned events), void *arg);
void ast_watch_set(struct ast_watch *w, unsigned events); /* 0 pauses */
void ast_watch_close(struct ast_watch *w);                /* NULL is fine */

/* Calls fn when an entry of that directory is created, written, removed or renamed (not below its subdirectories).
 * `name`: the entry, borrowed during the call; NULL when unknown. It follows the directory and not the path: after a
 * rename or a removal of the directory itself make a new one. fn may close it. */
struct ast_dirwatch;
AST_MUST_CHECK
enum ast_rc ast_dirwatch_new(struct ast_loop *loop, const char *path,
                             void (*fn)(void *arg, const char *name), void *arg,
                             struct ast_dirwatch **ret, struct ast_err *err);
void ast_dirwatch_close(struct ast_dirwatch *w); /* NULL is fine */

/* Calls fn(arg, signum) on the loop for each delivery. Lives as long as the loop. */
enum ast_rc ast_loop_on_signal(struct ast_loop *loop, int signum, void (*fn)(void *arg, int signum),
                               void *arg, struct ast_err *err);

/* Runs work(arg) on the shared blocking pool, then done(arg) on the loop thread. Any thread. False
 * when it could not be queued (nothing is called). */
bool ast_loop_work(struct ast_loop *loop, void (*work)(void *arg), void (*done)(void *arg),
                   void *arg);
