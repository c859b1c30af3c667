/* Principals: deleted, switched, put into groups, listed (spec 02 §14). */
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "host/allowance.h"
#include "kernel/admin_priv.h"
#include "kernel/tickets.h"
#include "store/identity.h"

#include "base/banned.h"

#define ANCHOR "it is the single-tenant bootstrap anchor"

static bool is_default(const struct admin_request *r)
{
    return ast_str_eq(ast_principal_str(&r->target), AST_PRINCIPAL_DEFAULT);
}

/* ---- delete ---- */

/* The user that cli/<name> means and all links to it. */
static enum ast_rc remove_identity(struct ast_kernel *k, struct ast_str name, struct ast_err *err)
{
    AST_AUTO(ast_identity_op_done) struct ast_identity_op op = { .replace = false };
    enum ast_rc rc = ast_identity_prepare_remove(&op, name, ADMIN_PLATFORM, err);
    return rc ? rc : ast_store_run(k->store, &op.op, err);
}

static void drop_pairing(struct ast_kernel *k, struct ast_str name)
{
    struct kernel_ticket_op op = { .now = 0 };
    struct ast_err err = AST_ERR_INIT;
    enum ast_rc rc = kernel_ticket_drop(&op, KERNEL_TICKET_PAIRING, name, &err);

    if (!rc)
        rc = ast_store_run(k->store, &op.op, &err);
    if (rc) /* they fail when they are redeemed */
        ast_log_warn(KERNEL_TARGET, "pair tokens of " AST_STR_FMT " stay: %s", AST_STR_ARG(name),
                     err.msg);
}

/* What people allowed the old one is nothing to its successor. */
static void forget_allowances(struct ast_kernel *k, struct ast_str name)
{
    struct ast_err err = AST_ERR_INIT;
    if (k->host.allowances && ast_allowances_forget(k->host.allowances, name, &err))
        ast_log_error(KERNEL_TARGET, "remembered approvals of " AST_STR_FMT " stay: %s",
                      AST_STR_ARG(name), err.msg);
}

static enum ast_rc run_delete(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    struct ast_str name = ast_principal_str(&r->target);

    if (is_default(r))
        return ast_fail(err, AST_E_INVALID,
                        "cannot delete the `default` principal \xe2\x80\x94 " ANCHOR);
    enum ast_rc rc = remove_identity(r->k, name, err);
    if (!rc)
        rc = ast_policy_remove_profile(r->k->policy, name, err);
    if (rc)
        return rc;
    drop_pairing(r->k, name);
    ast_capsules_forget_principal(r->k->capsules, name);
    forget_allowances(r->k, name);
    ast_jw_object(data);
    ast_jw_kv_string(data, "principal", name);
    ast_jw_end(data);
    return AST_OK;
}

/* ---- enable, disable ---- */

static enum ast_rc set_enabled(struct admin_request *r, bool enabled, struct ast_jw *data,
                               struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *draft = NULL;
    enum ast_rc rc = admin_draft(r, &draft, err);
    if (rc)
        return rc;
    bool changed = draft->enabled != enabled;
    draft->enabled = enabled;
    rc = changed ? admin_store(r, draft, err) : AST_OK;
    if (rc)
        return rc;
    ast_jw_object(data);
    ast_jw_kv_bool(data, "changed", changed);
    ast_jw_kv_bool(data, "enabled", enabled);
    ast_jw_kv_string(data, "principal", ast_principal_str(&r->target));
    ast_jw_end(data);
    return AST_OK;
}

static enum ast_rc run_enable(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    return set_enabled(r, true, data, err);
}

static enum ast_rc run_disable(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    if (is_default(r))
        return ast_fail(err, AST_E_INVALID,
                        "cannot disable the `default` principal \xe2\x80\x94 " ANCHOR);
    return set_enabled(r, false, data, err);
}

/* ---- modify ---- */

static enum ast_rc read_modify(struct admin_request *r, const struct ast_json *params,
                               struct ast_err *err)
{
    bool given;
    enum ast_rc rc = admin_read_target(r, params, err);
    if (!rc)
        rc = admin_read_list(params, AST_STR("add_groups"), &r->list, &given, err);
    return rc ? rc : admin_read_list(params, AST_STR("remove_groups"), &r->second, &given, err);
}

static bool same_set(const struct ast_strings *a, const struct ast_strings *b)
{
    for (size_t i = 0; i < a->n; i++)
        if (!ast_strings_has(b, a->v[i]))
            return false;
    for (size_t i = 0; i < b->n; i++)
        if (!ast_strings_has(a, b->v[i]))
            return false;
    return true;
}

/* Removes, then adds: a group in both lists ends up present. *ret_added: what was not there before. */
static enum ast_rc change_groups(const struct admin_request *r, struct ast_profile *draft,
                                 struct ast_strings *ret_added, struct ast_err *err)
{
    AST_AUTO(ast_strings_done) struct ast_strings next = { 0 };
    bool ok = true;

    for (size_t i = 0; ok && i < draft->groups.n; i++)
        if (!ast_strings_has(&r->second, draft->groups.v[i]))
            ok = ast_strings_add(&next, draft->groups.v[i]);
    for (size_t i = 0; ok && i < r->list.n; i++) {
        if (!ast_strings_has(&next, r->list.v[i]))
            ok = ast_strings_add(&next, r->list.v[i]);
        if (ok && !ast_strings_has(&draft->groups, r->list.v[i]))
            ok = ast_strings_add(ret_added, r->list.v[i]);
    }
    if (!ok)
        return ast_fail(err, AST_E_NO_MEMORY, "groups");
    struct ast_strings old = draft->groups;
    draft->groups = next;
    next = old;
    return AST_OK;
}

static enum ast_rc run_modify(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *draft = NULL, *before = NULL;
    AST_AUTO(ast_strings_done) struct ast_strings added = { 0 };

    if (r->list.n == 0 && r->second.n == 0)
        return ast_fail(
            err, AST_E_INVALID,
            "agent.modify: at least one of `add_groups` or `remove_groups` must be non-empty");
    enum ast_rc rc = admin_draft(r, &draft, err);
    if (!rc && !(before = ast_profile_copy(draft)))
        rc = ast_fail(err, AST_E_NO_MEMORY, "profile");
    if (!rc)
        rc = change_groups(r, draft, &added, err);
    if (rc)
        return rc;
    if (is_default(r) && ast_strings_has(&before->groups, AST_STR("admin")) &&
        !ast_strings_has(&draft->groups, AST_STR("admin")))
        return ast_fail(
            err, AST_E_INVALID,
            "cannot remove group `admin` from the `default` principal \xe2\x80\x94 " ANCHOR);
    bool changed = !same_set(&before->groups, &draft->groups);
    if (changed) {
        rc = ast_profile_check(draft, err);
        if (rc)
            return ast_wrap(err, rc, "profile rejected");
        rc = ast_policy_may_confer(r->k->policy, ast_principal_str(&r->caller), NULL, &added, err);
        if (!rc)
            rc = admin_store(r, draft, err);
        if (rc)
            return rc;
    }
    ast_jw_object(data);
    ast_jw_kv_bool(data, "changed", changed);
    admin_write_strings(data, AST_STR("groups"), &draft->groups);
    ast_jw_kv_string(data, "principal", ast_principal_str(&r->target));
    ast_jw_end(data);
    return AST_OK;
}

/* ---- list ---- */

struct roster {
    struct ast_jw *w;
    struct ast_str only; /* empty: all */
};

static bool write_agent(void *arg, struct ast_str principal, const struct ast_profile *profile)
{
    struct roster *roster = arg;

    if (roster->only.n && !ast_str_eq(roster->only, principal))
        return true;
    ast_jw_object(roster->w);
    ast_jw_kv_bool(roster->w, "enabled", profile->enabled);
    admin_write_strings(roster->w, AST_STR("grants"), &profile->grants);
    admin_write_strings(roster->w, AST_STR("groups"), &profile->groups);
    ast_jw_kv_string(roster->w, "principal", principal);
    admin_write_strings(roster->w, AST_STR("revokes"), &profile->revokes);
    ast_jw_end(roster->w);
    return true;
}

/* Everybody only for those who hold the global form as well. */
static enum ast_rc run_list(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    struct ast_str caller = ast_principal_str(&r->caller);
    bool all = ast_policy_holds(r->k->policy, caller, AST_STR("agent:list"));
    struct roster roster = { data, all ? AST_STR_NONE : caller };

    ast_jw_array(data);
    enum ast_rc rc = ast_policy_each_profile(r->k->policy, write_agent, &roster, err);
    if (!rc)
        ast_jw_end(data);
    return rc;
}

#define S ADMIN_STR
const struct admin_row admin_agent_rows[] = {
    /* method, label, global and own capability, scope, per minute, changes, status, reader, runner */
    { S("AgentDelete"), S("admin.agent.delete"), S("agent:delete"), S(""), ADMIN_GLOBAL, 0, true,
      S("Success"), admin_read_target, run_delete },
    { S("AgentEnable"), S("admin.agent.enable"), S("agent:enable"), S(""), ADMIN_GLOBAL, 0, true,
      S("Success"), admin_read_target, run_enable },
    { S("AgentDisable"), S("admin.agent.disable"), S("agent:disable"), S(""), ADMIN_GLOBAL, 0, true,
      S("Success"), admin_read_target, run_disable },
    { S("AgentModify"), S("admin.agent.modify"), S("agent:modify"), S(""), ADMIN_GLOBAL, 0, true,
      S("Success"), read_modify, run_modify },
    { S("AgentList"), S("admin.agent.list"), S(""), S("self:agent:list"), ADMIN_SELF, 0, false,
      S("AgentList"), NULL, run_list, .visits_all = true },
};
#undef S
const size_t admin_agent_row_count = AST_ARRAY_LEN(admin_agent_rows);
