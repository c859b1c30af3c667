/* Questions to the kernel: from a loop thread to wherever the kernel works, and back.
 *
 * Owner of a question: the kernel until its answer came (it answers once, always), then the loop. A client that left
 * or waited too long does not shorten that life; the answer is dropped when it comes.
 */
#include "gateway/gateway_priv.h"

#include <stdlib.h>

#include "base/time.h"

#include "base/banned.h"

#define ANSWER_MAX  16777216u
#define REQUEST_MAX (16u * AST_GATEWAY_BODY_BYTES)

struct question {
    struct gw_call call;
    struct gw_exchange *ex; /* owned reference */
    struct gw_post post;
    struct ast_str expected; /* static text */
    void (*ok)(struct gw_call *call, const struct ast_json *data);
    struct ast_buf answer; /* written before the post, read after it */
};

static void question_free(struct question *q)
{
    gw_exchange_unref(q->ex);
    ast_buf_done(&q->answer);
    free(q);
}

static void interpret(struct question *q)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    if (q->answer.fail || ast_json_parse(ast_buf_view(&q->answer), &doc, &err)) {
        gw_reply_internal(&q->call, q->answer.fail ? "the kernel's answer is too large" : err.msg);
        return;
    }
    const struct ast_json *root = ast_json_root(doc), *data = ast_json_member(root, "data");
    struct ast_str status = ast_json_str_or(root, AST_STR("status"), AST_STR_NONE), reason;
    if (ast_str_eq(status, q->expected))
        q->ok(&q->call, data);
    else if (!ast_str_is(status, "Error") || !ast_json_string(data, &reason))
        gw_reply_internal(&q->call, "the kernel answered something else");
    else if (ast_str_starts(reason, AST_STR("Rate limited: "))) /* a text of spec 02 §26 */
        gw_reply_rate_limited(&q->call, AST_GATEWAY_KERNEL_WINDOW_SECS);
    else
        gw_reply_forbidden(&q->call, reason);
}

static void on_loop(struct gw_post *post)
{
    struct question *q = AST_CONTAINER_OF(post, struct question, post);
    if (gw_exchange_open(q->ex))
        interpret(q);
    question_free(q);
}

static void on_answer(void *arg, struct ast_str response_json)
{
    struct question *q = arg;
    (void)ast_buf_add(&q->answer, response_json); /* a failure is sticky and seen in interpret() */
    if (!gw_exchange_post(q->ex, &q->post))
        question_free(q);
}

static void on_silence(struct gw_exchange *ex)
{
    struct question *q = gw_exchange_user(ex);
    gw_reply_internal(&q->call, "the kernel did not answer in time");
}

void gw_ask(struct gw_call *call, struct ast_str method, struct ast_str expected,
            void (*ok)(struct gw_call *call, const struct ast_json *data))
{
    gw_ask_more(call,
                &(struct gw_request_to_kernel){ .method = method, .expected = expected, .ok = ok });
}

static void write_request(const struct gw_request_to_kernel *r, struct ast_buf *out)
{
    struct ast_jw w = AST_JW_INIT(out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "method", r->method);
    if (r->params.n) {
        ast_jw_key(&w, AST_STR("params"));
        ast_jw_raw(&w, r->params);
    }
    ast_jw_end(&w);
}

void gw_ask_more(struct gw_call *call, const struct gw_request_to_kernel *r)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(REQUEST_MAX);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    write_request(r, &text);
    struct question *q = calloc(1, sizeof *q);
    if (!q || ast_buf_check(&text, "request", &err) ||
        ast_json_parse(ast_buf_view(&text), &doc, &err)) {
        gw_reply_internal(call, q ? err.msg : "out of memory");
        free(q);
        return;
    }
    *q = (struct question){ .call = *call,
                            .ex = gw_exchange_ref(call->ex),
                            .post.fn = on_loop,
                            .expected = r->expected,
                            .ok = r->ok,
                            .answer = AST_BUF_INIT(ANSWER_MAX) };
    int64_t secs = r->limit_secs ? r->limit_secs : call->g->cfg.kernel_secs;
    gw_exchange_set_user(call->ex, q);
    gw_exchange_at(call->ex, ast_mono_ns() + secs * AST_NS_PER_SEC, on_silence);
    ast_kernel_request(call->g->kernel, ast_principal_str(&call->bearer.principal),
                       ast_json_root(doc), on_answer, q);
}
