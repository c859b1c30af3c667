#include "bus_test.h"

#include <pthread.h>

#include "base/json.h"
#include "base/thread.h"
#include "base/time.h"

#include "base/banned.h"

static struct ast_msg *from_json(const char *json)
{
    struct ast_msg_spec spec = { .topic = AST_STR("t.v1.x"), .principal = AST_STR("alice") };
    struct ast_msg *m = NULL;
    assert_int_equal(ast_msg_from_json(&spec, ast_str_c(json), &m, NULL), AST_OK);
    return m;
}

static void a_message_owns_all_it_shows(void **state)
{
    (void)state;
    char topic[] = "user.v1.prompt", principal[] = "alice", publisher[] = "shell";
    char json[] = "{\"type\":\"user_input\",\"text\":\"hi\",\"session_id\":\"s-1\"}";
    struct ast_msg_spec spec = {
        .topic = ast_str_c(topic),
        .principal = ast_str_c(principal),
        .publisher = ast_str_c(publisher),
        .source_id = ast_uuid_v4(),
        .origin = "wasm_guest",
        .claimed = true,
        .depth = 3,
    };
    int64_t before = ast_wall_ns();
    AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL;
    assert_int_equal(ast_msg_from_json(&spec, ast_str_c(json), &m, NULL), AST_OK);
    memset(topic, 'z', sizeof topic);
    memset(principal, 'z', sizeof principal);
    memset(publisher, 'z', sizeof publisher);
    memset(json, 'z', sizeof json);
    assert_view(m->topic, "user.v1.prompt");
    assert_view(m->principal, "alice");
    assert_view(m->publisher, "shell");
    assert_view(m->body, "{\"type\":\"user_input\",\"text\":\"hi\",\"session_id\":\"s-1\"}");
    assert_view(m->session, "s-1");
    assert_int_equal(m->kind, AST_PAYLOAD_USER_INPUT);
    assert_true(m->is_ipc && m->claimed);
    assert_int_equal(m->depth, 3);
    assert_string_equal(m->origin, "wasm_guest");
    assert_true(ast_uuid_eq(&m->source_id, &spec.source_id));
    assert_true(m->wall_ns >= before && m->wall_ns <= ast_wall_ns());
    assert_int_equal(ast_msg_cost(m), m->body.n + strlen("user.v1.prompt"));
}

static void the_session_is_the_one_in_the_guest_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *json, *session;
    } cases[] = {
        { "{\"type\":\"user_input\",\"text\":\"\"}", "default" },
        { "{\"type\":\"agent_response\",\"text\":\"\",\"is_final\":true,\"session_id\":\"a\\u00fc\\\"\"}",
          "a\xc3\xbc\"" },
        { "{\"type\":\"user_input\",\"session_id\":\"s\"}", "s" }, /* does not fit: custom, whole */
        { "{\"type\":\"custom\",\"data\":{\"session_id\":\"in\"},\"session_id\":\"out\"}", "in" },
        { "{\"type\":\"custom\",\"data\":7,\"session_id\":\"out\"}", "" },
        { "{\"type\":\"raw_json\",\"session_id\":\"r\"}", "r" },
        { "{\"session_id\":\"a\",\"session_id\":\"b\"}", "b" },
        { "{\"session_id\":7}", "" },
        { "{\"deep\":{\"session_id\":\"x\"}}", "" },
        { "{\"type\":\"connect\",\"session_id\":\"gone\"}", "" },
        { "[\"session_id\"]", "" },
        { "\"session_id\"", "" },
        { "\"session_\"", "" },
        { "\"_\"", "" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_msg_unref) struct ast_msg *m = from_json(cases[i].json);
        assert_view(m->session, cases[i].session);

        /* The same bytes, trusted, say the same. */
        AST_AUTO(ast_msg_unref) struct ast_msg *trusted = NULL;
        struct ast_msg_spec spec = { .topic = AST_STR("t") };
        assert_int_equal(ast_msg_trusted(&spec, m->kind, m->body, &trusted, NULL), AST_OK);
        assert_view(trusted->session, cases[i].session);
    }
}

static void c04_07_text_that_is_not_json_makes_no_message(void **state)
{
    (void)state;
    static const char *const bad[] = { "", "{", "{} {}", "\"\\ud800\"", "nul", "{\"a\":01}" };
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++) {
        struct ast_msg_spec spec = { .topic = AST_STR("t") };
        struct ast_msg *m = NULL;
        struct ast_err err = AST_ERR_INIT;
        assert_int_equal(ast_msg_from_json(&spec, ast_str_c(bad[i]), &m, &err), AST_E_INVALID);
        assert_null(m);
        assert_true(ast_str_starts(ast_str_c(err.msg), AST_STR("payload: ")));
    }
}

static void nesting_and_size_have_an_end(void **state)
{
    (void)state;
    struct ast_msg_spec spec = { .topic = AST_STR("t") };
    struct ast_msg *m = NULL;
    char deep[2 * (AST_JSON_MAX_DEPTH + 1)];
    memset(deep, '[', AST_JSON_MAX_DEPTH + 1);
    memset(deep + AST_JSON_MAX_DEPTH + 1, ']', AST_JSON_MAX_DEPTH + 1);
    assert_true(ast_msg_from_json(&spec, ast_str_n(deep, sizeof deep), &m, NULL) != AST_OK);
    assert_int_equal(ast_msg_from_json(&spec, ast_str_n(deep + 1, sizeof deep - 2), &m, NULL),
                     AST_OK);
    ast_msg_unref(m);

    char *huge = calloc(1, AST_MSG_MAX_BODY + 1);
    assert_non_null(huge);
    m = NULL;
    assert_int_equal(ast_msg_from_json(&spec, ast_str_n(huge, AST_MSG_MAX_BODY + 1), &m, NULL),
                     AST_E_TOO_LARGE);
    assert_int_equal(
        ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_str_n(huge, AST_MSG_MAX_BODY + 1), &m, NULL),
        AST_E_TOO_LARGE);
    assert_null(m);
    free(huge);
}

static void a_value_and_its_text_make_the_same_message(void **state)
{
    (void)state;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    assert_int_equal(
        ast_json_parse(AST_STR("{\"payload\":{\"type\":\"raw_json\",\"b\":1,\"a\":2}}"), &doc,
                       NULL),
        AST_OK);
    struct ast_msg_spec spec = { .topic = AST_STR("t") };
    AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL;
    assert_int_equal(
        ast_msg_from_value(&spec, ast_json_member(ast_json_root(doc), "payload"), &m, NULL),
        AST_OK);
    assert_view(m->body, "{\"a\":2,\"b\":1}");
    assert_int_equal(m->kind, AST_PAYLOAD_RAW_JSON);
    assert_string_equal(m->origin, "unknown");
    assert_int_equal(m->principal.n, 0);
}

static void a_large_message_does_not_keep_its_scratch(void **state)
{
    (void)state;
    size_t n = 1 << 20;
    char *json = malloc(n);
    assert_non_null(json);
    memset(json, 'a', n);
    json[0] = json[n - 1] = '"';
    struct ast_msg_spec spec = { .topic = AST_STR("t") };
    for (int i = 0; i < 3; i++) {
        AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL;
        assert_int_equal(ast_msg_from_json(&spec, ast_str_n(json, n), &m, NULL), AST_OK);
        assert_int_equal(m->body.n, n);
        AST_AUTO(ast_msg_unref) struct ast_msg *small = from_json("[1, 2]");
        assert_view(small->body, "[1,2]");
    }
    free(json);
}

static void *make_one(void *arg)
{
    struct ast_msg_spec spec = { .topic = AST_STR("t") };
    return ast_msg_from_json(&spec, AST_STR("{\"b\":1,\"a\":2}"), arg, NULL) ? arg : NULL;
}

/* Leak checkers see the scratch buffer of a thread that ended. */
static void messages_outlive_the_thread_that_made_them(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL;
        pthread_t thread;
        assert_int_equal(ast_thread_start(&thread, "maker", make_one, &m, NULL), AST_OK);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_non_null(m);
        assert_view(m->body, "{\"a\":2,\"b\":1}");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_owns_all_it_shows),
        cmocka_unit_test(the_session_is_the_one_in_the_guest_bytes),
        cmocka_unit_test(c04_07_text_that_is_not_json_makes_no_message),
        cmocka_unit_test(nesting_and_size_have_an_end),
        cmocka_unit_test(a_value_and_its_text_make_the_same_message),
        cmocka_unit_test(a_large_message_does_not_keep_its_scratch),
        cmocka_unit_test(messages_outlive_the_thread_that_made_them),
    };
    return cmocka_run_group_tests_name("message", tests, NULL, NULL);
}
