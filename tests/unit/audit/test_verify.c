#include "fixture.h"

#include <inttypes.h>
#include <pthread.h>

#include "base/banned.h"

/* Replaces the first `from` in the text of a row. */
static void edit_row(struct fixture *f, uint64_t seq, const char *from, const char *to)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf changed = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    row_text(f, seq, &text);
    size_t at = ast_str_find(ast_buf_view(&text), ast_str_c(from));
    if (at == AST_STR_NPOS)
        fail_msg("row has no %s: %s", from, text.p);
    (void)ast_buf_add(&changed, ast_str_first(ast_buf_view(&text), at));
    (void)ast_buf_add(&changed, ast_str_c(to));
    (void)ast_buf_add(&changed, ast_str_from(ast_buf_view(&text), at + strlen(from)));
    put_row_text(f, seq, ast_buf_view(&changed));
}

/* Rows 1 to 5 of alice, with a failure in the middle. */
static void add_five(struct fixture *f)
{
    for (int i = 1; i <= 5; i++) {
        struct ast_audit_draft d = admin_draft(AST_STR("alice"), AST_STR("GetStatus"));
        d.action_values[2].text = AST_STR("bob");
        d.action_values[3].text = AST_STR("{\"n\":1}");
        d.is_failure = i == 3;
        d.outcome = i == 3 ? AST_STR("it broke") : AST_STR("details");
        assert_int_equal(ast_audit_append_wait(f->audit, &d, NULL, NULL), AST_OK);
    }
    assert_string_equal(issues(f, NULL), "");
}

/* Each changes row 3, which is a failure; row 4 links to it. */
static void c09_26_each_altered_field_is_found_with_its_class(void **state)
{
    static const struct {
        const char *from, *to, *expected;
    } cases[] = {
        { "GetStatus", "Shutdown ", "InvalidSignature@3 BrokenLink@4 " },
        { "system:status", "system:nobody", "InvalidSignature@3 BrokenLink@4 " },
        { "\"bob\"", "\"eve\"", "InvalidSignature@3 BrokenLink@4 " },
        { "{\"n\":1}", "{\"n\":2}", "InvalidSignature@3 BrokenLink@4 " },
        { "policy allow", "policy abide", "InvalidSignature@3 BrokenLink@4 " },
        { "\"type\":\"system\"", "\"type\":\"denied\"", "InvalidSignature@3 BrokenLink@4 " },
        /* the outcome's word is signed, its text is sealed */
        { "{\"status\":\"failure\",\"error\":\"it broke\"}",
          "{\"status\":\"success\",\"details\":null}", "InvalidSignature@3 BrokenLink@4 " },
        { "it broke", "it works", "AlteredOutcome@3 " },
        { "\"previous_hash\":\"", "\"previous_hash\":\"",
          "" }, /* unchanged: the test edits right */
        { "\"runtime_key\":\"A6EHv", "\"runtime_key\":\"B6EHv",
          "InvalidSignature@3 BrokenLink@4 " },
        { "\"form\":2", "\"form\":3", "InvalidSignature@3 BrokenLink@4 " },
        { "\"timestamp\":\"20", "\"timestamp\":\"19", "InvalidSignature@3 BrokenLink@4 " },
        { "\"principal\":\"alice\"", "\"principal\":\"alicE\"",
          "InvalidGenesis@3 InvalidSignature@3 UnrecordedHead@3 BrokenLink@4 " },
        { "\"session_id\":\"0", "\"session_id\":\"1",
          "InvalidSignature@3 BrokenLink@4 Misplaced@3 " },
        { "{\"id\"", "{{id\"", "Unreadable@3 BrokenLink@4 " },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        assert_int_equal(fixture_setup(state), 0);
        struct fixture *f = *state;
        add_five(f);
        edit_row(f, 3, cases[i].from, cases[i].to);
        if (strcmp(issues(f, NULL), cases[i].expected) != 0)
            fail_msg("%s: %s, not %s", cases[i].to, issues(f, NULL), cases[i].expected);
        assert_int_equal(fixture_teardown(state), 0);
    }
}

/* Hex digits and base64 are random: one is turned into another. */
static void flip_behind(struct fixture *f, uint64_t seq, const char *behind)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    row_text(f, seq, &text);
    size_t at = ast_str_find(ast_buf_view(&text), ast_str_c(behind)) + strlen(behind);
    text.p[at] = text.p[at] == '1' ? '2' : '1';
    put_row_text(f, seq, ast_buf_view(&text));
}

static void c09_26_altered_hash_id_and_signature_are_found(void **state)
{
    static const struct {
        const char *behind;
        uint64_t seq;
        const char *expected;
    } cases[] = {
        { "\"previous_hash\":\"", 3, "InvalidSignature@3 BrokenLink@3 BrokenLink@4 " },
        { "\"previous_hash\":\"", 1, "InvalidGenesis@1 InvalidSignature@1 BrokenLink@2 " },
        { "\"signature\":\"", 3, "InvalidSignature@3 " },
        { "\"id\":\"", 3, "InvalidSignature@3 BrokenLink@4 " },
        { "\"id\":\"", 5, "InvalidSignature@5 Truncated@5 " }, /* the head names another row */
        { "\"outcome_hash\":\"", 3, "InvalidSignature@3 BrokenLink@4 " },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        assert_int_equal(fixture_setup(state), 0);
        struct fixture *f = *state;
        add_five(f);
        flip_behind(f, cases[i].seq, cases[i].behind);
        if (strcmp(issues(f, NULL), cases[i].expected) != 0)
            fail_msg("%s: %s, not %s", cases[i].behind, issues(f, NULL), cases[i].expected);
        assert_int_equal(fixture_teardown(state), 0);
    }
}

static void remove_row(struct fixture *f, uint64_t seq)
{
    struct audit_key key;
    explode(f);
    audit_key_log(&key, &AST_UUID_NIL, seq);
    store_remove(f, AUDIT_NS_LOG, audit_key_str(&key));
}

static void reordered_removed_and_cut_rows_are_found(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_buf_done) struct ast_buf two = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf three = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);

    add_five(f);
    row_text(f, 2, &two);
    row_text(f, 3, &three);
    put_row_text(f, 2, ast_buf_view(&three));
    put_row_text(f, 3, ast_buf_view(&two));
    assert_string_equal(issues(f, NULL), "BrokenLink@2 BrokenLink@3 BrokenLink@4 ");
    put_row_text(f, 2, ast_buf_view(&two));
    put_row_text(f, 3, ast_buf_view(&three));
    assert_string_equal(issues(f, NULL), "");

    remove_row(f, 3);
    assert_string_equal(issues(f, NULL), "BrokenLink@4 ");
    put_row_text(f, 3, ast_buf_view(&three));
    remove_row(f, 5);
    assert_string_equal(issues(f, NULL), "Truncated@5 ");
    remove_row(f, 1);
    assert_string_equal(issues(f, NULL), "InvalidGenesis@2 Truncated@5 ");
}

/* A second row behind row 2, properly signed: what two writers that read one head would leave. */
static void a_fork_is_found(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    AST_AUTO(ast_buf_done) struct ast_buf forked = AST_BUF_INIT(AST_AUDIT_MAX_ENTRY);
    struct ast_audit_entry e;

    add_five(f);
    row_text(f, 5, &text);
    assert_int_equal(ast_audit_entry_read(ast_buf_view(&text), &e, NULL), AST_OK);
    e.id = ast_uuid_v4();
    assert_int_equal(ast_audit_entry_signed(&e, &bytes, NULL), AST_OK);
    ast_key_sign(&f->key, ast_buf_view(&bytes), e.signature);
    assert_int_equal(ast_audit_entry_write(&e, &forked, NULL), AST_OK);
    put_row_text(f, 6, ast_buf_view(&forked));
    assert_string_equal(issues(f, NULL), "Fork@6 ");
}

/* Whoever can write the store can make a chain of his own, but not with our key. */
static void a_row_signed_by_a_strange_key_is_found_until_the_key_is_trusted(void **state)
{
    static const uint8_t seed[AST_KEY_SEED_BYTES] = { 9 };
    struct fixture *f = *state;
    AST_AUTO(ast_key_done) struct ast_key strange = { 0 };

    add_five(f);
    fixture_close(f);
    assert_int_equal(ast_key_from_seed(&strange, seed, NULL), AST_OK);
    struct ast_key own = f->key;
    f->key = strange;
    fixture_open(f);
    add_row(f, "alice", "GetStatus");
    fixture_close(f);
    f->key = own;
    fixture_open(f);
    assert_string_equal(issues(f, NULL), "UntrustedKey@6 ");
    assert_int_equal(ast_audit_trust(f->audit, strange.public_key, NULL), AST_OK);
    assert_string_equal(issues(f, NULL), "");
    fixture_close(f); /* remembered */
    fixture_open(f);
    assert_string_equal(issues(f, NULL), "");
    fixture_close(f); /* but only vouched for by the key that did it */
    f->key = strange;
    fixture_open(f);
    assert_string_equal(
        issues(f, NULL),
        "UntrustedKey@1 UntrustedKey@2 UntrustedKey@3 UntrustedKey@4 UntrustedKey@5 ");
    f->key = own;
}

static void rows_cut_off_together_with_their_head_are_found_by_the_anchors(void **state)
{
    struct fixture *f = *state;
    char path[96];
    struct audit_key key;
    AST_AUTO(ast_buf_done) struct ast_buf head = AST_BUF_INIT(1024), file = AST_BUF_INIT(65536);
    struct ast_audit_report report = { 0 };
    struct ast_err err = AST_ERR_INIT;
    bool found = false;

    (void)snprintf(path, sizeof path, "%s/anchors", f->dir);
    for (int i = 0; i < 3; i++)
        add_row(f, "alice", "GetStatus");
    audit_key_chain(&key, &AST_UUID_NIL, AST_STR("alice"));
    assert_int_equal(
        ast_store_get(f->store, AUDIT_NS_HEADS, audit_key_str(&key), &head, &found, NULL), AST_OK);
    for (int i = 0; i < 2; i++)
        add_row(f, "alice", "GetStatus");
    add_row(f, "bob", "GetStatus");
    assert_int_equal(ast_audit_anchor(f->audit, path, NULL), AST_OK);
    assert_string_equal(issues(f, path), "");
    add_row(f, "alice", "GetStatus"); /* rows may come behind the anchor */
    assert_string_equal(issues(f, path), "");

    remove_row(f, 7);
    remove_row(f, 5);
    remove_row(f, 4);
    store_put(f, AUDIT_NS_HEADS, audit_key_str(&key), ast_buf_view(&head));
    assert_string_equal(issues(f, NULL), ""); /* the store alone cannot tell */
    assert_string_equal(issues(f, path), "Truncated@5 ");
    remove_row(f, 6); /* bob as a whole */
    audit_key_chain(&key, &AST_UUID_NIL, AST_STR("bob"));
    store_remove(f, AUDIT_NS_HEADS, audit_key_str(&key));
    assert_string_equal(issues(f, path), "Truncated@5 Truncated@6 ");

    assert_int_equal(ast_fs_read(path, 65536, &file, NULL), AST_OK);
    file.p[file.n / 2] ^= 1;
    assert_int_equal(ast_fs_write_atomic(path, ast_buf_view(&file), 0600, 0, NULL), AST_OK);
    struct ast_audit_scope scope = { .anchors = path };
    assert_int_equal(ast_audit_verify(f->audit, &scope, &report, &err), AST_E_CORRUPT);
}

static void a_chain_without_its_head_record_is_found(void **state)
{
    struct fixture *f = *state;
    struct audit_key key;
    add_five(f);
    audit_key_chain(&key, &AST_UUID_NIL, AST_STR("alice"));
    store_remove(f, AUDIT_NS_HEADS, audit_key_str(&key));
    assert_string_equal(issues(f, NULL), "UnrecordedHead@5 ");
}

static void c09_26_issues_have_their_texts_and_scopes_hold(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_audit_report_done) struct ast_audit_report all = { 0 }, other = { 0 };
    struct ast_principal bob;
    char text[AST_AUDIT_ISSUE_TEXT], expected[64];
    atomic_bool stop = true;
    struct ast_audit_report none = { 0 };

    add_five(f);
    add_row(f, "bob", "GetStatus");
    edit_row(f, 3, "GetStatus", "GetStatuz");
    assert_int_equal(ast_audit_verify(f->audit, &(struct ast_audit_scope){ 0 }, &all, NULL),
                     AST_OK);
    assert_int_equal(all.entries, 6);
    assert_int_equal(all.chains, 2);
    assert_int_equal(all.sessions, 1);
    assert_int_equal(all.tampered_sessions, 1);
    assert_false(ast_audit_report_is_valid(&all));
    (void)snprintf(expected, sizeof expected, "Invalid signature at audit:%02x%02x%02x%02x",
                   all.issues.v[0].id.b[0], all.issues.v[0].id.b[1], all.issues.v[0].id.b[2],
                   all.issues.v[0].id.b[3]);
    assert_string_equal(ast_audit_issue_text(&all.issues.v[0], text), expected);
    assert_memory_equal(ast_audit_issue_text(&all.issues.v[1], text),
                        "Broken chain link at audit:", 27);

    assert_int_equal(ast_principal_parse(AST_STR("bob"), &bob, NULL), AST_OK);
    struct ast_audit_scope scope = { .session = &AST_UUID_NIL, .principal = &bob };
    assert_int_equal(ast_audit_verify(f->audit, &scope, &other, NULL), AST_OK);
    assert_int_equal(other.entries, 1);
    assert_true(ast_audit_report_is_valid(&other));
    scope.stop = &stop;
    assert_int_equal(ast_audit_verify(f->audit, &scope, &none, NULL), AST_E_CANCELLED);
}

struct appender {
    struct fixture *f;
    atomic_bool stop;
};

static void *append_on(void *arg)
{
    struct appender *a = arg;
    while (!atomic_load(&a->stop))
        add_row(a->f, "alice", "GetStatus");
    return NULL;
}

/* Rows that come during the walk, into the block that it has just read, are not passed over. */
static void a_log_that_grows_meanwhile_is_valid(void **state)
{
    struct appender a = { .f = *state };
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, append_on, &a), 0);
    uint64_t seen = 0;
    for (unsigned round = 0; round < 150 || seen < 200; round++) {
        AST_AUTO(ast_audit_report_done) struct ast_audit_report report = { 0 };
        struct ast_audit_scope scope = { .session = NULL };
        assert_int_equal(ast_audit_verify(a.f->audit, &scope, &report, NULL), AST_OK);
        if (!ast_audit_report_is_valid(&report))
            fail_msg("%s at %" PRIu64, ast_audit_issue_name(report.issues.v[0].kind),
                     report.issues.v[0].seq);
        assert_true(report.entries >= seen);
        seen = report.entries;
    }
    atomic_store(&a.stop, true);
    pthread_join(thread, NULL);
}

/* One walk with the checkpoint; its report must be done by the caller. */
static void walk_from(struct fixture *f, const char *path, struct ast_audit_report *ret)
{
    struct ast_audit_scope scope = { .checkpoint = path };
    struct ast_err err = AST_ERR_INIT;
    if (ast_audit_verify(f->audit, &scope, ret, &err))
        fail_msg("verify: %s", err.msg);
}

static void expect_walk(struct fixture *f, const char *path, uint64_t entries, uint64_t vouched)
{
    AST_AUTO(ast_audit_report_done) struct ast_audit_report report = { 0 };
    walk_from(f, path, &report);
    assert_true(ast_audit_report_is_valid(&report));
    assert_int_equal(report.entries, entries);
    assert_int_equal(report.vouched, vouched);
}

static void c09_32_a_checkpoint_spares_signatures_and_hides_nothing_that_a_row_says(void **state)
{
    struct fixture *f = *state;
    AST_AUTO(ast_audit_report_done) struct ast_audit_report report = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf file = AST_BUF_INIT(65536), anchors = AST_BUF_INIT(65536);
    char path[96], anchors_path[96];

    (void)snprintf(path, sizeof path, "%s/checkpoint", f->dir);
    (void)snprintf(anchors_path, sizeof anchors_path, "%s/anchors", f->dir);
    add_five(f);
    add_row(f, "bob", "GetStatus");
    expect_walk(f, path, 6, 0);
    expect_walk(f, path, 6, 6);
    add_row(f, "alice", "GetStatus");
    add_row(f, "carol", "GetStatus");
    expect_walk(f, path, 8, 6);
    expect_walk(f, path, 8, 8);

    /* The ends of chains that nobody checked are no checkpoint, though we signed them too. */
    assert_int_equal(ast_fs_read(path, 65536, &file, NULL), AST_OK);
    assert_int_equal(ast_audit_anchor(f->audit, anchors_path, NULL), AST_OK);
    assert_int_equal(ast_fs_read(anchors_path, 65536, &anchors, NULL), AST_OK);
    assert_int_equal(ast_fs_write_atomic(path, ast_buf_view(&anchors), 0600, 0, NULL), AST_OK);
    expect_walk(f, path, 8, 0);
    file.p[file.n / 2] ^= 1; /* nor is a damaged one */
    assert_int_equal(ast_fs_write_atomic(path, ast_buf_view(&file), 0600, 0, NULL), AST_OK);
    expect_walk(f, path, 8, 0);
    expect_walk(f, path, 8, 8);

    edit_row(f, 3, "GetStatus", "Shutdown ");
    for (int i = 0; i < 2; i++) {
        ast_audit_report_done(&report);
        report = (struct ast_audit_report){ 0 };
        walk_from(f, path, &report);
        assert_int_equal(report.issues.n, 2);
        assert_int_equal(report.issues.v[0].kind, AST_AUDIT_ISSUE_InvalidSignature);
        assert_int_equal(report.issues.v[0].seq, 3);
        assert_int_equal(report.issues.v[1].kind, AST_AUDIT_ISSUE_BrokenLink);
    }
    edit_row(f, 3, "Shutdown ", "GetStatus");
    expect_walk(f, path, 8, 8);
    edit_row(f, 3, "it broke", "it works");
    ast_audit_report_done(&report);
    report = (struct ast_audit_report){ 0 };
    walk_from(f, path, &report);
    assert_int_equal(report.issues.v[0].kind, AST_AUDIT_ISSUE_AlteredOutcome);
    edit_row(f, 3, "it works", "it broke");
    remove_row(f, 8); /* the end it names is gone */
    ast_audit_report_done(&report);
    report = (struct ast_audit_report){ 0 };
    walk_from(f, path, &report);
    assert_int_equal(report.issues.v[0].kind, AST_AUDIT_ISSUE_Truncated);
}

/* Rows as version 0.8.0 made them: form 1, nothing sealed. The first is the known answer of spec 09 §28. */
static void c02_56_original_chains_of_admin_requests_verify_and_go_on(void **state)
{
    struct fixture *f = *state;
    struct ast_audit_entry e = {
        .time_ns = INT64_C(1767323045) * AST_NS_PER_SEC,
        .action = AST_STR("{\"type\":\"admin_request\",\"method\":\"GetStatus\","
                          "\"required_capability\":\"system:status\"}"),
        .authorization = AST_STR("{\"type\":\"system\",\"reason\":\"policy allow: alice holds "
                                 "system:status\"}"),
        .outcome = AST_STR("{\"status\":\"success\",\"details\":null}"),
        .is_success = true,
    };
    struct ast_audit_head head = { 0 };
    char text[AUDIT_HEAD_TEXT], hex[AST_BLAKE3_HEX];
    struct audit_key key;

    assert_int_equal(ast_principal_parse(AST_STR("alice"), &e.principal, NULL), AST_OK);
    memcpy(e.key, f->key.public_key, sizeof e.key);
    for (uint64_t seq = 1; seq <= 3; seq++) {
        AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(4096);
        AST_AUTO(ast_buf_done) struct ast_buf row = AST_BUF_INIT(4096);
        assert_true(ast_uuid_parse(seq == 1 ? AST_STR("99999999-8888-4777-8666-555555555555")
                                            : AST_STR("99999999-8888-4777-8666-555555555556"),
                                   &e.id));
        assert_int_equal(ast_audit_entry_signed(&e, &bytes, NULL), AST_OK);
        ast_key_sign(&f->key, ast_buf_view(&bytes), e.signature);
        ast_blake3(ast_buf_view(&bytes), head.hash);
        if (seq == 1) {
            ast_hex_encode(head.hash, sizeof head.hash, hex);
            assert_string_equal(hex,
                                "611902d65652f0d9a69b5c539241c6da2c054d3fd2a07efc2e24fe9776789be9");
        }
        assert_int_equal(ast_audit_entry_write(&e, &row, NULL), AST_OK);
        audit_key_log(&key, &AST_UUID_NIL, seq);
        store_put(f, AUDIT_NS_LOG, audit_key_str(&key), ast_buf_view(&row));
        memcpy(e.previous, head.hash, sizeof e.previous);
        head.seq = head.count = seq;
        head.id = e.id;
    }
    audit_key_chain(&key, &AST_UUID_NIL, AST_STR("alice"));
    store_put(f, AUDIT_NS_HEADS, audit_key_str(&key), audit_head_write(&head, text));
    assert_string_equal(issues(f, NULL), "");
    fixture_close(f);
    fixture_open(f);
    add_row(f, "alice", "GetStatus"); /* in our form, linked to the last of theirs */
    assert_int_equal(ast_audit_head(f->audit, &AST_UUID_NIL, AST_STR("alice"), &head, NULL),
                     AST_OK);
    assert_int_equal(head.count, 4);
    assert_string_equal(issues(f, NULL), "");
    edit_row(f, 2, "GetStatus", "Shutdown ");
    assert_string_equal(issues(f, NULL), "InvalidSignature@2 BrokenLink@3 ");
}

static void an_empty_log_is_valid(void **state)
{
    struct fixture *f = *state;
    assert_string_equal(issues(f, NULL), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c09_26_each_altered_field_is_found_with_its_class),
        cmocka_unit_test(c09_26_altered_hash_id_and_signature_are_found),
        AUDIT_TEST(reordered_removed_and_cut_rows_are_found),
        AUDIT_TEST(a_fork_is_found),
        AUDIT_TEST(a_row_signed_by_a_strange_key_is_found_until_the_key_is_trusted),
        AUDIT_TEST(rows_cut_off_together_with_their_head_are_found_by_the_anchors),
        AUDIT_TEST(a_chain_without_its_head_record_is_found),
        AUDIT_TEST(c09_26_issues_have_their_texts_and_scopes_hold),
        AUDIT_TEST(a_log_that_grows_meanwhile_is_valid),
        AUDIT_TEST(c09_32_a_checkpoint_spares_signatures_and_hides_nothing_that_a_row_says),
        AUDIT_TEST(c02_56_original_chains_of_admin_requests_verify_and_go_on),
        AUDIT_TEST(an_empty_log_is_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
