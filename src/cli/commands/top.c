/* ps and top: what capsules and principals do (spec 08 §5.5).
 *
 * Every refresh is a connection of its own: a client that sleeps between two of them holds no
 * queue in the daemon and need not read what others publish.
 */
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/time.h"
#include "cli/activity.h"
#include "cli/daemon.h"
#include "cli/screen.h"

#include "base/banned.h"

#define ANSWER_WAIT_MS   10000
#define WATCH_WAIT_MS    2000 /* keys wait as long */
#define ROWS             200u
#define DEFAULT_INTERVAL 1.0
#define JSON_MAX         (4u * 1024 * 1024)

/* The bridge is native, but tools look for the capsule that used to serve the socket (spec 01
 * §8.5 N9). */
#define BRIDGE_ID AST_STR("astrid-capsule-cli")

/* An answer and what was read from it. */
struct answer {
    struct ast_uplink_frame frame;
    struct cli_activity a;
};

static void answer_done(struct answer *n)
{
    cli_activity_done(&n->a);
    ast_uplink_frame_done(&n->frame);
    n->frame = (struct ast_uplink_frame){ 0 };
}
AST_DEFINE_AUTO_VALUE(struct answer, answer_done)

/* *ret is empty before. */
static enum ast_rc fetch(struct cli *cli, enum cli_sort sort, int64_t timeout_ms,
                         struct answer *ret, struct ast_err *err)
{
    AST_AUTO(ast_uplink_disconnect) struct ast_uplink_client *c = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf request = AST_BUF_INIT(256);
    AST_AUTO(answer_done) struct answer n = { 0 };
    const struct ast_json *data;
    char suffix[64]; /* of this process: others may watch in another order */

    snprintf(suffix, sizeof suffix, "activity.%lld", (long long)getpid());
    ast_buf_addf(&request, "{\"method\":\"GetActivity\",\"params\":{\"limit\":%u,\"sort\":\"%s\"}}",
                 ROWS, cli_sort_name(sort));
    enum ast_rc rc = ast_uplink_connect(&cli->home, &c, err);
    if (!rc)
        rc = cli_request(cli, c, suffix, ast_buf_view(&request), timeout_ms, &n.frame, &data, err);
    if (!rc)
        rc = cli_activity_read(data, &n.a, err);
    if (rc)
        return rc;
    *ret = n;
    n = (struct answer){ 0 };
    return AST_OK;
}

static void answer_replace(struct answer *to, struct answer *from)
{
    answer_done(to);
    *to = *from;
    *from = (struct answer){ 0 };
}

/* False: *ret_exit says how the command ends; it was told why. */
static bool daemon_is_up(struct cli *cli, const char *json, int *ret_exit)
{
    struct ast_err err = AST_ERR_INIT;
    enum cli_daemon_state state = cli_daemon_probe(cli, &err);

    if (state == CLI_DAEMON_UP)
        return true;
    *ret_exit = CLI_OK;
    if (!cli->has_home) {
        *ret_exit = cli_error(&err);
    } else if (state == CLI_DAEMON_NONE) {
        if (cli_format(cli) != CLI_PRETTY)
            cli_print(cli, ast_str_c(json));
        else
            cli_info("No Astrid daemon is running.");
    } else {
        cli_failure("Failed to connect to daemon");
        if (cli->verbose)
            cli_note("%s", err.msg);
        *ret_exit = CLI_FAILED;
    }
    return false;
}

/* --- One table -------------------------------------------------------------------------------- */

static void print_line(const char *line)
{
    size_t n = strlen(line);
    while (n && line[n - 1] == ' ')
        n--;
    printf("%.*s\n", (int)n, line);
}

static void print_table(const struct cli_activity *a, enum cli_table table, bool rates,
                        enum cli_sort sort)
{
    bool capsules = table == CLI_TABLE_CAPSULES;
    const struct cli_figures *rows = capsules ? a->capsules : a->principals;
    size_t n = capsules ? a->capsule_count : a->principal_count;
    size_t total = capsules ? a->capsules_total : a->principals_total;
    unsigned width = cli_activity_width(a);
    char line[CLI_ACTIVITY_LINE], name[48];

    cli_activity_heading(table, rates, sort, width, line);
    print_line(line);
    for (size_t i = 0; i < n; i++) {
        cli_activity_row(table, &rows[i], rates, width, line);
        print_line(line);
    }
    if (total <= n)
        return;
    snprintf(name, sizeof name, "other (%zu)", total - n);
    if (capsules) {
        print_line(name);
        return;
    }
    struct cli_figures other = a->other;
    other.name = ast_str_c(name);
    cli_activity_row(table, &other, rates, width, line);
    print_line(line);
}

static void print_tables(const struct cli_activity *a, bool rates, enum cli_sort sort)
{
    if (a->capsule_count)
        print_table(a, CLI_TABLE_CAPSULES, rates, sort);
    else
        cli_info("(no capsules loaded)");
    if (a->principal_count) {
        putchar('\n');
        print_table(a, CLI_TABLE_PRINCIPALS, rates, sort);
    }
}

/* --- ps --------------------------------------------------------------------------------------- */

static void write_bridge(struct ast_jw *w)
{
    ast_jw_object(w);
    ast_jw_kv_string(w, "capsule", BRIDGE_ID);
    ast_jw_kv_string(w, "state", AST_STR("ready"));
    ast_jw_end(w);
}

static void print_ps_record(const struct cli *cli, const struct cli_activity *a)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(JSON_MAX);
    struct ast_jw w = AST_JW_INIT(&out);
    bool bridge = false;

    ast_jw_array(&w);
    for (size_t i = 0; i < a->capsule_count; i++) { /* ascending, as they came */
        const struct cli_figures *f = &a->capsules[i];
        int order = ast_str_cmp(BRIDGE_ID, f->name);
        if (!bridge && order < 0)
            write_bridge(&w);
        bridge |= order <= 0;
        ast_jw_object(&w);
        ast_jw_kv_string(&w, "capsule", f->name);
        ast_jw_kv_string(&w, "state", f->state);
        cli_figures_json(f, CLI_TABLE_CAPSULES, &w);
        ast_jw_end(&w);
    }
    if (!bridge)
        write_bridge(&w);
    ast_jw_end(&w);
    cli_print(cli, ast_buf_view(&out));
}

int cmd_ps(struct cli *cli)
{
    AST_AUTO(answer_done) struct answer n = { 0 };
    struct ast_err err = AST_ERR_INIT;
    int exit_status;

    if (!daemon_is_up(cli, "[]", &exit_status))
        return exit_status;
    if (fetch(cli, CLI_SORT_CPU, ANSWER_WAIT_MS, &n, &err))
        return cli_error(&err);
    if (cli_format(cli) != CLI_PRETTY)
        print_ps_record(cli, &n.a);
    else
        print_tables(&n.a, /* rates= */ false, CLI_SORT_CPU);
    return CLI_OK;
}

/* --- top, line by line ------------------------------------------------------------------------ */

static void sleep_secs(double secs)
{
    struct timespec left = { (time_t)secs, (long)((secs - (double)(time_t)secs) * 1e9) };
    while (nanosleep(&left, &left)) {
    }
}

static int print_forever(struct cli *cli, bool once, double interval, enum cli_sort sort)
{
    AST_AUTO(answer_done) struct answer before = { 0 };
    struct ast_err err = AST_ERR_INIT;
    bool json = cli_format(cli) == CLI_JSON;

    if (fetch(cli, sort, ANSWER_WAIT_MS, &before, &err))
        return cli_error(&err);
    do {
        AST_AUTO(answer_done) struct answer now = { 0 };
        sleep_secs(interval);
        if (fetch(cli, sort, ANSWER_WAIT_MS, &now, &err))
            return cli_error(&err);
        cli_activity_rates(&now.a, &before.a);
        cli_activity_sort(&now.a, sort);
        if (json) {
            AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(JSON_MAX);
            struct ast_jw w = AST_JW_INIT(&out);
            cli_activity_json(&now.a, &w);
            printf(AST_STR_FMT "\n", AST_STR_ARG(ast_buf_view(&out)));
        } else {
            char head[CLI_ACTIVITY_LINE];
            cli_activity_head(&now.a, CLI_ACTIVITY_LINE, head);
            printf("%s\n\n", head);
            print_tables(&now.a, /* rates= */ true, sort);
        }
        if (fflush(stdout)) /* the reader left */
            return CLI_OK;
        answer_replace(&before, &now);
    } while (!once);
    return CLI_OK;
}

/* --- top, the full screen --------------------------------------------------------------------- */

/* Owner: watch(). */
struct watch {
    struct cli *cli;
    struct cli_screen *screen;
    enum cli_sort sort;
    double interval;
    struct answer now;
    struct ast_err err; /* of the last refresh; no message: it went well */
    bool failed;
};

/* Rows of one table between two lines; what does not fit becomes one row. */
static void draw_table(struct watch *w, enum cli_table table, unsigned at, unsigned room,
                       unsigned columns)
{
    bool capsules = table == CLI_TABLE_CAPSULES;
    const struct cli_activity *a = &w->now.a;
    const struct cli_figures *rows = capsules ? a->capsules : a->principals;
    size_t n = capsules ? a->capsule_count : a->principal_count;
    size_t total = capsules ? a->capsules_total : a->principals_total;
    char line[CLI_ACTIVITY_LINE], name[48];

    if (room < 2)
        return;
    cli_activity_heading(table, /* rates= */ true, w->sort, columns, line);
    cli_screen_line(w->screen, at++, CLI_SCREEN_REVERSE, line);
    size_t shown = total > room - 1 ? AST_MIN(n, (size_t)room - 2) : n;
    for (size_t i = 0; i < shown; i++) {
        bool is_failed = ast_str_is(rows[i].state, "failed");
        cli_activity_row(table, &rows[i], /* rates= */ true, columns, line);
        cli_screen_line(w->screen, at++, is_failed ? CLI_SCREEN_BOLD : CLI_SCREEN_PLAIN, line);
    }
    if (total <= shown)
        return;
    struct cli_figures other =
        cli_activity_sum(rows + shown, n - shown, capsules ? NULL : &a->other);
    snprintf(name, sizeof name, "other (%zu)", total - shown);
    other.name = ast_str_c(name);
    cli_activity_row(table, &other, /* rates= */ true, columns, line);
    cli_screen_line(w->screen, at, CLI_SCREEN_PLAIN, line);
}

static void draw(struct watch *w)
{
    unsigned rows, columns;
    char line[CLI_ACTIVITY_LINE];
    const struct cli_activity *a = &w->now.a;

    cli_screen_size(w->screen, &rows, &columns);
    columns = AST_MIN(columns, CLI_ACTIVITY_LINE - 1);
    cli_screen_clear(w->screen);
    if (w->failed) {
        char message[CLI_ACTIVITY_LINE - 40];
        cli_escape(ast_str_c(w->err.msg), sizeof message - 1, message, sizeof message);
        snprintf(line, sizeof line, "no answer, trying again: %s", message);
    } else {
        cli_activity_head(a, columns, line);
    }
    cli_screen_line(w->screen, 0, w->failed ? CLI_SCREEN_BOLD : CLI_SCREEN_PLAIN, line);
    snprintf(line, sizeof line,
             "order: %s, every %.3g s   [c]pu [s] calls [m]emory [Q]ueue [d]rops   [q]uit",
             cli_sort_name(w->sort), w->interval);
    cli_screen_line(w->screen, 1, CLI_SCREEN_PLAIN, line);

    /* Both get what they need, or else capsules half of it. */
    unsigned room = rows > 4 ? rows - 4 : 0;
    unsigned capsules = (unsigned)AST_MIN(a->capsule_count + 1, (size_t)room);
    unsigned principals = (unsigned)AST_MIN(a->principals_total + 1, (size_t)room);
    if (capsules + principals > room) {
        unsigned share = AST_MAX(room - principals, room / 2);
        capsules = AST_MIN(capsules, share);
    }
    draw_table(w, CLI_TABLE_CAPSULES, 3, capsules, columns);
    draw_table(w, CLI_TABLE_PRINCIPALS, 3 + capsules + 1, room - capsules, columns);
    cli_screen_show(w->screen);
}

static void refresh_figures(struct watch *w)
{
    AST_AUTO(answer_done) struct answer next = { 0 };

    w->err = (struct ast_err)AST_ERR_INIT;
    w->failed = fetch(w->cli, w->sort, WATCH_WAIT_MS, &next, &w->err) != AST_OK;
    if (w->failed)
        return;
    cli_activity_rates(&next.a, &w->now.a);
    cli_activity_sort(&next.a, w->sort);
    answer_replace(&w->now, &next);
}

/* Keys until the next refresh is due; false: the end. */
static bool keys_until(struct watch *w, int64_t due_ns)
{
    for (;;) {
        int64_t left_ms = (due_ns - ast_mono_ns()) / AST_NS_PER_MS;
        int key = cli_screen_key(w->screen, (int)AST_MAX(left_ms, INT64_C(0)));
        if (key == 'q' || key == CLI_KEY_STOP)
            return false;
        if (cli_sort_by_key(key, &w->sort)) {
            cli_activity_sort(&w->now.a, w->sort);
            draw(w);
        } else if (key == CLI_KEY_RESIZE) {
            draw(w);
        }
        if (left_ms <= 0)
            return true;
    }
}

static int watch(struct cli *cli, double interval, enum cli_sort sort)
{
    struct watch w = { .cli = cli, .sort = sort, .interval = interval };
    struct ast_err err = AST_ERR_INIT;
    int signum;

    if (fetch(cli, sort, ANSWER_WAIT_MS, &w.now, &err)) /* told where the terminal keeps it */
        return cli_error(&err);
    cli_activity_sort(&w.now.a, sort);
    if (cli_screen_open(&w.screen, &err)) {
        answer_done(&w.now);
        cli_warning("%s", err.msg);
        return print_forever(cli, /* once= */ true, interval, sort);
    }
    int64_t due_ns = ast_mono_ns();
    do {
        draw(&w);
        /* The first rates come soon: nobody wants to look at dashes. */
        due_ns = ast_mono_ns() +
                 (w.now.a.elapsed_secs > 0
                      ? (int64_t)(interval * (double)AST_NS_PER_SEC)
                      : AST_MIN((int64_t)(interval * (double)AST_NS_PER_SEC), 300 * AST_NS_PER_MS));
        if (!keys_until(&w, due_ns))
            break;
        refresh_figures(&w);
    } while (true);
    signum = cli_screen_signal(w.screen);
    cli_screen_close(w.screen);
    answer_done(&w.now);
    if (signum && signum != SIGINT)
        (void)raise(signum); /* with its default action: the parent learns what happened */
    return CLI_OK;
}

/* --- top -------------------------------------------------------------------------------------- */

static bool read_interval(const char *text, double *ret)
{
    char *end;

    if (!text)
        return true;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= 0.1 && v <= 3600))
        return false;
    *ret = v;
    return true;
}

static int usage_error(const char *fmt, const char *value)
{
    struct ast_err err = AST_ERR_INIT;
    char text[256];

    cli_escape(ast_str_c(value), 64, text, sizeof text);
    (void)ast_fail(&err, AST_E_INVALID, "%s, not '%s'", fmt, text);
    (void)cli_error(&err);
    return CLI_USAGE;
}

int cmd_top(struct cli *cli)
{
    const char *interval_text = cli_value(cli, "interval"), *sort_text = cli_value(cli, "sort");
    bool once = cli_value(cli, "once") != NULL;
    bool json = cli_format(cli) == CLI_JSON;
    double interval = DEFAULT_INTERVAL;
    enum cli_sort sort = CLI_SORT_CPU;
    int exit_status;

    if (!read_interval(interval_text, &interval))
        return usage_error("--interval takes 0.1 to 3600 seconds", interval_text);
    if (sort_text && !cli_sort_by_name(ast_str_c(sort_text), &sort))
        return usage_error("--sort takes cpu, calls, memory, queue or drops", sort_text);
    if (!daemon_is_up(cli, "{\"running\":false}", &exit_status))
        return exit_status;
    if (!json && !once && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
        return watch(cli, interval, sort);
    return print_forever(cli, once || !json, interval, sort);
}
