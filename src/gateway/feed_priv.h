/* The live tail of the audit log, shared by all streams that show it (spec 03 §21).
 *
 *   row durable ─► bus event ─► tap ─► feed thread: log ─► ring ─► wakes the readers it concerns
 *
 * A reader is a position in the log, not a queue: an idle stream costs no message memory, a slow one falls out of the
 * ring and goes on in the log itself, and order and completeness are those of the log. One that is further behind than
 * AST_GATEWAY_EVENTS_BEHIND rows is moved to what the ring still has and told how many it lost.
 */
#pragma once

#include "base/list.h"
#include "gateway/http_priv.h"
#include "kernel/kernel.h"

struct gw_feed;

/* `behind`: rows a reader may be late; 0: AST_GATEWAY_EVENTS_BEHIND. `ring`: rows the ring keeps; 0: all its room. */
AST_MUST_CHECK
enum ast_rc gw_feed_open(struct ast_kernel *k, unsigned behind, unsigned ring, struct gw_feed **ret,
                         struct ast_err *err);
void gw_feed_close(struct gw_feed *feed); /* after the last reader left; NULL is fine */
AST_DEFINE_AUTO(struct gw_feed, gw_feed_close)

/* Waits until the ring has everything that was published before, and says where the log ended then. Blocks: never on a
 * loop thread. */
uint64_t gw_feed_sync(struct gw_feed *feed);

/* Owner: the stream's loop thread; `private` under the feed's lock. */
struct gw_feed_reader {
    struct gw_feed *feed;
    struct gw_exchange *ex;   /* borrowed; woken when there is something to take */
    struct ast_str principal; /* borrowed; whose rows it sees */
    bool sees_all;
    struct ast_list link; /* private */
    uint64_t at;          /* private: the last row it has seen or passed over */
    uint64_t unseen;      /* private: rows for it that came since it joined and were not taken */
    uint64_t joined;      /* private: the end of the log when it joined */
};
/* From the row after `at` on; beyond the end of the log counts as its end. False: out of memory. */
bool gw_feed_join(struct gw_feed *feed, struct gw_feed_reader *r, uint64_t at);
void gw_feed_leave(struct gw_feed_reader *r); /* harmless without a join */

enum gw_feed_got {
    GW_FEED_END,  /* nothing more for now */
    GW_FEED_MORE, /* `out` has `enough` bytes, there is more */
    GW_FEED_IN_LOG, /* what comes next is in the log only: gw_feed_read_log(), then gw_feed_passed() */
};
/* Appends events until `enough` bytes are there. with_ids: each with an id line. *ret_dropped: rows passed over just
 * now because the reader was too late. Loop thread. */
enum gw_feed_got gw_feed_take(struct gw_feed_reader *r, bool with_ids, size_t enough,
                              struct ast_buf *out, uint64_t *ret_dropped);

/* A stretch of the log as events. Values: it knows nothing of the reader, so it may run elsewhere. */
struct gw_feed_page {
    struct ast_principal principal;
    bool sees_all, with_ids;
    uint64_t at;      /* in: behind this row; out: up to this one */
    uint64_t joined;  /* copied from the reader */
    uint64_t counted; /* out: rows given that came after the reader joined */
    struct ast_buf out;
};
uint64_t gw_feed_at(struct gw_feed_reader *r);
/* Reads from disk. */
AST_MUST_CHECK
enum ast_rc gw_feed_read_log(struct gw_feed *feed, struct gw_feed_page *page, struct ast_err *err);
void gw_feed_passed(struct gw_feed_reader *r, const struct gw_feed_page *page);

/* One event as it is sent; id 0: without an id line. */
void gw_feed_event(struct ast_buf *out, uint64_t id, struct ast_str json);
