/* etc/gateway-http.toml: defaults, types, the rules for origins and TLS files. */
#include "gateway_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "gateway/config_priv.h"

#include "base/banned.h"

static void missing_keys_take_their_defaults(void **state)
{
    AST_AUTO(gw_config_done) struct gw_config c = { 0 };
    (void)state;
    assert_int_equal(gw_config_parse(AST_STR(""), &c, NULL), AST_OK);
    assert_false(c.enabled);
    assert_view(c.listen, "127.0.0.1:2787");
    assert_int_equal(c.session_lifetime_secs, 28800);
    assert_int_equal(c.redeem_rate_limit_secs, 1);
    assert_int_equal(c.origins.n, 0);
    assert_int_equal(c.trusted.n, 0);
    assert_int_equal(c.distro_path.n, 0);
    assert_false(c.has_tls);
}

static void every_key_is_read(void **state)
{
    AST_AUTO(gw_config_done) struct gw_config c = { 0 };
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    if (gw_config_parse(
            AST_STR(
                "enabled = true\nlisten = \"[::1]:0\"\nsession-lifetime-secs = 0\n"
                "redeem-rate-limit-secs = 7\nprompt-timeout-secs = 1\nkernel-timeout-secs = 86400\n"
                "keep-alive-secs = 5\nmax-connections = 12000\ncors-allow-origins = [\"https://console.example\"]\n"
                "trust-forwarded-from = [\"127.0.0.1\", \"::1\"]\ndistro-path = \"/srv/Distro.toml\"\n"),
            &c, &err))
        fail_msg("%s", err.msg);
    assert_true(c.enabled);
    assert_view(c.listen, "[::1]:0");
    assert_int_equal(c.session_lifetime_secs, 0);
    assert_int_equal(c.redeem_rate_limit_secs, 7);
    assert_int_equal(c.prompt_secs, 1);
    assert_int_equal(c.kernel_secs, 86400);
    assert_int_equal(c.keep_alive_secs, 5);
    assert_int_equal(c.max_connections, 12000);
    assert_view(c.distro_path, "/srv/Distro.toml");
    assert_int_equal(c.origins.n, 1);
    assert_view(c.origins.v[0], "https://console.example");
    assert_int_equal(c.trusted.n, 2);
    assert_true(IN6_IS_ADDR_V4MAPPED(&c.trusted.v[0]));
    assert_true(IN6_IS_ADDR_LOOPBACK(&c.trusted.v[1]));
}

static void c03_03_unknown_keys_pass_and_wrong_values_do_not(void **state)
{
    static const struct {
        const char *toml, *error; /* NULL: fine */
    } cases[] = {
        { "colour = \"red\"\n[extra]\na = 1\n", NULL },
        { "trust-forwarded-from = [\"10.0.0.0/8\"]\n", "10.0.0.0/8" },
        { "trust-forwarded-from = [\"127.0.0.1:80\"]\n", "invalid IP address" },
        { "trust-forwarded-from = [\"localhost\"]\n", "invalid IP address" },
        { "trust-forwarded-from = \"127.0.0.1\"\n", "expected an array of strings" },
        { "trust-forwarded-from = [1]\n", "expected a string" },
        { "enabled = \"yes\"\n", "enabled: expected a boolean, found string" },
        { "listen = 80\n", "listen: expected a string" },
        { "session-lifetime-secs = -1\n",
          "session-lifetime-secs: expected a non-negative integer" },
        { "session-lifetime-secs = 1.5\n", "session-lifetime-secs" },
        { "prompt-timeout-secs = 0\n", "prompt-timeout-secs: expected 1 to 86400" },
        { "kernel-timeout-secs = 86401\n", "kernel-timeout-secs: expected 1 to 86400" },
        { "keep-alive-secs = \"1\"\n", "keep-alive-secs: expected a non-negative integer" },
        { "max-connections = -1\n", "max-connections: expected a non-negative integer" },
        { "cors-allow-origins = [1]\n", "cors-allow-origins: expected a string" },
        { "tls = 1\n", "tls: expected a table" },
        { "[tls]\ncert-path = \"/x\"\n", "key-path" },
        { "[tls]\nkey-path = \"/x\"\n", "cert-path" },
        { "enabled = \n", "line 1" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(gw_config_done) struct gw_config c = { 0 };
        struct ast_err err = AST_ERR_INIT;
        enum ast_rc rc = gw_config_parse(ast_str_c(cases[i].toml), &c, &err);
        if (!rc != !cases[i].error)
            fail_msg("%s: %s", cases[i].toml, err.msg);
        if (rc)
            assert_contains(err.msg, cases[i].error);
    }
}

static void c03_04_browser_origins(void **state)
{
    static const struct {
        const char *origin, *error; /* NULL: accepted */
    } cases[] = {
        { "https://console.example", NULL },
        { "https://xn--pp-eka.example", NULL },
        { "http://localhost:5173", NULL },
        { "http://127.0.0.1:3000", NULL },
        { "http://[::1]:3000", NULL },
        { "https://a.example:8443", NULL },
        { "*", "CORS origin \"*\" doesn't parse as a URL:" },
        { "null", "doesn't parse as a URL:" },
        { "app.example", "doesn't parse as a URL:" },
        { "", "doesn't parse as a URL:" },
        { "https://a b", "doesn't parse as a URL:" },
        { "https://a.example:99999", "doesn't parse as a URL:" },
        { "https://a.example:x", "doesn't parse as a URL:" },
        { "https://[::1", "doesn't parse as a URL:" },
        { "https://[zz]", "doesn't parse as a URL:" },
        { "https://1.2.3.400", "doesn't parse as a URL:" },
        { "ftp://app.example",
          "uses scheme \"ftp\"; only http/https are valid for browser origins" },
        { "file:///etc", "uses scheme \"file\"" },
        { "https://", "has no host component" },
        { "https:///x", "has no host component" },
        { "https://user@app.example", "carries userinfo (user:password)" },
        { "https://user:pw@app.example", "carries userinfo (user:password)" },
        { "https://app.example/login", "carries a path (\"/login\")" },
        { "https://app.example?x", "carries a query/fragment" },
        { "https://app.example?", "carries a query/fragment" },
        { "https://app.example#", "carries a query/fragment" },
        { "https://app.example/", "has a trailing slash; remove it" },
        { "HTTPS://app.example", "Use \"https://app.example\" instead." },
        { "https://App.example", "Use \"https://app.example\" instead." },
        { "https://app.example:443", "Use \"https://app.example\" instead." },
        { "http://x.example:80", "Use \"http://x.example\" instead." },
        { "https://app.example:0443", "Use \"https://app.example\" instead." },
        { "http://[0:0::1]:3000", "Use \"http://[::1]:3000\" instead." },
        { "https://\xc3\xa4pp.example", "must be ASCII-only (Punycode)" },
        { "https://\xc3\xa4pp.example", "Use \"https://xn--pp-uia.example\" instead." },
        { "https://b\xc3\xbc"
          "cher.example",
          "Use \"https://xn--bcher-kva.example\" instead." },
        { "https://\xe4\xbd\xa0\xe5\xa5\xbd.example",
          "Use \"https://xn--6qq79v.example\" instead." },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct ast_err err = AST_ERR_INIT;
        enum ast_rc rc = gw_origin_check(ast_str_c(cases[i].origin), &err);
        if (!rc != !cases[i].error)
            fail_msg("%s: %s", cases[i].origin, err.msg);
        if (rc)
            assert_contains(err.msg, cases[i].error);
    }
    AST_AUTO(gw_config_done) struct gw_config c = { 0 };
    struct ast_err err = AST_ERR_INIT;
    assert_int_not_equal(
        gw_config_parse(AST_STR("cors-allow-origins = [\"https://a.example\", \"*\", \"ftp://x\"]"),
                        &c, &err),
        AST_OK);
    assert_contains(err.msg, "CORS origin \"*\""); /* the first failure wins */
}

static enum ast_rc with_tls(const char *cert, const char *key, struct ast_err *err)
{
    AST_AUTO(gw_config_done) struct gw_config c = { 0 };
    char text[512];
    (void)snprintf(text, sizeof text, "[tls]\ncert-path = \"%s\"\nkey-path = \"%s\"\n", cert, key);
    return gw_config_parse(ast_str_c(text), &c, err);
}

static void c03_05_c03_06_tls_files(void **state)
{
    char dir[] = "/tmp/ast-gwconf-XXXXXX", cert[64], key[64], link[64];
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    (void)snprintf(key, sizeof key, "%s/key.pem", dir);
    (void)snprintf(link, sizeof link, "%s/link.pem", dir);
    assert_int_equal(ast_fs_write_atomic(cert, AST_STR("x"), 0600, 0, NULL), AST_OK);

    assert_int_not_equal(with_tls("/nowhere/cert.pem", cert, &err), AST_OK);
    assert_string_equal(
        err.msg,
        "tls.cert-path /nowhere/cert.pem is not a regular file — refusing to boot the gateway");
    assert_int_not_equal(with_tls(dir, cert, &err), AST_OK);
    assert_contains(err.msg, "cert-path");
    assert_contains(err.msg, "not a regular file");
    assert_int_not_equal(with_tls(cert, key, &err), AST_OK);
    assert_contains(err.msg, "tls.key-path");
    assert_contains(err.msg, "not a regular file");
    assert_int_not_equal(with_tls(cert, cert, &err), AST_OK);
    assert_contains(err.msg, "resolve to the same file");
    assert_int_equal(symlink(cert, link), 0);
    assert_int_not_equal(with_tls(cert, link, &err),
                         AST_OK); /* differs: same file by another name */
    assert_contains(err.msg, "same file");

    assert_int_equal(ast_fs_write_atomic(key, AST_STR("y"), 0644, 0, NULL), AST_OK);
    assert_int_equal(with_tls(cert, key, &err), AST_OK); /* readable by others: a warning only */
    assert_int_equal(ast_fs_remove_tree(dir, NULL), AST_OK);
}

static void addresses_are_ip_and_port(void **state)
{
    static const struct {
        const char *text;
        int family; /* AF_UNSPEC: refused */
        bool is_loopback;
    } cases[] = {
        { "127.0.0.1:2787", AF_INET, true },
        { "0.0.0.0:0", AF_INET, false },
        { "[::1]:80", AF_INET6, true },
        { "[::]:65535", AF_INET6, false },
        { "localhost:80", 0, false },
        { "127.0.0.1", 0, false },
        { "127.0.0.1:", 0, false },
        { "127.0.0.1:65536", 0, false },
        { "127.0.0.1:-1", 0, false },
        { "::1:80", 0, false },
        { "[127.0.0.1]:80", 0, false },
        { ":80", 0, false },
        { "", 0, false },
        { "127.0.0.1:080", 0, false },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        struct gw_address a;
        enum ast_rc rc = gw_address_parse(ast_str_c(cases[i].text), &a, NULL);
        if (!rc != (cases[i].family != 0))
            fail_msg("%s", cases[i].text);
        if (!rc) {
            assert_int_equal(a.sa.ss_family, cases[i].family);
            assert_int_equal(a.is_loopback, cases[i].is_loopback);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_keys_take_their_defaults),
        cmocka_unit_test(every_key_is_read),
        cmocka_unit_test(c03_03_unknown_keys_pass_and_wrong_values_do_not),
        cmocka_unit_test(c03_04_browser_origins),
        cmocka_unit_test(c03_05_c03_06_tls_files),
        cmocka_unit_test(addresses_are_ip_and_port),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
