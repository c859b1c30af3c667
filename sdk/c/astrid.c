/* The runtime of a C capsule: the call's arena, the exports that the kernel calls, the tool convention, and thin wrappers over
 * the raw imports. Compiled with every capsule; what a capsule does not use is dropped by the linker. */
#include "astrid.h"

#define EXPORT(name) __attribute__((export_name(name), used))

/* ---- memory: a bump arena that starts over after each call ---- */

extern unsigned char __heap_base;
static uintptr_t arena_at;

#define WASM_PAGE 65536u

static void *bump(uint32_t size, uint32_t align)
{
    if (arena_at == 0)
        arena_at = (uintptr_t)&__heap_base;
    uintptr_t from = (arena_at + align - 1) & ~(uintptr_t)(align - 1);
    uint64_t end = (uint64_t)from + size;
    uint64_t have = (uint64_t)__builtin_wasm_memory_size(0) * WASM_PAGE;
    if (end > have) {
        uint64_t pages = (end - have + WASM_PAGE - 1) / WASM_PAGE;
        if (pages > 65535 || __builtin_wasm_memory_grow(0, (uintptr_t)pages) == (uintptr_t)-1)
            return NULL;
    }
    arena_at = (uintptr_t)end;
    return (void *)from;
}

void *astrid_alloc(uint32_t size)
{
    void *p = bump(size ? size : 1, 8);
    if (p)
        __builtin_memset(p, 0, size);
    return p;
}

/* The host's way to hand us text. A block that is the newest one grows in place. */
EXPORT("cabi_realloc")
void *astrid_realloc(void *old, uint32_t old_size, uint32_t align, uint32_t size)
{
    if (old && (uintptr_t)old + old_size == arena_at && size >= old_size) {
        return bump(size - old_size, 1) ? old : (__builtin_trap(), NULL);
    }
    void *p = bump(size, align ? align : 1);
    if (!p)
        __builtin_trap(); /* the ABI has no other way to say it */
    if (old_size)
        __builtin_memcpy(p, old, old_size < size ? old_size : size);
    return p;
}

/* Freestanding code still calls these. */
void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    unsigned char *t = to;
    const unsigned char *f = from;
    while (n--)
        *t++ = *f++;
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    unsigned char *t = to;
    const unsigned char *f = from;
    if (t < f)
        while (n--)
            *t++ = *f++;
    else
        while (n--)
            t[n] = f[n];
    return to;
}

void *memset(void *to, int c, size_t n)
{
    unsigned char *t = to;
    while (n--)
        *t++ = (unsigned char)c;
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *x = a, *y = b;
    for (; n--; x++, y++)
        if (*x != *y)
            return *x < *y ? -1 : 1;
    return 0;
}

/* ---- wrappers ---- */

bool astrid_publish(struct astrid_str topic, struct astrid_str payload)
{
    struct astrid_result_unit_ipc_error r;
    astrid_ipc_publish(topic.p, topic.n, payload.p, payload.n, &r);
    return !r.is_err;
}

astrid_subscription astrid_subscribe(struct astrid_str pattern)
{
    struct astrid_result_ipc_subscription_ipc_error r;
    astrid_ipc_subscribe(pattern.p, pattern.n, &r);
    return r.is_err ? 0 : r.u.ok;
}

void astrid_unsubscribe(astrid_subscription s)
{
    if (s)
        astrid_ipc_subscription_drop(s);
}

bool astrid_receive(astrid_subscription s, uint64_t timeout_ms, const struct astrid_message **ret,
                    uint32_t *ret_n)
{
    struct astrid_result_ipc_ipc_envelope_ipc_error r;

    astrid_ipc_subscription_recv(s, timeout_ms, &r);
    if (r.is_err)
        return false;
    uint32_t n = r.u.ok.messages.n;
    struct astrid_message *out = astrid_alloc(n * (uint32_t)sizeof *out);
    if (!out && n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const struct astrid_ipc_ipc_message *m = &r.u.ok.messages.v[i];
        out[i] = (struct astrid_message){ .topic = m->topic,
                                          .payload = m->payload,
                                          .source_id = m->source_id };
        if (m->principal.tag == ASTRID_IPC_PRINCIPAL_ATTRIBUTION_VERIFIED)
            out[i].principal = m->principal.u.verified;
        else if (m->principal.tag == ASTRID_IPC_PRINCIPAL_ATTRIBUTION_CLAIMED)
            out[i].principal = m->principal.u.claimed;
    }
    *ret = out;
    *ret_n = n;
    return true;
}

enum astrid_kv astrid_kv_get(struct astrid_str key, struct astrid_str *ret)
{
    struct astrid_result_opt_bytes_kv_error r;

    astrid_kv_kv_get(key.p, key.n, &r);
    if (r.is_err)
        return ASTRID_KV_FAILED;
    if (!r.u.ok.has)
        return ASTRID_KV_ABSENT;
    *ret = (struct astrid_str){ (const char *)r.u.ok.v.p, r.u.ok.v.n };
    return ASTRID_KV_OK;
}

bool astrid_kv_set(struct astrid_str key, struct astrid_str value)
{
    struct astrid_result_unit_kv_error r;
    astrid_kv_kv_set(key.p, key.n, (const uint8_t *)value.p, value.n, &r);
    return !r.is_err;
}

bool astrid_kv_delete(struct astrid_str key)
{
    struct astrid_result_unit_kv_error r;
    astrid_kv_kv_delete(key.p, key.n, &r);
    return !r.is_err;
}

bool astrid_kv_list(struct astrid_str prefix, struct astrid_str cursor, uint32_t limit,
                    const struct astrid_str **ret, uint32_t *ret_n, bool *ret_more)
{
    struct astrid_result_kv_key_page_kv_error r;

    astrid_kv_kv_list_keys_page(prefix.p, prefix.n, cursor.n != 0, cursor.p, cursor.n, limit, &r);
    if (r.is_err)
        return false;
    *ret = r.u.ok.keys.v;
    *ret_n = r.u.ok.keys.n;
    *ret_more = r.u.ok.next_cursor.has;
    return true;
}

enum astrid_approval astrid_approve(struct astrid_str action, struct astrid_str resource)
{
    static const uint8_t words[] = {
        [ASTRID_APPROVAL_APPROVAL_DECISION_DENIED] = ASTRID_APPROVAL_DENIED,
        [ASTRID_APPROVAL_APPROVAL_DECISION_APPROVED] = ASTRID_APPROVAL_ONCE,
        [ASTRID_APPROVAL_APPROVAL_DECISION_APPROVED_SESSION] = ASTRID_APPROVAL_SESSION,
        [ASTRID_APPROVAL_APPROVAL_DECISION_APPROVED_ALWAYS] = ASTRID_APPROVAL_ALWAYS,
        [ASTRID_APPROVAL_APPROVAL_DECISION_ALLOWANCE] = ASTRID_APPROVAL_ALLOWANCE,
    };
    struct astrid_result_approval_approval_response_approval_error r;

    astrid_approval_request_approval(action.p, action.n, resource.p, resource.n, &r);
    if (r.is_err)
        return r.u.err.tag == ASTRID_APPROVAL_ERROR_TIMEOUT ? ASTRID_APPROVAL_NO_ANSWER
                                                            : ASTRID_APPROVAL_FAILED;
    return r.u.ok.decision < sizeof words ? (enum astrid_approval)words[r.u.ok.decision]
                                          : ASTRID_APPROVAL_DENIED;
}

static enum astrid_elicit elicit(uint32_t kind, struct astrid_str key,
                                 struct astrid_str description, const struct astrid_str *choices,
                                 uint32_t n, const struct astrid_str *standard,
                                 struct astrid_elicit_elicit_response *ret)
{
    static const uint8_t whys[] = {
        [ASTRID_ELICIT_ERROR_NOT_IN_LIFECYCLE] = ASTRID_ELICIT_NOT_IN_HOOK,
        [ASTRID_ELICIT_ERROR_TIMEOUT] = ASTRID_ELICIT_NO_ANSWER,
        [ASTRID_ELICIT_ERROR_CANCELLED] = ASTRID_ELICIT_CANCELLED,
        [ASTRID_ELICIT_ERROR_INVALID_INPUT] = ASTRID_ELICIT_INVALID,
    };
    struct astrid_result_elicit_elicit_response_elicit_error r;

    astrid_elicit_elicit(kind, key.p, key.n, description.p, description.n, choices != NULL, choices,
                         n, standard != NULL, standard ? standard->p : NULL,
                         standard ? standard->n : 0, &r);
    if (r.is_err)
        return r.u.err.tag < sizeof whys ? (enum astrid_elicit)whys[r.u.err.tag]
                                         : ASTRID_ELICIT_FAILED;
    *ret = r.u.ok;
    return ASTRID_ELICIT_OK;
}

enum astrid_elicit astrid_elicit_text(struct astrid_str key, struct astrid_str description,
                                      const struct astrid_str *standard, struct astrid_str *ret)
{
    struct astrid_elicit_elicit_response answer;
    enum astrid_elicit why = elicit(ASTRID_ELICIT_ELICIT_TYPE_TEXT, key, description,
                                    /* choices= */ NULL, 0, standard, &answer);
    if (why == ASTRID_ELICIT_OK)
        *ret = answer.u.value;
    return why;
}

enum astrid_elicit astrid_elicit_choice(struct astrid_str key, struct astrid_str description,
                                        const struct astrid_str *choices, uint32_t n,
                                        const struct astrid_str *standard, struct astrid_str *ret)
{
    struct astrid_elicit_elicit_response answer;
    enum astrid_elicit why =
        elicit(ASTRID_ELICIT_ELICIT_TYPE_SELECT, key, description, choices, n, standard, &answer);
    if (why == ASTRID_ELICIT_OK)
        *ret = answer.u.value;
    return why;
}

enum astrid_elicit astrid_elicit_list(struct astrid_str key, struct astrid_str description,
                                      const struct astrid_str **ret, uint32_t *ret_n)
{
    struct astrid_elicit_elicit_response answer;
    enum astrid_elicit why = elicit(ASTRID_ELICIT_ELICIT_TYPE_ARRAY, key, description,
                                    /* choices= */ NULL, 0, /* standard= */ NULL, &answer);
    if (why == ASTRID_ELICIT_OK) {
        *ret = answer.u.values.v;
        *ret_n = answer.u.values.n;
    }
    return why;
}

enum astrid_elicit astrid_elicit_secret(struct astrid_str key, struct astrid_str description)
{
    struct astrid_elicit_elicit_response answer; /* says only that it is stored */
    return elicit(ASTRID_ELICIT_ELICIT_TYPE_SECRET, key, description, /* choices= */ NULL, 0,
                  /* standard= */ NULL, &answer);
}

bool astrid_has_secret(struct astrid_str key)
{
    struct astrid_result_bool_elicit_error r;
    astrid_elicit_has_secret(key.p, key.n, &r);
    return !r.is_err && r.u.ok;
}

static enum astrid_identity identity_rc(bool is_err, uint8_t tag)
{
    static const enum astrid_identity by_tag[] = {
        [ASTRID_IDENTITY_ERROR_CAPABILITY_DENIED] = ASTRID_IDENTITY_DENIED,
        [ASTRID_IDENTITY_ERROR_INVALID_INPUT] = ASTRID_IDENTITY_INVALID,
        [ASTRID_IDENTITY_ERROR_USER_NOT_FOUND] = ASTRID_IDENTITY_ABSENT,
        [ASTRID_IDENTITY_ERROR_LINK_NOT_FOUND] = ASTRID_IDENTITY_ABSENT,
        [ASTRID_IDENTITY_ERROR_ALREADY_LINKED] = ASTRID_IDENTITY_ALREADY_LINKED,
        [ASTRID_IDENTITY_ERROR_STORE_UNAVAILABLE] = ASTRID_IDENTITY_FAILED,
    };
    if (!is_err)
        return ASTRID_IDENTITY_OK;
    return tag < sizeof by_tag / sizeof by_tag[0] ? by_tag[tag] : ASTRID_IDENTITY_FAILED;
}

enum astrid_identity astrid_identity_resolve(struct astrid_str platform,
                                             struct astrid_str platform_user_id,
                                             struct astrid_str *ret_user_id,
                                             struct astrid_str *ret_display_name)
{
    struct astrid_result_identity_identity_resolve_response_identity_error r;

    astrid_identity_identity_resolve(platform.p, platform.n, platform_user_id.p, platform_user_id.n,
                                     &r);
    if (r.is_err)
        return identity_rc(true, r.u.err.tag);
    *ret_user_id = r.u.ok.user_id;
    if (ret_display_name)
        *ret_display_name =
            r.u.ok.display_name.has ? r.u.ok.display_name.v : (struct astrid_str){ NULL, 0 };
    return ASTRID_IDENTITY_OK;
}

enum astrid_identity astrid_identity_link(struct astrid_str platform,
                                          struct astrid_str platform_user_id,
                                          struct astrid_str user_id, struct astrid_str method)
{
    struct astrid_result_unit_identity_error r;

    astrid_identity_identity_link(platform.p, platform.n, platform_user_id.p, platform_user_id.n,
                                  user_id.p, user_id.n, method.p, method.n, &r);
    return identity_rc(r.is_err, r.u.err.tag);
}

enum astrid_identity astrid_identity_unlink(struct astrid_str platform,
                                            struct astrid_str platform_user_id)
{
    struct astrid_result_unit_identity_error r;

    astrid_identity_identity_unlink(platform.p, platform.n, platform_user_id.p, platform_user_id.n,
                                    &r);
    return identity_rc(r.is_err, r.u.err.tag);
}

enum astrid_identity astrid_identity_create_user(struct astrid_str display_name,
                                                 struct astrid_str *ret_user_id)
{
    struct astrid_result_identity_identity_create_user_response_identity_error r;

    astrid_identity_identity_create_user(display_name.n != 0, display_name.p, display_name.n, &r);
    if (r.is_err)
        return identity_rc(true, r.u.err.tag);
    *ret_user_id = r.u.ok.user_id;
    return ASTRID_IDENTITY_OK;
}

enum astrid_identity astrid_identity_links(struct astrid_str user_id,
                                           const struct astrid_link **ret, uint32_t *ret_n)
{
    struct astrid_result_list_identity_platform_link_identity_error r;

    astrid_identity_identity_list_links(user_id.p, user_id.n, &r);
    if (r.is_err)
        return identity_rc(true, r.u.err.tag);
    uint32_t n = r.u.ok.n;
    struct astrid_link *out = astrid_alloc(n * (uint32_t)sizeof *out);
    if (!out && n)
        return ASTRID_IDENTITY_FAILED;
    for (uint32_t i = 0; i < n; i++)
        out[i] = (struct astrid_link){ .platform = r.u.ok.v[i].platform,
                                       .platform_user_id = r.u.ok.v[i].platform_user_id,
                                       .linked_at = r.u.ok.v[i].linked_at,
                                       .method = r.u.ok.v[i].method };
    *ret = out;
    *ret_n = n;
    return ASTRID_IDENTITY_OK;
}

bool astrid_uplink_register(struct astrid_str name, struct astrid_str platform,
                            enum astrid_uplink_kind kind, struct astrid_str *ret_uplink_id)
{
    struct astrid_result_str_uplink_error r;

    astrid_uplink_uplink_register(name.p, name.n, platform.p, platform.n, kind, &r);
    if (r.is_err)
        return false;
    *ret_uplink_id = r.u.ok;
    return true;
}

bool astrid_uplink_send(struct astrid_str uplink_id, struct astrid_str platform_user_id,
                        struct astrid_str content, bool *ret_taken)
{
    struct astrid_result_bool_uplink_error r;

    astrid_uplink_uplink_send(uplink_id.p, uplink_id.n, platform_user_id.p, platform_user_id.n,
                              content.p, content.n, &r);
    if (r.is_err)
        return false;
    *ret_taken = r.u.ok;
    return true;
}

bool astrid_config(struct astrid_str key, struct astrid_str *ret)
{
    struct astrid_result_opt_str_sys_error r;

    astrid_sys_get_config(key.p, key.n, &r);
    if (r.is_err || !r.u.ok.has)
        return false;
    *ret = r.u.ok.v;
    return true;
}

struct astrid_str astrid_caller(void)
{
    struct astrid_result_sys_caller_context_sys_error r;

    astrid_sys_get_caller(&r);
    return r.is_err || !r.u.ok.principal.has ? (struct astrid_str){ NULL, 0 } : r.u.ok.principal.v;
}

uint64_t astrid_clock_ms(void)
{
    return astrid_sys_clock_ms();
}

uint64_t astrid_clock_monotonic_ns(void)
{
    return astrid_sys_clock_monotonic_ns();
}

void astrid_log(enum astrid_log_level level, struct astrid_str text)
{
    astrid_sys_log(level, text.p, text.n);
}

void astrid_trap(struct astrid_str why)
{
    astrid_log(ASTRID_LOG_ERROR, why);
    __builtin_trap();
}

/* ---- tools ---- */

static struct astrid_result describe_tools(void)
{
    struct astrid_buf b = { 0 };

    astrid_buf_lit(&b, "{\"tools\":[");
    for (uint32_t i = 0; i < astrid_tool_count; i++) {
        const struct astrid_tool *t = &astrid_tools[i];
        if (i)
            astrid_buf_lit(&b, ",");
        astrid_buf_lit(&b, "{\"name\":");
        astrid_buf_json(&b, astrid_str_c(t->name));
        astrid_buf_lit(&b, ",\"description\":");
        astrid_buf_json(&b, astrid_str_c(t->description));
        astrid_buf_lit(&b, ",\"input_schema\":");
        astrid_buf_add(&b, astrid_str_c(t->input_schema));
        astrid_buf_lit(&b, "}");
    }
    astrid_buf_lit(&b, "],\"description\":");
    astrid_buf_json(&b, astrid_str_c(astrid_tools_about));
    astrid_buf_lit(&b, "}");
    if (b.failed)
        return astrid_deny(ASTRID_STR("out of memory"));
    astrid_publish(ASTRID_STR("tool.v1.response.describe.self"), astrid_buf_view(&b));
    return astrid_continue_with(astrid_buf_view(&b));
}

/* The reply always comes, also when the tool failed. */
static void publish_tool_result(const struct astrid_tool *t, struct astrid_str call_id, bool ok,
                                struct astrid_str content)
{
    struct astrid_buf topic = { 0 }, b = { 0 };

    astrid_buf_lit(&topic, "tool.v1.execute.");
    astrid_buf_add(&topic, astrid_str_c(t->name));
    astrid_buf_lit(&topic, ".result");
    astrid_buf_lit(&b, "{\"type\":\"tool_execute_result\",\"call_id\":");
    astrid_buf_json(&b, call_id);
    astrid_buf_lit(&b, ",\"result\":{\"call_id\":");
    astrid_buf_json(&b, call_id);
    astrid_buf_lit(&b, ",\"content\":");
    astrid_buf_json(&b, content);
    astrid_buf_add(&b,
                   ok ? ASTRID_STR(",\"is_error\":false}}") : ASTRID_STR(",\"is_error\":true}}"));
    if (topic.failed || b.failed || !astrid_publish(astrid_buf_view(&topic), astrid_buf_view(&b)))
        astrid_log(ASTRID_LOG_ERROR, ASTRID_STR("a tool result could not be published"));
}

#define TOOL_MAX_CONTENT 262144u

static struct astrid_result execute_tool(const struct astrid_tool *t, struct astrid_str payload)
{
    struct astrid_str call_id, name, arguments;
    struct astrid_buf out = { 0 };

    if (!astrid_json_member_text(payload, ASTRID_STR("call_id"), &call_id) ||
        !astrid_json_member_text(payload, ASTRID_STR("tool_name"), &name) ||
        !astrid_json_get(payload, ASTRID_STR("arguments"), &arguments))
        return astrid_deny(ASTRID_STR(
            "failed to parse tool execute payload: call_id, tool_name and arguments are required"));
    arguments = astrid_str_trim(arguments);
    if (astrid_str_eq(arguments, ASTRID_STR("null")))
        arguments = ASTRID_STR("{}");
    bool ok = false;
    if (arguments.n == 0 || arguments.p[0] != '{')
        astrid_buf_lit(&out, "failed to parse tool arguments: expected an object");
    else
        ok = t->run(arguments, &out);
    if (out.failed) {
        ok = false;
        out = (struct astrid_buf){ 0 };
        astrid_buf_lit(&out, "failed to serialize tool result: out of memory");
    }
    if (out.n > TOOL_MAX_CONTENT) {
        ok = false;
        out.n = 0;
        astrid_buf_lit(&out, "failed to serialize tool result: it is larger than 262144 bytes");
    }
    publish_tool_result(t, call_id, ok, astrid_buf_view(&out));
    return astrid_continue();
}

/* ---- exports ---- */

static struct astrid_result run_action(struct astrid_str action, struct astrid_str payload)
{
    for (uint32_t i = 0; i < astrid_handler_count; i++)
        if (astrid_str_eq(action, astrid_str_c(astrid_handlers[i].action)))
            return astrid_handlers[i].run(payload);
    if (astrid_tool_count && astrid_str_eq(action, ASTRID_STR("tool_describe")))
        return describe_tools();
    if (astrid_tool_count && astrid_str_starts(action, ASTRID_STR("tool_execute_"))) {
        struct astrid_str name = astrid_str_from(action, ASTRID_STR("tool_execute_").n);
        for (uint32_t i = 0; i < astrid_tool_count; i++)
            if (astrid_str_eq(name, astrid_str_c(astrid_tools[i].name)))
                return execute_tool(&astrid_tools[i], payload);
    }
    struct astrid_buf why = { 0 };
    astrid_buf_lit(&why, "unknown hook action: ");
    astrid_buf_add(&why, action);
    return astrid_deny(astrid_buf_view(&why));
}

/* record capsule-result { action: string, data: option<string> }, 20 bytes (WIT astrid:guest/lifecycle) */
struct capsule_result {
    struct astrid_str action;
    uint8_t has_data;
    struct astrid_str data;
};
_Static_assert(sizeof(struct capsule_result) == 20, "canonical layout");

EXPORT("astrid-hook-trigger")
struct capsule_result *astrid_hook(const char *action, uint32_t action_n, const char *payload,
                                   uint32_t payload_n)
{
    static struct capsule_result ret;
    static const struct astrid_str words[] = { [ASTRID_CONTINUE] = { "continue", 8 },
                                               [ASTRID_FINAL] = { "final", 5 },
                                               [ASTRID_DENY] = { "deny", 4 } };
    struct astrid_result r = run_action((struct astrid_str){ action, action_n },
                                        (struct astrid_str){ payload, payload_n });

    ret = (struct capsule_result){ .action = words[r.action],
                                   .has_data = r.has_data,
                                   .data = r.data };
    return &ret;
}

/* The kernel has copied the result: the call's memory starts over. */
EXPORT("cabi_post_astrid-hook-trigger") void astrid_hook_done(struct capsule_result *r)
{
    (void)r; /* static */
    arena_at = 0;
}
