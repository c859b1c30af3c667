/* The HTTP front alone: pipelining, chunks, slow and greedy clients, TLS, the end. */
#include "gateway_test.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>

#include "rig.h"

#include "base/log.h"
#include "gateway/http_priv.h"

#include "base/banned.h"

static struct gw_http *http;
static struct gw_exchange *_Atomic held;

/* Echoes the request; "/hold" stays unanswered, "/flood" is an endless stream. */
static bool flood_fill(void *user, int64_t now_ns, struct ast_buf *out, int64_t *ret_next_ns)
{
    (void)user, (void)now_ns, (void)ret_next_ns;
    while (out->n < AST_GATEWAY_FILL_BYTES)
        (void)ast_buf_add_lit(out, "event: x\ndata: {}\n\n");
    return true;
}

static void flood_gone(void *user)
{
    atomic_fetch_add((atomic_uint *)user, 1);
}

static atomic_uint floods_gone;

static void on_request(void *arg, struct gw_exchange *ex)
{
    static const struct gw_stream_ops flood = { flood_fill, flood_gone };
    const struct gw_request *r = gw_exchange_request(ex);
    AST_AUTO(ast_buf_done) struct ast_buf body = AST_BUF_INIT(200000);
    (void)arg;
    if (ast_str_is(r->path, "/hold")) {
        atomic_store(&held, gw_exchange_ref(ex));
        return;
    }
    if (ast_str_is(r->path, "/flood")) {
        gw_exchange_stream(ex, &(struct gw_answer){ .status = 200 }, &flood, &floods_gone);
        return;
    }
    (void)ast_buf_addf(&body, "%s " AST_STR_FMT " %zu %d ", gw_method_name(r->method),
                       AST_STR_ARG(r->path), r->body.n, r->body_too_large);
    (void)ast_buf_add(&body, r->body);
    gw_exchange_answer(ex, &(struct gw_answer){ .status = 200,
                                                .content_type = AST_STR("text/plain"),
                                                .body = ast_buf_view(&body) });
}

static int start(struct gw_http_config cfg)
{
    struct ast_err err = AST_ERR_INIT;
    cfg.on_request = on_request;
    cfg.fixed_fields = AST_STR("x-fixed: yes\r\n");
    atomic_store(&floods_gone, 0);
    atomic_store(&held, NULL);
    if (gw_address_parse(AST_STR("127.0.0.1:0"), &cfg.listen, &err) ||
        gw_http_start(&cfg, &http, &err))
        rig_die("http", err.msg);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return start((struct gw_http_config){ .loops = 2 });
}

static int setup_hasty(void **state)
{
    (void)state;
    return start((struct gw_http_config){
        .loops = 1, .head_ms = 60, .body_ms = 60, .idle_ms = 60, .write_ms = 60 });
}

static int setup_small(void **state)
{
    (void)state;
    return start((struct gw_http_config){ .loops = 1, .connections = 3 });
}

static int teardown(void **state)
{
    (void)state;
    gw_http_stop(http);
    gw_exchange_unref(atomic_load(&held));
    return 0;
}

static struct client dial(void)
{
    return client_open(gw_http_port(http));
}

static void assert_next(struct client *c, const char *want)
{
    AST_AUTO(reply_done) struct reply r = client_reply(c, true);
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, want);
    assert_contains(r.head, "\r\nx-fixed: yes\r\n");
}

static void requests_in_any_cut_are_answered_in_order(void **state)
{
    static const char text[] =
        "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
        "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        "DELETE /c HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
        "POST /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        "\r\nPOST /e HTTP/1.1\r\nHost: x\r\n\r\n"
        "GET /f HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n!"
        "GET /g HTTP/1.1\r\nHost: x\r\n\r\n";
    (void)state;
    for (size_t step = 1; step < sizeof text; step += step < 8 ? 1 : 37) {
        AST_AUTO(client_close) struct client c = dial();
        for (struct ast_str rest = ast_str_c(text); rest.n; rest = ast_str_from(rest, step))
            client_send(&c, ast_str_first(rest, step));
        assert_next(&c, "GET /a 0 0 ");
        assert_next(&c, "POST /b 5 0 hello");
        assert_next(&c, "DELETE /c 2 0 hi");
        assert_next(&c, "POST /d 5 0 abcde");
        assert_next(&c, "POST /e 0 0 ");
        assert_next(&c, "GET /f 1 0 !");
        assert_next(&c, "GET /g 0 0 ");
    }
}

static void a_thousand_pipelined_requests_are_all_answered(void **state)
{
    AST_AUTO(client_close) struct client c = dial();
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000000);
    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        (void)ast_buf_addf(&out, "GET /%u HTTP/1.1\r\nHost: x\r\n\r\n", i);
    client_send(&c, ast_buf_view(&out));
    for (unsigned i = 0; i < 1000; i++) {
        char want[32];
        (void)snprintf(want, sizeof want, "GET /%u 0 0 ", i);
        assert_next(&c, want);
    }
}

static void release_held(struct gw_post *post)
{
    (void)post;
    gw_exchange_answer(atomic_load(&held),
                       &(struct gw_answer){ .status = 200, .body = AST_STR("released") });
}

static void what_is_sent_ahead_waits_for_the_answer(void **state)
{
    AST_AUTO(client_close) struct client c = dial();
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(1000000);
    (void)state;
    (void)ast_buf_add_lit(&out, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    for (unsigned i = 0; i < 500; i++) /* more than is read ahead */
        (void)ast_buf_addf(
            &out, "POST /%u HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n%0100u", i, i);
    client_send(&c, ast_buf_view(&out));
    while (!atomic_load(&held))
        (void)usleep(1000);
    static struct gw_post post = { .fn = release_held };
    assert_true(gw_exchange_post(atomic_load(&held), &post));
    assert_next(&c, "released");
    for (unsigned i = 0; i < 500; i++) {
        char want[160];
        (void)snprintf(want, sizeof want, "POST /%u 100 0 %0100u", i, i);
        assert_next(&c, want);
    }
}

static void refused_bytes_get_their_status_and_an_end(void **state)
{
    static const struct {
        const char *in;
        unsigned status;
    } cases[] = {
        { "garbage\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\n\r\n", 400 },
        { "GET / HTTP/1.1\nHost: x\n\n", 400 },
        { "GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505 },
        { "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501 },
        { "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400 },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(client_close) struct client c = dial();
        client_send(&c, ast_str_c(cases[i].in));
        AST_AUTO(reply_done) struct reply r = client_reply(&c, true);
        assert_int_equal(r.status, cases[i].status);
        assert_contains(r.head, "\r\nconnection: close\r\n");
        assert_contains(r.head, "\r\nx-fixed: yes\r\n");
        assert_true(client_ended(&c));
    }
    AST_AUTO(client_close) struct client c = dial();
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(200000);
    (void)ast_buf_add_lit(&out, "GET / HTTP/1.1\r\nHost: x\r\nX: ");
    while (out.n < 100000)
        (void)ast_buf_add_byte(&out, 'a');
    client_send(&c, ast_buf_view(&out));
    AST_AUTO(reply_done) struct reply r = client_reply(&c, true);
    assert_int_equal(r.status, 431); /* readable although most of the head was never looked at */
    assert_true(client_ended(&c));
}

static void a_body_too_large_is_reported_and_ends_the_connection(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(2000000);
    (void)state;
    (void)ast_buf_add_lit(&out, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    while (out.n < 1000000)
        (void)ast_buf_add_byte(&out, 'x');
    AST_AUTO(client_close) struct client c = dial();
    client_send(&c, ast_buf_view(&out));
    assert_next(&c, "POST /x 0 1 ");
    assert_true(client_ended(&c));
}

static void http_10_and_expect_and_close(void **state)
{
    (void)state;
    AST_AUTO(client_close) struct client old = dial();
    client_send(&old, AST_STR("GET /old HTTP/1.0\r\n\r\n"));
    assert_next(&old, "GET /old 0 0 ");
    assert_true(client_ended(&old));

    AST_AUTO(client_close) struct client kept = dial();
    client_send(&kept, AST_STR("GET /k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    AST_AUTO(reply_done) struct reply r = client_reply(&kept, true);
    assert_contains(r.head, "connection: keep-alive\r\n");
    client_send(&kept, AST_STR("GET /k2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    assert_next(&kept, "GET /k2 0 0 ");
    assert_true(client_ended(&kept));

    AST_AUTO(client_close) struct client polite = dial();
    client_send(
        &polite,
        AST_STR(
            "POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
    AST_AUTO(ast_cfree) char *go_on = client_cut_through(&polite, "\r\n\r\n");
    assert_string_equal(go_on, "HTTP/1.1 100 Continue\r\n\r\n");
    client_send(&polite, AST_STR("ok"));
    assert_next(&polite, "POST /p 2 0 ok");
}

static void slow_clients_are_cut_off(void **state)
{
    static const struct {
        const char *in;
        unsigned status; /* 0: just the end */
    } cases[] = {
        { "", 0 },
        { "GET / HT", 408 },
        { "GET / HTTP/1.1\r\nHost: x\r\n", 408 },
        { "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel", 408 },
        { "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", 408 },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        AST_AUTO(client_close) struct client c = dial();
        client_send(&c, ast_str_c(cases[i].in));
        AST_AUTO(reply_done) struct reply r = client_reply(&c, true);
        assert_int_equal(r.status, cases[i].status);
        assert_true(client_ended(&c));
    }
    /* One byte now and then does not wind the clock of a head again. */
    AST_AUTO(client_close) struct client drip = dial();
    int64_t from = ast_mono_ns();
    client_send(&drip, AST_STR("GET / HTTP/1.1\r\nX: "));
    struct pollfd p = { .fd = drip.fd, .events = POLLIN };
    while (poll(&p, 1, 10) == 0)
        client_send(&drip, AST_STR("a"));
    AST_AUTO(reply_done) struct reply r = client_reply(&drip, true);
    assert_int_equal(r.status, 408);
    assert_true(ast_mono_ns() - from < 5 * AST_NS_PER_SEC);
    /* A request that is being answered is nobody's slowness. */
    AST_AUTO(client_close) struct client c = dial();
    client_send(&c, AST_STR("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"));
    p.fd = c.fd;
    assert_int_equal(poll(&p, 1, 300), 0);
}

static void a_client_that_takes_nothing_is_cut_off(void **state)
{
    AST_AUTO(client_close) struct client c = dial();
    (void)state;
    client_send(&c, AST_STR("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n"));
    while (!atomic_load(&floods_gone))
        (void)usleep(1000);
    assert_int_equal(atomic_load(&floods_gone), 1);
}

static void streams_end_with_their_client(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 10; i++) {
        struct client c = dial();
        client_send(&c, AST_STR("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_true(client_wait(&c, "event: x"));
        client_close(&c);
    }
    while (atomic_load(&floods_gone) != 10 || gw_http_connections(http))
        (void)usleep(1000);
}

static void one_connection_too_many_is_refused(void **state)
{
    struct client c[3];
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(c); i++) {
        c[i] = dial();
        client_send(&c[i], AST_STR("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_next(&c[i], "GET / 0 0 ");
    }
    AST_AUTO(client_close) struct client fourth = dial();
    AST_AUTO(reply_done) struct reply r = client_reply(&fourth, true);
    assert_int_equal(r.status, 503);
    assert_contains(r.head, "\r\nx-fixed: yes\r\n");
    client_close(&c[0]);
    while (gw_http_connections(http) > 2)
        (void)usleep(1000);
    AST_AUTO(client_close) struct client next = dial();
    client_send(&next, AST_STR("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_next(&next, "GET / 0 0 ");
    client_close(&c[1]);
    client_close(&c[2]);
}

static void the_stop_ends_idle_clients_and_streams(void **state)
{
    (void)state;
    assert_int_equal(start((struct gw_http_config){ .loops = 2 }), 0);
    AST_AUTO(client_close) struct client idle = dial();
    AST_AUTO(client_close) struct client streaming = dial();
    client_send(&streaming, AST_STR("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_true(client_wait(&streaming, "event: x"));
    client_send(&idle, AST_STR("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_next(&idle, "GET / 0 0 ");
    int64_t from = ast_mono_ns();
    gw_http_stop(http);
    assert_true(ast_mono_ns() - from < 4 * AST_NS_PER_SEC);
    assert_true(client_ended(&idle));
    assert_true(client_ended(&streaming));
    assert_int_equal(atomic_load(&floods_gone), 1);
}

/* --- TLS ----------------------------------------------------------------------------------- */

static char tls_dir[64], cert_path[96], key_path[96];

/* A fresh key and a certificate it signed itself. */
static void make_certificate(void)
{
    (void)snprintf(tls_dir, sizeof tls_dir, "/tmp/ast-gwtls-XXXXXX");
    if (!mkdtemp(tls_dir))
        rig_die("mkdtemp", strerror(errno));
    (void)snprintf(cert_path, sizeof cert_path, "%s/cert.pem", tls_dir);
    (void)snprintf(key_path, sizeof key_path, "%s/key.pem", tls_dir);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    FILE *k = fopen(key_path, "w"), *c = fopen(cert_path, "w");
    if (!key || !cert || !k || !c || !X509_gmtime_adj(X509_getm_notBefore(cert), -60) ||
        !X509_gmtime_adj(X509_getm_notAfter(cert), 3600) || !X509_set_pubkey(cert, key) ||
        !X509_sign(cert, key, EVP_sha256()) ||
        !PEM_write_PrivateKey(k, key, NULL, NULL, 0, NULL, NULL) || !PEM_write_X509(c, cert) ||
        fclose(k) || fclose(c))
        rig_die("certificate", "cannot be made");
    EVP_PKEY_free(key);
    X509_free(cert);
}

static int setup_tls(void **state)
{
    (void)state;
    make_certificate();
    return start((struct gw_http_config){
        .tls_cert_path = cert_path, .tls_key_path = key_path, .loops = 1 });
}

static int teardown_tls(void **state)
{
    (void)teardown(state);
    return ast_fs_remove_tree(tls_dir, NULL) == AST_OK ? 0 : -1;
}

static SSL *tls_connect(SSL_CTX *ctx, int fd)
{
    static const unsigned char protocols[] = "\x02h2\x08http/1.1";
    SSL *ssl = SSL_new(ctx);
    assert_non_null(ssl);
    assert_int_equal(SSL_set_alpn_protos(ssl, protocols, sizeof protocols - 1), 0);
    assert_int_equal(SSL_set_fd(ssl, fd), 1);
    return ssl;
}

static void requests_over_tls(void **state)
{
    static const char request[] = "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    (void)state;
    assert_non_null(ctx);
    AST_AUTO(client_close) struct client c = dial();
    SSL *ssl = tls_connect(ctx, c.fd);
    assert_int_equal(SSL_connect(ssl), 1);
    const unsigned char *chosen;
    unsigned n;
    SSL_get0_alpn_selected(ssl, &chosen, &n); /* nothing, or what is served */
    assert_true(n == 0 || (n == 8 && memcmp(chosen, "http/1.1", 8) == 0));
    for (unsigned i = 0; i < 3; i++) {
        char in[4096];
        size_t got = 0;
        assert_int_equal(SSL_write(ssl, request, sizeof request - 1), sizeof request - 1);
        while (got < 12 ||
               memcmp(in + got - 12, "POST /x 2 0 ", 12) != 0) { /* up to the echoed body */
            int r = SSL_read(ssl, in + got, 1);
            assert_int_equal(r, 1);
            got++;
        }
        assert_int_equal(SSL_read(ssl, in, 2), 2);
        assert_memory_equal(in, "hi", 2);
    }
    SSL_free(ssl);

    AST_AUTO(client_close) struct client old = dial();
    SSL *old_ssl = tls_connect(ctx, old.fd);
    assert_int_equal(SSL_set_max_proto_version(old_ssl, TLS1_1_VERSION), 1);
    assert_int_not_equal(SSL_connect(old_ssl), 1);
    SSL_free(old_ssl);
    SSL_CTX_free(ctx);

    AST_AUTO(client_close) struct client plain = dial();
    client_send(&plain, AST_STR("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_true(client_ended(&plain));
    assert_lacks(plain.got.p ? plain.got.p : "", "HTTP/1.1 200");
    client_close(&c);
    c = dial(); /* the guard closes it */
    while (gw_http_connections(http) > 1)
        (void)usleep(1000);
}

static void tls_files_that_do_not_fit_are_refused(void **state)
{
    char other[96];
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_buf_done) struct ast_buf twice = AST_BUF_INIT(100000);
    (void)state;
    make_certificate();
    (void)snprintf(other, sizeof other, "%s/other.pem", tls_dir);
    struct gw_http_config cfg = { .tls_cert_path = cert_path,
                                  .tls_key_path = other,
                                  .on_request = on_request };
    assert_int_equal(gw_address_parse(AST_STR("127.0.0.1:0"), &cfg.listen, NULL), AST_OK);
    static const char *const bad[] = { "no key", "" };
    for (size_t i = 0; i < AST_ARRAY_LEN(bad); i++) {
        assert_int_equal(ast_fs_write_atomic(other, ast_str_c(bad[i]), 0600, 0, NULL), AST_OK);
        assert_int_not_equal(gw_http_start(&cfg, &http, &err), AST_OK);
        assert_contains(err.msg, "0 keys where one is needed");
    }
    assert_int_equal(ast_fs_read(key_path, 100000, &twice, NULL), AST_OK);
    assert_int_equal(ast_fs_read(key_path, 100000, &twice, NULL), AST_OK);
    assert_int_equal(ast_fs_write_atomic(other, ast_buf_view(&twice), 0600, 0, NULL), AST_OK);
    assert_int_not_equal(gw_http_start(&cfg, &http, &err), AST_OK);
    assert_contains(err.msg, "2 keys where one is needed");
    cfg.tls_cert_path = other;
    assert_int_not_equal(gw_http_start(&cfg, &http, &err), AST_OK);
    assert_contains(err.msg, "TLS: certificate ");
    assert_int_equal(ast_fs_remove_tree(tls_dir, NULL), AST_OK);
}

#define T(name, setup) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(requests_in_any_cut_are_answered_in_order, setup),
        T(a_thousand_pipelined_requests_are_all_answered, setup),
        T(what_is_sent_ahead_waits_for_the_answer, setup),
        T(refused_bytes_get_their_status_and_an_end, setup),
        T(a_body_too_large_is_reported_and_ends_the_connection, setup),
        T(http_10_and_expect_and_close, setup),
        T(slow_clients_are_cut_off, setup_hasty),
        T(a_client_that_takes_nothing_is_cut_off, setup_hasty),
        T(streams_end_with_their_client, setup),
        T(one_connection_too_many_is_refused, setup_small),
        cmocka_unit_test(the_stop_ends_idle_clients_and_streams),
        cmocka_unit_test_setup_teardown(requests_over_tls, setup_tls, teardown_tls),
        cmocka_unit_test(tls_files_that_do_not_fit_are_refused),
    };
    (void)ast_log_open(&(struct ast_log_config){ .level = AST_LOG_OFF }, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
