/* Replacing a capsule that serves: nothing is lost, nothing is answered by a mixture, what does not load changes
 * nothing. */
#include "rig.h"

#include <sched.h>

#include "capsule/install.h"

static void load_all(struct rig *r)
{
    struct ast_err err = AST_ERR_INIT;
    rig_check(ast_capsules_load_all(r->capsules, &err), &err);
}

static void *load_thread(void *arg)
{
    struct ast_err err = AST_ERR_INIT;
    struct rig *r = arg;
    return (void *)(uintptr_t)ast_capsules_load_all(r->capsules, &err);
}

/* --- Handlers --------------------------------------------------------------------------------- */

static void a_waiting_event_goes_by_the_name_the_new_version_gives_its_handler(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "swap", RIG_ON("t.in", "wait"), RIG_HANDLER);
    load_all(&r);
    rig_publish(&r, "t.in", "alice", "{\"i\":1}");
    (void)rig_await(&r, "t.out.wait", 0);
    rig_publish(&r, "t.in", "alice", "{\"i\":2}");
    rig_install(&r, "swap", RIG_ON("t.in", "see"), RIG_HANDLER_2);
    load_all(&r);
    rig_publish(&r, "t.gate", "alice", "{}");
    assert_str(rig_await(&r, "t.out.see", 0)->body, "{\"i\":2}");
    assert_int_equal(rig_count(&r, "t.out.wait"), 1);

    /* The same under a wider pattern. */
    rig_install(&r, "swap", RIG_ON("t.in", "wait"), RIG_HANDLER);
    load_all(&r);
    rig_publish(&r, "t.in", "alice", "{\"i\":3}");
    (void)rig_await(&r, "t.out.wait", 1);
    rig_publish(&r, "t.in", "alice", "{\"i\":4}");
    rig_install(&r, "swap", RIG_ON("t.*", "see"), RIG_HANDLER_2);
    load_all(&r);
    rig_publish(&r, "t.gate", "alice", "{}");
    assert_str(rig_await(&r, "t.out.see", 1)->body, "{\"i\":4}");
    (void)rig_await(&r, "t.out.see", 2); /* the gate is a topic like others */
    rig_close(&r);
}

static void a_waiting_event_that_the_new_version_does_not_handle_is_counted(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "swap", RIG_ON("t.in", "wait"), RIG_HANDLER);
    load_all(&r);
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.wait", 0);
    rig_publish(&r, "t.in", "alice", "{}");
    rig_install(&r, "swap", RIG_ON("t.other", "see"), RIG_HANDLER_2);
    load_all(&r);
    rig_publish(&r, "t.gate", "alice", "{}");
    rig_until(rig_row(&r, "swap").dropped == 1);
    rig_publish(&r, "t.other", "alice", "{}");
    (void)rig_await(&r, "t.out.see", 0);
    rig_close(&r);
}

static void capabilities_of_a_replaced_load_hold_until_its_last_call_is_over(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "swap", "[capabilities]\nuplink = true\n" RIG_ON("t.in", "wait"), RIG_HANDLER);
    load_all(&r);
    struct ast_uuid before = rig_row(&r, "swap").env->uuid;
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.wait", 0);
    rig_install(&r, "swap", RIG_ON("t.in", "wait"), RIG_HANDLER_2);
    load_all(&r);
    assert_true(r.host.capsule_holds(r.host.capsule_holds_arg, &before, AST_STR("uplink")));
    rig_publish(&r, "t.gate", "alice", "{}");
    rig_until(!r.host.capsule_holds(r.host.capsule_holds_arg, &before, AST_STR("uplink")));
    rig_close(&r);
}

#define STREAMS 4
#define SWAPS   20

struct stream {
    struct rig *rig;
    char principal[16];
    pthread_t thread;
    atomic_bool *stop;
    size_t asked;
};

static size_t answers_to(struct rig *r, const char *principal)
{
    size_t n = 0;
    pthread_mutex_lock(&r->m);
    for (size_t i = 0; i < r->n; i++)
        n += (ast_str_eq(r->events[i]->topic, AST_STR("t.out.v1")) ||
              ast_str_eq(r->events[i]->topic, AST_STR("t.out.v2"))) &&
             ast_str_eq(r->events[i]->principal, ast_str_c(principal));
    pthread_mutex_unlock(&r->m);
    return n;
}

static void *ask(void *arg)
{
    struct stream *s = arg;
    char json[32];
    while (!atomic_load(s->stop)) {
        size_t had = answers_to(s->rig, s->principal);
        (void)snprintf(json, sizeof json, "{\"i\":%zu}", s->asked++);
        rig_publish(s->rig, "t.in", s->principal, json);
        int64_t until = ast_mono_ns() + 20 * AST_NS_PER_SEC;
        while (answers_to(s->rig, s->principal) == had)
            if (ast_mono_ns() > until)
                return s; /* lost */
            else
                sched_yield();
    }
    return NULL;
}

static void twenty_replacements_under_load_lose_nothing_and_mix_nothing(void **state)
{
    struct rig r;
    struct stream streams[STREAMS];
    atomic_bool stop = false;
    char json[32];
    rig_open(&r, NULL);
    rig_install(&r, "swap", RIG_ON("t.in", "v1"), RIG_HANDLER);
    load_all(&r);
    for (size_t k = 0; k < STREAMS; k++) {
        streams[k] = (struct stream){ .rig = &r, .stop = &stop };
        (void)snprintf(streams[k].principal, sizeof streams[k].principal, "p%zu", k);
        assert_int_equal(pthread_create(&streams[k].thread, NULL, ask, &streams[k]), 0);
    }
    struct ast_uuid versions[SWAPS + 1] = { rig_row(&r, "swap").env->uuid };
    for (size_t i = 1; i <= SWAPS; i++) {
        if (i % 2)
            rig_install(&r, "swap", RIG_ON("t.in", "v2"), RIG_HANDLER_2);
        else
            rig_install(&r, "swap", RIG_ON("t.in", "v1"), RIG_HANDLER);
        load_all(&r);
        versions[i] = rig_row(&r, "swap").env->uuid;
        /* What is asked after the load is the new version's. */
        (void)snprintf(json, sizeof json, "{\"swap\":%zu}", i);
        rig_publish(&r, "t.in", "probe", json);
        rig_until(answers_to(&r, "probe") == i);
    }
    atomic_store(&stop, true);
    for (size_t k = 0; k < STREAMS; k++) {
        void *said;
        pthread_join(streams[k].thread, &said);
        if (said)
            fail_msg("%s: an event was lost", streams[k].principal);
    }
    size_t expected[STREAMS] = { 0 }, probes = 0;
    for (size_t i = 0; i < r.n; i++) {
        const struct ast_msg *m = r.events[i];
        bool two = ast_str_eq(m->topic, AST_STR("t.out.v2"));
        if (!two && !ast_str_eq(m->topic, AST_STR("t.out.v1")))
            continue;
        size_t version = 0;
        while (version <= SWAPS && !ast_uuid_eq(&m->source_id, &versions[version]))
            version++;
        assert_true(version <= SWAPS);
        assert_int_equal(version % 2, two); /* the name the version gives its handler: no mixture */
        if (ast_str_eq(m->principal, AST_STR("probe"))) {
            assert_int_equal(version, ++probes);
            continue;
        }
        size_t k = (size_t)(m->principal.p[1] - '0');
        (void)snprintf(json, sizeof json, "{\"i\":%zu}", expected[k]++);
        assert_str(m->body, json); /* each once, in order */
    }
    for (size_t k = 0; k < STREAMS; k++)
        assert_int_equal(expected[k], streams[k].asked);
    assert_int_equal(rig_row(&r, "swap").traps, 0);
    assert_int_equal(rig_row(&r, "swap").dropped, 0);
    rig_close(&r);
}

/* --- Run loops -------------------------------------------------------------------------------- */

/* Subscribes t.gate, then publishes each payload on t.out.<tag>, ten milliseconds later. */
#define SERVE                                                                                      \
    "(call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200)) (call $ready)"              \
    "(loop $l (global.set $heap (i32.const 131072))"                                               \
    "  (call $recv (i32.load (i32.const 5204)) (i64.const 60000) (i32.const 5304))"                \
    "  (local.set $p (i32.load (i32.const 5312))) (local.set $n (i32.load (i32.const 5316)))"      \
    "  (block $done (loop $m (br_if $done (i32.eqz (local.get $n)))"                               \
    "    (call $sleep (i64.const 10000000) (i32.const 5400))"                                      \
    "    (call $publish (i32.const 1024) (i32.const 7) (i32.load offset=8 (local.get $p))"         \
    "      (i32.load offset=12 (local.get $p)) (i32.const 5000))"                                  \
    "    (local.set $p (i32.add (local.get $p) (i32.const 36)))"                                   \
    "    (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br $m)))"                          \
    "  (br $l))"
#define LOOP(tag, body)                                                                            \
    "(module " RIG_IMPORTS RIG_FRAME RIG_HOOK "(data (i32.const 1030) \"" tag "\")"                \
    "(data (i32.const 2300) \"t.reply\")"                                                          \
    "(func (export \"run\") (local $p i32) (local $n i32) " body "))"
#define GATE "[subscribe]\n\"t.gate\" = \"opaque\"\n\"t.reply\" = \"opaque\"\n"

static void a_replaced_loop_finishes_what_it_was_given_and_leaves_the_rest_to_the_next(void **state)
{
    enum { EACH = 40 };
    struct rig r;
    char json[32];
    size_t expected[2] = { 0 }, by_new = 0;
    rig_open(&r, NULL);
    rig_install(&r, "loop", GATE, LOOP("a", SERVE));
    load_all(&r);
    for (int i = 0; i < EACH; i++) {
        (void)snprintf(json, sizeof json, "{\"i\":%d}", i);
        rig_publish(&r, "t.gate", "p0", json);
        rig_publish(&r, "t.gate", "p1", json);
    }
    (void)rig_await(&r, "t.out.a", 0);
    rig_install(&r, "loop", GATE, LOOP("b", SERVE));
    load_all(&r);
    rig_until(rig_count(&r, "t.out.a") + rig_count(&r, "t.out.b") == 2 * EACH);
    for (size_t i = 0; i < r.n; i++) {
        const struct ast_msg *m = r.events[i];
        bool is_new = ast_str_eq(m->topic, AST_STR("t.out.b"));
        if (!is_new && !ast_str_eq(m->topic, AST_STR("t.out.a")))
            continue;
        assert_true(is_new || !by_new); /* the old one is silent once the new one speaks */
        by_new += is_new;
        (void)snprintf(json, sizeof json, "{\"i\":%zu}", expected[m->principal.p[1] - '0']++);
        assert_str(m->body, json);
    }
    assert_true(by_new > 0);
    assert_int_equal(rig_row(&r, "loop").traps, 0);
    rig_publish(&r, "t.gate", "p0", "{}"); /* the subscription lives on */
    (void)rig_await(&r, "t.out.b", by_new);
    rig_close(&r);
}

static void a_replaced_loop_gets_the_reply_it_waits_for(void **state)
{
    struct rig r;
    pthread_t loader;
    void *rc;
    rig_open(&r, NULL);
    rig_install(
        &r, "loop", GATE,
        LOOP(
            "a",
            "(call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200)) (call $ready)"
            "(loop $l (call $recv (i32.load (i32.const 5204)) (i64.const 60000) (i32.const 5304))"
            "  (if (i32.load (i32.const 5316)) (then"
            "    (call $subscribe (i32.const 2300) (i32.const 7) (i32.const 5216))"
            "    (call $publish (i32.const 1024) (i32.const 7) (i32.const 2150) (i32.const 7) (i32.const 5000))"
            "    (call $recv (i32.load (i32.const 5220)) (i64.const 60000) (i32.const 5304))"
            "    (if (i32.load (i32.const 5316)) (then"
            "      (call $publish (i32.const 1024) (i32.const 7) (i32.const 2150) (i32.const 7) (i32.const 5000))))"
            "    ))"
            "  (br $l))"));
    load_all(&r);
    rig_publish(&r, "t.gate", "alice", "{}");
    (void)rig_await(&r, "t.out.a", 0); /* asked somebody, waits for the reply */
    rig_install(&r, "loop", GATE, LOOP("b", SERVE));
    struct ast_capsule_row old = rig_row(&r, "loop"); /* stays while its reply is awaited */
    assert_int_equal(pthread_create(&loader, NULL, load_thread, &r), 0);
    rig_until(atomic_load(&old.env->quiescing));
    rig_publish(&r, "t.gate", "alice",
                "{\"next\":1}"); /* wakes nobody: it is not what it waits for */
    rig_publish(&r, "t.reply", "alice", "{}");
    (void)rig_await(&r, "t.out.a", 1);
    assert_str(rig_await(&r, "t.out.b", 0)->body, "{\"next\":1}");
    pthread_join(loader, &rc);
    assert_ptr_equal(rc, NULL);
    rig_close(&r);
}

static void what_the_next_loop_does_not_subscribe_is_closed(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "loop", GATE, LOOP("a", SERVE));
    load_all(&r);
    rig_install(
        &r, "loop", GATE,
        LOOP(
            "b",
            "(call $subscribe (i32.const 2300) (i32.const 7) (i32.const 5200)) (call $ready)"
            "(call $recv (i32.load (i32.const 5204)) (i64.const 60000) (i32.const 5304))"
            "(call $publish (i32.const 1024) (i32.const 7) (i32.const 2150) (i32.const 7) (i32.const 5000))"));
    load_all(&r);
    struct ast_msg *m = NULL;
    struct ast_err err = AST_ERR_INIT;
    const struct ast_msg_spec spec = { .topic = AST_STR("t.gate"), .principal = AST_STR("alice") };
    rig_check(ast_msg_from_json(&spec, AST_STR("{}"), &m, &err), &err);
    (void)ast_bus_publish(r.bus, ast_msg_ref(m));
    assert_int_equal(atomic_load(&m->refs), 2); /* ours and the test's tap: nobody queues it */
    ast_msg_unref(m);
    rig_publish(&r, "t.reply", "alice", "{}");
    (void)rig_await(&r, "t.out.b", 0);
    rig_close(&r);
}

#define SUBSCRIBE "(call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200)) (call $ready)"
#define ONE_POLL  "(call $recv (i32.load (i32.const 5204)) (i64.const 0) (i32.const 5304))"

static void a_loop_that_ends_at_once_leaves_the_old_one_serving_and_loses_nothing(void **state)
{
    enum { EACH = 20 };
    static const struct {
        const char *wat, *says;
    } bad[] = {
        { LOOP("b", "(unreachable)"), "ended at once: " },
        { LOOP("b", "(call $ready)"), "ended at once: it returned" },
        { LOOP("b", SUBSCRIBE "(unreachable)"), "ended at once: " },
        /* Says that it is ready and asks for nothing of what it inherits. */
        { LOOP("b", "(call $ready) (unreachable)"), "ended at once: " },
    };
    struct rig r;
    char json[32];
    size_t sent = 0;
    rig_open(&r, NULL);
    rig_install(&r, "loop", GATE, LOOP("a", SERVE));
    load_all(&r);
    for (size_t k = 0; k < AST_ARRAY_LEN(bad); k++) {
        for (size_t i = 0; i < EACH; i++) {
            (void)snprintf(json, sizeof json, "{\"i\":%zu}", sent++);
            rig_publish(&r, "t.gate", "p0", json);
        }
        (void)rig_await(&r, "t.out.a", sent - EACH);
        rig_install(&r, "loop", GATE, bad[k].wat);
        load_all(&r);
        assert_non_null(strstr(ast_capsules_failure(r.capsules, AST_STR("loop")), bad[k].says));
        assert_false(rig_row(&r, "loop").failed);
        for (size_t i = sent - EACH; i < sent; i++) {
            (void)snprintf(json, sizeof json, "{\"i\":%zu}", i);
            assert_str(rig_await(&r, "t.out.a", i)->body, json);
        }
    }
    assert_int_equal(rig_count(&r, "t.out.b"), 0);
    rig_install(&r, "loop", GATE, LOOP("c", SERVE)); /* one that works takes over as ever */
    load_all(&r);
    assert_null(ast_capsules_failure(r.capsules, AST_STR("loop")));
    rig_publish(&r, "t.gate", "p0", "{}");
    (void)rig_await(&r, "t.out.c", 0);
    rig_close(&r);
}

static void a_loop_that_ends_on_its_first_message_leaves_the_old_one_serving(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "loop", GATE, LOOP("a", SERVE));
    load_all(&r);
    rig_install(&r, "loop", GATE, LOOP("b", SUBSCRIBE ONE_POLL "(unreachable)"));
    load_all(&r);
    assert_non_null(ast_capsules_failure(r.capsules, AST_STR("loop")));
    rig_publish(&r, "t.gate", "p0", "{}");
    (void)rig_await(&r, "t.out.a", 0);
    rig_close(&r);
}

static void three_loops_one_after_the_other_hand_on_what_waits(void **state)
{
    enum { EACH = 100 };
    static const char *const tags[] = { "t.out.a", "t.out.b", "t.out.c" };
    static const char *const wats[] = { LOOP("a", SERVE), LOOP("b", SERVE), LOOP("c", SERVE) };
    struct rig r;
    char json[32];
    size_t expected = 0;
    rig_open(&r, NULL);
    rig_install(&r, "loop", GATE, wats[0]);
    load_all(&r);
    for (size_t i = 0; i < EACH; i++) {
        (void)snprintf(json, sizeof json, "{\"i\":%zu}", i);
        rig_publish(&r, "t.gate", i % 2 ? "p1" : "p0", json);
    }
    for (size_t k = 1; k < AST_ARRAY_LEN(tags); k++) {
        rig_install(&r, "loop", GATE, wats[k]);
        load_all(&r);
        if (k == 1)
            rig_publish(&r, "t.gate", "p2", "{}"); /* for the last one, or the one before it */
    }
    rig_until(rig_count(&r, tags[0]) + rig_count(&r, tags[1]) + rig_count(&r, tags[2]) == EACH + 1);
    for (size_t i = 0; i < r.n; i++) /* each principal's in order, whoever served them */
        if (ast_str_starts(r.events[i]->topic, AST_STR("t.out.")) &&
            ast_str_eq(r.events[i]->principal, AST_STR("p0"))) {
            (void)snprintf(json, sizeof json, "{\"i\":%zu}", expected);
            assert_str(r.events[i]->body, json);
            expected += 2;
        }
    assert_int_equal(expected, EACH);
    rig_close(&r);
}

static void a_loop_that_ends_at_once_does_not_take_the_place_of_a_handler(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "loop", RIG_ON("t.in", "see"), RIG_HANDLER);
    load_all(&r);
    rig_install(&r, "loop", GATE, LOOP("b", "(unreachable)"));
    load_all(&r);
    assert_non_null(ast_capsules_failure(r.capsules, AST_STR("loop")));
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.see", 0);
    rig_install(&r, "loop", GATE, LOOP("c", SERVE));
    load_all(&r);
    rig_publish(&r, "t.gate", "alice", "{}");
    (void)rig_await(&r, "t.out.c", 0);
    rig_close(&r);
}

/* --- Versions that do not load ------------------------------------------------------------------ */

#define HOOK_TRAPS                                                                                 \
    "(module " RIG_IMPORTS RIG_FRAME RIG_STAMP("hook") RIG_HOOK                                    \
        "(func (export \"astrid-install\") (nop)) (func (export \"astrid-upgrade\") (unreachable)))"
#define FOREIGN                                                                                    \
    "(module (import \"wasi:io/streams@0.2.0\" \"drop\" (func)) (memory (export \"memory\") 1))"

static void write_source(struct rig *r, const char *version, const char *rest, const char *wat)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1 << 20);
    char toml[4096];
    rig_check(ast_wat_compile(ast_str_c(wat), &wasm, &err), &err);
    (void)snprintf(toml, sizeof toml,
                   "[package]\nname = \"swap\"\nversion = \"%s\"\n[[component]]\nid = \"main\"\n"
                   "file = \"main.wasm\"\n[publish]\n\"t.out.*\" = { wit = \"opaque\" }\n%s",
                   version, rest);
    rig_write(r, ast_str_c(toml), "source/Capsule.toml");
    rig_write(r, ast_buf_view(&wasm), "source/main.wasm");
}

static enum ast_rc install(struct rig *r, struct ast_err *err)
{
    AST_AUTO(ast_install_result_done) struct ast_install_result result = { 0 };
    const struct ast_install_options opt = { .run_hook = ast_capsules_run_install_hook,
                                             .run_hook_arg = r->capsules,
                                             .try_load = ast_capsules_try_install,
                                             .try_load_arg = r->capsules };
    char path[512];
    *err = (struct ast_err)AST_ERR_INIT;
    (void)snprintf(path, sizeof path, "%s/source", r->home.root);
    return ast_install(&r->home, path, &opt, &result, err);
}

static void a_version_that_does_not_load_is_not_installed_and_the_old_one_serves(void **state)
{
    static const struct {
        const char *rest, *wat, *says;
    } bad[] = {
        { RIG_ON("t.in", "v2"), FOREIGN, "wasi:io/streams@0.2.0" },
        { RIG_ON("t.in", "v2"), HOOK_TRAPS, "lifecycle dispatch failed: Execution failed" },
        { "[subscribe]\n\"a..b\" = \"opaque\"\n", RIG_HANDLER_2, "contains empty segments" },
        { "[env\n", RIG_HANDLER_2, "failed to load Capsule manifest" },
    };
    struct rig r;
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf before = AST_BUF_INIT(1 << 16);
    char meta[512];
    rig_open(&r, NULL);
    (void)snprintf(meta, sizeof meta, "%s/" RIG_CAPSULES "/swap/meta.json", r.home.root);
    write_source(&r, "1.0.0", RIG_ON("t.in", "v1"), RIG_HANDLER);
    rig_check(install(&r, &err), &err);
    load_all(&r);
    struct ast_uuid uuid = rig_row(&r, "swap").env->uuid;
    rig_check(ast_fs_read(meta, 1 << 16, &before, &err), &err);
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf after = AST_BUF_INIT(1 << 16);
        write_source(&r, "2.0.0", bad[i].rest, bad[i].wat);
        assert_int_not_equal(install(&r, &err), AST_OK);
        if (!strstr(err.msg, bad[i].says))
            fail_msg("'%s' does not say '%s'", err.msg, bad[i].says);
        rig_check(ast_fs_read(meta, 1 << 16, &after, &err), &err);
        assert_true(ast_str_eq(ast_buf_view(&before), ast_buf_view(&after)));
        load_all(&r);
        assert_true(ast_uuid_eq(&uuid, &rig_row(&r, "swap").env->uuid));
        rig_publish(&r, "t.in", "alice", "{}");
        (void)rig_await(&r, "t.out.v1", i);
    }
    assert_null(ast_capsules_failure(r.capsules, AST_STR("swap")));
    write_source(&r, "2.0.0", RIG_ON("t.in", "v2"), RIG_HANDLER_2);
    rig_check(install(&r, &err), &err);
    load_all(&r);
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.v2", 0);
    rig_close(&r);
}

/* --- Files that change under the daemon --------------------------------------------------------- */

static enum ast_capsules_notice notice(struct rig *r, bool is_last)
{
    char dir[512];
    return ast_capsules_notice(r->capsules, rig_dir(r, "swap", dir), is_last);
}

static void a_new_version_on_disk_is_loaded_once_its_files_agree(void **state)
{
    struct rig r;
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1 << 20);
    char dir[512], away[520], meta[512], hash[AST_BLAKE3_HEX];
    rig_open(&r, NULL);
    rig_install(&r, "swap", RIG_ON("t.in", "v1"), RIG_HANDLER);
    assert_int_equal(notice(&r, false), AST_CAPSULES_CHANGED); /* a new one */
    (void)rig_await(&r, "astrid.v1.capsules_loaded", 0);
    assert_int_equal(notice(&r, false), AST_CAPSULES_SAME);

    /* Half of a new version: meta.json says what is not there yet. */
    rig_check(ast_wat_compile(AST_STR(RIG_HANDLER_2), &wasm, &err), &err);
    ast_blake3_hex(ast_buf_view(&wasm), hash);
    (void)snprintf(meta, sizeof meta, "{\"version\":\"2.0.0\",\"wasm_hash\":\"%s\"}", hash);
    rig_write(&r, ast_str_c(meta), RIG_CAPSULES "/swap/meta.json");
    assert_int_equal(notice(&r, false), AST_CAPSULES_UNSETTLED);
    assert_int_equal(rig_count(&r, "astrid.v1.lifecycle.capsule_failed"), 0);
    assert_int_equal(notice(&r, true), AST_CAPSULES_FAILED); /* waited long enough: say it */
    assert_int_equal(rig_count(&r, "astrid.v1.lifecycle.capsule_failed"), 1);
    assert_non_null(strstr(ast_capsules_failure(r.capsules, AST_STR("swap")), hash));
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.v1", 0);
    struct ast_uuid before = rig_row(&r, "swap").env->uuid;
    rig_write(&r, ast_buf_view(&wasm), RIG_CAPSULES "/swap/main.wasm");
    assert_int_equal(notice(&r, false), AST_CAPSULES_CHANGED);
    (void)rig_await(&r, "astrid.v1.capsules_loaded", 1);
    assert_null(ast_capsules_failure(r.capsules, AST_STR("swap")));
    struct ast_uuid after = rig_row(&r, "swap").env->uuid;
    assert_false(ast_uuid_eq(&before, &after));

    rig_write(&r, AST_STR("[package"), RIG_CAPSULES "/swap/Capsule.toml"); /* half a manifest */
    assert_int_equal(notice(&r, false), AST_CAPSULES_UNSETTLED);
    assert_int_equal(notice(&r, true), AST_CAPSULES_FAILED);
    assert_true(ast_uuid_eq(&after, &rig_row(&r, "swap").env->uuid));

    /* Between an installer's two renames nothing is unloaded; when it is gone it is gone. */
    rig_dir(&r, "swap", dir);
    (void)snprintf(away, sizeof away, "%s.bak", dir);
    assert_int_equal(rename(dir, away), 0);
    assert_int_equal(notice(&r, false), AST_CAPSULES_UNSETTLED);
    load_all(&r);
    assert_true(ast_uuid_eq(&after, &rig_row(&r, "swap").env->uuid));
    assert_int_equal(ast_fs_remove_tree(away, NULL), AST_OK);
    assert_int_equal(notice(&r, false), AST_CAPSULES_CHANGED);
    assert_int_equal(rig_count(&r, "astrid.v1.lifecycle.capsule_unloaded"), 1);
    assert_int_equal(notice(&r, false), AST_CAPSULES_SAME);
    rig_close(&r);
}

static void a_second_folder_of_a_loaded_capsule_changes_nothing(void **state)
{
    struct rig r;
    struct ast_err err = AST_ERR_INIT;
    char dir[512];
    rig_open(&r, NULL);
    rig_install(&r, "swap", RIG_ON("t.in", "v1"), RIG_HANDLER);
    load_all(&r);
    struct ast_uuid before = rig_row(&r, "swap").env->uuid;
    rig_install(&r, "copy", RIG_ON("t.in", "v2"), RIG_HANDLER_2);
    rig_write(
        &r,
        AST_STR("[package]\nname = \"swap\"\nversion = \"1.0.0\"\n[[component]]\nid = \"main\"\n"
                "file = \"main.wasm\"\n"),
        RIG_CAPSULES "/copy/Capsule.toml");
    assert_int_equal(ast_capsules_notice(r.capsules, rig_dir(&r, "copy", dir), true),
                     AST_CAPSULES_SAME);
    assert_true(ast_uuid_eq(&before, &rig_row(&r, "swap").env->uuid));
    assert_int_equal(ast_fs_remove_tree(rig_dir(&r, "swap", dir), &err), AST_OK);
    assert_int_equal(ast_capsules_notice(r.capsules, dir, false), AST_CAPSULES_CHANGED);
    assert_int_equal(ast_capsules_notice(r.capsules, rig_dir(&r, "copy", dir), false),
                     AST_CAPSULES_CHANGED);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test(name)
        T(a_waiting_event_goes_by_the_name_the_new_version_gives_its_handler),
        T(a_waiting_event_that_the_new_version_does_not_handle_is_counted),
        T(capabilities_of_a_replaced_load_hold_until_its_last_call_is_over),
        T(twenty_replacements_under_load_lose_nothing_and_mix_nothing),
        T(a_replaced_loop_finishes_what_it_was_given_and_leaves_the_rest_to_the_next),
        T(a_replaced_loop_gets_the_reply_it_waits_for),
        T(what_the_next_loop_does_not_subscribe_is_closed),
        T(a_loop_that_ends_at_once_leaves_the_old_one_serving_and_loses_nothing),
        T(a_loop_that_ends_on_its_first_message_leaves_the_old_one_serving),
        T(three_loops_one_after_the_other_hand_on_what_waits),
        T(a_loop_that_ends_at_once_does_not_take_the_place_of_a_handler),
        T(a_version_that_does_not_load_is_not_installed_and_the_old_one_serves),
        T(a_new_version_on_disk_is_loaded_once_its_files_agree),
        T(a_second_folder_of_a_loaded_capsule_changes_nothing),
#undef T
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
