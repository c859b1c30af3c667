/* The capability grammar and its matcher: the smallest part of policy, and the one everything leans on. */
#include "policy/capability.h"

#include "base/banned.h"

static bool segment_byte_ok(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

/* The whole character that starts at p, for a message. */
static struct ast_str character_at(const char *p, const char *end)
{
    size_t n = 1;
    while (p + n < end && ((unsigned char)p[n] & 0xc0) == 0x80)
        n++;
    return (struct ast_str){ p, n };
}

static enum ast_rc check_segment(struct ast_str seg, struct ast_err *err)
{
    if (seg.n == 0)
        return ast_fail(
            err, AST_E_INVALID,
            "capability contains an empty segment (leading, trailing, or consecutive ':')");
    if (ast_str_is(seg, "*"))
        return AST_OK;
    if (ast_str_find_byte(seg, '*') != AST_STR_NPOS)
        return ast_fail(err, AST_E_INVALID,
                        "capability segment \"" AST_STR_FMT
                        "\" mixes '*' with other characters; '*' must stand alone in a segment",
                        AST_STR_ARG(seg));
    for (size_t i = 0; i < seg.n; i++) {
        if (segment_byte_ok(seg.p[i]))
            continue;
        struct ast_str c = character_at(seg.p + i, seg.p + seg.n);
        return ast_fail(err, AST_E_INVALID,
                        "capability segment \"" AST_STR_FMT
                        "\" contains invalid character '" AST_STR_FMT
                        "' (allowed: a-z, A-Z, 0-9, -, _, or literal '*')",
                        AST_STR_ARG(seg), AST_STR_ARG(c));
    }
    return AST_OK;
}

enum ast_rc ast_cap_check(struct ast_str cap, struct ast_err *err)
{
    if (cap.n == 0)
        return ast_fail(err, AST_E_INVALID, "capability must not be empty");
    if (cap.n > AST_CAP_MAX_BYTES)
        return ast_fail(err, AST_E_INVALID, "capability exceeds %u bytes", AST_CAP_MAX_BYTES);
    if (ast_str_find(cap, AST_STR("**")) != AST_STR_NPOS)
        return ast_fail(err, AST_E_INVALID,
                        "capability may not contain '**' (double glob is reserved)");

    struct ast_str rest = cap, seg;
    bool more = true;
    while (ast_str_split(&rest, &more, ':', &seg)) {
        enum ast_rc rc = check_segment(seg, err);
        if (rc)
            return rc;
    }
    return AST_OK;
}

bool ast_cap_match(struct ast_str pattern, struct ast_str cap)
{
    size_t same = 0;

    /* Most patterns differ early, and without a '*' before that place nothing can make up for it. */
    while (same < pattern.n && same < cap.n && pattern.p[same] == cap.p[same] &&
           pattern.p[same] != '*')
        same++;
    if (same == pattern.n || pattern.p[same] != '*')
        return same == pattern.n && same == cap.n;
    if (pattern.n == 1)
        return true;

    struct ast_str prest = pattern, crest = cap, pseg, cseg;
    bool pmore = true, cmore = true;
    for (;;) {
        bool has_p = ast_str_split(&prest, &pmore, ':', &pseg);
        bool has_c = ast_str_split(&crest, &cmore, ':', &cseg);
        if (!has_p || !has_c)
            return !has_p && !has_c;
        if (ast_str_is(pseg, "*")) {
            if (!pmore) /* a last '*' covers the rest */
                return true;
            continue;
        }
        if (!ast_str_eq(pseg, cseg))
            return false;
    }
}
