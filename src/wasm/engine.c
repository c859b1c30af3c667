/* The engine: configuration, and the linker with everything a guest may import.
 *
 * Invariant: every value handed to the library is checked here first, because it answers an invalid
 * configuration by aborting the process.
 *
 * Sanitizers. Address: the library changes stacks behind the sanitizer's back. That is sound as long as
 * every C frame on a fiber returns (it does: a cancel resumes the fiber so that it unwinds) and locals live
 * on the real stack. Its alternate signal stacks must not be replaced by the sanitizer's: both would unmap
 * them at thread exit. Thread: each call tells it about its fiber (call.c), and the library, whose atomics it
 * cannot see, is ignored; what passes through the library is ordered by our own locks as well.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fs.h"
#include "base/log.h"
#include "wasm/wasm_priv.h"

#include "base/banned.h"

#define KIB ((size_t)1024)
#define GIB ((uint64_t)1 << 30)

/* Our own functions are not in the import table, and that table is what a guest's imports are checked
 * against (module.c). */
#define NATIVE_MODULE "\x01native"

/* max_wasm_stack counts from each entry into the guest: an export and the realloc below one of its host
 * calls may use it twice, plus the host's own frames. */
#define ASYNC_STACK (2 * (size_t)AST_ENGINE_WASM_STACK + 512 * KIB)

/* Bytes of a slot zeroed in place instead of given back to the kernel: page faults are what a fresh instance
 * costs (26 us without, 9 us with, for eight touched pages). Covers data and stack in the usual C layout; Rust
 * guests, whose stack ends at 1 MiB, gain nothing from any affordable value. It is also what each slot that
 * was ever used keeps resident. */
#define KEEP_MEMORY        (128 * KIB)
#define KEEP_TABLE         (4 * KIB)
#define WARM_SLOTS         64u    /* unused slots that keep their module's image */
#define MAX_INSTANCES      16384u /* 64 TiB of address space */
#define MAX_TABLE_ELEMENTS 100000u
#define MAX_TABLES         4u /* per module; linkers make one */

#if defined(WASM_ASAN)
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_stack_use_after_return=0:use_sigaltstack=0";
}
#elif defined(WASM_TSAN)
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "ignore_noninstrumented_modules=1";
}
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:libwasmtime.so\n";
}
#endif

const char *ast_engine_version(void)
{
    return "wasmtime " WASMTIME_VERSION;
}

static void config_features(wasm_config_t *c)
{
    wasmtime_config_epoch_interruption_set(c, true);
    wasmtime_config_consume_fuel_set(c, true);
    wasmtime_config_max_wasm_stack_set(c, AST_ENGINE_WASM_STACK);
    wasmtime_config_async_stack_size_set(c, ASYNC_STACK);
    wasmtime_config_parallel_compilation_set(c, true);
    wasmtime_config_memory_may_move_set(c, false); /* instances remember the base (abi.c) */

    /* spec 05 §2.4 */
    wasmtime_config_wasm_simd_set(c, true);
    wasmtime_config_wasm_relaxed_simd_set(c, true);
    wasmtime_config_wasm_relaxed_simd_deterministic_set(c, true);
    wasmtime_config_wasm_bulk_memory_set(c, true);
    wasmtime_config_wasm_multi_value_set(c, true);
    wasmtime_config_wasm_reference_types_set(c, true);
    wasmtime_config_wasm_tail_call_set(c, true);

    wasmtime_config_wasm_threads_set(c, false);
    wasmtime_config_shared_memory_set(c, false);
    wasmtime_config_wasm_memory64_set(c, false);
    wasmtime_config_wasm_multi_memory_set(c, false);
    wasmtime_config_wasm_gc_set(c, false);
    wasmtime_config_wasm_function_references_set(c, false);
    wasmtime_config_wasm_exceptions_set(c, false);
    wasmtime_config_wasm_stack_switching_set(c, false);
    wasmtime_config_gc_support_set(c, false);
    wasmtime_config_concurrency_support_set(c, false);
    wasmtime_config_wasm_component_model_async_set(c, false);
    wasmtime_config_wasm_component_model_set(c, false);
}

/* Can that much address space be reserved? The library aborts when it cannot (limits on virtual memory). */
static bool can_reserve(unsigned instances)
{
    size_t need = (size_t)(instances * (4 * GIB + GIB / 16));
    void *p = mmap(NULL, need, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return false;
    (void)munmap(p, need); /* our own mapping of a moment ago */
    return true;
}

static void config_pooling(wasm_config_t *c, unsigned instances)
{
    wasmtime_pooling_allocation_config_t *p = wasmtime_pooling_allocation_config_new();
    wasmtime_pooling_allocation_config_max_memory_size_set(p, (size_t)AST_ENGINE_MAX_MEMORY);
    wasmtime_pooling_allocation_config_total_core_instances_set(p, instances);
    wasmtime_pooling_allocation_config_total_memories_set(p, instances);
    wasmtime_pooling_allocation_config_total_tables_set(p, 2 * instances);
    wasmtime_pooling_allocation_config_max_tables_per_module_set(p, MAX_TABLES);
    wasmtime_pooling_allocation_config_total_stacks_set(p, instances);
    wasmtime_pooling_allocation_config_table_elements_set(p, MAX_TABLE_ELEMENTS);
    wasmtime_pooling_allocation_config_linear_memory_keep_resident_set(p, KEEP_MEMORY);
    wasmtime_pooling_allocation_config_table_keep_resident_set(p, KEEP_TABLE);
    wasmtime_pooling_allocation_config_max_unused_warm_slots_set(p, WARM_SLOTS);
    wasmtime_pooling_allocation_strategy_set(c, p);
    wasmtime_pooling_allocation_config_delete(p);
}

static wasm_functype_t *functype(const char *params, const char *result)
{
    wasm_valtype_t *in[32], *out[1];
    size_t n = strlen(params), m = strlen(result);
    for (size_t i = 0; i < n; i++)
        in[i] = wasm_valtype_new(params[i] == 'I' ? WASM_I64 : WASM_I32);
    if (m)
        out[0] = wasm_valtype_new(*result == 'I' ? WASM_I64 : WASM_I32);
    wasm_valtype_vec_t params_vec, results_vec;
    wasm_valtype_vec_new(&params_vec, n, in);
    wasm_valtype_vec_new(&results_vec, m, out);
    return wasm_functype_new(&params_vec, &results_vec);
}

/* The canonical ABI flattens to at most 16 parameters and a result pointer. */
static bool row_is_sane(const struct ast_abi_import *row)
{
    size_t n = strlen(row->params), m = strlen(row->result);
    return n <= 17 && m <= 1 && strspn(row->params, "iI") == n && strspn(row->result, "iI") == m &&
           row->adapter;
}

static enum ast_rc link_imports(struct ast_engine *e, struct ast_err *err)
{
    for (size_t k = 0; k < e->host.import_count; k++) {
        const struct ast_abi_import *row = &e->host.imports[k];
        if (!row_is_sane(row))
            return ast_fail(err, AST_E_INVALID, "import table: %s %s: bad signature", row->module,
                            row->name);
        wasm_functype_t *type = functype(row->params, row->result);
        wasmtime_error_t *error = wasmtime_linker_define_func_unchecked(
            e->linker, row->module, strlen(row->module), row->name, strlen(row->name), type,
            wasm_abi_trampoline, (void *)(uintptr_t)row, /* finalizer= */ NULL);
        wasm_functype_delete(type);
        if (error)
            return wasm_fail_error(err, AST_E_INVALID, "Failed to add Astrid host to linker",
                                   error);
    }
    return AST_OK;
}

static enum ast_rc link_natives(struct ast_engine *e, struct ast_err *err)
{
    wasm_functype_t *type = functype("", "");
    wasmtime_error_t *error =
        wasmtime_linker_define_func_unchecked(e->linker, NATIVE_MODULE, strlen(NATIVE_MODULE),
                                              "drive", 5, type, wasm_call_drive, NULL, NULL);
    if (!error)
        error =
            wasmtime_linker_define_async_func(e->linker, NATIVE_MODULE, strlen(NATIVE_MODULE),
                                              "suspend", 7, type, wasm_call_suspend, NULL, NULL);
    wasm_functype_delete(type);
    if (error)
        return wasm_fail_error(err, AST_E_INTERNAL, "Failed to add Astrid host to linker", error);
    return AST_OK;
}

void wasm_engine_natives(const struct ast_engine *e, wasmtime_context_t *ctx,
                         wasmtime_func_t *ret_drive, wasmtime_func_t *ret_suspend)
{
    wasmtime_extern_t drive, suspend;
    AST_ASSERT(wasmtime_linker_get(e->linker, ctx, NATIVE_MODULE, strlen(NATIVE_MODULE), "drive", 5,
                                   &drive));
    AST_ASSERT(wasmtime_linker_get(e->linker, ctx, NATIVE_MODULE, strlen(NATIVE_MODULE), "suspend",
                                   7, &suspend));
    *ret_drive = drive.of.func; /* functions own nothing: no wasmtime_extern_delete */
    *ret_suspend = suspend.of.func;
}

static enum ast_rc index_resources(struct ast_engine *e, struct ast_err *err)
{
    uint32_t count = 0;
    for (size_t k = 0; k < e->host.resource_count; k++) {
        uint32_t id = e->host.resources[k].type_id;
        if (id >= WASM_TYPE_IDS)
            return ast_fail(err, AST_E_INVALID, "resource table: type id %u of '%s' is too large",
                            id, e->host.resources[k].name);
        count = AST_MAX(count, id + 1);
    }
    if (!count)
        return AST_OK;
    e->resources = calloc(count, sizeof *e->resources);
    if (!e->resources)
        return ast_fail(err, AST_E_NO_MEMORY, "resource table");
    for (size_t k = 0; k < e->host.resource_count; k++)
        e->resources[e->host.resources[k].type_id] = &e->host.resources[k];
    e->resource_count = count;
    return AST_OK;
}

static enum ast_rc open_cache(struct ast_engine *e, const struct ast_engine_config *cfg,
                              struct ast_err *err)
{
    if (!cfg->cache_dir)
        return AST_OK;
    AST_ASSERT(cfg->cache_key);
    memcpy(e->cache_key, cfg->cache_key, sizeof e->cache_key);
    enum ast_rc rc = ast_fs_mkdirs(cfg->cache_dir, 0700, err);
    if (rc)
        return ast_wrap(err, rc, "compiled-code cache");
    e->cache_dir = strdup(cfg->cache_dir);
    if (!e->cache_dir)
        return ast_fail(err, AST_E_NO_MEMORY, "compiled-code cache");
    return AST_OK;
}

enum ast_rc ast_engine_new(const struct ast_engine_config *cfg, struct ast_engine **ret,
                           struct ast_err *err)
{
    unsigned instances = cfg->instances ? cfg->instances : AST_ENGINE_INSTANCES;
    if (instances > MAX_INSTANCES)
        return ast_fail(err, AST_E_INVALID, "%u instance slots, at most %u", instances,
                        MAX_INSTANCES);
    AST_AUTO(ast_engine_free) struct ast_engine *e = calloc(1, sizeof *e);
    if (!e)
        return ast_fail(err, AST_E_NO_MEMORY, "engine");
    e->host = *cfg->host;
    enum ast_rc rc = index_resources(e, err);
    if (!rc)
        rc = open_cache(e, cfg, err);
    if (rc)
        return rc;

    wasm_config_t *c = wasm_config_new();
    config_features(c);
    if (!cfg->on_demand) {
        if (can_reserve(instances))
            config_pooling(c, instances);
        else
            ast_log_warn("wasm", "no address space for %u instance slots, allocating on demand",
                         instances);
    }
    e->wasm = wasm_engine_new_with_config(c); /* takes c */
    e->linker = wasmtime_linker_new(e->wasm);
    rc = link_imports(e, err);
    if (!rc)
        rc = link_natives(e, err);
    if (rc)
        return rc;
    *ret = ast_steal(&e);
    return AST_OK;
}

void ast_engine_free(struct ast_engine *e)
{
    if (!e)
        return;
    if (e->linker)
        wasmtime_linker_delete(e->linker);
    if (e->wasm)
        wasm_engine_delete(e->wasm);
    explicit_bzero(e->cache_key, sizeof e->cache_key);
    free(e->resources);
    free(e->cache_dir);
    free(e);
}

enum ast_rc ast_wat_compile(struct ast_str text, struct ast_buf *out, struct ast_err *err)
{
    wasm_byte_vec_t bytes;
    wasmtime_error_t *error = wasmtime_wat2wasm(text.p, text.n, &bytes);
    if (error)
        return wasm_fail_error(err, AST_E_INVALID, "text format", error);
    (void)ast_buf_add(out,
                      ast_str_n(bytes.data, bytes.size)); /* sticky: checked on the next line */
    wasm_byte_vec_delete(&bytes);
    return ast_buf_check(out, "binary format", err);
}
