/* Workers, timers and the ticker. Needs no guest but for the ticker. */
#include "rig.h"

#include <time.h>
#include <unistd.h>

/* --- Tasks --------------------------------------------------------------------------------------- */

struct counted {
    struct ast_task task;
    struct ast_sched *s;
    _Atomic unsigned *ran;
    unsigned again; /* posts itself that many times more */
    bool was_on_worker;
};

static void run_counted(struct ast_task *t)
{
    struct counted *c = AST_CONTAINER_OF(t, struct counted, task);
    c->was_on_worker = ast_sched_on_worker(c->s);
    bool again = c->again > 0;
    if (again)
        c->again--;
    _Atomic unsigned *ran = c->ran;
    if (again)
        ast_sched_post(c->s, t);
    ++*ran;
}

static void tasks_from_many_threads_all_run(void **state)
{
    struct rig r = rig_open(NULL, NULL, 3);
    _Atomic unsigned ran = 0;
    struct counted *c = calloc(2000, sizeof *c);
    for (int k = 0; k < 2000; k++) {
        c[k] = (struct counted){
            .task.run = run_counted, .s = r.sched, .ran = &ran, .again = (unsigned)k % 5
        };
        ast_sched_post(r.sched, &c[k].task);
        if (k % 100 == 0)
            rig_until(ran >= (unsigned)k / 2); /* lets workers fall asleep in between */
    }
    rig_until(ran == 2000 + 400 * (1 + 2 + 3 + 4));
    assert_false(ast_sched_on_worker(r.sched));
    rig_close(&r); /* joins: the flags may be read */
    for (int k = 0; k < 2000; k++)
        assert_true(c[k].was_on_worker);
    free(c);
}

struct ordered {
    struct ast_task task;
    unsigned *next;
    unsigned got;
};

static void run_ordered(struct ast_task *t)
{
    struct ordered *o = AST_CONTAINER_OF(t, struct ordered, task);
    o->got = (*o->next)++;
}

static void one_worker_runs_tasks_first_in_first_out(void **state)
{
    struct rig r = rig_open(NULL, NULL, 1);
    unsigned next = 0;
    struct ordered o[100];
    for (unsigned k = 0; k < 100; k++) {
        o[k] = (struct ordered){ .task.run = run_ordered, .next = &next };
        ast_sched_post(r.sched, &o[k].task);
    }
    rig_close(&r); /* runs what is queued, then joins */
    for (unsigned k = 0; k < 100; k++)
        assert_int_equal(o[k].got, k);
}

/* --- Timers -------------------------------------------------------------------------------------- */

struct timed {
    struct ast_sched_timer timer;
    int64_t deadline_ns, fired_ns;
    _Atomic unsigned fired;
    _Atomic unsigned *order;
    unsigned place;
};

static void on_timer(struct ast_sched_timer *t)
{
    struct timed *x = AST_CONTAINER_OF(t, struct timed, timer);
    x->fired_ns = ast_mono_ns();
    if (x->order)
        x->place = ++*x->order;
    x->fired++;
}

static void timers_fire_in_order_and_not_early(void **state)
{
    struct rig r = rig_open(NULL, NULL, 2);
    static const int64_t in_ms[] = { 12, 3, 9, 6, -1 };
    static const unsigned place[] = { 5, 2, 4, 3, 1 };
    struct timed x[5] = { 0 };
    _Atomic unsigned order = 0;
    int64_t now = ast_mono_ns();
    for (int k = 4; k >= 0; k--) { /* the one in the past first, then later, earlier, later ... */
        x[k].timer.fn = on_timer;
        x[k].order = &order;
        x[k].deadline_ns = now + in_ms[k] * AST_NS_PER_MS;
        ast_sched_timer_start(r.sched, &x[k].timer, x[k].deadline_ns);
    }
    for (int k = 0; k < 5; k++) {
        rig_until(x[k].fired == 1);
        assert_true(x[k].fired_ns >= x[k].deadline_ns);
        assert_int_equal(x[k].place, place[k]);
    }
    rig_close(&r);
}

static void a_stopped_timer_does_not_fire_and_a_restarted_one_fires_once(void **state)
{
    struct rig r = rig_open(NULL, NULL, 2);
    struct timed stopped = { .timer.fn = on_timer }, moved = { .timer.fn = on_timer };
    int64_t now = ast_mono_ns();
    ast_sched_timer_start(r.sched, &stopped.timer, now + 5 * AST_NS_PER_MS);
    ast_sched_timer_start(r.sched, &moved.timer, now + 3600 * AST_NS_PER_SEC);
    ast_sched_timer_start(r.sched, &moved.timer, now + 10 * AST_NS_PER_MS);
    ast_sched_timer_stop(r.sched, &stopped.timer);
    ast_sched_timer_stop(r.sched, &stopped.timer);
    rig_until(moved.fired == 1);
    assert_int_equal(stopped.fired, 0);
    ast_sched_timer_stop(r.sched, &moved.timer);
    rig_close(&r);
    assert_int_equal(moved.fired, 1);
}

struct slow {
    struct ast_sched_timer timer;
    _Atomic bool entered, may_leave, has_left;
};

static void on_slow(struct ast_sched_timer *t)
{
    struct slow *x = AST_CONTAINER_OF(t, struct slow, timer);
    x->entered = true;
    rig_until(x->may_leave);
    x->has_left = true;
}

struct stopper {
    struct ast_sched *s;
    struct slow *x;
    bool saw_left;
};

static void *stop_slow(void *arg)
{
    struct stopper *st = arg;
    ast_sched_timer_stop(st->s, &st->x->timer);
    st->saw_left = st->x->has_left;
    return NULL;
}

static void stop_waits_for_a_running_timer_function(void **state)
{
    struct rig r = rig_open(NULL, NULL, 2);
    struct slow x = { .timer.fn = on_slow };
    struct stopper st = { .s = r.sched, .x = &x };
    ast_sched_timer_start(r.sched, &x.timer, 0);
    rig_until(x.entered);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop_slow, &st), 0);
    x.may_leave = true;
    pthread_join(thread, NULL);
    assert_true(st.saw_left);
    rig_close(&r);
}

#define STORM 2000

static void *storm_timers(void *arg)
{
    struct rig *r = arg;
    struct timed x[8] = { 0 };
    for (int k = 0; k < 8; k++)
        x[k].timer.fn = on_timer;
    for (int k = 0; k < STORM; k++) {
        struct timed *t = &x[k % 8];
        ast_sched_timer_start(r->sched, &t->timer, ast_mono_ns() + (k % 3) * 20000);
        if (k % 2)
            ast_sched_timer_stop(r->sched, &t->timer);
    }
    for (int k = 0; k < 8; k++)
        ast_sched_timer_stop(r->sched, &x[k].timer); /* afterwards x may go away */
    return NULL;
}

static void timers_may_be_started_and_stopped_from_many_threads(void **state)
{
    struct rig r = rig_open(NULL, NULL, 2);
    pthread_t thread[4];
    for (int k = 0; k < 4; k++)
        assert_int_equal(pthread_create(&thread[k], NULL, storm_timers, &r), 0);
    for (int k = 0; k < 4; k++)
        pthread_join(thread[k], NULL);
    rig_close(&r);
}

/* --- The ticker ---------------------------------------------------------------------------------- */

/* How often this process's threads named "astrid-clock" have gone to sleep and come back. */
static unsigned long clock_switches(void)
{
    unsigned long sum = 0;
    char path[64], name[32], line[128];
    for (int tid = getpid(); tid < getpid() + 2000; tid++) {
        snprintf(path, sizeof path, "/proc/self/task/%d/comm", tid);
        FILE *f = fopen(path, "re");
        if (!f)
            continue;
        bool is_clock = fgets(name, sizeof name, f) && strncmp(name, "astrid-clock", 12) == 0;
        fclose(f);
        snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
        f = is_clock ? fopen(path, "re") : NULL;
        while (f && fgets(line, sizeof line, f))
            if (strncmp(line, "voluntary_ctxt_switches:", 24) == 0)
                sum += strtoul(line + 24, NULL, 10);
        if (f)
            fclose(f);
    }
    return sum;
}

static void an_idle_scheduler_does_not_tick(void **state)
{
    struct rig r = rig_open(RIG_GUEST(RIG_ECHO), NULL, 2);
    struct ast_instance *i = rig_lease(&r, "p");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg); /* starts the ticker */
    rig_finish(&rc);
    ast_pool_return(r.pool, i, true);
    /* After its quiet ticks the clock thread sleeps for ever: at last a window passes without it. */
    unsigned long before = 0, after = 1;
    for (int tries = 0; tries < 50 && before != after; tries++) {
        before = clock_switches();
        struct timespec window = { .tv_nsec =
                                       100 * 1000 * 1000 }; /* ten ticks would fall into it */
        nanosleep(&window, NULL);
        after = clock_switches();
    }
    assert_int_equal(before, after);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tasks_from_many_threads_all_run),
        cmocka_unit_test(one_worker_runs_tasks_first_in_first_out),
        cmocka_unit_test(timers_fire_in_order_and_not_early),
        cmocka_unit_test(a_stopped_timer_does_not_fire_and_a_restarted_one_fires_once),
        cmocka_unit_test(stop_waits_for_a_running_timer_function),
        cmocka_unit_test(timers_may_be_started_and_stopped_from_many_threads),
        cmocka_unit_test(an_idle_scheduler_does_not_tick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
