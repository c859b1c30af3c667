/* Events that missed a handler because the dispatcher could not take them, told to whoever listens (spec 04 §9.2).
 *
 * The dispatcher works on the publisher's thread and so is never behind; what it loses is what finds a mailbox full
 * or no memory. The notice is astrid.v1.event_bus.lagged, at most one in ten seconds; differs: losses between two
 * notices are added to the next one.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "bus/bus.h"
#include "bus/metrics.h"

#define LAG_NOTICE_NS (10 * INT64_C(1000000000)) /* spec 04 §20 */

/* Zeroed: nothing lost yet. Threads: any. */
struct lag {
    atomic_uint_least64_t pending;          /* lost and not told */
    atomic_int_least64_t next_ns;           /* no notice before */
    _Atomic(struct ast_metric_cell *) cell; /* NULL: nothing counted yet */
};

/* One event more is lost. Returns how many a notice has to tell of now; 0: no notice. */
uint64_t lag_add(struct lag *l, int64_t now_ns);
/* The rest of a burst, some time later. Returns like lag_add(). */
uint64_t lag_due(struct lag *l, int64_t now_ns);
/* Publishes the notice; a failure is logged. `lost` 0: nothing. */
void lag_publish(struct ast_bus *bus, uint64_t lost);
