/* Secret files: <home>/secrets/<scope>/<capsule>/<key>, one value a file (spec 05 §10.2).
 *
 * Directories 0700, files 0600, atomic replace with a unique temp name. Keys: non-empty, no ':', '/',
 * NUL, not starting with '.'. Values: non-empty, UTF-8, at most 65 536 bytes.
 * Threads: any; all block on disk.
 */
#pragma once

#include "base/buf.h"

#define AST_SECRET_FILE_MAX   65536u
#define AST_SECRET_SCOPE_HOST AST_STR("__host__")

/* `out` must be wiped by the caller after use. *ret_found false: no such secret. */
AST_MUST_CHECK
enum ast_rc ast_secrets_get(const char *home, struct ast_str scope, struct ast_str capsule_id,
                            struct ast_str key, struct ast_buf *out, bool *ret_found,
                            struct ast_err *err);
AST_MUST_CHECK
enum ast_rc ast_secrets_set(const char *home, struct ast_str scope, struct ast_str capsule_id,
                            struct ast_str key, struct ast_str value, struct ast_err *err);
AST_MUST_CHECK
enum ast_rc ast_secrets_delete(const char *home, struct ast_str scope, struct ast_str capsule_id,
                               struct ast_str key, bool *ret_existed, struct ast_err *err);
