/* Errors: the message buffer, names of codes, and the two ways a broken promise shows.
 *
 * Nothing here allocates: "out of memory" must be reportable.
 */
#include "base/error.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/log_priv.h"

#include "base/banned.h"

/* error.h may wrap them for the analyzer; here they are made. */
#undef ast_fail
#undef ast_fail_errno
#undef ast_wrap

static const struct {
    const char *name, *text;
} codes[] = { [AST_OK] = { "OK", "success" },
#define X(name, text) [AST_E_##name] = { #name, text },
              AST_ERROR_MAP(X)
#undef X
};
_Static_assert(sizeof codes / sizeof codes[0] == AST_RC_COUNT, "every code has a row");

const char *ast_rc_name(enum ast_rc rc)
{
    return (unsigned)rc < AST_RC_COUNT ? codes[rc].name : "UNKNOWN";
}

const char *ast_rc_text(enum ast_rc rc)
{
    return (unsigned)rc < AST_RC_COUNT ? codes[rc].text : "unknown error";
}

static void mark_cut(char msg[static AST_ERR_MSG_BYTES])
{
    size_t at = AST_ERR_MSG_BYTES - 4;
    /* Not in the middle of a UTF-8 character: the text goes into JSON later. */
    while (at > 0 && ((unsigned char)msg[at] & 0xc0) == 0x80)
        at--;
    memcpy(msg + at, "...", 4);
}

/* Formats into a buffer of its own first: the arguments may point into err->msg. */
AST_PRINTF(3, 0)
static void format(char out[static AST_ERR_MSG_BYTES], const char *tail, const char *fmt,
                   va_list args)
{
    int n = vsnprintf(out, AST_ERR_MSG_BYTES, fmt, args);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (n < 0)
        out[0] = 0;
    if (used >= AST_ERR_MSG_BYTES) {
        mark_cut(out);
        return;
    }
    if (!tail)
        return;
    n = snprintf(out + used, AST_ERR_MSG_BYTES - used, ": %s", tail);
    if (n >= 0 && (size_t)n >= AST_ERR_MSG_BYTES - used)
        mark_cut(out);
}

static void store(struct ast_err *err, enum ast_rc rc, const char msg[static AST_ERR_MSG_BYTES])
{
    err->rc = rc;
    memcpy(err->msg, msg, strlen(msg) + 1);
}

enum ast_rc ast_fail(struct ast_err *err, enum ast_rc rc, const char *fmt, ...)
{
    if (!err)
        return rc;
    char msg[AST_ERR_MSG_BYTES];
    va_list args;
    va_start(args, fmt);
    format(msg, NULL, fmt, args);
    va_end(args);
    store(err, rc, msg);
    return rc;
}

enum ast_rc ast_fail_errno(struct ast_err *err, enum ast_rc rc, int errnum, const char *fmt, ...)
{
    if (!err)
        return rc;
    char msg[AST_ERR_MSG_BYTES], text[128];
    va_list args;
    va_start(args, fmt);
    format(msg, strerror_r(errnum, text, sizeof text), fmt, args);
    va_end(args);
    store(err, rc, msg);
    return rc;
}

enum ast_rc ast_wrap(struct ast_err *err, enum ast_rc rc, const char *fmt, ...)
{
    if (!err)
        return rc;
    char msg[AST_ERR_MSG_BYTES];
    va_list args;
    va_start(args, fmt);
    format(msg, err->msg[0] ? err->msg : NULL, fmt, args);
    va_end(args);
    store(err, rc, msg);
    return rc;
}

enum ast_rc ast_rc_from_errno(int errnum)
{
    switch (errnum) {
    case 0: return AST_OK;
    case ENOENT:
    case ENOTDIR: return AST_E_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS: return AST_E_DENIED;
    case EEXIST:
    case ENOTEMPTY: return AST_E_EXISTS;
    case EFBIG:
    case ENAMETOOLONG:
    case EMSGSIZE: return AST_E_TOO_LARGE;
    case EDQUOT: return AST_E_QUOTA;
    case ENOSPC:
    case EMFILE:
    case ENFILE: return AST_E_NO_CAPACITY;
    case ENOMEM: return AST_E_NO_MEMORY;
    case ETIMEDOUT: return AST_E_TIMEOUT;
    case ECANCELED: return AST_E_CANCELLED;
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN: return AST_E_CLOSED;
    case EBUSY:
    case EAGAIN: return AST_E_BUSY;
    case ENOTSUP:
    case ENOSYS: return AST_E_UNSUPPORTED;
    case EINVAL:
    case EISDIR:
    case ELOOP: return AST_E_INVALID;
    default: return AST_E_IO;
    }
}

void ast_assert_failed(const char *cond, const char *file, int line)
{
    char msg[512];
    int n = snprintf(msg, sizeof msg, "astrid: assertion failed: %s (%s:%d)\n", cond, file, line);
    if (n > 0) {
        size_t len = (size_t)n < sizeof msg ? (size_t)n : sizeof msg - 1;
        /* The process ends here: nobody is left to hear about a failed write. */
        ssize_t ignored = write(STDERR_FILENO, msg, len);
        (void)ignored;
        base_log_emergency((struct ast_str){ msg, len });
    }
    abort();
}

bool ast_never_happened(const char *cond, const char *file, int line)
{
    /* Places that were reported already; a full table reports again, which only costs lines. */
    static _Atomic(uintptr_t) seen[64];
    uintptr_t place = (uintptr_t)file * 31 + (uintptr_t)line + 1;

    for (size_t i = 0; i < AST_ARRAY_LEN(seen); i++) {
        uintptr_t empty = 0;
        /* One slot per place: the exchange decides which thread reports. */
        if (atomic_compare_exchange_strong(&seen[i], &empty, place))
            break;
        if (empty == place)
            return true;
    }
    ast_log_error("astrid.base", "impossible condition held: %s (%s:%d)", cond, file, line);
    return true;
}
