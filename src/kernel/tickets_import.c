/* The original's token files, taken over once (spec 02 §18.2, §19.1).
 *
 * The rows and a mark of the file go into the store in one change; only then is the file renamed. A
 * boot that finds the mark of this very file renames again and reads nothing, so a token that was
 * spent between a failed rename and now does not come back.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/toml.h"
#include "crypto/hash.h"
#include "kernel/kernel_priv.h"
#include "kernel/tickets_priv.h"

#include "base/banned.h"

#define MARK_NS AST_STR("system:tickets")

static const struct source {
    enum kernel_ticket_kind kind;
    const char *path, *table, *subject, *note, *what;
} sources[KERNEL_TICKET_KINDS] = {
    [KERNEL_TICKET_INVITE] = { KERNEL_TICKET_INVITE, "etc/invites.toml", "invite", "group",
                               "metadata", "invite store" },
    [KERNEL_TICKET_PAIRING] = { KERNEL_TICKET_PAIRING, "etc/pair-tokens.toml", "pair_token",
                                "principal", "label", "pair-token store" },
};

struct import_op {
    struct ast_store_op op;
    const struct source *source;
    char mark[KERNEL_TICKET_HASH + 1]; /* of the file's text */
    struct kernel_ticket *v;
    size_t n;
    bool is_known;
};

static enum ast_rc apply_import(struct ast_store_op *base, struct ast_store_txn *t,
                                struct ast_err *err)
{
    struct import_op *op = AST_CONTAINER_OF(base, struct import_op, op);
    struct ast_str key = ast_str_c(op->source->path), mark;

    op->is_known =
        ast_store_txn_get(t, MARK_NS, key, &mark) && ast_str_eq(mark, ast_str_c(op->mark));
    enum ast_rc rc = AST_OK;
    for (size_t i = 0; i < op->n && !rc && !op->is_known; i++)
        if (!tickets_has(t, op->source->kind, ast_str_c(op->v[i].hash)))
            rc = tickets_put_new(t, op->source->kind, &op->v[i], err);
    return rc ? rc : ast_store_txn_put(t, MARK_NS, key, ast_str_c(op->mark), err);
}

static bool is_hash(struct ast_str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
            return false;
    return s.n == KERNEL_TICKET_HASH;
}

/* Unknown members are ignored, as the original does. */
static enum ast_rc read_row(const struct source *s, const struct ast_json *row,
                            struct kernel_ticket *ret, struct ast_err *err)
{
    bool is_invite = s->kind == KERNEL_TICKET_INVITE;
    struct ast_str hash = ast_json_str_or(row, AST_STR("token_hash"), AST_STR_NONE), note;
    struct ast_str subject = ast_json_str_or(row, ast_str_c(s->subject), AST_STR_NONE);
    const struct ast_json *expires = ast_json_member(row, "expires_at_epoch");
    uint64_t uses = 1;

    *ret = (struct kernel_ticket){ .uses = 0 };
    if (!is_hash(hash) || !ast_str_to_c(hash, ret->hash, sizeof ret->hash))
        return ast_fail(err, AST_E_INVALID, "%s parse: token_hash must be 64 hex digits", s->what);
    if (!subject.n || !ast_str_to_c(subject, ret->subject, sizeof ret->subject))
        return ast_fail(err, AST_E_INVALID, "%s parse: %s is missing or too long", s->what,
                        s->subject);
    if (is_invite &&
        (!ast_json_u64(ast_json_member(row, "remaining_uses"), &uses) || uses > UINT32_MAX))
        return ast_fail(err, AST_E_INVALID, "%s parse: remaining_uses must be a number", s->what);
    if (!ast_json_u64(ast_json_member(row, "issued_at_epoch"), &ret->issued_at) ||
        (expires ? !ast_json_u64(expires, &ret->expires_at) : !is_invite))
        return ast_fail(err, AST_E_INVALID, "%s parse: a time is missing or no number", s->what);
    if (expires && !ret->expires_at)
        ret->expires_at = 1; /* dead since 1970; 0 would mean never */
    if (ast_json_string(ast_json_get(row, ast_str_c(s->note)), &note)) {
        ret->has_note = true;
        if (!ast_str_to_c(ast_str_first(note, KERNEL_TICKET_NOTE_MAX), ret->note, sizeof ret->note))
            ret->has_note = false;
    }
    ret->uses = (uint32_t)uses;
    return AST_OK;
}

static enum ast_rc read_file(struct import_op *op, struct ast_str text, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    const struct source *s = op->source;

    enum ast_rc rc = ast_toml_parse(text, &doc, err);
    if (rc)
        return ast_wrap(err, rc, "%s parse", s->what);
    const struct ast_json *rows = ast_json_get(ast_json_root(doc), ast_str_c(s->table)), *row;
    size_t n = ast_json_count(rows);
    if (rows && ast_json_type(rows) != AST_JSON_ARRAY)
        return ast_fail(err, AST_E_INVALID, "%s parse: %s must be a list", s->what, s->table);
    op->v = calloc(n + 1, sizeof *op->v);
    if (!op->v)
        return ast_fail(err, AST_E_NO_MEMORY, "%s", s->what);
    struct ast_json_iter it = AST_JSON_ITER(rows);
    struct ast_str key;
    while (!rc && rows && ast_json_next(&it, &key, &row)) {
        rc = read_row(s, row, &op->v[op->n], err);
        if (!rc && op->v[op->n].uses)
            op->n++; /* a row without uses is dead */
    }
    return rc;
}

enum ast_rc kernel_tickets_import(struct ast_store *store, const struct ast_home *home,
                                  enum kernel_ticket_kind kind, struct ast_err *err)
{
    const struct source *s = &sources[kind];
    AST_AUTO(ast_cfree) char *path = ast_home_path(home, "%s", s->path);
    AST_AUTO(ast_cfree) char *aside = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_TOML_MAX_BYTES);
    struct import_op op = { .op = { .apply = apply_import }, .source = s };

    if (!path || asprintf(&aside, "%s.imported", path) < 0) {
        aside = NULL;
        return ast_fail(err, AST_E_NO_MEMORY, "%s", s->what);
    }
    if (!ast_fs_exists(path))
        return AST_OK;
    enum ast_rc rc = ast_fs_read(path, AST_TOML_MAX_BYTES, &text, err);
    if (rc)
        return ast_wrap(err, rc, "%s io", s->what);
    ast_sha256_hex(ast_buf_view(&text), op.mark);
    rc = read_file(&op, ast_buf_view(&text), err);
    if (!rc)
        rc = ast_store_run(store, &op.op, err);
    free(op.v);
    if (!rc && rename(path, aside))
        rc = ast_fail_errno(err, AST_E_IO, errno, "%s io: %s cannot be set aside", s->what, path);
    if (!rc)
        ast_log_info(KERNEL_TARGET, "%s imported rows=%zu kept_as=%s", s->what,
                     op.is_known ? (size_t)0 : op.n, aside);
    return rc;
}
