/* Random traffic on the whole bus beside a reference that is slow and obvious, written from the text
 * of spec 04 §2.2 and §7 alone: arrays searched from the front, patterns split anew for each message.
 * Every number a publish returns, every wake, every delivery and every count must agree.
 *
 * ASTRID_MODEL_SEED=N runs all traffics with that seed only: a failure names it.
 */
#include "bus_test.h"

#include "base/log.h"
#include "bus/event.h"
#include "bus/metrics.h"
#include "bus/topic.h"

#include "base/banned.h"

#define MAX_PRINCIPALS 40
#define MAX_ROUTES     8
#define LABELS         (MAX_ROUTES / 2) /* two routes share each */
#define MAX_OUT        AST_ROUTE_MAX_MESSAGES
#define MAX_SEGMENTS   32
#define TOPIC_BYTES    64

enum { SYSTEM, AGENT, USER, CLASSES };
static const char *const class_names[CLASSES] = { "system", "agent", "user" };

struct item {
    uint64_t seq;
    uint64_t order; /* on its route */
    size_t cost;
    unsigned principal;
};

/* What one principal has waiting on one route, oldest first. */
struct line {
    struct item *items; /* owned */
    size_t first, n, cap;
    size_t deficit;
};

/* One subscription as the spec describes it. */
struct ref {
    struct ast_route *route; /* NULL: not open */
    char patterns[2][TOPIC_BYTES];
    size_t pattern_count;
    char scope[16]; /* empty: none */
    bool admits_system;
    bool has_filter, has_notify;
    unsigned wakes, ref_wakes; /* seen, expected */

    struct line lines[MAX_PRINCIPALS];
    unsigned rotation[MAX_PRINCIPALS];
    size_t turns;
    size_t bytes, messages;
    uint64_t order;
    uint64_t dropped_total, dropped_recent;
    unsigned label;
};

/* Counts of the process: they go on from seed to seed. */
static uint64_t evictions[LABELS][CLASSES], starved[LABELS][CLASSES], published[2];

static struct ref refs[MAX_ROUTES];
static char principals[MAX_PRINCIPALS][16];
static struct ast_msg *got[MAX_OUT];
static struct item want[MAX_OUT];

/* Where we are, for failures. */
static const char *at_traffic;
static uint64_t at_seed;
static unsigned at_step;

#define differ(fmt, ...)                                                                           \
    fail_msg("%s, ASTRID_MODEL_SEED=%llu, step %u: " fmt, at_traffic, (unsigned long long)at_seed, \
             at_step, __VA_ARGS__)

static unsigned class_of(unsigned p)
{
    if (!principals[p][0])
        return SYSTEM;
    return strncmp(principals[p], "agent.", 6) == 0 || strncmp(principals[p], "agent:", 6) == 0
               ? AGENT
               : USER;
}

/* --- §2.2 ------------------------------------------------------------------------------------- */

static size_t split(const char *text, char segments[MAX_SEGMENTS][TOPIC_BYTES])
{
    size_t n = 0, at = 0;
    for (; *text; text++) {
        if (*text == '.') {
            segments[n++][at] = 0;
            at = 0;
        } else {
            segments[n][at++] = *text;
        }
    }
    segments[n++][at] = 0;
    return n;
}

static bool ref_match(const char *pattern, const char *topic)
{
    char p[MAX_SEGMENTS][TOPIC_BYTES], t[MAX_SEGMENTS][TOPIC_BYTES];
    size_t pn = split(pattern, p), tn = split(topic, t), bytes = strlen(pattern);
    bool is_below = bytes >= 2 && strcmp(pattern + bytes - 2, ".*") == 0;
    if (tn > 20)
        return false;
    if (is_below)
        pn--; /* the prefix */
    if (is_below ? tn <= pn : tn != pn)
        return false;
    for (size_t i = 0; i < pn; i++)
        if (strcmp(p[i], "*") != 0 && strcmp(p[i], t[i]) != 0)
            return false;
    return true;
}

/* --- §7 --------------------------------------------------------------------------------------- */

static struct item *head_of(struct line *l)
{
    return &l->items[l->first];
}

static struct item pop(struct ref *r, unsigned p)
{
    struct line *l = &r->lines[p];
    struct item it = *head_of(l);
    l->first++;
    l->n--;
    r->bytes -= it.cost;
    r->messages--;
    return it;
}

static void append(struct ref *r, struct item it)
{
    struct line *l = &r->lines[it.principal];
    if (l->first + l->n == l->cap) {
        memmove(l->items, l->items + l->first, l->n * sizeof *l->items);
        l->first = 0;
        l->cap = 2 * l->n + 16;
        l->items = realloc(l->items, l->cap * sizeof *l->items);
        assert_non_null(l->items);
    }
    l->items[l->first + l->n++] = it;
    r->bytes += it.cost;
    r->messages++;
}

static void leave_rotation(struct ref *r, unsigned p)
{
    size_t i = 0;
    while (r->rotation[i] != p)
        i++;
    memmove(&r->rotation[i], &r->rotation[i + 1], (r->turns - i - 1) * sizeof r->rotation[0]);
    r->turns--;
}

/* To the back of the rotation, or out of it with its deficit forgotten. */
static void turn_over(struct ref *r, unsigned p)
{
    leave_rotation(r, p);
    if (r->lines[p].n > 0)
        r->rotation[r->turns++] = p;
    else
        r->lines[p].deficit = 0;
}

static void dropped(struct ref *r, unsigned p)
{
    r->dropped_total++;
    r->dropped_recent++;
    evictions[r->label][class_of(p)]++;
}

/* The oldest head among those with at least `at_least` messages; MAX_PRINCIPALS: there is none. */
static unsigned oldest(struct ref *r, size_t at_least)
{
    unsigned best = MAX_PRINCIPALS;
    for (unsigned p = 0; p < MAX_PRINCIPALS; p++)
        if (r->lines[p].n >= at_least &&
            (best == MAX_PRINCIPALS ||
             head_of(&r->lines[p])->order < head_of(&r->lines[best])->order))
            best = p;
    return best;
}

/* A queue that has two or more gives first, so a sole message goes last. */
static void evict(struct ref *r)
{
    unsigned p = oldest(r, 2);
    if (p == MAX_PRINCIPALS)
        p = oldest(r, 1);
    (void)pop(r, p);
    dropped(r, p);
    if (r->lines[p].n == 0)
        turn_over(r, p);
}

static void ref_push(struct ref *r, struct item it)
{
    struct line *l = &r->lines[it.principal];
    if (it.cost > AST_ROUTE_BUDGET) {
        dropped(r, it.principal);
        return;
    }
    while (r->bytes + it.cost > AST_ROUTE_BUDGET || r->messages >= AST_ROUTE_MAX_MESSAGES)
        evict(r);
    if (l->n == 0)
        r->rotation[r->turns++] = it.principal;
    it.order = ++r->order;
    append(r, it);
    if (l->n > AST_ROUTE_PER_PRINCIPAL) {
        (void)pop(r, it.principal);
        dropped(r, it.principal);
    }
}

static void ref_publish(struct ref *r, const char *topic, struct item it)
{
    bool matches = false;
    for (size_t i = 0; i < r->pattern_count; i++)
        matches |= ref_match(r->patterns[i], topic);
    const char *key = principals[it.principal];
    bool admitted = !r->scope[0] || strcmp(r->scope, key) == 0 || (r->admits_system && !key[0]);
    if (!matches || !admitted || (r->has_filter && it.seq % 7 == 0))
        return; /* not counted, nobody woken */
    r->ref_wakes += r->has_notify;
    ref_push(r, it);
}

static size_t ref_take(struct ref *r)
{
    if (r->turns == 0)
        return 0;
    unsigned p = r->rotation[0];
    want[0] = pop(r, p);
    turn_over(r, p);
    return 1;
}

static size_t ref_envelope(struct ref *r, size_t budget, size_t max)
{
    if (r->turns == 0)
        return 0;
    unsigned p = r->rotation[0];
    size_t n = 0, used = 0;
    while (r->lines[p].n > 0 && n < max) {
        size_t cost = head_of(&r->lines[p])->cost;
        if (n > 0 && used + cost > budget)
            break;
        used += cost;
        want[n++] = pop(r, p);
    }
    turn_over(r, p);
    return n;
}

/* A full `max` ends the call like a spent budget, but in the middle of a round. */
static size_t ref_drain(struct ref *r, size_t budget, size_t max)
{
    if (r->turns == 0 || budget == 0)
        return 0;
    size_t quantum = budget / r->turns;
    if (quantum < AST_ROUTE_QUANTUM_FLOOR)
        quantum = AST_ROUTE_QUANTUM_FLOOR;
    size_t served = 0, n = 0;
    for (;;) {
        size_t visits = r->turns, before = n;
        for (size_t v = 0; v < visits && n < max; v++) {
            unsigned p = r->rotation[0];
            struct line *l = &r->lines[p];
            size_t had = n;
            l->deficit += quantum;
            while (l->n > 0 && n < max && head_of(l)->cost <= l->deficit &&
                   served + head_of(l)->cost <= budget) {
                l->deficit -= head_of(l)->cost;
                served += head_of(l)->cost;
                want[n++] = pop(r, p);
            }
            starved[r->label][class_of(p)] += n == had;
            turn_over(r, p);
        }
        if (n == before || served >= budget || n == max)
            return n;
    }
}

/* --- Both sides ------------------------------------------------------------------------------- */

static void compare(struct ref *r, size_t got_n, size_t want_n)
{
    for (size_t i = 0; i < got_n && i < want_n; i++) {
        const struct ast_msg *m = got[i];
        if (m->seq != want[i].seq || ast_msg_cost(m) != want[i].cost ||
            !ast_str_eq(m->principal, ast_str_c(principals[want[i].principal])))
            differ("route %zu: delivery %zu is message %llu, expected %llu", (size_t)(r - refs), i,
                   (unsigned long long)m->seq, (unsigned long long)want[i].seq);
    }
    if (got_n != want_n)
        differ("route %zu: %zu delivered, %zu expected", (size_t)(r - refs), got_n, want_n);
    for (size_t i = 0; i < got_n; i++)
        ast_msg_unref(got[i]);
}

static uint64_t metric(enum ast_metric m, unsigned label, const char *class_name)
{
    char name[16];
    int n = snprintf(name, sizeof name, "model%u", label);
    struct ast_str labels[] = { ast_str_n(name, (size_t)n), ast_str_c(class_name) };
    return ast_metric_value(ast_metric_cell(m, labels, class_name[0] ? 2 : 1));
}

static void compare_stats(struct ref *r)
{
    struct ast_route_stats s;
    ast_route_stats(r->route, &s);
    if (s.bytes != r->bytes || s.principals != r->turns || s.dropped_total != r->dropped_total ||
        s.dropped_recent != r->dropped_recent || ast_route_empty(r->route) != (r->messages == 0) ||
        r->wakes != r->ref_wakes)
        differ("route %zu: bytes %zu/%zu principals %zu/%zu dropped %llu/%llu recent %llu/%llu "
               "wakes %u/%u",
               (size_t)(r - refs), s.bytes, r->bytes, s.principals, r->turns,
               (unsigned long long)s.dropped_total, (unsigned long long)r->dropped_total,
               (unsigned long long)s.dropped_recent, (unsigned long long)r->dropped_recent,
               r->wakes, r->ref_wakes);
    r->dropped_recent = 0;
}

static void compare_metrics(void)
{
    for (unsigned label = 0; label < LABELS; label++) {
        for (unsigned c = 0; c < CLASSES; c++) {
            uint64_t e = metric(AST_METRIC_ROUTE_EVICTIONS, label, class_names[c]);
            uint64_t s = metric(AST_METRIC_ROUTE_STARVED, label, class_names[c]);
            if (e != evictions[label][c] || s != starved[label][c])
                differ("label %u, class %s: evictions %llu/%llu starved %llu/%llu", label,
                       class_names[c], (unsigned long long)e,
                       (unsigned long long)evictions[label][c], (unsigned long long)s,
                       (unsigned long long)starved[label][c]);
        }
    }
    static const char *const kinds[] = { "ipc", "custom" };
    for (size_t i = 0; i < AST_ARRAY_LEN(kinds); i++) {
        struct ast_str kind = ast_str_c(kinds[i]);
        uint64_t n = ast_metric_value(ast_metric_cell(AST_METRIC_BUS_PUBLISHED, &kind, 1));
        if (n != published[i])
            differ("published %s %llu/%llu", kinds[i], (unsigned long long)n,
                   (unsigned long long)published[i]);
    }
}

/* Gauges are made up when somebody asks. */
static void compare_gauges(void)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(1 << 20);
    assert_int_equal(ast_metrics_render(&text), AST_OK);
    for (unsigned label = 0; label < LABELS; label++) {
        uint64_t bytes = 0, active = 0;
        bool any = false;
        for (size_t i = 0; i < MAX_ROUTES; i++) {
            if (!refs[i].route || refs[i].label != label)
                continue;
            any = true;
            bytes += refs[i].bytes;
            active += refs[i].turns;
        }
        if (any && (metric(AST_METRIC_ROUTE_BYTES, label, "") != bytes ||
                    metric(AST_METRIC_ROUTE_PRINCIPALS, label, "") != active))
            differ("label %u: gauges of bytes and principals", label);
    }
}

static void on_wake(void *arg)
{
    ((struct ref *)arg)->wakes++;
}

static bool keep(void *arg, const struct ast_msg *msg)
{
    (void)arg;
    return msg->seq % 7 != 0;
}

/* --- Traffic ---------------------------------------------------------------------------------- */

/* How traffic looks: costs, and how many publishes come for one step of another kind. */
struct traffic {
    const char *name;
    unsigned routes, principals;
    size_t min_cost, max_cost;
    unsigned burst, depth; /* of topics */
    unsigned steps, seeds;
};

static unsigned below(uint64_t *seed, size_t n)
{
    return (unsigned)(random_next(seed) % n);
}

/* Segments of few letters, so that topics and patterns meet; a star where patterns may have one. */
static void random_topic(uint64_t *seed, unsigned depth, bool is_pattern, char out[TOPIC_BYTES])
{
    static const char *const segments[] = { "a", "b", "cc", "a", "*" };
    size_t n = 1 + below(seed, depth), at = 0;
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(out + at, TOPIC_BYTES - at, "%s%s", i ? "." : "",
                               segments[below(seed, is_pattern ? 5 : 4)]);
}

static void subscribe(struct ast_bus *bus, struct ref *r, const struct traffic *t, uint64_t *seed)
{
    *r = (struct ref){ .label = (unsigned)(r - refs) / 2, .pattern_count = 1 + below(seed, 2) };
    struct ast_str views[2];
    for (size_t i = 0; i < r->pattern_count; i++) {
        random_topic(seed, t->depth, /* is_pattern= */ t->depth > 1, r->patterns[i]);
        views[i] = ast_str_c(r->patterns[i]);
    }
    if (t->depth > 1 && below(seed, 3) == 0)
        snprintf(r->scope, sizeof r->scope, "%s", principals[below(seed, t->principals)]);
    r->admits_system = below(seed, 2);
    r->has_filter = below(seed, 4) == 0;
    r->has_notify = below(seed, 2);
    char label[16];
    int n = snprintf(label, sizeof label, "model%u", r->label);
    struct ast_route_config cfg = { .patterns = views,
                                    .pattern_count = r->pattern_count,
                                    .label = ast_str_n(label, (size_t)n),
                                    .scope = ast_str_c(r->scope),
                                    .scope_admits_system = r->admits_system,
                                    .filter = r->has_filter ? keep : NULL,
                                    .notify = r->has_notify ? on_wake : NULL,
                                    .arg = r };
    assert_int_equal(ast_route_open(bus, &cfg, &r->route, NULL), AST_OK);
}

static void unsubscribe(struct ref *r)
{
    ast_route_close(r->route); /* what is queued goes uncounted */
    for (size_t p = 0; p < MAX_PRINCIPALS; p++)
        free(r->lines[p].items);
    *r = (struct ref){ 0 };
}

static void step_publish(struct ast_bus *bus, const struct traffic *t, uint64_t *seed,
                         uint64_t *next_seq)
{
    if (below(seed, 200) == 0) { /* a lifecycle event reaches no route */
        struct ast_msg *event = NULL;
        assert_int_equal(ast_event_new(AST_EVENT_custom, "model",
                                       AST_STR("\"name\":\"a\",\"data\":1"), &event, NULL),
                         AST_OK);
        assert_int_equal(ast_bus_publish(bus, event), 0);
        published[1]++;
        return;
    }
    char topic[TOPIC_BYTES];
    random_topic(seed, t->depth, /* is_pattern= */ false, topic);
    /* Low numbers talk more; number 0 is the system. */
    unsigned p = below(seed, 1 + below(seed, t->principals));
    size_t cost = t->min_cost + below(seed, t->max_cost - t->min_cost + 1);
    cost = AST_MAX(cost, strlen(topic) + 2);
    uint64_t seq = ast_bus_publish(bus, msg_of_cost(topic, principals[p], cost));
    if (seq != ++*next_seq)
        differ("number %llu, expected %llu", (unsigned long long)seq,
               (unsigned long long)*next_seq);
    published[0]++;
    for (size_t i = 0; i < MAX_ROUTES; i++)
        if (refs[i].route)
            ref_publish(&refs[i], topic, (struct item){ .seq = seq, .cost = cost, .principal = p });
}

static void step_take(struct ref *r, const struct traffic *t, uint64_t *seed)
{
    size_t budget = below(seed, 4) ? below(seed, 4 * t->max_cost) : AST_ROUTE_BUDGET;
    size_t max = below(seed, 4) ? MAX_OUT : 1 + below(seed, 8);
    size_t n;
    switch (below(seed, 3)) {
    case 0:
        n = (got[0] = ast_route_take(r->route)) != NULL;
        compare(r, n, ref_take(r));
        break;
    case 1:
        n = ast_route_take_envelope(r->route, budget, got, max);
        compare(r, n, ref_envelope(r, budget, max));
        break;
    default:
        n = ast_route_drain(r->route, budget, got, max);
        compare(r, n, ref_drain(r, budget, max));
        break;
    }
}

static void run(const struct traffic *t, uint64_t first_seed)
{
    uint64_t seed = first_seed, seq = 0;
    at_traffic = t->name;
    at_seed = first_seed;
    at_step = 0;
    struct ast_bus *bus = bus_new();
    for (size_t i = 0; i < t->routes; i++)
        subscribe(bus, &refs[i], t, &seed);
    for (; at_step < t->steps; at_step++) {
        struct ref *r = &refs[below(&seed, t->routes)];
        if (below(&seed, t->burst + 1)) {
            step_publish(bus, t, &seed, &seq);
        } else if (!r->route) {
            subscribe(bus, r, t, &seed);
        } else if (t->depth > 1 && below(&seed, 12) == 0) {
            unsubscribe(r);
        } else {
            step_take(r, t, &seed);
        }
        for (size_t i = 0; i < t->routes; i++)
            if (refs[i].route)
                compare_stats(&refs[i]);
        if (below(&seed, 500) == 0)
            compare_gauges();
    }
    compare_metrics();
    compare_gauges();
    for (size_t i = 0; i < t->routes; i++) {
        if (!refs[i].route)
            continue;
        size_t n = ast_route_drain(refs[i].route, AST_ROUTE_BUDGET, got, MAX_OUT);
        compare(&refs[i], n, ref_drain(&refs[i], AST_ROUTE_BUDGET, MAX_OUT));
        compare_stats(&refs[i]); /* with the budget of a route, one drain leaves nothing */
        assert_int_equal(refs[i].messages, 0);
        unsubscribe(&refs[i]);
    }
    compare_metrics();
    ast_bus_free(bus);
}

static const struct traffic traffics[] = {
    { "light", 4, 8, 3, 500, 2, 3, 4000, 12 },
    { "mixed", 6, 12, 3, 20000, 4, 3, 4000, 12 },
    { "pressed", 4, 20, 1000, 60000, 8, 2, 4000, 10 },
    { "huge", 3, 6, 3, 1100000, 5, 2, 1500, 5 },
    { "few and deep", 2, 2, 3, 4000, 60, 1, 6000, 6 },
    { "many and shallow", 8, MAX_PRINCIPALS, 3, 40000, 3, 4, 4000, 10 },
    { "comings and goings", MAX_ROUTES, 10, 3, 2000, 1, 3, 6000, 8 },
    { "tiny without end", 1, 6, 3, 4, 30000, 1, 200000, 2 },
};

static void fill_principals(void)
{
    for (unsigned p = 1; p < MAX_PRINCIPALS; p++)
        snprintf(principals[p], sizeof principals[p],
                 p % 5 == 1   ? "agent.%u"
                 : p % 5 == 2 ? "agent:%u"
                              : "p%u",
                 p);
}

static void deliveries_and_counts_agree_with_the_reference(void **state)
{
    (void)state;
    const char *only = getenv("ASTRID_MODEL_SEED");
    for (size_t i = 0; i < AST_ARRAY_LEN(traffics); i++)
        for (unsigned s = 0; s < (only ? 1 : traffics[i].seeds); s++)
            run(&traffics[i], only ? strtoull(only, NULL, 10) : 1000 * i + s);
}

/* Streams of several principals, each with a terminator at its end, beside a flood that never stops:
 * whatever the flood does, every stream that had two messages keeps its terminator. */
static void c04_25_the_last_message_of_every_stream_survives_a_flood(void **state)
{
    (void)state;
    for (uint64_t first = 1; first <= 40; first++) {
        uint64_t seed = first;
        struct ast_bus *bus = bus_new();
        struct ast_str pattern = AST_STR("a");
        struct ast_route_config cfg = { .patterns = &pattern,
                                        .pattern_count = 1,
                                        .label = AST_STR("streams") };
        struct ast_route *route = NULL;
        assert_int_equal(ast_route_open(bus, &cfg, &route, NULL), AST_OK);

        unsigned left[MAX_PRINCIPALS], streams = 2 + below(&seed, MAX_PRINCIPALS - 3);
        uint64_t last[MAX_PRINCIPALS] = { 0 };
        for (unsigned p = 1; p <= streams; p++)
            left[p] = 2 + below(&seed, 20);
        for (unsigned step = 0; step < 4000; step++) {
            unsigned p = 1 + below(&seed, streams);
            if (step % 2 && left[p]) {
                left[p]--;
                last[p] =
                    ast_bus_publish(bus, msg_of_cost("a", principals[p], 3 + below(&seed, 9000)));
            } else {
                ast_bus_publish(bus, msg_of_cost("a", "flood", 3 + below(&seed, 9000)));
            }
        }
        size_t n = ast_route_drain(route, AST_ROUTE_BUDGET, got, MAX_OUT);
        assert_true(n > streams);
        struct ast_route_stats stats;
        ast_route_stats(route, &stats);
        assert_true(stats.dropped_total > 1000); /* the flood was one */
        for (unsigned p = 1; p <= streams; p++) {
            size_t i = 0;
            while (i < n && got[i]->seq != last[p])
                i++;
            if (i == n && left[p] == 0)
                fail_msg("seed %llu: the end of the stream of %s is gone",
                         (unsigned long long)first, principals[p]);
        }
        while (n > 0)
            ast_msg_unref(got[--n]);
        ast_route_close(route);
        ast_bus_free(bus);
    }
}

int main(void)
{
    /* Thousands of messages are dropped on purpose. */
    struct ast_log_config quiet = { .level = AST_LOG_OFF };
    if (ast_log_open(&quiet, NULL))
        return 1;
    fill_principals();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deliveries_and_counts_agree_with_the_reference),
        cmocka_unit_test(c04_25_the_last_message_of_every_stream_survives_a_flood),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
