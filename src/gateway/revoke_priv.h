/* Which bearers are dead although they verify: principal -> second of the revocation (spec 03 §8).
 *
 * A corrupt file is an error, never an empty map. An entry only moves forward.
 * Threads: any. The file is written by the map's own thread.
 */
#pragma once

#include <stdint.h>

#include "base/home.h"
#include "base/id.h"

struct gw_revocations;

AST_MUST_CHECK
enum ast_rc gw_revocations_open(const char *path, struct gw_revocations **ret, struct ast_err *err);
/* Waits until the last change is on disk or has failed. NULL is fine. */
void gw_revocations_close(struct gw_revocations *r);
AST_DEFINE_AUTO(struct gw_revocations, gw_revocations_close)

/* Step 7 of spec 03 §7.3. */
bool gw_revocations_hit(struct gw_revocations *r, struct ast_str principal, uint64_t issued_at);

/* Effective on return; the file follows. False: not newer than what is known, or out of memory (logged). */
bool gw_revocations_add(struct gw_revocations *r, struct ast_str principal, uint64_t epoch_secs);
/* Waits until everything added so far is written; tests. */
void gw_revocations_flush(struct gw_revocations *r);
