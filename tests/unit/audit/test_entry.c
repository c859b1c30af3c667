#include "fixture.h"

#include "base/banned.h"

#define ACTION                                                                                     \
    AST_STR("{\"type\":\"admin_request\",\"method\":\"GetStatus\",\"required_capability\":"        \
            "\"system:status\"}")
#define PROOF                                                                                      \
    AST_STR("{\"type\":\"system\",\"reason\":\"policy allow: alice holds system:status\"}")
#define SIGNED_HEX_HEAD "99999999888847778666555555555555a535576900000000"

/* The entry of spec 09 §12.1. */
static struct ast_audit_entry known(const struct ast_key *key)
{
    struct ast_audit_entry e = { .time_ns = INT64_C(1767323045) * AST_NS_PER_SEC,
                                 .action = ACTION,
                                 .authorization = PROOF,
                                 .outcome = AST_STR("{\"status\":\"success\",\"details\":null}"),
                                 .is_success = true };
    assert_true(ast_uuid_parse(AST_STR("99999999-8888-4777-8666-555555555555"), &e.id));
    assert_int_equal(ast_principal_parse(AST_STR("alice"), &e.principal, NULL), AST_OK);
    memcpy(e.key, key->public_key, sizeof e.key);
    return e;
}

static void check_hash(struct ast_str bytes, const char *expected)
{
    char hex[AST_BLAKE3_HEX];
    ast_blake3_hex(bytes, hex);
    assert_string_equal(hex, expected);
}

static void c09_01_the_known_answers_reproduce(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(4096), text = AST_BUF_INIT(4096);
    struct ast_audit_entry e = known(&f->key), again;
    char hex[2 * 64 + 1];
    char head[49];

    assert_int_equal(ast_audit_entry_signed(&e, &bytes, NULL), AST_OK);
    assert_int_equal(bytes.n, 266);
    ast_hex_encode(bytes.p, 24, head);
    assert_string_equal(head, SIGNED_HEX_HEAD);
    assert_memory_equal(bytes.p + 40, "\xff\x05\0\0\0alice{\"type\"", 17);
    check_hash(ast_buf_view(&bytes),
               "611902d65652f0d9a69b5c539241c6da2c054d3fd2a07efc2e24fe9776789be9");
    ast_key_sign(&f->key, ast_buf_view(&bytes), e.signature);

    assert_int_equal(ast_audit_entry_write(&e, &text, NULL), AST_OK);
    assert_string_equal(
        text.p,
        "{\"id\":\"99999999-8888-4777-8666-555555555555\",\"timestamp\":\"2026-01-02T03:04:05Z\","
        "\"session_id\":\"00000000-0000-0000-0000-000000000000\",\"principal\":\"alice\","
        "\"action\":{\"type\":\"admin_request\",\"method\":\"GetStatus\",\"required_capability\":"
        "\"system:status\"},\"authorization\":{\"type\":\"system\",\"reason\":\"policy allow: alice "
        "holds system:status\"},\"outcome\":{\"status\":\"success\",\"details\":null},"
        "\"previous_hash\":\"0000000000000000000000000000000000000000000000000000000000000000\","
        "\"runtime_key\":\"A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=\",\"signature\":"
        "\"JxHDevOYlLnkE0iGM/iyvs39wagsjrtvzgIUncP68WjK84e+NrNohwnda2Fdjs9XIfCX1zxGoz/"
        "FGPNaKbAtAw==\"}");

    assert_int_equal(ast_audit_entry_read(ast_buf_view(&text), &again, NULL), AST_OK);
    ast_hex_encode(again.signature, 64, hex);
    assert_memory_equal(again.signature, e.signature, 64);
    assert_true(ast_str_eq(again.action, ACTION));
    assert_true(ast_audit_entry_is_sealed_right(&again)); /* form 1 has no seal */
}

static void c09_01_a_failure_of_the_system_chain_has_its_known_hash(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(4096);
    struct ast_audit_entry e = known(&f->key);

    e.principal = (struct ast_principal){ 0 };
    e.is_success = false;
    assert_int_equal(ast_audit_entry_signed(&e, &bytes, NULL), AST_OK);
    check_hash(ast_buf_view(&bytes),
               "47138ea7b5d4645b271c2f0c90f221d1768cf61a092b4294d948990adf1a5cb2");
    check_hash(AST_STR("{\"path\":\"/a\"}"),
               "6ef88056fa2ac7e8042411dcc27b344ed83f5cf47a70bfc74e04306943d759c9");
}

#define H64 "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define U   "11111111-2222-4333-8444-555555555555"
#define T(lit)                                                                                     \
    {                                                                                              \
        .text = { lit, sizeof(lit) - 1 }                                                           \
    }
#define N(v)                                                                                       \
    {                                                                                              \
        .number = v                                                                                \
    }

static void c09_28_each_action_has_its_fields_in_order(void **state)
{
    /* clang-format off */
    static const struct { enum ast_audit_action action; struct ast_audit_value v[4]; const char *text; } cases[] = {
#define C(name, fields, ...) { AST_AUDIT_ACTION_##name, { __VA_ARGS__ }, "{\"type\":\"" #name "\"" fields "}" }
        C(mcp_tool_call, ",\"server\":\"s\",\"tool\":\"t\",\"args_hash\":\"" H64 "\"", T("s"), T("t"), T(H64)),
        C(capsule_tool_call, ",\"capsule_id\":\"c\",\"tool\":\"t\",\"args_hash\":\"" H64 "\"", T("c"), T("t"), T(H64)),
        C(mcp_resource_read, ",\"server\":\"s\",\"uri\":\"u\"", T("s"), T("u")),
        C(mcp_prompt_get, ",\"server\":\"s\",\"name\":\"n\"", T("s"), T("n")),
        C(mcp_elicitation, ",\"request_id\":\"r\",\"schema\":\"s\"", T("r"), T("s")),
        C(mcp_url_elicitation, ",\"url\":\"http://x\",\"interaction_type\":\"i\"", T("http://x"), T("i")),
        C(mcp_sampling, ",\"model\":\"m\",\"prompt_tokens\":7", T("m"), N(7)),
        C(file_read, ",\"path\":\"/a\"", T("/a")),
        C(file_write, ",\"path\":\"/a\",\"content_hash\":\"" H64 "\"", T("/a"), T(H64)),
        C(file_delete, ",\"path\":\"/a\"", T("/a")),
        C(capability_created, ",\"token_id\":\"" U "\",\"resource\":\"r\",\"permissions\":[\"read\",\"write\"],\"scope\":\"once\"",
          T(U), T("r"), T("read write"), T("once")),
        C(capability_revoked, ",\"token_id\":\"" U "\",\"reason\":\"r\"", T(U), T("r")),
        C(approval_requested, ",\"action_type\":\"a\",\"resource\":\"r\"", T("a"), T("r")),
        C(approval_granted, ",\"action\":\"a\",\"resource\":null,\"scope\":\"always\"", T("a"), { .number = 0 }, T("always")),
        C(approval_denied, ",\"action\":\"a\",\"reason\":null", T("a")),
        C(session_started, ",\"user_id\":[3,161,7,191,243,206,16,190],\"platform\":\"p\"", T("03a107bff3ce10be"), T("p")),
        C(session_ended, ",\"reason\":\"r\",\"duration_secs\":18446744073709551615", T("r"), N(UINT64_MAX)),
        C(context_summarized, ",\"evicted_count\":1,\"tokens_freed\":2", N(1), N(2)),
        C(llm_request, ",\"model\":\"m\",\"input_tokens\":1,\"output_tokens\":2", T("m"), N(1), N(2)),
        C(server_started, ",\"name\":\"capsule:x\",\"transport\":\"stdio\",\"binary_hash\":null", T("capsule:x"), T("stdio")),
        C(server_stopped, ",\"name\":\"n\",\"reason\":\"user disconnect\"", T("n"), T("user disconnect")),
        C(elicitation_sent, ",\"request_id\":\"r\",\"server\":\"s\",\"elicitation_type\":\"e\"", T("r"), T("s"), T("e")),
        C(elicitation_received, ",\"request_id\":\"r\",\"action\":\"a\"", T("r"), T("a")),
        C(security_violation, ",\"violation_type\":\"v\",\"details\":\"d\"", T("v"), T("d")),
        C(sub_agent_spawned, ",\"parent_session_id\":\"p\",\"child_session_id\":\"c\",\"description\":\"d\"", T("p"), T("c"), T("d")),
        C(config_reloaded, ""),
        C(admin_request, ",\"method\":\"m\",\"required_capability\":\"c\"", T("m"), T("c")),
        C(admin_request, ",\"method\":\"m\",\"required_capability\":\"c\",\"target_principal\":\"bob\",\"params\":{\"a\":1.0,\"b\":[]}",
          T("m"), T("c"), T("bob"), T("{\"b\": [], \"a\": 1.0}")),
#undef C
    };
    /* clang-format on */
    bool seen[AST_AUDIT_ACTION_COUNT] = { false };
    (void)state;

    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(4096);
        struct ast_err err = AST_ERR_INIT;
        if (ast_audit_object_write(ast_audit_action_shape(cases[i].action), cases[i].v, &out, &err))
            fail_msg("%s: %s", cases[i].text, err.msg);
        assert_string_equal(out.p, cases[i].text);
        seen[cases[i].action] = true;
    }
    for (size_t i = 0; i < AST_AUDIT_ACTION_COUNT; i++)
        assert_true(seen[i]);
}

static void c09_28_each_proof_and_outcome_has_its_text(void **state)
{
    /* clang-format off */
    static const struct { enum ast_audit_proof proof; struct ast_audit_value v[4]; const char *text; } cases[] = {
        { AST_AUDIT_PROOF_user, { T("0001020304050607"), T("m") }, "{\"type\":\"user\",\"user_id\":[0,1,2,3,4,5,6,7],\"message_id\":\"m\"}" },
        { AST_AUDIT_PROOF_capability, { T(U), T(H64) }, "{\"type\":\"capability\",\"token_id\":\"" U "\",\"token_hash\":\"" H64 "\"}" },
        { AST_AUDIT_PROOF_user_approval, { T("0001020304050607") }, "{\"type\":\"user_approval\",\"user_id\":[0,1,2,3,4,5,6,7],\"approval_entry_id\":null}" },
        { AST_AUDIT_PROOF_not_required, { T("r") }, "{\"type\":\"not_required\",\"reason\":\"r\"}" },
        { AST_AUDIT_PROOF_system, { T("r") }, "{\"type\":\"system\",\"reason\":\"r\"}" },
        { AST_AUDIT_PROOF_denied, { T("r") }, "{\"type\":\"denied\",\"reason\":\"r\"}" },
    };
    static const struct { bool fails; struct ast_str text; const char *json; } outcomes[] = {
        { false, { NULL, 0 }, "{\"status\":\"success\",\"details\":null}" },
        { false, { "d", 1 }, "{\"status\":\"success\",\"details\":\"d\"}" },
        { true, { "no", 2 }, "{\"status\":\"failure\",\"error\":\"no\"}" },
    };
    /* clang-format on */
    (void)state;

    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(4096);
        assert_int_equal(
            ast_audit_object_write(ast_audit_proof_shape(cases[i].proof), cases[i].v, &out, NULL),
            AST_OK);
        assert_string_equal(out.p, cases[i].text);
    }
    for (size_t i = 0; i < AST_ARRAY_LEN(outcomes); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(4096);
        assert_int_equal(ast_audit_outcome_write(outcomes[i].fails, outcomes[i].text, &out, NULL),
                         AST_OK);
        assert_string_equal(out.p, outcomes[i].json);
    }
}

static void c09_29_params_are_sorted_and_text_is_escaped_by_rule(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(4096);
    struct ast_audit_value v[4] = {
        { .text = AST_STR("a/b\"\\\b\t\n\f\r\x01\x1f\x7f\xc3\xa9") },
        { .text = AST_STR("c") },
        { .text = AST_STR_NONE },
        { .text = AST_STR("{ \"z\": {\"b\":1,\"a\":1e3}, \"A\": null, \"\xc3\xa9\": -0.5 }") },
    };
    (void)state;
    assert_int_equal(ast_audit_object_write(ast_audit_action_shape(AST_AUDIT_ACTION_admin_request),
                                            v, &out, NULL),
                     AST_OK);
    assert_string_equal(out.p,
                        "{\"type\":\"admin_request\",\"method\":\"a/b\\\"\\\\\\b\\t\\n\\f\\r"
                        "\\u0001\\u001f\x7f\xc3\xa9\",\"required_capability\":\"c\","
                        "\"params\":{\"A\":null,\"z\":{\"a\":1000.0,\"b\":1},\"\xc3\xa9\":-0.5}}");
}

static void c09_28_wrong_values_are_refused(void **state)
{
    static const struct {
        enum ast_audit_action action;
        struct ast_audit_value v[4];
    } cases[] = {
        { AST_AUDIT_ACTION_file_read, { { .number = 1 } } }, /* a text is missing */
        { AST_AUDIT_ACTION_file_write, { T("/a"), T("abc") } },
        { AST_AUDIT_ACTION_file_write, { T("/a"), T("00112233445566778899AABBCCDDEEFF" H64) } },
        { AST_AUDIT_ACTION_capability_revoked, { T("no uuid"), T("r") } },
        { AST_AUDIT_ACTION_approval_granted, { T("a"), T("r"), T("forever") } },
        { AST_AUDIT_ACTION_session_started, { T("0011"), T("p") } },
        { AST_AUDIT_ACTION_admin_request, { T("m"), T("c"), T("t"), T("{broken") } },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(4096);
        assert_int_equal(
            ast_audit_object_write(ast_audit_action_shape(cases[i].action), cases[i].v, &out, NULL),
            AST_E_INVALID);
    }
}

static void c09_26_a_damaged_envelope_is_refused_with_its_member(void **state)
{
    static const struct {
        const char *from, *to, *says;
    } cases[] = {
        { "\"id\":\"9999", "\"id\":\"zzzz", "invalid id" },
        { "2026-01-02T", "2026-13-02T", "invalid timestamp" },
        { "\"session_id\":\"0", "\"session_id\":\"x", "invalid session_id" },
        { "\"alice\"", "\"al/ce\"", "invalid principal" },
        { "\"alice\"", "7", "invalid principal" },
        { "\"action\":{\"type\"", "\"action\":{\"kind\"", "invalid action" },
        { "\"authorization\":{\"type\"", "\"authorization\":{\"kind\"", "invalid authorization" },
        { "\"status\":\"success\"", "\"status\":\"perhaps\"", "invalid outcome" },
        { "\"status\":\"success\"", "\"status\":\"failure\"",
          "invalid outcome" }, /* no error text */
        { "\"previous_hash\":\"00", "\"previous_hash\":\"0", "invalid previous_hash" },
        { "VMbg=", "VMbg-", "invalid runtime_key" },
        { "VMbg=", "VMbh=", "invalid runtime_key" }, /* bits behind the end */
        { "AtAw==", "AtAw=", "invalid signature" },
        { "{\"id\"", "{\"id\":\"99999999-8888-4777-8666-555555555555\",\"id\"", "id twice" },
        { "{\"id\"", "[\"id\"", "not JSON" },
        { "\"signature\"", "\"autograph\"", "invalid signature" },
    };
    struct fixture *f = *state;
    struct ast_audit_entry e = known(&f->key), got;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(4096), bytes = AST_BUF_INIT(4096);

    assert_int_equal(ast_audit_entry_signed(&e, &bytes, NULL), AST_OK);
    ast_key_sign(&f->key, ast_buf_view(&bytes), e.signature);
    assert_int_equal(ast_audit_entry_write(&e, &text, NULL), AST_OK);
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf bad = AST_BUF_INIT(8192);
        struct ast_err err = AST_ERR_INIT;
        size_t at = ast_str_find(ast_buf_view(&text), ast_str_c(cases[i].from));
        assert_int_not_equal(at, AST_STR_NPOS);
        (void)ast_buf_add(&bad, ast_str_first(ast_buf_view(&text), at));
        (void)ast_buf_add(&bad, ast_str_c(cases[i].to));
        (void)ast_buf_add(&bad, ast_str_from(ast_buf_view(&text), at + strlen(cases[i].from)));
        assert_int_equal(ast_audit_entry_read(ast_buf_view(&bad), &got, &err), AST_E_CORRUPT);
        if (!strstr(err.msg, cases[i].says))
            fail_msg("%s: %s", cases[i].to, err.msg);
    }
}

static void c09_26_unknown_members_and_white_space_change_nothing(void **state)
{
    struct fixture *f = *state;
    struct ast_audit_entry e = known(&f->key), got;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(4096), loose = AST_BUF_INIT(8192);

    assert_int_equal(ast_audit_entry_write(&e, &text, NULL), AST_OK);
    (void)ast_buf_add_lit(&loose, " { \"x\" : [ {\"id\":\"}\"} , \"\\\"\" ] , \"n\":1 ,\n");
    (void)ast_buf_add(&loose, ast_str_from(ast_buf_view(&text), 1));
    (void)ast_buf_add_lit(&loose, " ");
    assert_int_equal(ast_audit_entry_read(ast_buf_view(&loose), &got, NULL), AST_OK);
    assert_true(ast_str_eq(got.action, ACTION));
    assert_true(ast_str_eq(got.authorization, PROOF));
    assert_true(ast_uuid_eq(&got.id, &e.id));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        AUDIT_TEST(c09_01_the_known_answers_reproduce),
        AUDIT_TEST(c09_01_a_failure_of_the_system_chain_has_its_known_hash),
        AUDIT_TEST(c09_28_each_action_has_its_fields_in_order),
        AUDIT_TEST(c09_28_each_proof_and_outcome_has_its_text),
        AUDIT_TEST(c09_29_params_are_sorted_and_text_is_escaped_by_rule),
        AUDIT_TEST(c09_28_wrong_values_are_refused),
        AUDIT_TEST(c09_26_a_damaged_envelope_is_refused_with_its_member),
        AUDIT_TEST(c09_26_unknown_members_and_white_space_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
