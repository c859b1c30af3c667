#include "bus_test.h"

#include "bus/topic.h"

#include "base/banned.h"

#define A20 "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a"

/* Spec 04 §2.3, row by row. */
static const struct {
    const char *pattern, *topic;
    bool strict, subtree;
} rows[] = {
    { "user.v1.prompt", "user.v1.prompt", true, true },
    { "user.v1.prompt", "user.v1.prompt.extra", false, false },
    { "user.v1.prompt", "user.v1", false, false },
    { "user.v1.*", "user.v1.prompt", true, true },
    { "user.v1.*", "user.v1.prompt.retry", false, true },
    { "user.v1.*", "user.v1", false, false },
    { "a.b.*", "a.b.c.d.e.f", false, true },
    { "a.b.*", "a.c.b", false, false },
    { "tool.v1.execute.*.result", "tool.v1.execute.read_file.result", true, true },
    { "tool.v1.execute.*.result", "tool.v1.execute.result", false, false },
    { "tool.v1.execute.*.result", "tool.v1.execute.a.b.result", false, false },
    { "*.v1.prompt", "user.v1.prompt", true, true },
    { "*.b.*", "a.b.c", true, true },
    { "*.b.*", "a.b.c.d", false, true },
    { "*.b.*", "x.c.z", false, false },
    { "*", "ping", true, true },
    { "*", "a.b", false, false },
    { "*.*", "a.b", true, true },
    { "*.*", "a.b.c", false, true },
    { "*.*", "a", false, false },
    { "astrid.v1.admin.*.*", "astrid.v1.admin.quota", false, false },
    { "astrid.v1.admin.*.*", "astrid.v1.admin.agent.list", true, true },
    { "astrid.v1.admin.*.*", "astrid.v1.admin.auth.pair.issue", false, true },
    { "astrid.v1.*", "astrid.v1.audit.entry", false, true },
    { "astrid.*", "astrid.v1.audit.entry", false, true },
    { "astrid.v1.audit", "astrid.v1.audit.entry", false, false },
    { "astrid.v1.audit.entry", "astrid.v1.audit.entry", true, true },
    { "foo*.bar", "foox.bar", false, false },
    { "foo*.bar", "foo*.bar", true, true },
    { "a.b.c", "a.B.c", false, false },
    { "a.*", "a.", false, true },
    { "a.*.b", "a..b", false, true },
    { "", "", false, true },
    { "a.*", A20, false, true },
    { "a.*", A20 ".a", false, false },
    { "a.**", "a.b", false, false },
    { ".*", "a.b", false, false },
    { "a.*", "a.b.*", false, true },
    { "a.*", "a.*", true, true },
    { "a.b.*", "a.*", false, false },
    { "a.b", "a.*", false, false },
    { "a.*", "*", false, false },
    { "agent.v1.stream.delta", "agent.v1.stream", false, false },
};

static void c04_01_all_rows_of_the_conformance_table(void **state)
{
    (void)state;
    assert_int_equal(AST_ARRAY_LEN(rows), 43);
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_str p = ast_str_c(rows[i].pattern), t = ast_str_c(rows[i].topic);
        if (ast_topic_match_strict(p, t) != rows[i].strict ||
            ast_topic_match_subtree(p, t) != rows[i].subtree)
            fail_msg("row %zu: '%s' against '%s'", i + 1, rows[i].pattern, rows[i].topic);
    }
}

/* The index answers the same question as the matcher. */
static void c04_01_routes_follow_the_subtree_column(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_str pattern = ast_str_c(rows[i].pattern);
        struct ast_route_config cfg = { .patterns = &pattern,
                                        .pattern_count = 1,
                                        .label = AST_STR("t") };
        struct ast_route *route = NULL;
        assert_int_equal(ast_route_open(bus, &cfg, &route, NULL), AST_OK);
        publish(bus, rows[i].topic, "alice", "{}");
        if (ast_route_empty(route) == rows[i].subtree)
            fail_msg("row %zu: '%s' against '%s'", i + 1, rows[i].pattern, rows[i].topic);
        ast_route_close(route);
    }
    ast_bus_free(bus);
}

static void c04_02_one_pattern_binds_a_handler_less_widely_than_a_route(void **state)
{
    (void)state;
    struct ast_str p = AST_STR("llm.v1.stream.*");
    assert_true(ast_topic_match_strict(p, AST_STR("llm.v1.stream.x")));
    assert_false(ast_topic_match_strict(p, AST_STR("llm.v1.stream.x.y")));
    assert_true(ast_topic_match_subtree(p, AST_STR("llm.v1.stream.x")));
    assert_true(ast_topic_match_subtree(p, AST_STR("llm.v1.stream.x.y")));
}

static void c04_05_a_key_covers_what_lies_below_it_and_not_itself(void **state)
{
    (void)state;
    struct ast_str key = AST_STR("astrid.v1.admin.*");
    assert_true(ast_topic_match_subtree(key, AST_STR("astrid.v1.admin.auth.pair.issue")));
    assert_false(ast_topic_match_subtree(key, AST_STR("astrid.v1.admin")));
}

static void c01_41_a_trailing_star_is_one_or_more_a_middle_one_exactly_one(void **state)
{
    (void)state;
    assert_true(ast_topic_match_subtree(AST_STR("a.*"), AST_STR("a.b")));
    assert_true(ast_topic_match_subtree(AST_STR("a.*"), AST_STR("a.b.c")));
    assert_false(ast_topic_match_subtree(AST_STR("a.*"), AST_STR("a")));
    assert_true(ast_topic_match_subtree(AST_STR("a.*.c"), AST_STR("a.b.c")));
    assert_false(ast_topic_match_subtree(AST_STR("a.*.c"), AST_STR("a.b.b.c")));
    assert_false(ast_topic_match_subtree(AST_STR("a.*.c"), AST_STR("a.c")));
    assert_true(ast_topic_match_subtree(AST_STR(A20), AST_STR(A20)));
    assert_false(ast_topic_match_subtree(AST_STR(A20 ".a"), AST_STR(A20 ".a")));
}

static void segments_are_counted_and_checked(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t count;
        bool valid;
    } cases[] = {
        { "", 1, false },     { "a", 1, true },       { "a.b", 2, true },
        { ".", 2, false },    { "a.", 2, false },     { ".a", 2, false },
        { "a..b", 3, false }, { "a.b.c.d", 4, true }, { "...", 4, false },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        assert_int_equal(ast_topic_segment_count(ast_str_c(cases[i].text)), cases[i].count);
        assert_int_equal(ast_topic_segments_valid(ast_str_c(cases[i].text)), cases[i].valid);
    }
    assert_int_equal(ast_topic_segment_count(AST_STR_NONE), 1);
    assert_false(ast_topic_segments_valid(AST_STR_NONE));
}

static void c04_03_what_a_guest_may_publish_on(void **state)
{
    (void)state;
    static const struct {
        const char *topic;
        bool ok;
    } cases[] = {
        { "user.v1.prompt", true },
        { "a.b.c.d.e.f.g.h", true },
        { "a.b.c.d.e.f.g.h.i", false },
        { "a..b", false },
        { "", false },
        { ".a", false },
        { "a.", false },
        { "a.*", false },
        { "*", false },
        { "a.*.b", false },
        { "a.b*", true },
        { "a.**", true },
        { "Upper.Case x", true },
        { "gr\xc3\xbc\xc3\x9f.e", true },
        { "a.\x01", false },
        { "a\n.b", false },
        { "a.\x7f", false },
        { "a.\xc2\x85", false },
        { "a.\xc2\xa0", true },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++)
        if (ast_topic_publishable(ast_str_c(cases[i].topic)) != cases[i].ok)
            fail_msg("topic '%s'", cases[i].topic);
    assert_false(ast_topic_publishable(ast_str_n("a.\0", 3)));

    char longest[AST_TOPIC_MAX_BYTES + 1];
    memset(longest, 'a', sizeof longest);
    assert_true(ast_topic_publishable(ast_str_n(longest, AST_TOPIC_MAX_BYTES)));
    assert_false(ast_topic_publishable(ast_str_n(longest, AST_TOPIC_MAX_BYTES + 1)));
}

static void c04_14_what_a_guest_may_subscribe_to(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        bool ok;
    } cases[] = {
        { "a.*", true },
        { "*", true },
        { "a.b", true },
        { "a.*.b", false },
        { "*.a", false },
        { "a.*.*", false },
        { "*.*", false },
        { "a..b", false },
        { "", false },
        { "a.b*.c", true },
        { "a.b.c.d.e.f.g.*", true },
        { "a.b.c.d.e.f.g.h.*", false },
        { "a.\t", false },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++)
        if (ast_topic_subscribable(ast_str_c(cases[i].pattern)) != cases[i].ok)
            fail_msg("pattern '%s'", cases[i].pattern);
    char longest[AST_TOPIC_MAX_BYTES + 1];
    memset(longest, 'a', sizeof longest);
    assert_true(ast_topic_subscribable(ast_str_n(longest, AST_TOPIC_MAX_BYTES)));
    assert_false(ast_topic_subscribable(ast_str_n(longest, AST_TOPIC_MAX_BYTES + 1)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c04_01_all_rows_of_the_conformance_table),
        cmocka_unit_test(c04_01_routes_follow_the_subtree_column),
        cmocka_unit_test(c04_02_one_pattern_binds_a_handler_less_widely_than_a_route),
        cmocka_unit_test(c04_05_a_key_covers_what_lies_below_it_and_not_itself),
        cmocka_unit_test(c01_41_a_trailing_star_is_one_or_more_a_middle_one_exactly_one),
        cmocka_unit_test(segments_are_counted_and_checked),
        cmocka_unit_test(c04_03_what_a_guest_may_publish_on),
        cmocka_unit_test(c04_14_what_a_guest_may_subscribe_to),
    };
    return cmocka_run_group_tests_name("topic", tests, NULL, NULL);
}
