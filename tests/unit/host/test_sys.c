/* astrid:sys: configuration, caller, log target, clocks, sleep, randomness, capabilities. */
#include "rig.h"

#include "base/banned.h"

static const struct ast_host_pair base_config[] = {
    { { "ASTRID_SOCKET_PATH", 18 }, { "/run/s.sock", 11 } },
    { { "empty", 5 }, { "", 0 } },
    { { "model", 5 }, { "small", 5 } },
    { { "url", 3 }, { "http://base", 11 } },
};
static const struct ast_str declared[] = { { "model", 5 }, { "tags", 4 }, { "url", 3 } };
static const struct ast_str secrets[] = { { "API_KEY", 7 } };

static void with_config(struct rig *r)
{
    r->env.config = base_config;
    r->env.config_count = AST_ARRAY_LEN(base_config);
    r->env.declared = declared;
    r->env.declared_count = AST_ARRAY_LEN(declared);
    r->env.secret_keys = secrets;
    r->env.secret_key_count = AST_ARRAY_LEN(secrets);
}

static void write_overlay(struct rig *r, const char *principal, struct ast_str json)
{
    AST_AUTO(ast_cfree) char *dir = ast_home_path(&r->home, "home/%s/.config/env", principal);
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, RIG_CAPSULE ".env.json");
    RIG_OK(ast_fs_mkdirs(dir, 0700, &err));
    RIG_OK(ast_fs_write_atomic(path, json, 0600, 0, &err));
}

static void c05_09_base_config_is_returned(void **state)
{
    struct rig *r = *state;
    with_config(r);
    assert_string_equal(
        rig_run(r, "config ASTRID_SOCKET_PATH\nconfig model\nconfig empty\nconfig nope\nconfig "),
        "some:/run/s.sock\nsome:small\nsome:\nnone\nnone");
}

static void c05_11_overlay_of_another_principal_wins_and_changes_are_seen(void **state)
{
    struct rig *r = *state;
    with_config(r);
    write_overlay(r, "alice",
                  AST_STR("{\"url\":\"http://alice\",\"tags\":[\"a\",1],\"model\":\"\"}"));
    assert_string_equal(
        rig_run_as(r, "alice", "config url\nconfig tags\nconfig model\nconfig empty"),
        "some:http://alice\nsome:[\"a\",1]\nsome:\nsome:");
    write_overlay(r, "alice", AST_STR("{\"url\":\"http://alice/2\"}"));
    assert_string_equal(rig_run_as(r, "alice", "config url\nconfig tags\nconfig model"),
                        "some:http://alice/2\nnone\nsome:small");
    /* Another principal and the owner do not see it. */
    assert_string_equal(rig_run_as(r, "bob", "config url"), "some:http://base");
    write_overlay(r, "default", AST_STR("{\"url\":\"http://owner-file\"}"));
    assert_string_equal(rig_run_as(r, "default", "config url"), "some:http://base");
}

static void c05_11_overlay_sets_declared_keys_only(void **state)
{
    struct rig *r = *state;
    with_config(r);
    write_overlay(
        r, "alice",
        AST_STR(
            "{\"ASTRID_SOCKET_PATH\":\"/evil\",\"empty\":\"x\",\"API_KEY\":\"k\",\"url\":\"u\"}"));
    assert_string_equal(
        rig_run_as(r, "alice",
                   "config ASTRID_SOCKET_PATH\nconfig empty\nconfig API_KEY\nconfig url"),
        "some:/run/s.sock\nsome:\nnone\nsome:u");
}

static void c05_12_unusable_env_files_are_ignored(void **state)
{
    struct rig *r = *state;
    with_config(r);
    static const char *const bad[] = { "{", "[1]", "\"x\"", "{\"url\":\"a\"}}", "" };
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++) {
        write_overlay(r, "alice", ast_str_c(bad[i]));
        assert_string_equal(rig_run_as(r, "alice", "config url"), "some:http://base");
    }
    /* At the limit it counts, one byte above it does not. */
    for (size_t over = 0; over < 2; over++) {
        AST_AUTO(ast_buf_done) struct ast_buf big = AST_BUF_INIT(HOST_OVERLAY_MAX_BYTES + 1);
        (void)ast_buf_add_lit(&big, "{\"url\":\"u\"");
        while (big.n < HOST_OVERLAY_MAX_BYTES + over - 1)
            (void)ast_buf_add_byte(&big, ' ');
        (void)ast_buf_add_byte(&big, '}');
        write_overlay(r, "alice", ast_buf_view(&big));
        assert_string_equal(rig_run_as(r, "alice", "config url"),
                            over ? "some:http://base" : "some:u");
    }
    /* A directory and a FIFO in its place. */
    AST_AUTO(ast_cfree)
    char *path = ast_home_path(&r->home, "home/alice/.config/env/" RIG_CAPSULE ".env.json");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_string_equal(rig_run_as(r, "alice", "config url"), "some:http://base");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_string_equal(rig_run_as(r, "alice", "config url"), "some:http://base");
}

static void c05_13_c09_44_secrets_come_from_their_files_only(void **state)
{
    struct rig *r = *state;
    with_config(r);
    static const struct ast_host_pair leaky[] = { { { "API_KEY", 7 }, { "from-config", 11 } } };
    r->env.config = leaky;
    r->env.config_count = 1;
    assert_string_equal(rig_run_as(r, "alice", "config API_KEY"), "none");
    RIG_OK(ast_secrets_set(r->home.root, AST_SECRET_SCOPE_HOST, AST_STR(RIG_CAPSULE),
                           AST_STR("API_KEY"), AST_STR("shared"), &err));
    assert_string_equal(rig_run_as(r, "alice", "config API_KEY"), "some:shared");
    RIG_OK(ast_secrets_set(r->home.root, AST_STR("alice"), AST_STR(RIG_CAPSULE), AST_STR("API_KEY"),
                           AST_STR("own"), &err));
    assert_string_equal(rig_run_as(r, "alice", "config API_KEY"), "some:own");
    assert_string_equal(rig_run_as(r, "bob", "config API_KEY"), "some:shared");
    assert_string_equal(rig_run(r, "config API_KEY"), "some:shared");
}

static void caller_is_the_causing_message(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "caller"), "none||");
    const char *got = rig_run_as(r, "alice", "caller");
    assert_memory_equal(got, "alice|12345678-0000-0000-0000-000000000000|20", 45);
    assert_true(ast_str_ends(ast_str_c(got), AST_STR("+00:00")));
    got = rig_run_as(r, "", "caller");
    assert_memory_equal(got, "none|12345678-", 14);
}

static void c05_15_random_bytes_at_and_above_the_limit(void **state)
{
    assert_string_equal(
        rig_run(*state, "random 4096\nrandom 4097\nrandom 0\nrandom 18446744073709551615"),
        "4096\nerr:too-large\n0\nerr:too-large");
}

static void clocks_run_forward(void **state)
{
    assert_string_equal(rig_run(*state, "clock\nclock"), "ok\nok");
}

static void c05_16_sleep_has_a_limit_and_ends_at_unload(void **state)
{
    struct rig *r = *state;
    int64_t before = ast_mono_ns();
    assert_string_equal(rig_run(r, "sleep 60000000001\nsleep 0\nsleep 2000000"),
                        "err:too-large\nok\nok");
    assert_true(ast_mono_ns() - before >= 2000000);

    struct rig_call *c = rig_start(r, "sleep 60000000000");
    rig_until_parked(r, 1);
    ast_call_wake(c->call); /* without a reason: it sleeps on */
    rig_until_parked(r, 1);
    rig_unload(r, c);
    assert_string_equal(rig_answer(c), "err:cancelled");
}

static void sleep_of_a_cancelled_call_unwinds(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "sleep 60000000000");
    rig_until_parked(r, 1);
    ast_call_cancel(c->call);
    rig_wait(c);
    assert_int_equal(c->rc, AST_E_CANCELLED);
    rig_end(c);
}

static void blocking_calls_count_as_progress(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "clock\nconfig x\nrandom 1");
    assert_int_equal(atomic_load(&r->env.progress), 0);
    (void)rig_run(r, "sleep 0\nset k v\nsub in.x\nrecv 0 0");
    assert_int_equal(atomic_load(&r->env.progress), 3);
}

static const char *const names[] = { "allow_persistent",
                                     "allow_prompt_injection",
                                     "fs_read",
                                     "fs_write",
                                     "host_process",
                                     "identity",
                                     "kv",
                                     "net",
                                     "net_bind",
                                     "net_connect",
                                     "uplink" };

static void c05_17_enumerate_is_sorted_and_agrees_with_checks(void **state)
{
    struct rig *r = *state;
    static const struct ast_str held[] = { { "fs_read", 7 }, { "net", 3 }, { "uplink", 6 } };
    r->env.held = held;
    r->env.held_count = AST_ARRAY_LEN(held);
    assert_string_equal(rig_run(r, "caps"), "fs_read,net,uplink");
    char uuid[AST_UUID_TEXT], line[160];
    (void)ast_uuid_format(&r->env.uuid, uuid);
    for (size_t i = 0; i < AST_ARRAY_LEN(names); i++) {
        bool want = false;
        for (size_t k = 0; k < AST_ARRAY_LEN(held); k++)
            want |= ast_str_eq(held[k], ast_str_c(names[i]));
        (void)snprintf(line, sizeof line, "check %s %s", uuid, names[i]);
        assert_string_equal(rig_run(r, line), want ? "true" : "false");
    }
}

static void c05_18_unknown_or_malformed_uuids_hold_nothing(void **state)
{
    struct rig *r = *state;
    static const struct ast_str held[] = { { "net", 3 } };
    r->env.held = held;
    r->env.held_count = 1;
    char uuid[AST_UUID_TEXT], line[160];
    (void)ast_uuid_format(&r->env.uuid, uuid);
    (void)snprintf(line, sizeof line, "check %s net\ncheck %s root\ncheck %s ", uuid, uuid, uuid);
    assert_string_equal(rig_run(r, line), "true\nfalse\nfalse");
    assert_string_equal(
        rig_run(r,
                "check 00000000-0000-4000-8000-000000000000 net\ncheck nonsense net\ncheck  net"),
        "false\nfalse\nfalse");
}

static void lifecycle_hooks_have_no_registry_and_no_capabilities(void **state)
{
    struct rig *r = *state;
    static const struct ast_str held[] = { { "net", 3 } };
    r->env.held = held;
    r->env.held_count = 1;
    r->env.is_lifecycle = true;
    assert_string_equal(rig_run(r, "caps\ncheck 00000000-0000-4000-8000-000000000000 net"),
                        "\nerr:registry-unavailable");
}

static void ready_is_for_run_loops(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "ready"), "ok");
    assert_int_equal(r->ready, 0);
}

RIG_MAIN(RIG_TEST(c05_09_base_config_is_returned),
         RIG_TEST(c05_11_overlay_of_another_principal_wins_and_changes_are_seen),
         RIG_TEST(c05_11_overlay_sets_declared_keys_only),
         RIG_TEST(c05_12_unusable_env_files_are_ignored),
         RIG_TEST(c05_13_c09_44_secrets_come_from_their_files_only),
         RIG_TEST(caller_is_the_causing_message),
         RIG_TEST(c05_15_random_bytes_at_and_above_the_limit), RIG_TEST(clocks_run_forward),
         RIG_TEST(c05_16_sleep_has_a_limit_and_ends_at_unload),
         RIG_TEST(sleep_of_a_cancelled_call_unwinds), RIG_TEST(blocking_calls_count_as_progress),
         RIG_TEST(c05_17_enumerate_is_sorted_and_agrees_with_checks),
         RIG_TEST(c05_18_unknown_or_malformed_uuids_hold_nothing),
         RIG_TEST(lifecycle_hooks_have_no_registry_and_no_capabilities),
         RIG_TEST(ready_is_for_run_loops))
