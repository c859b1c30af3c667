/* Any text is refused as an audit entry, or it is one whose parts, written again, are read the same and sign the same bytes.
 * Any text is refused as a cursor, or it is the one that its own position gives. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "audit/audit.h"
#include "base/fs.h"

#include "base/banned.h"

static struct ast_key key;
static struct ast_store *store;
static struct ast_audit *audit;
static char dir[] = "/tmp/ast-fuzz-audit-XXXXXX";

static void finish(void)
{
    ast_audit_close(audit);
    ast_store_close(store);
    (void)ast_fs_remove_tree(dir, NULL); /* the process ends */
}

static void start(void)
{
    static const uint8_t seed[AST_KEY_SEED_BYTES] = { 7 };
    AST_ASSERT(mkdtemp(dir));
    AST_ASSERT(!ast_key_from_seed(&key, seed, NULL));
    AST_ASSERT(
        !ast_store_open(&(struct ast_store_config){ .path = dir, .no_sync = true }, &store, NULL));
    AST_ASSERT(
        !ast_audit_open(&(struct ast_audit_config){ .store = store, .key = &key }, &audit, NULL));
    (void)atexit(finish);
}

static void check_entry(struct ast_str text)
{
    AST_AUTO(ast_buf_done) struct ast_buf again = AST_BUF_INIT(2 * AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf first = AST_BUF_INIT(2 * AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf second = AST_BUF_INIT(2 * AST_AUDIT_MAX_ENTRY);
    struct ast_audit_entry e, f;

    if (ast_audit_entry_read(text, &e, NULL))
        return;
    AST_ASSERT(!ast_audit_entry_write(&e, &again, NULL));
    AST_ASSERT(!ast_audit_entry_read(ast_buf_view(&again), &f, NULL));
    AST_ASSERT(!ast_audit_entry_signed(&e, &first, NULL) &&
               !ast_audit_entry_signed(&f, &second, NULL));
    AST_ASSERT(ast_str_eq(ast_buf_view(&first), ast_buf_view(&second)));
    AST_ASSERT(ast_str_eq(e.outcome, f.outcome) && e.is_success == f.is_success);
    AST_ASSERT(ast_audit_entry_is_sealed_right(&e) == ast_audit_entry_is_sealed_right(&f));
}

static void check_cursor(struct ast_str text)
{
    struct ast_audit_filter filter = { .method = AST_STR("m") };
    char own[AST_AUDIT_MAX_CURSOR];
    uint64_t seq = 0;

    if (ast_audit_cursor_read(audit, &filter, text, &seq, NULL))
        return;
    ast_audit_cursor_write(audit, &filter, seq, own);
    AST_ASSERT(ast_str_eq(text, ast_str_c(own)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, start);
    check_entry(ast_str_n(data, size));
    check_cursor(ast_str_n(data, size));
    return 0;
}
