/* Secret files: one value a file below <home>/secrets (spec 05 §10.2).
 *
 * Invariant: a value is whole or absent, its file 0600, every directory on the way 0700.
 * differs: unique temporary names, no key begins with a dot, the upper directories are 0700 too.
 */
#include "store/secrets.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/id.h"
#include "crypto/secret.h"

#include "base/banned.h"

#define BAD     "invalid secret key or value: "
#define KEY_MAX 255u /* NAME_MAX */

static enum ast_rc check_key(struct ast_str key, struct ast_err *err)
{
    if (key.n == 0)
        return ast_fail(err, AST_E_INVALID, BAD "secret key must not be empty");
    if (memchr(key.p, ':', key.n))
        return ast_fail(err, AST_E_INVALID, BAD "secret key must not contain ':'");
    if (memchr(key.p, '/', key.n) || memchr(key.p, 0, key.n))
        return ast_fail(err, AST_E_INVALID,
                        BAD "secret key must not contain path separators or null bytes");
    if (key.p[0] == '.')
        return ast_fail(err, AST_E_INVALID, BAD "secret key must not start with '.'");
    if (key.n > KEY_MAX)
        return ast_fail(err, AST_E_INVALID, BAD "secret key must not be longer than %u bytes",
                        KEY_MAX);
    return AST_OK;
}

static enum ast_rc check_value(struct ast_str value, struct ast_err *err)
{
    if (value.n == 0)
        return ast_fail(err, AST_E_INVALID, BAD "secret value must not be empty");
    if (value.n > AST_SECRET_FILE_MAX)
        return ast_fail(err, AST_E_TOO_LARGE, BAD "secret value must not be longer than %u bytes",
                        AST_SECRET_FILE_MAX);
    if (!ast_str_is_utf8(value))
        return ast_fail(err, AST_E_INVALID, BAD "secret value must be UTF-8");
    return AST_OK;
}

/* Where a secret lies. */
struct place {
    char *path;    /* owned */
    size_t home_n; /* length of "<home>" in it */
    size_t dir_n;  /* length of "<home>/secrets/<scope>/<capsule>" in it */
};

static void place_done(struct place *p)
{
    free(p->path);
    *p = (struct place){ 0 };
}
AST_DEFINE_AUTO_VALUE(struct place, place_done)

static enum ast_rc place_make(const char *home, struct ast_str scope, struct ast_str capsule_id,
                              struct ast_str key, struct place *ret, struct ast_err *err)
{
    /* The names become path components: their grammars have no dots and no slashes. */
    if (!ast_principal_valid(scope)) /* AST_SECRET_SCOPE_HOST included */
        return ast_fail(err, AST_E_INVALID, "secret scope: invalid principal id");
    if (!ast_capsule_id_valid(capsule_id))
        return ast_fail(err, AST_E_INVALID, "secret: invalid capsule id");
    enum ast_rc rc = check_key(key, err);
    if (rc)
        return rc;
    char *path = ast_fs_joinf(home, "secrets/" AST_STR_FMT "/" AST_STR_FMT "/" AST_STR_FMT,
                              AST_STR_ARG(scope), AST_STR_ARG(capsule_id), AST_STR_ARG(key));
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "path");
    *ret =
        (struct place){ .path = path, .home_n = strlen(home), .dir_n = strlen(path) - key.n - 1 };
    return AST_OK;
}

/* --- Reading ------------------------------------------------------------------------------- */

static enum ast_rc read_value(const char *path, struct ast_buf *out, bool *ret_found,
                              struct ast_err *err)
{
    struct stat st;
    if (stat(path, &st)) {
        if (errno != ENOENT && errno != ENOTDIR)
            return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "secret store error: '%s'",
                                  path);
        *ret_found = false;
        return AST_OK;
    }
    if (S_ISREG(st.st_mode) && st.st_size > AST_SECRET_FILE_MAX)
        return ast_fail(err, AST_E_TOO_LARGE, "secret file exceeds %u-byte cap (%jd bytes)",
                        AST_SECRET_FILE_MAX, (intmax_t)st.st_size);
    enum ast_rc rc = ast_fs_read(path, AST_SECRET_FILE_MAX, out, err);
    if (rc == AST_E_NOT_FOUND) { /* deleted meanwhile */
        *ret_found = false;
        return AST_OK;
    }
    if (rc)
        return ast_wrap(err, rc, "secret store error");
    *ret_found = true;
    return AST_OK;
}

enum ast_rc ast_secrets_get(const char *home, struct ast_str scope, struct ast_str capsule_id,
                            struct ast_str key, struct ast_buf *out, bool *ret_found,
                            struct ast_err *err)
{
    AST_AUTO(place_done) struct place p = { 0 };
    enum ast_rc rc = place_make(home, scope, capsule_id, key, &p, err);
    if (rc)
        return rc;
    size_t start = out->n;
    bool found = false;
    rc = read_value(p.path, out, &found, err);
    if (rc)
        return rc;
    if (found && !ast_str_is_utf8(ast_str_from(ast_buf_view(out), start))) {
        ast_wipe(out->p + start, out->n - start);
        out->n = start;
        return ast_fail(err, AST_E_INVALID,
                        "secret store error: the file of the secret is not UTF-8");
    }
    *ret_found = found;
    return AST_OK;
}

/* --- Writing ------------------------------------------------------------------------------- */

/* Makes every directory below home and gives each the private mode; the original left the upper ones to
 * the umask. */
static enum ast_rc make_dirs(struct place *p, struct ast_err *err)
{
    p->path[p->dir_n] = 0;
    enum ast_rc rc = ast_fs_mkdirs(p->path, 0700, err);
    for (size_t at = p->home_n + 1; !rc && at <= p->dir_n; at++) {
        char was = p->path[at];
        if (was != '/' && was != 0)
            continue;
        p->path[at] = 0;
        if (chmod(p->path, 0700))
            rc = ast_fail_errno(err, ast_rc_from_errno(errno), errno, "chmod '%s'", p->path);
        p->path[at] = was;
    }
    p->path[p->dir_n] = '/';
    return rc;
}

enum ast_rc ast_secrets_set(const char *home, struct ast_str scope, struct ast_str capsule_id,
                            struct ast_str key, struct ast_str value, struct ast_err *err)
{
    AST_AUTO(place_done) struct place p = { 0 };
    enum ast_rc rc = place_make(home, scope, capsule_id, key, &p, err);
    if (!rc)
        rc = check_value(value, err);
    if (rc)
        return rc;
    rc = make_dirs(&p, err);
    if (!rc)
        rc = ast_fs_write_atomic(p.path, value, 0600, AST_FS_SYNC, err);
    return rc ? ast_wrap(err, rc, "secret store error") : AST_OK;
}

/* A deleted secret must not be back after a power failure. */
static enum ast_rc sync_dir(struct place *p, struct ast_err *err)
{
    p->path[p->dir_n] = 0;
    AST_AUTO(ast_fs_close) int fd = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum ast_rc rc = AST_OK;
    if (fd < 0 || fsync(fd))
        rc = ast_fail_errno(err, AST_E_IO, errno, "secret store error: sync '%s'", p->path);
    p->path[p->dir_n] = '/';
    return rc;
}

enum ast_rc ast_secrets_delete(const char *home, struct ast_str scope, struct ast_str capsule_id,
                               struct ast_str key, bool *ret_existed, struct ast_err *err)
{
    AST_AUTO(place_done) struct place p = { 0 };
    enum ast_rc rc = place_make(home, scope, capsule_id, key, &p, err);
    if (rc)
        return rc;
    bool existed = unlink(p.path) == 0;
    if (!existed && errno != ENOENT && errno != ENOTDIR)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno,
                              "secret store error: delete '%s'", p.path);
    if (existed)
        rc = sync_dir(&p, err);
    if (!rc && ret_existed)
        *ret_existed = existed;
    return rc;
}
