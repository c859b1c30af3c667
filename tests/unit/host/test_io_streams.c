/* astrid:io/streams: pipes that the test holds the other end of, and a guest on both kinds of stream. */
#include <pthread.h>

#include "host/stream_priv.h"

static const struct ast_wasm_host *with_streams(void);
#define RIG_HOST with_streams
#include "rig.h"

#include "base/banned.h"

#define CAPACITY 65536u

/* One input and one output for the guest of a test, and how often the guest touched each. */
static struct {
    struct host_pipe *in, *out; /* references */
    atomic_uint in_changes, out_changes, made, released;
} t;

static void on_changed(void *arg)
{
    atomic_fetch_add((atomic_uint *)arg, 1);
}

static void on_release(void *arg)
{
    (void)arg;
    atomic_fetch_add(&t.released, 1);
}

/* --- The test's own host functions --------------------------------------------------------------- */

static void give_input(struct ast_abi *a, union ast_abi_slot *v)
{
    uint32_t handle = 0;
    struct ast_io_input_stream *s = host_input_stream_new(a, host_pipe_ref(t.in));
    if (s && ast_abi_handle_add(a, AST_ABI_TYPE_IO_INPUT_STREAM, s, &handle))
        v[0].i32 = (int32_t)handle;
}

static void give_output(struct ast_abi *a, union ast_abi_slot *v)
{
    uint32_t handle = 0;
    struct ast_io_output_stream *s = host_output_stream_new(a, host_pipe_ref(t.out));
    if (s && ast_abi_handle_add(a, AST_ABI_TYPE_IO_OUTPUT_STREAM, s, &handle))
        v[0].i32 = (int32_t)handle;
}

static const struct ast_wasm_host *with_streams(void)
{
    static struct ast_wasm_host host;
    const struct ast_wasm_host *real = ast_host_imports();
    size_t n = real->import_count;
    struct ast_abi_import *rows = calloc(n + 2, sizeof *rows); /* for the whole program */
    assert_non_null(rows);
    memcpy(rows, real->imports, n * sizeof *rows);
    /* Behind "astrid:...": the table stays sorted. */
    rows[n] =
        (struct ast_abi_import){ "test:streams/host", "input", "", "i", give_input, (uint32_t)n };
    rows[n + 1] = (struct ast_abi_import){ "test:streams/host", "output",       "", "i",
                                           give_output,         (uint32_t)n + 1 };
    host = *real;
    host.imports = rows;
    host.import_count = n + 2;
    return &host;
}

/* --- The test's ends ----------------------------------------------------------------------------- */

/* A pipe in place of the one there was. */
static void renew(struct host_pipe **p, atomic_uint *changes)
{
    struct host_pipe_peer peer = { on_changed, on_release, changes };
    host_pipe_unref(*p);
    atomic_store(changes, 0);
    RIG_OK(host_pipe_new(CAPACITY, &peer, p, &err));
    atomic_fetch_add(&t.made, 1);
}

static int setup(void **state)
{
    atomic_store(&t.made, 0);
    atomic_store(&t.released, 0);
    t.in = t.out = NULL;
    renew(&t.in, &t.in_changes);
    renew(&t.out, &t.out_changes);
    return rig_setup(state);
}

static int teardown(void **state)
{
    int rc = rig_teardown(state); /* the guest's references go with its instance */
    host_pipe_unref(t.in);
    host_pipe_unref(t.out);
    return rc || atomic_load(&t.released) != atomic_load(&t.made) ? -1 : 0;
}

static void feed(const char *text)
{
    assert_int_equal(host_pipe_put(t.in, text, strlen(text)), strlen(text));
}

/* Everything that is in the output now. */
static const char *drained(void)
{
    static char text[CAPACITY + 1];
    text[host_pipe_take(t.out, text, CAPACITY)] = 0;
    return text;
}

static struct host_pipe_state look(struct host_pipe *p)
{
    struct host_pipe_state st;
    host_pipe_look(p, &st);
    return st;
}

/* --- Reading ------------------------------------------------------------------------------------- */

static void reading_takes_what_is_there(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "input\nread 0 10"), "0\n''");
    feed("hello world");
    assert_string_equal(rig_run(r, "read 0 0\nread 0 5\nskip 0 1\nread 0 99\nskip 0 1\nread 0 1"),
                        "''\n'hello'\n1\n'world'\n0\n''");
    assert_int_equal(atomic_load(&t.in_changes), 3);
    feed("last");
    host_pipe_end(t.in);
    assert_string_equal(rig_run(r, "read 0 99\nread 0 99\nskip 0 1\nbread 0 1\nbskip 0 1"),
                        "'last'\nerr:closed\nerr:closed\nerr:closed\nerr:closed");
}

static void a_blocking_read_waits_for_the_first_byte(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "input\nbread 0 99\nbskip 0 99\nbread 0 99");
    rig_until_parked(r, 1);
    ast_call_wake(c->call); /* for nothing */
    rig_until_parked(r, 1);
    feed("one");
    rig_until_parked(r, 1);
    feed("three");
    rig_until_parked(r, 1);
    host_pipe_end(t.in);
    assert_string_equal(rig_answer(c), "0\n'one'\n5\nerr:closed");
}

static void a_failure_is_told_once_after_the_bytes_before_it(void **state)
{
    struct rig *r = *state;
    feed("rest");
    host_pipe_fail(t.in, AST_STR("connection reset by \xff"));
    host_pipe_fail(t.in, AST_STR("second"));
    assert_string_equal(rig_run(r, "input\nread 0 9\nread 0 9\nread 0 9\nbread 0 9"),
                        "0\n'rest'\nerr:failed:connection reset by \xef\xbf\xbd\nerr:closed\n"
                        "err:closed");
    host_pipe_fail(t.out, AST_STR("disk full"));
    assert_string_equal(rig_run(r, "output\ncheckw 1\ncheckw 1\nwrite 1 \nbflush 1"),
                        "1\nerr:failed:disk full\nerr:closed\nerr:closed\nerr:closed");
}

static void a_full_pipe_takes_no_more(void **state)
{
    static char much[CAPACITY + 100];
    struct rig *r = *state;
    assert_int_equal(host_pipe_put(t.in, much, sizeof much), CAPACITY);
    assert_int_equal(host_pipe_put(t.in, much, 1), 0);
    assert_string_equal(rig_run(r, "input\nread 0 1000"), "0\nn=1000");
    assert_int_equal(host_pipe_put(t.in, much, sizeof much), 1000);
    assert_string_equal(rig_run(r, "read 0 18446744073709551615"), "n=65536");
}

/* --- Writing ------------------------------------------------------------------------------------- */

static void writes_follow_the_permit(void **state)
{
    struct rig *r = *state;
    assert_string_equal(
        rig_run(r, "output\ncheckw 0\nwrite 0 hello\nzeroes 0 2\nflush 0\ncheckw 0"),
        "0\n65536\nok\nok\nok\n65529");
    assert_int_equal(look(t.out).bytes, 7);
    assert_true(atomic_load(&t.out_changes) >= 3);
    char text[8];
    assert_int_equal(host_pipe_take(t.out, text, sizeof text), 7);
    assert_memory_equal(text, "hello\0\0", 7);
}

static void a_write_beyond_the_permit_traps(void **state)
{
    static const char *const scripts[] = { "output\nwrite 0 x", "output\ncheckw 0\nzeroes 0 65537",
                                           "output\ncheckw 0\nzeroes 0 65536\nwrite 0 x",
                                           "output\ncheckw 0\nbwrite 0 \nwrite 0 x" };
    struct rig *r = *state;
    for (size_t i = 0; i < AST_ARRAY_LEN(scripts); i++) {
        (void)drained();
        struct rig_call *c = rig_start(r, scripts[i]);
        rig_wait(c);
        assert_int_equal(c->rc, AST_E_ABI);
        assert_non_null(strstr(c->error, "more than check-write permitted"));
        rig_end(c);
        /* The dead guest's end is ended: a pipe for the next. */
        assert_true(look(t.out).is_ended);
        renew(&t.out, &t.out_changes);
    }
}

/* Drains until `n` bytes came, in small pieces, and gives their checksum. */
static void *drain_all(void *arg)
{
    size_t left = *(size_t *)arg, at = 0;
    bool ok = true;
    int64_t deadline = ast_mono_ns() + RIG_PATIENCE_NS;
    while (left && ast_mono_ns() < deadline) {
        char piece[5000];
        size_t n = host_pipe_take(t.out, piece, sizeof piece);
        for (size_t i = 0; i < n; i++)
            ok = ok && piece[i] == (char)('a' + (at + i) % 26);
        at += n;
        left -= n;
        if (!n)
            (void)usleep(100);
    }
    *(size_t *)arg = left;
    return ok ? arg : NULL;
}

static void a_blocking_write_has_no_size_limit(void **state)
{
    struct rig *r = *state;
    size_t left = 1000000;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, drain_all, &left), 0);
    assert_string_equal(rig_run(r, "output\nbwriten 0 1000000"), "0\nok");
    void *ok = NULL;
    assert_int_equal(pthread_join(thread, &ok), 0);
    assert_non_null(ok);
    assert_int_equal(left, 0);
    assert_int_equal(look(t.out).bytes, 0); /* flushed */
}

static void blocking_zeroes_wait_for_room_and_for_the_flush(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "output\nbzeroes 0 70000\nbflush 0");
    rig_until_parked(r, 1);
    assert_int_equal(look(t.out).bytes, CAPACITY);
    assert_int_equal(host_pipe_take(t.out, NULL, CAPACITY), CAPACITY);
    rig_until_parked(r, 1);
    assert_int_equal(host_pipe_take(t.out, NULL, CAPACITY), 70000 - CAPACITY);
    assert_string_equal(rig_answer(c), "0\nok\nok");
}

static void a_sink_that_closes_ends_a_waiting_write(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "output\nbzeroes 0 70000\ncheckw 0\nwrite 0 \nflush 0");
    rig_until_parked(r, 1);
    host_pipe_close(t.out);
    assert_string_equal(rig_answer(c), "0\nerr:closed\nerr:closed\nerr:closed\nerr:closed");
}

static void splices_move_bytes_past_the_guest(void **state)
{
    struct rig *r = *state;
    feed("0123456789");
    assert_string_equal(rig_run(r, "input\noutput\nsplice 1 0 4\nsplice 1 0 0\nsplice 1 0 99\n"
                                   "splice 1 0 99"),
                        "0\n1\n4\n0\n6\n0");
    assert_string_equal(drained(), "0123456789");
    struct rig_call *c = rig_start(r, "bsplice 1 0 99\nbsplice 1 0 99");
    rig_until_parked(r, 1);
    feed("more");
    rig_until_parked(r, 1);
    assert_string_equal(drained(), "more");
    host_pipe_end(t.in);
    assert_string_equal(rig_answer(c), "4\nerr:closed");
}

/* --- Pollables ----------------------------------------------------------------------------------- */

static void c05_48_stream_pollables_follow_readiness(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "input\noutput\nspoll 0 in\nspoll 1 out\nis-ready 0\n"
                                   "is-ready 1\nwait 0 1\ncheckw 1\nzeroes 1 65536\nis-ready 1"),
                        "0\n1\n0\n1\nfalse\ntrue\n1\n65536\nok\nfalse");
    struct rig_call *c = rig_start(r, "wait 0 1 0\nwait 1\nread 0 9");
    rig_until_parked(r, 1);
    feed("x");
    rig_until_parked(r, 1);
    assert_int_equal(host_pipe_take(t.out, NULL, 1), 1);
    assert_string_equal(rig_answer(c), "0,2\n0\n'x'");
    c = rig_start(r, "block 0\nread 0 1\nis-ready 0");
    rig_until_parked(r, 1);
    host_pipe_end(t.in);
    assert_string_equal(rig_answer(c), "ok\nerr:closed\ntrue");
}

static void a_stream_with_a_living_pollable_cannot_be_dropped(void **state)
{
    static const char *const scripts[] = { "input\nspoll 0 in\nindrop 0",
                                           "output\nspoll 0 out\noutdrop 0" };
    struct rig *r = *state;
    for (size_t i = 0; i < AST_ARRAY_LEN(scripts); i++) {
        struct rig_call *c = rig_start(r, scripts[i]);
        rig_wait(c);
        assert_int_equal(c->rc, AST_E_ABI);
        assert_non_null(strstr(c->error, "resource has children"));
        rig_end(c);
    }
    assert_true(look(t.in).is_closed);
    assert_true(look(t.out).is_ended);
}

static void dropping_tells_the_other_side(void **state)
{
    struct rig *r = *state;
    assert_string_equal(rig_run(r, "input\noutput\nspoll 0 in\npdrop 0\ncheckw 1\nwrite 1 bye\n"
                                   "indrop 0\noutdrop 1"),
                        "0\n1\n0\nok\n65536\nok\nok\nok");
    assert_true(look(t.in).is_closed);
    assert_int_equal(host_pipe_put(t.in, "x", 1), 0);
    assert_true(look(t.out).is_ended);
    assert_string_equal(drained(), "bye");
}

/* --- Unload and cancel --------------------------------------------------------------------------- */

static void unload_ends_waits_as_closed(void **state)
{
    struct rig *r = *state;
    struct rig_call *c =
        rig_start(r, "input\noutput\nbread 0 1\nread 0 1\nskip 0 1\ncheckw 1\nflush 1\n"
                     "bwrite 1 x\nsplice 1 0 1\nspoll 0 in\nblock 0");
    rig_until_parked(r, 1);
    rig_unload(r, c);
    assert_string_equal(rig_answer(c),
                        "0\n1\nerr:closed\nerr:closed\nerr:closed\nerr:closed\nerr:closed\n"
                        "err:closed\nerr:closed\n0\nerr:cancelled");
}

static void c05_51_nothing_of_a_cancelled_call_survives(void **state)
{
    static const char *const waits[] = { "bread 0 1",           "bzeroes 1 70000",
                                         "bsplice 1 0 5",       "spoll 0 in\nspoll 0 in\nblock 0",
                                         "pollable 0\nblock 0", "recv 0 60000" };
    struct rig *r = *state;
    rig_pool(r, 1, /* pinned= */ false);
    for (size_t i = 0; i < AST_ARRAY_LEN(waits); i++) {
        renew(&t.in, &t.in_changes);
        renew(&t.out, &t.out_changes);
        char script[128];
        (void)snprintf(script, sizeof script, "sub in.*\ninput\noutput\n%s", waits[i]);
        struct rig_call *c = rig_start(r, script);
        rig_until_parked(r, 1);
        ast_call_cancel(c->call);
        rig_wait(c);
        assert_int_equal(c->rc, AST_E_CANCELLED);
        rig_end(c);
        assert_true(look(t.in).is_closed);
        assert_true(look(t.out).is_ended);
        /* No subscription is left, and the handles start again. */
        rig_publish(r, "in.x", "1", "alice");
        assert_string_equal(rig_run(r, "subn 128 in.*"), "128");
    }
}

#define STREAM_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

RIG_MAIN(STREAM_TEST(reading_takes_what_is_there),
         STREAM_TEST(a_blocking_read_waits_for_the_first_byte),
         STREAM_TEST(a_failure_is_told_once_after_the_bytes_before_it),
         STREAM_TEST(a_full_pipe_takes_no_more), STREAM_TEST(writes_follow_the_permit),
         STREAM_TEST(a_write_beyond_the_permit_traps),
         STREAM_TEST(a_blocking_write_has_no_size_limit),
         STREAM_TEST(blocking_zeroes_wait_for_room_and_for_the_flush),
         STREAM_TEST(a_sink_that_closes_ends_a_waiting_write),
         STREAM_TEST(splices_move_bytes_past_the_guest),
         STREAM_TEST(c05_48_stream_pollables_follow_readiness),
         STREAM_TEST(a_stream_with_a_living_pollable_cannot_be_dropped),
         STREAM_TEST(dropping_tells_the_other_side), STREAM_TEST(unload_ends_waits_as_closed),
         STREAM_TEST(c05_51_nothing_of_a_cancelled_call_survives))
