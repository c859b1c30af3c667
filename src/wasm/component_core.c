/* The facts of one core module: what it imports, defines and exports, and which of its entry points do
 * something. Sections that decide nothing are passed by size; the order of sections is held to, so no
 * section comes twice and none is judged by another copy than the one the engine runs. */
#include "wasm/component_priv.h"

#include <inttypes.h>
#include <string.h>

#include "wasm/component.h"

#include "base/banned.h"

enum { KIND_FUNC, KIND_TABLE, KIND_MEMORY, KIND_GLOBAL, KIND_TAG };
enum {
    LIMITS_MAX = 1u,
    LIMITS_SHARED = 2u,
    LIMITS_64 = 4u,
    LIMITS_PAGE_SIZE = 8u,
    LIMITS_ALL = 15u
};
enum { SECTION_IMPORT = 2, OPCODE_END = 0x0b, LEB_32 = 5, LEB_64 = 10 };

static const struct {
    const char *name;
    uint8_t kind;
} watched[WASM_EXPORT_COUNT] = {
    [WASM_EXPORT_MEMORY] = { "memory", KIND_MEMORY },
    [WASM_EXPORT_REALLOC] = { "cabi_realloc", KIND_FUNC },
    [WASM_EXPORT_INITIALIZE] = { "_initialize", KIND_FUNC },
    [WASM_EXPORT_HOOK] = { "astrid-hook-trigger", KIND_FUNC },
    [WASM_EXPORT_RUN] = { "run", KIND_FUNC },
    [WASM_EXPORT_INSTALL] = { "astrid-install", KIND_FUNC },
    [WASM_EXPORT_UPGRADE] = { "astrid-upgrade", KIND_FUNC },
};

/* The newer mangling puts its tag in front of every import module and every export name. */
static enum ast_rc refuse_mangling(struct ast_str name, size_t at, struct ast_err *err)
{
    if (ast_str_starts(name, AST_STR("cm32p2")))
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: built with the cm32p2 name mangling, which is not supported",
                        at);
    return AST_OK;
}

/* Number, vector and reference types; the latter two-part ones name a heap type. */
static enum ast_rc skip_valtype(struct wasm_reader *r, struct ast_err *err)
{
    uint8_t b;
    enum ast_rc rc = wasm_reader_u8(r, "type", &b, err);
    if (!rc && (b == 0x63 || b == 0x64))
        rc = wasm_reader_skip_leb(r, "heap type", LEB_32, err);
    return rc;
}

static enum ast_rc read_limits(struct wasm_reader *r, uint8_t *ret_flags, struct ast_err *err)
{
    size_t at = r->at;
    uint8_t flags;
    enum ast_rc rc = wasm_reader_u8(r, "limits", &flags, err);
    if (rc)
        return rc;
    if (flags & ~LIMITS_ALL)
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: unknown limits flags 0x%02x", at,
                        flags);

    unsigned leb = flags & LIMITS_64 ? LEB_64 : LEB_32;
    rc = wasm_reader_skip_leb(r, "limits minimum", leb, err);
    if (!rc && (flags & LIMITS_MAX))
        rc = wasm_reader_skip_leb(r, "limits maximum", leb, err);
    if (!rc && (flags & LIMITS_PAGE_SIZE))
        rc = wasm_reader_skip_leb(r, "page size", LEB_32, err);
    if (!rc)
        *ret_flags = flags;
    return rc;
}

struct import {
    struct ast_str module, name; /* borrowed from the input */
    uint8_t kind;
};

/* What an import of this kind says behind the kind byte. */
static enum ast_rc skip_import_type(struct wasm_reader *r, uint8_t kind, struct ast_err *err)
{
    size_t at = r->at;
    uint32_t index;
    uint8_t b;
    enum ast_rc rc;

    switch (kind) {
    case KIND_FUNC: return wasm_reader_u32(r, "type index", &index, err);
    case KIND_TABLE: rc = skip_valtype(r, err); return rc ? rc : read_limits(r, &b, err);
    case KIND_MEMORY: return read_limits(r, &b, err);
    case KIND_GLOBAL:
        rc = skip_valtype(r, err);
        return rc ? rc : wasm_reader_u8(r, "mutability", &b, err);
    case KIND_TAG:
        rc = wasm_reader_u8(r, "tag attribute", &b, err);
        return rc ? rc : wasm_reader_u32(r, "type index", &index, err);
    default:
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: unknown import kind 0x%02x", at - 1,
                        kind);
    }
}

static enum ast_rc read_import(struct wasm_reader *r, struct import *ret, struct ast_err *err)
{
    size_t at = r->at;
    enum ast_rc rc = wasm_reader_name(r, "import module name", &ret->module, err);
    if (!rc)
        rc = refuse_mangling(ret->module, at, err);
    if (!rc)
        rc = wasm_reader_name(r, "import name", &ret->name, err);
    if (!rc)
        rc = wasm_reader_u8(r, "import kind", &ret->kind, err);
    return rc ? rc : skip_import_type(r, ret->kind, err);
}

static enum ast_rc scan_imports(struct wasm_reader *r, struct wasm_core *c, struct ast_err *err)
{
    enum ast_rc rc = wasm_reader_count(r, "imports", AST_COMPONENT_MAX_IMPORTS, &c->imports, err);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < c->imports; i++) {
        size_t at = r->at;
        struct import im;
        rc = read_import(r, &im, err);
        if (rc)
            return rc;
        c->func_imports += im.kind == KIND_FUNC;
        c->memory_imports += im.kind == KIND_MEMORY;
        if (im.kind != KIND_FUNC && !c->odd_import_at)
            c->odd_import_at = at;
    }
    return wasm_reader_finish(r, "import section", err);
}

static enum ast_rc scan_functions(struct wasm_reader *r, struct wasm_core *c, struct ast_err *err)
{
    return wasm_reader_count(r, "functions", UINT32_MAX, &c->functions, err);
}

static enum ast_rc scan_memories(struct wasm_reader *r, struct wasm_core *c, struct ast_err *err)
{
    enum ast_rc rc = wasm_reader_count(r, "memories", UINT32_MAX, &c->memories, err);
    for (uint32_t i = 0; !rc && i < c->memories; i++)
        rc = read_limits(r, &c->memory_flags, err);
    return rc ? rc : wasm_reader_finish(r, "memory section", err);
}

static enum ast_rc note_export(struct wasm_core *c, struct ast_str name, uint8_t kind,
                               uint32_t index, size_t at, struct ast_err *err)
{
    c->exports_table |= kind == KIND_TABLE;
    for (size_t i = 0; i < WASM_EXPORT_COUNT; i++) {
        if (kind != watched[i].kind || !ast_str_eq(name, ast_str_c(watched[i].name)))
            continue;
        if (c->found[i].present)
            return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: `%s` is exported twice", at,
                            watched[i].name);
        c->found[i] = (struct wasm_core_export){ .present = true, .index = index };
    }
    return AST_OK;
}

static enum ast_rc scan_exports(struct wasm_reader *r, struct wasm_core *c, struct ast_err *err)
{
    enum ast_rc rc = wasm_reader_count(r, "exports", AST_COMPONENT_MAX_EXPORTS, &c->exports, err);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < c->exports; i++) {
        size_t at = r->at;
        struct ast_str name;
        uint8_t kind;
        uint32_t index;
        rc = wasm_reader_name(r, "export name", &name, err);
        if (!rc)
            rc = refuse_mangling(name, at, err);
        if (!rc)
            rc = wasm_reader_u8(r, "export kind", &kind, err);
        if (!rc)
            rc = wasm_reader_u32(r, "export index", &index, err);
        if (!rc && kind > KIND_TAG)
            rc = ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: unknown export kind 0x%02x", at,
                          kind);
        if (!rc)
            rc = note_export(c, name, kind, index, at, err);
        if (rc)
            return rc;
    }
    return wasm_reader_finish(r, "export section", err);
}

static enum ast_rc scan_start(struct wasm_reader *r, struct wasm_core *c, struct ast_err *err)
{
    c->has_start = true;
    return AST_OK;
}

static enum ast_rc scan_code(struct wasm_reader *r, struct wasm_core *c, struct ast_err *err)
{
    c->code = *r;
    return AST_OK;
}

static enum ast_rc scan_data(struct wasm_reader *r, struct wasm_core *c, struct ast_err *err)
{
    return wasm_reader_count(r, "data segments", UINT32_MAX, &c->data_segments, err);
}

/* Row: section id. Rank: place in the only legal order; 0 may come anywhere. */
static const struct {
    const char *name;
    uint8_t rank;
    enum ast_rc (*scan)(struct wasm_reader *r, struct wasm_core *c, struct ast_err *err);
} sections[] = {
    { "custom section", 0, NULL },         { "type section", 1, NULL },
    { "import section", 2, scan_imports }, { "function section", 3, scan_functions },
    { "table section", 4, NULL },          { "memory section", 5, scan_memories },
    { "global section", 7, NULL },         { "export section", 8, scan_exports },
    { "start section", 9, scan_start },    { "element section", 10, NULL },
    { "code section", 12, scan_code },     { "data section", 13, scan_data },
    { "data count section", 11, NULL },    { "tag section", 6, NULL },
};

/* The next section of a core module and its window; *rank goes up with each but custom ones. */
static enum ast_rc next_section(struct wasm_reader *r, uint8_t *rank, uint8_t *ret_id,
                                struct wasm_reader *ret, struct ast_err *err)
{
    size_t at = r->at;
    uint8_t id;
    enum ast_rc rc = wasm_reader_u8(r, "section id", &id, err);
    if (rc)
        return rc;
    if (id >= AST_ARRAY_LEN(sections))
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: unknown core section %u", at, id);
    if (sections[id].rank && sections[id].rank <= *rank)
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: %s is out of order or comes twice", at,
                        sections[id].name);
    rc = wasm_reader_sized(r, sections[id].name, ret, err);
    if (rc)
        return rc;
    if (sections[id].rank)
        *rank = sections[id].rank;
    *ret_id = id;
    return AST_OK;
}

/* Takes the bodies' count off the code window: from then on its cursor is at the first body. */
static enum ast_rc check_bodies(struct wasm_core *c, struct ast_err *err)
{
    uint32_t bodies = 0;

    if (c->code.p) {
        enum ast_rc rc = wasm_reader_count(&c->code, "function bodies", UINT32_MAX, &bodies, err);
        if (rc)
            return rc;
    }
    if (bodies != c->functions)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: %" PRIu32 " function bodies for %" PRIu32 " functions",
                        c->code.p ? c->code.at : c->body.end, bodies, c->functions);
    return AST_OK;
}

static enum ast_rc check_indices(const struct wasm_core *c, struct ast_err *err)
{
    for (size_t i = 0; i < WASM_EXPORT_COUNT; i++) {
        uint64_t known = watched[i].kind == KIND_MEMORY ? (uint64_t)c->memory_imports + c->memories
                                                        : (uint64_t)c->func_imports + c->functions;
        if (c->found[i].present && c->found[i].index >= known)
            return ast_fail(err, AST_E_BAD_COMPONENT,
                            "byte %zu: export `%s` has index %" PRIu32 ", the module has %" PRIu64,
                            c->body.at, watched[i].name, c->found[i].index, known);
    }
    return AST_OK;
}

static enum ast_rc open_module(struct wasm_reader *module, struct ast_err *err)
{
    size_t at = module->at;
    enum wasm_preamble kind;
    enum ast_rc rc = wasm_reader_preamble(module, &kind, err);
    if (!rc && kind != WASM_PREAMBLE_CORE)
        rc = ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: a component where a core module belongs",
                      at);
    return rc;
}

enum ast_rc wasm_core_scan(struct wasm_reader module, struct wasm_core *ret, struct ast_err *err)
{
    enum ast_rc rc = open_module(&module, err);
    if (rc)
        return rc;

    struct wasm_core c = { .body = module };
    uint8_t rank = 0;
    while (wasm_reader_left(&module)) {
        uint8_t id = 0;
        struct wasm_reader payload;
        rc = next_section(&module, &rank, &id, &payload, err);
        if (!rc && sections[id].scan)
            rc = sections[id].scan(&payload, &c, err);
        if (rc)
            return rc;
    }
    rc = check_bodies(&c, err);
    if (!rc)
        rc = check_indices(&c, err);
    if (!rc)
        *ret = c;
    return rc;
}

enum { TRIO = 3 };
static const enum wasm_export trio[TRIO] = { WASM_EXPORT_RUN, WASM_EXPORT_INSTALL,
                                             WASM_EXPORT_UPGRADE };

/* The bodies of the trio's functions; an empty window for those the module does not define. */
static enum ast_rc find_bodies(const struct wasm_core *c, struct wasm_reader ret[static TRIO],
                               struct ast_err *err)
{
    struct wasm_reader r = c->code;
    unsigned missing = 0;

    for (size_t t = 0; t < TRIO; t++) {
        const struct wasm_core_export *e = &c->found[trio[t]];
        ret[t] = (struct wasm_reader){ 0 };
        missing += e->present && e->index >= c->func_imports;
    }
    for (uint32_t i = 0; missing && i < c->functions; i++) {
        struct wasm_reader body;
        enum ast_rc rc = wasm_reader_sized(&r, "function body", &body, err);
        if (rc)
            return rc;
        for (size_t t = 0; t < TRIO; t++) {
            const struct wasm_core_export *e = &c->found[trio[t]];
            if (!e->present || e->index < c->func_imports || e->index - c->func_imports != i)
                continue;
            ret[t] = body;
            missing--;
        }
    }
    return AST_OK;
}

/* Declares locals at most, then ends. A body this does not understand counts as doing something. */
static bool body_is_empty(struct wasm_reader r)
{
    uint32_t groups, n;

    if (wasm_reader_count(&r, "locals", UINT32_MAX, &groups, NULL))
        return false;
    for (uint32_t i = 0; i < groups; i++)
        if (wasm_reader_u32(&r, "locals", &n, NULL) || skip_valtype(&r, NULL))
            return false;
    return wasm_reader_left(&r) == 1 && r.p[r.at] == OPCODE_END;
}

static bool same_bytes(struct wasm_reader a, struct wasm_reader b)
{
    return ast_str_eq(ast_str_n(a.p + a.at, wasm_reader_left(&a)),
                      ast_str_n(b.p + b.at, wasm_reader_left(&b)));
}

enum ast_rc wasm_core_is_real(const struct wasm_core *c, enum wasm_export which, bool *ret,
                              struct ast_err *err)
{
    const struct wasm_core_export *e = &c->found[which];
    bool is_real = e->present;

    for (size_t t = 0; t < TRIO; t++) {
        const struct wasm_core_export *other = &c->found[trio[t]];
        if (trio[t] != which && other->present && other->index == e->index)
            is_real = false;
    }
    if (is_real && which == WASM_EXPORT_RUN && e->index >= c->func_imports) {
        struct wasm_reader body[TRIO];
        enum ast_rc rc = find_bodies(c, body, err);
        if (rc)
            return rc;
        is_real = !body_is_empty(body[0]);
        for (size_t t = 1; t < TRIO; t++)
            if (body[t].p && same_bytes(body[0], body[t]))
                is_real = false;
    }
    *ret = is_real;
    return AST_OK;
}

enum ast_rc wasm_core_imports(struct wasm_reader module,
                              bool (*each)(void *arg, struct ast_str module, struct ast_str name),
                              void *arg, struct ast_err *err)
{
    enum ast_rc rc = open_module(&module, err);
    if (rc)
        return rc;

    struct wasm_reader payload = { 0 };
    uint8_t id = 0, rank = 0;
    while (id != SECTION_IMPORT) {
        if (!wasm_reader_left(&module))
            return AST_OK;
        rc = next_section(&module, &rank, &id, &payload, err);
        if (rc)
            return rc;
    }

    uint32_t count;
    rc = wasm_reader_count(&payload, "imports", AST_COMPONENT_MAX_IMPORTS, &count, err);
    for (uint32_t i = 0; !rc && i < count; i++) {
        struct import im;
        rc = read_import(&payload, &im, err);
        if (!rc && !each(arg, im.module, im.name))
            return AST_OK;
    }
    return rc;
}
