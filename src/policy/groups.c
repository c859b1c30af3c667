/* Groups: three built-in ones and the operator's own from etc/groups.toml (spec 02 §8). */
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/toml.h"
#include "policy/capability.h"
#include "policy/policy_priv.h"

#include "base/banned.h"

static const struct {
    const char *name, *description;
    const char *capabilities[5]; /* NULL-terminated */
} builtin_groups[] = {
    { "admin", "May do everything", { "*", NULL } },
    { "agent",
      "Manages its own things",
      { "self:*", "self:quota:get", "self:agent:list", "delegate:self:*", NULL } },
    { "restricted", "Holds nothing by itself", { NULL } },
};

static void group_done(struct ast_group *g)
{
    free((char *)(uintptr_t)g->name.p);
    free((char *)(uintptr_t)g->description.p);
    ast_strings_done(&g->capabilities);
}

struct policy_groups *policy_groups_ref(struct policy_groups *g)
{
    atomic_fetch_add_explicit(&g->refs, 1, memory_order_relaxed);
    return g;
}

void policy_groups_unref(struct policy_groups *g)
{
    if (!g || atomic_fetch_sub_explicit(&g->refs, 1, memory_order_acq_rel) != 1)
        return;
    ast_vec_each (&g->v, group)
        group_done(group);
    ast_vec_done(&g->v);
    free(g);
}

static struct policy_groups *groups_new(void)
{
    struct policy_groups *g = calloc(1, sizeof *g);
    if (g)
        atomic_init(&g->refs, 1);
    return g;
}

static bool group_copy(const struct ast_group *from, struct ast_group *to)
{
    *to = (struct ast_group){ .has_description = from->has_description,
                              .unsafe_admin = from->unsafe_admin,
                              .builtin = from->builtin };
    to->name = (struct ast_str){ ast_str_dup(from->name), from->name.n };
    to->description = (struct ast_str){ ast_str_dup(from->description), from->description.n };
    if (to->name.p && to->description.p &&
        policy_strings_copy(&from->capabilities, &to->capabilities))
        return true;
    group_done(to);
    return false;
}

const struct ast_group *policy_groups_find(const struct policy_groups *g, struct ast_str name)
{
    ast_vec_each (&g->v, group)
        if (ast_str_eq(group->name, name))
            return group;
    return NULL;
}

static bool add_builtins(struct policy_groups *g)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(builtin_groups); i++) {
        struct ast_group group = { .builtin = true, .has_description = true };
        struct ast_str name = ast_str_c(builtin_groups[i].name);
        struct ast_str text = ast_str_c(builtin_groups[i].description);
        group.name = (struct ast_str){ ast_str_dup(name), name.n };
        group.description = (struct ast_str){ ast_str_dup(text), text.n };
        bool ok = group.name.p && group.description.p;
        for (const char *const *cap = builtin_groups[i].capabilities; ok && *cap; cap++)
            ok = ast_strings_add(&group.capabilities, ast_str_c(*cap));
        if (!ok || !ast_vec_push(&g->v, group)) {
            group_done(&group);
            return false;
        }
    }
    return true;
}

/* A pattern of '*' segments alone is universal administration whatever its length. */
bool ast_policy_is_universal(struct ast_str cap)
{
    for (size_t i = 0; i < cap.n; i++)
        if (cap.p[i] != '*' && cap.p[i] != ':')
            return false;
    return true;
}

static enum ast_rc check_capabilities(const struct ast_group *g, bool strict, struct ast_err *err)
{
    char name[POLICY_QUOTE_BYTES], cap[POLICY_QUOTE_BYTES];

    policy_quote(g->name, name);
    for (size_t i = 0; i < g->capabilities.n; i++) {
        struct ast_str c = g->capabilities.v[i];
        enum ast_rc rc = ast_cap_check(c, err);
        if (rc)
            return ast_wrap(err, rc, "groups config: group %s capability %s rejected", name,
                            policy_quote(c, cap));
        if (!g->unsafe_admin && (ast_str_is(c, "*") || (strict && ast_policy_is_universal(c))))
            return ast_fail(
                err, AST_E_INVALID,
                "groups config: custom group %s grants '*' (universal admin); set `unsafe_admin = "
                "true` to confirm this elevation",
                name);
        if (ast_policy_is_universal(c) && !g->unsafe_admin)
            ast_log_fields(
                AST_LOG_WARN, "astrid.policy",
                "group holds universal administration without unsafe_admin; it still loads",
                AST_F_SECURITY, AST_F_STR("group", g->name), AST_F_STR("capability", c));
    }
    return AST_OK;
}

static enum ast_rc read_group(struct ast_str name, const struct ast_json *table,
                              struct ast_group *ret, struct ast_err *err)
{
    static const struct ast_str known[] = { { "capabilities", 12 },
                                            { "description", 11 },
                                            { "unsafe_admin", 12 } };
    const struct ast_json *v;
    struct ast_str text;

    ret->name = (struct ast_str){ ast_str_dup(name), name.n };
    if (!ret->name.p)
        return ast_fail(err, AST_E_NO_MEMORY, "group");
    if (ast_json_type(table) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "groups." AST_STR_FMT ": expected a table",
                        AST_STR_ARG(name));
    enum ast_rc rc = policy_known_keys(table, known, AST_ARRAY_LEN(known), err);
    if (!rc)
        rc = policy_strings_read(ast_json_member(table, "capabilities"), "capabilities",
                                 &ret->capabilities, err);
    if (!rc && (v = ast_json_member(table, "description"))) {
        if (!ast_json_string(v, &text))
            return ast_fail(err, AST_E_INVALID, "description: expected a string");
        ret->description = (struct ast_str){ ast_str_dup(text), text.n };
        ret->has_description = true;
        if (!ret->description.p)
            return ast_fail(err, AST_E_NO_MEMORY, "group");
    }
    if (!rc && (v = ast_json_member(table, "unsafe_admin")) &&
        !ast_json_bool(v, &ret->unsafe_admin))
        return ast_fail(err, AST_E_INVALID, "unsafe_admin: expected true or false");
    return rc;
}

static enum ast_rc add_custom(const struct ast_json *groups, struct policy_groups *ret,
                              struct ast_err *err)
{
    struct ast_json_iter it = AST_JSON_ITER(groups);
    const struct ast_json *table;
    struct ast_str name;

    while (ast_json_next(&it, &name, &table)) {
        struct ast_group group = { 0 };
        enum ast_rc rc = read_group(name, table, &group, err);
        if (rc) {
            group_done(&group);
            return ast_wrap(err, rc, "groups config parse error");
        }
        if (!ast_vec_push(&ret->v, group)) {
            group_done(&group);
            return ast_fail(err, AST_E_NO_MEMORY, "groups");
        }
        if (!ast_principal_valid(name))
            ast_log_fields(AST_LOG_WARN, "astrid.policy",
                           "group name can never be joined by a profile", AST_F_STR("group", name));
    }
    return AST_OK;
}

/* All built-in names first, then each group's capabilities (spec 02 §8.2). */
static enum ast_rc check_custom(const struct policy_groups *g, struct ast_err *err)
{
    char quoted[POLICY_QUOTE_BYTES];

    ast_vec_each (&g->v, group)
        for (size_t i = 0; !group->builtin && i < AST_ARRAY_LEN(builtin_groups); i++)
            if (ast_str_eq(group->name, ast_str_c(builtin_groups[i].name)))
                return ast_fail(err, AST_E_INVALID,
                                "built-in group %s may not be redefined in groups.toml",
                                policy_quote(group->name, quoted));
    ast_vec_each (&g->v, group) {
        enum ast_rc rc = group->builtin ? AST_OK : check_capabilities(group, false, err);
        if (rc)
            return rc;
    }
    return AST_OK;
}

static enum ast_rc read_file(const char *path, struct policy_groups *g, struct ast_err *err)
{
    static const struct ast_str known[] = { { "groups", 6 } };
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(POLICY_MAX_FILE);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;

    if (!ast_fs_exists(path))
        return AST_OK;
    enum ast_rc rc = ast_fs_read(path, POLICY_MAX_FILE, &text, err);
    if (rc)
        return ast_wrap(err, rc, "groups config io error");
    rc = ast_toml_parse(ast_buf_view(&text), &doc, err);
    if (!rc)
        rc = policy_known_keys(ast_json_root(doc), known, 1, err);
    if (rc)
        return ast_wrap(err, rc, "groups config parse error");
    const struct ast_json *groups = ast_json_member(ast_json_root(doc), "groups");
    if (groups && ast_json_type(groups) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "groups config parse error: groups: expected a table");
    rc = groups ? add_custom(groups, g, err) : AST_OK;
    return rc ? rc : check_custom(g, err);
}

static int by_name(const void *a, const void *b)
{
    const struct ast_group *x = a, *y = b;
    return x->builtin != y->builtin ? (x->builtin ? -1 : 1) : ast_str_cmp(x->name, y->name);
}

enum ast_rc policy_groups_load(const char *path, struct policy_groups **ret, struct ast_err *err)
{
    AST_AUTO(policy_groups_unref) struct policy_groups *g = groups_new();
    if (!g || !add_builtins(g))
        return ast_fail(err, AST_E_NO_MEMORY, "groups");
    enum ast_rc rc = read_file(path, g, err);
    if (rc)
        return rc;
    qsort(g->v.v, g->v.n, sizeof *g->v.v, by_name);
    *ret = ast_steal(&g);
    return AST_OK;
}

enum ast_rc policy_groups_with(const struct policy_groups *g, struct ast_str name,
                               const struct ast_group *group, struct policy_groups **ret,
                               struct ast_err *err)
{
    AST_AUTO(policy_groups_unref) struct policy_groups *next = groups_new();
    struct ast_group copy;
    bool ok = next != NULL;

    if (group) {
        enum ast_rc rc = check_capabilities(group, /* strict= */ true, err);
        if (rc)
            return rc;
    }
    for (size_t i = 0; ok && i < g->v.n; i++)
        if (!ast_str_eq(g->v.v[i].name, name)) {
            ok = group_copy(&g->v.v[i], &copy);
            if (ok && !ast_vec_push(&next->v, copy)) {
                group_done(&copy);
                ok = false;
            }
        }
    if (ok && group) {
        ok = group_copy(group, &copy);
        if (ok && !ast_vec_push(&next->v, copy)) {
            group_done(&copy);
            ok = false;
        }
    }
    if (!ok)
        return ast_fail(err, AST_E_NO_MEMORY, "groups");
    qsort(next->v.v, next->v.n, sizeof *next->v.v, by_name);
    *ret = ast_steal(&next);
    return AST_OK;
}

/* A bare key where TOML allows one. */
static void print_key(struct ast_buf *out, struct ast_str name)
{
    if (ast_principal_valid(name))
        ast_buf_add(out, name);
    else
        ast_json_quote(name, out);
}

enum ast_rc policy_groups_save(const char *path, const struct policy_groups *g, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(POLICY_MAX_FILE);

    ast_vec_each (&g->v, group) {
        if (group->builtin)
            continue;
        ast_buf_add(&out, out.n ? AST_STR("\n[groups.") : AST_STR("[groups."));
        print_key(&out, group->name);
        ast_buf_add_lit(&out, "]\n");
        policy_print_list(&out, "capabilities", &group->capabilities);
        if (group->has_description) {
            ast_buf_add_lit(&out, "description = ");
            ast_json_quote(group->description, &out);
            ast_buf_add_lit(&out, "\n");
        }
        ast_buf_addf(&out, "unsafe_admin = %s\n", group->unsafe_admin ? "true" : "false");
    }
    enum ast_rc rc = ast_buf_check(&out, "groups.toml", err);
    if (!rc)
        rc = ast_fs_write_atomic(path, ast_buf_view(&out), 0600, AST_FS_SYNC, err);
    return rc ? ast_wrap(err, rc, "groups config io error") : AST_OK;
}
