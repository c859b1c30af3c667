/* What the way from a publish to a finished handler call costs on top of the call itself.
 *
 * Everything runs on one worker, one event after the other, so a figure is the whole path:
 * publish, look-up, mailbox made, task, profile, rate, lease, context, guest, ledgers, metrics,
 * instance back, mailbox gone. The limits are measured here too, with the same guest and
 * payload: a bare fiber call on a leased instance; the same on an instance made for it. Each
 * figure is the median of five runs. Time is the worker's processor time: nothing on this path
 * waits, and other programs on the machine do not count.
 */
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/time.h"
#include "capsule/registry_priv.h"
#include "crypto/hash.h"

#include "base/banned.h"

enum { RUNS = 5, WARM_CALLS = 100000, FIRST_CALLS = 4000, PAYLOAD = 1024 };

/* Reads its payload's first byte, answers "continue". */
static const char guest[] =
    "(module (memory (export \"memory\") 4) (global $heap (mut i32) (i32.const 8192))"
    "(data (i32.const 1024) \"continue\")"
    "(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (local i32)"
    "  (local.set 4 (global.get $heap))"
    "  (global.set $heap (i32.add (local.get 4) (i32.and (i32.add (local.get 3) (i32.const 15)) (i32.const -16))))"
    "  (local.get 4))"
    "(func (export \"cabi_post_astrid-hook-trigger\") (param i32) (global.set $heap (i32.const 8192)))"
    "(func (export \"astrid-hook-trigger\") (param $ap i32) (param $al i32) (param $pp i32) (param $pl i32) (result i32)"
    "  (i32.store (i32.const 2048) (i32.const 1024)) (i32.store (i32.const 2052) (i32.const 8))"
    "  (i32.store8 (i32.const 2056) (i32.const 0))"
    "  (i32.store (i32.const 2060) (i32.load8_u (local.get $pp))) (i32.const 2048)))";

static const char manifest[] =
    "[package]\nname = \"bench\"\nversion = \"1.0.0\"\n"
    "[[component]]\nid = \"main\"\nfile = \"main.wasm\"\n"
    "[subscribe]\n\"bench.v1.event\" = { wit = \"opaque\", handler = \"see\" }\n";

static char root[] = "/tmp/astrid-bench-dispatch-XXXXXX";
static struct ast_home home;
static struct ast_bus *bus;
static struct ast_store *store;
static struct ast_policy *policy;
static struct ast_engine *engine;
static struct ast_sched *sched;
static struct ast_host host;
static struct ast_capsules *capsules;
static struct capsule *capsule; /* reference */
static char payload[PAYLOAD + 1];
static unsigned next_principal;

static _Noreturn void die(const char *what, const struct ast_err *err)
{
    fprintf(stderr, "bench_dispatch: %s: %s\n", what, err ? err->msg : "");
    exit(1);
}

static int64_t worker_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * AST_NS_PER_SEC + t.tv_nsec;
}

static struct ast_str principal_name(char out[static 16], bool fresh)
{
    int n = snprintf(out, 16, "p%u", fresh ? ++next_principal : 0);
    return ast_str_n(out, (size_t)n);
}

/* --- Ours ------------------------------------------------------------------------------------- */

/* Publishes, lets the worker deal with it, publishes the next. Owner: the worker. */
struct series {
    struct ast_task task;
    unsigned left;
    bool fresh;
    uint64_t expected; /* calls of the capsule when the event before is done */
    int64_t start_ns, took_ns;
    sem_t done;
};

static void publish_one(bool fresh)
{
    char name[16];
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg = NULL;
    const struct ast_msg_spec spec = { .topic = AST_STR("bench.v1.event"),
                                       .principal = principal_name(name, fresh) };
    if (ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_str_n(payload, PAYLOAD), &msg, &err))
        die("message", &err);
    (void)ast_bus_publish(bus, msg);
}

static void run_series(struct ast_task *t)
{
    struct series *s = AST_CONTAINER_OF(t, struct series, task);
    if (!s->start_ns)
        s->start_ns = worker_ns();
    if (atomic_load(&capsule->seat->calls) == s->expected) {
        if (!s->left) {
            s->took_ns = worker_ns() - s->start_ns;
            sem_post(&s->done);
            return;
        }
        s->left--;
        s->expected++;
        publish_one(s->fresh);
    }
    ast_sched_post(sched, t); /* behind the mailbox */
}

static double series(unsigned calls, bool fresh)
{
    struct series s = { .task.run = run_series, .left = calls, .fresh = fresh };
    s.expected = atomic_load(&capsule->seat->calls);
    sem_init(&s.done, 0, 0);
    ast_sched_post(sched, &s.task);
    while (sem_wait(&s.done)) {
    }
    sem_destroy(&s.done);
    return (double)s.took_ns / calls / 1000;
}

/* --- The limits ------------------------------------------------------------------------------- */

struct bare {
    struct ast_host_call call;
    struct ast_task task;
    struct ast_pool *pool;
    struct ast_instance *instance;
    unsigned left;
    bool fresh;
    int64_t took_ns;
    sem_t done;
};

static void bare_done(void *user, const struct ast_call_result *res)
{
    struct bare *b = AST_CONTAINER_OF(user, struct bare, call);
    if (res->rc)
        die(res->error, NULL);
    b->left--;
}

static void run_bare(struct ast_task *t)
{
    struct bare *b = AST_CONTAINER_OF(t, struct bare, task);
    int64_t start = worker_ns();
    while (b->left) {
        char name[16];
        struct ast_pool_waiter w = { 0 };
        unsigned before = b->left;
        if (!b->instance &&
            ast_pool_lease(b->pool, principal_name(name, b->fresh), &w, &b->instance, NULL))
            die("lease", NULL);
        const struct ast_call_config cfg = {
            .instance = b->instance,
            .action = AST_STR("see"),
            .payload = ast_str_n(payload, PAYLOAD),
            .fuel = CAPSULE_FUEL_PER_CALL,
            .deadline_ns = AST_NO_DEADLINE,
            .memory_limit_bytes = AST_ENGINE_MAX_MEMORY,
            .user = &b->call,
            .on_done = bare_done,
        };
        if (ast_call_start(sched, &cfg, NULL, NULL) || b->left == before)
            die("call", NULL);
        if (b->fresh || !b->left)
            ast_pool_return(b->pool, ast_steal(&b->instance), true);
    }
    b->took_ns = worker_ns() - start;
    sem_post(&b->done);
}

static double bare(unsigned calls, bool fresh)
{
    struct bare b = { .task.run = run_bare, .left = calls, .fresh = fresh };
    const struct ast_pool_config cfg = {
        .max = 8,
        .idle_max = fresh ? 64 : 8,
        .make = ast_host_instance_make,
        .reset = ast_host_instance_reset,
        .free = ast_host_instance_free,
        .arg = &capsule->env,
    };
    if (ast_pool_new(capsule->module, &cfg, &b.pool, NULL))
        die("pool", NULL);
    sem_init(&b.done, 0, 0);
    ast_host_call_begin(&b.call, &capsule->env, NULL, NULL);
    ast_sched_post(sched, &b.task);
    while (sem_wait(&b.done)) {
    }
    ast_host_call_end(&b.call);
    ast_pool_free(b.pool);
    sem_destroy(&b.done);
    return (double)b.took_ns / calls / 1000;
}

/* --- Main ------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double (*measure)(unsigned calls, bool fresh), unsigned calls, bool fresh)
{
    double v[RUNS];
    (void)measure(calls / 10 + 1, fresh); /* warms up */
    for (int k = 0; k < RUNS; k++)
        v[k] = measure(calls, fresh);
    qsort(v, RUNS, sizeof v[0], by_value);
    return v[RUNS / 2];
}

static void report(const char *name, double ours, const char *unit, double limit, double reach)
{
    printf("BENCH %s %.2f %s limit=%.2f ratio=%.2f reach=%.2f %s\n", name, ours, unit, limit,
           ours / limit, reach, ours <= reach ? "met" : "missed");
    fflush(stdout);
}

static void write_file(const char *dir, const char *name, struct ast_str text)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, name);
    if (!path || ast_fs_write_atomic(path, text, 0600, 0, &err))
        die(name, &err);
}

static void install(char out[static 512])
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1 << 20);
    char hash[AST_BLAKE3_HEX], meta[128];

    snprintf(out, 512, "%s/home/default/.local/capsules/bench", home.root);
    if (ast_fs_mkdirs(out, 0700, &err) || ast_wat_compile(ast_str_c(guest), &wasm, &err))
        die("install", &err);
    ast_blake3_hex(ast_buf_view(&wasm), hash);
    snprintf(meta, sizeof meta, "{\"wasm_hash\":\"%s\"}", hash);
    write_file(out, "Capsule.toml", ast_str_c(manifest));
    write_file(out, "main.wasm", ast_buf_view(&wasm));
    write_file(out, "meta.json", ast_str_c(meta));
}

static void open_all(void)
{
    struct ast_err err = AST_ERR_INIT;
    char path[600], dir[512];

    if (!mkdtemp(root) || ast_home_at(root, &home, &err) || ast_home_ensure(&home, &err) ||
        ast_home_ensure_principal(&home, AST_PRINCIPAL_DEFAULT, &err))
        die("home", &err);
    snprintf(path, sizeof path, "%s/" AST_HOME_STORE, home.root);
    if (ast_bus_new(&bus, &err) ||
        ast_store_open(&(struct ast_store_config){ .path = path, .no_sync = true }, &store, &err) ||
        ast_policy_open(&home, &policy, &err) ||
        ast_engine_new(&(struct ast_engine_config){ .host = ast_host_imports(), .instances = 256 },
                       &engine, &err) ||
        ast_sched_new(engine, 1, &sched, &err))
        die("setup", &err);
    ast_policy_bootstrap(policy);
    host = (struct ast_host){
        .home = &home, .bus = bus, .store = store, .policy = policy, .sched = sched
    };
    const struct ast_capsules_config cfg = { .host = &host, .engine = engine };
    install(dir);
    if (ast_capsules_new(&cfg, &capsules, &err) || ast_capsules_load(capsules, dir, &err))
        die("load", &err);
    capsule = seat_current(capsules->seats.v[0]);
    memset(payload, 'x', PAYLOAD);
    payload[0] = payload[PAYLOAD - 1] = '"'; /* a JSON string */
}

static void close_all(void)
{
    capsule_unref(capsule);
    ast_capsules_free(capsules);
    ast_sched_free(sched);
    ast_engine_free(engine);
    ast_policy_close(policy);
    ast_store_close(store);
    ast_bus_free(bus);
    if (ast_fs_remove_tree(root, NULL))
        fprintf(stderr, "bench_dispatch: %s stays behind\n", root);
    ast_home_done(&home);
}

int main(void)
{
    open_all();
    double call = median(bare, WARM_CALLS, false), fresh_call = median(bare, FIRST_CALLS, true);
    report("interceptor_warm_1k", median(series, WARM_CALLS, false), "us", call, 6);
    report("interceptor_first_call", median(series, FIRST_CALLS, true), "us", fresh_call, 70);
    close_all();
    return 0;
}
