/* A snapshot of activity as JSON: the answer of GetActivity.
 *
 *   {"capsules":[{"capsule":..,"state":..,..}],"capsules_total":N,"other":{..},"pid":N,
 *    "principals":[{"principal":..,..}],"principals_total":N,"scope":"all"|"own","sort":..,
 *    "taken_ms":N,"uptime_secs":N,"version":..}
 *
 * taken_ms is the daemon's monotonic clock: rates come from the difference of two answers with
 * the same pid. With scope "own" capsules have no figures but the asker's own queue, and `other`
 * is absent.
 */
#include <unistd.h>

#include "base/time.h"
#include "kernel/kernel_priv.h"

#include "base/banned.h"

static const struct ast_str states[] = {
    [AST_ACTIVITY_READY] = AST_STR("ready"),
    [AST_ACTIVITY_STARTING] = AST_STR("starting"),
    [AST_ACTIVITY_FAILED] = AST_STR("failed"),
};

static void write_totals(struct ast_jw *w, const struct ast_activity_figures *f)
{
    ast_jw_kv_u64(w, "calls", f->calls);
    ast_jw_kv_u64(w, "cpu_fuel", f->cpu_fuel);
    ast_jw_kv_u64(w, "dropped", f->dropped);
    ast_jw_kv_u64(w, "failures", f->failures);
    ast_jw_kv_u64(w, "memory_peak_bytes", f->memory_peak_bytes);
}

static void write_now(struct ast_jw *w, const struct ast_activity_figures *f)
{
    ast_jw_kv_u64(w, "queued", f->queued);
    ast_jw_kv_u64(w, "running", f->running);
}

static void write_capsule(struct ast_jw *w, const struct ast_activity_capsule *c, bool everybody)
{
    ast_jw_object(w);
    ast_jw_kv_string(w, "capsule", c->id);
    if (everybody) {
        write_totals(w, &c->f);
        ast_jw_kv_u64(w, "instances", c->instances);
    }
    ast_jw_kv_bool(w, "is_run_loop", c->is_run_loop);
    write_now(w, &c->f);
    if (everybody)
        ast_jw_kv_u64(w, "restarts", c->restarts);
    ast_jw_kv_string(w, "state", states[c->state]);
    ast_jw_end(w);
}

static void write_principal(struct ast_jw *w, const struct ast_activity_principal *p)
{
    ast_jw_object(w);
    write_totals(w, &p->f);
    ast_jw_kv_string(w, "principal", ast_principal_str(&p->name));
    write_now(w, &p->f);
    ast_jw_kv_u64(w, "throttled", p->throttled);
    ast_jw_end(w);
}

void kernel_activity_json(const struct ast_kernel *k, const struct ast_activity *a,
                          struct ast_str sort, struct ast_jw *w)
{
    ast_jw_object(w);
    ast_jw_key(w, AST_STR("capsules"));
    ast_jw_array(w);
    for (size_t i = 0; i < a->capsule_count; i++)
        write_capsule(w, &a->capsules[i], a->everybody);
    ast_jw_end(w);
    ast_jw_kv_u64(w, "capsules_total", a->capsules_total);
    if (a->everybody) {
        ast_jw_key(w, AST_STR("other"));
        ast_jw_object(w);
        write_totals(w, &a->other);
        write_now(w, &a->other);
        ast_jw_kv_u64(w, "throttled", a->other_throttled);
        ast_jw_end(w);
    }
    ast_jw_kv_u64(w, "pid", (uint64_t)getpid());
    ast_jw_key(w, AST_STR("principals"));
    ast_jw_array(w);
    for (size_t i = 0; i < a->principal_count; i++)
        write_principal(w, &a->principals[i]);
    ast_jw_end(w);
    ast_jw_kv_u64(w, "principals_total", a->principals_total);
    ast_jw_kv_string(w, "scope", a->everybody ? AST_STR("all") : AST_STR("own"));
    ast_jw_kv_string(w, "sort", sort);
    ast_jw_kv_u64(w, "taken_ms", (uint64_t)(a->taken_ns / AST_NS_PER_MS));
    ast_jw_kv_u64(w, "uptime_secs", (uint64_t)((a->taken_ns - k->booted_ns) / AST_NS_PER_SEC));
    ast_jw_kv_string(w, "version", ast_str_c(k->version));
    ast_jw_end(w);
}
