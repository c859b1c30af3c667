/* The client side of the socket, blocking, for the command line (spec 01 §4, §11; client texts of §4.5).
 *
 * Depends on base and crypto only. Owner: one thread.
 */
#pragma once

#include "base/home.h"
#include "base/json.h"
#include "base/uuid.h"
#include "crypto/token.h"

struct ast_uplink_client;

AST_MUST_CHECK
enum ast_rc ast_uplink_connect(const struct ast_home *home, struct ast_uplink_client **ret,
                               struct ast_err *err);
void ast_uplink_disconnect(struct ast_uplink_client *c); /* NULL is fine */
AST_DEFINE_AUTO(struct ast_uplink_client, ast_uplink_disconnect)

/* One frame of spec 01 §5.1. `payload_json` is the tagged payload object; principal may be empty. */
AST_MUST_CHECK
enum ast_rc ast_uplink_send(struct ast_uplink_client *c, struct ast_str topic,
                            struct ast_str payload_json, const struct ast_uuid *source,
                            struct ast_str principal, struct ast_err *err);
struct ast_uplink_frame {
    struct ast_json_doc *doc; /* owned; topic and payload borrow from it */
    struct ast_str topic;
    const struct ast_json *payload;
};
void ast_uplink_frame_done(struct ast_uplink_frame *f);
AST_DEFINE_AUTO_VALUE(struct ast_uplink_frame, ast_uplink_frame_done)
/* Waits up to timeout_ms (-1: for ever). TIMEOUT; CLOSED: the daemon hung up. */
AST_MUST_CHECK
enum ast_rc ast_uplink_recv(struct ast_uplink_client *c, int64_t timeout_ms,
                            struct ast_uplink_frame *ret, struct ast_err *err);
/* Waits, for ever, until there is something to receive (a frame, its beginning, or the end of the connection) or `other`
 * is readable; both may be. */
AST_MUST_CHECK
enum ast_rc ast_uplink_wait(struct ast_uplink_client *c, int other, bool *ret_frame,
                            bool *ret_other, struct ast_err *err);
/* Who sees the frames that come while a request waits for its answer; NULL (at first): nobody. Time spent in `fn` does
 * not count against the request's limit; its error ends the request. */
void ast_uplink_on_other(struct ast_uplink_client *c,
                         enum ast_rc (*fn)(void *arg, const struct ast_uplink_frame *f,
                                           struct ast_err *err),
                         void *arg);
/* A kernel request on a private topic and its answer (spec 01 §9). `request_json`: {"method":..,"params":..}. */
AST_MUST_CHECK
enum ast_rc ast_uplink_request(struct ast_uplink_client *c, struct ast_str suffix,
                               struct ast_str request_json, struct ast_str principal,
                               int64_t timeout_ms, struct ast_uplink_frame *ret,
                               struct ast_err *err);
