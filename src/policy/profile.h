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

/* Immutable once shared. */
struct ast_profile {
    atomic_uint refs;
    uint32_t version;
    bool enabled;
    bool exists; /* false: no file, defaults apply */
    struct ast_strings groups, grants, revokes;
    struct ast_strings auth_methods, public_keys, egress, process_allow;
    struct ast_quotas quotas;
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

/* Profiles and groups of one home. */
struct ast_policy;
AST_MUST_CHECK
enum ast_rc ast_policy_open(const struct ast_home *home, struct ast_policy **ret,
                            struct ast_err *err);
void ast_policy_close(struct ast_policy *p);
AST_DEFINE_AUTO(struct ast_policy, ast_policy_close)

/* The principal's profile; a missing file gives defaults. The caller owns the reference. */
AST_MUST_CHECK
enum ast_rc ast_policy_profile(struct ast_policy *p, struct ast_str principal,
                               struct ast_profile **ret, struct ast_err *err);
/* Call after changing the file: drops the cached entry and raises the generation. */
void ast_policy_invalidate(struct ast_policy *p, struct ast_str principal);

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
