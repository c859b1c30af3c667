/* One client connection: bytes in, one request at a time, bytes out.
 *
 *   HEAD --head complete--> BODY --body complete--> ANSWER --answered--> HEAD
 *     |                                                |
 *     +--refused or too large--> LAST <--- no keep-alive+
 *                                 +--written--> LINGER --client's end, time--> closed
 *
 * Invariant: while a request is answered nothing is appended to `in`, so the views into it stay good.
 */
#include "gateway/http_conn_priv.h"

#include <stdlib.h>

#include "base/time.h"

#include "base/banned.h"

#define IN_MAX       (AST_GATEWAY_HEAD_BYTES + AST_GATEWAY_BODY_BYTES + 2 * AST_GATEWAY_AHEAD_BYTES)
#define AHEAD_MAX    (4 * AST_GATEWAY_AHEAD_BYTES)
#define KEPT_BYTES   8192u /* a buffer that grew beyond it is given back after its request */
#define LINGER_BYTES 4194304u
#define WRITE_BYTES  65536u /* handed to the door at once; it copies what the socket refuses */

static int64_t limit_ns(int64_t wish_ms, unsigned secs)
{
    return wish_ms ? wish_ms * AST_NS_PER_MS : (int64_t)secs * AST_NS_PER_SEC;
}

static void close_now(struct gw_conn *c)
{
    if (c->is_dead)
        return;
    c->is_dead = true;
    c->read_deadline_ns = c->write_deadline_ns = 0;
    gw_door_kill(c);
}

/* --- Deadlines ----------------------------------------------------------------------------- */

static int64_t next_deadline(const struct gw_conn *c)
{
    if (!c->read_deadline_ns || !c->write_deadline_ns)
        return c->read_deadline_ns + c->write_deadline_ns;
    return AST_MIN(c->read_deadline_ns, c->write_deadline_ns);
}

/* Moving a deadline back costs nothing here: the timer fires early once and is set again. */
static void deadlines_changed(struct gw_conn *c)
{
    int64_t at = c->is_dead ? 0 : next_deadline(c);
    if (at && (!c->timer.node.index || c->timer.node.key > at) &&
        !gw_loop_timer(c->loop, &c->timer, at))
        close_now(c);
}

static void set_read_deadline(struct gw_conn *c, int64_t wish_ms, unsigned secs)
{
    c->read_deadline_ns = ast_mono_ns() + limit_ns(wish_ms, secs);
    deadlines_changed(c);
}

static void refuse(struct gw_conn *c, unsigned status);

static void on_deadline(struct gw_timer *t)
{
    struct gw_conn *c = AST_CONTAINER_OF(t, struct gw_conn, timer);
    int64_t now = ast_mono_ns();
    if (c->write_deadline_ns && c->write_deadline_ns <= now) {
        close_now(c);
    } else if (c->read_deadline_ns && c->read_deadline_ns <= now) {
        c->read_deadline_ns = 0;
        bool is_inside = c->state == GW_CONN_BODY || (c->state == GW_CONN_HEAD && c->in.n > 0);
        if (!is_inside) {
            close_now(c);
            return;
        }
        refuse(c, 408);
        gw_conn_advance(c);
    }
    deadlines_changed(c);
}

/* --- Life ---------------------------------------------------------------------------------- */

struct gw_conn *gw_conn_new(struct gw_loop *loop, struct lws *wsi)
{
    struct gw_conn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->loop = loop;
    c->wsi = wsi;
    c->in = (struct ast_buf)AST_BUF_INIT(IN_MAX);
    c->ahead = (struct ast_buf)AST_BUF_INIT(AHEAD_MAX);
    c->body = (struct ast_buf)AST_BUF_INIT(AST_GATEWAY_BODY_BYTES);
    c->out = (struct ast_buf)AST_BUF_INIT(AST_GATEWAY_OUT_BYTES);
    c->timer.fire = on_deadline;
    ast_list_init(&c->link);
    if (ast_buf_reserve(&c->out, gw_door_headroom)) {
        free(c);
        return NULL;
    }
    memset(c->out.p, 0, gw_door_headroom);
    c->out.n = c->out_at = gw_door_headroom;
    set_read_deadline(c, gw_loop_config(loop)->idle_ms, AST_GATEWAY_IDLE_SECS);
    return c;
}

void gw_conn_closed(struct gw_conn *c)
{
    c->is_dead = true;
    if (c->ex) {
        gw_exchange_gone(c->ex);
        gw_exchange_unref(c->ex);
    }
    gw_loop_timer_stop(c->loop, &c->timer);
    ast_list_remove(&c->link);
    ast_buf_done(&c->in);
    ast_buf_done(&c->ahead);
    ast_buf_done(&c->body);
    ast_buf_done(&c->out);
    free(c);
}

void gw_conn_stop(struct gw_conn *c)
{
    bool is_streaming = c->ex && c->ex->ops;
    if (is_streaming || (c->state == GW_CONN_HEAD && !c->in.n) || c->state == GW_CONN_LINGER)
        close_now(c);
}

/* --- Writing ------------------------------------------------------------------------------- */

static size_t unwritten(const struct gw_conn *c)
{
    return c->out.n - c->out_at;
}

static void out_reset(struct gw_conn *c)
{
    if (c->out.cap > KEPT_BYTES * 4) {
        struct ast_buf small = AST_BUF_INIT(AST_GATEWAY_OUT_BYTES);
        if (!ast_buf_reserve(&small, gw_door_headroom)) {
            memset(small.p, 0, gw_door_headroom);
            ast_buf_done(&c->out);
            c->out = small;
        }
    }
    c->out.n = c->out_at = gw_door_headroom;
}

static void flush(struct gw_conn *c)
{
    bool moved = false;
    if (c->is_dead || c->is_corked)
        return;
    if (c->out.fail) { /* over the ceiling: the client would see a torn answer */
        close_now(c);
        return;
    }
    while (unwritten(c) && !gw_door_blocked(c)) {
        size_t n = AST_MIN(unwritten(c), (size_t)WRITE_BYTES);
        if (!gw_door_write(c, c->out.p + c->out_at, n)) {
            close_now(c);
            return;
        }
        c->out_at += n;
        moved = true;
    }
    if (!unwritten(c))
        out_reset(c);
    if (!unwritten(c) && !gw_door_blocked(c)) {
        c->write_deadline_ns = 0;
    } else {
        gw_door_want_write(c);
        if (moved || !c->write_deadline_ns)
            c->write_deadline_ns =
                ast_mono_ns() + limit_ns(gw_loop_config(c->loop)->write_ms, AST_GATEWAY_WRITE_SECS);
        deadlines_changed(c);
    }
}

/* Everything is with the kernel: wait for the client to end, or the unread input would reset the answer away. */
static void after_last(struct gw_conn *c)
{
    if (c->state != GW_CONN_LAST || c->is_dead || unwritten(c) || gw_door_blocked(c))
        return;
    if (!gw_door_shut(c)) {
        close_now(c);
        return;
    }
    c->state = GW_CONN_LINGER;
    set_read_deadline(c, 0, AST_GATEWAY_LINGER_SECS);
}

void gw_conn_writable(struct gw_conn *c)
{
    if (c->is_dead)
        return;
    c->is_corked = false;
    flush(c);
    if (c->ex && c->ex->ops && c->ex->is_hungry)
        gw_exchange_feed(c->ex);
    gw_conn_advance(c);
}

/* --- Requests ------------------------------------------------------------------------------ */

static void drop_buffer(struct ast_buf *b)
{
    if (b->cap > KEPT_BYTES)
        ast_buf_done(b);
    ast_buf_reset(b);
}

/* The next request starts where this one ended. */
static void next_request(struct gw_conn *c)
{
    size_t used =
        c->request.head_bytes + (c->request.is_chunked ? 0 : (size_t)c->request.content_length);
    ast_buf_consume(&c->in, AST_MIN(used, c->in.n));
    drop_buffer(&c->body);
    if (!c->in.n)
        drop_buffer(&c->in);
    c->chunks = (struct gw_chunks){ 0 };
    c->scanned = 0;
    c->state = GW_CONN_HEAD;
    c->read_deadline_is_head = false;
    if (c->ahead.n) {
        (void)ast_buf_add(&c->in, ast_buf_view(&c->ahead));
        drop_buffer(&c->ahead);
    }
    if (c->is_paused) {
        c->is_paused = false;
        gw_door_pause(c, false);
    }
    set_read_deadline(c, gw_loop_config(c->loop)->idle_ms, AST_GATEWAY_IDLE_SECS);
}

void gw_conn_answered(struct gw_conn *c, bool keep)
{
    gw_exchange_unref(c->ex);
    c->ex = NULL;
    if (keep && !c->out.fail)
        next_request(c);
    else
        c->state = GW_CONN_LAST;
    if (!c->is_busy)
        gw_conn_advance(c);
}

/* What never becomes an exchange: bytes that are no request, and clients that are too slow. */
static void refuse(struct gw_conn *c, unsigned status)
{
    static const char bad_request[] =
        "{\"error\":\"bad_request\",\"reason\":\"malformed HTTP request\"}";
    struct gw_answer a = { .status = status };
    if (status == 400) {
        a.content_type = AST_STR("application/json");
        a.body = ast_str_c(bad_request);
    }
    c->request.is_http10 = false;
    gw_head_print(c, &a, a.body.n, /* is_stream= */ false, /* keep= */ false);
    (void)ast_buf_add(&c->out, a.body);
    c->state = GW_CONN_LAST;
    c->read_deadline_ns = 0;
}

static void dispatch(struct gw_conn *c)
{
    c->state = GW_CONN_ANSWER;
    c->read_deadline_ns = 0;
    if (c->request.is_chunked)
        c->request.body = ast_buf_view(&c->body);
    else if (!c->request.body_too_large)
        c->request.body =
            ast_str_n(c->in.p + c->request.head_bytes, (size_t)c->request.content_length);
    c->ex = gw_exchange_new(c);
    if (!c->ex) {
        close_now(c);
        return;
    }
    const struct gw_http_config *cfg = gw_loop_config(c->loop);
    cfg->on_request(cfg->arg, c->ex);
}

/* Eats chunked bytes; the rest belongs to the next request. */
static void read_chunks(struct gw_conn *c, struct ast_str in)
{
    size_t used = 0;
    bool too_large = false;
    enum gw_parse got = gw_parse_chunks(&c->chunks, in, &used, &c->body, &too_large);
    if (got == GW_PARSE_BAD) {
        refuse(c, 400);
        return;
    }
    if (too_large) { /* where it ends is of no interest any more */
        c->request.body_too_large = true;
        c->request.keep_alive = false;
        dispatch(c);
        return;
    }
    if (ast_buf_add(&c->ahead, ast_str_from(in, used)))
        close_now(c);
    else if (got == GW_PARSE_DONE)
        dispatch(c);
}

/* Room for the whole body, so that `in` does not move under the views any more. */
static bool reserve_body(struct gw_conn *c)
{
    size_t whole = c->request.head_bytes + (size_t)c->request.content_length;
    if (c->in.n >= whole)
        return true;
    const char *before = c->in.p;
    unsigned status;
    if (ast_buf_reserve(&c->in, whole - c->in.n))
        return false;
    c->scanned = 0;
    return c->in.p == before ||
           gw_parse_head(ast_buf_view(&c->in), &c->scanned, &c->request, &status) == GW_PARSE_DONE;
}

static void head_done(struct gw_conn *c)
{
    struct gw_request *r = &c->request;
    if (r->content_length > AST_GATEWAY_BODY_BYTES) {
        r->body_too_large = true;
        r->keep_alive = false;
        dispatch(c);
        return;
    }
    if (!r->is_chunked && !reserve_body(c)) {
        close_now(c);
        return;
    }
    struct ast_str rest = ast_str_from(ast_buf_view(&c->in), r->head_bytes);
    if (!r->is_chunked && rest.n >= r->content_length) {
        dispatch(c);
        return;
    }
    c->state = GW_CONN_BODY;
    set_read_deadline(c, gw_loop_config(c->loop)->body_ms, AST_GATEWAY_BODY_SECS);
    if (r->expects_continue && !rest.n)
        (void)ast_buf_add_lit(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
    if (r->is_chunked) {
        c->in.n = r->head_bytes;
        read_chunks(c, rest);
    }
}

/* One step from HEAD; false: nothing to do with what is there. */
static bool try_head(struct gw_conn *c)
{
    unsigned status = 0;
    if (!c->in.n)
        return false;
    switch (gw_parse_head(ast_buf_view(&c->in), &c->scanned, &c->request, &status)) {
    case GW_PARSE_DONE: head_done(c); return true;
    case GW_PARSE_BAD: refuse(c, status); return true;
    case GW_PARSE_MORE:
        /* The clock of a head starts with its first byte and is not wound again by the next one. */
        if (!c->read_deadline_is_head) {
            c->read_deadline_is_head = true;
            set_read_deadline(c, gw_loop_config(c->loop)->head_ms, AST_GATEWAY_HEAD_SECS);
        }
        return false;
    }
    return false;
}

void gw_conn_advance(struct gw_conn *c)
{
    if (c->is_busy)
        return;
    c->is_busy = true;
    /* Answers of pipelined requests share a write, up to a bound; what waits behind a blocked one goes on when the
     * client has read. */
    do {
        while (!c->is_dead && c->state == GW_CONN_HEAD && unwritten(c) < AST_GATEWAY_FILL_BYTES &&
               try_head(c))
            ;
        flush(c);
    } while (!c->is_dead && c->state == GW_CONN_HEAD && !unwritten(c) && !gw_door_blocked(c) &&
             try_head(c));
    flush(c);
    after_last(c);
    c->is_busy = false;
}

/* --- Reading ------------------------------------------------------------------------------- */

static void read_ahead(struct gw_conn *c, struct ast_str in)
{
    if (ast_buf_add(&c->ahead, in)) {
        close_now(c);
        return;
    }
    if (c->ahead.n >= AST_GATEWAY_AHEAD_BYTES && !c->is_paused) {
        c->is_paused = true;
        gw_door_pause(c, true);
    }
}

static void read_body(struct gw_conn *c, struct ast_str in)
{
    if (c->request.is_chunked) {
        read_chunks(c, in);
        return;
    }
    size_t missing = c->request.head_bytes + (size_t)c->request.content_length - c->in.n;
    if (ast_buf_add(&c->in, ast_str_first(in, missing)) ||
        ast_buf_add(&c->ahead, ast_str_from(in, missing)))
        close_now(c);
    else if (in.n >= missing)
        dispatch(c);
}

void gw_conn_read(struct gw_conn *c, struct ast_str in)
{
    if (c->is_dead)
        return;
    switch (c->state) {
    case GW_CONN_HEAD:
        if (ast_buf_add(&c->in, in))
            close_now(c);
        break;
    case GW_CONN_BODY:
        c->is_busy = true;
        read_body(c, in);
        c->is_busy = false;
        break;
    case GW_CONN_ANSWER: read_ahead(c, in); return;
    case GW_CONN_LAST:
    case GW_CONN_LINGER:
        c->lingered += in.n;
        if (c->lingered > LINGER_BYTES)
            close_now(c);
        return;
    }
    gw_conn_advance(c);
}
