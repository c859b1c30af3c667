#include "base_test.h"

#include "base/json.h"

#include "base/banned.h"

static struct ast_json_doc *parse(const char *text)
{
    struct ast_json_doc *doc = NULL;
    struct ast_err err = AST_ERR_INIT;
    if (ast_json_parse(ast_str_c(text), &doc, &err))
        fail_msg("%s: %s", text, err.msg);
    return doc;
}

static void parse_refuses_what_rfc_8259_does_not_know(void **state)
{
    static const char *const rows[] = {
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "[1 2]",
        "1 2",
        "{} x",
        "nul",
        "True",
        "NaN",
        "Infinity",
        "-Infinity",
        "+1",
        "01",
        "1.",
        ".5",
        "1e",
        "0x10",
        "1e999",
        "\"a",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\n\"",
        "\"\x01\"",
        "\"\xff\"",
        "\"\xed\xa0\x80\"",
        "\"\xc0\x80\"",
        "\"\\ud800\"",
        "\"\\ud800x\"",
        "\"\\ud800\\ud800\"",
        "\"\\udc00\"",
        "/*c*/1",
        "1//c",
        "\xef\xbb\xbf"
        "1",
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_json_doc *doc = NULL;
        struct ast_err err = AST_ERR_INIT;
        if (ast_json_parse(ast_str_c(rows[i]), &doc, &err) != AST_E_INVALID)
            fail_msg("accepted <%s>", rows[i]);
        assert_null(doc);
        assert_true(ast_str_starts(ast_str_c(err.msg), AST_STR("not JSON: ")));
    }
    struct ast_json_doc *doc = NULL;
    assert_int_equal(ast_json_parse(AST_STR_NONE, &doc, NULL), AST_E_INVALID);
    assert_int_equal(ast_json_parse(AST_STR("1\0"), &doc, NULL), AST_E_INVALID);
}

static void the_message_names_the_byte(void **state)
{
    (void)state;
    struct ast_json_doc *doc = NULL;
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_json_parse(AST_STR("{\"a\": tru}"), &doc, &err), AST_E_INVALID);
    assert_true(ast_str_starts(ast_str_c(err.msg), AST_STR("not JSON: byte 6: ")));
}

static void nesting_stops_at_the_limit(void **state)
{
    (void)state;
    static const char *const pairs[] = { "[]", "{}" };
    for (size_t kind = 0; kind < 2; kind++) {
        for (size_t depth = AST_JSON_MAX_DEPTH - 1; depth <= AST_JSON_MAX_DEPTH + 1; depth++) {
            AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(1 << 16);
            for (size_t i = 0; i < depth; i++) {
                ast_buf_add_byte(&text, pairs[kind][0]);
                if (kind == 1 && i + 1 < depth)
                    ast_buf_add_lit(&text, "\"k\":");
            }
            for (size_t i = 0; i < depth; i++)
                ast_buf_add_byte(&text, pairs[kind][1]);
            AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
            assert_int_equal(ast_json_parse(ast_buf_view(&text), &doc, NULL),
                             depth <= AST_JSON_MAX_DEPTH ? AST_OK : AST_E_TOO_LARGE);
        }
    }
    /* Siblings do not add up. */
    AST_AUTO(ast_buf_done) struct ast_buf wide = AST_BUF_INIT(1 << 16);
    ast_buf_add_byte(&wide, '[');
    for (size_t i = 0; i < 1000; i++)
        ast_buf_add(&wide, i % 3 ? AST_STR("[[],{}],") : AST_STR("[],"));
    ast_buf_add_lit(&wide, "0]");
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    assert_int_equal(ast_json_parse(ast_buf_view(&wide), &doc, NULL), AST_OK);
}

static void a_mebibyte_of_brackets_is_refused(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *text = malloc(2 << 20);
    memset(text, '[', 1 << 20);
    memset(text + (1 << 20), ']', 1 << 20);
    struct ast_json_doc *doc = NULL;
    assert_int_equal(ast_json_parse((struct ast_str){ text, 2 << 20 }, &doc, NULL),
                     AST_E_TOO_LARGE);
}

static void getters_tell_types_apart(void **state)
{
    (void)state;
    AST_AUTO(ast_json_free)
    struct ast_json_doc *doc = parse(
        "{\"n\":null,\"t\":true,\"u\":18446744073709551615,\"i\":-5,\"r\":2.5,\"s\":\"x\\u0000y\","
        "\"a\":[1],\"o\":{\"k\":\"v\"},\"z\":0}");
    static const struct {
        const char *key;
        enum ast_json_type type;
        const char *name;
    } rows[] = {
        { "n", AST_JSON_NULL, "null" },        { "t", AST_JSON_BOOL, "boolean" },
        { "u", AST_JSON_INT, "integer" },      { "i", AST_JSON_INT, "integer" },
        { "r", AST_JSON_REAL, "number" },      { "s", AST_JSON_STRING, "string" },
        { "a", AST_JSON_ARRAY, "array" },      { "o", AST_JSON_OBJECT, "object" },
        { "none", AST_JSON_ABSENT, "absent" },
    };
    const struct ast_json *root = ast_json_root(doc);
    bool b;
    uint64_t u;
    int64_t i64;
    double f;
    struct ast_str s;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        const struct ast_json *v = ast_json_get(root, ast_str_c(rows[i].key));
        assert_int_equal(ast_json_type(v), rows[i].type);
        assert_string_equal(ast_json_type_name(v), rows[i].name);
        bool is_number = rows[i].type == AST_JSON_INT || rows[i].type == AST_JSON_REAL;
        assert_int_equal(ast_json_bool(v, &b), rows[i].type == AST_JSON_BOOL);
        assert_int_equal(ast_json_f64(v, &f), is_number);
        assert_int_equal(ast_json_string(v, &s), rows[i].type == AST_JSON_STRING);
    }
    assert_true(ast_json_u64(ast_json_member(root, "u"), &u) && u == UINT64_MAX);
    assert_false(ast_json_i64(ast_json_member(root, "u"), &i64));
    assert_false(ast_json_u64(ast_json_member(root, "i"), &u));
    assert_true(ast_json_i64(ast_json_member(root, "i"), &i64) && i64 == -5);
    assert_true(ast_json_u64(ast_json_member(root, "z"), &u) && u == 0);
    assert_false(ast_json_u64(ast_json_member(root, "r"), &u));
    assert_false(ast_json_i64(ast_json_member(root, "r"), &i64));
    assert_true(ast_json_f64(ast_json_member(root, "i"), &f) && f < -4.9 && f > -5.1);
    assert_true(ast_json_string(ast_json_member(root, "s"), &s));
    assert_true(ast_str_eq(s, AST_STR("x\0y")));
    assert_view(ast_json_str_or(root, AST_STR("i"), AST_STR("fallback")), "fallback");
    assert_view(ast_json_str_or(root, AST_STR("none"), AST_STR("fallback")), "fallback");
    assert_true(
        ast_str_is(ast_json_str_or(ast_json_member(root, "o"), AST_STR("k"), AST_STR_NONE), "v"));
}

static void look_ups_chain_through_what_is_absent(void **state)
{
    (void)state;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = parse("{\"a\":{\"b\":1}}");
    const struct ast_json *root = ast_json_root(doc);
    assert_null(ast_json_member(ast_json_member(ast_json_member(root, "x"), "y"), "z"));
    assert_null(ast_json_member(ast_json_member(ast_json_member(root, "a"), "b"), "c"));
    assert_int_equal(ast_json_count(ast_json_member(root, "x")), 0);
    assert_null(ast_json_root(NULL));
}

static void a_lookup_finds_the_last_of_equal_members(void **state)
{
    (void)state;
    AST_AUTO(ast_json_free)
    struct ast_json_doc *doc = parse("{\"a\":1,\"b\":[1,2],\"a\":2,\"a\":3,\"c\":0}");
    uint64_t v = 0;
    assert_true(ast_json_u64(ast_json_member(ast_json_root(doc), "a"), &v));
    assert_int_equal(v, 3);
    assert_int_equal(ast_json_count(ast_json_root(doc)), 5);
}

static void iteration_visits_in_order(void **state)
{
    (void)state;
    AST_AUTO(ast_json_free)
    struct ast_json_doc *doc = parse("{\"b\":[[1],[2,[3]]],\"a\":{},\"e\":[]}");
    struct ast_json_iter it = AST_JSON_ITER(ast_json_root(doc));
    struct ast_str key;
    const struct ast_json *v;
    static const char *const keys[] = { "b", "a", "e" };
    static const size_t counts[] = { 2, 0, 0 };
    size_t n = 0;
    while (ast_json_next(&it, &key, &v)) {
        assert_view(key, keys[n]);
        assert_int_equal(ast_json_count(v), counts[n++]);
    }
    assert_int_equal(n, 3);
    assert_false(ast_json_next(&it, &key, &v));

    it = (struct ast_json_iter)AST_JSON_ITER(ast_json_member(ast_json_root(doc), "b"));
    for (n = 0; ast_json_next(&it, &key, &v); n++) {
        assert_int_equal(key.n, 0);
        assert_int_equal(ast_json_type(v), AST_JSON_ARRAY);
    }
    assert_int_equal(n, 2);
    it = (struct ast_json_iter)AST_JSON_ITER(NULL);
    assert_false(ast_json_next(&it, NULL, &v));
    it = (struct ast_json_iter)AST_JSON_ITER(ast_json_member(ast_json_root(doc), "e"));
    assert_false(ast_json_next(&it, NULL, &v));
}

static void canonical_form_is_that_of_the_specification(void **state)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        { "{\"b\":1, \"a\":2}", "{\"a\":2,\"b\":1}" },
        { " { } ", "{}" },
        { "[ ]", "[]" },
        { "[3, 1, 2]", "[3,1,2]" },
        { "{\"z\":{\"y\":1,\"x\":[{\"q\":1,\"p\":2}]},\"a\":null}",
          "{\"a\":null,\"z\":{\"x\":[{\"p\":2,\"q\":1}],\"y\":1}}" },
        { "{\"a\":1,\"a\":2}", "{\"a\":2}" },
        { "{\"b\":0,\"a\":1,\"b\":2,\"a\":{\"c\":1,\"c\":3}}", "{\"a\":{\"c\":3},\"b\":2}" },
        { "{\"aa\":1,\"a\":2,\"\":3,\"B\":4}", "{\"\":3,\"B\":4,\"a\":2,\"aa\":1}" },
        { "{\"\\u00e4\":1,\"z\":2}", "{\"z\":2,\"\xc3\xa4\":1}" },
        { "\"\\u0041\\/\\\"\\\\\"", "\"A/\\\"\\\\\"" },
        { "\"\\b\\f\\n\\r\\t\\u0000\\u001F\\u007f\"", "\"\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\"" },
        { "\"\\ud83d\\ude00\\u2028\"", "\"\xf0\x9f\x98\x80\xe2\x80\xa8\"" },
        { "true", "true" },
        { "false", "false" },
        { "null", "null" },
        { "0", "0" },
        { "-0", "0" },
        { "-0.0", "-0.0" },
        { "1.0", "1.0" },
        { "1.50", "1.5" },
        { "100", "100" },
        { "1e2", "100.0" },
        { "1E+2", "100.0" },
        { "0.1", "0.1" },
        { "0.30000000000000004", "0.30000000000000004" },
        { "123456789.125e-3", "123456.789125" },
        { "9223372036854775807", "9223372036854775807" },
        { "-9223372036854775808", "-9223372036854775808" },
        { "18446744073709551615", "18446744073709551615" },
        { "18446744073709551616", "18446744073709552000.0" },
        { "-9223372036854775809", "-9223372036854776000.0" },
        { "5e-324", "5e-324" },
        { "1.7976931348623157e308", "1.7976931348623157e308" },
        { "4.35", "4.35" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_json_free) struct ast_json_doc *doc = parse(rows[i].in);
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1 << 16);
        assert_int_equal(ast_json_canonical(ast_json_root(doc), &out), AST_OK);
        assert_view(ast_buf_view(&out), rows[i].out);
    }
}

static void compact_form_keeps_the_order_of_members(void **state)
{
    (void)state;
    AST_AUTO(ast_json_free)
    struct ast_json_doc *doc = parse("{ \"b\" : [1, {\"z\":1,\"y\":2}], \"a\" : 2.0 }");
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1 << 16);
    assert_int_equal(ast_json_compact(ast_json_root(doc), &out), AST_OK);
    assert_view(ast_buf_view(&out), "{\"b\":[1,{\"z\":1,\"y\":2}],\"a\":2.0}");
}

static void objects_of_every_size_are_sorted(void **state)
{
    (void)state;
    for (int n = 1; n <= 70; n++) {
        AST_AUTO(ast_buf_done)
        struct ast_buf in = AST_BUF_INIT(1 << 16), want = AST_BUF_INIT(1 << 16);
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1 << 16);
        for (int i = 0; i < n; i++) {
            int k =
                (i * 37 + 11) % n; /* some order, with repetitions unless 37 and n are coprime */
            ast_buf_addf(&in, "%s\"k%03d\":%d", i ? "," : "{", k, i);
        }
        ast_buf_add_byte(&in, '}');
        int last[70];
        memset(last, -1, sizeof last);
        for (int i = 0; i < n; i++)
            last[(i * 37 + 11) % n] = i;
        for (int k = 0; k < n; k++) {
            if (last[k] >= 0)
                ast_buf_addf(&want, "%s\"k%03d\":%d", want.n ? "," : "{", k, last[k]);
        }
        ast_buf_add_byte(&want, '}');
        AST_AUTO(ast_json_free) struct ast_json_doc *doc = parse(in.p);
        assert_int_equal(ast_json_canonical(ast_json_root(doc), &out), AST_OK);
        assert_view(ast_buf_view(&out), want.p);
    }
}

static void the_ceiling_of_the_output_is_exact(void **state)
{
    (void)state;
    static const char text[] =
        "{\"b\":[1,-2.5,\"q\\n\\u0001\xc3\xa4\"],\"a\":{\"x\":true,\"k\":null}}";
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = parse(text);
    AST_AUTO(ast_buf_done) struct ast_buf whole = AST_BUF_INIT(1000);
    assert_int_equal(ast_json_canonical(ast_json_root(doc), &whole), AST_OK);
    for (size_t max = 0; max <= whole.n; max++) {
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(max);
        assert_int_equal(ast_json_canonical(ast_json_root(doc), &out),
                         max == whole.n ? AST_OK : AST_E_TOO_LARGE);
        assert_true(out.n <= max);
    }
}

static void an_absent_value_prints_as_null(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(100);
    assert_int_equal(ast_json_canonical(NULL, &out), AST_OK);
    assert_view(ast_buf_view(&out), "null");
}

static void canonical_form_is_its_own_canonical_form(void **state)
{
    (void)state;
    uint32_t seed = 4711;
    for (int round = 0; round < 300; round++) {
        AST_AUTO(ast_buf_done) struct ast_buf in = AST_BUF_INIT(1 << 16);
        AST_AUTO(ast_buf_done)
        struct ast_buf once = AST_BUF_INIT(1 << 16), twice = AST_BUF_INIT(1 << 16);
        struct ast_jw w = AST_JW_INIT(&in);
        ast_jw_object(&w);
        for (int i = 0; i < 40; i++) {
            seed = seed * 1664525 + 1013904223;
            char key[3] = { (char)('a' + (seed >> 8) % 7), (char)(seed >> 16 & 0x7f), 0 };
            ast_jw_key(&w, ast_str_c(key));
            switch (seed >> 27 & 7) {
            case 0: ast_jw_object(&w); break;
            case 1:
                ast_jw_array(&w);
                ast_jw_f64(&w, (double)(int32_t)seed / 1024);
                ast_jw_end(&w);
                break;
            case 2: ast_jw_string(&w, ast_str_n(&seed, sizeof seed)); break;
            case 3: ast_jw_i64(&w, (int32_t)seed); break;
            case 4: ast_jw_f64(&w, (double)seed * 1e-20); break;
            default: ast_jw_bool(&w, seed & 1); break;
            }
            if (w.depth > 20 || (w.depth > 1 && (seed & 0x3000) == 0))
                ast_jw_end(&w);
        }
        while (w.depth)
            ast_jw_end(&w);
        assert_int_equal(ast_buf_check(&in, "in", NULL), AST_OK);
        AST_AUTO(ast_json_free) struct ast_json_doc *first = parse(in.p);
        assert_int_equal(ast_json_canonical(ast_json_root(first), &once), AST_OK);
        AST_AUTO(ast_json_free) struct ast_json_doc *second = parse(once.p);
        assert_int_equal(ast_json_canonical(ast_json_root(second), &twice), AST_OK);
        assert_view(ast_buf_view(&twice), once.p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parse_refuses_what_rfc_8259_does_not_know),
        cmocka_unit_test(the_message_names_the_byte),
        cmocka_unit_test(nesting_stops_at_the_limit),
        cmocka_unit_test(a_mebibyte_of_brackets_is_refused),
        cmocka_unit_test(getters_tell_types_apart),
        cmocka_unit_test(look_ups_chain_through_what_is_absent),
        cmocka_unit_test(a_lookup_finds_the_last_of_equal_members),
        cmocka_unit_test(iteration_visits_in_order),
        cmocka_unit_test(canonical_form_is_that_of_the_specification),
        cmocka_unit_test(compact_form_keeps_the_order_of_members),
        cmocka_unit_test(objects_of_every_size_are_sorted),
        cmocka_unit_test(the_ceiling_of_the_output_is_exact),
        cmocka_unit_test(an_absent_value_prints_as_null),
        cmocka_unit_test(canonical_form_is_its_own_canonical_form),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
