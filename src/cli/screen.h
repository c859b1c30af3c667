/* The whole terminal: alternate screen, lines, keys. The only file that knows curses.
 *
 * From open to close the terminal is ours; it is given back on close, on exit() and when a fatal
 * signal ends the process. SIGINT, SIGTERM, SIGHUP and SIGQUIT become a key while it is open.
 * Owner: one thread, one screen at a time.
 */
#pragma once

#include "base/error.h"
#include "base/str.h"

struct cli_screen;

enum cli_screen_style { CLI_SCREEN_PLAIN, CLI_SCREEN_BOLD, CLI_SCREEN_REVERSE };
enum { CLI_KEY_NONE = -1, CLI_KEY_RESIZE = -2, CLI_KEY_STOP = -3 }; /* else a character */

/* UNSUPPORTED: the terminal cannot place its cursor, or nobody knows it. */
AST_MUST_CHECK
enum ast_rc cli_screen_open(struct cli_screen **ret, struct ast_err *err);
void cli_screen_close(struct cli_screen *s); /* NULL is fine */
AST_DEFINE_AUTO(struct cli_screen, cli_screen_close)

void cli_screen_size(struct cli_screen *s, unsigned *ret_rows, unsigned *ret_columns);
void cli_screen_clear(struct cli_screen *s);
/* Printable ASCII; what does not fit is cut. */
void cli_screen_line(struct cli_screen *s, unsigned row, enum cli_screen_style style,
                     const char *text);
void cli_screen_show(struct cli_screen *s);
/* Waits up to timeout_ms. STOP: a signal asked for the end, or the terminal is gone. */
int cli_screen_key(struct cli_screen *s, int timeout_ms);
int cli_screen_signal(const struct cli_screen *s); /* what asked; 0: none */
