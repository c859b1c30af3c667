/* Hex and base64url: one canonical text per byte string, in both directions. */
#include "base/codec.h"

#include "base/banned.h"

static const char hex_digits[] = "0123456789abcdef";
static const char url_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void ast_hex_encode(const void *bytes, size_t n, char *out)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = hex_digits[p[i] >> 4];
        out[2 * i + 1] = hex_digits[p[i] & 15];
    }
    out[2 * n] = 0;
}

int ast_hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool ast_hex_decode(struct ast_str hex, uint8_t *out, size_t n)
{
    if (n > SIZE_MAX / 2 || hex.n != 2 * n)
        return false;
    for (size_t i = 0; i < hex.n; i++) {
        if (ast_hex_value(hex.p[i]) < 0)
            return false;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned high = (unsigned)ast_hex_value(hex.p[2 * i]);
        out[i] = (uint8_t)(high << 4 | (unsigned)ast_hex_value(hex.p[2 * i + 1]));
    }
    return true;
}

static int url_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '-')
        return 62;
    return c == '_' ? 63 : -1;
}

enum ast_rc ast_base64url_encode(struct ast_str bytes, struct ast_buf *out)
{
    const uint8_t *p = (const uint8_t *)bytes.p;
    if (bytes.n > SIZE_MAX / 4 * 3 - 3)
        return out->fail = AST_E_TOO_LARGE;
    enum ast_rc rc = ast_buf_reserve(out, bytes.n / 3 * 4 + (bytes.n % 3 ? bytes.n % 3 + 1 : 0));
    if (rc)
        return rc;

    char *at = out->p + out->n;
    size_t left = bytes.n;
    for (; left >= 3; left -= 3, p += 3) {
        uint32_t v = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
        *at++ = url_digits[v >> 18];
        *at++ = url_digits[v >> 12 & 63];
        *at++ = url_digits[v >> 6 & 63];
        *at++ = url_digits[v & 63];
    }
    if (left) {
        uint32_t v = (uint32_t)p[0] << 16 | (left == 2 ? (uint32_t)p[1] << 8 : 0);
        *at++ = url_digits[v >> 18];
        *at++ = url_digits[v >> 12 & 63];
        if (left == 2)
            *at++ = url_digits[v >> 6 & 63];
    }
    *at = 0;
    out->n = (size_t)(at - out->p);
    return AST_OK;
}

enum ast_rc ast_base64url_decode(struct ast_str text, struct ast_buf *out, struct ast_err *err)
{
    if (text.n % 4 == 1)
        return ast_fail(err, AST_E_INVALID, "base64url: impossible length %zu", text.n);
    if (ast_buf_reserve(out, text.n / 4 * 3 + 2))
        return ast_buf_check(out, "base64url", err);

    size_t start = out->n;
    uint32_t bits = 0;
    unsigned held = 0; /* bits waiting in `bits` */
    for (size_t i = 0; i < text.n; i++) {
        int v = url_value(text.p[i]);
        if (v < 0) {
            out->n = start;
            out->p[start] = 0;
            return ast_fail(err, AST_E_INVALID, "base64url: foreign byte at %zu", i);
        }
        bits = bits << 6 | (uint32_t)v;
        held += 6;
        if (held >= 8) {
            held -= 8;
            out->p[out->n++] = (char)(bits >> held);
            bits &= (1u << held) - 1;
        }
    }
    if (bits) {
        out->n = start;
        out->p[start] = 0;
        return ast_fail(err, AST_E_INVALID, "base64url: non-zero trailing bits");
    }
    out->p[out->n] = 0;
    return AST_OK;
}

enum ast_rc ast_base64_encode(struct ast_str bytes, struct ast_buf *out)
{
    size_t before = out->n;
    enum ast_rc rc = ast_base64url_encode(bytes, out);
    for (size_t i = before; i < out->n; i++)
        out->p[i] = out->p[i] == '-' ? '+' : out->p[i] == '_' ? '/' : out->p[i];
    for (size_t i = bytes.n; i % 3 && !rc; i++)
        rc = ast_buf_add_byte(out, '=');
    return rc;
}

enum ast_rc ast_base64_decode(struct ast_str text, struct ast_buf *out, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf url = AST_BUF_INIT(text.n);
    size_t pad = 0;

    while (pad < 2 && pad < text.n && text.p[text.n - 1 - pad] == '=')
        pad++;
    if (text.n % 4)
        return ast_fail(err, AST_E_INVALID, "invalid base64 encoding");
    for (size_t i = 0; i < text.n - pad; i++) {
        char c = text.p[i];
        if (c == '-' || c == '_')
            return ast_fail(err, AST_E_INVALID, "invalid base64 encoding");
        (void)ast_buf_add_byte(&url, c == '+' ? '-' : c == '/' ? '_' : c);
    }
    enum ast_rc rc = ast_buf_check(&url, "base64", err);
    return rc ? rc : ast_base64url_decode(ast_buf_view(&url), out, err);
}
