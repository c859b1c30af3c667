/* The gateway's configuration file: keys, defaults, refusals.
 *
 * One row per key. Unknown keys are ignored; a known key of the wrong type is an error. Validation runs also for
 * a disabled gateway (spec 03 §2.1).
 */
#include "gateway/config_priv.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/toml.h"
#include "gateway/gateway_limits.h"

#include "base/banned.h"

void gw_config_done(struct gw_config *c)
{
    ast_vec_done(&c->origins);
    ast_vec_done(&c->trusted);
    ast_json_free(c->doc);
    *c = (struct gw_config){ 0 };
}

/* --- Addresses ----------------------------------------------------------------------------- */

#define ADDRESS_MAX_BYTES 64u

static bool ip_parse(struct ast_str s, struct in_addr *v4, struct in6_addr *v6, int *ret_family)
{
    char text[ADDRESS_MAX_BYTES];
    if (s.n >= sizeof text || (s.n && memchr(s.p, 0, s.n)))
        return false;
    if (s.n)
        memcpy(text, s.p, s.n);
    text[s.n] = 0;
    *ret_family = inet_pton(AF_INET, text, v4) == 1    ? AF_INET
                  : inet_pton(AF_INET6, text, v6) == 1 ? AF_INET6
                                                       : AF_UNSPEC;
    return *ret_family != AF_UNSPEC;
}

enum ast_rc gw_address_parse(struct ast_str text, struct gw_address *ret, struct ast_err *err)
{
    size_t colon = text.n;
    while (colon > 0 && text.p[colon - 1] != ':')
        colon--;
    struct ast_str host = colon ? ast_str_first(text, colon - 1) : AST_STR_NONE;
    struct ast_str port_text = ast_str_from(text, colon);
    bool is_bracketed = host.n >= 2 && host.p[0] == '[' && host.p[host.n - 1] == ']';
    if (is_bracketed)
        host = ast_str_n(host.p + 1, host.n - 2);

    struct in_addr v4;
    struct in6_addr v6;
    uint64_t port;
    int family;
    if (!colon || !ast_str_to_u64(port_text, &port) || port > 65535 ||
        !ip_parse(host, &v4, &v6, &family) || is_bracketed != (family == AF_INET6))
        return ast_fail(err, AST_E_INVALID,
                        "invalid socket address \"" AST_STR_FMT "\": use IP:port or [IPv6]:port",
                        AST_STR_ARG(text));
    struct gw_address a = { 0 };
    if (family == AF_INET) {
        struct sockaddr_in *sa = (struct sockaddr_in *)&a.sa;
        *sa = (struct sockaddr_in){ .sin_family = AF_INET,
                                    .sin_port = htons((uint16_t)port),
                                    .sin_addr = v4 };
        a.len = sizeof *sa;
        a.is_loopback = ntohl(v4.s_addr) >> 24 == 127;
    } else {
        struct sockaddr_in6 *sa = (struct sockaddr_in6 *)&a.sa;
        *sa = (struct sockaddr_in6){ .sin6_family = AF_INET6,
                                     .sin6_port = htons((uint16_t)port),
                                     .sin6_addr = v6 };
        a.len = sizeof *sa;
        a.is_loopback = IN6_IS_ADDR_LOOPBACK(&v6);
    }
    *ret = a;
    return AST_OK;
}

/* --- Keys ---------------------------------------------------------------------------------- */

enum key_type { KEY_BOOL, KEY_U64, KEY_COUNT, KEY_STRING };

/* key, type, field */
static const struct {
    struct ast_str key;
    enum key_type type;
    size_t offset;
} keys[] = {
    { { "enabled", 7 }, KEY_BOOL, offsetof(struct gw_config, enabled) },
    { { "listen", 6 }, KEY_STRING, offsetof(struct gw_config, listen) },
    { { "distro-path", 11 }, KEY_STRING, offsetof(struct gw_config, distro_path) },
    { { "session-lifetime-secs", 21 }, KEY_U64, offsetof(struct gw_config, session_lifetime_secs) },
    { { "redeem-rate-limit-secs", 22 },
      KEY_U64,
      offsetof(struct gw_config, redeem_rate_limit_secs) },
    { { "prompt-timeout-secs", 19 }, KEY_COUNT, offsetof(struct gw_config, prompt_secs) },
    { { "kernel-timeout-secs", 19 }, KEY_COUNT, offsetof(struct gw_config, kernel_secs) },
    { { "keep-alive-secs", 15 }, KEY_COUNT, offsetof(struct gw_config, keep_alive_secs) },
    { { "max-connections", 15 }, KEY_COUNT, offsetof(struct gw_config, max_connections) },
};

static enum ast_rc wrong_type(struct ast_str key, const struct ast_json *v, const char *want,
                              struct ast_err *err)
{
    return ast_fail(err, AST_E_INVALID, AST_STR_FMT ": expected %s, found %s", AST_STR_ARG(key),
                    want, ast_json_type_name(v));
}

static enum ast_rc read_count(struct ast_str key, const struct ast_json *v, unsigned *ret,
                              struct ast_err *err)
{
    uint64_t n;
    if (!ast_json_u64(v, &n))
        return wrong_type(key, v, "a non-negative integer", err);
    if (n < 1 || n > GW_COUNT_MAX)
        return ast_fail(err, AST_E_INVALID, AST_STR_FMT ": expected 1 to %u", AST_STR_ARG(key),
                        GW_COUNT_MAX);
    *ret = (unsigned)n;
    return AST_OK;
}

static enum ast_rc read_keys(const struct ast_json *root, struct gw_config *c, struct ast_err *err)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(keys); i++) {
        const struct ast_json *v = ast_json_get(root, keys[i].key);
        char *field = (char *)c + keys[i].offset;
        if (!v)
            continue;
        if (keys[i].type == KEY_BOOL && !ast_json_bool(v, (bool *)(void *)field))
            return wrong_type(keys[i].key, v, "a boolean", err);
        if (keys[i].type == KEY_U64 && !ast_json_u64(v, (uint64_t *)(void *)field))
            return wrong_type(keys[i].key, v, "a non-negative integer", err);
        if (keys[i].type == KEY_COUNT) {
            enum ast_rc rc = read_count(keys[i].key, v, (unsigned *)(void *)field, err);
            if (rc)
                return rc;
        }
        if (keys[i].type == KEY_STRING && !ast_json_string(v, (struct ast_str *)(void *)field))
            return wrong_type(keys[i].key, v, "a string", err);
    }
    return AST_OK;
}

static enum ast_rc read_strings(const struct ast_json *root, struct ast_str key,
                                struct gw_config *c,
                                enum ast_rc (*add)(struct gw_config *c, struct ast_str s,
                                                   struct ast_err *err),
                                struct ast_err *err)
{
    const struct ast_json *list = ast_json_get(root, key), *v;
    if (!list)
        return AST_OK;
    if (ast_json_type(list) != AST_JSON_ARRAY)
        return wrong_type(key, list, "an array of strings", err);
    struct ast_json_iter it = AST_JSON_ITER(list);
    struct ast_str unused, s;
    while (ast_json_next(&it, &unused, &v)) {
        if (!ast_json_string(v, &s))
            return wrong_type(key, v, "a string", err);
        enum ast_rc rc = add(c, s, err);
        if (rc)
            return rc;
    }
    return AST_OK;
}

static enum ast_rc add_origin(struct gw_config *c, struct ast_str s, struct ast_err *err)
{
    return ast_vec_push(&c->origins, s) ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "origins");
}

static enum ast_rc add_trusted(struct gw_config *c, struct ast_str s, struct ast_err *err)
{
    struct in_addr v4;
    struct in6_addr v6 = { 0 };
    int family;
    if (!ip_parse(s, &v4, &v6, &family))
        return ast_fail(err, AST_E_INVALID,
                        "trust-forwarded-from: invalid IP address \"" AST_STR_FMT "\"",
                        AST_STR_ARG(s));
    if (family == AF_INET) {
        v6 = (struct in6_addr){ 0 };
        v6.s6_addr[10] = v6.s6_addr[11] = 0xff;
        memcpy(v6.s6_addr + 12, &v4, 4);
    }
    return ast_vec_push(&c->trusted, v6) ? AST_OK
                                         : ast_fail(err, AST_E_NO_MEMORY, "trusted addresses");
}

static enum ast_rc read_tls(const struct ast_json *root, struct gw_config *c, struct ast_err *err)
{
    const struct ast_json *tls = ast_json_member(root, "tls");
    if (!tls)
        return AST_OK;
    if (ast_json_type(tls) != AST_JSON_OBJECT)
        return wrong_type(AST_STR("tls"), tls, "a table", err);
    if (!ast_json_string(ast_json_member(tls, "cert-path"), &c->tls_cert_path))
        return ast_fail(err, AST_E_INVALID, "tls: missing or invalid `cert-path`");
    if (!ast_json_string(ast_json_member(tls, "key-path"), &c->tls_key_path))
        return ast_fail(err, AST_E_INVALID, "tls: missing or invalid `key-path`");
    if (memchr(c->tls_cert_path.p, 0, c->tls_cert_path.n) ||
        memchr(c->tls_key_path.p, 0, c->tls_key_path.n))
        return ast_fail(err, AST_E_INVALID, "tls: a path contains a NUL byte");
    c->has_tls = true;
    return AST_OK;
}

/* --- Validation ---------------------------------------------------------------------------- */

static enum ast_rc check_tls(const struct gw_config *c, struct ast_err *err)
{
    if (!c->has_tls)
        return AST_OK;
    const struct {
        const char *key;
        struct ast_str path;
    } files[] = { { "cert-path", c->tls_cert_path }, { "key-path", c->tls_key_path } };
    struct stat st[AST_ARRAY_LEN(files)];
    for (size_t i = 0; i < AST_ARRAY_LEN(files); i++)
        if (stat(files[i].path.p, &st[i]) || !S_ISREG(st[i].st_mode))
            return ast_fail(err, AST_E_INVALID,
                            "tls.%s " AST_STR_FMT
                            " is not a regular file — refusing to boot the gateway",
                            files[i].key, AST_STR_ARG(files[i].path));
    /* differs: two names of one file are the same file, too */
    if (ast_str_eq(c->tls_cert_path, c->tls_key_path) ||
        (st[0].st_dev == st[1].st_dev && st[0].st_ino == st[1].st_ino))
        return ast_fail(err, AST_E_INVALID,
                        "tls.cert-path and tls.key-path resolve to the same file (" AST_STR_FMT
                        "); separate them",
                        AST_STR_ARG(c->tls_cert_path));
    if (st[1].st_mode & 0077u)
        ast_log_warn(
            "gateway",
            "TLS private key is group- or world-readable, chmod 0600 recommended path=" AST_STR_FMT
            " mode=%04o",
            AST_STR_ARG(c->tls_key_path), (unsigned)(st[1].st_mode & 07777u));
    return AST_OK;
}

enum ast_rc gw_config_parse(struct ast_str toml, struct gw_config *ret, struct ast_err *err)
{
    AST_AUTO(gw_config_done)
    struct gw_config c = {
        .listen = AST_STR(GW_DEFAULT_LISTEN),
        .session_lifetime_secs = GW_DEFAULT_SESSION_SECS,
        .redeem_rate_limit_secs = GW_DEFAULT_REDEEM_SECS,
        .prompt_secs = AST_GATEWAY_STREAM_SECS,
        .kernel_secs = AST_GATEWAY_KERNEL_SECS,
        .keep_alive_secs = AST_GATEWAY_KEEPALIVE_SECS,
        .max_connections = AST_GATEWAY_CONNECTIONS,
    };
    enum ast_rc rc = ast_toml_parse(toml, &c.doc, err);
    if (rc)
        return rc;
    const struct ast_json *root = ast_json_root(c.doc);
    if ((rc = read_keys(root, &c, err)) != AST_OK ||
        (rc = read_strings(root, AST_STR("cors-allow-origins"), &c, add_origin, err)) != AST_OK ||
        (rc = read_strings(root, AST_STR("trust-forwarded-from"), &c, add_trusted, err)) !=
            AST_OK ||
        (rc = read_tls(root, &c, err)) != AST_OK)
        return rc;
    ast_vec_each (&c.origins, origin) {
        rc = gw_origin_check(*origin, err);
        if (rc)
            return rc;
    }
    rc = check_tls(&c, err);
    if (rc)
        return rc;
    *ret = c;
    c = (struct gw_config){ 0 };
    return AST_OK;
}

enum ast_rc gw_config_load(const char *path, struct gw_config *ret, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(AST_GATEWAY_CONFIG_BYTES);
    enum ast_rc rc = ast_fs_read(path, AST_GATEWAY_CONFIG_BYTES, &text, err);
    if (rc)
        return rc;
    rc = gw_config_parse(ast_buf_view(&text), ret, err);
    return rc ? ast_wrap(err, rc, "%s", path) : AST_OK;
}
