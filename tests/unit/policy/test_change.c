/* Changes of profiles and groups: what is written, what readers see, what may be handed on. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "policy/capability.h"
#include "policy/catalogue.h"
#include "policy/profile.h"

#include "base/banned.h"

static struct ast_home home;
static struct ast_policy *policy;

static int setup(void **state)
{
    char dir[] = "/tmp/ast-change-XXXXXX";
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(ast_home_at(dir, &home, NULL), AST_OK);
    assert_int_equal(ast_home_ensure(&home, NULL), AST_OK);
    assert_int_equal(ast_policy_open(&home, &policy, NULL), AST_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ast_policy_close(policy);
    assert_int_equal(ast_fs_remove_tree(home.root, NULL), AST_OK);
    ast_home_done(&home);
    return 0;
}

static void set(const char *name, const char *toml)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
    assert_int_equal(ast_profile_parse(ast_str_c(toml), &p, NULL), AST_OK);
    assert_int_equal(ast_policy_set_profile(policy, ast_str_c(name), p, NULL), AST_OK);
}

static void put_groups(const char *text)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(&home, AST_HOME_GROUPS);
    assert_int_equal(ast_fs_write_atomic(path, ast_str_c(text), 0600, 0, NULL), AST_OK);
}

static struct ast_group group(const char *name, struct ast_str *caps, size_t n)
{
    return (struct ast_group){ .name = ast_str_c(name), .capabilities = { caps, n } };
}

static bool holds(const char *who, const char *cap)
{
    return ast_policy_holds(policy, ast_str_c(who), ast_str_c(cap));
}

/* ---- profiles ---- */

static void c02_04_a_profile_is_replaced_whole_and_private(void **state)
{
    struct stat st;
    (void)state;
    assert_false(holds("alice", "a:b")); /* cached as missing */
    set("alice", "grants = [\"a:b\"]\n");
    assert_true(holds("alice", "a:b"));
    AST_AUTO(ast_cfree) char *path = ast_policy_profile_path(policy, AST_STR("alice"));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(ast_policy_remove_profile(policy, AST_STR("alice"), NULL), AST_OK);
    assert_false(holds("alice", "a:b"));
    assert_int_equal(ast_policy_remove_profile(policy, AST_STR("alice"), NULL), AST_OK);
}

static bool append_name(void *arg, struct ast_str name, const struct ast_profile *profile)
{
    assert_true(profile->exists);
    ast_buf_addf(arg, AST_STR_FMT " ", AST_STR_ARG(name));
    return true;
}

static void assert_names(const char *want)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(4096);
    assert_int_equal(ast_policy_each_profile(policy, append_name, &out, NULL), AST_OK);
    assert_string_equal(out.n ? out.p : "", want);
}

static void c02_31_the_roster_is_sorted_and_holds_profiles_only(void **state)
{
    AST_AUTO(ast_cfree) char *link = ast_home_path(&home, AST_HOME_PROFILES "/linked.toml");
    AST_AUTO(ast_cfree) char *dir = ast_home_path(&home, AST_HOME_PROFILES "/folder.toml");
    AST_AUTO(ast_cfree) char *odd = ast_home_path(&home, AST_HOME_PROFILES "/a.b.toml");
    AST_AUTO(ast_cfree) char *bad = ast_home_path(&home, AST_HOME_PROFILES "/broken.toml");
    (void)state;
    assert_names(""); /* no directory yet */
    set("bob", "");
    set("alice", "");
    AST_AUTO(ast_cfree) char *alice = ast_policy_profile_path(policy, AST_STR("alice"));
    assert_int_equal(symlink(alice, link), 0);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(ast_fs_write_atomic(odd, AST_STR(""), 0600, 0, NULL), AST_OK);
    assert_int_equal(ast_fs_write_atomic(bad, AST_STR("nonsense"), 0600, 0, NULL), AST_OK);
    assert_names("alice bob ");
    set("Zoe", "");
    assert_names("Zoe alice bob ");
    assert_int_equal(ast_policy_remove_profile(policy, AST_STR("bob"), NULL), AST_OK);
    assert_names("Zoe alice ");
}

/* ---- groups ---- */

static void c02_36_a_group_change_is_seen_by_the_next_check(void **state)
{
    struct ast_str caps[] = { AST_STR("ops:read"), AST_STR("self:x") };
    struct ast_group g = group("ops", caps, 2);
    struct ast_strings fewer = { caps, 1 };
    struct ast_group_change change = { .capabilities = &fewer };
    (void)state;
    set("alice", "groups = [\"ops\"]\n");
    assert_false(holds("alice", "self:x"));
    assert_int_equal(ast_policy_group_create(policy, &g, NULL), AST_OK);
    assert_true(holds("alice", "self:x"));
    assert_int_equal(ast_policy_group_modify(policy, AST_STR("ops"), &change, NULL), AST_OK);
    assert_false(holds("alice", "self:x"));
    assert_true(holds("alice", "ops:read"));
    assert_int_equal(ast_policy_group_delete(policy, AST_STR("ops"), NULL), AST_OK);
    assert_false(holds("alice", "ops:read"));
}

static void c02_15_a_star_in_any_clothes_needs_the_flag(void **state)
{
    static const char *const stars[] = { "*", "*:*", "*:*:*" };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(stars); i++) {
        struct ast_str cap = ast_str_c(stars[i]);
        struct ast_group g = group("root", &cap, 1);
        assert_int_equal(ast_policy_group_create(policy, &g, NULL), AST_E_INVALID);
        g.unsafe_admin = true;
        assert_int_equal(ast_policy_group_create(policy, &g, NULL), AST_OK);
        assert_int_equal(ast_policy_group_delete(policy, AST_STR("root"), NULL), AST_OK);
    }
    assert_false(ast_policy_is_universal(AST_STR("*:list")));
}

static void a_failed_save_changes_nothing(void **state)
{
    AST_AUTO(ast_cfree) char *etc = ast_home_path(&home, "etc");
    AST_AUTO(ast_cfree) char *aside = ast_home_path(&home, "etc-aside");
    struct ast_str cap = AST_STR("a");
    struct ast_group g = group("ops", &cap, 1);
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    set("alice", "groups = [\"ops\"]\n");
    assert_false(holds("alice", "a"));
    assert_int_equal(rename(etc, aside), 0);
    assert_int_equal(ast_policy_group_create(policy, &g, &err), AST_E_IO);
    assert_true(ast_str_starts(ast_str_c(err.msg), AST_STR("groups.toml save failed: ")));
    assert_int_equal(rename(aside, etc), 0);
    assert_false(holds("alice", "a"));
}

static void an_edit_by_hand_is_merged_and_a_broken_one_refuses(void **state)
{
    struct ast_str cap = AST_STR("a");
    struct ast_group g = group("ops", &cap, 1);
    (void)state;
    set("alice", "groups = [\"hand\"]\n");
    put_groups("[groups.hand]\ncapabilities = [\"by:hand\"]\n");
    assert_int_equal(ast_policy_group_create(policy, &g, NULL), AST_OK);
    assert_true(holds("alice", "by:hand"));
    put_groups("[groups.hand\n");
    assert_int_equal(ast_policy_group_delete(policy, AST_STR("ops"), NULL), AST_E_INVALID);
    assert_true(holds("alice", "by:hand"));
}

/* ---- handing on ---- */

static void rights_that_are_not_held_cannot_be_conferred(void **state)
{
    static const struct {
        const char *grant, *wanted;
        bool may;
    } rows[] = {
        { "a:*", "a:b", true },
        { "a:*", "a:*", true },
        { "a:b", "a:*", false },
        { "*:*", "*", false },
        { "*", "*", true },
        { "*", "system:shutdown", true },
        { "a:*:c", "a:*", false },
        { "a:*:c", "a:b:c", true },
        { "x", "self:*", true },
        { "x", "delegate:self:*", true },
        { "x", "selfish:a", false },
        { "x", "delegate:other", false },
        { "*:list", "agent:list", true },
        { "*:list", "*:*", false },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        char toml[128];
        (void)snprintf(toml, sizeof toml, "grants = [\"%s\"]\n", rows[i].grant);
        set("alice", toml);
        struct ast_str wanted = ast_str_c(rows[i].wanted);
        struct ast_strings list = { &wanted, 1 };
        enum ast_rc rc = ast_policy_may_confer(policy, AST_STR("alice"), &list, NULL, NULL);
        if ((rc == AST_OK) != rows[i].may)
            fail_msg("%s conferring %s", rows[i].grant, rows[i].wanted);
    }
    struct ast_str names[] = { AST_STR("agent"), AST_STR("unknown"), AST_STR("admin") };
    struct ast_strings harmless = { names, 2 }, all = { names, 3 };
    set("alice", "grants = [\"agent:create\"]\n");
    assert_int_equal(ast_policy_may_confer(policy, AST_STR("alice"), NULL, &harmless, NULL),
                     AST_OK);
    assert_int_equal(ast_policy_may_confer(policy, AST_STR("alice"), NULL, &all, NULL),
                     AST_E_DENIED);
}

/* ---- the catalogue ---- */

static void c02_13_the_catalogue(void **state)
{
    (void)state;
    for (size_t i = 0; i < AST_CAP_CATALOGUE_LEN; i++) {
        const struct ast_cap_entry *e = &ast_cap_catalogue[i];
        assert_int_equal(ast_cap_check(e->id, NULL), AST_OK);
        assert_ptr_equal(ast_cap_find(e->id), e); /* no id twice */
        assert_int_equal(strcmp(e->scope, "self") == 0, ast_str_starts(e->id, AST_STR("self:")));
        assert_true(e->label[0] && e->description[0]);
    }
    assert_true(ast_str_is(ast_cap_catalogue[0].id, "system:shutdown"));
    assert_true(ast_str_is(ast_cap_catalogue[24].id, "caps:grant"));
    assert_true(ast_str_is(ast_cap_catalogue[33].id, "auth:pair:redeem"));
    assert_null(ast_cap_find(AST_STR("net_bind")));
}

/* ---- races ---- */

enum { ROUNDS = 200, CHECKERS = 4 };

/* `served` counts rounds whose revoke has returned; a check that begins after it must be denied. */
struct race {
    atomic_uint revoked_round, granted_round;
    atomic_bool over;
    atomic_uint wrong, checks;
};

static void *check_forever(void *arg)
{
    struct race *r = arg;
    while (!atomic_load(&r->over)) {
        unsigned revoked = atomic_load(&r->revoked_round);
        bool held = ast_policy_holds(policy, AST_STR("alice"), AST_STR("a:b"));
        /* Only meaningful when no grant began meanwhile. */
        if (held && revoked && atomic_load(&r->granted_round) == revoked)
            atomic_fetch_add(&r->wrong, 1);
        atomic_fetch_add(&r->checks, 1);
    }
    return NULL;
}

static void c04_57_after_a_revoke_returned_no_check_serves_the_right(void **state)
{
    struct race r = { .wrong = 0 };
    pthread_t threads[CHECKERS];
    (void)state;
    for (size_t i = 0; i < CHECKERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, check_forever, &r), 0);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        atomic_store(&r.granted_round, round);
        set("alice", "grants = [\"a:b\"]\n");
        assert_true(holds("alice", "a:b"));
        set("alice", "grants = [\"a:b\"]\nrevokes = [\"a:*\"]\n");
        assert_false(holds("alice", "a:b"));
        atomic_store(&r.revoked_round, round);
        unsigned seen = atomic_load(&r.checks); /* let every checker look at the revoked state */
        while (atomic_load(&r.checks) < seen + 2 * CHECKERS)
            sched_yield();
    }
    atomic_store(&r.over, true);
    for (size_t i = 0; i < CHECKERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&r.wrong), 0);
}

static void *regroup(void *arg)
{
    struct ast_str caps[] = { AST_STR("a:b"), AST_STR("c:d") };
    struct race *r = arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct ast_group g = group("ops", caps, 2);
        if (ast_policy_group_create(policy, &g, NULL) ||
            ast_policy_group_delete(policy, AST_STR("ops"), NULL))
            atomic_fetch_add(&r->wrong, 1);
    }
    atomic_store(&r->over, true);
    return NULL;
}

static void checks_race_with_group_changes_unharmed(void **state)
{
    struct race r = { .wrong = 0 };
    pthread_t threads[CHECKERS];
    (void)state;
    set("alice", "groups = [\"ops\"]\n");
    assert_int_equal(pthread_create(&threads[0], NULL, regroup, &r), 0);
    for (size_t i = 1; i < CHECKERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, check_forever, &r), 0);
    for (size_t i = 0; i < CHECKERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&r.wrong), 0);
    assert_false(holds("alice", "a:b"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(c02_04_a_profile_is_replaced_whole_and_private),
        T(c02_31_the_roster_is_sorted_and_holds_profiles_only),
        T(c02_36_a_group_change_is_seen_by_the_next_check),
        T(c02_15_a_star_in_any_clothes_needs_the_flag),
        T(a_failed_save_changes_nothing),
        T(an_edit_by_hand_is_merged_and_a_broken_one_refuses),
        T(rights_that_are_not_held_cannot_be_conferred),
        T(c02_13_the_catalogue),
        T(c04_57_after_a_revoke_returned_no_check_serves_the_right),
        T(checks_race_with_group_changes_unharmed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
