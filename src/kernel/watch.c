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

struct root {
    struct kernel_watch *w;
    char *path; /* owned; NULL: none */
    struct ast_dirwatch *watch;
};

/* Owner: main loop; `busy` says that the loader thread looks at `dir`. */
struct folder {
    struct kernel_watch *w;
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
    bool is_last;
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

static bool is_ignored(const char *name)
{
    static const char *const names[] = { ".", "..", ".git", "node_modules", "target", "dist" };
    for (size_t i = 0; i < AST_ARRAY_LEN(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
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
        char *below =
            e->d_type == DT_DIR && !is_ignored(e->d_name) ? ast_fs_join(path, e->d_name) : NULL;
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
    } else if (!ast_fs_exists(f->dir)) {
        forget(f);
    }
    free(l);
}

static void run_look(struct kernel_job *job)
{
    struct look *l = AST_CONTAINER_OF(job, struct look, job);
    struct ast_kernel *k = l->folder->w->k;

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

static void on_entry(void *arg, const char *name)
{
    struct root *r = arg;

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

static void watch_root(struct kernel_watch *w, struct root *r, char *path)
{
    struct ast_err err = AST_ERR_INIT;

    r->w = w;
    r->path = path;
    if (!path || !ast_fs_is_dir(path))
        return; /* a workspace without capsules of its own */
    if (ast_dirwatch_new(w->k->loop, path, on_entry, r, &r->watch, &err))
        say_unwatched(w, err.msg);
    else
        scan(r, /* is_news= */ false);
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
    watch_root(w, &w->roots[0], ast_steal(&own));
    if (k->workspace)
        watch_root(w, &w->roots[1], ast_fs_join(k->workspace, ".astrid/capsules"));
    *ret = w;
    return AST_OK;
}

void kernel_watch_stop(struct kernel_watch *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < ROOTS; i++) {
        ast_dirwatch_close(w->roots[i].watch);
        free(w->roots[i].path);
    }
    ast_vec_each (&w->folders, f)
        folder_free(*f);
    ast_vec_done(&w->folders);
    free(w);
}
