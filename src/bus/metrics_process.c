/* The process_* metrics, read from the kernel at scrape time. What cannot be read is left out. */
#include "bus/metrics_priv.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/auto.h"
#include "base/str.h"

#include "base/banned.h"

#define LINE_BYTES 1024

enum process_fact {
    CPU_SECONDS,
    OPEN_FDS,
    MAX_FDS,
    VIRTUAL_BYTES,
    VIRTUAL_MAX_BYTES,
    RESIDENT_BYTES,
    START_SECONDS,
    THREADS,
    FACT_COUNT
};
_Static_assert(FACT_COUNT == BUS_PROCESS_METRICS, "one row per fact");

static const struct bus_process_metric rows[FACT_COUNT] = {
    [CPU_SECONDS] = { "process_cpu_seconds_total",
                      "Total user and system CPU time spent in seconds.", .is_counter = true },
    [OPEN_FDS] = { "process_open_fds", "Number of open file descriptors." },
    [MAX_FDS] = { "process_max_fds", "Maximum number of open file descriptors." },
    [VIRTUAL_BYTES] = { "process_virtual_memory_bytes", "Virtual memory size in bytes." },
    [VIRTUAL_MAX_BYTES] = { "process_virtual_memory_max_bytes",
                            "Maximum amount of virtual memory available in bytes." },
    [RESIDENT_BYTES] = { "process_resident_memory_bytes", "Resident memory size in bytes." },
    [START_SECONDS] = { "process_start_time_seconds",
                        "Start time of the process since unix epoch in seconds." },
    [THREADS] = { "process_threads", "Number of OS threads in the process." },
};

static void fclose_auto(FILE **f)
{
    if (*f)
        fclose(*f); /* read only: nothing can be lost */
}

static void closedir_auto(DIR **d)
{
    if (*d)
        closedir(*d);
}

static void know(struct bus_process_metric *m, uint64_t value)
{
    m->known = true;
    m->value = value;
}

static void read_cpu(struct bus_process_metric *m)
{
    struct rusage use;
    if (getrusage(RUSAGE_SELF, &use))
        return;
    long micros = use.ru_utime.tv_usec + use.ru_stime.tv_usec;
    know(m, (uint64_t)(use.ru_utime.tv_sec + use.ru_stime.tv_sec + micros / 1000000));
}

static void read_open_fds(struct bus_process_metric *m)
{
    AST_AUTO(closedir) DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return;
    uint64_t count = 0;
    for (const struct dirent *e; (e = readdir(dir));)
        count += e->d_name[0] != '.';
    know(m, count - 1); /* without the one that reads the directory */
}

static void read_limit(struct bus_process_metric *m, __rlimit_resource_t what)
{
    struct rlimit limit;
    if (!getrlimit(what, &limit))
        know(m, limit.rlim_cur);
}

/* The numbered field of a line, fields apart by single spaces, the first is 0. */
static bool field_u64(struct ast_str line, size_t number, uint64_t *ret)
{
    struct ast_str field = AST_STR_NONE;
    bool more = true;
    for (size_t i = 0; i <= number; i++)
        if (!ast_str_split(&line, &more, ' ', &field))
            return false;
    return ast_str_to_u64(ast_str_trim(field), ret);
}

/* The first line of a file that starts with `prefix`, without it; false: there is none. */
static bool line_of(const char *path, const char *prefix, char (*room)[LINE_BYTES],
                    struct ast_str *ret)
{
    AST_AUTO(fclose) FILE *f = fopen(path, "re");
    while (f && fgets(*room, sizeof *room, f)) {
        *ret = ast_str_c(*room);
        if (!ast_str_starts(*ret, ast_str_c(prefix)))
            continue;
        *ret = ast_str_from(*ret, strlen(prefix));
        return true;
    }
    return false;
}

static void read_memory(struct bus_process_metric *facts)
{
    char room[LINE_BYTES];
    struct ast_str line;
    uint64_t size, resident;
    long page = sysconf(_SC_PAGESIZE);
    if (page <= 0 || !line_of("/proc/self/statm", "", &room, &line) || !field_u64(line, 0, &size) ||
        !field_u64(line, 1, &resident))
        return;
    know(&facts[VIRTUAL_BYTES], size * (uint64_t)page);
    know(&facts[RESIDENT_BYTES], resident * (uint64_t)page);
}

static void read_stat(struct bus_process_metric *facts)
{
    char room[LINE_BYTES];
    struct ast_str line;
    if (!line_of("/proc/self/stat", "", &room, &line))
        return;
    /* The second field is the program's name in brackets and may hold anything: start behind it,
     * where the third field is number 1. */
    const char *rest = memrchr(line.p, ')', line.n);
    if (!rest)
        return;
    line = ast_str_from(line, (size_t)(rest + 1 - line.p));
    uint64_t threads, start_ticks, boot;
    if (field_u64(line, 20 - 2, &threads))
        know(&facts[THREADS], threads);
    long hz = sysconf(_SC_CLK_TCK);
    if (hz > 0 && field_u64(line, 22 - 2, &start_ticks) &&
        line_of("/proc/stat", "btime ", &room, &line) && field_u64(line, 0, &boot))
        know(&facts[START_SECONDS], boot + start_ticks / (uint64_t)hz);
}

void bus_process_read(struct bus_process_metric ret[static BUS_PROCESS_METRICS])
{
    memcpy(ret, rows, sizeof rows);
    read_cpu(&ret[CPU_SECONDS]);
    read_open_fds(&ret[OPEN_FDS]);
    read_limit(&ret[MAX_FDS], RLIMIT_NOFILE);
    read_limit(&ret[VIRTUAL_MAX_BYTES], RLIMIT_AS);
    read_memory(ret);
    read_stat(ret);
}
