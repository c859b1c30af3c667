/* astrid:uplink: registrations of a load, and what platform users say as prompts of their principal. */
#include "rig.h"

#include "store/identity.h"

#include "base/banned.h"

/* Registers one and gives its id, free() it. */
static char *registered(struct rig *r, const char *line)
{
    char *id = ast_str_dup(ast_str_c(rig_run(r, line)));
    struct ast_uuid u;
    assert_true(ast_uuid_parse(ast_str_c(id), &u));
    return id;
}

#define ASK(r, want, ...)                                                                          \
    do {                                                                                           \
        char script_[512];                                                                         \
        (void)snprintf(script_, sizeof script_, __VA_ARGS__);                                      \
        assert_string_equal(rig_run((r), script_), (want));                                        \
    } while (0)

static void linked(struct rig *r, const char *name, const char *platform, const char *user)
{
    AST_AUTO(ast_identity_op_done) struct ast_identity_op op = { .replace = false };
    RIG_OK(ast_identity_prepare_seed(&op, ast_str_c(name), ast_str_c(name), ast_str_c(platform),
                                     ast_str_c(user), AST_STR("admin"), &err));
    RIG_OK(ast_store_run(r->store, &op.op, &err));
}

static void c05_47_the_33rd_is_over_the_quota(void **state)
{
    struct rig *r = *state;
    r->env.uplink = true;
    ASK(r, "32 err:quota", "registern 33 chat");
    ASK(r, "err:quota", "register 0 chat 00"); /* also for a name that is there */
}

static void c05_47_a_duplicate_is_invalid(void **state)
{
    struct rig *r = *state;
    r->env.uplink = true;
    free(registered(r, "register 0 chat bot"));
    ASK(r, "err:invalid-input\nerr:invalid-input", "register 3 chat bot\nregister 0 CHAT bot");
    free(registered(r, "register 1 chat Bot"));
    free(registered(r, "register 2 mail bot"));
    ASK(r, "err:invalid-input\nerr:invalid-input", "register 0 chat  \nregister 0  bot");
}

static void registering_needs_the_capability_and_a_proper_id(void **state)
{
    struct rig *r = *state;
    ASK(r, "err:capability-denied\nerr:capability-denied", "register 0 chat bot\nsend x y z");
    r->env.uplink = r->env.is_lifecycle = true;
    ASK(r, "err:capability-denied\nerr:capability-denied", "register 0 chat bot\nsend x y z");
    r->env.is_lifecycle = false;
    r->env.capsule_id = AST_STR("probe-");
    ASK(r, "err:unknown:uplink source: invalid capsule id 'probe-'", "register 0 chat bot");
}

static void instances_share_the_registrations_of_their_load(void **state)
{
    struct rig *r = *state;
    r->env.uplink = true;
    rig_pool(r, 2, /* pinned= */ false);
    AST_AUTO(ast_cfree) char *id = registered(r, "register 0 chat bot");
    AST_AUTO(ast_msg_unref) struct ast_msg *m = rig_msg("cause.x", "{}", "bob");
    char script[128];
    (void)snprintf(script, sizeof script, "send %s 1 hi", id);
    assert_string_equal(rig_answer(rig_start_for(r, m, NULL, script)), "err:quota"); /* known */
}

static void descriptors_say_what_was_registered(void **state)
{
    struct rig *r = *state;
    r->env.uplink = true;
    AST_AUTO(ast_cfree) char *id = registered(r, "register 3 CHAT My Bot");
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(4096);
    struct ast_jw w = AST_JW_INIT(&out);
    ast_jw_array(&w);
    ast_host_uplinks_write(&r->env, &w);
    ast_jw_end(&w);
    char want[512];
    (void)snprintf(want, sizeof want,
                   "[{\"id\":\"%s\",\"name\":\"My Bot\",\"platform\":\"chat\",\"source\":{\"wasm\":"
                   "{\"capsule_id\":\"probe\"}},\"capabilities\":{\"can_receive\":true,"
                   "\"can_send\":false,\"can_approve\":false,\"can_elicit\":false,"
                   "\"supports_rich_media\":false,\"supports_threads\":false,"
                   "\"supports_buttons\":false},\"profile\":\"bridge\",\"registered_at\":\"",
                   id);
    assert_true(ast_str_starts(ast_buf_view(&out), ast_str_c(want)));
    assert_true(ast_str_ends(ast_buf_view(&out), AST_STR("Z\",\"metadata\":{}}]")));
}

static void what_a_linked_user_says_is_a_prompt_of_its_principal(void **state)
{
    struct rig *r = *state;
    r->env.uplink = r->env.has_inbound = true;
    linked(r, "alice", "chat", "12345");
    AST_AUTO(ast_cfree) char *id = registered(r, "register 0 Chat bot");
    ASK(r, "false\nfalse\ntrue", "send %s 999 hi\nsend %s a/b hi\nsend %s 12345 hello \"you\"", id,
        id, id);
    const struct ast_msg *m = rig_seen(r, 0);
    assert_str(m->topic, "user.v1.prompt");
    assert_str(m->principal, "alice");
    assert_str(m->publisher, "probe");
    assert_true(m->claimed);
    assert_true(ast_uuid_eq(&m->source_id, &r->env.uuid));
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    RIG_OK(ast_json_parse(m->body, &doc, &err));
    const struct ast_json *body = ast_json_root(doc), *context = ast_json_member(body, "context");
    assert_str(ast_json_str_or(body, AST_STR("type"), AST_STR_NONE), "user_input");
    assert_str(ast_json_str_or(body, AST_STR("text"), AST_STR_NONE), "hello \"you\"");
    assert_str(ast_json_str_or(body, AST_STR("session_id"), AST_STR_NONE), "default");
    assert_str(ast_json_str_or(context, AST_STR("uplink_id"), AST_STR_NONE), id);
    assert_str(ast_json_str_or(context, AST_STR("platform"), AST_STR_NONE), "chat");
    assert_str(ast_json_str_or(context, AST_STR("platform_user_id"), AST_STR_NONE), "12345");
}

static void sending_is_checked(void **state)
{
    struct rig *r = *state;
    r->env.uplink = true;
    linked(r, "alice", "chat", "1");
    AST_AUTO(ast_cfree) char *id = registered(r, "register 0 chat bot");
    ASK(r, "err:invalid-input\nerr:unknown-uplink\nerr:quota",
        "send nonsense 1 hi\nsend 3f0e7c1a-0000-4000-8000-000000000001 1 hi\nsend %s 1 hi", id);
    ASK(r, "err:invalid-input",
        "send 3f0e7c1a-0000-4000-8000-0000000000010000000000000000000000000000000 1 hi");
    r->env.has_inbound = true;
    ASK(r, "err:invalid-input\ntrue", "sendn %s 1 1048576\nsendn %s 1 1000000", id, id);
    atomic_store(&r->env.unloading, true);
    ASK(r, "false", "send %s 1 hi", id);
}

static void a_flood_is_held_by_the_principals_rate(void **state)
{
    struct rig *r = *state;
    r->env.uplink = r->env.has_inbound = true;
    linked(r, "alice", "chat", "1");
    linked(r, "bob", "chat", "2");
    AST_AUTO(ast_cfree) char *id = registered(r, "register 0 chat bot");
    struct ast_profile p = { .enabled = true,
                             .quotas = { 67108864, 300, 2000, 8, 1 << 20, 2000000000 } };
    char script[512];
    (void)snprintf(script, sizeof script, "sendn %s 1 1500\nsendn %s 1 1500\nsendn %s 2 1500", id,
                   id, id);
    assert_string_equal(rig_answer(rig_start_for(r, NULL, &p, script)), "true\nfalse\ntrue");
}

/* What the record keeps: one line a call. */
struct deeds {
    char text[1024];
    size_t n;
};

static void keep_deed(void *arg, const struct ast_host_deed *what)
{
    struct deeds *d = arg;
    assert_int_equal(what->args_hash.n, 64);
    assert_true(ast_principal_valid(what->principal));
    d->n += (size_t)snprintf(d->text + d->n, sizeof d->text - d->n,
                             AST_STR_FMT " " AST_STR_FMT "%s%s\n", AST_STR_ARG(what->fn),
                             AST_STR_ARG(what->error.p ? what->error : AST_STR("ok")),
                             what->is_denied ? " denied" : "", what->is_lookup ? " lookup" : "");
}

static void c05_47_each_call_is_told_to_the_record_with_how_it_ended(void **state)
{
    struct rig *r = *state;
    struct deeds deeds = { .n = 0 };
    r->host.on_deed = keep_deed;
    r->host.on_deed_arg = &deeds;
    ASK(r, "err:capability-denied", "register 0 chat bot");
    r->env.uplink = r->env.has_inbound = true;
    linked(r, "alice", "chat", "42");
    AST_AUTO(ast_cfree) char *id = registered(r, "register 0 chat bot");
    ASK(r, "err:invalid-input", "register 0 chat bot");
    ASK(r, "true\nfalse", "send %s 42 hello\nsend %s 43 hello", id, id);
    assert_string_equal(deeds.text, "uplink-register capability-denied denied\n"
                                    "uplink-register ok\n"
                                    "uplink-register invalid-input\n"
                                    "uplink-send ok lookup\n"
                                    "uplink-send not delivered lookup\n");
    r->host.on_deed = NULL;
}

RIG_MAIN(RIG_TEST(c05_47_each_call_is_told_to_the_record_with_how_it_ended),
         RIG_TEST(c05_47_the_33rd_is_over_the_quota), RIG_TEST(c05_47_a_duplicate_is_invalid),
         RIG_TEST(registering_needs_the_capability_and_a_proper_id),
         RIG_TEST(instances_share_the_registrations_of_their_load),
         RIG_TEST(descriptors_say_what_was_registered),
         RIG_TEST(what_a_linked_user_says_is_a_prompt_of_its_principal),
         RIG_TEST(sending_is_checked), RIG_TEST(a_flood_is_held_by_the_principals_rate))
