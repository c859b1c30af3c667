/* Finding, starting and stopping the daemon (spec 08 §4, spec 01 §19). */
#pragma once

#include "cli/cli.h"
#include "uplink/client.h"

enum cli_daemon_state {
    CLI_DAEMON_NONE,  /* no socket file */
    CLI_DAEMON_STALE, /* a file nobody listens on */
    CLI_DAEMON_UP,
    CLI_DAEMON_UNCLEAR, /* something else is wrong: *err says what */
};
enum cli_daemon_state cli_daemon_probe(struct cli *cli, struct ast_err *err);

/* Removes what a dead daemon left, spawns astrid-daemon in a session of its own and waits until it is ready (10 s).
 * Of several at once one spawns, the others wait for it: *ret_found says that a daemon was there. */
enum ast_rc cli_daemon_spawn(struct cli *cli, bool ephemeral, bool *ret_found, struct ast_err *err);

/* A connection to the daemon that runs; else an error that says how to start one. */
AST_MUST_CHECK
enum ast_rc cli_connect(struct cli *cli, struct ast_uplink_client **ret, struct ast_err *err);

/* A connection; starts an ephemeral daemon when none runs. */
enum ast_rc cli_daemon_connect(struct cli *cli, struct ast_uplink_client **ret,
                               struct ast_err *err);

/* A kernel request of `who`; empty: unstamped, as the daemon verbs ask (spec 08 §1.4). *ret is the answer's "data" half,
 * borrowed from `frame`. A refusal becomes DENIED "kernel rejected request: ...". */
enum ast_rc cli_request_as(struct ast_uplink_client *c, struct ast_str who, const char *suffix,
                           struct ast_str request, int64_t timeout_ms,
                           struct ast_uplink_frame *frame, const struct ast_json **ret,
                           struct ast_err *err);
/* The same of the active agent. */
enum ast_rc cli_request(struct cli *cli, struct ast_uplink_client *c, const char *suffix,
                        struct ast_str request, int64_t timeout_ms, struct ast_uplink_frame *frame,
                        const struct ast_json **ret, struct ast_err *err);

/* Removes a dead daemon's socket and sentinel, only while holding the singleton lock. */
enum ast_rc cli_daemon_clean(struct cli *cli, struct ast_err *err);
/* Waits until the socket file is gone; false when it is still there after `ms`. */
bool cli_daemon_wait_gone(struct cli *cli, int64_t ms);
