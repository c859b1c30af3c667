/* The door to libwebsockets: event loops, sockets, TLS. HTTP itself is in http_conn.c.
 *
 * One context a loop thread; one acceptor thread owns the listening socket, so that a second daemon on the same port
 * is refused (shared ports would let it take half of our clients), and hands each connection to the loop with the
 * fewest. libwebsockets serves the connections as raw sockets, with its buffering of partial writes, its TLS and its
 * event loop. Its own HTTP role is not used: it rewrites paths ("//", "%2F"), answers unknown methods with a page
 * of its own, cuts long heads off without an answer and mixes up pipelined bodies (seen with 4.1.6).
 *
 * Caveats that bite: lws_write() outside of a writable callback is fine as long as nothing is buffered; a
 * connection is closed from inside its own callback by returning -1, from elsewhere by an immediate timeout;
 * lws_cancel_service() is the only function for other threads.
 */
#include "gateway/http_conn_priv.h"

#include <errno.h>
#include <libwebsockets.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"

#include "base/banned.h"

#define LOOPS_MAX    64u
#define READ_BYTES   16384u /* taken from a socket at once */
#define SCRATCH_MAX  AST_GATEWAY_OUT_BYTES
#define SCRATCH_KEPT 131072u

const size_t gw_door_headroom = LWS_PRE;

/* Owner: its own thread, except what is under `lock` and the atomics. */
struct gw_loop {
    struct gw_http *http;
    struct lws_context *context;
    struct lws_vhost *vhost;
    void *ssl_ctx; /* the vhost's own; NULL without TLS */
    pthread_t thread;
    bool has_thread;
    struct ast_lock lock;
    struct gw_post *first_post AST_GUARDED_BY(lock), **last_post AST_GUARDED_BY(lock);
    bool closed AST_GUARDED_BY(lock); /* no wake-ups any more */
    struct ast_list conns;
    atomic_size_t conn_count; /* adopted or on the way */
    struct ast_heap timers;   /* struct gw_timer */
    lws_sorted_usec_list_t alarm;
    int64_t alarm_ns; /* 0: not set */
    struct gw_timer drain;
    struct gw_post stop;
    bool stopping, done;
    struct ast_buf scratch;
    int64_t date_sec;
    size_t date_n;
    char date[48];
};

/* Owner: who started it; immutable after the start except the atomics. */
struct gw_http {
    atomic_uint refs;
    struct gw_http_config cfg;
    char *fixed_fields, *cert, *key; /* owned; in cfg */
    SSL_CTX *no_client;              /* NULL without TLS */
    int listener, stop_event;
    unsigned port;
    pthread_t acceptor;
    bool has_acceptor;
    unsigned loop_count;
    struct gw_loop loops[LOOPS_MAX];
};

struct session { /* libwebsockets' memory per connection, zeroed at first */
    struct gw_conn *conn;
    bool is_counted;
};

struct adoption {
    struct gw_post post;
    struct gw_loop *loop;
    int fd;
};

/* --- What the connections see -------------------------------------------------------------- */

const struct gw_http_config *gw_loop_config(const struct gw_loop *loop)
{
    return &loop->http->cfg;
}

struct ast_buf *gw_loop_scratch(struct gw_loop *loop)
{
    if (loop->scratch.cap > SCRATCH_KEPT)
        ast_buf_done(&loop->scratch);
    ast_buf_reset(&loop->scratch);
    return &loop->scratch;
}

bool gw_loop_stopping(const struct gw_loop *loop)
{
    return loop->stopping;
}

struct ast_str gw_loop_date(struct gw_loop *loop)
{
    static const char days[][4] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
    static const char months[][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    time_t now = time(NULL);
    struct tm tm;
    if ((now != loop->date_sec || !loop->date_n) && gmtime_r(&now, &tm)) {
        int n =
            snprintf(loop->date, sizeof loop->date, "date: %s, %02d %s %d %02d:%02d:%02d GMT\r\n",
                     days[tm.tm_wday], tm.tm_mday, months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour,
                     tm.tm_min, tm.tm_sec);
        loop->date_n = n > 0 && (size_t)n < sizeof loop->date ? (size_t)n : 0;
        loop->date_sec = now;
    }
    return ast_str_n(loop->date, loop->date_n);
}

bool gw_door_blocked(struct gw_conn *c)
{
    return lws_partial_buffered(c->wsi) != 0;
}

bool gw_door_write(struct gw_conn *c, char *p, size_t n)
{
    return lws_write(c->wsi, (unsigned char *)p, n, LWS_WRITE_RAW) >= 0;
}

void gw_door_want_write(struct gw_conn *c)
{
    (void)lws_callback_on_writable(c->wsi);
}

void gw_door_pause(struct gw_conn *c, bool pause)
{
    (void)lws_rx_flow_control(c->wsi, pause ? 0 : 1);
}

bool gw_door_shut(struct gw_conn *c)
{
    return !gw_loop_config(c->loop)->tls_cert_path &&
           shutdown(lws_get_socket_fd(c->wsi), SHUT_WR) == 0;
}

void gw_door_kill(struct gw_conn *c)
{
    lws_set_timeout(c->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_ASYNC);
}

/* --- Timers -------------------------------------------------------------------------------- */

static void on_alarm(lws_sorted_usec_list_t *sul);

static void set_alarm(struct gw_loop *loop)
{
    const struct ast_heap_node *top = ast_heap_peek(&loop->timers);
    if (!top || loop->done || (loop->alarm_ns && loop->alarm_ns <= top->key))
        return;
    int64_t wait_us = (top->key - ast_mono_ns()) / 1000 + 1;
    loop->alarm_ns = top->key;
    lws_sul_schedule(loop->context, 0, &loop->alarm, on_alarm, AST_MAX(wait_us, 1));
}

static void on_alarm(lws_sorted_usec_list_t *sul)
{
    struct gw_loop *loop = AST_CONTAINER_OF(sul, struct gw_loop, alarm);
    int64_t now = ast_mono_ns();
    loop->alarm_ns = 0;
    for (struct ast_heap_node *top; (top = ast_heap_peek(&loop->timers)) && top->key <= now;) {
        struct gw_timer *t = AST_CONTAINER_OF(ast_heap_pop(&loop->timers), struct gw_timer, node);
        t->fire(t);
    }
    set_alarm(loop);
}

bool gw_loop_timer(struct gw_loop *loop, struct gw_timer *t, int64_t at_ns)
{
    ast_heap_remove(&loop->timers, &t->node);
    t->node.key = at_ns;
    if (!ast_heap_push(&loop->timers, &t->node))
        return false;
    set_alarm(loop);
    return true;
}

void gw_loop_timer_stop(struct gw_loop *loop, struct gw_timer *t)
{
    ast_heap_remove(&loop->timers, &t->node);
}

/* --- Posts --------------------------------------------------------------------------------- */

bool gw_loop_post(struct gw_loop *loop, struct gw_post *post)
{
    AST_WITH_LOCK(&loop->lock);
    if (loop->closed)
        return false;
    bool was_empty = !loop->first_post;
    post->next = NULL;
    *loop->last_post = post;
    loop->last_post = &post->next;
    if (was_empty) /* else a wake-up is on its way already */
        lws_cancel_service(loop->context);
    return true;
}

static void run_posts(struct gw_loop *loop)
{
    ast_lock(&loop->lock);
    struct gw_post *post = loop->first_post;
    loop->first_post = NULL;
    loop->last_post = &loop->first_post;
    ast_unlock(&loop->lock);
    while (post) {
        struct gw_post *next = post->next;
        post->fn(post);
        post = next;
    }
}

/* --- libwebsockets ------------------------------------------------------------------------- */

static void finish(struct gw_loop *loop)
{
    loop->done = true;
    lws_cancel_service(loop->context); /* from a timer the service call would wait once more */
}

/* First half of the context's end, from inside its loop; the loop runs out of handles and returns. */
static void close_loop(struct gw_loop *loop)
{
    ast_lock(&loop->lock);
    bool was_closed = loop->closed;
    loop->closed = true;
    ast_unlock(&loop->lock);
    if (was_closed)
        return;
    run_posts(loop); /* what came before */
    loop->stopping = loop->done = true;
    lws_sul_cancel(&loop->alarm);
    lws_context_destroy(loop->context); /* closes the connections that are left */
}

static void on_cancelled(struct gw_loop *loop)
{
    run_posts(loop);
    if (loop->done)
        close_loop(loop);
}

static void maybe_done(struct gw_loop *loop)
{
    if (loop->stopping && !loop->done && ast_list_empty(&loop->conns))
        finish(loop);
}

static struct gw_conn *conn_opened(struct lws *wsi, struct session *s)
{
    struct gw_loop *loop = lws_context_user(lws_get_context(wsi));
    s->conn = gw_conn_new(loop, wsi);
    if (s->conn)
        ast_list_push_back(&loop->conns, &s->conn->link);
    return s->conn;
}

static void conn_closed(struct session *s)
{
    struct gw_conn *c = s->conn;
    if (!c)
        return;
    struct gw_loop *loop = c->loop;
    s->conn = NULL;
    gw_conn_closed(c);
    maybe_done(loop);
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t len)
{
    struct session *s = user;
    struct gw_conn *c = NULL;
    switch (reason) {
    case LWS_CALLBACK_EVENT_WAIT_CANCELLED:
        on_cancelled(lws_context_user(lws_get_context(wsi)));
        return 0;
    case LWS_CALLBACK_RAW_SKT_BIND_PROTOCOL: /* before a TLS handshake: it counts, too */
        s->is_counted = true;
        atomic_fetch_add(&((struct gw_loop *)lws_context_user(lws_get_context(wsi)))->conn_count,
                         1);
        return 0;
    case LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS: /* the only place that shows it */
        ((struct gw_loop *)lws_context_user(lws_get_context(wsi)))->ssl_ctx = user;
        return 0;
    case LWS_CALLBACK_RAW_ADOPT: return conn_opened(wsi, s) ? 0 : -1;
    case LWS_CALLBACK_RAW_RX:
        c = s->conn;
        if (c)
            gw_conn_read(c, ast_str_n(in, len));
        return c && !c->is_dead ? 0 : -1;
    case LWS_CALLBACK_RAW_WRITEABLE:
        c = s->conn;
        if (c)
            gw_conn_writable(c);
        return c && !c->is_dead ? 0 : -1;
    case LWS_CALLBACK_RAW_CLOSE: conn_closed(s); return 0;
    case LWS_CALLBACK_WSI_DESTROY: { /* also for connections that never got to RAW_ADOPT */
        struct gw_loop *loop = lws_context_user(lws_get_context(wsi));
        if (s) {
            conn_closed(s);
            if (s->is_counted)
                atomic_fetch_sub(&loop->conn_count, 1);
            s->is_counted = false;
        }
        return 0;
    }
    default: return 0;
    }
}

static void adopt(struct gw_post *post)
{
    struct adoption *a = AST_CONTAINER_OF(post, struct adoption, post);
    struct gw_loop *loop = a->loop;
    lws_adoption_type type =
        LWS_ADOPT_SOCKET | (loop->http->cfg.tls_cert_path ? LWS_ADOPT_ALLOW_SSL : 0);
    lws_sock_file_fd_type fd = { .sockfd = a->fd };
    free(a);
    if (loop->stopping)
        (void)close(fd.sockfd);
    else if (!lws_adopt_descriptor_vhost(loop->vhost, type, fd, "http",
                                         NULL)) /* it closed the socket */
        ast_log_debug("gateway", "a connection could not be served: out of memory or descriptors");
    atomic_fetch_sub(&loop->conn_count, 1); /* counted on the way; from here on by its session */
}

static void on_lws_log(int level, const char *line)
{
    /* Clients cause these lines at will (broken handshakes, resets): they are no news to an operator. */
    ast_log_debug("gateway.lws", "%d %s", level, line);
}

/* --- New certificates ---------------------------------------------------------------------- */

struct renewal {
    struct gw_post post;
    struct gw_loop *loop;
    struct gw_tls *tls; /* owned reference */
};

static void renew(struct gw_post *post)
{
    struct renewal *r = AST_CONTAINER_OF(post, struct renewal, post);
    if (!r->loop->done && !gw_tls_apply(r->tls, r->loop->ssl_ctx))
        ast_log_error("gateway", "a loop keeps its old TLS certificate");
    gw_tls_unref(r->tls);
    free(r);
}

enum ast_rc gw_http_reload_tls(struct gw_http *http, struct ast_err *err)
{
    struct gw_tls *tls = NULL;
    if (!http->cert)
        return ast_fail(err, AST_E_INVALID, "TLS is not configured");
    enum ast_rc rc = gw_tls_load(http->cert, http->key, &tls, err);
    for (unsigned i = 0; i < http->loop_count && !rc; i++) {
        struct renewal *r = calloc(1, sizeof *r);
        if (!r) {
            rc = ast_fail(err, AST_E_NO_MEMORY, "TLS");
            break;
        }
        *r = (struct renewal){ .post.fn = renew, .loop = &http->loops[i], .tls = gw_tls_ref(tls) };
        if (!gw_loop_post(r->loop, &r->post)) { /* stopping: no handshake will come */
            gw_tls_unref(r->tls);
            free(r);
        }
    }
    gw_tls_unref(tls);
    return rc;
}

/* --- The loop ------------------------------------------------------------------------------ */

static void *loop_main(void *arg)
{
    struct gw_loop *loop = arg;
    while (!loop->done)
        if (lws_service(loop->context, 0) < 0)
            break;
    close_loop(loop);
    lws_context_destroy(loop->context); /* second half: frees */
    return NULL;
}

/* On a loop of its own libwebsockets also watches SIGINT and SIGTERM. libuv tells every loop that watches a signal, so
 * the daemon's own watches (base/loop.h) hear them all the same; here nothing is to be done. */
static void on_signal(void *handle, int signum)
{
    (void)handle, (void)signum;
}

static enum ast_rc loop_init(struct gw_http *http, struct gw_loop *loop, struct ast_err *err)
{
    static const struct lws_protocols protocols[] = {
        { .name = "http", .callback = on_event, .per_session_data_size = sizeof(struct session) },
        { 0 },
    };
    const struct gw_http_config *cfg = &http->cfg;
    loop->http = http;
    ast_lock_init(&loop->lock, AST_LOCK_loop);
    loop->last_post = &loop->first_post;
    ast_list_init(&loop->conns);
    loop->scratch = (struct ast_buf)AST_BUF_INIT(SCRATCH_MAX);
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
        .protocols = protocols,
        .user = loop,
        .pt_serv_buf_size = READ_BYTES,
        .timeout_secs = AST_GATEWAY_TLS_SECS,
        .options =
            LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_NO_LWS_SYSTEM_STATES |
            LWS_SERVER_OPTION_LIBUV /* poll's cost grows with idle connections: 0.8 ms a prompt at 1000 */
            | LWS_SERVER_OPTION_UV_NO_SIGSEGV_SIGFPE_SPIN,
        .signal_cb = on_signal,
    };
    if (cfg->tls_cert_path) {
        info.options |= LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
        info.ssl_cert_filepath = cfg->tls_cert_path;
        info.ssl_private_key_filepath = cfg->tls_key_path;
        info.ssl_options_set = SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1;
        info.alpn = "http/1.1";
        /* Left to itself it loads the machine's certificate store for clients that we never are,
         * and 4.1 never frees it. */
        info.provided_client_ssl_ctx = http->no_client;
    }
    loop->context = lws_create_context(&info);
    if (!loop->context) { /* the event library is a plugin of its own, which a machine may lack */
        info.options &= ~(uint64_t)LWS_SERVER_OPTION_LIBUV;
        loop->context = lws_create_context(&info);
        if (loop->context)
            ast_log_warn(
                "gateway",
                "libwebsockets has no libuv plugin, using poll: slower with many connections");
    }
    if (!loop->context)
        return ast_fail(err, AST_E_INTERNAL, "libwebsockets: no context");
    loop->vhost = lws_create_vhost(loop->context, &info);
    if (!loop->vhost)
        return ast_fail(err, AST_E_INVALID,
                        cfg->tls_cert_path ? "TLS certificate or private key cannot be loaded"
                                           : "libwebsockets: no virtual host");
    return AST_OK;
}

/* --- Accepting ----------------------------------------------------------------------------- */

static void refuse_socket(struct gw_http *http, int fd)
{
    /* One try: a client that is one too many gets no buffer from us. */
    char text[1024];
    int n = snprintf(
        text, sizeof text,
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n" AST_STR_FMT
        "\r\n",
        AST_STR_ARG(http->cfg.fixed_fields));
    if (!http->cfg.tls_cert_path && n > 0 && (size_t)n < sizeof text)
        (void)!send(fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)close(fd);
}

static void hand_out(struct gw_http *http, int fd)
{
    struct gw_loop *least = &http->loops[0];
    for (unsigned i = 1; i < http->loop_count; i++)
        if (atomic_load(&http->loops[i].conn_count) < atomic_load(&least->conn_count))
            least = &http->loops[i];
    struct adoption *a =
        gw_http_connections(http) < http->cfg.connections ? calloc(1, sizeof *a) : NULL;
    if (!a) {
        refuse_socket(http, fd);
        return;
    }
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on,
                     sizeof on); /* without it: slower, not wrong */
    *a = (struct adoption){ .post.fn = adopt, .loop = least, .fd = fd };
    atomic_fetch_add(&least->conn_count, 1);
    if (!gw_loop_post(least, &a->post)) {
        atomic_fetch_sub(&least->conn_count, 1);
        (void)close(fd);
        free(a);
    }
}

static void *acceptor_main(void *arg)
{
    struct gw_http *http = arg;
    struct pollfd fds[] = { { .fd = http->listener, .events = POLLIN },
                            { .fd = http->stop_event, .events = POLLIN } };
    bool has_warned = false;
    while (!fds[1].revents) {
        if (poll(fds, 2, -1) < 0 || !fds[0].revents)
            continue;
        int fd = accept4(http->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            hand_out(http, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            if (!has_warned)
                ast_log_warn("gateway",
                             "no descriptors or memory for new connections, clients wait");
            has_warned = true;
            (void)poll(&fds[1], 1, 50); /* the listener stays readable: do not spin */
        }
    }
    return NULL;
}

static enum ast_rc listen_on(struct gw_http *http, struct ast_err *err)
{
    const struct gw_address *a = &http->cfg.listen;
    int on = 1;
    http->listener = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (http->listener < 0)
        return ast_fail_errno(err, AST_E_IO, errno, "socket");
    (void)setsockopt(http->listener, SOL_SOCKET, SO_REUSEADDR, &on,
                     sizeof on); /* restart beside TIME_WAIT */
    if (bind(http->listener, (const struct sockaddr *)&a->sa, a->len))
        return ast_fail_errno(err, AST_E_IO, errno, "bind");
    if (listen(http->listener, SOMAXCONN))
        return ast_fail_errno(err, AST_E_IO, errno, "listen");
    struct sockaddr_storage sa;
    memset(&sa, 0, sizeof sa); /* all of it: an initialiser may leave the bytes behind the family */
    socklen_t len = sizeof sa;
    if (getsockname(http->listener, (struct sockaddr *)&sa, &len))
        return ast_fail_errno(err, AST_E_IO, errno, "bound address");
    http->port = ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
                                                : ((struct sockaddr_in *)&sa)->sin_port);
    http->stop_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return http->stop_event < 0 ? ast_fail_errno(err, AST_E_IO, errno, "eventfd") : AST_OK;
}

/* --- Start and stop ------------------------------------------------------------------------ */

struct gw_http *gw_http_ref(struct gw_http *http)
{
    atomic_fetch_add(&http->refs, 1);
    return http;
}

void gw_http_unref(struct gw_http *http)
{
    if (atomic_fetch_sub(&http->refs, 1) != 1)
        return;
    for (unsigned i = 0; i < LOOPS_MAX; i++) {
        if (!http->loops[i].http)
            continue;
        ast_lock_done(&http->loops[i].lock);
        ast_heap_done(&http->loops[i].timers);
        ast_buf_done(&http->loops[i].scratch);
    }
    free(http->fixed_fields);
    free(http->cert);
    free(http->key);
    SSL_CTX_free(http->no_client);
    free(http);
}

void gw_loop_ref(struct gw_loop *loop)
{
    atomic_fetch_add(&loop->http->refs, 1);
}

void gw_loop_unref(struct gw_loop *loop)
{
    gw_http_unref(loop->http);
}

static void on_drained(struct gw_timer *t)
{
    finish(AST_CONTAINER_OF(t, struct gw_loop, drain));
}

static void stop_loop(struct gw_post *post)
{
    struct gw_loop *loop = AST_CONTAINER_OF(post, struct gw_loop, stop);
    loop->stopping = true;
    ast_list_each (&loop->conns, it)
        gw_conn_stop(AST_CONTAINER_OF(it, struct gw_conn, link));
    loop->drain.fire = on_drained;
    if (!gw_loop_timer(loop, &loop->drain, ast_mono_ns() + AST_GATEWAY_DRAIN_SECS * AST_NS_PER_SEC))
        finish(loop);
    maybe_done(loop);
}

void gw_http_stop(struct gw_http *http)
{
    if (!http)
        return;
    if (http->has_acceptor) {
        (void)eventfd_write(http->stop_event, 1);
        pthread_join(http->acceptor, NULL);
    }
    if (http->listener >= 0)
        (void)close(http->listener);
    if (http->stop_event >= 0)
        (void)close(http->stop_event);
    for (unsigned i = 0; i < http->loop_count; i++) {
        struct gw_loop *loop = &http->loops[i];
        loop->stop.fn = stop_loop;
        if (loop->has_thread) {
            (void)gw_loop_post(loop, &loop->stop); /* a loop that ended by itself needs none */
            pthread_join(loop->thread, NULL);
        } else if (loop->context) {
            lws_context_destroy(loop->context);
        }
    }
    gw_http_unref(http);
}

static char *dup_or_null(const char *s)
{
    return s ? ast_str_dup(ast_str_c(s)) : NULL;
}

static enum ast_rc start(struct gw_http *http, struct ast_err *err)
{
    struct gw_tls *tls = NULL;
    enum ast_rc rc = http->cert ? gw_tls_load(http->cert, http->key, &tls, err) : AST_OK;
    gw_tls_unref(
        tls); /* looked at only: libwebsockets reads the files itself and would not say what is wrong */
    if (!rc && http->cert) {
        http->no_client = SSL_CTX_new(TLS_client_method());
        rc = http->no_client ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "TLS");
    }
    if (!rc)
        rc = listen_on(http, err);
    lws_set_log_level(LLL_ERR | LLL_WARN, on_lws_log);
    for (unsigned i = 0; i < http->loop_count && !rc; i++)
        rc = loop_init(http, &http->loops[i], err);
    for (unsigned i = 0; i < http->loop_count && !rc; i++) {
        struct gw_loop *loop = &http->loops[i];
        char name[24]; /* the kernel keeps 15 characters */
        (void)snprintf(name, sizeof name, "gateway-%u", i);
        rc = ast_thread_start(&loop->thread, name, loop_main, loop, err);
        loop->has_thread = !rc;
    }
    if (!rc)
        rc = ast_thread_start(&http->acceptor, "gateway-accept", acceptor_main, http, err);
    http->has_acceptor = !rc;
    return rc;
}

enum ast_rc gw_http_start(const struct gw_http_config *cfg, struct gw_http **ret,
                          struct ast_err *err)
{
    struct gw_http *http = calloc(1, sizeof *http);
    if (!http)
        return ast_fail(err, AST_E_NO_MEMORY, "HTTP server");
    atomic_init(&http->refs, 1);
    http->cfg = *cfg;
    http->listener = http->stop_event = -1;
    http->fixed_fields = ast_str_dup(cfg->fixed_fields);
    http->cert = dup_or_null(cfg->tls_cert_path);
    http->key = dup_or_null(cfg->tls_key_path);
    if (!http->fixed_fields || !http->cert != !cfg->tls_cert_path ||
        !http->key != !cfg->tls_key_path) {
        gw_http_stop(http);
        return ast_fail(err, AST_E_NO_MEMORY, "HTTP server");
    }
    http->cfg.fixed_fields = ast_str_n(http->fixed_fields, cfg->fixed_fields.n);
    http->cfg.tls_cert_path = http->cert;
    http->cfg.tls_key_path = http->key;
    http->cfg.connections = cfg->connections ? cfg->connections : AST_GATEWAY_CONNECTIONS;
    http->loop_count = AST_MIN(cfg->loops ? cfg->loops : ast_cpu_count(), LOOPS_MAX);
    enum ast_rc rc = start(http, err);
    if (rc) {
        gw_http_stop(http);
        return rc;
    }
    *ret = http;
    return AST_OK;
}

unsigned gw_http_port(const struct gw_http *http)
{
    return http->port;
}

unsigned gw_http_connections(const struct gw_http *http)
{
    size_t n = 0;
    for (unsigned i = 0; i < http->loop_count; i++)
        n += atomic_load(&http->loops[i].conn_count);
    return (unsigned)n;
}
