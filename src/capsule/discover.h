/* Which capsules are installed, and in which order they load (spec 07 §4). */
#pragma once

#include "base/home.h"
#include "capsule/manifest.h"

struct ast_discovered {
    char *dir;                     /* capsule directory, owned */
    struct ast_manifest *manifest; /* owned */
};
struct ast_discovery {
    struct ast_discovered *v; /* owned */
    size_t n;
};
void ast_discovery_done(struct ast_discovery *d);
AST_DEFINE_AUTO_VALUE(struct ast_discovery, ast_discovery_done)

/* User-level capsules, then <workspace>/.astrid/capsules when `workspace` is not NULL (the opt-in is the caller's).
 * Entries sorted by name; ".bak" and staging folders skipped; broken manifests are warnings. */
AST_MUST_CHECK
enum ast_rc ast_discover(const struct ast_home *home, const char *workspace,
                         struct ast_discovery *ret, struct ast_err *err);

/* Sorts in place: Kahn's order over imports and exports, uplinks first (spec 07 §4.2, §4.4). A cycle logs the nodes
 * involved and keeps discovery order. */
void ast_discovery_sort(struct ast_discovery *d);
/* The log-only checks of spec 07 §4.3. */
void ast_discovery_validate(const struct ast_discovery *d);
