/* Versions and requirements. The dialect is Cargo's: a bare version means '^', comparators are joined by commas, a
 * pre-release matches only where a comparator names the same triple with a pre-release of its own. */
#include "capsule/semver.h"

#include <stdlib.h>

#include "base/banned.h"

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool identifier_byte(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-';
}

static bool all_digits(struct ast_str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!is_digit(s.p[i]))
            return false;
    return s.n > 0;
}

/* Dotted identifiers: non-empty, [0-9A-Za-z-]; numeric ones without leading zero in a pre-release. */
static enum ast_rc check_identifiers(struct ast_str s, const char *what, bool strict_numbers,
                                     struct ast_err *err)
{
    struct ast_str rest = s, piece;
    bool more = true;

    while (ast_str_split(&rest, &more, '.', &piece)) {
        if (piece.n == 0)
            return ast_fail(err, AST_E_INVALID, "empty identifier segment in %s", what);
        for (size_t i = 0; i < piece.n; i++)
            if (!identifier_byte(piece.p[i]))
                return ast_fail(err, AST_E_INVALID, "unexpected character '%c' in %s", piece.p[i],
                                what);
        if (strict_numbers && piece.n > 1 && piece.p[0] == '0' && all_digits(piece))
            return ast_fail(err, AST_E_INVALID, "invalid leading zero in %s", what);
    }
    return AST_OK;
}

/* Cuts decimal digits off *s. */
static enum ast_rc take_number(struct ast_str *s, const char *what, uint64_t *ret,
                               struct ast_err *err)
{
    size_t n = 0;

    while (n < s->n && is_digit(s->p[n]))
        n++;
    if (n == 0 && s->n == 0)
        return ast_fail(err, AST_E_INVALID,
                        "unexpected end of input while parsing %s version number", what);
    if (n == 0)
        return ast_fail(err, AST_E_INVALID,
                        "unexpected character '%c' while parsing %s version number", s->p[0], what);
    if (n > 1 && s->p[0] == '0')
        return ast_fail(err, AST_E_INVALID, "invalid leading zero in %s version number", what);
    if (!ast_str_to_u64(ast_str_first(*s, n), ret))
        return ast_fail(err, AST_E_INVALID, "value of %s version number exceeds u64::MAX", what);
    *s = ast_str_from(*s, n);
    return AST_OK;
}

static bool take_byte(struct ast_str *s, char c)
{
    if (s->n == 0 || s->p[0] != c)
        return false;
    *s = ast_str_from(*s, 1);
    return true;
}

/* "-pre" and "+build" behind the numbers; everything must be used up. */
static enum ast_rc take_tail(struct ast_str *s, struct ast_str *ret_pre, struct ast_str *ret_build,
                             struct ast_err *err)
{
    enum ast_rc rc = AST_OK;

    if (take_byte(s, '-')) {
        size_t end = ast_str_find_byte(*s, '+');
        *ret_pre = ast_str_first(*s, end);
        *s = ast_str_from(*s, ret_pre->n);
        rc = check_identifiers(*ret_pre, "pre-release identifier", true, err);
    }
    if (!rc && take_byte(s, '+')) {
        *ret_build = *s;
        *s = ast_str_from(*s, s->n);
        rc = check_identifiers(*ret_build, "build metadata", false, err);
    }
    if (!rc && s->n)
        rc = ast_fail(err, AST_E_INVALID, "unexpected character '%c' after patch version number",
                      s->p[0]);
    return rc;
}

enum ast_rc ast_semver_parse(struct ast_str text, struct ast_semver *ret, struct ast_err *err)
{
    struct ast_semver v = { 0 };
    struct ast_str s = text;

    if (s.n == 0)
        return ast_fail(err, AST_E_INVALID, "empty string, expected a semver version");
    enum ast_rc rc = take_number(&s, "major", &v.major, err);
    if (!rc && !take_byte(&s, '.'))
        rc = ast_fail(err, AST_E_INVALID, "expected '.' after major version number");
    if (!rc)
        rc = take_number(&s, "minor", &v.minor, err);
    if (!rc && !take_byte(&s, '.'))
        rc = ast_fail(err, AST_E_INVALID, "expected '.' after minor version number");
    if (!rc)
        rc = take_number(&s, "patch", &v.patch, err);
    if (!rc)
        rc = take_tail(&s, &v.pre, &v.build, err);
    if (!rc)
        *ret = v;
    return rc;
}

/* ---- comparing ---- */

static int cmp_u64(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

/* Numeric identifiers by value (leading zeros only matter on a tie), before alphanumeric ones. */
static int cmp_identifier(struct ast_str a, struct ast_str b)
{
    bool na = all_digits(a), nb = all_digits(b);

    if (na != nb)
        return na ? -1 : 1;
    if (na) {
        struct ast_str x = a, y = b;
        while (x.n > 1 && x.p[0] == '0')
            x = ast_str_from(x, 1);
        while (y.n > 1 && y.p[0] == '0')
            y = ast_str_from(y, 1);
        int by_size = cmp_u64(x.n, y.n);
        if (by_size)
            return by_size;
        int by_value = ast_str_cmp(x, y);
        return by_value ? by_value : cmp_u64(a.n, b.n);
    }
    return ast_str_cmp(a, b);
}

static int cmp_identifiers(struct ast_str a, struct ast_str b)
{
    struct ast_str arest = a, brest = b, x, y;
    bool amore = true, bmore = true;

    for (;;) {
        bool ha = ast_str_split(&arest, &amore, '.', &x);
        bool hb = ast_str_split(&brest, &bmore, '.', &y);
        if (!ha || !hb)
            return (int)ha - (int)hb;
        int c = cmp_identifier(x, y);
        if (c)
            return c;
    }
}

/* A pre-release comes before its release. */
static int cmp_pre(struct ast_str a, struct ast_str b)
{
    if (a.n == 0 || b.n == 0)
        return (a.n == 0) - (b.n == 0);
    return cmp_identifiers(a, b);
}

static int cmp_triple(const struct ast_semver *a, uint64_t major, uint64_t minor, uint64_t patch)
{
    int c = cmp_u64(a->major, major);
    if (!c)
        c = cmp_u64(a->minor, minor);
    return c ? c : cmp_u64(a->patch, patch);
}

int ast_semver_cmp(const struct ast_semver *a, const struct ast_semver *b)
{
    int c = cmp_triple(a, b->major, b->minor, b->patch);
    if (!c)
        c = cmp_pre(a->pre, b->pre);
    if (c)
        return c;
    if (a->build.n == 0 || b->build.n == 0)
        return (b->build.n == 0) - (a->build.n == 0);
    return cmp_identifiers(a->build, b->build);
}

/* ---- requirements ---- */

static const struct {
    const char *text;
    enum ast_semver_op op;
} operators[] = {
    /* longer ones first */
    { ">=", AST_SEMVER_GE },   { "<=", AST_SEMVER_LE },   { ">", AST_SEMVER_GT },
    { "<", AST_SEMVER_LT },    { "=", AST_SEMVER_EXACT }, { "~", AST_SEMVER_TILDE },
    { "^", AST_SEMVER_CARET },
};

static struct ast_str skip_spaces(struct ast_str s)
{
    while (s.n && s.p[0] == ' ')
        s = ast_str_from(s, 1);
    return s;
}

static bool take_wildcard(struct ast_str *s)
{
    return take_byte(s, '*') || take_byte(s, 'x') || take_byte(s, 'X');
}

/* ".minor", ".patch", each possibly a wildcard that ends the numbers. */
static enum ast_rc take_partial(struct ast_str *s, struct ast_semver_comparator *c,
                                bool has_operator, struct ast_err *err)
{
    enum ast_rc rc = take_number(s, "major", &c->major, err);
    bool wild = false;

    if (rc || !take_byte(s, '.'))
        return rc;
    if (take_wildcard(s)) {
        wild = true;
    } else {
        rc = take_number(s, "minor", &c->minor, err);
        c->has_minor = !rc;
    }
    if (!rc && take_byte(s, '.')) {
        if (take_wildcard(s)) {
            wild = true;
        } else if (wild) {
            return ast_fail(err, AST_E_INVALID,
                            "unexpected character after wildcard in version req");
        } else {
            rc = take_number(s, "patch", &c->patch, err);
            c->has_patch = !rc;
        }
    }
    if (!rc && wild && !has_operator)
        c->op = AST_SEMVER_WILDCARD;
    return rc;
}

static enum ast_rc parse_comparator(struct ast_str text, struct ast_semver_comparator *ret,
                                    struct ast_err *err)
{
    struct ast_semver_comparator c = { .op = AST_SEMVER_CARET };
    struct ast_str s = text, build = AST_STR_NONE;
    bool has_operator = false;

    for (size_t i = 0; i < AST_ARRAY_LEN(operators) && !has_operator; i++) {
        if (ast_str_starts(s, ast_str_c(operators[i].text))) {
            c.op = operators[i].op;
            s = skip_spaces(ast_str_from(s, strlen(operators[i].text)));
            has_operator = true;
        }
    }
    enum ast_rc rc = take_partial(&s, &c, has_operator, err);
    if (!rc && c.has_patch)
        rc = take_tail(&s, &c.pre, &build, err);
    if (!rc && s.n)
        rc =
            ast_fail(err, AST_E_INVALID, "expected comma after version number, found '%c'", s.p[0]);
    if (!rc)
        *ret = c;
    return rc;
}

enum ast_rc ast_semver_req_parse(struct ast_str text, struct ast_semver_req *ret,
                                 struct ast_err *err)
{
    struct ast_semver_req req = { .n = 0 };
    struct ast_str rest = text, piece;
    bool more = true;

    if (ast_str_trim(text).n == 0)
        return ast_fail(err, AST_E_INVALID,
                        "unexpected end of input while parsing major version number");
    struct ast_str whole = ast_str_trim(text);
    if (take_wildcard(&whole)) {
        if (whole.n)
            return ast_fail(err, AST_E_INVALID,
                            "wildcard req (*) must be the only comparator in the version req");
        *ret = req;
        return AST_OK;
    }
    while (ast_str_split(&rest, &more, ',', &piece)) {
        if (req.n == AST_SEMVER_MAX_COMPARATORS)
            return ast_fail(err, AST_E_INVALID, "excessive number of version comparators");
        struct ast_str one = ast_str_trim(piece);
        if (one.n && (one.p[0] == '*' || one.p[0] == 'x' || one.p[0] == 'X'))
            return ast_fail(err, AST_E_INVALID,
                            "wildcard req (*) must be the only comparator in the version req");
        enum ast_rc rc = parse_comparator(one, &req.v[req.n], err);
        if (rc)
            return rc;
        req.n++;
    }
    *ret = req;
    return AST_OK;
}

/* Equal as far as the comparator says. */
static bool matches_exact(const struct ast_semver_comparator *c, const struct ast_semver *v)
{
    if (v->major != c->major || (c->has_minor && v->minor != c->minor) ||
        (c->has_patch && v->patch != c->patch))
        return false;
    return !c->has_patch || cmp_pre(v->pre, c->pre) == 0;
}

static bool matches_greater(const struct ast_semver_comparator *c, const struct ast_semver *v)
{
    if (v->major != c->major)
        return v->major > c->major;
    if (!c->has_minor)
        return false;
    if (v->minor != c->minor)
        return v->minor > c->minor;
    if (!c->has_patch)
        return false;
    if (v->patch != c->patch)
        return v->patch > c->patch;
    return cmp_pre(v->pre, c->pre) > 0;
}

static bool matches_less(const struct ast_semver_comparator *c, const struct ast_semver *v)
{
    if (v->major != c->major)
        return v->major < c->major;
    if (!c->has_minor)
        return false;
    if (v->minor != c->minor)
        return v->minor < c->minor;
    if (!c->has_patch)
        return false;
    if (v->patch != c->patch)
        return v->patch < c->patch;
    return cmp_pre(v->pre, c->pre) < 0;
}

static bool matches_tilde(const struct ast_semver_comparator *c, const struct ast_semver *v)
{
    if (v->major != c->major || (c->has_minor && v->minor != c->minor))
        return false;
    if (c->has_patch && v->patch != c->patch)
        return v->patch > c->patch;
    return !c->has_patch || cmp_pre(v->pre, c->pre) >= 0;
}

static bool matches_caret(const struct ast_semver_comparator *c, const struct ast_semver *v)
{
    if (v->major != c->major)
        return false;
    if (!c->has_minor)
        return true;
    if (!c->has_patch)
        return c->major > 0 ? v->minor >= c->minor : v->minor == c->minor;
    if (c->major > 0) {
        if (v->minor != c->minor)
            return v->minor > c->minor;
        if (v->patch != c->patch)
            return v->patch > c->patch;
    } else if (c->minor > 0) {
        if (v->minor != c->minor)
            return false;
        if (v->patch != c->patch)
            return v->patch > c->patch;
    } else if (v->minor != c->minor || v->patch != c->patch) {
        return false;
    }
    return cmp_pre(v->pre, c->pre) >= 0;
}

static bool matches_one(const struct ast_semver_comparator *c, const struct ast_semver *v)
{
    switch (c->op) {
    case AST_SEMVER_EXACT:
    case AST_SEMVER_WILDCARD: return matches_exact(c, v);
    case AST_SEMVER_GT: return matches_greater(c, v);
    case AST_SEMVER_GE: return matches_exact(c, v) || matches_greater(c, v);
    case AST_SEMVER_LT: return matches_less(c, v);
    case AST_SEMVER_LE: return matches_exact(c, v) || matches_less(c, v);
    case AST_SEMVER_TILDE: return matches_tilde(c, v);
    case AST_SEMVER_CARET: return matches_caret(c, v);
    }
    return false;
}

bool ast_semver_matches(const struct ast_semver_req *req, const struct ast_semver *v)
{
    for (size_t i = 0; i < req->n; i++)
        if (!matches_one(&req->v[i], v))
            return false;
    if (v->pre.n == 0)
        return true;
    for (size_t i = 0; i < req->n; i++) {
        const struct ast_semver_comparator *c = &req->v[i];
        if (c->pre.n && c->has_patch && cmp_triple(v, c->major, c->minor, c->patch) == 0)
            return true;
    }
    return false;
}

enum ast_rc ast_semver_req_print(const struct ast_semver_req *req, struct ast_buf *out)
{
    static const char *const texts[] = {
        [AST_SEMVER_EXACT] = "=", [AST_SEMVER_GT] = ">",     [AST_SEMVER_GE] = ">=",
        [AST_SEMVER_LT] = "<",    [AST_SEMVER_LE] = "<=",    [AST_SEMVER_TILDE] = "~",
        [AST_SEMVER_CARET] = "^", [AST_SEMVER_WILDCARD] = ""
    };
    if (req->n == 0)
        return ast_buf_add_lit(out, "*");
    for (size_t i = 0; i < req->n; i++) {
        const struct ast_semver_comparator *c = &req->v[i];
        ast_buf_addf(out, "%s%s%llu", i ? ", " : "", texts[c->op], (unsigned long long)c->major);
        if (c->has_minor)
            ast_buf_addf(out, ".%llu", (unsigned long long)c->minor);
        if (c->has_patch)
            ast_buf_addf(out, ".%llu", (unsigned long long)c->patch);
        else if (c->op == AST_SEMVER_WILDCARD)
            ast_buf_add_lit(out, ".*");
        if (c->pre.n)
            ast_buf_addf(out, "-" AST_STR_FMT, AST_STR_ARG(c->pre));
    }
    return out->fail;
}
