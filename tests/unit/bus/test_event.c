#include "bus_test.h"

#include "base/json.h"
#include "base/time.h"
#include "bus/event.h"

#include "base/banned.h"

static void types_and_labels_are_a_closed_set_of_58(void **state)
{
    (void)state;
    assert_int_equal(AST_EVENT_KIND_COUNT, 58);
    assert_view(ast_event_type(AST_EVENT_ipc), "ipc");
    assert_view(ast_event_type(AST_EVENT_custom), "custom");
    assert_view(ast_event_type(AST_EVENT_kernel_started), "astrid.v1.lifecycle.kernel_started");
    for (unsigned a = 0; a < AST_EVENT_KIND_COUNT; a++)
        for (unsigned b = 0; b < a; b++)
            assert_false(ast_str_eq(ast_event_type((enum ast_event_kind)a),
                                    ast_event_type((enum ast_event_kind)b)));
}

static void each_kind_makes_its_event(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < AST_EVENT_KIND_COUNT; kind++) {
        if (kind == AST_EVENT_ipc)
            continue;
        AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL;
        assert_int_equal(ast_event_new((enum ast_event_kind)kind, "kernel", AST_STR_NONE, &m, NULL),
                         AST_OK);
        assert_false(m->is_ipc);
        assert_true(ast_str_eq(m->topic, ast_event_type((enum ast_event_kind)kind)));
        assert_true(ast_str_eq(ast_str_c(ast_event_label(m)), m->topic));
        assert_int_equal(m->principal.n, 0);
    }
    AST_AUTO(ast_msg_unref)
    struct ast_msg *ipc = msg_with("astrid.v1.lifecycle.kernel_started", "", "{}");
    assert_string_equal(ast_event_label(ipc), "ipc");
}

/* Spec 04 §3.1: the exact shape. */
static void c04_39_the_json_has_type_metadata_and_own_fields(void **state)
{
    (void)state;
    AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL;
    assert_int_equal(ast_event_new(AST_EVENT_kernel_shutdown, "kernel",
                                   AST_STR("\"reason\":\"idle_timeout\""), &m, NULL),
                     AST_OK);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    assert_int_equal(ast_json_parse(m->body, &doc, NULL), AST_OK);
    const struct ast_json *meta = ast_json_member(ast_json_root(doc), "metadata");
    struct ast_str id = ast_json_str_or(meta, AST_STR("event_id"), AST_STR_NONE);
    struct ast_str when = ast_json_str_or(meta, AST_STR("timestamp"), AST_STR_NONE);
    struct ast_uuid uuid;
    int64_t wall_ns;
    assert_true(ast_uuid_parse(id, &uuid) && !ast_uuid_eq(&uuid, &AST_UUID_NIL));
    assert_true(ast_time_parse(when, &wall_ns) && ast_str_ends(when, AST_STR("Z")));
    char want[512];
    snprintf(
        want, sizeof want,
        "{\"type\":\"kernel_shutdown\",\"metadata\":{\"event_id\":\"%.*s\",\"timestamp\":\"%.*s\",\"correlation_id\":"
        "null,\"session_id\":null,\"user_id\":null,\"source\":\"kernel\"},\"reason\":\"idle_timeout\"}",
        (int)id.n, id.p, (int)when.n, when.p);
    assert_view(m->body, want);
}

static void without_fields_and_source_it_is_still_whole(void **state)
{
    (void)state;
    AST_AUTO(ast_msg_unref) struct ast_msg *m = NULL;
    assert_int_equal(ast_event_new(AST_EVENT_config_reloaded, NULL, AST_STR_NONE, &m, NULL),
                     AST_OK);
    assert_true(ast_str_starts(m->body, AST_STR("{\"type\":\"config_reloaded\",\"metadata\":{")));
    assert_true(ast_str_ends(m->body, AST_STR(",\"source\":\"unknown\"}}")));
    assert_int_equal(m->session.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_and_labels_are_a_closed_set_of_58),
        cmocka_unit_test(each_kind_makes_its_event),
        cmocka_unit_test(c04_39_the_json_has_type_metadata_and_own_fields),
        cmocka_unit_test(without_fields_and_source_it_is_still_whole),
    };
    return cmocka_run_group_tests_name("event", tests, NULL, NULL);
}
