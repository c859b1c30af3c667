/* Mailboxes alone, with threads of our own as workers: order per principal, nothing lost,
 * nothing left behind. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/time.h"
#include "capsule/mailbox_priv.h"
#include "capsule/seat_priv.h"

/* Numbers travel as the address of the message; nobody looks behind it. */
static struct mailbox_item number(uintptr_t n)
{
    return (struct mailbox_item){ .msg = (struct ast_msg *)n };
}

static struct capsule_seat *seat(const char *id)
{
    struct capsule_seat *s = NULL;
    assert_int_equal(seat_new(ast_str_c(id), &s, NULL), AST_OK);
    return s;
}

/* --- By hand: one thread, tasks run when the test says so ------------------------------------- */

struct hand {
    struct mailboxes boxes;
    struct ast_task *tasks[64];
    unsigned n;
    struct mailbox *running[64]; /* items under way, in the order they began */
    unsigned running_n;
};

static void hand_post(void *arg, struct ast_task *t)
{
    struct hand *h = arg;
    assert_true(h->n < AST_ARRAY_LEN(h->tasks));
    h->tasks[h->n++] = t;
}

static void hand_run(struct mailbox *m)
{
    struct hand *h = m->table->arg;
    h->running[h->running_n++] = m;
}

static void hand_step(struct hand *h)
{
    assert_true(h->n > 0);
    struct ast_task *t = h->tasks[0];
    memmove(h->tasks, h->tasks + 1, --h->n * sizeof h->tasks[0]);
    t->run(t);
}

static struct mailbox *hand_take(struct hand *h)
{
    assert_true(h->running_n > 0);
    struct mailbox *m = h->running[0];
    memmove(h->running, h->running + 1, --h->running_n * sizeof h->running[0]);
    return m;
}

static enum mailbox_put put(struct hand *h, struct capsule_seat *s, const char *principal,
                            uintptr_t n, enum mailbox_put_kind kind, struct mailbox_chain *chain)
{
    bool degraded;
    struct mailbox_item item = number(n);
    item.chain = chain;
    enum mailbox_put result =
        mailboxes_put(&h->boxes, s, ast_str_c(principal), &item, kind, &degraded);
    assert_false(degraded);
    return result;
}

static void c04_30_the_bound_is_sixty_four_waiting_and_one_running(void **state)
{
    struct hand h = { 0 };
    struct capsule_seat *s = seat("a");
    mailboxes_init(&h.boxes, hand_post, hand_run, &h);
    for (int started = 0; started < 2;
         started++) { /* the first may wait for a worker or run already */
        assert_int_equal(put(&h, s, "p", 0, MAILBOX_SINGLE, NULL), MAILBOX_QUEUED);
        if (started)
            hand_step(&h);
        for (uintptr_t i = 1; i <= 64; i++)
            assert_int_equal(put(&h, s, "p", i, MAILBOX_SINGLE, NULL), MAILBOX_QUEUED);
        assert_int_equal(put(&h, s, "p", 99, MAILBOX_SINGLE, NULL), MAILBOX_FULL);
        assert_int_equal(put(&h, s, "q", 7, MAILBOX_SINGLE, NULL),
                         MAILBOX_QUEUED); /* another's room */
        for (uintptr_t i = 0; i <= 64; i++) {
            if (!h.running_n)
                hand_step(&h);
            struct mailbox *m = hand_take(&h);
            if (ast_str_is(ast_principal_str(&m->principal), "q")) {
                mailbox_next(m);
                i--;
                continue;
            }
            assert_int_equal((uintptr_t)m->current.msg, i);
            mailbox_next(m);
        }
        while (h.n) {
            hand_step(&h);
            mailbox_next(hand_take(&h));
        }
        assert_int_equal(atomic_load(&h.boxes.count), 0);
        assert_int_equal(atomic_load(&s->mailboxes), 0);
    }
    mailboxes_done(&h.boxes);
    seat_free(s);
}

static void a_chain_holds_its_home_and_counts_against_it(void **state)
{
    struct hand h = { 0 };
    struct capsule_seat *a = seat("a"), *b = seat("b");
    struct mailbox_chain chains[65] = { 0 }, one_more = { 0 };
    struct ast_task *b_task = NULL;
    mailboxes_init(&h.boxes, hand_post, hand_run, &h);
    for (size_t i = 0; i < AST_ARRAY_LEN(chains); i++) { /* each leaves its home for b */
        assert_int_equal(put(&h, a, "p", i, MAILBOX_CHAIN_START, &chains[i]), MAILBOX_QUEUED);
        hand_step(&h);
        struct mailbox *m = hand_take(&h);
        assert_ptr_equal(chains[i].home, m);
        assert_int_equal(put(&h, b, "p", i, MAILBOX_CHAIN_STEP, &chains[i]), MAILBOX_QUEUED);
        mailbox_next(m);
        assert_ptr_equal(chains[i].home, chains[0].home); /* kept by the first one */
        if (h.n)
            b_task = h.tasks[0];
        h.n = 0; /* b's turn comes later */
    }
    assert_int_equal(put(&h, a, "p", 1, MAILBOX_CHAIN_START, &one_more), MAILBOX_FULL);
    assert_int_equal(put(&h, a, "p", 1, MAILBOX_SINGLE, NULL),
                     MAILBOX_QUEUED); /* singles have room */
    assert_non_null(b_task);
    h.tasks[h.n++] = b_task;
    while (h.n) {
        hand_step(&h);
        struct mailbox *m = hand_take(&h);
        if (m->current.chain)
            mailbox_chain_over(m->current.chain->home);
        mailbox_next(m);
    }
    assert_int_equal(atomic_load(&h.boxes.count), 0);
    mailboxes_done(&h.boxes);
    seat_free(a);
    seat_free(b);
}

static void the_ten_thousand_and_first_principal_shares_the_system_mailbox(void **state)
{
    struct hand h = { 0 };
    struct capsule_seat *s = seat("a"), *other = seat("b");
    char name[32];
    bool degraded;
    mailboxes_init(&h.boxes, hand_post, hand_run, &h);
    struct ast_task **tasks = malloc((MAILBOX_PER_CAPSULE + 2) * sizeof(struct ast_task *));
    assert_non_null(tasks);
    for (unsigned i = 0; i < MAILBOX_PER_CAPSULE + 2; i++) {
        struct mailbox_item item = number(i);
        snprintf(name, sizeof name, "p%u", i);
        h.n = 0;
        assert_int_equal(
            mailboxes_put(&h.boxes, s, ast_str_c(name), &item, MAILBOX_SINGLE, &degraded),
            MAILBOX_QUEUED);
        assert_int_equal(degraded, i >= MAILBOX_PER_CAPSULE);
        tasks[i] = h.n ? h.tasks[0] : NULL; /* the second degraded one joins the first */
        assert_int_equal(!tasks[i], i == MAILBOX_PER_CAPSULE + 1);
    }
    assert_int_equal(atomic_load(&s->mailboxes), MAILBOX_PER_CAPSULE);
    h.n = 0;
    struct mailbox_item item = number(1);
    assert_int_equal(mailboxes_put(&h.boxes, other, AST_STR("q"), &item, MAILBOX_SINGLE, &degraded),
                     MAILBOX_QUEUED);
    assert_false(degraded); /* the cap is per capsule */
    for (unsigned i = 0; i < MAILBOX_PER_CAPSULE + 2; i++) {
        if (!tasks[i])
            continue;
        tasks[i]->run(tasks[i]);
        mailbox_next(hand_take(&h));
    }
    while (h.n) {
        hand_step(&h);
        mailbox_next(hand_take(&h));
    }
    assert_int_equal(atomic_load(&h.boxes.count), 0);
    free(tasks);
    mailboxes_done(&h.boxes);
    seat_free(s);
    seat_free(other);
}

/* --- With threads: the model is a counter per (seat, principal) ------------------------------- */

enum { WORKERS = 3, PUBLISHERS = 4, SEATS = 2, PRINCIPALS = 40, EACH = 3000 };

struct pool {
    struct mailboxes boxes;
    pthread_mutex_t m;
    pthread_cond_t some;
    struct ast_task *first, *last;
    bool stop;
    struct capsule_seat *seats[SEATS];
    /* Per publisher, seat and principal: the last number that ran. Written inside the mailbox's
     * turn only. */
    uintptr_t seen[PUBLISHERS][SEATS][PRINCIPALS];
    atomic_int inside[SEATS][PRINCIPALS];
    atomic_ulong ran, refused, accepted;
};

static void pool_post(void *arg, struct ast_task *t)
{
    struct pool *p = arg;
    pthread_mutex_lock(&p->m);
    t->next = NULL;
    if (p->last)
        p->last->next = t;
    else
        p->first = t;
    p->last = t;
    pthread_cond_signal(&p->some);
    pthread_mutex_unlock(&p->m);
}

static void *pool_worker(void *arg)
{
    struct pool *p = arg;
    for (;;) {
        pthread_mutex_lock(&p->m);
        while (!p->first && !p->stop)
            pthread_cond_wait(&p->some, &p->m);
        struct ast_task *t = p->first;
        if (t && !(p->first = t->next))
            p->last = NULL;
        pthread_mutex_unlock(&p->m);
        if (!t)
            return NULL;
        t->run(t);
    }
}

static void finish(struct mailbox *m)
{
    struct pool *p = m->table->arg;
    unsigned principal = (unsigned)strtoul(m->principal.name + 1, NULL, 10),
             at = m->seat == p->seats[1];
    atomic_fetch_sub(&p->inside[at][principal], 1);
    atomic_fetch_add(&p->ran, 1);
    mailbox_next(m);
}

static void pool_run(struct mailbox *m)
{
    struct pool *p = m->table->arg;
    unsigned principal = (unsigned)strtoul(m->principal.name + 1, NULL, 10),
             at = m->seat == p->seats[1];
    uintptr_t n = (uintptr_t)m->current.msg, who = n % PUBLISHERS;
    if (atomic_fetch_add(&p->inside[at][principal], 1) != 0)
        abort(); /* two at once */
    if (n <= p->seen[who][at][principal])
        abort(); /* out of order */
    p->seen[who][at][principal] = n;
    if (n % 7 == 0)
        mailbox_resume(m, finish); /* as a call that waits for an instance */
    else
        finish(m);
}

struct publisher {
    struct pool *p;
    unsigned who;
};

static void *publish(void *arg)
{
    struct publisher *me = arg;
    struct pool *p = me->p;
    for (uintptr_t i = 1; i <= EACH; i++) {
        char name[16];
        bool degraded;
        unsigned seat_at = (unsigned)(i / 3 + me->who) % SEATS;
        snprintf(name, sizeof name, "p%u", (unsigned)(i * 31 + me->who) % PRINCIPALS);
        struct mailbox_item item = number(i * PUBLISHERS + me->who);
        enum mailbox_put r = mailboxes_put(&p->boxes, p->seats[seat_at], ast_str_c(name), &item,
                                           MAILBOX_SINGLE, &degraded);
        atomic_fetch_add(r == MAILBOX_QUEUED ? &p->accepted : &p->refused, 1);
        if (i % 64 == 0)
            sched_yield(); /* lets mailboxes run empty and disappear */
    }
    return NULL;
}

static void c04_34_nothing_is_lost_while_mailboxes_come_and_go_and_order_holds(void **state)
{
    static struct pool p;
    pthread_t workers[WORKERS], publishers[PUBLISHERS];
    struct publisher args[PUBLISHERS];
    p = (struct pool){ .m = PTHREAD_MUTEX_INITIALIZER, .some = PTHREAD_COND_INITIALIZER };
    mailboxes_init(&p.boxes, pool_post, pool_run, &p);
    for (int i = 0; i < SEATS; i++)
        p.seats[i] = seat(i ? "b" : "a");
    for (int i = 0; i < WORKERS; i++)
        assert_int_equal(pthread_create(&workers[i], NULL, pool_worker, &p), 0);
    for (unsigned i = 0; i < PUBLISHERS; i++) {
        args[i] = (struct publisher){ &p, i };
        assert_int_equal(pthread_create(&publishers[i], NULL, publish, &args[i]), 0);
    }
    for (int i = 0; i < PUBLISHERS; i++)
        pthread_join(publishers[i], NULL);
    assert_true(mailboxes_drain(&p.boxes, ast_mono_ns() + 60 * AST_NS_PER_SEC));
    pthread_mutex_lock(&p.m);
    p.stop = true;
    pthread_cond_broadcast(&p.some);
    pthread_mutex_unlock(&p.m);
    for (int i = 0; i < WORKERS; i++)
        pthread_join(workers[i], NULL);
    assert_int_equal(atomic_load(&p.ran), atomic_load(&p.accepted));
    assert_int_equal(atomic_load(&p.accepted) + atomic_load(&p.refused), PUBLISHERS * EACH);
    mailboxes_done(&p.boxes);
    for (int i = 0; i < SEATS; i++) {
        assert_int_equal(atomic_load(&p.seats[i]->mailboxes), 0);
        seat_free(p.seats[i]);
    }
}

static void a_hundred_thousand_principals_seen_once_leave_nothing(void **state)
{
    static struct hand h;
    struct capsule_seat *s = seat("a");
    char name[32];
    h = (struct hand){ 0 };
    mailboxes_init(&h.boxes, hand_post, hand_run, &h);
    for (unsigned i = 0; i < 100000; i++) {
        snprintf(name, sizeof name, "p%u", i);
        assert_int_equal(put(&h, s, name, i, MAILBOX_SINGLE, NULL), MAILBOX_QUEUED);
        hand_step(&h);
        mailbox_next(hand_take(&h));
    }
    assert_int_equal(atomic_load(&h.boxes.count), 0);
    size_t buckets = 0;
    for (size_t i = 0; i < MAILBOX_SHARDS; i++)
        buckets += h.boxes.shards[i].cap;
    assert_in_range(buckets, 0, MAILBOX_SHARDS * 8);
    mailboxes_done(&h.boxes);
    seat_free(s);
}

static void the_log_gate_lets_a_burst_through_and_counts_the_rest(void **state)
{
    struct log_gate g = { 0 };
    uint64_t held;
    int64_t t = 1000;
    for (int i = 0; i < 3; i++) {
        assert_true(log_gate_pass(&g, 3, t, &held));
        assert_int_equal(held, 0);
    }
    for (int i = 0; i < 5; i++)
        assert_false(log_gate_pass(&g, 3, t + LOG_GATE_NS - 1, &held));
    assert_true(log_gate_pass(&g, 3, t + LOG_GATE_NS, &held));
    assert_int_equal(held, 5);
    assert_true(log_gate_pass(&g, 3, t + LOG_GATE_NS, &held));
    assert_int_equal(held, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c04_30_the_bound_is_sixty_four_waiting_and_one_running),
        cmocka_unit_test(a_chain_holds_its_home_and_counts_against_it),
        cmocka_unit_test(the_ten_thousand_and_first_principal_shares_the_system_mailbox),
        cmocka_unit_test(c04_34_nothing_is_lost_while_mailboxes_come_and_go_and_order_holds),
        cmocka_unit_test(a_hundred_thousand_principals_seen_once_leave_nothing),
        cmocka_unit_test(the_log_gate_lets_a_burst_through_and_counts_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
