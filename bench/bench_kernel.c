/* What the kernel's admin side costs: reading principals, making them, checking rights.
 *
 * Read: AgentList of 100 principals, by the row's own function, against writing the same JSON from memory. Making: AgentCreate
 * through the door, as many under way as the waiting room allows one caller, everything durable; flat means the last tenth is
 * as fast as the first. Check: 20 grants and five groups, where the last of them decides; cold is with the profile's file read.
 *
 * BENCH_PRINCIPALS=100000 makes that many; the default is smaller, since each has a home of ten directories.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "kernel/admin_priv.h"

#include "base/banned.h"

enum { LISTED = 100, ROUNDS = 4000, CHECKS = 300000, COLD = 300, UNDER_WAY = 512 };

static char dir[] = "/var/tmp/astrid-bench-kernel-XXXXXX";
static struct ast_home home;
static struct ast_kernel *kernel;

static void die(const char *what, const struct ast_err *err)
{
    fprintf(stderr, "bench_kernel: %s: %s\n", what, err ? err->msg : "failed");
    exit(1);
}

static void claim(const char *name, double ours, const char *unit, double limit, double reach,
                  bool is_rate)
{
    double ratio = is_rate ? ours / limit : limit / ours;
    printf("BENCH %s %.0f %s limit=%.0f ratio=%.2f reach=%.2f %s\n", name, ours, unit, limit, ratio,
           reach, ratio >= reach ? "met" : "missed");
}

/* ---- making ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned under_way, refused;

static void on_made(void *arg, struct ast_str json)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    under_way--;
    refused += ast_str_find(json, AST_STR("\"Success\"")) == AST_STR_NPOS;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void make_one(unsigned i)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    char text[128];
    struct ast_err err = AST_ERR_INIT;

    (void)snprintf(text, sizeof text,
                   "{\"method\":\"AgentCreate\",\"params\":{\"name\":\"p%06u\"}}", i);
    if (ast_json_parse(ast_str_c(text), &doc, &err))
        die("request", &err);
    ast_kernel_admin(kernel, AST_PRINCIPAL_DEFAULT, ast_json_root(doc), on_made, NULL);
}

/* Principals per second. */
static double make(unsigned from, unsigned n)
{
    int64_t start = ast_mono_ns();

    for (unsigned i = from; i < from + n; i++) {
        pthread_mutex_lock(&lock);
        while (under_way >= UNDER_WAY)
            pthread_cond_wait(&changed, &lock);
        under_way++;
        pthread_mutex_unlock(&lock);
        make_one(i);
    }
    pthread_mutex_lock(&lock);
    while (under_way)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    if (refused)
        die("principals were refused", NULL);
    return n * 1e9 / (double)(ast_mono_ns() - start);
}

static void bench_making(void)
{
    const char *asked = getenv("BENCH_PRINCIPALS");
    unsigned total = asked ? (unsigned)strtoul(asked, NULL, 10) : 10000;
    unsigned tenth = AST_MAX(total / 10, 100u);
    double first = make(LISTED, tenth);
    double middle = total > 2 * tenth ? make(LISTED + tenth, total - 2 * tenth) : first;
    double last = make(LISTED + total - tenth, tenth);

    claim("kernel_create", middle, "principals/s", 1500, 1.0, true);
    claim("kernel_create_flat", last, "principals/s", first, 0.7, true);
}

/* ---- reading ---- */

struct list_row {
    struct ast_principal name;
    struct ast_profile *profile;
};
static struct list_row listed[LISTED + 1];
static size_t listed_count;

static bool remember(void *arg, struct ast_str principal, const struct ast_profile *profile)
{
    (void)arg;
    if (listed_count == LISTED + 1)
        return false;
    struct list_row *row = &listed[listed_count++];
    if (ast_principal_parse(principal, &row->name, NULL) ||
        !(row->profile = ast_profile_copy(profile)))
        die("profile", NULL);
    return true;
}

static void write_listed(struct ast_jw *w)
{
    ast_jw_array(w);
    for (size_t i = 0; i < listed_count; i++) {
        const struct ast_profile *p = listed[i].profile;
        ast_jw_object(w);
        ast_jw_kv_bool(w, "enabled", p->enabled);
        admin_write_strings(w, AST_STR("grants"), &p->grants);
        admin_write_strings(w, AST_STR("groups"), &p->groups);
        ast_jw_kv_string(w, "principal", ast_principal_str(&listed[i].name));
        admin_write_strings(w, AST_STR("revokes"), &p->revokes);
        ast_jw_end(w);
    }
    ast_jw_end(w);
}

static const struct admin_row *list_row(void)
{
    const struct admin_row *row;
    for (size_t i = 0; (row = admin_row_at(i)); i++)
        if (ast_str_is(row->method, "AgentList"))
            return row;
    die("no AgentList", NULL);
    return NULL;
}

static void bench_reading(void)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1u << 20);
    static struct admin_request r;
    const struct admin_row *row = list_row();
    struct ast_err err = AST_ERR_INIT;

    r.k = kernel;
    (void)ast_principal_parse(AST_PRINCIPAL_DEFAULT, &r.caller, NULL); /* a principal */
    if (ast_policy_each_profile(kernel->policy, remember, NULL, &err))
        die("profiles", &err);
    int64_t start = ast_mono_ns();
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct ast_jw w = AST_JW_INIT(&out);
        ast_buf_reset(&out);
        write_listed(&w);
    }
    double json = ROUNDS * 1e9 / (double)(ast_mono_ns() - start);
    size_t bytes = out.n;
    start = ast_mono_ns();
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct ast_jw w = AST_JW_INIT(&out);
        ast_buf_reset(&out);
        if (row->run(&r, &w, &err))
            die("AgentList", &err);
    }
    double read = ROUNDS * 1e9 / (double)(ast_mono_ns() - start);
    if (out.n != bytes)
        die("the two lists differ", NULL);
    claim("kernel_list", read, "lists/s", json, 0.7, true);
    for (size_t i = 0; i < listed_count; i++)
        ast_profile_unref(listed[i].profile);
}

/* ---- rights ---- */

static void bench_checks(void)
{
    static const char *const groups[] = { "g1", "g2", "g3", "g4", "g5" };
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
    struct ast_err err = AST_ERR_INIT;
    struct ast_str name = AST_STR("p000000");
    char text[32];

    if (ast_profile_parse(AST_STR(""), &p, &err))
        die("profile", &err);
    for (unsigned i = 0; i < 20; i++) {
        (void)snprintf(text, sizeof text, "tool:%u:use", i);
        if (!ast_strings_add(&p->grants, ast_str_c(text)))
            die("grants", NULL);
    }
    for (size_t i = 0; i < AST_ARRAY_LEN(groups); i++) {
        struct ast_group g = { .name = ast_str_c(groups[i]) };
        (void)snprintf(text, sizeof text, "part:%zu:read", i);
        if (!ast_strings_add(&g.capabilities, ast_str_c(text)) ||
            ast_policy_group_create(kernel->policy, &g, &err) ||
            !ast_strings_add(&p->groups, g.name))
            die("group", &err);
        ast_strings_done(&g.capabilities);
    }
    if (ast_policy_set_profile(kernel->policy, name, p, &err))
        die("profile", &err);
    int64_t start = ast_mono_ns();
    for (unsigned i = 0; i < CHECKS; i++)
        if (!ast_policy_holds(kernel->policy, name, AST_STR("part:4:read")))
            die("check", NULL);
    claim("kernel_check", (double)(ast_mono_ns() - start) / CHECKS, "ns", 200, 1.0, false);
    start = ast_mono_ns();
    for (unsigned i = 0; i < COLD; i++) {
        ast_policy_invalidate(kernel->policy, name);
        if (!ast_policy_holds(kernel->policy, name, AST_STR("part:4:read")))
            die("check", NULL);
    }
    claim("kernel_check_from_file", (double)(ast_mono_ns() - start) / COLD, "ns", 3000, 1.0, false);
}

int main(void)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_loop *loop = NULL;

    if (!mkdtemp(dir) || ast_home_at(dir, &home, &err))
        die("home", &err);
    if (ast_loop_new(&loop, &err))
        die("loop", &err);
    struct ast_kernel_config cfg = {
        .home = &home, .loop = loop, .version = "bench", .session = ast_uuid_v4()
    };
    if (ast_kernel_boot(&cfg, &kernel, &err))
        die("boot", &err);
    make(0, LISTED);
    struct timespec settle = {
        .tv_sec = 3
    }; /* a roster is kept once its folder is older than the clock is coarse */
    (void)nanosleep(&settle, NULL); /* a signal only shortens it */
    bench_reading();
    bench_checks();
    bench_making();
    ast_kernel_free(kernel);
    ast_loop_free(loop);
    if (ast_fs_remove_tree(dir, &err))
        die("remove", &err);
    ast_home_done(&home);
    return 0;
}
