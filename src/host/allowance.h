/* Remembered approvals: which commands a principal need not be asked about again (spec 05 §12.2, 09 §8).
 *
 * One store per kernel. An allowance belongs to one principal and, where it has one, to one workspace root.
 * Those of a session end with the principal's last connection; the others are signed records in the database
 * and come back at boot. One may end at a time or after a number of uses (no question of ours makes such, but records
 * may be). What the patterns mean: policy/command.h.
 * Threads: any.
 */
#pragma once

#include "base/auto.h"
#include "base/id.h"
#include "base/list.h"
#include "crypto/keys.h"
#include "store/store.h"

#define AST_ALLOWANCES_NS      AST_STR("system:allowances") /* key: "<principal>/<uuid>" */
#define AST_ALLOWANCES_OF_ONE  1024u                        /* per principal; more are not kept */
#define AST_ALLOWANCES_RECORDS 65536u                       /* read at boot */

struct ast_allowances;

/* Reads the lasting ones. A record that is malformed or not signed by `key` is left out with a warning: it
 * allows nothing. `store` and `key` are borrowed for the object's life. Blocks on disk. */
AST_MUST_CHECK
enum ast_rc ast_allowances_new(struct ast_store *store, const struct ast_key *key,
                               struct ast_allowances **ret, struct ast_err *err);
/* NULL is fine. No call may be left, and the store must be closed: a record that a cancelled call left behind asks us when
 * it is written. */
void ast_allowances_free(struct ast_allowances *a);
AST_DEFINE_AUTO(struct ast_allowances, ast_allowances_free)

/* The principal's last connection closed: its session allowances are gone, and what is being asked for it now
 * leaves none. NULL is fine. */
void ast_allowances_end_session(struct ast_allowances *a, struct ast_str principal);

/* A deleted principal's allowances go with it, the lasting ones durably; its successor of the same name starts with none.
 * Blocks until durable: never on a loop thread or a fiber. */
AST_MUST_CHECK
enum ast_rc ast_allowances_forget(struct ast_allowances *a, struct ast_str principal,
                                  struct ast_err *err);

/* How many the principal has; *ret_lasting (may be NULL): of them those that outlive the session. */
size_t ast_allowances_count(struct ast_allowances *a, struct ast_str principal,
                            size_t *ret_lasting);
