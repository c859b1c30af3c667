/* Settings of capsules over HTTP (spec 03 §18): the schema for any bearer, values for its own principal. */
#include <stdlib.h>

#include "base/codec.h"
#include "base/log.h"
#include "crypto/hash.h"
#include "gateway/body_priv.h"
#include "gateway/env_priv.h"
#include "gateway/gateway_priv.h"

#include "base/banned.h"

#define NAME_BYTES (128u + 1u)
#define SCHEMA_MAX 8388608u

enum outcome { DONE, BAD, MISSING, FAILED };

/* Both operations. */
struct env {
    struct gw_task task;
    struct ast_buf capsule, field; /* decoded and checked */
    struct ast_buf value;          /* wiped */
    struct gw_env_field found;
    struct ast_buf out; /* the schema */
    enum outcome outcome;
    struct ast_err err;
};

static void env_free(struct gw_task *t)
{
    struct env *e = AST_CONTAINER_OF(t, struct env, task);
    if (e->value.p)
        explicit_bzero(e->value.p, e->value.cap);
    ast_buf_done(&e->value);
    ast_buf_done(&e->capsule);
    ast_buf_done(&e->field);
    ast_buf_done(&e->out);
    free(e);
}
static void env_drop(struct env *e)
{
    env_free(&e->task);
}
AST_DEFINE_AUTO(struct env, env_drop)

static struct env *env_new(struct gw_call *call, void (*work)(struct gw_task *t),
                           void (*reply)(struct gw_task *t))
{
    struct env *e = calloc(1, sizeof *e);
    if (!e) {
        gw_reply_internal(call, "out of memory");
        return NULL;
    }
    e->task = (struct gw_task){ .work = work, .reply = reply, .free = env_free };
    e->capsule = (struct ast_buf)AST_BUF_INIT(AST_GATEWAY_HEAD_BYTES);
    e->field = (struct ast_buf)AST_BUF_INIT(AST_GATEWAY_HEAD_BYTES);
    e->value = (struct ast_buf)AST_BUF_INIT(AST_GATEWAY_BODY_BYTES);
    e->out = (struct ast_buf)AST_BUF_INIT(SCHEMA_MAX);
    return e;
}

/* A name out of the path; false: a 400 was sent. */
static bool read_name(struct gw_call *call, size_t param, const char *noun, struct ast_buf *out)
{
    struct ast_str sent = call->params.v[param];
    if (!gw_path_decode(sent, out, NULL) && gw_env_name_valid(ast_buf_view(out)))
        return true;
    gw_reply_bad_request(call, "invalid %s \"" AST_STR_FMT "\"", noun,
                         AST_STR_ARG(ast_str_first(sent, 256)));
    return false;
}

/* False: `outcome` says why. */
static bool read_manifest(struct env *e, struct ast_json_doc **ret)
{
    enum ast_rc rc = gw_env_manifest(e->task.call.g->home, ast_buf_view(&e->capsule), ret, &e->err);
    e->outcome = rc == AST_E_NOT_FOUND ? MISSING : rc ? FAILED : DONE;
    return !rc;
}

static void reply_failure(struct env *e)
{
    switch (e->outcome) {
    case BAD: gw_reply_bad_request(&e->task.call, "%s", e->err.msg); break;
    case MISSING: gw_reply_not_found(&e->task.call); break;
    case DONE:
    case FAILED: gw_reply_internal(&e->task.call, e->err.msg); break;
    }
}

/* --- The schema ---------------------------------------------------------------------------- */

static void schema_work(struct gw_task *t)
{
    struct env *e = AST_CONTAINER_OF(t, struct env, task);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    if (read_manifest(e, &doc))
        gw_env_schema(ast_json_root(doc), ast_buf_view(&e->capsule), &e->out);
}

static void schema_reply(struct gw_task *t)
{
    struct env *e = AST_CONTAINER_OF(t, struct env, task);
    if (e->outcome)
        reply_failure(e);
    else
        gw_reply_json(&t->call, &e->out);
}

void gw_get_env(struct gw_call *call)
{
    AST_AUTO(env_drop) struct env *e = env_new(call, schema_work, schema_reply);
    if (e && read_name(call, 0, "capsule id", &e->capsule))
        gw_task_start(call, &ast_steal(&e)->task);
}

/* --- A value ------------------------------------------------------------------------------- */

/* A secret's plain hash could be guessed: it is keyed, and the key lasts as long as the process. */
static struct ast_str fingerprint(const struct env *e, char out[static AST_SHA256_HEX])
{
    uint8_t mac[32];
    struct ast_str value = ast_buf_view(&e->value);
    if (e->found.kind != GW_ENV_SECRET) {
        ast_sha256_hex(value, out);
        return ast_str_c(out);
    }
    ast_blake3_mac(e->task.call.g->fingerprint_key, value, mac);
    ast_hex_encode(mac, 8, out);
    return ast_str_c(out);
}

static enum ast_rc store(void *arg, struct ast_err *err)
{
    struct env *e = arg;
    return gw_env_store(e->task.call.g->home, ast_principal_str(&e->task.call.bearer.principal),
                        ast_buf_view(&e->capsule), ast_buf_view(&e->field), &e->found,
                        ast_buf_view(&e->value), err);
}

static void write_params(const struct env *e, struct ast_buf *out)
{
    struct ast_jw w = AST_JW_INIT(out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "method", AST_STR("EnvWrite"));
    ast_jw_key(&w, AST_STR("params"));
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "capsule", ast_buf_view(&e->capsule));
    ast_jw_kv_string(&w, "env_type", e->found.type);
    ast_jw_kv_string(&w, "field", ast_buf_view(&e->field));
    ast_jw_end(&w);
    ast_jw_end(&w);
}

static void write_work(struct gw_task *t)
{
    struct env *e = AST_CONTAINER_OF(t, struct env, task);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf params = AST_BUF_INIT(8192);
    struct ast_str principal = ast_principal_str(&t->call.bearer.principal);
    char print[AST_SHA256_HEX];
    if (!read_manifest(e, &doc))
        return;
    if (!gw_env_field(ast_json_root(doc), ast_buf_view(&e->field), &e->found)) {
        e->outcome = MISSING;
        return;
    }
    if (gw_env_check(&e->found, ast_buf_view(&e->field), ast_buf_view(&e->value), &e->err)) {
        e->outcome = BAD;
        return;
    }
    write_params(e, &params);
    const struct ast_kernel_deed deed = { .caller = principal,
                                          .method = AST_STR("env.write"),
                                          .capability = AST_STR("self:env:write"),
                                          .is_own = true,
                                          .params = ast_buf_view(&params),
                                          .changes = true };
    if (ast_kernel_do(t->call.g->kernel, &deed, store, e, &e->err)) {
        e->outcome = FAILED;
        return;
    }
    ast_log_fields(AST_LOG_INFO, "gateway", "gateway env-write", AST_F_STR("principal", principal),
                   AST_F_STR("capsule", ast_buf_view(&e->capsule)),
                   AST_F_STR("field", ast_buf_view(&e->field)),
                   AST_F_STR("env_type", e->found.type),
                   AST_F_STR("value_fingerprint", fingerprint(e, print)));
}

static void write_reply(struct gw_task *t)
{
    struct env *e = AST_CONTAINER_OF(t, struct env, task);
    if (e->outcome)
        reply_failure(e);
    else
        gw_reply(&t->call, 204, AST_STR_NONE, AST_STR_NONE);
}

/* False: a 400 was sent. */
static bool read_value(struct gw_call *call, struct env *e)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_err err = AST_ERR_INIT;
    struct ast_str value;
    if (!gw_body_object(call, &doc))
        return false;
    if (gw_body_string(ast_json_root(doc), AST_STR("value"), &value, &err)) {
        gw_reply_bad_request(call, "invalid JSON: %s", err.msg);
        return false;
    }
    if (!ast_buf_add(&e->value, value))
        return true;
    gw_reply_internal(call, "out of memory");
    return false;
}

void gw_post_env(struct gw_call *call)
{
    if (!gw_caller_enabled(call)) {
        ast_metric_add(call->g->auth_failures, 1);
        gw_reply_unauthorized(call);
        return;
    }
    AST_AUTO(env_drop) struct env *e = env_new(call, write_work, write_reply);
    if (e && read_name(call, 1, "env field name", &e->field) && read_value(call, e) &&
        read_name(call, 0, "capsule id", &e->capsule))
        gw_task_start(call, &ast_steal(&e)->task);
}
