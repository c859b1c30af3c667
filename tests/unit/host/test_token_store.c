/* The store of tokens: who may use what, once or often, before and after a restart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/time.h"
#include "host/token_store.h"

#include "base/banned.h"

#define NOW (INT64_C(2000) * AST_NS_PER_SEC)

struct fixture {
    char dir[64];
    struct ast_key key, strange;
    struct ast_principal alice, bob;
    struct ast_store *store;
    struct ast_tokens *tokens;
};

static void open_all(struct fixture *f)
{
    char path[80];
    (void)snprintf(path, sizeof path, "%s/db", f->dir);
    struct ast_store_config cfg = { .path = path, .no_sync = true, .max_bytes = 64u << 20 };
    assert_int_equal(ast_store_open(&cfg, &f->store, NULL), AST_OK);
    assert_int_equal(ast_tokens_new(f->store, f->key.public_key, &f->tokens, NULL), AST_OK);
}

static void close_all(struct fixture *f)
{
    ast_tokens_free(f->tokens);
    ast_store_close(f->store);
}

static int set_up(void **state)
{
    static const uint8_t seed[AST_KEY_SEED_BYTES] = { 5 }, other[AST_KEY_SEED_BYTES] = { 6 };
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/ast-tokens-XXXXXX");
    if (!mkdtemp(f->dir) || ast_key_from_seed(&f->key, seed, NULL) ||
        ast_key_from_seed(&f->strange, other, NULL) ||
        ast_principal_parse(AST_STR("alice"), &f->alice, NULL) ||
        ast_principal_parse(AST_STR("bob"), &f->bob, NULL))
        return -1;
    open_all(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    close_all(f);
    ast_key_done(&f->key);
    ast_key_done(&f->strange);
    int rc = ast_fs_remove_tree(f->dir, NULL) ? -1 : 0;
    free(f);
    return rc;
}

enum { SINGLE = 1, SESSION = 2, STRANGE = 4 };

/* A token of `who` for reading "file:///doc", good until second 3000. */
static struct ast_uuid give(struct fixture *f, const struct ast_principal *who, unsigned how)
{
    AST_AUTO(ast_token_done) struct ast_token t = { .permission_count = 0 };
    const struct ast_key *key = how & STRANGE ? &f->strange : &f->key;
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_token_issue_always(key, who, AST_STR("file:///doc"),
                                            AST_TOKEN_PERMISSION_read, &AST_UUID_NIL, 1000, 2000,
                                            &t, NULL),
                     AST_OK);
    t.is_single_use = how & SINGLE;
    t.is_persistent = !(how & SESSION);
    assert_int_equal(ast_token_sign(&t, key, NULL), AST_OK);
    if (ast_tokens_add(f->tokens, &t, NOW, &err))
        fail_msg("%s", err.msg);
    return t.id;
}

/* Whether alice finds a token. */
static bool finds(struct fixture *f, const struct ast_principal *who, int64_t now,
                  struct ast_uuid *ret_id)
{
    AST_AUTO(ast_token_done) struct ast_token t = { .permission_count = 0 };
    enum ast_rc rc = ast_tokens_find(f->tokens, who, AST_STR("file:///doc"),
                                     AST_TOKEN_PERMISSION_read, now, &t, NULL);
    assert_true(rc == AST_OK || rc == AST_E_NOT_FOUND);
    if (!rc && ret_id)
        *ret_id = t.id;
    return !rc;
}

struct user {
    pthread_t thread;
    struct fixture *f;
    const struct ast_uuid *id;
    enum ast_rc rc;
};

static void *use_once(void *arg)
{
    struct user *u = arg;
    u->rc = ast_tokens_use(u->f->tokens, &u->f->alice, u->id, NOW, NULL);
    return NULL;
}

static void c09_04_one_of_many_users_of_a_single_use_token_wins(void **state)
{
    struct fixture *f = *state;
    enum { USERS = 8 };

    for (unsigned how = 0; how <= SESSION; how += SESSION) {
        struct user all[USERS];
        struct ast_err err = AST_ERR_INIT;
        struct ast_uuid id = give(f, &f->alice, SINGLE | how);
        unsigned won = 0, told = 0;
        char text[AST_UUID_TEXT], want[128];
        assert_true(finds(f, &f->alice, NOW, NULL));
        for (unsigned i = 0; i < USERS; i++) {
            all[i] = (struct user){ .f = f, .id = &id };
            assert_int_equal(pthread_create(&all[i].thread, NULL, use_once, &all[i]), 0);
        }
        for (unsigned i = 0; i < USERS; i++) {
            pthread_join(all[i].thread, NULL);
            won += all[i].rc == AST_OK;
            told += all[i].rc == AST_E_CONFLICT;
        }
        assert_int_equal(won, 1);
        assert_int_equal(told, USERS - 1);
        assert_false(finds(f, &f->alice, NOW, NULL));
        if (how & SESSION)
            continue;
        close_all(f);
        open_all(f);
        assert_int_equal(ast_tokens_use(f->tokens, &f->alice, &id, NOW, &err), AST_E_CONFLICT);
        (void)snprintf(want, sizeof want, "single-use token already used: token:%s",
                       ast_uuid_format(&id, text).p);
        assert_string_equal(err.msg, want);
        assert_false(finds(f, &f->alice, NOW, NULL));
    }
}

static void c09_05_a_revoked_token_stays_revoked(void **state)
{
    struct fixture *f = *state;
    struct ast_uuid ids[] = { give(f, &f->alice, 0), give(f, &f->alice, SESSION), ast_uuid_v4() };
    AST_AUTO(ast_token_done) struct ast_token kept = { .permission_count = 0 };

    assert_int_equal(ast_tokens_get(f->tokens, &ids[0], NOW, &kept, NULL), AST_OK);
    for (int twice = 0; twice < 2; twice++)
        for (size_t i = 0; i < AST_ARRAY_LEN(ids); i++)
            assert_int_equal(ast_tokens_revoke(f->tokens, &ids[i], NULL), AST_OK);
    for (int life = 0; life < 2; life++) {
        for (size_t i = 0; i < AST_ARRAY_LEN(ids); i++) {
            AST_AUTO(ast_token_done) struct ast_token t = { .permission_count = 0 };
            struct ast_err err = AST_ERR_INIT;
            assert_int_equal(ast_tokens_get(f->tokens, &ids[i], NOW, &t, &err), AST_E_DENIED);
            assert_non_null(strstr(err.msg, "capability token revoked: token:"));
            assert_int_equal(ast_tokens_use(f->tokens, &f->bob, &ids[i], NOW, NULL), AST_E_DENIED);
        }
        assert_false(finds(f, &f->alice, NOW, NULL));
        assert_int_equal(ast_tokens_add(f->tokens, &kept, NOW, NULL), AST_E_DENIED);
        close_all(f);
        open_all(f);
    }
}

static void c09_06_a_token_of_bob_never_authorises_alice(void **state)
{
    struct fixture *f = *state;
    for (unsigned how = 0; how <= SESSION; how += SESSION) {
        struct ast_err err = AST_ERR_INIT;
        struct ast_uuid id = give(f, &f->bob, how);
        assert_false(finds(f, &f->alice, NOW, NULL));
        assert_true(finds(f, &f->bob, NOW, NULL));
        assert_int_equal(ast_tokens_use(f->tokens, &f->alice, &id, NOW, &err), AST_E_DENIED);
        assert_string_equal(err.msg, "invalid token signature");
        assert_int_equal(ast_tokens_use(f->tokens, &f->bob, &id, NOW, NULL), AST_OK);
    }
}

static void c09_07_a_token_of_another_key_never_authorises(void **state)
{
    struct fixture *f = *state;
    struct ast_uuid strange = give(f, &f->alice, STRANGE), own, found;
    struct ast_err err = AST_ERR_INIT;

    assert_false(finds(f, &f->alice, NOW, NULL));
    assert_int_equal(ast_tokens_use(f->tokens, &f->alice, &strange, NOW, &err), AST_E_DENIED);
    assert_string_equal(err.msg, "invalid token signature");
    own = give(f, &f->alice, 0); /* and it does not hide one that does */
    assert_true(finds(f, &f->alice, NOW, &found));
    assert_true(ast_uuid_eq(&own, &found));
}

static void c09_08_a_token_is_unusable_after_its_end_and_goes_at_the_next_cleanup(void **state)
{
    struct fixture *f = *state;
    const int64_t end = INT64_C(3000) * AST_NS_PER_SEC;
    struct ast_uuid id = give(f, &f->alice, SINGLE);
    AST_AUTO(ast_token_done) struct ast_token late = { .permission_count = 0 };
    uint64_t removed = 9;

    assert_true(finds(f, &f->alice, end, NULL));
    assert_false(finds(f, &f->alice, end + AST_NS_PER_SEC, NULL));
    assert_int_equal(ast_tokens_use(f->tokens, &f->alice, &id, end + AST_NS_PER_SEC, NULL),
                     AST_E_DENIED);
    assert_int_equal(ast_tokens_get(f->tokens, &id, end + 30 * AST_NS_PER_SEC, &late, NULL),
                     AST_OK);
    assert_int_equal(ast_tokens_add(f->tokens, &late, end + 30 * AST_NS_PER_SEC, NULL), AST_OK);
    assert_int_equal(ast_tokens_add(f->tokens, &late, end + 31 * AST_NS_PER_SEC, NULL),
                     AST_E_DENIED);
    assert_int_equal(ast_tokens_use(f->tokens, &f->alice, &id, end, NULL), AST_OK);
    assert_int_equal(ast_tokens_cleanup(f->tokens, end + 30 * AST_NS_PER_SEC, &removed, NULL),
                     AST_OK);
    assert_int_equal(removed, 0);
    assert_int_equal(ast_tokens_cleanup(f->tokens, end + 40 * AST_NS_PER_SEC, &removed, NULL),
                     AST_OK);
    assert_int_equal(removed, 1);
    AST_AUTO(ast_token_done) struct ast_token none = { .permission_count = 0 };
    assert_int_equal(ast_tokens_get(f->tokens, &id, NOW, &none, NULL), AST_E_NOT_FOUND);
    /* The marker went with it: a token that could come back could not be used any more anyway. */
    AST_AUTO(ast_buf_done) struct ast_buf marker = AST_BUF_INIT(64);
    char text[AST_UUID_TEXT];
    bool found = true;
    assert_int_equal(ast_store_get(f->store, AST_STR("caps:used"), ast_uuid_format(&id, text),
                                   &marker, &found, NULL),
                     AST_OK);
    assert_false(found);
}

static void c09_20_session_tokens_go_with_their_principal_and_others_stay(void **state)
{
    struct fixture *f = *state;
    (void)give(f, &f->alice, SESSION);
    (void)give(f, &f->bob, SESSION);
    ast_tokens_clear_session(f->tokens, &f->alice);
    assert_false(finds(f, &f->alice, NOW, NULL));
    assert_true(finds(f, &f->bob, NOW, NULL));
    (void)give(f, &f->bob, 0);
    close_all(f);
    open_all(f);
    assert_true(finds(f, &f->bob, NOW, NULL));
    ast_tokens_clear_session(f->tokens, NULL);
    assert_true(finds(f, &f->bob, NOW, NULL));
}

#define TOKEN_TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TOKEN_TEST(c09_04_one_of_many_users_of_a_single_use_token_wins),
        TOKEN_TEST(c09_05_a_revoked_token_stays_revoked),
        TOKEN_TEST(c09_06_a_token_of_bob_never_authorises_alice),
        TOKEN_TEST(c09_07_a_token_of_another_key_never_authorises),
        TOKEN_TEST(c09_08_a_token_is_unusable_after_its_end_and_goes_at_the_next_cleanup),
        TOKEN_TEST(c09_20_session_tokens_go_with_their_principal_and_others_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
