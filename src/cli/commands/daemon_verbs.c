/* start, stop, restart, status, who (spec 08 §5.4, §5.5). */
#include <stdlib.h>
#include <string.h>

#include "cli/daemon.h"
#include "cli/grid.h"

#include "base/banned.h"

#define STATUS_WAIT_MS 10000
#define STOP_WAIT_MS   5000
#define WHO_MAX        30000u /* cells: more clients than a daemon takes */

static enum ast_rc get_status(struct cli *cli, struct ast_uplink_frame *f,
                              const struct ast_json **ret, struct ast_err *err)
{
    struct ast_uplink_client *c = NULL;
    enum ast_rc rc = ast_uplink_connect(&cli->home, &c, err);

    if (!rc)
        rc = cli_request_as(c, AST_STR_NONE, "status", AST_STR("{\"method\":\"GetStatus\"}"),
                            STATUS_WAIT_MS, f, ret, err);
    ast_uplink_disconnect(c);
    return rc;
}

static int spawn_persistent(struct cli *cli)
{
    struct ast_err err = AST_ERR_INIT;
    bool found;

    cli_note("Starting Astrid daemon (persistent mode)...");
    if (cli_daemon_spawn(cli, /* ephemeral= */ false, &found, &err))
        return cli_error(&err);
    if (found)
        cli_warning("Astrid daemon is already running.");
    else
        cli_success("Astrid daemon started (persistent mode).");
    return CLI_OK;
}

int cmd_start(struct cli *cli)
{
    struct ast_err err = AST_ERR_INIT;

    switch (cli_daemon_probe(cli, &err)) {
    case CLI_DAEMON_UP: cli_warning("Astrid daemon is already running."); return CLI_OK;
    case CLI_DAEMON_UNCLEAR: return cli_error(&err);
    case CLI_DAEMON_STALE:
    case CLI_DAEMON_NONE: break;
    }
    return spawn_persistent(cli);
}

/* Asks, and waits until the socket is gone: "stopped" is said when it is true. */
static enum ast_rc stop_daemon(struct cli *cli, const char *reason, struct ast_err *err)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf request = AST_BUF_INIT(256);
    struct ast_uplink_client *c = NULL;
    const struct ast_json *data;
    enum ast_rc rc = ast_uplink_connect(&cli->home, &c, err);

    ast_buf_addf(&request, "{\"method\":\"Shutdown\",\"params\":{\"reason\":\"%s\"}}", reason);
    if (!rc)
        rc = cli_request_as(c, AST_STR_NONE, "shutdown", ast_buf_view(&request), STATUS_WAIT_MS, &f,
                            &data, err);
    ast_uplink_disconnect(c);
    if (!rc && !cli_daemon_wait_gone(cli, STOP_WAIT_MS))
        rc = ast_fail(err, AST_E_TIMEOUT,
                      "the daemon accepted the request but still runs after 5 seconds");
    return rc;
}

int cmd_stop(struct cli *cli)
{
    struct ast_err err = AST_ERR_INIT;

    switch (cli_daemon_probe(cli, &err)) {
    case CLI_DAEMON_NONE: cli_info("No Astrid daemon is running."); return CLI_OK;
    case CLI_DAEMON_STALE:
        if (cli_daemon_clean(cli, &err))
            return cli_error(&err);
        cli_info("Cleaned up stale daemon socket.");
        return CLI_OK;
    case CLI_DAEMON_UNCLEAR: return cli_error(&err);
    case CLI_DAEMON_UP: break;
    }
    if (stop_daemon(cli, "astrid stop", &err))
        return cli_error(&err);
    cli_success("Astrid daemon stopped.");
    return CLI_OK;
}

int cmd_restart(struct cli *cli)
{
    struct ast_err err = AST_ERR_INIT;
    enum cli_daemon_state state = cli_daemon_probe(cli, &err);

    if (state == CLI_DAEMON_UNCLEAR)
        return cli_error(&err);
    if (state == CLI_DAEMON_UP && stop_daemon(cli, "astrid restart", &err))
        return cli_error(&err);
    return spawn_persistent(cli);
}

static void print_uptime(uint64_t s)
{
    if (s >= 3600)
        printf("%lluh%02llum%02llus", (unsigned long long)(s / 3600),
               (unsigned long long)(s / 60 % 60), (unsigned long long)(s % 60));
    else if (s >= 60)
        printf("%llum%02llus", (unsigned long long)(s / 60), (unsigned long long)(s % 60));
    else
        printf("%llus", (unsigned long long)s);
}

static void print_status(const struct ast_json *s)
{
    const struct ast_json *capsules = ast_json_member(s, "loaded_capsules"), *one;
    struct ast_json_iter it = AST_JSON_ITER(capsules);
    struct ast_str unused, id;
    uint64_t pid = 0, uptime = 0, clients = 0;

    (void)ast_json_u64(ast_json_member(s, "pid"),
                       &pid); /* a field a future daemon drops shows as 0 */
    (void)ast_json_u64(ast_json_member(s, "uptime_secs"), &uptime);
    (void)ast_json_u64(ast_json_member(s, "connected_clients"), &clients);
    printf("\xe2\x9c\x93 Astrid daemon (PID %llu, uptime ", (unsigned long long)pid);
    print_uptime(uptime);
    printf(")\n  Version:    " AST_STR_FMT "\n  Clients:    %llu\n  Capsules:   %zu loaded\n",
           AST_STR_ARG(ast_json_str_or(s, AST_STR("version"), AST_STR("?"))),
           (unsigned long long)clients, ast_json_count(capsules));
    while (ast_json_next(&it, &unused, &one))
        if (ast_json_string(one, &id))
            printf("    - " AST_STR_FMT "\n", AST_STR_ARG(id));
}

/* No daemon is an answer, not a failure, unless --exit-code asks. */
static int no_daemon(struct cli *cli, const char *text)
{
    if (cli_format(cli) != CLI_PRETTY)
        cli_print(cli, AST_STR("{\"running\":false}"));
    else
        cli_info("%s", text);
    return cli_value(cli, "exit-code") ? CLI_FAILED : CLI_OK;
}

int cmd_status(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *status;
    enum cli_daemon_state state = cli_daemon_probe(cli, &err);

    if (!cli->has_home)
        return cli_error(&err);
    if (state == CLI_DAEMON_NONE)
        return no_daemon(cli, "No Astrid daemon is running.");
    enum ast_rc rc = state == CLI_DAEMON_UP ? get_status(cli, &f, &status, &err) : AST_E_CLOSED;
    if (rc == AST_E_DENIED)
        return cli_error(&err);
    if (rc) {
        cli_failure(
            "Daemon socket exists but connection failed. It may be starting up or in a bad state.");
        if (cli->verbose)
            cli_note("%s", err.msg);
        return cli_value(cli, "exit-code") ? CLI_FAILED : CLI_OK;
    }
    if (cli_format(cli) != CLI_PRETTY)
        cli_print_value(cli, status);
    else
        print_status(status);
    return CLI_OK;
}

/* CLI_OK with *ret NULL means "no daemon", already told. */
static int status_or_tell(struct cli *cli, struct ast_uplink_frame *f, const struct ast_json **ret)
{
    struct ast_err err = AST_ERR_INIT;
    enum cli_daemon_state state = cli_daemon_probe(cli, &err);

    *ret = NULL;
    if (!cli->has_home)
        return cli_error(&err);
    if (state == CLI_DAEMON_NONE) {
        if (cli_format(cli) != CLI_PRETTY)
            cli_print(cli, AST_STR("[]"));
        else
            cli_info("No Astrid daemon is running.");
        return CLI_OK;
    }
    enum ast_rc rc = state == CLI_DAEMON_UP ? get_status(cli, f, ret, &err) : AST_E_CLOSED;
    if (rc == AST_E_DENIED)
        return cli_error(&err);
    if (rc) {
        *ret = NULL;
        cli_failure("Failed to connect to daemon");
        if (cli->verbose)
            cli_note("%s", err.msg);
        return CLI_FAILED;
    }
    return CLI_OK;
}

/* One row for each connection: a principal with three has three. */
static void add_clients(struct ast_jw *w, struct cli_grid *g, struct ast_str agent, uint64_t count)
{
    for (; count && g->cells.n < WHO_MAX; count--) {
        cli_grid_cell(g, agent);
        cli_grid_cell(g, AST_STR("cli"));
        cli_grid_cell(g, AST_STR("active"));
        ast_jw_object(w);
        ast_jw_kv_string(w, "agent", agent);
        ast_jw_kv_string(w, "platform", AST_STR("cli"));
        ast_jw_end(w);
    }
}

int cmd_who(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(CLI_OUTPUT_MAX);
    AST_AUTO(cli_grid_done)
    struct cli_grid g = { .columns = { { "AGENT", 24 }, { "PLATFORM", 12 }, { "STATE", 5 } } };
    const struct ast_json *status, *one;
    int exit_status = status_or_tell(cli, &f, &status);
    struct ast_jw w = AST_JW_INIT(&out);
    struct ast_str unused;
    uint64_t count = 0;

    if (!status)
        return exit_status;
    const struct ast_json *rows = ast_json_member(status, "connections_by_principal");
    struct ast_json_iter it = AST_JSON_ITER(rows);
    ast_jw_array(&w);
    while (ast_json_next(&it, &unused, &one)) {
        count = 0;
        (void)ast_json_u64(ast_json_member(one, "count"), &count); /* a row without count is none */
        add_clients(&w, &g, ast_json_str_or(one, AST_STR("principal"), AST_STR("?")), count);
    }
    count = 0;
    if (!ast_json_count(rows) && ast_json_u64(ast_json_member(status, "connected_clients"), &count))
        add_clients(&w, &g, AST_PRINCIPAL_DEFAULT, count);
    ast_jw_end(&w);
    if (cli_format(cli) != CLI_PRETTY)
        cli_print(cli, ast_buf_view(&out));
    else if (g.cells.n)
        cli_grid_print(&g);
    else
        cli_info("No clients connected.");
    return CLI_OK;
}
