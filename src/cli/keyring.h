/* The keys of this machine, keys/local of the home (spec 08 §5.15): a seed, a public key and metadata for each name, in
 * the files of Astrid 0.8.0. One thread; changes take a lock on the folder, so programs do not mix two keys. */
#pragma once

#include "base/home.h"
#include "base/vec.h"

#define CLI_KEY_NAME_MAX 64u
#define CLI_KEY_TEXT_MAX 1024u /* a note */
#define CLI_KEY_HEX      65u
#define CLI_KEY_META_MAX 65536u

struct cli_key {
    char name[CLI_KEY_NAME_MAX + 1];
    char fingerprint[CLI_KEY_HEX]; /* SHA-256 of "ed25519:<public key>" */
    char public_key[CLI_KEY_HEX];  /* empty: the file is missing or unreadable */
    char backend[32];              /* "file" */
    uint64_t created_at_epoch;
    char *note, *bound_principal; /* owned; NULL: none */
};

void cli_key_done(struct cli_key *k);
AST_DEFINE_AUTO_VALUE(struct cli_key, cli_key_done)

enum cli_key_file { CLI_KEY_SEED, CLI_KEY_PUBLIC, CLI_KEY_META };
/* Where a file of that key lies; NULL when out of memory. free() it. */
char *cli_key_path(const struct ast_home *home, const char *name, enum cli_key_file file);

/* 1 to 64 of a-z, 0-9 and -. Errors: INVALID. */
AST_MUST_CHECK
enum ast_rc cli_key_check_name(struct ast_str name, struct ast_err *err);

/* Makes a key and its three files; the seed is 0600 from birth and on disk when this returns.
 * note  NULL: none. Errors: EXISTS when a file of that name is there and `force` is not set. */
AST_MUST_CHECK
enum ast_rc cli_key_generate(const struct ast_home *home, const char *name, const char *note,
                             bool force, struct cli_key *ret, struct ast_err *err);

/* Metadata and, when it is readable, the public key. Errors: NOT_FOUND, CORRUPT, UNSUPPORTED (newer schema). */
AST_MUST_CHECK
enum ast_rc cli_key_load(const struct ast_home *home, const char *name, struct cli_key *ret,
                         struct ast_err *err);

/* Remembers whose key this is. */
AST_MUST_CHECK
enum ast_rc cli_key_bind(const struct ast_home *home, const char *name, struct ast_str principal,
                         struct ast_err *err);

/* Removes what there is of the three files. Errors: NOT_FOUND when nothing is. */
AST_MUST_CHECK
enum ast_rc cli_key_delete(const struct ast_home *home, const char *name, struct ast_err *err);

/* Every key by name. `on_bad` is told of metadata that cannot be read; such a key is left out. */
struct cli_keys {
    AST_VEC(struct cli_key) keys; /* owned */
};
void cli_keys_done(struct cli_keys *k);
AST_DEFINE_AUTO_VALUE(struct cli_keys, cli_keys_done)
AST_MUST_CHECK
enum ast_rc cli_key_list(const struct ast_home *home, void (*on_bad)(const struct ast_err *why),
                         struct cli_keys *ret, struct ast_err *err);
