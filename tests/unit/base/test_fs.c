#include "base_test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

static char *dir;

static int setup(void **state)
{
    (void)state;
    dir = temp_dir_make();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    temp_dir_drop(dir);
    return 0;
}

static void put(const char *name, const char *text)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, name);
    assert_int_equal(ast_fs_write_atomic(path, ast_str_c(text), 0600, 0, NULL), AST_OK);
}

static size_t entries(const char *path)
{
    DIR *d = opendir(path);
    assert_non_null(d);
    size_t n = 0;
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode & 07777;
}

static void read_appends_the_whole_file(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "f");
    put("f", "content");
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
    ast_buf_add_lit(&b, "before ");
    assert_int_equal(ast_fs_read(path, 7, &b, NULL), AST_OK);
    assert_view(ast_buf_view(&b), "before content");
    put("f", "");
    assert_int_equal(ast_fs_read(path, 0, &b, NULL), AST_OK);
    assert_view(ast_buf_view(&b), "before content");
    AST_AUTO(ast_buf_done) struct ast_buf proc = AST_BUF_INIT(SIZE_MAX);
    assert_int_equal(ast_fs_read("/proc/self/status", SIZE_MAX, &proc, NULL),
                     AST_OK); /* size 0 by stat */
    assert_true(proc.n > 100);
}

static void read_stops_at_the_limit(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "f");
    struct ast_err err = AST_ERR_INIT;
    put("f", "content");
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
    assert_int_equal(ast_fs_read(path, 6, &b, &err), AST_E_TOO_LARGE);
    assert_non_null(strstr(err.msg, "larger than 6 bytes"));
    assert_int_equal(ast_fs_read("/proc/self/status", 10, &b, NULL), AST_E_TOO_LARGE);
    assert_int_equal(b.n, 0);
    assert_int_equal(ast_buf_add_lit(&b, "usable"), AST_OK);

    AST_AUTO(ast_buf_done) struct ast_buf exact = AST_BUF_INIT(7), small = AST_BUF_INIT(6);
    assert_int_equal(ast_fs_read(path, 100, &exact, NULL), AST_OK);
    assert_int_equal(ast_fs_read(path, 100, &small, NULL), AST_E_TOO_LARGE);
    assert_int_equal(small.n, 0);
}

static void read_refuses_what_is_not_a_regular_file(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *fifo = ast_fs_join(dir, "fifo"), *link = ast_fs_join(dir, "link");
    AST_AUTO(ast_cfree) char *none = ast_fs_join(dir, "none");
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(ast_fs_read(fifo, 100, &b, NULL), AST_E_INVALID);
    assert_int_equal(ast_fs_read(dir, 100, &b, NULL), AST_E_INVALID);
    assert_int_equal(ast_fs_read("/dev/zero", 100, &b, NULL), AST_E_INVALID);
    assert_int_equal(ast_fs_read(none, 100, &b, NULL), AST_E_NOT_FOUND);
    assert_int_equal(symlink("f", link), 0);
    assert_int_equal(ast_fs_read(link, 100, &b, NULL), AST_E_NOT_FOUND);
    put("f", "x");
    assert_int_equal(ast_fs_read(link, 100, &b, NULL), AST_OK);
    assert_view(ast_buf_view(&b), "x");
}

static void an_atomic_write_replaces_and_sets_the_mode(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "f");
    mode_t old = umask(077);
    assert_int_equal(ast_fs_write_atomic(path, AST_STR("one"), 0644, AST_FS_SYNC, NULL), AST_OK);
    assert_int_equal(mode_of(path), 0644);
    umask(0);
    assert_int_equal(ast_fs_write_atomic(path, AST_STR("two\0x"), 0600, 0, NULL), AST_OK);
    umask(old);
    assert_int_equal(mode_of(path), 0600);
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
    assert_int_equal(ast_fs_read(path, 100, &b, NULL), AST_OK);
    assert_true(ast_str_eq(ast_buf_view(&b), AST_STR("two\0x")));
    assert_int_equal(entries(dir), 1);
}

static void an_atomic_write_replaces_a_symlink_itself(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *link = ast_fs_join(dir, "link"), *target = ast_fs_join(dir, "target");
    put("target", "old");
    assert_int_equal(symlink("target", link), 0);
    put("link", "new");
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
    assert_int_equal(ast_fs_read(target, 100, &b, NULL), AST_OK);
    assert_view(ast_buf_view(&b), "old");
}

static void a_failed_atomic_write_leaves_nothing_behind(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *sub = ast_fs_join(dir, "sub"), *inner = ast_fs_join(dir, "sub/x");
    AST_AUTO(ast_cfree) char *none = ast_fs_join(dir, "none/f"), *slash = ast_fs_join(dir, "f/");
    assert_int_equal(ast_fs_mkdirs(inner, 0700, NULL), AST_OK);
    assert_int_not_equal(ast_fs_write_atomic(sub, AST_STR("x"), 0600, 0, NULL), AST_OK);
    assert_int_equal(entries(dir), 1);
    assert_int_equal(ast_fs_write_atomic(none, AST_STR("x"), 0600, 0, NULL), AST_E_NOT_FOUND);
    assert_int_equal(ast_fs_write_atomic(slash, AST_STR("x"), 0600, 0, NULL), AST_E_INVALID);
    assert_int_equal(ast_fs_write_atomic("..", AST_STR("x"), 0600, 0, NULL), AST_E_INVALID);
    assert_int_equal(ast_fs_write_atomic("", AST_STR("x"), 0600, 0, NULL), AST_E_INVALID);
    assert_int_equal(entries(dir), 1);
}

static void make_file(const char *path)
{
    AST_AUTO(ast_fs_close) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
}

/* What is ours to remove, and what only looks like it. */
static void a_sweep_removes_the_temp_files_of_killed_writers(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool stays;
    } files[] = {
        { ".tmp-0123456789abcdef", false },      { "keep.toml", true },
        { ".tmp-0123456789abcde", true },        { ".tmp-0123456789abcdef0", true },
        { "sub/.tmp-00000000000000aa", false },  { "sub/note", true },
        { "sub/x/.tmp-00000000000000bb", true }, /* one level too deep */
    };
    AST_AUTO(ast_cfree) char *deep = ast_fs_join(dir, "sub/x"), *trap = NULL, *named = NULL;
    AST_AUTO(ast_cfree) char *away = ast_fs_join(dir, "sub/x/y");
    assert_int_equal(ast_fs_mkdirs(away, 0700, NULL), AST_OK);
    for (size_t i = 0; i < AST_ARRAY_LEN(files); i++) {
        AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, files[i].name);
        make_file(path);
    }
    trap = ast_fs_join(dir, "sub/link");
    named = ast_fs_join(dir, ".tmp-ffffffffffffffff");
    assert_int_equal(symlink("x", trap), 0); /* leads to the file that must stay */
    assert_int_equal(mkdir(named, 0700), 0);

    assert_int_equal(ast_fs_sweep(dir, 1, 3600), 0); /* all are young */
    assert_int_equal(ast_fs_sweep(dir, 1, 0), 2);
    for (size_t i = 0; i < AST_ARRAY_LEN(files); i++) {
        AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, files[i].name);
        assert_int_equal(ast_fs_exists(path), files[i].stays);
    }
    assert_true(ast_fs_exists(named));
    assert_int_equal(ast_fs_sweep(deep, 0, 0), 1);
    AST_AUTO(ast_cfree) char *none = ast_fs_join(dir, "none");
    assert_int_equal(ast_fs_sweep(none, 3, 0), 0);
}

static void directories_are_private_from_birth(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *deep = ast_fs_join(dir, "a//b/c/"), *a = ast_fs_join(dir, "a");
    AST_AUTO(ast_cfree) char *file = ast_fs_join(dir, "file"), *below = ast_fs_join(dir, "file/x");
    AST_AUTO(ast_cfree)
    char *link = ast_fs_join(dir, "link"), *through = ast_fs_join(dir, "link/d");
    mode_t old = umask(0);
    assert_int_equal(ast_fs_mkdirs(deep, 0700, NULL), AST_OK);
    umask(old);
    assert_int_equal(mode_of(a), 0700);
    assert_int_equal(mode_of(deep), 0700);
    assert_int_equal(ast_fs_mkdirs(deep, 0755, NULL), AST_OK);
    assert_int_equal(mode_of(deep), 0700); /* existing ones stay */

    put("file", "x");
    assert_int_equal(ast_fs_mkdirs(file, 0700, NULL), AST_E_EXISTS);
    assert_int_not_equal(ast_fs_mkdirs(below, 0700, NULL), AST_OK);
    assert_int_equal(ast_fs_mkdirs("", 0700, NULL), AST_E_INVALID);
    assert_int_equal(ast_fs_mkdirs("/", 0700, NULL), AST_OK);
    assert_int_equal(symlink("a", link), 0);
    assert_int_equal(ast_fs_mkdirs(through, 0700, NULL), AST_OK);
    assert_true(ast_fs_is_dir(through));
}

static void existence_is_of_the_name(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *link = ast_fs_join(dir, "link");
    assert_false(ast_fs_exists(link));
    assert_int_equal(symlink("nowhere", link), 0);
    assert_true(ast_fs_exists(link));
    assert_false(ast_fs_is_dir(link));
    assert_true(ast_fs_is_dir(dir));
}

static void join_puts_one_slash(void **state)
{
    static const struct {
        const char *a, *b, *want;
    } rows[] = { { "a", "b", "a/b" }, { "a/", "b", "a/b" }, { "/", "b", "/b" }, { "", "b", "/b" } };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_cfree) char *p = ast_fs_join(rows[i].a, rows[i].b);
        assert_string_equal(p, rows[i].want);
    }
    AST_AUTO(ast_cfree) char *p = ast_fs_joinf("d", "%s.%d", "x", 3);
    assert_string_equal(p, "d/x.3");
}

static void removing_a_tree_never_follows_a_symlink(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *tree = ast_fs_join(dir, "tree"), *keep = ast_fs_join(dir, "keep/f");
    AST_AUTO(ast_cfree)
    char *deep = ast_fs_join(dir, "tree/a/b"), *keep_dir = ast_fs_join(dir, "keep");
    AST_AUTO(ast_cfree)
    char *l1 = ast_fs_join(dir, "tree/a/out"), *l2 = ast_fs_join(dir, "tree/dangling");
    AST_AUTO(ast_cfree) char *fifo = ast_fs_join(dir, "tree/fifo"), *top = ast_fs_join(dir, "top");
    AST_AUTO(ast_cfree) char *top_slash = ast_fs_join(dir, "top///");
    assert_int_equal(ast_fs_mkdirs(deep, 0700, NULL), AST_OK);
    assert_int_equal(ast_fs_mkdirs(keep_dir, 0700, NULL), AST_OK);
    put("keep/f", "x");
    put("tree/f", "x");
    put("tree/a/b/f", "x");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(symlink(keep_dir, l1), 0);
    assert_int_equal(symlink("nowhere", l2), 0);
    assert_int_equal(ast_fs_remove_tree(tree, NULL), AST_OK);
    assert_false(ast_fs_exists(tree));
    assert_true(ast_fs_exists(keep));

    assert_int_equal(symlink(keep_dir, top), 0);
    assert_int_equal(ast_fs_remove_tree(top_slash, NULL), AST_OK);
    assert_false(ast_fs_exists(top));
    assert_true(ast_fs_exists(keep));
    assert_int_equal(ast_fs_remove_tree(keep, NULL), AST_OK); /* a file */
    assert_false(ast_fs_exists(keep));
    assert_int_equal(ast_fs_remove_tree(keep, NULL), AST_OK); /* missing is fine */
}

static void a_tree_deeper_than_any_path_is_removed(void **state)
{
    (void)state;
    enum { DEPTH = 5000 };
    AST_AUTO(ast_cfree) char *tree = ast_fs_join(dir, "deep");
    assert_int_equal(mkdir(tree, 0700), 0);
    int at = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < DEPTH; i++) {
        assert_int_equal(mkdirat(at, "d", 0700), 0);
        int next = openat(at, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(next >= 0);
        close(at);
        at = next;
    }
    close(at);
    assert_int_equal(ast_fs_remove_tree(tree, NULL), AST_OK);
    assert_false(ast_fs_exists(tree));
}

static void a_wide_tree_is_removed(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *tree = ast_fs_join(dir, "wide");
    for (int i = 0; i < 500; i++) {
        AST_AUTO(ast_cfree) char *sub = ast_fs_joinf(tree, "s%d/%d", i % 50, i);
        assert_int_equal(ast_fs_mkdirs(sub, 0700, NULL), AST_OK);
        AST_AUTO(ast_cfree) char *file = ast_fs_join(sub, "f");
        assert_int_equal(ast_fs_write_atomic(file, AST_STR("x"), 0600, 0, NULL), AST_OK);
    }
    assert_int_equal(ast_fs_remove_tree(tree, NULL), AST_OK);
    assert_false(ast_fs_exists(tree));
}

enum { GROUP = 300, UNWANTED = 7, TAKEN = 150, HELD_BACK = 299 };

static enum ast_rc hold_back_one(void *arg, size_t i, struct ast_err *err)
{
    unsigned char *seen = arg;
    AST_AUTO(ast_cfree) char *path = ast_fs_joinf(dir, "g%zu", i);
    assert_int_equal(ast_fs_exists(path), i == TAKEN); /* it has no name yet */
    seen[i]++;
    return i == HELD_BACK ? ast_fail(err, AST_E_BUSY, "not this one") : AST_OK;
}

static void files_of_a_group_come_together_and_fail_alone(void **state)
{
    static struct ast_fs_file files[GROUP];
    static char names[GROUP][16], texts[GROUP][16];
    static unsigned char seen[GROUP];
    (void)state;
    AST_AUTO(ast_cfree) char *taken = ast_fs_joinf(dir, "g%d/below", TAKEN);
    assert_int_equal(ast_fs_mkdirs(taken, 0700, NULL), AST_OK); /* no file replaces a folder */
    memset(seen, 0, sizeof seen);
    size_t open_before = entries("/proc/self/fd");
    for (int i = 0; i < GROUP; i++) {
        snprintf(names[i], sizeof names[i], "g%d", i);
        snprintf(texts[i], sizeof texts[i], "text %d", i);
        files[i] = (struct ast_fs_file){ .name = names[i], .data = ast_str_c(texts[i]) };
    }
    files[UNWANTED].rc = AST_E_INVALID;
    mode_t mask = umask(077);
    ast_fs_write_group(dir, files, GROUP, 0640, hold_back_one, seen);
    umask(mask);
    for (int i = 0; i < GROUP; i++) {
        AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, names[i]);
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
        assert_int_equal(seen[i], i != UNWANTED);
        if (i == UNWANTED || i == HELD_BACK || i == TAKEN) {
            assert_int_not_equal(files[i].rc, AST_OK);
            assert_int_equal(ast_fs_exists(path), i == TAKEN);
            continue;
        }
        assert_int_equal(files[i].rc, AST_OK);
        assert_int_equal(mode_of(path), 0640);
        assert_int_equal(ast_fs_read(path, 100, &b, NULL), AST_OK);
        assert_view(ast_buf_view(&b), texts[i]);
    }
    assert_string_equal(files[HELD_BACK].err.msg, "not this one");
    assert_non_null(strstr(files[TAKEN].err.msg, "g150"));
    assert_int_equal(entries(dir), GROUP - 2); /* no temp file stays */
    assert_int_equal(entries("/proc/self/fd"), open_before);
}

static void a_group_without_its_directory_fails_whole(void **state)
{
    struct ast_fs_file files[] = { { .name = "a" }, { .name = "b" } };
    (void)state;
    AST_AUTO(ast_cfree) char *none = ast_fs_join(dir, "none");
    ast_fs_write_group(none, files, 2, 0600, NULL, NULL);
    assert_int_equal(files[0].rc, AST_E_NOT_FOUND);
    assert_int_equal(files[1].rc, AST_E_NOT_FOUND);
}

static void no_descriptor_is_left_open(void **state)
{
    (void)state;
    size_t before = entries("/proc/self/fd");
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "f"), *none = ast_fs_join(dir, "none/f");
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(3);
    put("f", "content");
    assert_int_equal(ast_fs_read(path, 100, &b, NULL), AST_E_TOO_LARGE);
    assert_int_equal(ast_fs_read(path, 2, &b, NULL), AST_E_TOO_LARGE);
    assert_int_equal(ast_fs_read(dir, 2, &b, NULL), AST_E_INVALID);
    assert_int_equal(ast_fs_write_atomic(none, AST_STR("x"), 0600, 0, NULL), AST_E_NOT_FOUND);
    assert_int_not_equal(ast_fs_write_atomic(dir, AST_STR("x"), 0600, 0, NULL), AST_OK);
    assert_int_equal(ast_fs_remove_tree(path, NULL), AST_OK);
    AST_AUTO(ast_fs_close) int fd = -1;
    assert_int_equal(entries("/proc/self/fd"), before);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(read_appends_the_whole_file),
        TEST(read_stops_at_the_limit),
        TEST(read_refuses_what_is_not_a_regular_file),
        TEST(an_atomic_write_replaces_and_sets_the_mode),
        TEST(an_atomic_write_replaces_a_symlink_itself),
        TEST(a_failed_atomic_write_leaves_nothing_behind),
        TEST(a_sweep_removes_the_temp_files_of_killed_writers),
        TEST(directories_are_private_from_birth),
        TEST(existence_is_of_the_name),
        TEST(join_puts_one_slash),
        TEST(removing_a_tree_never_follows_a_symlink),
        TEST(a_tree_deeper_than_any_path_is_removed),
        TEST(a_wide_tree_is_removed),
        TEST(files_of_a_group_come_together_and_fail_alone),
        TEST(a_group_without_its_directory_fails_whole),
        TEST(no_descriptor_is_left_open),
    };
    return cmocka_run_group_tests_name("fs", tests, NULL, NULL);
}
