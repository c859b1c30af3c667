/* The payload variants of spec 01 §6 and their nested types, member by member in declaration order. */
#include "bus/payload_priv.h"

#include "base/banned.h"

/* A table is read down its lines: */
/* clang-format off */
#define NAMED(name_) .name = AST_STR(name_), .key = AST_STR("\"" name_ "\":")
#define NEED(name_, shape_) { NAMED(name_), .shape = &(shape_), .presence = BUS_REQUIRED }
#define MAYBE(name_, shape_) { NAMED(name_), .shape = &(shape_), .presence = BUS_OMITTED }
#define NULLABLE(name_, shape_) { NAMED(name_), .shape = &(shape_), .presence = BUS_NULLED }
#define ELSE(name_, shape_, text_)                                                                 \
    { NAMED(name_), .shape = &(shape_), .presence = BUS_DEFAULT, .fallback = AST_STR(text_) }

#define FIELDS(table) { .v = (table), .n = AST_ARRAY_LEN(table) }
#define RECORD(table) { .type = BUS_SHAPE_RECORD, .fields = FIELDS(table) }
#define LIST(shape_) { .type = BUS_SHAPE_LIST, .element = &(shape_) }
#define EXTERNAL(table) { .type = BUS_SHAPE_EXTERNAL, .count = AST_ARRAY_LEN(table), .variants = (table) }
#define INTERNAL(table) { .type = BUS_SHAPE_INTERNAL, .count = AST_ARRAY_LEN(table), .variants = (table) }
#define UNTAGGED(table) { .type = BUS_SHAPE_UNTAGGED, .count = AST_ARRAY_LEN(table), .options = (table) }
#define BARE(tag_) { .tag = AST_STR(tag_) }
#define WITH(tag_, shape_) { .tag = AST_STR(tag_), .shape = &(shape_) }

static const struct bus_shape string = { .type = BUS_SHAPE_STRING };
static const struct bus_shape boolean = { .type = BUS_SHAPE_BOOL };
static const struct bus_shape count = { .type = BUS_SHAPE_COUNT };
static const struct bus_shape uuid = { .type = BUS_SHAPE_UUID };
static const struct bus_shape any = { .type = BUS_SHAPE_ANY };
static const struct bus_shape strings = LIST(string);

/* OnboardingFieldType, OnboardingField */
static const struct bus_variant field_type_variants[] = {
    BARE("Text"),
    BARE("Secret"),
    BARE("Array"),
    WITH("Enum", strings),
};
static const struct bus_shape field_type = EXTERNAL(field_type_variants);

static const struct bus_field onboarding_field_fields[] = {
    NEED("key", string),
    NEED("prompt", string),
    MAYBE("description", string),
    NEED("field_type", field_type),
    MAYBE("default", string),
    MAYBE("placeholder", string),
};
static const struct bus_shape onboarding_field = RECORD(onboarding_field_fields);
static const struct bus_shape onboarding_fields = LIST(onboarding_field);

/* SelectionOption */
static const struct bus_field selection_option_fields[] = {
    NEED("id", string),
    NEED("label", string),
    MAYBE("description", string),
};
static const struct bus_shape selection_option = RECORD(selection_option_fields);
static const struct bus_shape selection_options = LIST(selection_option);

/* ToolCall, ToolCallResult, ToolDefinition */
static const struct bus_field tool_call_fields[] = {
    NEED("id", string),
    NEED("name", string),
    NEED("arguments", any),
};
static const struct bus_shape tool_call = RECORD(tool_call_fields);
static const struct bus_shape tool_calls = LIST(tool_call);

static const struct bus_field tool_call_result_fields[] = {
    NEED("call_id", string),
    NEED("content", string),
    ELSE("is_error", boolean, "false"),
};
static const struct bus_shape tool_call_result = RECORD(tool_call_result_fields);

static const struct bus_field tool_definition_fields[] = {
    NEED("name", string),
    NULLABLE("description", string),
    NEED("input_schema", any),
};
static const struct bus_shape tool_definition = RECORD(tool_definition_fields);
static const struct bus_shape tool_definitions = LIST(tool_definition);

/* ContentPart, MessageContent, Message */
static const struct bus_field text_part_fields[] = { NEED("text", string) };
static const struct bus_field image_part_fields[] = {
    NEED("data", string),
    NEED("media_type", string),
};
static const struct bus_variant content_part_variants[] = {
    { .tag = AST_STR("text"), .fields = FIELDS(text_part_fields) },
    { .tag = AST_STR("image"), .fields = FIELDS(image_part_fields) },
};
static const struct bus_shape content_part = INTERNAL(content_part_variants);
static const struct bus_shape content_parts = LIST(content_part);

/* The order is the rule: an empty array is tool calls. */
static const struct bus_shape *const message_content_options[] = {
    &string,
    &tool_calls,
    &tool_call_result,
    &content_parts,
};
static const struct bus_shape message_content = UNTAGGED(message_content_options);

static const struct bus_variant role_variants[] = {
    BARE("system"),
    BARE("user"),
    BARE("assistant"),
    BARE("tool"),
};
static const struct bus_shape role = EXTERNAL(role_variants);

static const struct bus_field message_fields[] = {
    NEED("role", role),
    NEED("content", message_content),
};
static const struct bus_shape message = RECORD(message_fields);
static const struct bus_shape messages = LIST(message);

/* StreamEvent, LlmResponse */
static const struct bus_field usage_fields[] = {
    NEED("input_tokens", count),
    NEED("output_tokens", count),
};
static const struct bus_shape usage = RECORD(usage_fields);

static const struct bus_field call_start_fields[] = { NEED("id", string), NEED("name", string) };
static const struct bus_shape call_start = RECORD(call_start_fields);
static const struct bus_field call_delta_fields[] = { NEED("id", string), NEED("args_delta", string) };
static const struct bus_shape call_delta = RECORD(call_delta_fields);
static const struct bus_field call_end_fields[] = { NEED("id", string) };
static const struct bus_shape call_end = RECORD(call_end_fields);

static const struct bus_variant stream_event_variants[] = {
    WITH("TextDelta", string),
    WITH("ToolCallStart", call_start),
    WITH("ToolCallDelta", call_delta),
    WITH("ToolCallEnd", call_end),
    WITH("ReasoningDelta", string),
    WITH("Usage", usage),
    BARE("Done"),
    WITH("Error", string),
};
static const struct bus_shape stream_event = EXTERNAL(stream_event_variants);

static const struct bus_variant stop_reason_variants[] = {
    BARE("EndTurn"),
    BARE("MaxTokens"),
    BARE("ToolUse"),
    BARE("StopSequence"),
};
static const struct bus_shape stop_reason = EXTERNAL(stop_reason_variants);

static const struct bus_field llm_response_fields[] = {
    NEED("message", message),
    NEED("has_tool_calls", boolean),
    NEED("stop_reason", stop_reason),
    NEED("usage", usage),
};
static const struct bus_shape llm_response = RECORD(llm_response_fields);

/* The variants themselves */
static const struct bus_field user_input[] = {
    NEED("text", string),
    ELSE("session_id", string, "\"default\""),
    MAYBE("context", any),
};
static const struct bus_field agent_response[] = {
    NEED("text", string),
    NEED("is_final", boolean),
    ELSE("session_id", string, "\"default\""),
};
static const struct bus_field approval_required[] = {
    NEED("request_id", string),
    NEED("action", string),
    NEED("resource", string),
    NEED("reason", string),
};
static const struct bus_field approval_response[] = {
    NEED("request_id", string),
    NEED("decision", string),
    MAYBE("reason", string),
};
static const struct bus_field onboarding_required[] = {
    NEED("capsule_id", string),
    NEED("fields", onboarding_fields),
};
static const struct bus_field llm_request[] = {
    NEED("request_id", uuid),
    NEED("model", string),
    NEED("messages", messages),
    NEED("tools", tool_definitions),
    NEED("system", string),
};
static const struct bus_field llm_stream_event[] = {
    NEED("request_id", uuid),
    NEED("event", stream_event),
};
static const struct bus_field llm_response_variant[] = {
    NEED("request_id", uuid),
    NEED("response", llm_response),
};
static const struct bus_field tool_execute_request[] = {
    NEED("call_id", string),
    NEED("tool_name", string),
    NEED("arguments", any),
};
static const struct bus_field tool_execute_result[] = {
    NEED("call_id", string),
    NEED("result", tool_call_result),
};
static const struct bus_field tool_cancel_request[] = { NEED("call_ids", strings) };
static const struct bus_field selection_required[] = {
    NEED("request_id", string),
    NEED("title", string),
    NEED("options", selection_options),
    NEED("callback_topic", string),
};
static const struct bus_field elicit_request[] = {
    NEED("request_id", uuid),
    NEED("capsule_id", string),
    NEED("field", onboarding_field),
};
static const struct bus_field elicit_response[] = {
    NEED("request_id", uuid),
    MAYBE("value", string),
    MAYBE("values", strings),
};
static const struct bus_field disconnect[] = { MAYBE("reason", string) };
static const struct bus_field custom[] = { NEED("data", any) };

static const struct bus_fields fields_of[AST_PAYLOAD_KIND_COUNT] = {
    [AST_PAYLOAD_RAW_JSON] = { .n = 0 },
    [AST_PAYLOAD_USER_INPUT] = FIELDS(user_input),
    [AST_PAYLOAD_AGENT_RESPONSE] = FIELDS(agent_response),
    [AST_PAYLOAD_APPROVAL_REQUIRED] = FIELDS(approval_required),
    [AST_PAYLOAD_APPROVAL_RESPONSE] = FIELDS(approval_response),
    [AST_PAYLOAD_ONBOARDING_REQUIRED] = FIELDS(onboarding_required),
    [AST_PAYLOAD_LLM_REQUEST] = FIELDS(llm_request),
    [AST_PAYLOAD_LLM_STREAM_EVENT] = FIELDS(llm_stream_event),
    [AST_PAYLOAD_LLM_RESPONSE] = FIELDS(llm_response_variant),
    [AST_PAYLOAD_TOOL_EXECUTE_REQUEST] = FIELDS(tool_execute_request),
    [AST_PAYLOAD_TOOL_EXECUTE_RESULT] = FIELDS(tool_execute_result),
    [AST_PAYLOAD_TOOL_CANCEL_REQUEST] = FIELDS(tool_cancel_request),
    [AST_PAYLOAD_SELECTION_REQUIRED] = FIELDS(selection_required),
    [AST_PAYLOAD_ELICIT_REQUEST] = FIELDS(elicit_request),
    [AST_PAYLOAD_ELICIT_RESPONSE] = FIELDS(elicit_response),
    [AST_PAYLOAD_CONNECT] = { .n = 0 },
    [AST_PAYLOAD_DISCONNECT] = FIELDS(disconnect),
    [AST_PAYLOAD_CUSTOM] = FIELDS(custom),
};

/* clang-format on */

const struct bus_fields *bus_payload_fields(enum ast_payload_kind kind)
{
    AST_ASSERT(kind < AST_PAYLOAD_KIND_COUNT);
    return &fields_of[kind];
}
