/* What a capsule's manifest says of its settings, and where a value goes (spec 03 §18). Files; blocks on disk. */
#pragma once

#include "base/home.h"
#include "base/json.h"

#define GW_ENV_VALUE_MAX 65536u

/* 1 to 128 of [A-Za-z0-9._-] without "..": capsule ids and field names. */
bool gw_env_name_valid(struct ast_str s);

/* The installed manifest of a capsule; NOT_FOUND when it is not installed. */
AST_MUST_CHECK
enum ast_rc gw_env_manifest(const struct ast_home *home, struct ast_str capsule,
                            struct ast_json_doc **ret, struct ast_err *err);
/* {"capsule_id","fields"}. Appends; a failure is sticky in `out`. */
void gw_env_schema(const struct ast_json *manifest, struct ast_str capsule, struct ast_buf *out);

enum gw_env_kind { GW_ENV_TEXT, GW_ENV_SELECT, GW_ENV_ARRAY, GW_ENV_SECRET };
struct gw_env_field {
    enum gw_env_kind kind;
    struct ast_str type;          /* as declared; "text" without a declaration */
    const struct ast_json *table; /* borrowed from the manifest */
};
/* False: the manifest declares no such field. */
bool gw_env_field(const struct ast_json *manifest, struct ast_str name, struct gw_env_field *ret);

/* INVALID with the reason a client may read: no choice of a select, an empty secret. */
AST_MUST_CHECK
enum ast_rc gw_env_check(const struct gw_env_field *f, struct ast_str name, struct ast_str value,
                         struct ast_err *err);

/* Stores the value for the principal: secrets in the secret store, the rest in its env file, whose other members stay. One
 * caller at a time. Errors: CORRUPT the env file is no JSON object, it is left alone; TOO_LARGE, IO. */
AST_MUST_CHECK
enum ast_rc gw_env_store(const struct ast_home *home, struct ast_str principal,
                         struct ast_str capsule, struct ast_str name, const struct gw_env_field *f,
                         struct ast_str value, struct ast_err *err);
