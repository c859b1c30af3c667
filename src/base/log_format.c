/* The four forms of a log line.
 *
 * Everything in a line may come from outside (a client's name, a capsule's text), so every piece
 * passes through the escaper: nobody can forge a second line or drive the reader's terminal.
 */
#include "base/json.h"
#include "base/log_priv.h"
#include "base/time.h"
#include "base/utf8_priv.h"

#include "base/banned.h"

/* Limits of the second try, when the first was too long: escaped they still fit a line. */
#define CUT_MESSAGE 4096
#define CUT_STRING  256
#define CUT_FIELDS  16

struct cut {
    size_t message, string, fields;
    bool is_cut;
};

static const char *const level_names[] = {
    [AST_LOG_TRACE] = "TRACE", [AST_LOG_DEBUG] = "DEBUG", [AST_LOG_INFO] = "INFO",
    [AST_LOG_WARN] = "WARN",   [AST_LOG_ERROR] = "ERROR", [AST_LOG_OFF] = "OFF",
};

/* C0, DEL, C1 (a terminal obeys them too), line separators, and marks that reorder what one sees. */
static bool must_escape(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069);
}

static void add_escaped_char(struct ast_buf *out, uint32_t c)
{
    switch (c) {
    case '\n': (void)ast_buf_add_lit(out, "\\n"); break;
    case '\r': (void)ast_buf_add_lit(out, "\\r"); break;
    case '\t': (void)ast_buf_add_lit(out, "\\t"); break;
    default: (void)ast_buf_addf(out, "\\u%04x", (unsigned)c); break;
    }
}

/* The buffer's failures are sticky and asked for at the end of the line. */
static void add_text(struct ast_buf *out, struct ast_str s, bool in_quotes)
{
    size_t clean = 0; /* bytes from the front that go out as they are */
    while (clean < s.n) {
        size_t step;
        uint32_t c = base_utf8_decode(ast_str_from(s, clean), &step);
        bool is_quote = in_quotes && (c == '"' || c == '\\');
        if (c != BASE_UTF8_BAD && !is_quote && !must_escape(c)) {
            clean += step;
            continue;
        }
        (void)ast_buf_add(out, ast_str_first(s, clean));
        if (c == BASE_UTF8_BAD)
            (void)ast_buf_add_lit(out, "\xef\xbf\xbd");
        else if (is_quote)
            (void)ast_buf_add(out, (struct ast_str){ c == '"' ? "\\\"" : "\\\\", 2 });
        else
            add_escaped_char(out, c);
        s = ast_str_from(s, clean + step);
        clean = 0;
    }
    (void)ast_buf_add(out, s);
}

/* A value that could be read as more than one word goes into quotes. */
static bool needs_quotes(struct ast_str s)
{
    if (s.n == 0)
        return true;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c >= 0x7f)
            return true;
    }
    return false;
}

static void add_string(struct ast_buf *out, struct ast_str s)
{
    if (!needs_quotes(s)) {
        (void)ast_buf_add(out, s);
        return;
    }
    (void)ast_buf_add_byte(out, '"');
    add_text(out, s, /* in_quotes= */ true);
    (void)ast_buf_add_byte(out, '"');
}

static void add_value(struct ast_buf *out, const struct ast_log_field *f, const struct cut *cut)
{
    switch (f->kind) {
    case AST_LOG_F_STR: add_string(out, ast_str_first(f->s, cut->string)); break;
    case AST_LOG_F_U64: (void)ast_buf_addf(out, "%llu", (unsigned long long)f->u); break;
    case AST_LOG_F_I64: (void)ast_buf_addf(out, "%lld", (long long)f->i); break;
    case AST_LOG_F_F64: (void)ast_buf_addf(out, "%.9g", f->f); break;
    case AST_LOG_F_BOOL: (void)ast_buf_add(out, f->b ? AST_STR("true") : AST_STR("false")); break;
    }
}

/* "2026-06-11T10:00:00.123456Z": always six digits, so that columns line up. */
static void add_time(struct ast_buf *out, int64_t wall_ns)
{
    int64_t in_sec = wall_ns % AST_NS_PER_SEC;
    if (in_sec < 0)
        in_sec += AST_NS_PER_SEC;
    char text[AST_RFC3339_BYTES];
    struct ast_str whole = ast_time_format(wall_ns - in_sec, AST_TIME_Z, text);
    (void)ast_buf_addf(out, AST_STR_FMT ".%06dZ", (int)whole.n - 1, whole.p, (int)(in_sec / 1000));
}

static void add_fields(struct ast_buf *out, const struct base_log_line *line, const struct cut *cut,
                       const char *before, const char *between)
{
    size_t n = AST_MIN(line->field_count, cut->fields);
    for (size_t i = 0; i < n; i++) {
        (void)ast_buf_addf(out, "%s%s%s", before, line->fields[i].key, between);
        add_value(out, &line->fields[i], cut);
    }
    if (cut->is_cut)
        (void)ast_buf_addf(out, "%struncated%strue", before, between);
}

static void add_head(struct ast_buf *out, const struct base_log_line *line, const struct cut *cut)
{
    add_time(out, line->wall_ns);
    (void)ast_buf_addf(out, " %5s %s: ", level_names[line->level], line->target);
    add_text(out, ast_str_first(line->message, cut->message), /* in_quotes= */ false);
}

static void format_line(struct ast_buf *out, const struct base_log_line *line,
                        const struct cut *cut)
{
    add_head(out, line, cut);
    add_fields(out, line, cut, " ", "=");
    (void)ast_buf_add_byte(out, '\n');
}

static void format_pretty(struct ast_buf *out, const struct base_log_line *line,
                          const struct cut *cut)
{
    (void)ast_buf_add_lit(out, "  ");
    add_head(out, line, cut);
    add_fields(out, line, cut, "\n    ", ": ");
    (void)ast_buf_add_lit(out, "\n\n");
}

static void json_value(struct ast_jw *w, const struct ast_log_field *f, const struct cut *cut)
{
    ast_jw_key(w, ast_str_c(f->key));
    switch (f->kind) {
    case AST_LOG_F_STR: ast_jw_string(w, ast_str_first(f->s, cut->string)); break;
    case AST_LOG_F_U64: ast_jw_u64(w, f->u); break;
    case AST_LOG_F_I64: ast_jw_i64(w, f->i); break;
    case AST_LOG_F_F64: ast_jw_f64(w, f->f); break;
    case AST_LOG_F_BOOL: ast_jw_bool(w, f->b); break;
    }
}

static void format_json(struct ast_buf *out, const struct base_log_line *line,
                        const struct cut *cut)
{
    (void)ast_buf_add_lit(out, "{\"timestamp\":\"");
    add_time(out, line->wall_ns);
    (void)ast_buf_addf(out, "\",\"level\":\"%s\",\"fields\":", level_names[line->level]);
    struct ast_jw w = AST_JW_INIT(out);
    ast_jw_object(&w);
    ast_jw_key(&w, AST_STR("message"));
    ast_jw_string(&w, ast_str_first(line->message, cut->message));
    for (size_t i = 0; i < AST_MIN(line->field_count, cut->fields); i++)
        json_value(&w, &line->fields[i], cut);
    if (cut->is_cut)
        ast_jw_kv_bool(&w, "truncated", true);
    ast_jw_end(&w);
    (void)ast_buf_add_lit(out, ",\"target\":");
    (void)ast_json_quote(ast_str_c(line->target), out);
    (void)ast_buf_add_lit(out, "}\n");
}

static void format_as(struct ast_buf *out, const struct base_log_line *line,
                      enum ast_log_format format, const struct cut *cut)
{
    switch (format) {
    case AST_LOG_COMPACT:
    case AST_LOG_FULL: format_line(out, line, cut); break;
    case AST_LOG_PRETTY: format_pretty(out, line, cut); break;
    case AST_LOG_JSON: format_json(out, line, cut); break;
    }
}

enum ast_rc base_log_format(const struct base_log_line *line, enum ast_log_format format,
                            struct ast_buf *out)
{
    const struct cut whole = { SIZE_MAX, SIZE_MAX, SIZE_MAX, false };
    const struct cut cut = { CUT_MESSAGE, CUT_STRING, CUT_FIELDS, true };
    size_t start = out->n, ceiling = out->max;
    if (out->fail)
        return out->fail;

    if (ceiling - start > BASE_LOG_LINE_MAX)
        out->max = start + BASE_LOG_LINE_MAX;
    format_as(out, line, format, &whole);
    if (out->fail == AST_E_TOO_LARGE) {
        out->fail = AST_OK;
        out->n = start;
        format_as(out, line, format, &cut);
    }
    out->max = ceiling;
    return out->fail;
}
