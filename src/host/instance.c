/* What the host keeps for one instance: how many objects of a kind its guest holds. */
#include <stdlib.h>

#include "host/host_priv.h"

#include "base/banned.h"

void *ast_host_instance_make(void *env)
{
    struct host_instance *i = calloc(1, sizeof *i);
    if (i) {
        i->env = env;
        i->refs = 1;
    }
    return i;
}

void ast_host_instance_reset(void *state)
{
    /* The handles are gone by now and each took its count with it; a pinned instance keeps both. */
}

void ast_host_instance_free(void *state)
{
    if (state)
        host_instance_unref(state);
}

struct host_instance *host_instance(struct ast_abi *a)
{
    return ast_instance_state(ast_abi_instance(a));
}

void host_instance_unref(struct host_instance *i)
{
    if (--i->refs == 0)
        free(i);
}
