/* A capsule project on disk and how it becomes an archive (spec 07 §15). Private to astrid-build. */
#pragma once

#include "capsule/manifest.h"

struct build_project {
    char *dir;
    struct ast_manifest *manifest;
    char *wasm; /* where the component is or will be; owned */
    char **sources;
    size_t source_count; /* C files to compile; 0: the component must be there already */
};

void build_project_done(struct build_project *p);
AST_DEFINE_AUTO_VALUE(struct build_project, build_project_done)

/* Detects the kind in the order of spec 07 §15; kinds that this build cannot make are an UNSUPPORTED error naming them. */
enum ast_rc build_project_open(const char *dir, struct build_project *ret, struct ast_err *err);
/* Compiles the C sources when there are any; compiler messages go to stderr. */
enum ast_rc build_project_compile(struct build_project *p, struct ast_err *err);
/* Wraps a core module into a component when wasm-tools is there; *ret_wrapped tells. Both forms load. */
enum ast_rc build_project_wrap(struct build_project *p, bool *ret_wrapped, struct ast_err *err);
/* Checks the component and packs <out_dir>/<name>.capsule; *ret_path is owned by the caller. */
enum ast_rc build_project_pack(struct build_project *p, const char *out_dir, char **ret_path,
                               struct ast_err *err);
