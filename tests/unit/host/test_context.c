/* For whom a run loop acts: the context of the last envelope (spec 05 §19.2, spec 04 §11). */
#include "rig.h"

#include "base/banned.h"

static void write_file(struct rig *r, const char *path, struct ast_str text)
{
    AST_AUTO(ast_cfree) char *full = ast_home_path(&r->home, "%s", path);
    AST_AUTO(ast_cfree)
    char *dir = ast_str_dup(ast_str_first(ast_str_c(full), (size_t)(strrchr(full, '/') - full)));
    RIG_OK(ast_fs_mkdirs(dir, 0700, &err));
    RIG_OK(ast_fs_write_atomic(full, text, 0600, 0, &err));
}

static void save_profile(struct rig *r, const char *principal, bool enabled, uint64_t ipc_bytes)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
    RIG_OK(ast_profile_parse(AST_STR(""), &p, &err));
    p->enabled = enabled;
    p->quotas.max_ipc_throughput_bytes = ipc_bytes;
    AST_AUTO(ast_cfree) char *dir = ast_home_path(&r->home, AST_HOME_PROFILES);
    AST_AUTO(ast_cfree)
    char *path = ast_home_path(&r->home, AST_HOME_PROFILES "/%s.toml", principal);
    RIG_OK(ast_fs_mkdirs(dir, 0700, &err));
    RIG_OK(ast_profile_save(path, p, &err));
    ast_policy_invalidate(r->policy, ast_str_c(principal));
}

static void c04_41_publishes_follow_the_last_envelope(void **state)
{
    struct rig *r = *state;
    struct rig_call *loop = rig_loop(
        r, "sub in.*\nready\npub out.a 0\nrecv 0 20000\npub out.a 1\nrecv 0 0\npub out.a 2\n"
           "recv 0 20000\npub out.a 3\nrecv 0 20000\npub out.a 4\ncaller");
    rig_until_ready(r, 1);
    rig_until_parked(r, 1);
    rig_publish(r, "in.x", "1", "alice");
    assert_str(rig_seen(r, 2)->principal, "alice");
    rig_until_parked(r, 1);
    rig_publish(r, "in.x", "1", ""); /* a system message: the owner (c04_42) */
    assert_str(rig_seen(r, 3)->principal, "default");
    rig_until_parked(r, 1);
    rig_publish(r, "in.x", "1", "bob");
    const char *got = rig_loop_answer(loop);
    assert_non_null(strstr(got, "\nbob|12345678-"));
    static const char *const want[] = { "default", "alice", "alice", "default", "bob" };
    for (size_t i = 0; i < AST_ARRAY_LEN(want); i++)
        assert_str(rig_seen(r, i)->principal, want[i]);
}

static void poll_installs_the_context_too(void **state)
{
    struct rig *r = *state;
    struct rig_call *loop =
        rig_loop(r, "sub in.*\nready\nrecv 0 20000\npoll 0\nrecv 0 20000\npub out.a 1");
    rig_until_parked(r, 1);
    rig_publish(r, "in.x", "1", "alice");
    rig_until_parked(r, 1);
    rig_publish(r, "in.x", "1", "bob");
    (void)rig_loop_answer(loop);
    assert_str(rig_seen(r, 0)->principal, "bob");
}

static void c05_34_store_and_overlay_follow_the_envelope(void **state)
{
    struct rig *r = *state;
    static const struct ast_str declared[] = { { "url", 3 } };
    r->env.declared = declared;
    r->env.declared_count = 1;
    write_file(r, "home/alice/.config/env/" RIG_CAPSULE ".env.json", AST_STR("{\"url\":\"a1\"}"));
    struct rig_call *loop = rig_loop(
        r,
        "sub in.*\nset k owner\nready\nrecv 0 20000\nget k\nset k alices\nconfig url\npub out.a 1\n"
        "recv 0 20000\nconfig url\npub out.a 2\nrecv 0 20000\nget k\nconfig url");
    rig_until_ready(r, 1); /* a write parks too: parked alone would not say where it waits */
    rig_publish(r, "in.x", "1", "alice");
    (void)rig_seen(r, 0);
    /* The same principal again, with another file (spec 05 §19.2, gap on cached overlays). */
    write_file(r, "home/alice/.config/env/" RIG_CAPSULE ".env.json", AST_STR("{\"url\":\"a2\"}"));
    rig_publish(r, "in.x", "1", "alice");
    (void)rig_seen(r, 1);
    rig_publish(r, "in.x", "1", "default");
    const char *got = rig_loop_answer(loop);
    const char *tail = "none";
    assert_non_null(strstr(got, "\nnone\nok\nsome:a1\nok\n"));
    assert_non_null(strstr(got, "\nsome:a2\nok\n"));
    assert_non_null(strstr(got, "\nsome:owner\nnone"));
    assert_true(ast_str_ends(ast_str_c(got), ast_str_c(tail)));
}

static void quotas_follow_the_envelope(void **state)
{
    struct rig *r = *state;
    save_profile(r, "alice", true, 20);
    struct rig_call *loop = rig_loop(
        r,
        "sub in.*\nready\nrecv 0 20000\npubn out.a 21\npubn out.a 20\nrecv 0 20000\npubn out.a 21");
    rig_until_parked(r, 1);
    rig_publish(r, "in.x", "1", "alice");
    rig_until_parked(r, 1);
    rig_publish(r, "in.x", "1", "bob");
    const char *got = rig_loop_answer(loop);
    assert_non_null(strstr(got, "\nerr:rate-limited\nok\n"));
    assert_true(ast_str_ends(ast_str_c(got), AST_STR("\nok")));
}

static void messages_of_disabled_principals_do_not_reach_a_run_loop(void **state)
{
    struct rig *r = *state;
    save_profile(r, "mallory", false, 1000);
    struct rig_call *loop = rig_loop(r, "sub in.*\nready\nrecv 0 20000\nrecv 0 0");
    rig_until_parked(r, 1);
    rig_publish(r, "in.x", "1", "mallory");
    rig_publish(r, "in.x", "2", "alice");
    const char *got = rig_loop_answer(loop);
    assert_null(strstr(got, "mallory"));
    assert_non_null(strstr(got, "n=1 dropped=0 lagged=0;in.x|2|verified:alice"));
}

static void handlers_see_messages_of_disabled_principals_by_their_own_subscription(void **state)
{
    struct rig *r = *state;
    save_profile(r, "mallory", false, 1000);
    (void)rig_run(r, "sub in.*");
    rig_publish(r, "in.x", "1", "mallory");
    assert_memory_equal(rig_run(r, "poll 0"), "n=1", 3); /* spec 05 §19.2 speaks of run loops */
}

static void an_unreadable_profile_gives_default_quotas(void **state)
{
    struct rig *r = *state;
    write_file(r, "etc/profiles/alice.toml", AST_STR("this is not toml ["));
    struct rig_call *loop = rig_loop(r, "sub in.*\nready\nrecv 0 20000\npubn out.a 1000");
    rig_until_parked(r, 1);
    rig_publish(r, "in.x", "1", "alice");
    assert_true(ast_str_ends(ast_str_c(rig_loop_answer(loop)), AST_STR("\nok")));
}

static void ready_reaches_the_capsule_room(void **state)
{
    struct rig *r = *state;
    (void)rig_loop_answer(rig_loop(r, "ready\nready"));
    assert_int_equal(r->ready, 2); /* the receiver makes it idempotent */
}

static void ending_a_call_clears_everything(void **state)
{
    struct rig *r = *state;
    AST_AUTO(ast_msg_unref) struct ast_msg *m = rig_msg("cause.x", "{}", "alice");
    struct ast_host_call call = { .interceptor = true };
    ast_host_call_begin(&call, &r->env, m, NULL);
    assert_int_equal(atomic_load(&m->refs), 2);
    assert_str(ast_principal_str(&call.invoking), "alice");
    assert_true(call.interceptor);
    assert_int_equal(call.quotas.max_storage_bytes, 1073741824);
    ast_host_call_end(&call);
    assert_int_equal(atomic_load(&m->refs), 1);
    static const struct ast_host_call zero;
    assert_memory_equal(&call, &zero, sizeof call);
    ast_host_call_end(&call); /* and again: harmless */
}

static void an_invalid_principal_acts_as_the_owner(void **state)
{
    struct rig *r = *state;
    AST_AUTO(ast_msg_unref) struct ast_msg *m = rig_msg("cause.x", "{}", "no/../such");
    struct ast_host_call call = { .interceptor = true };
    ast_host_call_begin(&call, &r->env, m, NULL);
    assert_str(ast_principal_str(&call.invoking), "default");
    ast_host_call_end(&call);
}

RIG_MAIN(RIG_TEST(c04_41_publishes_follow_the_last_envelope),
         RIG_TEST(poll_installs_the_context_too),
         RIG_TEST(c05_34_store_and_overlay_follow_the_envelope),
         RIG_TEST(quotas_follow_the_envelope),
         RIG_TEST(messages_of_disabled_principals_do_not_reach_a_run_loop),
         RIG_TEST(handlers_see_messages_of_disabled_principals_by_their_own_subscription),
         RIG_TEST(an_unreadable_profile_gives_default_quotas),
         RIG_TEST(ready_reaches_the_capsule_room), RIG_TEST(ending_a_call_clears_everything),
         RIG_TEST(an_invalid_principal_acts_as_the_owner))
