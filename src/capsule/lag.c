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
    ast_log_fields(AST_LOG_WARN, DISPATCH_TARGET, "Event bus lagged, events missed their handlers",
                   AST_F_U64("lagged_count", lost));
    ast_buf_addf(&body, "{\"dropped\":%llu,\"lagged_count\":%llu,\"topic\":\"*\"}",
                 (unsigned long long)lost, (unsigned long long)lost);
    if (ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_buf_view(&body), &msg, &err))
        ast_log_warn(DISPATCH_TARGET, "lag notice not published: %s", err.msg);
    else
        (void)ast_bus_publish(bus, msg); /* nobody waits for its number */
}
