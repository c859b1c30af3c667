/* Messages: one allocation holds the struct and every text it shows.
 *
 * Guest JSON is parsed once and normalised in a scratch buffer of the thread, which is never held
 * across anything but the copy into the message.
 */
#include "bus/message.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/time.h"
#include "bus/blocks_priv.h"
#include "bus/payload_priv.h"

#include "base/banned.h"

#define SCRATCH_KEEP 262144u /* a larger scratch buffer is given back at once */

static pthread_key_t scratch_key;
static bool scratch_key_ok;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void scratch_release(void *buf)
{
    ast_buf_done(buf);
}

static void scratch_init(void)
{
    scratch_key_ok = pthread_key_create(&scratch_key, scratch_release) == 0;
}

/* Empty, with the thread's memory. The thread's end releases it. */
static struct ast_buf *scratch_take(void)
{
    static _Thread_local struct ast_buf scratch = AST_BUF_INIT(AST_MSG_MAX_BODY);
    if (!scratch.p) {
        pthread_once(&scratch_once, scratch_init);
        if (scratch_key_ok)
            (void)pthread_setspecific(scratch_key, &scratch); /* failing leaks at thread end */
    }
    ast_buf_reset(&scratch);
    return &scratch;
}

static void scratch_give_back(struct ast_buf *scratch)
{
    if (scratch->cap > SCRATCH_KEEP)
        ast_buf_done(scratch);
}

/* Copies `s` to *at and moves *at behind it. */
static struct ast_str place(char **at, struct ast_str s)
{
    if (s.n == 0)
        return AST_STR_NONE;
    char *p = *at;
    memcpy(p, s.p, s.n);
    *at = p + s.n;
    return (struct ast_str){ p, s.n };
}

static enum ast_rc msg_new(const struct ast_msg_spec *spec, enum ast_payload_kind kind,
                           struct ast_str body, struct ast_str session, struct ast_msg **ret,
                           struct ast_err *err)
{
    if (body.n > AST_MSG_MAX_BODY)
        return ast_fail(err, AST_E_TOO_LARGE, "message of %zu bytes", body.n);
    size_t texts = body.n + spec->topic.n + spec->principal.n + spec->publisher.n + session.n;
    uint8_t block;
    struct ast_msg *m = bus_block_new(sizeof *m + texts, &block);
    if (!m)
        return ast_fail(err, AST_E_NO_MEMORY, "message of %zu bytes", texts);

    char *at = (char *)(m + 1);
    *m = (struct ast_msg){
        .is_ipc = true,
        .claimed = spec->claimed,
        .depth = spec->depth,
        .block = block,
        .kind = kind,
        .wall_ns = ast_wall_ns(),
        .source_id = spec->source_id,
        .origin = spec->origin ? spec->origin : "unknown",
    };
    atomic_init(&m->refs, 1);
    m->topic = place(&at, spec->topic);
    m->body = place(&at, body);
    m->principal = place(&at, spec->principal);
    m->session = place(&at, session);
    m->publisher = place(&at, spec->publisher);
    *ret = m;
    return AST_OK;
}

enum ast_rc ast_msg_from_value(const struct ast_msg_spec *spec, const struct ast_json *value,
                               struct ast_msg **ret, struct ast_err *err)
{
    struct ast_buf *scratch = scratch_take();
    enum ast_payload_kind kind;
    struct ast_str session;
    enum ast_rc rc = bus_payload_normalise(value, &kind, scratch, &session);
    if (rc)
        rc = ast_fail(err, rc, "payload for '" AST_STR_FMT "'",
                      AST_STR_ARG(ast_str_first(spec->topic, 256)));
    else
        rc = msg_new(spec, kind, ast_buf_view(scratch), session, ret, err);
    scratch_give_back(scratch);
    return rc;
}

enum ast_rc ast_msg_from_json(const struct ast_msg_spec *spec, struct ast_str json,
                              struct ast_msg **ret, struct ast_err *err)
{
    if (json.n > AST_MSG_MAX_BODY)
        return ast_fail(err, AST_E_TOO_LARGE, "payload of %zu bytes", json.n);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    enum ast_rc rc = ast_json_parse(json, &doc, err);
    if (rc)
        return ast_wrap(err, rc, "payload");
    return ast_msg_from_value(spec, ast_json_root(doc), ret, err);
}

/* Whether the text names the member somewhere. Looks for the underscore, which is rare. */
static bool mentions_session(struct ast_str body)
{
    static const char name[] = "\"session_id\"";
    enum { BYTES = sizeof name - 1, BEFORE = 8 }; /* of the name, and in front of its underscore */
    const char *at = body.p, *end = body.n ? body.p + body.n : body.p;
    while (at < end && (at = memchr(at, '_', (size_t)(end - at)))) {
        if (at - body.p >= BEFORE && end - at >= BYTES - BEFORE &&
            memcmp(at - BEFORE, name, BYTES) == 0)
            return true;
        at++;
    }
    return false;
}

enum ast_rc ast_msg_trusted(const struct ast_msg_spec *spec, enum ast_payload_kind kind,
                            struct ast_str body, struct ast_msg **ret, struct ast_err *err)
{
    /* Only a body that names the member is parsed for it. */
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_str session = AST_STR_NONE;
    if (mentions_session(body)) {
        enum ast_rc rc = ast_json_parse(body, &doc, err);
        if (rc)
            return ast_wrap(err, rc, "trusted payload");
        session = ast_json_str_or(ast_json_root(doc), AST_STR("session_id"), AST_STR_NONE);
    }
    return msg_new(spec, kind, body, session, ret, err);
}

struct ast_msg *ast_msg_ref(struct ast_msg *m)
{
    /* Whoever adds a reference holds one: nothing has to be ordered before it. */
    atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    return m;
}

void ast_msg_unref(struct ast_msg *m)
{
    /* Release: our reads end before the last one frees; acquire: the last one sees them ended. */
    if (m && atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) == 1)
        bus_block_free(m, m->block);
}
