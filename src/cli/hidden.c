/* What is typed and not shown: a line of standard input, without echo when that is a terminal. */
#include <termios.h>
#include <unistd.h>

#include "cli/cli.h"

#include "base/banned.h"

enum ast_rc cli_read_hidden(const char *what, struct ast_buf *out, struct ast_err *err)
{
    struct termios old, quiet;
    bool hides = tcgetattr(STDIN_FILENO, &old) == 0; /* not a terminal: nothing echoes */
    int c;

    if (hides) { /* before anybody is asked: TCSAFLUSH throws away what came earlier */
        quiet = old;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet))
            return ast_fail(err, AST_E_IO, "the terminal cannot hide what is typed");
        fprintf(stderr, "%s (input hidden): ", what);
    }
    while ((c = getchar()) != EOF && c != '\n')
        ast_buf_add_byte(out, (char)c);
    if (hides) {
        (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &old); /* the terminal is gone if this fails */
        fputc('\n', stderr);
    }
    return ast_buf_check(out, what, err);
}
