/* What principals used: calls and fuel since start, fuel in the running second, peak of guest
 * memory (spec 05 §23, §24).
 *
 * One object for the daemon, shared by all capsules. Threads: any.
 */
#pragma once

#include <stdint.h>

#include "base/auto.h"
#include "base/error.h"
#include "base/id.h"

#define CAPSULE_LEDGER_MAX_PRINCIPALS                                                              \
    65536u                             /* fuel counters; the lowest gives way, spec 05 §23.2 */
#define CAPSULE_LEDGER_MAX_PEAKS 4096u /* spec 05 §24 */

struct capsule_ledger;

AST_MUST_CHECK
enum ast_rc capsule_ledger_new(struct capsule_ledger **ret, struct ast_err *err);
void capsule_ledger_free(struct capsule_ledger *l);
AST_DEFINE_AUTO(struct capsule_ledger, capsule_ledger_free)

/* What a call is expected to burn, counted in the window it started in until its real figure is
 * known: calls that run side by side cannot pass the budget together. */
struct capsule_reservation {
    uint64_t fuel;
    int64_t window; /* start of that window */
};

/* Whether the principal is within `budget` fuel a second (0: no limit). `exempt` is asked only
 * when the answer would be no. True: *ret holds the reservation; hand it back with
 * capsule_ledger_charge(). */
bool capsule_ledger_admit(struct capsule_ledger *l, struct ast_str principal, uint64_t budget,
                          int64_t now_ns, bool (*exempt)(void *arg, struct ast_str principal),
                          void *arg, struct capsule_reservation *ret);

struct capsule_cost {
    uint64_t fuel;
    uint64_t memory_bytes; /* of the instance after the call */
    bool failed;           /* the guest trapped or was cut short */
};
/* The call ended at `now_ns`, also when it failed. */
void capsule_ledger_settle(struct capsule_ledger *l, struct ast_str principal,
                           const struct capsule_reservation *reserved,
                           const struct capsule_cost *cost, int64_t now_ns);
/* Fuel without a call: a reservation that is handed back, a run loop. */
void capsule_ledger_charge(struct capsule_ledger *l, struct ast_str principal,
                           const struct capsule_reservation *reserved, uint64_t fuel,
                           int64_t now_ns);
uint64_t capsule_ledger_fuel(struct capsule_ledger *l, struct ast_str principal);
/* An event for the principal was dropped before a handler saw it. */
void capsule_ledger_dropped(struct capsule_ledger *l, struct ast_str principal, int64_t now_ns);

/* A call grew an instance to `bytes`. */
void capsule_ledger_grew(struct capsule_ledger *l, struct ast_str principal, uint64_t bytes);
uint64_t capsule_ledger_peak(struct capsule_ledger *l, struct ast_str principal);

/* One principal's account, for those who watch. */
struct capsule_use {
    struct ast_principal principal;
    uint64_t calls, failures, throttled, dropped, fuel; /* since start */
    uint64_t memory_peak_bytes; /* the largest instance a call ended on, grown by it or not */
    uint64_t recent_calls, recent_fuel; /* this second, the one before at half weight, and so on */
};

/* Copies the accounts, a shard at a time under that shard's lock. `shard` counts from 0; *ret
 * needs room for capsule_ledger_shard_max() rows. False: there is no such shard. The accounts that
 * gave way are summed in *ret_gone (its principal is empty). */
bool capsule_ledger_copy(struct capsule_ledger *l, unsigned shard, int64_t now_ns,
                         struct capsule_use *ret, size_t *ret_n, struct capsule_use *ret_gone);
size_t capsule_ledger_shard_max(void);
/* One account; all zero when there is none. */
void capsule_ledger_use(struct capsule_ledger *l, struct ast_str principal, int64_t now_ns,
                        struct capsule_use *ret);
size_t capsule_ledger_count(struct capsule_ledger *l);

/* A deleted principal leaves nothing behind but its share of the sums. */
void capsule_ledger_forget(struct capsule_ledger *l, struct ast_str principal);
