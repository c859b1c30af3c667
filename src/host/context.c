/* For whom a guest call acts: caller, invoking principal, quotas (spec 05 §19).
 *
 * Invariant: `invoking` is always a valid principal; it changes only where a handler is entered or a run loop
 * receives a message, never while a handler runs. Everything is cleared when the call ends, on every path.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/host_priv.h"

#include "base/banned.h"

static const struct ast_quotas default_quotas = AST_QUOTAS_DEFAULT;

struct host_context *host_context(struct ast_host_call *call)
{
    struct host_context *ctx = call->context;
    if (!ctx) {
        ctx = calloc(1, sizeof *ctx);
        if (ctx)
            ctx->scratch = (struct ast_buf)AST_BUF_INIT(AST_ABI_MAX_BYTES);
        call->context = ctx;
    }
    return ctx;
}

static void forget_overlay(struct ast_host_call *call)
{
    struct host_context *ctx = call->context;
    if (!ctx || !ctx->has_overlay)
        return;
    host_overlay_unref(ast_steal(&ctx->overlay));
    ctx->has_overlay = false;
}

static void set_caller(struct ast_host_call *call, struct ast_msg *msg)
{
    if (msg)
        msg = ast_msg_ref(msg);
    ast_msg_unref(call->caller);
    call->caller = msg;
}

/* The message's principal when it is valid, else the owner (spec 05 §1). */
static void set_invoking(struct ast_host_call *call, const struct ast_msg *msg)
{
    call->invoking = call->env->owner;
    if (!msg || msg->principal.n == 0)
        return;
    if (ast_principal_valid(msg->principal))
        (void)ast_principal_parse(msg->principal, &call->invoking,
                                  /* err= */ NULL); /* just checked */
    else
        ast_log_fields(AST_LOG_WARN, HOST_LOG, "IPC message has invalid principal string, ignoring",
                       AST_F_STR("principal", ast_str_first(msg->principal, AST_PRINCIPAL_MAX)));
}

static void set_quotas(struct ast_host_call *call, const struct ast_profile *profile)
{
    call->has_profile = profile != NULL;
    call->quotas = profile ? profile->quotas : default_quotas;
}

/* Best effort: the defaults hold when the profile cannot be read (spec 04 §11.4). `may_warn` spares the log when
 * the same principal comes again. */
static void resolve_quotas(struct ast_host_call *call, bool may_warn)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
    struct ast_err err = AST_ERR_INIT;
    struct ast_policy *policy = call->env->host->policy;
    if (policy && ast_policy_profile(policy, ast_principal_str(&call->invoking), &profile, &err) &&
        may_warn)
        ast_log_warn(HOST_LOG, "use default quotas for '%s' in run loop of '" AST_STR_FMT "': %s",
                     call->invoking.name, AST_STR_ARG(call->env->capsule_id), err.msg);
    set_quotas(call, profile);
}

void ast_host_call_begin(struct ast_host_call *call, struct ast_host_env *env, struct ast_msg *msg,
                         const struct ast_profile *profile)
{
    call->env = env;
    forget_overlay(call);
    set_caller(call, msg);
    set_invoking(call, msg);
    if (profile || !msg || call->interceptor)
        set_quotas(call, profile);
    else
        resolve_quotas(call, /* may_warn= */ true);
}

void ast_host_call_end(struct ast_host_call *call)
{
    struct host_context *ctx = call->context;
    if (ctx) {
        host_overlay_unref(ctx->overlay);
        ast_buf_done(&ctx->scratch);
        free(ctx);
    }
    ast_msg_unref(call->caller);
    *call = (struct ast_host_call){ .env = NULL };
}

void host_context_receive(struct ast_host_call *call, struct ast_msg *msg)
{
    if (call->interceptor)
        return;
    struct ast_principal before = call->invoking;
    bool had = call->caller != NULL;
    /* Also for the same principal: its env file and quotas may have changed since. */
    forget_overlay(call);
    set_caller(call, msg);
    set_invoking(call, msg);
    resolve_quotas(call, !had || !ast_principal_eq(&before, &call->invoking));
}

void host_charge(struct ast_abi *a)
{
    struct ast_host_call *call = host_call(a);
    const struct ast_host_env *env = call->env;

    if (!env->is_run_loop || !env->on_fuel)
        return;
    uint64_t used = ast_abi_fuel_used(a);
    if (used <= call->fuel_told) /* ticks charge by time, which may be more */
        return;
    uint64_t fuel = used - call->fuel_told;
    call->fuel_told = used;
    env->on_fuel(env->on_fuel_arg, ast_principal_str(&call->invoking), fuel);
}

bool host_context_admits(struct ast_host_call *call, struct ast_str principal)
{
    struct ast_policy *policy = call->env->host->policy;
    if (call->interceptor || !policy || principal.n == 0 || !ast_principal_valid(principal))
        return true;
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
    if (ast_policy_profile(policy, principal, &profile, /* err= */ NULL))
        return true; /* an unreadable profile gives default quotas on this path (spec 04 §11.4) */
    if (profile->enabled && !profile->is_removed)
        return true;
    ast_log_fields(AST_LOG_WARN, HOST_LOG,
                   profile->enabled ? "message of a deleted principal kept from a run loop"
                                    : "message of a disabled principal kept from a run loop",
                   AST_F_SECURITY, AST_F_STR("principal", principal),
                   AST_F_STR("capsule", call->env->capsule_id));
    return false;
}

struct ast_str host_text(struct ast_abi *a, const char *fmt, ...)
{
    char text[AST_ERR_MSG_BYTES];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    struct ast_str s = ast_str_n(text, n < 0 ? 0 : AST_MIN((size_t)n, sizeof text - 1));
    s = ast_arena_dup(ast_abi_arena(a), s);
    return s.p ? host_utf8(a, s) : AST_STR("out of memory");
}

/* Bytes of the well-formed sequence at the start of s; 0 when there is none. */
static size_t sequence(struct ast_str s)
{
    size_t most = AST_MIN(s.n, (size_t)4);
    for (size_t n = 1; n <= most; n++)
        if (ast_str_is_utf8(ast_str_first(s, n)))
            return n;
    return 0;
}

struct ast_str host_utf8(struct ast_abi *a, struct ast_str s)
{
    if (ast_str_is_utf8(s))
        return s;
    char *out = ast_arena_array(ast_abi_arena(a), s.n, 3); /* U+FFFD takes three bytes */
    if (!out)
        return AST_STR("");
    size_t n = 0;
    while (s.n) {
        size_t got = sequence(s);
        struct ast_str piece = got ? ast_str_first(s, got) : AST_STR("\xef\xbf\xbd");
        memcpy(out + n, piece.p, piece.n);
        n += piece.n;
        s = ast_str_from(s, AST_MAX(got, (size_t)1));
    }
    return ast_str_n(out, n);
}
