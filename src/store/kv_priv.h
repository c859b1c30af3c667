/* Accounting of a principal's bytes, for kv.c. */
#pragma once

#include "store/kv.h"

/* The principal of "<principal>:capsule:<id>"; empty for every other namespace, which nobody pays for. */
struct ast_str store_usage_owner(struct ast_str ns);

/* A put is about to replace `old_bytes` (0: no row) by `new_bytes` in the rows of `owner` (empty: nothing to
 * do). QUOTA when that grows the sum beyond quota_bytes (0: none). */
enum ast_rc store_usage_put(struct ast_store_txn *t, struct ast_str owner, uint64_t old_bytes,
                            uint64_t new_bytes, uint64_t quota_bytes, struct ast_err *err);
/* Rows of `bytes` together have just been removed. */
enum ast_rc store_usage_removed(struct ast_store_txn *t, struct ast_str owner, uint64_t bytes,
                                struct ast_err *err);
