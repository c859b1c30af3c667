/* Clocks and the timestamp forms of the wire. Threads: any.
 *
 * RFC 3339 in UTC; the fraction has 0, 3, 6 or 9 digits, the shortest exact one (spec 01 §1).
 */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "base/str.h"

#define AST_NS_PER_SEC INT64_C(1000000000)
#define AST_NS_PER_MS  INT64_C(1000000)

int64_t ast_mono_ns(void); /* CLOCK_MONOTONIC */
int64_t ast_wall_ns(void); /* nanoseconds since 1970, CLOCK_REALTIME */
uint64_t ast_wall_secs(void);

#define AST_RFC3339_BYTES 40 /* "2026-06-11T10:00:00.123456789+00:00" and NUL */

enum ast_time_suffix { AST_TIME_Z, AST_TIME_OFFSET /* "+00:00", meta.json and get-caller */ };

/* Writes the text and a NUL; returns a view of it. */
struct ast_str ast_time_format(int64_t wall_ns, enum ast_time_suffix suffix,
                               char out[static AST_RFC3339_BYTES]);

/* Any RFC 3339 offset. */
bool ast_time_parse(struct ast_str s, int64_t *ret_wall_ns);

/* "2026-06-11" (UTC) and NUL. */
void ast_time_date(int64_t wall_ns, char out[static 11]);
