/* Opening and closing the database, and its words for errors.
 *
 * Invariant: while a store is open its directory is locked, so nobody else writes the file and every slot
 * in LMDB's reader table is ours.
 */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "store/store_priv.h"

#include "base/banned.h"

#define RESERVE_MIN (1u << 20)
#define RESERVE_MAX (64u << 20)
#define MAP_STEP    (64u << 10) /* a multiple of every page size */

/* --- Errors -------------------------------------------------------------------------------- */

static const struct {
    int result;
    enum ast_rc rc;
    const char *text; /* NULL: LMDB's own words */
} results[] = {
    { MDB_MAP_FULL, AST_E_NO_CAPACITY, "the store has reached its maximum size" },
    { MDB_TXN_FULL, AST_E_NO_CAPACITY, "the change is too large for one transaction" },
    { MDB_READERS_FULL, AST_E_BUSY, "too many snapshots at one time" },
    { MDB_BAD_VALSIZE, AST_E_INVALID, NULL },
    { MDB_CORRUPTED, AST_E_CORRUPT, NULL },
    { MDB_PAGE_NOTFOUND, AST_E_CORRUPT, NULL },
    { MDB_INVALID, AST_E_CORRUPT, NULL },
    { MDB_VERSION_MISMATCH, AST_E_CORRUPT, NULL },
    { MDB_PANIC, AST_E_IO, "an earlier write failed; the store must be opened again" },
    { ENOSPC, AST_E_NO_CAPACITY, NULL },
    { EDQUOT, AST_E_NO_CAPACITY, NULL },
    { ENOMEM, AST_E_NO_MEMORY, NULL },
};

static const char *words_of(int result, enum ast_rc *ret_rc)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(results); i++) {
        if (results[i].result != result)
            continue;
        *ret_rc = results[i].rc;
        return results[i].text ? results[i].text : mdb_strerror(result);
    }
    *ret_rc = result > 0 ? ast_rc_from_errno(result) : AST_E_INTERNAL;
    return mdb_strerror(result);
}

enum ast_rc store_fail(struct ast_err *err, int result, const char *fmt, ...)
{
    char noun[256];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(noun, sizeof noun, fmt, args); /* a long path is cut, the error stays clear */
    va_end(args);
    enum ast_rc rc;
    const char *words = words_of(result, &rc);
    return ast_fail(err, rc, "storage error: %s: %s", noun, words);
}

/* --- Opening ------------------------------------------------------------------------------- */

/* Holds the directory for this store alone, against other processes and ourselves. */
static enum ast_rc lock_directory(struct ast_store *s, const char *path, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *name = ast_fs_join(path, "LOCK");
    if (!name)
        return ast_fail(err, AST_E_NO_MEMORY, "path");
    s->lock_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock_fd < 0)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "open '%s'", name);
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return AST_OK;
    if (errno == EWOULDBLOCK)
        return ast_fail(err, AST_E_BUSY, "'%s' is already open, perhaps by a running daemon", path);
    return ast_fail_errno(err, AST_E_IO, errno, "lock '%s'", name);
}

/* The files' own names must survive a power failure too; LMDB syncs only what is in them. */
static enum ast_rc sync_names(const char *path, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *parent = ast_fs_join(path, "..");
    if (!parent)
        return ast_fail(err, AST_E_NO_MEMORY, "path");
    const char *dirs[] = { path, parent };
    for (size_t i = 0; i < AST_ARRAY_LEN(dirs); i++) {
        AST_AUTO(ast_fs_close) int fd = open(dirs[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fsync(fd))
            return ast_fail_errno(err, AST_E_IO, errno, "sync directory '%s'", dirs[i]);
    }
    return AST_OK;
}

/* The descriptor LMDB writes data with is not close-on-exec in 0.9; a child must not inherit it. */
static int hide_descriptor(MDB_env *env)
{
    mdb_filehandle_t fd;
    int result = mdb_env_get_fd(env, &fd);
    if (result)
        return result;
    return fcntl(fd, F_SETFD, FD_CLOEXEC) ? errno : 0;
}

static int open_database(struct ast_store *s)
{
    MDB_txn *txn = NULL;
    int result = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (result)
        return result;
    result = mdb_dbi_open(txn, NULL, 0, &s->dbi);
    if (result) {
        mdb_txn_abort(txn);
        return result;
    }
    return mdb_txn_commit(txn); /* keeps the handle */
}

static enum ast_rc open_env(struct ast_store *s, const struct ast_store_config *cfg,
                            struct ast_err *err)
{
    uint64_t max = cfg->max_bytes ? cfg->max_bytes : AST_STORE_DEFAULT_BYTES, map;
    uint64_t reserve = AST_MAX(max / 16, (uint64_t)RESERVE_MIN);
    reserve = AST_MIN(reserve, (uint64_t)RESERVE_MAX);
    if (__builtin_add_overflow(max, reserve, &map) || map > SIZE_MAX / 2)
        return ast_fail(err, AST_E_INVALID, "max_bytes is too large");
    map += MAP_STEP - map % MAP_STEP;

    int result = mdb_env_create(&s->env);
    if (!result)
        result = mdb_env_set_mapsize(s->env, (size_t)map);
    if (!result)
        result = mdb_env_set_maxreaders(s->env, AST_STORE_MAX_READERS);
    if (!result)
        /* No MDB_NOMEMINIT: what was in our memory must not get into the file. */
        result = mdb_env_open(s->env, cfg->path, MDB_NOTLS | (cfg->no_sync ? MDB_NOSYNC : 0), 0600);
    if (!result)
        result = hide_descriptor(s->env);
    int dead;
    if (!result)
        result = mdb_reader_check(s->env, &dead); /* slots of a killed daemon */
    if (!result)
        result = open_database(s);
    MDB_envinfo info;
    MDB_stat stat;
    if (!result)
        result = mdb_env_info(s->env, &info);
    if (!result)
        result = mdb_env_stat(s->env, &stat);
    if (result)
        return store_fail(err, result, "open '%s'", cfg->path);
    s->page_bytes = stat.ms_psize; /* of the machine that made the file */
    s->map_pages = info.me_mapsize / s->page_bytes;
    s->reserve_pages = reserve / s->page_bytes;
    atomic_store_explicit(&s->pages_used, info.me_last_pgno + 1, memory_order_relaxed);
    return AST_OK;
}

/* Undoes what was opened, without the writer; a half-open store is fine. */
static void release(struct ast_store *s)
{
    for (size_t i = 0; i < STORE_IDLE_READERS; i++) {
        MDB_txn *txn = atomic_exchange_explicit(&s->idle[i].txn, NULL, memory_order_acquire);
        if (txn)
            mdb_txn_abort(txn);
    }
    if (s->env)
        mdb_env_close(s->env);
    ast_fs_close_auto(&s->lock_fd);
    (void)pthread_cond_destroy(&s->wake);
    ast_lock_done(&s->lock);
    free(s);
}
AST_DEFINE_AUTO(struct ast_store, release)

enum ast_rc ast_store_open(const struct ast_store_config *cfg, struct ast_store **ret,
                           struct ast_err *err)
{
    AST_AUTO(release) struct ast_store *s = aligned_alloc(_Alignof(struct ast_store), sizeof *s);
    if (!s)
        return ast_fail(err, AST_E_NO_MEMORY, "store");
    memset(s, 0, sizeof *s);
    s->lock_fd = -1;
    s->last = &s->first;
    s->group_max = cfg->group_max ? cfg->group_max : AST_STORE_DEFAULT_GROUP;
    ast_lock_init(&s->lock, AST_LOCK_store);
    ast_cond_init(&s->wake);

    enum ast_rc rc = ast_fs_mkdirs(cfg->path, 0700, err);
    if (!rc)
        rc = lock_directory(s, cfg->path, err);
    if (!rc)
        rc = open_env(s, cfg, err);
    if (!rc)
        rc = sync_names(cfg->path, err);
    if (!rc)
        rc = store_writer_start(s, err);
    if (rc)
        return ast_wrap(err, rc, "store");
    *ret = ast_steal(&s);
    return AST_OK;
}

void ast_store_close(struct ast_store *s)
{
    if (!s)
        return;
    store_writer_stop(s);
    (void)mdb_env_sync(s->env, 1); /* for no_sync; every commit is on disk otherwise */
    release(s);
}

void ast_store_stats(struct ast_store *s, struct ast_store_stats *ret)
{
    *ret = (struct ast_store_stats){
        .commits = atomic_load_explicit(&s->commits, memory_order_relaxed),
        .ops = atomic_load_explicit(&s->ops, memory_order_relaxed),
        .bytes_used = atomic_load_explicit(&s->pages_used, memory_order_relaxed) * s->page_bytes,
    };
}
