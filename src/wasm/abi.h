/* One host call in progress, as generated bindings and host functions see it.
 *
 * Canonical ABI rules (Component Model, CanonicalABI): pointers are checked each time; strings are UTF-8;
 * what is borrowed from guest memory is valid only until the guest runs again or the call parks. Any
 * violation marks the call trapped: the guest dies when the host function returns, and what the host
 * function did with its results is ignored.
 * Threads: the worker that polls the fiber; after a park that may be another one, so no thread-local,
 * errno or lock survives a park.
 */
#pragma once

#include <stdint.h>

#include "base/arena.h"
#include "base/str.h"

struct ast_abi;
struct ast_call;
struct ast_instance;

/* Layout-compatible with the engine's raw value. */
union ast_abi_slot {
    int32_t i32;
    int64_t i64;
    float f32;
    double f64;
    uint8_t raw_[16];
};

/* One row of the generated import table. */
struct ast_abi_import {
    const char *module; /* "astrid:ipc/host@1.0.0" */
    const char *name;   /* "[method]subscription.recv" */
    const char *params; /* flat core parameters: "iIi" */
    const char *result; /* "", "i" or "I" */
    void (*adapter)(struct ast_abi *a, union ast_abi_slot *v);
    uint32_t index;
};

#define AST_ABI_MAX_BYTES ((1u << 28) - 1) /* longest string or list, in bytes */

struct ast_arena *ast_abi_arena(struct ast_abi *a); /* per host call; reset when it returns */
struct ast_call *ast_abi_call(struct ast_abi *a);   /* NULL while instantiating */
struct ast_instance *ast_abi_instance(struct ast_abi *a);
/* What the running call has burned so far; 0 while instantiating. */
uint64_t ast_abi_fuel_used(struct ast_abi *a);
void *ast_abi_user(struct ast_abi *a); /* `user` of the running call */

/* Lifting. False: the call is trapped, stop working. */
bool ast_abi_read(struct ast_abi *a, uint32_t ptr, uint32_t len, uint32_t align,
                  const uint8_t **ret);
bool ast_abi_string(struct ast_abi *a, uint32_t ptr, uint32_t len, struct ast_str *ret);
bool ast_abi_bytes(struct ast_abi *a, uint32_t ptr, uint32_t len, struct ast_str *ret);

/* why: static text; a guest bug, logged as such */
void ast_abi_trap(struct ast_abi *a, const char *why);
bool ast_abi_trapped(const struct ast_abi *a);

/* Lowering. alloc calls the guest's cabi_realloc: memory may move, take fresh pointers after it. */
bool ast_abi_alloc(struct ast_abi *a, uint32_t align, uint32_t size, uint32_t *ret_ptr);
/* NULL: trapped */
uint8_t *ast_abi_at(struct ast_abi *a, uint32_t ptr, uint32_t size, uint32_t align);

/* Resources: one handle table per instance (index 0 never given out, freed ones reused last-in
 * first-out, at most AST_ABI_MAX_HANDLES). Unknown or wrong-type handles trap. */
#define AST_ABI_MAX_HANDLES 4096u
bool ast_abi_handle_borrow(struct ast_abi *a, uint32_t handle, uint32_t type_id, void **ret_obj);
bool ast_abi_handle_take(struct ast_abi *a, uint32_t handle, uint32_t type_id, void **ret_obj);
/* On failure (table full) the object's destructor has run and the call is trapped. */
bool ast_abi_handle_add(struct ast_abi *a, uint32_t type_id, void *obj, uint32_t *ret_handle);
bool ast_abi_handle_drop(struct ast_abi *a, uint32_t handle, uint32_t type_id);

/* The destructor of a resource type; runs on drop and, in reverse order of creation, when the instance is
 * recycled. Must not park. */
struct ast_abi_resource {
    uint32_t type_id;
    const char *name; /* "subscription" */
    void (*drop)(void *obj);
    /* Whether something of the guest still stands on the object: then its own drop traps (after `drop` ran). NULL:
     * never. */
    bool (*is_held)(const void *obj);
};
