/* meta.json: what the installer recorded about a capsule. Readers are lenient (spec 07 §10), the writer is exact. */
#include "capsule/meta.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/fs.h"

#include "base/banned.h"

#define META_MAX_BYTES (1024u * 1024)

struct meta_memory {
    struct ast_json_doc *doc;
    struct ast_arena arena;
};

void ast_meta_free(struct ast_meta *m)
{
    if (!m)
        return;
    struct meta_memory *mem = m->memory;
    if (mem) {
        ast_json_free(mem->doc);
        ast_arena_done(&mem->arena);
        free(mem);
    }
    free(m);
}

/* namespace -> name -> version */
static enum ast_rc read_interfaces(const struct ast_json *table, struct ast_arena *arena,
                                   struct ast_manifest_interface **ret, size_t *ret_n,
                                   struct ast_err *err)
{
    struct ast_json_iter outer = AST_JSON_ITER(table);
    const struct ast_json *inner_table;
    struct ast_str ns;
    size_t total = 0, n = 0;

    if (ast_json_type(table) != AST_JSON_OBJECT)
        return AST_OK;
    while (ast_json_next(&outer, &ns, &inner_table))
        total += ast_json_count(inner_table);
    struct ast_manifest_interface *out = ast_arena_array(arena, total, sizeof *out);
    if (!out)
        return ast_arena_check(arena, err);
    outer = (struct ast_json_iter)AST_JSON_ITER(table);
    while (ast_json_next(&outer, &ns, &inner_table)) {
        struct ast_json_iter inner = AST_JSON_ITER(inner_table);
        const struct ast_json *version;
        struct ast_str name;
        if (ast_json_type(inner_table) != AST_JSON_OBJECT)
            return ast_fail(err, AST_E_INVALID,
                            "meta.json: interfaces of '" AST_STR_FMT "' are not an object",
                            AST_STR_ARG(ns));
        while (ast_json_next(&inner, &name, &version)) {
            out[n] = (struct ast_manifest_interface){ .ns = ns, .name = name };
            if (!ast_json_string(version, &out[n].version))
                return ast_fail(err, AST_E_INVALID,
                                "meta.json: version of '" AST_STR_FMT "' is not a string",
                                AST_STR_ARG(name));
            n++;
        }
    }
    *ret = out;
    *ret_n = n;
    return AST_OK;
}

static enum ast_rc read_wit_files(const struct ast_json *table, struct ast_arena *arena,
                                  struct ast_meta *m, struct ast_err *err)
{
    struct ast_json_iter it = AST_JSON_ITER(table);
    const struct ast_json *hash;
    struct ast_str path;
    size_t n = 0;

    if (ast_json_type(table) != AST_JSON_OBJECT)
        return AST_OK;
    m->wit_files = ast_arena_array(arena, ast_json_count(table), sizeof *m->wit_files);
    if (!m->wit_files)
        return ast_arena_check(arena, err);
    while (ast_json_next(&it, &path, &hash)) {
        m->wit_files[n].path = path;
        if (ast_json_string(hash, &m->wit_files[n].hash))
            n++;
    }
    m->wit_file_count = n;
    return AST_OK;
}

static enum ast_rc read_document(const struct ast_json *root, struct ast_arena *arena,
                                 struct ast_meta *m, struct ast_err *err)
{
    if (!ast_json_string(ast_json_member(root, "version"), &m->version) ||
        !ast_json_string(ast_json_member(root, "installed_at"), &m->installed_at) ||
        !ast_json_string(ast_json_member(root, "updated_at"), &m->updated_at))
        return ast_fail(err, AST_E_INVALID, "meta.json lacks version, installed_at or updated_at");
    m->source = ast_json_str_or(root, AST_STR("source"), AST_STR_NONE);
    m->wasm_hash = ast_json_str_or(root, AST_STR("wasm_hash"), AST_STR_NONE);
    enum ast_rc rc = read_interfaces(ast_json_member(root, "imports"), arena, &m->imports,
                                     &m->import_count, err);
    if (!rc)
        rc = read_interfaces(ast_json_member(root, "exports"), arena, &m->exports, &m->export_count,
                             err);
    if (!rc)
        rc = read_wit_files(ast_json_member(root, "wit_files"), arena, m, err);
    return rc;
}

enum ast_rc ast_meta_load(const char *dir, struct ast_meta **ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(META_MAX_BYTES);
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "meta.json");
    AST_AUTO(ast_meta_free) struct ast_meta *m = calloc(1, sizeof *m);
    struct meta_memory *mem = calloc(1, sizeof *mem);

    if (!path || !m || !mem) {
        free(mem);
        return ast_fail(err, AST_E_NO_MEMORY, "meta.json");
    }
    m->memory = mem;
    mem->arena.max = 8u * META_MAX_BYTES;
    enum ast_rc rc = ast_fs_read(path, META_MAX_BYTES, &text, err);
    if (rc)
        return rc == AST_E_NOT_FOUND ? rc : ast_wrap(err, AST_E_INVALID, "%s", path);
    rc = ast_json_parse(ast_buf_view(&text), &mem->doc, err);
    if (!rc)
        rc = read_document(ast_json_root(mem->doc), &mem->arena, m, err);
    if (rc)
        return ast_wrap(err, AST_E_INVALID, "%s", path);
    *ret = ast_steal(&m);
    return AST_OK;
}

static void write_interfaces(struct ast_jw *w, const char *key,
                             const struct ast_manifest_interface *v, size_t n)
{
    if (n == 0)
        return;
    ast_jw_key(w, ast_str_c(key));
    ast_jw_object(w);
    for (size_t i = 0; i < n; i++) { /* sorted by namespace: each one opens once */
        if (i == 0 || !ast_str_eq(v[i].ns, v[i - 1].ns)) {
            if (i)
                ast_jw_end(w);
            ast_jw_key(w, v[i].ns);
            ast_jw_object(w);
        }
        ast_jw_key(w, v[i].name);
        ast_jw_string(w, v[i].version);
    }
    ast_jw_end(w);
    ast_jw_end(w);
}

enum ast_rc ast_meta_save(const char *dir, const struct ast_meta *m, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(META_MAX_BYTES);
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "meta.json");
    struct ast_jw w = AST_JW_PRETTY(&out);

    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "meta.json");
    ast_jw_object(&w);
    ast_jw_kv_string(&w, "version", m->version);
    ast_jw_kv_string(&w, "installed_at", m->installed_at);
    ast_jw_kv_string(&w, "updated_at", m->updated_at);
    if (m->source.n)
        ast_jw_kv_string(&w, "source", m->source);
    write_interfaces(&w, "imports", m->imports, m->import_count);
    write_interfaces(&w, "exports", m->exports, m->export_count);
    if (m->wasm_hash.n)
        ast_jw_kv_string(&w, "wasm_hash", m->wasm_hash);
    if (m->wit_file_count) {
        ast_jw_key(&w, AST_STR("wit_files"));
        ast_jw_object(&w);
        for (size_t i = 0; i < m->wit_file_count; i++) {
            ast_jw_key(&w, m->wit_files[i].path);
            ast_jw_string(&w, m->wit_files[i].hash);
        }
        ast_jw_end(&w);
    }
    ast_jw_end(&w);
    enum ast_rc rc = ast_buf_check(&out, "meta.json", err);
    return rc ? rc : ast_fs_write_atomic(path, ast_buf_view(&out), 0600, AST_FS_SYNC, err);
}
