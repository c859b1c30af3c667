/* astrid:kv: values, listings, compare-and-swap, limits, the hidden prefix, waiting for the writer. */
#include "rig.h"

#include "base/banned.h"

static void values_come_and_go(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "get k\nset k v1\nget k\nset k \nget k\ndel k\nget k\ndel k"),
                        "none\nok\nsome:v1\nok\nsome:\nok\nnone\nok");
}

static void c05_34_c09_40_principals_are_disjoint(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run_as(r, "alice", "set k a\nget k"), "ok\nsome:a");
    assert_string_equal(rig_run_as(r, "bob", "get k\nlist \nclear \nset k b"), "none\n0\n0\nok");
    assert_string_equal(rig_run_as(r, "alice", "get k"), "some:a");
    /* The namespace is the one the rest of the system uses. */
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(64);
    bool found = false;
    RIG_OK(ast_store_get(r->store, AST_STR("alice:capsule:" RIG_CAPSULE), AST_STR("k"), &out,
                         &found, &err));
    assert_true(found);
    assert_str(ast_buf_view(&out), "a");
}

static void keys_are_checked(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "get \nset  v\ndel \ncas  - v"),
                        "err:invalid-key\nerr:invalid-key\nerr:invalid-key\nerr:invalid-key");
    assert_string_equal(rig_run(r, "nulkey"),
                        "err:invalid-key,err:invalid-key,err:invalid-key,err:invalid-key,"
                        "err:invalid-key,err:invalid-key");
    assert_string_equal(rig_run(r, "setkey 256\nsetkey 257\nset \x01 v\nset \x7f v"),
                        "ok\nerr:invalid-key\nerr:invalid-key\nerr:invalid-key");
}

static void c05_36_cas_creates_and_replaces(void **state)
{
    struct rig *r = *state;
    assert_string_equal(
        rig_run(
            r,
            "cas k - one\ncas k - two\ncas k two three\ncas k one two\nget k\nset e \ncas e - x\n"
            "cas gone x y"),
        "ok\nerr:cas-mismatch\nerr:cas-mismatch\nok\nsome:two\nok\nerr:cas-mismatch\nerr:cas-mismatch");
}

static void c05_35_of_a_hundred_equal_swaps_one_wins(void **state)
{
    enum { N = 100 };
    struct rig *r = *state;
    rig_pool(r, N, /* pinned= */ false);
    struct rig_call *calls[N];
    for (int i = 0; i < N; i++)
        calls[i] = rig_start(r, "cas k - mine");
    unsigned won = 0, lost = 0;
    for (int i = 0; i < N; i++) {
        const char *got = rig_answer(calls[i]);
        won += strcmp(got, "ok") == 0;
        lost += strcmp(got, "err:cas-mismatch") == 0;
    }
    assert_int_equal(won, 1);
    assert_int_equal(lost, N - 1);
}

static void c05_37_listing_and_paging(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "fill p 1024\nset q v"), "ok\nok");
    const char *got = rig_run(r, "list p");
    assert_memory_equal(got, "1024:p0000,p0001,", 17);
    assert_string_equal(rig_run(r, "list "), "err:too-large"); /* 1025 */
    /* Every key exactly once, in order. */
    got = rig_run(r, "page 0 - ");
    assert_memory_equal(got, "1024:p0000,", 11);
    assert_non_null(strstr(got, " next=p1023"));
    assert_string_equal(
        rig_run(r,
                "page 0 p1023 \npage 2 p0500 p\npage 5000 p1020 p\npage 1 p0500x p\npage 10 - zz"),
        "1:q next=none\n2:p0501,p0502 next=p0502\n3:p1021,p1022,p1023 next=none\n"
        "1:p0501 next=p0501\n0 next=none");
}

static void clear_counts_what_it_removed(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "fill a 5\nfill b 3\nclear a\nlist \nclear \nclear \nlist "),
                        "ok\nok\n5\n3:b0000,b0001,b0002\n3\n0\n0");
}

static void c05_38_secrets_are_hidden_and_protected(void **state)
{
    struct rig *r = *state;
    RIG_OK(ast_kv_set(r->store, AST_STR("default:capsule:" RIG_CAPSULE), AST_STR("__secret:x"),
                      AST_STR("s"), &err));
    assert_string_equal(
        rig_run(r, "get __secret:x\nset __secret:x v\ndel __secret:x\ncas __secret:x s v\nlist \n"
                   "list __secret\nset k v\nclear \nclear __secret:\nget __secret:"),
        "none\nerr:invalid-key\nerr:invalid-key\nerr:invalid-key\n0\n0\nok\n1\n0\nnone");
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(8);
    bool found = false;
    RIG_OK(ast_store_get(r->store, AST_STR("default:capsule:" RIG_CAPSULE), AST_STR("__secret:x"),
                         &out, &found, &err));
    assert_true(found);
}

static void value_size_is_capped(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "setn big 10485760\nget big"), "ok\nsome:10485760");
    assert_string_equal(rig_run(r, "setn big2 10485761\nget big2"), "err:too-large\nnone");
}

static void the_cap_of_a_value_is_a_setting(void **state)
{
    struct rig *r = *state;
    r->host.kv_value_max = 11u << 20;
    assert_string_equal(rig_run(r, "setn big 11534336\nsetn big 11534337\nget big"),
                        "ok\nerr:too-large\nsome:11534336");
    r->host.kv_value_max = 1000;
    assert_string_equal(rig_run(r, "setn k 1000\nsetn k 1001\nget big"),
                        "ok\nerr:too-large\nsome:11534336"); /* stored already: stays readable */
}

static void larger_entries_of_an_older_store_stay_readable(void **state)
{
    struct rig *r = *state;
    AST_AUTO(ast_buf_done) struct ast_buf big = AST_BUF_INIT(12u << 20);
    assert_int_equal(ast_buf_reserve(&big, 11u << 20), AST_OK);
    memset(big.p, 'x', 11u << 20);
    big.n = 11u << 20;
    struct ast_kv_op op = { .kind = AST_KV_SET,
                            .ns = AST_STR("default:capsule:" RIG_CAPSULE),
                            .key = AST_STR("old"),
                            .value = ast_buf_view(&big),
                            .value_limit = 1u << 30 };
    RIG_OK(ast_kv_prepare(&op, false, &err));
    RIG_OK(ast_store_run(r->store, &op.op, &err));
    assert_string_equal(rig_run(r, "get old"), "some:11534336");
}

static void storage_quota_is_the_principals(void **state)
{
    struct rig *r = *state;
    struct ast_profile p = { .enabled = true,
                             .quotas = { 67108864, 300, 10485760, 8, 100, 2000000000 } };
    AST_AUTO(ast_msg_unref) struct ast_msg *m = rig_msg("cause.x", "{}", "alice");
    assert_string_equal(
        rig_answer(rig_start_for(r, m, &p, "setn k 99\nsetn k 100\nset l v\ndel k\nset l v")),
        "ok\nerr:quota\nerr:quota\nok\nok");
}

static void store_failures_are_told(void **state)
{
    struct rig *r = *state;
    ast_store_close(r->store);
    r->store = NULL;
    char path[96];
    (void)snprintf(path, sizeof path, "%s/small", r->dir);
    struct ast_store_config cfg = { .path = path, .no_sync = true, .max_bytes = 4u << 20 };
    RIG_OK(ast_store_open(&cfg, &r->store, &err));
    r->host.store = r->store;
    const char *got = rig_run(r, "setn a 3000000\nsetn b 3000000\nget a\nget b");
    assert_non_null(strstr(got, "err:unknown:kv_set: storage error: "));
}

static void changes_are_durable_when_acknowledged(void **state)
{
    struct rig *r = *state;
    struct ast_store_stats before, after;
    ast_store_stats(r->store, &before);
    (void)rig_run(r, "set a 1\nset b 2");
    ast_store_stats(r->store, &after);
    assert_true(after.commits >= before.commits + 2); /* the second waited for the first */
}

static void a_cancelled_write_leaves_nothing_dangling(void **state)
{
    struct rig *r = *state;
    for (int i = 0; i < 50; i++) {
        struct rig_call *c = rig_start(r, "fill k 200");
        ast_call_cancel(c->call);
        rig_wait(c);
        assert_true(c->rc == AST_E_CANCELLED || c->rc == AST_OK);
        rig_end(c);
    }
}

static void writes_wait_in_line_for_permits(void **state)
{
    enum { N = 32 };
    struct rig *r = *state;
    ast_permits_free(r->env.blocking);
    RIG_OK(ast_permits_new(1, &r->env.blocking, &err));
    rig_pool(r, N, /* pinned= */ false);
    struct rig_call *calls[N];
    for (int i = 0; i < N; i++) {
        char script[64];
        (void)snprintf(script, sizeof script, "fill w%02d. 20", i);
        calls[i] = rig_start(r, script);
    }
    for (int i = 0; i < N; i++)
        assert_string_equal(rig_answer(calls[i]), "ok");
    assert_memory_equal(rig_run(r, "list w"), "640:", 4);
}

RIG_MAIN(RIG_TEST(values_come_and_go), RIG_TEST(c05_34_c09_40_principals_are_disjoint),
         RIG_TEST(keys_are_checked), RIG_TEST(c05_36_cas_creates_and_replaces),
         RIG_TEST(c05_35_of_a_hundred_equal_swaps_one_wins), RIG_TEST(c05_37_listing_and_paging),
         RIG_TEST(clear_counts_what_it_removed), RIG_TEST(c05_38_secrets_are_hidden_and_protected),
         RIG_TEST(value_size_is_capped), RIG_TEST(the_cap_of_a_value_is_a_setting),
         RIG_TEST(larger_entries_of_an_older_store_stay_readable),
         RIG_TEST(storage_quota_is_the_principals), RIG_TEST(store_failures_are_told),
         RIG_TEST(changes_are_durable_when_acknowledged),
         RIG_TEST(a_cancelled_write_leaves_nothing_dangling),
         RIG_TEST(writes_wait_in_line_for_permits))
