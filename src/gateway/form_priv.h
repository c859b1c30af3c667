/* Query strings: the known parameters of a route, each at most once (spec 03 §23.1). */
#pragma once

#include <stdint.h>

#include "base/buf.h"

struct gw_param {
    struct ast_str name;  /* in: what to look for */
    struct ast_str value; /* out: decoded, borrowed from the buffer; p == NULL: absent */
};

/* Percent escapes and '+' are decoded into `memory`, which must be empty. Unknown parameters are passed over.
 * Errors: INVALID a known one comes twice, broken escapes, no UTF-8. */
AST_MUST_CHECK
enum ast_rc gw_form_parse(struct ast_str query, struct gw_param *params, size_t count,
                          struct ast_buf *memory, struct ast_err *err);
/* The number in a parameter; *ret stays as it is when it is absent. INVALID: not an unsigned number. */
AST_MUST_CHECK
enum ast_rc gw_form_u64(const struct gw_param *param, uint64_t *ret, struct ast_err *err);
