/* Bytes that must not leak: locked in memory, wiped on release, never printed. */
#pragma once

#include <stdint.h>

#include "base/auto.h"
#include "base/error.h"
#include "base/str.h"

struct ast_secret {
    uint8_t *p; /* owned, locked pages where the system permits it */
    size_t n;
};

AST_MUST_CHECK
enum ast_rc ast_secret_init(struct ast_secret *s, size_t n, struct ast_err *err); /* zeroed */
AST_MUST_CHECK
enum ast_rc ast_secret_copy(struct ast_secret *s, struct ast_str bytes, struct ast_err *err);
void ast_secret_done(struct ast_secret *s); /* wipes; zeroed state is fine */
AST_DEFINE_AUTO_VALUE(struct ast_secret, ast_secret_done)

void ast_wipe(void *p, size_t n);                          /* never optimised away */
bool ast_ct_equal(const void *a, const void *b, size_t n); /* constant time */
void ast_random(void *out, size_t n);                      /* the system's CSPRNG */
