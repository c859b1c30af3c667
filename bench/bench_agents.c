/* Traffic of agents on a whole dispatcher: many prompts at once, one turn through many capsules, many
 * guests that wait; and what the ledger keeps of principals seen once.
 *
 * Everything is real but the doors: bus, store, policy, engine, scheduler, capsules from files. Times
 * are wall-clock times, each figure the median of five runs; limits are measured in the same process
 * with the same guest.
 */
#include <malloc.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "capsule/registry_priv.h"
#include "crypto/hash.h"

#include "base/banned.h"

enum {
    RUNS = 5,
    PROMPTS = 1000,
    TURN_CAPSULES = 6,
    TURN_MESSAGES = 30,
    TURN_WARMUP = 200,
    BODY_BYTES = 128,
    PARKED = 1000,
    PROBES = 3000
};

/* The handler's first letter: e answers with its payload; p says it is there, then sleeps ten seconds;
 * t passes a payload on that is one byte shorter, until BODY_BYTES are left; n does nothing. */
static const char guest_text[] =
    "(module (import \"astrid:ipc/host@1.0.0\" \"publish\" (func $publish (param i32 i32 i32 i32 i32)))"
    "(import \"astrid:sys/host@1.0.0\" \"sleep-ns\" (func $sleep (param i64 i32)))"
    "(memory (export \"memory\") 4) (global $heap (mut i32) (i32.const 8192))"
    "(data (i32.const 1024) \"continue\") (data (i32.const 1040) \"agent.v1.response\")"
    "(data (i32.const 1060) \"agent.v1.parked\") (data (i32.const 1080) \"turn.v1.done\")"
    "(data (i32.const 1100) \"turn.v1.%u\")"
    "(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (local i32)"
    "  (local.set 4 (global.get $heap))"
    "  (global.set $heap (i32.add (local.get 4) (i32.and (i32.add (local.get 3) (i32.const 15)) (i32.const -16))))"
    "  (local.get 4))"
    "(func (export \"cabi_post_astrid-hook-trigger\") (param i32) (global.set $heap (i32.const 8192)))"
    "(func (export \"astrid-hook-trigger\") (param $ap i32) (param $al i32) (param $pp i32) (param $pl i32) (result i32)"
    "  (local $c i32) (local.set $c (i32.load8_u (local.get $ap)))"
    "  (if (i32.eq (local.get $c) (i32.const 101)) (then"
    "    (call $publish (i32.const 1040) (i32.const 17) (local.get $pp) (local.get $pl) (i32.const 4096))))"
    "  (if (i32.eq (local.get $c) (i32.const 112)) (then"
    "    (call $publish (i32.const 1060) (i32.const 15) (local.get $pp) (local.get $pl) (i32.const 4096))"
    "    (call $sleep (i64.const 10000000000) (i32.const 4096))))"
    "  (if (i32.eq (local.get $c) (i32.const 116)) (then"
    "    (if (i32.le_u (local.get $pl) (i32.const 128)) (then"
    "      (call $publish (i32.const 1080) (i32.const 12) (local.get $pp) (local.get $pl) (i32.const 4096)))"
    "    (else"
    "      (i32.store8 offset=1 (local.get $pp) (i32.const 34))"
    "      (call $publish (i32.const 1100) (i32.const 9) (i32.add (local.get $pp) (i32.const 1))"
    "        (i32.sub (local.get $pl) (i32.const 1)) (i32.const 4096))))))"
    "  (i32.store (i32.const 2048) (i32.const 1024)) (i32.store (i32.const 2052) (i32.const 8))"
    "  (i32.store8 (i32.const 2056) (i32.const 0)) (i32.const 2048)))";

static char root[] = "/tmp/astrid-bench-agents-XXXXXX";
static struct ast_home home;
static struct ast_bus *bus;
static struct ast_store *store;
static struct ast_policy *policy;
static struct ast_engine *engine;
static struct ast_sched *sched;
static struct ast_host host;
static struct ast_capsules *capsules;
static struct ast_tap *tap;
static char body[BODY_BYTES + TURN_MESSAGES];

static struct {
    atomic_uint responses, parked, turn_messages;
    sem_t response, all_parked, turn_done;
} seen;

static _Noreturn void die(const char *what, const struct ast_err *err)
{
    fprintf(stderr, "bench_agents: %s: %s\n", what, err ? err->msg : "");
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double middle(double *v, size_t n, double where)
{
    qsort(v, n, sizeof v[0], by_value);
    return v[(size_t)((double)(n - 1) * where)];
}

static void report(const char *name, double ours, const char *unit, double limit, double reach)
{
    printf("BENCH %s %.2f %s limit=%.2f ratio=%.2f reach=%.2f %s\n", name, ours, unit, limit,
           limit > 0 ? ours / limit : 1, reach, ours <= reach ? "met" : "missed");
    fflush(stdout);
}

static double ms_since(int64_t begin_ns)
{
    return (double)(ast_mono_ns() - begin_ns) / 1e6;
}

static void wait_for(sem_t *s)
{
    while (sem_wait(s)) {
    }
}

/* --- The rig ---------------------------------------------------------------------------------- */

static void on_message(void *arg, struct ast_msg *msg)
{
    (void)arg;
    if (ast_str_is(msg->topic, "agent.v1.response")) {
        atomic_fetch_add(&seen.responses, 1);
        sem_post(&seen.response);
    } else if (ast_str_is(msg->topic, "agent.v1.parked")) {
        if (atomic_fetch_add(&seen.parked, 1) + 1 == PARKED)
            sem_post(&seen.all_parked);
    } else if (ast_str_is(msg->topic, "turn.v1.done")) {
        sem_post(&seen.turn_done);
    } else if (ast_str_starts(msg->topic, AST_STR("turn.v1."))) {
        atomic_fetch_add(&seen.turn_messages, 1);
    }
}

static void publish(const char *topic, const char *prefix, unsigned principal, size_t bytes)
{
    char name[32];
    int n = snprintf(name, sizeof name, "%s%u", prefix, principal);
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg = NULL;
    const struct ast_msg_spec spec = { .topic = ast_str_c(topic),
                                       .principal = ast_str_n(name, (size_t)n) };
    body[bytes - 1] = '"';
    if (ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_str_n(body, bytes), &msg, &err))
        die("message", &err);
    body[bytes - 1] = 'x';
    (void)ast_bus_publish(bus, msg);
}

static void write_file(const char *dir, const char *name, struct ast_str text)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, name);
    if (!path || ast_fs_write_atomic(path, text, 0600, 0, &err))
        die(name, &err);
}

/* A capsule of its own that calls `handler` for `topic`; a turn goes on to capsule `next`. */
static void install(const char *id, const char *topic, const char *handler, unsigned next)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1 << 20);
    char dir[512], wat[sizeof guest_text + 16], text[1024], hash[AST_BLAKE3_HEX];

    snprintf(dir, sizeof dir, "%s/home/default/.local/capsules/%s", home.root, id);
    snprintf(wat, sizeof wat, guest_text, next);
    if (ast_fs_mkdirs(dir, 0700, &err) || ast_wat_compile(ast_str_c(wat), &wasm, &err))
        die("install", &err);
    write_file(dir, "main.wasm", ast_buf_view(&wasm));
    ast_blake3_hex(ast_buf_view(&wasm), hash);
    snprintf(text, sizeof text, "{\"wasm_hash\":\"%s\"}", hash);
    write_file(dir, "meta.json", ast_str_c(text));
    snprintf(text, sizeof text,
             "[package]\nname = \"%s\"\nversion = \"1.0.0\"\n"
             "[[component]]\nid = \"main\"\nfile = \"main.wasm\"\n"
             "[publish]\n\"agent.v1.*\" = \"opaque\"\n\"turn.v1.*\" = \"opaque\"\n"
             "[subscribe]\n\"%s\" = { wit = \"opaque\", handler = \"%s\" }\n",
             id, topic, handler);
    write_file(dir, "Capsule.toml", ast_str_c(text));
    if (ast_capsules_load(capsules, dir, &err))
        die("load", &err);
}

static void open_all(unsigned pool_max)
{
    struct ast_err err = AST_ERR_INIT;
    char path[600];

    sem_init(&seen.response, 0, 0);
    sem_init(&seen.all_parked, 0, 0);
    sem_init(&seen.turn_done, 0, 0);
    memset(body, 'x', sizeof body);
    body[0] = '"';
    if (!mkdtemp(root) || ast_home_at(root, &home, &err) || ast_home_ensure(&home, &err) ||
        ast_home_ensure_principal(&home, AST_PRINCIPAL_DEFAULT, &err))
        die("home", &err);
    snprintf(path, sizeof path, "%s/" AST_HOME_STORE, home.root);
    if (ast_bus_new(&bus, &err) ||
        ast_store_open(&(struct ast_store_config){ .path = path, .no_sync = true }, &store, &err) ||
        ast_policy_open(&home, &policy, &err) ||
        ast_engine_new(&(struct ast_engine_config){ .host = ast_host_imports(), .instances = 2048 },
                       &engine, &err) ||
        ast_sched_new(engine, 0, &sched, &err) ||
        ast_tap_open(bus, "bench", AST_STR_NONE, on_message, NULL, &tap, &err))
        die("setup", &err);
    ast_policy_bootstrap(policy);
    host = (struct ast_host){
        .home = &home, .bus = bus, .store = store, .policy = policy, .sched = sched
    };
    const struct ast_capsules_config cfg = { .host = &host,
                                             .engine = engine,
                                             .pool_max = pool_max };
    if (ast_capsules_new(&cfg, &capsules, &err))
        die("capsules", &err);
}

static void close_all(void)
{
    ast_capsules_free(capsules);
    ast_tap_close(tap);
    ast_sched_free(sched);
    ast_engine_free(engine);
    ast_policy_close(policy);
    ast_store_close(store);
    ast_bus_free(bus);
    if (ast_fs_remove_tree(root, NULL))
        fprintf(stderr, "bench_agents: %s stays behind\n", root);
    ast_home_done(&home);
}

/* --- The limit: calls on a leased instance, one after the other on one worker ------------------- */

struct bare {
    struct ast_host_call call;
    struct ast_task task;
    struct capsule *capsule;
    unsigned left;
    bool fresh; /* each call for a principal of its own */
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
    struct ast_pool_config pool_cfg = { .max = 8,
                                        .idle_max = 64,
                                        .make = ast_host_instance_make,
                                        .reset = ast_host_instance_reset,
                                        .free = ast_host_instance_free,
                                        .arg = &b->capsule->env };
    struct ast_pool *pool = NULL;
    struct ast_instance *instance = NULL;
    if (ast_pool_new(b->capsule->module, &pool_cfg, &pool, NULL))
        die("pool", NULL);
    int64_t begin = ast_mono_ns();
    while (b->left) {
        char name[16];
        int n = snprintf(name, sizeof name, "b%u", b->left);
        struct ast_pool_waiter w = { 0 };
        unsigned before = b->left;
        if (!instance && ast_pool_lease(pool, ast_str_n(name, (size_t)n), &w, &instance, NULL))
            die("lease", NULL);
        const struct ast_call_config cfg = {
            .instance = instance,
            .action = AST_STR("n"),
            .payload = ast_str_n(body, BODY_BYTES),
            .fuel = CAPSULE_FUEL_PER_CALL,
            .deadline_ns = AST_NO_DEADLINE,
            .memory_limit_bytes = AST_ENGINE_MAX_MEMORY,
            .user = &b->call,
            .on_done = bare_done,
        };
        if (ast_call_start(sched, &cfg, NULL, NULL) || b->left == before)
            die("call", NULL);
        if (b->fresh || !b->left)
            ast_pool_return(pool, ast_steal(&instance), true);
    }
    b->took_ns = ast_mono_ns() - begin;
    ast_pool_free(pool);
    sem_post(&b->done);
}

/* Milliseconds for that many calls. */
static double bare_ms(unsigned calls, bool fresh)
{
    struct bare b = { .task.run = run_bare, .left = calls, .fresh = fresh };
    b.capsule = seat_current(capsules->seats.v[0]);
    sem_init(&b.done, 0, 0);
    ast_host_call_begin(&b.call, &b.capsule->env, NULL, NULL);
    ast_sched_post(sched, &b.task);
    wait_for(&b.done);
    ast_host_call_end(&b.call);
    sem_destroy(&b.done);
    capsule_unref(b.capsule);
    return (double)b.took_ns / 1e6;
}

/* --- Rows ------------------------------------------------------------------------------------- */

/* Milliseconds from the first publish to the last answer; every principal is new. */
static double prompts_ms(unsigned run)
{
    char prefix[16];
    snprintf(prefix, sizeof prefix, "r%u-", run);
    unsigned before = atomic_load(&seen.responses);
    int64_t begin = ast_mono_ns();
    for (unsigned i = 0; i < PROMPTS; i++)
        publish("user.v1.prompt", prefix, i, BODY_BYTES);
    for (unsigned i = 0; i < PROMPTS; i++) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 20; /* a bound for losses, not a measure */
        if (sem_timedwait(&seen.response, &until))
            die("a prompt had no answer", NULL);
    }
    double took = ms_since(begin);
    if (atomic_load(&seen.responses) - before != PROMPTS)
        die("more answers than prompts", NULL);
    return took;
}

static double turn_ms(void)
{
    unsigned before = atomic_load(&seen.turn_messages);
    int64_t begin = ast_mono_ns();
    publish("turn.v1.0", "agent", 1, BODY_BYTES + TURN_MESSAGES - 1);
    wait_for(&seen.turn_done);
    double took = ms_since(begin);
    if (atomic_load(&seen.turn_messages) - before != TURN_MESSAGES)
        die("a turn had another length", NULL);
    return took;
}

static void bench_traffic(void)
{
    open_all(/* pool_max= */ 0);
    install("echo", "user.v1.prompt", "e", 0);
    for (unsigned i = 0; i < TURN_CAPSULES; i++) {
        char id[16], topic[16];
        snprintf(id, sizeof id, "turn%u", i);
        snprintf(topic, sizeof topic, "turn.v1.%u", i);
        install(id, topic, "t", (i + 1) % TURN_CAPSULES);
    }
    double ours[RUNS], limits[RUNS];
    for (unsigned i = 0; i < RUNS; i++) {
        limits[i] = bare_ms(PROMPTS, /* fresh= */ true);
        ours[i] = prompts_ms(i);
    }
    report("prompts_1000_at_once", middle(ours, RUNS, 0.5), "ms", middle(limits, RUNS, 0.5), 250);

    for (unsigned i = 0; i < TURN_WARMUP; i++)
        (void)turn_ms();
    for (unsigned i = 0; i < RUNS; i++) {
        double turns[TURN_WARMUP];
        limits[i] = bare_ms(TURN_MESSAGES * 100, /* fresh= */ false) / 100;
        for (unsigned k = 0; k < TURN_WARMUP; k++)
            turns[k] = turn_ms();
        ours[i] = middle(turns, TURN_WARMUP, 0.5);
    }
    report("agent_turn_30_messages", middle(ours, RUNS, 0.5), "ms", middle(limits, RUNS, 0.5), 1.5);
    close_all();
}

struct parked_figures {
    double mib_added, threads_added, p99_before_us, p99_parked_us;
};

static long status_value(const char *key)
{
    char line[256];
    long value = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0)
            value = strtol(line + strlen(key), NULL, 10);
    if (f)
        fclose(f);
    if (value < 0)
        die(key, NULL);
    return value;
}

/* Of single calls, one after the other. */
static double probe_p99_us(void)
{
    static double us[PROBES];
    for (unsigned i = 0; i < PROBES; i++) {
        int64_t begin = ast_mono_ns();
        publish("user.v1.prompt", "probe", 0, BODY_BYTES);
        wait_for(&seen.response);
        us[i] = (double)(ast_mono_ns() - begin) / 1000;
    }
    return middle(us, PROBES, 0.99);
}

static struct parked_figures parked_round(void)
{
    struct parked_figures f;
    open_all(/* pool_max= */ PARKED + 8);
    install("echo", "user.v1.prompt", "e", 0);
    install("sleeper", "sleep.v1.now", "p", 0);
    (void)probe_p99_us();
    f.p99_before_us = probe_p99_us();
    long kib = status_value("VmRSS:"), threads = status_value("Threads:");
    int64_t begin = ast_mono_ns();
    for (unsigned i = 0; i < PARKED; i++)
        publish("sleep.v1.now", "s", i, BODY_BYTES);
    wait_for(&seen.all_parked);
    f.mib_added = (double)(status_value("VmRSS:") - kib) / 1024;
    f.threads_added = (double)(status_value("Threads:") - threads);
    f.p99_parked_us = probe_p99_us();
    if (ms_since(begin) > 9500)
        die("the guests woke up before the probes ended", NULL);
    close_all();
    return f;
}

/* Each round in a process of its own: what an earlier one left in memory would not be counted. */
static struct parked_figures parked_child(void)
{
    struct parked_figures f;
    int fds[2], status = 0;
    if (pipe(fds))
        die("pipe", NULL);
    pid_t pid = fork();
    if (pid == 0) {
        f = parked_round();
        _exit(write(fds[1], &f, sizeof f) == (ssize_t)sizeof f ? 0 : 1);
    }
    close(fds[1]);
    bool ok = pid > 0 && read(fds[0], &f, sizeof f) == (ssize_t)sizeof f;
    close(fds[0]);
    if (pid <= 0 || waitpid(pid, &status, 0) != pid || !ok || status)
        die("a round of parked guests failed", NULL);
    return f;
}

static void bench_parked(void)
{
    double mib[RUNS], threads[RUNS], before[RUNS], parked[RUNS];
    for (unsigned i = 0; i < RUNS; i++) {
        struct parked_figures f = parked_child();
        mib[i] = f.mib_added;
        threads[i] = f.threads_added;
        before[i] = f.p99_before_us;
        parked[i] = f.p99_parked_us;
    }
    double limit = middle(before, RUNS, 0.5);
    report("parked_1000_memory", middle(mib, RUNS, 0.5), "MiB", 40, 40);
    report("parked_1000_threads", middle(threads, RUNS, 0.5), "threads", 0, 0);
    report("parked_1000_others_p99", middle(parked, RUNS, 0.5), "us", limit, 1.5 * limit);
}

/* KiB on the heap after that many principals made one call each, long ago. */
static double ledger_kib(unsigned principals)
{
    struct capsule_ledger *ledger = NULL;
    size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    if (capsule_ledger_new(&ledger, NULL))
        die("ledger", NULL);
    for (unsigned i = 0; i < principals; i++) {
        char name[32];
        int n = snprintf(name, sizeof name, "seen-once-%u", i);
        struct ast_str principal = ast_str_n(name, (size_t)n);
        int64_t now = (int64_t)i * AST_NS_PER_SEC / 1000;
        struct capsule_reservation reserved;
        if (!capsule_ledger_admit(ledger, principal, 2000000000, now, NULL, NULL, &reserved))
            die("the ledger refused", NULL);
        capsule_ledger_charge(ledger, principal, &reserved, 1000 + i, now);
        capsule_ledger_grew(ledger, principal, 65536 + i);
    }
    size_t after = mallinfo2().uordblks + mallinfo2().hblkhd;
    capsule_ledger_free(ledger);
    return (double)(after - before) / 1024;
}

/* What stays of principals that came once: totals of the last 65536, peaks of 4096 (spec 05 §23.2, §24). The
 * limit is what 65536 of them need, so more than that must not cost more. */
static void bench_ledger(void)
{
    double ours[RUNS], limits[RUNS];
    for (unsigned i = 0; i < RUNS; i++) {
        limits[i] = ledger_kib(CAPSULE_LEDGER_MAX_PRINCIPALS);
        ours[i] = ledger_kib(200000);
    }
    double limit = middle(limits, RUNS, 0.5);
    report("ledger_200000_principals", middle(ours, RUNS, 0.5), "KiB", limit, 1.1 * limit);
}

int main(void)
{
    struct ast_log_config quiet = { .level = AST_LOG_OFF };
    if (ast_log_open(&quiet, NULL))
        return 1;
    bench_parked(); /* first: it forks, and must do so before there are threads */
    bench_traffic();
    bench_ledger();
    return 0;
}
