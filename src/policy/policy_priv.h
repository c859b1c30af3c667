/* Shared inside policy: quoting for messages, the groups table, typed reads of TOML documents. */
#pragma once

#include "base/buf.h"
#include "base/map.h"
#include "base/thread.h"
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

/* Refuses members of `object` that `known` does not list. */
enum ast_rc policy_known_keys(const struct ast_json *object, const struct ast_str *known,
                              size_t count, struct ast_err *err);

/* The document of spec 02 §3.2, validated. */
enum ast_rc policy_print_profile(const struct ast_profile *p, struct ast_buf *out,
                                 struct ast_err *err);

/* What a principal without a file has; NULL when out of memory. */
struct ast_profile *policy_profile_default(void);

/* Built-in groups first, custom ones by name. Immutable once shared. */
struct policy_groups {
    atomic_uint refs;
    AST_VEC(struct ast_group) v;
};

/* One reference; NULL after a failure. */
enum ast_rc policy_groups_load(const char *path, struct policy_groups **ret, struct ast_err *err);
struct policy_groups *policy_groups_ref(struct policy_groups *g);
void policy_groups_unref(struct policy_groups *g);
AST_DEFINE_AUTO(struct policy_groups, policy_groups_unref)
const struct ast_group *policy_groups_find(const struct policy_groups *g, struct ast_str name);

/* A set that differs in one group: `group` replaces the one of that name or is added; NULL removes `name`.
 * A universal pattern needs unsafe_admin here, also where an old file gets away with a warning. */
enum ast_rc policy_groups_with(const struct policy_groups *g, struct ast_str name,
                               const struct ast_group *group, struct policy_groups **ret,
                               struct ast_err *err);
/* The custom groups as groups.toml (0600, fsync, rename); none gives an empty file. */
enum ast_rc policy_groups_save(const char *path, const struct policy_groups *g,
                               struct ast_err *err);

/* Grows by copies; false: out of memory. */
bool policy_strings_copy(const struct ast_strings *from, struct ast_strings *to);
/* `key = [..]` in the original's layout. */
void policy_print_list(struct ast_buf *out, const char *key, const struct ast_strings *list);

#define POLICY_MAX_CACHED 65536u

/* Under the policy's lock. */
struct cache_entry {
    struct ast_profile *profile; /* one reference; NULL after an invalidation */
    uint64_t generation;         /* raised by each invalidation */
};

/* Who has a profile file. Valid while nobody but us changed the directory. */
struct policy_roster {
    struct ast_strings names; /* ascending */
    bool valid;
    int64_t changed_ns; /* the directory's change time when it was read */
};

/* Owner: any thread. */
struct ast_policy {
    const struct ast_home *home;
    bool (*is_removed)(void *arg,
                       struct ast_str principal); /* immutable after open; NULL: nobody */
    void *is_removed_arg;
    struct ast_lock lock;
    struct policy_groups *groups AST_GUARDED_BY(lock); /* one reference */
    struct ast_map entries AST_GUARDED_BY(lock);       /* principal -> struct cache_entry */
    struct policy_roster roster AST_GUARDED_BY(lock);
    uint64_t roster_generation AST_GUARDED_BY(lock); /* raised by each profile made or removed */
};

enum ast_rc policy_load_profile(struct ast_policy *p, struct ast_str principal,
                                struct ast_profile **ret, struct ast_err *err);
void policy_roster_done(struct ast_policy *p);
