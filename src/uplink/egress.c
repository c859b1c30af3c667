/* From the bus to the clients. Taps run on publishers' threads: they only decide who gets a message and queue a reference;
 * the loop makes frames. One queue per connection keeps bus order over all topics (spec 01 §8.5 N8). */
#include <stdlib.h>

#include "base/log.h"
#include "uplink/server_priv.h"

#include "base/banned.h"

#define DELTA    AST_STR("agent.v1.stream.delta")
#define RESPONSE AST_STR("agent.v1.response")

/* Whom a message with a principal reaches (spec 01 §8.5 N3). */
enum audience {
    OWN,      /* connections that use the principal */
    QUESTION, /* all, since an operator may answer for others; a setting makes it OWN */
    EVERYONE,
};

/* spec 01 §8.4 */
static const struct {
    const char *pattern;
    enum audience audience;
} egress[] = {
    { "agent.v1.stream.delta", OWN },
    { "agent.v1.response", OWN },
    { "astrid.v1.onboarding.required", EVERYONE },
    { "astrid.v1.elicit",
      QUESTION }, /* requests only: answers carry secrets and are never forwarded */
    { "astrid.v1.approval", QUESTION },
    { "astrid.v1.response.*", OWN },
    { "astrid.v1.admin.response.*", OWN },
    { "astrid.v1.capsules_loaded", EVERYONE },
    { "registry.v1.response.*", OWN },
    { "registry.v1.active_model_changed", OWN },
    { "registry.v1.selection.*", OWN },
    { "session.v1.response.*", OWN },
    { "cli.v1.command.result.*", OWN },
};

static bool is_chat(const struct ast_msg *m)
{
    return ast_str_eq(m->topic, DELTA) || ast_str_eq(m->topic, RESPONSE);
}

/* An empty set counts as {default} (N2). */
static bool uses_principal(const struct uplink_conn *c, struct ast_str principal)
{
    if (c->principals.n == 0)
        return ast_str_eq(principal, AST_PRINCIPAL_DEFAULT);
    ast_vec_each (&c->principals, p)
        if (ast_str_eq(ast_principal_str(p), principal))
            return true;
    return false;
}

static bool reaches_all(const struct ast_uplink_server *s, struct ast_str topic)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(egress); i++)
        if (egress[i].audience != OWN && ast_str_eq(ast_str_c(egress[i].pattern), topic))
            return egress[i].audience == EVERYONE || !s->own_questions_only;
    return false;
}

/* N3 and N4. */
static bool admits(const struct uplink_conn *c, const struct ast_msg *m) AST_REQUIRES(server->lock)
{
    if (m->principal.n && !reaches_all(c->server, m->topic) && !uses_principal(c, m->principal))
        return false;
    if (is_chat(m) && m->session.n && !ast_str_is(m->session, "default"))
        return c->session && ast_str_eq(ast_str_c(c->session), m->session);
    return true;
}

static void queue_for(struct uplink_conn *c, struct ast_msg *msg) AST_REQUIRES(server->lock)
{
    if (c->overflowed)
        return;
    size_t cost = ast_msg_cost(msg);
    if (c->pending.n >= AST_UPLINK_MAX_QUEUE_FRAMES ||
        c->pending_bytes + cost > AST_UPLINK_MAX_QUEUE_BYTES || !ast_vec_push(&c->pending, msg)) {
        c->overflowed = true; /* the loop disconnects it */
        return;
    }
    ast_msg_ref(msg);
    c->pending_bytes += cost;
}

static void on_message(void *arg, struct ast_msg *msg)
{
    struct ast_uplink_server *s = arg;
    bool wake = false;
    {
        AST_WITH_LOCK(&s->lock);
        ast_vec_each (&s->listed, it) {
            if (admits(*it, msg)) {
                queue_for(*it, msg);
                wake = true;
            }
        }
        wake = wake && !s->posted;
        s->posted = s->posted || wake;
    }
    if (wake)
        ast_loop_post(s->loop, &s->drain);
}

/* Only here is the post off the loop's queue: whoever else drains must not make room for a second one. */
static void on_drain(struct ast_post *post)
{
    struct ast_uplink_server *s = AST_CONTAINER_OF(post, struct ast_uplink_server, drain);
    {
        AST_WITH_LOCK(&s->lock);
        s->posted = false;
    }
    uplink_egress_drain(s);
}

enum ast_rc uplink_egress_open(struct ast_uplink_server *s, struct ast_err *err)
{
    struct ast_bus *bus = ast_kernel_host(s->k)->bus;

    s->drain.fn = on_drain;
    for (size_t i = 0; i < AST_ARRAY_LEN(egress); i++) {
        struct ast_tap *tap;
        enum ast_rc rc =
            ast_tap_open(bus, "untagged", ast_str_c(egress[i].pattern), on_message, s, &tap, err);
        if (rc)
            return rc;
        if (!ast_vec_push(&s->taps, tap)) {
            ast_tap_close(tap);
            return ast_fail(err, AST_E_NO_MEMORY, "socket server");
        }
    }
    return AST_OK;
}

void uplink_egress_close(struct ast_uplink_server *s)
{
    ast_vec_each (&s->taps, tap)
        ast_tap_close(*tap);
    ast_vec_done(&s->taps);
}

static void drop_pending(struct uplink_conn *c) AST_REQUIRES(server->lock)
{
    ast_vec_each (&c->pending, m)
        ast_msg_unref(*m);
    ast_vec_done(&c->pending);
    c->pending_bytes = 0;
}

void uplink_egress_list(struct uplink_conn *c, bool listed)
{
    struct ast_uplink_server *s = c->server;
    AST_WITH_LOCK(&s->lock);

    if (listed && !c->listed) {
        c->listed = ast_vec_push(&s->listed, c);
    } else if (!listed && c->listed) {
        for (size_t i = 0; i < s->listed.n; i++)
            if (s->listed.v[i] == c) {
                ast_vec_remove_swap(&s->listed, i);
                break;
            }
        c->listed = false;
        drop_pending(c);
    }
}

/* {"payload":..,"source_id":..,"topic":..}: exactly three members (spec 01 §5.1). */
static bool send_message(struct uplink_conn *c, const struct ast_msg *m)
{
    AST_AUTO(ast_buf_done)
    struct ast_buf rewritten = AST_BUF_INIT(2u * AST_MSG_MAX_PAYLOAD + 4096u);
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(AST_FRAME_MAX_OUT);
    struct ast_str payload = m->body;
    char source[AST_UUID_TEXT];

    if (ast_str_eq(m->topic, DELTA))
        ast_reconcile_delta(&c->reconcile, m);
    else if (ast_str_eq(m->topic, RESPONSE) &&
             ast_reconcile_response(&c->reconcile, m, &rewritten) && !rewritten.fail)
        payload = ast_buf_view(&rewritten);

    struct ast_jw w = AST_JW_INIT(&body);
    ast_jw_object(&w);
    ast_jw_key(&w, AST_STR("payload"));
    ast_jw_raw(&w, payload);
    ast_jw_kv_string(&w, "source_id", ast_uuid_format(&m->source_id, source));
    ast_jw_kv_string(&w, "topic", m->topic);
    ast_jw_end(&w);
    if (body.fail) {
        ast_log_error(UPLINK_TARGET, "message on " AST_STR_FMT " is too large for a frame",
                      AST_STR_ARG(m->topic));
        return true;
    }
    return uplink_conn_send(c, ast_buf_view(&body));
}

/* Takes the connection's queue and turns it into frames. */
static void drain_one(struct uplink_conn *c)
{
    __typeof__(c->pending) batch;
    bool overflowed, alive = true;
    {
        AST_WITH_LOCK(&c->server->lock);
        memcpy(&batch, &c->pending, sizeof batch);
        memset(&c->pending, 0, sizeof c->pending);
        c->pending_bytes = 0;
        overflowed = c->overflowed;
    }
    ast_vec_each (&batch, m) {
        alive = alive && send_message(c, *m);
        ast_msg_unref(*m);
    }
    ast_vec_done(&batch);
    if (alive && overflowed) {
        ast_log_fields(AST_LOG_WARN, UPLINK_TARGET, "client does not read; disconnecting it",
                       AST_F_U64("queue_bytes", AST_UPLINK_MAX_QUEUE_BYTES));
        uplink_conn_close(c);
    } else if (alive) {
        (void)uplink_conn_flush(c); /* a failed write closed it: nothing more to do here */
    }
}

void uplink_egress_drain(struct ast_uplink_server *s)
{
    ast_list_each (&s->conns, it) {
        struct uplink_conn *c = AST_CONTAINER_OF(it, struct uplink_conn, link);
        if (c->state == CONN_OPEN)
            drain_one(c);
    }
}
