/* A hostile guest against every host function: a real instance whose code is a list of host calls with any
 * pointers, lengths, numbers and handles, and whose cabi_realloc answers what the input says.
 *
 * Whatever it does: the call ends once with a verdict it may have and a reason; what reaches the bus is a
 * valid message of this capsule, on a topic it may publish, for the principal it runs as; other
 * namespaces and hidden keys of the store stay as they are; no subscription outlives the call; an honest call
 * on the next instance works.
 *
 * Input: number of realloc answers, the answers (4 bytes each, 0: honest), then steps: function, then per
 * parameter a mode and up to 8 bytes.
 */
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "bus/limiter.h"
#include "bus/route.h"
#include "bus/topic.h"
#include "host/env.h"
#include "store/kv.h"

#include "base/banned.h"

#define MAX_STEPS   24u
#define MAX_ANSWERS 16u
#define MAX_SCRIPT  8192u
#define SCRIPT_AT   16384u           /* where the guest keeps its script */
#define TEXTS_AT    1024u            /* what its good pointers point to */
#define PATIENCE_NS INT64_C(5000000) /* then a call that waits is cancelled */
#define WAT_BYTES   (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const texts[] = {
    "out.a",
    "out.a.b",
    "in.x",
    "in.*",
    "{\"k\":1}",
    "\"text\"",
    "key",
    "key.two",
    "__secret:x",
    "alice",
    "default",
    "k",
    "value",
    "uplink",
    "file",
    "a.*.b",
    "1",
    "\xff\xfe bad",
    "ASTRID_SOCKET_PATH",
};

static struct {
    struct ast_home home;
    struct ast_store *store;
    struct ast_policy *policy;
    struct ast_engine *engine;
    struct ast_module *module;
    struct ast_sched *sched;
    size_t row_count;
    const struct ast_abi_import *rows;
} kernel;
static char dir[] = "/tmp/ast-fuzz-abi-XXXXXX";

/* --- The guest ----------------------------------------------------------------------------------- */

static const char frame[] =
    "(memory (export \"memory\") 4)"
    "(global $heap (mut i32) (i32.const 65536))"
    "(global $answer (mut i32) (i32.const 0)) (global $answers_end (mut i32) (i32.const 0))"
    "(func (export \"cabi_realloc\") (param i32 i32) (param $align i32) (param $n i32) (result i32)"
    "  (local $p i32)"
    "  (if (i32.lt_u (global.get $answer) (global.get $answers_end)) (then"
    "    (local.set $p (i32.load (global.get $answer)))"
    "    (global.set $answer (i32.add (global.get $answer) (i32.const 4)))"
    "    (if (local.get $p) (then (return (local.get $p))))))"
    "  (local.set $p (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))"
    "  (global.set $heap (i32.add (local.get $p) (local.get $n)))"
    "  (block $done (loop $more"
    "    (br_if $done (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))"
    "    (if (i32.eq (memory.grow (i32.const 4)) (i32.const -1)) (then (unreachable)))"
    "    (br $more)))"
    "  (local.get $p))"
    "(func (export \"cabi_post_astrid-hook-trigger\") (param i32))"
    "(data (i32.const 512) \"continue\")";

static const char *core_type(char c)
{
    return c == 'i' ? "i32" : c == 'I' ? "i64" : c == 'f' ? "f32" : "f64";
}

/* A function that takes its parameters from memory and forgets the result. */
static void add_call(struct ast_buf *wat, size_t i, const struct ast_abi_import *row)
{
    const char *open = row->result[0] ? "(drop " : "", *close = row->result[0] ? ")" : "";
    ast_buf_addf(wat, "(func $c%zu (param $at i32) %s(call $h%zu", i, open, i);
    for (size_t k = 0; row->params[k]; k++)
        ast_buf_addf(wat, " (%s.load offset=%zu (local.get $at))", core_type(row->params[k]),
                     8 * k);
    ast_buf_addf(wat, "))%s\n", close);
}

/* Imports everything; the script is (count of answers, answers, then function, bytes of parameters, parameters). */
static void write_guest(struct ast_buf *wat)
{
    ast_buf_add_lit(wat, "(module ");
    for (size_t i = 0; i < kernel.row_count; i++) {
        const struct ast_abi_import *row = &kernel.rows[i];
        ast_buf_addf(wat, "(import \"%s\" \"%s\" (func $h%zu (param", row->module, row->name, i);
        for (const char *p = row->params; *p; p++)
            ast_buf_addf(wat, " %s", core_type(*p));
        ast_buf_add_lit(wat, ")");
        if (row->result[0])
            ast_buf_addf(wat, " (result %s)", core_type(row->result[0]));
        ast_buf_add_lit(wat, "))\n");
    }
    ast_buf_add(wat, ast_str_c(frame));
    unsigned at = TEXTS_AT;
    for (size_t i = 0; i < AST_ARRAY_LEN(texts); i++) {
        ast_buf_addf(wat, "(data (i32.const %u) \"", at);
        for (const char *p = texts[i]; *p; p++)
            ast_buf_addf(wat, "\\%02x", (unsigned)(unsigned char)*p);
        ast_buf_add_lit(wat, "\")");
        at += 32;
    }
    for (size_t i = 0; i < kernel.row_count; i++)
        add_call(wat, i, &kernel.rows[i]);
    ast_buf_addf(wat, "(table funcref (elem");
    for (size_t i = 0; i < kernel.row_count; i++)
        ast_buf_addf(wat, " $c%zu", i);
    ast_buf_addf(
        wat,
        "))(type $step (func (param i32)))"
        "(func (export \"astrid-hook-trigger\")"
        "    (param $ap i32) (param $al i32) (param $pp i32) (param $pl i32) (result i32)"
        "  (local $at i32) (local $end i32)"
        "  (memory.copy (i32.const %u) (local.get $pp) (local.get $pl))"
        "  (local.set $end (i32.add (i32.const %u) (local.get $pl)))"
        "  (global.set $answer (i32.const %u))"
        "  (local.set $at (i32.add (global.get $answer)"
        "    (i32.mul (i32.const 4) (i32.load (i32.const %u)))))"
        "  (global.set $answers_end (local.get $at))"
        "  (block $done (loop $more"
        "    (br_if $done (i32.ge_u (local.get $at) (local.get $end)))"
        "    (call_indirect (type $step) (i32.add (local.get $at) (i32.const 8))"
        "      (i32.load (local.get $at)))"
        "    (local.set $at (i32.add (local.get $at) (i32.load offset=4 (local.get $at))))"
        "    (br $more)))"
        "  (global.set $answer (i32.const 0)) (global.set $answers_end (i32.const 0))"
        "  (i32.store (i32.const 600) (i32.const 512)) (i32.store (i32.const 604) (i32.const 8))"
        "  (i32.store8 (i32.const 608) (i32.const 0)) (i32.const 600)))",
        SCRIPT_AT, SCRIPT_AT, SCRIPT_AT + 4, SCRIPT_AT);
}

/* --- The script ---------------------------------------------------------------------------------- */

struct input {
    const uint8_t *p;
    size_t n;
};

static uint64_t next(struct input *in, size_t bytes)
{
    uint64_t v = 0;
    for (size_t i = 0; i < bytes && in->n; i++, in->n--)
        v |= (uint64_t)*in->p++ << (8 * i);
    return v;
}

struct script {
    uint8_t bytes[MAX_SCRIPT];
    size_t n;
};

static void put(struct script *s, const void *p, size_t n)
{
    AST_ASSERT(s->n + n <= sizeof s->bytes);
    memcpy(s->bytes + s->n, p, n);
    s->n += n;
}

static void put32(struct script *s, uint32_t v)
{
    put(s, &v, sizeof v);
}

static void put64(struct script *s, uint64_t v)
{
    put(s, &v, sizeof v);
}

/* One function with its parameters, eight bytes each. A good text fills two parameters. */
static void add_step(struct script *s, struct input *in)
{
    uint32_t which = (uint32_t)(next(in, 1) % kernel.row_count);
    const char *params = kernel.rows[which].params;
    size_t n = strlen(params);
    put32(s, which);
    put32(s, (uint32_t)(8 + 8 * n));
    for (size_t k = 0; k < n; k++) {
        unsigned mode = (unsigned)next(in, 1) % 8;
        if (mode < 3 && k + 1 < n && params[k] == 'i' && params[k + 1] == 'i') {
            size_t text = next(in, 1) % AST_ARRAY_LEN(texts);
            put64(s, TEXTS_AT + 32 * text);
            put64(s, strlen(texts[text]));
            k++;
        } else if (mode < 5) {
            put64(s, next(in, 1) % 16); /* handles, flags, short lengths */
        } else if (mode == 5) {
            put64(s, 32768 + 8 * next(in, 1)); /* a good place for results */
        } else if (mode == 6) {
            put64(s, next(in, 2) * 8);
        } else {
            put64(s, next(in, params[k] == 'I' ? 8 : 4));
        }
    }
}

static void write_script(struct script *s, struct input *in)
{
    s->n = 0;
    uint32_t answers = (uint32_t)next(in, 1) % (MAX_ANSWERS + 1);
    put32(s, answers);
    for (uint32_t i = 0; i < answers; i++)
        put32(s, (uint32_t)next(in, 4));
    for (unsigned i = 0; i < MAX_STEPS && in->n; i++)
        add_step(s, in);
}

/* --- One call ------------------------------------------------------------------------------------ */

static struct ast_str publishes[] = { { "out.*", 5 } };
static struct ast_str subscribes[] = { { "in.*", 4 }, { "out.*", 5 }, { "a.*.b", 5 } };

struct run {
    struct ast_host_call call; /* first: ast_abi_user() */
    struct ast_host host;
    struct ast_host_env env;
    struct ast_bus *bus;
    struct ast_pool *pool;
    struct ast_instance *instance;
    unsigned ended;
    enum ast_rc rc;
    sem_t done;
};

/* What a guest may bring on the bus: its own messages, and questions that the host asks for it, which it
 * also announces. */
static void check_message(void *arg, struct ast_msg *msg)
{
    const struct run *r = arg;
    if (!msg->is_ipc)
        AST_ASSERT(ast_str_starts(msg->topic, AST_STR("astrid.v1.lifecycle.approval_")));
    else
        AST_ASSERT(ast_str_is(msg->principal, "alice") && !msg->claimed);
    if (ast_uuid_eq(&msg->source_id, &r->env.uuid)) {
        AST_ASSERT(ast_str_is(msg->publisher, "fuzz"));
        AST_ASSERT(ast_topic_publishable(msg->topic) &&
                   ast_topic_match_subtree(publishes[0], msg->topic));
        AST_ASSERT(msg->body.n <= AST_MSG_MAX_PAYLOAD);
    } else if (msg->is_ipc) {
        AST_ASSERT(ast_str_is(msg->topic, "astrid.v1.approval"));
    }
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_ASSERT(ast_str_is_utf8(msg->body) && !ast_json_parse(msg->body, &doc, NULL));
}

static void on_done(void *user, const struct ast_call_result *res)
{
    struct run *r = user;
    AST_ASSERT(!r->ended++);
    AST_ASSERT(res->rc == AST_OK || res->rc == AST_E_TRAP || res->rc == AST_E_ABI ||
               res->rc == AST_E_CANCELLED || res->rc == AST_E_OUT_OF_FUEL ||
               res->rc == AST_E_TIMEOUT);
    AST_ASSERT((res->rc == AST_OK) == (res->error[0] == 0));
    /* Nothing that went wrong is used again, unless the guest was never entered. */
    if (res->rc)
        AST_ASSERT(!res->clean || (res->rc == AST_E_CANCELLED && res->fuel_used == 0));
    else
        AST_ASSERT(res->clean); /* with any answer: the guest may have overwritten its own */
    r->rc = res->rc;
    ast_host_call_end(&r->call);
    ast_pool_return(r->pool, r->instance, res->clean);
    sem_post(&r->done);
}

static void granted(struct ast_pool_waiter *w, struct ast_instance *instance)
{
    (void)w;
    (void)instance;
    abort(); /* one call at a time never waits */
}

/* A hostile one that waits is cancelled after a while; an honest one is for somebody else. */
static void call(struct run *r, const struct script *s, bool is_honest)
{
    struct ast_str principal = is_honest ? AST_STR("carol") : AST_STR("alice");
    struct ast_msg_spec spec = { .topic = AST_STR("cause.x"), .principal = principal };
    struct ast_pool_waiter waiter = { .granted = granted };
    struct ast_call *c = NULL;
    AST_AUTO(ast_msg_unref) struct ast_msg *cause = NULL;
    AST_ASSERT(!ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, AST_STR("1"), &cause, NULL));
    r->call = (struct ast_host_call){ .interceptor = true };
    r->ended = 0;
    ast_host_call_begin(&r->call, &r->env, cause, NULL);
    AST_ASSERT(!ast_pool_lease(r->pool, principal, &waiter, &r->instance, NULL));
    struct ast_call_config cfg = {
        .instance = r->instance,
        .entry = AST_CALL_HOOK,
        .action = AST_STR("fuzz"),
        .payload = ast_str_n(s->bytes, s->n),
        .fuel = 10000000,
        .deadline_ns = AST_NO_DEADLINE,
        .memory_limit_bytes = 4u << 20,
        .user = &r->call,
        .on_done = on_done,
    };
    AST_ASSERT(!ast_call_start(kernel.sched, &cfg, &c, NULL));
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    int64_t ns = until.tv_nsec + PATIENCE_NS;
    until.tv_sec += ns / AST_NS_PER_SEC;
    until.tv_nsec = ns % AST_NS_PER_SEC;
    if (is_honest || sem_timedwait(&r->done, &until)) {
        if (!is_honest)
            ast_call_cancel(c);
        while (sem_wait(&r->done)) {
        }
    }
    ast_call_unref(c);
}

/* --- The store around it ------------------------------------------------------------------------- */

static const struct {
    struct ast_str ns, key;
} canaries[] = {
    { { "bob:capsule:fuzz", 16 }, { "key", 3 } },
    { { "default:capsule:fuzz", 20 }, { "key", 3 } },
    { { "alice:capsule:fuzzy", 19 }, { "key", 3 } },
    { { "alice:capsule:fuzz", 18 }, { "__secret:x", 10 } },
};

static void check_canaries(void)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(canaries); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf value = AST_BUF_INIT(64);
        bool found = false;
        AST_ASSERT(!ast_kv_get(kernel.store, canaries[i].ns, canaries[i].key, /* guest= */ false,
                               &value, &found, NULL));
        AST_ASSERT(found && ast_str_is(ast_buf_view(&value), "canary"));
    }
}

/* --- Main ---------------------------------------------------------------------------------------- */

static void teardown(void)
{
    ast_sched_free(kernel.sched);
    ast_module_unref(kernel.module);
    ast_engine_free(kernel.engine);
    ast_policy_close(kernel.policy);
    ast_store_close(kernel.store);
    ast_home_done(&kernel.home);
    (void)ast_fs_remove_tree(dir, NULL); /* at exit there is nobody to tell */
}

static void setup(void)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_log_config quiet = { .level = AST_LOG_OFF };
    const struct ast_wasm_host *host = ast_host_imports();
    kernel.rows = host->imports;
    kernel.row_count = host->import_count;
    AST_AUTO(ast_buf_done) struct ast_buf wat = AST_BUF_INIT(WAT_BYTES);
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(WAT_BYTES);
    write_guest(&wat);
    char path[64];
    snprintf(path, sizeof path, "%s", mkdtemp(dir));
    AST_ASSERT(!ast_log_open(&quiet, &err));
    AST_ASSERT(!ast_home_at(path, &kernel.home, &err) && !ast_home_ensure(&kernel.home, &err) &&
               !ast_home_ensure_principal(&kernel.home, AST_PRINCIPAL_DEFAULT, &err));
    snprintf(path, sizeof path, "%s/db", dir);
    struct ast_store_config store = { .path = path, .no_sync = true, .max_bytes = 64u << 20 };
    struct ast_engine_config engine = { .host = host, .on_demand = true };
    if (ast_store_open(&store, &kernel.store, &err) ||
        ast_policy_open(&kernel.home, &kernel.policy, &err) ||
        ast_engine_new(&engine, &kernel.engine, &err) ||
        ast_wat_compile(ast_buf_view(&wat), &wasm, &err) ||
        ast_module_load(kernel.engine, ast_buf_view(&wasm), &kernel.module, &err) ||
        ast_sched_new(kernel.engine, 1, &kernel.sched, &err)) {
        fprintf(stderr, "fuzz_abi: %s\n", err.msg);
        abort();
    }
    for (size_t i = 0; i < AST_ARRAY_LEN(canaries); i++)
        AST_ASSERT(
            !ast_kv_set(kernel.store, canaries[i].ns, canaries[i].key, AST_STR("canary"), NULL));
    atexit(teardown);
}

static void run_open(struct run *r)
{
    *r = (struct run){ 0 };
    sem_init(&r->done, 0, 0);
    AST_ASSERT(!ast_bus_new(&r->bus, NULL));
    r->host = (struct ast_host){ .home = &kernel.home,
                                 .bus = r->bus,
                                 .store = kernel.store,
                                 .policy = kernel.policy,
                                 .sched = kernel.sched };
    r->env.host = &r->host;
    r->env.capsule_id = AST_STR("fuzz");
    r->env.uuid = ast_uuid_v4();
    r->env.publish_acl = publishes;
    r->env.publish_acl_count = AST_ARRAY_LEN(publishes);
    r->env.subscribe_acl = subscribes;
    r->env.subscribe_acl_count = AST_ARRAY_LEN(subscribes);
    AST_ASSERT(!ast_principal_parse(AST_PRINCIPAL_DEFAULT, &r->env.owner, NULL));
    AST_ASSERT(!ast_limiter_new(&r->env.limiter, NULL) &&
               !ast_permits_new(4, &r->env.blocking, NULL) &&
               !ast_permits_new(4, &r->env.io, NULL));
    struct ast_pool_config pool = { .max = 1,
                                    .idle_max = 1,
                                    .make = ast_host_instance_make,
                                    .reset = ast_host_instance_reset,
                                    .free = ast_host_instance_free,
                                    .arg = &r->env };
    AST_ASSERT(!ast_pool_new(kernel.module, &pool, &r->pool, NULL));
}

/* The bus asserts that nobody is subscribed any more. */
static void run_close(struct run *r)
{
    ast_pool_free(r->pool);
    ast_host_env_done(&r->env);
    ast_permits_free(r->env.io);
    ast_permits_free(r->env.blocking);
    ast_limiter_free(r->env.limiter);
    ast_bus_free(r->bus);
    sem_destroy(&r->done);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct run r;
    static struct script script;
    static const struct script nothing = { .n = 4 };
    if (!kernel.rows)
        setup();
    struct input in = { data, size };
    run_open(&r);
    struct ast_tap *tap = NULL;
    AST_ASSERT(!ast_tap_open(r.bus, "fuzz", AST_STR_NONE, check_message, &r, &tap, NULL));
    write_script(&script, &in);
    call(&r, &script, /* is_honest= */ false);
    check_canaries();
    call(&r, &nothing, /* is_honest= */ true);
    AST_ASSERT(r.rc == AST_OK);
    ast_tap_close(tap);
    run_close(&r);
    return 0;
}
