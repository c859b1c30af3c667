/* What this room's tests share: cmocka, a private home, files made from text. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/home.h"

static struct ast_home test_home;

__attribute__((unused)) static int home_setup(void **state)
{
    char dir[] = "/tmp/ast-capsule-XXXXXX";
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(ast_home_at(dir, &test_home, NULL), AST_OK);
    assert_int_equal(ast_home_ensure(&test_home, NULL), AST_OK);
    return 0;
}

__attribute__((unused)) static int home_teardown(void **state)
{
    (void)state;
    assert_int_equal(ast_fs_remove_tree(test_home.root, NULL), AST_OK);
    ast_home_done(&test_home);
    return 0;
}

/* A file below the home, with its folders. */
__attribute__((unused)) static void put(const char *name, const void *bytes, size_t n)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(&test_home, "%s", name);
    AST_AUTO(ast_cfree) char *dir = strdup(path);
    *strrchr(dir, '/') = 0;
    assert_int_equal(ast_fs_mkdirs(dir, 0700, NULL), AST_OK);
    assert_int_equal(ast_fs_write_atomic(path, ast_str_n(bytes, n), 0644, 0, NULL), AST_OK);
}
#define put_text(name, text) put((name), (text), strlen(text))

__attribute__((unused)) static void assert_holds(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("got <%s>, want <%s>", text, part);
}

/* The smallest module that the extractor takes: one exported memory. */
static const unsigned char tiny_wasm[] = { 0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, 0x05,
                                           0x03, 0x01, 0x00, 0x01, 0x07, 0x0a, 0x01, 0x06, 'm',
                                           'e',  'm',  'o',  'r',  'y',  0x02, 0x00 };
