/* Admin requests of the active agent (spec 08 §1.5): build one, send it, read its answer. One thread. */
#pragma once

#include "cli/cli.h"
#include "uplink/client.h"

struct cli_admin {
    struct ast_buf body;
    struct ast_jw w; /* inside "params": add members with it */
    char id[AST_UUID_TEXT];
};

/* Starts a request; cli_admin_send() frees it. */
void cli_admin_begin(struct cli_admin *a, const char *method);
/* Adds "key":[..]: the pieces of a repeatable option. */
void cli_admin_list(struct cli_admin *a, const struct cli *cli, const char *key,
                    const char *option);

/* Sends, waits up to 15 s for the answer of the same id. `as`: who asks; NULL: the active agent.
 * *ret is the answer's data when its status is `status` ("Success"), borrowed from `frame`.
 * Errors: "kernel rejected request: ...", what to do when no daemon answers. */
AST_MUST_CHECK
enum ast_rc cli_admin_send(struct cli *cli, struct cli_admin *a, const char *suffix,
                           const char *status, const struct ast_principal *as,
                           struct ast_uplink_frame *frame, const struct ast_json **ret,
                           struct ast_err *err);
/* A change whose answer is only good news: CLI_OK, or the error was told. */
int cli_admin_change(struct cli *cli, struct cli_admin *a, const char *suffix);

/* The row of `list` whose member `key` is `name`; NULL: none. */
const struct ast_json *cli_admin_row(const struct ast_json *list, struct ast_str key,
                                     struct ast_str name);

/* quota.c: limits given as options of `agent create` and `quota set`. */
struct cli_quota {
    uint64_t memory_bytes, timeout_secs, storage_bytes, processes, ipc_bytes, cpu_fuel;
    unsigned given; /* bit i: field i of the table in quota.c */
};
/* Reads what was given; nothing is asked of the daemon. Errors: INVALID. */
AST_MUST_CHECK
enum ast_rc cli_quota_read(const struct cli *cli, struct cli_quota *ret, struct ast_err *err);
unsigned cli_quota_count(const struct cli_quota *q);
/* The present limits with the given ones in their place. */
AST_MUST_CHECK
enum ast_rc cli_quota_apply(struct cli *cli, const struct cli_quota *q,
                            const struct ast_principal *who, struct ast_err *err);
