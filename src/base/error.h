/* How a failure travels: a code for programs, a message for people.
 *
 * Functions return `enum ast_rc` and take `struct ast_err *err` as their last argument. On success
 * neither outputs nor `err` change meaning; on failure outputs are untouched and `err`, when not
 * NULL, holds the message. Reporting never allocates. Each layer on the way up adds its own noun in
 * front with ast_wrap(): "load 'x': manifest: line 3: unknown key".
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/auto.h"

/* One row per code: name, text. The whole list; edges keep their own table keyed by it. */
#define AST_ERROR_MAP(X)                                                                           \
    X(INVALID, "invalid input")                                                                    \
    X(DENIED, "permission denied")                                                                 \
    X(NOT_FOUND, "not found")                                                                      \
    X(EXISTS, "already exists")                                                                    \
    X(TOO_LARGE, "over the limit")                                                                 \
    X(QUOTA, "quota exhausted")                                                                    \
    X(RATE_LIMITED, "rate limited")                                                                \
    X(CONFLICT, "conflicting change")                                                              \
    X(TIMEOUT, "timed out")                                                                        \
    X(CANCELLED, "cancelled")                                                                      \
    X(CLOSED, "closed")                                                                            \
    X(BUSY, "busy")                                                                                \
    X(UNSUPPORTED, "not supported")                                                                \
    X(NO_CAPACITY, "no capacity")                                                                  \
    X(NO_MEMORY, "out of memory")                                                                  \
    X(IO, "input/output error")                                                                    \
    X(CORRUPT, "corrupt data")                                                                     \
    X(PROTOCOL, "protocol violation")                                                              \
    X(BAD_COMPONENT, "bad component")                                                              \
    X(BAD_MODULE, "bad module")                                                                    \
    X(UNKNOWN_IMPORT, "unknown import")                                                            \
    X(TRAP, "guest trapped")                                                                       \
    X(OUT_OF_FUEL, "out of fuel")                                                                  \
    X(ABI, "ABI violation")                                                                        \
    X(INTERNAL, "internal error")

enum ast_rc {
    AST_OK = 0,
#define X(name, text) AST_E_##name,
    AST_ERROR_MAP(X)
#undef X
        AST_RC_COUNT
};

#define AST_ERR_MSG_BYTES 1024

struct ast_err {
    enum ast_rc rc;              /* AST_OK while nothing failed */
    char msg[AST_ERR_MSG_BYTES]; /* NUL-terminated, cut with "..." when too long */
};

#define AST_ERR_INIT                                                                               \
    {                                                                                              \
        .rc = AST_OK, .msg = ""                                                                    \
    }

/* Stores the code and the formatted message; returns `rc`. `err` may be NULL. */
enum ast_rc ast_fail(struct ast_err *err, enum ast_rc rc, const char *fmt, ...) AST_PRINTF(3, 4);

/* As ast_fail, and appends ": <strerror(errnum)>". */
enum ast_rc ast_fail_errno(struct ast_err *err, enum ast_rc rc, int errnum, const char *fmt, ...)
    AST_PRINTF(4, 5);

/* Puts "<formatted>: " in front of the message already in `err`; returns `rc`. */
enum ast_rc ast_wrap(struct ast_err *err, enum ast_rc rc, const char *fmt, ...) AST_PRINTF(3, 4);

#ifdef __clang_analyzer__ /* which does not see that they return `rc` */
#define ast_fail(err, rc, ...) ((void)ast_fail((err), (rc), __VA_ARGS__), (rc))
#define ast_fail_errno(err, rc, errnum, ...)                                                       \
    ((void)ast_fail_errno((err), (rc), (errnum), __VA_ARGS__), (rc))
#define ast_wrap(err, rc, ...) ((void)ast_wrap((err), (rc), __VA_ARGS__), (rc))
#endif

const char *ast_rc_name(enum ast_rc rc); /* "NOT_FOUND"; static */
const char *ast_rc_text(enum ast_rc rc); /* "not found"; static */

/* The code that fits a failed system call (ENOENT -> NOT_FOUND, EACCES -> DENIED, ... else IO). */
enum ast_rc ast_rc_from_errno(int errnum);

/* Our own caller broke a promise: on in release builds too. Never reachable from foreign bytes. */
#define AST_ASSERT(cond)                                                                           \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0))                                                          \
            ast_assert_failed(#cond, __FILE__, __LINE__);                                          \
    } while (0)
__attribute__((noreturn)) void ast_assert_failed(const char *cond, const char *file, int line);

/* True when the impossible happened: logs once per place and lets the caller degrade. */
#define AST_NEVER(cond)                                                                            \
    (__builtin_expect(!!(cond), 0) && ast_never_happened(#cond, __FILE__, __LINE__))
bool ast_never_happened(const char *cond, const char *file, int line);
