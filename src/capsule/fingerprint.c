/* What a load is made from, as one digest: it changes when a reload has something to do (spec 07 §5).
 *
 * differs: the original's design leaves *.wasm out, because meta.json names the binary by its hash. A binary that
 * lies in the folder counts here, so one that was put there without its meta.json is noticed and refused by name.
 */
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "capsule/registry_priv.h"

#include "base/banned.h"

#define CONTENT_MAX (1024u * 1024) /* larger files count by size and time */
#define NAMED_MAX   (4u * 1024 * 1024)
#define DEPTH_MAX   8u
#define FILES_MAX   4096u

struct walk {
    struct ast_blake3_state state;
    unsigned files;
};

static void feed_number(struct walk *w, uint64_t n)
{
    ast_blake3_feed(&w->state, ast_str_n(&n, sizeof n));
}

static void feed_text(struct walk *w, struct ast_str s)
{
    feed_number(w, s.n); /* where one ends and the next begins */
    ast_blake3_feed(&w->state, s);
}

/* Links are followed. Frees `path` (NULL: no memory). */
static void feed_named(struct walk *w, char *path)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(NAMED_MAX);
    struct ast_err unused = AST_ERR_INIT;

    if (path && ast_fs_read(path, NAMED_MAX, &text, &unused) == AST_OK)
        feed_text(w, ast_buf_view(&text));
    else
        feed_number(w, UINT64_MAX); /* no such file, or none we would read */
    free(path);
}

static void feed_file(struct walk *w, const char *path, const char *relative, const struct stat *st)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(CONTENT_MAX);
    struct ast_err unused = AST_ERR_INIT;

    if (st->st_size <= (off_t)CONTENT_MAX) {
        if (ast_fs_read(path, CONTENT_MAX, &text, &unused))
            return; /* unreadable, or gone */
        feed_text(w, ast_str_c(relative));
        feed_text(w, ast_buf_view(&text));
        return;
    }
    feed_text(w, ast_str_c(relative));
    feed_number(w, (uint64_t)st->st_size);
    feed_number(w, (uint64_t)st->st_ino);
    feed_number(w, (uint64_t)st->st_mtim.tv_sec);
    feed_number(w, (uint64_t)st->st_mtim.tv_nsec);
}

bool ast_capsules_ignore_dir(const char *name)
{
    static const char *const names[] = { ".", "..", ".git", "node_modules", "target", "dist" };
    for (size_t i = 0; i < AST_ARRAY_LEN(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* DEPTH_MAX ends it. */
static void feed_dir(struct walk *w, const char *path, const char *relative, unsigned depth)
{
    struct dirent **entries = NULL;
    int n = depth > DEPTH_MAX ? 0 : scandir(path, &entries, NULL, by_bytes);

    for (int i = 0; i < n; i++) {
        AST_AUTO(ast_cfree) struct dirent *e = entries[i];
        AST_AUTO(ast_cfree) char *full = ast_fs_join(path, e->d_name);
        AST_AUTO(ast_cfree) char *inner = ast_fs_join(relative, e->d_name);
        struct stat st;
        if (!full || !inner || lstat(full, &st))
            continue;
        if (S_ISDIR(st.st_mode) && !ast_capsules_ignore_dir(e->d_name))
            feed_dir(w, full, inner, depth + 1);
        else if (S_ISREG(st.st_mode) && w->files++ < FILES_MAX)
            feed_file(w, full, inner, &st);
    }
    free(entries);
}

void capsule_fingerprint(struct ast_capsules *owner, const char *dir, struct ast_str id,
                         uint8_t out[static AST_BLAKE3_BYTES])
{
    struct walk w = { .files = 0 };

    ast_blake3_begin(&w.state);
    feed_named(&w, ast_fs_join(dir, "Capsule.toml"));
    feed_named(&w, ast_fs_join(dir, "meta.json"));
    feed_named(&w, ast_fs_join(dir, ".env.json"));
    feed_named(&w, ast_home_path(owner->host->home, "home/%s/.config/env/" AST_STR_FMT ".env.json",
                                 owner->owner.name, AST_STR_ARG(id)));
    feed_dir(&w, dir, "", 0);
    ast_blake3_end(&w.state, out);
}
