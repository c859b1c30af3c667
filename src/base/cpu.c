/* Processors this process may use: affinity first, then the quota of its control group.
 *
 * Without the quota a container with half a processor would start a worker for each of 64.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cpu_priv.h"
#include "base/fs.h"
#include "base/thread.h"

#include "base/banned.h"

#define SMALL_FILE  4096
#define CGROUP_TEXT 65536
#define CPUS_MAX    8192

static unsigned affinity_count(void)
{
    /* The kernel's set can be larger than cpu_set_t; grow until it fits. */
    for (size_t cpus = 1024; cpus <= CPUS_MAX; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set)
            return 0;
        size_t size = CPU_ALLOC_SIZE(cpus);
        CPU_ZERO_S(size, set);
        int n = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (n > 0)
            return (unsigned)n;
    }
    return 0;
}

static unsigned quota_to_cpus(uint64_t quota_us, uint64_t period_us)
{
    if (quota_us == 0 || period_us == 0)
        return 0;
    uint64_t cpus = quota_us / period_us + (quota_us % period_us != 0);
    return cpus > CPUS_MAX ? CPUS_MAX : (unsigned)cpus;
}

/* "<root><controller><group>/<name>", trimmed; empty when it cannot be read. */
static struct ast_str read_small(struct ast_buf *out, const char *root, const char *controller,
                                 struct ast_str group, const char *name)
{
    AST_AUTO(ast_cfree) char *path = NULL;
    ast_buf_reset(out);
    path = ast_fs_joinf(root, "%s" AST_STR_FMT "/%s", controller, AST_STR_ARG(group), name);
    if (!path || ast_fs_read(path, SMALL_FILE, out, /* err= */ NULL))
        return AST_STR_NONE;
    return ast_str_trim(ast_buf_view(out));
}

/* Version 2: "max 100000" or "150000 100000". */
static unsigned quota_v2(const char *root, struct ast_str group)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(SMALL_FILE);
    struct ast_str s = read_small(&text, root, "", group, "cpu.max");
    size_t space = ast_str_find_byte(s, ' ');
    uint64_t quota, period;
    if (space == AST_STR_NPOS || !ast_str_to_u64(ast_str_first(s, space), &quota) ||
        !ast_str_to_u64(ast_str_from(s, space + 1), &period))
        return 0;
    return quota_to_cpus(quota, period);
}

/* Version 1: the quota is -1 when there is none. */
static unsigned quota_v1(const char *root, struct ast_str group)
{
    static const char *const controllers[] = { "cpu", "cpu,cpuacct", "cpuacct,cpu" };
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(SMALL_FILE);
    for (size_t i = 0; i < AST_ARRAY_LEN(controllers); i++) {
        uint64_t quota, period;
        if (ast_str_to_u64(read_small(&text, root, controllers[i], group, "cpu.cfs_quota_us"),
                           &quota) &&
            ast_str_to_u64(read_small(&text, root, controllers[i], group, "cpu.cfs_period_us"),
                           &period))
            return quota_to_cpus(quota, period);
    }
    return 0;
}

static bool lists_cpu(struct ast_str controllers)
{
    bool more = true;
    struct ast_str one;
    while (ast_str_split(&controllers, &more, ',', &one)) {
        if (ast_str_is(one, "cpu"))
            return true;
    }
    return false;
}

static unsigned smaller(unsigned a, unsigned b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

unsigned base_cpu_quota(struct ast_str self_cgroup, const char *cgroup_root)
{
    unsigned best = 0;
    bool more = true;
    struct ast_str line;
    while (ast_str_split(&self_cgroup, &more, '\n', &line)) {
        /* "0::/user.slice/x" (version 2) or "4:cpu,cpuacct:/x" */
        size_t first = ast_str_find_byte(line, ':');
        if (first == AST_STR_NPOS)
            continue;
        struct ast_str rest = ast_str_from(line, first + 1);
        size_t second = ast_str_find_byte(rest, ':');
        if (second == AST_STR_NPOS)
            continue;
        struct ast_str controllers = ast_str_first(rest, second);
        struct ast_str group = ast_str_from(rest, second + 1);
        bool is_v2 = controllers.n == 0;
        if (!is_v2 && !lists_cpu(controllers))
            continue;

        /* A parent's quota binds too. In a container the path may lie outside what is mounted;
         * the walk then still ends at the root, which is our own group there. */
        for (;;) {
            while (group.n && group.p[group.n - 1] == '/')
                group.n--;
            best =
                smaller(best, is_v2 ? quota_v2(cgroup_root, group) : quota_v1(cgroup_root, group));
            if (group.n == 0)
                break;
            while (group.n && group.p[group.n - 1] != '/')
                group.n--;
        }
    }
    return best;
}

unsigned ast_cpu_count(void)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(CGROUP_TEXT);
    unsigned count = affinity_count();
    if (!ast_fs_read("/proc/self/cgroup", CGROUP_TEXT, &text, /* err= */ NULL))
        count = smaller(count, base_cpu_quota(ast_buf_view(&text), "/sys/fs/cgroup"));
    return count ? count : 2; /* spec 05 §17.1: 2 if unknown */
}
