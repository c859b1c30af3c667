/* What a guest call costs: host calls, lists, fibers, warm and fresh instances.
 *
 * The limit of each line is measured here too: a bare host call, memcpy, or a value from the design where
 * the hardware gives none. Each figure is the median of five runs.
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/time.h"
#include "wasm/sched.h"

#define MODULE "bench:host/api@1.0.0"
#define MIB    (1u << 20)
#define RUNS   5

static _Noreturn void die(const char *what, const struct ast_err *err)
{
    fprintf(stderr, "bench_wasm: %s: %s\n", what, err ? err->msg : "");
    exit(1);
}

/* --- Host ---------------------------------------------------------------------------------------- */

static void host_nop(struct ast_abi *a, union ast_abi_slot *v) {}

static void host_peek(struct ast_abi *a, union ast_abi_slot *v) /* reads a string of the guest */
{
    struct ast_str s;
    if (ast_abi_string(a, (uint32_t)v[0].i32, (uint32_t)v[1].i32, &s))
        v[0].i32 = s.p[0];
}

static const struct ast_abi_import imports[] = {
    { MODULE, "nop", "", "", host_nop, 0 },
    { MODULE, "peek", "ii", "i", host_peek, 1 },
};
static const struct ast_wasm_host host = { imports, AST_ARRAY_LEN(imports), NULL, 0 };

/* The action's first byte selects: n bare host calls, p host calls that read memory, else echo. The payload
 * begins with the count as decimal digits for the first two. */
static const char guest[] =
    "(module (import \"" MODULE "\" \"nop\" (func $nop)) (import \"" MODULE
    "\" \"peek\" (func $peek (param i32 i32) (result i32)))"
    "(memory (export \"memory\") 40) (global $heap (mut i32) (i32.const 8192)) (data (i32.const 1024) \"continue\")"
    "(func $ok (param i32 i32) (result i32)"
    "  (i32.store (i32.const 2048) (i32.const 1024)) (i32.store (i32.const 2052) (i32.const 8))"
    "  (i32.store8 (i32.const 2056) (i32.const 1)) (i32.store (i32.const 2060) (local.get 0))"
    "  (i32.store (i32.const 2064) (local.get 1)) (i32.const 2048))"
    "(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (local i32)"
    "  (local.set 4 (global.get $heap))"
    "  (global.set $heap (i32.add (local.get 4) (i32.and (i32.add (local.get 3) (i32.const 15)) (i32.const -16))))"
    "  (local.get 4))"
    "(func (export \"cabi_post_astrid-hook-trigger\") (param i32) (global.set $heap (i32.const 8192)))"
    "(func (export \"astrid-hook-trigger\") (param $ap i32) (param $al i32) (param $pp i32) (param $pl i32) (result i32)"
    "  (local $n i32)"
    "  (if (i32.eq (i32.load8_u (local.get $ap)) (i32.const 110)) (then (local.set $n (i32.const 1000000))"
    "    (loop $l (call $nop) (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"
    "    (return (call $ok (i32.const 1024) (i32.const 1)))))"
    "  (if (i32.eq (i32.load8_u (local.get $ap)) (i32.const 112)) (then (local.set $n (i32.const 1000000))"
    "    (loop $l (drop (call $peek (i32.const 1024) (i32.const 8))) (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"
    "    (return (call $ok (i32.const 1024) (i32.const 1)))))"
    "  (call $ok (local.get $pp) (local.get $pl)))"
    "(func (export \"run\")))";

/* --- The rig ------------------------------------------------------------------------------------- */

static struct ast_engine *engine;
static struct ast_module *module;
static struct ast_pool *pool;
static struct ast_sched *sched;

/* A number of calls, one after the other, all on one worker. Owner: that worker until `done`. */
struct series {
    struct ast_task task;
    struct ast_str action, payload;
    enum ast_call_entry entry;
    unsigned left;
    bool fresh; /* each call by another principal */
    unsigned principal;
    struct ast_instance *instance;
    bool finished; /* the call ended inside ast_call_start */
    int64_t start_ns, took_ns;
    sem_t done;
};

static void on_done(void *user, const struct ast_call_result *res)
{
    struct series *s = user;
    if (res->rc)
        die(res->error, NULL);
    if (s->entry == AST_CALL_HOOK && s->action.p[0] == 'e' && res->data.n != s->payload.n)
        die("wrong echo", NULL);
    ast_pool_return(pool, s->instance, res->clean);
    s->left--;
}

static void run_series(struct ast_task *t)
{
    struct series *s = AST_CONTAINER_OF(t, struct series, task);
    if (!s->start_ns)
        s->start_ns = ast_mono_ns();
    while (s->left) {
        char name[16];
        int n = snprintf(name, sizeof name, "p%u", s->fresh ? s->principal++ : 0);
        struct ast_pool_waiter w = { 0 };
        if (ast_pool_lease(pool, ast_str_n(name, (size_t)n), &w, &s->instance, NULL))
            die("lease", NULL);
        unsigned before = s->left;
        struct ast_call_config cfg = {
            .instance = s->instance,
            .entry = s->entry,
            .action = s->action,
            .payload = s->payload,
            .fuel = 10000000000,
            .deadline_ns = AST_NO_DEADLINE,
            .memory_limit_bytes = AST_ENGINE_MAX_MEMORY,
            .user = s,
            .on_done = on_done,
        };
        if (ast_call_start(sched, &cfg, NULL, NULL))
            die("start", NULL);
        if (s->left == before)
            die("a call did not end in its first poll", NULL);
    }
    s->took_ns = ast_mono_ns() - s->start_ns;
    sem_post(&s->done);
}

/* Nanoseconds per call. */
static double series(const char *action, enum ast_call_entry entry, struct ast_str payload,
                     unsigned calls, bool fresh)
{
    struct series s = { .task.run = run_series,
                        .action = ast_str_c(action),
                        .payload = payload,
                        .entry = entry,
                        .left = calls,
                        .fresh = fresh };
    sem_init(&s.done, 0, 0);
    ast_sched_post(sched, &s.task);
    while (sem_wait(&s.done)) {
    }
    sem_destroy(&s.done);
    return (double)s.took_ns / calls;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(const char *action, enum ast_call_entry entry, struct ast_str payload,
                        unsigned calls, bool fresh)
{
    double v[RUNS];
    (void)series(action, entry, payload, calls / 10 + 1, fresh); /* warms up */
    for (int k = 0; k < RUNS; k++)
        v[k] = series(action, entry, payload, calls, fresh);
    qsort(v, RUNS, sizeof v[0], by_value);
    return v[RUNS / 2];
}

/* Two copies of a MiB between buffers that are warm, as the guest's and ours are. */
static double two_memcpys_ns(void)
{
    char *from = malloc(MIB), *mid = malloc(MIB), *to = malloc(MIB);
    if (!from || !mid || !to)
        die("memory", NULL);
    memset(from, 'x', MIB);
    double v[RUNS];
    for (int k = 0; k < RUNS; k++) {
        int64_t start = ast_mono_ns();
        for (int n = 0; n < 200; n++) {
            memcpy(mid, from, MIB);
            __asm__ volatile("" : : "r"(mid) : "memory");
            memcpy(to, mid, MIB);
            __asm__ volatile("" : : "r"(to) : "memory");
        }
        v[k] = (double)(ast_mono_ns() - start) / 200;
    }
    free(from);
    free(mid);
    free(to);
    qsort(v, RUNS, sizeof v[0], by_value);
    return v[RUNS / 2];
}

static void report(const char *name, double ours, const char *unit, double limit, double reach)
{
    printf("BENCH %s %.2f %s limit=%.2f ratio=%.2f reach=%.2f %s\n", name, ours, unit, limit,
           ours / limit, reach, ours <= reach ? "met" : "missed");
    fflush(stdout);
}

/* --- Main ---------------------------------------------------------------------------------------- */

static void open_all(void)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_buf wasm = AST_BUF_INIT(MIB);
    if (ast_engine_new(&(struct ast_engine_config){ .host = &host, .instances = 64 }, &engine,
                       &err) ||
        ast_wat_compile(ast_str_c(guest), &wasm, &err) ||
        ast_module_load(engine, ast_buf_view(&wasm), &module, &err) ||
        ast_pool_new(module, &(struct ast_pool_config){ .max = 4, .idle_max = 4 }, &pool, &err) ||
        ast_sched_new(engine, 2, &sched, &err))
        die("setup", &err);
    ast_buf_done(&wasm);
}

int main(void)
{
    open_all();
    char *text = malloc(MIB);
    if (!text)
        die("memory", NULL);
    memset(text, 'x', MIB);
    struct ast_str small = ast_str_n(text, 16), kib = ast_str_n(text, 1024),
                   mib = ast_str_n(text, MIB);

    double bare = median_of("n", AST_CALL_HOOK, small, 10, false) / 1e6;
    report("host_call_memory", median_of("p", AST_CALL_HOOK, small, 10, false) / 1e6, "ns", bare,
           20);
    double copies = two_memcpys_ns() / 1e3;
    report("list_roundtrip_1mib", median_of("e", AST_CALL_HOOK, mib, 500, false) / 1e3, "us",
           copies, 2 * copies);
    double fiber = median_of("e", AST_CALL_RUN, AST_STR_NONE, 100000, false) / 1e3;
    report("fiber_call_bare", fiber, "us", 0.24, 1);
    report("hook_warm_1k", median_of("e", AST_CALL_HOOK, kib, 50000, false) / 1e3, "us", fiber, 5);
    report("hook_fresh_1k", median_of("e", AST_CALL_HOOK, kib, 5000, true) / 1e3, "us", fiber, 50);

    ast_sched_free(sched);
    ast_pool_free(pool);
    ast_module_unref(module);
    ast_engine_free(engine);
    free(text);
    return 0;
}
