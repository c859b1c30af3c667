#include "fixture.h"

#include <pthread.h>
#include <sys/stat.h>

#include "store/secrets.h"

#include "base/banned.h"

#define ALICE AST_STR("alice")
#define CAP   AST_STR("notes")

static enum ast_rc get(struct fixture *f, struct ast_str scope, struct ast_str key,
                       struct ast_buf *out, bool *found, struct ast_err *err)
{
    return ast_secrets_get(f->dir, scope, CAP, key, out, found, err);
}

static const char *path_in(struct fixture *f, const char *rest)
{
    static char path[200];
    (void)snprintf(path, sizeof path, "%s/%s", f->dir, rest);
    return path;
}

static mode_t mode_of(struct fixture *f, const char *rest)
{
    struct stat st;
    assert_int_equal(stat(path_in(f, rest), &st), 0);
    return st.st_mode & 07777;
}

static void c05_14_c09_44_a_secret_file_is_private(void **state)
{
    struct fixture *f = *state;
    mode_t old = umask(0);
    /* Directories an original left open are closed on the way. */
    assert_int_equal(ast_fs_mkdirs(path_in(f, "secrets/alice"), 0755, NULL), AST_OK);
    assert_int_equal(ast_secrets_set(f->dir, ALICE, CAP, AST_STR("API_KEY"), AST_STR("sk-1"), NULL),
                     AST_OK);
    umask(old);
    assert_int_equal(mode_of(f, "secrets"), 0700);
    assert_int_equal(mode_of(f, "secrets/alice"), 0700);
    assert_int_equal(mode_of(f, "secrets/alice/notes"), 0700);
    assert_int_equal(mode_of(f, "secrets/alice/notes/API_KEY"), 0600);

    AST_AUTO(ast_buf_done) struct ast_buf raw = AST_BUF_INIT(100), out = AST_BUF_INIT(100);
    bool found = false;
    assert_int_equal(ast_fs_read(path_in(f, "secrets/alice/notes/API_KEY"), 100, &raw, NULL),
                     AST_OK);
    assert_string_equal(raw.p, "sk-1"); /* nothing appended */
    assert_int_equal(get(f, ALICE, AST_STR("API_KEY"), &out, &found, NULL), AST_OK);
    assert_true(found);
    assert_string_equal(out.p, "sk-1");
}

static void scopes_capsules_and_keys_are_apart(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(100);
    bool found = true;
    assert_int_equal(get(f, ALICE, AST_STR("K"), &out, &found, NULL), AST_OK);
    assert_false(found); /* no directory at all */
    assert_int_equal(
        ast_secrets_set(f->dir, AST_SECRET_SCOPE_HOST, CAP, AST_STR("K"), AST_STR("host"), NULL),
        AST_OK);
    assert_int_equal(
        ast_secrets_set(f->dir, ALICE, AST_STR("other"), AST_STR("K"), AST_STR("other"), NULL),
        AST_OK);
    found = true;
    assert_int_equal(get(f, ALICE, AST_STR("K"), &out, &found, NULL), AST_OK);
    assert_false(found);
    assert_int_equal(get(f, AST_SECRET_SCOPE_HOST, AST_STR("K"), &out, &found, NULL), AST_OK);
    assert_true(found);
    assert_string_equal(out.p, "host");

    bool existed = false;
    assert_int_equal(ast_secrets_delete(f->dir, ALICE, CAP, AST_STR("K"), &existed, NULL), AST_OK);
    assert_false(existed);
    assert_int_equal(
        ast_secrets_delete(f->dir, AST_SECRET_SCOPE_HOST, CAP, AST_STR("K"), &existed, NULL),
        AST_OK);
    assert_true(existed);
    assert_int_equal(get(f, AST_SECRET_SCOPE_HOST, AST_STR("K"), &out, &found, NULL), AST_OK);
    assert_false(found);
}

static void names_and_values_are_checked(void **state)
{
    struct fixture *f = *state;
    static char big[AST_SECRET_FILE_MAX + 1];
    memset(big, 'a', sizeof big);
#define BAD "invalid secret key or value: "
    const struct {
        struct ast_str scope, capsule, key, value;
        const char *error; /* NULL: accepted */
        enum ast_rc rc;
        bool key_is_fine; /* get and delete accept it */
    } cases[] = {
        { ALICE, CAP, AST_STR("A_b-1 \xc3\xa4"), AST_STR("v"), NULL, AST_OK, true },
        { ALICE, CAP, { big, 255 }, AST_STR("v"), NULL, AST_OK, true },
        { ALICE, CAP, AST_STR("k"), { big, AST_SECRET_FILE_MAX }, NULL, AST_OK, true },
        { ALICE,
          CAP,
          AST_STR("k"),
          { big, AST_SECRET_FILE_MAX + 1 },
          BAD "secret value must not be longer than 65536 bytes",
          AST_E_TOO_LARGE,
          true },
        { ALICE, CAP, AST_STR("k"), AST_STR_NONE, BAD "secret value must not be empty",
          AST_E_INVALID, true },
        { ALICE, CAP, AST_STR("k"), AST_STR("\xff"), BAD "secret value must be UTF-8",
          AST_E_INVALID, true },
        { ALICE, CAP, AST_STR_NONE, AST_STR("v"), BAD "secret key must not be empty", AST_E_INVALID,
          false },
        { ALICE, CAP, AST_STR("a:b"), AST_STR("v"), BAD "secret key must not contain ':'",
          AST_E_INVALID, false },
        { ALICE, CAP, AST_STR("a/b"), AST_STR("v"),
          BAD "secret key must not contain path separators or null bytes", AST_E_INVALID, false },
        { ALICE, CAP, AST_STR("a\0b"), AST_STR("v"),
          BAD "secret key must not contain path separators or null bytes", AST_E_INVALID, false },
        { ALICE, CAP, AST_STR("."), AST_STR("v"), BAD "secret key must not start with '.'",
          AST_E_INVALID, false },
        { ALICE, CAP, AST_STR(".."), AST_STR("v"), BAD "secret key must not start with '.'",
          AST_E_INVALID, false },
        { ALICE, CAP, AST_STR(".x"), AST_STR("v"), BAD "secret key must not start with '.'",
          AST_E_INVALID, false },
        { ALICE,
          CAP,
          { big, 256 },
          AST_STR("v"),
          BAD "secret key must not be longer than 255 bytes",
          AST_E_INVALID,
          false },
        { AST_STR(".."), CAP, AST_STR("k"), AST_STR("v"), "secret scope: invalid principal id",
          AST_E_INVALID, false },
        { AST_STR("a/b"), CAP, AST_STR("k"), AST_STR("v"), "secret scope: invalid principal id",
          AST_E_INVALID, false },
        { ALICE, AST_STR(".."), AST_STR("k"), AST_STR("v"), "secret: invalid capsule id",
          AST_E_INVALID, false },
        { ALICE, AST_STR_NONE, AST_STR("k"), AST_STR("v"), "secret: invalid capsule id",
          AST_E_INVALID, false },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_err err = AST_ERR_INIT;
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(AST_SECRET_FILE_MAX);
        bool found = false;
        assert_int_equal(ast_secrets_set(f->dir, cases[i].scope, cases[i].capsule, cases[i].key,
                                         cases[i].value, &err),
                         cases[i].rc);
        assert_string_equal(err.msg, cases[i].error ? cases[i].error : "");
        assert_int_equal(ast_secrets_get(f->dir, cases[i].scope, cases[i].capsule, cases[i].key,
                                         &out, &found, NULL),
                         cases[i].key_is_fine ? AST_OK : AST_E_INVALID);
        if (!cases[i].rc) {
            assert_true(found);
            assert_true(ast_str_eq(ast_buf_view(&out), cases[i].value));
        }
        assert_int_equal(
            ast_secrets_delete(f->dir, cases[i].scope, cases[i].capsule, cases[i].key, NULL, NULL),
            cases[i].key_is_fine ? AST_OK : AST_E_INVALID);
    }
}

static void c09_45_odd_files_are_errors(void **state)
{
    struct fixture *f = *state;
    static char big[AST_SECRET_FILE_MAX + 1];
    memset(big, 'a', sizeof big);
    static const struct {
        struct ast_str content;
        enum ast_rc rc;
        const char *error;
    } cases[] = {
        { { big, AST_SECRET_FILE_MAX }, AST_OK, "" },
        { { big, AST_SECRET_FILE_MAX + 1 },
          AST_E_TOO_LARGE,
          "secret file exceeds 65536-byte cap (65537 bytes)" },
        { AST_STR("ab\xc0\x80"), AST_E_INVALID,
          "secret store error: the file of the secret is not UTF-8" },
        { AST_STR_NONE, AST_OK, "" },
    };
    assert_int_equal(ast_fs_mkdirs(path_in(f, "secrets/alice/notes"), 0700, NULL), AST_OK);
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_err err = AST_ERR_INIT;
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(AST_SECRET_FILE_MAX + 10);
        bool found = false;
        (void)ast_buf_add_lit(&out, "before");
        assert_int_equal(ast_fs_write_atomic(path_in(f, "secrets/alice/notes/K"), cases[i].content,
                                             0600, 0, NULL),
                         AST_OK);
        assert_int_equal(get(f, ALICE, AST_STR("K"), &out, &found, &err), cases[i].rc);
        assert_string_equal(err.msg, cases[i].error);
        assert_int_equal(out.n, 6 + (cases[i].rc ? 0 : cases[i].content.n));
        assert_int_equal(found, !cases[i].rc);
    }
}

struct writer {
    struct fixture *f;
    char value[5001];
    bool failed;
};

static void *write_often(void *arg)
{
    struct writer *w = arg;
    for (int i = 0; i < 20; i++)
        if (ast_secrets_set(w->f->dir, ALICE, CAP, AST_STR("K"), ast_str_c(w->value), NULL))
            w->failed = true;
    return NULL;
}

static _Atomic bool is_over;

static void *read_often(void *arg)
{
    struct writer *w = arg;
    while (!is_over) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(6000);
        bool found = false;
        if (get(w->f, ALICE, AST_STR("K"), &out, &found, NULL) || !found || out.n != 5000)
            w->failed = true;
        for (size_t i = 1; i < out.n; i++)
            w->failed |= out.p[i] != out.p[0];
    }
    return NULL;
}

static void c05_14_c09_44_a_reader_sees_the_old_or_the_new_value(void **state)
{
    struct fixture *f = *state;
    enum { N = 4 };
    static struct writer w[N + 1];
    pthread_t threads[N], reader;
    for (int i = 0; i <= N; i++) {
        w[i].f = f;
        memset(w[i].value, 'a' + i, 5000);
    }
    assert_int_equal(ast_secrets_set(f->dir, ALICE, CAP, AST_STR("K"), ast_str_c(w[N].value), NULL),
                     AST_OK);
    is_over = false;
    assert_int_equal(pthread_create(&reader, NULL, read_often, &w[N]), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_often, &w[i]), 0);
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    is_over = true;
    pthread_join(reader, NULL);
    for (int i = 0; i <= N; i++)
        assert_false(w[i].failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(c05_14_c09_44_a_secret_file_is_private),
        STORE_TEST(scopes_capsules_and_keys_are_apart),
        STORE_TEST(names_and_values_are_checked),
        STORE_TEST(c09_45_odd_files_are_errors),
        STORE_TEST(c05_14_c09_44_a_reader_sees_the_old_or_the_new_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
