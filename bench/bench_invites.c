/* How many invites 50 clients get a second, every one durable with its audit row before its answer, in an empty store and
 * beside 100 000 others.
 *
 * Each client asks for the next one when it has its answer. The limit is what the disk allows: commits of one small change a
 * second, times the clients that can share one.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/fs.h"
#include "base/time.h"
#include "bus/bus.h"
#include "kernel/admin_priv.h"

#include "base/banned.h"

enum { CLIENTS = 50, FILLED = 100000, FILL_GROUP = 1000, COMMITS = 300 };
#define GOAL    3000.0
#define RUN_NS  (4 * AST_NS_PER_SEC)
#define REQUEST "{\"method\":\"InviteIssue\",\"params\":{\"group\":\"agent\",\"max_uses\":1}}"

static char dir[] = "/var/tmp/astrid-bench-invites-XXXXXX";
static struct ast_home home;
static struct ast_kernel k;
static int64_t until_ns;
static _Atomic uint64_t issued;

static void die(const char *what, const struct ast_err *err)
{
    fprintf(stderr, "bench_invites: %s: %s\n", what, err ? err->msg : "failed");
    exit(1);
}

static void must(enum ast_rc rc, const char *what, const struct ast_err *err)
{
    if (rc)
        die(what, err);
}

/* ---- a kernel that has policy, store, audit log and nothing else ---- */

static void open_kernel(void)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_cfree) char *key = NULL;
    AST_AUTO(ast_cfree) char *path = NULL;

    if (!mkdtemp(dir))
        die(dir, NULL);
    must(ast_home_at(dir, &home, &err), "home", &err);
    must(ast_home_ensure(&home, &err), "home", &err);
    k = (struct ast_kernel){ .home = &home, .audit_fail_closed = true };
    kernel_limits_init(&k.limits);
    key = ast_home_path(&home, AST_HOME_RUNTIME_KEY);
    path = ast_home_path(&home, AST_HOME_STORE);
    must(ast_policy_open(&home, &k.policy, &err), "policy", &err);
    ast_policy_bootstrap(k.policy);
    must(ast_bus_new(&k.bus, &err), "bus", &err);
    must(ast_key_load_or_create(key, "runtime key", &k.runtime_key, &err), "key", &err);
    must(ast_store_open(&(struct ast_store_config){ .path = path }, &k.store, &err), "store", &err);
    must(kernel_audit_open(&k, &err), "audit", &err);
    must(kernel_turns_start(&k.admin, "ast-admin", &err), "admin", &err);
}

static void close_kernel(void)
{
    kernel_turns_stop(&k.admin);
    kernel_audit_stop(&k);
    ast_bus_free(k.bus);
    ast_store_close(k.store);
    ast_key_done(&k.runtime_key);
    ast_policy_close(k.policy);
    kernel_limits_done(&k.limits);
    (void)ast_fs_remove_tree(dir, NULL); /* rubbish of a bench */
    ast_home_done(&home);
}

/* ---- clients ---- */

struct client {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool is_answered, is_good;
};

static void on_answer(void *arg, struct ast_str json)
{
    struct client *c = arg;
    pthread_mutex_lock(&c->lock);
    c->is_answered = true;
    c->is_good = ast_str_find(json, AST_STR("\"status\":\"Invite\"")) != AST_STR_NPOS;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

static void *run_client(void *arg)
{
    struct client c = { .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER };
    (void)arg;
    while (ast_mono_ns() < until_ns) {
        AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
        must(ast_json_parse(AST_STR(REQUEST), &doc, NULL), "request", NULL);
        c.is_answered = false;
        ast_kernel_admin(&k, AST_PRINCIPAL_DEFAULT, ast_json_root(doc), on_answer, &c);
        pthread_mutex_lock(&c.lock);
        while (!c.is_answered)
            pthread_cond_wait(&c.wake, &c.lock);
        pthread_mutex_unlock(&c.lock);
        if (!c.is_good)
            die("an issue was refused", NULL);
        issued++;
    }
    return NULL;
}

static double issue_rate(void)
{
    pthread_t threads[CLIENTS];
    int64_t start = ast_mono_ns();

    issued = 0;
    until_ns = start + RUN_NS;
    for (unsigned i = 0; i < CLIENTS; i++)
        if (pthread_create(&threads[i], NULL, run_client, NULL))
            die("thread", NULL);
    for (unsigned i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    return (double)issued * 1e9 / (double)(ast_mono_ns() - start);
}

/* ---- the disk, and the many others ---- */

static enum ast_rc apply_small(struct ast_store_op *op, struct ast_store_txn *txn,
                               struct ast_err *err)
{
    (void)op;
    return ast_store_txn_put(txn, AST_STR("bench"), AST_STR("k"), AST_STR("v"), err);
}

static double commit_rate(void)
{
    struct ast_err err = AST_ERR_INIT;
    int64_t start = ast_mono_ns();
    for (unsigned i = 0; i < COMMITS; i++) {
        struct ast_store_op op = { .apply = apply_small };
        must(ast_store_run(k.store, &op, &err), "commit", &err);
    }
    return COMMITS * 1e9 / (double)(ast_mono_ns() - start);
}

static void fill(void)
{
    static struct kernel_ticket_op v[FILL_GROUP];
    static struct ast_store_op *ops[FILL_GROUP];
    struct ast_err err = AST_ERR_INIT;
    char token[KERNEL_TICKET_TEXT + 1];

    for (unsigned done = 0; done < FILLED; done += FILL_GROUP) {
        for (unsigned i = 0; i < FILL_GROUP; i++) {
            v[i] = (struct kernel_ticket_op){ .now = 0 };
            must(kernel_ticket_issue(&v[i], KERNEL_TICKET_INVITE, AST_STR("agent"), NULL, 1, 0,
                                     ast_wall_secs(), token, &err),
                 "issue", &err);
            ops[i] = &v[i].op;
        }
        ast_store_run_many(k.store, ops, FILL_GROUP);
        for (unsigned i = 0; i < FILL_GROUP; i++)
            must(v[i].op.rc, "fill", &v[i].op.err);
    }
}

static double cpu_us(void)
{
    struct rusage r;
    if (getrusage(RUSAGE_SELF, &r))
        die("getrusage", NULL);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1e6 +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static void measure(const char *name)
{
    struct ast_store_stats before, after;
    double commits = commit_rate(), limit = commits * CLIENTS;
    ast_store_stats(k.store, &before);
    double cpu = cpu_us(), ours = issue_rate();
    cpu = cpu_us() - cpu;
    ast_store_stats(k.store, &after);
    printf("BENCH %s %.0f invites/s limit=%.0f ratio=%.2f reach=%.2f %s\n", name, ours, limit,
           ours / limit, GOAL / limit, ours >= GOAL ? "met" : "missed");
    printf("      %s: %.0f commits/s alone, %.1f invites a commit, %.0f us of processor time an "
           "invite; the goal is %.0f/s\n",
           name, commits, (double)issued / (double)(after.commits - before.commits),
           cpu / (double)issued, GOAL);
}

int main(void)
{
    open_kernel();
    measure("invite_issue_50_clients_empty");
    fill();
    measure("invite_issue_50_clients_100k");
    close_kernel();
    return 0;
}
