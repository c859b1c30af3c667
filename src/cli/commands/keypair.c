/* keypair: the keys of this machine (spec 08 §5.15). No daemon is needed. */
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/fs.h"
#include "base/time.h"
#include "cli/grid.h"
#include "cli/keyring.h"
#include "crypto/secret.h"

#include "cli/cli.h"

#include "base/banned.h"

int cmd_keypair_generate(struct cli *cli)
{
    AST_AUTO(cli_key_done) struct cli_key k = { 0 };
    const char *name = cli_value(cli, "name");
    struct ast_err err = AST_ERR_INIT;
    char digits[9], made_up[16];
    uint8_t random[4];

    if (!name) {
        ast_random(random, sizeof random);
        ast_hex_encode(random, sizeof random, digits);
        (void)snprintf(made_up, sizeof made_up, "key-%s", digits);
        name = made_up;
    }
    enum ast_rc rc = cli_home(cli, &err);
    if (!rc)
        rc = cli_key_generate(&cli->home, name, cli_value(cli, "note"),
                              cli_value(cli, "force") != NULL, &k, &err);
    if (rc)
        return cli_error(&err);
    if (cli_value(cli, "raw")) {
        puts(k.public_key);
        return CLI_OK;
    }
    AST_AUTO(ast_cfree) char *path = cli_key_path(&cli->home, k.name, CLI_KEY_SEED);
    cli_success("Generated keypair '%s'", k.name);
    printf("  public key:  %s\n  fingerprint: %s\n  private key: %s\n", k.public_key, k.fingerprint,
           path ? path : "?");
    return CLI_OK;
}

static void warn_of_bad(const struct ast_err *why)
{
    cli_warning("left out: %s", why->msg);
}

static void write_optional(struct ast_jw *w, struct ast_str key, const char *value)
{
    ast_jw_key(w, key);
    if (value)
        ast_jw_string(w, ast_str_c(value));
    else
        ast_jw_null(w);
}

static void write_key(struct ast_jw *w, const struct cli_key *k)
{
    ast_jw_object(w);
    ast_jw_kv_string(w, "name", ast_str_c(k->name));
    ast_jw_kv_string(w, "fingerprint", ast_str_c(k->fingerprint));
    ast_jw_kv_u64(w, "created_at_epoch", k->created_at_epoch);
    ast_jw_kv_string(w, "backend", ast_str_c(k->backend));
    write_optional(w, AST_STR("note"), k->note);
    write_optional(w, AST_STR("bound_principal"), k->bound_principal);
    ast_jw_end(w);
}

/* "2026-11-24" */
static const char *day_of(const struct cli_key *k, char out[static 11])
{
    if (k->created_at_epoch > INT64_MAX / AST_NS_PER_SEC)
        return "?";
    ast_time_date((int64_t)k->created_at_epoch * AST_NS_PER_SEC, out);
    return out;
}

static void print_keys(const struct cli_keys *all)
{
    AST_AUTO(cli_grid_done)
    struct cli_grid g = { .columns = { { "NAME", 16 },
                                       { "FINGERPRINT", 16 },
                                       { "CREATED", 10 },
                                       { "AGENT", 16 },
                                       { "NOTE", 4 } } };
    char day[11];

    ast_vec_each (&all->keys, k) {
        cli_grid_cell(&g, ast_str_c(k->name));
        cli_grid_cell(&g, ast_str_first(ast_str_c(k->fingerprint), 16));
        cli_grid_cell(&g, ast_str_c(day_of(k, day)));
        cli_grid_cell(&g, ast_str_c(k->bound_principal));
        cli_grid_cell(&g, ast_str_c(k->note));
    }
    cli_grid_print(&g);
}

int cmd_keypair_list(struct cli *cli)
{
    AST_AUTO(cli_keys_done) struct cli_keys all = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(CLI_OUTPUT_MAX);
    struct ast_jw w = AST_JW_INIT(&out);
    struct ast_err err = AST_ERR_INIT;

    enum ast_rc rc = cli_home(cli, &err);
    if (!rc)
        rc = cli_key_list(&cli->home, warn_of_bad, &all, &err);
    if (rc)
        return cli_error(&err);
    if (cli_format(cli) != CLI_PRETTY) {
        ast_jw_array(&w);
        ast_vec_each (&all.keys, k)
            write_key(&w, k);
        ast_jw_end(&w);
        cli_print(cli, ast_buf_view(&out));
    } else if (all.keys.n) {
        print_keys(&all);
    } else {
        cli_info("No keypairs. `astrid keypair generate` makes one.");
    }
    return CLI_OK;
}

/* The key that the command names. */
static enum ast_rc load_key(struct cli *cli, struct cli_key *ret, struct ast_err *err)
{
    enum ast_rc rc = cli_home(cli, err);
    return rc ? rc : cli_key_load(&cli->home, cli->words[0], ret, err);
}

static void print_line(const char *key, const char *value)
{
    printf("%s: ", key);
    cli_print_text(stdout, ast_str_c(value));
    putchar('\n');
}

int cmd_keypair_show(struct cli *cli)
{
    AST_AUTO(cli_key_done) struct cli_key k = { 0 };
    struct ast_err err = AST_ERR_INIT;

    if (load_key(cli, &k, &err))
        return cli_error(&err);
    AST_AUTO(ast_cfree) char *path = cli_key_path(&cli->home, k.name, CLI_KEY_SEED);
    print_line("name", k.name);
    print_line("fingerprint", k.fingerprint);
    print_line("public key (hex)", k.public_key[0] ? k.public_key : "<missing>");
    print_line("private key", path ? path : "?");
    printf("created_at_epoch: %llu\n", (unsigned long long)k.created_at_epoch);
    print_line("backend", k.backend);
    if (k.note)
        print_line("note", k.note);
    if (k.bound_principal)
        print_line("bound_principal", k.bound_principal);
    return CLI_OK;
}

static void add_field(struct ast_buf *out, struct ast_str bytes)
{
    for (int shift = 24; shift >= 0; shift -= 8)
        ast_buf_add_byte(out, (char)(bytes.n >> shift & 0xff));
    ast_buf_add(out, bytes);
}

/* "ssh-ed25519 <base64 of two length-prefixed fields>"; 51 bytes need no padding. */
static enum ast_rc print_openssh(const struct cli_key *k, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf blob = AST_BUF_INIT(256);
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(512);
    uint8_t key[32];

    if (!ast_hex_decode(ast_str_c(k->public_key), key, sizeof key))
        return ast_fail(err, AST_E_CORRUPT, "keypair \"%s\" has no readable public key", k->name);
    add_field(&blob, AST_STR("ssh-ed25519"));
    add_field(&blob, ast_str_n(key, sizeof key));
    enum ast_rc rc = ast_buf_check(&blob, "key", err);
    if (!rc && ast_base64url_encode(ast_buf_view(&blob), &text))
        rc = ast_buf_check(&text, "key", err);
    if (rc)
        return rc;
    for (size_t i = 0; i < text.n; i++)
        text.p[i] = text.p[i] == '-' ? '+' : text.p[i] == '_' ? '/' : text.p[i];
    printf("ssh-ed25519 " AST_STR_FMT "\n", AST_STR_ARG(ast_buf_view(&text)));
    return AST_OK;
}

int cmd_keypair_pubkey(struct cli *cli)
{
    AST_AUTO(cli_key_done) struct cli_key k = { 0 };
    const char *format = cli_value(cli, "format");
    bool openssh = format && strcmp(format, "openssh") == 0;
    struct ast_err err = AST_ERR_INIT;

    if (format && !openssh && strcmp(format, "hex") != 0)
        return cli_usage(cli, "invalid value '%s' for '--format <F>': hex or openssh", format);
    enum ast_rc rc = load_key(cli, &k, &err);
    if (!rc && !k.public_key[0])
        rc = ast_fail(&err, AST_E_CORRUPT, "keypair \"%s\" has no readable public key", k.name);
    if (!rc && openssh)
        rc = print_openssh(&k, &err);
    else if (!rc)
        puts(k.public_key);
    return rc ? cli_error(&err) : CLI_OK;
}

int cmd_keypair_delete(struct cli *cli)
{
    struct ast_err err = AST_ERR_INIT;

    if (!cli_value(cli, "yes") && !cli->yes) {
        cli_warning("deleting keypair '%s' cannot be undone: who has no other key loses the agent. "
                    "Pass --yes to delete it.",
                    cli->words[0]);
        return CLI_FAILED;
    }
    enum ast_rc rc = cli_home(cli, &err);
    if (!rc)
        rc = cli_key_delete(&cli->home, cli->words[0], &err);
    if (rc)
        return cli_error(&err);
    cli_success("Deleted keypair '%s'", cli->words[0]);
    return CLI_OK;
}
