/* Reading JSON: yyjson parses, this file adds the depth limit and our view of values. */
#include "base/json.h"

#include <math.h>

#include "base/json_priv.h"

#include "base/banned.h"

void ast_json_free(struct ast_json_doc *doc)
{
    yyjson_doc_free((yyjson_doc *)(void *)doc);
}

/* Values lie in one array in document order, and a container knows where it ends, so the depth is
 * found in one pass with a stack of ends. */
static bool is_too_deep(const yyjson_doc *doc)
{
    const yyjson_val *ends[AST_JSON_MAX_DEPTH];
    size_t depth = 0;
    const yyjson_val *end = doc->root + doc->val_read;
    for (yyjson_val *v = doc->root; v < end; v++) {
        if (!unsafe_yyjson_is_ctn(v))
            continue;
        while (depth && ends[depth - 1] <= v)
            depth--;
        if (depth == AST_JSON_MAX_DEPTH)
            return true;
        ends[depth++] = unsafe_yyjson_get_next(v);
    }
    return false;
}

enum ast_rc ast_json_parse(struct ast_str text, struct ast_json_doc **ret, struct ast_err *err)
{
    yyjson_read_err why = { 0 };
    /* Without YYJSON_READ_INSITU the text is copied and never written to. */
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)(text.p ? text.p : ""), text.n,
                                       YYJSON_READ_NOFLAG, NULL, &why);
    if (!doc && text.n == 0)
        return ast_fail(err, AST_E_INVALID, "not JSON: empty text");
    if (!doc && why.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION)
        return ast_fail(err, AST_E_NO_MEMORY, "JSON of %zu bytes", text.n);
    if (!doc)
        return ast_fail(err, AST_E_INVALID, "not JSON: byte %zu: %s", why.pos, why.msg);
    if (is_too_deep(doc)) {
        yyjson_doc_free(doc);
        return ast_fail(err, AST_E_TOO_LARGE, "JSON nested deeper than %d levels",
                        AST_JSON_MAX_DEPTH);
    }
    *ret = (struct ast_json_doc *)(void *)doc;
    return AST_OK;
}

const struct ast_json *ast_json_root(const struct ast_json_doc *doc)
{
    return doc ? json_from_val(((const yyjson_doc *)(const void *)doc)->root) : NULL;
}

enum ast_json_type ast_json_type(const struct ast_json *v)
{
    if (!v)
        return AST_JSON_ABSENT;
    yyjson_val *val = json_val(v);
    switch (unsafe_yyjson_get_type(val)) {
    case YYJSON_TYPE_BOOL: return AST_JSON_BOOL;
    case YYJSON_TYPE_NUM: return unsafe_yyjson_is_real(val) ? AST_JSON_REAL : AST_JSON_INT;
    case YYJSON_TYPE_STR: return AST_JSON_STRING;
    case YYJSON_TYPE_ARR: return AST_JSON_ARRAY;
    case YYJSON_TYPE_OBJ: return AST_JSON_OBJECT;
    default: return AST_JSON_NULL;
    }
}

const char *ast_json_type_name(const struct ast_json *v)
{
    static const char *const names[] = {
        [AST_JSON_NULL] = "null",     [AST_JSON_BOOL] = "boolean",  [AST_JSON_INT] = "integer",
        [AST_JSON_REAL] = "number",   [AST_JSON_STRING] = "string", [AST_JSON_ARRAY] = "array",
        [AST_JSON_OBJECT] = "object", [AST_JSON_ABSENT] = "absent",
    };
    return names[ast_json_type(v)];
}

bool ast_json_bool(const struct ast_json *v, bool *ret)
{
    if (ast_json_type(v) != AST_JSON_BOOL)
        return false;
    *ret = unsafe_yyjson_get_bool(json_val(v));
    return true;
}

bool ast_json_u64(const struct ast_json *v, uint64_t *ret)
{
    if (ast_json_type(v) != AST_JSON_INT)
        return false;
    yyjson_val *val = json_val(v);
    if (unsafe_yyjson_is_sint(val) && unsafe_yyjson_get_sint(val) < 0)
        return false;
    *ret = unsafe_yyjson_get_uint(val);
    return true;
}

bool ast_json_i64(const struct ast_json *v, int64_t *ret)
{
    if (ast_json_type(v) != AST_JSON_INT)
        return false;
    yyjson_val *val = json_val(v);
    if (!unsafe_yyjson_is_sint(val) && unsafe_yyjson_get_uint(val) > INT64_MAX)
        return false;
    *ret = unsafe_yyjson_get_sint(val);
    return true;
}

bool ast_json_f64(const struct ast_json *v, double *ret)
{
    enum ast_json_type type = ast_json_type(v);
    if (type != AST_JSON_INT && type != AST_JSON_REAL)
        return false;
    *ret = unsafe_yyjson_get_num(json_val(v));
    return true;
}

bool ast_json_string(const struct ast_json *v, struct ast_str *ret)
{
    if (ast_json_type(v) != AST_JSON_STRING)
        return false;
    *ret = json_val_str(json_val(v));
    return true;
}

const struct ast_json *ast_json_get(const struct ast_json *object, struct ast_str key)
{
    if (ast_json_type(object) != AST_JSON_OBJECT)
        return NULL;
    yyjson_val *o = json_val(object), *found = NULL;
    size_t n = unsafe_yyjson_get_len(o);
    yyjson_val *k = n ? unsafe_yyjson_get_first(o) : NULL;
    for (; n; n--, k = unsafe_yyjson_get_next(k + 1)) {
        if (ast_str_eq(json_val_str(k), key))
            found = k + 1;
    }
    return found ? json_from_val(found) : NULL;
}

struct ast_str ast_json_str_or(const struct ast_json *object, struct ast_str key,
                               struct ast_str fallback)
{
    struct ast_str s = fallback;
    return ast_json_string(ast_json_get(object, key), &s) ? s : fallback;
}

size_t ast_json_count(const struct ast_json *container)
{
    enum ast_json_type type = ast_json_type(container);
    if (type != AST_JSON_ARRAY && type != AST_JSON_OBJECT)
        return 0;
    return unsafe_yyjson_get_len(json_val(container));
}

bool ast_json_next(struct ast_json_iter *it, struct ast_str *ret_key, const struct ast_json **ret)
{
    if (!it->at) {
        it->left = ast_json_count(it->container);
        if (it->left)
            it->at = unsafe_yyjson_get_first(json_val(it->container));
    }
    if (it->left == 0)
        return false;
    yyjson_val *v = json_val(it->at);
    struct ast_str key = AST_STR_NONE;
    if (unsafe_yyjson_is_obj(json_val(it->container))) {
        key = json_val_str(v);
        v++;
    }
    if (ret_key)
        *ret_key = key;
    *ret = json_from_val(v);
    it->left--;
    it->at = unsafe_yyjson_get_next(v);
    return true;
}
