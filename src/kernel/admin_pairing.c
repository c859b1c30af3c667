/* Device pairing: a principal lets one more key speak for itself (spec 02 §19). */
#include "base/fs.h"
#include "base/time.h"
#include "kernel/admin_priv.h"

#include "base/banned.h"

#define EXPIRES_DEFAULT_SECS 300u
#define EXPIRES_MAX_SECS     3600u
#define ISSUED_PER_MINUTE                                                                          \
    60u /* anybody may; with an hour's life this bounds what one principal can pile up */
#define KEYS_MAX 64u /* of one principal, as far as pairing adds them */

/* ---- issue ---- */

static enum ast_rc read_issue(struct admin_request *r, const struct ast_json *params,
                              struct ast_err *err)
{
    r->expires_secs = EXPIRES_DEFAULT_SECS;
    enum ast_rc rc = admin_read_u64(params, AST_STR("expires_secs"), &r->expires_secs,
                                    &r->has_expires_secs, err);
    return rc ? rc : admin_read_note(r, params, AST_STR("label"), err);
}

static enum ast_rc check_issue(const struct admin_request *r, struct ast_err *err)
{
    if (!r->expires_secs)
        return ast_fail(err, AST_E_INVALID, "expires_secs must be greater than 0");
    if (r->expires_secs > EXPIRES_MAX_SECS)
        return ast_fail(
            err, AST_E_INVALID,
            "expires_secs %llu exceeds the 1-hour cap (%us) \xe2\x80\x94 pair-tokens are "
            "intended for immediate use",
            (unsigned long long)r->expires_secs, EXPIRES_MAX_SECS);
    if (r->description && strlen(r->description) > KERNEL_TICKET_NOTE_MAX)
        return ast_fail(err, AST_E_INVALID, "label exceeds %u bytes", KERNEL_TICKET_NOTE_MAX);
    return AST_OK;
}

static bool has_profile(struct ast_kernel *k, const struct ast_principal *who)
{
    AST_AUTO(ast_cfree) char *path = ast_policy_profile_path(k->policy, ast_principal_str(who));
    return path && ast_fs_exists(path);
}

static enum ast_rc run_issue(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    enum ast_rc rc = check_issue(r, err);
    if (!rc && !has_profile(r->k, &r->caller))
        rc = ast_fail(err, AST_E_NOT_FOUND, "caller principal %s does not exist (no profile.toml)",
                      r->caller.name);
    if (!rc)
        rc = admin_tickets_usable(r->k, KERNEL_TICKET_PAIRING, err);
    if (rc)
        return rc;
    uint64_t expires_at = ast_wall_secs() + r->expires_secs;
    rc = admin_ticket_prepare(r, KERNEL_TICKET_PAIRING, ast_principal_str(&r->caller),
                              /* uses= */ 1, expires_at, err);
    if (!rc)
        rc = ast_store_run(r->k->store, &r->ticket.op, err);
    if (rc)
        return ast_wrap(err, rc, "pair-tokens.toml save failed");
    ast_jw_object(data);
    ast_jw_kv_u64(data, "expires_at_epoch", expires_at);
    if (r->description)
        ast_jw_kv_string(data, "label", ast_str_c(r->description));
    ast_jw_kv_string(data, "principal", ast_principal_str(&r->caller));
    ast_jw_kv_string(data, "token", ast_str_c(r->token));
    ast_jw_end(data);
    return AST_OK;
}

/* ---- redeem ---- */

static enum ast_rc read_redeem(struct admin_request *r, const struct ast_json *params,
                               struct ast_err *err)
{
    return admin_read_redeem(r, params, KERNEL_TICKET_PAIRING, err);
}

static void tell_redeem(const struct admin_request *r, const struct ast_json *params,
                        struct ast_jw *w)
{
    (void)params;
    ast_jw_object(w);
    admin_tell_redeem(r, w);
    ast_jw_end(w);
}

/* The bound principal's profile, from the file, as a draft. */
static enum ast_rc load(struct admin_request *r, struct ast_profile **ret, struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *now = NULL;
    enum ast_rc rc = ast_principal_parse(ast_str_c(r->ticket.ticket.subject), &r->target, err);
    if (rc)
        return rc;
    if (!has_profile(r->k, &r->target))
        return ast_fail(err, AST_E_NOT_FOUND,
                        "bound principal %s disappeared between issue and redeem", r->target.name);
    ast_policy_invalidate(r->k->policy, ast_principal_str(&r->target));
    rc = ast_policy_profile(r->k->policy, ast_principal_str(&r->target), &now, err);
    if (!rc && !(*ret = ast_profile_copy(now)))
        rc = ast_fail(err, AST_E_NO_MEMORY, "profile");
    if (rc)
        return ast_wrap(err, rc, "profile load failed");
    /* differs: a disabled principal could be paired */
    return now->enabled
               ? AST_OK
               : ast_fail(err, AST_E_DENIED,
                          "permission denied for principal %s: agent is disabled", r->target.name);
}

static enum ast_rc add_key(struct admin_request *r, struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *draft = NULL;
    struct ast_str key = ast_str_c(r->key.text), method = AST_STR("keypair");

    enum ast_rc rc = load(r, &draft, err);
    if (rc)
        return rc;
    bool is_known = ast_strings_has(&draft->public_keys, key);
    if (!is_known && draft->public_keys.n >= KEYS_MAX)
        return ast_fail(err, AST_E_TOO_LARGE, "principal %s has %u keys already", r->target.name,
                        KEYS_MAX);
    if ((!is_known && !ast_strings_add(&draft->public_keys, key)) ||
        (!ast_strings_has(&draft->auth_methods, method) &&
         !ast_strings_add(&draft->auth_methods, method)))
        return ast_fail(err, AST_E_NO_MEMORY, "profile");
    rc = ast_profile_check(draft, err);
    if (rc)
        return ast_wrap(err, rc, "profile rejected after key append");
    rc = ast_policy_set_profile(r->k->policy, ast_principal_str(&r->target), draft, err);
    return rc ? ast_wrap(err, rc, "profile save failed") : AST_OK;
}

/* differs: the token is spent before the key is added (spec README §5 gap 22) */
static enum ast_rc run_redeem(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    enum ast_rc rc = admin_ticket_spend(r, err);
    if (rc)
        return rc;
    rc = add_key(r, err);
    if (rc) {
        admin_ticket_give_back(r);
        return rc;
    }
    ast_jw_object(data);
    ast_jw_kv_string(data, "principal", ast_principal_str(&r->target));
    ast_jw_kv_string(data, "public_key_fingerprint", ast_str_c(r->key.fingerprint));
    ast_jw_end(data);
    return AST_OK;
}

#define S ADMIN_STR
const struct admin_row admin_pairing_rows[] = {
    /* method, label, global and own capability, scope, per minute, changes, status, reader, runner */
    { S("PairDeviceIssue"), S("admin.auth.pair.issue"), S(""), S("self:auth:pair"), ADMIN_SELF,
      ISSUED_PER_MINUTE, true, S("PairToken"), read_issue, run_issue,
      .flags = ADMIN_PARAMS_OPTIONAL },
    { S("PairDeviceRedeem"), S("admin.auth.pair.redeem"), S("auth:pair:redeem"), S(""),
      ADMIN_GLOBAL, 0, true, S("PairTokenRedeemed"), read_redeem, run_redeem,
      .flags = ADMIN_REDEEMS, .tell = tell_redeem, .check = admin_check_redeem },
};
#undef S
const size_t admin_pairing_row_count = AST_ARRAY_LEN(admin_pairing_rows);
