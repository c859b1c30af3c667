#include "bus_test.h"

#include "base/json.h"
#include "bus/payload.h"

#include "base/banned.h"

#define ID "7b0e5c52-3f0c-4a57-9a33-0a6f6f8a1f10"

/* Guest bytes of a JSON text; the kind goes to *ret_kind. Owned. */
static char *normalise(const char *json, enum ast_payload_kind *ret_kind)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_err err = AST_ERR_INIT;
    if (ast_json_parse(ast_str_c(json), &doc, &err))
        fail_msg("%s: %s", json, err.msg);
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1 << 20);
    assert_int_equal(ast_payload_normalise(ast_json_root(doc), ret_kind, &out), AST_OK);
    return ast_buf_steal(&out);
}

static void check(const char *json, enum ast_payload_kind kind, const char *want)
{
    enum ast_payload_kind got_kind = AST_PAYLOAD_KIND_COUNT;
    char *got = normalise(json, &got_kind);
    if (got_kind != kind || strcmp(got, want) != 0) {
        print_error("from <%s>\ngot  <%s> as %s\nwant <%s> as %s\n", json, got,
                    ast_payload_tag(got_kind), want, ast_payload_tag(kind));
        fail();
    }
    free(got);
}

/* Spec 01 §6.2. */
static const struct {
    enum ast_payload_kind kind;
    const char *tagged;
    const char *guest; /* NULL: the tagged object */
} examples[] = {
    { AST_PAYLOAD_RAW_JSON, "{\"type\":\"raw_json\",\"method\":\"ListCapsules\"}",
      "{\"method\":\"ListCapsules\"}" },
    { AST_PAYLOAD_USER_INPUT,
      "{\"type\":\"user_input\",\"text\":\"hi\",\"session_id\":\"default\",\"context\":{\"action\":\"cancel_turn\"}}",
      NULL },
    { AST_PAYLOAD_AGENT_RESPONSE,
      "{\"type\":\"agent_response\",\"text\":\"done\",\"is_final\":true,\"session_id\":\"s1\"}",
      NULL },
    { AST_PAYLOAD_APPROVAL_REQUIRED,
      "{\"type\":\"approval_required\",\"request_id\":\"r1\",\"action\":\"git push\",\"resource\":\"git push origin "
      "main\",\"reason\":\"Capsule 'shell' requests approval\"}",
      NULL },
    { AST_PAYLOAD_APPROVAL_RESPONSE,
      "{\"type\":\"approval_response\",\"request_id\":\"r1\",\"decision\":\"approve_session\"}",
      NULL },
    { AST_PAYLOAD_ONBOARDING_REQUIRED,
      "{\"type\":\"onboarding_required\",\"capsule_id\":\"openai\",\"fields\":[{\"key\":\"api_key\",\"prompt\":\"API "
      "key\",\"field_type\":\"Secret\",\"placeholder\":\"sk-...\"}]}",
      NULL },
    { AST_PAYLOAD_LLM_REQUEST,
      "{\"type\":\"llm_request\",\"request_id\":\"" ID
      "\",\"model\":\"m\",\"messages\":[{\"role\":\"user\","
      "\"content\":\"x\"}],\"tools\":[{\"name\":\"t\",\"description\":null,\"input_schema\":{\"type\":\"object\"}}],"
      "\"system\":\"\"}",
      NULL },
    { AST_PAYLOAD_LLM_STREAM_EVENT,
      "{\"type\":\"llm_stream_event\",\"request_id\":\"" ID "\",\"event\":\"Done\"}", NULL },
    { AST_PAYLOAD_LLM_RESPONSE,
      "{\"type\":\"llm_response\",\"request_id\":\"" ID
      "\",\"response\":{\"message\":{\"role\":\"assistant\","
      "\"content\":\"x\"},\"has_tool_calls\":false,\"stop_reason\":\"EndTurn\",\"usage\":{\"input_tokens\":1,"
      "\"output_tokens\":1}}}",
      NULL },
    { AST_PAYLOAD_TOOL_EXECUTE_REQUEST,
      "{\"type\":\"tool_execute_request\",\"call_id\":\"c1\",\"tool_name\":\"read_file\",\"arguments\":{\"path\":"
      "\"a.txt\"}}",
      NULL },
    { AST_PAYLOAD_TOOL_EXECUTE_RESULT,
      "{\"type\":\"tool_execute_result\",\"call_id\":\"c1\",\"result\":{\"call_id\":\"c1\",\"content\":\"ok\","
      "\"is_error\":false}}",
      NULL },
    { AST_PAYLOAD_TOOL_CANCEL_REQUEST,
      "{\"type\":\"tool_cancel_request\",\"call_ids\":[\"c1\",\"c2\"]}", NULL },
    { AST_PAYLOAD_SELECTION_REQUIRED,
      "{\"type\":\"selection_required\",\"request_id\":\"r2\",\"title\":\"Model\",\"options\":[{\"id\":\"a\","
      "\"label\":\"A\"}],\"callback_topic\":\"registry.v1.selection.callback\"}",
      NULL },
    { AST_PAYLOAD_ELICIT_REQUEST,
      "{\"type\":\"elicit_request\",\"request_id\":\"" ID
      "\",\"capsule_id\":\"c\",\"field\":{\"key\":\"net\","
      "\"prompt\":\"Network\",\"field_type\":{\"Enum\":[\"main\",\"test\"]},\"default\":\"test\"}}",
      NULL },
    { AST_PAYLOAD_ELICIT_RESPONSE,
      "{\"type\":\"elicit_response\",\"request_id\":\"" ID "\",\"value\":\"test\"}", NULL },
    { AST_PAYLOAD_CONNECT, "{\"type\":\"connect\"}", NULL },
    { AST_PAYLOAD_DISCONNECT, "{\"type\":\"disconnect\",\"reason\":\"quit\"}", NULL },
    { AST_PAYLOAD_CUSTOM, "{\"type\":\"custom\",\"data\":[1,2,3]}", "[1,2,3]" },
};

static void c01_38_every_example_round_trips(void **state)
{
    (void)state;
    assert_int_equal(AST_ARRAY_LEN(examples), AST_PAYLOAD_KIND_COUNT);
    for (size_t i = 0; i < AST_ARRAY_LEN(examples); i++) {
        const char *guest = examples[i].guest ? examples[i].guest : examples[i].tagged;
        check(examples[i].tagged, examples[i].kind, guest);

        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1 << 20);
        assert_int_equal(ast_payload_tagged(examples[i].kind, ast_str_c(guest), &out), AST_OK);
        assert_view(ast_buf_view(&out),
                    examples[i].kind == AST_PAYLOAD_RAW_JSON ? guest : examples[i].tagged);
    }
}

static void c01_38_the_examples_cover_each_kind_once(void **state)
{
    (void)state;
    bool seen[AST_PAYLOAD_KIND_COUNT] = { false };
    for (size_t i = 0; i < AST_ARRAY_LEN(examples); i++) {
        assert_false(seen[examples[i].kind]);
        seen[examples[i].kind] = true;
        char start[64];
        snprintf(start, sizeof start, "{\"type\":\"%s\"", ast_payload_tag(examples[i].kind));
        assert_true(ast_str_starts(ast_str_c(examples[i].tagged), ast_str_c(start)));
    }
}

static void c01_38_an_unknown_tag_keeps_its_content(void **state)
{
    (void)state;
    check("{\"type\":\"future\",\"b\":1,\"a\":2}", AST_PAYLOAD_CUSTOM,
          "{\"a\":2,\"b\":1,\"type\":\"future\"}");
    check("{\"type\":\"unknown\"}", AST_PAYLOAD_CUSTOM, "{\"type\":\"unknown\"}");
    check("{\"type\":\"User_Input\",\"text\":\"x\"}", AST_PAYLOAD_CUSTOM,
          "{\"text\":\"x\",\"type\":\"User_Input\"}");
    check("{\"type\":7}", AST_PAYLOAD_CUSTOM, "{\"type\":7}");
    check("{\"type\":null}", AST_PAYLOAD_CUSTOM, "{\"type\":null}");
}

/* Spec 04 §4.3. */
static void c04_11_what_subscribers_receive(void **state)
{
    (void)state;
    check("{\"b\":1, \"a\":2}", AST_PAYLOAD_CUSTOM, "{\"a\":2,\"b\":1}");
    check("{\"type\":\"my_thing\",\"z\":1}", AST_PAYLOAD_CUSTOM, "{\"type\":\"my_thing\",\"z\":1}");
    check("{\"type\":\"custom\",\"data\":{\"k\":1}}", AST_PAYLOAD_CUSTOM, "{\"k\":1}");
    check("{\"type\":\"custom\"}", AST_PAYLOAD_CUSTOM, "{\"type\":\"custom\"}");
    check("{\"type\":\"custom\",\"data\":null,\"more\":1}", AST_PAYLOAD_CUSTOM, "null");
    check("{\"type\":\"raw_json\",\"method\":\"ListCapsules\"}", AST_PAYLOAD_RAW_JSON,
          "{\"method\":\"ListCapsules\"}");
    check("{\"type\":\"raw_json\"}", AST_PAYLOAD_RAW_JSON, "{}");
    check("{\"z\":1,\"type\":\"raw_json\",\"value\":{\"y\":1,\"x\":2},\"z\":3}",
          AST_PAYLOAD_RAW_JSON, "{\"value\":{\"x\":2,\"y\":1},\"z\":3}");
    check("{\"type\":\"connect\",\"who\":\"x\"}", AST_PAYLOAD_CONNECT, "{\"type\":\"connect\"}");
    check("\"plain\"", AST_PAYLOAD_CUSTOM, "\"plain\"");
    check("7", AST_PAYLOAD_CUSTOM, "7");
    check("[1]", AST_PAYLOAD_CUSTOM, "[1]");
    check(" null ", AST_PAYLOAD_CUSTOM, "null");
    check("{\"a\":1,\"a\":{\"d\":1,\"c\":\"\\u00fc\\n\"}}", AST_PAYLOAD_CUSTOM,
          "{\"a\":{\"c\":\"\xc3\xbc\\n\",\"d\":1}}");
}

static void c04_12_user_input_gains_its_session_and_loses_extras(void **state)
{
    (void)state;
    check("{\"type\":\"user_input\",\"text\":\"hi\",\"extra\":1}", AST_PAYLOAD_USER_INPUT,
          "{\"type\":\"user_input\",\"text\":\"hi\",\"session_id\":\"default\"}");
    check(
        "{\"extra\":{},\"session_id\":\"s\",\"text\":\"hi\",\"type\":\"user_input\",\"context\":null}",
        AST_PAYLOAD_USER_INPUT, "{\"type\":\"user_input\",\"text\":\"hi\",\"session_id\":\"s\"}");
}

/* A known tag whose members do not fit stays what it was. */
static void c01_39_misfits_become_custom_whole(void **state)
{
    (void)state;
    static const char *const misfits[] = {
        "{\"type\":\"user_input\"}",
        "{\"text\":7,\"type\":\"user_input\"}",
        "{\"session_id\":null,\"text\":\"x\",\"type\":\"user_input\"}",
        "{\"is_final\":\"yes\",\"text\":\"x\",\"type\":\"agent_response\"}",
        "{\"event\":\"Done\",\"request_id\":\"not-a-uuid\",\"type\":\"llm_stream_event\"}",
        "{\"event\":\"Finished\",\"request_id\":\"" ID "\",\"type\":\"llm_stream_event\"}",
        "{\"event\":\"TextDelta\",\"request_id\":\"" ID "\",\"type\":\"llm_stream_event\"}",
        "{\"event\":{\"Done\":1},\"request_id\":\"" ID "\",\"type\":\"llm_stream_event\"}",
        "{\"event\":{\"Error\":\"a\",\"TextDelta\":\"b\"},\"request_id\":\"" ID
        "\",\"type\":\"llm_stream_event\"}",
        "{\"event\":{\"Usage\":{\"input_tokens\":-1,\"output_tokens\":1}},\"request_id\":\"" ID
        "\",\"type\":\"llm_stream_event\"}",
        "{\"call_ids\":[\"a\",7],\"type\":\"tool_cancel_request\"}",
        "{\"call_ids\":\"a\",\"type\":\"tool_cancel_request\"}",
        "{\"call_id\":\"c\",\"tool_name\":\"t\",\"type\":\"tool_execute_request\"}",
        "{\"call_id\":\"c\",\"result\":{\"call_id\":\"c\",\"content\":\"x\",\"is_error\":null},"
        "\"type\":\"tool_execute_result\"}",
        "{\"capsule_id\":\"c\",\"field\":{\"field_type\":{\"Enum\":\"a\"},\"key\":\"k\",\"prompt\":\"p\"},\"request_id\":"
        "\"" ID "\",\"type\":\"elicit_request\"}",
        "{\"request_id\":\"" ID "\",\"type\":\"elicit_response\",\"values\":[1]}",
        "{\"reason\":1,\"type\":\"disconnect\"}",
        "{\"request_id\":\"" ID
        "\",\"response\":{\"has_tool_calls\":false,\"message\":{\"content\":\"x\",\"role\":"
        "\"robot\"},\"stop_reason\":\"EndTurn\",\"usage\":{\"input_tokens\":1,\"output_tokens\":1}},\"type\":"
        "\"llm_response\"}",
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(misfits); i++)
        check(misfits[i], AST_PAYLOAD_CUSTOM, misfits[i]);
}

static void message_content_is_tried_in_order(void **state)
{
    (void)state;
    static const struct {
        const char *content, *want; /* NULL: does not fit */
    } cases[] = {
        { "\"text\"", "\"text\"" },
        { "[]", "[]" },
        { "[{\"arguments\":{\"b\":1,\"a\":2},\"name\":\"s:t\",\"id\":\"1\",\"x\":1}]",
          "[{\"id\":\"1\",\"name\":\"s:t\",\"arguments\":{\"a\":2,\"b\":1}}]" },
        { "[{\"id\":\"1\",\"name\":\"t\",\"arguments\":null}]",
          "[{\"id\":\"1\",\"name\":\"t\",\"arguments\":null}]" },
        { "{\"content\":\"ok\",\"call_id\":\"c\"}",
          "{\"call_id\":\"c\",\"content\":\"ok\",\"is_error\":false}" },
        { "[{\"type\":\"text\",\"text\":\"a\",\"x\":1},{\"media_type\":\"image/png\",\"data\":\"AA==\",\"type\":\"image\"}]",
          "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image\",\"data\":\"AA==\",\"media_type\":\"image/png\"}]" },
        { "[{\"type\":\"text\",\"text\":\"a\",\"id\":\"1\",\"name\":\"n\",\"arguments\":1}]",
          "[{\"id\":\"1\",\"name\":\"n\",\"arguments\":1}]" },
        { "[{\"id\":\"1\",\"name\":\"t\",\"arguments\":1},{\"type\":\"text\",\"text\":\"a\"}]",
          NULL },
        { "[{\"type\":\"audio\",\"data\":\"\"}]", NULL },
        { "[1]", NULL },
        { "{\"call_id\":\"c\"}", NULL },
        { "7", NULL },
        { "null", NULL },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        static const char frame[] =
            "{\"type\":\"llm_request\",\"request_id\":\"" ID "\",\"model\":\"m\",\"messages\":"
            "[{\"role\":\"tool\",\"content\":%s}],\"tools\":[],\"system\":\"\"}";
        char json[1024], want[1024];
        snprintf(json, sizeof json, frame, cases[i].content);
        if (cases[i].want) {
            snprintf(want, sizeof want, frame, cases[i].want);
            check(json, AST_PAYLOAD_LLM_REQUEST, want);
        } else {
            enum ast_payload_kind kind;
            free(normalise(json, &kind));
            assert_int_equal(kind, AST_PAYLOAD_CUSTOM);
        }
    }
}

static void stream_events_have_their_eight_forms(void **state)
{
    (void)state;
    static const struct {
        const char *event, *want;
    } cases[] = {
        { "{\"TextDelta\":\"par\"}", NULL },
        { "{\"ToolCallStart\":{\"name\":\"fs:read\",\"id\":\"c1\",\"x\":0}}",
          "{\"ToolCallStart\":{\"id\":\"c1\",\"name\":\"fs:read\"}}" },
        { "{\"ToolCallDelta\":{\"id\":\"c1\",\"args_delta\":\"{\\\"p\\\":\"}}", NULL },
        { "{\"ToolCallEnd\":{\"id\":\"c1\"}}", NULL },
        { "{\"ReasoningDelta\":\"hmm\"}", NULL },
        { "{\"Usage\":{\"input_tokens\":10,\"output_tokens\":18446744073709551615}}", NULL },
        { "\"Done\"", NULL },
        { "{\"Done\":null}", "\"Done\"" },
        { "{\"Error\":\"rate limited\"}", NULL },
        { "{\"Error\":\"a\",\"Error\":\"b\"}", "{\"Error\":\"b\"}" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        static const char frame[] =
            "{\"type\":\"llm_stream_event\",\"request_id\":\"" ID "\",\"event\":%s}";
        char json[512], want[512];
        snprintf(json, sizeof json, frame, cases[i].event);
        snprintf(want, sizeof want, frame, cases[i].want ? cases[i].want : cases[i].event);
        check(json, AST_PAYLOAD_LLM_STREAM_EVENT, want);
    }
}

static void optional_members_are_left_out_or_null(void **state)
{
    (void)state;
    check(
        "{\"type\":\"llm_request\",\"request_id\":\"" ID
        "\",\"model\":\"m\",\"messages\":[],\"tools\":[{\"name\":\"t\","
        "\"input_schema\":{\"b\":1,\"a\":{\"d\":1,\"c\":2}}}],\"system\":\"s\"}",
        AST_PAYLOAD_LLM_REQUEST,
        "{\"type\":\"llm_request\",\"request_id\":\"" ID
        "\",\"model\":\"m\",\"messages\":[],\"tools\":[{\"name\":\"t\","
        "\"description\":null,\"input_schema\":{\"a\":{\"c\":2,\"d\":1},\"b\":1}}],\"system\":\"s\"}");
    check("{\"type\":\"elicit_response\",\"request_id\":\"" ID "\",\"value\":null}",
          AST_PAYLOAD_ELICIT_RESPONSE, "{\"type\":\"elicit_response\",\"request_id\":\"" ID "\"}");
    check(
        "{\"type\":\"approval_response\",\"request_id\":\"r\",\"decision\":\"no idea\",\"reason\":\"\"}",
        AST_PAYLOAD_APPROVAL_RESPONSE,
        "{\"type\":\"approval_response\",\"request_id\":\"r\",\"decision\":\"no idea\",\"reason\":\"\"}");
    check("{\"type\":\"disconnect\"}", AST_PAYLOAD_DISCONNECT, "{\"type\":\"disconnect\"}");
}

static void uuids_are_written_in_their_plain_form(void **state)
{
    (void)state;
    check("{\"type\":\"elicit_response\",\"request_id\":\"7B0E5C523F0C4A579A330A6F6F8A1F10\"}",
          AST_PAYLOAD_ELICIT_RESPONSE, "{\"type\":\"elicit_response\",\"request_id\":\"" ID "\"}");
}

static void of_a_repeated_type_the_last_one_counts(void **state)
{
    (void)state;
    check("{\"type\":\"user_input\",\"type\":\"connect\"}", AST_PAYLOAD_CONNECT,
          "{\"type\":\"connect\"}");
    check("{\"type\":\"raw_json\",\"a\":1,\"type\":\"raw_json\"}", AST_PAYLOAD_RAW_JSON,
          "{\"a\":1}");
}

static void a_misfit_leaves_no_trace_before_it(void **state)
{
    (void)state;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    assert_int_equal(
        ast_json_parse(AST_STR("{\"type\":\"agent_response\",\"text\":\"t\",\"is_final\":1}"), &doc,
                       NULL),
        AST_OK);
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1024);
    ast_buf_add_lit(&out, "kept ");
    enum ast_payload_kind kind;
    assert_int_equal(ast_payload_normalise(ast_json_root(doc), &kind, &out), AST_OK);
    assert_view(ast_buf_view(&out),
                "kept {\"is_final\":1,\"text\":\"t\",\"type\":\"agent_response\"}");
}

static void a_full_buffer_is_the_only_error(void **state)
{
    (void)state;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    assert_int_equal(
        ast_json_parse(AST_STR("{\"type\":\"raw_json\",\"text\":\"0123456789\"}"), &doc, NULL),
        AST_OK);
    for (size_t room = 0; room < 21; room++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(room);
        enum ast_payload_kind kind;
        assert_int_equal(ast_payload_normalise(ast_json_root(doc), &kind, &out), AST_E_TOO_LARGE);
    }
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(21);
    enum ast_payload_kind kind;
    assert_int_equal(ast_payload_normalise(ast_json_root(doc), &kind, &out), AST_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c01_38_every_example_round_trips),
        cmocka_unit_test(c01_38_the_examples_cover_each_kind_once),
        cmocka_unit_test(c01_38_an_unknown_tag_keeps_its_content),
        cmocka_unit_test(c04_11_what_subscribers_receive),
        cmocka_unit_test(c04_12_user_input_gains_its_session_and_loses_extras),
        cmocka_unit_test(c01_39_misfits_become_custom_whole),
        cmocka_unit_test(message_content_is_tried_in_order),
        cmocka_unit_test(stream_events_have_their_eight_forms),
        cmocka_unit_test(optional_members_are_left_out_or_null),
        cmocka_unit_test(uuids_are_written_in_their_plain_form),
        cmocka_unit_test(of_a_repeated_type_the_last_one_counts),
        cmocka_unit_test(a_misfit_leaves_no_trace_before_it),
        cmocka_unit_test(a_full_buffer_is_the_only_error),
    };
    return cmocka_run_group_tests_name("payload", tests, NULL, NULL);
}
