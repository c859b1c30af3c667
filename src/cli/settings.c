/* Env files: one JSON object of an agent and a capsule, replaced as a whole. What other programs wrote beside our key stays as
 * it is. */
#include "cli/settings.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fs.h"

#include "base/banned.h"

enum ast_rc cli_settings_manifest(const struct ast_home *home, const char *capsule,
                                  struct ast_manifest **ret, struct ast_err *err)
{
    AST_AUTO(ast_cfree)
    char *dir = ast_home_path(home, "home/default/.local/capsules/%s", capsule);

    if (!dir)
        return ast_fail(err, AST_E_NO_MEMORY, "manifest");
    return ast_fs_is_dir(dir) ? ast_manifest_load(dir, ret, err) : AST_OK;
}

bool cli_settings_is_secret(const struct ast_manifest *m, struct ast_str key)
{
    for (size_t i = 0; m && i < m->env_count; i++)
        if (m->env[i].is_secret && ast_str_eq(m->env[i].name, key))
            return true;
    return false;
}

static char *path_of(const struct ast_home *home, struct ast_str agent, const char *file)
{
    return ast_home_path(home, "home/" AST_STR_FMT "/.config/env/%s.env.json", AST_STR_ARG(agent),
                         file);
}

static enum ast_rc read_path(const char *path, struct ast_json_doc **ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(CLI_SETTINGS_MAX);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;

    enum ast_rc rc = ast_fs_read(path, text.max, &text, err);
    if (rc)
        return rc == AST_E_NOT_FOUND ? AST_OK : rc;
    if (!ast_str_trim(ast_buf_view(&text)).n)
        return AST_OK;
    if (ast_json_parse(ast_buf_view(&text), &doc, NULL))
        return ast_fail(err, AST_E_CORRUPT, "%s is not valid JSON", path);
    if (ast_json_type(ast_json_root(doc)) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_CORRUPT, "%s is not a JSON object", path);
    *ret = ast_steal(&doc);
    return AST_OK;
}

enum ast_rc cli_settings_read(const struct ast_home *home, struct ast_str agent, const char *file,
                              struct ast_json_doc **ret, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = path_of(home, agent, file);
    return path ? read_path(path, ret, err) : ast_fail(err, AST_E_NO_MEMORY, "env file");
}

/* The members of `old` without `key`; with it last when `value` is given. Returns how many there are. */
static size_t write_members(const struct ast_json *old, struct ast_str key,
                            const struct ast_str *value, struct ast_buf *out)
{
    struct ast_json_iter it = AST_JSON_ITER(old);
    struct ast_jw w = AST_JW_PRETTY(out);
    const struct ast_json *v;
    struct ast_str name;
    size_t n = 0;

    ast_jw_object(&w);
    while (old && ast_json_next(&it, &name, &v)) {
        if (ast_str_eq(name, key))
            continue;
        ast_jw_key(&w, name);
        ast_jw_value(&w, v);
        n++;
    }
    if (value) {
        ast_jw_key(&w, key);
        ast_jw_string(&w, *value);
        n++;
    }
    ast_jw_end(&w);
    return n;
}

static enum ast_rc write_path(const char *path, struct ast_buf *text, struct ast_err *err)
{
    enum ast_rc rc = ast_buf_check(text, "env file", err);
    return rc ? rc : ast_fs_write_atomic(path, ast_buf_view(text), 0600, AST_FS_SYNC, err);
}

enum ast_rc cli_settings_set(const struct ast_home *home, struct ast_str agent, const char *file,
                             struct ast_str key, struct ast_str value, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = path_of(home, agent, file);
    AST_AUTO(ast_cfree)
    char *dir = ast_home_path(home, "home/" AST_STR_FMT "/.config/env", AST_STR_ARG(agent));
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(CLI_SETTINGS_MAX);

    if (!path || !dir)
        return ast_fail(err, AST_E_NO_MEMORY, "env file");
    enum ast_rc rc = read_path(path, &doc, err);
    if (!rc)
        rc = ast_fs_mkdirs(dir, 0700, err);
    if (rc)
        return rc;
    (void)write_members(doc ? ast_json_root(doc) : NULL, key, &value, &text);
    return write_path(path, &text, err);
}

enum ast_rc cli_settings_delete(const struct ast_home *home, struct ast_str agent, const char *file,
                                struct ast_str key, bool *ret_existed, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = path_of(home, agent, file);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(CLI_SETTINGS_MAX);

    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "env file");
    enum ast_rc rc = read_path(path, &doc, err);
    if (rc)
        return rc;
    const struct ast_json *old = doc ? ast_json_root(doc) : NULL;
    *ret_existed = ast_json_get(old, key) != NULL;
    if (!*ret_existed)
        return AST_OK;
    if (write_members(old, key, NULL, &text))
        return write_path(path, &text, err);
    if (unlink(path) && errno != ENOENT)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "delete '%s'", path);
    return AST_OK;
}
