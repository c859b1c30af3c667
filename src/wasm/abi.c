/* Host calls: the trampoline every import enters through, and what bindings use to read and write the guest.
 *
 * Invariant: nothing the guest passes is believed: every pointer is checked. A violation is recorded in the
 * call before the trap is raised, so the reason survives.
 * Cost: a call that reads memory stays under 20 ns. Memory never shrinks or moves (engine.c), so a pointer
 * inside the size last seen is good without asking the library; the arena is the instance's and is touched
 * only when asked for.
 */
#include <string.h>

#include "wasm/wasm_priv.h"

#include "base/banned.h"

#define KEEP_ARENA ((size_t)64 * 1024) /* larger ones are given back after the host call */

_Static_assert(sizeof(union ast_abi_slot) == sizeof(wasmtime_val_raw_t),
               "slots are the engine's raw values");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "raw values are little-endian");

_Thread_local struct ast_instance *wasm_running;

static wasm_trap_t *host_trap(void)
{
    static const char text[] = "host trap"; /* the real reason is in the call */
    return wasmtime_trap_new(text, sizeof text - 1);
}

static void trap_with(struct ast_abi *a, const char *why)
{
    a->has_trapped = true;
    if (a->row)
        wasm_fault_set(wasm_call_fault(a->instance->call), AST_E_ABI, "%s %s: %s", a->row->module,
                       a->row->name, why);
    else
        wasm_fault_set(wasm_call_fault(a->instance->call), AST_E_ABI, "%s: %s",
                       wasm_export_names[WASM_EXPORT_HOOK], why);
}

static __attribute__((noinline)) void end_round(struct ast_abi *a)
{
    if (a->has_lent)
        wasm_handles_end_round(&a->instance->handles);
    if (a->has_arena) {
        if (a->instance->arena.used > KEEP_ARENA)
            ast_arena_done(&a->instance->arena);
        else
            ast_arena_reset(&a->instance->arena);
    }
}

wasm_trap_t *wasm_abi_trampoline(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *v,
                                 size_t n)
{
    const struct ast_abi_import *row = env;
    struct ast_instance *i = wasm_running;
    AST_ASSERT(i);
    struct ast_abi a = { .instance = i, .row = row };
    if (__builtin_expect(!i->may_leave, 0)) {
        trap_with(&a, "cannot leave component instance");
        return host_trap();
    }
    row->adapter(&a, (union ast_abi_slot *)v);
    if (a.has_lent || a.has_arena)
        end_round(&a);
    if (__builtin_expect(a.has_trapped || wasm_call_is_ending(i->call), 0)) {
        wasm_fault_set(wasm_call_fault(i->call), AST_E_CANCELLED,
                       "cancelled"); /* unless it trapped */
        return host_trap();
    }
    return NULL;
}

struct ast_arena *ast_abi_arena(struct ast_abi *a)
{
    a->has_arena = true;
    return &a->instance->arena;
}

struct ast_call *ast_abi_call(struct ast_abi *a)
{
    return a->instance->call;
}

struct ast_instance *ast_abi_instance(struct ast_abi *a)
{
    return a->instance;
}

void *ast_abi_user(struct ast_abi *a)
{
    return wasm_call_user(a->instance->call);
}

void ast_abi_trap(struct ast_abi *a, const char *why)
{
    trap_with(a, why);
}

bool ast_abi_trapped(const struct ast_abi *a)
{
    return a->has_trapped;
}

/* --- Guest memory -------------------------------------------------------------------------------- */

/* The memory may have grown since we looked. Before instantiation ends (a start function called us) it cannot
 * be named yet and counts as empty. */
static __attribute__((noinline)) bool in_grown_memory(struct ast_instance *i, uint64_t end)
{
    if (!i->is_ready)
        return false;
    wasm_inst_look(i);
    return end <= i->size;
}

/* align is a power of two. */
static inline bool in_memory(struct ast_abi *a, uint32_t ptr, uint32_t len, uint32_t align)
{
    struct ast_instance *i = a->instance;
    uint64_t end = (uint64_t)ptr + len;
    if (__builtin_expect((ptr & (align - 1)) != 0, 0)) {
        trap_with(a, "pointer not aligned");
        return false;
    }
    if (__builtin_expect(len > AST_ABI_MAX_BYTES || (end > i->size && !in_grown_memory(i, end)) ||
                             !i->size,
                         0)) {
        trap_with(a, "pointer or length out of bounds");
        return false;
    }
    return true;
}

bool ast_abi_read(struct ast_abi *a, uint32_t ptr, uint32_t len, uint32_t align,
                  const uint8_t **ret)
{
    if (!in_memory(a, ptr, len, align))
        return false;
    *ret = a->instance->base + ptr;
    return true;
}

static inline bool bytes(struct ast_abi *a, uint32_t ptr, uint32_t len, struct ast_str *ret)
{
    if (!in_memory(a, ptr, len, 1))
        return false;
    *ret = ast_str_n(a->instance->base + ptr, len);
    return true;
}

bool ast_abi_bytes(struct ast_abi *a, uint32_t ptr, uint32_t len, struct ast_str *ret)
{
    return bytes(a, ptr, len, ret);
}

static __attribute__((noinline)) bool any_string(struct ast_abi *a, uint32_t ptr, uint32_t len,
                                                 struct ast_str *ret)
{
    struct ast_str s;
    if (!bytes(a, ptr, len, &s))
        return false;
    if (!ast_str_is_utf8(s)) {
        trap_with(a, "string is not UTF-8");
        return false;
    }
    *ret = s;
    return true;
}

/* The way of most strings, short ASCII inside the memory last seen: no call, nothing saved. */
bool ast_abi_string(struct ast_abi *a, uint32_t ptr, uint32_t len, struct ast_str *ret)
{
    const struct ast_instance *i = a->instance;
    if (len - 8u <= 8u && (uint64_t)ptr + len <= i->size) {
        const uint8_t *p = i->base + ptr;
        uint64_t first, last;
        memcpy(&first, p, 8);
        memcpy(&last, p + len - 8, 8);
        if (!((first | last) & UINT64_C(0x8080808080808080))) {
            *ret = ast_str_n(p, len);
            return true;
        }
    }
    return any_string(a, ptr, len, ret);
}

uint8_t *ast_abi_at(struct ast_abi *a, uint32_t ptr, uint32_t size, uint32_t align)
{
    return in_memory(a, ptr, size, align) ? a->instance->base + ptr : NULL;
}

bool ast_abi_alloc(struct ast_abi *a, uint32_t align, uint32_t size, uint32_t *ret_ptr)
{
    struct ast_instance *i = a->instance;
    if (a->has_trapped)
        return false;
    if (wasm_call_head(i->call)->is_dying) {
        a->has_trapped = true; /* the fault is there already: the call is being cancelled */
        return false;
    }
    if (!i->module->has[WASM_EXPORT_REALLOC] || !i->is_ready) {
        trap_with(a, "the guest has no cabi_realloc");
        return false;
    }
    wasmtime_val_raw_t v[4] = {
        { .i32 = 0 }, { .i32 = 0 }, { .i32 = (int32_t)align }, { .i32 = (int32_t)size }
    };
    i->may_leave = false;
    bool ok = wasm_guest_call(i, WASM_EXPORT_REALLOC, v, 4);
    i->may_leave = true;
    if (!ok) {
        a->has_trapped = true;
        return false;
    }
    uint32_t ptr = (uint32_t)v[0].i32;
    if (!in_memory(a, ptr, size, align))
        return false;
    *ret_ptr = ptr;
    return true;
}

/* --- Handles ------------------------------------------------------------------------------------- */

bool ast_abi_handle_borrow(struct ast_abi *a, uint32_t handle, uint32_t type_id, void **ret_obj)
{
    const char *why = wasm_handles_lend(&a->instance->handles, handle, type_id, ret_obj);
    if (why)
        trap_with(a, why);
    else
        a->has_lent = true;
    return !why;
}

bool ast_abi_handle_take(struct ast_abi *a, uint32_t handle, uint32_t type_id, void **ret_obj)
{
    const char *why = wasm_handles_take(&a->instance->handles, handle, type_id, ret_obj);
    if (why)
        trap_with(a, why);
    return !why;
}

bool ast_abi_handle_add(struct ast_abi *a, uint32_t type_id, void *obj, uint32_t *ret_handle)
{
    AST_ASSERT(obj); /* a NULL entry would read as free */
    const char *why = wasm_handles_add(&a->instance->handles, type_id, obj, ret_handle);
    if (!why)
        return true;
    trap_with(a, why);
    wasm_resource_drop(a->instance->module->engine, type_id, obj);
    return false;
}

bool ast_abi_handle_drop(struct ast_abi *a, uint32_t handle, uint32_t type_id)
{
    void *obj = NULL;
    if (!ast_abi_handle_take(a, handle, type_id, &obj))
        return false;
    const struct ast_engine *e = a->instance->module->engine;
    bool held = wasm_resource_is_held(e, type_id, obj);
    wasm_resource_drop(e, type_id, obj);
    if (held)
        trap_with(a, "resource has children");
    return !held;
}
