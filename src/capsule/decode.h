/* Typed reading of a manifest table: rows say which member goes where. Private to the manifest reader.
 *
 * Strings stay borrowed from the document; arrays come from the arena. Messages follow the wording that authors know:
 * "missing field `name`", "invalid type: integer, expected a string for `version`".
 */
#pragma once

#include "base/arena.h"
#include "base/json.h"
#include "policy/profile.h" /* struct ast_strings */

enum decode_kind { DECODE_STRING, DECODE_BOOL, DECODE_U32, DECODE_STRINGS };

struct decode_row {
    const char *key;
    const char *alias; /* NULL: none; both present is a duplicate */
    enum decode_kind kind;
    bool required;
    size_t offset;
};

/* Fills `record` (defaults must be in place). Unknown members are ignored. */
enum ast_rc decode_record(const struct ast_json *table, const struct decode_row *rows, size_t count,
                          void *record, struct ast_arena *arena, struct ast_err *err);

/* An optional array of tables at `root`.`key`: allocates *ret_n records of `size` bytes and decodes each. `defaults` (may be
 * NULL) is copied into every record first. */
enum ast_rc decode_tables(const struct ast_json *root, const char *key,
                          const struct decode_row *rows, size_t count, size_t size,
                          const void *defaults, void **ret, size_t *ret_n, struct ast_arena *arena,
                          struct ast_err *err);

enum ast_rc decode_strings(const struct ast_json *v, const char *key, struct ast_strings *ret,
                           struct ast_arena *arena, struct ast_err *err);
