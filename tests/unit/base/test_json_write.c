#include "base_test.h"

#include <math.h>

#include "base/json.h"

#include "base/banned.h"

static void write_sample(struct ast_jw *w)
{
    ast_jw_object(w);
    ast_jw_kv_string(w, "s", AST_STR("a\"b\\c\n\x1f\x7f"));
    ast_jw_kv_u64(w, "u", UINT64_MAX);
    ast_jw_key(w, AST_STR("i"));
    ast_jw_i64(w, INT64_MIN);
    ast_jw_key(w, AST_STR("f"));
    ast_jw_f64(w, 1.0);
    ast_jw_kv_bool(w, "b", true);
    ast_jw_kv_null(w, "n");
    ast_jw_key(w, AST_STR("a"));
    ast_jw_array(w);
    ast_jw_end(w);
    ast_jw_key(w, AST_STR("l"));
    ast_jw_array(w);
    ast_jw_u64(w, 0);
    ast_jw_object(w);
    ast_jw_end(w);
    ast_jw_raw(w, AST_STR("{\"x\":1}"));
    ast_jw_bool(w, false);
    ast_jw_end(w);
    ast_jw_end(w);
}

static void commas_and_colons_are_the_writers_business(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000);
    struct ast_jw w = AST_JW_INIT(&out);
    write_sample(&w);
    assert_view(
        ast_buf_view(&out),
        "{\"s\":\"a\\\"b\\\\c\\n\\u001f\x7f\",\"u\":18446744073709551615,\"i\":-9223372036854775808,"
        "\"f\":1.0,\"b\":true,\"n\":null,\"a\":[],\"l\":[0,{},{\"x\":1},false]}");
}

static void the_pretty_form_indents_by_two(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000);
    struct ast_jw w = AST_JW_PRETTY(&out);
    ast_jw_object(&w);
    ast_jw_kv_u64(&w, "a", 1);
    ast_jw_key(&w, AST_STR("b"));
    ast_jw_array(&w);
    ast_jw_u64(&w, 2);
    ast_jw_object(&w);
    ast_jw_kv_null(&w, "c");
    ast_jw_end(&w);
    ast_jw_end(&w);
    ast_jw_key(&w, AST_STR("e"));
    ast_jw_object(&w);
    ast_jw_end(&w);
    ast_jw_end(&w);
    assert_view(ast_buf_view(&out), "{\n"
                                    "  \"a\": 1,\n"
                                    "  \"b\": [\n"
                                    "    2,\n"
                                    "    {\n"
                                    "      \"c\": null\n"
                                    "    }\n"
                                    "  ],\n"
                                    "  \"e\": {}\n"
                                    "}");
}

static void a_scalar_may_stand_alone(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000);
    struct ast_jw w = AST_JW_INIT(&out);
    ast_jw_string(&w, AST_STR("x"));
    assert_view(ast_buf_view(&out), "\"x\"");
}

static void escapes_are_found_at_every_place(void **state)
{
    static const struct {
        char c;
        const char *text;
    } rows[] = { { '"', "\\\"" },   { '\\', "\\\\" }, { '\n', "\\n" }, { 0, "\\u0000" },
                 { 31, "\\u001f" }, { 32, " " },      { 127, "\x7f" }, { '/', "/" } };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        for (size_t at = 0; at < 50; at++) {
            char in[50], want[120] = "\"";
            memset(in, 'x', sizeof in);
            in[at] = rows[i].c;
            int n = snprintf(want, sizeof want, "\"%.*s%s%.*s\"", (int)at,
                             "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", rows[i].text,
                             (int)(49 - at), "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
            assert_true(n > 0);
            AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000);
            assert_int_equal(ast_json_quote((struct ast_str){ in, sizeof in }, &out), AST_OK);
            assert_view(ast_buf_view(&out), want);
        }
    }
}

static void ill_formed_text_is_repaired(void **state)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        { "\xff", "\"\xef\xbf\xbd\"" },
        { "a\x80"
          "b",
          "\"a\xef\xbf\xbd"
          "b\"" },
        { "\xe4\xb8", "\"\xef\xbf\xbd\"" },
        { "\xe4\xb8\n\xc3\xa4", "\"\xef\xbf\xbd\\n\xc3\xa4\"" },
        { "\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000);
        assert_int_equal(ast_json_quote(ast_str_c(rows[i].in), &out), AST_OK);
        assert_view(ast_buf_view(&out), rows[i].out);
    }
}

static void numbers_read_back_as_the_same_number(void **state)
{
    static const struct {
        double v;
        const char *text;
    } rows[] = {
        { 0.0, "0.0" },
        { -0.0, "-0.0" },
        { 1.0, "1.0" },
        { -2.5, "-2.5" },
        { 1e15, "1000000000000000.0" },
        { 0.1, "0.1" },
        { 1e300, "1e300" },
        { 1e-7, "1e-7" },
        { 123456.789, "123456.789" },
        { NAN, "null" },
        { INFINITY, "null" },
        { -INFINITY, "null" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(100);
        struct ast_jw w = AST_JW_INIT(&out);
        ast_jw_f64(&w, rows[i].v);
        assert_view(ast_buf_view(&out), rows[i].text);
    }
    uint64_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        double v, back;
        memcpy(&v, &seed, sizeof v);
        if (!isfinite(v))
            continue;
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(100);
        struct ast_jw w = AST_JW_INIT(&out);
        ast_jw_f64(&w, v);
        AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
        assert_int_equal(ast_json_parse(ast_buf_view(&out), &doc, NULL), AST_OK);
        assert_int_equal(ast_json_type(ast_json_root(doc)), AST_JSON_REAL);
        assert_true(ast_json_f64(ast_json_root(doc), &back));
        assert_memory_equal(&back, &v, sizeof v);
    }
}

static void a_parsed_value_is_copied_in_its_order(void **state)
{
    (void)state;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    assert_int_equal(ast_json_parse(AST_STR("{\"b\" : 1, \"a\" : [ ] }"), &doc, NULL), AST_OK);
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(100);
    struct ast_jw w = AST_JW_INIT(&out);
    ast_jw_array(&w);
    ast_jw_value(&w, ast_json_root(doc));
    ast_jw_value(&w, NULL);
    ast_jw_end(&w);
    assert_view(ast_buf_view(&out), "[{\"b\":1,\"a\":[]},null]");
}

static void a_full_buffer_fails_once_and_quietly(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf whole = AST_BUF_INIT(1000);
    struct ast_jw w = AST_JW_INIT(&whole);
    write_sample(&w);
    for (size_t max = 0; max <= whole.n; max++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(max);
        struct ast_jw small = AST_JW_INIT(&out);
        write_sample(&small);
        assert_int_equal(ast_buf_check(&out, "out", NULL),
                         max == whole.n ? AST_OK : AST_E_TOO_LARGE);
        assert_int_equal(small.depth, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commas_and_colons_are_the_writers_business),
        cmocka_unit_test(the_pretty_form_indents_by_two),
        cmocka_unit_test(a_scalar_may_stand_alone),
        cmocka_unit_test(escapes_are_found_at_every_place),
        cmocka_unit_test(ill_formed_text_is_repaired),
        cmocka_unit_test(numbers_read_back_as_the_same_number),
        cmocka_unit_test(a_parsed_value_is_copied_in_its_order),
        cmocka_unit_test(a_full_buffer_fails_once_and_quietly),
    };
    return cmocka_run_group_tests_name("json_write", tests, NULL, NULL);
}
