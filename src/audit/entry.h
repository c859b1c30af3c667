/* One row of the audit log: what happened, on whose behalf, by what right, with what outcome, signed and linked
 * to the row before it (spec 09 §12, §13).
 *
 * History of the entry form:
 *   2  the action ends with "form":2 and "outcome_hash", the BLAKE3 of the time's text, a line feed and the
 *      outcome's text. So the outcome and the fraction of the second are signed too; form 1 leaves them open.
 *   1  as Astrid 0.8.0 writes it. Read and verified unchanged.
 *
 * Threads: pure functions, any thread.
 */
#pragma once

#include "base/buf.h"
#include "base/id.h"
#include "base/json.h"
#include "base/uuid.h"
#include "crypto/hash.h"
#include "crypto/keys.h"

#define AST_AUDIT_MAX_ENTRY  (1024u * 1024) /* bytes of one row's JSON text */
#define AST_AUDIT_MAX_FIELDS 4u             /* of an action or a proof, behind its type */

/* What a field holds and what its JSON looks like. */
enum ast_audit_field_kind {
    AST_AUDIT_STRING,
    AST_AUDIT_STRING_OR_NULL,
    AST_AUDIT_STRING_OR_NOTHING, /* omitted when absent */
    AST_AUDIT_HASH,              /* 64 lower-case hex digits */
    AST_AUDIT_HASH_OR_NULL,
    AST_AUDIT_UUID,
    AST_AUDIT_UUID_OR_NULL,
    AST_AUDIT_NUMBER,          /* u64 */
    AST_AUDIT_KEY_ID,          /* 16 hex digits; in JSON an array of 8 numbers */
    AST_AUDIT_SCOPE,           /* once, session, workspace, always */
    AST_AUDIT_WORDS,           /* space-separated permissions; in JSON an array of strings */
    AST_AUDIT_JSON_OR_NOTHING, /* any JSON, stored in canonical form; omitted when absent */
};

struct ast_audit_field {
    struct ast_str name;
    enum ast_audit_field_kind kind;
};

/* One kind of action or proof: its tag and its fields in the order of the signed text. */
struct ast_audit_shape {
    struct ast_str type;
    unsigned count;
    struct ast_audit_field fields[AST_AUDIT_MAX_FIELDS];
};

/* The rows of spec 09 §12.2 and §12.3, in that order; entry_shapes.c has the fields. */
#define AST_AUDIT_ACTION_MAP(X)                                                                    \
    X(mcp_tool_call)                                                                               \
    X(capsule_tool_call)                                                                           \
    X(mcp_resource_read)                                                                           \
    X(mcp_prompt_get)                                                                              \
    X(mcp_elicitation)                                                                             \
    X(mcp_url_elicitation)                                                                         \
    X(mcp_sampling)                                                                                \
    X(file_read)                                                                                   \
    X(file_write)                                                                                  \
    X(file_delete)                                                                                 \
    X(capability_created)                                                                          \
    X(capability_revoked)                                                                          \
    X(approval_requested)                                                                          \
    X(approval_granted)                                                                            \
    X(approval_denied)                                                                             \
    X(session_started)                                                                             \
    X(session_ended)                                                                               \
    X(context_summarized)                                                                          \
    X(llm_request)                                                                                 \
    X(server_started)                                                                              \
    X(server_stopped)                                                                              \
    X(elicitation_sent)                                                                            \
    X(elicitation_received)                                                                        \
    X(security_violation)                                                                          \
    X(sub_agent_spawned)                                                                           \
    X(config_reloaded)                                                                             \
    X(admin_request)
#define AST_AUDIT_PROOF_MAP(X)                                                                     \
    X(user)                                                                                        \
    X(capability)                                                                                  \
    X(user_approval)                                                                               \
    X(not_required)                                                                                \
    X(system)                                                                                      \
    X(denied)

enum ast_audit_action {
#define X(name) AST_AUDIT_ACTION_##name,
    AST_AUDIT_ACTION_MAP(X)
#undef X
        AST_AUDIT_ACTION_COUNT
};
enum ast_audit_proof {
#define X(name) AST_AUDIT_PROOF_##name,
    AST_AUDIT_PROOF_MAP(X)
#undef X
        AST_AUDIT_PROOF_COUNT
};

/* Static rows. */
const struct ast_audit_shape *ast_audit_action_shape(enum ast_audit_action action);
const struct ast_audit_shape *ast_audit_proof_shape(enum ast_audit_proof proof);

/* A value for one field. A text with p == NULL is absent. */
struct ast_audit_value {
    struct ast_str text;
    uint64_t number; /* AST_AUDIT_NUMBER only */
};

/* What a caller wants recorded. All views are borrowed for the call they are given to. */
struct ast_audit_draft {
    struct ast_str principal; /* empty: the session's system chain */
    enum ast_audit_action action;
    struct ast_audit_value action_values[AST_AUDIT_MAX_FIELDS]; /* by the shape's fields */
    enum ast_audit_proof proof;
    struct ast_audit_value proof_values[AST_AUDIT_MAX_FIELDS];
    bool is_failure;
    struct ast_str outcome; /* failure: the error's text; success: details, p == NULL for none */
};

/* A row in parts. Views are borrowed from whatever text it was read from or written for. */
struct ast_audit_entry {
    struct ast_uuid id, session;
    struct ast_principal principal;                /* n == 0: system chain */
    int64_t time_ns;                               /* wall clock */
    struct ast_str action, authorization, outcome; /* compact JSON, byte for byte as stored */
    bool is_success;
    uint8_t previous[AST_BLAKE3_BYTES];
    uint8_t key[AST_KEY_PUBLIC_BYTES];
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];
};

/* Appends the compact text of an action or a proof. Errors: INVALID a value is missing or is not what its field
 * holds; TOO_LARGE the ceiling of `out`. */
AST_MUST_CHECK
enum ast_rc ast_audit_object_write(const struct ast_audit_shape *shape,
                                   const struct ast_audit_value *values, struct ast_buf *out,
                                   struct ast_err *err);
/* Appends {"status":...}. */
enum ast_rc ast_audit_outcome_write(bool is_failure, struct ast_str text, struct ast_buf *out,
                                    struct ast_err *err);

/* The stored text. Appends to `out`. */
enum ast_rc ast_audit_entry_write(const struct ast_audit_entry *e, struct ast_buf *out,
                                  struct ast_err *err);
/* Reads a stored text; the views of *ret are borrowed from `text`. Strict about the envelope: every member once and of its
 * type; unknown members are ignored; actions and proofs of any type are taken as they are.
 * Errors: CORRUPT with the member's name. */
AST_MUST_CHECK
enum ast_rc ast_audit_entry_read(struct ast_str text, struct ast_audit_entry *ret,
                                 struct ast_err *err);

/* The bytes that are signed and hashed (spec 09 §13.1). Appends to `out`. */
enum ast_rc ast_audit_entry_signed(const struct ast_audit_entry *e, struct ast_buf *out,
                                   struct ast_err *err);

/* The seal of form 2: 64 hex digits and NUL. */
void ast_audit_outcome_hash(int64_t time_ns, struct ast_str outcome,
                            char ret_hex[static AST_BLAKE3_HEX]);
/* True for form 1, and for form 2 when outcome and time are what was sealed. */
bool ast_audit_entry_is_sealed_right(const struct ast_audit_entry *e);

/* "audit:<first 8 hex digits>" and NUL. */
#define AST_AUDIT_SHORT_ID 15
const char *ast_audit_short_id(const struct ast_uuid *id, char out[static AST_AUDIT_SHORT_ID]);
