/* The table of mailboxes and their turns. */
#include "capsule/mailbox_priv.h"

#include <stdlib.h>

#include "capsule/seat_priv.h"

#include "base/banned.h"

#define FIRST_BUCKETS 8u
#define CHAINS_MAX    (MAILBOX_WAITING_MAX + 1)

static void run_task(struct ast_task *task);

void mailboxes_init(struct mailboxes *t, void (*post)(void *arg, struct ast_task *t),
                    void (*run)(struct mailbox *m), void *arg)
{
    *t = (struct mailboxes){ .post = post, .run = run, .arg = arg };
    for (size_t i = 0; i < MAILBOX_SHARDS; i++)
        ast_lock_init(&t->shards[i].lock, AST_LOCK_mailbox);
    ast_lock_init(&t->idle_lock, AST_LOCK_queue);
    ast_cond_init(&t->idle);
}

void mailboxes_done(struct mailboxes *t)
{
    AST_ASSERT(atomic_load(&t->count) == 0);
    for (size_t i = 0; i < MAILBOX_SHARDS; i++) {
        /* Whoever removed the last mailbox has left once its lock could be taken. */
        ast_lock(&t->shards[i].lock);
        ast_unlock(&t->shards[i].lock);
        free(t->shards[i].buckets);
        ast_lock_done(&t->shards[i].lock);
    }
    ast_lock_done(&t->idle_lock);
    pthread_cond_destroy(&t->idle);
}

bool mailboxes_drain(struct mailboxes *t, int64_t deadline_ns)
{
    AST_WITH_LOCK(&t->idle_lock);
    atomic_store(&t->draining, true); /* pairs with mailbox_drop(): count first, then this */
    while (atomic_load(&t->count) > 0)
        if (!ast_cond_wait(&t->idle, &t->idle_lock, deadline_ns))
            return atomic_load(&t->count) == 0;
    return true;
}

/* --- The hash --------------------------------------------------------------------------------- */

static uint64_t hash_key(const struct capsule_seat *seat, struct ast_str principal)
{
    uint64_t h =
        ast_str_hash(principal) ^ ((uint64_t)(uintptr_t)seat * UINT64_C(0x9e3779b97f4a7c15));
    h ^= h >> 29; /* the multiplication leaves the low bits of aligned pointers poor */
    return h * UINT64_C(0xbf58476d1ce4e5b9);
}

static struct mailbox_shard *shard_of(struct mailboxes *t, uint64_t hash)
{
    return &t->shards[hash >> 58];
}
_Static_assert(MAILBOX_SHARDS == 1u << (64 - 58), "the top bits choose the shard");

static struct mailbox *find(const struct mailbox_shard *s, uint64_t hash,
                            const struct capsule_seat *seat, struct ast_str principal)
{
    struct mailbox *m = s->cap ? s->buckets[hash & (s->cap - 1)] : NULL;
    while (m && (m->hash != hash || m->seat != seat ||
                 !ast_str_eq(ast_principal_str(&m->principal), principal)))
        m = m->next;
    return m;
}

static bool grow(struct mailbox_shard *s)
{
    size_t cap = s->cap ? s->cap * 2 : FIRST_BUCKETS;
    struct mailbox **buckets = calloc(cap, sizeof *buckets);
    if (!buckets)
        return s->cap > 0; /* longer chains, still right */
    for (size_t i = 0; i < s->cap; i++) {
        for (struct mailbox *m = s->buckets[i], *next; m; m = next) {
            next = m->next;
            m->next = buckets[m->hash & (cap - 1)];
            buckets[m->hash & (cap - 1)] = m;
        }
    }
    free(s->buckets);
    s->buckets = buckets;
    s->cap = cap;
    return true;
}

static struct mailbox *make(struct mailboxes *t, struct mailbox_shard *s, uint64_t hash,
                            struct capsule_seat *seat, struct ast_str principal)
    AST_REQUIRES(s->lock)
{
    if (s->n >= s->cap && !grow(s))
        return NULL;
    struct mailbox *m = malloc(sizeof *m);
    if (!m)
        return NULL;
    /* Not the whole of it: `call` and the ring are written before they are read. */
    m->hash = hash;
    m->table = t;
    m->seat = seat;
    m->principal = (struct ast_principal){ .n = (uint8_t)principal.n };
    if (principal.n)
        memcpy(m->principal.name, principal.p, principal.n);
    m->busy = m->running = false;
    m->chains = m->n = m->head = 0;
    m->items = m->few;
    m->cap = AST_ARRAY_LEN(m->few);
    m->task = (struct ast_task){ .run = run_task };
    m->resume = NULL;
    struct mailbox **bucket = &s->buckets[hash & (s->cap - 1)];
    m->next = *bucket;
    *bucket = m;
    s->n++;
    if (principal.n)
        atomic_fetch_add_explicit(&seat->mailboxes, 1, memory_order_relaxed);
    atomic_fetch_add(&t->count, 1);
    return m;
}

static bool is_idle(const struct mailbox *m)
{
    return !m->busy && !m->n && !m->chains;
}

/* Takes an idle mailbox out of the table and frees it. Under the lock to the end: see
 * mailboxes_done(). */
static void drop(struct mailbox_shard *s, struct mailbox *m) AST_REQUIRES(s->lock)
{
    struct mailboxes *t = m->table;
    struct mailbox **at = &s->buckets[m->hash & (s->cap - 1)];
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    s->n--;
    if (!s->n && s->cap > FIRST_BUCKETS) { /* memory follows the working set */
        free(s->buckets);
        s->buckets = NULL;
        s->cap = 0;
    }
    if (m->principal.n)
        atomic_fetch_sub_explicit(&m->seat->mailboxes, 1, memory_order_relaxed);
    if (m->items != m->few)
        free(m->items);
    free(m);
    if (atomic_fetch_sub(&t->count, 1) == 1 && atomic_load(&t->draining)) {
        AST_WITH_LOCK(&t->idle_lock);
        pthread_cond_broadcast(&t->idle);
    }
}

/* --- The ring --------------------------------------------------------------------------------- */

static bool push(struct mailbox *m, const struct mailbox_item *item)
{
    if (m->n == m->cap) {
        struct mailbox_item *items = malloc(2 * (size_t)m->cap * sizeof *items);
        if (!items)
            return false;
        for (unsigned i = 0; i < m->n; i++)
            items[i] = m->items[(m->head + i) & (m->cap - 1)];
        if (m->items != m->few)
            free(m->items);
        m->items = items;
        m->head = 0;
        m->cap *= 2;
    }
    m->items[(m->head + m->n++) & (m->cap - 1)] = *item;
    return true;
}

static struct mailbox_item pop(struct mailbox *m)
{
    struct mailbox_item item = m->items[m->head];
    m->head = (m->head + 1) & (m->cap - 1);
    m->n--;
    return item;
}

/* --- Turns ------------------------------------------------------------------------------------ */

enum mailbox_put mailboxes_put(struct mailboxes *t, struct capsule_seat *seat,
                               struct ast_str principal, const struct mailbox_item *item,
                               enum mailbox_put_kind kind, bool *ret_degraded)
{
    enum mailbox_put put = MAILBOX_QUEUED;
    struct ast_task *task = NULL;
    uint64_t hash = hash_key(seat, principal);
    struct mailbox_shard *s = shard_of(t, hash);

    *ret_degraded = false;
    ast_lock(&s->lock);
    struct mailbox *m = find(s, hash, seat, principal);
    if (!m && principal.n &&
        atomic_load_explicit(&seat->mailboxes, memory_order_relaxed) >= MAILBOX_PER_CAPSULE) {
        ast_unlock(&s->lock);
        put = mailboxes_put(t, seat, AST_STR_NONE, item, kind, ret_degraded);
        *ret_degraded = true;
        return put;
    }
    if (!m)
        m = make(t, s, hash, seat, principal);
    /* A first item whose task waits for a worker counts as the running one. */
    unsigned room = m && m->running ? MAILBOX_WAITING_MAX : MAILBOX_WAITING_MAX + 1;
    if (!m)
        put = MAILBOX_NO_MEMORY;
    else if ((kind != MAILBOX_CHAIN_STEP && m->n >= room) ||
             (kind == MAILBOX_CHAIN_START && m->chains >= CHAINS_MAX))
        put = MAILBOX_FULL;
    else if (!push(m, item))
        put = MAILBOX_NO_MEMORY;
    if (put == MAILBOX_QUEUED) {
        if (kind == MAILBOX_CHAIN_START) {
            m->chains++;
            item->chain->home = m;
        }
        if (!m->busy)
            task = &m->task;
        m->busy = true;
    } else if (m && is_idle(m)) {
        drop(s, m);
    }
    ast_unlock(&s->lock);
    if (task) /* nobody else can free a busy mailbox before its task ran */
        t->post(t->arg, task);
    return put;
}

static void run_task(struct ast_task *task)
{
    struct mailbox *m = AST_CONTAINER_OF(task, struct mailbox, task);
    struct mailbox_shard *s = shard_of(m->table, m->hash);

    if (m->resume) {
        void (*resume)(struct mailbox *) = m->resume;
        m->resume = NULL;
        resume(m);
        return;
    }
    ast_lock(&s->lock);
    m->current = pop(m);
    m->running = true;
    ast_unlock(&s->lock);
    m->table->run(m);
}

void mailbox_next(struct mailbox *m)
{
    struct mailboxes *t = m->table;
    struct mailbox_shard *s = shard_of(t, m->hash);
    bool more;

    ast_lock(&s->lock);
    m->running = false;
    more = m->n > 0;
    if (!more) {
        m->busy = false;
        if (is_idle(m))
            drop(s, m);
    }
    ast_unlock(&s->lock);
    if (more) /* to the end of the workers' queue: other principals get their turn */
        t->post(t->arg, &m->task);
}

void mailbox_chain_over(struct mailbox *home)
{
    struct mailbox_shard *s = shard_of(home->table, home->hash);
    AST_WITH_LOCK(&s->lock);
    home->chains--;
    if (is_idle(home))
        drop(s, home);
}

void mailbox_resume(struct mailbox *m, void (*resume)(struct mailbox *m))
{
    m->resume = resume;
    m->table->post(m->table->arg, &m->task);
}

/* --- Watching --------------------------------------------------------------------------------- */

static struct mailbox_load load_of(const struct mailbox *m)
{
    return (struct mailbox_load){ m->seat, m->principal, m->n, m->running };
}

size_t mailboxes_copy(struct mailboxes *t, size_t shard, struct mailbox_load *ret, size_t max)
{
    struct mailbox_shard *s = &t->shards[shard];
    size_t n = 0;

    AST_WITH_LOCK(&s->lock);
    if (s->n > max)
        return s->n;
    for (size_t i = 0; i < s->cap; i++)
        for (const struct mailbox *m = s->buckets[i]; m; m = m->next)
            ret[n++] = load_of(m);
    return n;
}

void mailboxes_look(struct mailboxes *t, const struct capsule_seat *seat, struct ast_str principal,
                    struct mailbox_load *ret)
{
    uint64_t hash = hash_key(seat, principal);
    struct mailbox_shard *s = shard_of(t, hash);

    AST_WITH_LOCK(&s->lock);
    const struct mailbox *m = find(s, hash, seat, principal);
    *ret = m ? load_of(m) : (struct mailbox_load){ .seat = seat };
}
