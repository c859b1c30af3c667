/* A daemon without doors for the tests of src/capsule: a private home, a real bus, engine,
 * scheduler, store and policy, capsules written from text, and a tap that remembers every event. */
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/thread.h"
#include "base/time.h"
#include "bus/event.h"
#include "capsule/registry.h"
#include "crypto/hash.h"
#include "store/kv.h"

/* --- Guests ----------------------------------------------------------------------------------- */

#define RIG_IPC "\"astrid:ipc/host@1.0.0\""
#define RIG_SYS "\"astrid:sys/host@1.0.0\""
#define RIG_IMPORTS                                                                                \
    "(import " RIG_IPC " \"publish\" (func $publish (param i32 i32 i32 i32 i32)))"                 \
    "(import " RIG_IPC " \"subscribe\" (func $subscribe (param i32 i32 i32)))"                     \
    "(import " RIG_IPC " \"[method]subscription.recv\" (func $recv (param i32 i64 i32)))"          \
    "(import " RIG_SYS " \"signal-ready\" (func $ready))"                                          \
    "(import " RIG_SYS " \"get-config\" (func $config (param i32 i32 i32)))"                       \
    "(import " RIG_SYS " \"sleep-ns\" (func $sleep (param i64 i32)))"                              \
    "(import \"astrid:kv/host@1.0.0\" \"kv-set\" (func $kv_set (param i32 i32 i32 i32 i32)))"

#define RIG_FRAME                                                                                  \
    "(memory (export \"memory\") 4)"                                                               \
    "(global $heap (mut i32) (i32.const 131072))"                                                  \
    "(data (i32.const 1024) \"t.out.\")"                                                           \
    "(data (i32.const 2000) \"t.gate\")"                                                           \
    "(data (i32.const 2100) \"continue\") (data (i32.const 2110) \"deny\")"                        \
    "(data (i32.const 2120) \"abort\") (data (i32.const 2130) \"final\")"                          \
    "(data (i32.const 2140) \"modify\") (data (i32.const 2150) \"{\\22m\\22:1}\")"                 \
    "(data (i32.const 2170) \"no way\") (data (i32.const 2180) \"prev_version\")"                  \
    "(func (export \"cabi_realloc\")"                                                              \
    "    (param i32 i32) (param $align i32) (param $n i32) (result i32) (local $p i32)"            \
    "  (local.set $p (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))"         \
    "  (global.set $heap (i32.add (local.get $p) (local.get $n)))"                                 \
    "  (block $done (loop $more"                                                                   \
    "    (br_if $done (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))"    \
    "    (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))"           \
    "    (br $more)))"                                                                             \
    "  (local.get $p))"                                                                            \
    "(func (export \"cabi_post_astrid-hook-trigger\") (param i32) (global.set $heap (i32.const 131072)))"

/* The first letter of the action says what the handler does after it published its payload on t.out.<action>:
 *   n publish nothing    w wait on t.gate    t trap     l loop for ever    o use up the stack   b grow memory for ever
 *   d deny with reason   D deny without      a abort    f final            u unknown word with data
 *   m continue with {"m":1} as data          e continue with empty data    else continue without data */
#define RIG_HOOK                                                                                           \
    "(func $deep (param i32) (result i32)"                                                                 \
    "  (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))"                        \
    "(func (export \"astrid-hook-trigger\")"                                                               \
    "    (param $ap i32) (param $al i32) (param $pp i32) (param $pl i32) (result i32) (local $c i32)"      \
    "  (local.set $c (i32.load8_u (local.get $ap)))"                                                       \
    "  (memory.copy (i32.const 1030) (local.get $ap) (local.get $al))"                                     \
    "  (if (i32.eq (local.get $c) (i32.const 119))"                                                        \
    "    (then (call $subscribe (i32.const 2000) (i32.const 6) (i32.const 5200))))"                        \
    "  (if (i32.ne (local.get $c) (i32.const 110))"                                                        \
    "    (then (call $publish (i32.const 1024) (i32.add (local.get $al) (i32.const 6))"                    \
    "      (local.get $pp) (local.get $pl) (i32.const 5000))))"                                            \
    "  (if (i32.eq (local.get $c) (i32.const 119))"                                                        \
    "    (then (call $recv (i32.load (i32.const 5204)) (i64.const 60000) (i32.const 5304))))"              \
    "  (if (i32.eq (local.get $c) (i32.const 116)) (then (unreachable)))"                                  \
    "  (if (i32.eq (local.get $c) (i32.const 108)) (then (loop $l (br $l))))"                              \
    "  (if (i32.eq (local.get $c) (i32.const 111)) (then (drop (call $deep (i32.const 0)))))"              \
    "  (if (i32.eq (local.get $c) (i32.const 98)) (then (loop $l"                                          \
    "    (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))))"                                \
    "  (i32.store (i32.const 2048) (i32.const 2100)) (i32.store (i32.const 2052) (i32.const 8))"           \
    "  (i32.store8 (i32.const 2056) (i32.const 0))"                                                        \
    "  (i32.store (i32.const 2060) (i32.const 2150)) (i32.store (i32.const 2064) (i32.const 7))"           \
    "  (if (i32.or (i32.eq (local.get $c) (i32.const 100)) (i32.eq (local.get $c) (i32.const 68)))"        \
    "    (then (i32.store (i32.const 2048) (i32.const 2110)) (i32.store (i32.const 2052) (i32.const 4))))" \
    "  (if (i32.eq (local.get $c) (i32.const 100)) (then (i32.store8 (i32.const 2056) (i32.const 1))"      \
    "    (i32.store (i32.const 2060) (i32.const 2170)) (i32.store (i32.const 2064) (i32.const 6))))"       \
    "  (if (i32.eq (local.get $c) (i32.const 97)) (then (i32.store (i32.const 2048) (i32.const 2120))"     \
    "    (i32.store (i32.const 2052) (i32.const 5))))"                                                     \
    "  (if (i32.eq (local.get $c) (i32.const 102)) (then (i32.store (i32.const 2048) (i32.const 2130))"    \
    "    (i32.store (i32.const 2052) (i32.const 5))))"                                                     \
    "  (if (i32.eq (local.get $c) (i32.const 117)) (then (i32.store (i32.const 2048) (i32.const 2140))"    \
    "    (i32.store (i32.const 2052) (i32.const 6)) (i32.store8 (i32.const 2056) (i32.const 1))))"         \
    "  (if (i32.eq (local.get $c) (i32.const 109)) (then (i32.store8 (i32.const 2056) (i32.const 1))))"    \
    "  (if (i32.eq (local.get $c) (i32.const 101)) (then (i32.store8 (i32.const 2056) (i32.const 1))"      \
    "    (i32.store (i32.const 2064) (i32.const 0))))"                                                     \
    "  (i32.const 2048))"

/* Changes the hash, nothing else. */
#define RIG_STAMP(text) "(data (i32.const 9000) \"" text "\")"
#define RIG_HANDLER     "(module " RIG_IMPORTS RIG_FRAME RIG_HOOK ")"
#define RIG_HANDLER_2   "(module " RIG_IMPORTS RIG_FRAME RIG_STAMP("two") RIG_HOOK ")"
/* A capsule with a run loop of that body. */
#define RIG_LOOP(body) "(module " RIG_IMPORTS RIG_FRAME RIG_HOOK "(func (export \"run\") " body "))"

/* --- The rig ---------------------------------------------------------------------------------- */

struct rig_event {
    struct ast_msg *msg; /* owned */
};

struct rig {
    struct ast_home home;
    struct ast_bus *bus;
    struct ast_store *store;
    struct ast_policy *policy;
    struct ast_engine *engine;
    struct ast_sched *sched;
    struct ast_host host;
    struct ast_capsules *capsules;
    struct ast_tap *tap;
    pthread_mutex_t m;
    pthread_cond_t changed;
    struct ast_msg **events; /* owned references, in order of arrival */
    size_t n, cap;
};

static void rig_check(enum ast_rc rc, const struct ast_err *err)
{
    if (rc)
        fail_msg("%s: %s", ast_rc_name(rc), err->msg);
}

/* cmocka puts its own fault handlers in front of the engine's before every test; the engine
 * installs its own once per process: remember them, put them back. */
static void rig_keep_fault_handlers(void)
{
    static const int signals[] = { SIGSEGV, SIGILL, SIGFPE, SIGBUS };
    static struct sigaction ours[AST_ARRAY_LEN(signals)];
    static bool has_ours;
    for (size_t k = 0; k < AST_ARRAY_LEN(signals); k++)
        assert_int_equal(
            sigaction(signals[k], has_ours ? &ours[k] : NULL, has_ours ? NULL : &ours[k]), 0);
    has_ours = true;
}

static void rig_on_event(void *arg, struct ast_msg *msg)
{
    struct rig *r = arg;
    pthread_mutex_lock(&r->m);
    if (r->n == r->cap) {
        r->cap = r->cap ? r->cap * 2 : 64;
        r->events = realloc(r->events, r->cap * sizeof(struct ast_msg *));
        if (!r->events)
            abort();
    }
    r->events[r->n++] = ast_msg_ref(msg);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->m);
}

struct rig_options {
    unsigned pool_max, workers;
    const char *workspace;
    bool bare; /* no policy bootstrap: `default` is a plain agent */
    bool allow_duplicate_roles;
};

static void rig_open(struct rig *r, const struct rig_options *opt)
{
    static const struct rig_options usual = { 0 };
    char root[] = "/tmp/astrid-capsule-XXXXXX";
    struct ast_err err = AST_ERR_INIT;

    opt = opt ? opt : &usual;
    *r = (struct rig){ .m = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    assert_non_null(mkdtemp(root));
    rig_check(ast_home_at(root, &r->home, &err), &err);
    rig_check(ast_home_ensure(&r->home, &err), &err);
    rig_check(ast_home_ensure_principal(&r->home, AST_PRINCIPAL_DEFAULT, &err), &err);
    rig_check(ast_bus_new(&r->bus, &err), &err);
    AST_AUTO(ast_cfree) char *path = ast_home_path(&r->home, AST_HOME_STORE);
    rig_check(
        ast_store_open(
            &(struct ast_store_config){ .path = path, .no_sync = true, .max_bytes = 64 << 20 },
            &r->store, &err),
        &err);
    rig_check(ast_policy_open(&r->home, &r->policy, &err), &err);
    if (!opt->bare)
        ast_policy_bootstrap(r->policy);
    rig_check(
        ast_engine_new(&(struct ast_engine_config){ .host = ast_host_imports(), .instances = 128 },
                       &r->engine, &err),
        &err);
    rig_keep_fault_handlers();
    rig_check(ast_sched_new(r->engine, opt->workers, &r->sched, &err), &err);
    r->host = (struct ast_host){
        .home = &r->home, .bus = r->bus, .store = r->store, .policy = r->policy, .sched = r->sched
    };
    rig_check(ast_tap_open(r->bus, "test", AST_STR_NONE, rig_on_event, r, &r->tap, &err), &err);
    const struct ast_capsules_config config = {
        .host = &r->host,
        .engine = r->engine,
        .workspace = opt->workspace,
        .session = ast_uuid_v4(),
        .pool_max = opt->pool_max,
        .allow_duplicate_roles = opt->allow_duplicate_roles,
    };
    rig_check(ast_capsules_new(&config, &r->capsules, &err), &err);
}

static void rig_close(struct rig *r)
{
    ast_capsules_free(r->capsules);
    ast_tap_close(r->tap);
    ast_sched_free(r->sched);
    ast_engine_free(r->engine);
    ast_policy_close(r->policy);
    ast_store_close(r->store);
    ast_bus_free(r->bus);
    for (size_t i = 0; i < r->n; i++)
        ast_msg_unref(r->events[i]);
    free(r->events);
    assert_int_equal(ast_fs_remove_tree(r->home.root, NULL), AST_OK);
    ast_home_done(&r->home);
}

/* --- Files ------------------------------------------------------------------------------------ */

static void rig_write(struct rig *r, struct ast_str text, const char *fmt, ...) AST_PRINTF(3, 4);
static void rig_write(struct rig *r, struct ast_str text, const char *fmt, ...)
{
    char path[512], rel[400];
    struct ast_err err = AST_ERR_INIT;
    va_list args;

    va_start(args, fmt);
    vsnprintf(rel, sizeof rel, fmt, args);
    va_end(args);
    snprintf(path, sizeof path, "%s/%s", r->home.root, rel);
    *strrchr(path, '/') = 0;
    rig_check(ast_fs_mkdirs(path, 0700, &err), &err);
    snprintf(path, sizeof path, "%s/%s", r->home.root, rel);
    rig_check(ast_fs_write_atomic(path, text, 0600, 0, &err), &err);
}

#define RIG_CAPSULES "home/default/.local/capsules"

static const char *rig_dir(struct rig *r, const char *id, char out[static 512])
{
    snprintf(out, 512, "%s/" RIG_CAPSULES "/%s", r->home.root, id);
    return out;
}

/* Writes an installed capsule: manifest with `rest` behind the usual head, the binary,
 * meta.json. */
static void rig_install(struct rig *r, const char *id, const char *rest, const char *wat)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1 << 20);
    char toml[16384], meta[512], hash[AST_BLAKE3_HEX];

    rig_check(ast_wat_compile(ast_str_c(wat), &wasm, &err), &err);
    ast_blake3_hex(ast_buf_view(&wasm), hash);
    snprintf(
        toml, sizeof toml,
        "[package]\nname = \"%s\"\nversion = \"1.0.0\"\n[[component]]\nid = \"main\"\nfile = \"main.wasm\"\n"
        "[publish]\n\"t.out.*\" = { wit = \"opaque\" }\n%s",
        id, rest);
    snprintf(meta, sizeof meta, "{\"version\":\"1.0.0\",\"wasm_hash\":\"%s\"}", hash);
    rig_write(r, ast_str_c(toml), RIG_CAPSULES "/%s/Capsule.toml", id);
    rig_write(r, ast_buf_view(&wasm), RIG_CAPSULES "/%s/main.wasm", id);
    rig_write(r, ast_str_c(meta), RIG_CAPSULES "/%s/meta.json", id);
}

static __attribute__((unused)) void rig_load(struct rig *r, const char *id)
{
    char dir[512];
    struct ast_err err = AST_ERR_INIT;
    rig_check(ast_capsules_load(r->capsules, rig_dir(r, id, dir), &err), &err);
}

/* rest of a manifest with one handler */
#define RIG_ON(topic, action)                                                                      \
    "[subscribe]\n\"" topic "\" = { wit = \"opaque\", handler = \"" action "\" }\n"                \
    "\"t.gate\" = \"opaque\"\n"
#define RIG_ON_AT(topic, action, priority)                                                         \
    "[subscribe]\n\"" topic "\" = { wit = \"opaque\", handler = \"" action                         \
    "\", priority = " priority " }\n"                                                              \
    "\"t.gate\" = \"opaque\"\n"

static __attribute__((unused)) void rig_profile(struct rig *r, const char *principal,
                                                const char *text)
{
    rig_write(r, ast_str_c(text), AST_HOME_PROFILES "/%s.toml", principal);
    ast_policy_invalidate(r->policy, ast_str_c(principal));
}

/* --- Events ----------------------------------------------------------------------------------- */

static void rig_publish(struct rig *r, const char *topic, const char *principal, const char *json)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg = NULL;
    const struct ast_msg_spec spec = { .topic = ast_str_c(topic),
                                       .principal = ast_str_c(principal) };
    rig_check(ast_msg_from_json(&spec, ast_str_c(json), &msg, &err), &err);
    (void)ast_bus_publish(r->bus, msg);
}

/* The nth event (from 0) on that topic so far, or NULL; under the lock. */
static struct ast_msg *rig_nth(struct rig *r, const char *topic, size_t nth)
{
    for (size_t i = 0; i < r->n; i++)
        if (ast_str_eq(r->events[i]->topic, ast_str_c(topic)) && nth-- == 0)
            return r->events[i];
    return NULL;
}

/* Waits for it; fails the test after ten seconds (a liveness bound, not a measure). Borrowed
 * until rig_close(). */
static __attribute__((unused)) struct ast_msg *rig_await(struct rig *r, const char *topic,
                                                         size_t nth)
{
    struct timespec until;
    struct ast_msg *msg;
    int rc = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    pthread_mutex_lock(&r->m);
    while (!(msg = rig_nth(r, topic, nth)) && rc == 0)
        rc = pthread_cond_timedwait(&r->changed, &r->m, &until);
    pthread_mutex_unlock(&r->m);
    if (!msg)
        fail_msg("no event %zu on %s", nth, topic);
    return msg;
}

static __attribute__((unused)) size_t rig_count(struct rig *r, const char *topic)
{
    pthread_mutex_lock(&r->m);
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++)
        n += ast_str_eq(r->events[i]->topic, ast_str_c(topic));
    pthread_mutex_unlock(&r->m);
    return n;
}

/* Spins until `cond` is true; for conditions another thread brings about at once. */
#define rig_until(cond)                                                                            \
    do {                                                                                           \
        int64_t until_ = ast_mono_ns() + 10 * AST_NS_PER_SEC;                                      \
        while (!(cond)) {                                                                          \
            if (ast_mono_ns() > until_)                                                            \
                fail_msg("never: %s", #cond);                                                      \
            sched_yield();                                                                         \
        }                                                                                          \
    } while (0)

struct rig_find {
    const char *id;
    bool found;
    struct ast_capsule_row row;
};
static bool rig_find_each(void *arg, const struct ast_capsule_row *row)
{
    struct rig_find *f = arg;
    if (!ast_str_eq(row->id, ast_str_c(f->id)))
        return true;
    f->found = true;
    f->row = *row;
    return false;
}
/* The capsule's row; its views hold while the capsule stays loaded. */
static __attribute__((unused)) struct ast_capsule_row rig_row(struct rig *r, const char *id)
{
    struct rig_find f = { .id = id };
    ast_capsules_each(r->capsules, rig_find_each, &f);
    if (!f.found)
        fail_msg("%s is not registered", id);
    return f.row;
}

#define assert_str(view, text)                                                                     \
    do {                                                                                           \
        struct ast_str v_ = (view);                                                                \
        if (!ast_str_eq(v_, ast_str_c(text)))                                                      \
            fail_msg("'" AST_STR_FMT "' is not '%s'", AST_STR_ARG(v_), text);                      \
    } while (0)
