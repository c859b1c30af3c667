/* The log's filter and its sinks.
 *
 * A caller formats its line on its own, then links it into a queue under a short lock; one writer
 * thread owns the file, the rotation and every disk error. Standard error has no thread: one
 * write() per line. Invariant: a line reaches its sink in one piece or is counted as dropped.
 */
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log_priv.h"
#include "base/thread.h"
#include "base/time.h"
#include "base/vec.h"

#include "base/banned.h"

#define DIRECTIVES_MAX 64
#define TARGET_MAX     64
#define DEFAULT_KEEP   7

/* A queued line; the text follows the header in the same block. */
struct line {
    struct line *next;
    int64_t wall_ns;
    size_t n;
    char text[];
};

struct directive {
    char target[TARGET_MAX];
    size_t n;
    enum ast_log_level level;
};

/* Owner: ast_log_open() and ast_log_close(), called by one thread at a time; then
 *   levels and format: read by any thread; the atomics publish what was written before them,
 *   queue: any thread, under `lock`,
 *   file part: the writer thread (or base_log_emergency(), which ends the process). */
static struct {
    atomic_int lowest; /* cheapest refusal: no directive and no default is below it */
    atomic_int level;  /* default level */
    atomic_size_t directive_count;
    struct directive directives[DIRECTIVES_MAX];
    _Atomic(enum ast_log_format) format;
    _Atomic(int64_t (*)(void)) clock;
    atomic_bool has_file;

    struct ast_lock lock;
    pthread_cond_t wake;
    struct line *first AST_GUARDED_BY(lock);
    struct line **last AST_GUARDED_BY(lock);
    size_t queued_bytes AST_GUARDED_BY(lock);
    uint64_t dropped AST_GUARDED_BY(lock); /* lines since the last report */
    bool stop AST_GUARDED_BY(lock);

    pthread_t writer;
    int fd;         /* -1 while the file cannot be opened */
    int64_t day;    /* days since 1970 of `fd` */
    bool is_broken; /* a failure was reported and has not gone away */
    char *dir, *prefix;
    unsigned keep;
} sink = { .lowest = AST_LOG_WARN, .level = AST_LOG_WARN, .fd = -1 };

/* --- Filter -------------------------------------------------------------------------------- */

bool ast_log_level_parse(struct ast_str s, enum ast_log_level *ret)
{
    static const struct {
        struct ast_str text;
        enum ast_log_level level;
    } rows[] = {
        { AST_STR("trace"), AST_LOG_TRACE }, { AST_STR("debug"), AST_LOG_DEBUG },
        { AST_STR("info"), AST_LOG_INFO },   { AST_STR("warn"), AST_LOG_WARN },
        { AST_STR("error"), AST_LOG_ERROR }, { AST_STR("off"), AST_LOG_OFF },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        if (ast_str_eq_nocase(s, rows[i].text)) {
            *ret = rows[i].level;
            return true;
        }
    }
    return false;
}

/* Does "astrid.bus" speak for `target`: itself, or what lies below it ("astrid.bus.queue")? */
static bool directive_covers(const struct directive *d, const char *target)
{
    if (strncmp(target, d->target, d->n) != 0)
        return false;
    char next = target[d->n];
    return next == 0 || next == '.' || next == ':';
}

static enum ast_log_level level_for(const char *target)
{
    /* Acquire: pairs with the release in set_levels(), which follows the writing of the rows. */
    size_t n = atomic_load_explicit(&sink.directive_count, memory_order_acquire);
    const struct directive *best = NULL;
    for (size_t i = 0; i < n; i++) {
        const struct directive *d = &sink.directives[i];
        if (directive_covers(d, target) && (!best || d->n >= best->n))
            best = d;
    }
    return best ? best->level
                : (enum ast_log_level)atomic_load_explicit(&sink.level, memory_order_relaxed);
}

bool ast_log_enabled(enum ast_log_level level, const char *target)
{
    /* Relaxed: a level change may be seen a line later. */
    if ((int)level < atomic_load_explicit(&sink.lowest, memory_order_relaxed))
        return false;
    if (atomic_load_explicit(&sink.directive_count, memory_order_relaxed) == 0)
        return true;
    return level >= level_for(target);
}

/* Writes the rows first and their number last. Returns the number of parts that made no sense. */
static unsigned set_levels(enum ast_log_level level, struct ast_str text)
{
    unsigned bad = 0;
    size_t n = 0;
    enum ast_log_level lowest;
    bool more = text.n > 0;
    struct ast_str part;

    while (ast_str_split(&text, &more, ',', &part)) {
        part = ast_str_trim(part);
        if (part.n == 0)
            continue;
        size_t eq = ast_str_find_byte(part, '=');
        if (eq == AST_STR_NPOS) {
            bad += !ast_log_level_parse(part, &level);
            continue;
        }
        struct ast_str target = ast_str_trim(ast_str_first(part, eq));
        struct directive d = { .n = target.n };
        if (target.n == 0 || target.n >= TARGET_MAX || n == DIRECTIVES_MAX ||
            !ast_log_level_parse(ast_str_trim(ast_str_from(part, eq + 1)), &d.level)) {
            bad++;
            continue;
        }
        memcpy(d.target, target.p, target.n);
        sink.directives[n++] = d;
    }
    lowest = level;
    for (size_t i = 0; i < n; i++)
        lowest = AST_MIN(lowest, sink.directives[i].level);
    atomic_store_explicit(&sink.level, (int)level, memory_order_relaxed);
    atomic_store_explicit(&sink.directive_count, n, memory_order_release);
    atomic_store_explicit(&sink.lowest, (int)lowest, memory_order_relaxed);
    return bad;
}

/* --- File: only the writer thread ---------------------------------------------------------- */

static int64_t day_of(int64_t wall_ns)
{
    int64_t per_day = 86400 * AST_NS_PER_SEC;
    return wall_ns / per_day - (wall_ns % per_day < 0);
}

/* Once per trouble, not once per line. */
static void report_trouble(const char *what, int errnum)
{
    char text[128];
    if (!sink.is_broken)
        (void)fprintf(stderr, "astrid: log: %s in '%s': %s\n", what, sink.dir,
                      strerror_r(errnum, text, sizeof text));
    sink.is_broken = true;
}

/* "<prefix>.YYYY-MM-DD.log" */
static bool is_our_file(const char *name)
{
    struct ast_str s = ast_str_c(name), prefix = ast_str_c(sink.prefix);
    if (!ast_str_starts(s, prefix) || !ast_str_ends(s, AST_STR(".log")) || s.n != prefix.n + 15)
        return false;
    const char *date = name + prefix.n;
    for (size_t i = 0; i < 11; i++) {
        bool is_digit = date[i] >= '0' && date[i] <= '9';
        bool fits = i == 0 ? date[i] == '.' : i == 5 || i == 8 ? date[i] == '-' : is_digit;
        if (!fits)
            return false;
    }
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Dates sort as text, so the oldest files come first. A file that cannot be removed just stays. */
static void prune(int dir)
{
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    if (!stream) {
        if (copy >= 0)
            (void)close(copy); /* was only read */
        return;
    }
    AST_VEC(char *) names = { 0 };
    for (struct dirent *e = readdir(stream); e; e = readdir(stream)) {
        char *name = is_our_file(e->d_name) ? ast_str_dup(ast_str_c(e->d_name)) : NULL;
        if (name && !ast_vec_push(&names, name))
            free(name);
    }
    (void)closedir(stream); /* was only read */
    if (names.n)
        qsort(names.v, names.n, sizeof names.v[0], by_name);
    for (size_t i = 0; i < names.n; i++) {
        if (i + sink.keep < names.n)
            (void)unlinkat(dir, names.v[i], 0);
        free(names.v[i]);
    }
    ast_vec_done(&names);
}

static void close_file(void)
{
    if (sink.fd >= 0 && close(sink.fd))
        report_trouble("close failed", errno);
    sink.fd = -1;
}

/* The file of that day, opened for appending; older ones beyond `keep` go. */
static void open_file(int64_t wall_ns)
{
    char date[11];
    ast_time_date(wall_ns, date);
    AST_AUTO(ast_cfree) char *name = NULL;
    close_file();
    sink.day = day_of(wall_ns);
    if (asprintf(&name, "%s.%s.log", sink.prefix, date) < 0) {
        name = NULL;
        report_trouble("no memory", ENOMEM);
        return;
    }
    AST_AUTO(ast_fs_close) int dir = open(sink.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0)
        sink.fd = openat(dir, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (sink.fd < 0) {
        report_trouble("cannot open the file", errno);
        return;
    }
    sink.is_broken = false;
    prune(dir);
}

/* False when the bytes did not reach the file. */
static bool write_text(int fd, const char *text, size_t n)
{
    while (n) {
        ssize_t done = write(fd, text, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return false;
        text += done;
        n -= (size_t)done;
    }
    return true;
}

static void write_line(int64_t wall_ns, const char *text, size_t n)
{
    if (sink.fd < 0 || day_of(wall_ns) != sink.day)
        open_file(wall_ns);
    if (sink.fd >= 0 && !write_text(sink.fd, text, n))
        report_trouble("write failed", errno);
}

static int64_t now(void)
{
    int64_t (*clock)(void) = atomic_load_explicit(&sink.clock, memory_order_relaxed);
    return clock ? clock() : ast_wall_ns();
}

static void report_dropped(uint64_t count)
{
    const struct ast_log_field f[] = { AST_F_U64("lines", count) };
    struct base_log_line line = {
        .wall_ns = now(),
        .level = AST_LOG_WARN,
        .target = "astrid.log",
        .message = AST_STR("lines dropped: the log could not be written fast enough"),
        .fields = f,
        .field_count = 1,
    };
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(BASE_LOG_LINE_MAX);
    if (!base_log_format(&line, atomic_load(&sink.format), &text))
        write_line(line.wall_ns, text.p, text.n);
}

/* Takes the whole queue. */
static struct line *queue_take(uint64_t *ret_dropped) AST_REQUIRES(sink.lock)
{
    struct line *all = sink.first;
    sink.first = NULL;
    sink.last = &sink.first;
    sink.queued_bytes = 0;
    *ret_dropped = sink.dropped;
    sink.dropped = 0;
    return all;
}

static void write_queue(struct line *all, uint64_t dropped)
{
    while (all) {
        struct line *next = all->next;
        write_line(all->wall_ns, all->text, all->n);
        free(all);
        all = next;
    }
    if (dropped)
        report_dropped(dropped);
}

static void *writer_main(void *arg)
{
    (void)arg;
    for (bool stop = false; !stop;) {
        uint64_t dropped;
        ast_lock(&sink.lock);
        while (!sink.first && !sink.dropped && !sink.stop)
            (void)ast_cond_wait(&sink.wake, &sink.lock, -1); /* the loop asks what happened */
        struct line *all = queue_take(&dropped);
        stop = sink.stop;
        ast_unlock(&sink.lock);
        write_queue(all, dropped);
    }
    return NULL;
}

void base_log_emergency(struct ast_str line)
{
    if (!atomic_load(&sink.has_file) || pthread_mutex_trylock(&sink.lock.m) != 0)
        return;
    /* The writer thread may be inside write() right now; O_APPEND keeps lines whole. */
    for (struct line *l = sink.first; l && sink.fd >= 0; l = l->next)
        (void)write_text(sink.fd, l->text, l->n); /* there is nobody left to tell */
    if (sink.fd >= 0)
        (void)write_text(sink.fd, line.p, line.n);
}

/* --- Writing a line ------------------------------------------------------------------------ */

/* Takes `l`. False: dropped. */
static bool enqueue(struct line *l)
{
    bool is_first;
    ast_lock(&sink.lock);
    if (sink.stop || sink.queued_bytes + l->n > BASE_LOG_QUEUE_MAX) {
        sink.dropped++;
        ast_unlock(&sink.lock);
        free(l);
        return false;
    }
    is_first = !sink.first;
    *sink.last = l;
    sink.last = &l->next;
    sink.queued_bytes += l->n;
    ast_unlock(&sink.lock);
    if (is_first)                              /* otherwise the writer has been woken already */
        (void)pthread_cond_signal(&sink.wake); /* cannot fail */
    return true;
}

static void to_stderr(const char *text, size_t n)
{
    (void)write_text(STDERR_FILENO, text, n); /* the last resort has no other place to report to */
}

void ast_log_write(enum ast_log_level level, const char *target, const struct ast_log_field *fields,
                   size_t field_count, const char *fmt, ...)
{
    AST_AUTO(ast_buf_done) struct ast_buf message = AST_BUF_INIT(BASE_LOG_LINE_MAX);
    AST_AUTO(ast_buf_done)
    struct ast_buf text = AST_BUF_INIT(sizeof(struct line) + BASE_LOG_LINE_MAX);
    struct base_log_line line = {
        .wall_ns = now(),
        .level = level,
        .target = target,
        .fields = fields,
        .field_count = field_count,
    };
    char small[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(small, sizeof small, fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof small) {
        line.message = (struct ast_str){ small, (size_t)n };
    } else if (n >= 0 && !ast_buf_reserve(&message, AST_MIN((size_t)n, BASE_LOG_LINE_MAX))) {
        va_start(args, fmt);
        (void)vsnprintf(message.p, message.cap, fmt, args); /* cut where the buffer ends */
        va_end(args);
        line.message = ast_str_c(message.p);
    } else {
        line.message = ast_str_c(fmt);
    }

    const struct line header = { .wall_ns = line.wall_ns };
    (void)ast_buf_reserve(&text, 512); /* one allocation for the usual line */
    (void)ast_buf_add(&text, ast_str_n(&header, sizeof header));
    if (base_log_format(&line, atomic_load_explicit(&sink.format, memory_order_relaxed), &text)) {
        static const char lost[] = "astrid: log: out of memory for a line\n";
        to_stderr(lost, sizeof lost - 1);
        return;
    }
    size_t len = text.n - sizeof header;
    if (!atomic_load_explicit(&sink.has_file, memory_order_acquire)) {
        to_stderr(text.p + sizeof header, len);
        return;
    }
    struct line *l = (struct line *)(void *)ast_buf_steal(&text);
    l->n = len;
    (void)enqueue(l); /* counted and reported by the writer when dropped */
}

/* --- Opening and closing ------------------------------------------------------------------- */

void base_log_set_clock(int64_t (*wall_ns)(void))
{
    atomic_store(&sink.clock, wall_ns);
}

static void release_file_part(void)
{
    close_file();
    free(sink.dir);
    free(sink.prefix);
    sink.dir = sink.prefix = NULL;
}

static enum ast_rc open_file_sink(const struct ast_log_config *cfg, struct ast_err *err)
{
    sink.dir = ast_str_dup(cfg->dir);
    sink.prefix = ast_str_dup(cfg->prefix.n ? cfg->prefix : AST_STR("astrid"));
    sink.keep = cfg->keep_files ? cfg->keep_files : DEFAULT_KEEP;
    sink.is_broken = true; /* the caller gets the error instead of a line on stderr */
    if (!sink.dir || !sink.prefix) {
        release_file_part();
        return ast_fail(err, AST_E_NO_MEMORY, "log");
    }
    open_file(now());
    if (sink.fd < 0) {
        enum ast_rc rc =
            ast_fail_errno(err, ast_rc_from_errno(errno), errno, "log file in '%s'", sink.dir);
        release_file_part();
        return rc;
    }

    static bool has_lock; /* made once; lines may still be on their way to it after a close */
    if (!has_lock) {
        ast_lock_init(&sink.lock, AST_LOCK_log);
        ast_cond_init(&sink.wake);
        has_lock = true;
    }
    sink.first = NULL;
    sink.last = &sink.first;
    sink.queued_bytes = 0;
    sink.dropped = 0;
    sink.stop = false;
    enum ast_rc rc = ast_thread_start(&sink.writer, "ast-log", writer_main, NULL, err);
    if (rc) {
        release_file_part();
        return rc;
    }
    atomic_store_explicit(&sink.has_file, true, memory_order_release);
    return AST_OK;
}

enum ast_rc ast_log_open(const struct ast_log_config *cfg, struct ast_err *err)
{
    AST_ASSERT(!atomic_load(&sink.has_file));
    if (cfg->dir.n) {
        enum ast_rc rc = open_file_sink(cfg, err);
        if (rc)
            return rc;
    }
    atomic_store(&sink.format, cfg->format);
    unsigned bad = set_levels(cfg->level, cfg->directives);
    if (bad)
        ast_log_warn("astrid.log", "%u log directives are not of the form target=level: skipped",
                     bad);
    return AST_OK;
}

void ast_log_close(void)
{
    /* Seen by new lines before the writer stops, so that they take the other way. */
    if (!atomic_exchange(&sink.has_file, false))
        return;
    ast_lock(&sink.lock);
    sink.stop = true;
    ast_unlock(&sink.lock);
    (void)pthread_cond_signal(&sink.wake); /* cannot fail */
    AST_ASSERT(pthread_join(sink.writer, NULL) == 0);
    release_file_part();
}
