/* invite and pair: tokens that turn a key into an agent, or add it to one (spec 08 §5.14, spec 02 §18, §19). */
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "cli/admin.h"
#include "cli/grid.h"
#include "cli/keyring.h"
#include "cli/units.h"
#include "crypto/secret.h"

#include "base/banned.h"

#define DAY_SECS  86400u
#define TOKEN_MAX 256u

/* ---- what both have in common ---- */

static enum ast_rc read_number(const struct cli *cli, const char *option, uint64_t fallback,
                               uint64_t *ret, struct ast_err *err)
{
    const char *text = cli_value(cli, option);

    *ret = fallback;
    if (text && !ast_str_to_u64(ast_str_c(text), ret))
        return ast_fail(err, AST_E_INVALID, "--%s: '%s' is not a number", option, text);
    return AST_OK;
}

/* The word, or a line of standard input for "-". */
static enum ast_rc read_token(const struct cli *cli, char ret[static TOKEN_MAX],
                              struct ast_err *err)
{
    struct ast_buf line = AST_BUF_INIT(TOKEN_MAX);
    struct ast_str given = ast_str_c(cli->words[0]);
    enum ast_rc rc = AST_OK;

    if (ast_str_is(given, "-")) {
        rc = cli_read_hidden("Token", &line, err);
        given = ast_str_trim(ast_buf_view(&line));
    }
    if (!rc && !given.n)
        rc = ast_fail(err, AST_E_INVALID, "the token is empty");
    else if (!rc && !ast_str_to_c(given, ret, TOKEN_MAX))
        rc = ast_fail(err, AST_E_INVALID, "that is too long for a token");
    if (line.p)
        ast_wipe(line.p, line.cap);
    ast_buf_done(&line);
    return rc;
}

/* The key to register: --public-key as it is, or that of --keypair. */
static enum ast_rc read_key(struct cli *cli, struct cli_key *key, struct ast_str *ret,
                            struct ast_err *err)
{
    const char *hex = cli_value(cli, "public-key"), *name = cli_value(cli, "keypair");

    if (hex) {
        *ret = ast_str_c(hex);
        return AST_OK;
    }
    if (!name)
        return ast_fail(err, AST_E_INVALID,
                        "redeem requires either --public-key <hex> or --keypair <name>. Generate "
                        "one with `astrid keypair generate`.");
    enum ast_rc rc = cli_home(cli, err);
    if (!rc)
        rc = cli_key_load(&cli->home, name, key, err);
    if (!rc && !key->public_key[0])
        rc = ast_fail(err, AST_E_CORRUPT, "keypair \"%s\" has no readable public key", name);
    if (!rc)
        *ret = ast_str_c(key->public_key);
    return rc;
}

static bool has_both_keys(const struct cli *cli)
{
    return cli_value(cli, "public-key") && cli_value(cli, "keypair");
}

/* Invite answers have their own words for a shape that is not understood (spec 08 §1.2). */
static enum ast_rc bad_shape(struct ast_err *err, const char *member)
{
    return ast_fail(err, AST_E_PROTOCOL, "unexpected response shape: no %s", member);
}

/* The key's metadata and the context, after a redemption that stands: failures here are only warnings. */
static int keep_redemption(struct cli *cli, struct ast_str principal)
{
    const char *key = cli_value(cli, "keypair");
    struct ast_err err = AST_ERR_INIT;
    struct ast_principal who;

    if (key && cli_key_bind(&cli->home, key, principal, &err))
        cli_warning("the keypair does not remember its agent: %s", err.msg);
    if (!cli_value(cli, "switch")) {
        printf("next step: astrid agent switch " AST_STR_FMT "\n", AST_STR_ARG(principal));
        return CLI_OK;
    }
    enum ast_rc rc = ast_principal_parse(principal, &who, &err);
    if (!rc)
        rc = cli_context_write(cli, &who, &err);
    if (rc)
        return cli_error(&err);
    cli_success("Active agent set to '%s'", who.name);
    return CLI_OK;
}

static const struct ast_principal *nobody_in_particular(void)
{
    static struct ast_principal who; /* the token is what counts */

    return ast_principal_parse(AST_PRINCIPAL_DEFAULT, &who, NULL) ? NULL : &who;
}

static void print_expiry(const struct ast_json *data)
{
    uint64_t at;

    if (ast_json_u64(ast_json_member(data, "expires_at_epoch"), &at))
        printf("expires at unix epoch %llu\n", (unsigned long long)at);
    else
        puts("does not expire");
}

/* ---- invite ---- */

static enum ast_rc ask_invite(struct cli *cli, struct ast_uplink_frame *f,
                              const struct ast_json **ret, struct ast_err *err)
{
    const char *group = cli_value(cli, "group"), *note = cli_value(cli, "metadata");
    uint64_t expires, uses;
    struct cli_admin a;

    enum ast_rc rc = read_number(cli, "expires-secs", DAY_SECS, &expires, err);
    if (!rc)
        rc = read_number(cli, "max-uses", 1, &uses, err);
    if (!rc && uses > UINT32_MAX)
        rc = ast_fail(err, AST_E_INVALID, "--max-uses: %llu is too many", (unsigned long long)uses);
    if (rc)
        return rc;
    cli_admin_begin(&a, "InviteIssue");
    ast_jw_kv_string(&a.w, "group", group ? ast_str_c(group) : AST_STR("agent"));
    ast_jw_kv_u64(&a.w, "expires_secs", expires);
    ast_jw_kv_u64(&a.w, "max_uses", uses);
    if (note)
        ast_jw_kv_string(&a.w, "metadata", ast_str_c(note));
    return cli_admin_send(cli, &a, "invite.issue", "Invite", NULL, f, ret, err);
}

int cmd_invite_issue(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;
    struct ast_str token;
    uint64_t uses = 0;

    enum ast_rc rc = ask_invite(cli, &f, &data, &err);
    if (!rc && !ast_json_string(ast_json_member(data, "token"), &token))
        rc = bad_shape(&err, "token");
    if (rc)
        return cli_error(&err);
    if (cli_value(cli, "raw")) {
        printf(AST_STR_FMT "\n", AST_STR_ARG(token));
        return CLI_OK;
    }
    (void)ast_json_u64(ast_json_member(data, "remaining_uses"), &uses); /* absent: 0 */
    cli_success(
        "issued " AST_STR_FMT " (group: " AST_STR_FMT ", uses: %llu, metadata: " AST_STR_FMT ")",
        AST_STR_ARG(token), AST_STR_ARG(ast_json_str_or(data, AST_STR("group"), AST_STR("?"))),
        (unsigned long long)uses,
        AST_STR_ARG(ast_json_str_or(data, AST_STR("metadata"), AST_STR("-"))));
    print_expiry(data);
    cli_note(
        "It is shown only now. To redeem it: astrid keypair generate --name KEY, then astrid invite redeem <TOKEN> --keypair KEY; or over HTTP: POST /api/auth/redeem");
    return CLI_OK;
}

static enum ast_rc ask_redeem(struct cli *cli, const char *method, const char *suffix,
                              const char *status, struct ast_uplink_frame *f,
                              const struct ast_json **ret, struct ast_err *err)
{
    AST_AUTO(cli_key_done) struct cli_key key = { 0 };
    const char *display = cli_value(cli, "display-name");
    struct ast_str public_key;
    struct cli_admin a;
    char token[TOKEN_MAX];

    enum ast_rc rc = read_key(cli, &key, &public_key, err);
    if (!rc)
        rc = read_token(cli, token, err);
    if (rc)
        return rc;
    cli_admin_begin(&a, method);
    ast_jw_kv_string(&a.w, "token", ast_str_c(token));
    ast_jw_kv_string(&a.w, "public_key", public_key);
    if (display)
        ast_jw_kv_string(&a.w, "display_name", ast_str_c(display));
    return cli_admin_send(cli, &a, suffix, status, nobody_in_particular(), f, ret, err);
}

int cmd_invite_redeem(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;
    struct ast_str who;

    if (has_both_keys(cli))
        return cli_usage(cli, "--public-key and --keypair cannot be used together");
    enum ast_rc rc =
        ask_redeem(cli, "InviteRedeem", "invite.redeem", "InviteRedeemed", &f, &data, &err);
    if (!rc && !ast_json_string(ast_json_member(data, "principal"), &who))
        rc = bad_shape(&err, "principal");
    if (rc)
        return cli_error(&err);
    cli_success(
        "redeemed principal: " AST_STR_FMT " (group: " AST_STR_FMT ", key fp: " AST_STR_FMT ")",
        AST_STR_ARG(who), AST_STR_ARG(ast_json_str_or(data, AST_STR("group"), AST_STR("?"))),
        AST_STR_ARG(ast_json_str_or(data, AST_STR("public_key_fingerprint"), AST_STR("?"))));
    return keep_redemption(cli, who);
}

static void add_invite(struct cli_grid *g, const struct ast_json *row)
{
    uint64_t uses = 0, at, now = ast_wall_secs();
    char text[CLI_UNIT_TEXT];

    (void)ast_json_u64(ast_json_member(row, "remaining_uses"), &uses); /* absent: 0 */
    cli_grid_cell(g, ast_json_str_or(row, AST_STR("token_fingerprint"), AST_STR("?")));
    cli_grid_cell(g, ast_json_str_or(row, AST_STR("group"), AST_STR("?")));
    cli_grid_cellf(g, "%llu", (unsigned long long)uses);
    if (!ast_json_u64(ast_json_member(row, "expires_at_epoch"), &at))
        cli_grid_cell(g, AST_STR("never"));
    else if (at <= now)
        cli_grid_cell(g, AST_STR("expired"));
    else
        cli_grid_cellf(g, "%s", cli_duration_text((at - now) * 1000, text));
    cli_grid_cell(g, ast_json_str_or(row, AST_STR("metadata"), AST_STR_NONE));
}

int cmd_invite_list(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(cli_grid_done)
    struct cli_grid g = { .columns = { { "FINGERPRINT", 64 },
                                       { "GROUP", 15 },
                                       { "USES", 5 },
                                       { "EXPIRES", 10 },
                                       { "LABEL", 5 } } };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data, *row;
    struct ast_str unused;
    struct cli_admin a;

    cli_admin_begin(&a, "InviteList");
    if (cli_admin_send(cli, &a, "invite.list", "InviteList", NULL, &f, &data, &err))
        return cli_error(&err);
    if (cli_format(cli) != CLI_PRETTY) {
        cli_print_value(cli, data);
        return CLI_OK;
    }
    struct ast_json_iter it = AST_JSON_ITER(data);
    while (ast_json_next(&it, &unused, &row))
        add_invite(&g, row);
    if (g.cells.n)
        cli_grid_print(&g);
    else
        puts("no outstanding invites");
    return CLI_OK;
}

int cmd_invite_revoke(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(65536);
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;
    struct cli_admin a;
    char token[TOKEN_MAX];

    if (read_token(cli, token, &err))
        return cli_error(&err);
    cli_admin_begin(&a, "InviteRevoke");
    ast_jw_kv_string(&a.w, "token", ast_str_c(token));
    if (cli_admin_send(cli, &a, "invite.revoke", "Success", NULL, &f, &data, &err))
        return cli_error(&err);
    (void)ast_json_compact(data, &text); /* too long to show: empty */
    cli_success("revoked " AST_STR_FMT, AST_STR_ARG(ast_buf_view(&text)));
    return CLI_OK;
}

/* ---- pair ---- */

static enum ast_rc ask_pair(struct cli *cli, struct ast_uplink_frame *f,
                            const struct ast_json **ret, struct ast_err *err)
{
    const char *label = cli_value(cli, "label");
    struct ast_principal who;
    uint64_t expires;
    struct cli_admin a;

    enum ast_rc rc = cli_agent(cli, &who, err);
    if (!rc)
        rc = read_number(cli, "expires-secs", 300, &expires, err);
    if (rc)
        return rc;
    cli_admin_begin(&a, "PairDeviceIssue");
    ast_jw_kv_u64(&a.w, "expires_secs", expires);
    if (label)
        ast_jw_kv_string(&a.w, "label", ast_str_c(label));
    return cli_admin_send(cli, &a, "auth.pair.issue", "PairToken", &who, f, ret, err);
}

int cmd_pair_issue(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;
    struct ast_str token;

    enum ast_rc rc = ask_pair(cli, &f, &data, &err);
    if (!rc && !ast_json_string(ast_json_member(data, "token"), &token))
        rc = bad_shape(&err, "token");
    if (rc)
        return cli_error(&err);
    if (cli_value(cli, "raw")) {
        printf(AST_STR_FMT "\n", AST_STR_ARG(token));
        return CLI_OK;
    }
    cli_success("issued " AST_STR_FMT " (principal: " AST_STR_FMT ", label: " AST_STR_FMT ")",
                AST_STR_ARG(token),
                AST_STR_ARG(ast_json_str_or(data, AST_STR("principal"), AST_STR("?"))),
                AST_STR_ARG(ast_json_str_or(data, AST_STR("label"), AST_STR("-"))));
    print_expiry(data);
    cli_note(
        "It is shown only now and works once. To redeem it with the device's key: astrid pair redeem <TOKEN> --public-key HEX (or --keypair KEY); or over HTTP: POST /api/auth/pair-device/redeem");
    return CLI_OK;
}

int cmd_pair_redeem(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;
    struct ast_str who;

    if (has_both_keys(cli))
        return cli_usage(cli, "--public-key and --keypair cannot be used together");
    enum ast_rc rc = ask_redeem(cli, "PairDeviceRedeem", "auth.pair.redeem", "PairTokenRedeemed",
                                &f, &data, &err);
    if (!rc && !ast_json_string(ast_json_member(data, "principal"), &who))
        rc = bad_shape(&err, "principal");
    if (rc)
        return cli_error(&err);
    cli_success(
        "paired with principal: " AST_STR_FMT " (key fp: " AST_STR_FMT ")", AST_STR_ARG(who),
        AST_STR_ARG(ast_json_str_or(data, AST_STR("public_key_fingerprint"), AST_STR("?"))));
    return keep_redemption(cli, who);
}
