/* Per-principal env values: <home>/home/<principal>/.config/env/<capsule>.env.json (spec 05 §9.1, §9.4).
 *
 * Invariant: an overlay holds only keys the manifest declares and that are neither secret nor reserved. It is
 * immutable; the file is read again when its mtime, size or inode changed. A file that cannot be used counts as
 * absent, is reported once per version of the file, and the base config shows through.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/json.h"
#include "base/time.h"
#include "host/host_priv.h"

#include "base/banned.h"

/* Which version of the file it was. */
struct stamp {
    int64_t mtime_ns;
    int64_t size;
    uint64_t inode;
};

/* Shared by reference; immutable. */
struct host_overlay {
    atomic_uint refs;
    struct stamp stamp;
    struct ast_buf text;     /* all keys and values */
    struct ast_host_pair *v; /* owned; views into text */
    size_t n;
};

struct host_overlay *host_overlay_ref(struct host_overlay *o)
{
    atomic_fetch_add_explicit(&o->refs, 1, memory_order_relaxed);
    return o;
}

void host_overlay_unref(struct host_overlay *o)
{
    if (!o || atomic_fetch_sub_explicit(&o->refs, 1, memory_order_acq_rel) != 1)
        return;
    ast_buf_done(&o->text);
    free(o->v);
    free(o);
}
AST_DEFINE_AUTO(struct host_overlay, host_overlay_unref)

bool host_overlay_find(const struct host_overlay *o, struct ast_str key, struct ast_str *ret)
{
    for (size_t i = 0; i < o->n; i++)
        if (ast_str_eq(o->v[i].key, key)) {
            *ret = o->v[i].value;
            return true;
        }
    return false;
}

/* --- Reading ------------------------------------------------------------------------------------- */

/* The member's text appended to `out`: strings as they are, other values as their JSON text. */
static enum ast_rc add_value(const struct ast_json *v, struct ast_buf *out)
{
    struct ast_str s;
    return ast_json_string(v, &s) ? ast_buf_add(out, s) : ast_json_compact(v, out);
}

/* Walks the declared keys, so that the result is as long as the manifest allows whatever the file holds. */
static enum ast_rc pick_declared(const struct ast_host_env *env, const struct ast_json *root,
                                 struct host_overlay *o, struct ast_err *err)
{
    if (ast_json_type(root) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "not a JSON object");
    if (!env->declared_count)
        return AST_OK;
    size_t *ends = calloc(env->declared_count, sizeof *ends);
    o->v = calloc(env->declared_count, sizeof *o->v);
    if (!ends || !o->v) {
        free(ends);
        return ast_fail(err, AST_E_NO_MEMORY, "overlay");
    }
    for (size_t i = 0; i < env->declared_count; i++) {
        const struct ast_json *v = ast_json_get(root, env->declared[i]);
        if (!v)
            continue;
        (void)add_value(v, &o->text); /* sticky: asked about below */
        o->v[o->n].key = env->declared[i];
        ends[o->n++] = o->text.n;
    }
    /* Views only now: the text moved while it grew. */
    size_t at = 0;
    for (size_t i = 0; i < o->n; i++) {
        o->v[i].value = ast_str_n(o->text.p + at, ends[i] - at);
        at = ends[i];
    }
    free(ends);
    return ast_buf_check(&o->text, "overlay", err);
}

static enum ast_rc read_overlay(const struct ast_host_env *env, const char *path,
                                struct host_overlay *o, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf file = AST_BUF_INIT(HOST_OVERLAY_MAX_BYTES);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    enum ast_rc rc = ast_fs_read(path, HOST_OVERLAY_MAX_BYTES, &file, err);
    if (!rc)
        rc = ast_json_parse(ast_buf_view(&file), &doc, err);
    if (!rc)
        rc = pick_declared(env, ast_json_root(doc), o, err);
    return rc;
}

/* Never NULL except for lack of memory: an unusable file gives an overlay without values. */
static struct host_overlay *load(const struct ast_host_env *env, const char *path,
                                 const struct stamp *stamp)
{
    AST_AUTO(host_overlay_unref) struct host_overlay *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    atomic_init(&o->refs, 1);
    o->stamp = *stamp;
    o->text = (struct ast_buf)AST_BUF_INIT(4 * HOST_OVERLAY_MAX_BYTES);
    struct ast_err err = AST_ERR_INIT;
    enum ast_rc rc = read_overlay(env, path, o, &err);
    if (rc) {
        o->n = 0;
        ast_log_warn(HOST_LOG, "ignoring env file '%s' of '" AST_STR_FMT "': %s", path,
                     AST_STR_ARG(env->capsule_id), err.msg);
    }
    return ast_steal(&o);
}

/* --- Finding ------------------------------------------------------------------------------------- */

static bool look(const char *path, struct stamp *ret)
{
    struct stat st;
    if (stat(path, &st))
        return false;
    *ret = (struct stamp){
        .mtime_ns = st.st_mtim.tv_sec * AST_NS_PER_SEC + st.st_mtim.tv_nsec,
        .size = st.st_size,
        .inode = st.st_ino,
    };
    return true;
}

static bool stamp_eq(const struct stamp *a, const struct stamp *b)
{
    return a->mtime_ns == b->mtime_ns && a->size == b->size && a->inode == b->inode;
}

static struct host_overlay *cached(struct host_files *f, struct ast_str principal,
                                   const struct stamp *stamp)
{
    AST_WITH_LOCK(&f->lock);
    struct host_overlay *o = ast_map_get(&f->overlays, principal);
    return o && stamp_eq(&o->stamp, stamp) ? host_overlay_ref(o) : NULL;
}

static void keep(struct host_files *f, struct ast_str principal, struct host_overlay *o)
{
    void *old;
    {
        AST_WITH_LOCK(&f->lock);
        old = host_files_put(f, &f->overlays, principal, host_overlay_ref(o));
    }
    host_overlay_unref(old);
}

struct host_overlay *host_overlay_get(struct ast_host_env *env, struct ast_str principal)
{
    char path[PATH_MAX];
    int n =
        snprintf(path, sizeof path, "%s/home/" AST_STR_FMT "/.config/env/" AST_STR_FMT ".env.json",
                 env->host->home->root, AST_STR_ARG(principal), AST_STR_ARG(env->capsule_id));
    struct stamp stamp;
    if (n < 0 || (size_t)n >= sizeof path || !look(path, &stamp))
        return NULL;
    struct host_files *f = host_files(env);
    struct host_overlay *o = f ? cached(f, principal, &stamp) : NULL;
    if (o)
        return o;
    o = load(env, path, &stamp);
    if (o && f)
        keep(f, principal, o);
    return o;
}
