/* Shared inside the socket server: one connection and the server that owns it. */
#pragma once

#include "base/list.h"
#include "base/thread.h"
#include "base/vec.h"
#include "bus/limiter.h"
#include "uplink/frame.h"
#include "uplink/reconcile.h"
#include "uplink/server.h"

#define UPLINK_TARGET         "astrid.uplink"
#define UPLINK_STEP_MS        5000u /* each handshake step, spec 01 §4.5 */
#define UPLINK_MAX_HANDSHAKES 64u   /* connections that have not proved themselves yet */
#define UPLINK_MAX_PRINCIPALS 1024u /* distinct principals one connection may use */

/*     accept          token ok              error, EOF, overflow
 *  HEADER --> BODY ------------> OPEN -------------------------> closed
 *     \________________________________________________________/
 */
enum conn_state { CONN_HANDSHAKE, CONN_OPEN, CONN_CLOSING /* flush what is queued, then close */ };

struct uplink_conn {
    struct ast_list link; /* main loop: all connections */
    struct ast_uplink_server *server;
    int fd;
    struct ast_watch *watch;
    struct ast_timer *timer; /* the running step's deadline */
    enum conn_state state;   /* main loop */
    bool in_body;            /* main loop: the length arrived, the body is awaited */
    struct ast_buf in, out;  /* main loop */
    size_t out_at;           /* bytes of `out` already written */
    unsigned out_frames;
    struct ast_reconcile reconcile; /* main loop */
    struct ast_principal recent;    /* main loop: last principal used; empty: none */

    /* Under server->lock: read by publishers. */
    bool listed; /* OPEN: messages are queued for it */
    AST_VEC(struct ast_principal) principals;
    char *session;                     /* of the latest prompt; owned; NULL: none */
    AST_VEC(struct ast_msg *) pending; /* owned references, bus order */
    size_t pending_bytes;
    bool overflowed;
};

/* Owner: main loop, except what `lock` guards. */
struct ast_uplink_server {
    struct ast_kernel *k;
    struct ast_loop *loop;
    struct ast_uuid source;  /* constant for the daemon's life (spec 01 §8.5 N7) */
    unsigned max_clients;    /* the same as the next */
    bool own_questions_only; /* set at open, then read only */
    struct ast_limiter *limiter;
    int listen_fd;
    struct ast_watch *listen_watch;
    char *path; /* the socket file, and what was bound there */
    uint64_t bound_dev, bound_ino;
    struct ast_list conns;
    unsigned open_count, handshake_count;

    struct ast_lock lock;
    AST_VEC(struct uplink_conn *) listed AST_GUARDED_BY(lock);
    bool posted AST_GUARDED_BY(lock); /* a drain is on its way to the loop */
    struct ast_post drain;
    AST_VEC(struct ast_tap *) taps;
};

/* egress.c */
enum ast_rc uplink_egress_open(struct ast_uplink_server *s, struct ast_err *err);
void uplink_egress_close(struct ast_uplink_server *s);
void uplink_egress_list(struct uplink_conn *c, bool listed); /* starts or stops queueing for it */
void uplink_egress_drain(struct ast_uplink_server *s);       /* queued messages become frames */

/* ingress.c: one data frame of an open connection. Never closes it. */
void uplink_ingress(struct uplink_conn *c, struct ast_str frame);
void uplink_ingress_gone(struct uplink_conn *c); /* counted principals are told to the tracker */

/* conn.c */
struct uplink_conn *uplink_conn_new(struct ast_uplink_server *s, int fd);
void uplink_conn_close(struct uplink_conn *c);
/* Appends a frame whose body `write` made; over the queue's bound the connection is closed and false returned. */
bool uplink_conn_send(struct uplink_conn *c, struct ast_str body);
bool uplink_conn_flush(struct uplink_conn *c); /* writes what fits; false: closed */
void uplink_accept_resume(struct ast_uplink_server *s);
