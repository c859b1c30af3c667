/* Users and the accounts of chat platforms that belong to them (spec 05 §13.3, spec 02 §23.3).
 *
 * Rows of the namespace "system:identity": user/<uuid>, link/<platform>/<platform user id>, name/<display name>.
 * The JSON is the original's, byte layout of members aside; what it wrote is read as it is. Every change is one
 * op, and one op is one transaction: user, link and name index change together or not at all.
 *
 * A platform is trimmed and lowered in ASCII before use; a platform user id is used as it is.
 * Errors: INVALID blank text, '/' or NUL inside, too long ("invalid input: ..."); NOT_FOUND ("user not found: ...",
 * "link not found"); CONFLICT the account is somebody else's; CORRUPT a record that cannot be read; else of the store.
 */
#pragma once

#include "base/id.h"
#include "base/json.h"
#include "base/time.h"
#include "base/uuid.h"
#include "store/store.h"

#define AST_IDENTITY_NS AST_STR("system:identity")
/* Of the key; what is left of AST_STORE_MAX_PHYSICAL. Longer names are INVALID. */
#define AST_IDENTITY_MAX_KEY    (AST_STORE_MAX_PHYSICAL - 16u)
#define AST_IDENTITY_MAX_METHOD 256u

struct ast_identity_user {
    struct ast_uuid id;
    struct ast_principal principal; /* `default` when the record names none */
    bool has_display_name;
    struct ast_str display_name; /* borrowed from doc */
    bool has_public_key;
    uint8_t public_key[32];
    int64_t created_ns;       /* wall clock */
    struct ast_json_doc *doc; /* owned */
};
void ast_identity_user_done(struct ast_identity_user *u); /* zeroed is fine */
AST_DEFINE_AUTO_VALUE(struct ast_identity_user, ast_identity_user_done)

/* CORRUPT names the member. *ret is untouched on failure. */
AST_MUST_CHECK
enum ast_rc ast_identity_user_parse(struct ast_str json, struct ast_identity_user *ret,
                                    struct ast_err *err);

/* NOT_FOUND: no link, or one to a user who is gone. */
AST_MUST_CHECK
enum ast_rc ast_identity_resolve(struct ast_store *s, struct ast_str platform,
                                 struct ast_str platform_user_id, struct ast_identity_user *ret,
                                 struct ast_err *err);
/* NOT_FOUND: no such user. */
AST_MUST_CHECK
enum ast_rc ast_identity_user_get(struct ast_store *s, const struct ast_uuid *id,
                                  struct ast_identity_user *ret, struct ast_err *err);

struct ast_identity_link {
    struct ast_str platform, platform_user_id, method;
    struct ast_uuid user;
    int64_t linked_ns; /* wall clock */
};
/* The user's links in key order; an unknown user has none. The views are borrowed for the call of `each`, which
 * stops the listing by false. */
AST_MUST_CHECK
enum ast_rc ast_identity_links(struct ast_store *s, const struct ast_uuid *user,
                               bool (*each)(void *arg, const struct ast_identity_link *link),
                               void *arg, struct ast_err *err);

/* One change. Prepare it, submit op.op or run it, then done; done() after a failed prepare is fine too. */
struct ast_identity_op {
    struct ast_store_op op; /* op.done is the caller's */
    struct ast_uuid user;   /* who is created, linked or deleted */
    bool ret_changed;       /* delete, remove: existed; seed, assign: was needed */
    /* private, owned */
    struct ast_buf link_key, link_json, user_json, name_key;
    bool replace, by_name;
};
void ast_identity_op_done(struct ast_identity_op *op);
AST_DEFINE_AUTO_VALUE(struct ast_identity_op, ast_identity_op_done)

/* Links the account to an existing user: NOT_FOUND when there is none. An account that belongs to another living
 * user is a CONFLICT, unless `replace` (kernel-internal callers). */
AST_MUST_CHECK
enum ast_rc ast_identity_prepare_link(struct ast_identity_op *op, struct ast_str platform,
                                      struct ast_str platform_user_id, struct ast_str method,
                                      const struct ast_uuid *user, bool replace,
                                      struct ast_err *err);
/* NOT_FOUND: the account is not linked. */
AST_MUST_CHECK
enum ast_rc ast_identity_prepare_unlink(struct ast_identity_op *op, struct ast_str platform,
                                        struct ast_str platform_user_id, struct ast_err *err);
/* A new user, `op->user` is its id. display_name.p NULL: none, and the principal is `default`; else it is derived
 * from the name (ast_identity_principal). */
AST_MUST_CHECK
enum ast_rc ast_identity_prepare_create(struct ast_identity_op *op, struct ast_str display_name,
                                        struct ast_err *err);
/* The user, all links to it, and the name index when it still means this user. Unknown users are fine. */
AST_MUST_CHECK
enum ast_rc ast_identity_prepare_delete(struct ast_identity_op *op, const struct ast_uuid *user,
                                        struct ast_err *err);
/* At boot: a user of that name and principal with that link, unless the link already resolves. */
AST_MUST_CHECK
enum ast_rc ast_identity_prepare_seed(struct ast_identity_op *op, struct ast_str display_name,
                                      struct ast_str principal, struct ast_str platform,
                                      struct ast_str platform_user_id, struct ast_str method,
                                      struct ast_err *err);

/* Principals that were removed and not enrolled again: key is the principal, value when. */
#define AST_IDENTITY_REMOVED_NS AST_STR("system:identity-removed")
/* False also when it cannot be read. */
bool ast_identity_was_removed(struct ast_store *s, struct ast_str principal);

/* A user of exactly that principal, named like it, whom the account means from now on, whoever had it before: a principal
 * that is made. The message begins with "identity store create_user failed" or "identity store link failed". */
AST_MUST_CHECK
enum ast_rc ast_identity_prepare_enrol(struct ast_identity_op *op, struct ast_str principal,
                                       struct ast_str platform, struct ast_str method,
                                       struct ast_err *err);
/* The principal's end: the link of its account and, when it means a user, what ast_identity_prepare_delete() deletes. Nothing there is fine;
 * `op->ret_changed` says whether there was a link. The message begins with "identity store unlink failed" or
 * "identity store delete_user failed". */
AST_MUST_CHECK
enum ast_rc ast_identity_prepare_remove(struct ast_identity_op *op, struct ast_str principal,
                                        struct ast_str platform, struct ast_err *err);

/* An [[identity.links]] entry of the settings: `astrid_user` is a UUID, whose user must exist (NOT_FOUND), or a display
 * name, whose user is made when there is none. Replaces; an identical link stays as it is. `op->user` is valid once
 * it is done. */
AST_MUST_CHECK
enum ast_rc ast_identity_prepare_assign(struct ast_identity_op *op, struct ast_str platform,
                                        struct ast_str platform_user_id, struct ast_str method,
                                        struct ast_str astrid_user, struct ast_err *err);

/* "Josh Bouw" gives josh-bouw; what leaves nothing gives user-<first 8 digits of the id>. */
void ast_identity_principal(struct ast_str display_name, const struct ast_uuid *id,
                            struct ast_principal *ret);
