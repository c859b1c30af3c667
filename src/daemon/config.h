/* What the daemon reads of config.toml: [logging], [capsule], [timeouts], [uplink], [identity], [audit], [invites] and gateway.watch_plugins (spec 05 §22.2, 08 §12, §13). Layers: /etc/astrid/config.toml,
 * then <home>/etc/config.toml, then <home>/config.toml, later ones win; then the environment for what no file set. A broken file refuses the
 * start; a bad variable is ignored with a line on stderr (spec README §5 gap 67). */
#pragma once

#include "base/home.h"
#include "base/log.h"
#include "base/vec.h"
#include "kernel/kernel.h"

struct ast_daemon_config {
    enum ast_log_level log_level;
    enum ast_log_format log_format;
    char *log_directives;                    /* owned; NULL: none */
    unsigned pool_max, blocking_max, io_max; /* 0: derived */
    bool shows_claims;                       /* capsule.claimed_attribution */
    unsigned depth_max;                      /* capsule.publish_depth_max; 0: no limit */
    uint64_t kv_value_max;                   /* capsule.kv_value_max_bytes; 0: 10 MiB */
    unsigned approval_secs;                  /* 0: the built-in minute */
    bool own_questions_only;                 /* clients see questions of the principals they use */
    bool audit_fail_open;                    /* fail_closed = false; default: closed */
    unsigned invite_secs;                    /* [invites] default_expires_secs; 0: none */
    unsigned max_clients;                    /* of the socket; 0: the built-in 64 */
    bool agents_may_install;               /* capsule.self_install: self:capsule:install will do */
    AST_VEC(struct ast_kernel_link) links; /* owned, with their texts; the last file that has any */
    bool watch_capsules;                   /* gateway.watch_plugins */
};

#define AST_DAEMON_CONFIG_INIT                                                                     \
    {                                                                                              \
        .log_level = AST_LOG_INFO, .log_format = AST_LOG_COMPACT, .watch_capsules = true           \
    }

void ast_daemon_config_done(struct ast_daemon_config *c);
AST_MUST_CHECK
enum ast_rc ast_daemon_config_load(const struct ast_home *home, const char *workspace,
                                   struct ast_daemon_config *ret, struct ast_err *err);
