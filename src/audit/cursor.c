/* Page cursors: a position in the list that one filter selects, as text nobody can make but us.
 *
 * base64url of 8 bytes sequence number (big endian) and 16 bytes keyed hash over it and the filter. The direction is not part
 * of it: from the newest row of a page a reader may go on towards newer ones.
 */
#include <stdio.h>

#include "audit/audit_priv.h"
#include "base/codec.h"

#include "base/banned.h"

#define MAC_BYTES    16u
#define CURSOR_BYTES (8u + MAC_BYTES)

static void add_u64(struct ast_blake3_state *s, uint64_t v)
{
    uint8_t b[8];
    for (unsigned i = 0; i < sizeof b; i++)
        b[i] = (uint8_t)(v >> (56 - 8 * i));
    ast_blake3_feed(s, ast_str_n(b, sizeof b));
}

static void add_text(struct ast_blake3_state *s, struct ast_str text)
{
    add_u64(s, text.n);
    ast_blake3_feed(s, text);
}

static void make_mac(const struct ast_audit *a, const struct ast_audit_filter *f, uint64_t seq,
                     uint8_t out[static MAC_BYTES])
{
    struct ast_blake3_state s;
    uint8_t filter[AST_BLAKE3_BYTES], mac[32];

    ast_blake3_begin(&s);
    ast_blake3_feed(&s, ast_str_n(f->session.b, sizeof f->session.b));
    add_u64(&s, f->has_principal);
    add_text(&s, f->has_principal ? f->principal : AST_STR_NONE);
    add_text(&s, f->method);
    add_u64(&s, f->since);
    add_u64(&s, f->until);
    add_u64(&s, seq);
    ast_blake3_end(&s, filter);
    ast_blake3_mac(a->mac_key, ast_str_n(filter, sizeof filter), mac);
    memcpy(out, mac, MAC_BYTES);
}

void ast_audit_cursor_write(struct ast_audit *a, const struct ast_audit_filter *f, uint64_t seq,
                            char out[static AST_AUDIT_MAX_CURSOR])
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_AUDIT_MAX_CURSOR - 1);
    uint8_t bytes[CURSOR_BYTES];

    for (unsigned i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(seq >> (56 - 8 * i));
    make_mac(a, f, seq, bytes + 8);
    out[0] = 0; /* out of memory: no cursor, the page is the last */
    if (!ast_base64url_encode(ast_str_n(bytes, sizeof bytes), &text))
        (void)snprintf(out, AST_AUDIT_MAX_CURSOR, "%s", text.p);
}

enum ast_rc ast_audit_cursor_read(struct ast_audit *a, const struct ast_audit_filter *f,
                                  struct ast_str text, uint64_t *ret_seq, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(CURSOR_BYTES + 4);
    uint8_t mac[MAC_BYTES], wrong = 0;
    uint64_t seq = 0;

    if (ast_base64url_decode(text, &bytes, NULL) || bytes.n != CURSOR_BYTES)
        return ast_fail(err, AST_E_INVALID, "invalid audit cursor");
    for (unsigned i = 0; i < 8; i++)
        seq = seq << 8 | (uint8_t)bytes.p[i];
    make_mac(a, f, seq, mac);
    for (unsigned i = 0; i < MAC_BYTES; i++) /* in constant time */
        wrong |= mac[i] ^ (uint8_t)bytes.p[8 + i];
    if (wrong)
        return ast_fail(err, AST_E_INVALID, "audit cursor of another query");
    *ret_seq = seq;
    return AST_OK;
}
