/* Replies: status, body, CORS fields, and the count and log line each one leaves.
 *
 * Invariant: every routed request ends in exactly one function of this file, so none is uncounted.
 */
#include "gateway/gateway_priv.h"

#include <stdio.h>

#include "base/log.h"
#include "base/time.h"

#include "base/banned.h"

#define JSON       AST_STR("application/json")
#define ERROR_MAX  8192u
#define FIELDS_MAX 2048u

/* --- Counting ------------------------------------------------------------------------------ */

static size_t status_index(unsigned status)
{
    switch (status) {
#define X(status)                                                                                  \
    case status: return GW_STATUS_##status;
        GW_STATUS_MAP(X)
#undef X
    default: return GW_STATUS_COUNT;
    }
}

static void look_up(const struct gw_call *call, struct ast_str route, unsigned status,
                    struct ast_metric_cell **requests, struct ast_metric_cell **duration)
{
    char text[16];
    (void)snprintf(text, sizeof text, "%u", status);
    const struct ast_str labels[] = { ast_str_c(gw_method_name(call->method)), route,
                                      ast_str_c(text) };
    *requests = ast_metric_cell(AST_METRIC_GATEWAY_REQUESTS, labels, AST_ARRAY_LEN(labels));
    *duration = ast_metric_cell(AST_METRIC_GATEWAY_DURATION, labels, AST_ARRAY_LEN(labels));
}

static void count(struct gw_call *call, unsigned status)
{
    struct ast_gateway *g = call->g;
    int64_t took_ns = ast_mono_ns() - gw_exchange_started_ns(call->ex);
    size_t row = call->route ? (size_t)(call->route - gw_routes) : GW_ROUTES_MAX;
    struct ast_str route = call->route ? ast_str_c(g->labels[row]) : AST_STR("<unmatched>");
    size_t index = status_index(status);
    struct ast_metric_cell *requests = NULL, *duration = NULL;
    if (call->route && call->route->method == call->method && index < GW_STATUS_COUNT) {
        struct gw_cells *cells = &g->cells[row][index];
        requests = atomic_load_explicit(&cells->requests, memory_order_acquire);
        duration = atomic_load_explicit(&cells->duration, memory_order_acquire);
        if (!requests || !duration) {
            look_up(call, route, status, &requests, &duration);
            atomic_store_explicit(&cells->requests, requests, memory_order_release);
            atomic_store_explicit(&cells->duration, duration, memory_order_release);
        }
    } else {
        look_up(call, route, status, &requests, &duration);
    }
    ast_metric_add(requests, 1);
    ast_metric_observe_ns(duration, (uint64_t)AST_MAX(took_ns, 0));
    ast_log_fields(call->route && call->route->is_probe ? AST_LOG_DEBUG : AST_LOG_INFO, "gateway",
                   "request", AST_F_CSTR("method", gw_method_name(call->method)),
                   AST_F_STR("route", route), AST_F_U64("status", status),
                   AST_F_F64("duration_ms", (double)took_ns / 1e6));
}

/* --- Sending ------------------------------------------------------------------------------- */

static void add_cors(const struct ast_gateway *g, struct ast_str origin, struct ast_buf *out)
{
    if (!g->cfg.origins.n)
        return;
    (void)ast_buf_add_lit(out, "vary: origin\r\n");
    if (!origin.n)
        return;
    (void)ast_buf_add_lit(out, "access-control-allow-origin: ");
    (void)ast_buf_add(out, origin);
    (void)ast_buf_add_lit(out, "\r\n");
}

static void send_reply(struct gw_call *call, unsigned status, struct ast_str content_type,
                       struct ast_buf *fields, struct ast_str body)
{
    if (!gw_exchange_open(call->ex))
        return;
    count(call, status);
    add_cors(call->g, call->origin, fields);
    gw_exchange_answer(call->ex, &(struct gw_answer){ .status = status,
                                                      .content_type = content_type,
                                                      .fields = ast_buf_view(fields),
                                                      .body = body });
}

void gw_reply(struct gw_call *call, unsigned status, struct ast_str content_type,
              struct ast_str body)
{
    AST_AUTO(ast_buf_done) struct ast_buf fields = AST_BUF_INIT(FIELDS_MAX);
    send_reply(call, status, content_type, &fields, body);
}

void gw_reply_allow(struct gw_call *call, unsigned status, struct ast_str allow,
                    struct ast_str body)
{
    AST_AUTO(ast_buf_done) struct ast_buf fields = AST_BUF_INIT(FIELDS_MAX);
    (void)ast_buf_add_lit(&fields, "allow: ");
    (void)ast_buf_add(&fields, allow);
    (void)ast_buf_add_lit(&fields, "\r\n");
    send_reply(call, status, body.n ? JSON : AST_STR_NONE, &fields, body);
}

void gw_reply_json(struct gw_call *call, const struct ast_buf *json)
{
    if (json->fail)
        gw_reply_internal(call, "the answer is too large");
    else
        gw_reply(call, 200, JSON, ast_buf_view(json));
}

void gw_reply_stream(struct gw_call *call, const struct gw_stream_ops *ops, void *user)
{
    AST_AUTO(ast_buf_done) struct ast_buf fields = AST_BUF_INIT(FIELDS_MAX);
    (void)ast_buf_add_lit(&fields, "cache-control: no-cache\r\n");
    add_cors(call->g, call->origin, &fields);
    if (gw_exchange_open(call->ex))
        count(call, 200);
    gw_exchange_stream(call->ex,
                       &(struct gw_answer){ .status = 200,
                                            .content_type = AST_STR("text/event-stream"),
                                            .fields = ast_buf_view(&fields) },
                       ops, user);
}

/* spec 03 §5.4: neither routed, nor counted, nor logged. */
void gw_reply_preflight(struct ast_gateway *g, struct gw_exchange *ex, struct ast_str origin)
{
    AST_AUTO(ast_buf_done) struct ast_buf fields = AST_BUF_INIT(FIELDS_MAX);
    (void)ast_buf_add_lit(&fields,
                          "access-control-allow-methods: GET,POST,PUT,PATCH,DELETE,OPTIONS\r\n"
                          "access-control-allow-headers: authorization,content-type,accept\r\n"
                          "access-control-max-age: 3600\r\n");
    add_cors(g, origin, &fields);
    gw_exchange_answer(ex, &(struct gw_answer){ .status = 200, .fields = ast_buf_view(&fields) });
}

/* --- Errors (spec 03 §6) ------------------------------------------------------------------- */

static void reply_error(struct gw_call *call, unsigned status, struct ast_str error,
                        const struct ast_str *reason, const uint64_t *retry_after_secs)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(ERROR_MAX * 8);
    struct ast_jw w = AST_JW_INIT(&body);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "error", error);
    if (reason)
        ast_jw_kv_string(&w, "reason", ast_str_first(*reason, ERROR_MAX));
    if (retry_after_secs)
        ast_jw_kv_u64(&w, "retry_after_secs", *retry_after_secs);
    ast_jw_end(&w);
    gw_reply(call, status, JSON, ast_buf_view(&body));
}

void gw_reply_unauthorized(struct gw_call *call)
{
    reply_error(call, 401, AST_STR("unauthorized"), NULL, NULL);
}

void gw_reply_forbidden(struct gw_call *call, struct ast_str reason)
{
    reply_error(call, 403, AST_STR("forbidden"), &reason, NULL);
}

void gw_reply_bad_request(struct gw_call *call, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap); /* a cut reason is still a reason */
    va_end(ap);
    struct ast_str reason = ast_str_c(text);
    reply_error(call, 400, AST_STR("bad_request"), &reason, NULL);
}

void gw_reply_not_found(struct gw_call *call)
{
    reply_error(call, 404, AST_STR("not_found"), NULL, NULL);
}

void gw_reply_rate_limited(struct gw_call *call, uint64_t retry_after_secs)
{
    reply_error(call, 429, AST_STR("rate_limited"), NULL, &retry_after_secs);
}

void gw_reply_kernel(struct gw_call *call, struct ast_str reason)
{
    reply_error(call, 502, AST_STR("kernel"), &reason, NULL);
}

void gw_reply_internal(struct gw_call *call, const char *why)
{
    ast_log_fields(AST_LOG_WARN, "gateway", "gateway internal error", AST_F_CSTR("error", why),
                   AST_F_CSTR("route", call->route ? call->route->path : "<unmatched>"));
    reply_error(call, 500, AST_STR("internal"), NULL, NULL);
}

void gw_reply_not_implemented(struct gw_call *call)
{
    char text[160];
    (void)snprintf(text, sizeof text, "%s %s is not available in this build",
                   gw_method_name(call->route->method), call->route->path);
    struct ast_str reason = ast_str_c(text);
    reply_error(call, 501, AST_STR("not_implemented"), &reason, NULL);
}
