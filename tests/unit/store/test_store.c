#include "fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/banned.h"

#define NS AST_STR("system:test")

static mode_t mode_of(const char *dir, const char *name)
{
    char path[128];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void files_are_private(void **state)
{
    struct fixture *f = *state;
    fixture_close(f);
    assert_int_equal(ast_fs_remove_tree(f->dir, NULL), AST_OK);
    mode_t old = umask(0);
    fixture_open(f, NULL); /* makes the directory too */
    umask(old);
    assert_int_equal(mode_of(f->dir, "."), 0700);
    assert_int_equal(mode_of(f->dir, "data.mdb"), 0600);
    assert_int_equal(mode_of(f->dir, "lock.mdb"), 0600);
    assert_int_equal(mode_of(f->dir, "LOCK"), 0600);
}

static void no_descriptor_reaches_a_child(void **state)
{
    struct fixture *f = *state;
    DIR *fds = opendir("/proc/self/fd");
    int ours = 0;
    assert_non_null(fds);
    for (struct dirent *e; (e = readdir(fds));) {
        char target[256];
        ssize_t n = readlinkat(dirfd(fds), e->d_name, target, sizeof target - 1);
        uint64_t fd;
        if (n < 0 || !ast_str_starts(ast_str_n(target, (size_t)n), ast_str_c(f->dir)) ||
            !ast_str_to_u64(ast_str_c(e->d_name), &fd))
            continue;
        ours++;
        assert_int_equal(fcntl((int)fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    }
    closedir(fds);
    assert_int_equal(ours, 4); /* data twice, LMDB's lock, our lock */
}

static int open_again(struct fixture *f)
{
    struct ast_store *second = NULL;
    struct ast_err err = AST_ERR_INIT;
    struct ast_store_config cfg = { .path = f->dir };
    enum ast_rc rc = ast_store_open(&cfg, &second, &err);
    ast_store_close(second);
    return (int)rc;
}

static void c09_41_a_second_open_fails(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(open_again(f), AST_E_BUSY); /* in this process */
    pid_t child = fork();
    if (child == 0)
        _exit(open_again(f)); /* and in another */
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), AST_E_BUSY);
    fixture_close(f);
    assert_int_equal(open_again(f), AST_OK);
}

static void bad_places_are_refused(void **state)
{
    struct fixture *f = *state;
    char path[128];
    struct ast_store *s = NULL;
    struct ast_err err = AST_ERR_INIT;
    (void)snprintf(path, sizeof path, "%s/file", f->dir);
    assert_int_equal(ast_fs_write_atomic(path, AST_STR("x"), 0600, 0, NULL), AST_OK);
    assert_int_equal(ast_store_open(&(struct ast_store_config){ .path = path }, &s, &err),
                     AST_E_EXISTS);

    /* A damaged file is reported, not replaced. */
    static char noise[20000];
    memset(noise, 0x5a, sizeof noise);
    (void)snprintf(path, sizeof path, "%s/other/data.mdb", f->dir);
    char dir[128];
    (void)snprintf(dir, sizeof dir, "%s/other", f->dir);
    assert_int_equal(ast_fs_mkdirs(dir, 0700, NULL), AST_OK);
    assert_int_equal(ast_fs_write_atomic(path, ast_str_n(noise, sizeof noise), 0600, 0, NULL),
                     AST_OK);
    assert_int_equal(ast_store_open(&(struct ast_store_config){ .path = dir }, &s, &err),
                     AST_E_CORRUPT);
    assert_non_null(strstr(err.msg, dir));
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, sizeof noise);
    assert_null(s);
    assert_int_equal(
        ast_store_open(&(struct ast_store_config){ .path = dir, .max_bytes = UINT64_MAX }, &s,
                       &err),
        AST_E_INVALID);
}

static enum ast_rc put_block(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    static char block[100000];
    char key[16];
    int n = snprintf(key, sizeof key, "%08d", *(int *)arg);
    return ast_store_txn_put(txn, NS, ast_str_n(key, (size_t)n), ast_str_n(block, sizeof block),
                             err);
}

static enum ast_rc put_small(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    char key[16];
    int n = snprintf(key, sizeof key, "s%08d", *(int *)arg);
    return ast_store_txn_put(txn, NS, ast_str_n(key, (size_t)n),
                             AST_STR("0123456789012345678901234567890123456789"), err);
}

static enum ast_rc drop_row(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    char key[16];
    bool existed = false;
    int n = snprintf(key, sizeof key, "s%08d", *(int *)arg);
    enum ast_rc rc = ast_store_txn_delete(txn, NS, ast_str_n(key, (size_t)n), &existed, err);
    if (!rc)
        assert_true(existed);
    return rc;
}

static enum ast_rc drop_all(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    (void)arg;
    return ast_store_txn_clear(txn, NS, AST_STR_NONE, AST_STR_NONE, NULL, err);
}

/* Fills to the last byte, first by large values, then by small ones until nothing fits. */
static int fill(struct ast_store *s, struct ast_err *err)
{
    int i = 0;
    enum ast_rc rc;
    while (!(rc = run_fn(s, put_block, &i, err)))
        i++;
    assert_int_equal(rc, AST_E_NO_CAPACITY);
    i = 0;
    while (!(rc = run_fn(s, put_small, &i, err)))
        i++;
    assert_int_equal(rc, AST_E_NO_CAPACITY);
    assert_string_equal(err->msg, "storage error: put: the store has reached its maximum size");
    return i;
}

static void a_full_store_refuses_puts_and_can_be_emptied(void **state)
{
    struct fixture *f = *state;
    struct ast_err err = AST_ERR_INIT;
    struct ast_store_stats stats;
    fixture_close(f);
    fixture_open(f, &(struct ast_store_config){ .no_sync = true, .max_bytes = 8u << 20 });
    for (int round = 0; round < 5; round++) {
        int rows = fill(f->store, &err);
        ast_store_stats(f->store, &stats);
        assert_in_range(stats.bytes_used, 7u << 20, 10u << 20);
        for (int i = 0; i < rows; i += 1 + rows / 200)
            assert_int_equal(run_fn(f->store, drop_row, &i, &err), AST_OK);
        assert_int_equal(run_fn(f->store, drop_all, NULL, &err), AST_OK);
    }
}

static void a_smaller_maximum_than_the_file_still_opens(void **state)
{
    struct fixture *f = *state;
    struct ast_err err = AST_ERR_INIT;
    int i = 0;
    for (; i < 100; i++)
        assert_int_equal(run_fn(f->store, put_block, &i, &err), AST_OK);
    fixture_close(f);
    fixture_open(f, &(struct ast_store_config){ .no_sync = true, .max_bytes = 1u << 20 });
    assert_int_equal(run_fn(f->store, put_block, &i, &err), AST_E_NO_CAPACITY);
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(200000);
    bool found = false;
    assert_int_equal(ast_store_get(f->store, NS, AST_STR("00000099"), &out, &found, NULL), AST_OK);
    assert_true(found && out.n == 100000);
}

static void what_was_written_is_there_after_opening_again(void **state)
{
    struct fixture *f = *state;
    int i = 5;
    fixture_close(f);
    fixture_open(f, &(struct ast_store_config){ 0 }); /* with every sync */
    assert_int_equal(run_fn(f->store, put_small, &i, NULL), AST_OK);
    fixture_close(f);
    fixture_open(f, NULL);
    assert_non_null(value_of(f->store, NS, AST_STR("s00000005")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(files_are_private),
        STORE_TEST(no_descriptor_reaches_a_child),
        STORE_TEST(c09_41_a_second_open_fails),
        STORE_TEST(bad_places_are_refused),
        STORE_TEST(a_full_store_refuses_puts_and_can_be_emptied),
        STORE_TEST(a_smaller_maximum_than_the_file_still_opens),
        STORE_TEST(what_was_written_is_there_after_opening_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
