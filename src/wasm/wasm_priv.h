/* What the files of this room share: the engine's innards, an instance, a fault.
 *
 * Terms. *Guest*: WebAssembly code. *Fiber*: the stack one call runs on. *Drive*: our host function at the
 * bottom of every fiber; it makes all guest calls of one ast_call. *Suspend*: the one asynchronous host
 * function; calling it parks the fiber, C frames included. Neither is importable by guests (the names of
 * their module cannot be in the import table).
 */
#pragma once

#include <stdatomic.h>
#include <wasmtime.h>

#include "base/arena.h"
#include "base/list.h"
#include "base/thread.h"
#include "wasm/component.h"
#include "wasm/engine.h"
#include "wasm/pool.h"
#include "wasm/sched.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WASM_ASAN 1
#elif __has_feature(thread_sanitizer)
#define WASM_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define WASM_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define WASM_TSAN 1
#endif

/* --- Faults: why a guest call ended badly (fault.c) ---------------------------------------------- */

#define WASM_FAULT_TEXT 301

/* Owner: the call. The first one stays. */
struct wasm_fault {
    enum ast_rc rc;             /* AST_OK: none */
    char text[WASM_FAULT_TEXT]; /* one line */
};

void wasm_fault_set(struct wasm_fault *f, enum ast_rc rc, const char *fmt, ...) AST_PRINTF(3, 4);
/* Takes what the library returned (deletes both; either may be NULL). `otherwise` classifies an error that
 * carries no trap code and that we did not cause ourselves. True when there was one. */
bool wasm_fault_take(struct wasm_fault *f, wasmtime_error_t *error, wasm_trap_t *trap,
                     enum ast_rc otherwise);
/* The first line of a library error as `err`, under `what`; deletes it. */
enum ast_rc wasm_fail_error(struct ast_err *err, enum ast_rc rc, const char *what,
                            wasmtime_error_t *error);

/* --- Engine -------------------------------------------------------------------------------------- */

/* Everything a compiled artifact depends on besides the library version; part of each cache key. */
#define WASM_CONFIG_ID "epoch fuel stack=512K mem=4G simd tail-call no-gc no-threads aot=1"

#define WASM_TYPE_IDS 1024u /* resource type ids are below this */

/* Owner: immutable after ast_engine_new. */
struct ast_engine {
    wasm_engine_t *wasm;                       /* owned */
    wasmtime_linker_t *linker;                 /* owned; host functions, drive, suspend */
    struct ast_wasm_host host;                 /* borrowed: static tables */
    const struct ast_abi_resource **resources; /* owned; rows of `host` by type id, NULL: none */
    uint32_t resource_count;
    char *cache_dir; /* owned; NULL: no cache */
    uint8_t cache_key[32];
};

/* drive and suspend of a store. */
void wasm_engine_natives(const struct ast_engine *e, wasmtime_context_t *ctx,
                         wasmtime_func_t *ret_drive, wasmtime_func_t *ret_suspend);

/* --- Compiled code on disk (cache.c) ------------------------------------------------------------- */

#define WASM_CACHE_NAME 65

void wasm_cache_name(struct ast_str wasm, char out[static WASM_CACHE_NAME]);
/* NULL when there is no valid entry; a bad one is deleted. */
wasmtime_module_t *wasm_cache_load(struct ast_engine *e, const char *name);
enum ast_rc wasm_cache_store(struct ast_engine *e, const char *name, const wasmtime_module_t *m,
                             struct ast_err *err);

/* --- Module -------------------------------------------------------------------------------------- */

enum wasm_export {
    WASM_EXPORT_REALLOC,
    WASM_EXPORT_INITIALIZE,
    WASM_EXPORT_HOOK,
    WASM_EXPORT_HOOK_POST,
    WASM_EXPORT_RUN,
    WASM_EXPORT_RUN_POST,
    WASM_EXPORT_INSTALL,
    WASM_EXPORT_INSTALL_POST,
    WASM_EXPORT_UPGRADE,
    WASM_EXPORT_UPGRADE_POST,
    WASM_EXPORT_COUNT
};
extern const char *const wasm_export_names[WASM_EXPORT_COUNT];

/* Owner: immutable after ast_module_load, shared by reference. */
struct ast_module {
    _Atomic unsigned refs;
    struct ast_engine *engine;    /* borrowed: outlives every module */
    wasmtime_module_t *module;    /* owned */
    wasmtime_instance_pre_t *pre; /* owned */
    struct ast_module_info info;
    bool has[WASM_EXPORT_COUNT];
    bool has_start; /* a start function: instantiating runs guest code */
};

/* --- Handles (handles.c) ------------------------------------------------------------------------- */

/* Owner: whoever owns the instance. Index 0 is never used; freed indices are reused last-in first-out. */
struct wasm_handle {
    void *obj;           /* owned; NULL: free */
    uint32_t type;       /* type id */
    uint32_t prev, next; /* order of creation; next links free entries */
    uint64_t lent;       /* the round in which it was borrowed */
};

struct wasm_handles {
    struct wasm_handle *v; /* owned; v[0] is the head of the creation ring */
    uint32_t cap;          /* entries allocated */
    uint32_t used;         /* entries ever used, v[0] included */
    uint32_t live;
    uint32_t free;  /* first free entry, 0 = none */
    uint64_t round; /* number of the running host call; an entry with lent == round is lent */
};

/* Each gives NULL or the text of the trap. */
const char *wasm_handles_add(struct wasm_handles *h, uint32_t type, void *obj, uint32_t *ret);
const char *wasm_handles_lend(struct wasm_handles *h, uint32_t index, uint32_t type, void **ret);
const char *wasm_handles_take(struct wasm_handles *h, uint32_t index, uint32_t type, void **ret);
void wasm_handles_end_round(struct wasm_handles *h); /* what was lent is free again */
void wasm_handles_clear(struct wasm_handles *h, const struct ast_engine *e); /* newest first */
void wasm_handles_done(struct wasm_handles *h, const struct ast_engine *e);
void wasm_resource_drop(const struct ast_engine *e, uint32_t type, void *obj);
bool wasm_resource_is_held(const struct ast_engine *e, uint32_t type, const void *obj);

/* --- Instance ------------------------------------------------------------------------------------ */

#define WASM_INSTANCE_MAGIC 0x61737469u
#define WASM_TAG_MAX        64
#define WASM_ARENA_MAX      ((size_t)128 * 1024 * 1024)

/* Owner: the pool while idle; the lease holder while leased; the worker that runs its call meanwhile. */
struct ast_instance {
    uint32_t magic;
    bool may_leave;          /* false while cabi_realloc or a post-return runs: imports trap */
    bool is_ready;           /* instantiated: `memory` is valid */
    bool is_initialized;     /* `_initialize` has run */
    bool is_spent;           /* a call ended badly: never used again */
    struct ast_call *call;   /* borrowed; NULL between calls */
    uint8_t *base;           /* guest memory, once ready: never moves */
    size_t size;             /* of it when last seen: never shrinks */
    wasmtime_context_t *ctx; /* borrowed from store */
    wasmtime_memory_t memory;
    wasmtime_func_t suspend, drive;
    wasmtime_func_t funcs[WASM_EXPORT_COUNT]; /* store_id 0: not looked up yet */
    wasmtime_instance_t instance;
    struct wasm_handles handles;
    struct ast_arena arena; /* of the running host call */

    struct ast_module *module; /* reference */
    wasmtime_store_t *store;   /* owned */
    void *state;               /* host state, owned through the pool's config */
    uint64_t limit_bytes;      /* memory ceiling the store enforces now */

    /* Of the pool. */
    struct ast_list link; /* in the idle list, oldest first */
    int64_t idle_since_ns;
    unsigned calls;
    bool is_tagged; /* it has served `tag` */
    uint8_t tag_n;
    char tag[WASM_TAG_MAX];
};

AST_MUST_CHECK
enum ast_rc wasm_inst_new(struct ast_module *m, struct ast_instance **ret, struct ast_err *err);
void wasm_inst_free(struct ast_instance *i); /* no call may be on it; host state is the pool's */
AST_DEFINE_AUTO(struct ast_instance, wasm_inst_free)
void wasm_inst_limit(struct ast_instance *i, uint64_t bytes);
void wasm_inst_ready(struct ast_instance *i); /* after instantiation: finds the memory */
void wasm_inst_look(struct ast_instance *i);  /* takes a new look at the memory's size */
/* The export, which the module has. */
const wasmtime_func_t *wasm_inst_func(struct ast_instance *i, enum wasm_export which);

/* --- One host call (abi.c) ----------------------------------------------------------------------- */

/* Owner: the fiber; lives on its stack. */
struct ast_abi {
    struct ast_instance *instance;
    const struct ast_abi_import *row; /* NULL in drive */
    bool has_trapped;
    bool has_lent;
    bool has_arena;
};

/* The instance whose fiber runs on this thread, set around each poll. Read it on entry to a host call only, where
 * it saves two calls into the library (a tenth of the budget each); after a park the thread is another. */
extern _Thread_local struct ast_instance *wasm_running __attribute__((tls_model("initial-exec")));

wasm_trap_t *wasm_abi_trampoline(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *v,
                                 size_t n);
/* Guest calls; false: the call's fault says why, the guest must not run again. */
bool wasm_guest_call(struct ast_instance *i, enum wasm_export which, wasmtime_val_raw_t *v,
                     size_t n);

/* --- One call (call.c) --------------------------------------------------------------------------- */

/* The beginning of struct ast_call: what every host call looks at. */
struct wasm_call_head {
    _Atomic bool is_cancelled; /* by any thread */
    bool is_dying;             /* its fiber is being unwound: never run the guest */
};

static inline const struct wasm_call_head *wasm_call_head(const struct ast_call *c)
{
    return (const struct wasm_call_head *)(const void *)c;
}

/* Host functions then end in a trap. */
static inline bool wasm_call_is_ending(const struct ast_call *c)
{
    const struct wasm_call_head *h = wasm_call_head(c);
    return atomic_load_explicit(&h->is_cancelled, memory_order_relaxed) || h->is_dying;
}

wasm_trap_t *wasm_call_drive(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *v, size_t n);
void wasm_call_suspend(void *env, wasmtime_caller_t *caller, const wasmtime_val_t *args,
                       size_t nargs, wasmtime_val_t *results, size_t nresults,
                       wasm_trap_t **trap_ret, wasmtime_async_continuation_t *ret);
wasmtime_error_t *wasm_call_epoch(const wasmtime_context_t *ctx, void *data, uint64_t *delta,
                                  wasmtime_update_deadline_kind_t *kind);
struct wasm_fault *wasm_call_fault(struct ast_call *c);
void *wasm_call_user(struct ast_call *c);
