/* What the tests of this room share: cmocka, view assertions, a private directory. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* needs the ones above */

#include "base/fs.h"
#include "base/str.h"

#define assert_view(view, text) assert_view_((view), (text), __FILE__, __LINE__)
__attribute__((noinline, unused)) static void assert_view_(struct ast_str view, const char *text,
                                                           const char *file, int line)
{
    if (ast_str_eq(view, ast_str_c(text)))
        return;
    print_error("got  <" AST_STR_FMT ">\nwant <%s>\n", AST_STR_ARG(view), text);
    _fail(file, line);
}

/* A directory of its own, removed again by temp_dir_drop(). */
static inline char *temp_dir_make(void)
{
    char *dir = strdup("/tmp/ast-base-XXXXXX");
    if (!dir || !mkdtemp(dir))
        fail_msg("no temporary directory");
    return dir;
}

static inline void temp_dir_drop(char *dir)
{
    assert_int_equal(ast_fs_remove_tree(dir, NULL), AST_OK);
    free(dir);
}
