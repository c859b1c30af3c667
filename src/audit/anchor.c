/* The ends of all chains in a signed file outside of the store: whoever can write the store can cut rows off the end of a
 * chain and put its head record back, but not this.
 *
 * A checkpoint is a file of the same form and another first line: the ends up to which a walk has checked every signature.
 *
 * Lines: "astrid audit anchors 1" or "astrid audit checkpoint 1", "key <hex>", one "<chain> <seq> <count> <hash> <id>" each, "signature <hex>" over all bytes
 * in front of that line.
 */
#include <stdlib.h>

#include "audit/audit_priv.h"
#include "base/codec.h"
#include "base/fs.h"

#include "base/banned.h"

#define ANCHORS_MAX (64u * 1024 * 1024)

static const char *const first_lines[] = {
    [AUDIT_ANCHORS] = "astrid audit anchors 1\n", [AUDIT_CHECKPOINT] = "astrid audit checkpoint 1\n"
};
#define SIGNATURE AST_STR("signature ")

struct writing {
    struct ast_buf *out;
};

static bool add_line(void *arg, struct ast_str key, struct ast_str value)
{
    struct writing *w = arg;
    return !ast_buf_addf(w->out, AST_STR_FMT " " AST_STR_FMT "\n", AST_STR_ARG(key),
                         AST_STR_ARG(value));
}

enum ast_rc audit_ends_write(struct ast_audit *a, const char *path, enum audit_ends kind,
                             audit_fill_ends *fill, void *arg, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(ANCHORS_MAX);
    char key[2 * AST_KEY_PUBLIC_BYTES + 1], hex[2 * AST_KEY_SIGNATURE_BYTES + 1];
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];

    ast_hex_encode(a->key->public_key, AST_KEY_PUBLIC_BYTES, key);
    (void)ast_buf_add(&text, ast_str_c(first_lines[kind]));
    (void)ast_buf_addf(&text, "key %s\n", key);
    enum ast_rc rc = fill(arg, &text, err);
    if (!rc)
        rc = ast_buf_check(&text, "audit anchors", err);
    if (rc)
        return rc;
    ast_key_sign(a->key, ast_buf_view(&text), signature);
    ast_hex_encode(signature, sizeof signature, hex);
    (void)ast_buf_addf(&text, AST_STR_FMT "%s\n", AST_STR_ARG(SIGNATURE), hex);
    rc = ast_buf_check(&text, "audit anchors", err);
    return rc ? rc : ast_fs_write_atomic(path, ast_buf_view(&text), 0600, AST_FS_SYNC, err);
}

static enum ast_rc fill_heads(void *arg, struct ast_buf *out, struct ast_err *err)
{
    struct ast_audit *a = arg;
    struct writing w = { out };
    return ast_store_scan(a->store, AUDIT_NS_HEADS, AST_STR_NONE, AST_STR_NONE, add_line, &w, err);
}

enum ast_rc ast_audit_anchor(struct ast_audit *a, const char *path, struct ast_err *err)
{
    uint64_t rows = atomic_load_explicit(&a->rows, memory_order_relaxed);

    if (rows == atomic_load_explicit(&a->anchored_rows, memory_order_relaxed))
        return AST_OK;
    enum ast_rc rc = audit_ends_write(a, path, AUDIT_ANCHORS, fill_heads, a, err);
    if (!rc)
        atomic_store_explicit(&a->anchored_rows, rows, memory_order_relaxed);
    return rc;
}

static bool cut_line(struct ast_str *rest, struct ast_str *ret)
{
    size_t end = ast_str_find_byte(*rest, '\n');
    if (end == AST_STR_NPOS)
        return false;
    *ret = ast_str_first(*rest, end);
    *rest = ast_str_from(*rest, end + 1);
    return true;
}

/* Checks form and signature; *ret_lines are the lines of the chains. */
static enum ast_rc check_file(struct ast_audit *a, enum audit_ends kind, struct ast_str text,
                              struct ast_str *ret_lines, struct ast_err *err)
{
    struct ast_str first = ast_str_c(first_lines[kind]);
    struct ast_str rest = text, line, word = AST_STR("key ");
    uint8_t key[AST_KEY_PUBLIC_BYTES], signature[AST_KEY_SIGNATURE_BYTES];
    size_t tail = SIGNATURE.n + 2 * AST_KEY_SIGNATURE_BYTES + 1;

    if (!ast_str_starts(text, first) || text.n < first.n + tail)
        return ast_fail(err, AST_E_CORRUPT, "not a file of audit anchors");
    struct ast_str body = ast_str_first(text, text.n - tail), last = ast_str_from(text, body.n);
    rest = ast_str_from(body, first.n);
    if (!cut_line(&rest, &line) || !ast_str_starts(line, word) ||
        !ast_hex_decode(ast_str_from(line, word.n), key, sizeof key) ||
        !ast_str_starts(last, SIGNATURE) || last.p[last.n - 1] != '\n' ||
        !ast_hex_decode(ast_str_n(last.p + SIGNATURE.n, 2 * sizeof signature), signature,
                        sizeof signature))
        return ast_fail(err, AST_E_CORRUPT, "damaged file of audit anchors");
    if (!audit_key_is_trusted(a, key) || !ast_key_verify(key, body, signature))
        return ast_fail(err, AST_E_CORRUPT, "audit anchors: signature verification failed");
    *ret_lines = rest;
    return AST_OK;
}

enum ast_rc audit_ends_each(struct ast_audit *a, const char *path, enum audit_ends kind,
                            bool (*each)(void *arg, struct ast_str chain,
                                         const struct ast_audit_head *head),
                            void *arg, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(ANCHORS_MAX);
    struct ast_str rest = AST_STR_NONE, line;
    struct ast_audit_head head;

    enum ast_rc rc = ast_fs_read(path, ANCHORS_MAX, &text, err);
    if (rc == AST_E_NOT_FOUND)
        return AST_OK;
    if (!rc)
        rc = check_file(a, kind, ast_buf_view(&text), &rest, err);
    while (!rc && cut_line(&rest, &line)) {
        size_t space = ast_str_find_byte(line, ' ');
        if (space == AST_STR_NPOS || !audit_head_read(ast_str_from(line, space + 1), &head))
            rc = ast_fail(err, AST_E_CORRUPT, "damaged line in the audit anchors");
        else if (!each(arg, ast_str_first(line, space), &head))
            rc = ast_fail(err, AST_E_NO_MEMORY, "audit anchors");
    }
    return rc ? ast_wrap(err, rc, "%s", path) : AST_OK;
}
