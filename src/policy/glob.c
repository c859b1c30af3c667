/* A backtracking matcher with a bound on its steps: patterns come from tokens, texts from guests. */
#include "policy/glob.h"

#include "base/banned.h"

#define STEPS_MAX   200000u
#define NESTING_MAX 8u

/* ---- validity ---- */

/* The bytes of "[...]" at the front; 0: not closed, or a range is inverted (*ret_inverted). */
static size_t class_bytes(struct ast_str p, bool *ret_inverted)
{
    size_t i = 1;
    i += i < p.n && (p.p[i] == '!' || p.p[i] == '^');
    for (size_t first = i; i < p.n && (p.p[i] != ']' || i == first); i++)
        if (i + 2 < p.n && p.p[i + 1] == '-' && p.p[i + 2] != ']') {
            *ret_inverted = *ret_inverted || (unsigned char)p.p[i] > (unsigned char)p.p[i + 2];
            i += 2;
        }
    return i < p.n ? i + 1 : 0;
}

enum ast_rc ast_glob_check(struct ast_str p, struct ast_err *err)
{
    unsigned depth = 0;
    bool is_inverted = false;

    if (p.n > AST_GLOB_MAX)
        return ast_fail(err, AST_E_TOO_LARGE, "pattern longer than %u bytes", AST_GLOB_MAX);
    for (size_t i = 0; i < p.n; i++) {
        size_t n;
        switch (p.p[i]) {
        case '\\':
            if (++i == p.n)
                return ast_fail(err, AST_E_INVALID, "dangling '\\'");
            break;
        case '[':
            n = class_bytes(ast_str_from(p, i), &is_inverted);
            if (!n || is_inverted)
                return ast_fail(err, AST_E_INVALID,
                                is_inverted ? "invalid range" : "unclosed character class");
            i += n - 1;
            break;
        case '{':
            if (++depth > NESTING_MAX)
                return ast_fail(err, AST_E_INVALID, "alternatives nested too deep");
            break;
        case '}':
            if (!depth--)
                return ast_fail(err, AST_E_INVALID, "unopened alternative");
            break;
        default: break;
        }
    }
    return depth ? ast_fail(err, AST_E_INVALID, "unclosed alternative") : AST_OK;
}

/* ---- matching ---- */

/* What is still to match behind an alternative. */
struct rest {
    struct ast_str pattern;
    const struct rest *outer;
};

static bool match(struct ast_str p, const struct rest *outer, struct ast_str s, bool is_start,
                  unsigned *steps);

static bool match_class(struct ast_str p, unsigned char c, size_t *ret_n)
{
    size_t i = 1;
    bool is_negated = p.p[i] == '!' || p.p[i] == '^', has = false, ignored = false;

    *ret_n = class_bytes(p, &ignored);
    i += is_negated;
    for (size_t end = *ret_n - 1; i < end; i++) {
        unsigned char lo = (unsigned char)p.p[i], hi = lo;
        if (i + 2 < end && p.p[i + 1] == '-') {
            hi = (unsigned char)p.p[i + 2];
            i += 2;
        }
        has = has || (lo <= c && c <= hi);
    }
    return has != is_negated;
}

/* The rest matches behind some slash of `s`, from index `from` on. */
static bool after_a_slash(struct ast_str p, const struct rest *outer, struct ast_str s, size_t from,
                          unsigned *steps)
{
    for (size_t i = from; i < s.n; i++)
        if (s.p[i] == '/' && match(p, outer, ast_str_from(s, i + 1), false, steps))
            return true;
    return false;
}

static bool match_star(struct ast_str p, const struct rest *outer, struct ast_str s,
                       unsigned *steps)
{
    for (size_t i = 0; i <= s.n; i++)
        if (match(p, outer, ast_str_from(s, i), false, steps))
            return true;
    return false;
}

/* The index of the ',' or '}' that ends the alternative at `i`. */
static size_t alternative_end(struct ast_str p, size_t i)
{
    unsigned depth = 0;
    bool ignored = false;

    for (; i < p.n; i++) {
        if (p.p[i] == '\\')
            i++;
        else if (p.p[i] == '[')
            i += class_bytes(ast_str_from(p, i), &ignored) - 1;
        else if (p.p[i] == '{')
            depth++;
        else if (p.p[i] == '}' && !depth--)
            return i;
        else if (p.p[i] == ',' && !depth)
            return i;
    }
    return p.n;
}

static bool match_alternatives(struct ast_str p, const struct rest *outer, struct ast_str s,
                               unsigned *steps)
{
    size_t close = 1;
    bool has_any = false;

    while ((close = alternative_end(p, close)) < p.n && p.p[close] != '}')
        close++;
    struct rest rest = { ast_str_from(p, close + 1), outer };
    for (size_t at = 1; at <= close;) {
        size_t end = alternative_end(p, at);
        /* An empty alternative is dropped; one that leaves none is as if it were not there. */
        if (end > at) {
            has_any = true;
            if (match(ast_str_n(p.p + at, end - at), &rest, s, /* is_start= */ true, steps))
                return true;
        }
        at = end + 1;
    }
    return !has_any && match(rest.pattern, rest.outer, s, false, steps);
}

static bool match(struct ast_str p, const struct rest *outer, struct ast_str s, bool is_start,
                  unsigned *steps)
{
    for (;; is_start = false) {
        if (!p.n && outer) {
            p = outer->pattern;
            outer = outer->outer;
            continue;
        }
        if (!p.n)
            return s.n == 0;
        if (!(*steps)--) {
            *steps = 0;
            return false;
        }
        if (is_start && ast_str_starts(p, AST_STR("**/")))
            return match(ast_str_from(p, 3), outer, s, false, steps) ||
                   after_a_slash(ast_str_from(p, 3), outer, s, 0, steps);
        if (ast_str_starts(p, AST_STR("/**/")))
            return s.n && s.p[0] == '/' &&
                   (match(ast_str_from(p, 4), outer, ast_str_from(s, 1), false, steps) ||
                    after_a_slash(ast_str_from(p, 4), outer, s, 1, steps));
        if (ast_str_is(p, "/**") && !outer)
            return s.n && s.p[0] == '/';
        if (p.p[0] == '*') {
            while (p.n && p.p[0] == '*')
                p = ast_str_from(p, 1);
            return match_star(p, outer, s, steps);
        }
        if (p.p[0] == '{')
            return match_alternatives(p, outer, s, steps);
        if (!s.n)
            return false;
        size_t n = 1;
        if (p.p[0] == '[') {
            if (!match_class(p, (unsigned char)s.p[0], &n))
                return false;
        } else if (p.p[0] != '?') {
            size_t at = p.p[0] == '\\';
            if (p.p[at] != s.p[0])
                return false;
            n = at + 1;
        }
        p = ast_str_from(p, n);
        s = ast_str_from(s, 1);
    }
}

bool ast_glob_match(struct ast_str pattern, struct ast_str text)
{
    unsigned steps = STEPS_MAX;
    return !ast_glob_check(pattern, NULL) &&
           match(pattern, /* outer= */ NULL, text, /* is_start= */ true, &steps);
}
