/* Sub-queues of a route: budget, eviction, round robin.
 *
 * The age of a head is its enqueue time; a counter stands for the clock, as it gives the same order
 * without ties. Costs: push O(1) plus O(log principals) when a queue starts or reaches two messages;
 * take O(1); an eviction O(log principals) amortised, whatever the number of principals.
 */
#include "bus/queue_priv.h"

#include <stdlib.h>

#include "base/banned.h"

#define FIRST_RING 8u
/* Above every ticket: sole messages are evicted last (spec 04 §7.5). */
#define SOLE (INT64_C(1) << 62)

struct slot {
    struct ast_msg *msg; /* shared: one reference is ours */
    uint64_t ticket;
    size_t cost; /* here too: the message itself is in the publisher's cache, not in ours */
};

struct bus_queue {
    struct ast_list turn;     /* in the rotation or the idle list */
    struct ast_heap_node age; /* queued while n > 0 */
    struct slot *ring;        /* owned; cap slots, a power of two */
    size_t cap, head, n;
    size_t bytes;
    size_t deficit;           /* spec 04 §7.6 */
    struct ast_str principal; /* lies behind the struct; empty: system */
};

#define QUEUE_OF_TURN(link) AST_CONTAINER_OF(link, struct bus_queue, turn)

void bus_queues_init(struct bus_queues *qs)
{
    *qs = (struct bus_queues){ 0 };
    ast_list_init(&qs->rotation);
    ast_list_init(&qs->idle);
}

static void queue_free(struct bus_queues *qs, struct bus_queue *q)
{
    if (qs->recent == q)
        qs->recent = NULL;
    ast_list_remove(&q->turn);
    (void)ast_map_remove(&qs->by_principal, q->principal); /* ours: it was inserted at birth */
    free(q->ring);
    free(q);
}

void bus_queues_done(struct bus_queues *qs)
{
    struct ast_msg *m;
    while ((m = bus_queues_take(qs)))
        ast_msg_unref(m);
    ast_list_each (&qs->idle, link)
        queue_free(qs, QUEUE_OF_TURN(link));
    ast_map_done(&qs->by_principal);
    ast_heap_done(&qs->ages);
    qs->idle_count = 0;
}

static void idle_trim(struct bus_queues *qs)
{
    for (; qs->idle_count > BUS_IDLE_KEPT; qs->idle_count--)
        queue_free(qs, QUEUE_OF_TURN(qs->idle.next));
}

/* Puts an empty queue aside; its deficit is forgotten. */
static void queue_retire(struct bus_queues *qs, struct bus_queue *q)
{
    ast_list_remove(&q->turn);
    ast_list_push_back(&qs->idle, &q->turn);
    qs->principals--;
    qs->idle_count++;
    q->deficit = 0;
    if (q->cap > BUS_IDLE_RING) {
        free(q->ring);
        q->ring = NULL;
        q->cap = 0;
    }
    idle_trim(qs);
}

/* The principal's queue, idle when it is new; NULL: out of memory. */
static struct bus_queue *queue_get(struct bus_queues *qs, struct ast_str principal)
{
    if (qs->recent && ast_str_eq(qs->recent->principal, principal))
        return qs->recent;
    struct bus_queue *q = ast_map_get(&qs->by_principal, principal);
    if (!q) {
        q = calloc(1, sizeof *q + principal.n);
        if (!q)
            return NULL;
        if (principal.n)
            memcpy(q + 1, principal.p, principal.n);
        q->principal = ast_str_n(q + 1, principal.n);
        if (!ast_map_set(&qs->by_principal, q->principal, q, NULL)) {
            free(q);
            return NULL;
        }
        ast_list_push_back(&qs->idle, &q->turn);
        qs->idle_count++;
    }
    qs->recent = q;
    return q;
}

static bool ring_reserve(struct bus_queue *q)
{
    if (q->n < q->cap)
        return true;
    size_t cap = q->cap ? q->cap * 2 : FIRST_RING;
    struct slot *ring = malloc(cap * sizeof *ring);
    if (!ring)
        return false;
    for (size_t i = 0; i < q->n; i++)
        ring[i] = q->ring[(q->head + i) & (q->cap - 1)];
    free(q->ring);
    q->ring = ring;
    q->cap = cap;
    q->head = 0;
    return true;
}

static struct slot *queue_head(const struct bus_queue *q)
{
    return &q->ring[q->head];
}

/* Victims come in ascending order of this. */
static int64_t age_key(const struct bus_queue *q)
{
    return (int64_t)queue_head(q)->ticket + (q->n == 1 ? SOLE : 0);
}

static void age_update(struct bus_queues *qs, struct bus_queue *q)
{
    ast_heap_remove(&qs->ages, &q->age);
    q->age.key = age_key(q);
    bool ok = ast_heap_push(&qs->ages, &q->age);
    AST_ASSERT(ok); /* it takes the place just given up */
}

/* Removes the head; the reference goes to the caller. The queue may be empty afterwards. */
static struct ast_msg *queue_pop(struct bus_queues *qs, struct bus_queue *q)
{
    struct ast_msg *m = queue_head(q)->msg;
    size_t cost = queue_head(q)->cost;
    q->head = (q->head + 1) & (q->cap - 1);
    q->n--;
    q->bytes -= cost;
    qs->bytes -= cost;
    qs->messages--;
    if (q->n == 0)
        ast_heap_remove(&qs->ages, &q->age);
    return m;
}

/* The queue that has to give up its head. Removing a head makes its queue younger, so a key in the
 * heap can only be too small: it is put right when it comes up. */
static struct bus_queue *victim(struct bus_queues *qs)
{
    struct ast_heap_node *node;
    while ((node = ast_heap_peek(&qs->ages))) {
        struct bus_queue *q = AST_CONTAINER_OF(node, struct bus_queue, age);
        if (node->key == age_key(q))
            return q;
        age_update(qs, q);
    }
    return NULL;
}

static void drop_head(struct bus_queues *qs, struct bus_queue *q, enum bus_drop why)
{
    struct ast_msg *m = queue_pop(qs, q);
    if (qs->on_drop)
        qs->on_drop(qs->arg, why, m);
    ast_msg_unref(m);
    /* differs: an emptied queue goes at once, so a route nobody drains does not collect principals. */
    if (q->n == 0)
        queue_retire(qs, q);
}

static bool refuse(struct bus_queues *qs, enum bus_drop why, struct ast_msg *msg)
{
    if (qs->on_drop)
        qs->on_drop(qs->arg, why, msg);
    ast_msg_unref(msg);
    return false;
}

/* Makes sure that one more message can be appended without failing. */
static bool queue_prepare(struct bus_queues *qs, struct bus_queue *q)
{
    if (!ring_reserve(q))
        return false;
    if (q->n > 0)
        return true;
    q->age.key = (int64_t)(qs->ticket + 1) + SOLE;
    if (!ast_heap_push(&qs->ages, &q->age))
        return false;
    ast_list_remove(&q->turn);
    ast_list_push_back(&qs->rotation, &q->turn);
    qs->idle_count--;
    qs->principals++;
    return true;
}

bool bus_queues_push(struct bus_queues *qs, struct ast_msg *msg)
{
    size_t cost = ast_msg_cost(msg);
    if (cost > AST_ROUTE_BUDGET)
        return refuse(qs, BUS_DROP_OVERSIZE, msg);
    while (qs->bytes + cost > AST_ROUTE_BUDGET || qs->messages >= AST_ROUTE_MAX_MESSAGES)
        drop_head(qs, victim(qs), BUS_DROP_BYTES); /* there is one: something is queued */

    struct bus_queue *q = queue_get(qs, msg->principal);
    if (q && q->n == AST_ROUTE_PER_PRINCIPAL)
        drop_head(qs, q, BUS_DROP_CAP);
    if (!q || !queue_prepare(qs, q)) {
        idle_trim(qs);
        return refuse(qs, BUS_DROP_MEMORY, msg);
    }
    q->ring[(q->head + q->n) & (q->cap - 1)] = (struct slot){ msg, ++qs->ticket, cost };
    q->n++;
    q->bytes += cost;
    qs->bytes += cost;
    qs->messages++;
    if (q->n == 2 && q->age.key > age_key(q))
        age_update(qs, q); /* no longer a sole message: this key became smaller */
    return true;
}

/* Ends a queue's turn: to the back of the rotation, or aside when it is empty. */
static void turn_end(struct bus_queues *qs, struct bus_queue *q)
{
    if (q->n == 0) {
        queue_retire(qs, q);
        return;
    }
    ast_list_remove(&q->turn);
    ast_list_push_back(&qs->rotation, &q->turn);
}

struct ast_msg *bus_queues_take(struct bus_queues *qs)
{
    if (ast_list_empty(&qs->rotation))
        return NULL;
    struct bus_queue *q = QUEUE_OF_TURN(qs->rotation.next);
    struct ast_msg *m = queue_pop(qs, q);
    turn_end(qs, q);
    return m;
}

/* One queue's visit of a round; returns how many messages were taken. */
static size_t drr_visit(struct bus_queues *qs, struct bus_queue *q, size_t *budget,
                        struct ast_msg **out, size_t max)
{
    size_t n = 0;
    while (q->n > 0 && n < max) {
        size_t cost = queue_head(q)->cost;
        if (cost > q->deficit || cost > *budget)
            break;
        q->deficit -= cost;
        *budget -= cost;
        out[n++] = queue_pop(qs, q);
    }
    return n;
}

size_t bus_queues_drain(struct bus_queues *qs, size_t budget_bytes, struct ast_msg **out,
                        size_t max)
{
    if (qs->principals == 0 || budget_bytes == 0)
        return 0;
    size_t quantum = AST_MAX((size_t)AST_ROUTE_QUANTUM_FLOOR, budget_bytes / qs->principals);
    size_t left = budget_bytes, n = 0;
    bool progress = true;
    while (progress && left > 0 && n < max) {
        progress = false;
        for (size_t visits = qs->principals; visits > 0 && n < max; visits--) {
            struct bus_queue *q = QUEUE_OF_TURN(qs->rotation.next);
            q->deficit += quantum;
            size_t taken = drr_visit(qs, q, &left, out + n, max - n);
            if (taken == 0 && qs->on_starved)
                qs->on_starved(qs->arg, q->principal);
            progress |= taken > 0;
            n += taken;
            turn_end(qs, q);
        }
    }
    return n;
}

size_t bus_queues_take_envelope(struct bus_queues *qs, size_t budget_bytes, struct ast_msg **out,
                                size_t max)
{
    if (max == 0 || ast_list_empty(&qs->rotation))
        return 0;
    struct bus_queue *q = QUEUE_OF_TURN(qs->rotation.next);
    size_t n = 0, used = 0;
    do {
        used += queue_head(q)->cost;
        out[n++] = queue_pop(qs, q);
    } while (q->n > 0 && n < max && used <= budget_bytes &&
             queue_head(q)->cost <= budget_bytes - used);
    turn_end(qs, q);
    return n;
}
