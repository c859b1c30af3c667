/* How fast the audit log takes, checks and gives rows, against what ed25519 allows on this machine.
 *
 * Appends: rows are handed in without waiting, on one thread and chain, then on eight of each; every row is durable. The
 * limits are signatures of one core, and of all cores, and beside them stands what a row costs in processor time, which other
 * work on the machine does not change. Verify: the limit is ed25519 verification on one core. Page: 100 rows of a method that
 * every tenth of a million rows has. Disk: what a million rows left in the file.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "audit/audit.h"
#include "base/fs.h"
#include "base/thread.h"
#include "base/time.h"

#include "base/banned.h"

enum { ROUNDS = 20000, ROWS = 40000, CHAINS = 8, PAGE = 100, PAGES = 200 };
#define BIG 1000000u

static char dir[] = "/var/tmp/astrid-bench-audit-XXXXXX";
static struct ast_store *store;
static struct ast_audit *audit;
static struct ast_key key;
static _Atomic uint64_t done_rows, failed_rows;

static void die(const char *what, const struct ast_err *err)
{
    fprintf(stderr, "bench_audit: %s: %s\n", what, err ? err->msg : "failed");
    exit(1);
}

static void print_claim(const char *name, double ours, const char *unit, double limit, double reach,
                        bool is_rate)
{
    double ratio = is_rate ? ours / limit : limit / ours;
    printf("BENCH %s %.0f %s limit=%.0f ratio=%.2f reach=%.2f %s\n", name, ours, unit, limit, ratio,
           reach, ratio >= reach ? "met" : "missed");
}

static char sample[420]; /* as long as what one row signs */

static void *sign_many(void *arg)
{
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];
    (void)arg;
    for (unsigned i = 0; i < ROUNDS; i++)
        ast_key_sign(&key, ast_str_n(sample, sizeof sample), signature);
    return NULL;
}

static double cpu_us(void)
{
    struct rusage r;
    if (getrusage(RUSAGE_SELF, &r))
        die("getrusage", NULL);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1e6 +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static double signature_us(void)
{
    double start = cpu_us();
    (void)sign_many(NULL);
    return (cpu_us() - start) / ROUNDS;
}

static double on_threads(void *(*fn)(void *), unsigned threads, uint64_t each)
{
    pthread_t all[64];
    static uintptr_t numbers[64];
    int64_t start = ast_mono_ns();
    for (unsigned i = 0; i < threads; i++) {
        numbers[i] = i;
        if (pthread_create(&all[i], NULL, fn, &numbers[i]))
            die("thread", NULL);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(all[i], NULL);
    return (double)threads * (double)each * 1e9 / (double)(ast_mono_ns() - start);
}

static double verify_rate(void)
{
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];
    ast_key_sign(&key, ast_str_n(sample, sizeof sample), signature);
    int64_t start = ast_mono_ns();
    for (unsigned i = 0; i < ROUNDS / 4; i++)
        if (!ast_key_verify(key.public_key, ast_str_n(sample, sizeof sample), signature))
            die("verify", NULL);
    return ROUNDS / 4 * 1e9 / (double)(ast_mono_ns() - start);
}

static void on_done(void *arg, enum ast_rc rc, const struct ast_err *err)
{
    (void)arg, (void)err;
    failed_rows += rc != AST_OK;
    done_rows++;
}

static void append(const char *who, unsigned i)
{
    struct ast_audit_draft d = {
        .principal = ast_str_c(who),
        .action = AST_AUDIT_ACTION_admin_request,
        .action_values = { { .text =
                                 i % 10 ? AST_STR("GetStatus") : AST_STR("admin.agent.create") },
                           { .text = AST_STR("system:status") } },
        .proof = AST_AUDIT_PROOF_system,
        .proof_values = { { .text = AST_STR("policy allow: alice holds system:status") } },
    };
    ast_audit_flow(audit);
    ast_audit_append(audit, &d, NULL, on_done, NULL);
}

static void *append_many(void *arg)
{
    char who[24];
    (void)snprintf(who, sizeof who, "agent%u", (unsigned)*(uintptr_t *)arg);
    for (unsigned i = 0; i < ROWS; i++)
        append(who, i);
    return NULL;
}

static void wait_for(uint64_t rows)
{
    while (done_rows < rows)
        usleep(200);
    if (failed_rows)
        die("append", NULL);
}

static void bench_appends(unsigned threads, const char *name, double limit)
{
    uint64_t before = done_rows, rows = (uint64_t)threads * ROWS;
    double cpu = cpu_us();
    int64_t start = ast_mono_ns();
    (void)on_threads(append_many, threads, ROWS);
    wait_for(before + rows);
    print_claim(name, (double)rows * 1e9 / (double)(ast_mono_ns() - start), "rows/s", limit, 0.8,
                true);
    double each = (cpu_us() - cpu) / (double)rows;
    printf("      %s: %.1f us of processor time a row, a signature takes %.1f\n", name, each,
           signature_us());
}

static void bench_verify(double limit)
{
    struct ast_audit_report report = { 0 };
    struct ast_err err = AST_ERR_INIT;
    int64_t start = ast_mono_ns();
    if (ast_audit_verify(audit, &(struct ast_audit_scope){ 0 }, &report, &err))
        die("verify", &err);
    if (!ast_audit_report_is_valid(&report))
        die("the log is not valid", NULL);
    print_claim("audit_verify", (double)report.entries * 1e9 / (double)(ast_mono_ns() - start),
                "rows/s", limit, 0.9, true);
    ast_audit_report_done(&report);
}

static bool take(void *arg, uint64_t seq, struct ast_str text)
{
    (void)seq;
    *(size_t *)arg += text.n;
    return true;
}

static void bench_page(void)
{
    struct ast_audit_page page = { 0 };
    struct ast_err err = AST_ERR_INIT;
    size_t bytes = 0;
    char cursor[AST_AUDIT_MAX_CURSOR] = "";
    for (uint64_t i = done_rows; i < BIG; i++)
        append("filler", (unsigned)i);
    wait_for(BIG);
    int64_t start = ast_mono_ns();
    for (unsigned i = 0; i < PAGES; i++) {
        struct ast_audit_query q = { .filter.method = AST_STR("admin.agent.create"),
                                     .cursor = ast_str_c(cursor),
                                     .limit = PAGE,
                                     .each = take,
                                     .arg = &bytes };
        if (ast_audit_query(audit, &q, &page, &err) || page.count != PAGE)
            die("query", &err);
        memcpy(cursor, page.next, sizeof cursor);
    }
    print_claim("audit_page_of_100", (double)(ast_mono_ns() - start) / PAGES / 1e3, "us", 1000, 1,
                false);
}

int main(void)
{
    static const uint8_t seed[AST_KEY_SEED_BYTES] = { 1 };
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_cfree) char *path = NULL;
    if (!mkdtemp(dir) || !(path = ast_fs_join(dir, "db")))
        die("directory", NULL);
    if (ast_key_from_seed(&key, seed, &err) ||
        ast_store_open(&(struct ast_store_config){ .path = path }, &store, &err) ||
        ast_audit_open(&(struct ast_audit_config){ .store = store, .key = &key }, &audit, &err))
        die("open", &err);
    bench_appends(1, "audit_append_one_chain", on_threads(sign_many, 1, ROUNDS));
    bench_appends(CHAINS, "audit_append_eight_chains",
                  on_threads(sign_many, ast_cpu_count(), ROUNDS));
    bench_verify(verify_rate());
    bench_page();
    struct ast_store_stats stats;
    ast_store_stats(store, &stats);
    print_claim("audit_disk_per_row", (double)stats.bytes_used / (double)done_rows, "bytes", 1024,
                1, false);
    ast_audit_close(audit);
    ast_store_close(store);
    ast_key_done(&key);
    return ast_fs_remove_tree(dir, &err) ? 1 : 0;
}
