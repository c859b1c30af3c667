/* Every kernel request with any parameters, through the one door of a whole kernel, from an administrator, an ordinary agent
 * and somebody without rights. One answer each, well formed; who has no rights gets nothing.
 *
 * Input: a byte for who asks, one for the request (255: the rest is the whole request), then the parameters as JSON. */
#include "kernel/kernel_priv.h"
#include "kernel_rig.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const methods[] = {
    "Shutdown",           "GetStatus",         "ReloadCapsules", "InstallCapsule",
    "ListCapsules",       "GetCommands",       "AuditQuery",     "AuditVerify",
    "GetCapsuleMetadata", "ApproveCapability", "GetActivity",    "no such method",
};
static const char *const callers[] = { "default", "agent", "nobody", "a.b" };

static void setup(void)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *agent = NULL;
    struct ast_err err = AST_ERR_INIT;
    rig_start(/* with_socket= */ false);
    rig_must(ast_profile_parse(AST_STR("groups = [\"agent\"]\n"), &agent, &err), "profile", &err);
    rig_must(ast_policy_set_profile(ast_kernel_host(rig.k)->policy, AST_STR("agent"), agent, &err),
             "profile", &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *request = NULL, *answer = NULL;
    if (!rig.k)
        setup();
    if (size < 2)
        return 0;
    struct ast_str rest = ast_str_n(data + 2, size - 2);
    const char *caller = callers[data[0] % AST_ARRAY_LEN(callers)];
    if (data[1] == 255)
        (void)ast_json_parse(rest, &request, NULL); /* told below */
    else
        request = rig_request(ast_str_c(methods[data[1] % AST_ARRAY_LEN(methods)]), rest);
    if (!request)
        return 0;
    struct ast_str status = rig_ask(ast_kernel_request, caller, ast_json_root(request), &answer);
    if (strcmp(caller, "nobody") == 0 || strcmp(caller, "a.b") == 0)
        AST_ASSERT(ast_str_is(status, "Error"));
    return 0;
}
