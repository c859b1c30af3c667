/* One client connection: bytes in, frames out, deadlines. All on the main loop; nothing here blocks. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "uplink/server_priv.h"

#include "base/banned.h"

#define READ_CHUNK           65536u
#define CLIENT_VERSION_SHOWN 64u

static void on_deadline(void *arg)
{
    struct uplink_conn *c = arg;
    ast_log_debug(UPLINK_TARGET, "connection closed: %s",
                  c->state == CONN_OPEN ? "frame body timed out" : "handshake timed out");
    uplink_conn_close(c);
}

void uplink_conn_close(struct uplink_conn *c)
{
    struct ast_uplink_server *s = c->server;

    uplink_egress_list(c, false);
    ast_list_remove(&c->link);
    if (c->state == CONN_OPEN) {
        s->open_count--;
        ast_kernel_socket_count(s->k, -1);
        uplink_ingress_gone(c);
    } else {
        s->handshake_count--;
    }
    ast_watch_close(c->watch);
    ast_timer_close(c->timer);
    close(c->fd);
    ast_buf_done(&c->in);
    ast_buf_done(&c->out);
    ast_reconcile_done(&c->reconcile);
    ast_vec_done(&c->principals);
    free(c->session);
    free(c);
    uplink_accept_resume(s);
}

/* ---- out ---- */

static void watch_for_more(struct uplink_conn *c)
{
    bool waiting = c->out_at < c->out.n;
    unsigned events = waiting ? AST_WATCH_WRITE : 0u;
    if (c->state != CONN_CLOSING)
        events |= AST_WATCH_READ;
    ast_watch_set(c->watch, events);
}

bool uplink_conn_flush(struct uplink_conn *c)
{
    while (c->out_at < c->out.n) {
        ssize_t n =
            send(c->fd, c->out.p + c->out_at, c->out.n - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            c->out_at += (size_t)n;
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            watch_for_more(c);
            return true;
        } else {
            uplink_conn_close(c);
            return false;
        }
    }
    ast_buf_reset(&c->out);
    c->out_at = 0;
    c->out_frames = 0;
    if (c->state == CONN_CLOSING) {
        uplink_conn_close(c);
        return false;
    }
    watch_for_more(c);
    return true;
}

bool uplink_conn_send(struct uplink_conn *c, struct ast_str body)
{
    if (c->out_at) {
        ast_buf_consume(&c->out, c->out_at);
        c->out_at = 0;
    }
    size_t at = ast_frame_begin(&c->out);
    ast_buf_add(&c->out, body);
    ast_frame_end(&c->out, at);
    if (c->out.fail || ++c->out_frames > 2 * AST_UPLINK_MAX_QUEUE_FRAMES) {
        ast_log_fields(AST_LOG_WARN, UPLINK_TARGET, "client does not read; disconnecting it",
                       AST_F_U64("queued_bytes", c->out.n));
        uplink_conn_close(c);
        return false;
    }
    return true;
}

/* ---- the handshake (spec 01 §4.5) ---- */

static void answer_handshake(struct uplink_conn *c, const char *reason)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(AST_HANDSHAKE_MAX);
    struct ast_jw w = AST_JW_INIT(&body);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "status", reason ? AST_STR("error") : AST_STR("ok"));
    ast_jw_kv_u64(&w, "protocol_version", AST_PROTOCOL_VERSION);
    ast_jw_kv_string(&w, "server_version", ast_str_c(ast_kernel_version(c->server->k)));
    if (reason)
        ast_jw_kv_string(&w, "reason", ast_str_c(reason));
    ast_jw_end(&w);
    if (uplink_conn_send(c, ast_buf_view(&body)))
        (void)uplink_conn_flush(c); /* false: it closed itself */
}

static void reject(struct uplink_conn *c, const char *reason)
{
    ast_log_fields(AST_LOG_WARN, UPLINK_TARGET, "socket handshake rejected", AST_F_SECURITY,
                   AST_F_CSTR("reason", reason));
    c->state = CONN_CLOSING;
    ast_timer_start(c->timer, UPLINK_STEP_MS, 0);
    answer_handshake(c, reason);
}

static void accept_client(struct uplink_conn *c, struct ast_str version)
{
    struct ast_uplink_server *s = c->server;

    ast_timer_stop(c->timer);
    c->state = CONN_OPEN;
    s->handshake_count--;
    s->open_count++;
    ast_kernel_socket_count(s->k, 1);
    ast_log_fields(AST_LOG_INFO, UPLINK_TARGET, "Socket handshake succeeded",
                   AST_F_STR("client_version", ast_str_first(version, CLIENT_VERSION_SHOWN)));
    /* Listed before the answer leaves: a client sees every message published after it. */
    uplink_egress_list(c, true);
    answer_handshake(c, NULL);
}

/* Malformed: close without a word. False: the connection is gone or closing. */
static bool handle_handshake(struct uplink_conn *c, struct ast_str body)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_session_token token;
    struct ast_str hex, version;
    struct ast_err err = AST_ERR_INIT;
    uint64_t protocol = 0;

    enum ast_rc rc = ast_json_parse(body, &doc, &err);
    const struct ast_json *root = rc ? NULL : ast_json_root(doc);
    if (rc || !ast_json_string(ast_json_member(root, "token"), &hex) ||
        !ast_json_u64(ast_json_member(root, "protocol_version"), &protocol) ||
        protocol > UINT8_MAX ||
        !ast_json_string(ast_json_member(root, "client_version"), &version)) {
        ast_log_fields(AST_LOG_WARN, UPLINK_TARGET, "invalid handshake JSON", AST_F_SECURITY,
                       AST_F_CSTR("error", rc ? err.msg : "missing or wrong member"));
        uplink_conn_close(c);
        return false;
    }
    if (protocol != AST_PROTOCOL_VERSION) {
        char reason[160];
        snprintf(
            reason, sizeof reason,
            "Protocol version mismatch (client=%u, server=%u). Restart the daemon with `astrid restart`.",
            (unsigned)protocol, AST_PROTOCOL_VERSION);
        reject(c, reason);
        return false;
    }
    bool ok = ast_session_token_parse(hex, &token, NULL) == AST_OK &&
              ast_session_token_equal(&token, ast_kernel_token(c->server->k));
    ast_wipe(&token, sizeof token);
    if (!ok) {
        reject(c, "authentication failed");
        return false;
    }
    if (c->server->open_count >= c->server->max_clients) {
        reject(c, "too many clients are connected; close one and try again");
        return false;
    }
    struct ast_uplink_server *s = c->server;
    unsigned before = s->open_count;
    accept_client(c, version);
    return s->open_count > before; /* a write error may have closed it already */
}

/* ---- in ---- */

static void body_deadline(struct uplink_conn *c, uint32_t length)
{
    uint64_t ms = c->state == CONN_OPEN ? UPLINK_STEP_MS + length / 1024u : UPLINK_STEP_MS;
    ast_timer_start(c->timer, ms, 0);
}

/* One complete frame off the front of `in`. Returns false when there is none yet or the connection is gone. */
static bool take_frame(struct uplink_conn *c)
{
    if (c->in.n < AST_FRAME_HEADER)
        return false;
    uint32_t n = ast_frame_length((const uint8_t *)c->in.p);
    uint32_t max = c->state == CONN_HANDSHAKE ? AST_HANDSHAKE_MAX : AST_FRAME_MAX_IN;
    if (n > max) {
        ast_log_warn(UPLINK_TARGET, "%s too large: %u bytes",
                     c->state == CONN_HANDSHAKE ? "handshake" : "frame", n);
        uplink_conn_close(c);
        return false;
    }
    if (c->in.n - AST_FRAME_HEADER < n) {
        if (!c->in_body)
            body_deadline(c, n);
        c->in_body = true;
        return false;
    }
    struct ast_str body = { c->in.p + AST_FRAME_HEADER, n };
    c->in_body = false;
    if (c->state == CONN_HANDSHAKE) {
        if (!handle_handshake(c, body))
            return false;
    } else {
        ast_timer_stop(c->timer);
        uplink_ingress(c, body);
    }
    ast_buf_consume(&c->in, AST_FRAME_HEADER + (size_t)n);
    return true;
}

static void on_readable(struct uplink_conn *c)
{
    if (ast_buf_reserve(&c->in, READ_CHUNK)) {
        uplink_conn_close(c);
        return;
    }
    ssize_t n = recv(c->fd, c->in.p + c->in.n, READ_CHUNK, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK))
        return;
    if (n <= 0) { /* a probe that connects and leaves is no event worth a line */
        uplink_conn_close(c);
        return;
    }
    c->in.n += (size_t)n;
    c->in.p[c->in.n] = 0;
    while (take_frame(c))
        ;
}

static void on_io(void *arg, unsigned events)
{
    struct uplink_conn *c = arg;

    if ((events & AST_WATCH_WRITE) && !uplink_conn_flush(c))
        return;
    if ((events & AST_WATCH_READ) && c->state != CONN_CLOSING)
        on_readable(c);
}

struct uplink_conn *uplink_conn_new(struct ast_uplink_server *s, int fd)
{
    struct uplink_conn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->server = s;
    c->fd = fd;
    c->in.max = AST_FRAME_MAX_IN + AST_FRAME_HEADER + READ_CHUNK;
    c->out.max = 2u * AST_UPLINK_MAX_QUEUE_BYTES;
    c->watch = ast_watch_new(s->loop, fd, on_io, c);
    c->timer = ast_timer_new(s->loop, on_deadline, c);
    if (!c->watch || !c->timer) {
        ast_watch_close(c->watch);
        ast_timer_close(c->timer);
        free(c);
        return NULL;
    }
    ast_list_push_back(&s->conns, &c->link);
    s->handshake_count++;
    ast_timer_start(c->timer, UPLINK_STEP_MS, 0);
    ast_watch_set(c->watch, AST_WATCH_READ);
    return c;
}
