/* Profiles, groups, capabilities and their evaluation, on real files in a private home. */
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
#include "policy/profile.h"

#include "base/banned.h"

static struct ast_home home;
static struct ast_policy *policy;

static void put(const char *name, const char *text)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(&home, "%s", name);
    assert_int_equal(ast_fs_write_atomic(path, ast_str_c(text), 0600, 0, NULL), AST_OK);
}

static int setup(void **state)
{
    char dir[] = "/tmp/ast-policy-XXXXXX";
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(ast_home_at(dir, &home, NULL), AST_OK);
    assert_int_equal(ast_home_ensure(&home, NULL), AST_OK);
    AST_AUTO(ast_cfree) char *profiles = ast_home_path(&home, AST_HOME_PROFILES);
    assert_int_equal(ast_fs_mkdirs(profiles, 0700, NULL), AST_OK);
    policy = NULL;
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

static void open_policy(void)
{
    struct ast_err err = AST_ERR_INIT;
    if (ast_policy_open(&home, &policy, &err))
        fail_msg("%s", err.msg);
}

static void assert_text(const struct ast_err *err, const char *want)
{
    if (ast_str_find(ast_str_c(err->msg), ast_str_c(want)) == AST_STR_NPOS)
        fail_msg("got <%s>, want <%s>", err->msg, want);
}

/* ---- capabilities ---- */

static void c02_08_the_grammar(void **state)
{
    static const struct {
        const char *cap, *error; /* NULL: fine */
    } rows[] = {
        { "*", NULL },
        { "self:*", NULL },
        { "a:*:b", NULL },
        { "net_bind", NULL },
        { "A-1:b_2", NULL },
        { "", "capability must not be empty" },
        { "**", "capability may not contain '**' (double glob is reserved)" },
        { "a:**", "capability may not contain '**'" },
        { "a::b", "capability contains an empty segment" },
        { ":a", "capability contains an empty segment" },
        { "a:", "capability contains an empty segment" },
        { "foo*",
          "capability segment \"foo*\" mixes '*' with other characters; '*' must stand alone in a segment" },
        { "a b", "capability segment \"a b\" contains invalid character ' '" },
        { "a.b", "contains invalid character '.'" },
        { "\xc3\xa4", "contains invalid character '\xc3\xa4'" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_err err = AST_ERR_INIT;
        enum ast_rc rc = ast_cap_check(ast_str_c(rows[i].cap), &err);
        assert_int_equal(rc == AST_OK, rows[i].error == NULL);
        if (rows[i].error)
            assert_text(&err, rows[i].error);
    }
    char big[258];
    memset(big, 'a', sizeof big);
    assert_int_equal(ast_cap_check(ast_str_n(big, 256), NULL), AST_OK);
    assert_int_equal(ast_cap_check(ast_str_n(big, 257), NULL), AST_E_INVALID);
}

static void c02_09_patterns_match(void **state)
{
    static const struct {
        const char *pattern, *cap;
        bool match;
    } rows[] = {
        { "*", "anything", true },
        { "*", "a:b:c", true },
        { "self:*", "self:capsule", true },
        { "self:*", "self:a:b:c", true },
        { "self:*", "self", false },
        { "self:*", "capsule:install", false },
        { "a:*:b", "a:x:b", true },
        { "a:*:b", "a:x:y:b", false },
        { "a:*:b", "a:b", false },
        { "*:list", "agent:list", true },
        { "*:list", "self:agent:list", false },
        { "system:shutdown", "system:shutdown", true },
        { "system:shutdown", "self:system:shutdown", false },
        { "*:*", "a:b", true },
        { "*:*", "a:b:c", true },
        { "*:*", "net_bind", false },
        { "agent:list", "self:agent:list", false }, /* c02_10 */
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++)
        if (ast_cap_match(ast_str_c(rows[i].pattern), ast_str_c(rows[i].cap)) != rows[i].match)
            fail_msg("%s against %s", rows[i].pattern, rows[i].cap);
}

static void c02_10_scopes_do_not_imply_each_other(void **state)
{
    (void)state;
    assert_false(ast_cap_match(AST_STR("agent:list"), AST_STR("self:agent:list")));
    assert_false(ast_cap_match(AST_STR("self:agent:list"), AST_STR("agent:list")));
}

/* ---- profiles ---- */

static void c02_02_missing_file_means_defaults(void **state)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
    (void)state;
    open_policy();
    assert_int_equal(ast_policy_profile(policy, AST_STR("nobody"), &p, NULL), AST_OK);
    assert_true(p->enabled);
    assert_false(p->exists);
    assert_int_equal(p->groups.n + p->grants.n + p->revokes.n, 0);
    assert_int_equal(p->quotas.max_memory_bytes, 67108864);
    assert_int_equal(p->quotas.max_timeout_secs, 300);
    assert_int_equal(p->quotas.max_ipc_throughput_bytes, 10485760);
    assert_int_equal(p->quotas.max_background_processes, 8);
    assert_int_equal(p->quotas.max_storage_bytes, 1073741824);
    assert_int_equal(p->quotas.max_cpu_fuel_per_sec, 2000000000);
}

static void c02_03_bad_profiles_are_errors_and_deny(void **state)
{
    static const struct {
        const char *text, *error;
    } rows[] = {
        { "nonsense = 1\n", "profile parse error: unknown field \"nonsense\"" },
        { "[quotas]\nmax_x = 1\n", "profile parse error: unknown field \"max_x\"" },
        { "[auth]\nkeys = []\n", "profile parse error: unknown field \"keys\"" },
        { "[network]\nx = []\n", "profile parse error" },
        { "profile_version = 2\n",
          "profile validation error: profile_version 2 exceeds supported version 1" },
        { "[auth]\nmethods = [\"passky\"]\n",
          "profile parse error: unknown auth method \"passky\"" },
        { "groups = [\"\"]\n", "profile validation error: groups entries must be non-empty" },
        { "groups = [\"a b\"]\n",
          "groups entry \"a b\" contains invalid character ' ' (allowed: a-z, A-Z, 0-9, -, _)" },
        { "grants = [\"a::b\"]\n",
          "grants entry \"a::b\" rejected: capability contains an empty segment" },
        { "revokes = [\"**\"]\n", "revokes entry \"**\" rejected" },
        { "[network]\negress = [\" \"]\n", "network.egress entries must be non-empty" },
        { "[process]\nallow = [\"\"]\n", "process.allow entries must be non-empty" },
        { "enabled = 1\n", "profile parse error" },
        { "groups = 5\n", "profile parse error" },
        { "[[", "profile parse error" },
    };
    (void)state;
    open_policy();
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_profile *p = NULL;
        struct ast_err err = AST_ERR_INIT;
        assert_int_not_equal(ast_profile_parse(ast_str_c(rows[i].text), &p, &err), AST_OK);
        assert_text(&err, rows[i].error);
        assert_null(p);
    }
    put("etc/profiles/broken.toml", "grants = [\"system:status\"]\nnonsense = 1\n");
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_policy_check(policy, AST_STR("broken"), AST_STR("system:status"), &err),
                     AST_E_DENIED);
    assert_string_equal(err.msg,
                        "permission denied for principal broken: missing capability system:status");
}

static void c02_06_quota_ranges(void **state)
{
    static const struct {
        const char *line, *error;
    } rows[] = {
        { "max_memory_bytes = 0", "quotas.max_memory_bytes must be > 0" },
        { "max_timeout_secs = 0", "quotas.max_timeout_secs must be in 1..=86400" },
        { "max_timeout_secs = 86401", "quotas.max_timeout_secs must be in 1..=86400" },
        { "max_ipc_throughput_bytes = 0", "quotas.max_ipc_throughput_bytes must be > 0" },
        { "max_background_processes = 257", "quotas.max_background_processes must be <= 256" },
        { "max_storage_bytes = 0", "quotas.max_storage_bytes must be > 0" },
        { "max_cpu_fuel_per_sec = 0", "quotas.max_cpu_fuel_per_sec must be > 0" },
        { "max_background_processes = 0", NULL },
        { "max_timeout_secs = 86400", NULL },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
        struct ast_err err = AST_ERR_INIT;
        char text[128];
        snprintf(text, sizeof text, "[quotas]\n%s\n", rows[i].line);
        assert_int_equal(ast_profile_parse(ast_str_c(text), &p, &err) == AST_OK,
                         rows[i].error == NULL);
        if (rows[i].error)
            assert_text(&err, rows[i].error);
    }
}

static void c02_04_saving_is_private_and_complete(void **state)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL, *again = NULL;
    AST_AUTO(ast_cfree) char *path = ast_home_path(&home, "etc/profiles/x.toml");
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(65536);
    struct stat st;
    (void)state;
    assert_int_equal(
        ast_profile_parse(
            AST_STR("groups = [\"a\", \"b\"]\ngrants = [\"self:*\"]\n[auth]\npublic_keys = "
                    "[\"ed25519:\\\"quoted\\\"\"]\n"),
            &p, NULL),
        AST_OK);
    assert_int_equal(ast_profile_save(path, p, NULL), AST_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(ast_fs_read(path, 65536, &text, NULL), AST_OK);
    assert_non_null(strstr(
        text.p,
        "groups = [\n    \"a\",\n    \"b\",\n]\ngrants = [\"self:*\"]\nrevokes = []\n\n[auth]\n"));
    assert_int_equal(ast_profile_parse(ast_buf_view(&text), &again, NULL), AST_OK);
    assert_int_equal(again->groups.n, 2);
    assert_string_equal(again->public_keys.v[0].p, "ed25519:\"quoted\"");
}

static void c02_05_the_original_s_file_round_trips(void **state)
{
    static const char original[] =
        "profile_version = 1\nenabled = true\ngroups = [\"admin\"]\ngrants = []\nrevokes = []\n\n[auth]\nmethods = "
        "[]\npublic_keys = []\n\n[network]\negress = []\n\n[process]\nallow = []\n\n[quotas]\nmax_memory_bytes = "
        "67108864\nmax_timeout_secs = 300\nmax_ipc_throughput_bytes = 10485760\nmax_background_processes = "
        "8\nmax_storage_bytes = 1073741824\nmax_cpu_fuel_per_sec = 2000000000\n";
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
    AST_AUTO(ast_cfree) char *path = ast_home_path(&home, "etc/profiles/o.toml");
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(65536);
    (void)state;
    assert_int_equal(ast_profile_parse(ast_str_c(original), &p, NULL), AST_OK);
    assert_int_equal(ast_profile_save(path, p, NULL), AST_OK);
    assert_int_equal(ast_fs_read(path, 65536, &text, NULL), AST_OK);
    assert_string_equal(text.p, original);
}

/* ---- evaluation ---- */

static void c02_11_revokes_beat_everything(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    put("etc/profiles/root.toml", "groups = [\"admin\"]\nrevokes = [\"system:*\"]\n");
    open_policy();
    assert_int_equal(ast_policy_check(policy, AST_STR("root"), AST_STR("agent:list"), NULL),
                     AST_OK);
    assert_int_equal(ast_policy_check(policy, AST_STR("root"), AST_STR("system:shutdown"), &err),
                     AST_E_DENIED);
    assert_string_equal(
        err.msg,
        "permission denied for principal root: capability system:shutdown is revoked via \"system:*\"");
}

static void c02_12_unknown_groups_confer_nothing(void **state)
{
    (void)state;
    put("etc/profiles/x.toml", "groups = [\"ghosts\", \"agent\"]\n");
    open_policy();
    assert_true(ast_policy_holds(policy, AST_STR("x"), AST_STR("self:capsule:list")));
    assert_false(ast_policy_holds(policy, AST_STR("x"), AST_STR("system:status")));
}

static void c02_23_a_disabled_administrator_is_denied(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    put("etc/profiles/off.toml", "enabled = false\ngroups = [\"admin\"]\n");
    open_policy();
    assert_int_equal(ast_policy_check(policy, AST_STR("off"), AST_STR("agent:list"), &err),
                     AST_E_DENIED);
    assert_string_equal(err.msg, "permission denied for principal off: agent is disabled");
}

static void c02_14_builtin_groups_cannot_be_redefined(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    put("etc/groups.toml", "[groups.admin]\ncapabilities = []\n");
    assert_int_not_equal(ast_policy_open(&home, &policy, &err), AST_OK);
    assert_string_equal(
        err.msg,
        "Failed to load groups config: built-in group \"admin\" may not be redefined in groups.toml");
    policy = NULL;
}

static void c02_15_star_needs_unsafe_admin(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    put("etc/groups.toml", "[groups.gods]\ncapabilities = [\"*\"]\n");
    assert_int_not_equal(ast_policy_open(&home, &policy, &err), AST_OK);
    assert_text(&err,
                "custom group \"gods\" grants '*' (universal admin); set `unsafe_admin = true`");
    put("etc/groups.toml", "[groups.gods]\ncapabilities = [\"*\"]\nunsafe_admin = true\n");
    put("etc/profiles/zeus.toml", "groups = [\"gods\"]\n");
    open_policy();
    assert_true(ast_policy_holds(policy, AST_STR("zeus"), AST_STR("system:shutdown")));
}

static void a_disguised_star_in_an_old_file_still_loads(void **state)
{
    (void)state;
    put("etc/groups.toml", "[groups.old]\ncapabilities = [\"*:*\"]\n");
    open_policy();
}

static void broken_group_files_stop_the_start(void **state)
{
    static const struct {
        const char *text, *error;
    } rows[] = {
        { "[groups.x]\ncapabilities = [\"a::\"]\n",
          "groups config: group \"x\" capability \"a::\" rejected" },
        { "[groups.x]\nnonsense = 1\n", "groups config parse error: unknown field \"nonsense\"" },
        { "other = 1\n", "groups config parse error: unknown field \"other\"" },
        { "[groups", "groups config parse error" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_err err = AST_ERR_INIT;
        put("etc/groups.toml", rows[i].text);
        assert_int_not_equal(ast_policy_open(&home, &policy, &err), AST_OK);
        assert_text(&err, rows[i].error);
        policy = NULL;
    }
}

static void c02_38_exemption_is_a_capability(void **state)
{
    (void)state;
    put("etc/profiles/boss.toml", "groups = [\"admin\"]\n");
    put("etc/profiles/one.toml", "grants = [\"net_bind\"]\n");
    put("etc/profiles/less.toml", "groups = [\"admin\"]\nrevokes = [\"net_bind\"]\n");
    put("etc/profiles/none.toml",
        "groups = [\"admin\"]\nrevokes = [\"net_bind\", \"uplink\", \"system:resources:unbounded\"]\n");
    open_policy();
    assert_true(ast_policy_exempt(policy, AST_STR("boss")));
    assert_true(ast_policy_exempt(policy, AST_STR("one")));
    assert_true(ast_policy_exempt(policy, AST_STR("less")));
    assert_false(ast_policy_exempt(policy, AST_STR("none")));
    assert_false(ast_policy_exempt(policy, AST_STR("unknown")));
}

/* ---- cache ---- */

static void a_change_is_seen_after_invalidation_only(void **state)
{
    (void)state;
    put("etc/profiles/x.toml", "grants = [\"system:status\"]\n");
    open_policy();
    assert_true(ast_policy_holds(policy, AST_STR("x"), AST_STR("system:status")));
    put("etc/profiles/x.toml", "enabled = false\n");
    assert_true(ast_policy_holds(policy, AST_STR("x"), AST_STR("system:status")));
    ast_policy_invalidate(policy, AST_STR("x"));
    assert_false(ast_policy_holds(policy, AST_STR("x"), AST_STR("system:status")));
}

static atomic_bool stop_reading;

static void *read_forever(void *arg)
{
    (void)arg;
    while (!atomic_load(&stop_reading))
        (void)ast_policy_holds(policy, AST_STR("racer"), AST_STR("system:status"));
    return NULL;
}

/* A load that began before the change must never be what a check after the invalidation sees. */
static void c04_57_a_racing_load_never_restores_a_stale_profile(void **state)
{
    pthread_t readers[2];
    (void)state;
    put("etc/profiles/racer.toml", "grants = [\"system:status\"]\n");
    open_policy();
    atomic_store(&stop_reading, false);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_forever, NULL), 0);
    for (unsigned i = 0; i < 200; i++) {
        bool on = i % 2;
        put("etc/profiles/racer.toml", on ? "grants = [\"system:status\"]\n" : "enabled = false\n");
        ast_policy_invalidate(policy, AST_STR("racer"));
        assert_int_equal(ast_policy_holds(policy, AST_STR("racer"), AST_STR("system:status")), on);
    }
    atomic_store(&stop_reading, true);
    for (size_t i = 0; i < 2; i++)
        pthread_join(readers[i], NULL);
}

/* ---- bootstrap ---- */

static void c01_50_the_default_principal_is_seeded_once(void **state)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(&home, "etc/profiles/default.toml");
    (void)state;
    open_policy();
    ast_policy_bootstrap(policy);
    assert_true(ast_policy_holds(policy, AST_PRINCIPAL_DEFAULT, AST_STR("system:shutdown")));
    put("etc/profiles/default.toml", "groups = [\"restricted\"]\n");
    ast_policy_invalidate(policy, AST_PRINCIPAL_DEFAULT);
    ast_policy_bootstrap(policy);
    assert_false(ast_policy_holds(policy, AST_PRINCIPAL_DEFAULT, AST_STR("system:shutdown")));
    assert_true(ast_fs_exists(path));
}

static void c01_51_a_legacy_profile_is_moved_or_deleted(void **state)
{
    AST_AUTO(ast_cfree) char *legacy = ast_home_path(&home, "home/default/.config/profile.toml");
    (void)state;
    assert_int_equal(ast_home_ensure_principal(&home, AST_PRINCIPAL_DEFAULT, NULL), AST_OK);
    put("home/default/.config/profile.toml", "grants = [\"agent:list\"]\n");
    open_policy();
    ast_policy_bootstrap(policy);
    assert_false(ast_fs_exists(legacy));
    assert_true(ast_policy_holds(policy, AST_PRINCIPAL_DEFAULT, AST_STR("agent:list")));
    assert_false(ast_policy_holds(policy, AST_PRINCIPAL_DEFAULT, AST_STR("system:shutdown")));
    put("home/default/.config/profile.toml", "grants = [\"system:shutdown\"]\n");
    ast_policy_bootstrap(policy);
    assert_false(ast_fs_exists(legacy));
    assert_false(ast_policy_holds(policy, AST_PRINCIPAL_DEFAULT, AST_STR("system:shutdown")));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(c02_08_the_grammar),
        T(c02_09_patterns_match),
        T(c02_10_scopes_do_not_imply_each_other),
        T(c02_02_missing_file_means_defaults),
        T(c02_03_bad_profiles_are_errors_and_deny),
        T(c02_06_quota_ranges),
        T(c02_04_saving_is_private_and_complete),
        T(c02_05_the_original_s_file_round_trips),
        T(c02_11_revokes_beat_everything),
        T(c02_12_unknown_groups_confer_nothing),
        T(c02_23_a_disabled_administrator_is_denied),
        T(c02_14_builtin_groups_cannot_be_redefined),
        T(c02_15_star_needs_unsafe_admin),
        T(a_disguised_star_in_an_old_file_still_loads),
        T(broken_group_files_stop_the_start),
        T(c02_38_exemption_is_a_capability),
        T(a_change_is_seen_after_invalidation_only),
        T(c04_57_a_racing_load_never_restores_a_stale_profile),
        T(c01_50_the_default_principal_is_seeded_once),
        T(c01_51_a_legacy_profile_is_moved_or_deleted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
