/* What a host call costs a capsule beyond the work itself: get-config, publish and kv-get from a guest.
 *
 * The limit of each line is the same work done in C without a guest, measured in the same run; for get-config
 * it is a host call that only reads the clock. What the border adds may be a few of those. Each figure is
 * processor time, the median of five runs.
 */
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/time.h"
#include "host/env.h"
#include "store/kv.h"

#define RUNS  5
#define CALLS 200000

static void check(enum ast_rc rc, const struct ast_err *err, const char *what)
{
    if (!rc)
        return;
    fprintf(stderr, "bench_host: %s: %s\n", what, err->msg);
    exit(1);
}

/* Processor time of all threads: what the machine does besides does not count. */
static int64_t cpu_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* cannot fail with a valid clock */
    return t.tv_sec * AST_NS_PER_SEC + t.tv_nsec;
}

static struct {
    struct ast_host host;
    struct ast_host_env env;
    struct ast_pool *pool;
    struct ast_instance *instance;
    sem_t done;
} bench;

struct call {
    struct ast_host_call host; /* first: ast_abi_user() */
    enum ast_rc rc;
};

static void on_done(void *user, const struct ast_call_result *res)
{
    struct call *c = user;
    c->rc = res->rc;
    if (res->rc)
        fprintf(stderr, "bench_host: %s\n", res->error);
    ast_host_call_end(&c->host);
    ast_pool_return(bench.pool, bench.instance, res->clean);
    sem_post(&bench.done);
}

/* Nanoseconds of one of the calls the guest makes. */
static double guest_once(const char *what)
{
    char script[64];
    (void)snprintf(script, sizeof script, "bench %s %d", what, CALLS);
    struct call c = { .host.interceptor = true };
    struct ast_err err = AST_ERR_INIT;
    struct ast_pool_waiter waiter = { 0 };
    ast_host_call_begin(&c.host, &bench.env, NULL, NULL);
    c.host.quotas.max_ipc_throughput_bytes = UINT64_MAX;
    check(ast_pool_lease(bench.pool, AST_PRINCIPAL_DEFAULT, &waiter, &bench.instance, &err), &err,
          "lease");
    struct ast_call_config cfg = {
        .instance = bench.instance,
        .entry = AST_CALL_HOOK,
        .action = AST_STR("script"),
        .payload = ast_str_c(script),
        .fuel = AST_FUEL_UNLIMITED,
        .deadline_ns = AST_NO_DEADLINE,
        .memory_limit_bytes = AST_ENGINE_MAX_MEMORY,
        .user = &c.host,
        .on_done = on_done,
    };
    int64_t start = cpu_ns();
    check(ast_call_start(bench.host.sched, &cfg, NULL, &err), &err, "call");
    while (sem_wait(&bench.done))
        ;
    if (c.rc)
        exit(1);
    return (double)(cpu_ns() - start) / CALLS;
}

static double plain_publish(const char *unused)
{
    int64_t start = cpu_ns();
    for (int i = 0; i < CALLS; i++) {
        const struct ast_msg_spec spec = { .topic = AST_STR("bench.x"),
                                           .principal = AST_PRINCIPAL_DEFAULT };
        struct ast_msg *m = NULL;
        struct ast_err err = AST_ERR_INIT;
        check(ast_msg_from_json(&spec, AST_STR("{\"a\":1}"), &m, &err), &err, "message");
        (void)ast_bus_publish(bench.host.bus, m);
    }
    return (double)(cpu_ns() - start) / CALLS;
}

static double plain_get(const char *unused)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1u << 20);
    int64_t start = cpu_ns();
    for (int i = 0; i < CALLS; i++) {
        bool found = false;
        struct ast_err err = AST_ERR_INIT;
        ast_buf_reset(&out);
        check(ast_kv_get(bench.host.store, AST_STR("default:capsule:bench"), AST_STR("bench"), true,
                         &out, &found, &err),
              &err, "get");
    }
    return (double)(cpu_ns() - start) / CALLS;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double (*once)(const char *what), const char *what)
{
    double v[RUNS];
    for (int i = 0; i < RUNS; i++)
        v[i] = once(what);
    qsort(v, RUNS, sizeof v[0], by_value);
    return v[RUNS / 2];
}

static void report(const char *name, double ours, double limit, double reach)
{
    printf("BENCH %s %.1f ns limit=%.1f ratio=%.2f reach=%.2f %s\n", name, ours, limit,
           ours / limit, reach, ours <= reach ? "met" : "missed");
}

int main(void)
{
    struct ast_err err = AST_ERR_INIT;
    char dir[] = "/tmp/ast-bench-XXXXXX", path[64];
    if (!mkdtemp(dir))
        return 1;
    struct ast_home home = { 0 };
    (void)snprintf(path, sizeof path, "%s/home", dir);
    check(ast_home_at(path, &home, &err), &err, "home");
    (void)snprintf(path, sizeof path, "%s/db", dir);
    struct ast_store_config store = { .path = path, .no_sync = true };
    check(ast_store_open(&store, &bench.host.store, &err), &err, "store");
    check(ast_bus_new(&bench.host.bus, &err), &err, "bus");
    struct ast_engine_config engine_cfg = { .host = ast_host_imports(), .on_demand = true };
    struct ast_engine *engine = NULL;
    check(ast_engine_new(&engine_cfg, &engine, &err), &err, "engine");
    check(ast_sched_new(engine, 2, &bench.host.sched, &err), &err, "scheduler");
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1u << 24);
    check(ast_fs_read(BENCH_GUEST, 1u << 24, &wasm, &err), &err, "guest");
    struct ast_module *module = NULL;
    check(ast_module_load(engine, ast_buf_view(&wasm), &module, &err), &err, "module");
    struct ast_pool_config pool = { .max = 1,
                                    .idle_max = 1,
                                    .pinned = true,
                                    .make = ast_host_instance_make,
                                    .reset = ast_host_instance_reset,
                                    .free = ast_host_instance_free };
    check(ast_pool_new(module, &pool, &bench.pool, &err), &err, "pool");
    (void)sem_init(&bench.done, 0, 0);

    static const struct ast_host_pair config[] = {
        { { "a", 1 }, { "1", 1 } },  { { "k0", 2 }, { "0", 1 } }, { { "k1", 2 }, { "value", 5 } },
        { { "k2", 2 }, { "2", 1 } }, { { "z", 1 }, { "3", 1 } },
    };
    static const struct ast_str acl[] = { { "x.v1.*", 6 }, { "y.v1.*", 6 }, { "bench.*", 7 } };
    bench.host.home = &home;
    bench.env.host = &bench.host;
    bench.env.capsule_id = AST_STR("bench");
    bench.env.config = config;
    bench.env.config_count = AST_ARRAY_LEN(config);
    bench.env.publish_acl = acl;
    bench.env.publish_acl_count = AST_ARRAY_LEN(acl);
    check(ast_principal_parse(AST_PRINCIPAL_DEFAULT, &bench.env.owner, &err), &err, "owner");
    check(ast_limiter_new(&bench.env.limiter, &err), &err, "limiter");
    check(ast_kv_set(bench.host.store, AST_STR("default:capsule:bench"), AST_STR("bench"),
                     AST_STR("0123456789"), &err),
          &err, "set");

    double bare = median(guest_once, "clock");
    double publish = median(plain_publish, NULL), get = median(plain_get, NULL);
    report("host_clock", bare, 30, 60);
    /* One lift, one binary search, one cabi_realloc and a copy. */
    report("host_get_config", median(guest_once, "config"), bare, 4 * bare);
    /* Two lifts, the rate, the access list. */
    report("host_publish", median(guest_once, "publish"), publish, publish + 6 * bare);
    report("host_kv_get", median(guest_once, "get"), get, get + 4 * bare);

    ast_sched_free(bench.host.sched);
    ast_pool_free(bench.pool);
    ast_module_unref(module);
    ast_engine_free(engine);
    ast_host_env_done(&bench.env);
    ast_limiter_free(bench.env.limiter);
    ast_bus_free(bench.host.bus);
    ast_store_close(bench.host.store);
    ast_home_done(&home);
    return ast_fs_remove_tree(dir, &err) ? 1 : 0;
}
