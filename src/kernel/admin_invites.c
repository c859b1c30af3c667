/* Invites: issued by whoever may confer the group, redeemed by whoever holds the token (spec 02 §18). */
#include <stdio.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "crypto/hash.h"
#include "crypto/secret.h"
#include "kernel/admin_priv.h"

#include "base/banned.h"

#define EXPIRES_MAX_SECS 2592000u
#define LISTED_MAX       5000u /* rows of one answer */
#define DISPLAY_NAME_MAX 1024u
#define SLUG_MAX         64u
#define NAME_ATTEMPTS    16

/* ---- issue ---- */

static enum ast_rc read_issue(struct admin_request *r, const struct ast_json *params,
                              struct ast_err *err)
{
    struct ast_str group;
    uint64_t uses = 0;
    bool has_uses = false;

    enum ast_rc rc = admin_read_string(params, AST_STR("group"), &group, err);
    if (!rc && ast_str_find_byte(group, 0) != AST_STR_NPOS)
        rc = ast_fail(err, AST_E_INVALID, "field `group`: holds a NUL byte");
    if (!rc && !(r->name = ast_str_dup(group)))
        rc = ast_fail(err, AST_E_NO_MEMORY, "request");
    if (!rc)
        rc = admin_read_u64(params, AST_STR("max_uses"), &uses, &has_uses, err);
    if (!rc && (!has_uses || uses > UINT32_MAX))
        rc = has_uses ? ast_fail(err, AST_E_INVALID, "field `max_uses`: at most %u", UINT32_MAX)
                      : ast_fail(err, AST_E_INVALID, "missing field `max_uses`");
    if (!rc)
        rc = admin_read_u64(params, AST_STR("expires_secs"), &r->expires_secs, &r->has_expires_secs,
                            err);
    r->uses = (uint32_t)uses;
    return rc ? rc : admin_read_note(r, params, AST_STR("metadata"), err);
}

static enum ast_rc check_issue(const struct admin_request *r, struct ast_err *err)
{
    if (!r->uses)
        return ast_fail(err, AST_E_INVALID, "max_uses must be greater than 0");
    /* differs: 0 was taken for a token that is dead on arrival (spec README §5 gap 23) */
    if (r->has_expires_secs && !r->expires_secs)
        return ast_fail(err, AST_E_INVALID, "expires_secs must be greater than 0");
    if (r->has_expires_secs && r->expires_secs > EXPIRES_MAX_SECS)
        return ast_fail(err, AST_E_INVALID, "expires_secs %llu exceeds the 30-day cap (%us)",
                        (unsigned long long)r->expires_secs, EXPIRES_MAX_SECS);
    enum ast_rc rc = ast_policy_group_require(r->k->policy, ast_str_c(r->name), err);
    if (rc)
        return rc;
    if (r->description && strlen(r->description) > KERNEL_TICKET_NOTE_MAX)
        return ast_fail(err, AST_E_INVALID, "metadata exceeds %u bytes", KERNEL_TICKET_NOTE_MAX);
    return AST_OK;
}

static void write_row(struct ast_jw *w, const struct kernel_ticket *t, const char *token)
{
    ast_jw_object(w);
    if (t->expires_at)
        ast_jw_kv_u64(w, "expires_at_epoch", t->expires_at);
    ast_jw_kv_string(w, "group", ast_str_c(t->subject));
    if (!token)
        ast_jw_kv_u64(w, "issued_at_epoch", t->issued_at);
    if (t->has_note)
        ast_jw_kv_string(w, "metadata", ast_str_c(t->note));
    ast_jw_kv_u64(w, "remaining_uses", t->uses);
    if (token)
        ast_jw_kv_string(w, "token", ast_str_c(token));
    else
        ast_jw_kv_string(w, "token_fingerprint", ast_str_c(t->hash));
    ast_jw_end(w);
}

static enum ast_rc prepare_issue(struct admin_request *r, struct ast_err *err)
{
    struct ast_str group = ast_str_c(r->name);
    struct ast_strings conferred = { .v = &group, .n = 1 };

    enum ast_rc rc = check_issue(r, err);
    if (!rc)
        rc = ast_policy_may_confer(r->k->policy, ast_principal_str(&r->caller), NULL, &conferred,
                                   err);
    if (!rc)
        rc = admin_tickets_usable(r->k, KERNEL_TICKET_INVITE, err);
    if (rc)
        return rc;
    uint64_t secs = r->has_expires_secs ? r->expires_secs : r->k->invite_secs;
    return admin_ticket_prepare(r, KERNEL_TICKET_INVITE, group, r->uses,
                                secs ? ast_wall_secs() + secs : 0, err);
}

static void answer_issue(struct admin_request *r)
{
    if (r->ticket.op.rc) {
        (void)ast_fail(&r->failure, r->ticket.op.rc, "invites.toml save failed: %s",
                       r->ticket.op.err.msg);
        return;
    }
    struct ast_jw w = admin_answer_begin(r);
    write_row(&w, &r->ticket.ticket, r->token);
    admin_answer_end(r, &w);
}

/* What waits together becomes durable together: the disk is asked once for all of them. */
static void run_issue_many(struct admin_request *const *requests, size_t n)
{
    struct ast_store_op *ops[ADMIN_GROUP_MAX];
    size_t ready = 0;

    AST_ASSERT(n && n <= ADMIN_GROUP_MAX);
    for (size_t i = 0; i < n; i++)
        if (!prepare_issue(requests[i], &requests[i]->failure))
            ops[ready++] = &requests[i]->ticket.op;
    if (ready)
        ast_store_run_many(requests[0]->k->store, ops, ready);
    for (size_t i = 0; i < n; i++)
        if (!requests[i]->failure.rc)
            answer_issue(requests[i]);
}

/* ---- redeem: a name for the newcomer ---- */

/* Lower-case letters and digits with single '-' between them, of the first 64 characters (spec 02 §18.4); may come out empty. */
static struct ast_str slug_of(struct ast_str display_name, char out[static SLUG_MAX])
{
    size_t n = 0, characters = 0;
    bool gap = false;

    for (size_t i = 0; i < display_name.n; i++) {
        unsigned char c = (unsigned char)display_name.p[i];
        bool upper = c >= 'A' && c <= 'Z';
        bool begins = (c & 0xc0) != 0x80; /* a byte that continues a character is none */
        if (begins && ++characters > SLUG_MAX)
            break;
        if (!upper && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9')) {
            gap = true;
            continue;
        }
        if (gap && n)
            out[n++] = '-';
        gap = false;
        out[n++] = (char)(upper ? c - 'A' + 'a' : c);
    }
    return ast_str_n(out, n);
}

static enum ast_rc read_redeem(struct admin_request *r, const struct ast_json *params,
                               struct ast_err *err)
{
    struct ast_str display_name = AST_STR_NONE;
    char slug[SLUG_MAX];
    bool given;

    enum ast_rc rc = admin_read_redeem(r, params, KERNEL_TICKET_INVITE, err);
    if (!rc)
        rc = admin_read_optional(params, AST_STR("display_name"), &display_name, &given, err);
    if (!rc && display_name.n > DISPLAY_NAME_MAX)
        rc = ast_fail(err, AST_E_INVALID, "field `display_name`: longer than %u bytes",
                      DISPLAY_NAME_MAX);
    if (!rc && !(r->name = ast_str_dup(slug_of(display_name, slug))))
        rc = ast_fail(err, AST_E_NO_MEMORY, "request");
    return rc;
}

static void tell_redeem(const struct admin_request *r, const struct ast_json *params,
                        struct ast_jw *w)
{
    struct ast_str display_name;

    ast_jw_object(w);
    if (ast_json_string(ast_json_member(params, "display_name"), &display_name))
        ast_jw_kv_string(w, "display_name", display_name);
    admin_tell_redeem(r, w);
    ast_jw_end(w);
}

static bool is_taken(struct ast_kernel *k, struct ast_str name)
{
    AST_AUTO(ast_cfree) char *path = ast_policy_profile_path(k->policy, name);
    return !path || ast_fs_exists(path); /* no memory: nothing is overwritten */
}

/* What the newcomer asked to be called, when that is free, else agent-xxxxxxxx. */
static enum ast_rc choose_name(struct admin_request *r, struct ast_err *err)
{
    struct ast_str slug = ast_str_c(r->name);
    char name[sizeof "agent-" + 8];
    uint32_t number;

    if (ast_str_eq(slug, AST_PRINCIPAL_DEFAULT))
        return ast_fail(err, AST_E_INVALID,
                        "`default` is the bootstrap principal and cannot be re-created");
    if (slug.n && !is_taken(r->k, slug))
        return ast_principal_parse(slug, &r->target, err);
    for (int i = 0; i < NAME_ATTEMPTS; i++) {
        ast_random(&number, sizeof number);
        (void)snprintf(name, sizeof name, "agent-%08x", number);
        if (!is_taken(r->k, ast_str_c(name)))
            return ast_principal_parse(ast_str_c(name), &r->target, err);
    }
    return ast_fail(err, AST_E_CONFLICT,
                    "failed to allocate a unique principal id after %d attempts", NAME_ATTEMPTS);
}

/* ---- redeem: the newcomer ---- */

static enum ast_rc new_profile(const struct admin_request *r, struct ast_profile **ret,
                               struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
    enum ast_rc rc = ast_profile_parse(AST_STR(""), &p, err);
    if (rc)
        return rc;
    if (!ast_strings_add(&p->groups, ast_str_c(r->ticket.ticket.subject)) ||
        !ast_strings_add(&p->auth_methods, AST_STR("keypair")) ||
        !ast_strings_add(&p->public_keys, ast_str_c(r->key.text)))
        return ast_fail(err, AST_E_NO_MEMORY, "profile");
    rc = ast_profile_check(p, err);
    if (rc)
        return ast_wrap(err, rc, "profile rejected");
    *ret = ast_steal(&p);
    return AST_OK;
}

static enum ast_rc enrol(struct admin_request *r, struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
    char uuid[AST_UUID_TEXT];

    enum ast_rc rc = choose_name(r, err);
    /* differs: a group that was deleted meanwhile would give a principal without rights */
    if (!rc)
        rc = ast_policy_group_require(r->k->policy, ast_str_c(r->ticket.ticket.subject), err);
    if (!rc)
        rc = new_profile(r, &profile, err);
    return rc ? rc
              : admin_make_principal(r->k, ast_principal_str(&r->target), profile,
                                     "principal home tree provisioning failed", uuid, err);
}

/* differs: the use is spent before anything is made, so that it cannot be spent twice (spec README §5 gap 22) */
static enum ast_rc run_redeem(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    enum ast_rc rc = admin_ticket_spend(r, err);
    if (rc)
        return rc;
    rc = enrol(r, err);
    if (rc) {
        admin_ticket_give_back(r);
        return rc;
    }
    ast_jw_object(data);
    ast_jw_kv_string(data, "group", ast_str_c(r->ticket.ticket.subject));
    ast_jw_kv_string(data, "principal", ast_principal_str(&r->target));
    ast_jw_kv_string(data, "public_key_fingerprint", ast_str_c(r->key.fingerprint));
    ast_jw_end(data);
    return AST_OK;
}

/* ---- list ---- */

/* Not in the original: "limit" and "after", a fingerprint, for those who have more invites than one answer holds. */
static enum ast_rc read_list(struct admin_request *r, const struct ast_json *params,
                             struct ast_err *err)
{
    struct ast_str after;
    uint64_t limit = 0;
    bool has_limit, has_after;

    enum ast_rc rc = admin_read_u64(params, AST_STR("limit"), &limit, &has_limit, err);
    if (!rc && has_limit && (limit < 1 || limit > LISTED_MAX))
        rc = ast_fail(err, AST_E_INVALID, "field `limit`: expected 1 to %u", LISTED_MAX);
    if (!rc)
        rc = admin_read_optional(params, AST_STR("after"), &after, &has_after, err);
    if (!rc && has_after && !ast_str_to_c(after, r->told[0], sizeof r->told[0]))
        rc = ast_fail(err, AST_E_INVALID, "field `after`: expected a fingerprint");
    r->limit = (uint32_t)limit;
    return rc;
}

struct listing {
    struct ast_jw *w;
    uint32_t n, limit;
    bool is_cut; /* there is more */
};

static bool list_one(void *arg, const struct kernel_ticket *t)
{
    struct listing *l = arg;

    l->is_cut = l->n == l->limit;
    if (l->is_cut)
        return false;
    l->n++;
    write_row(l->w, t, NULL);
    return true;
}

static enum ast_rc run_list(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    struct listing l = { .w = data, .limit = r->limit ? r->limit : LISTED_MAX };

    enum ast_rc rc = admin_tickets_usable(r->k, KERNEL_TICKET_INVITE, err);
    if (rc)
        return rc;
    ast_jw_array(data);
    rc = kernel_tickets_each(r->k->store, KERNEL_TICKET_INVITE, ast_wall_secs(),
                             ast_str_c(r->told[0]), list_one, &l, err);
    if (!rc && l.is_cut && !r->limit)
        rc = ast_fail(
            err, AST_E_TOO_LARGE,
            "more than %u invites are outstanding; list them in parts: `limit`, and `after` "
            "with the last fingerprint",
            LISTED_MAX);
    if (!rc)
        ast_jw_end(data);
    return rc;
}

/* ---- revoke ---- */

static enum ast_rc read_revoke(struct admin_request *r, const struct ast_json *params,
                               struct ast_err *err)
{
    struct ast_str text;
    enum ast_rc rc = admin_read_string(params, AST_STR("token"), &text, err);
    if (rc)
        return rc;
    kernel_ticket_revoke(&r->ticket, KERNEL_TICKET_INVITE, text);
    bool is_fingerprint = text.n == KERNEL_TICKET_HASH;
    for (size_t i = 0; i < text.n && is_fingerprint; i++)
        is_fingerprint = (text.p[i] >= '0' && text.p[i] <= '9') ||
                         ((text.p[i] | 0x20) >= 'a' && (text.p[i] | 0x20) <= 'f');
    if (!is_fingerprint)
        ast_sha256_hex(text, r->told[0]);
    for (size_t i = 0; i < text.n && is_fingerprint; i++)
        r->told[0][i] = (char)(text.p[i] >= 'A' && text.p[i] <= 'F' ? text.p[i] | 0x20 : text.p[i]);
    return AST_OK;
}

static void tell_revoke(const struct admin_request *r, const struct ast_json *params,
                        struct ast_jw *w)
{
    (void)params;
    ast_jw_object(w);
    ast_jw_kv_string(w, "token_fingerprint", ast_str_c(r->told[0]));
    ast_jw_end(w);
}

static enum ast_rc run_revoke(struct admin_request *r, struct ast_jw *data, struct ast_err *err)
{
    enum ast_rc rc = admin_tickets_usable(r->k, KERNEL_TICKET_INVITE, err);
    if (rc)
        return rc;
    rc = ast_store_run(r->k->store, &r->ticket.op, err);
    if (rc)
        return ast_wrap(err, rc, "invites.toml save failed");
    if (!r->ticket.ret_count)
        return ast_fail(err, AST_E_NOT_FOUND,
                        "no invite matches the supplied token or fingerprint");
    ast_jw_object(data);
    ast_jw_kv_u64(data, "removed", r->ticket.ret_count);
    ast_jw_end(data);
    return AST_OK;
}

#define S ADMIN_STR
const struct admin_row admin_invite_rows[] = {
    /* method, label, global and own capability, scope, per minute, changes, status, reader, runner */
    { S("InviteIssue"), S("admin.invite.issue"), S("invite:issue"), S(""), ADMIN_GLOBAL, 0, true,
      S("Invite"), read_issue, NULL, .run_many = run_issue_many },
    { S("InviteRedeem"), S("admin.invite.redeem"), S("invite:redeem"), S(""), ADMIN_GLOBAL, 0, true,
      S("InviteRedeemed"), read_redeem, run_redeem, .flags = ADMIN_REDEEMS, .tell = tell_redeem,
      .check = admin_check_redeem },
    { S("InviteList"), S("admin.invite.list"), S("invite:list"), S(""), ADMIN_GLOBAL, 0, false,
      S("InviteList"), read_list, run_list, .visits_all = true, .flags = ADMIN_PARAMS_OPTIONAL },
    { S("InviteRevoke"), S("admin.invite.revoke"), S("invite:revoke"), S(""), ADMIN_GLOBAL, 0, true,
      S("Success"), read_revoke, run_revoke, .tell = tell_revoke },
};
#undef S
const size_t admin_invite_row_count = AST_ARRAY_LEN(admin_invite_rows);
