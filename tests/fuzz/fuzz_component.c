/* The extractor on any bytes: refusing is always allowed, and refusing says why. What it accepts lies inside
 * the input, and the main module taken alone is accepted again with the same verdicts. */
#include <stdint.h>

#include "wasm/component.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_inside(struct ast_str part, struct ast_str whole)
{
    return (uintptr_t)part.p >= (uintptr_t)whole.p &&
           (uintptr_t)part.p + part.n <= (uintptr_t)whole.p + whole.n;
}

static bool check_import(void *arg, struct ast_str module, struct ast_str name)
{
    struct ast_component *c = arg;

    AST_ASSERT(is_inside(module, c->main) && is_inside(name, c->main));
    AST_ASSERT(module.n <= AST_COMPONENT_MAX_NAME && name.n <= AST_COMPONENT_MAX_NAME);
    AST_ASSERT(ast_str_is_utf8(module) && ast_str_is_utf8(name));
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ast_str bytes = ast_str_n(data, size);
    struct ast_component c, again;
    struct ast_err err = AST_ERR_INIT;

    if (ast_component_scan(bytes, &c, &err)) {
        AST_ASSERT(err.rc == AST_E_BAD_COMPONENT && err.msg[0] != '\0');
        return 0;
    }
    AST_ASSERT(is_inside(c.main, bytes) && c.main.n >= 8);
    AST_ASSERT(c.has_realloc || !c.has_hook);
    AST_ASSERT(!c.is_core_module || ast_str_eq(c.main, bytes));
    AST_ASSERT(!ast_component_imports(&c, check_import, &c, NULL));

    AST_ASSERT(!ast_component_scan(c.main, &again, NULL) && again.is_core_module);
    AST_ASSERT(again.main.p == c.main.p && again.main.n == c.main.n);
    AST_ASSERT(again.has_hook == c.has_hook && again.has_realloc == c.has_realloc);
    AST_ASSERT(again.has_run == c.has_run && again.has_install == c.has_install &&
               again.has_upgrade == c.has_upgrade);
    return 0;
}
