/* quota: an agent's limits and what it used (spec 08 §5.13). One table of fields serves the options, the bounds, the wire
 * and the screen. */
#include <stdlib.h>
#include <string.h>

#include "cli/admin.h"
#include "cli/units.h"

#include "base/banned.h"

enum kind { BYTES, SECONDS, NUMBER, COUNT };

/* In the order of the record. Columns: option, member on the wire, unit, offset, limit (0: none), label, behind the value. */
static const struct field {
    const char *option, *member;
    enum kind kind;
    size_t offset;
    uint64_t most;
    const char *label, *suffix;
} fields[] = {
#define FIELD(member) offsetof(struct cli_quota, member)
    { "memory", "max_memory_bytes", BYTES, FIELD(memory_bytes), 0, "memory", "" },
    { "timeout", "max_timeout_secs", SECONDS, FIELD(timeout_secs), 86400, "timeout", "" },
    { "storage", "max_storage_bytes", BYTES, FIELD(storage_bytes), 0, "storage", "" },
    { "processes", "max_background_processes", NUMBER, FIELD(processes), 256, "processes", "" },
    { "ipc-rate", "max_ipc_throughput_bytes", BYTES, FIELD(ipc_bytes), 0, "ipc-rate", "/s" },
    { "cpu-rate", "max_cpu_fuel_per_sec", COUNT, FIELD(cpu_fuel), 0, "cpu-rate", "/s" },
#undef FIELD
};

static uint64_t *slot(struct cli_quota *q, const struct field *f)
{
    return (uint64_t *)(void *)((char *)q + f->offset);
}

/* ---- options ---- */

static enum ast_rc read_field(const struct field *f, struct ast_str text, uint64_t *ret,
                              struct ast_err *err)
{
    uint64_t ms = 0;
    enum ast_rc rc = AST_OK;

    switch (f->kind) {
    case BYTES: rc = cli_bytes_parse(text, ret, err); break;
    case COUNT: rc = cli_count_parse(text, ret, err); break;
    case SECONDS:
        rc = cli_duration_parse(text, &ms, err);
        *ret = AST_MAX(ms / 1000, UINT64_C(1));
        break;
    case NUMBER:
        if (!ast_str_to_u64(text, ret))
            rc = ast_fail(err, AST_E_INVALID, "not a number: " AST_STR_FMT, AST_STR_ARG(text));
        break;
    }
    if (!rc && f->most && *ret > f->most)
        rc = ast_fail(err, AST_E_INVALID, "%llu%s is more than the limit of %llu%s",
                      (unsigned long long)*ret, f->kind == SECONDS ? "s" : "",
                      (unsigned long long)f->most, f->kind == SECONDS ? "s" : "");
    return rc;
}

enum ast_rc cli_quota_read(const struct cli *cli, struct cli_quota *ret, struct ast_err *err)
{
    struct cli_quota q = { 0 };

    for (size_t i = 0; i < AST_ARRAY_LEN(fields); i++) {
        const char *text = cli_value(cli, fields[i].option);
        if (!text)
            continue;
        enum ast_rc rc = read_field(&fields[i], ast_str_c(text), slot(&q, &fields[i]), err);
        if (rc)
            return ast_wrap(err, rc, "--%s", fields[i].option);
        q.given |= 1u << i;
    }
    *ret = q;
    return AST_OK;
}

unsigned cli_quota_count(const struct cli_quota *q)
{
    return (unsigned)__builtin_popcount(q->given);
}

/* ---- requests ---- */

static enum ast_rc get(struct cli *cli, const char *method, const char *suffix, const char *status,
                       const struct ast_principal *who, struct ast_uplink_frame *f,
                       const struct ast_json **ret, struct ast_err *err)
{
    struct cli_admin a;
    cli_admin_begin(&a, method);
    ast_jw_kv_string(&a.w, "principal", ast_principal_str(who));
    return cli_admin_send(cli, &a, suffix, status, NULL, f, ret, err);
}

static enum ast_rc get_quotas(struct cli *cli, const struct ast_principal *who,
                              struct ast_uplink_frame *f, const struct ast_json **ret,
                              struct ast_err *err)
{
    return get(cli, "QuotaGet", "quota.get", "Quotas", who, f, ret, err);
}

static enum ast_rc get_usage(struct cli *cli, const struct ast_principal *who,
                             struct ast_uplink_frame *f, const struct ast_json **ret,
                             struct ast_err *err)
{
    return get(cli, "UsageGet", "usage.get", "Usage", who, f, ret, err);
}

static uint64_t number(const struct ast_json *object, const char *member)
{
    uint64_t v = 0;
    (void)ast_json_u64(ast_json_get(object, ast_str_c(member)), &v); /* absent: 0 */
    return v;
}

enum ast_rc cli_quota_apply(struct cli *cli, const struct cli_quota *q,
                            const struct ast_principal *who, struct ast_err *err)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame before = { 0 };
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame after = { 0 };
    struct cli_quota copy = *q;
    const struct ast_json *present, *unused;
    struct cli_admin a;

    enum ast_rc rc = get_quotas(cli, who, &before, &present, err);
    if (rc)
        return rc;
    cli_admin_begin(&a, "QuotaSet");
    ast_jw_kv_string(&a.w, "principal", ast_principal_str(who));
    ast_jw_key(&a.w, AST_STR("quotas"));
    ast_jw_object(&a.w);
    for (size_t i = 0; i < AST_ARRAY_LEN(fields); i++) {
        ast_jw_key(&a.w, ast_str_c(fields[i].member));
        ast_jw_u64(&a.w, q->given & 1u << i ? *slot(&copy, &fields[i])
                                            : number(present, fields[i].member));
    }
    ast_jw_end(&a.w);
    return cli_admin_send(cli, &a, "quota.set", "Success", NULL, &after, &unused, err);
}

/* ---- show ---- */

static const char *value_text(const struct field *f, uint64_t v, char out[static CLI_UNIT_TEXT])
{
    switch (f->kind) {
    case BYTES: return cli_bytes_text(v, out);
    case SECONDS: return cli_duration_text(v * 1000, out);
    case COUNT: return cli_count_text(v, out);
    case NUMBER: break;
    }
    (void)snprintf(out, CLI_UNIT_TEXT, "%llu", (unsigned long long)v);
    return out;
}

static void print_quotas(const struct ast_json *quotas, const struct ast_principal *who)
{
    char text[CLI_UNIT_TEXT];

    printf("Quotas for %s\n", who->name);
    for (size_t i = 0; i < AST_ARRAY_LEN(fields); i++)
        printf("  %-22s %s%s\n", fields[i].label,
               value_text(&fields[i], number(quotas, fields[i].member), text), fields[i].suffix);
}

static void print_bytes(const char *label, const struct ast_json *v)
{
    char text[CLI_UNIT_TEXT];
    uint64_t n;

    printf("  %-22s %s\n", label, ast_json_u64(v, &n) ? cli_bytes_text(n, text) : "n/a");
}

static void print_usage(const struct ast_json *usage)
{
    char text[CLI_UNIT_TEXT];
    bool exempt = false;

    (void)ast_json_bool(ast_json_member(usage, "exempt"), &exempt); /* absent: no */
    puts("Usage vs budget");
    printf("  %-22s %s\n", "cpu consumed",
           cli_count_text(number(usage, "cpu_fuel_consumed_total"), text));
    printf("  %-22s %s/s\n", "cpu rate limit",
           cli_count_text(number(usage, "cpu_fuel_per_sec_limit"), text));
    printf("  %-22s %s\n", "exempt", exempt ? "yes (limits advisory)" : "no");
    print_bytes("memory current", ast_json_member(usage, "memory_bytes_current_total"));
    print_bytes("memory peak", ast_json_member(usage, "memory_bytes_peak_total"));
    print_bytes("memory limit/instance", ast_json_member(usage, "memory_bytes_limit_per_instance"));
}

static void print_record(const struct cli *cli, const struct ast_json *quotas,
                         const struct ast_principal *who)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(65536);
    struct ast_jw w = AST_JW_INIT(&out);

    ast_jw_object(&w);
    ast_jw_kv_string(&w, "principal", ast_principal_str(who));
    for (size_t i = 0; i < AST_ARRAY_LEN(fields); i++) {
        ast_jw_key(&w, ast_str_c(fields[i].member));
        ast_jw_u64(&w, number(quotas, fields[i].member));
    }
    ast_jw_end(&w);
    cli_print(cli, ast_buf_view(&out));
}

int cmd_quota_show(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame g = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *quotas = NULL, *usage = NULL;
    struct ast_principal who;

    enum ast_rc rc = cli_agent(cli, &who, &err);
    if (!rc)
        rc = get_quotas(cli, &who, &f, &quotas, &err);
    if (!rc && cli_format(cli) == CLI_PRETTY)
        rc = get_usage(cli, &who, &g, &usage, &err);
    if (rc)
        return cli_error(&err);
    if (cli_format(cli) != CLI_PRETTY) {
        print_record(cli, quotas, &who);
        return CLI_OK;
    }
    print_quotas(quotas, &who);
    putchar('\n');
    print_usage(usage);
    return CLI_OK;
}

int cmd_quota_usage(struct cli *cli)
{
    AST_AUTO(ast_uplink_frame_done) struct ast_uplink_frame f = { 0 };
    struct ast_err err = AST_ERR_INIT;
    const struct ast_json *usage;
    struct ast_principal who;

    enum ast_rc rc = cli_agent(cli, &who, &err);
    if (!rc)
        rc = get_usage(cli, &who, &f, &usage, &err);
    if (rc)
        return cli_error(&err);
    if (cli_format(cli) == CLI_PRETTY)
        print_usage(usage);
    else
        cli_print_value(cli, usage);
    return CLI_OK;
}

/* ---- set ---- */

int cmd_quota_set(struct cli *cli)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_principal who;
    struct cli_quota q;

    enum ast_rc rc = cli_quota_read(cli, &q, &err);
    if (!rc && !q.given)
        rc = ast_fail(&err, AST_E_INVALID,
                      "nothing to set: give --memory, --timeout, --storage, --processes, "
                      "--ipc-rate or --cpu-rate");
    if (!rc)
        rc = cli_agent(cli, &who, &err);
    if (!rc)
        rc = cli_quota_apply(cli, &q, &who, &err);
    if (rc)
        return cli_error(&err);
    cli_success("Updated quotas for '%s'.", who.name);
    return CLI_OK;
}
