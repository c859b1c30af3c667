/* A bearer is refused, or it is exactly what minting its own parts again gives (but for the case of the
 * signature's digits). Half of the inputs get a valid signature, so that the code behind it is reached. */
#include <pthread.h>
#include <stdint.h>

#include "base/codec.h"
#include "crypto/token.h"

#include "base/banned.h"

static struct ast_key key;

static void start(void)
{
    static const uint8_t seed[AST_KEY_SEED_BYTES] = { 7 };
    AST_ASSERT(!ast_key_from_seed(&key, seed, NULL));
}

static void check(struct ast_str token, uint64_t now)
{
    struct ast_bearer b = { 0 };
    if (ast_bearer_verify(key.public_key, token, now, &b, NULL))
        return;
    AST_ASSERT(b.expires_at > now && ast_principal_valid(ast_principal_str(&b.principal)));
    AST_ASSERT(token.n <= AST_BEARER_MAX);
    if (b.expires_at < b.issued_at)
        return; /* signed by hand below: minting never gives it */
    AST_AUTO(ast_buf_done) struct ast_buf again = AST_BUF_INIT(AST_BEARER_MAX);
    AST_ASSERT(!ast_bearer_mint(&key, ast_principal_str(&b.principal), b.issued_at,
                                b.expires_at - b.issued_at, &again, NULL));
    AST_ASSERT(ast_str_eq_nocase(ast_buf_view(&again), token));
    size_t signed_part = token.n - 2 * AST_KEY_SIGNATURE_BYTES;
    AST_ASSERT(ast_str_eq(ast_str_first(ast_buf_view(&again), signed_part),
                          ast_str_first(token, signed_part)));
}

/* Decodes the first three pieces of the input, signs what they say and appends the signature. */
static void check_signed(struct ast_str input, uint64_t now)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(4096), token = AST_BUF_INIT(8192);
    struct ast_str rest = input, piece;
    bool more = true;
    for (int i = 0; i < 3; i++) {
        if (!ast_str_split(&rest, &more, '.', &piece) || ast_base64url_decode(piece, &text, NULL))
            return;
        (void)ast_buf_addf(&token, AST_STR_FMT ".", AST_STR_ARG(piece));
        if (i < 2)
            (void)ast_buf_add_byte(&text, ':');
    }
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];
    char hex[2 * sizeof signature + 1];
    ast_key_sign(&key, ast_buf_view(&text), signature);
    ast_hex_encode(signature, sizeof signature, hex);
    if (!ast_buf_add(&token, ast_str_c(hex)))
        check(ast_buf_view(&token), now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, start);
    if (size < 1)
        return 0;
    uint64_t now = data[0]; /* small: most times lie in its future */
    struct ast_str input = ast_str_n(data + 1, size - 1);
    check(input, now);
    check_signed(input, now);
    struct ast_session_token t;
    if (!ast_session_token_parse(input, &t, NULL)) {
        char hex[2 * AST_SESSION_TOKEN_BYTES + 1];
        ast_hex_encode(t.b, sizeof t.b, hex);
        AST_ASSERT(ast_str_eq_nocase(ast_str_trim(input), ast_str_c(hex)));
    }
    return 0;
}
