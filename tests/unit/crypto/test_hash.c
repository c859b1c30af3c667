#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/codec.h"
#include "crypto/hash.h"

#include "base/banned.h"

static void blake3_and_sha256_known_answers(void **state)
{
    (void)state;
    static const struct {
        struct ast_str text;
        const char *blake3, *sha256;
    } cases[] = {
        { AST_STR(""), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
          "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
        { AST_STR("abc"), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
          "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
        /* spec 09 §28 */
        { AST_STR("{\"path\":\"/a\"}"),
          "6ef88056fa2ac7e8042411dcc27b344ed83f5cf47a70bfc74e04306943d759c9", NULL },
        { AST_STR("ed25519:03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"), NULL,
          "59e85d18d82cab9d49eca69b13f3b6bb061e0ac5c3e52a2838b3dc338900a591" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        char hex[AST_BLAKE3_HEX];
        ast_blake3_hex(cases[i].text, hex);
        if (cases[i].blake3)
            assert_string_equal(hex, cases[i].blake3);
        ast_sha256_hex(cases[i].text, hex);
        if (cases[i].sha256)
            assert_string_equal(hex, cases[i].sha256);
    }
}

static void blake3_mac_known_answer(void **state)
{
    (void)state;
    uint8_t mac[32];
    char hex[65];
    ast_blake3_mac((const uint8_t *)"whats the Elvish word for friend", AST_STR_NONE, mac);
    ast_hex_encode(mac, sizeof mac, hex);
    assert_string_equal(hex, "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26");
}

/* Long enough for every vector width: the pieces must give what the whole gives. */
static void blake3_in_pieces_equals_blake3_in_one(void **state)
{
    (void)state;
    static char data[300000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (char)(i % 251);
    static const size_t steps[] = { 1, 63, 64, 1023, 1024, 1025, 65536, sizeof data };
    uint8_t whole[AST_BLAKE3_BYTES];
    ast_blake3(ast_str_n(data, sizeof data), whole);
    for (size_t i = 0; i < AST_ARRAY_LEN(steps); i++) {
        struct ast_blake3_state s;
        uint8_t pieces[AST_BLAKE3_BYTES];
        ast_blake3_begin(&s);
        for (struct ast_str rest = ast_str_n(data, sizeof data); rest.n;
             rest = ast_str_from(rest, steps[i]))
            ast_blake3_feed(&s, ast_str_first(rest, steps[i]));
        ast_blake3_end(&s, pieces);
        assert_memory_equal(pieces, whole, sizeof whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blake3_and_sha256_known_answers),
        cmocka_unit_test(blake3_mac_known_answer),
        cmocka_unit_test(blake3_in_pieces_equals_blake3_in_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
