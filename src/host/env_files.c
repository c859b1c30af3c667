/* What an env keeps by principal: overlays and open log files, dropped together with it. */
#include <stdlib.h>

#include "host/host_priv.h"

#include "base/banned.h"

static void files_free(struct host_files *f)
{
    size_t pos = 0;
    void *value = NULL;
    while (ast_map_next(&f->overlays, &pos, NULL, &value))
        host_overlay_unref(value);
    pos = 0;
    while (ast_map_next(&f->logs, &pos, NULL, &value))
        host_log_file_unref(value);
    ast_map_done(&f->overlays);
    ast_map_done(&f->logs);
    ast_lock_done(&f->lock);
    free(f);
}

struct host_files *host_files(struct ast_host_env *env)
{
    void *f = atomic_load_explicit(&env->files, memory_order_acquire);
    if (f)
        return f;
    struct host_files *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return NULL;
    ast_lock_init(&fresh->lock, AST_LOCK_cache);
    /* Several workers may come here first; one wins. */
    if (atomic_compare_exchange_strong(&env->files, &f, (void *)fresh))
        return fresh;
    files_free(fresh);
    return f;
}

void *host_files_put(struct host_files *f, struct ast_map *m, struct ast_str principal, void *value)
{
    ast_lock_assert_held(&f->lock);
    void *out = NULL;
    if (m->n >= HOST_FILES_MAX && !ast_map_get(m, principal)) {
        size_t pos = 0;
        struct ast_str victim;
        if (ast_map_next(m, &pos, &victim, NULL))
            out = ast_map_remove(m, victim);
    }
    void *old = NULL;
    if (!ast_map_set(m, principal, value, &old))
        old = value;
    AST_ASSERT(!out ||
               !old); /* making room means that the key was new; growth is not needed then */
    return out ? out : old;
}

void ast_host_env_done(struct ast_host_env *env)
{
    struct host_files *f = atomic_exchange(&env->files, NULL);
    if (f)
        files_free(f);
    host_uplinks_free(atomic_exchange(&env->uplinks, NULL));
    ast_handover_unref(ast_steal(&env->inherits));
    ast_handover_unref(atomic_exchange(&env->heir, NULL));
}
