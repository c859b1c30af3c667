#include "base_test.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checked_priv.h"
#include "base/cpu_priv.h"
#include "base/thread.h"
#include "base/time.h"

#include "base/banned.h"

static struct ast_lock lock;
static pthread_cond_t cond;
static int counter;

static void *add_many(void *arg)
{
    (void)arg;
    for (int i = 0; i < 20000; i++) {
        AST_WITH_LOCK(&lock);
        ast_lock_assert_held(&lock);
        counter++;
    }
    return NULL;
}

static void a_lock_excludes(void **state)
{
    (void)state;
    pthread_t threads[4];
    counter = 0;
    ast_lock_init(&lock, AST_LOCK_bus);
    for (size_t i = 0; i < AST_ARRAY_LEN(threads); i++)
        assert_int_equal(ast_thread_start(&threads[i], "adder", add_many, NULL, NULL), AST_OK);
    for (size_t i = 0; i < AST_ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(counter, 4 * 20000);
    ast_lock_done(&lock);
}

static void *signal_one(void *arg)
{
    (void)arg;
    AST_WITH_LOCK(&lock);
    counter = 1;
    pthread_cond_signal(&cond);
    return NULL;
}

static void a_wait_ends_with_the_signal_or_the_deadline(void **state)
{
    (void)state;
    ast_lock_init(&lock, AST_LOCK_queue);
    ast_cond_init(&cond);
    counter = 0;
    pthread_t t;
    ast_lock(&lock);
    assert_int_equal(ast_thread_start(&t, "signaller", signal_one, NULL, NULL), AST_OK);
    while (!counter)
        assert_true(ast_cond_wait(&cond, &lock, -1));
    ast_lock_assert_held(&lock);

    int64_t deadline = ast_mono_ns() + 5 * AST_NS_PER_MS;
    while (ast_cond_wait(&cond, &lock, deadline)) /* wakes by chance are allowed */
        ;
    assert_true(ast_mono_ns() >= deadline);
    assert_false(ast_cond_wait(&cond, &lock, 0));
    ast_unlock(&lock);
    assert_int_equal(pthread_join(t, NULL), 0);
    pthread_cond_destroy(&cond);
    ast_lock_done(&lock);
}

/* The child's way to die: 0 when it came to its end. */
static int signal_of(void (*fn)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(9);
        signal(SIGABRT, SIG_DFL);
        fn();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void release_what_is_free(void)
{
    ast_lock_init(&lock, AST_LOCK_bus);
    ast_unlock(&lock);
}

static void take_in_order(void)
{
    struct ast_lock low, high;
    ast_lock_init(&low, AST_LOCK_bus);
    ast_lock_init(&high, AST_LOCK_log);
    ast_lock(&low);
    ast_lock(&high);
    ast_unlock(&low); /* any order of release */
    ast_unlock(&high);
    ast_lock(&low);
    ast_unlock(&low);
}

static void take_against_order(void)
{
    struct ast_lock low, high;
    ast_lock_init(&low, AST_LOCK_bus);
    ast_lock_init(&high, AST_LOCK_log);
    ast_lock(&high);
    ast_lock(&low);
}

static void take_two_of_a_kind(void)
{
    struct ast_lock a, b;
    ast_lock_init(&a, AST_LOCK_bus);
    ast_lock_init(&b, AST_LOCK_bus);
    ast_lock(&a);
    ast_lock(&b);
}

static void broken_promises_about_locks_end_the_process(void **state)
{
    (void)state;
    assert_int_equal(signal_of(release_what_is_free), SIGABRT);
    assert_int_equal(signal_of(take_in_order), 0);
    assert_int_equal(signal_of(take_against_order), AST_CHECKED_BUILD ? SIGABRT : 0);
    assert_int_equal(signal_of(take_two_of_a_kind), AST_CHECKED_BUILD ? SIGABRT : 0);
}

struct seen {
    char name[16];
    sigset_t mask;
};

static void *look_around(void *arg)
{
    struct seen *s = arg;
    pthread_getname_np(pthread_self(), s->name, sizeof s->name);
    pthread_sigmask(SIG_SETMASK, NULL, &s->mask);
    return NULL;
}

static void a_thread_has_its_name_and_leaves_signals_alone(void **state)
{
    (void)state;
    static const int blocked[] = { SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGPIPE, SIGUSR1, SIGALRM };
    static const int open[] = { SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP };
    struct seen s = { 0 };
    pthread_t t;
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    assert_int_equal(ast_thread_start(&t, "a-name-that-is-too-long", look_around, &s, NULL),
                     AST_OK);
    assert_int_equal(pthread_join(t, NULL), 0);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    assert_string_equal(s.name, "a-name-that-is-");
    for (size_t i = 0; i < AST_ARRAY_LEN(blocked); i++)
        assert_int_equal(sigismember(&s.mask, blocked[i]), 1);
    for (size_t i = 0; i < AST_ARRAY_LEN(open); i++)
        assert_int_equal(sigismember(&s.mask, open[i]), 0);
    for (int sig = 1; sig < 32; sig++)
        assert_int_equal(sigismember(&before, sig), sigismember(&after, sig));
}

/* --- Processors ---------------------------------------------------------------------------- */

static char *root;

static void put(const char *name, const char *text)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(root, name);
    AST_AUTO(ast_cfree)
    char *parent = ast_str_dup(ast_str_n(path, (size_t)(strrchr(path, '/') - path)));
    assert_int_equal(ast_fs_mkdirs(parent, 0700, NULL), AST_OK);
    assert_int_equal(ast_fs_write_atomic(path, ast_str_c(text), 0600, 0, NULL), AST_OK);
}

static void the_smallest_quota_on_the_way_up_counts(void **state)
{
    (void)state;
    root = temp_dir_make();
    put("plain/cpu.max", "max 100000\n");
    put("half/cpu.max", "50000 100000\n");
    put("three/cpu.max", "250001 100000\n");
    put("a/cpu.max", "200000 100000\n");
    put("a/b/cpu.max", "400000 100000\n");
    put("a/b/c/cpu.max", "max 100000\n");
    put("odd/cpu.max", "many of them\n");
    put("zero/cpu.max", "100000 0\n");
    put("cpu,cpuacct/v1/cpu.cfs_quota_us", "150000\n");
    put("cpu,cpuacct/v1/cpu.cfs_period_us", "100000\n");
    put("cpu/free/cpu.cfs_quota_us", "-1\n");
    put("cpu/free/cpu.cfs_period_us", "100000\n");
    put("cpu/group/cpu.cfs_quota_us", "700000\n");
    put("cpu/group/cpu.cfs_period_us", "100000\n");
    static const struct {
        const char *text;
        unsigned want;
    } rows[] = {
        { "", 0 },
        { "garbage", 0 },
        { "0::", 0 },
        { "0::/\n", 0 },
        { "0::/plain\n", 0 },
        { "0::/half\n", 1 },
        { "0::/three\n", 3 },
        { "0::/a/b\n", 2 },
        { "0::/a/b/c\n", 2 },
        { "0::/odd\n", 0 },
        { "0::/zero\n", 0 },
        { "0::/none/of/them\n", 0 },
        { "5:memory:/half\n4:cpu,cpuacct:/v1\n", 2 },
        { "4:cpuset:/v1\n", 0 },
        { "4:cpu:/free\n", 0 },
        { "4:cpu:/group\n0::/three\n", 3 },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        unsigned got = base_cpu_quota(ast_str_c(rows[i].text), root);
        if (got != rows[i].want)
            fail_msg("%s: %u instead of %u", rows[i].text, got, rows[i].want);
    }
    /* Inside a container the root itself carries the quota. */
    put("cpu.max", "100000 100000\n");
    assert_int_equal(base_cpu_quota(AST_STR("0::/somewhere/outside\n"), root), 1);
    temp_dir_drop(root);
}

static void the_count_respects_affinity(void **state)
{
    (void)state;
    cpu_set_t old, one;
    assert_int_equal(sched_getaffinity(0, sizeof old, &old), 0);
    unsigned all = ast_cpu_count();
    assert_true(all >= 1 && all <= (unsigned)CPU_COUNT(&old));
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &old)) {
            CPU_SET(cpu, &one);
            break;
        }
    }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(ast_cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof old, &old), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lock_excludes),
        cmocka_unit_test(a_wait_ends_with_the_signal_or_the_deadline),
        cmocka_unit_test(broken_promises_about_locks_end_the_process),
        cmocka_unit_test(a_thread_has_its_name_and_leaves_signals_alone),
        cmocka_unit_test(the_smallest_quota_on_the_way_up_counts),
        cmocka_unit_test(the_count_respects_affinity),
    };
    return cmocka_run_group_tests_name("thread", tests, NULL, NULL);
}
