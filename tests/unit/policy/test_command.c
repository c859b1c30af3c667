/* Which commands an allowance covers: globs, escapes, and everything a shell would make more of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <stdio.h>
#include <stdlib.h>

#include "base/time.h"
#include "policy/command.h"

#include "base/banned.h"

static void check(const char *pattern, const char *command, bool want)
{
    if (ast_command_match(ast_str_c(pattern), ast_str_c(command)) != want)
        fail_msg("'%s' %s '%s'", pattern, want ? "does not cover" : "covers", command);
}

static void c05_41_patterns_cover_whole_commands(void **state)
{
    static const struct {
        const char *pattern, *command;
        bool want;
    } cases[] = {
        { "git push *", "git push origin main", true },
        { "git push *", "git push", true }, /* the text before " *" */
        { "git push *", "git push ", true },
        { "git push *", "git pushed", false },
        { "git push *", "git pull origin", false },
        { "git push *", "xgit push origin", false },
        { "git push", "git push origin", false },
        { "cat *", "cat a/b/c", true }, /* '*' spans slashes */
        { "a*c*e", "abcde", true },
        { "a*c*e", "abcdef", false },
        { "*", "anything at all", true },
        { "**", "", true },
        { "", "", false },
        { "l? x", "ls x", true },
        { "l? x", "l\xc3\xa9 x", true }, /* one character, two bytes */
        { "l? x", "l x", false },
        { "[a-c]x", "bx", true },
        { "[a-c]x", "dx", false },
        { "[!a-c]x", "dx", true },
        { "[!a-c]x", "bx", false },
        { "[]x]", "]", true },
        { "[\xc3\xa0-\xc3\xaf]", "\xc3\xa9", true },
        { "[a", "a", false }, /* not closed */
        { "{git,hg} push", "hg push", true },
        { "{git,hg} push", "svn push", false },
        { "{git,{hg,svn}} push *", "svn push x", true },
        { "*{a,b}c", "xxbc", true },
        { "*{a,b}*{c,d}", "1a2d", true },
        { "{a*,b}c", "aXc", true },
        { "{a", "a", false },
        { "a\\*b", "a*b", true },
        { "a\\*b", "axb", false },
        { "a\\", "a", false },
        { "a\\* *", "a*", true }, /* differs: compared without the escapes */
        { "a\\* *", "a\\*", false },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++)
        check(cases[i].pattern, cases[i].command, cases[i].want);
}

static void c05_42_c09_18_what_a_shell_reads_as_more_is_never_covered(void **state)
{
    static const char *const tails[] = {
        "; rm x",    " ;rm x",       " && rm x",  " & rm x",   " || rm x", " | sh",
        "\nrm x",    "\rrm x",       "\trm",      " $(rm x)",  " `rm x`",  " > /etc/x",
        " < /etc/x", " <(rm x)",     " 2>&1",     " ../x",     " a/../b",  " ..",
        " ../",      " --file=../x", " '../x'",   " \"..\"/x", " .\\./x",  " '.'./x",
        " \\../x",   " a:../b",      " {a,..}/x", "\x01",      "\x7f",     " x\n",
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(tails); i++) {
        char command[64];
        (void)snprintf(command, sizeof command, "git push origin main%s", tails[i]);
        check("git push *", command, false);
        check("*", command, false);
        assert_false(ast_command_is_plain(ast_str_c(command)));
    }
    static const char *const fine[] = {
        "git log a..b", "ls ...", "echo $HOME", "echo 'a b' \"c\"", "cat ./x .hidden",
        "echo a.. ..b", ""
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(fine); i++)
        if (!ast_command_is_plain(ast_str_c(fine[i])))
            fail_msg("'%s' is refused", fine[i]);
}

static void an_action_s_metacharacters_stand_for_themselves(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(256);
    assert_int_equal(ast_command_pattern(AST_STR("a*?[x]{y}\\z"), &out), AST_OK);
    assert_string_equal(out.p, "a\\*\\?\\[x\\]\\{y\\}\\\\z *");
    assert_true(ast_command_match(ast_buf_view(&out), AST_STR("a*?[x]{y}\\z 1 2")));
    assert_true(ast_command_match(ast_buf_view(&out), AST_STR("a*?[x]{y}\\z")));
    assert_false(ast_command_match(ast_buf_view(&out), AST_STR("ab?[x]{y}\\z 1")));
    ast_buf_reset(&out);
    assert_int_equal(ast_command_pattern(AST_STR("*"), &out), AST_OK);
    assert_false(ast_command_match(ast_buf_view(&out), AST_STR("rm x")));
}

/* Patterns that would take for ever match nothing, soon. */
static void hostile_patterns_end(void **state)
{
    AST_AUTO(ast_buf_done) struct ast_buf pattern = AST_BUF_INIT(8192);
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(8192);
    int64_t before = ast_mono_ns();
    for (int i = 0; i < 400; i++)
        ast_buf_add_lit(&pattern, "{a,*}*");
    for (int i = 0; i < 1000; i++)
        ast_buf_add_lit(&text, "a");
    ast_buf_add_lit(&pattern, "b");
    assert_false(ast_command_match(ast_buf_view(&pattern), ast_buf_view(&text)));
    ast_buf_reset(&pattern);
    for (int i = 0; i < 2000; i++)
        ast_buf_add_lit(&pattern, "*?");
    assert_false(ast_command_match(ast_buf_view(&pattern), ast_buf_view(&text)));
    ast_buf_reset(&pattern);
    for (int i = 0; i < 4000; i++)
        ast_buf_add_byte(&pattern, '{');
    assert_false(ast_command_match(ast_buf_view(&pattern), ast_buf_view(&text)));
    ast_buf_reset(&pattern);
    for (unsigned i = 0; i < AST_COMMAND_MAX_PATTERN + 1; i++)
        ast_buf_add_byte(&pattern, '*');
    assert_false(ast_command_match(ast_buf_view(&pattern), ast_buf_view(&text)));
    assert_true(ast_mono_ns() - before < 10 * AST_NS_PER_SEC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c05_41_patterns_cover_whole_commands),
        cmocka_unit_test(c05_42_c09_18_what_a_shell_reads_as_more_is_never_covered),
        cmocka_unit_test(an_action_s_metacharacters_stand_for_themselves),
        cmocka_unit_test(hostile_patterns_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
