/* The dispatcher: a tap on all events that hands each to the mailboxes of its handlers (spec 04
 * §9, §10). */
#pragma once

#include <pthread.h>

#include "bus/bus.h"
#include "capsule/handlers_priv.h"
#include "capsule/lag_priv.h"
#include "capsule/mailbox_priv.h"
#include "capsule/seat_priv.h"

#define DISPATCH_TARGET "astrid.dispatch"
#define DISPATCH_LINES  100u /* refusals and failures of one capsule that are logged per 10 s */

struct ast_capsules;

/* Zeroed: not initialised. Threads: `index` is read under a read lock of `swap` by publishers;
 * the rest is set at init. */
struct capsule_dispatch {
    struct ast_capsules *owner;
    struct mailboxes boxes;
    pthread_rwlock_t swap;
    struct capsule_handlers *index AST_GUARDED_BY(swap); /* owned reference; NULL: no handlers */
    struct ast_tap *tap;
    struct log_gate invalid_gate; /* invalid principals */
    struct lag lag;
    atomic_bool closing;
};

AST_MUST_CHECK
enum ast_rc capsule_dispatch_init(struct capsule_dispatch *d, struct ast_capsules *owner,
                                  struct ast_err *err);
/* Takes the reference; events published from now on see it. */
void capsule_dispatch_swap(struct capsule_dispatch *d, struct capsule_handlers *index);
/* No event is taken any more, waiting ones are dropped; false: calls were still running at the
 * deadline. */
bool capsule_dispatch_close(struct capsule_dispatch *d, int64_t deadline_ns);
void capsule_dispatch_done(struct capsule_dispatch *d); /* after a close that returned true */

/* --- Between dispatch.c and invoke.c --- */

/* Counts an event that no handler sees. An empty principal is the owner's. */
void dispatch_dropped(struct capsule_dispatch *d, struct capsule_seat *seat,
                      struct ast_str principal, enum seat_drop why);

/* Deals with m->current: ends in dispatch_advance(), now or later. */
void dispatch_invoke(struct mailbox *m);
/* The item is done: on to the chain's next step, on to the mailbox's next item. */
void dispatch_advance(struct mailbox *m, enum seat_outcome outcome);
struct ast_str dispatch_payload(const struct mailbox *m); /* borrowed until the item is done */
/* In a chain the data becomes the next step's payload, byte for byte; elsewhere it is nobody's. */
void dispatch_replace_payload(struct mailbox *m, struct ast_str data);
