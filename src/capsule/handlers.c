/* The handler index: see handlers_priv.h. */
#include "capsule/handlers_priv.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/map.h"
#include "bus/topic.h"
#include "capsule/seat_priv.h"

#include "base/banned.h"

#define INDEX_MAX_BYTES (256ull * 1024 * 1024)

struct list {
    const struct capsule_handler **v; /* in the arena, ascending rank */
    size_t n;
};

/* Wildcard patterns of one shape. */
struct shape {
    struct shape *next;   /* in the bucket */
    struct ast_str first; /* "*" for those that begin with a star */
    size_t segments;
    struct list list;
};

/* Immutable after capsule_handlers_new(). */
struct capsule_handlers {
    atomic_uint refs;
    struct ast_arena arena; /* everything below */
    struct capsule_handler *v;
    size_t n;
    struct ast_map exact;  /* topic -> struct list, wildcards that match it included */
    struct shape **shapes; /* hash by (segments, first), a power of two */
    size_t shape_cap;
};

static bool is_wild(struct ast_str pattern)
{
    struct ast_str rest = pattern, piece;
    for (bool more = true; ast_str_split(&rest, &more, '.', &piece);)
        if (ast_str_is(piece, "*"))
            return true;
    return false;
}

/* False for topics no pattern can match: an empty segment somewhere. */
static bool measure(struct ast_str topic, struct ast_str *ret_first, size_t *ret_segments)
{
    size_t segments = 1, first = topic.n, since = 0;

    for (size_t i = 0; i < topic.n; i++) {
        if (topic.p[i] != '.')
            continue;
        if (i == since)
            return false;
        if (segments++ == 1)
            first = i;
        since = i + 1;
    }
    *ret_first = ast_str_first(topic, first);
    *ret_segments = segments;
    return since < topic.n;
}

static size_t shape_slot(const struct capsule_handlers *h, struct ast_str first, size_t segments)
{
    return (size_t)(ast_str_hash(first) + segments * UINT64_C(0x9e3779b97f4a7c15)) &
           (h->shape_cap - 1);
}

static struct shape *shape_find(const struct capsule_handlers *h, struct ast_str first,
                                size_t segments)
{
    struct shape *s = h->shapes[shape_slot(h, first, segments)];
    while (s && (s->segments != segments || !ast_str_eq(s->first, first)))
        s = s->next;
    return s;
}

/* --- Building --------------------------------------------------------------------------------- */

static int by_order(const void *a, const void *b)
{
    const struct capsule_handler *x = a, *y = b;
    if (x->priority != y->priority)
        return x->priority < y->priority ? -1 : 1;
    int d = ast_str_cmp(x->seat->id, y->seat->id);
    return d ? d : ast_str_cmp(x->topic, y->topic);
}

static bool add_wild(struct capsule_handlers *h, const struct capsule_handler *entry)
{
    struct ast_str first;
    size_t segments;

    if (!measure(entry->topic, &first, &segments))
        return true;
    struct shape *s = shape_find(h, first, segments);
    if (!s) {
        struct shape **bucket = &h->shapes[shape_slot(h, first, segments)];
        if (!(s = ast_arena_alloc(&h->arena, sizeof *s)))
            return false;
        *s = (struct shape){ .next = *bucket, .first = first, .segments = segments };
        *bucket = s;
    }
    if ((s->list.n & (s->list.n - 1)) == 0) { /* powers of two: double */
        const struct capsule_handler **v =
            ast_arena_array(&h->arena, s->list.n ? s->list.n * 2 : 1, sizeof *v);
        if (!v)
            return false;
        if (s->list.n)
            memcpy(v, s->list.v, s->list.n * sizeof *v);
        s->list.v = v;
    }
    s->list.v[s->list.n++] = entry;
    return true;
}

/* The full answer for one exact topic, in order. */
static bool add_exact(struct capsule_handlers *h, struct ast_str topic)
{
    if (ast_map_get(&h->exact, topic))
        return true;
    struct list *l = ast_arena_alloc(&h->arena, sizeof *l);
    if (!l)
        return false;
    for (size_t i = 0; i < h->n; i++)
        l->n += ast_topic_match_strict(h->v[i].topic, topic);
    if (!l->n)
        return true;
    if (!(l->v = ast_arena_array(&h->arena, l->n, sizeof *l->v)))
        return false;
    size_t n = 0;
    for (size_t i = 0; i < h->n; i++)
        if (ast_topic_match_strict(h->v[i].topic, topic))
            l->v[n++] = &h->v[i];
    return ast_map_set(&h->exact, topic, l, NULL);
}

static bool fill(struct capsule_handlers *h, const struct capsule_handler_spec *specs, size_t n)
{
    h->v = ast_arena_array(&h->arena, n, sizeof *h->v);
    for (h->shape_cap = 8; h->shape_cap < n * 2;)
        h->shape_cap *= 2;
    h->shapes = ast_arena_array(&h->arena, h->shape_cap, sizeof *h->shapes);
    if (!h->v || !h->shapes)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!ast_topic_segments_valid(specs[i].topic))
            continue;
        struct ast_str labels[] = { specs[i].seat->id, specs[i].action };
        h->v[h->n++] = (struct capsule_handler){
            .set = h,
            .seat = specs[i].seat,
            .topic = ast_arena_dup(&h->arena, specs[i].topic),
            .action = ast_arena_dup(&h->arena, specs[i].action),
            .load = specs[i].load,
            .has_firehose = specs[i].has_firehose,
            .priority = specs[i].priority,
            .duration = ast_metric_cell(AST_METRIC_INVOCATION_DURATION, labels, 2),
        };
    }
    if (h->arena.fail)
        return false;
    qsort(h->v, h->n, sizeof *h->v, by_order);
    for (size_t i = 0; i < h->n; i++) {
        h->v[i].rank = (uint32_t)i;
        if (is_wild(h->v[i].topic) && !add_wild(h, &h->v[i]))
            return false;
    }
    for (size_t i = 0; i < h->n; i++)
        if (!is_wild(h->v[i].topic) && !add_exact(h, h->v[i].topic))
            return false;
    return true;
}

enum ast_rc capsule_handlers_new(const struct capsule_handler_spec *specs, size_t n,
                                 struct capsule_handlers **ret, struct ast_err *err)
{
    struct capsule_handlers *h = calloc(1, sizeof *h);
    if (!h)
        return ast_fail(err, AST_E_NO_MEMORY, "handler index");
    atomic_init(&h->refs, 1);
    h->arena = (struct ast_arena)AST_ARENA_INIT(INDEX_MAX_BYTES);
    if (!fill(h, specs, n)) {
        capsule_handlers_unref(h);
        return ast_fail(err, AST_E_NO_MEMORY, "handler index");
    }
    *ret = h;
    return AST_OK;
}

struct capsule_handlers *capsule_handlers_ref(struct capsule_handlers *h)
{
    atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
    return h;
}

void capsule_handlers_unref(struct capsule_handlers *h)
{
    if (!h || atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) != 1)
        return;
    ast_map_done(&h->exact);
    ast_arena_done(&h->arena);
    free(h);
}

/* --- Looking up ------------------------------------------------------------------------------- */

static void remember(struct capsule_matches *m, const struct capsule_handler *entry)
{
    const struct capsule_handler **v = m->many ? m->many : m->few;
    if (m->n == (m->many ? m->cap : AST_ARRAY_LEN(m->few))) {
        size_t cap = AST_MAX(m->n * 2, 2 * AST_ARRAY_LEN(m->few));
        const struct capsule_handler **more = realloc(m->many, cap * sizeof *more);
        if (!more) {
            m->lost++;
            return;
        }
        if (!m->many)
            memcpy(more, m->few, sizeof m->few);
        m->many = v = more;
        m->cap = cap;
    }
    v[m->n++] = entry;
}

static int by_rank(const void *a, const void *b)
{
    const struct capsule_handler *const *x = a, *const *y = b;
    return (*x)->rank < (*y)->rank ? -1 : 1;
}

void capsule_handlers_match(const struct capsule_handlers *h, struct ast_str topic,
                            struct capsule_matches *ret)
{
    struct ast_str first;
    size_t segments;

    ret->n = 0;
    const struct list *exact = ast_map_get(&h->exact, topic);
    if (exact) {
        ret->v = exact->v;
        ret->n = exact->n;
        return;
    }
    if (!measure(topic, &first, &segments))
        return;
    const struct shape *shapes[] = { shape_find(h, first, segments),
                                     shape_find(h, AST_STR("*"), segments) };
    size_t kinds = 0;
    for (size_t k = 0; k < AST_ARRAY_LEN(shapes); k++) {
        size_t before = ret->n;
        if (!shapes[k] || (k && shapes[k] == shapes[0])) /* a topic may begin with "*" too */
            continue;
        for (size_t i = 0; i < shapes[k]->list.n; i++)
            if (ast_topic_match_strict(shapes[k]->list.v[i]->topic, topic))
                remember(ret, shapes[k]->list.v[i]);
        kinds += ret->n > before;
    }
    const struct capsule_handler **v = ret->many ? ret->many : ret->few;
    if (kinds > 1) /* each list is in order; two have to be merged */
        qsort(v, ret->n, sizeof *v, by_rank);
    ret->v = v;
}

void capsule_matches_done(struct capsule_matches *m)
{
    free(m->many);
}
