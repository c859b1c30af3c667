/* What is acknowledged survives kill -9; what is not is whole or absent. */
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "crypto/secret.h"

#include "base/banned.h"

enum { ROUNDS = 24, WRITERS = 4, PARTS = 3 };

/* Each change puts three rows of one number, small, middle and on pages of its own, and moves the writer's
 * head row; half a change would leave them different. */
struct change {
    unsigned round, writer, number;
};

static const size_t part_bytes[PARTS] = { 20, 700, 9000 };

static struct ast_str key_of(const struct change *c, int part, char out[static 48])
{
    int n = part < 0 ? snprintf(out, 48, "head/%u", c->writer)
                     : snprintf(out, 48, "%u/%u/%06u/%d", c->round, c->writer, c->number, part);
    return ast_str_n(out, (size_t)n);
}

static struct ast_str value_of_part(const struct change *c, int part, char out[static 9000])
{
    memset(out, 'a' + (int)(c->number % 26), part_bytes[part]);
    (void)snprintf(out, 20, "%u/%u", c->writer, c->number);
    return ast_str_n(out, part_bytes[part]);
}

#define NS AST_STR("alice:capsule:crash")

static enum ast_rc put_change(struct ast_store_txn *txn, void *arg, struct ast_err *err)
{
    const struct change *c = arg;
    char key[48], value[9000], head[16];
    for (int part = 0; part < PARTS; part++) {
        enum ast_rc rc =
            ast_store_txn_put(txn, NS, key_of(c, part, key), value_of_part(c, part, value), err);
        if (rc)
            return rc;
    }
    int n = snprintf(head, sizeof head, "%u", c->number);
    return ast_store_txn_put(txn, NS, key_of(c, -1, key), ast_str_n(head, (size_t)n), err);
}

struct child_writer {
    struct ast_store *store;
    unsigned round, writer;
    int ack;
};

/* Writes for ever and tells each number that was acknowledged. */
static void *write_for_ever(void *arg)
{
    const struct child_writer *w = arg;
    struct change c = { .round = w->round, .writer = w->writer };
    for (;; c.number++) {
        if (run_fn(w->store, put_change, &c, NULL))
            _exit(3);
        if (write(w->ack, &c, sizeof c) != sizeof c) /* smaller than PIPE_BUF: whole */
            _exit(4);
    }
    return NULL;
}

static void child_main(const char *dir, unsigned round, int ack)
{
    struct ast_store *store = NULL;
    struct ast_store_config cfg = { .path = dir };
    if (ast_store_open(&cfg, &store, NULL))
        _exit(2);
    pthread_t threads[WRITERS];
    struct child_writer writers[WRITERS];
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct child_writer){ store, round, i, ack };
        if (pthread_create(&threads[i], NULL, write_for_ever, &writers[i]))
            _exit(5);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
}

/* Reads acknowledgements into `acked` (count per writer) until `until`, then kills and reads the rest. */
static void run_child(const char *dir, unsigned round, int64_t until_us,
                      unsigned acked[static WRITERS])
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)close(ends[0]);
        child_main(dir, round, ends[1]);
        _exit(6);
    }
    (void)close(ends[1]);

    struct change c;
    ssize_t n;
    int64_t deadline = 0; /* counts from the first acknowledgement, whatever the start took */
    bool is_killed = false;
    while ((n = TEMP_FAILURE_RETRY(read(ends[0], &c, sizeof c))) > 0) {
        assert_int_equal(n, sizeof c);
        assert_int_equal(c.number, acked[c.writer]); /* in order, none twice */
        acked[c.writer]++;
        if (!deadline)
            deadline = ast_mono_ns() + until_us * 1000;
        if (!is_killed && ast_mono_ns() >= deadline) {
            assert_int_equal(kill(child, SIGKILL), 0);
            is_killed = true;
        }
    }
    (void)close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(is_killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static bool has_part(struct ast_store *s, const struct change *c, int part)
{
    char key[48], value[9000];
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(10000);
    bool found = false;
    assert_int_equal(ast_store_get(s, NS, key_of(c, part, key), &out, &found, NULL), AST_OK);
    if (found)
        assert_true(ast_str_eq(ast_buf_view(&out), value_of_part(c, part, value)));
    return found;
}

/* Every acknowledged change is there, the one in flight is whole or absent, none lies beyond it. */
static void check_round(struct ast_store *s, unsigned round, const unsigned acked[static WRITERS])
{
    for (unsigned writer = 0; writer < WRITERS; writer++) {
        for (unsigned number = 0; number < acked[writer] + 2; number++) {
            struct change c = { round, writer, number };
            bool first = has_part(s, &c, 0);
            for (int part = 1; part < PARTS; part++)
                assert_int_equal(has_part(s, &c, part), first);
            if (number < acked[writer])
                assert_true(first);
            if (number > acked[writer])
                assert_false(first);
            if (!first)
                continue;
            char key[48], head[16];
            (void)snprintf(head, sizeof head, "%u", number);
            if (number + 1 >= acked[writer] &&
                !has_part(s, &(struct change){ round, writer, number + 1 }, 0))
                assert_string_equal(value_of(s, NS, key_of(&c, -1, key)), head);
        }
    }
}

static void acknowledged_changes_survive_sigkill(void **state)
{
    struct fixture *f = *state;
    unsigned total = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint16_t random;
        unsigned acked[WRITERS] = { 0 };
        ast_random(&random, sizeof random);
        fixture_close(f);
        run_child(f->dir, round, random % 25000, acked);
        fixture_open(f, NULL); /* no recovery step, no stale lock */
        check_round(f->store, round, acked);
        for (int i = 0; i < WRITERS; i++)
            total += acked[i];
    }
    assert_true(total >= ROUNDS);
    print_message("# %u acknowledged changes over %d kills\n", total, ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = { STORE_TEST(acknowledged_changes_survive_sigkill) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
