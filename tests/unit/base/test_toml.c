#include "base_test.h"

#include "base/toml.h"

#include "base/banned.h"

static void documents_become_json_in_source_order(void **state)
{
    static const struct {
        const char *toml, *json;
    } rows[] = {
        { "", "{}" },
        { "# only a comment\n", "{}" },
        { "b = 1\na = 2\n", "{\"b\":1,\"a\":2}" },
        { "[z]\nx = 1\n[a]\ny = 2\n", "{\"z\":{\"x\":1},\"a\":{\"y\":2}}" },
        { "a.b.c = true\na.d = false\n", "{\"a\":{\"b\":{\"c\":true},\"d\":false}}" },
        { "[[component]]\nid = \"x\"\n[[component]]\nid = \"y\"\n[component.more]\nk = 1\n",
          "{\"component\":[{\"id\":\"x\"},{\"id\":\"y\",\"more\":{\"k\":1}}]}" },
        { "s = \"a\\tb\\u00e4\\\"\"\nl = 'c:\\x'\nm = \"\"\"\none\ntwo\"\"\"\n",
          "{\"s\":\"a\\tb\xc3\xa4\\\"\",\"l\":\"c:\\\\x\",\"m\":\"one\\ntwo\"}" },
        { "i = -17\nh = 0xff\no = 0o17\nb = 0b101\nu = 1_000\n",
          "{\"i\":-17,\"h\":255,\"o\":15,\"b\":5,\"u\":1000}" },
        { "min = -9223372036854775808\nmax = 9223372036854775807\n",
          "{\"min\":-9223372036854775808,\"max\":9223372036854775807}" },
        { "f = 1.0\ng = 6.5e-3\n", "{\"f\":1.0,\"g\":0.0065}" },
        { "a = [1, [2, 3], {x = 1}, \"s\"]\n", "{\"a\":[1,[2,3],{\"x\":1},\"s\"]}" },
        { "d = 1979-05-27\nt = 07:32:00.5\nldt = 1979-05-27T07:32:00\nodt = 1979-05-27T07:32:00.999999-07:00\n"
          "z = 1979-05-27 07:32:00Z\n",
          "{\"d\":\"1979-05-27\",\"t\":\"07:32:00.5\",\"ldt\":\"1979-05-27T07:32:00\","
          "\"odt\":\"1979-05-27T07:32:00.999999-07:00\",\"z\":\"1979-05-27T07:32:00Z\"}" },
        { "d = [1979-05-27 , 1979-05-28 # c\n]\ne = 1979-05-27 # c\nf = {g = 1979-05-27 }\n",
          "{\"d\":[\"1979-05-27\",\"1979-05-28\"],\"e\":\"1979-05-27\",\"f\":{\"g\":\"1979-05-27\"}}" },
        { "\"quoted key.with dots\" = 1\n'' = 2\n", "{\"quoted key.with dots\":1,\"\":2}" },
        { "inline = { b = 1, a = { c = [] } }\r\n", "{\"inline\":{\"b\":1,\"a\":{\"c\":[]}}}" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
        struct ast_err err = AST_ERR_INIT;
        if (ast_toml_parse(ast_str_c(rows[i].toml), &doc, &err))
            fail_msg("%s: %s", rows[i].toml, err.msg);
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1 << 16);
        assert_int_equal(ast_json_compact(ast_json_root(doc), &out), AST_OK);
        assert_view(ast_buf_view(&out), rows[i].json);
    }
    AST_AUTO(ast_json_free) struct ast_json_doc *none = NULL;
    assert_int_equal(ast_toml_parse(AST_STR_NONE, &none, NULL), AST_OK);
}

static void errors_name_line_and_column(void **state)
{
    static const struct {
        const char *toml, *where;
    } rows[] = {
        { "a = \n", "line 1, column " },
        { "a = 1\nb = tru\n", "line 2, column " },
        { "a = 1\na = 2\n", "line 2, column " },
        { "\n\n[x\n", "line 3, column " },
        { "[a]\n[a]\n", "line 2, column " },
        { "x = \"open\n", "line 1, column " },
        { "x = 2026-13-01\n", "line 1, column " },
        { "x = 99999999999999999999\n", "line 1, column " },
        { "x = inf\n", "line 1, column " },
        { "a = 1\nx = [nan]\n", "line 2, column " },
        { "x = \"\xff\"\n", "line 1, column " },
        { "a = 1\n[.x]\n", "line 2, column " }, /* these three break an assertion of the library */
        { "[{c]\n", "line 1, column " },
        { "[[=]]\n", "line 1, column " },
        { "d = 1979-05-27T-7:1\n", "line 1, column " },
        { "[]\n", "line 1, column " },
        { "[a..b]\n", "line 1, column " },
        { "\xc3\x8b = 1\n", "line 1, column " }, /* and this one reaches its unreachable */
        { "a = 1 \xc3\x8b\n", "line 1, column " },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_json_doc *doc = NULL;
        struct ast_err err = AST_ERR_INIT;
        if (ast_toml_parse(ast_str_c(rows[i].toml), &doc, &err) != AST_E_INVALID)
            fail_msg("accepted %s", rows[i].toml);
        assert_null(doc);
        if (!ast_str_starts(ast_str_c(err.msg), ast_str_c(rows[i].where)))
            fail_msg("%s", err.msg);
    }
}

static void repeat(struct ast_buf *b, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ast_buf_add(b, ast_str_c(s));
}

static void deep_nesting_is_refused_in_every_disguise(void **state)
{
    (void)state;
    for (int kind = 0; kind < 7; kind++) {
        AST_AUTO(ast_buf_done) struct ast_buf t = AST_BUF_INIT(AST_TOML_MAX_BYTES);
        size_t n = 100000;
        switch (kind) {
        case 0: repeat(&t, "a.", n), ast_buf_add_lit(&t, "a = 1"); break;
        case 1: repeat(&t, "\"a\" . ", n), ast_buf_add_lit(&t, "a = 1"); break;
        case 2: ast_buf_add_lit(&t, "[x"), repeat(&t, ".a", n), ast_buf_add_lit(&t, "]"); break;
        case 3: ast_buf_add_lit(&t, "a = "), repeat(&t, "[", n), repeat(&t, "]", n); break;
        case 4: ast_buf_add_lit(&t, "a = "), repeat(&t, "{a=", n); break;
        case 5:
            ast_buf_add_lit(&t, "a = "), repeat(&t, "{a.a.a.a.a.a=", 30), repeat(&t, "1", 1),
                repeat(&t, "}", 30);
            break;
        case 6: ast_buf_add_lit(&t, "a = [\n"), repeat(&t, "[\n", n); break;
        }
        struct ast_json_doc *doc = NULL;
        if (ast_toml_parse(ast_buf_view(&t), &doc, NULL) != AST_E_TOO_LARGE)
            fail_msg("kind %d", kind);
    }
    /* A header and a key of 100 levels each: each is fine, together the document is too deep. */
    AST_AUTO(ast_buf_done) struct ast_buf t = AST_BUF_INIT(AST_TOML_MAX_BYTES);
    ast_buf_add_lit(&t, "[h");
    repeat(&t, ".a", 100);
    ast_buf_add_lit(&t, "]\nk");
    repeat(&t, ".b", 100);
    ast_buf_add_lit(&t, " = 1\n");
    struct ast_json_doc *doc = NULL;
    assert_int_equal(ast_toml_parse(ast_buf_view(&t), &doc, NULL), AST_E_TOO_LARGE);
}

static void many_dots_that_are_not_keys_are_fine(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf t = AST_BUF_INIT(AST_TOML_MAX_BYTES);
    ast_buf_add_lit(&t, "# ");
    repeat(&t, "...", 200);
    ast_buf_add_lit(&t, "\ns = \"");
    repeat(&t, "a.\\\"[{", 200);
    ast_buf_add_lit(&t, "\"\nl = '");
    repeat(&t, "\\.\"[", 200);
    ast_buf_add_lit(&t, "'\nm = \"\"\"\n");
    repeat(&t, "[[[ ''' \"\" \\\" ....\n", 200);
    ast_buf_add_lit(&t, "\"\"\"\"\"\nf = [\n");
    repeat(&t, "  1.5, # one.two\n", 500);
    ast_buf_add_lit(&t, "]\n");
    repeat(&t, "[[x.y]]\nq.r = 1.5\n", 500);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_err err = AST_ERR_INIT;
    if (ast_toml_parse(ast_buf_view(&t), &doc, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(ast_json_count(ast_json_member(ast_json_root(doc), "f")), 500);
    assert_int_equal(ast_json_count(ast_json_member(ast_json_member(ast_json_root(doc), "x"), "y")),
                     500);
}

static void size_is_bounded(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf t = AST_BUF_INIT(2 * AST_TOML_MAX_BYTES);
    ast_buf_add_lit(&t, "a = 1\n#");
    while (t.n < AST_TOML_MAX_BYTES)
        ast_buf_add_byte(&t, 'x');
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    assert_int_equal(ast_toml_parse(ast_buf_view(&t), &doc, NULL), AST_OK);
    ast_buf_add_byte(&t, 'x');
    struct ast_json_doc *none = NULL;
    assert_int_equal(ast_toml_parse(ast_buf_view(&t), &none, NULL), AST_E_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_become_json_in_source_order),
        cmocka_unit_test(errors_name_line_and_column),
        cmocka_unit_test(deep_nesting_is_refused_in_every_disguise),
        cmocka_unit_test(many_dots_that_are_not_keys_are_fine),
        cmocka_unit_test(size_is_bounded),
    };
    return cmocka_run_group_tests_name("toml", tests, NULL, NULL);
}
