/* The loaded capsules and their life: load, ready, serve, restart, unload (spec 05 §2, §17 to
 * §20; 04 §9, §13, §15.2; 07 §4 to §6).
 *
 *   load_all: discover -> sort -> uplinks, wait <= 500 ms -> others, wait -> capsules_loaded
 *
 * The registry owns the dispatcher: a bus tap that appends each event to the mailbox of
 * (capsule, principal) for every matching handler (spec 04 §9). A mailbox holds at most 64
 * waiting events, runs one call at a time and disappears when empty; different principals never
 * wait for each other.
 *
 * Threads: load, unload and restart run on the kernel's loader thread; look-ups and dispatch
 * from any thread (the handler index is an immutable snapshot swapped by pointer).
 */
#pragma once

#include "capsule/discover.h"
#include "host/env.h"

struct ast_capsules;

struct ast_capsules_config {
    struct ast_host *host; /* filled except capsule_holds, which this room sets */
    struct ast_engine *engine;
    const char *workspace;         /* extra capsules; NULL: none */
    struct ast_uuid session;       /* source of capsules_loaded */
    unsigned pool_max;             /* 0: spec 05 §17.1 */
    unsigned blocking_max, io_max; /* 0: spec 05 §22.1 */
    bool allow_duplicate_roles;    /* two capsules may serve one role topic (spec 10 §30.4) */
};

#define AST_CAPSULES_READY_MS 500 /* readiness wait of a group, spec 04 §20 */

AST_MUST_CHECK
enum ast_rc ast_capsules_new(const struct ast_capsules_config *cfg, struct ast_capsules **ret,
                             struct ast_err *err);
/* Unloads everything (bounded wait), then frees. */
void ast_capsules_free(struct ast_capsules *r);

/* One load pass; publishes astrid.v1.capsules_loaded at its end. Capsules whose installed bytes
 * or manifest differ from the loaded ones are replaced: calls in flight end on the old instance,
 * waiting events go to the new one. Failures of single capsules are logged and reported through
 * capsule_failed events, never fatal. Blocks; loader thread. */
AST_MUST_CHECK
enum ast_rc ast_capsules_load_all(struct ast_capsules *r, struct ast_err *err);
/* One capsule directory (tests, health restarts). */
AST_MUST_CHECK
enum ast_rc ast_capsules_load(struct ast_capsules *r, const char *dir, struct ast_err *err);
/* Why the capsule's last load failed; NULL: it did not, or there is no such capsule. Loader thread;
 * borrowed until the next load. */
const char *ast_capsules_failure(struct ast_capsules *r, struct ast_str id);

enum ast_capsules_notice {
    AST_CAPSULES_SAME,      /* nothing a load would read has changed, or no capsule is there */
    AST_CAPSULES_UNSETTLED, /* meta.json does not name the component (yet), or the manifest is broken */
    AST_CAPSULES_CHANGED, /* loaded, replaced or unloaded; capsules_loaded was published */
    AST_CAPSULES_FAILED,  /* the new version does not load; the log says why, the old one serves */
};
/* Files below that capsule directory have changed: makes the registry follow, once they fit together.
 * With `is_last` it does not wait for that: a load is tried and says in the log what is wrong. A
 * directory of a capsule that is loaded from elsewhere counts as SAME. Blocks; loader thread. */
enum ast_capsules_notice ast_capsules_notice(struct ast_capsules *r, const char *dir, bool is_last);
/* Folders below a capsule's whose files do not count: ".", "..", ".git" and what builds leave (spec 07 §5). */
bool ast_capsules_ignore_dir(const char *name);

/* Whether what is staged in `dir` would come to serve: fits ast_install_options.try_load with the
 * registry as its arg. No guest code runs. Blocks; loader thread. */
enum ast_rc ast_capsules_try_install(void *capsules, const char *dir, struct ast_err *err);
AST_MUST_CHECK
enum ast_rc ast_capsules_unload(struct ast_capsules *r, struct ast_str id, struct ast_err *err);

/* Cancels the install hook that runs now and those that come: their installs fail. For the shutdown, before the
 * loader thread is waited for. Any thread. */
void ast_capsules_cancel_hooks(struct ast_capsules *r);

/* Waits until no handler call is waiting or running, at most `wait_ms` (shutdown: handlers of
 * kernel_shutdown get to run). New events are still accepted. */
void ast_capsules_drain(struct ast_capsules *r, unsigned wait_ms);

/* The health probe of spec 04 §15.2; the kernel calls it every 10 s on the loader thread.
 * `now_ns` drives back-off. */
void ast_capsules_probe(struct ast_capsules *r, int64_t now_ns);
/* Trims idle instances and idle ledgers, tells of events that were lost since the last notice; about every 10 s, any thread. */
void ast_capsules_trim(struct ast_capsules *r, int64_t now_ns);

struct ast_capsule_row {
    struct ast_str id, version; /* borrowed during the visit */
    const struct ast_manifest *manifest;
    struct ast_host_env *env; /* NULL: it could not be loaded */
    bool is_run_loop, failed;
    struct ast_pool_stats pool;
    uint64_t calls, traps, restarts, dropped;
};
/* Visits the registered capsules in ascending id order. */
void ast_capsules_each(struct ast_capsules *r,
                       bool (*each)(void *arg, const struct ast_capsule_row *row), void *arg);
/* Whether a running capsule takes messages on that topic: by a handler, or a run loop by its
 * subscriptions. Built-in services ask before they answer in a capsule's place (spec README §5
 * gaps 70, 74). */
bool ast_capsules_serve(struct ast_capsules *r, struct ast_str topic);
bool ast_capsules_have_uplink_tables(
    struct ast_capsules *r); /* any [[uplink]]: blocks idle shutdown */

/* Totals of one principal since start (spec 05 §23.2, §24). Unknown: 0. */
uint64_t ast_capsules_fuel_total(struct ast_capsules *r, struct ast_str principal);
uint64_t ast_capsules_memory_peak(struct ast_capsules *r, struct ast_str principal);
/* A deleted principal's totals go with it. */
void ast_capsules_forget_principal(struct ast_capsules *r, struct ast_str principal);

/* Runs an install or upgrade hook (spec 05 §21): fits ast_install_options.run_hook with the
 * registry as its arg. */
enum ast_rc ast_capsules_run_install_hook(void *capsules, const struct ast_manifest *m,
                                          struct ast_str wasm, const char *target_dir, bool upgrade,
                                          struct ast_str previous_version, struct ast_err *err);
