/* astrid:kv: the capsule's key-value store, one namespace per principal and capsule (spec 05 §8).
 *
 * A change is queued to the store's writer and the fiber parks until it is durable. The queued operation owns
 * copies of its texts and outlives the call when that is cancelled. A blocking permit is held while waiting for
 * the writer; reads answer at once from a snapshot and take none.
 */
#include <stdlib.h>

#include "host/host_priv.h"
#include "store/kv.h"

#include "base/banned.h"

#define NS_MAX AST_STORE_MAX_NS

/* --- Errors -------------------------------------------------------------------------------------- */

static int fail(struct ast_abi *a, struct ast_kv_error *reterr, enum ast_rc rc, const char *fn,
                const struct ast_err *err)
{
    switch (rc) {
    case AST_E_INVALID: reterr->tag = AST_KV_ERROR_INVALID_KEY; break;
    case AST_E_TOO_LARGE: reterr->tag = AST_KV_ERROR_TOO_LARGE; break;
    case AST_E_QUOTA: reterr->tag = AST_KV_ERROR_QUOTA; break;
    case AST_E_CONFLICT: reterr->tag = AST_KV_ERROR_CAS_MISMATCH; break;
    default:
        reterr->tag = AST_KV_ERROR_UNKNOWN;
        reterr->u.unknown =
            host_text(a, "%s: storage error: %s", fn, err->msg[0] ? err->msg : ast_rc_text(rc));
    }
    return AST_ABI_ERR;
}

/* --- The namespace of the running call ----------------------------------------------------------- */

struct ns {
    size_t n;
    char text[NS_MAX];
};

static enum ast_rc ns_of(const struct ast_host_call *call, struct ns *ret, struct ast_err *err)
{
    struct ast_str p = ast_principal_str(&call->invoking), id = call->env->capsule_id;
    static const char middle[] = ":capsule:";
    ret->n = p.n + (sizeof middle - 1) + id.n;
    if (ret->n > sizeof ret->text)
        return ast_fail(err, AST_E_INTERNAL, "capsule id of %zu bytes", id.n);
    memcpy(ret->text, p.p, p.n);
    memcpy(ret->text + p.n, middle, sizeof middle - 1);
    memcpy(ret->text + p.n + sizeof middle - 1, id.p, id.n);
    return AST_OK;
}

static inline struct ast_str ns_str(const struct ns *ns)
{
    return ast_str_n(ns->text, ns->n);
}

/* --- Changes ------------------------------------------------------------------------------------- */

/* One queued change with its texts behind it. */
struct change {
    struct host_change base;
    struct ast_kv_op kv;
    char texts[];
};

static void change_free(struct host_change *base)
{
    free(AST_CONTAINER_OF(base, struct change, base));
}

static struct ast_str place(char **at, struct ast_str s)
{
    struct ast_str out = ast_str_n(*at, s.n);
    if (s.n)
        memcpy(*at, s.p, s.n);
    *at += s.n;
    return out;
}

/* A copy of `op` that no longer points into guest memory. */
static struct change *change_new(struct ast_abi *a, const struct ast_kv_op *op)
{
    size_t texts = op->ns.n + op->key.n + op->value.n + op->expected.n;
    struct change *c = malloc(sizeof *c + texts);
    if (!c)
        return NULL;
    host_change_init(&c->base, a, change_free);
    c->kv = *op;
    char *at = c->texts;
    c->kv.ns = place(&at, op->ns);
    c->kv.key = place(&at, op->key);
    c->kv.value = place(&at, op->value);
    c->kv.expected = place(&at, op->expected);
    return c;
}

/* On the writer thread. */
static void change_done(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    struct change *c = AST_CONTAINER_OF(op, struct change, kv.op);
    host_change_done(&c->base, rc, err);
}

/* Checks, copies, queues and waits. `op` has kind and texts; *ret_count may be NULL. */
static enum ast_rc change(struct ast_abi *a, struct ast_kv_op *op, uint64_t *ret_count,
                          struct ast_err *err)
{
    struct ast_host_call *call = host_call(a);
    struct ns ns;
    enum ast_rc rc = ns_of(call, &ns, err);
    if (rc)
        return rc;
    op->ns = ns_str(&ns);
    op->quota_bytes = call->quotas.max_storage_bytes;
    op->value_limit = call->env->host->kv_value_max;
    rc = ast_kv_prepare(op, /* guest= */ true, err);
    if (rc)
        return rc;
    struct change *c = change_new(a, op); /* before the first park: the texts are the guest's */
    if (!c)
        return ast_fail(err, AST_E_NO_MEMORY, "%s", ast_rc_text(AST_E_NO_MEMORY));
    c->kv.op.done = change_done;
    rc = host_change_run(&c->base, a, &c->kv.op, err);
    if (!rc && ret_count)
        *ret_count = c->kv.ret_count;
    host_change_unref(&c->base);
    return rc;
}

int ast_kv_kv_set(struct ast_abi *a, struct ast_str key, struct ast_str value,
                  struct ast_kv_error *reterr)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_kv_op op = { .kind = AST_KV_SET, .key = key, .value = value };
    enum ast_rc rc = change(a, &op, NULL, &err);
    return rc ? fail(a, reterr, rc, "kv_set", &err) : AST_ABI_OK;
}

int ast_kv_kv_delete(struct ast_abi *a, struct ast_str key, struct ast_kv_error *reterr)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_kv_op op = { .kind = AST_KV_DELETE, .key = key };
    enum ast_rc rc = change(a, &op, NULL, &err);
    return rc ? fail(a, reterr, rc, "kv_delete", &err) : AST_ABI_OK;
}

int ast_kv_kv_clear_prefix(struct ast_abi *a, struct ast_str prefix, uint64_t *ret,
                           struct ast_kv_error *reterr)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_kv_op op = { .kind = AST_KV_CLEAR, .key = prefix };
    enum ast_rc rc = change(a, &op, ret, &err);
    return rc ? fail(a, reterr, rc, "kv_clear_prefix", &err) : AST_ABI_OK;
}

int ast_kv_kv_cas(struct ast_abi *a, struct ast_str key, struct ast_opt_str expected,
                  struct ast_str new, struct ast_kv_error *reterr)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_kv_op op = { .kind = AST_KV_CAS,
                            .key = key,
                            .value = new,
                            .expected = expected.v,
                            .has_expected = expected.has };
    enum ast_rc rc = change(a, &op, NULL, &err);
    return rc ? fail(a, reterr, rc, "kv_cas", &err) : AST_ABI_OK;
}

/* --- Reads --------------------------------------------------------------------------------------- */

static enum ast_rc get(struct ast_host_call *call, struct ast_str key, struct ast_opt_str *ret,
                       struct ast_err *err)
{
    struct ns ns;
    enum ast_rc rc = ns_of(call, &ns, err);
    if (rc)
        return rc;
    struct host_context *ctx = host_context(call);
    if (!ctx)
        return ast_fail(err, AST_E_NO_MEMORY, "%s", ast_rc_text(AST_E_NO_MEMORY));
    ast_buf_reset(&ctx->scratch);
    rc = ast_kv_get(call->env->host->store, ns_str(&ns), key, /* guest= */ true, &ctx->scratch,
                    &ret->has, err);
    if (!rc && ret->has)
        ret->v = ast_buf_view(&ctx->scratch);
    return rc;
}

int ast_kv_kv_get(struct ast_abi *a, struct ast_str key, struct ast_opt_str *ret,
                  struct ast_kv_error *reterr)
{
    struct ast_err err; /* not AST_ERR_INIT: zeroing a kilobyte would be a part of the price */
    err.rc = AST_OK;
    err.msg[0] = 0;
    enum ast_rc rc = get(host_call(a), key, ret, &err);
    return rc ? fail(a, reterr, rc, "kv_get", &err) : AST_ABI_OK;
}

struct listing {
    struct ast_arena *arena;
    struct ast_list_str *keys; /* room for AST_KV_MAX_LIST */
};

static bool add_key(void *arg, struct ast_str key)
{
    struct listing *l = arg;
    struct ast_str copy = ast_arena_dup(l->arena, key);
    if (!copy.p)
        return false; /* asked about afterwards */
    l->keys->v[l->keys->n++] = copy;
    return true;
}

/* At most `limit` keys, which is at most AST_KV_MAX_LIST. */
static enum ast_rc list(struct ast_abi *a, struct ast_str prefix, struct ast_str cursor,
                        size_t limit, struct ast_list_str *ret, bool *ret_more, struct ast_err *err)
{
    struct ast_host_call *call = host_call(a);
    struct ns ns;
    enum ast_rc rc = ns_of(call, &ns, err);
    if (rc)
        return rc;
    struct listing l = { .arena = ast_abi_arena(a), .keys = ret };
    ret->v = ast_arena_array(l.arena, limit, sizeof *ret->v);
    if (!ret->v)
        return ast_fail(err, AST_E_NO_MEMORY, "%s", ast_rc_text(AST_E_NO_MEMORY));
    rc = ast_kv_list(call->env->host->store, ns_str(&ns), prefix, cursor, limit, /* guest= */ true,
                     add_key, &l, ret_more, err);
    if (rc)
        return rc;
    return ast_arena_check(l.arena, err) ? AST_E_NO_MEMORY : AST_OK;
}

int ast_kv_kv_list_keys(struct ast_abi *a, struct ast_str prefix, struct ast_list_str *ret,
                        struct ast_kv_error *reterr)
{
    struct ast_err err = AST_ERR_INIT;
    bool more = false;
    enum ast_rc rc = list(a, prefix, AST_STR_NONE, AST_KV_MAX_LIST, ret, &more, &err);
    if (!rc && more)
        rc = AST_E_TOO_LARGE;
    return rc ? fail(a, reterr, rc, "kv_list_keys", &err) : AST_ABI_OK;
}

int ast_kv_kv_list_keys_page(struct ast_abi *a, struct ast_str prefix, struct ast_opt_str cursor,
                             uint32_t limit, struct ast_kv_key_page *ret,
                             struct ast_kv_error *reterr)
{
    if (limit == 0 || limit > AST_KV_MAX_LIST)
        limit = AST_KV_MAX_LIST;
    struct ast_err err = AST_ERR_INIT;
    bool more = false;
    enum ast_rc rc =
        list(a, prefix, cursor.has ? cursor.v : AST_STR_NONE, limit, &ret->keys, &more, &err);
    if (rc)
        return fail(a, reterr, rc, "kv_list_keys_page", &err);
    if (more && ret->keys.n) {
        ret->next_cursor.has = true;
        ret->next_cursor.v = ret->keys.v[ret->keys.n - 1];
    }
    return AST_ABI_OK;
}
