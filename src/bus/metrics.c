/* The metrics registry: cells that count without a lock, and the text Prometheus reads.
 *
 * A cell is made once per label combination and never freed, so whoever looked it up may keep it.
 * The lock guards only the tables of cells.
 */
#include "bus/metrics.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/map.h"
#include "base/thread.h"
#include "base/vec.h"
#include "bus/metrics_priv.h"

#include "base/banned.h"

#define MAX_CELLS        10000u /* per family */
#define MAX_LABEL_BYTES  256u   /* of one value; the rest is cut */
#define MAX_LABEL_TEXT   8192u
#define MAX_SCRAPE_HOOKS 32u
#define MAX_BUCKETS      128u

enum metric_type { COUNTER, GAUGE, HISTOGRAM, SUMMARY };

static const char *const type_names[] = {
    [COUNTER] = "counter", [GAUGE] = "gauge", [HISTOGRAM] = "histogram", [SUMMARY] = "summary"
};

struct bucket {
    uint64_t ns;    /* inclusive */
    const char *le; /* in seconds */
};

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define S  UINT64_C(1000000000)

/* Spec 03 §25.1. */
static const struct bucket gateway_buckets[] = {
    { 5 * MS, "0.005" },  { 10 * MS, "0.01" },  { 25 * MS, "0.025" }, { 50 * MS, "0.05" },
    { 100 * MS, "0.1" },  { 250 * MS, "0.25" }, { 500 * MS, "0.5" },  { 1 * S, "1" },
    { 2500 * MS, "2.5" }, { 5 * S, "5" },       { 10 * S, "10" },
};
_Static_assert(AST_ARRAY_LEN(gateway_buckets) < MAX_BUCKETS, "room for +Inf");

#define GATEWAY_BUCKETS AST_ARRAY_LEN(gateway_buckets)

/* Summaries count in four steps an octave, from a microsecond to eighteen minutes; below and above all is one. */
#define LOW_BITS  10u
#define OCTAVES   30u
#define STEP_BITS 2u
#define STEPS     (1u << STEP_BITS)
#define SLOTS     (OCTAVES * STEPS + 2u)
_Static_assert(SLOTS <= MAX_BUCKETS, "room for a summary");

static size_t slot_of(uint64_t ns)
{
    if (ns < UINT64_C(1) << LOW_BITS)
        return 0;
    unsigned top = 63u - (unsigned)__builtin_clzll(ns);
    if (top >= LOW_BITS + OCTAVES)
        return SLOTS - 1;
    return 1 + (size_t)(top - LOW_BITS) * STEPS + ((ns >> (top - STEP_BITS)) & (STEPS - 1));
}

/* The middle of what a slot counts. */
static uint64_t slot_ns(size_t slot)
{
    if (slot == 0)
        return UINT64_C(1) << (LOW_BITS - 1);
    unsigned top = LOW_BITS + (unsigned)(slot - 1) / STEPS;
    uint64_t step = UINT64_C(1) << (top - STEP_BITS);
    return (UINT64_C(1) << top) + step * ((slot - 1) % STEPS) + step / 2;
}

static const struct {
    const char *name;
    enum metric_type type;
    struct ast_str labels; /* names, comma separated */
    const char *help;      /* "": none */
} rows[AST_METRIC_COUNT] = {
#define X(id, name_, type_, labels_, help_)                                                        \
    [AST_METRIC_##id] = { name_, type_, AST_STR(labels_), help_ },
    AST_METRIC_MAP(X)
#undef X
};

/* Threads: any; the atomics stand alone, nothing is published through them. */
struct ast_metric_cell {
    atomic_uint_least64_t value;   /* counter: total; gauge: an int64_t; observed: sum in ns */
    atomic_uint_least64_t *counts; /* observed: one per bucket or slot, owned; else NULL */
    atomic_uint_least64_t least;   /* summary: smallest observation + 1; 0: none */
    atomic_uint_least64_t most;    /* summary: largest observation */
    char *labels;                  /* `a="x",b="y"`, owned; NULL: none, or the shared "other" */
    enum ast_metric metric;
    atomic_bool seen; /* a gauge was set */
};

/* The cell of a family without labels, and the one that takes what the tables cannot hold. */
static struct ast_metric_cell spare[AST_METRIC_COUNT] = {
#define X(id, name, type, labels, help) [AST_METRIC_##id] = { .metric = AST_METRIC_##id },
    AST_METRIC_MAP(X)
#undef X
};
static atomic_uint_least64_t spare_counts[AST_METRIC_COUNT][MAX_BUCKETS];

struct scrape_hook {
    void (*fn)(void *arg);
    void *arg;
};

static struct {
    pthread_once_t once;
    struct ast_lock lock;
    struct ast_map cells[AST_METRIC_COUNT] AST_GUARDED_BY(lock); /* label text -> cell, owned */
    struct scrape_hook hooks[MAX_SCRAPE_HOOKS] AST_GUARDED_BY(lock);
    size_t hook_count AST_GUARDED_BY(lock);
} registry = { .once = PTHREAD_ONCE_INIT };

static void registry_init(void)
{
    ast_lock_init(&registry.lock, AST_LOCK_metrics);
}

static void registry_ready(void)
{
    pthread_once(&registry.once, registry_init);
}

/* --- Cells ----------------------------------------------------------------------------------- */

static bool is_observed(enum ast_metric m)
{
    return rows[m].type == HISTOGRAM || rows[m].type == SUMMARY;
}

static size_t count_slots(enum ast_metric m)
{
    return rows[m].type == SUMMARY ? SLOTS : GATEWAY_BUCKETS + 1;
}

static atomic_uint_least64_t *counts_of(const struct ast_metric_cell *c)
{
    return c->counts ? c->counts : spare_counts[c->metric];
}

/* At most MAX_LABEL_BYTES, not cut inside a character. */
static struct ast_str label_cut(struct ast_str v)
{
    if (v.n <= MAX_LABEL_BYTES)
        return v;
    size_t n = MAX_LABEL_BYTES;
    while (n > 0 && ((unsigned char)v.p[n] & 0xc0) == 0x80)
        n--;
    return ast_str_first(v, n);
}

static void write_label(struct ast_buf *out, struct ast_str name, struct ast_str value)
{
    ast_buf_add(out, name);
    ast_buf_add_lit(out, "=\"");
    value = label_cut(value);
    for (size_t i = 0; i < value.n; i++) {
        if (value.p[i] == '\n') {
            ast_buf_add_lit(out, "\\n");
            continue;
        }
        if (value.p[i] == '"' || value.p[i] == '\\')
            ast_buf_add_byte(out, '\\');
        ast_buf_add_byte(out, value.p[i]);
    }
    ast_buf_add_byte(out, '"');
}

/* `values` NULL: every label is "other". */
static void write_labels(struct ast_buf *out, enum ast_metric m, const struct ast_str *values,
                         size_t count)
{
    struct ast_str rest = rows[m].labels, name;
    bool more = rest.n > 0;
    size_t i = 0;
    for (; ast_str_split(&rest, &more, ',', &name); i++) {
        AST_ASSERT(!values || i < count);
        if (i)
            ast_buf_add_byte(out, ',');
        write_label(out, name, values ? values[i] : AST_STR("other"));
    }
    AST_ASSERT(!values || i == count);
}

static struct ast_metric_cell *cell_new(enum ast_metric m, struct ast_str labels)
{
    struct ast_metric_cell *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->metric = m;
    c->labels = ast_str_dup(labels);
    if (is_observed(m))
        c->counts = calloc(count_slots(m), sizeof *c->counts);
    if (c->labels && (c->counts || !is_observed(m)))
        return c;
    free(c->labels);
    free(c->counts);
    free(c);
    return NULL;
}

struct ast_metric_cell *ast_metric_cell(enum ast_metric m, const struct ast_str *labels,
                                        size_t count)
{
    AST_ASSERT(m < AST_METRIC_COUNT);
    if (rows[m].labels.n == 0)
        return &spare[m];
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(MAX_LABEL_TEXT);
    write_labels(&text, m, labels, count);
    if (text.fail)
        return &spare[m];

    registry_ready();
    AST_WITH_LOCK(&registry.lock);
    struct ast_map *cells = &registry.cells[m];
    struct ast_metric_cell *c = ast_map_get(cells, ast_buf_view(&text));
    if (c)
        return c;
    if (cells->n >= MAX_CELLS || !(c = cell_new(m, ast_buf_view(&text))))
        return &spare[m];
    if (ast_map_set(cells, ast_buf_view(&text), c, NULL))
        return c;
    free(c->labels);
    free(c->counts);
    free(c);
    return &spare[m];
}

void ast_metric_add(struct ast_metric_cell *c, uint64_t n)
{
    atomic_fetch_add_explicit(&c->value, n, memory_order_relaxed);
}

void ast_metric_raise(struct ast_metric_cell *c, uint64_t total)
{
    uint64_t v = atomic_load_explicit(&c->value, memory_order_relaxed);
    while (total > v && !atomic_compare_exchange_weak_explicit(
                            &c->value, &v, total, memory_order_relaxed, memory_order_relaxed)) {
    }
}

void ast_metric_set(struct ast_metric_cell *c, int64_t v)
{
    atomic_store_explicit(&c->value, (uint64_t)v, memory_order_relaxed);
    atomic_store_explicit(&c->seen, true, memory_order_relaxed);
}

void ast_metric_gauge_add(struct ast_metric_cell *c, int64_t d)
{
    atomic_fetch_add_explicit(&c->value, (uint64_t)d, memory_order_relaxed); /* two's complement */
    atomic_store_explicit(&c->seen, true, memory_order_relaxed);
}

/* The extremes move rarely: after the first observations this is two loads. */
static void note_extremes(struct ast_metric_cell *c, uint64_t ns)
{
    uint64_t least = atomic_load_explicit(&c->least, memory_order_relaxed);
    uint64_t most = atomic_load_explicit(&c->most, memory_order_relaxed);
    while ((!least || ns + 1 < least) &&
           !atomic_compare_exchange_weak_explicit(&c->least, &least, ns + 1, memory_order_relaxed,
                                                  memory_order_relaxed)) {
    }
    while (ns > most && !atomic_compare_exchange_weak_explicit(
                            &c->most, &most, ns, memory_order_relaxed, memory_order_relaxed)) {
    }
}

void ast_metric_observe_ns(struct ast_metric_cell *c, uint64_t ns)
{
    size_t i = 0;
    if (rows[c->metric].type == SUMMARY) {
        i = slot_of(ns);
        note_extremes(c, ns);
    } else {
        while (i < GATEWAY_BUCKETS && ns > gateway_buckets[i].ns)
            i++;
    }
    atomic_fetch_add_explicit(&counts_of(c)[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->value, ns, memory_order_relaxed);
}

static uint64_t value_of(const struct ast_metric_cell *c)
{
    return atomic_load_explicit(&c->value, memory_order_relaxed);
}

static uint64_t observations(const struct ast_metric_cell *c)
{
    uint64_t total = 0;
    for (size_t i = 0; i < count_slots(c->metric); i++)
        total += atomic_load_explicit(&counts_of(c)[i], memory_order_relaxed);
    return total;
}

uint64_t ast_metric_value(const struct ast_metric_cell *c)
{
    return is_observed(c->metric) ? observations(c) : value_of(c);
}

/* --- Exposition ------------------------------------------------------------------------------ */

static bool was_observed(const struct ast_metric_cell *c)
{
    if (rows[c->metric].labels.n == 0)
        return true;
    if (rows[c->metric].type == GAUGE)
        return atomic_load_explicit(&c->seen, memory_order_relaxed);
    return ast_metric_value(c) > 0;
}

/* `name<suffix>{labels,<key>="<value>"} `; value NULL: no such label. */
static void write_series(struct ast_buf *out, const struct ast_metric_cell *c, const char *suffix,
                         const char *key, const char *value)
{
    bool has_labels = rows[c->metric].labels.n > 0;
    ast_buf_addf(out, "%s%s", rows[c->metric].name, suffix);
    if (has_labels || value)
        ast_buf_add_byte(out, '{');
    if (c->labels)
        ast_buf_add(out, ast_str_c(c->labels));
    else if (has_labels)
        write_labels(out, c->metric, /* values= */ NULL, 0);
    if (value)
        ast_buf_addf(out, "%s%s=\"%s\"", has_labels ? "," : "", key, value);
    if (has_labels || value)
        ast_buf_add_byte(out, '}');
    ast_buf_add_byte(out, ' ');
}

static void write_seconds(struct ast_buf *out, uint64_t ns)
{
    ast_buf_addf(out, "%llu.%09llu\n", (unsigned long long)(ns / S), (unsigned long long)(ns % S));
}

static void write_totals(struct ast_buf *out, const struct ast_metric_cell *c, uint64_t total)
{
    write_series(out, c, "_sum", NULL, NULL);
    write_seconds(out, value_of(c));
    write_series(out, c, "_count", NULL, NULL);
    ast_buf_addf(out, "%llu\n", (unsigned long long)total);
}

static void write_histogram(struct ast_buf *out, const struct ast_metric_cell *c)
{
    uint64_t total = 0;
    for (size_t i = 0; i <= GATEWAY_BUCKETS; i++) {
        total += atomic_load_explicit(&counts_of(c)[i], memory_order_relaxed);
        write_series(out, c, "_bucket", "le", i < GATEWAY_BUCKETS ? gateway_buckets[i].le : "+Inf");
        ast_buf_addf(out, "%llu\n", (unsigned long long)total);
    }
    write_totals(out, c, total);
}

/* The observation of that rank, 1 to the number of them. */
static uint64_t ranked(const uint64_t counts[static SLOTS], uint64_t rank)
{
    size_t slot = 0;
    for (uint64_t seen = 0; slot < SLOTS - 1; slot++) {
        seen += counts[slot];
        if (seen >= rank)
            break;
    }
    return slot_ns(slot);
}

static void write_summary(struct ast_buf *out, const struct ast_metric_cell *c)
{
    static const struct {
        unsigned per_mille;
        const char *name;
    } quantiles[] = { { 0, "0" },      { 500, "0.5" },   { 900, "0.9" }, { 950, "0.95" },
                      { 990, "0.99" }, { 999, "0.999" }, { 1000, "1" } };
    uint64_t counts[SLOTS], total = 0; /* a copy: all quantiles are of the same moment */
    for (size_t i = 0; i < SLOTS; i++)
        total += counts[i] = atomic_load_explicit(&counts_of(c)[i], memory_order_relaxed);
    uint64_t least = atomic_load_explicit(&c->least, memory_order_relaxed);
    uint64_t most = atomic_load_explicit(&c->most, memory_order_relaxed);
    least = least ? least - 1 : 0;
    for (size_t i = 0; i < AST_ARRAY_LEN(quantiles); i++) {
        unsigned q = quantiles[i].per_mille;
        uint64_t rank = (total * q + 999) / 1000, ns = ranked(counts, AST_MAX(rank, UINT64_C(1)));
        ns = q == 0 ? least : q == 1000 ? most : AST_MIN(AST_MAX(ns, least), most);
        write_series(out, c, "", "quantile", quantiles[i].name);
        write_seconds(out, ns);
    }
    write_totals(out, c, total);
}

static void write_cell(struct ast_buf *out, const struct ast_metric_cell *c)
{
    if (rows[c->metric].type == HISTOGRAM) {
        write_histogram(out, c);
        return;
    }
    if (rows[c->metric].type == SUMMARY) {
        write_summary(out, c);
        return;
    }
    write_series(out, c, "", NULL, NULL);
    if (rows[c->metric].type == GAUGE)
        ast_buf_addf(out, "%lld\n", (long long)value_of(c));
    else
        ast_buf_addf(out, "%llu\n", (unsigned long long)value_of(c));
}

static void write_head(struct ast_buf *out, const char *name, const char *help,
                       enum metric_type type)
{
    if (help[0])
        ast_buf_addf(out, "# HELP %s %s\n", name, help);
    ast_buf_addf(out, "# TYPE %s %s\n", name, type_names[type]);
}

/* A cell that is about to be written. */
struct sample {
    const struct ast_metric_cell *cell;
};

static int sample_cmp(const void *a, const void *b)
{
    const struct sample *x = a, *y = b;
    return ast_str_cmp(ast_str_c(x->cell->labels), ast_str_c(y->cell->labels));
}

static enum ast_rc write_family(struct ast_buf *out, enum ast_metric m)
{
    AST_VEC(struct sample) samples = { 0 };
    bool complete = true;
    ast_lock(&registry.lock);
    size_t pos = 0;
    void *cell;
    while (complete && ast_map_next(&registry.cells[m], &pos, NULL, &cell))
        if (was_observed(cell))
            complete = ast_vec_push(&samples, (struct sample){ cell });
    ast_unlock(&registry.lock);
    if (samples.n > 1)
        qsort(samples.v, samples.n, sizeof *samples.v, sample_cmp);
    if (complete && was_observed(&spare[m]))
        complete = ast_vec_push(&samples, (struct sample){ &spare[m] });

    if (complete && samples.n > 0) {
        write_head(out, rows[m].name, rows[m].help, rows[m].type);
        for (size_t i = 0; i < samples.n; i++)
            write_cell(out, samples.v[i].cell);
        ast_buf_add_byte(out, '\n');
    }
    ast_vec_done(&samples);
    return complete ? out->fail : AST_E_NO_MEMORY;
}

static void write_process(struct ast_buf *out, const struct bus_process_metric *facts,
                          bool counters)
{
    for (size_t i = 0; i < BUS_PROCESS_METRICS; i++) {
        const struct bus_process_metric *m = &facts[i];
        if (!m->known || m->is_counter != counters)
            continue;
        write_head(out, m->name, m->help, counters ? COUNTER : GAUGE);
        ast_buf_addf(out, "%s %llu\n\n", m->name, (unsigned long long)m->value);
    }
}

void ast_metrics_on_scrape(void (*fn)(void *arg), void *arg)
{
    registry_ready();
    AST_WITH_LOCK(&registry.lock);
    AST_ASSERT(registry.hook_count < MAX_SCRAPE_HOOKS);
    registry.hooks[registry.hook_count].fn = fn;
    registry.hooks[registry.hook_count++].arg = arg;
}

void ast_metrics_off_scrape(void (*fn)(void *arg), void *arg)
{
    registry_ready();
    AST_WITH_LOCK(&registry.lock);
    for (size_t i = 0; i < registry.hook_count; i++) {
        if (registry.hooks[i].fn != fn || registry.hooks[i].arg != arg)
            continue;
        registry.hooks[i] = registry.hooks[--registry.hook_count];
        return;
    }
}

static void run_hooks(void)
{
    struct scrape_hook hooks[MAX_SCRAPE_HOOKS];

    registry_ready();
    ast_lock(&registry.lock);
    size_t count = registry.hook_count;
    memcpy(hooks, registry.hooks, count * sizeof hooks[0]);
    ast_unlock(&registry.lock);
    for (size_t i = 0; i < count; i++)
        hooks[i].fn(hooks[i].arg);
}

enum ast_rc ast_metrics_render(struct ast_buf *out)
{
    run_hooks();
    struct bus_process_metric facts[BUS_PROCESS_METRICS];
    bus_process_read(facts);
    static const enum metric_type order[] = { COUNTER, GAUGE, HISTOGRAM, SUMMARY };
    for (size_t i = 0; i < AST_ARRAY_LEN(order); i++) {
        for (unsigned m = 0; m < AST_METRIC_COUNT; m++) {
            if (rows[m].type != order[i])
                continue;
            enum ast_rc rc = write_family(out, (enum ast_metric)m);
            if (rc)
                return rc;
        }
        if (order[i] == COUNTER || order[i] == GAUGE)
            write_process(out, facts, order[i] == COUNTER);
    }
    return out->fail;
}
