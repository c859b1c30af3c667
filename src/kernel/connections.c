/* The connection tracker: counts per principal for the roster, sockets for the idle decision. The doors tell it directly,
 * so no capsule can distort it by publishing client.v1.* messages. */
#include <stdlib.h>

#include "base/log.h"
#include "base/vec.h"
#include "bus/metrics.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

void kernel_connections_init(struct kernel_connections *c)
{
    ast_lock_init(&c->lock, AST_LOCK_kernel);
}

void kernel_connections_done(struct kernel_connections *c)
{
    ast_map_done(&c->counts);
    ast_lock_done(&c->lock);
}

/* Adds `delta`; returns the count before and stores the one after. A close at zero changes nothing. */
static uintptr_t count_change(struct kernel_connections *c, struct ast_str principal, int delta,
                              uintptr_t *ret_after)
{
    AST_WITH_LOCK(&c->lock);
    uintptr_t before = (uintptr_t)ast_map_get(&c->counts, principal);
    *ret_after = before;
    if (delta < 0 && before == 0)
        return before;
    uintptr_t after = delta < 0 ? before - 1 : before + 1;
    if (after == 0)
        ast_map_remove(&c->counts, principal);
    else if (!ast_map_set(&c->counts, principal, (void *)after, NULL))
        return before; /* out of memory: the roster misses one, nothing else */
    c->total = delta < 0 ? c->total - 1 : c->total + 1;
    *ret_after = after;
    return before;
}

static void gauge_add(int64_t delta)
{
    ast_metric_gauge_add(ast_metric_cell(AST_METRIC_ACTIVE_CONNECTIONS, NULL, 0), delta);
    ast_metric_add(
        ast_metric_cell(delta > 0 ? AST_METRIC_CONNECTIONS_OPENED : AST_METRIC_CONNECTIONS_CLOSED,
                        NULL, 0),
        1);
}

void ast_kernel_client_opened(struct ast_kernel *k, struct ast_str principal)
{
    uintptr_t after, before = count_change(&k->connections, principal, 1, &after);
    if (before != after)
        gauge_add(1);
}

void ast_kernel_client_closed(struct ast_kernel *k, struct ast_str principal)
{
    uintptr_t after, before = count_change(&k->connections, principal, -1, &after);
    if (before == after)
        return;
    gauge_add(-1);
    if (after)
        return;
    ast_allowances_end_session(k->allowances, principal);
    ast_log_fields(AST_LOG_INFO, KERNEL_TARGET,
                   "last connection for principal disconnected, session state cleared",
                   AST_F_STR("principal", principal));
}

void ast_kernel_socket_count(struct ast_kernel *k, int delta)
{
    AST_WITH_LOCK(&k->connections.lock);
    k->connections.sockets += delta;
}

uint64_t kernel_connections_total(struct kernel_connections *c)
{
    AST_WITH_LOCK(&c->lock);
    return c->total;
}

bool kernel_connections_any(struct kernel_connections *c)
{
    AST_WITH_LOCK(&c->lock);
    return c->sockets > 0;
}

bool kernel_connections_idle(struct kernel_connections *c)
{
    AST_WITH_LOCK(&c->lock);
    return c->total == 0 && c->sockets == 0;
}

struct roster_row {
    struct ast_str principal;
    uintptr_t count;
};

static int cmp_row(const void *a, const void *b)
{
    return ast_str_cmp(((const struct roster_row *)a)->principal,
                       ((const struct roster_row *)b)->principal);
}

bool kernel_connections_json(struct kernel_connections *c, struct ast_jw *w)
{
    AST_VEC(struct roster_row) rows = { 0 };
    size_t pos = 0;
    struct ast_str key;
    void *value;

    AST_WITH_LOCK(&c->lock); /* keys are borrowed from the map while we write */
    while (ast_map_next(&c->counts, &pos, &key, &value))
        if (!ast_vec_push(&rows, ((struct roster_row){ key, (uintptr_t)value })))
            break;
    if (rows.n == 0)
        return false;
    qsort(rows.v, rows.n, sizeof *rows.v, cmp_row);
    ast_jw_array(w);
    ast_vec_each (&rows, row) {
        ast_jw_object(w);
        ast_jw_kv_u64(w, "count", row->count);
        ast_jw_kv_string(w, "principal", row->principal);
        ast_jw_end(w);
    }
    ast_jw_end(w);
    ast_vec_done(&rows);
    return true;
}
