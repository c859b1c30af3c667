/* caps: what an agent may do, and why (spec 08 §5.11). The answers come from the daemon's own lists and the daemon's own
 * matcher, in its order: revokes, grants, groups. */
#include <stdlib.h>
#include <string.h>

#include "cli/admin.h"
#include "cli/grid.h"
#include "policy/capability.h"

#include "base/banned.h"

struct rights {
    struct ast_uplink_frame agents_frame, groups_frame; /* owned */
    const struct ast_json *agent, *groups;              /* borrowed from them */
    bool enabled;
};

static void rights_done(struct rights *r)
{
    ast_uplink_frame_done(&r->agents_frame);
    ast_uplink_frame_done(&r->groups_frame);
}
AST_DEFINE_AUTO_VALUE(struct rights, rights_done)

static enum ast_rc fetch_agent(struct cli *cli, struct ast_str name, struct rights *r,
                               struct ast_err *err)
{
    const struct ast_json *data;
    struct cli_admin a;

    cli_admin_begin(&a, "AgentList");
    enum ast_rc rc =
        cli_admin_send(cli, &a, "agent.list", "AgentList", NULL, &r->agents_frame, &data, err);
    if (rc)
        return rc;
    r->agent = cli_admin_row(data, AST_STR("principal"), name);
    if (!r->agent)
        return ast_fail(err, AST_E_NOT_FOUND,
                        "agent '" AST_STR_FMT
                        "' not found. `astrid agent list` shows those you may see.",
                        AST_STR_ARG(name));
    (void)ast_json_bool(ast_json_member(r->agent, "enabled"), &r->enabled); /* absent: disabled */
    return AST_OK;
}

static enum ast_rc fetch_groups(struct cli *cli, struct rights *r, struct ast_err *err)
{
    struct cli_admin a;

    cli_admin_begin(&a, "GroupList");
    return cli_admin_send(cli, &a, "group.list", "GroupList", NULL, &r->groups_frame, &r->groups,
                          err);
}

/* The first entry of `patterns` that covers `cap`. */
static bool find_match(const struct ast_json *patterns, struct ast_str cap, struct ast_str *ret)
{
    struct ast_json_iter it = AST_JSON_ITER(patterns);
    const struct ast_json *one;
    struct ast_str unused;

    while (ast_json_next(&it, &unused, &one))
        if (ast_json_string(one, ret) && ast_cap_match(*ret, cap))
            return true;
    return false;
}

/* ---- show ---- */

static void add_rows(struct cli_grid *g, const struct rights *r, const struct ast_json *caps,
                     struct ast_str source)
{
    struct ast_json_iter it = AST_JSON_ITER(caps);
    const struct ast_json *one;
    struct ast_str unused, cap, revoke;

    while (ast_json_next(&it, &unused, &one)) {
        if (!ast_json_string(one, &cap))
            continue;
        cli_grid_cell(g, cap);
        cli_grid_cell(g, source);
        cli_grid_cell(g, find_match(ast_json_member(r->agent, "revokes"), cap, &revoke)
                             ? AST_STR("shadowed by revoke")
                             : AST_STR("active"));
    }
}

static void add_revokes(struct cli_grid *g, const struct ast_json *revokes)
{
    struct ast_json_iter it = AST_JSON_ITER(revokes);
    const struct ast_json *one;
    struct ast_str unused, cap;

    while (ast_json_next(&it, &unused, &one))
        if (ast_json_string(one, &cap)) {
            cli_grid_cell(g, cap);
            cli_grid_cell(g, AST_STR("revoke"));
            cli_grid_cell(g, AST_STR("denied"));
        }
}

static void add_groups(struct cli_grid *g, const struct rights *r)
{
    struct ast_json_iter it = AST_JSON_ITER(ast_json_member(r->agent, "groups"));
    const struct ast_json *one;
    struct ast_str unused, name;

    while (ast_json_next(&it, &unused, &one)) {
        if (!ast_json_string(one, &name))
            continue;
        AST_AUTO(ast_buf_done) struct ast_buf source = AST_BUF_INIT(4096);
        ast_buf_addf(&source, "group " AST_STR_FMT, AST_STR_ARG(name));
        const struct ast_json *group = cli_admin_row(r->groups, AST_STR("name"), name);
        if (group) {
            add_rows(g, r, ast_json_member(group, "capabilities"), ast_buf_view(&source));
            continue;
        }
        cli_grid_cell(g, AST_STR_NONE);
        cli_grid_cell(g, ast_buf_view(&source));
        cli_grid_cell(g, r->groups ? AST_STR("no such group") : AST_STR("group not visible"));
    }
}

static void print_rights(struct cli *cli, struct rights *r, struct ast_str name)
{
    AST_AUTO(cli_grid_done)
    struct cli_grid g = { .columns = { { "CAPABILITY", 60 }, { "SOURCE", 24 }, { "STATUS", 6 } } };
    struct ast_err ignored = AST_ERR_INIT;

    if (fetch_groups(cli, r, &ignored))
        cli_warning("what the groups hold is not shown: %s", ignored.msg);
    if (!r->enabled)
        cli_warning("agent '" AST_STR_FMT "' is disabled: everything is denied", AST_STR_ARG(name));
    add_rows(&g, r, ast_json_member(r->agent, "grants"), AST_STR("grant"));
    add_groups(&g, r);
    add_revokes(&g, ast_json_member(r->agent, "revokes"));
    if (g.cells.n)
        cli_grid_print(&g);
    else
        cli_info("agent '" AST_STR_FMT "' holds no capabilities.", AST_STR_ARG(name));
}

int cmd_caps_show(struct cli *cli)
{
    AST_AUTO(rights_done) struct rights r = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(CLI_OUTPUT_MAX);
    static const char *const members[] = { "principal", "groups", "grants", "revokes" };
    struct ast_jw w = AST_JW_INIT(&out);
    struct ast_err err = AST_ERR_INIT;
    struct ast_principal active;

    enum ast_rc rc = cli_principal(cli, &active, &err);
    struct ast_str name = ast_str_c(cli->word_count ? cli->words[0] : active.name);
    if (!rc)
        rc = fetch_agent(cli, name, &r, &err);
    if (rc)
        return cli_error(&err);
    if (cli_format(cli) == CLI_PRETTY) {
        print_rights(cli, &r, name);
        return CLI_OK;
    }
    ast_jw_object(&w);
    for (size_t i = 0; i < AST_ARRAY_LEN(members); i++) {
        const struct ast_json *v = ast_json_get(r.agent, ast_str_c(members[i]));
        ast_jw_key(&w, ast_str_c(members[i]));
        if (v)
            ast_jw_value(&w, v);
        else
            ast_jw_null(&w);
    }
    ast_jw_end(&w);
    cli_print(cli, ast_buf_view(&out));
    return CLI_OK;
}

/* ---- check ---- */

static int denied(const char *fmt, ...) AST_PRINTF(1, 2);
static int denied(const char *fmt, ...)
{
    va_list ap;

    fputs("denied: ", stdout);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    return CLI_FAILED;
}

static int judge(const struct rights *r, const char *name, const char *cap_text)
{
    struct ast_json_iter it = AST_JSON_ITER(ast_json_member(r->agent, "groups"));
    struct ast_str cap = ast_str_c(cap_text), pattern, unused, group_name;
    const struct ast_json *one;

    if (!r->enabled)
        return denied("agent '%s' is disabled", name);
    if (find_match(ast_json_member(r->agent, "revokes"), cap, &pattern))
        return denied("'%s' is revoked from agent '%s' via \"" AST_STR_FMT "\"", cap_text, name,
                      AST_STR_ARG(pattern));
    if (find_match(ast_json_member(r->agent, "grants"), cap, &pattern)) {
        printf("allowed: '%s' is granted to agent '%s' via \"" AST_STR_FMT "\"\n", cap_text, name,
               AST_STR_ARG(pattern));
        return CLI_OK;
    }
    while (ast_json_next(&it, &unused, &one)) {
        if (!ast_json_string(one, &group_name))
            continue;
        const struct ast_json *group = cli_admin_row(r->groups, AST_STR("name"), group_name);
        if (find_match(ast_json_member(group, "capabilities"), cap, &pattern)) {
            printf("allowed: agent '%s' is in group '" AST_STR_FMT "', which holds \"" AST_STR_FMT
                   "\"\n",
                   name, AST_STR_ARG(group_name), AST_STR_ARG(pattern));
            return CLI_OK;
        }
    }
    return denied("nothing grants '%s' to agent '%s'", cap_text, name);
}

int cmd_caps_check(struct cli *cli)
{
    AST_AUTO(rights_done) struct rights r = { 0 };
    struct ast_err err = AST_ERR_INIT;

    enum ast_rc rc = ast_cap_check(ast_str_c(cli->words[1]), &err);
    if (!rc)
        rc = fetch_agent(cli, ast_str_c(cli->words[0]), &r, &err);
    if (!rc)
        rc = fetch_groups(cli, &r, &err);
    return rc ? cli_error(&err) : judge(&r, cli->words[0], cli->words[1]);
}

/* ---- grant, revoke ---- */

/* "*", "*:*": everything there is. */
static bool is_everything(const char *cap)
{
    return *cap && strspn(cap, "*:") == strlen(cap);
}

static int caps_verb(struct cli *cli, bool grant)
{
    struct cli_admin a;
    bool unsafe = grant && cli_value(cli, "unsafe-admin");

    if (grant && !unsafe && is_everything(cli->words[1])) {
        cli_failure("error: granting '%s' makes agent '%s' an administrator; pass --unsafe-admin "
                    "to confirm that",
                    cli->words[1], cli->words[0]);
        return CLI_USAGE;
    }
    cli_admin_begin(&a, grant ? "CapsGrant" : "CapsRevoke");
    ast_jw_kv_string(&a.w, "principal", ast_str_c(cli->words[0]));
    ast_jw_key(&a.w, AST_STR("capabilities"));
    ast_jw_array(&a.w);
    ast_jw_string(&a.w, ast_str_c(cli->words[1]));
    ast_jw_end(&a.w);
    if (grant)
        ast_jw_kv_bool(&a.w, "unsafe_admin", unsafe);
    int status = cli_admin_change(cli, &a, grant ? "caps.grant" : "caps.revoke");
    if (!status)
        cli_success("%s '%s' %s agent '%s'", grant ? "Granted" : "Revoked", cli->words[1],
                    grant ? "to" : "from", cli->words[0]);
    return status;
}

int cmd_caps_grant(struct cli *cli)
{
    return caps_verb(cli, /* grant= */ true);
}

int cmd_caps_revoke(struct cli *cli)
{
    return caps_verb(cli, /* grant= */ false);
}
