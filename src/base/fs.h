/* Files of the home tree: bounded reads, atomic writes, private directories.
 *
 * Paths are NUL-terminated. Descriptors are close-on-exec from birth. Threads: any; all block.
 */
#pragma once

#include <stdlib.h>
#include <sys/types.h>

#include "base/buf.h"

/* Whole regular file (symlinks followed), at most `max` bytes, appended to `out`.
 * Errors: NOT_FOUND, DENIED, TOO_LARGE, INVALID (not a regular file), IO. */
AST_MUST_CHECK
enum ast_rc ast_fs_read(const char *path, size_t max, struct ast_buf *out, struct ast_err *err);

enum ast_fs_write_flags { AST_FS_SYNC = 1u << 0 /* fsync file and directory before returning */ };

/* Temp file with a unique name beside it, mode `mode`, write, rename. A reader sees the old bytes
 * or the new ones. On failure nothing is left behind. */
AST_MUST_CHECK
enum ast_rc ast_fs_write_atomic(const char *path, struct ast_str data, mode_t mode, unsigned flags,
                                struct ast_err *err);

/* Removes the temp files that ast_fs_write_atomic() left in `dir` and in `depth` levels of folders below when its process
 * was killed, and says how many. `min_age_s` spares those that another process may be writing now; symlinks are not
 * followed. What cannot be read or removed stays: a temp file is in nobody's way. */
unsigned ast_fs_sweep(const char *dir, unsigned depth, int64_t min_age_s);

/* One of many files that come into one directory together. */
struct ast_fs_file {
    const char *name;    /* in the directory */
    struct ast_str data; /* borrowed for the call */
    enum ast_rc rc;      /* in: not OK skips the file. Out: its fate */
    struct ast_err err;
};
/* Each as ast_fs_write_atomic() with AST_FS_SYNC does it, but the waits for the disk are shared. `meanwhile` (may be NULL) is
 * called for each file while the disk is busy, before the file gets its name; its failure is the file's. With more than a few
 * files helper threads wait for the disk; they are gone on return. */
void ast_fs_write_group(const char *dir, struct ast_fs_file *files, size_t n, mode_t mode,
                        enum ast_rc (*meanwhile)(void *arg, size_t i, struct ast_err *err),
                        void *arg);

/* Creates missing parents too, each with `mode` from birth (no umask window). Existing ones stay. */
AST_MUST_CHECK
enum ast_rc ast_fs_mkdirs(const char *path, mode_t mode, struct ast_err *err);

bool ast_fs_exists(const char *path); /* lstat: a dangling symlink exists */
bool ast_fs_is_dir(const char *path);

/* Depth-first removal that never follows a symlink. Missing is fine. */
enum ast_rc ast_fs_remove_tree(const char *path, struct ast_err *err);

/* "dir/name"; NULL when out of memory. free() it. */
char *ast_fs_join(const char *dir, const char *name);
char *ast_fs_joinf(const char *dir, const char *fmt, ...) AST_PRINTF(2, 3);

void ast_fs_close_auto(int *fd);            /* for AST_AUTO(ast_fs_close) int fd = -1; */
static inline void ast_cfree_auto(void *pp) /* AST_AUTO(ast_cfree) char *p = NULL; */
{
    free(*(void **)pp);
}
