/* The index of patterns: which sinks does a topic reach?
 *
 *   root ─ "agent" ─ "v1" ─ "response"      here:  agent.v1.response
 *              │       └── below:           agent.v1.*
 *              └ '*' ─ "done"               here:  agent.*.done
 *
 * A look-up visits one exact child and the '*' child per segment: at most min(2^segments, nodes)
 * places, three or four in practice, whatever the number of subscriptions. Inside a place, sinks
 * with a scope lie under their principal, so messages of others never see them.
 */
#include <stdlib.h>

#include "base/vec.h"
#include "bus/bus_priv.h"
#include "bus/topic.h"

#include "base/banned.h"

/* The sinks of one pattern. */
struct place {
    struct ast_list all;    /* entries without scope */
    struct ast_list system; /* scoped entries that admit messages without principal */
    struct ast_map scoped;  /* principal -> struct scope, owned */
};

struct scope {
    struct ast_list entries; /* never empty */
};

struct bus_node {
    struct bus_node *parent; /* NULL: root */
    struct bus_node *star;   /* owned; the child for '*' */
    struct ast_map kids;     /* segment -> struct bus_node, owned */
    struct place here;       /* patterns that end at this node */
    struct place below;      /* patterns that end with ".*" after this node */
    size_t entries;          /* in both places */
    size_t segment_bytes;
    char segment[]; /* its key among the parent's kids */
};

static void place_init(struct place *p)
{
    ast_list_init(&p->all);
    ast_list_init(&p->system);
}

static struct bus_node *node_new(struct bus_node *parent, struct ast_str segment)
{
    struct bus_node *node = calloc(1, sizeof *node + segment.n);
    if (!node)
        return NULL;
    node->parent = parent;
    node->segment_bytes = segment.n;
    if (segment.n)
        memcpy(node->segment, segment.p, segment.n);
    place_init(&node->here);
    place_init(&node->below);
    return node;
}

static void node_free(struct bus_node *node)
{
    ast_map_done(&node->kids);
    ast_map_done(&node->here.scoped);
    ast_map_done(&node->below.scoped);
    free(node);
}

static struct ast_str node_key(const struct bus_node *node)
{
    return ast_str_n(node->segment, node->segment_bytes);
}

/* Frees the node and its ancestors as far as nothing is left in them. */
static void node_prune(struct bus_node *node)
{
    while (node->parent && node->entries == 0 && node->kids.n == 0 && !node->star) {
        struct bus_node *parent = node->parent;
        if (parent->star == node)
            parent->star = NULL;
        else
            (void)ast_map_remove(&parent->kids, node_key(node)); /* it is there */
        node_free(node);
        node = parent;
    }
}

static struct bus_node *node_child(struct bus_node *node, struct ast_str segment)
{
    bool is_star = ast_str_is(segment, "*");
    struct bus_node *kid = is_star ? node->star : ast_map_get(&node->kids, segment);
    if (kid || !(kid = node_new(node, segment)))
        return kid;
    if (is_star) {
        node->star = kid;
    } else if (!ast_map_set(&node->kids, segment, kid, NULL)) {
        node_free(kid);
        return NULL;
    }
    return kid;
}

/* The node of a pattern without its trailing ".*", made when it is missing; NULL: out of memory. */
static struct bus_node *node_of_prefix(struct bus_index *index, struct ast_str prefix)
{
    struct bus_node *node = index->root;
    bool more = true;
    struct ast_str segment;
    while (ast_str_split(&prefix, &more, '.', &segment)) {
        struct bus_node *kid = node_child(node, segment);
        if (!kid) {
            node_prune(node);
            return NULL;
        }
        node = kid;
    }
    return node;
}

static struct scope *scope_get(struct place *p, struct ast_str principal)
{
    struct scope *s = ast_map_get(&p->scoped, principal);
    if (s)
        return s;
    s = malloc(sizeof *s);
    if (!s)
        return NULL;
    ast_list_init(&s->entries);
    if (!ast_map_set(&p->scoped, principal, s, NULL)) {
        free(s);
        return NULL;
    }
    return s;
}

static struct place *place_of(struct bus_entry *e)
{
    return e->is_below ? &e->node->below : &e->node->here;
}

static bool place_add(struct place *p, struct bus_entry *e)
{
    const struct bus_sink *sink = e->sink;
    struct ast_list *list = &p->all;
    if (sink->scope.n) {
        struct scope *s = scope_get(p, sink->scope);
        if (!s)
            return false;
        list = &s->entries;
        if (sink->scope_admits_system)
            ast_list_push_back(&p->system, &e->system_link);
    }
    ast_list_push_back(list, &e->link);
    return true;
}

static void entry_remove(struct bus_entry *e)
{
    ast_list_remove(&e->link);
    ast_list_remove(&e->system_link);
    if (!e->node)
        return;
    struct place *p = place_of(e);
    struct scope *s = e->sink->scope.n ? ast_map_get(&p->scoped, e->sink->scope) : NULL;
    if (s && ast_list_empty(&s->entries)) {
        (void)ast_map_remove(&p->scoped, e->sink->scope); /* just found */
        free(s);
    }
    e->node->entries--;
    node_prune(e->node);
    e->node = NULL;
}

static bool entry_add(struct bus_index *index, struct bus_entry *e)
{
    if (e->pattern.n == 0 && e->sink->is_tap) {
        ast_list_push_back(&index->everything, &e->link);
        return true;
    }
    e->is_below = ast_str_ends(e->pattern, AST_STR(".*"));
    struct ast_str prefix = e->is_below ? ast_str_first(e->pattern, e->pattern.n - 2) : e->pattern;
    size_t segments = ast_topic_segment_count(prefix) + e->is_below;
    if (segments > AST_TOPIC_MATCH_SEGMENTS)
        return true; /* such topics match nothing */
    struct bus_node *node = node_of_prefix(index, prefix);
    if (!node)
        return false;
    e->node = node;
    if (!place_add(place_of(e), e)) {
        e->node = NULL;
        node_prune(node);
        return false;
    }
    node->entries++;
    return true;
}

enum ast_rc bus_index_init(struct bus_index *index, struct ast_err *err)
{
    index->root = node_new(/* parent= */ NULL, AST_STR_NONE);
    if (!index->root)
        return ast_fail(err, AST_E_NO_MEMORY, "bus index");
    ast_list_init(&index->everything);
    return AST_OK;
}

void bus_index_done(struct bus_index *index)
{
    if (!index->root)
        return;
    AST_ASSERT(index->root->kids.n == 0 && !index->root->star &&
               ast_list_empty(&index->everything));
    node_free(index->root);
    index->root = NULL;
}

enum ast_rc bus_index_add(struct bus_index *index, struct bus_sink *sink, struct ast_err *err)
{
    for (size_t i = 0; i < sink->entry_count; i++) {
        if (!entry_add(index, &sink->entries[i])) {
            bus_index_remove(index, sink);
            return ast_fail(err, AST_E_NO_MEMORY, "subscription index");
        }
    }
    return AST_OK;
}

void bus_index_remove(struct bus_index *index, struct bus_sink *sink)
{
    for (size_t i = 0; i < sink->entry_count; i++)
        entry_remove(&sink->entries[i]);
}

/* --- Look-up ---------------------------------------------------------------------------------- */

struct lookup {
    const struct ast_msg *msg;
    struct bus_hits *hits;
    size_t count; /* of segments */
    struct ast_str segments[AST_TOPIC_MATCH_SEGMENTS];
};

static bool hits_grow(struct bus_hits *hits)
{
    size_t cap = hits->cap * 2;
    struct bus_sink **v = malloc(cap * sizeof(struct bus_sink *));
    if (!v)
        return false;
    memcpy(v, hits->v, hits->n * sizeof(struct bus_sink *));
    if (hits->v != hits->few)
        free(hits->v);
    hits->v = v;
    hits->cap = cap;
    return true;
}

static void hits_add(struct bus_hits *hits, struct bus_sink *sink)
{
    if (hits->n == hits->cap && !hits_grow(hits)) {
        hits->lost++;
        return;
    }
    atomic_fetch_add_explicit(&sink->refs, 1, memory_order_relaxed); /* the index still holds one */
    hits->v[hits->n++] = sink;
}

/* A sink that was met through an earlier one of its patterns is not met again. */
static bool met_before(const struct bus_entry *e, struct ast_str topic)
{
    for (const struct bus_entry *other = e->sink->entries; other < e; other++)
        if (ast_topic_match_subtree(other->pattern, topic))
            return true;
    return false;
}

static void meet(const struct lookup *l, const struct bus_entry *e)
{
    if (!e->has_rivals || !met_before(e, l->msg->topic))
        hits_add(l->hits, e->sink);
}

static void place_visit(const struct place *p, const struct lookup *l)
{
    ast_list_each (&p->all, link)
        meet(l, AST_CONTAINER_OF(link, struct bus_entry, link));
    if (l->msg->principal.n == 0) {
        ast_list_each (&p->system, link)
            meet(l, AST_CONTAINER_OF(link, struct bus_entry, system_link));
    } else if (p->scoped.n) {
        const struct scope *s = ast_map_get(&p->scoped, l->msg->principal);
        if (!s)
            return;
        ast_list_each (&s->entries, link)
            meet(l, AST_CONTAINER_OF(link, struct bus_entry, link));
    }
}

/* Depth is at most AST_TOPIC_MATCH_SEGMENTS. */
static void node_visit(const struct bus_node *node, const struct lookup *l, size_t at)
{
    if (at == l->count) {
        place_visit(&node->here, l);
        return;
    }
    place_visit(&node->below, l);
    const struct bus_node *kid = node->kids.n ? ast_map_get(&node->kids, l->segments[at]) : NULL;
    if (kid)
        node_visit(kid, l, at + 1);
    if (node->star)
        node_visit(node->star, l, at + 1);
}

/* False: too many segments to match anything. Segments are short: a plain loop beats memchr. */
static bool lookup_split(struct lookup *l, struct ast_str topic)
{
    size_t begin = 0;
    for (size_t i = 0; i <= topic.n; i++) {
        if (i < topic.n && topic.p[i] != '.')
            continue;
        if (l->count == AST_TOPIC_MATCH_SEGMENTS)
            return false;
        l->segments[l->count++] = (struct ast_str){ topic.n ? topic.p + begin : NULL, i - begin };
        begin = i + 1;
    }
    return true;
}

void bus_index_collect(const struct bus_index *index, const struct ast_msg *msg,
                       struct bus_hits *hits)
{
    /* The segments stay as they are: clearing them would cost more than the look-up. */
    struct lookup l;
    l.msg = msg;
    l.hits = hits;
    l.count = 0;
    if (msg->is_ipc && lookup_split(&l, msg->topic))
        node_visit(index->root, &l, 0);
    ast_list_each (&index->everything, link)
        hits_add(hits, AST_CONTAINER_OF(link, struct bus_entry, link)->sink);
}
