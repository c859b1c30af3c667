/* Files: bounded reads and writes that are all or nothing.
 *
 * Invariant: a name that readers look at is only ever replaced by a rename of a complete file.
 */
#include "base/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/fs_priv.h"
#include "base/random_priv.h"

#include "base/banned.h"

void ast_fs_close_auto(int *fd)
{
    if (*fd < 0)
        return;
    int saved = errno;
    (void)close(*fd); /* whoever cares about the result closes by hand */
    errno = saved;
    *fd = -1;
}

/* --- Reading ------------------------------------------------------------------------------- */

static enum ast_rc read_all(int fd, const char *path, size_t max, size_t size_hint,
                            struct ast_buf *out, struct ast_err *err)
{
    size_t total = 0, want = AST_MIN(size_hint, max);
    for (;;) {
        /* One byte more than expected, so that the usual file ends with a read of 0 bytes. */
        size_t room = want > total ? want - total + 1 : 4096;
        room = AST_MIN(room, max - total + 1);
        /* Beyond the ceiling of `out` there may still be room for the end-of-file probe. */
        char probe;
        bool is_full = out->n >= out->max;
        if (!is_full) {
            room = AST_MIN(room, out->max - out->n);
            if (ast_buf_reserve(out, room))
                return ast_buf_check(out, path, err);
        }
        ssize_t got = read(fd, is_full ? &probe : out->p + out->n, is_full ? 1 : room);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ast_fail_errno(err, AST_E_IO, errno, "read '%s'", path);
        if (got == 0)
            return AST_OK;
        if (is_full || (size_t)got > max - total)
            return ast_fail(err, AST_E_TOO_LARGE, "'%s' is larger than %zu bytes", path,
                            AST_MIN(max, total));
        total += (size_t)got;
        out->n += (size_t)got;
    }
}

enum ast_rc ast_fs_read(const char *path, size_t max, struct ast_buf *out, struct ast_err *err)
{
    /* Non-blocking: opening a FIFO must not wait for a writer before it is refused. */
    AST_AUTO(ast_fs_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "open '%s'", path);
    struct stat st;
    if (fstat(fd, &st))
        return ast_fail_errno(err, AST_E_IO, errno, "stat '%s'", path);
    if (!S_ISREG(st.st_mode))
        return ast_fail(err, AST_E_INVALID, "'%s' is not a regular file", path);
    if (st.st_size > 0 && (uintmax_t)st.st_size > max)
        return ast_fail(err, AST_E_TOO_LARGE, "'%s' is larger than %zu bytes", path, max);
    if (max == SIZE_MAX)
        max--;
    if (out->fail)
        return ast_buf_check(out, path, err);

    size_t start = out->n;
    enum ast_rc rc = read_all(fd, path, max, st.st_size > 0 ? (size_t)st.st_size : 0, out, err);
    if (rc) {
        out->n = start;
        out->fail = AST_OK; /* the buffer itself is as good as before */
    }
    if (out->p)
        out->p[out->n] = 0;
    return rc;
}

/* --- Writing ------------------------------------------------------------------------------- */

/* The directory part into *ret_dir (owned) and the last name as a view into `path`. */
static enum ast_rc split_path(const char *path, char **ret_dir, const char **ret_name,
                              struct ast_err *err)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return ast_fail(err, AST_E_INVALID, "'%s' does not name a file", path);
    struct ast_str dir = AST_STR(".");
    if (slash)
        dir = slash == path ? AST_STR("/") : ast_str_n(path, (size_t)(slash - path));
    char *copy = ast_str_dup(dir);
    if (!copy)
        return ast_fail(err, AST_E_NO_MEMORY, "path");
    *ret_dir = copy;
    *ret_name = name;
    return AST_OK;
}

int fs_write_all(int fd, struct ast_str data)
{
    while (data.n) {
        ssize_t done = write(fd, data.p, data.n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return errno;
        data = ast_str_from(data, (size_t)done);
    }
    return 0;
}

void fs_temp_name(char out[static FS_TEMP_BYTES])
{
    uint8_t unique[FS_TEMP_DIGITS / 2];
    char hex[FS_TEMP_DIGITS + 1];

    base_random(unique, sizeof unique);
    ast_hex_encode(unique, sizeof unique, hex);
    (void)snprintf(out, FS_TEMP_BYTES, FS_TEMP_PREFIX "%s", hex);
}

static enum ast_rc write_temp(int dir, const char *temp, const char *path, struct ast_str data,
                              mode_t mode, unsigned flags, struct ast_err *err)
{
    AST_AUTO(ast_fs_close)
    int fd = openat(dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "create '%s'", path);
    int failed =
        fchmod(fd, mode) ? errno : fs_write_all(fd, data); /* the umask may have cut `mode` */
    if (!failed && (flags & AST_FS_SYNC) && fsync(fd))
        failed = errno;
    int last = fd;
    fd = -1;
    if (close(last) && !failed) /* some file systems report a full disk only here */
        failed = errno;
    if (!failed)
        return AST_OK;
    (void)unlinkat(dir, temp, 0); /* the first failure is the one to report */
    return ast_fail_errno(err, ast_rc_from_errno(failed), failed, "write '%s'", path);
}

enum ast_rc ast_fs_write_atomic(const char *path, struct ast_str data, mode_t mode, unsigned flags,
                                struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *dir_path = NULL;
    const char *name = NULL;
    enum ast_rc rc = split_path(path, &dir_path, &name, err);
    if (rc)
        return rc;
    AST_AUTO(ast_fs_close) int dir = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "open directory '%s'",
                              dir_path);

    char temp[FS_TEMP_BYTES];
    fs_temp_name(temp);
    rc = write_temp(dir, temp, path, data, mode, flags, err);
    if (rc)
        return rc;
    if (renameat(dir, temp, dir, name)) {
        int failed = errno;
        (void)unlinkat(dir, temp, 0);
        return ast_fail_errno(err, ast_rc_from_errno(failed), failed, "replace '%s'", path);
    }
    if ((flags & AST_FS_SYNC) && fsync(dir))
        return ast_fail_errno(err, AST_E_IO, errno, "sync directory '%s'", dir_path);
    return AST_OK;
}

static bool is_temp_name(const char *name)
{
    return ast_str_starts(ast_str_c(name), AST_STR(FS_TEMP_PREFIX)) &&
           strlen(name) == sizeof FS_TEMP_PREFIX - 1 + FS_TEMP_DIGITS;
}

static unsigned sweep_one(const char *dir, const struct dirent *e, unsigned depth,
                          int64_t min_age_s)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, e->d_name);
    struct stat st;

    if (!path || lstat(path, &st))
        return 0;
    if (S_ISDIR(st.st_mode) && depth > 0)
        return ast_fs_sweep(path, depth - 1, min_age_s);
    if (!S_ISREG(st.st_mode) || !is_temp_name(e->d_name) || time(NULL) - st.st_mtime < min_age_s)
        return 0;
    return unlink(path) == 0;
}

unsigned ast_fs_sweep(const char *dir, unsigned depth, int64_t min_age_s)
{
    DIR *d = opendir(dir);
    const struct dirent *e;
    unsigned removed = 0;

    while (d && (e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            removed += sweep_one(dir, e, depth, min_age_s);
    if (d)
        (void)closedir(d); /* only read */
    return removed;
}

/* --- Directories and names ----------------------------------------------------------------- */

static enum ast_rc make_dir(const char *path, mode_t mode, struct ast_err *err)
{
    if (mkdir(path, mode) == 0)
        return AST_OK;
    int failed = errno;
    struct stat st;
    /* Another one may have made it meanwhile; a symlink to a directory is fine too. On a read-only
     * file system mkdir says EROFS before it says EEXIST, so the question is asked for any error. */
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return AST_OK;
        return ast_fail(err, AST_E_EXISTS, "'%s' exists and is not a directory", path);
    }
    return ast_fail_errno(err, ast_rc_from_errno(failed), failed, "create directory '%s'", path);
}

enum ast_rc ast_fs_mkdirs(const char *path, mode_t mode, struct ast_err *err)
{
    if (!*path)
        return ast_fail(err, AST_E_INVALID, "empty directory name");
    if (ast_fs_is_dir(path))
        return AST_OK;
    AST_AUTO(ast_cfree) char *copy = ast_str_dup(ast_str_c(path));
    if (!copy)
        return ast_fail(err, AST_E_NO_MEMORY, "directory name");

    for (char *at = copy + 1; *at; at++) {
        if (*at != '/' || at[-1] == '/')
            continue;
        *at = 0;
        enum ast_rc rc = make_dir(copy, mode, err);
        *at = '/';
        if (rc)
            return rc;
    }
    return make_dir(copy, mode, err);
}

bool ast_fs_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

bool ast_fs_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *ast_fs_join(const char *dir, const char *name)
{
    return ast_fs_joinf(dir, "%s", name);
}

char *ast_fs_joinf(const char *dir, const char *fmt, ...)
{
    AST_AUTO(ast_cfree) char *name = NULL;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&name, fmt, args);
    va_end(args);
    if (n < 0) {
        name = NULL; /* its content is undefined then */
        return NULL;
    }
    size_t len = strlen(dir);
    const char *slash = len && dir[len - 1] == '/' ? "" : "/";
    char *path = NULL;
    return asprintf(&path, "%s%s%s", dir, slash, name) < 0 ? NULL : path;
}
