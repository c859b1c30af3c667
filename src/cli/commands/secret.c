/* secret: settings of capsules, declared secrets in the secret store (spec 08 §5.16). No daemon is needed; values are never
 * shown. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/vec.h"
#include "cli/cli.h"
#include "cli/grid.h"
#include "cli/settings.h"
#include "crypto/secret.h"
#include "store/secrets.h"

#include "base/banned.h"

#define ENDING ".env.json"

/* What set and delete are about. */
struct target {
    struct ast_principal agent;
    const char *capsule; /* NULL: none given */
    struct ast_str key;
    struct ast_manifest *manifest; /* owned; NULL: not installed */
    bool is_secret;
};

static void target_done(struct target *t)
{
    ast_manifest_free(t->manifest);
}
AST_DEFINE_AUTO_VALUE(struct target, target_done)

static const char *file_of(const struct target *t)
{
    return t->capsule ? t->capsule : "default";
}

static enum ast_rc read_target(struct cli *cli, struct target *t, struct ast_err *err)
{
    t->capsule = cli_value(cli, "capsule");
    t->key = ast_str_c(cli->words[0]);
    if (!t->key.n)
        return ast_fail(err, AST_E_INVALID, "invalid key: must not be empty");
    enum ast_rc rc = cli_agent(cli, &t->agent, err);
    if (!rc && t->capsule)
        rc = ast_capsule_id_check(ast_str_c(t->capsule), err);
    if (!rc)
        rc = cli_home(cli, err);
    if (!rc && t->capsule)
        rc = cli_settings_manifest(&cli->home, t->capsule, &t->manifest, err);
    t->is_secret = cli_settings_is_secret(t->manifest, t->key);
    return rc;
}

/* ---- set ---- */

static enum ast_rc read_value(const struct cli *cli, struct ast_buf *out, struct ast_err *err)
{
    if (cli->word_count < 2 || strcmp(cli->words[1], "-") == 0)
        return cli_read_hidden("Value", out, err);
    ast_buf_add(out, ast_str_c(cli->words[1]));
    return ast_buf_check(out, "value", err);
}

static enum ast_rc check_scope(const struct target *t, const char *scope, struct ast_err *err)
{
    if (scope && !t->capsule)
        return ast_fail(err, AST_E_INVALID, "--scope requires --capsule (whose secret it is)");
    if (scope && !t->is_secret)
        return ast_fail(err, AST_E_INVALID,
                        "--scope requires the capsule manifest to declare '" AST_STR_FMT
                        "' as type=\"secret\" (capsule %s%s)",
                        AST_STR_ARG(t->key), t->capsule,
                        t->manifest ? " does not" : " is not installed");
    return AST_OK;
}

static enum ast_rc store_value(const struct cli *cli, const struct target *t, bool shared,
                               struct ast_str value, struct ast_err *err)
{
    struct ast_str agent = ast_principal_str(&t->agent);

    if (!t->is_secret)
        return cli_settings_set(&cli->home, agent, file_of(t), t->key, value, err);
    return ast_secrets_set(cli->home.root, shared ? AST_SECRET_SCOPE_HOST : agent,
                           ast_str_c(t->capsule), t->key, value, err);
}

int cmd_secret_set(struct cli *cli)
{
    AST_AUTO(target_done) struct target t = { 0 };
    struct ast_buf value = AST_BUF_INIT(CLI_SETTINGS_MAX);
    const char *scope = cli_value(cli, "scope");
    struct ast_err err = AST_ERR_INIT;
    bool shared = scope && strcmp(scope, "shared") == 0;

    if (scope && !shared && strcmp(scope, "agent") != 0)
        return cli_usage(cli, "invalid value '%s' for '--scope <S>': agent or shared", scope);
    enum ast_rc rc = read_target(cli, &t, &err);
    if (!rc)
        rc = check_scope(&t, scope, &err);
    if (!rc)
        rc = read_value(cli, &value, &err);
    if (!rc)
        rc = store_value(cli, &t, shared, ast_buf_view(&value), &err);
    if (value.p)
        ast_wipe(value.p, value.cap);
    ast_buf_done(&value);
    if (rc)
        return cli_error(&err);
    if (t.is_secret)
        cli_success("Stored secret '%s' of %s for %s", cli->words[0], t.capsule,
                    shared ? "every agent" : t.agent.name);
    else
        cli_success("Stored '%s' in the settings of %s for %s", cli->words[0], file_of(&t),
                    t.agent.name);
    if (!t.is_secret && t.capsule && !t.manifest)
        cli_warning(
            "capsule %s is not installed: nothing says that '%s' is a secret, so it lies in "
            "plain text",
            t.capsule, cli->words[0]);
    return CLI_OK;
}

/* ---- list ---- */

struct row {
    char *capsule, *key; /* owned */
    const char *storage, *scope;
};

struct rows {
    AST_VEC(struct row) v;
    bool failed; /* out of memory */
};

static void rows_done(struct rows *r)
{
    ast_vec_each (&r->v, row) {
        free(row->capsule);
        free(row->key);
    }
    ast_vec_done(&r->v);
}
AST_DEFINE_AUTO_VALUE(struct rows, rows_done)

static void add_row(struct rows *r, const char *capsule, struct ast_str key, const char *storage,
                    const char *scope)
{
    struct row row = { ast_str_dup(ast_str_c(capsule)), ast_str_dup(key), storage, scope };

    if (row.capsule && row.key && ast_vec_push(&r->v, row))
        return;
    free(row.capsule);
    free(row.key);
    r->failed = true;
}

static int by_capsule_and_key(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    int order = strcmp(x->capsule, y->capsule);
    if (!order)
        order = strcmp(x->key, y->key);
    return order ? order : strcmp(x->scope ? x->scope : "", y->scope ? y->scope : "");
}

/* Calls `each` with every name in the folder that is a capsule's, the ending cut off. No folder: none. */
static void each_name(const char *dir, struct ast_str ending,
                      void (*each)(void *arg, const char *capsule), void *arg)
{
    DIR *d = dir ? opendir(dir) : NULL;
    char text[256];

    for (struct dirent *e; d && (e = readdir(d));) {
        struct ast_str name = ast_str_c(e->d_name);
        if (!ast_str_ends(name, ending) ||
            !ast_str_to_c(ast_str_first(name, name.n - ending.n), text, sizeof text) ||
            !ast_capsule_id_valid(ast_str_c(text)))
            continue;
        each(arg, text);
    }
    if (d)
        closedir(d);
}

struct listing {
    struct cli *cli;
    struct ast_principal agent;
    struct rows rows;
};

/* A manifest that cannot be read declares nothing, and is told. */
static struct ast_manifest *manifest_or_tell(struct cli *cli, const char *capsule)
{
    struct ast_manifest *m = NULL;
    struct ast_err err = AST_ERR_INIT;

    if (cli_settings_manifest(&cli->home, capsule, &m, &err))
        cli_warning("%s", err.msg);
    return m;
}

static void list_env_file(void *arg, const char *capsule)
{
    struct listing *l = arg;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_manifest_free) struct ast_manifest *m = manifest_or_tell(l->cli, capsule);
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *v;
    struct ast_str key;

    if (cli_settings_read(&l->cli->home, ast_principal_str(&l->agent), capsule, &doc, &err)) {
        cli_warning("left out: %s", err.msg);
        return;
    }
    struct ast_json_iter it = AST_JSON_ITER(doc ? ast_json_root(doc) : NULL);
    while (doc && ast_json_next(&it, &key, &v))
        add_row(&l->rows, capsule, key,
                cli_settings_is_secret(m, key) ? "env-json-legacy" : "env-json", NULL);
}

static void probe_secret(struct listing *l, const char *capsule, struct ast_str key,
                         struct ast_str scope, const char *word)
{
    if (!key.n || key.p[0] == '.' || ast_str_find_byte(key, '/') != AST_STR_NPOS)
        return; /* the store has no such names */
    AST_AUTO(ast_cfree)
    char *path = ast_home_path(&l->cli->home, "secrets/" AST_STR_FMT "/%s/" AST_STR_FMT,
                               AST_STR_ARG(scope), capsule, AST_STR_ARG(key));
    if (!path)
        l->rows.failed = true;
    else if (ast_fs_exists(path))
        add_row(&l->rows, capsule, key, "file", word);
}

static void list_secrets(void *arg, const char *capsule)
{
    struct listing *l = arg;
    AST_AUTO(ast_manifest_free) struct ast_manifest *m = manifest_or_tell(l->cli, capsule);

    for (size_t i = 0; m && i < m->env_count; i++) {
        if (!m->env[i].is_secret)
            continue;
        probe_secret(l, capsule, m->env[i].name, ast_principal_str(&l->agent), "agent");
        probe_secret(l, capsule, m->env[i].name, AST_SECRET_SCOPE_HOST, "shared");
    }
}

static void print_rows(struct cli *cli, const struct rows *r)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(CLI_OUTPUT_MAX);
    AST_AUTO(cli_grid_done)
    struct cli_grid g = {
        .columns = { { "CAPSULE", 24 }, { "KEY", 24 }, { "STORAGE", 16 }, { "SCOPE", 5 } }
    };
    struct ast_jw w = AST_JW_INIT(&out);

    ast_jw_array(&w);
    ast_vec_each (&r->v, row) {
        ast_jw_object(&w);
        ast_jw_kv_string(&w, "capsule", ast_str_c(row->capsule));
        ast_jw_kv_string(&w, "key", ast_str_c(row->key));
        ast_jw_kv_string(&w, "storage", ast_str_c(row->storage));
        if (row->scope)
            ast_jw_kv_string(&w, "scope", ast_str_c(row->scope));
        ast_jw_end(&w);
        cli_grid_cell(&g, ast_str_c(row->capsule));
        cli_grid_cell(&g, ast_str_c(row->key));
        cli_grid_cell(&g, ast_str_c(row->storage));
        cli_grid_cell(&g, ast_str_c(row->scope));
    }
    ast_jw_end(&w);
    if (cli_format(cli) != CLI_PRETTY)
        cli_print(cli, ast_buf_view(&out));
    else if (r->v.n)
        cli_grid_print(&g);
    else
        cli_info("No settings or secrets.");
}

int cmd_secret_list(struct cli *cli)
{
    struct listing l = { .cli = cli };
    struct ast_err err = AST_ERR_INIT;

    enum ast_rc rc = cli_agent(cli, &l.agent, &err);
    if (!rc)
        rc = cli_home(cli, &err);
    if (!rc) {
        AST_AUTO(ast_cfree)
        char *env = ast_home_path(&cli->home, "home/%s/.config/env", l.agent.name);
        AST_AUTO(ast_cfree)
        char *capsules = ast_home_path(&cli->home, "home/default/.local/capsules");
        each_name(env, AST_STR(ENDING), list_env_file, &l);
        each_name(capsules, AST_STR(""), list_secrets, &l);
        if (!env || !capsules || l.rows.failed)
            rc = ast_fail(&err, AST_E_NO_MEMORY, "secrets");
    }
    if (!rc) {
        if (l.rows.v.n)
            qsort(l.rows.v.v, l.rows.v.n, sizeof *l.rows.v.v, by_capsule_and_key);
        print_rows(cli, &l.rows);
    }
    rows_done(&l.rows);
    return rc ? cli_error(&err) : CLI_OK;
}

/* ---- delete ---- */

/* From the store in both scopes, then from the env file. */
static enum ast_rc delete_everywhere(const struct cli *cli, const struct target *t, bool *ret_any,
                                     struct ast_err *err)
{
    struct ast_str agent = ast_principal_str(&t->agent);
    struct ast_str scopes[] = { agent, AST_SECRET_SCOPE_HOST };
    bool existed = false;
    enum ast_rc rc = AST_OK;

    for (size_t i = 0; !rc && t->is_secret && i < AST_ARRAY_LEN(scopes); i++) {
        rc = ast_secrets_delete(cli->home.root, scopes[i], ast_str_c(t->capsule), t->key, &existed,
                                err);
        *ret_any |= !rc && existed;
    }
    if (!rc)
        rc = cli_settings_delete(&cli->home, agent, file_of(t), t->key, &existed, err);
    *ret_any |= !rc && existed;
    return rc;
}

int cmd_secret_delete(struct cli *cli)
{
    AST_AUTO(target_done) struct target t = { 0 };
    struct ast_err err = AST_ERR_INIT;
    bool any = false;

    enum ast_rc rc = read_target(cli, &t, &err);
    if (!rc)
        rc = delete_everywhere(cli, &t, &any, &err);
    if (rc)
        return cli_error(&err);
    if (!any) {
        cli_warning("'%s' not set", cli->words[0]);
        return CLI_FAILED;
    }
    cli_success("Deleted '%s' of %s", cli->words[0], file_of(&t));
    return CLI_OK;
}
