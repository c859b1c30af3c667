/* The Astrid home: where everything of one installation lies (spec 01 §2).
 *
 * The root is $ASTRID_HOME, else $HOME/.astrid; texts of the refusals are spec 01 §2.1. A value resolved once
 * is passed around; nobody reads the variables again.
 * Threads: immutable after resolve; any.
 */
#pragma once

#include "base/buf.h"
#include "base/id.h"

struct ast_home {
    char *root; /* absolute, owned */
};

AST_MUST_CHECK
enum ast_rc ast_home_resolve(struct ast_home *ret, struct ast_err *err); /* from the environment */
AST_MUST_CHECK
enum ast_rc ast_home_at(const char *root, struct ast_home *ret, struct ast_err *err);
void ast_home_done(struct ast_home *h);
AST_DEFINE_AUTO_VALUE(struct ast_home, ast_home_done)

/* Creates the tree of spec 01 §2.2 (rows E), every directory 0700 from birth; repeats harmlessly. */
AST_MUST_CHECK
enum ast_rc ast_home_ensure(const struct ast_home *h, struct ast_err *err);
/* Rows P: one principal's home. */
AST_MUST_CHECK
enum ast_rc ast_home_ensure_principal(const struct ast_home *h, struct ast_str principal,
                                      struct ast_err *err);

/* "<root>/<formatted>"; NULL when out of memory. free() it. */
char *ast_home_path(const struct ast_home *h, const char *fmt, ...) AST_PRINTF(2, 3);

/* The fixed names, relative to the root. */
#define AST_HOME_SOCKET         "run/system.sock"
#define AST_HOME_LOCK           "run/system.lock"
#define AST_HOME_TOKEN          "run/system.token"
#define AST_HOME_READY          "run/system.ready"
#define AST_HOME_RUNTIME_KEY    "keys/runtime.key"
#define AST_HOME_GATEWAY_KEY    "keys/gateway.ed25519"
#define AST_HOME_GATEWAY_CONFIG "etc/gateway-http.toml"
#define AST_HOME_GROUPS         "etc/groups.toml"
#define AST_HOME_PROFILES       "etc/profiles"
#define AST_HOME_STORE          "var/astrid.lmdb" /* ours; the original's var/state.db is never touched */
#define AST_HOME_CODE_CACHE     "var/code-cache"
#define AST_HOME_BIN            "bin"
#define AST_HOME_WIT            "wit"
#define AST_HOME_LOG            "log"
