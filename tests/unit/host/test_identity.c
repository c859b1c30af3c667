/* astrid:identity: who may ask, what is answered, errors by the contract. */
#include "rig.h"

#include "store/identity.h"

#include "base/banned.h"

#define ID_A "3f0e7c1a-0000-4000-8000-000000000001"

static void grant(struct rig *r, const char *word)
{
    r->env.identity = ast_identity_level_of(ast_str_c(word));
}

/* A user made by the guest; the text lives until the end of the test program. */
static const char *user(struct rig *r, const char *name)
{
    char script[128];
    (void)snprintf(script, sizeof script, "user %s", name);
    const char *id = ast_str_dup(ast_str_c(rig_run(r, script)));
    struct ast_uuid u;
    assert_true(ast_uuid_parse(ast_str_c(id), &u));
    return id;
}

#define ASK(r, want, ...)                                                                          \
    do {                                                                                           \
        char script_[512];                                                                         \
        (void)snprintf(script_, sizeof script_, __VA_ARGS__);                                      \
        assert_string_equal(rig_run((r), script_), (want));                                        \
    } while (0)

static void c05_45_an_unlinked_user_is_not_found(void **state)
{
    struct rig *r = *state;
    grant(r, "resolve");
    ASK(r, "err:link-not-found", "resolve telegram 12345");
    grant(r, "admin");
    AST_AUTO(ast_cfree) char *a = (char *)(uintptr_t)user(r, "Josh Bouw");
    ASK(r, "ok", "link Telegram 12345 %s admin", a);
    char want[80];
    (void)snprintf(want, sizeof want, "%s|Josh Bouw", a);
    ASK(r, want, "resolve TELEGRAM 12345");
    ASK(r, "ok\nerr:link-not-found\nerr:link-not-found",
        "unlink telegram 12345\nresolve telegram 12345\nunlink telegram 12345");
}

static void c05_45_levels_include_those_below(void **state)
{
    static const char script[] =
        "resolve t 1\nlink t 1 " ID_A " m\nunlink t 1\nlinks " ID_A "\nuser /";
    static const struct {
        const char *word, *want;
    } cases[] = {
        { "", "err:capability-denied\nerr:capability-denied\nerr:capability-denied\n"
              "err:capability-denied\nerr:capability-denied" },
        { "everything", "err:capability-denied\nerr:capability-denied\nerr:capability-denied\n"
                        "err:capability-denied\nerr:capability-denied" },
        { "resolve", "err:link-not-found\nerr:capability-denied\nerr:capability-denied\n"
                     "err:capability-denied\nerr:capability-denied" },
        { "link", "err:link-not-found\nerr:user-not-found\nerr:link-not-found\n0\n"
                  "err:capability-denied" },
        { "admin", "err:link-not-found\nerr:user-not-found\nerr:link-not-found\n0\n"
                   "err:invalid-input" },
    };
    struct rig *r = *state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        grant(r, cases[i].word);
        assert_string_equal(rig_run(r, script), cases[i].want);
    }
    r->env.is_lifecycle = true;
    assert_string_equal(rig_run(r, script), cases[0].want);
}

static void checks_come_in_their_order(void **state)
{
    struct rig *r = *state;
    ASK(r, "err:invalid-input\nerr:invalid-input", "link t 1 nobody m\nlinks nobody");
    grant(r, "admin");
    r->host.store = NULL;
    ASK(r, "err:store-unavailable\nerr:invalid-input\nerr:store-unavailable",
        "resolve t 1\nlinks nobody\nlinks " ID_A);
    r->host.store = r->store;
    ASK(r, "err:invalid-input\nerr:invalid-input\nerr:invalid-input\nerr:invalid-input",
        "resolve  1\nresolve t a/b\nlink t 1 " ID_A "  \nunlink t ");
}

static void a_capsule_takes_no_account_from_another_user(void **state)
{
    struct rig *r = *state;
    grant(r, "admin");
    AST_AUTO(ast_cfree) char *a = (char *)(uintptr_t)user(r, "a");
    AST_AUTO(ast_cfree) char *b = (char *)(uintptr_t)user(r, "-");
    ASK(r, "ok\nok\nerr:already-linked", "link t 1 %s m\nlink t 1 %s again\nlink t 1 %s m", a, a,
        b);
    char want[80];
    (void)snprintf(want, sizeof want, "ok\nok\n%s|none", b);
    ASK(r, want, "unlink t 1\nlink t 1 %s m\nresolve t 1", b);
}

static void links_are_listed_with_offset_times(void **state)
{
    struct rig *r = *state;
    grant(r, "admin");
    AST_AUTO(ast_cfree) char *a = (char *)(uintptr_t)user(r, "a");
    RIG_OK(ast_kv_set(r->store, AST_IDENTITY_NS, AST_STR("link/chat/7"),
                      AST_STR("{\"platform\":\"chat\",\"platform_user_id\":\"7\","
                              "\"astrid_user_id\":\"" ID_A
                              "\",\"linked_at\":\"2026-01-02T03:04:05.123Z\",\"method\":\"x\"}"),
                      &err));
    ASK(r, "1;chat|7|2026-01-02T03:04:05.123+00:00|x", "links " ID_A);
    ASK(r, "0", "links %s", a);
    /* A damaged row is a store that cannot be trusted, not an empty list. */
    RIG_OK(ast_kv_set(r->store, AST_IDENTITY_NS, AST_STR("link/chat/8"), AST_STR("{"), &err));
    ASK(r, "err:store-unavailable\nerr:store-unavailable", "links %s\nresolve chat 8", a);
}

static void a_cancelled_change_leaves_nothing_dangling(void **state)
{
    struct rig *r = *state;
    grant(r, "admin");
    for (int i = 0; i < 50; i++) {
        struct rig_call *c = rig_start(r, "user a\nuser b\nuser c");
        ast_call_cancel(c->call);
        rig_wait(c);
        assert_true(c->rc == AST_E_CANCELLED || c->rc == AST_OK);
        rig_end(c);
    }
}

RIG_MAIN(RIG_TEST(c05_45_an_unlinked_user_is_not_found),
         RIG_TEST(c05_45_levels_include_those_below), RIG_TEST(checks_come_in_their_order),
         RIG_TEST(a_capsule_takes_no_account_from_another_user),
         RIG_TEST(links_are_listed_with_offset_times),
         RIG_TEST(a_cancelled_change_leaves_nothing_dangling))
