/* The ring, its readers and the thread that fills it from the log.
 *
 * Invariants, under the lock: the ring holds every row of a request behind `base`, ascending; a reader whose `at` is not
 * older than `base` finds everything it needs there.
 */
#include "gateway/feed_priv.h"

#include <stdlib.h>

#include "base/log.h"
#include "base/map.h"
#include "base/thread.h"
#include "bus/bus.h"
#include "gateway/prompt_priv.h"
#include "gateway/work_priv.h"
#include "host/env.h"

#include "base/banned.h"

#define RING_ROWS  4096u
#define RING_BYTES 4194304u
#define PAGE_ROWS  64u

struct row {
    uint64_t seq;
    struct ast_principal principal;
    size_t n;
    char json[];
};

/* Readers of one principal's rows. */
struct crowd {
    struct ast_list readers;
};

/* Owner: any thread, under `lock`. `kernel`, `tap` and the numbers behind it are immutable; the feed thread alone moves `last`. */
struct gw_feed {
    struct ast_lock lock;
    struct row *ring[RING_ROWS] AST_GUARDED_BY(lock); /* owned */
    size_t first, n, bytes AST_GUARDED_BY(lock);
    uint64_t base AST_GUARDED_BY(lock); /* the youngest row that is not in the ring any more */
    uint64_t last AST_GUARDED_BY(lock); /* how far the log was read */
    struct ast_list everybody AST_GUARDED_BY(lock); /* readers that see all */
    struct ast_map crowds AST_GUARDED_BY(lock);     /* principal -> struct crowd, owned */
    uint64_t asked, done AST_GUARDED_BY(lock);      /* refreshes; sync waits for its number */
    pthread_cond_t refreshed;
    struct ast_kernel *kernel;
    struct ast_tap *tap;
    unsigned behind, ring_rows;
    struct gw_worker worker;
    struct gw_job refresh;
    bool is_queued AST_GUARDED_BY(lock); /* the refresh waits for the worker */
};

/* --- Events -------------------------------------------------------------------------------- */

void gw_feed_event(struct ast_buf *out, uint64_t id, struct ast_str json)
{
    if (id)
        (void)ast_buf_addf(out, "id: %llu\n", (unsigned long long)id); /* sticky */
    gw_sse_event(out, "audit", json);
}

/* --- The ring ------------------------------------------------------------------------------ */

static struct row *row_at(struct gw_feed *f, size_t i) AST_REQUIRES(f->lock)
{
    return f->ring[(f->first + i) % RING_ROWS];
}

static void evict(struct gw_feed *f) AST_REQUIRES(f->lock)
{
    struct row *r = row_at(f, 0);
    f->base = r->seq;
    f->bytes -= sizeof *r + r->n;
    free(r);
    f->first = (f->first + 1) % RING_ROWS;
    f->n--;
}

static void wake(struct ast_list *readers)
{
    ast_list_each (readers, it) {
        struct gw_feed_reader *r = AST_CONTAINER_OF(it, struct gw_feed_reader, link);
        r->unseen++;
        gw_exchange_wake(r->ex);
    }
}

static bool push(void *arg, const struct ast_kernel_row *row)
{
    struct gw_feed *f = arg;
    struct row *r = malloc(sizeof *r + row->json.n);
    if (!r || ast_principal_parse(row->principal, &r->principal, NULL)) {
        /* Who comes here later reads it from the log: the ring starts behind it. */
        free(r);
        AST_WITH_LOCK(&f->lock);
        while (f->n)
            evict(f);
        f->base = f->last = row->seq;
        return true;
    }
    r->seq = row->seq;
    r->n = row->json.n;
    memcpy(r->json, row->json.p, row->json.n);
    AST_WITH_LOCK(&f->lock);
    while (f->n && (f->n >= f->ring_rows || f->bytes + sizeof *r + r->n > RING_BYTES))
        evict(f);
    f->ring[(f->first + f->n++) % RING_ROWS] = r;
    f->bytes += sizeof *r + r->n;
    f->last = row->seq;
    struct crowd *crowd = ast_map_get(&f->crowds, ast_principal_str(&r->principal));
    if (crowd)
        wake(&crowd->readers);
    wake(&f->everybody);
    return true;
}

/* On the feed thread: everything the log has got since the last time. */
static void refresh(struct gw_feed *f)
{
    struct ast_err err = AST_ERR_INIT;
    ast_lock(&f->lock);
    uint64_t from = f->last;
    ast_unlock(&f->lock);
    const struct ast_kernel_rows ask = {
        .until = UINT64_MAX, .seq = from, .oldest_first = true, .each = push, .arg = f
    };
    uint64_t last = from;
    if (ast_kernel_rows_walk(f->kernel, &ask, &last, &err))
        ast_log_error("gateway", "the audit log cannot be read, live views stand still: %s",
                      err.msg);
    AST_WITH_LOCK(&f->lock);
    f->last = AST_MAX(f->last, last);
}

static void run_refresh(struct gw_job *job)
{
    struct gw_feed *f = AST_CONTAINER_OF(job, struct gw_feed, refresh);
    ast_lock(&f->lock);
    f->is_queued = false; /* before reading: what is published from here on asks again */
    uint64_t asked = f->asked;
    ast_unlock(&f->lock);
    refresh(f);
    AST_WITH_LOCK(&f->lock);
    f->done = asked;
    pthread_cond_broadcast(&f->refreshed);
}

/* The number of a refresh that begins after this; 0: the feed is closing. */
static uint64_t ask_refresh(struct gw_feed *f)
{
    AST_WITH_LOCK(&f->lock);
    f->asked++;
    if (!f->is_queued && !gw_worker_post(&f->worker, &f->refresh))
        return 0;
    f->is_queued = true;
    return f->asked;
}

/* Any thread: only says that there is news. The row is durable before its event. */
static void on_audit_event(void *arg, struct ast_msg *msg)
{
    if (!msg->publisher.n) /* a capsule has no rows of its own there */
        (void)ask_refresh(arg);
}

uint64_t gw_feed_sync(struct gw_feed *f)
{
    uint64_t number = ask_refresh(f);
    AST_WITH_LOCK(&f->lock);
    while (number && f->done < number)
        (void)ast_cond_wait(&f->refreshed, &f->lock, -1); /* the worker runs what is queued */
    return f->last;
}

/* --- Life ---------------------------------------------------------------------------------- */

static bool take_newest(void *arg, const struct ast_kernel_row *row)
{
    *(uint64_t *)arg = row->seq;
    return false;
}

enum ast_rc gw_feed_open(struct ast_kernel *k, unsigned behind, unsigned ring, struct gw_feed **ret,
                         struct ast_err *err)
{
    struct gw_feed *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return ast_fail(err, AST_E_NO_MEMORY, "audit feed");
    ast_lock_init(&fresh->lock, AST_LOCK_session);
    ast_cond_init(&fresh->refreshed);
    ast_list_init(&fresh->everybody);
    fresh->kernel = k;
    fresh->behind = behind ? behind : AST_GATEWAY_EVENTS_BEHIND;
    fresh->ring_rows = ring ? AST_MIN(ring, RING_ROWS) : RING_ROWS;
    fresh->refresh.run = run_refresh;
    AST_AUTO(gw_feed_close) struct gw_feed *f = fresh;
    uint64_t newest = 0, unused = 0;
    const struct ast_kernel_rows ask = { .until = UINT64_MAX, .each = take_newest, .arg = &newest };
    enum ast_rc rc = ast_kernel_rows_walk(k, &ask, &unused, err);
    if (rc)
        return ast_wrap(err, rc, "audit feed");
    f->base = f->last = newest;
    rc = gw_worker_start(&f->worker, "gateway-feed", err);
    if (!rc)
        rc = ast_tap_open(ast_kernel_host(k)->bus, "gateway_feed", AST_STR("astrid.v1.audit.entry"),
                          on_audit_event, f, &f->tap, err);
    if (rc)
        return rc;
    *ret = ast_steal(&f);
    return AST_OK;
}

void gw_feed_close(struct gw_feed *f)
{
    if (!f)
        return;
    ast_tap_close(f->tap);
    gw_worker_stop(&f->worker);
    ast_lock(&f->lock);
    while (f->n)
        evict(f);
    ast_unlock(&f->lock);
    AST_ASSERT(ast_list_empty(&f->everybody) && f->crowds.n == 0);
    ast_map_done(&f->crowds);
    pthread_cond_destroy(&f->refreshed);
    ast_lock_done(&f->lock);
    free(f);
}

/* --- Readers ------------------------------------------------------------------------------- */

static struct ast_list *readers_of(struct gw_feed *f, struct ast_str principal)
    AST_REQUIRES(f->lock)
{
    struct crowd *c = ast_map_get(&f->crowds, principal);
    if (c)
        return &c->readers;
    c = calloc(1, sizeof *c);
    if (!c || !ast_map_set(&f->crowds, principal, c, NULL)) {
        free(c);
        return NULL;
    }
    ast_list_init(&c->readers);
    return &c->readers;
}

static bool is_for(const struct gw_feed_reader *r, const struct row *row)
{
    return r->sees_all || ast_str_eq(r->principal, ast_principal_str(&row->principal));
}

/* The first row behind `at`; f->n when there is none. */
static size_t find(struct gw_feed *f, uint64_t at) AST_REQUIRES(f->lock)
{
    size_t lo = 0, hi = f->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (row_at(f, mid)->seq > at)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static uint64_t count_in_ring(struct gw_feed_reader *r, uint64_t at) AST_REQUIRES(r->feed->lock)
{
    uint64_t n = 0;
    for (size_t i = find(r->feed, at); i < r->feed->n; i++)
        n += is_for(r, row_at(r->feed, i));
    return n;
}

bool gw_feed_join(struct gw_feed *f, struct gw_feed_reader *r, uint64_t at)
{
    AST_WITH_LOCK(&f->lock);
    struct ast_list *readers = r->sees_all ? &f->everybody : readers_of(f, r->principal);
    if (!readers)
        return false;
    r->feed = f;
    r->joined = f->last;
    r->at = AST_MIN(at, f->last);
    r->unseen = 0;
    ast_list_push_back(readers, &r->link);
    return true;
}

void gw_feed_leave(struct gw_feed_reader *r)
{
    struct gw_feed *f = r->feed;
    if (!f)
        return;
    AST_WITH_LOCK(&f->lock);
    ast_list_remove(&r->link);
    struct crowd *c = r->sees_all ? NULL : ast_map_get(&f->crowds, r->principal);
    if (c && ast_list_empty(&c->readers))
        free(ast_map_remove(&f->crowds, r->principal));
    r->feed = NULL;
}

uint64_t gw_feed_at(struct gw_feed_reader *r)
{
    AST_WITH_LOCK(&r->feed->lock);
    return r->at;
}

static void taken(struct gw_feed_reader *r, uint64_t seq) AST_REQUIRES(r->feed->lock)
{
    r->at = seq;
    if (seq > r->joined && r->unseen)
        r->unseen--;
}

enum gw_feed_got gw_feed_take(struct gw_feed_reader *r, bool with_ids, size_t enough,
                              struct ast_buf *out, uint64_t *ret_dropped)
{
    struct gw_feed *f = r->feed;
    *ret_dropped = 0;
    AST_WITH_LOCK(&f->lock);
    if (r->at < f->base) {
        uint64_t kept = r->unseen > f->behind ? count_in_ring(r, f->base) : 0;
        if (r->unseen <= f->behind)
            return GW_FEED_IN_LOG;
        *ret_dropped = r->unseen - AST_MIN(kept, r->unseen);
        r->unseen = kept;
        r->at = f->base;
        return GW_FEED_MORE; /* the caller tells it before what comes next */
    }
    for (size_t i = find(f, r->at); i < f->n; i++) {
        const struct row *row = row_at(f, i);
        if (!is_for(r, row))
            continue;
        if (out->n >= enough)
            return GW_FEED_MORE;
        gw_feed_event(out, with_ids ? row->seq : 0, ast_str_n(row->json, row->n));
        taken(r, row->seq);
    }
    r->at = AST_MAX(r->at, f->last);
    r->unseen = 0;
    return GW_FEED_END;
}

/* --- The log ------------------------------------------------------------------------------- */

struct reading {
    struct gw_feed_page *page;
    unsigned rows;
    bool is_cut; /* the log goes on */
};

static bool add_to_page(void *arg, const struct ast_kernel_row *row)
{
    struct reading *rd = arg;
    struct gw_feed_page *p = rd->page;
    gw_feed_event(&p->out, p->with_ids ? row->seq : 0, row->json);
    p->at = row->seq;
    p->counted += row->seq > p->joined;
    rd->is_cut = ++rd->rows >= PAGE_ROWS || p->out.n >= AST_GATEWAY_FILL_BYTES;
    return !rd->is_cut;
}

enum ast_rc gw_feed_read_log(struct gw_feed *f, struct gw_feed_page *page, struct ast_err *err)
{
    struct reading rd = { .page = page };
    struct ast_str principal = ast_principal_str(&page->principal);
    const struct ast_kernel_rows ask = { .principal = page->sees_all ? NULL : &principal,
                                         .until = UINT64_MAX,
                                         .seq = page->at,
                                         .oldest_first = true,
                                         .each = add_to_page,
                                         .arg = &rd };
    ast_lock(&f->lock);
    uint64_t end = f->last; /* what is older than this and not in the page is not for the reader */
    ast_unlock(&f->lock);
    uint64_t seen = page->at;
    enum ast_rc rc = ast_kernel_rows_walk(f->kernel, &ask, &seen, err);
    if (!rc)
        rc = ast_buf_check(&page->out, "audit events", err);
    if (!rc && !rd.is_cut) {
        seen = AST_MAX(seen, end);
        page->at = AST_MAX(page->at, seen);
    }
    return rc;
}

void gw_feed_passed(struct gw_feed_reader *r, const struct gw_feed_page *page)
{
    AST_WITH_LOCK(&r->feed->lock);
    r->at = AST_MAX(r->at, page->at);
    r->unseen -= AST_MIN(r->unseen, page->counted);
}
