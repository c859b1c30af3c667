/* What host functions know: the process (ast_host), the loaded capsule (ast_host_env), the call
 * (ast_host_call).
 *
 * This is the only room where a guest's request meets policy. The capsule room fills these structs; the host
 * room reads them. ast_abi_user() of a running call is its struct ast_host_call.
 */
#pragma once

#include <stdatomic.h>

#include "base/home.h"
#include "base/thread.h"
#include "base/uuid.h"
#include "base/vec.h"
#include "bus/bus.h"
#include "bus/limiter.h"
#include "host/allowance.h"
#include "policy/profile.h"
#include "store/store.h"
#include "wasm/sched.h"

/* A question to people as the audit log keeps it (spec 09 §11, 05 §28). Views are borrowed for the call. */
enum ast_host_approval_step {
    AST_HOST_APPROVAL_REQUESTED,
    AST_HOST_APPROVAL_GRANTED, /* detail: "once", "session" or "always" */
    AST_HOST_APPROVAL_DENIED,  /* detail: why; may be empty */
    AST_HOST_APPROVAL_COVERED, /* by an allowance: nobody was asked */
    AST_HOST_ELICIT_SENT,      /* detail: "text", "secret", "select" or "array" */
    AST_HOST_ELICIT_RECEIVED,  /* detail: "accept", "cancel" or "timeout" */
};
struct ast_host_approval {
    enum ast_host_approval_step step;
    struct ast_str principal, capsule, detail;
    struct ast_str action, resource; /* of approvals */
    struct ast_str request;          /* of elicitations: its id */
};

/* A call that uses a right of the capsule, as the audit log keeps it (spec 05 §13, §14). Views are borrowed for the call. */
struct ast_host_deed {
    struct ast_str principal, capsule;
    struct ast_str fn;        /* "identity-link" */
    struct ast_str args_hash; /* 64 hex digits: BLAKE3 of the arguments' JSON */
    struct ast_str error;     /* p == NULL: it succeeded; else the contract's word */
    bool is_denied, is_lookup;
};

/* Process-wide services. Immutable after boot; the pointed-to objects are thread-safe. */
struct ast_host {
    const struct ast_home *home;
    struct ast_bus *bus;
    struct ast_store *store;
    struct ast_policy *policy;
    struct ast_sched *sched;
    /* Whether the capsule with that UUID holds a manifest capability (spec 05 §6.2). Unknown: false. */
    bool (*capsule_holds)(void *arg, const struct ast_uuid *uuid, struct ast_str capability);
    void *capsule_holds_arg;
    /* A message of that principal (empty: none) was lost in a capsule's subscription. Quick; any thread. NULL:
     * nobody counts. */
    void (*count_lost)(void *arg, struct ast_str principal);
    void *count_lost_arg;
    struct ast_allowances *allowances; /* NULL: every approval is asked for */
    /* How long people have for an answer; 0: 60 s and 120 s (spec 05 §11, §12). */
    int64_t approval_limit_ns, elicit_limit_ns;
    /* Whether somebody is attached who could answer a question; NULL: assume so. */
    bool (*has_listener)(void *arg);
    void *has_listener_arg;
    /* Whoever keeps a record; must not block. Any thread. NULL: nobody. */
    void (*on_approval)(void *arg, const struct ast_host_approval *what);
    void *on_approval_arg;
    void (*on_deed)(void *arg, const struct ast_host_deed *what); /* the same */
    void *on_deed_arg;
    /* Messages of publish-as arrive as `claimed`, not as `verified` (spec 04 §5.3). */
    bool shows_claims;
    uint64_t kv_value_max; /* bytes of a value that a capsule stores; 0: AST_KV_MAX_VALUE */
    unsigned depth_max;    /* publishes caused by one another, spec 04 §5.5; 0: no limit */
    unsigned recv_max_ms;  /* the longest a guest's recv waits, for tests; 0: AST_RECV_MAX_MS */
};

#define AST_RECV_MAX_MS 60000u /* spec 04 §8.3 */

/* The import table and resource destructors for ast_engine_new(). */
const struct ast_wasm_host *ast_host_imports(void);

struct ast_host_pair {
    struct ast_str key, value; /* owned by the env */
};

struct ast_host_binding { /* one [subscribe] entry with a handler */
    struct ast_str topic, action;
    uint32_t priority;
};

/* Host-call ceilings of one capsule: how many calls may hold a permit (spec 05 §22.1). Waiting parks. */
struct ast_permits;
AST_MUST_CHECK
enum ast_rc ast_permits_new(unsigned limit, struct ast_permits **ret, struct ast_err *err);
void ast_permits_free(struct ast_permits *p);

/* What a run loop leaves to the load that takes its place: the subscriptions it made before it said ready, open
 * and with all that is queued on them. The next load finds its own by pattern when it subscribes; what it has not
 * asked for when it says ready is closed. Shared by the two loads. Threads: any. */
struct ast_handover;
AST_MUST_CHECK
enum ast_rc ast_handover_new(struct ast_handover **ret, struct ast_err *err);
struct ast_handover *ast_handover_ref(struct ast_handover *h);
void ast_handover_unref(
    struct ast_handover *h); /* NULL is fine; the last one closes what is left */
/* Closes what nobody asked for; nothing is taken any more. NULL is fine. */
void ast_handover_close(struct ast_handover *h);
/* Takes again, for the next one in line. */
void ast_handover_reopen(struct ast_handover *h);
/* What nobody asked for goes from one to the other; `from` (NULL is fine) is closed after it. */
void ast_handover_pass(struct ast_handover *from, struct ast_handover *to);

/* What a capsule may do with identities: each level includes those before it (spec 05 §13.1). */
enum ast_identity_level {
    AST_IDENTITY_LEVEL_NONE,
    AST_IDENTITY_LEVEL_RESOLVE,
    AST_IDENTITY_LEVEL_LINK,
    AST_IDENTITY_LEVEL_ADMIN,
};
/* "resolve", "link", "admin"; other words grant nothing. */
enum ast_identity_level ast_identity_level_of(struct ast_str word);

/* One load of one capsule. Immutable after load except the fields marked atomic. Owner: the capsule room. */
struct ast_host_env {
    struct ast_host *host;
    struct ast_str capsule_id;
    struct ast_uuid uuid;              /* source_id of everything it publishes */
    struct ast_principal owner;        /* always "default" */
    struct ast_str workspace;          /* root of its workspace; empty: none */
    const struct ast_str *publish_acl; /* [publish] keys */
    size_t publish_acl_count;
    const struct ast_str *subscribe_acl; /* [subscribe] keys, with or without handler */
    size_t subscribe_acl_count;
    const struct ast_host_binding *bindings;
    size_t binding_count;
    const struct ast_str *held; /* held capability names, ascending */
    size_t held_count;
    bool uplink;                      /* manifest [capabilities] uplink */
    bool has_inbound;                 /* the manifest has [[uplink]]: uplink-send is served */
    enum ast_identity_level identity; /* the highest of manifest [capabilities] identity */
    bool audit_firehose;              /* the owner held audit:read_all at load */
    bool is_run_loop;
    bool is_lifecycle; /* install or upgrade hook: no ACLs, no registry, private KV */
    const struct ast_host_pair *config; /* base config (spec 05 §9.2), sorted by key */
    size_t config_count;
    /* [env] keys that overlays may set: declared, not secret, not reserved */
    const struct ast_str *declared;
    size_t declared_count;
    const struct ast_str *secret_keys; /* [env] keys of type secret (any letter case) */
    size_t secret_key_count;
    struct ast_limiter *limiter;
    struct ast_permits *blocking, *io;
    void (*on_ready)(void *arg); /* signal-ready; idempotent; run loops only */
    void *on_ready_arg;
    void (*on_receive)(
        void *arg); /* the first two times a run loop asks for messages; NULL: none */
    void *on_receive_arg;
    /* What a run loop burned since the last time, for the principal it acted for. NULL: nobody counts. */
    void (*on_fuel)(void *arg, struct ast_str principal, uint64_t fuel);
    void *on_fuel_arg;
    atomic_uint receives;  /* how often a run loop asked for messages; counts to two */
    atomic_bool unloading; /* set before waking the capsule's calls: waits end promptly */
    /* A run loop that is being replaced: what it was given it finishes; when it asks for more (poll or recv on a
     * subscription older than its signal-ready) it ends and its messages stay queued. */
    atomic_bool quiescing;
    atomic_bool is_ready; /* signal-ready was called */
    /* The load before it may come back: what this one has not asked for waits until that is decided. */
    atomic_bool is_on_trial;
    atomic_bool is_over; /* the run loop's call ended: its handles go with the instance */
    _Atomic(struct ast_handover *)
        heir; /* owned reference; where its subscriptions go then; NULL: closed */
    struct ast_handover *inherits; /* owned reference; set before the loop starts; NULL: nothing */
    atomic_bool used_publish_as;   /* since load: envelopes may mix principals (spec 04 §8.4) */
    /* blocking host calls entered: run-loop window check (spec 05 §20.3) */
    atomic_uint_least64_t progress;
    void *capsule; /* the capsule room's own object */
    /* The host room's own: zero at load, released by ast_host_env_done(). */
    _Atomic(void *) files;   /* env overlays and open log files, by principal */
    _Atomic(void *) uplinks; /* what the capsule registered, shared by its instances */
    atomic_uint_least64_t
        unavailable_said[4]; /* one bit per function that was reported as missing */
};

/* Releases what host functions attached to the env. Call it once, when no call of the capsule is left. */
void ast_host_env_done(struct ast_host_env *env);

/* One guest call. Made zeroed by the capsule room on a worker, installed as the call's user, ended with it. */
struct ast_host_call {
    struct ast_host_env *env;
    bool interceptor;              /* a handler runs: recv never changes the context */
    struct ast_msg *caller;        /* owned reference; NULL: no causing message */
    struct ast_principal invoking; /* valid principal this call acts for; else the owner */
    bool has_profile;
    /* of the invoking principal; the defaults when has_profile is false */
    struct ast_quotas quotas;
    uint64_t fuel_told; /* run loops: what on_fuel was told, and what was charged at ticks */
    void *context;      /* host room's own state of the call: overlay, scratch memory */
};

/* Installs the context for `msg` (NULL: none; the reference is not taken): invoking principal, quotas, overlay.
 * Used by the capsule room before a handler call and by recv/poll in run loops. The profile must have been
 * resolved by the caller for handlers (fail closed); for run loops with a message it is resolved here (spec 05
 * §19.2); without either the built-in default quotas hold. `interceptor` stays as it was set. */
void ast_host_call_begin(struct ast_host_call *call, struct ast_host_env *env, struct ast_msg *msg,
                         const struct ast_profile *profile);
/* Clears everything: on every exit path. */
void ast_host_call_end(struct ast_host_call *call);

/* The uplinks that the capsule registered since its load, each as one descriptor object (spec 01 §8.7), into an array
 * that the caller has opened. Any thread. */
struct ast_jw;
void ast_host_uplinks_write(struct ast_host_env *env, struct ast_jw *w);

/* Per-instance host state for ast_pool_config: counts subscriptions and the like. */
void *ast_host_instance_make(void *env);
void ast_host_instance_reset(void *state);
void ast_host_instance_free(void *state);

/* One line to the capsule's own log, as `log` of astrid:sys does (spec 05 §26): used for load-time lines too. */
void ast_host_capsule_log(struct ast_host_env *env, struct ast_str principal, int level,
                          struct ast_str text);
/* Deletes files older than 7 days (at load; the host room itself does it when the day changes). */
void ast_host_capsule_log_prune(struct ast_host_env *env, struct ast_str principal);
