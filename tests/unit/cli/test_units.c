/* Sizes and durations: the grammar, its errors, and how they are shown. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/auto.h"
#include "cli/units.h"

#include "base/banned.h"

static void c08_16_sizes_with_suffixes_become_bytes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        { "0", 0 },
        { "1000", 1000 },
        { "7B", 7 },
        { "2k", 2000 },
        { "2KB", 2000 },
        { "2KiB", 2048 },
        { "64mib", 67108864 },
        { "1.5 GB", 1500000000 },
        { "1.5GiB", 1610612736 },
        { "2T", 2000000000000 },
        { "1TiB", 1099511627776 },
        { "10MiB/s", 10485760 },
        { "10 M/s", 10000000 },
        { ".5k", 500 },
        { "1.9B", 1 }, /* towards zero */
        { "1.0009k", 1000 },
        { "18446744073709551615", UINT64_MAX },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        uint64_t v = 12345;
        struct ast_err err = AST_ERR_INIT;
        assert_int_equal(cli_bytes_parse(ast_str_c(cases[i].text), &v, &err), AST_OK);
        assert_true(v == cases[i].bytes);
    }
}

static void sizes_that_are_none_are_named(void **state)
{
    static const struct {
        const char *text, *error;
    } cases[] = {
        { "", "empty byte specifier" },
        { "  ", "empty byte specifier" },
        { "/s", "empty byte specifier" },
        { "12XB", "unknown byte suffix: XB" },
        { "much", "unknown byte suffix: much" },
        { "-1", "unknown byte suffix: -1" },
        { "1.2.3k", "not a number: 1.2.3" },
        { "KB", "not a number: " },
        { ".", "not a number: ." },
        { "18446744073709551616", "not a number: 18446744073709551616" },
        { "99999999999T", "not a number: 99999999999" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        uint64_t v = 12345;
        struct ast_err err = AST_ERR_INIT;
        assert_int_equal(cli_bytes_parse(ast_str_c(cases[i].text), &v, &err), AST_E_INVALID);
        assert_string_equal(err.msg, cases[i].error);
        assert_true(v == 12345); /* untouched */
    }
}

static void durations_add_up(void **state)
{
    static const struct {
        const char *text;
        uint64_t ms;
        const char *error;
    } cases[] = {
        { "90", 90000, NULL },
        { "500ms", 500, NULL },
        { "2h30m", 9000000, NULL },
        { "1d 1h 1m 1s 1ms", 90061001, NULL },
        { "1.5h", 5400000, NULL },
        { "2m30", 150000, NULL }, /* a trailing number is seconds */
        { "1H", 3600000, NULL },
        { "", 0, "empty duration" },
        { "5w", 0, "unknown duration suffix: w" },
        { "h", 0, "invalid duration component: h" },
        { "1.2.3s", 0, "invalid duration component: 1.2.3s" },
        { "18446744073709551615d", 0, "invalid duration component: 18446744073709551615d" },
        { "18446744073709551615ms1ms", 0, "invalid duration component: 1ms" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        uint64_t ms = 12345;
        struct ast_err err = AST_ERR_INIT;
        enum ast_rc rc = cli_duration_parse(ast_str_c(cases[i].text), &ms, &err);
        assert_int_equal(rc, cases[i].error ? AST_E_INVALID : AST_OK);
        assert_true(ms == (cases[i].error ? 12345 : cases[i].ms));
        assert_string_equal(err.msg, cases[i].error ? cases[i].error : "");
    }
}

static void counts_have_thousands(void **state)
{
    uint64_t v = 0;
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(cli_count_parse(AST_STR("1.5G"), &v, &err), AST_OK);
    assert_true(v == 1500000000);
    assert_int_equal(cli_count_parse(AST_STR("1.5GiB"), &v, &err), AST_E_INVALID);
    assert_string_equal(err.msg, "unknown count suffix: GiB");
}

static void numbers_are_shown_with_one_decimal(void **state)
{
    char text[CLI_UNIT_TEXT];

    assert_string_equal(cli_bytes_text(0, text), "0 B");
    assert_string_equal(cli_bytes_text(1023, text), "1023 B");
    assert_string_equal(cli_bytes_text(1536, text), "1.5 KiB");
    assert_string_equal(cli_bytes_text(67108864, text), "64.0 MiB");
    assert_string_equal(cli_bytes_text(UINT64_C(5) << 40, text), "5120.0 GiB");
    assert_string_equal(cli_count_text(999, text), "999");
    assert_string_equal(cli_count_text(1000, text), "1.0k");
    assert_string_equal(cli_count_text(999949, text), "999.9k");
    assert_string_equal(cli_count_text(999950, text), "1.0M"); /* no "1000.0k" */
    assert_string_equal(cli_count_text(2000000000, text), "2.0G");
    assert_string_equal(cli_count_text(UINT64_C(3500000000000000), text), "3500.0T");
    assert_string_equal(cli_duration_text(0, text), "0ms");
    assert_string_equal(cli_duration_text(45000, text), "45s");
    assert_string_equal(cli_duration_text(125000, text), "2m05s");
    assert_string_equal(cli_duration_text(3723000, text), "1h02m03s");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c08_16_sizes_with_suffixes_become_bytes),
        cmocka_unit_test(sizes_that_are_none_are_named),
        cmocka_unit_test(durations_add_up),
        cmocka_unit_test(counts_have_thousands),
        cmocka_unit_test(numbers_are_shown_with_one_decimal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
