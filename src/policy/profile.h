/* Principals' profiles and groups: who may do what, and how much (spec 02 §3, §4, §8, §9).
 *
 * Profiles are files under etc/profiles, groups are etc/groups.toml; both stay the original's format. The
 * cache hands out immutable snapshots; a change drops the entry and raises the principal's generation, so a
 * load that raced with the change is never stored (spec README §5 gap 30). Everything fails closed: a profile
 * that cannot be read denies.
 * Threads: any.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "base/home.h"
#include "base/json.h"

struct ast_quotas {
    uint64_t max_memory_bytes;
    uint64_t max_timeout_secs;
    uint64_t max_ipc_throughput_bytes;
    uint64_t max_background_processes;
    uint64_t max_storage_bytes;
    uint64_t max_cpu_fuel_per_sec;
};
#define AST_QUOTAS_DEFAULT                                                                         \
    {                                                                                              \
        67108864, 300, 10485760, 8, 1073741824, 2000000000                                         \
    }

struct ast_strings {
    struct ast_str *v; /* owned array of owned NUL-terminated strings */
    size_t n;
};

bool ast_strings_add(struct ast_strings *s, struct ast_str value); /* false: out of memory */
bool ast_strings_has(const struct ast_strings *s, struct ast_str value);
void ast_strings_done(struct ast_strings *s);
AST_DEFINE_AUTO_VALUE(struct ast_strings, ast_strings_done)

/* Immutable once shared. */
struct ast_profile {
    atomic_uint refs;
    uint32_t version;
    bool enabled;
    bool exists;     /* false: no file, defaults apply */
    bool is_removed; /* no file, because the principal was deleted: nothing runs for it */
    struct ast_strings groups, grants, revokes;
    struct ast_strings auth_methods, public_keys, egress, process_allow;
    struct ast_quotas quotas;
    atomic_bool told_unknown_group; /* the log has the warning, once a load */
};

struct ast_profile *ast_profile_ref(struct ast_profile *p);
void ast_profile_unref(struct ast_profile *p);
AST_DEFINE_AUTO(struct ast_profile, ast_profile_unref)

/* Texts of spec 02 §3.1, §3.3. */
AST_MUST_CHECK
enum ast_rc ast_profile_parse(struct ast_str toml, struct ast_profile **ret, struct ast_err *err);
/* Validates and writes the document of spec 02 §3.2 (0600, fsync, rename). */
AST_MUST_CHECK
enum ast_rc ast_profile_save(const char *path, const struct ast_profile *p, struct ast_err *err);

/* A copy of one's own to edit; it counts as existing. NULL: out of memory. */
struct ast_profile *ast_profile_copy(const struct ast_profile *p);
/* "profile validation error: ..." (spec 02 §3.3, §4). */
AST_MUST_CHECK
enum ast_rc ast_profile_check(const struct ast_profile *p, struct ast_err *err);

/* The JSON object of spec 02 §4: omitted members take their default, unknown ones are INVALID. Ranges are not looked at. */
AST_MUST_CHECK
enum ast_rc ast_quotas_read(const struct ast_json *object, struct ast_quotas *ret,
                            struct ast_err *err);
AST_MUST_CHECK
enum ast_rc ast_quotas_check(const struct ast_quotas *q, struct ast_err *err);
void ast_quotas_json(const struct ast_quotas *q, struct ast_jw *w);
/* The name of the first ceiling that is higher in `b`; NULL when none is. */
const char *ast_quotas_raised(const struct ast_quotas *a, const struct ast_quotas *b);

/* A group; built-in ones are in no file. */
struct ast_group {
    struct ast_str name, description; /* owned; without has_description empty */
    bool has_description, unsafe_admin, builtin;
    struct ast_strings capabilities;
};

/* Profiles and groups of one home. */
struct ast_policy;
AST_MUST_CHECK
enum ast_rc ast_policy_open(const struct ast_home *home, struct ast_policy **ret,
                            struct ast_err *err);
void ast_policy_close(struct ast_policy *p);
AST_DEFINE_AUTO(struct ast_policy, ast_policy_close)

/* Asked about principals without a file, on any thread that reads a profile: was it deleted? Before anybody reads. */
void ast_policy_ask_removed(struct ast_policy *p,
                            bool (*is_removed)(void *arg, struct ast_str principal), void *arg);

/* The principal's profile; a missing file gives defaults. The caller owns the reference. */
AST_MUST_CHECK
enum ast_rc ast_policy_profile(struct ast_policy *p, struct ast_str principal,
                               struct ast_profile **ret, struct ast_err *err);
/* Call after changing the file: drops the cached entry and raises the generation. */
void ast_policy_invalidate(struct ast_policy *p, struct ast_str principal);

/* ---- changes: one thread at a time (the kernel's); readers go on meanwhile ----
 * When one returns AST_OK, no later check uses what was before. */

/* "<root>/etc/profiles/<principal>.toml"; NULL when out of memory. free() it. */
char *ast_policy_profile_path(struct ast_policy *p, struct ast_str principal);
AST_MUST_CHECK
enum ast_rc ast_policy_set_profile(struct ast_policy *p, struct ast_str principal,
                                   const struct ast_profile *profile, struct ast_err *err);
/* Profiles of principals that have none, durable together; each has its own fate. `meanwhile` is called for each while the
 * disk is busy, before the profile is there; its failure is that principal's. */
struct ast_policy_newcomer {
    struct ast_str principal; /* in */
    const struct ast_profile *profile;
    enum ast_rc rc; /* in: not OK skips it */
    struct ast_err err;
};
void ast_policy_add_profiles(struct ast_policy *p, struct ast_policy_newcomer *v, size_t n,
                             enum ast_rc (*meanwhile)(void *arg, size_t i, struct ast_err *err),
                             void *arg);
/* A missing file is fine. */
AST_MUST_CHECK
enum ast_rc ast_policy_remove_profile(struct ast_policy *p, struct ast_str principal,
                                      struct ast_err *err);
/* Principals with a profile file, ascending. Unreadable profiles are skipped with a warning; `each` false stops. */
AST_MUST_CHECK
enum ast_rc ast_policy_each_profile(struct ast_policy *p,
                                    bool (*each)(void *arg, struct ast_str principal,
                                                 const struct ast_profile *profile),
                                    void *arg, struct ast_err *err);

/* The group errors of spec 02 §8.2; a failed write says "groups.toml save failed: ..." and is AST_E_IO. */
AST_MUST_CHECK
enum ast_rc ast_policy_group_create(struct ast_policy *p, const struct ast_group *g,
                                    struct ast_err *err);
AST_MUST_CHECK
enum ast_rc ast_policy_group_delete(struct ast_policy *p, struct ast_str name, struct ast_err *err);
/* NULL keeps; an empty description clears it. */
struct ast_group_change {
    const struct ast_strings *capabilities;
    const struct ast_str *description;
    const bool *unsafe_admin;
};
AST_MUST_CHECK
enum ast_rc ast_policy_group_modify(struct ast_policy *p, struct ast_str name,
                                    const struct ast_group_change *change, struct ast_err *err);
/* In one snapshot, ascending by name. */
void ast_policy_each_group(struct ast_policy *p, bool (*each)(void *arg, const struct ast_group *g),
                           void *arg);

/* NOT_FOUND "group "x" is not defined ..." (spec 02 §18.3) when there is no such group. */
AST_MUST_CHECK
enum ast_rc ast_policy_group_require(struct ast_policy *p, struct ast_str name,
                                     struct ast_err *err);

/* Whether `principal` may confer these capabilities and the capabilities of these groups on somebody: what lies beyond
 * self: and delegate:self: it must hold itself, or hold `*` (spec README §5 gap 16). Unknown groups confer nothing. */
AST_MUST_CHECK
enum ast_rc ast_policy_may_confer(struct ast_policy *p, struct ast_str principal,
                                  const struct ast_strings *capabilities,
                                  const struct ast_strings *groups, struct ast_err *err);
/* Only '*' segments: universal administration, whatever its length. */
bool ast_policy_is_universal(struct ast_str cap);

/* The three denial texts of spec 02 §9 with AST_E_DENIED; an unreadable profile counts as missing. */
AST_MUST_CHECK
enum ast_rc ast_policy_check(struct ast_policy *p, struct ast_str principal, struct ast_str cap,
                             struct ast_err *err);
bool ast_policy_holds(struct ast_policy *p, struct ast_str principal, struct ast_str cap);
/* Any of system:resources:unbounded, net_bind, uplink (spec 02 §9.3). */
bool ast_policy_exempt(struct ast_policy *p, struct ast_str principal);

/* First-boot steps of spec 01 §17.3: legacy move, default profile seeded with group admin. Failures are
 * warnings. */
void ast_policy_bootstrap(struct ast_policy *p);
