/* What capsules may import, what missing packages answer, and what hostile guests get. */
#include "rig.h"

#include "base/banned.h"

/* Tests make the module of all imports; the fixture's guest imports only what it calls. */
static void c05_05_every_import_links(void **state)
{
    const struct ast_wasm_host *h = ast_host_imports();
    assert_int_equal(h->import_count, 217);
    AST_AUTO(ast_buf_done)
    struct ast_buf wat = AST_BUF_INIT(1u << 20), wasm = AST_BUF_INIT(1u << 20);
    (void)ast_buf_add_lit(&wat, "(module\n");
    for (size_t i = 0; i < h->import_count; i++) {
        const struct ast_abi_import *row = &h->imports[i];
        (void)ast_buf_addf(&wat, "(import \"%s\" \"%s\" (func", row->module, row->name);
        for (const char *p = row->params; *p; p++)
            (void)ast_buf_addf(&wat, " (param %s)",
                               *p == 'i'   ? "i32"
                               : *p == 'I' ? "i64"
                               : *p == 'f' ? "f32"
                                           : "f64");
        if (*row->result)
            (void)ast_buf_addf(&wat, " (result %s)", *row->result == 'i' ? "i32" : "i64");
        (void)ast_buf_add_lit(&wat, "))\n");
    }
    (void)ast_buf_add_lit(&wat, "(memory (export \"memory\") 1)\n(func (export \"run\")))");
    assert_int_equal(wat.fail, AST_OK);
    RIG_OK(ast_wat_compile(ast_buf_view(&wat), &wasm, &err));
    AST_AUTO(ast_module_unref) struct ast_module *m = NULL;
    RIG_OK(ast_module_load(rig_shared.engine, ast_buf_view(&wasm), &m, &err));
}

static void c05_05_the_table_is_sorted_and_complete(void **state)
{
    const struct ast_wasm_host *h = ast_host_imports();
    for (size_t i = 1; i < h->import_count; i++) {
        int order = strcmp(h->imports[i - 1].module, h->imports[i].module);
        assert_true(order < 0 ||
                    (order == 0 && strcmp(h->imports[i - 1].name, h->imports[i].name) < 0));
    }
    static const char *const modules[] = {
        "astrid:approval/host@1.0.0",
        "astrid:elicit/host@1.0.0",
        "astrid:fs/host@1.0.0",
        "astrid:http/host@1.0.0",
        "astrid:http/host@1.1.0",
        "astrid:identity/host@1.0.0",
        "astrid:io/error@1.0.0",
        "astrid:io/poll@1.0.0",
        "astrid:io/streams@1.0.0",
        "astrid:ipc/host@1.0.0",
        "astrid:kv/host@1.0.0",
        "astrid:net/host@1.0.0",
        "astrid:process/host@1.0.0",
        "astrid:process/host@1.1.0",
        "astrid:request-context/host@1.0.0",
        "astrid:sys/host@1.0.0",
        "astrid:uplink/host@1.0.0",
    };
    size_t seen = 0;
    for (size_t i = 0; i < h->import_count; i++)
        if (i == 0 || strcmp(h->imports[i].module, h->imports[i - 1].module) != 0)
            assert_string_equal(h->imports[i].module, modules[seen++]);
    assert_int_equal(seen, AST_ARRAY_LEN(modules));
    bool has[AST_ABI_TYPE_COUNT] = { false };
    for (size_t i = 0; i < h->resource_count; i++) {
        assert_non_null(h->resources[i].drop);
        has[h->resources[i].type_id] = true;
    }
    for (size_t i = 1; i < AST_ABI_TYPE_COUNT; i++)
        assert_true(has[i]);
}

static void c05_04_wasi_does_not_link(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf wasm = AST_BUF_INIT(1u << 16);
    RIG_OK(ast_wat_compile(
        AST_STR(
            "(module (import \"wasi:cli/environment@0.2.0\" \"get-environment\" (func (param i32)))"
            " (memory (export \"memory\") 1) (func (export \"run\")))"),
        &wasm, &err));
    AST_AUTO(ast_module_unref) struct ast_module *m = NULL;
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_module_load(rig_shared.engine, ast_buf_view(&wasm), &m, &err),
                     AST_E_UNKNOWN_IMPORT);
    assert_non_null(strstr(err.msg, "wasi:cli/environment@0.2.0"));
}

static void missing_packages_say_so(void **state)
{
    struct rig *r = *state;
    char want[256];
    (void)snprintf(want, sizeof want, "%d:fs.fs-open is not available in this build",
                   AST_FS_ERROR_UNKNOWN);
    const char *got = rig_run(r, "fs x");
    if (strncmp(got, want, 3) ==
        0) /* once the package is there this test has nothing to say about it */
        assert_string_equal(got, want);
}

static void hostile_guests_trap(void **state)
{
    struct rig *r = *state;
    static const struct {
        const char *script, *why;
    } cases[] = {
        { "bad pointer", "out of bounds" },
        { "bad length", "out of bounds" },
        { "bad utf8", "not UTF-8" },
        { "bad area", "out of bounds" },
        { "bad unaligned", "not aligned" },
        { "bad handle", "unknown handle" },
        { "bad zero", "unknown handle" },
        { "sub in.*\nbad type", "another type" },
        { "sub in.*\nbad method", "another type" },
        { "sub in.*\nbad twice", "unknown handle" },
        { "bad list", "" },
        { "bad listend", "out of bounds" },
        { "bad level", "discriminant" },
        { "sub in.*\nbad stream", "another type" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        ast_pool_free(ast_steal(&r->pool));
        struct rig_call *c = rig_start(r, cases[i].script);
        rig_wait(c);
        if (c->rc != AST_E_ABI)
            fail_msg("'%s' ended with %s: %s%s", cases[i].script, ast_rc_name(c->rc), c->error,
                     c->text ? c->text : "");
        if (!strstr(c->error, cases[i].why))
            fail_msg("'%s': %s", cases[i].script, c->error);
        rig_end(c);
        /* The next call has a fresh instance (c05_60). */
        assert_string_equal(rig_run(r, "set k v"), "ok");
    }
}

static void a_spinning_guest_is_cancelled_and_the_next_call_works(void **state)
{
    struct rig *r = *state;
    struct rig_call *c = rig_start(r, "subn 10 in.*\nspin");
    ast_call_cancel(c->call);
    rig_wait(c);
    assert_int_equal(c->rc, AST_E_CANCELLED);
    rig_end(c);
    assert_string_equal(rig_run(r, "subn 128 in.*"), "128");
}

RIG_MAIN(RIG_TEST(c05_05_every_import_links), RIG_TEST(c05_05_the_table_is_sorted_and_complete),
         RIG_TEST(c05_04_wasi_does_not_link), RIG_TEST(missing_packages_say_so),
         RIG_TEST(hostile_guests_trap),
         RIG_TEST(a_spinning_guest_is_cancelled_and_the_next_call_works))
