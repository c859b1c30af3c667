/* TOML: a bound on nesting, then the bridge, then the JSON parser.
 *
 * The bridge's recursion (and that of its destructors) follows the nesting of the document, and
 * toml++ does not limit dotted keys: "a.a.a..." of a mebibyte would be half a million levels. So
 * this file refuses such text before toml++ sees it.
 */
#include "base/toml.h"

#include "base/json_priv.h"
#include "base/toml_priv.h"

#include "base/banned.h"

#define MAX_LEVELS     128
#define MAX_JSON_BYTES ((size_t)8 * AST_TOML_MAX_BYTES) /* escapes grow a byte to six at most */

/* --- Callbacks of the bridge --------------------------------------------------------------- */

void toml_put_text(void *out, const char *p, size_t n)
{
    json_put(out, (struct ast_str){ p, n });
}

void toml_put_string(void *out, const char *p, size_t n)
{
    json_put_foreign(out, (struct ast_str){ p, n });
}

void toml_put_integer(void *out, int64_t v)
{
    json_put_i64(out, v);
}

void toml_put_real(void *out, double v)
{
    json_put_f64(out, v);
}

/* --- Nesting ------------------------------------------------------------------------------- */

/* Skips a string that starts at p[0] == quote; returns where to go on. An unterminated one ends at
 * the line (or the text, for the triple form): toml++ will say so. */
static size_t skip_string(struct ast_str s)
{
    char quote = s.p[0];
    bool is_basic = quote == '"';
    bool is_long = s.n >= 3 && s.p[1] == quote && s.p[2] == quote;
    size_t i = is_long ? 3 : 1;
    while (i < s.n) {
        char c = s.p[i];
        if (c == '\\' && is_basic) {
            i += 2;
        } else if (c == quote && !is_long) {
            return i + 1;
        } else if (c == quote && i + 2 < s.n && s.p[i + 1] == quote && s.p[i + 2] == quote) {
            /* Up to two quotes may stand right before the closing three. */
            i += 3;
            for (int extra = 0; extra < 2 && i < s.n && s.p[i] == quote; extra++)
                i++;
            return i;
        } else if (c == '\n' && !is_long) {
            return i;
        } else {
            i++;
        }
    }
    return s.n;
}

/* Counts, per open bracket, the dots of the key that is being read. Dots in numbers count too, but
 * a comma or the end of the line forgets them. */
static bool is_nested_too_deep(struct ast_str s)
{
    unsigned dots[MAX_LEVELS + 1] = { 0 }; /* per open bracket; [0] is the line itself */
    unsigned depth = 0, total = 0;
    for (size_t i = 0; i < s.n; i++) {
        switch (s.p[i]) {
        case '"':
        case '\'': i += skip_string(ast_str_from(s, i)) - 1; break;
        case '#':
            while (i + 1 < s.n && s.p[i + 1] != '\n')
                i++;
            break;
        case '.':
            dots[depth]++;
            total++;
            break;
        case '[':
        case '{':
            if (depth == MAX_LEVELS)
                return true;
            dots[++depth] = 0;
            total++;
            break;
        case ']':
        case '}':
            if (depth) {
                total -= dots[depth--] + 1;
                break;
            }
            break;
        case ',':
            total -= dots[depth];
            dots[depth] = 0;
            break;
        case '\n':
            /* Inside brackets a line may end anywhere, between key and value not. */
            if (depth == 0) {
                total -= dots[0];
                dots[0] = 0;
            }
            break;
        default: break;
        }
        if (total > MAX_LEVELS)
            return true;
    }
    return false;
}

enum ast_rc ast_toml_parse(struct ast_str text, struct ast_json_doc **ret, struct ast_err *err)
{
    if (text.n > AST_TOML_MAX_BYTES)
        return ast_fail(err, AST_E_TOO_LARGE, "TOML larger than %d bytes", AST_TOML_MAX_BYTES);
    if (is_nested_too_deep(text))
        return ast_fail(err, AST_E_TOO_LARGE, "TOML nested deeper than %d levels", MAX_LEVELS);

    AST_AUTO(ast_buf_done) struct ast_buf json = AST_BUF_INIT(MAX_JSON_BYTES);
    char why[512] = "";
    switch (toml_bridge_parse(text.p ? text.p : "", text.n, &json, why, sizeof why)) {
    case TOML_OUTCOME_OK: break;
    case TOML_OUTCOME_INVALID: return ast_fail(err, AST_E_INVALID, "%s", why);
    case TOML_OUTCOME_NO_MEMORY: return ast_fail(err, AST_E_NO_MEMORY, "TOML document");
    }
    enum ast_rc rc = ast_buf_check(&json, "TOML document", err);
    return rc ? rc : ast_json_parse(ast_buf_view(&json), ret, err);
}
