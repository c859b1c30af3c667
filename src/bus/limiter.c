/* Publish rate limiter: one fixed one-second window of bytes per key. */
#include "bus/limiter.h"

#include <stdlib.h>

#include "base/map.h"
#include "base/thread.h"
#include "base/time.h"

#include "base/banned.h"

#define WINDOW_NS         AST_NS_PER_SEC
#define PRUNE_ABOVE       1000u /* buckets, spec 04 §5.4 */
#define PRUNE_INTERVAL_NS (60 * AST_NS_PER_SEC)
/* Keys are a capsule's choice through publish-as: they end somewhere. */
#define MAX_BUCKETS 100000u

struct bucket {
    int64_t window_ns; /* start */
    uint64_t bytes;    /* accepted in the window */
};

/* Threads: any, under `lock`. */
struct ast_limiter {
    struct ast_lock lock;
    struct ast_map buckets AST_GUARDED_BY(lock); /* key -> struct bucket, owned */
    int64_t pruned_ns AST_GUARDED_BY(lock);      /* last prune; at first the first admission */
    bool has_run AST_GUARDED_BY(lock);
};

enum ast_rc ast_limiter_new(struct ast_limiter **ret, struct ast_err *err)
{
    struct ast_limiter *l = calloc(1, sizeof *l);
    if (!l)
        return ast_fail(err, AST_E_NO_MEMORY, "rate limiter");
    ast_lock_init(&l->lock, AST_LOCK_ledger);
    *ret = l;
    return AST_OK;
}

void ast_limiter_free(struct ast_limiter *l)
{
    if (!l)
        return;
    size_t pos = 0;
    void *bucket;
    while (ast_map_next(&l->buckets, &pos, NULL, &bucket))
        free(bucket);
    ast_map_done(&l->buckets);
    ast_lock_done(&l->lock);
    free(l);
}

/* Drops the buckets whose window is over: they say no more than a new one would. */
static void prune(struct ast_limiter *l, int64_t now_ns) AST_REQUIRES(l->lock)
{
    size_t pos = 0;
    struct ast_str key;
    void *value;
    while (ast_map_next(&l->buckets, &pos, &key, &value)) {
        struct bucket *b = value;
        if (now_ns - b->window_ns < WINDOW_NS)
            continue;
        (void)ast_map_remove(&l->buckets, key); /* removing the visited entry is allowed */
        free(b);
    }
    l->pruned_ns = now_ns;
}

static void prune_when_due(struct ast_limiter *l, int64_t now_ns) AST_REQUIRES(l->lock)
{
    if (!l->has_run) {
        l->has_run = true;
        l->pruned_ns = now_ns;
    }
    int64_t age = now_ns - l->pruned_ns;
    bool is_due = l->buckets.n > PRUNE_ABOVE && age > PRUNE_INTERVAL_NS;
    bool is_full = l->buckets.n >= MAX_BUCKETS && age >= WINDOW_NS;
    if (is_due || is_full)
        prune(l, now_ns);
}

/* NULL: too many keys at once, or out of memory. */
static struct bucket *bucket_get(struct ast_limiter *l, struct ast_str key, int64_t now_ns)
    AST_REQUIRES(l->lock)
{
    struct bucket *b = ast_map_get(&l->buckets, key);
    if (b || l->buckets.n >= MAX_BUCKETS)
        return b;
    b = malloc(sizeof *b);
    if (!b)
        return NULL;
    *b = (struct bucket){ .window_ns = now_ns };
    if (!ast_map_set(&l->buckets, key, b, NULL)) {
        free(b);
        return NULL;
    }
    return b;
}

bool ast_limiter_admit(struct ast_limiter *l, struct ast_str key, size_t bytes,
                       uint64_t ceiling_bytes, int64_t now_ns)
{
    if (bytes > AST_LIMITER_MAX_PAYLOAD)
        return false;
    AST_WITH_LOCK(&l->lock);
    prune_when_due(l, now_ns);
    struct bucket *b = bucket_get(l, key, now_ns);
    if (!b)
        return false;
    if (now_ns - b->window_ns >= WINDOW_NS)
        *b = (struct bucket){ .window_ns = now_ns };
    /* Written so that nothing can overflow: the ceiling may have shrunk below what was accepted. */
    if (b->bytes > ceiling_bytes || bytes > ceiling_bytes - b->bytes)
        return false;
    b->bytes += bytes;
    return true;
}
