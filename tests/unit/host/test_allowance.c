/* The store of allowances: signed records, what is left out at boot, ceilings. */
#include <sched.h>

#include "ask.h"
#include "base/codec.h"

#include "base/banned.h"

static struct ast_principal who(const char *name)
{
    struct ast_principal p;
    RIG_OK(ast_principal_parse(ast_str_c(name), &p, &err));
    return p;
}

static void always(struct rig *r, const char *principal, const char *action)
{
    char script[128], id[AST_UUID_TEXT];
    (void)snprintf(script, sizeof script, "approve %s|x", action);
    size_t before = ask_seen(r);
    struct rig_call *c = ask_start(r, principal, script);
    ask_answer(r, "astrid.v1.approval", "approval_response", ask_id(rig_seen(r, before), id),
               "\"decision\":\"approve_always\"", "default");
    assert_string_equal(rig_answer(c), "approved-always");
}

static void reopen(struct rig *r)
{
    ast_allowances_free(ast_steal(&r->allowances));
    RIG_OK(ast_allowances_new(r->store, &r->key, &r->allowances, &err));
    r->host.allowances = r->allowances;
}

static bool covers(struct rig *r, const char *principal, const char *command)
{
    return host_allowance_covers(NULL, r->allowances, ast_str_c(principal), AST_STR_NONE,
                                 ast_str_c(command));
}

struct row {
    char key[160];
    char value[4096];
};

static bool take_row(void *arg, struct ast_str key, struct ast_str value)
{
    struct row *row = arg;
    (void)snprintf(row->key, sizeof row->key, AST_STR_FMT, AST_STR_ARG(key));
    (void)snprintf(row->value, sizeof row->value, AST_STR_FMT, AST_STR_ARG(value));
    return false;
}

static void first_row(struct rig *r, struct row *ret)
{
    *ret = (struct row){ .key = "" };
    RIG_OK(ast_store_scan(r->store, AST_ALLOWANCES_NS, AST_STR_NONE, AST_STR_NONE, take_row, ret,
                          &err));
    assert_true(ret->key[0]);
}

static void a_record_holds_every_member(void **state)
{
    struct rig *r = *state;
    struct row row;
    r->env.workspace = AST_STR("/srv/a");
    always(r, "alice", "git *");
    first_row(r, &row);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    RIG_OK(ast_json_parse(ast_str_c(row.value), &doc, &err));
    const struct ast_json *root = ast_json_root(doc);
    static const char *const nulls[] = { "expires_at", "max_uses", "uses_remaining" };
    for (size_t i = 0; i < AST_ARRAY_LEN(nulls); i++)
        assert_int_equal(ast_json_type(ast_json_get(root, ast_str_c(nulls[i]))), AST_JSON_NULL);
    assert_int_equal(ast_json_count(root), 10);
    assert_str(ast_json_str_or(root, AST_STR("principal"), AST_STR_NONE), "alice");
    assert_str(ast_json_str_or(root, AST_STR("workspace_root"), AST_STR_NONE), "/srv/a");
    const struct ast_json *pattern = ast_json_member(root, "action_pattern");
    assert_str(ast_json_str_or(pattern, AST_STR("type"), AST_STR_NONE), "command_pattern");
    assert_str(ast_json_str_or(pattern, AST_STR("command"), AST_STR_NONE), "git \\* *");
    char key[160];
    (void)snprintf(key, sizeof key, "alice/" AST_STR_FMT,
                   AST_STR_ARG(ast_json_str_or(root, AST_STR("id"), AST_STR_NONE)));
    assert_string_equal(row.key, key);
}

/* Whoever can write the database still cannot grant himself anything. */
static void altered_records_allow_nothing(void **state)
{
    struct rig *r = *state;
    static const struct {
        const char *from, *to;
    } edits[] = {
        { "git push *", "git pull *" },
        { "\"principal\":\"alice\"", "\"principal\":\"mallo\"" },
        { "\"session_only\":false", "\"session_only\":true" },
        { "\"expires_at\":null", "\"expires_at\":\"2001-01-01T00:00:00Z\"" },
        { "\"max_uses\":null", "\"max_uses\":1" },
        { "\"workspace_root\":null", "\"workspace_root\":\"/x\"" },
        { "\"signature\":\"", "\"signature\":\"0" },
        { "{", "[" },
    };
    struct row row;
    always(r, "alice", "git push");
    first_row(r, &row);
    reopen(r);
    assert_true(covers(r, "alice", "git push x"));
    for (size_t i = 0; i < AST_ARRAY_LEN(edits); i++) {
        char changed[4200];
        const char *at = strstr(row.value, edits[i].from);
        assert_non_null(at);
        (void)snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - row.value), row.value,
                       edits[i].to, at + strlen(edits[i].from));
        RIG_OK(
            ast_kv_set(r->store, AST_ALLOWANCES_NS, ast_str_c(row.key), ast_str_c(changed), &err));
        reopen(r);
        if (ast_allowances_count(r->allowances, AST_STR("alice"), NULL))
            fail_msg("trusted: %s", changed);
        assert_false(covers(r, "alice", "git pull x"));
        assert_false(covers(r, "mallo", "git push x"));
    }
    /* Under another principal's key. */
    RIG_OK(ast_kv_set(r->store, AST_ALLOWANCES_NS, ast_str_c(row.key), AST_STR("x"), &err));
    char moved[170];
    (void)snprintf(moved, sizeof moved, "mallory%s", strchr(row.key, '/'));
    RIG_OK(ast_kv_set(r->store, AST_ALLOWANCES_NS, ast_str_c(moved), ast_str_c(row.value), &err));
    reopen(r);
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), NULL), 0);
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("mallory"), NULL), 0);
}

static void another_runtime_key_trusts_nothing(void **state)
{
    struct rig *r = *state;
    static const uint8_t seed[AST_KEY_SEED_BYTES] = { 8 };
    always(r, "alice", "git push");
    ast_key_done(&r->key);
    RIG_OK(ast_key_from_seed(&r->key, seed, &err));
    reopen(r);
    assert_false(covers(r, "alice", "git push x"));
}

static void the_same_approval_twice_is_one_allowance(void **state)
{
    struct rig *r = *state;
    size_t lasting;
    always(r, "alice", "git push");
    always(r, "alice", "git push");
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), &lasting), 1);
    assert_int_equal(lasting, 1);
}

static void c05_43_a_deleted_principal_s_allowances_are_gone(void **state)
{
    struct rig *r = *state;
    char id[AST_UUID_TEXT];
    always(r, "alice", "git push");
    always(r, "bob", "make");
    struct rig_call *c = ask_start(r, "alice", "approve rm|x"); /* answered too late */
    const struct ast_msg *m = rig_seen(r, 2);
    RIG_OK(ast_allowances_forget(r->allowances, AST_STR("alice"), &err));
    ask_answer(r, "astrid.v1.approval", "approval_response", ask_id(m, id),
               "\"decision\":\"approve_always\"", "default");
    assert_string_equal(rig_answer(c), "approved");
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), NULL), 0);
    reopen(r);
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), NULL), 0);
    assert_true(covers(r, "bob", "make x"));
}

/* One principal cannot fill the memory. */
static void c05_43_allowances_of_one_principal_are_limited(void **state)
{
    struct rig *r = *state;
    struct ast_principal alice = who("alice");
    struct host_asking asking;
    host_asking_begin(r->allowances, &alice, &asking);
    for (unsigned i = 0; i <= AST_ALLOWANCES_OF_ONE; i++) {
        char action[32];
        (void)snprintf(action, sizeof action, "do-%u", i);
        enum ast_rc rc = host_allowance_add(NULL, r->allowances, &asking, AST_STR_NONE,
                                            ast_str_c(action), /* session_only= */ true, NULL);
        assert_int_equal(rc, i < AST_ALLOWANCES_OF_ONE ? AST_OK : AST_E_NO_CAPACITY);
    }
    host_asking_end(r->allowances, &asking);
    assert_true(covers(r, "alice", "do-0 x"));
    ast_allowances_end_session(r->allowances, AST_STR("alice"));
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), NULL), 0);
}

/* A record of the store's own making, changed and signed again: what an operator's tool would leave. */
static void put_record(struct rig *r, const char *id, const char *expires, const char *uses)
{
    char text[2048], row[2304], key[160], hex[2 * AST_KEY_SIGNATURE_BYTES + 1];
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];
    int n = snprintf(
        text, sizeof text,
        "{\"id\":\"%s\",\"principal\":\"alice\",\"action_pattern\":{\"type\":\"command_pattern\","
        "\"command\":\"git push *\"},\"created_at\":\"2026-01-02T03:04:05Z\",\"expires_at\":%s,"
        "%s,\"session_only\":false,\"workspace_root\":null",
        id, expires, uses);
    (void)snprintf(row, sizeof row, "%s}", text);
    ast_key_sign(&r->key, ast_str_c(row), signature);
    ast_hex_encode(signature, sizeof signature, hex);
    (void)snprintf(row, sizeof row, "%.*s,\"signature\":\"%s\"}", n, text, hex);
    (void)snprintf(key, sizeof key, "alice/%s", id);
    RIG_OK(ast_kv_set(r->store, AST_ALLOWANCES_NS, ast_str_c(key), ast_str_c(row), &err));
}

#define ID       "5b1ec0de-0000-4000-8000-000000000001"
#define USES(n)  "\"max_uses\":5,\"uses_remaining\":" n
#define NO_LIMIT "\"max_uses\":null,\"uses_remaining\":null"

static bool is_over(struct rig *r, const struct rig_call *c)
{
    AST_WITH_LOCK(&r->lock);
    return c->is_done;
}

static bool asks(struct rig *r, const char *command)
{
    char script[128], id[AST_UUID_TEXT];
    (void)snprintf(script, sizeof script, "approve x|%s", command);
    size_t before = ask_seen(r);
    struct rig_call *c = ask_start(r, "alice", script);
    while (!is_over(r, c) && ask_seen(r) == before)
        sched_yield();
    bool asked = ask_seen(r) > before;
    if (asked)
        ask_answer(r, "astrid.v1.approval", "approval_response", ask_id(rig_seen(r, before), id),
                   "\"decision\":\"deny\"", "default");
    assert_string_equal(rig_answer(c), asked ? "denied" : "allowance");
    return asked;
}

static void uses_are_counted_across_restarts_and_the_last_is_the_last(void **state)
{
    struct rig *r = *state;
    struct row row;
    put_record(r, ID, "null", USES("3"));
    reopen(r);
    assert_false(asks(r, "git push a"));
    first_row(r, &row); /* durable before the answer */
    assert_non_null(strstr(row.value, "\"uses_remaining\":2,"));
    reopen(r);
    assert_true(asks(r, "git pull a")); /* another command takes none */
    assert_false(asks(r, "git push b"));
    reopen(r);
    assert_false(asks(r, "git push c"));
    assert_true(asks(r, "git push d"));
    reopen(r);
    assert_true(asks(r, "git push e"));
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), NULL), 0);
}

static void c09_17_two_requests_never_share_the_last_use(void **state)
{
    enum { CALLS = 8, USES_LEFT = 3 };
    struct rig *r = *state;
    struct rig_call *calls[CALLS];
    size_t covered = 0;
    rig_pool(r, CALLS, /* pinned= */ false);
    r->host.approval_limit_ns = 200 * AST_NS_PER_MS; /* nobody answers those that ask */
    put_record(r, ID, "null", USES("3"));
    reopen(r);
    for (size_t i = 0; i < CALLS; i++)
        calls[i] = ask_start(r, "alice", "approve x|git push a");
    for (size_t i = 0; i < CALLS; i++)
        covered += strcmp(rig_answer(calls[i]), "allowance") == 0;
    assert_int_equal(covered, USES_LEFT);
}

static void an_allowance_without_limit_spares_those_with_one(void **state)
{
    struct rig *r = *state;
    size_t lasting;
    put_record(r, ID, "null", USES("1"));
    always(r, "alice", "git push");
    reopen(r);
    for (int i = 0; i < 3; i++)
        assert_false(asks(r, "git push a"));
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), &lasting), 2);
    assert_int_equal(lasting, 2);
}

static void an_allowance_ends_with_its_time(void **state)
{
    struct rig *r = *state;
    char when[AST_RFC3339_BYTES], soon[AST_RFC3339_BYTES + 2];
    put_record(r, ID, "\"2026-01-02T03:04:06Z\"", NO_LIMIT); /* long ago */
    reopen(r);
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), NULL), 0);
    put_record(r, ID, "\"2199-01-02T03:04:06Z\"", NO_LIMIT);
    reopen(r);
    assert_false(asks(r, "git push a"));
    int64_t end = ast_wall_ns() + 100 * AST_NS_PER_MS;
    (void)snprintf(soon, sizeof soon, "\"" AST_STR_FMT "\"",
                   AST_STR_ARG(ast_time_format(end, AST_TIME_Z, when)));
    put_record(r, ID, soon, NO_LIMIT);
    reopen(r);
    while (ast_wall_ns() <= end)
        sched_yield();
    assert_true(asks(r, "git push a"));
    assert_int_equal(ast_allowances_count(r->allowances, AST_STR("alice"), NULL), 0);
}

static void limits_that_make_no_sense_allow_nothing(void **state)
{
    struct rig *r = *state;
    static const struct {
        const char *expires, *uses;
    } bad[] = {
        { "7", NO_LIMIT },
        { "\"tomorrow\"", NO_LIMIT },
        { "null", "\"max_uses\":5,\"uses_remaining\":null" },
        { "null", "\"max_uses\":null,\"uses_remaining\":5" },
        { "null", USES("-1") },
        { "null", USES("4294967296") },
        { "null", USES("\"3\"") },
        { "null", USES("0") },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++) {
        put_record(r, ID, bad[i].expires, bad[i].uses);
        reopen(r);
        if (ast_allowances_count(r->allowances, AST_STR("alice"), NULL))
            fail_msg("kept: %s %s", bad[i].expires, bad[i].uses);
    }
}

RIG_MAIN(ASK_TEST(uses_are_counted_across_restarts_and_the_last_is_the_last),
         ASK_TEST(c09_17_two_requests_never_share_the_last_use),
         ASK_TEST(an_allowance_without_limit_spares_those_with_one),
         ASK_TEST(an_allowance_ends_with_its_time),
         ASK_TEST(limits_that_make_no_sense_allow_nothing), ASK_TEST(a_record_holds_every_member),
         ASK_TEST(altered_records_allow_nothing), ASK_TEST(another_runtime_key_trusts_nothing),
         ASK_TEST(the_same_approval_twice_is_one_allowance),
         ASK_TEST(c05_43_a_deleted_principal_s_allowances_are_gone),
         ASK_TEST(c05_43_allowances_of_one_principal_are_limited))
