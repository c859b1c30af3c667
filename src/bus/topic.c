/* Topic text: the two matching rules and the checks for guest topics.
 *
 * Everything walks the bytes in place. A topic's segments are the pieces between dots, so the empty
 * text has one empty segment.
 */
#include "bus/topic.h"

#include "base/banned.h"

/* Cuts the next segment off *rest. False when none is left; start with *more = true. */
static inline bool next_segment(struct ast_str *rest, bool *more, struct ast_str *ret)
{
    if (!*more)
        return false;
    const char *dot = rest->n ? memchr(rest->p, '.', rest->n) : NULL;
    if (!dot) {
        *ret = *rest;
        *more = false;
        return true;
    }
    size_t n = (size_t)(dot - rest->p);
    *ret = (struct ast_str){ rest->p, n };
    *rest = (struct ast_str){ dot + 1, rest->n - n - 1 };
    return true;
}

static inline bool is_star(struct ast_str segment)
{
    return segment.n == 1 && segment.p[0] == '*';
}

/* Pairs the segments of both texts; false at the first pair that differs. *ret_pattern_more and
 * *ret_topic_more tell which side has segments left. */
static bool pair_segments(struct ast_str pattern, struct ast_str topic, bool *ret_pattern_more,
                          bool *ret_topic_more)
{
    bool more_p = true, more_t = true;
    while (more_p && more_t) {
        struct ast_str p, t;
        (void)next_segment(&pattern, &more_p, &p); /* more_p says there is one */
        (void)next_segment(&topic, &more_t, &t);
        if (!is_star(p) && !ast_str_eq(p, t))
            return false;
    }
    *ret_pattern_more = more_p;
    *ret_topic_more = more_t;
    return true;
}

size_t ast_topic_segment_count(struct ast_str s)
{
    size_t dots = 0;
    for (size_t i = 0; i < s.n; i++)
        dots += s.p[i] == '.';
    return dots + 1;
}

bool ast_topic_segments_valid(struct ast_str s)
{
    bool more = true;
    struct ast_str segment;
    while (next_segment(&s, &more, &segment))
        if (segment.n == 0)
            return false;
    return true;
}

bool ast_topic_match_strict(struct ast_str pattern, struct ast_str topic)
{
    bool more_p, more_t;
    return ast_topic_segments_valid(topic) && ast_topic_segments_valid(pattern) &&
           pair_segments(pattern, topic, &more_p, &more_t) && !more_p && !more_t;
}

bool ast_topic_match_subtree(struct ast_str pattern, struct ast_str topic)
{
    if (ast_topic_segment_count(topic) > AST_TOPIC_MATCH_SEGMENTS)
        return false;
    bool more_p, more_t;
    if (!ast_str_ends(pattern, AST_STR(".*")))
        return pair_segments(pattern, topic, &more_p, &more_t) && !more_p && !more_t;
    /* The prefix alone is not covered: at least one segment has to follow. */
    return pair_segments(ast_str_first(pattern, pattern.n - 2), topic, &more_p, &more_t) &&
           !more_p && more_t;
}

/* C0, DEL and the C1 range, which UTF-8 spells C2 80 to C2 9F. */
static bool has_control(struct ast_str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i], next = i + 1 < s.n ? (unsigned char)s.p[i + 1] : 0;
        if (c < 0x20 || c == 0x7f || (c == 0xc2 && next >= 0x80 && next <= 0x9f))
            return true;
    }
    return false;
}

/* Length, count, no empty segment, no control characters. */
static bool guest_text_valid(struct ast_str s)
{
    return s.n <= AST_TOPIC_MAX_BYTES && ast_topic_segments_valid(s) &&
           ast_topic_segment_count(s) <= AST_TOPIC_MAX_SEGMENTS && !has_control(s);
}

bool ast_topic_publishable(struct ast_str topic)
{
    if (!guest_text_valid(topic))
        return false;
    bool more = true;
    struct ast_str segment;
    while (next_segment(&topic, &more, &segment))
        if (is_star(segment))
            return false;
    return true;
}

bool ast_topic_subscribable(struct ast_str pattern)
{
    if (!guest_text_valid(pattern))
        return false;
    bool more = true;
    struct ast_str segment;
    while (next_segment(&pattern, &more, &segment))
        if (is_star(segment) && more)
            return false;
    return true;
}
