/* HTTP clients that keep their connections: each sends a request, waits for the whole answer, sends the next.
 *
 * One thread, epoll. Prints one JSON object: answers, losses (an answer without --want, or a connection that ended),
 * rate, latency percentiles in microseconds. The first --warm milliseconds are not counted.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/time.h"
#include "base/vec.h"

#include "base/banned.h"

struct peer {
    int fd;
    int64_t sent_ns;
    struct ast_buf request, got;
};

static struct {
    const char *method, *path, *body, *want, *bearers;
    unsigned port, connections;
    double seconds, warm_ms;
} opt = { .method = "GET", .path = "/", .connections = 1, .seconds = 2, .warm_ms = 200 };

static struct sockaddr_in server;
static int epoll_fd;
static AST_VEC(uint32_t) latencies_us;
static uint64_t answers, lost, reconnects;
static int64_t count_from_ns;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void send_request(struct peer *p)
{
    p->got.n = 0;
    p->sent_ns = ast_mono_ns();
    if (send(p->fd, p->request.p, p->request.n, MSG_NOSIGNAL) != (ssize_t)p->request.n)
        die("send"); /* a request fits the socket's buffer */
}

static void open_peer(struct peer *p)
{
    int on = 1;
    p->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&server, sizeof server))
        die("connect");
    (void)setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = p };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &ev))
        die("epoll_ctl");
}

/* Bytes of a whole answer at the start of `got`; 0: not there yet. */
static size_t whole_answer(struct ast_str got)
{
    size_t head = ast_str_find(got, AST_STR("\r\n\r\n"));
    if (head == AST_STR_NPOS)
        return 0;
    head += 4;
    struct ast_str fields = ast_str_first(got, head);
    if (ast_str_find(fields, AST_STR("\r\ntransfer-encoding: chunked\r\n")) != AST_STR_NPOS) {
        /* An event never holds this text: inside of JSON a line break is escaped. */
        size_t end = ast_str_find(ast_str_from(got, head - 2), AST_STR("\r\n0\r\n\r\n"));
        return end == AST_STR_NPOS ? 0 : head - 2 + end + 7;
    }
    size_t at = ast_str_find(fields, AST_STR("\r\ncontent-length: "));
    size_t n = at == AST_STR_NPOS ? 0 : strtoul(got.p + at + 18, NULL, 10);
    return got.n >= head + n ? head + n : 0;
}

static void count(struct peer *p, int64_t now_ns)
{
    struct ast_str got = ast_buf_view(&p->got);
    if (opt.want && ast_str_find(got, ast_str_c(opt.want)) == AST_STR_NPOS) {
        if (!lost++)
            fprintf(stderr, "unexpected answer: " AST_STR_FMT "\n", AST_STR_ARG(got));
        return;
    }
    if (now_ns < count_from_ns)
        return;
    answers++;
    if (!ast_vec_push(&latencies_us, (uint32_t)((now_ns - p->sent_ns) / 1000)))
        die("memory");
}

static void readable(struct peer *p)
{
    if (ast_buf_reserve(&p->got, 16384))
        die("answer too large");
    ssize_t n = recv(p->fd, p->got.p + p->got.n, 16384, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        lost++;
        reconnects++;
        (void)close(p->fd);
        open_peer(p);
        send_request(p);
        return;
    }
    p->got.n += (size_t)n;
    p->got.p[p->got.n] = 0;
    if (!whole_answer(ast_buf_view(&p->got)))
        return;
    count(p, ast_mono_ns());
    send_request(p);
}

static void make_requests(struct peer *peers)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(64u << 20);
    char block[4096];
    FILE *f = opt.bearers ? fopen(opt.bearers, "r") : NULL;
    if (opt.bearers && !f)
        die(opt.bearers);
    for (unsigned i = 0; i < opt.connections; i++) {
        struct ast_buf *r = &peers[i].request;
        *r = (struct ast_buf)AST_BUF_INIT(65536);
        peers[i].got = (struct ast_buf)AST_BUF_INIT(1u << 20);
        (void)ast_buf_addf(r, "%s %s HTTP/1.1\r\nhost: localhost\r\n", opt.method, opt.path);
        if (f && !fgets(block, sizeof block, f)) {
            rewind(f);
            if (!fgets(block, sizeof block, f))
                die("no bearer");
        }
        if (f)
            (void)ast_buf_addf(r, "authorization: Bearer %.*s\r\n", (int)strcspn(block, "\n"),
                               block);
        if (opt.body)
            (void)ast_buf_addf(r, "content-type: application/json\r\ncontent-length: %zu\r\n",
                               strlen(opt.body));
        (void)ast_buf_addf(r, "\r\n%s", opt.body ? opt.body : "");
        if (r->fail)
            die("request");
    }
    if (f)
        (void)fclose(f);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static uint32_t percentile(double p)
{
    if (!latencies_us.n)
        return 0;
    return latencies_us.v[(size_t)((double)(latencies_us.n - 1) * p)];
}

static void read_options(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *k = argv[i], *v = argv[i + 1];
        if (!strcmp(k, "--port"))
            opt.port = (unsigned)strtoul(v, NULL, 10);
        else if (!strcmp(k, "--connections"))
            opt.connections = (unsigned)strtoul(v, NULL, 10);
        else if (!strcmp(k, "--seconds"))
            opt.seconds = strtod(v, NULL);
        else if (!strcmp(k, "--warm"))
            opt.warm_ms = strtod(v, NULL);
        else if (!strcmp(k, "--method"))
            opt.method = v;
        else if (!strcmp(k, "--path"))
            opt.path = v;
        else if (!strcmp(k, "--body"))
            opt.body = v;
        else if (!strcmp(k, "--want"))
            opt.want = v;
        else if (!strcmp(k, "--bearers"))
            opt.bearers = v;
        else {
            fprintf(stderr, "http_load: unknown option %s\n", k);
            exit(2);
        }
    }
    if (!opt.port || !opt.connections) {
        fprintf(
            stderr,
            "usage: http_load --port N [--connections N] [--seconds S] [--warm MS] [--method M] [--path P]\n"
            "                 [--body JSON] [--want TEXT] [--bearers FILE]\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    server = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port) };
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct peer *peers = calloc(opt.connections, sizeof *peers);
    if (epoll_fd < 0 || !peers)
        die("start");
    make_requests(peers);
    for (unsigned i = 0; i < opt.connections; i++)
        open_peer(&peers[i]);
    int64_t start = ast_mono_ns();
    count_from_ns = start + (int64_t)(opt.warm_ms * 1e6);
    int64_t end_ns = count_from_ns + (int64_t)(opt.seconds * 1e9), now = start;
    for (unsigned i = 0; i < opt.connections; i++)
        send_request(&peers[i]);
    while ((now = ast_mono_ns()) < end_ns) {
        struct epoll_event events[64];
        int n = epoll_wait(epoll_fd, events, 64, 100);
        for (int i = 0; i < n; i++)
            readable(events[i].data.ptr);
    }
    /* Who got nothing for a second when it is over has lost its answer. */
    for (unsigned i = 0; i < opt.connections; i++)
        if (now - peers[i].sent_ns > AST_NS_PER_SEC)
            lost++;
    if (latencies_us.n)
        qsort(latencies_us.v, latencies_us.n, sizeof *latencies_us.v, by_value);
    double seconds = (double)(now - count_from_ns) / 1e9;
    printf(
        "{\"answers\":%llu,\"lost\":%llu,\"reconnects\":%llu,\"seconds\":%.3f,\"rate\":%.0f,\"p50_us\":%u,\"p90_us\":%u,"
        "\"p99_us\":%u,\"max_us\":%u}\n",
        (unsigned long long)answers, (unsigned long long)lost, (unsigned long long)reconnects,
        seconds, (double)answers / seconds, percentile(0.5), percentile(0.9), percentile(0.99),
        percentile(1));
    return lost ? 1 : 0;
}
