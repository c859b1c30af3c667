/* Payloads from anywhere: guest bytes are valid JSON and a fixed point of normalisation, and the
 * message made from them carries the session they name. */
#include "bus/message.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void normalise(struct ast_str json, enum ast_payload_kind *ret_kind, struct ast_buf *out)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_ASSERT(!ast_json_parse(json, &doc, NULL));
    AST_ASSERT(!ast_payload_normalise(ast_json_root(doc), ret_kind, out));
}

/* What subscribers get, published again by one of them, arrives the same. Members of raw_json and of
 * custom data become custom, unless they look like a payload themselves. */
static void check_fixed_point(enum ast_payload_kind kind, struct ast_str body)
{
    enum ast_payload_kind again_kind;
    AST_AUTO(ast_buf_done) struct ast_buf tagged = AST_BUF_INIT(body.n + 64);
    AST_AUTO(ast_buf_done) struct ast_buf again = AST_BUF_INIT(8 * body.n + 1024);
    AST_ASSERT(!ast_payload_tagged(kind, body, &tagged));
    normalise(ast_buf_view(&tagged), &again_kind, &again);
    AST_ASSERT(again_kind == (kind == AST_PAYLOAD_RAW_JSON ? AST_PAYLOAD_CUSTOM : kind));
    AST_ASSERT(ast_str_eq(ast_buf_view(&again), body));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ast_msg_spec spec = { .topic = AST_STR("t"),
                                 .principal = AST_STR("p"),
                                 .publisher = AST_STR("c") };
    AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL, *trusted = NULL;
    if (ast_msg_from_json(&spec, ast_str_n(data, size), &m, NULL))
        return 0; /* refusing is always allowed */
    AST_ASSERT(m->kind < AST_PAYLOAD_KIND_COUNT);
    AST_ASSERT(ast_str_is(m->topic, "t") && ast_str_is(m->principal, "p") &&
               ast_str_is(m->publisher, "c"));
    AST_ASSERT(ast_str_is_utf8(m->body));
    if (m->kind == AST_PAYLOAD_CUSTOM)
        AST_ASSERT(m->body.n > 0);
    else
        AST_ASSERT(m->body.p[0] == '{' && m->body.p[m->body.n - 1] == '}');
    check_fixed_point(m->kind, m->body);

    AST_ASSERT(!ast_msg_trusted(&spec, m->kind, m->body, &trusted, NULL));
    AST_ASSERT(ast_str_eq(trusted->session, m->session));
    return 0;
}
