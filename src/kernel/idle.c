/* When a daemon that nobody uses ends itself (spec 01 §16.6). Pure. */
#include "base/time.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

#define DEFAULT_SECS        30u
#define FIRST_MS            5000u
#define PERSISTENT_EXTRA_MS 25000u
#define EPHEMERAL_CHECK_MS  1000u
#define PERSISTENT_CHECK_MS 15000u

struct kernel_idle_plan kernel_idle_plan(bool ephemeral, const char *text)
{
    uint64_t secs = 0;
    bool given =
        text && ast_str_to_u64(ast_str_c(text), &secs) && secs <= INT64_MAX / AST_NS_PER_SEC;

    return (struct kernel_idle_plan){
        .enabled = ephemeral || given,
        .timeout_ns = (int64_t)(given ? secs : DEFAULT_SECS) * AST_NS_PER_SEC,
        .first_ms = ephemeral ? FIRST_MS : FIRST_MS + PERSISTENT_EXTRA_MS,
        .period_ms = ephemeral ? EPHEMERAL_CHECK_MS : PERSISTENT_CHECK_MS,
    };
}
