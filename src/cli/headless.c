/* One prompt, one answer (spec 08 §5.2): for scripts. Text goes to stdout as it comes; everything else to stderr. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/ask.h"
#include "cli/daemon.h"
#include "crypto/uuid5.h"

#include "base/banned.h"

#define ANSWER_WAIT_MS 120000 /* between two frames */
#define STDIN_MAX      (1024u * 1024)

struct headless {
    struct cli *cli;
    struct ast_uplink_client *client;
    struct ast_uuid session;
    char session_text[AST_UUID_TEXT];
    struct ast_principal who;
    bool yes, streams;     /* streams: print text as it comes */
    struct ast_buf answer; /* the whole text */
    struct ast_buf calls;  /* JSON objects of tool calls, comma separated */
    char last;             /* last byte printed */
};

static enum ast_rc read_stdin(struct ast_buf *out, struct ast_err *err)
{
    if (isatty(STDIN_FILENO))
        return AST_OK;
    for (;;) {
        char block[65536];
        ssize_t n = read(STDIN_FILENO, block, sizeof block);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ast_fail_errno(err, AST_E_IO, errno, "read standard input");
        if (n == 0)
            return ast_buf_check(out, "standard input", err);
        ast_buf_add(out, ast_str_n(block, (size_t)n));
    }
}

/* A UUID as it is; a name becomes its version 5 UUID in the URL namespace (RFC 4122). */
static void choose_session(struct headless *h, const char *session, bool print)
{
    bool is_name = session && !ast_uuid_parse(ast_str_c(session), &h->session);

    if (is_name)
        h->session = ast_uuid_v5_url(ast_str_c(session));
    else if (!session)
        h->session = ast_uuid_v4();
    ast_uuid_format(&h->session, h->session_text);
    if (print && is_name)
        fprintf(stderr, "[headless] Session: %s (%s)\n", session, h->session_text);
    else if (print)
        fprintf(stderr, "[headless] Session: %s\n", h->session_text);
}

static enum ast_rc send_prompt(struct headless *h, struct ast_str piped, const char *prompt,
                               struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(2u * STDIN_MAX);
    AST_AUTO(ast_buf_done) struct ast_buf payload = AST_BUF_INIT(8u * STDIN_MAX);
    struct ast_jw w = AST_JW_INIT(&payload);

    ast_buf_add(&text, piped);
    if (piped.n && prompt)
        ast_buf_add_lit(&text, "\n\n");
    if (prompt)
        ast_buf_add(&text, ast_str_c(prompt));
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("user_input"));
    ast_jw_kv_string(&w, "text", ast_buf_view(&text));
    ast_jw_kv_string(&w, "session_id", ast_str_c(h->session_text));
    ast_jw_end(&w);
    enum ast_rc rc = ast_buf_check(&payload, "prompt", err);
    return rc ? rc
              : ast_uplink_send(h->client, AST_STR("user.v1.prompt"), ast_buf_view(&payload),
                                &h->session, ast_principal_str(&h->who), err);
}

static void take_text(struct headless *h, struct ast_str text)
{
    ast_buf_add(&h->answer, text);
    if (text.n == 0)
        return;
    h->last = text.p[text.n - 1];
    if (!h->streams)
        return;
    if (isatty(STDOUT_FILENO))
        cli_print_text(stdout, text);
    else
        fwrite(text.p, 1, text.n, stdout);
    fflush(stdout);
}

/* Only our own session, or no session at all (spec 08 §5.2, GAP). */
static bool is_ours(const struct headless *h, const struct ast_json *payload)
{
    struct ast_str session = ast_json_str_or(payload, AST_STR("session_id"), AST_STR("default"));
    return ast_str_is(session, "default") || ast_str_eq(session, ast_str_c(h->session_text));
}

static void record_call(struct headless *h, const struct ast_json *start)
{
    struct ast_jw w = AST_JW_INIT(&h->calls);

    if (h->calls.n)
        ast_buf_add_byte(&h->calls, ',');
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("tool_call"));
    ast_jw_kv_string(&w, "id", ast_json_str_or(start, AST_STR("id"), AST_STR("")));
    ast_jw_kv_string(&w, "name", ast_json_str_or(start, AST_STR("name"), AST_STR("")));
    ast_jw_end(&w);
}

static void record_result(struct headless *h, const struct ast_json *payload)
{
    const struct ast_json *result = ast_json_member(payload, "result");
    struct ast_jw w = AST_JW_INIT(&h->calls);
    bool is_error = false;

    (void)ast_json_bool(ast_json_member(result, "is_error"), &is_error); /* absent: false */
    if (h->calls.n)
        ast_buf_add_byte(&h->calls, ',');
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("tool_result"));
    ast_jw_kv_string(&w, "call_id", ast_json_str_or(payload, AST_STR("call_id"), AST_STR("")));
    ast_jw_kv_string(&w, "content", ast_json_str_or(result, AST_STR("content"), AST_STR("")));
    ast_jw_kv_bool(&w, "is_error", is_error);
    ast_jw_end(&w);
}

/* One frame; *ret_done when the answer is complete. */
static void take_frame(struct headless *h, const struct ast_json *payload, bool *ret_done)
{
    struct ast_str type = ast_json_str_or(payload, AST_STR("type"), AST_STR(""));
    bool is_final = false;

    if (ast_str_is(type, "agent_response") && is_ours(h, payload)) {
        (void)ast_json_bool(ast_json_member(payload, "is_final"),
                            &is_final); /* absent: not the last */
        take_text(h, ast_json_str_or(payload, AST_STR("text"), AST_STR("")));
        *ret_done = is_final;
    } else if (ast_str_is(type, "llm_stream_event")) {
        const struct ast_json *start =
            ast_json_member(ast_json_member(payload, "event"), "ToolCallStart");
        if (start)
            record_call(h, start);
    } else if (ast_str_is(type, "tool_execute_result")) {
        record_result(h, payload);
    }
}

static enum ast_rc read_answer(struct headless *h, struct ast_err *err)
{
    struct cli_ask ask = { .client = h->client,
                           .source = h->session,
                           .who = h->who,
                           .approvals = h->yes ? CLI_ASK_APPROVE : CLI_ASK_DENY,
                           .mode = "headless",
                           .because = h->yes ? "headless --yes mode" : "headless mode" };
    bool done = false, taken;

    while (!done) {
        AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
        enum ast_rc rc = ast_uplink_recv(h->client, ANSWER_WAIT_MS, &f, err);
        if (!rc)
            rc = cli_ask_answer(&ask, f.payload, &taken, err);
        if (rc)
            return rc;
        if (!taken)
            take_frame(h, f.payload, &done);
    }
    return AST_OK;
}

static void print_result(struct headless *h)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(64u * STDIN_MAX);
    struct ast_jw w = AST_JW_INIT(&out);

    if (h->streams) {
        if (h->last != '\n')
            putchar('\n');
        return;
    }
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "response", ast_buf_view(&h->answer));
    ast_buf_addf(&out, ",\"tool_calls\":[" AST_STR_FMT "]}", AST_STR_ARG(ast_buf_view(&h->calls)));
    cli_print_json(ast_buf_view(&out));
}

static enum ast_rc run(struct headless *h, struct ast_str piped, const char *prompt,
                       struct ast_err *err)
{
    enum ast_rc rc = cli_principal(h->cli, &h->who, err);

    if (!rc)
        rc = cli_daemon_connect(h->cli, &h->client, err);
    if (!rc)
        rc = send_prompt(h, piped, prompt, err);
    if (!rc)
        rc = read_answer(h, err);
    return rc;
}

int cli_headless(struct cli *cli, const char *prompt, const char *session, bool yes,
                 bool print_session, enum cli_format format)
{
    struct headless h = { .cli = cli,
                          .yes = yes,
                          .streams = format == CLI_PRETTY,
                          .answer = AST_BUF_INIT(64u * STDIN_MAX),
                          .calls = AST_BUF_INIT(64u * STDIN_MAX) };
    AST_AUTO(ast_buf_done) struct ast_buf piped = AST_BUF_INIT(STDIN_MAX);
    struct ast_err err = AST_ERR_INIT;
    int status = CLI_OK;

    enum ast_rc rc = read_stdin(&piped, &err);
    if (!rc && !prompt && ast_str_trim(ast_buf_view(&piped)).n == 0)
        return cmd_chat(cli);
    choose_session(&h, session, print_session);
    if (!rc)
        rc = run(&h, ast_buf_view(&piped), prompt, &err);
    if (rc == AST_E_TIMEOUT && h.client) {
        fputs("[headless] Timed out waiting for response (120s)\n", stderr);
        status = CLI_TIMED_OUT;
    } else if (rc) {
        if (h.streams && h.answer.n && h.last != '\n')
            putchar('\n');
        status = cli_error(&err);
    } else {
        print_result(&h);
    }
    ast_uplink_disconnect(h.client);
    ast_buf_done(&h.answer);
    ast_buf_done(&h.calls);
    return status;
}
