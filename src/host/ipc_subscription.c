/* astrid:ipc subscriptions: a guest's own queue on the bus (spec 05 §7.5 to §7.8; spec 04 §7, §8).
 *
 * Invariants: every message taken out of the route is delivered in the same envelope or, when its principal is
 * disabled, logged; an envelope holds one principal's messages except for capsules that stamp per message
 * themselves (publish-as). Delivered texts point into the messages, so a subscription keeps those of its last
 * envelope until the next one: the adapter copies them after we have returned.
 */
#include <stdlib.h>

#include "base/time.h"
#include "bus/route.h"
#include "bus/topic.h"
#include "host/host_priv.h"
#include "host/ipc_priv.h"

#include "base/banned.h"

static const char subscribe_fn[] = "astrid:ipc/host.subscribe";
static const char poll_fn[] = "astrid:ipc/host.subscription.poll";
static const char recv_fn[] = "astrid:ipc/host.subscription.recv";

/* Owner: the instance's fiber. One reference is the handle's, one is held by each readiness pollable. */
struct ast_ipc_subscription {
    unsigned refs;
    struct host_queue *queue; /* owned; NULL once the handle was dropped */
    struct host_wait none;    /* what a pollable of a dropped handle arms */
    bool is_early; /* made before signal-ready: what the loop serves, not a reply it awaits */
    struct host_instance *instance;      /* reference */
    AST_VEC(struct ast_msg *) delivered; /* references, kept until the next envelope */
};

static void release_delivered(struct ast_ipc_subscription *s)
{
    ast_vec_each (&s->delivered, m)
        ast_msg_unref(*m);
    ast_vec_clear(&s->delivered);
}

static void sub_unref(struct ast_ipc_subscription *s)
{
    if (--s->refs)
        return;
    AST_ASSERT(!s->queue);
    host_wait_disarm(&s->none);
    ast_vec_done(&s->delivered);
    host_instance_unref(s->instance);
    free(s);
}

/* True: the load that takes over has it now. A handle the guest itself drops is closed. */
static bool hand_over(const struct ast_ipc_subscription *s, struct host_queue *q)
{
    const struct ast_host_env *env = s->instance->env;
    struct ast_handover *heir =
        s->is_early && atomic_load(&env->is_over) ? atomic_load(&env->heir) : NULL;
    return heir && host_handover_give(heir, q);
}

void host_subscription_drop(void *obj)
{
    struct ast_ipc_subscription *s = obj;
    struct host_queue *q = ast_steal(&s->queue);
    host_wait_disarm(&q->wait);
    if (!hand_over(s, q))
        host_queue_close(q);
    release_delivered(s);
    s->instance->subscriptions--;
    sub_unref(s);
}

static void on_lost(void *arg, struct ast_str principal)
{
    const struct host_queue *q = arg;
    if (q->host->count_lost)
        q->host->count_lost(q->host->count_lost_arg, principal);
}

static void on_message(void *arg)
{
    struct host_queue *q = arg;
    host_wait_fire(&q->wait);
}

/* --- subscribe ----------------------------------------------------------------------------------- */

/* Spec 05 §7.5 steps 1 to 5. */
static bool may_subscribe(const struct ast_host_env *env, struct ast_str pattern,
                          enum ast_ipc_error_tag *ret_why)
{
    *ret_why = AST_IPC_ERROR_INVALID_INPUT;
    if (!ast_topic_subscribable(pattern))
        return false;
    *ret_why = AST_IPC_ERROR_CAPABILITY_DENIED;
    for (size_t i = 0; i < env->subscribe_acl_count; i++)
        if (ast_topic_match_subtree(env->subscribe_acl[i], pattern))
            return true;
    return false;
}

/* Spec 05 §7.6: a pattern that covers the audit feed sees the owner's messages only, unless the owner may see
 * everybody's. The scope is the whole subscription's. */
static bool is_scoped(const struct ast_host_env *env, struct ast_str pattern)
{
    if (!ast_topic_match_subtree(pattern, AST_TOPIC_AUDIT))
        return false;
    ast_log_fields(
        AST_LOG_INFO, IPC_AUDIT,
        "ipc::subscribe: audit-covering subscription scoped to owner principal unless firehose holder",
        AST_F_SECURITY, AST_F_STR("capsule_id", env->capsule_id),
        AST_F_STR("principal", ast_principal_str(&env->owner)), AST_F_STR("topic", pattern),
        AST_F_BOOL("scoped", !env->audit_firehose), AST_F_BOOL("firehose", env->audit_firehose));
    return !env->audit_firehose;
}

static bool is_for_guests(void *arg, const struct ast_msg *msg)
{
    (void)arg;
    return !ast_topic_is_secret(msg->topic);
}

/* Asked only of patterns that could cover secrets: other routes pay nothing. */
static bool covers_secrets(struct ast_str pattern)
{
    return ast_topic_is_secret(pattern) ||
           ast_topic_match_subtree(pattern, AST_STR("astrid.v1.elicit.response.x"));
}

static enum ast_rc queue_open(const struct ast_host_env *env, struct ast_str pattern, bool scoped,
                              struct host_queue **ret, struct ast_err *err)
{
    struct host_queue *q = calloc(1, sizeof *q);
    char *copy = ast_str_dup(pattern);
    if (!q || !copy) {
        free(q);
        free(copy);
        return ast_fail(err, AST_E_NO_MEMORY, "subscription");
    }
    q->pattern = ast_str_n(copy, pattern.n);
    q->is_scoped = scoped;
    q->host = env->host;
    const struct ast_route_config cfg = {
        .patterns = &pattern,
        .pattern_count = 1,
        .label = env->capsule_id,
        .scope = scoped ? ast_principal_str(&env->owner) : AST_STR_NONE,
        .filter = covers_secrets(pattern) ? is_for_guests : NULL,
        .notify = on_message,
        .lost = on_lost,
        .arg = q,
    };
    enum ast_rc rc = ast_route_open(env->host->bus, &cfg, &q->route, err);
    if (rc) {
        host_queue_close(q);
        return rc;
    }
    *ret = q;
    return AST_OK;
}

static enum ast_rc sub_open(const struct ast_host_env *env, struct host_instance *instance,
                            struct ast_str pattern, struct ast_ipc_subscription **ret,
                            struct ast_err *err)
{
    struct ast_ipc_subscription *s = calloc(1, sizeof *s);
    if (!s)
        return ast_fail(err, AST_E_NO_MEMORY, "subscription");
    s->refs = 1;
    bool scoped = is_scoped(env, pattern);
    s->queue = env->inherits ? host_handover_take(env->inherits, pattern, scoped) : NULL;
    enum ast_rc rc = s->queue ? AST_OK : queue_open(env, pattern, scoped, &s->queue, err);
    if (rc) {
        free(s);
        return rc;
    }
    s->is_early = !atomic_load(&env->is_ready);
    s->instance = instance;
    instance->refs++;
    instance->subscriptions++;
    *ret = s;
    return AST_OK;
}

int ast_ipc_subscribe(struct ast_abi *a, struct ast_str topic_pattern,
                      struct ast_ipc_subscription **ret, struct ast_ipc_error *reterr)
{
    const struct ast_host_call *call = host_call(a);
    if (!may_subscribe(call->env, topic_pattern, &reterr->tag))
        return AST_ABI_ERR;
    struct host_instance *instance = host_instance(a);
    if (!instance) {
        reterr->tag = AST_IPC_ERROR_UNKNOWN;
        reterr->u.unknown = AST_STR("resource table: no state for this instance");
        return AST_ABI_ERR;
    }
    if (instance->subscriptions >= HOST_SUBSCRIPTIONS_MAX) {
        reterr->tag = AST_IPC_ERROR_QUOTA;
        return AST_ABI_ERR;
    }
    struct ast_err err = AST_ERR_INIT;
    if (sub_open(call->env, instance, topic_pattern, ret, &err)) {
        reterr->tag = AST_IPC_ERROR_UNKNOWN;
        reterr->u.unknown = host_text(a, "resource table: %s", err.msg);
        return AST_ABI_ERR;
    }
    ipc_audit(call, subscribe_fn, topic_pattern, topic_pattern.n, NULL);
    return AST_ABI_OK;
}

/* --- Envelopes ----------------------------------------------------------------------------------- */

/* Moves what a run loop may see into `delivered`; false when nothing is left of a batch, or no memory. */
static bool keep_admitted(struct ast_host_call *call, struct ast_ipc_subscription *s,
                          struct ast_msg **batch, size_t n)
{
    struct ast_str last = AST_STR_NONE;
    bool admitted = true, is_known = false;
    for (size_t i = 0; i < n; i++) {
        if (!is_known || !ast_str_eq(last, batch[i]->principal))
            admitted = host_context_admits(call, batch[i]->principal);
        last =
            batch[i]
                ->principal; /* all of the batch stays referenced until the end of this function */
        is_known = true;
        if (admitted)
            (void)ast_vec_push(&s->delivered, ast_msg_ref(batch[i])); /* reserved by the caller */
    }
    for (size_t i = 0; i < n; i++)
        ast_msg_unref(batch[i]);
    return s->delivered.n > 0;
}

static bool reserve(struct ast_ipc_subscription *s, size_t n)
{
    while (s->delivered.cap < n)
        if (!ast_vec_grow_((void **)&s->delivered.v, &s->delivered.cap, s->delivered.cap,
                           sizeof *s->delivered.v))
            return false;
    return true;
}

/* Takes the next envelope's messages into `delivered`. False: nothing to deliver now. */
static bool take(struct ast_host_call *call, struct ast_ipc_subscription *s)
{
    const struct ast_host_env *env = call->env;
    release_delivered(s);
    while (!ast_route_empty(s->queue->route)) {
        /* Room first: what is taken must be delivered. */
        if (!reserve(s, HOST_ENVELOPE_MAX))
            return false;
        struct ast_msg *batch[HOST_ENVELOPE_MAX];
        bool mixed =
            env->uplink && atomic_load_explicit(&env->used_publish_as, memory_order_relaxed);
        size_t n =
            mixed ? ast_route_drain(s->queue->route, AST_ROUTE_BUDGET, batch, AST_ARRAY_LEN(batch))
                  : ast_route_take_envelope(s->queue->route, AST_ROUTE_BUDGET, batch,
                                            AST_ARRAY_LEN(batch));
        if (n == 0)
            return false;
        if (keep_admitted(call, s, batch, n))
            return true;
    }
    return false;
}

static void fill_message(struct ast_abi *a, const struct ast_msg *m, bool shows_claims, char *uuid,
                         struct ast_ipc_ipc_message *ret)
{
    ret->topic = host_utf8(a, m->topic);
    ret->payload = host_utf8(a, m->body);
    ret->source_id = ast_uuid_format(&m->source_id, uuid);
    ret->principal.tag = AST_IPC_PRINCIPAL_ATTRIBUTION_SYSTEM;
    if (m->principal.n && m->claimed && shows_claims) {
        ret->principal.tag = AST_IPC_PRINCIPAL_ATTRIBUTION_CLAIMED;
        ret->principal.u.claimed = host_utf8(a, m->principal);
    } else if (m->principal.n) {
        /* Usually for publish-as too: capsules read only this arm (spec 04 §5.3). */
        ret->principal.tag = AST_IPC_PRINCIPAL_ATTRIBUTION_VERIFIED;
        ret->principal.u.verified = host_utf8(a, m->principal);
    }
}

/* The envelope of what take() left in `delivered`, empty or not; installs the first message's context. */
static int envelope(struct ast_abi *a, const char *fn, struct ast_ipc_subscription *s,
                    struct ast_ipc_ipc_envelope *ret, struct ast_ipc_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    struct ast_route_stats stats;
    ast_route_stats(s->queue->route, &stats);
    ret->dropped = stats.dropped_recent;
    ret->lagged = stats.dropped_total;

    size_t n = s->delivered.n;
    if (n) {
        struct ast_arena *arena = ast_abi_arena(a);
        ret->messages.v = ast_arena_array(arena, n, sizeof *ret->messages.v);
        char *uuids = ast_arena_array(arena, n, AST_UUID_TEXT);
        if (!ret->messages.v || !uuids) {
            reterr->tag = AST_IPC_ERROR_UNKNOWN;
            reterr->u.unknown = AST_STR("resource table: out of memory");
            return AST_ABI_ERR;
        }
        for (size_t i = 0; i < n; i++)
            fill_message(a, s->delivered.v[i], call->env->host->shows_claims,
                         uuids + i * AST_UUID_TEXT, &ret->messages.v[i]);
        ret->messages.n = n;
        host_context_receive(call, s->delivered.v[0]);
    }
    ipc_audit(call, fn, n ? s->delivered.v[0]->topic : AST_STR_NONE, n, NULL);
    return AST_ABI_OK;
}

static bool is_last_call(const struct ast_host_call *call, const struct ast_ipc_subscription *s)
{
    return s->is_early && atomic_load(&call->env->quiescing);
}

/* The loop asks for more although another one takes over: it has finished what it was given, so this is where it
 * ends. Nothing is taken out of the queue; the guest sees an empty envelope until its next tick. */
static bool end_here(struct ast_abi *a, struct ast_ipc_subscription *s)
{
    if (!is_last_call(host_call(a), s))
        return false;
    release_delivered(s);
    ast_call_cancel(ast_abi_call(a));
    return true;
}

/* Whoever started the loop may want to know that it works. */
static void asks_for_messages(struct ast_host_env *env)
{
    if (!env->on_receive || atomic_load_explicit(&env->receives, memory_order_relaxed) >= 2)
        return;
    atomic_fetch_add(&env->receives, 1);
    env->on_receive(env->on_receive_arg);
}

int ast_ipc_subscription_poll(struct ast_abi *a, struct ast_ipc_subscription *self,
                              struct ast_ipc_ipc_envelope *ret, struct ast_ipc_error *reterr)
{
    asks_for_messages(host_call(a)->env);
    host_charge(a);
    if (!end_here(a, self))
        (void)take(host_call(a), self);
    return envelope(a, poll_fn, self, ret, reterr);
}

/* Until there is something to deliver, the deadline, unload or cancel: an absolute deadline, so that wakes
 * without a message do not stretch the wait (spec 04 §7.7). */
static void wait_message(struct ast_abi *a, struct ast_ipc_subscription *s, uint64_t timeout_ms)
{
    struct ast_host_call *call = host_call(a);
    struct ast_permits *io = call->env->io;
    if (host_permit_take(io, a))
        return;
    int64_t deadline = ast_mono_ns() + (int64_t)timeout_ms * AST_NS_PER_MS;
    enum ast_rc rc = AST_OK;
    while (rc == AST_OK && !host_is_unloading(call) && !end_here(a, s)) {
        host_wait_arm(&s->queue->wait, ast_abi_call(a));
        if (take(call, s))
            break;
        rc = ast_call_park(a, deadline);
    }
    host_wait_disarm(&s->queue->wait);
    if (rc == AST_E_TIMEOUT && !end_here(a, s))
        (void)take(call, s); /* what came at the last moment */
    host_permit_give(io);
}

int ast_ipc_subscription_recv(struct ast_abi *a, struct ast_ipc_subscription *self,
                              uint64_t timeout_ms, struct ast_ipc_ipc_envelope *ret,
                              struct ast_ipc_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    host_progress(call);
    asks_for_messages(call->env);
    host_charge(a);
    if (!end_here(a, self) && !take(call, self) && timeout_ms && !host_is_unloading(call))
        wait_message(a, self, host_recv_wait_ms(call->env->host, timeout_ms));
    return envelope(a, recv_fn, self, ret, reterr);
}

/* --- Readiness ----------------------------------------------------------------------------------- */

static bool sub_is_ready(void *obj)
{
    struct ast_ipc_subscription *s = obj;
    return !s->queue || !ast_route_empty(s->queue->route);
}

static bool sub_is_closed(void *obj)
{
    const struct ast_ipc_subscription *s = obj;
    return !s->queue;
}

static struct host_wait *sub_wait(void *obj)
{
    struct ast_ipc_subscription *s = obj;
    return s->queue ? &s->queue->wait : &s->none;
}

static void sub_source_drop(void *obj)
{
    sub_unref(obj);
}

struct ast_io_pollable *ast_ipc_subscription_subscribe_readiness(struct ast_abi *a,
                                                                 struct ast_ipc_subscription *self)
{
    static const struct host_source source = { sub_is_ready, sub_is_closed, sub_wait,
                                               sub_source_drop };
    self->refs++;
    return host_pollable_new(a, &source, self);
}
