/* One blocking connection to the daemon: connect, prove the token, exchange frames. Every wait has a deadline on the
 * monotonic clock, so a daemon that hangs never hangs its client. */
#include "uplink/client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/time.h"
#include "uplink/frame.h"

#include "base/banned.h"

#define CLIENT_STEP_MS 10000 /* spec 01 §4.5: each handshake step of a client */

/* Owner: one thread. */
struct ast_uplink_client {
    int fd;
    struct ast_buf in;  /* bytes received, frames are taken from the front */
    size_t taken;       /* bytes at the front that belong to frames already given out */
    struct ast_buf out; /* scratch for one outgoing frame */
    enum ast_rc (*on_other)(void *arg, const struct ast_uplink_frame *f, struct ast_err *err);
    void *on_other_arg;
};

static int64_t deadline_after(int64_t timeout_ms)
{
    return timeout_ms < 0 ? INT64_MAX : ast_mono_ns() + timeout_ms * AST_NS_PER_MS;
}

/* Waits for readiness; TIMEOUT when the deadline passes. */
static enum ast_rc wait_for(int fd, short events, int64_t deadline_ns, struct ast_err *err)
{
    for (;;) {
        int timeout = -1;
        if (deadline_ns != INT64_MAX) {
            int64_t left = deadline_ns - ast_mono_ns();
            if (left <= 0)
                return ast_fail(err, AST_E_TIMEOUT, "timed out");
            int64_t ms = (left + AST_NS_PER_MS - 1) / AST_NS_PER_MS;
            timeout = (int)AST_MIN(ms, INT64_C(1000000));
        }
        struct pollfd p = { .fd = fd, .events = events };
        int n = poll(&p, 1, timeout);
        if (n > 0)
            return AST_OK;
        if (n < 0 && errno != EINTR)
            return ast_fail_errno(err, AST_E_IO, errno, "poll");
    }
}

static enum ast_rc write_all(struct ast_uplink_client *c, struct ast_str data, int64_t deadline_ns,
                             struct ast_err *err)
{
    while (data.n) {
        ssize_t n = send(c->fd, data.p, data.n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            data = ast_str_from(data, (size_t)n);
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            return ast_fail_errno(err, AST_E_CLOSED, errno, "send");
        enum ast_rc rc = wait_for(c->fd, POLLOUT, deadline_ns, err);
        if (rc)
            return rc;
    }
    return AST_OK;
}

/* Receives until the buffer holds at least `need` bytes beyond `taken`. */
static enum ast_rc fill(struct ast_uplink_client *c, size_t need, int64_t deadline_ns,
                        struct ast_err *err)
{
    while (c->in.n - c->taken < need) {
        enum ast_rc rc = ast_buf_reserve(&c->in, 65536);
        if (rc)
            return ast_buf_check(&c->in, "input", err);
        ssize_t n = recv(c->fd, c->in.p + c->in.n, c->in.cap - c->in.n - 1, MSG_DONTWAIT);
        if (n > 0) {
            c->in.n += (size_t)n;
            c->in.p[c->in.n] = 0;
            continue;
        }
        if (n == 0)
            return ast_fail(err, AST_E_CLOSED, "the daemon closed the connection");
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return ast_fail_errno(err, AST_E_CLOSED, errno, "receive");
        rc = wait_for(c->fd, POLLIN, deadline_ns, err);
        if (rc)
            return rc;
    }
    return AST_OK;
}

/* The next frame's body, borrowed from the input buffer until the next call. */
static enum ast_rc take_frame(struct ast_uplink_client *c, size_t max, const char *what,
                              int64_t deadline_ns, struct ast_str *ret, struct ast_err *err)
{
    if (c->taken) {
        ast_buf_consume(&c->in, c->taken);
        c->taken = 0;
    }
    enum ast_rc rc = fill(c, AST_FRAME_HEADER, deadline_ns, err);
    if (rc)
        return rc;
    uint32_t n = ast_frame_length((const uint8_t *)c->in.p);
    if (n > max)
        return ast_fail(err, AST_E_TOO_LARGE, "%s too large: %u bytes", what, n);
    rc = fill(c, AST_FRAME_HEADER + (size_t)n, deadline_ns, err);
    if (rc)
        return rc;
    *ret = (struct ast_str){ c->in.p + AST_FRAME_HEADER, n };
    c->taken = AST_FRAME_HEADER + (size_t)n;
    return AST_OK;
}

static enum ast_rc connect_socket(const struct ast_home *home, int *ret_fd, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(home, AST_HOME_SOCKET);
    AST_AUTO(ast_fs_close) int fd = -1;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "socket path");
    if (!ast_fs_exists(path))
        return ast_fail(err, AST_E_NOT_FOUND, "Global OS Socket not found at %s", path);
    struct ast_str p = ast_str_c(path);
    if (p.n >= sizeof addr.sun_path)
        return ast_fail(err, AST_E_INVALID,
                        "Socket path is %zu bytes, exceeding the platform limit of %zu bytes: %s",
                        p.n, sizeof addr.sun_path, path);
    memcpy(addr.sun_path, p.p, p.n);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ast_fail_errno(err, AST_E_IO, errno, "socket");
    if (connect(fd, (const struct sockaddr *)&addr, sizeof addr))
        return ast_fail_errno(err, errno == ECONNREFUSED ? AST_E_CLOSED : ast_rc_from_errno(errno),
                              errno, "Failed to connect to IPC socket");
    *ret_fd = fd;
    fd = -1;
    return AST_OK;
}

static enum ast_rc send_handshake(struct ast_uplink_client *c,
                                  const struct ast_session_token *token, struct ast_err *err)
{
    char hex[2 * AST_SESSION_TOKEN_BYTES + 1];
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < AST_SESSION_TOKEN_BYTES; i++) {
        hex[2 * i] = digits[token->b[i] >> 4];
        hex[2 * i + 1] = digits[token->b[i] & 15];
    }
    hex[sizeof hex - 1] = 0;

    ast_buf_reset(&c->out);
    size_t at = ast_frame_begin(&c->out);
    struct ast_jw w = AST_JW_INIT(&c->out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "token", ast_str_c(hex));
    ast_jw_kv_u64(&w, "protocol_version", AST_PROTOCOL_VERSION);
    ast_jw_kv_string(&w, "client_version", AST_STR("0.8.0"));
    ast_jw_end(&w);
    ast_frame_end(&c->out, at);
    enum ast_rc rc = ast_buf_check(&c->out, "handshake", err);
    if (!rc)
        rc = write_all(c, ast_buf_view(&c->out), deadline_after(CLIENT_STEP_MS), err);
    ast_wipe(hex, sizeof hex);
    ast_wipe(c->out.p, c->out.n);
    return rc;
}

static enum ast_rc read_handshake(struct ast_uplink_client *c, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_str body;
    enum ast_rc rc = take_frame(c, AST_HANDSHAKE_MAX, "Handshake response",
                                deadline_after(CLIENT_STEP_MS), &body, err);
    if (rc == AST_E_TIMEOUT)
        return ast_fail(err, rc, "Handshake response timed out");
    if (rc)
        return rc;
    rc = ast_json_parse(body, &doc, err);
    if (rc)
        return ast_wrap(err, rc, "Failed to parse handshake response");
    const struct ast_json *root = ast_json_root(doc);
    if (ast_str_is(ast_json_str_or(root, AST_STR("status"), AST_STR("")), "ok"))
        return AST_OK;
    struct ast_str reason = ast_json_str_or(root, AST_STR("reason"), AST_STR("unknown error"));
    return ast_fail(err, AST_E_DENIED, "Daemon rejected connection: " AST_STR_FMT,
                    AST_STR_ARG(reason));
}

enum ast_rc ast_uplink_connect(const struct ast_home *home, struct ast_uplink_client **ret,
                               struct ast_err *err)
{
    AST_AUTO(ast_uplink_disconnect) struct ast_uplink_client *c = calloc(1, sizeof *c);
    AST_AUTO(ast_cfree) char *token_path = ast_home_path(home, AST_HOME_TOKEN);
    struct ast_session_token token;

    if (!c || !token_path) {
        free(ast_steal(&c));
        return ast_fail(err, AST_E_NO_MEMORY, "client");
    }
    c->fd = -1;
    c->in.max = AST_FRAME_MAX_OUT + AST_FRAME_HEADER + 65536u;
    c->out.max = AST_FRAME_MAX_IN + AST_FRAME_HEADER;

    enum ast_rc rc = connect_socket(home, &c->fd, err);
    if (rc)
        return rc;
    rc = ast_session_token_load(token_path, &token, err);
    if (rc)
        return ast_wrap(err, rc, "Failed to read session token from %s. Is the daemon running?",
                        token_path);
    rc = send_handshake(c, &token, err);
    ast_wipe(&token, sizeof token);
    if (!rc)
        rc = read_handshake(c, err);
    if (rc)
        return rc;
    *ret = ast_steal(&c);
    return AST_OK;
}

void ast_uplink_disconnect(struct ast_uplink_client *c)
{
    if (!c)
        return;
    if (c->fd >= 0)
        close(c->fd);
    ast_buf_done(&c->in);
    ast_buf_done(&c->out);
    free(c);
}

enum ast_rc ast_uplink_send(struct ast_uplink_client *c, struct ast_str topic,
                            struct ast_str payload_json, const struct ast_uuid *source,
                            struct ast_str principal, struct ast_err *err)
{
    char uuid[AST_UUID_TEXT], stamp[AST_RFC3339_BYTES];

    ast_buf_reset(&c->out);
    size_t at = ast_frame_begin(&c->out);
    struct ast_jw w = AST_JW_INIT(&c->out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "topic", topic);
    ast_jw_key(&w, AST_STR("payload"));
    ast_jw_raw(&w, payload_json);
    ast_jw_kv_null(&w, "signature");
    ast_jw_kv_string(&w, "source_id", ast_uuid_format(source, uuid));
    ast_jw_kv_string(&w, "timestamp", ast_time_format(ast_wall_ns(), AST_TIME_Z, stamp));
    ast_jw_kv_u64(&w, "seq", 0);
    if (principal.n)
        ast_jw_kv_string(&w, "principal", principal);
    ast_jw_end(&w);
    ast_frame_end(&c->out, at);
    enum ast_rc rc = ast_buf_check(&c->out, "IPC message", err);
    return rc ? rc : write_all(c, ast_buf_view(&c->out), deadline_after(CLIENT_STEP_MS), err);
}

void ast_uplink_frame_done(struct ast_uplink_frame *f)
{
    ast_json_free(f->doc);
    *f = (struct ast_uplink_frame){ 0 };
}

enum ast_rc ast_uplink_recv(struct ast_uplink_client *c, int64_t timeout_ms,
                            struct ast_uplink_frame *ret, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_str body, topic;
    enum ast_rc rc = take_frame(c, AST_FRAME_MAX_OUT, "Message from kernel",
                                deadline_after(timeout_ms), &body, err);
    if (rc)
        return rc;
    rc = ast_json_parse(body, &doc, err);
    if (rc)
        return ast_wrap(err, rc, "frame from the daemon");
    const struct ast_json *root = ast_json_root(doc);
    const struct ast_json *payload = ast_json_member(root, "payload");
    if (!ast_json_string(ast_json_member(root, "topic"), &topic) || !payload)
        return ast_fail(err, AST_E_PROTOCOL, "frame from the daemon lacks topic or payload");
    *ret = (struct ast_uplink_frame){ .doc = ast_steal(&doc), .topic = topic, .payload = payload };
    return AST_OK;
}

enum ast_rc ast_uplink_wait(struct ast_uplink_client *c, int other, bool *ret_frame,
                            bool *ret_other, struct ast_err *err)
{
    struct pollfd p[] = { { .fd = c->fd, .events = POLLIN }, { .fd = other, .events = POLLIN } };
    bool has_rest = c->in.n > c->taken; /* came with an earlier frame */

    while (poll(p, AST_ARRAY_LEN(p), has_rest ? 0 : -1) < 0)
        if (errno != EINTR)
            return ast_fail_errno(err, AST_E_IO, errno, "poll");
    *ret_frame = has_rest || p[0].revents;
    *ret_other = p[1].revents;
    return AST_OK;
}

/* {"type":"raw_json",<members of the request>} */
static enum ast_rc tag_request(struct ast_str request, struct ast_buf *out, struct ast_err *err)
{
    struct ast_str r = ast_str_trim(request);
    AST_ASSERT(r.n >= 2 && r.p[0] == '{');
    ast_buf_add_lit(out, "{\"type\":\"raw_json\"");
    if (ast_str_trim((struct ast_str){ r.p + 1, r.n - 2 }).n)
        ast_buf_add_byte(out, ',');
    ast_buf_add(out, ast_str_from(r, 1));
    return ast_buf_check(out, "request", err);
}

void ast_uplink_on_other(struct ast_uplink_client *c,
                         enum ast_rc (*fn)(void *arg, const struct ast_uplink_frame *f,
                                           struct ast_err *err),
                         void *arg)
{
    c->on_other = fn;
    c->on_other_arg = arg;
}

enum ast_rc ast_uplink_request(struct ast_uplink_client *c, struct ast_str suffix,
                               struct ast_str request_json, struct ast_str principal,
                               int64_t timeout_ms, struct ast_uplink_frame *ret,
                               struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf payload = AST_BUF_INIT(AST_FRAME_MAX_IN);
    AST_AUTO(ast_buf_done) struct ast_buf topic = AST_BUF_INIT(512);
    struct ast_uuid id = ast_uuid_v4();
    char text[AST_UUID_TEXT];
    int64_t deadline = deadline_after(timeout_ms);

    /* A private topic: answers to others on the shared one are never mistaken for ours. */
    ast_uuid_format(&id, text);
    ast_buf_addf(&topic, "astrid.v1.response." AST_STR_FMT ".", AST_STR_ARG(suffix));
    for (const char *p = text; *p; p++)
        if (*p != '-')
            ast_buf_add_byte(&topic, *p);
    enum ast_rc rc = ast_buf_check(&topic, "topic", err);
    if (!rc)
        rc = tag_request(request_json, &payload, err);
    if (rc)
        return rc;

    struct ast_str tail = ast_str_from(ast_buf_view(&topic), AST_STR("astrid.v1.response.").n);
    AST_AUTO(ast_buf_done) struct ast_buf ask = AST_BUF_INIT(512);
    ast_buf_addf(&ask, "astrid.v1.request." AST_STR_FMT, AST_STR_ARG(tail));
    rc = ast_buf_check(&ask, "topic", err);
    if (!rc)
        rc = ast_uplink_send(c, ast_buf_view(&ask), ast_buf_view(&payload), &AST_UUID_NIL,
                             principal, err);
    while (!rc) {
        AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
        int64_t left = deadline == INT64_MAX ? -1 : (deadline - ast_mono_ns()) / AST_NS_PER_MS;
        if (deadline != INT64_MAX && left <= 0)
            return ast_fail(err, AST_E_TIMEOUT, "no answer from the daemon within %lld ms",
                            (long long)timeout_ms);
        rc = ast_uplink_recv(c, left, &f, err);
        if (!rc && ast_str_eq(f.topic, ast_buf_view(&topic))) {
            *ret = f;
            f = (struct ast_uplink_frame){ 0 };
            return AST_OK;
        }
        int64_t before = ast_mono_ns();
        if (!rc && c->on_other)
            rc = c->on_other(c->on_other_arg, &f, err);
        if (deadline != INT64_MAX)
            deadline += ast_mono_ns() - before; /* a person's time is not the daemon's */
    }
    return rc;
}
