/* Users and links: the original's records, the derivation of principals, changes as one transaction. */
#include "fixture.h"

#include "store/identity.h"
#include "store/kv.h"

#include "base/banned.h"

#define ID_A "3f0e7c1a-0000-4000-8000-000000000001"
#define ID_B "3f0e7c1a-0000-4000-8000-000000000002"

static struct ast_uuid uuid(const char *text)
{
    struct ast_uuid u;
    assert_true(ast_uuid_parse(ast_str_c(text), &u));
    return u;
}

static void put(struct fixture *f, const char *key, const char *value)
{
    struct ast_err err = AST_ERR_INIT;
    if (ast_kv_set(f->store, AST_IDENTITY_NS, ast_str_c(key), ast_str_c(value), &err))
        fail_msg("%s", err.msg);
}

static enum ast_rc run(struct fixture *f, struct ast_identity_op *op, enum ast_rc prepared,
                       struct ast_err *err)
{
    enum ast_rc rc = prepared ? prepared : ast_store_run(f->store, &op->op, err);
    ast_identity_op_done(op);
    return rc;
}

static enum ast_rc link_as(struct fixture *f, const char *platform, const char *user,
                           const char *id, bool replace, struct ast_err *err)
{
    struct ast_identity_op op;
    struct ast_uuid u = uuid(id);
    return run(f, &op,
               ast_identity_prepare_link(&op, ast_str_c(platform), ast_str_c(user),
                                         AST_STR("admin"), &u, replace, err),
               err);
}

static void c05_46_c09_47_records_of_the_original_are_readable(void **state)
{
    struct fixture *f = *state;
    struct ast_err err = AST_ERR_INIT;
    put(f, "user/" ID_A,
        "{\"id\":\"" ID_A "\",\"principal\":\"josh-bouw\",\"public_key\":"
        "\"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\",\"display_name\":\"Josh Bouw\","
        "\"created_at\":\"2026-01-02T03:04:05.123456789Z\"}");
    /* Without principal, without display name. */
    put(f, "user/" ID_B,
        "{\"id\":\"" ID_B "\",\"public_key\":null,\"created_at\":\"2026-01-02T03:04:05Z\"}");
    put(f, "link/telegram/12345",
        "{\"platform\":\"telegram\",\"platform_user_id\":\"12345\",\"astrid_user_id\":\"" ID_A
        "\",\"linked_at\":\"2026-01-02T03:04:05Z\",\"method\":\"admin\"}");
    put(f, "link/telegram/2",
        "{\"platform\":\"telegram\",\"platform_user_id\":\"2\",\"astrid_user_id\":\"" ID_B
        "\",\"linked_at\":\"2026-01-02T03:04:05Z\",\"method\":\"admin\"}");
    {
        AST_AUTO(ast_identity_user_done) struct ast_identity_user u = { .doc = NULL };
        assert_int_equal(
            ast_identity_resolve(f->store, AST_STR("  Telegram "), AST_STR("12345"), &u, &err),
            AST_OK);
        struct ast_uuid a = uuid(ID_A);
        assert_true(ast_uuid_eq(&u.id, &a));
        assert_string_equal(u.principal.name, "josh-bouw");
        assert_true(u.has_public_key);
        for (int i = 0; i < 32; i++)
            assert_int_equal(u.public_key[i], i + 1);
        assert_true(u.has_display_name && ast_str_is(u.display_name, "Josh Bouw"));
        assert_int_equal(u.created_ns % AST_NS_PER_SEC, 123456789);
    }
    AST_AUTO(ast_identity_user_done) struct ast_identity_user u = { .doc = NULL };
    assert_int_equal(ast_identity_resolve(f->store, AST_STR("telegram"), AST_STR("2"), &u, &err),
                     AST_OK);
    assert_string_equal(u.principal.name, "default");
    assert_false(u.has_display_name);
    assert_false(u.has_public_key);
}

static void damaged_records_are_named(void **state)
{
    static const struct {
        const char *json, *why;
    } cases[] = {
        { "[", "not JSON" },
        { "{}", "id" },
        { "{\"id\":\"" ID_A "\",\"principal\":\"a b\"}", "principal" },
        { "{\"id\":\"" ID_A "\",\"principal\":7}", "principal" },
        { "{\"id\":\"" ID_A "\",\"public_key\":\"AQID\"}", "public_key" },
        { "{\"id\":\"" ID_A "\",\"public_key\":3}", "public_key" },
        { "{\"id\":\"" ID_A "\",\"display_name\":3}", "display_name" },
        { "{\"id\":\"" ID_A "\",\"created_at\":\"yesterday\"}", "created_at" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_identity_user u = { .doc = NULL };
        struct ast_err err = AST_ERR_INIT;
        assert_int_equal(ast_identity_user_parse(ast_str_c(cases[i].json), &u, &err),
                         AST_E_CORRUPT);
        assert_non_null(strstr(err.msg, cases[i].why));
        assert_null(u.doc);
    }
}

static void principals_are_derived_from_names(void **state)
{
    static char many[100];
    memset(many, 'x', 63);
    memcpy(many + 63, "!yyy", 5);
    static const struct {
        const char *name, *principal;
    } cases[] = {
        { "Josh Bouw", "josh-bouw" },
        { "alice@example.com", "alice-example-com" },
        { "--a---b__c--", "a-b__c" },
        { "J\xc3\xbcrgen", "j-rgen" },
        { " \xe2\x82\xac ", "user-3f0e7c1a" },
        { "", "user-3f0e7c1a" },
        { many, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" },
    };
    struct ast_uuid id = uuid(ID_A);
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_principal p;
        ast_identity_principal(ast_str_c(cases[i].name), &id, &p);
        assert_string_equal(p.name, cases[i].principal);
    }
}

/* Creates a user and gives its id. */
static const char *create(struct fixture *f, const char *name)
{
    static char texts[8][AST_UUID_TEXT];
    static unsigned turn;
    struct ast_identity_op op;
    struct ast_err err = AST_ERR_INIT;
    char *out = texts[turn++ % 8];
    enum ast_rc rc = ast_identity_prepare_create(&op, name ? ast_str_c(name) : AST_STR_NONE, &err);
    (void)ast_uuid_format(&op.user, out);
    rc = run(f, &op, rc, &err);
    if (rc)
        fail_msg("create: %s", err.msg);
    return out;
}

static void users_are_written_whole(void **state)
{
    struct fixture *f = *state;
    const char *id = create(f, " Josh Bouw ");
    char key[64];
    (void)snprintf(key, sizeof key, "user/%s", id);
    const char *json = value_of(f->store, AST_IDENTITY_NS, ast_str_c(key));
    assert_non_null(strstr(json, "\"principal\":\"josh-bouw\""));
    assert_non_null(strstr(json, "\"public_key\":null"));
    assert_non_null(strstr(json, "\"display_name\":\" Josh Bouw \""));
    assert_string_equal(value_of(f->store, AST_IDENTITY_NS, AST_STR("name/Josh Bouw")), id);
    const char *second = create(f, "Josh Bouw"); /* the last writer wins */
    assert_string_equal(value_of(f->store, AST_IDENTITY_NS, AST_STR("name/Josh Bouw")), second);
    (void)snprintf(key, sizeof key, "user/%s", create(f, NULL));
    json = value_of(f->store, AST_IDENTITY_NS, ast_str_c(key));
    assert_non_null(strstr(json, "\"principal\":\"default\""));
    assert_non_null(strstr(json, "\"display_name\":null"));
}

static void links_are_made_kept_and_replaced(void **state)
{
    struct fixture *f = *state;
    struct ast_err err = AST_ERR_INIT;
    const char *a = create(f, "a"), *b = create(f, "b");
    assert_int_equal(link_as(f, "chat", "1", ID_A, false, &err), AST_E_NOT_FOUND);
    assert_string_equal(err.msg, "user not found: " ID_A);
    assert_int_equal(link_as(f, " ChAt ", "1", a, false, &err), AST_OK);
    assert_non_null(strstr(value_of(f->store, AST_IDENTITY_NS, AST_STR("link/chat/1")),
                           "\"platform\":\"chat\""));
    assert_int_equal(link_as(f, "chat", "1", a, false, &err), AST_OK);
    assert_int_equal(link_as(f, "chat", "1", b, false, &err), AST_E_CONFLICT);
    assert_int_equal(link_as(f, "chat", "1", b, true, &err), AST_OK);
    struct ast_identity_user u = { .doc = NULL };
    assert_int_equal(ast_identity_resolve(f->store, AST_STR("chat"), AST_STR("1"), &u, &err),
                     AST_OK);
    assert_string_equal(u.principal.name, "b");
    ast_identity_user_done(&u);
    /* A link to a user who is gone is nobody's. */
    put(f, "link/chat/2",
        "{\"platform\":\"chat\",\"platform_user_id\":\"2\",\"astrid_user_id\":\"" ID_A
        "\",\"linked_at\":\"2026-01-02T03:04:05Z\",\"method\":\"admin\"}");
    assert_int_equal(ast_identity_resolve(f->store, AST_STR("chat"), AST_STR("2"), &u, &err),
                     AST_E_NOT_FOUND);
    assert_int_equal(link_as(f, "chat", "2", b, false, &err), AST_OK);
}

static void texts_are_checked(void **state)
{
    struct fixture *f = *state;
    const char *a = create(f, "a");
    static char big[600];
    memset(big, 'x', sizeof big - 1);
    const struct {
        const char *platform, *user, *why;
    } cases[] = {
        { " ", "1", "invalid input: platform must not be empty" },
        { "a/b", "1", "invalid input: platform must not contain '/' or null bytes" },
        { "chat", "", "invalid input: platform_user_id must not be empty" },
        { "chat", "x/y", "invalid input: platform_user_id must not contain '/' or null bytes" },
        { "chat", big, "invalid input: platform_user_id must not be that long" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_err err = AST_ERR_INIT;
        assert_int_equal(link_as(f, cases[i].platform, cases[i].user, a, false, &err),
                         AST_E_INVALID);
        assert_string_equal(err.msg, cases[i].why);
    }
    big[AST_IDENTITY_MAX_KEY - 10] = 0; /* "link/chat/" and as many bytes as fit */
    assert_int_equal(link_as(f, "chat", big, a, false, NULL), AST_OK);
    struct ast_identity_op op;
    struct ast_uuid u = uuid(a);
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(run(f, &op,
                         ast_identity_prepare_link(&op, AST_STR("c"), AST_STR("1"), AST_STR(" "),
                                                   &u, false, &err),
                         &err),
                     AST_E_INVALID);
    assert_string_equal(err.msg, "invalid input: method must not be empty");
    err = (struct ast_err)AST_ERR_INIT;
    assert_int_equal(run(f, &op, ast_identity_prepare_create(&op, AST_STR("a\0b"), &err), &err),
                     AST_E_INVALID);
    assert_string_equal(err.msg, "invalid input: display_name must not contain '/' or null bytes");
}

static bool count_link(void *arg, const struct ast_identity_link *link)
{
    assert_true(ast_str_is(link->method, "admin"));
    return ++*(unsigned *)arg < 100;
}

static unsigned links_of(struct fixture *f, const char *id)
{
    struct ast_uuid u = uuid(id);
    struct ast_err err = AST_ERR_INIT;
    unsigned n = 0;
    if (ast_identity_links(f->store, &u, count_link, &n, &err))
        fail_msg("%s", err.msg);
    return n;
}

static void c09_47_a_deleted_user_takes_links_and_its_own_name_along(void **state)
{
    struct fixture *f = *state;
    struct ast_err err = AST_ERR_INIT;
    struct ast_identity_op op;
    const char *a = create(f, "same"), *b = create(f, "same"), *c = create(f, "other");
    assert_int_equal(link_as(f, "chat", "1", a, false, &err), AST_OK);
    assert_int_equal(link_as(f, "mail", "1", a, false, &err), AST_OK);
    assert_int_equal(link_as(f, "chat", "2", b, false, &err), AST_OK);
    assert_int_equal(links_of(f, a), 2);
    struct ast_uuid u = uuid(a);
    assert_int_equal(run(f, &op, ast_identity_prepare_delete(&op, &u, &err), &err), AST_OK);
    assert_true(op.ret_changed);
    assert_int_equal(links_of(f, a), 0);
    assert_int_equal(links_of(f, b), 1);
    assert_string_equal(value_of(f->store, AST_IDENTITY_NS, AST_STR("name/same")), b);
    u = uuid(c);
    assert_int_equal(run(f, &op, ast_identity_prepare_delete(&op, &u, &err), &err), AST_OK);
    assert_null(value_of(f->store, AST_IDENTITY_NS, AST_STR("name/other")));
    assert_int_equal(run(f, &op, ast_identity_prepare_delete(&op, &u, &err), &err), AST_OK);
    assert_false(op.ret_changed);
    assert_int_equal(
        run(f, &op, ast_identity_prepare_unlink(&op, AST_STR("mail"), AST_STR("1"), &err), &err),
        AST_E_NOT_FOUND);
}

static void the_seed_is_made_once(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 2; i++) {
        struct ast_identity_op op;
        struct ast_err err = AST_ERR_INIT;
        assert_int_equal(
            run(f, &op,
                ast_identity_prepare_seed(&op, AST_STR("root"), AST_STR("default"), AST_STR("cli"),
                                          AST_STR("local"), AST_STR("system"), &err),
                &err),
            AST_OK);
        assert_int_equal(op.ret_changed, i == 0);
    }
    AST_AUTO(ast_identity_user_done) struct ast_identity_user u = { .doc = NULL };
    assert_int_equal(ast_identity_resolve(f->store, AST_STR("cli"), AST_STR("local"), &u, NULL),
                     AST_OK);
    assert_string_equal(u.principal.name, "default");
    assert_true(ast_str_is(u.display_name, "root"));
}

static enum ast_rc assign(struct fixture *f, const char *user, const char *whom, bool *ret_changed,
                          struct ast_err *err)
{
    struct ast_identity_op op;
    enum ast_rc rc = run(f, &op,
                         ast_identity_prepare_assign(&op, AST_STR("Chat"), ast_str_c(user),
                                                     AST_STR("admin"), ast_str_c(whom), err),
                         err);
    *ret_changed = op.ret_changed;
    return rc;
}

static void settings_assign_accounts_to_ids_and_names(void **state)
{
    struct fixture *f = *state;
    struct ast_err err = AST_ERR_INIT;
    bool changed = false;
    assert_int_equal(assign(f, "1", ID_A, &changed, &err), AST_E_NOT_FOUND);
    assert_int_equal(assign(f, "1", " ", &changed, &err), AST_E_INVALID);
    /* A name makes its user, once. */
    assert_int_equal(assign(f, "1", "Josh Bouw", &changed, &err), AST_OK);
    assert_true(changed);
    char josh[512];
    (void)snprintf(josh, sizeof josh, "%s",
                   value_of(f->store, AST_IDENTITY_NS, AST_STR("name/Josh Bouw")));
    assert_int_equal(assign(f, "1", "Josh Bouw", &changed, &err), AST_OK);
    assert_false(changed); /* identical: left alone */
    assert_int_equal(assign(f, "2", josh, &changed, &err), AST_OK);
    assert_true(changed);
    assert_string_equal(value_of(f->store, AST_IDENTITY_NS, AST_STR("name/Josh Bouw")), josh);
    assert_int_equal(links_of(f, josh), 2);
    /* Settings replace. */
    const char *other = create(f, "other");
    assert_int_equal(assign(f, "2", other, &changed, &err), AST_OK);
    assert_true(changed);
    assert_int_equal(links_of(f, josh), 1);
    assert_int_equal(links_of(f, other), 1);
}

static void a_principal_is_enrolled_and_removed_by_its_account(void **state)
{
    struct fixture *f = *state;
    struct ast_err err = AST_ERR_INIT;
    struct ast_identity_op op;
    const char *old = create(f, "older");
    assert_int_equal(link_as(f, "cli", "A--b", old, false, &err), AST_OK);
    /* The record has the principal itself, not one derived from its name; the account changes hands. */
    assert_int_equal(run(f, &op,
                         ast_identity_prepare_enrol(&op, AST_STR("A--b"), AST_STR("cli"),
                                                    AST_STR("system"), &err),
                         &err),
                     AST_OK);
    {
        AST_AUTO(ast_identity_user_done) struct ast_identity_user u = { .doc = NULL };
        assert_int_equal(ast_identity_resolve(f->store, AST_STR("cli"), AST_STR("A--b"), &u, &err),
                         AST_OK);
        assert_string_equal(u.principal.name, "A--b");
        assert_true(ast_uuid_eq(&u.id, &op.user));
    }
    char id[AST_UUID_TEXT];
    (void)ast_uuid_format(&op.user, id);
    assert_int_equal(links_of(f, old), 0);
    assert_int_equal(link_as(f, "chat", "7", id, false, &err), AST_OK);
    assert_int_equal(
        run(f, &op, ast_identity_prepare_remove(&op, AST_STR("A--b"), AST_STR("cli"), &err), &err),
        AST_OK);
    assert_true(op.ret_changed);
    assert_int_equal(links_of(f, id), 0);
    assert_null(value_of(f->store, AST_IDENTITY_NS, AST_STR("name/A--b")));
    assert_int_equal(
        run(f, &op, ast_identity_prepare_remove(&op, AST_STR("A--b"), AST_STR("cli"), &err), &err),
        AST_OK);
    assert_false(op.ret_changed);
    /* It is known to be gone, until it is made again. */
    assert_true(ast_identity_was_removed(f->store, AST_STR("A--b")));
    assert_false(ast_identity_was_removed(f->store, AST_STR("never")));
    assert_int_equal(run(f, &op,
                         ast_identity_prepare_enrol(&op, AST_STR("A--b"), AST_STR("cli"),
                                                    AST_STR("system"), &err),
                         &err),
                     AST_OK);
    assert_false(ast_identity_was_removed(f->store, AST_STR("A--b")));
    /* A link that cannot be read goes too. */
    put(f, "link/cli/broken", "{");
    assert_int_equal(run(f, &op,
                         ast_identity_prepare_remove(&op, AST_STR("broken"), AST_STR("cli"), &err),
                         &err),
                     AST_OK);
    assert_null(value_of(f->store, AST_IDENTITY_NS, AST_STR("link/cli/broken")));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        STORE_TEST(c05_46_c09_47_records_of_the_original_are_readable),
        STORE_TEST(damaged_records_are_named),
        STORE_TEST(principals_are_derived_from_names),
        STORE_TEST(users_are_written_whole),
        STORE_TEST(links_are_made_kept_and_replaced),
        STORE_TEST(texts_are_checked),
        STORE_TEST(c09_47_a_deleted_user_takes_links_and_its_own_name_along),
        STORE_TEST(the_seed_is_made_once),
        STORE_TEST(settings_assign_accounts_to_ids_and_names),
        STORE_TEST(a_principal_is_enrolled_and_removed_by_its_account),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
