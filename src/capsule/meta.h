/* meta.json of an installed capsule (spec 07 §10). */
#pragma once

#include "capsule/manifest.h"

struct ast_meta_wit {
    struct ast_str path, hash;
};

struct ast_meta {
    struct ast_str version, installed_at, updated_at, source, wasm_hash; /* empty: absent */
    struct ast_manifest_interface *imports, *exports;
    size_t import_count, export_count;
    struct ast_meta_wit *wit_files;
    size_t wit_file_count;
    void *memory; /* private */
};
void ast_meta_free(struct ast_meta *m);
AST_DEFINE_AUTO(struct ast_meta, ast_meta_free)

/* NOT_FOUND when absent; INVALID when unreadable (callers treat both as "no metadata"). */
AST_MUST_CHECK
enum ast_rc ast_meta_load(const char *dir, struct ast_meta **ret, struct ast_err *err);
/* Pretty JSON, two spaces, no trailing newline, 0600, temp file and rename. */
AST_MUST_CHECK
enum ast_rc ast_meta_save(const char *dir, const struct ast_meta *m, struct ast_err *err);
