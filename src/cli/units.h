/* Sizes, rates and durations as people write and read them (spec 08 §5.13). Pure; any thread. */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "base/str.h"

/* "64MiB", "1.5 GB", "10M/s": a decimal number, a suffix of 1000s or 1024s in any case. Truncated to bytes.
 * Errors: INVALID "empty byte specifier", "unknown byte suffix: X", "not a number: X". */
AST_MUST_CHECK
enum ast_rc cli_bytes_parse(struct ast_str s, uint64_t *ret, struct ast_err *err);
/* "500M", "2G": a count with k, M, G or T (1000s). */
AST_MUST_CHECK
enum ast_rc cli_count_parse(struct ast_str s, uint64_t *ret, struct ast_err *err);
/* "90", "2h30m", "500ms"; a number without a unit is seconds.
 * Errors: INVALID "empty duration", "unknown duration suffix: X", "invalid duration component: X". */
AST_MUST_CHECK
enum ast_rc cli_duration_parse(struct ast_str s, uint64_t *ret_ms, struct ast_err *err);

#define CLI_UNIT_TEXT 32

const char *cli_bytes_text(uint64_t bytes, char out[static CLI_UNIT_TEXT]); /* "64.0 MiB" */
const char *cli_count_text(uint64_t count, char out[static CLI_UNIT_TEXT]); /* "2.0G" */
const char *cli_duration_text(uint64_t ms, char out[static CLI_UNIT_TEXT]); /* "1h02m03s" */
