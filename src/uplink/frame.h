/* The socket's frame, both directions: u32 big-endian length, then that many bytes of JSON (spec 01 §4.1).
 * Pure; any thread. */
#pragma once

#include <stdint.h>

#include "base/buf.h"

#define AST_FRAME_HEADER     4u
#define AST_PROTOCOL_VERSION 1u
#define AST_HANDSHAKE_MAX    4096u
#define AST_FRAME_MAX_IN     (10u * 1024 * 1024) /* client to daemon */
#define AST_FRAME_MAX_OUT    (50u * 1024 * 1024) /* daemon to client */

static inline uint32_t ast_frame_length(const uint8_t header[static AST_FRAME_HEADER])
{
    return (uint32_t)header[0] << 24 | (uint32_t)header[1] << 16 | (uint32_t)header[2] << 8 |
           header[3];
}

/* Reserves room for the length in `out`; ast_frame_end() with the returned position fills it in. */
size_t ast_frame_begin(struct ast_buf *out);
void ast_frame_end(struct ast_buf *out, size_t at);
