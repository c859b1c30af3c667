/* Exchanges: one request and the answer somebody owes it.
 *
 * Invariant: conn is set exactly while an answer is owed and the client is there; whoever ends that (answer, end of
 * stream, lost client) goes through part().
 */
#include "gateway/http_conn_priv.h"

#include <stdlib.h>

#include "base/time.h"

#include "base/banned.h"

/* status, reason */
static const struct {
    unsigned status;
    const char *reason;
} reasons[] = {
    { 200, "OK" },
    { 204, "No Content" },
    { 400, "Bad Request" },
    { 401, "Unauthorized" },
    { 403, "Forbidden" },
    { 404, "Not Found" },
    { 405, "Method Not Allowed" },
    { 408, "Request Timeout" },
    { 413, "Content Too Large" },
    { 415, "Unsupported Media Type" },
    { 422, "Unprocessable Content" },
    { 429, "Too Many Requests" },
    { 431, "Request Header Fields Too Large" },
    { 500, "Internal Server Error" },
    { 501, "Not Implemented" },
    { 502, "Bad Gateway" },
    { 503, "Service Unavailable" },
    { 505, "HTTP Version Not Supported" },
};

static const char *reason_of(unsigned status)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "";
}

void gw_head_print(struct gw_conn *c, const struct gw_answer *a, size_t body_bytes, bool is_stream,
                   bool keep)
{
    bool is_http10 = c->request.is_http10;
    (void)ast_buf_addf(&c->out, "HTTP/1.1 %u %s\r\n", a->status, reason_of(a->status));
    if (a->content_type.n) {
        (void)ast_buf_add_lit(&c->out, "content-type: ");
        (void)ast_buf_add(&c->out, a->content_type);
        (void)ast_buf_add_lit(&c->out, "\r\n");
    }
    if (is_stream && !is_http10)
        (void)ast_buf_add_lit(&c->out, "transfer-encoding: chunked\r\n");
    else if (!is_stream && a->status != 204)
        (void)ast_buf_addf(&c->out, "content-length: %zu\r\n", body_bytes);
    if (!keep)
        (void)ast_buf_add_lit(&c->out, "connection: close\r\n");
    else if (is_http10)
        (void)ast_buf_add_lit(&c->out, "connection: keep-alive\r\n");
    (void)ast_buf_add(&c->out, a->fields);
    (void)ast_buf_add(&c->out, gw_loop_config(c->loop)->fixed_fields);
    (void)ast_buf_add(&c->out, gw_loop_date(c->loop));
    (void)ast_buf_add_lit(&c->out, "\r\n");
}

/* --- Life ---------------------------------------------------------------------------------- */

static void on_time(struct gw_timer *t)
{
    struct gw_exchange *ex = AST_CONTAINER_OF(t, struct gw_exchange, timer);
    struct gw_conn *c = ex->conn;
    if (!c)
        return;
    if (ex->ops) {
        gw_exchange_feed(ex);
        gw_conn_advance(c);
    } else if (ex->on_time) {
        ex->on_time(ex);
    }
}

static void on_wake(struct gw_post *post)
{
    struct gw_exchange *ex = AST_CONTAINER_OF(post, struct gw_exchange, wake);
    struct gw_conn *c = ex->conn;
    atomic_store(&ex->is_woken, false); /* before looking: what comes after this wakes again */
    if (c && ex->ops) {
        c->is_corked = false;
        gw_exchange_feed(ex);
        gw_conn_advance(c);
    }
    gw_exchange_unref(ex);
}

struct gw_exchange *gw_exchange_new(struct gw_conn *c)
{
    struct gw_exchange *ex = calloc(1, sizeof *ex);
    if (!ex)
        return NULL;
    atomic_init(&ex->refs, 1);
    ex->loop = c->loop;
    gw_loop_ref(c->loop);
    ex->conn = c;
    ex->timer.fire = on_time;
    ex->wake.fn = on_wake;
    ex->started_ns = ast_mono_ns();
    return ex;
}

struct gw_exchange *gw_exchange_ref(struct gw_exchange *ex)
{
    atomic_fetch_add_explicit(&ex->refs, 1, memory_order_relaxed);
    return ex;
}

void gw_exchange_unref(struct gw_exchange *ex)
{
    if (!ex || atomic_fetch_sub_explicit(&ex->refs, 1, memory_order_acq_rel) != 1)
        return;
    gw_loop_unref(ex->loop);
    free(ex);
}

/* The exchange and its connection part; the stream hears it. */
static struct gw_conn *part(struct gw_exchange *ex)
{
    struct gw_conn *c = ex->conn;
    const struct gw_stream_ops *ops = ex->ops;
    ex->conn = NULL;
    ex->ops = NULL;
    gw_loop_timer_stop(ex->loop, &ex->timer);
    if (ops)
        ops->gone(ex->stream_user);
    return c;
}

void gw_exchange_gone(struct gw_exchange *ex)
{
    (void)part(ex);
}

const struct gw_request *gw_exchange_request(const struct gw_exchange *ex)
{
    AST_ASSERT(ex->conn);
    return &ex->conn->request;
}

bool gw_exchange_open(const struct gw_exchange *ex)
{
    return ex->conn && !ex->ops;
}

void *gw_exchange_user(const struct gw_exchange *ex)
{
    return ex->user;
}

void gw_exchange_set_user(struct gw_exchange *ex, void *user)
{
    ex->user = user;
}

int64_t gw_exchange_started_ns(const struct gw_exchange *ex)
{
    return ex->started_ns;
}

void gw_exchange_at(struct gw_exchange *ex, int64_t at_ns, void (*fn)(struct gw_exchange *ex))
{
    if (!gw_exchange_open(ex))
        return;
    ex->on_time = fn;
    if (!gw_loop_timer(ex->loop, &ex->timer, at_ns))
        fn(ex);
}

bool gw_exchange_post(struct gw_exchange *ex, struct gw_post *post)
{
    return gw_loop_post(ex->loop, post);
}

/* --- Answers ------------------------------------------------------------------------------- */

static bool may_keep(const struct gw_conn *c)
{
    return c->request.keep_alive && !gw_loop_stopping(c->loop);
}

void gw_exchange_answer(struct gw_exchange *ex, const struct gw_answer *a)
{
    if (!gw_exchange_open(ex))
        return;
    struct gw_conn *c = part(ex);
    bool keep = may_keep(c);
    gw_head_print(c, a, a->body.n, /* is_stream= */ false, keep);
    if (c->request.method != GW_METHOD_HEAD && a->status != 204)
        (void)ast_buf_add(&c->out, a->body);
    gw_conn_answered(c, keep);
}

/* --- Streams ------------------------------------------------------------------------------- */

static void add_chunk(struct gw_exchange *ex, struct ast_buf *out, struct ast_str data)
{
    if (!ex->is_raw)
        (void)ast_buf_addf(out, "%zx\r\n", data.n);
    (void)ast_buf_add(out, data);
    if (!ex->is_raw)
        (void)ast_buf_add_lit(out, "\r\n");
}

void gw_exchange_feed(struct gw_exchange *ex)
{
    struct gw_conn *c = ex->conn;
    if (gw_door_blocked(c) || c->out.n - c->out_at >= AST_GATEWAY_FILL_BYTES) {
        ex->is_hungry = true; /* the rest waits in the stream's own bounded queue */
        return;
    }
    struct ast_buf *data = gw_loop_scratch(ex->loop);
    int64_t next_ns = 0;
    bool goes_on = ex->ops->fill(ex->stream_user, ast_mono_ns(), data, &next_ns);
    if (data->n)
        add_chunk(ex, &c->out, ast_buf_view(data));
    ex->is_hungry = goes_on && data->n >= AST_GATEWAY_FILL_BYTES;
    if (ex->is_hungry)
        gw_door_want_write(c);
    if (data->fail) { /* an event that cannot be said whole ends the stream visibly: no last chunk */
        (void)part(ex);
        gw_door_kill(c);
        return;
    }
    if (!goes_on) {
        bool keep = !ex->is_raw && may_keep(c);
        if (!ex->is_raw)
            (void)ast_buf_add_lit(&c->out, "0\r\n\r\n");
        (void)part(ex);
        gw_conn_answered(c, keep);
        return;
    }
    if (next_ns && !gw_loop_timer(ex->loop, &ex->timer, next_ns))
        gw_door_kill(c);
}

void gw_exchange_stream(struct gw_exchange *ex, const struct gw_answer *head,
                        const struct gw_stream_ops *ops, void *user)
{
    if (!gw_exchange_open(ex)) {
        ops->gone(user);
        return;
    }
    struct gw_conn *c = ex->conn;
    gw_loop_timer_stop(ex->loop, &ex->timer);
    ex->is_raw = c->request.is_http10;
    gw_head_print(c, head, 0, /* is_stream= */ true, may_keep(c) && !ex->is_raw);
    ex->ops = ops;
    ex->stream_user = user;
    if (c->request.method == GW_METHOD_HEAD) {
        (void)part(ex);
        gw_conn_answered(c, may_keep(c) && !ex->is_raw);
        return;
    }
    gw_exchange_feed(ex);
    if (ex->ops) { /* a quick answer shares the write: half of the sends under load, one turn of the loop without */
        c->is_corked = true;
        gw_door_want_write(c);
    }
    gw_conn_advance(c);
}

void gw_exchange_wake(struct gw_exchange *ex)
{
    if (atomic_exchange(&ex->is_woken, true))
        return;
    if (!gw_loop_post(ex->loop, &gw_exchange_ref(ex)->wake))
        gw_exchange_unref(ex);
}
