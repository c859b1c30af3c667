/* Payloads of bus messages: which variant a JSON text is, and its exact guest bytes (spec 04 §4,
 * spec 01 §6, §7).
 *
 * A payload is kept in guest form: `custom` and `raw_json` without their wrapper, every other variant
 * as its tagged object with unknown members dropped and defaults filled in, members in declaration
 * order; free-form values canonical (sorted members).
 */
#pragma once

#include "base/buf.h"
#include "base/json.h"

/* kind, tag */
#define AST_PAYLOAD_MAP(X)                                                                         \
    X(RAW_JSON, "raw_json")                                                                        \
    X(USER_INPUT, "user_input")                                                                    \
    X(AGENT_RESPONSE, "agent_response")                                                            \
    X(APPROVAL_REQUIRED, "approval_required")                                                      \
    X(APPROVAL_RESPONSE, "approval_response")                                                      \
    X(ONBOARDING_REQUIRED, "onboarding_required")                                                  \
    X(LLM_REQUEST, "llm_request")                                                                  \
    X(LLM_STREAM_EVENT, "llm_stream_event")                                                        \
    X(LLM_RESPONSE, "llm_response")                                                                \
    X(TOOL_EXECUTE_REQUEST, "tool_execute_request")                                                \
    X(TOOL_EXECUTE_RESULT, "tool_execute_result")                                                  \
    X(TOOL_CANCEL_REQUEST, "tool_cancel_request")                                                  \
    X(SELECTION_REQUIRED, "selection_required")                                                    \
    X(ELICIT_REQUEST, "elicit_request")                                                            \
    X(ELICIT_RESPONSE, "elicit_response")                                                          \
    X(CONNECT, "connect")                                                                          \
    X(DISCONNECT, "disconnect")                                                                    \
    X(CUSTOM, "custom")

enum ast_payload_kind {
#define X(name, tag) AST_PAYLOAD_##name,
    AST_PAYLOAD_MAP(X)
#undef X
        AST_PAYLOAD_KIND_COUNT
};

const char *ast_payload_tag(enum ast_payload_kind kind);

/* Classifies a value and appends its guest bytes to `out`. A known tag whose members do not fit
 * becomes CUSTOM with the whole value. Never fails on content; errors are those of `out`. */
enum ast_rc ast_payload_normalise(const struct ast_json *value, enum ast_payload_kind *ret_kind,
                                  struct ast_buf *out);

/* The tagged object of a payload in guest form (what HTTP streams show): CUSTOM gains
 * {"type":"custom","data":...}; RAW_JSON stays the bare value; others are as they are. */
enum ast_rc ast_payload_tagged(enum ast_payload_kind kind, struct ast_str guest_bytes,
                               struct ast_buf *out);
