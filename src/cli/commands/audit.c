/* audit tail, query, export, verify: the log as the daemon lets the active agent see it. */
#include <poll.h>
#include <stdlib.h>

#include "base/time.h"
#include "cli/daemon.h"

#include "base/banned.h"

#define WAIT_MS        30000
#define VERIFY_WAIT_MS 600000
#define FOLLOW_MS      1000
#define CURSOR_MAX     128u

/* What a command asks for, page after page. */
struct ask {
    struct cli *cli;
    struct ast_uplink_client *client; /* owned */
    bool oldest_first, entries, tail;
    uint64_t limit;
    char cursor[CURSOR_MAX]; /* empty: from the start */
};

static enum ast_rc add_number(struct cli *cli, struct ast_jw *w, const char *option,
                              struct ast_err *err)
{
    const char *text = cli_value(cli, option);
    uint64_t n = 0;
    if (!text)
        return AST_OK;
    if (!ast_str_to_u64(ast_str_c(text), &n))
        return ast_fail(err, AST_E_INVALID, "--%s: '%s' is not a number", option, text);
    ast_jw_key(w, ast_str_c(option));
    ast_jw_u64(w, n);
    return AST_OK;
}

static void add_text(struct cli *cli, struct ast_jw *w, const char *option)
{
    const char *text = cli_value(cli, option);
    if (!text)
        return;
    ast_jw_key(w, ast_str_c(option));
    ast_jw_string(w, ast_str_c(text));
}

static enum ast_rc ask_page(const struct ask *a, struct ast_uplink_frame *f,
                            const struct ast_json **ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf request = AST_BUF_INIT(65536);
    struct ast_jw w = AST_JW_INIT(&request);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "method", AST_STR("AuditQuery"));
    ast_jw_key(&w, AST_STR("params"));
    ast_jw_object(&w);
    if (a->cursor[0])
        ast_jw_kv_string(&w, "cursor", ast_str_c(a->cursor));
    ast_jw_kv_bool(&w, "entries", a->entries);
    ast_jw_kv_u64(&w, "limit", a->limit);
    ast_jw_kv_bool(&w, "oldest_first", a->oldest_first);
    ast_jw_kv_bool(&w, "tail", a->tail);
    add_text(a->cli, &w, "method");
    add_text(a->cli, &w, "principal");
    enum ast_rc rc = add_number(a->cli, &w, "since", err);
    if (!rc)
        rc = add_number(a->cli, &w, "until", err);
    if (rc)
        return rc;
    ast_jw_end(&w);
    ast_jw_end(&w);
    rc = ast_buf_check(&request, "audit query", err);
    return rc ? rc
              : cli_request(a->cli, a->client, "audit_query", ast_buf_view(&request), WAIT_MS, f,
                            ret, err);
}

static void print_field(const struct ast_json *row, struct ast_str key)
{
    cli_print_text(stdout, ast_json_str_or(row, key, AST_STR("-")));
}

/* A column: rows come one by one, so its width is what usual names need. */
static void print_column(const struct ast_json *row, struct ast_str key, size_t width)
{
    struct ast_str text = ast_json_str_or(row, key, AST_STR("-"));

    cli_print_text(stdout, text);
    printf("%*s  ", text.n < width ? (int)(width - text.n) : 0, "");
}

static void print_row(const struct ask *a, const struct ast_json *row)
{
    AST_AUTO(ast_buf_done) struct ast_buf line = AST_BUF_INIT(4u * 1024 * 1024);
    char time[AST_RFC3339_BYTES];
    uint64_t secs = 0;

    if (a->entries || cli_format(a->cli) == CLI_JSON) {
        if (!ast_json_compact(row, &line))
            printf(AST_STR_FMT "\n", AST_STR_ARG(ast_buf_view(&line)));
        return;
    }
    if (cli_format(a->cli) != CLI_PRETTY) { /* lists of one: together they are a list too */
        ast_buf_add_byte(&line, '[');
        (void)ast_json_compact(row, &line); /* sticky in `line` */
        ast_buf_add_byte(&line, ']');
        cli_print(a->cli, ast_buf_view(&line));
        return;
    }
    (void)ast_json_u64(ast_json_member(row, "ts_epoch"), &secs);
    fputs(ast_time_format((int64_t)secs * AST_NS_PER_SEC, AST_TIME_Z, time).p, stdout);
    fputs("  ", stdout);
    print_column(row, AST_STR("principal"), 12);
    print_column(row, AST_STR("method"), 23);
    print_field(row, AST_STR("outcome"));
    if (ast_json_type(ast_json_member(row, "target_principal")) == AST_JSON_STRING) {
        fputs("  -> ", stdout);
        print_field(row, AST_STR("target_principal"));
    }
    putchar('\n');
}

/* Prints the rows of a page, the last first when `backwards`. */
static void print_page(const struct ask *a, const struct ast_json *data, bool backwards)
{
    const struct ast_json *list = ast_json_member(data, "entries"), *row, *rows[1000];
    struct ast_json_iter it = AST_JSON_ITER(list);
    struct ast_str unused;
    size_t n = 0;

    while (n < AST_ARRAY_LEN(rows) && ast_json_next(&it, &unused, &row))
        rows[n++] = row;
    for (size_t i = 0; i < n; i++)
        print_row(a, rows[backwards ? n - 1 - i : i]);
}

static void keep_cursor(struct ask *a, const struct ast_json *data, struct ast_str key)
{
    struct ast_str text = ast_json_str_or(data, key, AST_STR_NONE);
    (void)snprintf(a->cursor, sizeof a->cursor, AST_STR_FMT, AST_STR_ARG(text));
}

static enum ast_rc read_limit(struct cli *cli, uint64_t fallback, uint64_t *ret,
                              struct ast_err *err)
{
    const char *text = cli_value(cli, "lines");
    *ret = fallback;
    if (text && (!ast_str_to_u64(ast_str_c(text), ret) || *ret == 0 || *ret > 1000))
        return ast_fail(err, AST_E_INVALID, "--lines: '%s' is not a number from 1 to 1000", text);
    return AST_OK;
}

static enum ast_rc follow(struct ask *a, struct ast_err *err)
{
    a->oldest_first = a->tail = true;
    for (;;) {
        AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
        const struct ast_json *data;
        (void)poll(NULL, 0, FOLLOW_MS); /* an early wake only looks once more */
        enum ast_rc rc = ask_page(a, &f, &data, err);
        if (rc)
            return rc;
        print_page(a, data, false);
        keep_cursor(a, data, AST_STR("next_cursor"));
        if (fflush(stdout))
            return ast_fail(err, AST_E_IO, "write");
    }
}

int cmd_audit_tail(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ask a = { .cli = cli };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;

    enum ast_rc rc = read_limit(cli, 20, &a.limit, &err);
    if (!rc)
        rc = cli_connect(cli, &a.client, &err);
    if (!rc)
        rc = ask_page(&a, &f, &data, &err);
    if (!rc) {
        print_page(&a, data, true);
        keep_cursor(&a, data, AST_STR("newest_cursor"));
        (void)fflush(stdout); /* a failed write shows at exit */
        if (cli_value(cli, "follow"))
            rc = follow(&a, &err);
    }
    ast_uplink_disconnect(a.client);
    return rc ? cli_error(&err) : CLI_OK;
}

static int print_all(struct ask *a)
{
    struct ast_err err = AST_ERR_INIT;
    enum ast_rc rc = cli_connect(a->cli, &a->client, &err);

    bool more = !rc;
    while (more) {
        AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
        const struct ast_json *data;
        rc = ask_page(a, &f, &data, &err);
        if (rc)
            break;
        print_page(a, data, false);
        keep_cursor(a, data, AST_STR("next_cursor"));
        more = a->cursor[0] != 0 && a->entries;
    }
    ast_uplink_disconnect(a->client);
    return rc ? cli_error(&err) : CLI_OK;
}

int cmd_audit_query(struct cli *cli)
{
    struct ask a = { .cli = cli };
    struct ast_err err = AST_ERR_INIT;
    return read_limit(cli, 100, &a.limit, &err) ? cli_error(&err) : print_all(&a);
}

/* Signed entries as they are stored, oldest first. */
int cmd_audit_export(struct cli *cli)
{
    struct ask a = { .cli = cli, .entries = true, .oldest_first = true, .limit = 500 };
    return print_all(&a);
}

int cmd_audit_verify(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_uplink_client *c = NULL;
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data, *issue;
    bool is_valid = false;
    uint64_t entries = 0;

    enum ast_rc rc = cli_connect(cli, &c, &err);
    if (!rc)
        rc = cli_request(cli, c, "audit_verify", AST_STR("{\"method\":\"AuditVerify\"}"),
                         VERIFY_WAIT_MS, &f, &data, &err);
    ast_uplink_disconnect(c);
    if (rc)
        return cli_error(&err);
    (void)ast_json_bool(ast_json_member(data, "valid"), &is_valid);
    (void)ast_json_u64(ast_json_member(data, "entries"), &entries);
    if (cli_format(cli) != CLI_PRETTY) {
        cli_print_value(cli, data);
        return is_valid ? CLI_OK : CLI_FAILED;
    }
    struct ast_json_iter it = AST_JSON_ITER(ast_json_member(data, "issues"));
    struct ast_str unused;
    while (ast_json_next(&it, &unused, &issue)) {
        print_field(issue, AST_STR("text"));
        putchar('\n');
    }
    if (is_valid)
        cli_success("%llu audit entries verified.", (unsigned long long)entries);
    else
        cli_warning("The audit log was tampered with.");
    return is_valid ? CLI_OK : CLI_FAILED;
}
