/* astrid:elicit: only in hooks, the question on the bus, answers by kind, secrets that stay in the host. */
#include "ask.h"

#include "base/banned.h"

#define TOPIC "astrid.v1.elicit"

static int hook_setup(void **state)
{
    int rc = ask_setup(state);
    struct rig *r = *state;
    r->env.is_lifecycle = true;
    return rc;
}

#define HOOK_TEST(fn) cmocka_unit_test_setup_teardown(fn, hook_setup, rig_teardown)

static void answer(struct rig *r, const struct ast_msg *m, const char *members, const char *who)
{
    char id[AST_UUID_TEXT];
    ask_answer(r, TOPIC, "elicit_response", ask_id(m, id), members, who);
}

static const char *asked(struct rig *r, const char *script, const char *members)
{
    size_t before = ask_seen(r);
    struct rig_call *c = rig_start(r, script);
    answer(r, rig_seen(r, before), members, "default");
    return rig_answer(c);
}

static void expect_body(const struct ast_msg *m, const char *rest)
{
    char id[AST_UUID_TEXT], want[512];
    (void)snprintf(want, sizeof want,
                   "{\"type\":\"elicit_request\",\"request_id\":\"%s\",\"capsule_id\":\"probe\","
                   "\"field\":{%s}}",
                   ask_id(m, id), rest);
    assert_str(m->body, want);
}

static void c05_39_not_outside_a_hook(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "elicit text k - - Why\nelicit select k - none Why"),
                        "err:not-in-lifecycle\nerr:not-in-lifecycle");
    assert_int_equal(ask_seen(r), 0);
}

static void c05_39_nobody_answers(void **state)
{
    struct rig *r = *state;
    assert_int_equal(HOST_ELICIT_LIMIT_NS, 120 * AST_NS_PER_SEC);
    r->host.elicit_limit_ns = 30 * AST_NS_PER_MS;
    int64_t before = ast_mono_ns();
    assert_string_equal(rig_run(r, "elicit text k - - Why"), "err:timeout");
    assert_true(ast_mono_ns() - before >= 30 * AST_NS_PER_MS);
}

static void the_question_is_published_exactly(void **state)
{
    struct rig *r = *state;
    assert_string_equal(asked(r, "elicit text api_url https://example.com - Enter API URL",
                              "\"value\":\"https://api.example.com\""),
                        "value:https://api.example.com");
    const struct ast_msg *m = rig_seen(r, 0);
    expect_body(m, "\"key\":\"api_url\",\"prompt\":\"Enter API URL\",\"description\":\"Enter API "
                   "URL\",\"field_type\":\"Text\",\"default\":\"https://example.com\"");
    assert_str(m->topic, TOPIC);
    assert_str(m->principal, "default");
    assert_int_equal(m->kind, AST_PAYLOAD_ELICIT_REQUEST);
    assert_true(ast_uuid_eq(&m->source_id, &AST_UUID_NIL));
    (void)asked(r, "elicit secret k - - ", "");
    expect_body(rig_seen(r, 1), "\"key\":\"k\",\"prompt\":\"k\",\"field_type\":\"Secret\"");
    (void)asked(r, "elicit select k - a,b ", "");
    expect_body(rig_seen(r, 2),
                "\"key\":\"k\",\"prompt\":\"k\",\"field_type\":{\"Enum\":[\"a\",\"b\"]}");
    (void)asked(r, "elicit array k - a,b ", "");
    expect_body(rig_seen(r, 3), "\"key\":\"k\",\"prompt\":\"k\",\"field_type\":\"Array\"");
}

static void c05_40_neither_value_nor_values_is_cancelled(void **state)
{
    struct rig *r = *state;
    static const char *const kinds[] = { "text", "secret", "select", "array" };
    for (size_t i = 0; i < AST_ARRAY_LEN(kinds); i++) {
        char script[64];
        (void)snprintf(script, sizeof script, "elicit %s k - a,b Why", kinds[i]);
        assert_string_equal(asked(r, script, ""), "err:cancelled");
    }
    assert_string_equal(rig_run(r, "has-secret k"), "no");
}

static void c05_40_a_secret_is_stored_and_not_returned(void **state)
{
    struct rig *r = *state;
    assert_string_equal(asked(r, "elicit secret API_KEY - - Key?", "\"value\":\"sk-very-secret\""),
                        "secret-stored");
    AST_AUTO(ast_buf_done) struct ast_buf value = AST_BUF_INIT(AST_SECRET_FILE_MAX);
    bool found;
    RIG_OK(ast_secrets_get(r->home.root, AST_PRINCIPAL_DEFAULT, AST_STR(RIG_CAPSULE),
                           AST_STR("API_KEY"), &value, &found, &err));
    assert_true(found);
    assert_str(ast_buf_view(&value), "sk-very-secret");
    assert_string_equal(rig_run(r, "has-secret API_KEY\nhas-secret OTHER"), "yes\nno");
    /* The same store as get-config's (spec 05 §10.3). */
    static const struct ast_str keys[] = { { "API_KEY", 7 } };
    r->env.secret_keys = keys;
    r->env.secret_key_count = 1;
    assert_non_null(strstr(rig_run(r, "config API_KEY"), "sk-very-secret"));
    assert_string_equal(asked(r, "elicit secret K2 - - Key?", "\"value\":\"\""),
                        "err:invalid-input");
    assert_string_equal(asked(r, "elicit secret K2 - - Key?", "\"values\":[\"x\"]"),
                        "err:invalid-input");
    assert_string_equal(rig_run(r, "has-secret K2"), "no");
}

static void a_secret_that_cannot_be_stored_is_not_asked_for(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "elicit secret ../x - - Key?\nelicit secret a:b - - Key?"
                                   "\nelicit secret .x - - Key?\nhas-secret ../x\nhas-secret "),
                        "err:store-unavailable\nerr:store-unavailable\nerr:store-unavailable"
                        "\nerr:store-unavailable\nerr:store-unavailable");
    assert_int_equal(ask_seen(r), 0);
}

static void c09_46_has_secret_sees_every_place(void **state)
{
    struct rig *r = *state;
    r->env.is_lifecycle = false; /* usable at any time */
    assert_string_equal(rig_run_as(r, "alice", "has-secret a"), "no");
    RIG_OK(ast_secrets_set(r->home.root, AST_STR("alice"), AST_STR(RIG_CAPSULE), AST_STR("a"),
                           AST_STR("1"), &err));
    RIG_OK(ast_secrets_set(r->home.root, AST_SECRET_SCOPE_HOST, AST_STR(RIG_CAPSULE), AST_STR("h"),
                           AST_STR("1"), &err));
    RIG_OK(ast_kv_set(r->store, AST_STR("alice:capsule:probe"), AST_STR("__secret:old"),
                      AST_STR("1"), &err));
    assert_string_equal(rig_run_as(r, "alice", "has-secret a\nhas-secret h\nhas-secret old"),
                        "yes\nyes\nyes");
    assert_string_equal(rig_run_as(r, "bob", "has-secret a\nhas-secret h\nhas-secret old"),
                        "no\nyes\nno");
}

static void answers_by_kind(void **state)
{
    struct rig *r = *state;
    assert_string_equal(asked(r, "elicit text k - - W", "\"value\":\"\""), "value:");
    assert_string_equal(asked(r, "elicit text k - - W", "\"values\":[\"x\"]"), "value:");
    assert_string_equal(asked(r, "elicit array k - - W", "\"values\":[\"a\",\"\",\"c\"]"),
                        "values:[a][][c]");
    assert_string_equal(asked(r, "elicit array k - - W", "\"values\":[]"), "values:");
    assert_string_equal(asked(r, "elicit array k - - W", "\"value\":\"x\""), "values:");
    assert_string_equal(asked(r, "elicit select k - a,b W", "\"value\":\"b\""), "value:b");
    assert_string_equal(asked(r, "elicit select k - a,b W", "\"value\":\"c\""),
                        "err:invalid-input");
    assert_string_equal(asked(r, "elicit select k - a,b W", "\"values\":[\"a\"]"),
                        "err:invalid-input");
}

static void a_choice_needs_something_to_choose(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "elicit select k - - W\nelicit select k - none W"),
                        "err:invalid-input\nerr:invalid-input");
    assert_int_equal(ask_seen(r), 0);
}

static void only_who_may_install_answers(void **state)
{
    struct rig *r = *state;
    ask_profile(r, "carol", "groups = []\ngrants = [\"capsule:install\"]\n");
    struct rig_call *c = rig_start(r, "elicit text k - - W");
    const struct ast_msg *m = rig_seen(r, 0);
    answer(r, m, "\"value\":\"wrong\"", "");
    answer(r, m, "\"value\":\"wrong\"", "alice"); /* an agent is no installer */
    rig_until_parked(r, 1);
    answer(r, m, "\"value\":\"right\"", "carol");
    assert_string_equal(rig_answer(c), "value:right");
}

static void another_payload_is_an_error(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "elicit text k - - W");
    char id[AST_UUID_TEXT];
    ask_answer(r, TOPIC, "approval_response", ask_id(rig_seen(r, 0), id),
               "\"decision\":\"approve\"", "default");
    assert_string_equal(rig_answer(c),
                        "err:unknown:unexpected IPC payload type in elicit response");
}

static void unload_cancels(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "elicit text k - - W");
    rig_until_parked(r, 1);
    rig_unload(r, c);
    assert_string_equal(rig_answer(c), "err:cancelled");
}

static bool nobody(void *arg)
{
    (void)arg;
    return false;
}

static void without_a_listener_it_is_cancelled_at_once(void **state)
{
    struct rig *r = *state;
    r->host.has_listener = nobody;
    assert_string_equal(rig_run(r, "elicit text k - - W"), "err:cancelled");
    assert_int_equal(ask_seen(r), 0);
}

/* A capsule that subscribes to everything still does not see what an operator types. */
static void answers_never_reach_a_capsule(void **state)
{
    struct rig *r = *state;
    static const struct ast_str all[] = { { "astrid.v1.*", 11 },
                                          { "astrid.v1.elicit.response.*", 27 } };
    r->env.subscribe_acl = all;
    r->env.subscribe_acl_count = AST_ARRAY_LEN(all);
    r->env.audit_firehose = true;
    assert_string_equal(rig_run(r, "sub astrid.v1.*\nsub astrid.v1.elicit.response.*"), "0\n1");
    rig_publish(r, TOPIC ".response.abc", "{\"type\":\"x\",\"value\":\"sk-very-secret\"}",
                "default");
    rig_publish(r, "astrid.v1.other", "1", "default");
    const char *got = rig_run(r, "poll 0\npoll 1");
    assert_null(strstr(got, "sk-very-secret"));
    assert_memory_equal(got, "n=1 ", 4);
    assert_non_null(strstr(got, "\nn=0 "));
}

RIG_MAIN(ASK_TEST(c05_39_not_outside_a_hook), HOOK_TEST(c05_39_nobody_answers),
         HOOK_TEST(the_question_is_published_exactly),
         HOOK_TEST(c05_40_neither_value_nor_values_is_cancelled),
         HOOK_TEST(c05_40_a_secret_is_stored_and_not_returned),
         HOOK_TEST(a_secret_that_cannot_be_stored_is_not_asked_for),
         HOOK_TEST(c09_46_has_secret_sees_every_place), HOOK_TEST(answers_by_kind),
         HOOK_TEST(a_choice_needs_something_to_choose), HOOK_TEST(only_who_may_install_answers),
         HOOK_TEST(another_payload_is_an_error), HOOK_TEST(unload_cancels),
         HOOK_TEST(without_a_listener_it_is_cancelled_at_once),
         HOOK_TEST(answers_never_reach_a_capsule))
