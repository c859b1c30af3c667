/* Mailboxes: the ordered queue of one (capsule, principal).
 *
 * A mailbox is made by the first item, runs one item at a time on a worker and is gone when it
 * is empty. The table is a hash cut into shards; a shard's lock guards the queues of its
 * mailboxes and is held for a few lines.
 *
 *            put                 task                  mailbox_next
 *   (none) ------> WAITING ------------> RUNNING ------------------> WAITING again, or gone
 */
#pragma once

#include "bus/message.h"
#include "capsule/invoke_priv.h"

#define MAILBOX_WAITING_MAX 64u    /* beside the running one, spec 04 §9.5 */
#define MAILBOX_PER_CAPSULE 10000u /* further principals share the system mailbox, spec 04 §9.5 */
#define MAILBOX_SHARDS      64u

struct capsule_seat;
struct capsule_handler;

/* What a mailbox knows of a chain; embedded in the dispatcher's. */
struct mailbox_chain {
    struct mailbox *home; /* where it began; stays until mailbox_chain_over() */
};

struct mailbox_item {
    /* With a chain both are borrowed from it, else owned: the message, and a reference to the set
     * the handler lives in. */
    struct ast_msg *msg;
    const struct capsule_handler *handler;
    struct mailbox_chain *chain; /* owned while the item waits or runs; NULL: a call of its own */
};

/* Owner: the table, under the shard's lock; `current`, `call` and `resume` belong to whoever
 * runs the item. */
struct mailbox {
    struct mailbox *next; /* in the bucket */
    uint64_t hash;
    struct mailboxes *table;
    struct capsule_seat *seat;
    struct ast_principal principal; /* empty: the system mailbox */
    bool busy;                      /* the task is posted or an item runs */
    bool running;                   /* an item was taken out and is not done */
    unsigned chains;                /* chains that began here and are not over */
    unsigned n, head, cap;
    struct mailbox_item *items; /* ring of cap slots: `few`, or owned */
    struct mailbox_item few[4];
    struct ast_task task;
    struct mailbox_item current;
    void (*resume)(struct mailbox *m); /* what the task does instead of taking an item */
    struct invocation call;
};

struct mailbox_shard {
    _Alignas(64) struct ast_lock lock;
    struct mailbox **buckets; /* owned; a power of two */
    size_t cap, n;
};

/* Threads: any. */
struct mailboxes {
    struct mailbox_shard shards[MAILBOX_SHARDS];
    atomic_size_t count;
    atomic_bool draining;
    struct ast_lock idle_lock;
    pthread_cond_t idle;
    /* Set at init. `post` hands a task to a worker; `run` deals with m->current and calls
     * mailbox_next() when it is done, now or later. */
    void (*post)(void *arg, struct ast_task *t);
    void (*run)(struct mailbox *m);
    void *arg;
};

void mailboxes_init(struct mailboxes *t, void (*post)(void *arg, struct ast_task *t),
                    void (*run)(struct mailbox *m), void *arg);
void mailboxes_done(struct mailboxes *t); /* empty */
/* Nothing is put any more: waits until the last mailbox is gone; false: the deadline (monotonic)
 * came first. */
bool mailboxes_drain(struct mailboxes *t, int64_t deadline_ns);

enum mailbox_put { MAILBOX_QUEUED, MAILBOX_FULL, MAILBOX_NO_MEMORY };
enum mailbox_put_kind {
    MAILBOX_SINGLE,
    MAILBOX_CHAIN_START, /* counts against the mailbox until mailbox_chain_over(chain->home) */
    MAILBOX_CHAIN_STEP,  /* a later step of an admitted chain: never refused for want of room */
};

/* Takes the item when it returns QUEUED. *ret_degraded: the capsule has too many mailboxes, the
 * system one took it. */
enum mailbox_put mailboxes_put(struct mailboxes *t, struct capsule_seat *seat,
                               struct ast_str principal, const struct mailbox_item *item,
                               enum mailbox_put_kind kind, bool *ret_degraded);

/* The current item is done with. The mailbox may be gone afterwards. */
void mailbox_next(struct mailbox *m);
void mailbox_chain_over(struct mailbox *home);
/* One mailbox, for those who watch. */
struct mailbox_load {
    const struct capsule_seat *seat;
    struct ast_principal principal; /* empty: the system mailbox */
    unsigned waiting, running;      /* items */
};
/* Copies a shard's mailboxes under its lock: at most `max`; returns how many there are, so a
 * larger number asks for another try. `shard` is below MAILBOX_SHARDS. */
size_t mailboxes_copy(struct mailboxes *t, size_t shard, struct mailbox_load *ret, size_t max);
/* One mailbox; nothing waits and runs when there is none. */
void mailboxes_look(struct mailboxes *t, const struct capsule_seat *seat, struct ast_str principal,
                    struct mailbox_load *ret);

/* Runs resume(m) on a worker, while the current item is under way. */
void mailbox_resume(struct mailbox *m, void (*resume)(struct mailbox *m));
