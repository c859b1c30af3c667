/* The SDK's JSON reader and writer, compiled for the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <stdlib.h>
#include <string.h>

#include "astrid_json.h"

/* Never freed: the tests are short and the leak checker is told so by keeping the list. */
static void *blocks[65536];
static size_t block_count;

void *astrid_alloc(uint32_t size)
{
    void *p = calloc(1, size ? size : 1);
    if (block_count < sizeof blocks / sizeof blocks[0])
        blocks[block_count++] = p;
    return p;
}

static struct astrid_str str(const char *s)
{
    return astrid_str_c(s);
}

static void assert_str(struct astrid_str got, const char *want)
{
    if (!astrid_str_eq(got, str(want)))
        fail_msg("got <%.*s>, want <%s>", (int)got.n, got.p, want);
}

static void validity(void **state)
{
    static const struct {
        const char *text;
        int ok;
    } rows[] = {
        { "{}", 1 },
        { "[]", 1 },
        { " [ 1 , 2 ] ", 1 },
        { "\"a\\u00e4\\n\"", 1 },
        { "-0.5e+10", 1 },
        { "null", 1 },
        { "true", 1 },
        { "{\"a\":{\"b\":[{}]}}", 1 },
        { "", 0 },
        { "{", 0 },
        { "[1,]", 0 },
        { "{\"a\"}", 0 },
        { "{\"a\":1,}", 0 },
        { "{a:1}", 0 },
        { "01", 0 },
        { "1.", 0 },
        { "1e", 0 },
        { "+1", 0 },
        { "\"\\x\"", 0 },
        { "\"\\u12\"", 0 },
        { "\"\n\"", 0 },
        { "nul", 0 },
        { "1 2", 0 },
        { "[1 2]", 0 },
        { "{\"a\" 1}", 0 },
        { "]", 0 },
        { "\"", 0 },
        { "--1", 0 },
        { "\"\xcf\xb1\"", 1 },
        { "\"\xcf\xcf\"", 0 },
        { "\"\xc0\x80\"", 0 },
        { "\"\xed\xa0\x80\"", 0 },
        { "\"\xf4\x90\x80\x80\"", 0 },
        { "\"\xe2\x82\"", 0 },
        { "\"\\ud83d\"", 0 },
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (astrid_json_valid(str(rows[i].text)) != (rows[i].ok == 1))
            fail_msg("%s", rows[i].text);
    char deep[ASTRID_JSON_DEPTH * 2 + 3];
    for (unsigned depth = ASTRID_JSON_DEPTH; depth <= ASTRID_JSON_DEPTH + 1; depth++) {
        memset(deep, '[', depth);
        memset(deep + depth, ']', depth);
        assert_int_equal(astrid_json_valid((struct astrid_str){ deep, 2 * depth }),
                         depth <= ASTRID_JSON_DEPTH);
    }
}

static void members(void **state)
{
    struct astrid_str object = str(
                          " {\"a\":1, \"b\\u0063\" : {\"x\":[1,2]} ,\"a\":\"last\",\"e\":\"\"} "),
                      v, t;
    (void)state;
    assert_true(astrid_json_get(object, ASTRID_STR("a"), &v));
    assert_str(v, "\"last\"");
    assert_true(astrid_json_get(object, ASTRID_STR("bc"), &v));
    assert_str(v, "{\"x\":[1,2]}");
    assert_true(astrid_json_member_text(object, ASTRID_STR("e"), &t));
    assert_int_equal(t.n, 0);
    assert_false(astrid_json_get(object, ASTRID_STR("none"), &v));
    assert_false(astrid_json_get(str("[1]"), ASTRID_STR("a"), &v));
    assert_false(
        astrid_json_get(str("{\"a\":1"), ASTRID_STR("a"), &v)); /* cut off: nothing is believed */
    assert_false(astrid_json_get(str("{}"), ASTRID_STR("a"), &v));
    assert_false(astrid_json_member_text(str("{\"a\":5}"), ASTRID_STR("a"), &t));
}

static void texts(void **state)
{
    static const struct {
        const char *json, *text; /* NULL: refused */
    } rows[] = {
        { "\"plain\"", "plain" },
        { "\"a\\\"\\\\\\/\\b\\f\\n\\r\\tz\"", "a\"\\/\b\f\n\r\tz" },
        { "\"\\u0041\\u00e4\\u20ac\"", "A\xc3\xa4\xe2\x82\xac" },
        { "\"\\ud83d\\ude00\"", "\xf0\x9f\x98\x80" },
        { "\"\\ud83d\"", NULL },
        { "\"\\ude00\"", NULL },
        { "\"\\ud83d\\u0041\"", NULL },
        { "5", NULL },
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct astrid_str t;
        bool ok = astrid_json_text(str(rows[i].json), &t);
        assert_int_equal(ok, rows[i].text != NULL);
        if (ok)
            assert_str(t, rows[i].text);
    }
}

static void arrays(void **state)
{
    uint32_t at = 0;
    struct astrid_str v;
    (void)state;
    assert_true(astrid_json_element(str("[1, {\"a\":2} ,\"x\"]"), &at, &v));
    assert_str(v, "1");
    assert_true(astrid_json_element(str("[1, {\"a\":2} ,\"x\"]"), &at, &v));
    assert_str(v, "{\"a\":2}");
    assert_true(astrid_json_element(str("[1, {\"a\":2} ,\"x\"]"), &at, &v));
    assert_false(astrid_json_element(str("[1, {\"a\":2} ,\"x\"]"), &at, &v));
    at = 0;
    assert_false(astrid_json_element(str("[]"), &at, &v));
    at = 0;
    assert_false(astrid_json_element(str("{}"), &at, &v));
}

static void numbers(void **state)
{
    uint64_t v;
    (void)state;
    assert_true(astrid_json_u64(str("18446744073709551615"), &v) && v == UINT64_MAX);
    assert_true(astrid_json_u64(str("0"), &v) && v == 0);
    const char *const bad[] = {
        "", "18446744073709551616", "99999999999999999999999", "-1", "1.0", "01", "1e3", " 1"
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(astrid_json_u64(str(bad[i]), &v));
}

static void writing(void **state)
{
    struct astrid_buf b = { 0 };
    struct astrid_str back;
    (void)state;
    astrid_buf_json(&b, (struct astrid_str){ "q\" b\\ n\n z\0 \x1f \xc3\xa4", 16 });
    assert_str(astrid_buf_view(&b), "\"q\\\" b\\\\ n\\n z\\u0000 \\u001f \xc3\xa4\"");
    assert_true(astrid_json_text(astrid_buf_view(&b), &back));
    assert_int_equal(back.n, 16);
    b = (struct astrid_buf){ 0 };
    astrid_buf_u64(&b, UINT64_MAX);
    astrid_buf_lit(&b, " ");
    astrid_buf_u64(&b, 0);
    assert_str(astrid_buf_view(&b), "18446744073709551615 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(validity), cmocka_unit_test(members), cmocka_unit_test(texts),
        cmocka_unit_test(arrays),   cmocka_unit_test(numbers), cmocka_unit_test(writing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
