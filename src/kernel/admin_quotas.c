/* Ceilings and what was used of them (spec 02 §15). */
#include "kernel/admin_priv.h"

#include "base/banned.h"

static enum ast_rc read_set(struct admin_request *r, const struct ast_json *params,
                            struct ast_err *err)
{
    enum ast_rc rc = admin_read_target(r, params, err);
    const struct ast_json *quotas = ast_json_member(params, "quotas");
    if (!rc && !quotas)
        rc = ast_fail(err, AST_E_INVALID, "missing field `quotas`");
    return rc ? rc : ast_quotas_read(quotas, &r->quotas, err);
}

/* Who sets only its own ceilings may lower them (spec README §5 gap 18). */
static enum ast_rc check_raise(struct admin_request *r, const struct ast_quotas *now,
                               struct ast_err *err)
{
    const char *raised = ast_quotas_raised(now, &r->quotas);
    if (!raised ||
        ast_policy_holds(r->k->policy, ast_principal_str(&r->caller), AST_STR("quota:set")))
        return AST_OK;
    return ast_fail(err, AST_E_DENIED,
                    "permission denied for principal %s: raising %s needs capability quota:set",
                    r->caller.name, raised);
}

static enum ast_rc run_set(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *draft = NULL;
    enum ast_rc rc = ast_quotas_check(&r->quotas, err);
    if (rc)
        return ast_wrap(err, rc, "quotas rejected");
    rc = admin_draft(r, &draft, err);
    if (!rc)
        rc = check_raise(r, &draft->quotas, err);
    if (rc)
        return rc;
    draft->quotas = r->quotas;
    rc = admin_store(r, draft, err);
    if (rc)
        return rc;
    ast_jw_object(data);
    ast_jw_kv_string(data, "principal", ast_principal_str(&r->target));
    ast_jw_end(data);
    return AST_OK;
}

static enum ast_rc run_get(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
    enum ast_rc rc = admin_target_profile(r, &profile, err);
    if (!rc)
        ast_quotas_json(&profile->quotas, data);
    return rc;
}

static enum ast_rc run_usage(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
    struct ast_str who = ast_principal_str(&r->target);
    enum ast_rc rc = admin_target_profile(r, &profile, err);
    if (rc)
        return rc;
    uint64_t peak = ast_capsules_memory_peak(r->k->capsules, who);
    ast_jw_object(data);
    ast_jw_kv_u64(data, "cpu_fuel_consumed_total", ast_capsules_fuel_total(r->k->capsules, who));
    ast_jw_kv_u64(data, "cpu_fuel_per_sec_limit", profile->quotas.max_cpu_fuel_per_sec);
    ast_jw_kv_bool(data, "exempt", ast_policy_exempt(r->k->policy, who));
    ast_jw_kv_null(data, "memory_bytes_current_total");
    ast_jw_kv_u64(data, "memory_bytes_limit_per_instance", profile->quotas.max_memory_bytes);
    if (peak)
        ast_jw_kv_u64(data, "memory_bytes_peak_total", peak);
    else
        ast_jw_kv_null(data, "memory_bytes_peak_total");
    ast_jw_kv_string(data, "principal", who);
    ast_jw_end(data);
    return AST_OK;
}

#define S ADMIN_STR
const struct admin_row admin_quota_rows[] = {
    /* method, label, global and own capability, scope, per minute, changes, status, reader, runner */
    { S("QuotaSet"), S("admin.quota.set"), S("quota:set"), S("self:quota:set"), ADMIN_BY_TARGET, 0,
      true, S("Success"), read_set, run_set },
    { S("QuotaGet"), S("admin.quota.get"), S("quota:get"), S("self:quota:get"), ADMIN_BY_TARGET, 0,
      false, S("Quotas"), admin_read_target, run_get },
    { S("UsageGet"), S("admin.usage.get"), S("quota:get"), S("self:quota:get"), ADMIN_BY_TARGET, 0,
      false, S("Usage"), admin_read_target, run_usage },
};
#undef S
const size_t admin_quota_row_count = AST_ARRAY_LEN(admin_quota_rows);
