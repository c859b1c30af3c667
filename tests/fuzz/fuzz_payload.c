/* Payloads and topics from anywhere: normalised bytes are JSON again, and normalising them changes nothing more. */
#include "bus/payload.h"

#include "base/json.h"
#include "bus/topic.h"
#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void topics(struct ast_str text)
{
    struct ast_str pattern, topic = text;
    bool more = true;

    (void)ast_str_split(&topic, &more, '\n', &pattern);
    if (ast_topic_publishable(topic)) {
        AST_ASSERT(topic.n <= AST_TOPIC_MAX_BYTES && ast_topic_segment_count(topic) <= AST_TOPIC_MAX_SEGMENTS);
        AST_ASSERT(ast_topic_match_strict(topic, topic) && ast_topic_match_subtree(topic, topic));
    }
    /* A handler's pattern is never wider than the route of the same text. */
    if (ast_topic_subscribable(pattern) && ast_topic_match_strict(pattern, topic))
        AST_ASSERT(ast_topic_match_subtree(pattern, topic));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ast_str text = ast_str_n(data, size);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL, *again = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf once = AST_BUF_INIT(64 * size + 256), twice = AST_BUF_INIT(64 * size + 256),
                                          tagged = AST_BUF_INIT(64 * size + 256);
    enum ast_payload_kind kind, kind_again;

    topics(text);
    if (ast_json_parse(text, &doc, NULL))
        return 0;
    AST_ASSERT(!ast_payload_normalise(ast_json_root(doc), &kind, &once));
    AST_ASSERT(kind < AST_PAYLOAD_KIND_COUNT);
    AST_ASSERT(!ast_json_parse(ast_buf_view(&once), &again, NULL));
    AST_ASSERT(!ast_payload_tagged(kind, ast_buf_view(&once), &tagged));
    AST_ASSERT(!ast_payload_normalise(ast_json_root(again), &kind_again, &twice));
    if (kind == kind_again && kind != AST_PAYLOAD_CUSTOM)
        AST_ASSERT(ast_str_eq(ast_buf_view(&once), ast_buf_view(&twice)));
    return 0;
}
