/* What principals used: fuel since start, fuel in the running second, peak of guest memory (spec
 * 05 §23, §24).
 *
 * One object for the daemon, shared by all capsules. Threads: any.
 */
#pragma once

#include <stdint.h>

#include "base/auto.h"
#include "base/error.h"
#include "base/str.h"

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

/* The call ended at `now_ns`, also when it failed. */
void capsule_ledger_charge(struct capsule_ledger *l, struct ast_str principal,
                           const struct capsule_reservation *reserved, uint64_t fuel,
                           int64_t now_ns);
uint64_t capsule_ledger_fuel(struct capsule_ledger *l, struct ast_str principal);

/* A call grew an instance to `bytes`. */
void capsule_ledger_grew(struct capsule_ledger *l, struct ast_str principal, uint64_t bytes);
uint64_t capsule_ledger_peak(struct capsule_ledger *l, struct ast_str principal);

/* A deleted principal leaves nothing behind. */
void capsule_ledger_forget(struct capsule_ledger *l, struct ast_str principal);
