/* Streaming text and the final answer, told as one (spec 01 §8.6): clients append every text they get, so the final
 * answer is cut to what the deltas have not shown yet. One per connection; not thread-safe. */
#pragma once

#include "bus/message.h"

#define AST_RECONCILE_SESSIONS 64u
#define AST_RECONCILE_TEXT     (1024u * 1024)

struct reconcile_entry {
    char *session;       /* owned; NULL: free slot */
    struct ast_buf text; /* what the deltas showed so far */
};

struct ast_reconcile {
    struct reconcile_entry v[AST_RECONCILE_SESSIONS];
    size_t next_victim;
};

void ast_reconcile_done(struct ast_reconcile *r);

/* A delta that is about to be forwarded. */
void ast_reconcile_delta(struct ast_reconcile *r, const struct ast_msg *msg);

/* The payload to send for an agent.v1.response: `out` gets the rewritten object and true is returned, or false means "as it
 * is". */
bool ast_reconcile_response(struct ast_reconcile *r, const struct ast_msg *msg,
                            struct ast_buf *out);
