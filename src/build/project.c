/* One C file and a manifest become a WebAssembly module and an archive. The compiler is clang; nothing of the host's C library is
 * linked. */
#include "build/project.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fs.h"
#include "build/sdk.h"
#include "capsule/install.h"
#include "wasm/component.h"

#include "base/banned.h"

#define MAX_ARGS 256

/* Detection order of spec 07 §15.1. */
static const struct {
    const char *file, *kind;
} foreign_kinds[] = {
    { "Cargo.toml", "Rust" },
    { "gemini-extension.json", "extension" },
    { "package.json", "JavaScript" },
    { "mcp.json", "MCP" },
};

void build_project_done(struct build_project *p)
{
    for (size_t i = 0; i < p->source_count; i++)
        free(p->sources[i]);
    free(p->sources);
    free(p->dir);
    free(p->wasm);
    ast_manifest_free(p->manifest);
    *p = (struct build_project){ 0 };
}

static int is_c_file(const struct dirent *e)
{
    return e->d_name[0] != '.' && ast_str_ends(ast_str_c(e->d_name), AST_STR(".c"));
}

/* *.c beside the manifest, else in src/. */
static enum ast_rc find_sources(struct build_project *p, const char *sub, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *dir = sub ? ast_fs_join(p->dir, sub) : strdup(p->dir);
    struct dirent **names = NULL;
    int n = dir ? scandir(dir, &names, is_c_file, alphasort) : -1;
    enum ast_rc rc = AST_OK;

    if (n <= 0) {
        free(names);
        return AST_OK;
    }
    p->sources = calloc((size_t)n, sizeof *p->sources);
    for (int i = 0; i < n; i++) {
        if (p->sources)
            p->sources[p->source_count] = ast_fs_join(dir, names[i]->d_name);
        if (!p->sources || !p->sources[p->source_count])
            rc = ast_fail(err, AST_E_NO_MEMORY, "project");
        else
            p->source_count++;
        free(names[i]);
    }
    free(names);
    return rc;
}

enum ast_rc build_project_open(const char *dir, struct build_project *ret, struct ast_err *err)
{
    AST_AUTO(build_project_done) struct build_project p = { .dir = realpath(dir, NULL) };
    if (!p.dir)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "open %s", dir);
    AST_AUTO(ast_cfree) char *manifest = ast_fs_join(p.dir, "Capsule.toml");
    for (size_t i = 0; i < AST_ARRAY_LEN(foreign_kinds); i++) {
        AST_AUTO(ast_cfree) char *path = ast_fs_join(p.dir, foreign_kinds[i].file);
        if (path && ast_fs_exists(path))
            return ast_fail(
                err, AST_E_UNSUPPORTED,
                "%s projects (%s) cannot be built by this build; build the component yourself and pack a folder "
                "that holds only Capsule.toml and the .wasm",
                foreign_kinds[i].kind, foreign_kinds[i].file);
    }
    if (!manifest || !ast_fs_exists(manifest))
        return ast_fail(err, AST_E_NOT_FOUND, "No Capsule.toml found in %s", p.dir);
    enum ast_rc rc = ast_manifest_load(p.dir, &p.manifest, err);
    if (!rc && (rc = ast_capsule_id_check(p.manifest->name, err)))
        ast_wrap(err, rc, "[package] name");
    if (!rc && p.manifest->component_count) {
        p.wasm = ast_fs_join(p.dir, p.manifest->components[0].file.p);
        if (!p.wasm)
            rc = ast_fail(err, AST_E_NO_MEMORY, "project");
    }
    if (!rc && p.wasm)
        rc = find_sources(&p, NULL, err);
    if (!rc && p.wasm && p.source_count == 0)
        rc = find_sources(&p, "src", err);
    if (!rc) {
        *ret = p;
        p = (struct build_project){ 0 };
    }
    return rc;
}

static enum ast_rc run(const char *const *argv, const char *what, struct ast_err *err)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    if (pid < 0)
        return ast_fail_errno(err, AST_E_IO, errno, "start %s", argv[0]);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return ast_fail_errno(err, AST_E_IO, errno, "wait for %s", argv[0]);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return ast_fail(err, AST_E_NOT_FOUND, "%s was not found; install it first", argv[0]);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        return ast_fail(err, AST_E_INVALID, "%s failed", what);
    return AST_OK;
}

enum ast_rc build_project_compile(struct build_project *p, struct ast_err *err)
{
    AST_AUTO(build_sdk_done) struct build_sdk sdk = { 0 };
    const char *argv[MAX_ARGS] = { "clang",
                                   "--target=wasm32-unknown-unknown",
                                   "-std=gnu17",
                                   "-O2",
                                   "-ffreestanding",
                                   "-nostdlib",
                                   "-mbulk-memory",
                                   "-Wall",
                                   "-Wextra",
                                   "-ffunction-sections",
                                   "-fdata-sections",
                                   "-Wl,--no-entry",
                                   "-Wl,--gc-sections",
                                   "-Wl,--strip-all",
                                   "-Wl,--stack-first",
                                   "-Wl,-z,stack-size=65536" };
    size_t n = 16;

    if (p->source_count == 0)
        return AST_OK;
    if (p->source_count > MAX_ARGS - 32)
        return ast_fail(err, AST_E_TOO_LARGE, "more than %d C files", MAX_ARGS - 32);
    enum ast_rc rc = build_sdk_find(&sdk, err);
    if (rc)
        return rc;
    AST_AUTO(ast_cfree) char *runtime = ast_fs_join(sdk.sources, "astrid.c");
    AST_AUTO(ast_cfree) char *json = ast_fs_join(sdk.sources, "astrid_json.c");
    if (!runtime || !json)
        return ast_fail(err, AST_E_NO_MEMORY, "compile");
    argv[n++] = "-I";
    argv[n++] = sdk.sources;
    argv[n++] = "-I";
    argv[n++] = sdk.header;
    argv[n++] = "-I";
    argv[n++] = p->dir;
    for (size_t i = 0; i < p->source_count; i++)
        argv[n++] = p->sources[i];
    argv[n++] = runtime;
    argv[n++] = json;
    argv[n++] = "-o";
    argv[n++] = p->wasm;
    return run(argv, "compiling", err);
}

static bool have_program(const char *name)
{
    struct ast_str rest = ast_str_c(getenv("PATH") ? getenv("PATH") : ""), dir;
    bool more = true;

    while (ast_str_split(&rest, &more, ':', &dir)) {
        AST_AUTO(ast_cfree) char *folder = ast_str_dup(dir);
        AST_AUTO(ast_cfree) char *path = folder && dir.n ? ast_fs_join(folder, name) : NULL;
        if (path && access(path, X_OK) == 0)
            return true;
    }
    return false;
}

static enum ast_rc read_component(const struct build_project *p, struct ast_buf *bytes,
                                  struct ast_component *ret, struct ast_err *err)
{
    enum ast_rc rc = ast_fs_read(p->wasm, AST_COMPONENT_MAX_BYTES, bytes, err);
    return rc ? rc : ast_component_scan(ast_buf_view(bytes), ret, err);
}

enum ast_rc build_project_wrap(struct build_project *p, bool *ret_wrapped, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(AST_COMPONENT_MAX_BYTES);
    AST_AUTO(build_sdk_done) struct build_sdk sdk = { 0 };
    struct ast_component scan;

    *ret_wrapped = false;
    if (!p->wasm || p->source_count == 0)
        return AST_OK;
    enum ast_rc rc = read_component(p, &bytes, &scan, err);
    /* Run loops and install hooks would need a world of their own each; those modules stay as they are. */
    if (rc || !scan.is_core_module || scan.has_run || scan.has_install || scan.has_upgrade ||
        !have_program("wasm-tools"))
        return rc;
    rc = build_sdk_find(&sdk, err);
    if (rc)
        return rc;
    /* The contracts: beside the installed SDK, or two levels up in the source tree. */
    AST_AUTO(ast_cfree) char *wit = ast_fs_join(sdk.sources, "wit");
    if (wit && !ast_fs_is_dir(wit)) {
        free(wit);
        wit = ast_fs_join(sdk.sources, "../../wit");
    }
    AST_AUTO(ast_cfree)
    char *embedded = ast_fs_joinf(p->dir, ".%s.embedded.wasm", p->manifest->name.p);
    if (!wit || !embedded || !ast_fs_is_dir(wit))
        return AST_OK; /* the core module stays: it loads as well */
    const char *embed[] = { "wasm-tools", "component", "embed", wit,      "--world",
                            "handlers",   p->wasm,     "-o",    embedded, NULL };
    const char *make[] = { "wasm-tools", "component", "new", embedded, "-o", p->wasm, NULL };
    rc = run(embed, "wasm-tools component embed", err);
    if (!rc)
        rc = run(make, "wasm-tools component new", err);
    unlink(embedded);
    *ret_wrapped = !rc;
    return rc;
}

enum ast_rc build_project_pack(struct build_project *p, const char *out_dir, char **ret_path,
                               struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(AST_COMPONENT_MAX_BYTES);
    struct ast_component scan;
    enum ast_rc rc = p->wasm ? read_component(p, &bytes, &scan, err) : AST_OK;

    if (rc)
        return ast_wrap(err, rc, "%s", p->wasm);
    rc = ast_fs_mkdirs(out_dir, 0755, err);
    AST_AUTO(ast_cfree) char *path = ast_fs_joinf(out_dir, "%s.capsule", p->manifest->name.p);
    if (!rc && !path)
        rc = ast_fail(err, AST_E_NO_MEMORY, "pack");
    if (!rc)
        rc = ast_archive_pack(p->dir, path, err);
    if (!rc)
        *ret_path = ast_steal(&path);
    return rc;
}
