/* Versions and requirements from manifests: what is accepted prints canonically, and the print means the same. */
#include "capsule/semver.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ast_str rest = ast_str_n(data, size), req_text, version_text;
    AST_AUTO(ast_buf_done)
    struct ast_buf once = AST_BUF_INIT(1 << 20), twice = AST_BUF_INIT(1 << 20);
    struct ast_semver_req req, again;
    struct ast_semver version;
    struct ast_err err = AST_ERR_INIT;
    bool more = true;

    (void)ast_str_split(&rest, &more, '\n', &req_text);
    version_text = more ? rest : ast_str_c("1.2.3");
    bool has_version = !ast_semver_parse(version_text, &version, &err);
    if (has_version)
        AST_ASSERT(ast_semver_cmp(&version, &version) == 0);
    if (ast_semver_req_parse(req_text, &req, &err)) {
        AST_ASSERT(err.msg[0]);
        return 0;
    }
    AST_ASSERT(!ast_semver_req_print(&req, &once));
    AST_ASSERT(!ast_semver_req_parse(ast_buf_view(&once), &again, &err));
    AST_ASSERT(!ast_semver_req_print(&again, &twice));
    AST_ASSERT(ast_str_eq(ast_buf_view(&once), ast_buf_view(&twice)));
    if (has_version)
        AST_ASSERT(ast_semver_matches(&req, &version) == ast_semver_matches(&again, &version));
    return 0;
}
