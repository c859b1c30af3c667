/* Paths: matching templates, labels, percent-decoding. */
#include "gateway/path_priv.h"

#include "base/codec.h"

#include "base/banned.h"

bool gw_path_match(struct ast_str template, struct ast_str path, struct gw_params *ret)
{
    struct gw_params params = { .n = 0 };
    bool more_t = true, more_p = true;
    struct ast_str part_t, part_p;
    for (;;) {
        bool has_t = ast_str_split(&template, &more_t, '/', &part_t);
        bool has_p = ast_str_split(&path, &more_p, '/', &part_p);
        if (has_t != has_p)
            return false;
        if (!has_t)
            break;
        if (part_t.n && part_t.p[0] == '{') {
            if (!part_p.n || AST_NEVER(params.n == GW_PARAMS_MAX))
                return false;
            params.v[params.n++] = part_p;
        } else if (!ast_str_eq(part_t, part_p)) {
            return false;
        }
    }
    *ret = params;
    return true;
}

enum ast_rc gw_path_label(struct ast_str template, struct ast_buf *out)
{
    for (size_t i = 0; i < template.n; i++) {
        if (template.p[i] == '{')
            (void)ast_buf_add_byte(out, ':');
        else if (template.p[i] != '}')
            (void)ast_buf_add_byte(out, template.p[i]);
    }
    return out->fail;
}

enum ast_rc gw_path_decode(struct ast_str s, struct ast_buf *out, struct ast_err *err)
{
    size_t start = out->n;
    for (size_t i = 0; i < s.n; i++) {
        uint8_t byte = (uint8_t)s.p[i];
        if (byte == '%') {
            if (!ast_hex_decode(ast_str_first(ast_str_from(s, i + 1), 2), &byte, 1))
                return ast_fail(err, AST_E_INVALID, "broken percent escape in path");
            i += 2;
        }
        (void)ast_buf_add_byte(out, (char)byte);
    }
    if (!out->fail && !ast_str_is_utf8(ast_str_from(ast_buf_view(out), start)))
        return ast_fail(err, AST_E_INVALID, "path is not UTF-8");
    return ast_buf_check(out, "path", err);
}
