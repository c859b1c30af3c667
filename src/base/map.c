/* The hash table: linear probing over a power of two of slots.
 *
 * Invariant: n + tombs <= 3/4 cap, so a probe always meets an empty slot. A removal leaves a
 * tombstone and never moves entries, which is what lets a visitor remove what it visits; the table
 * is rebuilt, larger or smaller, only when something is inserted.
 */
#include "base/map.h"

#include <stdlib.h>

#include "base/error.h"

#include "base/banned.h"

#define FIRST_CAP 16

struct ast_map_slot {
    uint64_t hash;
    char *key;   /* owned copy; NULL = free slot */
    size_t n;    /* bytes of key */
    void *value; /* borrowed; NULL on a free slot, &tomb_mark on a tombstone */
};

static char tomb_mark;

static bool slot_is_tomb(const struct ast_map_slot *s)
{
    return !s->key && s->value == &tomb_mark;
}

void ast_map_done(struct ast_map *m)
{
    for (size_t i = 0; i < m->cap; i++)
        free(m->slots[i].key);
    free(m->slots);
    *m = (struct ast_map){ 0 };
}

static struct ast_map_slot *lookup(const struct ast_map *m, struct ast_str key, uint64_t hash)
{
    if (m->n == 0)
        return NULL;
    for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        struct ast_map_slot *s = &m->slots[i];
        if (!s->key) {
            if (!slot_is_tomb(s))
                return NULL;
        } else if (s->hash == hash && s->n == key.n &&
                   memcmp(s->key, key.p ? key.p : "", key.n) == 0) {
            return s;
        }
    }
}

/* A free slot or a tombstone on the probe path of `hash`. */
static struct ast_map_slot *vacancy(struct ast_map_slot *slots, size_t cap, uint64_t hash)
{
    size_t i = hash & (cap - 1);
    while (slots[i].key)
        i = (i + 1) & (cap - 1);
    return &slots[i];
}

/* Makes room for one more entry; also the moment at which tombstones and slack go away. */
static bool prepare_insert(struct ast_map *m)
{
    bool is_full = m->n + m->tombs + 1 > m->cap / 4 * 3;
    bool is_sparse = m->cap > FIRST_CAP && m->n + 1 < m->cap / 8;
    if (!is_full && !is_sparse)
        return true;

    size_t cap = FIRST_CAP;
    while (cap / 2 < m->n + 1) {
        if (cap > SIZE_MAX / 2 / sizeof(struct ast_map_slot))
            return false;
        cap *= 2;
    }
    struct ast_map_slot *slots = calloc(cap, sizeof *slots);
    if (!slots)
        return !is_full;
    for (size_t i = 0; i < m->cap; i++) {
        if (m->slots[i].key)
            *vacancy(slots, cap, m->slots[i].hash) = m->slots[i];
    }
    free(m->slots);
    m->slots = slots;
    m->cap = cap;
    m->tombs = 0;
    return true;
}

void *ast_map_get(const struct ast_map *m, struct ast_str key)
{
    if (m->n == 0)
        return NULL;
    struct ast_map_slot *s = lookup(m, key, ast_str_hash(key));
    return s ? s->value : NULL;
}

bool ast_map_set(struct ast_map *m, struct ast_str key, void *value, void **ret_old)
{
    AST_ASSERT(value);
    uint64_t hash = ast_str_hash(key);
    struct ast_map_slot *s = lookup(m, key, hash);
    if (s) {
        if (ret_old)
            *ret_old = s->value;
        s->value = value;
        return true;
    }

    char *copy = ast_str_dup(key);
    if (!copy || !prepare_insert(m)) {
        free(copy);
        return false;
    }
    s = vacancy(m->slots, m->cap, hash);
    if (slot_is_tomb(s))
        m->tombs--;
    *s = (struct ast_map_slot){ hash, copy, key.n, value };
    m->n++;
    if (ret_old)
        *ret_old = NULL;
    return true;
}

void *ast_map_remove(struct ast_map *m, struct ast_str key)
{
    if (m->n == 0)
        return NULL;
    struct ast_map_slot *s = lookup(m, key, ast_str_hash(key));
    if (!s)
        return NULL;
    void *value = s->value;
    free(s->key);
    *s = (struct ast_map_slot){ .value = &tomb_mark };
    m->n--;
    m->tombs++;
    /* Nobody probes past an empty slot, so a tombstone in front of one is just an empty slot. */
    size_t i = (size_t)(s - m->slots);
    size_t next = (i + 1) & (m->cap - 1);
    if (!m->slots[next].key && !slot_is_tomb(&m->slots[next])) {
        while (slot_is_tomb(&m->slots[i])) {
            m->slots[i].value = NULL;
            m->tombs--;
            i = (i + m->cap - 1) & (m->cap - 1);
        }
    }
    return value;
}

bool ast_map_next(const struct ast_map *m, size_t *pos, struct ast_str *ret_key, void **ret_value)
{
    for (; *pos < m->cap; ++*pos) {
        const struct ast_map_slot *s = &m->slots[*pos];
        if (!s->key)
            continue;
        if (ret_key)
            *ret_key = (struct ast_str){ s->key, s->n };
        if (ret_value)
            *ret_value = s->value;
        ++*pos;
        return true;
    }
    return false;
}
