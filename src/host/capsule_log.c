/* The capsules' own log files: <home>/home/<principal>/.local/log/<capsule>/<date>.log (spec 05 §26).
 *
 * Invariants: a principal's home is never created here; a line is one write to a file opened for appending, so
 * lines of several instances never tear; a message is one line. Files are opened again when the UTC date
 * changes, and old ones deleted then.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/time.h"
#include "host/host_priv.h"

#include "base/banned.h"

#define LOG_NAME_BYTES 14 /* "2026-06-11.log" */
#define SECS_PER_DAY   INT64_C(86400)
#define CAPSULE_TARGET "astrid.capsule" /* of lines that go to the daemon log */

static const char *const level_names[] = { "TRACE", "DEBUG", "INFO", "WARN", "ERROR" };

static _Atomic(int64_t (*)(void)) test_clock; /* NULL: the real one */

void host_log_set_clock(int64_t (*now)(void))
{
    atomic_store(&test_clock, now);
}

static int64_t wall_now(void)
{
    int64_t (*now)(void) = atomic_load_explicit(&test_clock, memory_order_relaxed);
    return now ? now() : ast_wall_ns();
}

/* Shared by reference; immutable. */
struct host_log_file {
    atomic_uint refs;
    int fd;
    int64_t day; /* since 1970, UTC */
};

static struct host_log_file *file_ref(struct host_log_file *f)
{
    atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
    return f;
}

void host_log_file_unref(struct host_log_file *f)
{
    if (!f || atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    (void)close(f->fd); /* every line was written before */
    free(f);
}
AST_DEFINE_AUTO(struct host_log_file, host_log_file_unref)

/* --- Directories --------------------------------------------------------------------------------- */

static int open_dir_at(int parent, const char *name, bool make)
{
    if (make && mkdirat(parent, name, 0700) && errno != EEXIST)
        return -1;
    return openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

/* The capsule's log directory below an existing principal home; -1: there is none. */
static int open_log_dir(const struct ast_host_env *env, struct ast_str principal, bool make)
{
    char path[PATH_MAX], capsule[NAME_MAX + 1];
    int n = snprintf(path, sizeof path, "%s/home/" AST_STR_FMT, env->host->home->root,
                     AST_STR_ARG(principal));
    int m = snprintf(capsule, sizeof capsule, AST_STR_FMT, AST_STR_ARG(env->capsule_id));
    if (!ast_principal_valid(principal) || n < 0 || (size_t)n >= sizeof path || m <= 0 ||
        (size_t)m >= sizeof capsule)
        return -1;
    AST_AUTO(ast_fs_close) int home = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (home < 0)
        return -1;
    AST_AUTO(ast_fs_close) int local = open_dir_at(home, ".local", make);
    if (local < 0)
        return -1;
    AST_AUTO(ast_fs_close) int log = open_dir_at(local, "log", make);
    if (log < 0)
        return -1;
    return open_dir_at(log, capsule, make);
}

static void prune_dir(int fd)
{
    DIR *dir = fdopendir(fd);
    if (!dir) {
        (void)close(fd);
        return;
    }
    int64_t oldest = wall_now() / AST_NS_PER_SEC - HOST_LOG_KEEP_DAYS * SECS_PER_DAY;
    struct dirent *e;
    while ((e = readdir(dir)) != NULL) {
        struct stat st;
        if (strlen(e->d_name) != LOG_NAME_BYTES ||
            !ast_str_ends(ast_str_c(e->d_name), AST_STR(".log")) ||
            fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode) ||
            st.st_mtime >= oldest)
            continue;
        if (unlinkat(fd, e->d_name, 0) && errno != ENOENT)
            ast_log_warn(HOST_LOG, "keep old log file '%s': %s", e->d_name, strerror(errno));
    }
    (void)closedir(dir);
}

void ast_host_capsule_log_prune(struct ast_host_env *env, struct ast_str principal)
{
    int fd = open_log_dir(env, principal, /* make= */ false);
    if (fd >= 0)
        prune_dir(fd);
}

/* --- Open files ---------------------------------------------------------------------------------- */

static struct host_log_file *open_file(struct ast_host_env *env, struct ast_str principal,
                                       int64_t day)
{
    AST_AUTO(ast_fs_close) int dir = open_log_dir(env, principal, /* make= */ true);
    if (dir < 0)
        return NULL;
    char name[LOG_NAME_BYTES + 1], date[11];
    ast_time_date(day * SECS_PER_DAY * AST_NS_PER_SEC, date);
    (void)snprintf(name, sizeof name, "%s.log", date);
    AST_AUTO(ast_fs_close)
    int fd = openat(dir, name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
                    0600);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode))
        return NULL;
    struct host_log_file *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    atomic_init(&f->refs, 1);
    f->fd = fd;
    f->day = day;
    fd = -1;
    return f;
}

/* The file for that day. *ret_stale tells that an earlier day's file was replaced. */
static struct host_log_file *file_for(struct ast_host_env *env, struct ast_str principal,
                                      int64_t day, bool *ret_stale)
{
    struct host_files *files = host_files(env);
    if (!files)
        return NULL;
    {
        AST_WITH_LOCK(&files->lock);
        struct host_log_file *f = ast_map_get(&files->logs, principal);
        if (f && f->day == day)
            return file_ref(f);
        *ret_stale = f != NULL;
    }
    struct host_log_file *fresh = open_file(env, principal, day);
    if (!fresh)
        return NULL;
    void *old;
    {
        AST_WITH_LOCK(&files->lock);
        old = host_files_put(files, &files->logs, principal, file_ref(fresh));
    }
    host_log_file_unref(old);
    return fresh;
}

/* --- Lines --------------------------------------------------------------------------------------- */

static struct ast_str cut(struct ast_str text)
{
    if (text.n <= HOST_LOG_LINE_MAX)
        return text;
    size_t n = HOST_LOG_LINE_MAX;
    while (n > 0 && ((unsigned char)text.p[n] & 0xc0) == 0x80) /* not inside a character */
        n--;
    return ast_str_first(text, n);
}

/* A message must stay one line (spec 05 §26, gap on forged lines). */
static struct ast_str escape(struct ast_str text, struct ast_buf *out)
{
    if (ast_str_find_byte(text, '\n') == AST_STR_NPOS &&
        ast_str_find_byte(text, '\r') == AST_STR_NPOS)
        return text;
    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        if (c == '\n')
            (void)ast_buf_add_lit(out, "\\n");
        else if (c == '\r')
            (void)ast_buf_add_lit(out, "\\r");
        else
            (void)ast_buf_add_byte(out, c);
    }
    return out->fail ? AST_STR("(out of memory)") : ast_buf_view(out);
}

static bool write_line(int fd, const char *head, size_t head_n, struct ast_str text)
{
    char newline = '\n',
         *body = (char *)(uintptr_t)text.p; /* iovec has no const; writev only reads */
    struct iovec v[] = {
        { .iov_base = (char *)(uintptr_t)head, .iov_len = head_n },
        { .iov_base = body, .iov_len = text.n },
        { .iov_base = &newline, .iov_len = 1 },
    };
    ssize_t n;
    do
        n = writev(fd, v, (int)AST_ARRAY_LEN(v));
    while (n < 0 && errno == EINTR);
    return n >= 0 && (size_t)n == head_n + text.n + 1;
}

static bool log_to_file(struct ast_host_env *env, struct ast_str principal, int level,
                        struct ast_str text)
{
    if (env->is_lifecycle)
        return false; /* spec 05 §21: the daemon's or installer's log */
    int64_t now = wall_now(), ms = now / AST_NS_PER_MS;
    bool stale = false;
    AST_AUTO(host_log_file_unref)
    struct host_log_file *f =
        file_for(env, principal, now / (SECS_PER_DAY * AST_NS_PER_SEC), &stale);
    if (!f)
        return false;
    if (stale)
        ast_host_capsule_log_prune(env, principal);
    char head[NAME_MAX + 64];
    int n = snprintf(head, sizeof head, "%lld.%03d %s [" AST_STR_FMT "] ", (long long)(ms / 1000),
                     (int)(ms % 1000), level_names[level], AST_STR_ARG(env->capsule_id));
    if (n < 0 || (size_t)n >= sizeof head)
        return false;
    return write_line(f->fd, head, (size_t)n, text);
}

void ast_host_capsule_log(struct ast_host_env *env, struct ast_str principal, int level,
                          struct ast_str text)
{
    if (AST_NEVER(level < AST_LOG_TRACE || level > AST_LOG_ERROR))
        return;
    AST_AUTO(ast_buf_done) struct ast_buf escaped = AST_BUF_INIT(2 * HOST_LOG_LINE_MAX);
    text = escape(cut(text), &escaped);
    bool in_file = log_to_file(env, principal, level, text);
    if (in_file && level != AST_LOG_ERROR)
        return;
    if (ast_log_enabled((enum ast_log_level)level, CAPSULE_TARGET)) {
        const struct ast_log_field plugin = AST_F_STR("plugin", env->capsule_id);
        ast_log_write((enum ast_log_level)level, CAPSULE_TARGET, &plugin, 1, AST_STR_FMT,
                      AST_STR_ARG(text));
    }
}
