/* One handler call under way: lives in its mailbox, so a call allocates nothing of its own. */
#pragma once

#include "capsule/ledger_priv.h"
#include "host/env.h"

struct capsule;

/* A place in the capsule's list of running calls. */
struct capsule_ticket {
    uint32_t slot;
    uint32_t serial; /* tells this use of the slot from later ones */
};

/* Owner: the worker that runs the mailbox. */
struct invocation {
    struct ast_host_call host;     /* ast_abi_user() of the call */
    struct capsule *capsule;       /* owned reference; the load this call runs on */
    struct ast_str action;         /* what that load calls the handler; borrowed from it */
    struct ast_instance *instance; /* leased */
    struct ast_pool_waiter waiter;
    struct ast_profile *profile; /* owned until the context is installed */
    struct ast_principal invoking;
    struct capsule_reservation reservation;
    struct capsule_ticket ticket;
    uint32_t ticks;    /* of guest computing */
    int64_t begin_ns;  /* before the profile: the metric covers everything */
    int64_t leased_ns; /* the pool gave an instance */
};

/* What a call is charged. The engine keeps the count in a register while a loop runs, so a call
 * that is ended at a tick may report next to nothing: then the time it computed counts, one unit
 * a nanosecond. */
uint64_t invocation_fuel(const struct ast_call_result *res, uint32_t ticks);
