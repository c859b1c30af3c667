#include "base_test.h"

#include <time.h>

#include "base/time.h"

#include "base/banned.h"

/* Wall nanoseconds of "seconds since 1970" and a fraction. */
#define AT(secs, ns) (INT64_C(secs) * AST_NS_PER_SEC + (ns))

static void format_uses_the_shortest_exact_fraction(void **state)
{
    static const struct {
        int64_t ns;
        const char *z, *offset;
    } rows[] = {
        { 0, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:00" },
        { AT(1781172000, 123456789), "2026-06-11T10:00:00.123456789Z",
          "2026-06-11T10:00:00.123456789+00:00" },
        { AT(1781172000, 123456000), "2026-06-11T10:00:00.123456Z",
          "2026-06-11T10:00:00.123456+00:00" },
        { AT(1781172000, 120000000), "2026-06-11T10:00:00.120Z", "2026-06-11T10:00:00.120+00:00" },
        { AT(1781172000, 1), "2026-06-11T10:00:00.000000001Z",
          "2026-06-11T10:00:00.000000001+00:00" },
        { AT(1781172000, 0), "2026-06-11T10:00:00Z", "2026-06-11T10:00:00+00:00" },
        { AT(951782399, 0), "2000-02-28T23:59:59Z", "2000-02-28T23:59:59+00:00" },
        { AT(951782400, 0), "2000-02-29T00:00:00Z", "2000-02-29T00:00:00+00:00" },
        { AT(4107542400, 0), "2100-03-01T00:00:00Z", "2100-03-01T00:00:00+00:00" },
        { AT(-1, 0), "1969-12-31T23:59:59Z", "1969-12-31T23:59:59+00:00" },
        { AT(-1, 500000000), "1969-12-31T23:59:59.500Z", "1969-12-31T23:59:59.500+00:00" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        char text[AST_RFC3339_BYTES];
        assert_view(ast_time_format(rows[i].ns, AST_TIME_Z, text), rows[i].z);
        assert_string_equal(text, rows[i].z);
        assert_view(ast_time_format(rows[i].ns, AST_TIME_OFFSET, text), rows[i].offset);
        int64_t back = 0;
        assert_true(ast_time_parse(ast_str_c(rows[i].z), &back));
        assert_true(back == rows[i].ns);
        assert_true(ast_time_parse(ast_str_c(rows[i].offset), &back));
        assert_true(back == rows[i].ns);
    }
}

static void parse_takes_any_offset(void **state)
{
    static const struct {
        const char *text;
        int64_t ns;
    } rows[] = {
        { "2026-06-11T12:00:00+02:00", AT(1781172000, 0) },
        { "2026-06-11T04:30:00-05:30", AT(1781172000, 0) },
        { "2026-06-11T10:00:00-00:00", AT(1781172000, 0) },
        { "2026-06-11t10:00:00z", AT(1781172000, 0) },
        { "2026-06-11 10:00:00Z", AT(1781172000, 0) },
        { "2026-06-11T10:00:00.5Z", AT(1781172000, 500000000) },
        { "2026-06-11T10:00:00.1234567891234Z", AT(1781172000, 123456789) },
        { "2016-12-31T23:59:60Z", AT(1483228800, 0) },
        { "0001-01-01T00:00:00Z", 0 }, /* out of range, see below */
    };
    (void)state;
    for (size_t i = 0; i + 1 < AST_ARRAY_LEN(rows); i++) {
        int64_t ns = 0;
        if (!ast_time_parse(ast_str_c(rows[i].text), &ns) || ns != rows[i].ns)
            fail_msg("%s", rows[i].text);
    }
}

static void parse_refuses_everything_else(void **state)
{
    static const char *const rows[] = {
        "",
        "2026",
        "2026-06-11",
        "2026-06-11T10:00:00",
        "2026-06-11T10:00Z",
        "2026-6-11T10:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2026-06-00T00:00:00Z",
        "2026-06-11T24:00:00Z",
        "2026-06-11T10:60:00Z",
        "2026-06-11T10:00:61Z",
        "2026-06-11T10:00:00.Z",
        "2026-06-11T10:00:00,5Z",
        "2026-06-11T10:00:00+24:00",
        "2026-06-11T10:00:00+02:60",
        "2026-06-11T10:00:00+0200",
        "2026-06-11T10:00:00+02",
        "2026-06-11T10:00:00Z ",
        " 2026-06-11T10:00:00Z",
        "2026-06-11T10:00:00ZZ",
        "+026-06-11T10:00:00Z",
        "0001-01-01T00:00:00Z", /* does not fit 64 bits of nanoseconds */
        "9999-12-31T23:59:59Z",
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        int64_t ns = 42;
        if (ast_time_parse(ast_str_c(rows[i]), &ns))
            fail_msg("accepted %s", rows[i]);
        assert_true(ns == 42);
    }
    int64_t ns;
    assert_false(ast_time_parse(AST_STR("2026-06-11T10:00:00\0Z"), &ns));
}

static void the_calendar_agrees_with_libc_for_every_day(void **state)
{
    (void)state;
    /* 1678 to 2262: what 64 bits of nanoseconds can hold. */
    for (int64_t day = -106000; day < 106000; day++) {
        time_t secs = (time_t)(day * 86400 + 12345);
        struct tm tm;
        assert_non_null(gmtime_r(&secs, &tm));
        char want[40], date[11], text[AST_RFC3339_BYTES];
        strftime(want, sizeof want, "%Y-%m-%dT%H:%M:%SZ", &tm);
        if (!ast_str_eq(ast_time_format(secs * AST_NS_PER_SEC, AST_TIME_Z, text), ast_str_c(want)))
            fail_msg("%s is not %s", text, want);
        ast_time_date(secs * AST_NS_PER_SEC, date);
        assert_memory_equal(date, want, 10);
        assert_int_equal(date[10], 0);
        int64_t back;
        assert_true(ast_time_parse(ast_str_c(text), &back));
        assert_true(back == secs * AST_NS_PER_SEC);
    }
}

static void the_extremes_do_not_overflow(void **state)
{
    (void)state;
    char text[AST_RFC3339_BYTES];
    int64_t back;
    ast_time_format(INT64_MAX, AST_TIME_OFFSET, text);
    assert_true(ast_time_parse(ast_str_c(text), &back));
    assert_true(back == INT64_MAX);
    assert_view(ast_time_format(INT64_MIN, AST_TIME_Z, text), "1677-09-21T00:12:43.145224192Z");
}

static void clocks_run_forward(void **state)
{
    (void)state;
    int64_t a = ast_mono_ns(), b = ast_mono_ns();
    assert_true(b >= a);
    int64_t wall = ast_wall_ns();
    assert_true(wall > AT(1700000000, 0));
    assert_true(ast_wall_secs() >= (uint64_t)(wall / AST_NS_PER_SEC));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format_uses_the_shortest_exact_fraction),
        cmocka_unit_test(parse_takes_any_offset),
        cmocka_unit_test(parse_refuses_everything_else),
        cmocka_unit_test(the_calendar_agrees_with_libc_for_every_day),
        cmocka_unit_test(the_extremes_do_not_overflow),
        cmocka_unit_test(clocks_run_forward),
    };
    return cmocka_run_group_tests_name("time", tests, NULL, NULL);
}
