/* The install pipeline (spec 07 §9): check everything, stage beside the target, run the hook, write meta.json, swap with
 * renames. A crash at any point leaves the old install or the new one; a leftover backup is put back at the next run. */
#include "capsule/install.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/time.h"
#include "base/uuid.h"
#include "capsule/discover.h"
#include "capsule/meta.h"
#include "capsule/tree.h"
#include "crypto/hash.h"
#include "wasm/component.h"

#include "base/banned.h"

#define INSTALL_MEMORY (16u * 1024 * 1024)

/* One install in progress; everything in it is released by install_done(). */
struct install {
    const struct ast_home *home;
    const struct ast_install_options *opt;
    const char *source; /* the folder to install from */
    struct ast_manifest *manifest;
    struct ast_meta *previous; /* NULL: first install */
    struct ast_meta meta;      /* what will be written; strings borrow from manifest and arena */
    struct ast_buf wasm;       /* the component's bytes */
    char hash[AST_BLAKE3_HEX];
    char *capsules, *target, *staging, *backup;
    int lock; /* flock of <capsules>/.lock */
    struct ast_arena arena;
};

static void install_done(struct install *in)
{
    ast_manifest_free(in->manifest);
    ast_meta_free(in->previous);
    ast_buf_done(&in->wasm);
    if (in->staging)
        (void)ast_fs_remove_tree(in->staging, NULL); /* gone already after a success */
    free(in->capsules);
    free(in->target);
    free(in->staging);
    free(in->backup);
    if (in->lock >= 0)
        close(in->lock);
    ast_arena_done(&in->arena);
}
AST_DEFINE_AUTO_VALUE(struct install, install_done)

static void tell(const struct install *in, const char *fmt, ...) AST_PRINTF(2, 3);
static void tell(const struct install *in, const char *fmt, ...)
{
    char line[512];
    va_list ap;

    if (!in->opt->progress)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    in->opt->progress(in->opt->progress_arg, line);
}

/* ---- step 1 to 3: manifest, id, paths, lock ---- */

static enum ast_rc load_manifest(struct install *in, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(in->source, "Capsule.toml");
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "install");
    if (!ast_fs_exists(path))
        return ast_fail(err, AST_E_NOT_FOUND, "No Capsule.toml found in %s", in->source);
    enum ast_rc rc = ast_manifest_load(in->source, &in->manifest, err);
    if (rc)
        return ast_wrap(err, rc, "failed to load Capsule manifest");
    rc = ast_capsule_id_check(in->manifest->name, err);
    return rc ? ast_wrap(err, rc, "Unsupported entry point") : AST_OK;
}

static enum ast_rc set_paths(struct install *in, struct ast_err *err)
{
    const char *id = in->manifest->name.p;
    struct ast_uuid nonce = ast_uuid_v4();
    char text[AST_UUID_TEXT];

    in->capsules = in->opt->workspace ? ast_fs_join(in->opt->workspace, ".astrid/capsules")
                                      : ast_home_path(in->home, "home/default/.local/capsules");
    if (!in->capsules)
        return ast_fail(err, AST_E_NO_MEMORY, "install");
    ast_uuid_format(&nonce, text);
    in->target = ast_fs_join(in->capsules, id);
    in->staging = ast_fs_joinf(in->capsules, ".%s.%s", id, text);
    in->backup = ast_fs_joinf(in->capsules, "%s.bak", id);
    if (!in->target || !in->staging || !in->backup)
        return ast_fail(err, AST_E_NO_MEMORY, "install");
    enum ast_rc rc = in->opt->workspace ? AST_OK : ast_home_ensure(in->home, err);
    return rc ? rc : ast_fs_mkdirs(in->capsules, 0700, err);
}

static enum ast_rc take_lock(struct install *in, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_join(in->capsules, ".lock");
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "install");
    in->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (in->lock < 0)
        return ast_fail_errno(err, AST_E_IO, errno, "open %s", path);
    while (flock(in->lock, LOCK_EX))
        if (errno != EINTR)
            return ast_fail_errno(err, AST_E_IO, errno, "lock %s", path);
    return AST_OK;
}

/* A crash between the two renames left only the backup: it is the install. */
static enum ast_rc recover(struct install *in, struct ast_err *err)
{
    if (!ast_fs_exists(in->backup))
        return AST_OK;
    if (ast_fs_exists(in->target)) {
        enum ast_rc rc = ast_fs_remove_tree(in->backup, err);
        return rc ? ast_wrap(err, rc, "failed to remove stale backup %s", in->backup) : AST_OK;
    }
    if (rename(in->backup, in->target))
        return ast_fail_errno(err, AST_E_IO, errno, "failed to rename %s \xe2\x86\x92 %s",
                              in->backup, in->target);
    return AST_OK;
}

/* ---- step 5: the component ---- */

/* The component's path must stay inside the source folder. */
static enum ast_rc component_path(struct install *in, char **ret, struct ast_err *err)
{
    struct ast_str file = in->manifest->components[0].file;
    AST_AUTO(ast_cfree) char *joined = ast_fs_join(in->source, file.p);
    AST_AUTO(ast_cfree) char *root = realpath(in->source, NULL);
    AST_AUTO(ast_cfree) char *real = joined ? realpath(joined, NULL) : NULL;

    if (!joined || !root)
        return ast_fail(err, AST_E_NO_MEMORY, "install");
    if (file.n && file.p[0] == '/')
        return ast_fail(err, AST_E_DENIED,
                        "component '" AST_STR_FMT "' lies outside the capsule source folder",
                        AST_STR_ARG(file));
    if (!real)
        return ast_fail(err, AST_E_NOT_FOUND,
                        "component '" AST_STR_FMT "' is missing from %s; build the capsule first",
                        AST_STR_ARG(file), in->source);
    struct ast_str r = ast_str_c(real), base = ast_str_c(root);
    if (!ast_str_starts(r, base) || r.n <= base.n || r.p[base.n] != '/')
        return ast_fail(err, AST_E_DENIED,
                        "component '" AST_STR_FMT "' lies outside the capsule source folder",
                        AST_STR_ARG(file));
    if (!ast_str_ends(r, AST_STR(".wasm")))
        return ast_fail(err, AST_E_INVALID, "component '" AST_STR_FMT "' is not a .wasm file",
                        AST_STR_ARG(file));
    *ret = ast_steal(&real);
    return AST_OK;
}

static enum ast_rc address_component(struct install *in, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = NULL;
    struct ast_component scan;

    if (in->manifest->component_count == 0)
        return AST_OK;
    enum ast_rc rc = component_path(in, &path, err);
    if (!rc)
        rc = ast_fs_read(path, AST_COMPONENT_MAX_BYTES, &in->wasm, err);
    if (!rc)
        rc = ast_component_scan(ast_buf_view(&in->wasm), &scan, err);
    if (rc)
        return ast_wrap(err, rc, "failed to content-address WASM binary");
    struct ast_str want = in->manifest->components[0].hash;
    char have[AST_BLAKE3_HEX];
    ast_blake3_hex(ast_buf_view(&in->wasm), have);
    if (want.n && !ast_str_eq(want, ast_str_c(have)))
        return ast_fail(err, AST_E_CORRUPT,
                        "component hash mismatch: the manifest names BLAKE3 " AST_STR_FMT
                        ", the file has %s",
                        AST_STR_ARG(want), have);
    rc = capsule_blob_store(in->home, AST_HOME_BIN, "wasm", ast_buf_view(&in->wasm), in->hash, err);
    return rc ? ast_wrap(err, rc, "failed to content-address WASM binary") : AST_OK;
}

/* ---- meta.json ---- */

static enum ast_rc canonical_imports(struct install *in, struct ast_err *err)
{
    size_t n = in->manifest->import_count;
    struct ast_manifest_interface *out = ast_arena_array(&in->arena, n, sizeof *out);
    if (!out)
        return ast_arena_check(&in->arena, err);
    for (size_t i = 0; i < n; i++) {
        AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(4096);
        struct ast_semver_req req;
        out[i] = in->manifest->imports[i];
        enum ast_rc rc = ast_semver_req_parse(out[i].version, &req, err);
        if (rc)
            return rc;
        ast_semver_req_print(&req, &text);
        out[i].version = ast_arena_dup(&in->arena, ast_buf_view(&text));
    }
    in->meta.imports = out;
    in->meta.import_count = n;
    return ast_arena_check(&in->arena, err);
}

static enum ast_rc fill_meta(struct install *in, struct ast_str source, struct ast_err *err)
{
    char stamp[AST_RFC3339_BYTES];
    struct ast_str now =
        ast_arena_dup(&in->arena, ast_time_format(ast_wall_ns(), AST_TIME_OFFSET, stamp));

    in->meta.version = in->manifest->version;
    in->meta.installed_at = in->previous ? in->previous->installed_at : now;
    in->meta.updated_at = now;
    in->meta.source = source.n ? source : in->previous ? in->previous->source : AST_STR_NONE;
    in->meta.exports = in->manifest->exports;
    in->meta.export_count = in->manifest->export_count;
    in->meta.wasm_hash = ast_str_c(in->hash);
    return canonical_imports(in, err);
}

/* ---- swapping ---- */

static enum ast_rc sync_dir(const char *path, struct ast_err *err)
{
    AST_AUTO(ast_fs_close) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        return ast_fail_errno(err, AST_E_IO, errno, "sync %s", path);
    return AST_OK;
}

static enum ast_rc swap(struct install *in, struct ast_err *err)
{
    bool had = ast_fs_exists(in->target);

    if (had && rename(in->target, in->backup))
        return ast_fail_errno(err, AST_E_IO, errno, "failed to rename %s \xe2\x86\x92 %s",
                              in->target, in->backup);
    if (rename(in->staging, in->target)) {
        int why = errno;
        if (had && rename(in->backup, in->target))
            return ast_fail_errno(err, AST_E_IO, errno,
                                  "rollback failed; the previous install is at %s", in->backup);
        return ast_fail_errno(err, AST_E_IO, why, "failed to rename %s \xe2\x86\x92 %s",
                              in->staging, in->target);
    }
    enum ast_rc rc = sync_dir(in->capsules, err);
    if (!rc && had && ast_fs_remove_tree(in->backup, err))
        tell(in, "the backup %s could not be removed; it is skipped at load", in->backup);
    return rc;
}

/* A load reads meta.json, so the staged folder needs it. Before the hook, whose effects nobody takes back. */
static enum ast_rc try_load(struct install *in, struct ast_err *err)
{
    enum ast_rc rc = ast_meta_save(in->staging, &in->meta, err);
    return rc ? rc : in->opt->try_load(in->opt->try_load_arg, in->staging, err);
}

static enum ast_rc run_hook(struct install *in, struct ast_err *err)
{
    struct ast_component scan;

    if (in->wasm.n == 0)
        return AST_OK;
    enum ast_rc rc = ast_component_scan(ast_buf_view(&in->wasm), &scan, err);
    if (rc || !(in->previous ? scan.has_upgrade : scan.has_install))
        return rc;
    if (!in->opt->run_hook)
        return ast_fail(
            err, AST_E_UNSUPPORTED,
            "lifecycle dispatch failed: this capsule has an install hook; start the daemon (`astrid start`) "
            "and install again");
    tell(in, "running the %s hook", in->previous ? "upgrade" : "install");
    rc = in->opt->run_hook(in->opt->run_hook_arg, in->manifest, ast_buf_view(&in->wasm),
                           in->staging, in->previous != NULL,
                           in->previous ? in->previous->version : AST_STR_NONE, err);
    return rc ? ast_wrap(err, rc, "lifecycle dispatch failed") : AST_OK;
}

/* ---- the result ---- */

static char *dup_or_null(struct ast_str s)
{
    return s.n ? ast_str_dup(s) : NULL;
}

/* Compares with what other installed capsules recorded. */
static enum ast_rc compare_others(struct install *in, struct ast_install_result *r,
                                  struct ast_err *err)
{
    AST_AUTO(ast_discovery_done) struct ast_discovery others = { 0 };
    struct ast_arena *arena = calloc(1, sizeof *arena);
    const struct ast_manifest *m = in->manifest;

    if (!arena)
        return ast_fail(err, AST_E_NO_MEMORY, "install");
    arena->max = INSTALL_MEMORY;
    r->memory = arena;
    enum ast_rc rc = ast_discover(in->home, in->opt->workspace, &others, err);
    if (rc)
        return rc;
    r->missing_imports = ast_arena_array(arena, m->import_count, sizeof *r->missing_imports);
    r->export_conflicts =
        ast_arena_array(arena, m->export_count * (others.n + 1), sizeof *r->export_conflicts);
    if (!r->missing_imports || !r->export_conflicts)
        return ast_arena_check(arena, err);

    for (size_t i = 0; i < m->import_count && !in->opt->skip_import_check; i++) {
        bool found = m->imports[i].optional;
        struct ast_semver_req req;
        rc = ast_semver_req_parse(m->imports[i].version, &req, err);
        if (rc)
            return rc;
        for (size_t o = 0; o < others.n && !found; o++) {
            const struct ast_manifest *other = others.v[o].manifest;
            for (size_t e = 0;
                 e < other->export_count && !found && !ast_str_eq(other->name, m->name); e++) {
                struct ast_semver v;
                found = ast_str_eq(other->exports[e].ns, m->imports[i].ns) &&
                        ast_str_eq(other->exports[e].name, m->imports[i].name) &&
                        !ast_semver_parse(other->exports[e].version, &v, NULL) &&
                        ast_semver_matches(&req, &v);
            }
        }
        if (!found)
            r->missing_imports[r->missing_import_count++] = (struct ast_manifest_interface){
                .ns = ast_arena_dup(arena, in->meta.imports[i].ns),
                .name = ast_arena_dup(arena, in->meta.imports[i].name),
                .version = ast_arena_dup(arena, in->meta.imports[i].version),
            };
    }
    for (size_t i = 0; i < m->export_count; i++)
        for (size_t o = 0; o < others.n; o++) {
            const struct ast_manifest *other = others.v[o].manifest;
            if (ast_str_eq(other->name, m->name))
                continue;
            for (size_t e = 0; e < other->export_count; e++) {
                if (!ast_str_eq(other->exports[e].ns, m->exports[i].ns) ||
                    !ast_str_eq(other->exports[e].name, m->exports[i].name))
                    continue;
                r->export_conflicts[r->export_conflict_count].interface =
                    ast_arena_fmt(arena, AST_STR_FMT "/" AST_STR_FMT, AST_STR_ARG(m->exports[i].ns),
                                  AST_STR_ARG(m->exports[i].name));
                r->export_conflicts[r->export_conflict_count++].existing_capsule =
                    ast_arena_dup(arena, other->name);
            }
        }
    return ast_arena_check(arena, err);
}

static enum ast_rc fill_result(struct install *in, struct ast_install_result *r,
                               struct ast_err *err)
{
    r->target_dir = ast_str_dup(ast_str_c(in->target));
    r->upgrade = in->previous != NULL;
    r->capsule_id = ast_str_dup(in->manifest->name);
    r->installed_version = ast_str_dup(in->manifest->version);
    r->previous_version = in->previous ? dup_or_null(in->previous->version) : NULL;
    r->wasm_hash = dup_or_null(ast_str_c(in->hash));
    r->env_path =
        ast_home_path(in->home, "home/default/.config/env/%s.env.json", in->manifest->name.p);
    if (!r->target_dir || !r->capsule_id || !r->installed_version || !r->env_path)
        return ast_fail(err, AST_E_NO_MEMORY, "install");
    r->env_needs_prompt = in->manifest->env_count && !ast_fs_exists(r->env_path);
    return AST_OK;
}

void ast_install_result_done(struct ast_install_result *r)
{
    free(r->target_dir);
    free(r->capsule_id);
    free(r->installed_version);
    free(r->previous_version);
    free(r->wasm_hash);
    free(r->env_path);
    if (r->memory)
        ast_arena_done(r->memory);
    free(r->memory);
    *r = (struct ast_install_result){ 0 };
}

static void key_or_null(struct ast_jw *w, const char *key, const char *value)
{
    ast_jw_key(w, ast_str_c(key));
    if (value)
        ast_jw_string(w, ast_str_c(value));
    else
        ast_jw_null(w);
}

enum ast_rc ast_install_result_json(const struct ast_install_result *r, struct ast_buf *out)
{
    struct ast_jw w = AST_JW_INIT(out);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "target_dir", ast_str_c(r->target_dir));
    ast_jw_kv_string(&w, "phase", r->upgrade ? AST_STR("upgrade") : AST_STR("install"));
    ast_jw_kv_string(&w, "installed_version", ast_str_c(r->installed_version));
    key_or_null(&w, "previous_version", r->previous_version);
    key_or_null(&w, "wasm_hash", r->wasm_hash);
    ast_jw_kv_string(&w, "env_path", ast_str_c(r->env_path));
    ast_jw_kv_bool(&w, "env_needs_prompt", r->env_needs_prompt);
    ast_jw_key(&w, AST_STR("missing_imports"));
    ast_jw_array(&w);
    for (size_t i = 0; i < r->missing_import_count; i++) {
        ast_jw_object(&w);
        ast_jw_kv_string(&w, "namespace", r->missing_imports[i].ns);
        ast_jw_kv_string(&w, "interface", r->missing_imports[i].name);
        ast_jw_kv_string(&w, "requirement", r->missing_imports[i].version);
        ast_jw_end(&w);
    }
    ast_jw_end(&w);
    ast_jw_key(&w, AST_STR("export_conflicts"));
    ast_jw_array(&w);
    for (size_t i = 0; i < r->export_conflict_count; i++) {
        ast_jw_object(&w);
        ast_jw_kv_string(&w, "interface", r->export_conflicts[i].interface);
        ast_jw_kv_string(&w, "existing_capsule", r->export_conflicts[i].existing_capsule);
        ast_jw_end(&w);
    }
    ast_jw_end(&w);
    ast_jw_end(&w);
    return out->fail;
}

/* ---- the pipeline ---- */

static enum ast_rc install_dir(struct install *in, struct ast_str source_text,
                               struct ast_install_result *ret, struct ast_err *err)
{
    struct ast_err ignored = AST_ERR_INIT;
    AST_AUTO(ast_install_result_done) struct ast_install_result r = { 0 };
    enum ast_rc rc = load_manifest(in, err);

    if (!rc)
        rc = set_paths(in, err);
    if (!rc)
        rc = take_lock(in, err);
    if (!rc)
        rc = recover(in, err);
    if (rc)
        return rc;
    /* No readable metadata: a first install, even if files are there (spec 07 §9 step 4). */
    if (ast_meta_load(in->target, &in->previous, &ignored))
        in->previous = NULL;
    tell(in, "%s " AST_STR_FMT " " AST_STR_FMT, in->previous ? "upgrading" : "installing",
         AST_STR_ARG(in->manifest->name), AST_STR_ARG(in->manifest->version));
    rc = address_component(in, err);
    if (!rc && (rc = capsule_wit_store(in->home, in->source, &in->arena, &in->meta, err)))
        ast_wrap(err, rc, "failed to content-address WIT files");
    if (!rc)
        rc = fill_meta(in, source_text, err);
    if (!rc)
        rc = compare_others(in, &r, err);
    if (!rc && (rc = capsule_tree_copy(in->source, in->staging, err)))
        ast_wrap(err, rc, "failed to copy capsule source to target");
    if (!rc && in->opt->try_load)
        rc = try_load(in, err);
    if (!rc)
        rc = run_hook(in, err);
    if (!rc) /* after the hook: what is committed is ours, whatever it did to the folder */
        rc = ast_meta_save(in->staging, &in->meta, err);
    if (!rc)
        rc = fill_result(in, &r, err);
    if (!rc)
        rc = swap(in, err);
    if (rc)
        return rc;
    *ret = r;
    r = (struct ast_install_result){ 0 };
    return AST_OK;
}

static enum ast_rc unpack_to_temp(const char *archive, char **ret_dir, struct ast_err *err)
{
    const char *base = getenv("TMPDIR");
    AST_AUTO(ast_cfree)
    char *dir = ast_fs_join(base && base[0] == '/' ? base : "/tmp", "astrid-install-XXXXXX");
    if (!dir)
        return ast_fail(err, AST_E_NO_MEMORY, "install");
    if (!mkdtemp(dir)) /* mode 0700 */
        return ast_fail_errno(err, AST_E_IO, errno, "create a temporary folder");
    enum ast_rc rc = ast_archive_unpack(archive, dir, err);
    if (rc)
        (void)ast_fs_remove_tree(dir, NULL);
    else
        *ret_dir = ast_steal(&dir);
    return rc;
}

enum ast_rc ast_install(const struct ast_home *home, const char *path,
                        const struct ast_install_options *opt, struct ast_install_result *ret,
                        struct ast_err *err)
{
    AST_AUTO(install_done)
    struct install in = {
        .home = home,
        .opt = opt,
        .lock = -1,
        .wasm = AST_BUF_INIT(AST_COMPONENT_MAX_BYTES),
        .arena = AST_ARENA_INIT(INSTALL_MEMORY),
    };
    struct ast_str source_text = opt->source.n ? opt->source : ast_str_c(path);
    AST_AUTO(ast_cfree) char *unpacked = NULL;

    if (ast_fs_is_dir(path)) {
        in.source = path;
        return install_dir(&in, source_text, ret, err);
    }
    if (!ast_fs_exists(path))
        return ast_fail(err, AST_E_NOT_FOUND, "source path does not exist: %s", path);
    if (!ast_str_ends(ast_str_c(path), AST_STR(".capsule")))
        return ast_fail(
            err, AST_E_INVALID,
            "source must be a directory containing Capsule.toml or a *.capsule archive: %s", path);
    enum ast_rc rc = unpack_to_temp(path, &unpacked, err);
    if (rc)
        return rc;
    in.source = unpacked;
    rc = install_dir(&in, source_text, ret, err);
    (void)ast_fs_remove_tree(unpacked, NULL); /* a leftover in /tmp harms nobody */
    return rc;
}
