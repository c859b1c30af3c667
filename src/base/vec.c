/* Growth of AST_VEC: doubling, with every size computed under an overflow check. */
#include "base/vec.h"

#include <stdint.h>
#include <string.h>

#include "base/banned.h"

bool ast_vec_grow_(void **v, size_t *cap, size_t n, size_t elem)
{
    size_t bytes, want = n < 4 ? 8 : n * 2;
    if (n > SIZE_MAX / 2 || __builtin_mul_overflow(want, elem, &bytes))
        return false;
    /* `v` is really a T **: the bytes are copied, as reading it as a void * would break aliasing. */
    void *old, *grown;
    memcpy(&old, v, sizeof old);
    grown = realloc(old, bytes);
    if (!grown)
        return false;
    memcpy(v, &grown, sizeof grown);
    *cap = want;
    return true;
}
