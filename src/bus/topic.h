/* Topics and the two matching rules (spec 04 §2). They differ on purpose: keep them apart.
 *
 * strict   binds handlers: equal segment count, '*' is exactly one segment, malformed never matches.
 * subtree  routes and authorises: a trailing ".*" is one or more segments; topics of more than 20
 *          segments match nothing.
 * Neither allocates. Threads: pure.
 */
#pragma once

#include "base/error.h"
#include "base/str.h"

#define AST_TOPIC_MAX_BYTES      256u /* guest topics and patterns, spec 04 §2.1 */
#define AST_TOPIC_MAX_SEGMENTS   8u   /* guest topics and patterns */
#define AST_TOPIC_MATCH_SEGMENTS 20u

bool ast_topic_match_strict(struct ast_str pattern, struct ast_str topic);
bool ast_topic_match_subtree(struct ast_str pattern, struct ast_str topic);

bool ast_topic_segments_valid(struct ast_str s); /* non-empty, no empty segment */
size_t ast_topic_segment_count(struct ast_str s);
/* What a guest may publish on: length, segments, count, no control characters, no "*" segment. */
bool ast_topic_publishable(struct ast_str topic);
/* What a guest may subscribe to: as above, and '*' only as the whole last segment. */
bool ast_topic_subscribable(struct ast_str pattern);
/* The audit feed: who may not read everybody's sees its owner's entries only (spec 04 §7.8). */
#define AST_TOPIC_AUDIT AST_STR("astrid.v1.audit.entry")
static inline bool ast_topic_is_audit(struct ast_str topic)
{
    return ast_str_eq(topic, AST_TOPIC_AUDIT);
}
/* Answers to the questions of an install may hold secrets: only the host function that waits sees them, never a
 * capsule and never a client. */
static inline bool ast_topic_is_secret(struct ast_str topic)
{
    return ast_str_starts(topic, AST_STR("astrid.v1.elicit.response."));
}
