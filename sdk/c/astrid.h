/* What a capsule author in C includes.
 *
 * A capsule is one C file and a Capsule.toml. It declares its handlers (and tools) once:
 *
 *     static struct astrid_result greet(struct astrid_str payload) { ...; return astrid_continue(); }
 *     ASTRID_HANDLERS({ "greet", greet });
 *
 * Memory: astrid_alloc() and everything built on it live until the handler returned; there is no free. Global variables may
 * keep values between calls of one principal, or may not: keep state in the key-value store.
 * Threads: a capsule runs one call at a time.
 */
#pragma once

#include "astrid_json.h"

/* ---- results of a handler ---- */

enum astrid_action { ASTRID_CONTINUE, ASTRID_FINAL, ASTRID_DENY };

struct astrid_result {
    enum astrid_action action;
    bool has_data;
    /* CONTINUE: replaces the payload for the next handler; DENY: the reason */
    struct astrid_str data;
};

static inline struct astrid_result astrid_continue(void)
{
    return (struct astrid_result){ .action = ASTRID_CONTINUE };
}
static inline struct astrid_result astrid_continue_with(struct astrid_str data)
{
    return (struct astrid_result){ ASTRID_CONTINUE, true, data };
}
static inline struct astrid_result astrid_deny(struct astrid_str reason)
{
    return (struct astrid_result){ ASTRID_DENY, true, reason };
}

/* ---- handlers: one row per `handler` name of the manifest ---- */

struct astrid_handler {
    const char *action;
    struct astrid_result (*run)(struct astrid_str payload); /* payload: JSON text */
};

#define ASTRID_HANDLERS(...)                                                                       \
    const struct astrid_handler astrid_handlers[] = { __VA_ARGS__ };                               \
    const uint32_t astrid_handler_count = sizeof astrid_handlers / sizeof astrid_handlers[0]

/* ---- tools: what a model (or another capsule) can call ----
 *
 * The manifest binds tool.v1.execute.<name> to tool_execute_<name> and tool.v1.request.describe to tool_describe. */

struct astrid_tool {
    const char *name, *description;
    const char *input_schema; /* JSON Schema text of the arguments object */
    /* `arguments`: a JSON object. Append the result to `out` as JSON text and return true, or append a plain error message and
     * return false. */
    bool (*run)(struct astrid_str arguments, struct astrid_buf *out);
};

#define ASTRID_TOOLS(about, ...)                                                                   \
    const char *const astrid_tools_about = (about);                                                \
    const struct astrid_tool astrid_tools[] = { __VA_ARGS__ };                                     \
    const uint32_t astrid_tool_count = sizeof astrid_tools / sizeof astrid_tools[0]

/* For capsules that have only one of the two tables. */
#define ASTRID_NO_HANDLERS                                                                         \
    const struct astrid_handler astrid_handlers[1] = { { 0 } };                                    \
    const uint32_t astrid_handler_count = 0
#define ASTRID_NO_TOOLS                                                                            \
    const char *const astrid_tools_about = "";                                                     \
    const struct astrid_tool astrid_tools[1] = { { 0 } };                                          \
    const uint32_t astrid_tool_count = 0

extern const struct astrid_handler astrid_handlers[];
extern const uint32_t astrid_handler_count;
extern const char *const astrid_tools_about;
extern const struct astrid_tool astrid_tools[];
extern const uint32_t astrid_tool_count;

/* ---- messages ---- */

/* True when the bus took it. `payload`: JSON text. */
bool astrid_publish(struct astrid_str topic, struct astrid_str payload);

/* A subscription: zero is "none". Release it with astrid_unsubscribe(). */
typedef int32_t astrid_subscription;
astrid_subscription astrid_subscribe(struct astrid_str pattern);
void astrid_unsubscribe(astrid_subscription s);

struct astrid_message {
    struct astrid_str topic, payload, source_id;
    struct astrid_str principal; /* empty: the system */
};
/* Waits up to timeout_ms (at most 60 000) and gives what arrived; *ret_n may be 0. False when the subscription is gone. */
bool astrid_receive(astrid_subscription s, uint64_t timeout_ms, const struct astrid_message **ret,
                    uint32_t *ret_n);

/* ---- key-value store: the invoking principal's own namespace of this capsule ---- */

enum astrid_kv { ASTRID_KV_OK, ASTRID_KV_ABSENT, ASTRID_KV_FAILED };
enum astrid_kv astrid_kv_get(struct astrid_str key, struct astrid_str *ret);
bool astrid_kv_set(struct astrid_str key, struct astrid_str value);
bool astrid_kv_delete(struct astrid_str key);
/* Up to `limit` (0 = 1024) keys > cursor that start with prefix; *ret_more tells whether others follow. */
bool astrid_kv_list(struct astrid_str prefix, struct astrid_str cursor, uint32_t limit,
                    const struct astrid_str **ret, uint32_t *ret_n, bool *ret_more);

/* ---- asking people ---- */

enum astrid_approval {
    ASTRID_APPROVAL_DENIED,
    ASTRID_APPROVAL_ONCE,
    ASTRID_APPROVAL_SESSION,
    ASTRID_APPROVAL_ALWAYS,
    ASTRID_APPROVAL_ALLOWANCE, /* an earlier approval covers it; nobody was asked */
    ASTRID_APPROVAL_NO_ANSWER, /* within a minute */
    ASTRID_APPROVAL_FAILED     /* e.g. an action of more than 256 characters */
};
/* May I do this? `action`: what kind of thing ("git push"); `resource`: the whole command or target. Waits for a person. */
enum astrid_approval astrid_approve(struct astrid_str action, struct astrid_str resource);
static inline bool astrid_is_approved(enum astrid_approval a)
{
    return a >= ASTRID_APPROVAL_ONCE && a <= ASTRID_APPROVAL_ALLOWANCE;
}

/* Questions to the operator, from an install or upgrade hook only. They wait up to two minutes. */
enum astrid_elicit {
    ASTRID_ELICIT_OK,
    ASTRID_ELICIT_NOT_IN_HOOK,
    ASTRID_ELICIT_NO_ANSWER,
    ASTRID_ELICIT_CANCELLED, /* also: nobody is there to ask */
    ASTRID_ELICIT_INVALID,   /* no choices, or an answer that does not fit */
    ASTRID_ELICIT_FAILED
};
/* `key` names the setting; an empty `description` shows the key. `standard` (may be NULL): what an empty line means. */
enum astrid_elicit astrid_elicit_text(struct astrid_str key, struct astrid_str description,
                                      const struct astrid_str *standard, struct astrid_str *ret);
enum astrid_elicit astrid_elicit_choice(struct astrid_str key, struct astrid_str description,
                                        const struct astrid_str *choices, uint32_t n,
                                        const struct astrid_str *standard, struct astrid_str *ret);
enum astrid_elicit astrid_elicit_list(struct astrid_str key, struct astrid_str description,
                                      const struct astrid_str **ret, uint32_t *ret_n);
/* The answer goes to the secret store; read it with astrid_config() when [env] declares `key` as a secret. */
enum astrid_elicit astrid_elicit_secret(struct astrid_str key, struct astrid_str description);
bool astrid_has_secret(struct astrid_str key); /* at any time; false also when the store fails */

/* Runs once when the capsule is installed, or installed over an older one. Write it with ASTRID_ON_INSTALL or
 * ASTRID_ON_UPGRADE:
 *
 *     ASTRID_ON_INSTALL { (void)astrid_elicit_secret(ASTRID_STR("API_KEY"), ASTRID_STR("Your key")); }
 */
#define ASTRID_ON_INSTALL                                                                          \
    __attribute__((export_name("astrid-install"), used)) void astrid_on_install(void)
#define ASTRID_ON_UPGRADE                                                                          \
    __attribute__((export_name("astrid-upgrade"), used)) void astrid_on_upgrade(void)

/* ---- identities: which account of a chat platform belongs to which user ----
 *
 * Needs [capabilities] identity: "resolve" to look up, "link" to change links, "admin" to make users. */

enum astrid_identity {
    ASTRID_IDENTITY_OK,
    ASTRID_IDENTITY_ABSENT,         /* no such link, or no such user */
    ASTRID_IDENTITY_ALREADY_LINKED, /* the account is another user's */
    ASTRID_IDENTITY_DENIED,         /* the manifest does not grant it */
    ASTRID_IDENTITY_INVALID,        /* blank text, '/' inside, not a UUID */
    ASTRID_IDENTITY_FAILED
};
/* *ret_display_name (may be NULL) is empty when the user has none. */
enum astrid_identity astrid_identity_resolve(struct astrid_str platform,
                                             struct astrid_str platform_user_id,
                                             struct astrid_str *ret_user_id,
                                             struct astrid_str *ret_display_name);
/* `method`: how the link was proved. */
enum astrid_identity astrid_identity_link(struct astrid_str platform,
                                          struct astrid_str platform_user_id,
                                          struct astrid_str user_id, struct astrid_str method);
enum astrid_identity astrid_identity_unlink(struct astrid_str platform,
                                            struct astrid_str platform_user_id);
/* The user's principal is derived from the name; an empty name makes a user of the principal `default`. */
enum astrid_identity astrid_identity_create_user(struct astrid_str display_name,
                                                 struct astrid_str *ret_user_id);

struct astrid_link {
    struct astrid_str platform, platform_user_id, linked_at, method;
};
enum astrid_identity astrid_identity_links(struct astrid_str user_id,
                                           const struct astrid_link **ret, uint32_t *ret_n);

/* ---- uplinks: front ends. Needs [capabilities] uplink = true, and [[uplink]] to send ---- */

enum astrid_uplink_kind {
    ASTRID_UPLINK_CHAT,
    ASTRID_UPLINK_INTERACTIVE,
    ASTRID_UPLINK_NOTIFY,
    ASTRID_UPLINK_BRIDGE
};
/* False when refused: no capability, blank or known name, more than 32. */
bool astrid_uplink_register(struct astrid_str name, struct astrid_str platform,
                            enum astrid_uplink_kind kind, struct astrid_str *ret_uplink_id);
/* What a platform user wrote, as a prompt of the principal that the account is linked to. *ret_taken is false for
 * unlinked accounts and over the principal's rate. False when the uplink is not one of ours. */
bool astrid_uplink_send(struct astrid_str uplink_id, struct astrid_str platform_user_id,
                        struct astrid_str content, bool *ret_taken);

/* ---- the rest of the system ---- */

/* A value of [env] in the manifest, as the operator set it; false when unset. */
bool astrid_config(struct astrid_str key, struct astrid_str *ret);
/* The principal this call acts for; empty when there is no caller. */
struct astrid_str astrid_caller(void);
uint64_t astrid_clock_ms(void); /* since 1970 */
uint64_t astrid_clock_monotonic_ns(void);

enum astrid_log_level {
    ASTRID_LOG_TRACE,
    ASTRID_LOG_DEBUG,
    ASTRID_LOG_INFO,
    ASTRID_LOG_WARN,
    ASTRID_LOG_ERROR
};
void astrid_log(enum astrid_log_level level, struct astrid_str text);

/* Ends the call as a crash; use it for broken invariants only. */
__attribute__((noreturn)) void astrid_trap(struct astrid_str why);
