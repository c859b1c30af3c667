/* Finding installed capsules and the order to load them in. A broken manifest costs its own capsule, nothing else. */
#include "capsule/discover.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/vec.h"

#include "base/banned.h"

#define TARGET "astrid.capsule"

static void discovered_done(struct ast_discovered *d)
{
    free(d->dir);
    ast_manifest_free(d->manifest);
}

void ast_discovery_done(struct ast_discovery *d)
{
    for (size_t i = 0; i < d->n; i++)
        discovered_done(&d->v[i]);
    free(d->v);
    *d = (struct ast_discovery){ 0 };
}

static bool known(const struct ast_discovery *d, struct ast_str name)
{
    for (size_t i = 0; i < d->n; i++)
        if (ast_str_eq(d->v[i].manifest->name, name))
            return true;
    return false;
}

/* Takes `dir`. */
static enum ast_rc add_candidate(struct ast_discovery *d, char *dir, struct ast_err *err)
{
    struct ast_discovered found = { .dir = dir };
    struct ast_err why = AST_ERR_INIT;

    if (ast_manifest_load(dir, &found.manifest, &why)) {
        ast_log_fields(AST_LOG_WARN, TARGET, "Skipping capsule with a broken manifest",
                       AST_F_CSTR("dir", dir), AST_F_CSTR("error", why.msg));
        discovered_done(&found);
        return AST_OK;
    }
    if (known(d, found.manifest->name)) {
        ast_log_fields(AST_LOG_WARN, TARGET,
                       "Skipping duplicate capsule (higher-priority version already loaded)",
                       AST_F_STR("capsule", found.manifest->name), AST_F_CSTR("dir", dir));
        discovered_done(&found);
        return AST_OK;
    }
    struct ast_discovered *grown = realloc(d->v, (d->n + 1) * sizeof *grown);
    if (!grown) {
        discovered_done(&found);
        return ast_fail(err, AST_E_NO_MEMORY, "capsules");
    }
    d->v = grown;
    d->v[d->n++] = found;
    return AST_OK;
}

/* Backups and staging folders of the installer hold the same name as the capsule they belong to. */
static int is_candidate(const struct dirent *e)
{
    struct ast_str name = ast_str_c(e->d_name);
    return name.n && name.p[0] != '.' && !ast_str_ends(name, AST_STR(".bak"));
}

static enum ast_rc scan_dir(const char *dir, struct ast_discovery *d, struct ast_err *err)
{
    struct dirent **entries = NULL;
    enum ast_rc rc = AST_OK;

    int n = scandir(dir, &entries, is_candidate, alphasort);
    if (n < 0)
        return errno == ENOENT
                   ? AST_OK
                   : ast_fail_errno(err, ast_rc_from_errno(errno), errno, "read %s", dir);
    for (int i = 0; i < n; i++) {
        char *path = rc ? NULL : ast_fs_join(dir, entries[i]->d_name);
        AST_AUTO(ast_cfree) char *manifest = path ? ast_fs_join(path, "Capsule.toml") : NULL;
        if (manifest && ast_fs_is_dir(path) && ast_fs_exists(manifest))
            rc = add_candidate(d, path, err);
        else if (!rc && (!path || !manifest))
            rc = ast_fail(err, AST_E_NO_MEMORY, "capsules");
        else
            free(path);
        free(entries[i]);
    }
    free(entries);
    return rc;
}

enum ast_rc ast_discover(const struct ast_home *home, const char *workspace,
                         struct ast_discovery *ret, struct ast_err *err)
{
    AST_AUTO(ast_discovery_done) struct ast_discovery d = { 0 };
    AST_AUTO(ast_cfree) char *user = ast_home_path(home, "home/default/.local/capsules");
    AST_AUTO(ast_cfree)
    char *project = workspace ? ast_fs_join(workspace, ".astrid/capsules") : NULL;

    if (!user || (workspace && !project))
        return ast_fail(err, AST_E_NO_MEMORY, "capsules");
    enum ast_rc rc = scan_dir(user, &d, err);
    if (!rc && project)
        rc = scan_dir(project, &d, err);
    if (rc)
        return rc;
    *ret = d;
    d = (struct ast_discovery){ 0 };
    return AST_OK;
}

/* ---- order ---- */

static bool satisfies(const struct ast_manifest_interface *import,
                      const struct ast_manifest_interface *export)
{
    struct ast_semver_req req;
    struct ast_semver version;

    return ast_str_eq(import->ns, export->ns) && ast_str_eq(import->name, export->name) &&
           !ast_semver_req_parse(import->version, &req, NULL) &&
           !ast_semver_parse(export->version, &version, NULL) && ast_semver_matches(&req, &version);
}

static bool exports_for(const struct ast_manifest *provider,
                        const struct ast_manifest_interface *import)
{
    for (size_t i = 0; i < provider->export_count; i++)
        if (satisfies(import, &provider->exports[i]))
            return true;
    return false;
}

/* Edges provider -> importer as a bit matrix: n is the number of installed capsules, tens in practice. */
struct graph {
    size_t n;
    bool *edge;      /* edge[provider * n + importer] */
    size_t *waiting; /* providers still to come, per importer */
};

static bool graph_init(struct graph *g, size_t n)
{
    g->n = n;
    g->edge = calloc(n * n, sizeof *g->edge);
    g->waiting = calloc(n, sizeof *g->waiting);
    return g->edge && g->waiting;
}

static void graph_done(struct graph *g)
{
    free(g->edge);
    free(g->waiting);
}

static void graph_fill(struct graph *g, const struct ast_discovery *d)
{
    for (size_t c = 0; c < d->n; c++) {
        const struct ast_manifest *m = d->v[c].manifest;
        for (size_t i = 0; i < m->import_count; i++) {
            bool provided = false;
            for (size_t p = 0; p < d->n; p++) {
                if (p == c || !exports_for(d->v[p].manifest, &m->imports[i]))
                    continue;
                provided = true;
                if (!g->edge[p * g->n + c])
                    g->waiting[c]++;
                g->edge[p * g->n + c] = true;
            }
            if (!provided)
                ast_log_fields(
                    AST_LOG_WARN, TARGET, "Imported interface not exported by any loaded capsule",
                    AST_F_STR("capsule", m->name), AST_F_STR("namespace", m->imports[i].ns),
                    AST_F_STR("interface", m->imports[i].name));
        }
    }
}

/* Kahn's algorithm with a first-in first-out ready queue seeded in discovery order; returns how many came out. */
static size_t graph_order(struct graph *g, size_t *order)
{
    size_t head = 0, tail = 0;

    for (size_t i = 0; i < g->n; i++)
        if (g->waiting[i] == 0)
            order[tail++] = i;
    while (head < tail) {
        size_t p = order[head++];
        for (size_t c = 0; c < g->n; c++)
            if (g->edge[p * g->n + c] && --g->waiting[c] == 0)
                order[tail++] = c;
    }
    return tail;
}

static void report_cycle(const struct graph *g, const struct ast_discovery *d)
{
    AST_AUTO(ast_buf_done) struct ast_buf names = AST_BUF_INIT(4096);

    for (size_t i = 0; i < g->n; i++)
        if (g->waiting[i])
            ast_buf_addf(&names, "%s" AST_STR_FMT, names.n ? ", " : "",
                         AST_STR_ARG(d->v[i].manifest->name));
    ast_log_error(TARGET,
                  "dependency cycle detected (involved nodes: %s); loading in discovery order",
                  names.p ? names.p : "");
}

static void partition_uplinks(struct ast_discovery *d, const size_t *order,
                              struct ast_discovered *out)
{
    size_t n = 0;

    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < d->n; i++)
            if (d->v[order[i]].manifest->caps.uplink == (pass == 0))
                out[n++] = d->v[order[i]];
}

void ast_discovery_sort(struct ast_discovery *d)
{
    struct graph g = { 0 };
    size_t *order = calloc(d->n + 1, sizeof *order);
    struct ast_discovered *out = calloc(d->n + 1, sizeof *out);

    if (d->n > 1 && order && out && graph_init(&g, d->n)) {
        graph_fill(&g, d);
        if (graph_order(&g, order) < d->n) {
            report_cycle(&g, d);
            for (size_t i = 0; i < d->n; i++)
                order[i] = i;
        }
        partition_uplinks(d, order, out);
        memcpy(d->v, out, d->n * sizeof *out);
    }
    graph_done(&g);
    free(order);
    free(out);
}

static size_t count_exporters(const struct ast_discovery *d, const struct ast_manifest_interface *e)
{
    size_t n = 0;

    for (size_t c = 0; c < d->n; c++)
        for (size_t i = 0; i < d->v[c].manifest->export_count; i++)
            n += ast_str_eq(d->v[c].manifest->exports[i].ns, e->ns) &&
                 ast_str_eq(d->v[c].manifest->exports[i].name, e->name);
    return n;
}

/* A capsule's own export counts here (spec 07 §4.3). */
static bool provided(const struct ast_discovery *d, const struct ast_manifest_interface *import)
{
    for (size_t c = 0; c < d->n; c++)
        if (exports_for(d->v[c].manifest, import))
            return true;
    return false;
}

static size_t check_imports(const struct ast_discovery *d, const struct ast_manifest *m,
                            size_t *satisfied)
{
    size_t problems = 0;

    for (size_t i = 0; i < m->import_count; i++) {
        const struct ast_manifest_interface *import = &m->imports[i];
        if (provided(d, import)) {
            ++*satisfied;
            continue;
        }
        problems += !import->optional;
        ast_log_fields(
            import->optional ? AST_LOG_INFO : AST_LOG_ERROR, TARGET,
            import->optional
                ? "Optional import not satisfied \xe2\x80\x94 capsule will boot with reduced functionality"
                : "Required import not satisfied \xe2\x80\x94 no loaded capsule exports this interface",
            AST_F_STR("capsule", m->name), AST_F_STR("namespace", import->ns),
            AST_F_STR("interface", import->name), AST_F_STR("requirement", import->version));
    }
    return problems;
}

void ast_discovery_validate(const struct ast_discovery *d)
{
    size_t satisfied = 0, warnings = 0;

    for (size_t c = 0; c < d->n; c++) {
        const struct ast_manifest *m = d->v[c].manifest;
        for (size_t i = 0; i < m->export_count; i++) {
            if (count_exporters(d, &m->exports[i]) < 2)
                continue;
            warnings++;
            ast_log_fields(
                AST_LOG_WARN, TARGET,
                "Multiple capsules export the same interface \xe2\x80\x94 events may be double-processed. "
                "Consider removing one with `astrid capsule remove`.",
                AST_F_STR("namespace", m->exports[i].ns),
                AST_F_STR("interface", m->exports[i].name), AST_F_STR("provider", m->name));
        }
        warnings += check_imports(d, m, &satisfied);
    }
    ast_log_fields(AST_LOG_INFO, TARGET, "Boot validation complete", AST_F_U64("capsules", d->n),
                   AST_F_U64("imports_satisfied", satisfied), AST_F_U64("warnings", warnings));
}
