#include "fixture.h"

#include "base/banned.h"

#define NS AST_STR("alice:capsule:notes")

static enum ast_rc sees_its_own_writes(struct ast_store_txn *t, void *arg, struct ast_err *err)
{
    struct ast_str v;
    bool existed = true;
    (void)arg;
    assert_false(ast_store_txn_get(t, NS, AST_STR("k"), &v));
    assert_int_equal(ast_store_txn_put(t, NS, AST_STR("k"), AST_STR("one"), err), AST_OK);
    assert_true(ast_store_txn_get(t, NS, AST_STR("k"), &v));
    assert_true(ast_str_is(v, "one"));
    assert_int_equal(ast_store_txn_put(t, NS, AST_STR("k"), AST_STR_NONE, err), AST_OK);
    assert_true(ast_store_txn_get(t, NS, AST_STR("k"), &v));
    assert_int_equal(v.n, 0);
    assert_int_equal(ast_store_txn_delete(t, NS, AST_STR("k"), &existed, err), AST_OK);
    assert_true(existed);
    assert_int_equal(ast_store_txn_delete(t, NS, AST_STR("k"), &existed, err), AST_OK);
    assert_false(existed);
    assert_int_equal(ast_store_txn_delete(t, NS, AST_STR("k"), NULL, err), AST_OK);
    assert_false(ast_store_txn_get(t, NS, AST_STR("k"), &v));
    return ast_store_txn_put(t, NS, AST_STR("empty"), AST_STR_NONE, err);
}

static void an_op_sees_its_own_writes(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(run_fn(f->store, sees_its_own_writes, NULL, NULL), AST_OK);
    assert_null(value_of(f->store, NS, AST_STR("k")));
    assert_string_equal(value_of(f->store, NS, AST_STR("empty")), "");
}

struct key_case {
    struct ast_str ns, key;
    const char *error; /* NULL: accepted */
};

static enum ast_rc put_case(struct ast_store_txn *t, void *arg, struct ast_err *err)
{
    const struct key_case *c = arg;
    return ast_store_txn_put(t, c->ns, c->key, AST_STR("v"), err);
}

static enum ast_rc delete_case(struct ast_store_txn *t, void *arg, struct ast_err *err)
{
    const struct key_case *c = arg;
    return ast_store_txn_delete(t, c->ns, c->key, NULL, err);
}

static void c09_39_namespaces_and_keys_have_limits(void **state)
{
    struct fixture *f = *state;
    static char a[600];
    memset(a, 'a', sizeof a);
    const struct key_case cases[] = {
        { AST_STR("n"), AST_STR("k"), NULL },
        { AST_STR_NONE, AST_STR("k"), "invalid key: namespace must not be empty" },
        { AST_STR("n\0m"), AST_STR("k"), "invalid key: namespace must not contain null bytes" },
        { AST_STR("n"), AST_STR_NONE, "invalid key: key must not be empty" },
        { AST_STR("n"), AST_STR("k\0"), "invalid key: key must not contain null bytes" },
        { { a, 240 }, { a, 259 }, NULL },
        { { a, 241 }, { a, 1 }, "invalid key: namespace must not be longer than 240 bytes" },
        { { a, 240 },
          { a, 260 },
          "invalid key: namespace and key must not be longer than 499 bytes together" },
        { AST_STR("n"), { a, 498 }, NULL },
        { AST_STR("n"),
          { a, 499 },
          "invalid key: namespace and key must not be longer than 499 bytes together" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct key_case c = cases[i];
        struct ast_err err = AST_ERR_INIT, err2 = AST_ERR_INIT;
        bool found = true;
        AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(10);
        assert_int_equal(run_fn(f->store, put_case, &c, &err), c.error ? AST_E_INVALID : AST_OK);
        assert_string_equal(err.msg, c.error ? c.error : "");
        /* A read of what cannot exist is no error. */
        assert_int_equal(ast_store_get(f->store, c.ns, c.key, &out, &found, NULL), AST_OK);
        assert_int_equal(found, !c.error);
        assert_int_equal(run_fn(f->store, delete_case, &c, &err2),
                         c.error ? AST_E_INVALID : AST_OK);
        assert_string_equal(err2.msg, err.msg);
    }
}

static enum ast_rc put_rows(struct ast_store_txn *t, void *arg, struct ast_err *err)
{
    /* Neighbours on both sides, whose namespaces are a prefix of ours or begin like it. */
    static const struct ast_str namespaces[] = {
        { "a", 1 }, { "ab", 2 }, { "ab\x01", 3 }, { "abc", 3 }
    };
    const struct ast_str *keys = arg;
    for (size_t n = 0; n < AST_ARRAY_LEN(namespaces); n++)
        for (const struct ast_str *k = keys; k->n; k++)
            if (ast_store_txn_put(t, namespaces[n], *k, *k, err))
                return AST_E_INTERNAL;
    return AST_OK;
}

struct collected {
    char text[2000];
    size_t n, limit;
};

static bool collect(void *arg, struct ast_str key, struct ast_str value)
{
    struct collected *c = arg;
    assert_true(ast_str_eq(key, value));
    c->n +=
        (size_t)snprintf(c->text + c->n, sizeof c->text - c->n, AST_STR_FMT " ", AST_STR_ARG(key));
    return !c->limit || --c->limit;
}

static enum ast_rc last_in_txn(struct ast_store_txn *t, void *arg, struct ast_err *err)
{
    struct ast_str key, value;
    (void)arg, (void)err;
    assert_true(ast_store_txn_last(t, AST_STR("ab"), AST_STR("b/"), &key, &value));
    assert_true(ast_str_is(key, "b/2") && ast_str_is(value, "b/2"));
    assert_false(ast_store_txn_last(t, AST_STR("ab"), AST_STR("x"), &key, &value));
    assert_false(ast_store_txn_last(t, AST_STR("zz"), AST_STR("b/"), &key, &value));
    return AST_OK;
}

static void scans_begin_at_a_key_or_the_one_before_it(void **state)
{
    struct fixture *f = *state;
    struct ast_str keys[] = { AST_STR("a"),   AST_STR("b/1"), AST_STR("b/10"),
                              AST_STR("b/2"), AST_STR("c"),   AST_STR_NONE };
    static const struct {
        const char *prefix, *at, *keys;
    } cases[] = {
        { "b/", "b/1", "b/1 b/10 b/2 " },
        { "b/", "b/11", "b/10 b/2 " },
        { "b/", "b/9", "b/2 " },
        { "b/", "b/0", "b/1 b/10 b/2 " },
        { "", "b", "a b/1 b/10 b/2 c " },
        { "", "0", "a b/1 b/10 b/2 c " },
        { "x", "x1", "" },
    };
    assert_int_equal(run_fn(f->store, put_rows, keys, NULL), AST_OK);
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct collected got = { .limit = 0 };
        assert_int_equal(ast_store_scan_at(f->store, AST_STR("ab"), ast_str_c(cases[i].prefix),
                                           ast_str_c(cases[i].at), collect, &got, NULL),
                         AST_OK);
        assert_string_equal(got.text, cases[i].keys);
    }
    assert_int_equal(run_fn(f->store, last_in_txn, NULL, NULL), AST_OK);
}

static void scans_backwards_end_before_a_key(void **state)
{
    struct fixture *f = *state;
    static char z[1000];
    memset(z, 'b', sizeof z);
    struct ast_str keys[] = { AST_STR("a"),    AST_STR("b/1"),      AST_STR("b/10"),
                              AST_STR("b/2"),  AST_STR("b0"),       AST_STR("c"),
                              AST_STR("\xff"), AST_STR("\xff\xff"), AST_STR_NONE };
    const struct {
        struct ast_str prefix, before;
        size_t limit;
        const char *keys;
    } cases[] = {
        { AST_STR_NONE, AST_STR_NONE, 0, "\xff\xff \xff c b0 b/2 b/10 b/1 a " },
        { AST_STR_NONE, AST_STR_NONE, 2, "\xff\xff \xff " },
        { AST_STR("b/"), AST_STR_NONE, 0, "b/2 b/10 b/1 " },
        { AST_STR("b/"), AST_STR("b/2"), 0, "b/10 b/1 " },   /* the key itself is not met */
        { AST_STR("b/"), AST_STR("b/11"), 0, "b/10 b/1 " },  /* it need not exist */
        { AST_STR("b/"), AST_STR("z"), 0, "b/2 b/10 b/1 " }, /* or lie in the prefix */
        { AST_STR("b/"), AST_STR("b/1"), 0, "" },
        { AST_STR("b/"), AST_STR("a"), 0, "" },
        { AST_STR("b/"), AST_STR_NONE, 1, "b/2 " },
        { AST_STR("\xff"), AST_STR_NONE, 0, "\xff\xff \xff " }, /* no byte is above it */
        { AST_STR("\xff\xff"), AST_STR_NONE, 0, "\xff\xff " },
        { AST_STR_NONE, AST_STR("a"), 0, "" },
        { AST_STR("x"), AST_STR_NONE, 0, "" },
        { AST_STR_NONE, { z, 1000 }, 0, "b0 b/2 b/10 b/1 a " }, /* longer than any key */
        { { z, 1000 }, AST_STR_NONE, 0, "" },
    };
    assert_int_equal(run_fn(f->store, put_rows, keys, NULL), AST_OK);
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct collected got = { .limit = cases[i].limit };
        assert_int_equal(ast_store_scan_back(f->store, AST_STR("ab"), cases[i].prefix,
                                             cases[i].before, collect, &got, NULL),
                         AST_OK);
        if (strcmp(got.text, cases[i].keys) != 0)
            fail_msg("case %zu: <%s>, not <%s>", i, got.text, cases[i].keys);
    }
    struct collected none = { .limit = 0 };
    assert_int_equal(ast_store_scan_back(f->store, AST_STR("nobody"), AST_STR_NONE, AST_STR_NONE,
                                         collect, &none, NULL),
                     AST_OK);
    assert_string_equal(none.text, "");
}

struct scan_case {
    struct ast_str prefix, after;
    size_t limit;
    const char *keys;
};

static enum ast_rc scan_in_txn(struct ast_store_txn *t, void *arg, struct ast_err *err)
{
    const struct scan_case *c = arg;
    struct collected got = { .limit = c->limit };
    assert_int_equal(ast_store_txn_scan(t, AST_STR("ab"), c->prefix, c->after, collect, &got, err),
                     AST_OK);
    assert_string_equal(got.text, c->keys);
    return AST_OK;
}

static void c09_39_scans_are_ordered_and_stay_in_their_namespace(void **state)
{
    struct fixture *f = *state;
    static char z[1000];
    memset(z, 'b', sizeof z);
    struct ast_str keys[] = { AST_STR("b/2"),  AST_STR("b/1"), AST_STR("a"),    AST_STR("b"),
                              AST_STR("b/10"), AST_STR("c"),   AST_STR("\xff"), AST_STR("b0"),
                              { z, 496 },      AST_STR_NONE };
    assert_int_equal(run_fn(f->store, put_rows, keys, NULL), AST_OK);
    struct scan_case cases[] = {
        { AST_STR("b/"), AST_STR_NONE, 0, "b/1 b/10 b/2 " },
        { AST_STR("b/"), AST_STR("b/1"), 0, "b/10 b/2 " },
        { AST_STR("b/"), AST_STR("b/11"), 0, "b/2 " },       /* a cursor need not exist */
        { AST_STR("b/"), AST_STR("a"), 0, "b/1 b/10 b/2 " }, /* or lie in the prefix */
        { AST_STR("b/"), AST_STR("b/2"), 0, "" },
        { AST_STR("b/"), AST_STR("z"), 0, "" },
        { AST_STR("b/"), AST_STR_NONE, 2, "b/1 b/10 " },
        { AST_STR("x"), AST_STR_NONE, 0, "" },
        { AST_STR_NONE, AST_STR("b0"), 1, z },
        { AST_STR_NONE, { z, 496 }, 0, "c \xff " },
        { AST_STR_NONE, { z, 1000 }, 0, "c \xff " }, /* a cursor longer than any key */
        { { z, 1000 }, AST_STR_NONE, 0, "" },        /* a prefix longer than any key */
        { AST_STR_NONE, AST_STR("\xff"), 0, "" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        char longest[498];
        if (cases[i].keys == z) {
            (void)snprintf(longest, sizeof longest, "%.496s ", z);
            cases[i].keys = longest;
        }
        struct collected got = { .limit = cases[i].limit };
        assert_int_equal(ast_store_scan(f->store, AST_STR("ab"), cases[i].prefix, cases[i].after,
                                        collect, &got, NULL),
                         AST_OK);
        assert_string_equal(got.text, cases[i].keys);
        assert_int_equal(run_fn(f->store, scan_in_txn, &cases[i], NULL), AST_OK);
    }
}

static enum ast_rc clear_some(struct ast_store_txn *t, void *arg, struct ast_err *err)
{
    const struct ast_str *prefix_and_spare = arg;
    uint64_t count = 77;
    enum ast_rc rc = ast_store_txn_clear(t, AST_STR("ab"), prefix_and_spare[0], prefix_and_spare[1],
                                         &count, err);
    if (!rc)
        assert_int_equal(count, prefix_and_spare[2].n);
    return rc;
}

static void c09_39_clear_spares_and_counts(void **state)
{
    struct fixture *f = *state;
    struct ast_str keys[] = { AST_STR("__a"), AST_STR("__secret:1"), AST_STR("__secret:2"),
                              AST_STR("__t"), AST_STR("b/1"),        AST_STR("b/2"),
                              AST_STR("c"),   AST_STR_NONE };
    static const struct {
        struct ast_str args[3]; /* prefix, spare, number removed (as length) */
        const char *left;
    } cases[] = {
        { { AST_STR("b/"), AST_STR_NONE, { NULL, 2 } }, "__a __secret:1 __secret:2 __t c " },
        { { AST_STR_NONE, AST_STR("__secret:"), { NULL, 5 } }, "__secret:1 __secret:2 " },
        { { AST_STR("__"), AST_STR("__secret:"), { NULL, 2 } },
          "__secret:1 __secret:2 b/1 b/2 c " },
        { { AST_STR("__secret:"), AST_STR("__secret:"), { NULL, 0 } },
          "__a __secret:1 __secret:2 __t b/1 b/2 c " },
        { { AST_STR("nothing"), AST_STR_NONE, { NULL, 0 } },
          "__a __secret:1 __secret:2 __t b/1 b/2 c " },
        { { AST_STR_NONE, AST_STR_NONE, { NULL, 7 } }, "" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        assert_int_equal(run_fn(f->store, put_rows, keys, NULL), AST_OK);
        struct ast_str args[3];
        memcpy(args, cases[i].args, sizeof args);
        assert_int_equal(run_fn(f->store, clear_some, args, NULL), AST_OK);
        struct collected got = { 0 }, neighbour = { 0 };
        assert_int_equal(ast_store_scan(f->store, AST_STR("ab"), AST_STR_NONE, AST_STR_NONE,
                                        collect, &got, NULL),
                         AST_OK);
        assert_string_equal(got.text, cases[i].left);
        assert_int_equal(ast_store_scan(f->store, AST_STR("abc"), AST_STR_NONE, AST_STR_NONE,
                                        collect, &neighbour, NULL),
                         AST_OK);
        assert_string_equal(neighbour.text, "__a __secret:1 __secret:2 __t b/1 b/2 c ");
    }
    struct ast_str nul[3] = { { "a\0b", 3 }, AST_STR_NONE, AST_STR_NONE };
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(run_fn(f->store, clear_some, nul, &err), AST_E_INVALID);
    assert_string_equal(err.msg, "invalid key: prefix must not contain null bytes");
}

enum { MANY = 200000 };

static enum ast_rc put_many(struct ast_store_txn *t, void *arg, struct ast_err *err)
{
    (void)arg;
    for (unsigned i = 0; i < MANY; i++) {
        char key[24];
        int n = snprintf(key, sizeof key, "%s%08u", i % 1000 == 7 ? "spare/" : "row/", i);
        enum ast_rc rc = ast_store_txn_put(t, AST_STR("ab"), ast_str_n(key, (size_t)n),
                                           AST_STR("0123456789"), err);
        if (rc)
            return rc;
    }
    return AST_OK;
}

static bool count_row(void *arg, struct ast_str key, struct ast_str value)
{
    (void)value;
    ++*(uint64_t *)arg;
    return ast_str_starts(key, AST_STR("spare/"));
}

static void a_large_clear_is_one_change(void **state)
{
    struct fixture *f = *state;
    struct ast_str args[3] = { AST_STR_NONE, AST_STR("spare/"), { NULL, MANY - MANY / 1000 } };
    uint64_t left = 0;
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(run_fn(f->store, put_many, NULL, &err), AST_OK);
    assert_int_equal(run_fn(f->store, clear_some, args, &err), AST_OK);
    assert_int_equal(
        ast_store_scan(f->store, AST_STR("ab"), AST_STR_NONE, AST_STR_NONE, count_row, &left, NULL),
        AST_OK);
    assert_int_equal(left, MANY / 1000);
}

static bool each_row(void *arg, struct ast_str ns, struct ast_str key, struct ast_str value)
{
    struct collected *c = arg;
    assert_true(ast_str_eq(key, value));
    c->n += (size_t)snprintf(c->text + c->n, sizeof c->text - c->n, AST_STR_FMT "/" AST_STR_FMT " ",
                             AST_STR_ARG(ns), AST_STR_ARG(key));
    return !c->limit || --c->limit;
}

static void each_visits_namespaces_by_prefix(void **state)
{
    struct fixture *f = *state;
    struct ast_str keys[] = { AST_STR("x"), AST_STR("y"), AST_STR_NONE };
    assert_int_equal(run_fn(f->store, put_rows, keys, NULL), AST_OK);
    static const struct {
        struct ast_str prefix;
        size_t limit;
        const char *rows;
    } cases[] = {
        { AST_STR_NONE, 0, "a/x a/y ab/x ab/y ab\x01/x ab\x01/y abc/x abc/y " },
        { AST_STR("ab"), 0, "ab/x ab/y ab\x01/x ab\x01/y abc/x abc/y " },
        { AST_STR("abc"), 0, "abc/x abc/y " },
        { AST_STR("b"), 0, "" },
        { AST_STR_NONE, 3, "a/x a/y ab/x " },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct collected got = { .limit = cases[i].limit };
        assert_int_equal(ast_store_each(f->store, cases[i].prefix, each_row, &got, NULL), AST_OK);
        assert_string_equal(got.text, cases[i].rows);
    }
}

static enum ast_rc put_too_large(struct ast_store_txn *t, void *arg, struct ast_err *err)
{
    static char value[1];
    (void)arg;
    return ast_store_txn_put(t, NS, AST_STR("k"), ast_str_n(value, (size_t)AST_STORE_MAX_VALUE + 1),
                             err);
}

static void a_value_over_the_limit_is_refused_unread(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(run_fn(f->store, put_too_large, NULL, NULL), AST_E_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(an_op_sees_its_own_writes),
        STORE_TEST(c09_39_namespaces_and_keys_have_limits),
        STORE_TEST(scans_begin_at_a_key_or_the_one_before_it),
        STORE_TEST(scans_backwards_end_before_a_key),
        STORE_TEST(c09_39_scans_are_ordered_and_stay_in_their_namespace),
        STORE_TEST(c09_39_clear_spares_and_counts),
        STORE_TEST(a_large_clear_is_one_change),
        STORE_TEST(each_visits_namespaces_by_prefix),
        STORE_TEST(a_value_over_the_limit_is_refused_unread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
