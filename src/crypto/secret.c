/* Secrets in memory: where they lie, how they vanish, how they are compared.
 *
 * Invariant: bytes held by a struct ast_secret are on pages of their own between guard pages, kept out
 * of swap and core dumps where the system permits it, and are zero before the pages go back.
 */
#include "crypto/secret.h"

#include <pthread.h>
#include <sodium.h>

#include "crypto/sodium_priv.h"

#include "base/banned.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start_sodium(void)
{
    AST_ASSERT(sodium_init() >= 0);
}

void crypto_sodium_init(void)
{
    (void)pthread_once(&once, start_sodium); /* fails only for a bad argument */
}

enum ast_rc ast_secret_init(struct ast_secret *s, size_t n, struct ast_err *err)
{
    crypto_sodium_init();
    if (n == 0) {
        *s = (struct ast_secret){ 0 };
        return AST_OK;
    }
    /* Locking is best effort inside: a low RLIMIT_MEMLOCK must not stop the daemon. */
    uint8_t *p = sodium_malloc(n);
    if (!p)
        return ast_fail(err, AST_E_NO_MEMORY, "secret memory");
    sodium_memzero(p, n);
    *s = (struct ast_secret){ .p = p, .n = n };
    return AST_OK;
}

enum ast_rc ast_secret_copy(struct ast_secret *s, struct ast_str bytes, struct ast_err *err)
{
    struct ast_secret copy = { 0 };
    enum ast_rc rc = ast_secret_init(&copy, bytes.n, err);
    if (rc)
        return rc;
    if (bytes.n)
        memcpy(copy.p, bytes.p, bytes.n);
    *s = copy;
    return AST_OK;
}

void ast_secret_done(struct ast_secret *s)
{
    sodium_free(s->p); /* wipes; NULL is fine */
    *s = (struct ast_secret){ 0 };
}

void ast_wipe(void *p, size_t n)
{
    if (n)
        sodium_memzero(p, n);
}

bool ast_ct_equal(const void *a, const void *b, size_t n)
{
    return n == 0 || sodium_memcmp(a, b, n) == 0;
}

void ast_random(void *out, size_t n)
{
    crypto_sodium_init();
    if (n)
        randombytes_buf(out, n);
}
