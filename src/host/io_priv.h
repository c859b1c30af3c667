/* The debug line that every waiting or moving call of astrid:io leaves (spec 05 §28): not the audit chain. */
#pragma once

#include "base/time.h"
#include "host/host_priv.h"

#define IO_AUDIT "astrid.audit.io"

/* For io_audit_end(); 0 when nobody listens. */
static inline int64_t io_audit_begin(void)
{
    return ast_log_enabled(AST_LOG_DEBUG, IO_AUDIT) ? ast_mono_ns() : 0;
}

/* `error`: WIT name of the error, "" for none. */
static inline void io_audit_end(struct ast_abi *a, const char *fn, int64_t start, const char *error)
{
    if (!start)
        return;
    const struct ast_host_call *call = host_call(a);
    ast_log_fields(AST_LOG_DEBUG, IO_AUDIT, "audit", AST_F_STR("capsule_id", call->env->capsule_id),
                   AST_F_STR("principal", ast_principal_str(&call->invoking)), AST_F_CSTR("fn", fn),
                   AST_F_I64("elapsed_ms", (ast_mono_ns() - start) / AST_NS_PER_MS),
                   AST_F_CSTR("error", error));
}
