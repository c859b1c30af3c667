/* The HTTP/1.1 front: sockets, TLS, parsing, answers, streams. libwebsockets stays behind http_loop.c.
 *
 * Life of a request: a connection reads one request at a time into its own buffers, makes an exchange and calls
 * on_request on its loop thread. Someone answers it once, at once or later, on that thread; then the next request
 * of the connection is looked at. Whatever the client breaks on the way (bytes, sizes, times) is answered or cut
 * here and never reaches on_request.
 *
 * Threads: an exchange belongs to its loop thread. Other threads may hold references, wake it and post to it.
 */
#pragma once

#include "gateway/config_priv.h"
#include "gateway/http_parse_priv.h"

struct gw_http;
struct gw_exchange;

struct gw_http_config {
    struct gw_address listen;
    const char *tls_cert_path, *tls_key_path; /* NULL: plain */
    unsigned loops;                           /* 0: one a CPU */
    unsigned connections;                     /* 0: AST_GATEWAY_CONNECTIONS */
    struct ast_str fixed_fields;              /* "name: value\r\n"..., on every answer; copied */
    void (*on_request)(void *arg, struct gw_exchange *ex);
    void *arg;
    /* Milliseconds; 0: the limits of gateway_limits.h. */
    int64_t head_ms, body_ms, idle_ms, write_ms;
};

/* Binds, starts the loops and the acceptor. Errors: an address in use, a bad certificate. */
AST_MUST_CHECK
enum ast_rc gw_http_start(const struct gw_http_config *cfg, struct gw_http **ret,
                          struct ast_err *err);
/* Accepts no more, cuts streams and idle connections, waits at most AST_GATEWAY_DRAIN_SECS for the rest. NULL is
 * fine. References to exchanges may outlive it. */
void gw_http_stop(struct gw_http *http);
/* Keeps the memory, not the service: calls after gw_http_stop() have no effect. */
struct gw_http *gw_http_ref(struct gw_http *http);
void gw_http_unref(struct gw_http *http);
/* Reads certificate and key again: connections made from here on get them, open ones go on undisturbed. On failure
 * everything stays as it was. Blocks on disk; any thread but a loop's. */
AST_MUST_CHECK
enum ast_rc gw_http_reload_tls(struct gw_http *http, struct ast_err *err);
unsigned gw_http_port(const struct gw_http *http);
unsigned gw_http_connections(const struct gw_http *http); /* open now */

/* --- One request --- */

/* until answered; streams: until gone */
const struct gw_request *gw_exchange_request(const struct gw_exchange *ex);
/* not answered, client still there; loop thread */
bool gw_exchange_open(const struct gw_exchange *ex);
struct gw_exchange *gw_exchange_ref(struct gw_exchange *ex);
void gw_exchange_unref(struct gw_exchange *ex);
void *gw_exchange_user(const struct gw_exchange *ex); /* the upper layer's; NULL at first */
void gw_exchange_set_user(struct gw_exchange *ex, void *user);
int64_t gw_exchange_started_ns(const struct gw_exchange *ex);
/* Calls fn once at that monotonic time unless answered or gone before; replaces an earlier one. */
void gw_exchange_at(struct gw_exchange *ex, int64_t at_ns, void (*fn)(struct gw_exchange *ex));

/* Runs fn on the exchange's loop. Any thread. False: the loop is gone, fn will not run. */
struct gw_post {
    struct gw_post *next; /* private */
    void (*fn)(struct gw_post *post);
};
bool gw_exchange_post(struct gw_exchange *ex, struct gw_post *post);

struct gw_answer {
    unsigned status;
    struct ast_str content_type; /* empty: none */
    struct ast_str fields;       /* further "name: value\r\n" lines */
    struct ast_str body;         /* not sent for HEAD, 204 and streams */
};
/* Copies everything. A request that is not open any more is left alone. */
void gw_exchange_answer(struct gw_exchange *ex, const struct gw_answer *a);

/* A stream pulls: fill is called on the loop thread at the start, after a wake, at *ret_next_ns and when the
 * client has taken what it got. It appends until AST_GATEWAY_FILL_BYTES are there or nothing is left to say, and
 * returns false when the stream ends with these bytes. gone is called once, at the end, whoever ended it. */
struct gw_stream_ops {
    bool (*fill)(void *user, int64_t now_ns, struct ast_buf *out,
                 int64_t *ret_next_ns /* 0: no timer */);
    void (*gone)(void *user);
};
/* Head and first fill in one write. The connection is reusable after the end. */
void gw_exchange_stream(struct gw_exchange *ex, const struct gw_answer *head,
                        const struct gw_stream_ops *ops, void *user);
/* Any thread; many wakes before the loop gets to it are one. */
void gw_exchange_wake(struct gw_exchange *ex);
