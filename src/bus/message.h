/* One published item: immutable after publishing, shared by reference count.
 *
 * IPC messages carry a topic; lifecycle and custom events carry their event type in its place
 * (spec 04 §3) and is_ipc is false.
 * Threads: any; all fields are read-only once ast_bus_publish() took the message.
 */
#pragma once

#include <stdatomic.h>

#include "base/id.h"
#include "base/uuid.h"
#include "bus/payload.h"

#define AST_MSG_MAX_PAYLOAD 1048576u /* guest publish, spec 04 §20 */
#define AST_MSG_MAX_BODY    52428800u /* any message: the largest frame a client reads, spec 01 §4.1 */

struct ast_msg {
    atomic_uint refs;
    bool is_ipc;
    bool claimed;               /* published through publish-as; both identities are known */
    uint8_t depth;              /* hops from the first cause; counted and logged only */
    uint8_t block;              /* where its memory came from */
    enum ast_payload_kind kind; /* IPC only */
    uint64_t seq;               /* written by the bus at publish */
    int64_t wall_ns;            /* creation time at the publisher */
    struct ast_uuid source_id;  /* nil: kernel or gateway */
    struct ast_str topic;       /* borrowed from the message itself, like all views below */
    struct ast_str body;        /* guest bytes (IPC) or the event's JSON */
    struct ast_str principal;   /* empty: system */
    struct ast_str session;     /* top-level string member session_id of the body; empty: none */
    struct ast_str publisher;   /* capsule id of the publisher; empty: not a capsule */
    const char *origin;         /* metadata source label, static text (spec 04 §5.6) */
    struct ast_msg *bus_next;   /* the bus's own link while a publish waits for an outer one */
};

struct ast_msg *ast_msg_ref(struct ast_msg *m);
void ast_msg_unref(struct ast_msg *m); /* NULL is fine */
AST_DEFINE_AUTO(struct ast_msg, ast_msg_unref)

struct ast_msg_spec {
    struct ast_str topic;
    struct ast_str principal; /* empty: system */
    struct ast_str publisher;
    struct ast_uuid source_id;
    const char *origin; /* static text; NULL = "unknown" */
    bool claimed;
    uint8_t depth;
};

/* From JSON text, as a guest or client publishes it: parsed, classified, normalised.
 * Errors: INVALID not JSON; TOO_LARGE. */
AST_MUST_CHECK
enum ast_rc ast_msg_from_json(const struct ast_msg_spec *spec, struct ast_str json,
                              struct ast_msg **ret, struct ast_err *err);
/* From a parsed value (a socket frame's payload member). */
AST_MUST_CHECK
enum ast_rc ast_msg_from_value(const struct ast_msg_spec *spec, const struct ast_json *value,
                               struct ast_msg **ret, struct ast_err *err);
/* From trusted guest bytes that need no normalisation (the kernel's own messages). */
AST_MUST_CHECK
enum ast_rc ast_msg_trusted(const struct ast_msg_spec *spec, enum ast_payload_kind kind,
                            struct ast_str body, struct ast_msg **ret, struct ast_err *err);

/* Size charged to queues: guest bytes plus topic (spec 04 §7.2). */
static inline size_t ast_msg_cost(const struct ast_msg *m)
{
    return m->body.n + m->topic.n;
}
