/* astrid-daemon: reads its options, boots the kernel, opens the doors, waits for a reason to stop (spec 01 §16). */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "bus/metrics.h"
#include "daemon/config.h"
#include "gateway/gateway.h"
#include "uplink/server.h"

#include "base/banned.h"

#define TARGET     "astrid.daemon"
#define EXIT_USAGE 2

struct options {
    struct ast_uuid session;
    const char *workspace;
    bool ephemeral, verbose;
    unsigned io_max, blocking_max, pool_max; /* 0: not given */
};

/* Owner: main thread. */
struct daemon {
    struct options opt;
    struct ast_home home;
    struct ast_loop *loop;
    struct ast_kernel *kernel;
    struct ast_uplink_server *uplink;
    struct ast_gateway *gateway;
    char reason[256]; /* why we stop; empty: nobody asked yet */
    bool stopping;
    enum ast_rc failed; /* boot went wrong inside the loop */
    struct ast_err err;
};

static void print_usage(FILE *to)
{
    fputs("Usage: astrid-daemon [OPTIONS]\n"
          "\n"
          "The Astrid kernel: runs capsules, serves the socket and the HTTP gateway.\n"
          "\n"
          "Options:\n"
          "  -s, --session <UUID>                 kernel session id [default: the nil UUID]\n"
          "  -w, --workspace <PATH>               workspace root [default: the current directory]\n"
          "      --ephemeral                      exit when no client is connected for a while\n"
          "  -v, --verbose                        log at debug level\n"
          "      --host-io-concurrency <N>        ceiling of waiting host calls, per capsule\n"
          "      --host-blocking-concurrency <N>  ceiling of blocking host calls, per capsule\n"
          "      --instance-pool-size <N>         concurrent calls of one capsule\n"
          "  -h, --help                           print this help\n"
          "  -V, --version                        print the version\n",
          to);
}

/* A usage error: one precise line, then where help is. */
__attribute__((noreturn)) static void usage_error(const char *option, const char *value,
                                                  const char *why)
{
    fprintf(stderr,
            "error: invalid value '%s' for '%s': %s\n\nFor more information, try '--help'.\n",
            value, option, why);
    exit(EXIT_USAGE);
}

static unsigned read_ceiling(const char *option, const char *text)
{
    uint64_t n;

    if (!ast_str_to_u64(ast_str_c(text), &n) || n > UINT32_MAX)
        usage_error(option, text, "not a valid concurrency value: invalid digit found in string");
    if (n == 0)
        usage_error(option, text, "must be >= 1 (a concurrency ceiling of 0 would wedge the gate)");
    return (unsigned)n;
}

static void read_options(int argc, char **argv, struct options *o)
{
    enum { OPT_EPHEMERAL = 256, OPT_IO, OPT_BLOCKING, OPT_POOL };
    static const struct option longs[] = {
        { "session", required_argument, NULL, 's' },
        { "workspace", required_argument, NULL, 'w' },
        { "ephemeral", no_argument, NULL, OPT_EPHEMERAL },
        { "verbose", no_argument, NULL, 'v' },
        { "host-io-concurrency", required_argument, NULL, OPT_IO },
        { "host-blocking-concurrency", required_argument, NULL, OPT_BLOCKING },
        { "instance-pool-size", required_argument, NULL, OPT_POOL },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        { NULL, 0, NULL, 0 },
    };
    int c;

    while ((c = getopt_long(argc, argv, "s:w:vhV", longs, NULL)) != -1) {
        switch (c) {
        case 's':
            if (!ast_uuid_parse(ast_str_c(optarg), &o->session)) {
                fprintf(stderr, "Error: Invalid UUID format: %s\n", optarg);
                exit(EXIT_FAILURE);
            }
            break;
        case 'w': o->workspace = optarg; break;
        case OPT_EPHEMERAL: o->ephemeral = true; break;
        case 'v': o->verbose = true; break;
        case OPT_IO: o->io_max = read_ceiling("--host-io-concurrency <N>", optarg); break;
        case OPT_BLOCKING:
            o->blocking_max = read_ceiling("--host-blocking-concurrency <N>", optarg);
            break;
        case OPT_POOL: o->pool_max = read_ceiling("--instance-pool-size <N>", optarg); break;
        case 'h': print_usage(stdout); exit(EXIT_SUCCESS);
        case 'V': puts("astrid-daemon " AST_RUNTIME_VERSION); exit(EXIT_SUCCESS);
        default: fputs("\nFor more information, try '--help'.\n", stderr); exit(EXIT_USAGE);
        }
    }
    if (optind < argc) {
        fprintf(stderr,
                "error: unexpected argument '%s' found\n\nFor more information, try '--help'.\n",
                argv[optind]);
        exit(EXIT_USAGE);
    }
}

/* ---- stopping ---- */

static void stop(struct daemon *d, const char *reason)
{
    if (!d->reason[0])
        snprintf(d->reason, sizeof d->reason, "%s", reason);
    d->stopping = true;
    ast_loop_stop(d->loop);
}

static void on_signal(void *arg, int signum)
{
    struct daemon *d = arg;

    if (signum == SIGHUP) {
        ast_log_info(TARGET, "SIGHUP received: reading TLS certificates again");
        ast_gateway_reload(d->gateway);
        return;
    }
    if (d->stopping) /* a second one while we are stopping: the operator means it */
        _exit(128 + signum);
    ast_log_info(TARGET, "received signal %d", signum);
    stop(d, "signal");
}

static void on_kernel_stop(void *arg, const char *reason)
{
    stop(arg, reason);
}

static void fail_boot(struct daemon *d, enum ast_rc rc)
{
    d->failed = rc;
    stop(d, "boot failed");
}

/* ---- starting ---- */

static void on_loaded(void *arg)
{
    struct daemon *d = arg;
    enum ast_rc rc;

    if (d->stopping)
        return;
    /* Before the readiness file: a gateway that cannot be built must not follow a promise to serve (spec 03 §3). */
    rc = ast_gateway_start(d->kernel, &d->gateway, &d->err);
    if (!rc)
        rc = ast_kernel_ready(d->kernel, &d->err);
    if (rc)
        fail_boot(d, rc);
    else
        ast_kernel_on_stop(d->kernel, on_kernel_stop, d);
}

static enum ast_rc watch_signals(struct daemon *d)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    enum ast_rc rc = AST_OK;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like a full disk */
    for (size_t i = 0; !rc && i < AST_ARRAY_LEN(signals); i++)
        rc = ast_loop_on_signal(d->loop, signals[i], on_signal, d, &d->err);
    return rc;
}

static enum ast_rc start(struct daemon *d, const struct ast_daemon_config *cfg)
{
    struct ast_kernel_config k = {
        .home = &d->home,
        .loop = d->loop,
        .workspace = d->opt.workspace,
        .session = d->opt.session,
        .ephemeral = d->opt.ephemeral,
        .watch_capsules = cfg->watch_capsules,
        .pool_max = d->opt.pool_max ? d->opt.pool_max : cfg->pool_max,
        .blocking_max = d->opt.blocking_max ? d->opt.blocking_max : cfg->blocking_max,
        .io_max = d->opt.io_max ? d->opt.io_max : cfg->io_max,
        .shows_claims = cfg->shows_claims,
        .depth_max = cfg->depth_max,
        .kv_value_max = cfg->kv_value_max,
        .approval_secs = cfg->approval_secs,
        .links = cfg->links.v,
        .link_count = cfg->links.n,
        .version = AST_RUNTIME_VERSION,
        .audit_fail_open = cfg->audit_fail_open,
        .invite_secs = cfg->invite_secs,
        .agents_may_install = cfg->agents_may_install,
    };
    const struct ast_uplink_config uplink = { .max_clients = cfg->max_clients,
                                              .own_questions_only = cfg->own_questions_only };
    enum ast_rc rc = ast_kernel_boot(&k, &d->kernel, &d->err);

    if (!rc && (rc = ast_uplink_listen(d->kernel, d->loop, &uplink, &d->uplink, &d->err)))
        ast_wrap(&d->err, rc, "Failed to boot Kernel");
    if (!rc)
        ast_kernel_load_capsules(d->kernel, on_loaded, d);
    return rc;
}

static void set_build_info(void)
{
    const struct ast_str labels[] = { AST_STR(AST_RUNTIME_VERSION), AST_STR(AST_GIT_SHA),
                                      AST_STR(__VERSION__) };
    ast_metric_set(ast_metric_cell(AST_METRIC_BUILD_INFO, labels, AST_ARRAY_LEN(labels)), 1);
}

static enum ast_rc open_log(struct daemon *d, const struct ast_daemon_config *cfg, bool *ret_open)
{
    AST_AUTO(ast_cfree) char *dir = ast_home_path(&d->home, AST_HOME_LOG);
    struct ast_log_config log = {
        .dir = ast_str_c(dir),
        .prefix = AST_STR("astrid"),
        .level = d->opt.verbose ? AST_LOG_DEBUG : cfg->log_level,
        .format = cfg->log_format,
        .directives = ast_str_c(cfg->log_directives),
    };
    struct ast_err why = AST_ERR_INIT;
    enum ast_rc rc = ast_home_ensure(&d->home, &d->err);

    if (rc)
        return rc;
    *ret_open = ast_log_open(&log, &why) == AST_OK;
    if (!*ret_open)
        fprintf(stderr, "Failed to initialize logging: %s\n", why.msg);
    return AST_OK;
}

static void run(struct daemon *d, const struct ast_daemon_config *cfg)
{
    d->failed = ast_loop_new(&d->loop, &d->err);
    if (!d->failed)
        d->failed = watch_signals(d);
    if (!d->failed)
        d->failed = start(d, cfg);
    if (!d->failed)
        ast_loop_run(d->loop);

    /* The doors first, so that nobody is let in any more; then what they served. */
    ast_gateway_stop(d->gateway);
    if (d->kernel && !d->failed)
        ast_kernel_shutdown(d->kernel, d->reason[0] ? d->reason : "signal");
    ast_uplink_close(d->uplink);
    ast_kernel_free(d->kernel);
    ast_uplink_free(d->uplink);
    ast_loop_free(d->loop);
}

int main(int argc, char **argv)
{
    struct daemon d = { .err = AST_ERR_INIT };
    struct ast_daemon_config cfg = AST_DAEMON_CONFIG_INIT;
    bool logging = false;

    read_options(argc, argv, &d.opt);
    d.failed = ast_home_resolve(&d.home, &d.err);
    if (d.failed)
        ast_wrap(&d.err, d.failed, "Failed to resolve Astrid home (set $ASTRID_HOME or $HOME)");
    if (!d.failed)
        d.failed = ast_daemon_config_load(&d.home, d.opt.workspace, &cfg, &d.err);
    if (!d.failed)
        d.failed = open_log(&d, &cfg, &logging);
    if (!d.failed) {
        set_build_info();
        run(&d, &cfg);
    }
    if (d.failed) {
        if (logging)
            ast_log_error(TARGET, "%s", d.err.msg);
        fprintf(stderr, "Error: %s\n", d.err.msg);
    }
    if (logging)
        ast_log_close();
    ast_daemon_config_done(&cfg);
    ast_home_done(&d.home);
    return d.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
