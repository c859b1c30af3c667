/* YAML and TOML writers.
 *
 * Invariant: a stock parser reads back what went in (but for the nulls that TOML lacks). Both formats take JSON's quoted
 * strings, so only control characters need care.
 */
#include "cli/render.h"

#include <stdio.h>

#include "base/banned.h"

/* ---- strings ---- */

static bool is_word_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
}

static bool is_bare_key(struct ast_str s)
{
    bool bare = s.n > 0;
    for (size_t i = 0; bare && i < s.n; i++)
        bare = is_word_byte(s.p[i]);
    return bare;
}

/* A plain YAML scalar that is a string to every reader: a letter first, and no word with a meaning. */
static bool is_plain_yaml(struct ast_str s)
{
    static const char *const taken[] = {
        "true", "false", "yes", "no", "on", "off", "null", "y", "n"
    };

    if (!s.n || !((s.p[0] >= 'a' && s.p[0] <= 'z') || (s.p[0] >= 'A' && s.p[0] <= 'Z')))
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (!is_word_byte(s.p[i]) && s.p[i] != '.' && s.p[i] != '/' &&
            !(s.p[i] == ':' && i + 1 < s.n && s.p[i + 1] != ' '))
            return false;
    for (size_t i = 0; i < AST_ARRAY_LEN(taken); i++)
        if (ast_str_eq_nocase(s, ast_str_c(taken[i])))
            return false;
    return true;
}

/* Code points that JSON may hold raw and the others may not: DEL, C1, line and paragraph separators,
 * the byte order mark and the two non-characters. 0: the bytes at `p` are fine. */
static unsigned raw_control(const unsigned char *p, size_t left, size_t *ret_bytes)
{
    *ret_bytes = 1;
    if (p[0] == 0x7f)
        return p[0];
    if (left >= 2 && p[0] == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f) {
        *ret_bytes = 2;
        return p[1];
    }
    unsigned three = left >= 3 && (p[0] & 0xf0) == 0xe0
                         ? (p[0] & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u)
                         : 0;
    *ret_bytes = 3;
    return three == 0x2028 || three == 0x2029 || three == 0xfeff || three >= 0xfffe ? three : 0;
}

static void add_quoted(struct ast_str s, struct ast_buf *out)
{
    AST_AUTO(ast_buf_done) struct ast_buf json = AST_BUF_INIT(SIZE_MAX / 2);

    if (ast_json_quote(s, &json)) {
        out->fail = json.fail;
        return;
    }
    for (size_t i = 0, n; i < json.n; i += n) {
        unsigned c = raw_control((const unsigned char *)json.p + i, json.n - i, &n);
        if (c) {
            ast_buf_addf(out, "\\u%04x", c);
        } else {
            n = 1;
            ast_buf_add_byte(out, json.p[i]);
        }
    }
}

static void add_scalar(const struct ast_json *v, bool yaml, struct ast_buf *out)
{
    struct ast_str s;

    if (!ast_json_string(v, &s))
        (void)ast_json_compact(v, out); /* sticky in `out` */
    else if (yaml && is_plain_yaml(s))
        ast_buf_add(out, s);
    else
        add_quoted(s, out);
}

static void add_spaces(struct ast_buf *out, unsigned n)
{
    while (n--)
        ast_buf_add_byte(out, ' ');
}

static bool is_container(const struct ast_json *v)
{
    return ast_json_type(v) == AST_JSON_ARRAY || ast_json_type(v) == AST_JSON_OBJECT;
}

/* ---- YAML ---- */

/* One value behind "key:" or "-", with the line's end. */
static void yaml_value(const struct ast_json *v, unsigned indent, struct ast_buf *out);

/* The lines of a container that is not empty. `inside` continues the line of a dash. */
static void yaml_block(const struct ast_json *v, unsigned indent, bool inside, struct ast_buf *out)
{
    struct ast_json_iter it = AST_JSON_ITER(v);
    const struct ast_json *one;
    struct ast_str key;
    bool is_array = ast_json_type(v) == AST_JSON_ARRAY;

    while (ast_json_next(&it, &key, &one)) {
        add_spaces(out, inside ? 0 : indent);
        inside = false;
        if (is_array) {
            ast_buf_add_byte(out, '-');
            if (ast_json_count(one)) {
                ast_buf_add_byte(out, ' ');
                yaml_block(one, indent + 2, true, out);
            } else {
                yaml_value(one, indent, out);
            }
            continue;
        }
        if (is_plain_yaml(key) && ast_str_find_byte(key, ':') == AST_STR_NPOS)
            ast_buf_add(out, key);
        else
            add_quoted(key, out);
        ast_buf_add_byte(out, ':');
        yaml_value(one, indent, out);
    }
}

static void yaml_value(const struct ast_json *v, unsigned indent, struct ast_buf *out)
{
    if (is_container(v) && ast_json_count(v)) {
        ast_buf_add_byte(out, '\n');
        yaml_block(v, ast_json_type(v) == AST_JSON_ARRAY ? indent : indent + 2, false, out);
        return;
    }
    ast_buf_add_byte(out, ' ');
    if (is_container(v))
        ast_buf_add(out, ast_json_type(v) == AST_JSON_ARRAY ? AST_STR("[]") : AST_STR("{}"));
    else
        add_scalar(v, /* yaml= */ true, out);
    ast_buf_add_byte(out, '\n');
}

enum ast_rc cli_render_yaml(const struct ast_json *v, struct ast_buf *out)
{
    size_t start = out->n;

    if (is_container(v) && ast_json_count(v)) {
        yaml_block(v, 0, false, out);
        return out->fail;
    }
    yaml_value(v, 0, out);
    if (!out->fail) { /* without the blank that stands behind a key */
        memmove(out->p + start, out->p + start + 1, out->n - start);
        out->n--;
    }
    return out->fail;
}

/* ---- TOML ---- */

static void toml_key(struct ast_str key, struct ast_buf *out)
{
    if (is_bare_key(key))
        ast_buf_add(out, key);
    else
        add_quoted(key, out);
}

static bool is_null(const struct ast_json *v)
{
    return ast_json_type(v) == AST_JSON_NULL;
}

/* An array that can be written as [[tables]]. */
static bool is_table_array(const struct ast_json *v)
{
    struct ast_json_iter it = AST_JSON_ITER(v);
    const struct ast_json *one;
    struct ast_str unused;

    if (ast_json_type(v) != AST_JSON_ARRAY || !ast_json_count(v))
        return false;
    while (ast_json_next(&it, &unused, &one))
        if (ast_json_type(one) != AST_JSON_OBJECT)
            return false;
    return true;
}

/* A value on the right of "=". More than one element: one a line, indented by four. */
static void toml_inline(const struct ast_json *v, bool lines, struct ast_buf *out)
{
    struct ast_json_iter it = AST_JSON_ITER(v);
    const struct ast_json *one;
    struct ast_str key;
    bool first = true, is_array = ast_json_type(v) == AST_JSON_ARRAY;

    if (!is_container(v)) {
        add_scalar(v, /* yaml= */ false, out);
        return;
    }
    lines = lines && is_array && ast_json_count(v) > 1;
    ast_buf_add(out, is_array ? AST_STR("[") : AST_STR("{"));
    while (ast_json_next(&it, &key, &one)) {
        if (is_null(one))
            continue;
        ast_buf_add(out, lines ? AST_STR("\n    ") : first ? AST_STR("") : AST_STR(", "));
        first = false;
        if (!is_array) {
            toml_key(key, out);
            ast_buf_add_lit(out, " = ");
        }
        toml_inline(one, false, out);
        if (lines)
            ast_buf_add_byte(out, ',');
    }
    if (lines)
        ast_buf_add_byte(out, '\n');
    ast_buf_add_byte(out, is_array ? ']' : '}');
}

static void toml_table(const struct ast_json *v, struct ast_str path, struct ast_buf *out);

/* "[path]" or "[[path]]" and what is below it. */
static void toml_section(const struct ast_json *v, struct ast_str path, bool repeats,
                         struct ast_buf *out)
{
    if (out->n)
        ast_buf_add_byte(out, '\n');
    ast_buf_addf(out, "%s" AST_STR_FMT "%s\n", repeats ? "[[" : "[", AST_STR_ARG(path),
                 repeats ? "]]" : "]");
    toml_table(v, path, out);
}

/* Plain members first: behind a header they would belong to that. */
static void toml_table(const struct ast_json *v, struct ast_str path, struct ast_buf *out)
{
    struct ast_json_iter it = AST_JSON_ITER(v);
    const struct ast_json *one, *row;
    struct ast_str key, unused;

    while (ast_json_next(&it, &key, &one)) {
        if (is_null(one) || ast_json_type(one) == AST_JSON_OBJECT || is_table_array(one))
            continue;
        toml_key(key, out);
        ast_buf_add_lit(out, " = ");
        toml_inline(one, true, out);
        ast_buf_add_byte(out, '\n');
    }
    it = (struct ast_json_iter)AST_JSON_ITER(v);
    while (ast_json_next(&it, &key, &one)) {
        bool rows = is_table_array(one);
        if (!rows && ast_json_type(one) != AST_JSON_OBJECT)
            continue;
        AST_AUTO(ast_buf_done) struct ast_buf deeper = AST_BUF_INIT(SIZE_MAX / 2);
        ast_buf_add(&deeper, path);
        if (path.n)
            ast_buf_add_byte(&deeper, '.');
        toml_key(key, &deeper);
        if (deeper.fail)
            out->fail = deeper.fail;
        if (!rows)
            toml_section(one, ast_buf_view(&deeper), false, out);
        struct ast_json_iter each = AST_JSON_ITER(one);
        while (rows && ast_json_next(&each, &unused, &row))
            toml_section(row, ast_buf_view(&deeper), true, out);
    }
}

enum ast_rc cli_render_toml(const struct ast_json *v, struct ast_buf *out)
{
    struct ast_json_iter it = AST_JSON_ITER(v);
    const struct ast_json *row;
    struct ast_str unused;

    if (ast_json_type(v) == AST_JSON_OBJECT) {
        toml_table(v, AST_STR_NONE, out);
    } else if (is_table_array(v)) {
        while (ast_json_next(&it, &unused, &row))
            toml_section(row, AST_STR("value"), true, out);
    } else if (!is_null(v)) {
        ast_buf_add_lit(out, "value = ");
        toml_inline(v, true, out);
        ast_buf_add_byte(out, '\n');
    }
    return out->fail;
}
