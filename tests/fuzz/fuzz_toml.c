/* TOML from anywhere: what is accepted is a bounded object that prints and reads back as JSON. */
#include "base/toml.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL, *again = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(64 * size + 64);
    struct ast_err err = AST_ERR_INIT;
    enum ast_rc rc = ast_toml_parse(ast_str_n(data, size), &doc, &err);
    if (rc) {
        AST_ASSERT(!doc && err.rc == rc && err.msg[0]);
        AST_ASSERT(rc == AST_E_INVALID || rc == AST_E_TOO_LARGE);
        return 0;
    }
    AST_ASSERT(ast_json_type(ast_json_root(doc)) == AST_JSON_OBJECT);
    AST_ASSERT(!ast_json_canonical(ast_json_root(doc), &text));
    AST_ASSERT(!ast_json_parse(ast_buf_view(&text), &again, NULL));
    AST_ASSERT(ast_json_count(ast_json_root(again)) == ast_json_count(ast_json_root(doc)));
    return 0;
}
