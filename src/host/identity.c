/* astrid:identity: which platform account belongs to which user (spec 05 §13).
 *
 * The store room checks texts and changes records; here is who may ask. A capsule never re-points an account that
 * belongs to somebody else: that is `already-linked`.
 */
#include "store/identity.h"

#include <stdlib.h>

#include "host/host_priv.h"

#include "base/banned.h"

#define IDENTITY_AUDIT "astrid.audit.identity"

static const struct {
    struct ast_str word;
    enum ast_identity_level level;
} levels[] = {
    { { "resolve", 7 }, AST_IDENTITY_LEVEL_RESOLVE },
    { { "link", 4 }, AST_IDENTITY_LEVEL_LINK },
    { { "admin", 5 }, AST_IDENTITY_LEVEL_ADMIN },
};

enum ast_identity_level ast_identity_level_of(struct ast_str word)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(levels); i++)
        if (ast_str_eq(levels[i].word, word))
            return levels[i].level;
    return AST_IDENTITY_LEVEL_NONE;
}

/* --- Errors and the record of calls -------------------------------------------------------------- */

/* One question of a guest, for the line it leaves behind. */
struct ask {
    struct ast_abi *a;
    const char *fn; /* "identity-link" */
    enum ast_identity_level needs;
    struct ast_str about; /* the account or the user it is about; a view of guest memory */
    struct ast_identity_error *reterr;
    bool is_lookup;
    struct host_deed deed;
};

static void begin_deed(struct ask *q, const struct ast_host_pair *args, size_t count)
{
    host_deed_begin(&q->deed, q->fn, args, count);
}

/* Changes and refusals are worth a line in every log, look-ups only in a talkative one. */
static void record(const struct ask *q, const char *error)
{
    const struct ast_host_call *call = host_call(q->a);
    bool is_change = q->needs > AST_IDENTITY_LEVEL_RESOLVE || error;
    host_deed_end(&q->deed, call, q->is_lookup, error);
    enum ast_log_level level = is_change ? AST_LOG_INFO : AST_LOG_DEBUG;
    if (!ast_log_enabled(level, IDENTITY_AUDIT))
        return;
    const struct ast_log_field fields[] = {
        AST_F_SECURITY,
        AST_F_STR("capsule_id", call->env->capsule_id),
        AST_F_STR("principal", ast_principal_str(&call->invoking)),
        AST_F_CSTR("fn", q->fn),
        AST_F_STR("about", q->about),
        AST_F_CSTR("error", error ? error : ""),
    };
    ast_log_write(level, IDENTITY_AUDIT, fields, AST_ARRAY_LEN(fields), "identity");
}

static int fail_tag(const struct ask *q, enum ast_identity_error_tag tag)
{
    q->reterr->tag = tag;
    record(q, ast_identity_error_name(tag));
    return AST_ABI_ERR;
}

/* `missing`: what NOT_FOUND means for this function. */
static int fail(const struct ask *q, enum ast_rc rc, enum ast_identity_error_tag missing,
                const struct ast_err *err)
{
    switch (rc) {
    case AST_E_INVALID: return fail_tag(q, AST_IDENTITY_ERROR_INVALID_INPUT);
    case AST_E_NOT_FOUND: return fail_tag(q, missing);
    case AST_E_CONFLICT: return fail_tag(q, AST_IDENTITY_ERROR_ALREADY_LINKED);
    case AST_E_CANCELLED:
    case AST_E_NO_MEMORY:
        q->reterr->u.unknown = host_text(q->a, "%s: %s", q->fn, ast_rc_text(rc));
        return fail_tag(q, AST_IDENTITY_ERROR_UNKNOWN);
    default:
        ast_log_warn(HOST_LOG, "%s: %s", q->fn, err->msg[0] ? err->msg : ast_rc_text(rc));
        return fail_tag(q, AST_IDENTITY_ERROR_STORE_UNAVAILABLE);
    }
}

/* The checks before the store is asked, in the order of spec 05 §13.2. */
static int admit(const struct ask *q)
{
    const struct ast_host_env *env = host_call(q->a)->env;
    if (!env->host->store)
        return fail_tag(q, AST_IDENTITY_ERROR_STORE_UNAVAILABLE);
    if (env->is_lifecycle || env->identity < q->needs)
        return fail_tag(q, AST_IDENTITY_ERROR_CAPABILITY_DENIED);
    return AST_ABI_OK;
}

/* --- Changes ------------------------------------------------------------------------------------- */

struct change {
    struct host_change base;
    struct ast_identity_op identity;
};

static void change_free(struct host_change *base)
{
    struct change *c = AST_CONTAINER_OF(base, struct change, base);
    ast_identity_op_done(&c->identity);
    free(c);
}

static struct change *change_new(struct ast_abi *a)
{
    struct change *c = calloc(1, sizeof *c);
    if (c)
        host_change_init(&c->base, a, change_free);
    return c;
}

/* On the writer thread. */
static void change_done(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    struct change *c = AST_CONTAINER_OF(op, struct change, identity.op);
    host_change_done(&c->base, rc, err);
}

/* Runs what was prepared with `rc`; gives the reference back. */
static int change_end(const struct ask *q, struct change *c, enum ast_rc rc,
                      enum ast_identity_error_tag missing, struct ast_err *err)
{
    if (!rc) {
        c->identity.op.done = change_done;
        rc = host_change_run(&c->base, q->a, &c->identity.op, err);
    }
    host_change_unref(&c->base);
    if (rc)
        return fail(q, rc, missing, err);
    record(q, /* error= */ NULL);
    return AST_ABI_OK;
}

/* The record of a wait must not point into guest memory. */
static void keep_about(struct ask *q)
{
    q->about = ast_arena_dup(ast_abi_arena(q->a), ast_str_first(q->about, AST_IDENTITY_MAX_KEY));
}

int ast_identity_identity_link(struct ast_abi *a,
                               const struct ast_identity_identity_link_request *request,
                               struct ast_identity_error *reterr)
{
    struct ask q = {
        .a = a,
        .fn = "identity-link",
        .needs = AST_IDENTITY_LEVEL_LINK,
        .about = request->platform_user_id,
        .reterr = reterr,
    };
    const struct ast_host_pair args[] = {
        { AST_STR("astrid_user_id"), request->astrid_user_id },
        { AST_STR("method"), request->method },
        { AST_STR("platform"), request->platform },
        { AST_STR("platform_user_id"), request->platform_user_id },
    };
    struct ast_err err = AST_ERR_INIT;
    struct ast_uuid user;

    begin_deed(&q, args, AST_ARRAY_LEN(args));
    keep_about(&q);
    if (!ast_uuid_parse(request->astrid_user_id, &user))
        return fail_tag(&q, AST_IDENTITY_ERROR_INVALID_INPUT);
    if (admit(&q))
        return AST_ABI_ERR;
    struct change *c = change_new(a);
    if (!c)
        return fail(&q, AST_E_NO_MEMORY, AST_IDENTITY_ERROR_UNKNOWN, &err);
    enum ast_rc rc = ast_identity_prepare_link(&c->identity, request->platform,
                                               request->platform_user_id, request->method, &user,
                                               /* replace= */ false, &err);
    return change_end(&q, c, rc, AST_IDENTITY_ERROR_USER_NOT_FOUND, &err);
}

int ast_identity_identity_unlink(struct ast_abi *a,
                                 const struct ast_identity_identity_unlink_request *request,
                                 struct ast_identity_error *reterr)
{
    struct ask q = {
        .a = a,
        .fn = "identity-unlink",
        .needs = AST_IDENTITY_LEVEL_LINK,
        .about = request->platform_user_id,
        .reterr = reterr,
    };
    const struct ast_host_pair args[] = {
        { AST_STR("platform"), request->platform },
        { AST_STR("platform_user_id"), request->platform_user_id },
    };
    struct ast_err err = AST_ERR_INIT;

    begin_deed(&q, args, AST_ARRAY_LEN(args));
    keep_about(&q);
    if (admit(&q))
        return AST_ABI_ERR;
    struct change *c = change_new(a);
    if (!c)
        return fail(&q, AST_E_NO_MEMORY, AST_IDENTITY_ERROR_UNKNOWN, &err);
    enum ast_rc rc = ast_identity_prepare_unlink(&c->identity, request->platform,
                                                 request->platform_user_id, &err);
    return change_end(&q, c, rc, AST_IDENTITY_ERROR_LINK_NOT_FOUND, &err);
}

int ast_identity_identity_create_user(
    struct ast_abi *a, const struct ast_identity_identity_create_user_request *request,
    struct ast_identity_identity_create_user_response *ret, struct ast_identity_error *reterr)
{
    struct ast_opt_str name = request->display_name;
    struct ask q = {
        .a = a,
        .fn = "identity-create-user",
        .needs = AST_IDENTITY_LEVEL_ADMIN,
        .about = name.has ? name.v : AST_STR_NONE,
        .reterr = reterr,
    };
    const struct ast_host_pair args[] = {
        { AST_STR("display_name"), q.about },
    };
    struct ast_err err = AST_ERR_INIT;
    char uuid[AST_UUID_TEXT];

    begin_deed(&q, args, AST_ARRAY_LEN(args));
    keep_about(&q);
    if (admit(&q))
        return AST_ABI_ERR;
    struct change *c = change_new(a);
    if (!c)
        return fail(&q, AST_E_NO_MEMORY, AST_IDENTITY_ERROR_UNKNOWN, &err);
    struct ast_str given = name.has && name.v.n ? name.v : AST_STR("");
    enum ast_rc rc =
        ast_identity_prepare_create(&c->identity, name.has ? given : AST_STR_NONE, &err);
    (void)ast_uuid_format(&c->identity.user, uuid); /* before the change may go */
    if (change_end(&q, c, rc, AST_IDENTITY_ERROR_UNKNOWN, &err))
        return AST_ABI_ERR;
    ret->user_id = ast_arena_dup(ast_abi_arena(a), ast_str_c(uuid));
    return AST_ABI_OK;
}

/* --- Look-ups: answered at once from a snapshot -------------------------------------------------- */

int ast_identity_identity_resolve(struct ast_abi *a,
                                  const struct ast_identity_identity_resolve_request *request,
                                  struct ast_identity_identity_resolve_response *ret,
                                  struct ast_identity_error *reterr)
{
    struct ask q = {
        .a = a,
        .fn = "identity-resolve",
        .needs = AST_IDENTITY_LEVEL_RESOLVE,
        .about = ast_str_first(request->platform_user_id, AST_IDENTITY_MAX_KEY),
        .reterr = reterr,
        .is_lookup = true,
    };
    const struct ast_host_pair args[] = {
        { AST_STR("platform"), request->platform },
        { AST_STR("platform_user_id"), request->platform_user_id },
    };
    AST_AUTO(ast_identity_user_done) struct ast_identity_user user = { .doc = NULL };
    struct ast_err err = AST_ERR_INIT;
    char uuid[AST_UUID_TEXT];

    begin_deed(&q, args, AST_ARRAY_LEN(args));
    if (admit(&q))
        return AST_ABI_ERR;
    enum ast_rc rc = ast_identity_resolve(host_call(a)->env->host->store, request->platform,
                                          request->platform_user_id, &user, &err);
    if (rc)
        return fail(&q, rc, AST_IDENTITY_ERROR_LINK_NOT_FOUND, &err);
    struct ast_arena *arena = ast_abi_arena(a);
    ret->user_id = ast_arena_dup(arena, ast_uuid_format(&user.id, uuid));
    ret->display_name.has = user.has_display_name;
    if (user.has_display_name)
        ret->display_name.v = ast_arena_dup(arena, user.display_name);
    record(&q, /* error= */ NULL);
    return AST_ABI_OK;
}

struct listing {
    struct ast_arena *arena;
    AST_VEC(struct ast_identity_platform_link) links;
    bool failed;
};

static bool add_link(void *arg, const struct ast_identity_link *link)
{
    struct listing *l = arg;
    char stamp[AST_RFC3339_BYTES];
    struct ast_identity_platform_link out = {
        .platform = ast_arena_dup(l->arena, link->platform),
        .platform_user_id = ast_arena_dup(l->arena, link->platform_user_id),
        .linked_at =
            ast_arena_dup(l->arena, ast_time_format(link->linked_ns, AST_TIME_OFFSET, stamp)),
        .method = ast_arena_dup(l->arena, link->method),
    };
    l->failed = ast_arena_check(l->arena, /* err= */ NULL) || !ast_vec_push(&l->links, out);
    return !l->failed;
}

/* Moves the list into the arena, which lives as long as the host call. */
static bool take_links(struct listing *l, struct ast_list_identity_platform_link *ret)
{
    bool ok = !l->failed;
    if (ok && l->links.n) {
        ret->v = ast_arena_array(l->arena, l->links.n, sizeof *ret->v);
        ok = ret->v != NULL;
        if (ok)
            memcpy(ret->v, l->links.v, l->links.n * sizeof *ret->v);
        ret->n = ok ? l->links.n : 0;
    }
    ast_vec_done(&l->links);
    return ok;
}

int ast_identity_identity_list_links(struct ast_abi *a, struct ast_str astrid_user_id,
                                     struct ast_list_identity_platform_link *ret,
                                     struct ast_identity_error *reterr)
{
    struct ask q = {
        .a = a,
        .fn = "identity-list-links",
        .needs = AST_IDENTITY_LEVEL_LINK,
        .about = ast_str_first(astrid_user_id, AST_IDENTITY_MAX_KEY),
        .reterr = reterr,
        .is_lookup = true,
    };
    const struct ast_host_pair args[] = {
        { AST_STR("astrid_user_id"), astrid_user_id },
    };
    struct listing l = { .arena = ast_abi_arena(a) };
    struct ast_err err = AST_ERR_INIT;
    struct ast_uuid user;

    begin_deed(&q, args, AST_ARRAY_LEN(args));
    if (!ast_uuid_parse(astrid_user_id, &user))
        return fail_tag(&q, AST_IDENTITY_ERROR_INVALID_INPUT);
    if (admit(&q))
        return AST_ABI_ERR;
    enum ast_rc rc = ast_identity_links(host_call(a)->env->host->store, &user, add_link, &l, &err);
    if (!take_links(&l, ret) && !rc)
        rc = AST_E_NO_MEMORY;
    if (rc)
        return fail(&q, rc, AST_IDENTITY_ERROR_UNKNOWN, &err);
    record(&q, /* error= */ NULL);
    return AST_ABI_OK;
}
