/* capsule install, list, show, remove (spec 08 §5.18). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "capsule/discover.h"
#include "capsule/install.h"
#include "capsule/meta.h"
#include "cli/ask.h"
#include "cli/daemon.h"
#include "wasm/component.h"

#include "base/banned.h"

#define INSTALL_WAIT_MS 120000

/* ---- install ---- */

static void progress(void *arg, const char *line)
{
    (void)arg;
    cli_note("%s", line);
}

static void print_list(const char *label, const struct ast_strings *list)
{
    for (size_t i = 0; i < list->n; i++)
        printf("    %s " AST_STR_FMT "\n", label, AST_STR_ARG(list->v[i]));
}

/* What the operator has just let in: what it may do, what it still needs. */
static void print_manifest_notes(const struct ast_manifest *m)
{
    struct ast_str held[11];
    size_t n = ast_manifest_held(m, held);

    for (size_t i = 0; i < m->warnings.n; i++)
        cli_warning(AST_STR_FMT, AST_STR_ARG(m->warnings.v[i]));
    if (n)
        puts("  It asks for:");
    for (size_t i = 0; i < n; i++)
        printf("    " AST_STR_FMT "\n", AST_STR_ARG(held[i]));
    print_list("net", &m->caps.net);
    print_list("run", &m->caps.host_process);
    print_list("read", &m->caps.fs_read);
    print_list("write", &m->caps.fs_write);
}

static void print_missing_settings(const char *env_path, const struct ast_manifest *m)
{
    bool first = true;

    for (size_t i = 0; i < m->env_count; i++) {
        if (m->env[i].has_default)
            continue;
        if (first)
            printf("  Settings it needs (%s):\n", env_path);
        first = false;
        printf("    " AST_STR_FMT "%s" AST_STR_FMT "\n", AST_STR_ARG(m->env[i].name),
               m->env[i].request.n ? ": " : "", AST_STR_ARG(m->env[i].request));
    }
}

static int finish_install(struct cli *cli, const char *target_dir, const char *version,
                          const char *previous, const char *env_path, bool loaded)
{
    AST_AUTO(ast_manifest_free) struct ast_manifest *m = NULL;
    struct ast_err err = AST_ERR_INIT;

    (void)cli;
    if (ast_manifest_load(target_dir, &m, &err))
        return cli_error(&err);
    if (previous)
        cli_success("Upgraded " AST_STR_FMT " %s -> %s%s", AST_STR_ARG(m->name), previous, version,
                    loaded ? "; the daemon runs the new version" : "");
    else
        cli_success("Installed " AST_STR_FMT " %s%s", AST_STR_ARG(m->name), version,
                    loaded ? "; the daemon has loaded it" : "");
    print_manifest_notes(m);
    print_missing_settings(env_path, m);
    return CLI_OK;
}

/* What the capsule's install hook asks. */
static enum ast_rc answer_question(void *arg, const struct ast_uplink_frame *f, struct ast_err *err)
{
    bool taken;
    return cli_ask_answer(arg, f->payload, &taken, err);
}

/* Through the daemon: it runs install hooks and loads the capsule at once. */
static int install_by_daemon(struct cli *cli, const char *source)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf request = AST_BUF_INIT(65536);
    AST_AUTO(ast_cfree) char *path = realpath(source, NULL);
    struct ast_uplink_client *c = NULL;
    const struct ast_json *data;
    struct ast_err err = AST_ERR_INIT;
    struct ast_jw w = AST_JW_INIT(&request);

    if (!path) {
        (void)ast_fail(&err, AST_E_NOT_FOUND, "source path does not exist: %s", source);
        return cli_error(&err);
    }
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "method", AST_STR("InstallCapsule"));
    ast_jw_key(&w, AST_STR("params"));
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "source", ast_str_c(path));
    ast_jw_kv_bool(&w, "workspace", false);
    ast_jw_end(&w);
    ast_jw_end(&w);
    cli_note("installing through the running daemon");
    struct cli_ask ask = { .source = ast_uuid_v4(),
                           .approvals = cli->yes ? CLI_ASK_APPROVE : CLI_ASK_PERSON,
                           .reads_answers = true,
                           .because = cli->yes ? "install --yes" : "no terminal to ask on" };
    enum ast_rc rc = cli_principal(cli, &ask.who, &err);
    if (!rc)
        rc = ast_uplink_connect(&cli->home, &c, &err);
    if (!rc) {
        ask.client = c;
        ast_uplink_on_other(c, answer_question, &ask);
        rc = cli_request(cli, c, "install_capsule", ast_buf_view(&request), INSTALL_WAIT_MS, &f,
                         &data, &err);
    }
    ast_uplink_disconnect(c);
    if (rc)
        return cli_error(&err);
    struct ast_str previous = ast_json_str_or(data, AST_STR("previous_version"), AST_STR_NONE);
    return finish_install(cli, ast_json_str_or(data, AST_STR("target_dir"), AST_STR("")).p,
                          ast_json_str_or(data, AST_STR("installed_version"), AST_STR("?")).p,
                          previous.n ? previous.p : NULL,
                          ast_json_str_or(data, AST_STR("env_path"), AST_STR("")).p, true);
}

static int install_here(struct cli *cli, const char *source, bool workspace)
{
    AST_AUTO(ast_install_result_done) struct ast_install_result r = { 0 };
    AST_AUTO(ast_cfree) char *cwd = workspace ? getcwd(NULL, 0) : NULL;
    struct ast_install_options opt = { .workspace = cwd, .progress = progress };
    struct ast_err err = AST_ERR_INIT;

    if (ast_install(&cli->home, source, &opt, &r, &err))
        return cli_error(&err);
    for (size_t i = 0; i < r.missing_import_count; i++)
        cli_warning("it needs the interface " AST_STR_FMT "/" AST_STR_FMT " " AST_STR_FMT
                    ", which no installed capsule offers",
                    AST_STR_ARG(r.missing_imports[i].ns), AST_STR_ARG(r.missing_imports[i].name),
                    AST_STR_ARG(r.missing_imports[i].version));
    return finish_install(cli, r.target_dir, r.installed_version, r.previous_version, r.env_path,
                          false);
}

int cmd_capsule_install(struct cli *cli)
{
    struct ast_str source = ast_str_c(cli->words[0]);
    bool workspace = cli_value(cli, "workspace") != NULL;
    struct ast_err err = AST_ERR_INIT;

    if (cli_home(cli, &err))
        return cli_error(&err);
    if (source.n &&
        (source.p[0] == '@' || ast_str_find(source, AST_STR("github.com/")) != AST_STR_NPOS)) {
        (void)ast_fail(
            &err, AST_E_UNSUPPORTED,
            "installing from a registry is not available in this build: download the .capsule archive and install "
            "that file");
        return cli_error(&err);
    }
    if (!workspace && cli_daemon_probe(cli, &err) == CLI_DAEMON_UP)
        return install_by_daemon(cli, source.p);
    return install_here(cli, source.p, workspace);
}

/* ---- list, show ---- */

static enum ast_rc discover(struct cli *cli, struct ast_discovery *ret, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *cwd = getcwd(NULL, 0);
    enum ast_rc rc = cli_home(cli, err);
    return rc ? rc : ast_discover(&cli->home, cwd, ret, err);
}

static int cmp_name(const void *a, const void *b)
{
    return ast_str_cmp(((const struct ast_discovered *)a)->manifest->name,
                       ((const struct ast_discovered *)b)->manifest->name);
}

int cmd_capsule_list(struct cli *cli)
{
    AST_AUTO(ast_discovery_done) struct ast_discovery d = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(8u * 1024 * 1024);
    struct ast_err err = AST_ERR_INIT;
    struct ast_jw w = AST_JW_INIT(&out);

    if (discover(cli, &d, &err))
        return cli_error(&err);
    if (d.n)
        qsort(d.v, d.n, sizeof *d.v, cmp_name);
    bool json = cli_format(cli) != CLI_PRETTY;
    ast_jw_array(&w);
    for (size_t i = 0; i < d.n; i++) {
        const struct ast_manifest *m = d.v[i].manifest;
        struct ast_str level = ast_str_starts(ast_str_c(d.v[i].dir), ast_str_c(cli->home.root))
                                   ? AST_STR("user")
                                   : AST_STR("workspace");
        if (!json) {
            printf(AST_STR_FMT " " AST_STR_FMT " [" AST_STR_FMT "] exports: %zu, imports: %zu\n",
                   AST_STR_ARG(m->name), AST_STR_ARG(m->version), AST_STR_ARG(level),
                   m->export_count, m->import_count);
            if (cli->verbose && m->description.n)
                printf("  " AST_STR_FMT "\n  %s\n", AST_STR_ARG(m->description), d.v[i].dir);
            continue;
        }
        ast_jw_object(&w);
        ast_jw_kv_string(&w, "name", m->name);
        ast_jw_kv_string(&w, "version", m->version);
        ast_jw_kv_string(&w, "level", level);
        ast_jw_kv_string(&w, "description", m->description);
        ast_jw_kv_string(&w, "dir", ast_str_c(d.v[i].dir));
        ast_jw_end(&w);
    }
    ast_jw_end(&w);
    if (json)
        cli_print(cli, ast_buf_view(&out));
    else if (d.n == 0)
        cli_info("No capsules are installed. `astrid capsule install <path>` installs one.");
    return CLI_OK;
}

static const struct ast_discovered *find(const struct ast_discovery *d, struct ast_str name)
{
    for (size_t i = 0; i < d->n; i++)
        if (ast_str_eq(d->v[i].manifest->name, name))
            return &d->v[i];
    return NULL;
}

static void write_manifest(struct ast_jw *w, const char *dir)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "Capsule.toml");
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(1024u * 1024);

    ast_jw_key(w, AST_STR("manifest"));
    if (path && !ast_fs_read(path, text.max, &text, NULL))
        ast_jw_string(w, ast_buf_view(&text));
    else
        ast_jw_null(w);
}

int cmd_capsule_show(struct cli *cli)
{
    AST_AUTO(ast_discovery_done) struct ast_discovery d = { 0 };
    AST_AUTO(ast_meta_free) struct ast_meta *meta = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(8u * 1024 * 1024);
    struct ast_err err = AST_ERR_INIT;
    struct ast_jw w = AST_JW_INIT(&out);

    if (discover(cli, &d, &err))
        return cli_error(&err);
    const struct ast_discovered *c = find(&d, ast_str_c(cli->words[0]));
    if (!c) {
        (void)ast_fail(&err, AST_E_NOT_FOUND, "Capsule '%s' is not installed.", cli->words[0]);
        return cli_error(&err);
    }
    if (ast_meta_load(c->dir, &meta, &err))
        return cli_error(&err);
    struct ast_str source = meta->source.n ? meta->source : AST_STR("unknown");
    if (cli_format(cli) != CLI_PRETTY) {
        ast_jw_object(&w);
        ast_jw_kv_string(&w, "name", c->manifest->name);
        ast_jw_kv_string(&w, "version", meta->version);
        ast_jw_kv_string(&w, "source", source);
        ast_jw_kv_string(&w, "wasm_hash", meta->wasm_hash);
        ast_jw_kv_string(&w, "installed_at", meta->installed_at);
        ast_jw_kv_string(&w, "updated_at", meta->updated_at);
        write_manifest(&w, c->dir);
        ast_jw_end(&w);
        cli_print(cli, ast_buf_view(&out));
        return CLI_OK;
    }
    printf(AST_STR_FMT " " AST_STR_FMT "\n  " AST_STR_FMT "\n  source:    " AST_STR_FMT
                       "\n  hash:      " AST_STR_FMT "\n  installed: " AST_STR_FMT
                       "\n  updated:   " AST_STR_FMT "\n",
           AST_STR_ARG(c->manifest->name), AST_STR_ARG(meta->version),
           AST_STR_ARG(c->manifest->description), AST_STR_ARG(source), AST_STR_ARG(meta->wasm_hash),
           AST_STR_ARG(meta->installed_at), AST_STR_ARG(meta->updated_at));
    print_manifest_notes(c->manifest);
    return CLI_OK;
}

/* ---- remove ---- */

/* The capsule that needs an interface only `m` offers; NULL when nobody does. */
static const struct ast_manifest *sole_provider_for(
    const struct ast_discovery *d, const struct ast_manifest *m,
    const struct ast_manifest_interface **ret_interface)
{
    for (size_t e = 0; e < m->export_count; e++) {
        size_t providers = 0;
        for (size_t i = 0; i < d->n; i++)
            for (size_t k = 0; k < d->v[i].manifest->export_count; k++)
                providers += ast_str_eq(d->v[i].manifest->exports[k].ns, m->exports[e].ns) &&
                             ast_str_eq(d->v[i].manifest->exports[k].name, m->exports[e].name);
        for (size_t i = 0; i < d->n && providers == 1; i++) {
            const struct ast_manifest *other = d->v[i].manifest;
            for (size_t k = 0; k < other->import_count && other != m; k++) {
                if (other->imports[k].optional ||
                    !ast_str_eq(other->imports[k].ns, m->exports[e].ns) ||
                    !ast_str_eq(other->imports[k].name, m->exports[e].name))
                    continue;
                *ret_interface = &m->exports[e];
                return other;
            }
        }
    }
    return NULL;
}

/* A load pass: the daemon lets go of what is gone. */
static void unload_by_daemon(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_uplink_client *c = NULL;
    const struct ast_json *data;
    struct ast_err err = AST_ERR_INIT;

    enum ast_rc rc = ast_uplink_connect(&cli->home, &c, &err);
    if (!rc)
        rc = cli_request(cli, c, "reload_capsules", AST_STR("{\"method\":\"ReloadCapsules\"}"),
                         INSTALL_WAIT_MS, &f, &data, &err);
    ast_uplink_disconnect(c);
    if (rc)
        cli_warning("the running daemon was not told: %s", err.msg);
    else
        cli_info("The running daemon has unloaded it.");
}

int cmd_capsule_remove(struct cli *cli)
{
    AST_AUTO(ast_discovery_done) struct ast_discovery d = { 0 };
    AST_AUTO(ast_cfree) char *cwd = getcwd(NULL, 0);
    const struct ast_manifest_interface *interface;
    struct ast_err err = AST_ERR_INIT;

    if (discover(cli, &d, &err))
        return cli_error(&err);
    const struct ast_discovered *c = find(&d, ast_str_c(cli->words[0]));
    bool in_workspace = c && cwd && ast_str_starts(ast_str_c(c->dir), ast_str_c(cwd)) &&
                        !ast_str_starts(ast_str_c(c->dir), ast_str_c(cli->home.root));
    if (!c || in_workspace != (cli_value(cli, "workspace") != NULL)) {
        (void)ast_fail(&err, AST_E_NOT_FOUND, "Capsule '%s' is not installed.", cli->words[0]);
        return cli_error(&err);
    }
    const struct ast_manifest *needs =
        cli_value(cli, "force") ? NULL : sole_provider_for(&d, c->manifest, &interface);
    if (needs) {
        (void)ast_fail(&err, AST_E_CONFLICT,
                       "Cannot remove '%s': it is the sole provider of '" AST_STR_FMT
                       "/" AST_STR_FMT "' which is required by '" AST_STR_FMT
                       "'. Use --force to override.",
                       cli->words[0], AST_STR_ARG(interface->ns), AST_STR_ARG(interface->name),
                       AST_STR_ARG(needs->name));
        return cli_error(&err);
    }
    if (ast_fs_remove_tree(c->dir, &err))
        return cli_error(&err);
    if (cli_value(cli, "purge")) {
        AST_AUTO(ast_cfree)
        char *env =
            ast_home_path(&cli->home, "home/default/.config/env/%s.env.json", cli->words[0]);
        if (env && unlink(env) && errno != ENOENT)
            cli_warning("could not delete %s", env);
    }
    cli_success("Removed %s", cli->words[0]);
    if (cli_daemon_probe(cli, &err) == CLI_DAEMON_UP)
        unload_by_daemon(cli);
    return CLI_OK;
}
