/* The extractor against binaries put together byte by byte, so that each row shows what it is about.
 *
 * `test_wasm_component --seeds DIR` writes the small good ones as seeds of the fuzz target. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/buf.h"
#include "wasm/component.h"

#include "base/banned.h"

#define CORE      "\0asm\1\0\0\0"
#define COMPONENT "\0asm\x0d\0\1\0"

#define B(lit)                                                                                     \
    {                                                                                              \
        lit, sizeof(lit) - 1                                                                       \
    } /* a view in a table */

enum { FUNC, TABLE, MEMORY }; /* kinds of core imports and exports */

/* --- A writer of the binary format ---------------------------------------------------------------- */

static void put_u32(struct ast_buf *b, uint32_t v)
{
    do {
        uint8_t low = v & 0x7f;
        v >>= 7;
        (void)ast_buf_add_byte(b, (char)(v ? low | 0x80 : low));
    } while (v);
}

static void put_name(struct ast_buf *b, struct ast_str name)
{
    put_u32(b, (uint32_t)name.n);
    (void)ast_buf_add(b, name);
}

static void put_section(struct ast_buf *b, uint8_t id, struct ast_str payload)
{
    (void)ast_buf_add_byte(b, (char)id);
    put_name(b, payload);
}

struct exported {
    const char *name; /* NULL ends the list */
    uint8_t kind;
    uint8_t index;
};

/* A main module: one plain memory, `imports` functions astrid:sys/host@1.0.0 f0, f1, ... of type 0, then
 * the functions of `bodies`. All are () -> () unless `types` says otherwise. */
struct main_spec {
    uint32_t imports;
    struct ast_str bodies[8]; /* the first empty one ends the list */
    uint8_t types[8];         /* 0: () -> (), 1: (i32 i32 i32 i32) -> i32 */
    struct exported exports[10];
};

/* Bodies: local declarations, code, end. */
#define BODY_EMPTY  AST_STR("\0\x0b")
#define BODY_LOCALS AST_STR("\2\3\x7f\1\x7e\x0b")
#define BODY_NOP    AST_STR("\0\1\x0b")
#define BODY_NOP2   AST_STR("\0\1\1\x0b")
#define BODY_ZERO   AST_STR("\0\x41\0\x0b")

static void put_main(struct ast_buf *out, const struct main_spec *spec)
{
    AST_AUTO(ast_buf_done) struct ast_buf s = AST_BUF_INIT(1u << 20);
    uint32_t n;

    (void)ast_buf_add_lit(out, CORE);
    put_section(out, 1, AST_STR("\2\x60\0\0\x60\4\x7f\x7f\x7f\x7f\1\x7f"));
    if (spec->imports) {
        put_u32(&s, spec->imports);
        for (uint32_t i = 0; i < spec->imports; i++) {
            put_name(&s, AST_STR("astrid:sys/host@1.0.0"));
            char name[16];
            put_name(&s, ast_str_n(name, (size_t)snprintf(name, sizeof name, "f%u", (unsigned)i)));
            (void)ast_buf_add_lit(&s, "\0\0");
        }
        put_section(out, 2, ast_buf_view(&s));
    }
    for (n = 0; n < AST_ARRAY_LEN(spec->bodies) && spec->bodies[n].n; n++) {
    }
    ast_buf_reset(&s);
    put_u32(&s, n);
    for (uint32_t i = 0; i < n; i++)
        (void)ast_buf_add_byte(&s, (char)spec->types[i]);
    put_section(out, 3, ast_buf_view(&s));
    put_section(out, 5, AST_STR("\1\0\1"));

    ast_buf_reset(&s);
    for (n = 0; spec->exports[n].name; n++) {
    }
    put_u32(&s, n);
    for (uint32_t i = 0; i < n; i++) {
        put_name(&s, ast_str_c(spec->exports[i].name));
        (void)ast_buf_add_byte(&s, (char)spec->exports[i].kind);
        put_u32(&s, spec->exports[i].index);
    }
    put_section(out, 7, ast_buf_view(&s));

    ast_buf_reset(&s);
    for (n = 0; n < AST_ARRAY_LEN(spec->bodies) && spec->bodies[n].n; n++) {
    }
    put_u32(&s, n);
    for (uint32_t i = 0; i < n; i++)
        put_name(&s, spec->bodies[i]);
    put_section(out, 10, ast_buf_view(&s));
}

static const struct main_spec echo = {
    .imports = 1,
    .bodies = { BODY_ZERO, BODY_ZERO, BODY_NOP, BODY_EMPTY, BODY_EMPTY },
    .types = { 1, 1, 0, 0, 0 },
    .exports = { { "memory", MEMORY, 0 },
                 { "cabi_realloc", FUNC, 1 },
                 { "astrid-hook-trigger", FUNC, 2 },
                 { "run", FUNC, 3 },
                 { "astrid-install", FUNC, 4 },
                 { "astrid-upgrade", FUNC, 4 } },
};

static const struct main_spec least = {
    .bodies = { BODY_NOP },
    .exports = { { "memory", MEMORY, 0 }, { "run", FUNC, 0 } },
};

/* The trampoline module: type, function, table of one, exports `0` and `$imports`, code. */
static const struct ast_str shim = B(CORE "\1\4\1\x60\0\0"
                                          "\3\2\1\0"
                                          "\4\5\1\x70\1\1\1"
                                          "\7\x10\2\1"
                                          "0\0\0\x08$imports\1\0"
                                          "\x0a\x0b\1\x09\0\x41\0\x11\0\0\1\1\x0b");

/* Imports the function and the table, fills the table. */
static const struct ast_str fixup = B(CORE "\1\4\1\x60\0\0"
                                           "\2\x15\2\0\1"
                                           "0\0\0\0\x08$imports\1\x70\1\1\1"
                                           "\x09\7\1\0\x41\0\x0b\1\0");

/* Calls what it imports as its start function and has nothing else. */
static const struct ast_str starter = B(CORE "\1\4\1\x60\0\0"
                                             "\2\5\1\0\0\0\0"
                                             "\x08\1\0");

static void put_module(struct ast_buf *out, struct ast_str module)
{
    put_section(out, 1, module);
}

static void put_main_module(struct ast_buf *out, const struct main_spec *spec)
{
    AST_AUTO(ast_buf_done) struct ast_buf m = AST_BUF_INIT(1u << 20);

    put_main(&m, spec);
    put_module(out, ast_buf_view(&m));
}

/* A complete and valid component, as the usual tools lay it out: main, shim and fixup, one import that
 * is lowered through the shim, `run` lifted and exported. */
static void put_good(struct ast_buf *out)
{
    static const struct main_spec spec = {
        .imports = 1,
        .bodies = { BODY_ZERO, BODY_NOP },
        .types = { 1, 0 },
        .exports = { { "memory", MEMORY, 0 }, { "cabi_realloc", FUNC, 1 }, { "run", FUNC, 2 } },
    };
    static const struct {
        uint8_t id;
        struct ast_str payload;
    } wiring[] = {
        /* instance 0: the shim */
        { 2, B("\1\0\1\0") },
        /* its function `0` */
        { 6, B("\1\0\0\1\0\1"
               "0") },
        /* instance 1: { f0 }; instance 2: main */
        { 2, B("\2\1\1\2f0\0\0"
               "\0\0\1\x15"
               "astrid:sys/host@1.0.0\x12\1") },
        /* memory of main, table of the shim */
        { 6, B("\2\0\2\1\2\6memory"
               "\0\1\1\0\x08$imports") },
        /* lower the import: utf8, memory 0 */
        { 8, B("\1\1\0\0\2\0\3\0") },
        /* instance 3: what fixup imports; instance 4: fixup */
        { 2, B("\2\1\2\x08$imports\1\0\1"
               "0\0\1"
               "\0\2\1\0\x12\3") },
        /* lift and export run */
        { 6, B("\1\0\0\1\2\3run") },
        { 8, B("\1\0\0\2\0\0") },
        { 11, B("\1\0\3run\1\1\0") },
        { 0, B("\4name\0") },
    };

    (void)ast_buf_add_lit(out, COMPONENT);
    put_section(out, 7, AST_STR("\1\x40\0\1\0"));  /* type 0: func() */
    put_section(out, 10, AST_STR("\1\0\2f0\1\0")); /* import f0 */
    put_main_module(out, &spec);
    put_module(out, shim);
    put_module(out, fixup);
    for (size_t i = 0; i < AST_ARRAY_LEN(wiring); i++)
        put_section(out, wiring[i].id, wiring[i].payload);
}

/* --- Checks ----------------------------------------------------------------------------------------- */

static void assert_inside(struct ast_str part, struct ast_str whole)
{
    assert_true((uintptr_t)part.p >= (uintptr_t)whole.p);
    assert_true((uintptr_t)part.p + part.n <= (uintptr_t)whole.p + whole.n);
}

static void assert_says(const struct ast_err *err, const char *what, const char *says)
{
    assert_int_equal(err->rc, AST_E_BAD_COMPONENT);
    if (!strstr(err->msg, says))
        fail_msg("%s: expected '%s' in '%s'", what, says, err->msg);
}

/* Refused with that text, and the output left alone. */
static void assert_refused(const char *what, struct ast_str bytes, const char *says)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_component c = { .main = AST_STR("untouched"), .has_run = true };

    if (ast_component_scan(bytes, &c, &err) == AST_OK)
        fail_msg("%s: accepted", what);
    assert_says(&err, what, says);
    assert_true(ast_str_is(c.main, "untouched") && c.has_run);
    assert_int_equal(ast_component_scan(bytes, &c, /* err= */ NULL), AST_E_BAD_COMPONENT);
}

static struct ast_component assert_accepted(const char *what, struct ast_str bytes)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_component c;

    if (ast_component_scan(bytes, &c, &err) != AST_OK)
        fail_msg("%s: %s", what, err.msg);
    assert_inside(c.main, bytes);
    assert_true(ast_str_starts(c.main, AST_STR(CORE)));
    return c;
}

/* --- What is accepted ------------------------------------------------------------------------------- */

static void main_shim_and_fixup_give_main(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
    AST_AUTO(ast_buf_done) struct ast_buf m = AST_BUF_INIT(4096);
    (void)ast_buf_add_lit(&b, COMPONENT);
    put_module(&b, shim);
    put_main_module(&b, &echo);
    put_module(&b, fixup);
    put_main(&m, &echo);

    struct ast_component c = assert_accepted("echo", ast_buf_view(&b));
    assert_true(ast_str_eq(c.main, ast_buf_view(&m)));
    assert_false(c.is_core_module);
    assert_true(c.has_hook && c.has_realloc && c.has_run);
    assert_false(c.has_install || c.has_upgrade);

    ast_buf_reset(&b);
    put_good(&b);
    c = assert_accepted("good", ast_buf_view(&b));
    assert_true(c.has_realloc && c.has_run);
    assert_false(c.is_core_module || c.has_hook || c.has_install || c.has_upgrade);
}

static void a_component_may_hold_only_main(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
    (void)ast_buf_add_lit(&b, COMPONENT);
    put_main_module(&b, &least);

    struct ast_component c = assert_accepted("least", ast_buf_view(&b));
    assert_true(c.has_run);
    assert_false(c.has_realloc);
}

static void a_core_module_is_its_own_main(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
    put_main(&b, &echo);

    struct ast_component c = assert_accepted("plain", ast_buf_view(&b));
    assert_true(c.main.p == b.p && c.main.n == b.n);
    assert_true(c.is_core_module && c.has_hook && c.has_realloc && c.has_run);
}

static void a_start_module_needs_initialize_in_main(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
    struct main_spec spec = least;

    for (unsigned with = 0; with < 2; with++) {
        if (with)
            spec.exports[2] = (struct exported){ "_initialize", FUNC, 0 };
        ast_buf_reset(&b);
        (void)ast_buf_add_lit(&b, COMPONENT);
        put_main_module(&b, &spec);
        put_module(&b, starter);
        if (with)
            (void)assert_accepted("starter", ast_buf_view(&b));
        else
            assert_refused("starter", ast_buf_view(&b), "a start function other than");
    }
}

static void numbers_may_be_longer_than_needed(void **state)
{
    /* A custom section of size 1 and the memory count 1, each in five bytes. */
    (void)assert_accepted("overlong", AST_STR(CORE "\0\x81\x80\x80\x80\0\0"
                                                   "\5\7\x81\x80\x80\x80\0\0\1"
                                                   "\7\x0a\1\6memory\2\0"));
    assert_refused("fifth byte", AST_STR(CORE "\0\x81\x80\x80\x80\x10\0"),
                   "byte 9: custom section: number does not fit 32 bits");
    assert_refused("six bytes", AST_STR(CORE "\0\x81\x80\x80\x80\x80\0\0"),
                   "byte 9: custom section: number does not fit 32 bits");
    assert_refused("all ones", AST_STR(CORE "\0\xff\xff\xff\xff\x0f"),
                   "byte 9: custom section of 4294967295 bytes, 0 bytes left");
}

/* --- What is refused -------------------------------------------------------------------------------- */

static void whole_files_are_refused(void **state)
{
    static const struct {
        const char *what;
        struct ast_str bytes;
        const char *says;
    } cases[] = {
        { "nothing", { NULL, 0 }, "byte 0: 0 bytes are too few" },
        { "seven bytes", { CORE, 7 }, "byte 0: 7 bytes are too few" },
        { "magic", B("\177ELF\1\0\0\0"), "byte 0: not a WebAssembly binary" },
        { "core version 2", B("\0asm\2\0\0\0"), "byte 4: unknown WebAssembly version 02 00" },
        { "older component", B("\0asm\x0c\0\1\0"), "byte 4: unknown WebAssembly version 0c 00" },
        { "layer 2", B("\0asm\x0d\0\2\0"), "byte 4: unknown WebAssembly version 0d 00 02 00" },
        { "empty core", B(CORE), "byte 8: not a main module: it defines no memory" },
        { "empty component", B(COMPONENT), "byte 8: the component ends without a main module" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++)
        assert_refused(cases[i].what, cases[i].bytes, cases[i].says);
}

/* Each row is what follows a component's preamble. */
static void component_sections_are_refused(void **state)
{
    static const struct {
        const char *what;
        struct ast_str tail;
        const char *says;
    } cases[] = {
        { "nested component", B("\4\x08" COMPONENT), "byte 8: nested components" },
        { "instance", B("\5\1\0"), "byte 8: component instances" },
        { "start", B("\x09\3\0\0\0"), "byte 8: a component start function" },
        { "value", B("\x0c\1\0"), "byte 8: component values" },
        { "unknown", B("\x0d\1\0"), "byte 8: unknown component section 13" },
        { "id alone", B("\0"), "byte 9: custom section: the bytes end here" },
        { "too long", B("\7\2\0"), "byte 9: type section of 2 bytes, 1 bytes left" },
        { "module too long", B("\1\x09" CORE), "byte 9: core module section of 9 bytes, 8" },
        { "module of four", B("\1\4\0asm"), "core module 0: byte 10: 4 bytes are too few" },
        { "component as module", B("\1\x08" COMPONENT), "core module 0: byte 10: a component" },
        { "utf16", B("\x08\6\1\1\0\0\1\1"), "byte 15: strings in UTF-16" },
        { "latin1", B("\x08\6\1\1\0\0\1\2"), "byte 15: strings in Latin-1" },
        { "async", B("\x08\6\1\1\0\0\1\6"), "byte 15: async functions" },
        { "callback", B("\x08\7\1\1\0\0\1\7\0"), "byte 15: async callbacks" },
        { "option", B("\x08\6\1\1\0\0\1\x08"), "byte 15: unknown canonical option 0x08" },
        { "option without index", B("\x08\6\1\1\0\0\1\3"), "byte 16: canonical option index" },
        { "kind 5", B("\x08\3\1\5\0"), "byte 11: canonical function 0x05 (tasks" },
        { "lift of another sort", B("\x08\6\1\0\1\0\0\0"), "byte 11: unknown canonical" },
        { "lift cut", { "\x08\5\1\0\0\0\0", 7 }, "byte 15: function type index" },
        { "canon rest", B("\x08\4\1\2\0\0"), "byte 13: canonical section has 1 bytes too many" },
        { "canon count", B("\x08\1\1"), "byte 10: 1 canonical functions announced, 0 bytes" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
        (void)ast_buf_add_lit(&b, COMPONENT);
        (void)ast_buf_add(&b, cases[i].tail);
        assert_refused(cases[i].what, ast_buf_view(&b), cases[i].says);
    }
}

#define MEM        "\5\3\1\0\1"
#define MEM_EXPORT "\7\x0a\1\6memory\2\0"

/* Each row is what follows a core module's preamble. */
static void core_sections_are_refused(void **state)
{
    static const struct {
        const char *what;
        struct ast_str tail;
        const char *says;
    } cases[] = {
        { "no export", B(MEM), "it does not export its memory" },
        { "two memories", B("\5\5\2\0\1\0\1" MEM_EXPORT), "more than one memory" },
        { "imported memory", B("\2\7\1\1m\0\2\0\1" MEM_EXPORT), "it imports its memory" },
        { "`memory` is a function",
          B("\1\4\1\x60\0\0\3\2\1\0" MEM "\7\x0a\1\6memory\0\0\x0a\4\1\2\0\x0b"),
          "it does not export its memory" },
        { "memory index", B(MEM "\7\x0a\1\6memory\2\1"), "export `memory` has index 1" },
        { "shared", B("\5\4\1\3\1\1" MEM_EXPORT), "shared, 64-bit or odd-paged" },
        { "64-bit", B("\5\3\1\4\1" MEM_EXPORT), "shared, 64-bit or odd-paged" },
        { "page size", B("\5\4\1\x08\1\0" MEM_EXPORT), "shared, 64-bit or odd-paged" },
        { "limits flags", B("\5\3\1\x10\1"), "byte 11: unknown limits flags 0x10" },
        { "memory section rest", B("\5\4\1\0\1\0"), "byte 13: memory section has 1 bytes" },
        { "memory cut", B("\5\2\1\0"), "byte 12: limits minimum: the bytes end here" },
        { "section twice", B(MEM MEM), "byte 13: memory section is out of order" },
        { "order", B(MEM_EXPORT MEM), "byte 20: memory section is out of order" },
        { "unknown section", B("\x0e\0"), "byte 8: unknown core section 14" },
        { "section too long", B("\1\5\0"), "byte 9: type section of 5 bytes, 1 bytes left" },
        { "global import", B("\2\6\1\0\0\3\x7f\0" MEM MEM_EXPORT), "byte 11: main module imports" },
        { "table import", B("\2\x09\1\0\0\1\x63\x70\0\1\0" MEM MEM_EXPORT),
          "byte 18: import section has 1 bytes too many" },
        { "typed table import", B("\2\x08\1\0\0\1\x63\x70\0\1" MEM MEM_EXPORT),
          "byte 11: main module imports" },
        { "tag import", B("\2\6\1\0\0\4\0\0" MEM MEM_EXPORT), "byte 11: main module imports" },
        { "import kind", { "\2\5\1\0\0\5\0", 7 }, "byte 13: unknown import kind 0x05" },
        { "import count", B("\2\1\1"), "byte 10: 1 imports announced, 0 bytes left" },
        { "import name", B("\2\3\1\2x"), "byte 11: import module name of 2 bytes, 1 bytes" },
        { "import text", { "\2\5\1\0\1\xff\0", 7 }, "byte 12: import name is not UTF-8" },
        { "export kind", B(MEM "\7\4\1\0\5\0"), "byte 16: unknown export kind 0x05" },
        { "export twice", B(MEM "\7\x13\2\6memory\2\0\6memory\2\0"),
          "byte 25: `memory` is exported twice" },
        { "function count", B("\3\1\1"), "byte 10: 1 functions announced" },
        { "no bodies", B("\3\2\1\0" MEM MEM_EXPORT), "byte 29: 0 function bodies for 1" },
        { "bodies only", B(MEM MEM_EXPORT "\x0a\4\1\2\0\x0b"), "1 function bodies for 0" },
        { "run out of range", B(MEM "\7\x10\2\6memory\2\0\3run\0\0"), "export `run` has index 0" },
        { "cm32p2 import",
          B("\2\x0f\1\x0a"
            "cm32p2|a|b\1f\0\0"),
          "byte 11: built with the cm32p2 name mangling" },
        { "cm32p2 memory",
          B(MEM "\7\x11\1\x0d"
                "cm32p2_memory\2\0"),
          "byte 16: built with the cm32p2 name mangling" },
        { "cm32p2 export",
          B(MEM "\7\x0f\1\x0b"
                "cm32p2||run\0\0"),
          "byte 16: built with the cm32p2 name mangling" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
        (void)ast_buf_add_lit(&b, CORE);
        (void)ast_buf_add(&b, cases[i].tail);
        assert_refused(cases[i].what, ast_buf_view(&b), cases[i].says);
    }
}

static void a_hook_without_realloc_is_refused(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
    struct main_spec spec = echo;
    spec.exports[1].name = "cabi_realloc_other";

    put_main(&b, &spec);
    assert_refused("core", ast_buf_view(&b), "but not `cabi_realloc`");

    ast_buf_reset(&b);
    (void)ast_buf_add_lit(&b, COMPONENT);
    put_main_module(&b, &spec);
    assert_refused("component", ast_buf_view(&b), "but not `cabi_realloc`");

    ast_buf_reset(&b);
    spec.exports[2].kind = TABLE; /* not a function, so no hook */
    put_main(&b, &spec);
    assert_false(assert_accepted("no hook", ast_buf_view(&b)).has_hook);
}

/* What stands beside main must be shim or fixup. */
static void adapters_are_refused(void **state)
{
    static const struct {
        const char *what;
        struct ast_str module;
        const char *says; /* NULL: accepted */
    } cases[] = {
        { "shim", B(CORE "\4\4\1\x70\0\0\7\7\1\3tab\1\0"), NULL },
        { "shim with memory", B(CORE "\4\4\1\x70\0\0" MEM "\7\7\1\3tab\1\0"),
          "core module 1: byte" },
        { "shim with data", B(CORE "\4\4\1\x70\0\0\7\7\1\3tab\1\0\x0b\3\1\1\0"), "nor shim" },
        { "shim with import", B(CORE "\2\5\1\0\0\0\0\4\4\1\x70\0\0\7\7\1\3tab\1\0"),
          "nor shim nor fixup" },
        { "shim with start",
          B(CORE "\1\4\1\x60\0\0\3\2\1\0\4\4\1\x70\0\0\7\7\1\3tab\1\0\x08\1\0\x0a\4\1\2\0\x0b"),
          "nor shim nor fixup" },
        { "export without table", B(CORE "\7\6\1\2gl\3\0"), "nor shim nor fixup" },
        { "fixup", B(CORE "\2\7\1\0\0\1\x70\0\0"), NULL },
        { "fixup with data", B(CORE "\x0b\3\1\1\0"), "nor shim nor fixup" },
        { "fixup with imported memory", B(CORE "\2\6\1\0\0\2\0\0"), "it imports its memory" },
        { "fixup with function", B(CORE "\3\2\1\0\x0a\4\1\2\0\x0b"), "nor shim nor fixup" },
        { "second main", B(CORE MEM MEM_EXPORT), "a second main module, after core module 0" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
        (void)ast_buf_add_lit(&b, COMPONENT);
        put_main_module(&b, &least);
        put_module(&b, cases[i].module);
        if (cases[i].says)
            assert_refused(cases[i].what, ast_buf_view(&b), cases[i].says);
        else
            (void)assert_accepted(cases[i].what, ast_buf_view(&b));
    }
}

/* --- Limits: at the limit and one above ---------------------------------------------------------- */

static void put_items(struct ast_buf *b, uint32_t count, struct ast_str item)
{
    put_u32(b, count);
    for (uint32_t i = 0; i < count; i++)
        (void)ast_buf_add(b, item);
}

/* A main module with `imports` imports and `exports` exports. */
static void put_crowd(struct ast_buf *b, uint32_t imports, uint32_t exports)
{
    AST_AUTO(ast_buf_done) struct ast_buf s = AST_BUF_INIT(4u << 20);

    (void)ast_buf_add_lit(b, CORE);
    put_items(&s, imports, AST_STR("\0\0\0\0"));
    put_section(b, 2, ast_buf_view(&s));
    (void)ast_buf_add_lit(b, MEM);
    ast_buf_reset(&s);
    put_u32(&s, exports);
    (void)ast_buf_add_lit(&s, "\6memory\2\0");
    for (uint32_t i = 1; i < exports; i++)
        (void)ast_buf_add_lit(&s, "\1x\3\0");
    put_section(b, 7, ast_buf_view(&s));
}

static void import_and_export_counts_are_limited(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4u << 20);

    put_crowd(&b, AST_COMPONENT_MAX_IMPORTS, AST_COMPONENT_MAX_EXPORTS);
    (void)assert_accepted("at the limits", ast_buf_view(&b));
    ast_buf_reset(&b);
    put_crowd(&b, AST_COMPONENT_MAX_IMPORTS + 1, 1);
    assert_refused("imports", ast_buf_view(&b), "10001 imports, at most 10000 are allowed");
    ast_buf_reset(&b);
    put_crowd(&b, 0, AST_COMPONENT_MAX_EXPORTS + 1);
    assert_refused("exports", ast_buf_view(&b), "100001 exports, at most 100000 are allowed");
}

static void name_lengths_are_limited(void **state)
{
    static char letters[AST_COMPONENT_MAX_NAME + 1];
    memset(letters, 'a', sizeof letters);

    for (unsigned over = 0; over < 2; over++) {
        struct ast_str name = ast_str_n(letters, AST_COMPONENT_MAX_NAME + over);
        for (unsigned where = 0; where < 3; where++) { /* import module, import name, export name */
            AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(1u << 16);
            AST_AUTO(ast_buf_done) struct ast_buf s = AST_BUF_INIT(1u << 16);
            (void)ast_buf_add_lit(&b, CORE);
            (void)ast_buf_add_lit(&s, "\1");
            put_name(&s, where == 0 ? name : AST_STR("m"));
            put_name(&s, where == 1 ? name : AST_STR("n"));
            (void)ast_buf_add_lit(&s, "\0\0");
            put_section(&b, 2, ast_buf_view(&s));
            (void)ast_buf_add_lit(&b, MEM);
            ast_buf_reset(&s);
            (void)ast_buf_add_lit(&s, "\2\6memory\2\0");
            put_name(&s, where == 2 ? name : AST_STR("x"));
            (void)ast_buf_add_lit(&s, "\2\0");
            put_section(&b, 7, ast_buf_view(&s));
            if (over)
                assert_refused("name", ast_buf_view(&b),
                               "has 4097 bytes, at most 4096 are allowed");
            else
                (void)assert_accepted("name", ast_buf_view(&b));
        }
    }
}

static void put_canon(struct ast_buf *b, uint32_t count)
{
    AST_AUTO(ast_buf_done) struct ast_buf s = AST_BUF_INIT(1u << 20);

    put_items(&s, count, AST_STR("\3\0")); /* resource.drop */
    put_section(b, 8, ast_buf_view(&s));
}

static void canonical_functions_are_limited_over_all_sections(void **state)
{
    static const uint32_t parts[][2] = {
        { AST_COMPONENT_MAX_CANON, 0 },
        { 1, AST_COMPONENT_MAX_CANON - 1 },
        { AST_COMPONENT_MAX_CANON + 1, 0 },
        { 1, AST_COMPONENT_MAX_CANON },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(parts); i++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(1u << 20);
        (void)ast_buf_add_lit(&b, COMPONENT);
        put_main_module(&b, &least);
        put_canon(&b, parts[i][0]);
        put_canon(&b, parts[i][1]);
        if (parts[i][0] + parts[i][1] > AST_COMPONENT_MAX_CANON)
            assert_refused("canon", ast_buf_view(&b), "more canonical functions than the 100000");
        else
            (void)assert_accepted("canon", ast_buf_view(&b));
    }
}

static void canonical_options_are_limited(void **state)
{
    for (uint32_t over = 0; over < 2; over++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
        AST_AUTO(ast_buf_done) struct ast_buf s = AST_BUF_INIT(4096);
        (void)ast_buf_add_lit(&b, COMPONENT);
        put_main_module(&b, &least);
        (void)ast_buf_add_lit(&s, "\1\1\0\0"); /* one lower of function 0 */
        put_items(&s, AST_COMPONENT_MAX_OPTIONS + over, AST_STR("\0"));
        put_section(&b, 8, ast_buf_view(&s));
        if (over)
            assert_refused("options", ast_buf_view(&b), "17 canonical options, at most 16");
        else
            (void)assert_accepted("options", ast_buf_view(&b));
    }
}

static void core_modules_are_limited(void **state)
{
    for (uint32_t over = 0; over < 2; over++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
        (void)ast_buf_add_lit(&b, COMPONENT);
        put_main_module(&b, &least);
        for (uint32_t i = 1; i < AST_COMPONENT_MAX_MODULES + over; i++)
            put_module(&b, fixup);
        if (over)
            assert_refused("modules", ast_buf_view(&b), "one core module more than the 16 allowed");
        else
            (void)assert_accepted("modules", ast_buf_view(&b));
    }
}

static void file_size_is_limited(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
    put_main(&b, &least);
    char *big = calloc(1, AST_COMPONENT_MAX_BYTES + 1);
    assert_non_null(big);
    memcpy(big, b.p, b.n);
    /* One custom section fills the rest: id, size in four bytes, that many zeroes. */
    size_t rest = AST_COMPONENT_MAX_BYTES - b.n - 5;
    for (unsigned i = 0; i < 4; i++)
        big[b.n + 1 + i] = (char)((rest >> (7 * i) & 0x7f) | (i < 3 ? 0x80 : 0));

    (void)assert_accepted("64 MiB", ast_str_n(big, AST_COMPONENT_MAX_BYTES));
    assert_refused("64 MiB and one", ast_str_n(big, AST_COMPONENT_MAX_BYTES + 1u),
                   "file has 67108865 bytes, at most 67108864 are allowed");
    free(big);
}

/* --- spec 05 §4.2 ------------------------------------------------------------------------------------- */

static const struct trio_case {
    const char *what;
    struct main_spec spec; /* `memory` is added */
    bool run, install, upgrade;
} trio_cases[] = {
    { "all share one function",
      { .bodies = { BODY_NOP },
        .exports = { { "run", FUNC, 0 },
                     { "astrid-install", FUNC, 0 },
                     { "astrid-upgrade", FUNC, 0 } } },
      false,
      false,
      false },
    { "all distinct",
      { .bodies = { BODY_NOP, BODY_NOP2, BODY_LOCALS },
        .exports = { { "run", FUNC, 0 },
                     { "astrid-install", FUNC, 1 },
                     { "astrid-upgrade", FUNC, 2 } } },
      true,
      true,
      true },
    { "run distinct, hooks share",
      { .bodies = { BODY_NOP, BODY_EMPTY },
        .exports = { { "run", FUNC, 0 },
                     { "astrid-install", FUNC, 1 },
                     { "astrid-upgrade", FUNC, 1 } } },
      true,
      false,
      false },
    { "run and upgrade share",
      { .bodies = { BODY_EMPTY, BODY_NOP },
        .exports = { { "run", FUNC, 0 },
                     { "astrid-install", FUNC, 1 },
                     { "astrid-upgrade", FUNC, 0 } } },
      false,
      true,
      false },
    { "run alone",
      { .bodies = { BODY_NOP }, .exports = { { "run", FUNC, 0 } } },
      true,
      false,
      false },
    { "install alone",
      { .bodies = { BODY_NOP }, .exports = { { "astrid-install", FUNC, 0 } } },
      false,
      true,
      false },
    { "none",
      { .bodies = { BODY_NOP }, .exports = { { "other", FUNC, 0 } } },
      false,
      false,
      false },
    { "run is no function",
      { .bodies = { BODY_NOP },
        .exports = { { "run", MEMORY, 0 }, { "astrid-install", FUNC, 0 } } },
      false,
      true,
      false },
    { "sharing with a name outside the trio",
      { .bodies = { BODY_NOP }, .exports = { { "run", FUNC, 0 }, { "_initialize", FUNC, 0 } } },
      true,
      false,
      false },
    { "run has an empty body",
      { .bodies = { BODY_EMPTY }, .exports = { { "run", FUNC, 0 } } },
      false,
      false,
      false },
    { "run has only locals",
      { .bodies = { BODY_LOCALS }, .exports = { { "run", FUNC, 0 } } },
      false,
      false,
      false },
    { "run has only a reference local",
      { .bodies = { AST_STR("\1\1\x63\x70\x0b") }, .exports = { { "run", FUNC, 0 } } },
      false,
      false,
      false },
    { "run has the body of install",
      { .bodies = { BODY_NOP, BODY_NOP, BODY_NOP2 },
        .exports = { { "run", FUNC, 0 },
                     { "astrid-install", FUNC, 1 },
                     { "astrid-upgrade", FUNC, 2 } } },
      false,
      true,
      true },
    { "run has the body of upgrade",
      { .bodies = { BODY_NOP2, BODY_EMPTY, BODY_NOP },
        .exports = { { "run", FUNC, 2 },
                     { "astrid-install", FUNC, 1 },
                     { "astrid-upgrade", FUNC, 2 } } },
      false,
      true,
      false },
    { "three copies of an unmerged stub",
      { .bodies = { BODY_NOP, BODY_NOP, BODY_NOP },
        .exports = { { "run", FUNC, 0 },
                     { "astrid-install", FUNC, 1 },
                     { "astrid-upgrade", FUNC, 2 } } },
      false,
      true,
      true },
    { "the body is counted behind the imports",
      { .imports = 2,
        .bodies = { BODY_NOP, BODY_EMPTY },
        .exports = { { "run", FUNC, 2 }, { "astrid-install", FUNC, 3 } } },
      true,
      true,
      false },
    { "the empty body is counted behind the imports",
      { .imports = 2,
        .bodies = { BODY_NOP, BODY_EMPTY },
        .exports = { { "run", FUNC, 3 }, { "astrid-install", FUNC, 2 } } },
      false,
      true,
      false },
    { "run is an import",
      { .imports = 1, .bodies = { BODY_NOP }, .exports = { { "run", FUNC, 0 } } },
      true,
      false,
      false },
    { "a body like run's outside the trio",
      { .bodies = { BODY_NOP, BODY_NOP }, .exports = { { "run", FUNC, 0 }, { "other", FUNC, 1 } } },
      true,
      false,
      false },
};

static void check_trio(const struct trio_case *t)
{
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
    struct main_spec spec = t->spec;
    size_t n = 0;
    while (spec.exports[n].name)
        n++;
    spec.exports[n] = (struct exported){ "memory", MEMORY, 0 };

    put_main(&b, &spec);
    struct ast_component c = assert_accepted(t->what, ast_buf_view(&b));
    if (c.has_run != t->run || c.has_install != t->install || c.has_upgrade != t->upgrade)
        fail_msg("%s: run %d install %d upgrade %d", t->what, c.has_run, c.has_install,
                 c.has_upgrade);
}

static void c05_07_one_shared_function_index_is_none_of_the_trio(void **state)
{
    check_trio(&trio_cases[0]);
}

static void c05_08_a_distinct_run_index_is_a_run_loop(void **state)
{
    check_trio(&trio_cases[2]);
}

static void c07_54_aliased_exports_are_stubs_and_distinct_ones_real(void **state)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(trio_cases); i++)
        check_trio(&trio_cases[i]);
}

static void a_broken_body_of_run_is_refused(void **state)
{
    /* The first body says it is longer than the section. */
    assert_refused("body",
                   AST_STR(CORE "\3\2\1\0" MEM "\7\x10\2\6memory\2\0\3run\0\0"
                                "\x0a\4\1\3\0\x0b"),
                   "function body of 3 bytes, 2 bytes left");
}

/* --- Imports ------------------------------------------------------------------------------------------ */

struct seen {
    struct ast_str module, name[4];
    size_t count, stop_at;
};

static bool note(void *arg, struct ast_str module, struct ast_str name)
{
    struct seen *s = arg;

    s->module = module;
    s->name[s->count++] = name;
    return s->count < s->stop_at;
}

static void imports_come_in_order_until_told_to_stop(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
    struct main_spec spec = least;
    spec.imports = 3;
    spec.exports[1].index = 3;
    (void)ast_buf_add_lit(&b, COMPONENT);
    put_main_module(&b, &spec);
    struct ast_component c = assert_accepted("imports", ast_buf_view(&b));

    struct seen all = { .stop_at = 4 }, two = { .stop_at = 2 };
    assert_int_equal(ast_component_imports(&c, note, &all, NULL), AST_OK);
    assert_int_equal(all.count, 3);
    assert_true(ast_str_is(all.module, "astrid:sys/host@1.0.0"));
    assert_true(ast_str_is(all.name[0], "f0") && ast_str_is(all.name[2], "f2"));
    assert_int_equal(ast_component_imports(&c, note, &two, NULL), AST_OK);
    assert_int_equal(two.count, 2);
}

static void a_module_without_imports_has_none(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
    put_main(&b, &least);
    struct ast_component c = assert_accepted("least", ast_buf_view(&b));
    struct seen s = { .stop_at = 4 };

    assert_int_equal(ast_component_imports(&c, note, &s, NULL), AST_OK);
    assert_int_equal(s.count, 0);
}

static void imports_of_an_unscanned_module_fail_cleanly(void **state)
{
    static const struct {
        struct ast_str main;
        const char *says;
    } cases[] = {
        { { NULL, 0 }, "too few" },
        { B(COMPONENT), "a component where a core module belongs" },
        { B(CORE "\2\5\1\1m\2x"), "byte 13: import name of 2 bytes, 1 bytes left" },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_component c = { .main = cases[i].main };
        struct ast_err err = AST_ERR_INIT;
        struct seen s = { .stop_at = 4 };
        assert_int_equal(ast_component_imports(&c, note, &s, &err), AST_E_BAD_COMPONENT);
        assert_says(&err, "imports", cases[i].says);
        assert_int_equal(s.count, 0);
    }
}

/* --- Damage -------------------------------------------------------------------------------------------- */

/* Scans an exact copy, so that a read past its end is a sanitizer report; true when accepted. */
static bool scan_copy(struct ast_str bytes)
{
    char *copy = malloc(bytes.n ? bytes.n : 1);
    assert_non_null(copy);
    if (bytes.n)
        memcpy(copy, bytes.p, bytes.n);
    struct ast_str whole = ast_str_n(copy, bytes.n);
    struct ast_component c, again;
    struct ast_err err = AST_ERR_INIT;
    bool ok = ast_component_scan(whole, &c, &err) == AST_OK;

    if (ok) {
        assert_inside(c.main, whole);
        assert_int_equal(ast_component_scan(c.main, &again, NULL), AST_OK);
        assert_true(again.is_core_module && ast_str_eq(again.main, c.main));
        struct seen s = { .stop_at = 1 };
        assert_int_equal(ast_component_imports(&c, note, &s, NULL), AST_OK);
    } else {
        assert_int_equal(err.rc, AST_E_BAD_COMPONENT);
        assert_non_null(strstr(err.msg, "byte "));
    }
    free(copy);
    return ok;
}

static void put_each(unsigned which, struct ast_buf *b)
{
    switch (which) {
    case 0: put_good(b); break;
    case 1: put_main(b, &echo); break;
    case 2:
        (void)ast_buf_add_lit(b, COMPONENT);
        put_main_module(b, &echo);
        put_module(b, shim);
        put_module(b, fixup);
        put_canon(b, 3);
        break;
    }
}

enum { EACH = 3 };

static void truncation_is_refused_or_leaves_main_whole(void **state)
{
    for (unsigned w = 0; w < EACH; w++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
        put_each(w, &b);
        struct ast_component c = assert_accepted("whole", ast_buf_view(&b));
        size_t main_end = (size_t)(c.main.p - b.p) + c.main.n;
        for (size_t n = 0; n < b.n; n++)
            if (scan_copy(ast_str_first(ast_buf_view(&b), n)) && n < main_end)
                fail_msg("binary %u cut to %zu of %zu bytes passes", w, n, b.n);
    }
}

static void damaged_bytes_never_crash(void **state)
{
    static const uint8_t values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };

    for (unsigned w = 0; w < EACH; w++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
        put_each(w, &b);
        for (size_t i = 0; i < b.n; i++) {
            char was = b.p[i];
            for (unsigned bit = 0; bit < 8; bit++) {
                b.p[i] = (char)(was ^ (1 << bit));
                (void)scan_copy(ast_buf_view(&b));
            }
            for (size_t v = 0; v < AST_ARRAY_LEN(values); v++) {
                b.p[i] = (char)values[v];
                (void)scan_copy(ast_buf_view(&b));
            }
            b.p[i] = was;
        }
        assert_true(scan_copy(ast_buf_view(&b)));
    }
}

/* --- Seeds ---------------------------------------------------------------------------------------------- */

static bool write_seed(const char *dir, const char *name, struct ast_str bytes)
{
    char path[512];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return false;
    FILE *f = fopen(path, "wbe");
    if (!f)
        return false;
    bool ok = fwrite(bytes.p, 1, bytes.n, f) == bytes.n;
    return fclose(f) == 0 && ok;
}

static int write_seeds(const char *dir)
{
    static const char *const names[EACH] = { "wired.wasm", "core.wasm", "three-modules.wasm" };
    bool ok = true;

    for (unsigned w = 0; w < EACH; w++) {
        AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
        put_each(w, &b);
        ok = write_seed(dir, names[w], ast_buf_view(&b)) && ok;
    }
    AST_AUTO(ast_buf_done) struct ast_buf b = AST_BUF_INIT(4096);
    struct main_spec spec = least;
    spec.exports[2] = (struct exported){ "_initialize", FUNC, 0 };
    (void)ast_buf_add_lit(&b, COMPONENT);
    put_main_module(&b, &spec);
    put_module(&b, starter);
    ok = write_seed(dir, "initialize.wasm", ast_buf_view(&b)) && ok;
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--seeds"))
        return write_seeds(argv[2]);

    const struct CMUnitTest tests[] = {
        cmocka_unit_test(main_shim_and_fixup_give_main),
        cmocka_unit_test(a_component_may_hold_only_main),
        cmocka_unit_test(a_core_module_is_its_own_main),
        cmocka_unit_test(a_start_module_needs_initialize_in_main),
        cmocka_unit_test(numbers_may_be_longer_than_needed),
        cmocka_unit_test(whole_files_are_refused),
        cmocka_unit_test(component_sections_are_refused),
        cmocka_unit_test(core_sections_are_refused),
        cmocka_unit_test(a_hook_without_realloc_is_refused),
        cmocka_unit_test(adapters_are_refused),
        cmocka_unit_test(import_and_export_counts_are_limited),
        cmocka_unit_test(name_lengths_are_limited),
        cmocka_unit_test(canonical_functions_are_limited_over_all_sections),
        cmocka_unit_test(canonical_options_are_limited),
        cmocka_unit_test(core_modules_are_limited),
        cmocka_unit_test(file_size_is_limited),
        cmocka_unit_test(c05_07_one_shared_function_index_is_none_of_the_trio),
        cmocka_unit_test(c05_08_a_distinct_run_index_is_a_run_loop),
        cmocka_unit_test(c07_54_aliased_exports_are_stubs_and_distinct_ones_real),
        cmocka_unit_test(a_broken_body_of_run_is_refused),
        cmocka_unit_test(imports_come_in_order_until_told_to_stop),
        cmocka_unit_test(a_module_without_imports_has_none),
        cmocka_unit_test(imports_of_an_unscanned_module_fail_cleanly),
        cmocka_unit_test(truncation_is_refused_or_leaves_main_whole),
        cmocka_unit_test(damaged_bytes_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
