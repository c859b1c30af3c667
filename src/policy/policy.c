/* The cache of profiles and the evaluation of rights. Snapshots are shared and immutable; a generation number per
 * principal keeps a slow load from storing what a change has made stale. */
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/map.h"
#include "base/thread.h"
#include "policy/capability.h"
#include "policy/policy_priv.h"

#include "base/banned.h"

enum ast_rc ast_policy_open(const struct ast_home *home, struct ast_policy **ret,
                            struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(home, AST_HOME_GROUPS);
    AST_AUTO(ast_policy_close) struct ast_policy *p = calloc(1, sizeof *p);
    if (!p || !path) {
        free(ast_steal(&p));
        return ast_fail(err, AST_E_NO_MEMORY, "policy");
    }
    ast_lock_init(&p->lock, AST_LOCK_cache);
    p->home = home;
    enum ast_rc rc = policy_groups_load(path, &p->groups, err);
    if (rc)
        return ast_wrap(err, rc, "Failed to load groups config");
    *ret = ast_steal(&p);
    return AST_OK;
}

static void entries_clear(struct ast_policy *p)
{
    size_t pos = 0;
    struct ast_str key;
    void *value;

    while (ast_map_next(&p->entries, &pos, &key, &value)) {
        struct cache_entry *e = value;
        ast_profile_unref(e->profile);
        free(e);
    }
    ast_map_done(&p->entries);
}

void ast_policy_close(struct ast_policy *p)
{
    if (!p)
        return;
    entries_clear(p);
    policy_groups_unref(p->groups);
    policy_roster_done(p);
    ast_lock_done(&p->lock);
    free(p);
}

enum ast_rc policy_load_profile(struct ast_policy *p, struct ast_str principal,
                                struct ast_profile **ret, struct ast_err *err)
{
    struct ast_principal id;
    enum ast_rc rc = ast_principal_parse(principal, &id, err);
    if (rc)
        return rc;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(POLICY_MAX_FILE);
    AST_AUTO(ast_cfree) char *path = ast_home_path(p->home, AST_HOME_PROFILES "/%s.toml", id.name);
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "profile");

    rc = ast_fs_read(path, POLICY_MAX_FILE, &text, err);
    if (rc == AST_E_NOT_FOUND) {
        struct ast_profile *none = policy_profile_default();
        if (!none)
            return ast_fail(err, AST_E_NO_MEMORY, "profile");
        none->is_removed = p->is_removed && !ast_str_eq(principal, AST_PRINCIPAL_DEFAULT) &&
                           p->is_removed(p->is_removed_arg, principal);
        *ret = none;
        return AST_OK;
    }
    if (rc)
        return ast_wrap(err, rc, "profile io error");
    return ast_profile_parse(ast_buf_view(&text), ret, err);
}

/* The entry for a principal, made when absent; NULL when out of memory or over the ceiling. */
static struct cache_entry *entry_get(struct ast_policy *p, struct ast_str principal)
    AST_REQUIRES(p->lock)
{
    ast_lock_assert_held(&p->lock);
    struct cache_entry *e = ast_map_get(&p->entries, principal);
    if (e)
        return e;
    /* A full table does not grow: further principals are read from disk each time. */
    if (p->entries.n >= POLICY_MAX_CACHED)
        return NULL;
    e = calloc(1, sizeof *e);
    if (e && !ast_map_set(&p->entries, principal, e, NULL)) {
        free(e);
        e = NULL;
    }
    return e;
}

/* The profile, and with `ret_groups` the groups of the same moment; both with a reference. */
static enum ast_rc snapshot(struct ast_policy *p, struct ast_str principal,
                            struct ast_profile **ret, struct policy_groups **ret_groups,
                            struct ast_err *err)
{
    uint64_t generation = 0;
    bool cacheable = false;
    {
        AST_WITH_LOCK(&p->lock);
        struct cache_entry *e = entry_get(p, principal);
        if (ret_groups)
            *ret_groups = policy_groups_ref(p->groups);
        if (e && e->profile) {
            *ret = ast_profile_ref(e->profile);
            return AST_OK;
        }
        if (e) {
            generation = e->generation;
            cacheable = true;
        }
    }
    AST_AUTO(ast_profile_unref) struct ast_profile *loaded = NULL;
    enum ast_rc rc = policy_load_profile(p, principal, &loaded, err);
    if (rc)
        return rc;

    if (cacheable) {
        AST_WITH_LOCK(&p->lock);
        struct cache_entry *e = ast_map_get(&p->entries, principal);
        /* Stored only if nothing changed since the file was read; the first of two loads wins. */
        if (e && e->generation == generation && !e->profile)
            e->profile = ast_profile_ref(loaded);
    }
    *ret = ast_steal(&loaded);
    return AST_OK;
}

void ast_policy_ask_removed(struct ast_policy *p,
                            bool (*is_removed)(void *arg, struct ast_str principal), void *arg)
{
    p->is_removed = is_removed;
    p->is_removed_arg = arg;
}

enum ast_rc ast_policy_profile(struct ast_policy *p, struct ast_str principal,
                               struct ast_profile **ret, struct ast_err *err)
{
    return snapshot(p, principal, ret, NULL, err);
}

void ast_policy_invalidate(struct ast_policy *p, struct ast_str principal)
{
    struct ast_profile *old = NULL;
    {
        AST_WITH_LOCK(&p->lock);
        struct cache_entry *e = ast_map_get(&p->entries, principal);
        if (e) {
            old = e->profile;
            e->profile = NULL;
            e->generation++;
        }
    }
    ast_profile_unref(old);
}

static const struct ast_str *first_match(const struct ast_strings *patterns, struct ast_str cap)
{
    for (size_t i = 0; i < patterns->n; i++)
        if (ast_cap_match(patterns->v[i], cap))
            return &patterns->v[i];
    return NULL;
}

/* Revokes beat grants beat groups (spec 02 §9.1). */
static enum ast_rc evaluate(const struct policy_groups *groups, struct ast_str principal,
                            struct ast_profile *profile, struct ast_str cap, struct ast_err *err)
{
    char quoted[POLICY_QUOTE_BYTES];

    if (!profile->enabled)
        return ast_fail(err, AST_E_DENIED,
                        "permission denied for principal " AST_STR_FMT ": agent is disabled",
                        AST_STR_ARG(principal));
    const struct ast_str *revoke = first_match(&profile->revokes, cap);
    if (revoke)
        return ast_fail(err, AST_E_DENIED,
                        "permission denied for principal " AST_STR_FMT ": capability " AST_STR_FMT
                        " is revoked via %s",
                        AST_STR_ARG(principal), AST_STR_ARG(cap), policy_quote(*revoke, quoted));
    if (first_match(&profile->grants, cap))
        return AST_OK;
    for (size_t i = 0; i < profile->groups.n; i++) {
        const struct ast_group *g = policy_groups_find(groups, profile->groups.v[i]);
        if (!g &&
            !atomic_exchange_explicit(&profile->told_unknown_group, true, memory_order_relaxed))
            ast_log_fields(AST_LOG_WARN, "astrid.policy", "profile names an unknown group",
                           AST_F_SECURITY, AST_F_STR("principal", principal),
                           AST_F_STR("group", profile->groups.v[i]));
        if (g && first_match(&g->capabilities, cap))
            return AST_OK;
    }
    return ast_fail(err, AST_E_DENIED,
                    "permission denied for principal " AST_STR_FMT
                    ": missing capability " AST_STR_FMT,
                    AST_STR_ARG(principal), AST_STR_ARG(cap));
}

enum ast_rc ast_policy_check(struct ast_policy *p, struct ast_str principal, struct ast_str cap,
                             struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
    AST_AUTO(policy_groups_unref) struct policy_groups *groups = NULL;
    struct ast_err why = AST_ERR_INIT;

    if (snapshot(p, principal, &profile, &groups, &why)) {
        ast_log_fields(AST_LOG_WARN, "astrid.policy", "profile cannot be read; denying",
                       AST_F_SECURITY, AST_F_STR("principal", principal),
                       AST_F_CSTR("error", why.msg));
        return ast_fail(err, AST_E_DENIED,
                        "permission denied for principal " AST_STR_FMT
                        ": missing capability " AST_STR_FMT,
                        AST_STR_ARG(principal), AST_STR_ARG(cap));
    }
    return evaluate(groups, principal, profile, cap, err);
}

bool ast_policy_holds(struct ast_policy *p, struct ast_str principal, struct ast_str cap)
{
    return ast_policy_check(p, principal, cap, NULL) == AST_OK;
}

bool ast_policy_exempt(struct ast_policy *p, struct ast_str principal)
{
    return ast_policy_holds(p, principal, AST_STR("system:resources:unbounded")) ||
           ast_policy_holds(p, principal, AST_STR("net_bind")) ||
           ast_policy_holds(p, principal, AST_STR("uplink"));
}
