/* How fast durable changes and reads are, against what the disk and the memory allow.
 *
 * Durable sets: 50 threads set one row each, again and again, and wait until it is durable. The limit is
 * what the disk could do with groups of 50: the rate of write + fdatasync of one block, times 50. The store
 * syncs twice a group (data, then the root that makes it valid) and copies the pages a change touches.
 * Gets: one thread, keys in random order; the limit is a lookup of the same rows in a hash table in memory.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/map.h"
#include "base/time.h"
#include "store/kv.h"

#include "base/banned.h"

enum { SUBMITTERS = 50, ROWS = 10000, VALUE_BYTES = 100, SYNCS = 100, SLICES = 8, GETS = 1000000 };
#define SLICE_NS (300 * AST_NS_PER_MS)

static char dir[] = "/var/tmp/astrid-bench-store-XXXXXX";
static struct ast_store *store;

static void die(const char *what, const struct ast_err *err)
{
    fprintf(stderr, "bench_store: %s: %s\n", what, err ? err->msg : "failed");
    exit(1);
}

static void print_claim(const char *name, double ours, const char *unit, double limit, double reach,
                        bool is_rate)
{
    double ratio = is_rate ? ours / limit : limit / ours; /* 1 is the limit, less is worse */
    printf("BENCH %s %.0f %s limit=%.0f ratio=%.2f reach=%.2f %s\n", name, ours, unit, limit, ratio,
           reach, ratio >= reach ? "met" : "missed");
}

/* Writes and syncs one block at a time, as a log would. Nanoseconds for all. */
static int64_t time_syncs(int fd)
{
    static char block[4096];
    int64_t start = ast_mono_ns();
    for (int i = 0; i < SYNCS; i++) {
        block[0]++;
        if (pwrite(fd, block, sizeof block, i * (off_t)sizeof block) < 0 || fdatasync(fd))
            die("raw write", NULL);
    }
    return ast_mono_ns() - start;
}

static struct ast_str row_key(unsigned i, char out[static 16])
{
    int n = snprintf(out, 16, "row/%06u", i);
    return ast_str_n(out, (size_t)n);
}

struct submitter {
    pthread_t thread;
    char ns[48], value[VALUE_BYTES];
    uint64_t sets;
};

static _Atomic bool is_over;

static void *submit(void *arg)
{
    struct submitter *s = arg;
    char key[16];
    for (; !is_over; s->sets++) {
        struct ast_err err = AST_ERR_INIT;
        s->value[0]++;
        if (ast_kv_set(store, ast_str_c(s->ns), row_key((unsigned)(s->sets % 20), key),
                       ast_str_n(s->value, sizeof s->value), &err))
            die("set", &err);
    }
    return NULL;
}

/* One slice of load. Returns the time it took; *sets is the sum of all slices so far. */
static int64_t run_slice(struct submitter all[static SUBMITTERS], uint64_t *sets)
{
    int64_t start = ast_mono_ns();
    is_over = false;
    for (int i = 0; i < SUBMITTERS; i++)
        if (pthread_create(&all[i].thread, NULL, submit, &all[i]))
            die("thread", NULL);
    while (ast_mono_ns() - start < SLICE_NS)
        usleep(10000);
    is_over = true;
    *sets = 0; /* each counts since the first slice */
    for (int i = 0; i < SUBMITTERS; i++) {
        pthread_join(all[i].thread, NULL);
        *sets += all[i].sets;
    }
    return ast_mono_ns() - start;
}

/* The disk's mood changes within seconds on a shared machine: limit and load are measured in turns. */
static void bench_sets(void)
{
    static struct submitter all[SUBMITTERS];
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "raw");
    AST_AUTO(ast_fs_close) int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        die("raw file", NULL);
    for (int i = 0; i < SUBMITTERS; i++)
        (void)snprintf(all[i].ns, sizeof all[i].ns, "agent%d:capsule:session", i);
    (void)time_syncs(fd); /* allocates the blocks */

    struct ast_store_stats before, after;
    ast_store_stats(store, &before);
    int64_t sync_ns = 0, set_ns = 0;
    uint64_t sets = 0;
    for (int i = 0; i < SLICES; i++) {
        sync_ns += time_syncs(fd);
        set_ns += run_slice(all, &sets);
    }
    ast_store_stats(store, &after);
    double syncs = SLICES * SYNCS * 1e9 / (double)sync_ns,
           rate = (double)sets * 1e9 / (double)set_ns;
    uint64_t commits = after.commits - before.commits;
    printf("# %.0f syncs/s, %.1f sets a commit, %.0f us a commit\n", syncs,
           (double)sets / (double)commits, (double)set_ns / 1e3 / (double)commits);
    print_claim("store_durable_sets", rate, "sets/s", syncs * SUBMITTERS, 0.1, true);
}

static void bench_gets(void)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_map_done) struct ast_map map = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(VALUE_BYTES);
    static char value[VALUE_BYTES], copy[VALUE_BYTES];
    struct ast_str ns = AST_STR("alice:capsule:notes");
    char key[16];
    for (unsigned i = 0; i < ROWS; i++) {
        if (!ast_map_set(&map, row_key(i, key), value, NULL))
            die("map", NULL);
        if (ast_kv_set(store, ns, row_key(i, key), ast_str_n(value, sizeof value), &err))
            die("set", &err);
    }
    int64_t start = ast_mono_ns();
    for (unsigned i = 0; i < GETS; i++) {
        const char *found = ast_map_get(&map, row_key(i * 2654435761u % ROWS, key));
        memcpy(copy, found, sizeof copy);
        __asm__ volatile("" ::"r"(copy) : "memory");
    }
    double limit = (double)(ast_mono_ns() - start) / GETS;
    start = ast_mono_ns();
    for (unsigned i = 0; i < GETS; i++) {
        bool found = false;
        ast_buf_reset(&out);
        if (ast_kv_get(store, ns, row_key(i * 2654435761u % ROWS, key), true, &out, &found, &err) ||
            !found)
            die("get", &err);
    }
    print_claim("store_get", (double)(ast_mono_ns() - start) / GETS, "ns", limit, 0.1, false);
}

int main(void)
{
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_cfree) char *path = NULL;
    if (!mkdtemp(dir) || !(path = ast_fs_join(dir, "db")))
        die("directory", NULL);
    if (ast_store_open(&(struct ast_store_config){ .path = path }, &store, &err))
        die("open", &err);
    bench_sets();
    bench_gets();
    ast_store_close(store);
    return ast_fs_remove_tree(dir, &err) ? 1 : 0;
}
