/* Callers are served in turn, room is shared, and jobs of one kind can be taken together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <stdio.h>

#include "kernel/kernel_priv.h"

#include "base/banned.h"

/* Holds the thread until the test has posted what it wants in the queue. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static struct kernel_turns turns;
static char order[8192]; /* the letters of the jobs as they ran */
static size_t ran;

struct letter {
    struct kernel_job job;
    char c;
};

static void run_gate(struct kernel_job *job)
{
    (void)job;
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
}

static void run_letter(struct kernel_job *job)
{
    order[ran++] = AST_CONTAINER_OF(job, struct letter, job)->c;
}

static void run_together(struct kernel_job *job)
{
    struct kernel_job *more[3];
    size_t n = kernel_turns_more(&turns, run_together, more, 3);
    order[ran++] = '(';
    run_letter(job);
    for (size_t i = 0; i < n; i++)
        run_letter(more[i]);
    order[ran++] = ')';
}

static struct letter letters[4096];
static size_t used;

static enum ast_rc post(const char *caller, char c, void (*run)(struct kernel_job *job))
{
    struct letter *l = &letters[used++];
    *l = (struct letter){ .job = { .run = run }, .c = c };
    return kernel_turns_post(&turns, ast_str_c(caller), &l->job, NULL);
}

static int setup(void **state)
{
    static struct kernel_job first = { .run = run_gate };
    (void)state;
    turns = (struct kernel_turns){ .stop = false };
    ran = used = 0;
    memset(order, 0, sizeof order);
    pthread_mutex_lock(&gate);
    assert_int_equal(kernel_turns_start(&turns, "turns", NULL), AST_OK);
    assert_int_equal(kernel_turns_post(&turns, AST_STR("gate"), &first, NULL), AST_OK);
    /* Taken: from here on nothing runs until the gate opens. */
    for (;;) {
        AST_WITH_LOCK(&turns.lock);
        if (!turns.waiting)
            break;
    }
    return 0;
}

static const char *run_all(void)
{
    pthread_mutex_unlock(&gate);
    kernel_turns_stop(&turns);
    return order;
}

static void callers_are_served_in_turn(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(post("a", 'a', run_letter), AST_OK);
    assert_int_equal(post("b", 'b', run_letter), AST_OK);
    assert_int_equal(post("b", 'B', run_letter), AST_OK);
    assert_int_equal(post("c", 'c', run_letter), AST_OK);
    assert_string_equal(run_all(), "abcaBaa");
}

static void who_is_greedy_leaves_room_for_others(void **state)
{
    unsigned a = 0, b = 0, c = 0;
    (void)state;
    while (!post("a", 'a', run_letter))
        a++;
    while (!post("b", 'b', run_letter))
        b++;
    while (!post("c", 'c', run_letter))
        c++;
    assert_int_equal(a, 1024); /* half of all the room, alone */
    assert_int_equal(b, 512);
    assert_int_equal(c, 256);
    assert_int_equal(post("d", 'd', run_letter), AST_OK);
    assert_int_equal(post("a", 'a', run_letter), AST_E_BUSY);
    assert_memory_equal(run_all(), "abcd", 4);
    assert_int_equal(ran, a + b + c + 1);
    assert_int_equal(post("a", 'a', run_letter), AST_E_CLOSED);
}

static void jobs_of_a_kind_are_taken_together(void **state)
{
    (void)state;
    assert_int_equal(post("a", '1', run_together), AST_OK);
    assert_int_equal(post("b", 'x', run_letter), AST_OK);
    assert_int_equal(post("c", '2', run_together), AST_OK);
    assert_int_equal(post("a", '3', run_together), AST_OK);
    assert_int_equal(post("a", '4', run_together), AST_OK);
    assert_int_equal(post("a", '5', run_together), AST_OK);
    assert_int_equal(post("b", 'y', run_letter), AST_OK);
    assert_int_equal(post("b", '6', run_together), AST_OK); /* behind its caller's other jobs */
    assert_string_equal(run_all(), "(1234)x(5)y(6)");
}

#define T(f) cmocka_unit_test_setup(f, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(callers_are_served_in_turn),
        T(who_is_greedy_leaves_room_for_others),
        T(jobs_of_a_kind_are_taken_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
