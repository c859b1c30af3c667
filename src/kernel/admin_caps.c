/* Grants and revokes of single capabilities (spec 02 §17). Both only add; a revoke beats a grant. */
#include "kernel/admin_priv.h"
#include "policy/capability.h"

#include "base/banned.h"

static enum ast_rc read_caps(struct admin_request *r, const struct ast_json *params,
                             struct ast_err *err)
{
    enum ast_rc rc = admin_read_target(r, params, err);
    if (!rc)
        rc = admin_read_list(params, AST_STR("capabilities"), &r->list, &r->has_list, err);
    if (!rc && !r->has_list)
        rc = ast_fail(err, AST_E_INVALID, "missing field `capabilities`");
    return rc ? rc
              : admin_read_bool(params, AST_STR("unsafe_admin"), &r->unsafe_admin,
                                &r->has_unsafe_admin, err);
}

static enum ast_rc check_list(const struct admin_request *r, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf quoted = AST_BUF_INIT(4096);

    if (r->list.n == 0)
        return ast_fail(err, AST_E_INVALID, "capabilities must not be empty");
    for (size_t i = 0; i < r->list.n; i++) {
        enum ast_rc rc = ast_cap_check(r->list.v[i], err);
        if (!rc)
            continue;
        ast_json_quote(ast_str_first(r->list.v[i], 512), &quoted);
        return ast_wrap(err, rc, "capability " AST_STR_FMT " rejected",
                        AST_STR_ARG(ast_buf_view(&quoted)));
    }
    return AST_OK;
}

/* A list of '*' segments is the literal `*` in other clothes (spec README §5 gap 17). */
static enum ast_rc check_universal(const struct admin_request *r, struct ast_err *err)
{
    for (size_t i = 0; !r->unsafe_admin && i < r->list.n; i++)
        if (ast_policy_is_universal(r->list.v[i]))
            return ast_fail(err, AST_E_INVALID,
                            "caps.grant rejected: granting `" AST_STR_FMT
                            "` to %s confers universal admin; pass `unsafe_admin = true` (CLI: "
                            "`--unsafe-admin`) to confirm this elevation",
                            AST_STR_ARG(r->list.v[i]), r->target.name);
    return AST_OK;
}

static enum ast_rc append(struct admin_request *r, bool grant, struct ast_jw *data,
                          struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *draft = NULL;
    enum ast_rc rc = admin_draft(r, &draft, err);
    if (rc)
        return rc;
    struct ast_strings *to = grant ? &draft->grants : &draft->revokes;
    for (size_t i = 0; i < r->list.n; i++)
        if (!ast_strings_has(to, r->list.v[i]) && !ast_strings_add(to, r->list.v[i]))
            return ast_fail(err, AST_E_NO_MEMORY, "profile");
    rc = admin_store(r, draft, err);
    if (rc)
        return rc;
    ast_jw_object(data);
    admin_write_strings(data, AST_STR("capabilities"), &r->list);
    ast_jw_kv_string(data, "principal", ast_principal_str(&r->target));
    ast_jw_end(data);
    return AST_OK;
}

static enum ast_rc run_grant(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    enum ast_rc rc = check_list(r, err);
    if (!rc)
        rc = check_universal(r, err);
    return rc ? rc : append(r, /* grant= */ true, data, err);
}

static enum ast_rc run_revoke(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    enum ast_rc rc = check_list(r, err);
    if (!rc && ast_str_eq(ast_principal_str(&r->target), AST_PRINCIPAL_DEFAULT))
        rc = ast_fail(err, AST_E_INVALID,
                      "cannot revoke capabilities from the `default` principal \xe2\x80\x94 it is "
                      "the single-tenant bootstrap anchor");
    return rc ? rc : append(r, /* grant= */ false, data, err);
}

#define S ADMIN_STR
const struct admin_row admin_cap_rows[] = {
    /* method, label, global and own capability, scope, per minute, changes, status, reader, runner */
    { S("CapsGrant"), S("admin.caps.grant"), S("caps:grant"), S(""), ADMIN_GLOBAL, 0, true,
      S("Success"), read_caps, run_grant },
    { S("CapsRevoke"), S("admin.caps.revoke"), S("caps:revoke"), S(""), ADMIN_GLOBAL, 0, true,
      S("Success"), read_caps, run_revoke },
};
#undef S
const size_t admin_cap_row_count = AST_ARRAY_LEN(admin_cap_rows);
