/* What the files of this room share: the context of a call, waiting, permits, questions, per-principal files.
 *
 * Terms. *Host call*: one import a guest called; it runs on the guest's fiber. *Invoking principal*: for whom
 * the guest acts now (spec 05 §1). An instance runs one guest call at a time, so an object behind a handle
 * has at most one waiting call.
 */
#pragma once

#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/time.h"
#include "bus/route.h"
#include "host/abi_names.h"
#include "host/allowance.h"
#include "host/bindings.h"
#include "host/env.h"

#define HOST_LOG "astrid.host" /* log target of this room */

/* --- The call (context.c) ------------------------------------------------------------------------ */

/* Owner: the fiber of the call. */
struct host_context {
    struct host_overlay *overlay; /* reference; NULL: none */
    bool has_overlay;             /* looked for since the context was installed */
    struct ast_buf scratch;       /* a value handed to the adapter; reused by the next host call */
};

/* Never NULL while guest code runs. */
static inline struct ast_host_call *host_call(struct ast_abi *a)
{
    struct ast_host_call *call = ast_abi_user(a);
    AST_ASSERT(call && call->env);
    return call;
}

struct host_context *host_context(struct ast_host_call *call); /* NULL: out of memory */
/* The context a received message brings to a run loop (spec 05 §19.2); nothing inside a handler. */
void host_context_receive(struct ast_host_call *call, struct ast_msg *msg);
/* Whether a run loop may see messages of this principal: false when it is disabled. Logs refusals. */
bool host_context_admits(struct ast_host_call *call, struct ast_str principal);

/* An error text in the call's arena; static text when the arena is full. */
struct ast_str host_text(struct ast_abi *a, const char *fmt, ...) AST_PRINTF(2, 3);
/* The bytes as UTF-8: themselves, or a copy with U+FFFD in place of what is not. */
struct ast_str host_utf8(struct ast_abi *a, struct ast_str s);

static inline bool host_is_unloading(const struct ast_host_call *call)
{
    return atomic_load_explicit(&call->env->unloading, memory_order_acquire);
}

/* How long a recv may wait that asked for `timeout_ms` (spec 04 §8.3). */
static inline uint64_t host_recv_wait_ms(const struct ast_host *host, uint64_t timeout_ms)
{
    return AST_MIN(timeout_ms, (uint64_t)(host->recv_max_ms ? host->recv_max_ms : AST_RECV_MAX_MS));
}

static inline void host_progress(struct ast_host_call *call)
{
    atomic_fetch_add_explicit(&call->env->progress, 1, memory_order_relaxed);
}

/* Charges what the run loop burned since it was last charged to whom it acted for until now. */
void host_charge(struct ast_abi *a);

/* --- Waiting (wait.c) ---------------------------------------------------------------------------- */

/* The call to wake when something happened. Zeroed: nobody waits. Any thread fires; the waiting fiber arms
 * and disarms. Fire disarms: arm again before the next look and park. */
struct host_wait {
    _Atomic(struct ast_call *) waiter; /* reference */
};

void host_wait_arm(struct host_wait *w, struct ast_call *call);
void host_wait_disarm(struct host_wait *w);
void host_wait_fire(struct host_wait *w);

/* --- Permits (permits.c) ------------------------------------------------------------------------- */

/* AST_OK, or CANCELLED: the capsule is unloading or the call was cancelled. NULL permits: no ceiling. */
AST_MUST_CHECK
enum ast_rc host_permit_take(struct ast_permits *p, struct ast_abi *a);
void host_permit_give(struct ast_permits *p);

/* --- Changes of the store (change.c) ------------------------------------------------------------- */

/* Part of an object that holds a store operation and what it points to. Owner: the fiber and the writer, a reference
 * each; `release` frees the object with the last one. */
struct host_change {
    struct ast_call *call; /* reference */
    atomic_uint refs;
    atomic_bool is_done; /* written last by the writer: rc and err are final then */
    enum ast_rc rc;
    struct ast_err err;
    void (*release)(struct host_change *c);
};

void host_change_init(struct host_change *c, struct ast_abi *a,
                      void (*release)(struct host_change *)); /* one reference */
void host_change_unref(struct host_change *c);
/* Takes a permit, queues `op` and parks until it is durable. CANCELLED: the operation may happen later. */
enum ast_rc host_change_run(struct host_change *c, struct ast_abi *a, struct ast_store_op *op,
                            struct ast_err *err);
/* What the operation's done() calls. */
void host_change_done(struct host_change *c, enum ast_rc rc, const struct ast_err *err);

/* --- Pollables (io_poll.c) ----------------------------------------------------------------------- */

/* What a pollable asks its source. All run on the guest's fiber except drop, and none parks. */
struct host_source {
    bool (*is_ready)(void *obj);
    bool (*is_closed)(void *obj);
    struct host_wait *(*wait)(void *obj);
    void (*drop)(void *obj); /* gives the pollable's reference back */
};

/* Takes one reference to `obj`; NULL (reference given back, call trapped) when out of memory. */
struct ast_io_pollable *host_pollable_new(struct ast_abi *a, const struct host_source *source,
                                          void *obj);
void host_pollable_drop(void *obj); /* resource destructor */

/* --- Errors as resources (io_error.c) ------------------------------------------------------------ */

/* A copy of the text, made UTF-8; NULL (call trapped) when out of memory. */
struct ast_io_error *host_io_error_new(struct ast_abi *a, struct ast_str text);
void host_io_error_drop(void *obj); /* resource destructor */

/* --- Subscriptions (ipc_subscription.c) ---------------------------------------------------------- */

#define HOST_SUBSCRIPTIONS_MAX 128u /* per instance, spec 04 §8.1 */
#define HOST_ENVELOPE_MAX      512u /* messages in one envelope; more stay queued */

void host_subscription_drop(void *obj); /* resource destructor */

/* A route and who waits on it; outlives its subscription when a run loop is replaced (handover.c). */
struct host_queue {
    struct ast_host *host;
    struct ast_route *route; /* owned */
    struct host_wait wait;   /* fired by publishers */
    struct ast_str pattern;  /* owned */
    bool is_scoped;          /* the owner's messages only, spec 05 §7.6 */
};
void host_queue_close(struct host_queue *q); /* NULL is fine */
/* Takes the queue when it returns true. */
bool host_handover_give(struct ast_handover *h, struct host_queue *q);
/* The queue of such a subscription, owned by the caller; NULL: there is none. */
struct host_queue *host_handover_take(struct ast_handover *h, struct ast_str pattern,
                                      bool is_scoped);

/* --- Uplinks (uplink.c) -------------------------------------------------------------------------- */

#define HOST_UPLINKS_MAX     32u  /* per loaded capsule, spec 05 §14 */
#define HOST_UPLINK_TEXT_MAX 256u /* name and platform */

void host_uplinks_free(void *uplinks); /* of an env; NULL is fine */

/* --- Per-instance state (instance.c) ------------------------------------------------------------- */

/* Owner: whoever owns the instance, and each object in its handle table (the pool may free the state before
 * the handles). One thread at a time, handed over with the instance. */
struct host_instance {
    const struct ast_host_env *env; /* outlives every instance */
    unsigned refs;
    unsigned subscriptions; /* live ones */
};

struct host_instance *host_instance(struct ast_abi *a); /* borrowed; NULL: the pool made none */
void host_instance_unref(struct host_instance *i);

/* --- Questions to people (question.c) ------------------------------------------------------------ */

/* One question on the bus and its answer (spec 05 §11, §12). Who may answer is a matter of capabilities: for
 * the principal asked for, and for anybody else. Lives on the asking fiber's stack. */
struct host_question {
    const char *topic; /* static; the answer comes on "<topic>.response.<id>" */
    const char *noun;  /* static; "approval", for texts */
    enum ast_payload_kind ask_kind, answer_kind;
    struct ast_str own_cap, other_cap;
    int64_t limit_ns; /* how long to wait */
    /* Private. */
    struct ast_uuid id;
    struct ast_str id_str; /* in id_text */
    char id_text[AST_UUID_TEXT];
    struct ast_route *route;
    struct host_wait wait;
    bool has_refused; /* an answer, and said so */
};

/* Makes the id and starts to listen, so that no answer is lost. Then host_question_done(), on every path. */
AST_MUST_CHECK
enum ast_rc host_question_open(struct ast_abi *a, struct host_question *q, struct ast_err *err);
/* Publishes `body` (trusted, in guest form) for the invoking principal and parks until an answer that counts.
 * Errors: TIMEOUT; CANCELLED unload or a cancelled call; PROTOCOL an answer of another payload type. No permit
 * is held: people are slow (spec 05 §22.1). */
AST_MUST_CHECK
enum ast_rc host_question_ask(struct ast_abi *a, struct host_question *q, struct ast_str body,
                              struct ast_json_doc **ret_answer, struct ast_err *err);
void host_question_done(struct host_question *q);
AST_DEFINE_AUTO_VALUE(struct host_question, host_question_done)

#define HOST_APPROVAL_LIMIT_NS (60 * AST_NS_PER_SEC)  /* spec 05 §12.1 */
#define HOST_ELICIT_LIMIT_NS   (120 * AST_NS_PER_SEC) /* spec 05 §11.1 */

/* --- Allowances (allowance.c) -------------------------------------------------------------------- */

/* A request whose answer may leave an allowance. Owner: the asking fiber; linked in the store meanwhile, so
 * that a session that ends before the answer arrives leaves nothing behind. */
struct host_asking {
    struct ast_list node;
    struct ast_principal who;
    bool has_ended;   /* under the store's lock: the principal's session did */
    uint64_t forgets; /* principals deleted when it was asked; immutable */
};

/* `a` may be NULL: nothing is remembered. End follows begin on every path. */
void host_asking_begin(struct ast_allowances *a, const struct ast_principal *who,
                       struct host_asking *ret);
void host_asking_end(struct ast_allowances *a, struct host_asking *asking);

/* Whether one of the principal's covers the command. One that is limited by number loses a use, durably: the fiber
 * parks for it. */
bool host_allowance_covers(struct ast_abi *abi, struct ast_allowances *a, struct ast_str principal,
                           struct ast_str workspace, struct ast_str command);
/* For asking->who: the action and whatever arguments. One that outlives the session is durable on success;
 * the fiber parks for it. Errors: CLOSED the session has ended; NO_CAPACITY too many; CANCELLED; the store's. */
AST_MUST_CHECK
enum ast_rc host_allowance_add(struct ast_abi *abi, struct ast_allowances *a,
                               const struct host_asking *asking, struct ast_str workspace,
                               struct ast_str action, bool session_only, struct ast_err *err);

/* --- Files by principal (env_files.c, overlay.c, capsule_log.c) ---------------------------------- */

#define HOST_FILES_MAX 64u /* principals kept per capsule and kind; the rest is opened again */

struct host_overlay;
struct host_log_file;

/* Owner: any thread, under `lock`; the objects are shared by reference. */
struct host_files {
    struct ast_lock lock;
    struct ast_map overlays
        AST_GUARDED_BY(lock);                 /* principal -> struct host_overlay, one reference */
    struct ast_map logs AST_GUARDED_BY(lock); /* principal -> struct host_log_file, one reference */
};

struct host_files *host_files(
    struct ast_host_env *env); /* made on first use; NULL: out of memory */
/* Stores one reference under `principal`. Returns what has to be unreferenced outside the lock: the value
 * replaced, one that made room, or `value` itself when out of memory; NULL for nothing. */
void *host_files_put(struct host_files *f, struct ast_map *m, struct ast_str principal, void *value)
    AST_REQUIRES(f->lock);

#define HOST_OVERLAY_MAX_BYTES 1048576u /* spec 05 §9.1 */

/* The principal's values for declared keys as they are on disk now; a reference, NULL for none. */
struct host_overlay *host_overlay_get(struct ast_host_env *env, struct ast_str principal);
struct host_overlay *host_overlay_ref(struct host_overlay *o);
void host_overlay_unref(struct host_overlay *o);
/* Borrowed from the overlay. */
bool host_overlay_find(const struct host_overlay *o, struct ast_str key, struct ast_str *ret);

#define HOST_LOG_LINE_MAX  65536u /* spec 05 §26 */
#define HOST_LOG_KEEP_DAYS 7

void host_log_file_unref(struct host_log_file *f);
/* The wall clock that names the files and heads the lines, for tests. NULL restores the real one. */
void host_log_set_clock(int64_t (*now)(void));

/* --- deed.c: what a capsule did with a right of its own, for the audit log ------------------------- */
struct host_deed {
    const char *fn; /* static */
    char args_hash[65];
};
/* `args` ascend by key; may be guest memory, nothing of it is kept. */
void host_deed_begin(struct host_deed *d, const char *fn, const struct ast_host_pair *args,
                     size_t count);
/* error: static, NULL when it succeeded. */
void host_deed_end(const struct host_deed *d, const struct ast_host_call *call, bool is_lookup,
                   const char *error);
