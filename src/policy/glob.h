/* Globs over whole byte strings, as token resources are written (spec 09 §6). Pure functions; any thread.
 *
 * '*' any bytes and '?' one byte, '/' too; [a-z] [!a-z] [^a-z] one byte; {a,b} alternatives, which may nest; '\' takes the
 * next byte literally. Whole segments: a leading double star and slash match nothing or anything up to a slash, the same
 * between two slashes matches one slash or two with anything between, and at the end "/" and anything.
 */
#pragma once

#include "base/error.h"
#include "base/str.h"

#define AST_GLOB_MAX 4096u /* bytes of a pattern */

/* Errors: TOO_LARGE; INVALID unclosed class, inverted range, unclosed or unopened brace, dangling backslash, braces nested
 * deeper than 8. */
AST_MUST_CHECK
enum ast_rc ast_glob_check(struct ast_str pattern, struct ast_err *err);
/* A pattern that is not valid, or whose matching takes too many steps, matches nothing. */
bool ast_glob_match(struct ast_str pattern, struct ast_str text);
