/* The home tree: one table says which directories exist from the first start. */
#include "base/home.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fs.h"

#include "base/banned.h"

#define HOME_MODE 0700

/* Rows E of spec 01 §2.2. */
static const char *const home_dirs[] = { "etc",  "etc/hooks", "var", "run", "log",
                                         "keys", "bin",       "wit", "home" };

/* Rows P, below home/<principal>; the first level is made private, the rest lies below it. */
static const char *const principal_dirs[] = {
    ".local",        ".local/capsules", ".local/kv", ".local/log",  ".local/audit",
    ".local/tokens", ".local/tmp",      ".config",   ".config/env",
};

static bool has_dot_dot(struct ast_str path)
{
    struct ast_str rest = path, piece;
    bool more = true;

    while (ast_str_split(&rest, &more, '/', &piece))
        if (ast_str_is(piece, ".."))
            return true;
    return false;
}

static enum ast_rc check_root(const char *variable, struct ast_str root, struct ast_err *err)
{
    if (root.n == 0 || root.p[0] != '/')
        return ast_fail(err, AST_E_INVALID, "%s must be an absolute path", variable);
    if (has_dot_dot(root))
        return ast_fail(err, AST_E_INVALID, "%s must not contain '..' path components", variable);
    return AST_OK;
}

/* A value that is not UTF-8 counts as unset (spec 01 §2.1). */
static const char *variable_get(const char *name)
{
    const char *value = getenv(name);
    return value && ast_str_is_utf8(ast_str_c(value)) ? value : NULL;
}

enum ast_rc ast_home_resolve(struct ast_home *ret, struct ast_err *err)
{
    const char *own = variable_get("ASTRID_HOME");
    const char *user = variable_get("HOME");
    enum ast_rc rc;

    if (own) {
        rc = check_root("ASTRID_HOME", ast_str_c(own), err);
        return rc ? rc : ast_home_at(own, ret, err);
    }
    if (!user)
        return ast_fail(err, AST_E_INVALID,
                        "neither ASTRID_HOME nor HOME environment variable is set");
    rc = check_root("HOME", ast_str_c(user), err);
    if (rc)
        return rc;
    AST_AUTO(ast_cfree) char *root = ast_fs_join(user, ".astrid");
    if (!root)
        return ast_fail(err, AST_E_NO_MEMORY, "home");
    return ast_home_at(root, ret, err);
}

enum ast_rc ast_home_at(const char *root, struct ast_home *ret, struct ast_err *err)
{
    enum ast_rc rc = check_root("home", ast_str_c(root), err);
    if (rc)
        return rc;
    char *copy = ast_str_dup(ast_str_c(root));
    if (!copy)
        return ast_fail(err, AST_E_NO_MEMORY, "home");
    ret->root = copy;
    return AST_OK;
}

void ast_home_done(struct ast_home *h)
{
    free(h->root);
    h->root = NULL;
}

char *ast_home_path(const struct ast_home *h, const char *fmt, ...)
{
    char *tail = NULL;
    va_list ap;

    va_start(ap, fmt);
    int n = vasprintf(&tail, fmt, ap);
    va_end(ap);
    if (n < 0)
        return NULL;
    char *path = ast_fs_join(h->root, tail);
    free(tail);
    return path;
}

/* Existing directories are narrowed too: an earlier install may have left 0755. */
static enum ast_rc make_private(const char *path, struct ast_err *err)
{
    enum ast_rc rc = ast_fs_mkdirs(path, HOME_MODE, err);
    if (rc)
        return rc;
    if (chmod(path, HOME_MODE))
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "make %s private", path);
    return AST_OK;
}

static enum ast_rc make_below(int base, const char *base_path, const char *name,
                              struct ast_err *err)
{
    struct stat st;
    int failed = mkdirat(base, name, HOME_MODE) ? errno : 0;

    /* Asked for any error: on a read-only file system mkdir says EROFS before it says EEXIST. */
    if (fstatat(base, name, &st, 0))
        return ast_fail_errno(err, ast_rc_from_errno(failed), failed, "create directory '%s/%s'",
                              base_path, name);
    if (!S_ISDIR(st.st_mode))
        return ast_fail(err, AST_E_EXISTS, "'%s/%s' exists and is not a directory", base_path,
                        name);
    if ((st.st_mode & 07777) != HOME_MODE && fchmodat(base, name, HOME_MODE, 0))
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "make %s/%s private", base_path,
                              name);
    return AST_OK;
}

static enum ast_rc make_all(const char *base, const char *const *dirs, size_t n,
                            struct ast_err *err)
{
    enum ast_rc rc = make_private(base, err);
    if (rc)
        return rc;
    AST_AUTO(ast_fs_close) int fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "open directory '%s'", base);
    for (size_t i = 0; !rc && i < n; i++)
        rc = make_below(fd, base, dirs[i], err);
    return rc;
}

enum ast_rc ast_home_ensure(const struct ast_home *h, struct ast_err *err)
{
    enum ast_rc rc = make_all(h->root, home_dirs, AST_ARRAY_LEN(home_dirs), err);
    if (rc)
        return rc;
    AST_AUTO(ast_cfree) char *layout = ast_home_path(h, "etc/layout-version");
    if (!layout)
        return ast_fail(err, AST_E_NO_MEMORY, "home");
    if (ast_fs_exists(layout))
        return AST_OK;
    return ast_fs_write_atomic(layout, AST_STR("1"), 0644, 0, err);
}

enum ast_rc ast_home_ensure_principal(const struct ast_home *h, struct ast_str principal,
                                      struct ast_err *err)
{
    struct ast_principal p;
    enum ast_rc rc = ast_principal_parse(principal, &p, err);
    if (rc)
        return rc;
    AST_AUTO(ast_cfree) char *base = ast_home_path(h, "home/%s", p.name);
    if (!base)
        return ast_fail(err, AST_E_NO_MEMORY, "home");
    return make_all(base, principal_dirs, AST_ARRAY_LEN(principal_dirs), err);
}
