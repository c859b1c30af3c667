/* version, help, build, gateway token. */
#include <errno.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/time.h"
#include "cli/cli.h"
#include "crypto/token.h"

#include "base/banned.h"

int cmd_version(struct cli *cli)
{
    struct utsname u = { 0 };
    (void)uname(&u); /* cannot fail with a valid pointer */

    if (cli_format(cli) != CLI_PRETTY) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1024);
        ast_buf_addf(
            &out, "{\"version\":\"0.8.0\",\"commit\":\"" AST_GIT_SHA "\",\"target\":\"%s-linux\"}",
            u.machine);
        cli_print(cli, ast_buf_view(&out));
        return CLI_OK;
    }
    printf("astrid 0.8.0\n  commit: " AST_GIT_SHA "\n  target: %s-linux\n", u.machine);
    return CLI_OK;
}

int cmd_help(struct cli *cli)
{
    unsigned used;

    if (cli->word_count == 0) {
        cli_print_help(NULL);
        return CLI_OK;
    }
    const struct cli_command *c = cli_find(cli->words, cli->word_count, &used);
    if (!c && cli->word_count == 1 && cli_print_group_help(cli->words[0]))
        return CLI_OK;
    if (!c) {
        fprintf(stderr,
                "error: unrecognized command '%s'\n\nFor more information, try 'astrid help'.\n",
                cli->words[0]);
        return CLI_USAGE;
    }
    cli_print_help(c);
    return CLI_OK;
}

/* Runs astrid-build with the same arguments and passes its exit status on. */
int cmd_build(struct cli *cli)
{
    AST_AUTO(ast_cfree) char *program = NULL;
    struct ast_err err = AST_ERR_INIT;
    const char *output = cli_value(cli, "output");
    const char *argv[5] = { "astrid-build" };
    size_t n = 1;
    int status;

    if (cli_companion("astrid-build", &program, &err))
        return cli_error(&err);
    if (output) {
        argv[n++] = "--output";
        argv[n++] = output;
    }
    argv[n++] = cli->word_count ? cli->words[0] : ".";
    pid_t pid = fork();
    if (pid == 0) {
        execv(program, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        (void)ast_fail_errno(&err, AST_E_IO, errno, "run astrid-build");
        return cli_error(&err);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : CLI_FAILED;
}

int cmd_gateway_token(struct cli *cli)
{
    const char *who = cli_value(cli, "principal"), *seconds = cli_value(cli, "seconds");
    AST_AUTO(ast_buf_done) struct ast_buf token = AST_BUF_INIT(AST_BEARER_MAX);
    AST_AUTO(ast_key_done) struct ast_key key = { 0 };
    struct ast_err err = AST_ERR_INIT;
    uint64_t lifetime = 28800;
    enum ast_rc rc = cli_home(cli, &err);

    if (seconds && !ast_str_to_u64(ast_str_c(seconds), &lifetime)) {
        fprintf(stderr, "error: invalid value '%s' for '--seconds <N>': not a number\n", seconds);
        return CLI_USAGE;
    }
    AST_AUTO(ast_cfree) char *path = rc ? NULL : ast_home_path(&cli->home, AST_HOME_GATEWAY_KEY);
    if (!rc && !path)
        rc = ast_fail(&err, AST_E_NO_MEMORY, "token");
    if (!rc && !ast_fs_exists(path))
        rc = ast_fail(&err, AST_E_NOT_FOUND,
                      "%s does not exist: start the daemon with the gateway enabled once", path);
    if (!rc)
        rc = ast_key_load_or_create(path, "gateway key", &key, &err);
    if (!rc)
        rc = ast_bearer_mint(&key, who ? ast_str_c(who) : AST_PRINCIPAL_DEFAULT, ast_wall_secs(),
                             lifetime, &token, &err);
    if (rc)
        return cli_error(&err);
    puts(token.p);
    return CLI_OK;
}
