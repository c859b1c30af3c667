/* The extractor: walks the sections of a component, tells main, shim and fixup apart by their shape and
 * keeps the one main module. Whatever it cannot explain is refused: what it leaves out (shim, fixup, all
 * component-level wiring) never runs, so it must be known to be left out safely. */
#include "wasm/component.h"

#include "wasm/component_priv.h"

#include "base/banned.h"

enum { MEMORY_PLAIN_FLAGS = 1u /* a maximum */ };

struct scan {
    unsigned modules; /* core modules seen */
    uint32_t canon;   /* canonical functions seen, over all sections */
    bool has_main;
    unsigned main_number; /* which of the core modules */
    struct ast_str main_bytes;
    struct wasm_core main;
    size_t glue_start_at; /* a fixup module with a start function; 0: none */
};

/* Why a module is not main, or NULL. */
static const char *main_defect(const struct wasm_core *c)
{
    if (c->memory_imports)
        return "it imports its memory";
    if (c->memories == 0)
        return "it defines no memory";
    if (c->memories > 1)
        return "it defines more than one memory";
    if (!c->found[WASM_EXPORT_MEMORY].present)
        return "it does not export its memory as `memory`";
    return NULL;
}

/* Trampolines through a table that it exports. */
static bool is_shim(const struct wasm_core *c)
{
    return !c->imports && !c->memories && !c->data_segments && !c->has_start && c->exports_table;
}

/* Fills the shim's table, or calls `_initialize` as its start function: nothing to keep in both cases,
 * the first because there is no shim, the second because the engine makes that call itself. */
static bool is_fixup(const struct wasm_core *c)
{
    return !c->exports && !c->memory_imports && !c->memories && !c->functions && !c->data_segments;
}

/* What every main module owes its host. */
static enum ast_rc check_main(const struct wasm_core *c, struct ast_err *err)
{
    if (c->memory_flags & ~MEMORY_PLAIN_FLAGS)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: main module has a shared, 64-bit or odd-paged memory",
                        c->body.at);
    if (c->odd_import_at)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: main module imports something other than a function",
                        c->odd_import_at);
    if (c->found[WASM_EXPORT_HOOK].present && !c->found[WASM_EXPORT_REALLOC].present)
        return ast_fail(
            err, AST_E_BAD_COMPONENT,
            "byte %zu: main module exports `astrid-hook-trigger` but not `cabi_realloc`",
            c->body.at);
    return AST_OK;
}

static enum ast_rc place_module(struct scan *s, struct wasm_reader payload, unsigned number,
                                struct ast_err *err)
{
    struct wasm_core c;
    enum ast_rc rc = wasm_core_scan(payload, &c, err);
    if (rc)
        return rc;

    const char *defect = main_defect(&c);
    if (defect) {
        if (!is_shim(&c) && !is_fixup(&c))
            return ast_fail(err, AST_E_BAD_COMPONENT,
                            "byte %zu: neither main (%s) nor shim nor fixup: an adapter or a part "
                            "of a composed component",
                            payload.at, defect);
        if (c.has_start)
            s->glue_start_at = payload.at;
        return AST_OK;
    }
    if (s->has_main)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: a second main module, after core module %u: an adapter or a "
                        "composed component",
                        payload.at, s->main_number);
    s->has_main = true;
    s->main_number = number;
    s->main_bytes = ast_str_n(payload.p + payload.at, wasm_reader_left(&payload));
    s->main = c;
    return AST_OK;
}

static enum ast_rc scan_module(struct scan *s, struct wasm_reader *r, struct ast_err *err)
{
    if (s->modules == AST_COMPONENT_MAX_MODULES)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: one core module more than the %u allowed", r->at,
                        AST_COMPONENT_MAX_MODULES);
    unsigned number = s->modules++;
    enum ast_rc rc = place_module(s, *r, number, err);
    return rc ? ast_wrap(err, rc, "core module %u", number) : AST_OK;
}

/* Row: canonical option. */
static const struct {
    bool has_index;
    const char *refusal; /* NULL: fine */
} options[] = {
    { false, NULL }, /* utf8 */
    { false, "strings in UTF-16 are not supported" },
    { false, "strings in Latin-1 or UTF-16 are not supported" },
    { true, NULL }, /* memory */
    { true, NULL }, /* realloc */
    { true, NULL }, /* post-return */
    { false, "async functions are not supported" },
    { true, "async callbacks are not supported" },
};

static enum ast_rc scan_options(struct wasm_reader *r, struct ast_err *err)
{
    uint32_t count;
    enum ast_rc rc =
        wasm_reader_count(r, "canonical options", AST_COMPONENT_MAX_OPTIONS, &count, err);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < count; i++) {
        size_t at = r->at;
        uint8_t kind;
        rc = wasm_reader_u8(r, "canonical option", &kind, err);
        if (rc)
            return rc;
        if (kind >= AST_ARRAY_LEN(options))
            return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: unknown canonical option 0x%02x",
                            at, kind);
        if (options[kind].refusal)
            return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: %s", at, options[kind].refusal);
        uint32_t index;
        if (options[kind].has_index)
            rc = wasm_reader_u32(r, "canonical option index", &index, err);
        if (rc)
            return rc;
    }
    return AST_OK;
}

enum { CANON_LIFT, CANON_LOWER, CANON_RESOURCE_NEW, CANON_RESOURCE_DROP, CANON_RESOURCE_REP };

static enum ast_rc scan_canon_entry(struct wasm_reader *r, struct ast_err *err)
{
    size_t at = r->at;
    uint8_t kind, sort;
    uint32_t index;
    enum ast_rc rc = wasm_reader_u8(r, "canonical function", &kind, err);
    if (rc)
        return rc;

    if (kind > CANON_RESOURCE_REP)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: canonical function 0x%02x (tasks, streams, futures or threads) "
                        "is not supported",
                        at, kind);
    if (kind >= CANON_RESOURCE_NEW)
        return wasm_reader_u32(r, "resource type index", &index, err);

    rc = wasm_reader_u8(r, "canonical function", &sort, err);
    if (!rc && sort != 0)
        rc = ast_fail(err, AST_E_BAD_COMPONENT,
                      "byte %zu: unknown canonical function 0x%02x 0x%02x", at, kind, sort);
    if (!rc)
        rc = wasm_reader_u32(r, "function index", &index, err);
    if (!rc)
        rc = scan_options(r, err);
    if (!rc && kind == CANON_LIFT)
        rc = wasm_reader_u32(r, "function type index", &index, err);
    return rc;
}

static enum ast_rc scan_canon(struct scan *s, struct wasm_reader *r, struct ast_err *err)
{
    uint32_t count;
    size_t at = r->at;
    enum ast_rc rc = wasm_reader_count(r, "canonical functions", UINT32_MAX, &count, err);
    if (rc)
        return rc;
    if (count > AST_COMPONENT_MAX_CANON - s->canon)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: more canonical functions than the %u allowed", at,
                        AST_COMPONENT_MAX_CANON);
    s->canon += count;
    for (uint32_t i = 0; i < count; i++) {
        rc = scan_canon_entry(r, err);
        if (rc)
            return rc;
    }
    return wasm_reader_finish(r, "canonical section", err);
}

/* Row: section id. No scan and no refusal: passed by size. */
static const struct {
    const char *name;
    const char *refusal;
    enum ast_rc (*scan)(struct scan *s, struct wasm_reader *r, struct ast_err *err);
} sections[] = {
    { "custom section", NULL, NULL },
    { "core module section", NULL, scan_module },
    { "core instance section", NULL, NULL },
    { "core type section", NULL, NULL },
    { "component section", "nested components (a composed component) are not supported", NULL },
    { "instance section", "component instances (a composed component) are not supported", NULL },
    { "alias section", NULL, NULL },
    { "type section", NULL, NULL },
    { "canonical section", NULL, scan_canon },
    { "start section", "a component start function is not supported", NULL },
    { "import section", NULL, NULL },
    { "export section", NULL, NULL },
    { "value section", "component values are not supported", NULL },
};

static enum ast_rc scan_section(struct scan *s, struct wasm_reader *r, struct ast_err *err)
{
    size_t at = r->at;
    uint8_t id;
    struct wasm_reader payload;
    enum ast_rc rc = wasm_reader_u8(r, "section id", &id, err);
    if (rc)
        return rc;
    if (id >= AST_ARRAY_LEN(sections))
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: unknown component section %u", at, id);
    if (sections[id].refusal)
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: %s", at, sections[id].refusal);
    rc = wasm_reader_sized(r, sections[id].name, &payload, err);
    if (!rc && sections[id].scan)
        rc = sections[id].scan(s, &payload, err);
    return rc;
}

static enum ast_rc scan_component(struct scan *s, struct wasm_reader r, struct ast_err *err)
{
    while (wasm_reader_left(&r)) {
        enum ast_rc rc = scan_section(s, &r, err);
        if (rc)
            return rc;
    }
    if (!s->has_main)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: the component ends without a main module (%u core modules)",
                        r.end, s->modules);
    if (s->glue_start_at && !s->main.found[WASM_EXPORT_INITIALIZE].present)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: a start function other than the main module's `_initialize`",
                        s->glue_start_at);
    return AST_OK;
}

static enum ast_rc scan_plain_module(struct scan *s, struct wasm_reader whole, struct ast_err *err)
{
    enum ast_rc rc = wasm_core_scan(whole, &s->main, err);
    if (rc)
        return rc;
    const char *defect = main_defect(&s->main);
    if (defect)
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: not a main module: %s",
                        s->main.body.at, defect);
    s->main_bytes = ast_str_n(whole.p, whole.end);
    return AST_OK;
}

static enum ast_rc describe(const struct scan *s, bool is_core_module, struct ast_component *ret,
                            struct ast_err *err)
{
    const struct wasm_core *m = &s->main;
    struct ast_component out = {
        .main = s->main_bytes,
        .is_core_module = is_core_module,
        .has_hook = m->found[WASM_EXPORT_HOOK].present,
        .has_realloc = m->found[WASM_EXPORT_REALLOC].present,
    };
    enum ast_rc rc = check_main(m, err);
    if (!rc)
        rc = wasm_core_is_real(m, WASM_EXPORT_RUN, &out.has_run, err);
    if (!rc)
        rc = wasm_core_is_real(m, WASM_EXPORT_INSTALL, &out.has_install, err);
    if (!rc)
        rc = wasm_core_is_real(m, WASM_EXPORT_UPGRADE, &out.has_upgrade, err);
    if (!rc)
        *ret = out;
    return rc;
}

enum ast_rc ast_component_scan(struct ast_str bytes, struct ast_component *ret, struct ast_err *err)
{
    if (bytes.n > AST_COMPONENT_MAX_BYTES)
        return ast_fail(err, AST_E_BAD_COMPONENT, "file has %zu bytes, at most %u are allowed",
                        bytes.n, AST_COMPONENT_MAX_BYTES);

    struct wasm_reader whole = { .p = (const uint8_t *)bytes.p, .end = bytes.n };
    struct wasm_reader r = whole;
    enum wasm_preamble kind;
    enum ast_rc rc = wasm_reader_preamble(&r, &kind, err);
    if (rc)
        return rc;

    struct scan s = { 0 };
    bool is_core_module = kind == WASM_PREAMBLE_CORE;
    rc = is_core_module ? scan_plain_module(&s, whole, err) : scan_component(&s, r, err);
    return rc ? rc : describe(&s, is_core_module, ret, err);
}

enum ast_rc ast_component_imports(const struct ast_component *c,
                                  bool (*each)(void *arg, struct ast_str module,
                                               struct ast_str name),
                                  void *arg, struct ast_err *err)
{
    struct wasm_reader main = { .p = (const uint8_t *)c->main.p, .end = c->main.n };

    return wasm_core_imports(main, each, arg, err);
}
