/* GET /api/sys/audit: pages of the audit log, newest first (spec 03 §23).
 *
 * Who does not hold audit:read_all sees rows of its own acting, whatever it asks for. Whoever reads everybody's rows leaves a
 * row itself, once a walk.
 *
 * differs: a cursor of ours is "p<row>", a position that rows of the same second do not shift; both forms of the original are
 * taken. An unparsable query is a JSON error like the others, the status stays.
 */
#include <stdlib.h>

#include "gateway/form_priv.h"
#include "gateway/gateway_priv.h"
#include "host/env.h"

#include "base/banned.h"

#define LIMIT_DEFAULT 100u
#define LIMIT_MAX     1000u
#define PAGE_BYTES    16777216u /* a page of rows with large parameters ends early */
#define PARAMS_BYTES  65536u

enum { SINCE, UNTIL, METHOD, PRINCIPAL, LIMIT, CURSOR, PARAM_COUNT };

struct history {
    struct gw_task task;
    struct gw_param params[PARAM_COUNT];
    struct ast_buf memory; /* of the parameters */
    struct ast_principal principal;
    bool sees_all, has_principal;
    uint64_t since, until, limit;
    uint64_t before;            /* position cursor; 0: none */
    uint64_t skip_ts, skip_max; /* "<ts>_<offset>": rows of that second to pass over */
    uint64_t skipped, rows, last;
    struct ast_jw w;
    struct ast_buf out;
    enum ast_rc rc;
    struct ast_err err;
};

static void history_free(struct gw_task *t)
{
    struct history *h = AST_CONTAINER_OF(t, struct history, task);
    ast_buf_done(&h->memory);
    ast_buf_done(&h->out);
    free(h);
}

/* --- The question -------------------------------------------------------------------------- */

static enum ast_rc read_cursor(struct history *h, struct ast_str text, struct ast_err *err)
{
    if (!text.p)
        return AST_OK;
    if (text.n > 1 && text.p[0] == 'p')
        return ast_str_to_u64(ast_str_from(text, 1), &h->before) && h->before
                   ? AST_OK
                   : ast_fail(err, AST_E_INVALID, "cursor must be \"<ts>\" or \"<ts>_<offset>\"");
    size_t line = ast_str_find_byte(text, '_');
    struct ast_str ts = ast_str_first(text, AST_MIN(line, text.n)),
                   offset = line == AST_STR_NPOS ? AST_STR("0") : ast_str_from(text, line + 1);
    if (ast_str_find_byte(offset, '_') != AST_STR_NPOS)
        return ast_fail(err, AST_E_INVALID, "cursor must be \"<ts>\" or \"<ts>_<offset>\"");
    if (!ast_str_to_u64(ts, &h->skip_ts))
        return ast_fail(err, AST_E_INVALID, "cursor timestamp must be an integer");
    if (!ast_str_to_u64(offset, &h->skip_max))
        return ast_fail(err, AST_E_INVALID, "cursor offset must be a non-negative integer");
    h->until = AST_MIN(h->until, h->skip_ts);
    return AST_OK;
}

static enum ast_rc read_query(struct history *h, struct ast_str query, struct ast_err *err)
{
    static const struct ast_str names[PARAM_COUNT] = { { "since", 5 },  { "until", 5 },
                                                       { "method", 6 }, { "principal", 9 },
                                                       { "limit", 5 },  { "cursor", 6 } };
    for (size_t i = 0; i < PARAM_COUNT; i++)
        h->params[i].name = names[i];
    enum ast_rc rc = gw_form_parse(query, h->params, PARAM_COUNT, &h->memory, err);
    if (!rc)
        rc = gw_form_u64(&h->params[SINCE], &h->since, err);
    if (!rc)
        rc = gw_form_u64(&h->params[UNTIL], &h->until, err);
    if (!rc)
        rc = gw_form_u64(&h->params[LIMIT], &h->limit, err);
    return rc ? ast_wrap(err, rc, "Failed to deserialize query string") : AST_OK;
}

/* In the order of spec 03 §23.1. */
static enum ast_rc read_request(struct history *h, const struct gw_call *call, struct ast_err *err)
{
    struct ast_str caller = ast_principal_str(&call->bearer.principal);
    struct ast_str wanted;
    enum ast_rc rc = read_query(h, gw_exchange_request(call->ex)->query, err);
    if (rc)
        return rc;
    if (h->limit > LIMIT_MAX)
        return ast_fail(err, AST_E_INVALID, "limit %llu exceeds the cap of %u",
                        (unsigned long long)h->limit, LIMIT_MAX);
    h->limit = h->limit ? h->limit : LIMIT_DEFAULT;
    h->sees_all = ast_policy_holds(call->g->host->policy, caller, AST_STR("audit:read_all"));
    wanted = h->params[PRINCIPAL].value;
    h->has_principal = !h->sees_all || wanted.p;
    if (h->has_principal)
        rc = ast_principal_parse(h->sees_all ? wanted : caller, &h->principal, err);
    if (rc)
        return ast_wrap(err, rc, "invalid `principal` query value");
    return read_cursor(h, h->params[CURSOR].value, err);
}

/* --- The answer ---------------------------------------------------------------------------- */

static bool add_row(void *arg, const struct ast_kernel_row *row)
{
    struct history *h = arg;
    if (h->skipped < h->skip_max && row->ts_epoch == h->skip_ts) {
        h->skipped++;
        return true;
    }
    ast_jw_raw(&h->w, row->json);
    h->last = row->seq;
    return ++h->rows < h->limit && h->out.n < PAGE_BYTES / 2;
}

static enum ast_rc record(struct history *h, struct ast_err *err)
{
    if (!h->sees_all || h->params[CURSOR].value.p)
        return AST_OK;
    const struct ast_kernel_deed deed = {
        .caller = ast_principal_str(&h->task.call.bearer.principal),
        .method = AST_STR("AuditQuery"),
        .capability = AST_STR("audit:read_all"),
    };
    return ast_kernel_do(h->task.call.g->kernel, &deed, /* act= */ NULL, NULL, err);
}

static void work(struct gw_task *t)
{
    struct history *h = AST_CONTAINER_OF(t, struct history, task);
    struct ast_str principal = ast_principal_str(&h->principal);
    const struct ast_kernel_rows ask = { .principal = h->has_principal ? &principal : NULL,
                                         .method = h->params[METHOD].value,
                                         .since = h->since,
                                         .until = h->until,
                                         .seq = h->before,
                                         .each = add_row,
                                         .arg = h };
    uint64_t unused = 0;
    h->w = (struct ast_jw)AST_JW_INIT(&h->out);
    ast_jw_object(&h->w);
    ast_jw_key(&h->w, AST_STR("entries"));
    ast_jw_array(&h->w);
    h->rc = record(h, &h->err);
    /* An empty method is one that no row has; the log would take it for "any". */
    if (!h->rc && !(ask.method.p && !ask.method.n))
        h->rc = ast_kernel_rows_walk(t->call.g->kernel, &ask, &unused, &h->err);
    ast_jw_end(&h->w);
    ast_jw_key(&h->w, AST_STR("next_cursor"));
    bool is_full = h->rows >= h->limit || h->out.n >= PAGE_BYTES / 2;
    if (is_full)
        (void)ast_buf_addf(&h->out, "\"p%llu\"}", (unsigned long long)h->last);
    else
        (void)ast_buf_add_lit(&h->out, "null}");
}

static void reply(struct gw_task *t)
{
    struct history *h = AST_CONTAINER_OF(t, struct history, task);
    if (h->rc)
        gw_reply_internal(&t->call, h->err.msg);
    else
        gw_reply_json(&t->call, &h->out);
}

void gw_get_audit(struct gw_call *call)
{
    struct ast_err err = AST_ERR_INIT;
    struct history *h = calloc(1, sizeof *h);
    if (!h) {
        gw_reply_internal(call, "out of memory");
        return;
    }
    h->task = (struct gw_task){ .work = work, .reply = reply, .free = history_free };
    h->memory = (struct ast_buf)AST_BUF_INIT(PARAMS_BYTES);
    h->out = (struct ast_buf)AST_BUF_INIT(PAGE_BYTES);
    h->until = UINT64_MAX;
    if (read_request(h, call, &err)) {
        gw_reply_bad_request(call, "%s", err.msg);
        history_free(&h->task);
        return;
    }
    gw_task_start(call, &h->task);
}
