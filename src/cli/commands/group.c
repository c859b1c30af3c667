/* group: named sets of capabilities (spec 08 §5.12). */
#include <stdlib.h>
#include <string.h>

#include "cli/admin.h"
#include "cli/grid.h"

#include "base/banned.h"

#define SHOWN_CAPS 3

static enum ast_rc list_groups(struct cli *cli, struct ast_uplink_frame *f,
                               const struct ast_json **ret, struct ast_err *err)
{
    struct cli_admin a;
    cli_admin_begin(&a, "GroupList");
    return cli_admin_send(cli, &a, "group.list", "GroupList", NULL, f, ret, err);
}

/* The row of the group that the command names. */
static enum ast_rc find_group(struct cli *cli, struct ast_uplink_frame *f,
                              const struct ast_json **ret, struct ast_err *err)
{
    const struct ast_json *data;
    enum ast_rc rc = list_groups(cli, f, &data, err);

    if (rc)
        return rc;
    *ret = cli_admin_row(data, AST_STR("name"), ast_str_c(cli->words[0]));
    return *ret ? AST_OK
                : ast_fail(err, AST_E_NOT_FOUND,
                           "group '%s' not found. `astrid group list` shows them all.",
                           cli->words[0]);
}

static const char *type_of(const struct ast_json *group)
{
    bool builtin = false;
    (void)ast_json_bool(ast_json_member(group, "builtin"), &builtin); /* absent: a custom one */
    return builtin ? "builtin" : "custom";
}

/* ---- list, show ---- */

static void add_group(struct cli_grid *g, const struct ast_json *row)
{
    AST_AUTO(ast_buf_done) struct ast_buf caps = AST_BUF_INIT(CLI_OUTPUT_MAX);
    const struct ast_json *list = ast_json_member(row, "capabilities"), *one;
    struct ast_json_iter it = AST_JSON_ITER(list);
    size_t total = ast_json_count(list);
    struct ast_str unused, text;

    for (size_t i = 0; i < SHOWN_CAPS && ast_json_next(&it, &unused, &one); i++)
        if (ast_json_string(one, &text)) {
            ast_buf_add(&caps, i ? AST_STR(", ") : AST_STR_NONE);
            ast_buf_add(&caps, text);
        }
    if (total > SHOWN_CAPS)
        ast_buf_addf(&caps, ", ...(%zu total)", total);
    cli_grid_cell(g, ast_json_str_or(row, AST_STR("name"), AST_STR("?")));
    cli_grid_cell(g, ast_str_c(type_of(row)));
    cli_grid_cell(g, ast_buf_view(&caps));
}

int cmd_group_list(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(cli_grid_done)
    struct cli_grid g = { .columns = { { "GROUP", 16 }, { "TYPE", 10 }, { "CAPABILITIES", 12 } } };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data, *row;
    struct ast_str unused;

    if (list_groups(cli, &f, &data, &err))
        return cli_error(&err);
    if (cli_format(cli) != CLI_PRETTY) {
        cli_print_value(cli, data);
        return CLI_OK;
    }
    struct ast_json_iter it = AST_JSON_ITER(data);
    while (ast_json_next(&it, &unused, &row))
        add_group(&g, row);
    cli_grid_print(&g);
    return CLI_OK;
}

int cmd_group_show(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *row, *one;
    struct ast_str unused, text;
    bool unsafe = false;

    if (find_group(cli, &f, &row, &err))
        return cli_error(&err);
    if (cli_format(cli) != CLI_PRETTY) {
        cli_print_value(cli, row);
        return CLI_OK;
    }
    (void)ast_json_bool(ast_json_member(row, "unsafe_admin"), &unsafe); /* absent: no */
    printf("Group:        %s\nType:         %s\n", cli->words[0], type_of(row));
    if (ast_json_string(ast_json_member(row, "description"), &text)) {
        fputs("Description:  ", stdout);
        cli_print_text(stdout, text);
        putchar('\n');
    }
    if (unsafe)
        puts("Unsafe admin: yes");
    const struct ast_json *caps = ast_json_member(row, "capabilities");
    struct ast_json_iter it = AST_JSON_ITER(caps);
    puts(ast_json_count(caps) ? "Capabilities:" : "Capabilities: none");
    while (ast_json_next(&it, &unused, &one))
        if (ast_json_string(one, &text)) {
            fputs("    + ", stdout);
            cli_print_text(stdout, text);
            putchar('\n');
        }
    return CLI_OK;
}

/* ---- changes ---- */

int cmd_group_create(struct cli *cli)
{
    const char *text = cli_value(cli, "description");
    struct cli_pieces it = { 0 };
    struct ast_err err = AST_ERR_INIT;
    struct ast_str piece;
    struct cli_admin a;

    if (!cli_next_piece(cli, "caps", &it, &piece)) {
        (void)ast_fail(
            &err, AST_E_INVALID,
            "a group needs capabilities: give --caps, as in --caps system:status,agent:list");
        return cli_error(&err);
    }
    cli_admin_begin(&a, "GroupCreate");
    ast_jw_kv_string(&a.w, "name", ast_str_c(cli->words[0]));
    cli_admin_list(&a, cli, "capabilities", "caps");
    ast_jw_key(&a.w, AST_STR("description"));
    if (text)
        ast_jw_string(&a.w, ast_str_c(text));
    else
        ast_jw_null(&a.w);
    ast_jw_kv_bool(&a.w, "unsafe_admin", cli_value(cli, "unsafe-admin") != NULL);
    int status = cli_admin_change(cli, &a, "group.create");
    if (!status)
        cli_success("Created group '%s'", cli->words[0]);
    return status;
}

int cmd_group_delete(struct cli *cli)
{
    struct cli_admin a;
    cli_admin_begin(&a, "GroupDelete");
    ast_jw_kv_string(&a.w, "name", ast_str_c(cli->words[0]));
    int status = cli_admin_change(cli, &a, "group.delete");
    if (!status)
        cli_success("Deleted group '%s'", cli->words[0]);
    return status;
}

static bool is_piece(const struct cli *cli, const char *option, struct ast_str wanted)
{
    struct cli_pieces it = { 0 };
    struct ast_str piece;

    while (cli_next_piece(cli, option, &it, &piece))
        if (ast_str_eq(piece, wanted))
            return true;
    return false;
}

static bool has_cap(const struct ast_json *list, struct ast_str wanted)
{
    struct ast_json_iter it = AST_JSON_ITER(list);
    const struct ast_json *one;
    struct ast_str unused, text;

    while (ast_json_next(&it, &unused, &one))
        if (ast_json_string(one, &text) && ast_str_eq(text, wanted))
            return true;
    return false;
}

/* What is there without what is removed, then what is added and was not there. */
static void write_new_caps(const struct cli *cli, const struct ast_json *group, struct ast_jw *w)
{
    const struct ast_json *present = ast_json_member(group, "capabilities"), *one;
    struct ast_json_iter it = AST_JSON_ITER(present);
    struct cli_pieces added = { 0 };
    struct ast_str unused, text;

    ast_jw_array(w);
    while (ast_json_next(&it, &unused, &one))
        if (ast_json_string(one, &text) && !is_piece(cli, "remove-caps", text))
            ast_jw_string(w, text);
    while (cli_next_piece(cli, "add-caps", &added, &text))
        if (!has_cap(present, text) || is_piece(cli, "remove-caps", text))
            ast_jw_string(w, text);
    ast_jw_end(w);
}

static void warn_of_strangers(const struct cli *cli, const struct ast_json *group)
{
    struct cli_pieces it = { 0 };
    struct ast_str piece;

    while (cli_next_piece(cli, "remove-caps", &it, &piece))
        if (!has_cap(ast_json_member(group, "capabilities"), piece))
            cli_warning("group '%s' does not hold '" AST_STR_FMT "'", cli->words[0],
                        AST_STR_ARG(piece));
}

/* Capabilities are read, changed and written as a whole; without a change to them they are left alone. */
int cmd_group_modify(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    const char *text = cli_value(cli, "description");
    bool caps = cli_value(cli, "add-caps") || cli_value(cli, "remove-caps");
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *row;
    struct cli_admin a;

    if (!caps && !text) {
        fputs("nothing to do: give --add-caps, --remove-caps or --description\n", stderr);
        return CLI_FAILED;
    }
    if (find_group(cli, &f, &row, &err))
        return cli_error(&err);
    warn_of_strangers(cli, row);
    cli_admin_begin(&a, "GroupModify");
    ast_jw_kv_string(&a.w, "name", ast_str_c(cli->words[0]));
    ast_jw_key(&a.w, AST_STR("capabilities"));
    if (caps)
        write_new_caps(cli, row, &a.w);
    else
        ast_jw_null(&a.w);
    ast_jw_key(&a.w, AST_STR("description"));
    if (text)
        ast_jw_string(&a.w, ast_str_c(text)); /* an empty one clears */
    else
        ast_jw_null(&a.w);
    ast_jw_kv_null(&a.w, "unsafe_admin");
    int status = cli_admin_change(cli, &a, "group.modify");
    if (!status)
        cli_success("Updated group '%s'", cli->words[0]);
    return status;
}
