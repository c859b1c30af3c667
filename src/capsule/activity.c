/* Snapshots of what goes on; see activity.h.
 *
 * Principals without a row are only summed: a heap of the asked size keeps the busiest, its
 * least busy one on top, so a hundred thousand principals cost one comparison each.
 */
#include "capsule/activity.h"

#include <stdlib.h>

#include "base/fs.h"
#include "base/map.h"
#include "bus/route.h"
#include "capsule/registry_priv.h"

#include "base/banned.h"

const struct ast_str ast_activity_sorts[AST_ACTIVITY_SORT_COUNT] = {
#define X(id, name) { name, sizeof name - 1 },
    AST_ACTIVITY_SORT_MAP(X)
#undef X
};

/* A principal's mailboxes, summed. */
struct backlog {
    uint64_t waiting, running;
};

/* A snapshot in the making. Owner: the asking thread. */
struct work {
    struct ast_capsules *r;
    const struct ast_activity_ask *ask;
    struct ast_activity *a;
    struct ast_map by_principal; /* name -> struct backlog, owned */
    size_t rows;                 /* of a->principals; a heap until the end */
};

static void work_done(struct work *w)
{
    void *backlog;
    for (size_t pos = 0; ast_map_next(&w->by_principal, &pos, NULL, &backlog);)
        free(backlog);
    ast_map_done(&w->by_principal);
}
AST_DEFINE_AUTO_VALUE(struct work, work_done)

void ast_activity_free(struct ast_activity *a)
{
    if (!a)
        return;
    free(a->capsules);
    free(a->principals);
    free(a);
}

/* --- Capsules --------------------------------------------------------------------------------- */

static uint64_t read(const atomic_uint_least64_t *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

static uint64_t evicted(struct ast_str id)
{
    static const struct ast_str classes[] = { AST_STR("system"), AST_STR("agent"),
                                              AST_STR("user") };
    uint64_t n = 0;
    for (size_t i = 0; i < AST_ARRAY_LEN(classes); i++)
        n += ast_metric_value(
            ast_metric_cell(AST_METRIC_ROUTE_EVICTIONS, (struct ast_str[]){ id, classes[i] }, 2));
    return n;
}

static void read_seat(struct capsule_seat *seat, const struct capsule *c, bool everybody,
                      struct ast_activity_capsule *ret)
{
    struct ast_pool_stats pool = { 0 };
    bool is_starting = atomic_load(&c->ready) == CAPSULE_STARTING;

    *ret = (struct ast_activity_capsule){
        .id = seat->id,
        .state = c->failed || capsule_loop_is_dead(c) ? AST_ACTIVITY_FAILED
                 : is_starting                        ? AST_ACTIVITY_STARTING
                                                      : AST_ACTIVITY_READY,
        .is_run_loop = c->env.is_run_loop,
    };
    if (!everybody)
        return;
    if (c->pool)
        ast_pool_stats(c->pool, &pool);
    ret->instances = pool.live;
    ret->restarts = read(&seat->restarts);
    ret->f = (struct ast_activity_figures){
        .calls = read(&seat->calls),
        .failures = read(&seat->traps),
        .dropped = read(&seat->dropped) + evicted(seat->id),
        .cpu_fuel = read(&seat->fuel),
        .memory_peak_bytes = read(&seat->memory_peak_bytes),
        .queued = ast_routes_queued(seat->id),
    };
}

static struct ast_activity_capsule *row_of(struct ast_activity *a, const struct capsule_seat *seat)
{
    size_t low = 0, high = a->capsule_count; /* ascending ids, as the registry keeps them */
    while (low < high) {
        size_t middle = (low + high) / 2;
        int cmp = ast_str_cmp(a->capsules[middle].id, seat->id);
        if (cmp == 0)
            return &a->capsules[middle];
        if (cmp < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static enum ast_rc read_seats(struct work *w, struct ast_err *err)
{
    size_t n;
    AST_AUTO(ast_cfree) struct capsule_seat **seats = registry_seats(w->r, &n);
    struct ast_activity *a = w->a;

    a->capsules = calloc(n + 1, sizeof *a->capsules);
    if (!seats || !a->capsules)
        return ast_fail(err, AST_E_NO_MEMORY, "activity of capsules");
    for (size_t i = 0; i < n; i++) {
        AST_AUTO(capsule_unref) struct capsule *c = seat_current(seats[i]);
        if (!c) /* unloaded */
            continue;
        struct ast_activity_capsule *row = &a->capsules[a->capsule_count++];
        read_seat(seats[i], c, a->everybody, row);
        if (!a->everybody) {
            struct mailbox_load load;
            mailboxes_look(&w->r->dispatch.boxes, seats[i], w->ask->only, &load);
            row->f.queued = load.waiting;
            row->f.running = load.running;
        }
    }
    a->capsules_total = a->capsule_count;
    return AST_OK;
}

/* --- Mailboxes -------------------------------------------------------------------------------- */

static bool add_backlog(struct work *w, const struct mailbox_load *load)
{
    struct ast_activity_capsule *row = row_of(w->a, load->seat);
    const struct ast_principal *p = load->principal.n ? &load->principal : &w->r->owner;
    struct ast_str name = ast_principal_str(p);
    struct backlog *b = ast_map_get(&w->by_principal, name);

    if (row) {
        row->f.queued += load->waiting;
        row->f.running += load->running;
    }
    if (!b) {
        b = calloc(1, sizeof *b);
        if (!b || !ast_map_set(&w->by_principal, name, b, NULL)) {
            free(b);
            return false;
        }
    }
    b->waiting += load->waiting;
    b->running += load->running;
    return true;
}

static enum ast_rc read_mailboxes(struct work *w, struct ast_err *err)
{
    AST_AUTO(ast_cfree) struct mailbox_load *loads = NULL;
    size_t cap = 0;

    for (size_t shard = 0; shard < MAILBOX_SHARDS;) {
        size_t n = mailboxes_copy(&w->r->dispatch.boxes, shard, loads, cap);
        if (n > cap) { /* it may have grown again by the next try */
            free(loads);
            cap = n + n / 2 + 16;
            loads = malloc(cap * sizeof *loads);
            if (!loads)
                return ast_fail(err, AST_E_NO_MEMORY, "activity of mailboxes");
            continue;
        }
        for (size_t i = 0; i < n; i++)
            if (!add_backlog(w, &loads[i]))
                return ast_fail(err, AST_E_NO_MEMORY, "activity of mailboxes");
        shard++;
    }
    return AST_OK;
}

/* --- Principals ------------------------------------------------------------------------------- */

/* What decides first, and what decides between equals. */
static void keys_of(const struct ast_activity_principal *p, enum ast_activity_sort sort,
                    uint64_t ret[static 2])
{
    ret[0] = ret[1] = p->recent_fuel;
    switch (sort) {
    case AST_ACTIVITY_SORT_CALLS:
        ret[0] = p->recent_calls;
        ret[1] = p->f.calls;
        break;
    case AST_ACTIVITY_SORT_MEMORY: ret[0] = p->f.memory_peak_bytes; break;
    case AST_ACTIVITY_SORT_QUEUE: ret[0] = p->f.queued + p->f.running; break;
    case AST_ACTIVITY_SORT_DROPS: ret[0] = p->f.dropped; break;
    case AST_ACTIVITY_SORT_CPU:
    case AST_ACTIVITY_SORT_COUNT: ret[1] = p->f.cpu_fuel; break;
    }
}

static bool is_busier(const struct ast_activity_principal *a,
                      const struct ast_activity_principal *b, enum ast_activity_sort sort)
{
    uint64_t x[2], y[2];
    keys_of(a, sort, x);
    keys_of(b, sort, y);
    if (x[0] != y[0])
        return x[0] > y[0];
    if (x[1] != y[1])
        return x[1] > y[1];
    return ast_str_cmp(ast_principal_str(&a->name), ast_principal_str(&b->name)) < 0;
}

static void add_other(struct ast_activity *a, const struct ast_activity_principal *p)
{
    struct ast_activity_figures *o = &a->other;
    o->calls += p->f.calls;
    o->failures += p->f.failures;
    o->dropped += p->f.dropped;
    if (__builtin_add_overflow(o->cpu_fuel, p->f.cpu_fuel, &o->cpu_fuel))
        o->cpu_fuel = UINT64_MAX;
    o->memory_peak_bytes = AST_MAX(o->memory_peak_bytes, p->f.memory_peak_bytes);
    o->queued += p->f.queued;
    o->running += p->f.running;
    a->other_throttled += p->throttled;
}

static void swap(struct ast_activity_principal *a, struct ast_activity_principal *b)
{
    struct ast_activity_principal c = *a;
    *a = *b;
    *b = c;
}

static void sink(struct ast_activity_principal *heap, size_t n, enum ast_activity_sort sort)
{
    for (size_t at = 0;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < n; child++)
            if (is_busier(&heap[least], &heap[child], sort))
                least = child;
        if (least == at)
            return;
        swap(&heap[at], &heap[least]);
        at = least;
    }
}

static void rise(struct ast_activity_principal *heap, size_t at, enum ast_activity_sort sort)
{
    for (size_t parent; at > 0; at = parent) {
        parent = (at - 1) / 2;
        if (!is_busier(&heap[parent], &heap[at], sort))
            return;
        swap(&heap[parent], &heap[at]);
    }
}

static void add_principal(struct work *w, const struct ast_activity_principal *p)
{
    struct ast_activity *a = w->a;
    enum ast_activity_sort sort = w->ask->sort;

    a->principals_total++;
    if (w->rows < w->ask->limit) {
        a->principals[w->rows] = *p;
        rise(a->principals, w->rows++, sort);
        return;
    }
    if (!w->rows || !is_busier(p, &a->principals[0], sort)) {
        add_other(a, p);
        return;
    }
    add_other(a, &a->principals[0]);
    a->principals[0] = *p;
    sink(a->principals, w->rows, sort);
}

static struct ast_activity_principal from_use(const struct capsule_use *u)
{
    return (struct ast_activity_principal){
        .name = u->principal,
        .throttled = u->throttled,
        .f = { .calls = u->calls,
               .failures = u->failures,
               .dropped = u->dropped,
               .cpu_fuel = u->fuel,
               .memory_peak_bytes = u->memory_peak_bytes },
        .recent_calls = u->recent_calls,
        .recent_fuel = u->recent_fuel,
    };
}

static enum ast_rc read_ledger(struct work *w, struct ast_err *err)
{
    AST_AUTO(ast_cfree)
    struct capsule_use *uses = malloc(capsule_ledger_shard_max() * sizeof *uses);
    struct capsule_use gone;
    size_t n;

    if (!uses)
        return ast_fail(err, AST_E_NO_MEMORY, "activity of principals");
    for (unsigned shard = 0;
         capsule_ledger_copy(w->r->ledger, shard, w->a->taken_ns, uses, &n, &gone); shard++) {
        struct ast_activity_principal p = from_use(&gone);
        add_other(w->a, &p);
        for (size_t i = 0; i < n; i++) {
            p = from_use(&uses[i]);
            struct backlog *b = ast_map_remove(&w->by_principal, ast_principal_str(&p.name));
            if (b) {
                p.f.queued = b->waiting;
                p.f.running = b->running;
                free(b);
            }
            add_principal(w, &p);
        }
    }
    return AST_OK;
}

/* Principals whose first call has not ended. */
static void read_newcomers(struct work *w)
{
    struct ast_str name;
    void *value;

    for (size_t pos = 0; ast_map_next(&w->by_principal, &pos, &name, &value);) {
        const struct backlog *b = value;
        struct ast_activity_principal p = { .f = { .queued = b->waiting, .running = b->running } };
        p.name.n = (uint8_t)name.n;
        memcpy(p.name.name, name.p, name.n);
        add_principal(w, &p);
    }
}

static void read_one(struct work *w)
{
    struct capsule_use use;
    struct ast_activity *a = w->a;

    capsule_ledger_use(w->r->ledger, w->ask->only, a->taken_ns, &use);
    struct ast_activity_principal p = from_use(&use);
    for (size_t i = 0; i < a->capsule_count; i++) {
        p.f.queued += a->capsules[i].f.queued;
        p.f.running += a->capsules[i].f.running;
    }
    add_principal(w, &p);
}

/* --- Together --------------------------------------------------------------------------------- */

static int by_name(const void *left, const void *right)
{
    const struct ast_activity_principal *a = left, *b = right;
    return ast_str_cmp(ast_principal_str(&a->name), ast_principal_str(&b->name));
}

enum ast_rc ast_capsules_activity(struct ast_capsules *r, const struct ast_activity_ask *ask,
                                  struct ast_activity **ret, struct ast_err *err)
{
    AST_ASSERT(ask->limit <= AST_ACTIVITY_MAX_ROWS && ask->only.n <= AST_PRINCIPAL_MAX);
    AST_AUTO(ast_activity_free) struct ast_activity *a = calloc(1, sizeof *a);
    AST_AUTO(work_done) struct work w = { .r = r, .ask = ask, .a = a };

    if (!a || !(a->principals = calloc(ask->limit + 1, sizeof *a->principals)))
        return ast_fail(err, AST_E_NO_MEMORY, "activity");
    a->taken_ns = ast_mono_ns();
    a->everybody = ask->only.n == 0;
    enum ast_rc rc = read_seats(&w, err);
    if (!rc && a->everybody)
        rc = read_mailboxes(&w, err);
    if (!rc && a->everybody)
        rc = read_ledger(&w, err);
    if (rc)
        return rc;
    if (a->everybody)
        read_newcomers(&w);
    else
        read_one(&w);
    a->principal_count = w.rows;
    a->capsule_count = AST_MIN(a->capsule_count, (size_t)ask->limit);
    qsort(a->principals, a->principal_count, sizeof *a->principals, by_name);
    *ret = ast_steal(&a);
    return AST_OK;
}

/* --- Metrics ---------------------------------------------------------------------------------- */

/* No principal is a label (spec 03 §24.2): their number is told, the rest is in the snapshot. */
void activity_scrape(void *arg)
{
    struct ast_capsules *r = arg;
    AST_AUTO(ast_activity_free) struct ast_activity *a = calloc(1, sizeof *a);
    AST_AUTO(work_done) struct work w = { .r = r, .a = a };

    ast_metric_set(ast_metric_cell(AST_METRIC_PRINCIPALS_KNOWN, NULL, 0),
                   (int64_t)capsule_ledger_count(r->ledger));
    if (!a)
        return;
    a->everybody = true;
    if (read_seats(&w, NULL) || read_mailboxes(&w, NULL)) /* no memory: the old figures stay */
        return;
    for (size_t i = 0; i < a->capsule_count; i++) {
        const struct ast_str *id = &a->capsules[i].id;
        const struct ast_activity_figures *f = &a->capsules[i].f;
        ast_metric_raise(ast_metric_cell(AST_METRIC_CAPSULE_FUEL, id, 1), f->cpu_fuel);
        ast_metric_raise(ast_metric_cell(AST_METRIC_CAPSULE_FAILURES, id, 1), f->failures);
        ast_metric_set(ast_metric_cell(AST_METRIC_CAPSULE_QUEUED, id, 1), (int64_t)f->queued);
        ast_metric_set(ast_metric_cell(AST_METRIC_CAPSULE_RUNNING, id, 1), (int64_t)f->running);
        ast_metric_set(ast_metric_cell(AST_METRIC_CAPSULE_MEMORY_PEAK, id, 1),
                       (int64_t)f->memory_peak_bytes);
    }
}
