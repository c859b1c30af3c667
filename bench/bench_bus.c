/* The bus: messages per second from one publisher to one routed subscriber, beside a bare ring of
 * pointers between the same two threads; the price of subscriptions that are not concerned; how equally
 * an overloaded subscription serves its principals; what principals seen once leave behind.
 *
 * Each figure is the median of RUNS runs, and the runs of a figure and of its limit take turns.
 */
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/thread.h"
#include "base/time.h"

#include "bus/limiter.h"
#include "bus/route.h"

#include "base/banned.h"

enum { RUNS = 5, MESSAGES = 1000000, BATCH = 256, WINDOW = 4096, BODY_BYTES = 128 };

static char body[BODY_BYTES]; /* {"text":"xxx..."} */

static void die(const char *what)
{
    fprintf(stderr, "bench_bus: %s\n", what);
    exit(1);
}

/* Short waits spin, long ones let others run: the other side may have no core of its own. */
static void pause_briefly(unsigned *spins)
{
    if (++*spins % 64 == 0)
        sched_yield();
    else
        atomic_signal_fence(memory_order_seq_cst); /* the loop around reads the counter again */
}

static struct ast_msg *message(struct ast_str topic, bool from_json)
{
    struct ast_msg_spec spec = { .topic = topic, .principal = AST_STR("alice") };
    struct ast_msg *m = NULL;
    struct ast_str text = ast_str_n(body, sizeof body);
    if (from_json ? ast_msg_from_json(&spec, text, &m, NULL)
                  : ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, text, &m, NULL))
        die("no message");
    return m;
}

static struct ast_route *route_on(struct ast_bus *bus, struct ast_str pattern, struct ast_str scope)
{
    struct ast_route_config cfg = {
        .patterns = &pattern, .pattern_count = 1, .label = AST_STR("bench"), .scope = scope
    };
    struct ast_route *route = NULL;
    if (ast_route_open(bus, &cfg, &route, NULL))
        die("no route");
    return route;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double v[static RUNS])
{
    qsort(v, RUNS, sizeof v[0], by_value);
    return v[RUNS / 2];
}

static double per_second(int64_t ns)
{
    return MESSAGES * 1e9 / (double)ns;
}

static void report(const char *name, double ours, const char *unit, double limit, double reach,
                   bool met)
{
    printf("BENCH %s %.0f %s limit=%.0f ratio=%.4f reach=%g %s\n", name, ours, unit, limit,
           ours / limit, reach, met ? "met" : "missed");
    fflush(stdout);
}

/* --- One thread to one thread ------------------------------------------------------------------ */

static struct {
    struct ast_bus *bus;
    struct ast_route *route;
    _Alignas(64) atomic_size_t taken; /* messages the consumer has finished with */
} link_;

static void *drain_all(void *arg)
{
    struct ast_msg *out[BATCH];
    unsigned spins = 0;
    for (size_t taken = 0; taken < MESSAGES;) {
        size_t n = ast_route_drain(link_.route, AST_ROUTE_BUDGET, out, BATCH);
        for (size_t i = 0; i < n; i++)
            ast_msg_unref(out[i]);
        taken += n;
        if (n)
            atomic_store_explicit(&link_.taken, taken, memory_order_release);
        else
            pause_briefly(&spins);
    }
    return NULL;
}

static double bus_round(bool from_json)
{
    atomic_store(&link_.taken, 0);
    pthread_t consumer;
    int64_t begin = ast_mono_ns();
    if (ast_thread_start(&consumer, "consumer", drain_all, NULL, NULL))
        die("no thread");
    size_t seen = 0;
    unsigned spins = 0;
    for (size_t sent = 0; sent < MESSAGES; sent++) {
        while (sent - seen >= WINDOW) { /* stays under the route's budget: nothing may be dropped */
            seen = atomic_load_explicit(&link_.taken, memory_order_acquire);
            if (sent - seen >= WINDOW)
                pause_briefly(&spins);
        }
        ast_bus_publish(link_.bus, message(AST_STR("user.v1.prompt"), from_json));
    }
    pthread_join(consumer, NULL);
    return per_second(ast_mono_ns() - begin);
}

/* The limit: pointers through a ring, nothing else. */
static struct {
    void *slots[WINDOW];
    _Alignas(64) atomic_size_t tail;
    _Alignas(64) atomic_size_t head;
} ring;

static void *ring_consume(void *arg)
{
    size_t head = 0, tail = 0;
    uintptr_t sum = 0;
    unsigned spins = 0;
    while (head < MESSAGES) {
        if (head == tail) {
            tail = atomic_load_explicit(&ring.tail, memory_order_acquire);
            if (head == tail)
                pause_briefly(&spins);
            continue;
        }
        sum += (uintptr_t)ring.slots[head % WINDOW];
        head++;
        if (head % 32 == 0 || head == tail)
            atomic_store_explicit(&ring.head, head, memory_order_release);
    }
    return sum ? arg : NULL;
}

static double ring_round(void)
{
    atomic_store(&ring.head, 0);
    atomic_store(&ring.tail, 0);
    pthread_t consumer;
    int64_t begin = ast_mono_ns();
    if (ast_thread_start(&consumer, "consumer", ring_consume, &ring, NULL))
        die("no thread");
    size_t head = 0;
    unsigned spins = 0;
    for (size_t tail = 0; tail < MESSAGES; tail++) {
        while (tail - head >= WINDOW) {
            head = atomic_load_explicit(&ring.head, memory_order_acquire);
            if (tail - head >= WINDOW)
                pause_briefly(&spins);
        }
        ring.slots[tail % WINDOW] = body;
        atomic_store_explicit(&ring.tail, tail + 1, memory_order_release);
    }
    pthread_join(consumer, NULL);
    return per_second(ast_mono_ns() - begin);
}

static void bench_throughput(void)
{
    if (ast_bus_new(&link_.bus, NULL))
        die("no bus");
    link_.route = route_on(link_.bus, AST_STR("user.v1.*"), AST_STR_NONE);
    double limits[RUNS], of_trusted[RUNS], of_parsed[RUNS];
    (void)bus_round(/* from_json= */ false); /* warms up */
    for (int i = 0; i < RUNS; i++) {
        limits[i] = ring_round();
        of_trusted[i] = bus_round(/* from_json= */ false);
        of_parsed[i] = bus_round(/* from_json= */ true);
    }
    double limit = median(limits), trusted = median(of_trusted), parsed = median(of_parsed);
    struct ast_route_stats stats;
    ast_route_stats(link_.route, &stats);
    if (stats.dropped_total)
        die("messages were dropped: the figures mean nothing");
    report("bus_publish_trusted", trusted, "msgs/s", limit, 2e6, trusted >= 2e6);
    report("bus_publish_json", parsed, "msgs/s", limit, 1e6, parsed >= 1e6);
    ast_route_close(link_.route);
    ast_bus_free(link_.bus);
}

/* --- Subscriptions that are not concerned ------------------------------------------------------ */

enum { HOT = 10, FEW = 10, MANY = 10000, INDEX_MESSAGES = 400000 };

struct crowd {
    struct ast_bus *bus;
    struct ast_route *routes[MANY];
    size_t count;
};

static char hot_topics[HOT][32];

/* `count` routes on distinct topics, the hot ones among them; or all on one topic, each for a
 * principal of its own and the first for the publisher. */
static void crowd_open(struct crowd *c, size_t count, bool scoped)
{
    if (ast_bus_new(&c->bus, NULL))
        die("no bus");
    c->count = count;
    for (size_t i = 0; i < count; i++) {
        char name[32];
        if (scoped) {
            int n =
                i ? snprintf(name, sizeof name, "p%zu", i) : snprintf(name, sizeof name, "alice");
            c->routes[i] = route_on(c->bus, ast_str_c(hot_topics[0]), ast_str_n(name, (size_t)n));
        } else {
            int n = i < HOT ? snprintf(name, sizeof name, "%s", hot_topics[i])
                            : snprintf(name, sizeof name, "agent.v1.topic%zu", i);
            c->routes[i] = route_on(c->bus, ast_str_n(name, (size_t)n), AST_STR_NONE);
        }
    }
}

static void crowd_close(struct crowd *c)
{
    for (size_t i = 0; i < c->count; i++)
        ast_route_close(c->routes[i]);
    ast_bus_free(c->bus);
}

/* Nanoseconds per publish and take, on one thread. */
static double crowd_round(struct crowd *c, bool scoped)
{
    int64_t begin = ast_mono_ns();
    for (size_t i = 0; i < INDEX_MESSAGES; i++) {
        size_t which = scoped ? 0 : i % HOT;
        ast_bus_publish(c->bus, message(ast_str_c(hot_topics[which]), /* from_json= */ false));
        ast_msg_unref(ast_route_take(c->routes[which]));
    }
    return (double)(ast_mono_ns() - begin) / INDEX_MESSAGES;
}

static void bench_index(const char *name, bool scoped)
{
    static struct crowd few, many;
    crowd_open(&few, scoped ? 1 : FEW, scoped);
    crowd_open(&many, MANY, scoped);
    double of_few[RUNS], of_many[RUNS];
    for (int i = 0; i < RUNS; i++) {
        of_few[i] = crowd_round(&few, scoped);
        of_many[i] = crowd_round(&many, scoped);
    }
    double few_ns = median(of_few), many_ns = median(of_many);
    report(name, many_ns, "ns", few_ns, 1.2, many_ns <= 1.2 * few_ns);
    crowd_close(&few);
    crowd_close(&many);
}

/* --- Many principals on one subscription ------------------------------------------------------- */

enum { CROWD = 5000, FAIR_TURNS = 1200, IDLE = 100000 };

static struct ast_msg *message_of(const char *prefix, unsigned principal)
{
    char name[32];
    int n = snprintf(name, sizeof name, "%s%u", prefix, principal);
    struct ast_msg_spec spec = { .topic = AST_STR("user.v1.prompt"),
                                 .principal = ast_str_n(name, (size_t)n) };
    struct ast_msg *m = NULL;
    if (ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_str_n(body, sizeof body), &m, NULL))
        die("no message");
    return m;
}

static uint32_t random_below(uint64_t *seed, uint32_t n)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*seed >> 33) % n;
}

static unsigned number_of(const struct ast_msg *m)
{
    unsigned n = 0;
    for (size_t i = 1; i < m->principal.n; i++)
        n = n * 10 + (unsigned)(m->principal.p[i] - '0');
    return n;
}

/* Each turn all principals publish once, in a new order, and the consumer takes four fifths. Returns
 * the worst distance of a principal's share from the equal one, as 1 + distance. */
static double fair_round(uint64_t seed)
{
    static unsigned order[CROWD], served[CROWD];
    static struct ast_msg *out[CROWD];
    struct ast_bus *bus = NULL;
    if (ast_bus_new(&bus, NULL))
        die("no bus");
    struct ast_route *route = route_on(bus, AST_STR("user.v1.*"), AST_STR_NONE);
    size_t total = 0;
    for (unsigned i = 0; i < CROWD; i++) {
        order[i] = i;
        served[i] = 0;
    }
    for (unsigned turn = 0; turn < FAIR_TURNS; turn++) {
        for (unsigned i = CROWD; i > 1; i--) {
            unsigned k = random_below(&seed, i), held = order[i - 1];
            order[i - 1] = order[k];
            order[k] = held;
        }
        for (unsigned i = 0; i < CROWD; i++)
            ast_bus_publish(bus, message_of("p", order[i]));
        size_t n = ast_route_drain(route, AST_ROUTE_BUDGET, out, CROWD * 4 / 5);
        for (size_t i = 0; i < n; i++) {
            served[number_of(out[i])]++;
            ast_msg_unref(out[i]);
        }
        total += n;
    }
    struct ast_route_stats stats;
    ast_route_stats(route, &stats);
    if (stats.dropped_total < (uint64_t)CROWD * FAIR_TURNS / 6)
        die("this was no overload: the figure means nothing");
    double worst = 0, equal = (double)total / CROWD;
    for (unsigned i = 0; i < CROWD; i++) {
        double distance = served[i] / equal - 1;
        distance = distance < 0 ? -distance : distance;
        worst = distance > worst ? distance : worst;
    }
    ast_route_close(route);
    ast_bus_free(bus);
    return 1 + worst;
}

static void bench_fair(void)
{
    double v[RUNS];
    for (unsigned i = 0; i < RUNS; i++)
        v[i] = fair_round(i + 1);
    double worst = median(v);
    printf("BENCH bus_share_5000_principals %.4f of_equal limit=1.0000 ratio=%.4f reach=1.05 %s\n",
           worst, worst, worst <= 1.05 ? "met" : "missed");
    fflush(stdout);
}

/* Bytes that malloc has given out. */
static size_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* Principals that were seen once: what is left of them in the queues, and on the heap altogether: a few
 * idle queues, free message memory, the limiter's buckets until its next prune. The limit is what one
 * principal leaves behind. */
static double idle_round(unsigned principals, struct ast_route_stats *ret_stats)
{
    struct ast_bus *bus = NULL;
    struct ast_limiter *limiter = NULL;
    size_t before = heap_bytes();
    if (ast_bus_new(&bus, NULL) || ast_limiter_new(&limiter, NULL))
        die("no bus");
    struct ast_route *route = route_on(bus, AST_STR("user.v1.*"), AST_STR_NONE);
    int64_t now = ast_mono_ns();
    for (unsigned i = 0; i < principals; i++) {
        struct ast_msg *m = message_of("q", i), *taken;
        now += AST_NS_PER_SEC / 100000;
        if (!ast_limiter_admit(limiter, m->principal, m->body.n, 10485760, now))
            die("the limiter refused");
        ast_bus_publish(bus, m);
        if (i % 1000 == 999 || i + 1 == principals)
            while ((taken = ast_route_take(route)))
                ast_msg_unref(taken);
    }
    /* Two minutes later somebody publishes: what is over is pruned. */
    if (!ast_limiter_admit(limiter, AST_STR("later"), 1, 10485760, now + 120 * AST_NS_PER_SEC))
        die("the limiter refused");
    ast_route_stats(route, ret_stats);
    size_t after = heap_bytes();
    ast_route_close(route);
    ast_limiter_free(limiter);
    ast_bus_free(bus);
    return after > before ? (double)(after - before) / 1024 : 0;
}

static void bench_idle(void)
{
    struct ast_route_stats stats;
    double one[RUNS], all[RUNS];
    for (unsigned i = 0; i < RUNS; i++) {
        one[i] = idle_round(1, &stats);
        all[i] = idle_round(IDLE, &stats);
    }
    size_t queued = stats.bytes + stats.principals;
    printf("BENCH bus_idle_100000_queued %zu bytes limit=0 ratio=1.0000 reach=0 %s\n", queued,
           queued ? "missed" : "met");
    report("bus_idle_100000_heap", median(all), "KiB", median(one), 4096, median(all) <= 4096);
}

int main(void)
{
    struct ast_log_config quiet = { .level = AST_LOG_OFF }; /* messages are dropped on purpose */
    if (ast_log_open(&quiet, NULL))
        return 1;
    memset(body, 'x', sizeof body);
    static const char start[] = "{\"text\":\"";
    memcpy(body, start, sizeof start - 1);
    body[BODY_BYTES - 2] = '"';
    body[BODY_BYTES - 1] = '}';
    for (size_t i = 0; i < HOT; i++)
        snprintf(hot_topics[i], sizeof hot_topics[i], "agent.v1.hot%zu", i);

    bench_throughput();
    bench_index("bus_10000_topics", /* scoped= */ false);
    bench_index("bus_10000_scopes", /* scoped= */ true);
    bench_fair();
    bench_idle();
    return 0;
}
