/* A .capsule archive from anywhere: nothing but files and directories comes out, and only below the target folder. */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "capsule/install.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int check(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)at;
    AST_ASSERT(kind == FTW_D || kind == FTW_F);
    AST_ASSERT(S_ISDIR(st->st_mode) || (S_ISREG(st->st_mode) && st->st_nlink == 1));
    AST_ASSERT(!(st->st_mode & (S_ISUID | S_ISGID | S_IWOTH)));
    (void)path;
    return 0;
}

static int erase(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char room[] = "/tmp/astrid-fuzz-XXXXXX", archive[64], out[64], canary[64];
    struct ast_err err = AST_ERR_INIT;
    struct stat st;

    AST_ASSERT(mkdtemp(room));
    snprintf(archive, sizeof archive, "%s/a.capsule", room);
    snprintf(out, sizeof out, "%s/out", room);
    snprintf(canary, sizeof canary, "%s/canary", room);
    AST_ASSERT(!mkdir(out, 0700) && !mkdir(canary, 0500));
    AST_ASSERT(!ast_fs_write_atomic(archive, ast_str_n(data, size), 0600, 0, &err));
    enum ast_rc rc = ast_archive_unpack(archive, out, &err);
    AST_ASSERT(!rc || err.msg[0]);
    AST_ASSERT(!nftw(out, check, 16, FTW_PHYS));
    AST_ASSERT(!stat(room, &st) && st.st_nlink == 4); /* out and canary, nothing beside them */
    AST_ASSERT(!nftw(room, erase, 16, FTW_PHYS | FTW_DEPTH));
    return 0;
}
