#include "base_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log_priv.h"
#include "base/thread.h"
#include "base/time.h"

#include "base/banned.h"

#define TEN_OCLOCK (INT64_C(1781172000) * AST_NS_PER_SEC) /* 2026-06-11T10:00:00Z */
#define DAY        (INT64_C(86400) * AST_NS_PER_SEC)

static char *dir;
static _Atomic int64_t wall;

static int64_t fake_wall(void)
{
    return wall;
}

static int setup(void **state)
{
    (void)state;
    dir = temp_dir_make();
    wall = TEN_OCLOCK + 123456789;
    base_log_set_clock(fake_wall);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ast_log_close();
    base_log_set_clock(NULL);
    temp_dir_drop(dir);
    return 0;
}

static void open_log(enum ast_log_level level, const char *directives)
{
    struct ast_log_config cfg = { .dir = ast_str_c(dir),
                                  .level = level,
                                  .directives = ast_str_c(directives) };
    assert_int_equal(ast_log_open(&cfg, NULL), AST_OK);
}

/* The content of today's file, or of the named one. Owned. */
static char *content(const char *name)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, name ? name : "astrid.2026-06-11.log");
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(64 << 20);
    assert_int_equal(ast_fs_read(path, 64 << 20, &b, NULL), AST_OK);
    ast_buf_add_lit(&b, "");
    return ast_buf_steal(&b);
}

static size_t count_lines(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* --- Formats ------------------------------------------------------------------------------- */

static void format(enum ast_log_format f, struct ast_str message,
                   const struct ast_log_field *fields, size_t n, struct ast_buf *out)
{
    struct base_log_line line = { .wall_ns = TEN_OCLOCK + 123456789,
                                  .level = AST_LOG_INFO,
                                  .target = "astrid.kernel",
                                  .message = message,
                                  .fields = fields,
                                  .field_count = n };
    assert_int_equal(base_log_format(&line, f, out), AST_OK);
}

static void each_format_has_its_shape(void **state)
{
    (void)state;
    const struct ast_log_field fields[] = { AST_F_CSTR("session", "0000-1"),
                                            AST_F_BOOL("ephemeral", false),
                                            AST_F_U64("n", 7),
                                            AST_F_I64("d", -3),
                                            AST_F_F64("f", 0.5),
                                            AST_F_CSTR("who", "a b"),
                                            AST_F_SECURITY };
    static const char compact[] =
        "2026-06-11T10:00:00.123456Z  INFO astrid.kernel: Kernel booted successfully session=0000-1 "
        "ephemeral=false n=7 d=-3 f=0.5 who=\"a b\" security_event=true\n";
    static const struct {
        enum ast_log_format format;
        const char *want;
    } rows[] = {
        { AST_LOG_COMPACT, compact },
        { AST_LOG_FULL, compact },
        { AST_LOG_PRETTY,
          "  2026-06-11T10:00:00.123456Z  INFO astrid.kernel: Kernel booted successfully\n"
          "    session: 0000-1\n    ephemeral: false\n    n: 7\n    d: -3\n    f: 0.5\n"
          "    who: \"a b\"\n    security_event: true\n\n" },
        { AST_LOG_JSON,
          "{\"timestamp\":\"2026-06-11T10:00:00.123456Z\",\"level\":\"INFO\",\"fields\":"
          "{\"message\":\"Kernel booted successfully\",\"session\":\"0000-1\",\"ephemeral\":false,"
          "\"n\":7,\"d\":-3,\"f\":0.5,\"who\":\"a b\",\"security_event\":true},"
          "\"target\":\"astrid.kernel\"}\n" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(BASE_LOG_LINE_MAX);
        format(rows[i].format, AST_STR("Kernel booted successfully"), fields, AST_ARRAY_LEN(fields),
               &out);
        assert_view(ast_buf_view(&out), rows[i].want);
    }
}

static void foreign_text_cannot_forge_a_line(void **state)
{
    static const struct {
        const char *value, *as_message, *as_field;
    } rows[] = {
        { "plain", "plain", "plain" },
        { "", "", "\"\"" },
        { "a\nb\r\tc", "a\\nb\\r\\tc", "\"a\\nb\\r\\tc\"" },
        { "\x1b[31m", "\\u001b[31m", "\"\\u001b[31m\"" },
        { "\x7f", "\\u007f", "\"\\u007f\"" },
        { "\xc2\x9b"
          "2J",
          "\\u009b2J", "\"\\u009b2J\"" },
        { "\xe2\x80\xae", "\\u202e", "\"\\u202e\"" },
        { "\xff", "\xef\xbf\xbd", "\"\xef\xbf\xbd\"" },
        { "say \"x\" \\", "say \"x\" \\", "\"say \\\"x\\\" \\\\\"" },
        { "k=v", "k=v", "\"k=v\"" },
        { "\xc3\xa4", "\xc3\xa4", "\"\xc3\xa4\"" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(BASE_LOG_LINE_MAX);
        const struct ast_log_field f[] = { AST_F_CSTR("k", rows[i].value) };
        format(AST_LOG_COMPACT, ast_str_c(rows[i].value), f, 1, &out);
        char want[200];
        snprintf(want, sizeof want, "2026-06-11T10:00:00.123456Z  INFO astrid.kernel: %s k=%s\n",
                 rows[i].as_message, rows[i].as_field);
        assert_view(ast_buf_view(&out), want);
    }
}

static void a_long_line_is_cut_and_says_so(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *text = malloc(1 << 20);
    memset(text, 1, 1 << 20); /* each byte becomes six */
    struct ast_log_field fields[100];
    for (size_t i = 0; i < AST_ARRAY_LEN(fields); i++)
        fields[i] = AST_F_STR("key", ast_str_n(text, 1 << 20));
    for (int f = AST_LOG_COMPACT; f <= AST_LOG_JSON; f++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1 << 20);
        ast_buf_add_lit(&out, "before");
        format((enum ast_log_format)f, ast_str_n(text, 1 << 20), fields, AST_ARRAY_LEN(fields),
               &out);
        assert_true(out.n <= 6 + BASE_LOG_LINE_MAX);
        assert_int_equal(out.p[out.n - 1], '\n');
        assert_true(ast_str_find(ast_buf_view(&out), AST_STR("truncated")) != AST_STR_NPOS);
        assert_true(ast_str_starts(ast_buf_view(&out), AST_STR("before")));
        if (f != AST_LOG_JSON)
            continue;
        AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
        assert_int_equal(ast_json_parse(ast_str_from(ast_buf_view(&out), 6), &doc, NULL), AST_OK);
    }
}

/* --- Filter -------------------------------------------------------------------------------- */

static void the_most_specific_directive_decides(void **state)
{
    (void)state;
    open_log(AST_LOG_INFO,
             " astrid.bus=debug , astrid.bus.queue=error,warn, astrid_gateway=trace,x=off");
    static const struct {
        const char *target;
        enum ast_log_level lowest;
    } rows[] = {
        { "astrid.kernel", AST_LOG_WARN },
        { "astrid.bus", AST_LOG_DEBUG },
        { "astrid.bus.route", AST_LOG_DEBUG },
        { "astrid.bus.queue", AST_LOG_ERROR },
        { "astrid.bus.queue.x", AST_LOG_ERROR },
        { "astrid.business", AST_LOG_WARN },
        { "astrid", AST_LOG_WARN },
        { "astrid_gateway::http", AST_LOG_TRACE },
        { "x", AST_LOG_OFF },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        for (int level = AST_LOG_TRACE; level < AST_LOG_OFF; level++)
            assert_int_equal(ast_log_enabled((enum ast_log_level)level, rows[i].target),
                             level >= (int)rows[i].lowest);
    }
}

static void bad_directives_are_skipped_with_a_warning(void **state)
{
    (void)state;
    open_log(AST_LOG_INFO, "astrid.bus=loud,=debug,nonsense,astrid.ok=debug,,");
    assert_true(ast_log_enabled(AST_LOG_DEBUG, "astrid.ok"));
    assert_false(ast_log_enabled(AST_LOG_DEBUG, "astrid.bus"));
    assert_true(ast_log_enabled(AST_LOG_INFO, "astrid.bus"));
    ast_log_close();
    AST_AUTO(ast_cfree) char *text = content(NULL);
    assert_non_null(strstr(
        text, "WARN astrid.log: 3 log directives are not of the form target=level: skipped"));
}

static void level_names_are_known_in_any_case(void **state)
{
    (void)state;
    enum ast_log_level level;
    assert_true(ast_log_level_parse(AST_STR("DEBUG"), &level) && level == AST_LOG_DEBUG);
    assert_true(ast_log_level_parse(AST_STR("off"), &level) && level == AST_LOG_OFF);
    assert_false(ast_log_level_parse(AST_STR("warning"), &level));
    assert_false(ast_log_level_parse(AST_STR(""), &level));
}

/* --- Sinks --------------------------------------------------------------------------------- */

static void lines_reach_a_private_file_of_the_day(void **state)
{
    (void)state;
    open_log(AST_LOG_INFO, "");
    ast_log_debug("astrid.test", "not this");
    ast_log_info("astrid.test", "number %d", 1);
    ast_log_fields(AST_LOG_WARN, "astrid.test", "with 100% text", AST_F_U64("n", 2));
    char long_text[3000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    ast_log_error("astrid.test", "%s", long_text);
    ast_log_close();
    AST_AUTO(ast_cfree) char *text = content(NULL);
    assert_int_equal(count_lines(text), 3);
    assert_true(ast_str_starts(
        ast_str_c(text),
        AST_STR("2026-06-11T10:00:00.123456Z  INFO astrid.test: number 1\n"
                "2026-06-11T10:00:00.123456Z  WARN astrid.test: with 100% text n=2\n")));
    assert_non_null(strstr(text, long_text));
    struct stat st;
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "astrid.2026-06-11.log");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void opening_again_appends(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        open_log(AST_LOG_INFO, "");
        ast_log_info("astrid.test", "round %d", i);
        ast_log_close();
    }
    AST_AUTO(ast_cfree) char *text = content(NULL);
    assert_int_equal(count_lines(text), 3);
}

static void touch(const char *name)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, name);
    assert_int_equal(ast_fs_write_atomic(path, AST_STR("old\n"), 0600, 0, NULL), AST_OK);
}

static bool has(const char *name)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, name);
    return ast_fs_exists(path);
}

static void midnight_turns_the_page_and_the_oldest_page_goes(void **state)
{
    (void)state;
    static const char *const foreign[] = {
        "cli.2020-01-01.log",  "astrid.2020-01-01.log.gz", "astrid.notes.log",
        "astrid.20200101.log", "astridx2020-01-01.log",    "audit.db",
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(foreign); i++)
        touch(foreign[i]);
    touch("astrid.2019-12-31.log");
    touch("astrid.2026-06-01.log");
    touch("astrid.2026-06-10.log");
    struct ast_log_config cfg = { .dir = ast_str_c(dir), .level = AST_LOG_INFO, .keep_files = 3 };
    assert_int_equal(ast_log_open(&cfg, NULL), AST_OK);
    assert_false(has("astrid.2019-12-31.log"));
    assert_true(has("astrid.2026-06-01.log"));

    ast_log_info("astrid.test", "first day");
    wall = TEN_OCLOCK - TEN_OCLOCK % DAY + DAY - 1;
    ast_log_info("astrid.test", "last moment");
    wall = wall + 1;
    ast_log_info("astrid.test", "second day");
    wall = wall + DAY;
    ast_log_info("astrid.test", "third day");
    ast_log_close();

    AST_AUTO(ast_cfree) char *first = content("astrid.2026-06-11.log");
    AST_AUTO(ast_cfree) char *second = content("astrid.2026-06-12.log");
    AST_AUTO(ast_cfree) char *third = content("astrid.2026-06-13.log");
    assert_int_equal(count_lines(first), 2);
    assert_string_equal(second, "2026-06-12T00:00:00.000000Z  INFO astrid.test: second day\n");
    assert_string_equal(third, "2026-06-13T00:00:00.000000Z  INFO astrid.test: third day\n");
    assert_false(has("astrid.2026-06-01.log"));
    assert_false(has("astrid.2026-06-10.log"));
    for (size_t i = 0; i < AST_ARRAY_LEN(foreign); i++)
        assert_true(has(foreign[i]));
}

static void *write_many(void *arg)
{
    const char *name = arg;
    for (int i = 0; i < 2000; i++)
        ast_log_info("astrid.test", "%s %d end", name, i);
    return NULL;
}

static void no_line_is_torn_between_threads(void **state)
{
    (void)state;
    static char names[4][2] = { "a", "b", "c", "d" };
    open_log(AST_LOG_INFO, "");
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(ast_thread_start(&threads[i], "writer", write_many, names[i], NULL),
                         AST_OK);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    ast_log_close();
    AST_AUTO(ast_cfree) char *text = content(NULL);
    struct ast_str rest = ast_str_c(text), line;
    bool more = true;
    int next[4] = { 0 };
    while (ast_str_split(&rest, &more, '\n', &line)) {
        if (line.n == 0)
            continue;
        char who, extra;
        int i;
        AST_AUTO(ast_cfree) char *copy = ast_str_dup(line);
        assert_int_equal(sscanf(copy, "2026-06-11T10:00:00.123456Z  INFO astrid.test: %c %d en%c",
                                &who, &i, &extra),
                         3);
        assert_in_range(who, 'a', 'd');
        assert_int_equal(i, next[who - 'a']++); /* each thread's lines in their order */
    }
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(next[i], 2000);
}

static void a_missing_directory_is_an_error(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *none = ast_fs_join(dir, "none");
    struct ast_log_config cfg = { .dir = ast_str_c(none), .level = AST_LOG_INFO };
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_log_open(&cfg, &err), AST_E_NOT_FOUND);
    assert_true(ast_str_starts(ast_str_c(err.msg), AST_STR("log file in '")));
    open_log(AST_LOG_INFO, ""); /* and it can be tried again */
}

static void without_a_directory_lines_go_to_standard_error(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "stderr");
    struct ast_log_config cfg = { .level = AST_LOG_DEBUG, .format = AST_LOG_JSON };
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    AST_AUTO(ast_fs_close) int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    dup2(fd, STDERR_FILENO);
    enum ast_rc rc = ast_log_open(&cfg, NULL);
    ast_log_debug("astrid.test", "hello");
    ast_log_close();
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_int_equal(rc, AST_OK);
    AST_AUTO(ast_cfree) char *text = content("stderr");
    assert_string_equal(
        text, "{\"timestamp\":\"2026-06-11T10:00:00.123456Z\",\"level\":\"DEBUG\",\"fields\":"
              "{\"message\":\"hello\"},\"target\":\"astrid.test\"}\n");
    cfg = (struct ast_log_config){ .level = AST_LOG_WARN };
    assert_int_equal(ast_log_open(&cfg, NULL), AST_OK);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_format_has_its_shape),
        cmocka_unit_test(foreign_text_cannot_forge_a_line),
        cmocka_unit_test(a_long_line_is_cut_and_says_so),
        TEST(the_most_specific_directive_decides),
        TEST(bad_directives_are_skipped_with_a_warning),
        cmocka_unit_test(level_names_are_known_in_any_case),
        TEST(lines_reach_a_private_file_of_the_day),
        TEST(opening_again_appends),
        TEST(midnight_turns_the_page_and_the_oldest_page_goes),
        TEST(no_line_is_torn_between_threads),
        TEST(a_missing_directory_is_an_error),
        TEST(without_a_directory_lines_go_to_standard_error),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
