/* run/system.token from anywhere: refused with a text that shows none of it, or 64 hex digits between blanks. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/fs.h"
#include "crypto/token.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/ast-fuzz-token-XXXXXX", path[64];

static void remove_dir(void)
{
    (void)ast_fs_remove_tree(dir, NULL); /* at exit there is nobody to tell */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ast_session_token token, parsed;
    struct ast_err err = AST_ERR_INIT, why = AST_ERR_INIT;
    struct ast_str text = ast_str_n(data, size);
    char hex[2 * AST_SESSION_TOKEN_BYTES + 1];
    if (!path[0]) {
        AST_ASSERT(mkdtemp(dir));
        snprintf(path, sizeof path, "%s/system.token", dir);
        atexit(remove_dir);
    }
    AST_ASSERT(!ast_fs_write_atomic(path, text, 0600, 0, NULL));
    enum ast_rc rc = ast_session_token_load(path, &token, &err);
    enum ast_rc plain = ast_session_token_parse(text, &parsed, &why);
    if (rc) {
        AST_ASSERT(plain && err.rc == rc && err.msg[0] && why.msg[0]);
        return 0;
    }
    ast_hex_encode(token.b, sizeof token.b, hex);
    while (text.n && isspace((unsigned char)text.p[0]))
        text = ast_str_from(text, 1);
    AST_ASSERT(text.n >= sizeof hex - 1);
    for (size_t i = 0; i < sizeof hex - 1; i++)
        AST_ASSERT(tolower((unsigned char)text.p[i]) == hex[i]);
    if (!plain)
        AST_ASSERT(ast_session_token_equal(&token, &parsed));
    return 0;
}
