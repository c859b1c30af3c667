/* Topics from anywhere: the two matchers agree where they must, and the bus delivers exactly where
 * the subtree rule says. The input is lines: the topic first, then patterns. */
#include <stdlib.h>

#include "bus/route.h"
#include "bus/topic.h"

#include "base/banned.h"

#define MAX_PATTERNS 16
#define MAX_LINE     512u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_pair(struct ast_str pattern, struct ast_str topic)
{
    bool strict = ast_topic_match_strict(pattern, topic),
         subtree = ast_topic_match_subtree(pattern, topic);
    bool shallow = ast_topic_segment_count(topic) <= AST_TOPIC_MATCH_SEGMENTS;
    if (strict && shallow)
        AST_ASSERT(subtree);
    if (strict)
        AST_ASSERT(ast_topic_segments_valid(pattern) && ast_topic_segments_valid(topic) &&
                   ast_topic_segment_count(pattern) == ast_topic_segment_count(topic));
    if (!shallow)
        AST_ASSERT(!subtree);
    if (ast_str_eq(pattern, topic) && shallow && !ast_str_ends(pattern, AST_STR(".*")))
        AST_ASSERT(subtree);
    if (ast_topic_publishable(topic))
        AST_ASSERT(ast_topic_subscribable(topic) && topic.n <= AST_TOPIC_MAX_BYTES &&
                   ast_topic_segment_count(topic) <= AST_TOPIC_MAX_SEGMENTS &&
                   ast_topic_match_strict(topic, topic) && ast_topic_match_subtree(topic, topic));
}

/* One route for all patterns must agree with one route each. */
static void check_delivery(struct ast_str topic, const struct ast_str *patterns, size_t count)
{
    AST_AUTO(ast_bus_free) struct ast_bus *bus = NULL;
    AST_ASSERT(!ast_bus_new(&bus, NULL));
    struct ast_route *each[MAX_PATTERNS], *all = NULL;
    struct ast_route_config cfg = { .patterns = patterns,
                                    .pattern_count = count,
                                    .label = AST_STR("fuzz") };
    AST_ASSERT(!ast_route_open(bus, &cfg, &all, NULL));
    cfg.pattern_count = 1;
    for (size_t i = 0; i < count; i++, cfg.patterns++)
        AST_ASSERT(!ast_route_open(bus, &cfg, &each[i], NULL));

    struct ast_msg_spec spec = { .topic = topic };
    struct ast_msg *m = NULL;
    AST_ASSERT(!ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, AST_STR("1"), &m, NULL));
    ast_bus_publish(bus, m);
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        bool want = ast_topic_match_subtree(patterns[i], topic);
        AST_ASSERT(ast_route_empty(each[i]) != want);
        any |= want;
        ast_route_close(each[i]);
    }
    AST_ASSERT(ast_route_empty(all) != any);
    ast_msg_unref(ast_route_take(all));
    AST_ASSERT(ast_route_empty(all)); /* once, however many patterns matched */
    ast_route_close(all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ast_str rest = ast_str_n(data, size), line, topic = AST_STR_NONE, patterns[MAX_PATTERNS];
    size_t count = 0;
    bool more = true, first = true;
    while (count < MAX_PATTERNS && ast_str_split(&rest, &more, '\n', &line)) {
        line = ast_str_first(line, MAX_LINE);
        if (first)
            topic = line;
        else
            patterns[count++] = line;
        first = false;
    }
    for (size_t i = 0; i < count; i++)
        check_pair(patterns[i], topic);
    if (count > 0)
        check_delivery(topic, patterns, count);
    return 0;
}
