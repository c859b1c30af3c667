/* One admin request, one connection: the frame is stamped with who asks, and only the answer with the request's own id
 * counts. */
#include "cli/admin.h"

#include <stdlib.h>

#include "base/time.h"
#include "cli/daemon.h"

#include "base/banned.h"

#define ADMIN_WAIT_MS 15000
#define REQUEST_MAX   (256u * 1024)

/* Opens {"type":..,"request_id":..,"method":..,"params":{ */
void cli_admin_begin(struct cli_admin *a, const char *method)
{
    struct ast_uuid id = ast_uuid_v4();

    *a = (struct cli_admin){ .body = AST_BUF_INIT(REQUEST_MAX) };
    a->w = (struct ast_jw)AST_JW_INIT(&a->body);
    ast_jw_object(&a->w);
    ast_jw_kv_string(&a->w, "type", AST_STR("raw_json"));
    ast_jw_kv_string(&a->w, "request_id", ast_uuid_format(&id, a->id));
    ast_jw_kv_string(&a->w, "method", ast_str_c(method));
    ast_jw_key(&a->w, AST_STR("params"));
    ast_jw_object(&a->w);
}

void cli_admin_list(struct cli_admin *a, const struct cli *cli, const char *key, const char *option)
{
    struct cli_pieces it = { 0 };
    struct ast_str piece;

    ast_jw_key(&a->w, ast_str_c(key));
    ast_jw_array(&a->w);
    while (cli_next_piece(cli, option, &it, &piece))
        ast_jw_string(&a->w, piece);
    ast_jw_end(&a->w);
}

static enum ast_rc wait_for_answer(const struct cli_admin *a, struct ast_uplink_client *c,
                                   struct ast_str topic, struct ast_uplink_frame *ret,
                                   struct ast_err *err)
{
    int64_t deadline = ast_mono_ns() + ADMIN_WAIT_MS * AST_NS_PER_MS;

    for (;;) {
        AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
        int64_t left = (deadline - ast_mono_ns()) / AST_NS_PER_MS;
        enum ast_rc rc = left > 0 ? ast_uplink_recv(c, left, &f, err) : AST_E_TIMEOUT;
        if (rc == AST_E_TIMEOUT)
            return ast_fail(err, rc, "Admin request timed out after 15s waiting for " AST_STR_FMT,
                            AST_STR_ARG(topic));
        if (rc == AST_E_CLOSED)
            return ast_fail(err, rc, "Daemon closed the connection before responding");
        if (rc)
            return rc;
        if (ast_str_eq(f.topic, topic) &&
            ast_str_eq(ast_json_str_or(f.payload, AST_STR("request_id"), AST_STR_NONE),
                       ast_str_c(a->id))) {
            *ret = f;
            f = (struct ast_uplink_frame){ 0 };
            return AST_OK;
        }
    }
}

static enum ast_rc exchange(struct cli *cli, struct cli_admin *a, const char *suffix,
                            const struct ast_principal *as, struct ast_uplink_frame *frame,
                            struct ast_err *err)
{
    AST_AUTO(ast_uplink_disconnect) struct ast_uplink_client *c = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf topic = AST_BUF_INIT(256);
    AST_AUTO(ast_buf_done) struct ast_buf answer = AST_BUF_INIT(256);
    struct ast_principal active;

    ast_buf_addf(&topic, "astrid.v1.admin.%s", suffix);
    ast_buf_addf(&answer, "astrid.v1.admin.response.%s", suffix);
    enum ast_rc rc = ast_buf_check(&a->body, "request", err);
    if (!rc && !as)
        rc = cli_principal(cli, &active, err);
    if (!rc)
        rc = cli_connect(cli, &c, err);
    if (!rc)
        rc = ast_uplink_send(c, ast_buf_view(&topic), ast_buf_view(&a->body), &AST_UUID_NIL,
                             ast_principal_str(as ? as : &active), err);
    return rc ? rc : wait_for_answer(a, c, ast_buf_view(&answer), frame, err);
}

enum ast_rc cli_admin_send(struct cli *cli, struct cli_admin *a, const char *suffix,
                           const char *status, const struct ast_principal *as,
                           struct ast_uplink_frame *frame, const struct ast_json **ret,
                           struct ast_err *err)
{
    struct ast_str text;

    ast_jw_end(&a->w);
    ast_jw_end(&a->w);
    enum ast_rc rc = exchange(cli, a, suffix, as, frame, err);
    ast_buf_done(&a->body);
    if (rc)
        return rc;
    const struct ast_json *data = ast_json_member(frame->payload, "data");
    struct ast_str got = ast_json_str_or(frame->payload, AST_STR("status"), AST_STR("none"));
    if (ast_str_is(got, "Error"))
        return ast_fail(err, AST_E_DENIED, "kernel rejected request: " AST_STR_FMT,
                        AST_STR_ARG(ast_json_string(data, &text) ? text : AST_STR("no reason")));
    if (!ast_str_eq(got, ast_str_c(status)))
        return ast_fail(err, AST_E_PROTOCOL,
                        "unexpected response from kernel: status " AST_STR_FMT " instead of %s",
                        AST_STR_ARG(got), status);
    *ret = data;
    return AST_OK;
}

int cli_admin_change(struct cli *cli, struct cli_admin *a, const char *suffix)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *data;

    return cli_admin_send(cli, a, suffix, "Success", NULL, &f, &data, &err) ? cli_error(&err)
                                                                            : CLI_OK;
}

const struct ast_json *cli_admin_row(const struct ast_json *list, struct ast_str key,
                                     struct ast_str name)
{
    struct ast_json_iter it = AST_JSON_ITER(list);
    const struct ast_json *row;
    struct ast_str unused;

    while (ast_json_next(&it, &unused, &row))
        if (ast_str_eq(ast_json_str_or(row, key, AST_STR_NONE), name))
            return row;
    return NULL;
}
