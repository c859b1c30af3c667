/* Servers for the gateway's bench, chosen by the first argument:
 *
 *   gateway   the whole gateway; a tap on user.v1.prompt hands prompts to one worker thread, which publishes the
 *             answer as a capsule would. Writes bearers of 100 principals to the file named by the second argument
 *   constant  the gateway's HTTP front with a handler that streams the same events at once: the gateway's own limit
 *   raw       a bare epoll server that answers any request with the same bytes: the machine's limit
 *   lws       a bare libwebsockets HTTP server that says ok: for information
 *
 * Prints the port, serves until its input ends.
 */
#include <libwebsockets.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

#include "../tests/unit/gateway/rig.h"

#include "base/log.h"
#include "bus/message.h"
#include "gateway/http_priv.h"

#include "base/banned.h"

#define SESSION "01234567-89ab-cdef-0123-456789abcdef"
#define EVENTS                                                                                                           \
    "event: ready\ndata: {\"session_id\":\"" SESSION "\",\"principal\":\"principal-00\"}\n\n"                            \
    "event: response\ndata: {\"type\":\"agent_response\",\"text\":\"hello\",\"is_final\":true,\"session_id\":\"" SESSION \
    "\"}\n\n"
#define FIELDS                                                                                     \
    "cache-control: no-cache\r\nx-content-type-options: nosniff\r\nx-frame-options: DENY\r\n"      \
    "referrer-policy: no-referrer\r\ncontent-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"

static void wait_for_end(unsigned port)
{
    char byte;
    printf("%u\n", port);
    (void)fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
}

/* --- gateway ------------------------------------------------------------------------------- */

enum { QUEUE = 4096, PRINCIPALS = 100 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t some;
    struct ast_msg *ring[QUEUE];
    size_t head, n;
    bool stop;
    struct ast_bus *bus;
} work = { .lock = PTHREAD_MUTEX_INITIALIZER, .some = PTHREAD_COND_INITIALIZER };

static void on_prompt(void *arg, struct ast_msg *msg)
{
    (void)arg;
    (void)pthread_mutex_lock(&work.lock);
    if (work.n < QUEUE) {
        work.ring[(work.head + work.n++) % QUEUE] = ast_msg_ref(msg);
        (void)pthread_cond_signal(&work.some);
    }
    (void)pthread_mutex_unlock(&work.lock);
}

static void echo(struct ast_msg *msg)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(100000);
    struct ast_msg *answer = NULL;
    if (ast_json_parse(msg->body, &doc, &err))
        rig_die("prompt", err.msg);
    struct ast_jw w = AST_JW_INIT(&body);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("agent_response"));
    ast_jw_kv_string(&w, "text", ast_json_str_or(ast_json_root(doc), AST_STR("text"), AST_STR("")));
    ast_jw_kv_bool(&w, "is_final", true);
    ast_jw_kv_string(&w, "session_id", msg->session);
    ast_jw_end(&w);
    const struct ast_msg_spec spec = { .topic = AST_STR("agent.v1.response"),
                                       .principal = msg->principal,
                                       .publisher = AST_STR("echo") };
    if (ast_msg_from_json(&spec, ast_buf_view(&body), &answer, &err))
        rig_die("answer", err.msg);
    (void)ast_bus_publish(work.bus, answer);
    ast_msg_unref(msg);
}

static void *worker(void *arg)
{
    (void)arg;
    (void)pthread_mutex_lock(&work.lock);
    for (;;) {
        while (!work.n && !work.stop)
            (void)pthread_cond_wait(&work.some, &work.lock);
        if (!work.n)
            break;
        struct ast_msg *msg = work.ring[work.head];
        work.head = (work.head + 1) % QUEUE;
        work.n--;
        (void)pthread_mutex_unlock(&work.lock);
        echo(msg);
        (void)pthread_mutex_lock(&work.lock);
    }
    (void)pthread_mutex_unlock(&work.lock);
    return NULL;
}

static int serve_gateway(const char *bearers)
{
    struct rig rig;
    struct ast_tap *tap = NULL;
    struct ast_err err = AST_ERR_INIT;
    pthread_t thread;
    rig_init(&rig);
    work.bus = rig.bus;
    if (rig_start(&rig, "enabled = true\nlisten = \"127.0.0.1:0\"\n", &err) || !rig.gateway ||
        ast_tap_open(rig.bus, "echo", AST_STR("user.v1.prompt"), on_prompt, NULL, &tap, &err) ||
        pthread_create(&thread, NULL, worker, NULL))
        rig_die("start", err.msg);
    rig_put(&rig, AST_HOME_SOCKET, ""); /* /healthz says ok */
    FILE *f = fopen(bearers, "w");
    for (unsigned i = 0; f && i < PRINCIPALS; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "principal-%02u", i);
        rig_profile(&rig, name, "profile_version = 1\n");
        AST_AUTO(ast_cfree) char *token = rig_bearer(&rig, name, ast_wall_secs(), 3600);
        fprintf(f, "%s\n", token);
    }
    if (!f || fclose(f))
        rig_die("bearers", strerror(errno));
    wait_for_end(ast_gateway_port(rig.gateway));
    rig_stop(&rig);
    ast_tap_close(tap);
    (void)pthread_mutex_lock(&work.lock);
    work.stop = true;
    (void)pthread_cond_signal(&work.some);
    (void)pthread_mutex_unlock(&work.lock);
    (void)pthread_join(thread, NULL);
    rig_done(&rig);
    return 0;
}

/* --- constant ------------------------------------------------------------------------------ */

static bool constant_fill(void *user, int64_t now_ns, struct ast_buf *out, int64_t *ret_next_ns)
{
    (void)user, (void)now_ns, (void)ret_next_ns;
    (void)ast_buf_add_lit(out, EVENTS);
    return false;
}

static void constant_gone(void *user)
{
    (void)user;
}

static void on_request(void *arg, struct gw_exchange *ex)
{
    static const struct gw_stream_ops ops = { constant_fill, constant_gone };
    (void)arg;
    if (gw_exchange_request(ex)->method == GW_METHOD_GET)
        gw_exchange_answer(ex, &(struct gw_answer){ .status = 200,
                                                    .content_type = AST_STR("text/plain"),
                                                    .body = AST_STR("ok\n") });
    else
        gw_exchange_stream(
            ex, &(struct gw_answer){ .status = 200, .content_type = AST_STR("text/event-stream") },
            &ops, NULL);
}

static int serve_constant(void)
{
    struct ast_err err = AST_ERR_INIT;
    struct gw_http *http = NULL;
    struct gw_http_config cfg = { .fixed_fields = AST_STR(FIELDS), .on_request = on_request };
    if (gw_address_parse(AST_STR("127.0.0.1:0"), &cfg.listen, &err) ||
        gw_http_start(&cfg, &http, &err))
        rig_die("start", err.msg);
    wait_for_end(gw_http_port(http));
    gw_http_stop(http);
    return 0;
}

/* --- raw ----------------------------------------------------------------------------------- */

static void *raw_main(void *arg)
{
    int listener = *(int *)arg, poller = epoll_create1(0);
    static char answer[2048], in[65536];
    int n = snprintf(
        answer, sizeof answer,
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n" FIELDS
        "date: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n%zx\r\n" EVENTS "\r\n0\r\n\r\n",
        sizeof EVENTS - 1);
    struct epoll_event ev = { .events = EPOLLIN, .data.fd = listener };
    (void)epoll_ctl(poller, EPOLL_CTL_ADD, listener, &ev);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd, on = 1;
            if (fd == listener) {
                ev = (struct epoll_event){ .events = EPOLLIN,
                                           .data.fd = accept(listener, NULL, NULL) };
                (void)setsockopt(ev.data.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                (void)epoll_ctl(poller, EPOLL_CTL_ADD, ev.data.fd, &ev);
            } else if (recv(fd, in, sizeof in, 0) <= 0 ||
                       send(fd, answer, (size_t)n, MSG_NOSIGNAL) < 0) {
                (void)close(fd);
            }
        }
    }
    return NULL;
}

static int serve_raw(void)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in sa = { .sin_family = AF_INET };
    socklen_t len = sizeof sa;
    pthread_t thread;
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || bind(listener, (struct sockaddr *)&sa, sizeof sa) ||
        listen(listener, 128) || getsockname(listener, (struct sockaddr *)&sa, &len) ||
        pthread_create(&thread, NULL, raw_main, &listener))
        rig_die("raw", strerror(errno));
    wait_for_end(ntohs(sa.sin_port));
    _exit(0); /* its thread never ends */
}

/* --- lws ----------------------------------------------------------------------------------- */

static int on_lws(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                  size_t len)
{
    (void)user, (void)in, (void)len;
    if (reason == LWS_CALLBACK_HTTP)
        return lws_callback_on_writable(wsi) < 0 ? -1 : 0;
    if (reason != LWS_CALLBACK_HTTP_WRITEABLE)
        return 0;
    unsigned char out[LWS_PRE + 512];
    int n = snprintf((char *)out + LWS_PRE, 512,
                     "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n" FIELDS
                     "\r\nok\n");
    return lws_write(wsi, out + LWS_PRE, (size_t)n, LWS_WRITE_HTTP) < 0 ||
                   lws_http_transaction_completed(wsi)
               ? -1
               : 0;
}

static void *lws_main(void *arg)
{
    while (lws_service(arg, 0) >= 0)
        ;
    return NULL;
}

static int serve_lws(void)
{
    static const struct lws_protocols protocols[] = { { .name = "http", .callback = on_lws },
                                                      { 0 } };
    pthread_t thread;
    struct lws_context_creation_info info = { .protocols = protocols,
                                              .options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS,
                                              .iface = "lo",
                                              .max_http_header_pool = 1000 };
    lws_set_log_level(0, NULL);
    struct lws_context *context = lws_create_context(&info);
    struct lws_vhost *vhost = context ? lws_create_vhost(context, &info) : NULL;
    if (!vhost || pthread_create(&thread, NULL, lws_main, context))
        rig_die("lws", "no server");
    wait_for_end((unsigned)lws_get_vhost_listen_port(vhost));
    _exit(0); /* its thread never ends */
}

int main(int argc, char **argv)
{
    (void)ast_log_open(&(struct ast_log_config){ .level = AST_LOG_WARN }, NULL);
    if (argc == 3 && !strcmp(argv[1], "gateway"))
        return serve_gateway(argv[2]);
    if (argc == 2 && !strcmp(argv[1], "constant"))
        return serve_constant();
    if (argc == 2 && !strcmp(argv[1], "raw"))
        return serve_raw();
    if (argc == 2 && !strcmp(argv[1], "lws"))
        return serve_lws();
    fprintf(stderr, "usage: gateway_server gateway BEARERS | constant | raw | lws\n");
    return 2;
}
