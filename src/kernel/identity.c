/* The root user of spec 01 §17.2: made once, on the first boot. The record names `default`, the principal that the local
 * command line really acts as (spec 02 §23.3). */
#include "store/identity.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

enum ast_rc kernel_identity_bootstrap(struct ast_store *store, struct ast_err *err)
{
    AST_AUTO(ast_identity_op_done) struct ast_identity_op op = { .replace = false };
    enum ast_rc rc =
        ast_identity_prepare_seed(&op, AST_STR("root"), AST_PRINCIPAL_DEFAULT, AST_STR("cli"),
                                  AST_STR("local"), AST_STR("system"), err);
    return rc ? rc : ast_store_run(store, &op.op, err);
}
