/* Every admin request with any parameters, through the one door of a whole kernel, from an administrator and from somebody
 * without rights. One answer each, well formed; who has no rights changes nothing; what an administrator has done is a state
 * that loads: every profile and the groups parse from their files.
 *
 * Input: a byte for who asks, one for the request (255: the rest is the whole request), then the parameters as JSON. */
#include "kernel/admin_priv.h"
#include "kernel_rig.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Principals pile up while a fuzzer runs; each is looked at after every change. */
#define MANY_PRINCIPALS 64u

struct look {
    size_t count;
    bool nobody_is_there;
    char first[AST_PRINCIPAL_MAX + 1]; /* one that is not the bootstrap's; empty: none */
};

static bool look_at(void *arg, struct ast_str principal, const struct ast_profile *profile)
{
    struct look *l = arg;
    AST_ASSERT(!ast_profile_check(profile, NULL));
    l->count++;
    l->nobody_is_there |= ast_str_is(principal, "nobody");
    if (!ast_str_eq(principal, AST_PRINCIPAL_DEFAULT))
        AST_ASSERT(ast_str_to_c(principal, l->first, sizeof l->first));
    return true;
}

static struct look look(void)
{
    struct look l = { .count = 0 };
    AST_ASSERT(!ast_policy_each_profile(ast_kernel_host(rig.k)->policy, look_at, &l, NULL));
    return l;
}

static size_t row_count(void)
{
    size_t n = 0;
    while (admin_row_at(n))
        n++;
    return n;
}

static struct ast_str ask(const char *caller, const struct ast_json *request,
                          struct ast_json_doc **ret_answer)
{
    return rig_ask(ast_kernel_admin, caller, request, ret_answer);
}

static void must(struct ast_str method, const char *params)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *request = rig_request(method, ast_str_c(params));
    AST_AUTO(ast_json_free) struct ast_json_doc *answer = NULL;
    AST_ASSERT(request && ast_str_is(ask("default", ast_json_root(request), &answer), "Success"));
}

/* The files say what the running daemon says. */
static void check_files(void)
{
    struct ast_policy *again = NULL;
    struct ast_err err = AST_ERR_INIT;
    rig_must(ast_policy_open(&rig.home, &again, &err), "the groups do not load any more", &err);
    ast_policy_close(again);
}

static void tidy(struct look *l)
{
    for (; l->count > MANY_PRINCIPALS && l->first[0]; *l = look()) {
        char params[AST_PRINCIPAL_MAX + 32];
        snprintf(params, sizeof params, "{\"principal\":\"%s\"}", l->first);
        must(AST_STR("AgentDelete"), params);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *request = NULL, *answer = NULL;
    rig_start(/* with_socket= */ false);
    if (size < 2)
        return 0;
    struct ast_str rest = ast_str_n(data + 2, size - 2);
    bool may = data[0] & 1;
    if (data[1] == 255) {
        if (ast_json_parse(rest, &request, NULL))
            return 0;
    } else if (!(request = rig_request(admin_row_at(data[1] % row_count())->method, rest))) {
        return 0;
    }

    struct look before = look();
    if (before.nobody_is_there) { /* somebody made that name; it is to have no rights */
        must(AST_STR("AgentDelete"), "{\"principal\":\"nobody\"}");
        before = look();
    }
    struct ast_str status = ask(may ? "default" : "nobody", ast_json_root(request), &answer);
    struct look after = look();
    if (may)
        check_files();
    else if (!ast_str_is(status, "InviteRedeemed") && !ast_str_is(status, "PairTokenRedeemed"))
        AST_ASSERT(ast_str_is(status, "Error") && before.count == after.count);
    AST_ASSERT(ast_policy_holds(ast_kernel_host(rig.k)->policy, AST_PRINCIPAL_DEFAULT,
                                AST_STR("agent:list"))); /* nobody is locked out */
    tidy(&after);
    return 0;
}
