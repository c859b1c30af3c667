/* The daemon log: one line per fact, written once, by the one who knows.
 *
 * A line is: time, level, target, message, key=value fields. Sinks: stderr or a daily file
 * `<dir>/<prefix>.<UTC date>.log`, newest `keep_files` kept (spec 01 §16.7). Lines are queued to a
 * writer-side buffer under a short lock; a line is never torn. Levels are filtered by the most
 * specific directive `target=level` (prefix match on dotted targets), else by the default level.
 * Threads: any. Before ast_log_open() lines at warn and above go to stderr.
 */
#pragma once

#include "base/error.h"
#include "base/str.h"

enum ast_log_level {
    AST_LOG_TRACE,
    AST_LOG_DEBUG,
    AST_LOG_INFO,
    AST_LOG_WARN,
    AST_LOG_ERROR,
    AST_LOG_OFF
};
enum ast_log_format { AST_LOG_COMPACT, AST_LOG_FULL, AST_LOG_PRETTY, AST_LOG_JSON };

struct ast_log_config {
    struct ast_str dir;       /* empty: stderr */
    struct ast_str prefix;    /* file name prefix, "astrid" */
    enum ast_log_level level; /* default level */
    enum ast_log_format format;
    struct ast_str directives; /* "astrid.bus=debug,info"; bad parts are skipped with a warning */
    unsigned keep_files;       /* 0 = 7 */
};

enum ast_rc ast_log_open(const struct ast_log_config *cfg, struct ast_err *err);
void ast_log_close(void); /* flushes; later lines go to stderr */
bool ast_log_level_parse(struct ast_str s, enum ast_log_level *ret);
bool ast_log_enabled(enum ast_log_level level, const char *target);

/* One key=value field. Strings are quoted and escaped when they need it (foreign text is safe). */
struct ast_log_field {
    const char *key; /* static text */
    enum { AST_LOG_F_STR, AST_LOG_F_U64, AST_LOG_F_I64, AST_LOG_F_F64, AST_LOG_F_BOOL } kind;
    union {
        struct ast_str s;
        uint64_t u;
        int64_t i;
        double f;
        bool b;
    };
};
#define AST_F_STR(k, v) ((struct ast_log_field){ .key = (k), .kind = AST_LOG_F_STR, .s = (v) })
#define AST_F_CSTR(k, v)                                                                           \
    ((struct ast_log_field){ .key = (k), .kind = AST_LOG_F_STR, .s = ast_str_c(v) })
#define AST_F_U64(k, v)  ((struct ast_log_field){ .key = (k), .kind = AST_LOG_F_U64, .u = (v) })
#define AST_F_I64(k, v)  ((struct ast_log_field){ .key = (k), .kind = AST_LOG_F_I64, .i = (v) })
#define AST_F_F64(k, v)  ((struct ast_log_field){ .key = (k), .kind = AST_LOG_F_F64, .f = (v) })
#define AST_F_BOOL(k, v) ((struct ast_log_field){ .key = (k), .kind = AST_LOG_F_BOOL, .b = (v) })
#define AST_F_SECURITY   AST_F_BOOL("security_event", true)

void ast_log_write(enum ast_log_level level, const char *target, const struct ast_log_field *fields,
                   size_t field_count, const char *fmt, ...) AST_PRINTF(5, 6);

#define ast_log_(level, target, fields, count, ...)                                                \
    do {                                                                                           \
        if (ast_log_enabled((level), (target)))                                                    \
            ast_log_write((level), (target), (fields), (count), __VA_ARGS__);                      \
    } while (0)

/* ast_log_warn("gateway", "keep old configuration, ignoring '%s': %s", path, err.msg);
 * Messages without a printf-like argument take fields: ast_log_fields(LEVEL, target, text, F...). */
#define ast_log_debug(target, ...) ast_log_(AST_LOG_DEBUG, target, NULL, 0, __VA_ARGS__)
#define ast_log_info(target, ...)  ast_log_(AST_LOG_INFO, target, NULL, 0, __VA_ARGS__)
#define ast_log_warn(target, ...)  ast_log_(AST_LOG_WARN, target, NULL, 0, __VA_ARGS__)
#define ast_log_error(target, ...) ast_log_(AST_LOG_ERROR, target, NULL, 0, __VA_ARGS__)
#define ast_log_fields(level, target, text, ...)                                                   \
    do {                                                                                           \
        if (ast_log_enabled((level), (target))) {                                                  \
            const struct ast_log_field f_[] = { __VA_ARGS__ };                                     \
            ast_log_write((level), (target), f_, sizeof f_ / sizeof f_[0], "%s", (text));          \
        }                                                                                          \
    } while (0)
