/* The HTTP gateway: an HTTP/1.1 server inside the daemon (spec 03). libwebsockets stays behind gateway/http.c.
 *
 * One event loop a core, sharing the port; each connection lives and dies on its loop. Requests reach the kernel
 * through ast_kernel_request() and the bus; the acting principal comes only from a verified bearer.
 */
#pragma once

#include "kernel/kernel.h"

struct ast_gateway;

/* Reads etc/gateway-http.toml. Outcomes of spec 03 §3: no file or disabled: OK with *ret NULL; bad file: logged, OK with
 * *ret NULL; state that cannot be built (signing key, revocations): an error, before readiness. Listening starts here. */
AST_MUST_CHECK
enum ast_rc ast_gateway_start(struct ast_kernel *k, struct ast_gateway **ret, struct ast_err *err);
void ast_gateway_stop(struct ast_gateway *g); /* graceful, bounded; NULL is fine */

/* The bound port (listen may say 0). */
unsigned ast_gateway_port(const struct ast_gateway *g);

/* SIGHUP: reads the TLS certificate and key again, in the background; the log says how it went. NULL is fine. */
void ast_gateway_reload(struct ast_gateway *g);
