/* One small engine for all of a manifest's tables. */
#include "capsule/decode.h"

#include "base/banned.h"

static enum ast_rc wrong_type(const struct ast_json *v, const char *expected, const char *key,
                              struct ast_err *err)
{
    return ast_fail(err, AST_E_INVALID, "invalid type: %s, expected %s for `%s`",
                    ast_json_type_name(v), expected, key);
}

enum ast_rc decode_strings(const struct ast_json *v, const char *key, struct ast_strings *ret,
                           struct ast_arena *arena, struct ast_err *err)
{
    struct ast_json_iter it = AST_JSON_ITER(v);
    const struct ast_json *element;
    struct ast_str unused;

    if (ast_json_type(v) != AST_JSON_ARRAY)
        return wrong_type(v, "a sequence", key, err);
    struct ast_str *out = ast_arena_array(arena, ast_json_count(v), sizeof *out);
    size_t n = 0;
    if (!out)
        return ast_arena_check(arena, err);
    while (ast_json_next(&it, &unused, &element))
        if (!ast_json_string(element, &out[n++]))
            return wrong_type(element, "a string", key, err);
    *ret = (struct ast_strings){ out, n };
    return AST_OK;
}

static enum ast_rc decode_value(const struct ast_json *v, const struct decode_row *row, void *at,
                                struct ast_arena *arena, struct ast_err *err)
{
    uint64_t number;

    switch (row->kind) {
    case DECODE_STRING:
        return ast_json_string(v, at) ? AST_OK : wrong_type(v, "a string", row->key, err);
    case DECODE_BOOL:
        return ast_json_bool(v, at) ? AST_OK : wrong_type(v, "a boolean", row->key, err);
    case DECODE_U32:
        if (!ast_json_u64(v, &number) || number > UINT32_MAX)
            return wrong_type(v, "u32", row->key, err);
        *(uint32_t *)at = (uint32_t)number;
        return AST_OK;
    case DECODE_STRINGS: return decode_strings(v, row->key, at, arena, err);
    }
    return ast_fail(err, AST_E_INTERNAL, "decode row `%s`", row->key);
}

enum ast_rc decode_record(const struct ast_json *table, const struct decode_row *rows, size_t count,
                          void *record, struct ast_arena *arena, struct ast_err *err)
{
    if (ast_json_type(table) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "invalid type: %s, expected a table",
                        ast_json_type_name(table));
    for (size_t i = 0; i < count; i++) {
        const struct decode_row *row = &rows[i];
        const struct ast_json *v = ast_json_get(table, ast_str_c(row->key));
        const struct ast_json *other =
            row->alias ? ast_json_get(table, ast_str_c(row->alias)) : NULL;
        if (v && other)
            return ast_fail(err, AST_E_INVALID, "duplicate field `%s`", row->key);
        if (!v)
            v = other;
        if (!v && row->required)
            return ast_fail(err, AST_E_INVALID, "missing field `%s`", row->key);
        enum ast_rc rc =
            v ? decode_value(v, row, (char *)record + row->offset, arena, err) : AST_OK;
        if (rc)
            return rc;
    }
    return AST_OK;
}

enum ast_rc decode_tables(const struct ast_json *root, const char *key,
                          const struct decode_row *rows, size_t count, size_t size,
                          const void *defaults, void **ret, size_t *ret_n, struct ast_arena *arena,
                          struct ast_err *err)
{
    const struct ast_json *array = ast_json_get(root, ast_str_c(key));
    struct ast_json_iter it = AST_JSON_ITER(array);
    const struct ast_json *table;
    struct ast_str unused;
    size_t n = 0;

    *ret = NULL;
    *ret_n = 0;
    if (!array)
        return AST_OK;
    if (ast_json_type(array) != AST_JSON_ARRAY)
        return wrong_type(array, "a sequence", key, err);
    char *out = ast_arena_array(arena, ast_json_count(array), size);
    if (!out)
        return ast_arena_check(arena, err);
    while (ast_json_next(&it, &unused, &table)) {
        if (defaults)
            memcpy(out + n * size, defaults, size);
        enum ast_rc rc = decode_record(table, rows, count, out + n * size, arena, err);
        if (rc)
            return ast_wrap(err, rc, "[[%s]]", key);
        n++;
    }
    *ret = out;
    *ret_n = n;
    return AST_OK;
}
