/* agent, caps and group: the admin requests of the daemon (spec 08 §5.10 to §5.12). Lists are comma-separated. */
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "cli/daemon.h"

#include "base/banned.h"

#define ADMIN_WAIT_MS 15000
#define REQUEST_MAX   (256u * 1024)
#define OUTPUT_MAX    (8u * 1024 * 1024)

/* ---- asking ---- */

struct ask {
    struct ast_buf body;
    struct ast_jw w;
    char id[AST_UUID_TEXT];
};

/* Opens {"type":..,"request_id":..,"method":..,"params":{ */
static void ask_begin(struct ask *a, const char *method)
{
    struct ast_uuid id = ast_uuid_v4();

    *a = (struct ask){ .body = AST_BUF_INIT(REQUEST_MAX) };
    a->w = (struct ast_jw)AST_JW_INIT(&a->body);
    ast_jw_object(&a->w);
    ast_jw_kv_string(&a->w, "type", AST_STR("raw_json"));
    ast_jw_kv_string(&a->w, "request_id", ast_uuid_format(&id, a->id));
    ast_jw_kv_string(&a->w, "method", ast_str_c(method));
    ast_jw_key(&a->w, AST_STR("params"));
    ast_jw_object(&a->w);
}

static void ask_list(struct ask *a, const char *key, const char *text)
{
    struct ast_str rest = ast_str_c(text), piece;
    bool more = true;

    ast_jw_key(&a->w, ast_str_c(key));
    ast_jw_array(&a->w);
    while (rest.n && ast_str_split(&rest, &more, ',', &piece))
        ast_jw_string(&a->w, ast_str_trim(piece));
    ast_jw_end(&a->w);
}

static enum ast_rc wait_for_answer(struct ask *a, struct ast_uplink_client *c, struct ast_str topic,
                                   struct ast_uplink_frame *ret, struct ast_err *err)
{
    int64_t deadline = ast_mono_ns() + ADMIN_WAIT_MS * AST_NS_PER_MS;

    for (;;) {
        AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
        int64_t left = (deadline - ast_mono_ns()) / AST_NS_PER_MS;
        if (left <= 0)
            return ast_fail(err, AST_E_TIMEOUT,
                            "Admin request timed out after 15s waiting for " AST_STR_FMT,
                            AST_STR_ARG(topic));
        enum ast_rc rc = ast_uplink_recv(c, left, &f, err);
        if (rc)
            return rc;
        if (ast_str_eq(f.topic, topic) &&
            ast_str_eq(ast_json_str_or(f.payload, AST_STR("request_id"), AST_STR_NONE),
                       ast_str_c(a->id))) {
            *ret = f;
            f = (struct ast_uplink_frame){ 0 };
            return AST_OK;
        }
    }
}

/* Sends and frees the request; *ret is the answer's data, borrowed from `frame`. */
static enum ast_rc ask_send(struct cli *cli, struct ask *a, const char *suffix,
                            struct ast_uplink_frame *frame, const struct ast_json **ret,
                            struct ast_err *err)
{
    AST_AUTO(ast_uplink_disconnect) struct ast_uplink_client *c = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf topic = AST_BUF_INIT(256);
    AST_AUTO(ast_buf_done) struct ast_buf answer = AST_BUF_INIT(256);
    struct ast_principal who;
    struct ast_str text;

    ast_jw_end(&a->w);
    ast_jw_end(&a->w);
    ast_buf_addf(&topic, "astrid.v1.admin.%s", suffix);
    ast_buf_addf(&answer, "astrid.v1.admin.response.%s", suffix);
    enum ast_rc rc = ast_buf_check(&a->body, "request", err);
    if (!rc)
        rc = cli_principal(cli, &who, err);
    if (!rc)
        rc = ast_uplink_connect(&cli->home, &c, err);
    if (!rc)
        rc = ast_uplink_send(c, ast_buf_view(&topic), ast_buf_view(&a->body), &AST_UUID_NIL,
                             ast_principal_str(&who), err);
    if (!rc)
        rc = wait_for_answer(a, c, ast_buf_view(&answer), frame, err);
    ast_buf_done(&a->body);
    if (rc)
        return rc;
    *ret = ast_json_member(frame->payload, "data");
    if (ast_str_is(ast_json_str_or(frame->payload, AST_STR("status"), AST_STR("Error")), "Error"))
        return ast_fail(err, AST_E_DENIED, "kernel rejected request: " AST_STR_FMT,
                        AST_STR_ARG(ast_json_string(*ret, &text) ? text : AST_STR("no reason")));
    return AST_OK;
}

/* A change whose answer is only good news. */
static int ask_done(struct cli *cli, struct ask *a, const char *suffix)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;
    return ask_send(cli, a, suffix, &f, &data, &err) ? cli_error(&err) : CLI_OK;
}

/* ---- tables ---- */

static void print_joined(const struct ast_json *list)
{
    struct ast_json_iter it = AST_JSON_ITER(list);
    const struct ast_json *one;
    struct ast_str unused, text;
    bool first = true;

    while (ast_json_next(&it, &unused, &one))
        if (ast_json_string(one, &text)) {
            printf("%s", first ? "" : ", ");
            cli_print_text(stdout, text);
            first = false;
        }
}

/* All rows, or the one whose `key` is `only`; false when there is none. */
static bool print_rows(struct cli *cli, const struct ast_json *data, struct ast_str key,
                       const char *only, void (*pretty)(const struct ast_json *row))
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(OUTPUT_MAX);
    struct ast_json_iter it = AST_JSON_ITER(data);
    const struct ast_json *row;
    struct ast_str unused;
    bool any = false, json = cli_format(cli) == CLI_JSON;

    if (json && !only)
        (void)ast_json_compact(data, &out); /* checked below */
    while (ast_json_next(&it, &unused, &row)) {
        if (only && !ast_str_eq(ast_json_str_or(row, key, AST_STR_NONE), ast_str_c(only)))
            continue;
        any = true;
        if (!json)
            pretty(row);
        else if (only)
            (void)ast_json_compact(row, &out); /* checked below */
    }
    if (json && out.n && !out.fail)
        cli_print_json(ast_buf_view(&out));
    return any;
}

static void pretty_agent(const struct ast_json *row)
{
    bool enabled = false;
    struct ast_str name = ast_json_str_or(row, AST_STR("principal"), AST_STR("?"));

    (void)ast_json_bool(ast_json_member(row, "enabled"), &enabled); /* absent: shown as disabled */
    printf("%-24.*s %-10s ", AST_STR_ARG(name), enabled ? "enabled" : "disabled");
    print_joined(ast_json_member(row, "groups"));
    putchar('\n');
}

static void pretty_group(const struct ast_json *row)
{
    bool builtin = false;
    struct ast_str name = ast_json_str_or(row, AST_STR("name"), AST_STR("?"));

    (void)ast_json_bool(ast_json_member(row, "builtin"), &builtin); /* absent: a custom one */
    printf("%-16.*s %-10s ", AST_STR_ARG(name), builtin ? "builtin" : "custom");
    print_joined(ast_json_member(row, "capabilities"));
    putchar('\n');
}

static int list_rows(struct cli *cli, const char *method, const char *suffix, const char *key,
                     const char *head, void (*pretty)(const struct ast_json *row))
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;
    const char *only = cli->word_count ? cli->words[0] : NULL;
    struct ask a;

    ask_begin(&a, method);
    if (ask_send(cli, &a, suffix, &f, &data, &err))
        return cli_error(&err);
    if (cli_format(cli) != CLI_JSON)
        puts(head);
    if (!print_rows(cli, data, ast_str_c(key), only, pretty) && only) {
        (void)ast_fail(&err, AST_E_NOT_FOUND, "'%s' not found", only);
        return cli_error(&err);
    }
    return CLI_OK;
}

/* ---- agent ---- */

static int agent_verb(struct cli *cli, const char *method, const char *suffix, const char *said)
{
    struct ask a;
    ask_begin(&a, method);
    ast_jw_kv_string(&a.w, "principal", ast_str_c(cli->words[0]));
    int status = ask_done(cli, &a, suffix);
    if (!status)
        cli_success("%s agent '%s'", said, cli->words[0]);
    return status;
}

int cmd_agent_create(struct cli *cli)
{
    struct ask a;
    ask_begin(&a, "AgentCreate");
    ast_jw_kv_string(&a.w, "name", ast_str_c(cli->words[0]));
    ask_list(&a, "groups", cli_value(cli, "group"));
    int status = ask_done(cli, &a, "agent.create");
    if (!status)
        cli_success("Created agent '%s'", cli->words[0]);
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
    const char *add = cli_value(cli, "add-group"), *remove = cli_value(cli, "remove-group");
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;
    bool changed = false;
    struct ask a;

    if (!add && !remove) {
        fputs("nothing to do: give --add-group or --remove-group\n", stderr);
        return CLI_FAILED;
    }
    ask_begin(&a, "AgentModify");
    ast_jw_kv_string(&a.w, "principal", ast_str_c(cli->words[0]));
    ask_list(&a, "add_groups", add);
    ask_list(&a, "remove_groups", remove);
    if (ask_send(cli, &a, "agent.modify", &f, &data, &err))
        return cli_error(&err);
    (void)ast_json_bool(ast_json_member(data, "changed"), &changed); /* absent: no change */
    if (!changed) {
        cli_info("agent '%s' already in the requested groups (no change)", cli->words[0]);
        return CLI_OK;
    }
    cli_success("Updated agent '%s' groups", cli->words[0]);
    return CLI_OK;
}

int cmd_agent_list(struct cli *cli)
{
    return list_rows(cli, "AgentList", "agent.list", "principal",
                     "AGENT                    STATE      GROUPS", pretty_agent);
}

/* ---- caps ---- */

static int caps_verb(struct cli *cli, bool grant)
{
    struct ask a;
    bool unsafe = grant && cli_value(cli, "unsafe-admin");

    if (grant && !unsafe && strcmp(cli->words[1], "*") == 0) {
        fputs("error: granting '*' confers universal admin; pass --unsafe-admin to confirm\n",
              stderr);
        return CLI_USAGE;
    }
    ask_begin(&a, grant ? "CapsGrant" : "CapsRevoke");
    ast_jw_kv_string(&a.w, "principal", ast_str_c(cli->words[0]));
    ask_list(&a, "capabilities", cli->words[1]);
    if (grant)
        ast_jw_kv_bool(&a.w, "unsafe_admin", unsafe);
    int status = ask_done(cli, &a, grant ? "caps.grant" : "caps.revoke");
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

/* ---- group ---- */

int cmd_group_create(struct cli *cli)
{
    const char *caps = cli_value(cli, "caps"), *text = cli_value(cli, "description");
    struct ask a;

    if (!caps || !*caps) {
        fputs("error: --caps is empty\n", stderr);
        return CLI_FAILED;
    }
    ask_begin(&a, "GroupCreate");
    ast_jw_kv_string(&a.w, "name", ast_str_c(cli->words[0]));
    ask_list(&a, "capabilities", caps);
    if (text)
        ast_jw_kv_string(&a.w, "description", ast_str_c(text));
    ast_jw_kv_bool(&a.w, "unsafe_admin", cli_value(cli, "unsafe-admin") != NULL);
    int status = ask_done(cli, &a, "group.create");
    if (!status)
        cli_success("Created group '%s'", cli->words[0]);
    return status;
}

int cmd_group_delete(struct cli *cli)
{
    struct ask a;
    ask_begin(&a, "GroupDelete");
    ast_jw_kv_string(&a.w, "name", ast_str_c(cli->words[0]));
    int status = ask_done(cli, &a, "group.delete");
    if (!status)
        cli_success("Deleted group '%s'", cli->words[0]);
    return status;
}

int cmd_group_list(struct cli *cli)
{
    return list_rows(cli, "GroupList", "group.list", "name",
                     "GROUP            TYPE       CAPABILITIES", pretty_group);
}
