/* Tools about time: what a model cannot know by itself. */
#include "astrid.h"

static void two_digits(struct astrid_buf *b, uint64_t v)
{
    if (v < 10)
        astrid_buf_lit(b, "0");
    astrid_buf_u64(b, v);
}

/* Days since 1970 to year, month, day (civil calendar, March-based years). */
static void civil_from_days(uint64_t days, uint64_t *year, uint64_t *month, uint64_t *day)
{
    uint64_t z = days + 719468, era = z / 146097, doe = z % 146097;
    uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;

    *day = doy - (153 * mp + 2) / 5 + 1;
    *month = mp < 10 ? mp + 3 : mp - 9;
    *year = yoe + era * 400 + (*month <= 2);
}

static void rfc3339(struct astrid_buf *b, uint64_t secs)
{
    uint64_t year, month, day, of_day = secs % 86400;

    civil_from_days(secs / 86400, &year, &month, &day);
    astrid_buf_u64(b, year);
    astrid_buf_lit(b, "-");
    two_digits(b, month);
    astrid_buf_lit(b, "-");
    two_digits(b, day);
    astrid_buf_lit(b, "T");
    two_digits(b, of_day / 3600);
    astrid_buf_lit(b, ":");
    two_digits(b, of_day / 60 % 60);
    astrid_buf_lit(b, ":");
    two_digits(b, of_day % 60);
    astrid_buf_lit(b, "Z");
}

static bool current_time(struct astrid_str arguments, struct astrid_buf *out)
{
    static const char *const days[] = { "Thursday", "Friday",  "Saturday", "Sunday",
                                        "Monday",   "Tuesday", "Wednesday" };
    uint64_t ms = astrid_clock_ms();

    (void)arguments; /* takes none */
    astrid_buf_lit(out, "{\"utc\":\"");
    rfc3339(out, ms / 1000);
    astrid_buf_lit(out, "\",\"weekday\":\"");
    astrid_buf_add(out, astrid_str_c(days[ms / 86400000 % 7]));
    astrid_buf_lit(out, "\",\"unix_ms\":");
    astrid_buf_u64(out, ms);
    astrid_buf_lit(out, "}");
    return true;
}

static bool time_until(struct astrid_str arguments, struct astrid_buf *out)
{
    struct astrid_str raw;
    uint64_t then, now = astrid_clock_ms();

    if (!astrid_json_get(arguments, ASTRID_STR("unix_ms"), &raw) || !astrid_json_u64(raw, &then)) {
        astrid_buf_lit(out, "failed to parse tool arguments: unix_ms must be an unsigned integer");
        return false;
    }
    astrid_buf_lit(out, "{\"past\":");
    astrid_buf_add(out, then < now ? ASTRID_STR("true") : ASTRID_STR("false"));
    astrid_buf_lit(out, ",\"seconds\":");
    astrid_buf_u64(out, (then < now ? now - then : then - now) / 1000);
    astrid_buf_lit(out, "}");
    return true;
}

ASTRID_NO_HANDLERS;
ASTRID_TOOLS(
    "Tells the time.",
    { "current_time",
      "The current date and time in UTC (RFC 3339), the weekday and the milliseconds since 1970. Takes no arguments.",
      "{\"$schema\":\"http://json-schema.org/draft-07/schema#\",\"type\":\"object\",\"properties\":{},\"mutable\":false}",
      current_time },
    { "time_until",
      "How many seconds lie between now and a moment given as unix_ms (milliseconds since 1970), and whether that moment "
      "is in the past.",
      "{\"$schema\":\"http://json-schema.org/draft-07/schema#\",\"type\":\"object\",\"required\":[\"unix_ms\"],\"mutable\":"
      "false,\"properties\":{\"unix_ms\":{\"type\":\"integer\",\"minimum\":0}}}",
      time_until });
