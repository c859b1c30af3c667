/* Publishing: count, look up, fill routes, call taps.
 *
 * The index is guarded by a lock cut into shards. A publisher takes only its thread's shard, for the
 * length of a look-up; opening and closing take them all. Nothing is called and no queue is filled
 * under it: the publisher leaves with references.
 *
 * A tap may publish. Such a message gets its number at once and is delivered after the outer one, so
 * every subscriber sees one thread's messages in publish order and taps never nest.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/log.h"
#include "bus/bus_priv.h"
#include "bus/metrics.h"
#include "bus/topic.h"

#include "base/banned.h"

#define SHARDS 16u

struct shard {
    /* Not ast_lock: a writer holds sixteen of one rank together. */
    _Alignas(64) pthread_mutex_t m;
};

/* Threads: any. `index` is read under one shard and written under `writers` and all shards. */
struct ast_bus {
    atomic_uint_least64_t seq;
    struct bus_index index;
    struct ast_lock writers;
    struct ast_lock idle_lock; /* for waiting until callbacks of a closed sink end */
    pthread_cond_t idle;
    struct shard shards[SHARDS];
};

/* Owner: whoever opened it; immutable after that. */
struct ast_tap {
    struct bus_sink sink;
    void (*fn)(void *arg, struct ast_msg *msg);
    void *arg;
    const char *label;
};

/* One publish under way on this thread. */
struct delivery {
    struct delivery *outer;
    const struct ast_bus *bus;
    struct ast_msg *waiting, **last; /* published from inside, oldest first, owned */
};

static _Thread_local struct delivery *under_way;
static _Thread_local const struct bus_sink *inside; /* the sink whose callback this thread runs */

/* --- The index lock --------------------------------------------------------------------------- */

static pthread_mutex_t *own_shard(struct ast_bus *bus)
{
    static atomic_uint next;
    static _Thread_local unsigned mine; /* 0: none yet */
    if (!mine)
        mine = atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) % SHARDS + 1;
    return &bus->shards[mine - 1].m;
}

static void mutex_lock(pthread_mutex_t *m)
{
    int rc = pthread_mutex_lock(m);
    AST_ASSERT(rc == 0);
}

static void mutex_unlock(pthread_mutex_t *m)
{
    int rc = pthread_mutex_unlock(m);
    AST_ASSERT(rc == 0);
}

static void write_begin(struct ast_bus *bus)
{
    ast_lock(&bus->writers);
    for (size_t i = 0; i < SHARDS; i++)
        mutex_lock(&bus->shards[i].m);
}

static void write_end(struct ast_bus *bus)
{
    for (size_t i = SHARDS; i-- > 0;)
        mutex_unlock(&bus->shards[i].m);
    ast_unlock(&bus->writers);
}

/* --- Sinks ------------------------------------------------------------------------------------ */

static bool copy_str(struct ast_str s, struct ast_str *ret)
{
    char *p = ast_str_dup(s);
    if (p)
        *ret = (struct ast_str){ p, s.n };
    return p != NULL;
}

static bool has_pattern(const struct bus_sink *sink, struct ast_str pattern)
{
    for (size_t i = 0; i < sink->entry_count; i++)
        if (ast_str_eq(sink->entries[i].pattern, pattern))
            return true;
    return false;
}

/* Distinct patterns without a star cannot match the same topic. */
static bool may_overlap(const struct bus_sink *sink, struct ast_str pattern)
{
    bool any_star = ast_str_find_byte(pattern, '*') != AST_STR_NPOS;
    for (size_t i = 0; i < sink->entry_count; i++)
        any_star |= ast_str_find_byte(sink->entries[i].pattern, '*') != AST_STR_NPOS;
    return any_star && sink->entry_count > 0;
}

enum ast_rc bus_sink_init(struct bus_sink *sink, struct ast_bus *bus,
                          const struct ast_str *patterns, size_t pattern_count,
                          struct ast_str scope, struct ast_err *err)
{
    atomic_init(&sink->refs, 1);
    sink->bus = bus;
    sink->entries = calloc(pattern_count, sizeof *sink->entries);
    if (!sink->entries || (scope.n && !copy_str(scope, &sink->scope)))
        return ast_fail(err, AST_E_NO_MEMORY, "subscription");
    for (size_t i = 0; i < pattern_count; i++) {
        if (has_pattern(sink, patterns[i]))
            continue;
        struct bus_entry *e = &sink->entries[sink->entry_count];
        if (!copy_str(patterns[i], &e->pattern))
            return ast_fail(err, AST_E_NO_MEMORY, "subscription");
        ast_list_init(&e->link);
        ast_list_init(&e->system_link);
        e->sink = sink;
        e->has_rivals = may_overlap(sink, patterns[i]);
        sink->entry_count++;
    }
    return AST_OK;
}

void bus_sink_done(struct bus_sink *sink)
{
    for (size_t i = 0; i < sink->entry_count; i++)
        free((char *)sink->entries[i].pattern.p);
    free(sink->entries);
    free((char *)sink->scope.p);
}

enum ast_rc bus_sink_open(struct bus_sink *sink, struct ast_err *err)
{
    write_begin(sink->bus);
    enum ast_rc rc = bus_index_add(&sink->bus->index, sink, err);
    write_end(sink->bus);
    return rc;
}

void bus_sink_unref(struct bus_sink *sink)
{
    if (atomic_fetch_sub_explicit(&sink->refs, 1, memory_order_acq_rel) == 1)
        sink->release(sink);
}

/* Pairs with bus_sink_close(): either we see `closed`, or it sees us running. */
bool bus_sink_enter(struct bus_sink *sink)
{
    atomic_fetch_add(&sink->running, 1);
    if (!atomic_load(&sink->closed)) {
        inside = sink;
        return true;
    }
    bus_sink_leave(sink);
    return false;
}

void bus_sink_leave(struct bus_sink *sink)
{
    struct ast_bus *bus = sink->bus;
    inside = NULL;
    if (atomic_fetch_sub(&sink->running, 1) == 1 && atomic_load(&sink->closed)) {
        ast_lock(&bus->idle_lock);
        pthread_cond_broadcast(&bus->idle);
        ast_unlock(&bus->idle_lock);
    }
}

void bus_sink_close(struct bus_sink *sink)
{
    AST_ASSERT(inside != sink); /* it would wait for itself */
    struct ast_bus *bus = sink->bus;
    write_begin(bus);
    bus_index_remove(&bus->index, sink);
    write_end(bus);

    atomic_store(&sink->closed, true);
    ast_lock(&bus->idle_lock);
    while (atomic_load(&sink->running) > 0)
        (void)ast_cond_wait(&bus->idle, &bus->idle_lock, -1); /* no deadline, so no timeout */
    ast_unlock(&bus->idle_lock);
}

/* --- Publishing ------------------------------------------------------------------------------- */

static void count_publish(const struct ast_msg *msg)
{
    static _Atomic(struct ast_metric_cell *) cells[AST_EVENT_KIND_COUNT];
    enum ast_event_kind kind = bus_event_kind(msg);
    struct ast_metric_cell *cell = atomic_load_explicit(&cells[kind], memory_order_acquire);
    if (!cell) {
        struct ast_str label = ast_event_type(kind);
        cell = ast_metric_cell(AST_METRIC_BUS_PUBLISHED, &label, 1);
        atomic_store_explicit(&cells[kind], cell, memory_order_release);
    }
    ast_metric_add(cell, 1);
}

static void tap_call(struct ast_tap *tap, struct ast_msg *msg)
{
    if (!bus_sink_enter(&tap->sink))
        return;
    tap->fn(tap->arg, msg);
    bus_sink_leave(&tap->sink);
}

/* Takes the reference. Routes first: whoever is woken by a tap and publishes in reply comes later in
 * every route. A sole route gets our reference: its consumer may be at work on the message already,
 * and this thread has no reason to touch it again. */
static void deliver(struct ast_bus *bus, struct ast_msg *msg)
{
    struct bus_hits hits;
    bus_hits_init(&hits);
    pthread_mutex_t *shard = own_shard(bus);
    mutex_lock(shard);
    bus_index_collect(&bus->index, msg, &hits);
    mutex_unlock(shard);

    bool is_sole = hits.n == 1 && !hits.v[0]->is_tap;
    size_t taps = 0;
    for (size_t i = 0; i < hits.n; i++) {
        struct bus_sink *sink = hits.v[i];
        if (sink->is_tap) {
            hits.v[taps++] = sink;
            continue;
        }
        bus_route_deliver(sink, is_sole ? msg : ast_msg_ref(msg));
        bus_sink_unref(sink);
    }
    for (size_t i = 0; i < taps; i++) {
        tap_call((struct ast_tap *)hits.v[i], msg);
        bus_sink_unref(hits.v[i]);
    }
    if (!is_sole)
        ast_msg_unref(msg);
    if (hits.v != hits.few)
        free(hits.v);
    if (hits.lost)
        ast_log_error("astrid.bus", "out of memory: a message missed %zu subscribers", hits.lost);
}

static struct delivery *delivery_under_way(const struct ast_bus *bus)
{
    struct delivery *d = under_way;
    while (d && d->bus != bus)
        d = d->outer;
    return d;
}

uint64_t ast_bus_publish(struct ast_bus *bus, struct ast_msg *msg)
{
    uint64_t seq = 0;
    if (msg->is_ipc)
        msg->seq = seq = atomic_fetch_add_explicit(&bus->seq, 1, memory_order_relaxed) + 1;
    count_publish(msg);

    msg->bus_next = NULL;
    struct delivery *outer = delivery_under_way(bus);
    if (outer) {
        *outer->last = msg;
        outer->last = &msg->bus_next;
        return seq;
    }
    struct delivery d = { .outer = under_way, .bus = bus, .waiting = msg };
    d.last = &msg->bus_next;
    under_way = &d;
    while ((msg = d.waiting)) {
        d.waiting = msg->bus_next;
        if (!d.waiting)
            d.last = &d.waiting; /* what is published meanwhile hangs here */
        deliver(bus, msg);
    }
    under_way = d.outer;
    return seq;
}

/* --- Taps ------------------------------------------------------------------------------------- */

static void tap_release(struct bus_sink *sink)
{
    bus_sink_done(sink);
    free(AST_CONTAINER_OF(sink, struct ast_tap, sink));
}

static void tap_unref(struct ast_tap *tap)
{
    bus_sink_unref(&tap->sink);
}
AST_DEFINE_AUTO(struct ast_tap, tap_unref)

enum ast_rc ast_tap_open(struct ast_bus *bus, const char *label, struct ast_str pattern,
                         void (*fn)(void *arg, struct ast_msg *msg), void *arg,
                         struct ast_tap **ret, struct ast_err *err)
{
    struct ast_tap *bare = calloc(1, sizeof *bare);
    if (!bare)
        return ast_fail(err, AST_E_NO_MEMORY, "tap '%s'", label);
    AST_AUTO(tap_unref) struct ast_tap *tap = bare;
    tap->sink.is_tap = true;
    tap->sink.release = tap_release;
    tap->fn = fn;
    tap->arg = arg;
    tap->label = label;
    enum ast_rc rc = bus_sink_init(&tap->sink, bus, &pattern, 1, /* scope= */ AST_STR_NONE, err);
    if (!rc)
        rc = bus_sink_open(&tap->sink, err);
    if (rc)
        return ast_wrap(err, rc, "tap '%s'", label);
    *ret = ast_steal(&tap);
    return AST_OK;
}

void ast_tap_close(struct ast_tap *tap)
{
    if (!tap)
        return;
    bus_sink_close(&tap->sink);
    tap_unref(tap);
}

/* --- The bus itself --------------------------------------------------------------------------- */

enum ast_rc ast_bus_new(struct ast_bus **ret, struct ast_err *err)
{
    struct ast_bus *bus = aligned_alloc(_Alignof(struct ast_bus), sizeof *bus);
    if (!bus)
        return ast_fail(err, AST_E_NO_MEMORY, "bus");
    memset(bus, 0, sizeof *bus);
    enum ast_rc rc = bus_index_init(&bus->index, err);
    if (rc) {
        free(bus);
        return rc;
    }
    atomic_init(&bus->seq, 0);
    ast_lock_init(&bus->writers, AST_LOCK_bus);
    ast_lock_init(&bus->idle_lock, AST_LOCK_bus);
    ast_cond_init(&bus->idle);
    for (size_t i = 0; i < SHARDS; i++)
        pthread_mutex_init(&bus->shards[i].m, NULL); /* never fails for a plain mutex */
    *ret = bus;
    return AST_OK;
}

void ast_bus_free(struct ast_bus *bus)
{
    if (!bus)
        return;
    for (size_t i = 0; i < SHARDS; i++)
        pthread_mutex_destroy(&bus->shards[i].m);
    pthread_cond_destroy(&bus->idle);
    ast_lock_done(&bus->idle_lock);
    ast_lock_done(&bus->writers);
    bus_index_done(&bus->index);
    free(bus);
}
