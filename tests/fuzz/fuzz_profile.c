/* A profile from anywhere: refused with a text, or what is granted is a valid capability pattern that matches itself. */
#include "policy/capability.h"
#include "policy/profile.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *p = NULL;
    struct ast_err err = AST_ERR_INIT;
    enum ast_rc rc = ast_profile_parse(ast_str_n(data, size), &p, &err);

    if (rc) {
        AST_ASSERT(!p && err.rc == rc && err.msg[0]);
        return 0;
    }
    for (size_t i = 0; i < p->grants.n; i++) {
        AST_ASSERT(!ast_cap_check(p->grants.v[i], &err));
        AST_ASSERT(ast_cap_match(p->grants.v[i], p->grants.v[i]));
    }
    return 0;
}
