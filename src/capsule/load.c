/* Load passes: what is on disk comes to serve, what is gone leaves, what changed is replaced.
 *
 * The loader thread is the only one that changes seats. What others see changes at three points: the
 * UUID table, the seat's current capsule and the handler index, in this order when a capsule comes.
 */
#include <limits.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "capsule/registry_priv.h"

#include "base/banned.h"

/* Topics one capsule answers alone (spec 10 §30.4). */
static const struct ast_str roles[] = {
    AST_STR("user.v1.prompt"),
    AST_STR("spark.v1.request.build"),
    AST_STR("prompt_builder.v1.assemble"),
    AST_STR("session.v1.request.get_messages"),
    AST_STR("tool.v1.request.execute"),
};

/* --- The handler index ------------------------------------------------------------------------ */

static enum ast_rc index_rebuild(struct ast_capsules *r, struct ast_err *err)
{
    AST_VEC(struct capsule_handler_spec) specs = { 0 };
    AST_VEC(struct capsule *) held = { 0 };
    struct capsule_handlers *index = NULL;
    bool ok = true;

    for (size_t i = 0; ok && i < r->seats.n; i++) { /* the loader's own table: no lock to read it */
        struct capsule *c = seat_current(r->seats.v[i]);
        if (!c)
            continue;
        if (!(ok = ast_vec_push(&held, c))) {
            capsule_unref(c);
            break;
        }
        for (size_t k = 0; ok && capsule_is_pooled(c) && k < c->env.binding_count; k++)
            ok = ast_vec_push(&specs, (struct capsule_handler_spec){
                                          .seat = c->seat,
                                          .topic = c->env.bindings[k].topic,
                                          .action = c->env.bindings[k].action,
                                          .load = c->serial,
                                          .has_firehose = c->env.audit_firehose,
                                          .priority = c->env.bindings[k].priority,
                                      });
    }
    enum ast_rc rc = ok ? capsule_handlers_new(specs.v, specs.n, &index, err)
                        : ast_fail(err, AST_E_NO_MEMORY, "handler index");
    if (!rc)
        capsule_dispatch_swap(&r->dispatch, index);
    ast_vec_each (&held, c)
        capsule_unref(*c);
    ast_vec_done(&held);
    ast_vec_done(&specs);
    return rc;
}

/* --- Readiness -------------------------------------------------------------------------------- */

void registry_wait_ready(struct ast_capsules *r, struct capsule *const *v, size_t n)
{
    int64_t deadline = ast_mono_ns() + AST_CAPSULES_READY_MS * AST_NS_PER_MS;

    ast_lock(&r->lock);
    for (size_t i = 0; i < n;) {
        if (atomic_load(&v[i]->ready) != CAPSULE_STARTING)
            i++;
        else if (!ast_cond_wait(&r->changed, &r->lock, deadline))
            break;
    }
    ast_unlock(&r->lock);
    for (size_t i = 0; i < n; i++) {
        enum capsule_ready state = atomic_load(&v[i]->ready);
        if (state == CAPSULE_STARTING)
            ast_log_fields(AST_LOG_WARN, CAPSULE_TARGET,
                           "Capsule did not signal ready within timeout",
                           AST_F_STR("capsule", v[i]->seat->id),
                           AST_F_U64("timeout_ms", AST_CAPSULES_READY_MS));
        else if (state == CAPSULE_CRASHED)
            ast_log_fields(AST_LOG_ERROR, CAPSULE_TARGET,
                           "Capsule run loop exited before signaling ready",
                           AST_F_STR("capsule", v[i]->seat->id));
    }
}

/* --- Coming and going ------------------------------------------------------------------------- */

/* Two capsules in one role would answer twice. A handler with another priority is a step of the
 * same chain (a guard) and welcome. */
static enum ast_rc check_roles(struct ast_capsules *r, const struct capsule *c, struct ast_err *err)
{
    enum ast_rc rc = AST_OK;

    for (size_t s = 0; !rc && capsule_is_pooled(c) && !r->allow_duplicate_roles && s < r->seats.n;
         s++) {
        AST_AUTO(capsule_unref) struct capsule *other = seat_current(r->seats.v[s]);
        if (!capsule_is_pooled(other) || ast_str_eq(other->seat->id, c->seat->id))
            continue;
        for (size_t i = 0; !rc && i < c->env.binding_count; i++) {
            for (size_t k = 0; !rc && k < other->env.binding_count; k++) {
                const struct ast_host_binding *a = &c->env.bindings[i],
                                              *b = &other->env.bindings[k];
                if (a->priority != b->priority || !ast_str_eq(a->topic, b->topic))
                    continue;
                for (size_t n = 0; n < AST_ARRAY_LEN(roles); n++)
                    if (ast_str_eq(a->topic, roles[n]))
                        rc = ast_fail(err, AST_E_EXISTS,
                                      "capsule '" AST_STR_FMT "' handles '" AST_STR_FMT
                                      "', which capsule '" AST_STR_FMT
                                      "' already serves; remove one of them",
                                      AST_STR_ARG(c->seat->id), AST_STR_ARG(a->topic),
                                      AST_STR_ARG(other->seat->id));
            }
        }
    }
    return rc;
}

/* Nobody new gets in; calls are cancelled and awaited, within bounds. */
static void stop(struct capsule *c)
{
    capsule_stop(c);
    if (!capsule_wait_quiet(c, ast_mono_ns() + REGISTRY_STOP_NS))
        ast_log_fields(AST_LOG_WARN, CAPSULE_TARGET,
                       "calls of an unloaded capsule are still running",
                       AST_F_STR("capsule", c->seat->id));
}

/* A loop cannot run twice, so the old one ends first. It finishes the messages it was given; what is
 * queued on its subscriptions waits for `next`, which asks for the same ones. */
static void end_loop(struct capsule *old, struct capsule *next)
{
    struct ast_handover *heir = NULL;
    struct ast_err err = AST_ERR_INIT;

    if (!next->env.is_run_loop)
        ast_log_fields(
            AST_LOG_WARN, CAPSULE_TARGET,
            "the new version has no run loop: messages queued for the old one are dropped",
            AST_F_STR("capsule", old->seat->id));
    else if (capsule_heir(old, &heir, &err))
        ast_log_warn(CAPSULE_TARGET,
                     "messages queued for the run loop of '" AST_STR_FMT "' are dropped: %s",
                     AST_STR_ARG(old->seat->id), err.msg);
    if (heir) {
        next->env.inherits = ast_handover_ref(heir);
        capsule_quiesce(old);
        if (!capsule_wait_quiet(old, ast_mono_ns() + REGISTRY_STOP_NS))
            ast_log_fields(AST_LOG_WARN, CAPSULE_TARGET,
                           "run loop does not come to an end, cancelling what it does now",
                           AST_F_STR("capsule", old->seat->id));
    }
    stop(old);
}

/* --- A new run loop on trial ------------------------------------------------------------------ */

#define TRIAL_NS       (500 * AST_NS_PER_MS) /* for one that does not ask for messages */
#define TRIAL_AFTER_NS (100 * AST_NS_PER_MS) /* for one that has asked once and waits */

/* Prepares what comes back when the loop of `c` ends at once; it inherits from `c`. */
static enum ast_rc make_way_back(struct capsule *old, struct capsule *c, struct capsule **ret,
                                 struct ast_err *err)
{
    AST_AUTO(capsule_unref) struct capsule *back = NULL;
    struct ast_handover *heir = NULL;

    enum ast_rc rc = capsule_again(old, &back, err);
    if (!rc)
        rc = capsule_heir(c, &heir, err);
    if (rc)
        return ast_wrap(err, rc, "keep the old version at hand");
    back->env.inherits = ast_handover_ref(heir);
    *ret = ast_steal(&back);
    return AST_OK;
}

/* A loop that ends before it has asked for messages twice was never of use, nor one that ends while it gets its
 * first. */
static bool gets_along(struct ast_capsules *r, struct capsule *c)
{
    int64_t deadline = ast_mono_ns() + TRIAL_NS;
    bool has_asked = false;

    AST_WITH_LOCK(&r->lock);
    while (!atomic_load(&c->loop.ended)) {
        unsigned n = atomic_load(&c->env.receives);
        if (n >= 2)
            return true;
        if (n && !has_asked) {
            has_asked = true;
            deadline = AST_MIN(deadline, ast_mono_ns() + TRIAL_AFTER_NS);
        }
        if (!ast_cond_wait(&r->changed, &r->lock, deadline))
            return !atomic_load(&c->loop.ended);
    }
    return false;
}

static enum ast_rc pass_trial(struct ast_capsules *r, struct capsule *c, struct ast_err *err)
{
    if (!gets_along(r, c))
        return ast_fail(err, AST_E_INTERNAL, "the run loop ended at once: %s",
                        c->loop.error[0] ? c->loop.error : "it returned");
    struct ast_handover *heir = atomic_load(&c->env.heir);
    if (heir)
        ast_handover_close(heir); /* nobody comes back */
    atomic_store(&c->env.is_on_trial, false);
    if (atomic_load(
            &c->env.is_ready)) /* after the line before: signal-ready looks the other way round */
        ast_handover_close(c->env.inherits);
    return AST_OK;
}

/* `c` failed, what was there before it serves again. */
static void put_back(struct ast_capsules *r, struct capsule_seat *seat, struct capsule *c,
                     struct capsule *back)
{
    struct ast_err err = AST_ERR_INIT;

    ast_handover_pass(c->env.inherits, back->env.inherits); /* a loop that did not even start */
    registry_uuid_add(r, back);
    if (capsule_loop_start(back, &err)) {
        ast_log_error(CAPSULE_TARGET, "the old version of '" AST_STR_FMT "' does not start: %s",
                      AST_STR_ARG(seat->id), err.msg);
        return; /* the health probe finds the seat dead */
    }
    capsule_unref(seat_replace(seat, capsule_ref(back)));
    registry_wait_ready(r, &back, 1);
}

/* --- Taking a seat ---------------------------------------------------------------------------- */

/* Lets `c` serve in place of what sat there. Pooled calls of the old load end by themselves while
 * waiting events already go to the new one. */
static enum ast_rc take_seat(struct ast_capsules *r, struct capsule_seat *seat, struct capsule *c,
                             struct ast_err *err)
{
    AST_AUTO(capsule_unref) struct capsule *old = seat_current(seat), *back = NULL;
    bool serves = old && !old->failed && !capsule_loop_is_dead(old);
    bool loop_serves = serves && old->env.is_run_loop;
    enum ast_rc rc = AST_OK;

    if (loop_serves && c->env.is_run_loop)
        rc = make_way_back(old, c, &back, err);
    if (rc)
        return rc;
    atomic_store(&c->env.is_on_trial, back != NULL);
    registry_uuid_add(r, c);
    if (loop_serves)
        end_loop(old, c);
    if (c->env.is_run_loop)
        rc = capsule_loop_start(c, err);
    if (!rc && c->env.is_run_loop && serves)
        rc = pass_trial(r, c, err);
    if (rc) {
        if (back)
            put_back(r, seat, c, back);
        return rc;
    }
    capsule_unref(seat_replace(seat, capsule_ref(c)));
    if (old && !old->env.is_run_loop)
        capsule_retire(old);
    rc = index_rebuild(r, err);
    if (rc)
        ast_log_error(CAPSULE_TARGET, "handlers of '" AST_STR_FMT "' are not served: %s",
                      AST_STR_ARG(seat->id), err ? err->msg : "out of memory");
    return AST_OK;
}

/* A load that failed: keep what serves; show the failure where nothing does. */
static void note_failure(struct ast_capsules *r, struct capsule_seat *seat, struct capsule *shown,
                         const char *why)
{
    struct capsule *old = seat_current(seat);
    bool serving = old && !old->failed && !capsule_loop_is_dead(old);

    if (!serving && shown)
        capsule_unref(seat_replace(seat, shown));
    else
        capsule_unref(shown);
    capsule_unref(old);
    free(seat->failure);
    seat->failure = ast_str_dup(ast_str_c(why)); /* NULL, out of memory: the log has it */
    ast_log_fields(AST_LOG_ERROR, CAPSULE_TARGET,
                   serving ? "Failed to load capsule, keeping the one that runs"
                           : "Failed to load capsule",
                   AST_F_STR("capsule", seat->id), AST_F_CSTR("error", why));
    registry_event(r, AST_EVENT_capsule_failed, seat->id, "error", ast_str_c(why));
}

static enum ast_rc reload_manifest(const char *dir, struct ast_manifest **ret)
{
    struct ast_err unused = AST_ERR_INIT;
    return ast_manifest_load(dir, ret, &unused);
}

enum ast_rc registry_seat_load(struct ast_capsules *r, struct capsule_seat *seat,
                               struct ast_manifest *manifest, struct ast_err *err)
{
    AST_AUTO(capsule_unref) struct capsule *c = NULL;
    struct ast_err local = AST_ERR_INIT;

    err = err ? err : &local; /* the event and the log need the text */
    enum ast_rc rc = capsule_prepare(r, seat, seat->dir, manifest, &c, err);
    if (!rc)
        rc = check_roles(r, c, err);
    if (!rc)
        rc = take_seat(r, seat, c, err);
    if (!rc) {
        free(ast_steal(&seat->failure));
        ast_log_fields(AST_LOG_INFO, CAPSULE_TARGET, "Capsule loaded",
                       AST_F_STR("capsule", seat->id), AST_F_BOOL("run_loop", c->env.is_run_loop));
        registry_event(r, AST_EVENT_capsule_loaded, seat->id, "capsule_name", seat->id);
        return AST_OK;
    }
    ast_wrap(err, rc, "Unsupported entry point"); /* spec 05 §2.2 */
    struct ast_manifest *again = NULL;            /* the first went with the failed load */
    struct capsule *shown =
        reload_manifest(seat->dir, &again) ? NULL : capsule_failed_new(r, seat, again);
    note_failure(r, seat, shown, err->msg);
    return rc;
}

void registry_seat_unload(struct ast_capsules *r, struct capsule_seat *seat)
{
    AST_AUTO(capsule_unref) struct capsule *c = seat_replace(seat, NULL);
    struct ast_err err = AST_ERR_INIT;

    if (!c)
        return;
    if (index_rebuild(r, &err)) /* events find an empty seat instead */
        ast_log_warn(CAPSULE_TARGET, "keep the old handler index: %s", err.msg);
    if (c->failed)
        return;
    registry_uuid_remove(r, c);
    stop(c);
    ast_log_fields(AST_LOG_INFO, CAPSULE_TARGET, "Capsule unloaded",
                   AST_F_STR("capsule", seat->id));
    registry_event(r, AST_EVENT_capsule_unloaded, seat->id, "capsule_name", seat->id);
}

/* --- Load passes ------------------------------------------------------------------------------ */

/* Whether a pass has something to do here: nothing serves, a loop is dead, or the files changed. */
static bool needs_load(struct ast_capsules *r, struct capsule_seat *seat, const char *dir)
{
    AST_AUTO(capsule_unref) struct capsule *c = seat_current(seat);
    uint8_t now[AST_BLAKE3_BYTES];

    if (!c || c->failed || capsule_loop_is_dead(c))
        return true;
    capsule_fingerprint(r, dir, seat->id, now);
    return memcmp(now, c->fingerprint, sizeof now) != 0;
}

/* One directory. Takes the manifest. *ret_loaded (a new reference): what came to serve; NULL
 * when nothing changed or the load failed. */
static enum ast_rc load_one(struct ast_capsules *r, const char *dir, struct ast_manifest *manifest,
                            struct capsule **ret_loaded, struct ast_err *err)
{
    struct capsule_seat *seat = NULL;
    char *copy = ast_str_dup(ast_str_c(dir));

    *ret_loaded = NULL;
    enum ast_rc rc = copy ? registry_seat_for(r, manifest->name, &seat, err)
                          : ast_fail(err, AST_E_NO_MEMORY, "capsule");
    if (rc) {
        free(copy);
        ast_manifest_free(manifest);
        return rc;
    }
    free(seat->dir);
    seat->dir = copy;
    if (!needs_load(r, seat, dir)) {
        ast_manifest_free(manifest);
        return AST_OK;
    }
    seat->history =
        (struct seat_restarts){ .tracking = false }; /* somebody asked: the count starts anew */
    rc = registry_seat_load(r, seat, manifest, err);
    if (!rc)
        *ret_loaded = seat_current(seat);
    return rc;
}

/* Capsules of one kind in discovery order, then the wait. */
static void load_group(struct ast_capsules *r, struct ast_discovery *found, bool uplinks)
{
    AST_VEC(struct capsule *) loaded = { 0 };

    for (size_t i = 0; i < found->n; i++) {
        struct ast_err err = AST_ERR_INIT;
        struct capsule *c = NULL;
        if (!found->v[i].manifest || found->v[i].manifest->caps.uplink != uplinks)
            continue;
        /* Failures are logged and published where they happen. */
        (void)load_one(r, found->v[i].dir, ast_steal(&found->v[i].manifest), &c, &err);
        if (c && !ast_vec_push(&loaded, c))
            capsule_unref(c); /* merely not waited for */
    }
    registry_wait_ready(r, loaded.v, loaded.n);
    ast_vec_each (&loaded, c)
        capsule_unref(*c);
    ast_vec_done(&loaded);
}

/* Nothing is there, and no installer is between its two renames (spec 07 §9). */
static bool is_removed(const char *dir)
{
    AST_AUTO(ast_cfree) char *manifest = ast_fs_join(dir, "Capsule.toml");
    AST_AUTO(ast_buf_done) struct ast_buf backup = AST_BUF_INIT(PATH_MAX + 8);

    ast_buf_addf(&backup, "%s.bak", dir);
    return manifest && !backup.fail && !ast_fs_exists(manifest) && !ast_fs_exists(backup.p);
}

/* Capsules whose directory was removed do not outlive a pass. */
static void unload_removed(struct ast_capsules *r)
{
    for (size_t i = 0; i < r->seats.n; i++)
        if (r->seats.v[i]->dir && is_removed(r->seats.v[i]->dir))
            registry_seat_unload(r, r->seats.v[i]);
}

enum ast_rc ast_capsules_load_all(struct ast_capsules *r, struct ast_err *err)
{
    AST_AUTO(ast_discovery_done) struct ast_discovery found = { 0 };

    enum ast_rc rc = ast_discover(r->host->home, r->workspace, &found, err);
    if (rc)
        return rc;
    ast_discovery_sort(&found);
    ast_discovery_validate(&found);
    unload_removed(r);
    load_group(r, &found, /* uplinks= */ true);
    load_group(r, &found, /* uplinks= */ false);
    registry_publish_loaded(r);
    return AST_OK;
}

enum ast_rc ast_capsules_load(struct ast_capsules *r, const char *dir, struct ast_err *err)
{
    struct ast_manifest *manifest = NULL;
    AST_AUTO(capsule_unref) struct capsule *c = NULL;

    enum ast_rc rc = ast_manifest_load(dir, &manifest, err);
    if (!rc)
        rc = load_one(r, dir, manifest, &c, err);
    if (c)
        registry_wait_ready(r, &c, 1);
    return rc;
}

const char *ast_capsules_failure(struct ast_capsules *r, struct ast_str id)
{
    const struct capsule_seat *seat = registry_seat_find(r, id);
    return seat ? seat->failure : NULL;
}

enum ast_rc ast_capsules_try_install(void *capsules, const char *dir, struct ast_err *err)
{
    struct ast_capsules *r = capsules;
    struct ast_manifest *manifest = NULL;
    struct capsule_seat *seat = NULL;
    struct capsule *c = NULL;

    enum ast_rc rc = ast_manifest_load(dir, &manifest, err);
    if (!rc &&
        (rc = seat_new(manifest->name, &seat, err))) /* of its own: nothing serves from here */
        ast_manifest_free(manifest);
    if (!rc)
        rc = capsule_try(r, seat, dir, manifest, &c, err);
    if (!rc)
        rc = check_roles(r, c, err);
    capsule_unref(c);
    seat_free(seat);
    return rc ? ast_wrap(err, rc, "Unsupported entry point") : AST_OK;
}

/* The seat that is loaded from that directory; NULL: none. */
static struct capsule_seat *seat_of_dir(struct ast_capsules *r, const char *dir)
{
    for (size_t i = 0; i < r->seats.n; i++) /* the loader's own table */
        if (r->seats.v[i]->dir && strcmp(r->seats.v[i]->dir, dir) == 0)
            return r->seats.v[i];
    return NULL;
}

static bool sits(struct capsule_seat *seat)
{
    AST_AUTO(capsule_unref) struct capsule *c = seat ? seat_current(seat) : NULL;
    return c != NULL;
}

/* Takes the manifest. */
static enum ast_capsules_notice follow(struct ast_capsules *r, const char *dir,
                                       struct ast_manifest *manifest)
{
    AST_AUTO(capsule_unref) struct capsule *c = NULL;
    struct ast_err err = AST_ERR_INIT;

    if (load_one(r, dir, manifest, &c, &err))
        return AST_CAPSULES_FAILED; /* logged where it happened */
    if (!c)
        return AST_CAPSULES_SAME;
    registry_wait_ready(r, &c, 1);
    return AST_CAPSULES_CHANGED;
}

enum ast_capsules_notice ast_capsules_notice(struct ast_capsules *r, const char *dir, bool is_last)
{
    AST_AUTO(ast_manifest_free) struct ast_manifest *manifest = NULL;
    struct capsule_seat *seat = seat_of_dir(r, dir);
    enum ast_capsules_notice notice;
    struct ast_err err = AST_ERR_INIT;

    if (is_removed(dir)) {
        if (!sits(seat))
            return AST_CAPSULES_SAME;
        registry_seat_unload(r, seat);
        registry_publish_loaded(r);
        return AST_CAPSULES_CHANGED;
    }
    if (ast_manifest_load(dir, &manifest, &err)) {
        if (!is_last)
            return AST_CAPSULES_UNSETTLED;
        if (seat)
            note_failure(r, seat, NULL, err.msg);
        else
            ast_log_warn(CAPSULE_TARGET, "ignoring what lies in %s: %s", dir, err.msg);
        return AST_CAPSULES_FAILED;
    }
    struct capsule_seat *named = registry_seat_find(r, manifest->name);
    if (named && named != seat && sits(named)) /* the other directory goes first */
        return AST_CAPSULES_SAME;
    if (named && !needs_load(r, named, dir))
        return AST_CAPSULES_SAME;
    if (!is_last && !capsule_is_settled(r, dir, manifest))
        return AST_CAPSULES_UNSETTLED;
    if (seat && seat != named && sits(seat)) /* the directory holds another capsule now */
        registry_seat_unload(r, seat);
    notice = follow(r, dir, ast_steal(&manifest));
    if (notice == AST_CAPSULES_CHANGED)
        registry_publish_loaded(r);
    return notice;
}

enum ast_rc ast_capsules_unload(struct ast_capsules *r, struct ast_str id, struct ast_err *err)
{
    struct capsule_seat *seat = registry_seat_find(r, id);
    struct capsule *c = seat ? seat_current(seat) : NULL;
    if (!c)
        return ast_fail(err, AST_E_NOT_FOUND, "Not found: " AST_STR_FMT, AST_STR_ARG(id));
    capsule_unref(c);
    seat->history = (struct seat_restarts){ .tracking = false };
    registry_seat_unload(r, seat);
    return AST_OK;
}
