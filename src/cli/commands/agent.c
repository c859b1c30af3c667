/* agent: who there is, who one acts as (spec 08 §5.10). */
#include <stdlib.h>
#include <string.h>

#include "cli/admin.h"
#include "cli/grid.h"
#include "policy/capability.h"

#include "base/banned.h"

static enum ast_rc list_agents(struct cli *cli, struct ast_uplink_frame *f,
                               const struct ast_json **ret, struct ast_err *err)
{
    struct cli_admin a;
    cli_admin_begin(&a, "AgentList");
    return cli_admin_send(cli, &a, "agent.list", "AgentList", NULL, f, ret, err);
}

/* ---- create ---- */

/* Each piece of `option` as a capability: "network:egress:" and the piece. */
static enum ast_rc check_grants(const struct cli *cli, const char *option, const char *prefix,
                                struct ast_jw *w, struct ast_err *err)
{
    struct cli_pieces it = { 0 };
    struct ast_str piece;

    while (cli_next_piece(cli, option, &it, &piece)) {
        AST_AUTO(ast_buf_done) struct ast_buf cap = AST_BUF_INIT(4096);
        ast_buf_addf(&cap, "%s" AST_STR_FMT, prefix, AST_STR_ARG(piece));
        enum ast_rc rc = ast_buf_check(&cap, option, err);
        if (!rc)
            rc = ast_cap_check(ast_buf_view(&cap), err);
        if (rc)
            return ast_wrap(err, rc, "invalid --%s entry \"" AST_STR_FMT "\"", option,
                            AST_STR_ARG(piece));
        ast_jw_string(w, ast_buf_view(&cap));
    }
    return AST_OK;
}

static int apply_quotas(struct cli *cli, const struct cli_quota *q, const struct ast_principal *who)
{
    struct ast_err err = AST_ERR_INIT;
    unsigned n = cli_quota_count(q);

    if (!n)
        return CLI_OK;
    enum ast_rc rc = cli_quota_apply(cli, q, who, &err);
    if (rc) {
        ast_wrap(&err, rc,
                 "agent '%s' created, but failed to apply quotas \xe2\x80\x94 re-run "
                 "`astrid quota set -a %s ...` to retry",
                 who->name, who->name);
        return cli_error(&err);
    }
    printf("  i Quotas set (%u field%s)\n", n, n == 1 ? "" : "s");
    return CLI_OK;
}

int cmd_agent_create(struct cli *cli)
{
    const char *distro = cli_value(cli, "distro");
    struct ast_err err = AST_ERR_INIT;
    struct ast_principal who;
    struct cli_quota quota;
    struct cli_admin a;

    if (distro && strcmp(distro, "astralis") != 0) {
        fprintf(stderr, "astrid: agent create --distro %s is not available in this release.\n",
                distro);
        return CLI_USAGE;
    }
    cli_admin_begin(&a, "AgentCreate");
    ast_jw_kv_string(&a.w, "name", ast_str_c(cli->words[0]));
    cli_admin_list(&a, cli, "groups", "group");
    ast_jw_key(&a.w, AST_STR("grants"));
    ast_jw_array(&a.w);
    enum ast_rc rc = ast_principal_parse(ast_str_c(cli->words[0]), &who, &err);
    if (rc)
        ast_wrap(&err, rc, "invalid agent name: %s", cli->words[0]);
    if (!rc)
        rc = check_grants(cli, "egress", "network:egress:", &a.w, &err);
    if (!rc)
        rc = check_grants(cli, "process-allow", "process:spawn:", &a.w, &err);
    if (!rc)
        rc = cli_quota_read(cli, &quota, &err);
    if (rc) {
        ast_buf_done(&a.body);
        return cli_error(&err);
    }
    ast_jw_end(&a.w);
    int status = cli_admin_change(cli, &a, "agent.create");
    if (status)
        return status;
    cli_success("Created agent '%s'", who.name);
    return apply_quotas(cli, &quota, &who);
}

/* ---- list, show ---- */

static void join(const struct ast_json *list, struct ast_buf *out)
{
    struct ast_json_iter it = AST_JSON_ITER(list);
    const struct ast_json *one;
    struct ast_str unused, text;

    while (ast_json_next(&it, &unused, &one))
        if (ast_json_string(one, &text)) {
            ast_buf_add(out, out->n ? AST_STR(", ") : AST_STR_NONE);
            ast_buf_add(out, text);
        }
}

static bool has_string(const struct ast_json *list, const char *wanted)
{
    struct ast_json_iter it = AST_JSON_ITER(list);
    const struct ast_json *one;
    struct ast_str unused, text;

    while (ast_json_next(&it, &unused, &one))
        if (ast_json_string(one, &text) && ast_str_eq(text, ast_str_c(wanted)))
            return true;
    return false;
}

static bool is_enabled(const struct ast_json *agent)
{
    bool enabled = false;
    (void)ast_json_bool(ast_json_member(agent, "enabled"),
                        &enabled); /* absent: shown as disabled */
    return enabled;
}

static void add_agent(struct cli_grid *g, const struct ast_json *row)
{
    AST_AUTO(ast_buf_done) struct ast_buf groups = AST_BUF_INIT(CLI_OUTPUT_MAX);

    join(ast_json_member(row, "groups"), &groups);
    cli_grid_cell(g, ast_json_str_or(row, AST_STR("principal"), AST_STR("?")));
    cli_grid_cell(g, is_enabled(row) ? AST_STR("enabled") : AST_STR("disabled"));
    cli_grid_cell(g, ast_buf_view(&groups));
}

int cmd_agent_list(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(CLI_OUTPUT_MAX);
    AST_AUTO(cli_grid_done)
    struct cli_grid g = { .columns = { { "AGENT", 24 }, { "STATE", 10 }, { "GROUPS", 6 } } };
    const char *group = cli_value(cli, "group");
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data, *row;
    struct ast_jw w = AST_JW_INIT(&out);
    struct ast_str unused;

    if (list_agents(cli, &f, &data, &err))
        return cli_error(&err);
    struct ast_json_iter it = AST_JSON_ITER(data);
    ast_jw_array(&w);
    while (ast_json_next(&it, &unused, &row)) {
        if (group && !has_string(ast_json_member(row, "groups"), group))
            continue;
        ast_jw_value(&w, row);
        add_agent(&g, row);
    }
    ast_jw_end(&w);
    if (cli_format(cli) != CLI_PRETTY)
        cli_print(cli, ast_buf_view(&out));
    else if (g.cells.n)
        cli_grid_print(&g);
    else
        cli_info("No agents.");
    return CLI_OK;
}

static void print_list(const char *title, const char *mark, const struct ast_json *list)
{
    struct ast_json_iter it = AST_JSON_ITER(list);
    const struct ast_json *one;
    struct ast_str unused, text;

    if (!ast_json_count(list))
        return;
    printf("%s:\n", title);
    while (ast_json_next(&it, &unused, &one))
        if (ast_json_string(one, &text)) {
            printf("    %s ", mark);
            cli_print_text(stdout, text);
            putchar('\n');
        }
}

static enum ast_rc not_found(struct ast_err *err, const char *name)
{
    return ast_fail(err, AST_E_NOT_FOUND,
                    "agent '%s' not found. `astrid agent list` shows those you may see.", name);
}

int cmd_agent_show(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf groups = AST_BUF_INIT(CLI_OUTPUT_MAX);
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data, *row = NULL;
    struct ast_principal active;

    enum ast_rc rc = cli_principal(cli, &active, &err);
    const char *name = cli->word_count ? cli->words[0] : active.name;
    if (!rc)
        rc = list_agents(cli, &f, &data, &err);
    if (!rc) {
        row = cli_admin_row(data, AST_STR("principal"), ast_str_c(name));
        rc = row ? AST_OK : not_found(&err, name);
    }
    if (rc)
        return cli_error(&err);
    if (cli_format(cli) != CLI_PRETTY) {
        cli_print_value(cli, row);
        return CLI_OK;
    }
    join(ast_json_member(row, "groups"), &groups);
    printf("Principal: %s\nEnabled:   %s\nGroups:    ", name, is_enabled(row) ? "yes" : "no");
    cli_print_text(stdout, groups.n ? ast_buf_view(&groups) : AST_STR("-"));
    putchar('\n');
    print_list("Grants", "+", ast_json_member(row, "grants"));
    print_list("Revokes", "-", ast_json_member(row, "revokes"));
    return CLI_OK;
}

/* ---- current, switch ---- */

int cmd_agent_current(struct cli *cli)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_principal active;

    if (cli_principal(cli, &active, &err))
        return cli_error(&err);
    puts(active.name);
    return CLI_OK;
}

int cmd_agent_switch(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT, ignored = AST_ERR_INIT;
    const struct ast_json *data;
    struct ast_principal who;

    enum ast_rc rc = ast_principal_parse(ast_str_c(cli->words[0]), &who, &err);
    if (rc) {
        ast_wrap(&err, rc, "invalid agent name: %s", cli->words[0]);
        return cli_error(&err);
    }
    /* Without a daemon, or without the right to look, the wish is taken as it is. */
    if (!ast_str_eq(ast_principal_str(&who), AST_PRINCIPAL_DEFAULT) &&
        !list_agents(cli, &f, &data, &ignored) &&
        !cli_admin_row(data, AST_STR("principal"), ast_principal_str(&who)))
        cli_warning("agent '%s' was not found, or you may not see it", who.name);
    if (cli_context_write(cli, &who, &err))
        return cli_error(&err);
    cli_success("Active agent set to '%s'", who.name);
    return CLI_OK;
}

/* ---- changes ---- */

static int agent_verb(struct cli *cli, const char *method, const char *suffix, const char *said)
{
    struct cli_admin a;
    cli_admin_begin(&a, method);
    ast_jw_kv_string(&a.w, "principal", ast_str_c(cli->words[0]));
    int status = cli_admin_change(cli, &a, suffix);
    if (!status)
        cli_success("%s agent '%s'", said, cli->words[0]);
    return status;
}

int cmd_agent_delete(struct cli *cli)
{
    char line[16] = "";
    if (!cli->yes) {
        fprintf(stderr, "Delete agent '%s' (home directory is NOT removed) [y/N]? ", cli->words[0]);
        if (!fgets(line, sizeof line, stdin) ||
            !(ast_str_eq_nocase(ast_str_trim(ast_str_c(line)), AST_STR("y")) ||
              ast_str_eq_nocase(ast_str_trim(ast_str_c(line)), AST_STR("yes")))) {
            fputs("aborted.\n", stderr);
            return CLI_FAILED;
        }
    }
    return agent_verb(cli, "AgentDelete", "agent.delete", "Deleted");
}

int cmd_agent_enable(struct cli *cli)
{
    return agent_verb(cli, "AgentEnable", "agent.enable", "Enabled");
}

int cmd_agent_disable(struct cli *cli)
{
    return agent_verb(cli, "AgentDisable", "agent.disable", "Disabled");
}

int cmd_agent_modify(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf groups = AST_BUF_INIT(CLI_OUTPUT_MAX);
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;
    bool changed = false;
    struct cli_admin a;

    if (!cli_value(cli, "add-group") && !cli_value(cli, "remove-group")) {
        fputs("nothing to do: give --add-group or --remove-group\n", stderr);
        return CLI_FAILED;
    }
    cli_admin_begin(&a, "AgentModify");
    ast_jw_kv_string(&a.w, "principal", ast_str_c(cli->words[0]));
    cli_admin_list(&a, cli, "add_groups", "add-group");
    cli_admin_list(&a, cli, "remove_groups", "remove-group");
    if (cli_admin_send(cli, &a, "agent.modify", "Success", NULL, &f, &data, &err))
        return cli_error(&err);
    (void)ast_json_bool(ast_json_member(data, "changed"), &changed); /* absent: no change */
    join(ast_json_member(data, "groups"), &groups);
    if (changed)
        cli_success("Updated agent '%s' groups: [" AST_STR_FMT "]", cli->words[0],
                    AST_STR_ARG(ast_buf_view(&groups)));
    else
        cli_info("agent '%s' already in the requested groups (no change)", cli->words[0]);
    return CLI_OK;
}

int cmd_deferred(struct cli *cli)
{
    fprintf(stderr, "astrid: %s is not available in this release.\n", cli->command->name);
    return CLI_USAGE;
}
