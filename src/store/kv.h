/* The namespaced key-value view that guests and the kernel use (spec 05 §8).
 *
 * These are ready-made ops over store/store.h: fill one, submit it, read the result in done().
 * set, delete, clear and compare-and-swap on one key are linearizable (all go through the writer).
 * Errors: INVALID key empty, over 256 bytes, NUL or control characters; TOO_LARGE value over the op's
 * limit; CONFLICT compare-and-swap mismatch; QUOTA the principal's bytes are used up.
 *
 * The bytes of a principal are those of keys and values in its "<principal>:capsule:<id>" namespaces. A
 * counter in AST_KV_USAGE_NS changes in the transaction of each write; it is counted anew when it is not
 * there. Whoever writes such namespaces does it with the functions here, so that the counter stays right.
 */
#pragma once

#include "store/store.h"

#define AST_KV_MAX_KEY   256u
#define AST_KV_MAX_VALUE (10u * 1024 * 1024) /* spec 05 §8.3: default cap */
#define AST_KV_MAX_LIST  1024u
#define AST_KV_USAGE_NS                                                                            \
    AST_STR("system:kv-usage") /* key: principal; value: bytes, u64 little-endian */
#define AST_KV_SECRET_PREFIX AST_STR("__secret:") /* hidden from guests */

enum ast_kv_kind {
    AST_KV_SET,
    AST_KV_DELETE,
    AST_KV_CLEAR,
    AST_KV_CAS,
    AST_KV_PURGE, /* all capsule namespaces of the principal named by `ns` (spec 09 §21); never for guests */
};

struct ast_kv_op {
    struct ast_store_op op; /* op.done is the caller's; ast_kv_prepare() sets op.apply */
    enum ast_kv_kind kind;
    struct ast_str ns, key;  /* key is the prefix for CLEAR; all views borrowed until done */
    struct ast_str value;    /* SET, CAS */
    struct ast_str expected; /* CAS */
    bool has_expected;       /* CAS: false = create only */
    uint64_t value_limit;    /* 0 = AST_KV_MAX_VALUE */
    uint64_t quota_bytes;    /* 0 = none; a change that frees bytes passes even above it */
    bool is_guest;           /* private, set by ast_kv_prepare() */
    uint64_t ret_count;      /* CLEAR, PURGE: keys removed; DELETE: 1 when the key existed */
};

/* Checks lengths and characters and sets op->op.apply. Guests may not touch AST_KV_SECRET_PREFIX:
 * pass guest = true (INVALID for set, delete and cas; clear spares them). */
AST_MUST_CHECK
enum ast_rc ast_kv_prepare(struct ast_kv_op *op, bool guest, struct ast_err *err);

AST_MUST_CHECK
enum ast_rc ast_kv_check_key(struct ast_str key, struct ast_err *err);

/* Reads one value into `out` (appended). A guest's AST_KV_SECRET_PREFIX key is never found. Keys longer than
 * a set accepts are looked up all the same: older entries stay readable.
 * Errors: INVALID empty key or NUL; TOO_LARGE the ceiling of `out`. */
AST_MUST_CHECK
enum ast_rc ast_kv_get(struct ast_store *s, struct ast_str ns, struct ast_str key, bool guest,
                       struct ast_buf *out, bool *ret_found, struct ast_err *err);

/* Blocking conveniences for boot, command line and tests. */
enum ast_rc ast_kv_set(struct ast_store *s, struct ast_str ns, struct ast_str key,
                       struct ast_str value, struct ast_err *err);
enum ast_rc ast_kv_delete(struct ast_store *s, struct ast_str ns, struct ast_str key,
                          struct ast_err *err);

/* Up to `limit` keys > cursor with the prefix, ascending; *ret_more tells whether others follow. A limit of
 * 0 or above AST_KV_MAX_LIST acts as AST_KV_MAX_LIST. `each` may stop early by false. guest hides
 * AST_KV_SECRET_PREFIX; keys that are not UTF-8 are skipped. Errors: INVALID NUL in the prefix. */
AST_MUST_CHECK
enum ast_rc ast_kv_list(struct ast_store *s, struct ast_str ns, struct ast_str prefix,
                        struct ast_str cursor, size_t limit, bool guest,
                        bool (*each)(void *arg, struct ast_str key), void *arg, bool *ret_more,
                        struct ast_err *err);

/* Bytes that count against the principal's quota; counts them when there is no counter yet. */
AST_MUST_CHECK
enum ast_rc ast_kv_usage(struct ast_store *s, struct ast_str principal, uint64_t *ret_bytes,
                         struct ast_err *err);

/* "<principal>:capsule:<id>" into out. */
enum ast_rc ast_kv_capsule_ns(struct ast_str principal, struct ast_str capsule_id,
                              struct ast_buf *out);
