/* HTTP heads and chunked bodies from anywhere: the verdict does not depend on how the bytes were cut. */
#include "gateway/http_parse_priv.h"

#include <string.h>

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void heads(struct ast_str in)
{
    struct gw_request whole, pieces;
    size_t scanned = 0, scanned_whole = 0;
    unsigned status = 0, status_whole = 0;
    enum gw_parse r = GW_PARSE_MORE,
                  want = gw_parse_head(in, &scanned_whole, &whole, &status_whole);

    for (size_t n = 1; n <= in.n && r == GW_PARSE_MORE; n++)
        r = gw_parse_head(ast_str_first(in, n), &scanned, &pieces, &status);
    AST_ASSERT(in.n == 0 || r == want);
    if (want == GW_PARSE_BAD)
        AST_ASSERT(status == status_whole && status >= 400 && status < 600);
    if (want != GW_PARSE_DONE)
        return;
    AST_ASSERT(whole.head_bytes <= in.n && whole.head_bytes == pieces.head_bytes);
    AST_ASSERT(whole.field_count <= AST_GATEWAY_HEAD_FIELDS &&
               whole.field_count == pieces.field_count);
    AST_ASSERT(ast_str_eq(whole.path, pieces.path));
}

static void chunks(struct ast_str in)
{
    AST_AUTO(ast_buf_done)
    struct ast_buf whole = AST_BUF_INIT(AST_GATEWAY_BODY_BYTES),
                   pieces = AST_BUF_INIT(AST_GATEWAY_BODY_BYTES);
    struct gw_chunks a = { 0 }, b = { 0 };
    size_t used = 0, used_whole = 0, at = 0;
    bool large = false, large_whole = false;
    enum gw_parse r = GW_PARSE_MORE,
                  want = gw_parse_chunks(&a, in, &used_whole, &whole, &large_whole);

    while (at < in.n && r == GW_PARSE_MORE) {
        r = gw_parse_chunks(&b, ast_str_n(in.p + at, 1), &used, &pieces, &large);
        at++;
    }
    AST_ASSERT(used_whole <= in.n);
    AST_ASSERT(in.n == 0 || (r == want && large == large_whole));
    if (want == GW_PARSE_DONE)
        AST_ASSERT(at == used_whole && ast_str_eq(ast_buf_view(&whole), ast_buf_view(&pieces)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    heads(ast_str_n(data, size));
    chunks(ast_str_n(data, size));
    return 0;
}
