/* A whole small kernel around one capsule: home, store, bus, policy, engine, and the guest of
 * tests/guests/probe.c, which answers a script of host calls with one line each.
 *
 * The guest is compiled once per program; everything else is fresh for each test. The path of the guest is
 * argv[1] (see RIG_MAIN).
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/json.h"
#include "base/thread.h"
#include "base/time.h"
#include "bus/route.h"
#include "host/env.h"
#include "host/host_priv.h"
#include "store/kv.h"
#include "store/secrets.h"

#define RIG_PATIENCE_NS (20 * AST_NS_PER_SEC) /* a wait that lasts longer has hung */
#define RIG_CAPSULE     "probe"
#ifndef RIG_HOST /* a test may add host functions of its own */
#define RIG_HOST ast_host_imports
#endif

/* Per program. */
static struct {
    struct ast_engine *engine;
    struct ast_module *module;
    const char *guest; /* path */
} rig_shared;

struct rig {
    char dir[64];
    struct ast_home home;
    struct ast_store *store;
    struct ast_bus *bus;
    struct ast_policy *policy;
    struct ast_sched *sched;
    struct ast_pool *pool;
    struct ast_tap *tap;
    struct ast_key key;
    struct ast_allowances *allowances;
    struct ast_host host;
    struct ast_host_env env;

    struct ast_lock lock;
    pthread_cond_t changed;
    AST_VEC(struct ast_msg *)
    seen AST_GUARDED_BY(lock); /* references, in bus order, without the tests' own */
    unsigned ready AST_GUARDED_BY(lock);
    bool other_holds; /* the capability of another capsule */
};

/* One guest call. */
struct rig_call {
    struct ast_host_call host; /* first: ast_abi_user() */
    struct rig *rig;
    struct ast_call *call; /* reference */
    struct ast_instance *instance;
    struct ast_pool_waiter waiter;
    const char *action;
    char *script;
    bool is_done; /* under the rig's lock */
    enum ast_rc rc;
    char error[320];
    char *text; /* what the guest answered; NUL-terminated */
};

/* --- Setting up ---------------------------------------------------------------------------------- */

static void rig_on_ready(void *arg)
{
    struct rig *r = arg;
    AST_WITH_LOCK(&r->lock);
    r->ready++;
    pthread_cond_broadcast(&r->changed);
}

static void rig_on_message(void *arg, struct ast_msg *msg)
{
    struct rig *r = arg;
    if (msg->publisher.n == 0)
        return; /* published by the test */
    AST_WITH_LOCK(&r->lock);
    (void)ast_vec_push(&r->seen, ast_msg_ref(msg));
    pthread_cond_broadcast(&r->changed);
}

static bool rig_holds(void *arg, const struct ast_uuid *uuid, struct ast_str capability)
{
    struct rig *r = arg;
    if (!ast_uuid_eq(uuid, &r->env.uuid))
        return false;
    for (size_t i = 0; i < r->env.held_count; i++)
        if (ast_str_eq(r->env.held[i], capability))
            return true;
    return false;
}

#define RIG_OK(expr)                                                                               \
    do {                                                                                           \
        struct ast_err err = AST_ERR_INIT;                                                         \
        if (expr)                                                                                  \
            fail_msg("%s: %s", #expr, err.msg);                                                    \
    } while (0)

static struct ast_str rig_publishes[] = { { "out.*", 5 }, { "bench.*", 7 } };
static struct ast_str rig_subscribes[] = {
    { "in.*", 4 }, { "out.*", 5 }, { "astrid.v1.*", 11 }, { "a.*.b", 5 }, { "*", 1 }
};

static int rig_setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    assert_non_null(r);
    (void)snprintf(r->dir, sizeof r->dir, "/tmp/ast-host-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    ast_lock_init(&r->lock, AST_LOCK_metrics);
    ast_cond_init(&r->changed);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/home-tree", r->dir);
    RIG_OK(ast_home_at(path, &r->home, &err));
    RIG_OK(ast_home_ensure(&r->home, &err));
    RIG_OK(ast_home_ensure_principal(&r->home, AST_PRINCIPAL_DEFAULT, &err));
    (void)snprintf(path, sizeof path, "%s/db", r->dir);
    struct ast_store_config store = { .path = path, .no_sync = true };
    RIG_OK(ast_store_open(&store, &r->store, &err));
    static const uint8_t seed[AST_KEY_SEED_BYTES] = { 7 };
    RIG_OK(ast_key_from_seed(&r->key, seed, &err));
    RIG_OK(ast_allowances_new(r->store, &r->key, &r->allowances, &err));
    RIG_OK(ast_bus_new(&r->bus, &err));
    RIG_OK(ast_policy_open(&r->home, &r->policy, &err));
    RIG_OK(ast_sched_new(rig_shared.engine, 2, &r->sched, &err));
    RIG_OK(ast_tap_open(r->bus, "test", AST_STR(""), rig_on_message, r, &r->tap, &err));
    r->host = (struct ast_host){
        .home = &r->home,
        .bus = r->bus,
        .store = r->store,
        .policy = r->policy,
        .sched = r->sched,
        .allowances = r->allowances,
        .capsule_holds = rig_holds,
        .capsule_holds_arg = r,
    };
    r->env.host = &r->host;
    r->env.capsule_id = AST_STR(RIG_CAPSULE);
    r->env.uuid = ast_uuid_v4();
    RIG_OK(ast_principal_parse(AST_PRINCIPAL_DEFAULT, &r->env.owner, &err));
    r->env.publish_acl = rig_publishes;
    r->env.publish_acl_count = AST_ARRAY_LEN(rig_publishes);
    r->env.subscribe_acl = rig_subscribes;
    r->env.subscribe_acl_count = AST_ARRAY_LEN(rig_subscribes);
    r->env.on_ready = rig_on_ready;
    r->env.on_ready_arg = r;
    RIG_OK(ast_limiter_new(&r->env.limiter, &err));
    RIG_OK(ast_permits_new(4, &r->env.blocking, &err));
    RIG_OK(ast_permits_new(64, &r->env.io, &err));
    *state = r;
    return 0;
}

static int rig_teardown(void **state)
{
    struct rig *r = *state;
    ast_sched_free(r->sched);
    ast_pool_free(r->pool);
    ast_host_env_done(&r->env);
    ast_permits_free(r->env.io);
    ast_permits_free(r->env.blocking);
    ast_limiter_free(r->env.limiter);
    ast_tap_close(r->tap);
    ast_vec_each (&r->seen, m)
        ast_msg_unref(*m);
    ast_vec_done(&r->seen);
    ast_policy_close(r->policy);
    ast_bus_free(r->bus);
    ast_store_close(r->store);
    ast_allowances_free(r->allowances);
    ast_key_done(&r->key);
    ast_home_done(&r->home);
    ast_lock_done(&r->lock);
    int rc = ast_fs_remove_tree(r->dir, NULL) ? -1 : 0;
    free(r);
    return rc;
}

/* One instance that keeps its handles between calls, unless a test asks for a pool of its own. */
static void rig_pool(struct rig *r, unsigned max, bool pinned)
{
    struct ast_pool_config cfg = {
        .max = max,
        .idle_max = max,
        .pinned = pinned,
        .make = ast_host_instance_make,
        .reset = ast_host_instance_reset,
        .free = ast_host_instance_free,
        .arg = &r->env,
    };
    RIG_OK(ast_pool_new(rig_shared.module, &cfg, &r->pool, &err));
}

/* --- Calls --------------------------------------------------------------------------------------- */

static void rig_done(void *user, const struct ast_call_result *res)
{
    struct rig_call *c = user;
    struct rig *r = c->rig;
    char *text = res->has_data ? ast_str_dup(res->data) : NULL;
    ast_host_call_end(&c->host);
    ast_pool_return(r->pool, c->instance, res->clean);
    AST_WITH_LOCK(&r->lock);
    c->rc = res->rc;
    (void)snprintf(c->error, sizeof c->error, "%s", res->error);
    c->text = text;
    c->is_done = true;
    pthread_cond_broadcast(&r->changed);
}

static void rig_enter(struct rig_call *c)
{
    struct ast_call_config cfg = {
        .instance = c->instance,
        .entry = c->rig->env.is_run_loop ? AST_CALL_RUN : AST_CALL_HOOK,
        .action = ast_str_c(c->action),
        .payload = ast_str_c(c->script),
        .fuel = AST_FUEL_UNLIMITED,
        .deadline_ns = AST_NO_DEADLINE,
        .memory_limit_bytes = AST_ENGINE_MAX_MEMORY,
        .user = &c->host,
        .on_done = rig_done,
    };
    RIG_OK(ast_call_start(c->rig->sched, &cfg, &c->call, &err));
}

static void rig_granted(struct ast_pool_waiter *w, struct ast_instance *instance)
{
    fail_msg("the tests never wait for an instance");
}

/* Starts a hook call, or `run` when env.is_run_loop; `msg` (may be NULL) is the cause. */
static struct rig_call *rig_start_action(struct rig *r, struct ast_msg *msg,
                                         const struct ast_profile *profile, const char *action,
                                         const char *script)
{
    if (!r->pool)
        rig_pool(r, 1, /* pinned= */ true);
    struct rig_call *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->rig = r;
    c->action = action;
    c->script = ast_str_dup(ast_str_c(script));
    c->waiter.granted = rig_granted;
    c->host.interceptor = !r->env.is_run_loop;
    ast_host_call_begin(&c->host, &r->env, msg, profile);
    struct ast_principal p = c->host.invoking;
    RIG_OK(ast_pool_lease(r->pool, ast_principal_str(&p), &c->waiter, &c->instance, &err));
    rig_enter(c);
    return c;
}

static struct rig_call *rig_start_for(struct rig *r, struct ast_msg *msg,
                                      const struct ast_profile *profile, const char *script)
{
    return rig_start_action(r, msg, profile, "script", script);
}

static struct rig_call *rig_start(struct rig *r, const char *script)
{
    return rig_start_for(r, NULL, NULL, script);
}

static void rig_wait(struct rig_call *c)
{
    struct rig *r = c->rig;
    int64_t deadline = ast_mono_ns() + RIG_PATIENCE_NS;
    bool done;
    {
        AST_WITH_LOCK(&r->lock);
        while (!c->is_done && ast_cond_wait(&r->changed, &r->lock, deadline))
            ;
        done = c->is_done;
    }
    if (!done)
        fail_msg("call hangs: %s", c->script);
}

static void rig_end(struct rig_call *c)
{
    ast_call_unref(c->call);
    free(c->script);
    free(c->text);
    free(c);
}

/* Runs to the end; the answer in a buffer that lives until the next one. */
static const char *rig_answer(struct rig_call *c)
{
    static char *last;
    rig_wait(c);
    if (c->rc)
        fail_msg("'%s' ended with %s: %s", c->script, ast_rc_name(c->rc), c->error);
    free(last);
    last = c->text ? c->text : ast_str_dup(AST_STR(""));
    c->text = NULL;
    rig_end(c);
    return last;
}

static __attribute__((unused)) const char *rig_run(struct rig *r, const char *script)
{
    return rig_answer(rig_start(r, script));
}

/* Starts `run` with that script in its config; rig_loop_answer() waits for its end. */
static __attribute__((unused)) struct rig_call *rig_loop(struct rig *r, const char *script)
{
    static struct ast_host_pair config = { { "script", 6 }, { NULL, 0 } };
    config.value = ast_str_c(script);
    r->env.config = &config;
    r->env.config_count = 1;
    r->env.is_run_loop = true;
    return rig_start(r, "");
}

static __attribute__((unused)) const char *rig_loop_answer(struct rig_call *loop)
{
    struct rig *r = loop->rig;
    (void)rig_answer(loop);
    r->env.is_run_loop = false; /* a hook on the same instance reads what `run` left */
    const char *got = rig_answer(rig_start_action(r, NULL, NULL, "result", ""));
    r->env.is_run_loop = true;
    return got;
}

static struct ast_msg *rig_msg(const char *topic, const char *json, const char *principal)
{
    struct ast_msg_spec spec = {
        .topic = ast_str_c(topic),
        .principal = ast_str_c(principal),
        .origin = "test",
        .source_id = { { 0x12, 0x34, 0x56, 0x78 } },
    };
    struct ast_msg *m = NULL;
    RIG_OK(ast_msg_from_json(&spec, ast_str_c(json), &m, &err));
    return m;
}

/* As a handler call that a message of `principal` caused. */
static __attribute__((unused)) const char *rig_run_as(struct rig *r, const char *principal,
                                                      const char *script)
{
    AST_AUTO(ast_msg_unref) struct ast_msg *m = rig_msg("cause.x", "{}", principal);
    return rig_answer(rig_start_for(r, m, NULL, script));
}

static __attribute__((unused)) void rig_publish(struct rig *r, const char *topic, const char *json,
                                                const char *principal)
{
    (void)ast_bus_publish(r->bus, rig_msg(topic, json, principal));
}

/* --- Watching ------------------------------------------------------------------------------------ */

/* Waits until that many calls are parked: they wait for what the test does next. */
static __attribute__((unused)) void rig_until_parked(struct rig *r, unsigned n)
{
    int64_t deadline = ast_mono_ns() + RIG_PATIENCE_NS;
    struct ast_sched_stats s;
    do {
        ast_sched_stats(r->sched, &s);
        if (s.parked == n && s.running == 0 && s.queued == 0)
            return;
        (void)usleep(200);
    } while (ast_mono_ns() < deadline);
    fail_msg("%u calls parked instead of %u", s.parked, n);
}

static __attribute__((unused)) void rig_until_ready(struct rig *r, unsigned n)
{
    int64_t deadline = ast_mono_ns() + RIG_PATIENCE_NS;
    AST_WITH_LOCK(&r->lock);
    while (r->ready < n && ast_cond_wait(&r->changed, &r->lock, deadline))
        ;
    if (r->ready < n)
        fail_msg("signal-ready did not come");
}

/* The i-th message a guest published, waiting for it. */
static __attribute__((unused)) const struct ast_msg *rig_seen(struct rig *r, size_t i)
{
    int64_t deadline = ast_mono_ns() + RIG_PATIENCE_NS;
    AST_WITH_LOCK(&r->lock);
    while (r->seen.n <= i && ast_cond_wait(&r->changed, &r->lock, deadline))
        ;
    if (r->seen.n <= i)
        fail_msg("message %zu was not published", i);
    return r->seen.v[i];
}

static __attribute__((unused)) void rig_unload(struct rig *r, struct rig_call *c)
{
    atomic_store(&r->env.unloading, true);
    ast_call_wake(c->call);
}

static __attribute__((unused)) void assert_str(struct ast_str got, const char *want)
{
    if (!ast_str_eq(got, ast_str_c(want)))
        fail_msg("'" AST_STR_FMT "' instead of '%s'", AST_STR_ARG(got), want);
}

/* --- main ---------------------------------------------------------------------------------------- */

static int rig_group_setup(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1u << 24);
    struct ast_engine_config cfg = { .host = RIG_HOST(), .on_demand = true };
    RIG_OK(ast_fs_read(rig_shared.guest, 1u << 24, &wasm, &err));
    RIG_OK(ast_engine_new(&cfg, &rig_shared.engine, &err));
    RIG_OK(ast_module_load(rig_shared.engine, ast_buf_view(&wasm), &rig_shared.module, &err));
    return 0;
}

static int rig_group_teardown(void **state)
{
    ast_module_unref(rig_shared.module);
    ast_engine_free(rig_shared.engine);
    return 0;
}

#define RIG_TEST(fn) cmocka_unit_test_setup_teardown(fn, rig_setup, rig_teardown)

/* Without the guest there is nothing to test: 77 is "skipped". */
#define RIG_MAIN(...)                                                                              \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        static const struct CMUnitTest tests[] = { __VA_ARGS__ };                                  \
        if (argc < 2) {                                                                            \
            printf("1..0 # SKIP no clang with wasm32 and wasm-ld to build the guest\n");           \
            return 77;                                                                             \
        }                                                                                          \
        rig_shared.guest = argv[1];                                                                \
        return cmocka_run_group_tests(tests, rig_group_setup, rig_group_teardown);                 \
    }
