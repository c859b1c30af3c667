/* The WebAssembly engine (wasmtime behind this door): one per process.
 *
 * Caveats of the library, in our words: crash handlers must be installed before the engine exists;
 * SIGSEGV, SIGILL, SIGFPE, SIGBUS and SIGTRAP are never blocked in threads that run guests; bad configuration
 * aborts the process, so values are validated here; the order of teardown is calls, instances, modules,
 * engine.
 */
#pragma once

#include "base/buf.h"
#include "wasm/abi.h"

struct ast_engine;

/* What guests may import, and how their resources die. */
struct ast_wasm_host {
    const struct ast_abi_import *imports; /* sorted by (module, name); static */
    size_t import_count;
    const struct ast_abi_resource *resources; /* static */
    size_t resource_count;
};

struct ast_engine_config {
    const struct ast_wasm_host *host;
    const char *cache_dir; /* compiled-code cache, created 0700; NULL: none */
    /* 32 bytes: MAC key of cache entries; required with cache_dir; copied */
    const uint8_t *cache_key;
    unsigned instances; /* pooling allocator slots; 0 = AST_ENGINE_INSTANCES */
    bool on_demand;     /* no pooling allocator (tests, installers) */
};

#define AST_ENGINE_INSTANCES  1024u
#define AST_ENGINE_MAX_MEMORY (64ull * 1024 * 1024) /* per instance; larger quotas are cut to it */
#define AST_ENGINE_WASM_STACK (512u * 1024)
#define AST_ENGINE_TICK_MS    10u

AST_MUST_CHECK
enum ast_rc ast_engine_new(const struct ast_engine_config *cfg, struct ast_engine **ret,
                           struct ast_err *err);
void ast_engine_free(struct ast_engine *e);
AST_DEFINE_AUTO(struct ast_engine, ast_engine_free)

const char *ast_engine_version(void); /* "wasmtime 50.0.1" */

/* A compiled and linked capsule binary: immutable, shared. */
struct ast_module;

/* Scans the component, compiles its main module or loads it from the cache (key: BLAKE3 of the bytes, engine
 * version and configuration; entries carry a keyed MAC; a bad entry is deleted and compiled again), checks
 * exports and links imports.
 * Errors: BAD_COMPONENT, BAD_MODULE ("Failed to compile WASM component: ..."), UNKNOWN_IMPORT naming every
 * offending import ("Failed to pre-instantiate WASM component: ..."). Blocks for seconds when it compiles. */
AST_MUST_CHECK
enum ast_rc ast_module_load(struct ast_engine *e, struct ast_str bytes, struct ast_module **ret,
                            struct ast_err *err);
struct ast_module *ast_module_ref(struct ast_module *m);
void ast_module_unref(struct ast_module *m);
AST_DEFINE_AUTO(struct ast_module, ast_module_unref)

struct ast_module_info {
    bool has_hook, has_run, has_install, has_upgrade; /* the real ones */
    bool from_cache;
    uint64_t initial_memory_bytes;
};
const struct ast_module_info *ast_module_info(const struct ast_module *m);

/* Text to binary, for tests and benches (WAT or component text). */
AST_MUST_CHECK
enum ast_rc ast_wat_compile(struct ast_str text, struct ast_buf *out, struct ast_err *err);
