/* application/x-www-form-urlencoded, as far as a query needs it. */
#include "gateway/form_priv.h"

#include "base/codec.h"

#include "base/banned.h"

static enum ast_rc decode(struct ast_str s, struct ast_buf *out, struct ast_err *err)
{
    size_t start = out->n;
    for (size_t i = 0; i < s.n; i++) {
        uint8_t byte = (uint8_t)s.p[i];
        if (byte == '+') {
            byte = ' ';
        } else if (byte == '%') {
            if (!ast_hex_decode(ast_str_first(ast_str_from(s, i + 1), 2), &byte, 1))
                return ast_fail(err, AST_E_INVALID, "broken percent escape");
            i += 2;
        }
        (void)ast_buf_add_byte(out, (char)byte); /* checked below */
    }
    enum ast_rc rc = ast_buf_check(out, "query string", err);
    if (!rc && !ast_str_is_utf8(ast_str_from(ast_buf_view(out), start)))
        rc = ast_fail(err, AST_E_INVALID, "not UTF-8");
    return rc;
}

enum ast_rc gw_form_parse(struct ast_str query, struct gw_param *params, size_t count,
                          struct ast_buf *memory, struct ast_err *err)
{
    struct ast_str pair;
    bool more = true;

    /* Nothing grows by being decoded, so the views stay where they are. */
    enum ast_rc rc = ast_buf_reserve(memory, query.n + 1);
    if (rc)
        return ast_fail(err, rc, "query string");
    while (ast_str_split(&query, &more, '&', &pair)) {
        size_t equals = ast_str_find_byte(pair, '='), at = memory->n;
        rc = decode(ast_str_first(pair, AST_MIN(equals, pair.n)), memory, err);
        if (rc)
            return rc;
        struct ast_str name = ast_str_from(ast_buf_view(memory), at);
        struct gw_param *found = NULL;
        for (size_t i = 0; i < count && !found; i++)
            if (ast_str_eq(params[i].name, name))
                found = &params[i];
        if (!found)
            continue;
        if (found->value.p)
            return ast_fail(err, AST_E_INVALID, "duplicate field `" AST_STR_FMT "`",
                            AST_STR_ARG(found->name));
        at = memory->n;
        rc = decode(equals == AST_STR_NPOS ? AST_STR_NONE : ast_str_from(pair, equals + 1), memory,
                    err);
        if (rc)
            return rc;
        found->value = ast_str_n(memory->p + at, memory->n - at);
    }
    return AST_OK;
}

enum ast_rc gw_form_u64(const struct gw_param *param, uint64_t *ret, struct ast_err *err)
{
    if (param->value.p && !ast_str_to_u64(param->value, ret))
        return ast_fail(err, AST_E_INVALID, AST_STR_FMT ": invalid digit found in string",
                        AST_STR_ARG(param->name));
    return AST_OK;
}
