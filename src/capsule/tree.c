/* The file work of an install. The source is foreign: links that lead out of it are refused, sizes are bounded. */
#include "capsule/tree.h"

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
#include "crypto/hash.h"

#include "base/banned.h"

#define TREE_MAX_DEPTH 64u

static int not_dots(const struct dirent *e)
{
    return strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
}

static bool skip_dir(const char *name, unsigned depth)
{
    struct ast_str n = ast_str_c(name);
    return ast_str_is(n, ".git") || ast_str_is(n, "target") ||
           (depth == 0 && (ast_str_is(n, "dist") || ast_str_is(n, "wit")));
}

/* `.env.json` would smuggle configuration in (spec 07 §7.1); *.wasm lives in the content store. */
static bool skip_file(const char *name)
{
    struct ast_str n = ast_str_c(name);
    return ast_str_ends(n, AST_STR(".wasm")) || ast_str_is(n, ".env.json");
}

static enum ast_rc copy_bytes(int from, int to, const char *path, struct ast_err *err)
{
    char block[65536];

    for (;;) {
        ssize_t n = read(from, block, sizeof block);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ast_fail_errno(err, AST_E_IO, errno, "read %s", path);
        if (n == 0)
            break;
        for (ssize_t done = 0; done < n;) {
            ssize_t w = write(to, block + done, (size_t)(n - done));
            if (w < 0 && errno == EINTR)
                continue;
            if (w < 0)
                return ast_fail_errno(err, AST_E_IO, errno, "write %s", path);
            done += w;
        }
    }
    return fsync(to) ? ast_fail_errno(err, AST_E_IO, errno, "sync %s", path) : AST_OK;
}

static enum ast_rc copy_file(const char *from, const char *to, struct ast_err *err)
{
    AST_AUTO(ast_fs_close) int in = open(from, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (in < 0 || fstat(in, &st))
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "open %s", from);
    if (!S_ISREG(st.st_mode))
        return ast_fail(err, AST_E_INVALID, "%s is not a regular file", from);
    AST_AUTO(ast_fs_close)
    int out =
        open(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, (st.st_mode & 0777) | 0600);
    if (out < 0)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "create %s", to);
    return copy_bytes(in, out, to, err);
}

/* A link's target must be a regular file inside the (canonical) source root. */
static enum ast_rc resolve_link(const char *root, const char *path, char **ret, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *real = realpath(path, NULL);
    struct stat st;

    if (!real)
        return ast_fail(err, AST_E_INVALID,
                        "symlink %s could not be canonicalized (dangling or denied)", path);
    struct ast_str r = ast_str_c(real), base = ast_str_c(root);
    if (!ast_str_starts(r, base) || r.n <= base.n || r.p[base.n] != '/')
        return ast_fail(
            err, AST_E_DENIED,
            "symlink %s resolves outside the capsule source root (%s); refusing to copy (sandbox-escape "
            "vector)",
            path, real);
    if (stat(real, &st) == 0 && S_ISDIR(st.st_mode))
        return ast_fail(
            err, AST_E_INVALID,
            "directory symlink %s not allowed in capsule source tree (refusing to recurse \xe2\x80\x94 risk "
            "of cycles / cross-tree copies)",
            path);
    *ret = ast_steal(&real);
    return AST_OK;
}

static enum ast_rc copy_dir(const char *root, const char *from, const char *to, unsigned depth,
                            struct ast_err *err);

static enum ast_rc copy_entry(const char *root, const char *from_dir, const char *to_dir,
                              const char *name, unsigned depth, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *from = ast_fs_join(from_dir, name);
    AST_AUTO(ast_cfree) char *to = ast_fs_join(to_dir, name);
    AST_AUTO(ast_cfree) char *real = NULL;
    struct stat st;

    if (!from || !to)
        return ast_fail(err, AST_E_NO_MEMORY, "copy");
    if (lstat(from, &st))
        return ast_fail_errno(err, AST_E_IO, errno, "read %s", from);
    if (S_ISDIR(st.st_mode))
        return skip_dir(name, depth) ? AST_OK : copy_dir(root, from, to, depth + 1, err);
    if (skip_file(name))
        return AST_OK;
    if (S_ISLNK(st.st_mode)) {
        enum ast_rc rc = resolve_link(root, from, &real, err);
        return rc ? rc : copy_file(real, to, err);
    }
    if (!S_ISREG(st.st_mode))
        return ast_fail(err, AST_E_INVALID, "%s is neither a file nor a directory", from);
    return copy_file(from, to, err);
}

static enum ast_rc copy_dir(const char *root, const char *from, const char *to, unsigned depth,
                            struct ast_err *err)
{
    struct dirent **names = NULL;
    enum ast_rc rc = AST_OK;

    if (depth > TREE_MAX_DEPTH)
        return ast_fail(err, AST_E_TOO_LARGE, "%s: folders are nested too deeply", from);
    rc = ast_fs_mkdirs(to, 0700, err);
    if (rc)
        return rc;
    int n = scandir(from, &names, not_dots, alphasort);
    if (n < 0)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "read %s", from);
    for (int i = 0; i < n; i++) {
        if (!rc)
            rc = copy_entry(root, from, to, names[i]->d_name, depth, err);
        free(names[i]);
    }
    free(names);
    return rc;
}

enum ast_rc capsule_tree_copy(const char *source, const char *target, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *root = realpath(source, NULL);
    if (!root)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "read %s", source);
    return copy_dir(root, root, target, 0, err);
}

enum ast_rc capsule_blob_store(const struct ast_home *home, const char *store, const char *ext,
                               struct ast_str bytes, char ret_hash[static 65], struct ast_err *err)
{
    char hash[AST_BLAKE3_HEX];
    ast_blake3_hex(bytes, hash);

    AST_AUTO(ast_cfree) char *dir = ast_home_path(home, "%s", store);
    AST_AUTO(ast_cfree) char *path = ast_home_path(home, "%s/%s.%s", store, hash, ext);
    if (!dir || !path)
        return ast_fail(err, AST_E_NO_MEMORY, "content store");
    enum ast_rc rc = ast_fs_mkdirs(dir, 0700, err);
    if (!rc && !ast_fs_exists(path))
        rc = ast_fs_write_atomic(path, bytes, 0644, AST_FS_SYNC, err);
    if (!rc)
        memcpy(ret_hash, hash, sizeof hash);
    return rc;
}

/* ---- WIT files ---- */

struct wit_walk {
    const struct ast_home *home;
    struct ast_arena *arena;
    AST_VEC(struct ast_str) paths;
    AST_VEC(struct ast_str) hashes;
};

static enum ast_rc store_wit(struct wit_walk *w, const char *path, const char *rel,
                             const struct stat *st, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_WIT_MAX_BYTES);
    char hash[AST_BLAKE3_HEX];

    if (st->st_size > (off_t)AST_WIT_MAX_BYTES)
        return ast_fail(err, AST_E_TOO_LARGE, "WIT file %s exceeds 1MB size limit (%lld)", path,
                        (long long)st->st_size);
    enum ast_rc rc = ast_fs_read(path, AST_WIT_MAX_BYTES, &text, err);
    if (!rc)
        rc = capsule_blob_store(w->home, AST_HOME_WIT, "wit", ast_buf_view(&text), hash, err);
    if (rc)
        return rc;
    struct ast_str p = ast_arena_dup(w->arena, ast_str_c(rel)),
                   h = ast_arena_dup(w->arena, ast_str_c(hash));
    if (!ast_vec_push(&w->paths, p) || !ast_vec_push(&w->hashes, h))
        return ast_fail(err, AST_E_NO_MEMORY, "WIT files");
    return ast_arena_check(w->arena, err);
}

static enum ast_rc walk_wit(struct wit_walk *w, const char *dir, const char *rel, unsigned depth,
                            struct ast_err *err)
{
    struct dirent **names = NULL;
    enum ast_rc rc = AST_OK;

    if (depth > TREE_MAX_DEPTH)
        return ast_fail(err, AST_E_TOO_LARGE, "%s: folders are nested too deeply", dir);
    int n = scandir(dir, &names, not_dots, alphasort);
    if (n < 0)
        return errno == ENOENT
                   ? AST_OK
                   : ast_fail_errno(err, ast_rc_from_errno(errno), errno, "read %s", dir);
    for (int i = 0; i < n; i++) {
        AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, names[i]->d_name);
        AST_AUTO(ast_cfree)
        char *child = rel ? ast_fs_join(rel, names[i]->d_name) : strdup(names[i]->d_name);
        struct stat st;
        if (!rc && (!path || !child))
            rc = ast_fail(err, AST_E_NO_MEMORY, "WIT files");
        if (!rc && lstat(path, &st) == 0) {
            if (S_ISDIR(st.st_mode))
                rc = walk_wit(w, path, child, depth + 1, err);
            else if (S_ISREG(st.st_mode) && ast_str_ends(ast_str_c(child), AST_STR(".wit")))
                rc = store_wit(w, path, child, &st, err);
        }
        free(names[i]);
    }
    free(names);
    return rc;
}

enum ast_rc capsule_wit_store(const struct ast_home *home, const char *source,
                              struct ast_arena *arena, struct ast_meta *meta, struct ast_err *err)
{
    struct wit_walk w = { .home = home, .arena = arena };
    AST_AUTO(ast_cfree) char *dir = ast_fs_join(source, "wit");
    enum ast_rc rc =
        dir ? walk_wit(&w, dir, NULL, 0, err) : ast_fail(err, AST_E_NO_MEMORY, "WIT files");

    if (!rc) {
        meta->wit_files = ast_arena_array(arena, w.paths.n, sizeof *meta->wit_files);
        meta->wit_file_count = meta->wit_files ? w.paths.n : 0;
        for (size_t i = 0; i < meta->wit_file_count; i++) {
            meta->wit_files[i].path = w.paths.v[i];
            meta->wit_files[i].hash = w.hashes.v[i];
        }
        rc = ast_arena_check(arena, err);
    }
    ast_vec_done(&w.paths);
    ast_vec_done(&w.hashes);
    return rc;
}
