/* TOML 1.0 text to a JSON document (toml++ behind a small C++ bridge).
 *
 * Tables become objects, dates become strings. Errors: AST_E_INVALID with "line L, column C: why".
 * Threads: any. No C++ exception leaves the bridge.
 */
#pragma once

#include "base/json.h"

#define AST_TOML_MAX_BYTES (1024 * 1024)

AST_MUST_CHECK
enum ast_rc ast_toml_parse(struct ast_str text, struct ast_json_doc **ret, struct ast_err *err);
