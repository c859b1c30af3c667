/* Loading: what is refused and how it says so, and the cache of compiled code. */
#include "rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"

static const struct {
    const char *name, *wat;
    enum ast_rc rc;
    const char *error[3]; /* parts */
} loads[] = {
    { "smallest", "(module (memory (export \"memory\") 1))", AST_OK, { "" } },
    { "whole guest", RIG_GUEST(RIG_ECHO), AST_OK, { "" } },
    { "component",
      "(component (core module (memory (export \"memory\") 1) (func (export \"run\") (nop))))",
      AST_OK,
      { "" } },
    { "c05_04: wasi",
      "(module (import \"wasi:cli/environment@0.2.0\" \"get-environment\" (func (param i32)))"
      "(import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))"
      "(import \"" RIG_MODULE "\" \"nop\" (func)) (memory (export \"memory\") 1))",
      AST_E_UNKNOWN_IMPORT,
      { "Failed to pre-instantiate WASM component: ", "wasi:cli/environment@0.2.0",
        "wasi_snapshot_preview1" } },
    { "unknown function",
      "(module (import \"" RIG_MODULE "\" \"nope\" (func)) (memory (export \"memory\") 1))",
      AST_E_UNKNOWN_IMPORT,
      { "`nope`" } },
    { "unknown version",
      "(module (import \"test:host/api@1.0.1\" \"nop\" (func)) (memory (export \"memory\") 1))",
      AST_E_UNKNOWN_IMPORT,
      { "test:host/api@1.0.1" } },
    { "other type",
      "(module (import \"" RIG_MODULE
      "\" \"nop\" (func (param i32))) (memory (export \"memory\") 1))",
      AST_E_UNKNOWN_IMPORT,
      { "another type", "`nop`" } },
    { "our own functions",
      "(module (import \"\\01native\" \"suspend\" (func)) (memory (export \"memory\") 1))",
      AST_E_UNKNOWN_IMPORT,
      { "suspend" } },
    { "hook type",
      "(module " RIG_FRAME RIG_REALLOC " (func (export \"astrid-hook-trigger\") (param i32)))",
      AST_E_BAD_MODULE,
      { "Failed to compile WASM component: ", "astrid-hook-trigger" } },
    { "hook without realloc",
      "(module (memory (export \"memory\") 1) (func (export \"astrid-hook-trigger\") (param i32 i32 i32 i32) (result i32)"
      "(i32.const 0)))",
      AST_E_BAD_COMPONENT,
      { "Failed to compile WASM component: ", "cabi_realloc" } },
    { "realloc type",
      "(module (memory (export \"memory\") 1) (func (export \"cabi_realloc\") (param i32) (result i32)"
      "(i32.const 0)))",
      AST_E_BAD_MODULE,
      { "cabi_realloc" } },
    { "realloc is no function",
      "(module (memory (export \"memory\") 1) (global (export \"cabi_realloc\") i32 (i32.const 0)))",
      AST_E_BAD_MODULE,
      { "cabi_realloc" } },
    { "run type",
      "(module (memory (export \"memory\") 1) (func (export \"run\") (result i64) (i64.const 0)))",
      AST_E_BAD_MODULE,
      { "'run'" } },
    { "too much memory",
      "(module (memory (export \"memory\") 1025))",
      AST_E_BAD_MODULE,
      { "memory" } },
};

static void every_load_is_judged(void **state)
{
    struct rig r = rig_open(NULL, NULL, 1);
    for (size_t k = 0; k < AST_ARRAY_LEN(loads); k++) {
        struct ast_err err = AST_ERR_INIT;
        AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(1 << 20);
        rig_check(ast_wat_compile(ast_str_c(loads[k].wat), &bytes, &err), &err);
        AST_AUTO(ast_module_unref) struct ast_module *m = NULL;
        enum ast_rc rc = ast_module_load(r.engine, ast_buf_view(&bytes), &m, &err);
        bool as_wanted = rc == loads[k].rc;
        for (int part = 0; part < 3 && loads[k].error[part]; part++)
            as_wanted &= rc == AST_OK || strstr(err.msg, loads[k].error[part]) != NULL;
        if (!as_wanted)
            fail_msg("%s: %s: %s", loads[k].name, ast_rc_name(rc), err.msg);
        assert_int_equal(rc == AST_OK, m != NULL);
        assert_null(strchr(err.msg, '\n'));
    }
    rig_close(&r);
}

static void bytes_that_are_no_module_are_refused(void **state)
{
    struct rig r = rig_open(NULL, NULL, 1);
    static const char valid_frame_bad_code[] =
        "\0asm\1\0\0\0\1\4\1\x60\0\0\3\2\1\0\5\3\1\0\1\7\x0a\1\6memory\2\0\x0a\5\1\3\0\x1a\x0b"; /* drop from nothing */
    const struct ast_str cases[] = {
        AST_STR_NONE,
        AST_STR("\0asm"),
        AST_STR("\x7f"
                "ELF\2\1\1"),
        AST_STR("\0asm\2\0\0\0"),
        ast_str_n(valid_frame_bad_code, sizeof valid_frame_bad_code - 1),
    };
    for (size_t k = 0; k < AST_ARRAY_LEN(cases); k++) {
        struct ast_err err = AST_ERR_INIT;
        struct ast_module *m = NULL;
        enum ast_rc rc = ast_module_load(r.engine, cases[k], &m, &err);
        assert_true(rc == AST_E_BAD_COMPONENT || rc == AST_E_BAD_MODULE);
        assert_int_equal(strncmp(err.msg, "Failed to compile WASM component: ", 34), 0);
        assert_null(m);
    }
    rig_close(&r);
}

static void module_info_tells_what_there_is(void **state)
{
    struct rig r = rig_open(NULL, NULL, 1);
    struct ast_module *m = rig_load(r.engine, RIG_GUEST(RIG_ECHO));
    const struct ast_module_info *info = ast_module_info(m);
    assert_true(info->has_hook);
    assert_false(info->has_run || info->has_install || info->has_upgrade || info->from_cache);
    assert_int_equal(info->initial_memory_bytes, 4 * 65536);
    struct ast_module *second = ast_module_ref(m);
    ast_module_unref(m);
    assert_true(ast_module_info(second)->has_hook);
    ast_module_unref(second);

    /* spec 05 §4.2: three names on one function are stubs */
    m = rig_load(
        r.engine,
        "(module (memory (export \"memory\") 1) (func (export \"run\") (export \"astrid-install\")"
        "(export \"astrid-upgrade\") (nop)))");
    info = ast_module_info(m);
    assert_false(info->has_run || info->has_install || info->has_upgrade);
    ast_module_unref(m);
    rig_close(&r);
}

static void text_errors_are_one_line(void **state)
{
    struct rig r = rig_open(NULL, NULL, 1);
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(1 << 20);
    assert_int_equal(ast_wat_compile(AST_STR("(module (oops))"), &bytes, &err), AST_E_INVALID);
    assert_null(strchr(err.msg, '\n'));
    AST_AUTO(ast_buf_done) struct ast_buf small = AST_BUF_INIT(4);
    assert_int_equal(ast_wat_compile(AST_STR("(module)"), &small, &err), AST_E_TOO_LARGE);
    rig_close(&r);
}

static void configurations_that_would_abort_are_refused(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_engine *e = NULL;
    assert_int_equal(
        ast_engine_new(&(struct ast_engine_config){ .host = &rig_host, .instances = 1u << 30 }, &e,
                       &err),
        AST_E_INVALID);
    static const struct ast_abi_import bad[] = { { RIG_MODULE, "x", "if", "", rig_nop, 0 } };
    const struct ast_wasm_host host = { bad, 1, NULL, 0 };
    assert_int_equal(
        ast_engine_new(&(struct ast_engine_config){ .host = &host, .on_demand = true }, &e, &err),
        AST_E_INVALID);
    assert_null(e);
    assert_string_equal(ast_engine_version(), "wasmtime 50.0.1");
}

static void on_demand_allocation_works_too(void **state)
{
    struct rig r = { 0 };
    struct ast_err err = AST_ERR_INIT;
    r.engine = rig_engine(&(struct ast_engine_config){ .host = &rig_host, .on_demand = true });
    rig_check(ast_sched_new(r.engine, 2, &r.sched, &err), &err);
    r.module = rig_load(r.engine, RIG_GUEST(RIG_ECHO));
    rig_check(ast_pool_new(r.module, &(struct ast_pool_config){ .max = 64, .idle_max = 64 },
                           &r.pool, &err),
              &err);
    struct ast_instance *i = rig_lease(&r, "p");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_OK);
    rig_finish(&rc);
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
}

/* --- The cache ----------------------------------------------------------------------------------- */

struct cache {
    char root[64], dir[80];
    uint8_t key[32];
};

static void cache_open(struct cache *c)
{
    snprintf(c->root, sizeof c->root, "/tmp/ast-cache-XXXXXX");
    assert_non_null(mkdtemp(c->root));
    snprintf(c->dir, sizeof c->dir, "%s/aot", c->root);
    memset(c->key, 0x5a, sizeof c->key);
}

static void cache_close(struct cache *c)
{
    assert_int_equal(ast_fs_remove_tree(c->root, NULL), AST_OK);
}

/* The path of the only entry; false when there is none. */
static bool cache_entry(const struct cache *c, char *path, size_t size)
{
    unsigned n = 0;
    DIR *d = opendir(c->dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, size, "%s/%s", c->dir, e->d_name);
        n++;
    }
    closedir(d);
    assert_in_range(n, 0, 1);
    return n == 1;
}

/* Loads the guest in a new engine, makes one call, says whether the code came from the cache. */
static bool cached_load(const struct cache *c, const char *wat)
{
    struct rig r = { 0 };
    struct ast_err err = AST_ERR_INIT;
    r.engine = rig_engine(&(struct ast_engine_config){
        .host = &rig_host, .instances = 16, .cache_dir = c->dir, .cache_key = c->key });
    rig_check(ast_sched_new(r.engine, 2, &r.sched, &err), &err);
    r.module = rig_load(r.engine, wat);
    bool from_cache = ast_module_info(r.module)->from_cache;
    rig_check(
        ast_pool_new(r.module, &(struct ast_pool_config){ .max = 1, .idle_max = 1 }, &r.pool, &err),
        &err);
    struct ast_instance *i = rig_lease(&r, "p");
    struct rig_call rc = { 0 };
    struct ast_call_config cfg = rig_config(i, &rc);
    rig_run(&r, &rc, &cfg);
    assert_int_equal(rc.res.rc, AST_OK);
    assert_true(ast_str_is(rc.res.data, "payload"));
    rig_finish(&rc);
    ast_pool_return(r.pool, i, true);
    rig_close(&r);
    return from_cache;
}

static void the_second_load_comes_from_the_cache(void **state)
{
    struct cache c;
    char path[400];
    struct stat st;
    cache_open(&c);
    assert_false(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    assert_true(cache_entry(&c, path, sizeof path));
    assert_int_equal(stat(c.dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    assert_true(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    cache_close(&c);
}

static void write_at(const char *path, off_t at, const void *bytes, size_t n)
{
    AST_AUTO(ast_fs_close) int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), (ssize_t)n);
}

static void a_changed_entry_is_compiled_again(void **state)
{
    struct cache c;
    char path[400];
    cache_open(&c);
    assert_false(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    assert_true(cache_entry(&c, path, sizeof path));
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    for (int k = 0; k <= 8; k++) { /* a byte here and there: header, code, data, MAC */
        off_t at = (st.st_size - 1) * k / 8;
        AST_AUTO(ast_fs_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x10;
        write_at(path, at, &byte, 1);
        assert_false(cached_load(&c, RIG_GUEST(RIG_ECHO)));
        assert_true(cached_load(&c, RIG_GUEST(RIG_ECHO))); /* it has been replaced */
    }
    static const off_t cuts[] = { 0, 1, 31, 32, 33, 1000 };
    for (size_t k = 0; k < AST_ARRAY_LEN(cuts); k++) {
        assert_int_equal(truncate(path, cuts[k]), 0);
        assert_false(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0); /* something that cannot be an entry, nor be replaced */
    assert_false(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    cache_close(&c);
}

static void an_entry_of_another_installation_is_refused(void **state)
{
    struct cache c;
    cache_open(&c);
    assert_false(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    c.key[31] ^= 1;
    assert_false(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    assert_true(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    cache_close(&c);
}

/* A valid entry under the name of another module must not stand in for it. */
static void an_entry_under_another_name_is_refused(void **state)
{
    struct cache c;
    char first[400], second[400], keep[96];
    cache_open(&c);
    assert_false(cached_load(&c, RIG_GUEST("(call $ok (i32.const 1024) (i32.const 0))"
                                           "(drop) " RIG_ECHO)));
    assert_true(cache_entry(&c, first, sizeof first));
    snprintf(keep, sizeof keep, "%s/moved", c.root);
    assert_int_equal(rename(first, keep), 0);
    assert_false(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    assert_true(cache_entry(&c, second, sizeof second));
    assert_int_equal(rename(keep, second), 0);
    assert_false(cached_load(&c, RIG_GUEST(RIG_ECHO)));
    cache_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_load_is_judged),
        cmocka_unit_test(bytes_that_are_no_module_are_refused),
        cmocka_unit_test(module_info_tells_what_there_is),
        cmocka_unit_test(text_errors_are_one_line),
        cmocka_unit_test(configurations_that_would_abort_are_refused),
        cmocka_unit_test(on_demand_allocation_works_too),
        cmocka_unit_test(the_second_load_comes_from_the_cache),
        cmocka_unit_test(a_changed_entry_is_compiled_again),
        cmocka_unit_test(an_entry_of_another_installation_is_refused),
        cmocka_unit_test(an_entry_under_another_name_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
