/* Distro.toml as JSON. A value of the wrong type counts as absent; the default of a secret is nobody's business.
 */
#include "gateway/distro_priv.h"

#include <stdlib.h>

#include "base/fs.h"
#include "base/json.h"
#include "base/toml.h"
#include "base/vec.h"

#include "base/banned.h"

#define DISTRO_MAX 1048576u
#define BODY_MAX   8388608u

void gw_distro_done(struct gw_distro *d)
{
    ast_buf_done(&d->info);
    ast_buf_done(&d->onboarding);
}

static void string_or_null(struct ast_jw *w, struct ast_str key, const struct ast_json *v)
{
    struct ast_str s;
    ast_jw_key(w, key);
    if (ast_json_string(v, &s))
        ast_jw_string(w, s);
    else
        ast_jw_null(w);
}

static void write_info(struct ast_buf *out, const struct ast_json *root)
{
    const struct ast_json *distro = ast_json_member(root, "distro");
    const struct ast_json *issuers = ast_json_member(ast_json_member(root, "invites"), "issuers");
    const struct ast_json *branding = ast_json_member(root, "branding");
    struct ast_jw w = AST_JW_INIT(out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "id",
                     ast_json_str_or(distro, AST_STR("id"),
                                     root ? AST_STR("unknown") : AST_STR("single-tenant")));
    ast_jw_kv_string(&w, "name", ast_json_str_or(distro, AST_STR("name"), AST_STR("Astrid")));
    string_or_null(&w, AST_STR("pretty_name"), ast_json_member(distro, "pretty-name"));
    string_or_null(&w, AST_STR("description"), ast_json_member(distro, "description"));
    string_or_null(&w, AST_STR("homepage"), ast_json_member(distro, "homepage"));
    ast_jw_kv_bool(&w, "invites_enabled",
                   ast_json_type(issuers) == AST_JSON_ARRAY && ast_json_count(issuers) > 0);
    ast_jw_key(&w, AST_STR("branding"));
    if (branding)
        ast_jw_value(&w, branding);
    else
        ast_jw_null(&w);
    ast_jw_end(&w);
}

static int by_name(const void *a, const void *b)
{
    return ast_str_cmp(*(const struct ast_str *)a, *(const struct ast_str *)b);
}

static void write_variable(struct ast_jw *w, struct ast_str key, const struct ast_json *table)
{
    bool secret = false;
    (void)ast_json_bool(ast_json_member(table, "secret"), &secret); /* absent: not secret */
    ast_jw_object(w);
    ast_jw_kv_string(w, "key", key);
    ast_jw_kv_bool(w, "secret", secret);
    string_or_null(w, AST_STR("description"), ast_json_member(table, "description"));
    /* differs: null for secrets (spec 03 §20 GAP) */
    string_or_null(w, AST_STR("default"), secret ? NULL : ast_json_member(table, "default"));
    ast_jw_end(w);
}

static enum ast_rc write_onboarding(struct ast_buf *out, const struct ast_json *root,
                                    struct ast_err *err)
{
    const struct ast_json *variables = ast_json_member(root, "variables"), *v;
    struct ast_json_iter it = AST_JSON_ITER(variables);
    AST_VEC(struct ast_str) names = { 0 };
    struct ast_str name;
    bool complete = true;
    while (ast_json_type(variables) == AST_JSON_OBJECT && complete && ast_json_next(&it, &name, &v))
        if (ast_json_type(v) == AST_JSON_OBJECT)
            complete = ast_vec_push(&names, name);
    if (names.n > 1)
        qsort(names.v, names.n, sizeof *names.v, by_name);
    struct ast_jw w = AST_JW_INIT(out);
    ast_jw_object(&w);
    ast_jw_key(&w, AST_STR("fields"));
    ast_jw_array(&w);
    ast_vec_each (&names, one)
        write_variable(&w, *one, ast_json_get(variables, *one));
    ast_jw_end(&w);
    ast_jw_end(&w);
    ast_vec_done(&names);
    return complete ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "onboarding fields");
}

static enum ast_rc read_distro(struct ast_str path, struct ast_json_doc **ret, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *name = ast_str_dup(path);
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(DISTRO_MAX);
    if (!name)
        return ast_fail(err, AST_E_NO_MEMORY, "distribution");
    enum ast_rc rc = ast_fs_read(name, DISTRO_MAX, &text, err);
    if (!rc)
        rc = ast_toml_parse(ast_buf_view(&text), ret, err);
    if (rc)
        return ast_wrap(err, rc, "distribution %s", name);
    if (ast_json_type(ast_json_member(ast_json_root(*ret), "distro")) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "distribution %s: no [distro] table", name);
    return AST_OK;
}

enum ast_rc gw_distro_load(struct ast_str path, struct gw_distro *ret, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(gw_distro_done)
    struct gw_distro d = { AST_BUF_INIT(BODY_MAX), AST_BUF_INIT(BODY_MAX) };
    enum ast_rc rc = path.n ? read_distro(path, &doc, err) : AST_OK;
    if (rc)
        return rc;
    const struct ast_json *root = doc ? ast_json_root(doc) : NULL;
    write_info(&d.info, root);
    rc = write_onboarding(&d.onboarding, root, err);
    if (!rc)
        rc = ast_buf_check(&d.info, "distribution", err);
    if (!rc)
        rc = ast_buf_check(&d.onboarding, "onboarding fields", err);
    if (rc)
        return rc;
    *ret = d;
    d = (struct gw_distro){ AST_BUF_INIT(0), AST_BUF_INIT(0) };
    return AST_OK;
}
