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
    struct ast_host_call host; /* ast_abi_user() of the call */
    struct capsule *capsule;   /* owned reference; the load this call runs on */
    struct ast_instance *instance; /* leased */
    struct ast_pool_waiter waiter;
    struct ast_profile *profile; /* owned until the context is installed */
    struct ast_principal invoking;
    struct capsule_reservation reservation;
    struct capsule_ticket ticket;
    int64_t begin_ns;  /* before the profile: the metric covers everything */
    int64_t leased_ns; /* the pool gave an instance */
};
