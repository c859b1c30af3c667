/* The root user of spec 01 §17.2: made once, on the first boot. The record names `default`, the principal that the local
 * command line really acts as (spec 02 §23.3). And the links that the operator's settings ask for. */
#include "store/identity.h"
#include "base/log.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

static void assign(struct ast_store *store, const struct ast_kernel_link *link)
{
    AST_AUTO(ast_identity_op_done) struct ast_identity_op op = { .replace = false };
    struct ast_err err = AST_ERR_INIT;
    const char *method = link->method && *link->method ? link->method : "admin";

    enum ast_rc rc = ast_identity_prepare_assign(
        &op, ast_str_c(link->platform), ast_str_c(link->platform_user_id), ast_str_c(method),
        ast_str_c(link->astrid_user), &err);
    if (!rc)
        rc = ast_store_run(store, &op.op, &err);
    if (rc)
        ast_log_fields(AST_LOG_WARN, KERNEL_TARGET, "identity link of the settings skipped",
                       AST_F_CSTR("platform", link->platform),
                       AST_F_CSTR("platform_user_id", link->platform_user_id),
                       AST_F_CSTR("error", err.msg));
}

enum ast_rc kernel_identity_bootstrap(struct ast_store *store, const struct ast_kernel_config *cfg,
                                      struct ast_err *err)
{
    AST_AUTO(ast_identity_op_done) struct ast_identity_op op = { .replace = false };
    enum ast_rc rc =
        ast_identity_prepare_seed(&op, AST_STR("root"), AST_PRINCIPAL_DEFAULT, AST_STR("cli"),
                                  AST_STR("local"), AST_STR("system"), err);
    if (!rc)
        rc = ast_store_run(store, &op.op, err);
    for (size_t i = 0; !rc && i < cfg->link_count; i++)
        assign(store, &cfg->links[i]);
    return rc;
}
