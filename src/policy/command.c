/* Which command lines an allowance covers. The pattern is ours or the operator's; the command comes from a
 * guest, so every refusal errs on the side of asking a person again. */
#include "policy/command.h"

#include "base/banned.h"

#define STEPS_MAX    100000u /* of one match: about a millisecond */
#define NESTING_MAX  8u      /* braces within braces */
#define METACHARS    "*?[]{}\\"
#define ANY_ARGUMENT AST_STR(" *")

/* --- Plain commands ------------------------------------------------------------------------------ */

static bool is_refused(unsigned char c)
{
    return c < 0x20 || c == 0x7f || strchr(";|&`<>", c);
}

static bool is_quoting(unsigned char c)
{
    return c == '\'' || c == '"' || c == '\\'; /* a shell removes them: "."./x is ../x */
}

static bool ends_piece(unsigned char c)
{
    return c && strchr(" /=:,(){}", c);
}

bool ast_command_is_plain(struct ast_str command)
{
    size_t piece = 0,
           dots = 0; /* characters of the piece before i, and how many of them are dots */

    for (size_t i = 0; i < command.n; i++) {
        unsigned char c = (unsigned char)command.p[i];
        if (is_refused(c) || (c == '$' && i + 1 < command.n && command.p[i + 1] == '('))
            return false;
        if (is_quoting(c))
            continue;
        if (ends_piece(c)) {
            if (piece == 2 && dots == 2)
                return false;
            piece = dots = 0;
        } else {
            piece++;
            dots += c == '.';
        }
    }
    return !(piece == 2 && dots == 2);
}

/* --- Patterns ------------------------------------------------------------------------------------ */

enum ast_rc ast_command_pattern(struct ast_str action, struct ast_buf *out)
{
    for (size_t i = 0; i < action.n; i++) {
        if (memchr(METACHARS, action.p[i], sizeof METACHARS - 1))
            ast_buf_add_byte(out, '\\');
        ast_buf_add_byte(out, action.p[i]);
    }
    return ast_buf_add(out, ANY_ARGUMENT);
}

/* What is still to match behind a group: the rest of the pattern, then its own outer rest. */
struct rest {
    struct ast_str pattern;
    const struct rest *outer;
};

struct match {
    unsigned steps;
};

/* Bytes of the character at the front. */
static size_t char_bytes(struct ast_str s)
{
    size_t n = 1;
    while (n < s.n && ((unsigned char)s.p[n] & 0xc0) == 0x80)
        n++;
    return n;
}

/* "[...]" at the front of the pattern. *ret_n: its bytes; 0 when it is not closed. */
static bool set_has(struct ast_str pattern, struct ast_str one, size_t *ret_n)
{
    size_t i = 1;
    bool negated = i < pattern.n && (pattern.p[i] == '!' || pattern.p[i] == '^'), has = false;
    i += negated;
    *ret_n = 0;
    for (size_t first = i; i < pattern.n && (pattern.p[i] != ']' || i == first);) {
        struct ast_str from = ast_str_from(pattern, i);
        from = ast_str_first(from, char_bytes(from));
        struct ast_str to = from;
        i += from.n;
        if (i + 1 < pattern.n && pattern.p[i] == '-' && pattern.p[i + 1] != ']') {
            to = ast_str_from(pattern, i + 1);
            to = ast_str_first(to, char_bytes(to));
            i += 1 + to.n;
        }
        /* UTF-8 keeps the order of characters. */
        has = has || (ast_str_cmp(from, one) <= 0 && ast_str_cmp(one, to) <= 0);
    }
    if (i < pattern.n)
        *ret_n = i + 1;
    return has != negated;
}

/* The end of the "{...}" at the front: the index of its '}'; 0 when it is not closed. */
static size_t group_end(struct ast_str pattern)
{
    unsigned depth = 0;
    for (size_t i = 0; i < pattern.n; i++) {
        char c = pattern.p[i];
        if (c == '\\')
            i++;
        else if (c == '{')
            depth++;
        else if (c == '}' && --depth == 0)
            return i;
    }
    return 0;
}

static bool match(struct match *m, struct ast_str pattern, struct ast_str text,
                  const struct rest *rest, unsigned depth);

/* "{a,b}" at the front: each alternative with what follows. */
static bool match_group(struct match *m, struct ast_str pattern, struct ast_str text,
                        const struct rest *rest, unsigned depth)
{
    size_t end = group_end(pattern), from = 1;
    const struct rest after = { ast_str_from(pattern, end + 1), rest };
    unsigned inner = 0;

    m->steps += (unsigned)end;
    if (!end || depth >= NESTING_MAX)
        return false;
    for (size_t i = 1; i <= end; i++) {
        char c = pattern.p[i];
        if (c == '\\') {
            i++;
        } else if (c == '{') {
            inner++;
        } else if (i == end || (c == ',' && inner == 0)) {
            if (match(m, ast_str_n(pattern.p + from, i - from), text, &after, depth + 1))
                return true;
            from = i + 1;
        } else if (c == '}') {
            inner--;
        }
    }
    return false;
}

/* One element that is no star and no group. *ret_pattern and *ret_text: bytes it takes of each. */
static bool match_one(struct ast_str pattern, struct ast_str text, size_t *ret_pattern,
                      size_t *ret_text)
{
    struct ast_str one = ast_str_first(text, char_bytes(text));
    size_t literal = 0;

    *ret_text = one.n;
    switch (pattern.p[0]) {
    case '?': *ret_pattern = 1; return true;
    case '[': {
        bool has = set_has(pattern, one, ret_pattern);
        return *ret_pattern && has;
    }
    case '\\':
        if (pattern.n < 2)
            return false;
        literal = 1;
        break;
    default: break;
    }
    *ret_pattern = literal + 1;
    *ret_text = 1;
    return pattern.p[literal] == text.p[0];
}

/* A star gives way one character at a time; the last one seen is enough, because an earlier one could only
 * take more of what the later ones can take too. */
static bool match(struct match *m, struct ast_str pattern, struct ast_str text,
                  const struct rest *rest, unsigned depth)
{
    struct ast_str star_pattern = AST_STR_NONE, star_text = AST_STR_NONE;
    const struct rest *star_rest = NULL;
    bool has_star = false;

    for (;;) {
        if (++m->steps > STEPS_MAX)
            return false;
        while (!pattern.n && rest) {
            pattern = rest->pattern;
            rest = rest->outer;
        }
        if (!pattern.n && !text.n)
            return true;
        size_t p = 0, t = 0;
        if (pattern.n && pattern.p[0] == '*') {
            pattern = ast_str_from(pattern, 1);
            has_star = true;
            star_pattern = pattern;
            star_text = text;
            star_rest = rest;
            continue;
        }
        if (pattern.n && pattern.p[0] == '{') {
            if (match_group(m, pattern, text, rest, depth))
                return true;
        } else if (pattern.n && text.n && match_one(pattern, text, &p, &t)) {
            pattern = ast_str_from(pattern, p);
            text = ast_str_from(text, t);
            continue;
        }
        if (!has_star || !star_text.n)
            return false;
        star_text = ast_str_from(star_text, char_bytes(star_text));
        pattern = star_pattern;
        text = star_text;
        rest = star_rest;
    }
}

/* Whether the pattern's literal text, escapes removed, is `text`. */
static bool is_literally(struct ast_str pattern, struct ast_str text)
{
    size_t at = 0;
    for (size_t i = 0; i < pattern.n; i++) {
        if (pattern.p[i] == '\\' && ++i == pattern.n)
            return false;
        if (at == text.n || text.p[at++] != pattern.p[i])
            return false;
    }
    return at == text.n;
}

bool ast_command_match(struct ast_str pattern, struct ast_str command)
{
    if (!pattern.n || pattern.n > AST_COMMAND_MAX_PATTERN || !ast_command_is_plain(command))
        return false;
    struct match m = { 0 };
    if (match(&m, pattern, command, /* rest= */ NULL, /* depth= */ 0))
        return true;
    /* differs: the text before " *" is compared without its escapes (spec 05 §12.2) */
    return ast_str_ends(pattern, ANY_ARGUMENT) &&
           is_literally(ast_str_first(pattern, pattern.n - ANY_ARGUMENT.n), command);
}
