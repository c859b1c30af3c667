/* Pages against a reference that filters all rows, and cursors against what an attacker may send. */
#include "fixture.h"

#include "base/banned.h"

enum { ROWS = 400 };

static const char *const names[] = { "alice", "bob", "" };
static const char *const methods[] = { "GetStatus", "admin.agent.create", "odd/method \xc3\xa9",
                                       "Shutdown" };

struct known {
    const char *who, *method;
    uint64_t secs;
};

static void set_clock(struct fixture *f, int64_t ns)
{
    ast_lock(&f->audit->lock);
    f->audit->last_ns = ns;
    ast_unlock(&f->audit->lock);
}

/* Seeded, so a failure repeats. */
static unsigned draw(unsigned *seed, unsigned n)
{
    *seed = *seed * 1103515245u + 12345u;
    return (*seed >> 16) % n;
}

static void fill(struct fixture *f, struct known rows[static ROWS])
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    unsigned seed = 7;
    for (unsigned i = 0; i < ROWS; i++) {
        rows[i].who = names[draw(&seed, 3)];
        rows[i].method = methods[draw(&seed, 4)];
        if (i == 150) /* the clock was two hours ahead and is set right: an era begins */
            set_clock(f, ast_wall_ns() + 7200 * AST_NS_PER_SEC);
        add_row(f, rows[i].who, rows[i].method);
        struct ast_audit_entry e;
        row_text(f, i + 1, &text);
        assert_int_equal(ast_audit_entry_read(ast_buf_view(&text), &e, NULL), AST_OK);
        rows[i].secs = (uint64_t)(e.time_ns / AST_NS_PER_SEC);
    }
}

static bool matches(const struct known *k, const struct ast_audit_filter *q)
{
    return (!q->has_principal || ast_str_eq(q->principal, ast_str_c(k->who))) &&
           (!q->method.n || ast_str_eq(q->method, ast_str_c(k->method))) &&
           (!q->since || k->secs >= q->since) && (!q->until || k->secs <= q->until);
}

struct seen {
    uint64_t seq[ROWS + 1];
    unsigned n;
};

static bool see(void *arg, uint64_t seq, struct ast_str text)
{
    struct seen *s = arg;
    struct ast_audit_entry e;
    assert_int_equal(ast_audit_entry_read(text, &e, NULL), AST_OK);
    assert_true(s->n < ROWS);
    s->seq[s->n++] = seq;
    return true;
}

static void compare(struct fixture *f, const struct known rows[static ROWS],
                    const struct ast_audit_filter *filter, unsigned limit)
{
    struct seen expected = { .n = 0 }, got = { .n = 0 };
    char cursor[AST_AUDIT_MAX_CURSOR] = "";

    for (unsigned i = 0; i < ROWS; i++) {
        unsigned at = filter->oldest_first ? i : ROWS - 1 - i;
        if (matches(&rows[at], filter))
            expected.seq[expected.n++] = at + 1;
    }
    do {
        struct ast_audit_query q = {
            .filter = *filter, .cursor = ast_str_c(cursor), .limit = limit, .each = see, .arg = &got
        };
        struct ast_audit_page page;
        struct ast_err err = AST_ERR_INIT;
        if (ast_audit_query(f->audit, &q, &page, &err))
            fail_msg("query: %s", err.msg);
        assert_true(page.count <= limit);
        assert_int_equal(page.next[0] != 0, page.count == limit);
        memcpy(cursor, page.next, sizeof cursor);
    } while (cursor[0]);
    assert_int_equal(got.n, expected.n);
    assert_memory_equal(got.seq, expected.seq, sizeof got.seq[0] * got.n);
}

static void pages_are_those_of_a_walk_over_all_rows(void **state)
{
    struct fixture *f = *state;
    static struct known rows[ROWS];
    unsigned seed = 3, found = 0;

    fill(f, rows);
    uint64_t now = rows[0].secs;
    for (unsigned i = 0; i < 300; i++) {
        struct ast_audit_filter q = { .has_principal = draw(&seed, 2),
                                      .oldest_first = draw(&seed, 2) };
        if (q.has_principal)
            q.principal = ast_str_c(names[draw(&seed, 3)]);
        if (draw(&seed, 2))
            q.method = ast_str_c(methods[draw(&seed, 4)]);
        if (draw(&seed, 3) == 0)
            q.since = draw(&seed, 2) ? now + draw(&seed, 4) : now + 7000 + draw(&seed, 300);
        if (draw(&seed, 3) == 0)
            q.until = draw(&seed, 2) ? now + draw(&seed, 4) : now + 7000 + draw(&seed, 300);
        compare(f, rows, &q, 1 + draw(&seed, 50));
        found += q.since || q.until;
    }
    assert_true(found > 20);
}

static void unknown_names_and_methods_give_empty_pages(void **state)
{
    struct fixture *f = *state;
    struct seen got = { .n = 0 };
    struct ast_audit_page page;
    add_row(f, "alice", "GetStatus");
    const struct ast_audit_filter filters[] = {
        { .has_principal = true, .principal = AST_STR("alic") }, /* a prefix of a name is no name */
        { .method = AST_STR("Get") },
        { .method = AST_STR("GetStatus/") },
        { .since = UINT64_MAX },
        { .until = 1 },
        { .session = { { 1 } } },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(filters); i++) {
        struct ast_audit_query q = { .filter = filters[i], .limit = 10, .each = see, .arg = &got };
        assert_int_equal(ast_audit_query(f->audit, &q, &page, NULL), AST_OK);
        assert_int_equal(page.count, 0);
        assert_string_equal(page.next, "");
    }
    struct ast_audit_query bad = { .limit = 0, .each = see, .arg = &got };
    assert_int_equal(ast_audit_query(f->audit, &bad, &page, NULL), AST_E_INVALID);
    bad.limit = AST_AUDIT_MAX_PAGE + 1;
    assert_int_equal(ast_audit_query(f->audit, &bad, &page, NULL), AST_E_INVALID);
}

static void a_reader_follows_what_comes_later(void **state)
{
    struct fixture *f = *state;
    struct seen got = { .n = 0 };
    struct ast_audit_page page;
    for (int i = 0; i < 5; i++)
        add_row(f, "alice", "GetStatus");
    struct ast_audit_query q = { .limit = 3, .each = see, .arg = &got };
    assert_int_equal(ast_audit_query(f->audit, &q, &page, NULL), AST_OK);
    char at[AST_AUDIT_MAX_CURSOR];
    memcpy(at, page.newest, sizeof at);
    q = (struct ast_audit_query){ .filter.oldest_first = true,
                                  .cursor = ast_str_c(at),
                                  .limit = 3,
                                  .tail = true,
                                  .each = see,
                                  .arg = &got };
    got.n = 0;
    assert_int_equal(ast_audit_query(f->audit, &q, &page, NULL), AST_OK);
    assert_int_equal(page.count, 0);
    assert_string_equal(page.next, at);
    add_row(f, "bob", "GetStatus");
    assert_int_equal(ast_audit_query(f->audit, &q, &page, NULL), AST_OK);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.seq[0], 6);
}

static void a_row_is_found_by_its_id(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf got = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    struct ast_audit_entry e;
    bool found = false;
    add_row(f, "alice", "GetStatus");
    row_text(f, 1, &text);
    assert_int_equal(ast_audit_entry_read(ast_buf_view(&text), &e, NULL), AST_OK);
    assert_int_equal(ast_audit_get(f->audit, &e.id, &got, &found, NULL), AST_OK);
    assert_true(found && ast_str_eq(ast_buf_view(&got), ast_buf_view(&text)));
    e.id.b[0] ^= 1;
    assert_int_equal(ast_audit_get(f->audit, &e.id, &got, &found, NULL), AST_OK);
    assert_false(found);
}

static void a_cursor_is_good_for_its_own_query_only(void **state)
{
    struct fixture *f = *state;
    struct ast_audit_filter own = { .method = AST_STR("m"), .since = 5 };
    char text[AST_AUDIT_MAX_CURSOR], bad[AST_AUDIT_MAX_CURSOR];
    uint64_t seq = 0;
    const struct ast_audit_filter others[] = {
        { .method = AST_STR("n"), .since = 5 },
        { .method = AST_STR("m"), .since = 6 },
        { .method = AST_STR("m"), .since = 5, .until = 9 },
        { .method = AST_STR("m"), .since = 5, .has_principal = true },
        { .method = AST_STR("m"), .since = 5, .has_principal = true, .principal = AST_STR("a") },
        { .method = AST_STR("m"), .since = 5, .session = { { 1 } } },
    };
    static const char *const garbage[] = { "",
                                           "x",
                                           "1733000100_1",
                                           "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                                           "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                                           "=",
                                           "\xff\xff" };

    ast_audit_cursor_write(f->audit, &own, 77, text);
    assert_int_equal(ast_audit_cursor_read(f->audit, &own, ast_str_c(text), &seq, NULL), AST_OK);
    assert_int_equal(seq, 77);
    for (size_t i = 0; i < AST_ARRAY_LEN(others); i++)
        assert_int_equal(ast_audit_cursor_read(f->audit, &others[i], ast_str_c(text), &seq, NULL),
                         AST_E_INVALID);
    for (size_t i = 0; i < AST_ARRAY_LEN(garbage); i++)
        assert_int_equal(ast_audit_cursor_read(f->audit, &own, ast_str_c(garbage[i]), &seq, NULL),
                         AST_E_INVALID);
    /* Every character changed to every other one, and every length. */
    for (size_t i = 0; i < strlen(text); i++) {
        for (int c = 1; c < 256; c++) {
            memcpy(bad, text, sizeof bad);
            bad[i] = (char)c;
            bool is_same = bad[i] == text[i];
            assert_int_equal(ast_audit_cursor_read(f->audit, &own, ast_str_c(bad), &seq, NULL) ==
                                 AST_OK,
                             is_same);
        }
        assert_int_equal(ast_audit_cursor_read(f->audit, &own, ast_str_n(text, i), &seq, NULL),
                         AST_E_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        AUDIT_TEST(pages_are_those_of_a_walk_over_all_rows),
        AUDIT_TEST(unknown_names_and_methods_give_empty_pages),
        AUDIT_TEST(a_reader_follows_what_comes_later),
        AUDIT_TEST(a_row_is_found_by_its_id),
        AUDIT_TEST(a_cursor_is_good_for_its_own_query_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
