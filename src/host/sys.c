/* astrid:sys: configuration, caller, log, clocks, sleep, randomness, capabilities (spec 05 §6, §9.4, §26).
 *
 * Nothing here needs a permit: config and capability questions are answered from memory or from one small
 * file, and a sleeping call only costs its parked fiber (spec 05 §22.1, gap on sleeps).
 */
#include <errno.h>
#include <sys/random.h>

#include "base/time.h"
#include "host/host_priv.h"
#include "store/secrets.h"

#include "base/banned.h"

#define SLEEP_MAX_NS (60u * (uint64_t)AST_NS_PER_SEC)
#define RANDOM_MAX   4096u

/* Every name that can be held (spec 05 §6.3). */
static const char *const capability_names[] = {
    "allow_persistent",
    "allow_prompt_injection",
    "fs_read",
    "fs_write",
    "host_process",
    "identity",
    "kv",
    "net",
    "net_bind",
    "net_connect",
    "uplink",
};

static int fail(struct ast_sys_error *reterr, enum ast_sys_error_tag tag)
{
    reterr->tag = tag;
    return AST_ABI_ERR;
}

static int fail_text(struct ast_sys_error *reterr, struct ast_str text)
{
    reterr->u.unknown = text;
    return fail(reterr, AST_SYS_ERROR_UNKNOWN);
}

/* --- get-config ---------------------------------------------------------------------------------- */

static bool is_in(const struct ast_str *v, size_t n, struct ast_str s)
{
    for (size_t i = 0; i < n; i++)
        if (ast_str_eq(v[i], s))
            return true;
    return false;
}

/* True: that scope has a value, now in `ret`. What cannot be read counts as absent. */
static bool secret_in(struct ast_abi *a, struct ast_str scope, struct ast_str key,
                      struct ast_opt_str *ret)
{
    const struct ast_host_env *env = host_call(a)->env;
    AST_AUTO(ast_buf_done) struct ast_buf value = AST_BUF_INIT(AST_SECRET_FILE_MAX);
    struct ast_err err = AST_ERR_INIT;
    bool found = false;
    if (ast_secrets_get(env->host->home->root, scope, env->capsule_id, key, &value, &found, &err)) {
        ast_log_warn(HOST_LOG, "ignoring secret of '" AST_STR_FMT "': %s",
                     AST_STR_ARG(env->capsule_id), err.msg);
        found = false;
    }
    if (found && value.n) {
        ret->v = ast_arena_dup(ast_abi_arena(a), ast_buf_view(&value));
        ret->has = ret->v.p != NULL;
    }
    if (value.p)
        explicit_bzero(value.p, value.cap);
    return ret->has;
}

/* Spec 05 §9.4 step 1: the principal's file, then the host-wide one, then nothing. */
static void get_secret(struct ast_abi *a, struct ast_str key, struct ast_opt_str *ret)
{
    const struct ast_host_call *call = host_call(a);
    if (!secret_in(a, ast_principal_str(&call->invoking), key, ret))
        (void)secret_in(a, AST_SECRET_SCOPE_HOST, key, ret);
}

/* Step 2: values of another principal than the owner; the owner's are in the base config. */
static bool get_overlay(struct ast_host_call *call, struct ast_str key, struct ast_str *ret)
{
    if (ast_principal_eq(&call->invoking, &call->env->owner))
        return false;
    struct host_context *ctx = host_context(call);
    if (!ctx)
        return false;
    if (!ctx->has_overlay) {
        ctx->overlay = host_overlay_get(call->env, ast_principal_str(&call->invoking));
        ctx->has_overlay = true;
    }
    return ctx->overlay && host_overlay_find(ctx->overlay, key, ret);
}

/* Step 3. */
static bool get_base(const struct ast_host_env *env, struct ast_str key, struct ast_str *ret)
{
    size_t low = 0, high = env->config_count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = ast_str_cmp(env->config[mid].key, key);
        if (order == 0) {
            *ret = env->config[mid].value;
            return true;
        }
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return false;
}

int ast_sys_get_config(struct ast_abi *a, struct ast_str key, struct ast_opt_str *ret,
                       struct ast_sys_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    const struct ast_host_env *env = call->env;
    if (is_in(env->secret_keys, env->secret_key_count, key))
        get_secret(a, key, ret);
    else
        ret->has = get_overlay(call, key, &ret->v) || get_base(env, key, &ret->v);
    if (ret->has)
        ret->v = host_utf8(a, ret->v);
    return AST_ABI_OK;
}

/* --- Caller, log, readiness ---------------------------------------------------------------------- */

int ast_sys_get_caller(struct ast_abi *a, struct ast_sys_caller_context *ret,
                       struct ast_sys_error *reterr)
{
    const struct ast_msg *caller = host_call(a)->caller;
    if (!caller)
        return AST_ABI_OK;
    char *text = ast_arena_alloc(ast_abi_arena(a), AST_UUID_TEXT + AST_RFC3339_BYTES);
    if (!text)
        return fail_text(reterr, AST_STR("get-caller: out of memory"));
    ret->principal.has = caller->principal.n != 0;
    ret->principal.v = host_utf8(a, caller->principal);
    ret->source_id = ast_uuid_format(&caller->source_id, text);
    ret->timestamp = ast_time_format(caller->wall_ns, AST_TIME_OFFSET, text + AST_UUID_TEXT);
    return AST_ABI_OK;
}

void ast_sys_log(struct ast_abi *a, enum ast_sys_log_level level, struct ast_str message)
{
    _Static_assert((int)AST_SYS_LOG_LEVEL_TRACE == (int)AST_LOG_TRACE &&
                       (int)AST_SYS_LOG_LEVEL_ERROR == (int)AST_LOG_ERROR,
                   "both scales are one");
    struct ast_host_call *call = host_call(a);
    ast_host_capsule_log(call->env, ast_principal_str(&call->invoking), (int)level, message);
}

void ast_sys_signal_ready(struct ast_abi *a)
{
    struct ast_host_env *env = host_call(a)->env;
    if (!env->is_run_loop)
        return;
    atomic_store(&env->is_ready, true);
    if (!atomic_load(&env->is_on_trial)) /* else whoever decides looks at is_ready then */
        ast_handover_close(env->inherits);
    if (env->on_ready)
        env->on_ready(env->on_ready_arg);
}

/* --- Clocks, sleep, randomness ------------------------------------------------------------------- */

uint64_t ast_sys_clock_ms(struct ast_abi *a)
{
    int64_t now = ast_wall_ns();
    return now < 0 ? 0 : (uint64_t)(now / AST_NS_PER_MS);
}

uint64_t ast_sys_clock_monotonic_ns(struct ast_abi *a)
{
    static _Atomic int64_t anchor; /* 0: not fixed yet; the first call of any capsule fixes it */
    int64_t now = ast_mono_ns(), zero = 0;
    if (atomic_load_explicit(&anchor, memory_order_relaxed) == 0)
        (void)atomic_compare_exchange_strong(&anchor, &zero, now);
    int64_t since = now - atomic_load_explicit(&anchor, memory_order_relaxed);
    return since < 0 ? 0 : (uint64_t)since; /* another thread may have fixed it a moment later */
}

int ast_sys_sleep_ns(struct ast_abi *a, uint64_t duration_ns, struct ast_sys_error *reterr)
{
    if (duration_ns > SLEEP_MAX_NS)
        return fail(reterr, AST_SYS_ERROR_TOO_LARGE);
    struct ast_host_call *call = host_call(a);
    host_progress(call);
    if (duration_ns == 0)
        return AST_ABI_OK;
    int64_t deadline = ast_mono_ns() + (int64_t)duration_ns;
    enum ast_rc rc = AST_OK;
    while (rc == AST_OK && !host_is_unloading(call))
        rc = ast_call_park(a, deadline);
    /* Unload wins over completion. */
    if (rc == AST_E_TIMEOUT && !host_is_unloading(call))
        return AST_ABI_OK;
    return fail(reterr, AST_SYS_ERROR_CANCELLED);
}

int ast_sys_random_bytes(struct ast_abi *a, uint64_t length, struct ast_str *ret,
                         struct ast_sys_error *reterr)
{
    if (length > RANDOM_MAX)
        return fail(reterr, AST_SYS_ERROR_TOO_LARGE);
    char *out = ast_arena_alloc(ast_abi_arena(a), (size_t)length);
    if (!out)
        return fail_text(reterr, AST_STR("entropy source unavailable: out of memory"));
    size_t have = 0;
    while (have < length) {
        ssize_t n = getrandom(out + have, (size_t)length - have, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_text(reterr,
                             host_text(a, "entropy source unavailable: %s", strerror(errno)));
        have += (size_t)n;
    }
    *ret = ast_str_n(out, have);
    return AST_ABI_OK;
}

/* --- Capabilities -------------------------------------------------------------------------------- */

static bool is_capability(struct ast_str name)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(capability_names); i++)
        if (ast_str_eq(ast_str_c(capability_names[i]), name))
            return true;
    return false;
}

int ast_sys_check_capsule_capability(struct ast_abi *a,
                                     const struct ast_sys_capability_check_request *request,
                                     struct ast_sys_capability_check_response *ret,
                                     struct ast_sys_error *reterr)
{
    const struct ast_host_env *env = host_call(a)->env;
    if (env->is_lifecycle || !env->host->capsule_holds)
        return fail(reterr, AST_SYS_ERROR_REGISTRY_UNAVAILABLE);
    struct ast_uuid uuid;
    ret->allowed =
        is_capability(request->capability) && ast_uuid_parse(request->source_uuid, &uuid) &&
        env->host->capsule_holds(env->host->capsule_holds_arg, &uuid, request->capability);
    return AST_ABI_OK;
}

void ast_sys_enumerate_capabilities(struct ast_abi *a, struct ast_list_str *ret)
{
    const struct ast_host_env *env = host_call(a)->env;
    if (env->is_lifecycle || env->held_count == 0)
        return;
    ret->v = ast_arena_array(ast_abi_arena(a), env->held_count, sizeof *ret->v);
    if (!ret->v) {
        ast_abi_trap(a, "out of memory");
        return;
    }
    memcpy(ret->v, env->held, env->held_count * sizeof *ret->v);
    ret->n = env->held_count;
}
