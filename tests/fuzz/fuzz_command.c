/* Commands and patterns from anywhere: a covered command is always plain, an escaped action covers itself, and patterns without
 * sets and groups mean what a table of all their prefixes says. The input is two lines: the pattern, then the command. */
#include <stdlib.h>

#include "policy/command.h"

#include "base/banned.h"

#define MAX_LINE 96u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The shell's own way to more than one command, byte by byte: what must never be covered. */
static bool has_shell_byte(struct ast_str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (memchr(";|&`<>\n\r", s.p[i], 8))
            return true;
    return ast_str_find(s, AST_STR("$(")) != AST_STR_NPOS ||
           ast_str_find(s, AST_STR("/../")) != AST_STR_NPOS;
}

/* Elements of the pattern: ordinary characters and escapes. */
static bool is_simple(struct ast_str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (memchr("[{}]?", s.p[i], 5))
            return false;
    return true;
}

/* ok[t]: the pattern so far matches the first t bytes. */
static bool reference(struct ast_str pattern, struct ast_str text)
{
    bool ok[MAX_LINE + 1] = { true };

    for (size_t p = 0; p < pattern.n; p++) {
        bool next[MAX_LINE + 1] = { false };
        char c = pattern.p[p];
        if (c == '*') {
            bool any = false;
            for (size_t t = 0; t <= text.n; t++)
                next[t] = any = any || ok[t];
        } else {
            if (c == '\\' && ++p == pattern.n)
                return false;
            for (size_t t = 0; t < text.n; t++)
                next[t + 1] = ok[t] && text.p[t] == pattern.p[p];
        }
        memcpy(ok, next, sizeof ok);
    }
    return ok[text.n];
}

static void check_escaped(struct ast_str action)
{
    AST_AUTO(ast_buf_done) struct ast_buf pattern = AST_BUF_INIT(4 * MAX_LINE);
    AST_AUTO(ast_buf_done) struct ast_buf command = AST_BUF_INIT(4 * MAX_LINE);

    AST_ASSERT(!ast_command_pattern(action, &pattern));
    ast_buf_add(&command, action);
    ast_buf_add_lit(&command, " x");
    AST_ASSERT(ast_command_match(ast_buf_view(&pattern), action) == ast_command_is_plain(action));
    AST_ASSERT(ast_command_match(ast_buf_view(&pattern), ast_buf_view(&command)) ==
               ast_command_is_plain(ast_buf_view(&command)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ast_str rest = ast_str_n(data, size), pattern = AST_STR(""), command;
    bool more = true;

    if (!ast_str_split(&rest, &more, '\n', &pattern))
        return 0;
    pattern = ast_str_first(pattern, MAX_LINE);
    command = ast_str_first(rest, MAX_LINE); /* newlines and all */
    bool matches = ast_command_match(pattern, command), is_plain = ast_command_is_plain(command);
    if (matches)
        AST_ASSERT(is_plain);
    if (has_shell_byte(command))
        AST_ASSERT(!is_plain);
    /* A star takes whole characters; what is not UTF-8 has none. */
    if (pattern.n && is_plain && is_simple(pattern) && ast_str_is_utf8(pattern) &&
        ast_str_is_utf8(command)) {
        bool bare = ast_str_ends(pattern, AST_STR(" *")); /* also the text before it */
        bool want = reference(pattern, command);
        AST_ASSERT(bare ? !want || matches : want == matches);
    }
    check_escaped(command);
    return 0;
}
