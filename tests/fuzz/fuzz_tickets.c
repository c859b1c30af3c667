/* etc/invites.toml and etc/pair-tokens.toml from anywhere, as the first boot takes them over: refused with a text and left
 * where they are, or set aside with every live row in the store and whole. A file that comes back brings nothing back.
 *
 * Input: a byte for which of the two, then the file. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/toml.h"
#include "kernel/tickets.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/ast-fuzz-tickets-XXXXXX";
static struct ast_home home;
static struct ast_store *store;

static const struct {
    enum kernel_ticket_kind kind;
    const char *path;
} files[] = { { KERNEL_TICKET_INVITE, "etc/invites.toml" },
              { KERNEL_TICKET_PAIRING, "etc/pair-tokens.toml" } };

static void teardown(void)
{
    ast_store_close(store);
    ast_home_done(&home);
    (void)ast_fs_remove_tree(dir, NULL); /* at exit there is nobody to tell */
}

static void setup(void)
{
    struct ast_log_config quiet = { .level = AST_LOG_OFF };
    char path[64];
    AST_ASSERT(!ast_log_open(&quiet, NULL) && mkdtemp(dir));
    snprintf(path, sizeof path, "%s/db", dir);
    struct ast_store_config cfg = { .path = path, .no_sync = true, .max_bytes = 64u << 20 };
    AST_ASSERT(!ast_store_open(&cfg, &store, NULL) && !ast_home_at(dir, &home, NULL) &&
               !ast_home_ensure(&home, NULL));
    atexit(teardown);
}

struct count {
    size_t n;
    char hash[KERNEL_TICKET_HASH + 1]; /* of the last one */
};

static bool check_one(void *arg, const struct kernel_ticket *t)
{
    struct count *c = arg;
    AST_ASSERT(strlen(t->hash) == KERNEL_TICKET_HASH && t->subject[0] && t->uses > 0);
    memcpy(c->hash, t->hash, sizeof c->hash);
    c->n++;
    return true;
}

static struct count count(enum kernel_ticket_kind kind)
{
    struct count c = { .n = 0 };
    AST_ASSERT(!kernel_tickets_each(store, kind, /* now= */ 2, check_one, &c, NULL));
    return c;
}

/* An empty store for the next input; the marks of files stay, as they do in a real one. */
static void empty(enum kernel_ticket_kind kind)
{
    for (struct count c = count(kind); c.n; c = count(kind)) {
        struct kernel_ticket_op op = { .now = 0 };
        kernel_ticket_revoke(&op, kind, ast_str_c(c.hash));
        AST_ASSERT(!ast_store_run(store, &op.op, NULL) && op.ret_count == 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ast_err err = AST_ERR_INIT;
    if (!store)
        setup();
    if (size < 1)
        return 0;
    struct ast_str text = ast_str_n(data + 1, size - 1);
    enum kernel_ticket_kind kind = files[data[0] % 2].kind;
    AST_AUTO(ast_cfree) char *path = ast_home_path(&home, "%s", files[data[0] % 2].path);
    AST_ASSERT(path && !ast_fs_write_atomic(path, text, 0600, 0, NULL));

    enum ast_rc rc = kernel_tickets_import(store, &home, &err);
    AST_ASSERT(ast_fs_exists(path) == (rc != AST_OK));
    if (rc) {
        AST_ASSERT(err.rc == rc && err.msg[0] && count(kind).n == 0);
        AST_ASSERT(!unlink(path));
        return 0;
    }
    empty(kind);
    AST_ASSERT(!ast_fs_write_atomic(path, text, 0600, 0, NULL));
    AST_ASSERT(!kernel_tickets_import(store, &home, &err) && count(kind).n == 0);
    return 0;
}
