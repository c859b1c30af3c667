/* Principal and capsule ids: one table of characters, the texts of spec 01 §1 and spec 07 §2.10. */
#include "base/id.h"

#include "base/banned.h"

enum { IN_PRINCIPAL = 1, IN_CAPSULE = 2 };

static const uint8_t classes[256] = {
    ['0' ... '9'] = IN_PRINCIPAL | IN_CAPSULE,
    ['a' ... 'z'] = IN_PRINCIPAL | IN_CAPSULE,
    ['-'] = IN_PRINCIPAL | IN_CAPSULE,
    ['A' ... 'Z'] = IN_PRINCIPAL,
    ['_'] = IN_PRINCIPAL,
};

/* Index of the first byte outside the class, s.n when there is none. */
static size_t first_foreign(struct ast_str s, uint8_t class)
{
    size_t i = 0;
    while (i < s.n && (classes[(unsigned char)s.p[i]] & class))
        i++;
    return i;
}

/* The whole UTF-8 character at `at`, so that a message shows what the user typed. */
static struct ast_str character_at(struct ast_str s, size_t at)
{
    size_t end = at + 1;
    while (end < s.n && end < at + 4 && ((unsigned char)s.p[end] & 0xc0) == 0x80)
        end++;
    return (struct ast_str){ s.p + at, end - at };
}

bool ast_principal_valid(struct ast_str s)
{
    return s.n >= 1 && s.n <= AST_PRINCIPAL_MAX && first_foreign(s, IN_PRINCIPAL) == s.n;
}

enum ast_rc ast_principal_parse(struct ast_str s, struct ast_principal *ret, struct ast_err *err)
{
    if (s.n == 0)
        return ast_fail(err, AST_E_INVALID, "principal id must not be empty");
    if (s.n > AST_PRINCIPAL_MAX)
        return ast_fail(err, AST_E_INVALID, "principal id exceeds 64 characters");
    size_t bad = first_foreign(s, IN_PRINCIPAL);
    if (bad < s.n)
        return ast_fail(err, AST_E_INVALID,
                        "principal id contains invalid character '" AST_STR_FMT
                        "' (allowed: a-z, A-Z, 0-9, -, _)",
                        AST_STR_ARG(character_at(s, bad)));

    struct ast_principal p = { .n = (uint8_t)s.n };
    memcpy(p.name, s.p, s.n);
    *ret = p;
    return AST_OK;
}

const char *ast_principal_class(struct ast_str principal)
{
    if (principal.n == 0)
        return "system";
    if (ast_str_starts(principal, AST_STR("agent.")) ||
        ast_str_starts(principal, AST_STR("agent:")))
        return "agent";
    return "user";
}

bool ast_capsule_id_valid(struct ast_str s)
{
    return s.n >= 1 && first_foreign(s, IN_CAPSULE) == s.n;
}

enum ast_rc ast_capsule_id_check(struct ast_str s, struct ast_err *err)
{
    if (s.n == 0)
        return ast_fail(err, AST_E_INVALID, "capsule id must not be empty");
    if (!ast_capsule_id_valid(s))
        return ast_fail(
            err, AST_E_INVALID,
            "capsule id must contain only lowercase alphanumeric characters and hyphens, "
            "got: " AST_STR_FMT,
            AST_STR_ARG(s));
    return AST_OK;
}
