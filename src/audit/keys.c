/* Keys of the log's rows in the store, and the public keys whose signatures count.
 *
 * Invariant: a sequence number always has 20 digits, so byte order is the order of appending; no piece of a key holds a slash
 * or a NUL, so no list can be taken for another.
 */
#include <stdio.h>

#include "audit/audit_priv.h"
#include "base/codec.h"
#include "base/log.h"

#include "base/banned.h"

#define METHOD_MAX 64u

void audit_key_add(struct audit_key *k, struct ast_str piece)
{
    AST_ASSERT(piece.n <= sizeof k->b - k->n);
    if (piece.n)
        memcpy(k->b + k->n, piece.p, piece.n);
    k->n += piece.n;
}

void audit_key_add_seq(struct audit_key *k, uint64_t seq)
{
    char digits[AUDIT_SEQ_DIGITS];
    for (unsigned i = AUDIT_SEQ_DIGITS; i-- > 0; seq /= 10)
        digits[i] = (char)('0' + seq % 10);
    audit_key_add(k, ast_str_n(digits, sizeof digits));
}

static void add_session(struct audit_key *k, const struct ast_uuid *session)
{
    char text[AST_UUID_TEXT];
    audit_key_add(k, ast_uuid_format(session, text));
}

void audit_key_log(struct audit_key *k, const struct ast_uuid *session, uint64_t seq)
{
    k->n = 0;
    add_session(k, session);
    audit_key_add(k, AST_STR("/"));
    audit_key_add_seq(k, seq);
}

void audit_key_chain(struct audit_key *k, const struct ast_uuid *session, struct ast_str principal)
{
    k->n = 0;
    add_session(k, session);
    if (principal.n) {
        audit_key_add(k, AST_STR(":"));
        audit_key_add(k, principal);
    }
}

/* As it is when it is a plain name, else '#' and the hash: any text makes a key, none makes two. */
static void add_method(struct audit_key *k, struct ast_str method)
{
    bool is_plain = method.n > 0 && method.n <= METHOD_MAX;
    char hash[AST_BLAKE3_HEX];

    for (size_t i = 0; i < method.n && is_plain; i++) {
        char c = method.p[i];
        is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                   c == '.' || c == '_' || c == '-';
    }
    if (is_plain) {
        audit_key_add(k, method);
        return;
    }
    ast_blake3_hex(method, hash);
    audit_key_add(k, AST_STR("#"));
    audit_key_add(k, ast_str_n(hash, AST_BLAKE3_HEX - 1));
}

void audit_key_list(struct audit_key *k, const struct ast_uuid *session,
                    const struct ast_str *principal, struct ast_str method)
{
    k->n = 0;
    add_session(k, session);
    audit_key_add(k, principal && method.n ? AST_STR("/x/")
                     : principal           ? AST_STR("/p/")
                                           : AST_STR("/m/"));
    if (principal) {
        audit_key_add(k, *principal);
        audit_key_add(k, AST_STR("/"));
    }
    if (method.n || !principal) {
        add_method(k, method);
        audit_key_add(k, AST_STR("/"));
    }
}

/* With leading zeros, unlike ast_str_to_u64(). */
bool audit_seq_parse(struct ast_str digits, uint64_t *ret)
{
    uint64_t v = 0;
    if (digits.n != AUDIT_SEQ_DIGITS)
        return false;
    for (size_t i = 0; i < digits.n; i++) {
        unsigned d = (unsigned)(unsigned char)digits.p[i] - '0';
        if (d > 9 || v > (UINT64_MAX - d) / 10)
            return false;
        v = v * 10 + d;
    }
    *ret = v;
    return true;
}

uint64_t audit_key_seq(struct ast_str key)
{
    uint64_t seq = 0;
    if (key.n < AUDIT_SEQ_DIGITS)
        return 0;
    return audit_seq_parse(ast_str_from(key, key.n - AUDIT_SEQ_DIGITS), &seq) ? seq : 0;
}

struct ast_str audit_head_write(const struct ast_audit_head *h, char out[static AUDIT_HEAD_TEXT])
{
    char hash[AST_BLAKE3_HEX], id[AST_UUID_TEXT];
    ast_hex_encode(h->hash, sizeof h->hash, hash);
    int n = snprintf(out, AUDIT_HEAD_TEXT, "%llu %llu %s %s", (unsigned long long)h->seq,
                     (unsigned long long)h->count, hash, ast_uuid_format(&h->id, id).p);
    return ast_str_n(out, (size_t)n);
}

bool audit_head_read(struct ast_str text, struct ast_audit_head *ret)
{
    struct ast_str rest = text, piece[4];
    struct ast_audit_head h = { 0 };
    bool more = true;

    for (unsigned i = 0; i < 4; i++)
        if (!ast_str_split(&rest, &more, ' ', &piece[i]))
            return false;
    if (more || !ast_str_to_u64(piece[0], &h.seq) || !ast_str_to_u64(piece[1], &h.count) ||
        !ast_hex_decode(piece[2], h.hash, sizeof h.hash) || !ast_uuid_parse(piece[3], &h.id))
        return false;
    *ret = h;
    return true;
}

struct ast_str audit_method_of(const struct ast_json *action)
{
    struct ast_str type = ast_json_str_or(action, AST_STR("type"), AST_STR("?"));
    return ast_str_is(type, "admin_request") ? ast_json_str_or(action, AST_STR("method"), type)
                                             : type;
}

/* ---- trusted keys: row "<public key hex>" -> signature of ours over "astrid audit key v1" and the key ---- */

static void trust_text(const uint8_t key[static AST_KEY_PUBLIC_BYTES], struct ast_buf *out)
{
    (void)ast_buf_add_lit(out, "astrid audit key v1");
    (void)ast_buf_add(out, ast_str_n(key, AST_KEY_PUBLIC_BYTES));
}

static bool load_key(void *arg, struct ast_str row, struct ast_str value)
{
    struct ast_audit *a = arg;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(128);
    struct audit_public_key key;

    if (!ast_hex_decode(row, key.b, sizeof key.b))
        return true;
    trust_text(key.b, &text);
    if (value.n != AST_KEY_SIGNATURE_BYTES || text.fail ||
        !ast_key_verify(a->key->public_key, ast_buf_view(&text), (const uint8_t *)value.p)) {
        ast_log_fields(AST_LOG_WARN, "astrid.audit", "a trusted audit key is not vouched for",
                       AST_F_SECURITY, AST_F_STR("key", ast_str_first(row, 16)));
        return true;
    }
    AST_WITH_LOCK(&a->keys_lock);
    return ast_vec_push(&a->keys, key);
}

enum ast_rc audit_keys_load(struct ast_audit *a, struct ast_err *err)
{
    return ast_store_scan(a->store, AUDIT_NS_KEYS, AST_STR_NONE, AST_STR_NONE, load_key, a, err);
}

bool audit_key_is_trusted(struct ast_audit *a, const uint8_t key[static AST_KEY_PUBLIC_BYTES])
{
    if (memcmp(key, a->key->public_key, AST_KEY_PUBLIC_BYTES) == 0)
        return true;
    AST_WITH_LOCK(&a->keys_lock);
    for (size_t i = 0; i < a->keys.n; i++)
        if (memcmp(a->keys.v[i].b, key, AST_KEY_PUBLIC_BYTES) == 0)
            return true;
    return false;
}

struct trust_op {
    struct ast_store_op op;
    struct ast_str row, value;
};

static enum ast_rc apply_trust(struct ast_store_op *op, struct ast_store_txn *txn,
                               struct ast_err *err)
{
    struct trust_op *t = AST_CONTAINER_OF(op, struct trust_op, op);
    return ast_store_txn_put(txn, AUDIT_NS_KEYS, t->row, t->value, err);
}

enum ast_rc ast_audit_trust(struct ast_audit *a, const uint8_t key[static AST_KEY_PUBLIC_BYTES],
                            struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(128);
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];
    char row[2 * AST_KEY_PUBLIC_BYTES + 1];
    struct audit_public_key copy;

    trust_text(key, &text);
    enum ast_rc rc = ast_buf_check(&text, "audit key", err);
    if (rc)
        return rc;
    memcpy(copy.b, key, sizeof copy.b);
    ast_key_sign(a->key, ast_buf_view(&text), signature);
    ast_hex_encode(key, AST_KEY_PUBLIC_BYTES, row);
    struct trust_op op = { .op = { .apply = apply_trust },
                           .row = ast_str_c(row),
                           .value = ast_str_n(signature, sizeof signature) };
    rc = ast_store_run(a->store, &op.op, err);
    if (rc)
        return rc;
    AST_WITH_LOCK(&a->keys_lock);
    return ast_vec_push(&a->keys, copy) ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "audit key");
}
