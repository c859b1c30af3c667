/* One loaded capsule: its code, its pool or its loop, and what host functions know of it (spec
 * 05 §2, §17, §20).
 *
 * Shared: the seat holds a reference while the capsule serves, each call in flight holds one, a
 * loop holds one. The last reference frees the pool and the module.
 */
#pragma once

#include "base/arena.h"
#include "capsule/invoke_priv.h"
#include "capsule/manifest.h"
#include "crypto/hash.h"

struct ast_capsules;
struct capsule_seat;

#define CAPSULE_RUN_LOOP_HANDLERS_MAX 64u /* spec 04 §20 */
#define CAPSULE_FUEL_PER_CALL         UINT64_C(10000000000)

struct capsule_active {    /* one call under way */
    struct ast_call *call; /* owned reference; NULL until the starter had it */
    uint32_t serial;       /* odd: in use */
    uint32_t next_free;
};

enum capsule_ready { CAPSULE_STARTING, CAPSULE_READY, CAPSULE_CRASHED };

/* The run loop's call. Owner: the worker that polls it, except `ended`. */
struct capsule_loop {
    struct ast_host_call host;
    struct ast_instance *instance;
    struct capsule_ticket ticket;
    bool bounded; /* the owner is not exempt, spec 05 §20.3 */
    int64_t window_ns;
    int64_t window_end_ns;
    uint64_t progress_seen;
    unsigned idle_windows;
    uint32_t ticks;                /* of guest computing */
    char error[AST_ERR_MSG_BYTES]; /* why it ended; empty: it returned. Written before `ended` */
    atomic_bool ended;
};

/* Immutable after the load, except what says otherwise. */
struct capsule {
    atomic_uint refs;
    struct ast_capsules *owner;
    struct capsule_seat *seat;
    uint64_t serial;                     /* tells this load from every other one of the registry */
    const struct ast_manifest *manifest; /* `own_manifest`, or borrowed (lifecycle hooks) */
    struct ast_manifest *own_manifest;
    struct capsule
        *origin; /* reference; whose manifest and configuration this one uses; NULL: own */
    struct ast_arena memory; /* the arrays of `env` */
    struct ast_host_env env;
    struct ast_module *module;             /* owned; NULL: failed to load, or nothing to run */
    struct ast_pool *pool;                 /* owned; NULL with module */
    uint8_t fingerprint[AST_BLAKE3_BYTES]; /* of the files this load was made from */
    bool failed;                           /* kept for listings only */
    bool is_daemon;                        /* uplink capsule: no deadline for an exempt owner */
    _Atomic(enum capsule_ready) ready;     /* waited for under the registry's lock */

    struct ast_lock lock;
    pthread_cond_t quiet;                               /* active_count fell to zero */
    struct capsule_active *active AST_GUARDED_BY(lock); /* owned; active_cap entries */
    uint32_t active_cap, first_free, active_count;
    bool stopping AST_GUARDED_BY(lock);

    struct capsule_loop loop;
};

struct capsule *capsule_ref(struct capsule *c);
void capsule_unref(struct capsule *c); /* NULL is fine */
static inline void capsule_unref_auto(struct capsule **c)
{
    capsule_unref(*c);
}

/* Everything up to the first guest instruction: reads, verifies, compiles, resolves, makes the
 * pool. Takes the manifest, on failure too. Errors without the "Unsupported entry point: "
 * prefix. Blocks. */
AST_MUST_CHECK
enum ast_rc capsule_prepare(struct ast_capsules *owner, struct capsule_seat *seat, const char *dir,
                            struct ast_manifest *manifest, struct capsule **ret,
                            struct ast_err *err);
/* Whether a load from `dir` would come to serve, as far as that can be told without running guest
 * code: verifies, compiles, resolves imports, instantiates. What [env] needs is not asked for.
 * *ret: for looking at, it cannot take calls. Takes the manifest, on failure too. Blocks. */
AST_MUST_CHECK
enum ast_rc capsule_try(struct ast_capsules *owner, struct capsule_seat *seat, const char *dir,
                        struct ast_manifest *manifest, struct capsule **ret, struct ast_err *err);
/* Whether meta.json names the component that lies in `dir` (or in the content store). False while a
 * new version is being written. */
bool capsule_is_settled(struct ast_capsules *owner, const char *dir,
                        const struct ast_manifest *manifest);
/* The same run loop once more, not started: of the files that `old` was made from, which need not exist any
 * more. */
AST_MUST_CHECK
enum ast_rc capsule_again(struct capsule *old, struct capsule **ret, struct ast_err *err);
/* A placeholder for listings: takes the manifest. NULL: no memory. */
struct capsule *capsule_failed_new(struct ast_capsules *owner, struct capsule_seat *seat,
                                   struct ast_manifest *manifest);

/* Registers a call. False: the capsule is stopping, do not start it. */
bool capsule_call_begin(struct capsule *c, struct capsule_ticket *ret);
/* Takes the reference: from now on a stop reaches the call. Harmless when the call ended
 * meanwhile. */
void capsule_call_started(struct capsule *c, struct capsule_ticket ticket, struct ast_call *call);
void capsule_call_end(struct capsule *c, struct capsule_ticket ticket);

/* Where the subscriptions of a run loop go when it ends, ready to take them. *ret: borrowed from `c`. */
AST_MUST_CHECK
enum ast_rc capsule_heir(struct capsule *c, struct ast_handover **ret, struct ast_err *err);
/* A run loop that is about to be replaced: it finishes what it was given, then ends (see
 * ast_host_env.quiescing). After capsule_heir(); follow with capsule_wait_quiet() and
 * capsule_stop(). */
void capsule_quiesce(struct capsule *c);
/* No new calls; those under way are cancelled. */
void capsule_stop(struct capsule *c);
/* No new calls; those under way may end by themselves (a newer load took over). */
void capsule_retire(struct capsule *c);
/* True when no call is left; false: the deadline (monotonic) came first. */
bool capsule_wait_quiet(struct capsule *c, int64_t deadline_ns);

/* Serves handlers: loaded, with code, not a loop. NULL does not. */
static inline bool capsule_is_pooled(const struct capsule *c)
{
    return c && c->pool && !c->env.is_run_loop;
}

/* --- runloop.c -------------------------------------------------------------------------------- */

/* Starts the background call; the loop holds a reference until it ends. */
AST_MUST_CHECK
enum ast_rc capsule_loop_start(struct capsule *c, struct ast_err *err);
/* The loop burned that much for the principal: fits ast_host_env.on_fuel. */
void capsule_loop_on_fuel(void *capsule, struct ast_str principal, uint64_t fuel);
bool capsule_loop_is_dead(const struct capsule *c); /* a run loop that has ended */

/* --- fingerprint.c ---------------------------------------------------------------------------- */

/* What the files of `dir` look like now; changes when a reload has something to do. */
void capsule_fingerprint(struct ast_capsules *owner, const char *dir, struct ast_str id,
                         uint8_t out[static AST_BLAKE3_BYTES]);

/* --- config.c --------------------------------------------------------------------------------- */

/* Resolves [env] into env.config, .declared and .secret_keys and publishes what needs onboarding
 * (spec 05 §9). `extra` (may be NULL): one more pair; borrowed for the capsule's life. */
AST_MUST_CHECK
enum ast_rc capsule_config_resolve(struct capsule *c, const char *dir,
                                   const struct ast_host_pair *extra, struct ast_err *err);

/* --- runtime.c, for lifecycle.c --------------------------------------------------------------- */

/* Borrows the manifest. NULL: no memory. */
struct capsule *capsule_new(struct ast_capsules *owner, struct capsule_seat *seat,
                            const struct ast_manifest *manifest);
enum ast_rc capsule_env_fill(struct capsule *c, struct ast_err *err);
enum ast_rc capsule_pool_make(struct capsule *c, bool single, struct ast_err *err);
