/* Publish rate limiter: one-second fixed windows of bytes per key (spec 04 §5.4).
 *
 * One object per loaded capsule; the key is the stamped principal. Above 1000 buckets, buckets whose
 * window is over are dropped at most once a minute. 100 000 keys within one second is the end: new ones
 * are refused. Threads: any.
 */
#pragma once

#include <stdint.h>

#include "base/auto.h"
#include "base/error.h"
#include "base/str.h"

#define AST_LIMITER_MAX_PAYLOAD 5242880u

struct ast_limiter;
AST_MUST_CHECK
enum ast_rc ast_limiter_new(struct ast_limiter **ret, struct ast_err *err);
void ast_limiter_free(struct ast_limiter *l);
AST_DEFINE_AUTO(struct ast_limiter, ast_limiter_free)

/* Charges `bytes` to `key` when it fits under `ceiling_bytes` per second; false: refused, not charged. */
bool ast_limiter_admit(struct ast_limiter *l, struct ast_str key, size_t bytes,
                       uint64_t ceiling_bytes, int64_t now_ns);
