#include "bus_test.h"

#include "bus/queue_priv.h"

#include "base/banned.h"

#define KIB  1024u
#define MANY 20000u

/* What on_drop and on_starved reported. */
static struct {
    unsigned drops[BUS_DROP_REASONS];
    char last_topic[64];
    char starved[256]; /* "A B " */
} seen;

static void on_drop(void *arg, enum bus_drop why, const struct ast_msg *msg)
{
    seen.drops[why]++;
    snprintf(seen.last_topic, sizeof seen.last_topic, "%.*s", (int)msg->topic.n, msg->topic.p);
}

static void on_starved(void *arg, struct ast_str principal)
{
    size_t n = strlen(seen.starved);
    snprintf(seen.starved + n, sizeof seen.starved - n, "%.*s ", (int)principal.n, principal.p);
}

static void queues_init(struct bus_queues *qs)
{
    memset(&seen, 0, sizeof seen);
    bus_queues_init(qs);
    qs->on_drop = on_drop;
    qs->on_starved = on_starved;
}

static void push(struct bus_queues *qs, const char *topic, const char *principal, size_t cost)
{
    bus_queues_push(qs, msg_of_cost(topic, principal, cost));
}

static struct ast_msg *out[MANY];

/* The topics of out[0..n) joined by spaces; releases them. */
static const char *topics(size_t n)
{
    static char text[512];
    text[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        size_t at = strlen(text);
        snprintf(text + at, sizeof text - at, "%s%.*s", i ? " " : "", (int)out[i]->topic.n,
                 out[i]->topic.p);
        ast_msg_unref(out[i]);
    }
    return text;
}

static const char *drain(struct bus_queues *qs, size_t budget)
{
    return topics(bus_queues_drain(qs, budget, out, MANY));
}

static void fill_worked_example(struct bus_queues *qs)
{
    push(qs, "A1", "A", 10 * KIB);
    push(qs, "A2", "A", 10 * KIB);
    push(qs, "B1", "B", 10 * KIB);
    push(qs, "S1", "", 100);
}

/* Spec 04 §7.6. */
static void c04_22_the_worked_example(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    fill_worked_example(&qs);
    assert_string_equal(drain(&qs, 1048576), "A1 A2 B1 S1");
    assert_int_equal(qs.principals, 0);
    assert_string_equal(seen.starved, "");

    fill_worked_example(&qs);
    assert_string_equal(drain(&qs, 12000), "S1");
    assert_string_equal(seen.starved, "A B A B ");
    seen.starved[0] = '\0';
    assert_string_equal(drain(&qs, 12000), "A1");
    assert_string_equal(seen.starved, "B A B ");
    assert_int_equal(qs.principals, 2);
    assert_int_equal(qs.bytes, 20 * KIB);
    bus_queues_done(&qs);
}

static void draining_nothing_changes_nothing(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    assert_string_equal(drain(&qs, 1048576), "");
    push(&qs, "a", "p", 100);
    assert_string_equal(drain(&qs, 0), "");
    assert_int_equal(bus_queues_drain(&qs, 1048576, out, 0), 0);
    assert_int_equal(bus_queues_take_envelope(&qs, 1048576, out, 0), 0);
    assert_string_equal(drain(&qs, 99), ""); /* the head does not fit */
    assert_string_equal(seen.starved, "p ");
    assert_string_equal(drain(&qs, 100), "a");
    assert_null(bus_queues_take(&qs));
    bus_queues_done(&qs);
}

static void c04_20_five_thousand_principals_are_drained_at_once(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    char name[32];
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(name, sizeof name, "p%u", i);
        push(&qs, "t", name, 100);
    }
    assert_int_equal(qs.principals, 5000);
    assert_int_equal(bus_queues_drain(&qs, AST_ROUTE_BUDGET, out, MANY), 5000);
    topics(5000);
    assert_int_equal(qs.principals, 0);
    assert_int_equal(qs.bytes, 0);
    assert_true(qs.by_principal.n <= BUS_IDLE_KEPT); /* idle principals cost nothing */
    for (size_t i = 0; i < BUS_DROP_REASONS; i++)
        assert_int_equal(seen.drops[i], 0);
    bus_queues_done(&qs);
}

static void c04_21_order_within_a_principal_survives_any_budget(void **state)
{
    (void)state;
    struct bus_queues qs;
    uint64_t seed = 21;
    static const char *const who[] = { "a", "b", "c" };
    for (unsigned round = 0; round < 200; round++) {
        queues_init(&qs);
        uint64_t next[3] = { 0 }, expected[3] = { 0 };
        size_t queued = 0;
        for (unsigned step = 0; step < 60 || queued > 0; step++) {
            if (step < 60) {
                size_t w = random_next(&seed) % 3;
                struct ast_msg *m = msg_of_cost("t", who[w], 10 + random_next(&seed) % 9000);
                m->seq = next[w]++;
                bus_queues_push(&qs, m);
                queued++;
            }
            size_t budget = step < 60 ? random_next(&seed) % 20000 : AST_ROUTE_BUDGET, n = 0;
            switch (random_next(&seed) % 3) {
            case 0: n = bus_queues_drain(&qs, budget, out, random_next(&seed) % 8); break;
            case 1: n = bus_queues_take_envelope(&qs, budget, out, random_next(&seed) % 8); break;
            case 2: n = (out[0] = bus_queues_take(&qs)) != NULL; break;
            }
            queued -= n;
            for (size_t i = 0; i < n; i++) {
                size_t w = (size_t)(out[i]->principal.p[0] - 'a');
                assert_int_equal(out[i]->seq, expected[w]++);
                ast_msg_unref(out[i]);
            }
        }
        bus_queues_done(&qs);
    }
}

static void a_short_output_array_loses_nothing(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    push(&qs, "a1", "a", 10);
    push(&qs, "a2", "a", 10);
    push(&qs, "a3", "a", 10);
    push(&qs, "b1", "b", 10);
    assert_string_equal(topics(bus_queues_drain(&qs, 1000, out, 2)), "a1 a2");
    assert_string_equal(topics(bus_queues_drain(&qs, 1000, out, 2)), "b1 a3");
    assert_int_equal(qs.principals, 0);
    bus_queues_done(&qs);
}

/* Spec 04 §7.7. */
static void taking_one_rotates_the_principals(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    push(&qs, "a1", "a", 10);
    push(&qs, "a2", "a", 10);
    push(&qs, "a3", "a", 10);
    push(&qs, "b1", "b", 10);
    push(&qs, "s1", "", 10);
    static const char *const want[] = { "a1", "b1", "s1", "a2", "a3" };
    for (size_t i = 0; i < AST_ARRAY_LEN(want); i++) {
        AST_AUTO(ast_msg_unref) struct ast_msg *m = bus_queues_take(&qs);
        assert_view(m->topic, want[i]);
    }
    assert_null(bus_queues_take(&qs));
    bus_queues_done(&qs);
}

static void c04_58_an_envelope_holds_one_principal_and_they_alternate(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    for (unsigned i = 0; i < 3; i++) {
        push(&qs, i == 0 ? "a1" : i == 1 ? "a2" : "a3", "a", 400);
        push(&qs, i == 0 ? "b1" : i == 1 ? "b2" : "b3", "b", 400);
    }
    assert_string_equal(topics(bus_queues_take_envelope(&qs, 1000, out, MANY)), "a1 a2");
    assert_string_equal(topics(bus_queues_take_envelope(&qs, 1000, out, MANY)), "b1 b2");
    assert_string_equal(topics(bus_queues_take_envelope(&qs, 10, out, MANY)),
                        "a3"); /* at least one */
    assert_string_equal(topics(bus_queues_take_envelope(&qs, 1000, out, MANY)), "b3");
    assert_int_equal(bus_queues_take_envelope(&qs, 1000, out, MANY), 0);
    push(&qs, "c1", "c", 400);
    push(&qs, "c2", "c", 400);
    assert_string_equal(topics(bus_queues_take_envelope(&qs, 1000, out, 1)), "c1");
    assert_string_equal(topics(bus_queues_take_envelope(&qs, SIZE_MAX, out, MANY)), "c2");
    bus_queues_done(&qs);
}

static void c04_23_the_budget_is_never_passed(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    uint64_t seed = 23;
    static const char *const who[] = { "a", "b", "", "agent:x" };
    size_t pushed = 0;
    for (unsigned i = 0; i < 5000; i++, pushed++) {
        push(&qs, "t", who[random_next(&seed) % 4], 3 + random_next(&seed) % 40000);
        assert_true(qs.bytes <= AST_ROUTE_BUDGET);
    }
    assert_int_equal(qs.messages + seen.drops[BUS_DROP_BYTES], pushed);
    assert_true(seen.drops[BUS_DROP_BYTES] > 0);
    bus_queues_done(&qs);

    queues_init(&qs); /* exactly full is fine */
    push(&qs, "t1", "a", AST_ROUTE_BUDGET / 2);
    push(&qs, "t2", "a", AST_ROUTE_BUDGET / 2);
    assert_int_equal(seen.drops[BUS_DROP_BYTES], 0);
    push(&qs, "t3", "a", 4);
    assert_int_equal(seen.drops[BUS_DROP_BYTES], 1);
    assert_string_equal(seen.last_topic, "t1");
    bus_queues_done(&qs);
}

static void c04_24_a_message_over_the_budget_is_refused_and_evicts_nothing(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    push(&qs, "small", "a", 100);
    push(&qs, "big", "a", AST_ROUTE_BUDGET + 1);
    assert_int_equal(seen.drops[BUS_DROP_OVERSIZE], 1);
    assert_int_equal(qs.messages, 1);
    push(&qs, "fits", "b", AST_ROUTE_BUDGET);
    assert_int_equal(seen.drops[BUS_DROP_BYTES], 1);
    assert_string_equal(drain(&qs, AST_ROUTE_BUDGET), "fits");
    bus_queues_done(&qs);
}

static void c04_25_under_a_flood_the_last_message_of_each_principal_survives(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    char name[32];
    for (unsigned i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "p%u", i);
        push(&qs, "delta", name, 100);
        push(&qs, "delta", name, 100);
        push(&qs, "final", name, 100);
    }
    for (unsigned i = 0; i < 3000; i++)
        push(&qs, "flood", "flooder", 10 * KIB);
    size_t finals = 0, n = bus_queues_drain(&qs, AST_ROUTE_BUDGET, out, MANY);
    for (size_t i = 0; i < n; i++) {
        finals += ast_str_is(out[i]->topic, "final");
        ast_msg_unref(out[i]);
    }
    assert_int_equal(finals, 50);
    bus_queues_done(&qs);
}

/* Spec 04 §7.5: the oldest head of two or more first; then the oldest sole message. */
static void c04_25_sole_messages_go_last_and_oldest_first(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    size_t quarter = AST_ROUTE_BUDGET / 4;
    push(&qs, "sole1", "a", quarter);
    push(&qs, "many1", "b", quarter);
    push(&qs, "sole2", "c", quarter);
    push(&qs, "many2", "b", quarter);
    static const char *const victims[] = { "many1", "sole1", "sole2",
                                           "many2" }; /* many2 has become a sole one */
    for (size_t i = 0; i < AST_ARRAY_LEN(victims); i++) {
        char name[8] = { (char)('k' + i), 0 };
        push(&qs, "new", name, quarter);
        assert_string_equal(seen.last_topic, victims[i]);
    }
    assert_int_equal(qs.principals, 4); /* emptied queues are gone */
    bus_queues_done(&qs);
}

static void heads_age_by_their_own_enqueue_time(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    size_t eighth = AST_ROUTE_BUDGET / 8;
    static const char *const order[][2] = {
        { "a1", "a" }, { "b1", "b" }, { "a2", "a" }, { "a3", "a" },
        { "b2", "b" }, { "b3", "b" }, { "a4", "a" }, { "b4", "b" },
    };
    for (size_t i = 0; i < 8; i++)
        push(&qs, order[i][0], order[i][1], eighth);
    /* The head that follows an evicted one is as old as it is: bus order, not turn by turn. */
    static const char *const victims[] = { "a1", "b1", "a2", "a3", "b2", "b3" };
    for (size_t i = 0; i < AST_ARRAY_LEN(victims); i++) {
        char name[8] = { (char)('k' + i), 0 };
        push(&qs, "new", name, eighth);
        assert_string_equal(seen.last_topic, victims[i]);
    }
    bus_queues_done(&qs);
}

static void a_principal_keeps_its_newest_16384(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    push(&qs, "o", "other", 10);
    for (unsigned i = 0; i < AST_ROUTE_PER_PRINCIPAL + 5; i++) {
        struct ast_msg *m = msg_of_cost("t", "a", 20);
        m->seq = i;
        bus_queues_push(&qs, m);
        assert_int_equal(seen.drops[BUS_DROP_CAP],
                         i < AST_ROUTE_PER_PRINCIPAL ? 0 : i - AST_ROUTE_PER_PRINCIPAL + 1);
    }
    assert_int_equal(qs.messages, AST_ROUTE_PER_PRINCIPAL + 1);
    size_t n = bus_queues_drain(&qs, AST_ROUTE_BUDGET, out, MANY);
    assert_int_equal(n, AST_ROUTE_PER_PRINCIPAL + 1);
    assert_view(out[0]->topic, "o");
    assert_int_equal(out[1]->seq, 5);
    topics(n);
    assert_int_equal(seen.drops[BUS_DROP_BYTES], 0);
    bus_queues_done(&qs);
}

static void tiny_messages_of_many_principals_have_an_end(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    char name[32];
    for (unsigned i = 0; i < AST_ROUTE_MAX_MESSAGES + 1000; i++) {
        snprintf(name, sizeof name, "p%u", i);
        bus_queues_push(&qs, msg_with("t", name, "1"));
    }
    assert_int_equal(qs.messages, AST_ROUTE_MAX_MESSAGES);
    assert_int_equal(qs.principals, AST_ROUTE_MAX_MESSAGES);
    assert_int_equal(seen.drops[BUS_DROP_BYTES], 1000);
    bus_queues_done(&qs);
}

/* A consumer that keeps up costs no allocation: the same queues come back. */
static void idle_queues_are_reused(void **state)
{
    (void)state;
    struct bus_queues qs;
    queues_init(&qs);
    static const char *const who[] = { "a", "b", "" };
    for (unsigned i = 0; i < 300; i++) {
        push(&qs, "t", who[i % 3], 10);
        ast_msg_unref(bus_queues_take(&qs));
        assert_int_equal(qs.principals, 0);
    }
    assert_int_equal(qs.by_principal.n, 3);
    assert_int_equal(qs.idle_count, 3);
    bus_queues_done(&qs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c04_22_the_worked_example),
        cmocka_unit_test(draining_nothing_changes_nothing),
        cmocka_unit_test(c04_20_five_thousand_principals_are_drained_at_once),
        cmocka_unit_test(c04_21_order_within_a_principal_survives_any_budget),
        cmocka_unit_test(a_short_output_array_loses_nothing),
        cmocka_unit_test(taking_one_rotates_the_principals),
        cmocka_unit_test(c04_58_an_envelope_holds_one_principal_and_they_alternate),
        cmocka_unit_test(c04_23_the_budget_is_never_passed),
        cmocka_unit_test(c04_24_a_message_over_the_budget_is_refused_and_evicts_nothing),
        cmocka_unit_test(c04_25_under_a_flood_the_last_message_of_each_principal_survives),
        cmocka_unit_test(c04_25_sole_messages_go_last_and_oldest_first),
        cmocka_unit_test(heads_age_by_their_own_enqueue_time),
        cmocka_unit_test(a_principal_keeps_its_newest_16384),
        cmocka_unit_test(tiny_messages_of_many_principals_have_an_end),
        cmocka_unit_test(idle_queues_are_reused),
    };
    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
