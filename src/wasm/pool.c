/* Instances of one module, and who may have them.
 *
 * Invariant: an instance that served a principal is leased to that principal or destroyed; the only exception
 * is a pinned pool. `live` counts every instance that exists or is being made, and never passes the larger
 * of max and idle_max. A lease slot goes straight from the one who returns it to the first in line.
 * Instances are made and destroyed outside the lock: both cost system calls, and destructors of handles run.
 */
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "wasm/wasm_priv.h"

#include "base/banned.h"

/* Owner: any thread, under `lock`; module and cfg are immutable. */
struct ast_pool {
    struct ast_lock lock;
    struct ast_module *module; /* reference */
    struct ast_pool_config cfg;
    unsigned cap;                              /* ceiling of live */
    struct ast_list idle AST_GUARDED_BY(lock); /* oldest first */
    unsigned live, idle_count, leased, waiting AST_GUARDED_BY(lock);
    struct ast_pool_waiter *first, *last AST_GUARDED_BY(lock);
    bool is_closing AST_GUARDED_BY(lock);
};

/* --- Making and destroying, without the lock ----------------------------------------------------- */

static enum ast_rc make(struct ast_pool *p, struct ast_instance **ret, struct ast_err *err)
{
    enum ast_rc rc = wasm_inst_new(p->module, ret, err);
    if (!rc && p->cfg.make)
        (*ret)->state = p->cfg.make(p->cfg.arg);
    return rc;
}

static void destroy(struct ast_pool *p, struct ast_instance *i)
{
    if (!i)
        return;
    wasm_handles_clear(&i->handles, p->module->engine); /* their destructors may use the state */
    if (i->state && p->cfg.free)
        p->cfg.free(i->state);
    wasm_inst_free(i);
}

/* --- The idle list ------------------------------------------------------------------------------- */

static struct ast_instance *from_link(struct ast_list *link)
{
    return AST_CONTAINER_OF(link, struct ast_instance, link);
}

static bool serves(const struct ast_pool *p, const struct ast_instance *i, struct ast_str principal)
{
    return p->cfg.pinned || (i->is_tagged && ast_str_eq(ast_str_n(i->tag, i->tag_n), principal));
}

static struct ast_instance *idle_take(struct ast_pool *p, struct ast_instance *i)
    AST_REQUIRES(p->lock)
{
    ast_list_remove(&i->link);
    p->idle_count--;
    return i;
}

/* The most recently returned one of that principal, else one that nobody has used yet. */
static struct ast_instance *idle_find(struct ast_pool *p, struct ast_str principal)
    AST_REQUIRES(p->lock)
{
    struct ast_instance *unused = NULL;
    for (struct ast_list *it = p->idle.prev; it != &p->idle; it = it->prev) {
        struct ast_instance *i = from_link(it);
        if (serves(p, i, principal))
            return idle_take(p, i);
        if (!i->is_tagged && !unused)
            unused = i;
    }
    return unused ? idle_take(p, unused) : NULL;
}

static struct ast_instance *idle_evict(struct ast_pool *p) AST_REQUIRES(p->lock)
{
    if (ast_list_empty(&p->idle))
        return NULL;
    p->live--;
    return idle_take(p, from_link(p->idle.next));
}

/* --- Leases -------------------------------------------------------------------------------------- */

static void tag(struct ast_instance *i, struct ast_str principal)
{
    i->is_tagged = true;
    i->tag_n = (uint8_t)principal.n;
    if (principal.n)
        memcpy(i->tag, principal.p, principal.n);
}

/* When the engine is full, our own idle instances make room. */
static enum ast_rc make_with_eviction(struct ast_pool *p, struct ast_instance **ret,
                                      struct ast_err *err)
{
    for (;;) {
        enum ast_rc rc = make(p, ret, err);
        if (!rc)
            return AST_OK;
        ast_lock(&p->lock);
        struct ast_instance *victim = idle_evict(p);
        if (!victim)
            p->live--;
        ast_unlock(&p->lock);
        if (!victim)
            return rc;
        destroy(p, victim);
    }
}

/* An instance for a slot that is already counted in `leased`. */
static enum ast_rc obtain(struct ast_pool *p, struct ast_str principal, struct ast_instance **ret,
                          struct ast_err *err)
{
    struct ast_instance *victim = NULL;
    ast_lock(&p->lock);
    struct ast_instance *i = idle_find(p, principal);
    if (!i) {
        if (p->live >= p->cap)
            victim = idle_evict(p);
        p->live++;
    }
    ast_unlock(&p->lock);
    destroy(p, victim);
    if (!i) {
        enum ast_rc rc = make_with_eviction(p, &i, err);
        if (rc)
            return rc;
    }
    tag(i, principal);
    *ret = i;
    return AST_OK;
}

static struct ast_pool_waiter *waiter_pop(struct ast_pool *p) AST_REQUIRES(p->lock)
{
    struct ast_pool_waiter *w = p->first;
    if (w) {
        p->first = w->next;
        if (!p->first)
            p->last = NULL;
        p->waiting--;
    }
    return w;
}

/* Gives a free slot to the first in line; one for whom no instance can be made gets NULL, then the next. */
static void slot_release(struct ast_pool *p)
{
    for (;;) {
        ast_lock(&p->lock);
        struct ast_pool_waiter *w = waiter_pop(p);
        if (!w)
            p->leased--;
        ast_unlock(&p->lock);
        if (!w)
            return;
        struct ast_instance *i = NULL;
        (void)obtain(p, w->principal, &i, /* err= */ NULL); /* the waiter learns it by the NULL */
        w->granted(w, i);
        if (i)
            return;
    }
}

enum ast_rc ast_pool_lease(struct ast_pool *p, struct ast_str principal, struct ast_pool_waiter *w,
                           struct ast_instance **ret, struct ast_err *err)
{
    if (principal.n > WASM_TAG_MAX)
        return ast_fail(err, AST_E_INVALID, "principal is longer than %d bytes", WASM_TAG_MAX);
    ast_lock(&p->lock);
    if (p->is_closing) {
        ast_unlock(&p->lock);
        return ast_fail(err, AST_E_CLOSED, "the instance pool is closing");
    }
    if (p->leased >= p->cfg.max) {
        w->next = NULL;
        w->principal = principal;
        if (p->last)
            p->last->next = w;
        else
            p->first = w;
        p->last = w;
        p->waiting++;
        ast_unlock(&p->lock);
        return AST_E_BUSY;
    }
    p->leased++;
    ast_unlock(&p->lock);

    enum ast_rc rc = obtain(p, principal, ret, err);
    if (rc)
        slot_release(p);
    return rc;
}

static bool may_be_kept(const struct ast_pool *p, struct ast_instance *i, bool clean)
{
    if (!clean || i->is_spent)
        return false;
    if (p->cfg.pinned)
        return true;
    uint64_t initial = p->module->info.initial_memory_bytes;
    return i->calls < AST_POOL_MAX_CALLS &&
           ast_instance_memory(i) <= AST_MAX((uint64_t)AST_POOL_MAX_KEEP_BYTES, initial);
}

void ast_pool_return(struct ast_pool *p, struct ast_instance *i, bool clean)
{
    AST_ASSERT(i->magic == WASM_INSTANCE_MAGIC && !i->call);
    i->calls++;
    if (!p->cfg.pinned)
        wasm_handles_clear(&i->handles, p->module->engine);
    if (i->state && p->cfg.reset)
        p->cfg.reset(i->state);
    bool keep = may_be_kept(p, i, clean);

    struct ast_instance *dead = i, *victim = NULL;
    i->idle_since_ns = ast_mono_ns();
    ast_lock(&p->lock);
    AST_ASSERT(p->leased > 0);
    if (keep && !p->is_closing) {
        ast_list_push_back(&p->idle, &i->link);
        p->idle_count++;
        dead = NULL;
        if (p->idle_count > p->cfg.idle_max)
            victim = idle_evict(p);
    } else {
        p->live--;
    }
    bool has_line = p->first != NULL;
    if (!has_line)
        p->leased--;
    ast_unlock(&p->lock);
    destroy(p, dead);
    destroy(p, victim);
    if (has_line)
        slot_release(p);
}

/* --- Life of the pool ---------------------------------------------------------------------------- */

enum ast_rc ast_pool_new(struct ast_module *m, const struct ast_pool_config *cfg,
                         struct ast_pool **ret, struct ast_err *err)
{
    AST_ASSERT(cfg->max > 0);
    AST_AUTO(ast_pool_free) struct ast_pool *p = calloc(1, sizeof *p);
    if (!p)
        return ast_fail(err, AST_E_NO_MEMORY, "instance pool");
    ast_lock_init(&p->lock, AST_LOCK_pool);
    ast_list_init(&p->idle);
    p->module = ast_module_ref(m);
    p->cfg = *cfg;
    if (cfg->pinned)
        p->cfg.max = p->cfg.idle_max = 1;
    p->cap = AST_MAX(p->cfg.max, p->cfg.idle_max);
    unsigned first = AST_MIN(p->cfg.min_idle, p->cap);
    p->cfg.idle_max = AST_MAX(p->cfg.idle_max, first);
    for (unsigned k = 0; k < first; k++) {
        struct ast_instance *i;
        enum ast_rc rc = make(p, &i, err);
        if (rc)
            return ast_wrap(err, rc, "Failed to instantiate WASM component"); /* spec 05 §2.1 */
        i->idle_since_ns = ast_mono_ns();
        ast_list_push_back(&p->idle, &i->link);
        p->idle_count++;
        p->live++;
    }
    *ret = ast_steal(&p);
    return AST_OK;
}

/* Moves idle instances that pass `is_old` out of the pool and destroys them. */
static void drop_idle(struct ast_pool *p, unsigned keep, int64_t older_than_ns)
{
    for (;;) {
        struct ast_instance *victim = NULL;
        ast_lock(&p->lock);
        if (p->idle_count > keep && from_link(p->idle.next)->idle_since_ns <= older_than_ns)
            victim = idle_evict(p);
        ast_unlock(&p->lock);
        if (!victim)
            return;
        destroy(p, victim);
    }
}

void ast_pool_trim(struct ast_pool *p, int64_t now_ns)
{
    if (!p->cfg.pinned)
        drop_idle(p, p->cfg.min_idle, now_ns - AST_POOL_IDLE_SECS * AST_NS_PER_SEC);
}

void ast_pool_close(struct ast_pool *p)
{
    ast_lock(&p->lock);
    p->is_closing = true;
    ast_unlock(&p->lock);
    for (;;) {
        ast_lock(&p->lock);
        struct ast_pool_waiter *w = waiter_pop(p);
        ast_unlock(&p->lock);
        if (!w)
            break;
        w->granted(w, NULL);
    }
    drop_idle(p, 0, INT64_MAX);
}

void ast_pool_free(struct ast_pool *p)
{
    if (!p)
        return;
    ast_pool_close(p);
    AST_ASSERT(p->leased == 0 && p->live == 0);
    ast_lock_done(&p->lock);
    ast_module_unref(p->module);
    free(p);
}

void ast_pool_stats(struct ast_pool *p, struct ast_pool_stats *ret)
{
    AST_WITH_LOCK(&p->lock);
    *ret = (struct ast_pool_stats){
        .live = p->live, .idle = p->idle_count, .leased = p->leased, .waiting = p->waiting
    };
}
