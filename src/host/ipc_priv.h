/* The debug line that every bus call of a guest leaves (spec 05 §28): not the audit chain. */
#pragma once

#include "host/host_priv.h"

#define IPC_AUDIT "astrid.audit.ipc"

/* `error`: WIT name of the error; NULL: it went well and `bytes` counts (messages for poll and recv). */
static inline void ipc_audit(const struct ast_host_call *call, const char *fn, struct ast_str topic,
                             size_t bytes, const char *error)
{
    if (!ast_log_enabled(AST_LOG_DEBUG, IPC_AUDIT))
        return;
    const struct ast_log_field fields[] = {
        AST_F_STR("capsule_id", call->env->capsule_id),
        AST_F_STR("principal", ast_principal_str(&call->invoking)),
        AST_F_CSTR("fn", fn),
        AST_F_STR("topic", topic),
        error ? AST_F_CSTR("error", error) : AST_F_U64("bytes", bytes),
    };
    ast_log_write(AST_LOG_DEBUG, IPC_AUDIT, fields, AST_ARRAY_LEN(fields), "audit");
}
