/* A thin reader of config.toml: three files, a handful of keys. Keys of other rooms are somebody else's. */
#include "daemon/config.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/toml.h"
#include "store/store.h"

#include "base/banned.h"

#define CONFIG_MAX_BYTES  1048576u
#define DEPTH_MAX         254u /* the counter of a message ends at 255 */
#define APPROVAL_SECS_MAX 86400u
#define INVITE_SECS_MAX   2592000u /* what a request may name itself */
#define MAX_CLIENTS_MAX   10000u

static void link_done(struct ast_kernel_link *l)
{
    free(l->platform);
    free(l->platform_user_id);
    free(l->astrid_user);
    free(l->method);
}

static void forget_links(struct ast_daemon_config *c)
{
    ast_vec_each (&c->links, l)
        link_done(l);
    ast_vec_done(&c->links);
}

void ast_daemon_config_done(struct ast_daemon_config *c)
{
    forget_links(c);
    free(c->log_directives);
    c->log_directives = NULL;
}

static const struct {
    const char *key, *variable;
    size_t offset;
} ceilings[] = {
#define C(key, variable, member)                                                                   \
    {                                                                                              \
        key, variable, offsetof(struct ast_daemon_config, member)                                  \
    }
    C("host_blocking_concurrency", "ASTRID_CAPSULE_HOST_BLOCKING_CONCURRENCY", blocking_max),
    C("host_io_concurrency", "ASTRID_CAPSULE_HOST_IO_CONCURRENCY", io_max),
    C("instance_pool_size", "ASTRID_CAPSULE_INSTANCE_POOL_SIZE", pool_max),
#undef C
};

static unsigned *ceiling_at(struct ast_daemon_config *c, size_t i)
{
    return (unsigned *)(void *)((char *)c + ceilings[i].offset);
}

static bool format_parse(struct ast_str s, enum ast_log_format *ret)
{
    static const char *const names[] = { [AST_LOG_COMPACT] = "compact",
                                         [AST_LOG_FULL] = "full",
                                         [AST_LOG_PRETTY] = "pretty",
                                         [AST_LOG_JSON] = "json" };
    for (size_t i = 0; i < AST_ARRAY_LEN(names); i++) {
        if (ast_str_eq(s, ast_str_c(names[i]))) {
            *ret = (enum ast_log_format)i;
            return true;
        }
    }
    return false;
}

static enum ast_rc set_directives(struct ast_daemon_config *c, struct ast_str text,
                                  struct ast_err *err)
{
    char *copy = ast_str_dup(text);
    if (!copy)
        return ast_fail(err, AST_E_NO_MEMORY, "logging directives");
    free(c->log_directives);
    c->log_directives = copy;
    return AST_OK;
}

static enum ast_rc read_logging(const struct ast_json *table, struct ast_daemon_config *c,
                                bool *level_set, struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(table, "level");
    struct ast_str text;

    if (v && (!ast_json_string(v, &text) || !ast_log_level_parse(text, &c->log_level)))
        return ast_fail(
            err, AST_E_INVALID,
            "Validation error in field 'logging.level': expected trace, debug, info, warn or error");
    *level_set = *level_set || v;
    v = ast_json_member(table, "format");
    if (v && ast_json_string(v, &text) && !format_parse(text, &c->log_format))
        c->log_format = AST_LOG_COMPACT; /* unknown means compact (spec 08 §13.1) */
    v = ast_json_member(table, "directives");
    if (!v)
        return AST_OK;
    AST_AUTO(ast_buf_done) struct ast_buf joined = AST_BUF_INIT(65536);
    struct ast_json_iter it = AST_JSON_ITER(v);
    const struct ast_json *element;
    struct ast_str unused;
    while (ast_json_next(&it, &unused, &element)) {
        if (!ast_json_string(element, &text))
            return ast_fail(err, AST_E_INVALID,
                            "Validation error in field 'logging.directives': expected strings");
        ast_buf_addf(&joined, "%s" AST_STR_FMT, joined.n ? "," : "", AST_STR_ARG(text));
    }
    enum ast_rc rc = ast_buf_check(&joined, "logging.directives", err);
    return rc ? rc : set_directives(c, ast_buf_view(&joined), err);
}

/* What capsules may expect of each other's messages (spec README §5 gaps 42 and 44). */
static enum ast_rc read_bus_rules(const struct ast_json *table, struct ast_daemon_config *c,
                                  struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(table, "claimed_attribution");
    uint64_t n = 0;

    if (v && !ast_json_bool(v, &c->shows_claims))
        return ast_fail(
            err, AST_E_INVALID,
            "Validation error in field 'capsule.claimed_attribution': expected true or false");
    v = ast_json_member(table, "publish_depth_max");
    if (v && (!ast_json_u64(v, &n) || n == 0 || n > DEPTH_MAX))
        return ast_fail(err, AST_E_INVALID,
                        "Validation error in field 'capsule.publish_depth_max': expected 1 to %u",
                        DEPTH_MAX);
    if (v)
        c->depth_max = (unsigned)n;
    return AST_OK;
}

/* Values that are stored already stay readable, whatever their size (spec README §5 gap 53). */
static enum ast_rc read_kv(const struct ast_json *table, struct ast_daemon_config *c,
                           struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(table, "kv_value_max_bytes");
    uint64_t n = 0;

    if (v && (!ast_json_u64(v, &n) || n == 0 || n > AST_STORE_MAX_VALUE))
        return ast_fail(err, AST_E_INVALID,
                        "Validation error in field 'capsule.kv_value_max_bytes': expected 1 to %u",
                        AST_STORE_MAX_VALUE);
    if (v)
        c->kv_value_max = n;
    return AST_OK;
}

static enum ast_rc read_capsule(const struct ast_json *table, struct ast_daemon_config *c,
                                struct ast_err *err)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(ceilings); i++) {
        const struct ast_json *v = ast_json_get(table, ast_str_c(ceilings[i].key));
        uint64_t n = 0;
        if (!v)
            continue;
        if (!ast_json_u64(v, &n) || n > UINT32_MAX)
            return ast_fail(err, AST_E_INVALID,
                            "Validation error in field 'capsule.%s': expected an unsigned integer",
                            ceilings[i].key);
        if (n == 0)
            return ast_fail(err, AST_E_INVALID,
                            "Validation error in field 'capsule.%s': %s must be greater than 0",
                            ceilings[i].key, ceilings[i].key);
        *ceiling_at(c, i) = (unsigned)n;
    }
    enum ast_rc rc = read_kv(table, c, err);
    return rc ? rc : read_bus_rules(table, c, err);
}

/* The original's rule (spec 02 §12.5): every agent installs for everybody. */
static enum ast_rc read_self_install(const struct ast_json *table, struct ast_daemon_config *c,
                                     struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(table, "self_install");

    if (v && !ast_json_bool(v, &c->agents_may_install))
        return ast_fail(err, AST_E_INVALID,
                        "Validation error in field 'capsule.self_install': expected true or false");
    return AST_OK;
}

static enum ast_rc read_uplink(const struct ast_json *table, struct ast_daemon_config *c,
                               struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(table, "own_questions_only");
    uint64_t n = 0;

    if (v && !ast_json_bool(v, &c->own_questions_only))
        return ast_fail(
            err, AST_E_INVALID,
            "Validation error in field 'uplink.own_questions_only': expected true or false");
    v = ast_json_member(table, "max_clients");
    if (v && (!ast_json_u64(v, &n) || n == 0 || n > MAX_CLIENTS_MAX))
        return ast_fail(err, AST_E_INVALID,
                        "Validation error in field 'uplink.max_clients': expected 1 to %u",
                        MAX_CLIENTS_MAX);
    if (v)
        c->max_clients = (unsigned)n;
    return AST_OK;
}

static enum ast_rc read_asking(const struct ast_json *root, struct ast_daemon_config *c,
                               struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(ast_json_member(root, "timeouts"), "approval_secs");
    uint64_t n = 0;

    if (v && (!ast_json_u64(v, &n) || n == 0 || n > APPROVAL_SECS_MAX))
        return ast_fail(err, AST_E_INVALID,
                        "Validation error in field 'timeouts.approval_secs': expected 1 to %u",
                        APPROVAL_SECS_MAX);
    if (v)
        c->approval_secs = (unsigned)n;
    return read_uplink(ast_json_member(root, "uplink"), c, err);
}

static enum ast_rc read_audit(const struct ast_json *table, struct ast_daemon_config *c,
                              struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(table, "fail_closed");
    bool is_closed = true;

    if (!v)
        return AST_OK;
    if (!ast_json_bool(v, &is_closed))
        return ast_fail(err, AST_E_INVALID,
                        "Validation error in field 'audit.fail_closed': expected true or false");
    c->audit_fail_open = !is_closed;
    return AST_OK;
}

static enum ast_rc read_invites(const struct ast_json *table, struct ast_daemon_config *c,
                                struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(table, "default_expires_secs");
    uint64_t n = 0;

    if (v && (!ast_json_u64(v, &n) || n > INVITE_SECS_MAX))
        return ast_fail(
            err, AST_E_INVALID,
            "Validation error in field 'invites.default_expires_secs': expected 0 to %u",
            INVITE_SECS_MAX);
    if (v)
        c->invite_secs = (unsigned)n;
    return AST_OK;
}

/* `*ret` is owned; NULL when an optional member is absent. */
static enum ast_rc read_text(const struct ast_json *table, const char *key, bool is_required,
                             char **ret, struct ast_err *err)
{
    const struct ast_json *v = ast_json_get(table, ast_str_c(key));
    struct ast_str text;

    if (!v && !is_required)
        return AST_OK;
    if (!ast_json_string(v, &text) || ast_str_find_byte(text, 0) != AST_STR_NPOS)
        return ast_fail(err, AST_E_INVALID,
                        "Validation error in field 'identity.links.%s': expected a string", key);
    *ret = ast_str_dup(text);
    return *ret ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "configuration");
}

static enum ast_rc read_link(const struct ast_json *table, struct ast_daemon_config *c,
                             struct ast_err *err)
{
    struct ast_kernel_link l = { .method = NULL };
    enum ast_rc rc = read_text(table, "platform", /* is_required= */ true, &l.platform, err);

    if (!rc)
        rc =
            read_text(table, "platform_user_id", /* is_required= */ true, &l.platform_user_id, err);
    if (!rc)
        rc = read_text(table, "astrid_user", /* is_required= */ true, &l.astrid_user, err);
    if (!rc)
        rc = read_text(table, "method", /* is_required= */ false, &l.method, err);
    if (!rc && !ast_vec_push(&c->links, l))
        rc = ast_fail(err, AST_E_NO_MEMORY, "configuration");
    if (rc)
        link_done(&l);
    return rc;
}

static enum ast_rc read_identity(const struct ast_json *root, struct ast_daemon_config *c,
                                 struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(ast_json_member(root, "identity"), "links");
    struct ast_json_iter it = AST_JSON_ITER(v);
    const struct ast_json *entry;
    struct ast_str unused;
    enum ast_rc rc = AST_OK;

    if (!v)
        return AST_OK;
    if (ast_json_type(v) != AST_JSON_ARRAY)
        return ast_fail(err, AST_E_INVALID,
                        "Validation error in field 'identity.links': expected tables");
    forget_links(c);
    while (!rc && ast_json_next(&it, &unused, &entry))
        rc = read_link(entry, c, err);
    return rc;
}

/* The one key of [gateway] that is not for the gateway: the name is older than the capsules. */
static enum ast_rc read_watch(const struct ast_json *table, struct ast_daemon_config *c,
                              struct ast_err *err)
{
    const struct ast_json *v = ast_json_member(table, "watch_plugins");

    if (v && !ast_json_bool(v, &c->watch_capsules))
        return ast_fail(
            err, AST_E_INVALID,
            "Validation error in field 'gateway.watch_plugins': expected true or false");
    return AST_OK;
}

/* NOT_FOUND when there is no such file. */
static enum ast_rc read_file(const char *path, struct ast_daemon_config *c, bool *level_set,
                             struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(CONFIG_MAX_BYTES);
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    enum ast_rc rc = ast_fs_read(path, CONFIG_MAX_BYTES, &text, err);

    if (rc == AST_E_NOT_FOUND)
        return rc;
    if (rc)
        return ast_wrap(err, rc, "Failed to read config file at %s", path);
    rc = ast_toml_parse(ast_buf_view(&text), &doc, err);
    if (rc)
        return ast_wrap(err, rc, "Failed to parse config file at %s", path);
    rc = read_logging(ast_json_member(ast_json_root(doc), "logging"), c, level_set, err);
    if (!rc)
        rc = read_audit(ast_json_member(ast_json_root(doc), "audit"), c, err);
    if (!rc)
        rc = read_invites(ast_json_member(ast_json_root(doc), "invites"), c, err);
    if (!rc)
        rc = read_watch(ast_json_member(ast_json_root(doc), "gateway"), c, err);
    if (!rc)
        rc = read_capsule(ast_json_member(ast_json_root(doc), "capsule"), c, err);
    if (!rc)
        rc = read_self_install(ast_json_member(ast_json_root(doc), "capsule"), c, err);
    if (!rc)
        rc = read_identity(ast_json_root(doc), c, err);
    return rc ? rc : read_asking(ast_json_root(doc), c, err);
}

static void ignore_variable(const char *name, const char *value, const char *why)
{
    fprintf(stderr, "warning: ignoring %s='%s': %s\n", name, value, why);
}

/* Only where no file set the key. */
static enum ast_rc read_environment(struct ast_daemon_config *c, bool level_set,
                                    struct ast_err *err)
{
    const char *value = getenv("ASTRID_LOG_LEVEL");
    if (value && !level_set && !ast_log_level_parse(ast_str_c(value), &c->log_level))
        ignore_variable("ASTRID_LOG_LEVEL", value, "expected trace, debug, info, warn or error");
    for (size_t i = 0; i < AST_ARRAY_LEN(ceilings); i++) {
        uint64_t n = 0;
        value = getenv(ceilings[i].variable);
        if (!value || *ceiling_at(c, i))
            continue;
        if (!ast_str_to_u64(ast_str_c(value), &n) || n == 0 || n > UINT32_MAX)
            ignore_variable(ceilings[i].variable, value, "expected an integer greater than 0");
        else
            *ceiling_at(c, i) = (unsigned)n;
    }
    value = getenv("ASTRID_LOG");
    if (!value)
        value = getenv("RUST_LOG");
    return value ? set_directives(c, ast_str_c(value), err) : AST_OK;
}

/* A project may lower a ceiling, never raise it, and nothing else; a broken file there is skipped (spec 05 §22.2). */
static void read_workspace(const char *workspace, struct ast_daemon_config *c)
{
    AST_AUTO(ast_cfree)
    char *path = workspace ? ast_fs_join(workspace, ".astrid/config.toml") : NULL;
    struct ast_daemon_config own = AST_DAEMON_CONFIG_INIT;
    struct ast_err err = AST_ERR_INIT;
    bool level_set = false;

    if (!path)
        return;
    enum ast_rc rc = read_file(path, &own, &level_set, &err);
    if (rc && rc != AST_E_NOT_FOUND)
        fprintf(stderr, "warning: skipping workspace configuration: %s\n", err.msg);
    for (size_t i = 0; !rc && i < AST_ARRAY_LEN(ceilings); i++) {
        unsigned n = *ceiling_at(&own, i), *current = ceiling_at(c, i);
        if (n && *current && n < *current)
            *current = n;
    }
    ast_daemon_config_done(&own);
}

enum ast_rc ast_daemon_config_load(const struct ast_home *home, const char *workspace,
                                   struct ast_daemon_config *ret, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *own = ast_home_path(home, "etc/config.toml");
    AST_AUTO(ast_cfree) char *user = ast_home_path(home, "config.toml");
    const char *const layers[] = { "/etc/astrid/config.toml", own, user };
    bool level_set = false;

    if (!own || !user)
        return ast_fail(err, AST_E_NO_MEMORY, "configuration");
    for (size_t i = 0; i < AST_ARRAY_LEN(layers); i++) {
        enum ast_rc rc = read_file(layers[i], ret, &level_set, err);
        if (rc && rc != AST_E_NOT_FOUND)
            return rc;
    }
    if (err)
        err->msg[0] = 0; /* absent files are no news */
    enum ast_rc rc = read_environment(ret, level_set, err);
    if (!rc)
        read_workspace(workspace, ret);
    return rc;
}
