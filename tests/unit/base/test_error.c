#include "base_test.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

#include "base/banned.h"

static void every_code_has_a_name_and_a_text(void **state)
{
    (void)state;
    for (int rc = AST_OK; rc < AST_RC_COUNT; rc++) {
        assert_non_null(ast_rc_name((enum ast_rc)rc));
        assert_true(strlen(ast_rc_text((enum ast_rc)rc)) > 0);
    }
    assert_string_equal(ast_rc_name(AST_E_NOT_FOUND), "NOT_FOUND");
    assert_string_equal(ast_rc_text(AST_E_NOT_FOUND), "not found");
    assert_string_equal(ast_rc_name(AST_RC_COUNT), "UNKNOWN");
    assert_string_equal(ast_rc_text((enum ast_rc) - 1), "unknown error");
}

static void each_layer_puts_its_noun_in_front(void **state)
{
    (void)state;
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_fail(&err, AST_E_INVALID, "line %d: unknown key", 3), AST_E_INVALID);
    assert_int_equal(ast_wrap(&err, AST_E_INVALID, "manifest"), AST_E_INVALID);
    assert_int_equal(ast_wrap(&err, AST_E_CORRUPT, "load '%s'", "x"), AST_E_CORRUPT);
    assert_string_equal(err.msg, "load 'x': manifest: line 3: unknown key");
    assert_int_equal(err.rc, AST_E_CORRUPT);
}

static void nobody_has_to_listen(void **state)
{
    (void)state;
    assert_int_equal(ast_fail(NULL, AST_E_IO, "lost"), AST_E_IO);
    assert_int_equal(ast_wrap(NULL, AST_E_IO, "lost"), AST_E_IO);
    assert_int_equal(ast_fail_errno(NULL, AST_E_IO, EIO, "lost"), AST_E_IO);
}

static void errno_is_told_in_words(void **state)
{
    (void)state;
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_fail_errno(&err, AST_E_NOT_FOUND, ENOENT, "open '%s'", "f"),
                     AST_E_NOT_FOUND);
    assert_string_equal(err.msg, "open 'f': No such file or directory");
}

static void arguments_may_point_into_the_message(void **state)
{
    (void)state;
    struct ast_err err = AST_ERR_INIT;
    ast_fail(&err, AST_E_IO, "inner");
    ast_fail(&err, AST_E_IO, "outer (%s)", err.msg);
    assert_string_equal(err.msg, "outer (inner)");
    ast_wrap(&err, AST_E_IO, "<%s>", err.msg);
    assert_string_equal(err.msg, "<outer (inner)>: outer (inner)");
}

static void a_long_message_is_cut_between_characters(void **state)
{
    (void)state;
    char text[2 * AST_ERR_MSG_BYTES];
    for (size_t shift = 0; shift < 4; shift++) {
        size_t at = shift;
        memset(text, 'a', shift);
        while (at + 3 < sizeof text) {
            memcpy(text + at, "\xe4\xb8\x96", 3);
            at += 3;
        }
        text[at] = 0;
        struct ast_err err = AST_ERR_INIT;
        ast_fail(&err, AST_E_INVALID, "%s", text);
        assert_true(strlen(err.msg) < AST_ERR_MSG_BYTES &&
                    strlen(err.msg) > AST_ERR_MSG_BYTES - 10);
        assert_true(ast_str_ends(ast_str_c(err.msg), AST_STR("...")));
        assert_true(ast_str_is_utf8(ast_str_c(err.msg)));
        ast_wrap(&err, AST_E_INVALID, "noun");
        assert_true(ast_str_starts(ast_str_c(err.msg), AST_STR("noun: ")));
        assert_true(ast_str_ends(ast_str_c(err.msg), AST_STR("...")));
        assert_true(ast_str_is_utf8(ast_str_c(err.msg)));
    }
}

static void system_errors_have_codes(void **state)
{
    static const struct {
        int errnum;
        enum ast_rc rc;
    } rows[] = {
        { 0, AST_OK },
        { ENOENT, AST_E_NOT_FOUND },
        { ENOTDIR, AST_E_NOT_FOUND },
        { EACCES, AST_E_DENIED },
        { EPERM, AST_E_DENIED },
        { EEXIST, AST_E_EXISTS },
        { ENOMEM, AST_E_NO_MEMORY },
        { ENOSPC, AST_E_NO_CAPACITY },
        { EMFILE, AST_E_NO_CAPACITY },
        { ETIMEDOUT, AST_E_TIMEOUT },
        { EPIPE, AST_E_CLOSED },
        { EAGAIN, AST_E_BUSY },
        { EINVAL, AST_E_INVALID },
        { EIO, AST_E_IO },
        { 9999, AST_E_IO },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++)
        assert_int_equal(ast_rc_from_errno(rows[i].errnum), rows[i].rc);
}

/* Runs fn in a child; returns its wait status and what it wrote to standard error. */
static int in_child(void (*fn)(void), char *out, size_t size)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        fn();
        _exit(0);
    }
    close(fds[1]);
    size_t n = 0;
    for (ssize_t got; n + 1 < size && (got = read(fds[0], out + n, size - 1 - n)) > 0;)
        n += (size_t)got;
    out[n] = 0;
    close(fds[0]);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void break_a_promise(void)
{
    int two = 2;
    AST_ASSERT(two == 3);
}

static void a_failed_assert_ends_the_process_and_says_where(void **state)
{
    (void)state;
    char text[1024];
    int status = in_child(break_a_promise, text, sizeof text);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(text, "assertion failed: two == 3"));
    assert_non_null(strstr(text, "test_error.c:"));
}

static bool degrade(int v)
{
    return AST_NEVER(v == 1);
}

static void meet_the_impossible(void)
{
    bool first = degrade(1), second = degrade(1), other = degrade(0);
    _exit(first && second && !other ? 0 : 1);
}

static void the_impossible_is_logged_once_per_place(void **state)
{
    (void)state;
    char text[1024];
    int status = in_child(meet_the_impossible, text, sizeof text);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    const char *first = strstr(text, "impossible condition held: v == 1");
    assert_non_null(first);
    assert_null(strstr(first + 1, "impossible condition held"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_a_name_and_a_text),
        cmocka_unit_test(each_layer_puts_its_noun_in_front),
        cmocka_unit_test(nobody_has_to_listen),
        cmocka_unit_test(errno_is_told_in_words),
        cmocka_unit_test(arguments_may_point_into_the_message),
        cmocka_unit_test(a_long_message_is_cut_between_characters),
        cmocka_unit_test(system_errors_have_codes),
        cmocka_unit_test(a_failed_assert_ends_the_process_and_says_where),
        cmocka_unit_test(the_impossible_is_logged_once_per_place),
    };
    return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
