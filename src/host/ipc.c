/* astrid:ipc: publishing (spec 05 §7.3, §7.4; spec 04 §5) and the list of handlers.
 *
 * The checks run in the order of the specification, because the first that fails names the error, and the rate
 * is charged before the later ones. The message itself is the only allocation of a publish.
 */
#include "base/time.h"
#include "bus/metrics.h"
#include "bus/topic.h"
#include "host/host_priv.h"
#include "host/ipc_priv.h"

#include "base/banned.h"

#define DEPTH_NOTABLE 8 /* spec 04 §5.5: counted and logged; refused by setting only */

static const char publish_fn[] = "astrid:ipc/host.publish";
static const char publish_as_fn[] = "astrid:ipc/host.publish-as";

static bool acl_allows(const struct ast_str *acl, size_t n, struct ast_str topic)
{
    for (size_t i = 0; i < n; i++)
        if (ast_topic_match_subtree(acl[i], topic))
            return true;
    return false;
}

/* Steps 1 to 7 of spec 05 §7.3. The payload's bytes are charged to `principal` on the way. */
static bool may_publish(const struct ast_host_call *call, struct ast_str topic,
                        struct ast_str payload, struct ast_str principal,
                        enum ast_ipc_error_tag *ret_why)
{
    const struct ast_host_env *env = call->env;
    *ret_why = AST_IPC_ERROR_INVALID_INPUT;
    if (topic.n > AST_TOPIC_MAX_BYTES)
        return false;
    if (payload.n > AST_LIMITER_MAX_PAYLOAD ||
        (env->limiter &&
         !ast_limiter_admit(env->limiter, principal, payload.n,
                            call->quotas.max_ipc_throughput_bytes, ast_mono_ns()))) {
        *ret_why = AST_IPC_ERROR_RATE_LIMITED;
        return false;
    }
    if (!ast_topic_publishable(topic))
        return false;
    if (!acl_allows(env->publish_acl, env->publish_acl_count, topic)) {
        *ret_why = AST_IPC_ERROR_CAPABILITY_DENIED;
        return false;
    }
    return payload.n <= AST_MSG_MAX_PAYLOAD;
}

static void count_rejection(const struct ast_host_env *env, enum ast_ipc_error_tag why)
{
    const struct ast_str labels[] = { env->capsule_id, ast_str_c(ast_ipc_error_name(why)) };
    ast_metric_add(ast_metric_cell(AST_METRIC_PUBLISH_REJECTED, labels, AST_ARRAY_LEN(labels)), 1);
}

static uint8_t next_depth(const struct ast_host_call *call, struct ast_str topic)
{
    if (!call->caller)
        return 0;
    uint8_t depth =
        call->caller->depth < UINT8_MAX ? (uint8_t)(call->caller->depth + 1) : UINT8_MAX;
    if (depth > DEPTH_NOTABLE)
        ast_log_fields(AST_LOG_DEBUG, HOST_LOG, "long chain of publishes",
                       AST_F_U64("depth", depth), AST_F_STR("capsule", call->env->capsule_id),
                       AST_F_STR("topic", topic));
    return depth;
}

static int publish(struct ast_abi *a, const char *fn, struct ast_str topic, struct ast_str payload,
                   struct ast_str principal, bool claimed, struct ast_ipc_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    const struct ast_host_env *env = call->env;
    struct ast_msg *msg = NULL;
    bool ok = may_publish(call, topic, payload, principal, &reterr->tag);
    uint8_t depth = ok ? next_depth(call, topic) : 0;
    if (ok && env->host->depth_max && depth > env->host->depth_max) {
        reterr->tag = AST_IPC_ERROR_BACKPRESSURE;
        ok = false;
    }
    if (ok) {
        const struct ast_msg_spec spec = {
            .topic = topic,
            .principal = principal,
            .publisher = env->capsule_id,
            .source_id = env->uuid,
            .origin = "wasm_guest",
            .claimed = claimed,
            .depth = depth,
        };
        /* Any failure but lack of memory means that it is not JSON: step 8. */
        enum ast_rc rc = ast_msg_from_json(&spec, payload, &msg, /* err= */ NULL);
        ok = rc == AST_OK;
        reterr->tag = rc == AST_E_NO_MEMORY ? AST_IPC_ERROR_UNKNOWN : AST_IPC_ERROR_INVALID_INPUT;
        if (rc == AST_E_NO_MEMORY)
            reterr->u.unknown = AST_STR("publish: out of memory");
    }
    ipc_audit(call, fn, topic, payload.n, ok ? NULL : ast_ipc_error_name(reterr->tag));
    if (!ok) {
        count_rejection(env, reterr->tag);
        return AST_ABI_ERR;
    }
    (void)ast_bus_publish(env->host->bus, msg); /* the sequence number is the bus's business */
    return AST_ABI_OK;
}

int ast_ipc_publish(struct ast_abi *a, struct ast_str topic, struct ast_str payload,
                    struct ast_ipc_error *reterr)
{
    const struct ast_host_call *call = host_call(a);
    return publish(a, publish_fn, topic, payload, ast_principal_str(&call->invoking),
                   /* claimed= */ false, reterr);
}

int ast_ipc_publish_as(struct ast_abi *a, struct ast_str topic, struct ast_str payload,
                       struct ast_str principal, struct ast_ipc_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    if (!call->env->uplink || call->env->is_lifecycle) {
        reterr->tag = AST_IPC_ERROR_CAPABILITY_DENIED;
        return AST_ABI_ERR;
    }
    if (!ast_principal_valid(principal)) {
        reterr->tag = AST_IPC_ERROR_INVALID_INPUT;
        return AST_ABI_ERR;
    }
    /* Read first: the line is shared by all workers and nearly always set. */
    if (!atomic_load_explicit(&call->env->used_publish_as, memory_order_relaxed))
        atomic_store_explicit(&call->env->used_publish_as, true, memory_order_relaxed);
    ast_log_fields(
        AST_LOG_DEBUG, IPC_AUDIT, "publish-as", AST_F_STR("capsule_id", call->env->capsule_id),
        AST_F_STR("invoking", ast_principal_str(&call->invoking)), AST_F_STR("claimed", principal));
    return publish(a, publish_as_fn, topic, payload, principal, /* claimed= */ true, reterr);
}

int ast_ipc_get_interceptor_bindings(struct ast_abi *a,
                                     struct ast_list_ipc_interceptor_binding *ret,
                                     struct ast_ipc_error *reterr)
{
    const struct ast_host_env *env = host_call(a)->env;
    if (!env->is_run_loop || env->binding_count == 0)
        return AST_ABI_OK;
    ret->v = ast_arena_array(ast_abi_arena(a), env->binding_count, sizeof *ret->v);
    if (!ret->v) {
        reterr->tag = AST_IPC_ERROR_UNKNOWN;
        reterr->u.unknown = AST_STR("get-interceptor-bindings: out of memory");
        return AST_ABI_ERR;
    }
    for (size_t i = 0; i < env->binding_count; i++)
        ret->v[i] = (struct ast_ipc_interceptor_binding){ .handle_id = i,
                                                          .action = env->bindings[i].action,
                                                          .topic = env->bindings[i].topic };
    ret->n = env->binding_count;
    return AST_ABI_OK;
}
