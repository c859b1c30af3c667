/* A prompt stream's view of the bus: which messages it shows, and how (spec 03 §22). */
#pragma once

#include "base/uuid.h"
#include "bus/message.h"

struct gw_prompt_request {
    struct ast_str text, session;   /* session: empty when a fresh one is wanted */
    const struct ast_json *context; /* NULL: none */
};
/* The body of POST /api/agent/prompt. Views into `doc`. Errors: the reason behind "invalid JSON: ". */
AST_MUST_CHECK
enum ast_rc gw_prompt_parse(struct ast_str body, struct ast_json_doc **ret_doc,
                            struct gw_prompt_request *ret, struct ast_err *err);
/* The guest bytes of the user_input message. */
AST_MUST_CHECK
enum ast_rc gw_prompt_print(const struct gw_prompt_request *p, struct ast_str session,
                            struct ast_buf *out, struct ast_err *err);

/* The event name of a topic; NULL: not shown. */
const char *gw_prompt_event(struct ast_str topic);

struct gw_prompt_scope {
    struct ast_str principal, session;
    bool sees_elicits; /* of nobody in particular */
};
/* Whether the stream shows `m`; its principal is the caller's or none already. Any thread. */
bool gw_prompt_shows(const struct gw_prompt_scope *scope, const struct ast_msg *m);

/* "event: <name>\ndata: <json>\n\n". */
void gw_sse_event(struct ast_buf *out, const char *name, struct ast_str json);
void gw_sse_message(struct ast_buf *out, const char *name, const struct ast_msg *m);
