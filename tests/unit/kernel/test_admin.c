/* The table of admin requests against the catalogue, and the door on a kernel that has policy and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "bus/bus.h"
#include "bus/route.h"
#include "kernel/admin_priv.h"
#include "policy/catalogue.h"

#include "base/banned.h"

/* ---- drift ---- */

/* In the catalogue, but asked for elsewhere: by the kernel requests' other form and the gateway. */
static const char *const elsewhere[] = {
    "self:capsule:install", "capsule:reload", "capsule:list", "agent:list", "group:list",
};

static bool is_elsewhere(struct ast_str id)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(elsewhere); i++)
        if (ast_str_eq(ast_str_c(elsewhere[i]), id))
            return true;
    return false;
}

static bool is_asked_for(struct ast_str id)
{
    const struct admin_row *row;
    struct ast_str cap;
    for (size_t i = 0; (row = admin_row_at(i)); i++)
        if (ast_str_eq(row->global, id) || ast_str_eq(row->own, id))
            return true;
    for (size_t i = 0; (cap = kernel_request_capability(i)).n; i++)
        if (ast_str_eq(cap, id))
            return true;
    return false;
}

static void requests_and_catalogue_do_not_drift_apart(void **state)
{
    const struct admin_row *row;
    struct ast_str cap;
    (void)state;
    for (size_t i = 0; (row = admin_row_at(i)); i++) {
        assert_int_equal(row->global.n > 0, row->scope != ADMIN_SELF);
        assert_int_equal(row->own.n > 0, row->scope != ADMIN_GLOBAL);
        if (row->global.n && !ast_cap_find(row->global))
            fail_msg("%s is not in the catalogue", row->global.p);
        if (row->own.n && !ast_cap_find(row->own))
            fail_msg("%s is not in the catalogue", row->own.p);
        assert_true(ast_str_starts(row->label, AST_STR("admin.")));
        assert_true(row->status.n);
        assert_true(row->run_many ? row->changes && !row->run : row->run != NULL);
    }
    for (size_t i = 0; (cap = kernel_request_capability(i)).n; i++)
        /* Ours; the catalogue keeps the original's 34 entries. Covered by self:* like its neighbours. */
        if (!ast_cap_find(cap) && !ast_str_is(cap, "self:audit:read"))
            fail_msg("%s is not in the catalogue", cap.p);
    for (size_t i = 0; i < AST_CAP_CATALOGUE_LEN; i++) {
        struct ast_str id = ast_cap_catalogue[i].id;
        if (is_asked_for(id) == is_elsewhere(id))
            fail_msg("%s: asked for by no row, or listed as elsewhere in vain", id.p);
    }
}

/* ---- the door ---- */

static struct ast_home home;
static struct ast_kernel k;

static int setup(void **state)
{
    char dir[] = "/tmp/ast-admin-XXXXXX";
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(ast_home_at(dir, &home, NULL), AST_OK);
    assert_int_equal(ast_home_ensure(&home, NULL), AST_OK);
    k = (struct ast_kernel){ .home = &home };
    kernel_limits_init(&k.limits);
    assert_int_equal(ast_policy_open(&home, &k.policy, NULL), AST_OK);
    ast_policy_bootstrap(k.policy);
    assert_int_equal(ast_bus_new(&k.bus, NULL), AST_OK);
    AST_AUTO(ast_cfree) char *key = ast_home_path(&home, AST_HOME_RUNTIME_KEY);
    AST_AUTO(ast_cfree) char *path = ast_home_path(&home, AST_HOME_STORE);
    struct ast_store_config cfg = { .path = path, .no_sync = true };
    assert_int_equal(ast_key_load_or_create(key, "runtime key", &k.runtime_key, NULL), AST_OK);
    assert_int_equal(ast_store_open(&cfg, &k.store, NULL), AST_OK);
    k.audit_fail_closed = true;
    assert_int_equal(kernel_audit_open(&k, NULL), AST_OK);
    assert_int_equal(kernel_turns_start(&k.admin, "ast-admin", NULL), AST_OK);
    assert_int_equal(kernel_turns_start(&k.reads, "ast-reads", NULL), AST_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    kernel_turns_stop(&k.admin);
    kernel_turns_stop(&k.reads);
    kernel_audit_stop(&k);
    ast_bus_free(k.bus);
    ast_store_close(k.store);
    ast_key_done(&k.runtime_key);
    ast_policy_close(k.policy);
    kernel_limits_done(&k.limits);
    assert_int_equal(ast_fs_remove_tree(home.root, NULL), AST_OK);
    ast_home_done(&home);
    return 0;
}

struct answer {
    pthread_mutex_t m;
    pthread_cond_t c;
    bool come;
    char text[4096];
};

static void on_answer(void *arg, struct ast_str json)
{
    struct answer *a = arg;
    pthread_mutex_lock(&a->m);
    assert_true(ast_str_to_c(json, a->text, sizeof a->text));
    a->come = true;
    pthread_cond_signal(&a->c);
    pthread_mutex_unlock(&a->m);
}

static void wait_for(struct answer *a)
{
    pthread_mutex_lock(&a->m);
    while (!a->come)
        pthread_cond_wait(&a->c, &a->m);
    pthread_mutex_unlock(&a->m);
}

static const char *ask_into(struct answer *a, const char *caller, const char *request)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    *a = (struct answer){ .m = PTHREAD_MUTEX_INITIALIZER, .c = PTHREAD_COND_INITIALIZER };
    assert_int_equal(ast_json_parse(ast_str_c(request), &doc, NULL), AST_OK);
    ast_kernel_admin(&k, ast_str_c(caller), ast_json_root(doc), on_answer, a);
    wait_for(a);
    return a->text;
}

static const char *ask(const char *caller, const char *request)
{
    static struct answer a;
    return ask_into(&a, caller, request);
}

static void answers_have_the_exact_shape(void **state)
{
    static const struct {
        const char *caller, *request, *answer;
    } rows[] = {
        { "default", "{\"method\":\"AgentList\",\"request_id\":\"r-2\"}",
          "{\"data\":[{\"enabled\":true,\"grants\":[],\"groups\":[\"admin\"],\"principal\":\"default\","
          "\"revokes\":[]}],\"request_id\":\"r-2\",\"status\":\"AgentList\"}" },
        { "default",
          "{\"method\":\"CapsGrant\",\"params\":{\"principal\":\"default\",\"capabilities\":[\"a\"]}}",
          "{\"data\":{\"capabilities\":[\"a\"],\"principal\":\"default\"},\"status\":\"Success\"}" },
        { "bob",
          "{\"request_id\":\"r-1\",\"method\":\"QuotaGet\",\"params\":{\"principal\":\"alice\"}}",
          "{\"data\":\"permission denied for principal bob: missing capability quota:get\","
          "\"request_id\":\"r-1\",\"status\":\"Error\"}" },
        { "default", "{\"method\":\"GroupCreate\",\"params\":{\"name\":\"x\",\"capabilities\":[]}}",
          "{\"data\":{\"status\":\"ok\"},\"status\":\"Success\"}" },
        { "a.b", "{\"method\":\"AgentList\"}",
          "{\"data\":\"invalid request: principal id contains invalid character '.' (allowed: a-z, "
          "A-Z, 0-9, -, _)\",\"status\":\"Error\"}" },
        { "default", "{\"method\":\"AgentList\",\"request_id\":7}",
          "{\"data\":\"invalid request: field `request_id`: expected a short string\",\"status\":\"Error\"}" },
        { "default", "[]",
          "{\"data\":\"invalid request: missing field `method`\",\"status\":\"Error\"}" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++)
        assert_string_equal(ask(rows[i].caller, rows[i].request), rows[i].answer);
}

static bool is_among(struct ast_str key, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ast_str_eq(key, ast_str_c(names[i])))
            return true;
    return false;
}

static void c02_50_a_live_event_has_exactly_its_seven_keys(void **state)
{
    static const char *const keys[] = {
        "ts_epoch", "method",  "required_capability", "principal", "target_principal",
        "params",   "outcome",
    };
    static const struct {
        const char *caller, *request, *method, *outcome;
    } asks[] = {
        { "default", "{\"method\":\"AgentList\"}", "admin.agent.list", "success" },
        { "bob", "{\"method\":\"QuotaGet\",\"params\":{\"principal\":\"alice\"}}",
          "admin.quota.get", "failure" },
        { "default", "{\"method\":\"GroupCreate\",\"params\":{\"name\":\"y\",\"capabilities\":[]}}",
          "admin.group.create", "success" },
    };
    const struct ast_str pattern = AST_STR("astrid.v1.audit.entry");
    const struct ast_route_config cfg = { .patterns = &pattern,
                                          .pattern_count = 1,
                                          .label = AST_STR("test") };
    struct ast_route *route = NULL;
    (void)state;

    assert_int_equal(ast_route_open(k.bus, &cfg, &route, NULL), AST_OK);
    for (size_t i = 0; i < AST_ARRAY_LEN(asks); i++) {
        (void)ask(asks[i].caller, asks[i].request);
        AST_AUTO(ast_msg_unref) struct ast_msg *m = ast_route_take(route);
        AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
        assert_non_null(m); /* published before the answer */
        assert_true(ast_str_eq(m->principal, ast_str_c(asks[i].caller)));
        assert_int_equal(ast_json_parse(m->body, &doc, NULL), AST_OK);
        const struct ast_json *root = ast_json_root(doc), *v;
        struct ast_json_iter it = AST_JSON_ITER(root);
        struct ast_str key;
        unsigned n = 0;
        while (ast_json_next(&it, &key, &v)) {
            if (!is_among(key, keys, AST_ARRAY_LEN(keys)))
                fail_msg("%.*s", (int)key.n, key.p);
            n++;
        }
        assert_int_equal(n, AST_ARRAY_LEN(keys));
        assert_true(ast_str_eq(ast_json_str_or(root, AST_STR("method"), AST_STR_NONE),
                               ast_str_c(asks[i].method)));
        assert_true(ast_str_eq(ast_json_str_or(root, AST_STR("outcome"), AST_STR_NONE),
                               ast_str_c(asks[i].outcome)));
        AST_AUTO(ast_msg_unref) struct ast_msg *more = ast_route_take(route);
        assert_null(more); /* one event a request */
    }
    ast_route_close(route);
}

static void rights_are_checked_again_when_a_change_runs(void **state)
{
    static struct answer first, second;
    AST_AUTO(ast_json_free) struct ast_json_doc *disable = NULL, *grant = NULL;
    AST_AUTO(ast_profile_unref) struct ast_profile *boss = NULL;
    (void)state;
    assert_int_equal(ast_profile_parse(AST_STR("groups = [\"admin\"]\n"), &boss, NULL), AST_OK);
    assert_int_equal(ast_policy_set_profile(k.policy, AST_STR("boss"), boss, NULL), AST_OK);
    first = second =
        (struct answer){ .m = PTHREAD_MUTEX_INITIALIZER, .c = PTHREAD_COND_INITIALIZER };
    assert_int_equal(
        ast_json_parse(AST_STR("{\"method\":\"AgentDisable\",\"params\":{\"principal\":\"boss\"}}"),
                       &disable, NULL),
        AST_OK);
    assert_int_equal(ast_json_parse(AST_STR("{\"method\":\"CapsGrant\",\"params\":{\"principal\":"
                                            "\"default\",\"capabilities\":[\"late\"]}}"),
                                    &grant, NULL),
                     AST_OK);
    /* Whichever of its two checks the second one meets, it comes after the disable in the one queue. */
    ast_kernel_admin(&k, AST_STR("default"), ast_json_root(disable), on_answer, &first);
    ast_kernel_admin(&k, AST_STR("boss"), ast_json_root(grant), on_answer, &second);
    wait_for(&first);
    wait_for(&second);
    assert_non_null(strstr(second.text, "agent is disabled"));
    assert_false(ast_policy_holds(k.policy, AST_STR("boss"), AST_STR("late")));
}

static void run_nothing(struct kernel_job *job)
{
    (void)job;
    fail();
}

/* A row that became durable while the kernel stopped looks for somebody to answer it. */
static void a_stopped_loader_refuses_what_comes_late(void **state)
{
    struct kernel_loader l = { .stop = false };
    struct kernel_job late = { .run = run_nothing };
    (void)state;
    kernel_loader_done(&l); /* never started */
    assert_int_equal(kernel_loader_start(&l, NULL), AST_OK);
    kernel_loader_stop(&l);
    assert_false(kernel_loader_post(&l, &late));
    kernel_loader_stop(&l);
    assert_false(kernel_loader_post(&l, &late));
    kernel_loader_done(&l);
}

/* ---- races ---- */

enum { ROUNDS = 40, CHECKERS = 3, CHANGERS = 4, CHANGES = 12 };

/* Round n gives p<n> a right and takes it away; `taken` is the last round whose taking was answered. */
struct race {
    atomic_uint round, taken, checks;
    atomic_bool over;
    atomic_uint served_late, odd; /* what must stay 0 */
};

static bool is_let_in(unsigned round, struct race *r)
{
    struct answer a;
    char caller[16];
    snprintf(caller, sizeof caller, "p%u", round);
    const char *text = ask_into(&a, caller, "{\"method\":\"GroupList\"}");
    bool in = strstr(text, "\"status\":\"GroupList\"") != NULL;
    if (!in && !strstr(text, "permission denied for principal"))
        atomic_fetch_add(&r->odd, 1);
    return in;
}

static void *check_forever(void *arg)
{
    struct race *r = arg;
    while (!atomic_load(&r->over)) {
        unsigned taken = atomic_load(&r->taken), round = atomic_load(&r->round);
        if (taken && is_let_in(taken, r))
            atomic_fetch_add(&r->served_late, 1);
        if (round)
            (void)is_let_in(
                round,
                r); /* either answer is right; this is what fills the cache at a bad moment */
        atomic_fetch_add(&r->checks, 1);
    }
    return NULL;
}

struct change {
    const char *method, *rest; /* beside the principal */
};

static void must(const struct change *c, unsigned round)
{
    char request[256];
    (void)snprintf(request, sizeof request,
                   "{\"method\":\"%s\",\"params\":{\"principal\":\"p%u\"%s}}", c->method, round,
                   c->rest);
    const char *text = ask("default", request);
    if (!strstr(text, "\"status\":\"Success\""))
        fail_msg("%s: %s", request, text);
}

static void run_race(struct change give, struct change take)
{
    struct race r = { .odd = 0 };
    pthread_t threads[CHECKERS];

    for (size_t i = 0; i < CHECKERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, check_forever, &r), 0);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        AST_AUTO(ast_profile_unref) struct ast_profile *none = NULL;
        char name[16];
        snprintf(name, sizeof name, "p%u", round);
        assert_int_equal(ast_profile_parse(AST_STR(""), &none, NULL), AST_OK);
        assert_int_equal(ast_policy_set_profile(k.policy, ast_str_c(name), none, NULL), AST_OK);
        atomic_store(&r.round, round);
        must(&give, round);
        assert_true(is_let_in(round, &r));
        must(&take, round);
        atomic_store(&r.taken, round);
        unsigned seen = atomic_load(&r.checks); /* every checker looks at what was taken */
        while (atomic_load(&r.checks) < seen + 2 * CHECKERS)
            sched_yield();
    }
    atomic_store(&r.over, true);
    for (size_t i = 0; i < CHECKERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&r.served_late), 0);
    assert_int_equal(atomic_load(&r.odd), 0);
}

static void a_revoked_right_is_never_served_after_the_answer(void **state)
{
    (void)state;
    run_race((struct change){ "CapsGrant", ",\"capabilities\":[\"self:group:list\"]" },
             (struct change){ "CapsRevoke", ",\"capabilities\":[\"self:group:*\"]" });
}

static void a_group_left_or_an_agent_disabled_is_never_served_after_the_answer(void **state)
{
    static const struct change join = { "AgentModify", ",\"add_groups\":[\"agent\"]" };
    (void)state;
    run_race(join, (struct change){ "AgentModify", ",\"remove_groups\":[\"agent\"]" });
    run_race(join, (struct change){ "AgentDisable", "" });
}

struct changer {
    pthread_t thread;
    unsigned number;
    bool failed;
};

static void *change_shared(void *arg)
{
    struct changer *c = arg;
    static const struct {
        const char *method, *member;
    } kinds[] = { { "CapsGrant", "capabilities" },
                  { "CapsRevoke", "capabilities" },
                  { "AgentModify", "add_groups" } };
    for (unsigned i = 0; i < CHANGES; i++) {
        for (size_t n = 0; n < AST_ARRAY_LEN(kinds); n++) {
            struct answer a;
            char request[256];
            (void)snprintf(
                request, sizeof request,
                "{\"method\":\"%s\",\"params\":{\"principal\":\"shared\",\"%s\":[\"n%u-%u\"]}}",
                kinds[n].method, kinds[n].member, c->number, i);
            if (!strstr(ask_into(&a, "default", request), "\"status\":\"Success\""))
                c->failed = true;
        }
    }
    return NULL;
}

/* Members that the three kinds of change edit in one file: none of them may undo another's. */
static void c02_35_changes_of_many_clients_all_end_up_in_the_file(void **state)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
    struct changer changers[CHANGERS];
    (void)state;
    assert_int_equal(ast_profile_parse(AST_STR(""), &p, NULL), AST_OK);
    assert_int_equal(ast_policy_set_profile(k.policy, AST_STR("shared"), p, NULL), AST_OK);
    ast_profile_unref(ast_steal(&p));
    for (unsigned i = 0; i < CHANGERS; i++) {
        changers[i] = (struct changer){ .number = i };
        assert_int_equal(pthread_create(&changers[i].thread, NULL, change_shared, &changers[i]), 0);
    }
    for (size_t i = 0; i < CHANGERS; i++) {
        pthread_join(changers[i].thread, NULL);
        assert_false(changers[i].failed);
    }
    ast_policy_invalidate(k.policy, AST_STR("shared")); /* from the file, not from the cache */
    assert_int_equal(ast_policy_profile(k.policy, AST_STR("shared"), &p, NULL), AST_OK);
    assert_int_equal(p->grants.n, CHANGERS * CHANGES);
    assert_int_equal(p->revokes.n, CHANGERS * CHANGES);
    assert_int_equal(p->groups.n, CHANGERS * CHANGES);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_and_catalogue_do_not_drift_apart),
        T(answers_have_the_exact_shape),
        T(c02_50_a_live_event_has_exactly_its_seven_keys),
        T(rights_are_checked_again_when_a_change_runs),
        cmocka_unit_test(a_stopped_loader_refuses_what_comes_late),
        T(a_revoked_right_is_never_served_after_the_answer),
        T(a_group_left_or_an_agent_disabled_is_never_served_after_the_answer),
        T(c02_35_changes_of_many_clients_all_end_up_in_the_file),
    };
    /* A race is denied thousands of times, each with a line. */
    struct ast_log_config quiet = { .level = AST_LOG_OFF };
    if (ast_log_open(&quiet, NULL))
        return EXIT_FAILURE;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ast_log_close();
    return failed;
}
