#include "base_test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/home.h"

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

static void set(const char *name, const char *value)
{
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

static void c01_01_the_root_comes_from_the_environment(void **state)
{
    static const struct {
        const char *own, *user, *root, *why;
    } rows[] = {
        { "/srv/a", "/home/x", "/srv/a", NULL },
        { NULL, "/home/x", "/home/x/.astrid", NULL },
        { "/srv/a..b/..c", NULL, "/srv/a..b/..c", NULL },
        { "\xff/x", "/home/x", "/home/x/.astrid", NULL }, /* not UTF-8: as if unset */
        { "", "/home/x", NULL, "ASTRID_HOME must be an absolute path" },
        { "rel/ative", "/home/x", NULL, "ASTRID_HOME must be an absolute path" },
        { "/srv/../etc", "/home/x", NULL, "ASTRID_HOME must not contain '..' path components" },
        { "/srv/..", NULL, NULL, "ASTRID_HOME must not contain '..' path components" },
        { NULL, NULL, NULL, "neither ASTRID_HOME nor HOME environment variable is set" },
        { NULL, "/\xff", NULL, "neither ASTRID_HOME nor HOME environment variable is set" },
        { NULL, "x", NULL, "HOME must be an absolute path" },
        { NULL, "/a/../b", NULL, "HOME must not contain '..' path components" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_home_done) struct ast_home h = { 0 };
        struct ast_err err = AST_ERR_INIT;
        set("ASTRID_HOME", rows[i].own);
        set("HOME", rows[i].user);
        assert_int_equal(ast_home_resolve(&h, &err), rows[i].why ? AST_E_INVALID : AST_OK);
        if (rows[i].why)
            assert_string_equal(err.msg, rows[i].why);
        else
            assert_string_equal(h.root, rows[i].root);
    }
}

static mode_t mode_of(const struct ast_home *h, const char *name)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(h, "%s", name);
    struct stat st;
    if (stat(path, &st))
        fail_msg("%s is missing", path);
    return st.st_mode & 07777;
}

static void c01_02_the_tree_is_private(void **state)
{
    static const char *const rows[] = { ".",
                                        "etc",
                                        "etc/hooks",
                                        "var",
                                        "run",
                                        "log",
                                        "keys",
                                        "bin",
                                        "wit",
                                        "home",
                                        "home/default",
                                        "home/default/.local",
                                        "home/default/.config" };
    (void)state;
    AST_AUTO(ast_cfree) char *root = ast_fs_join(dir, "deep/er/home");
    AST_AUTO(ast_home_done) struct ast_home h = { 0 };
    mode_t old = umask(0);
    assert_int_equal(ast_home_at(root, &h, NULL), AST_OK);
    assert_int_equal(ast_home_ensure(&h, NULL), AST_OK);
    assert_int_equal(ast_home_ensure_principal(&h, AST_STR("default"), NULL), AST_OK);
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++)
        assert_int_equal(mode_of(&h, rows[i]), 0700);
    chmod(h.root, 0755);
    assert_int_equal(ast_home_ensure(&h, NULL), AST_OK); /* repeats harmlessly and narrows again */
    umask(old);
    assert_int_equal(mode_of(&h, "."), 0700);
    assert_true(mode_of(&h, "home/default/.local/tmp") && mode_of(&h, "home/default/.config/env"));
    assert_int_equal(ast_home_ensure_principal(&h, AST_STR("../x"), NULL), AST_E_INVALID);
}

static void c01_03_the_layout_version_is_written_once(void **state)
{
    (void)state;
    AST_AUTO(ast_home_done) struct ast_home h = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
    assert_int_equal(ast_home_at(dir, &h, NULL), AST_OK);
    assert_int_equal(ast_home_ensure(&h, NULL), AST_OK);
    AST_AUTO(ast_cfree) char *path = ast_home_path(&h, "etc/%s", "layout-version");
    assert_int_equal(ast_fs_read(path, 100, &b, NULL), AST_OK);
    assert_view(ast_buf_view(&b), "1");
    assert_int_equal(ast_fs_write_atomic(path, AST_STR("7"), 0600, 0, NULL), AST_OK);
    assert_int_equal(ast_home_ensure(&h, NULL), AST_OK);
    ast_buf_reset(&b);
    assert_int_equal(ast_fs_read(path, 100, &b, NULL), AST_OK);
    assert_view(ast_buf_view(&b), "7");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c01_01_the_root_comes_from_the_environment),
        TEST(c01_02_the_tree_is_private),
        TEST(c01_03_the_layout_version_is_written_once),
    };
    return cmocka_run_group_tests_name("home", tests, NULL, NULL);
}
