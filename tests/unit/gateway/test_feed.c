/* The shared tail of the audit log: who sees what, in which order, and what happens to who is late. */
#include "gateway_test.h"
#include "rig.h"

#include "gateway/feed_priv.h"
#include "gateway/http_conn_priv.h"

#define ROWS 64u

struct bench {
    struct rig rig;
    struct gw_feed *feed;
    struct gw_exchange ex; /* as if a wake was on its way: nobody calls its loop */
    struct ast_kernel_row rows[ROWS];
    char texts[ROWS][32];
};

static void bench_init(struct bench *b, unsigned behind, unsigned ring)
{
    struct ast_err err = AST_ERR_INIT;
    *b = (struct bench){ 0 };
    rig_init(&b->rig);
    b->rig.kernel.rows = b->rows;
    atomic_init(&b->ex.is_woken, true);
    if (gw_feed_open(&b->rig.kernel, behind, ring, &b->feed, &err))
        rig_die("feed", err.msg);
}

static void bench_done(struct bench *b)
{
    gw_feed_close(b->feed);
    rig_done(&b->rig);
}

/* One row in the log and its event on the bus. */
static void act(struct bench *b, const char *who)
{
    size_t i = b->rig.kernel.row_count;
    struct ast_msg *msg = NULL;
    const struct ast_msg_spec spec = { .topic = AST_STR("astrid.v1.audit.entry"),
                                       .principal = ast_str_c(who) };
    (void)snprintf(b->texts[i], sizeof b->texts[i], "{\"n\":%zu}", i + 1);
    b->rows[i] = (struct ast_kernel_row){
        .seq = i + 1, .ts_epoch = 1, .principal = ast_str_c(who), .json = ast_str_c(b->texts[i])
    };
    __atomic_store_n(&b->rig.kernel.row_count, i + 1, __ATOMIC_RELEASE);
    assert_int_equal(ast_msg_trusted(&spec, AST_PAYLOAD_RAW_JSON, AST_STR("{}"), &msg, NULL),
                     AST_OK);
    (void)ast_bus_publish(b->rig.bus, msg);
}

static struct gw_feed_reader reader(struct bench *b, const char *who, bool sees_all)
{
    return (
        struct gw_feed_reader){ .ex = &b->ex, .principal = ast_str_c(who), .sees_all = sees_all };
}

/* What a stream would send, with "lagged(N)" and pages of the log; the caller frees. */
static char *drain(struct gw_feed_reader *r, bool with_ids)
{
    struct ast_buf out = AST_BUF_INIT(65536);
    struct ast_err err = AST_ERR_INIT;
    for (;;) {
        uint64_t dropped = 0;
        enum gw_feed_got got = gw_feed_take(r, with_ids, 65536, &out, &dropped);
        if (dropped)
            (void)ast_buf_addf(&out, "lagged(%llu)\n\n", (unsigned long long)dropped);
        if (got == GW_FEED_END)
            break;
        if (got != GW_FEED_IN_LOG)
            continue;
        struct gw_feed_page page = { .sees_all = r->sees_all,
                                     .with_ids = with_ids,
                                     .at = gw_feed_at(r),
                                     .joined = r->joined,
                                     .out = AST_BUF_INIT(65536) };
        assert_int_equal(ast_principal_parse(r->principal, &page.principal, NULL), AST_OK);
        if (gw_feed_read_log(r->feed, &page, &err))
            rig_die("log", err.msg);
        (void)ast_buf_addf(&out, "log\n\n");
        (void)ast_buf_add(&out, ast_buf_view(&page.out));
        gw_feed_passed(r, &page);
        ast_buf_done(&page.out);
    }
    (void)ast_buf_add_lit(&out, "");
    return out.p ? ast_buf_steal(&out) : ast_str_dup(AST_STR(""));
}

static void assert_drains(struct gw_feed_reader *r, const char *want)
{
    AST_AUTO(ast_cfree) char *got = drain(r, /* with_ids= */ false);
    assert_string_equal(got, want);
}

#define EVENT(n) "event: audit\ndata: {\"n\":" #n "}\n\n"

static void each_reader_sees_its_rows_in_order_once(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0, 0);
    struct gw_feed_reader alice = reader(&b, "alice", false), all = reader(&b, "root", true);
    act(&b, "alice"); /* before they join */
    uint64_t end = gw_feed_sync(b.feed);
    assert_int_equal(end, 1);
    assert_true(gw_feed_join(b.feed, &alice, end) && gw_feed_join(b.feed, &all, end));
    assert_drains(&alice, "");
    act(&b, "bob");
    act(&b, "alice");
    (void)gw_feed_sync(b.feed);
    assert_drains(&alice, EVENT(3));
    assert_drains(&all, EVENT(2) EVENT(3));
    assert_drains(&all, "");
    act(&b, "alice");
    (void)gw_feed_sync(b.feed);
    AST_AUTO(ast_cfree) char *got = drain(&alice, /* with_ids= */ true);
    assert_string_equal(got, "id: 4\n" EVENT(4));
    gw_feed_leave(&alice);
    gw_feed_leave(&all);
    gw_feed_leave(&all); /* harmless */
    bench_done(&b);
}

static void who_falls_out_of_the_ring_goes_on_in_the_log(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, /* behind= */ 100, /* ring= */ 2);
    struct gw_feed_reader alice = reader(&b, "alice", false), all = reader(&b, "root", true);
    assert_true(gw_feed_join(b.feed, &alice, 0) && gw_feed_join(b.feed, &all, 0));
    act(&b, "alice");
    for (unsigned i = 0; i < 4; i++)
        act(&b, "bob");
    (void)gw_feed_sync(b.feed);
    assert_drains(&alice, "log\n\n" EVENT(1));
    assert_drains(&all, "log\n\n" EVENT(1) EVENT(2) EVENT(3) EVENT(4) EVENT(5));
    act(&b, "alice");
    (void)gw_feed_sync(b.feed);
    assert_drains(&alice, EVENT(6));
    gw_feed_leave(&alice);
    gw_feed_leave(&all);
    bench_done(&b);
}

static void who_is_too_late_is_told_how_much_it_lost(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, /* behind= */ 4, /* ring= */ 2);
    struct gw_feed_reader alice = reader(&b, "alice", false), all = reader(&b, "root", true);
    assert_true(gw_feed_join(b.feed, &alice, 0) && gw_feed_join(b.feed, &all, 0));
    for (unsigned i = 0; i < 8; i++)
        act(&b, i % 4 ? "bob" : "alice"); /* alice: 1, 5 */
    (void)gw_feed_sync(b.feed);
    assert_drains(&all, "lagged(6)\n\n" EVENT(7) EVENT(8));
    assert_drains(&alice, "log\n\n" EVENT(1) EVENT(5)); /* others' flood costs her nothing */
    gw_feed_leave(&alice);
    gw_feed_leave(&all);
    bench_done(&b);
}

static void a_resumed_reader_starts_behind_its_row(void **state)
{
    (void)state;
    struct bench b;
    struct gw_feed_reader r;
    bench_init(&b, 0, /* ring= */ 2);
    for (unsigned i = 0; i < 5; i++)
        act(&b, "alice");
    (void)gw_feed_sync(b.feed);
    r = reader(&b, "alice", false);
    assert_true(gw_feed_join(b.feed, &r, 2));
    assert_drains(&r, "log\n\n" EVENT(3) EVENT(4) EVENT(5));
    gw_feed_leave(&r);
    r = reader(&b, "alice", false);
    assert_true(gw_feed_join(b.feed, &r, 3)); /* still in the ring */
    assert_drains(&r, EVENT(4) EVENT(5));
    gw_feed_leave(&r);
    r = reader(&b, "alice", false);
    assert_true(gw_feed_join(b.feed, &r, UINT64_MAX)); /* of another log: from now on */
    assert_drains(&r, "");
    act(&b, "alice");
    (void)gw_feed_sync(b.feed);
    assert_drains(&r, EVENT(6));
    gw_feed_leave(&r);
    bench_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_reader_sees_its_rows_in_order_once),
        cmocka_unit_test(who_falls_out_of_the_ring_goes_on_in_the_log),
        cmocka_unit_test(who_is_too_late_is_told_how_much_it_lost),
        cmocka_unit_test(a_resumed_reader_starts_behind_its_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
