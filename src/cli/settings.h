/* Settings of capsules as files: secrets in the secret store, the rest in an agent's env file (spec 08 §5.16). One thread. */
#pragma once

#include "base/home.h"
#include "base/json.h"
#include "capsule/manifest.h"

#define CLI_SETTINGS_MAX 65536u

/* The manifest of an installed capsule; *ret stays NULL when there is none of that name. `capsule` was checked. */
AST_MUST_CHECK
enum ast_rc cli_settings_manifest(const struct ast_home *home, const char *capsule,
                                  struct ast_manifest **ret, struct ast_err *err);
/* Whether it declares `key` as a secret; false for NULL. */
bool cli_settings_is_secret(const struct ast_manifest *m, struct ast_str key);

/* The env file; *ret stays NULL when it is absent or blank. Errors: "<path> is not valid JSON", "<path> is not a JSON object". */
AST_MUST_CHECK
enum ast_rc cli_settings_read(const struct ast_home *home, struct ast_str agent, const char *file,
                              struct ast_json_doc **ret, struct ast_err *err);
AST_MUST_CHECK
enum ast_rc cli_settings_set(const struct ast_home *home, struct ast_str agent, const char *file,
                             struct ast_str key, struct ast_str value, struct ast_err *err);
/* With its last key the file goes. *ret_existed false: it was not there. */
AST_MUST_CHECK
enum ast_rc cli_settings_delete(const struct ast_home *home, struct ast_str agent, const char *file,
                                struct ast_str key, bool *ret_existed, struct ast_err *err);
