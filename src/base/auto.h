/* Scoped ownership: a local that releases itself when its block ends.
 *
 * Declare every owned local with AST_AUTO(release) and give it an empty value at birth. Hand it on
 * with ast_steal(), which empties the local in sight of the reader.
 */
#pragma once

#define AST_AUTO(fn) __attribute__((cleanup(fn##_auto)))

#define AST_DEFINE_AUTO(type, fn)                                                                  \
    static inline void fn##_auto(type **p)                                                         \
    {                                                                                              \
        if (*p)                                                                                    \
            fn(*p);                                                                                \
    }

/* For embedded structs: `fn` gets the address and accepts the zeroed state. */
#define AST_DEFINE_AUTO_VALUE(type, fn)                                                            \
    static inline void fn##_auto(type *p)                                                          \
    {                                                                                              \
        fn(p);                                                                                     \
    }

#define ast_steal(pp)                                                                              \
    ({                                                                                             \
        __auto_type pp_ = (pp);                                                                    \
        __auto_type val_ = *pp_;                                                                   \
        *pp_ = NULL;                                                                               \
        val_;                                                                                      \
    })

#define AST_MUST_CHECK        __attribute__((warn_unused_result))
#define AST_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

#define AST_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define AST_ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define AST_MIN(a, b)                                                                              \
    ({                                                                                             \
        __auto_type min_a_ = (a);                                                                  \
        __auto_type min_b_ = (b);                                                                  \
        min_a_ < min_b_ ? min_a_ : min_b_;                                                         \
    })
#define AST_MAX(a, b)                                                                              \
    ({                                                                                             \
        __auto_type max_a_ = (a);                                                                  \
        __auto_type max_b_ = (b);                                                                  \
        max_a_ > max_b_ ? max_a_ : max_b_;                                                         \
    })
