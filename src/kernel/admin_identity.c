/* The identity record of an agent: a user of that name, linked to cli/<name> (spec 02 §23.3). The record names the principal
 * itself, not one derived from its name. */
#include <stdio.h>

#include "base/time.h"
#include "base/uuid.h"
#include "kernel/admin_priv.h"
#include "store/kv.h"

#include "base/banned.h"

#define IDENTITY_NS AST_STR("system:identity")
#define LINK_PREFIX AST_STR("link/")
#define KEY_BYTES   128u /* "link/cli/" + 64, "user/" + uuid, "name/" + 64 */

struct identity_op {
    struct ast_store_op op;
    struct ast_str uuid;
    char link_key[KEY_BYTES], user_key[KEY_BYTES], name_key[KEY_BYTES];
    struct ast_buf user, link;
};

static void set_key(char out[static KEY_BYTES], const char *prefix, struct ast_str rest)
{
    int n = snprintf(out, KEY_BYTES, "%s" AST_STR_FMT, prefix, AST_STR_ARG(rest));
    AST_ASSERT(n > 0 && n < (int)KEY_BYTES); /* a principal or a UUID fits */
}

static enum ast_rc apply_add(struct ast_store_op *op, struct ast_store_txn *txn,
                             struct ast_err *err)
{
    struct identity_op *a = AST_CONTAINER_OF(op, struct identity_op, op);
    enum ast_rc rc =
        ast_store_txn_put(txn, IDENTITY_NS, ast_str_c(a->user_key), ast_buf_view(&a->user), err);
    if (rc)
        return ast_wrap(err, rc, "identity store create_user failed");
    rc = ast_store_txn_put(txn, IDENTITY_NS, ast_str_c(a->name_key), a->uuid, err);
    if (!rc)
        rc = ast_store_txn_put(txn, IDENTITY_NS, ast_str_c(a->link_key), ast_buf_view(&a->link),
                               err);
    return rc ? ast_wrap(err, rc, "identity store link failed") : AST_OK;
}

static void write_records(struct identity_op *a, struct ast_str name)
{
    char stamp[AST_RFC3339_BYTES];
    struct ast_str now = ast_time_format(ast_wall_ns(), AST_TIME_Z, stamp);
    struct ast_jw w = AST_JW_INIT(&a->user);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "id", a->uuid);
    ast_jw_kv_string(&w, "principal", name);
    ast_jw_kv_null(&w, "public_key");
    ast_jw_kv_string(&w, "display_name", name);
    ast_jw_kv_string(&w, "created_at", now);
    ast_jw_end(&w);
    w = (struct ast_jw)AST_JW_INIT(&a->link);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "platform", AST_STR("cli"));
    ast_jw_kv_string(&w, "platform_user_id", name);
    ast_jw_kv_string(&w, "astrid_user_id", a->uuid);
    ast_jw_kv_string(&w, "linked_at", now);
    ast_jw_kv_string(&w, "method", AST_STR("system"));
    ast_jw_end(&w);
}

enum ast_rc admin_identity_add(struct ast_store *store, struct ast_str name,
                               char ret_uuid[static AST_UUID_TEXT], struct ast_err *err)
{
    struct identity_op a = { .op = { .apply = apply_add },
                             .user = AST_BUF_INIT(1024),
                             .link = AST_BUF_INIT(1024) };
    struct ast_uuid id = ast_uuid_v4();

    a.uuid = ast_uuid_format(&id, ret_uuid);
    set_key(a.user_key, "user/", a.uuid);
    set_key(a.name_key, "name/", name);
    set_key(a.link_key, "link/cli/", name);
    write_records(&a, name);
    enum ast_rc rc = ast_buf_check(&a.user, "identity record", err);
    if (!rc)
        rc = ast_buf_check(&a.link, "identity record", err);
    if (!rc)
        rc = ast_store_run(store, &a.op, err);
    ast_buf_done(&a.user);
    ast_buf_done(&a.link);
    return rc;
}

/* ---- removal ---- */

/* Every link that names the user. */
struct links_of {
    struct ast_str uuid;
    struct ast_strings keys;
    bool complete;
};

static bool collect_link(void *arg, struct ast_str key, struct ast_str value)
{
    struct links_of *l = arg;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;

    if (ast_str_find(value, l->uuid) == AST_STR_NPOS || ast_json_parse(value, &doc, NULL) ||
        !ast_str_eq(ast_json_str_or(ast_json_root(doc), AST_STR("astrid_user_id"), AST_STR_NONE),
                    l->uuid))
        return true;
    l->complete = ast_strings_add(&l->keys, key);
    return l->complete;
}

static enum ast_rc remove_links(struct ast_store_txn *txn, struct ast_str uuid, struct ast_err *err)
{
    struct links_of l = { .uuid = uuid, .complete = true };
    enum ast_rc rc =
        ast_store_txn_scan(txn, IDENTITY_NS, LINK_PREFIX, AST_STR_NONE, collect_link, &l, err);

    if (!rc && !l.complete)
        rc = ast_fail(err, AST_E_NO_MEMORY, "links");
    for (size_t i = 0; !rc && i < l.keys.n; i++)
        rc = ast_store_txn_delete(txn, IDENTITY_NS, l.keys.v[i], NULL, err);
    ast_strings_done(&l.keys);
    return rc ? ast_wrap(err, rc, "identity store unlink failed") : AST_OK;
}

/* The name index goes with the user it means. */
static enum ast_rc remove_user(struct ast_store_txn *txn, struct ast_str uuid, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    char user_key[KEY_BYTES];
    struct ast_str stored, name, meant;
    enum ast_rc rc = AST_OK;

    set_key(user_key, "user/", ast_str_first(uuid, AST_UUID_TEXT));
    if (ast_store_txn_get(txn, IDENTITY_NS, ast_str_c(user_key), &stored) &&
        !ast_json_parse(stored, &doc, NULL) &&
        ast_json_string(ast_json_member(ast_json_root(doc), "display_name"), &name)) {
        AST_AUTO(ast_buf_done) struct ast_buf key = AST_BUF_INIT(512);
        ast_buf_add_lit(&key, "name/");
        ast_buf_add(&key, ast_str_trim(name));
        if (!key.fail && ast_store_txn_get(txn, IDENTITY_NS, ast_buf_view(&key), &meant) &&
            ast_str_eq(meant, uuid))
            rc = ast_store_txn_delete(txn, IDENTITY_NS, ast_buf_view(&key), NULL, err);
    }
    if (!rc)
        rc = ast_store_txn_delete(txn, IDENTITY_NS, ast_str_c(user_key), NULL, err);
    return rc ? ast_wrap(err, rc, "identity store delete_user failed") : AST_OK;
}

static enum ast_rc apply_remove(struct ast_store_op *op, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    struct identity_op *a = AST_CONTAINER_OF(op, struct identity_op, op);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_str stored, uuid = AST_STR_NONE;

    if (!ast_store_txn_get(txn, IDENTITY_NS, ast_str_c(a->link_key), &stored))
        return AST_OK;
    enum ast_rc rc = ast_json_parse(stored, &doc, err);
    if (rc)
        return ast_wrap(err, rc, "identity store resolve failed");
    rc = ast_store_txn_delete(txn, IDENTITY_NS, ast_str_c(a->link_key), NULL, err);
    if (rc)
        return ast_wrap(err, rc, "identity store unlink failed");
    if (!ast_json_string(ast_json_member(ast_json_root(doc), "astrid_user_id"), &uuid) ||
        uuid.n != AST_UUID_TEXT - 1)
        return AST_OK; /* it meant nobody */
    rc = remove_links(txn, uuid, err);
    return rc ? rc : remove_user(txn, uuid, err);
}

enum ast_rc admin_identity_remove(struct ast_store *store, struct ast_str name, struct ast_err *err)
{
    struct identity_op a = { .op = { .apply = apply_remove } };

    set_key(a.link_key, "link/cli/", name);
    return ast_store_run(store, &a.op, err);
}
