/* astrid:io/streams: what a guest does with its end of a byte pipe (spec 05 §15.3).
 *
 * Invariant: a failure is told once, as an error object; from then on the stream is `closed`. Waits park the fiber and
 * end promptly, as `closed`, on unload and cancel.
 */
#include <stdlib.h>

#include "base/fs.h"
#include "host/io_priv.h"
#include "host/stream_priv.h"

#include "base/banned.h"

#define READ_MAX     1048576u /* one read, spec 05 §15.3 */
#define CHUNK_BYTES  4096u
#define BREATH_EVERY 64u /* chunks between two yields of the worker */

/* Owner: the instance's fiber. One reference is the handle's, one is held by each pollable. */
struct stream {
    unsigned refs;
    struct host_pipe *pipe; /* reference */
    bool is_output;
    bool is_over;    /* a failure was told */
    uint64_t permit; /* output: what the last check-write allowed */
};

struct ast_io_input_stream {
    struct stream s;
};
struct ast_io_output_stream {
    struct stream s;
};
/* Destructors and pollables get either and see the stream. */
_Static_assert(sizeof(struct ast_io_input_stream) == sizeof(struct stream), "a stream alone");
_Static_assert(sizeof(struct ast_io_output_stream) == sizeof(struct stream), "a stream alone");

/* --- Life ---------------------------------------------------------------------------------------- */

static void *stream_new(struct ast_abi *a, struct host_pipe *pipe, bool is_output)
{
    struct stream *s = calloc(1, sizeof *s);
    if (!s) {
        host_pipe_unref(pipe);
        ast_abi_trap(a, "out of memory");
        return NULL;
    }
    s->refs = 1;
    s->pipe = pipe;
    s->is_output = is_output;
    return s;
}

struct ast_io_input_stream *host_input_stream_new(struct ast_abi *a, struct host_pipe *pipe)
{
    return stream_new(a, pipe, /* is_output= */ false);
}

struct ast_io_output_stream *host_output_stream_new(struct ast_abi *a, struct host_pipe *pipe)
{
    return stream_new(a, pipe, /* is_output= */ true);
}

static void stream_unref(struct stream *s)
{
    if (--s->refs)
        return;
    host_pipe_unref(s->pipe);
    free(s);
}

/* The handle is gone: the other side learns it now, whatever pollables are left. */
void host_input_stream_drop(void *obj)
{
    struct stream *s = obj;
    host_pipe_close(s->pipe);
    host_pipe_notify(s->pipe);
    stream_unref(s);
}

void host_output_stream_drop(void *obj)
{
    struct stream *s = obj;
    host_pipe_end(s->pipe);
    host_pipe_notify(s->pipe);
    stream_unref(s);
}

bool host_stream_is_held(const void *obj)
{
    const struct stream *s = obj;
    return s->refs > 1;
}

/* --- Looking and waiting ------------------------------------------------------------------------- */

static bool can_read(struct stream *s)
{
    struct host_pipe_state st;
    host_pipe_look(s->pipe, &st);
    return st.bytes || st.is_ended || st.is_failed;
}

static bool can_write(struct stream *s)
{
    struct host_pipe_state st;
    host_pipe_look(s->pipe, &st);
    return st.room || st.is_closed || st.is_ended || st.is_failed;
}

static bool is_flushed(struct stream *s)
{
    struct host_pipe_state st;
    host_pipe_look(s->pipe, &st);
    return !st.bytes || st.is_closed || st.is_failed;
}

static struct host_wait *wait_of(const struct stream *s)
{
    return s->is_output ? host_pipe_writer_wait(s->pipe) : host_pipe_reader_wait(s->pipe);
}

static int closed(struct ast_io_stream_error *reterr)
{
    reterr->tag = AST_IO_STREAM_ERROR_CLOSED;
    return AST_ABI_ERR;
}

static int failed(struct ast_abi *a, struct stream *s, struct ast_io_stream_error *reterr)
{
    char text[HOST_PIPE_WHY_MAX];
    struct ast_io_error *why = host_io_error_new(a, host_pipe_why(s->pipe, text));
    s->is_over = true;
    if (!why)
        return closed(reterr); /* the call is trapped */
    reterr->tag = AST_IO_STREAM_ERROR_LAST_OPERATION_FAILED;
    reterr->u.last_operation_failed = why;
    return AST_ABI_ERR;
}

/* Parks until `is_ready`. `closed` when the capsule unloads or the call is cancelled meanwhile. */
static int wait_until(struct ast_abi *a, struct stream *s, bool (*is_ready)(struct stream *s),
                      struct ast_io_stream_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    struct host_wait *wait = wait_of(s);
    bool found = is_ready(s);
    enum ast_rc rc = AST_OK;
    while (!found && rc != AST_E_CANCELLED && !host_is_unloading(call)) {
        host_wait_arm(wait, ast_abi_call(a));
        found = is_ready(s);
        if (!found)
            rc = ast_call_park(a, AST_NO_DEADLINE);
    }
    host_wait_disarm(wait);
    return found ? AST_ABI_OK : closed(reterr);
}

/* What every method asks first. */
static int enter(struct ast_abi *a, const struct stream *s, struct ast_io_stream_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    host_progress(call);
    return host_is_unloading(call) || s->is_over ? closed(reterr) : AST_ABI_OK;
}

/* --- Reading ------------------------------------------------------------------------------------- */

/* Up to n bytes into `to` (NULL: away). Nothing there is 0 and no error; queued bytes come before an end. */
static int take(struct ast_abi *a, struct stream *s, void *to, size_t n, size_t *ret,
                struct ast_io_stream_error *reterr)
{
    struct host_pipe_state st;
    host_pipe_look(s->pipe, &st); /* first: an end seen here comes after all bytes */
    *ret = host_pipe_take(s->pipe, to, n);
    if (*ret)
        host_pipe_notify(s->pipe);
    if (*ret || st.bytes)
        return AST_ABI_OK;
    if (st.is_failed)
        return failed(a, s, reterr);
    return st.is_ended ? closed(reterr) : AST_ABI_OK;
}

static int read_some(struct ast_abi *a, struct stream *s, uint64_t len, bool is_blocking,
                     struct ast_str *ret, struct ast_io_stream_error *reterr)
{
    if (enter(a, s, reterr) || (is_blocking && len && wait_until(a, s, can_read, reterr)))
        return AST_ABI_ERR;
    struct host_context *ctx = host_context(host_call(a));
    struct host_pipe_state st;
    host_pipe_look(s->pipe, &st);
    size_t n = AST_MIN(st.bytes, (size_t)READ_MAX);
    n = (size_t)AST_MIN(len, (uint64_t)n);
    if (ctx)
        ast_buf_reset(&ctx->scratch);
    if (!ctx || ast_buf_reserve(&ctx->scratch, n)) {
        ast_abi_trap(a, "out of memory");
        return closed(reterr);
    }
    if (take(a, s, ctx->scratch.p, n, &n, reterr))
        return AST_ABI_ERR;
    *ret = ast_str_n(ctx->scratch.p, n);
    return AST_ABI_OK;
}

static int skip_some(struct ast_abi *a, struct stream *s, uint64_t len, bool is_blocking,
                     uint64_t *ret, struct ast_io_stream_error *reterr)
{
    if (enter(a, s, reterr) || (is_blocking && len && wait_until(a, s, can_read, reterr)))
        return AST_ABI_ERR;
    size_t n = 0;
    if (take(a, s, NULL, (size_t)AST_MIN(len, (uint64_t)HOST_PIPE_MAX_BYTES), &n, reterr))
        return AST_ABI_ERR;
    *ret = n;
    return AST_ABI_OK;
}

/* The error's name for the debug line. */
static const char *name_of(int rc, const struct ast_io_stream_error *err)
{
    return rc ? ast_io_stream_error_name(err->tag) : "";
}

int ast_io_input_stream_read(struct ast_abi *a, struct ast_io_input_stream *self, uint64_t len,
                             struct ast_str *ret, struct ast_io_stream_error *reterr)
{
    int64_t start = io_audit_begin();
    int rc = read_some(a, &self->s, len, /* is_blocking= */ false, ret, reterr);
    io_audit_end(a, "astrid:io/streams.input-stream.read", start, name_of(rc, reterr));
    return rc;
}

int ast_io_input_stream_blocking_read(struct ast_abi *a, struct ast_io_input_stream *self,
                                      uint64_t len, struct ast_str *ret,
                                      struct ast_io_stream_error *reterr)
{
    int64_t start = io_audit_begin();
    int rc = read_some(a, &self->s, len, /* is_blocking= */ true, ret, reterr);
    io_audit_end(a, "astrid:io/streams.input-stream.blocking-read", start, name_of(rc, reterr));
    return rc;
}

int ast_io_input_stream_skip(struct ast_abi *a, struct ast_io_input_stream *self, uint64_t len,
                             uint64_t *ret, struct ast_io_stream_error *reterr)
{
    return skip_some(a, &self->s, len, /* is_blocking= */ false, ret, reterr);
}

int ast_io_input_stream_blocking_skip(struct ast_abi *a, struct ast_io_input_stream *self,
                                      uint64_t len, uint64_t *ret,
                                      struct ast_io_stream_error *reterr)
{
    return skip_some(a, &self->s, len, /* is_blocking= */ true, ret, reterr);
}

/* --- Writing ------------------------------------------------------------------------------------- */

/* Whether the sink still takes bytes; *ret_room how many now. */
static int look_writable(struct ast_abi *a, struct stream *s, size_t *ret_room,
                         struct ast_io_stream_error *reterr)
{
    struct host_pipe_state st;
    host_pipe_look(s->pipe, &st);
    if (st.is_failed)
        return failed(a, s, reterr);
    if (st.is_closed || st.is_ended)
        return closed(reterr);
    *ret_room = st.room;
    return AST_ABI_OK;
}

/* Puts what fits; bytes NULL: zeroes. */
static size_t put(struct stream *s, const char *bytes, uint64_t n)
{
    static const char zeroes[CHUNK_BYTES];
    uint64_t done = 0;
    while (done < n) {
        size_t want = (size_t)AST_MIN(n - done, bytes ? (uint64_t)HOST_PIPE_MAX_BYTES
                                                      : (uint64_t)sizeof zeroes);
        size_t got = host_pipe_put(s->pipe, bytes ? bytes + done : zeroes, want);
        done += got;
        if (got < want)
            break;
    }
    if (done)
        host_pipe_notify(s->pipe);
    return (size_t)done;
}

int ast_io_output_stream_check_write(struct ast_abi *a, struct ast_io_output_stream *self,
                                     uint64_t *ret, struct ast_io_stream_error *reterr)
{
    size_t room = 0;
    if (enter(a, &self->s, reterr) || look_writable(a, &self->s, &room, reterr))
        return AST_ABI_ERR;
    *ret = self->s.permit = room;
    return AST_ABI_OK;
}

/* Only we write, so what check-write allowed still fits, unless the sink is gone. */
static int write_permitted(struct ast_abi *a, struct stream *s, const char *bytes, uint64_t n,
                           struct ast_io_stream_error *reterr)
{
    size_t room = 0;
    if (enter(a, s, reterr))
        return AST_ABI_ERR;
    if (n > s->permit) {
        ast_abi_trap(a, "write of more than check-write permitted");
        return closed(reterr);
    }
    if (look_writable(a, s, &room, reterr))
        return AST_ABI_ERR;
    s->permit -= n;
    if (put(s, bytes, n) < n)
        return look_writable(a, s, &room, reterr) ? AST_ABI_ERR : closed(reterr);
    return AST_ABI_OK;
}

/* Lets others have the worker now and then, and notices a cancel, while a quick sink never makes us wait. */
static int breathe(struct ast_abi *a, unsigned chunks, struct ast_io_stream_error *reterr)
{
    if (chunks % BREATH_EVERY)
        return AST_ABI_OK;
    enum ast_rc rc = ast_call_park(a, ast_mono_ns() + AST_NS_PER_MS);
    return rc == AST_E_CANCELLED ? closed(reterr) : AST_ABI_OK;
}

/* Everything, waiting for room as often as it takes. */
static int write_waiting(struct ast_abi *a, struct stream *s, const char *bytes, uint64_t n,
                         struct ast_io_stream_error *reterr)
{
    size_t room = 0;
    for (unsigned chunks = 1; n; chunks++) {
        if (wait_until(a, s, can_write, reterr) || look_writable(a, s, &room, reterr))
            return AST_ABI_ERR;
        size_t done = put(s, bytes, n);
        bytes = bytes ? bytes + done : NULL;
        n -= done;
        if (breathe(a, chunks, reterr))
            return AST_ABI_ERR;
    }
    return AST_ABI_OK;
}

static int flush(struct ast_abi *a, struct stream *s, bool is_blocking,
                 struct ast_io_stream_error *reterr)
{
    size_t room = 0;
    if (look_writable(a, s, &room, reterr))
        return AST_ABI_ERR;
    host_pipe_notify(s->pipe);
    if (!is_blocking)
        return AST_ABI_OK;
    if (wait_until(a, s, is_flushed, reterr))
        return AST_ABI_ERR;
    return look_writable(a, s, &room, reterr);
}

/* bytes NULL: zeroes. The bytes are the guest's until the first park: what does not fit at once is copied, which is
 * bounded by the guest's own memory. */
static int write_all(struct ast_abi *a, struct stream *s, const char *bytes, uint64_t n,
                     struct ast_io_stream_error *reterr)
{
    AST_AUTO(ast_cfree) char *rest = NULL;
    size_t room = 0;

    if (enter(a, s, reterr) || look_writable(a, s, &room, reterr))
        return AST_ABI_ERR;
    s->permit = 0;
    size_t done = put(s, bytes, AST_MIN(n, (uint64_t)room));
    n -= done;
    if (n && bytes) {
        rest = malloc((size_t)n);
        if (!rest) {
            ast_abi_trap(a, "out of memory");
            return closed(reterr);
        }
        memcpy(rest, bytes + done, (size_t)n);
    }
    if (write_waiting(a, s, rest, n, reterr))
        return AST_ABI_ERR;
    return flush(a, s, /* is_blocking= */ true, reterr);
}

int ast_io_output_stream_write(struct ast_abi *a, struct ast_io_output_stream *self,
                               struct ast_str contents, struct ast_io_stream_error *reterr)
{
    int64_t start = io_audit_begin();
    int rc = write_permitted(a, &self->s, contents.n ? contents.p : "", contents.n, reterr);
    io_audit_end(a, "astrid:io/streams.output-stream.write", start, name_of(rc, reterr));
    return rc;
}

int ast_io_output_stream_write_zeroes(struct ast_abi *a, struct ast_io_output_stream *self,
                                      uint64_t len, struct ast_io_stream_error *reterr)
{
    return write_permitted(a, &self->s, NULL, len, reterr);
}

int ast_io_output_stream_blocking_write_and_flush(struct ast_abi *a,
                                                  struct ast_io_output_stream *self,
                                                  struct ast_str contents,
                                                  struct ast_io_stream_error *reterr)
{
    int64_t start = io_audit_begin();
    int rc = write_all(a, &self->s, contents.n ? contents.p : "", contents.n, reterr);
    io_audit_end(a, "astrid:io/streams.output-stream.blocking-write-and-flush", start,
                 name_of(rc, reterr));
    return rc;
}

int ast_io_output_stream_blocking_write_zeroes_and_flush(struct ast_abi *a,
                                                         struct ast_io_output_stream *self,
                                                         uint64_t len,
                                                         struct ast_io_stream_error *reterr)
{
    return write_all(a, &self->s, NULL, len, reterr);
}

int ast_io_output_stream_flush(struct ast_abi *a, struct ast_io_output_stream *self,
                               struct ast_io_stream_error *reterr)
{
    return enter(a, &self->s, reterr) ? AST_ABI_ERR
                                      : flush(a, &self->s, /* is_blocking= */ false, reterr);
}

int ast_io_output_stream_blocking_flush(struct ast_abi *a, struct ast_io_output_stream *self,
                                        struct ast_io_stream_error *reterr)
{
    return enter(a, &self->s, reterr) ? AST_ABI_ERR
                                      : flush(a, &self->s, /* is_blocking= */ true, reterr);
}

/* --- Splicing ------------------------------------------------------------------------------------ */

/* One read and one write, through the scratch memory of the call. */
static int splice(struct ast_abi *a, struct stream *to, struct stream *from, uint64_t len,
                  uint64_t *ret, struct ast_io_stream_error *reterr)
{
    struct host_context *ctx = host_context(host_call(a));
    size_t room = 0, n = 0;

    if (look_writable(a, to, &room, reterr))
        return AST_ABI_ERR;
    to->permit = 0;
    size_t limit = (size_t)AST_MIN(len, (uint64_t)room);
    *ret = 0;
    if (!limit)
        return AST_ABI_OK;
    if (ctx)
        ast_buf_reset(&ctx->scratch);
    if (!ctx || ast_buf_reserve(&ctx->scratch, limit)) {
        ast_abi_trap(a, "out of memory");
        return closed(reterr);
    }
    if (take(a, from, ctx->scratch.p, limit, &n, reterr))
        return AST_ABI_ERR;
    *ret = put(to, ctx->scratch.p, n);
    return *ret == n ? AST_ABI_OK : closed(reterr);
}

static int splice_either(struct ast_abi *a, struct stream *to, struct stream *from, uint64_t len,
                         bool is_blocking, uint64_t *ret, struct ast_io_stream_error *reterr)
{
    if (enter(a, to, reterr) || enter(a, from, reterr))
        return AST_ABI_ERR;
    if (is_blocking && len &&
        (wait_until(a, to, can_write, reterr) || wait_until(a, from, can_read, reterr)))
        return AST_ABI_ERR;
    return splice(a, to, from, len, ret, reterr);
}

int ast_io_output_stream_splice(struct ast_abi *a, struct ast_io_output_stream *self,
                                struct ast_io_input_stream *src, uint64_t len, uint64_t *ret,
                                struct ast_io_stream_error *reterr)
{
    int64_t start = io_audit_begin();
    int rc = splice_either(a, &self->s, &src->s, len, /* is_blocking= */ false, ret, reterr);
    io_audit_end(a, "astrid:io/streams.output-stream.splice", start, name_of(rc, reterr));
    return rc;
}

int ast_io_output_stream_blocking_splice(struct ast_abi *a, struct ast_io_output_stream *self,
                                         struct ast_io_input_stream *src, uint64_t len,
                                         uint64_t *ret, struct ast_io_stream_error *reterr)
{
    int64_t start = io_audit_begin();
    int rc = splice_either(a, &self->s, &src->s, len, /* is_blocking= */ true, ret, reterr);
    io_audit_end(a, "astrid:io/streams.output-stream.blocking-splice", start, name_of(rc, reterr));
    return rc;
}

/* --- Pollables ----------------------------------------------------------------------------------- */

static bool source_is_ready(void *obj)
{
    struct stream *s = obj;
    return s->is_over || (s->is_output ? can_write(s) : can_read(s));
}

/* An ended stream is ready, not closed: its next read says so. */
static bool source_is_closed(void *obj)
{
    (void)obj;
    return false;
}

static struct host_wait *source_wait(void *obj)
{
    return wait_of(obj);
}

static void source_drop(void *obj)
{
    stream_unref(obj);
}

static struct ast_io_pollable *subscribe(struct ast_abi *a, struct stream *s)
{
    static const struct host_source source = { source_is_ready, source_is_closed, source_wait,
                                               source_drop };
    s->refs++;
    return host_pollable_new(a, &source, s);
}

struct ast_io_pollable *ast_io_input_stream_subscribe(struct ast_abi *a,
                                                      struct ast_io_input_stream *self)
{
    return subscribe(a, &self->s);
}

struct ast_io_pollable *ast_io_output_stream_subscribe(struct ast_abi *a,
                                                       struct ast_io_output_stream *self)
{
    return subscribe(a, &self->s);
}
