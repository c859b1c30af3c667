/* POST /api/agent/prompt: a prompt becomes a message, its answers become a stream (spec 03 §22).
 *
 *   loop thread: subscribe, publish, "ready" ──► fill: queue ─► pending (by seq) ─► events ──► end
 *   publisher:   filter, enqueue, wake ─────────────┘
 *
 * A slow client leaves messages in the route's bounded queue, which drops the oldest and counts; the client is told.
 * Owner of a stream: its loop thread, except the fields marked.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "base/vec.h"
#include "bus/route.h"
#include "gateway/gateway_priv.h"
#include "gateway/prompt_priv.h"
#include "host/env.h"

#include "base/banned.h"

#define SESSION_MAX AST_GATEWAY_BODY_BYTES
#define DRAIN_STEP  64u

struct stream {
    struct gw_stream base;
    struct ast_route *route;      /* owned */
    struct gw_prompt_scope scope; /* immutable: the filter reads it on any thread */
    char *session;                /* owned; in scope */
    /* The answer, owned; set once by its publisher. Not in the queue, which drops what is old or large. */
    _Atomic(struct ast_msg *) answer;
    AST_VEC(struct ast_msg *) pending; /* owned references, ascending seq, from `next` on */
    size_t next;
    uint64_t dropped_told;
    int64_t end_ns; /* limit of the stream */
    bool said_ready;
    bool
        is_counted; /* with the kernel, as somebody who is there: questions are asked, the daemon is not idle */
};

/* --- Life ---------------------------------------------------------------------------------- */

static void stream_free(struct stream *s)
{
    ast_route_close(s->route);
    gw_stream_done(&s->base);
    for (size_t i = s->next; i < s->pending.n; i++)
        ast_msg_unref(s->pending.v[i]);
    ast_vec_done(&s->pending);
    ast_msg_unref(atomic_load(&s->answer));
    if (s->is_counted)
        ast_kernel_socket_count(s->base.g->kernel, -1);
    free(s->session);
    free(s);
}
AST_DEFINE_AUTO(struct stream, stream_free)

static void on_gone(void *user)
{
    stream_free(user);
}

/* --- The route's callbacks, any thread ----------------------------------------------------- */

static void on_notify(void *arg)
{
    struct stream *s = arg;
    gw_exchange_wake(s->base.ex);
}

static bool on_filter(void *arg, const struct ast_msg *msg)
{
    struct stream *s = arg;
    if (!gw_prompt_shows(&s->scope, msg))
        return false;
    if (!ast_str_is(msg->topic, "agent.v1.response"))
        return true;
    struct ast_msg *none = NULL, *answer = ast_msg_ref((struct ast_msg *)msg);
    if (atomic_compare_exchange_strong(&s->answer, &none, answer))
        on_notify(s);
    else
        ast_msg_unref(answer); /* the first one ends the stream */
    return false;
}

/* --- Filling ------------------------------------------------------------------------------- */

static int by_seq(const void *a, const void *b)
{
    uint64_t x = (*(struct ast_msg *const *)a)->seq, y = (*(struct ast_msg *const *)b)->seq;
    return x < y ? -1 : x > y;
}

/* Everything queued, in bus order: the queue's rounds between principals must not move an answer before its deltas. */
static bool take_pending(struct stream *s)
{
    struct ast_msg *step[DRAIN_STEP];
    bool complete = true;
    s->next = 0;
    ast_vec_clear(&s->pending);
    for (size_t n;
         complete && (n = ast_route_drain(s->route, AST_ROUTE_BUDGET, step, DRAIN_STEP)) > 0;) {
        for (size_t i = 0; i < n; i++) {
            if (complete && ast_vec_push(&s->pending, step[i]))
                continue;
            complete = false;
            ast_msg_unref(step[i]);
        }
    }
    if (s->pending.n > 1)
        qsort(s->pending.v, s->pending.n, sizeof *s->pending.v, by_seq);
    return complete;
}

static void say_ready(struct stream *s, struct ast_buf *out)
{
    AST_AUTO(ast_buf_done) struct ast_buf json = AST_BUF_INIT(8 * SESSION_MAX);
    struct ast_jw w = AST_JW_INIT(&json);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "session_id", s->scope.session);
    ast_jw_kv_string(&w, "principal", s->scope.principal);
    ast_jw_end(&w);
    gw_sse_event(out, "ready", ast_buf_view(&json));
    s->said_ready = true;
}

static void say_dropped(struct stream *s, struct ast_buf *out)
{
    struct ast_route_stats stats;
    char json[48];
    ast_route_stats(s->route, &stats);
    if (stats.dropped_total == s->dropped_told)
        return;
    (void)snprintf(json, sizeof json, "{\"dropped\":%llu}",
                   (unsigned long long)(stats.dropped_total - s->dropped_told));
    s->dropped_told = stats.dropped_total;
    gw_sse_event(out, "lagged", ast_str_c(json));
}

/* Writes what is pending until the buffer has enough, up to the answer; true: that was said, too. */
static bool say_pending(struct stream *s, const struct ast_msg *answer, struct ast_buf *out)
{
    while (s->next < s->pending.n && out->n < AST_GATEWAY_FILL_BYTES) {
        AST_AUTO(ast_msg_unref) struct ast_msg *m = s->pending.v[s->next++];
        if (!answer || m->seq < answer->seq)
            gw_sse_message(out, gw_prompt_event(m->topic), m);
    }
    if (!answer || s->next < s->pending.n || !ast_route_empty(s->route))
        return false;
    gw_sse_message(out, gw_prompt_event(answer->topic), answer);
    return true;
}

static void say_timeout(struct stream *s, struct ast_buf *out)
{
    char json[48];
    (void)snprintf(json, sizeof json, "{\"after_secs\":%u}", s->base.g->cfg.prompt_secs);
    gw_sse_event(out, "timeout", ast_str_c(json));
}

static bool fill(void *user, int64_t now_ns, struct ast_buf *out, int64_t *ret_next_ns)
{
    struct stream *s = user;
    if (gw_stream_is_over(&s->base, now_ns))
        return false;
    if (!s->said_ready)
        say_ready(s, out);
    do {
        /* Before the queue: what was published before the answer is in it by now. */
        const struct ast_msg *answer = atomic_load(&s->answer);
        say_dropped(s, out);
        if (s->next == s->pending.n && !take_pending(s))
            return false; /* out of memory: an end the client can see */
        if (say_pending(s, answer, out))
            return false;
    } while (out->n < AST_GATEWAY_FILL_BYTES &&
             (!ast_route_empty(s->route) || s->next < s->pending.n));

    if (now_ns >= s->end_ns) {
        say_timeout(s, out);
        return false;
    }
    gw_stream_keep_alive(&s->base, now_ns, out, ret_next_ns);
    *ret_next_ns = AST_MIN(*ret_next_ns, s->end_ns);
    return true;
}

static const struct gw_stream_ops stream_ops = { fill, on_gone };

/* --- The handler --------------------------------------------------------------------------- */

static enum ast_rc stream_open(struct gw_call *call, struct ast_str session, struct stream **ret,
                               struct ast_err *err)
{
    struct ast_gateway *g = call->g;
    AST_AUTO(stream_free) struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return ast_fail(err, AST_E_NO_MEMORY, "prompt stream");
    gw_stream_init(&s->base, call);
    s->session = ast_str_dup(session);
    s->end_ns = s->base.spoke_ns + (int64_t)g->cfg.prompt_secs * AST_NS_PER_SEC;
    if (!s->session)
        return ast_fail(err, AST_E_NO_MEMORY, "prompt stream");
    s->scope = (struct gw_prompt_scope){
        .principal = ast_principal_str(&s->base.bearer.principal),
        .session = ast_str_n(s->session, session.n),
        .sees_elicits =
            ast_policy_holds(g->host->policy, ast_principal_str(&s->base.bearer.principal),
                             AST_STR("capsule:install")),
    };
    const struct ast_str topics[] = { AST_STR("agent.v1.response"),
                                      AST_STR("agent.v1.stream.delta"),
                                      AST_STR("agent.v1.session_changed"),
                                      AST_STR("astrid.v1.elicit") };
    enum ast_rc rc =
        ast_route_open(g->host->bus,
                       &(struct ast_route_config){ .patterns = topics,
                                                   .pattern_count = AST_ARRAY_LEN(topics),
                                                   .label = AST_STR("gateway"),
                                                   .scope = s->scope.principal,
                                                   .scope_admits_system = true,
                                                   .filter = on_filter,
                                                   .notify = on_notify,
                                                   .arg = s },
                       &s->route, err);
    if (rc)
        return rc;
    gw_stream_list(&s->base);
    ast_kernel_socket_count(g->kernel, 1);
    s->is_counted = true;
    *ret = ast_steal(&s);
    return AST_OK;
}

static enum ast_rc publish(const struct stream *s, const struct gw_prompt_request *p,
                           struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(16 * AST_GATEWAY_BODY_BYTES);
    struct ast_msg *msg = NULL;
    enum ast_rc rc = gw_prompt_print(p, s->scope.session, &body, err);
    if (!rc)
        rc = ast_msg_trusted(&(struct ast_msg_spec){ .topic = AST_STR("user.v1.prompt"),
                                                     .principal = s->scope.principal,
                                                     .origin = "gateway" },
                             AST_PAYLOAD_USER_INPUT, ast_buf_view(&body), &msg, err);
    if (!rc)
        (void)ast_bus_publish(s->base.g->host->bus, msg);
    return rc;
}

void gw_post_prompt(struct gw_call *call)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(stream_free) struct stream *s = NULL;
    struct gw_prompt_request p;
    char fresh[AST_UUID_TEXT];
    if (!gw_caller_enabled(call)) {
        ast_metric_add(call->g->auth_failures, 1);
        gw_reply_unauthorized(call);
        return;
    }
    if (gw_prompt_parse(gw_exchange_request(call->ex)->body, &doc, &p, &err)) {
        gw_reply_bad_request(call, "invalid JSON: %s", err.msg);
        return;
    }
    struct ast_uuid uuid = ast_uuid_v4();
    struct ast_str session = p.session.n ? p.session : ast_uuid_format(&uuid, fresh);
    if (stream_open(call, session, &s, &err) || publish(s, &p, &err)) {
        gw_reply_internal(call, err.msg);
        return;
    }
    gw_reply_stream(call, &stream_ops, ast_steal(&s));
}
