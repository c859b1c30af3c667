/* JSON as YAML and as TOML. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/toml.h"
#include "cli/render.h"

#include "base/banned.h"

typedef enum ast_rc writer(const struct ast_json *v, struct ast_buf *out);

static void expect(writer *write, const char *json, const char *text)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(65536);

    assert_int_equal(ast_json_parse(ast_str_c(json), &doc, NULL), AST_OK);
    assert_int_equal(write(ast_json_root(doc), &out), AST_OK);
    ast_buf_add_byte(&out, 0);
    assert_string_equal(out.p, text);
}

static void c08_02_yaml_is_block_style(void **state)
{
    expect(cli_render_yaml,
           "[{\"capsule\":\"a-b\",\"state\":\"ready\"},{\"capsule\":\"c\",\"m\":[1,2]}]",
           "- capsule: a-b\n  state: ready\n- capsule: c\n  m:\n  - 1\n  - 2\n");
    expect(cli_render_yaml, "{\"a\":{\"b\":{\"c\":null}},\"d\":[],\"e\":{}}",
           "a:\n  b:\n    c: null\nd: []\ne: {}\n");
    expect(cli_render_yaml, "[]", "[]\n");
    expect(cli_render_yaml, "{}", "{}\n");
    expect(cli_render_yaml, "7", "7\n");
    expect(cli_render_yaml, "[[1,[2]],[]]", "- - 1\n  - - 2\n- []\n");
}

static void c08_02_yaml_strings_stay_strings(void **state)
{
    expect(
        cli_render_yaml,
        "[\"true\",\"No\",\"null\",\"12\",\"1e5\",\"\",\" a\",\"a: b\",\"a:\",\"self:agent:list\",\"*\",\"- x\","
        "\"a#b\",\"0.8.0\",\"x86_64-linux\"]",
        "- \"true\"\n- \"No\"\n- \"null\"\n- \"12\"\n- \"1e5\"\n- \"\"\n- \" a\"\n- \"a: b\"\n- \"a:\"\n"
        "- self:agent:list\n- \"*\"\n- \"- x\"\n- \"a#b\"\n- \"0.8.0\"\n- x86_64-linux\n");
    expect(cli_render_yaml, "{\"yes\":1,\"a b\":2}", "\"yes\": 1\n\"a b\": 2\n");
}

static void c08_02_toml_wraps_what_is_no_table(void **state)
{
    expect(cli_render_toml, "[{\"a\":1},{\"a\":2}]", "[[value]]\na = 1\n\n[[value]]\na = 2\n");
    expect(cli_render_toml, "[]", "value = []\n");
    expect(cli_render_toml, "\"x\"", "value = \"x\"\n");
    expect(cli_render_toml, "[1,\"b\"]", "value = [\n    1,\n    \"b\",\n]\n");
}

static void c08_02_toml_puts_tables_last(void **state)
{
    expect(
        cli_render_toml,
        "{\"t\":{\"x\":1,\"n\":null},\"a\":true,\"r\":[{\"k\":[1]},{\"q\":{\"z\":2}}],\"m\":[1,{\"i\":2}]}",
        "a = true\nm = [\n    1,\n    {i = 2},\n]\n\n[t]\nx = 1\n\n[[r]]\nk = [1]\n\n[[r]]\n\n[r.q]\nz = 2\n");
    expect(cli_render_toml, "{\"a b\":{\"c\":1}}", "[\"a b\"]\nc = 1\n");
}

/* What a stock parser finds in it is what went in. */
static void c08_02_toml_is_read_back(void **state)
{
    static const char *const values[] = {
        "{\"a\":\"q\\\"\\\\ \\n\\t \\u0001\\u007f \\u00e9\\u2028\",\"b\":[true,false],\"c\":{\"d\":[{\"e\":-5},{\"f\":\"\"}]}}",
        "{\"deep\":{\"er\":{\"st\":[[1,2],[3]]}},\"empty\":{}}",
        "{\"\":1,\"k.k\":2,\"\\u00fc\":[{\"x\":{\"y\":[]}}]}",
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(values); i++) {
        AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL, *again = NULL;
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(65536);
        AST_AUTO(ast_buf_done) struct ast_buf one = AST_BUF_INIT(65536);
        AST_AUTO(ast_buf_done) struct ast_buf two = AST_BUF_INIT(65536);
        struct ast_err err = AST_ERR_INIT;

        assert_int_equal(ast_json_parse(ast_str_c(values[i]), &doc, &err), AST_OK);
        assert_int_equal(cli_render_toml(ast_json_root(doc), &out), AST_OK);
        assert_int_equal(ast_toml_parse(ast_buf_view(&out), &again, &err), AST_OK);
        assert_int_equal(ast_json_canonical(ast_json_root(doc), &one), AST_OK);
        assert_int_equal(ast_json_canonical(ast_json_root(again), &two), AST_OK);
        assert_true(ast_str_eq(ast_buf_view(&one), ast_buf_view(&two)));
    }
}

static void a_full_buffer_is_an_error(void **state)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(8);

    assert_int_equal(ast_json_parse(AST_STR("{\"a\":\"much too long\"}"), &doc, NULL), AST_OK);
    assert_int_equal(cli_render_yaml(ast_json_root(doc), &out), AST_E_TOO_LARGE);
    ast_buf_reset(&out);
    assert_int_equal(cli_render_toml(ast_json_root(doc), &out), AST_E_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c08_02_yaml_is_block_style),
        cmocka_unit_test(c08_02_yaml_strings_stay_strings),
        cmocka_unit_test(c08_02_toml_wraps_what_is_no_table),
        cmocka_unit_test(c08_02_toml_puts_tables_last),
        cmocka_unit_test(c08_02_toml_is_read_back),
        cmocka_unit_test(a_full_buffer_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
