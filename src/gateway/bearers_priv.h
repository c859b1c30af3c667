/* Who is asking: verifies bearers (spec 03 §7.2, §7.3) and remembers verified ones.
 *
 * A remembered bearer costs a hash instead of a signature; it counts until its expiry or its principal's
 * revocation, both of which are looked at each time. Threads: any.
 */
#pragma once

#include "crypto/token.h"
#include "gateway/revoke_priv.h"

struct gw_bearers;

/* `key` and `revocations` are borrowed for the object's life. */
AST_MUST_CHECK
enum ast_rc gw_bearers_new(const struct ast_key *key, struct gw_revocations *revocations,
                           struct gw_bearers **ret, struct ast_err *err);
void gw_bearers_free(struct gw_bearers *b);
AST_DEFINE_AUTO(struct gw_bearers, gw_bearers_free)

/* The value of an Authorization field at the second `now_secs`. False: 401, whatever the reason. */
bool gw_bearers_check(struct gw_bearers *b, struct ast_str authorization, uint64_t now_secs,
                      struct ast_bearer *ret);

/* How often a signature had to be checked; tests. */
uint64_t gw_bearers_signature_checks(const struct gw_bearers *b);
