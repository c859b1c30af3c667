/* What a new principal finds: nothing of a predecessor, and the settings of `default` that capsules declare. Conversations and
 * other rows of `default` are not handed on (spec README §5 gaps 24, 25). */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "crypto/token.h"
#include "kernel/admin_priv.h"
#include "store/kv.h"
#include "store/secrets.h"

#include "base/banned.h"

#define REMOVED_DIR  "var/removed"
#define ENV_FILE_MAX (1024u * 1024)

/* ---- remains ---- */

static enum ast_rc set_aside(const struct ast_home *home, const char *from, const char *kind,
                             struct ast_str name, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *dir = ast_home_path(home, REMOVED_DIR);
    AST_AUTO(ast_cfree)
    char *to = ast_home_path(home, REMOVED_DIR "/%s-" AST_STR_FMT "-%lld", kind, AST_STR_ARG(name),
                             (long long)ast_wall_ns());
    if (!dir || !to)
        return ast_fail(err, AST_E_NO_MEMORY, "home");
    enum ast_rc rc = ast_fs_mkdirs(dir, 0700, err);
    if (!rc && rename(from, to))
        rc = ast_fail_errno(err, AST_E_IO, errno, "set %s aside", from);
    if (!rc)
        ast_log_info(KERNEL_TARGET, "what a deleted principal left was set aside: %s", to);
    return rc;
}

static bool found_one(void *arg, struct ast_str ns, struct ast_str key, struct ast_str value)
{
    (void)ns;
    (void)key;
    (void)value;
    *(bool *)arg = true;
    return false;
}

static enum ast_rc purge_rows(struct ast_kernel *k, struct ast_str name, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf prefix = AST_BUF_INIT(256);
    struct ast_kv_op op = { .kind = AST_KV_PURGE, .ns = name };
    bool any = false;

    ast_buf_addf(&prefix, AST_STR_FMT ":capsule:", AST_STR_ARG(name));
    enum ast_rc rc = ast_buf_check(&prefix, "namespace", err);
    if (!rc)
        rc = ast_store_each(k->store, ast_buf_view(&prefix), found_one, &any, err);
    if (rc || !any)
        return rc;
    rc = ast_kv_prepare(&op, /* guest= */ false, err);
    return rc ? rc : ast_store_run(k->store, &op.op, err);
}

enum ast_rc admin_clear_remains(struct ast_kernel *k, struct ast_str name, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *home = ast_home_path(k->home, "home/" AST_STR_FMT, AST_STR_ARG(name));
    AST_AUTO(ast_cfree)
    char *secrets = ast_home_path(k->home, "secrets/" AST_STR_FMT, AST_STR_ARG(name));
    if (!home || !secrets)
        return ast_fail(err, AST_E_NO_MEMORY, "home");
    enum ast_rc rc = AST_OK;
    if (ast_fs_is_dir(home))
        rc = set_aside(k->home, home, "home", name, err);
    if (!rc && ast_fs_is_dir(secrets))
        rc = set_aside(k->home, secrets, "secrets", name, err);
    if (!rc)
        rc = purge_rows(k, name, err);
    return rc ? ast_wrap(err, rc, "principal home tree provisioning failed (rolled back)") : AST_OK;
}

/* ---- settings ---- */

static void told(enum ast_rc rc, struct ast_str principal, struct ast_str what,
                 const struct ast_err *err)
{
    if (rc)
        ast_log_fields(AST_LOG_WARN, KERNEL_TARGET, "a setting was not copied to a new principal",
                       AST_F_STR("principal", principal), AST_F_STR("setting", what),
                       AST_F_CSTR("error", err->msg));
}

static enum ast_rc copy_file(const char *from, const char *to, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(ENV_FILE_MAX);
    enum ast_rc rc = ast_fs_read(from, ENV_FILE_MAX, &text, err);
    return rc ? rc : ast_fs_write_atomic(to, ast_buf_view(&text), 0600, 0, err);
}

static void copy_env_files(struct ast_kernel *k, struct ast_str principal)
{
    AST_AUTO(ast_cfree) char *from = ast_home_path(k->home, "home/default/.config/env");
    AST_AUTO(ast_cfree)
    char *to = ast_home_path(k->home, "home/" AST_STR_FMT "/.config/env", AST_STR_ARG(principal));
    DIR *d = from && to ? opendir(from) : NULL;
    const struct dirent *e;

    while (d && (e = readdir(d))) {
        AST_AUTO(ast_cfree) char *source = ast_fs_join(from, e->d_name);
        AST_AUTO(ast_cfree) char *target = ast_fs_join(to, e->d_name);
        struct ast_err err = AST_ERR_INIT;
        if (e->d_name[0] == '.' || (e->d_type != DT_REG && e->d_type != DT_UNKNOWN))
            continue;
        enum ast_rc rc = source && target ? copy_file(source, target, &err)
                                          : ast_fail(&err, AST_E_NO_MEMORY, "copy");
        told(rc, principal, ast_str_c(e->d_name), &err);
    }
    if (d)
        closedir(d);
}

static enum ast_rc copy_secret(struct ast_kernel *k, struct ast_str principal, struct ast_str id,
                               struct ast_str key, struct ast_err *err)
{
    struct ast_buf value = AST_BUF_INIT(AST_SECRET_FILE_MAX);
    bool found = false;
    enum ast_rc rc =
        ast_secrets_get(k->home->root, AST_PRINCIPAL_DEFAULT, id, key, &value, &found, err);
    if (!rc && found)
        rc = ast_secrets_set(k->home->root, principal, id, key, ast_buf_view(&value), err);
    if (value.p)
        ast_wipe(value.p, value.cap);
    ast_buf_done(&value);
    return rc;
}

/* One row of `default` for all of them. */
struct row_copy {
    struct ast_buf value, *spaces; /* a namespace for each principal */
    struct ast_kv_op *kv;
    struct ast_store_op **ops;
    size_t n;
};

static enum ast_rc read_row(struct ast_kernel *k, struct ast_str id, struct ast_str key,
                            struct ast_buf *value, bool *ret_found, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf from = AST_BUF_INIT(AST_STORE_MAX_NS);
    enum ast_rc rc = ast_kv_capsule_ns(AST_PRINCIPAL_DEFAULT, id, &from);
    if (rc)
        return ast_fail(err, rc, "namespace");
    return ast_kv_get(k->store, ast_buf_view(&from), key, /* guest= */ false, value, ret_found,
                      err);
}

static void write_rows(struct ast_kernel *k, const struct ast_str *principals, struct row_copy *c,
                       struct ast_str id, struct ast_str key)
{
    size_t ready = 0;

    for (size_t i = 0; i < c->n; i++) {
        struct ast_err err = AST_ERR_INIT;
        c->spaces[i] = (struct ast_buf)AST_BUF_INIT(AST_STORE_MAX_NS);
        enum ast_rc rc = ast_kv_capsule_ns(principals[i], id, &c->spaces[i]);
        c->kv[i] = (struct ast_kv_op){ .kind = AST_KV_SET,
                                       .ns = ast_buf_view(&c->spaces[i]),
                                       .key = key,
                                       .value = ast_buf_view(&c->value) };
        rc = rc ? ast_fail(&err, rc, "namespace") : ast_kv_prepare(&c->kv[i], false, &err);
        told(rc, principals[i], key, &err);
        if (!rc)
            c->ops[ready++] = &c->kv[i].op;
    }
    ast_store_run_many(k->store, c->ops, ready);
    for (size_t i = 0; i < c->n; i++) {
        told(c->kv[i].op.rc, principals[i], key, &c->kv[i].op.err);
        ast_buf_done(&c->spaces[i]);
    }
}

static void copy_row(struct ast_kernel *k, const struct ast_str *principals, size_t n,
                     struct ast_str id, struct ast_str key)
{
    struct row_copy c = { .value = AST_BUF_INIT(AST_KV_MAX_VALUE), .n = n };
    struct ast_err err = AST_ERR_INIT;
    bool found = false;
    enum ast_rc rc = read_row(k, id, key, &c.value, &found, &err);

    if (!rc && found) {
        c.spaces = calloc(n, sizeof *c.spaces);
        c.kv = calloc(n, sizeof *c.kv);
        c.ops = calloc(n, sizeof(struct ast_store_op *));
        if (c.spaces && c.kv && c.ops)
            write_rows(k, principals, &c, id, key);
        else
            rc = ast_fail(&err, AST_E_NO_MEMORY, "copy");
    }
    told(rc, principals[0], key, &err);
    ast_buf_done(&c.value);
    free(c.spaces);
    free(c.kv);
    free(c.ops);
}

/* What one capsule declares; gathered during the visit, copied after it: copying blocks. */
struct declared {
    struct ast_strings ids, keys; /* pairwise */
    AST_VEC(bool) secret;
};

static bool gather(void *arg, const struct ast_capsule_row *row)
{
    struct declared *d = arg;

    for (size_t i = 0; i < row->manifest->env_count; i++) {
        const struct ast_manifest_env *env = &row->manifest->env[i];
        if (!ast_vec_push(&d->secret, env->is_secret))
            return false;
        if (!ast_strings_add(&d->ids, row->id) || !ast_strings_add(&d->keys, env->name))
            return false;
    }
    return true;
}

void admin_seed(struct ast_kernel *k, const struct ast_str *principals, size_t n)
{
    struct declared d = { 0 };

    if (!n)
        return;
    ast_capsules_each(k->capsules, gather, &d);
    for (size_t p = 0; p < n; p++)
        copy_env_files(k, principals[p]);
    for (size_t i = 0; i < d.keys.n; i++) {
        copy_row(k, principals, n, d.ids.v[i], d.keys.v[i]);
        for (size_t p = 0; d.secret.v[i] && p < n; p++) {
            struct ast_err err = AST_ERR_INIT;
            told(copy_secret(k, principals[p], d.ids.v[i], d.keys.v[i], &err), principals[p],
                 d.keys.v[i], &err);
        }
    }
    ast_strings_done(&d.ids);
    ast_strings_done(&d.keys);
    ast_vec_done(&d.secret);
}
