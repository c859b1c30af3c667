#include "fixture.h"

#include <pthread.h>

#include "store/kv.h"

#include "base/banned.h"

#define ALICE AST_STR("alice:capsule:notes")
#define BOB   AST_STR("bob:capsule:notes")

static enum ast_rc run_kv(struct ast_store *s, struct ast_kv_op *op, bool guest,
                          struct ast_err *err)
{
    enum ast_rc rc = ast_kv_prepare(op, guest, err);
    return rc ? rc : ast_store_run(s, &op->op, err);
}

static void set(struct ast_store *s, struct ast_str ns, struct ast_str key, struct ast_str value)
{
    struct ast_err err = AST_ERR_INIT;
    if (ast_kv_set(s, ns, key, value, &err))
        fail_msg("set: %s", err.msg);
}

/* --- Keys and values ----------------------------------------------------------------------- */

static void c09_39_keys_are_checked(void **state)
{
    struct fixture *f = *state;
    static char a[300];
    memset(a, 'a', sizeof a);
    const struct {
        struct ast_str key;
        const char *error; /* NULL: accepted */
        bool is_readable;  /* a get of it is no error */
    } cases[] = {
        { AST_STR("k"), NULL, true },
        { AST_STR("name/J\xc3\xbcrgen B."), NULL, true },
        { { a, 256 }, NULL, true },
        { { a, 257 }, "invalid key: key must not be longer than 256 bytes", true },
        { AST_STR_NONE, "invalid key: key must not be empty", false },
        { AST_STR("a\0b"), "invalid key: key must not contain null bytes", false },
        { AST_STR("a\nb"), "invalid key: key must not contain control characters", true },
        { AST_STR("\x1f"), "invalid key: key must not contain control characters", true },
        { AST_STR("\x7f"), "invalid key: key must not contain control characters", true },
        { AST_STR("a\xc2\x85"), "invalid key: key must not contain control characters",
          true }, /* C1 */
        { AST_STR("a\xc2\xa0"), NULL, true },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_err err = AST_ERR_INIT;
        bool found;
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(10);
        assert_int_equal(ast_kv_check_key(cases[i].key, NULL),
                         cases[i].error ? AST_E_INVALID : AST_OK);
        assert_int_equal(ast_kv_set(f->store, ALICE, cases[i].key, AST_STR("v"), &err),
                         cases[i].error ? AST_E_INVALID : AST_OK);
        assert_string_equal(err.msg, cases[i].error ? cases[i].error : "");
        struct ast_kv_op cas = { .kind = AST_KV_CAS, .ns = ALICE, .key = cases[i].key };
        assert_int_equal(ast_kv_prepare(&cas, true, NULL), cases[i].error ? AST_E_INVALID : AST_OK);
        assert_int_equal(ast_kv_get(f->store, ALICE, cases[i].key, true, &out, &found, NULL),
                         cases[i].is_readable ? AST_OK : AST_E_INVALID);
        if (cases[i].is_readable)
            assert_int_equal(found, !cases[i].error);
    }
}

static enum ast_rc put_long_key(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    return ast_store_txn_put(txn, ALICE, *(struct ast_str *)arg, AST_STR("old"), err);
}

static void older_longer_keys_can_be_read_and_deleted(void **state)
{
    struct fixture *f = *state;
    static char a[300];
    memset(a, 'a', sizeof a);
    struct ast_str key = { a, sizeof a };
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(10);
    bool found = false;
    assert_int_equal(run_fn(f->store, put_long_key, &key, NULL), AST_OK);
    assert_int_equal(ast_kv_get(f->store, ALICE, key, true, &out, &found, NULL), AST_OK);
    assert_true(found);
    assert_int_equal(ast_kv_delete(f->store, ALICE, key, NULL), AST_OK);
    assert_null(value_of(f->store, ALICE, key));
}

static void values_have_a_limit_that_may_be_stricter(void **state)
{
    struct fixture *f = *state;
    static char value[AST_KV_MAX_VALUE + 1];
    static const struct {
        size_t n;
        uint64_t limit;
        enum ast_rc rc;
    } cases[] = {
        { AST_KV_MAX_VALUE, 0, AST_OK },
        { AST_KV_MAX_VALUE + 1, 0, AST_E_TOO_LARGE },
        { 0, 0, AST_OK },
        { 1 << 20, 1 << 20, AST_OK },
        { (1 << 20) + 1, 1 << 20, AST_E_TOO_LARGE },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_kv_op op = { .kind = AST_KV_SET,
                                .ns = ALICE,
                                .key = AST_STR("k"),
                                .value = ast_str_n(value, cases[i].n),
                                .value_limit = cases[i].limit };
        assert_int_equal(run_kv(f->store, &op, true, NULL), cases[i].rc);
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(sizeof value);
        bool found = false;
        if (cases[i].rc)
            continue;
        assert_int_equal(ast_kv_get(f->store, ALICE, AST_STR("k"), true, &out, &found, NULL),
                         AST_OK);
        assert_true(found && out.n == cases[i].n);
    }
}

static void delete_reports_and_forgives(void **state)
{
    struct fixture *f = *state;
    set(f->store, ALICE, AST_STR("k"), AST_STR("v"));
    struct ast_kv_op op = { .kind = AST_KV_DELETE, .ns = ALICE, .key = AST_STR("k") };
    assert_int_equal(run_kv(f->store, &op, true, NULL), AST_OK);
    assert_int_equal(op.ret_count, 1);
    assert_int_equal(run_kv(f->store, &op, true, NULL), AST_OK);
    assert_int_equal(op.ret_count, 0);
}

/* --- Namespaces ---------------------------------------------------------------------------- */

static void c05_34_c09_40_namespaces_are_disjoint(void **state)
{
    struct fixture *f = *state;
    static const char *principals[] = { "a", "ab", "alice", "bob" };
    static const char *capsules[] = { "a", "ab", "notes" };
    for (int step = 0; step < 3; step++)
        for (size_t p = 0; p < AST_ARRAY_LEN(principals); p++)
            for (size_t c = 0; c < AST_ARRAY_LEN(capsules); c++) {
                AST_AUTO(ast_buf_done) struct ast_buf ns = AST_BUF_INIT(AST_STORE_MAX_NS);
                char value[40];
                (void)snprintf(value, sizeof value, "%s+%s", principals[p], capsules[c]);
                assert_int_equal(
                    ast_kv_capsule_ns(ast_str_c(principals[p]), ast_str_c(capsules[c]), &ns),
                    AST_OK);
                if (step == 0)
                    set(f->store, ast_buf_view(&ns), AST_STR("same"), ast_str_c(value));
                if (step == 1)
                    assert_string_equal(value_of(f->store, ast_buf_view(&ns), AST_STR("same")),
                                        value);
                if (step == 2) {
                    struct ast_kv_op op = { .kind = AST_KV_CLEAR, .ns = ast_buf_view(&ns) };
                    assert_int_equal(run_kv(f->store, &op, true, NULL), AST_OK);
                    assert_int_equal(op.ret_count, 1); /* nobody else's clear took it */
                }
            }
}

struct keys {
    char text[400];
    size_t n, count, stop_after;
    char last[300];
};

static bool add_key(void *arg, struct ast_str key)
{
    struct keys *k = arg;
    struct ast_str last = ast_str_c(k->last);
    assert_true(!k->count || ast_str_cmp(last, key) < 0);
    (void)snprintf(k->last, sizeof k->last, AST_STR_FMT, AST_STR_ARG(key));
    if (k->n < sizeof k->text)
        k->n += (size_t)snprintf(k->text + k->n, sizeof k->text - k->n, AST_STR_FMT " ",
                                 AST_STR_ARG(key));
    k->count++;
    return k->count != k->stop_after;
}

static void c05_37_1025_keys_do_not_fit_one_listing_and_pages_visit_each_once(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 1025; i++) {
        char key[16];
        int n = snprintf(key, sizeof key, "p/%d", i);
        set(f->store, ALICE, ast_str_n(key, (size_t)n), AST_STR("v"));
        if (i == 1023) {
            struct keys all = { 0 };
            bool more = true;
            assert_int_equal(ast_kv_list(f->store, ALICE, AST_STR("p/"), AST_STR_NONE, 0, true,
                                         add_key, &all, &more, NULL),
                             AST_OK);
            assert_int_equal(all.count, 1024);
            assert_false(more); /* 1024 are one full listing */
        }
    }
    set(f->store, ALICE, AST_STR("q"), AST_STR("v")); /* outside of the prefix */
    static const size_t limits[] = { 0, 1, 7, 1024, 5000 };
    for (size_t i = 0; i < AST_ARRAY_LEN(limits); i++) {
        struct keys pages = { 0 };
        bool more = true;
        int rounds = 0;
        while (more) {
            char cursor[300];
            size_t before = pages.count;
            (void)snprintf(cursor, sizeof cursor, "%s", pages.last);
            assert_int_equal(ast_kv_list(f->store, ALICE, AST_STR("p/"), ast_str_c(cursor),
                                         limits[i], true, add_key, &pages, &more, NULL),
                             AST_OK);
            size_t limit = limits[i] == 0 || limits[i] > 1024 ? 1024 : limits[i];
            assert_int_equal(pages.count - before, more ? limit : (1025 - 1) % limit + 1);
            rounds++;
        }
        assert_int_equal(pages.count, 1025);
        if (limits[i] == 0)
            assert_int_equal(
                rounds,
                2); /* the first page says that there is more: `too-large` for kv-list-keys */
    }
}

static void lists_skip_what_is_not_utf8_and_stop_when_told(void **state)
{
    struct fixture *f = *state;
    set(f->store, ALICE, AST_STR("a"), AST_STR("v"));
    set(f->store, ALICE, AST_STR("b\xff"), AST_STR("v"));
    set(f->store, ALICE, AST_STR("c"), AST_STR_NONE);
    struct keys k = { 0 }, one = { .stop_after = 1 };
    bool more = true;
    assert_int_equal(
        ast_kv_list(f->store, ALICE, AST_STR_NONE, AST_STR_NONE, 2, true, add_key, &k, &more, NULL),
        AST_OK);
    assert_string_equal(k.text, "a c ");
    assert_false(more);
    assert_int_equal(ast_kv_list(f->store, ALICE, AST_STR_NONE, AST_STR_NONE, 2, true, add_key,
                                 &one, NULL, NULL),
                     AST_OK);
    assert_string_equal(one.text, "a ");
    assert_int_equal(ast_kv_list(f->store, ALICE, AST_STR("a\0"), AST_STR_NONE, 2, true, add_key,
                                 &k, &more, NULL),
                     AST_E_INVALID);
}

static void c05_38_secrets_are_hidden_from_guests(void **state)
{
    struct fixture *f = *state;
    struct ast_str secret = AST_STR("__secret:x");
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(10);
    bool found = true, more = true;
    set(f->store, ALICE, secret, AST_STR("hush"));
    set(f->store, ALICE, AST_STR("__secre"), AST_STR("1"));
    set(f->store, ALICE, AST_STR("__zebra"), AST_STR("2"));

    assert_int_equal(ast_kv_get(f->store, ALICE, secret, true, &out, &found, NULL), AST_OK);
    assert_false(found);
    struct keys guest = { 0 }, page = { 0 }, kernel = { 0 };
    assert_int_equal(ast_kv_list(f->store, ALICE, AST_STR_NONE, AST_STR_NONE, 0, true, add_key,
                                 &guest, &more, NULL),
                     AST_OK);
    assert_string_equal(guest.text, "__secre __zebra ");
    assert_int_equal(ast_kv_list(f->store, ALICE, AST_STR("__secret"), AST_STR_NONE, 1, true,
                                 add_key, &page, &more, NULL),
                     AST_OK);
    assert_string_equal(page.text, "");
    assert_false(more); /* not even "there is more" gives it away */

    static const enum ast_kv_kind kinds[] = { AST_KV_SET, AST_KV_DELETE, AST_KV_CAS };
    for (size_t i = 0; i < AST_ARRAY_LEN(kinds); i++) {
        struct ast_kv_op op = {
            .kind = kinds[i], .ns = ALICE, .key = secret, .value = AST_STR("mine")
        };
        assert_int_equal(run_kv(f->store, &op, true, NULL), AST_E_INVALID);
    }
    static const struct ast_str prefixes[] = { { "__secret:", 9 },
                                               { "__secret:x", 10 },
                                               { "", 0 } };
    static const uint64_t removed[] = { 0, 0, 2 };
    for (size_t i = 0; i < AST_ARRAY_LEN(prefixes); i++) {
        struct ast_kv_op op = { .kind = AST_KV_CLEAR, .ns = ALICE, .key = prefixes[i] };
        assert_int_equal(run_kv(f->store, &op, true, NULL), AST_OK);
        assert_int_equal(op.ret_count, removed[i]);
    }
    /* The kernel sees and changes it. */
    assert_int_equal(ast_kv_get(f->store, ALICE, secret, false, &out, &found, NULL), AST_OK);
    assert_true(found);
    assert_int_equal(ast_kv_list(f->store, ALICE, AST_STR_NONE, AST_STR_NONE, 0, false, add_key,
                                 &kernel, &more, NULL),
                     AST_OK);
    assert_string_equal(kernel.text, "__secret:x ");
    struct ast_kv_op op = { .kind = AST_KV_CLEAR, .ns = ALICE };
    assert_int_equal(run_kv(f->store, &op, false, NULL), AST_OK);
    assert_int_equal(op.ret_count, 1);
}

/* --- Compare and swap ---------------------------------------------------------------------- */

static void c05_36_cas_compares_presence_and_bytes(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *stored, *expected, *left; /* NULL: absent, or "must be absent" */
        enum ast_rc rc;
    } cases[] = {
        { NULL, NULL, "new", AST_OK },
        { "", NULL, "", AST_E_CONFLICT }, /* an empty value is there */
        { "v", NULL, "v", AST_E_CONFLICT },
        { NULL, "v", NULL, AST_E_CONFLICT },
        { NULL, "", NULL, AST_E_CONFLICT },
        { "", "", "new", AST_OK },
        { "v", "v", "new", AST_OK },
        { "v", "w", "v", AST_E_CONFLICT },
        { "v", "vv", "v", AST_E_CONFLICT },
        { "vv", "v", "vv", AST_E_CONFLICT },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_err err = AST_ERR_INIT;
        if (cases[i].stored)
            set(f->store, ALICE, AST_STR("k"), ast_str_c(cases[i].stored));
        else
            assert_int_equal(ast_kv_delete(f->store, ALICE, AST_STR("k"), NULL), AST_OK);
        struct ast_kv_op op = { .kind = AST_KV_CAS,
                                .ns = ALICE,
                                .key = AST_STR("k"),
                                .value = AST_STR("new"),
                                .expected = ast_str_c(cases[i].expected),
                                .has_expected = cases[i].expected != NULL };
        assert_int_equal(run_kv(f->store, &op, true, &err), cases[i].rc);
        const char *left = value_of(f->store, ALICE, AST_STR("k"));
        if (!cases[i].left)
            assert_null(left);
        else
            assert_string_equal(left, cases[i].left);
    }
}

struct contender {
    struct ast_store *store;
    const char *expected; /* NULL: create */
    char value[8];
    pthread_barrier_t *together;
    enum ast_rc rc;
};

static void *contend(void *arg)
{
    struct contender *c = arg;
    struct ast_kv_op op = { .kind = AST_KV_CAS,
                            .ns = ALICE,
                            .key = AST_STR("k"),
                            .value = ast_str_c(c->value),
                            .expected = ast_str_c(c->expected),
                            .has_expected = c->expected != NULL };
    pthread_barrier_wait(c->together);
    c->rc = run_kv(c->store, &op, true, NULL);
    return NULL;
}

static void c05_35_c09_39_of_100_equal_swaps_exactly_one_succeeds(void **state)
{
    struct fixture *f = *state;
    enum { N = 100 };
    static const char *expected[] = { NULL, "start" };
    for (size_t round = 0; round < AST_ARRAY_LEN(expected); round++) {
        static struct contender c[N];
        pthread_t threads[N];
        pthread_barrier_t together;
        pthread_barrier_init(&together, NULL, N);
        if (expected[round])
            set(f->store, ALICE, AST_STR("k"), ast_str_c(expected[round]));
        for (int i = 0; i < N; i++) {
            c[i] = (struct contender){ f->store, expected[round], "", &together, AST_OK };
            (void)snprintf(c[i].value, sizeof c[i].value, "w%d", i);
            assert_int_equal(pthread_create(&threads[i], NULL, contend, &c[i]), 0);
        }
        int won = -1, lost = 0;
        for (int i = 0; i < N; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < N; i++) {
            if (c[i].rc == AST_OK) {
                assert_int_equal(won, -1);
                won = i;
            }
            lost += c[i].rc == AST_E_CONFLICT;
        }
        assert_true(won >= 0);
        assert_int_equal(lost, N - 1);
        assert_string_equal(value_of(f->store, ALICE, AST_STR("k")), c[won].value);
        pthread_barrier_destroy(&together);
    }
}

/* One of several threads that change the same rows. */
struct mixer {
    struct ast_store *store;
    unsigned seed;
    int successes; /* swaps that were told they had won */
    bool failed;
};

static void *mix(void *arg)
{
    struct mixer *m = arg;
    for (int i = 0; i < 200; i++) {
        char counter[16];
        AST_AUTO(ast_buf_done) struct ast_buf seen = AST_BUF_INIT(16);
        bool found = false;
        if (ast_kv_get(m->store, ALICE, AST_STR("sum"), true, &seen, &found, NULL))
            m->failed = true;
        uint64_t n = 0;
        if (found && !ast_str_to_u64(ast_buf_view(&seen), &n))
            m->failed = true;
        int len = snprintf(counter, sizeof counter, "%ju", (uintmax_t)n + 1);
        struct ast_kv_op op = { .kind = AST_KV_CAS,
                                .ns = ALICE,
                                .key = AST_STR("sum"),
                                .value = ast_str_n(counter, (size_t)len),
                                .expected = ast_buf_view(&seen),
                                .has_expected = found };
        enum ast_rc rc = run_kv(m->store, &op, true, NULL);
        if (rc && rc != AST_E_CONFLICT)
            m->failed = true;
        m->successes += !rc;
    }
    return NULL;
}

static void swaps_that_count_never_lose_one(void **state)
{
    struct fixture *f = *state;
    enum { N = 8 };
    struct mixer m[N];
    pthread_t threads[N];
    int sum = 0;
    for (int i = 0; i < N; i++) {
        m[i] = (struct mixer){ .store = f->store };
        assert_int_equal(pthread_create(&threads[i], NULL, mix, &m[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        assert_false(m[i].failed);
        sum += m[i].successes;
    }
    char text[16];
    (void)snprintf(text, sizeof text, "%d", sum);
    assert_string_equal(value_of(f->store, ALICE, AST_STR("sum")), text);
}

/* --- Quota --------------------------------------------------------------------------------- */

static uint64_t usage(struct ast_store *s, const char *principal)
{
    uint64_t bytes = 0;
    assert_int_equal(ast_kv_usage(s, ast_str_c(principal), &bytes, NULL), AST_OK);
    return bytes;
}

static bool sum_row(void *arg, struct ast_str ns, struct ast_str key, struct ast_str value)
{
    (void)ns;
    *(uint64_t *)arg += key.n + value.n;
    return true;
}

static void the_counter_follows_every_change(void **state)
{
    struct fixture *f = *state;
    struct ast_str other = AST_STR("alice:capsule:other"), system_ns = AST_STR("system:identity");
    struct ast_str home = AST_STR("system:capsule:notes"); /* of a principal called "system" */
    struct ast_kv_op clear = { .kind = AST_KV_CLEAR, .ns = ALICE, .key = AST_STR("p/") };
    struct ast_kv_op cas = {
        .kind = AST_KV_CAS, .ns = ALICE, .key = AST_STR("c"), .value = AST_STR("12")
    };
    struct ast_kv_op purge = { .kind = AST_KV_PURGE, .ns = AST_STR("alice") };

    assert_int_equal(usage(f->store, "alice"), 0);
    set(f->store, ALICE, AST_STR("key"), AST_STR("12345"));
    assert_int_equal(usage(f->store, "alice"), 8);
    set(f->store, ALICE, AST_STR("key"), AST_STR("54321"));
    assert_int_equal(usage(f->store, "alice"), 8);
    set(f->store, ALICE, AST_STR("key"), AST_STR_NONE);
    assert_int_equal(usage(f->store, "alice"), 3);
    set(f->store, other, AST_STR("p/1"), AST_STR("1"));
    set(f->store, ALICE, AST_STR("p/1"), AST_STR("1"));
    set(f->store, ALICE, AST_STR("p/2"), AST_STR("22"));
    assert_int_equal(usage(f->store, "alice"), 3 + 4 + 4 + 5);
    assert_int_equal(run_kv(f->store, &clear, true, NULL), AST_OK);
    assert_int_equal(usage(f->store, "alice"), 3 + 4);
    assert_int_equal(run_kv(f->store, &cas, true, NULL), AST_OK);
    assert_int_equal(usage(f->store, "alice"), 3 + 4 + 3);
    assert_int_equal(ast_kv_delete(f->store, ALICE, AST_STR("key"), NULL), AST_OK);
    assert_int_equal(ast_kv_delete(f->store, ALICE, AST_STR("key"), NULL), AST_OK);
    assert_int_equal(usage(f->store, "alice"), 4 + 3);
    uint64_t sum = 0;
    assert_int_equal(ast_store_each(f->store, AST_STR("alice:"), sum_row, &sum, NULL), AST_OK);
    assert_int_equal(sum, 4 + 3);

    set(f->store, BOB, AST_STR("k"), AST_STR("v"));
    set(f->store, system_ns, AST_STR("user/1"), AST_STR("{}")); /* nobody pays */
    set(f->store, home, AST_STR("k"), AST_STR("vv"));
    assert_int_equal(usage(f->store, "system"), 3);
    assert_int_equal(usage(f->store, "bob"), 2);
    assert_int_equal(run_kv(f->store, &purge, false, NULL), AST_OK);
    assert_int_equal(purge.ret_count, 2);
    assert_int_equal(usage(f->store, "alice"), 0);
    assert_int_equal(usage(f->store, "bob"), 2);
    assert_null(value_of(f->store, AST_KV_USAGE_NS, AST_STR("alice")));
    assert_non_null(value_of(f->store, system_ns, AST_STR("user/1")));
}

static void quota_stops_growth_but_not_shrinking(void **state)
{
    struct fixture *f = *state;
    static char v[200];
    static const struct {
        struct ast_str ns, key;
        size_t value_n;
        enum ast_rc rc;
        uint64_t usage; /* afterwards */
    } cases[] = {
        /* quota 100 */
        { AST_STR("alice:capsule:a"), AST_STR("k1"), 58, AST_OK, 60 },
        { AST_STR("alice:capsule:b"), AST_STR("k2"), 39, AST_E_QUOTA,
          60 }, /* all namespaces together */
        { AST_STR("alice:capsule:b"), AST_STR("k2"), 38, AST_OK, 100 },
        { AST_STR("alice:capsule:b"), AST_STR("k2"), 39, AST_E_QUOTA, 100 },
        { AST_STR("alice:capsule:b"), AST_STR("k2"), 38, AST_OK, 100 }, /* the same size */
        { AST_STR("alice:capsule:a"), AST_STR("x"), 0, AST_E_QUOTA, 100 },
        { AST_STR("bob:capsule:a"), AST_STR("x"), 99, AST_OK, 100 }, /* another principal */
        { AST_STR("alice:capsule:a"), AST_STR("k1"), 10, AST_OK, 52 },
        { AST_STR("alice:capsule:a"), AST_STR("k1"), 59, AST_E_QUOTA, 52 },
        { AST_STR("alice:capsule:a"), AST_STR("k1"), 58, AST_OK, 100 },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_kv_op op = { .kind = i % 2 ? AST_KV_SET : AST_KV_CAS,
                                .ns = cases[i].ns,
                                .key = cases[i].key,
                                .value = ast_str_n(v, cases[i].value_n),
                                .quota_bytes = 100 };
        AST_AUTO(ast_buf_done) struct ast_buf old = AST_BUF_INIT(200);
        assert_int_equal(ast_store_get(f->store, op.ns, op.key, &old, &op.has_expected, NULL),
                         AST_OK);
        op.expected = ast_buf_view(&old);
        assert_int_equal(run_kv(f->store, &op, true, NULL), cases[i].rc);
        struct ast_str owner = ast_str_first(cases[i].ns, ast_str_find_byte(cases[i].ns, ':'));
        char name[10];
        (void)snprintf(name, sizeof name, AST_STR_FMT, AST_STR_ARG(owner));
        assert_int_equal(usage(f->store, name), cases[i].usage);
    }
    /* A lowered quota: shrinking passes although the rest is still above it. */
    struct ast_kv_op op = { .kind = AST_KV_SET,
                            .ns = AST_STR("alice:capsule:a"),
                            .key = AST_STR("k1"),
                            .value = ast_str_n(v, 50),
                            .quota_bytes = 10 };
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(run_kv(f->store, &op, true, &err), AST_OK);
    op.value.n++;
    assert_int_equal(run_kv(f->store, &op, true, &err), AST_E_QUOTA);
    assert_string_equal(err.msg, "quota exceeded: 92 of 10 bytes are in use, 1 more are needed");
}

static enum ast_rc drop_counter(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    (void)arg;
    return ast_store_txn_delete(txn, AST_KV_USAGE_NS, AST_STR("alice"), NULL, err);
}

static enum ast_rc damage_counter(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    (void)arg;
    return ast_store_txn_put(txn, AST_KV_USAGE_NS, AST_STR("alice"), AST_STR("odd"), err);
}

static void an_absent_counter_is_counted_again(void **state)
{
    struct fixture *f = *state;
    enum ast_rc (*const spoil[])(struct ast_store_txn *, void *,
                                 struct ast_err *) = { drop_counter, damage_counter };
    for (size_t i = 0; i < AST_ARRAY_LEN(spoil); i++) {
        struct ast_kv_op clear = { .kind = AST_KV_CLEAR, .ns = ALICE, .key = AST_STR("c") };
        set(f->store, ALICE, AST_STR("a"), AST_STR("1"));
        set(f->store, ALICE, AST_STR("b"), AST_STR("22"));
        set(f->store, ALICE, AST_STR("c"), AST_STR("333"));
        set(f->store, AST_STR("alice:capsule:x"), AST_STR("d"), AST_STR("4444"));
        assert_int_equal(run_fn(f->store, spoil[i], NULL, NULL), AST_OK);
        assert_int_equal(usage(f->store, "alice"), 2 + 3 + 4 + 5);
        assert_int_equal(ast_kv_delete(f->store, ALICE, AST_STR("b"), NULL), AST_OK);
        assert_int_equal(run_kv(f->store, &clear, true, NULL), AST_OK);
        assert_int_equal(usage(f->store, "alice"), 2 + 5);
        set(f->store, ALICE, AST_STR("a"), AST_STR("11"));
        assert_int_equal(usage(f->store, "alice"), 3 + 5);
        uint64_t sum = 0;
        assert_int_equal(ast_store_each(f->store, AST_STR("alice:"), sum_row, &sum, NULL), AST_OK);
        assert_int_equal(sum, 3 + 5);
    }
}

/* Random changes by several threads: at the end the counter equals the sum. */
static void *scramble(void *arg)
{
    struct mixer *m = arg;
    static char v[3000];
    for (int i = 0; i < 400; i++) {
        char key[8];
        m->seed = m->seed * 1103515245 + 12345;
        unsigned r = m->seed >> 8;
        int n = snprintf(key, sizeof key, "%u/%u", r % 3, r / 3 % 5);
        struct ast_kv_op op = { .kind = (enum ast_kv_kind)(r / 16 % 4),
                                .ns = r & 1 ? ALICE : AST_STR("alice:capsule:x"),
                                .key = ast_str_n(key, (size_t)n),
                                .value = ast_str_n(v, r / 64 % sizeof v),
                                .quota_bytes = 20000 };
        if (op.kind == AST_KV_CLEAR)
            op.key.n = r / 64 % 20 ? 3 : 0;
        enum ast_rc rc = run_kv(m->store, &op, r & 2, NULL);
        if (rc && rc != AST_E_QUOTA && rc != AST_E_CONFLICT)
            m->failed = true;
    }
    return NULL;
}

static void the_counter_is_right_after_concurrent_changes(void **state)
{
    struct fixture *f = *state;
    enum { N = 6 };
    struct mixer m[N];
    pthread_t threads[N];
    for (int i = 0; i < N; i++) {
        m[i] = (struct mixer){ .store = f->store, .seed = 7u + (unsigned)i };
        assert_int_equal(pthread_create(&threads[i], NULL, scramble, &m[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        assert_false(m[i].failed);
    }
    uint64_t sum = 0;
    assert_int_equal(ast_store_each(f->store, AST_STR("alice:"), sum_row, &sum, NULL), AST_OK);
    assert_int_equal(usage(f->store, "alice"), sum);
    assert_true(sum > 0 && sum <= 20000);
}

static void purge_wants_a_principal(void **state)
{
    (void)state;
    static const struct ast_str bad[] = { { "", 0 }, { "a:b", 3 }, { "a b", 3 } };
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++) {
        struct ast_kv_op op = { .kind = AST_KV_PURGE, .ns = bad[i] };
        assert_int_equal(ast_kv_prepare(&op, false, NULL), AST_E_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(c09_39_keys_are_checked),
        STORE_TEST(older_longer_keys_can_be_read_and_deleted),
        STORE_TEST(values_have_a_limit_that_may_be_stricter),
        STORE_TEST(delete_reports_and_forgives),
        STORE_TEST(c05_34_c09_40_namespaces_are_disjoint),
        STORE_TEST(c05_37_1025_keys_do_not_fit_one_listing_and_pages_visit_each_once),
        STORE_TEST(lists_skip_what_is_not_utf8_and_stop_when_told),
        STORE_TEST(c05_38_secrets_are_hidden_from_guests),
        STORE_TEST(c05_36_cas_compares_presence_and_bytes),
        STORE_TEST(c05_35_c09_39_of_100_equal_swaps_exactly_one_succeeds),
        STORE_TEST(swaps_that_count_never_lose_one),
        STORE_TEST(the_counter_follows_every_change),
        STORE_TEST(quota_stops_growth_but_not_shrinking),
        STORE_TEST(an_absent_counter_is_counted_again),
        STORE_TEST(the_counter_is_right_after_concurrent_changes),
        cmocka_unit_test(purge_wants_a_principal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
