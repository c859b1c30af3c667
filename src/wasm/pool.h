/* Instances of one module: how many may live, which principal's memory they hold, when they die.
 *
 * At most `max` calls run at once. Idle instances are kept warm, each tagged with the principal it served:
 * a lease takes the most recently returned one of that principal, else a fresh one (evicting the oldest
 * idle one when `idle_max` are kept). No instance ever serves two principals, except where `pinned` keeps
 * the single instance of a capsule that holds host processes. An instance is destroyed after any trap,
 * error or cancel, after AST_POOL_MAX_CALLS calls, above AST_POOL_MAX_KEEP_BYTES of memory, or idle for
 * AST_POOL_IDLE_SECS (down to min_idle).
 * Threads: any, under the pool's lock.
 */
#pragma once

#include "wasm/engine.h"

#define AST_POOL_MAX_CALLS      10000u
#define AST_POOL_MAX_KEEP_BYTES (8u * 1024 * 1024)
#define AST_POOL_IDLE_SECS      30

struct ast_pool;
struct ast_instance;

struct ast_pool_config {
    unsigned max;      /* concurrent leases, at least 1 */
    unsigned min_idle; /* untagged instances made at open and kept */
    unsigned idle_max; /* idle instances kept in all */
    bool pinned;       /* one instance for all principals; handles survive calls */
    /* Per-instance host state: made with the instance, reset after each call (handles are dropped first, except
     * in a pinned pool), freed with it. NULL: none. make may return NULL for "no state". */
    void *(*make)(void *arg);
    void (*reset)(void *state);
    void (*free)(void *state);
    void *arg;
};

AST_MUST_CHECK
enum ast_rc ast_pool_new(struct ast_module *m, const struct ast_pool_config *cfg,
                         struct ast_pool **ret, struct ast_err *err);
void ast_pool_free(struct ast_pool *p); /* no lease may be out */
AST_DEFINE_AUTO(struct ast_pool, ast_pool_free)

/* Waits in line for a lease. Embed it; `granted` is called by the thread that returned an instance, with
 * the lease in `instance`, or NULL when the pool is closing or no instance could be made. */
struct ast_pool_waiter {
    struct ast_pool_waiter *next; /* private */
    void (*granted)(struct ast_pool_waiter *w, struct ast_instance *instance);
    struct ast_str principal; /* private; borrowed from the lease call until granted */
};

/* A lease now: OK with *ret. BUSY: `w` waits in line, first come first served. NO_CAPACITY: an instance could
 * not be made (logged by the caller). CLOSED: the pool is closing. The guest's start code does not run here:
 * it runs inside the first call. */
AST_MUST_CHECK
enum ast_rc ast_pool_lease(struct ast_pool *p, struct ast_str principal, struct ast_pool_waiter *w,
                           struct ast_instance **ret, struct ast_err *err);
/* Back: `clean` false destroys it. Hands the slot to the next waiter. */
void ast_pool_return(struct ast_pool *p, struct ast_instance *i, bool clean);
/* New leases fail, waiters get NULL. */
void ast_pool_close(struct ast_pool *p);
/* Destroys idle instances older than AST_POOL_IDLE_SECS; call it about every 10 s with the clock. */
void ast_pool_trim(struct ast_pool *p, int64_t now_ns);

struct ast_pool_stats {
    unsigned live, idle, leased, waiting;
};
void ast_pool_stats(struct ast_pool *p, struct ast_pool_stats *ret);

void *ast_instance_state(struct ast_instance *i);     /* what `make` returned */
uint64_t ast_instance_memory(struct ast_instance *i); /* linear memory now, bytes */
