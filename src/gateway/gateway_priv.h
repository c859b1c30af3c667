/* What the gateway's files share: the gateway itself, one call under way, replies, the route table.
 *
 * Life of a call: gw_dispatch() fills it on the stack of the loop thread and runs the route's handler, which replies
 * at once or copies the call into something of its own that outlives it (a kernel question, a stream).
 */
#pragma once

#include <stdatomic.h>

#include "base/list.h"
#include "base/thread.h"
#include "bus/bus.h"
#include "bus/metrics.h"
#include "gateway/bearers_priv.h"
#include "gateway/config_priv.h"
#include "gateway/distro_priv.h"
#include "gateway/gateway.h"
#include "gateway/http_priv.h"
#include "gateway/path_priv.h"
#include "gateway/work_priv.h"

struct gw_feed;
struct gw_questions;
struct gw_route;

/* status; the statuses that replies of routed requests can have */
#define GW_STATUS_MAP(X)                                                                           \
    X(200)                                                                                         \
    X(204)                                                                                         \
    X(400) X(401) X(403) X(404) X(405) X(413) X(415) X(422) X(429) X(500) X(501) X(502) X(503)
enum gw_status_index {
#define X(status) GW_STATUS_##status,
    GW_STATUS_MAP(X)
#undef X
        GW_STATUS_COUNT
};

#define GW_ROUTES_MAX 64u

struct gw_cells {
    struct ast_metric_cell *_Atomic requests, *_Atomic duration; /* NULL: not looked up yet */
};

/* Owner: the daemon's main thread; immutable after start except what names a lock or is atomic. */
struct ast_gateway {
    struct ast_kernel *kernel;
    struct ast_host *host;
    const struct ast_home *home;
    struct gw_config cfg;
    struct ast_key key;
    struct gw_revocations *revocations;
    struct gw_bearers *bearers;
    struct gw_http *http;
    struct ast_tap *watcher;
    struct gw_distro distro;
    struct gw_questions *questions;
    uint8_t fingerprint_key[32]; /* of secrets in the log; fresh with each start */
    char *socket_path, *ready_path;
    char *labels[GW_ROUTES_MAX]; /* owned, by row of the route table */
    struct gw_cells cells[GW_ROUTES_MAX][GW_STATUS_COUNT];
    struct ast_metric_cell *auth_failures;
    struct ast_lock streams_lock;
    struct ast_list streams AST_GUARDED_BY(streams_lock); /* struct gw_stream */
    struct gw_worker disk;                                /* what blocks on behalf of one request */
    struct gw_feed *feed;
};

/* One routed request. Values; views are good while the exchange is open. */
struct gw_call {
    struct ast_gateway *g;
    struct gw_exchange *ex;       /* borrowed from the dispatch; who keeps the call references it */
    const struct gw_route *route; /* NULL: no such path */
    enum gw_method method;
    struct ast_bearer bearer; /* of authenticated routes */
    struct gw_params params;
    /* the allowed origin to echo; borrowed from the configuration; empty: none */
    struct ast_str origin;
};

enum gw_auth { GW_PUBLIC, GW_BEARER };

struct gw_route {
    enum gw_method method;
    const char *path;
    enum gw_auth auth;
    bool is_probe;                        /* logged at debug */
    bool reads_body;                      /* a body over the limit is a 400 */
    void (*handle)(struct gw_call *call); /* NULL: not available in this build */
    const char *summary;
};
extern const struct gw_route gw_routes[];
extern const size_t gw_route_count;

void gw_dispatch(void *arg, struct gw_exchange *ex); /* on_request of the server */

/* --- reply.c: every reply carries CORS fields, is counted and logged --- */

void gw_reply(struct gw_call *call, unsigned status, struct ast_str content_type,
              struct ast_str body);
void gw_reply_allow(struct gw_call *call, unsigned status, struct ast_str allow,
                    struct ast_str body);
/* 200, or 500 when the buffer failed */
void gw_reply_json(struct gw_call *call, const struct ast_buf *json);
/* 200, SSE */
void gw_reply_stream(struct gw_call *call, const struct gw_stream_ops *ops, void *user);
void gw_reply_preflight(struct ast_gateway *g, struct gw_exchange *ex, struct ast_str origin);

void gw_reply_unauthorized(struct gw_call *call);
void gw_reply_forbidden(struct gw_call *call, struct ast_str reason);
void gw_reply_bad_request(struct gw_call *call, const char *fmt, ...) AST_PRINTF(2, 3);
void gw_reply_not_found(struct gw_call *call);
void gw_reply_rate_limited(struct gw_call *call, uint64_t retry_after_secs);
void gw_reply_kernel(struct gw_call *call, struct ast_str reason);
void gw_reply_internal(struct gw_call *call, const char *why); /* logged, never told */
void gw_reply_not_implemented(struct gw_call *call);

/* --- ask.c: questions to the kernel (spec 03 §9) --- */

/* Sends {"method":method} as the caller. ok() gets `data` of an answer with status `expected`; an Error becomes 403,
 * anything else and silence 500. */
void gw_ask(struct gw_call *call, struct ast_str method, struct ast_str expected,
            void (*ok)(struct gw_call *call, const struct ast_json *data));

/* The same with more to say. Views are borrowed for the call, `expected` and `ok` are static. */
struct gw_request_to_kernel {
    struct ast_str method, expected;
    struct ast_str params; /* an object as JSON; empty: none */
    unsigned limit_secs;   /* how long to wait; 0: the configured time */
    void (*ok)(struct gw_call *call, const struct ast_json *data);
};
void gw_ask_more(struct gw_call *call, const struct gw_request_to_kernel *r);

/* --- task.c: work of one request that blocks --- */

/* Part of something that the route allocates. */
struct gw_task {
    struct gw_call call;
    void (*work)(struct gw_task *t);  /* disk thread; the request's own bytes are out of bounds */
    void (*reply)(struct gw_task *t); /* loop thread, when the client is still there */
    void (*free)(struct gw_task *t);  /* the last thing, on either thread */
    struct gw_exchange *ex;           /* private: owned reference */
    struct gw_job job;                /* private */
    struct gw_post post;              /* private */
};
/* work, then reply, then free. Without a worker: 500 and free. Takes `t`. */
void gw_task_start(struct gw_call *call, struct gw_task *t);

/* --- stream.c: what all SSE streams have --- */

/* Owner: the stream's loop thread, except the fields marked. */
struct gw_stream {
    struct ast_gateway *g;
    struct gw_exchange *ex; /* owned reference */
    struct ast_bearer bearer;
    struct ast_list link;   /* in g->streams, under g->streams_lock */
    atomic_bool is_revoked; /* any thread */
    int64_t expires_ns;     /* of the bearer, on the monotonic clock; INT64_MAX: never */
    int64_t spoke_ns;       /* last event or comment */
    bool is_listed;
};
/* Zeroed is a valid empty state. Listed: a revocation finds it. */
void gw_stream_init(struct gw_stream *s, const struct gw_call *call);
void gw_stream_list(struct gw_stream *s);
void gw_stream_done(struct gw_stream *s);
/* Disabled, or nobody can tell. A principal that does not exist is not disabled. */
bool gw_is_disabled(const struct ast_gateway *g, struct ast_str principal);
/* Its bearer expired or was revoked, or its principal was disabled. */
bool gw_stream_is_over(const struct gw_stream *s, int64_t now_ns);
/* The comment when it is due; *ret_next_ns: when to look again, for keep-alive and expiry. Last in a fill. */
void gw_stream_keep_alive(struct gw_stream *s, int64_t now_ns, struct ast_buf *out,
                          int64_t *ret_next_ns);

/* Makes the open streams of a principal look again at what they may. Any thread. */
void gw_streams_wake(struct ast_gateway *g, struct ast_str principal);
/* Ends the open streams of a revoked principal. Any thread. */
void gw_streams_revoke(struct ast_gateway *g, struct ast_str principal, uint64_t epoch_secs);

/* Whether the caller's principal still exists and is enabled (spec README §5 gap 31). */
bool gw_caller_enabled(const struct gw_call *call);

/* --- routes --- */

void gw_get_healthz(struct gw_call *call);
void gw_get_metrics(struct gw_call *call);
void gw_get_me(struct gw_call *call);
void gw_post_refresh(struct gw_call *call);
void gw_post_prompt(struct gw_call *call);
void gw_get_status(struct gw_call *call);
void gw_list_capsules(struct gw_call *call);
void gw_get_events(struct gw_call *call);
void gw_get_audit(struct gw_call *call);
void gw_install_capsule(struct gw_call *call);
void gw_reload_capsules(struct gw_call *call);
void gw_get_capsule(struct gw_call *call);
void gw_get_topics(struct gw_call *call);
void gw_get_env(struct gw_call *call);
void gw_post_env(struct gw_call *call);
void gw_get_distribution(struct gw_call *call);
void gw_get_onboarding(struct gw_call *call);
void gw_post_elicit_response(struct gw_call *call);
void gw_get_readiness(struct gw_call *call);
