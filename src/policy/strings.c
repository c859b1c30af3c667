/* Lists of strings and quoting: what profiles and groups have in common. */
#include "policy/policy_priv.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/banned.h"

const char *policy_quote(struct ast_str s, char out[static POLICY_QUOTE_BYTES])
{
    size_t n = 0;

    out[n++] = '"';
    for (size_t i = 0; i < s.n && n < POLICY_QUOTE_BYTES - 12; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c == '\\') {
            out[n++] = '\\';
            out[n++] = (char)c;
        } else if (c == '\n' || c == '\r' || c == '\t') {
            out[n++] = '\\';
            out[n++] = c == '\n' ? 'n' : c == '\r' ? 'r' : 't';
        } else if (c < 0x20 || c == 0x7f) {
            n += (size_t)snprintf(out + n, 12, "\\u{%x}", c);
        } else {
            out[n++] = (char)c;
        }
    }
    out[n++] = '"';
    out[n] = 0;
    return out;
}

bool ast_strings_add(struct ast_strings *s, struct ast_str value)
{
    char *copy = ast_str_dup(value);
    struct ast_str *grown = copy ? realloc(s->v, (s->n + 1) * sizeof *grown) : NULL;
    if (!grown) {
        free(copy);
        return false;
    }
    s->v = grown;
    s->v[s->n++] = (struct ast_str){ copy, value.n };
    return true;
}

bool ast_strings_has(const struct ast_strings *s, struct ast_str value)
{
    for (size_t i = 0; i < s->n; i++)
        if (ast_str_eq(s->v[i], value))
            return true;
    return false;
}

bool policy_strings_copy(const struct ast_strings *from, struct ast_strings *to)
{
    for (size_t i = 0; i < from->n; i++)
        if (!ast_strings_add(to, from->v[i]))
            return false;
    return true;
}

void ast_strings_done(struct ast_strings *s)
{
    for (size_t i = 0; i < s->n; i++)
        free((char *)(uintptr_t)s->v[i].p);
    free(s->v);
    *s = (struct ast_strings){ 0 };
}

enum ast_rc policy_strings_read(const struct ast_json *array, const char *key,
                                struct ast_strings *ret, struct ast_err *err)
{
    if (!array)
        return AST_OK;
    if (ast_json_type(array) != AST_JSON_ARRAY)
        return ast_fail(err, AST_E_INVALID, "%s: expected an array of strings, found %s", key,
                        ast_json_type_name(array));

    struct ast_json_iter it = AST_JSON_ITER(array);
    const struct ast_json *element;
    struct ast_str unused, text;
    while (ast_json_next(&it, &unused, &element)) {
        if (!ast_json_string(element, &text))
            return ast_fail(err, AST_E_INVALID, "%s: expected a string, found %s", key,
                            ast_json_type_name(element));
        if (!ast_strings_add(ret, text))
            return ast_fail(err, AST_E_NO_MEMORY, "%s", key);
    }
    return AST_OK;
}

enum ast_rc policy_known_keys(const struct ast_json *object, const struct ast_str *known,
                              size_t count, struct ast_err *err)
{
    struct ast_json_iter it = AST_JSON_ITER(object);
    const struct ast_json *value;
    struct ast_str key;
    char quoted[POLICY_QUOTE_BYTES];

    while (ast_json_next(&it, &key, &value)) {
        size_t i = 0;
        while (i < count && !ast_str_eq(known[i], key))
            i++;
        if (i == count)
            return ast_fail(err, AST_E_INVALID, "unknown field %s", policy_quote(key, quoted));
    }
    return AST_OK;
}
