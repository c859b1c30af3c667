/* Hex, base64url and base64. Decoders are strict: they refuse what the encoder would not write. */
#pragma once

#include "base/buf.h"
#include "base/str.h"

/* Lower-case hex of n bytes into out[2n+1], NUL-terminated. */
void ast_hex_encode(const void *bytes, size_t n, char *out);
int ast_hex_value(char c); /* of one digit, either case; -1 for anything else */
/* Either case; needs exactly 2n digits. */
bool ast_hex_decode(struct ast_str hex, uint8_t *out, size_t n);

/* URL-safe alphabet, no padding. */
enum ast_rc ast_base64url_encode(struct ast_str bytes, struct ast_buf *out);
/* Refuses padding, foreign bytes and non-zero trailing bits (spec 03 §7.3). Appends to `out`. */
enum ast_rc ast_base64url_decode(struct ast_str text, struct ast_buf *out, struct ast_err *err);

/* The standard alphabet with padding, as keys and signatures are written in JSON. Decoding is as strict. */
enum ast_rc ast_base64_encode(struct ast_str bytes, struct ast_buf *out);
enum ast_rc ast_base64_decode(struct ast_str text, struct ast_buf *out, struct ast_err *err);
