/* The background loops, all timers of the main loop (spec 01 §18, 04 §15): the watchdog tick, capsule health, idle shutdown
 * and the bus monitor. Each does little; what blocks goes to the loader. */
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "base/vec.h"
#include "bus/event.h"
#include "bus/metrics.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

#define WATCHDOG_MS          5000u
#define HEALTH_MS            10000u
#define BUS_MONITOR_MS       5000u
#define STORM_EVENTS_PER_SEC 100.0
#define STORM_TOPICS         5u
#define BUS_MONITOR_MAX_KEYS 10000u

/* Counts of one window. Owner: any publishing thread, under `lock`. */
struct bus_counts {
    struct ast_lock lock;
    struct ast_map keys AST_GUARDED_BY(lock); /* topic or event type -> count as uintptr_t */
    uint64_t total AST_GUARDED_BY(lock), other AST_GUARDED_BY(lock);
    int64_t began_ns;
};

/* Owner: main loop. */
struct kernel_monitors {
    struct ast_kernel *k;
    struct ast_timer *watchdog, *health, *bus, *idle;
    struct ast_tap *tap;
    struct bus_counts counts;
    bool probing; /* a probe is queued or running on the loader */
    struct kernel_idle_plan idle_plan;
    int64_t idle_since_ns;
};

static void tick(const char *loop)
{
    struct ast_str label = ast_str_c(loop);
    ast_metric_add(ast_metric_cell(AST_METRIC_BACKGROUND_TICKS, &label, 1), 1);
}

/* ---- watchdog ---- */

static void on_watchdog(void *arg)
{
    struct kernel_monitors *m = arg;
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(128);
    struct ast_uuid source = ast_uuid_v4();

    ast_buf_addf(&body, "{\"timestamp_ms\":%lld}", (long long)(ast_wall_ns() / AST_NS_PER_MS));
    kernel_publish(m->k, AST_STR("astrid.v1.watchdog.tick"), AST_PAYLOAD_CUSTOM,
                   ast_buf_view(&body), &source, "kernel");
    tick("react_watchdog");
}

/* ---- capsule health ---- */

struct probe_job {
    struct kernel_job job;
    struct kernel_monitors *m;
    struct ast_post done;
};

static void on_probe_done(struct ast_post *post)
{
    struct probe_job *p = AST_CONTAINER_OF(post, struct probe_job, done);
    p->m->probing = false;
    free(p);
}

static void run_probe(struct kernel_job *job)
{
    struct probe_job *p = AST_CONTAINER_OF(job, struct probe_job, job);
    int64_t now = ast_mono_ns();

    ast_capsules_probe(p->m->k->capsules, now);
    ast_capsules_trim(p->m->k->capsules, now);
    p->done.fn = on_probe_done;
    ast_loop_post(p->m->k->loop, &p->done);
}

static void on_health(void *arg)
{
    struct kernel_monitors *m = arg;
    struct probe_job *p = m->probing ? NULL : calloc(1, sizeof *p);

    tick("capsule_health");
    if (!p)
        return; /* the previous probe still runs (a slow install), or no memory: the next tick tries again */
    p->m = m;
    p->job.run = run_probe;
    m->probing = kernel_loader_post(&m->k->loader, &p->job);
    if (!m->probing)
        free(p);
}

/* ---- idle shutdown (spec 01 §16.6) ---- */

static void on_idle(void *arg)
{
    struct kernel_monitors *m = arg;
    int64_t now = ast_mono_ns();

    tick("idle");
    if (!kernel_connections_idle(&m->k->connections) ||
        ast_capsules_have_uplink_tables(m->k->capsules)) {
        m->idle_since_ns = now;
        return;
    }
    if (now - m->idle_since_ns < m->idle_plan.timeout_ns)
        return;
    ast_log_info(KERNEL_TARGET, "Idle timeout reached, initiating shutdown");
    ast_timer_stop(m->idle);
    kernel_ask_stop(m->k, "idle_timeout");
}

/* ---- bus monitor (spec 04 §15.3) ---- */

static void on_event(void *arg, struct ast_msg *msg)
{
    struct bus_counts *c = arg;
    AST_WITH_LOCK(&c->lock);

    c->total++;
    uintptr_t n = (uintptr_t)ast_map_get(&c->keys, msg->topic);
    if ((n == 0 && c->keys.n >= BUS_MONITOR_MAX_KEYS) ||
        !ast_map_set(&c->keys, msg->topic, (void *)(n + 1), NULL))
        c->other++;
}

struct hot_topic {
    char *topic; /* owned */
    uint64_t count;
};

static int cmp_hot(const void *a, const void *b)
{
    const struct hot_topic *x = a, *y = b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return strcmp(x->topic, y->topic);
}

static void report_storm(struct ast_map *keys, uint64_t other, uint64_t total, double rate)
{
    AST_VEC(struct hot_topic) hot = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(4096);
    size_t pos = 0;
    struct ast_str key;
    void *value;

    while (ast_map_next(keys, &pos, &key, &value)) {
        struct hot_topic h = { ast_str_dup(key), (uintptr_t)value };
        if (!h.topic || !ast_vec_push(&hot, h))
            free(h.topic);
    }
    if (other) {
        struct hot_topic h = { ast_str_dup(AST_STR("(other)")), other };
        if (!h.topic || !ast_vec_push(&hot, h))
            free(h.topic);
    }
    if (hot.n)
        qsort(hot.v, hot.n, sizeof *hot.v, cmp_hot);
    for (size_t i = 0; i < hot.n && i < STORM_TOPICS; i++)
        ast_buf_addf(&text, "%s%s=%llu", i ? ", " : "", hot.v[i].topic,
                     (unsigned long long)hot.v[i].count);
    ast_log_fields(
        AST_LOG_WARN, KERNEL_TARGET,
        "Event bus storm detected \xe2\x80\x94 sustained high publish rate (likely a feedback loop); hottest "
        "topics listed by volume",
        AST_F_F64("events_per_sec", rate), AST_F_U64("window_total", total),
        AST_F_STR("top_topics", ast_buf_view(&text)));
    ast_vec_each (&hot, h)
        free(h->topic);
    ast_vec_done(&hot);
}

static void on_bus_window(void *arg)
{
    struct kernel_monitors *m = arg;
    struct ast_map keys;
    uint64_t total, other;
    int64_t now = ast_mono_ns(), began;

    tick("bus_monitor");
    {
        AST_WITH_LOCK(&m->counts.lock);
        keys = m->counts.keys;
        m->counts.keys = (struct ast_map){ 0 };
        total = m->counts.total;
        other = m->counts.other;
        m->counts.total = m->counts.other = 0;
        began = m->counts.began_ns;
        m->counts.began_ns = now;
    }
    double secs = (double)AST_MAX(now - began, INT64_C(1)) / (double)AST_NS_PER_SEC;
    double rate = (double)total / secs;
    if (rate >= STORM_EVENTS_PER_SEC)
        report_storm(&keys, other, total, rate);
    else if (total)
        ast_log_debug(KERNEL_TARGET, "Event bus activity window_total=%llu",
                      (unsigned long long)total);
    ast_map_done(&keys);
}

/* ---- life ---- */

enum ast_rc kernel_monitors_start(struct ast_kernel *k, struct kernel_monitors **ret,
                                  struct ast_err *err)
{
    struct kernel_monitors *m = calloc(1, sizeof *m);
    if (!m)
        return ast_fail(err, AST_E_NO_MEMORY, "monitors");
    m->k = k;
    ast_lock_init(&m->counts.lock, AST_LOCK_ledger);
    m->counts.began_ns = m->idle_since_ns = ast_mono_ns();
    m->idle_plan = kernel_idle_plan(k->ephemeral, getenv("ASTRID_IDLE_TIMEOUT_SECS"));

    m->watchdog = ast_timer_new(k->loop, on_watchdog, m);
    m->health = ast_timer_new(k->loop, on_health, m);
    m->bus = ast_timer_new(k->loop, on_bus_window, m);
    m->idle = ast_timer_new(k->loop, on_idle, m);
    enum ast_rc rc = m->watchdog && m->health && m->bus && m->idle
                         ? AST_OK
                         : ast_fail(err, AST_E_NO_MEMORY, "monitors");
    if (!rc)
        rc = ast_tap_open(k->bus, "bus_monitor", AST_STR_NONE, on_event, &m->counts, &m->tap, err);
    if (rc) {
        kernel_monitors_stop(m);
        return rc;
    }
    ast_timer_start(m->watchdog, WATCHDOG_MS, WATCHDOG_MS);
    ast_timer_start(m->health, HEALTH_MS, HEALTH_MS);
    ast_timer_start(m->bus, BUS_MONITOR_MS, BUS_MONITOR_MS);
    if (m->idle_plan.enabled)
        ast_timer_start(m->idle, m->idle_plan.first_ms, m->idle_plan.period_ms);
    *ret = m;
    return AST_OK;
}

void kernel_monitors_stop(struct kernel_monitors *m)
{
    if (!m)
        return;
    ast_timer_close(m->watchdog);
    ast_timer_close(m->health);
    ast_timer_close(m->bus);
    ast_timer_close(m->idle);
    ast_tap_close(m->tap);
    ast_map_done(&m->counts.keys);
    ast_lock_done(&m->counts.lock);
    free(m);
}
