/* The listening socket: where it lies, who may connect, how it goes away (spec 01 §3.1, §4.2). */
#include "uplink/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "uplink/server_priv.h"

#include "base/banned.h"

#define LISTEN_BACKLOG 256
#define CLOSE_FLUSH_MS 1000
#define OTHER_FILES    512u

static enum ast_rc fill_address(const char *path, struct sockaddr_un *addr, struct ast_err *err)
{
    size_t n = strlen(path);

    *addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (n >= sizeof addr->sun_path)
        return ast_fail(err, AST_E_INVALID,
                        "Socket path is %zu bytes, exceeding the platform limit of %zu bytes: %s",
                        n, sizeof addr->sun_path, path);
    memcpy(addr->sun_path, path, n);
    return AST_OK;
}

/* A stale file or any symlink goes; a live listener or an unclear answer stops the boot. */
static enum ast_rc clean_path(const char *path, const struct sockaddr_un *addr, struct ast_err *err)
{
    struct stat st;

    if (lstat(path, &st))
        return errno == ENOENT ? AST_OK
                               : ast_fail_errno(err, AST_E_IO, errno,
                                                "Failed to probe existing socket %s", path);
    if (S_ISLNK(st.st_mode)) {
        ast_log_warn(UPLINK_TARGET, "removing a symlink at the socket path %s", path);
    } else {
        AST_AUTO(ast_fs_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return ast_fail_errno(err, AST_E_IO, errno, "Failed to probe existing socket %s", path);
        if (connect(fd, (const struct sockaddr *)addr, sizeof *addr) == 0)
            return ast_fail(err, AST_E_BUSY,
                            "Another kernel instance is already running on this socket: %s", path);
        if (errno != ECONNREFUSED)
            return ast_fail_errno(err, AST_E_IO, errno, "Failed to probe existing socket %s", path);
    }
    return unlink(path) ? ast_fail_errno(err, AST_E_IO, errno, "remove %s", path) : AST_OK;
}

/* Only our own user; root gets no exemption. */
static bool peer_allowed(int fd)
{
    struct ucred cred;
    socklen_t n = sizeof cred;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n)) {
        ast_log_fields(AST_LOG_WARN, UPLINK_TARGET, "failed to check peer credentials",
                       AST_F_SECURITY, AST_F_I64("errno", errno));
        return false;
    }
    if (cred.uid == geteuid())
        return true;
    ast_log_fields(AST_LOG_WARN, UPLINK_TARGET, "peer UID does not match daemon UID",
                   AST_F_SECURITY, AST_F_U64("peer_uid", cred.uid),
                   AST_F_U64("daemon_uid", geteuid()));
    return false;
}

static bool room_for_one(const struct ast_uplink_server *s)
{
    return s->handshake_count < UPLINK_MAX_HANDSHAKES;
}

void uplink_accept_resume(struct ast_uplink_server *s)
{
    if (s->listen_watch && room_for_one(s))
        ast_watch_set(s->listen_watch, AST_WATCH_READ);
}

static void on_connect(void *arg, unsigned events)
{
    struct ast_uplink_server *s = arg;

    (void)events; /* only readability is watched */
    while (room_for_one(s)) {
        int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                ast_log_warn(UPLINK_TARGET, "accept failed: %m");
            return;
        }
        if (!peer_allowed(fd) || !uplink_conn_new(s, fd))
            close(fd);
    }
    ast_watch_set(s->listen_watch, 0); /* resumed when a handshake ends */
}

static enum ast_rc bind_socket(struct ast_uplink_server *s, struct ast_err *err)
{
    struct sockaddr_un addr;
    struct stat st;
    enum ast_rc rc = fill_address(s->path, &addr, err);

    if (!rc)
        rc = clean_path(s->path, &addr, err);
    if (rc)
        return rc;
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd < 0)
        return ast_fail_errno(err, AST_E_IO, errno, "socket");
    if (bind(s->listen_fd, (const struct sockaddr *)&addr, sizeof addr))
        return ast_fail_errno(err, AST_E_IO, errno, "bind %s", s->path);
    if (stat(s->path, &st) == 0) {
        s->bound_dev = st.st_dev;
        s->bound_ino = st.st_ino;
    }
    if (listen(s->listen_fd, LISTEN_BACKLOG))
        return ast_fail_errno(err, AST_E_IO, errno, "listen on %s", s->path);
    return AST_OK;
}

/* A descriptor for each client and handshake, beside what the rest of the daemon has open. */
static void make_room_for_files(unsigned clients)
{
    struct rlimit files;
    rlim_t need = (rlim_t)clients + UPLINK_MAX_HANDSHAKES + OTHER_FILES;

    if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur >= need)
        return;
    files.rlim_cur = AST_MIN(need, files.rlim_max);
    if (setrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur < need)
        ast_log_warn(UPLINK_TARGET,
                     "open files are limited to %llu, which is too few for %u socket clients",
                     (unsigned long long)files.rlim_cur, clients);
}

enum ast_rc ast_uplink_listen(struct ast_kernel *k, struct ast_loop *loop,
                              const struct ast_uplink_config *cfg, struct ast_uplink_server **ret,
                              struct ast_err *err)
{
    struct ast_uplink_server *s = calloc(1, sizeof *s);
    if (!s)
        return ast_fail(err, AST_E_NO_MEMORY, "socket server");
    s->k = k;
    s->loop = loop;
    s->source = ast_uuid_v4();
    s->own_questions_only = cfg->own_questions_only;
    s->max_clients = cfg->max_clients ? cfg->max_clients : AST_UPLINK_MAX_CLIENTS;
    make_room_for_files(s->max_clients);
    s->listen_fd = -1;
    ast_list_init(&s->conns);
    ast_lock_init(&s->lock, AST_LOCK_queue);
    s->path = ast_home_path(ast_kernel_host(k)->home, AST_HOME_SOCKET);
    enum ast_rc rc = s->path ? ast_limiter_new(&s->limiter, err)
                             : ast_fail(err, AST_E_NO_MEMORY, "socket server");
    if (!rc)
        rc = uplink_egress_open(s, err);
    if (!rc)
        rc = bind_socket(s, err);
    if (!rc) {
        s->listen_watch = ast_watch_new(loop, s->listen_fd, on_connect, s);
        rc = s->listen_watch ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "socket server");
    }
    if (rc) {
        ast_uplink_close(s);
        ast_uplink_free(s);
        return rc;
    }
    ast_watch_set(s->listen_watch, AST_WATCH_READ);
    *ret = s;
    return AST_OK;
}

/* Last answers (the one to a shutdown request among them) get a moment to leave. */
static void flush_all(struct ast_uplink_server *s)
{
    int64_t deadline = ast_mono_ns() + CLOSE_FLUSH_MS * AST_NS_PER_MS;

    uplink_egress_drain(s);
    ast_list_each (&s->conns, it) {
        struct uplink_conn *c = AST_CONTAINER_OF(it, struct uplink_conn, link);
        while (c->out_at < c->out.n) {
            int64_t left = (deadline - ast_mono_ns()) / AST_NS_PER_MS;
            struct pollfd p = { .fd = c->fd, .events = POLLOUT };
            if (left <= 0 || poll(&p, 1, (int)left) <= 0 || !uplink_conn_flush(c))
                break; /* a failed flush has freed the connection */
        }
    }
}

static void remove_file(struct ast_uplink_server *s)
{
    struct stat st;

    if (s->bound_ino && lstat(s->path, &st) == 0 && st.st_dev == s->bound_dev &&
        st.st_ino == s->bound_ino)
        unlink(s->path);
}

void ast_uplink_close(struct ast_uplink_server *s)
{
    if (!s)
        return;
    ast_watch_close(s->listen_watch);
    s->listen_watch = NULL;
    flush_all(s);
    uplink_egress_close(s);
    ast_loop_flush(s->loop); /* a drain may be on its way: no publisher can post another */
    ast_list_each (&s->conns, it)
        uplink_conn_close(AST_CONTAINER_OF(it, struct uplink_conn, link));
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    s->listen_fd = -1;
    ast_limiter_free(s->limiter);
    s->limiter = NULL;
    ast_vec_done(&s->listed);
}

void ast_uplink_free(struct ast_uplink_server *s)
{
    if (!s)
        return;
    remove_file(s);
    ast_lock_done(&s->lock);
    free(s->path);
    free(s);
}
