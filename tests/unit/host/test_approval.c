/* astrid:approval: the request on the bus, who may answer, decisions and the allowances they leave, limits. */
#include "ask.h"

#include "base/banned.h"

#define TOPIC "astrid.v1.approval"

static void answer(struct rig *r, const struct ast_msg *m, const char *decision,
                   const char *principal)
{
    char id[AST_UUID_TEXT], members[128];
    (void)snprintf(members, sizeof members, "\"decision\":\"%s\"", decision);
    ask_answer(r, TOPIC, "approval_response", ask_id(m, id), members, principal);
}

/* Asks for `principal`, lets `who` answer, and gives what the guest saw. */
static const char *asked(struct rig *r, const char *principal, const char *request, const char *who,
                         const char *decision)
{
    size_t before = ask_seen(r);
    char script[256];
    (void)snprintf(script, sizeof script, "approve %s", request);
    struct rig_call *c = ask_start(r, principal, script);
    answer(r, rig_seen(r, before), decision, who);
    return rig_answer(c);
}

/* Whether that request is covered: nobody is asked. */
static bool is_covered(struct rig *r, const char *principal, const char *request)
{
    size_t before = ask_seen(r);
    char script[512];
    (void)snprintf(script, sizeof script, "approve %s", request);
    r->host.approval_limit_ns = 1; /* nobody answers */
    bool covered = strcmp(rig_run_as(r, principal, script), "allowance") == 0;
    r->host.approval_limit_ns = 0;
    assert_int_equal(ask_seen(r), covered ? before : before + 1);
    return covered;
}

static void c05_41_c09_21_the_request_is_published_exactly(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = ask_start(r, "alice", "approve  git push |git push origin main");
    const struct ast_msg *m = rig_seen(r, 0);
    char id[AST_UUID_TEXT], want[256];
    (void)snprintf(want, sizeof want,
                   "{\"type\":\"approval_required\",\"request_id\":\"%s\",\"action\":\"git push\","
                   "\"resource\":\"git push origin main\","
                   "\"reason\":\"Capsule 'probe' requests approval\"}",
                   ask_id(m, id));
    assert_str(m->body, want);
    assert_str(m->topic, TOPIC);
    assert_str(m->principal, "alice"); /* whose action it is */
    assert_int_equal(m->kind, AST_PAYLOAD_APPROVAL_REQUIRED);
    assert_true(ast_uuid_eq(&m->source_id, &AST_UUID_NIL));
    answer(r, m, "approve", "alice");
    assert_string_equal(rig_answer(c), "approved");
}

static void c09_21_every_other_word_denies(void **state)
{
    struct rig *r = *state;
    assert_string_equal(asked(r, "alice", "a|a", "alice", "deny"), "denied");
    assert_string_equal(asked(r, "alice", "a|a", "alice", ""), "denied");
    assert_string_equal(asked(r, "alice", "a|a", "alice", "Approve"), "denied");
    assert_string_equal(asked(r, "alice", "a|a", "alice", "approve_everything"), "denied");
    assert_string_equal(asked(r, "alice", "a|a", "alice", "approve"), "approved");
    assert_false(is_covered(r, "alice", "a|a b")); /* once is once */
}

static void c05_41_c09_22_a_session_allowance_answers_without_a_message(void **state)
{
    struct rig *r = *state;
    assert_string_equal(asked(r, "alice", "git push|git push x", "alice", "approve_session"),
                        "approved-session");
    assert_true(is_covered(r, "alice", "git push|git push origin main"));
    assert_true(is_covered(r, "alice", "whatever|git push origin main")); /* the resource decides */
    assert_true(is_covered(r, "alice", "git push|git push"));
    assert_false(is_covered(r, "alice", "git push|git pull origin main"));
}

static void c05_42_a_command_with_more_in_it_is_asked_for(void **state)
{
    struct rig *r = *state;
    (void)asked(r, "alice", "git push|git push x", "alice", "approve_session");
    assert_false(is_covered(r, "alice", "git push|git push origin main; rm x"));
    assert_false(is_covered(r, "alice", "git push|git push origin main & rm x"));
    assert_false(is_covered(r, "alice", "git push|git push $(rm x)"));
    assert_false(is_covered(r, "alice", "git push|git push ../x"));
    /* Cleaning must not hide what the capsule will run. */
    assert_false(is_covered(r, "alice", "git push|git push origin main\\nrm x"));
    assert_false(is_covered(r, "alice", "git push|git push origin main\\rrm x"));
    char script[1300] = "git push|git push ";
    memset(script + 18, 'x', 1100);
    memcpy(script + 18 + 1100, "; rm x", 7); /* beyond what people are shown */
    struct rig_call *c = NULL;
    char line[1400];
    (void)snprintf(line, sizeof line, "approve %s", script);
    r->host.approval_limit_ns = 1;
    c = ask_start(r, "alice", line);
    assert_string_equal(rig_answer(c), "err:timeout");
}

static void c05_43_an_allowance_is_one_principal_s_and_ends_with_the_session(void **state)
{
    struct rig *r = *state;
    (void)asked(r, "alice", "git push|git push x", "alice", "approve_session");
    (void)asked(r, "bob", "make|make x", "bob", "approve_session");
    assert_false(is_covered(r, "bob", "git push|git push x"));
    ast_allowances_end_session(r->allowances, AST_STR("alice"));
    assert_false(is_covered(r, "alice", "git push|git push x"));
    assert_true(is_covered(r, "bob", "make|make all"));
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), NULL), 0);
}

static void c05_43_a_session_that_ends_while_asking_keeps_nothing(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = ask_start(r, "alice", "approve git push|git push x");
    const struct ast_msg *m = rig_seen(r, 0);
    ast_allowances_end_session(r->allowances, AST_STR("alice"));
    answer(r, m, "approve_session", "default");
    assert_string_equal(rig_answer(c), "approved"); /* what holds, no more */
    assert_false(is_covered(r, "alice", "git push|git push x"));
}

static void approve_always_outlives_the_session_and_the_daemon(void **state)
{
    struct rig *r = *state;
    assert_string_equal(asked(r, "alice", "git push|git push x", "alice", "approve_always"),
                        "approved-always");
    ast_allowances_end_session(r->allowances, AST_STR("alice"));
    assert_true(is_covered(r, "alice", "git push|git push y"));
    ast_allowances_free(ast_steal(&r->allowances));
    RIG_OK(ast_allowances_new(r->store, &r->key, &r->allowances, &err));
    r->host.allowances = r->allowances;
    assert_true(is_covered(r, "alice", "git push|git push y"));
    assert_false(is_covered(r, "bob", "git push|git push y"));
}

static void c05_41_a_workspace_bounds_its_allowances(void **state)
{
    struct rig *r = *state;
    r->env.workspace = AST_STR("/srv/a");
    (void)asked(r, "alice", "make|make x", "alice", "approve_session");
    assert_true(is_covered(r, "alice", "make|make y"));
    r->env.workspace = AST_STR("/srv/ab");
    assert_false(is_covered(r, "alice", "make|make y"));
    r->env.workspace = AST_STR_NONE;
    assert_false(is_covered(r, "alice", "make|make y"));
}

static void an_empty_action_and_a_hook_leave_no_allowance(void **state)
{
    struct rig *r = *state;
    assert_string_equal(asked(r, "alice", " |x", "alice", "approve_session"), "approved-session");
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), NULL), 0);
    (void)asked(r, "default", "git push|git push x", "default", "approve_session");
    r->env.is_lifecycle = true;
    assert_string_equal(asked(r, "default", "git push|git push x", "default", "approve_session"),
                        "approved-session"); /* asked, although there is one */
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("default"), NULL), 1);
}

/* Wrong answers are ignored; the right one, after them, counts. */
static void only_an_authorised_answer_counts(void **state)
{
    struct rig *r = *state;
    ask_profile(r, "carol", "groups = []\n");
    ask_profile(r, "dave", "groups = [\"agent\"]\nrevokes = [\"self:approval:respond\"]\n");
    ask_profile(r, "eve", "enabled = false\ngroups = [\"admin\"]\n");
    struct rig_call *c = ask_start(r, "alice", "approve a|a");
    const struct ast_msg *m = rig_seen(r, 0);
    char id[AST_UUID_TEXT], other[AST_UUID_TEXT], on[128], json[256];
    answer(r, m, "approve", "");           /* nobody */
    answer(r, m, "approve", "bob");        /* may answer for himself only */
    answer(r, m, "approve", "carol");      /* may not answer at all */
    answer(r, m, "approve", "eve");        /* disabled */
    struct ast_uuid wrong = ast_uuid_v4(); /* another request's id */
    (void)snprintf(on, sizeof on, TOPIC ".response.%s", ask_id(m, id));
    (void)snprintf(
        json, sizeof json,
        "{\"type\":\"approval_response\",\"request_id\":\"%s\",\"decision\":\"approve\"}",
        ast_uuid_format(&wrong, other).p);
    rig_publish(r, on, json, "alice");
    rig_until_parked(r, 1);
    answer(r, m, "deny", "alice");
    assert_string_equal(rig_answer(c), "denied");
    assert_string_equal(asked(r, "alice", "a|a", "default", "approve"), "approved"); /* operator */

    c = ask_start(r, "dave", "approve a|a");
    m = rig_seen(r, 2);
    answer(r, m, "approve", "dave"); /* his right was taken */
    rig_until_parked(r, 1);
    answer(r, m, "deny", "default");
    assert_string_equal(rig_answer(c), "denied");
}

/* A capsule that may publish the answer's topic, by its manifest, still does not approve itself. */
static void a_capsule_does_not_answer_itself(void **state)
{
    struct rig *r = *state;
    static const struct ast_str acl[] = { { "astrid.v1.approval.response.*", 29 } };
    r->env.publish_acl = acl;
    r->env.publish_acl_count = 1;
    rig_pool(r, 2, /* pinned= */ false);
    struct rig_call *c = ask_start(r, "alice", "approve a|a");
    const struct ast_msg *m = rig_seen(r, 0);
    char id[AST_UUID_TEXT], script[256];
    (void)snprintf(script, sizeof script,
                   "pub " TOPIC
                   ".response.%s {\"type\":\"approval_response\",\"request_id\":\"%s\","
                   "\"decision\":\"approve\"}",
                   ask_id(m, id), id);
    assert_string_equal(rig_run_as(r, "alice", script), "ok");
    rig_until_parked(r, 1);
    answer(r, m, "deny", "alice");
    assert_string_equal(rig_answer(c), "denied");
}

static void another_payload_is_an_error(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = ask_start(r, "alice", "approve a|a");
    char id[AST_UUID_TEXT];
    ask_answer(r, TOPIC, "nonsense", ask_id(rig_seen(r, 0), id), "", "alice");
    assert_string_equal(rig_answer(c),
                        "err:unknown:unexpected IPC payload type in approval response");
}

static void c05_44_nobody_answers(void **state)
{
    struct rig *r = *state;
    assert_int_equal(HOST_APPROVAL_LIMIT_NS, 60 * AST_NS_PER_SEC);
    r->host.approval_limit_ns = 30 * AST_NS_PER_MS;
    int64_t before = ast_mono_ns();
    assert_string_equal(rig_run_as(r, "alice", "approve a|a"), "err:timeout");
    assert_true(ast_mono_ns() - before >= 30 * AST_NS_PER_MS);
    /* A flood of answers that do not count does not stretch the wait. */
    struct rig_call *c = ask_start(r, "alice", "approve a|a");
    const struct ast_msg *m = rig_seen(r, 1);
    for (int i = 0; i < 2000; i++)
        answer(r, m, "approve", "bob");
    assert_string_equal(rig_answer(c), "err:timeout");
}

static void unload_ends_the_wait(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = ask_start(r, "alice", "approve a|a");
    rig_until_parked(r, 1);
    rig_unload(r, c);
    assert_string_equal(rig_answer(c), "err:timeout"); /* the contract has no better word */
}

static void a_cancelled_call_ends_its_wait(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = ask_start(r, "alice", "approve a|a");
    rig_until_parked(r, 1);
    ast_call_cancel(c->call);
    rig_wait(c);
    assert_int_equal(c->rc, AST_E_CANCELLED);
    rig_end(c);
}

/* Waiting people hold no permit: the capsule's key-value store goes on. */
static void a_pending_question_blocks_nobody(void **state)
{
    struct rig *r = *state;
    rig_pool(r, 8, /* pinned= */ false);
    struct rig_call *c[6];
    for (size_t i = 0; i < AST_ARRAY_LEN(c); i++) /* more than the four permits of the rig */
        c[i] = ask_start(r, "alice", "approve a|a");
    for (size_t i = 0; i < AST_ARRAY_LEN(c); i++)
        (void)rig_seen(r, i);
    assert_string_equal(rig_run_as(r, "alice", "set k v\nget k"), "ok\nsome:v");
    for (size_t i = 0; i < AST_ARRAY_LEN(c); i++)
        answer(r, rig_seen(r, i), "deny", "alice");
    for (size_t i = 0; i < AST_ARRAY_LEN(c); i++)
        assert_string_equal(rig_answer(c[i]), "denied");
}

static void texts_are_limited_and_cleaned(void **state)
{
    struct rig *r = *state;
    r->host.approval_limit_ns = 1;
    assert_string_equal(rig_run_as(r, "alice", "approve-long 257 1"), "err:invalid-input");
    assert_int_equal(ask_seen(r), 0);
    assert_string_equal(rig_run_as(r, "alice", "approve-long 256 1025"), "err:timeout");
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    RIG_OK(ast_json_parse(rig_seen(r, 0)->body, &doc, &err));
    assert_int_equal(ast_json_str_or(ast_json_root(doc), AST_STR("action"), AST_STR_NONE).n, 256);
    assert_int_equal(ast_json_str_or(ast_json_root(doc), AST_STR("resource"), AST_STR_NONE).n,
                     2 * 1024);
    (void)rig_run_as(r, "alice", "approve \\t a\\nb |\\r\\n c\\td\\n");
    assert_non_null(strstr(rig_seen(r, 1)->body.p, "\"action\":\"ab\",\"resource\":\"cd\""));
}

RIG_MAIN(ASK_TEST(c05_41_c09_21_the_request_is_published_exactly),
         ASK_TEST(c09_21_every_other_word_denies),
         ASK_TEST(c05_41_c09_22_a_session_allowance_answers_without_a_message),
         ASK_TEST(c05_42_a_command_with_more_in_it_is_asked_for),
         ASK_TEST(c05_43_an_allowance_is_one_principal_s_and_ends_with_the_session),
         ASK_TEST(c05_43_a_session_that_ends_while_asking_keeps_nothing),
         ASK_TEST(approve_always_outlives_the_session_and_the_daemon),
         ASK_TEST(c05_41_a_workspace_bounds_its_allowances),
         ASK_TEST(an_empty_action_and_a_hook_leave_no_allowance),
         ASK_TEST(only_an_authorised_answer_counts), ASK_TEST(a_capsule_does_not_answer_itself),
         ASK_TEST(another_payload_is_an_error), ASK_TEST(c05_44_nobody_answers),
         ASK_TEST(unload_ends_the_wait), ASK_TEST(a_cancelled_call_ends_its_wait),
         ASK_TEST(a_pending_question_blocks_nobody), ASK_TEST(texts_are_limited_and_cleaned))
