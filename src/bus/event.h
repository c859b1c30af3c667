/* Lifecycle events: the closed set of kinds and their JSON (spec 04 §3).
 *
 * The table is the only list: names, event types and metric labels derive from it.
 */
#pragma once

#include "bus/message.h"

/* The 58 kinds of spec 04 §3.2, by tag. */
/* clang-format off */
#define AST_EVENT_MAP(X)                                                                           \
    X(runtime_started) X(runtime_stopped) X(agent_started) X(agent_stopped) X(session_created)      \
    X(session_ended) X(session_resumed) X(message_received) X(message_sent) X(message_processed)    \
    X(prompt_building) X(message_sending) X(context_compaction_started)                             \
    X(context_compaction_completed) X(session_resetting) X(model_resolving) X(agent_loop_completed) \
    X(tool_result_persisting) X(llm_request_started) X(llm_request_completed) X(llm_stream_started) \
    X(llm_stream_chunk) X(llm_stream_completed) X(tool_call_started) X(tool_call_completed)         \
    X(tool_call_failed) X(mcp_server_connected) X(mcp_server_disconnected) X(mcp_tool_called)       \
    X(mcp_tool_completed) X(sub_agent_spawned) X(sub_agent_progress) X(sub_agent_completed)         \
    X(sub_agent_failed) X(sub_agent_cancelled) X(capability_granted) X(capability_revoked)          \
    X(capability_checked) X(authorization_denied) X(security_violation) X(approval_requested)       \
    X(approval_granted) X(approval_denied) X(budget_allocated) X(budget_warning) X(budget_exceeded) \
    X(capsule_loaded) X(capsule_failed) X(capsule_unloaded) X(kernel_started) X(kernel_shutdown)    \
    X(config_reloaded) X(config_changed) X(health_check_completed) X(audit_entry_created)           \
    X(error_occurred) X(ipc) X(custom)
/* clang-format on */

enum ast_event_kind {
#define X(tag) AST_EVENT_##tag,
    AST_EVENT_MAP(X)
#undef X
        AST_EVENT_KIND_COUNT
};

/* "astrid.v1.lifecycle.kernel_started", "ipc", "custom"; static. */
struct ast_str ast_event_type(enum ast_event_kind kind);
/* The metric label of a message: "ipc" for every IPC message. Static. */
const char *ast_event_label(const struct ast_msg *m);

/* Builds the event's message: {"type":..,"metadata":{..},<fields>}. `fields` is trusted JSON text of
 * the kind's own members without braces ("\"reason\":\"signal\""), empty for none. */
AST_MUST_CHECK
enum ast_rc ast_event_new(enum ast_event_kind kind, const char *source, struct ast_str fields,
                          struct ast_msg **ret, struct ast_err *err);
