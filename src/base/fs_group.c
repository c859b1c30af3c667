/* Many small files made durable at about the price of a few.
 *
 * Invariant: no file has its name before its bytes are durable, and none is reported OK before its name is.
 *
 *     write temp files -> start write-back of all -> fsync each, on some threads -> rename each -> fsync the directory
 *
 * One fsync after the other would wait for the disk once a file. Several at a time share a journal commit and a flush; with
 * the write-back begun for all, the first commit covers most of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/fs_priv.h"
#include "base/thread.h"

#include "base/banned.h"

#define OPEN_MAX_FILES 128u /* descriptors held at one time */
#define SYNC_THREADS   8u   /* they only wait; more share no more */
#define FILES_PER_SYNC 4u   /* below that many a thread costs more than it saves */

struct temp {
    int fd;
    int failed;               /* errno of its fsync */
    char name[FS_TEMP_BYTES]; /* empty: there is none */
};

/* Owner: the writing thread. The syncing threads take temps by `next` and touch nothing else. */
struct batch {
    int dir;
    mode_t mode;
    struct ast_fs_file *files;
    struct temp *temps;
    size_t first, end; /* what is open now */
    atomic_size_t next;
};

static enum ast_rc failed_file(struct ast_fs_file *f, int failed, const char *what)
{
    f->rc = ast_fail_errno(&f->err, ast_rc_from_errno(failed), failed, "%s '%s'", what, f->name);
    return f->rc;
}

static void open_temp(struct batch *b, size_t i)
{
    struct ast_fs_file *f = &b->files[i];
    struct temp *t = &b->temps[i];

    fs_temp_name(t->name);
    t->fd = openat(b->dir, t->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, b->mode);
    if (t->fd < 0) {
        t->name[0] = 0;
        failed_file(f, errno, "create");
        return;
    }
    int failed = fchmod(t->fd, b->mode) ? errno : fs_write_all(t->fd, f->data);
    if (failed)
        failed_file(f, failed, "write");
    else
        (void)sync_file_range(t->fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* a hint: fsync decides */
}

static void *sync_temps(void *arg)
{
    struct batch *b = arg;
    size_t i;

    while ((i = atomic_fetch_add_explicit(&b->next, 1, memory_order_relaxed)) < b->end)
        if (b->temps[i].fd >= 0 && fsync(b->temps[i].fd))
            b->temps[i].failed = errno;
    return NULL;
}

static void close_temps(struct batch *b)
{
    for (size_t i = b->first; i < b->end; i++) {
        struct ast_fs_file *f = &b->files[i];
        struct temp *t = &b->temps[i];
        if (t->fd < 0)
            continue;
        int failed = close(t->fd) ? errno : 0; /* some file systems report a full disk only here */
        t->fd = -1;
        if (!f->rc && (t->failed || failed))
            failed_file(f, t->failed ? t->failed : failed, "write");
    }
}

/* Temp files of b->first to b->end, durable or failed at the end. */
static void write_some(struct batch *b,
                       enum ast_rc (*meanwhile)(void *arg, size_t i, struct ast_err *err),
                       void *arg)
{
    pthread_t threads[SYNC_THREADS];
    unsigned running = 0;
    size_t wanted = AST_MIN((b->end - b->first) / FILES_PER_SYNC, SYNC_THREADS);

    for (size_t i = b->first; i < b->end; i++)
        if (!b->files[i].rc)
            open_temp(b, i);
    atomic_store_explicit(&b->next, b->first, memory_order_relaxed); /* pthread_create() orders */
    while (running < wanted &&
           !ast_thread_start(&threads[running], "ast-sync", sync_temps, b, /* err= */ NULL))
        running++;
    for (size_t i = b->first; meanwhile && i < b->end; i++)
        if (!b->files[i].rc)
            b->files[i].rc = meanwhile(arg, i, &b->files[i].err);
    (void)sync_temps(b); /* what nobody has taken yet */
    while (running)
        (void)pthread_join(threads[--running], NULL); /* cannot fail: ours, and joined once */
    close_temps(b);
}

static void name_one(struct batch *b, size_t i)
{
    struct ast_fs_file *f = &b->files[i];
    struct temp *t = &b->temps[i];

    if (!t->name[0])
        return;
    if (!f->rc && renameat(b->dir, t->name, b->dir, f->name))
        failed_file(f, errno, "replace");
    if (f->rc)
        (void)unlinkat(b->dir, t->name, 0); /* the first failure is the one to report */
}

void ast_fs_write_group(const char *dir, struct ast_fs_file *files, size_t n, mode_t mode,
                        enum ast_rc (*meanwhile)(void *arg, size_t i, struct ast_err *err),
                        void *arg)
{
    AST_AUTO(ast_fs_close) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd < 0 ? errno : 0;
    AST_AUTO(ast_cfree) struct temp *temps = calloc(n, sizeof *temps);
    struct batch b = { .dir = fd, .mode = mode, .files = files, .temps = temps };

    if (fd < 0 || !temps) {
        for (size_t i = 0; i < n; i++)
            if (!files[i].rc)
                failed_file(&files[i], failed ? failed : ENOMEM, "write");
        return;
    }
    for (size_t i = 0; i < n; i++)
        temps[i].fd = -1;
    for (b.first = 0; b.first < n; b.first = b.end) {
        b.end = AST_MIN(b.first + OPEN_MAX_FILES, n);
        write_some(&b, meanwhile, arg);
    }
    for (size_t i = 0; i < n; i++)
        name_one(&b, i);
    if (fsync(fd)) {
        failed = errno;
        for (size_t i = 0; i < n; i++)
            if (!files[i].rc)
                failed_file(&files[i], failed, "sync the directory of");
    }
}
