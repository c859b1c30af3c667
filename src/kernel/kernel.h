/* The kernel: boot, the one request function, background loops, shutdown (spec 01 §16 to §18, 02 §10 to §12).
 *
 * Boot order: lock first, home, keys, store, policy, bus, engine, scheduler, registry; the doors (socket, HTTP) are
 * started by the daemon between ast_kernel_boot() and ast_kernel_load_capsules(), so that connected clients see
 * capsules_loaded. A failed boot leaves no runtime files.
 * Owner: the daemon's main thread; the request function from any thread.
 */
#pragma once

#include "base/loop.h"
#include "capsule/registry.h"
#include "crypto/token.h"

struct ast_kernel;

/* One [[identity.links]] entry of the settings. */
struct ast_kernel_link {
    char *platform, *platform_user_id;
    char *astrid_user; /* a user's UUID, or a display name */
    char *method;      /* NULL or empty: admin */
};

struct ast_kernel_config {
    const struct ast_home *home; /* borrowed for the kernel's life */
    struct ast_loop *loop;       /* main loop: timers and kernel taps */
    const char *workspace;
    struct ast_uuid session;
    bool ephemeral;
    bool watch_capsules;                     /* load what changes in the capsule folders */
    unsigned pool_max, blocking_max, io_max; /* 0: derived */
    unsigned workers;                        /* 0: CPUs */
    bool shows_claims;                       /* messages of publish-as arrive as claimed */
    uint64_t kv_value_max;                   /* bytes of a stored value; 0: 10 MiB */
    unsigned depth_max;                      /* publishes caused by one another; 0: no limit */
    unsigned approval_secs;                  /* how long people have to approve; 0: 60 */
    const char *version;                     /* product version */
    bool
        audit_fail_open; /* [audit] fail_closed = false: changes go on when their row cannot be stored */
    unsigned invite_secs;    /* [invites] default_expires_secs; 0: an invite may live for ever */
    bool agents_may_install; /* [capsule] self_install: self:capsule:install is enough to install */
    const struct ast_kernel_link *links; /* borrowed for the boot */
    size_t link_count;
};

AST_MUST_CHECK
enum ast_rc ast_kernel_boot(const struct ast_kernel_config *cfg, struct ast_kernel **ret,
                            struct ast_err *err);
/* Load pass on the loader thread; done(arg) on the main loop. */
void ast_kernel_load_capsules(struct ast_kernel *k, void (*done)(void *arg), void *arg);
/* Writes run/system.ready, publishes kernel_started, logs "Kernel booted successfully". */
AST_MUST_CHECK
enum ast_rc ast_kernel_ready(struct ast_kernel *k, struct ast_err *err);
/* The order of spec 01 §16.5. `reason` goes into kernel_shutdown. Blocks (bounded). */
void ast_kernel_shutdown(struct ast_kernel *k, const char *reason);
void ast_kernel_free(struct ast_kernel *k);

/* Accessors; borrowed for the kernel's life. */
struct ast_host *ast_kernel_host(struct ast_kernel *k);
struct ast_capsules *ast_kernel_capsules(struct ast_kernel *k);
const struct ast_session_token *ast_kernel_token(struct ast_kernel *k);
const char *ast_kernel_version(struct ast_kernel *k);
/* Called on the main loop when a client asked for shutdown or the daemon went idle. */
void ast_kernel_on_stop(struct ast_kernel *k, void (*fn)(void *arg, const char *reason), void *arg);

/* The one request function of all doors (spec 02 §12): authorises `caller`, runs the method, answers once with the
 * response object {"status":..,"data":..}. done may run on any thread, also before this returns.
 * `method_json`: the request object {"method":..,"params":..} as a parsed value, borrowed during the call. */
void ast_kernel_request(struct ast_kernel *k, struct ast_str caller, const struct ast_json *request,
                        void (*done)(void *arg, struct ast_str response_json), void *arg);

/* The same for admin requests (spec 02 §13): principals, quotas, groups, grants. The answer echoes "request_id". Changes run
 * one after another on a thread of their own and are on disk before done(). */
void ast_kernel_admin(struct ast_kernel *k, struct ast_str caller, const struct ast_json *request,
                      void (*done)(void *arg, struct ast_str response_json), void *arg);

/* --- For a door that is the only gate itself (spec 03 §1): door.c. None of it asks for a capability. --- */

/* One row of a request in the audit log, as history and live view show it (spec 03 §23.3). Borrowed for the call. */
struct ast_kernel_row {
    uint64_t seq; /* position in the log: unique, ascending in the order of appending */
    uint64_t ts_epoch;
    struct ast_str principal; /* who acted */
    struct ast_str json;
};

struct ast_kernel_rows {
    const struct ast_str *principal; /* acting; NULL: anybody */
    struct ast_str method;           /* empty: any */
    uint64_t since, until;           /* seconds since 1970, inclusive; 0 and UINT64_MAX: open */
    uint64_t
        seq; /* newest first: only rows before it, 0: from the end. Oldest first: only rows behind it */
    bool oldest_first;
    bool (*each)(void *arg, const struct ast_kernel_row *row); /* false ends the walk */
    void *arg;
};
/* Walks the rows of requests of this session; rows of other kinds are passed over. Costs what it visits. *ret_seq: the last
 * row that was looked at, of whatever kind; unchanged when there was none. Reads from disk. Any thread. */
AST_MUST_CHECK
enum ast_rc ast_kernel_rows_walk(struct ast_kernel *k, const struct ast_kernel_rows *ask,
                                 uint64_t *ret_seq, struct ast_err *err);

/* Something that a door lets `caller` do without asking for leave here, and its row in the audit log. Views are borrowed. */
struct ast_kernel_deed {
    struct ast_str caller, method;
    struct ast_str
        capability; /* held by the caller; or the name of what needs none because it is the caller's own */
    bool is_own;
    struct ast_str params; /* JSON {"method":..,"params":..} without secrets; empty: none */
    bool changes; /* an intent marker goes before, and a failed marker or row fails the deed */
};
/* Runs `act` (NULL: nothing) between its intent and its row. Errors: those of `act`, or of the log. Blocks on disk: never on a
 * loop thread or a fiber. */
AST_MUST_CHECK
enum ast_rc ast_kernel_do(struct ast_kernel *k, const struct ast_kernel_deed *deed,
                          enum ast_rc (*act)(void *arg, struct ast_err *err), void *arg,
                          struct ast_err *err);

/* Appends [{"name","direction","description"},..] of a loaded capsule's topics; an unknown one has none. Any thread. */
void ast_kernel_capsule_topics(struct ast_kernel *k, struct ast_str id, struct ast_jw *w);
/* How many capsules are loaded, and how many of them do not serve. Any thread. */
void ast_kernel_capsule_count(struct ast_kernel *k, uint64_t *ret_loaded, uint64_t *ret_failed);

/* Connection tracking (spec 01 §18.1): the doors tell; any thread. */
void ast_kernel_client_opened(struct ast_kernel *k, struct ast_str principal);
void ast_kernel_client_closed(struct ast_kernel *k, struct ast_str principal);
/* authenticated sockets, for the idle decision */
void ast_kernel_socket_count(struct ast_kernel *k, int delta);
