/* Bearers: the vector, every refusal, the memory, revocation. */
#include "gateway_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fs.h"
#include "gateway/bearers_priv.h"

#include "base/banned.h"

#define VECTOR                                                                                     \
    "YWxpY2U.MTcwMDAwMDAwMA.MTcwMDAyODgwMA."                                                       \
    "caf046609152d423d817fe0e6fb9a9d847beb0fff166a826d10cbc84b0a6b951e10d466e03090936098c9ea5fa17432476048ca34a9f67bc388e802176df3c0c"
#define IAT 1700000000u
#define EXP 1700028800u

static struct ast_key key;
static struct gw_revocations *revocations;
static struct gw_bearers *bearers;
static char dir[64], path[96];

static int setup(void **state)
{
    uint8_t seed[AST_KEY_SEED_BYTES];
    (void)state;
    for (unsigned i = 0; i < sizeof seed; i++)
        seed[i] = (uint8_t)i;
    (void)snprintf(dir, sizeof dir, "/tmp/ast-bearer-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/etc/gateway-revocations.json", dir);
    assert_int_equal(ast_key_from_seed(&key, seed, NULL), AST_OK);
    assert_int_equal(gw_revocations_open(path, &revocations, NULL), AST_OK);
    assert_int_equal(gw_bearers_new(&key, revocations, &bearers, NULL), AST_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    gw_bearers_free(bearers);
    gw_revocations_close(revocations);
    ast_key_done(&key);
    return ast_fs_remove_tree(dir, NULL) == AST_OK ? 0 : -1;
}

static bool check(const char *authorization, uint64_t now)
{
    struct ast_bearer b;
    return gw_bearers_check(bearers, ast_str_c(authorization), now, &b);
}

static void c03_08_the_vector_verifies_and_is_minted(void **state)
{
    struct ast_bearer b;
    AST_AUTO(ast_buf_done) struct ast_buf token = AST_BUF_INIT(AST_BEARER_MAX);
    (void)state;
    assert_true(gw_bearers_check(bearers, AST_STR("Bearer " VECTOR), IAT, &b));
    assert_view(ast_principal_str(&b.principal), "alice");
    assert_int_equal(b.issued_at, IAT);
    assert_int_equal(b.expires_at, EXP);
    assert_int_equal(ast_bearer_mint(&key, AST_STR("alice"), IAT, EXP - IAT, &token, NULL), AST_OK);
    assert_view(ast_buf_view(&token), VECTOR);
}

static void c03_09_what_is_not_a_live_bearer_is_refused(void **state)
{
    static const struct {
        const char *authorization;
        uint64_t now;
        bool want;
    } cases[] = {
        { "Bearer " VECTOR, EXP - 1, true },
        { "Bearer " VECTOR, EXP, false },
        { "Bearer " VECTOR, EXP + 1, false },
        { "bearer " VECTOR, IAT, false },
        { "BEARER " VECTOR, IAT, false },
        { "Bearer  " VECTOR, IAT, false },
        { "Bearer " VECTOR " ", IAT, false },
        { "Basic " VECTOR, IAT, false },
        { VECTOR, IAT, false },
        { "Bearer ", IAT, false },
        { "Bearer", IAT, false },
        { "", IAT, false },
        { "Bearer " VECTOR ".x", IAT, false },
        { "Bearer YWxpY2U.MTcwMDAwMDAwMA.MTcwMDAyODgwMA", IAT, false },
        { "Bearer YWxpY2U=.MTcwMDAwMDAwMA.MTcwMDAyODgwMA."
          "caf046609152d423d817fe0e6fb9a9d847beb0fff166a826d10cbc84b0a6b951e10d466e03090936098c9ea5fa17432476048ca34a9f67bc388e802176df3c0c",
          IAT, false },
        { "Bearer YWxpY2U.MTcwMDAwMDAwMA.MTcwMDAyODgwMA."
          "caf046609152d423d817fe0e6fb9a9d847beb0fff166a826d10cbc84b0a6b951e10d466e03090936098c9ea5fa17432476048ca34a9f67bc388e802176df3c0d",
          IAT, false },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++)
        if (check(cases[i].authorization, cases[i].now) != cases[i].want)
            fail_msg("case %zu: %s at %llu", i, cases[i].authorization,
                     (unsigned long long)cases[i].now);
}

static void c03_10_a_flood_of_dots_costs_no_signature(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf dots = AST_BUF_INIT(20000);
    struct ast_bearer b;
    (void)state;
    (void)ast_buf_add_lit(&dots, "Bearer ");
    for (unsigned i = 0; i < 10000; i++)
        (void)ast_buf_add_byte(&dots, '.');
    assert_false(gw_bearers_check(bearers, ast_buf_view(&dots), IAT, &b));
    assert_int_equal(gw_bearers_signature_checks(bearers), 0);
}

static void a_verified_bearer_is_remembered_a_refused_one_is_not(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 5; i++)
        assert_true(check("Bearer " VECTOR, IAT));
    assert_int_equal(gw_bearers_signature_checks(bearers), 1);
    assert_false(check("Bearer " VECTOR, EXP)); /* remembered, but over */
    assert_int_equal(gw_bearers_signature_checks(bearers), 1);
    for (unsigned i = 0; i < 3; i++)
        assert_false(check("Bearer YWxpY2U.MQ.Mg.00", IAT));
    assert_int_equal(gw_bearers_signature_checks(bearers), 4);
}

static void more_bearers_than_the_memory_holds_still_verify(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 5000; i += 1 + round * 100) {
            AST_AUTO(ast_buf_done) struct ast_buf token = AST_BUF_INIT(400);
            char name[32];
            struct ast_bearer b;
            (void)snprintf(name, sizeof name, "p%u", i);
            (void)ast_buf_add_lit(&token, "Bearer ");
            assert_int_equal(ast_bearer_mint(&key, ast_str_c(name), IAT, 100, &token, NULL),
                             AST_OK);
            assert_true(gw_bearers_check(bearers, ast_buf_view(&token), IAT, &b));
            assert_true(ast_str_eq(ast_principal_str(&b.principal), ast_str_c(name)));
        }
    }
}

static void c03_12_revocation_kills_up_to_its_own_second(void **state)
{
    (void)state;
    assert_true(check("Bearer " VECTOR, IAT)); /* remembered before it is revoked */
    assert_true(gw_revocations_add(revocations, AST_STR("alice"), IAT - 1));
    assert_true(check("Bearer " VECTOR, IAT)); /* iat == revoked_at + 1 */
    assert_true(gw_revocations_add(revocations, AST_STR("alice"), IAT));
    assert_false(check("Bearer " VECTOR, IAT)); /* iat == revoked_at */
    assert_false(gw_revocations_add(revocations, AST_STR("alice"), IAT - 5)); /* only forward */
    assert_false(check("Bearer " VECTOR, IAT));
    assert_false(gw_revocations_hit(revocations, AST_STR("bob"), 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(c03_08_the_vector_verifies_and_is_minted, setup, teardown),
        cmocka_unit_test_setup_teardown(c03_09_what_is_not_a_live_bearer_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(c03_10_a_flood_of_dots_costs_no_signature, setup, teardown),
        cmocka_unit_test_setup_teardown(a_verified_bearer_is_remembered_a_refused_one_is_not, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(more_bearers_than_the_memory_holds_still_verify, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(c03_12_revocation_kills_up_to_its_own_second, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
