/* The queues of one route: one per principal, bounded together, drained fairly (spec 04 §7.2 to §7.7).
 *
 * A plain data structure: no lock, no log, no index. Owner: the route, under its lock.
 * Invariant: the rotation holds exactly the queues that have messages; the idle list holds at most
 * BUS_IDLE_KEPT empty ones, kept so that a consumer that keeps up costs no allocation.
 *
 *   by_principal ──► "alice" ─┐ ring: [msg,ticket][msg,ticket]...        rotation: alice, bob
 *                    "bob"  ──┤                                          ages: who gives up a head
 *                    ""     ──┘ (system)                                 idle: ""
 */
#pragma once

#include "base/heap.h"
#include "base/list.h"
#include "base/map.h"
#include "bus/route.h"

#define BUS_IDLE_KEPT 16u
#define BUS_IDLE_RING 64u /* slots; a longer ring is not kept */

/* Why a message never reached the consumer. */
enum bus_drop {
    BUS_DROP_OVERSIZE, /* larger than the whole budget: refused */
    BUS_DROP_BYTES,    /* the oldest head went for the budget */
    BUS_DROP_CAP,      /* its principal had too many */
    BUS_DROP_MEMORY,   /* no memory to queue it: refused */
    BUS_DROP_REASONS
};

struct bus_queue;

struct bus_queues {
    struct ast_map by_principal; /* values owned: queues of the rotation and idle ones */
    struct ast_list rotation;    /* next to be served first */
    struct ast_list idle;        /* longest idle first */
    struct ast_heap ages;        /* next victim first; keys may lag behind, see victim() */
    struct bus_queue *recent;    /* the last one looked up, NULL: none */
    uint64_t ticket;             /* of the last message queued: enqueue order, hence age */
    size_t idle_count;
    size_t principals; /* in the rotation */
    size_t messages;
    size_t bytes; /* at most AST_ROUTE_BUDGET */

    /* Called during push and drain; must not touch the queues. The message is still alive. */
    void (*on_drop)(void *arg, enum bus_drop why, const struct ast_msg *msg);
    void (*on_starved)(void *arg, struct ast_str principal); /* visited, nothing taken, not empty */
    void *arg;
};

void bus_queues_init(struct bus_queues *qs);
void bus_queues_done(struct bus_queues *qs); /* discards what is queued */

/* Queues `msg` and takes the caller's reference (spec 04 §7.4); false: refused, reported by on_drop. */
bool bus_queues_push(struct bus_queues *qs, struct ast_msg *msg);

/* As the functions of route.h; the references go to the caller. */
struct ast_msg *bus_queues_take(struct bus_queues *qs);
size_t bus_queues_drain(struct bus_queues *qs, size_t budget_bytes, struct ast_msg **out,
                        size_t max);
size_t bus_queues_take_envelope(struct bus_queues *qs, size_t budget_bytes, struct ast_msg **out,
                                size_t max);
