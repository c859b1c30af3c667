/* Removal of a tree that somebody else may be changing, or may have filled to hurt us.
 *
 * It holds one descriptor at a time however deep the tree is, goes down only with O_NOFOLLOW, and
 * goes up only into the directory it came from (same device and inode).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/vec.h"

#include "base/banned.h"

/* One directory above the current one. */
struct level {
    dev_t dev;
    ino_t ino;
    char *name; /* owned: the name by which we went down from it */
};

struct removal {
    int dir; /* the current directory, owned; -1 before the start */
    AST_VEC(struct level) above;
};

static void removal_done(struct removal *r)
{
    ast_fs_close_auto(&r->dir);
    ast_vec_each (&r->above, level)
        free(level->name);
    ast_vec_done(&r->above);
}
AST_DEFINE_AUTO_VALUE(struct removal, removal_done)

static enum ast_rc failed(struct ast_err *err, const char *what, const char *name)
{
    return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "%s '%s'", what, name);
}

/* Opens a directory below `at`; *ret stays -1 when `name` is not a directory or is gone. */
static enum ast_rc open_dir(int at, const char *name, int *ret, struct ast_err *err)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno != ENOTDIR && errno != ELOOP && errno != ENOENT)
        return failed(err, "open directory", name);
    *ret = fd;
    return AST_OK;
}

static enum ast_rc unlink_file(int at, const char *name, struct ast_err *err)
{
    if (unlinkat(at, name, 0) && errno != ENOENT)
        return failed(err, "remove", name);
    return AST_OK;
}

/* Removes the files of the current directory. *ret_name (owned) is a sub-directory that was met
 * first, NULL when nothing is left. */
static enum ast_rc sweep(int dir, char **ret_name, struct ast_err *err)
{
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (copy < 0)
        return failed(err, "open directory", ".");
    DIR *stream = fdopendir(copy);
    if (!stream) {
        enum ast_rc rc = failed(err, "list", ".");
        (void)close(copy);
        return rc;
    }
    enum ast_rc rc = AST_OK;
    char *found = NULL;
    while (!rc && !found) {
        errno = 0;
        struct dirent *e = readdir(stream);
        if (!e) {
            if (errno)
                rc = failed(err, "list", ".");
            break;
        }
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (e->d_type != DT_DIR && e->d_type != DT_UNKNOWN) {
            rc = unlink_file(dir, e->d_name, err);
            continue;
        }
        struct stat st;
        if (fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW)) {
            if (errno != ENOENT)
                rc = failed(err, "stat", e->d_name);
        } else if (!S_ISDIR(st.st_mode)) {
            rc = unlink_file(dir, e->d_name, err);
        } else if (!(found = ast_str_dup(ast_str_c(e->d_name)))) {
            rc = ast_fail(err, AST_E_NO_MEMORY, "directory name");
        }
    }
    (void)closedir(stream); /* was only read */
    if (rc)
        free(found);
    else
        *ret_name = found;
    return rc;
}

/* Takes `name`. */
static enum ast_rc go_down(struct removal *r, char *name, struct ast_err *err)
{
    struct stat st;
    int sub = -1;
    enum ast_rc rc =
        fstat(r->dir, &st) ? failed(err, "stat", ".") : open_dir(r->dir, name, &sub, err);
    if (!rc && sub < 0) /* it changed under us: whatever it is now, it has no content for us */
        rc = unlink_file(r->dir, name, err);
    if (rc || sub < 0) {
        free(name);
        return rc;
    }
    if (!ast_vec_push(&r->above, (struct level){ st.st_dev, st.st_ino, name })) {
        free(name);
        (void)close(sub);
        return ast_fail(err, AST_E_NO_MEMORY, "directory stack");
    }
    (void)close(r->dir); /* was only read */
    r->dir = sub;
    return AST_OK;
}

static enum ast_rc go_up(struct removal *r, struct ast_err *err)
{
    struct level from = r->above.v[--r->above.n];
    AST_AUTO(ast_cfree) char *name = from.name;
    int up = openat(r->dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (up < 0)
        return failed(err, "open the directory above", name);
    (void)close(r->dir); /* was only read */
    r->dir = up;
    struct stat st;
    if (fstat(up, &st))
        return failed(err, "stat the directory above", name);
    if (st.st_dev != from.dev || st.st_ino != from.ino)
        return ast_fail(err, AST_E_CONFLICT, "'%s' was moved while it was being removed", name);
    if (unlinkat(up, name, AT_REMOVEDIR) && errno != ENOENT)
        return failed(err, "remove directory", name);
    return AST_OK;
}

/* Empties the current directory and everything below it. */
static enum ast_rc empty(struct removal *r, struct ast_err *err)
{
    for (;;) {
        char *sub = NULL;
        enum ast_rc rc = sweep(r->dir, &sub, err);
        if (!rc && !sub && r->above.n == 0)
            return AST_OK;
        if (!rc)
            rc = sub ? go_down(r, sub, err) : go_up(r, err);
        if (rc)
            return rc;
    }
}

static enum ast_rc remove_named(const char *path, struct ast_err *err)
{
    AST_AUTO(removal_done) struct removal r = { .dir = -1 };
    enum ast_rc rc = open_dir(AT_FDCWD, path, &r.dir, err);
    if (rc)
        return rc;
    if (r.dir < 0)
        return unlink_file(AT_FDCWD, path, err);
    rc = empty(&r, err);
    if (!rc && rmdir(path) && errno != ENOENT)
        rc = failed(err, "remove directory", path);
    return rc;
}

enum ast_rc ast_fs_remove_tree(const char *path, struct ast_err *err)
{
    /* "link/" would name what the link points to. */
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    AST_AUTO(ast_cfree) char *name = ast_str_dup(ast_str_n(path, n));
    if (!name)
        return ast_fail(err, AST_E_NO_MEMORY, "remove '%s'", path);
    enum ast_rc rc = remove_named(name, err);
    return rc ? ast_wrap(err, rc, "remove '%s'", path) : AST_OK;
}
