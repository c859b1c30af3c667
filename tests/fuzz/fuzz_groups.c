/* etc/groups.toml from anywhere: refused with a text, or every capability in it is a valid pattern, no built-in group has
 * changed, and what is written back loads as the same groups. */
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "policy/capability.h"
#include "policy/policy_priv.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/ast-fuzz-groups-XXXXXX", path[64];

static void remove_dir(void)
{
    (void)ast_fs_remove_tree(dir, NULL); /* at exit there is nobody to tell */
}

static void setup(void)
{
    struct ast_log_config quiet = { .level = AST_LOG_OFF };
    AST_ASSERT(!ast_log_open(&quiet, NULL) && mkdtemp(dir));
    snprintf(path, sizeof path, "%s/groups.toml", dir);
    atexit(remove_dir);
}

static void check_same(const struct policy_groups *a, const struct policy_groups *b)
{
    AST_ASSERT(a->v.n == b->v.n);
    for (size_t i = 0; i < a->v.n; i++) {
        const struct ast_group *x = &a->v.v[i], *y = &b->v.v[i];
        AST_ASSERT(ast_str_eq(x->name, y->name) && ast_str_eq(x->description, y->description));
        AST_ASSERT(x->has_description == y->has_description && x->builtin == y->builtin &&
                   x->unsafe_admin == y->unsafe_admin);
        AST_ASSERT(x->capabilities.n == y->capabilities.n);
        for (size_t c = 0; c < x->capabilities.n; c++)
            AST_ASSERT(ast_str_eq(x->capabilities.v[c], y->capabilities.v[c]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AST_AUTO(policy_groups_unref) struct policy_groups *groups = NULL, *again = NULL;
    struct ast_err err = AST_ERR_INIT;
    if (!path[0])
        setup();
    AST_ASSERT(!ast_fs_write_atomic(path, ast_str_n(data, size), 0600, 0, NULL));
    enum ast_rc rc = policy_groups_load(path, &groups, &err);
    if (rc) {
        AST_ASSERT(err.rc == rc && err.msg[0]);
        return 0;
    }
    size_t builtin = 0;
    ast_vec_each (&groups->v, g) {
        builtin += g->builtin;
        for (size_t i = 0; i < g->capabilities.n; i++) {
            AST_ASSERT(!ast_cap_check(g->capabilities.v[i], &err));
            AST_ASSERT(g->builtin || g->unsafe_admin || !ast_str_is(g->capabilities.v[i], "*"));
        }
    }
    const struct ast_group *restricted = policy_groups_find(groups, AST_STR("restricted"));
    AST_ASSERT(builtin == 3 && restricted && restricted->capabilities.n == 0);
    AST_ASSERT(!policy_groups_save(path, groups, &err));
    AST_ASSERT(!policy_groups_load(path, &again, &err));
    check_same(groups, again);
    return 0;
}
