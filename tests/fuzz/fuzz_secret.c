/* The files of secrets: any bytes in the file, any scope, capsule and key in the request. A name leads to one place below
 * secrets/ or is refused; a value is what the file holds, or it is refused; what is set is read back.
 *
 * Input: three lines (scope, capsule, key), then the file. */
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "store/secrets.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/ast-fuzz-secret-XXXXXX", around[64];

static void remove_dir(void)
{
    (void)ast_fs_remove_tree(dir, NULL); /* at exit there is nobody to tell */
}

static struct ast_str next_line(struct ast_str *rest)
{
    size_t n = ast_str_find_byte(*rest, '\n');
    struct ast_str line = ast_str_first(*rest, n == AST_STR_NPOS ? rest->n : n);
    *rest = ast_str_from(*rest, AST_MIN(line.n + 1, rest->n));
    return line;
}

static void put_raw(struct ast_str scope, struct ast_str capsule, struct ast_str key,
                    struct ast_str bytes)
{
    AST_AUTO(ast_cfree)
    char *path = ast_fs_joinf(dir, "home/secrets/" AST_STR_FMT "/" AST_STR_FMT "/" AST_STR_FMT,
                              AST_STR_ARG(scope), AST_STR_ARG(capsule), AST_STR_ARG(key));
    /* What was set is a file at that very place, so it can be replaced by anything. */
    AST_ASSERT(path && ast_fs_exists(path));
    AST_ASSERT(!ast_fs_write_atomic(path, bytes, 0600, 0, NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct ast_str value = AST_STR("good value");
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(2u * AST_SECRET_FILE_MAX);
    AST_AUTO(ast_cfree) char *home = NULL;
    struct ast_err err = AST_ERR_INIT;
    struct ast_str rest = ast_str_n(data, size);
    bool found = false, existed = false;
    if (!around[0]) {
        AST_ASSERT(mkdtemp(dir));
        snprintf(around, sizeof around, "%s/secret", dir);
        AST_ASSERT(!ast_fs_write_atomic(around, AST_STR("not to be touched"), 0600, 0, NULL));
        atexit(remove_dir);
    }
    home = ast_fs_join(dir, "home");
    struct ast_str scope = next_line(&rest), capsule = next_line(&rest), key = next_line(&rest);

    if (ast_secrets_set(home, scope, capsule, key, value, &err)) {
        AST_ASSERT(err.msg[0]);
        return 0;
    }
    AST_ASSERT(!ast_secrets_get(home, scope, capsule, key, &out, &found, &err) && found);
    AST_ASSERT(ast_str_eq(ast_buf_view(&out), value));
    put_raw(scope, capsule, key, rest);
    ast_buf_reset(&out);
    found = false;
    if (ast_secrets_get(home, scope, capsule, key, &out, &found, &err))
        AST_ASSERT(rest.n > AST_SECRET_FILE_MAX || !ast_str_is_utf8(rest));
    else
        AST_ASSERT(found && ast_str_eq(ast_buf_view(&out), rest));
    AST_ASSERT(!ast_secrets_delete(home, scope, capsule, key, &existed, &err) && existed);
    ast_buf_reset(&out);
    AST_ASSERT(!ast_fs_read(around, 100, &out, &err) &&
               ast_str_is(ast_buf_view(&out), "not to be touched"));
    return 0;
}
