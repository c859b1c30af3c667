/* The capabilities that clients can discover (spec 02 §7). The order is part of the contract. */
#pragma once

#include "base/str.h"

struct ast_cap_entry {
    struct ast_str id;
    const char *label, *description;
    const char *category; /* agent, caps, quota, group, invite, capsule, system, approval */
    const char *scope;    /* self, global */
    const char *danger;   /* safe, normal, elevated, extreme */
};

#define AST_CAP_CATALOGUE_LEN 34u
extern const struct ast_cap_entry ast_cap_catalogue[AST_CAP_CATALOGUE_LEN];

/* NULL: not in the catalogue. */
const struct ast_cap_entry *ast_cap_find(struct ast_str id);
