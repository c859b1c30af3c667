#include "fixture.h"

#include <pthread.h>

#include "base/banned.h"

static void c09_24_each_principal_has_a_chain_that_begins_with_zeros(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    static const char *const who[] = { "alice", "bob", "alice", "" };
    static const uint8_t zeros[AST_BLAKE3_BYTES];
    static const uint64_t counts[] = { 1, 1, 2, 1 };
    struct ast_audit_head head;
    struct ast_audit_entry e;
    uint64_t count = 0;

    for (size_t i = 0; i < AST_ARRAY_LEN(who); i++) {
        add_row(f, who[i], "GetStatus");
        row_text(f, i + 1, &text);
        assert_int_equal(ast_audit_entry_read(ast_buf_view(&text), &e, NULL), AST_OK);
        assert_true(ast_str_eq(ast_principal_str(&e.principal), ast_str_c(who[i])));
        assert_int_equal(memcmp(e.previous, zeros, sizeof zeros) == 0, counts[i] == 1);
        assert_int_equal(ast_audit_head(f->audit, &AST_UUID_NIL, ast_str_c(who[i]), &head, NULL),
                         AST_OK);
        assert_int_equal(head.count, counts[i]);
        assert_int_equal(head.seq, i + 1);
        assert_true(ast_uuid_eq(&head.id, &e.id));
    }
    assert_int_equal(ast_audit_count(f->audit, &AST_UUID_NIL, &count, NULL), AST_OK);
    assert_int_equal(count, 4);
    assert_string_equal(issues(f, NULL), "");
}

static void c09_25_chains_go_on_after_a_restart(void **state)
{
    struct fixture *f = *state;
    struct ast_audit_head head;

    for (int life = 0; life < 4; life++) {
        for (int i = 0; i < 3; i++)
            add_row(f, i % 2 ? "bob" : "alice", "GetStatus");
        fixture_close(f);
        fixture_open(f);
    }
    assert_string_equal(issues(f, NULL), "");
    assert_int_equal(ast_audit_head(f->audit, &AST_UUID_NIL, AST_STR("alice"), &head, NULL),
                     AST_OK);
    assert_int_equal(head.count, 8);
    assert_int_equal(head.seq, 12);
}

/* ---- many at once ---- */

enum { THREADS = 8, EACH = 250 };

struct tally {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned done, failed;
};

static void count_done(void *arg, enum ast_rc rc, const struct ast_err *err)
{
    struct tally *t = arg;
    (void)err;
    pthread_mutex_lock(&t->lock);
    t->done++;
    t->failed += rc != AST_OK;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

static void wait_for(struct tally *t, unsigned n)
{
    pthread_mutex_lock(&t->lock);
    while (t->done < n)
        pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

struct appender {
    pthread_t thread;
    struct fixture *f;
    struct tally *tally;
    unsigned number;
};

static void *append_many(void *arg)
{
    struct appender *me = arg;
    char who[16];
    for (unsigned i = 0; i < EACH; i++) {
        /* Each thread writes to its own chain, to a shared one and to the system's. */
        (void)snprintf(who, sizeof who, "agent%u", i % 3 ? me->number : 99);
        struct ast_audit_draft d =
            admin_draft(i % 5 ? ast_str_c(who) : AST_STR_NONE, AST_STR("GetStatus"));
        ast_audit_append(me->f->audit, &d, NULL, count_done, me->tally);
    }
    return NULL;
}

static bool count_row(void *arg, uint64_t seq, struct ast_str text)
{
    (void)seq, (void)text;
    ++*(unsigned *)arg;
    return true;
}

static unsigned count_listed(struct fixture *f)
{
    struct ast_audit_page page = { 0 };
    char cursor[AST_AUDIT_MAX_CURSOR] = "";
    unsigned rows = 0;
    do {
        struct ast_audit_query q = {
            .cursor = ast_str_c(cursor), .limit = 300, .each = count_row, .arg = &rows
        };
        assert_int_equal(ast_audit_query(f->audit, &q, &page, NULL), AST_OK);
        memcpy(cursor, page.next, sizeof cursor);
    } while (cursor[0]);
    return rows;
}

static void c09_27_concurrent_appends_leave_linear_chains_and_all_rows_listed(void **state)
{
    struct fixture *f = *state;
    struct tally t = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 };
    struct appender all[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        all[i] = (struct appender){ .f = f, .tally = &t, .number = i };
        assert_int_equal(pthread_create(&all[i].thread, NULL, append_many, &all[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(all[i].thread, NULL);
    wait_for(&t, THREADS * EACH);
    assert_int_equal(t.failed, 0);
    assert_string_equal(issues(f, NULL), "");
    assert_int_equal(count_listed(f), THREADS * EACH);
}

/* ---- failure ---- */

static void a_failed_write_is_told_and_the_chain_goes_on(void **state)
{
    struct fixture *f = *state;
    struct ast_audit_draft d = admin_draft(AST_STR("alice"), AST_STR("GetStatus"));
    AST_AUTO(ast_buf_done) struct ast_buf head = AST_BUF_INIT(1024);
    struct ast_err err = AST_ERR_INIT;
    struct audit_key key;
    bool found = false;

    add_row(f, "alice", "GetStatus");
    /* Somebody changes the stored end: the next row cannot be linked to it. */
    audit_key_chain(&key, &AST_UUID_NIL, AST_STR("alice"));
    assert_int_equal(
        ast_store_get(f->store, AUDIT_NS_HEADS, audit_key_str(&key), &head, &found, NULL), AST_OK);
    store_remove(f, AUDIT_NS_HEADS, audit_key_str(&key));
    assert_int_equal(ast_audit_append_wait(f->audit, &d, NULL, &err), AST_E_CONFLICT);
    assert_non_null(strstr(err.msg, "was changed from outside"));
    assert_int_equal(count_listed(f), 1); /* no trace of it */
    add_row(f, "bob", "GetStatus");       /* other chains are not held up */

    store_put(f, AUDIT_NS_HEADS, audit_key_str(&key), ast_buf_view(&head));
    add_row(f, "alice", "GetStatus");
    assert_string_equal(issues(f, NULL), "");
    assert_int_equal(count_listed(f), 3);
}

/* Holds the store's writer, so that rows pile up behind one that will fail. */
struct gate {
    struct ast_store_op op;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_entered, is_open;
};

static enum ast_rc gate_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                              struct ast_err *err)
{
    struct gate *g = AST_CONTAINER_OF(op, struct gate, op);
    (void)txn, (void)err;
    pthread_mutex_lock(&g->lock);
    g->is_entered = true;
    pthread_cond_broadcast(&g->changed);
    while (!g->is_open)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
    return AST_OK;
}

static void gate_done(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    (void)op, (void)rc, (void)err;
}

static void rows_behind_a_failed_batch_fail_and_no_chain_is_broken(void **state)
{
    struct fixture *f = *state;
    struct gate g = { .op = { .apply = gate_apply, .done = gate_done },
                      .lock = PTHREAD_MUTEX_INITIALIZER,
                      .changed = PTHREAD_COND_INITIALIZER };
    struct tally t = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 };
    struct ast_audit_draft alice = admin_draft(AST_STR("alice"), AST_STR("GetStatus"));
    struct ast_audit_draft bob = admin_draft(AST_STR("bob"), AST_STR("GetStatus"));
    AST_AUTO(ast_buf_done) struct ast_buf head = AST_BUF_INIT(1024);
    struct audit_key key;
    bool found = false;

    add_row(f, "alice", "GetStatus");
    add_row(f, "bob", "GetStatus");
    audit_key_chain(&key, &AST_UUID_NIL, AST_STR("alice"));
    assert_int_equal(
        ast_store_get(f->store, AUDIT_NS_HEADS, audit_key_str(&key), &head, &found, NULL), AST_OK);
    store_remove(f, AUDIT_NS_HEADS, audit_key_str(&key));

    ast_store_submit(f->store, &g.op);
    pthread_mutex_lock(&g.lock);
    while (!g.is_entered)
        pthread_cond_wait(&g.changed, &g.lock);
    pthread_mutex_unlock(&g.lock);
    ast_audit_append(f->audit, &alice, NULL, count_done, &t); /* the batch that fails */
    for (int i = 0; i < 20; i++)
        ast_audit_append(f->audit, i % 2 ? &bob : &alice, NULL, count_done, &t);
    pthread_mutex_lock(&g.lock);
    g.is_open = true;
    pthread_cond_broadcast(&g.changed);
    pthread_mutex_unlock(&g.lock);
    wait_for(&t, 21);
    assert_int_equal(t.failed, 21);
    assert_int_equal(count_listed(f), 2);

    store_put(f, AUDIT_NS_HEADS, audit_key_str(&key), ast_buf_view(&head));
    for (int i = 0; i < 4; i++)
        add_row(f, i % 2 ? "alice" : "bob", "GetStatus");
    assert_string_equal(issues(f, NULL), "");
    assert_int_equal(count_listed(f), 6);
}

static void too_many_waiting_rows_are_refused_and_those_before_are_kept(void **state)
{
    struct fixture *f = *state;
    struct gate g = { .op = { .apply = gate_apply, .done = gate_done },
                      .lock = PTHREAD_MUTEX_INITIALIZER,
                      .changed = PTHREAD_COND_INITIALIZER };
    struct tally t = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 };
    struct ast_audit_draft d = admin_draft(AST_STR("alice"), AST_STR("GetStatus"));
    enum { ROOM = 16384, MORE = 50 };

    ast_store_submit(f->store, &g.op);
    pthread_mutex_lock(&g.lock);
    while (!g.is_entered)
        pthread_cond_wait(&g.changed, &g.lock);
    pthread_mutex_unlock(&g.lock);
    for (int i = 0; i < ROOM + MORE; i++)
        ast_audit_append(f->audit, &d, NULL, count_done, &t);
    assert_int_equal(t.done, MORE); /* told at once: the writer is held */
    assert_int_equal(t.failed, MORE);
    pthread_mutex_lock(&g.lock);
    g.is_open = true;
    pthread_cond_broadcast(&g.changed);
    pthread_mutex_unlock(&g.lock);
    ast_audit_flow(f->audit); /* returns when half of them are gone */
    wait_for(&t, ROOM + MORE);
    assert_int_equal(t.failed, MORE);
    add_row(f, "alice", "GetStatus");
    assert_int_equal(count_listed(f), ROOM + 1);
    assert_string_equal(issues(f, NULL), "");
}

static void a_bad_draft_is_refused_at_once_and_leaves_no_trace(void **state)
{
    struct fixture *f = *state;
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf deep = AST_BUF_INIT(4096);
    struct ast_audit_draft d = admin_draft(AST_STR("no/name"), AST_STR("GetStatus"));

    assert_int_equal(ast_audit_append_wait(f->audit, &d, NULL, &err), AST_E_INVALID);
    /* Parameters so deep that the row around them could not be read again. */
    for (int i = 0; i < AST_JSON_MAX_DEPTH; i++)
        (void)ast_buf_add_byte(&deep, '[');
    for (int i = 0; i < AST_JSON_MAX_DEPTH; i++)
        (void)ast_buf_add_byte(&deep, ']');
    d = admin_draft(AST_STR("alice"), AST_STR("GetStatus"));
    d.action_values[3].text = ast_buf_view(&deep);
    assert_int_not_equal(ast_audit_append_wait(f->audit, &d, NULL, &err), AST_OK);
    assert_int_equal(count_listed(f), 0);
    add_row(f, "alice", "GetStatus");
    assert_string_equal(issues(f, NULL), "");
}

/* ---- intents ---- */

static unsigned count_intents(struct fixture *f);
static bool count_any(void *arg, struct ast_str key, struct ast_str value)
{
    (void)key, (void)value;
    ++*(unsigned *)arg;
    return true;
}
static unsigned count_intents(struct fixture *f)
{
    unsigned n = 0;
    assert_int_equal(
        ast_store_scan(f->store, AUDIT_NS_INTENTS, AST_STR_NONE, AST_STR_NONE, count_any, &n, NULL),
        AST_OK);
    return n;
}

static void c09_31_a_marker_goes_with_its_row_or_becomes_interrupted(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    struct ast_audit_draft d = admin_draft(AST_STR("alice"), AST_STR("InstallCapsule"));
    struct ast_uuid intent;
    uint64_t settled = 9;

    assert_int_equal(ast_audit_intend(f->audit, &d, &intent, NULL), AST_OK);
    assert_int_equal(count_intents(f), 1);
    assert_int_equal(ast_audit_append_wait(f->audit, &d, &intent, NULL), AST_OK);
    assert_int_equal(count_intents(f), 0);

    assert_int_equal(ast_audit_intend(f->audit, &d, &intent, NULL), AST_OK);
    fixture_close(f);
    fixture_open(f);
    assert_int_equal(ast_audit_settle(f->audit, &settled, NULL), AST_OK);
    assert_int_equal(settled, 1);
    assert_int_equal(count_intents(f), 0);
    row_text(f, 2, &text);
    assert_non_null(strstr(text.p, "\"method\":\"InstallCapsule\""));
    assert_non_null(strstr(text.p, "{\"status\":\"failure\",\"error\":\"interrupted\"}"));
    assert_int_equal(ast_audit_settle(f->audit, &settled, NULL), AST_OK);
    assert_int_equal(settled, 0);
    store_put(f, AUDIT_NS_INTENTS, AST_STR("11111111-2222-4333-8444-555555555555"), AST_STR("{]"));
    assert_int_equal(ast_audit_settle(f->audit, &settled, NULL), AST_OK); /* damaged: dropped */
    assert_int_equal(count_intents(f), 0);
    assert_string_equal(issues(f, NULL), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        AUDIT_TEST(c09_24_each_principal_has_a_chain_that_begins_with_zeros),
        AUDIT_TEST(c09_25_chains_go_on_after_a_restart),
        AUDIT_TEST(c09_27_concurrent_appends_leave_linear_chains_and_all_rows_listed),
        AUDIT_TEST(a_failed_write_is_told_and_the_chain_goes_on),
        AUDIT_TEST(rows_behind_a_failed_batch_fail_and_no_chain_is_broken),
        AUDIT_TEST(too_many_waiting_rows_are_refused_and_those_before_are_kept),
        AUDIT_TEST(a_bad_draft_is_refused_at_once_and_leaves_no_trace),
        AUDIT_TEST(c09_31_a_marker_goes_with_its_row_or_becomes_interrupted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
