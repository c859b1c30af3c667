/* The health probe: finds run loops that ended, starts them again, knows when to give up (spec 04
 * §15.2).
 *
 *   healthy --loop ended--> seen --wait--> attempt --loaded--> healthy for 60 s: history forgotten
 *                             ^               |
 *                             +-- wait x 2 ---+-- not loaded, or ended again
 *                                             +-- 5 attempts: exhausted, until a load is asked for
 *
 * differs: the attempts of a capsule that cannot be loaded go on from its recorded directory; a
 * successful attempt is followed by capsules_loaded. The handler `handle_lifecycle_restart` has
 * no addressee: only run loops are restarted, and they take no handler calls.
 */
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "capsule/registry_priv.h"

#include "base/banned.h"

#define MAX_ATTEMPTS  5u
#define FIRST_WAIT_NS (2 * AST_NS_PER_SEC)
#define MAX_WAIT_NS   (120 * AST_NS_PER_SEC)
#define HEALTHY_NS    (60 * AST_NS_PER_SEC)
#define REASON        AST_STR("WASM run loop exited unexpectedly")

static void publish_failure(struct ast_capsules *r, const struct capsule_seat *seat)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(64u * 1024);
    const struct ast_msg_spec spec = { .topic = AST_STR("astrid.v1.health.failed"),
                                       .source_id = ast_uuid_v4(),
                                       .origin = "kernel" };
    struct ast_jw w = AST_JW_INIT(&body);
    struct ast_err err = AST_ERR_INIT;
    struct ast_msg *msg = NULL;

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "capsule_id", seat->id);
    ast_jw_kv_string(&w, "reason", REASON);
    ast_jw_end(&w);
    enum ast_rc rc = ast_buf_check(&body, "health report", &err);
    if (!rc)
        rc = ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_buf_view(&body), &msg, &err);
    if (rc)
        ast_log_warn(CAPSULE_TARGET, "health report of '" AST_STR_FMT "' not published: %s",
                     AST_STR_ARG(seat->id), err.msg);
    else
        (void)ast_bus_publish(r->host->bus, msg); /* nobody waits for its number */
}

static enum ast_rc start_again(struct ast_capsules *r, struct capsule_seat *seat,
                               struct ast_err *err)
{
    struct ast_manifest *manifest = NULL;

    registry_seat_unload(r, seat);
    enum ast_rc rc = ast_manifest_load(seat->dir, &manifest, err);
    if (!rc && !ast_str_eq(manifest->name, seat->id)) {
        ast_manifest_free(manifest);
        rc = ast_fail(err, AST_E_CONFLICT, "the directory holds another capsule now");
    }
    if (!rc)
        rc = registry_seat_load(r, seat, manifest, err);
    if (rc)
        return rc;
    AST_AUTO(capsule_unref) struct capsule *c = seat_current(seat);
    registry_wait_ready(r, &c, 1);
    return AST_OK;
}

static void give_up(struct capsule_seat *seat)
{
    seat->history.exhausted = true;
    ast_log_fields(AST_LOG_ERROR, CAPSULE_TARGET,
                   "All restart attempts exhausted - capsule will remain down",
                   AST_F_STR("capsule_id", seat->id));
}

static void attempt(struct ast_capsules *r, struct capsule_seat *seat, int64_t now_ns)
{
    struct seat_restarts *h = &seat->history;
    struct ast_err err = AST_ERR_INIT;

    h->attempts++;
    h->next_ns = now_ns + h->wait_ns;
    h->wait_ns = AST_MIN(2 * h->wait_ns, MAX_WAIT_NS);
    ast_log_fields(AST_LOG_WARN, CAPSULE_TARGET, "Attempting capsule restart",
                   AST_F_STR("capsule_id", seat->id), AST_F_U64("attempt", h->attempts),
                   AST_F_U64("max_attempts", MAX_ATTEMPTS));
    enum ast_rc rc = start_again(r, seat, &err);
    if (rc) {
        ast_log_fields(AST_LOG_ERROR, CAPSULE_TARGET, "Capsule restart failed",
                       AST_F_STR("capsule_id", seat->id), AST_F_U64("attempt", h->attempts),
                       AST_F_CSTR("error", err.msg));
        if (h->attempts == MAX_ATTEMPTS)
            give_up(seat);
        return;
    }
    h->started_ns = now_ns;
    atomic_fetch_add(&seat->restarts, 1);
    ast_metric_add(seat->restart_cell, 1);
    ast_log_fields(AST_LOG_INFO, CAPSULE_TARGET, "Capsule restarted successfully",
                   AST_F_STR("capsule_id", seat->id), AST_F_U64("attempt", h->attempts));
    registry_publish_loaded(r);
}

/* The capsule is down: note it, wait, try, give up. */
static void handle_down(struct ast_capsules *r, struct capsule_seat *seat, int64_t now_ns)
{
    struct seat_restarts *h = &seat->history;

    if (!h->tracking) {
        *h = (struct seat_restarts){ .tracking = true,
                                     .next_ns = now_ns + FIRST_WAIT_NS,
                                     .wait_ns = 2 * FIRST_WAIT_NS };
        return;
    }
    if (h->exhausted || now_ns < h->next_ns)
        return;
    if (h->attempts < MAX_ATTEMPTS)
        attempt(r, seat, now_ns);
    else
        give_up(seat);
}

void ast_capsules_probe(struct ast_capsules *r, int64_t now_ns)
{
    for (size_t i = 0; i < r->seats.n; i++) { /* the loader's own table */
        struct capsule_seat *seat = r->seats.v[i];
        struct seat_restarts *h = &seat->history;
        struct capsule *c = seat_current(seat);
        bool dead = c && capsule_loop_is_dead(c);
        bool down = dead || (h->tracking && (!c || c->failed)); /* a restart that could not load */
        capsule_unref(c);

        if (dead) {
            ast_log_fields(AST_LOG_ERROR, CAPSULE_TARGET, "Capsule health check failed",
                           AST_F_STR("capsule_id", seat->id), AST_F_STR("reason", REASON));
            publish_failure(r, seat);
        }
        if (down)
            handle_down(r, seat, now_ns);
        else if (h->tracking && now_ns - h->started_ns >= HEALTHY_NS)
            *h = (struct seat_restarts){ .tracking = false };
    }
}
