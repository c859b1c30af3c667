/* What the tests of approval and elicit share: people with rights, the question on the bus, answers to it. */
#pragma once

#include "rig.h"

/* A profile file; an empty text removes the rights. */
static void ask_profile(struct rig *r, const char *name, const char *toml)
{
    AST_AUTO(ast_cfree) char *dir = ast_home_path(&r->home, AST_HOME_PROFILES);
    AST_AUTO(ast_cfree) char *path = ast_home_path(&r->home, AST_HOME_PROFILES "/%s.toml", name);
    RIG_OK(ast_fs_mkdirs(dir, 0700, &err));
    RIG_OK(ast_fs_write_atomic(path, ast_str_c(toml), 0600, 0, &err));
    ast_policy_invalidate(r->policy, ast_str_c(name));
}

/* alice and bob may answer for themselves, the operator `default` for everybody. */
static int ask_setup(void **state)
{
    int rc = rig_setup(state);
    struct rig *r = *state;
    ask_profile(r, "default", "groups = [\"admin\"]\n");
    ask_profile(r, "alice", "groups = [\"agent\"]\n");
    ask_profile(r, "bob", "groups = [\"agent\"]\n");
    return rc;
}

#define ASK_TEST(fn) cmocka_unit_test_setup_teardown(fn, ask_setup, rig_teardown)

static __attribute__((unused)) struct rig_call *ask_start(struct rig *r, const char *principal,
                                                          const char *script)
{
    AST_AUTO(ast_msg_unref) struct ast_msg *m = rig_msg("cause.x", "{}", principal);
    return rig_start_for(r, m, NULL, script);
}

/* The request id of a question that the capsule published; in `out`. */
static const char *ask_id(const struct ast_msg *m, char out[static AST_UUID_TEXT])
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_uuid id;
    RIG_OK(ast_json_parse(m->body, &doc, &err));
    struct ast_str text = ast_json_str_or(ast_json_root(doc), AST_STR("request_id"), AST_STR_NONE);
    assert_true(ast_uuid_parse(text, &id));
    return ast_uuid_format(&id, out).p;
}

/* Publishes {"type":<type>,"request_id":<id>,<members>} on <topic>.response.<id> for `principal`. */
static void ask_answer(struct rig *r, const char *topic, const char *type, const char *id,
                       const char *members, const char *principal)
{
    char on[128], json[512];
    (void)snprintf(on, sizeof on, "%s.response.%s", topic, id);
    (void)snprintf(json, sizeof json, "{\"type\":\"%s\",\"request_id\":\"%s\"%s%s}", type, id,
                   *members ? "," : "", members);
    rig_publish(r, on, json, principal);
}

static __attribute__((unused)) size_t ask_seen(struct rig *r)
{
    AST_WITH_LOCK(&r->lock);
    return r->seen.n;
}
