/* Capsule.toml from anywhere: refused with a text, or every path and name in it is safe to use. */
#include "capsule/manifest.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AST_AUTO(ast_manifest_free) struct ast_manifest *m = NULL;
    struct ast_str held[11];
    struct ast_err err = AST_ERR_INIT;
    enum ast_rc rc = ast_manifest_parse(ast_str_n(data, size), &m, &err);

    if (rc) {
        AST_ASSERT(!m && err.rc == rc && err.msg[0]);
        return 0;
    }
    AST_ASSERT(m->name.n > 0 && m->version.n > 0);
    AST_ASSERT(ast_manifest_held(m, held) <= AST_ARRAY_LEN(held));
    return 0;
}
