/* The env file of a capsule from anywhere, as a load reads it: it is used or ignored, never half. Every declared key has one
 * text, keys that are not declared have none, and a secret ends in the secret store or stays where it was, but is in no
 * configuration.
 *
 * Input: the file. */
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"
#include "capsule/registry_priv.h"
#include "store/secrets.h"

#include "base/banned.h"

#define MEMORY_MAX (8u * 1024 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/ast-fuzz-env-XXXXXX";
static struct ast_home home;
static struct ast_host host;
static struct ast_manifest *manifest;
static char *env_path;

static const char text[] = "[package]\nname = \"fuzz\"\nversion = \"0.1.0\"\n"
                           "[env.plain]\ntype = \"text\"\n"
                           "[env.number]\ntype = \"number\"\ndefault = 3\n"
                           "[env.list]\ntype = \"array\"\n"
                           "[env.choice]\ntype = \"select\"\nenum_values = [\"a\", \"b\"]\n"
                           "[env.key]\ntype = \"secret\"\n";

static void teardown(void)
{
    ast_bus_free(host.bus);
    ast_store_close(host.store);
    ast_manifest_free(manifest);
    free(env_path);
    ast_home_done(&home);
    (void)ast_fs_remove_tree(dir, NULL); /* at exit there is nobody to tell */
}

static void setup(void)
{
    struct ast_log_config quiet = { .level = AST_LOG_OFF };
    struct ast_err err = AST_ERR_INIT;
    char path[64];
    AST_ASSERT(!ast_log_open(&quiet, NULL) && mkdtemp(dir));
    snprintf(path, sizeof path, "%s/db", dir);
    struct ast_store_config cfg = { .path = path, .no_sync = true, .max_bytes = 64u << 20 };
    AST_ASSERT(!ast_home_at(dir, &home, NULL) && !ast_home_ensure(&home, NULL) &&
               !ast_home_ensure_principal(&home, AST_PRINCIPAL_DEFAULT, NULL));
    AST_ASSERT(!ast_store_open(&cfg, &host.store, NULL) && !ast_bus_new(&host.bus, NULL));
    if (ast_manifest_parse(ast_str_c(text), &manifest, &err)) {
        fprintf(stderr, "fuzz_env: %s\n", err.msg);
        abort();
    }
    host.home = &home;
    env_path = ast_home_path(&home, "home/default/.config/env/fuzz.env.json");
    AST_ASSERT(env_path);
    atexit(teardown);
}

static bool is_declared(struct ast_str key, bool *ret_secret)
{
    for (size_t i = 0; i < manifest->env_count; i++) {
        if (!ast_str_eq(manifest->env[i].name, key))
            continue;
        *ret_secret = manifest->env[i].is_secret;
        return true;
    }
    return ast_str_is(key, "ASTRID_SOCKET_PATH");
}

static void check(const struct capsule *c)
{
    AST_ASSERT(c->env.config_count == manifest->env_count + 1); /* and the socket's path */
    for (size_t i = 0; i < c->env.config_count; i++) {
        const struct ast_host_pair *p = &c->env.config[i];
        bool secret = false;
        AST_ASSERT(is_declared(p->key, &secret) && p->value.p);
        AST_ASSERT(!secret || p->value.n == 0);
        AST_ASSERT(ast_str_is_utf8(p->value));
        if (i > 0)
            AST_ASSERT(ast_str_cmp(c->env.config[i - 1].key, p->key) < 0);
    }
}

/* What was there as a plain secret is in the store, and then not in the file. */
static void check_secret(void)
{
    AST_AUTO(ast_buf_done) struct ast_buf value = AST_BUF_INIT(AST_SECRET_FILE_MAX);
    AST_AUTO(ast_buf_done) struct ast_buf file = AST_BUF_INIT(4u * 1024 * 1024);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    bool found = false, existed;
    AST_ASSERT(!ast_secrets_get(home.root, AST_PRINCIPAL_DEFAULT, AST_STR("fuzz"), AST_STR("key"),
                                &value, &found, NULL));
    if (!found)
        return;
    AST_ASSERT(value.n > 0);
    AST_ASSERT(!ast_fs_read(env_path, 4u * 1024 * 1024, &file, NULL));
    AST_ASSERT(!ast_json_parse(ast_buf_view(&file), &doc, NULL));
    AST_ASSERT(ast_json_type(ast_json_get(ast_json_root(doc), AST_STR("key"))) != AST_JSON_STRING);
    AST_ASSERT(!ast_secrets_delete(home.root, AST_PRINCIPAL_DEFAULT, AST_STR("fuzz"),
                                   AST_STR("key"), &existed, NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ast_err err = AST_ERR_INIT;
    if (!manifest)
        setup();
    AST_ASSERT(!ast_fs_write_atomic(env_path, ast_str_n(data, size), 0600, 0, NULL));
    struct ast_capsules owner = { .host = &host };
    struct capsule_seat seat = { .id = AST_STR("fuzz") };
    struct capsule c = {
        .owner = &owner, .seat = &seat, .manifest = manifest, .memory = AST_ARENA_INIT(MEMORY_MAX)
    };
    AST_ASSERT(!ast_principal_parse(AST_PRINCIPAL_DEFAULT, &owner.owner, NULL));
    c.env.host = &host;
    enum ast_rc rc = capsule_config_resolve(&c, dir, /* extra= */ NULL, &err);
    AST_ASSERT(!rc); /* a file that cannot be used is ignored */
    check(&c);
    check_secret();
    ast_arena_done(&c.memory);
    return 0;
}
