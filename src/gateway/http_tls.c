/* The TLS files, looked at before libwebsockets gets them: it would only say that something is wrong. */
#include "gateway/http_conn_priv.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>

#include "base/fs.h"

#include "base/banned.h"

#define KEY_FILE_MAX 1048576u

static void ssl_ctx_auto(SSL_CTX **ctx)
{
    SSL_CTX_free(*ctx);
}

static enum ast_rc refuse(struct ast_err *err, const char *what, const char *path)
{
    unsigned long code = ERR_get_error();
    const char *why = code ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return ast_fail(err, AST_E_INVALID, "TLS: %s %s: %s", what, path,
                    why ? why : "cannot be loaded");
}

static size_t count_keys(struct ast_str pem)
{
    size_t n = 0;
    for (size_t at; (at = ast_str_find(pem, AST_STR("-----BEGIN "))) != AST_STR_NPOS;) {
        pem = ast_str_from(pem, at + 11);
        n += ast_str_ends(ast_str_first(pem, ast_str_find(pem, AST_STR("-----"))),
                          AST_STR("PRIVATE KEY"));
    }
    return n;
}

/* --- Reading ------------------------------------------------------------------------------- */

struct gw_tls {
    atomic_uint refs;
    SSL_CTX *ctx; /* owned; holds chain and key, never serves */
};

struct gw_tls *gw_tls_ref(struct gw_tls *t)
{
    atomic_fetch_add(&t->refs, 1);
    return t;
}

void gw_tls_unref(struct gw_tls *t)
{
    if (!t || atomic_fetch_sub(&t->refs, 1) != 1)
        return;
    SSL_CTX_free(t->ctx);
    free(t);
}

/* spec 03 §4: exactly one key, PKCS#8, PKCS#1 or SEC1, that belongs to the first certificate. */
static enum ast_rc read_files(SSL_CTX *ctx, const char *cert_path, const char *key_path,
                              struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf pem = AST_BUF_INIT(KEY_FILE_MAX);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert_path) != 1)
        return refuse(err, "certificate", cert_path);
    enum ast_rc rc = ast_fs_read(key_path, KEY_FILE_MAX, &pem, err);
    if (rc)
        return ast_wrap(err, rc, "TLS");
    size_t keys = count_keys(ast_buf_view(&pem));
    OPENSSL_cleanse(pem.p, pem.n);
    if (keys != 1)
        return ast_fail(err, AST_E_INVALID, "TLS: private key %s: %zu keys where one is needed",
                        key_path, keys);
    if (SSL_CTX_use_PrivateKey_file(ctx, key_path, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1)
        return refuse(err, "private key", key_path);
    return AST_OK;
}

enum ast_rc gw_tls_load(const char *cert_path, const char *key_path, struct gw_tls **ret,
                        struct ast_err *err)
{
    AST_AUTO(ssl_ctx) SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    struct gw_tls *t = calloc(1, sizeof *t);
    if (!ctx || !t) {
        free(t);
        return ast_fail(err, AST_E_NO_MEMORY, "TLS");
    }
    enum ast_rc rc = read_files(ctx, cert_path, key_path, err);
    if (rc) {
        free(t);
        return rc;
    }
    atomic_init(&t->refs, 1);
    t->ctx = ast_steal(&ctx);
    *ret = t;
    return AST_OK;
}

bool gw_tls_apply(const struct gw_tls *t, void *ssl_ctx)
{
    STACK_OF(X509) *chain = NULL;
    bool ok = SSL_CTX_get0_chain_certs(t->ctx, &chain) == 1 &&
              SSL_CTX_use_cert_and_key(ssl_ctx, SSL_CTX_get0_certificate(t->ctx),
                                       SSL_CTX_get0_privatekey(t->ctx), chain,
                                       /* override= */ 1) == 1;
    ERR_clear_error();
    return ok;
}
