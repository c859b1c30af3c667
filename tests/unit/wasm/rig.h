/* A small host and its guests, for the tests and the bench of src/wasm. Guests are text built from one frame:
 * a bump allocator as cabi_realloc, a hook whose result is "continue" with the payload as data unless `body`
 * does something else, and a post-return that resets the allocator. */
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/thread.h"
#include "base/time.h"
#include "wasm/sched.h"

#define RIG_MODULE "test:host/api@1.0.0"
enum { RIG_THING, RIG_OTHER };

/* What a call's `user` points to. Owner: the test thread; the worker while the call runs. */
struct rig_call {
    struct ast_lock lock;
    pthread_cond_t done_cond;
    bool is_done;
    struct ast_call_result res; /* views into text */
    struct ast_buf text;
    char error[320];
    struct ast_call *call; /* reference, dropped by rig_finish() */
    /* For "wait". */
    int64_t park_deadline_ns;
    _Atomic unsigned permits; /* "wait" goes on when it can take one */
    _Atomic unsigned waits;   /* how often "wait" was entered */
    _Atomic enum ast_rc last_park;
    _Atomic unsigned cleanups; /* waits that ended by a cancel */
    _Atomic unsigned ticks;
    unsigned ticks_allowed;               /* on_tick says no after that many; 0: no limit */
    void (*on_nop)(struct rig_call *rc);  /* inside the host function "nop"; may be NULL */
    void (*on_done)(struct rig_call *rc); /* on the worker, before the test is told; may be NULL */
    void *arg;
};

/* Destroyed things, in order. */
struct rig_drops {
    pthread_mutex_t m;
    unsigned n;
    uintptr_t v[8192];
};
static struct rig_drops rig_drops = { .m = PTHREAD_MUTEX_INITIALIZER };

static void rig_thing_drop(void *obj)
{
    pthread_mutex_lock(&rig_drops.m);
    if (rig_drops.n < AST_ARRAY_LEN(rig_drops.v))
        rig_drops.v[rig_drops.n++] = (uintptr_t)obj;
    pthread_mutex_unlock(&rig_drops.m);
}

static __attribute__((unused)) unsigned rig_drop_count(void)
{
    pthread_mutex_lock(&rig_drops.m);
    unsigned n = rig_drops.n;
    pthread_mutex_unlock(&rig_drops.m);
    return n;
}

/* --- Host functions ------------------------------------------------------------------------------ */

static void rig_resource_drop(struct ast_abi *a, union ast_abi_slot *v)
{
    (void)ast_abi_handle_drop(a, (uint32_t)v[0].i32, RIG_THING);
}

static void rig_arena(struct ast_abi *a,
                      union ast_abi_slot *v) /* uses n bytes of the arena, returns a checksum */
{
    size_t n = (uint32_t)v[0].i32;
    unsigned char *p = ast_arena_alloc(ast_abi_arena(a), n);
    if (!p) {
        ast_abi_trap(a, "arena");
        return;
    }
    memset(p, 7, n);
    v[0].i32 = n ? p[n - 1] : 0;
}

static void rig_blob(struct ast_abi *a, union ast_abi_slot *v) /* list<u8> of n bytes at area */
{
    uint32_t n = (uint32_t)v[0].i32, area = (uint32_t)v[1].i32, ptr;
    if (!ast_abi_alloc(a, 1, n, &ptr))
        return;
    uint8_t *p = ast_abi_at(a, ptr, n, 1), *to = ast_abi_at(a, area, 8, 4);
    if (!p || !to)
        return;
    memset(p, 'b', n);
    memcpy(to, &ptr, 4);
    memcpy(to + 4, &n, 4);
}

static void rig_borrow_take(struct ast_abi *a, union ast_abi_slot *v)
{
    void *x, *y;
    if (ast_abi_handle_borrow(a, (uint32_t)v[0].i32, RIG_THING, &x))
        (void)ast_abi_handle_take(a, (uint32_t)v[1].i32, RIG_THING, &y);
}

static _Atomic uintptr_t rig_next_thing = 1;

static void rig_make(struct ast_abi *a, union ast_abi_slot *v)
{
    uint32_t h;
    void *thing = (void *)(rig_next_thing++);
    if (ast_abi_handle_add(a, RIG_THING, thing, &h))
        v[0].i32 = (int32_t)h;
}

static void rig_make_other(struct ast_abi *a, union ast_abi_slot *v)
{
    uint32_t h;
    if (ast_abi_handle_add(a, RIG_OTHER, (void *)(uintptr_t)999, &h))
        v[0].i32 = (int32_t)h;
}

static void rig_nop(struct ast_abi *a, union ast_abi_slot *v)
{
    struct rig_call *rc = ast_abi_user(a);
    if (rc && rc->on_nop)
        rc->on_nop(rc);
}

static void rig_peek(struct ast_abi *a, union ast_abi_slot *v) /* sum of first and last byte */
{
    uint32_t n = (uint32_t)v[1].i32;
    const uint8_t *p;
    if (ast_abi_read(a, (uint32_t)v[0].i32, n, 1, &p))
        v[0].i32 = n ? p[0] + p[n - 1] : -1;
}

static void rig_read4(struct ast_abi *a, union ast_abi_slot *v) /* one aligned u32 */
{
    const uint8_t *p;
    if (ast_abi_read(a, (uint32_t)v[0].i32, 4, 4, &p))
        memcpy(&v[0].i32, p, 4);
}

static void rig_string(struct ast_abi *a, union ast_abi_slot *v)
{
    struct ast_str s;
    if (ast_abi_string(a, (uint32_t)v[0].i32, (uint32_t)v[1].i32, &s))
        v[0].i32 = (int32_t)s.n;
}

static void rig_take(struct ast_abi *a, union ast_abi_slot *v)
{
    void *x;
    if (ast_abi_handle_take(a, (uint32_t)v[0].i32, RIG_THING, &x))
        rig_thing_drop(x);
}

static void rig_touch(struct ast_abi *a, union ast_abi_slot *v)
{
    void *x;
    if (ast_abi_handle_borrow(a, (uint32_t)v[0].i32, RIG_THING, &x))
        v[0].i32 = (int32_t)(uintptr_t)x;
}

/* Waits for a permit; afterwards it allocates in the guest, as a host function with a result would. */
static void rig_wait(struct ast_abi *a, union ast_abi_slot *v)
{
    struct rig_call *rc = ast_abi_user(a);
    enum ast_rc park = AST_OK;
    rc->waits++;
    for (;;) {
        unsigned have = rc->permits;
        if (have && atomic_compare_exchange_weak(&rc->permits, &have, have - 1))
            break;
        park = ast_call_park(a, rc->park_deadline_ns ? rc->park_deadline_ns : AST_NO_DEADLINE);
        if (park)
            break;
    }
    rc->last_park = park;
    if (park == AST_E_CANCELLED) {
        rc->cleanups++;
        return;
    }
    uint32_t ptr;
    if (ast_abi_alloc(a, 4, 64, &ptr))
        v[0].i32 = (int32_t)park;
}

static const struct ast_abi_import rig_imports[] = {
    { RIG_MODULE, "[resource-drop]thing", "i", "", rig_resource_drop, 0 },
    { RIG_MODULE, "arena", "i", "i", rig_arena, 1 },
    { RIG_MODULE, "blob", "ii", "", rig_blob, 2 },
    { RIG_MODULE, "borrow-take", "ii", "", rig_borrow_take, 3 },
    { RIG_MODULE, "make", "", "i", rig_make, 4 },
    { RIG_MODULE, "make-other", "", "i", rig_make_other, 5 },
    { RIG_MODULE, "nop", "", "", rig_nop, 6 },
    { RIG_MODULE, "peek", "ii", "i", rig_peek, 7 },
    { RIG_MODULE, "read4", "i", "i", rig_read4, 8 },
    { RIG_MODULE, "string", "ii", "i", rig_string, 9 },
    { RIG_MODULE, "take", "i", "", rig_take, 10 },
    { RIG_MODULE, "touch", "i", "i", rig_touch, 11 },
    { RIG_MODULE, "wait", "", "i", rig_wait, 12 },
};
static const struct ast_abi_resource rig_resources[] = {
    { RIG_THING, "thing", rig_thing_drop },
    { RIG_OTHER, "other", rig_thing_drop },
};
static const struct ast_wasm_host rig_host = { rig_imports, AST_ARRAY_LEN(rig_imports),
                                               rig_resources, AST_ARRAY_LEN(rig_resources) };

/* --- Guests -------------------------------------------------------------------------------------- */

/* Every import of the host under "$name". */
#define RIG_IMPORTS                                                                                \
    "(import \"" RIG_MODULE "\" \"[resource-drop]thing\" (func $drop (param i32)))"                \
    "(import \"" RIG_MODULE "\" \"arena\" (func $arena (param i32) (result i32)))"                 \
    "(import \"" RIG_MODULE "\" \"blob\" (func $blob (param i32 i32)))"                            \
    "(import \"" RIG_MODULE "\" \"borrow-take\" (func $borrow_take (param i32 i32)))"              \
    "(import \"" RIG_MODULE "\" \"make\" (func $make (result i32)))"                               \
    "(import \"" RIG_MODULE "\" \"make-other\" (func $make_other (result i32)))"                   \
    "(import \"" RIG_MODULE "\" \"nop\" (func $nop))"                                              \
    "(import \"" RIG_MODULE "\" \"peek\" (func $peek (param i32 i32) (result i32)))"               \
    "(import \"" RIG_MODULE "\" \"read4\" (func $read4 (param i32) (result i32)))"                 \
    "(import \"" RIG_MODULE "\" \"string\" (func $string (param i32 i32) (result i32)))"           \
    "(import \"" RIG_MODULE "\" \"take\" (func $take (param i32)))"                                \
    "(import \"" RIG_MODULE "\" \"touch\" (func $touch (param i32) (result i32)))"                 \
    "(import \"" RIG_MODULE "\" \"wait\" (func $wait (result i32)))"

/* $ok(ptr, len): the result area with "continue" and that data. $num(n): the same with n as decimal text. */
#define RIG_FRAME                                                                                  \
    "(memory (export \"memory\") 4)"                                                               \
    "(global $heap (mut i32) (i32.const 131072))"                                                  \
    "(global $count (mut i32) (i32.const 0))"                                                      \
    "(data (i32.const 1024) \"continue\")"                                                         \
    "(func $ok (param $p i32) (param $n i32) (result i32)"                                         \
    "  (i32.store (i32.const 2048) (i32.const 1024)) (i32.store (i32.const 2052) (i32.const 8))"   \
    "  (i32.store8 (i32.const 2056) (i32.const 1))"                                                \
    "  (i32.store (i32.const 2060) (local.get $p)) (i32.store (i32.const 2064) (local.get $n))"    \
    "  (i32.const 2048))"                                                                          \
    "(func $num (param $x i32) (result i32) (local $p i32)"                                        \
    "  (local.set $p (i32.const 4096))"                                                            \
    "  (loop $digit"                                                                               \
    "    (local.set $p (i32.sub (local.get $p) (i32.const 1)))"                                    \
    "    (i32.store8 (local.get $p)"                                                               \
    "      (i32.add (i32.const 48) (i32.rem_u (local.get $x) (i32.const 10))))"                    \
    "    (br_if $digit (local.tee $x (i32.div_u (local.get $x) (i32.const 10)))))"                 \
    "  (call $ok (local.get $p) (i32.sub (i32.const 4096) (local.get $p))))"

#define RIG_REALLOC                                                                                       \
    "(func $realloc (export \"cabi_realloc\")"                                                            \
    "    (param $old i32) (param $osz i32) (param $align i32) (param $n i32) (result i32) (local $p i32)" \
    "  (local.set $p (i32.and (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))"    \
    "    (i32.sub (i32.const 0) (local.get $align))))"                                                    \
    "  (global.set $heap (i32.add (local.get $p) (local.get $n)))"                                        \
    "  (block $done (loop $more"                                                                          \
    "    (br_if $done (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))"           \
    "    (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))"                  \
    "    (br $more)))"                                                                                    \
    "  (local.get $p))"

#define RIG_POST                                                                                   \
    "(func (export \"cabi_post_astrid-hook-trigger\") (param i32)"                                 \
    "  (global.set $heap (i32.const 131072)))"

#define RIG_HOOK(body)                                                                                     \
    "(func (export \"astrid-hook-trigger\")"                                                               \
    "    (param $ap i32) (param $al i32) (param $pp i32) (param $pl i32) (result i32) (local $i i32)" body \
    ")"

#define RIG_ECHO        "(call $ok (local.get $pp) (local.get $pl))"
#define RIG_GUEST(body) "(module " RIG_IMPORTS RIG_FRAME RIG_REALLOC RIG_POST RIG_HOOK(body) ")"

/* --- The rig ------------------------------------------------------------------------------------- */

struct rig {
    struct ast_engine *engine;
    struct ast_sched *sched;
    struct ast_module *module;
    struct ast_pool *pool;
};

static void rig_check(enum ast_rc rc, const struct ast_err *err)
{
    if (rc)
        fail_msg("%s: %s", ast_rc_name(rc), err->msg);
}

static struct ast_module *rig_load(struct ast_engine *e, const char *wat)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(4 << 20);
    struct ast_module *m = NULL;
    rig_check(ast_wat_compile(ast_str_c(wat), &bytes, &err), &err);
    rig_check(ast_module_load(e, ast_buf_view(&bytes), &m, &err), &err);
    return m;
}

/* cmocka puts its own fault handlers in front of the engine's before every test, and then a guest's fault would
 * end the program. The engine installs its handlers once per process: remember them, put them back. */
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

static struct ast_engine *rig_engine(const struct ast_engine_config *cfg)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_engine *e = NULL;
    rig_check(ast_engine_new(cfg, &e, &err), &err);
    rig_keep_fault_handlers();
    return e;
}

/* wat NULL: no module, no pool. */
static __attribute__((unused)) struct rig rig_open(const char *wat,
                                                   const struct ast_pool_config *pool,
                                                   unsigned workers)
{
    struct ast_err err = AST_ERR_INIT;
    struct rig r = { 0 };
    r.engine = rig_engine(&(struct ast_engine_config){ .host = &rig_host, .instances = 16 });
    rig_check(ast_sched_new(r.engine, workers, &r.sched, &err), &err);
    if (wat) {
        r.module = rig_load(r.engine, wat);
        const struct ast_pool_config usual = { .max = 4, .idle_max = 4 };
        rig_check(ast_pool_new(r.module, pool ? pool : &usual, &r.pool, &err), &err);
    }
    return r;
}

static __attribute__((unused)) void rig_close(struct rig *r)
{
    ast_sched_free(r->sched);
    ast_pool_free(r->pool);
    ast_module_unref(r->module);
    ast_engine_free(r->engine);
}

static __attribute__((unused)) struct ast_instance *rig_lease(struct rig *r, const char *principal)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_pool_waiter w = { 0 };
    struct ast_instance *i = NULL;
    rig_check(ast_pool_lease(r->pool, ast_str_c(principal), &w, &i, &err), &err);
    return i;
}

static __attribute__((unused)) bool rig_on_tick(void *user, int64_t now_ns)
{
    struct rig_call *rc = user;
    unsigned n = ++rc->ticks;
    return !rc->ticks_allowed || n <= rc->ticks_allowed;
}

static __attribute__((unused)) void rig_on_done(void *user, const struct ast_call_result *res)
{
    struct rig_call *rc = user;
    rc->res = *res;
    (void)ast_buf_add(&rc->text, res->action);
    (void)ast_buf_add(&rc->text, res->data);
    assert_int_equal(rc->text.fail, AST_OK);
    rc->res.action = ast_str_n(rc->text.p, res->action.n);
    rc->res.data = ast_str_n(rc->text.p ? rc->text.p + res->action.n : NULL, res->data.n);
    snprintf(rc->error, sizeof rc->error, "%s", res->error);
    rc->res.error = rc->error;
    if (rc->on_done)
        rc->on_done(rc);
    ast_lock(&rc->lock);
    rc->is_done = true;
    pthread_cond_signal(&rc->done_cond);
    ast_unlock(&rc->lock);
}

static __attribute__((unused)) struct ast_call_config rig_config(struct ast_instance *i,
                                                                 struct rig_call *rc)
{
    return (struct ast_call_config){
        .instance = i,
        .action = AST_STR("act"),
        .payload = AST_STR("payload"),
        .fuel = 10000000000,
        .deadline_ns = AST_NO_DEADLINE,
        .memory_limit_bytes = AST_ENGINE_MAX_MEMORY,
        .user = rc,
        .on_tick = rig_on_tick,
        .on_done = rig_on_done,
    };
}

static __attribute__((unused)) void rig_call_init(struct rig_call *rc)
{
    ast_lock_init(&rc->lock, AST_LOCK_metrics);
    ast_cond_init(&rc->done_cond);
    rc->text = (struct ast_buf)AST_BUF_INIT(32 << 20);
}

static __attribute__((unused)) void rig_start(struct rig *r, struct rig_call *rc,
                                              const struct ast_call_config *cfg)
{
    struct ast_err err = AST_ERR_INIT;
    rig_call_init(rc);
    rig_check(ast_call_start(r->sched, cfg, &rc->call, &err), &err);
}

static __attribute__((unused)) void rig_wait_done(struct rig_call *rc)
{
    AST_WITH_LOCK(&rc->lock);
    while (!rc->is_done)
        (void)ast_cond_wait(&rc->done_cond, &rc->lock, -1);
}

static __attribute__((unused)) void rig_finish(struct rig_call *rc)
{
    rig_wait_done(rc);
    ast_call_unref(rc->call);
    ast_buf_done(&rc->text);
    pthread_cond_destroy(&rc->done_cond);
    ast_lock_done(&rc->lock);
}

/* One call from start to end; finish it with rig_finish(). */
static __attribute__((unused)) void rig_run(struct rig *r, struct rig_call *rc,
                                            const struct ast_call_config *cfg)
{
    rig_start(r, rc, cfg);
    rig_wait_done(rc);
}

/* Spins until `cond` is true; for conditions another thread brings about at once. */
#define rig_until(cond)                                                                            \
    do {                                                                                           \
        while (!(cond))                                                                            \
            sched_yield();                                                                         \
    } while (0)
