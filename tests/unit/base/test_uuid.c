#include "base_test.h"

#include "base/uuid.h"

#include "base/banned.h"

static const struct ast_uuid sample = { { 0x0b, 0x0f, 0x7a, 0x0e, 0x8a, 0x64, 0x4a, 0x0a, 0xb1,
                                          0xc3, 0x5f, 0x5f, 0x0e, 0x6d, 0x9f, 0x10 } };

static void format_is_lower_case_with_hyphens(void **state)
{
    (void)state;
    char text[AST_UUID_TEXT];
    assert_view(ast_uuid_format(&sample, text), "0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10");
    assert_string_equal(text, "0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10");
    assert_view(ast_uuid_format(&AST_UUID_NIL, text), "00000000-0000-0000-0000-000000000000");
}

static void parse_takes_the_forms_of_the_standard_parser(void **state)
{
    static const char *const rows[] = {
        "0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10",   "0B0F7A0E-8A64-4A0A-B1C3-5F5F0E6D9F10",
        "0b0f7a0e8a644a0ab1c35f5f0e6d9f10",       "0B0f7a0e8a644a0aB1C35F5F0e6d9f10",
        "{0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10}", "urn:uuid:0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10",
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_uuid u = AST_UUID_NIL;
        if (!ast_uuid_parse(ast_str_c(rows[i]), &u) || !ast_uuid_eq(&u, &sample))
            fail_msg("%s", rows[i]);
    }
}

static void parse_refuses_everything_else(void **state)
{
    static const char *const rows[] = {
        "",
        "0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f1",
        "0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f100",
        "0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f1g",
        "0b0f7a0e-8a644-a0a-b1c3-5f5f0e6d9f10",
        "0b0f7a0e_8a64_4a0a_b1c3_5f5f0e6d9f10",
        "0b0f7a0e8a644a0ab1c35f5f0e6d9f1",
        "0b0f7a0e8a644a0ab1c35f5f0e6d9f1x",
        "{0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10",
        "0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10}",
        "(0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10)",
        "{0b0f7a0e8a644a0ab1c35f5f0e6d9f10}",
        "urn:uuid:",
        "urn:uuid:{0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10}",
        "urn:uid:0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10",
        " 0b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10",
        "+b0f7a0e-8a64-4a0a-b1c3-5f5f0e6d9f10",
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_uuid u = sample;
        if (ast_uuid_parse(ast_str_c(rows[i]), &u))
            fail_msg("accepted %s", rows[i]);
        assert_true(ast_uuid_eq(&u, &sample));
    }
}

static void v4_has_its_marks_and_is_random(void **state)
{
    (void)state;
    struct ast_uuid last = AST_UUID_NIL;
    uint8_t ever_set[16] = { 0 };
    for (int i = 0; i < 1000; i++) {
        struct ast_uuid u = ast_uuid_v4();
        assert_int_equal(u.b[6] & 0xf0, 0x40);
        assert_int_equal(u.b[8] & 0xc0, 0x80);
        assert_false(ast_uuid_eq(&u, &last));
        last = u;
        for (size_t k = 0; k < sizeof ever_set; k++)
            ever_set[k] |= u.b[k];
    }
    for (size_t k = 0; k < sizeof ever_set; k++)
        assert_int_equal(ever_set[k], k == 6 ? 0x4f : k == 8 ? 0xbf : 0xff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format_is_lower_case_with_hyphens),
        cmocka_unit_test(parse_takes_the_forms_of_the_standard_parser),
        cmocka_unit_test(parse_refuses_everything_else),
        cmocka_unit_test(v4_has_its_marks_and_is_random),
    };
    return cmocka_run_group_tests_name("uuid", tests, NULL, NULL);
}
