/* The root user of spec 01 §17.2: made once, on the first boot. The record names `default`, the principal that the local
 * command line really acts as (spec 02 §23.3). */
#include "base/time.h"
#include "base/uuid.h"
#include "kernel/kernel_priv.h"
#include "store/kv.h"

#include "base/banned.h"

#define IDENTITY_NS AST_STR("system:identity")

struct root_user_op {
    struct ast_store_op op;
    struct ast_buf user, link;
    char uuid[AST_UUID_TEXT], user_key[AST_UUID_TEXT + 8];
};

static enum ast_rc apply_root_user(struct ast_store_op *op, struct ast_store_txn *txn,
                                   struct ast_err *err)
{
    struct root_user_op *r = AST_CONTAINER_OF(op, struct root_user_op, op);
    struct ast_str link_key = AST_STR("link/cli/local"), existing;

    if (ast_store_txn_get(txn, IDENTITY_NS, link_key, &existing))
        return AST_OK;
    enum ast_rc rc =
        ast_store_txn_put(txn, IDENTITY_NS, ast_str_c(r->user_key), ast_buf_view(&r->user), err);
    if (!rc)
        rc = ast_store_txn_put(txn, IDENTITY_NS, link_key, ast_buf_view(&r->link), err);
    if (!rc)
        rc = ast_store_txn_put(txn, IDENTITY_NS, AST_STR("name/root"), ast_str_c(r->uuid), err);
    return rc;
}

enum ast_rc kernel_identity_bootstrap(struct ast_store *store, struct ast_err *err)
{
    struct root_user_op r = { .op = { .apply = apply_root_user },
                              .user = AST_BUF_INIT(1024),
                              .link = AST_BUF_INIT(1024) };
    struct ast_uuid id = ast_uuid_v4();
    char stamp[AST_RFC3339_BYTES];
    struct ast_str now = ast_time_format(ast_wall_ns(), AST_TIME_Z, stamp);
    struct ast_str uuid = ast_uuid_format(&id, r.uuid);

    memcpy(r.user_key, "user/", 5);
    memcpy(r.user_key + 5, r.uuid, sizeof r.uuid);
    struct ast_jw w = AST_JW_INIT(&r.user);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "id", uuid);
    ast_jw_kv_string(&w, "principal", AST_PRINCIPAL_DEFAULT);
    ast_jw_kv_null(&w, "public_key");
    ast_jw_kv_string(&w, "display_name", AST_STR("root"));
    ast_jw_kv_string(&w, "created_at", now);
    ast_jw_end(&w);
    w = (struct ast_jw)AST_JW_INIT(&r.link);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "platform", AST_STR("cli"));
    ast_jw_kv_string(&w, "platform_user_id", AST_STR("local"));
    ast_jw_kv_string(&w, "astrid_user_id", uuid);
    ast_jw_kv_string(&w, "linked_at", now);
    ast_jw_kv_string(&w, "method", AST_STR("system"));
    ast_jw_end(&w);
    enum ast_rc rc = ast_buf_check(&r.user, "root user", err);
    if (!rc)
        rc = ast_buf_check(&r.link, "root user", err);
    if (!rc)
        rc = ast_store_run(store, &r.op, err);
    ast_buf_done(&r.user);
    ast_buf_done(&r.link);
    return rc;
}
