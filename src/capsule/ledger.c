/* The fuel ledger, the CPU-rate limiter and the memory ledger.
 *
 * A principal has one account; it is made by its first charge, so a principal that was only
 * asked about costs nothing. Accounts are cut into shards by hash; the lowest totals of a full
 * shard give way. A window belongs to the account: fixed, one second, rolled by whoever looks
 * at it first.
 */
#include "capsule/ledger_priv.h"

#include <stdlib.h>

#include "base/map.h"
#include "base/thread.h"
#include "base/time.h"

#include "base/banned.h"

#define SHARDS             16u
#define ACCOUNTS_PER_SHARD (CAPSULE_LEDGER_MAX_PRINCIPALS / SHARDS)
#define EVICTED_AT_ONCE    (ACCOUNTS_PER_SHARD / 16)
#define WINDOW_NS          AST_NS_PER_SEC

struct account {
    uint64_t total;       /* fuel since start, saturating */
    int64_t window_start; /* monotonic */
    uint64_t window_fuel; /* charged since window_start */
    uint64_t reserved;    /* estimates of calls that started in this window and still run */
    uint64_t usual;       /* moving average of fuel per call: the estimate */
    uint64_t calls;
    uint64_t memory_peak_bytes;
    uint64_t failures;
    /* Not touched by an ordinary call from here on. */
    uint64_t window_calls;              /* `calls` when the window began */
    uint64_t recent_calls, recent_fuel; /* of earlier windows, halved each second */
    uint64_t throttled, dropped;
};

struct shard {
    _Alignas(64) struct ast_lock lock;
    struct ast_map accounts AST_GUARDED_BY(lock); /* principal -> struct account, owned */
    struct account gone AST_GUARDED_BY(lock);     /* sums of the accounts that gave way */
};

/* Owner: any thread, under the locks. */
struct capsule_ledger {
    struct shard shards[SHARDS];
    struct ast_lock peak_lock;
    struct ast_map peaks AST_GUARDED_BY(peak_lock); /* principal -> uint64_t, owned */
    uint64_t peak_floor
        AST_GUARDED_BY(peak_lock); /* no recorded peak is below it; peaks only grow */
};

enum ast_rc capsule_ledger_new(struct capsule_ledger **ret, struct ast_err *err)
{
    struct capsule_ledger *l = aligned_alloc(64, sizeof *l);
    if (!l)
        return ast_fail(err, AST_E_NO_MEMORY, "ledger");
    *l = (struct capsule_ledger){ .peak_floor = 0 };
    for (size_t i = 0; i < SHARDS; i++)
        ast_lock_init(&l->shards[i].lock, AST_LOCK_ledger);
    ast_lock_init(&l->peak_lock, AST_LOCK_ledger);
    *ret = l;
    return AST_OK;
}

static void free_values(struct ast_map *m)
{
    struct ast_str key;
    void *value;
    for (size_t pos = 0; ast_map_next(m, &pos, &key, &value);)
        free(value);
    ast_map_done(m);
}

void capsule_ledger_free(struct capsule_ledger *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < SHARDS; i++) {
        free_values(&l->shards[i].accounts);
        ast_lock_done(&l->shards[i].lock);
    }
    free_values(&l->peaks);
    ast_lock_done(&l->peak_lock);
    free(l);
}

static struct shard *shard_of(struct capsule_ledger *l, struct ast_str principal)
{
    return &l->shards[(ast_str_hash(principal) >> 32) % SHARDS];
}

static uint64_t add_saturating(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static uint64_t halved(uint64_t v, int64_t seconds)
{
    return seconds < 64 ? v >> seconds : 0;
}

/* Time that goes backwards counts as no time. */
static void roll(struct account *a, int64_t now_ns)
{
    int64_t windows = (now_ns - a->window_start) / WINDOW_NS;
    if (windows < 1)
        return;
    a->recent_fuel = halved(add_saturating(a->recent_fuel, a->window_fuel), windows);
    a->recent_calls = halved(a->recent_calls + (a->calls - a->window_calls), windows);
    a->window_calls = a->calls;
    a->window_start = now_ns;
    a->window_fuel = 0;
    a->reserved = 0;
}

static void count_throttled(struct shard *s, struct ast_str principal)
{
    AST_WITH_LOCK(&s->lock);
    struct account *a = ast_map_get(&s->accounts, principal);
    if (a)
        a->throttled++;
}

bool capsule_ledger_admit(struct capsule_ledger *l, struct ast_str principal, uint64_t budget,
                          int64_t now_ns, bool (*exempt)(void *arg, struct ast_str principal),
                          void *arg, struct capsule_reservation *ret)
{
    struct shard *s = shard_of(l, principal);
    bool over = false;

    *ret = (struct capsule_reservation){ 0 };
    for (int pass = 0; pass < 2; pass++) {
        ast_lock(&s->lock);
        struct account *a = ast_map_get(&s->accounts, principal);
        if (a) {
            roll(a, now_ns);
            over = budget > 0 && add_saturating(a->window_fuel, a->reserved) > budget;
            if (!over || pass == 1) {
                *ret = (struct capsule_reservation){ a->usual, a->window_start };
                a->reserved = add_saturating(a->reserved, a->usual);
            }
        }
        ast_unlock(&s->lock);
        if (!a || !over)
            return true;
        if (pass == 0 && !exempt(arg, principal)) {
            count_throttled(s, principal);
            return false;
        }
    }
    return true;
}

struct candidate {
    bool is_busy; /* a call runs or a window is open */
    uint64_t total;
    struct ast_str principal; /* borrowed from the map */
};

static int by_worth(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    if (a->is_busy != b->is_busy)
        return a->is_busy - b->is_busy;
    return (a->total > b->total) - (a->total < b->total);
}

/* The sums stay true when an account goes. */
static void bury(struct shard *s, struct account *a) AST_REQUIRES(s->lock)
{
    if (!a)
        return;
    s->gone.total = add_saturating(s->gone.total, a->total);
    s->gone.calls += a->calls;
    s->gone.failures += a->failures;
    s->gone.throttled += a->throttled;
    s->gone.dropped += a->dropped;
    s->gone.memory_peak_bytes = AST_MAX(s->gone.memory_peak_bytes, a->memory_peak_bytes);
    free(a);
}

/* Room in a full shard: the lowest totals give way, those nothing depends on now first. Many at
 * once, so that a flood of new principals pays the pass over the shard once per batch. */
static bool evict_lowest(struct shard *s, int64_t now_ns) AST_REQUIRES(s->lock)
{
    struct candidate *all = calloc(s->accounts.n, sizeof *all);
    struct ast_str key;
    void *value;
    size_t n = 0;

    if (!all)
        return false;
    for (size_t pos = 0; ast_map_next(&s->accounts, &pos, &key, &value);) {
        const struct account *a = value;
        bool is_busy = a->reserved || now_ns - a->window_start < WINDOW_NS;
        all[n++] = (struct candidate){ is_busy, a->total, key };
    }
    qsort(all, n, sizeof *all, by_worth);
    for (size_t i = 0; i < AST_MIN(n, EVICTED_AT_ONCE); i++)
        bury(s, ast_map_remove(&s->accounts, all[i].principal));
    free(all);
    return true;
}

static struct account *account_make(struct shard *s, struct ast_str principal, int64_t now_ns)
    AST_REQUIRES(s->lock)
{
    if (s->accounts.n >= ACCOUNTS_PER_SHARD && !evict_lowest(s, now_ns))
        return NULL;
    struct account *a = calloc(1, sizeof *a);
    if (!a || !ast_map_set(&s->accounts, principal, a, NULL)) {
        free(a);
        return NULL;
    }
    a->window_start = now_ns;
    return a;
}

static void charge(struct account *a, const struct capsule_reservation *reserved, uint64_t fuel,
                   int64_t now_ns)
{
    if (reserved->window == a->window_start)
        a->reserved -= AST_MIN(a->reserved, reserved->fuel);
    if (!fuel)
        return;
    roll(a, now_ns);
    a->window_fuel = add_saturating(a->window_fuel, fuel);
    a->total = add_saturating(a->total, fuel);
    a->usual = a->usual ? a->usual - a->usual / 4 + fuel / 4 : fuel;
}

void capsule_ledger_charge(struct capsule_ledger *l, struct ast_str principal,
                           const struct capsule_reservation *reserved, uint64_t fuel,
                           int64_t now_ns)
{
    if (!reserved->fuel && !fuel)
        return;
    struct shard *s = shard_of(l, principal);
    AST_WITH_LOCK(&s->lock);
    struct account *a = ast_map_get(&s->accounts, principal);
    if (!a && fuel)
        a = account_make(s, principal, now_ns);
    if (a) /* else forgotten meanwhile, or no memory: the limiter errs on the caller's side */
        charge(a, reserved, fuel, now_ns);
}

void capsule_ledger_settle(struct capsule_ledger *l, struct ast_str principal,
                           const struct capsule_reservation *reserved,
                           const struct capsule_cost *cost, int64_t now_ns)
{
    struct shard *s = shard_of(l, principal);
    AST_WITH_LOCK(&s->lock);
    struct account *a = ast_map_get(&s->accounts, principal);
    if (!a)
        a = account_make(s, principal, now_ns);
    if (!a)
        return;
    charge(a, reserved, cost->fuel, now_ns);
    a->calls++;
    a->failures += cost->failed;
    a->memory_peak_bytes = AST_MAX(a->memory_peak_bytes, cost->memory_bytes);
}

void capsule_ledger_dropped(struct capsule_ledger *l, struct ast_str principal, int64_t now_ns)
{
    struct shard *s = shard_of(l, principal);
    AST_WITH_LOCK(&s->lock);
    struct account *a = ast_map_get(&s->accounts, principal);
    if (!a)
        a = account_make(s, principal, now_ns);
    if (a)
        a->dropped++;
}

/* Everything but the name. */
static void read_account(const struct account *a, int64_t now_ns, struct capsule_use *ret)
{
    int64_t windows = AST_MAX((now_ns - a->window_start) / WINDOW_NS, INT64_C(0));
    *ret = (struct capsule_use){
        .calls = a->calls,
        .failures = a->failures,
        .throttled = a->throttled,
        .dropped = a->dropped,
        .fuel = a->total,
        .memory_peak_bytes = a->memory_peak_bytes,
        .recent_calls = halved(a->recent_calls + (a->calls - a->window_calls), windows),
        .recent_fuel = halved(add_saturating(a->recent_fuel, a->window_fuel), windows),
    };
}

static void set_name(struct capsule_use *u, struct ast_str principal)
{
    u->principal.n = (uint8_t)AST_MIN(principal.n, (size_t)AST_PRINCIPAL_MAX);
    memcpy(u->principal.name, principal.p, u->principal.n);
}

size_t capsule_ledger_shard_max(void)
{
    return ACCOUNTS_PER_SHARD;
}

bool capsule_ledger_copy(struct capsule_ledger *l, unsigned shard, int64_t now_ns,
                         struct capsule_use *ret, size_t *ret_n, struct capsule_use *ret_gone)
{
    struct ast_str principal;
    void *value;
    size_t n = 0;

    if (shard >= SHARDS)
        return false;
    struct shard *s = &l->shards[shard];
    AST_WITH_LOCK(&s->lock);
    for (size_t pos = 0;
         n < ACCOUNTS_PER_SHARD && ast_map_next(&s->accounts, &pos, &principal, &value); n++) {
        read_account(value, now_ns, &ret[n]);
        set_name(&ret[n], principal);
    }
    read_account(&s->gone, now_ns, ret_gone);
    ret_gone->recent_calls = 0; /* the sums have no window */
    *ret_n = n;
    return true;
}

void capsule_ledger_use(struct capsule_ledger *l, struct ast_str principal, int64_t now_ns,
                        struct capsule_use *ret)
{
    struct shard *s = shard_of(l, principal);
    AST_WITH_LOCK(&s->lock);
    const struct account *a = ast_map_get(&s->accounts, principal);
    *ret = (struct capsule_use){ 0 };
    if (a)
        read_account(a, now_ns, ret);
    set_name(ret, principal);
}

size_t capsule_ledger_count(struct capsule_ledger *l)
{
    size_t n = 0;
    for (size_t i = 0; i < SHARDS; i++) {
        AST_WITH_LOCK(&l->shards[i].lock);
        n += l->shards[i].accounts.n;
    }
    return n;
}

uint64_t capsule_ledger_fuel(struct capsule_ledger *l, struct ast_str principal)
{
    struct shard *s = shard_of(l, principal);
    AST_WITH_LOCK(&s->lock);
    const struct account *a = ast_map_get(&s->accounts, principal);
    return a ? a->total : 0;
}

/* True: there is room for a peak of `bytes`. */
static bool make_room(struct capsule_ledger *l, uint64_t bytes) AST_REQUIRES(l->peak_lock)
{
    struct ast_str key, smallest_key = AST_STR_NONE;
    uint64_t smallest = UINT64_MAX;
    void *value;

    if (l->peaks.n < CAPSULE_LEDGER_MAX_PEAKS)
        return true;
    if (bytes <= l->peak_floor)
        return false;
    for (size_t pos = 0; ast_map_next(&l->peaks, &pos, &key, &value);) {
        if (*(uint64_t *)value < smallest) {
            smallest = *(uint64_t *)value;
            smallest_key = key;
        }
    }
    l->peak_floor = smallest;
    if (bytes <= smallest)
        return false;
    free(ast_map_remove(&l->peaks, smallest_key));
    return true;
}

void capsule_ledger_grew(struct capsule_ledger *l, struct ast_str principal, uint64_t bytes)
{
    AST_WITH_LOCK(&l->peak_lock);
    uint64_t *peak = ast_map_get(&l->peaks, principal);
    if (peak) {
        *peak = AST_MAX(*peak, bytes);
        return;
    }
    if (!make_room(l, bytes))
        return;
    peak = malloc(sizeof *peak);
    if (!peak || !ast_map_set(&l->peaks, principal, peak, NULL)) {
        free(peak); /* a report that lacks one line */
        return;
    }
    *peak = bytes;
}

uint64_t capsule_ledger_peak(struct capsule_ledger *l, struct ast_str principal)
{
    AST_WITH_LOCK(&l->peak_lock);
    const uint64_t *peak = ast_map_get(&l->peaks, principal);
    return peak ? *peak : 0;
}

void capsule_ledger_forget(struct capsule_ledger *l, struct ast_str principal)
{
    struct shard *s = shard_of(l, principal);
    ast_lock(&s->lock);
    bury(s, ast_map_remove(&s->accounts, principal));
    ast_unlock(&s->lock);
    AST_WITH_LOCK(&l->peak_lock);
    free(ast_map_remove(&l->peaks, principal));
    l->peak_floor = 0;
}
