/* JSON from anywhere: what is accepted prints canonically, and the canonical text is a fixed point. */
#include "base/json.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The order of members and the absence of duplicates, level by level (recursion: at most 128). */
static void check_sorted(const struct ast_json *v)
{
    struct ast_json_iter it = AST_JSON_ITER(v);
    struct ast_str last = AST_STR_NONE, key;
    const struct ast_json *child;
    size_t n = 0;
    while (ast_json_next(&it, &key, &child)) {
        if (ast_json_type(v) == AST_JSON_OBJECT) {
            AST_ASSERT(n == 0 || ast_str_cmp(last, key) < 0);
            AST_ASSERT(ast_json_get(v, key) == child);
        }
        check_sorted(child);
        last = key;
        n++;
    }
    AST_ASSERT(n == ast_json_count(v));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL, *again = NULL, *third = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf once = AST_BUF_INIT(8 * size + 64);
    AST_AUTO(ast_buf_done) struct ast_buf twice = AST_BUF_INIT(8 * size + 64);
    AST_AUTO(ast_buf_done) struct ast_buf plain = AST_BUF_INIT(8 * size + 64);
    AST_AUTO(ast_buf_done) struct ast_buf quoted = AST_BUF_INIT(8 * size + 64);
    struct ast_str text = ast_str_n(data, size);

    /* Any bytes can be quoted, and well-formed ones come back unchanged. */
    AST_AUTO(ast_json_free) struct ast_json_doc *literal = NULL;
    struct ast_str back;
    AST_ASSERT(!ast_json_quote(text, &quoted));
    AST_ASSERT(!ast_json_parse(ast_buf_view(&quoted), &literal, NULL));
    AST_ASSERT(ast_json_string(ast_json_root(literal), &back) && ast_str_is_utf8(back));
    AST_ASSERT(ast_str_is_utf8(text) == ast_str_eq(back, text));

    if (ast_json_parse(text, &doc, NULL))
        return 0; /* refusing is always allowed */
    AST_ASSERT(ast_str_is_utf8(text));
    AST_ASSERT(!ast_json_canonical(ast_json_root(doc), &once));
    AST_ASSERT(!ast_json_parse(ast_buf_view(&once), &again, NULL));
    check_sorted(ast_json_root(again));
    AST_ASSERT(!ast_json_canonical(ast_json_root(again), &twice));
    AST_ASSERT(ast_str_eq(ast_buf_view(&once), ast_buf_view(&twice)));

    /* The unsorted form means the same. */
    AST_ASSERT(!ast_json_compact(ast_json_root(doc), &plain));
    AST_ASSERT(!ast_json_parse(ast_buf_view(&plain), &third, NULL));
    ast_buf_reset(&twice);
    AST_ASSERT(!ast_json_canonical(ast_json_root(third), &twice));
    AST_ASSERT(ast_str_eq(ast_buf_view(&once), ast_buf_view(&twice)));
    return 0;
}
