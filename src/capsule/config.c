/* [env] at load: where each value comes from, and who has to be asked (spec 05 §9, 07 §7).
 *
 * The env file is the truth. differs: values that are not strings are their JSON text; the
 * key-value store is only read when there is no file; a stored secret counts as configured;
 * secrets found in the file move to the secret store.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "capsule/registry_priv.h"
#include "store/kv.h"
#include "store/secrets.h"

#include "base/banned.h"

#define RESERVED       "ASTRID_SOCKET_PATH"
#define ENV_FILE_MAX   (1024u * 1024) /* spec 05 §9.1 */
#define ONBOARDING_MAX (1024u * 1024)

struct resolve {
    struct capsule *c;
    char *path;               /* owned; the env file in use; NULL: none */
    struct ast_json_doc *doc; /* owned; NULL: no file, or one that is ignored */
    const struct ast_json *file;
    struct ast_buf ns; /* "default:capsule:<id>" */
    bool has_plain_secrets;
    struct ast_host_pair *pairs; /* in the capsule's arena */
    size_t n;
    const struct ast_manifest_env **missing; /* in the arena: to be asked */
    size_t missing_n;
};

static void resolve_done(struct resolve *v)
{
    free(v->path);
    ast_json_free(v->doc);
    ast_buf_done(&v->ns);
}
AST_DEFINE_AUTO_VALUE(struct resolve, resolve_done)

static void ignore_file(const struct resolve *v, const char *why)
{
    ast_log_fields(AST_LOG_WARN, CAPSULE_TARGET, "ignoring the env file",
                   AST_F_STR("capsule", v->c->seat->id), AST_F_CSTR("path", v->path),
                   AST_F_CSTR("error", why));
}

static void read_file(struct resolve *v, const char *dir)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(ENV_FILE_MAX);
    const struct ast_capsules *r = v->c->owner;
    struct ast_err err = AST_ERR_INIT;

    v->path = ast_home_path(r->host->home, "home/%s/.config/env/" AST_STR_FMT ".env.json",
                            r->owner.name, AST_STR_ARG(v->c->seat->id));
    if (v->path && !ast_fs_exists(v->path)) {
        free(v->path);
        v->path = ast_fs_join(dir, ".env.json");
    }
    enum ast_rc rc = v->path ? ast_fs_read(v->path, ENV_FILE_MAX, &text, &err) : AST_E_NO_MEMORY;
    if (rc == AST_E_NOT_FOUND)
        return;
    if (!rc)
        rc = ast_json_parse(ast_buf_view(&text), &v->doc, &err);
    if (text.p)
        explicit_bzero(text.p, text.n); /* it may hold secrets */
    if (rc) {
        if (v->path)
            ignore_file(v, err.msg);
        return;
    }
    if (ast_json_type(ast_json_root(v->doc)) != AST_JSON_OBJECT) {
        ignore_file(v, "not a JSON object");
        return;
    }
    v->file = ast_json_root(v->doc);
}

/* The value as config text in the capsule's arena; NULL: absent. */
static bool file_value(struct resolve *v, struct ast_str key, struct ast_str *ret)
{
    const struct ast_json *value = ast_json_get(v->file, key);
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(ENV_FILE_MAX);

    switch (ast_json_type(value)) {
    case AST_JSON_ABSENT:
    case AST_JSON_NULL: return false;
    case AST_JSON_STRING:
        (void)ast_json_string(value, ret); /* the type says so */
        break;
    default:
        if (ast_json_compact(value, &text))
            return false;
        *ret = ast_buf_view(&text);
    }
    *ret = ast_arena_dup(&v->c->memory, *ret);
    return ret->p != NULL;
}

/* *ret_broken: there is a value, but not one that text can show. */
static bool kv_value(struct resolve *v, struct ast_str key, struct ast_str *ret, bool *ret_broken)
{
    AST_AUTO(ast_buf_done) struct ast_buf value = AST_BUF_INIT(AST_KV_MAX_VALUE);
    struct ast_err err = AST_ERR_INIT;
    bool found = false;

    *ret_broken = false;
    if (ast_store_get(v->c->env.host->store, ast_buf_view(&v->ns), key, &value, &found, &err)) {
        ast_log_warn(CAPSULE_TARGET, "ignoring a stored value of '" AST_STR_FMT "': %s",
                     AST_STR_ARG(v->c->seat->id), err.msg);
        return false;
    }
    if (!found)
        return false;
    *ret_broken = !ast_str_is_utf8(ast_buf_view(&value));
    *ret = ast_arena_dup(&v->c->memory, ast_buf_view(&value));
    return !*ret_broken && ret->p;
}

/* --- Secrets ---------------------------------------------------------------------------------- */

static bool secret_in(struct resolve *v, struct ast_str scope, struct ast_str key)
{
    AST_AUTO(ast_buf_done) struct ast_buf value = AST_BUF_INIT(AST_SECRET_FILE_MAX);
    struct ast_err unused = AST_ERR_INIT;
    bool found = false;

    if (ast_secrets_get(v->c->env.host->home->root, scope, v->c->seat->id, key, &value, &found,
                        &unused))
        found = false; /* unreadable: as if absent, spec 05 §10.2 */
    if (value.p)
        explicit_bzero(value.p, value.n);
    return found;
}

static bool secret_in_kv(struct resolve *v, struct ast_str key)
{
    struct ast_str unused;
    bool broken;
    AST_AUTO(ast_buf_done) struct ast_buf name = AST_BUF_INIT(AST_KV_MAX_KEY);

    ast_buf_add(&name, AST_KV_SECRET_PREFIX);
    if (ast_buf_add(&name, key))
        return false;
    return kv_value(v, ast_buf_view(&name), &unused, &broken) || kv_value(v, key, &unused, &broken);
}

/* Moves a plain value from the env file to where get-config looks. */
static bool secret_migrate(struct resolve *v, struct ast_str key)
{
    struct ast_str value = ast_json_str_or(v->file, key, AST_STR_NONE);
    struct ast_err err = AST_ERR_INIT;

    if (!value.n)
        return false;
    if (ast_secrets_set(v->c->env.host->home->root, ast_principal_str(&v->c->owner->owner),
                        v->c->seat->id, key, value, &err)) {
        ast_log_warn(CAPSULE_TARGET,
                     "keep the secret '" AST_STR_FMT "' of '" AST_STR_FMT "' in %s: %s",
                     AST_STR_ARG(key), AST_STR_ARG(v->c->seat->id), v->path, err.msg);
        return true; /* configured, though in the wrong place */
    }
    v->has_plain_secrets = true;
    return true;
}

static bool is_secret_key(const struct ast_manifest *m, struct ast_str key)
{
    for (size_t i = 0; i < m->env_count; i++)
        if (m->env[i].is_secret && ast_str_eq(m->env[i].name, key))
            return true;
    return false;
}

/* The env file again, without the secrets that moved. */
static void rewrite_file(struct resolve *v)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(2 * ENV_FILE_MAX);
    struct ast_json_iter it = AST_JSON_ITER(v->file);
    struct ast_jw w = AST_JW_PRETTY(&text);
    const struct ast_json *value;
    struct ast_err err = AST_ERR_INIT;
    struct ast_str key;

    ast_jw_object(&w);
    while (ast_json_next(&it, &key, &value)) {
        if (is_secret_key(v->c->manifest, key) && ast_json_type(value) == AST_JSON_STRING &&
            secret_in(v, ast_principal_str(&v->c->owner->owner), key))
            continue;
        ast_jw_key(&w, key);
        ast_jw_value(&w, value);
    }
    ast_jw_end(&w);
    enum ast_rc rc = ast_buf_check(&text, "env file", &err);
    if (!rc)
        rc = ast_fs_write_atomic(v->path, ast_buf_view(&text), 0600, AST_FS_SYNC, &err);
    if (rc)
        ast_log_warn(CAPSULE_TARGET, "secrets stay in %s: %s", v->path, err.msg);
    else
        ast_log_info(CAPSULE_TARGET,
                     "moved secrets of '" AST_STR_FMT "' from %s to the secret store",
                     AST_STR_ARG(v->c->seat->id), v->path);
}

/* --- The algorithm of spec 05 §9.2 ------------------------------------------------------------ */

static bool resolve_one(struct resolve *v, const struct ast_manifest_env *e, struct ast_str *ret)
{
    bool broken = false;

    if (v->file) {
        if (file_value(v, e->name, ret))
            return true;
    } else if (kv_value(v, e->name, ret, &broken)) {
        return true;
    }
    if (broken || e->enum_values.n > 1 || !e->has_default)
        return false;
    *ret = e->default_is_null ? AST_STR("") : e->default_text;
    return true;
}

static bool secret_known(struct resolve *v, struct ast_str key)
{
    return secret_in(v, ast_principal_str(&v->c->owner->owner), key) ||
           secret_in(v, AST_SECRET_SCOPE_HOST, key) || secret_migrate(v, key) ||
           (!v->file && secret_in_kv(v, key));
}

static void resolve_all(struct resolve *v)
{
    const struct ast_manifest *m = v->c->manifest;

    for (size_t i = 0; i < m->env_count; i++) {
        const struct ast_manifest_env *e = &m->env[i];
        struct ast_str value = AST_STR("");
        if (ast_str_is(e->name, RESERVED)) {
            ast_log_fields(AST_LOG_WARN, CAPSULE_TARGET, "ignoring a reserved [env] key",
                           AST_F_STR("capsule", v->c->seat->id), AST_F_STR("key", e->name));
            continue;
        }
        if (e->is_secret ? !secret_known(v, e->name) : !resolve_one(v, e, &value)) {
            v->missing[v->missing_n++] = e;
            value = AST_STR("");
        }
        v->pairs[v->n++] = (struct ast_host_pair){ e->name, value };
    }
    if (v->has_plain_secrets)
        rewrite_file(v);
}

/* --- Onboarding (spec 05 §9.3) ---------------------------------------------------------------- */

static void write_type(struct ast_jw *w, const struct ast_manifest_env *e)
{
    if (ast_str_is(e->type, "secret")) {
        ast_jw_string(w, AST_STR("Secret"));
    } else if (ast_str_is(e->type, "array")) {
        ast_jw_string(w, AST_STR("Array"));
    } else if (e->enum_values.n > 1) {
        ast_jw_object(w);
        ast_jw_key(w, AST_STR("Enum"));
        ast_jw_array(w);
        for (size_t i = 0; i < e->enum_values.n; i++)
            ast_jw_string(w, e->enum_values.v[i]);
        ast_jw_end(w);
        ast_jw_end(w);
    } else {
        ast_jw_string(w, AST_STR("Text"));
    }
}

static void write_field(struct ast_jw *w, const struct ast_manifest_env *e)
{
    char prompt[320];
    (void)snprintf(prompt, sizeof prompt, "Please enter value for " AST_STR_FMT,
                   AST_STR_ARG(e->name));

    ast_jw_object(w);
    ast_jw_kv_string(w, "key", e->name);
    ast_jw_kv_string(w, "prompt", e->request.n ? e->request : ast_str_c(prompt));
    if (e->description.n)
        ast_jw_kv_string(w, "description", e->description);
    ast_jw_key(w, AST_STR("field_type"));
    write_type(w, e);
    if (e->has_default && !e->default_is_null)
        ast_jw_kv_string(w, "default", e->default_text);
    else if (!e->has_default && e->enum_values.n == 1)
        ast_jw_kv_string(w, "default", e->enum_values.v[0]);
    if (e->placeholder.n)
        ast_jw_kv_string(w, "placeholder", e->placeholder);
    ast_jw_end(w);
}

static void publish_onboarding(const struct resolve *v)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(ONBOARDING_MAX);
    const struct ast_msg_spec spec = { .topic = AST_STR("astrid.v1.onboarding.required"),
                                       .origin = "wasm_engine" };
    struct ast_jw w = AST_JW_INIT(&text);
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg = NULL;

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("onboarding_required"));
    ast_jw_kv_string(&w, "capsule_id", v->c->seat->id);
    ast_jw_key(&w, AST_STR("fields"));
    ast_jw_array(&w);
    for (size_t i = 0; i < v->missing_n; i++) {
        if (v->missing[i]->is_secret && v->missing[i]->enum_values.n)
            ast_log_fields(
                AST_LOG_WARN, CAPSULE_TARGET, "a secret has no choices, ignoring enum_values",
                AST_F_STR("capsule", v->c->seat->id), AST_F_STR("key", v->missing[i]->name));
        write_field(&w, v->missing[i]);
    }
    ast_jw_end(&w);
    ast_jw_end(&w);
    enum ast_rc rc = ast_buf_check(&text, "onboarding request", &err);
    if (!rc)
        rc = ast_msg_from_json(&spec, ast_buf_view(&text), &msg, &err);
    if (rc)
        ast_log_warn(CAPSULE_TARGET, "nobody is asked to configure '" AST_STR_FMT "': %s",
                     AST_STR_ARG(v->c->seat->id), err.msg);
    else
        (void)ast_bus_publish(v->c->env.host->bus, msg); /* its number is of no use here */
}

/* --- The result ------------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b)
{
    const struct ast_host_pair *x = a, *y = b;
    return ast_str_cmp(x->key, y->key);
}

static enum ast_rc key_lists(struct capsule *c, struct ast_err *err)
{
    const struct ast_manifest *m = c->manifest;
    struct ast_str *declared = ast_arena_array(&c->memory, m->env_count, sizeof *declared);
    struct ast_str *secret = ast_arena_array(&c->memory, m->env_count, sizeof *secret);
    size_t declared_n = 0, secret_n = 0;

    for (size_t i = 0; declared && secret && i < m->env_count; i++) {
        if (m->env[i].is_secret)
            secret[secret_n++] = m->env[i].name;
        else if (!ast_str_is(m->env[i].name, RESERVED))
            declared[declared_n++] = m->env[i].name;
    }
    c->env.declared = declared;
    c->env.declared_count = declared_n;
    c->env.secret_keys = secret;
    c->env.secret_key_count = secret_n;
    return ast_arena_check(&c->memory, err);
}

/* What the host itself puts in. */
static bool add_own(struct resolve *v, const struct ast_host_pair *extra)
{
    struct ast_arena *a = &v->c->memory;
    const struct ast_home *home = v->c->env.host->home;

    if (extra)
        v->pairs[v->n++] = *extra;
    if (v->c->env.is_lifecycle)
        return true;
    struct ast_str path = ast_arena_fmt(a, "%s/" AST_HOME_SOCKET, home->root);
    v->pairs[v->n++] = (struct ast_host_pair){ AST_STR(RESERVED), path };
    return path.p != NULL;
}

enum ast_rc capsule_config_resolve(struct capsule *c, const char *dir,
                                   const struct ast_host_pair *extra, struct ast_err *err)
{
    AST_AUTO(resolve_done) struct resolve v = { .c = c, .ns = AST_BUF_INIT(512) };
    size_t most = c->manifest->env_count + 2;

    v.pairs = ast_arena_array(&c->memory, most, sizeof *v.pairs);
    v.missing = ast_arena_array(&c->memory, most, sizeof *v.missing);
    enum ast_rc rc = key_lists(c, err);
    if (rc)
        return rc;
    if (ast_kv_capsule_ns(ast_principal_str(&c->owner->owner), c->seat->id, &v.ns))
        return ast_buf_check(&v.ns, "namespace", err);
    read_file(&v, dir);
    resolve_all(&v);
    if (!add_own(&v, extra) || ast_arena_check(&c->memory, err))
        return ast_fail(err, AST_E_NO_MEMORY, "configuration");
    qsort(v.pairs, v.n, sizeof *v.pairs, by_key);
    c->env.config = v.pairs;
    c->env.config_count = v.n;
    if (v.missing_n && !c->env.is_lifecycle)
        publish_onboarding(&v);
    return AST_OK;
}
