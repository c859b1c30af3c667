/* What GetActivity answers, as people read it: totals become rates, rows are sorted and laid out.
 *
 * Pure: no daemon, no terminal. Owner: one thread.
 */
#pragma once

#include "base/json.h"

/* id, key on the screen, name on the wire and for --sort, heading that is marked */
#define CLI_SORT_MAP(X)                                                                            \
    X(CPU, 'c', "cpu", "FUEL")                                                                     \
    X(CALLS, 's', "calls", "CALLS")                                                                \
    X(MEMORY, 'm', "memory", "MEM")                                                                \
    X(QUEUE, 'Q', "queue", "QUEUE")                                                                \
    X(DROPS, 'd', "drops", "DROPS")

enum cli_sort {
#define X(id, key, name, heading) CLI_SORT_##id,
    CLI_SORT_MAP(X)
#undef X
        CLI_SORT_COUNT
};
const char *cli_sort_name(enum cli_sort s);
bool cli_sort_by_name(struct ast_str name, enum cli_sort *ret);
bool cli_sort_by_key(int key, enum cli_sort *ret);

/* One row: a capsule, a principal, or the sum of many. */
struct cli_figures {
    struct ast_str name;  /* borrowed from the answer */
    struct ast_str state; /* capsules */
    bool has_totals;      /* false: only queued and running are known */
    bool has_rates;
    uint64_t calls, failures, dropped, cpu_fuel, memory_peak_bytes, queued, running;
    uint64_t restarts, throttled, instances; /* of capsules; of principals; of capsules */
    double calls_per_sec, fuel_per_sec, drops_per_sec;
};

/* Zeroed: empty. */
struct cli_activity {
    uint64_t taken_ms, pid, uptime_secs, principals_total, capsules_total;
    struct ast_str version, scope; /* borrowed from the answer */
    bool everybody;
    double elapsed_secs;                       /* what the rates cover; 0: no rates */
    struct cli_figures *capsules, *principals; /* owned */
    size_t capsule_count, principal_count;
    struct cli_figures other; /* principals without a row */
};

/* Reads the data half of the answer; strings stay borrowed from it. PROTOCOL: it is no such answer. */
AST_MUST_CHECK
enum ast_rc cli_activity_read(const struct ast_json *data, struct cli_activity *ret,
                              struct ast_err *err);
void cli_activity_done(struct cli_activity *a);
AST_DEFINE_AUTO_VALUE(struct cli_activity, cli_activity_done)

/* Rates of `a` from an earlier answer of the same daemon; none when it is another one's. A row that
 * was not there before has no rate. */
void cli_activity_rates(struct cli_activity *a, const struct cli_activity *before);
/* Largest first, by the rate where there are rates; equal ones by name. */
void cli_activity_sort(struct cli_activity *a, enum cli_sort sort);
/* The capsules or the principals added up, with what `other` sums. */
struct cli_figures cli_activity_sum(const struct cli_figures *rows, size_t n,
                                    const struct cli_figures *other);

/* --- Text: lines of ASCII without a line end, at most `width` characters --- */

enum cli_table { CLI_TABLE_CAPSULES, CLI_TABLE_PRINCIPALS };
#define CLI_ACTIVITY_WIDTH 80u /* below it columns fall off at the right */
/* What shows usual names in full; at least CLI_ACTIVITY_WIDTH. */
unsigned cli_activity_width(const struct cli_activity *a);
#define CLI_ACTIVITY_LINE 400u /* bytes a line needs */

void cli_activity_heading(enum cli_table table, bool rates, enum cli_sort sort, unsigned width,
                          char ret[static CLI_ACTIVITY_LINE]);
void cli_activity_row(enum cli_table table, const struct cli_figures *f, bool rates, unsigned width,
                      char ret[static CLI_ACTIVITY_LINE]);
/* "astrid 0.8.0, up 5m03s, 12.3k calls/s, ..." */
void cli_activity_head(const struct cli_activity *a, unsigned width,
                       char ret[static CLI_ACTIVITY_LINE]);

/* A number in at most five characters: 999, 12.3k, 4.56M; bytes in steps of 1024. */
void cli_human(double v, unsigned step, char ret[static 16]);
/* At most `width` characters: what is no printable ASCII becomes \xNN, what is too long ends in "+". */
void cli_escape(struct ast_str text, unsigned width, char *ret, size_t cap);

/* One JSON object with totals and rates. */
void cli_activity_json(const struct cli_activity *a, struct ast_jw *w);
/* A capsule's members, without the braces. */
void cli_figures_json(const struct cli_figures *f, enum cli_table table, struct ast_jw *w);
