/* The registry's inside, shared by its files. */
#pragma once

#include "base/map.h"
#include "base/time.h"
#include "base/vec.h"
#include "bus/event.h"
#include "capsule/dispatch_priv.h"
#include "capsule/ledger_priv.h"
#include "capsule/registry.h"
#include "capsule/runtime_priv.h"
#include "capsule/seat_priv.h"

#define CAPSULE_TARGET "astrid.capsule"
/* For a call to notice that it was cancelled. */
#define REGISTRY_STOP_NS (5 * AST_NS_PER_SEC)

/* Owner: the loader thread changes it; readers take the lock. */
struct ast_capsules {
    struct ast_host *host;
    struct ast_engine *engine;
    char *workspace; /* owned; NULL: none */
    struct ast_uuid session;
    bool allow_duplicate_roles;
    unsigned pool_max, blocking_max, io_max;
    struct ast_principal owner;  /* whom capsules are loaded for */
    atomic_uint_least64_t loads; /* serials given out */
    struct capsule_ledger *ledger;
    struct capsule_dispatch dispatch;

    struct ast_lock lock;
    pthread_cond_t changed;                                    /* readiness, `alive` */
    AST_VEC(struct capsule_seat *) seats AST_GUARDED_BY(lock); /* ascending id; owned */
    struct ast_map by_uuid AST_GUARDED_BY(lock); /* 16 bytes -> struct capsule, borrowed */
    unsigned alive AST_GUARDED_BY(lock);         /* struct capsule objects */
    struct ast_call *hook AST_GUARDED_BY(lock);  /* borrowed: the install hook that runs */
    bool no_hooks AST_GUARDED_BY(lock);          /* the kernel stops */
};

/* --- registry.c --- */

void registry_uuid_add(struct ast_capsules *r, struct capsule *c);
void registry_uuid_remove(struct ast_capsules *r, struct capsule *c);
void registry_alive(struct ast_capsules *r, int delta);
void registry_signal(struct ast_capsules *r, struct capsule *c, enum capsule_ready now);
/* The seats of now in ascending order of ids; they outlive every look. free() it; NULL: no memory. */
struct capsule_seat **registry_seats(struct ast_capsules *r, size_t *ret_n);
struct capsule_seat *registry_seat_find(struct ast_capsules *r, struct ast_str id); /* NULL */
/* Finds or makes. */
AST_MUST_CHECK
enum ast_rc registry_seat_for(struct ast_capsules *r, struct ast_str id, struct capsule_seat **ret,
                              struct ast_err *err);
/* A lifecycle event {"capsule_id":id,key:value}; a failure is logged. */
void registry_event(struct ast_capsules *r, enum ast_event_kind kind, struct ast_str id,
                    const char *key, struct ast_str value);
void registry_publish_loaded(struct ast_capsules *r);

/* --- activity.c --- */

void activity_scrape(void *arg); /* refreshes the metrics of capsules */

/* --- load.c --- */

/* Loads `seat->dir` onto the seat, replacing what sits there. Takes the manifest. Publishes the
 * lifecycle event. */
AST_MUST_CHECK
enum ast_rc registry_seat_load(struct ast_capsules *r, struct capsule_seat *seat,
                               struct ast_manifest *manifest, struct ast_err *err);
void registry_seat_unload(struct ast_capsules *r, struct capsule_seat *seat);
/* Waits until the capsules are ready or have crashed, at most AST_CAPSULES_READY_MS; logs who
 * was not. */
void registry_wait_ready(struct ast_capsules *r, struct capsule *const *v, size_t n);
