/* One-time tokens: spent once, kept as hashes, taken over from the original's files (spec 02 §18, §19). */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "crypto/hash.h"
#include "kernel/tickets.h"

#include "base/banned.h"

#define NOW UINT64_C(1767613600)

struct rig {
    char dir[64];
    struct ast_home home;
    struct ast_store *store;
};

static void open_store(struct rig *r)
{
    struct ast_err err = AST_ERR_INIT;
    char path[96];
    (void)snprintf(path, sizeof path, "%s/store", r->dir);
    const struct ast_store_config cfg = { .path = path, .no_sync = true };
    if (ast_store_open(&cfg, &r->store, &err))
        fail_msg("%s", err.msg);
}

static int set_up(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    if (!r)
        return -1;
    (void)snprintf(r->dir, sizeof r->dir, "/tmp/ast-tickets-XXXXXX");
    if (!mkdtemp(r->dir))
        return -1;
    r->home.root = r->dir;
    open_store(r);
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct rig *r = *state;
    ast_store_close(r->store);
    int rc = ast_fs_remove_tree(r->dir, NULL) ? -1 : 0;
    free(r);
    return rc;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

struct token {
    char text[KERNEL_TICKET_TEXT + 1];
};

static struct token issue(struct rig *r, enum kernel_ticket_kind kind, const char *subject,
                          uint32_t uses, uint64_t expires_at)
{
    struct kernel_ticket_op op = { .now = 0 };
    struct ast_err err = AST_ERR_INIT;
    struct token t;
    if (kernel_ticket_issue(&op, kind, ast_str_c(subject), NULL, uses, expires_at, NOW, t.text,
                            &err) ||
        ast_store_run(r->store, &op.op, &err))
        fail_msg("%s", err.msg);
    return t;
}

static enum ast_rc spend(struct rig *r, enum kernel_ticket_kind kind, const char *token,
                         uint64_t now, struct kernel_ticket_op *op, struct ast_err *err)
{
    kernel_ticket_spend(op, kind, ast_str_c(token), now);
    return ast_store_run(r->store, &op->op, err);
}

static uint64_t revoke(struct rig *r, const char *given)
{
    struct kernel_ticket_op op = { .now = 0 };
    kernel_ticket_revoke(&op, KERNEL_TICKET_INVITE, ast_str_c(given));
    assert_int_equal(ast_store_run(r->store, &op.op, NULL), AST_OK);
    return op.ret_count;
}

static bool append(void *arg, const struct kernel_ticket *t)
{
    char *text = arg;
    size_t n = strlen(text);
    (void)snprintf(text + n, 512 - n, "%s:%u ", t->subject, t->uses);
    return true;
}

static const char *listed(struct rig *r, enum kernel_ticket_kind kind, uint64_t now)
{
    static char text[512];
    text[0] = 0;
    assert_int_equal(kernel_tickets_each(r->store, kind, now, AST_STR_NONE, append, text, NULL),
                     AST_OK);
    return text;
}

static bool has_text(void *arg, struct ast_str ns, struct ast_str key, struct ast_str value)
{
    struct ast_str token = ast_str_c(arg);
    (void)ns;
    assert_true(ast_str_find(key, token) == AST_STR_NPOS);
    assert_true(ast_str_find(value, token) == AST_STR_NPOS);
    return true;
}

static void c02_40_a_token_has_32_characters_and_only_its_hash_is_kept(void **state)
{
    struct rig *r = *state;
    struct token a = issue(r, KERNEL_TICKET_INVITE, "agent", 1, 0), b;
    b = issue(r, KERNEL_TICKET_INVITE, "agent", 1, 0);
    assert_int_equal(strlen(a.text), 32);
    assert_int_equal(
        strspn(a.text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), 32);
    assert_string_not_equal(a.text, b.text);
    assert_int_equal(ast_store_each(r->store, AST_STR_NONE, has_text, a.text, NULL), AST_OK);
}

static void one_text_for_every_token_that_cannot_be_spent(void **state)
{
    struct rig *r = *state;
    struct kernel_ticket_op op = { .now = 0 };
    struct token once = issue(r, KERNEL_TICKET_INVITE, "agent", 1, 0);
    struct token dead = issue(r, KERNEL_TICKET_INVITE, "agent", 5, NOW + 10);

    assert_int_equal(spend(r, KERNEL_TICKET_INVITE, once.text, NOW, &op, NULL), AST_OK);
    assert_string_equal(op.ticket.subject, "agent");
    const struct {
        const char *token;
        uint64_t now;
    } bad[] = { { once.text, NOW }, { dead.text, NOW + 10 }, { "never issued", NOW }, { "", NOW } };
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++) {
        struct ast_err err = AST_ERR_INIT;
        assert_int_equal(spend(r, KERNEL_TICKET_INVITE, bad[i].token, bad[i].now, &op, &err),
                         AST_E_DENIED);
        assert_string_equal(err.msg, "invite token invalid, expired, or already consumed");
    }
    assert_int_equal(spend(r, KERNEL_TICKET_INVITE, dead.text, NOW + 9, &op, NULL), AST_OK);
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(spend(r, KERNEL_TICKET_PAIRING, dead.text, NOW, &op, &err), AST_E_DENIED);
    assert_string_equal(err.msg, "pair-device token invalid or expired");
}

struct racer {
    struct rig *r;
    const char *token;
    atomic_uint *won;
};

static void *race(void *arg)
{
    struct racer *x = arg;
    struct kernel_ticket_op op = { .now = 0 };
    if (!spend(x->r, KERNEL_TICKET_INVITE, x->token, NOW, &op, NULL))
        atomic_fetch_add(x->won, 1);
    return NULL;
}

static void of_64_who_spend_one_token_at_once_exactly_its_uses_win(void **state)
{
    struct rig *r = *state;
    for (uint32_t uses = 1; uses <= 3; uses++) {
        struct token t = issue(r, KERNEL_TICKET_INVITE, "agent", uses, 0);
        atomic_uint won = 0;
        struct racer x = { r, t.text, &won };
        pthread_t threads[64];
        for (size_t i = 0; i < AST_ARRAY_LEN(threads); i++)
            assert_int_equal(pthread_create(&threads[i], NULL, race, &x), 0);
        for (size_t i = 0; i < AST_ARRAY_LEN(threads); i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(atomic_load(&won), uses);
    }
    assert_string_equal(listed(r, KERNEL_TICKET_INVITE, NOW), "");
}

static void a_use_given_back_can_be_spent_again_in_its_place(void **state)
{
    struct rig *r = *state;
    struct kernel_ticket_op op = { .now = 0 };
    struct token a = issue(r, KERNEL_TICKET_INVITE, "first", 1, NOW + 100);
    struct token b = issue(r, KERNEL_TICKET_INVITE, "second", 2, 0);

    assert_int_equal(spend(r, KERNEL_TICKET_INVITE, a.text, NOW, &op, NULL), AST_OK);
    assert_string_equal(listed(r, KERNEL_TICKET_INVITE, NOW), "second:2 ");
    kernel_ticket_give_back(&op);
    assert_int_equal(ast_store_run(r->store, &op.op, NULL), AST_OK);
    assert_string_equal(listed(r, KERNEL_TICKET_INVITE, NOW), "first:1 second:2 ");
    assert_int_equal(spend(r, KERNEL_TICKET_INVITE, a.text, NOW, &op, NULL), AST_OK);

    assert_int_equal(spend(r, KERNEL_TICKET_INVITE, b.text, NOW, &op, NULL), AST_OK);
    assert_int_equal(revoke(r, b.text), 1);
    kernel_ticket_give_back(&op); /* revoked meanwhile: it stays away */
    assert_int_equal(ast_store_run(r->store, &op.op, NULL), AST_OK);
    assert_string_equal(listed(r, KERNEL_TICKET_INVITE, NOW), "");
}

static void revoking_takes_the_token_or_its_fingerprint(void **state)
{
    struct rig *r = *state;
    char hash[AST_SHA256_HEX], upper[AST_SHA256_HEX];
    struct token a = issue(r, KERNEL_TICKET_INVITE, "agent", 1, 0);
    struct token b = issue(r, KERNEL_TICKET_INVITE, "agent", 1, 1); /* dead on arrival */
    ast_sha256_hex(ast_str_c(b.text), hash);
    memcpy(upper, hash, sizeof upper);
    for (char *p = upper; *p; p++)
        if (*p >= 'a' && *p <= 'f')
            *p = (char)(*p - 'a' + 'A');
    assert_int_equal(revoke(r, upper), strcmp(upper, hash) == 0); /* case counts */
    assert_int_equal(revoke(r, hash), strcmp(upper, hash) != 0);
    assert_int_equal(revoke(r, hash), 0);
    assert_int_equal(revoke(r, a.text), 1);
    assert_int_equal(revoke(r, a.text), 0);
    assert_int_equal(revoke(r, ""), 0);
}

static void dead_rows_go_when_others_are_issued_or_asked_for(void **state)
{
    struct rig *r = *state;
    struct kernel_ticket_op op = { .now = 0 };
    for (int i = 0; i < 30; i++)
        (void)issue(r, KERNEL_TICKET_PAIRING, "alice", 1, NOW + 60);
    (void)issue(r, KERNEL_TICKET_PAIRING, "bob", 1, NOW + 61);
    assert_string_equal(listed(r, KERNEL_TICKET_PAIRING, NOW + 60), "bob:1 ");
    kernel_ticket_prune(&op, KERNEL_TICKET_PAIRING, NOW + 60);
    assert_int_equal(ast_store_run(r->store, &op.op, NULL), AST_OK);
    assert_int_equal(op.ret_count, 30);
    assert_string_equal(listed(r, KERNEL_TICKET_PAIRING, NOW), "bob:1 ");
    assert_int_equal(kernel_ticket_drop(&op, KERNEL_TICKET_PAIRING, AST_STR("bob"), NULL), AST_OK);
    assert_int_equal(ast_store_run(r->store, &op.op, NULL), AST_OK);
    assert_int_equal(op.ret_count, 1);
    assert_string_equal(listed(r, KERNEL_TICKET_PAIRING, NOW), "");
}

static void what_does_not_fit_is_refused(void **state)
{
    struct kernel_ticket_op op = { .now = 0 };
    struct token t;
    char text[400];
    (void)state;
    memset(text, 'x', sizeof text);
    struct ast_str long_note = ast_str_n(text, KERNEL_TICKET_NOTE_MAX + 1), group = AST_STR("g");
    assert_int_equal(
        kernel_ticket_issue(&op, KERNEL_TICKET_INVITE, group, NULL, 0, 0, NOW, t.text, NULL),
        AST_E_INVALID);
    assert_int_equal(
        kernel_ticket_issue(&op, KERNEL_TICKET_INVITE, AST_STR(""), NULL, 1, 0, NOW, t.text, NULL),
        AST_E_INVALID);
    assert_int_equal(
        kernel_ticket_issue(&op, KERNEL_TICKET_INVITE, group, &long_note, 1, 0, NOW, t.text, NULL),
        AST_E_INVALID);
}

/* --- The original's files ------------------------------------------------------------------------- */

static void write_file(struct rig *r, const char *name, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/etc", r->dir);
    (void)mkdir(path, 0700);
    (void)snprintf(path, sizeof path, "%s/%s", r->dir, name);
    assert_int_equal(ast_fs_write_atomic(path, ast_str_c(text), 0600, 0, NULL), AST_OK);
}

static bool file_exists(struct rig *r, const char *name)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", r->dir, name);
    return ast_fs_exists(path);
}

static enum ast_rc import_all(struct rig *r)
{
    enum ast_rc rc = kernel_tickets_import(r->store, &r->home, KERNEL_TICKET_INVITE, NULL);
    return rc ? rc : kernel_tickets_import(r->store, &r->home, KERNEL_TICKET_PAIRING, NULL);
}

static const char invites[] =
    "[[invite]]\n"
    "token_hash = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"\n" /* "test" */
    "group = \"agent\"\nremaining_uses = 2\nissued_at_epoch = 1767613600\nmetadata = \"lab\"\n"
    "[[invite]]\n"
    "token_hash = \"60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752\"\n" /* "test2" */
    "group = \"ops\"\nremaining_uses = 1\nexpires_at_epoch = 1767613700\nissued_at_epoch = 1767613600\nnew = 1\n";

static void files_of_the_original_are_taken_over_once(void **state)
{
    struct rig *r = *state;
    struct kernel_ticket_op op = { .now = 0 };
    write_file(r, "etc/invites.toml", invites);
    write_file(r, "etc/pair-tokens.toml", "pair_token = []\n");
    assert_int_equal(import_all(r), AST_OK);
    assert_string_equal(listed(r, KERNEL_TICKET_INVITE, NOW), "agent:2 ops:1 ");
    assert_false(file_exists(r, "etc/invites.toml"));
    assert_true(file_exists(r, "etc/invites.toml.imported"));
    assert_false(file_exists(r, "etc/pair-tokens.toml"));
    assert_int_equal(spend(r, KERNEL_TICKET_INVITE, "test2", NOW, &op, NULL), AST_OK);
    assert_int_equal(spend(r, KERNEL_TICKET_INVITE, "test", NOW, &op, NULL), AST_OK);
    assert_true(op.ticket.has_note);
    assert_string_equal(op.ticket.note, "lab");

    write_file(r, "etc/invites.toml", invites); /* the very file, as after a rename that was lost */
    assert_int_equal(import_all(r), AST_OK);
    assert_string_equal(listed(r, KERNEL_TICKET_INVITE, NOW), "agent:1 ");
    assert_int_equal(import_all(r), AST_OK); /* nothing there */
}

static void a_file_that_cannot_be_read_stays_where_it_is(void **state)
{
    struct rig *r = *state;
    static const char *const bad[] = {
        "[[invite]\n",
        "invite = 3\n",
        "[[invite]]\ntoken_hash = \"00\"\ngroup = \"g\"\nremaining_uses = 1\nissued_at_epoch = 1\n",
        "[[invite]]\ngroup = \"g\"\n",
        "[[invite]]\ntoken_hash = "
        "\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"\ngroup = "
        "\"g\"\nremaining_uses = 5000000000\nissued_at_epoch = 1\n",
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++) {
        struct ast_err err = AST_ERR_INIT;
        write_file(r, "etc/invites.toml", bad[i]);
        assert_int_equal(kernel_tickets_import(r->store, &r->home, KERNEL_TICKET_INVITE, &err),
                         AST_E_INVALID);
        assert_true(ast_str_starts(ast_str_c(err.msg), AST_STR("invite store parse: ")));
        assert_true(file_exists(r, "etc/invites.toml"));
        assert_string_equal(listed(r, KERNEL_TICKET_INVITE, NOW), "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(c02_40_a_token_has_32_characters_and_only_its_hash_is_kept),
        TEST(one_text_for_every_token_that_cannot_be_spent),
        TEST(of_64_who_spend_one_token_at_once_exactly_its_uses_win),
        TEST(a_use_given_back_can_be_spent_again_in_its_place),
        TEST(revoking_takes_the_token_or_its_fingerprint),
        TEST(dead_rows_go_when_others_are_issued_or_asked_for),
        TEST(what_does_not_fit_is_refused),
        TEST(files_of_the_original_are_taken_over_once),
        TEST(a_file_that_cannot_be_read_stays_where_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
