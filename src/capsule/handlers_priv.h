/* Which handlers a topic reaches: an immutable index over the [subscribe] entries of all loaded
 * capsules.
 *
 * Matching is strict (spec 04 §2). Exact topics are one hash look-up with the answer made
 * beforehand; the others look only at wildcard patterns with the same number of segments and the
 * same first segment. Threads: any; shared by reference count.
 */
#pragma once

#include "base/arena.h"
#include "bus/metrics.h"

struct capsule_seat;
struct capsule_handlers;

struct capsule_handler {
    struct capsule_handlers *set; /* lives in it */
    struct capsule_seat *seat;
    struct ast_str topic, action; /* owned by the set, like the handler */
    uint64_t load;                /* serial of the load whose manifest it comes from */
    bool has_firehose;            /* sees everybody's audit entries, else its owner's */
    uint32_t priority;
    uint32_t rank; /* place in (priority, capsule id, topic) order over the whole set */
    struct ast_metric_cell *duration;
};

struct capsule_handler_spec {
    struct capsule_seat *seat;
    struct ast_str topic, action; /* borrowed during the call */
    uint64_t load;
    bool has_firehose;
    uint32_t priority;
};

/* Entries whose topic can match nothing are left out. */
AST_MUST_CHECK
enum ast_rc capsule_handlers_new(const struct capsule_handler_spec *specs, size_t n,
                                 struct capsule_handlers **ret, struct ast_err *err);
struct capsule_handlers *capsule_handlers_ref(struct capsule_handlers *h);
void capsule_handlers_unref(struct capsule_handlers *h);

struct capsule_matches {
    const struct capsule_handler *const
        *v; /* ascending rank; borrowed from the set, `few` or `many` */
    size_t n;
    const struct capsule_handler *few[16];
    const struct capsule_handler **many; /* owned */
    size_t cap;
    size_t lost; /* matched, but there was no memory to remember them */
};
/* Start with { 0 }. */
void capsule_handlers_match(const struct capsule_handlers *h, struct ast_str topic,
                            struct capsule_matches *ret);
void capsule_matches_done(struct capsule_matches *m);
