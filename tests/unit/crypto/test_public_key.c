/* Keys that people hand in (spec 02 §5). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <stdio.h>

#include "crypto/public_key.h"

#include "base/banned.h"

/* RFC 8032 §7.1, test 1. */
#define KEY   "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
#define UPPER "D75A980182B10AB7D54BFED3C964073A0EE172F3DAA62325AF021A68F707511A"

static void every_way_to_write_a_key_gives_one_text(void **state)
{
    static const char *const ways[] = {
        KEY, UPPER, "ed25519:" KEY, "ed25519:" UPPER, "  " KEY "\n", "ed25519: " KEY "\t"
    };
    struct ast_public_key k;
    char hash[AST_SHA256_HEX];
    (void)state;
    ast_sha256_hex(AST_STR("ed25519:" KEY), hash);
    for (size_t i = 0; i < AST_ARRAY_LEN(ways); i++) {
        assert_int_equal(ast_public_key_parse(ast_str_c(ways[i]), &k, NULL), AST_OK);
        assert_string_equal(k.text, "ed25519:" KEY);
        assert_string_equal(k.fingerprint, hash);
    }
}

static void what_is_no_key_is_refused_by_its_reason(void **state)
{
    static const struct {
        const char *given, *why;
    } rows[] = {
        { "", "public_key must be 32 bytes hex-encoded (64 hex chars); got 0 chars" },
        { "ed25519:abcd", "public_key must be 32 bytes hex-encoded (64 hex chars); got 4 chars" },
        { "ED25519:" KEY, "public_key must be 32 bytes hex-encoded (64 hex chars); got 72 chars" },
        { " ed25519:" KEY, "public_key must be 32 bytes hex-encoded (64 hex chars); got 72 chars" },
        { "g75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
          "public_key contains non-hex characters" },
        /* not on the curve; the neutral element; small orders */
        { "0200000000000000000000000000000000000000000000000000000000000000",
          "public_key is not a valid ed25519 public key" },
        { "0100000000000000000000000000000000000000000000000000000000000000",
          "public_key is not a valid ed25519 public key" },
        { "0000000000000000000000000000000000000000000000000000000000000000",
          "public_key is not a valid ed25519 public key" },
        { "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
          "public_key is not a valid ed25519 public key" },
        { "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
          "public_key is not a valid ed25519 public key" },
    };
    struct ast_public_key k;
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_err err = AST_ERR_INIT;
        assert_int_equal(ast_public_key_parse(ast_str_c(rows[i].given), &k, &err), AST_E_INVALID);
        assert_string_equal(err.msg, rows[i].why);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_to_write_a_key_gives_one_text),
        cmocka_unit_test(what_is_no_key_is_refused_by_its_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
