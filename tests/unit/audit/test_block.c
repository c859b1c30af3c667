/* How rows lie in the store: blocks, what damage does to them, and logs that were written before there were blocks. */
#include "fixture.h"

#include "base/banned.h"

struct found_value {
    char key[AUDIT_KEY_MAX];
    struct ast_buf value;
    unsigned n;
};

static bool take_value(void *arg, struct ast_str key, struct ast_str value)
{
    struct found_value *v = arg;
    assert_true(key.n < sizeof v->key);
    memcpy(v->key, key.p, key.n);
    v->key[key.n] = 0;
    ast_buf_reset(&v->value);
    assert_int_equal(ast_buf_add(&v->value, value), AST_OK);
    v->n++;
    return true;
}

/* The last value of the log. */
static void find_value(struct fixture *f, struct ast_str ns, struct found_value *ret)
{
    ret->n = 0;
    ret->value.max = 1u << 20;
    assert_int_equal(
        ast_store_scan(f->store, ns, AST_STR_NONE, AST_STR_NONE, take_value, ret, NULL), AST_OK);
}

static void c09_26_every_changed_byte_of_a_block_is_found(void **state)
{
    struct fixture *f = *state;
    struct found_value block = { .n = 0 };

    for (int i = 0; i < 4; i++)
        add_row(f, i == 2 ? "" : "alice", "GetStatus");
    find_value(f, AUDIT_NS_LOG, &block);
    assert_int_equal(block.n, 1); /* four rows, one value */
    assert_string_equal(issues(f, NULL), "");
    for (size_t i = 0; i < block.value.n; i++) {
        block.value.p[i] ^= 1;
        store_put(f, AUDIT_NS_LOG, ast_str_c(block.key), ast_buf_view(&block.value));
        block.value.p[i] ^= 1;
        if (!*issues(f, NULL))
            fail_msg("byte %zu of %zu", i, block.value.n);
    }
    for (size_t n = 0; n < block.value.n; n++) {
        store_put(f, AUDIT_NS_LOG, ast_str_c(block.key), ast_str_n(block.value.p, n));
        if (!*issues(f, NULL))
            fail_msg("cut to %zu of %zu", n, block.value.n);
    }
    store_put(f, AUDIT_NS_LOG, ast_str_c(block.key), ast_buf_view(&block.value));
    assert_string_equal(issues(f, NULL), "");
    ast_buf_done(&block.value);
}

static bool count_row(void *arg, uint64_t seq, struct ast_str text)
{
    (void)seq, (void)text;
    ++*(unsigned *)arg;
    return true;
}

static unsigned count_of(struct fixture *f, struct ast_audit_filter filter)
{
    struct ast_audit_page page;
    unsigned rows = 0;
    struct ast_audit_query q = {
        .filter = filter, .limit = AST_AUDIT_MAX_PAGE, .each = count_row, .arg = &rows
    };
    assert_int_equal(ast_audit_query(f->audit, &q, &page, NULL), AST_OK);
    return rows;
}

/* Damaged lists never make a page fail or lie about rows; they only miss some. */
static void damaged_lists_lose_rows_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct found_value list = { .n = 0 };
    struct ast_audit_filter filter = { .method = AST_STR("GetStatus") };

    for (int i = 0; i < 200; i++)
        add_row(f, "alice", "GetStatus");
    assert_int_equal(count_of(f, filter), 200);
    find_value(f, AUDIT_NS_INDEX, &list);
    for (size_t i = 0; i < list.value.n; i++) {
        char was = list.value.p[i];
        list.value.p[i] = (char)0xff;
        store_put(f, AUDIT_NS_INDEX, ast_str_c(list.key), ast_buf_view(&list.value));
        list.value.p[i] = was;
        filter.has_principal = true;
        filter.principal = AST_STR("alice");
        assert_true(count_of(f, filter) <= 200);
        filter.has_principal = false;
        assert_true(count_of(f, filter) <= 200);
        assert_int_equal(count_of(f, (struct ast_audit_filter){ .oldest_first = true }), 200);
    }
    ast_buf_done(&list.value);
}

/* One empty value a number, as form 1 had it. */
static void spread_lists(struct fixture *f)
{
    struct found_value list = { .n = 0 };
    find_value(f, AUDIT_NS_INDEX, &list);
    while (list.n) {
        uint64_t numbers[AUDIT_LIST_NUMBERS], first = audit_key_seq(ast_str_c(list.key));
        size_t n = audit_list_read(ast_buf_view(&list.value), first, numbers);
        struct audit_key key = { 0 };
        store_remove(f, AUDIT_NS_INDEX, ast_str_c(list.key));
        for (size_t i = 0; i < n; i++) {
            key.n = 0;
            audit_key_add(&key, ast_str_n(list.key, strlen(list.key) - AUDIT_SEQ_DIGITS));
            audit_key_add_seq(&key, numbers[i]);
            store_put(f, AST_STR("old:index"), audit_key_str(&key), AST_STR("x"));
        }
        find_value(f, AUDIT_NS_INDEX, &list);
    }
    find_value(f, AST_STR("old:index"), &list);
    while (list.n) {
        store_remove(f, AST_STR("old:index"), ast_str_c(list.key));
        store_put(f, AUDIT_NS_INDEX, ast_str_c(list.key), AST_STR_NONE);
        find_value(f, AST_STR("old:index"), &list);
    }
    ast_buf_done(&list.value);
}

static void c09_25_a_log_of_single_rows_goes_on_in_blocks(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf got = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    static const char *const listed = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
    struct ast_audit_filter alice = { .has_principal = true, .principal = AST_STR("alice") };
    struct audit_key key;
    struct ast_uuid id;
    bool found = false;

    for (int i = 0; i < 30; i++)
        add_row(f, i % 3 ? "alice" : "bob", i % 2 ? "GetStatus" : "Shutdown");
    fixture_close(f);
    fixture_open(f);
    explode(f);
    spread_lists(f);
    for (int i = 0; i < 30; i++)
        add_row(f, i % 3 ? "alice" : "bob", i % 2 ? "GetStatus" : "Shutdown");
    assert_string_equal(issues(f, NULL), "");
    for (int order = 0; order < 2; order++) {
        alice.oldest_first = order;
        alice.method = AST_STR_NONE;
        assert_int_equal(count_of(f, (struct ast_audit_filter){ .oldest_first = order }), 60);
        assert_int_equal(count_of(f, alice), 40);
        alice.method = AST_STR("GetStatus");
        assert_int_equal(count_of(f, alice), 20);
    }
    /* Ids of that time carry no number; a list named them. */
    row_text(f, 5, &text);
    assert_true(ast_uuid_parse(ast_str_c(listed), &id));
    memcpy(text.p + strlen("{\"id\":\""), listed, strlen(listed));
    put_row_text(f, 5, ast_buf_view(&text));
    audit_key_log(&key, &AST_UUID_NIL, 5);
    store_put(f, AST_STR("audit:ids"), ast_str_c(listed), audit_key_str(&key));
    assert_int_equal(ast_audit_get(f->audit, &id, &got, &found, NULL), AST_OK);
    assert_true(found && ast_str_eq(ast_buf_view(&got), ast_buf_view(&text)));
}

static void rows_that_come_one_by_one_take_less_than_a_kilobyte(void **state)
{
    struct fixture *f = *state;
    struct ast_store_stats stats;
    enum { SINGLE = 3000 };

    for (int i = 0; i < SINGLE; i++)
        add_row(f, i % 2 ? "alice" : "bob", i % 5 ? "GetStatus" : "admin.agent.create");
    ast_store_stats(f->store, &stats);
    if (stats.bytes_used > SINGLE * 1024ull)
        fail_msg("%llu bytes a row", (unsigned long long)stats.bytes_used / SINGLE);
}

static void ids_are_of_version_4_and_carry_their_number(void **state)
{
    static const uint64_t numbers[] = { 1, 2, 77, 1u << 31, (1ull << 62) - 1 };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(numbers); i++) {
        struct ast_uuid id, session = { { 9, 8, 7 } }, other = { { 9, 8, 6 } };
        uint64_t mask;
        audit_id_make(&session, &id, &mask);
        audit_id_seal(mask, numbers[i], id.b);
        assert_int_equal(id.b[6] >> 4, 4);
        assert_int_equal(id.b[8] >> 6, 2);
        assert_true(audit_id_seq(&session, &id) == numbers[i]);
        assert_true(audit_id_seq(&other, &id) != numbers[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        AUDIT_TEST(c09_26_every_changed_byte_of_a_block_is_found),
        AUDIT_TEST(damaged_lists_lose_rows_and_nothing_else),
        AUDIT_TEST(c09_25_a_log_of_single_rows_goes_on_in_blocks),
        AUDIT_TEST(rows_that_come_one_by_one_take_less_than_a_kilobyte),
        cmocka_unit_test(ids_are_of_version_4_and_carry_their_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
