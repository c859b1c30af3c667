/* Semantic versions and Cargo-style requirements (spec 07 §3). Pure; any thread. */
#pragma once

#include <stdint.h>

#include "base/buf.h"

struct ast_semver {
    uint64_t major, minor, patch;
    struct ast_str pre, build; /* borrowed from the parsed text */
};

#define AST_SEMVER_MAX_COMPARATORS 32u

enum ast_semver_op {
    AST_SEMVER_EXACT,
    AST_SEMVER_GT,
    AST_SEMVER_GE,
    AST_SEMVER_LT,
    AST_SEMVER_LE,
    AST_SEMVER_TILDE,
    AST_SEMVER_CARET,
    AST_SEMVER_WILDCARD
};

struct ast_semver_comparator {
    enum ast_semver_op op;
    uint64_t major, minor, patch;
    bool has_minor, has_patch;
    struct ast_str pre;
};

struct ast_semver_req {
    struct ast_semver_comparator v[AST_SEMVER_MAX_COMPARATORS];
    size_t n; /* 0 = "*" */
};

AST_MUST_CHECK
enum ast_rc ast_semver_parse(struct ast_str text, struct ast_semver *ret, struct ast_err *err);
AST_MUST_CHECK
enum ast_rc ast_semver_req_parse(struct ast_str text, struct ast_semver_req *ret,
                                 struct ast_err *err);
bool ast_semver_matches(const struct ast_semver_req *req, const struct ast_semver *v);
/* precedence, then build */
int ast_semver_cmp(const struct ast_semver *a, const struct ast_semver *b);
/* canonical */
enum ast_rc ast_semver_req_print(const struct ast_semver_req *req, struct ast_buf *out);
