/* The handle table of an instance: what the guest holds of the host.
 *
 * Entries form a ring in order of creation (v[0] is its head), because they are destroyed newest first, and
 * a stack of free indices. Lending lasts for one host call, and an instance runs at most one at a time (its
 * realloc cannot call imports), so "lent" is the number of that host call.
 */
#include <stdlib.h>

#include "wasm/wasm_priv.h"

#include "base/banned.h"

static bool grow(struct wasm_handles *h)
{
    uint32_t cap = h->cap ? h->cap * 2 : 16;
    struct wasm_handle *v = realloc(h->v, cap * sizeof *v);
    if (!v)
        return false;
    h->v = v;
    if (!h->cap) {
        v[0] = (struct wasm_handle){ .obj = NULL };
        h->used = 1;
        h->round = 1; /* 0 marks entries that were never lent */
    }
    h->cap = cap;
    return true;
}

const char *wasm_handles_add(struct wasm_handles *h, uint32_t type, void *obj, uint32_t *ret)
{
    if (h->live >= AST_ABI_MAX_HANDLES)
        return "handle table is full";
    uint32_t index = h->free;
    if (index) {
        h->free = h->v[index].next;
    } else {
        if (h->used == h->cap && !grow(h))
            return "no memory for a handle";
        index = h->used++;
    }
    uint32_t last = h->v[0].prev;
    h->v[index] = (struct wasm_handle){ .obj = obj, .type = type, .prev = last, .next = 0 };
    h->v[last].next = index;
    h->v[0].prev = index;
    h->live++;
    *ret = index;
    return NULL;
}

static const char *check(const struct wasm_handles *h, uint32_t index, uint32_t type)
{
    if (index == 0 || index >= h->used || !h->v[index].obj)
        return "unknown handle index";
    if (h->v[index].type != type)
        return "handle is of another type";
    return NULL;
}

const char *wasm_handles_lend(struct wasm_handles *h, uint32_t index, uint32_t type, void **ret)
{
    const char *why = check(h, index, type);
    if (why)
        return why;
    h->v[index].lent = h->round;
    *ret = h->v[index].obj;
    return NULL;
}

static void *unlink_entry(struct wasm_handles *h, uint32_t index)
{
    struct wasm_handle *e = &h->v[index];
    void *obj = e->obj;
    h->v[e->prev].next = e->next;
    h->v[e->next].prev = e->prev;
    *e = (struct wasm_handle){ .next = h->free };
    h->free = index;
    h->live--;
    return obj;
}

const char *wasm_handles_take(struct wasm_handles *h, uint32_t index, uint32_t type, void **ret)
{
    const char *why = check(h, index, type);
    if (why)
        return why;
    if (h->v[index].lent == h->round)
        return "handle is borrowed";
    *ret = unlink_entry(h, index);
    return NULL;
}

void wasm_handles_end_round(struct wasm_handles *h)
{
    h->round++;
}

void wasm_resource_drop(const struct ast_engine *e, uint32_t type, void *obj)
{
    if (type < e->resource_count && e->resources[type] && e->resources[type]->drop)
        e->resources[type]->drop(obj);
}

bool wasm_resource_is_held(const struct ast_engine *e, uint32_t type, const void *obj)
{
    return type < e->resource_count && e->resources[type] && e->resources[type]->is_held &&
           e->resources[type]->is_held(obj);
}

void wasm_handles_clear(struct wasm_handles *h, const struct ast_engine *e)
{
    while (h->live) {
        uint32_t index = h->v[0].prev;
        uint32_t type = h->v[index].type;
        wasm_resource_drop(e, type, unlink_entry(h, index));
    }
    h->free = 0;
    h->used = h->cap ? 1 : 0; /* the next call numbers from the start */
}

void wasm_handles_done(struct wasm_handles *h, const struct ast_engine *e)
{
    wasm_handles_clear(h, e);
    free(h->v);
    *h = (struct wasm_handles){ 0 };
}
