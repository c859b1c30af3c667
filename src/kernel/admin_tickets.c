/* What invites and pairing share: how a token comes in, how it is shown to the audit log, how a use is spent and given back. */
#include "base/log.h"
#include "base/time.h"
#include "crypto/hash.h"
#include "kernel/admin_priv.h"

#include "base/banned.h"

static const char *const files[KERNEL_TICKET_KINDS] = {
    [KERNEL_TICKET_INVITE] = "invites.toml", [KERNEL_TICKET_PAIRING] = "pair-tokens.toml"
};

enum ast_rc admin_tickets_usable(struct ast_kernel *k, enum kernel_ticket_kind kind,
                                 struct ast_err *err)
{
    return k->ticket_trouble[kind] ? ast_fail(err, AST_E_INVALID, "%s load failed: %s", files[kind],
                                              k->ticket_trouble[kind])
                                   : AST_OK;
}

/* ---- redeeming ---- */

enum ast_rc admin_read_redeem(struct admin_request *r, const struct ast_json *params,
                              enum kernel_ticket_kind kind, struct ast_err *err)
{
    struct ast_str token, key;
    enum ast_rc rc = admin_read_string(params, AST_STR("token"), &token, err);
    if (!rc)
        rc = admin_read_string(params, AST_STR("public_key"), &key, err);
    if (rc)
        return rc;
    kernel_ticket_spend(&r->ticket, kind, token, ast_wall_secs());
    memcpy(r->told[0], r->ticket.given, sizeof r->told[0]);
    /* A key that is none is refused by the runner: that leaves a row. */
    if (ast_public_key_parse(key, &r->key, &r->key_failure))
        ast_sha256_hex(key, r->told[1]);
    else
        memcpy(r->told[1], r->key.fingerprint, sizeof r->told[1]);
    return AST_OK;
}

enum ast_rc admin_check_redeem(struct admin_request *r, struct ast_err *err)
{
    if (r->key_failure.rc)
        return ast_fail(err, r->key_failure.rc, "%s", r->key_failure.msg);
    enum ast_rc rc = admin_tickets_usable(r->k, r->ticket.kind, err);
    return rc ? rc : kernel_ticket_look(r->k->store, &r->ticket, err);
}

void admin_tell_redeem(const struct admin_request *r, struct ast_jw *w)
{
    ast_jw_kv_string(w, "public_key_fingerprint", ast_str_c(r->told[1]));
    ast_jw_kv_string(w, "token_fingerprint", ast_str_c(r->told[0]));
}

enum ast_rc admin_ticket_spend(struct admin_request *r, struct ast_err *err)
{
    r->ticket.now = ast_wall_secs(); /* it may have waited */
    return ast_store_run(r->k->store, &r->ticket.op, err);
}

void admin_ticket_give_back(struct admin_request *r)
{
    struct ast_err err = AST_ERR_INIT;

    kernel_ticket_give_back(&r->ticket);
    if (ast_store_run(r->k->store, &r->ticket.op, &err))
        ast_log_fields(AST_LOG_ERROR, KERNEL_TARGET, "a use of a token is lost", AST_F_SECURITY,
                       AST_F_CSTR("token_fingerprint", r->told[0]), AST_F_CSTR("error", err.msg));
}

/* ---- issuing ---- */

enum ast_rc admin_ticket_prepare(struct admin_request *r, enum kernel_ticket_kind kind,
                                 struct ast_str subject, uint32_t uses, uint64_t expires_at,
                                 struct ast_err *err)
{
    struct ast_str note = r->description ? ast_str_c(r->description) : AST_STR_NONE;
    return kernel_ticket_issue(&r->ticket, kind, subject, r->description ? &note : NULL, uses,
                               expires_at, ast_wall_secs(), r->token, err);
}
