#include "base_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/thread.h"
#include "base/time.h"

#include "base/banned.h"

static struct ast_loop *loop;

static int setup(void **state)
{
    (void)state;
    return ast_loop_new(&loop, NULL) ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    ast_loop_free(loop);
    loop = NULL;
    return 0;
}

static void stop_now(void *arg)
{
    (void)arg;
    ast_loop_stop(loop);
}

static void *run_elsewhere(void *arg)
{
    (void)arg;
    ast_loop_run(loop);
    return NULL;
}

/* --- Posts --------------------------------------------------------------------------------- */

struct numbered {
    struct ast_post post;
    int from, nr;
};

static int next_nr[4];
static int total;
static struct numbered nodes[4][5000];

static void on_numbered(struct ast_post *post)
{
    struct numbered *n = AST_CONTAINER_OF(post, struct numbered, post);
    AST_ASSERT(ast_loop_is_mine(loop));
    AST_ASSERT(n->nr == next_nr[n->from]);
    next_nr[n->from]++;
    if (++total == 4 * 5000)
        ast_loop_stop(loop);
}

static void *post_many(void *arg)
{
    int from = (int)(intptr_t)arg;
    for (int i = 0; i < 5000; i++) {
        nodes[from][i] = (struct numbered){ { .fn = on_numbered }, from, i };
        ast_loop_post(loop, &nodes[from][i].post);
    }
    return NULL;
}

static void posts_arrive_in_the_order_of_each_thread(void **state)
{
    (void)state;
    pthread_t threads[4];
    total = 0;
    memset(next_nr, 0, sizeof next_nr);
    for (intptr_t i = 0; i < 4; i++)
        assert_int_equal(ast_thread_start(&threads[i], "poster", post_many, (void *)i, NULL),
                         AST_OK);
    ast_loop_run(loop);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(total, 4 * 5000);
}

static void again(struct ast_post *post)
{
    if (++total < 100)
        ast_loop_post(loop, post); /* its callback has started, so it may go again */
    else
        ast_loop_stop(loop);
}

static void a_node_may_be_posted_from_its_own_callback(void **state)
{
    (void)state;
    struct ast_post post = { .fn = again };
    total = 0;
    ast_loop_post(loop, &post);
    ast_loop_run(loop);
    assert_int_equal(total, 100);
}

static void count_up(void *arg)
{
    ++*(int *)arg;
}

static void what_was_posted_before_the_stop_still_runs(void **state)
{
    (void)state;
    int n = 0;
    assert_true(ast_loop_call(loop, stop_now, NULL));
    assert_true(ast_loop_call(loop, count_up, &n));
    ast_loop_run(loop);
    assert_int_equal(n, 1);
    assert_true(ast_loop_call(loop, count_up, &n)); /* never run, but not leaked either */
}

static void a_stop_before_the_run_ends_it_at_once_and_only_once(void **state)
{
    (void)state;
    int n = 0;
    ast_loop_stop(loop);
    ast_loop_run(loop);
    assert_true(ast_loop_call(loop, count_up, &n));
    assert_true(ast_loop_call(loop, stop_now, NULL));
    ast_loop_run(loop);
    assert_int_equal(n, 1);
}

static void the_loop_belongs_to_the_thread_that_runs_it(void **state)
{
    (void)state;
    assert_true(ast_loop_is_mine(loop));
    pthread_t t;
    struct ast_post post = { .fn = again };
    total = 98;
    assert_int_equal(ast_thread_start(&t, "runner", run_elsewhere, NULL, NULL), AST_OK);
    ast_loop_post(loop, &post);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_int_equal(total, 100);
    assert_false(ast_loop_is_mine(loop));
}

/* --- Timers -------------------------------------------------------------------------------- */

static struct ast_timer *ticker;

static void tick(void *arg)
{
    if (++*(int *)arg == 3) {
        ast_timer_close(ticker);
        ast_loop_stop(loop);
    }
}

static void a_repeating_timer_can_close_itself(void **state)
{
    (void)state;
    int n = 0;
    ticker = ast_timer_new(loop, tick, &n);
    int64_t start = ast_mono_ns();
    ast_timer_start(ticker, 2, 2);
    ast_loop_run(loop);
    assert_int_equal(n, 3);
    assert_true(ast_mono_ns() - start >= 5 * AST_NS_PER_MS);
}

static void a_stopped_timer_does_not_fire(void **state)
{
    (void)state;
    int early = 0, n = 0;
    struct ast_timer *never = ast_timer_new(loop, count_up, &early);
    ticker = ast_timer_new(loop, tick, &n);
    ast_timer_start(never, 1, 0);
    ast_timer_start(ticker, 3, 3);
    ast_timer_stop(never);
    ast_loop_run(loop);
    assert_int_equal(early, 0);
    ast_timer_start(never, 0, 0);
    ast_timer_close(never);
    ast_timer_close(NULL);
}

static int64_t started_at, fired_at;

static void note_fire(void *arg)
{
    (void)arg;
    fired_at = ast_mono_ns();
    ast_loop_stop(loop);
}

static void start_late(void *arg)
{
    /* A slow callback: the loop's clock is 20 ms behind when the timer is started. */
    int64_t until = ast_mono_ns() + 20 * AST_NS_PER_MS;
    while (ast_mono_ns() < until)
        ;
    started_at = ast_mono_ns();
    ast_timer_start(arg, 10, 0);
}

static void a_timer_started_in_a_slow_callback_is_not_early(void **state)
{
    (void)state;
    struct ast_timer *t = ast_timer_new(loop, note_fire, NULL);
    assert_true(ast_loop_call(loop, start_late, t));
    ast_loop_run(loop);
    assert_true(fired_at - started_at >= 9 * AST_NS_PER_MS);
    ast_timer_close(t);
}

/* --- Watches ------------------------------------------------------------------------------- */

static struct ast_watch *watch;
static char got[32];

static void on_readable(void *arg, unsigned events)
{
    int fd = *(int *)arg;
    assert_int_equal(events, AST_WATCH_READ);
    ssize_t n =
        read(fd, got + strlen(got), 1); /* one byte at a time: level-triggered calls again */
    if (n == 0) {
        ast_watch_close(watch);
        ast_loop_stop(loop);
    }
}

static void a_watch_is_level_triggered_and_sees_the_end(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    memset(got, 0, sizeof got);
    watch = ast_watch_new(loop, fds[0], on_readable, &fds[0]);
    assert_non_null(watch);
    ast_watch_set(watch, AST_WATCH_READ);
    assert_int_equal(write(fds[1], "abc", 3), 3);
    close(fds[1]);
    ast_loop_run(loop);
    assert_string_equal(got, "abc");
    close(fds[0]);
}

static unsigned seen_events;

static void note_events(void *arg, unsigned events)
{
    (void)arg;
    seen_events = events;
    ast_watch_set(watch, 0);
    ast_loop_stop(loop);
}

static void a_pause_keeps_the_watch_quiet(void **state)
{
    (void)state;
    int fds[2], n = 0;
    assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    watch = ast_watch_new(loop, fds[1], note_events, NULL);
    assert_non_null(watch);
    ast_watch_set(watch, AST_WATCH_WRITE);
    seen_events = 0;
    ast_loop_run(loop);
    assert_int_equal(seen_events, AST_WATCH_WRITE);

    seen_events = 0; /* paused by the callback: writable all the time, yet nobody calls */
    ticker = ast_timer_new(loop, tick, &n);
    ast_timer_start(ticker, 1, 1);
    ast_loop_run(loop);
    assert_int_equal(seen_events, 0);

    close(fds[0]); /* the reader is gone: an error, which must reach a waiting writer */
    ast_watch_set(watch, AST_WATCH_WRITE);
    ast_loop_run(loop);
    assert_true(seen_events & AST_WATCH_WRITE);
    ast_watch_close(watch);
    ast_watch_close(NULL);
    close(fds[1]);
}

static void a_descriptor_that_cannot_be_watched_is_refused(void **state)
{
    (void)state;
    assert_null(ast_watch_new(loop, -1, note_events, NULL));
    AST_AUTO(ast_fs_close) int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_null(ast_watch_new(loop, fd, note_events, NULL));
}

/* --- Signals ------------------------------------------------------------------------------- */

static void on_signal(void *arg, int signum)
{
    *(int *)arg = signum;
    ast_loop_stop(loop);
}

static void signals_arrive_on_the_loop(void **state)
{
    (void)state;
    int usr = 0, hup = 0;
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_loop_on_signal(loop, SIGUSR1, on_signal, &usr, &err), AST_OK);
    assert_int_equal(ast_loop_on_signal(loop, SIGHUP, on_signal, &hup, &err), AST_OK);
    assert_int_equal(ast_loop_on_signal(loop, 9999, on_signal, &hup, &err), AST_E_INVALID);
    kill(getpid(), SIGUSR1);
    ast_loop_run(loop);
    assert_int_equal(usr, SIGUSR1);
    assert_int_equal(hup, 0);
}

/* --- Work ---------------------------------------------------------------------------------- */

struct job {
    atomic_bool on_loop_thread;
    atomic_int worked;
    int done;
    bool done_on_loop_thread;
};

static void job_work(void *arg)
{
    struct job *j = arg;
    atomic_store(&j->on_loop_thread, ast_loop_is_mine(loop));
    atomic_fetch_add(&j->worked, 1);
}

static void job_done(void *arg)
{
    struct job *j = arg;
    j->done_on_loop_thread = ast_loop_is_mine(loop);
    if (++j->done == 2)
        ast_loop_stop(loop);
}

static void *queue_work(void *arg)
{
    AST_ASSERT(ast_loop_work(loop, job_work, job_done, arg));
    return NULL;
}

static void work_runs_elsewhere_and_ends_on_the_loop(void **state)
{
    (void)state;
    struct job j = { 0 };
    pthread_t t;
    assert_true(ast_loop_work(loop, job_work, job_done, &j));
    assert_int_equal(ast_thread_start(&t, "other", queue_work, &j, NULL), AST_OK);
    ast_loop_run(loop);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_int_equal(j.worked, 2);
    assert_int_equal(j.done, 2);
    assert_false(j.on_loop_thread);
    assert_true(j.done_on_loop_thread);
}

static void free_waits_for_work_in_flight(void **state)
{
    (void)state;
    struct job j = { 0 };
    for (int i = 0; i < 2; i++)
        assert_true(ast_loop_work(loop, job_work, job_done, &j));
    ast_loop_free(loop);
    assert_int_equal(j.worked, 2);
    assert_int_equal(j.done, 2);
    assert_int_equal(ast_loop_new(&loop, NULL), AST_OK);
}

static void free_closes_what_was_left_open(void **state)
{
    (void)state;
    int fds[2], n = 0;
    assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    struct ast_timer *t = ast_timer_new(loop, count_up, &n);
    ast_timer_start(t, 0, 1);
    watch = ast_watch_new(loop, fds[1], note_events, NULL);
    ast_watch_set(watch, AST_WATCH_WRITE);
    ast_loop_free(loop); /* the leak checker has the last word */
    close(fds[0]);
    close(fds[1]);
    assert_int_equal(ast_loop_new(&loop, NULL), AST_OK);
}

/* --- Directories --------------------------------------------------------------------------- */

static char dir_path[64];
static unsigned dir_events;
static struct ast_dirwatch *dir_watch;

static void on_dir_event(void *arg, const char *name)
{
    const char *want = arg;
    AST_ASSERT(ast_loop_is_mine(loop));
    if (!name || strcmp(name, want) != 0)
        return;
    dir_events++;
    ast_dirwatch_close(ast_steal(&dir_watch)); /* allowed in here */
    ast_loop_stop(loop);
}

static void make_file(void *arg)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", dir_path, (const char *)arg);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    AST_ASSERT(fd >= 0);
    close(fd);
}

static void test_a_directory_tells_what_changes_in_it(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    char path[128], other[] = "other", wanted[] = "wanted";
    (void)state;
    (void)snprintf(dir_path, sizeof dir_path, "/tmp/astrid-loop-XXXXXX");
    assert_non_null(mkdtemp(dir_path));
    dir_events = 0;
    assert_int_equal(ast_dirwatch_new(loop, dir_path, on_dir_event, wanted, &dir_watch, &err),
                     AST_OK);
    assert_true(ast_loop_call(loop, make_file, other));
    assert_true(ast_loop_call(loop, make_file, wanted));
    ast_loop_run(loop);
    assert_int_equal(dir_events, 1);
    assert_null(dir_watch);
    (void)snprintf(path, sizeof path, "%s/absent", dir_path);
    assert_int_equal(ast_dirwatch_new(loop, path, on_dir_event, wanted, &dir_watch, &err),
                     AST_E_NOT_FOUND);
    assert_null(dir_watch);
    assert_non_null(strstr(err.msg, path));
    ast_dirwatch_close(NULL);
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", dir_path, i ? other : wanted);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(dir_path), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_directory_tells_what_changes_in_it),
        TEST(posts_arrive_in_the_order_of_each_thread),
        TEST(a_node_may_be_posted_from_its_own_callback),
        TEST(what_was_posted_before_the_stop_still_runs),
        TEST(a_stop_before_the_run_ends_it_at_once_and_only_once),
        TEST(the_loop_belongs_to_the_thread_that_runs_it),
        TEST(a_repeating_timer_can_close_itself),
        TEST(a_stopped_timer_does_not_fire),
        TEST(a_timer_started_in_a_slow_callback_is_not_early),
        TEST(a_watch_is_level_triggered_and_sees_the_end),
        TEST(a_pause_keeps_the_watch_quiet),
        TEST(a_descriptor_that_cannot_be_watched_is_refused),
        TEST(signals_arrive_on_the_loop),
        TEST(work_runs_elsewhere_and_ends_on_the_loop),
        TEST(free_waits_for_work_in_flight),
        TEST(free_closes_what_was_left_open),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
