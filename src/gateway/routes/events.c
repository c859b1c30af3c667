/* GET /api/events: the audit log as it grows (spec 03 §21).
 *
 *   OPENING ─ recorded, end of the log known ─► LIVE ─ fell out of the ring, or resumed ─► CATCHING UP ─┐
 *                                                 ▲                                                     │
 *                                                 └──────────── a page of the log was sent ─────────────┘
 *
 * A stream shows everybody's rows to whoever holds audit:read_all, else those of the bearer's principal; it ends when that
 * right, the bearer or the principal goes. With `Last-Event-ID` or `?ids=true` events carry their position in the log, and a
 * client that comes back goes on behind the one it names.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "gateway/feed_priv.h"
#include "gateway/form_priv.h"
#include "gateway/gateway_priv.h"
#include "gateway/prompt_priv.h"
#include "host/env.h"

#include "base/banned.h"

#define PAGE_MAX 4194304u /* one page of the log: FILL_BYTES and one row, whatever it holds */

/* Owner: the loop thread, except `refs`. A page that is being read holds a reference. */
struct events {
    struct gw_stream base;
    atomic_uint refs;
    struct gw_feed_reader reader;
    bool sees_all, with_ids, said_ready;
    bool is_gone;        /* the stream has ended, the reader left */
    bool is_reading;     /* a page is on its way */
    bool has_failed;     /* it could not be read: the stream ends */
    struct ast_buf page; /* a page of the log, to be sent next */
};

static void events_unref(struct events *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    ast_buf_done(&s->page);
    free(s);
}

static void on_gone(void *user)
{
    struct events *s = user;
    s->is_gone = true;
    gw_feed_leave(&s->reader);
    gw_stream_done(&s->base);
    events_unref(s);
}

static struct ast_str caller_of(const struct events *s)
{
    return ast_principal_str(&s->base.bearer.principal);
}

static bool sees_all(const struct ast_gateway *g, struct ast_str caller)
{
    return ast_policy_holds(g->host->policy, caller, AST_STR("audit:read_all"));
}

/* --- Pages of the log ---------------------------------------------------------------------- */

struct reading {
    struct gw_job job;
    struct gw_post post;
    struct gw_exchange *ex; /* owned reference */
    struct events *s;       /* owned reference; only the loop looks inside */
    struct ast_gateway *g;
    struct gw_feed_page page;
    enum ast_rc rc;
    struct ast_err err;
};

static void reading_free(struct reading *r)
{
    ast_buf_done(&r->page.out);
    gw_exchange_unref(r->ex);
    events_unref(r->s);
    free(r);
}

static void page_is_there(struct gw_post *post)
{
    struct reading *r = AST_CONTAINER_OF(post, struct reading, post);
    struct events *s = r->s;
    s->is_reading = false;
    if (!s->is_gone) {
        s->has_failed = r->rc != AST_OK;
        if (r->rc)
            ast_log_error("gateway", "the audit log cannot be read, an event stream ends: %s",
                          r->err.msg);
        gw_feed_passed(&s->reader, &r->page);
        ast_buf_done(&s->page);
        s->page = r->page.out;
        r->page.out = (struct ast_buf)AST_BUF_INIT(0);
        gw_exchange_wake(r->ex);
    }
    reading_free(r);
}

static void read_page(struct gw_job *job)
{
    struct reading *r = AST_CONTAINER_OF(job, struct reading, job);
    r->rc = gw_feed_read_log(r->g->feed, &r->page, &r->err);
    if (!gw_exchange_post(r->ex, &r->post))
        reading_free(r);
}

/* False: the stream cannot go on. */
static bool start_reading(struct events *s)
{
    struct reading *r = calloc(1, sizeof *r);
    if (!r)
        return false;
    *r = (struct reading){ .job.run = read_page,
                           .post.fn = page_is_there,
                           .ex = gw_exchange_ref(s->base.ex),
                           .s = s,
                           .g = s->base.g,
                           .page = { .principal = s->base.bearer.principal,
                                     .sees_all = s->sees_all,
                                     .with_ids = s->with_ids,
                                     .at = gw_feed_at(&s->reader),
                                     .joined = s->reader.joined,
                                     .out = AST_BUF_INIT(PAGE_MAX) } };
    atomic_fetch_add(&s->refs, 1);
    s->is_reading = gw_worker_post(&s->base.g->disk, &r->job);
    if (!s->is_reading)
        reading_free(r);
    return s->is_reading;
}

/* --- Filling ------------------------------------------------------------------------------- */

static void say_ready(struct events *s, struct ast_buf *out)
{
    AST_AUTO(ast_buf_done) struct ast_buf json = AST_BUF_INIT(512);
    struct ast_jw w = AST_JW_INIT(&json);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "principal", caller_of(s));
    ast_jw_kv_bool(&w, "firehose", s->sees_all);
    ast_jw_end(&w);
    gw_sse_event(out, "ready", ast_buf_view(&json));
    s->said_ready = true;
}

static void say_dropped(uint64_t dropped, struct ast_buf *out)
{
    char json[48];
    (void)snprintf(json, sizeof json, "{\"dropped\":%llu}", (unsigned long long)dropped);
    gw_sse_event(out, "lagged", ast_str_c(json));
}

/* A right that was taken away: what comes next is not for this client. */
static bool still_may(const struct events *s)
{
    return !s->sees_all || sees_all(s->base.g, caller_of(s));
}

/* What there is to say until `out` has enough; false: the stream cannot go on. */
static bool say_rows(struct events *s, struct ast_buf *out)
{
    while (!s->is_reading && out->n < AST_GATEWAY_FILL_BYTES) {
        uint64_t dropped = 0;
        if (s->page.n) {
            (void)ast_buf_add(out, ast_buf_view(&s->page)); /* seen by the caller of fill */
            ast_buf_done(&s->page);
            continue;
        }
        switch (gw_feed_take(&s->reader, s->with_ids, AST_GATEWAY_FILL_BYTES, out, &dropped)) {
        case GW_FEED_END: return true;
        case GW_FEED_MORE:
            if (dropped)
                say_dropped(dropped, out);
            break;
        case GW_FEED_IN_LOG:
            if (!start_reading(s))
                return false;
            break;
        }
    }
    return true;
}

static bool fill(void *user, int64_t now_ns, struct ast_buf *out, int64_t *ret_next_ns)
{
    struct events *s = user;
    if (gw_stream_is_over(&s->base, now_ns) || s->has_failed || !still_may(s))
        return false;
    if (!s->said_ready)
        say_ready(s, out);
    if (!say_rows(s, out))
        return false;
    gw_stream_keep_alive(&s->base, now_ns, out, ret_next_ns);
    return true;
}

static const struct gw_stream_ops stream_ops = { fill, on_gone };

/* --- Opening ------------------------------------------------------------------------------- */

struct opening {
    struct gw_task task;
    bool sees_all, with_ids, resumes;
    uint64_t at; /* resumes: the last row the client has; then: where the stream begins */
    enum ast_rc rc;
    struct ast_err err;
};

static void opening_free(struct gw_task *t)
{
    free(AST_CONTAINER_OF(t, struct opening, task));
}

/* On the disk thread: the row of who reads everything, then the end of the log; its own row is before that. */
static void open_work(struct gw_task *t)
{
    struct opening *o = AST_CONTAINER_OF(t, struct opening, task);
    struct ast_gateway *g = t->call.g;
    const struct ast_kernel_deed deed = {
        .caller = ast_principal_str(&t->call.bearer.principal),
        .method = AST_STR("AuditWatch"),
        .capability = AST_STR("audit:read_all"),
    };
    if (o->sees_all && !o->resumes)
        o->rc = ast_kernel_do(g->kernel, &deed, /* act= */ NULL, NULL, &o->err);
    uint64_t end = gw_feed_sync(g->feed);
    if (!o->resumes)
        o->at = end;
}

static void open_reply(struct gw_task *t)
{
    struct opening *o = AST_CONTAINER_OF(t, struct opening, task);
    struct gw_call *call = &t->call;
    struct events *s = o->rc ? NULL : calloc(1, sizeof *s);
    if (!s) {
        gw_reply_internal(call, o->rc ? o->err.msg : "out of memory");
        return;
    }
    atomic_init(&s->refs, 1);
    gw_stream_init(&s->base, call);
    s->sees_all = o->sees_all;
    s->with_ids = o->with_ids;
    s->page = (struct ast_buf)AST_BUF_INIT(PAGE_MAX);
    s->reader.ex = s->base.ex;
    s->reader.principal = caller_of(s);
    s->reader.sees_all = o->sees_all;
    if (!gw_feed_join(call->g->feed, &s->reader, o->at)) {
        on_gone(s);
        gw_reply_internal(call, "out of memory");
        return;
    }
    gw_stream_list(&s->base);
    gw_reply_stream(call, &stream_ops, s);
}

/* `ids=true` or a Last-Event-ID; the id of an event is its row. */
static enum ast_rc read_request(struct opening *o, const struct gw_request *r, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf memory = AST_BUF_INIT(AST_GATEWAY_HEAD_BYTES + 1);
    struct gw_param ids = { .name = AST_STR("ids") };
    struct ast_str last;
    enum ast_rc rc = gw_form_parse(r->query, &ids, 1, &memory, err);
    if (rc)
        return ast_wrap(err, rc, "Failed to deserialize query string");
    o->with_ids = ids.value.p && !ast_str_is(ids.value, "false");
    if (!gw_request_field(r, AST_STR("last-event-id"), &last) || !last.n)
        return AST_OK;
    o->with_ids = true;
    o->resumes = ast_str_to_u64(last, &o->at);
    return o->resumes ? AST_OK
                      : ast_fail(err, AST_E_INVALID, "Last-Event-ID is not the id of an event");
}

void gw_get_events(struct gw_call *call)
{
    struct ast_err err = AST_ERR_INIT;
    if (gw_is_disabled(call->g, ast_principal_str(&call->bearer.principal))) {
        ast_metric_add(call->g->auth_failures, 1);
        gw_reply_unauthorized(call);
        return;
    }
    struct opening *o = calloc(1, sizeof *o);
    if (!o) {
        gw_reply_internal(call, "out of memory");
        return;
    }
    o->task = (struct gw_task){ .work = open_work, .reply = open_reply, .free = opening_free };
    o->sees_all = sees_all(call->g, ast_principal_str(&call->bearer.principal));
    if (read_request(o, gw_exchange_request(call->ex), &err)) {
        gw_reply_bad_request(call, "%s", err.msg);
        free(o);
        return;
    }
    gw_task_start(call, &o->task);
}
