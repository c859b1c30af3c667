/* Temp files of a daemon that was killed: removed at the next boot, under the singleton lock. */
#include <dirent.h>

#include "base/fs.h"
#include "base/log.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

/* A command may be writing where the daemon is not alone; it is done within a minute. */
#define OTHERS_AGE_S 60

static const struct {
    const char *path;
    unsigned depth;
    int64_t min_age_s;
} places[] = {
    /* where, folders below, spared while younger than */
    { "etc", 0, OTHERS_AGE_S },
    { AST_HOME_PROFILES, 0, 0 },
    { "run", 0, 0 },
    { "var", 0, 0 },
    { AST_HOME_CODE_CACHE, 1, 0 },
    { "bin", 0, OTHERS_AGE_S },
    { "wit", 0, OTHERS_AGE_S },
    { "keys", 1, OTHERS_AGE_S },
    { "secrets", 2, OTHERS_AGE_S },
};

static unsigned sweep_settings(const char *homes)
{
    DIR *d = opendir(homes);
    const struct dirent *e;
    unsigned removed = 0;

    while (d && (e = readdir(d))) {
        AST_AUTO(ast_cfree) char *env = NULL;
        if (ast_principal_valid(ast_str_c(e->d_name)))
            env = ast_fs_joinf(homes, "%s/.config/env", e->d_name);
        if (env)
            removed += ast_fs_sweep(env, 0, OTHERS_AGE_S);
    }
    if (d)
        (void)closedir(d); /* only read */
    return removed;
}

void kernel_sweep_leftovers(const struct ast_home *home)
{
    AST_AUTO(ast_cfree) char *homes = ast_home_path(home, "home");
    unsigned removed = homes ? sweep_settings(homes) : 0;

    for (size_t i = 0; i < AST_ARRAY_LEN(places); i++) {
        AST_AUTO(ast_cfree) char *path = ast_home_path(home, "%s", places[i].path);
        if (path)
            removed += ast_fs_sweep(path, places[i].depth, places[i].min_age_s);
    }
    if (removed)
        ast_log_info(KERNEL_TARGET, "unfinished files of an earlier run removed count=%u", removed);
}
