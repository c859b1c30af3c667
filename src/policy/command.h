/* Command patterns: what an earlier approval covers (spec 05 §12.2, 09 §8.3). Pure functions; any thread.
 *
 * A pattern is a glob over the whole command line: '*' any characters, '?' one character, [a-z] [!a-z] a set,
 * {a,b} alternatives, '\' takes the next character literally. A pattern that ends in " *" also matches the
 * text before it alone.
 *
 * A command that a shell would not run as that one command is never covered: see ast_command_is_plain().
 */
#pragma once

#include "base/buf.h"
#include "base/str.h"

#define AST_COMMAND_MAX_PATTERN 4096u /* longer patterns match nothing */

/* False when the text holds ; | & ` < > $( or a control character, or when a piece of it between slashes and
 * blanks is "..", quotes and backslashes aside. differs: a single '&', a carriage return, and ".." at the
 * start of a word are refused too (spec 09 §8). */
bool ast_command_is_plain(struct ast_str command);

/* The pattern that an approved action leaves: its text, escaped, and " *". Appends to `out`. */
enum ast_rc ast_command_pattern(struct ast_str action, struct ast_buf *out);

/* Whether `command` is plain and the pattern matches it. A pattern whose matching takes too many steps, or
 * that is malformed, matches nothing. */
bool ast_command_match(struct ast_str pattern, struct ast_str command);
