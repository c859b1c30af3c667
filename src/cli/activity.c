/* Figures for people; see activity.h. */
#include "cli/activity.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"

#include "base/banned.h"

static const struct {
    int key;
    const char *name, *heading;
} sorts[] = {
#define X(id, key_, name_, heading_) [CLI_SORT_##id] = { key_, name_, heading_ },
    CLI_SORT_MAP(X)
#undef X
};

const char *cli_sort_name(enum cli_sort s)
{
    return sorts[s].name;
}

bool cli_sort_by_name(struct ast_str name, enum cli_sort *ret)
{
    for (unsigned i = 0; i < CLI_SORT_COUNT; i++) {
        if (!ast_str_eq(ast_str_c(sorts[i].name), name))
            continue;
        *ret = (enum cli_sort)i;
        return true;
    }
    return false;
}

bool cli_sort_by_key(int key, enum cli_sort *ret)
{
    for (unsigned i = 0; i < CLI_SORT_COUNT; i++) {
        if (sorts[i].key != key)
            continue;
        *ret = (enum cli_sort)i;
        return true;
    }
    return false;
}

/* --- Reading ---------------------------------------------------------------------------------- */

static uint64_t number(const struct ast_json *object, const char *key)
{
    uint64_t v = 0;
    (void)ast_json_u64(ast_json_get(object, ast_str_c(key)), &v); /* what is not told is none */
    return v;
}

static struct cli_figures read_figures(const struct ast_json *o, const char *name_key)
{
    return (struct cli_figures){
        .name = ast_json_str_or(o, ast_str_c(name_key), AST_STR("?")),
        .state = ast_json_str_or(o, AST_STR("state"), AST_STR("")),
        .has_totals = ast_json_type(ast_json_member(o, "calls")) == AST_JSON_INT,
        .calls = number(o, "calls"),
        .failures = number(o, "failures"),
        .dropped = number(o, "dropped"),
        .cpu_fuel = number(o, "cpu_fuel"),
        .memory_peak_bytes = number(o, "memory_peak_bytes"),
        .queued = number(o, "queued"),
        .running = number(o, "running"),
        .restarts = number(o, "restarts"),
        .throttled = number(o, "throttled"),
        .instances = number(o, "instances"),
    };
}

static enum ast_rc read_rows(const struct ast_json *array, const char *name_key,
                             struct cli_figures **ret, size_t *ret_n, struct ast_err *err)
{
    struct ast_json_iter it = AST_JSON_ITER(array);
    const struct ast_json *one;
    struct ast_str unused;

    if (ast_json_type(array) != AST_JSON_ARRAY)
        return ast_fail(err, AST_E_PROTOCOL, "the daemon's answer has no list of each %s",
                        name_key);
    *ret = calloc(ast_json_count(array) + 1, sizeof **ret);
    if (!*ret)
        return ast_fail(err, AST_E_NO_MEMORY, "activity");
    while (ast_json_next(&it, &unused, &one))
        (*ret)[(*ret_n)++] = read_figures(one, name_key);
    return AST_OK;
}

enum ast_rc cli_activity_read(const struct ast_json *data, struct cli_activity *ret,
                              struct ast_err *err)
{
    AST_AUTO(cli_activity_done)
    struct cli_activity a = {
        .taken_ms = number(data, "taken_ms"),
        .pid = number(data, "pid"),
        .uptime_secs = number(data, "uptime_secs"),
        .principals_total = number(data, "principals_total"),
        .capsules_total = number(data, "capsules_total"),
        .version = ast_json_str_or(data, AST_STR("version"), AST_STR("?")),
        .scope = ast_json_str_or(data, AST_STR("scope"), AST_STR("own")),
        .other = read_figures(ast_json_member(data, "other"), ""),
    };
    enum ast_rc rc =
        read_rows(ast_json_member(data, "capsules"), "capsule", &a.capsules, &a.capsule_count, err);
    if (!rc)
        rc = read_rows(ast_json_member(data, "principals"), "principal", &a.principals,
                       &a.principal_count, err);
    if (rc)
        return rc;
    a.everybody = ast_str_is(a.scope, "all");
    *ret = a;
    a = (struct cli_activity){ 0 };
    return AST_OK;
}

void cli_activity_done(struct cli_activity *a)
{
    free(a->capsules);
    free(a->principals);
    *a = (struct cli_activity){ 0 };
}

/* --- Rates ------------------------------------------------------------------------------------ */

static double rate(uint64_t now, uint64_t before, double secs)
{
    return now > before ? (double)(now - before) / secs : 0;
}

static void set_rates(struct cli_figures *f, const struct cli_figures *before, double secs)
{
    if (!f->has_totals || !before || !before->has_totals)
        return;
    f->has_rates = true;
    f->calls_per_sec = rate(f->calls, before->calls, secs);
    f->fuel_per_sec = rate(f->cpu_fuel, before->cpu_fuel, secs);
    f->drops_per_sec = rate(f->dropped, before->dropped, secs);
}

static void rates_of(struct cli_figures *rows, size_t n, const struct cli_figures *before,
                     size_t before_n, double secs)
{
    AST_AUTO(ast_map_done) struct ast_map by_name = { 0 };

    for (size_t i = 0; i < before_n; i++)
        if (!ast_map_set(&by_name, before[i].name, (void *)&before[i], NULL))
            return; /* no memory: no rates this time */
    for (size_t i = 0; i < n; i++)
        set_rates(&rows[i], ast_map_get(&by_name, rows[i].name), secs);
}

void cli_activity_rates(struct cli_activity *a, const struct cli_activity *before)
{
    if (a->pid != before->pid || a->taken_ms <= before->taken_ms)
        return;
    a->elapsed_secs = (double)(a->taken_ms - before->taken_ms) / 1000;
    rates_of(a->capsules, a->capsule_count, before->capsules, before->capsule_count,
             a->elapsed_secs);
    rates_of(a->principals, a->principal_count, before->principals, before->principal_count,
             a->elapsed_secs);
    /* `other` has none: who is in it changes from answer to answer. */
}

/* --- Order ------------------------------------------------------------------------------------ */

static double weight(const struct cli_figures *f, enum cli_sort sort)
{
    switch (sort) {
    case CLI_SORT_CALLS: return f->has_rates ? f->calls_per_sec : 0;
    case CLI_SORT_MEMORY: return (double)f->memory_peak_bytes;
    case CLI_SORT_QUEUE: return (double)(f->queued + f->running);
    case CLI_SORT_DROPS: return (double)f->dropped;
    case CLI_SORT_CPU:
    case CLI_SORT_COUNT: break;
    }
    return f->has_rates ? f->fuel_per_sec : 0;
}

/* Between rows that do nothing now: what they did so far. */
static double second_weight(const struct cli_figures *f, enum cli_sort sort)
{
    return sort == CLI_SORT_CALLS ? (double)f->calls : (double)f->cpu_fuel;
}

static int compare(const void *left, const void *right, void *sort)
{
    const struct cli_figures *a = left, *b = right;
    enum cli_sort by = *(enum cli_sort *)sort;
    double x = weight(a, by), y = weight(b, by);

    if (x == y) {
        x = second_weight(a, by);
        y = second_weight(b, by);
    }
    if (x > y || x < y)
        return x < y ? 1 : -1;
    return ast_str_cmp(a->name, b->name);
}

void cli_activity_sort(struct cli_activity *a, enum cli_sort sort)
{
    qsort_r(a->capsules, a->capsule_count, sizeof *a->capsules, compare, &sort);
    qsort_r(a->principals, a->principal_count, sizeof *a->principals, compare, &sort);
}

static void add(struct cli_figures *sum, const struct cli_figures *f)
{
    sum->has_totals |= f->has_totals;
    sum->has_rates |= f->has_rates;
    sum->calls += f->calls;
    sum->failures += f->failures;
    sum->dropped += f->dropped;
    sum->cpu_fuel += f->cpu_fuel;
    sum->memory_peak_bytes = AST_MAX(sum->memory_peak_bytes, f->memory_peak_bytes);
    sum->queued += f->queued;
    sum->running += f->running;
    sum->restarts += f->restarts;
    sum->throttled += f->throttled;
    sum->instances += f->instances;
    sum->calls_per_sec += f->calls_per_sec;
    sum->fuel_per_sec += f->fuel_per_sec;
    sum->drops_per_sec += f->drops_per_sec;
}

struct cli_figures cli_activity_sum(const struct cli_figures *rows, size_t n,
                                    const struct cli_figures *other)
{
    struct cli_figures sum = { 0 };
    for (size_t i = 0; i < n; i++)
        add(&sum, &rows[i]);
    if (other)
        add(&sum, other);
    return sum;
}

/* --- Text ------------------------------------------------------------------------------------- */

void cli_human(double v, unsigned step, char ret[static 16])
{
    static const char units[] = { 0, 'k', 'M', 'G', 'T', 'P', 'E' };
    size_t unit = 0;

    while (v >= 999.5 && unit + 1 < sizeof units) {
        v /= step;
        unit++;
    }
    /* Three digits say enough; whole numbers need no point. */
    int digits = v >= 99.95 || (unit == 0 && v == (double)(uint64_t)v) ? 0 : v >= 9.995 ? 1 : 2;
    snprintf(ret, 16, "%.*f%c", digits, v, units[unit]);
}

void cli_escape(struct ast_str text, unsigned width, char *ret, size_t cap)
{
    size_t n = 0, max = AST_MIN((size_t)width, cap - 1), whole = 0;

    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        bool plain = c >= 0x20 && c < 0x7f;
        if (n + (plain ? 1 : 4) > max) {
            n = AST_MIN(whole, max ? max - 1 : 0);
            if (max)
                ret[n++] = '+';
            break;
        }
        if (plain)
            ret[n] = (char)c;
        else
            snprintf(ret + n, 5, "\\x%02x", c);
        n += plain ? 1 : 4;
        if (n < max)
            whole = n; /* a cut here leaves room for the mark */
    }
    ret[n] = 0;
}

/* Columns behind the name. `text` makes the cell; NULL headings share another's. */
struct column {
    const char *heading, *total_heading; /* with rates; with totals */
    unsigned width;
    void (*text)(const struct cli_figures *f, bool rates, char ret[static 16]);
};

static void plain_number(bool known, double v, char ret[static 16])
{
    if (known)
        cli_human(v, 1000, ret);
    else
        memcpy(ret, "-", 2);
}

static void text_state(const struct cli_figures *f, bool rates, char ret[static 16])
{
    cli_escape(f->state, 8, ret, 16);
}

static void text_total_calls(const struct cli_figures *f, bool rates, char ret[static 16])
{
    plain_number(f->has_totals, (double)f->calls, ret);
}

static void text_calls(const struct cli_figures *f, bool rates, char ret[static 16])
{
    plain_number(rates ? f->has_rates : f->has_totals, rates ? f->calls_per_sec : (double)f->calls,
                 ret);
}

static void text_fuel(const struct cli_figures *f, bool rates, char ret[static 16])
{
    plain_number(rates ? f->has_rates : f->has_totals,
                 rates ? f->fuel_per_sec : (double)f->cpu_fuel, ret);
}

static void text_memory(const struct cli_figures *f, bool rates, char ret[static 16])
{
    plain_number(f->has_totals, (double)f->memory_peak_bytes, ret);
    if (f->has_totals)
        cli_human((double)f->memory_peak_bytes, 1024, ret);
}

static void text_queue(const struct cli_figures *f, bool rates, char ret[static 16])
{
    plain_number(true, (double)f->queued, ret);
}

static void text_running(const struct cli_figures *f, bool rates, char ret[static 16])
{
    plain_number(true, (double)f->running, ret);
}

static void text_drops(const struct cli_figures *f, bool rates, char ret[static 16])
{
    plain_number(f->has_totals, (double)f->dropped, ret);
}

static void text_failures(const struct cli_figures *f, bool rates, char ret[static 16])
{
    plain_number(f->has_totals, (double)f->failures, ret);
}

static void text_restarts(const struct cli_figures *f, bool rates, char ret[static 16])
{
    plain_number(f->has_totals, (double)f->restarts, ret);
}

static void text_throttled(const struct cli_figures *f, bool rates, char ret[static 16])
{
    plain_number(f->has_totals, (double)f->throttled, ret);
}

#define COLUMNS 9
static const struct column columns[][COLUMNS] = {
    [CLI_TABLE_CAPSULES] = {
        { "STATE", "STATE", 8, text_state },
        { "CALLS/S", "CALLS", 9, text_calls },
        { "FUEL/S", "FUEL", 8, text_fuel },
        { "MEM", "MEM", 6, text_memory },
        { "QUEUE", "QUEUE", 7, text_queue },
        { "RUN", "RUN", 5, text_running },
        { "DROPS", "DROPS", 7, text_drops },
        { "FAIL", "FAIL", 6, text_failures },
        { "RST", "RST", 5, text_restarts },
    },
    [CLI_TABLE_PRINCIPALS] = {
        { "CALLS", "", 8, text_total_calls },
        { "CALLS/S", "CALLS", 9, text_calls },
        { "FUEL/S", "FUEL", 8, text_fuel },
        { "MEM", "MEM", 6, text_memory },
        { "QUEUE", "QUEUE", 7, text_queue },
        { "RUN", "RUN", 5, text_running },
        { "DROPS", "DROPS", 7, text_drops },
        { "FAIL", "FAIL", 6, text_failures },
        { "THR", "THR", 5, text_throttled },
    },
};
#define BEHIND_NAME (8 + 9 + 8 + 6 + 7 + 5 + 7 + 6 + 5)
#define NAME_MIN    12u
#define NAME_MAX    66u

unsigned cli_activity_width(const struct cli_activity *a)
{
    size_t longest = 0;
    for (size_t i = 0; i < a->capsule_count; i++)
        longest = AST_MAX(longest, a->capsules[i].name.n);
    for (size_t i = 0; i < a->principal_count; i++)
        longest = AST_MAX(longest, a->principals[i].name.n);
    longest = AST_MIN(longest + 2, (size_t)NAME_MAX);
    return (unsigned)AST_MAX(longest + BEHIND_NAME, (size_t)CLI_ACTIVITY_WIDTH);
}

static unsigned name_width(unsigned width)
{
    unsigned room = width > BEHIND_NAME ? width - BEHIND_NAME : 0;
    return AST_MIN(AST_MAX(room, NAME_MIN), NAME_MAX);
}

/* A line grows by cells that fit; the rest is left out. */
struct text_line {
    char *p;
    unsigned n, width;
};

static void put_cell(struct text_line *l, const char *text, unsigned cell, bool left)
{
    if (l->n + cell > l->width || l->n + cell >= CLI_ACTIVITY_LINE)
        return;
    snprintf(l->p + l->n, CLI_ACTIVITY_LINE - l->n, left ? "%-*s" : "%*s", (int)cell, text);
    l->n += cell;
}

void cli_activity_heading(enum cli_table table, bool rates, enum cli_sort sort, unsigned width,
                          char ret[static CLI_ACTIVITY_LINE])
{
    struct text_line l = { ret, 0, width };
    const char *marked = sorts[sort].heading;

    ret[0] = 0;
    put_cell(&l, table == CLI_TABLE_CAPSULES ? "CAPSULE" : "PRINCIPAL", name_width(width), true);
    for (size_t i = 0; i < COLUMNS; i++) {
        const struct column *c = &columns[table][i];
        const char *heading = rates ? c->heading : c->total_heading;
        char cell[16];
        /* The first column of that name is not a sort key: totals of calls, states. */
        bool is_marked = rates && i > 0 && strncmp(heading, marked, strlen(marked)) == 0;
        snprintf(cell, sizeof cell, "%s%s", heading, is_marked ? "*" : "");
        put_cell(&l, cell, c->width, c->text == text_state);
    }
}

void cli_activity_row(enum cli_table table, const struct cli_figures *f, bool rates, unsigned width,
                      char ret[static CLI_ACTIVITY_LINE])
{
    struct text_line l = { ret, 0, width };
    char name[NAME_MAX + 1];
    unsigned cell = name_width(width);

    ret[0] = 0;
    cli_escape(f->name, cell - 1, name, sizeof name);
    put_cell(&l, name, cell, true);
    for (size_t i = 0; i < COLUMNS; i++) {
        const struct column *c = &columns[table][i];
        char text[16] = "";
        if (rates || c->total_heading[0])
            c->text(f, rates, text);
        put_cell(&l, text, c->width, c->text == text_state);
    }
}

static void uptime_text(uint64_t s, char ret[static 32])
{
    unsigned long long v = s;
    if (v >= 86400)
        snprintf(ret, 32, "%llud%02lluh", v / 86400, v / 3600 % 24);
    else if (v >= 3600)
        snprintf(ret, 32, "%lluh%02llum", v / 3600, v / 60 % 60);
    else
        snprintf(ret, 32, "%llum%02llus", v / 60, v % 60);
}

void cli_activity_head(const struct cli_activity *a, unsigned width,
                       char ret[static CLI_ACTIVITY_LINE])
{
    struct cli_figures sum =
        cli_activity_sum(a->everybody ? a->capsules : a->principals,
                         a->everybody ? a->capsule_count : a->principal_count, NULL);
    char version[24], uptime[32], calls[16], fuel[16], queued[16], drops[16];

    cli_escape(a->version, sizeof version - 1, version, sizeof version);
    uptime_text(a->uptime_secs, uptime);
    cli_human(a->elapsed_secs > 0 ? sum.calls_per_sec : (double)sum.calls, 1000, calls);
    cli_human(a->elapsed_secs > 0 ? sum.fuel_per_sec : (double)sum.cpu_fuel, 1000, fuel);
    cli_human((double)sum.queued, 1000, queued);
    cli_human((double)sum.dropped, 1000, drops);
    const char *per = a->elapsed_secs > 0 ? "/s" : "";
    int n = snprintf(ret, CLI_ACTIVITY_LINE,
                     "astrid %s, up %s: %s calls%s, %s fuel%s, %s queued, %s dropped%s", version,
                     uptime, calls, per, fuel, per, queued, drops,
                     a->everybody ? "" : " (your own figures)");
    if (n > 0 && (unsigned)n > width)
        ret[width] = 0;
}

/* --- JSON ------------------------------------------------------------------------------------- */

static void write_rate(struct ast_jw *w, const char *key, bool known, double v)
{
    ast_jw_key(w, ast_str_c(key));
    if (known)
        ast_jw_f64(w, v);
    else
        ast_jw_null(w);
}

void cli_figures_json(const struct cli_figures *f, enum cli_table table, struct ast_jw *w)
{
    if (f->has_totals) {
        ast_jw_kv_u64(w, "calls", f->calls);
        ast_jw_kv_u64(w, "cpu_fuel", f->cpu_fuel);
        ast_jw_kv_u64(w, "dropped", f->dropped);
        ast_jw_kv_u64(w, "failures", f->failures);
        if (table == CLI_TABLE_CAPSULES)
            ast_jw_kv_u64(w, "instances", f->instances);
        ast_jw_kv_u64(w, "memory_peak_bytes", f->memory_peak_bytes);
        if (table == CLI_TABLE_CAPSULES)
            ast_jw_kv_u64(w, "restarts", f->restarts);
        else
            ast_jw_kv_u64(w, "throttled", f->throttled);
    }
    ast_jw_kv_u64(w, "queued", f->queued);
    ast_jw_kv_u64(w, "running", f->running);
}

static void write_rates(struct ast_jw *w, const struct cli_figures *f)
{
    write_rate(w, "calls_per_sec", f->has_rates, f->calls_per_sec);
    write_rate(w, "cpu_fuel_per_sec", f->has_rates, f->fuel_per_sec);
    write_rate(w, "drops_per_sec", f->has_rates, f->drops_per_sec);
}

static void write_rows(struct ast_jw *w, const struct cli_figures *rows, size_t n,
                       enum cli_table table)
{
    ast_jw_array(w);
    for (size_t i = 0; i < n; i++) {
        ast_jw_object(w);
        if (table == CLI_TABLE_CAPSULES) {
            ast_jw_kv_string(w, "capsule", rows[i].name);
            ast_jw_kv_string(w, "state", rows[i].state);
        } else {
            ast_jw_kv_string(w, "principal", rows[i].name);
        }
        cli_figures_json(&rows[i], table, w);
        write_rates(w, &rows[i]);
        ast_jw_end(w);
    }
    ast_jw_end(w);
}

void cli_activity_json(const struct cli_activity *a, struct ast_jw *w)
{
    ast_jw_object(w);
    ast_jw_key(w, AST_STR("capsules"));
    write_rows(w, a->capsules, a->capsule_count, CLI_TABLE_CAPSULES);
    ast_jw_kv_u64(w, "capsules_total", a->capsules_total);
    write_rate(w, "elapsed_secs", a->elapsed_secs > 0, a->elapsed_secs);
    if (a->everybody) {
        ast_jw_key(w, AST_STR("other"));
        ast_jw_object(w);
        cli_figures_json(&a->other, CLI_TABLE_PRINCIPALS, w);
        ast_jw_end(w);
    }
    ast_jw_kv_u64(w, "pid", a->pid);
    ast_jw_key(w, AST_STR("principals"));
    write_rows(w, a->principals, a->principal_count, CLI_TABLE_PRINCIPALS);
    ast_jw_kv_u64(w, "principals_total", a->principals_total);
    ast_jw_kv_string(w, "scope", a->scope);
    ast_jw_kv_u64(w, "uptime_secs", a->uptime_secs);
    ast_jw_kv_string(w, "version", a->version);
    ast_jw_end(w);
}
