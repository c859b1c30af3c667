/* The daemon as the command line sees it: a socket file, a lock, a readiness file. */
#include "cli/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/time.h"

#include "base/banned.h"

#define READY_WAIT_MS 10000
#define READY_POLL_MS 10
#define DYING_WAIT_MS 1000

static void nap_ms(int ms)
{
    (void)poll(NULL, 0, ms); /* an early wake only polls once more */
}

enum cli_daemon_state cli_daemon_probe(struct cli *cli, struct ast_err *err)
{
    enum ast_rc rc = cli_home(cli, err);
    AST_AUTO(ast_cfree) char *path = rc ? NULL : ast_home_path(&cli->home, AST_HOME_SOCKET);
    AST_AUTO(ast_fs_close) int fd = -1;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    if (rc || !path)
        return CLI_DAEMON_UNCLEAR;
    if (!ast_fs_exists(path))
        return CLI_DAEMON_NONE;
    if (strlen(path) >= sizeof addr.sun_path) {
        (void)ast_fail(err, AST_E_INVALID, "socket path is too long: %s", path);
        return CLI_DAEMON_UNCLEAR;
    }
    memcpy(addr.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof addr) == 0)
        return CLI_DAEMON_UP;
    if (fd >= 0 && errno == ECONNREFUSED)
        return CLI_DAEMON_STALE;
    (void)ast_fail_errno(err, AST_E_IO, errno, "Failed to check socket");
    return CLI_DAEMON_UNCLEAR;
}

enum ast_rc cli_daemon_clean(struct cli *cli, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *lock = ast_home_path(&cli->home, AST_HOME_LOCK);
    AST_AUTO(ast_cfree) char *sock = ast_home_path(&cli->home, AST_HOME_SOCKET);
    AST_AUTO(ast_cfree) char *ready = ast_home_path(&cli->home, AST_HOME_READY);
    AST_AUTO(ast_fs_close)
    int fd = lock ? open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;

    if (fd < 0 || !sock || !ready)
        return ast_fail_errno(err, AST_E_IO, errno, "open the singleton lock");
    /* Whoever holds the lock is alive, whatever its socket looks like. */
    if (flock(fd, LOCK_EX | LOCK_NB))
        return ast_fail(err, AST_E_BUSY, "a daemon holds the singleton lock %s but does not answer",
                        lock);
    unlink(sock);
    unlink(ready);
    return AST_OK;
}

bool cli_daemon_wait_gone(struct cli *cli, int64_t ms)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(&cli->home, AST_HOME_SOCKET);
    int64_t deadline = ast_mono_ns() + ms * AST_NS_PER_MS;

    while (path && ast_fs_exists(path)) {
        if (ast_mono_ns() >= deadline)
            return false;
        nap_ms(READY_POLL_MS);
    }
    return path != NULL;
}

/* A session of its own: Ctrl-C in this terminal is not for the daemon. */
static enum ast_rc spawn_detached(const char *program, char *const argv[], pid_t *ret,
                                  struct ast_err *err)
{
    posix_spawnattr_t attr;
    posix_spawn_file_actions_t files;

    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_init(&files);
    int e = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID);
    for (int fd = 0; !e && fd <= 2; fd++)
        e = posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);
    if (!e)
        e = posix_spawn(ret, program, &files, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    return e ? ast_fail_errno(err, AST_E_IO, e, "start %s", program) : AST_OK;
}

static enum ast_rc wait_ready(struct cli *cli, pid_t pid, const char *ready, struct ast_err *err)
{
    int64_t deadline = ast_mono_ns() + READY_WAIT_MS * AST_NS_PER_MS;
    int status;

    while (!ast_fs_exists(ready)) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            if (WIFSIGNALED(status))
                return ast_fail(err, AST_E_IO,
                                "Daemon exited prematurely (signal %d). Check logs: %s/log",
                                WTERMSIG(status), cli->home.root);
            return ast_fail(err, AST_E_IO,
                            "Daemon exited prematurely (exit status: %d). Check logs: %s/log",
                            WEXITSTATUS(status), cli->home.root);
        }
        if (ast_mono_ns() >= deadline) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return ast_fail(err, AST_E_TIMEOUT,
                            "Daemon failed to become ready within 10 seconds. Check logs: %s/log",
                            cli->home.root);
        }
        nap_ms(READY_POLL_MS);
    }
    return AST_OK;
}

/* One start at a time in this home: the run folder's own lock, no file of its own. The other one's start takes as long as
 * a start may. */
static enum ast_rc lock_starts(struct cli *cli, int *ret_fd, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *run = ast_home_path(&cli->home, "run");
    AST_AUTO(ast_fs_close) int fd = -1;
    int64_t deadline = ast_mono_ns() + (READY_WAIT_MS + DYING_WAIT_MS) * AST_NS_PER_MS;

    if (!run)
        return ast_fail(err, AST_E_NO_MEMORY, "start the daemon");
    enum ast_rc rc = ast_fs_mkdirs(run, 0700, err);
    if (rc)
        return rc;
    fd = open(run, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "open '%s'", run);
    while (flock(fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return ast_fail_errno(err, AST_E_IO, errno, "lock '%s'", run);
        if (ast_mono_ns() >= deadline)
            return ast_fail(err, AST_E_BUSY, "somebody else is starting a daemon and does not end");
        nap_ms(READY_POLL_MS);
    }
    *ret_fd = fd;
    fd = -1;
    return AST_OK;
}

/* A dead daemon's socket is gone before its lock is: that is waited for. */
static enum ast_rc clean_dead(struct cli *cli, struct ast_err *err)
{
    enum ast_rc rc = cli_daemon_clean(cli, err);

    for (int waited = 0; rc == AST_E_BUSY && waited < DYING_WAIT_MS; waited += READY_POLL_MS) {
        nap_ms(READY_POLL_MS);
        rc = cli_daemon_clean(cli, err);
    }
    return rc;
}

static enum ast_rc spawn_and_wait(struct cli *cli, bool ephemeral, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *program = NULL;
    AST_AUTO(ast_cfree) char *ready = ast_home_path(&cli->home, AST_HOME_READY);
    AST_AUTO(ast_cfree) char *cwd = getcwd(NULL, 0);
    pid_t pid;

    if (!ready || !cwd)
        return ast_fail(err, AST_E_NO_MEMORY, "start the daemon");
    enum ast_rc rc = cli_companion("astrid-daemon", &program, err);
    if (rc)
        return rc;
    unlink(ready);
    char *const argv[] = { program, (char[]){ "--workspace" }, cwd,
                           ephemeral ? (char[]){ "--ephemeral" } : NULL, NULL };
    rc = spawn_detached(program, argv, &pid, err);
    return rc ? rc : wait_ready(cli, pid, ready, err);
}

enum ast_rc cli_daemon_spawn(struct cli *cli, bool ephemeral, bool *ret_found, struct ast_err *err)
{
    AST_AUTO(ast_fs_close) int lock = -1;
    enum ast_rc rc = cli_home(cli, err);

    if (!rc)
        rc = lock_starts(cli, &lock, err);
    if (rc)
        return rc;
    *ret_found = false;
    switch (cli_daemon_probe(cli, err)) {
    case CLI_DAEMON_UP: *ret_found = true; return AST_OK; /* somebody was faster */
    case CLI_DAEMON_UNCLEAR: return err->rc ? err->rc : AST_E_IO;
    case CLI_DAEMON_STALE: rc = clean_dead(cli, err); break;
    case CLI_DAEMON_NONE: break;
    }
    return rc ? rc : spawn_and_wait(cli, ephemeral, err);
}

/* Nobody is there, or nobody alive: boots one. */
static enum ast_rc boot(struct cli *cli, enum cli_daemon_state state, struct ast_err *err)
{
    bool found;

    if (state == CLI_DAEMON_STALE)
        cli_note("Found dead socket. Cleaning up and restarting daemon...");
    cli_note("Booting Astrid daemon...");
    return cli_daemon_spawn(cli, /* ephemeral= */ true, &found, err);
}

/* A process that was killed takes connections until its last thread is gone, and never answers. */
static enum cli_daemon_state wait_dead(struct cli *cli)
{
    enum cli_daemon_state state = CLI_DAEMON_UP;
    struct ast_err ignored = AST_ERR_INIT; /* the caller has the error that counts */

    for (int waited = 0; state == CLI_DAEMON_UP && waited < DYING_WAIT_MS;
         waited += READY_POLL_MS) {
        nap_ms(READY_POLL_MS);
        state = cli_daemon_probe(cli, &ignored);
    }
    return state;
}

enum ast_rc cli_daemon_connect(struct cli *cli, struct ast_uplink_client **ret, struct ast_err *err)
{
    enum cli_daemon_state state = cli_daemon_probe(cli, err);
    enum ast_rc rc = AST_OK;

    if (state == CLI_DAEMON_UNCLEAR)
        return err->rc ? err->rc : AST_E_IO;
    if (state == CLI_DAEMON_UP) {
        rc = ast_uplink_connect(&cli->home, ret, err);
        if (rc != AST_E_IO && rc != AST_E_CLOSED)
            return rc;
        state = wait_dead(cli);
        if (state != CLI_DAEMON_STALE && state != CLI_DAEMON_NONE)
            return rc;
    }
    rc = boot(cli, state, err);
    return rc ? rc : ast_uplink_connect(&cli->home, ret, err);
}

enum ast_rc cli_connect(struct cli *cli, struct ast_uplink_client **ret, struct ast_err *err)
{
    enum ast_rc rc = cli_home(cli, err);

    if (!rc)
        rc = ast_uplink_connect(&cli->home, ret, err);
    if (rc == AST_E_NOT_FOUND || rc == AST_E_CLOSED) /* no socket, or nobody behind it */
        return ast_wrap(err, rc,
                        "Failed to connect to Astrid daemon. Run `astrid start` to launch it.");
    return rc;
}

enum ast_rc cli_request_as(struct ast_uplink_client *c, struct ast_str who, const char *suffix,
                           struct ast_str request, int64_t timeout_ms,
                           struct ast_uplink_frame *frame, const struct ast_json **ret,
                           struct ast_err *err)
{
    struct ast_str status, text;
    enum ast_rc rc = ast_uplink_request(c, ast_str_c(suffix), request, who, timeout_ms, frame, err);
    if (rc)
        return rc;
    const struct ast_json *data = ast_json_member(frame->payload, "data");
    if (!ast_json_string(ast_json_member(frame->payload, "status"), &status))
        return ast_fail(err, AST_E_PROTOCOL, "unexpected response from kernel: no status");
    if (ast_str_is(status, "Error") && ast_json_string(data, &text))
        return ast_fail(err, AST_E_DENIED, "kernel rejected request: " AST_STR_FMT,
                        AST_STR_ARG(text));
    *ret = data;
    return AST_OK;
}

enum ast_rc cli_request(struct cli *cli, struct ast_uplink_client *c, const char *suffix,
                        struct ast_str request, int64_t timeout_ms, struct ast_uplink_frame *frame,
                        const struct ast_json **ret, struct ast_err *err)
{
    struct ast_principal who;
    enum ast_rc rc = cli_principal(cli, &who, err);

    return rc ? rc
              : cli_request_as(c, ast_principal_str(&who), suffix, request, timeout_ms, frame, ret,
                               err);
}
