/* What the extractor's files share: a bounded reader of WebAssembly binaries, and the facts about one
 * core module that decide its part in a component.
 *
 * Every failure is AST_E_BAD_COMPONENT and starts with "byte N:", N counted from the first byte of the
 * input. No pointer is formed before the length it covers was compared with what is left.
 * Threads: pure.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "base/str.h"

/* A window on the input. Copying it copies the cursor, not the bytes. */
struct wasm_reader {
    const uint8_t *p; /* first byte of the whole input, borrowed */
    size_t at;        /* cursor, at <= end */
    size_t end;       /* one past the window's last byte */
};

static inline size_t wasm_reader_left(const struct wasm_reader *r)
{
    return r->end - r->at;
}

/* `what` names the thing being read: static text, for the message. */
AST_MUST_CHECK
enum ast_rc wasm_reader_u8(struct wasm_reader *r, const char *what, uint8_t *ret,
                           struct ast_err *err);
/* LEB128, at most five bytes; longer than needed is legal, out of range is not. */
AST_MUST_CHECK
enum ast_rc wasm_reader_u32(struct wasm_reader *r, const char *what, uint32_t *ret,
                            struct ast_err *err);
/* Passes a LEB128 number of at most max_bytes bytes without looking at its value. */
AST_MUST_CHECK
enum ast_rc wasm_reader_skip_leb(struct wasm_reader *r, const char *what, unsigned max_bytes,
                                 struct ast_err *err);
/* A vector's length. Each item has at least one byte, so a count above what is left is refused. */
AST_MUST_CHECK
enum ast_rc wasm_reader_count(struct wasm_reader *r, const char *what, uint32_t max, uint32_t *ret,
                              struct ast_err *err);
/* UTF-8, at most AST_COMPONENT_MAX_NAME bytes. *ret is borrowed from the input. */
AST_MUST_CHECK
enum ast_rc wasm_reader_name(struct wasm_reader *r, const char *what, struct ast_str *ret,
                             struct ast_err *err);
/* A u32 size and that many bytes, cut off as a window of their own. */
AST_MUST_CHECK
enum ast_rc wasm_reader_sized(struct wasm_reader *r, const char *what, struct wasm_reader *ret,
                              struct ast_err *err);
/* Refuses bytes left over in the window. */
AST_MUST_CHECK
enum ast_rc wasm_reader_finish(const struct wasm_reader *r, const char *what, struct ast_err *err);

enum wasm_preamble { WASM_PREAMBLE_CORE, WASM_PREAMBLE_COMPONENT };
AST_MUST_CHECK
enum ast_rc wasm_reader_preamble(struct wasm_reader *r, enum wasm_preamble *ret,
                                 struct ast_err *err);

/* The exports the scan looks for; name and kind are in the table of component_core.c. */
enum wasm_export {
    WASM_EXPORT_MEMORY,
    WASM_EXPORT_REALLOC,
    WASM_EXPORT_INITIALIZE,
    WASM_EXPORT_HOOK,
    WASM_EXPORT_RUN,
    WASM_EXPORT_INSTALL,
    WASM_EXPORT_UPGRADE,
    WASM_EXPORT_COUNT
};

struct wasm_core_export {
    bool present;
    uint32_t index; /* in the index space of its kind */
};

/* One core module. All zero describes the empty module. */
struct wasm_core {
    struct wasm_reader body; /* behind the preamble, cursor at the first section */
    uint32_t imports;        /* of every kind */
    uint32_t func_imports;   /* they come first in the function index space */
    uint32_t memory_imports; /* memories the module does not define */
    size_t odd_import_at;    /* first import that is no function; 0: none */
    uint32_t functions;      /* defined here */
    uint32_t memories;       /* defined here */
    uint8_t memory_flags; /* limits flags of the last one: 1 max, 2 shared, 4 64-bit, 8 page size */
    uint32_t exports;     /* of every kind */
    uint32_t data_segments;
    bool exports_table;
    bool has_start;
    struct wasm_reader code; /* payload of the code section, empty window when there is none */
    struct wasm_core_export found[WASM_EXPORT_COUNT];
};

/* Reads the facts of the core module in `module`, preamble included. */
AST_MUST_CHECK
enum ast_rc wasm_core_scan(struct wasm_reader module, struct wasm_core *ret, struct ast_err *err);

/* spec 05 §4.2: real when its function index differs from those of the other two of `run`,
 * `astrid-install`, `astrid-upgrade`; `run` must also have a body that does something and that no
 * other of the three has byte for byte. Cost: one walk over the code section at most. */
AST_MUST_CHECK
enum ast_rc wasm_core_is_real(const struct wasm_core *c, enum wasm_export which, bool *ret,
                              struct ast_err *err);

/* Calls `each` for every import of the core module in `module`, preamble included. */
AST_MUST_CHECK
enum ast_rc wasm_core_imports(struct wasm_reader module,
                              bool (*each)(void *arg, struct ast_str module, struct ast_str name),
                              void *arg, struct ast_err *err);
