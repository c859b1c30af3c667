/* Kernel and admin requests that arrive as bus messages: astrid.v1.request.<suffix> is answered on
 * astrid.v1.response.<suffix>, astrid.v1.admin.<suffix> on astrid.v1.admin.response.<suffix>, the suffix copied verbatim (spec 02 §10.2). Only raw_json payloads are requests. */
#include <stdlib.h>

#include "base/log.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

#define REQUEST_PREFIX        AST_STR("astrid.v1.request.")
#define RESPONSE_PREFIX       AST_STR("astrid.v1.response.")
#define ADMIN_PREFIX          AST_STR("astrid.v1.admin.")
#define ADMIN_RESPONSE_PREFIX AST_STR("astrid.v1.admin.response.")
#define MCP_PREFIX            AST_STR("astrid.v1.request.mcp.")

/* Owner: made and freed by the boot thread; read only in between. */
struct kernel_router {
    struct ast_kernel *k;
    struct ast_tap *requests, *admin;
};

/* Who waits for the answer. */
struct pending {
    struct ast_kernel *k;
    struct ast_buf topic;
    struct ast_principal only; /* the answer is for this principal's clients; empty: for all */
};

static void reply(struct ast_kernel *k, struct ast_str topic, struct ast_str principal,
                  struct ast_str body)
{
    const struct ast_msg_spec spec = {
        .topic = topic, .principal = principal, .source_id = k->session, .origin = "kernel_router"
    };
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg;

    if (ast_msg_trusted(&spec, AST_PAYLOAD_RAW_JSON, body, &msg, &err))
        ast_log_error(KERNEL_TARGET, "message on " AST_STR_FMT " is lost: %s", AST_STR_ARG(topic),
                      err.msg);
    else
        (void)ast_bus_publish(k->bus, msg); /* nobody waits for its number */
}

static void on_answer(void *arg, struct ast_str response_json)
{
    struct pending *p = arg;
    reply(p->k, ast_buf_view(&p->topic), ast_principal_str(&p->only), response_json);
    ast_buf_done(&p->topic);
    free(p);
}

static struct pending *pending_new(struct ast_kernel *k, struct ast_str prefix,
                                   struct ast_str suffix)
{
    struct pending *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->k = k;
    p->topic.max = 4096;
    ast_buf_add(&p->topic, prefix);
    ast_buf_add(&p->topic, suffix);
    return p;
}

/* An absent principal is `default`; a malformed one is refused, never promoted (spec README §5 gap 8). */
static bool caller_of(const struct ast_msg *msg, struct ast_str *ret)
{
    *ret = msg->principal.n ? msg->principal : AST_PRINCIPAL_DEFAULT;
    if (ast_principal_valid(*ret))
        return true;
    ast_log_fields(AST_LOG_WARN, KERNEL_TARGET, "kernel request with a malformed principal refused",
                   AST_F_SECURITY, AST_F_STR("principal", ast_str_first(msg->principal, 80)),
                   AST_F_STR("topic", msg->topic));
    return false;
}

static void on_request(void *arg, struct ast_msg *msg)
{
    struct kernel_router *r = arg;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_err err = AST_ERR_INIT;
    struct ast_str caller, method;

    if (msg->kind != AST_PAYLOAD_RAW_JSON || ast_str_starts(msg->topic, MCP_PREFIX) ||
        !caller_of(msg, &caller))
        return;
    if (ast_json_parse(msg->body, &doc, &err) ||
        !ast_json_string(ast_json_member(ast_json_root(doc), "method"), &method)) {
        ast_log_warn(KERNEL_TARGET, "Failed to parse KernelRequest from IPC on " AST_STR_FMT,
                     AST_STR_ARG(msg->topic));
        return;
    }
    struct pending *p =
        pending_new(r->k, RESPONSE_PREFIX, ast_str_from(msg->topic, REQUEST_PREFIX.n));
    if (!p) {
        ast_log_error(KERNEL_TARGET, "out of memory: request on " AST_STR_FMT " is not answered",
                      AST_STR_ARG(msg->topic));
        return;
    }
    if (kernel_request_is_private(method))
        (void)ast_principal_parse(caller, &p->only, NULL); /* caller_of() has looked at it */
    ast_kernel_request(r->k, caller, ast_json_root(doc), on_answer, p);
}

/* An admin request that cannot be read is answered too: its caller would wait for 15 seconds (spec 02 §10.5). */
static void on_admin(void *arg, struct ast_msg *msg)
{
    struct kernel_router *r = arg;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_err err = AST_ERR_INIT;

    if (msg->kind != AST_PAYLOAD_RAW_JSON || ast_str_starts(msg->topic, ADMIN_RESPONSE_PREFIX) ||
        ast_str_is(msg->topic, "astrid.v1.admin.response"))
        return;
    if (ast_json_parse(msg->body, &doc, &err)) {
        ast_log_warn(KERNEL_TARGET, "Failed to parse admin request from IPC on " AST_STR_FMT ": %s",
                     AST_STR_ARG(msg->topic), err.msg);
        return;
    }
    struct pending *p =
        pending_new(r->k, ADMIN_RESPONSE_PREFIX, ast_str_from(msg->topic, ADMIN_PREFIX.n));
    if (!p) {
        ast_log_error(KERNEL_TARGET, "out of memory: request on " AST_STR_FMT " is not answered",
                      AST_STR_ARG(msg->topic));
        return;
    }
    /* An absent principal is `default`; the kernel refuses a malformed one. The answer is its caller's alone. */
    struct ast_str caller = msg->principal.n ? msg->principal : AST_PRINCIPAL_DEFAULT;
    (void)ast_principal_parse(caller, &p->only, NULL);
    ast_kernel_admin(r->k, caller, ast_json_root(doc), on_answer, p);
}

enum ast_rc kernel_router_start(struct ast_kernel *k, struct kernel_router **ret,
                                struct ast_err *err)
{
    struct kernel_router *r = calloc(1, sizeof *r);
    if (!r)
        return ast_fail(err, AST_E_NO_MEMORY, "kernel router");
    r->k = k;
    enum ast_rc rc = ast_tap_open(k->bus, "kernel_router", AST_STR("astrid.v1.request.*"),
                                  on_request, r, &r->requests, err);
    if (!rc)
        rc = ast_tap_open(k->bus, "admin_router", AST_STR("astrid.v1.admin.*"), on_admin, r,
                          &r->admin, err);
    if (rc)
        kernel_router_stop(r);
    else
        *ret = r;
    return rc;
}

void kernel_router_stop(struct kernel_router *r)
{
    if (!r)
        return;
    ast_tap_close(r->requests);
    ast_tap_close(r->admin);
    free(r);
}
