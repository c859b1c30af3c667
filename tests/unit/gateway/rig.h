/* A gateway on a private home and a free port, with a real bus and policy and a kernel made of paper.
 *
 * Header only: the room's own programs (tests, the bench's echo server) are its users. The fake kernel answers what
 * the test put into `kernel`, under the names of kernel/kernel.h, so the real room is not linked.
 */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/time.h"
#include "bus/bus.h"
#include "crypto/token.h"
#include "gateway/gateway.h"
#include "host/env.h"

struct ast_kernel {
    struct ast_host host;
    const char *answer; /* NULL: keep the question open */
    char caller[80], method[80];
    bool answers_elsewhere; /* on a thread of its own */
    void (*done)(void *arg, struct ast_str response_json);
    void *arg;
    pthread_t thread;
    const struct ast_kernel_row *rows; /* ascending; the test adds, then raises the count */
    size_t row_count;
    char deed[80]; /* the last one's method */
    int sockets;
};

struct rig {
    struct ast_home home;
    struct ast_bus *bus;
    struct ast_policy *policy;
    struct ast_kernel kernel;
    struct ast_gateway *gateway;
};

struct ast_host *ast_kernel_host(struct ast_kernel *k)
{
    return &k->host;
}

const char *ast_kernel_version(struct ast_kernel *k)
{
    (void)k;
    return "0.8.0";
}

static inline void *rig_answer_thread(void *arg)
{
    struct ast_kernel *k = arg;
    k->done(k->arg, ast_str_c(k->answer));
    return NULL;
}

void ast_kernel_request(struct ast_kernel *k, struct ast_str caller, const struct ast_json *request,
                        void (*done)(void *arg, struct ast_str response_json), void *arg)
{
    (void)snprintf(k->caller, sizeof k->caller, AST_STR_FMT, AST_STR_ARG(caller));
    (void)snprintf(k->method, sizeof k->method, AST_STR_FMT,
                   AST_STR_ARG(ast_json_str_or(request, AST_STR("method"), AST_STR(""))));
    k->arg = arg;
    __atomic_store_n(&k->done, done, __ATOMIC_SEQ_CST); /* tests wait for it */
    if (k->answer && k->answers_elsewhere)
        (void)pthread_create(&k->thread, NULL, rig_answer_thread, k);
    else if (k->answer)
        done(arg, ast_str_c(k->answer));
}

/* The log of the paper kernel: rows that the test puts there. */
enum ast_rc ast_kernel_rows_walk(struct ast_kernel *k, const struct ast_kernel_rows *ask,
                                 uint64_t *ret_seq, struct ast_err *err)
{
    (void)err;
    size_t n = __atomic_load_n(&k->row_count, __ATOMIC_ACQUIRE);
    for (size_t j = 0; j < n; j++) {
        const struct ast_kernel_row *row = &k->rows[ask->oldest_first ? j : n - 1 - j];
        bool in_time = row->ts_epoch >= ask->since && row->ts_epoch <= ask->until;
        bool in_turn = !ask->seq || (ask->oldest_first ? row->seq > ask->seq : row->seq < ask->seq);
        if (!in_time || !in_turn ||
            (ask->principal && !ast_str_eq(*ask->principal, row->principal)))
            continue;
        *ret_seq = row->seq;
        if (!ask->each(ask->arg, row))
            break;
    }
    return AST_OK;
}

enum ast_rc ast_kernel_do(struct ast_kernel *k, const struct ast_kernel_deed *deed,
                          enum ast_rc (*act)(void *arg, struct ast_err *err), void *arg,
                          struct ast_err *err)
{
    (void)snprintf(k->deed, sizeof k->deed, AST_STR_FMT, AST_STR_ARG(deed->method));
    return act ? act(arg, err) : AST_OK;
}

void ast_kernel_capsule_topics(struct ast_kernel *k, struct ast_str id, struct ast_jw *w)
{
    (void)k;
    ast_jw_array(w);
    if (ast_str_is(id, "known"))
        ast_jw_string(w, AST_STR("a.topic"));
    ast_jw_end(w);
}

void ast_kernel_capsule_count(struct ast_kernel *k, uint64_t *ret_loaded, uint64_t *ret_failed)
{
    (void)k;
    *ret_loaded = 3;
    *ret_failed = 1;
}

void ast_kernel_socket_count(struct ast_kernel *k, int delta)
{
    __atomic_fetch_add(&k->sockets, delta, __ATOMIC_SEQ_CST);
}

static inline void rig_die(const char *what, const char *why)
{
    (void)fprintf(stderr, "rig: %s: %s\n", what, why);
    abort();
}

static inline void rig_put(struct rig *r, const char *name, const char *text)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_cfree) char *path = ast_home_path(&r->home, "%s", name);
    if (ast_fs_write_atomic(path, ast_str_c(text), 0600, 0, &err))
        rig_die(name, err.msg);
}

static inline void rig_profile(struct rig *r, const char *principal, const char *text)
{
    char name[128];
    (void)snprintf(name, sizeof name, "etc/profiles/%s.toml", principal);
    rig_put(r, name, text);
    ast_policy_invalidate(r->policy, ast_str_c(principal));
}

static inline void rig_init(struct rig *r)
{
    struct ast_err err = AST_ERR_INIT;
    char dir[] = "/tmp/ast-gateway-XXXXXX";
    *r = (struct rig){ 0 };
    if (!mkdtemp(dir) || ast_home_at(dir, &r->home, &err) || ast_home_ensure(&r->home, &err))
        rig_die("home", err.msg);
    AST_AUTO(ast_cfree) char *profiles = ast_home_path(&r->home, AST_HOME_PROFILES);
    if (ast_fs_mkdirs(profiles, 0700, &err) || ast_bus_new(&r->bus, &err) ||
        ast_policy_open(&r->home, &r->policy, &err))
        rig_die("bus, policy", err.msg);
    r->kernel.host = (struct ast_host){ .home = &r->home, .bus = r->bus, .policy = r->policy };
}

static inline enum ast_rc rig_start(struct rig *r, const char *config, struct ast_err *err)
{
    if (config)
        rig_put(r, AST_HOME_GATEWAY_CONFIG, config);
    return ast_gateway_start(&r->kernel, &r->gateway, err);
}

static inline void rig_stop(struct rig *r)
{
    ast_gateway_stop(r->gateway);
    r->gateway = NULL;
}

static inline void rig_done(struct rig *r)
{
    rig_stop(r);
    ast_policy_close(r->policy);
    ast_bus_free(r->bus);
    (void)ast_fs_remove_tree(r->home.root, NULL);
    ast_home_done(&r->home);
}

/* A bearer of the home's key; NUL-terminated, the caller frees. */
static inline char *rig_bearer(struct rig *r, const char *principal, uint64_t now_secs,
                               uint64_t lifetime_secs)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_cfree) char *path = ast_home_path(&r->home, "%s", AST_HOME_GATEWAY_KEY);
    AST_AUTO(ast_key_done) struct ast_key key = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf token = AST_BUF_INIT(AST_BEARER_MAX);
    if (ast_key_load_or_create(path, "key", &key, &err) ||
        ast_bearer_mint(&key, ast_str_c(principal), now_secs, lifetime_secs, &token, &err))
        rig_die("bearer", err.msg);
    return ast_buf_steal(&token);
}

/* --- A client that blocks, with a limit of 20 s --- */

struct client {
    int fd;
    struct ast_buf got; /* read and not yet consumed */
};

static inline struct client client_open(unsigned port)
{
    struct client c = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
                        .got = AST_BUF_INIT(16777216) };
    struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    struct timeval limit = { .tv_sec = 20 };
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    (void)setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(c.fd, (struct sockaddr *)&sa, sizeof sa))
        rig_die("connect", strerror(errno));
    return c;
}

static inline void client_close(struct client *c)
{
    (void)close(c->fd);
    ast_buf_done(&c->got);
}
AST_DEFINE_AUTO_VALUE(struct client, client_close)

static inline void client_send(struct client *c, struct ast_str s)
{
    while (s.n) {
        ssize_t n = send(c->fd, s.p, s.n, MSG_NOSIGNAL);
        if (n <= 0)
            return; /* the server may cut a client off: the test sees it when reading */
        s = ast_str_from(s, (size_t)n);
    }
}

/* One read; false at the end or after 20 s. */
static inline bool client_more(struct client *c)
{
    if (ast_buf_reserve(&c->got, 65536))
        rig_die("client", "answer too large");
    ssize_t n = recv(c->fd, c->got.p + c->got.n, 65536, 0);
    if (n <= 0)
        return false;
    c->got.n += (size_t)n;
    c->got.p[c->got.n] = 0;
    return true;
}

/* Waits until `needle` was read; false when the connection ended before. */
static inline bool client_wait(struct client *c, const char *needle)
{
    while (ast_str_find(ast_buf_view(&c->got), ast_str_c(needle)) == AST_STR_NPOS)
        if (!client_more(c))
            return false;
    return true;
}

static inline bool client_ended(struct client *c)
{
    while (client_more(c))
        ;
    return errno != EAGAIN && errno != EWOULDBLOCK;
}

struct reply {
    unsigned status;   /* 0: connection ended without a whole answer */
    char *head, *body; /* owned, NUL-terminated; chunks are joined */
};

static inline void reply_done(struct reply *r)
{
    free(r->head);
    free(r->body);
}
AST_DEFINE_AUTO_VALUE(struct reply, reply_done)

static inline char *client_cut(struct client *c, size_t n)
{
    while (c->got.n < n)
        if (!client_more(c))
            return NULL;
    char *s = ast_str_dup(ast_str_first(ast_buf_view(&c->got), n));
    ast_buf_consume(&c->got, n);
    return s;
}

static inline char *client_cut_through(struct client *c, const char *needle)
{
    if (!client_wait(c, needle))
        return NULL;
    return client_cut(c, ast_str_find(ast_buf_view(&c->got), ast_str_c(needle)) + strlen(needle));
}

static inline char *client_chunks(struct client *c)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(16777216);
    (void)ast_buf_add_lit(&body, "");
    for (;;) {
        AST_AUTO(ast_cfree) char *size = client_cut_through(c, "\r\n");
        size_t n = size ? strtoul(size, NULL, 16) : 0;
        AST_AUTO(ast_cfree) char *data = size ? client_cut(c, n + 2) : NULL;
        if (!data)
            return NULL;
        (void)ast_buf_add(&body, ast_str_n(data, n));
        if (!n)
            return body.n ? ast_buf_steal(&body) : ast_str_dup(AST_STR(""));
    }
}

static inline struct reply client_reply(struct client *c, bool has_body)
{
    struct reply r = { 0 };
    r.head = client_cut_through(c, "\r\n\r\n");
    if (!r.head)
        return r;
    const char *length = strstr(r.head, "\r\ncontent-length: ");
    if (!has_body)
        r.body = ast_str_dup(AST_STR(""));
    else if (strstr(r.head, "\r\ntransfer-encoding: chunked\r\n"))
        r.body = client_chunks(c);
    else
        r.body = client_cut(c, length ? strtoul(length + 18, NULL, 10) : 0);
    r.status = r.body ? (unsigned)strtoul(r.head + 9, NULL, 10) : 0;
    return r;
}

/* `fields` are whole lines; bearer may be NULL. */
static inline void client_ask(struct client *c, const char *method, const char *target,
                              const char *bearer, const char *fields, const char *body)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(16777216);
    (void)ast_buf_addf(&out, "%s %s HTTP/1.1\r\nhost: localhost\r\n%s", method, target,
                       fields ? fields : "");
    if (bearer)
        (void)ast_buf_addf(&out, "authorization: Bearer %s\r\n", bearer);
    if (body)
        (void)ast_buf_addf(&out, "content-length: %zu\r\n", strlen(body));
    (void)ast_buf_add_lit(&out, "\r\n");
    (void)ast_buf_add(&out, ast_str_c(body));
    client_send(c, ast_buf_view(&out));
}

static inline struct reply client_call(struct client *c, const char *method, const char *target,
                                       const char *bearer, const char *fields, const char *body)
{
    client_ask(c, method, target, bearer, fields, body);
    return client_reply(c, strcmp(method, "HEAD") != 0);
}

static inline struct reply rig_call(struct rig *r, const char *method, const char *target,
                                    const char *bearer, const char *fields, const char *body)
{
    AST_AUTO(client_close) struct client c = client_open(ast_gateway_port(r->gateway));
    return client_call(&c, method, target, bearer, fields, body);
}
