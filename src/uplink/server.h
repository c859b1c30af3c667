/* The Unix socket: framing, handshake and the native bridge between clients and the bus (spec 01 §3, §4, §8).
 *
 * Event-driven on the main loop; every connection has its own input buffer and its own bounded output queue, so a slow
 * or silent client hurts nobody else. Delivery follows spec 01 §8.5 (by principal and session, only messages published
 * after authentication).
 */
#pragma once

#include "kernel/kernel.h"

#define AST_UPLINK_MAX_CLIENTS      64u /* when the settings name no other number */
#define AST_UPLINK_MAX_QUEUE_BYTES  (16u * 1024 * 1024)
#define AST_UPLINK_MAX_QUEUE_FRAMES 1024u

struct ast_uplink_server;

struct ast_uplink_config {
    unsigned max_clients; /* authenticated ones; 0: AST_UPLINK_MAX_CLIENTS */
    /* Approval and install questions go only to connections that use the principal asked for; else to every authenticated
     * one, since an operator may answer for others (spec 01 §8.5 N3). */
    bool own_questions_only;
};

/* Cleans the path by spec 01 §3.1, binds, listens. The singleton lock is already held by the kernel. Raises the process's
 * limit of open files when it is too low for that many clients; a clear warning when that is not possible. */
AST_MUST_CHECK
enum ast_rc ast_uplink_listen(struct ast_kernel *k, struct ast_loop *loop,
                              const struct ast_uplink_config *cfg, struct ast_uplink_server **ret,
                              struct ast_err *err);
/* Flushes client queues (at most 1 s), hangs up, stops listening. The socket file stays: its disappearance tells clients that
 * the store is closed and a new daemon may start (spec 01 §16.5), so ast_uplink_free() comes after the kernel is gone. */
void ast_uplink_close(struct ast_uplink_server *s);
/* Removes the socket file if it is still ours, frees. NULL is fine. */
void ast_uplink_free(struct ast_uplink_server *s);
