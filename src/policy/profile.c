/* One profile document: read, validated, written (spec 02 §3, §4). Unknown keys are refused at every level, so a
 * misspelt revoke cannot go unnoticed. */
#include "policy/profile.h"

#include <limits.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/toml.h"
#include "policy/capability.h"
#include "policy/policy_priv.h"

#include "base/banned.h"

#define PROFILE_VERSION 1u

struct quota_rule {
    struct ast_str key;
    size_t offset;
    uint64_t min, max;
    const char *text; /* what the refusal says */
};

/* Order of spec 02 §4: the first broken rule is the one reported. TOML integers end at INT64_MAX. */
static const struct quota_rule quota_rules[] = {
#define Q(name, min, max, text)                                                                    \
    {                                                                                              \
        { #name, sizeof #name - 1 }, offsetof(struct ast_quotas, name), min, max, text             \
    }
    Q(max_memory_bytes, 1, INT64_MAX, "quotas.max_memory_bytes must be > 0"),
    Q(max_timeout_secs, 1, 86400, "quotas.max_timeout_secs must be in 1..=86400"),
    Q(max_ipc_throughput_bytes, 1, INT64_MAX, "quotas.max_ipc_throughput_bytes must be > 0"),
    Q(max_background_processes, 0, 256, "quotas.max_background_processes must be <= 256"),
    Q(max_storage_bytes, 1, INT64_MAX, "quotas.max_storage_bytes must be > 0"),
    Q(max_cpu_fuel_per_sec, 1, INT64_MAX, "quotas.max_cpu_fuel_per_sec must be > 0"),
#undef Q
};

static uint64_t *quota_at(const struct ast_quotas *q, const struct quota_rule *rule)
{
    return (uint64_t *)(uintptr_t)((const char *)q + rule->offset);
}

struct ast_profile *ast_profile_ref(struct ast_profile *p)
{
    atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    return p;
}

void ast_profile_unref(struct ast_profile *p)
{
    if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
        return;
    ast_strings_done(&p->groups);
    ast_strings_done(&p->grants);
    ast_strings_done(&p->revokes);
    ast_strings_done(&p->auth_methods);
    ast_strings_done(&p->public_keys);
    ast_strings_done(&p->egress);
    ast_strings_done(&p->process_allow);
    free(p);
}

struct ast_profile *policy_profile_default(void)
{
    struct ast_profile *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    atomic_init(&p->refs, 1);
    p->version = PROFILE_VERSION;
    p->enabled = true;
    p->quotas = (struct ast_quotas)AST_QUOTAS_DEFAULT;
    return p;
}

struct ast_profile *ast_profile_copy(const struct ast_profile *p)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *c = policy_profile_default();
    if (!c)
        return NULL;
    c->version = p->version;
    c->enabled = p->enabled;
    c->exists = true;
    c->quotas = p->quotas;
    bool ok = policy_strings_copy(&p->groups, &c->groups) &&
              policy_strings_copy(&p->grants, &c->grants) &&
              policy_strings_copy(&p->revokes, &c->revokes) &&
              policy_strings_copy(&p->auth_methods, &c->auth_methods) &&
              policy_strings_copy(&p->public_keys, &c->public_keys) &&
              policy_strings_copy(&p->egress, &c->egress) &&
              policy_strings_copy(&p->process_allow, &c->process_allow);
    return ok ? ast_steal(&c) : NULL;
}

static enum ast_rc check_quotas(const struct ast_quotas *q, struct ast_err *err)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(quota_rules); i++) {
        uint64_t v = *quota_at(q, &quota_rules[i]);
        if (v < quota_rules[i].min || v > quota_rules[i].max)
            return ast_fail(err, AST_E_INVALID, "%s", quota_rules[i].text);
    }
    return AST_OK;
}

enum ast_rc ast_quotas_check(const struct ast_quotas *q, struct ast_err *err)
{
    enum ast_rc rc = check_quotas(q, err);
    return rc ? ast_wrap(err, rc, "profile validation error") : AST_OK;
}

/* Members in ascending order, as the original's clients print them. */
void ast_quotas_json(const struct ast_quotas *q, struct ast_jw *w)
{
    ast_jw_object(w);
    ast_jw_kv_u64(w, "max_background_processes", q->max_background_processes);
    ast_jw_kv_u64(w, "max_cpu_fuel_per_sec", q->max_cpu_fuel_per_sec);
    ast_jw_kv_u64(w, "max_ipc_throughput_bytes", q->max_ipc_throughput_bytes);
    ast_jw_kv_u64(w, "max_memory_bytes", q->max_memory_bytes);
    ast_jw_kv_u64(w, "max_storage_bytes", q->max_storage_bytes);
    ast_jw_kv_u64(w, "max_timeout_secs", q->max_timeout_secs);
    ast_jw_end(w);
}

const char *ast_quotas_raised(const struct ast_quotas *a, const struct ast_quotas *b)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(quota_rules); i++)
        if (*quota_at(b, &quota_rules[i]) > *quota_at(a, &quota_rules[i]))
            return quota_rules[i].key.p;
    return NULL;
}

enum ast_rc ast_quotas_read(const struct ast_json *table, struct ast_quotas *ret,
                            struct ast_err *err)
{
    if (ast_json_type(table) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "quotas: expected an object, found %s",
                        ast_json_type_name(table));
    struct ast_str known[AST_ARRAY_LEN(quota_rules)];
    for (size_t i = 0; i < AST_ARRAY_LEN(quota_rules); i++)
        known[i] = quota_rules[i].key;

    enum ast_rc rc = policy_known_keys(table, known, AST_ARRAY_LEN(known), err);
    for (size_t i = 0; !rc && i < AST_ARRAY_LEN(quota_rules); i++) {
        const struct ast_json *v = ast_json_get(table, quota_rules[i].key);
        if (v && !ast_json_u64(v, quota_at(ret, &quota_rules[i])))
            rc =
                ast_fail(err, AST_E_INVALID, "quotas." AST_STR_FMT ": expected an unsigned integer",
                         AST_STR_ARG(quota_rules[i].key));
    }
    return rc;
}

/* A table with one list of strings. */
static enum ast_rc read_table_list(const struct ast_json *root, struct ast_str table,
                                   struct ast_str key, const char *label, struct ast_strings *ret,
                                   struct ast_err *err)
{
    const struct ast_json *t = ast_json_get(root, table);
    if (!t)
        return AST_OK;
    if (ast_json_type(t) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, AST_STR_FMT ": expected a table", AST_STR_ARG(table));
    enum ast_rc rc = policy_known_keys(t, &key, 1, err);
    return rc ? rc : policy_strings_read(ast_json_get(t, key), label, ret, err);
}

static enum ast_rc read_auth(const struct ast_json *root, struct ast_profile *p,
                             struct ast_err *err)
{
    static const struct ast_str known[] = { { "methods", 7 }, { "public_keys", 11 } };
    const struct ast_json *t = ast_json_member(root, "auth");
    if (!t)
        return AST_OK;
    if (ast_json_type(t) != AST_JSON_OBJECT)
        return ast_fail(err, AST_E_INVALID, "auth: expected a table");
    enum ast_rc rc = policy_known_keys(t, known, AST_ARRAY_LEN(known), err);
    if (!rc)
        rc = policy_strings_read(ast_json_member(t, "methods"), "auth.methods", &p->auth_methods,
                                 err);
    if (!rc)
        rc = policy_strings_read(ast_json_member(t, "public_keys"), "auth.public_keys",
                                 &p->public_keys, err);
    for (size_t i = 0; !rc && i < p->auth_methods.n; i++) {
        struct ast_str m = p->auth_methods.v[i];
        char quoted[POLICY_QUOTE_BYTES];
        if (!ast_str_is(m, "keypair") && !ast_str_is(m, "passkey") && !ast_str_is(m, "system"))
            rc = ast_fail(err, AST_E_INVALID,
                          "unknown auth method %s, expected one of keypair, passkey, system",
                          policy_quote(m, quoted));
    }
    return rc;
}

static enum ast_rc read_document(const struct ast_json *root, struct ast_profile *p,
                                 struct ast_err *err)
{
    static const struct ast_str known[] = {
        { "profile_version", 15 }, { "enabled", 7 }, { "groups", 6 },
        { "grants", 6 },           { "revokes", 7 }, { "auth", 4 },
        { "network", 7 },          { "process", 7 }, { "quotas", 6 }
    };
    const struct ast_json *v;
    uint64_t version;
    enum ast_rc rc = policy_known_keys(root, known, AST_ARRAY_LEN(known), err);

    if (!rc && (v = ast_json_member(root, "profile_version"))) {
        if (!ast_json_u64(v, &version) || version > UINT32_MAX)
            return ast_fail(err, AST_E_INVALID,
                            "profile_version: expected an unsigned 32-bit integer");
        p->version = (uint32_t)version;
    }
    if (!rc && (v = ast_json_member(root, "enabled")) && !ast_json_bool(v, &p->enabled))
        return ast_fail(err, AST_E_INVALID, "enabled: expected true or false");
    if (!rc)
        rc = policy_strings_read(ast_json_member(root, "groups"), "groups", &p->groups, err);
    if (!rc)
        rc = policy_strings_read(ast_json_member(root, "grants"), "grants", &p->grants, err);
    if (!rc)
        rc = policy_strings_read(ast_json_member(root, "revokes"), "revokes", &p->revokes, err);
    if (!rc)
        rc = read_auth(root, p, err);
    if (!rc)
        rc = read_table_list(root, AST_STR("network"), AST_STR("egress"), "network.egress",
                             &p->egress, err);
    if (!rc)
        rc = read_table_list(root, AST_STR("process"), AST_STR("allow"), "process.allow",
                             &p->process_allow, err);
    if (!rc && (v = ast_json_member(root, "quotas"))) {
        rc = ast_quotas_read(v, &p->quotas, err);
    }
    return rc;
}

static enum ast_rc validate_group_names(const struct ast_strings *groups, struct ast_err *err)
{
    char quoted[POLICY_QUOTE_BYTES];

    for (size_t i = 0; i < groups->n; i++) {
        struct ast_str g = groups->v[i];
        if (g.n == 0)
            return ast_fail(err, AST_E_INVALID, "groups entries must be non-empty");
        if (g.n > POLICY_MAX_GROUP_NAME)
            return ast_fail(err, AST_E_INVALID, "groups entry exceeds 64 characters: %s",
                            policy_quote(g, quoted));
        for (size_t k = 0; k < g.n; k++) {
            struct ast_str one = { g.p + k, 1 };
            if (ast_principal_valid(one))
                continue;
            while (k + one.n < g.n && ((unsigned char)g.p[k + one.n] & 0xc0) == 0x80)
                one.n++;
            return ast_fail(err, AST_E_INVALID,
                            "groups entry %s contains invalid character '" AST_STR_FMT
                            "' (allowed: a-z, A-Z, 0-9, -, _)",
                            policy_quote(g, quoted), AST_STR_ARG(one));
        }
    }
    return AST_OK;
}

static enum ast_rc validate_caps(const struct ast_strings *caps, const char *what,
                                 struct ast_err *err)
{
    char quoted[POLICY_QUOTE_BYTES];

    for (size_t i = 0; i < caps->n; i++) {
        enum ast_rc rc = ast_cap_check(caps->v[i], err);
        if (rc)
            return ast_wrap(err, rc, "%s entry %s rejected", what,
                            policy_quote(caps->v[i], quoted));
    }
    return AST_OK;
}

static enum ast_rc validate_filled(const struct ast_strings *list, const char *text,
                                   struct ast_err *err)
{
    for (size_t i = 0; i < list->n; i++)
        if (ast_str_trim(list->v[i]).n == 0)
            return ast_fail(err, AST_E_INVALID, "%s", text);
    return AST_OK;
}

/* Rules 1 to 10 of spec 02 §3.3, in order. */
static enum ast_rc validate(const struct ast_profile *p, struct ast_err *err)
{
    if (p->version > PROFILE_VERSION)
        return ast_fail(err, AST_E_INVALID, "profile_version %u exceeds supported version 1",
                        p->version);
    enum ast_rc rc = check_quotas(&p->quotas, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < p->public_keys.n; i++)
        if (p->public_keys.v[i].n == 0)
            return ast_fail(err, AST_E_INVALID, "auth.public_keys entries must be non-empty");
    rc = validate_group_names(&p->groups, err);
    if (!rc)
        rc = validate_caps(&p->grants, "grants", err);
    if (!rc)
        rc = validate_caps(&p->revokes, "revokes", err);
    if (!rc)
        rc = validate_filled(&p->egress, "network.egress entries must be non-empty", err);
    if (!rc)
        rc = validate_filled(&p->process_allow, "process.allow entries must be non-empty", err);
    return rc;
}

enum ast_rc ast_profile_check(const struct ast_profile *p, struct ast_err *err)
{
    enum ast_rc rc = validate(p, err);
    return rc ? ast_wrap(err, rc, "profile validation error") : AST_OK;
}

enum ast_rc ast_profile_parse(struct ast_str toml, struct ast_profile **ret, struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(ast_profile_unref) struct ast_profile *p = policy_profile_default();
    if (!p)
        return ast_fail(err, AST_E_NO_MEMORY, "profile");

    enum ast_rc rc = ast_toml_parse(toml, &doc, err);
    if (!rc)
        rc = read_document(ast_json_root(doc), p, err);
    if (rc)
        return ast_wrap(err, rc, "profile parse error");
    rc = validate(p, err);
    if (rc)
        return ast_wrap(err, rc, "profile validation error");
    p->exists = true;
    *ret = ast_steal(&p);
    return AST_OK;
}

/* Shared with groups.toml. */
void policy_print_list(struct ast_buf *out, const char *key, const struct ast_strings *list)
{
    if (list->n == 0) {
        ast_buf_addf(out, "%s = []\n", key);
        return;
    }
    /* A JSON string is a valid TOML basic string; two or more entries go one per line (spec 02 §3.2). */
    bool tall = list->n > 1;
    ast_buf_addf(out, "%s = [", key);
    for (size_t i = 0; i < list->n; i++) {
        ast_buf_add(out, tall ? AST_STR("\n    ") : AST_STR(""));
        ast_json_quote(list->v[i], out);
        ast_buf_add(out, tall ? AST_STR(",") : AST_STR(""));
    }
    ast_buf_add(out, tall ? AST_STR("\n]\n") : AST_STR("]\n"));
}

enum ast_rc policy_print_profile(const struct ast_profile *p, struct ast_buf *out,
                                 struct ast_err *err)
{
    enum ast_rc rc = validate(p, err);
    if (rc)
        return ast_wrap(err, rc, "profile validation error");

    ast_buf_addf(out, "profile_version = %u\nenabled = %s\n", p->version,
                 p->enabled ? "true" : "false");
    policy_print_list(out, "groups", &p->groups);
    policy_print_list(out, "grants", &p->grants);
    policy_print_list(out, "revokes", &p->revokes);
    ast_buf_add_lit(out, "\n[auth]\n");
    policy_print_list(out, "methods", &p->auth_methods);
    policy_print_list(out, "public_keys", &p->public_keys);
    ast_buf_add_lit(out, "\n[network]\n");
    policy_print_list(out, "egress", &p->egress);
    ast_buf_add_lit(out, "\n[process]\n");
    policy_print_list(out, "allow", &p->process_allow);
    ast_buf_add_lit(out, "\n[quotas]\n");
    for (size_t i = 0; i < AST_ARRAY_LEN(quota_rules); i++)
        ast_buf_addf(out, AST_STR_FMT " = %llu\n", AST_STR_ARG(quota_rules[i].key),
                     (unsigned long long)*quota_at(&p->quotas, &quota_rules[i]));
    rc = ast_buf_check(out, "profile", err);
    return rc ? ast_wrap(err, rc, "profile serialize error") : AST_OK;
}

enum ast_rc ast_profile_save(const char *path, const struct ast_profile *p, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(POLICY_MAX_FILE);
    enum ast_rc rc = policy_print_profile(p, &out, err);
    if (rc)
        return rc;
    rc = ast_fs_write_atomic(path, ast_buf_view(&out), 0600, AST_FS_SYNC, err);
    return rc ? ast_wrap(err, rc, "profile io error") : AST_OK;
}
