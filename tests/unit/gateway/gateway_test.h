/* cmocka with its includes in the order it wants, and the checks this room's tests share. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* needs the ones above */

#include "base/str.h"

#define assert_contains(haystack, needle)                                                          \
    do {                                                                                           \
        const char *h_ = (haystack), *n_ = (needle);                                               \
        if (!h_ || !strstr(h_, n_))                                                                \
            fail_msg("\"%s\" is not in \"%s\"", n_, h_ ? h_ : "(null)");                           \
    } while (0)
#define assert_lacks(haystack, needle)                                                             \
    do {                                                                                           \
        const char *h_ = (haystack), *n_ = (needle);                                               \
        if (!h_ || strstr(h_, n_))                                                                 \
            fail_msg("\"%s\" is in \"%s\"", n_, h_ ? h_ : "(null)");                               \
    } while (0)
#define assert_view(s, lit)                                                                        \
    do {                                                                                           \
        struct ast_str s_ = (s);                                                                   \
        if (!ast_str_is(s_, lit))                                                                  \
            fail_msg("got \"%.*s\", want \"%s\"", (int)s_.n, s_.p ? s_.p : "", lit);               \
    } while (0)
