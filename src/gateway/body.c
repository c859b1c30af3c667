/* Bodies, read as the original's decoder would: the texts of its refusals are what clients know. */
#include "gateway/body_priv.h"

#include "base/banned.h"

bool gw_body_object(struct gw_call *call, struct ast_json_doc **ret)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_err err = AST_ERR_INIT;
    if (ast_json_parse(gw_exchange_request(call->ex)->body, &doc, &err)) {
        gw_reply_bad_request(call, "invalid JSON: %s", err.msg);
        return false;
    }
    if (ast_json_type(ast_json_root(doc)) != AST_JSON_OBJECT) {
        gw_reply_bad_request(call, "invalid JSON: expected an object, found %s",
                             ast_json_type_name(ast_json_root(doc)));
        return false;
    }
    *ret = ast_steal(&doc);
    return true;
}

enum ast_rc gw_body_member(const struct ast_json *object, struct ast_str name,
                           const struct ast_json **ret, struct ast_err *err)
{
    struct ast_json_iter it = AST_JSON_ITER(object);
    struct ast_str key;
    const struct ast_json *v, *found = NULL;
    while (ast_json_next(&it, &key, &v)) {
        if (!ast_str_eq(key, name))
            continue;
        if (found)
            return ast_fail(err, AST_E_INVALID, "duplicate field `" AST_STR_FMT "`",
                            AST_STR_ARG(name));
        found = v;
    }
    *ret = ast_json_type(found) == AST_JSON_NULL ? NULL : found;
    return AST_OK;
}

enum ast_rc gw_body_string(const struct ast_json *object, struct ast_str name, struct ast_str *ret,
                           struct ast_err *err)
{
    const struct ast_json *v = NULL;
    enum ast_rc rc = gw_body_member(object, name, &v, err);
    if (rc)
        return rc;
    if (!v)
        return ast_fail(err, AST_E_INVALID, "missing field `" AST_STR_FMT "`", AST_STR_ARG(name));
    if (!ast_json_string(v, ret))
        return ast_fail(err, AST_E_INVALID, AST_STR_FMT ": expected a string, found %s",
                        AST_STR_ARG(name), ast_json_type_name(v));
    return AST_OK;
}
