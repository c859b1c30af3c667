/* astrid:uplink: front ends that a capsule registers, and what their users say (spec 05 §14, spec 01 §8.7).
 *
 * Registrations belong to the load of a capsule: all its instances share them, unload forgets them. What a platform
 * user wrote goes straight to the bus as a prompt of the user's principal: looking a link up and publishing never
 * wait, so there is no queue to fill up; the publish rate of that principal is the bound.
 */
#include <stdlib.h>

#include "base/time.h"
#include "host/host_priv.h"
#include "store/identity.h"

#include "base/banned.h"

#define ID_MAX       64u
#define PROMPT_TOPIC AST_STR("user.v1.prompt")
#define UPLINK_AUDIT "astrid.audit.uplink"

struct uplink {
    struct ast_uuid id;
    enum ast_uplink_uplink_profile profile;
    int64_t registered_ns; /* wall clock */
    char *name, *platform; /* owned; the platform trimmed and lowered */
};

/* Owner: any thread, under `lock`; freed with the env. */
struct uplinks {
    struct ast_lock lock;
    struct uplink v[HOST_UPLINKS_MAX] AST_GUARDED_BY(lock); /* ascending by time */
    size_t n AST_GUARDED_BY(lock);
};

void host_uplinks_free(void *uplinks)
{
    struct uplinks *u = uplinks;
    if (!u)
        return;
    for (size_t i = 0; i < u->n; i++) {
        free(u->v[i].name);
        free(u->v[i].platform);
    }
    ast_lock_done(&u->lock);
    free(u);
}

/* Made on first use; NULL: out of memory. */
static struct uplinks *uplinks_of(struct ast_host_env *env)
{
    void *u = atomic_load_explicit(&env->uplinks, memory_order_acquire);
    if (u)
        return u;
    struct uplinks *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return NULL;
    ast_lock_init(&fresh->lock, AST_LOCK_cache);
    /* Several workers may come here first; one wins. */
    if (atomic_compare_exchange_strong(&env->uplinks, &u, (void *)fresh))
        return fresh;
    host_uplinks_free(fresh);
    return u;
}

/* --- Errors -------------------------------------------------------------------------------------- */

static void record(const struct ast_host_call *call, const char *fn, struct ast_str about,
                   const char *result)
{
    ast_log_fields(AST_LOG_INFO, UPLINK_AUDIT, "uplink", AST_F_SECURITY,
                   AST_F_STR("capsule_id", call->env->capsule_id),
                   AST_F_STR("principal", ast_principal_str(&call->invoking)), AST_F_CSTR("fn", fn),
                   AST_F_STR("about", about), AST_F_CSTR("result", result));
}

static int fail(struct ast_uplink_error *reterr, enum ast_uplink_error_tag tag)
{
    reterr->tag = tag;
    return AST_ABI_ERR;
}

static int fail_unknown(struct ast_uplink_error *reterr, struct ast_str text)
{
    reterr->u.unknown = text;
    return fail(reterr, AST_UPLINK_ERROR_UNKNOWN);
}

/* Hooks run before anybody decided about the capsule: no front end yet. */
static bool may_uplink(const struct ast_host_call *call)
{
    return call->env->uplink && !call->env->is_lifecycle;
}

/* --- register ------------------------------------------------------------------------------------ */

static char *lowered(struct ast_str s)
{
    char *out = ast_str_dup(s);
    for (char *c = out; c && *c; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c + 32);
    return out;
}

/* Spec 05 §14: stricter than what a manifest accepts. */
static bool is_source_id(struct ast_str id)
{
    return ast_capsule_id_valid(id) && id.p[0] != '-' && id.p[id.n - 1] != '-';
}

/* Takes both texts on success. */
static bool add(struct uplinks *u, const struct uplink *fresh, enum ast_uplink_error_tag *ret_why)
{
    AST_WITH_LOCK(&u->lock);
    *ret_why = AST_UPLINK_ERROR_QUOTA;
    if (u->n == HOST_UPLINKS_MAX)
        return false;
    *ret_why = AST_UPLINK_ERROR_INVALID_INPUT;
    for (size_t i = 0; i < u->n; i++)
        if (strcmp(u->v[i].name, fresh->name) == 0 &&
            strcmp(u->v[i].platform, fresh->platform) == 0)
            return false;
    u->v[u->n++] = *fresh;
    return true;
}

static bool is_label(struct ast_str s)
{
    return ast_str_trim(s).n > 0 && s.n <= HOST_UPLINK_TEXT_MAX &&
           ast_str_find_byte(s, 0) == AST_STR_NPOS;
}

static int do_register(struct ast_abi *a, struct ast_str name, struct ast_str platform,
                       enum ast_uplink_uplink_profile profile, struct ast_str *ret,
                       struct ast_uplink_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    if (!may_uplink(call))
        return fail(reterr, AST_UPLINK_ERROR_CAPABILITY_DENIED);
    if (!is_label(name) || !is_label(platform))
        return fail(reterr, AST_UPLINK_ERROR_INVALID_INPUT);
    if (!is_source_id(call->env->capsule_id))
        return fail_unknown(reterr,
                            host_text(a, "uplink source: invalid capsule id '" AST_STR_FMT "'",
                                      AST_STR_ARG(call->env->capsule_id)));
    struct uplinks *u = uplinks_of(call->env);
    struct uplink fresh = {
        .id = ast_uuid_v4(),
        .profile = profile,
        .registered_ns = ast_wall_ns(),
        .name = ast_str_dup(name),
        .platform = lowered(ast_str_trim(platform)),
    };
    enum ast_uplink_error_tag why = AST_UPLINK_ERROR_UNKNOWN;
    bool is_whole = u && fresh.name && fresh.platform;
    if (!is_whole || !add(u, &fresh, &why)) {
        free(fresh.name);
        free(fresh.platform);
        if (!is_whole)
            return fail_unknown(reterr, AST_STR("uplink-register: out of memory"));
        record(call, "uplink-register", name, ast_uplink_error_name(why));
        return fail(reterr, why);
    }
    char uuid[AST_UUID_TEXT];
    *ret = ast_arena_dup(ast_abi_arena(a), ast_uuid_format(&fresh.id, uuid));
    record(call, "uplink-register", *ret, "registered");
    return AST_ABI_OK;
}

int ast_uplink_uplink_register(struct ast_abi *a, struct ast_str name, struct ast_str platform,
                               enum ast_uplink_uplink_profile profile, struct ast_str *ret,
                               struct ast_uplink_error *reterr)
{
    const struct ast_host_pair args[] = {
        { AST_STR("name"), name },
        { AST_STR("platform"), platform },
        { AST_STR("profile"), ast_str_c(ast_uplink_uplink_profile_name(profile)) },
    };
    struct host_deed deed;
    host_deed_begin(&deed, "uplink-register", args, AST_ARRAY_LEN(args));
    int result = do_register(a, name, platform, profile, ret, reterr);
    host_deed_end(&deed, host_call(a), /* is_lookup= */ false,
                  result ? ast_uplink_error_name(reterr->tag) : NULL);
    return result;
}

/* --- send ---------------------------------------------------------------------------------------- */

/* The platform of a registered uplink, a copy in the call's arena. False: not registered here. */
static bool find_platform(struct ast_abi *a, struct ast_host_env *env, const struct ast_uuid *id,
                          struct ast_str *ret)
{
    struct uplinks *u = atomic_load_explicit(&env->uplinks, memory_order_acquire);
    if (!u)
        return false;
    AST_WITH_LOCK(&u->lock);
    for (size_t i = 0; i < u->n; i++)
        if (ast_uuid_eq(&u->v[i].id, id)) {
            *ret = ast_arena_dup(ast_abi_arena(a), ast_str_c(u->v[i].platform));
            return true;
        }
    return false;
}

/* {"type":"user_input",...}; the context says where an answer would go. */
static void write_prompt(struct ast_buf *out, const struct ast_uuid *uplink,
                         struct ast_str platform, struct ast_str user, struct ast_str content)
{
    char uuid[AST_UUID_TEXT];
    struct ast_jw w = AST_JW_INIT(out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("user_input"));
    ast_jw_kv_string(&w, "text", content);
    ast_jw_kv_string(&w, "session_id", AST_STR("default"));
    ast_jw_key(&w, AST_STR("context"));
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "uplink_id", ast_uuid_format(uplink, uuid));
    ast_jw_kv_string(&w, "platform", platform);
    ast_jw_kv_string(&w, "platform_user_id", user);
    ast_jw_end(&w);
    ast_jw_end(&w);
}

/* Publishes `body` as that principal; *ret_taken false: over its rate. */
static enum ast_rc publish_as(struct ast_host_call *call, const struct ast_principal *principal,
                              struct ast_str body, bool *ret_taken, struct ast_err *err)
{
    const struct ast_host_env *env = call->env;
    struct ast_str name = ast_principal_str(principal);
    struct ast_msg *msg = NULL;

    *ret_taken =
        !env->limiter || ast_limiter_admit(env->limiter, name, body.n,
                                           call->quotas.max_ipc_throughput_bytes, ast_mono_ns());
    if (!*ret_taken)
        return AST_OK;
    const struct ast_msg_spec spec = {
        .topic = PROMPT_TOPIC,
        .principal = name,
        .publisher = env->capsule_id,
        .source_id = env->uuid,
        .origin = "uplink",
        .claimed = true,
    };
    enum ast_rc rc = ast_msg_from_json(&spec, body, &msg, err);
    if (rc)
        return rc;
    (void)ast_bus_publish(env->host->bus, msg); /* the sequence number is the bus's business */
    return AST_OK;
}

static enum ast_rc hand_in(struct ast_host_call *call, const struct ast_uuid *uplink,
                           struct ast_str platform, struct ast_str user, struct ast_str content,
                           bool *ret_taken, struct ast_err *err)
{
    AST_AUTO(ast_identity_user_done) struct ast_identity_user who = { .doc = NULL };
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(AST_MSG_MAX_PAYLOAD);

    enum ast_rc rc = ast_identity_resolve(call->env->host->store, platform, user, &who, err);
    /* A name that cannot be linked belongs to nobody. */
    if (rc == AST_E_NOT_FOUND || rc == AST_E_INVALID) {
        *ret_taken = false;
        return AST_OK;
    }
    if (rc)
        return rc;
    write_prompt(&body, uplink, platform, user, content);
    rc = ast_buf_check(&body, "content", err);
    return rc ? rc : publish_as(call, &who.principal, ast_buf_view(&body), ret_taken, err);
}

static int do_send(struct ast_abi *a, struct ast_str uplink_id, struct ast_str platform_user_id,
                   struct ast_str content, bool *ret, struct ast_uplink_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    struct ast_str platform = AST_STR_NONE;
    struct ast_err err = AST_ERR_INIT;
    struct ast_uuid id;

    if (!may_uplink(call))
        return fail(reterr, AST_UPLINK_ERROR_CAPABILITY_DENIED);
    if (uplink_id.n > ID_MAX || !ast_uuid_parse(uplink_id, &id))
        return fail(reterr, AST_UPLINK_ERROR_INVALID_INPUT);
    if (!find_platform(a, call->env, &id, &platform))
        return fail(reterr, AST_UPLINK_ERROR_UNKNOWN_UPLINK);
    if (!call->env->has_inbound)
        return fail(reterr, AST_UPLINK_ERROR_QUOTA);
    *ret = false;
    if (host_is_unloading(call))
        return AST_ABI_OK;
    enum ast_rc rc = call->env->host->store
                         ? hand_in(call, &id, platform, platform_user_id, content, ret, &err)
                         : AST_OK;
    if (rc == AST_E_TOO_LARGE)
        return fail(reterr, AST_UPLINK_ERROR_INVALID_INPUT);
    if (rc)
        return fail_unknown(reterr, host_text(a, "uplink-send: %s", err.msg));
    return AST_ABI_OK;
}

/* The content is in the arguments' hash, if it is short enough to be hashed at all. */
int ast_uplink_uplink_send(struct ast_abi *a, struct ast_str uplink_id,
                           struct ast_str platform_user_id, struct ast_str content, bool *ret,
                           struct ast_uplink_error *reterr)
{
    const struct ast_host_pair args[] = {
        { AST_STR("content"), content },
        { AST_STR("platform_user_id"), platform_user_id },
        { AST_STR("uplink_id"), uplink_id },
    };
    struct host_deed deed;
    host_deed_begin(&deed, "uplink-send", args, AST_ARRAY_LEN(args));
    int result = do_send(a, uplink_id, platform_user_id, content, ret, reterr);
    host_deed_end(&deed, host_call(a), /* is_lookup= */ true,
                  result  ? ast_uplink_error_name(reterr->tag)
                  : !*ret ? "not delivered"
                          : NULL);
    return result;
}

/* --- Listing ------------------------------------------------------------------------------------- */

/* What the descriptor can say about a front end; a capsule's only receives. */
static void write_capabilities(struct ast_jw *w)
{
    static const char *const names[] = { "can_receive",         "can_send",
                                         "can_approve",         "can_elicit",
                                         "supports_rich_media", "supports_threads",
                                         "supports_buttons" };
    ast_jw_key(w, AST_STR("capabilities"));
    ast_jw_object(w);
    for (size_t i = 0; i < AST_ARRAY_LEN(names); i++) {
        ast_jw_key(w, ast_str_c(names[i]));
        ast_jw_bool(w, i == 0);
    }
    ast_jw_end(w);
}

static void write_source(struct ast_jw *w, struct ast_str capsule_id)
{
    ast_jw_key(w, AST_STR("source"));
    ast_jw_object(w);
    ast_jw_key(w, AST_STR("wasm"));
    ast_jw_object(w);
    ast_jw_kv_string(w, "capsule_id", capsule_id);
    ast_jw_end(w);
    ast_jw_end(w);
}

static void write_descriptor(struct ast_jw *w, struct ast_str capsule_id, const struct uplink *u)
{
    char uuid[AST_UUID_TEXT], stamp[AST_RFC3339_BYTES];
    ast_jw_object(w);
    ast_jw_kv_string(w, "id", ast_uuid_format(&u->id, uuid));
    ast_jw_kv_string(w, "name", ast_str_c(u->name));
    ast_jw_kv_string(w, "platform", ast_str_c(u->platform));
    write_source(w, capsule_id);
    write_capabilities(w);
    ast_jw_kv_string(w, "profile", ast_str_c(ast_uplink_uplink_profile_name(u->profile)));
    ast_jw_kv_string(w, "registered_at", ast_time_format(u->registered_ns, AST_TIME_Z, stamp));
    ast_jw_key(w, AST_STR("metadata"));
    ast_jw_object(w);
    ast_jw_end(w);
    ast_jw_end(w);
}

void ast_host_uplinks_write(struct ast_host_env *env, struct ast_jw *w)
{
    struct uplinks *u = atomic_load_explicit(&env->uplinks, memory_order_acquire);
    if (!u)
        return;
    AST_WITH_LOCK(&u->lock);
    for (size_t i = 0; i < u->n; i++)
        write_descriptor(w, env->capsule_id, &u->v[i]);
}
