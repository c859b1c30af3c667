/* astrid:io/error: what went wrong with a stream, for people (spec 05 §15.1). */
#include <stdlib.h>

#include "host/host_priv.h"

#include "base/banned.h"

/* Owner: the handle table of one instance. */
struct ast_io_error {
    size_t n;
    char text[]; /* UTF-8 */
};

struct ast_io_error *host_io_error_new(struct ast_abi *a, struct ast_str text)
{
    text = host_utf8(a, text);
    struct ast_io_error *e = malloc(sizeof *e + text.n);
    if (!e) {
        ast_abi_trap(a, "out of memory");
        return NULL;
    }
    e->n = text.n;
    if (text.n)
        memcpy(e->text, text.p, text.n);
    return e;
}

void host_io_error_drop(void *obj)
{
    free(obj);
}

void ast_io_error_to_debug_string(struct ast_abi *a, struct ast_io_error *self, struct ast_str *ret)
{
    *ret = ast_arena_dup(ast_abi_arena(a), ast_str_n(self->text, self->n));
}
