/* astrid-emit: standard input, wrapped in a fixed envelope, published on one topic (spec 01 §20). Hook runners read our one line
 * and our exit status: the line is always the same, and status 2 ("block") is never used. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "uplink/client.h"

#include "base/banned.h"

#define STDIN_MAX    10485760u
#define PAYLOAD_MAX  1048576u /* what the bus accepts, escaping included */
#define OVERALL_SECS 15u

struct emit {
    const char *topic, *principal, *session, *token;
    struct ast_buf input;
};

static int done(int status)
{
    puts("{\"continue\":true}");
    (void)fflush(stdout); /* nobody to tell */
    return status;
}

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && *value && ast_str_is_utf8(ast_str_c(value)) ? value : NULL;
}

/* The first missing one is named; in this order. */
static bool read_environment(struct emit *e)
{
    struct {
        const char *name;
        const char **into;
    } wanted[] = { { "ASTRID_PRINCIPAL_ID", &e->principal },
                   { "ASTRID_SESSION_ID", &e->session },
                   { "ASTRID_HOOK_TOKEN", &e->token } };

    for (size_t i = 0; i < AST_ARRAY_LEN(wanted); i++) {
        *wanted[i].into = variable(wanted[i].name);
        if (!*wanted[i].into) {
            fprintf(stderr, "astrid-emit: required environment variable %s is missing or empty\n",
                    wanted[i].name);
            return false;
        }
    }
    return true;
}

/* At most STDIN_MAX bytes; a read error keeps what came before it. */
static void read_input(struct emit *e)
{
    char block[65536];

    while (e->input.n < STDIN_MAX) {
        ssize_t n = read(STDIN_FILENO, block, AST_MIN(sizeof block, STDIN_MAX - e->input.n));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        ast_buf_add(&e->input, ast_str_n(block, (size_t)n));
    }
}

static struct ast_str hook_name(struct ast_str topic)
{
    size_t at = topic.n;
    while (at && topic.p[at - 1] != '.')
        at--;
    return ast_str_from(topic, at);
}

static enum ast_rc publish(const struct emit *e, struct ast_err *err)
{
    AST_AUTO(ast_home_done) struct ast_home home = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf payload = AST_BUF_INIT(PAYLOAD_MAX);
    AST_AUTO(ast_uplink_disconnect) struct ast_uplink_client *c = NULL;
    struct ast_jw w = AST_JW_INIT(&payload);
    struct ast_uuid source = ast_uuid_v4();

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", AST_STR("raw_json"));
    ast_jw_kv_string(&w, "hook", hook_name(ast_str_c(e->topic)));
    ast_jw_kv_string(&w, "payload", ast_buf_view(&e->input));
    ast_jw_kv_null(&w, "correlation_id");
    ast_jw_kv_string(&w, "principal_id", ast_str_c(e->principal));
    ast_jw_kv_string(&w, "session_id", ast_str_c(e->session));
    ast_jw_kv_string(&w, "token", ast_str_c(e->token));
    ast_jw_end(&w);
    enum ast_rc rc = ast_buf_check(&payload, "the event", err);
    if (!rc)
        rc = ast_home_resolve(&home, err);
    if (!rc)
        rc = ast_uplink_connect(&home, &c, err);
    if (!rc)
        rc = ast_uplink_send(c, ast_str_c(e->topic), ast_buf_view(&payload), &source,
                             ast_str_c(e->principal), err);
    return rc;
}

/* Too slow: the line is still owed. Only async-signal-safe calls. */
static void on_alarm(int signum)
{
    static const char line[] = "{\"continue\":true}\n",
                      why[] = "astrid-emit: the daemon did not take the event within 15 s\n";
    ssize_t ignored;

    (void)signum;
    ignored = write(STDOUT_FILENO, line, sizeof line - 1);
    ignored = write(STDERR_FILENO, why, sizeof why - 1);
    (void)ignored; /* nobody to tell */
    _exit(EXIT_FAILURE);
}

static void print_help(void)
{
    puts("Publishes standard input as one event\n\n"
         "Usage: astrid-emit <TOPIC>\n"
         "       astrid-emit --topic <TOPIC>\n\n"
         "Needs ASTRID_PRINCIPAL_ID, ASTRID_SESSION_ID and ASTRID_HOOK_TOKEN in the environment.\n"
         "Prints {\"continue\":true}; exit status 0 when the event was sent, else 1.\n\n"
         "Options:\n"
         "      --topic <TOPIC>  the topic to publish on\n"
         "  -h, --help           print this help\n"
         "  -V, --version        print the version");
}

/* NULL after an argument error that was told. *ret_text: help or version was printed. */
static const char *read_topic(int argc, char **argv, bool *ret_text)
{
    const char *positional = NULL, *option = NULL;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            print_help();
            *ret_text = true;
            return NULL;
        }
        if (strcmp(argv[i], "-V") == 0 || strcmp(argv[i], "--version") == 0) {
            puts("astrid-emit 0.8.0");
            *ret_text = true;
            return NULL;
        }
        if (strcmp(argv[i], "--topic") == 0 && i + 1 < argc) {
            option = argv[++i];
        } else if (strncmp(argv[i], "--topic=", 8) == 0) {
            option = argv[i] + 8;
        } else if (argv[i][0] == '-' || positional) {
            fprintf(stderr, "error: unexpected argument '%s' found\n\nUsage: astrid-emit <TOPIC>\n",
                    argv[i]);
            return NULL;
        } else {
            positional = argv[i];
        }
    }
    if (positional && option) {
        fputs("error: the argument '<TOPIC>' cannot be used with '--topic <TOPIC>'\n", stderr);
        return NULL;
    }
    if (!positional && !option)
        fputs("astrid-emit: a topic is required (positional `<topic>` or `--topic <topic>`)\n",
              stderr);
    return positional ? positional : option;
}

int main(int argc, char **argv)
{
    struct emit e = { .input = AST_BUF_INIT(STDIN_MAX + 1) };
    struct ast_err err = AST_ERR_INIT;
    bool text = false;

    e.topic = read_topic(argc, argv, &text);
    if (text)
        return EXIT_SUCCESS;
    if (!e.topic || !read_environment(&e))
        return done(EXIT_FAILURE);
    read_input(&e);
    signal(SIGALRM, on_alarm);
    alarm(OVERALL_SECS); /* connect and send together */
    enum ast_rc rc = publish(&e, &err);
    alarm(0);
    if (rc)
        fprintf(stderr, "astrid-emit: failed to publish on %s: %s\n", e.topic, err.msg);
    ast_buf_done(&e.input);
    return done(rc ? EXIT_FAILURE : EXIT_SUCCESS);
}
