/* What capsules ask people for, in the audit log (spec 09 §11, 05 §28): a row for the question, one for the answer, one for a
 * use of an earlier approval; and what they do with identities and uplinks (spec 05 §13, §14). On the fiber that asked: rows
 * are queued, nobody waits for them.
 *
 * Invariant: no row is appended once the log closes; calls may still run then.
 */
#include "base/codec.h"
#include "base/log.h"
#include "base/time.h"
#include "kernel/audit_priv.h"

#include "base/banned.h"

#define AUDIT_TARGET   "astrid.audit"
#define COVERED_WINDOW (10 * AST_NS_PER_SEC)
#define COVERED_MAX                                                                                \
    1000u /* uses of allowances in one window: a capsule in a loop must not fill the disk */
#define KEY_ID_BYTES    8u /* spec 09 §17: the first bytes of the public key */
#define REASON_MAX_TEXT 1200u

static void on_stored(void *arg, enum ast_rc rc, const struct ast_err *err)
{
    if (rc)
        ast_log_fields(AST_LOG_ERROR, AUDIT_TARGET, "an approval is missing in the audit log",
                       AST_F_SECURITY, AST_F_CSTR("error", err->msg));
}

static bool may_record_use(struct kernel_approvals *v)
{
    int64_t now = ast_mono_ns();
    uint64_t left_out = 0;
    bool may;
    {
        AST_WITH_LOCK(&v->lock);
        if (now - v->window_ns >= COVERED_WINDOW) {
            left_out = v->used > COVERED_MAX ? v->used - COVERED_MAX : 0;
            v->window_ns = now;
            v->used = 0;
        }
        may = ++v->used <= COVERED_MAX;
    }
    if (left_out)
        ast_log_fields(AST_LOG_WARN, AUDIT_TARGET,
                       "uses of allowances and look-ups left out of the audit log", AST_F_SECURITY,
                       AST_F_U64("count", left_out));
    return may;
}

static struct ast_str present(struct ast_str s)
{
    return s.p ? s : AST_STR("");
}

/* Never what was answered: it may be a secret. */
static struct ast_audit_draft elicitation(const struct ast_host_approval *what, struct ast_buf *why)
{
    bool is_sent = what->step == AST_HOST_ELICIT_SENT;

    ast_buf_addf(why, "asked by capsule '" AST_STR_FMT "'", AST_STR_ARG(what->capsule));
    struct ast_audit_draft d = {
        .principal = what->principal,
        .action =
            is_sent ? AST_AUDIT_ACTION_elicitation_sent : AST_AUDIT_ACTION_elicitation_received,
        .action_values = { { .text = what->request },
                           { .text = is_sent ? what->capsule : what->detail },
                           { .text = what->detail } },
        .proof = AST_AUDIT_PROOF_not_required,
        .proof_values = { { .text = ast_buf_view(why) } },
    };
    return d;
}

/* `why` and `key_id` hold texts of the draft. */
static struct ast_audit_draft draft_of(const struct ast_host_approval *what, struct ast_str key_id,
                                       struct ast_buf *why)
{
    struct ast_audit_draft d = { .principal = what->principal };
    struct ast_str action = present(what->action), resource = present(what->resource);

    switch (what->step) {
    case AST_HOST_APPROVAL_REQUESTED:
        ast_buf_addf(why, "asked by capsule '" AST_STR_FMT "'", AST_STR_ARG(what->capsule));
        d.action = AST_AUDIT_ACTION_approval_requested;
        d.proof = AST_AUDIT_PROOF_not_required;
        d.proof_values[0].text = ast_buf_view(why);
        break;
    case AST_HOST_APPROVAL_COVERED:
        d.action = AST_AUDIT_ACTION_approval_granted;
        d.proof = AST_AUDIT_PROOF_not_required;
        d.proof_values[0].text = AST_STR("covered by allowance");
        break;
    case AST_HOST_APPROVAL_GRANTED:
        d.action = AST_AUDIT_ACTION_approval_granted;
        d.proof = AST_AUDIT_PROOF_user_approval;
        d.proof_values[0].text = key_id;
        break;
    case AST_HOST_APPROVAL_DENIED:
        ast_buf_addf(why, "approval denied: " AST_STR_FMT, AST_STR_ARG(what->detail));
        d.action = AST_AUDIT_ACTION_approval_denied;
        d.proof = AST_AUDIT_PROOF_denied;
        d.proof_values[0].text = ast_buf_view(why);
        d.is_failure = true;
        d.outcome = ast_buf_view(why);
        resource = what->detail; /* the second member is the reason */
        break;
    case AST_HOST_ELICIT_SENT:
    case AST_HOST_ELICIT_RECEIVED: return elicitation(what, why);
    }
    d.action_values[0].text = action;
    d.action_values[1].text = resource;
    if (d.action == AST_AUDIT_ACTION_approval_granted)
        d.action_values[2].text =
            what->step == AST_HOST_APPROVAL_GRANTED ? what->detail : AST_STR("once");
    return d;
}

static void on_approval(void *arg, const struct ast_host_approval *what)
{
    struct ast_kernel *k = arg;
    struct kernel_approvals *v = &k->approvals;
    AST_AUTO(ast_buf_done) struct ast_buf why = AST_BUF_INIT(REASON_MAX_TEXT + 256);
    char key_id[2 * KEY_ID_BYTES + 1];

    if (what->step == AST_HOST_APPROVAL_COVERED && !may_record_use(v))
        return;
    ast_hex_encode(k->runtime_key.public_key, KEY_ID_BYTES, key_id);
    struct ast_audit_draft d = draft_of(what, ast_str_c(key_id), &why);
    pthread_rwlock_rdlock(&v->gate);
    if (!v->is_closed)
        ast_audit_append(k->audit, &d, /* intent= */ NULL, on_stored, NULL);
    pthread_rwlock_unlock(&v->gate);
}

static void on_deed_stored(void *arg, enum ast_rc rc, const struct ast_err *err)
{
    if (rc)
        ast_log_fields(AST_LOG_ERROR, AUDIT_TARGET, "a capsule's call is missing in the audit log",
                       AST_F_SECURITY, AST_F_CSTR("error", err->msg));
}

static void on_deed(void *arg, const struct ast_host_deed *what)
{
    struct ast_kernel *k = arg;
    struct kernel_approvals *v = &k->approvals;
    AST_AUTO(ast_buf_done) struct ast_buf why = AST_BUF_INIT(REASON_MAX_TEXT);

    /* A change has waited for the disk; what costs the capsule nothing is bounded. */
    if ((what->is_lookup || what->error.p) && !may_record_use(v))
        return;
    if (what->is_denied)
        ast_buf_addf(&why, "capsule '" AST_STR_FMT "' may not call " AST_STR_FMT,
                     AST_STR_ARG(what->capsule), AST_STR_ARG(what->fn));
    else
        ast_buf_addf(&why, "capsule '" AST_STR_FMT "' may call " AST_STR_FMT,
                     AST_STR_ARG(what->capsule), AST_STR_ARG(what->fn));
    const struct ast_audit_draft d = {
        .principal = what->principal,
        .action = AST_AUDIT_ACTION_capsule_tool_call,
        .action_values = { { .text = what->capsule },
                           { .text = what->fn },
                           { .text = what->args_hash } },
        .proof = what->is_denied ? AST_AUDIT_PROOF_denied : AST_AUDIT_PROOF_system,
        .proof_values = { { .text = ast_buf_view(&why) } },
        .is_failure = what->error.p != NULL,
        .outcome = what->error,
    };
    pthread_rwlock_rdlock(&v->gate);
    if (!v->is_closed)
        ast_audit_append(k->audit, &d, /* intent= */ NULL, on_deed_stored, NULL);
    pthread_rwlock_unlock(&v->gate);
}

void kernel_approvals_open(struct ast_kernel *k)
{
    (void)pthread_rwlock_init(&k->approvals.gate, NULL); /* without attributes it cannot fail */
    ast_lock_init(&k->approvals.lock, AST_LOCK_ledger);
    k->approvals.is_open = true;
    k->host.on_approval = on_approval;
    k->host.on_approval_arg = k;
    k->host.on_deed = on_deed;
    k->host.on_deed_arg = k;
}

void kernel_approvals_close(struct ast_kernel *k)
{
    if (!k->approvals.is_open)
        return;
    pthread_rwlock_wrlock(&k->approvals.gate);
    k->approvals.is_closed = true;
    pthread_rwlock_unlock(&k->approvals.gate);
}

void kernel_approvals_done(struct ast_kernel *k)
{
    if (!k->approvals.is_open)
        return;
    pthread_rwlock_destroy(&k->approvals.gate);
    ast_lock_done(&k->approvals.lock);
}
