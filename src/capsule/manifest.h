/* Capsule.toml (spec 07 §2): the full schema, validated in the order and with the texts of spec 07 §2.10.
 *
 * Unknown keys are ignored; removed forms are reported through `warnings`. A manifest is immutable after
 * loading; all strings are owned by it. Threads: any may read.
 */
#pragma once

#include "base/json.h"
#include "capsule/semver.h"
#include "policy/profile.h" /* struct ast_strings */

#define AST_RUNTIME_VERSION "0.8.0"

struct ast_manifest_component {
    struct ast_str id, file, hash, type;
};

struct ast_manifest_interface {       /* [imports] and [exports] */
    struct ast_str ns, name, version; /* requirement text (imports) or exact version (exports) */
    bool optional;                    /* imports */
};

struct ast_manifest_topic { /* [publish] and [subscribe] */
    struct ast_str pattern, wit;
    struct ast_str handler; /* subscribe; empty: ACL only */
    uint32_t priority;      /* 100 unless given */
    bool fanout;
};

struct ast_manifest_caps {
    bool uplink, allow_persistent, allow_prompt_injection;
    struct ast_strings net, kv, fs_read, fs_write, host_process, net_bind, net_connect, identity;
};

struct ast_manifest_env {
    struct ast_str name, type, request, description, placeholder;
    struct ast_str default_text; /* strings as is, others as JSON text */
    bool has_default, default_is_null;
    struct ast_strings enum_values;
    bool is_secret, is_array; /* type, any letter case */
};

struct ast_manifest_uplink {
    struct ast_str name, platform, profile;
};
struct ast_manifest_command {
    struct ast_str name, description, file;
    bool has_description;
};
struct ast_manifest_mcp {
    struct ast_str id, description, type, command;
    struct ast_strings args;
};

struct ast_manifest {
    struct ast_str name, version, description;
    struct ast_manifest_component *components;
    size_t component_count;
    struct ast_manifest_interface *imports, *exports;
    size_t import_count, export_count;
    struct ast_manifest_topic *publish, *subscribe; /* ascending by pattern */
    size_t publish_count, subscribe_count;
    struct ast_manifest_caps caps;
    struct ast_manifest_env *env; /* ascending by name */
    size_t env_count;
    struct ast_manifest_command *commands;
    size_t command_count;
    struct ast_manifest_uplink *uplinks;
    size_t uplink_count;
    struct ast_manifest_mcp *mcp_servers;
    size_t mcp_server_count;
    /* legacy tables, ignored component capabilities, reserved env keys */
    struct ast_strings warnings;
    void *memory; /* private */
};

void ast_manifest_free(struct ast_manifest *m);
AST_DEFINE_AUTO(struct ast_manifest, ast_manifest_free)

AST_MUST_CHECK
enum ast_rc ast_manifest_parse(struct ast_str toml, struct ast_manifest **ret, struct ast_err *err);
/* Reads <dir>/Capsule.toml; failures read "Failed to parse manifest at <path>: <message>". */
AST_MUST_CHECK
enum ast_rc ast_manifest_load(const char *dir, struct ast_manifest **ret, struct ast_err *err);

/* The held capability names, ascending, into out[11]; returns how many (spec 05 §6.3). Static strings. */
size_t ast_manifest_held(const struct ast_manifest *m, struct ast_str out[static 11]);
