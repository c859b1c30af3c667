/* Admin requests (spec 02 §13): one table row each, in the file of its story.
 *
 *   ast_kernel_admin() parses, checks rights, and runs what only reads on the calling thread, or on the reading thread where
 *   every principal is looked at; what changes something goes to the admin thread, callers in turn: that thread is the write
 *   lock of spec 02 §21. Rights are checked again there, so that a caller who was disabled meanwhile gets nothing done. Many
 *   of a kind that wait there are run as one where the row says how.
 *
 * A runner writes the value of "data" or returns an error whose message becomes the answer. When the request is concluded,
 * `right`, `failure`, `caller`, `target`, `capability` and `params` say all that an audit row needs.
 */
#pragma once

#include "crypto/public_key.h"
#include "kernel/kernel_priv.h"
#include "kernel/tickets.h"
#include "policy/profile.h"

enum admin_scope {
    ADMIN_GLOBAL,   /* `global`, also for one's own row */
    ADMIN_SELF,     /* `own` */
    ADMIN_BY_TARGET /* `own` when the target is the caller, else `global` */
};

enum admin_right { ADMIN_UNCHECKED, ADMIN_ALLOWED, ADMIN_DENIED, ADMIN_BY_TOKEN };

enum admin_flags {
    ADMIN_REDEEMS = 1u << 0, /* the token is the right: no check of the caller (spec 02 §11) */
    ADMIN_PARAMS_OPTIONAL = 1u << 1, /* every parameter may be missing, and so may "params" */
};

struct admin_request;

struct admin_row {
    struct ast_str method, label; /* "AgentCreate", "admin.agent.create" */
    struct ast_str global, own;   /* capabilities; empty where the scope never asks */
    enum admin_scope scope;
    unsigned per_minute; /* 0: unlimited; counted per caller */
    bool changes;        /* runs on the admin thread */
    struct ast_str status;
    /* Takes the parameters; NULL: there are none. Its error answers "invalid request: ...". `params` is an object, or NULL
     * with ADMIN_PARAMS_OPTIONAL. */
    enum ast_rc (*read)(struct admin_request *r, const struct ast_json *params,
                        struct ast_err *err);
    enum ast_rc (*run)(struct admin_request *r, struct ast_jw *data, struct ast_err *err);
    /* Instead of `run`, of rows that change something: each request gets its answer (admin_answer_begin()) or its failure. */
    void (*run_many)(struct admin_request *const *requests, size_t n);
    bool visits_all; /* reads on a thread of its own */
    unsigned flags;  /* enum admin_flags */
    /* The audit log's view of the parameters, one value; NULL: all that was sent. */
    void (*tell)(const struct admin_request *r, const struct ast_json *params, struct ast_jw *w);
    /* Of ADMIN_REDEEMS: refuses on the calling thread what cannot succeed; writes nothing. */
    enum ast_rc (*check)(struct admin_request *r, struct ast_err *err);
};
#define ADMIN_GROUP_MAX 256u /* requests that are run as one */

/* Owner: the thread that runs it; handed over with the job. */
struct admin_request {
    struct kernel_job job;
    struct ast_kernel *k;
    const struct admin_row *row;
    struct ast_principal caller, target; /* target.n 0: none */
    bool names_target;                   /* the audit row has the target: "principal" named it */
    struct ast_str capability;           /* what was required; of the row */
    enum admin_right right;
    struct ast_uuid intent; /* the audit log's marker of the change */
    bool has_intent;
    struct ast_err failure; /* rc OK: success */
    struct ast_buf params;  /* {"method":..,"params":..} in canonical form */
    char *request_id;       /* owned; NULL: none */
    struct ast_buf out;     /* the answer */
    /* Parameters, by the names the table of spec 02 §13.2 gives them; owned. */
    char *name, *description;
    struct ast_strings list, second; /* capabilities or groups; grants or groups to remove */
    struct ast_quotas quotas;
    bool has_list, has_unsafe_admin, unsafe_admin;
    /* Invites and pairing: raw tokens and keys stay outside, but for what the answer of an issue shows. */
    struct kernel_ticket_op ticket; /* prepared by the reader: spend, revoke */
    struct ast_public_key key;
    struct ast_err key_failure;           /* rc: there is no key */
    char told[2][KERNEL_TICKET_HASH + 1]; /* fingerprints for the audit row: token, key */
    char token[KERNEL_TICKET_TEXT + 1];   /* of an issue, for its answer */
    uint32_t uses, limit;                 /* limit 0: not given */
    uint64_t expires_secs;
    bool has_expires_secs;
    void (*done)(void *arg, struct ast_str response_json);
    void *arg;
};

#define ADMIN_STR(lit)                                                                             \
    {                                                                                              \
        lit, sizeof(lit) - 1                                                                       \
    }

extern const struct admin_row admin_create_rows[], admin_agent_rows[], admin_quota_rows[],
    admin_group_rows[], admin_cap_rows[], admin_invite_rows[], admin_pairing_rows[];
extern const size_t admin_create_row_count, admin_agent_row_count, admin_quota_row_count,
    admin_group_row_count, admin_cap_row_count, admin_invite_row_count, admin_pairing_row_count;
/* The row of that index over all files; NULL at the end. */
const struct admin_row *admin_row_at(size_t i);

/* ---- readers ---- */

enum ast_rc admin_read_target(struct admin_request *r, const struct ast_json *params,
                              struct ast_err *err); /* "principal" */
enum ast_rc admin_read_name(struct admin_request *r, const struct ast_json *params,
                            struct ast_err *err); /* "name" */
/* A required string, borrowed from `params`. */
enum ast_rc admin_read_string(const struct ast_json *params, struct ast_str key,
                              struct ast_str *ret, struct ast_err *err);
/* *ret_has false: absent or null. */
enum ast_rc admin_read_optional(const struct ast_json *params, struct ast_str key,
                                struct ast_str *ret, bool *ret_has, struct ast_err *err);
enum ast_rc admin_read_u64(const struct ast_json *params, struct ast_str key, uint64_t *ret,
                           bool *ret_has, struct ast_err *err);
enum ast_rc admin_read_list(const struct ast_json *params, struct ast_str key,
                            struct ast_strings *ret, bool *ret_has, struct ast_err *err);
enum ast_rc admin_read_bool(const struct ast_json *params, struct ast_str key, bool *ret,
                            bool *ret_has, struct ast_err *err);

/* ---- what runners share ---- */

/* The target's profile, read through the cache; spec 02 §13.4 when there is no file. */
enum ast_rc admin_target_profile(struct admin_request *r, struct ast_profile **ret,
                                 struct ast_err *err);
/* The answer: {"data": — the caller writes the value — then the rest of it. */
struct ast_jw admin_answer_begin(struct admin_request *r);
void admin_answer_end(struct admin_request *r, struct ast_jw *w);
/* The same as a draft to edit, from the file. */
enum ast_rc admin_draft(struct admin_request *r, struct ast_profile **ret, struct ast_err *err);
enum ast_rc admin_store(struct admin_request *r, const struct ast_profile *draft,
                        struct ast_err *err);
void admin_write_strings(struct ast_jw *w, struct ast_str key, const struct ast_strings *s);

/* ---- one-time tokens, for invites and pairing alike ---- */

/* INVALID "invites.toml load failed: ..." while the original's file could not be taken over. */
enum ast_rc admin_tickets_usable(struct ast_kernel *k, enum kernel_ticket_kind kind,
                                 struct ast_err *err);
/* The note kept with a token: "metadata" or "label" into `description`. */
enum ast_rc admin_read_note(struct admin_request *r, const struct ast_json *params,
                            struct ast_str key, struct ast_err *err);
/* "token" and "public_key" of a redeem: into `ticket`, `key` and `told`. */
enum ast_rc admin_read_redeem(struct admin_request *r, const struct ast_json *params,
                              enum kernel_ticket_kind kind, struct ast_err *err);
enum ast_rc admin_check_redeem(struct admin_request *r, struct ast_err *err);
/* The two fingerprints as members of the audit row's parameters. */
void admin_tell_redeem(const struct admin_request *r, struct ast_jw *w);
/* Makes `token` and prepares `ticket`, an op that is to be run by the caller. */
enum ast_rc admin_ticket_prepare(struct admin_request *r, enum kernel_ticket_kind kind,
                                 struct ast_str subject, uint32_t uses, uint64_t expires_at,
                                 struct ast_err *err);
/* Spends the use that the reader prepared, before any effect. */
enum ast_rc admin_ticket_spend(struct admin_request *r, struct ast_err *err);
/* The effect failed: the use comes back. A failure is logged: a use may be lost, never spent twice. */
void admin_ticket_give_back(struct admin_request *r);

/* ---- principals that come and go ---- */

#define ADMIN_PLATFORM AST_STR("cli") /* each principal is linked as cli/<name>, method "system" */

/* A principal to be made; `rc` and `err` are its own. */
struct admin_birth {
    struct ast_principal name;         /* in */
    const struct ast_profile *profile; /* in, checked; borrowed for the call */
    struct ast_uuid user;              /* out */
    enum ast_rc rc;
    struct ast_err err; /* with the texts of spec 02 §14.1, steps 6 to 8 */
};
/* Identity, home and profile of each; one that fails leaves nothing, the others are made all the same. The names differ and
 * have no profile. All of them become durable together; what is OK is durable. `home_failed`: the words for a home that
 * cannot be made. On the admin thread. */
void admin_births(struct ast_kernel *k, struct admin_birth *births, size_t n,
                  const char *home_failed);
/* One. */
AST_MUST_CHECK
enum ast_rc admin_make_principal(struct ast_kernel *k, struct ast_str name,
                                 const struct ast_profile *profile, const char *home_failed,
                                 char ret_uuid[static AST_UUID_TEXT], struct ast_err *err);

/* Sets aside what a deleted principal of that name left behind, so that its successor does not meet it. */
enum ast_rc admin_clear_remains(struct ast_kernel *k, struct ast_str name, struct ast_err *err);
/* Copies what capsules declare as settings from `default` (spec 02 §14.1 step 9); failures are logged. */
void admin_seed(struct ast_kernel *k, const struct ast_str *principals, size_t n);
