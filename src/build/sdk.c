/* The SDK belongs to the program: it is looked for beside it. */
#include "build/sdk.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"

#include "base/banned.h"

void build_sdk_done(struct build_sdk *s)
{
    free(s->sources);
    free(s->header);
    *s = (struct build_sdk){ 0 };
}

static bool holds(const char *dir, const char *name)
{
    AST_AUTO(ast_cfree) char *path = dir ? ast_fs_join(dir, name) : NULL;
    return path && ast_fs_exists(path);
}

/* Takes both; true when they are a complete SDK. */
static bool try_pair(struct build_sdk *s, char *sources, char *header)
{
    if (holds(sources, "astrid.h") && holds(sources, "astrid.c") &&
        holds(header, "astrid_host.h")) {
        *s = (struct build_sdk){ sources, header };
        return true;
    }
    free(sources);
    free(header);
    return false;
}

enum ast_rc build_sdk_find(struct build_sdk *ret, struct ast_err *err)
{
    const char *own = getenv("ASTRID_SDK");
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);

    if (own && try_pair(ret, strdup(own), strdup(own)))
        return AST_OK;
    if (n > 0) {
        exe[n] = 0;
        char *slash = strrchr(exe, '/');
        if (slash)
            *slash = 0;
        if (try_pair(ret, ast_fs_join(exe, "../sdk/c"), ast_fs_join(exe, "capsules")) ||
            try_pair(ret, ast_fs_join(exe, "../share/astrid/sdk/c"),
                     ast_fs_join(exe, "../share/astrid/sdk/c")))
            return AST_OK;
    }
    return ast_fail(
        err, AST_E_NOT_FOUND,
        "the C SDK (astrid.h and astrid_host.h) was not found beside astrid-build; set ASTRID_SDK to its folder");
}
