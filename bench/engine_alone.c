/* The limit for start-up and memory: a process that creates the engine and does nothing else. Prints its resident KiB. */
#include <stdio.h>
#include <string.h>

#include "host/env.h"

#include "base/banned.h"

int main(void)
{
    struct ast_engine_config cfg = { .host = ast_host_imports() };
    struct ast_engine *engine = NULL;
    struct ast_err err = AST_ERR_INIT;
    char line[256];

    if (ast_engine_new(&cfg, &engine, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmRSS:", 6) == 0)
            fputs(line + 6, stdout);
    if (f)
        fclose(f);
    ast_engine_free(engine);
    return 0;
}
