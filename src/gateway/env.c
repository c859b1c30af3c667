/* Settings of capsules: the schema from a manifest, values into their stores.
 *
 * differs: the kind is `type`, else `env_type`, else text, and what either calls secret is a secret: it never lands in plain
 * JSON (spec 03 §18.1 GAP). Defaults of secrets are not told.
 */
#include "gateway/env_priv.h"

#include "base/fs.h"
#include "base/log.h"
#include "base/toml.h"
#include "store/secrets.h"

#include "base/banned.h"

#define NAME_MAX_BYTES 128u
#define MANIFEST_MAX   1048576u
#define FILE_MAX       1048576u /* what a capsule's overlay reads, spec 05 §9.1 */

bool gw_env_name_valid(struct ast_str s)
{
    if (!s.n || s.n > NAME_MAX_BYTES || ast_str_find(s, AST_STR("..")) != AST_STR_NPOS)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
            c != '.' && c != '_' && c != '-')
            return false;
    }
    return true;
}

enum ast_rc gw_env_manifest(const struct ast_home *home, struct ast_str capsule,
                            struct ast_json_doc **ret, struct ast_err *err)
{
    AST_AUTO(ast_cfree)
    char *path = ast_home_path(home, "home/default/.local/capsules/" AST_STR_FMT "/Capsule.toml",
                               AST_STR_ARG(capsule));
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(MANIFEST_MAX);
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "manifest");
    enum ast_rc rc = ast_fs_read(path, MANIFEST_MAX, &text, err);
    return rc ? rc : ast_toml_parse(ast_buf_view(&text), ret, err);
}

/* --- The schema ---------------------------------------------------------------------------- */

static struct ast_str declared_type(const struct ast_json *table)
{
    struct ast_str older = ast_json_str_or(table, AST_STR("env_type"), AST_STR("text"));
    return ast_json_str_or(table, AST_STR("type"), older);
}

static bool is_secret(const struct ast_json *table)
{
    return ast_str_eq_nocase(declared_type(table), AST_STR("secret")) ||
           ast_str_eq_nocase(ast_json_str_or(table, AST_STR("env_type"), AST_STR_NONE),
                             AST_STR("secret"));
}

static void write_choices(struct ast_jw *w, const struct ast_json *choices)
{
    struct ast_json_iter it = AST_JSON_ITER(choices);
    const struct ast_json *v;
    struct ast_str unused, text;
    bool is_open = false;
    if (ast_json_type(choices) != AST_JSON_ARRAY)
        return;
    while (ast_json_next(&it, &unused, &v)) {
        if (!ast_json_string(v, &text))
            continue;
        if (!is_open) {
            ast_jw_key(w, AST_STR("enum_values"));
            ast_jw_array(w);
        }
        is_open = true;
        ast_jw_string(w, text);
    }
    if (is_open)
        ast_jw_end(w);
}

static void write_field(struct ast_jw *w, const struct ast_json *table)
{
    static const struct ast_str texts[] = { { "description", 11 },
                                            { "request", 7 },
                                            { "placeholder", 11 } };
    const struct ast_json *value = ast_json_member(table, "default");
    struct ast_str text;
    ast_jw_object(w);
    ast_jw_kv_string(w, "type", is_secret(table) ? AST_STR("secret") : declared_type(table));
    for (size_t i = 0; i < AST_ARRAY_LEN(texts); i++) {
        text = ast_json_str_or(table, texts[i], AST_STR_NONE);
        if (!text.n)
            continue;
        ast_jw_key(w, texts[i]);
        ast_jw_string(w, text);
    }
    if (value && !is_secret(table)) {
        ast_jw_key(w, AST_STR("default"));
        ast_jw_value(w, value);
    }
    write_choices(w, ast_json_member(table, "enum_values"));
    ast_jw_end(w);
}

void gw_env_schema(const struct ast_json *manifest, struct ast_str capsule, struct ast_buf *out)
{
    struct ast_json_iter it = AST_JSON_ITER(ast_json_member(manifest, "env"));
    const struct ast_json *table;
    struct ast_str name;
    struct ast_jw w = AST_JW_INIT(out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "capsule_id", capsule);
    ast_jw_key(&w, AST_STR("fields"));
    ast_jw_object(&w);
    if (ast_json_type(it.container) == AST_JSON_OBJECT) {
        while (ast_json_next(&it, &name, &table)) {
            if (ast_json_type(table) != AST_JSON_OBJECT)
                continue;
            ast_jw_key(&w, name);
            write_field(&w, table);
        }
    }
    ast_jw_end(&w);
    ast_jw_end(&w);
}

/* --- One field ----------------------------------------------------------------------------- */

bool gw_env_field(const struct ast_json *manifest, struct ast_str name, struct gw_env_field *ret)
{
    const struct ast_json *table = ast_json_get(ast_json_member(manifest, "env"), name);
    if (ast_json_type(table) != AST_JSON_OBJECT)
        return false;
    struct ast_str type = declared_type(table);
    bool secret = is_secret(table);
    *ret = (struct gw_env_field){
        .kind = secret                                       ? GW_ENV_SECRET
                : ast_str_eq_nocase(type, AST_STR("array"))  ? GW_ENV_ARRAY
                : ast_str_eq_nocase(type, AST_STR("select")) ? GW_ENV_SELECT
                                                             : GW_ENV_TEXT,
        .type = secret ? AST_STR("secret") : type,
        .table = table,
    };
    return true;
}

enum ast_rc gw_env_check(const struct gw_env_field *f, struct ast_str name, struct ast_str value,
                         struct ast_err *err)
{
    const struct ast_json *choices = ast_json_member(f->table, "enum_values"), *v;
    struct ast_json_iter it = AST_JSON_ITER(choices);
    struct ast_str unused, text;
    bool has_choices = false, is_choice = false;
    if (f->kind == GW_ENV_SECRET && !value.n)
        return ast_fail(err, AST_E_INVALID, "secret value must not be empty");
    if (f->kind != GW_ENV_SELECT || ast_json_type(choices) != AST_JSON_ARRAY)
        return AST_OK;
    while (ast_json_next(&it, &unused, &v)) {
        if (!ast_json_string(v, &text))
            continue;
        has_choices = true;
        is_choice = is_choice || ast_str_eq(text, value);
    }
    if (has_choices && !is_choice)
        return ast_fail(err, AST_E_INVALID,
                        "value is none of the choices of field \"" AST_STR_FMT "\"",
                        AST_STR_ARG(name));
    return AST_OK;
}

/* --- The env file -------------------------------------------------------------------------- */

static void write_array(struct ast_jw *w, const struct ast_json *old, struct ast_str value)
{
    ast_jw_array(w);
    if (ast_json_type(old) == AST_JSON_ARRAY) {
        struct ast_json_iter it = AST_JSON_ITER(old);
        const struct ast_json *v;
        struct ast_str unused;
        while (ast_json_next(&it, &unused, &v))
            ast_jw_value(w, v);
    }
    ast_jw_string(w, value);
    ast_jw_end(w);
}

static void write_member(struct ast_jw *w, struct ast_str name, const struct ast_json *old,
                         enum gw_env_kind kind, struct ast_str value)
{
    ast_jw_key(w, name);
    if (kind == GW_ENV_ARRAY)
        write_array(w, old, value);
    else
        ast_jw_string(w, value);
}

static void write_members(struct ast_buf *out, const struct ast_json *old, struct ast_str name,
                          enum gw_env_kind kind, struct ast_str value)
{
    struct ast_json_iter it = AST_JSON_ITER(old);
    const struct ast_json *v, *before = ast_json_get(old, name);
    struct ast_str key;
    bool is_written = false;
    struct ast_jw w = AST_JW_PRETTY(out);
    ast_jw_object(&w);
    while (old && ast_json_next(&it, &key, &v)) {
        if (!ast_str_eq(key, name)) {
            ast_jw_key(&w, key);
            ast_jw_value(&w, v);
        } else if (!is_written) {
            write_member(&w, name, before, kind, value);
            is_written = true;
        }
    }
    if (!is_written)
        write_member(&w, name, before, kind, value);
    ast_jw_end(&w);
}

/* *ret stays NULL when there is no file yet. */
static enum ast_rc read_file(const char *path, struct ast_json_doc **ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(FILE_MAX);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    enum ast_rc rc = ast_fs_read(path, FILE_MAX, &text, err);
    if (rc == AST_E_NOT_FOUND)
        return AST_OK;
    if (rc)
        return rc;
    if (ast_json_parse(ast_buf_view(&text), &doc, err) ||
        ast_json_type(ast_json_root(doc)) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_CORRUPT, "%s is no JSON object", path);
    *ret = ast_steal(&doc);
    return AST_OK;
}

static enum ast_rc store_plain(const struct ast_home *home, struct ast_str principal,
                               struct ast_str capsule, struct ast_str name, enum gw_env_kind kind,
                               struct ast_str value, struct ast_err *err)
{
    AST_AUTO(ast_cfree)
    char *dir = ast_home_path(home, "home/" AST_STR_FMT "/.config/env", AST_STR_ARG(principal));
    AST_AUTO(ast_cfree)
    char *path = dir ? ast_fs_joinf(dir, AST_STR_FMT ".env.json", AST_STR_ARG(capsule)) : NULL;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(FILE_MAX);
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "env file");
    enum ast_rc rc = ast_fs_mkdirs(dir, 0700, err);
    if (!rc)
        rc = read_file(path, &doc, err);
    if (rc)
        return rc;
    const struct ast_json *old = doc ? ast_json_root(doc) : NULL, *before = ast_json_get(old, name);
    if (kind == GW_ENV_ARRAY && before && ast_json_type(before) != AST_JSON_ARRAY)
        ast_log_warn("gateway", "%s: " AST_STR_FMT " was no array, it is replaced by one", path,
                     AST_STR_ARG(name));
    write_members(&text, old, name, kind, value);
    rc = ast_buf_check(&text, "env file", err);
    return rc ? rc : ast_fs_write_atomic(path, ast_buf_view(&text), 0600, AST_FS_SYNC, err);
}

enum ast_rc gw_env_store(const struct ast_home *home, struct ast_str principal,
                         struct ast_str capsule, struct ast_str name, const struct gw_env_field *f,
                         struct ast_str value, struct ast_err *err)
{
    if (f->kind == GW_ENV_SECRET)
        return ast_secrets_set(home->root, principal, capsule, name, value, err);
    return store_plain(home, principal, capsule, name, f->kind, value, err);
}
