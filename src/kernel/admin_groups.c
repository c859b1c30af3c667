/* Groups of capabilities (spec 02 §16). Whoever defines one must hold what it confers: the unsafe_admin flag says that
 * somebody thought about it, not that they may. */
#include "kernel/admin_priv.h"

#include "base/banned.h"

static enum ast_rc read_description(struct admin_request *r, const struct ast_json *params,
                                    struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(params, "description");
    struct ast_str text;

    if (!v || ast_json_type(v) == AST_JSON_NULL)
        return AST_OK;
    if (!ast_json_string(v, &text) || text.n > 4096 || ast_str_find_byte(text, 0) != AST_STR_NPOS)
        return ast_fail(err, AST_E_INVALID,
                        "field `description`: expected a string of at most 4096 bytes");
    r->description = ast_str_dup(text);
    return r->description ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "request");
}

static enum ast_rc read_group(struct admin_request *r, const struct ast_json *params,
                              struct ast_err *err)
{
    enum ast_rc rc = admin_read_name(r, params, err);
    if (!rc)
        rc = admin_read_list(params, AST_STR("capabilities"), &r->list, &r->has_list, err);
    if (!rc)
        rc = read_description(r, params, err);
    return rc ? rc
              : admin_read_bool(params, AST_STR("unsafe_admin"), &r->unsafe_admin,
                                &r->has_unsafe_admin, err);
}

static enum ast_rc read_create(struct admin_request *r, const struct ast_json *params,
                               struct ast_err *err)
{
    enum ast_rc rc = read_group(r, params, err);
    if (!rc && !r->has_list)
        rc = ast_fail(err, AST_E_INVALID, "missing field `capabilities`");
    return rc;
}

/* A failed write keeps its own words; everything else is the request's refusal. */
static enum ast_rc changed(struct ast_jw *data, enum ast_rc rc, const char *what,
                           struct ast_err *err)
{
    if (rc)
        return rc == AST_E_IO ? rc : ast_wrap(err, rc, "%s rejected", what);
    ast_jw_object(data);
    ast_jw_kv_string(data, "status", AST_STR("ok"));
    ast_jw_end(data);
    return AST_OK;
}

static enum ast_rc may_confer(struct admin_request *r, struct ast_err *err)
{
    return ast_policy_may_confer(r->k->policy, ast_principal_str(&r->caller), &r->list, NULL, err);
}

static enum ast_rc run_create(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    struct ast_group g = {
        .name = ast_str_c(r->name),
        .description = ast_str_c(r->description),
        .has_description = r->description != NULL,
        .unsafe_admin = r->unsafe_admin,
        .capabilities = r->list,
    };
    enum ast_rc rc = may_confer(r, err);
    if (rc)
        return rc;
    return changed(data, ast_policy_group_create(r->k->policy, &g, err), "group.create", err);
}

static enum ast_rc run_delete(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    enum ast_rc rc = ast_policy_group_delete(r->k->policy, ast_str_c(r->name), err);
    return changed(data, rc, "group.delete", err);
}

static enum ast_rc run_modify(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    struct ast_str description = ast_str_c(r->description);
    struct ast_group_change change = {
        .capabilities = r->has_list ? &r->list : NULL,
        .description = r->description ? &description : NULL,
        .unsafe_admin = r->has_unsafe_admin ? &r->unsafe_admin : NULL,
    };
    enum ast_rc rc = may_confer(r, err);
    if (rc)
        return rc;
    rc = ast_policy_group_modify(r->k->policy, ast_str_c(r->name), &change, err);
    return changed(data, rc, "group.modify", err);
}

static bool write_group(void *arg, const struct ast_group *g)
{
    struct ast_jw *w = arg;

    ast_jw_object(w);
    ast_jw_kv_bool(w, "builtin", g->builtin);
    admin_write_strings(w, AST_STR("capabilities"), &g->capabilities);
    if (g->has_description)
        ast_jw_kv_string(w, "description", g->description);
    ast_jw_kv_string(w, "name", g->name);
    ast_jw_kv_bool(w, "unsafe_admin", g->unsafe_admin);
    ast_jw_end(w);
    return true;
}

static enum ast_rc run_list(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    (void)err; /* cannot fail: the groups are in memory */
    ast_jw_array(data);
    ast_policy_each_group(r->k->policy, write_group, data);
    ast_jw_end(data);
    return AST_OK;
}

#define S ADMIN_STR
const struct admin_row admin_group_rows[] = {
    /* method, label, global and own capability, scope, per minute, changes, status, reader, runner */
    { S("GroupCreate"), S("admin.group.create"), S("group:create"), S(""), ADMIN_GLOBAL, 0, true,
      S("Success"), read_create, run_create },
    { S("GroupDelete"), S("admin.group.delete"), S("group:delete"), S(""), ADMIN_GLOBAL, 0, true,
      S("Success"), admin_read_name, run_delete },
    { S("GroupModify"), S("admin.group.modify"), S("group:modify"), S(""), ADMIN_GLOBAL, 0, true,
      S("Success"), read_group, run_modify },
    { S("GroupList"), S("admin.group.list"), S(""), S("self:group:list"), ADMIN_SELF, 0, false,
      S("GroupList"), NULL, run_list },
};
#undef S
const size_t admin_group_row_count = AST_ARRAY_LEN(admin_group_rows);
