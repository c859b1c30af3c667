/* Clocks and RFC 3339. The calendar is computed here: libc's would look at the zone of the host. */
#include "base/time.h"

#include <time.h>

#include "base/banned.h"

#define SECS_PER_DAY INT64_C(86400)

static int64_t clock_ns(clockid_t id)
{
    struct timespec ts = { 0 };
    /* Fails only for an unknown clock. */
    AST_ASSERT(clock_gettime(id, &ts) == 0);
    return (int64_t)ts.tv_sec * AST_NS_PER_SEC + ts.tv_nsec;
}

int64_t ast_mono_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t ast_wall_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

uint64_t ast_wall_secs(void)
{
    int64_t ns = ast_wall_ns();
    return ns < 0 ? 0 : (uint64_t)(ns / AST_NS_PER_SEC); /* spec 03 §7.3: 0 before 1970 */
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

struct date {
    int year, month, day;
};

/* Years are counted from March, so that the leap day is the last day of a year; an era is the 400
 * years after which the calendar repeats (146097 days). */
static struct date date_from_days(int64_t days)
{
    int64_t shifted = days + 719468; /* from 1970-01-01 to 0000-03-01 */
    int64_t era = floor_div(shifted, 146097);
    int64_t day_of_era = shifted - era * 146097;
    int64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t month = (5 * day_of_year + 2) / 153; /* 0 = March */
    return (struct date){
        .year = (int)(year_of_era + era * 400 + (month >= 10)),
        .month = (int)(month < 10 ? month + 3 : month - 9),
        .day = (int)(day_of_year - (153 * month + 2) / 5 + 1),
    };
}

static int64_t days_from_date(struct date d)
{
    int64_t year = d.year - (d.month <= 2);
    int64_t era = floor_div(year, 400);
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (d.month > 2 ? d.month - 3 : d.month + 9) + 2) / 5 + d.day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

static char *put_digits(char *at, int64_t v, int width)
{
    for (int i = width - 1; i >= 0; i--) {
        at[i] = (char)('0' + v % 10);
        v /= 10;
    }
    return at + width;
}

static char *put_date(char *at, struct date d)
{
    at = put_digits(at, d.year, 4);
    *at++ = '-';
    at = put_digits(at, d.month, 2);
    *at++ = '-';
    return put_digits(at, d.day, 2);
}

struct ast_str ast_time_format(int64_t wall_ns, enum ast_time_suffix suffix,
                               char out[static AST_RFC3339_BYTES])
{
    int64_t secs = floor_div(wall_ns, AST_NS_PER_SEC);
    int64_t frac = wall_ns - secs * AST_NS_PER_SEC;
    int64_t days = floor_div(secs, SECS_PER_DAY);
    int64_t in_day = secs - days * SECS_PER_DAY;

    char *at = put_date(out, date_from_days(days));
    *at++ = 'T';
    at = put_digits(at, in_day / 3600, 2);
    *at++ = ':';
    at = put_digits(at, in_day / 60 % 60, 2);
    *at++ = ':';
    at = put_digits(at, in_day % 60, 2);
    if (frac) {
        *at++ = '.';
        if (frac % 1000000 == 0)
            at = put_digits(at, frac / 1000000, 3);
        else if (frac % 1000 == 0)
            at = put_digits(at, frac / 1000, 6);
        else
            at = put_digits(at, frac, 9);
    }
    if (suffix == AST_TIME_OFFSET) {
        memcpy(at, "+00:00", 6);
        at += 6;
    } else {
        *at++ = 'Z';
    }
    *at = 0;
    return (struct ast_str){ out, (size_t)(at - out) };
}

void ast_time_date(int64_t wall_ns, char out[static 11])
{
    int64_t days = floor_div(wall_ns, SECS_PER_DAY * AST_NS_PER_SEC);
    *put_date(out, date_from_days(days)) = 0;
}

/* Takes exactly `width` digits off the front. */
static bool take_digits(struct ast_str *s, size_t width, int *ret)
{
    if (s->n < width)
        return false;
    int v = 0;
    for (size_t i = 0; i < width; i++) {
        char c = s->p[i];
        if (c < '0' || c > '9')
            return false;
        v = v * 10 + (c - '0');
    }
    *s = ast_str_from(*s, width);
    *ret = v;
    return true;
}

static bool take_one_of(struct ast_str *s, const char *set, char *ret)
{
    if (s->n == 0 || s->p[0] == 0 || !strchr(set, s->p[0]))
        return false;
    *ret = s->p[0];
    *s = ast_str_from(*s, 1);
    return true;
}

static bool take_date(struct ast_str *s, struct date *ret)
{
    static const int month_days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    struct date d;
    char c;
    if (!take_digits(s, 4, &d.year) || !take_one_of(s, "-", &c) || !take_digits(s, 2, &d.month) ||
        !take_one_of(s, "-", &c) || !take_digits(s, 2, &d.day))
        return false;
    if (d.month < 1 || d.month > 12 || d.day < 1)
        return false;
    bool is_leap = (d.year % 4 == 0 && d.year % 100 != 0) || d.year % 400 == 0;
    if (d.day > month_days[d.month - 1] + (d.month == 2 && is_leap))
        return false;
    *ret = d;
    return true;
}

/* Digits beyond the ninth are dropped. */
static bool take_fraction(struct ast_str *s, int64_t *ret_ns)
{
    int64_t ns = 0, unit = AST_NS_PER_SEC / 10;
    size_t i = 0;
    for (; i < s->n && s->p[i] >= '0' && s->p[i] <= '9'; i++) {
        ns += (s->p[i] - '0') * unit;
        unit /= 10;
    }
    if (i == 0)
        return false;
    *s = ast_str_from(*s, i);
    *ret_ns = ns;
    return true;
}

static bool take_offset(struct ast_str *s, int64_t *ret_secs)
{
    char sign, c;
    int hours, minutes;
    if (!take_one_of(s, "zZ+-", &sign))
        return false;
    if (sign == 'Z' || sign == 'z') {
        *ret_secs = 0;
        return true;
    }
    if (!take_digits(s, 2, &hours) || !take_one_of(s, ":", &c) || !take_digits(s, 2, &minutes) ||
        hours > 23 || minutes > 59)
        return false;
    int64_t secs = hours * 3600 + minutes * 60;
    *ret_secs = sign == '-' ? -secs : secs;
    return true;
}

bool ast_time_parse(struct ast_str s, int64_t *ret_wall_ns)
{
    struct date date;
    int hour, minute, second;
    int64_t frac = 0, offset;
    char c;
    if (!take_date(&s, &date) || !take_one_of(&s, "Tt ", &c) || !take_digits(&s, 2, &hour) ||
        !take_one_of(&s, ":", &c) || !take_digits(&s, 2, &minute) || !take_one_of(&s, ":", &c) ||
        !take_digits(&s, 2, &second))
        return false;
    if (hour > 23 || minute > 59 || second > 60) /* 60: a leap second runs into the next minute */
        return false;
    if (take_one_of(&s, ".", &c) && !take_fraction(&s, &frac))
        return false;
    if (!take_offset(&s, &offset) || s.n)
        return false;

    int64_t secs =
        days_from_date(date) * SECS_PER_DAY + hour * 3600 + minute * 60 + second - offset;
    int64_t ns;
    if (__builtin_mul_overflow(secs, AST_NS_PER_SEC, &ns) || __builtin_add_overflow(ns, frac, &ns))
        return false;
    *ret_wall_ns = ns;
    return true;
}
