/* doctor: is this installation well (spec 08 §5.6). It looks and changes nothing. */
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "cli/daemon.h"

#include "base/banned.h"

#define ROUNDTRIP_MS 5000

enum verdict { WELL, DOUBTFUL, ILL };

static enum verdict told(enum verdict v, const char *name, const char *fmt, ...) AST_PRINTF(3, 4);
static enum verdict told(enum verdict v, const char *name, const char *fmt, ...)
{
    static const char *const marks[] = {
        [WELL] = "  [OK]  ", [DOUBTFUL] = "  [WARN]", [ILL] = "  [FAIL]"
    };
    va_list ap;

    printf("%s %s \xe2\x80\x94 ", marks[v], name);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    return v;
}

static enum verdict check_home(struct cli *cli)
{
    struct ast_err err = AST_ERR_INIT;

    if (cli_home(cli, &err))
        return told(ILL, "ASTRID_HOME", "%s", err.msg);
    return told(WELL, "ASTRID_HOME", "%s", cli->home.root);
}

static enum verdict check_key(struct cli *cli)
{
    static const char name[] = "Runtime signing key";
    AST_AUTO(ast_cfree) char *path = ast_home_path(&cli->home, AST_HOME_RUNTIME_KEY);
    struct stat st;

    if (!path)
        return told(ILL, name, "out of memory");
    if (stat(path, &st))
        return told(DOUBTFUL, name, "%s is missing; the daemon makes it at its first start", path);
    if (!S_ISREG(st.st_mode) || st.st_size != 32)
        return told(DOUBTFUL, name, "%s is no key of 32 bytes", path);
    if (st.st_mode & 077)
        return told(DOUBTFUL, name, "others can read %s; chmod 600 it", path);
    return told(WELL, name, "%s", path);
}

static enum verdict check_socket(struct cli *cli, bool *ret_exists)
{
    static const char name[] = "Daemon socket";
    AST_AUTO(ast_cfree) char *path = ast_home_path(&cli->home, AST_HOME_SOCKET);

    *ret_exists = path && ast_fs_exists(path);
    if (!path)
        return told(ILL, name, "out of memory");
    if (!*ret_exists)
        return told(DOUBTFUL, name, "no daemon is running; `astrid start` starts one");
    return told(WELL, name, "%s", path);
}

static enum verdict check_roundtrip(struct cli *cli)
{
    static const char name[] = "Daemon roundtrip";
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(ast_uplink_disconnect) struct ast_uplink_client *c = NULL;
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *status;
    uint64_t pid = 0;

    enum ast_rc rc = ast_uplink_connect(&cli->home, &c, &err);
    if (!rc)
        rc = cli_request_as(c, AST_STR_NONE, "status", AST_STR("{\"method\":\"GetStatus\"}"),
                            ROUNDTRIP_MS, &f, &status, &err);
    if (rc)
        return told(ILL, name, "%s", err.msg);
    (void)ast_json_u64(ast_json_member(status, "pid"), &pid); /* absent: 0 */
    return told(WELL, name, "astrid " AST_STR_FMT ", PID %llu",
                AST_STR_ARG(ast_json_str_or(status, AST_STR("version"), AST_STR("?"))),
                (unsigned long long)pid);
}

int cmd_doctor(struct cli *cli)
{
    bool has_socket = false;

    puts("Astrid health check");
    enum verdict worst = check_home(cli);
    if (worst != ILL) {
        worst = AST_MAX(worst, check_key(cli));
        worst = AST_MAX(worst, check_socket(cli, &has_socket));
    }
    if (has_socket && !cli_value(cli, "no-daemon"))
        worst = AST_MAX(worst, check_roundtrip(cli));
    if (worst == ILL) {
        cli_failure("One or more checks failed.");
        return CLI_FAILED;
    }
    cli_success("All checks passed.");
    return CLI_OK;
}
