/* astrid:io/poll: waiting for any of many objects (spec 05 §15.2).
 *
 * A pollable holds a reference to its source, so it may outlive the handle it came from: then it is `closed`.
 * A wait arms every source, looks once more, and parks; whichever source fires wakes the call.
 */
#include <stdlib.h>

#include "host/io_priv.h"

#include "base/banned.h"

#define POLL_MAX 256u

/* Owner: the handle table of one instance. */
struct ast_io_pollable {
    const struct host_source *source;
    void *obj; /* reference, given back through source->drop */
};

struct ast_io_pollable *host_pollable_new(struct ast_abi *a, const struct host_source *source,
                                          void *obj)
{
    struct ast_io_pollable *p = malloc(sizeof *p);
    if (!p) {
        source->drop(obj);
        ast_abi_trap(a, "out of memory");
        return NULL;
    }
    *p = (struct ast_io_pollable){ .source = source, .obj = obj };
    return p;
}

void host_pollable_drop(void *obj)
{
    struct ast_io_pollable *p = obj;
    p->source->drop(p->obj);
    free(p);
}

static inline bool is_ready(const struct ast_io_pollable *p)
{
    return p->source->is_ready(p->obj);
}

static inline bool is_closed(const struct ast_io_pollable *p)
{
    return p->source->is_closed(p->obj);
}

bool ast_io_pollable_ready(struct ast_abi *a, struct ast_io_pollable *self)
{
    return !is_closed(self) && is_ready(self);
}

static int fail(struct ast_io_poll_error *reterr, enum ast_io_poll_error_tag tag)
{
    reterr->tag = tag;
    return AST_ABI_ERR;
}

static bool any_ready(const struct ast_list_io_pollable *list)
{
    for (size_t i = 0; i < list->n; i++)
        if (is_ready(list->v[i]))
            return true;
    return false;
}

static bool any_closed(const struct ast_list_io_pollable *list)
{
    for (size_t i = 0; i < list->n; i++)
        if (is_closed(list->v[i]))
            return true;
    return false;
}

/* Until one is ready; true. False: the wait was cut short by unload or cancel. */
static bool wait_any(struct ast_abi *a, struct ast_host_call *call,
                     const struct ast_list_io_pollable *list)
{
    if (any_ready(list))
        return true;
    bool found = false;
    enum ast_rc rc = AST_OK;
    while (rc != AST_E_CANCELLED && !host_is_unloading(call)) {
        for (size_t i = 0; i < list->n; i++)
            host_wait_arm(list->v[i]->source->wait(list->v[i]->obj), ast_abi_call(a));
        found = any_ready(list);
        if (found)
            break;
        rc = ast_call_park(a, AST_NO_DEADLINE);
    }
    for (size_t i = 0; i < list->n; i++)
        host_wait_disarm(list->v[i]->source->wait(list->v[i]->obj));
    return found;
}

static int check_and_wait(struct ast_abi *a, const struct ast_list_io_pollable *list,
                          struct ast_io_poll_error *reterr)
{
    struct ast_host_call *call = host_call(a);
    host_progress(call);
    if (host_is_unloading(call))
        return fail(reterr, AST_IO_POLL_ERROR_CANCELLED);
    if (any_closed(list))
        return fail(reterr, AST_IO_POLL_ERROR_CLOSED);
    if (!wait_any(a, call, list))
        return fail(reterr, AST_IO_POLL_ERROR_CANCELLED);
    return AST_ABI_OK;
}

/* With the debug line of spec 05 §28. */
static int audited_wait(struct ast_abi *a, const char *fn, const struct ast_list_io_pollable *list,
                        struct ast_io_poll_error *reterr)
{
    int64_t start = io_audit_begin();
    int rc = check_and_wait(a, list, reterr);
    io_audit_end(a, fn, start, rc ? ast_io_poll_error_name(reterr->tag) : "");
    return rc;
}

int ast_io_pollable_block(struct ast_abi *a, struct ast_io_pollable *self,
                          struct ast_io_poll_error *reterr)
{
    struct ast_list_io_pollable one = { .v = &self, .n = 1 };
    return audited_wait(a, "astrid:io/poll.pollable.block", &one, reterr);
}

int ast_io_poll(struct ast_abi *a, struct ast_list_io_pollable pollables, struct ast_list_u32 *ret,
                struct ast_io_poll_error *reterr)
{
    if (pollables.n == 0)
        return fail(reterr, AST_IO_POLL_ERROR_INVALID_INPUT);
    if (pollables.n > POLL_MAX)
        return fail(reterr, AST_IO_POLL_ERROR_TOO_LARGE);
    ret->v = ast_arena_array(ast_abi_arena(a), pollables.n, sizeof *ret->v);
    if (!ret->v) {
        reterr->u.unknown = AST_STR("poll: out of memory");
        return fail(reterr, AST_IO_POLL_ERROR_UNKNOWN);
    }
    if (audited_wait(a, "astrid:io/poll.poll", &pollables, reterr))
        return AST_ABI_ERR;
    for (uint32_t i = 0; i < pollables.n; i++)
        if (is_ready(pollables.v[i]))
            ret->v[ret->n++] = i;
    return AST_ABI_OK;
}
