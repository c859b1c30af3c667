/* The revocation map and its file etc/gateway-revocations.json.
 *
 * Invariant: what is in memory counts at once; the file is a full copy, replaced atomically by one writer thread.
 */
#include "gateway/revoke_priv.h"

#include <stdlib.h>

#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/map.h"
#include "base/thread.h"
#include "base/vec.h"
#include "gateway/gateway_limits.h"

#include "base/banned.h"

struct entry {
    struct ast_principal principal;
    uint64_t epoch_secs;
};

/* Owner: any thread, under `lock`; `path` and `writer` are immutable after open. */
struct gw_revocations {
    struct ast_lock lock;
    struct ast_map by_principal AST_GUARDED_BY(lock); /* values owned: struct entry */
    uint64_t version AST_GUARDED_BY(lock);            /* +1 a change */
    uint64_t written AST_GUARDED_BY(lock);            /* version the file was tried with */
    bool closing AST_GUARDED_BY(lock);
    atomic_size_t count; /* of entries; 0 spares the look-up */
    pthread_cond_t changed, done;
    pthread_t writer;
    bool has_writer;
    char *path; /* owned */
};

/* --- Reading ------------------------------------------------------------------------------- */

static bool put(struct gw_revocations *r, const struct ast_principal *who, uint64_t epoch_secs)
{
    struct entry *e = ast_map_get(&r->by_principal, ast_principal_str(who));
    if (e) {
        e->epoch_secs = AST_MAX(e->epoch_secs, epoch_secs);
        return true;
    }
    e = calloc(1, sizeof *e);
    if (!e)
        return false;
    *e = (struct entry){ *who, epoch_secs };
    if (!ast_map_set(&r->by_principal, ast_principal_str(who), e, NULL)) {
        free(e);
        return false;
    }
    atomic_fetch_add_explicit(&r->count, 1, memory_order_release);
    return true;
}

static enum ast_rc read_entries(struct gw_revocations *r, struct ast_str text, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    enum ast_rc rc = ast_json_parse(text, &doc, err);
    if (rc)
        return rc;
    const struct ast_json *root = ast_json_root(doc), *v;
    if (ast_json_type(root) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_CORRUPT, "expected an object, found %s",
                        ast_json_type_name(root));
    struct ast_json_iter it = AST_JSON_ITER(root);
    struct ast_str key;
    while (ast_json_next(&it, &key, &v)) {
        struct ast_principal who;
        uint64_t epoch_secs;
        rc = ast_principal_parse(key, &who, err);
        if (rc)
            return rc;
        if (!ast_json_u64(v, &epoch_secs))
            return ast_fail(err, AST_E_CORRUPT, "entry of %s is not a whole number of seconds",
                            who.name);
        if (!put(r, &who, epoch_secs))
            return ast_fail(err, AST_E_NO_MEMORY, "revocation map");
    }
    return AST_OK;
}

static enum ast_rc load(struct gw_revocations *r, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_GATEWAY_REVOCATION_BYTES);
    enum ast_rc rc = ast_fs_read(r->path, AST_GATEWAY_REVOCATION_BYTES, &text, err);
    if (rc == AST_E_NOT_FOUND)
        return AST_OK;
    if (!rc && ast_str_trim(ast_buf_view(&text)).n)
        rc = read_entries(r, ast_buf_view(&text), err);
    return rc ? ast_wrap(err, rc, "revocation file %s", r->path) : AST_OK;
}

/* --- Writing ------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return ast_str_cmp(ast_principal_str(&((const struct entry *)a)->principal),
                       ast_principal_str(&((const struct entry *)b)->principal));
}

/* The sorted document; takes the lock only to copy. */
static enum ast_rc print(struct gw_revocations *r, struct ast_buf *out, uint64_t *ret_version,
                         struct ast_err *err)
{
    AST_VEC(struct entry) all = { 0 };
    bool complete = true;
    {
        AST_WITH_LOCK(&r->lock);
        *ret_version = r->version;
        size_t pos = 0;
        struct ast_str key;
        void *value;
        while (complete && ast_map_next(&r->by_principal, &pos, &key, &value))
            complete = ast_vec_push(&all, *(struct entry *)value);
    }
    if (complete) {
        if (all.n)
            qsort(all.v, all.n, sizeof *all.v, by_name);
        struct ast_jw w = AST_JW_PRETTY(out);
        ast_jw_object(&w);
        ast_vec_each (&all, e) {
            ast_jw_key(&w, ast_principal_str(&e->principal));
            ast_jw_u64(&w, e->epoch_secs);
        }
        ast_jw_end(&w);
    }
    ast_vec_done(&all);
    return complete ? ast_buf_check(out, "revocation file", err)
                    : ast_fail(err, AST_E_NO_MEMORY, "revocation file");
}

static void write_file(struct gw_revocations *r)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_GATEWAY_REVOCATION_BYTES);
    uint64_t version = 0;
    enum ast_rc rc = print(r, &text, &version, &err);
    if (!rc) {
        char *slash = strrchr(r->path, '/');
        char *dir = slash ? ast_str_dup(ast_str_n(r->path, (size_t)(slash - r->path))) : NULL;
        rc = dir ? ast_fs_mkdirs(dir, 0700, &err) : AST_OK;
        free(dir);
    }
    if (!rc)
        rc = ast_fs_write_atomic(r->path, ast_buf_view(&text), 0600, AST_FS_SYNC, &err);
    if (rc)
        ast_log_error("gateway",
                      "revocations are in force but not on disk, a restart would forget them: %s",
                      err.msg);
    AST_WITH_LOCK(&r->lock);
    r->written = version;
    pthread_cond_broadcast(&r->done);
}

static void *writer_main(void *arg)
{
    struct gw_revocations *r = arg;
    ast_lock(&r->lock);
    for (;;) {
        while (r->written == r->version && !r->closing)
            (void)ast_cond_wait(&r->changed, &r->lock, -1);
        if (r->written == r->version)
            break;
        ast_unlock(&r->lock);
        write_file(r);
        ast_lock(&r->lock);
    }
    ast_unlock(&r->lock);
    return NULL;
}

/* --- The map ------------------------------------------------------------------------------- */

enum ast_rc gw_revocations_open(const char *path, struct gw_revocations **ret, struct ast_err *err)
{
    struct gw_revocations *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return ast_fail(err, AST_E_NO_MEMORY, "revocation map");
    ast_lock_init(&fresh->lock, AST_LOCK_cache);
    ast_cond_init(&fresh->changed);
    ast_cond_init(&fresh->done);
    AST_AUTO(gw_revocations_close) struct gw_revocations *r = fresh;
    r->path = ast_str_dup(ast_str_c(path));
    if (!r->path)
        return ast_fail(err, AST_E_NO_MEMORY, "revocation map");
    enum ast_rc rc = load(r, err);
    if (!rc)
        rc = ast_thread_start(&r->writer, "gw-revoke", writer_main, r, err);
    if (rc)
        return rc;
    r->has_writer = true;
    *ret = ast_steal(&r);
    return AST_OK;
}

void gw_revocations_close(struct gw_revocations *r)
{
    if (!r)
        return;
    if (r->has_writer) {
        ast_lock(&r->lock);
        r->closing = true;
        pthread_cond_broadcast(&r->changed);
        ast_unlock(&r->lock);
        pthread_join(r->writer, NULL);
    }
    size_t pos = 0;
    struct ast_str key;
    void *value;
    while (ast_map_next(&r->by_principal, &pos, &key, &value))
        free(value);
    ast_map_done(&r->by_principal);
    pthread_cond_destroy(&r->changed);
    pthread_cond_destroy(&r->done);
    ast_lock_done(&r->lock);
    free(r->path);
    free(r);
}

bool gw_revocations_hit(struct gw_revocations *r, struct ast_str principal, uint64_t issued_at)
{
    if (!atomic_load_explicit(&r->count, memory_order_acquire))
        return false;
    AST_WITH_LOCK(&r->lock);
    const struct entry *e = ast_map_get(&r->by_principal, principal);
    return e && issued_at <= e->epoch_secs;
}

bool gw_revocations_add(struct gw_revocations *r, struct ast_str principal, uint64_t epoch_secs)
{
    struct ast_principal who;
    if (ast_principal_parse(principal, &who, NULL))
        return false;
    bool is_new;
    {
        AST_WITH_LOCK(&r->lock);
        const struct entry *e = ast_map_get(&r->by_principal, principal);
        if (e && e->epoch_secs >= epoch_secs)
            return false;
        is_new = put(r, &who, epoch_secs);
        if (is_new) {
            r->version++;
            pthread_cond_broadcast(&r->changed);
        }
    }
    if (!is_new)
        ast_log_error("gateway", "out of memory: bearers of %s are not revoked", who.name);
    return is_new;
}

void gw_revocations_flush(struct gw_revocations *r)
{
    AST_WITH_LOCK(&r->lock);
    uint64_t want = r->version;
    while (r->written < want)
        (void)ast_cond_wait(&r->done, &r->lock, -1);
}
