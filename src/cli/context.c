/* Who acts: the active agent of run/cli-context.toml (spec 08 §3). The daemon never reads that file. */
#include "base/fs.h"
#include "base/toml.h"
#include "cli/cli.h"

#include "base/banned.h"

#define CONTEXT_FILE "run/cli-context.toml"
#define CONTEXT_MAX  65536u

enum ast_rc cli_principal(struct cli *cli, struct ast_principal *ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(CONTEXT_MAX);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_str name = AST_PRINCIPAL_DEFAULT;
    enum ast_rc rc = cli_home(cli, err);
    if (rc)
        return rc;
    AST_AUTO(ast_cfree) char *path = ast_home_path(&cli->home, CONTEXT_FILE);
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "context");
    rc = ast_fs_read(path, text.max, &text, err);
    if (rc == AST_E_NOT_FOUND)
        return ast_principal_parse(AST_PRINCIPAL_DEFAULT, ret, err);
    if (rc)
        return ast_wrap(err, rc, "Failed to read %s", path);
    rc = ast_toml_parse(ast_buf_view(&text), &doc, err);
    const struct ast_json *active = rc ? NULL : ast_json_member(ast_json_root(doc), "active_agent");
    if (!rc && active && !ast_json_string(active, &name))
        rc = ast_fail(err, AST_E_INVALID, "active_agent is no string");
    if (rc)
        return ast_wrap(err, rc, "Failed to parse %s", path);
    rc = ast_principal_parse(name, ret, err);
    return rc ? ast_wrap(err, rc, "invalid principal id in cli-context.toml") : AST_OK;
}

enum ast_rc cli_agent(struct cli *cli, struct ast_principal *ret, struct ast_err *err)
{
    const char *given = cli_value(cli, "agent");

    if (!given)
        return cli_principal(cli, ret, err);
    enum ast_rc rc = ast_principal_parse(ast_str_c(given), ret, err);
    return rc ? ast_wrap(err, rc, "invalid agent name: %s", given) : AST_OK;
}

enum ast_rc cli_context_write(struct cli *cli, const struct ast_principal *active,
                              struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(256);
    enum ast_rc rc = cli_home(cli, err);
    if (rc)
        return rc;
    AST_AUTO(ast_cfree) char *dir = ast_home_path(&cli->home, "run");
    AST_AUTO(ast_cfree) char *path = ast_home_path(&cli->home, CONTEXT_FILE);
    ast_buf_addf(&text, "active_agent = \"%s\"\n",
                 active->name); /* nothing in a name needs quoting */
    if (!dir || !path || text.fail)
        return ast_fail(err, AST_E_NO_MEMORY, "context");
    rc = ast_fs_mkdirs(dir, 0700, err);
    return rc ? rc : ast_fs_write_atomic(path, ast_buf_view(&text), 0600, AST_FS_SYNC, err);
}
