/* Paths of requests against templates like "/api/capsules/{id}/env/{field}" (spec 03 §5.2). Pure. */
#pragma once

#include "base/buf.h"

#define GW_PARAMS_MAX 2u

struct gw_params {
    struct ast_str v[GW_PARAMS_MAX]; /* as sent, in order */
    size_t n;
};

/* Exact segments; a parameter matches one segment that is not empty. No normalisation. */
bool gw_path_match(struct ast_str template, struct ast_str path, struct gw_params *ret);
/* "/api/capsules/:id/env/:field": the label of metrics and log. Appends. */
enum ast_rc gw_path_label(struct ast_str template, struct ast_buf *out);
/* Percent-decoding into UTF-8; INVALID for broken escapes and other bytes. Appends. */
AST_MUST_CHECK
enum ast_rc gw_path_decode(struct ast_str s, struct ast_buf *out, struct ast_err *err);
