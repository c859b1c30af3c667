#include "base_test.h"

#include "base/codec.h"

#include "base/banned.h"

static void hex_goes_both_ways(void **state)
{
    (void)state;
    uint8_t all[256], back[256];
    char text[513];
    for (size_t i = 0; i < sizeof all; i++)
        all[i] = (uint8_t)i;
    ast_hex_encode(all, sizeof all, text);
    assert_int_equal(strlen(text), 512);
    assert_memory_equal(text, "000102030405060708090a0b", 24);
    assert_true(ast_hex_decode((struct ast_str){ text, 512 }, back, sizeof back));
    assert_memory_equal(all, back, sizeof all);
    assert_true(ast_hex_decode(AST_STR("DeadBEEF"), back, 4));
    assert_memory_equal(back, "\xde\xad\xbe\xef", 4);
    ast_hex_encode(NULL, 0, text);
    assert_string_equal(text, "");
}

static void hex_refuses_a_wrong_length_or_digit(void **state)
{
    (void)state;
    uint8_t out[4] = { 9, 9, 9, 9 };
    assert_false(ast_hex_decode(AST_STR("abc"), out, 2));
    assert_false(ast_hex_decode(AST_STR("abcdef"), out, 2));
    assert_false(ast_hex_decode(AST_STR("abcg"), out, 2));
    assert_false(ast_hex_decode(AST_STR("ab c"), out, 2));
    assert_false(ast_hex_decode(AST_STR_NONE, out, SIZE_MAX / 2 + 1));
    assert_int_equal(out[0], 9);
    assert_true(ast_hex_decode(AST_STR_NONE, out, 0));
}

/* RFC 4648 §10 with the URL alphabet and without padding, and the spellings it cannot show. */
static const struct {
    struct ast_str bytes;
    const char *text;
} vectors[] = {
    { { "", 0 }, "" },
    { { "f", 1 }, "Zg" },
    { { "fo", 2 }, "Zm8" },
    { { "foo", 3 }, "Zm9v" },
    { { "foob", 4 }, "Zm9vYg" },
    { { "fooba", 5 }, "Zm9vYmE" },
    { { "foobar", 6 }, "Zm9vYmFy" },
    { { "\xff\xff\xfe", 3 }, "___-" },
    { { "\0\0", 2 }, "AAA" },
    { { "default", 7 }, "ZGVmYXVsdA" },
};

static void base64url_goes_both_ways(void **state)
{
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(vectors); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(100), bytes = AST_BUF_INIT(100);
        assert_int_equal(ast_base64url_encode(vectors[i].bytes, &text), AST_OK);
        assert_view(ast_buf_view(&text), vectors[i].text);
        assert_int_equal(ast_base64url_decode(ast_str_c(vectors[i].text), &bytes, NULL), AST_OK);
        assert_true(ast_str_eq(ast_buf_view(&bytes), vectors[i].bytes));
    }
}

static void base64url_appends(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
    ast_buf_add_lit(&b, "x.");
    assert_int_equal(ast_base64url_encode(AST_STR("foob"), &b), AST_OK);
    assert_view(ast_buf_view(&b), "x.Zm9vYg");
    assert_int_equal(ast_base64url_decode(AST_STR("Zm8"), &b, NULL), AST_OK);
    assert_view(ast_buf_view(&b), "x.Zm9vYgfo");
}

static void c03_09_base64url_refuses_what_the_encoder_would_not_write(void **state)
{
    static const char *const rows[] = {
        "Z",       "Zm9vY",  /* impossible lengths */
        "Zg==",    "Zg=",    /* padding */
        "Zh",      "Zm9",    /* non-zero trailing bits */
        "Zm9v+A",  "Zm9v/A", /* the other alphabet */
        "Zm 9v",   "Zm9v\n", /* white space */
        "Zm9\xc3", "*m9v",
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(100);
        struct ast_err err = AST_ERR_INIT;
        ast_buf_add_lit(&b, "keep");
        assert_int_equal(ast_base64url_decode(ast_str_c(rows[i]), &b, &err), AST_E_INVALID);
        assert_true(ast_str_starts(ast_str_c(err.msg), AST_STR("base64url: ")));
        assert_view(ast_buf_view(&b), "keep");
    }
}

static void every_two_byte_value_has_exactly_one_text(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(10), bytes = AST_BUF_INIT(10);
    for (unsigned v = 0; v < 65536; v++) {
        const char b[2] = { (char)(v >> 8), (char)v };
        ast_buf_reset(&text);
        ast_buf_reset(&bytes);
        assert_int_equal(ast_base64url_encode((struct ast_str){ b, 2 }, &text), AST_OK);
        assert_int_equal(text.n, 3);
        assert_int_equal(ast_base64url_decode(ast_buf_view(&text), &bytes, NULL), AST_OK);
        assert_int_equal(bytes.n, 2);
        assert_memory_equal(bytes.p, b, 2);
    }
}

static void base64url_respects_ceilings(void **state)
{
    (void)state;
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(7);
    assert_int_equal(ast_base64url_encode(AST_STR("fooba"), &b), AST_OK);
    AST_AUTO(ast_buf_done) struct ast_buf small = AST_BUF_INIT(6);
    assert_int_equal(ast_base64url_encode(AST_STR("fooba"), &small), AST_E_TOO_LARGE);
    AST_AUTO(ast_buf_done) struct ast_buf tiny = AST_BUF_INIT(2);
    assert_int_equal(ast_base64url_decode(AST_STR("Zm9vYmFy"), &tiny, NULL), AST_E_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hex_goes_both_ways),
        cmocka_unit_test(hex_refuses_a_wrong_length_or_digit),
        cmocka_unit_test(base64url_goes_both_ways),
        cmocka_unit_test(base64url_appends),
        cmocka_unit_test(c03_09_base64url_refuses_what_the_encoder_would_not_write),
        cmocka_unit_test(every_two_byte_value_has_exactly_one_text),
        cmocka_unit_test(base64url_respects_ceilings),
    };
    return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}
