/* Frames, and the streamed text told exactly once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <stdio.h>
#include <stdlib.h>

#include "uplink/frame.h"
#include "uplink/reconcile.h"

#include "base/banned.h"

static void frames_carry_their_length(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1024);
    (void)state;
    for (size_t n = 0; n < 300; n += 37) {
        ast_buf_reset(&out);
        ast_buf_add_lit(&out, "before");
        size_t at = ast_frame_begin(&out);
        for (size_t i = 0; i < n; i++)
            ast_buf_add_byte(&out, 'x');
        ast_frame_end(&out, at);
        assert_int_equal(ast_frame_length((const uint8_t *)out.p + 6), n);
        assert_int_equal(out.n, 6 + 4 + n);
    }
    assert_int_equal(ast_frame_length((const uint8_t[]){ 0xff, 0xee, 0xdd, 0xcc }), 0xffeeddcc);
}

static void an_overfull_frame_stays_failed(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(8);
    (void)state;
    size_t at = ast_frame_begin(&out);
    ast_buf_add_lit(&out, "too long for it");
    ast_frame_end(&out, at);
    assert_int_equal(out.fail, AST_E_TOO_LARGE);
}

static struct ast_msg *message(const char *topic, const char *session, const char *text,
                               bool is_final)
{
    char json[4096];
    struct ast_msg *m;
    struct ast_msg_spec spec = { .topic = ast_str_c(topic) };
    snprintf(json, sizeof json,
             "{\"type\":\"agent_response\",\"text\":\"%s\",\"is_final\":%s,\"session_id\":\"%s\"}",
             text, is_final ? "true" : "false", session);
    assert_int_equal(ast_msg_from_json(&spec, ast_str_c(json), &m, NULL), AST_OK);
    return m;
}

static void delta(struct ast_reconcile *r, const char *session, const char *text)
{
    AST_AUTO(ast_msg_unref)
    struct ast_msg *m = message("agent.v1.stream.delta", session, text, false);
    ast_reconcile_delta(r, m);
}

/* The text a client gets for a final answer. */
static void assert_rest(struct ast_reconcile *r, const char *session, const char *full,
                        const char *want)
{
    AST_AUTO(ast_msg_unref) struct ast_msg *m = message("agent.v1.response", session, full, true);
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(65536);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    bool changed = ast_reconcile_response(r, m, &out);
    assert_int_equal(ast_json_parse(changed ? ast_buf_view(&out) : m->body, &doc, NULL), AST_OK);
    struct ast_str text = ast_json_str_or(ast_json_root(doc), AST_STR("text"), AST_STR("?"));
    if (!ast_str_eq(text, ast_str_c(want)))
        fail_msg("got <" AST_STR_FMT ">, want <%s>", AST_STR_ARG(text), want);
    assert_true(
        ast_str_is(ast_json_str_or(ast_json_root(doc), AST_STR("session_id"), AST_STR("")), "s") ||
        !ast_str_is(ast_str_c(session), "s"));
}

static void c01_37_the_rest_is_told_once(void **state)
{
    struct ast_reconcile *r = calloc(1, sizeof *r);
    (void)state;
    assert_rest(r, "s", "whole", "whole"); /* no delta: untouched */
    delta(r, "s", "Hel");
    delta(r, "s", "lo ");
    assert_rest(r, "s", "Hello world", "world");
    assert_rest(r, "s", "again", "again"); /* the accumulator is gone */
    delta(r, "s", "Hello");
    assert_rest(r, "s", "Hello", "");
    delta(r, "s", "tool talk, then the answer");
    assert_rest(r, "s", "the answer", "");
    delta(r, "s", "half a sen");
    assert_rest(r, "s", "error: it broke", "\nerror: it broke");
    delta(r, "other", "not mine");
    assert_rest(r, "s", "mine", "mine");
    ast_reconcile_done(r);
    free(r);
}

static void sessions_are_bounded(void **state)
{
    struct ast_reconcile *r = calloc(1, sizeof *r);
    (void)state;
    for (unsigned i = 0; i < 3 * AST_RECONCILE_SESSIONS; i++) {
        char name[32];
        snprintf(name, sizeof name, "n%u", i);
        delta(r, name, "x");
    }
    assert_rest(r, "n191", "xy", "y");
    assert_rest(r, "n0", "xy", "xy"); /* evicted: told whole, never lost */
    ast_reconcile_done(r);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_carry_their_length),
        cmocka_unit_test(an_overfull_frame_stays_failed),
        cmocka_unit_test(c01_37_the_rest_is_told_once),
        cmocka_unit_test(sessions_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
