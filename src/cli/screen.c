/* The terminal; see screen.h. Signals are open only while a key is waited for, so nothing has to
 * be prepared for them elsewhere. */
#include "cli/screen.h"

#include <errno.h>
#include <ncurses.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "base/banned.h"

static const int stop_signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
static const int fatal_signals[] = { SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL };

struct cli_screen {
    SCREEN *screen;
    sigset_t open_mask;                                  /* while waiting, and after close */
    struct sigaction stops[AST_ARRAY_LEN(stop_signals)]; /* as they were */
    struct sigaction fatals[AST_ARRAY_LEN(fatal_signals)];
};

/* What handlers need. Written before the handlers are installed, `stop` by them alone. */
static struct termios as_found;
static volatile sig_atomic_t stop, is_open;

static void on_stop(int signum)
{
    stop = signum;
}

/* Curses cannot be asked any more: the usual sequences, then the death that was due. */
static void on_fatal(int signum)
{
    static const char leave[] = "\033[?1049l\033[?25h\033[0m";

    if (is_open) {
        is_open = 0;
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &as_found); /* nobody is left to be told */
        ssize_t n = write(STDOUT_FILENO, leave, sizeof leave - 1);
        (void)n;
    }
    (void)signal(signum, SIG_DFL);
    (void)raise(signum);
}

static void leave_screen(void)
{
    if (!is_open)
        return;
    is_open = 0;
    endwin();
}

static void catch_signals(struct cli_screen *s)
{
    struct sigaction stops = { .sa_handler = on_stop }, fatals = { .sa_handler = on_fatal };
    sigset_t held;

    stop = 0;
    sigemptyset(&held);
    sigaddset(&held, SIGWINCH);
    for (size_t i = 0; i < AST_ARRAY_LEN(stop_signals); i++)
        sigaddset(&held, stop_signals[i]);
    sigprocmask(SIG_BLOCK, &held, &s->open_mask);
    for (size_t i = 0; i < AST_ARRAY_LEN(stop_signals); i++) {
        sigaction(stop_signals[i], &stops, &s->stops[i]);
        sigdelset(&s->open_mask, stop_signals[i]);
    }
    sigdelset(&s->open_mask, SIGWINCH);
    fatals.sa_flags = (int)SA_RESETHAND;
    for (size_t i = 0; i < AST_ARRAY_LEN(fatal_signals); i++)
        sigaction(fatal_signals[i], &fatals, &s->fatals[i]);
}

static void release_signals(struct cli_screen *s)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(fatal_signals); i++)
        sigaction(fatal_signals[i], &s->fatals[i], NULL);
    for (size_t i = 0; i < AST_ARRAY_LEN(stop_signals); i++)
        sigaction(stop_signals[i], &s->stops[i], NULL);
    sigprocmask(SIG_SETMASK, &s->open_mask, NULL);
}

enum ast_rc cli_screen_open(struct cli_screen **ret, struct ast_err *err)
{
    static bool at_exit;
    const char *term = getenv("TERM");
    struct cli_screen *s;

    if (tcgetattr(STDIN_FILENO, &as_found))
        return ast_fail_errno(err, AST_E_UNSUPPORTED, errno, "terminal");
    if (!at_exit && atexit(leave_screen))
        return ast_fail(err, AST_E_NO_MEMORY, "terminal");
    at_exit = true;
    s = calloc(1, sizeof *s);
    if (!s)
        return ast_fail(err, AST_E_NO_MEMORY, "terminal");
    catch_signals(s); /* first: curses puts its own handlers where the default is */
    s->screen = newterm(term, stdout, stdin);
    const char *move = s->screen ? tigetstr("cup") : NULL;
    if (!move || move == (char *)-1) {
        if (s->screen) {
            endwin();
            delscreen(s->screen);
        }
        release_signals(s);
        free(s);
        return ast_fail(err, AST_E_UNSUPPORTED, "the terminal '%s' has no full screen",
                        term ? term : "");
    }
    is_open = 1;
    set_term(s->screen);
    cbreak();
    noecho();
    nonl();
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    set_escdelay(25);
    curs_set(0);
    *ret = s;
    return AST_OK;
}

void cli_screen_close(struct cli_screen *s)
{
    if (!s)
        return;
    leave_screen();
    delscreen(s->screen);
    release_signals(s);
    free(s);
}

void cli_screen_size(struct cli_screen *s, unsigned *ret_rows, unsigned *ret_columns)
{
    int rows, columns;
    getmaxyx(stdscr, rows, columns);
    *ret_rows = (unsigned)AST_MAX(rows, 0);
    *ret_columns = (unsigned)AST_MAX(columns, 0);
}

void cli_screen_clear(struct cli_screen *s)
{
    erase();
}

void cli_screen_line(struct cli_screen *s, unsigned row, enum cli_screen_style style,
                     const char *text)
{
    static const attr_t attributes[] = { A_NORMAL, A_BOLD, A_REVERSE };
    int rows, columns;

    getmaxyx(stdscr, rows, columns);
    if ((int)row >= rows)
        return;
    attrset((int)attributes[style]);
    if (style == CLI_SCREEN_REVERSE)
        mvhline((int)row, 0, ' ' | A_REVERSE, columns);
    mvaddnstr((int)row, 0, text, columns);
    attrset(A_NORMAL);
}

void cli_screen_show(struct cli_screen *s)
{
    refresh();
}

int cli_screen_key(struct cli_screen *s, int timeout_ms)
{
    struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
    struct timespec wait = { timeout_ms / 1000, timeout_ms % 1000 * 1000000L };

    int key = getch(); /* what curses has read already */
    if (key == ERR) {
        int n = ppoll(&in, 1, &wait, &s->open_mask);
        if (stop)
            return CLI_KEY_STOP;
        if (n > 0 && in.revents & (POLLHUP | POLLERR | POLLNVAL)) /* the terminal is gone */
            return CLI_KEY_STOP;
        key = getch();
    }
    if (key == KEY_RESIZE)
        return CLI_KEY_RESIZE;
    return key == ERR || key > 0x7f ? CLI_KEY_NONE : key;
}

int cli_screen_signal(const struct cli_screen *s)
{
    return stop;
}
