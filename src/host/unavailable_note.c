/* What a capsule is told when it calls a function that this build does not have: once in the log, each time in
 * the answer. Nothing pretends success. */
#include "host/unavailable_priv.h"

#include "host/host_priv.h"

#include "base/banned.h"

struct ast_str host_unavailable(struct ast_abi *a, unsigned index, struct ast_str text)
{
    AST_ASSERT(index < HOST_UNAVAILABLE_MAX);
    struct ast_host_env *env = host_call(a)->env;
    uint64_t bit = UINT64_C(1) << (index % 64);
    if (!(atomic_fetch_or_explicit(&env->unavailable_said[index / 64], bit, memory_order_relaxed) &
          bit))
        ast_log_fields(AST_LOG_WARN, HOST_LOG,
                       "capsule called a function that this build does not have",
                       AST_F_STR("plugin", env->capsule_id), AST_F_STR("reason", text));
    return text;
}
