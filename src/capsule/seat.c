/* Seats: see seat_priv.h. */
#include "capsule/seat_priv.h"

#include <stdlib.h>

#include "capsule/runtime_priv.h"

#include "base/banned.h"

static const struct ast_str outcome_labels[] = {
#define X(id, label) AST_STR(label),
    SEAT_OUTCOME_MAP(X)
#undef X
};
static const struct ast_str drop_labels[] = {
#define X(id, label) AST_STR(label),
    SEAT_DROP_MAP(X)
#undef X
};

bool log_gate_pass(struct log_gate *g, unsigned burst, int64_t now_ns, uint64_t *ret_held)
{
    int64_t end = atomic_load_explicit(&g->window_end_ns, memory_order_relaxed);
    *ret_held = 0;
    if (now_ns >= end &&
        atomic_compare_exchange_strong_explicit(&g->window_end_ns, &end, now_ns + LOG_GATE_NS,
                                                memory_order_relaxed, memory_order_relaxed)) {
        uint64_t used = atomic_exchange_explicit(&g->used, 1, memory_order_relaxed);
        *ret_held = used > burst ? used - burst : 0;
        return true;
    }
    return atomic_fetch_add_explicit(&g->used, 1, memory_order_relaxed) < burst;
}

enum ast_rc seat_new(struct ast_str id, struct capsule_seat **ret, struct ast_err *err)
{
    struct capsule_seat *s = calloc(1, sizeof *s);
    char *name = ast_str_dup(id);
    if (!s || !name) {
        free(s);
        free(name);
        return ast_fail(err, AST_E_NO_MEMORY, "capsule seat");
    }
    s->id = ast_str_n(name, id.n);
    ast_lock_init(&s->lock, AST_LOCK_registry);
    for (size_t i = 0; i < SEAT_OUTCOME_COUNT; i++)
        s->outcomes[i] = ast_metric_cell(AST_METRIC_DISPATCH_OUTCOMES,
                                         (struct ast_str[]){ id, outcome_labels[i] }, 2);
    for (size_t i = 0; i < SEAT_DROP_COUNT; i++)
        s->drops[i] = ast_metric_cell(AST_METRIC_DISPATCH_DROPPED,
                                      (struct ast_str[]){ id, drop_labels[i] }, 2);
    s->restart_cell = ast_metric_cell(AST_METRIC_CAPSULE_RESTARTS, &id, 1);
    *ret = s;
    return AST_OK;
}

void seat_free(struct capsule_seat *s)
{
    if (!s)
        return;
    AST_ASSERT(!s->current && atomic_load(&s->mailboxes) == 0);
    ast_lock_done(&s->lock);
    free(s->dir);
    free(s->failure);
    free((char *)s->id.p);
    free(s);
}

struct capsule *seat_current(struct capsule_seat *s)
{
    AST_WITH_LOCK(&s->lock);
    return s->current ? capsule_ref(s->current) : NULL;
}

struct capsule *seat_replace(struct capsule_seat *s, struct capsule *c)
{
    AST_WITH_LOCK(&s->lock);
    struct capsule *old = s->current;
    s->current = c;
    return old;
}

void seat_dropped(struct capsule_seat *s, enum seat_drop why)
{
    atomic_fetch_add_explicit(&s->dropped, 1, memory_order_relaxed);
    ast_metric_add(s->drops[why], 1);
}
