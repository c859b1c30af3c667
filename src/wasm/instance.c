/* An instance: a store with one module in it, the handles the guest holds and its ceilings.
 *
 * Invariant: `memory` is valid once `is_ready`. A module without a start function is instantiated here, by
 * whoever makes the instance, because that runs no guest code; with one it is instantiated by its first
 * call, on a fiber of its own and under that call's fuel and deadline (the library refuses to instantiate
 * from inside a host function, so it cannot happen below drive).
 */
#include <stdlib.h>
#include <string.h>

#include "wasm/wasm_priv.h"

#include "base/banned.h"

#define MAX_TABLE_ELEMENTS 100000
#define MAX_TABLES         10
#define MAX_INSTANCES      4
#define MAX_MEMORIES       1

static enum ast_rc instantiate_quietly(struct ast_instance *i, struct ast_err *err)
{
    wasm_trap_t *trap = NULL;
    wasmtime_error_t *error =
        wasmtime_instance_pre_instantiate(i->module->pre, i->ctx, &i->instance, &trap);
    struct wasm_fault fault = { 0 };
    if (wasm_fault_take(&fault, error, trap, AST_E_NO_CAPACITY))
        return ast_fail(err, AST_E_NO_CAPACITY, "instantiate: %s", fault.text);
    wasm_inst_ready(i);
    return AST_OK;
}

enum ast_rc wasm_inst_new(struct ast_module *m, struct ast_instance **ret, struct ast_err *err)
{
    AST_AUTO(wasm_inst_free) struct ast_instance *i = calloc(1, sizeof *i);
    if (!i)
        return ast_fail(err, AST_E_NO_MEMORY, "instance");
    i->magic = WASM_INSTANCE_MAGIC;
    i->module = ast_module_ref(m);
    i->may_leave = true;
    i->arena = (struct ast_arena)AST_ARENA_INIT(WASM_ARENA_MAX);
    ast_list_init(&i->link);
    i->store = wasmtime_store_new(m->engine->wasm, i, /* finalizer= */ NULL);
    i->ctx = wasmtime_store_context(i->store);
    wasm_inst_limit(i, AST_ENGINE_MAX_MEMORY);
    wasmtime_store_epoch_deadline_callback(i->store, wasm_call_epoch, i, /* finalizer= */ NULL);
    wasm_engine_natives(m->engine, i->ctx, &i->drive, &i->suspend);
    if (!m->has_start) {
        enum ast_rc rc = instantiate_quietly(i, err);
        if (rc)
            return rc;
    }
    *ret = ast_steal(&i);
    return AST_OK;
}

void wasm_inst_free(struct ast_instance *i)
{
    if (!i)
        return;
    AST_ASSERT(i->magic == WASM_INSTANCE_MAGIC && !i->call);
    wasm_handles_done(&i->handles, i->module->engine);
    if (i->store)
        wasmtime_store_delete(i->store);
    ast_arena_done(&i->arena);
    ast_module_unref(i->module);
    i->magic = 0;
    free(i);
}

void wasm_inst_limit(struct ast_instance *i, uint64_t bytes)
{
    bytes = AST_MIN(bytes, (uint64_t)AST_ENGINE_MAX_MEMORY);
    if (bytes == i->limit_bytes)
        return;
    wasmtime_store_limiter(i->store, (int64_t)bytes, MAX_TABLE_ELEMENTS, MAX_INSTANCES, MAX_TABLES,
                           MAX_MEMORIES);
    i->limit_bytes = bytes;
}

void wasm_inst_ready(struct ast_instance *i)
{
    wasmtime_extern_t memory;
    AST_ASSERT(wasmtime_instance_export_get(i->ctx, &i->instance, "memory", 6,
                                            &memory)); /* module.c checked */
    i->memory = memory.of.memory;
    i->base = wasmtime_memory_data(i->ctx, &i->memory);
    i->is_ready = true;
    wasm_inst_look(i);
}

void wasm_inst_look(struct ast_instance *i)
{
    i->size = wasmtime_memory_data_size(i->ctx, &i->memory);
}

const wasmtime_func_t *wasm_inst_func(struct ast_instance *i, enum wasm_export which)
{
    wasmtime_func_t *f = &i->funcs[which];
    if (!f->store_id) {
        const char *name = wasm_export_names[which];
        wasmtime_extern_t func;
        AST_ASSERT(wasmtime_instance_export_get(i->ctx, &i->instance, name, strlen(name), &func));
        *f = func.of.func;
    }
    return f;
}

void *ast_instance_state(struct ast_instance *i)
{
    return i->state;
}

uint64_t ast_instance_memory(struct ast_instance *i)
{
    return i->is_ready ? wasmtime_memory_data_size(i->ctx, &i->memory) : 0;
}
