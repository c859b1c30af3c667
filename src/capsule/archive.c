/* The .capsule archive: a gzip-compressed tar, unpacked as attackers' input (spec 07 §8.1). Only regular files and
 * directories come out, below the target folder, within limits. */
#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/vec.h"
#include "capsule/install.h"

#include "base/banned.h"

#define ARCHIVE_BLOCK    65536u
#define ARCHIVE_MAX_PATH 1024u

static inline void reader_auto(struct archive **a)
{
    if (*a)
        archive_read_free(*a);
}
static inline void writer_auto(struct archive **a)
{
    if (*a)
        archive_write_free(*a);
}

/* "./" in front is stripped; absolute paths and ".." are refused. */
static enum ast_rc safe_path(struct ast_str raw, struct ast_buf *out, struct ast_err *err)
{
    struct ast_str rest = raw, piece;
    bool more = true;

    if (raw.n == 0 || raw.p[0] == '/' || raw.n > ARCHIVE_MAX_PATH)
        return ast_fail(err, AST_E_INVALID,
                        "Malicious archive detected: invalid path '" AST_STR_FMT "'",
                        AST_STR_ARG(ast_str_first(raw, 256)));
    while (ast_str_split(&rest, &more, '/', &piece)) {
        if (piece.n == 0 || ast_str_is(piece, "."))
            continue;
        if (ast_str_is(piece, ".."))
            return ast_fail(err, AST_E_INVALID,
                            "Malicious archive detected: invalid path '" AST_STR_FMT "'",
                            AST_STR_ARG(ast_str_first(raw, 256)));
        if (out->n)
            ast_buf_add_byte(out, '/');
        ast_buf_add(out, piece);
    }
    return ast_buf_check(out, "Invalid path in archive", err);
}

/* Opens `path`'s parent below `root`, making directories as needed; no component may be a symlink. */
static enum ast_rc open_parent(int root, char *path, int *ret_fd, const char **ret_name,
                               struct ast_err *err)
{
    AST_AUTO(ast_fs_close) int at = fcntl(root, F_DUPFD_CLOEXEC, 0);
    char *name = path;

    if (at < 0)
        return ast_fail_errno(err, AST_E_IO, errno, "Failed to unpack file: %s", path);
    for (char *slash = strchr(name, '/'); slash; slash = strchr(name, '/')) {
        *slash = 0;
        if (mkdirat(at, name, 0700) && errno != EEXIST)
            return ast_fail_errno(err, AST_E_IO, errno, "Failed to unpack file: %s", path);
        int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0)
            return ast_fail_errno(err, AST_E_INVALID, errno, "Failed to unpack file: %s", path);
        close(at);
        at = next;
        *slash = '/';
        name = slash + 1;
    }
    *ret_fd = at;
    *ret_name = name;
    at = -1;
    return AST_OK;
}

static enum ast_rc write_bytes(int fd, const char *p, size_t n, const char *path,
                               struct ast_err *err)
{
    while (n) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return ast_fail_errno(err, AST_E_IO, errno, "Failed to unpack file: %s", path);
        p += done;
        n -= (size_t)done;
    }
    return AST_OK;
}

static enum ast_rc unpack_file(struct archive *a, struct archive_entry *entry, int root, char *path,
                               uint64_t *unpacked, struct ast_err *err)
{
    AST_AUTO(ast_fs_close) int parent = -1;
    const char *name;
    enum ast_rc rc = open_parent(root, path, &parent, &name, err);
    if (rc)
        return rc;
    mode_t mode = (archive_entry_perm(entry) & 0777) | 0600; /* the installer must read it back */
    AST_AUTO(ast_fs_close)
    int fd = openat(parent, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return ast_fail_errno(err, AST_E_IO, errno, "Failed to unpack file: %s", path);

    for (;;) {
        char block[ARCHIVE_BLOCK];
        la_ssize_t n = archive_read_data(a, block, sizeof block);
        if (n < 0)
            return ast_fail(err, AST_E_CORRUPT, "Failed to read archive entry: %s",
                            archive_error_string(a));
        if (n == 0)
            break;
        *unpacked += (uint64_t)n;
        if (*unpacked > AST_ARCHIVE_MAX_UNPACKED)
            return ast_fail(err, AST_E_TOO_LARGE, "archive unpacks to more than %llu bytes",
                            (unsigned long long)AST_ARCHIVE_MAX_UNPACKED);
        rc = write_bytes(fd, block, (size_t)n, path, err);
        if (rc)
            return rc;
    }
    struct timespec times[2] = { { .tv_nsec = UTIME_OMIT },
                                 { .tv_sec = archive_entry_mtime(entry) } };
    (void)futimens(fd, times); /* a missing time stamp harms nobody */
    return AST_OK;
}

static enum ast_rc unpack_entry(struct archive *a, struct archive_entry *entry, int root,
                                uint64_t *unpacked, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf path = AST_BUF_INIT(ARCHIVE_MAX_PATH + 1);
    struct ast_str raw = ast_str_c(archive_entry_pathname(entry));
    enum ast_rc rc = safe_path(raw, &path, err);
    if (rc)
        return rc;
    unsigned type = archive_entry_filetype(entry);
    if (archive_entry_hardlink(entry) || type == AE_IFLNK)
        return ast_fail(err, AST_E_INVALID,
                        "Malicious archive detected: symlinks are not allowed ('" AST_STR_FMT "')",
                        AST_STR_ARG(raw));
    if (path.n == 0)
        return AST_OK; /* the archive's own root */
    if (type == AE_IFDIR) {
        AST_AUTO(ast_fs_close) int parent = -1;
        const char *name;
        rc = open_parent(root, path.p, &parent, &name, err);
        if (!rc && mkdirat(parent, name, 0700) && errno != EEXIST)
            rc = ast_fail_errno(err, AST_E_IO, errno, "Failed to unpack file: %s", path.p);
        return rc;
    }
    if (type != AE_IFREG)
        return ast_fail(
            err, AST_E_INVALID,
            "Malicious archive detected: only files and directories are allowed ('" AST_STR_FMT
            "')",
            AST_STR_ARG(raw));
    return unpack_file(a, entry, root, path.p, unpacked, err);
}

enum ast_rc ast_archive_unpack(const char *archive_path, const char *dir, struct ast_err *err)
{
    __attribute__((cleanup(reader_auto))) struct archive *a = archive_read_new();
    AST_AUTO(ast_fs_close) int root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct archive_entry *entry;
    uint64_t unpacked = 0;
    unsigned entries = 0;

    if (root < 0)
        return ast_fail_errno(err, AST_E_IO, errno, "open %s", dir);
    if (!a || archive_read_support_filter_gzip(a) || archive_read_support_format_tar(a))
        return ast_fail(err, AST_E_NO_MEMORY, "archive reader");
    AST_AUTO(ast_fs_close) int fd = open(archive_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st))
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "Failed to open archive: %s",
                              archive_path);
    if (!S_ISREG(st.st_mode))
        return ast_fail(err, AST_E_INVALID, "Failed to open archive: %s: not a regular file",
                        archive_path);
    if (archive_read_open_fd(a, fd, ARCHIVE_BLOCK))
        return ast_fail(err, AST_E_CORRUPT, "Failed to read archive entry: %s",
                        archive_error_string(a));

    for (;;) {
        int r = archive_read_next_header(a, &entry);
        if (r == ARCHIVE_EOF && entries == 0)
            return ast_fail(err, AST_E_CORRUPT, "Failed to read archive entries: %s is empty",
                            archive_path);
        if (r == ARCHIVE_EOF)
            return AST_OK;
        if (r != ARCHIVE_OK)
            return ast_fail(err, AST_E_CORRUPT, "Failed to read archive entry: %s",
                            archive_error_string(a));
        if (++entries > AST_ARCHIVE_MAX_ENTRIES)
            return ast_fail(err, AST_E_TOO_LARGE, "archive has more than %u entries",
                            AST_ARCHIVE_MAX_ENTRIES);
        enum ast_rc rc = unpack_entry(a, entry, root, &unpacked, err);
        if (rc)
            return rc;
    }
}

/* ---- packing ---- */

struct packer {
    struct archive *a;
    const char *dir;
    AST_VEC(dev_t)
    devs; /* device and inode of the directories above: cycles through links end here */
    AST_VEC(ino_t) inos;
};

static enum ast_rc pack_file(struct packer *p, const char *rel, const struct stat *st,
                             bool is_manifest, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(p->dir, rel);
    AST_AUTO(ast_fs_close) int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    struct archive_entry *entry = archive_entry_new();
    enum ast_rc rc = AST_OK;

    if (fd < 0 || !entry) {
        archive_entry_free(entry);
        return ast_fail_errno(err, AST_E_IO, errno, "read %s", rel);
    }
    archive_entry_set_pathname(entry, rel);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, is_manifest ? 0644 : st->st_mode & 0777);
    archive_entry_set_mtime(entry, is_manifest ? 0 : st->st_mtime, 0);
    archive_entry_set_size(entry, st->st_size);
    if (archive_write_header(p->a, entry) != ARCHIVE_OK)
        rc = ast_fail(err, AST_E_IO, "write %s: %s", rel, archive_error_string(p->a));
    off_t left = st->st_size;
    while (!rc && left > 0) {
        char block[ARCHIVE_BLOCK];
        ssize_t n = read(fd, block, (size_t)AST_MIN(left, (off_t)sizeof block));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            rc = ast_fail(err, AST_E_IO, "read %s: file changed while it was packed", rel);
        else if (archive_write_data(p->a, block, (size_t)n) != n)
            rc = ast_fail(err, AST_E_IO, "write %s: %s", rel, archive_error_string(p->a));
        left -= n > 0 ? n : 0;
    }
    archive_entry_free(entry);
    return rc;
}

static enum ast_rc pack_dir_entry(struct packer *p, const char *rel, const struct stat *st,
                                  struct ast_err *err)
{
    struct archive_entry *entry = archive_entry_new();
    if (!entry)
        return ast_fail(err, AST_E_NO_MEMORY, "archive entry");
    archive_entry_set_pathname(entry, rel);
    archive_entry_set_filetype(entry, AE_IFDIR);
    archive_entry_set_perm(entry, st->st_mode & 0777);
    archive_entry_set_mtime(entry, st->st_mtime, 0);
    int r = archive_write_header(p->a, entry);
    archive_entry_free(entry);
    return r == ARCHIVE_OK
               ? AST_OK
               : ast_fail(err, AST_E_IO, "write %s: %s", rel, archive_error_string(p->a));
}

static bool seen_above(const struct packer *p, const struct stat *st)
{
    for (size_t i = 0; i < p->devs.n; i++)
        if (p->devs.v[i] == st->st_dev && p->inos.v[i] == st->st_ino)
            return true;
    return false;
}

static int not_dots(const struct dirent *e)
{
    return strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
}

/* What goes where: the manifest first, component files, extras, and wit/ last (spec 07 §8). */
enum pack_pass { PACK_MANIFEST, PACK_WASM, PACK_EXTRAS, PACK_WIT };

static bool in_pass(enum pack_pass pass, struct ast_str rel)
{
    bool top = ast_str_find_byte(rel, '/') == AST_STR_NPOS;
    if (ast_str_is(rel, "Capsule.toml"))
        return pass == PACK_MANIFEST;
    if (top && ast_str_ends(rel, AST_STR(".wasm")))
        return pass == PACK_WASM;
    if (ast_str_is(rel, "wit") || ast_str_starts(rel, AST_STR("wit/")))
        return pass == PACK_WIT;
    return pass == PACK_EXTRAS && !ast_str_ends(rel, AST_STR(".capsule")) &&
           !ast_str_is(rel, ".env.json") && !ast_str_is(rel, ".git") &&
           !ast_str_is(rel, "target") && !ast_str_is(rel, "dist");
}

static enum ast_rc pack_tree(struct packer *p, const char *rel, enum pack_pass pass,
                             struct ast_err *err);

static enum ast_rc pack_one(struct packer *p, const char *rel, enum pack_pass pass,
                            struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(p->dir, rel);
    struct stat st;

    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "archive");
    if (!in_pass(pass, ast_str_c(rel)))
        return AST_OK;
    if (stat(path, &st))
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "read %s", path);
    if (S_ISREG(st.st_mode))
        return pack_file(p, rel, &st, pass == PACK_MANIFEST, err);
    if (!S_ISDIR(st.st_mode) || seen_above(p, &st))
        return AST_OK; /* sockets and the like; a directory reached again through a link */
    if (!ast_vec_push(&p->devs, st.st_dev) || !ast_vec_push(&p->inos, st.st_ino))
        return ast_fail(err, AST_E_NO_MEMORY, "archive");
    enum ast_rc rc = pack_dir_entry(p, rel, &st, err);
    if (!rc)
        rc = pack_tree(p, rel, pass, err);
    p->devs.n--;
    p->inos.n--;
    return rc;
}

static enum ast_rc pack_tree(struct packer *p, const char *rel, enum pack_pass pass,
                             struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *dir = rel ? ast_fs_join(p->dir, rel) : ast_str_dup(ast_str_c(p->dir));
    struct dirent **names = NULL;
    enum ast_rc rc = AST_OK;

    int n = dir ? scandir(dir, &names, not_dots, alphasort) : -1;
    if (n < 0)
        return ast_fail_errno(err, AST_E_IO, errno, "read %s", rel ? rel : p->dir);
    for (int i = 0; i < n; i++) {
        AST_AUTO(ast_cfree)
        char *child = rel ? ast_fs_join(rel, names[i]->d_name) : strdup(names[i]->d_name);
        if (!rc)
            rc = child ? pack_one(p, child, pass, err) : ast_fail(err, AST_E_NO_MEMORY, "archive");
        free(names[i]);
    }
    free(names);
    return rc;
}

enum ast_rc ast_archive_pack(const char *dir, const char *archive_path, struct ast_err *err)
{
    __attribute__((cleanup(writer_auto))) struct archive *a = archive_write_new();
    AST_AUTO(ast_cfree) char *temp = NULL;
    struct packer p = { .a = a, .dir = dir };
    enum ast_rc rc = AST_OK;

    if (!a || asprintf(&temp, "%s.tmp.%ld", archive_path, (long)getpid()) < 0)
        return ast_fail(err, AST_E_NO_MEMORY, "archive writer");
    /* GNU headers, no time stamp in the gzip header: the same tree gives the same bytes. */
    if (archive_write_set_format_gnutar(a) || archive_write_add_filter_gzip(a) ||
        archive_write_set_filter_option(a, "gzip", "timestamp", NULL) ||
        archive_write_open_filename(a, temp))
        return ast_fail(err, AST_E_IO, "create %s: %s", archive_path, archive_error_string(a));
    for (enum pack_pass pass = PACK_MANIFEST; !rc && pass <= PACK_WIT; pass++)
        rc = pack_tree(&p, NULL, pass, err);
    if (!rc && archive_write_close(a) != ARCHIVE_OK)
        rc = ast_fail(err, AST_E_IO, "write %s: %s", archive_path, archive_error_string(a));
    if (!rc && rename(temp, archive_path))
        rc = ast_fail_errno(err, AST_E_IO, errno, "rename %s", temp);
    if (rc)
        unlink(temp);
    ast_vec_done(&p.devs);
    ast_vec_done(&p.inos);
    return rc;
}
