/* Randomness of the operating system: the one place of this room that asks for it. */
#include "base/random_priv.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/types.h>

#include "base/error.h"

#include "base/banned.h"

void base_random(void *out, size_t n)
{
    AST_ASSERT(n <= 256); /* up to here one call gives all or nothing */
    ssize_t got;
    do {
        got = getrandom(out, n, 0);
    } while (got < 0 && errno == EINTR);
    AST_ASSERT(got == (ssize_t)n);
}
