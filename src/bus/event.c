/* Lifecycle events: names of the closed set of kinds, and the event's JSON (spec 04 §3). */
#include "bus/event.h"

#include "base/json.h"
#include "base/time.h"
#include "bus/bus_priv.h"

#include "base/banned.h"

#define EVENT_MAX 1048576u /* bytes of one event's JSON */
#define LIFECYCLE "astrid.v1.lifecycle."

static const struct ast_str types[AST_EVENT_KIND_COUNT] = {
#define X(tag) [AST_EVENT_##tag] = AST_STR(LIFECYCLE #tag),
    AST_EVENT_MAP(X)
#undef X
};

/* The two kinds that are named without the prefix. */
static struct ast_str bare_tag(enum ast_event_kind kind)
{
    return ast_str_from(types[kind], sizeof LIFECYCLE - 1);
}

struct ast_str ast_event_type(enum ast_event_kind kind)
{
    AST_ASSERT(kind < AST_EVENT_KIND_COUNT);
    return kind == AST_EVENT_ipc || kind == AST_EVENT_custom ? bare_tag(kind) : types[kind];
}

enum ast_event_kind bus_event_kind(const struct ast_msg *m)
{
    if (m->is_ipc)
        return AST_EVENT_ipc;
    for (unsigned kind = 0; kind < AST_EVENT_KIND_COUNT; kind++)
        if (ast_str_eq(types[kind], m->topic))
            return (enum ast_event_kind)kind;
    return AST_EVENT_custom;
}

const char *ast_event_label(const struct ast_msg *m)
{
    return ast_event_type(bus_event_kind(m)).p;
}

static void write_metadata(struct ast_buf *out, const char *source)
{
    struct ast_uuid id = ast_uuid_v4();
    char id_text[AST_UUID_TEXT], when[AST_RFC3339_BYTES];
    struct ast_jw w = AST_JW_INIT(out);
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "event_id", ast_uuid_format(&id, id_text));
    ast_jw_kv_string(&w, "timestamp", ast_time_format(ast_wall_ns(), AST_TIME_Z, when));
    ast_jw_kv_null(&w, "correlation_id");
    ast_jw_kv_null(&w, "session_id");
    ast_jw_kv_null(&w, "user_id");
    ast_jw_kv_string(&w, "source", ast_str_c(source ? source : "unknown"));
    ast_jw_end(&w);
}

enum ast_rc ast_event_new(enum ast_event_kind kind, const char *source, struct ast_str fields,
                          struct ast_msg **ret, struct ast_err *err)
{
    AST_ASSERT(kind < AST_EVENT_KIND_COUNT && kind != AST_EVENT_ipc);
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(EVENT_MAX);
    ast_buf_add_lit(&body, "{\"type\":\"");
    ast_buf_add(&body, bare_tag(kind));
    ast_buf_add_lit(&body, "\",\"metadata\":");
    write_metadata(&body, source);
    if (fields.n)
        ast_buf_add_byte(&body, ',');
    ast_buf_add(&body, fields);
    ast_buf_add_byte(&body, '}');
    enum ast_rc rc = ast_buf_check(&body, "lifecycle event", err);
    if (rc)
        return rc;

    struct ast_msg_spec spec = { .topic = ast_event_type(kind), .origin = source };
    struct ast_msg *m = NULL;
    rc = ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_buf_view(&body), &m, err);
    if (rc)
        return rc;
    m->is_ipc = false;
    *ret = m;
    return AST_OK;
}
