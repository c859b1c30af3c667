/* Capsule.toml: decoded by tables of rows, then validated in the order of spec 07 §2.10. */
#include "capsule/manifest.h"

#include <stdlib.h>

#include "base/fs.h"
#include "base/toml.h"
#include "base/vec.h"
#include "bus/topic.h"
#include "capsule/decode.h"

#include "base/banned.h"

#define MANIFEST_MAX_BYTES  (1024u * 1024)
#define MANIFEST_MAX_MEMORY (32u * 1024 * 1024)
#define PRIORITY_DEFAULT    100u

/* What a manifest owns: its document (every string borrows from it) and its arrays. */
struct manifest_memory {
    struct ast_json_doc *doc;
    struct ast_arena arena;
};

#define ROW(type, member, kind, required)                                                          \
    {                                                                                              \
#member, NULL, DECODE_##kind, required, offsetof(type, member)                             \
    }

static const struct decode_row component_rows[] = {
    ROW(struct ast_manifest_component, id, STRING, false),
    { "file", "entrypoint", DECODE_STRING, true, offsetof(struct ast_manifest_component, file) },
    ROW(struct ast_manifest_component, hash, STRING, false),
    ROW(struct ast_manifest_component, type, STRING, false),
};

static const struct decode_row caps_rows[] = {
    ROW(struct ast_manifest_caps, uplink, BOOL, false),
    ROW(struct ast_manifest_caps, allow_persistent, BOOL, false),
    ROW(struct ast_manifest_caps, allow_prompt_injection, BOOL, false),
    ROW(struct ast_manifest_caps, net, STRINGS, false),
    ROW(struct ast_manifest_caps, kv, STRINGS, false),
    ROW(struct ast_manifest_caps, fs_read, STRINGS, false),
    ROW(struct ast_manifest_caps, fs_write, STRINGS, false),
    ROW(struct ast_manifest_caps, host_process, STRINGS, false),
    ROW(struct ast_manifest_caps, net_bind, STRINGS, false),
    ROW(struct ast_manifest_caps, net_connect, STRINGS, false),
    ROW(struct ast_manifest_caps, identity, STRINGS, false),
};

/* Ascending: also the order of held names (spec 05 §6.3). `merged` lists come from components too. */
static const struct {
    const char *name;
    size_t offset;
    bool is_flag, merged;
} held_rows[] = {
#define HELD(member, flag, merged)                                                                 \
    {                                                                                              \
#member, offsetof(struct ast_manifest_caps, member), flag, merged                          \
    }
    HELD(allow_persistent, true, false),
    HELD(allow_prompt_injection, true, false),
    HELD(fs_read, false, true),
    HELD(fs_write, false, true),
    HELD(host_process, false, true),
    HELD(identity, false, false),
    HELD(kv, false, false),
    HELD(net, false, true),
    HELD(net_bind, false, true),
    HELD(net_connect, false, false),
    HELD(uplink, true, false),
#undef HELD
};

static const struct decode_row command_rows[] = {
    ROW(struct ast_manifest_command, name, STRING, true),
    ROW(struct ast_manifest_command, description, STRING, false),
    ROW(struct ast_manifest_command, file, STRING, false),
};

static const struct decode_row uplink_rows[] = {
    ROW(struct ast_manifest_uplink, name, STRING, true),
    ROW(struct ast_manifest_uplink, platform, STRING, true),
    ROW(struct ast_manifest_uplink, profile, STRING, true),
};

static const struct decode_row mcp_rows[] = {
    ROW(struct ast_manifest_mcp, id, STRING, true),
    ROW(struct ast_manifest_mcp, description, STRING, false),
    ROW(struct ast_manifest_mcp, type, STRING, false),
    ROW(struct ast_manifest_mcp, command, STRING, false),
    ROW(struct ast_manifest_mcp, args, STRINGS, false),
};

/* Parsed for their types only: nothing at run time reads them. */
struct named_file {
    struct ast_str name, file, text;
};
static const struct decode_row skill_rows[] = { ROW(struct named_file, name, STRING, true),
                                                ROW(struct named_file, file, STRING, true) };
static const struct decode_row tool_rows[] = {
    ROW(struct named_file, name, STRING, true),
    { "description_for_llm", NULL, DECODE_STRING, true, offsetof(struct named_file, text) },
};

static const struct decode_row env_rows[] = {
    { "type", "env_type", DECODE_STRING, true, offsetof(struct ast_manifest_env, type) },
    ROW(struct ast_manifest_env, request, STRING, false),
    ROW(struct ast_manifest_env, description, STRING, false),
    ROW(struct ast_manifest_env, placeholder, STRING, false),
    ROW(struct ast_manifest_env, enum_values, STRINGS, false),
};

static const struct decode_row topic_rows[] = {
    ROW(struct ast_manifest_topic, wit, STRING, true),
};
static const struct decode_row publish_rows[] = { ROW(struct ast_manifest_topic, fanout, BOOL,
                                                      false) };
static const struct decode_row subscribe_rows[] = {
    ROW(struct ast_manifest_topic, handler, STRING, false),
    ROW(struct ast_manifest_topic, priority, U32, false)
};

static const struct {
    const char *table, *instead;
} legacy_tables[] = {
    { "interceptor", "use [subscribe] entries with a handler" },
    { "topic", "use [publish] and [subscribe]" },
    { "dependencies", "use [imports]" },
    { "cron", "it has no effect" },
};

void ast_manifest_free(struct ast_manifest *m)
{
    if (!m)
        return;
    struct manifest_memory *mem = m->memory;
    if (mem) {
        ast_json_free(mem->doc);
        ast_arena_done(&mem->arena);
        free(mem);
    }
    free(m);
}

static struct ast_arena *arena_of(struct ast_manifest *m)
{
    return &((struct manifest_memory *)m->memory)->arena;
}

static enum ast_rc add_warning(struct ast_manifest *m, struct ast_str text, struct ast_err *err)
{
    struct ast_arena *arena = arena_of(m);
    struct ast_str *grown = ast_arena_array(arena, m->warnings.n + 1, sizeof *grown);
    if (!grown)
        return ast_arena_check(arena, err);
    if (m->warnings.n)
        memcpy(grown, m->warnings.v, m->warnings.n * sizeof *grown);
    grown[m->warnings.n] = text;
    m->warnings.v = grown;
    m->warnings.n++;
    return ast_arena_check(arena, err);
}

/* ---- [package] ---- */

struct package_record {
    struct ast_str name, version, description, astrid_version;
    struct ast_strings authors, keywords, categories;
};

static const struct decode_row package_rows[] = {
    ROW(struct package_record, name, STRING, true),
    ROW(struct package_record, version, STRING, true),
    ROW(struct package_record, description, STRING, false),
    ROW(struct package_record, authors, STRINGS, false),
    ROW(struct package_record, keywords, STRINGS, false),
    ROW(struct package_record, categories, STRINGS, false),
    { "astrid-version", NULL, DECODE_STRING, false,
      offsetof(struct package_record, astrid_version) },
};

static enum ast_rc read_package(const struct ast_json *root, struct ast_manifest *m,
                                struct package_record *p, struct ast_err *err)
{
    const struct ast_json *table = ast_json_member(root, "package");
    if (!table)
        return ast_fail(err, AST_E_INVALID, "missing field `package`");
    enum ast_rc rc =
        decode_record(table, package_rows, AST_ARRAY_LEN(package_rows), p, arena_of(m), err);
    if (rc)
        return ast_wrap(err, rc, "[package]");
    m->name = p->name;
    m->version = p->version;
    m->description = p->description;
    return AST_OK;
}

/* ---- [imports] and [exports] ---- */

struct interface_list {
    AST_VEC(struct ast_manifest_interface) v;
    bool is_import;
};

static const char *table_name(const struct interface_list *list)
{
    return list->is_import ? "imports" : "exports";
}

static enum ast_rc read_definition(const struct ast_json *v, bool is_import,
                                   struct ast_manifest_interface *ret, struct ast_err *err)
{
    struct ast_err why = AST_ERR_INIT;

    if (ast_json_type(v) == AST_JSON_OBJECT) {
        const struct ast_json *optional = ast_json_member(v, "optional");
        if (!ast_json_string(ast_json_member(v, "version"), &ret->version))
            return ast_fail(err, AST_E_INVALID, "missing field `version`");
        if (is_import && optional && !ast_json_bool(optional, &ret->optional))
            return ast_fail(err, AST_E_INVALID, "invalid type for `optional`, expected a boolean");
    } else if (!ast_json_string(v, &ret->version)) {
        return ast_fail(err, AST_E_INVALID, "data did not match any variant of untagged enum Raw");
    }

    struct ast_semver version;
    struct ast_semver_req req;
    if (is_import && ast_semver_req_parse(ret->version, &req, &why))
        return ast_fail(err, AST_E_INVALID, "invalid semver requirement '" AST_STR_FMT "': %s",
                        AST_STR_ARG(ret->version), why.msg);
    if (!is_import && ast_semver_parse(ret->version, &version, &why))
        return ast_fail(err, AST_E_INVALID, "invalid semver version '" AST_STR_FMT "': %s",
                        AST_STR_ARG(ret->version), why.msg);
    return AST_OK;
}

/* The last of two declarations of one pair wins. */
static enum ast_rc add_interface(struct interface_list *list, struct ast_manifest_interface def,
                                 struct ast_err *err)
{
    ast_vec_each (&list->v, have) {
        if (ast_str_eq(have->ns, def.ns) && ast_str_eq(have->name, def.name)) {
            *have = def;
            return AST_OK;
        }
    }
    return ast_vec_push(&list->v, def) ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "interfaces");
}

static enum ast_rc read_flat(struct ast_str key, size_t colon, const struct ast_json *v,
                             struct interface_list *list, struct ast_err *err)
{
    struct ast_manifest_interface def = { .ns = ast_str_first(key, colon),
                                          .name = ast_str_from(key, colon + 1) };

    if (def.ns.n == 0 || def.name.n == 0)
        return ast_fail(err, AST_E_INVALID,
                        "[%s] key '" AST_STR_FMT "' has empty namespace or interface segment",
                        table_name(list), AST_STR_ARG(key));
    enum ast_rc rc = read_definition(v, list->is_import, &def, err);
    if (rc)
        return ast_wrap(err, rc, "[%s] flat-form '" AST_STR_FMT "'", table_name(list),
                        AST_STR_ARG(key));
    return add_interface(list, def, err);
}

static enum ast_rc read_nested(struct ast_str ns, const struct ast_json *table,
                               struct interface_list *list, struct ast_err *err)
{
    struct ast_json_iter it = AST_JSON_ITER(table);
    const struct ast_json *v;
    struct ast_str name;
    enum ast_rc rc = AST_OK;

    if (ast_json_type(table) != AST_JSON_OBJECT)
        rc = ast_fail(err, AST_E_INVALID, "invalid type: %s, expected a map",
                      ast_json_type_name(table));
    while (!rc && ast_json_type(table) == AST_JSON_OBJECT && ast_json_next(&it, &name, &v)) {
        struct ast_manifest_interface def = { .ns = ns, .name = name };
        rc = read_definition(v, list->is_import, &def, err);
        if (!rc)
            rc = add_interface(list, def, err);
    }
    return rc ? ast_wrap(err, rc, "[%s." AST_STR_FMT "]: expected table of interface declarations",
                         table_name(list), AST_STR_ARG(ns))
              : AST_OK;
}

static int cmp_interface(const void *a, const void *b)
{
    const struct ast_manifest_interface *x = a, *y = b;
    int c = ast_str_cmp(x->ns, y->ns);
    return c ? c : ast_str_cmp(x->name, y->name);
}

static enum ast_rc read_interfaces(const struct ast_json *root, bool is_import,
                                   struct ast_manifest *m, struct ast_manifest_interface **ret,
                                   size_t *ret_n, struct ast_err *err)
{
    struct interface_list list = { .is_import = is_import };
    const struct ast_json *table =
        is_import ? ast_json_member(root, "imports") : ast_json_member(root, "exports");
    struct ast_json_iter it = AST_JSON_ITER(table);
    const struct ast_json *v;
    struct ast_str key;
    enum ast_rc rc = AST_OK;

    if (!table)
        return AST_OK;
    if (ast_json_type(table) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "[%s]: invalid type: %s, expected a table",
                        table_name(&list), ast_json_type_name(table));
    while (!rc && ast_json_next(&it, &key, &v)) {
        size_t colon = ast_str_find_byte(key, ':');
        rc = colon != AST_STR_NPOS ? read_flat(key, colon, v, &list, err)
                                   : read_nested(key, v, &list, err);
    }
    struct ast_manifest_interface *out =
        rc ? NULL : ast_arena_array(arena_of(m), list.v.n, sizeof *out);
    if (!rc && !out)
        rc = ast_arena_check(arena_of(m), err);
    if (!rc && list.v.n) {
        memcpy(out, list.v.v, list.v.n * sizeof *out);
        qsort(out, list.v.n, sizeof *out, cmp_interface);
    }
    if (!rc) {
        *ret = out;
        *ret_n = list.v.n;
    }
    ast_vec_done(&list.v);
    return rc;
}

/* ---- [publish] and [subscribe] ---- */

static enum ast_rc check_pins(const struct ast_json *entry, const char *table, struct ast_err *err)
{
    static const char *const pins[] = { "version", "tag", "rev", "branch", "path" };
    unsigned present = 0;

    for (size_t i = 0; i < AST_ARRAY_LEN(pins); i++) {
        const struct ast_json *v = ast_json_get(entry, ast_str_c(pins[i]));
        struct ast_str text;
        if (v && !ast_json_string(v, &text))
            return ast_fail(err, AST_E_INVALID,
                            "data did not match any variant of untagged enum Raw");
        present += v != NULL;
    }
    if (present > 1)
        return ast_fail(err, AST_E_INVALID,
                        "[%s] entry: at most one of version / tag / rev / branch / path may be set",
                        table);
    return AST_OK;
}

static enum ast_rc read_topic(const struct ast_json *v, bool subscribe,
                              struct ast_manifest_topic *ret, struct ast_arena *arena,
                              struct ast_err *err)
{
    const struct decode_row *rows = subscribe ? subscribe_rows : publish_rows;
    size_t count = subscribe ? AST_ARRAY_LEN(subscribe_rows) : AST_ARRAY_LEN(publish_rows);

    ret->priority = PRIORITY_DEFAULT;
    if (ast_json_string(v, &ret->wit))
        return AST_OK;
    if (ast_json_type(v) != AST_JSON_OBJECT || !ast_json_member(v, "wit"))
        return ast_fail(err, AST_E_INVALID, "data did not match any variant of untagged enum Raw");
    enum ast_rc rc = decode_record(v, topic_rows, AST_ARRAY_LEN(topic_rows), ret, arena, err);
    if (!rc)
        rc = decode_record(v, rows, count, ret, arena, err);
    if (!rc)
        rc = check_pins(v, subscribe ? "subscribe" : "publish", err);
    if (!rc && subscribe && ast_json_member(v, "priority") && !ast_json_member(v, "handler"))
        rc = ast_fail(
            err, AST_E_INVALID,
            "[subscribe] entry: `priority` requires a `handler` \xe2\x80\x94 a handler-less subscribe is "
            "ACL-only and has no dispatch order");
    return rc;
}

static int cmp_topic(const void *a, const void *b)
{
    const struct ast_manifest_topic *x = a, *y = b;
    return ast_str_cmp(x->pattern, y->pattern);
}

static enum ast_rc read_topics(const struct ast_json *root, bool subscribe, struct ast_manifest *m,
                               struct ast_manifest_topic **ret, size_t *ret_n, struct ast_err *err)
{
    const char *name = subscribe ? "subscribe" : "publish";
    const struct ast_json *table = ast_json_get(root, ast_str_c(name));
    struct ast_json_iter it = AST_JSON_ITER(table);
    const struct ast_json *v;
    struct ast_str key;
    size_t n = 0;

    if (!table)
        return AST_OK;
    if (ast_json_type(table) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "[%s]: invalid type: %s, expected a table", name,
                        ast_json_type_name(table));
    struct ast_manifest_topic *out =
        ast_arena_array(arena_of(m), ast_json_count(table), sizeof *out);
    if (!out)
        return ast_arena_check(arena_of(m), err);
    while (ast_json_next(&it, &key, &v)) {
        out[n].pattern = key;
        enum ast_rc rc = read_topic(v, subscribe, &out[n], arena_of(m), err);
        if (rc)
            return ast_wrap(err, rc, "%s.\"" AST_STR_FMT "\"", name, AST_STR_ARG(key));
        n++;
    }
    qsort(out, n, sizeof *out, cmp_topic);
    *ret = out;
    *ret_n = n;
    return AST_OK;
}

/* ---- [capabilities] ---- */

static struct ast_strings *list_at(struct ast_manifest_caps *caps, size_t offset)
{
    return (struct ast_strings *)(void *)((char *)caps + offset);
}

static enum ast_rc append_list(struct ast_strings *to, const struct ast_strings *from,
                               struct ast_arena *arena, struct ast_err *err)
{
    if (from->n == 0)
        return AST_OK;
    struct ast_str *v = ast_arena_array(arena, to->n + from->n, sizeof *v);
    if (!v)
        return ast_arena_check(arena, err);
    if (to->n)
        memcpy(v, to->v, to->n * sizeof *v);
    memcpy(v + to->n, from->v, from->n * sizeof *v);
    *to = (struct ast_strings){ v, to->n + from->n };
    return AST_OK;
}

/* spec 07 §2.3: five lists of each component join the root's; the rest is ignored, loudly. */
static enum ast_rc merge_component(struct ast_manifest *m, const struct ast_json *component,
                                   struct ast_err *err)
{
    const struct ast_json *table = ast_json_member(component, "capabilities");
    struct ast_manifest_caps caps = { 0 };
    if (!table)
        return AST_OK;
    enum ast_rc rc =
        decode_record(table, caps_rows, AST_ARRAY_LEN(caps_rows), &caps, arena_of(m), err);
    for (size_t i = 0; !rc && i < AST_ARRAY_LEN(held_rows); i++) {
        bool present = ast_json_get(table, ast_str_c(held_rows[i].name)) != NULL;
        if (held_rows[i].merged)
            rc = append_list(list_at(&m->caps, held_rows[i].offset),
                             list_at(&caps, held_rows[i].offset), arena_of(m), err);
        else if (present)
            rc = add_warning(
                m,
                ast_arena_fmt(
                    arena_of(m),
                    "component-level capability `%s` is ignored; declare it under [capabilities]",
                    held_rows[i].name),
                err);
    }
    return rc;
}

static enum ast_rc merge_components(struct ast_manifest *m, const struct ast_json *root,
                                    struct ast_err *err)
{
    struct ast_json_iter it = AST_JSON_ITER(ast_json_member(root, "component"));
    const struct ast_json *component;
    struct ast_str unused;
    enum ast_rc rc = AST_OK;

    while (!rc && ast_json_next(&it, &unused, &component))
        rc = merge_component(m, component, err);
    return rc;
}

size_t ast_manifest_held(const struct ast_manifest *m, struct ast_str out[static 11])
{
    size_t n = 0;

    _Static_assert(AST_ARRAY_LEN(held_rows) == 11, "eleven capability names, spec 05 §6.3");
    for (size_t i = 0; i < AST_ARRAY_LEN(held_rows); i++) {
        const char *at = (const char *)&m->caps + held_rows[i].offset;
        bool held = held_rows[i].is_flag ? *(const bool *)at
                                         : ((const struct ast_strings *)(const void *)at)->n > 0;
        if (held)
            out[n++] = ast_str_c(held_rows[i].name);
    }
    return n;
}

/* ---- [env] ---- */

static int cmp_env(const void *a, const void *b)
{
    const struct ast_manifest_env *x = a, *y = b;
    return ast_str_cmp(x->name, y->name);
}

static enum ast_rc read_default(const struct ast_json *v, struct ast_manifest_env *e,
                                struct ast_arena *arena, struct ast_err *err)
{
    if (!v)
        return AST_OK;
    e->has_default = true;
    e->default_is_null = ast_json_type(v) == AST_JSON_NULL;
    if (e->default_is_null || ast_json_string(v, &e->default_text))
        return AST_OK;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(MANIFEST_MAX_BYTES);
    ast_json_compact(v, &text);
    enum ast_rc rc = ast_buf_check(&text, "default", err);
    if (rc)
        return rc;
    e->default_text = ast_arena_dup(arena, ast_buf_view(&text));
    return ast_arena_check(arena, err);
}

static enum ast_rc read_env(const struct ast_json *root, struct ast_manifest *m,
                            struct ast_err *err)
{
    const struct ast_json *table = ast_json_member(root, "env");
    struct ast_json_iter it = AST_JSON_ITER(table);
    const struct ast_json *v;
    struct ast_str key;
    size_t n = 0;

    if (!table)
        return AST_OK;
    if (ast_json_type(table) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "[env]: invalid type: %s, expected a table",
                        ast_json_type_name(table));
    struct ast_manifest_env *out = ast_arena_array(arena_of(m), ast_json_count(table), sizeof *out);
    if (!out)
        return ast_arena_check(arena_of(m), err);
    while (ast_json_next(&it, &key, &v)) {
        struct ast_manifest_env *e = &out[n++];
        e->name = key;
        enum ast_rc rc = decode_record(v, env_rows, AST_ARRAY_LEN(env_rows), e, arena_of(m), err);
        if (!rc)
            rc = read_default(ast_json_member(v, "default"), e, arena_of(m), err);
        if (rc)
            return ast_wrap(err, rc, "env." AST_STR_FMT, AST_STR_ARG(key));
        e->is_secret = ast_str_eq_nocase(e->type, AST_STR("secret"));
        e->is_array = ast_str_eq_nocase(e->type, AST_STR("array"));
    }
    qsort(out, n, sizeof *out, cmp_env);
    m->env = out;
    m->env_count = n;
    return AST_OK;
}

/* ---- the other tables ---- */

static enum ast_rc check_uplink_profiles(const struct ast_manifest *m, struct ast_err *err)
{
    static const char *const profiles[] = { "chat", "interactive", "notify", "bridge" };

    for (size_t i = 0; i < m->uplink_count; i++) {
        size_t k = 0;
        while (k < AST_ARRAY_LEN(profiles) &&
               !ast_str_eq(m->uplinks[i].profile, ast_str_c(profiles[k])))
            k++;
        if (k == AST_ARRAY_LEN(profiles))
            return ast_fail(err, AST_E_INVALID,
                            "unknown variant `" AST_STR_FMT
                            "`, expected one of `chat`, `interactive`, `notify`, `bridge`",
                            AST_STR_ARG(m->uplinks[i].profile));
    }
    return AST_OK;
}

static enum ast_rc read_tables(const struct ast_json *root, struct ast_manifest *m,
                               struct ast_err *err)
{
    void *ignored, *out = NULL;
    size_t n;
    struct ast_arena *arena = arena_of(m);
    enum ast_rc rc;

#define TABLE(key, rows, type, member, count)                                                      \
    rc = decode_tables(root, key, rows, AST_ARRAY_LEN(rows), sizeof(type), NULL, &out, &m->count,  \
                       arena, err);                                                                \
    if (rc)                                                                                        \
        return rc;                                                                                 \
    m->member = out
    TABLE("component", component_rows, struct ast_manifest_component, components, component_count);
    TABLE("command", command_rows, struct ast_manifest_command, commands, command_count);
    TABLE("uplink", uplink_rows, struct ast_manifest_uplink, uplinks, uplink_count);
    TABLE("mcp_server", mcp_rows, struct ast_manifest_mcp, mcp_servers, mcp_server_count);
#undef TABLE
    for (size_t i = 0; i < m->command_count; i++)
        m->commands[i].has_description = m->commands[i].description.p != NULL;
    rc = check_uplink_profiles(m, err);
    if (!rc)
        rc = decode_tables(root, "skill", skill_rows, AST_ARRAY_LEN(skill_rows),
                           sizeof(struct named_file), NULL, &ignored, &n, arena, err);
    if (!rc)
        rc = decode_tables(root, "context_file", skill_rows, AST_ARRAY_LEN(skill_rows),
                           sizeof(struct named_file), NULL, &ignored, &n, arena, err);
    if (!rc)
        rc = decode_tables(root, "tool", tool_rows, AST_ARRAY_LEN(tool_rows),
                           sizeof(struct named_file), NULL, &ignored, &n, arena, err);
    return rc;
}

static enum ast_rc note_legacy(const struct ast_json *root, struct ast_manifest *m,
                               struct ast_err *err)
{
    const struct ast_json *caps = ast_json_member(root, "capabilities");
    enum ast_rc rc = AST_OK;

    for (size_t i = 0; !rc && i < AST_ARRAY_LEN(legacy_tables); i++)
        if (ast_json_get(root, ast_str_c(legacy_tables[i].table)))
            rc = add_warning(m,
                             ast_arena_fmt(arena_of(m),
                                           "`%s` is no longer supported and is ignored: %s",
                                           legacy_tables[i].table, legacy_tables[i].instead),
                             err);
    if (!rc && (ast_json_member(caps, "ipc_publish") || ast_json_member(caps, "ipc_subscribe")))
        rc = add_warning(
            m,
            AST_STR(
                "`ipc_publish` and `ipc_subscribe` grant nothing: use [publish] and [subscribe]"),
            err);
    if (!rc && m->component_count > 1)
        rc = add_warning(m, AST_STR("only the first [[component]] is loaded"), err);
    for (size_t i = 0; !rc && i < m->env_count; i++)
        if (ast_str_is(m->env[i].name, "ASTRID_SOCKET_PATH"))
            rc =
                add_warning(m, AST_STR("[env] ASTRID_SOCKET_PATH is reserved and is ignored"), err);
    return rc;
}

/* ---- validation, steps 4 to 9 of spec 07 §2.10 ---- */

static enum ast_rc check_runtime_version(struct ast_str text, struct ast_err *err)
{
    struct ast_semver_req req;
    struct ast_semver runtime;
    struct ast_err why = AST_ERR_INIT;

    if (!text.p)
        return AST_OK;
    if (ast_semver_req_parse(text, &req, &why))
        return ast_fail(err, AST_E_INVALID, "invalid astrid-version '" AST_STR_FMT "' - %s",
                        AST_STR_ARG(text), why.msg);
    enum ast_rc rc = ast_semver_parse(AST_STR(AST_RUNTIME_VERSION), &runtime, err);
    if (rc || ast_semver_matches(&req, &runtime))
        return rc;
    AST_AUTO(ast_buf_done) struct ast_buf canonical = AST_BUF_INIT(4096);
    (void)ast_semver_req_print(&req, &canonical); /* a cut text still names the requirement */
    return ast_fail(err, AST_E_INVALID,
                    "capsule requires astrid-version %s, but this runtime is " AST_RUNTIME_VERSION,
                    canonical.p ? canonical.p : "?");
}

static enum ast_rc check_patterns(const struct ast_manifest_topic *v, size_t n, const char *kind,
                                  struct ast_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (!ast_topic_segments_valid(v[i].pattern))
            return ast_fail(
                err, AST_E_INVALID,
                "%s '" AST_STR_FMT
                "' contains empty segments (consecutive dots, leading/trailing dots, or is empty)",
                kind, AST_STR_ARG(v[i].pattern));
    return AST_OK;
}

static bool interface_word(struct ast_str s)
{
    if (s.n == 0 || s.p[0] < 'a' || s.p[0] > 'z')
        return false;
    return ast_capsule_id_valid(s);
}

static enum ast_rc check_interfaces(const struct ast_manifest_interface *v, size_t n,
                                    const char *table, struct ast_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!interface_word(v[i].ns))
            return ast_fail(err, AST_E_INVALID,
                            "[%s]." AST_STR_FMT
                            ": invalid namespace (must match ^[a-z][a-z0-9-]*$)",
                            table, AST_STR_ARG(v[i].ns));
        if (!interface_word(v[i].name))
            return ast_fail(err, AST_E_INVALID,
                            "[%s." AST_STR_FMT "]." AST_STR_FMT
                            ": invalid interface name (must match ^[a-z][a-z0-9-]*$)",
                            table, AST_STR_ARG(v[i].ns), AST_STR_ARG(v[i].name));
    }
    return AST_OK;
}

static enum ast_rc validate(const struct ast_manifest *m, const struct package_record *p,
                            struct ast_err *err)
{
    struct ast_semver version;
    enum ast_rc rc = check_runtime_version(p->astrid_version, err);

    if (!rc && ast_semver_parse(m->version, &version, NULL))
        rc = ast_fail(err, AST_E_INVALID,
                      "invalid version '" AST_STR_FMT
                      "' in [package] - must be valid semver (MAJOR.MINOR.PATCH)",
                      AST_STR_ARG(m->version));
    if (!rc)
        rc = check_patterns(m->publish, m->publish_count, "publish pattern", err);
    if (!rc)
        rc = check_patterns(m->subscribe, m->subscribe_count, "subscribe pattern", err);
    if (!rc)
        rc = check_interfaces(m->imports, m->import_count, "imports", err);
    if (!rc)
        rc = check_interfaces(m->exports, m->export_count, "exports", err);
    if (!rc && m->caps.uplink && m->import_count)
        rc = ast_fail(
            err, AST_E_INVALID,
            "[imports] is not allowed on uplink capsules (uplinks load before non-uplinks and cannot depend "
            "on them)");
    return rc;
}

static enum ast_rc read_document(const struct ast_json *root, struct ast_manifest *m,
                                 struct ast_err *err)
{
    struct package_record package = { 0 };
    const struct ast_json *caps = ast_json_member(root, "capabilities");
    enum ast_rc rc = read_package(root, m, &package, err);

    if (!rc)
        rc = read_tables(root, m, err);
    if (!rc)
        rc = read_interfaces(root, true, m, &m->imports, &m->import_count, err);
    if (!rc)
        rc = read_interfaces(root, false, m, &m->exports, &m->export_count, err);
    if (!rc)
        rc = read_topics(root, false, m, &m->publish, &m->publish_count, err);
    if (!rc)
        rc = read_topics(root, true, m, &m->subscribe, &m->subscribe_count, err);
    if (!rc && caps)
        rc = decode_record(caps, caps_rows, AST_ARRAY_LEN(caps_rows), &m->caps, arena_of(m), err);
    if (!rc)
        rc = read_env(root, m, err);
    if (!rc)
        rc = merge_components(m, root, err);
    if (!rc)
        rc = validate(m, &package, err);
    if (!rc)
        rc = note_legacy(root, m, err);
    return rc;
}

enum ast_rc ast_manifest_parse(struct ast_str toml, struct ast_manifest **ret, struct ast_err *err)
{
    AST_AUTO(ast_manifest_free) struct ast_manifest *m = calloc(1, sizeof *m);
    struct manifest_memory *mem = calloc(1, sizeof *mem);
    if (!m || !mem) {
        free(mem);
        return ast_fail(err, AST_E_NO_MEMORY, "manifest");
    }
    mem->arena.max = MANIFEST_MAX_MEMORY;
    m->memory = mem;
    enum ast_rc rc = ast_toml_parse(toml, &mem->doc, err);
    if (!rc)
        rc = read_document(ast_json_root(mem->doc), m, err);
    if (!rc)
        *ret = ast_steal(&m);
    return rc;
}

enum ast_rc ast_manifest_load(const char *dir, struct ast_manifest **ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(MANIFEST_MAX_BYTES);
    AST_AUTO(ast_cfree) char *path = ast_fs_join(dir, "Capsule.toml");
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "manifest");
    enum ast_rc rc = ast_fs_read(path, MANIFEST_MAX_BYTES, &text, err);
    if (!rc && !ast_str_is_utf8(ast_buf_view(&text)))
        rc = ast_fail(err, AST_E_INVALID, "stream did not contain valid UTF-8");
    if (!rc)
        rc = ast_manifest_parse(ast_buf_view(&text), ret, err);
    return rc ? ast_wrap(err, rc, "Failed to parse manifest at %s", path) : AST_OK;
}
