/* The revocation file: what loads, what does not, what is written. */
#include "gateway_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "gateway/gateway_limits.h"
#include "gateway/revoke_priv.h"

#include "base/banned.h"

static char dir[64], path[96];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/ast-revoke-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/etc/gateway-revocations.json", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return ast_fs_remove_tree(dir, NULL) == AST_OK ? 0 : -1;
}

static void put(struct ast_str text)
{
    char etc[80];
    (void)snprintf(etc, sizeof etc, "%s/etc", dir);
    assert_int_equal(ast_fs_mkdirs(etc, 0700, NULL), AST_OK);
    assert_int_equal(ast_fs_write_atomic(path, text, 0600, 0, NULL), AST_OK);
}

static void c03_15_files_load_or_fail_and_are_never_taken_as_empty(void **state)
{
    static const struct {
        const char *text;
        bool loads;
    } cases[] = {
        { "{\n  \"alice\": 1733000000,\n  \"agent-1f2e3d4c\": 1733001234\n}\n", true },
        { "", true },
        { " \n\t", true },
        { "{}", true },
        { "{", false },
        { "[]", false },
        { "null", false },
        { "{\"alice\": -1}", false },
        { "{\"alice\": 1.5}", false },
        { "{\"alice\": \"1\"}", false },
        { "{\"alice\": null}", false },
        { "{\"al ice\": 1}", false },
        { "{\"\": 1}", false },
        { "{\"alice\": 1} x", false },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(gw_revocations_close) struct gw_revocations *r = NULL;
        struct ast_err err = AST_ERR_INIT;
        put(ast_str_c(cases[i].text));
        enum ast_rc rc = gw_revocations_open(path, &r, &err);
        if (!rc != cases[i].loads)
            fail_msg("%s: %s", cases[i].text, err.msg);
        if (rc)
            assert_contains(err.msg, path);
        if (i == 0) {
            assert_true(gw_revocations_hit(r, AST_STR("alice"), 1733000000));
            assert_false(gw_revocations_hit(r, AST_STR("alice"), 1733000001));
            assert_true(gw_revocations_hit(r, AST_STR("agent-1f2e3d4c"), 0));
        }
    }
}

static void c03_15_a_file_over_ten_mebibytes_is_refused(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(2 * AST_GATEWAY_REVOCATION_BYTES);
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    assert_int_equal(ast_buf_reserve(&text, AST_GATEWAY_REVOCATION_BYTES + 1), AST_OK);
    memset(text.p, ' ', AST_GATEWAY_REVOCATION_BYTES + 1);
    for (unsigned over = 0; over < 2; over++) {
        AST_AUTO(gw_revocations_close) struct gw_revocations *r = NULL;
        text.n = AST_GATEWAY_REVOCATION_BYTES + over;
        put(ast_buf_view(&text));
        assert_int_equal(gw_revocations_open(path, &r, &err), over ? AST_E_TOO_LARGE : AST_OK);
    }
}

static void a_revocation_is_written_and_survives(void **state)
{
    AST_AUTO(gw_revocations_close) struct gw_revocations *r = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(1000);
    struct stat st;
    (void)state;
    assert_int_equal(gw_revocations_open(path, &r, NULL), AST_OK); /* no directory, no file */
    assert_true(gw_revocations_add(r, AST_STR("bob"), 20));
    assert_true(gw_revocations_add(r, AST_STR("alice"), 10));
    assert_false(gw_revocations_add(r, AST_STR("not a name"), 10));
    gw_revocations_flush(r);
    assert_int_equal(ast_fs_read(path, 1000, &text, NULL), AST_OK);
    assert_contains(text.p, "{\n  \"alice\": 10,\n  \"bob\": 20\n}");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true(gw_revocations_add(r, AST_STR("alice"), 11));
    gw_revocations_close(ast_steal(&r)); /* writes what is outstanding */
    assert_int_equal(gw_revocations_open(path, &r, NULL), AST_OK);
    assert_true(gw_revocations_hit(r, AST_STR("alice"), 11));
    assert_true(gw_revocations_hit(r, AST_STR("bob"), 20));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(c03_15_files_load_or_fail_and_are_never_taken_as_empty,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(c03_15_a_file_over_ten_mebibytes_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_revocation_is_written_and_survives, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
