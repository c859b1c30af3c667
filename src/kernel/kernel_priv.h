/* Shared inside the kernel room. */
#pragma once

#include <pthread.h>

#include "audit/audit.h"
#include "base/buf.h"
#include "base/map.h"
#include "base/thread.h"
#include "capsule/activity.h"
#include "kernel/kernel.h"
#include "kernel/tickets.h"

#define KERNEL_TARGET "astrid.kernel"

/* ---- the loader thread: blocking work in order, one at a time ---- */

struct kernel_job {
    struct kernel_job *next;
    void (*run)(struct kernel_job *job); /* on the loader thread; owns the job from here on */
};

/* Owner: any thread may post, under `lock`; the thread itself takes. */
struct kernel_loader {
    struct ast_lock lock;
    pthread_cond_t wake;
    pthread_t thread;
    struct kernel_job *head, **tail AST_GUARDED_BY(lock);
    bool stop AST_GUARDED_BY(lock), started, is_made;
};

enum ast_rc kernel_loader_start(struct kernel_loader *l, struct ast_err *err);
/* False once stopping: the job was not taken. */
bool kernel_loader_post(struct kernel_loader *l, struct kernel_job *job);
void kernel_loader_stop(struct kernel_loader *l); /* finishes what is queued, joins */
/* When nobody can post any more: between stop and this, posting is refused. Never started is fine. */
void kernel_loader_done(struct kernel_loader *l);

/* ---- a thread that serves callers in turn (turns.c) ---- */

struct turn;

/* Owner: any thread may post, under `lock`; the thread itself takes. */
struct kernel_turns {
    struct ast_lock lock;
    pthread_cond_t wake;
    pthread_t thread;
    struct ast_map callers AST_GUARDED_BY(lock);     /* principal -> its turn */
    struct turn *first, **last AST_GUARDED_BY(lock); /* ring of those with work */
    unsigned waiting AST_GUARDED_BY(lock);           /* jobs of all */
    bool stop AST_GUARDED_BY(lock), started;
};

enum ast_rc kernel_turns_start(struct kernel_turns *t, const char *name, struct ast_err *err);
/* Errors: BUSY this caller has as much waiting as there is room for others; CLOSED; NO_MEMORY. The job was not taken then. */
AST_MUST_CHECK
enum ast_rc kernel_turns_post(struct kernel_turns *t, struct ast_str caller, struct kernel_job *job,
                              struct ast_err *err);
/* For a job on that thread: takes further jobs that are next of their callers and have the same `run`, so that all are done
 * as one. Returns how many. */
size_t kernel_turns_more(struct kernel_turns *t, void (*run)(struct kernel_job *job),
                         struct kernel_job **ret, size_t max);
void kernel_turns_stop(struct kernel_turns *t); /* finishes what waits, joins; zeroed is fine */

/* ---- who is connected (spec 01 §18.1) ---- */

/* Owner: any thread, under `lock`. */
struct kernel_connections {
    struct ast_lock lock;
    struct ast_map counts AST_GUARDED_BY(lock); /* principal -> count as uintptr_t */
    uint64_t total AST_GUARDED_BY(lock);
    int sockets AST_GUARDED_BY(lock);
};

void kernel_connections_init(struct kernel_connections *c);
void kernel_connections_done(struct kernel_connections *c);
bool kernel_connections_any(struct kernel_connections *c); /* an authenticated socket */
uint64_t kernel_connections_total(struct kernel_connections *c);
bool kernel_connections_idle(
    struct kernel_connections *c); /* nobody counted, no authenticated socket */
/* Appends [{"principal":..,"count":..},...] in ascending order; false when there is none (nothing appended). */
bool kernel_connections_json(struct kernel_connections *c, struct ast_jw *w);

/* ---- request rate windows (spec 02 §22), per caller and method ---- */

struct kernel_limits {
    struct ast_lock lock;
    struct ast_map windows AST_GUARDED_BY(lock); /* "<method>:<caller>" -> struct limit_window */
};
void kernel_limits_init(struct kernel_limits *l);
void kernel_limits_done(struct kernel_limits *l);
bool kernel_limits_admit(struct kernel_limits *l, struct ast_str method, struct ast_str caller,
                         unsigned max, int64_t now_ns);

/* ---- timers ---- */

/* Idle shutdown: whether, after how long, and when to look. `text`: ASTRID_IDLE_TIMEOUT_SECS or NULL; what is no
 * unsigned number counts as unset. */
struct kernel_idle_plan {
    bool enabled;
    int64_t timeout_ns;
    uint64_t first_ms, period_ms;
};
struct kernel_idle_plan kernel_idle_plan(bool ephemeral, const char *text);

struct kernel_monitors;
enum ast_rc kernel_monitors_start(struct ast_kernel *k, struct kernel_monitors **ret,
                                  struct ast_err *err);
void kernel_monitors_stop(struct kernel_monitors *m);

/* ---- routers: requests that arrive on the bus ---- */

struct kernel_router;
enum ast_rc kernel_router_start(struct ast_kernel *k, struct kernel_router **ret,
                                struct ast_err *err);
void kernel_router_stop(struct kernel_router *r);

/* ---- requests ---- */

/* The answer on the bus carries the caller's principal, so no other principal's client gets it. */
bool kernel_request_is_private(struct ast_str method);

/* ---- the answer of GetActivity ---- */

void kernel_activity_json(const struct ast_kernel *k, const struct ast_activity *a,
                          struct ast_str sort, struct ast_jw *w);
/* The capability that a kernel request asks for, by row; p NULL at the end. */
struct ast_str kernel_request_capability(size_t i);

/* ---- capsule folders: what changes on disk is loaded (watch.c). Main loop ---- */

struct kernel_watch;
enum ast_rc kernel_watch_start(struct ast_kernel *k, struct kernel_watch **ret,
                               struct ast_err *err);
/* After the loader has stopped and the loop was flushed. NULL is fine. */
void kernel_watch_stop(struct kernel_watch *w);

/* ---- boot pieces ---- */

/* Removes the unfinished files of a daemon that was killed; under the singleton lock, before anything is written. */
void kernel_sweep_leftovers(const struct ast_home *home);

/* Root user and its cli/local link in the store (spec 01 §17.2). */
/* Then the links of the settings; one that fails is logged and skipped. */
enum ast_rc kernel_identity_bootstrap(struct ast_store *store, const struct ast_kernel_config *cfg,
                                      struct ast_err *err);

/* The audit log (audit_priv.h has what requests need): opened with the store, background work once the loader runs, stopped
 * when nobody can ask any more. */
enum ast_rc kernel_audit_open(struct ast_kernel *k, struct ast_err *err);
enum ast_rc kernel_audit_start(struct ast_kernel *k, struct ast_err *err);
void kernel_audit_stop(struct ast_kernel *k);
/* What capsules ask people for goes to the log. Open: when k->host is filled. Close: before the log goes; any thread may
 * still ask. Done: when no call is left. */
void kernel_approvals_open(struct ast_kernel *k);
void kernel_approvals_close(struct ast_kernel *k);
void kernel_approvals_done(struct ast_kernel *k);

/* Publishes guest bytes on a topic as the kernel; a failure is logged. */
void kernel_publish(struct ast_kernel *k, struct ast_str topic, enum ast_payload_kind kind,
                    struct ast_str body, const struct ast_uuid *source, const char *origin);

/* Rows of approvals (audit_approvals.c). Threads: any. */
struct kernel_approvals {
    bool is_open;
    pthread_rwlock_t gate;
    bool is_closed; /* under `gate`: no more rows */
    struct ast_lock lock;
    int64_t window_ns AST_GUARDED_BY(lock);
    uint64_t used AST_GUARDED_BY(lock); /* allowances, in this window */
};

struct ast_kernel {
    const struct ast_home *home;
    struct ast_loop *loop;
    struct ast_uuid session;
    bool ephemeral;
    const char *version;
    char *workspace; /* owned; NULL: none */
    int64_t booted_ns;
    int lock_fd;              /* run/system.lock, held until exit */
    bool has_token, is_ready; /* main thread: which runtime files are ours */
    struct ast_key runtime_key;
    struct ast_session_token token;
    struct ast_store *store;
    struct ast_policy *policy;
    struct ast_bus *bus;
    struct ast_engine *engine;
    struct ast_sched *sched;
    struct ast_allowances *allowances;
    struct ast_host host;
    struct ast_capsules *capsules;
    struct ast_audit *audit;
    struct kernel_audit *audit_life; /* owned; audit.c */
    bool audit_fail_closed;          /* immutable after boot */
    struct kernel_approvals approvals;
    struct kernel_loader verifier; /* long reads: nobody who changes something waits for them */
    struct kernel_loader answers;  /* what waits for its audit row is answered here */
    bool agents_may_install;       /* immutable after boot */
    struct kernel_loader loader;
    struct kernel_turns
        admin; /* the write lock of policy: its changes run here, one after another */
    struct kernel_turns reads; /* what visits every principal, so that no loop waits for it */
    char *ticket_trouble
        [KERNEL_TICKET_KINDS]; /* owned; why the original's file could not be taken over */
    unsigned invite_secs; /* lifetime of an invite that names none; 0: none. Immutable after boot */
    struct kernel_connections connections;
    struct kernel_limits limits;
    struct kernel_monitors *monitors;
    struct kernel_router *router;
    struct kernel_watch *watch;                     /* NULL: not asked for */
    void (*on_stop)(void *arg, const char *reason); /* main loop */
    void *on_stop_arg;
    char *stop_reason; /* main loop, owned: why we were asked to stop; NULL: not yet */
};

/* Asks the daemon to stop, from any thread; the first reason counts. Copied. */
void kernel_ask_stop(struct ast_kernel *k, const char *reason);
