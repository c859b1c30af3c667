/* Any text is refused as a token, or it is one that, written again, is read the same and signs the same bytes; and any two
 * halves of a text are a pattern and a text that the matcher survives, in bounded time. */
#include <stdint.h>

#include "policy/glob.h"
#include "policy/token.h"

#include "base/banned.h"

static void check_token(struct ast_str text)
{
    AST_AUTO(ast_token_done) struct ast_token t = { .permission_count = 0 };
    AST_AUTO(ast_token_done) struct ast_token again = { .permission_count = 0 };
    AST_AUTO(ast_buf_done) struct ast_buf written = AST_BUF_INIT(8 * AST_TOKEN_MAX_TEXT);
    AST_AUTO(ast_buf_done) struct ast_buf first = AST_BUF_INIT(AST_TOKEN_MAX_TEXT);
    AST_AUTO(ast_buf_done) struct ast_buf second = AST_BUF_INIT(AST_TOKEN_MAX_TEXT);

    if (ast_token_parse(text, &t, NULL))
        return;
    AST_ASSERT(!ast_token_write(&t, &written, NULL));
    if (written.n > AST_TOKEN_MAX_TEXT)
        return; /* escapes made it longer than a token may be */
    AST_ASSERT(!ast_token_parse(ast_buf_view(&written), &again, NULL));
    AST_ASSERT(!ast_token_signed(&t, &first, NULL) && !ast_token_signed(&again, &second, NULL));
    AST_ASSERT(ast_str_eq(ast_buf_view(&first), ast_buf_view(&second)));
    (void)ast_token_validate(&t, NULL, 0, 0, NULL); /* whatever it says */
    if (!ast_token_check_pattern(ast_buf_view(&t.resource), NULL))
        (void)ast_token_grants(&t, text, AST_TOKEN_PERMISSION_read);
}

static void check_exact(struct ast_str text)
{
    AST_AUTO(ast_buf_done) struct ast_buf pattern = AST_BUF_INIT(AST_GLOB_MAX);
    if (ast_token_exact(text, &pattern, NULL))
        return;
    AST_ASSERT(!ast_token_check_pattern(ast_buf_view(&pattern), NULL));
    if (!ast_str_eq(ast_buf_view(&pattern), text) && text.n < 512)
        AST_ASSERT(ast_glob_match(ast_buf_view(&pattern), text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ast_str text = ast_str_n(data, size);
    check_token(text);
    check_exact(text);
    (void)ast_glob_match(ast_str_first(text, size / 2), ast_str_from(text, size / 2));
    return 0;
}
