/* The limit for start-up and memory: a process that creates the engine and does nothing else. Prints its
 * resident KiB. With capsule binaries as arguments it also takes each from a warm code cache and prints
 * the milliseconds of that, then the resident KiB with all of them loaded. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/time.h"
#include "host/env.h"

#include "base/banned.h"

static _Noreturn void die(const char *what, const struct ast_err *err)
{
    fprintf(stderr, "engine_alone: %s: %s\n", what, err->msg);
    exit(1);
}

static void print_resident(void)
{
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmRSS:", 6) == 0)
            fputs(line + 6, stdout);
    if (f)
        fclose(f);
}

/* Milliseconds for all of them; the modules stay in ret[0..count). */
static double load_all(struct ast_engine *engine, char *const *paths, int count, bool is_warm,
                       struct ast_module **ret)
{
    struct ast_err err = AST_ERR_INIT;
    int64_t took_ns = 0;
    for (int i = 0; i < count; i++) {
        AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(64 << 20);
        if (ast_fs_read(paths[i], 64 << 20, &bytes, &err))
            die(paths[i], &err);
        int64_t begin = ast_mono_ns();
        if (ast_module_load(engine, ast_buf_view(&bytes), &ret[i], &err))
            die(paths[i], &err);
        took_ns += ast_mono_ns() - begin;
        if (is_warm && !ast_module_info(ret[i])->from_cache)
            die("not from the cache", &err);
    }
    return (double)took_ns / 1e6;
}

/* Two engines share a cache: the first fills it. */
static void warm_and_load(char *const *paths, int count)
{
    static const uint8_t key[32] = { 1 };
    char dir[] = "/tmp/astrid-bench-cache-XXXXXX";
    struct ast_err err = AST_ERR_INIT;
    struct ast_module **modules = calloc((size_t)count, sizeof *modules);
    if (!mkdtemp(dir) || !modules)
        die("cache folder", &err);
    struct ast_engine_config cfg = { .host = ast_host_imports(),
                                     .cache_dir = dir,
                                     .cache_key = key };
    for (int pass = 0; pass < 2; pass++) {
        struct ast_engine *engine = NULL;
        if (ast_engine_new(&cfg, &engine, &err))
            die("engine", &err);
        double ms = load_all(engine, paths, count, pass > 0, modules);
        if (pass > 0) {
            printf("%.3f\n", ms);
            print_resident();
        }
        for (int i = 0; i < count; i++)
            ast_module_unref(modules[i]);
        ast_engine_free(engine);
    }
    free(modules);
    if (ast_fs_remove_tree(dir, &err))
        die(dir, &err);
}

int main(int argc, char **argv)
{
    struct ast_engine_config cfg = { .host = ast_host_imports() };
    struct ast_engine *engine = NULL;
    struct ast_err err = AST_ERR_INIT;

    if (ast_engine_new(&cfg, &engine, &err))
        die("engine", &err);
    print_resident();
    ast_engine_free(engine);
    if (argc > 1)
        warm_and_load(argv + 1, argc - 1);
    return 0;
}
