/* The whole gateway over real sockets: boot outcomes, routes, headers, sessions, kernel questions, prompt streams. */
#include "gateway_test.h"

#include "rig.h"

#include "base/log.h"
#include "bus/metrics.h"
#include "gateway/gateway_priv.h"

#include "base/banned.h"

static struct rig rig;
static char *alice, *bob;

#define PLAIN   "enabled = true\nlisten = \"127.0.0.1:0\"\n"
#define PROFILE "profile_version = 1\n"

static int boot(const char *config)
{
    struct ast_err err = AST_ERR_INIT;
    rig_init(&rig);
    rig_profile(&rig, "alice", PROFILE);
    rig_profile(&rig, "bob", PROFILE);
    if (rig_start(&rig, config, &err) || !rig.gateway)
        rig_die("start", err.msg);
    alice = rig_bearer(&rig, "alice", ast_wall_secs(), 3600);
    bob = rig_bearer(&rig, "bob", ast_wall_secs(), 3600);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return boot(PLAIN);
}

static int setup_cors(void **state)
{
    (void)state;
    return boot(PLAIN
                "cors-allow-origins = [\"https://app.example\", \"http://localhost:5173\"]\n");
}

static int setup_hasty(void **state)
{
    (void)state;
    return boot(PLAIN "prompt-timeout-secs = 2\nkernel-timeout-secs = 1\nkeep-alive-secs = 1\n");
}

static int teardown(void **state)
{
    (void)state;
    free(alice);
    free(bob);
    alice = bob = NULL;
    rig_done(&rig);
    return 0;
}

static struct reply call(const char *method, const char *target, const char *bearer)
{
    return rig_call(&rig, method, target, bearer, NULL, NULL);
}

static struct reply post(const char *target, const char *bearer, const char *body)
{
    return rig_call(&rig, "POST", target, bearer, NULL, body);
}

#define assert_reply(expr, want_status, want_body)                                                 \
    do {                                                                                           \
        AST_AUTO(reply_done) struct reply r_ = (expr);                                             \
        assert_int_equal(r_.status, want_status);                                                  \
        assert_string_equal(r_.body, want_body);                                                   \
    } while (0)

/* --- Boot ---------------------------------------------------------------------------------- */

static void c03_01_without_a_file_or_disabled_nothing_listens(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    rig_init(&rig);
    assert_int_equal(rig_start(&rig, NULL, &err), AST_OK);
    assert_null(rig.gateway);
    assert_int_equal(rig_start(&rig, "enabled = false\n", &err), AST_OK);
    assert_null(rig.gateway);
    AST_AUTO(ast_cfree) char *key = ast_home_path(&rig.home, AST_HOME_GATEWAY_KEY);
    assert_false(ast_fs_exists(key));
    rig_done(&rig);
}

static void c03_03_a_bad_file_leaves_the_daemon_without_gateway(void **state)
{
    static const char *const bad[] = { "trust-forwarded-from = [\"10.0.0.0/8\"]\nenabled = true\n",
                                       "enabled = ", "enabled = true\nlisten = \"localhost:80\"\n",
                                       "enabled = true\nlisten = \"192.0.2.1:80\"\n" };
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    rig_init(&rig);
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++) {
        assert_int_equal(rig_start(&rig, bad[i], &err), AST_OK);
        assert_null(rig.gateway);
    }
    rig_done(&rig);
}

static void a_port_in_use_is_not_shared(void **state)
{
    struct ast_gateway *second = NULL;
    struct ast_err err = AST_ERR_INIT;
    char config[96];
    (void)state;
    (void)snprintf(config, sizeof config, "enabled = true\nlisten = \"127.0.0.1:%u\"\n",
                   ast_gateway_port(rig.gateway));
    rig_put(&rig, AST_HOME_GATEWAY_CONFIG, config);
    assert_int_equal(ast_gateway_start(&rig.kernel, &second, &err), AST_OK);
    assert_null(second);
    assert_reply(call("GET", "/healthz", NULL), 503, "daemon socket unreachable\n");
}

static void c03_07_the_signing_key_is_made_once_and_must_be_whole(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    struct stat st;
    AST_AUTO(ast_cfree) char *path = ast_home_path(&rig.home, AST_HOME_GATEWAY_KEY);
    (void)state;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 32);
    assert_int_equal(st.st_mode & 0777, 0600);
    rig_stop(&rig);
    rig_put(&rig, AST_HOME_GATEWAY_KEY, "0123456789012345678901234567890"); /* 31 bytes */
    assert_int_not_equal(rig_start(&rig, NULL, &err), AST_OK);
    assert_null(rig.gateway);
    assert_contains(err.msg, "31");
    assert_contains(err.msg, path);
}

static void c03_11_bearers_survive_a_restart_and_die_with_the_key(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    rig_stop(&rig);
    assert_int_equal(rig_start(&rig, NULL, &err), AST_OK);
    AST_AUTO(reply_done) struct reply before = call("GET", "/api/auth/me", alice);
    assert_int_equal(before.status, 200);
    rig_stop(&rig);
    AST_AUTO(ast_cfree) char *path = ast_home_path(&rig.home, AST_HOME_GATEWAY_KEY);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rig_start(&rig, NULL, &err), AST_OK);
    assert_reply(call("GET", "/api/auth/me", alice), 401, "{\"error\":\"unauthorized\"}");
}

static void c03_15_a_corrupt_revocation_file_is_an_error(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    rig_stop(&rig);
    rig_put(&rig, "etc/gateway-revocations.json", "{\"alice\": ");
    assert_int_not_equal(rig_start(&rig, NULL, &err), AST_OK);
    assert_contains(err.msg, "gateway-revocations.json");
    rig_put(&rig, "etc/gateway-revocations.json", "{\"alice\": 99999999999}");
    assert_int_equal(rig_start(&rig, NULL, &err), AST_OK);
    assert_reply(call("GET", "/api/auth/me", alice), 401, "{\"error\":\"unauthorized\"}");
}

/* --- Routing ------------------------------------------------------------------------------- */

static void c03_16_unknown_paths_and_wrong_methods(void **state)
{
    static const struct {
        const char *method, *target;
        bool with_bearer;
        unsigned status;
        const char *body, *allow;
    } cases[] = {
        { "GET", "/nope", false, 404, "", NULL },
        { "GET", "/api/auth/me/", false, 404, "", NULL },
        { "GET", "//api/auth/me", true, 404, "", NULL },
        { "GET", "/api/./auth/me", true, 404, "", NULL },
        { "BREW", "/nope", false, 404, "", NULL },
        { "OPTIONS", "*", false, 404, "", NULL },
        { "POST", "/healthz", false, 405, "", "allow: GET,HEAD\r\n" },
        { "BREW", "/healthz", false, 405, "", "allow: GET,HEAD\r\n" },
        { "TRACE", "/metrics", false, 405, "", "allow: GET,HEAD\r\n" },
        { "OPTIONS", "/healthz", false, 405, "", "allow: GET,HEAD\r\n" },
        { "GET", "/api/auth/redeem", false, 405, "", "allow: POST\r\n" },
        { "DELETE", "/api/auth/me", true, 405, "", "allow: GET,HEAD\r\n" },
        { "DELETE", "/api/auth/me", false, 401, "{\"error\":\"unauthorized\"}",
          "allow: GET,HEAD\r\n" },
        { "OPTIONS", "/api/auth/me", false, 401, "{\"error\":\"unauthorized\"}",
          "allow: GET,HEAD\r\n" },
        { "PUT", "/api/sys/principals/x", true, 405, "", "allow: GET,HEAD,PATCH,DELETE\r\n" },
        { "GET", "/api/auth/me", false, 401, "{\"error\":\"unauthorized\"}", NULL },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(reply_done)
        struct reply r =
            call(cases[i].method, cases[i].target, cases[i].with_bearer ? alice : NULL);
        if (r.status != cases[i].status)
            fail_msg("%s %s: %u", cases[i].method, cases[i].target, r.status);
        assert_string_equal(r.body, cases[i].body);
        if (cases[i].allow)
            assert_contains(r.head, cases[i].allow);
        else
            assert_lacks(r.head, "allow:");
        assert_lacks(r.head, "www-authenticate");
    }
}

static void c03_16_all_operations_exist_and_unfinished_ones_say_so(void **state)
{
    (void)state;
    assert_int_equal(gw_route_count, 41 + 2); /* two are ours */
    for (size_t i = 0; i < gw_route_count; i++) {
        const struct gw_route *row = &gw_routes[i];
        AST_AUTO(ast_buf_done) struct ast_buf path = AST_BUF_INIT(200), want = AST_BUF_INIT(400);
        for (const char *p = row->path; *p;
             p++) /* "{id}" is a fine value of itself, apart from the braces */
            if (*p != '{' && *p != '}')
                (void)ast_buf_add_byte(&path, *p);
        for (size_t k = 0; k < i; k++)
            if (!strcmp(gw_routes[k].path, row->path)) {
                assert_int_equal(gw_routes[k].auth, row->auth);
                assert_int_not_equal(gw_routes[k].method, row->method);
            }
        if (row->auth == GW_BEARER) {
            AST_AUTO(reply_done) struct reply r = call(gw_method_name(row->method), path.p, NULL);
            assert_int_equal(r.status, 401);
        }
        if (row->handle)
            continue;
        AST_AUTO(reply_done) struct reply r = call(gw_method_name(row->method), path.p, alice);
        (void)ast_buf_addf(
            &want,
            "{\"error\":\"not_implemented\",\"reason\":\"%s %s is not available in this build\"}",
            gw_method_name(row->method), row->path);
        assert_int_equal(r.status, 501);
        assert_string_equal(r.body, want.p);
    }
}

static void head_is_get_without_a_body(void **state)
{
    AST_AUTO(client_close) struct client c = client_open(ast_gateway_port(rig.gateway));
    (void)state;
    AST_AUTO(reply_done) struct reply head = client_call(&c, "HEAD", "/healthz", NULL, NULL, NULL);
    assert_int_equal(head.status, 503);
    assert_contains(head.head, "content-length: 26\r\n");
    AST_AUTO(reply_done) struct reply next = client_call(&c, "GET", "/healthz", NULL, NULL, NULL);
    assert_string_equal(next.body, "daemon socket unreachable\n");
}

static void c03_17_c03_18_security_headers_are_on_every_answer(void **state)
{
    static const struct {
        const char *method, *target;
        unsigned status;
    } cases[] = {
        { "GET", "/metrics", 200 },
        { "GET", "/api/auth/me", 401 },
        { "GET", "/nope", 404 },
        { "POST", "/healthz", 405 },
        { "GET", "/api/openapi.json", 501 },
        { "GET", "/healthz", 503 },
        { "GET", "/bad\x01path", 400 },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(reply_done) struct reply r = call(cases[i].method, cases[i].target, NULL);
        assert_int_equal(r.status, cases[i].status);
        assert_contains(r.head, "\r\nx-content-type-options: nosniff\r\n");
        assert_contains(r.head, "\r\nx-frame-options: DENY\r\n");
        assert_contains(r.head, "\r\nreferrer-policy: no-referrer\r\n");
        assert_contains(
            r.head, "\r\ncontent-security-policy: default-src 'none'; frame-ancestors 'none'\r\n");
        assert_contains(r.head, "\r\ndate: ");
        assert_lacks(r.head, "strict-transport-security");
        assert_lacks(r.head, "vary");
        assert_lacks(r.head, "access-control");
    }
}

static void c03_19_cors_echoes_listed_origins_only(void **state)
{
    static const struct {
        const char *method, *target, *origin;
        unsigned status;
        bool is_allowed;
    } cases[] = {
        { "OPTIONS", "/api/auth/me", "https://app.example", 200, true },
        { "OPTIONS", "/nowhere", "https://app.example", 200, true },
        { "OPTIONS", "/healthz", "https://evil.example", 200, false },
        { "OPTIONS", "/healthz", NULL, 200, false },
        { "GET", "/api/auth/me", "http://localhost:5173", 401, true },
        { "GET", "/nope", "https://app.example", 404, true },
        { "GET", "/healthz", "https://app.example:443", 503, false },
        { "GET", "/healthz", "HTTPS://app.example", 503, false },
        { "GET", "/healthz", NULL, 503, false },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        char fields[128] = "", want[128] = "";
        if (cases[i].origin) {
            (void)snprintf(fields, sizeof fields, "origin: %s\r\n", cases[i].origin);
            (void)snprintf(want, sizeof want, "\r\naccess-control-allow-origin: %s\r\n",
                           cases[i].origin);
        }
        AST_AUTO(reply_done)
        struct reply r = rig_call(&rig, cases[i].method, cases[i].target, NULL, fields, NULL);
        assert_int_equal(r.status, cases[i].status);
        assert_contains(r.head, "\r\nvary: origin\r\n");
        assert_contains(r.head, "\r\nx-frame-options: DENY\r\n");
        assert_lacks(r.head, "access-control-allow-credentials");
        if (cases[i].is_allowed)
            assert_contains(r.head, want);
        else
            assert_lacks(r.head, "access-control-allow-origin");
        if (!strcmp(cases[i].method, "OPTIONS")) {
            assert_string_equal(r.body, "");
            assert_contains(r.head,
                            "access-control-allow-methods: GET,POST,PUT,PATCH,DELETE,OPTIONS\r\n");
            assert_contains(r.head,
                            "access-control-allow-headers: authorization,content-type,accept\r\n");
            assert_contains(r.head, "access-control-max-age: 3600\r\n");
        }
    }
    AST_AUTO(reply_done) struct reply m = call("GET", "/metrics", NULL);
    assert_lacks(m.body, "method=\"OPTIONS\""); /* preflights are not counted */
}

/* --- Sessions ------------------------------------------------------------------------------ */

static void me_is_the_bearers_principal_whatever_the_query_says(void **state)
{
    uint64_t now = ast_wall_secs();
    char want[96];
    (void)state;
    AST_AUTO(ast_cfree) char *token = rig_bearer(&rig, "alice", now, 100);
    (void)snprintf(want, sizeof want, "{\"principal\":\"alice\",\"expires_at_epoch\":%llu}",
                   (unsigned long long)now + 100);
    assert_reply(call("GET", "/api/auth/me?principal=root", token), 200, want);
}

static void c03_09_every_refusal_looks_the_same(void **state)
{
    AST_AUTO(ast_cfree) char *dead = rig_bearer(&rig, "alice", ast_wall_secs() - 10, 10);
    AST_AUTO(ast_buf_done) struct ast_buf dots = AST_BUF_INIT(20000);
    (void)state;
    for (unsigned i = 0; i < 10000; i++)
        (void)ast_buf_add_byte(&dots, '.');
    const char *const bearers[] = { dead, "a.b.c", dots.p, "" };
    AST_AUTO(reply_done) struct reply without = call("GET", "/api/auth/me", NULL);
    for (size_t i = 0; i < AST_ARRAY_LEN(bearers); i++) {
        AST_AUTO(reply_done) struct reply r = call("GET", "/api/auth/me", bearers[i]);
        assert_int_equal(r.status, 401);
        assert_string_equal(r.body, without.body);
    }
}

static void refresh_mints_a_new_bearer_and_keeps_the_old_one(void **state)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    (void)state;
    AST_AUTO(reply_done) struct reply r = post("/api/auth/refresh", alice, "any body at all");
    assert_int_equal(r.status, 200);
    assert_int_equal(ast_json_parse(ast_str_c(r.body), &doc, NULL), AST_OK);
    const struct ast_json *root = ast_json_root(doc);
    AST_AUTO(ast_cfree)
    char *fresh = ast_str_dup(ast_json_str_or(root, AST_STR("session_token"), AST_STR("")));
    uint64_t expires = 0;
    assert_view(ast_json_str_or(root, AST_STR("principal"), AST_STR("")), "alice");
    assert_true(ast_json_u64(ast_json_member(root, "session_expires_at_epoch"), &expires));
    assert_in_range(expires, ast_wall_secs() + 28790, ast_wall_secs() + 28800);
    AST_AUTO(reply_done) struct reply a = call("GET", "/api/auth/me", fresh);
    assert_int_equal(a.status, 200);
    AST_AUTO(reply_done) struct reply b = call("GET", "/api/auth/me", alice);
    assert_int_equal(b.status, 200);
}

static void disabled_and_unknown_principals_cannot_refresh_or_prompt(void **state)
{
    AST_AUTO(ast_cfree) char *ghost = rig_bearer(&rig, "ghost", ast_wall_secs(), 100);
    (void)state;
    rig_profile(&rig, "bob", "profile_version = 1\nenabled = false\n");
    const char *const bearers[] = { ghost, bob };
    for (size_t i = 0; i < AST_ARRAY_LEN(bearers); i++) {
        assert_reply(post("/api/auth/refresh", bearers[i], NULL), 401,
                     "{\"error\":\"unauthorized\"}");
        assert_reply(post("/api/agent/prompt", bearers[i], "{\"text\":\"x\"}"), 401,
                     "{\"error\":\"unauthorized\"}");
    }
}

static void audit(const char *json)
{
    struct ast_msg *m = NULL;
    const struct ast_msg_spec spec = { .topic = AST_STR("astrid.v1.audit.entry"),
                                       .principal = AST_STR("default") };
    assert_int_equal(ast_msg_from_json(&spec, ast_str_c(json), &m, NULL), AST_OK);
    (void)ast_bus_publish(rig.bus, m);
}

static void c03_13_c03_14_a_completed_delete_revokes_and_nothing_else_does(void **state)
{
    char json[256];
    (void)state;
    audit(
        "{\"method\":\"admin.agent.delete\",\"outcome\":\"failure\",\"target_principal\":\"alice\",\"ts_epoch\":99999999999}");
    audit(
        "{\"method\":\"admin.agent.disable\",\"outcome\":\"success\",\"target_principal\":\"alice\",\"ts_epoch\":99999999999}");
    audit(
        "{\"method\":\"admin.agent.delete\",\"outcome\":\"success\",\"target_principal\":\"default\",\"ts_epoch\":99999999999}");
    audit(
        "{\"method\":\"admin.agent.delete\",\"outcome\":\"success\",\"target_principal\":\"a b\",\"ts_epoch\":99999999999}");
    AST_AUTO(reply_done) struct reply before = call("GET", "/api/auth/me", alice);
    assert_int_equal(before.status, 200);
    AST_AUTO(ast_cfree) char *admin = rig_bearer(&rig, "default", ast_wall_secs(), 100);
    AST_AUTO(reply_done) struct reply kept = call("GET", "/api/auth/me", admin);
    assert_int_equal(kept.status, 200);

    (void)snprintf(
        json, sizeof json,
        "{\"method\":\"admin.agent.delete\",\"outcome\":\"success\",\"target_principal\":\"alice\",\"ts_epoch\":%llu}",
        (unsigned long long)ast_wall_secs() + 1);
    audit(json);
    assert_reply(call("GET", "/api/auth/me", alice), 401, "{\"error\":\"unauthorized\"}");
    struct ast_err err = AST_ERR_INIT;
    rig_stop(&rig);
    assert_int_equal(rig_start(&rig, NULL, &err), AST_OK);
    assert_reply(call("GET", "/api/auth/me", alice), 401, "{\"error\":\"unauthorized\"}");
}

/* --- Bodies and kernel questions ----------------------------------------------------------- */

static void c03_20_bodies_over_64_kib_are_refused(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(200000);
    (void)state;
    (void)ast_buf_add_lit(&body, "{\"text\":\"");
    while (body.n < 65536 - 2)
        (void)ast_buf_add_byte(&body, 'x');
    (void)ast_buf_add_lit(&body, "\"}");
    body.p[body.n - 2] = ' '; /* 65536 bytes of broken JSON: read, then refused for what it is */
    AST_AUTO(reply_done) struct reply at = post("/api/agent/prompt", alice, body.p);
    assert_int_equal(at.status, 400);
    assert_contains(at.body, "invalid JSON: ");
    (void)ast_buf_add_byte(&body, ' ');
    assert_reply(post("/api/agent/prompt", alice, body.p), 400,
                 "{\"error\":\"bad_request\",\"reason\":\"body read: length limit exceeded\"}");

    AST_AUTO(client_close) struct client c = client_open(ast_gateway_port(rig.gateway));
    AST_AUTO(ast_buf_done) struct ast_buf chunked = AST_BUF_INIT(200000);
    (void)ast_buf_addf(&chunked,
                       "POST /api/agent/prompt HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n"
                       "transfer-encoding: chunked\r\n\r\n%zx\r\n%s\r\n0\r\n\r\n",
                       alice, body.n, body.p);
    client_send(&c, ast_buf_view(&chunked));
    assert_reply(client_reply(&c, true), 400,
                 "{\"error\":\"bad_request\",\"reason\":\"body read: length limit exceeded\"}");
    assert_reply(post("/api/agent/prompt", NULL, body.p), 401, "{\"error\":\"unauthorized\"}");
}

static void c03_22_bad_requests_name_their_reason(void **state)
{
    (void)state;
    assert_reply(post("/api/agent/prompt", alice, "{}"), 400,
                 "{\"error\":\"bad_request\",\"reason\":\"invalid JSON: missing field `text`\"}");
    AST_AUTO(reply_done) struct reply empty = post("/api/agent/prompt", alice, NULL);
    assert_int_equal(empty.status, 400);
    assert_contains(empty.body, "{\"error\":\"bad_request\",\"reason\":\"invalid JSON: ");
}

static void c03_22_c03_23_kernel_outcomes_become_statuses(void **state)
{
    static const struct {
        const char *target, *answer;
        unsigned status;
        const char *body;
    } cases[] = {
        { "/api/sys/status", "{\"data\":{\"pid\":1,\"version\":\"0.8.0\"},\"status\":\"Status\"}",
          200, "{\"pid\":1,\"version\":\"0.8.0\"}" },
        { "/api/capsules", "{\"data\":[\"a\",\"b\"],\"status\":\"Success\"}", 200,
          "{\"capsules\":[\"a\",\"b\"]}" },
        { "/api/sys/status",
          "{\"data\":\"permission denied for principal alice: missing capability system:status\",\"status\":\"Error\"}",
          403,
          "{\"error\":\"forbidden\",\"reason\":\"permission denied for principal alice: missing capability system:status\"}" },
        { "/api/sys/status", "{\"data\":[],\"status\":\"Success\"}", 500,
          "{\"error\":\"internal\"}" },
        { "/api/sys/status", "{\"data\":[],\"status\":\"Status\"}", 500,
          "{\"error\":\"internal\"}" },
        { "/api/capsules", "{\"data\":{},\"status\":\"Success\"}", 500,
          "{\"error\":\"internal\"}" },
        { "/api/capsules", "no json", 500, "{\"error\":\"internal\"}" },
    };
    (void)state;
    for (size_t i = 0; i < 2 * AST_ARRAY_LEN(cases); i++) {
        size_t k = i / 2;
        rig.kernel.answer = cases[k].answer;
        rig.kernel.answers_elsewhere = i % 2;
        assert_reply(call("GET", cases[k].target, alice), cases[k].status, cases[k].body);
        assert_string_equal(rig.kernel.caller, "alice");
        assert_string_equal(rig.kernel.method, k == 1 || k > 4 ? "ListCapsules" : "GetStatus");
        if (i % 2)
            (void)pthread_join(rig.kernel.thread, NULL);
    }
}

static void an_answer_for_a_client_that_left_is_dropped(void **state)
{
    struct client c = client_open(ast_gateway_port(rig.gateway));
    (void)state;
    rig.kernel.answer = NULL;
    client_ask(&c, "GET", "/api/sys/status", alice, NULL, NULL);
    while (!__atomic_load_n(&rig.kernel.done, __ATOMIC_SEQ_CST))
        (void)usleep(1000);
    client_close(&c);
    while (gw_http_connections(rig.gateway->http))
        (void)usleep(1000);
    rig.kernel.done(rig.kernel.arg, AST_STR("{\"data\":{},\"status\":\"Status\"}"));
    AST_AUTO(reply_done) struct reply r = call("GET", "/api/auth/me", alice);
    assert_int_equal(r.status, 200);
}

static void an_answer_after_the_stop_is_dropped(void **state)
{
    AST_AUTO(client_close) struct client c = client_open(ast_gateway_port(rig.gateway));
    (void)state;
    rig.kernel.answer = NULL;
    client_ask(&c, "GET", "/api/sys/status", alice, NULL, NULL);
    while (!__atomic_load_n(&rig.kernel.done, __ATOMIC_SEQ_CST))
        (void)usleep(1000);
    rig_stop(&rig); /* waits for the request as long as it may */
    rig.kernel.done(rig.kernel.arg, AST_STR("{\"data\":{},\"status\":\"Status\"}"));
    assert_true(client_ended(&c));
}

/* --- Prompts ------------------------------------------------------------------------------- */

static void say(const char *topic, const char *principal, const char *json)
{
    struct ast_msg *m = NULL;
    const struct ast_msg_spec spec = { .topic = ast_str_c(topic),
                                       .principal = ast_str_c(principal) };
    assert_int_equal(ast_msg_from_json(&spec, ast_str_c(json), &m, NULL), AST_OK);
    (void)ast_bus_publish(rig.bus, m);
}

static struct client prompt(const char *bearer, const char *body)
{
    struct client c = client_open(ast_gateway_port(rig.gateway));
    client_ask(&c, "POST", "/api/agent/prompt", bearer, NULL, body);
    if (!client_wait(&c, "event: ready\n"))
        rig_die("prompt", "no ready");
    return c;
}

struct heard {
    char topic[64], principal[64], body[512];
    struct ast_uuid source;
};

static void hear(void *arg, struct ast_msg *m)
{
    struct heard *h = arg;
    (void)snprintf(h->topic, sizeof h->topic, AST_STR_FMT, AST_STR_ARG(m->topic));
    (void)snprintf(h->principal, sizeof h->principal, AST_STR_FMT, AST_STR_ARG(m->principal));
    (void)snprintf(h->body, sizeof h->body, AST_STR_FMT, AST_STR_ARG(m->body));
    h->source = m->source_id;
}

static void c03_46_a_prompt_is_published_as_its_caller(void **state)
{
    struct heard h = { 0 };
    struct ast_tap *tap = NULL;
    (void)state;
    assert_int_equal(ast_tap_open(rig.bus, "test", AST_STR("user.v1.prompt"), hear, &h, &tap, NULL),
                     AST_OK);
    AST_AUTO(client_close)
    struct client c = prompt(alice, "{\"text\":\"hi\",\"session_id\":\" odd \",\"context\":[1]}");
    assert_string_equal(h.principal, "alice");
    assert_string_equal(
        h.body,
        "{\"type\":\"user_input\",\"text\":\"hi\",\"session_id\":\" odd \",\"context\":[1]}");
    assert_true(ast_uuid_eq(&h.source, &AST_UUID_NIL));
    assert_true(client_wait(
        &c, "event: ready\ndata: {\"session_id\":\" odd \",\"principal\":\"alice\"}\n\n"));
    assert_contains(c.got.p, "\r\ncontent-type: text/event-stream\r\n");
    assert_contains(c.got.p, "\r\ncache-control: no-cache\r\n");
    assert_contains(c.got.p, "\r\nx-frame-options: DENY\r\n");

    AST_AUTO(client_close)
    struct client blank = prompt(alice, "{\"text\":\"hi\",\"session_id\":\"  \"}");
    const char *id = strstr(blank.got.p, "\"session_id\":\"");
    struct ast_uuid u;
    assert_non_null(id);
    assert_true(ast_uuid_parse(ast_str_n(id + 14, 36), &u));
    assert_non_null(strstr(h.body, "\"session_id\":\""));
    assert_memory_equal(strstr(h.body, "\"session_id\":\"") + 14, id + 14, 36);
    ast_tap_close(tap);
}

static void c03_42_c03_44_the_stream_ends_with_the_answer_and_the_connection_is_reusable(
    void **state)
{
    AST_AUTO(client_close)
    struct client c = prompt(alice, "{\"text\":\"hi\",\"session_id\":\"s\"}");
    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        say("agent.v1.stream.delta", "alice", "{\"session_id\":\"s\",\"delta\":\"h\"}");
        say("agent.v1.response", "alice",
            "{\"type\":\"agent_response\",\"text\":\"hello\",\"is_final\":true,\"session_id\":\"s\"}");
        say("agent.v1.stream.delta", "alice", "{\"session_id\":\"s\",\"delta\":\"late\"}");
        AST_AUTO(reply_done) struct reply r = client_reply(&c, true);
        assert_int_equal(r.status, 200);
        assert_string_equal(
            r.body,
            "event: ready\ndata: {\"session_id\":\"s\",\"principal\":\"alice\"}\n\n"
            "event: delta\ndata: {\"type\":\"custom\",\"data\":{\"delta\":\"h\",\"session_id\":\"s\"}}\n\n"
            "event: response\ndata: {\"type\":\"agent_response\",\"text\":\"hello\",\"is_final\":true,\"session_id\":\"s\"}\n\n");
        client_ask(&c, "POST", "/api/agent/prompt", alice, NULL,
                   "{\"text\":\"hi\",\"session_id\":\"s\"}");
        assert_true(client_wait(&c, "event: ready\n"));
    }
}

static void c03_43_a_burst_is_delivered_whole_and_in_order(void **state)
{
    AST_AUTO(client_close)
    struct client c = prompt(alice, "{\"text\":\"hi\",\"session_id\":\"s\"}");
    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        char json[64];
        (void)snprintf(json, sizeof json, "{\"delta\":%u,\"session_id\":\"s\"}", i);
        /* Publishers of two queues: the caller and the system. */
        say("agent.v1.stream.delta", i % 3 ? "alice" : "", json);
    }
    say("agent.v1.response", "alice", "{\"session_id\":\"s\"}");
    AST_AUTO(reply_done) struct reply r = client_reply(&c, true);
    assert_int_equal(r.status, 200);
    const char *at = r.body;
    for (unsigned i = 0; i < 1000; i++) {
        char want[64];
        (void)snprintf(want, sizeof want, "{\"delta\":%u,", i);
        at = strstr(at, "event: delta\n");
        if (!at)
            fail_msg("delta %u is missing", i);
        assert_memory_equal(at + 13 + 6 + 24, want, strlen(want));
        at++;
    }
    assert_null(strstr(at, "event: delta\n"));
    assert_contains(at, "event: response\n");
}

static void c03_45_two_principals_in_one_session_stay_apart(void **state)
{
    AST_AUTO(client_close)
    struct client a = prompt(alice, "{\"text\":\"hi\",\"session_id\":\"s\"}");
    AST_AUTO(client_close) struct client b = prompt(bob, "{\"text\":\"hi\",\"session_id\":\"s\"}");
    (void)state;
    say("agent.v1.stream.delta", "alice", "{\"session_id\":\"s\",\"delta\":\"secret of alice\"}");
    say("agent.v1.stream.delta", "bob", "{\"session_id\":\"s\",\"delta\":\"secret of bob\"}");
    say("agent.v1.session_changed", "alice",
        "{\"old_session_id\":\"s\",\"new_session_id\":\"alices\"}");
    say("astrid.v1.elicit", "alice", "{\"type\":\"elicit_request\",\"for\":\"alice\"}");
    say("agent.v1.response", "alice", "{\"no\":\"session, alice\"}");
    say("agent.v1.response", "bob", "{\"session_id\":\"other\"}");
    say("agent.v1.response", "bob", "{\"session_id\":\"s\"}");
    AST_AUTO(reply_done) struct reply ra = client_reply(&a, true);
    AST_AUTO(reply_done) struct reply rb = client_reply(&b, true);
    assert_contains(ra.body, "secret of alice");
    assert_contains(ra.body, "event: session_changed\n");
    assert_contains(ra.body, "event: elicit\n");
    assert_lacks(ra.body, "bob");
    assert_contains(rb.body, "secret of bob");
    assert_lacks(rb.body, "alice");
    assert_lacks(rb.body, "other");
    assert_lacks(rb.body, "elicit");
}

static void a_revoked_or_expired_bearer_ends_its_stream(void **state)
{
    char json[256];
    (void)state;
    AST_AUTO(client_close) struct client a = prompt(alice, "{\"text\":\"hi\"}");
    AST_AUTO(client_close) struct client b = prompt(bob, "{\"text\":\"hi\",\"session_id\":\"s\"}");
    (void)snprintf(
        json, sizeof json,
        "{\"method\":\"admin.agent.delete\",\"outcome\":\"success\",\"target_principal\":\"alice\",\"ts_epoch\":%llu}",
        (unsigned long long)ast_wall_secs() + 1);
    audit(json);
    AST_AUTO(reply_done)
    struct reply ended =
        client_reply(&a, true); /* a whole answer: the stream ended, not the line */
    assert_int_equal(ended.status, 200);
    assert_lacks(ended.body, "event: response");
    say("agent.v1.response", "bob", "{\"session_id\":\"s\"}");
    AST_AUTO(reply_done) struct reply other = client_reply(&b, true);
    assert_contains(other.body, "event: response");

    AST_AUTO(ast_cfree) char *brief = rig_bearer(&rig, "bob", ast_wall_secs(), 1);
    AST_AUTO(client_close) struct client c = client_open(ast_gateway_port(rig.gateway));
    client_ask(&c, "POST", "/api/agent/prompt", brief, NULL, "{\"text\":\"hi\"}");
    AST_AUTO(reply_done) struct reply expired = client_reply(&c, true);
    assert_true(expired.status == 200 ||
                expired.status == 401); /* 401: the second was over already */
    assert_lacks(expired.body, "event: response");
}

static void a_disabled_principals_stream_ends(void **state)
{
    (void)state;
    AST_AUTO(client_close)
    struct client a = prompt(alice, "{\"text\":\"hi\",\"session_id\":\"s\"}");
    rig_profile(&rig, "alice", "profile_version = 1\nenabled = false\n");
    audit(
        "{\"method\":\"admin.agent.disable\",\"outcome\":\"success\",\"target_principal\":\"alice\"}");
    say("agent.v1.stream.delta", "alice", "{\"session_id\":\"s\",\"delta\":\"too late\"}");
    AST_AUTO(reply_done) struct reply r = client_reply(&a, true);
    assert_int_equal(r.status, 200);
    assert_lacks(r.body, "too late");
}

static void a_slow_client_is_told_what_it_missed(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf json = AST_BUF_INIT(100000);
    AST_AUTO(client_close)
    struct client c = prompt(alice, "{\"text\":\"hi\",\"session_id\":\"s\"}");
    (void)state;
    (void)ast_buf_add_lit(&json, "{\"session_id\":\"s\",\"delta\":\"");
    while (json.n < 60000)
        (void)ast_buf_add_byte(&json, 'x');
    (void)ast_buf_add_lit(&json, "\"}");
    for (unsigned i = 0; i < 400;
         i++) /* 24 MB against socket buffers and a budget of 1 MiB, nobody reads */
        say("agent.v1.stream.delta", "alice", json.p);
    say("agent.v1.response", "alice", "{\"session_id\":\"s\"}");
    AST_AUTO(reply_done) struct reply r = client_reply(&c, true);
    assert_int_equal(r.status, 200);
    unsigned long long got = 0, missed = 0;
    for (const char *p = r.body; (p = strstr(p, "event: delta\n")) != NULL; p++)
        got++;
    for (const char *p = r.body; (p = strstr(p, "event: lagged\ndata: {\"dropped\":")) != NULL; p++)
        missed += strtoull(p + 31, NULL, 10);
    assert_true(missed > 0);
    assert_int_equal(got + missed, 400);
    assert_contains(r.body, "event: response\n");
}

static void an_answer_larger_than_a_queue_still_ends_the_stream(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf json = AST_BUF_INIT(2000000);
    AST_AUTO(client_close)
    struct client c = prompt(alice, "{\"text\":\"hi\",\"session_id\":\"s\"}");
    (void)state;
    say("agent.v1.stream.delta", "alice", "{\"session_id\":\"s\",\"delta\":\"first\"}");
    (void)ast_buf_add_lit(
        &json, "{\"type\":\"agent_response\",\"is_final\":true,\"session_id\":\"s\",\"text\":\"");
    while (json.n < 1500000) /* over the 1 MiB that wait for one client */
        (void)ast_buf_add_byte(&json, 'x');
    (void)ast_buf_add_lit(&json, "\"}");
    say("agent.v1.response", "alice", json.p);
    AST_AUTO(reply_done) struct reply r = client_reply(&c, true);
    assert_int_equal(r.status, 200);
    assert_contains(r.body, "first");
    assert_true(strstr(r.body, "event: response\n") > strstr(r.body, "first"));
    assert_true(strlen(r.body) > 1500000);
}

static void c03_44_without_an_answer_the_stream_says_so_and_ends(void **state)
{
    AST_AUTO(client_close)
    struct client c = prompt(alice, "{\"text\":\"hi\",\"session_id\":\"s\"}");
    int64_t began = ast_mono_ns();
    (void)state;
    AST_AUTO(reply_done) struct reply r = client_reply(&c, true);
    assert_int_equal(r.status, 200);
    assert_contains(r.body, "\n\n: keep-alive\n\n");
    const char *last = "event: timeout\ndata: {\"after_secs\":2}\n\n";
    assert_true(strlen(r.body) > strlen(last));
    assert_string_equal(r.body + strlen(r.body) - strlen(last), last);
    int64_t took = ast_mono_ns() - began;
    assert_true(took > INT64_C(1900000000) && took < INT64_C(15000000000));
}

static void c03_24_a_kernel_that_never_answers_is_a_500(void **state)
{
    int64_t began = ast_mono_ns();
    (void)state;
    rig.kernel.answer = NULL;
    AST_AUTO(reply_done) struct reply r = call("GET", "/api/sys/status", alice);
    assert_int_equal(r.status, 500);
    assert_string_equal(r.body, "{\"error\":\"internal\"}");
    int64_t took = ast_mono_ns() - began;
    assert_true(took > INT64_C(900000000) && took < INT64_C(12000000000));
    rig.kernel.done(rig.kernel.arg, AST_STR("{\"data\":{},\"status\":\"Status\"}")); /* too late */
    AST_AUTO(reply_done) struct reply next = call("GET", "/api/auth/me", alice);
    assert_int_equal(next.status, 200);
}

static void a_limited_request_says_when_to_come_back(void **state)
{
    (void)state;
    rig.kernel.answer =
        "{\"data\":\"Rate limited: max 5 ReloadCapsules requests per minute\",\"status\":\"Error\"}";
    AST_AUTO(reply_done) struct reply r = call("POST", "/api/sys/capsules/reload", alice);
    assert_int_equal(r.status, 429);
    assert_string_equal(r.body, "{\"error\":\"rate_limited\",\"retry_after_secs\":60}");
    assert_string_equal(rig.kernel.method, "ReloadCapsules");
    assert_string_equal(rig.kernel.caller, "alice");
}

static void an_open_prompt_counts_as_somebody_who_is_there(void **state)
{
    (void)state;
    AST_AUTO(client_close)
    struct client c = prompt(alice, "{\"text\":\"hi\",\"session_id\":\"s\"}");
    assert_int_equal(__atomic_load_n(&rig.kernel.sockets, __ATOMIC_SEQ_CST), 1);
    say("agent.v1.response", "alice", "{\"session_id\":\"s\"}");
    AST_AUTO(reply_done) struct reply r = client_reply(&c, true);
    assert_int_equal(r.status, 200);
    assert_int_equal(__atomic_load_n(&rig.kernel.sockets, __ATOMIC_SEQ_CST), 0);
}

static void head_of_a_stream_is_its_head(void **state)
{
    AST_AUTO(client_close) struct client c = client_open(ast_gateway_port(rig.gateway));
    (void)state;
    AST_AUTO(reply_done)
    struct reply r = client_call(&c, "HEAD", "/api/agent/prompt", alice, NULL, NULL);
    assert_int_equal(r.status, 405); /* HEAD goes with GET; this route is a POST */
}

static void clients_that_leave_take_their_subscriptions_along(void **state)
{
    struct client c[20];
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(c); i++)
        c[i] = prompt(alice, "{\"text\":\"hi\"}");
    for (size_t i = 0; i < AST_ARRAY_LEN(c); i++) {
        say("agent.v1.stream.delta", "alice", "{\"delta\":\"x\"}");
        client_close(&c[i]);
    }
    for (bool is_empty = false; !is_empty;) {
        ast_lock(&rig.gateway->streams_lock);
        is_empty = ast_list_empty(&rig.gateway->streams);
        ast_unlock(&rig.gateway->streams_lock);
    }
}

/* --- Probes and metrics -------------------------------------------------------------------- */

static void c03_51_healthz_follows_the_socket(void **state)
{
    (void)state;
    assert_reply(call("GET", "/healthz", NULL), 503, "daemon socket unreachable\n");
    rig_put(&rig, AST_HOME_SOCKET, "");
    AST_AUTO(reply_done) struct reply r = call("GET", "/healthz", NULL);
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "ok\n");
    assert_contains(r.head, "content-type: text/plain; charset=utf-8\r\n");
}

static uint64_t sample(const char *body, const char *name)
{
    const char *at = strstr(body, name);
    return at ? strtoull(at + strlen(name), NULL, 10) : UINT64_MAX;
}

static void c03_52_to_55_metrics(void **state)
{
    (void)state;
    AST_AUTO(reply_done) struct reply m = call("GET", "/metrics", NULL);
    assert_int_equal(m.status, 200);
    assert_contains(m.head, "content-type: text/plain; version=0.0.4; charset=utf-8\r\n");
    uint64_t failures = sample(m.body, "\nastrid_gateway_auth_failures_total ");
    assert_int_not_equal(failures, UINT64_MAX);
    assert_int_not_equal(sample(m.body, "\nastrid_gateway_redeem_attempts_total "), UINT64_MAX);
    assert_int_not_equal(sample(m.body, "\nastrid_gateway_redeem_rate_limited_total "), UINT64_MAX);

    AST_AUTO(reply_done) struct reply a = call("GET", "/api/capsules/very-private/env", NULL);
    AST_AUTO(reply_done) struct reply b = call("GET", "/nowhere/very-private", NULL);
    AST_AUTO(reply_done) struct reply c = call("GET", "/api/auth/me", alice);
    assert_int_equal(a.status + b.status + c.status, 401 + 404 + 200);
    AST_AUTO(reply_done) struct reply n = call("GET", "/metrics", NULL);
    assert_int_equal(sample(n.body, "\nastrid_gateway_auth_failures_total "), failures + 1);
    assert_contains(
        n.body,
        "astrid_gateway_requests_total{method=\"GET\",route=\"/api/capsules/:id/env\",status=\"401\"} ");
    assert_contains(
        n.body,
        "astrid_gateway_requests_total{method=\"GET\",route=\"<unmatched>\",status=\"404\"} ");
    static const char *const buckets[] = { "0.005", "0.01", "0.025", "0.05", "0.1", "0.25",
                                           "0.5",   "1",    "2.5",   "5",    "10",  "+Inf" };
    for (size_t i = 0; i < AST_ARRAY_LEN(buckets); i++) {
        char want[160];
        (void)snprintf(
            want, sizeof want,
            "astrid_gateway_request_duration_seconds_bucket{method=\"GET\",route=\"/api/auth/me\",status=\"200\",le=\"%s\"}",
            buckets[i]);
        assert_contains(n.body, want);
    }
    assert_lacks(n.body, "very-private");
    assert_lacks(n.body, "alice");
    assert_lacks(n.body, alice);
    assert_lacks(n.body, rig.home.root);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* First: the metrics are the process', and this one looks for what must not be counted. */
        cmocka_unit_test_setup_teardown(c03_19_cors_echoes_listed_origins_only, setup_cors,
                                        teardown),
        cmocka_unit_test(c03_01_without_a_file_or_disabled_nothing_listens),
        cmocka_unit_test(c03_03_a_bad_file_leaves_the_daemon_without_gateway),
        T(a_port_in_use_is_not_shared),
        T(c03_07_the_signing_key_is_made_once_and_must_be_whole),
        T(c03_11_bearers_survive_a_restart_and_die_with_the_key),
        T(c03_15_a_corrupt_revocation_file_is_an_error),
        T(c03_16_unknown_paths_and_wrong_methods),
        T(c03_16_all_operations_exist_and_unfinished_ones_say_so),
        T(head_is_get_without_a_body),
        T(c03_17_c03_18_security_headers_are_on_every_answer),
        T(me_is_the_bearers_principal_whatever_the_query_says),
        T(c03_09_every_refusal_looks_the_same),
        T(refresh_mints_a_new_bearer_and_keeps_the_old_one),
        T(disabled_and_unknown_principals_cannot_refresh_or_prompt),
        T(c03_13_c03_14_a_completed_delete_revokes_and_nothing_else_does),
        T(c03_20_bodies_over_64_kib_are_refused),
        T(c03_22_bad_requests_name_their_reason),
        T(c03_22_c03_23_kernel_outcomes_become_statuses),
        T(an_answer_for_a_client_that_left_is_dropped),
        T(an_answer_after_the_stop_is_dropped),
        T(c03_46_a_prompt_is_published_as_its_caller),
        T(c03_42_c03_44_the_stream_ends_with_the_answer_and_the_connection_is_reusable),
        T(c03_43_a_burst_is_delivered_whole_and_in_order),
        T(c03_45_two_principals_in_one_session_stay_apart),
        T(a_revoked_or_expired_bearer_ends_its_stream),
        T(a_disabled_principals_stream_ends),
        T(a_slow_client_is_told_what_it_missed),
        T(an_answer_larger_than_a_queue_still_ends_the_stream),
        cmocka_unit_test_setup_teardown(c03_44_without_an_answer_the_stream_says_so_and_ends,
                                        setup_hasty, teardown),
        cmocka_unit_test_setup_teardown(c03_24_a_kernel_that_never_answers_is_a_500, setup_hasty,
                                        teardown),
        T(a_limited_request_says_when_to_come_back),
        T(an_open_prompt_counts_as_somebody_who_is_there),
        T(head_of_a_stream_is_its_head),
        T(clients_that_leave_take_their_subscriptions_along),
        T(c03_51_healthz_follows_the_socket),
        T(c03_52_to_55_metrics),
    };
    (void)ast_log_open(&(struct ast_log_config){ .level = AST_LOG_OFF }, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
