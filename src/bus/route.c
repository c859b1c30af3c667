/* Routed subscriptions: a sink with queues behind it.
 *
 * The lock guards the queues and the counters only; filter, notify and log run outside it. What was
 * dropped is counted at once and logged after the lock: the first of its kind, then one line with a
 * count per DROP_LOG_INTERVAL_NS.
 */
#include "bus/route.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "bus/bus_priv.h"
#include "bus/metrics.h"
#include "bus/queue_priv.h"

#include "base/banned.h"

#define DROP_LOG_INTERVAL_NS (10 * AST_NS_PER_SEC)
#define DROP_LOG_TARGET      "astrid.audit.ipc"

/* What the log has to say about one kind of drop. Guarded by the route's lock. */
struct drop_log {
    bool has_spoken;
    int64_t spoke_ns;
    uint64_t silent; /* dropped since without a line */
};

/* A line to be written after the lock. */
struct drop_line {
    struct ast_msg *msg; /* a reference; NULL: no line */
    uint64_t silent;
    size_t total_bytes;
};

enum principal_class { CLASS_USER, CLASS_AGENT, CLASS_SYSTEM, CLASS_COUNT };

/* Owner: whoever opened it. */
struct ast_route {
    struct bus_sink sink;
    char *label; /* owned, immutable, like the callbacks */
    bool (*filter)(void *arg, const struct ast_msg *msg);
    void (*notify)(void *arg);
    void (*lost)(void *arg, struct ast_str principal);
    void *arg;

    atomic_size_t queued; /* messages; written under the lock, read by who may find none */
    struct ast_lock lock;
    struct bus_queues queues AST_GUARDED_BY(lock);
    uint64_t dropped_total AST_GUARDED_BY(lock);
    uint64_t dropped_recent AST_GUARDED_BY(lock);
    struct drop_log logs[BUS_DROP_REASONS] AST_GUARDED_BY(lock);
    struct drop_line *lines AST_GUARDED_BY(lock); /* during a push: where lines go */
    struct ast_metric_cell *evictions[CLASS_COUNT] AST_GUARDED_BY(lock); /* NULL until needed */
    struct ast_metric_cell *starved[CLASS_COUNT] AST_GUARDED_BY(lock);

    struct ast_list peers;               /* in `open_routes`, under its lock */
    struct ast_metric_cell *bytes_gauge; /* shared with routes of the same label */
    struct ast_metric_cell *active_gauge;
};

static int64_t (*_Atomic drop_clock)(void) = ast_mono_ns;

void ast_route_set_clock(int64_t (*now)(void))
{
    atomic_store(&drop_clock, now ? now : ast_mono_ns);
}

/* --- Gauges: all open routes, read when metrics are scraped ---------------------------------- */

static struct {
    pthread_once_t once;
    struct ast_lock lock;
    struct ast_list list AST_GUARDED_BY(lock);
} open_routes = { .once = PTHREAD_ONCE_INIT };

static void gauges_refresh(void *arg)
{
    AST_WITH_LOCK(&open_routes.lock);
    ast_list_each (&open_routes.list, link) {
        struct ast_route *r = AST_CONTAINER_OF(link, struct ast_route, peers);
        ast_metric_set(r->bytes_gauge, 0);
        ast_metric_set(r->active_gauge, 0);
    }
    ast_list_each (&open_routes.list, link) {
        struct ast_route *r = AST_CONTAINER_OF(link, struct ast_route, peers);
        AST_WITH_LOCK(&r->lock);
        ast_metric_gauge_add(r->bytes_gauge, (int64_t)r->queues.bytes);
        ast_metric_gauge_add(r->active_gauge, (int64_t)r->queues.principals);
    }
}

static void open_routes_init(void);

size_t ast_routes_queued(struct ast_str label)
{
    size_t n = 0;

    pthread_once(&open_routes.once, open_routes_init);
    AST_WITH_LOCK(&open_routes.lock);
    ast_list_each (&open_routes.list, link) {
        const struct ast_route *r = AST_CONTAINER_OF(link, struct ast_route, peers);
        if (ast_str_eq(ast_str_c(r->label), label))
            n += atomic_load_explicit(&r->queued, memory_order_relaxed);
    }
    return n;
}

static void open_routes_init(void)
{
    ast_lock_init(&open_routes.lock, AST_LOCK_bus);
    ast_list_init(&open_routes.list);
    ast_metrics_on_scrape(gauges_refresh, NULL);
}

static void gauges_register(struct ast_route *r)
{
    struct ast_str label = ast_str_c(r->label);
    r->bytes_gauge = ast_metric_cell(AST_METRIC_ROUTE_BYTES, &label, 1);
    r->active_gauge = ast_metric_cell(AST_METRIC_ROUTE_PRINCIPALS, &label, 1);
    pthread_once(&open_routes.once, open_routes_init);
    AST_WITH_LOCK(&open_routes.lock);
    ast_list_push_back(&open_routes.list, &r->peers);
}

static void gauges_unregister(struct ast_route *r)
{
    AST_WITH_LOCK(&open_routes.lock);
    ast_list_remove(&r->peers);
    /* The next scrape adds up whoever is left under this label. */
    ast_metric_set(r->bytes_gauge, 0);
    ast_metric_set(r->active_gauge, 0);
}

/* --- Drops ----------------------------------------------------------------------------------- */

static enum principal_class class_of(const char *class_name)
{
    return class_name[0] == 's' ? CLASS_SYSTEM : class_name[0] == 'a' ? CLASS_AGENT : CLASS_USER;
}

static void count_by_class(struct ast_route *r, enum ast_metric metric,
                           struct ast_metric_cell **cells, struct ast_str principal)
{
    const char *name = ast_principal_class(principal);
    struct ast_metric_cell **cell = &cells[class_of(name)];
    if (!*cell) {
        struct ast_str labels[] = { ast_str_c(r->label), ast_str_c(name) };
        *cell = ast_metric_cell(metric, labels, AST_ARRAY_LEN(labels));
    }
    ast_metric_add(*cell, 1);
}

static void on_starved(void *arg, struct ast_str principal)
{
    struct ast_route *r = arg;
    count_by_class(r, AST_METRIC_ROUTE_STARVED, r->starved, principal);
}

static void on_drop(void *arg, enum bus_drop why, const struct ast_msg *msg)
{
    struct ast_route *r = arg;
    r->dropped_total++;
    r->dropped_recent++;
    count_by_class(r, AST_METRIC_ROUTE_EVICTIONS, r->evictions, msg->principal);
    if (r->lost)
        r->lost(r->arg, msg->principal);

    struct drop_log *log = &r->logs[why];
    int64_t now = atomic_load(&drop_clock)();
    if (log->has_spoken && now - log->spoke_ns < DROP_LOG_INTERVAL_NS) {
        log->silent++;
        return;
    }
    r->lines[why] = (struct drop_line){
        .msg = ast_msg_ref((struct ast_msg *)msg), /* only the count changes */
        .silent = log->silent,
        .total_bytes = r->queues.bytes,
    };
    *log = (struct drop_log){ .has_spoken = true, .spoke_ns = now };
}

static const char *const drop_texts[BUS_DROP_REASONS] = {
    [BUS_DROP_OVERSIZE] =
        "ipc::route: incoming message exceeds global byte budget, rejecting publish",
    [BUS_DROP_BYTES] = "ipc::route: global byte budget exhausted, dropping head of oldest queue",
    [BUS_DROP_CAP] = "ipc::route: per-principal queue cap reached, dropping oldest",
    [BUS_DROP_MEMORY] = "ipc::route: out of memory, message not queued",
};

/* Fields of spec 04 §17; `suppressed` counts what went without a line since the previous one. */
static void line_write(const struct ast_route *r, enum bus_drop why, const struct drop_line *line)
{
    struct ast_log_field fields[8];
    size_t n = 0;
    struct ast_str principal = line->msg->principal;
    fields[n++] = AST_F_SECURITY;
    fields[n++] = AST_F_CSTR("capsule", r->label);
    fields[n++] = AST_F_STR("principal", principal.n ? principal : AST_STR("<none>"));
    switch (why) {
    case BUS_DROP_OVERSIZE:
        fields[n++] = AST_F_U64("msg_size", ast_msg_cost(line->msg));
        fields[n++] = AST_F_U64("budget_bytes", AST_ROUTE_BUDGET);
        break;
    case BUS_DROP_BYTES:
    case BUS_DROP_MEMORY:
        fields[n++] = AST_F_STR("evicted_topic", line->msg->topic);
        fields[n++] = AST_F_U64("total_bytes", line->total_bytes);
        break;
    case BUS_DROP_CAP: fields[n++] = AST_F_U64("cap", AST_ROUTE_PER_PRINCIPAL); break;
    case BUS_DROP_REASONS: break;
    }
    if (line->silent)
        fields[n++] = AST_F_U64("suppressed", line->silent);
    if (ast_log_enabled(AST_LOG_ERROR, DROP_LOG_TARGET))
        ast_log_write(AST_LOG_ERROR, DROP_LOG_TARGET, fields, n, "%s", drop_texts[why]);
}

static void lines_write(const struct ast_route *r, struct drop_line lines[static BUS_DROP_REASONS])
{
    for (unsigned why = 0; why < BUS_DROP_REASONS; why++) {
        if (!lines[why].msg)
            continue;
        line_write(r, (enum bus_drop)why, &lines[why]);
        ast_msg_unref(lines[why].msg);
    }
}

/* The drops since the last line of each kind would go untold with the route. */
static void logs_flush(const struct ast_route *r,
                       const struct drop_log logs[static BUS_DROP_REASONS])
{
    for (unsigned why = 0; why < BUS_DROP_REASONS; why++)
        if (logs[why].silent)
            ast_log_fields(AST_LOG_ERROR, DROP_LOG_TARGET, drop_texts[why], AST_F_SECURITY,
                           AST_F_CSTR("capsule", r->label),
                           AST_F_U64("suppressed", logs[why].silent));
}

static void count_queued(struct ast_route *r) AST_REQUIRES(r->lock)
{
    atomic_store_explicit(&r->queued, r->queues.messages, memory_order_release);
}

/* --- Filling --------------------------------------------------------------------------------- */

/* Takes the reference. False: closed. */
static bool enqueue(struct ast_route *r, struct ast_msg *msg)
{
    struct drop_line lines[BUS_DROP_REASONS];
    for (size_t i = 0; i < BUS_DROP_REASONS; i++)
        lines[i].msg = NULL;
    ast_lock(&r->lock);
    /* Relaxed: close sets it before it takes the lock to discard what is queued. */
    bool is_open = !atomic_load_explicit(&r->sink.closed, memory_order_relaxed);
    if (is_open) {
        r->lines = lines;
        (void)bus_queues_push(&r->queues, msg); /* a refusal is counted and wakes too */
        r->lines = NULL;
        count_queued(r);
    }
    ast_unlock(&r->lock);
    if (!is_open)
        ast_msg_unref(msg);
    lines_write(r, lines);
    return is_open;
}

void bus_route_deliver(struct bus_sink *sink, struct ast_msg *msg)
{
    struct ast_route *r = AST_CONTAINER_OF(sink, struct ast_route, sink);
    if (!r->filter && !r->notify) {
        enqueue(r, msg);
        return;
    }
    if (!bus_sink_enter(sink)) {
        ast_msg_unref(msg);
        return;
    }
    if (r->filter && !r->filter(r->arg, msg))
        ast_msg_unref(msg);
    else if (enqueue(r, msg) && r->notify)
        r->notify(r->arg);
    bus_sink_leave(sink);
}

/* --- Life ------------------------------------------------------------------------------------ */

static void route_release(struct bus_sink *sink)
{
    struct ast_route *r = AST_CONTAINER_OF(sink, struct ast_route, sink);
    bus_queues_done(&r->queues);
    ast_lock_done(&r->lock);
    bus_sink_done(sink);
    free(r->label);
    free(r);
}

static void route_unref(struct ast_route *r)
{
    bus_sink_unref(&r->sink);
}
AST_DEFINE_AUTO(struct ast_route, route_unref)

enum ast_rc ast_route_open(struct ast_bus *bus, const struct ast_route_config *cfg,
                           struct ast_route **ret, struct ast_err *err)
{
    AST_ASSERT(cfg->pattern_count > 0);
    struct ast_route *bare = calloc(1, sizeof *bare);
    if (!bare)
        return ast_fail(err, AST_E_NO_MEMORY, "route");
    AST_AUTO(route_unref) struct ast_route *r = bare;
    r->sink.release = route_release;
    r->sink.scope_admits_system = cfg->scope_admits_system;
    r->filter = cfg->filter;
    r->notify = cfg->notify;
    r->lost = cfg->lost;
    r->arg = cfg->arg;
    ast_lock_init(&r->lock, AST_LOCK_queue);
    bus_queues_init(&r->queues);
    r->queues.on_drop = on_drop;
    r->queues.on_starved = on_starved;
    r->queues.arg = r;

    enum ast_rc rc =
        bus_sink_init(&r->sink, bus, cfg->patterns, cfg->pattern_count, cfg->scope, err);
    if (!rc && !(r->label = ast_str_dup(cfg->label)))
        rc = ast_fail(err, AST_E_NO_MEMORY, "route");
    if (!rc)
        rc = bus_sink_open(&r->sink, err);
    if (rc)
        return rc;
    gauges_register(r);
    *ret = ast_steal(&r);
    return AST_OK;
}

void ast_route_close(struct ast_route *r)
{
    if (!r)
        return;
    gauges_unregister(r);
    bus_sink_close(&r->sink);

    struct drop_log logs[BUS_DROP_REASONS];
    ast_lock(&r->lock);
    bus_queues_done(&r->queues); /* a late publisher finds the route closed */
    bus_queues_init(&r->queues);
    count_queued(r);
    memcpy(logs, r->logs, sizeof logs);
    ast_unlock(&r->lock);
    logs_flush(r, logs);
    route_unref(r);
}

/* --- Taking ---------------------------------------------------------------------------------- */

/* Whoever was told of a message sees it counted: the count is stored before notify runs. */
bool ast_route_empty(struct ast_route *r)
{
    return atomic_load_explicit(&r->queued, memory_order_acquire) == 0;
}

struct ast_msg *ast_route_take(struct ast_route *r)
{
    if (ast_route_empty(r))
        return NULL;
    AST_WITH_LOCK(&r->lock);
    struct ast_msg *m = bus_queues_take(&r->queues);
    count_queued(r);
    return m;
}

size_t ast_route_drain(struct ast_route *r, size_t budget_bytes, struct ast_msg **out, size_t max)
{
    if (ast_route_empty(r))
        return 0;
    AST_WITH_LOCK(&r->lock);
    size_t n = bus_queues_drain(&r->queues, budget_bytes, out, max);
    count_queued(r);
    return n;
}

size_t ast_route_take_envelope(struct ast_route *r, size_t budget_bytes, struct ast_msg **out,
                               size_t max)
{
    if (ast_route_empty(r))
        return 0;
    AST_WITH_LOCK(&r->lock);
    size_t n = bus_queues_take_envelope(&r->queues, budget_bytes, out, max);
    count_queued(r);
    return n;
}

void ast_route_stats(struct ast_route *r, struct ast_route_stats *ret)
{
    AST_WITH_LOCK(&r->lock);
    *ret = (struct ast_route_stats){
        .dropped_total = r->dropped_total,
        .dropped_recent = r->dropped_recent,
        .bytes = r->queues.bytes,
        .principals = r->queues.principals,
    };
    r->dropped_recent = 0;
}
