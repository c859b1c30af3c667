#include "base_test.h"

#include <unistd.h>

#include "base/random_priv.h"
#include "base/utf8_priv.h"

#include "base/banned.h"

static int sign(int v)
{
    return (v > 0) - (v < 0);
}

static void comparison_is_by_bytes_and_then_by_length(void **state)
{
    static const struct {
        const char *a, *b;
        int want;
    } rows[] = {
        { "", "", 0 },       { "", "a", -1 },   { "a", "", 1 },        { "a", "b", -1 },
        { "ab", "abc", -1 }, { "b", "abc", 1 }, { "\xff", "\x7f", 1 }, { "same", "same", 0 },
        { "Z", "a", -1 },    { "10", "9", -1 },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++)
        assert_int_equal(sign(ast_str_cmp(ast_str_c(rows[i].a), ast_str_c(rows[i].b))),
                         rows[i].want);
    assert_int_equal(ast_str_cmp(AST_STR_NONE, AST_STR("")), 0);
    assert_true(sign(ast_str_cmp(AST_STR("a\0b"), AST_STR("a\0c"))) < 0);
}

static void letters_compare_without_case_but_nothing_else_does(void **state)
{
    (void)state;
    assert_true(ast_str_eq_nocase(AST_STR("Content-TYPE"), AST_STR("content-type")));
    assert_false(ast_str_eq_nocase(AST_STR("a"), AST_STR("ab")));
    assert_false(ast_str_eq_nocase(AST_STR("["), AST_STR("{")));
    assert_false(ast_str_eq_nocase(AST_STR("\xc3\x84"), AST_STR("\xc3\xa4")));
    assert_true(ast_str_eq_nocase(AST_STR_NONE, AST_STR("")));
}

static void trim_takes_white_space_off_both_ends(void **state)
{
    (void)state;
    assert_view(ast_str_trim(AST_STR(" \t\r\n a b \v\f")), "a b");
    assert_view(ast_str_trim(AST_STR("  ")), "");
    assert_view(ast_str_trim(AST_STR_NONE), "");
}

static void find_says_where_or_that_it_is_absent(void **state)
{
    (void)state;
    assert_int_equal(ast_str_find_byte(AST_STR("a.b.c"), '.'), 1);
    assert_int_equal(ast_str_find_byte(AST_STR("abc"), '.'), AST_STR_NPOS);
    assert_int_equal(ast_str_find_byte(AST_STR_NONE, '.'), AST_STR_NPOS);
    assert_int_equal(ast_str_find(AST_STR("abcabd"), AST_STR("abd")), 3);
    assert_int_equal(ast_str_find(AST_STR("abc"), AST_STR("")), 0);
    assert_int_equal(ast_str_find(AST_STR_NONE, AST_STR("x")), AST_STR_NPOS);
}

static void split_keeps_empty_pieces(void **state)
{
    static const struct {
        const char *text;
        const char *pieces[5];
        size_t n;
    } rows[] = {
        { "a..b", { "a", "", "b" }, 3 }, { "", { "" }, 1 },
        { ".", { "", "" }, 2 },          { "abc", { "abc" }, 1 },
        { "a.b.", { "a", "b", "" }, 3 },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_str rest = ast_str_c(rows[i].text), piece;
        bool more = true;
        size_t n = 0;
        while (ast_str_split(&rest, &more, '.', &piece))
            assert_view(piece, rows[i].pieces[n++]);
        assert_int_equal(n, rows[i].n);
    }
}

static void from_and_first_stay_inside(void **state)
{
    (void)state;
    assert_view(ast_str_from(AST_STR("abc"), 1), "bc");
    assert_view(ast_str_from(AST_STR("abc"), 9), "");
    assert_view(ast_str_first(AST_STR("abc"), 2), "ab");
    assert_view(ast_str_first(AST_STR("abc"), 9), "abc");
    assert_true(ast_str_starts(AST_STR("abc"), AST_STR("ab")));
    assert_false(ast_str_starts(AST_STR("a"), AST_STR("ab")));
    assert_true(ast_str_ends(AST_STR("abc"), AST_STR("bc")));
    assert_false(ast_str_ends(AST_STR("c"), AST_STR("bc")));
}

static void decimal_is_strict(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        uint64_t want;
    } rows[] = {
        { "0", true, 0 },
        { "7", true, 7 },
        { "18446744073709551615", true, UINT64_MAX },
        { "18446744073709551616", false, 0 },
        { "99999999999999999999", false, 0 },
        { "184467440737095516150", false, 0 },
        { "", false, 0 },
        { "00", false, 0 },
        { "01", false, 0 },
        { "+1", false, 0 },
        { "-1", false, 0 },
        { " 1", false, 0 },
        { "1 ", false, 0 },
        { "1e3", false, 0 },
        { "0x1", false, 0 },
        { "\xd9\xa1", false, 0 }, /* an Arabic digit */
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        uint64_t v = 42;
        assert_int_equal(ast_str_to_u64(ast_str_c(rows[i].text), &v), rows[i].ok);
        assert_true(v == (rows[i].ok ? rows[i].want : 42));
    }
}

static void dup_copies_and_terminates(void **state)
{
    (void)state;
    AST_AUTO(ast_cfree) char *copy = ast_str_dup(ast_str_first(AST_STR("abcdef"), 3));
    assert_string_equal(copy, "abc");
    AST_AUTO(ast_cfree) char *empty = ast_str_dup(AST_STR_NONE);
    assert_string_equal(empty, "");
}

/* The definition, character by character, as a second opinion. */
static bool is_utf8_slowly(struct ast_str s)
{
    while (s.n) {
        size_t step;
        if (base_utf8_decode(s, &step) == BASE_UTF8_BAD)
            return false;
        s = ast_str_from(s, step);
    }
    return true;
}

static void utf8_accepts_characters_and_nothing_else(void **state)
{
    static const struct {
        const char *text;
        bool ok;
    } rows[] = {
        { "", true },
        { "plain", true },
        { "\x7f", true },
        { "\xc2\x80", true },
        { "\xdf\xbf", true },
        { "\xe0\xa0\x80", true },
        { "\xed\x9f\xbf", true },
        { "\xee\x80\x80", true },
        { "\xef\xbf\xbf", true },
        { "\xf0\x90\x80\x80", true },
        { "\xf4\x8f\xbf\xbf", true },
        { "\x80", false },
        { "\xbf", false },
        { "\xc0\x80", false },         /* overlong NUL */
        { "\xc1\xbf", false },         /* overlong */
        { "\xe0\x9f\xbf", false },     /* overlong */
        { "\xf0\x8f\xbf\xbf", false }, /* overlong */
        { "\xed\xa0\x80", false },     /* high surrogate */
        { "\xed\xbf\xbf", false },     /* low surrogate */
        { "\xf4\x90\x80\x80", false }, /* beyond U+10FFFF */
        { "\xf5\x80\x80\x80", false },
        { "\xfe", false },
        { "\xff", false },
        { "\xc2", false },
        { "\xe0\xa0", false },
        { "\xf0\x90\x80", false },
        { "\xe4\xb8\x96\xe7\x95", false },
        { "a\xc2\x41", false },
        { "\xc3\xa4\xe4\xb8\x96\xf0\x9f\x98\x80", true },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_str s = ast_str_c(rows[i].text);
        assert_int_equal(ast_str_is_utf8(s), rows[i].ok);
        assert_int_equal(is_utf8_slowly(s), rows[i].ok);
        /* The same at every place of a longer text, so that it crosses each block border. */
        for (size_t at = 0; at < 70; at++) {
            char text[100];
            memset(text, 'x', sizeof text);
            memcpy(text + at, s.p, s.n);
            assert_int_equal(ast_str_is_utf8((struct ast_str){ text, sizeof text }), rows[i].ok);
            assert_int_equal(ast_str_is_utf8((struct ast_str){ text, at + s.n }), rows[i].ok);
        }
    }
    assert_true(ast_str_is_utf8(AST_STR("a\0b")));
    assert_true(ast_str_is_utf8(AST_STR_NONE));
}

static void utf8_agrees_with_the_definition_for_every_short_sequence(void **state)
{
    (void)state;
    /* Every first and second byte; the rest from the borders of the ranges. */
    static const unsigned char tail[] = { 0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90,
                                          0x9f, 0xa0, 0xbf, 0xc2, 0xff };
    for (unsigned a = 0; a < 256; a++) {
        for (unsigned b = 0; b < 256; b++) {
            for (size_t c = 0; c < sizeof tail; c++) {
                for (size_t d = 0; d < sizeof tail; d++) {
                    unsigned char t[4] = { (unsigned char)a, (unsigned char)b, tail[c], tail[d] };
                    struct ast_str s = ast_str_n(t, sizeof t);
                    if (ast_str_is_utf8(s) != is_utf8_slowly(s))
                        fail_msg("%02x %02x %02x %02x", t[0], t[1], t[2], t[3]);
                }
            }
        }
    }
}

static void a_bad_sequence_is_stepped_over_in_one_piece(void **state)
{
    static const struct {
        const char *text;
        size_t step;
    } rows[] = {
        { "\xff", 1 },      { "\x80\x80", 1 },     { "\xc2", 1 },         { "\xe4\xb8", 2 },
        { "\xe4\xb8z", 2 }, { "\xf0\x9f\x98", 3 }, { "\xed\xa0\x80", 1 }, { "\xf0\x80\x80", 1 },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        size_t step = 0;
        assert_true(base_utf8_decode(ast_str_c(rows[i].text), &step) == BASE_UTF8_BAD);
        assert_int_equal(step, rows[i].step);
    }
    size_t step;
    assert_int_equal(base_utf8_decode(AST_STR("\xf0\x9f\x98\x80"), &step), 0x1f600);
    assert_int_equal(step, 4);
}

static void hash_depends_on_every_byte_and_on_length(void **state)
{
    (void)state;
    char text[100];
    memset(text, 'q', sizeof text);
    for (size_t n = 0; n <= sizeof text; n++) {
        struct ast_str s = { text, n };
        uint64_t h = ast_str_hash(s);
        assert_true(h == ast_str_hash(s));
        if (n) {
            struct ast_str shorter = { text, n - 1 };
            assert_true(h != ast_str_hash(shorter));
        }
        for (size_t i = 0; i < n; i++) {
            text[i] ^= 1;
            assert_true(ast_str_hash(s) != h);
            text[i] ^= 1;
        }
    }
}

static void hash_spreads_similar_keys(void **state)
{
    (void)state;
    /* Sequential names into 1024 buckets: 16 on average, far more would be a bad mix. */
    unsigned buckets[1024] = { 0 }, worst = 0;
    for (unsigned i = 0; i < 16 * 1024; i++) {
        char key[32];
        int n = snprintf(key, sizeof key, "agent.v1.topic.%u", i);
        unsigned *b = &buckets[ast_str_hash((struct ast_str){ key, (size_t)n }) & 1023];
        worst = AST_MAX(worst, ++*b);
    }
    assert_in_range(worst, 16, 48);
}

static void random_bytes_differ(void **state)
{
    (void)state;
    char a[32] = { 0 }, b[32] = { 0 };
    base_random(a, sizeof a);
    base_random(b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comparison_is_by_bytes_and_then_by_length),
        cmocka_unit_test(letters_compare_without_case_but_nothing_else_does),
        cmocka_unit_test(trim_takes_white_space_off_both_ends),
        cmocka_unit_test(find_says_where_or_that_it_is_absent),
        cmocka_unit_test(split_keeps_empty_pieces),
        cmocka_unit_test(from_and_first_stay_inside),
        cmocka_unit_test(decimal_is_strict),
        cmocka_unit_test(dup_copies_and_terminates),
        cmocka_unit_test(utf8_accepts_characters_and_nothing_else),
        cmocka_unit_test(utf8_agrees_with_the_definition_for_every_short_sequence),
        cmocka_unit_test(a_bad_sequence_is_stepped_over_in_one_piece),
        cmocka_unit_test(hash_depends_on_every_byte_and_on_length),
        cmocka_unit_test(hash_spreads_similar_keys),
        cmocka_unit_test(random_bytes_differ),
    };
    return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
