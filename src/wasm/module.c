/* A capsule binary, ready to be instantiated: scanned, compiled, its exports and imports checked.
 *
 * Invariant: when a module exists, every export we call has the type we call it with (calls are unchecked),
 * and every import is a row of the host's table.
 */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "wasm/wasm_priv.h"

#include "base/banned.h"

#define COMPILE   "Failed to compile WASM component"         /* spec 05 §2.1 */
#define LINK      "Failed to pre-instantiate WASM component" /* spec 05 §2.1 */
#define WASM_PAGE 65536u

const char *const wasm_export_names[WASM_EXPORT_COUNT] = {
    [WASM_EXPORT_REALLOC] = "cabi_realloc",
    [WASM_EXPORT_INITIALIZE] = "_initialize",
    [WASM_EXPORT_HOOK] = "astrid-hook-trigger",
    [WASM_EXPORT_HOOK_POST] = "cabi_post_astrid-hook-trigger",
    [WASM_EXPORT_RUN] = "run",
    [WASM_EXPORT_RUN_POST] = "cabi_post_run",
    [WASM_EXPORT_INSTALL] = "astrid-install",
    [WASM_EXPORT_INSTALL_POST] = "cabi_post_astrid-install",
    [WASM_EXPORT_UPGRADE] = "astrid-upgrade",
    [WASM_EXPORT_UPGRADE_POST] = "cabi_post_astrid-upgrade",
};

/* Parameters and results of those that are not () -> (). */
static const struct {
    const char *params, *result;
} export_types[WASM_EXPORT_COUNT] = {
    [WASM_EXPORT_REALLOC] = { "iiii", "i" },
    [WASM_EXPORT_HOOK] = { "iiii", "i" },
    [WASM_EXPORT_HOOK_POST] = { "i", "" },
};

static struct ast_str name_str(const wasm_name_t *n)
{
    struct ast_str s = { n->data, n->size };
    if (s.n && s.p[s.n - 1] == 0) /* some names come with their terminator */
        s.n--;
    return s;
}

static bool types_match(const wasm_valtype_vec_t *types, const char *want)
{
    if (types->size != strlen(want))
        return false;
    for (size_t i = 0; i < types->size; i++)
        if (wasm_valtype_kind(types->data[i]) != (want[i] == 'I' ? WASM_I64 : WASM_I32))
            return false;
    return true;
}

static bool func_matches(const wasm_externtype_t *type, const char *params, const char *result)
{
    const wasm_functype_t *f = wasm_externtype_as_functype_const(type);
    return f && types_match(wasm_functype_params(f), params ? params : "") &&
           types_match(wasm_functype_results(f), result ? result : "");
}

/* --- Exports ------------------------------------------------------------------------------------- */

static enum ast_rc check_export(struct ast_module *m, struct ast_str name,
                                const wasm_externtype_t *type, bool *has_memory,
                                struct ast_err *err)
{
    if (ast_str_is(name, "memory")) {
        const wasm_memorytype_t *mem = wasm_externtype_as_memorytype_const(type);
        if (!mem)
            return ast_fail(err, AST_E_BAD_MODULE, COMPILE ": export 'memory' is not a memory");
        m->info.initial_memory_bytes = wasmtime_memorytype_minimum(mem) * WASM_PAGE;
        *has_memory = true;
        return AST_OK;
    }
    for (int k = 0; k < WASM_EXPORT_COUNT; k++) {
        if (!ast_str_eq(name, ast_str_c(wasm_export_names[k])))
            continue;
        if (!func_matches(type, export_types[k].params, export_types[k].result))
            return ast_fail(err, AST_E_BAD_MODULE, COMPILE ": export '%s' has the wrong type",
                            wasm_export_names[k]);
        m->has[k] = true;
    }
    return AST_OK;
}

static enum ast_rc check_exports(struct ast_module *m, struct ast_err *err)
{
    wasm_exporttype_vec_t exports;
    wasmtime_module_exports(m->module, &exports);
    enum ast_rc rc = AST_OK;
    bool has_memory = false;
    for (size_t i = 0; !rc && i < exports.size; i++)
        rc = check_export(m, name_str(wasm_exporttype_name(exports.data[i])),
                          wasm_exporttype_type(exports.data[i]), &has_memory, err);
    wasm_exporttype_vec_delete(&exports);
    if (rc)
        return rc;
    if (!has_memory)
        return ast_fail(err, AST_E_BAD_MODULE, COMPILE ": it exports no memory");
    if (m->has[WASM_EXPORT_HOOK] && !m->has[WASM_EXPORT_REALLOC])
        return ast_fail(err, AST_E_BAD_MODULE, COMPILE ": it exports a hook but no cabi_realloc");
    if (m->info.initial_memory_bytes > AST_ENGINE_MAX_MEMORY)
        return ast_fail(err, AST_E_BAD_MODULE, COMPILE ": its memory starts above %llu MiB",
                        AST_ENGINE_MAX_MEMORY >> 20);
    return AST_OK;
}

/* --- Imports ------------------------------------------------------------------------------------- */

static int row_cmp(const struct ast_abi_import *row, struct ast_str module, struct ast_str name)
{
    int c = ast_str_cmp(module, ast_str_c(row->module));
    return c ? c : ast_str_cmp(name, ast_str_c(row->name));
}

static const struct ast_abi_import *find_row(const struct ast_wasm_host *h, struct ast_str module,
                                             struct ast_str name)
{
    size_t lo = 0, hi = h->import_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = row_cmp(&h->imports[mid], module, name);
        if (c == 0)
            return &h->imports[mid];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

/* All offending names in one message; the library would report the first. */
static enum ast_rc check_imports(const struct ast_module *m, struct ast_err *err)
{
    wasm_importtype_vec_t imports;
    wasmtime_module_imports(m->module, &imports);
    AST_AUTO(ast_buf_done)
    struct ast_buf unknown = AST_BUF_INIT(16 * 1024), wrong = AST_BUF_INIT(16 * 1024);
    for (size_t i = 0; i < imports.size; i++) {
        struct ast_str module = name_str(wasm_importtype_module(imports.data[i]));
        struct ast_str name = name_str(wasm_importtype_name(imports.data[i]));
        const struct ast_abi_import *row = find_row(&m->engine->host, module, name);
        struct ast_buf *list = NULL;
        if (!row)
            list = &unknown;
        else if (!func_matches(wasm_importtype_type(imports.data[i]), row->params, row->result))
            list = &wrong;
        if (list)
            (void)ast_buf_addf(list, "%s`" AST_STR_FMT "` `" AST_STR_FMT "`", list->n ? ", " : "",
                               AST_STR_ARG(module),
                               AST_STR_ARG(name)); /* full: the message is cut anyway */
    }
    wasm_importtype_vec_delete(&imports);
    if (unknown.n)
        return ast_fail(err, AST_E_UNKNOWN_IMPORT, LINK ": unknown import: %s", unknown.p);
    if (wrong.n)
        return ast_fail(err, AST_E_UNKNOWN_IMPORT, LINK ": import with another type: %s", wrong.p);
    return AST_OK;
}

/* --- Load ---------------------------------------------------------------------------------------- */

/* The bytes are a valid module by now: ids and sizes of its sections can be trusted. */
static bool has_start_section(struct ast_str wasm)
{
    size_t at = 8;
    while (at < wasm.n) {
        uint8_t id = (uint8_t)wasm.p[at++];
        if (id == 8)
            return true;
        uint32_t size = 0;
        for (unsigned shift = 0; at < wasm.n && shift < 35; shift += 7) {
            uint8_t b = (uint8_t)wasm.p[at++];
            size |= (uint32_t)(b & 0x7f) << shift;
            if (!(b & 0x80))
                break;
        }
        at += size;
    }
    return false;
}

static enum ast_rc compile(struct ast_module *m, struct ast_str wasm, const char *name,
                           struct ast_err *err)
{
    struct ast_engine *e = m->engine;
    wasmtime_error_t *error =
        wasmtime_module_new(e->wasm, (const uint8_t *)wasm.p, wasm.n, &m->module);
    if (error)
        return wasm_fail_error(err, AST_E_BAD_MODULE, COMPILE, error);
    if (e->cache_dir) {
        struct ast_err why = AST_ERR_INIT;
        if (wasm_cache_store(e, name, m->module, &why)) {
            ast_log_debug("wasm", "compiled code of %s is not cached: %s", name, why.msg);
        } else {
            /* From the file, so that code is shared page cache instead of our memory. */
            wasmtime_module_t *mapped = wasm_cache_load(e, name);
            if (mapped) {
                wasmtime_module_delete(m->module);
                m->module = mapped;
            }
        }
    }
    (void)malloc_trim(0); /* the compiler leaves megabytes of free heap behind */
    return AST_OK;
}

enum ast_rc ast_module_load(struct ast_engine *e, struct ast_str bytes, struct ast_module **ret,
                            struct ast_err *err)
{
    struct ast_component c;
    enum ast_rc rc = ast_component_scan(bytes, &c, err);
    if (rc)
        return ast_wrap(err, rc, COMPILE);

    AST_AUTO(ast_module_unref) struct ast_module *m = calloc(1, sizeof *m);
    if (!m)
        return ast_fail(err, AST_E_NO_MEMORY, "module");
    atomic_init(&m->refs, 1);
    m->engine = e;
    char name[WASM_CACHE_NAME];
    wasm_cache_name(c.main, name);
    m->module = wasm_cache_load(e, name);
    m->info.from_cache = m->module != NULL;
    if (!m->module) {
        rc = compile(m, c.main, name, err);
        if (rc)
            return rc;
    }
    rc = check_exports(m, err);
    if (!rc)
        rc = check_imports(m, err);
    if (rc)
        return rc;
    wasmtime_error_t *error = wasmtime_linker_instantiate_pre(e->linker, m->module, &m->pre);
    if (error)
        return wasm_fail_error(err, AST_E_BAD_MODULE, LINK, error);
    m->has_start = has_start_section(c.main);
    m->info.has_hook = m->has[WASM_EXPORT_HOOK];
    m->info.has_run = c.has_run && m->has[WASM_EXPORT_RUN];
    m->info.has_install = c.has_install && m->has[WASM_EXPORT_INSTALL];
    m->info.has_upgrade = c.has_upgrade && m->has[WASM_EXPORT_UPGRADE];
    *ret = ast_steal(&m);
    return AST_OK;
}

struct ast_module *ast_module_ref(struct ast_module *m)
{
    atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    return m;
}

void ast_module_unref(struct ast_module *m)
{
    if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (m->pre)
        wasmtime_instance_pre_delete(m->pre);
    if (m->module)
        wasmtime_module_delete(m->module);
    free(m);
}

const struct ast_module_info *ast_module_info(const struct ast_module *m)
{
    return &m->info;
}
