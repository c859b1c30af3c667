/* Figures as people read them: rates, order, layout, and text that cannot drive a terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cli/activity.h"

#include "base/banned.h"

static struct ast_json_doc *document(const char *text)
{
    struct ast_json_doc *doc = NULL;
    assert_int_equal(ast_json_parse(ast_str_c(text), &doc, NULL), AST_OK);
    return doc;
}

#define ROW(name, calls, fuel, more)                                                               \
    "{\"" name "\",\"calls\":" calls ",\"cpu_fuel\":" fuel ",\"failures\":0,"                      \
    "\"memory_peak_bytes\":65536," more "\"running\":0}"
#define HEAD(pid, taken)                                                                           \
    "\"pid\":" pid ",\"taken_ms\":" taken ",\"scope\":\"all\",\"uptime_secs\":3661,"               \
    "\"version\":\"0.8.0\",\"capsules_total\":1,\"principals_total\":5,"                           \
    "\"other\":{\"calls\":7,\"cpu_fuel\":70,\"dropped\":1,\"queued\":2,\"running\":0}"

static const char first[] = "{" HEAD("9", "1000") ",\"capsules\":[" ROW(
    "capsule\":\"echo", "100", "1000",
    "\"state\":\"ready\",") "],\"principals\":[" ROW("principal\":\"alice", "40", "400",
                                                     "\"queued\":3,") "," ROW("principal\":\"bob",
                                                                              "60", "600",
                                                                              "\"dropped\":5,") "]}";
static const char second[] =
    "{" HEAD("9", "3000") ",\"capsules\":[" ROW("capsule\":\"echo", "120", "5000", "\"state\":\"ready\",") "],\"principals\":[" ROW(
        "principal\":\"alice", "60", "4400",
        "\"queued\":3,") "," ROW("principal\":\"bob", "60", "600",
                                 "\"dropped\":5,") "," ROW("principal\":\"carol", "1", "1",
                                                           "") "]}";

struct pair {
    struct ast_json_doc *docs[2];
    struct cli_activity before, now;
};

static void open_pair(struct pair *p, const char *one, const char *two)
{
    struct ast_err err = AST_ERR_INIT;
    *p = (struct pair){ .docs = { document(one), document(two) } };
    assert_int_equal(cli_activity_read(ast_json_root(p->docs[0]), &p->before, &err), AST_OK);
    assert_int_equal(cli_activity_read(ast_json_root(p->docs[1]), &p->now, &err), AST_OK);
    cli_activity_rates(&p->now, &p->before);
}

static void close_pair(struct pair *p)
{
    cli_activity_done(&p->before);
    cli_activity_done(&p->now);
    ast_json_free(p->docs[0]);
    ast_json_free(p->docs[1]);
}

static void rates_are_differences_over_the_daemons_own_clock(void **state)
{
    struct pair p;
    open_pair(&p, first, second);
    assert_true(p.now.elapsed_secs == 2);
    assert_true(p.now.capsules[0].calls_per_sec == 10);
    assert_true(p.now.capsules[0].fuel_per_sec == 2000);
    assert_true(p.now.principals[0].calls_per_sec == 10);
    assert_true(p.now.principals[1].has_rates);
    assert_true(p.now.principals[1].calls_per_sec == 0);
    assert_false(p.now.principals[2].has_rates); /* it was not there before */
    close_pair(&p);
}

static void another_daemons_answer_gives_no_rates(void **state)
{
    static const char *const others[] = {
        "{" HEAD("10", "3000") ",\"capsules\":[],\"principals\":[]}",
        "{" HEAD("9", "1000") ",\"capsules\":[],\"principals\":[]}", /* no time passed */
        "{" HEAD("9", "10") ",\"capsules\":[],\"principals\":[]}",
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(others); i++) {
        struct pair p;
        open_pair(&p, first, others[i]);
        assert_true(p.now.elapsed_secs == 0);
        close_pair(&p);
    }
}

static void totals_that_went_back_are_no_negative_rate(void **state)
{
    struct pair p;
    open_pair(&p, second,
              "{" HEAD("9", "4000") ",\"capsules\":[],\"principals\":[" ROW("principal\":\"alice",
                                                                            "3", "5", "") "]}");
    assert_true(p.now.principals[0].calls_per_sec == 0);
    assert_true(p.now.principals[0].fuel_per_sec == 0);
    close_pair(&p);
}

static void each_key_sorts_by_its_figure(void **state)
{
    static const struct {
        int key;
        const char *name, *top;
    } cases[] = {
        { 'c', "cpu", "alice" },   { 's', "calls", "alice" }, { 'm', "memory", "alice" },
        { 'Q', "queue", "alice" }, { 'd', "drops", "bob" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct pair p;
        enum cli_sort by_key = CLI_SORT_COUNT, by_name = CLI_SORT_COUNT;
        assert_true(cli_sort_by_key(cases[i].key, &by_key));
        assert_true(cli_sort_by_name(ast_str_c(cases[i].name), &by_name));
        assert_int_equal(by_key, by_name);
        open_pair(&p, first, second);
        cli_activity_sort(&p.now, by_key);
        assert_true(ast_str_eq(p.now.principals[0].name, ast_str_c(cases[i].top)));
        close_pair(&p);
    }
    enum cli_sort unused;
    assert_false(cli_sort_by_key('q', &unused)); /* it quits */
    assert_false(cli_sort_by_name(AST_STR("CPU"), &unused));
}

static void a_sum_holds_every_row_and_the_others(void **state)
{
    struct pair p;
    open_pair(&p, first, second);
    struct cli_figures f = cli_activity_sum(p.now.principals, p.now.principal_count, &p.now.other);
    assert_int_equal(f.calls, 60 + 60 + 1 + 7);
    assert_int_equal(f.cpu_fuel, 4400 + 600 + 1 + 70);
    assert_int_equal(f.queued, 3 + 2);
    assert_int_equal(f.dropped, 5 + 1);
    assert_int_equal(f.memory_peak_bytes, 65536);
    close_pair(&p);
}

static void numbers_take_five_characters_at_most(void **state)
{
    static const struct {
        double v;
        unsigned step;
        const char *text;
    } cases[] = {
        { 0, 1000, "0" },
        { 7, 1000, "7" },
        { 0.5, 1000, "0.50" },
        { 999, 1000, "999" },
        { 999.4, 1000, "999" },
        { 999.6, 1000, "1.00k" },
        { 12345, 1000, "12.3k" },
        { 1e6, 1000, "1.00M" },
        { 999999, 1000, "1.00M" },
        { 65536, 1024, "64.0k" },
        { 1048576, 1024, "1.00M" },
        { 1e9, 1000, "1.00G" },
        { 18446744073709551615.0, 1000, "18.4E" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        char text[16];
        cli_human(cases[i].v, cases[i].step, text);
        assert_string_equal(text, cases[i].text);
    }
    for (double v = 0.001; v < 1.8e19; v *= 1.07) {
        char text[16];
        cli_human(v, 1000, text);
        if (strlen(text) > 5)
            fail_msg("%f is '%s'", v, text);
    }
}

static void foreign_names_cannot_drive_the_terminal(void **state)
{
    static const struct {
        const char *name;
        unsigned width;
        const char *text;
    } cases[] = {
        { "plain", 10, "plain" },
        { "\033[2J", 20, "\\x1b[2J" },
        { "a\nb", 20, "a\\x0ab" },
        { "\x7f", 20, "\\x7f" },
        { "\xc2\x9b"
          "31m",
          20, "\\xc2\\x9b31m" },                   /* a C1 control in UTF-8 */
        { "\xe2\x80\xae", 20, "\\xe2\\x80\\xae" }, /* right to left */
        { "exactly-ten", 11, "exactly-ten" },
        { "longer-than-that", 10, "longer-th+" },
        { "abcdefg\033x", 9, "abcdefg+" }, /* an escape is whole or not there */
        { "abc", 0, "" },
        { "abc", 1, "+" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        char text[64];
        cli_escape(ast_str_c(cases[i].name), cases[i].width, text, sizeof text);
        assert_string_equal(text, cases[i].text);
    }
}

static void lines_keep_to_their_width_and_columns_line_up(void **state)
{
    struct pair p;
    char heading[CLI_ACTIVITY_LINE], row[CLI_ACTIVITY_LINE];
    open_pair(&p, first, second);
    for (unsigned width = 0; width < 300; width++) {
        for (int t = CLI_TABLE_CAPSULES; t <= CLI_TABLE_PRINCIPALS; t++) {
            const struct cli_figures *f =
                t == CLI_TABLE_CAPSULES ? p.now.capsules : p.now.principals;
            cli_activity_heading((enum cli_table)t, true, CLI_SORT_CPU, width, heading);
            cli_activity_row((enum cli_table)t, f, true, width, row);
            assert_true(strlen(heading) <= width);
            assert_int_equal(strlen(row), strlen(heading));
        }
        cli_activity_head(&p.now, width, row);
        assert_true(strlen(row) <= width);
    }
    cli_activity_heading(CLI_TABLE_CAPSULES, true, CLI_SORT_MEMORY, 80, heading);
    cli_activity_row(CLI_TABLE_CAPSULES, p.now.capsules, true, 80, row);
    assert_string_equal(heading, "CAPSULE            STATE     CALLS/S  FUEL/S  MEM*  QUEUE  RUN"
                                 "  DROPS  FAIL  RST");
    assert_string_equal(row, "echo               ready          10   2.00k 64.0k      0    0"
                             "      0     0    0");
    close_pair(&p);
}

static void figures_that_were_not_told_are_dashes_and_absent_in_json(void **state)
{
    struct ast_json_doc *doc =
        document("{\"scope\":\"own\",\"capsules\":[{\"capsule\":\"echo\",\"state\":\"ready\","
                 "\"queued\":1,\"running\":0}],\"principals\":[]}");
    AST_AUTO(cli_activity_done) struct cli_activity a = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(4096);
    struct ast_jw w = AST_JW_INIT(&out);
    char row[CLI_ACTIVITY_LINE];
    assert_int_equal(cli_activity_read(ast_json_root(doc), &a, NULL), AST_OK);
    assert_false(a.everybody);
    cli_activity_row(CLI_TABLE_CAPSULES, a.capsules, false, 80, row);
    assert_string_equal(row, "echo               ready           -       -     -      1    0"
                             "      -     -    -");
    cli_activity_json(&a, &w);
    assert_null(strstr(out.p, "cpu_fuel\":"));
    assert_non_null(strstr(out.p, "\"cpu_fuel_per_sec\":null"));
    assert_null(strstr(out.p, "\"other\""));
    ast_json_free(doc);
}

static void an_answer_of_another_shape_is_refused(void **state)
{
    static const char *const texts[] = {
        "{}",
        "[]",
        "\"x\"",
        "{\"capsules\":[]}",
        "{\"capsules\":{},\"principals\":[]}",
        "{\"capsules\":[],\"principals\":7}",
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(texts); i++) {
        struct ast_json_doc *doc = document(texts[i]);
        struct cli_activity a = { 0 };
        assert_int_equal(cli_activity_read(ast_json_root(doc), &a, NULL), AST_E_PROTOCOL);
        assert_null(a.capsules);
        ast_json_free(doc);
    }
}

static void the_json_of_a_refresh_is_one_valid_object(void **state)
{
    struct pair p;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(65536);
    struct ast_jw w = AST_JW_INIT(&out);
    struct ast_json_doc *doc = NULL;
    double v = 0;
    open_pair(&p, first, second);
    cli_activity_json(&p.now, &w);
    assert_int_equal(ast_json_parse(ast_buf_view(&out), &doc, NULL), AST_OK);
    const struct ast_json *rows = ast_json_member(ast_json_root(doc), "capsules"), *row;
    struct ast_json_iter it = AST_JSON_ITER(rows);
    struct ast_str unused;
    assert_true(ast_json_next(&it, &unused, &row));
    assert_true(ast_json_f64(ast_json_member(row, "calls_per_sec"), &v));
    assert_true(v == 10);
    assert_null(memchr(out.p, '\n', out.n));
    ast_json_free(doc);
    close_pair(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_are_differences_over_the_daemons_own_clock),
        cmocka_unit_test(another_daemons_answer_gives_no_rates),
        cmocka_unit_test(totals_that_went_back_are_no_negative_rate),
        cmocka_unit_test(each_key_sorts_by_its_figure),
        cmocka_unit_test(a_sum_holds_every_row_and_the_others),
        cmocka_unit_test(numbers_take_five_characters_at_most),
        cmocka_unit_test(foreign_names_cannot_drive_the_terminal),
        cmocka_unit_test(lines_keep_to_their_width_and_columns_line_up),
        cmocka_unit_test(figures_that_were_not_told_are_dashes_and_absent_in_json),
        cmocka_unit_test(an_answer_of_another_shape_is_refused),
        cmocka_unit_test(the_json_of_a_refresh_is_one_valid_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
