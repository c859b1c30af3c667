/* Capabilities: grammar, matching, evaluation (spec 02 §6, §9). Pure functions; any thread. */
#pragma once

#include "base/error.h"
#include "base/str.h"

#define AST_CAP_MAX_BYTES 256u

/* The grammar's six messages (spec 02 §6.1). */
AST_MUST_CHECK
enum ast_rc ast_cap_check(struct ast_str cap, struct ast_err *err);
bool ast_cap_match(struct ast_str pattern, struct ast_str cap);
