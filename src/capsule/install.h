/* Installing a capsule from a folder or a .capsule archive (spec 07 §8 to §11).
 *
 * Ids are checked before the disk is touched; an exclusive lock per capsules directory is held; the tree is
 * staged beside the target, synced and swapped with renames, so a crash leaves the old or the new install;
 * a leftover ".bak" is recovered at the next install or load. Blocks on disk: never on a loop or worker thread.
 */
#pragma once

#include "base/home.h"
#include "capsule/manifest.h"

#define AST_ARCHIVE_MAX_UNPACKED (512ull * 1024 * 1024)
#define AST_ARCHIVE_MAX_ENTRIES  100000u
#define AST_WIT_MAX_BYTES        (1024u * 1024)

struct ast_install_options {
    const char *workspace; /* install into <workspace>/.astrid/capsules; NULL: user level */
    struct ast_str source; /* original source text for meta.json; empty: the path given */
    bool skip_import_check;
    /* Runs the lifecycle hook on the staged bytes; NULL: hooks are skipped with a note in the result. `upgrade` tells
     * which export; previous_version is empty on install. */
    enum ast_rc (*run_hook)(void *arg, const struct ast_manifest *m, struct ast_str wasm,
                            const char *target_dir, bool upgrade, struct ast_str previous_version,
                            struct ast_err *err);
    void *run_hook_arg;
    /* Whether the staged capsule would load; an error leaves the previous install in place. NULL: not asked. */
    enum ast_rc (*try_load)(void *arg, const char *staged_dir, struct ast_err *err);
    void *try_load_arg;
    /* Progress for people: one short line at a time; NULL: none. */
    void (*progress)(void *arg, const char *line);
    void *progress_arg;
};

struct ast_export_conflict {
    struct ast_str interface, existing_capsule;
};

struct ast_install_result {
    char *target_dir; /* owned, like all below */
    bool upgrade;
    char *capsule_id, *installed_version, *previous_version, *wasm_hash, *env_path; /* NULL: null */
    bool env_needs_prompt;
    struct ast_manifest_interface *missing_imports; /* strings owned by `memory` */
    size_t missing_import_count;
    struct ast_export_conflict *export_conflicts;
    size_t export_conflict_count;
    void *memory; /* private */
};
void ast_install_result_done(struct ast_install_result *r);
AST_DEFINE_AUTO_VALUE(struct ast_install_result, ast_install_result_done)

/* `path`: a directory with Capsule.toml or a *.capsule archive. */
AST_MUST_CHECK
enum ast_rc ast_install(const struct ast_home *home, const char *path,
                        const struct ast_install_options *opt, struct ast_install_result *ret,
                        struct ast_err *err);

/* The nine-member object of spec 07 §9.2. */
enum ast_rc ast_install_result_json(const struct ast_install_result *r, struct ast_buf *out);

/* Unpacks into an existing private directory by the rules of spec 07 §8.1. */
AST_MUST_CHECK
enum ast_rc ast_archive_unpack(const char *archive, const char *dir, struct ast_err *err);
/* Packs a directory as the builder does (spec 07 §8): Capsule.toml first, then the .wasm, extras, wit/. */
AST_MUST_CHECK
enum ast_rc ast_archive_pack(const char *dir, const char *archive, struct ast_err *err);
