/* Shared inside policy: quoting for messages, the groups table, typed reads of TOML documents. */
#pragma once

#include "base/buf.h"
#include "base/vec.h"
#include "policy/profile.h"

#define POLICY_MAX_FILE       (1024u * 1024)
#define POLICY_MAX_GROUP_NAME 64u

/* The quoted form of a string in messages: double quotes, backslash escapes. Cut when it does not fit. */
#define POLICY_QUOTE_BYTES 600
const char *policy_quote(struct ast_str s, char out[static POLICY_QUOTE_BYTES]);

/* Copies an array of strings; false with *bad set when an element is not a string. */
enum ast_rc policy_strings_read(const struct ast_json *array, const char *key,
                                struct ast_strings *ret, struct ast_err *err);
void policy_strings_done(struct ast_strings *s);
bool policy_strings_add(struct ast_strings *s, struct ast_str value); /* false: out of memory */

/* Refuses members of `object` that `known` does not list. */
enum ast_rc policy_known_keys(const struct ast_json *object, const struct ast_str *known,
                              size_t count, struct ast_err *err);

/* What a principal without a file has; NULL when out of memory. */
struct ast_profile *policy_profile_default(void);

struct policy_group {
    struct ast_str name,
        description; /* owned; description may be empty with has_description false */
    bool has_description, unsafe_admin, builtin;
    struct ast_strings capabilities;
};

/* Built-in groups first, custom ones by name. Immutable after loading. */
struct policy_groups {
    AST_VEC(struct policy_group) v;
};

enum ast_rc policy_groups_load(const char *path, struct policy_groups *ret, struct ast_err *err);
void policy_groups_done(struct policy_groups *g);
const struct policy_group *policy_groups_find(const struct policy_groups *g, struct ast_str name);
