/* Heads and chunked bodies, byte for byte. */
#include "gateway_test.h"

#include "gateway/http_parse_priv.h"

#include "base/banned.h"

#define H "Host: x\r\n"

static void heads_are_accepted_or_refused_with_a_status(void **state)
{
    static const struct {
        const char *in;
        enum gw_parse want;
        unsigned status;
    } cases[] = {
        { "GET / HTTP/1.1\r\n" H "\r\n", GW_PARSE_DONE, 0 },
        { "GET / HTTP/1.1\r\n" H, GW_PARSE_MORE, 0 },
        { "", GW_PARSE_MORE, 0 },
        { "\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n", GW_PARSE_DONE, 0 },
        { "\r\nG", GW_PARSE_MORE, 0 },
        { "GET http://x/a?b HTTP/1.1\r\n" H "\r\n", GW_PARSE_DONE, 0 },
        { "GET / HTTP/1.0\r\n\r\n", GW_PARSE_DONE, 0 },
        { "GET / HTTP/1.1\r\n\r\n", GW_PARSE_BAD, 400 }, /* no host */
        { "GET / HTTP/1.1\r\n" H H "\r\n", GW_PARSE_BAD, 400 },
        { "GET / HTTP/2.0\r\n" H "\r\n", GW_PARSE_BAD, 505 },
        { "GET / XTTP/1.1\r\n" H "\r\n", GW_PARSE_BAD, 400 },
        { "GET /\r\n" H "\r\n", GW_PARSE_BAD, 400 },
        { "GET  / HTTP/1.1\r\n" H "\r\n", GW_PARSE_BAD, 400 },
        { "GET / HTTP/1.1 \r\n" H "\r\n", GW_PARSE_BAD, 505 },
        { "G@T / HTTP/1.1\r\n" H "\r\n", GW_PARSE_BAD, 400 },
        { "GET /\x01 HTTP/1.1\r\n" H "\r\n", GW_PARSE_BAD, 400 },
        { "GET / HTTP/1.1\n" H "\n", GW_PARSE_BAD, 400 }, /* bare line feeds */
        { "GET / HTTP/1.1\r\n" H "A : b\r\n\r\n", GW_PARSE_BAD, 400 },
        { "GET / HTTP/1.1\r\n" H " folded\r\n\r\n", GW_PARSE_BAD, 400 },
        { "GET / HTTP/1.1\r\n" H "nocolon\r\n\r\n", GW_PARSE_BAD, 400 },
        { "GET / HTTP/1.1\r\n" H "A: b\x02\r\n\r\n", GW_PARSE_BAD, 400 },
        { "GET / HTTP/1.1\r\n" H "A: b\rc\r\n\r\n", GW_PARSE_BAD, 400 },
        { "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\n", GW_PARSE_DONE, 0 },
        { "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", GW_PARSE_DONE,
          0 },
        { "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", GW_PARSE_BAD,
          400 },
        { "POST / HTTP/1.1\r\n" H "Content-Length: +5\r\n\r\n", GW_PARSE_BAD, 400 },
        { "POST / HTTP/1.1\r\n" H "Content-Length: 5, 5\r\n\r\n", GW_PARSE_BAD, 400 },
        { "POST / HTTP/1.1\r\n" H "Content-Length: \r\n\r\n", GW_PARSE_BAD, 400 },
        { "POST / HTTP/1.1\r\n" H "Content-Length: 18446744073709551616\r\n\r\n", GW_PARSE_BAD,
          400 },
        { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n", GW_PARSE_DONE, 0 },
        { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: Chunked\r\nContent-Length: 5\r\n\r\n",
          GW_PARSE_BAD, 400 },
        { "POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n", GW_PARSE_BAD, 501 },
        { "POST / HTTP/1.1\r\n" H
          "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
          GW_PARSE_BAD, 400 },
        { "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", GW_PARSE_BAD, 400 },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct gw_request r;
        size_t scanned = 0;
        unsigned status = 0;
        enum gw_parse got = gw_parse_head(ast_str_c(cases[i].in), &scanned, &r, &status);
        if (got != cases[i].want || (got == GW_PARSE_BAD && status != cases[i].status))
            fail_msg("case %zu: got %d, status %u: %s", i, (int)got, status, cases[i].in);
    }
}

static void a_head_says_the_same_whole_or_byte_by_byte(void **state)
{
    static const char text[] =
        "\r\nPOST /a//b/%2F?x=1&y=%20 HTTP/1.1\r\nhost:x\r\nCONTENT-LENGTH:  7 \r\nX:\t a b \t\r\n"
        "Expect: 100-continue\r\nConnection: foo , CLOSE\r\n\r\nbody";
    struct gw_request r;
    size_t scanned = 0;
    unsigned status;
    (void)state;
    size_t head = strlen(text) - 4;
    for (size_t n = 0; n < head; n++)
        assert_int_equal(gw_parse_head(ast_str_n(text, n), &scanned, &r, &status), GW_PARSE_MORE);
    for (size_t n = head; n <= strlen(text); n++) {
        assert_int_equal(gw_parse_head(ast_str_n(text, n), &scanned, &r, &status), GW_PARSE_DONE);
        assert_int_equal(r.head_bytes, head);
    }
    struct ast_str value;
    assert_int_equal(r.method, GW_METHOD_POST);
    assert_view(r.path, "/a//b/%2F");
    assert_view(r.query, "x=1&y=%20");
    assert_int_equal(r.content_length, 7);
    assert_true(r.expects_continue);
    assert_false(r.keep_alive);
    assert_true(gw_request_field(&r, AST_STR("x"), &value));
    assert_view(value, "a b");
    assert_false(gw_request_field(&r, AST_STR("y"), &value));
}

static void a_head_over_its_limits_is_431(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf in = AST_BUF_INIT(1000000);
    struct gw_request r;
    size_t scanned = 0;
    unsigned status = 0;
    (void)state;
    (void)ast_buf_add_lit(&in, "GET / HTTP/1.1\r\n" H);
    for (unsigned i = 1; i < AST_GATEWAY_HEAD_FIELDS; i++)
        (void)ast_buf_addf(&in, "f%u: 1\r\n", i);
    size_t fits = in.n;
    (void)ast_buf_add_lit(&in, "\r\n");
    assert_int_equal(gw_parse_head(ast_buf_view(&in), &scanned, &r, &status), GW_PARSE_DONE);
    in.n = fits;
    (void)ast_buf_add_lit(&in, "one: more\r\n\r\n");
    scanned = 0;
    assert_int_equal(gw_parse_head(ast_buf_view(&in), &scanned, &r, &status), GW_PARSE_BAD);
    assert_int_equal(status, 431);

    for (unsigned over = 0; over < 2; over++) {
        ast_buf_reset(&in);
        (void)ast_buf_add_lit(&in, "GET / HTTP/1.1\r\n" H "x: ");
        while (in.n < AST_GATEWAY_HEAD_BYTES - 4 + over)
            (void)ast_buf_add_byte(&in, 'a');
        (void)ast_buf_add_lit(&in, "\r\n\r\n");
        scanned = 0;
        assert_int_equal(gw_parse_head(ast_buf_view(&in), &scanned, &r, &status),
                         over ? GW_PARSE_BAD : GW_PARSE_DONE);
        assert_int_equal(status, over ? 431 : 0);
    }
    in.n -= 4; /* no end in sight */
    scanned = 0;
    assert_int_equal(gw_parse_head(ast_buf_view(&in), &scanned, &r, &status), GW_PARSE_MORE);
    (void)ast_buf_add_lit(&in, "aaaa");
    assert_int_equal(gw_parse_head(ast_buf_view(&in), &scanned, &r, &status), GW_PARSE_BAD);
    assert_int_equal(status, 431);
}

static void chunked_bodies(void **state)
{
    static const struct {
        const char *in;
        enum gw_parse want;
        const char *body, *rest;
    } cases[] = {
        { "5\r\nhello\r\n0\r\n\r\nGET", GW_PARSE_DONE, "hello", "GET" },
        { "5;a=\"b\"\r\nhello\r\n3 \r\n\r\nx\r\n00\r\nT: 1\r\n\r\n", GW_PARSE_DONE, "hello\r\nx",
          "" },
        { "A\r\n0123456789\r\n0\r\n\r\n", GW_PARSE_DONE, "0123456789", "" },
        { "0\r\n\r\n", GW_PARSE_DONE, "", "" },
        { "5\r\nhel", GW_PARSE_MORE, "hel", "" },
        { "5\r\nhello\r\n0\r\n", GW_PARSE_MORE, "hello", "" },
        { "5\r\nhelloX", GW_PARSE_BAD, NULL, NULL },
        { "5\nhello", GW_PARSE_BAD, NULL, NULL },
        { "\r\n", GW_PARSE_BAD, NULL, NULL },
        { "g\r\n", GW_PARSE_BAD, NULL, NULL },
        { ";x\r\n", GW_PARSE_BAD, NULL, NULL },
        { "-1\r\n", GW_PARSE_BAD, NULL, NULL },
        { "11111111111111111\r\n", GW_PARSE_BAD, NULL, NULL },
        { "0\r\nT\n\r\n", GW_PARSE_BAD, NULL, NULL },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        for (size_t step = 1; step < 40; step += 7) {
            AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000);
            struct gw_chunks c = { 0 };
            struct ast_str rest = ast_str_c(cases[i].in);
            enum gw_parse got = GW_PARSE_MORE;
            bool too_large = false;
            while (rest.n && got == GW_PARSE_MORE) {
                size_t used = 0;
                got = gw_parse_chunks(&c, ast_str_first(rest, step), &used, &out, &too_large);
                rest = ast_str_from(rest, used);
            }
            if (got != cases[i].want)
                fail_msg("case %zu, step %zu: got %d", i, step, (int)got);
            if (got == GW_PARSE_BAD)
                continue;
            assert_false(too_large);
            assert_true(ast_str_eq(ast_buf_view(&out), ast_str_c(cases[i].body)));
            assert_true(ast_str_eq(rest, ast_str_c(cases[i].rest)));
        }
    }
}

static void a_chunked_body_over_its_ceiling_is_dropped(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(4);
    struct gw_chunks c = { 0 };
    bool too_large = false;
    size_t used;
    (void)state;
    assert_int_equal(gw_parse_chunks(&c, AST_STR("4\r\nabcd\r\n"), &used, &out, &too_large),
                     GW_PARSE_MORE);
    assert_false(too_large);
    assert_int_equal(gw_parse_chunks(&c, AST_STR("1\r\ne\r\n0\r\n\r\n"), &used, &out, &too_large),
                     GW_PARSE_DONE);
    assert_true(too_large);
    assert_view(ast_buf_view(&out), "abcd");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_accepted_or_refused_with_a_status),
        cmocka_unit_test(a_head_says_the_same_whole_or_byte_by_byte),
        cmocka_unit_test(a_head_over_its_limits_is_431),
        cmocka_unit_test(chunked_bodies),
        cmocka_unit_test(a_chunked_body_over_its_ceiling_is_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
