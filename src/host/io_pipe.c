/* A bounded ring of bytes between the host and a guest.
 *
 * Invariant: bytes leave in the order they came, none twice; the end, the close and the failure are final. Everything
 * is under the lock for a few lines; waking and the peer's callback happen outside it.
 */
#include <stdlib.h>

#include "host/stream_priv.h"

#include "base/banned.h"

/* Owner: any thread, under `lock`; `peer` and `capacity` are set at creation. */
struct host_pipe {
    atomic_uint refs;
    struct host_wait reader, writer;
    struct host_pipe_peer peer;
    struct ast_lock lock;
    size_t capacity;
    size_t at AST_GUARDED_BY(lock); /* of the first byte */
    size_t n AST_GUARDED_BY(lock);
    bool is_ended AST_GUARDED_BY(lock), is_closed AST_GUARDED_BY(lock),
        is_failed AST_GUARDED_BY(lock);
    size_t why_n AST_GUARDED_BY(lock);
    char why[HOST_PIPE_WHY_MAX] AST_GUARDED_BY(lock);
    uint8_t bytes[] AST_GUARDED_BY(lock);
};

enum ast_rc host_pipe_new(size_t capacity, const struct host_pipe_peer *peer,
                          struct host_pipe **ret, struct ast_err *err)
{
    AST_ASSERT(capacity > 0 && capacity <= HOST_PIPE_MAX_BYTES);
    struct host_pipe *p = calloc(1, sizeof *p + capacity);
    if (!p)
        return ast_fail(err, AST_E_NO_MEMORY, "stream");
    atomic_init(&p->refs, 1);
    ast_lock_init(&p->lock, AST_LOCK_queue);
    p->capacity = capacity;
    if (peer)
        p->peer = *peer;
    *ret = p;
    return AST_OK;
}

struct host_pipe *host_pipe_ref(struct host_pipe *p)
{
    atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    return p;
}

void host_pipe_unref(struct host_pipe *p)
{
    if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
        return;
    host_wait_disarm(&p->reader);
    host_wait_disarm(&p->writer);
    if (p->peer.release)
        p->peer.release(p->peer.arg);
    ast_lock_done(&p->lock);
    free(p);
}

struct host_wait *host_pipe_reader_wait(struct host_pipe *p)
{
    return &p->reader;
}

struct host_wait *host_pipe_writer_wait(struct host_pipe *p)
{
    return &p->writer;
}

void host_pipe_notify(struct host_pipe *p)
{
    if (p->peer.changed)
        p->peer.changed(p->peer.arg);
}

void host_pipe_look(struct host_pipe *p, struct host_pipe_state *ret)
{
    AST_WITH_LOCK(&p->lock);
    *ret = (struct host_pipe_state){
        .bytes = p->n,
        .room = p->capacity - p->n,
        .is_ended = p->is_ended,
        .is_closed = p->is_closed,
        .is_failed = p->is_failed,
    };
}

struct ast_str host_pipe_why(struct host_pipe *p, char out[static HOST_PIPE_WHY_MAX])
{
    AST_WITH_LOCK(&p->lock);
    if (p->why_n)
        memcpy(out, p->why, p->why_n);
    return ast_str_n(out, p->why_n);
}

static size_t put_locked(struct host_pipe *p, const uint8_t *bytes, size_t n) AST_REQUIRES(p->lock)
{
    ast_lock_assert_held(&p->lock);
    if (p->is_ended || p->is_closed || p->is_failed)
        return 0;
    n = AST_MIN(n, p->capacity - p->n);
    size_t to = (p->at + p->n) % p->capacity;
    size_t first = AST_MIN(n, p->capacity - to);
    memcpy(p->bytes + to, bytes, first);
    memcpy(p->bytes, bytes + first, n - first);
    p->n += n;
    return n;
}

size_t host_pipe_put(struct host_pipe *p, const void *bytes, size_t n)
{
    if (!n)
        return 0;
    size_t done;
    {
        AST_WITH_LOCK(&p->lock);
        done = put_locked(p, bytes, n);
    }
    if (done)
        host_wait_fire(&p->reader);
    return done;
}

static size_t take_locked(struct host_pipe *p, uint8_t *to, size_t n) AST_REQUIRES(p->lock)
{
    ast_lock_assert_held(&p->lock);
    n = AST_MIN(n, p->n);
    size_t first = AST_MIN(n, p->capacity - p->at);
    if (to && n) {
        memcpy(to, p->bytes + p->at, first);
        memcpy(to + first, p->bytes, n - first);
    }
    p->at = (p->at + n) % p->capacity;
    p->n -= n;
    return n;
}

size_t host_pipe_take(struct host_pipe *p, void *to, size_t n)
{
    size_t done;
    {
        AST_WITH_LOCK(&p->lock);
        done = take_locked(p, to, n);
    }
    if (done)
        host_wait_fire(&p->writer);
    return done;
}

static void fire_both(struct host_pipe *p)
{
    host_wait_fire(&p->reader);
    host_wait_fire(&p->writer);
}

void host_pipe_end(struct host_pipe *p)
{
    {
        AST_WITH_LOCK(&p->lock);
        p->is_ended = true;
    }
    fire_both(p);
}

void host_pipe_close(struct host_pipe *p)
{
    {
        AST_WITH_LOCK(&p->lock);
        p->is_closed = true;
        p->at = p->n = 0;
    }
    fire_both(p);
}

void host_pipe_fail(struct host_pipe *p, struct ast_str why)
{
    {
        AST_WITH_LOCK(&p->lock);
        if (p->is_failed)
            return;
        p->is_failed = true;
        p->why_n = AST_MIN(why.n, (size_t)HOST_PIPE_WHY_MAX);
        if (p->why_n)
            memcpy(p->why, why.p, p->why_n);
    }
    fire_both(p);
}
