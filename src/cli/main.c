/* astrid: parse, dispatch, exit. The order is spec 08 §2.2. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "cli/cli.h"

#include "base/banned.h"

enum ast_rc cli_home(struct cli *cli, struct ast_err *err)
{
    if (cli->has_home)
        return AST_OK;
    enum ast_rc rc = ast_home_resolve(&cli->home, err);
    cli->has_home = !rc;
    return rc;
}

enum ast_rc cli_companion(const char *name, char **ret, struct ast_err *err)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash;

    if (n > 0) {
        self[n] = 0;
        slash = strrchr(self, '/');
        if (slash)
            *slash = 0;
        AST_AUTO(ast_cfree) char *beside = ast_fs_join(self, name);
        if (beside && access(beside, X_OK) == 0) {
            *ret = ast_steal(&beside);
            return AST_OK;
        }
    }
    struct ast_str rest = ast_str_c(getenv("PATH") ? getenv("PATH") : ""), dir;
    bool more = true;
    while (ast_str_split(&rest, &more, ':', &dir)) {
        AST_AUTO(ast_cfree) char *folder = ast_str_dup(dir);
        AST_AUTO(ast_cfree)
        char *path = folder && dir.n && dir.p[0] == '/' ? ast_fs_join(folder, name) : NULL;
        if (path && access(path, X_OK) == 0) {
            *ret = ast_steal(&path);
            return AST_OK;
        }
    }
    return ast_fail(
        err, AST_E_NOT_FOUND,
        "%s not found. Ensure it is installed alongside the astrid CLI or available in PATH.",
        name);
}

static int print_emit_path(void)
{
    AST_AUTO(ast_cfree) char *path = NULL;
    struct ast_err err = AST_ERR_INIT;

    if (cli_companion("astrid-emit", &path, &err)) {
        fprintf(stderr, "error: %s\n", err.msg);
        return CLI_FAILED;
    }
    puts(path);
    return CLI_OK;
}

static int dispatch(struct cli *cli)
{
    if (cli->emit_path)
        return print_emit_path();
    if (cli->wants_version) {
        puts("astrid 0.8.0");
        return CLI_OK;
    }
    if (cli->wants_help) {
        if (cli->command || !cli->word_count || !cli_print_group_help(cli->words[0]))
            cli_print_help(cli->command);
        return CLI_OK;
    }
    if (cli->prompt || (!cli->command && !isatty(STDIN_FILENO)))
        return cli_headless(cli, cli->prompt, cli->session, cli->yes, cli->print_session,
                            cli_format(cli));
    return cli->command ? cli->command->run(cli) : cmd_chat(cli);
}

int main(int argc, char **argv)
{
    struct cli cli = { 0 };
    int status = cli_parse(&cli, argc, argv);

    if (status == CLI_OK)
        status = dispatch(&cli);
    ast_home_done(&cli.home);
    if (fflush(stdout) && status == CLI_OK)
        status = CLI_FAILED; /* a full disk or a closed pipe must not look like success */
    return status;
}
