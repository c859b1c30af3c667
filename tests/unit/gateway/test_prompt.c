/* Prompt bodies, what a stream shows, how events look. */
#include "gateway_test.h"

#include "bus/bus.h"
#include "gateway/prompt_priv.h"

#include "base/banned.h"

static void bodies_are_read_or_refused_with_a_reason(void **state)
{
    static const struct {
        const char *body, *error; /* NULL: fine */
        const char *text, *session, *context;
    } cases[] = {
        { "{\"text\":\"hi\"}", NULL, "hi", "", NULL },
        { "{\"text\":\"\"}", NULL, "", "", NULL },
        { "{\"text\":\"hi\",\"session_id\":null,\"context\":null,\"more\":1}", NULL, "hi", "",
          NULL },
        { "{\"text\":\"hi\",\"session_id\":\" \\t\\n\"}", NULL, "hi", "", NULL },
        { "{\"text\":\"hi\",\"session_id\":\" s \"}", NULL, "hi", " s ", NULL },
        { "{\"text\":\"hi\",\"context\":{\"b\":[1],\"a\":2}}", NULL, "hi", "",
          "{\"a\":2,\"b\":[1]}" },
        { "{\"text\":\"hi\",\"context\":\"c\"}", NULL, "hi", "", "\"c\"" },
        { "", "", 0, 0, 0 },
        { "{", "", 0, 0, 0 },
        { "[]", "expected an object, found array", 0, 0, 0 },
        { "{}", "missing field `text`", 0, 0, 0 },
        { "{\"text\":1}", "text: expected a string", 0, 0, 0 },
        { "{\"text\":null}", "text: expected a string", 0, 0, 0 },
        { "{\"text\":\"a\",\"session_id\":1}", "session_id: expected a string", 0, 0, 0 },
        { "{\"text\":\"a\",\"text\":\"b\"}", "duplicate field `text`", 0, 0, 0 },
        { "{\"text\":\"a\"} {}", "", 0, 0, 0 },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
        struct gw_prompt_request p;
        struct ast_err err = AST_ERR_INIT;
        enum ast_rc rc = gw_prompt_parse(ast_str_c(cases[i].body), &doc, &p, &err);
        if (!rc != !cases[i].error)
            fail_msg("%s: %s", cases[i].body, err.msg);
        if (rc) {
            assert_contains(err.msg, cases[i].error);
            continue;
        }
        assert_true(ast_str_eq(p.text, ast_str_c(cases[i].text)));
        assert_true(ast_str_eq(p.session, ast_str_c(cases[i].session)));
        AST_AUTO(ast_buf_done) struct ast_buf context = AST_BUF_INIT(100);
        if (p.context)
            assert_int_equal(ast_json_canonical(p.context, &context), AST_OK);
        assert_true(ast_str_eq(ast_buf_view(&context), ast_str_c(cases[i].context)));
    }
}

static void the_message_is_what_a_client_would_have_published(void **state)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000);
    AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL;
    struct gw_prompt_request p;
    (void)state;
    assert_int_equal(
        gw_prompt_parse(AST_STR("{\"text\":\"a\\n\\\"b\",\"context\":{\"z\":1,\"a\":2}}"), &doc, &p,
                        NULL),
        AST_OK);
    assert_int_equal(gw_prompt_print(&p, AST_STR("s\"1"), &out, NULL), AST_OK);
    const struct ast_msg_spec spec = { .topic = AST_STR("user.v1.prompt") };
    assert_int_equal(ast_msg_from_json(&spec, ast_buf_view(&out), &m, NULL), AST_OK);
    assert_int_equal(m->kind, AST_PAYLOAD_USER_INPUT);
    assert_true(ast_str_eq(m->body, ast_buf_view(&out))); /* nothing to normalise */
    assert_view(m->session, "s\"1");
}

static void c03_45_streams_show_their_own_session_and_nothing_foreign(void **state)
{
    static const struct {
        const char *topic, *principal, *json;
        bool sees_elicits, want;
    } cases[] = {
        { "agent.v1.response", "alice",
          "{\"type\":\"agent_response\",\"text\":\"\",\"is_final\":true,\"session_id\":\"s\"}",
          false, true },
        { "agent.v1.response", "alice",
          "{\"type\":\"agent_response\",\"text\":\"\",\"is_final\":true,\"session_id\":\"t\"}",
          false, false },
        { "agent.v1.response", "",
          "{\"type\":\"agent_response\",\"text\":\"\",\"is_final\":true,\"session_id\":\"s\"}",
          false, true },
        { "agent.v1.response", "alice", "{\"text\":\"no session\"}", false, true },
        { "agent.v1.response", "", "{\"text\":\"no session\"}", false, false },
        { "agent.v1.response", "alice", "{\"session_id\":\"s\"}", false, true },
        { "agent.v1.response", "alice", "{\"session_id\":\"t\"}", false, false },
        { "agent.v1.response", "alice", "{\"session_id\":7}", false, true },
        { "agent.v1.stream.delta", "alice", "{\"session_id\":\"s\",\"delta\":\"x\"}", false, true },
        { "agent.v1.stream.other", "alice", "{\"session_id\":\"s\"}", false, false },
        { "agent.v1.session_changed", "alice",
          "{\"old_session_id\":\"s\",\"new_session_id\":\"t\"}", false, true },
        { "agent.v1.session_changed", "alice",
          "{\"old_session_id\":\"t\",\"new_session_id\":\"s\"}", false, true },
        { "agent.v1.session_changed", "alice",
          "{\"old_session_id\":\"t\",\"new_session_id\":\"u\"}", false, false },
        { "agent.v1.session_changed", "", "{\"old_session_id\":\"s\",\"new_session_id\":\"t\"}",
          false, true },
        { "astrid.v1.elicit", "alice", "{\"x\":1}", false, true },
        { "astrid.v1.elicit", "", "{\"x\":1}", false, false },
        { "astrid.v1.elicit", "", "{\"x\":1}", true, true },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL;
        const struct ast_msg_spec spec = { .topic = ast_str_c(cases[i].topic),
                                           .principal = ast_str_c(cases[i].principal) };
        const struct gw_prompt_scope scope = { AST_STR("alice"), AST_STR("s"),
                                               cases[i].sees_elicits };
        assert_int_equal(ast_msg_from_json(&spec, ast_str_c(cases[i].json), &m, NULL), AST_OK);
        if (gw_prompt_shows(&scope, m) != cases[i].want)
            fail_msg("case %zu: %s %s", i, cases[i].topic, cases[i].json);
    }
}

static void c03_42_events_are_two_lines_and_an_empty_one(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000);
    AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL;
    const struct ast_msg_spec spec = { .topic = AST_STR("agent.v1.session_changed") };
    (void)state;
    gw_sse_event(&out, "ready", AST_STR("{\"a\":\n1}"));
    assert_view(ast_buf_view(&out), "event: ready\ndata: {\"a\": 1}\n\n");
    ast_buf_reset(&out);
    assert_int_equal(
        ast_msg_from_json(
            &spec, AST_STR("{ \"new_session_id\" : \"b\", \"old_session_id\":\"a\" }"), &m, NULL),
        AST_OK);
    gw_sse_message(&out, gw_prompt_event(m->topic), m);
    assert_view(
        ast_buf_view(&out),
        "event: session_changed\n"
        "data: {\"type\":\"custom\",\"data\":{\"new_session_id\":\"b\",\"old_session_id\":\"a\"}}\n\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bodies_are_read_or_refused_with_a_reason),
        cmocka_unit_test(the_message_is_what_a_client_would_have_published),
        cmocka_unit_test(c03_45_streams_show_their_own_session_and_nothing_foreign),
        cmocka_unit_test(c03_42_events_are_two_lines_and_an_empty_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
