/* Request bodies of routes: a JSON object and its members (spec 03 §5.5). Unknown members are passed over, members that come
 * twice are refused. */
#pragma once

#include "base/json.h"
#include "gateway/gateway_priv.h"

/* The body of the request as an object; false: a 400 was sent. */
bool gw_body_object(struct gw_call *call, struct ast_json_doc **ret);
/* Reasons for a 400 that begins "invalid JSON: ". *ret is NULL for an absent member and for null. */
AST_MUST_CHECK
enum ast_rc gw_body_member(const struct ast_json *object, struct ast_str name,
                           const struct ast_json **ret, struct ast_err *err);
/* A member that must be there. */
AST_MUST_CHECK
enum ast_rc gw_body_string(const struct ast_json *object, struct ast_str name, struct ast_str *ret,
                           struct ast_err *err);
