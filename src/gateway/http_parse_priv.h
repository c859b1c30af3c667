/* HTTP/1.1 requests as bytes: heads and chunked bodies (RFC 9112).
 *
 * Strict on purpose: a lenient reader and a proxy in front of it can disagree where a request ends. Views point
 * into the input. Nothing here allocates except a body's buffer. Threads: pure.
 */
#pragma once

#include <stdint.h>

#include "base/buf.h"
#include "gateway/gateway_limits.h"

/* name; the order is also the order of Allow */
#define GW_METHOD_MAP(X)                                                                           \
    X(GET) X(HEAD) X(POST) X(PUT) X(DELETE) X(PATCH) X(OPTIONS) X(CONNECT) X(TRACE)

enum gw_method {
#define X(name) GW_METHOD_##name,
    GW_METHOD_MAP(X)
#undef X
        GW_METHOD_OTHER
};
const char *gw_method_name(enum gw_method m); /* "GET", or "OTHER" */

struct gw_field {
    struct ast_str name, value; /* as sent; the value without white space around it */
};

struct gw_request {
    enum gw_method method;
    /* as sent: not decoded, not normalised; starts with '/' or is "*" or an authority */
    struct ast_str path;
    struct ast_str query; /* behind '?', as sent */
    struct gw_field fields[AST_GATEWAY_HEAD_FIELDS];
    size_t field_count;
    size_t head_bytes;       /* with the empty line */
    uint64_t content_length; /* 0 without the field */
    bool is_http10, keep_alive, is_chunked, expects_continue;
    struct ast_str body; /* set by the connection */
    bool body_too_large; /* the body went over AST_GATEWAY_BODY_BYTES and was not kept */
};

/* The first field of that name (lower case); false when absent. */
bool gw_request_field(const struct gw_request *r, struct ast_str name, struct ast_str *ret_value);

enum gw_parse { GW_PARSE_MORE, GW_PARSE_DONE, GW_PARSE_BAD };

/* Reads one head from the start of `in`. *scanned remembers how far earlier calls with a shorter prefix of the
 * same bytes came; start with 0. BAD: *ret_status says how to answer (400, 431, 501, 505). */
enum gw_parse gw_parse_head(struct ast_str in, size_t *scanned, struct gw_request *ret,
                            unsigned *ret_status);

/* A chunked body in progress; zeroed is the start. */
struct gw_chunks {
    enum { GW_CHUNK_SIZE, GW_CHUNK_DATA, GW_CHUNK_DATA_END, GW_CHUNK_TRAILER, GW_CHUNK_DONE } state;
    uint64_t left;     /* of the chunk's data */
    size_t line_bytes; /* of the line being read */
    size_t digits;     /* of the chunk size */
    size_t trailer_bytes;
    bool in_extension;
    bool saw_cr;
};
/* Eats from `in`, appends data to `out` up to its ceiling (beyond it data is dropped and *ret_too_large set).
 * *ret_used says how much was eaten. */
enum gw_parse gw_parse_chunks(struct gw_chunks *c, struct ast_str in, size_t *ret_used,
                              struct ast_buf *out, bool *ret_too_large);
