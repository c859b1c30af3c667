/* The log's inner seam (line formats apart from sinks) and its side doors for this room's tests. */
#pragma once

#include <stdint.h>

#include "base/buf.h"
#include "base/log.h"

#define BASE_LOG_LINE_MAX  ((size_t)64 * 1024)       /* bytes of one line, new-line included */
#define BASE_LOG_QUEUE_MAX ((size_t)8 * 1024 * 1024) /* bytes waiting for the file */

struct base_log_line {
    int64_t wall_ns;
    enum ast_log_level level;
    const char *target;
    struct ast_str message;
    const struct ast_log_field *fields; /* borrowed */
    size_t field_count;
};

/* Appends the line in `format` with its new-line. Whatever the arguments hold, the result is valid
 * UTF-8 without control characters except new-lines of the format, and at most BASE_LOG_LINE_MAX
 * bytes: a line that would be longer is cut and says truncated=true. */
enum ast_rc base_log_format(const struct base_log_line *line, enum ast_log_format format,
                            struct ast_buf *out);

/* The process is about to abort: writes what is queued and then `line` to the log file, if there is
 * one. Gives up at once when another thread holds the sink. */
void base_log_emergency(struct ast_str line);

/* Replaces the wall clock (nanoseconds since 1970); NULL restores it. Before ast_log_open() only. */
void base_log_set_clock(int64_t (*wall_ns)(void));
