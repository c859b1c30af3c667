/* Copying a capsule's source tree into its install folder (spec 07 §9.1), and hashing its WIT files into the content
 * store. Private to the installer. Blocks on disk. */
#pragma once

#include "base/arena.h"
#include "base/home.h"
#include "capsule/meta.h"

/* Copies everything but .git, target, top-level dist and wit, *.wasm files, and .env.json. Symlinked files are resolved
 * and must stay inside the source; symlinked directories are refused. */
enum ast_rc capsule_tree_copy(const char *source, const char *target, struct ast_err *err);

/* Stores `bytes` as <home>/<store>/<blake3>.<ext> unless it is there; writes the hash as 64 hex digits and NUL. */
enum ast_rc capsule_blob_store(const struct ast_home *home, const char *store, const char *ext,
                               struct ast_str bytes, char ret_hash[static 65], struct ast_err *err);

/* Stores every *.wit below <source>/wit and lists path -> hash in `meta`, ascending by path. */
enum ast_rc capsule_wit_store(const struct ast_home *home, const char *source,
                              struct ast_arena *arena, struct ast_meta *meta, struct ast_err *err);
