/* JSON values as YAML and TOML, for --format (spec 08 §1.1). Pure; any thread. */
#pragma once

#include "base/json.h"

/* Block style; strings that a reader could take for something else are quoted. Appends to `out`. */
enum ast_rc cli_render_yaml(const struct ast_json *v, struct ast_buf *out);
/* What is no table at the top becomes the single key `value`. TOML has no null: such members are
 * left out. Appends to `out`. */
enum ast_rc cli_render_toml(const struct ast_json *v, struct ast_buf *out);
