/* The lag notice: see lag_priv.h. */
#include "capsule/lag_priv.h"

#include "base/json.h"
#include "base/log.h"
#include "capsule/dispatch_priv.h"

#include "base/banned.h"

uint64_t lag_due(struct lag *l, int64_t now_ns)
{
    int64_t next = atomic_load(&l->next_ns);

    if (now_ns < next || !atomic_load(&l->pending) ||
        !atomic_compare_exchange_strong(&l->next_ns, &next, now_ns + LAG_NOTICE_NS))
        return 0; /* too early, nothing to tell, or somebody else tells it */
    return atomic_exchange(&l->pending, 0);
}

uint64_t lag_add(struct lag *l, int64_t now_ns)
{
    struct ast_metric_cell *cell = atomic_load_explicit(&l->cell, memory_order_relaxed);
    if (!cell) {
        struct ast_str label = AST_STR("capsule_dispatcher");
        cell = ast_metric_cell(AST_METRIC_BUS_LAGGED, &label, 1); /* the same for whoever asks */
        atomic_store_explicit(&l->cell, cell, memory_order_relaxed);
    }
    ast_metric_add(cell, 1);
    atomic_fetch_add(&l->pending, 1);
    return lag_due(l, now_ns);
}

void lag_publish(struct ast_bus *bus, uint64_t lost)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(256);
    const struct ast_msg_spec spec = { .topic = AST_STR("astrid.v1.event_bus.lagged"),
                                       .source_id = ast_uuid_v4(),
                                       .origin = "dispatcher" };
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg = NULL;

    if (!lost)
        return;
    const struct ast_log_field fields[] = { AST_F_U64("lagged_count", lost) };
    if (ast_log_enabled(AST_LOG_WARN, DISPATCH_TARGET))
        ast_log_write(AST_LOG_WARN, DISPATCH_TARGET, fields, AST_ARRAY_LEN(fields),
                      "Event bus broadcast channel lagged - %llu messages dropped",
                      (unsigned long long)lost);
    ast_buf_addf(&body, "{\"dropped\":%llu,\"lagged_count\":%llu,\"topic\":\"*\"}",
                 (unsigned long long)lost, (unsigned long long)lost);
    if (ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_buf_view(&body), &msg, &err))
        ast_log_warn(DISPATCH_TARGET, "lag notice not published: %s", err.msg);
    else
        (void)ast_bus_publish(bus, msg); /* nobody waits for its number */
}
