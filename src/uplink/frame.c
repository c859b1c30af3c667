/* Frames are built in place: the length is written when the body is known. */
#include "uplink/frame.h"

#include "base/banned.h"

size_t ast_frame_begin(struct ast_buf *out)
{
    size_t at = out->n;
    ast_buf_add(out, ast_str_n("\0\0\0\0", AST_FRAME_HEADER));
    return at;
}

void ast_frame_end(struct ast_buf *out, size_t at)
{
    if (out->fail)
        return;
    size_t n = out->n - at - AST_FRAME_HEADER;
    AST_ASSERT(n <= UINT32_MAX);
    for (unsigned i = 0; i < AST_FRAME_HEADER; i++)
        out->p[at + i] = (char)(n >> (8 * (AST_FRAME_HEADER - 1 - i)));
}
