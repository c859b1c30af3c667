/* The extractor: takes the one main core module out of a WebAssembly component, or accepts a plain
 * core module as its own main (design: component scanning; Component Model binary format).
 *
 * A classifier, not a validator: it decodes only what it must, allocates nothing and keeps offsets into
 * the caller's bytes. Hostile input gives AST_E_BAD_COMPONENT with a message, never a crash.
 * Threads: pure.
 */
#pragma once

#include "base/error.h"
#include "base/str.h"

#define AST_COMPONENT_MAX_BYTES   (64u * 1024 * 1024)
#define AST_COMPONENT_MAX_MODULES 16u
#define AST_COMPONENT_MAX_NAME    4096u
#define AST_COMPONENT_MAX_IMPORTS 10000u
#define AST_COMPONENT_MAX_EXPORTS 100000u
#define AST_COMPONENT_MAX_CANON   100000u
#define AST_COMPONENT_MAX_OPTIONS 16u

struct ast_component {
    struct ast_str main; /* the main core module, borrowed from the input */
    bool is_core_module; /* the input was a plain core module */
    bool has_hook;       /* main exports astrid-hook-trigger */
    bool has_realloc;
    bool has_run; /* real ones by the export-index rule of spec 05 §4.2, body rule included */
    bool has_install;
    bool has_upgrade;
};

AST_MUST_CHECK
enum ast_rc ast_component_scan(struct ast_str bytes, struct ast_component *ret,
                               struct ast_err *err);

/* Calls `each` for every import of the main module, in order; stops when it returns false. */
AST_MUST_CHECK
enum ast_rc ast_component_imports(const struct ast_component *c,
                                  bool (*each)(void *arg, struct ast_str module,
                                               struct ast_str name),
                                  void *arg, struct ast_err *err);
