/* logs: the newest file of a log folder, its end, and what is appended later (spec 08 §5.7). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "cli/cli.h"

#include "base/banned.h"

#define FOLLOW_MS 250
#define TAIL_MAX  (64u * 1024 * 1024) /* how far back the last lines are looked for */

/* The regular file with the newest time stamp; the command line's own log is not meant. */
static char *newest_file(const char *dir)
{
    DIR *d = opendir(dir);
    char *best = NULL;
    struct timespec newest = { 0 };

    if (!d)
        return NULL;
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] == '.' || ast_str_starts(ast_str_c(e->d_name), AST_STR("cli.")) ||
            fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
            continue;
        bool newer = !best || st.st_mtim.tv_sec > newest.tv_sec ||
                     (st.st_mtim.tv_sec == newest.tv_sec && st.st_mtim.tv_nsec > newest.tv_nsec);
        char *path = newer ? ast_fs_join(dir, e->d_name) : NULL;
        if (path) {
            free(best);
            best = path;
            newest = st.st_mtim;
        }
    }
    closedir(d);
    return best;
}

/* Where the last n lines begin. */
static off_t tail_start(int fd, uint64_t lines)
{
    off_t size = lseek(fd, 0, SEEK_END), at = size;
    char block[65536];
    uint64_t seen = 0;

    while (at > 0 && size - at < (off_t)TAIL_MAX) {
        size_t n = (size_t)AST_MIN(at, (off_t)sizeof block);
        at -= (off_t)n;
        if (pread(fd, block, n, at) != (ssize_t)n)
            return at;
        for (size_t i = n; i > 0; i--)
            if (block[i - 1] == '\n' && at + (off_t)i != size && ++seen >= lines)
                return at + (off_t)i;
    }
    return at;
}

static enum ast_rc copy_out(int fd, off_t *at, struct ast_err *err)
{
    char block[65536];

    for (;;) {
        ssize_t n = pread(fd, block, sizeof block, *at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ast_fail_errno(err, AST_E_IO, errno, "read the log");
        if (n == 0)
            return fflush(stdout) ? ast_fail_errno(err, AST_E_IO, errno, "write") : AST_OK;
        if (isatty(STDOUT_FILENO))
            cli_print_text(stdout, ast_str_n(block, (size_t)n));
        else
            fwrite(block, 1, (size_t)n, stdout);
        *at += n;
    }
}

/* Goes on in a newer file when the log was rotated. */
static enum ast_rc follow(const char *dir, char *path, int fd, off_t at, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *current = path;
    AST_AUTO(ast_fs_close) int open_fd = fd;

    for (;;) {
        enum ast_rc rc = copy_out(open_fd, &at, err);
        if (rc)
            return rc;
        (void)poll(NULL, 0, FOLLOW_MS); /* an early wake only looks once more */
        AST_AUTO(ast_cfree) char *newest = newest_file(dir);
        if (newest && strcmp(newest, current) != 0) {
            int next = open(newest, O_RDONLY | O_CLOEXEC);
            rc = copy_out(open_fd, &at, err);
            if (rc || next < 0)
                return rc ? rc : ast_fail_errno(err, AST_E_IO, errno, "open %s", newest);
            close(open_fd);
            open_fd = next;
            at = 0;
            free(current);
            current = ast_steal(&newest);
        }
    }
}

static enum ast_rc log_dir(struct cli *cli, char **ret, struct ast_err *err)
{
    const char *agent = cli_value(cli, "agent");
    enum ast_rc rc = cli_home(cli, err);
    if (rc)
        return rc;
    if (!cli->word_count) {
        *ret = ast_home_path(&cli->home, AST_HOME_LOG);
    } else {
        struct ast_principal who;
        rc = ast_capsule_id_check(ast_str_c(cli->words[0]), err);
        if (!rc)
            rc = agent ? ast_principal_parse(ast_str_c(agent), &who, err)
                       : ast_principal_parse(AST_PRINCIPAL_DEFAULT, &who, err);
        if (rc)
            return rc;
        *ret = ast_home_path(&cli->home, "home/%s/.local/log/%s", who.name, cli->words[0]);
    }
    return *ret ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "logs");
}

int cmd_logs(struct cli *cli)
{
    AST_AUTO(ast_cfree) char *dir = NULL;
    const char *lines_text = cli_value(cli, "lines");
    struct ast_err err = AST_ERR_INIT;
    uint64_t lines = 100;

    if (lines_text && !ast_str_to_u64(ast_str_c(lines_text), &lines)) {
        fprintf(stderr, "error: invalid value '%s' for '--lines <N>': not a number\n", lines_text);
        return CLI_USAGE;
    }
    if (log_dir(cli, &dir, &err))
        return cli_error(&err);
    char *path = newest_file(dir);
    if (!path) {
        cli_note("(no logs in %s)", dir);
        return CLI_OK;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    enum ast_rc rc = fd < 0 ? ast_fail_errno(&err, AST_E_IO, errno, "open %s", path) : AST_OK;
    off_t at = rc || lines == 0 ? (fd >= 0 ? lseek(fd, 0, SEEK_END) : 0) : tail_start(fd, lines);
    if (!rc && cli_value(cli, "follow")) {
        rc = follow(dir, path, fd, at, &err); /* takes both */
    } else {
        if (!rc)
            rc = copy_out(fd, &at, &err);
        if (fd >= 0)
            close(fd);
        free(path);
    }
    return rc ? cli_error(&err) : CLI_OK;
}
