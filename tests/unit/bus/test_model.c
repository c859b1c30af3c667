/* Random traffic on one route beside a reference that is slow and obvious: arrays, searched from the
 * front, written from spec 04 §7 alone. Every delivery and every count must agree. */
#include "bus_test.h"

#include "base/log.h"

#include "base/banned.h"

#define MAX_PRINCIPALS 40
#define MAX_QUEUED     70000

struct item {
    uint64_t seq;
    size_t cost;
    unsigned principal;
};

/* All queued messages in bus order, and the rotation. */
struct model {
    struct item *items;
    size_t n;
    unsigned rotation[MAX_PRINCIPALS];
    size_t turns;
    size_t deficit[MAX_PRINCIPALS];
    uint64_t dropped;
};

static size_t count_of(const struct model *m, unsigned p)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++)
        n += m->items[i].principal == p;
    return n;
}

static size_t bytes_of(const struct model *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++)
        n += m->items[i].cost;
    return n;
}

static size_t head_of(const struct model *m, unsigned p)
{
    size_t i = 0;
    while (m->items[i].principal != p)
        i++;
    return i;
}

static void leave_rotation(struct model *m, unsigned p)
{
    size_t i = 0;
    while (m->rotation[i] != p)
        i++;
    memmove(&m->rotation[i], &m->rotation[i + 1], (m->turns - i - 1) * sizeof m->rotation[0]);
    m->turns--;
}

static struct item remove_at(struct model *m, size_t at)
{
    struct item it = m->items[at];
    memmove(&m->items[at], &m->items[at + 1], (m->n - at - 1) * sizeof *m->items);
    m->n--;
    return it;
}

/* The oldest head among queues of two or more; else the oldest of all. */
static void evict(struct model *m)
{
    size_t at = 0;
    while (at < m->n && count_of(m, m->items[at].principal) < 2)
        at++;
    struct item it = remove_at(m, at < m->n ? at : 0);
    m->dropped++;
    if (count_of(m, it.principal) == 0) {
        leave_rotation(m, it.principal);
        m->deficit[it.principal] = 0;
    }
}

static void model_push(struct model *m, struct item it)
{
    if (it.cost > AST_ROUTE_BUDGET) {
        m->dropped++;
        return;
    }
    while (bytes_of(m) + it.cost > AST_ROUTE_BUDGET)
        evict(m);
    size_t queued = count_of(m, it.principal);
    if (queued == 0)
        m->rotation[m->turns++] = it.principal;
    m->items[m->n++] = it;
    if (queued == AST_ROUTE_PER_PRINCIPAL) {
        (void)remove_at(m, head_of(m, it.principal));
        m->dropped++;
    }
}

/* After its turn: to the back, or out. */
static void turn_over(struct model *m, unsigned p)
{
    leave_rotation(m, p);
    if (count_of(m, p) > 0)
        m->rotation[m->turns++] = p;
    else
        m->deficit[p] = 0;
}

static size_t model_take(struct model *m, uint64_t *out)
{
    if (m->turns == 0)
        return 0;
    unsigned p = m->rotation[0];
    out[0] = remove_at(m, head_of(m, p)).seq;
    turn_over(m, p);
    return 1;
}

static size_t model_envelope(struct model *m, size_t budget, uint64_t *out)
{
    if (m->turns == 0)
        return 0;
    unsigned p = m->rotation[0];
    size_t n = 0, used = 0;
    while (count_of(m, p) > 0) {
        size_t at = head_of(m, p);
        if (n > 0 && used + m->items[at].cost > budget)
            break;
        used += m->items[at].cost;
        out[n++] = remove_at(m, at).seq;
    }
    turn_over(m, p);
    return n;
}

static size_t model_drain(struct model *m, size_t budget, uint64_t *out)
{
    if (m->turns == 0 || budget == 0)
        return 0;
    size_t quantum = budget / m->turns;
    if (quantum < AST_ROUTE_QUANTUM_FLOOR)
        quantum = AST_ROUTE_QUANTUM_FLOOR;
    size_t served = 0, n = 0;
    for (;;) {
        size_t visits = m->turns, before = n;
        for (size_t v = 0; v < visits; v++) {
            unsigned p = m->rotation[0];
            m->deficit[p] += quantum;
            while (count_of(m, p) > 0) {
                size_t at = head_of(m, p), cost = m->items[at].cost;
                if (cost > m->deficit[p] || served + cost > budget)
                    break;
                m->deficit[p] -= cost;
                served += cost;
                out[n++] = remove_at(m, at).seq;
            }
            turn_over(m, p);
        }
        if (n == before || served >= budget)
            return n;
    }
}

static struct ast_msg *got[MAX_QUEUED];
static uint64_t want[MAX_QUEUED];

static void compare(size_t got_n, size_t want_n, uint64_t seed, unsigned step)
{
    bool same = got_n == want_n;
    for (size_t i = 0; same && i < got_n; i++)
        same = got[i]->seq == want[i];
    if (!same)
        fail_msg("seed %llu step %u: %zu delivered, %zu expected", (unsigned long long)seed, step,
                 got_n, want_n);
    for (size_t i = 0; i < got_n; i++)
        ast_msg_unref(got[i]);
}

/* How traffic looks: sizes up to max_cost, `burst` publishes for each take. */
struct traffic {
    const char *name;
    unsigned principals;
    size_t min_cost, max_cost;
    unsigned burst, steps, seeds;
};

static void run(const struct traffic *t, uint64_t first_seed)
{
    uint64_t seed = first_seed;
    struct model m = { .items = calloc(MAX_QUEUED, sizeof(struct item)) };
    assert_non_null(m.items);
    struct ast_bus *bus = bus_new();
    struct ast_str pattern = AST_STR("t");
    struct ast_route_config cfg = { .patterns = &pattern,
                                    .pattern_count = 1,
                                    .label = AST_STR("model") };
    struct ast_route *route = NULL;
    assert_int_equal(ast_route_open(bus, &cfg, &route, NULL), AST_OK);

    for (unsigned step = 0; step < t->steps; step++) {
        if (random_next(&seed) % (t->burst + 1)) {
            /* Low numbers talk more; number 0 is the system. */
            unsigned p = random_next(&seed) % (1 + random_next(&seed) % t->principals);
            size_t cost = t->min_cost + random_next(&seed) % (t->max_cost - t->min_cost + 1);
            char name[16] = "";
            if (p)
                snprintf(name, sizeof name, "p%u", p);
            uint64_t seq = ast_bus_publish(bus, msg_of_cost("t", name, cost));
            model_push(&m, (struct item){ .seq = seq, .cost = cost, .principal = p });
        } else {
            size_t budget =
                random_next(&seed) % 4 ? random_next(&seed) % (4 * t->max_cost) : AST_ROUTE_BUDGET;
            size_t n;
            switch (random_next(&seed) % 3) {
            case 0:
                n = (got[0] = ast_route_take(route)) != NULL;
                compare(n, model_take(&m, want), first_seed, step);
                break;
            case 1:
                n = ast_route_take_envelope(route, budget, got, MAX_QUEUED);
                compare(n, model_envelope(&m, budget, want), first_seed, step);
                break;
            default:
                n = ast_route_drain(route, budget, got, MAX_QUEUED);
                compare(n, model_drain(&m, budget, want), first_seed, step);
                break;
            }
        }
        struct ast_route_stats stats;
        ast_route_stats(route, &stats);
        if (stats.bytes != bytes_of(&m) || stats.principals != m.turns ||
            stats.dropped_total != m.dropped)
            fail_msg("%s, seed %llu step %u: bytes %zu/%zu principals %zu/%zu dropped %llu/%llu",
                     t->name, (unsigned long long)first_seed, step, stats.bytes, bytes_of(&m),
                     stats.principals, m.turns, (unsigned long long)stats.dropped_total,
                     (unsigned long long)m.dropped);
    }
    ast_route_close(route);
    ast_bus_free(bus);
    free(m.items);
}

static const struct traffic traffics[] = {
    { "light", 8, 3, 500, 2, 4000, 10 },
    { "mixed", 12, 3, 20000, 4, 4000, 10 },
    { "pressed", 20, 1000, 60000, 8, 4000, 10 },
    { "huge", 6, 3, 1100000, 5, 2000, 5 },
    { "few and deep", 2, 3, 4000, 60, 6000, 6 },
    { "many and shallow", MAX_PRINCIPALS, 3, 40000, 3, 4000, 10 },
};

static void deliveries_agree_with_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(traffics); i++)
        for (unsigned s = 0; s < traffics[i].seeds; s++)
            run(&traffics[i], 1000 * i + s);
}

int main(void)
{
    /* Thousands of messages are dropped on purpose. */
    struct ast_log_config quiet = { .level = AST_LOG_OFF };
    if (ast_log_open(&quiet, NULL))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deliveries_agree_with_the_reference),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
