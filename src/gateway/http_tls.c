/* The TLS files, looked at before libwebsockets gets them: it would only say that something is wrong. */
#include "gateway/http_conn_priv.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

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

/* spec 03 §4: exactly one key, PKCS#8, PKCS#1 or SEC1, that belongs to the first certificate. */
enum ast_rc gw_tls_check(const char *cert_path, const char *key_path, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf pem = AST_BUF_INIT(KEY_FILE_MAX);
    AST_AUTO(ssl_ctx) SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (!ctx)
        return ast_fail(err, AST_E_NO_MEMORY, "TLS");
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
