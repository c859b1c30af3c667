/* A plain chat, line by line: what a terminal without the full-screen interface needs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "cli/ask.h"
#include "cli/daemon.h"

#include "base/banned.h"

#define ANSWER_WAIT_MS 300000
#define FRAME_WAIT_MS  10000 /* for the rest of a frame that has begun */

struct chat {
    struct cli *cli;
    struct ast_uplink_client *client;
    struct ast_uuid session;
    char session_text[AST_UUID_TEXT];
    struct ast_principal who; /* of the newest prompt */
};

static enum ast_rc send_line(struct chat *c, struct ast_str text, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf payload = AST_BUF_INIT(2u * 1024 * 1024);
    struct ast_jw w = AST_JW_INIT(&payload);
    /* Read again for each prompt: the active agent may have changed meanwhile. */
    enum ast_rc rc = cli_principal(c->cli, &c->who, err);
    if (rc)
        return rc;
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("user_input"));
    ast_jw_kv_string(&w, "text", text);
    ast_jw_kv_string(&w, "session_id", ast_str_c(c->session_text));
    ast_jw_end(&w);
    rc = ast_buf_check(&payload, "prompt", err);
    return rc ? rc
              : ast_uplink_send(c->client, AST_STR("user.v1.prompt"), ast_buf_view(&payload),
                                &c->session, ast_principal_str(&c->who), err);
}

static struct cli_ask asking(const struct chat *c)
{
    return (struct cli_ask){ .client = c->client,
                             .source = c->session,
                             .who = c->who,
                             .approvals = c->cli->yes ? CLI_ASK_APPROVE : CLI_ASK_PERSON,
                             .reads_answers = isatty(STDIN_FILENO),
                             .because = c->cli->yes ? "chat --yes" : "no terminal to ask on" };
}

static enum ast_rc read_answer(struct chat *c, struct ast_err *err)
{
    struct cli_ask ask = asking(c);

    for (bool done = false, taken; !done;) {
        AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
        enum ast_rc rc = ast_uplink_recv(c->client, ANSWER_WAIT_MS, &f, err);
        if (rc)
            return rc;
        rc = cli_ask_answer(&ask, f.payload, &taken, err);
        if (rc)
            return rc;
        struct ast_str type = ast_json_str_or(f.payload, AST_STR("type"), AST_STR(""));
        if (taken || !ast_str_is(type, "agent_response"))
            continue;
        struct ast_str session =
            ast_json_str_or(f.payload, AST_STR("session_id"), AST_STR("default"));
        if (!ast_str_is(session, "default") && !ast_str_eq(session, ast_str_c(c->session_text)))
            continue;
        cli_print_text(stdout, ast_json_str_or(f.payload, AST_STR("text"), AST_STR("")));
        fflush(stdout);
        (void)ast_json_bool(ast_json_member(f.payload, "is_final"),
                            &done); /* absent: not the last */
    }
    putchar('\n');
    return AST_OK;
}

static void invite(void)
{
    fputs("\n> ", stdout);
    fflush(stdout);
}

/* A frame that comes while nobody waits for an answer: a question, or a late word of this session. */
static enum ast_rc on_idle_frame(struct chat *c, struct ast_err *err)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct cli_ask ask = asking(c);
    bool taken;

    enum ast_rc rc = ast_uplink_recv(c->client, FRAME_WAIT_MS, &f, err);
    if (!rc)
        rc = cli_ask_answer(&ask, f.payload, &taken, err);
    if (rc)
        return rc;
    struct ast_str session = ast_json_str_or(f.payload, AST_STR("session_id"), AST_STR_NONE);
    struct ast_str type = ast_json_str_or(f.payload, AST_STR("type"), AST_STR_NONE);
    if (!taken && ast_str_is(type, "agent_response") &&
        ast_str_eq(session, ast_str_c(c->session_text))) {
        putchar('\n');
        cli_print_text(stdout, ast_json_str_or(f.payload, AST_STR("text"), AST_STR("")));
        taken = true;
    }
    if (taken)
        invite();
    return AST_OK;
}

/* Until there is a line to read; meanwhile whoever asks is answered. */
static enum ast_rc wait_line(struct chat *c, struct ast_err *err)
{
    bool frame = false, line = false;

    while (!line || frame) {
        enum ast_rc rc = ast_uplink_wait(c->client, STDIN_FILENO, &frame, &line, err);
        if (!rc && frame)
            rc = on_idle_frame(c, err);
        if (rc)
            return rc;
    }
    return AST_OK;
}

static enum ast_rc converse(struct chat *c, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *line = NULL;
    size_t cap = 0;

    for (;;) {
        invite();
        enum ast_rc rc = wait_line(c, err);
        if (rc)
            return rc;
        errno = 0;
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) {
            putchar('\n');
            return errno ? ast_fail_errno(err, AST_E_IO, errno, "read standard input") : AST_OK;
        }
        struct ast_str text = ast_str_trim(ast_str_n(line, (size_t)n));
        if (ast_str_is(text, "/quit") || ast_str_is(text, "/exit"))
            return AST_OK;
        if (text.n == 0)
            continue;
        rc = send_line(c, text, err);
        if (!rc)
            rc = read_answer(c, err);
        if (rc == AST_E_TIMEOUT)
            cli_warning(
                "no answer within 5 minutes; is an agent capsule installed? `astrid capsule list` tells");
        else if (rc)
            return rc;
    }
}

int cmd_chat(struct cli *cli)
{
    const char *own = cli_value(cli, "session");
    const char *session = own ? own : cli->session;
    struct chat c = { .cli = cli };
    struct ast_err err = AST_ERR_INIT;

    if (session && !ast_uuid_parse(ast_str_c(session), &c.session)) {
        (void)ast_fail(&err, AST_E_INVALID, "Invalid UUID format: %s", session);
        return cli_error(&err);
    }
    if (!session)
        c.session = ast_uuid_v4();
    ast_uuid_format(&c.session, c.session_text);
    /* What is read is what poll() knows of: nothing waits in a buffer of ours. */
    setvbuf(stdin, NULL, _IONBF, 0);
    enum ast_rc rc = cli_principal(cli, &c.who, &err);
    if (rc)
        return cli_error(&err);
    rc = cli_daemon_connect(cli, &c.client, &err);
    if (rc) {
        ast_wrap(&err, rc, "Failed to connect to daemon. Check logs: %s/log",
                 cli->home.root ? cli->home.root : "~/.astrid");
        return cli_error(&err);
    }
    printf("Astrid 0.8.0, session %s\nType a message; /quit or Ctrl-D ends.\n", c.session_text);
    rc = converse(&c, &err);
    ast_uplink_disconnect(c.client);
    return rc ? cli_error(&err) : CLI_OK;
}

int cmd_run(struct cli *cli)
{
    const char *own = cli_value(cli, "session");
    bool yes = cli->yes || cli_value(cli, "yes");
    bool print = cli->print_session || cli_value(cli, "print-session");

    return cli_headless(cli, cli->words[0], own ? own : cli->session, yes, print, cli_format(cli));
}
