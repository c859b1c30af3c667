/* The bus monitor: one warning for a storm, none for a quiet bus. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fs.h"
#include "kernel/monitors.c"

static char log_dir[64];

static void read_log(struct ast_buf *out)
{
    DIR *dir = opendir(log_dir);
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir));) {
        AST_AUTO(ast_cfree) char *path = ast_fs_join(log_dir, e->d_name);
        if (e->d_name[0] != '.')
            assert_int_equal(ast_fs_read(path, out->max, out, NULL), AST_OK);
    }
    closedir(dir);
}

static void publish(struct kernel_monitors *m, const char *topic, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct ast_msg *msg = NULL;
        const struct ast_msg_spec spec = { .topic = ast_str_c(topic) };
        assert_int_equal(ast_msg_from_json(&spec, AST_STR("{}"), &msg, NULL), AST_OK);
        on_event(&m->counts, msg);
        ast_msg_unref(msg);
    }
}

static void end_window(struct kernel_monitors *m)
{
    m->counts.began_ns = ast_mono_ns() - 5 * AST_NS_PER_SEC;
    on_bus_window(m);
}

static void c04_51_a_storm_is_one_warning_with_the_five_hottest_topics(void **state)
{
    struct kernel_monitors m = { .k = NULL };
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(1 << 20);
    (void)state;
    (void)snprintf(log_dir, sizeof log_dir, "/tmp/astrid-monitors-XXXXXX");
    assert_non_null(mkdtemp(log_dir));
    assert_int_equal(ast_log_open(&(struct ast_log_config){ .dir = ast_str_c(log_dir),
                                                            .prefix = AST_STR("t"),
                                                            .level = AST_LOG_INFO },
                                  NULL),
                     AST_OK);
    ast_lock_init(&m.counts.lock, AST_LOCK_ledger);
    end_window(&m); /* idle */
    publish(&m, "quiet.x", 490);
    end_window(&m); /* 98 a second */
    publish(&m, "hot.a", 300);
    publish(&m, "hot.f", 10);
    publish(&m, "hot.b", 200);
    publish(&m, "hot.d", 60);
    publish(&m, "hot.c", 60);
    publish(&m, "hot.e", 50);
    end_window(&m);
    end_window(&m); /* over: the counts do not stay */
    ast_log_close();
    read_log(&text);
    const char *storm = strstr(text.p, "Event bus storm detected");
    assert_non_null(storm);
    assert_null(strstr(storm + 1, "Event bus storm detected"));
    assert_non_null(strstr(storm, "hot.a=300, hot.b=200, hot.c=60, hot.d=60, hot.e=50"));
    assert_null(strstr(text.p, "hot.f"));
    assert_null(strstr(text.p, "quiet.x"));
    ast_lock_done(&m.counts.lock);
    ast_map_done(&m.counts.keys);
    assert_int_equal(ast_fs_remove_tree(log_dir, NULL), AST_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c04_51_a_storm_is_one_warning_with_the_five_hottest_topics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
