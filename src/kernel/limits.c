/* Sliding 60-second windows of kernel requests, one per caller and method: one caller cannot spend another's
 * (spec README §5 gap 9). */
#include <stdlib.h>

#include "base/time.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

#define LIMIT_WINDOW_NS   (60 * AST_NS_PER_SEC)
#define LIMIT_MAX         120u /* no method allows more in a window */
#define LIMIT_MAX_WINDOWS 4096u

struct limit_window {
    int64_t admitted[LIMIT_MAX]; /* ring of admission times */
    unsigned n, at;
};

void kernel_limits_init(struct kernel_limits *l)
{
    ast_lock_init(&l->lock, AST_LOCK_kernel);
}

static void drop_windows(struct kernel_limits *l, int64_t older_than_ns)
{
    size_t pos = 0;
    struct ast_str key;
    void *value;

    while (ast_map_next(&l->windows, &pos, &key, &value)) {
        struct limit_window *w = value;
        int64_t last = w->admitted[(w->at + LIMIT_MAX - 1) % LIMIT_MAX];
        if (last < older_than_ns) {
            ast_map_remove(&l->windows, key);
            free(w);
        }
    }
}

void kernel_limits_done(struct kernel_limits *l)
{
    drop_windows(l, INT64_MAX);
    ast_map_done(&l->windows);
    ast_lock_done(&l->lock);
}

static struct limit_window *window_get(struct kernel_limits *l, struct ast_str key, int64_t now_ns)
{
    struct limit_window *w = ast_map_get(&l->windows, key);
    if (w)
        return w;
    if (l->windows.n >= LIMIT_MAX_WINDOWS)
        drop_windows(l, now_ns - LIMIT_WINDOW_NS);
    if (l->windows.n >= LIMIT_MAX_WINDOWS)
        return NULL;
    w = calloc(1, sizeof *w);
    if (w && !ast_map_set(&l->windows, key, w, NULL)) {
        free(w);
        w = NULL;
    }
    return w;
}

bool kernel_limits_admit(struct kernel_limits *l, struct ast_str method, struct ast_str caller,
                         unsigned max, int64_t now_ns)
{
    AST_AUTO(ast_buf_done) struct ast_buf key = AST_BUF_INIT(256);

    AST_ASSERT(max <= LIMIT_MAX);
    ast_buf_addf(&key, AST_STR_FMT ":" AST_STR_FMT, AST_STR_ARG(method), AST_STR_ARG(caller));
    if (key.fail)
        return false;
    AST_WITH_LOCK(&l->lock);
    struct limit_window *w = window_get(l, ast_buf_view(&key), now_ns);
    if (!w)
        return false; /* too many callers at once: closed, not open */
    unsigned recent = 0;
    for (unsigned i = 0; i < w->n; i++)
        recent += now_ns - w->admitted[i] < LIMIT_WINDOW_NS;
    if (recent >= max)
        return false;
    w->admitted[w->at] = now_ns;
    w->at = (w->at + 1) % LIMIT_MAX;
    w->n = AST_MIN(w->n + 1, LIMIT_MAX);
    return true;
}
