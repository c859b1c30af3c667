/* The capsule folders: what changes on disk comes to serve without anybody asking (spec 07 §5).
 *
 *   event -> QUIET 500 ms -> a look on the loader thread --same, changed, failed--> until the next event
 *                ^                     |
 *                +-- not settled ------+   at most six times, then the look says what is wrong
 *
 * Each event starts the half second anew. What a load would read is compared by hash, so a look after the daemon's own
 * install finds nothing to do. A folder that cannot be watched costs the comfort, not the capsule: ReloadCapsules
 * always works.
 */
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/vec.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

#define QUIET_MS     500u /* spec 07 §5 */
#define PATIENCE     6u   /* looks at files that do not fit together */
#define DEPTH_MAX    8u
#define WATCHES_MAX  64u /* folders below one capsule */
#define CAPSULES_MAX 1024u
#define ROOTS        2u
#define LEVELS_MAX   8u

struct root;

/* A folder on the way to a root: each is watched, for the root may come, go or be replaced by what happens to any. */
struct level {
    struct root *root;
    char *path; /* owned */
    dev_t dev;  /* of the folder when the watch was made: another one may take its name */
    ino_t ino;
    struct ast_dirwatch *watch;
};

/* Owner: main loop. */
struct root {
    struct kernel_watch *w;
    char *path;                      /* owned; NULL: none */
    const char *floor;               /* borrowed: the folder above it that is always there */
    struct level levels[LEVELS_MAX]; /* from the floor down, as far as there are folders */
    size_t n;
};

/* Owner: main loop; `busy` says that the loader thread looks at `dir`. */
struct folder {
    struct kernel_watch *w;
    const struct root *root;
    char *dir; /* owned */
    AST_VEC(struct ast_dirwatch *) watches;
    struct ast_timer *quiet;
    unsigned looks; /* since the last event, without a result */
    bool busy, again;
};

/* Owner: main loop. */
struct kernel_watch {
    struct ast_kernel *k;
    struct root roots[ROOTS];
    AST_VEC(struct folder *) folders;
    bool said; /* that something cannot be watched */
};

struct look {
    struct kernel_job job;
    struct ast_post done;
    struct folder *folder;
    bool is_last, was_gone;
    enum ast_capsules_notice found;
};

static void say_unwatched(struct kernel_watch *w, const char *why)
{
    if (!w->said)
        ast_log_warn(
            KERNEL_TARGET,
            "changes of capsule folders may go unnoticed until a ReloadCapsules request: %s", why);
    w->said = true;
}

/* --- One folder ------------------------------------------------------------------------------------------------ */

static void touch(struct folder *f)
{
    f->looks = 0;
    ast_timer_start(f->quiet, QUIET_MS, 0);
}

static void on_inside(void *arg, const char *name)
{
    touch(arg);
}

static void watch_below(struct folder *f, const char *path, unsigned depth)
{
    struct ast_dirwatch *watch = NULL;
    struct ast_err err = AST_ERR_INIT;
    DIR *dir = NULL;

    if (depth > DEPTH_MAX || f->watches.n >= WATCHES_MAX)
        return;
    enum ast_rc rc = ast_dirwatch_new(f->w->k->loop, path, on_inside, f, &watch, &err);
    if (rc && rc != AST_E_NOT_FOUND)
        say_unwatched(f->w, err.msg);
    if (rc)
        return;
    if (!ast_vec_push(&f->watches, watch)) {
        ast_dirwatch_close(watch);
        return;
    }
    if (!(dir = opendir(path)))
        return; /* gone again: its own folder tells */
    for (const struct dirent *e; (e = readdir(dir));) {
        AST_AUTO(ast_cfree)
        char *below = e->d_type == DT_DIR && !ast_capsules_ignore_dir(e->d_name)
                          ? ast_fs_join(path, e->d_name)
                          : NULL;
        if (below)
            watch_below(f, below, depth + 1);
    }
    closedir(dir);
}

/* Folders come and go, and after an install the path leads to another one: all anew. */
static void watch_again(struct folder *f)
{
    ast_vec_each (&f->watches, watch)
        ast_dirwatch_close(*watch);
    ast_vec_clear(&f->watches);
    watch_below(f, f->dir, 0);
}

static void folder_free(struct folder *f)
{
    ast_vec_each (&f->watches, watch)
        ast_dirwatch_close(*watch);
    ast_vec_done(&f->watches);
    ast_timer_close(f->quiet);
    free(f->dir);
    free(f);
}

static void forget(struct folder *f)
{
    struct kernel_watch *w = f->w;
    for (size_t i = 0; i < w->folders.n; i++) {
        if (w->folders.v[i] != f)
            continue;
        ast_vec_remove_swap(&w->folders, i);
        break;
    }
    folder_free(f);
}

static void on_looked(struct ast_post *post)
{
    struct look *l = AST_CONTAINER_OF(post, struct look, done);
    struct folder *f = l->folder;

    f->busy = false;
    if (f->again) {
        f->again = false;
        touch(f);
    } else if (l->found == AST_CAPSULES_UNSETTLED && f->looks < PATIENCE) {
        ast_timer_start(f->quiet, QUIET_MS, 0);
    } else if (l->was_gone && f->looks && !ast_fs_exists(f->dir)) {
        forget(f); /* a folder that went after the look needs another one first */
    }
    free(l);
}

static void run_look(struct kernel_job *job)
{
    struct look *l = AST_CONTAINER_OF(job, struct look, job);
    struct ast_kernel *k = l->folder->w->k;

    l->was_gone = !ast_fs_exists(l->folder->dir); /* before it is acted upon */
    l->found = ast_capsules_notice(k->capsules, l->folder->dir, l->is_last);
    if (l->found == AST_CAPSULES_CHANGED)
        ast_log_fields(AST_LOG_INFO, KERNEL_TARGET, "Capsule folder changed, capsules follow",
                       AST_F_CSTR("dir", l->folder->dir));
    l->done.fn = on_looked;
    ast_loop_post(k->loop, &l->done);
}

static void on_quiet(void *arg)
{
    struct folder *f = arg;

    if (f->busy) {
        f->again = true;
        return;
    }
    watch_again(f); /* before the look: what comes later is an event again */
    struct look *l = calloc(1, sizeof *l);
    if (!l) {
        say_unwatched(f->w, "out of memory");
        return;
    }
    l->folder = f;
    l->is_last = ++f->looks >= PATIENCE;
    l->job.run = run_look;
    f->busy = kernel_loader_post(&f->w->k->loader, &l->job);
    if (!f->busy)
        free(l); /* the daemon is going down */
}

/* --- The folders of a root ------------------------------------------------------------------------------------- */

static struct folder *folder_for(struct root *r, const char *name)
{
    struct kernel_watch *w = r->w;
    AST_AUTO(ast_cfree) char *dir = ast_fs_join(r->path, name);

    for (size_t i = 0; dir && i < w->folders.n; i++)
        if (strcmp(w->folders.v[i]->dir, dir) == 0)
            return w->folders.v[i];
    struct folder *f = dir && w->folders.n < CAPSULES_MAX ? calloc(1, sizeof *f) : NULL;
    if (!f)
        return NULL;
    f->w = w;
    f->root = r;
    f->dir = ast_steal(&dir);
    f->quiet = ast_timer_new(w->k->loop, on_quiet, f);
    if (f->quiet && ast_vec_push(&w->folders, f))
        return f;
    folder_free(f);
    return NULL;
}

/* Staging folders and backups are the installer's business. */
static bool is_capsule_name(const char *name)
{
    return name[0] != '.' && !ast_str_ends(ast_str_c(name), AST_STR(".bak"));
}

/* Watches every folder of the root that is not watched yet. */
static void scan(struct root *r, bool is_news)
{
    DIR *dir = opendir(r->path);

    if (!dir)
        return;
    for (const struct dirent *e; (e = readdir(dir));) {
        struct folder *f =
            is_capsule_name(e->d_name) && e->d_type != DT_REG ? folder_for(r, e->d_name) : NULL;
        if (!f)
            continue;
        watch_again(f);
        if (is_news)
            touch(f);
    }
    closedir(dir);
}

/* The path's first n bytes, a folder on the way; free() it. NULL: no such folder, or no memory. */
static char *folder_on_the_way(const struct root *r, size_t n, struct stat *ret)
{
    char *path = ast_str_dup(ast_str_n(r->path, n));

    if (path && stat(path, ret) == 0 && S_ISDIR(ret->st_mode))
        return path;
    free(path);
    return NULL;
}

/* Where the next level's path ends; 0: there is none. */
static size_t next_end(const struct root *r, size_t end)
{
    size_t n = strlen(r->path);

    if (end >= n)
        return 0;
    const char *slash = strchr(r->path + end + 1, '/');
    return slash ? (size_t)(slash - r->path) : n;
}

static size_t first_end(const struct root *r)
{
    size_t n = strlen(r->floor);
    while (n > 1 && r->floor[n - 1] == '/')
        n--;
    return n;
}

/* Whether all folders on the way are watched, and are those that were. */
static bool is_placed(const struct root *r)
{
    size_t i = 0;
    struct stat st;

    for (size_t end = first_end(r); end; end = next_end(r, end), i++) {
        AST_AUTO(ast_cfree) char *path = folder_on_the_way(r, end, &st);
        if (!path)
            break;
        if (i >= r->n || r->levels[i].dev != st.st_dev || r->levels[i].ino != st.st_ino)
            return false;
    }
    return i == r->n;
}

static bool is_there(const struct root *r)
{
    return r->n && strcmp(r->levels[r->n - 1].path, r->path) == 0;
}

static void levels_drop(struct root *r)
{
    for (; r->n; r->n--) {
        ast_dirwatch_close(r->levels[r->n - 1].watch);
        free(r->levels[r->n - 1].path);
    }
}

static void on_entry(void *arg, const char *name);

static void levels_make(struct root *r)
{
    struct ast_err err = AST_ERR_INIT;
    struct stat st;

    for (size_t end = first_end(r); end && r->n < LEVELS_MAX; end = next_end(r, end)) {
        struct level *l = &r->levels[r->n];
        char *path = folder_on_the_way(r, end, &st);
        if (!path)
            return;
        *l = (struct level){ .root = r, .path = path, .dev = st.st_dev, .ino = st.st_ino };
        if (ast_dirwatch_new(r->w->k->loop, path, on_entry, l, &l->watch, &err)) {
            say_unwatched(r->w, err.msg);
            free(path);
            return;
        }
        r->n++;
    }
}

static void place(struct root *r, bool is_news)
{
    for (unsigned tries = 0; tries < PATIENCE && !is_placed(r); tries++) {
        levels_drop(r);
        levels_make(r); /* what changed meanwhile is seen by the next round, or by the watches */
    }
    if (is_there(r))
        scan(r, is_news);
}

/* The root came, went, or is another folder now. */
static void move(struct root *r)
{
    for (size_t i = 0; i < r->w->folders.n; i++)
        if (r->w->folders.v[i]->root == r)
            touch(r->w->folders.v[i]);
    place(r, /* is_news= */ true);
}

static void on_entry(void *arg, const char *name)
{
    const struct level *l = arg;
    struct root *r = l->root;

    if (!is_placed(r)) {
        move(r);
        return;
    }
    if (strcmp(l->path, r->path) != 0)
        return; /* something else in a folder above */
    if (!name) {
        scan(r, /* is_news= */ true);
        return;
    }
    struct folder *f = is_capsule_name(name) ? folder_for(r, name) : NULL;
    if (!f)
        return;
    watch_again(f);
    touch(f);
}

/* Takes the path. */
static void watch_root(struct kernel_watch *w, struct root *r, char *path, const char *floor)
{
    *r = (struct root){ .w = w, .floor = floor };
    r->path = path;
    if (path)
        place(r, /* is_news= */ false);
    else
        say_unwatched(w, "out of memory");
}

/* --- Life ------------------------------------------------------------------------------------------------------ */

enum ast_rc kernel_watch_start(struct ast_kernel *k, struct kernel_watch **ret, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *own = ast_home_path(k->home, "home/default/.local/capsules");
    struct kernel_watch *w = calloc(1, sizeof *w);

    if (!w || !own) {
        free(w);
        return ast_fail(err, AST_E_NO_MEMORY, "capsule watch");
    }
    w->k = k;
    if (ast_fs_mkdirs(own, 0700, err))
        say_unwatched(w, err ? err->msg : own);
    watch_root(w, &w->roots[0], ast_steal(&own), k->home->root);
    if (k->workspace) /* it may get capsules of its own later */
        watch_root(w, &w->roots[1], ast_fs_join(k->workspace, ".astrid/capsules"), k->workspace);
    *ret = w;
    return AST_OK;
}

void kernel_watch_stop(struct kernel_watch *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < ROOTS; i++) {
        levels_drop(&w->roots[i]);
        free(w->roots[i].path);
    }
    ast_vec_each (&w->folders, f)
        folder_free(*f);
    ast_vec_done(&w->folders);
    free(w);
}
