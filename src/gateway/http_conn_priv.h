/* What http_loop.c (libwebsockets), http_conn.c (one connection) and http_answer.c (exchanges) share. */
#pragma once

#include <stdatomic.h>

#include "base/heap.h"
#include "base/list.h"
#include "base/thread.h"
#include "gateway/http_priv.h"

struct gw_loop;
struct lws;

/* Fires once on its loop; owned by what it is part of, which takes it out before it goes. */
struct gw_timer {
    struct ast_heap_node node;
    void (*fire)(struct gw_timer *t);
};

enum gw_conn_state {
    GW_CONN_HEAD,   /* between requests or inside a head */
    GW_CONN_BODY,   /* inside a body */
    GW_CONN_ANSWER, /* ex is set: somebody works on the answer */
    GW_CONN_LAST,   /* the last answer is being written; input is thrown away */
    GW_CONN_LINGER, /* everything is written and the write side shut: wait for the client's end */
};

/* Owner: its loop thread. */
struct gw_conn {
    struct ast_list link; /* in the loop's list */
    struct gw_loop *loop;
    struct lws *wsi;
    enum gw_conn_state state;
    /* the request under way and, in HEAD, what follows it; its views point here */
    struct ast_buf in;
    struct ast_buf ahead; /* arrived while a request is answered */
    struct ast_buf body;  /* of a chunked request */
    /* starts with the door's headroom; out_at is the first byte not yet handed over */
    struct ast_buf out;
    size_t out_at;
    size_t scanned;
    struct gw_request request;
    struct gw_chunks chunks;
    struct gw_exchange *ex; /* owned reference */
    struct gw_timer timer;
    int64_t read_deadline_ns, write_deadline_ns; /* 0: none; the timer may be earlier than needed */
    size_t lingered;
    bool read_deadline_is_head; /* not the wait between two requests */
    bool is_paused;             /* too much ahead: not reading */
    bool is_busy;               /* inside gw_conn_advance() */
    /* the start of a stream waits for the next turn of the loop: its answer may already be there */
    bool is_corked;
    bool is_dead; /* to be closed by the door at its next chance */
};

/* Owner: its loop thread, except the atomics. */
struct gw_exchange {
    atomic_uint refs;
    atomic_bool is_woken; /* a wake is on its way */
    struct gw_post wake;
    struct gw_loop *loop;            /* immutable; kept alive by the reference */
    struct gw_conn *conn;            /* NULL: answered, or the client is gone */
    const struct gw_stream_ops *ops; /* a stream between its start and its end */
    void *stream_user;
    void *user;
    struct gw_timer timer;
    void (*on_time)(struct gw_exchange *ex);
    int64_t started_ns;
    bool is_raw;    /* a stream to an HTTP/1.0 client: no chunks */
    bool is_hungry; /* the stream has more to say than the client took */
};

/* --- http_loop.c --- */

const struct gw_http_config *gw_loop_config(const struct gw_loop *loop);
struct ast_buf *gw_loop_scratch(struct gw_loop *loop); /* empty; for one callback */
struct ast_str gw_loop_date(struct gw_loop *loop);     /* "date: ...\r\n" */
bool gw_loop_stopping(const struct gw_loop *loop);
void gw_loop_ref(struct gw_loop *loop);
void gw_loop_unref(struct gw_loop *loop);
bool gw_loop_post(struct gw_loop *loop, struct gw_post *post); /* any thread */
/* false: out of memory */
bool gw_loop_timer(struct gw_loop *loop, struct gw_timer *t, int64_t at_ns);
void gw_loop_timer_stop(struct gw_loop *loop, struct gw_timer *t);

extern const size_t gw_door_headroom; /* bytes the door wants in front of what it writes */
bool gw_door_blocked(struct gw_conn *c);
bool gw_door_write(struct gw_conn *c, char *p, size_t n); /* false: connection lost */
void gw_door_want_write(struct gw_conn *c);
void gw_door_pause(struct gw_conn *c, bool pause);
bool gw_door_shut(struct gw_conn *c); /* ends the write side; false: cannot */
void gw_door_kill(struct gw_conn *c); /* gw_conn_closed() follows later */

/* --- http_tls.c --- */

/* A certificate chain and its one private key, as read once. Immutable; shared by reference. */
struct gw_tls;
AST_MUST_CHECK
enum ast_rc gw_tls_load(const char *cert_path, const char *key_path, struct gw_tls **ret,
                        struct ast_err *err);
struct gw_tls *gw_tls_ref(struct gw_tls *t);
void gw_tls_unref(struct gw_tls *t); /* NULL is fine */
/* Makes a server context (SSL_CTX) hand them out from the next handshake on; on the thread that does its handshakes. */
bool gw_tls_apply(const struct gw_tls *t, void *ssl_ctx);

/* --- http_conn.c --- */

struct gw_conn *gw_conn_new(struct gw_loop *loop, struct lws *wsi); /* NULL: out of memory */
void gw_conn_closed(struct gw_conn *c); /* the socket is gone: ends the exchange, frees */
void gw_conn_read(struct gw_conn *c, struct ast_str in);
void gw_conn_writable(struct gw_conn *c);
void gw_conn_stop(struct gw_conn *c); /* the server stops */
/* Goes on after an answer: flushes, looks at the next request. */
void gw_conn_advance(struct gw_conn *c);
/* The answer is complete in `out`. */
void gw_conn_answered(struct gw_conn *c, bool keep);

/* --- http_answer.c --- */

struct gw_exchange *gw_exchange_new(struct gw_conn *c);
void gw_exchange_gone(struct gw_exchange *ex); /* client lost */
void gw_exchange_feed(struct gw_exchange *ex); /* a stream may go on */
/* Status line and fields of an answer; no_body: nothing follows, body_bytes is still announced. */
void gw_head_print(struct gw_conn *c, const struct gw_answer *a, size_t body_bytes, bool is_stream,
                   bool keep);
