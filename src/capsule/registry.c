/* Who is loaded: seats and UUIDs under the lock, events about them, look-ups, the end of
 * everything. What changes them is in load.c.
 */
#include "capsule/registry.h"

#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "bus/topic.h"
#include "capsule/registry_priv.h"

#include "base/banned.h"

#define EVENT_MAX_BYTES (64u * 1024)

/* --- Shared state under the lock -------------------------------------------------------------- */

void registry_alive(struct ast_capsules *r, int delta)
{
    AST_WITH_LOCK(&r->lock);
    r->alive += (unsigned)delta;
    if (!r->alive)
        pthread_cond_broadcast(&r->changed);
}

void registry_signal(struct ast_capsules *r, struct capsule *c, enum capsule_ready now)
{
    AST_WITH_LOCK(&r->lock);
    if (atomic_load(&c->ready) == CAPSULE_STARTING)
        atomic_store(&c->ready, now);
    pthread_cond_broadcast(&r->changed);
}

static struct ast_str uuid_key(const struct capsule *c)
{
    return ast_str_n(c->env.uuid.b, sizeof c->env.uuid.b);
}

void registry_uuid_add(struct ast_capsules *r, struct capsule *c)
{
    AST_WITH_LOCK(&r->lock);
    if (!ast_map_set(&r->by_uuid, uuid_key(c), c, NULL))
        ast_log_error(CAPSULE_TARGET,
                      "out of memory: capability checks on '" AST_STR_FMT "' will deny",
                      AST_STR_ARG(c->env.capsule_id));
}

void registry_uuid_remove(struct ast_capsules *r, struct capsule *c)
{
    AST_WITH_LOCK(&r->lock);
    (void)ast_map_remove(&r->by_uuid, uuid_key(c)); /* failed loads never were in it */
}

static bool capsule_holds(void *arg, const struct ast_uuid *uuid, struct ast_str capability)
{
    struct ast_capsules *r = arg;
    AST_WITH_LOCK(&r->lock);
    const struct capsule *c = ast_map_get(&r->by_uuid, ast_str_n(uuid->b, sizeof uuid->b));
    for (size_t i = 0; c && i < c->env.held_count; i++)
        if (ast_str_eq(c->env.held[i], capability))
            return true;
    return false;
}

static void count_lost(void *arg, struct ast_str principal)
{
    struct ast_capsules *r = arg;
    if (!ast_principal_valid(principal)) /* the system's, or none that could have an account */
        principal = ast_principal_str(&r->owner);
    capsule_ledger_dropped(r->ledger, principal, ast_mono_ns());
}

/* --- Seats ------------------------------------------------------------------------------------ */

struct capsule_seat *registry_seat_find(struct ast_capsules *r, struct ast_str id)
{
    AST_WITH_LOCK(&r->lock);
    for (size_t i = 0; i < r->seats.n; i++)
        if (ast_str_eq(r->seats.v[i]->id, id))
            return r->seats.v[i];
    return NULL;
}

enum ast_rc registry_seat_for(struct ast_capsules *r, struct ast_str id, struct capsule_seat **ret,
                              struct ast_err *err)
{
    struct capsule_seat *seat = registry_seat_find(r, id);
    if (!seat) {
        enum ast_rc rc = seat_new(id, &seat, err);
        if (rc)
            return rc;
        AST_WITH_LOCK(&r->lock);
        if (!ast_vec_push(&r->seats, seat)) {
            seat_free(seat);
            return ast_fail(err, AST_E_NO_MEMORY, "capsule seat");
        }
        for (size_t i = r->seats.n - 1; i > 0 && ast_str_cmp(r->seats.v[i - 1]->id, id) > 0; i--) {
            r->seats.v[i] = r->seats.v[i - 1];
            r->seats.v[i - 1] = seat;
        }
    }
    *ret = seat;
    return AST_OK;
}

/* --- Events ----------------------------------------------------------------------------------- */

void registry_event(struct ast_capsules *r, enum ast_event_kind kind, struct ast_str id,
                    const char *key, struct ast_str value)
{
    AST_AUTO(ast_buf_done) struct ast_buf fields = AST_BUF_INIT(EVENT_MAX_BYTES);
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg = NULL;

    ast_buf_add_lit(&fields, "\"capsule_id\":");
    ast_json_quote(id, &fields);
    ast_buf_addf(&fields, ",\"%s\":", key);
    ast_json_quote(value, &fields);
    enum ast_rc rc = ast_buf_check(&fields, "lifecycle event", &err);
    if (!rc)
        rc = ast_event_new(kind, "kernel", ast_buf_view(&fields), &msg, &err);
    if (rc) {
        ast_log_warn(CAPSULE_TARGET, "lifecycle event of '" AST_STR_FMT "' not published: %s",
                     AST_STR_ARG(id), err.msg);
        return;
    }
    (void)ast_bus_publish(r->host->bus, msg); /* nobody waits for its number */
}

void registry_publish_loaded(struct ast_capsules *r)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(AST_MSG_MAX_BODY);
    const struct ast_msg_spec spec = { .topic = AST_STR("astrid.v1.capsules_loaded"),
                                       .source_id = r->session,
                                       .origin = "kernel" };
    struct ast_jw w = AST_JW_INIT(&body);
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg = NULL;

    ast_jw_object(&w);
    ast_jw_key(&w, AST_STR("capsule_ids"));
    ast_jw_array(&w);
    for (size_t i = 0; i < r->seats.n; i++) {
        struct capsule *c = seat_current(r->seats.v[i]);
        if (c && !c->failed)
            ast_jw_string(&w, r->seats.v[i]->id);
        capsule_unref(c);
    }
    ast_jw_end(&w);
    ast_jw_kv_string(&w, "status", AST_STR("ready"));
    ast_jw_end(&w);
    enum ast_rc rc = ast_buf_check(&body, "capsule list", &err);
    if (!rc)
        rc = ast_msg_trusted(&spec, AST_PAYLOAD_RAW_JSON, ast_buf_view(&body), &msg, &err);
    if (rc)
        ast_log_error(CAPSULE_TARGET, "capsules_loaded not published: %s", err.msg);
    else
        (void)ast_bus_publish(r->host->bus, msg); /* nobody waits for its number */
}

/* --- Looking ---------------------------------------------------------------------------------- */

struct capsule_seat **registry_seats(struct ast_capsules *r, size_t *ret_n)
{
    AST_WITH_LOCK(&r->lock);
    struct capsule_seat **v = malloc((r->seats.n + 1) * sizeof *v);
    *ret_n = v ? r->seats.n : 0;
    if (*ret_n)
        memcpy(v, r->seats.v, *ret_n * sizeof *v);
    return v;
}

void ast_capsules_each(struct ast_capsules *r,
                       bool (*each)(void *arg, const struct ast_capsule_row *row), void *arg)
{
    size_t n;
    AST_AUTO(ast_cfree) struct capsule_seat **seats = registry_seats(r, &n);
    bool more = true;

    for (size_t i = 0; more && i < n; i++) {
        AST_AUTO(capsule_unref) struct capsule *c = seat_current(seats[i]);
        if (!c)
            continue;
        struct ast_capsule_row row = {
            .id = seats[i]->id,
            .version = c->manifest->version,
            .manifest = c->manifest,
            .env = c->failed ? NULL : &c->env,
            .is_run_loop = c->env.is_run_loop,
            .failed = c->failed || capsule_loop_is_dead(c),
            .calls = atomic_load(&seats[i]->calls),
            .traps = atomic_load(&seats[i]->traps),
            .restarts = atomic_load(&seats[i]->restarts),
            .dropped = atomic_load(&seats[i]->dropped),
        };
        if (c->pool)
            ast_pool_stats(c->pool, &row.pool);
        more = each(arg, &row);
    }
}

static bool find_uplink(void *arg, const struct ast_capsule_row *row)
{
    bool *found = arg;
    *found = row->env && row->manifest->uplink_count > 0;
    return !*found;
}

bool ast_capsules_have_uplink_tables(struct ast_capsules *r)
{
    bool found = false;
    ast_capsules_each(r, find_uplink, &found);
    return found;
}

bool ast_capsules_serve(struct ast_capsules *r, struct ast_str topic)
{
    size_t n;
    AST_AUTO(ast_cfree) struct capsule_seat **seats = registry_seats(r, &n);
    bool served = false;

    for (size_t i = 0; !served && i < n; i++) {
        AST_AUTO(capsule_unref) struct capsule *c = seat_current(seats[i]);
        if (capsule_is_pooled(c))
            for (size_t k = 0; !served && k < c->env.binding_count; k++)
                served = ast_topic_match_strict(c->env.bindings[k].topic, topic);
        else if (c && c->env.is_run_loop && !capsule_loop_is_dead(c))
            for (size_t k = 0; !served && k < c->env.subscribe_acl_count; k++)
                served = ast_topic_match_subtree(c->env.subscribe_acl[k], topic);
    }
    return served;
}

uint64_t ast_capsules_fuel_total(struct ast_capsules *r, struct ast_str principal)
{
    return capsule_ledger_fuel(r->ledger, principal);
}

uint64_t ast_capsules_memory_peak(struct ast_capsules *r, struct ast_str principal)
{
    return capsule_ledger_peak(r->ledger, principal);
}

void ast_capsules_forget_principal(struct ast_capsules *r, struct ast_str principal)
{
    capsule_ledger_forget(r->ledger, principal);
}

void ast_capsules_drain(struct ast_capsules *r, unsigned wait_ms)
{
    if (!mailboxes_drain(&r->dispatch.boxes, ast_mono_ns() + (int64_t)wait_ms * AST_NS_PER_MS))
        ast_log_debug(CAPSULE_TARGET, "handlers still run after %u ms", wait_ms);
}

void ast_capsules_trim(struct ast_capsules *r, int64_t now_ns)
{
    size_t n;
    AST_AUTO(ast_cfree) struct capsule_seat **seats = registry_seats(r, &n);

    for (size_t i = 0; i < n; i++) {
        AST_AUTO(capsule_unref) struct capsule *c = seat_current(seats[i]);
        if (capsule_is_pooled(c))
            ast_pool_trim(c->pool, now_ns);
    }
    lag_publish(r->host->bus, lag_due(&r->dispatch.lag, now_ns));
}

/* --- Life ------------------------------------------------------------------------------------- */

enum ast_rc ast_capsules_new(const struct ast_capsules_config *cfg, struct ast_capsules **ret,
                             struct ast_err *err)
{
    struct ast_capsules *r =
        aligned_alloc(_Alignof(struct ast_capsules), sizeof *r); /* shards have their own lines */
    if (!r)
        return ast_fail(err, AST_E_NO_MEMORY, "capsule registry");
    memset(r, 0, sizeof *r);
    r->host = cfg->host;
    r->engine = cfg->engine;
    r->session = cfg->session;
    r->allow_duplicate_roles = cfg->allow_duplicate_roles;
    r->pool_max = cfg->pool_max;
    r->blocking_max = cfg->blocking_max;
    r->io_max = cfg->io_max;
    ast_lock_init(&r->lock, AST_LOCK_registry);
    ast_cond_init(&r->changed);
    enum ast_rc rc = ast_principal_parse(AST_PRINCIPAL_DEFAULT, &r->owner, err);
    if (!rc && cfg->workspace && !(r->workspace = ast_str_dup(ast_str_c(cfg->workspace))))
        rc = ast_fail(err, AST_E_NO_MEMORY, "capsule registry");
    if (!rc)
        rc = capsule_ledger_new(&r->ledger, err);
    if (!rc)
        rc = capsule_dispatch_init(&r->dispatch, r, err);
    if (rc) {
        ast_capsules_free(r);
        return rc;
    }
    ast_metrics_on_scrape(activity_scrape, r);
    r->host->capsule_holds = capsule_holds;
    r->host->capsule_holds_arg = r;
    r->host->count_lost = count_lost;
    r->host->count_lost_arg = r;
    *ret = r;
    return AST_OK;
}

/* False: something still runs guest code and holds pointers into the registry. */
static bool wait_all_gone(struct ast_capsules *r, int64_t deadline_ns)
{
    AST_WITH_LOCK(&r->lock);
    while (r->alive)
        if (!ast_cond_wait(&r->changed, &r->lock, deadline_ns))
            return r->alive == 0;
    return true;
}

void ast_capsules_free(struct ast_capsules *r)
{
    if (!r)
        return;
    bool quiet = true;
    ast_metrics_off_scrape(activity_scrape, r);
    for (size_t i = 0; i < r->seats.n; i++)
        registry_seat_unload(r, r->seats.v[i]);
    int64_t deadline_ns = ast_mono_ns() + REGISTRY_STOP_NS;
    if (r->dispatch.owner)
        quiet = capsule_dispatch_close(&r->dispatch, deadline_ns);
    quiet = wait_all_gone(r, deadline_ns) && quiet;
    if (r->host->capsule_holds_arg == r)
        r->host->capsule_holds = NULL;
    if (r->host->count_lost_arg == r)
        r->host->count_lost = NULL;
    if (!quiet) { /* to free under a running call would be worse */
        ast_log_error(CAPSULE_TARGET, "capsules did not end in time, their memory is kept");
        return;
    }
    capsule_dispatch_done(&r->dispatch);
    for (size_t i = 0; i < r->seats.n; i++)
        seat_free(r->seats.v[i]);
    ast_vec_done(&r->seats);
    ast_map_done(&r->by_uuid);
    capsule_ledger_free(r->ledger);
    ast_lock_done(&r->lock);
    pthread_cond_destroy(&r->changed);
    free(r->workspace);
    free(r);
}
