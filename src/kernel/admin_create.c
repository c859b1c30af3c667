/* Principals come into being (spec 02 §14.1), many at a time when many are asked for.
 *
 * Invariant: a principal exists when its profile does, and then it has a home and an identity record. What fails half way
 * leaves none of the three.
 */
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "kernel/admin_priv.h"
#include "store/identity.h"
#include "store/secrets.h"

#include "base/banned.h"

/* ---- the request ---- */

static enum ast_rc read_create(struct admin_request *r, const struct ast_json *params,
                               struct ast_err *err)
{
    bool given;
    enum ast_rc rc = admin_read_name(r, params, err);
    if (!rc)
        rc = admin_read_list(params, AST_STR("groups"), &r->list, &given, err);
    if (!rc)
        rc = admin_read_list(params, AST_STR("grants"), &r->second, &given, err);
    /* A name that is none is refused by the runner, after the rights were checked. */
    if (!rc && ast_principal_valid(ast_str_c(r->name)))
        rc = ast_principal_parse(ast_str_c(r->name), &r->target, err);
    return rc;
}

static enum ast_rc check_new_name(struct admin_request *r, struct ast_err *err)
{
    struct ast_str name = ast_str_c(r->name);
    enum ast_rc rc = ast_principal_parse(name, &r->target, err);
    if (rc)
        return ast_wrap(err, rc, "invalid principal name");
    if (ast_str_eq(name, AST_PRINCIPAL_DEFAULT))
        return ast_fail(err, AST_E_INVALID,
                        "principal \"default\" is reserved for single-tenant bootstrap");
    if (ast_str_eq(name, AST_SECRET_SCOPE_HOST)) /* its secrets would be everybody's */
        return ast_fail(err, AST_E_INVALID,
                        "principal \"__host__\" is reserved for host-wide secrets");
    AST_AUTO(ast_cfree) char *path = ast_policy_profile_path(r->k->policy, name);
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "profile");
    return ast_fs_exists(path) ? ast_fail(err, AST_E_EXISTS, "principal %s already exists", r->name)
                               : AST_OK;
}

static enum ast_rc new_profile(struct admin_request *r, struct ast_profile **ret,
                               struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
    enum ast_rc rc = ast_profile_parse(AST_STR(""), &p, err);
    if (rc)
        return rc;
    if (r->list.n == 0 && !ast_strings_add(&r->list, AST_STR("agent")))
        return ast_fail(err, AST_E_NO_MEMORY, "profile");
    p->groups = r->list;
    p->grants = r->second;
    r->list = r->second = (struct ast_strings){ 0 };
    rc = ast_profile_check(p, err);
    if (rc)
        return ast_wrap(err, rc, "profile rejected");
    /* What is handed out here must be held: agent:create alone makes no administrators. */
    rc = ast_policy_may_confer(r->k->policy, ast_principal_str(&r->caller), &p->grants, &p->groups,
                               err);
    if (!rc)
        *ret = ast_steal(&p);
    return rc;
}

/* ---- birth ---- */

/* Everything of one group, pairwise. Owner: the admin thread. */
struct births {
    struct ast_kernel *k;
    struct admin_birth *v;
    size_t n;
    const char *home_failed;
    struct ast_identity_op *identity;
    struct ast_store_op **ops;
    struct ast_policy_newcomer *profiles;
};

static void run_identities(struct births *b)
{
    size_t ready = 0;

    for (size_t i = 0; i < b->n; i++)
        if (!b->v[i].rc)
            b->ops[ready++] = &b->identity[i].op;
    if (ready)
        ast_store_run_many(b->k->store, b->ops, ready);
    for (size_t i = 0; i < b->n; i++) {
        struct admin_birth *v = &b->v[i];
        if (!v->rc && b->identity[i].op.rc)
            v->rc = ast_fail(&v->err, b->identity[i].op.rc, "%s", b->identity[i].op.err.msg);
    }
}

/* With its profile the principal exists, and without a home it must not: its data would be another's. */
static enum ast_rc make_home(void *arg, size_t i, struct ast_err *err)
{
    struct births *b = arg;
    enum ast_rc rc = ast_home_ensure_principal(b->k->home, ast_principal_str(&b->v[i].name), err);
    return rc ? ast_wrap(err, rc, "%s", b->home_failed) : AST_OK;
}

static void undo(struct births *b, const struct admin_birth *v)
{
    AST_AUTO(ast_identity_op_done) struct ast_identity_op op = { .replace = false };
    struct ast_str name = ast_principal_str(&v->name);
    struct ast_err err = AST_ERR_INIT;

    enum ast_rc rc = ast_policy_remove_profile(b->k->policy, name, &err);
    if (!rc)
        rc = ast_identity_prepare_remove(&op, name, ADMIN_PLATFORM, &err);
    if (!rc)
        rc = ast_store_run(b->k->store, &op.op, &err);
    if (rc)
        ast_log_error(KERNEL_TARGET, "half-made principal %s stays: %s", v->name.name, err.msg);
}

static void run_profiles(struct births *b)
{
    for (size_t i = 0; i < b->n; i++)
        b->profiles[i] =
            (struct ast_policy_newcomer){ .principal = ast_principal_str(&b->v[i].name),
                                          .profile = b->v[i].profile,
                                          .rc = b->v[i].rc };
    ast_policy_add_profiles(b->k->policy, b->profiles, b->n, make_home, b);
    for (size_t i = 0; i < b->n; i++) {
        struct admin_birth *v = &b->v[i];
        const struct ast_policy_newcomer *p = &b->profiles[i];
        if (v->rc || !p->rc)
            continue;
        bool at_home = ast_str_starts(ast_str_c(p->err.msg), ast_str_c(b->home_failed));
        v->rc =
            ast_fail(&v->err, p->rc, "%s%s", at_home ? "" : "profile save failed: ", p->err.msg);
        undo(b, v);
    }
}

void admin_births(struct ast_kernel *k, struct admin_birth *births, size_t n,
                  const char *home_failed)
{
    struct births b = { .k = k, .v = births, .n = n, .home_failed = home_failed };
    AST_AUTO(ast_cfree) void *identity = b.identity = calloc(n, sizeof *b.identity);
    AST_AUTO(ast_cfree) void *ops = b.ops = calloc(n, sizeof(struct ast_store_op *));
    AST_AUTO(ast_cfree) void *profiles = b.profiles = calloc(n, sizeof *b.profiles);
    bool has_memory = identity && ops && profiles;

    for (size_t i = 0; i < n; i++) {
        struct admin_birth *v = &births[i];
        struct ast_str name = ast_principal_str(&v->name);
        v->err = (struct ast_err)AST_ERR_INIT;
        v->rc = has_memory ? admin_clear_remains(k, name, &v->err)
                           : ast_fail(&v->err, AST_E_NO_MEMORY, "principal");
        if (!v->rc)
            v->rc = ast_identity_prepare_enrol(&b.identity[i], name, ADMIN_PLATFORM,
                                               AST_STR("system"), &v->err);
        if (!v->rc)
            v->user = b.identity[i].user;
    }
    if (!has_memory)
        return;
    run_identities(&b);
    run_profiles(&b);
    for (size_t i = 0; i < n; i++)
        ast_identity_op_done(&b.identity[i]);
}

enum ast_rc admin_make_principal(struct ast_kernel *k, struct ast_str name,
                                 const struct ast_profile *profile, const char *home_failed,
                                 char ret_uuid[static AST_UUID_TEXT], struct ast_err *err)
{
    struct admin_birth v = { .profile = profile };
    enum ast_rc rc = ast_principal_parse(name, &v.name, err);
    if (rc)
        return rc;
    admin_births(k, &v, 1, home_failed);
    if (v.rc)
        return ast_fail(err, v.rc, "%s", v.err.msg);
    (void)ast_uuid_format(&v.user, ret_uuid);
    return AST_OK;
}

/* ---- running many requests ---- */

#define HOME_FAILED "principal home tree provisioning failed (rolled back)"

/* One wave: requests whose names differ. */
struct wave {
    struct admin_request *v[ADMIN_GROUP_MAX];
    struct ast_profile *profiles[ADMIN_GROUP_MAX];
    struct admin_birth births[ADMIN_GROUP_MAX];
    struct ast_str names[ADMIN_GROUP_MAX];
    size_t n;
};

static void answer(struct admin_request *r, const struct admin_birth *birth)
{
    char uuid[AST_UUID_TEXT];
    struct ast_jw w = admin_answer_begin(r);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "astrid_user_id", ast_uuid_format(&birth->user, uuid));
    ast_jw_kv_string(&w, "principal", ast_principal_str(&r->target));
    ast_jw_end(&w);
    admin_answer_end(r, &w);
}

static void run_wave(struct ast_kernel *k, struct wave *w)
{
    size_t alive = 0;

    if (!w->n)
        return;
    admin_births(k, w->births, w->n, HOME_FAILED);
    for (size_t i = 0; i < w->n; i++)
        if (!w->births[i].rc)
            w->names[alive++] = ast_principal_str(&w->births[i].name);
    admin_seed(k, w->names, alive);
    for (size_t i = 0; i < w->n; i++) {
        if (w->births[i].rc)
            w->v[i]->failure = w->births[i].err;
        else
            answer(w->v[i], &w->births[i]);
        ast_profile_unref(w->profiles[i]);
    }
}

/* Puts a request into the wave; its name must not be in it. */
static enum ast_rc enter(struct wave *w, struct ast_map *names, struct admin_request *r,
                         struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
    enum ast_rc rc = check_new_name(r, err);
    if (!rc)
        rc = new_profile(r, &profile, err);
    if (!rc && !ast_map_set(names, ast_str_c(r->name), r, NULL))
        rc = ast_fail(err, AST_E_NO_MEMORY, "principal");
    if (rc)
        return rc;
    w->v[w->n] = r;
    w->profiles[w->n] = ast_steal(&profile);
    w->births[w->n] = (struct admin_birth){ .name = r->target, .profile = w->profiles[w->n] };
    w->n++;
    return AST_OK;
}

/* Who asks for a name that a wave is making goes with the next one, and is told that it exists. */
static void run_create_many(struct admin_request *const *requests, size_t n)
{
    AST_AUTO(ast_cfree) struct wave *w = malloc(sizeof *w);
    struct admin_request *todo[ADMIN_GROUP_MAX];

    AST_ASSERT(n <= ADMIN_GROUP_MAX);
    memcpy(todo, requests, n * sizeof(struct admin_request *));
    while (n) {
        AST_AUTO(ast_map_done) struct ast_map names = { 0 };
        size_t later = 0;
        if (w)
            w->n = 0;
        for (size_t i = 0; i < n; i++) {
            struct ast_err err = AST_ERR_INIT;
            if (ast_map_get(&names, ast_str_c(todo[i]->name)))
                todo[later++] = todo[i];
            else if (w ? enter(w, &names, todo[i], &err)
                       : ast_fail(&err, AST_E_NO_MEMORY, "principal"))
                todo[i]->failure = err;
        }
        if (w)
            run_wave(requests[0]->k, w);
        n = later;
    }
}

const struct admin_row admin_create_rows[] = {
    { ADMIN_STR("AgentCreate"), ADMIN_STR("admin.agent.create"), ADMIN_STR("agent:create"),
      ADMIN_STR(""), ADMIN_GLOBAL, 0, true, ADMIN_STR("Success"), read_create, NULL,
      .run_many = run_create_many },
};
const size_t admin_create_row_count = AST_ARRAY_LEN(admin_create_rows);
