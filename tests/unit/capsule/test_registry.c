/* Loading, replacing, run loops, health, configuration, hooks. */
#include "rig.h"

#include <sched.h>

#include "bus/metrics.h"
#include "store/secrets.h"

#define SEC AST_NS_PER_SEC

static enum ast_rc try_load(struct rig *r, const char *id, struct ast_err *err)
{
    char dir[512];
    *err = (struct ast_err)AST_ERR_INIT;
    return ast_capsules_load(r->capsules, rig_dir(r, id, dir), err);
}

static void load_all(struct rig *r)
{
    struct ast_err err = AST_ERR_INIT;
    rig_check(ast_capsules_load_all(r->capsules, &err), &err);
}

static const char *config(struct rig *r, const char *id, const char *key)
{
    static char text[512];
    struct ast_capsule_row row = rig_row(r, id);
    for (size_t i = 0; i < row.env->config_count; i++) {
        if (!ast_str_eq(row.env->config[i].key, ast_str_c(key)))
            continue;
        snprintf(text, sizeof text, AST_STR_FMT, AST_STR_ARG(row.env->config[i].value));
        return text;
    }
    return NULL;
}

/* --- Integrity -------------------------------------------------------------------------------- */

static void c05_01_a_binary_with_another_hash_does_not_load_and_both_hashes_are_named(void **state)
{
    struct rig r;
    struct ast_err err;
    rig_open(&r, NULL);
    rig_install(&r, "odd", RIG_ON("t.in", "see"), RIG_HANDLER);
    rig_write(&r, AST_STR("{\"version\":\"1.0.0\",\"wasm_hash\":\"00ff\"}"),
              RIG_CAPSULES "/odd/meta.json");
    assert_int_not_equal(try_load(&r, "odd", &err), AST_OK);
    assert_non_null(
        strstr(err.msg,
               "Unsupported entry point: WASM integrity check failed: expected BLAKE3 00ff, got "));
    assert_non_null(strstr(err.msg, ". The binary may have been tampered with."));
    assert_true(rig_row(&r, "odd").failed);
    assert_null(rig_row(&r, "odd").env);
    struct ast_msg *m = rig_await(&r, "astrid.v1.lifecycle.capsule_failed", 0);
    assert_true(
        ast_str_find(m->body, AST_STR("\"capsule_id\":\"odd\",\"error\":\"Unsupported entry")) !=
        AST_STR_NPOS);
    rig_close(&r);
}

static void the_manifests_own_hash_counts_too(void **state)
{
    struct rig r;
    struct ast_err err;
    rig_open(&r, NULL);
    rig_install(&r, "odd", "", RIG_HANDLER);
    rig_write(
        &r,
        AST_STR("[package]\nname = \"odd\"\nversion = \"1.0.0\"\n[[component]]\nid = \"main\"\n"
                "file = \"main.wasm\"\nhash = \"00ff\"\n"),
        RIG_CAPSULES "/odd/Capsule.toml");
    assert_int_not_equal(try_load(&r, "odd", &err), AST_OK);
    assert_non_null(strstr(err.msg, "expected BLAKE3 00ff"));
    rig_close(&r);
}

static void c05_02_a_capsule_without_hash_does_not_load(void **state)
{
    static const char *const metas[] = { "{}", "not json", "{\"wasm_hash\":7}", NULL };
    for (size_t k = 0; k < AST_ARRAY_LEN(metas); k++) {
        struct rig r;
        struct ast_err err;
        char path[512];
        rig_open(&r, NULL);
        rig_install(&r, "bare", RIG_ON("t.in", "see"), RIG_HANDLER);
        if (metas[k]) {
            rig_write(&r, ast_str_c(metas[k]), RIG_CAPSULES "/bare/meta.json");
        } else {
            snprintf(path, sizeof path, "%s/" RIG_CAPSULES "/bare/meta.json", r.home.root);
            assert_int_equal(remove(path), 0);
        }
        assert_int_not_equal(try_load(&r, "bare", &err), AST_OK);
        assert_string_equal(
            err.msg,
            "Unsupported entry point: WASM capsule 'bare' has no BLAKE3 hash in meta.json. Capsules must be "
            "installed via `astrid capsule install` which records the hash. Refusing to load unverified "
            "binary.");
        rig_close(&r);
    }
}

static void c05_03_without_the_local_file_the_content_store_is_read(void **state)
{
    struct rig r;
    struct ast_err err;
    char from[512], to[512], hash[AST_BLAKE3_HEX];
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1 << 20);
    rig_open(&r, NULL);
    rig_install(&r, "stored", RIG_ON("t.in", "see"), RIG_HANDLER);
    rig_check(ast_wat_compile(AST_STR(RIG_HANDLER), &wasm, &err), &err);
    ast_blake3_hex(ast_buf_view(&wasm), hash);
    snprintf(from, sizeof from, "%s/" RIG_CAPSULES "/stored/main.wasm", r.home.root);
    snprintf(to, sizeof to, "%s/bin/%s.wasm", r.home.root, hash);
    assert_int_equal(rename(from, to), 0);
    rig_load(&r, "stored");
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.see", 0);

    assert_int_equal(remove(to), 0);
    rig_install(&r, "gone", "", RIG_HANDLER);
    snprintf(from, sizeof from, "%s/" RIG_CAPSULES "/gone/main.wasm", r.home.root);
    assert_int_equal(remove(from), 0);
    assert_int_not_equal(try_load(&r, "gone", &err), AST_OK);
    assert_non_null(strstr(err.msg, "Unsupported entry point: Failed to read WASM: "));
    rig_close(&r);
}

static void c05_04_an_unknown_import_is_refused_by_name(void **state)
{
    struct rig r;
    struct ast_err err;
    rig_open(&r, NULL);
    rig_install(
        &r, "wasi", "",
        "(module (import \"wasi:io/streams@0.2.0\" \"drop\" (func)) (memory (export \"memory\") 1))");
    assert_int_not_equal(try_load(&r, "wasi", &err), AST_OK);
    assert_non_null(
        strstr(err.msg, "Unsupported entry point: Failed to pre-instantiate WASM component"));
    assert_non_null(strstr(err.msg, "wasi:io/streams@0.2.0"));
    rig_close(&r);
}

/* --- Run loops -------------------------------------------------------------------------------- */

#define SERVE                                                                                      \
    "(call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200)) (call $ready)"              \
    "(loop $l (call $recv (i32.load (i32.const 5204)) (i64.const 60000) (i32.const 5304)) (br $l))"
#define GATE "[subscribe]\n\"t.gate\" = \"opaque\"\n"

static void c05_07_merged_stubs_are_no_entry_points(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(
        &r, "stubs", RIG_ON("t.in", "see"),
        "(module " RIG_IMPORTS RIG_FRAME RIG_HOOK
        "(func $stub) (export \"run\" (func $stub)) (export \"astrid-install\" (func $stub))"
        "(export \"astrid-upgrade\" (func $stub)))");
    rig_load(&r, "stubs");
    assert_false(rig_row(&r, "stubs").is_run_loop);
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.see", 0);
    rig_close(&r);
}

static void c05_08_c04_53_a_run_loop_has_one_instance_and_lists_its_handlers(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "loop", RIG_ON("t.in", "see"), RIG_LOOP(SERVE));
    rig_load(&r, "loop");
    struct ast_capsule_row row = rig_row(&r, "loop");
    assert_true(row.is_run_loop);
    assert_int_equal(row.pool.live, 1);
    assert_int_equal(row.env->binding_count, 1);
    assert_str(row.env->bindings[0].action, "see");
    assert_false(row.failed);
    assert_true(ast_capsules_serve(r.capsules, AST_STR("t.gate")));
    rig_publish(&r, "t.in", "alice", "{}"); /* not delivered: gap 43 */
    ast_capsules_probe(r.capsules, 0);
    assert_int_equal(rig_row(&r, "loop").calls, 0);
    rig_close(&r);
}

static void c04_54_too_many_handlers_on_a_run_loop_are_refused(void **state)
{
    struct rig r;
    struct ast_err err;
    char rest[16384] = "[subscribe]\n";
    rig_open(&r, NULL);
    for (int i = 0; i < 65; i++) {
        size_t n = strlen(rest);
        snprintf(rest + n, sizeof rest - n,
                 "\"t.in.x%d\" = { wit = \"opaque\", handler = \"h\" }\n", i);
    }
    rig_install(&r, "many", rest, RIG_LOOP(SERVE));
    assert_int_not_equal(try_load(&r, "many", &err), AST_OK);
    assert_string_equal(
        err.msg, "Unsupported entry point: Capsule 'many' declares 65 interceptors, exceeding the "
                 "auto-subscribe limit (64)");
    rig_close(&r);
}

static void c05_58_a_silent_loop_delays_its_group_by_half_a_second(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    const char *const names[] = { "silent-a", "silent-b", "silent-c" };
    for (size_t i = 0; i < AST_ARRAY_LEN(names); i++)
        rig_install(
            &r, names[i], GATE,
            RIG_LOOP(
                "(call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200))"
                "(call $recv (i32.load (i32.const 5204)) (i64.const 60000) (i32.const 5304))"));
    int64_t start = ast_mono_ns();
    load_all(&r);
    int64_t took = ast_mono_ns() - start;
    assert_true(took >= 500 * AST_NS_PER_MS);
    assert_true(took < 1400 * AST_NS_PER_MS); /* together, not one after the other */
    assert_non_null(rig_await(&r, "astrid.v1.capsules_loaded", 0));
    rig_close(&r);
}

static void c05_57_c04_47_a_loop_that_returns_is_reported_and_restarted_with_a_new_uuid(
    void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    /* Serves one message, then returns. */
    rig_install(
        &r, "brief", GATE,
        RIG_LOOP("(call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200)) (call $ready)"
                 "(call $recv (i32.load (i32.const 5204)) (i64.const 60000) (i32.const 5304))"));
    rig_load(&r, "brief");
    struct ast_uuid before = rig_row(&r, "brief").env->uuid;
    ast_capsules_probe(r.capsules, 0);
    assert_int_equal(rig_count(&r, "astrid.v1.health.failed"), 0);
    rig_publish(&r, "t.gate", "alice", "{}");
    rig_until(rig_row(&r, "brief").failed);

    ast_capsules_probe(r.capsules, 10 * SEC); /* c04_47: seen, reported, not yet restarted */
    assert_str(rig_await(&r, "astrid.v1.health.failed", 0)->body,
               "{\"capsule_id\":\"brief\",\"reason\":\"WASM run loop exited unexpectedly\"}");
    assert_true(rig_row(&r, "brief").failed);
    ast_capsules_probe(r.capsules, 11 * SEC); /* inside the back-off */
    assert_int_equal(rig_row(&r, "brief").restarts, 0);
    ast_capsules_probe(r.capsules, 20 * SEC);
    struct ast_capsule_row row = rig_row(&r, "brief");
    assert_int_equal(row.restarts, 1);
    assert_false(row.failed);
    assert_false(ast_uuid_eq(&before, &row.env->uuid));
    assert_int_equal(rig_count(&r, "astrid.v1.capsules_loaded"), 1);

    /* Healthy for a minute: the history is forgotten, a new failure starts from the beginning. */
    ast_capsules_probe(r.capsules, 90 * SEC);
    rig_publish(&r, "t.gate", "alice", "{}");
    rig_until(rig_row(&r, "brief").failed);
    ast_capsules_probe(r.capsules, 100 * SEC);
    assert_int_equal(rig_row(&r, "brief").restarts, 1);
    ast_capsules_probe(r.capsules, 103 * SEC);
    assert_int_equal(rig_row(&r, "brief").restarts, 2);
    rig_close(&r);
}

static void c04_49_c01_49_a_crash_loop_is_given_up_after_five_attempts(void **state)
{
    struct rig r;
    int64_t now = 0, at[8] = { 0 };
    unsigned n = 0;
    rig_open(&r, NULL);
    rig_install(&r, "dies", "", RIG_LOOP("(unreachable)"));
    rig_load(&r, "dies");
    for (int i = 0; i < 100; i++) {
        rig_until(rig_row(&r, "dies").failed);
        ast_capsules_probe(r.capsules, now += 10 * SEC);
        if (rig_row(&r, "dies").restarts > n && n < AST_ARRAY_LEN(at))
            at[n++] = now;
    }
    for (unsigned i = 1; i < n;
         i++) { /* 4, 8, 16, 32 s behind the first 2, at the probe after them */
        int64_t wait = (INT64_C(2) << i) * SEC;
        assert_true(at[i] - at[i - 1] >= wait && at[i] - at[i - 1] <= wait + 20 * SEC);
    }
    assert_int_equal(rig_row(&r, "dies").restarts, 5);
    assert_true(rig_row(&r, "dies").failed);
    load_all(&r); /* somebody asks: the count starts anew */
    rig_until(rig_row(&r, "dies").failed);
    ast_capsules_probe(r.capsules, now += 10 * SEC);
    ast_capsules_probe(r.capsules, now += 10 * SEC);
    assert_int_equal(rig_row(&r, "dies").restarts, 6);
    rig_close(&r);
}

static void a_restart_that_cannot_load_is_tried_again_from_its_directory(void **state)
{
    struct rig r;
    char wasm[512], away[520];
    rig_open(&r, NULL);
    rig_install(
        &r, "hurt", GATE,
        RIG_LOOP("(call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200)) (call $ready)"
                 "(call $recv (i32.load (i32.const 5204)) (i64.const 60000) (i32.const 5304))"));
    rig_load(&r, "hurt");
    snprintf(wasm, sizeof wasm, "%s/" RIG_CAPSULES "/hurt/main.wasm", r.home.root);
    snprintf(away, sizeof away, "%s.away", wasm);
    assert_int_equal(rename(wasm, away), 0);
    rig_publish(&r, "t.gate", "alice", "{}");
    rig_until(rig_row(&r, "hurt").failed);
    ast_capsules_probe(r.capsules, 10 * SEC);
    ast_capsules_probe(r.capsules, 20 * SEC); /* cannot be read */
    assert_int_equal(rig_row(&r, "hurt").restarts, 0);
    assert_int_equal(rename(away, wasm), 0);
    ast_capsules_probe(r.capsules, 30 * SEC);
    assert_int_equal(rig_row(&r, "hurt").restarts, 1);
    assert_false(rig_row(&r, "hurt").failed);
    rig_close(&r);
}

static void c05_56_c04_55_a_bounded_loop_that_never_waits_is_ended_after_three_windows(void **state)
{
    struct rig r;
    rig_open(&r, &(struct rig_options){ .bare = true });
    rig_profile(&r, "default", "profile_version = 1\n[quotas]\nmax_timeout_secs = 1\n");
    rig_install(&r, "spins", "", RIG_LOOP("(call $ready) (loop $l (br $l))"));
    rig_install(&r, "waits", GATE, RIG_LOOP(SERVE));
    rig_install(&r, "works", RIG_ON("t.in", "see"), RIG_HANDLER);
    int64_t start = ast_mono_ns();
    load_all(&r);
    for (size_t i = 0; i < 20; i++) { /* c04_55: it never delays others */
        rig_publish(&r, "t.in", "alice", "{}");
        (void)rig_await(&r, "t.out.see", i);
    }
    assert_false(rig_row(&r, "spins").failed);
    rig_until(rig_row(&r, "spins").failed);
    assert_true(ast_mono_ns() - start >= 3 * SEC - 100 * AST_NS_PER_MS);
    assert_false(rig_row(&r, "waits").failed);
    assert_int_equal(rig_row(&r, "spins").traps, 1);
    assert_true(ast_capsules_fuel_total(r.capsules, AST_STR("default")) >
                1000000); /* charged to the owner */
    rig_close(&r);
}

/* --- Passes ----------------------------------------------------------------------------------- */

static void c04_50_capsules_loaded_ends_every_pass_and_names_the_loaded_ones(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "zeta", RIG_ON("t.in", "see"), RIG_HANDLER);
    rig_install(&r, "alpha", RIG_ON("t.in", "see"), RIG_HANDLER);
    rig_install(&r, "bad", "", "(module (import \"x\" \"y\" (func)))");
    load_all(&r);
    struct ast_msg *m = rig_await(&r, "astrid.v1.capsules_loaded", 0);
    assert_str(m->body, "{\"capsule_ids\":[\"alpha\",\"zeta\"],\"status\":\"ready\"}");
    assert_int_equal(m->principal.n, 0);
    load_all(&r);
    (void)rig_await(&r, "astrid.v1.capsules_loaded", 1);
    assert_int_equal(rig_count(&r, "astrid.v1.lifecycle.capsule_loaded"),
                     2); /* nothing changed: nothing loaded */
    rig_close(&r);
}

static void c04_48_after_a_replacement_waiting_events_go_to_the_new_load(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "swap", RIG_ON("t.in", "wait"), RIG_HANDLER);
    load_all(&r);
    struct ast_uuid before = rig_row(&r, "swap").env->uuid;
    rig_publish(&r, "t.in", "alice", "{\"i\":1}");
    struct ast_msg *first = rig_await(&r, "t.out.wait", 0);
    assert_true(ast_uuid_eq(&first->source_id, &before));
    rig_publish(&r, "t.in", "alice", "{\"i\":2}");

    rig_install(&r, "swap", RIG_ON("t.in", "wait"), RIG_HANDLER_2);
    load_all(&r);
    struct ast_uuid after = rig_row(&r, "swap").env->uuid;
    assert_false(ast_uuid_eq(&before, &after));
    assert_false(r.host.capsule_holds(r.host.capsule_holds_arg, &before, AST_STR("uplink")));
    assert_int_equal(rig_count(&r, "t.out.wait"), 1); /* the call in flight is not disturbed */
    rig_publish(&r, "t.gate", "alice", "{}");
    struct ast_msg *second = rig_await(&r, "t.out.wait", 1);
    assert_str(second->body, "{\"i\":2}");
    assert_true(ast_uuid_eq(&second->source_id, &after));
    rig_publish(&r, "t.gate", "alice", "{}");
    rig_until(rig_row(&r, "swap").calls == 2);
    assert_int_equal(rig_row(&r, "swap").traps, 0);
    rig_close(&r);
}

static void waiters_of_a_busy_pool_move_to_the_new_load(void **state)
{
    struct rig r;
    rig_open(&r, &(struct rig_options){ .pool_max = 1 });
    rig_install(&r, "swap", RIG_ON("t.in", "wait"), RIG_HANDLER);
    load_all(&r);
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.wait", 0);
    rig_publish(&r, "t.in", "bob", "{}");
    rig_until(rig_row(&r, "swap").pool.waiting == 1);
    rig_install(&r, "swap", RIG_ON("t.in", "wait"), RIG_HANDLER_2);
    load_all(&r);
    struct ast_msg *moved =
        rig_await(&r, "t.out.wait", 1); /* while alice's call still waits on the old one */
    assert_str(moved->principal, "bob");
    struct ast_uuid after = rig_row(&r, "swap").env->uuid;
    assert_true(ast_uuid_eq(&moved->source_id, &after));
    rig_publish(&r, "t.gate", "alice", "{}");
    rig_until(rig_row(&r, "swap").calls == 2);
    rig_close(&r);
}

static void a_replacement_that_fails_keeps_the_one_that_runs(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "swap", RIG_ON("t.in", "see"), RIG_HANDLER);
    load_all(&r);
    rig_write(&r, AST_STR("{\"wasm_hash\":\"00\"}"), RIG_CAPSULES "/swap/meta.json");
    load_all(&r);
    assert_false(rig_row(&r, "swap").failed);
    (void)rig_await(&r, "astrid.v1.lifecycle.capsule_failed", 0);
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.see", 0);
    rig_close(&r);
}

static void a_removed_capsule_does_not_survive_a_pass_and_its_calls_are_cancelled(void **state)
{
    struct rig r;
    char dir[512];
    struct ast_err err = AST_ERR_INIT;
    rig_open(&r, NULL);
    rig_install(&r, "gone", RIG_ON("t.in", "wait"), RIG_HANDLER);
    load_all(&r);
    struct ast_uuid uuid = rig_row(&r, "gone").env->uuid;
    rig_publish(&r, "t.in", "alice", "{}");
    (void)rig_await(&r, "t.out.wait", 0);
    rig_publish(&r, "t.in", "alice", "{}"); /* waits: dropped with the capsule */
    assert_int_equal(ast_fs_remove_tree(rig_dir(&r, "gone", dir), NULL), AST_OK);
    load_all(&r);
    (void)rig_await(&r, "astrid.v1.lifecycle.capsule_unloaded", 0);
    assert_str(rig_await(&r, "astrid.v1.capsules_loaded", 1)->body,
               "{\"capsule_ids\":[],\"status\":\"ready\"}");
    assert_false(r.host.capsule_holds(r.host.capsule_holds_arg, &uuid, AST_STR("uplink")));
    assert_int_equal(ast_capsules_unload(r.capsules, AST_STR("gone"), &err), AST_E_NOT_FOUND);
    rig_publish(&r, "t.in", "alice", "{}");
    rig_close(&r);
}

static void a_second_capsule_in_one_role_is_refused_but_a_guard_is_welcome(void **state)
{
    struct rig r;
    struct ast_err err;
    rig_open(&r, NULL);
    rig_install(&r, "react", RIG_ON("user.v1.prompt", "see"), RIG_HANDLER);
    rig_install(&r, "other", RIG_ON("user.v1.prompt", "see"), RIG_HANDLER);
    rig_install(&r, "guard", RIG_ON_AT("user.v1.prompt", "go", "10"), RIG_HANDLER);
    assert_false(ast_capsules_serve(r.capsules, AST_STR("user.v1.prompt")));
    rig_load(&r, "react");
    rig_load(&r, "guard");
    assert_true(ast_capsules_serve(r.capsules, AST_STR("user.v1.prompt")));
    assert_false(ast_capsules_serve(r.capsules, AST_STR("user.v1.other")));
    assert_int_equal(try_load(&r, "other", &err), AST_E_EXISTS);
    assert_string_equal(
        err.msg, "Unsupported entry point: capsule 'other' handles 'user.v1.prompt', which capsule "
                 "'react' already serves; remove one of them");
    rig_close(&r);

    rig_open(&r, &(struct rig_options){ .allow_duplicate_roles = true });
    rig_install(&r, "react", RIG_ON("user.v1.prompt", "see"), RIG_HANDLER);
    rig_install(&r, "other", RIG_ON("user.v1.prompt", "see"), RIG_HANDLER);
    rig_load(&r, "react");
    rig_load(&r, "other");
    rig_close(&r);
}

static void capabilities_are_found_by_uuid(void **state)
{
    struct rig r;
    struct ast_uuid unknown = ast_uuid_v4();
    rig_open(&r, NULL);
    rig_install(&r, "up", "[capabilities]\nuplink = true\nnet = [\"a.example\"]\n", RIG_HANDLER);
    rig_load(&r, "up");
    struct ast_uuid uuid = rig_row(&r, "up").env->uuid;
    assert_true(r.host.capsule_holds(r.host.capsule_holds_arg, &uuid, AST_STR("uplink")));
    assert_false(r.host.capsule_holds(r.host.capsule_holds_arg, &uuid, AST_STR("kv")));
    assert_false(r.host.capsule_holds(r.host.capsule_holds_arg, &unknown, AST_STR("uplink")));
    rig_close(&r);
}

/* --- Configuration ---------------------------------------------------------------------------- */

#define ENV                                                                                        \
    "[env.ASTRID_SOCKET_PATH]\ntype = \"text\"\ndefault = \"/evil\"\n"                             \
    "[env.base_url]\ntype = \"text\"\ndefault = \"https://d.example\"\n"                           \
    "[env.models]\ntype = \"array\"\ndefault = \"[]\"\n"                                           \
    "[env.region]\ntype = \"select\"\nenum_values = [\"eu\", \"us\"]\ndefault = \"eu\"\n"          \
    "[env.API_KEY]\ntype = \"secret\"\nplaceholder = \"sk-...\"\n"
#define ENV_FILE "home/default/.config/env/conf.env.json"

static void c05_09_c05_10_the_socket_path_is_the_hosts_and_a_manifest_cannot_set_it(void **state)
{
    struct rig r;
    char path[512];
    rig_open(&r, NULL);
    rig_install(&r, "conf", ENV, RIG_HANDLER);
    rig_install(&r, "plain", "", RIG_HANDLER);
    rig_load(&r, "conf");
    rig_load(&r, "plain");
    snprintf(path, sizeof path, "%s/run/system.sock", r.home.root);
    assert_string_equal(config(&r, "conf", "ASTRID_SOCKET_PATH"), path);
    assert_string_equal(config(&r, "plain", "ASTRID_SOCKET_PATH"), path);
    struct ast_capsule_row row = rig_row(&r, "conf");
    for (size_t i = 0; i < row.env->declared_count; i++)
        assert_false(ast_str_is(row.env->declared[i], "ASTRID_SOCKET_PATH"));
    assert_int_equal(row.env->secret_key_count, 1);
    rig_close(&r);
}

static void defaults_hold_and_onboarding_asks_for_the_rest(void **state)
{
    struct rig r;
    rig_open(&r, NULL);
    rig_install(&r, "conf", ENV, RIG_HANDLER);
    rig_load(&r, "conf");
    assert_string_equal(config(&r, "conf", "base_url"), "https://d.example");
    assert_string_equal(config(&r, "conf", "region"), ""); /* a choice is always asked for */
    struct ast_msg *m = rig_await(&r, "astrid.v1.onboarding.required", 0);
    assert_int_equal(m->kind, AST_PAYLOAD_ONBOARDING_REQUIRED);
    assert_str(
        m->body,
        "{\"type\":\"onboarding_required\",\"capsule_id\":\"conf\",\"fields\":["
        "{\"key\":\"API_KEY\",\"prompt\":\"Please enter value for API_KEY\",\"field_type\":\"Secret\","
        "\"placeholder\":\"sk-...\"},"
        "{\"key\":\"region\",\"prompt\":\"Please enter value for region\",\"field_type\":{\"Enum\":[\"eu\",\"us\"]},"
        "\"default\":\"eu\"}]}");
    rig_close(&r);
}

static void the_env_file_is_the_truth_arrays_are_text_and_secrets_move_to_their_store(void **state)
{
    struct rig r;
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf secret = AST_BUF_INIT(100), file = AST_BUF_INIT(4096);
    char path[512];
    bool found = false;
    rig_open(&r, NULL);
    rig_install(&r, "conf", ENV, RIG_HANDLER);
    rig_check(ast_kv_set(r.store, AST_STR("default:capsule:conf"), AST_STR("base_url"),
                         AST_STR("old"), &err),
              &err);
    rig_write(
        &r,
        AST_STR("{\"models\":[\"a\", 1],\"region\":\"us\",\"API_KEY\":\"s3cret\",\"extra\":\"x\"}"),
        ENV_FILE);
    rig_load(&r, "conf");
    assert_string_equal(config(&r, "conf", "models"), "[\"a\",1]");
    assert_string_equal(config(&r, "conf", "region"), "us");
    assert_string_equal(config(&r, "conf", "base_url"),
                        "https://d.example"); /* not the store's old copy */
    assert_null(config(&r, "conf", "extra"));
    assert_int_equal(rig_count(&r, "astrid.v1.onboarding.required"), 0);
    rig_check(ast_secrets_get(r.home.root, AST_STR("default"), AST_STR("conf"), AST_STR("API_KEY"),
                              &secret, &found, &err),
              &err);
    assert_true(found);
    assert_str(ast_buf_view(&secret), "s3cret");
    snprintf(path, sizeof path, "%s/" ENV_FILE, r.home.root);
    rig_check(ast_fs_read(path, 4096, &file, &err), &err);
    assert_true(ast_str_find(ast_buf_view(&file), AST_STR("s3cret")) == AST_STR_NPOS);
    assert_true(ast_str_find(ast_buf_view(&file), AST_STR("extra")) != AST_STR_NPOS);

    rig_write(&r, AST_STR("{\"region\":\"eu\"}"), ENV_FILE); /* a reload sees it */
    load_all(&r);
    assert_string_equal(config(&r, "conf", "region"), "eu");
    assert_string_equal(config(&r, "conf", "models"), "[]");
    assert_int_equal(rig_count(&r, "astrid.v1.onboarding.required"),
                     0); /* the stored secret satisfies */
    rig_close(&r);
}

static void without_a_file_the_store_is_the_fallback(void **state)
{
    struct rig r;
    struct ast_err err = AST_ERR_INIT;
    struct ast_str ns = AST_STR("default:capsule:conf");
    rig_open(&r, NULL);
    rig_install(&r, "conf", ENV, RIG_HANDLER);
    rig_check(ast_kv_set(r.store, ns, AST_STR("base_url"), AST_STR("old"), &err), &err);
    rig_check(ast_kv_set(r.store, ns, AST_STR("models"), AST_STR("\xff"), &err), &err);
    rig_check(ast_kv_set(r.store, ns, AST_STR("__secret:API_KEY"), AST_STR("k"), &err), &err);
    rig_load(&r, "conf");
    assert_string_equal(config(&r, "conf", "base_url"), "old");
    struct ast_str body = rig_await(&r, "astrid.v1.onboarding.required", 0)->body;
    assert_true(ast_str_find(body, AST_STR("\"models\"")) != AST_STR_NPOS); /* invalid UTF-8 */
    assert_true(ast_str_find(body, AST_STR("API_KEY")) == AST_STR_NPOS);
    rig_close(&r);
}

static void c05_12_a_broken_or_oversized_env_file_is_ignored(void **state)
{
    struct rig r;
    static char big[1024 * 1024 + 64];
    memset(big, ' ', sizeof big);
    memcpy(big, "{\"base_url\":\"x\"}", 16);
    const struct ast_str files[] = { AST_STR("{\"base_url\":"), AST_STR("[1]"),
                                     ast_str_n(big, sizeof big) };
    for (size_t k = 0; k < AST_ARRAY_LEN(files); k++) {
        rig_open(&r, NULL);
        rig_install(&r, "conf", ENV, RIG_HANDLER);
        rig_write(&r, files[k], ENV_FILE);
        rig_load(&r, "conf");
        assert_string_equal(config(&r, "conf", "base_url"), "https://d.example");
        rig_close(&r);
    }
}

/* --- Hooks ------------------------------------------------------------------------------------ */

/* Install traps; upgrade stores get-config("prev_version") under "prev" in the capsule's
 * key-value namespace. */
#define HOOKS                                                                                                \
    "(module " RIG_IMPORTS RIG_FRAME RIG_HOOK "(data (i32.const 2200) \"prev\")"                             \
    "(func (export \"astrid-install\") (unreachable))"                                                       \
    "(func (export \"astrid-upgrade\")"                                                                      \
    "  (call $config (i32.const 2180) (i32.const 12) (i32.const 5400))"                                      \
    "  (call $publish (i32.const 1024) (i32.const 6) (i32.const 2150) (i32.const 7) (i32.const 5000))"       \
    "  (call $kv_set (i32.const 2200) (i32.const 4) (i32.load (i32.const 5408)) (i32.load (i32.const 5412))" \
    "    (i32.const 5500))))"

static void c05_60_an_upgrade_hook_reads_prev_version_and_its_writes_stay(void **state)
{
    struct rig r;
    struct ast_err err = AST_ERR_INIT;
    char dir[512];
    bool found = false;
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1 << 20), value = AST_BUF_INIT(100);
    AST_AUTO(ast_manifest_free) struct ast_manifest *m = NULL;
    rig_open(&r, NULL);
    rig_install(&r, "hooked", "", HOOKS);
    rig_dir(&r, "hooked", dir);
    rig_check(ast_manifest_load(dir, &m, &err), &err);
    rig_check(ast_wat_compile(AST_STR(HOOKS), &wasm, &err), &err);
    rig_check(ast_capsules_run_install_hook(r.capsules, m, ast_buf_view(&wasm), dir, true,
                                            AST_STR("0.9.1"), &err),
              &err);
    rig_check(ast_store_get(r.store, AST_STR("default:capsule:hooked"), AST_STR("prev"), &value,
                            &found, &err),
              &err);
    assert_true(found);
    assert_str(ast_buf_view(&value), "0.9.1");
    assert_int_equal(rig_count(&r, "t.out."), 0); /* no topics for hooks */

    assert_int_not_equal(ast_capsules_run_install_hook(r.capsules, m, ast_buf_view(&wasm), dir,
                                                       false, AST_STR_NONE, &err),
                         AST_OK);
    assert_non_null(strstr(err.msg, "Execution failed: lifecycle hook astrid-install failed: "));
    rig_close(&r);
}

static void a_capsule_without_hooks_installs_silently(void **state)
{
    struct rig r;
    struct ast_err err = AST_ERR_INIT;
    char dir[512];
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1 << 20);
    AST_AUTO(ast_manifest_free) struct ast_manifest *m = NULL;
    rig_open(&r, NULL);
    rig_install(&r, "plain", "", RIG_HANDLER);
    rig_check(ast_manifest_load(rig_dir(&r, "plain", dir), &m, &err), &err);
    rig_check(ast_wat_compile(AST_STR(RIG_HANDLER), &wasm, &err), &err);
    rig_check(ast_capsules_run_install_hook(r.capsules, m, ast_buf_view(&wasm), dir, false,
                                            AST_STR_NONE, &err),
              &err);
    rig_close(&r);
}

/* --- Races ------------------------------------------------------------------------------------ */

static void *flood(void *arg)
{
    struct rig *r = arg;
    for (int i = 0; i < 3000; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d", i % 7);
        rig_publish(r, "t.in", name, "{}");
        if (i % 20 == 0)
            sched_yield();
    }
    return NULL;
}

static void reloads_under_load_lose_nobody_and_crash_nothing(void **state)
{
    struct rig r;
    pthread_t thread;
    rig_open(&r, &(struct rig_options){ .pool_max = 2 });
    rig_install(&r, "busy", RIG_ON("t.in", "n"), RIG_HANDLER);
    load_all(&r);
    assert_int_equal(pthread_create(&thread, NULL, flood, &r), 0);
    for (int i = 0; i < 12; i++) {
        rig_install(&r, "busy", RIG_ON("t.in", "n"), i % 2 ? RIG_HANDLER : RIG_HANDLER_2);
        load_all(&r);
    }
    pthread_join(thread, NULL);
    rig_until(rig_row(&r, "busy").calls + rig_row(&r, "busy").dropped == 3000);
    assert_int_equal(rig_row(&r, "busy").traps, 0);
    struct ast_str labels[] = { AST_STR("busy"), AST_STR("closed") };
    assert_int_equal(ast_metric_value(ast_metric_cell(AST_METRIC_DISPATCH_DROPPED, labels, 2)), 0);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c05_01_a_binary_with_another_hash_does_not_load_and_both_hashes_are_named),
        cmocka_unit_test(the_manifests_own_hash_counts_too),
        cmocka_unit_test(c05_02_a_capsule_without_hash_does_not_load),
        cmocka_unit_test(c05_03_without_the_local_file_the_content_store_is_read),
        cmocka_unit_test(c05_04_an_unknown_import_is_refused_by_name),
        cmocka_unit_test(c05_07_merged_stubs_are_no_entry_points),
        cmocka_unit_test(c05_08_c04_53_a_run_loop_has_one_instance_and_lists_its_handlers),
        cmocka_unit_test(c04_54_too_many_handlers_on_a_run_loop_are_refused),
        cmocka_unit_test(c05_58_a_silent_loop_delays_its_group_by_half_a_second),
        cmocka_unit_test(
            c05_57_c04_47_a_loop_that_returns_is_reported_and_restarted_with_a_new_uuid),
        cmocka_unit_test(c04_49_c01_49_a_crash_loop_is_given_up_after_five_attempts),
        cmocka_unit_test(a_restart_that_cannot_load_is_tried_again_from_its_directory),
        cmocka_unit_test(
            c05_56_c04_55_a_bounded_loop_that_never_waits_is_ended_after_three_windows),
        cmocka_unit_test(c04_50_capsules_loaded_ends_every_pass_and_names_the_loaded_ones),
        cmocka_unit_test(c04_48_after_a_replacement_waiting_events_go_to_the_new_load),
        cmocka_unit_test(waiters_of_a_busy_pool_move_to_the_new_load),
        cmocka_unit_test(a_replacement_that_fails_keeps_the_one_that_runs),
        cmocka_unit_test(a_removed_capsule_does_not_survive_a_pass_and_its_calls_are_cancelled),
        cmocka_unit_test(a_second_capsule_in_one_role_is_refused_but_a_guard_is_welcome),
        cmocka_unit_test(capabilities_are_found_by_uuid),
        cmocka_unit_test(c05_09_c05_10_the_socket_path_is_the_hosts_and_a_manifest_cannot_set_it),
        cmocka_unit_test(defaults_hold_and_onboarding_asks_for_the_rest),
        cmocka_unit_test(the_env_file_is_the_truth_arrays_are_text_and_secrets_move_to_their_store),
        cmocka_unit_test(without_a_file_the_store_is_the_fallback),
        cmocka_unit_test(c05_12_a_broken_or_oversized_env_file_is_ignored),
        cmocka_unit_test(c05_60_an_upgrade_hook_reads_prev_version_and_its_writes_stay),
        cmocka_unit_test(a_capsule_without_hooks_installs_silently),
        cmocka_unit_test(reloads_under_load_lose_nobody_and_crash_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
