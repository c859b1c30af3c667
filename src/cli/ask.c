/* The terminal's side of approvals and elicitations. Foreign text is printed escaped; what is typed for a secret is
 * not echoed and wiped after sending. */
#include "cli/ask.h"

#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/buf.h"

#include "base/banned.h"

#define ANSWER_MAX  (1024u * 1024)
#define LINES_MAX   256u /* elements of a list */
#define CHOICES_MAX 1000u
#define TRIES       3
#define TOPIC_MAX   256u

static struct ast_str member(const struct ast_json *object, struct ast_str key)
{
    return ast_json_str_or(object, key, AST_STR_NONE);
}

/* "{"type":<type>,"request_id":<id>" so far; ends with send_answer(). */
static struct ast_jw answer_begin(struct ast_buf *body, struct ast_str type, struct ast_str id)
{
    struct ast_jw w = AST_JW_INIT(body);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "type", type);
    ast_jw_kv_string(&w, "request_id", id);
    return w;
}

static enum ast_rc send_answer(struct cli_ask *ask, const char *topic, struct ast_str id,
                               struct ast_jw *w, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf on = AST_BUF_INIT(TOPIC_MAX);

    ast_jw_end(w);
    ast_buf_addf(&on, "%s.response." AST_STR_FMT, topic, AST_STR_ARG(id));
    if (on.fail || w->out->fail)
        return ast_fail(err, AST_E_TOO_LARGE, "question with an oversized id or answer");
    return ast_uplink_send(ask->client, ast_buf_view(&on), ast_buf_view(w->out), &ask->source,
                           ast_principal_str(&ask->who), err);
}

/* One line of standard input without its end; false at the end of input. */
static bool read_line(struct ast_buf *out)
{
    int c;

    ast_buf_reset(out);
    while ((c = getchar()) != EOF && c != '\n')
        ast_buf_add_byte(out, (char)c);
    if (out->n && out->p[out->n - 1] == '\r')
        out->n--;
    return (c != EOF || out->n) && !out->fail;
}

static void wipe(struct ast_buf *b)
{
    if (b->p)
        explicit_bzero(b->p, b->cap);
    ast_buf_done(b);
}

/* --- Approvals ----------------------------------------------------------------------------------- */

static void print_field(const char *label, struct ast_str text)
{
    if (!text.n)
        return;
    printf("  %s: ", label);
    cli_print_text(stdout, text);
    putchar('\n');
}

/* The decision's word on the wire. Anything but a clear yes denies. */
static const char *ask_person(const struct ast_json *payload)
{
    static const struct {
        const char *letter, *word, *decision;
    } choices[] = {
        { "y", "yes", "approve" },
        { "s", "session", "approve_session" },
        { "a", "always", "approve_always" },
    };
    AST_AUTO(ast_buf_done) struct ast_buf line = AST_BUF_INIT(ANSWER_MAX);

    (void)tcflush(STDIN_FILENO,
                  TCIFLUSH); /* what was typed before the question is no answer to it */
    puts("\n? Approval required");
    print_field("Action", member(payload, AST_STR("action")));
    print_field("Resource", member(payload, AST_STR("resource")));
    print_field("Reason", member(payload, AST_STR("reason")));
    fputs("  Allow? [y] once, [s] this session, [a] always, [N] no: ", stdout);
    fflush(stdout);
    if (!read_line(&line)) {
        putchar('\n');
        return "deny";
    }
    struct ast_str typed = ast_str_trim(ast_buf_view(&line));
    for (size_t i = 0; i < AST_ARRAY_LEN(choices); i++)
        if (ast_str_eq_nocase(typed, ast_str_c(choices[i].letter)) ||
            ast_str_eq_nocase(typed, ast_str_c(choices[i].word)))
            return choices[i].decision;
    return "deny";
}

static void say_automatic(const struct cli_ask *ask, const struct ast_json *payload, bool approved)
{
    struct ast_str action = ast_json_str_or(payload, AST_STR("action"), AST_STR("?"));

    if (ask->mode)
        fprintf(stderr, "[%s] ", ask->mode);
    fprintf(stderr, "Auto-%s approval for: ", approved ? "approved" : "denied");
    cli_print_text(stderr, action);
    fputc('\n', stderr);
}

static enum ast_rc answer_approval(struct cli_ask *ask, const struct ast_json *payload,
                                   struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(ANSWER_MAX);
    struct ast_str id = member(payload, AST_STR("request_id"));
    bool by_person =
        ask->approvals == CLI_ASK_PERSON && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    const char *decision = ask->approvals == CLI_ASK_APPROVE ? "approve" : "deny";

    if (by_person)
        decision = ask_person(payload);
    else
        say_automatic(ask, payload, ask->approvals == CLI_ASK_APPROVE);
    struct ast_jw w = answer_begin(&body, AST_STR("approval_response"), id);
    ast_jw_kv_string(&w, "decision", ast_str_c(decision));
    if (!by_person && ask->because)
        ast_jw_kv_string(&w, "reason", ast_str_c(ask->because));
    return send_answer(ask, "astrid.v1.approval", id, &w, err);
}

/* --- Elicitations -------------------------------------------------------------------------------- */

struct field {
    struct ast_str capsule, prompt, type, standard;
    const struct ast_json *choices; /* an array; NULL: no choice */
    bool has_standard;
};

static void read_field(const struct ast_json *payload, struct field *ret)
{
    const struct ast_json *f = ast_json_member(payload, "field");
    const struct ast_json *type = ast_json_member(f, "field_type");

    *ret = (struct field){
        .capsule = member(payload, AST_STR("capsule_id")),
        .prompt = ast_json_str_or(f, AST_STR("prompt"), member(f, AST_STR("key"))),
        .choices = ast_json_member(type, "Enum"),
    };
    (void)ast_json_string(type, &ret->type); /* an object for a choice */
    ret->has_standard = ast_json_string(ast_json_member(f, "default"), &ret->standard);
}

static void print_prompt(const struct field *f, const char *end)
{
    putchar('[');
    cli_print_text(stdout, f->capsule);
    fputs("] ", stdout);
    cli_print_text(stdout, f->prompt);
    if (f->has_standard && !ast_str_is(f->type, "Secret")) {
        fputs(" [", stdout);
        cli_print_text(stdout, f->standard);
        putchar(']');
    }
    fputs(end, stdout);
    fflush(stdout);
}

static bool read_secret(struct ast_buf *line)
{
    struct termios old, quiet;
    bool hides = tcgetattr(STDIN_FILENO, &old) == 0; /* not a terminal: nothing echoes */

    if (hides) {
        quiet = old;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet))
            return false; /* better no answer than a visible secret */
    }
    bool got = read_line(line);
    if (hides) {
        (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &old); /* the terminal is gone if this fails */
        putchar('\n');
    }
    return got && line->n;
}

/* The n-th choice, from 1; false when there is none. */
static bool nth_choice(const struct ast_json *choices, uint64_t n, struct ast_str *ret)
{
    struct ast_json_iter it = AST_JSON_ITER(choices);
    const struct ast_json *v;
    struct ast_str unused;

    for (uint64_t i = 1; ast_json_next(&it, &unused, &v); i++)
        if (i == n)
            return ast_json_string(v, ret);
    return false;
}

/* By its number or its text; an empty line takes the default. */
static bool find_choice(const struct field *f, struct ast_str typed, struct ast_str *ret)
{
    uint64_t n;

    if (!typed.n && f->has_standard)
        typed = f->standard;
    else if (ast_str_to_u64(typed, &n))
        return nth_choice(f->choices, n, ret);
    for (n = 1; nth_choice(f->choices, n, ret); n++)
        if (ast_str_eq(*ret, typed))
            return true;
    return false;
}

static bool read_choice(const struct field *f, struct ast_buf *line, struct ast_str *ret)
{
    struct ast_str choice;
    size_t count = ast_json_count(f->choices);

    if (count > CHOICES_MAX)
        return false;
    print_prompt(f, "\n");
    for (uint64_t n = 1; nth_choice(f->choices, n, &choice); n++) {
        printf("  %u. ", (unsigned)n);
        cli_print_text(stdout, choice);
        putchar('\n');
    }
    for (int i = 0; i < TRIES; i++) {
        printf("Select [1-%zu]: ", count);
        fflush(stdout);
        if (!read_line(line))
            return false;
        if (find_choice(f, ast_str_trim(ast_buf_view(line)), ret))
            return true;
    }
    return false;
}

/* Writes "values" of the lines up to an empty one. */
static void answer_lines(const struct field *f, struct ast_buf *line, struct ast_jw *w)
{
    print_prompt(f, " (one a line, an empty line ends):\n");
    ast_jw_key(w, AST_STR("values"));
    ast_jw_array(w);
    for (unsigned i = 0; i < LINES_MAX; i++) {
        fputs("> ", stdout);
        fflush(stdout);
        if (!read_line(line) || !line->n)
            break;
        ast_jw_string(w, ast_buf_view(line));
    }
    ast_jw_end(w);
}

/* Adds "value" or "values"; neither cancels. False: cancelled. */
static bool answer_field(const struct field *f, struct ast_buf *line, struct ast_jw *w)
{
    struct ast_str value;
    bool has;

    if (ast_str_is(f->type, "Array")) {
        answer_lines(f, line, w);
        return true;
    }
    if (f->choices) {
        has = read_choice(f, line, &value);
    } else if (ast_str_is(f->type, "Secret")) {
        print_prompt(f, " (secret, input hidden): ");
        has = read_secret(line);
        value = ast_buf_view(line);
    } else {
        print_prompt(f, ": ");
        has = read_line(line);
        value = line->n ? ast_buf_view(line) : f->standard;
    }
    if (has)
        ast_jw_kv_string(w, "value", value);
    return has;
}

static void say_cancelled(const struct cli_ask *ask, const struct field *f)
{
    if (ask->mode)
        fprintf(stderr, "[%s] ", ask->mode);
    fputs("Cancelled a question that needs a person: ", stderr);
    cli_print_text(stderr, f->prompt);
    fputc('\n', stderr);
}

static enum ast_rc answer_elicit(struct cli_ask *ask, const struct ast_json *payload,
                                 struct ast_err *err)
{
    struct ast_buf line = AST_BUF_INIT(ANSWER_MAX), body = AST_BUF_INIT(2 * ANSWER_MAX);
    struct ast_str id = member(payload, AST_STR("request_id"));
    struct field f;

    read_field(payload, &f);
    struct ast_jw w = answer_begin(&body, AST_STR("elicit_response"), id);
    if (!ask->reads_answers || !answer_field(&f, &line, &w))
        say_cancelled(ask, &f);
    enum ast_rc rc = send_answer(ask, "astrid.v1.elicit", id, &w, err);
    wipe(&line);
    wipe(&body);
    return rc;
}

enum ast_rc cli_ask_answer(struct cli_ask *ask, const struct ast_json *payload, bool *ret_taken,
                           struct ast_err *err)
{
    struct ast_str type = member(payload, AST_STR("type"));

    *ret_taken = true;
    if (ast_str_is(type, "approval_required"))
        return answer_approval(ask, payload, err);
    if (ast_str_is(type, "elicit_request"))
        return answer_elicit(ask, payload, err);
    *ret_taken = false;
    return AST_OK;
}
