/* From an event to finished handler calls.
 *
 * On the publisher's thread: look up the handlers, append a reference to each mailbox, wake a
 * worker where the mailbox slept. Nothing there waits, allocates more than a mailbox, or touches
 * a guest.
 *
 * On a worker, per item:
 *
 *   admit (profile, enabled, fuel rate) -> lease -> call -> done -> settle -> next item
 *                                            |
 *                                            +-- pool is busy: in its line, no thread held
 *
 * Two or more handlers whose priorities differ form a chain: one item that travels from mailbox
 * to mailbox and carries the payload. differs: handlers of one priority are independent calls
 * (spec 04 §9.7).
 */
#include "capsule/dispatch_priv.h"

#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "bus/topic.h"
#include "capsule/registry_priv.h"

#include "base/banned.h"

/* Owner: the mailbox item that holds it. */
struct chain {
    struct mailbox_chain box;
    struct capsule_dispatch *dispatch;
    struct ast_msg *msg;          /* owned reference */
    struct capsule_handlers *set; /* owned reference */
    struct ast_str payload;       /* of the next step: the message's body or `replaced` */
    char *replaced;               /* owned */
    size_t at, n;
    const struct capsule_handler *steps[]; /* in order; borrowed from `set` */
};

/* --- Putting events into mailboxes (publisher's thread) --------------------------------------- */

void dispatch_dropped(struct capsule_dispatch *d, struct capsule_seat *seat,
                      struct ast_str principal, enum seat_drop why)
{
    if (!principal.n)
        principal = ast_principal_str(&d->owner->owner);
    seat_dropped(seat, why);
    capsule_ledger_dropped(d->owner->ledger, principal, ast_mono_ns());
}

static void log_refused(struct capsule_dispatch *d, struct capsule_seat *seat,
                        struct ast_str principal, const struct ast_msg *msg, enum mailbox_put put)
{
    uint64_t held;

    if (put == MAILBOX_NO_MEMORY) {
        dispatch_dropped(d, seat, principal, SEAT_DROP_NO_MEMORY);
        ast_log_fields(AST_LOG_ERROR, DISPATCH_TARGET, "Out of memory, dropping event",
                       AST_F_STR("capsule_id", seat->id), AST_F_STR("topic", msg->topic));
        return;
    }
    dispatch_dropped(d, seat, principal, SEAT_DROP_QUEUE_FULL);
    if (log_gate_pass(&seat->full_gate, 1, ast_mono_ns(), &held))
        ast_log_fields(
            AST_LOG_WARN, DISPATCH_TARGET,
            "Capsule dispatch queue full, dropping event (backpressure): no available capacity",
            AST_F_STR("capsule_id", seat->id), AST_F_STR("topic", msg->topic),
            AST_F_U64("not_logged", held));
}

static void note_lost(struct capsule_dispatch *d)
{
    lag_publish(d->owner->host->bus, lag_add(&d->lag, ast_mono_ns()));
}

static bool put(struct capsule_dispatch *d, struct ast_str principal,
                const struct mailbox_item *item, enum mailbox_put_kind kind)
{
    struct capsule_seat *seat = item->handler->seat;
    bool degraded;
    uint64_t held;

    enum mailbox_put result = mailboxes_put(&d->boxes, seat, principal, item, kind, &degraded);
    /* From here on the item may be done and gone: only refused ones are still ours. */
    if (degraded && log_gate_pass(&seat->degraded_gate, 1, ast_mono_ns(), &held))
        ast_log_fields(AST_LOG_ERROR, "astrid.audit.ipc",
                       "dispatcher: per-principal queue cap exceeded; degrading to shared queue",
                       AST_F_SECURITY, AST_F_STR("capsule", seat->id),
                       AST_F_U64("principal_key_count", MAILBOX_PER_CAPSULE),
                       AST_F_U64("not_logged", held));
    if (result == MAILBOX_QUEUED)
        return true;
    log_refused(d, seat, principal, item->msg, result);
    note_lost(d);
    return false;
}

static void deliver(struct capsule_dispatch *d, struct ast_str principal, struct ast_msg *msg,
                    const struct capsule_handler *handler)
{
    capsule_handlers_ref(handler->set);
    const struct mailbox_item item = { .msg = ast_msg_ref(msg), .handler = handler };
    if (!put(d, principal, &item, MAILBOX_SINGLE)) {
        ast_msg_unref(item.msg);
        capsule_handlers_unref(handler->set);
    }
}

static void chain_free(struct chain *c)
{
    ast_msg_unref(c->msg);
    capsule_handlers_unref(c->set);
    free(c->replaced);
    free(c);
}

static void start_chain(struct capsule_dispatch *d, struct ast_str principal, struct ast_msg *msg,
                        const struct capsule_matches *matches)
{
    struct chain *c = malloc(sizeof *c + matches->n * sizeof c->steps[0]);
    if (!c) {
        log_refused(d, matches->v[0]->seat, principal, msg, MAILBOX_NO_MEMORY);
        note_lost(d);
        return;
    }
    *c = (struct chain){
        .dispatch = d,
        .msg = ast_msg_ref(msg),
        .set = capsule_handlers_ref(matches->v[0]->set),
        .payload = msg->body,
        .n = matches->n,
    };
    for (size_t i = 0; i < matches->n; i++)
        c->steps[i] = matches->v[i];
    const struct mailbox_item item = { .msg = c->msg, .handler = c->steps[0], .chain = &c->box };
    if (!put(d, principal, &item, MAILBOX_CHAIN_START))
        chain_free(c);
}

/* The mailbox key: the message's principal; odd ones wait with the system's. */
static struct ast_str key_of(struct capsule_dispatch *d, const struct ast_msg *msg)
{
    uint64_t held;

    if (!msg->is_ipc || !msg->principal.n)
        return AST_STR_NONE;
    if (ast_principal_valid(msg->principal))
        return msg->principal;
    if (log_gate_pass(&d->invalid_gate, DISPATCH_LINES, ast_mono_ns(), &held))
        ast_log_fields(AST_LOG_WARN, DISPATCH_TARGET,
                       "IPC message has invalid principal string, ignoring",
                       AST_F_STR("principal", msg->principal), AST_F_U64("not_logged", held));
    return AST_STR_NONE;
}

/* Of an audit entry: the handlers whose capsule may read everybody's, and all when it is its owner's (spec 04 §7.8,
 * README §5 gap 46). */
static void scope_audit(const struct capsule_dispatch *d, const struct ast_msg *msg,
                        struct capsule_matches *m)
{
    const struct capsule_handler **kept;
    size_t n = 0;

    if (ast_str_eq(msg->principal, ast_principal_str(&d->owner->owner)))
        return;
    kept = malloc(m->n * sizeof(kept[0]));
    for (size_t i = 0; kept && i < m->n; i++)
        if (m->v[i]->has_firehose)
            kept[n++] = m->v[i];
    if (!kept)
        m->lost += m->n; /* nobody sees it, and it is told */
    free(m->many);
    m->many = kept;
    m->v = kept;
    m->n = n;
}

static void on_event(void *arg, struct ast_msg *msg)
{
    struct capsule_dispatch *d = arg;
    struct capsule_matches matches = { .n = 0 };
    struct capsule_handlers *set = NULL;

    if (ast_topic_is_secret(msg->topic))
        return;
    pthread_rwlock_rdlock(&d->swap);
    if (d->index)
        capsule_handlers_match(d->index, msg->topic, &matches);
    if (matches.n)
        set = capsule_handlers_ref(d->index);
    pthread_rwlock_unlock(&d->swap);
    if (matches.n && ast_topic_is_audit(msg->topic))
        scope_audit(d, msg, &matches);
    if (matches.lost) {
        ast_log_fields(AST_LOG_ERROR, DISPATCH_TARGET, "Out of memory, event misses handlers",
                       AST_F_STR("topic", msg->topic), AST_F_U64("handlers", matches.lost));
        note_lost(d);
    }
    if (matches.n) {
        struct ast_str principal = key_of(d, msg);
        if (matches.v[0]->priority != matches.v[matches.n - 1]->priority)
            start_chain(d, principal, msg, &matches);
        else
            for (size_t i = 0; i < matches.n; i++)
                deliver(d, principal, msg, matches.v[i]);
    }
    capsule_handlers_unref(set);
    capsule_matches_done(&matches);
}

/* --- What the worker asks for ------------------------------------------------------------------ */

static struct chain *chain_of(const struct mailbox_item *item)
{
    return item->chain ? AST_CONTAINER_OF(item->chain, struct chain, box) : NULL;
}

struct ast_str dispatch_payload(const struct mailbox *m)
{
    const struct chain *c = chain_of(&m->current);
    return c ? c->payload : m->current.msg->body;
}

void dispatch_replace_payload(struct mailbox *m, struct ast_str data)
{
    struct chain *c = chain_of(&m->current);
    char *copy = c ? ast_str_dup(data) : NULL;

    if (!c)
        return;
    if (!copy) {
        ast_log_fields(AST_LOG_ERROR, DISPATCH_TARGET,
                       "Out of memory, keeping the previous payload",
                       AST_F_STR("topic", c->msg->topic));
        return;
    }
    free(c->replaced);
    c->replaced = copy;
    c->payload = ast_str_n(copy, data.n);
}

void dispatch_advance(struct mailbox *m, enum seat_outcome outcome)
{
    struct chain *c = chain_of(&m->current);
    struct mailbox *home = NULL;

    ast_metric_add(m->seat->outcomes[outcome], 1);
    if (!c) {
        ast_msg_unref(m->current.msg);
        capsule_handlers_unref(m->current.handler->set);
    } else {
        bool more = outcome != SEAT_OUTCOME_DENY && outcome != SEAT_OUTCOME_FINAL;
        home = c->box.home;
        while (c && more && ++c->at < c->n) {
            const struct mailbox_item item = { .msg = c->msg,
                                               .handler = c->steps[c->at],
                                               .chain = &c->box };
            if (put(c->dispatch, ast_principal_str(&home->principal), &item, MAILBOX_CHAIN_STEP)) {
                c = NULL; /* it travels on */
                home = NULL;
            }
        }
        if (c)
            chain_free(c);
    }
    if (home)
        mailbox_chain_over(home);
    mailbox_next(m);
}

/* --- Life ------------------------------------------------------------------------------------- */

static void post(void *arg, struct ast_task *t)
{
    const struct capsule_dispatch *d = arg;
    ast_sched_post(d->owner->host->sched, t);
}

enum ast_rc capsule_dispatch_init(struct capsule_dispatch *d, struct ast_capsules *owner,
                                  struct ast_err *err)
{
    d->owner = owner;
    pthread_rwlock_init(&d->swap, NULL);
    mailboxes_init(&d->boxes, post, dispatch_invoke, d);
    enum ast_rc rc = ast_tap_open(owner->host->bus, "capsule_dispatcher", AST_STR_NONE, on_event, d,
                                  &d->tap, err);
    if (rc)
        capsule_dispatch_done(d);
    return rc;
}

void capsule_dispatch_swap(struct capsule_dispatch *d, struct capsule_handlers *index)
{
    pthread_rwlock_wrlock(&d->swap);
    struct capsule_handlers *old = d->index;
    d->index = index;
    pthread_rwlock_unlock(&d->swap);
    capsule_handlers_unref(old);
}

bool capsule_dispatch_close(struct capsule_dispatch *d, int64_t deadline_ns)
{
    atomic_store(&d->closing, true);
    ast_tap_close(ast_steal(&d->tap));
    return mailboxes_drain(&d->boxes, deadline_ns);
}

void capsule_dispatch_done(struct capsule_dispatch *d)
{
    if (!d->owner) /* never initialised, or done */
        return;
    mailboxes_done(&d->boxes);
    capsule_handlers_unref(ast_steal(&d->index));
    pthread_rwlock_destroy(&d->swap);
    d->owner = NULL;
}
