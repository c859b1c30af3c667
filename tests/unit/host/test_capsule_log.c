/* The capsules' log files: place, form, rotation, pruning, what also goes to the daemon log. */
#include <dirent.h>
#include <utime.h>

#include "rig.h"

#include "base/banned.h"

static int64_t fake_now =
    INT64_C(1767312245) * AST_NS_PER_SEC + 123456789; /* 2026-01-02T00:04:05.123 */

static int64_t fake_clock(void)
{
    return fake_now;
}

static int log_setup(void **state)
{
    host_log_set_clock(fake_clock);
    fake_now = INT64_C(1767312245) * AST_NS_PER_SEC + 123456789;
    int rc = rig_setup(state);
    struct rig *r = *state;
    struct ast_log_config cfg = { .dir = ast_str_c(r->dir),
                                  .prefix = AST_STR("daemon"),
                                  .level = AST_LOG_TRACE };
    RIG_OK(ast_log_open(&cfg, &err));
    return rc;
}

static int log_teardown(void **state)
{
    ast_log_close();
    host_log_set_clock(NULL);
    return rig_teardown(state);
}

/* The text of a file below the home; NULL: there is none. */
static char *text_of(struct rig *r, const char *relative)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(&r->home, "%s", relative);
    struct ast_buf out = AST_BUF_INIT(1u << 20);
    if (ast_fs_read(path, 1u << 20, &out, NULL)) {
        ast_buf_done(&out);
        return NULL;
    }
    return out.p ? ast_buf_steal(&out) : ast_str_dup(AST_STR(""));
}

/* Everything in the daemon log. */
static char *daemon_log(struct rig *r)
{
    ast_log_close();
    struct ast_buf out = AST_BUF_INIT(1u << 22);
    DIR *d = opendir(r->dir);
    assert_non_null(d);
    struct dirent *e;
    while ((e = readdir(d)))
        if (strncmp(e->d_name, "daemon", 6) == 0) {
            AST_AUTO(ast_cfree) char *path = ast_fs_join(r->dir, e->d_name);
            RIG_OK(ast_fs_read(path, 1u << 22, &out, &err));
        }
    (void)closedir(d);
    return out.p ? ast_buf_steal(&out) : ast_str_dup(AST_STR(""));
}

#define OWNER_DIR "home/default/.local/log/" RIG_CAPSULE "/"

static void c05_20_lines_have_the_promised_form(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "log 2 hello\nlog 0 t\nlog 1 d\nlog 3 w\nlog 4 e");
    AST_AUTO(ast_cfree) char *got = text_of(r, OWNER_DIR "2026-01-02.log");
    assert_non_null(got);
    assert_string_equal(got, "1767312245.123 INFO [probe] hello\n1767312245.123 TRACE [probe] t\n"
                             "1767312245.123 DEBUG [probe] d\n1767312245.123 WARN [probe] w\n"
                             "1767312245.123 ERROR [probe] e\n");
}

static void c05_19_errors_go_to_the_daemon_log_too(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "log 4 bad thing\nlog 2 fine thing\nlog 3 odd thing");
    AST_AUTO(ast_cfree) char *daemon = daemon_log(r);
    assert_non_null(strstr(daemon, "bad thing"));
    assert_non_null(strstr(daemon, "plugin=probe"));
    assert_null(strstr(daemon, "fine thing"));
    assert_null(strstr(daemon, "odd thing"));
}

static void files_and_directories_are_private(void **state)
{
    struct rig *r = *state;
    mode_t old = umask(0);
    (void)rig_run(r, "log 2 hello");
    (void)umask(old);
    static const struct {
        const char *path;
        mode_t mode;
    } cases[] = {
        { "home/default/.local/log", 0700 },
        { "home/default/.local/log/" RIG_CAPSULE, 0700 },
        { OWNER_DIR "2026-01-02.log", 0600 },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_cfree) char *path = ast_home_path(&r->home, "%s", cases[i].path);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, cases[i].mode);
    }
}

static void a_principal_home_is_never_created(void **state)
{
    struct rig *r = *state;
    (void)rig_run_as(r, "ghost", "log 2 from a ghost");
    AST_AUTO(ast_cfree) char *home = ast_home_path(&r->home, "home/ghost");
    assert_false(ast_fs_exists(home));
    /* Not the owner's file either: the daemon log. */
    assert_null(text_of(r, OWNER_DIR "2026-01-02.log"));
    AST_AUTO(ast_cfree) char *daemon = daemon_log(r);
    assert_non_null(strstr(daemon, "from a ghost"));
}

static void lines_go_to_the_invoking_principal(void **state)
{
    struct rig *r = *state;
    RIG_OK(ast_home_ensure_principal(&r->home, AST_STR("alice"), &err));
    (void)rig_run_as(r, "alice", "log 2 mine");
    AST_AUTO(ast_cfree)
    char *got = text_of(r, "home/alice/.local/log/" RIG_CAPSULE "/2026-01-02.log");
    assert_non_null(got);
    assert_string_equal(got, "1767312245.123 INFO [probe] mine\n");
    assert_null(text_of(r, OWNER_DIR "2026-01-02.log"));
}

static void a_new_day_gets_a_new_file_and_old_ones_go(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "log 2 one");
    static const struct {
        const char *name;
        int days;
        bool goes;
    } cases[] = {
        { "2025-12-20.log", 14, true },  { "2025-12-27.log", 5, false },
        { "notes.txt", 100, false },     { "2025-1-20.log", 100, false },
        { "aaaaaaaaaa.log", 100, true },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_cfree) char *path = ast_home_path(&r->home, OWNER_DIR "%s", cases[i].name);
        RIG_OK(ast_fs_write_atomic(path, AST_STR("x"), 0600, 0, &err));
        time_t when = (time_t)(fake_now / AST_NS_PER_SEC) - cases[i].days * 86400;
        assert_int_equal(utime(path, &(struct utimbuf){ when, when }), 0);
    }
    (void)rig_run(r, "log 2 two"); /* the same day: nothing is deleted */
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_cfree) char *path = ast_home_path(&r->home, OWNER_DIR "%s", cases[i].name);
        assert_true(ast_fs_exists(path));
    }
    fake_now += 86400 * AST_NS_PER_SEC;
    (void)rig_run(r, "log 2 three");
    AST_AUTO(ast_cfree) char *first = text_of(r, OWNER_DIR "2026-01-02.log");
    AST_AUTO(ast_cfree) char *second = text_of(r, OWNER_DIR "2026-01-03.log");
    assert_non_null(strstr(first, "two"));
    assert_null(strstr(first, "three"));
    assert_non_null(strstr(second, "three"));
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_cfree) char *path = ast_home_path(&r->home, OWNER_DIR "%s", cases[i].name);
        if (ast_fs_exists(path) == cases[i].goes)
            fail_msg("%s", cases[i].name);
    }
}

static void pruning_at_load_needs_no_line(void **state)
{
    struct rig *r = *state;
    ast_host_capsule_log_prune(&r->env, AST_PRINCIPAL_DEFAULT); /* no directory: nothing happens */
    (void)rig_run(r, "log 2 one");
    AST_AUTO(ast_cfree) char *path = ast_home_path(&r->home, OWNER_DIR "2025-12-01.log");
    RIG_OK(ast_fs_write_atomic(path, AST_STR("x"), 0600, 0, &err));
    time_t when = (time_t)(fake_now / AST_NS_PER_SEC) - 8 * 86400;
    assert_int_equal(utime(path, &(struct utimbuf){ when, when }), 0);
    ast_host_capsule_log_prune(&r->env, AST_PRINCIPAL_DEFAULT);
    assert_false(ast_fs_exists(path));
}

static void a_message_is_one_line_of_bounded_length(void **state)
{
    struct rig *r = *state;
    ast_host_capsule_log(&r->env, AST_PRINCIPAL_DEFAULT, AST_LOG_INFO,
                         AST_STR("a\n1767312245.123 ERROR [root] forged\r\nb"));
    AST_AUTO(ast_cfree) char *got = text_of(r, OWNER_DIR "2026-01-02.log");
    assert_string_equal(
        got, "1767312245.123 INFO [probe] a\\n1767312245.123 ERROR [root] forged\\r\\nb\n");
    (void)rig_run(r, "logfill 2 70000");
    AST_AUTO(ast_cfree) char *again = text_of(r, OWNER_DIR "2026-01-02.log");
    assert_int_equal(strlen(again) - strlen(got), 28 + 65536 + 1);
    /* Cut between characters: 65 535 bytes, then one of two. */
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(70000);
    for (int i = 0; i < 65535; i++)
        (void)ast_buf_add_byte(&text, 'x');
    (void)ast_buf_add_lit(&text, "\xc3\xa9\xc3\xa9");
    ast_host_capsule_log(&r->env, AST_PRINCIPAL_DEFAULT, AST_LOG_INFO, ast_buf_view(&text));
    AST_AUTO(ast_cfree) char *last = text_of(r, OWNER_DIR "2026-01-02.log");
    assert_int_equal(strlen(last) - strlen(again), 28 + 65535 + 1);
}

static void a_symlink_in_the_way_is_not_followed(void **state)
{
    struct rig *r = *state;
    (void)rig_run(r, "log 2 one");
    AST_AUTO(ast_cfree) char *next = ast_home_path(&r->home, OWNER_DIR "2026-01-03.log");
    AST_AUTO(ast_cfree) char *victim = ast_home_path(&r->home, "etc/victim");
    RIG_OK(ast_fs_write_atomic(victim, AST_STR(""), 0600, 0, &err));
    assert_int_equal(symlink(victim, next), 0);
    fake_now += 86400 * AST_NS_PER_SEC;
    (void)rig_run(r, "log 2 two");
    AST_AUTO(ast_cfree) char *got = text_of(r, "etc/victim");
    assert_string_equal(got, "");
    AST_AUTO(ast_cfree) char *daemon = daemon_log(r);
    assert_non_null(strstr(daemon, "two"));
}

static void lifecycle_hooks_log_to_the_daemon(void **state)
{
    struct rig *r = *state;
    r->env.is_lifecycle = true;
    (void)rig_run(r, "log 2 installing");
    assert_null(text_of(r, OWNER_DIR "2026-01-02.log"));
    AST_AUTO(ast_cfree) char *daemon = daemon_log(r);
    assert_non_null(strstr(daemon, "installing"));
}

static void many_principals_keep_few_files_open(void **state)
{
    struct rig *r = *state;
    for (int round = 0; round < 2; round++)
        for (unsigned i = 0; i < HOST_FILES_MAX + 20; i++) {
            char name[16];
            (void)snprintf(name, sizeof name, "p%u", i);
            RIG_OK(ast_home_ensure_principal(&r->home, ast_str_c(name), &err));
            ast_host_capsule_log(&r->env, ast_str_c(name), AST_LOG_INFO, AST_STR("x"));
        }
    struct host_files *f = host_files(&r->env);
    assert_true(f->logs.n <= HOST_FILES_MAX);
    AST_AUTO(ast_cfree) char *got = text_of(r, "home/p3/.local/log/" RIG_CAPSULE "/2026-01-02.log");
    assert_string_equal(got, "1767312245.123 INFO [probe] x\n1767312245.123 INFO [probe] x\n");
}

#define LOG_TEST(fn) cmocka_unit_test_setup_teardown(fn, log_setup, log_teardown)
RIG_MAIN(LOG_TEST(c05_20_lines_have_the_promised_form),
         LOG_TEST(c05_19_errors_go_to_the_daemon_log_too),
         LOG_TEST(files_and_directories_are_private), LOG_TEST(a_principal_home_is_never_created),
         LOG_TEST(lines_go_to_the_invoking_principal),
         LOG_TEST(a_new_day_gets_a_new_file_and_old_ones_go),
         LOG_TEST(pruning_at_load_needs_no_line), LOG_TEST(a_message_is_one_line_of_bounded_length),
         LOG_TEST(a_symlink_in_the_way_is_not_followed),
         LOG_TEST(lifecycle_hooks_log_to_the_daemon), LOG_TEST(many_principals_keep_few_files_open))
