/* Numbers with units, from text and to text. Tables of units, checked arithmetic. */
#include "cli/units.h"

#include <stdio.h>

#include "base/auto.h"

#include "base/banned.h"

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit byte_units[] = {
    { "", 1 },
    { "b", 1 },
    { "k", 1000 },
    { "kb", 1000 },
    { "kib", UINT64_C(1) << 10 },
    { "m", 1000000 },
    { "mb", 1000000 },
    { "mib", UINT64_C(1) << 20 },
    { "g", 1000000000 },
    { "gb", 1000000000 },
    { "gib", UINT64_C(1) << 30 },
    { "t", 1000000000000 },
    { "tb", 1000000000000 },
    { "tib", UINT64_C(1) << 40 },
    { NULL, 0 },
};
static const struct unit count_units[] = {
    { "", 1 },           { "k", 1000 },          { "m", 1000000 },
    { "g", 1000000000 }, { "t", 1000000000000 }, { NULL, 0 },
};
static const struct unit time_units[] = {
    { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 }, { NULL, 0 },
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static uint64_t factor_of(const struct unit *u, struct ast_str name)
{
    for (; u->name; u++)
        if (ast_str_eq_nocase(name, ast_str_c(u->name)))
            return u->factor;
    return 0;
}

/* "12", "1.5", ".5", "2." times `factor`, truncated; false when it is no number or too large. */
static bool scale(struct ast_str number, uint64_t factor, uint64_t *ret)
{
    size_t dot = ast_str_find_byte(number, '.');
    struct ast_str whole = dot == AST_STR_NPOS ? number : ast_str_first(number, dot);
    struct ast_str rest = dot == AST_STR_NPOS ? AST_STR_NONE : ast_str_from(number, dot + 1);
    uint64_t v = 0, part = 0;

    if (!whole.n && !rest.n)
        return false;
    for (size_t i = 0; i < whole.n; i++)
        if (!is_digit(whole.p[i]) || __builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(whole.p[i] - '0'), &v))
            return false;
    if (__builtin_mul_overflow(v, factor, &v))
        return false;
    /* Exact down to thousandths of a unit's unit; no factor is so large that this overflows. */
    uint64_t scaled = factor * 1000;
    for (size_t i = 0; i < rest.n; i++) {
        if (!is_digit(rest.p[i]))
            return false;
        scaled /= 10;
        part += scaled * (uint64_t)(rest.p[i] - '0');
    }
    return !__builtin_add_overflow(v, part / 1000, ret);
}

static enum ast_rc parse_scaled(struct ast_str s, const struct unit *units, const char *what,
                                uint64_t *ret, struct ast_err *err)
{
    struct ast_str text = ast_str_trim(s);
    size_t n = 0;

    if (ast_str_ends(text, AST_STR("/s")))
        text = ast_str_trim(ast_str_first(text, text.n - 2));
    if (!text.n)
        return ast_fail(err, AST_E_INVALID, "empty %s specifier", what);
    while (n < text.n && (is_digit(text.p[n]) || text.p[n] == '.'))
        n++;
    struct ast_str number = ast_str_first(text, n), suffix = ast_str_trim(ast_str_from(text, n));
    uint64_t factor = factor_of(units, suffix);
    if (!factor)
        return ast_fail(err, AST_E_INVALID, "unknown %s suffix: " AST_STR_FMT, what,
                        AST_STR_ARG(suffix));
    if (!scale(number, factor, ret))
        return ast_fail(err, AST_E_INVALID, "not a number: " AST_STR_FMT, AST_STR_ARG(number));
    return AST_OK;
}

enum ast_rc cli_bytes_parse(struct ast_str s, uint64_t *ret, struct ast_err *err)
{
    return parse_scaled(s, byte_units, "byte", ret, err);
}

enum ast_rc cli_count_parse(struct ast_str s, uint64_t *ret, struct ast_err *err)
{
    return parse_scaled(s, count_units, "count", ret, err);
}

enum ast_rc cli_duration_parse(struct ast_str s, uint64_t *ret_ms, struct ast_err *err)
{
    struct ast_str rest = ast_str_trim(s);
    uint64_t total = 0;

    if (!rest.n)
        return ast_fail(err, AST_E_INVALID, "empty duration");
    while (rest.n) {
        size_t digits = 0, letters;
        uint64_t ms;
        while (digits < rest.n && (is_digit(rest.p[digits]) || rest.p[digits] == '.'))
            digits++;
        for (letters = digits; letters < rest.n && !is_digit(rest.p[letters]); letters++) {
        }
        struct ast_str number = ast_str_first(rest, digits);
        struct ast_str unit =
            ast_str_trim(ast_str_first(ast_str_from(rest, digits), letters - digits));
        uint64_t factor = unit.n ? factor_of(time_units, unit) : 1000;
        if (!factor)
            return ast_fail(err, AST_E_INVALID, "unknown duration suffix: " AST_STR_FMT,
                            AST_STR_ARG(unit));
        if (!scale(number, factor, &ms))
            return ast_fail(err, AST_E_INVALID, "invalid duration component: " AST_STR_FMT,
                            AST_STR_ARG(ast_str_first(rest, letters)));
        if (__builtin_add_overflow(total, ms, &total))
            return ast_fail(err, AST_E_INVALID, "invalid duration component: " AST_STR_FMT,
                            AST_STR_ARG(ast_str_first(rest, letters)));
        rest = ast_str_from(rest, letters);
    }
    *ret_ms = total;
    return AST_OK;
}

const char *cli_bytes_text(uint64_t bytes, char out[static CLI_UNIT_TEXT])
{
    static const char *const names[] = { "B", "KiB", "MiB", "GiB" };
    double v = (double)bytes;
    size_t i = 0;

    while (v >= 1024 && i + 1 < AST_ARRAY_LEN(names)) {
        v /= 1024;
        i++;
    }
    (void)snprintf(out, CLI_UNIT_TEXT, "%.*f %s", i ? 1 : 0, v, names[i]);
    return out;
}

const char *cli_count_text(uint64_t count, char out[static CLI_UNIT_TEXT])
{
    static const char names[] = { 0, 'k', 'M', 'G', 'T' };
    double v = (double)count;
    size_t i = 0;

    /* 999 950 would round to "1000.0k" */
    while (v >= (i ? 999.95 : 1000) && i + 1 < sizeof names) {
        v /= 1000;
        i++;
    }
    if (i)
        (void)snprintf(out, CLI_UNIT_TEXT, "%.1f%c", v, names[i]);
    else
        (void)snprintf(out, CLI_UNIT_TEXT, "%.0f", v);
    return out;
}

const char *cli_duration_text(uint64_t ms, char out[static CLI_UNIT_TEXT])
{
    unsigned long long s = ms / 1000;

    if (!s)
        (void)snprintf(out, CLI_UNIT_TEXT, "%llums", (unsigned long long)ms);
    else if (s < 60)
        (void)snprintf(out, CLI_UNIT_TEXT, "%llus", s);
    else if (s < 3600)
        (void)snprintf(out, CLI_UNIT_TEXT, "%llum%02llus", s / 60, s % 60);
    else
        (void)snprintf(out, CLI_UNIT_TEXT, "%lluh%02llum%02llus", s / 3600, s / 60 % 60, s % 60);
    return out;
}
