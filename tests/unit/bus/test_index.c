#include "bus_test.h"

#include "bus/bus_priv.h"
#include "bus/topic.h"

#include "base/banned.h"

static struct ast_route *route_on(struct ast_bus *bus, const char *pattern, const char *scope,
                                  bool system)
{
    struct ast_str p = ast_str_c(pattern);
    struct ast_route_config cfg = { .patterns = &p,
                                    .pattern_count = 1,
                                    .label = AST_STR("t"),
                                    .scope = ast_str_c(scope),
                                    .scope_admits_system = system };
    struct ast_route *route = NULL;
    assert_int_equal(ast_route_open(bus, &cfg, &route, NULL), AST_OK);
    return route;
}

/* A text of few words, so that patterns and topics meet often. */
static void random_text(uint64_t *seed, bool is_pattern, char out[static 64])
{
    static const char *const words[] = { "a", "b", "", "*" };
    size_t segments = 1 + random_next(seed) % 5;
    out[0] = '\0';
    for (size_t i = 0; i < segments; i++) {
        size_t n = strlen(out);
        snprintf(out + n, 64 - n, "%s%s", i ? "." : "",
                 words[random_next(seed) % (is_pattern ? 4 : 3)]);
    }
}

/* Random routes come and go; each publish reaches exactly those that the matcher and the scope say. */
static void the_index_agrees_with_the_matcher(void **state)
{
    (void)state;
    enum { ROUTES = 60 };
    static const char *const principals[] = { "", "p", "q" };
    struct {
        struct ast_route *route;
        char pattern[64];
        const char *scope;
        bool system;
    } open[ROUTES] = { { 0 } };
    uint64_t seed = 20260611;
    struct ast_bus *bus = bus_new();
    for (unsigned round = 0; round < 20000; round++) {
        size_t i = random_next(&seed) % ROUTES;
        ast_route_close(open[i].route);
        random_text(&seed, true, open[i].pattern);
        open[i].scope = principals[random_next(&seed) % 3];
        open[i].system = random_next(&seed) % 2;
        open[i].route = route_on(bus, open[i].pattern, open[i].scope, open[i].system);

        char topic[64];
        random_text(&seed, false, topic);
        const char *who = principals[random_next(&seed) % 3];
        publish(bus, topic, who, "1");
        for (size_t k = 0; k < ROUTES; k++) {
            if (!open[k].route)
                continue;
            bool in_scope =
                !open[k].scope[0] || !strcmp(open[k].scope, who) || (!who[0] && open[k].system);
            bool want =
                in_scope && ast_topic_match_subtree(ast_str_c(open[k].pattern), ast_str_c(topic));
            AST_AUTO(ast_msg_unref) struct ast_msg *m = ast_route_take(open[k].route);
            if (want != (m != NULL) || !ast_route_empty(open[k].route))
                fail_msg("round %u: '%s' of '%s' against '%s' of '%s'", round, open[k].pattern,
                         open[k].scope, topic, who);
        }
    }
    for (size_t k = 0; k < ROUTES; k++)
        ast_route_close(open[k].route);
    ast_bus_free(bus); /* asserts that no node is left */
}

static void overlapping_patterns_of_one_route_deliver_once(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    struct ast_str patterns[] = { AST_STR("a.*"), AST_STR("a.b"), AST_STR("*.b"), AST_STR("a.b"),
                                  AST_STR("c") };
    struct ast_route_config cfg = { .patterns = patterns,
                                    .pattern_count = 5,
                                    .label = AST_STR("t") };
    struct ast_route *route = NULL;
    assert_int_equal(ast_route_open(bus, &cfg, &route, NULL), AST_OK);
    static const char *const topics[] = { "a.b", "x.b", "a.c", "c" };
    for (size_t i = 0; i < AST_ARRAY_LEN(topics); i++) {
        publish(bus, topics[i], "", "1");
        AST_AUTO(ast_msg_unref) struct ast_msg *m = ast_route_take(route);
        assert_non_null(m);
        assert_true(ast_route_empty(route));
    }
    ast_route_close(route);
    ast_bus_free(bus);
}

static void several_patterns_share_one_queue_in_bus_order(void **state)
{
    (void)state;
    struct ast_bus *bus = bus_new();
    struct ast_str patterns[] = { AST_STR("agent.v1.response"), AST_STR("agent.v1.stream.delta") };
    struct ast_route_config cfg = { .patterns = patterns,
                                    .pattern_count = 2,
                                    .label = AST_STR("gateway") };
    struct ast_route *route = NULL;
    assert_int_equal(ast_route_open(bus, &cfg, &route, NULL), AST_OK);
    for (unsigned i = 0; i < 20; i++)
        publish(bus, i % 3 ? "agent.v1.stream.delta" : "agent.v1.response", "alice", "1");
    for (uint64_t seq = 1; seq <= 20; seq++) {
        AST_AUTO(ast_msg_unref) struct ast_msg *m = ast_route_take(route);
        assert_int_equal(m->seq, seq);
    }
    ast_route_close(route);
    ast_bus_free(bus);
}

static void a_pattern_of_more_than_twenty_segments_matches_nothing(void **state)
{
    (void)state;
    static const char deep[] = "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18.19.20";
    struct ast_bus *bus = bus_new();
    struct ast_route *exact =
        route_on(bus, "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18.19.20", "", false);
    struct ast_route *below =
        route_on(bus, "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18.19.20.*", "", false);
    char deeper[80];
    snprintf(deeper, sizeof deeper, "%s.21", deep);
    publish(bus, deep, "", "1");
    publish(bus, deeper, "", "1");
    ast_msg_unref(ast_route_take(exact));
    assert_true(ast_route_empty(exact));
    assert_true(ast_route_empty(below));
    ast_route_close(exact);
    ast_route_close(below);
    ast_bus_free(bus);
}

/* More subscribers than a publish can note on its stack. */
static void hundreds_of_routes_get_the_same_message(void **state)
{
    (void)state;
    enum { MANY = 500 };
    struct ast_bus *bus = bus_new();
    struct ast_route *routes[MANY];
    for (size_t i = 0; i < MANY; i++)
        routes[i] = route_on(bus, i % 2 ? "a.b" : "a.*", "", false);
    struct ast_msg *m = ast_msg_ref(msg_with("a.b", "", "1"));
    ast_bus_publish(bus, m);
    assert_int_equal(atomic_load(&m->refs), MANY + 1); /* shared, not copied */
    for (size_t i = 0; i < MANY; i++) {
        AST_AUTO(ast_msg_unref) struct ast_msg *got = ast_route_take(routes[i]);
        assert_ptr_equal(got, m);
        ast_route_close(routes[i]);
    }
    ast_msg_unref(m);
    ast_bus_free(bus);
}

/* Ten thousand streams of other principals on one topic are not even looked at. */
static void foreign_scopes_are_not_visited(void **state)
{
    (void)state;
    struct bus_index index;
    assert_int_equal(bus_index_init(&index, NULL), AST_OK);
    enum { MANY = 10000 };
    struct bus_sink *sinks = calloc(MANY, sizeof *sinks);
    assert_non_null(sinks);
    struct ast_str pattern = AST_STR("agent.v1.response");
    char name[32];
    for (size_t i = 0; i < MANY; i++) {
        int n = snprintf(name, sizeof name, "p%zu", i);
        assert_int_equal(
            bus_sink_init(&sinks[i], NULL, &pattern, 1, ast_str_n(name, (size_t)n), NULL), AST_OK);
        assert_int_equal(bus_index_add(&index, &sinks[i], NULL), AST_OK);
    }
    struct bus_hits hits;
    bus_hits_init(&hits);
    struct ast_msg *m = msg_with("agent.v1.response", "p77", "1");
    bus_index_collect(&index, m, &hits);
    assert_int_equal(hits.n, 1);
    assert_ptr_equal(hits.v[0], &sinks[77]);
    ast_msg_unref(m);
    for (size_t i = 0; i < MANY; i++) {
        bus_index_remove(&index, &sinks[i]);
        bus_sink_done(&sinks[i]);
    }
    bus_index_done(&index);
    free(sinks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_index_agrees_with_the_matcher),
        cmocka_unit_test(overlapping_patterns_of_one_route_deliver_once),
        cmocka_unit_test(several_patterns_share_one_queue_in_bus_order),
        cmocka_unit_test(a_pattern_of_more_than_twenty_segments_matches_nothing),
        cmocka_unit_test(hundreds_of_routes_get_the_same_message),
        cmocka_unit_test(foreign_scopes_are_not_visited),
    };
    return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
