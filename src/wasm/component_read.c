/* The bounded reader under the extractor: the only place that looks at an input byte, and it looks at
 * none beyond the window's end. A window is never larger than the one it was cut from. */
#include "wasm/component_priv.h"

#include <inttypes.h>
#include <string.h>

#include "wasm/component.h"

#include "base/banned.h"

enum ast_rc wasm_reader_u8(struct wasm_reader *r, const char *what, uint8_t *ret,
                           struct ast_err *err)
{
    if (r->at == r->end)
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: %s: the bytes end here", r->at, what);
    *ret = r->p[r->at++];
    return AST_OK;
}

enum ast_rc wasm_reader_u32(struct wasm_reader *r, const char *what, uint32_t *ret,
                            struct ast_err *err)
{
    size_t start = r->at;
    uint32_t value = 0;

    for (unsigned shift = 0; shift < 35; shift += 7) {
        uint8_t b = 0;
        enum ast_rc rc = wasm_reader_u8(r, what, &b, err);
        if (rc)
            return rc;
        /* The fifth byte has room for four bits and may not ask for a sixth. */
        if (shift == 28 && b > 0x0f)
            break;
        value |= (uint32_t)(b & 0x7fu) << shift;
        if (!(b & 0x80u)) {
            *ret = value;
            return AST_OK;
        }
    }
    return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: %s: number does not fit 32 bits", start,
                    what);
}

enum ast_rc wasm_reader_skip_leb(struct wasm_reader *r, const char *what, unsigned max_bytes,
                                 struct ast_err *err)
{
    size_t start = r->at;

    for (unsigned i = 0; i < max_bytes; i++) {
        uint8_t b = 0;
        enum ast_rc rc = wasm_reader_u8(r, what, &b, err);
        if (rc)
            return rc;
        if (!(b & 0x80u))
            return AST_OK;
    }
    return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: %s: number longer than %u bytes", start,
                    what, max_bytes);
}

enum ast_rc wasm_reader_count(struct wasm_reader *r, const char *what, uint32_t max, uint32_t *ret,
                              struct ast_err *err)
{
    size_t start = r->at;
    uint32_t n;
    enum ast_rc rc = wasm_reader_u32(r, what, &n, err);
    if (rc)
        return rc;
    if (n > max)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: %" PRIu32 " %s, at most %" PRIu32 " are allowed", start, n, what,
                        max);
    if (n > wasm_reader_left(r))
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: %" PRIu32 " %s announced, %zu bytes left", start, n, what,
                        wasm_reader_left(r));
    *ret = n;
    return AST_OK;
}

enum ast_rc wasm_reader_name(struct wasm_reader *r, const char *what, struct ast_str *ret,
                             struct ast_err *err)
{
    size_t start = r->at;
    uint32_t n;
    enum ast_rc rc = wasm_reader_u32(r, what, &n, err);
    if (rc)
        return rc;
    if (n > AST_COMPONENT_MAX_NAME)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: %s has %" PRIu32 " bytes, at most %u are allowed", start, what,
                        n, AST_COMPONENT_MAX_NAME);
    if (n > wasm_reader_left(r))
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: %s of %" PRIu32 " bytes, %zu bytes left", start, what, n,
                        wasm_reader_left(r));
    struct ast_str name = ast_str_n(r->p + r->at, n);
    if (!ast_str_is_utf8(name))
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: %s is not UTF-8", start, what);
    r->at += n;
    *ret = name;
    return AST_OK;
}

enum ast_rc wasm_reader_sized(struct wasm_reader *r, const char *what, struct wasm_reader *ret,
                              struct ast_err *err)
{
    size_t start = r->at;
    uint32_t n;
    enum ast_rc rc = wasm_reader_u32(r, what, &n, err);
    if (rc)
        return rc;
    if (n > wasm_reader_left(r))
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: %s of %" PRIu32 " bytes, %zu bytes left", start, what, n,
                        wasm_reader_left(r));
    *ret = (struct wasm_reader){ .p = r->p, .at = r->at, .end = r->at + n };
    r->at += n;
    return AST_OK;
}

enum ast_rc wasm_reader_finish(const struct wasm_reader *r, const char *what, struct ast_err *err)
{
    if (r->at != r->end)
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: %s has %zu bytes too many", r->at,
                        what, wasm_reader_left(r));
    return AST_OK;
}

enum ast_rc wasm_reader_preamble(struct wasm_reader *r, enum wasm_preamble *ret,
                                 struct ast_err *err)
{
    static const uint8_t magic[4] = { 0x00, 'a', 's', 'm' };
    static const uint8_t core[4] = { 0x01, 0x00, 0x00, 0x00 };
    static const uint8_t component[4] = { 0x0d, 0x00, 0x01, 0x00 };

    if (wasm_reader_left(r) < 8)
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: %zu bytes are too few for a WebAssembly preamble", r->at,
                        wasm_reader_left(r));
    const uint8_t *p = r->p + r->at;
    if (memcmp(p, magic, sizeof magic) != 0)
        return ast_fail(err, AST_E_BAD_COMPONENT, "byte %zu: not a WebAssembly binary", r->at);
    p += sizeof magic;
    if (memcmp(p, core, sizeof core) == 0)
        *ret = WASM_PREAMBLE_CORE;
    else if (memcmp(p, component, sizeof component) == 0)
        *ret = WASM_PREAMBLE_COMPONENT;
    else
        return ast_fail(err, AST_E_BAD_COMPONENT,
                        "byte %zu: unknown WebAssembly version %02x %02x %02x %02x", r->at + 4,
                        p[0], p[1], p[2], p[3]);
    r->at += 8;
    return AST_OK;
}
